//! Hand-off: how long it takes from one process's release to another's return from its wait.
//!
//! The holder releases only when the waiter sleeps in the kernel, and both read the same clock. All rows
//! but the last have the same raw release, so that they differ in the waiter alone. Any lock held by the
//! waiter is released before the next round begins.
#![expect(clippy::disallowed_methods, reason = "the raw calls are what lockmgr is compared with")]

use std::env;
use std::fs::File;
use std::io::{Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use lockmgr::FileLock;
use lockmgr_bench::{
    RAW, RAW_AND_STAT, Turns, await_sleeper, block_on, median, nanoseconds, now, open_plain,
};
use lockmgr_bench::{print_head, print_row, ratio, time};
use rustix::fs::{AtFlags, CWD, FlockOperation, flock, fstat, statat};

/// Long enough never to end a wait here.
const TIMEOUT: Duration = Duration::from_mins(1);

/// How the holder releases and how the waiter waits. The order is the one of the table; the first is the
/// baseline.
const ROWS: [(&str, Holder, Waiter); 10] = [
    (RAW, Holder::Raw, Waiter::Raw),
    (RAW_AND_STAT, Holder::Raw, Waiter::RawAndStat),
    ("raw system calls and one `fstat`", Holder::Raw, Waiter::RawAndFstat),
    ("`call_until` around the raw call, and one `fstat`", Holder::Raw, Waiter::CallUntil),
    ("`std::fs::File::lock`", Holder::Raw, Waiter::Std),
    ("lockmgr, `lock()`", Holder::Raw, Waiter::Lockmgr),
    ("lockmgr, `lock_timeout()`", Holder::Raw, Waiter::LockmgrTimeout),
    ("raw system call in a thread that wakes another", Holder::Raw, Waiter::RawInThread),
    ("lockmgr, async with a timeout", Holder::Raw, Waiter::LockmgrAsync),
    ("lockmgr at both ends, `lock_timeout()`", Holder::Lockmgr, Waiter::LockmgrTimeout),
];

#[derive(Clone, Copy)]
enum Holder {
    Raw,
    Lockmgr,
}

#[derive(Clone, Copy)]
enum Waiter {
    Raw,
    RawAndStat,
    /// The least that a look at the file takes, in one system call.
    RawAndFstat,
    /// With a deadline besides, which has to be taken back.
    CallUntil,
    Std,
    Lockmgr,
    LockmgrTimeout,
    RawInThread,
    LockmgrAsync,
}

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 400)]
    rounds: u32,
    /// How many milliseconds the holder goes on once the waiter sleeps. After some, the waiter's core
    /// has gone to sleep as well: waking up from that is the larger part of a hand-off then, and every
    /// step after it runs on cold caches.
    #[arg(long, default_value_t = 5.0)]
    hold: f64,
    /// Be the waiting process on this lock file
    #[arg(long, hide = true)]
    wait_on: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.wait_on {
        Some(path) => wait_in_turns(&path),
        None => measure(args.rounds, Duration::from_secs_f64(args.hold / 1000.0)),
    }
}

fn measure(rounds: u32, hold: Duration) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("handoff.lock");
    let file = open_plain(&path)?;
    let lock = FileLock::open(&path)?;
    let mut waiter = WaitingProcess::start(&path, hold)?;

    let mut samples = vec![Vec::new(); ROWS.len()];
    let mut turns = Turns::of(ROWS.len());
    for _ in 0..rounds {
        for row in turns.next_round() {
            let handed_off = match ROWS[row].1 {
                Holder::Raw => {
                    flock(&file, FlockOperation::LockExclusive)?;
                    waiter.hand_over(row, &file, || Ok(flock(&file, FlockOperation::Unlock)?))?
                }
                Holder::Lockmgr => {
                    let guard = lock.lock()?;
                    waiter.hand_over(row, &file, || Ok(guard.unlock()?))?
                }
            };
            samples[row].push(nanoseconds(handed_off));
        }
    }

    print_head(
        "Hand-off to a waiting process: from the release to the waiter's return",
        &["waiter", "median", "against raw"],
    );
    let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    for ((name, ..), median) in ROWS.iter().zip(&medians) {
        print_row([*name, &time(*median), &ratio(*median, medians[0])]);
    }
    Ok(())
}

/// The other process, from the holder's side. It ends when its standard input does.
struct WaitingProcess {
    process: Child,
    hold: Duration,
    orders: ChildStdin,
    times: ChildStdout,
}

impl WaitingProcess {
    fn start(path: &Path, hold: Duration) -> Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .arg("--wait-on")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().context("stdin is piped")?;
        let times = process.stdout.take().context("stdout is piped")?;
        Ok(Self { process, hold, orders, times })
    }

    /// Lets the other process wait for the lock that is held here on `file`, releases it, and returns the
    /// time from there to the end of the wait.
    fn hand_over(
        &mut self,
        row: usize,
        file: &File,
        release: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        self.orders.write_all(&[u8::try_from(row)?])?;
        await_sleeper(file)?;
        thread::sleep(self.hold);

        let released = now();
        release()?;
        let mut returned = [0; 8];
        self.times.read_exact(&mut returned).context("the waiting process has failed")?;
        Ok(Duration::from_nanos(u64::from_ne_bytes(returned)).saturating_sub(released))
    }
}

impl Drop for WaitingProcess {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The other process: reads the number of a row, waits its way, and says when the wait was over.
fn wait_in_turns(path: &Path) -> Result<()> {
    let file = open_plain(path)?;
    let lock = FileLock::open(path)?;
    let mut order = [0];
    while stdin().read_exact(&mut order).is_ok() {
        let returned = match ROWS[usize::from(order[0])].2 {
            Waiter::Raw => {
                flock(&file, FlockOperation::LockExclusive)?;
                let returned = now();
                flock(&file, FlockOperation::Unlock)?;
                returned
            }
            Waiter::RawAndStat => {
                flock(&file, FlockOperation::LockExclusive)?;
                statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
                let returned = now();
                flock(&file, FlockOperation::Unlock)?;
                returned
            }
            Waiter::RawAndFstat => {
                flock(&file, FlockOperation::LockExclusive)?;
                fstat(&file)?;
                let returned = now();
                flock(&file, FlockOperation::Unlock)?;
                returned
            }
            Waiter::CallUntil => {
                let deadline = Instant::now() + TIMEOUT;
                let lock = || Ok(flock(&file, FlockOperation::LockExclusive)?);
                lockmgr::call_until(Some(deadline), lock)?.context("the deadline is far away")?;
                fstat(&file)?;
                let returned = now();
                flock(&file, FlockOperation::Unlock)?;
                returned
            }
            Waiter::Std => {
                file.lock()?;
                let returned = now();
                file.unlock()?;
                returned
            }
            Waiter::Lockmgr => {
                let guard = lock.lock()?;
                let returned = now();
                guard.unlock()?;
                returned
            }
            Waiter::LockmgrTimeout => {
                let guard = lock.lock_timeout(TIMEOUT)?;
                let returned = now();
                guard.unlock()?;
                returned
            }
            Waiter::RawInThread => {
                let waiting = thread::current();
                thread::scope(|scope| {
                    let thread = scope.spawn(|| {
                        let result = flock(&file, FlockOperation::LockExclusive);
                        waiting.unpark();
                        result
                    });
                    thread::park();
                    let returned = now();
                    thread.join().expect("the call does not panic")?;
                    flock(&file, FlockOperation::Unlock)?;
                    anyhow::Ok(returned)
                })?
            }
            Waiter::LockmgrAsync => {
                let guard = block_on(lock.acquire().timeout(TIMEOUT).into_future())?;
                let returned = now();
                guard.unlock()?;
                returned
            }
        };
        let returned = u64::try_from(returned.as_nanos())?;
        stdout().write_all(&returned.to_ne_bytes())?;
        stdout().flush()?;
    }
    Ok(())
}
