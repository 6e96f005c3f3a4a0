//! A wait that a thread does for a future, because the kernel can only put threads to sleep.
//!
//! The thread blocks all signals of the program. If the future is dropped, its wait is cancelled,
//! and what it may have been granted in that very moment is dropped, which releases it.

use std::io;
use std::mem;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Instant;

use crate::cancel::CancelToken;
use crate::contain::contain;
use crate::error::{Error, Result};
use crate::sys::signal::AllBlocked;
use crate::wait::{Afterwards, Limits};

/// Enough for the system calls of a wait and for a waker.
const STACK: usize = 256 * 1024;

/// A wait whose result is a `T`.
pub(crate) struct Job<T> {
    outcome: Mutex<Outcome<T>>,
    abandoned: CancelToken,
}

enum Outcome<T> {
    /// The thread is at it.
    Pending(Option<Waker>),
    Ready(Box<Result<T>>),
    /// The future has taken the result, or has gone.
    Taken,
}

impl<T: Send + 'static> Job<T> {
    /// Has a thread wait: `wait` is given the limits to wait under, and sleeps.
    pub(crate) fn start(
        deadline: Option<Instant>,
        mut tokens: Vec<CancelToken>,
        wait: impl FnOnce(Limits<'_>) -> Result<T> + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let job = Arc::new(Self {
            outcome: Mutex::new(Outcome::Pending(None)),
            abandoned: CancelToken::new(),
        });
        tokens.push(job.abandoned.clone());
        let result = Arc::clone(&job);
        let quiet = AllBlocked::around_a_waiter();
        thread::Builder::new().name("lockmgr-wait".into()).stack_size(STACK).spawn(move || {
            // The task is woken first: that takes longest, and nothing of it needs a tidy thread.
            let afterwards = Afterwards::default();
            let limits = Limits { afterwards: Some(&afterwards), ..Limits::new(deadline, &tokens) };
            result.finish(wait(limits));
        })?;
        drop(quiet);
        Ok(job)
    }

    fn finish(&self, result: Result<T>) {
        let mut outcome = self.outcome();
        match &mut *outcome {
            Outcome::Pending(waker) => {
                let waker = waker.take();
                *outcome = Outcome::Ready(Box::new(result));
                drop(outcome);
                if let Some(waker) = waker {
                    contain(|| waker.wake());
                }
            }
            // The future has gone; a lock granted in that moment is released here.
            Outcome::Ready(_) | Outcome::Taken => {
                drop(outcome);
                drop(result);
            }
        }
    }

    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Result<T>> {
        let mut outcome = self.outcome();
        if let Outcome::Pending(place) = &mut *outcome {
            let old = place.replace(waker.clone());
            drop(outcome);
            // A waker belongs to the program: dropping the last one of a task may run any code.
            drop(old);
            return Poll::Pending;
        }
        match mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Ready(result) => Poll::Ready(*result),
            Outcome::Pending(_) | Outcome::Taken => panic!("a finished wait was polled again"),
        }
    }

    pub(crate) fn abandon(&self) {
        let outcome = mem::replace(&mut *self.outcome(), Outcome::Taken);
        self.abandoned.cancel();
        drop(outcome);
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome<T>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no such thread.
pub(crate) fn cannot_wait(
    path: Option<Arc<Path>>,
    operation: &'static str,
    source: &io::Error,
) -> Error {
    // The kind of the source, `WouldBlock`, would be taken for a lock that is busy.
    let source = io::Error::other(format!("no thread can be started to wait with: {source}"));
    Error::Io { path, operation, source }
}
