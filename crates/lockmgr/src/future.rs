//! The async end of an acquisition. No runtime is needed: it wakes whoever polls it.
//!
//! | stage | what it waits for | who wakes it |
//! |---|---|---|
//! | `Start` | nothing yet | — |
//! | `Queued` | its turn in the handle's queue | the one before it; a token; the timekeeper |
//! | `Waiting` | the kernel | the waiter thread |
//! | `Done` | — | — |
//!
//! The waiter thread ([`Job`]) exists only while the kernel is waited for, one a contended handle,
//! since only the one with the turn waits there. It takes the turn with it: if the future is
//! dropped, the thread's wait is cancelled, it releases what it may just have been granted, and
//! hands the turn on.

use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::acquire::{Request, When};
use crate::cancel::{Entry, Interrupt};
use crate::error::{Error, Result};
use crate::events;
use crate::file_lock::FileLock;
use crate::guard::OwnedFileLockGuard;
use crate::handle::{Claimed, Queued, Terms, stopped};
use crate::hold::Hold;
use crate::job::{self, Job};
use crate::mode::Mechanism;
use crate::options::Fairness;
use crate::queue::{Asker, Told};
use crate::sys::fork;
use crate::timekeeper::{self, Reminder};
use crate::turn::{Attempt, Turn};
use crate::wait::Limits;

/// A lock being acquired; made by awaiting an [`Acquire`](crate::Acquire).
///
/// # Cancel safety
/// Dropping it ends the wait at once and leaves nothing behind. A task that is queued and then
/// neither polled nor dropped holds up those behind it, as with any async lock.
#[must_use = "futures do nothing until they are polled"]
pub struct AcquireFuture {
    lock: FileLock,
    request: Request,
    stage: Stage,
    since: Option<Instant>,
    /// The process that the stage belongs to.
    generation: u32,
}

enum Stage {
    Start,
    Queued {
        queued: Queued,
        _tokens: Vec<Entry>,
        _reminder: Option<Reminder>,
    },
    /// The turn of that number is the thread's.
    Waiting(Arc<Job<Hold>>, u64),
    Done,
}

impl AcquireFuture {
    pub(crate) fn new(lock: FileLock, request: Request) -> Self {
        Self { lock, request, stage: Stage::Start, since: None, generation: fork::generation() }
    }

    /// In a forked child neither the place in the queue nor the waiter thread exists: it begins
    /// anew. What stands for them is left alone, for it may be locked by threads of the parent.
    fn leave_parent(&mut self) {
        let now = fork::generation();
        if self.generation != now {
            self.generation = now;
            if !matches!(self.stage, Stage::Done) {
                mem::forget(mem::replace(&mut self.stage, Stage::Start));
            }
        }
    }

    fn start(&mut self) -> Result<Option<Hold>> {
        let handle = self.lock.handle();
        if handle.settings.mechanism == Mechanism::Posix {
            return Err(Error::unsupported(
                handle.path(),
                self.request.operation(),
                "posix locks have no async waits; ofd and flock locks have",
            ));
        }
        // A task can always be dropped.
        let asker = self.request.asker();
        let trying = asker.trying || self.request.limits().check().is_err();
        let asker = Asker { endless: false, trying, task: true, ..asker };
        let past_gate = handle.settings.fairness == Fairness::Off
            || self.request.when == When::Now && !self.request.in_turn;
        match handle.claim_or_join(Terms { asker, again: false, past_gate }, None) {
            Claimed::Turn(turn) => self.ask(turn),
            Claimed::Joined(joined) => {
                let hold = joined.settle(self.request.operation(), false, Duration::ZERO)?;
                // If what is shared is another file than the path names, `Start` comes once more.
                Ok(hold)
            }
            Claimed::Queued(queued) => self.queue(queued).map(|()| None),
            Claimed::Busy => Err(self.request.refused(&self.lock)),
            Claimed::Never => unreachable!("a task is not judged by its thread"),
        }
    }

    fn queue(&mut self, queued: Queued) -> Result<()> {
        if !queued.is_for_try() {
            self.since = Some(Instant::now());
            events::waiting(self.lock.handle(), self.request.mode);
        }
        let waiter = || Arc::clone(queued.node()) as Arc<dyn Interrupt>;
        let tokens = self.request.tokens.iter().map(|token| token.enter(waiter())).collect();
        let reminder = match self.request.when.deadline() {
            Some(deadline) => match timekeeper::remind(deadline, waiter()) {
                Ok(reminder) => Some(reminder),
                Err(source) => return Err(self.cannot_wait(&source)),
            },
            None => None,
        };
        self.stage = Stage::Queued { queued, _tokens: tokens, _reminder: reminder };
        Ok(())
    }

    /// Asks the kernel once, and has a thread wait for it if that was not enough.
    fn ask(&mut self, mut turn: Turn) -> Result<Option<Hold>> {
        let operation = self.request.operation();
        if matches!(turn.attempt(operation)?, Attempt::Granted) {
            let waited = self.since.map(|since| since.elapsed()).unwrap_or_default();
            return turn.settle(operation, false, waited).map(Some);
        }
        if self.request.when == When::Now {
            let path = self.lock.handle().path();
            return Err(Error::Busy { path, operation, contention: turn.contention() });
        }
        // No thread for what is over already.
        if let Err(stop) = self.request.limits().check() {
            let (handle, mode) = (self.lock.handle(), self.request.mode);
            return Err(stopped(handle, operation, mode, stop, || turn.contention()));
        }
        if self.since.is_none() {
            self.since = Some(Instant::now());
            events::waiting(self.lock.handle(), self.request.mode);
        }
        let since = self.since;
        let (deadline, tokens) = (self.request.when.deadline(), self.request.tokens.clone());
        let kept = self.request.kept.clone();
        let number = turn.number();
        let job = Job::start(deadline, tokens, move |limits| {
            turn.sleep(operation, Limits { kept: &kept, ..limits })?;
            turn.settle(operation, false, since.map(|since| since.elapsed()).unwrap_or_default())
        })
        .map_err(|error| self.cannot_wait(&error))?;
        self.stage = Stage::Waiting(job, number);
        Ok(None)
    }

    fn cannot_wait(&self, source: &io::Error) -> Error {
        job::cannot_wait(self.lock.handle().path(), self.request.operation(), source)
    }

    /// One step; `Ok(None)` when the stage has changed and is to be looked at again.
    fn step(&mut self, waker: &Waker) -> Poll<Result<Option<Hold>>> {
        match &self.stage {
            Stage::Start => Poll::Ready(self.start()),
            Stage::Queued { queued, .. } => {
                let told = queued.node().poll(waker);
                let outcome = match (told, self.request.limits().check()) {
                    (Some(told), _) => Ok(told),
                    (None, Err(stop)) if !queued.is_for_try() => Err(stop),
                    (None, _) => return Poll::Pending,
                };
                // From here on the place in the queue is the value's.
                let Stage::Queued { queued, .. } = mem::replace(&mut self.stage, Stage::Done)
                else {
                    unreachable!("it was looked at");
                };
                Poll::Ready(match outcome {
                    Ok(Told::Granted) => self.ask(queued.turn()),
                    Ok(Told::Refused) => Err(self.request.refused(&self.lock)),
                    Err(stop) => {
                        let (handle, mode) = (self.lock.handle(), self.request.mode);
                        let operation = self.request.operation();
                        Err(stopped(handle, operation, mode, stop, || handle.contention()))
                    }
                })
            }
            Stage::Waiting(job, _) => job.poll(waker).map(|result| result.map(Some)),
            Stage::Done => panic!("a finished acquisition was polled again"),
        }
    }
}

impl Future for AcquireFuture {
    type Output = Result<OwnedFileLockGuard>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.leave_parent();
        loop {
            match self.step(context.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(result) => {
                    self.stage = Stage::Done;
                    let hold = result.map(|hold| hold.expect("no change of stage, so a hold"));
                    return Poll::Ready(hold.map(OwnedFileLockGuard::new));
                }
            }
        }
    }
}

impl Drop for AcquireFuture {
    fn drop(&mut self) {
        self.leave_parent();
        if let Stage::Waiting(job, turn) = &self.stage {
            job.abandon();
            // Who tries meanwhile does not find it taken by a wait that is over.
            self.lock.handle().is_leaving(*turn);
        }
    }
}

impl std::fmt::Debug for AcquireFuture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AcquireFuture")
            .field("lock", &self.lock)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
