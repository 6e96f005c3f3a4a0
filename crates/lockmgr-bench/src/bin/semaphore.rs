//! The semaphore's hand-off: how long it takes from one process's release, or its death by SIGKILL, to
//! another's return from its wait; beside the same with one raw `flock`.
//!
//! The holder releases only when the waiter sleeps, and both read the same clock.
#![expect(clippy::disallowed_methods, reason = "the raw calls are what lockmgr is compared with")]

use std::env;
use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use lockmgr::{Semaphore, SemaphoreGuard};
use lockmgr_bench::{RAW, Turns, await_sleeper, block_on, median, nanoseconds, now, open_plain};
use lockmgr_bench::{print_head, print_row, ratio, time};
use rustix::fs::{FlockOperation, flock};

/// Long enough never to end a wait here.
const TIMEOUT: Duration = Duration::from_mins(1);

/// So many slots in all rows; all but one are held throughout.
const SLOTS: u32 = 4;

/// How the waiter waits. The order is the one of the tables; the first is the baseline.
const ROWS: [(&str, Waiter); 4] = [
    (RAW, Waiter::Raw),
    ("lockmgr, `acquire().wait()`", Waiter::Blocking),
    ("lockmgr, `acquire_timeout()`", Waiter::Timeout),
    ("lockmgr, async with a timeout", Waiter::Async),
];

#[derive(Clone, Copy)]
enum Waiter {
    /// Of one `flock`.
    Raw,
    Blocking,
    Timeout,
    Async,
}

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 400)]
    rounds: u32,
    /// How many milliseconds the holder goes on once the waiter sleeps
    #[arg(long, default_value_t = 5.0)]
    hold: f64,
    /// A few rounds, to see that it runs
    #[arg(long)]
    quick: bool,
    /// Be another process on the lock files in this folder
    #[arg(long, hide = true, requires = "folder")]
    role: Option<Role>,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Wait,
    Hold,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match (args.role, args.folder) {
        (Some(Role::Wait), Some(folder)) => wait_in_turns(&Stage::open(&folder)?),
        (Some(Role::Hold), Some(folder)) => hold_in_turns(&Stage::open(&folder)?),
        _ => {
            let rounds = if args.quick { 20 } else { args.rounds };
            measure(rounds, Duration::from_secs_f64(args.hold / 1000.0))
        }
    }
}

fn measure(rounds: u32, hold: Duration) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let stage = Stage::open(dir.path())?;
    let _others = stage.semaphore.try_acquire_many(SLOTS - 1)?;
    let mut waiter = Player::start(Role::Wait, dir.path())?;

    for killed in [false, true] {
        let mut samples = vec![Vec::new(); ROWS.len()];
        let mut turns = Turns::of(ROWS.len());
        // A process each time takes its time.
        let rounds = if killed { rounds.div_ceil(4) } else { rounds };
        for _ in 0..rounds {
            for row in turns.next_round() {
                let took = if killed {
                    waiter.after_kill(row, &stage, hold)?
                } else {
                    waiter.after_release(row, &stage, hold)?
                };
                samples[row].push(nanoseconds(took));
            }
        }
        let title = if killed {
            "A killed holder's slot: from the SIGKILL to the waiter's return"
        } else {
            "Hand-off of a semaphore's slot: from the release to the waiter's return"
        };
        print_head(title, &["waiter", "median", "slowest", "against raw"]);
        let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
        for (row, (name, _)) in ROWS.iter().enumerate() {
            // Sorted by now.
            let slowest = samples[row].last().copied().context("there are rounds")?;
            let against = ratio(medians[row], medians[0]);
            print_row([*name, &time(medians[row]), &time(slowest), &against]);
        }
        writeln!(stdout())?;
    }
    Ok(())
}

/// The lock files, as every process has them open.
struct Stage {
    file: File,
    semaphore: Semaphore,
}

impl Stage {
    fn open(folder: &Path) -> Result<Self> {
        let file = open_plain(&folder.join("raw.lock"))?;
        let semaphore = Semaphore::open(folder.join("semaphore.lock"), SLOTS)?;
        Ok(Self { file, semaphore })
    }

    /// Waits until the one who waits sleeps.
    fn await_waiter(&self, row: usize, hold: Duration) -> Result<()> {
        match ROWS[row].1 {
            Waiter::Raw => await_sleeper(&self.file)?,
            Waiter::Blocking | Waiter::Timeout | Waiter::Async => self.await_head()?,
        }
        thread::sleep(hold);
        Ok(())
    }

    /// Waits until somebody is the head of the semaphore's queue.
    fn await_head(&self) -> Result<()> {
        let inode = std::fs::metadata(self.semaphore.path())?.ino();
        let line = format!(":{inode} {} ", (1_u64 << 62) + 1);
        let bound = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string("/proc/locks")?.contains(&line) {
            ensure!(Instant::now() < bound, "nobody waits for the semaphore");
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    fn hold(&self, row: usize) -> Result<Option<SemaphoreGuard>> {
        if let Waiter::Raw = ROWS[row].1 {
            flock(&self.file, FlockOperation::LockExclusive)?;
            return Ok(None);
        }
        Ok(Some(self.semaphore.acquire().wait()?))
    }
}

/// Another process, from the referee's side. It ends when its standard input does.
struct Player {
    process: Child,
    folder: PathBuf,
    orders: ChildStdin,
    answers: ChildStdout,
}

impl Player {
    fn start(role: Role, folder: &Path) -> Result<Self> {
        let role = role.to_possible_value().context("every role has a name")?;
        let mut process = Command::new(env::current_exe()?)
            .args(["--role", role.get_name(), "--folder"])
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().context("stdin is piped")?;
        let answers = process.stdout.take().context("stdout is piped")?;
        Ok(Self { process, folder: folder.to_owned(), orders, answers })
    }

    fn tell(&mut self, row: usize) -> Result<()> {
        Ok(self.orders.write_all(&[u8::try_from(row)?])?)
    }

    fn answer(&mut self) -> Result<Duration> {
        let mut answer = [0; 8];
        self.answers.read_exact(&mut answer).context("the other process has failed")?;
        Ok(Duration::from_nanos(u64::from_ne_bytes(answer)))
    }

    fn after_release(&mut self, row: usize, stage: &Stage, hold: Duration) -> Result<Duration> {
        let guard = stage.hold(row)?;
        self.tell(row)?;
        stage.await_waiter(row, hold)?;
        let released = now();
        match guard {
            None => flock(&stage.file, FlockOperation::Unlock)?,
            Some(guard) => drop(guard),
        }
        Ok(self.answer()?.saturating_sub(released))
    }

    fn after_kill(&mut self, row: usize, stage: &Stage, hold: Duration) -> Result<Duration> {
        let mut holder = Player::start(Role::Hold, &self.folder)?;
        holder.tell(row)?;
        holder.answer()?;
        self.tell(row)?;
        stage.await_waiter(row, hold)?;
        let killed = now();
        holder.process.kill()?;
        Ok(self.answer()?.saturating_sub(killed))
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The waiter: reads the number of a row, waits its way, and says when the wait was over.
fn wait_in_turns(stage: &Stage) -> Result<()> {
    let mut order = [0];
    while stdin().read_exact(&mut order).is_ok() {
        let acquire = stage.semaphore.acquire();
        let guard = match ROWS[usize::from(order[0])].1 {
            Waiter::Raw => {
                flock(&stage.file, FlockOperation::LockExclusive)?;
                None
            }
            Waiter::Blocking => Some(acquire.wait()?),
            Waiter::Timeout => Some(acquire.timeout(TIMEOUT).wait()?),
            Waiter::Async => Some(block_on(acquire.timeout(TIMEOUT).into_future())?),
        };
        let returned = now();
        match guard {
            None => flock(&stage.file, FlockOperation::Unlock)?,
            Some(guard) => guard.release()?,
        }
        say(returned)?;
    }
    Ok(())
}

/// The holder: reads the number of a row, takes its lock, and holds it until it is killed.
fn hold_in_turns(stage: &Stage) -> Result<()> {
    let mut order = [0];
    while stdin().read_exact(&mut order).is_ok() {
        let guard = stage.hold(usize::from(order[0]))?;
        say(now())?;
        // The end of the input comes only when the referee has gone.
        stdin().read_to_end(&mut Vec::new())?;
        drop(guard);
    }
    Ok(())
}

fn say(moment: Duration) -> Result<()> {
    stdout().write_all(&u64::try_from(moment.as_nanos())?.to_ne_bytes())?;
    Ok(stdout().flush()?)
}
