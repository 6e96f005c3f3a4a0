//! The async end of acquiring a set. While it sleeps it holds nothing, so there is nothing to give
//! back when it is dropped but the one wait it is in.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::acquire::{Request, When};
use crate::cancel::{CancelToken, Interrupt};
use crate::error::{Error, Result};
use crate::future::AcquireFuture;
use crate::mode::{Mechanism, Mode};
use crate::queue::Node;
use crate::sys::fork;
use crate::timekeeper::{self, Reminder};

use super::guard::OwnedLockSetGuard;
use super::plan::Plan;
use super::{LockSet, Next, complete, pausing};

/// A set of locks being acquired; made by awaiting an [`AcquireSet`](crate::AcquireSet).
///
/// # Cancel safety
/// Dropping it ends the wait at once; nothing is held and nothing is left behind.
#[must_use = "futures do nothing until they are polled"]
pub struct AcquireSetFuture {
    set: LockSet,
    when: When,
    tokens: Vec<CancelToken>,
    since: Instant,
    next: Next,
    /// What is planned, and the wait for the first of it.
    round: Option<(Plan, AcquireFuture)>,
    pause: Option<(Arc<Node>, Reminder)>,
    done: bool,
    /// The process that the pause belongs to.
    generation: u32,
}

impl AcquireSetFuture {
    pub(super) fn new(set: LockSet, when: When, tokens: Vec<CancelToken>) -> Self {
        let next = Next::default();
        let since = Instant::now();
        let generation = fork::generation();
        Self { set, when, tokens, since, next, round: None, pause: None, done: false, generation }
    }

    /// In a forked child nobody keeps the time of the pause, and what stands for it is left alone,
    /// for it may be locked by threads of the parent. The round looks after itself.
    fn leave_parent(&mut self) {
        let now = fork::generation();
        if self.generation != now {
            self.generation = now;
            mem::forget(self.pause.take());
        }
    }

    /// Begins a round; `None` when there is nothing to acquire.
    fn begin(&self) -> Result<Option<(Plan, AcquireFuture)>> {
        let plan = Plan::of(self.set.members())?;
        if let Some(lock) = plan.uses(Mechanism::Posix) {
            return Err(Error::unsupported(
                lock.handle().path(),
                "lock",
                "posix locks have no async waits; ofd and flock locks have",
            ));
        }
        let Some((lock, mode)) = plan.member(self.next.given) else { return Ok(None) };
        let request = Request { tokens: self.tokens.clone(), ..Request::new(mode, self.when) };
        let future = AcquireFuture::new(lock.clone(), request);
        Ok(Some((plan, future)))
    }

    /// One round, or as much of it as can be done now; `Ok(None)` when it came to nothing.
    fn step(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<OwnedLockSetGuard>>> {
        if self.round.is_none() {
            let Some(round) = self.begin()? else {
                let plan = Plan::of(&[])?;
                let nothing = OwnedLockSetGuard::of(Vec::new(), plan, Duration::ZERO);
                return Poll::Ready(Ok(Some(nothing)));
            };
            self.round = Some(round);
        }
        let (_, future) = self.round.as_mut().expect("a round was begun");
        let first = match Pin::new(future).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(result) => result?.into_hold(),
        };
        let (plan, _) = self.round.take().expect("it was just polled");
        let waited = self.next.waited(&first, self.since);
        match complete(&plan, self.next.given, first, false) {
            Ok(holds) => Poll::Ready(Ok(Some(OwnedLockSetGuard::of(holds, plan, waited)))),
            Err(failure) => {
                self.next.after(failure, &plan, self.when, &self.tokens)?;
                if let Some(pause) = self.next.pause() {
                    self.keep_still(Instant::now() + pause, context.waker());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(None))
            }
        }
    }

    /// Has the task woken at that time, or at once if nobody can.
    fn keep_still(&mut self, end: Instant, waker: &Waker) {
        let node = pausing(Mode::Exclusive);
        node.poll(waker);
        match timekeeper::remind(end, Arc::clone(&node) as Arc<dyn Interrupt>) {
            Ok(reminder) => self.pause = Some((node, reminder)),
            Err(_) => waker.wake_by_ref(),
        }
    }
}

impl Future for AcquireSetFuture {
    type Output = Result<OwnedLockSetGuard>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.done, "a finished acquisition was polled again");
        self.leave_parent();
        // Who polls early begins the next round early.
        self.pause = None;
        loop {
            let result = match self.step(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => continue,
                Poll::Ready(Ok(Some(guard))) => Ok(guard),
                Poll::Ready(Err(error)) => Err(error),
            };
            self.done = true;
            self.round = None;
            return Poll::Ready(result);
        }
    }
}

impl Drop for AcquireSetFuture {
    fn drop(&mut self) {
        self.leave_parent();
    }
}

impl fmt::Debug for AcquireSetFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcquireSetFuture").field("set", &self.set).finish_non_exhaustive()
    }
}
