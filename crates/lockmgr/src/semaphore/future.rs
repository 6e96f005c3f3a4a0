//! The async end of an acquisition of slots. No runtime is needed: it wakes whoever polls it.
//!
//! | stage | what it waits for | who wakes it |
//! |---|---|---|
//! | `Start` | nothing yet | — |
//! | `Queued` | its turn in the handle's queue | the one before it; a token; the timekeeper |
//! | `Waiting` | the kernel | the waiter thread |
//! | `Done` | — | — |
//!
//! There is one waiter thread ([`Job`]) a contended handle: only the one with the turn waits there.

use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::cancel::{Entry, Interrupt};
use crate::error::{Error, Result};
use crate::events;
use crate::job::{self, Job};
use crate::semaphore::acquire::Request;
use crate::semaphore::guard::SemaphoreGuard;
use crate::semaphore::handle::{Handle, Queued, Turn};
use crate::semaphore::party::{Attempt, Party};
use crate::sys::fork;
use crate::timekeeper::{self, Reminder};
use crate::wait::Stop;

/// Slots being acquired; made by awaiting an [`AcquireSlots`](crate::AcquireSlots).
///
/// # Cancel safety
/// Dropping it ends the wait at once and leaves nothing behind. A task that is queued and then
/// neither polled nor dropped holds up those behind it, as with any async lock.
#[must_use = "futures do nothing until they are polled"]
pub struct AcquireSlotsFuture {
    handle: Arc<Handle>,
    request: Request,
    stage: Stage,
    since: Option<Instant>,
    /// The process that the stage belongs to.
    generation: u32,
}

enum Stage {
    Start,
    Queued(Box<InQueue>),
    /// The turn of that number is the thread's.
    Waiting(Arc<Job<SemaphoreGuard>>, u64),
    Done,
}

/// In the handle's queue.
struct InQueue {
    place: Queued,
    party: Party,
    _tokens: Vec<Entry>,
    _reminder: Option<Reminder>,
}

/// One step; `None` when the stage has changed and is to be looked at again.
type Step = Result<Option<SemaphoreGuard>>;

impl AcquireSlotsFuture {
    pub(super) fn new(handle: Arc<Handle>, request: Request) -> Self {
        let generation = fork::generation();
        Self { handle, request, stage: Stage::Start, since: None, generation }
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

    fn start(&mut self) -> Step {
        let mut party = self.request.party(&self.handle)?;
        if self.request.tries_first(&self.handle) {
            if matches!(party.attempt(false)?, Attempt::Granted) {
                return Ok(Some(party.settle(Duration::ZERO)));
            }
            if self.request.is_single() {
                return Err(self.request.refusal(&party));
            }
        }
        match self.handle.claim_or_join(true) {
            Ok(turn) => self.ask(party, turn),
            Err(place) => self.queue(party, place),
        }
    }

    fn note_waiting(&mut self) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            events::waiting_for_slots(self.handle.place.path(), self.request.count);
        }
    }

    fn queue(&mut self, party: Party, place: Queued) -> Step {
        self.note_waiting();
        let waiter = || Arc::clone(place.node()) as Arc<dyn Interrupt>;
        let tokens = self.request.tokens.iter().map(|token| token.enter(waiter())).collect();
        let reminder = match self.request.limits().deadline {
            Some(deadline) => match timekeeper::remind(deadline, waiter()) {
                Ok(reminder) => Some(reminder),
                Err(source) => return Err(self.cannot_wait(&source)),
            },
            None => None,
        };
        let queued = InQueue { place, party, _tokens: tokens, _reminder: reminder };
        self.stage = Stage::Queued(Box::new(queued));
        Ok(None)
    }

    /// Asks the kernel once, and has a thread wait for it if that was not enough.
    fn ask(&mut self, mut party: Party, turn: Turn) -> Step {
        if matches!(party.attempt(true)?, Attempt::Granted) {
            drop(turn);
            return Ok(Some(
                party.settle(self.since.map(|since| since.elapsed()).unwrap_or_default()),
            ));
        }
        // No thread for what is over already.
        if self.request.is_single() {
            return Err(self.request.refusal(&party));
        }
        self.note_waiting();
        let (since, number) = (self.since, turn.number());
        let (deadline, tokens) = (self.request.limits().deadline, self.request.tokens.clone());
        let job = Job::start(deadline, tokens, move |limits| {
            // Dropped before the turn: whoever has that next is to find nothing of ours in the way.
            let (turn, mut party) = (turn, party);
            turn.fall_asleep();
            party.sleep(limits)?;
            if turn.is_leaving() {
                // Nobody wants it any more, and who tries meanwhile is to find it free.
                let cancelled = party.stopped(Stop::Cancelled);
                drop(party);
                return Err(cancelled);
            }
            drop(turn);
            Ok(party.settle(since.map(|since| since.elapsed()).unwrap_or_default()))
        })
        .map_err(|source| self.cannot_wait(&source))?;
        self.stage = Stage::Waiting(job, number);
        Ok(None)
    }

    fn cannot_wait(&self, source: &io::Error) -> Error {
        job::cannot_wait(self.handle.path(), self.request.operation(), source)
    }

    fn step(&mut self, waker: &Waker) -> Poll<Step> {
        match mem::replace(&mut self.stage, Stage::Done) {
            Stage::Start => Poll::Ready(self.start()),
            Stage::Queued(queued) => {
                if queued.place.node().poll(waker).is_some() {
                    return Poll::Ready(self.ask(queued.party, queued.place.turn()));
                }
                if let Err(stop) = self.request.limits().check() {
                    return Poll::Ready(Err(queued.party.stopped(stop)));
                }
                self.stage = Stage::Queued(queued);
                Poll::Pending
            }
            Stage::Waiting(job, turn) => {
                let result = job.poll(waker);
                if result.is_pending() {
                    self.stage = Stage::Waiting(job, turn);
                }
                result.map(|result| result.map(Some))
            }
            Stage::Done => panic!("a finished acquisition was polled again"),
        }
    }
}

impl Future for AcquireSlotsFuture {
    type Output = Result<SemaphoreGuard>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.leave_parent();
        loop {
            match self.step(context.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => {}
                Poll::Ready(Ok(Some(guard))) => return Poll::Ready(Ok(guard)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Drop for AcquireSlotsFuture {
    fn drop(&mut self) {
        self.leave_parent();
        if let Stage::Waiting(job, turn) = &self.stage {
            job.abandon();
            // Who tries meanwhile does not find it taken by a wait that is over.
            self.handle.is_leaving(*turn);
        }
    }
}

impl fmt::Debug for AcquireSlotsFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireSlotsFuture")
            .field("semaphore", &self.handle)
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}
