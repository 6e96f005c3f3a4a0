//! The interruptible kernel wait: sleep in one system call until it is done, the deadline has
//! passed, somebody cancels, or it turns out to be a deadlock.
//!
//! Protocol:
//! 1. Without a deadline and without a token the call is simply made; foreign signals resume it.
//! 2. Otherwise (or with a watch for deadlocks) an alarm is set for this thread ([`Alarm`]), which from the deadline on interrupts
//!    the call until we have noticed, and the alarm's trigger is entered into every token and the watch.
//! 3. Only then the flags are looked at, and the call is made; after `EINTR` from 3 again.
//!
//! A deadline that passes between the look and the call is not missed, because the alarm repeats.
//! `EINTR` from the program's own signals resumes with the time that is left. Nothing of ours
//! interrupts the call for any other reason: a waiter that is interrupted loses its place in the
//! kernel's queue.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::cancel::{CancelToken, Interrupt};
use crate::sys::alarm::{Alarm, Trigger};
use crate::watch::Watch;

/// What ends a wait besides success.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    pub(crate) deadline: Option<Instant>,
    pub(crate) tokens: &'a [CancelToken],
    /// Called as soon as the kernel has granted the lock, before anything is tidied up.
    pub(crate) on_grant: Option<&'a dyn Fn()>,
    /// Descriptors of holds that are promised to last as long as the wait.
    pub(crate) kept: &'a [u32],
    /// Looks for a deadlock meanwhile.
    pub(crate) watch: Option<&'a Arc<Watch>>,
}

/// Why a wait ended without success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    TimedOut,
    Cancelled,
    /// The wait is part of a deadlock, which the watch can tell.
    Deadlock,
    /// Nothing can be had that would end the sleep in time, so it was not begun.
    NoAlarm,
    Os(Errno),
}

impl<'a> Limits<'a> {
    /// Limits with nothing else to see to.
    pub(crate) fn new(deadline: Option<Instant>, tokens: &'a [CancelToken]) -> Self {
        Self { deadline, tokens, on_grant: None, kept: &[], watch: None }
    }

    /// Returns an error when the wait must end now.
    pub(crate) fn check(&self) -> Result<(), Stop> {
        if self.tokens.iter().any(CancelToken::is_cancelled) {
            Err(Stop::Cancelled)
        } else if self.watch.is_some_and(|watch| watch.has_found()) {
            Err(Stop::Deadlock)
        } else if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            Err(Stop::TimedOut)
        } else {
            Ok(())
        }
    }
}

impl Interrupt for Trigger {
    fn interrupt(&self) {
        self.fire();
    }
}

/// Makes a sleeping system call under limits.
pub(crate) fn interruptible(
    limits: Limits<'_>,
    mut call: impl FnMut() -> Result<(), Errno>,
) -> Result<(), Stop> {
    if limits.deadline.is_none() && limits.tokens.is_empty() && limits.watch.is_none() {
        loop {
            match call() {
                Err(Errno::INTR) => {}
                result => return result.map_err(Stop::Os),
            }
        }
    }
    limits.check()?;
    let alarm = Alarm::set(limits.deadline).map_err(|_| Stop::NoAlarm)?;
    // Left before the alarm is dropped, though even a late trigger would do no harm.
    let _entries: Vec<_> = limits.tokens.iter().map(|token| token.enter(alarm.trigger())).collect();
    let _watching = limits.watch.map(|watch| watch.begin(alarm.trigger()));
    loop {
        limits.check()?;
        match call() {
            Err(Errno::INTR) => {}
            result => {
                if let (Ok(()), Some(on_grant)) = (result, limits.on_grant) {
                    on_grant();
                }
                return result.map_err(Stop::Os);
            }
        }
    }
}

/// Makes a system call that may sleep, until it is done or the deadline has passed.
///
/// For programs that open and lock descriptors themselves: this is the wait of
/// [`FileLock`](crate::FileLock) alone, without its handle, guard or path check. `call` makes one
/// system call and returns its result; it is made again after a signal that was not ours, and not
/// at all when the deadline has passed already. `None` when the deadline came first.
///
/// The sleep is ended by a signal that is the library's own, so the deadline holds whatever the
/// program's mask and actions for SIGALRM are. Without a deadline no signal is needed.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("fifo");
/// # let made = std::process::Command::new("mkfifo").arg(&path).status()?; assert!(made.success());
/// use std::fs::File;
/// use std::time::{Duration, Instant};
///
/// // Nobody writes into this FIFO, and opening it waits for somebody who does.
/// let deadline = Instant::now() + Duration::from_millis(20);
/// let opened = lockmgr::call_until(Some(deadline), || {
///     rustix::fs::open(&path, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
///         .map_err(Into::into)
/// })?;
/// assert!(opened.is_none());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// What the call returned, except for `EINTR`; [`io::ErrorKind::Other`] when the system has neither a
/// timer nor a signal left to end the sleep with, and the call was not made.
///
/// What no signal ends, no deadline ends either: a call that was passed on to the server of a FUSE
/// filesystem may be of that kind. [`FileLock`](crate::FileLock) does not sleep in those.
///
/// # Cancel safety
/// A call that was interrupted has not been done: the kernel says either `EINTR` or success.
///
/// # References
/// `signal(7)` (interruption of system calls)
pub fn call_until<T>(
    deadline: Option<Instant>,
    mut call: impl FnMut() -> io::Result<T>,
) -> io::Result<Option<T>> {
    let mut outcome = None;
    let limits = Limits::new(deadline, &[]);
    let ended = interruptible(limits, || match call() {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Errno::INTR),
        result => {
            outcome = Some(result);
            Ok(())
        }
    });
    match ended {
        Ok(()) => outcome.transpose(),
        Err(Stop::TimedOut | Stop::Cancelled | Stop::Deadlock) => Ok(None),
        Err(Stop::NoAlarm) => {
            Err(io::Error::other("no timer or signal is left to end the wait with"))
        }
        Err(Stop::Os(errno)) => Err(errno.into()),
    }
}
