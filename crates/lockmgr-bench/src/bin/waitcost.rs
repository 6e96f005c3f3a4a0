//! What a wait costs while nothing happens: processor time and context switches of a process that waits.
//!
//! Each row is a process of its own that measures itself from before its wait until after it. They all
//! wait at the same time, each for a lock of its own, and the medians of a few such waits are reported.
#![expect(clippy::disallowed_methods, reason = "the raw calls are what lockmgr is compared with")]

use std::env;
use std::fs::File;
use std::io::{Read as _, Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use lockmgr::FileLock;
use lockmgr_bench::{RAW, block_on, median, nanoseconds, open_plain, print_head, print_row, time};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};

/// Long enough never to end a wait here.
const TIMEOUT: Duration = Duration::from_mins(10);
const REPEATS: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Waiter {
    Raw,
    Lockmgr,
    /// Its time runs out; looking up who holds the lock, for the message, is in the price.
    LockmgrTimedOut,
    LockmgrAsync,
    /// Polls, in steps that grow up to 50 ms.
    Filelock,
}

impl Waiter {
    fn label(self) -> &'static str {
        match self {
            Self::Raw => RAW,
            Self::Lockmgr => "lockmgr, `lock_timeout()`",
            Self::LockmgrTimedOut => "lockmgr, `lock_timeout()` that times out",
            Self::LockmgrAsync => "lockmgr, async with a timeout",
            Self::Filelock => "`filelock` (the crate), `lock_timeout()`",
        }
    }
}

#[derive(Parser)]
struct Args {
    /// How long each wait lasts
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Be a waiting process
    #[arg(long, hide = true, requires = "lock")]
    wait_like: Option<Waiter>,
    #[arg(hide = true)]
    lock: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let wait = Duration::from_secs(args.seconds.into());
    if let (Some(waiter), Some(lock)) = (args.wait_like, &args.lock) {
        return report_own_wait(waiter, lock, wait);
    }

    let waiters = Waiter::value_variants();
    let mut costs = vec![[const { Vec::new() }; 3]; waiters.len()];
    for _ in 0..REPEATS {
        for (costs, cost) in costs.iter_mut().zip(wait_side_by_side(waiters, wait)?) {
            for (samples, sample) in costs.iter_mut().zip(cost) {
                samples.push(sample);
            }
        }
    }

    print_head(
        &format!("What a wait of {} s costs the waiting process", args.seconds),
        &["waiter", "processor time", "went to sleep", "was preempted"],
    );
    for (waiter, costs) in waiters.iter().zip(&mut costs) {
        let [processor_time, voluntary, involuntary] =
            costs.each_mut().map(|samples| median(samples));
        print_row([
            waiter.label(),
            &time(processor_time),
            &voluntary.to_string(),
            &involuntary.to_string(),
        ]);
    }
    Ok(())
}

/// Starts all waiters at once, lets them wait, releases, and returns what each says its wait has cost.
fn wait_side_by_side(waiters: &[Waiter], wait: Duration) -> Result<Vec<[f64; 3]>> {
    let dir = tempfile::tempdir()?;
    let mut waiting = Vec::new();
    for (number, waiter) in waiters.iter().enumerate() {
        let path = dir.path().join(format!("{number}.lock"));
        let held = open_plain(&path)?;
        flock(&held, FlockOperation::LockExclusive)?;
        waiting.push((*waiter, held, start(*waiter, &path, wait)?));
    }
    thread::sleep(wait);
    waiting.into_iter().map(|(waiter, held, child)| finish(waiter, &held, child)).collect()
}

fn start(waiter: Waiter, path: &Path, wait: Duration) -> Result<Child> {
    let name = waiter.to_possible_value().context("every waiter has a name")?;
    Command::new(env::current_exe()?)
        .args(["--wait-like", name.get_name(), "--seconds", &wait.as_secs().to_string()])
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a waiting process")
}

fn finish(waiter: Waiter, held: &File, mut child: Child) -> Result<[f64; 3]> {
    if waiter != Waiter::LockmgrTimedOut {
        flock(held, FlockOperation::Unlock)?;
    }
    let mut said = String::new();
    child.stdout.take().context("stdout is piped")?.read_to_string(&mut said)?;
    ensure!(child.wait()?.success(), "the waiting process `{}` has failed", waiter.label());
    let numbers: Vec<f64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    numbers.try_into().ok().context("a waiting process says three numbers")
}

/// A waiting process: waits once and says what that has cost all its threads together.
fn report_own_wait(waiter: Waiter, path: &Path, wait: Duration) -> Result<()> {
    let file = open_plain(path)?;
    let lock = FileLock::open(path)?;
    let mut filelock = filelock::FileLock::new(path)?;

    let before = cost_so_far()?;
    match waiter {
        Waiter::Raw => flock(&file, FlockOperation::LockExclusive)?,
        Waiter::Lockmgr => lock.lock_timeout(TIMEOUT)?.unlock()?,
        Waiter::LockmgrTimedOut => {
            let outcome = lock.lock_timeout(wait);
            ensure!(outcome.is_err_and(|error| error.is_contended()), "the wait did not time out");
        }
        Waiter::LockmgrAsync => {
            block_on(lock.acquire().timeout(TIMEOUT).into_future())?.unlock()?;
        }
        Waiter::Filelock => {
            filelock.lock_timeout(TIMEOUT)?.context("the wait timed out")?.unlock()?;
        }
    }
    let after = cost_so_far()?;

    let cost: Vec<String> =
        after.iter().zip(before).map(|(after, before)| (after - before).to_string()).collect();
    writeln!(stdout(), "{}", cost.join(" "))?;
    Ok(())
}

/// Returns this process's processor time in nanoseconds and its voluntary and involuntary context
/// switches, threads that have ended included.
fn cost_so_far() -> Result<[f64; 3]> {
    let processor_time = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime))?;
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let count = |switches| Ok::<_, anyhow::Error>(f64::from(u32::try_from(switches)?));
    Ok([
        nanoseconds(processor_time),
        count(usage.voluntary_context_switches())?,
        count(usage.involuntary_context_switches())?,
    ])
}
