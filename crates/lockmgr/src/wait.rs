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
//! `EINTR` from the program's own signals resumes with the time that is left, unless the program said in
//! [`ask_on_signal`] that it wants to be asked, and says no. While it is asked there is no alarm, which
//! could only disturb what the answer itself waits for. Nothing of ours interrupts the call for any
//! other reason: a waiter that is interrupted loses its place in the kernel's queue.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use crate::cancel::{CancelToken, Entry, Interrupt};
use crate::sys::alarm::{Alarm, Trigger};
use crate::watch::{Watch, Watching};

/// What ends a wait besides success.
#[derive(Clone, Copy)]
pub(crate) struct Limits<'a> {
    pub(crate) deadline: Option<Instant>,
    pub(crate) tokens: &'a [CancelToken],
    /// Where to leave what a granted wait has to tidy up, for whoever has something better to do first.
    pub(crate) afterwards: Option<&'a Afterwards>,
    /// Descriptors of holds that are promised to last as long as the wait.
    pub(crate) kept: &'a [u32],
    /// Looks for a deadlock meanwhile.
    pub(crate) watch: Option<&'a Arc<Watch>>,
}

/// What was set up for a wait that is over: dropped, it is tidied up. Until then the alarm may go on
/// interrupting the system calls of this thread.
#[derive(Default)]
pub(crate) struct Afterwards(RefCell<Option<Setup>>);

/// In the order of its drop: the entries are left before the alarm is, though even a late trigger would do
/// no harm.
struct Setup {
    _entries: Vec<Entry>,
    _watching: Option<Watching>,
    _alarm: Alarm,
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
        Self { deadline, tokens, afterwards: None, kept: &[], watch: None }
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

impl Setup {
    fn new(limits: Limits<'_>) -> Result<Self, Stop> {
        let alarm = Alarm::set(limits.deadline).map_err(|_| Stop::NoAlarm)?;
        Ok(Self {
            _entries: limits.tokens.iter().map(|token| token.enter(alarm.trigger())).collect(),
            _watching: limits.watch.map(|watch| watch.begin(alarm.trigger())),
            _alarm: alarm,
        })
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
                Err(Errno::INTR) => interrupted()?,
                result => return result.map_err(Stop::Os),
            }
        }
    }
    limits.check()?;
    let mut setup = Setup::new(limits)?;
    loop {
        limits.check()?;
        match call() {
            Err(Errno::INTR) => {
                limits.check()?;
                if GO_ON.with_borrow(Option::is_some) {
                    // An alarm that goes off meanwhile is not to interrupt what the answer waits for.
                    drop(setup);
                    interrupted()?;
                    limits.check()?;
                    setup = Setup::new(limits)?;
                }
            }
            result => {
                if let (Ok(()), Some(Afterwards(place))) = (result, limits.afterwards) {
                    // What an earlier wait may have left is dropped here.
                    place.replace(Some(setup));
                }
                return result.map_err(Stop::Os);
            }
        }
    }
}

thread_local! {
    /// Whom this thread asks whether to wait on; nobody while the answer is being given.
    static GO_ON: RefCell<Option<GoOn>> = const { RefCell::new(None) };
}

type GoOn = Box<dyn Fn() -> bool>;

/// Puts back who was asked before, also after a panic.
struct PutBack(Option<GoOn>);

impl Drop for PutBack {
    fn drop(&mut self) {
        let before = self.0.take();
        drop(GO_ON.replace(before));
    }
}

/// After `EINTR` that was not ours: asks whether to wait on.
pub(crate) fn interrupted() -> Result<(), Stop> {
    // Out of the cell meanwhile: the answer may take locks itself, and what interrupts that is not for
    // it to answer.
    let asked = PutBack(GO_ON.take());
    if asked.0.as_ref().is_none_or(|go_on| go_on()) { Ok(()) } else { Err(Stop::Cancelled) }
}

/// Runs `body`. When a signal handler of the program interrupts one of this thread's waits in it, asks
/// `go_on`; on `false` the wait ends with [`Error::Cancelled`](crate::Error::Cancelled), on `true` it is
/// resumed with the time that is left.
///
/// For language runtimes, whose C handler only notes a signal, and who must leave the wait to act on it:
/// `go_on` runs outside the handler, in the waiting thread, with no lock of this library's held. Every
/// wait is meant, of [`FileLock`](crate::FileLock), [`LockSet`](crate::LockSet),
/// [`Semaphore`](crate::Semaphore) and of [`call_until`], in the kernel and for one's turn in this
/// process; not those of futures, which sleep in a thread that gets no signals.
///
/// `go_on` may take locks itself: it is not asked about those waits, which are resumed after a signal,
/// unless it says otherwise by an `ask_on_signal` of its own. Meanwhile the interrupted wait stands
/// still; if its time is over when `go_on` returns, it ends then.
///
/// A handler that was installed with `SA_RESTART` interrupts nothing. A signal that arrives in the
/// microseconds between `body`'s own last look and the sleep is not noticed by the sleep.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use lockmgr::FileLock;
///
/// // Set by a handler of SIGINT.
/// static INTERRUPTED: AtomicBool = AtomicBool::new(false);
///
/// let lock = FileLock::open(&path)?;
/// let guard = lockmgr::ask_on_signal(|| !INTERRUPTED.load(Ordering::SeqCst), || lock.lock())?;
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # References
/// `signal(7)` (interruption of system calls)
pub fn ask_on_signal<T>(go_on: impl Fn() -> bool + 'static, body: impl FnOnce() -> T) -> T {
    let _before = PutBack(GO_ON.replace(Some(Box::new(go_on))));
    body()
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
