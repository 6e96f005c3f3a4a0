//! Who watches a lock file, and what becomes of the inotify instance afterwards.
//!
//! An instance is made in microseconds, but closing it may take the kernel ten milliseconds, and must
//! not stand between a waiter and its slot. So after a wait the instance is left to a thread, which
//! closes it when the process has not needed it again for [`KEPT`]. The thread is there as long as an
//! instance is. It is started before the wait, and looks around by itself for the first seconds, so
//! that after a wait that was not long nothing has to be done, not even waking it up. The price is that
//! the instance may be kept as long again as the wait was, for up to two seconds.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::description::Description;
use crate::place::Place;
use crate::sys::fork::{FIRST_GENERATION, PerProcess};
use crate::sys::signal::AllBlocked;
use crate::sys::watch::{self, Seen, Watch};

/// How long an instance is kept after its last use, at least.
const KEPT: Duration = Duration::from_millis(100);

/// How long the thread looks around by itself while all instances are in use: after pauses from
/// [`KEPT`] to this, each twice as long as the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

static POOL: PerProcess<Pool> = PerProcess::new(FIRST_GENERATION, Pool::new());

struct Pool {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Instances that nobody uses, and until when they are kept.
    idle: Vec<(Watch, Instant)>,
    in_use: usize,
    running: bool,
    /// The thread has nothing to wake up for by itself.
    at_rest: bool,
}

impl Pool {
    const fn new() -> Self {
        let state = State { idle: Vec::new(), in_use: 0, running: false, at_rest: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an instance that is idle, or makes one.
    fn take(&'static self) -> Result<Watch, Errno> {
        let mut state = self.state();
        let watch = match state.idle.pop() {
            Some((watch, _)) => watch,
            None => Watch::new()?,
        };
        state.in_use += 1;
        if !state.running {
            let quiet = AllBlocked::new();
            // Without the thread, the instance is closed on the spot.
            state.running = thread::Builder::new()
                .name("lockmgr-watch".into())
                .stack_size(64 * 1024)
                .spawn(|| self.run())
                .is_ok();
            drop(quiet);
        }
        Ok(watch)
    }

    fn put_back(&self, watch: Watch) {
        let mut state = self.state();
        state.in_use -= 1;
        if !state.running {
            drop(state);
            drop(watch);
            return;
        }
        state.idle.push((watch, Instant::now() + KEPT));
        if mem::take(&mut state.at_rest) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The thread.
    fn run(&self) {
        let mut state = self.state();
        let mut pause = KEPT;
        loop {
            let now = Instant::now();
            let next = state.idle.iter().map(|(_, until)| *until).min();
            state = match next {
                Some(until) if until <= now => {
                    pause = KEPT;
                    let (over, kept) = mem::take(&mut state.idle)
                        .into_iter()
                        .partition(|(_, until)| *until <= now);
                    state.idle = kept;
                    drop(state);
                    let over: Vec<_> = over;
                    drop(over);
                    self.state()
                }
                Some(until) => {
                    self.changed
                        .wait_timeout(state, until - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None if state.in_use > 0 && pause < LONGEST_PAUSE => {
                    let slept = self.changed.wait_timeout(state, pause);
                    pause *= 2;
                    slept.unwrap_or_else(PoisonError::into_inner).0
                }
                None if state.in_use > 0 => {
                    state.at_rest = true;
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                None => {
                    state.running = false;
                    return;
                }
            };
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

/// Watches one lock file until it is dropped.
pub(super) struct Watcher {
    pool: &'static Pool,
    /// Taken only by `drop`.
    watch: Option<Watch>,
}

impl Watcher {
    /// `None` where the kernel gives no instance, or no watch: there are limits on both.
    pub(super) fn on(description: &Description, place: &Place) -> Option<Self> {
        let pool = POOL.get();
        let mut watcher = Self { pool, watch: Some(pool.take().ok()?) };
        watcher.watch.as_mut()?.follow(description.file(), place.path()).ok()?;
        Some(watcher)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            self.pool.put_back(watch);
        }
    }
}

/// Sleeps until the file has something to tell, for at most so long; returns whether it has.
pub(super) fn sleep(watcher: Option<&Watcher>, time: Duration) -> Result<bool, Errno> {
    watch::sleep(watcher.and_then(|watcher| watcher.watch.as_ref()), time)
}

impl Watcher {
    /// What the file has told.
    pub(super) fn take(&self) -> Seen {
        self.watch.as_ref().map(Watch::take).unwrap_or_default()
    }
}
