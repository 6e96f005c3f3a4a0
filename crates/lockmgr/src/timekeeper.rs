//! Wakes tasks that queue inside the process when their deadline has come.
//!
//! A thread that queues sleeps on a condition variable with a timeout; a task has no clock of its
//! own, and no runtime may be assumed. One thread serves all of them. It runs only while there is a
//! deadline to keep, and ends with the last. A second one of the same kind looks for deadlocks, which
//! takes longer than a deadline may wait.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use crate::cancel::Interrupt;
use crate::contain::contain;
use crate::sys::fork::{FIRST_GENERATION, PerProcess};
use crate::sys::signal::AllBlocked;

static TIMEKEEPER: PerProcess<Timekeeper> = PerProcess::new(FIRST_GENERATION, Timekeeper::new());

/// For what takes its time.
static LOOKS: PerProcess<Timekeeper> = PerProcess::new(FIRST_GENERATION, Timekeeper::new());

/// When, and a number that tells apart what is due at the same time.
type Key = (Instant, u64);

struct Timekeeper {
    schedule: Mutex<Schedule>,
    changed: Condvar,
}

struct Schedule {
    due: BTreeMap<Key, Arc<dyn Interrupt>>,
    next: u64,
    running: bool,
}

impl Timekeeper {
    const fn new() -> Self {
        let schedule = Schedule { due: BTreeMap::new(), next: 0, running: false };
        Self { schedule: Mutex::new(schedule), changed: Condvar::new() }
    }

    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self) {
        let mut schedule = self.schedule();
        while let Some(entry) = schedule.due.first_entry() {
            let now = Instant::now();
            let (due, _) = *entry.key();
            if due <= now {
                let waiter = entry.remove();
                drop(schedule);
                // It may be the last to have the waiter, and drop the waker of a task with it.
                contain(move || waiter.interrupt());
                schedule = self.schedule();
            } else {
                schedule = self
                    .changed
                    .wait_timeout(schedule, due - now)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        schedule.running = false;
    }
}

impl Default for Timekeeper {
    fn default() -> Self {
        Self::new()
    }
}

/// Taken back when dropped.
pub(crate) struct Reminder {
    timekeeper: &'static Timekeeper,
    key: Key,
}

/// Interrupts the waiter once the deadline has come.
pub(crate) fn remind(deadline: Instant, waiter: Arc<dyn Interrupt>) -> io::Result<Reminder> {
    remind_by(TIMEKEEPER.get(), "lockmgr-time", deadline, waiter)
}

/// Has a look taken, by a thread that has no deadlines to keep.
pub(crate) fn look_at(time: Instant, looker: Arc<dyn Interrupt>) -> io::Result<Reminder> {
    remind_by(LOOKS.get(), "lockmgr-look", time, looker)
}

fn remind_by(
    timekeeper: &'static Timekeeper,
    name: &str,
    deadline: Instant,
    waiter: Arc<dyn Interrupt>,
) -> io::Result<Reminder> {
    let mut schedule = timekeeper.schedule();
    let key = (deadline, schedule.next);
    schedule.next += 1;
    if !schedule.running {
        let quiet = AllBlocked::new();
        thread::Builder::new()
            .name(name.into())
            .stack_size(256 * 1024)
            .spawn(|| timekeeper.run())?;
        drop(quiet);
        schedule.running = true;
    }
    schedule.due.insert(key, waiter);
    drop(schedule);
    timekeeper.changed.notify_one();
    Ok(Reminder { timekeeper, key })
}

impl Drop for Reminder {
    fn drop(&mut self) {
        let removed = self.timekeeper.schedule().due.remove(&self.key);
        self.timekeeper.changed.notify_one();
        drop(removed);
    }
}
