//! One who asks for slots, on an open file description of its own; the protocol is in the module
//! above.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::description::{Description, OpenFailure, TRIES, sleep_out_lease};
use crate::error::{Error, Result};
use crate::inspect::Contention;
use crate::keeper;
use crate::mode::{Mechanism, Mode, Range};
use crate::semaphore::guard::SemaphoreGuard;
use crate::semaphore::handle::{Handle, Slots, tell_of_slots};
use crate::semaphore::slots::{self, Taken};
use crate::semaphore::watcher::{self, Watcher};
use crate::sys::file::{self, Access};
use crate::sys::fork;
use crate::sys::lock::{self, Owner, Patience};
use crate::wait::{self, Limits, Stop};

/// The first pause between two looks; each is twice as long as the one before.
pub(super) const FIRST_PAUSE: Duration = Duration::from_micros(50);

/// The longest pause where there is no watch, or the watch does not see everything.
pub(super) const RECHECK: Duration = Duration::from_millis(25);

/// Where the kernel cannot be asked to wait for the end of a lease.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What came of asking without waiting.
pub(super) enum Attempt {
    Granted,
    /// Somebody is before us in the queue.
    Queue,
    /// Too few slots are free. Who asked by way of the queue is its head now.
    TooFew,
    /// Somebody has a lease on the file, which cannot even be opened now.
    Lease(Access),
}

pub(super) struct Party {
    handle: Arc<Handle>,
    generation: u32,
    count: u32,
    operation: &'static str,
    description: Option<Description>,
    /// The file could not be opened at the last attempt, because of a lease.
    leased: bool,
    /// The queue is locked on the description.
    head: bool,
    /// Locked on the description, too.
    slots: Vec<u32>,
}

impl Party {
    pub(super) fn new(handle: &Arc<Handle>, count: u32, operation: &'static str) -> Self {
        Self {
            handle: Arc::clone(handle),
            generation: fork::generation(),
            count,
            operation,
            description: None,
            leased: false,
            head: false,
            slots: Vec::new(),
        }
    }

    /// Asks once, by way of the queue or past it.
    pub(super) fn attempt(&mut self, by_queue: bool) -> Result<Attempt> {
        for _ in 0..TRIES {
            let description = match &mut self.description {
                Some(description) => description,
                none => match self.handle.open() {
                    Ok(description) => {
                        self.leased = false;
                        none.insert(description)
                    }
                    Err(OpenFailure::Lease(access)) => {
                        self.leased = true;
                        return Ok(Attempt::Lease(access));
                    }
                    Err(OpenFailure::Failed(error)) => return Err(error),
                },
            };
            let file = description.file();
            if by_queue && !self.head {
                let got = slots::try_lock(file, Range::SEMAPHORE_QUEUE);
                if !got.map_err(|errno| self.handle.lock_error(self.operation, errno))? {
                    return Ok(Attempt::Queue);
                }
                self.head = true;
            }
            match slots::take(file, self.handle.slots, self.count) {
                Ok(Taken::All(slots)) => self.slots = slots,
                Ok(Taken::TooFew { gave_back }) => {
                    if gave_back {
                        tell_of_slots(description);
                    }
                    return Ok(Attempt::TooFew);
                }
                Err(errno) => return Err(self.handle.lock_error(self.operation, errno)),
            }
            if self.confirm()? {
                return Ok(Attempt::Granted);
            }
        }
        let path = self.handle.path();
        Err(Error::Replaced { path, operation: self.operation, while_held: false })
    }

    /// With the slots: lets the next one be the head, and keeps the slots if the path still names
    /// the file. Else everything is given back.
    fn confirm(&mut self) -> Result<bool> {
        let Some(description) = &self.description else { return Ok(false) };
        if std::mem::take(&mut self.head) {
            leave_queue(description);
        }
        let current = description.is_current(&self.handle.place, false);
        if matches!(current, Ok(true)) {
            return Ok(true);
        }
        self.abandon();
        current.map_err(|errno| Error::io(self.handle.path(), self.operation, errno))
    }

    /// Asks by way of the queue and sleeps until the slots are had.
    pub(super) fn sleep(&mut self, limits: Limits<'_>) -> Result<()> {
        let inner = Limits { afterwards: None, ..limits };
        loop {
            let slept = match self.attempt(true)? {
                Attempt::Granted => return Ok(()),
                Attempt::Lease(access) => self.sleep_out_lease(access, inner),
                Attempt::Queue => self.queue(inner),
                Attempt::TooFew => self
                    .watch(limits)
                    .and_then(|()| if self.slots.is_empty() { limits.check() } else { Ok(()) }),
            };
            slept.map_err(|stop| self.stopped(stop))?;
            if !self.slots.is_empty() && self.confirm()? {
                return Ok(());
            }
        }
    }

    /// Sleeps until we are the head of the queue.
    fn queue(&mut self, limits: Limits<'_>) -> Result<(), Stop> {
        let Some(description) = &self.description else { return Ok(()) };
        let (file, queue) = (description.file(), Range::SEMAPHORE_QUEUE);
        let call =
            |patience| lock::record(file, Owner::Description, Mode::Exclusive, queue, patience);
        let (sleep, ask) = (|| call(Patience::Sleep), || call(Patience::Try));
        keeper::wait(file, description.identity, Mechanism::Ofd, limits, sleep, ask)?;
        self.head = true;
        Ok(())
    }

    /// As the head: sleeps until the slots are had, or until the path names another file: then
    /// everything is given back.
    fn watch(&mut self, limits: Limits<'_>) -> Result<(), Stop> {
        let Some(description) = &self.description else { return Ok(()) };
        let Handle { place, slots, .. } = &*self.handle;
        let file = description.file();
        let blind = file::is_shared_with_other_machines(file);
        let mut watcher = None;
        let mut pause = FIRST_PAUSE;
        let (mut told, mut renamed) = (false, true);
        let mut taken = Vec::new();
        limits.check()?;
        // Nothing but the deadline is to end the wait, and a sleep of this kind can end by itself.
        let by_itself = limits.tokens.is_empty() && limits.watch.is_none();
        let deadline = limits.deadline.filter(|_| by_itself);
        let outside = Limits { deadline: limits.deadline.filter(|_| !by_itself), ..limits };
        let ended = wait::interruptible(outside, || {
            loop {
                if watcher.is_none() {
                    watcher = Watcher::on(description, place);
                    // What came before the watch, it does not tell.
                    renamed = true;
                }
                if let Taken::All(slots) = slots::take(file, *slots, self.count)? {
                    taken = slots;
                    return Ok(());
                }
                if std::mem::take(&mut renamed)
                    && !matches!(description.is_current(place, true), Ok(true))
                {
                    return Ok(());
                }
                // What was told has to be taken before the look that the next sleep relies on; but
                // most often the look before that finds the slot, and that is the way to be quick.
                if let (true, Some(watcher)) = (told, &watcher) {
                    told = false;
                    let seen = watcher.take();
                    renamed = seen.renamed;
                    if seen.closed {
                        pause = FIRST_PAUSE;
                    }
                    continue;
                }
                let longest = if blind || watcher.is_none() { RECHECK } else { Duration::MAX };
                let left = deadline.map_or(Duration::MAX, |end| {
                    until_shortly_before(end.saturating_duration_since(Instant::now()))
                });
                if left.is_zero() {
                    return Err(Errno::TIMEDOUT);
                }
                told = watcher::sleep(watcher.as_ref(), pause.min(longest).min(left))?;
                if !told {
                    pause = pause.saturating_mul(2);
                }
            }
        });
        match ended {
            Err(Stop::Os(Errno::TIMEDOUT)) => return Err(Stop::TimedOut),
            ended => ended?,
        }
        if taken.is_empty() {
            self.abandon();
        }
        self.slots = taken;
        Ok(())
    }

    fn sleep_out_lease(&self, access: Access, limits: Limits<'_>) -> Result<(), Stop> {
        let follow = self.handle.settings.follow_symlinks;
        match sleep_out_lease(&self.handle.place, follow, access, limits) {
            // The file has gone, or there is no /proc to open it by. Opening anew will tell, but
            // not in a tight loop.
            Err(Stop::Os(_)) => thread::sleep(LOOK_AGAIN),
            result => result?,
        }
        limits.check()
    }

    pub(super) fn stopped(&self, stop: Stop) -> Error {
        self.handle.stopped(self.operation, stop, || self.contention())
    }

    pub(super) fn busy(&self) -> Error {
        let (path, operation) = (self.handle.path(), self.operation);
        Error::Busy { path, operation, contention: self.contention() }
    }

    fn contention(&self) -> Contention {
        match &self.description {
            Some(description) => Contention::new(description.identity, Mechanism::Ofd),
            None => self.handle.contention(self.leased),
        }
    }

    /// Turns the granted slots into a guard.
    pub(super) fn settle(mut self, waited: Duration) -> SemaphoreGuard {
        let slots = std::mem::take(&mut self.slots);
        let description = self.description.take().expect("slots are granted on a description");
        SemaphoreGuard::new(Arc::clone(&self.handle), description, self.generation, slots, waited)
    }

    /// Gives everything back, and the description up: the path names another file. Whoever else waits
    /// on the old file finds that out by the close.
    fn abandon(&mut self) {
        self.slots.clear();
        let head = std::mem::take(&mut self.head);
        if let Some(description) = self.description.take() {
            if head {
                leave_queue(&description);
            }
            // Closing does the same, but tells of it first.
            let _ = lock::record_unlock(description.file(), Owner::Description, Range::WHOLE);
        }
    }
}

/// How long to sleep if so much time is left: the kernel may end a poll late, by up to 0.5 % of its time
/// (`prctl(2)`, `PR_SET_TIMERSLACK`, has the rest: 50 us), so the last part is slept for itself.
fn until_shortly_before(left: Duration) -> Duration {
    const EXACT: Duration = Duration::from_millis(10);
    if left <= EXACT {
        left
    } else {
        left.saturating_sub((left / 100).min(Duration::from_millis(200)))
    }
}

/// Lets the next one be the head.
fn leave_queue(description: &Description) {
    // It fails only where the description is no longer ours; the path check tells then.
    let _ = lock::record_unlock(description.file(), Owner::Description, Range::SEMAPHORE_QUEUE);
}

impl Drop for Party {
    fn drop(&mut self) {
        let Some(description) = self.description.take() else { return };
        if self.generation != fork::generation() {
            return;
        }
        if self.head {
            // The slots do not reach as far as that, and the description may be kept.
            leave_queue(&description);
        }
        let slots = if self.slots.is_empty() { Slots::None } else { Slots::Some };
        // An error means that closing has unlocked it.
        let _: Result<(), Errno> = self.handle.let_go(description, slots);
    }
}
