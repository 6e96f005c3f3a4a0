//! One acquisition of slots: how many, until when, and the way to them for a thread that may sleep.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acquire::When;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::events;
use crate::semaphore::Semaphore;
use crate::semaphore::future::AcquireSlotsFuture;
use crate::semaphore::guard::SemaphoreGuard;
use crate::semaphore::handle::Handle;
use crate::semaphore::party::{Attempt, Party};
use crate::wait::Limits;

/// What is wanted.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) count: u32,
    pub(super) when: When,
    pub(super) tokens: Vec<CancelToken>,
}

impl Request {
    pub(super) fn operation(&self) -> &'static str {
        match self.when {
            When::Now => "try to acquire",
            When::Until(_) | When::Forever => "acquire",
        }
    }

    pub(super) fn limits(&self) -> Limits<'_> {
        Limits::new(self.when.deadline(), &self.tokens)
    }

    /// Who asks for it.
    pub(super) fn party(&self, handle: &Arc<Handle>) -> Result<Party> {
        let operation = self.operation();
        let refuse = |reason: String| Err(Error::unsupported(handle.path(), operation, reason));
        match self.count {
            0 => refuse("no slots at all were asked for; ask for one or more".to_owned()),
            count if count > handle.slots => refuse(format!(
                "{count} slots were asked for at once, and there are {}",
                handle.slots
            )),
            count => Ok(Party::new(handle, count, operation)),
        }
    }

    /// Whether the queue is passed by at first: by those who only try, those whose time is over, and
    /// where order was not asked for. Granted then, it is all.
    pub(super) fn tries_first(&self, handle: &Handle) -> bool {
        !handle.fair || self.is_single()
    }

    /// Whether one attempt is all there will be.
    pub(super) fn is_single(&self) -> bool {
        self.when == When::Now || self.limits().check().is_err()
    }

    /// Why one attempt was not enough.
    pub(super) fn refusal(&self, party: &Party) -> Error {
        match self.limits().check() {
            Err(stop) if self.when != When::Now => party.stopped(stop),
            _ => party.busy(),
        }
    }

    /// One attempt by way of the queue.
    fn run_in_turn(&self, handle: &Arc<Handle>) -> Result<SemaphoreGuard> {
        let mut party = self.party(handle)?;
        let Some(_turn) = handle.claim_for_try() else { return Err(self.refusal(&party)) };
        match party.attempt(true)? {
            Attempt::Granted => Ok(party.settle(Duration::ZERO)),
            _ => Err(self.refusal(&party)),
        }
    }

    /// Acquires, asleep if need be.
    fn run(&self, handle: &Arc<Handle>) -> Result<SemaphoreGuard> {
        let mut party = self.party(handle)?;
        if self.tries_first(handle) {
            if matches!(party.attempt(false)?, Attempt::Granted) {
                return Ok(party.settle(Duration::ZERO));
            }
            if self.is_single() {
                return Err(self.refusal(&party));
            }
        }
        let mut since = None;
        let wait = || {
            events::waiting_for_slots(handle.place.path(), self.count);
            Instant::now()
        };
        let turn = match handle.claim_or_join(false) {
            Ok(turn) => turn,
            Err(queued) => {
                since = Some(wait());
                queued.node().wait(self.limits()).map_err(|stop| party.stopped(stop))?;
                queued.turn()
            }
        };
        // Dropped before the turn: whoever has that next is to find nothing of ours in the way.
        let mut party = party;
        if !matches!(party.attempt(true)?, Attempt::Granted) {
            since.get_or_insert_with(wait);
            turn.fall_asleep();
            party.sleep(self.limits())?;
        }
        drop(turn);
        Ok(party.settle(since.map_or(Duration::ZERO, |since| since.elapsed())))
    }
}

/// An acquisition of slots to be made; it ends in one of
///
/// - [`wait`](AcquireSlots::wait): sleep until they are had,
/// - [`try_now`](AcquireSlots::try_now): one attempt,
/// - `.await`: do not block the task.
///
/// # Cancel safety
/// Dropping the future ends the wait at once; nothing is held then, and neither a thread nor a place
/// in a queue stays behind. Slots that were granted in that very moment are released.
///
/// # Crash safety
/// The kernel holds the slots; they are free as soon as the process is gone, however it ended.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
/// use std::time::Duration;
/// use lockmgr::{CancelToken, Semaphore};
///
/// let semaphore = Semaphore::open(&path, 8)?;
/// let cancel = CancelToken::new();
/// let guard =
///     semaphore.acquire_many(3).timeout(Duration::from_secs(5)).cancel(&cancel).wait()?;
/// assert_eq!(guard.slots(), [0, 1, 2]);
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an acquisition does nothing until it is waited for"]
pub struct AcquireSlots<'a> {
    semaphore: &'a Semaphore,
    request: Request,
}

impl<'a> AcquireSlots<'a> {
    pub(super) fn new(semaphore: &'a Semaphore, count: u32) -> Self {
        let request = Request { count, when: When::Forever, tokens: Vec::new() };
        Self { semaphore, request }
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

    /// Sleeps until the slots are had.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Cancelled`]; [`Error::Unsupported`] for no slots at all and for
    /// more than there are; whatever opening the file may meet.
    pub fn wait(self) -> Result<SemaphoreGuard> {
        self.request.run(&self.semaphore.handle)
    }

    /// One attempt, past those who wait; [`Error::Busy`] when too few slots are free.
    pub fn try_now(mut self) -> Result<SemaphoreGuard> {
        self.request.when = When::Now;
        self.wait()
    }

    /// One attempt that overtakes nobody: [`Error::Busy`] also when somebody waits, in this process
    /// or another, for whatever number of slots. For whoever is going to wait if too few are free,
    /// and wants to know before.
    pub fn try_in_turn(mut self) -> Result<SemaphoreGuard> {
        self.request.when = When::Now;
        self.request.run_in_turn(&self.semaphore.handle)
    }
}

impl IntoFuture for AcquireSlots<'_> {
    type Output = Result<SemaphoreGuard>;
    type IntoFuture = AcquireSlotsFuture;

    fn into_future(self) -> AcquireSlotsFuture {
        AcquireSlotsFuture::new(Arc::clone(&self.semaphore.handle), self.request)
    }
}
