//! The turn: the right to ask the kernel on behalf of a handle, and the asking itself.
//!
//! 1. Open the lock file unless it is open.
//! 2. Through a fair handle: take the gate, without or with sleeping.
//! 3. Ask the kernel, without or with sleeping; or join the shared hold that this process has on
//!    the description already. Give the gate back.
//! 4. Look whether the path still names the file. If it does, the turn settles into a hold. If not,
//!    unlock, give the description up and begin at 1; the deadline goes on running. After a sleep
//!    at the gate the path is looked at as well, before a sleep on a file that it may not name any
//!    more.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::description::{Description, OpenFailure, TRIES, sleep_out_lease};
use crate::error::{Error, Result};
use crate::gate::Passage;
use crate::handle::{Handle, State, stopped};
use crate::held;
use crate::hold::{Hold, leave_shared};
use crate::inspect::Contention;
use crate::mode::Mode;
use crate::options::{Fairness, OnDeadlock};
use crate::sys::file::Access;
use crate::sys::fork;
use crate::wait::{Limits, Stop};
use crate::watch::Watch;

/// The right to ask the kernel on behalf of a handle.
pub(crate) struct Turn {
    /// Taken when the turn has settled.
    handle: Option<Arc<Handle>>,
    number: u64,
    generation: u32,
    mode: Mode,
    description: Option<Arc<Description>>,
    /// A shared hold of this process on the description was joined.
    joined: bool,
    /// Through the gate, if the description has one.
    fair: bool,
    passage: Option<Passage>,
}

/// Where the kernel cannot be asked to wait for the end of a lease.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How often in one acquisition a file that was replaced is left for the one that has taken its place,
/// before the sleep. Where path and descriptor never agree, the sleep shows it, not a tight loop.
const GIVE_UP_LOOKING: u32 = 8;

const UNSETTLED: &str = "settling consumes the turn";
const OPENED: &str = "the lock file was just opened";

/// What came of asking the kernel without waiting.
pub(crate) enum Attempt {
    Granted,
    /// Somebody has it.
    Contended,
    /// Somebody is in the gate.
    Gated,
    /// Somebody has a lease on the file, which cannot even be opened now.
    Lease(Access),
}

impl Turn {
    pub(crate) fn new(
        handle: Arc<Handle>,
        number: u64,
        mode: Mode,
        description: Option<Arc<Description>>,
        joined: bool,
        fair: bool,
    ) -> Self {
        let generation = fork::generation();
        let handle = Some(handle);
        Self { handle, number, generation, mode, description, joined, fair, passage: None }
    }

    /// What the queue knows it by.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Goes past the gate.
    pub(crate) fn skip_gate(&mut self) {
        self.fair = false;
    }

    fn handle(&self) -> &Arc<Handle> {
        self.handle.as_ref().expect(UNSETTLED)
    }

    /// Asks for the lock without waiting.
    pub(crate) fn attempt(&mut self, operation: &'static str) -> Result<Attempt> {
        for _ in 0..TRIES {
            if self.description.is_none() {
                match self.handle().open() {
                    Ok(description) => self.description = Some(description),
                    Err(OpenFailure::Lease(access)) => return Ok(Attempt::Lease(access)),
                    Err(OpenFailure::Failed(error)) => return Err(error),
                }
            }
            if self.handle().settings.fairness != Fairness::Off && !self.enter()? {
                return Ok(Attempt::Gated);
            }
            if !self.joined {
                match self.description.as_ref().expect(OPENED).try_lock(self.mode) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Attempt::Contended),
                    Err(errno) => {
                        self.after_refusal(operation, errno)?;
                        continue;
                    }
                }
            }
            self.passage = None;
            if self.confirm(operation)? {
                return Ok(Attempt::Granted);
            }
        }
        Err(Error::Replaced { path: self.handle().path(), operation, while_held: false })
    }

    /// On a fair handle: takes the gate, if there is one and nobody is in it, and joins what is held
    /// shared. Returns false when it is shut.
    fn enter(&mut self) -> Result<bool> {
        if self.joined {
            return Ok(true);
        }
        if self.fair {
            let description = self.description.as_ref().expect(OPENED);
            let handle = self.handle.as_ref().expect(UNSETTLED);
            if self.passage.is_none() {
                self.passage = Passage::approach(description);
            }
            if let Some(passage) = &mut self.passage
                && !passage.try_enter().map_err(|errno| handle.gate_error(errno))?
            {
                return Ok(false);
            }
        }
        if self.mode == Mode::Shared {
            let state = self.handle().state();
            let kept = state.description.as_ref().zip(self.description.as_ref());
            let joined = kept.is_some_and(|(kept, ours)| Arc::ptr_eq(kept, ours)) && state.join();
            drop(state);
            self.joined = joined;
        }
        Ok(true)
    }

    /// Sleeps until the gate is ours, and gives it up with the file if the path names another one.
    fn sleep_at_gate(&mut self, operation: &'static str, limits: Limits<'_>) -> Result<()> {
        let Some(passage) = &mut self.passage else { return Ok(()) };
        match passage.sleep(limits) {
            Ok(()) => {}
            Err(Stop::Os(errno)) => return Err(self.handle().gate_error(errno)),
            Err(stop) => return Err(self.stopped(operation, stop)),
        }
        if let (Some(place), Some(description)) = (&self.handle().place, &self.description)
            && matches!(description.is_current(place, true), Ok(false))
        {
            self.abandon();
        }
        Ok(())
    }

    /// Asks for the lock and sleeps until it is granted. Begin with an attempt.
    pub(crate) fn sleep(&mut self, operation: &'static str, limits: Limits<'_>) -> Result<()> {
        if limits.check().is_ok() {
            self.handle().fall_asleep();
        }
        let watch = match self.handle().settings.deadlock {
            OnDeadlock::Ignore => None,
            OnDeadlock::Fail => Some(Watch::of_this_thread(limits.kept)),
        };
        let limits = Limits { watch: watch.as_ref(), ..limits };
        self.sleep_within(operation, limits).map_err(|error| match (error, watch) {
            (Error::Deadlock { path, operation, own_thread, cycle: None, advice }, Some(watch)) => {
                Error::Deadlock { path, operation, own_thread, cycle: watch.found(), advice }
            }
            (error, _) => error,
        })
    }

    fn sleep_within(&mut self, operation: &'static str, limits: Limits<'_>) -> Result<()> {
        let mut found_replaced = 0;
        loop {
            match self.attempt(operation)? {
                Attempt::Granted => return Ok(()),
                Attempt::Lease(access) => {
                    self.sleep_out_lease(access, limits)
                        .and_then(|()| limits.check())
                        .map_err(|stop| self.stopped(operation, stop))?;
                }
                Attempt::Gated => self.sleep_at_gate(operation, limits)?,
                Attempt::Contended => {
                    let Some(description) = self.description.clone() else {
                        continue;
                    };
                    if found_replaced < GIVE_UP_LOOKING && !self.prepare_for_sleep(&description) {
                        found_replaced += 1;
                        self.abandon();
                        continue;
                    }
                    match description.sleep_lock(self.mode, limits) {
                        Ok(()) => {
                            self.passage = None;
                            if self.confirm(operation)? {
                                return Ok(());
                            }
                        }
                        Err(Stop::Os(errno)) => {
                            self.after_refusal(operation, errno)?;
                        }
                        Err(stop) => return Err(self.stopped(operation, stop)),
                    }
                    limits.check().map_err(|stop| self.stopped(operation, stop))?;
                }
            }
        }
    }

    /// Whether the path still names what is about to be slept for.
    fn prepare_for_sleep(&self, description: &Description) -> bool {
        let place = self.handle().place.as_ref();
        place.is_none_or(|place| description.prepare_for_sleep(place))
    }

    fn sleep_out_lease(&self, access: Access, limits: Limits<'_>) -> Result<(), Stop> {
        let Some(place) = &self.handle().place else { return Ok(()) };
        let limits = Limits { afterwards: None, watch: None, ..limits };
        match sleep_out_lease(place, self.handle().settings.follow_symlinks, access, limits) {
            // The file has gone, or there is no /proc to open it by. Opening anew will tell, but
            // not in a tight loop.
            Err(Stop::Os(_)) => {
                thread::sleep(LOOK_AGAIN);
                Ok(())
            }
            result => result,
        }
    }

    /// The kernel refused the lock call itself: opens anew where writing was missing, else fails.
    fn after_refusal(&mut self, operation: &'static str, errno: Errno) -> Result<()> {
        let wants_writing = self
            .description
            .as_ref()
            .is_some_and(|description| description.may_need_writing(self.mode, errno));
        let handle = self.handle();
        if wants_writing && !handle.wants_writing.swap(true, Ordering::Relaxed) {
            self.abandon();
            return Ok(());
        }
        if errno == Errno::INTR {
            return Ok(());
        }
        Err(handle.lock_error(operation, self.mode, errno))
    }

    /// After the grant: keeps the lock if the path still names the file, else gives it up.
    fn confirm(&mut self, operation: &'static str) -> Result<bool> {
        let (Some(place), Some(description)) = (&self.handle().place, &self.description) else {
            return Ok(true);
        };
        let current = description.is_current(place, false);
        if matches!(current, Ok(true)) {
            return Ok(true);
        }
        if !self.joined {
            // Whoever else waits on the old inode is to find out too.
            let _ = description.unlock();
        }
        self.abandon();
        current.map_err(|errno| Error::io(self.handle().path(), operation, errno))
    }

    /// Gives up the description, which nobody is to use again.
    fn abandon(&mut self) {
        self.passage = None;
        let Some(description) = self.description.take() else {
            return;
        };
        let joined = std::mem::take(&mut self.joined);
        let mut state = self.handle().state();
        let gone = self.handle().forget(&mut state, &description);
        if joined {
            leave_shared(&description);
        }
        drop(state);
        // Closed outside the mutex.
        drop((gone, description));
    }

    fn stopped(&self, operation: &'static str, stop: Stop) -> Error {
        stopped(self.handle(), operation, self.mode, stop, || self.contention())
    }

    pub(crate) fn contention(&self) -> Contention {
        if let Some(passage) = &self.passage {
            return passage.contention();
        }
        match &self.description {
            Some(description) => {
                Contention::new(description.identity, self.handle().settings.mechanism)
            }
            // It could not even be opened.
            None => self
                .handle()
                .place
                .as_ref()
                .and_then(|place| place.identity(self.handle().settings.follow_symlinks))
                .map_or_else(Contention::unknown, Contention::of_lease),
        }
    }

    /// Whether the calling thread itself stands in the way, so that waiting would never end.
    pub(crate) fn waits_for_own_thread(&self) -> bool {
        self.description.as_ref().is_some_and(|description| {
            let Description { identity, mechanism, range, .. } = **description;
            held::mode_of(identity, mechanism, range)
                .is_some_and(|held| held.conflicts_with(self.mode))
        })
    }

    /// Turns the granted lock into a hold. `bound` holds cannot leave the calling thread. Fails, and
    /// releases the lock, only for want of a fencing token.
    pub(crate) fn settle(
        mut self,
        operation: &'static str,
        bound: bool,
        waited: Duration,
    ) -> Result<Hold> {
        let handle = self.handle.take().expect(UNSETTLED);
        let description = self.description.take().expect("the lock was granted on a description");
        let mode = self.mode;
        if mode == Mode::Shared && !self.joined {
            description.sharers.store(1, Ordering::Relaxed);
        }
        let mut state = handle.state();
        if state.queue.turn_is_leaving() {
            // Nobody wants it any more, and who tries meanwhile is to find it free.
            Self::let_go(state, &description, mode);
            return Err(Error::Cancelled { path: handle.path(), operation });
        }
        state.queue.settle(mode);
        let old = match &state.description {
            Some(kept) if Arc::ptr_eq(kept, &description) => None,
            _ => state.description.replace(Arc::clone(&description)),
        };
        let next = state.queue.pass_on();
        drop(state);
        // Before the program's wakers run: whatever comes of them, the lock has an owner.
        let hold =
            Hold::begin(handle, description, self.generation, mode, operation, bound, waited);
        next.tell();
        // Closed outside the mutex.
        drop(old);
        hold
    }

    /// Releases what was granted, and gives the turn back.
    fn let_go(mut state: MutexGuard<'_, State>, description: &Description, mode: Mode) {
        if mode == Mode::Shared {
            leave_shared(description);
        } else {
            // It can fail only where the descriptor is no longer ours; closing releases then.
            let _ = description.unlock();
        }
        state.queue.give_back();
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        // Whoever has the turn next may have to ask on the same description.
        self.passage = None;
        if self.generation != fork::generation() {
            return;
        }
        let mut state = handle.state();
        if self.joined {
            if let Some(description) = &self.description {
                leave_shared(description);
            }
        } else if state.description.is_none() {
            // It may be open already, though taken by somebody: worth keeping.
            state.description = self.description.take();
        }
        state.queue.give_back();
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
    }
}
