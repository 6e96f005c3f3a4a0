//! One acquisition: what is wanted, until when, and the way to it for a thread that may sleep.
//!
//! 1. A re-entrant handle that this thread holds is simply entered again.
//! 2. The turn is claimed; if somebody has it, or holds the lock through this handle, the thread
//!    queues and sleeps until it gets the turn.
//! 3. With the turn the kernel is asked without waiting. Free and the path unchanged: done. This is
//!    the whole way of an uncontended acquisition: no timer, no thread, no allocation.
//! 4. Otherwise, unless this thread itself is in the way, it sleeps in the kernel's call; on a fair
//!    handle first in the one for the gate.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::events;
use crate::file_lock::FileLock;
use crate::future::AcquireFuture;
use crate::guard::{FileLockGuard, OwnedFileLockGuard};
use crate::handle::{Claimed, Handle, Terms, stopped};
use crate::held;
use crate::hold::Hold;
use crate::mode::Mode;
use crate::options::Fairness;
use crate::queue::{Asker, Told};
use crate::turn::{Attempt, Turn};
use crate::wait::Limits;

/// How long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// One attempt.
    Now,
    Until(Instant),
    Forever,
}

impl When {
    /// A time so far off that the clock cannot name it is no deadline at all.
    pub(crate) fn within(timeout: Duration) -> Self {
        Instant::now().checked_add(timeout).map_or(When::Forever, When::Until)
    }

    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            When::Until(deadline) => Some(deadline),
            When::Now | When::Forever => None,
        }
    }
}

/// What is wanted.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) mode: Mode,
    pub(crate) when: When,
    pub(crate) tokens: Vec<CancelToken>,
    /// Descriptors of holds that last as long as the wait.
    pub(crate) kept: Vec<u32>,
    /// A single attempt, too, passes the gate of a fair handle.
    pub(crate) in_turn: bool,
}

/// What a thread gets from the handle.
enum Taken {
    Turn(Turn),
    Hold(Hold),
}

impl Request {
    pub(crate) fn new(mode: Mode, when: When) -> Self {
        Self { mode, when, tokens: Vec::new(), kept: Vec::new(), in_turn: false }
    }

    pub(crate) fn operation(&self) -> &'static str {
        match (self.mode, self.when) {
            (Mode::Exclusive, When::Now) => "try to lock",
            (Mode::Exclusive, _) => "lock",
            (Mode::Shared, When::Now) => "try to lock shared",
            (Mode::Shared, _) => "lock shared",
        }
    }

    pub(crate) fn asker(&self) -> Asker {
        let endless = self.when == When::Forever && self.tokens.is_empty();
        let trying = self.when == When::Now;
        Asker { endless, trying, ..Asker::new(self.mode) }
    }

    pub(crate) fn limits(&self) -> Limits<'_> {
        Limits { kept: &self.kept, ..Limits::new(self.when.deadline(), &self.tokens) }
    }

    /// Acquires, asleep if need be. `bound` holds cannot leave the calling thread.
    pub(crate) fn run(&self, lock: &FileLock, bound: bool) -> Result<Hold> {
        let handle = lock.handle();
        let operation = self.operation();
        if handle.settings.reentrant
            && bound
            && let Some(mode) = held::mode_through(handle.id)
        {
            if mode.conflicts_with(self.mode) && mode == Mode::Shared {
                return match self.when {
                    When::Now => Err(self.busy(lock)),
                    When::Until(_) | When::Forever => Err(self.own_thread(lock, bound)),
                };
            }
            if let Some((mode, description)) = held::enter_again(handle.id) {
                return Ok(Hold::again(handle, mode, description));
            }
        }
        let mut since = None;
        let past_gate = self.goes_past_gate(handle);
        let mut turn = match self.take_turn(lock, bound, past_gate, &mut since)? {
            Taken::Turn(turn) => turn,
            Taken::Hold(hold) => return Ok(hold),
        };
        if past_gate {
            turn.skip_gate();
        }
        if !matches!(turn.attempt(operation)?, Attempt::Granted) {
            if self.when == When::Now {
                let contention = turn.contention();
                return Err(Error::Busy { path: handle.path(), operation, contention });
            }
            if turn.waits_for_own_thread() {
                return Err(self.own_thread(lock, bound));
            }
            if since.is_none() {
                since = Some(Instant::now());
                events::waiting(handle, self.mode);
            }
            turn.sleep(operation, self.limits())?;
        }
        turn.settle(operation, bound, since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Whether a fair handle is used without its gate. A shared `try` does not ask for it, and at
    /// the gate somebody may be waiting for what this very thread holds.
    fn goes_past_gate(&self, handle: &Handle) -> bool {
        self.mode == Mode::Shared
            && handle.settings.fairness != Fairness::Off
            && (self.when == When::Now && !self.in_turn
                || handle.held_by_this_thread() == Some(Mode::Shared))
    }

    /// Gets the right to ask the kernel, asleep if need be, or a share in what is held already; notes
    /// when the waiting began.
    fn take_turn(
        &self,
        lock: &FileLock,
        bound: bool,
        past_gate: bool,
        since: &mut Option<Instant>,
    ) -> Result<Taken> {
        let (handle, operation) = (lock.handle(), self.operation());
        let past_gate = past_gate || handle.settings.fairness == Fairness::Off;
        let mut terms = Terms { asker: self.asker(), again: false, past_gate };
        loop {
            let claimed = match handle.claim(terms) {
                Some(claimed) => claimed,
                None => self.queue_up(lock, bound, &mut terms)?,
            };
            match claimed {
                Claimed::Turn(turn) => return Ok(Taken::Turn(turn)),
                Claimed::Joined(joined) => {
                    if let Some(hold) = joined.settle(operation, bound, Duration::ZERO)? {
                        return Ok(Taken::Hold(hold));
                    }
                    // What is shared is another file than the path names by now.
                }
                Claimed::Queued(queued) if terms.asker.trying => {
                    return match queued.node().wait_for_try() {
                        Told::Granted => Ok(Taken::Turn(queued.turn())),
                        Told::Refused => Err(self.refused(lock)),
                    };
                }
                Claimed::Queued(queued) => {
                    *since = Some(Instant::now());
                    events::waiting(handle, self.mode);
                    queued.node().wait(self.limits()).map_err(|stop| {
                        stopped(handle, operation, self.mode, stop, || handle.contention())
                    })?;
                    return Ok(Taken::Turn(queued.turn()));
                }
                Claimed::Busy => return Err(self.refused(lock)),
                Claimed::Never => return Err(self.own_thread(lock, bound)),
            }
        }
    }

    /// Asks for the turn once more, now that it matters whether this thread itself is in the way.
    fn queue_up(&self, lock: &FileLock, bound: bool, terms: &mut Terms) -> Result<Claimed> {
        let handle = lock.handle();
        let mine = held::mode_through(handle.id);
        terms.again = mine == Some(Mode::Shared) && self.mode == Mode::Shared;
        let waits = self.when != When::Now;
        if waits && mine.is_some_and(|mine| mine.conflicts_with(self.mode)) {
            return Err(self.own_thread(lock, bound));
        }
        // The one attempt of a deadline that has passed is a try.
        terms.asker.trying |= self.limits().check().is_err();
        let asks = waits && !terms.again;
        let elsewhere = if asks { handle.held_by_this_thread() } else { None };
        Ok(handle.claim_or_join(*terms, elsewhere))
    }

    fn own_thread(&self, lock: &FileLock, bound: bool) -> Error {
        let handle = lock.handle();
        // To make it exclusive would be a change of mode.
        let same = held::mode_through(handle.id)
            .is_some_and(|held| held == Mode::Exclusive || self.mode == Mode::Shared);
        let advice = match (same, bound) {
            (true, true) => "release it first, or make the handle re-entrant",
            (true, false) if handle.settings.reentrant => {
                "release it first; only guards that cannot leave the thread are re-entrant"
            }
            _ => "release it first",
        };
        let (path, operation) = (handle.path(), self.operation());
        Error::Deadlock { path, operation, own_thread: true, cycle: None, advice }
    }

    /// What a try that was refused is told.
    pub(crate) fn refused(&self, lock: &FileLock) -> Error {
        match self.limits().check() {
            Err(stop) if self.when != When::Now => {
                let handle = lock.handle();
                stopped(handle, self.operation(), self.mode, stop, || handle.contention())
            }
            _ => self.busy(lock),
        }
    }

    pub(crate) fn busy(&self, lock: &FileLock) -> Error {
        let handle = lock.handle();
        Error::Busy {
            path: handle.path(),
            operation: self.operation(),
            contention: handle.contention(),
        }
    }
}

/// An acquisition to be made, with everything the short verbs of [`FileLock`] leave out.
///
/// Exclusive and without a deadline unless said otherwise. It ends in one of
///
/// - [`wait`](Acquire::wait): sleep; the guard stays in this thread,
/// - [`wait_owned`](Acquire::wait_owned): sleep; the guard may go anywhere,
/// - `.await`: do not block the task.
///
/// # Cancel safety
/// Dropping the future ends the wait at once; nothing is held then, and neither a thread nor a
/// place in a queue stays behind. A lock that was granted in that very moment is released.
///
/// # Crash safety
/// The kernel holds the lock; it is free as soon as the process is gone, however it ended.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
/// use std::time::Duration;
/// use lockmgr::{CancelToken, FileLock};
///
/// let lock = FileLock::open(&path)?;
/// let cancel = CancelToken::new();
/// let guard = lock.acquire().shared().timeout(Duration::from_secs(5)).cancel(&cancel).wait()?;
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an acquisition does nothing until it is waited for"]
pub struct Acquire<'a> {
    lock: &'a FileLock,
    request: Request,
}

impl<'a> Acquire<'a> {
    pub(crate) fn new(lock: &'a FileLock) -> Self {
        Self { lock, request: Request::new(Mode::Exclusive, When::Forever) }
    }

    /// In this mode.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.request.mode = mode;
        self
    }

    /// Together with other shared holders.
    pub fn shared(self) -> Self {
        self.mode(Mode::Shared)
    }

    /// For at most so long, counted from this call. Zero is one attempt.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.request.when = When::within(timeout);
        self
    }

    /// Until this moment. One that has passed is one attempt.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.request.when = When::Until(deadline);
        self
    }

    /// Until the token is cancelled. May be called more than once: any of the tokens will do.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.request.tokens.push(token.clone());
        self
    }

    /// Promises that this guard is kept until the acquisition has ended.
    ///
    /// Only for [`OnDeadlock::Fail`](crate::OnDeadlock::Fail), which fails for what is certain: an owned
    /// guard could be dropped by any thread or task at any time, so a circle through it is never
    /// certain unless this is said. (Guards that cannot leave the waiting thread need no promise.) If the
    /// promise is broken, the acquisition may fail though it would have been granted.
    pub fn while_holding(mut self, guard: &OwnedFileLockGuard) -> Self {
        self.request.kept.push(guard.file().as_raw_fd().unsigned_abs());
        self
    }

    /// Sleeps until the lock is held, with a guard that cannot leave this thread and its caller.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Cancelled`], [`Error::Deadlock`] if this thread holds the lock
    /// already or is part of a deadlock that was to be looked for, and whatever opening the file may meet.
    pub fn wait(self) -> Result<FileLockGuard<'a>> {
        self.request.run(self.lock, true).map(FileLockGuard::new)
    }

    /// As [`wait`](Self::wait), with a guard that can be sent to other threads and stored.
    pub fn wait_owned(self) -> Result<OwnedFileLockGuard> {
        self.request.run(self.lock, false).map(OwnedFileLockGuard::new)
    }

    /// One attempt; [`Error::Busy`] when somebody has the lock.
    pub fn try_now(mut self) -> Result<FileLockGuard<'a>> {
        self.request.when = When::Now;
        self.wait()
    }

    /// One attempt that overtakes nobody: as [`try_now`](Self::try_now), but through a
    /// [fair](crate::FileLockOptions::fair) handle it needs to find the gate open when shared, too.
    /// For whoever is going to wait if the lock is busy, and wants to know before.
    pub fn try_in_turn(mut self) -> Result<FileLockGuard<'a>> {
        self.request.in_turn = true;
        self.try_now()
    }

    /// As [`try_in_turn`](Self::try_in_turn), with a guard that can be sent to other threads and stored.
    pub fn try_in_turn_owned(mut self) -> Result<OwnedFileLockGuard> {
        self.request.in_turn = true;
        self.try_now_owned()
    }

    /// As [`try_now`](Self::try_now), with a guard that can be sent to other threads and stored.
    pub fn try_now_owned(mut self) -> Result<OwnedFileLockGuard> {
        self.request.when = When::Now;
        self.wait_owned()
    }
}

impl IntoFuture for Acquire<'_> {
    type Output = Result<OwnedFileLockGuard>;
    type IntoFuture = AcquireFuture;

    fn into_future(self) -> AcquireFuture {
        AcquireFuture::new(self.lock.clone(), self.request)
    }
}
