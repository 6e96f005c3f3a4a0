//! Signals taken one at a time, by asking for them: no handlers, so nothing is interrupted and nothing
//! races.
//!
//! Blocked signals wait in the kernel's queue until [`next_until`] fetches them, also those that would be
//! dropped by default (SIGCHLD, SIGWINCH) or by inheritance: the kernel never drops a signal that is
//! blocked. So whether one was inherited as ignored need only be looked up when it comes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;
use std::time::Instant;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub(crate) fn of(signals: &[Signal]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: it only writes to the set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigemptyset has initialised it.
        let mut set = SignalSet(unsafe { set.assume_init() });
        for signal in signals {
            // SAFETY: the set is initialised, and a `Signal` is a valid number.
            unsafe { libc::sigaddset(&raw mut set.0, signal.as_raw()) };
        }
        set
    }

    fn contains(&self, signal: Signal) -> bool {
        // SAFETY: the set is initialised, and a `Signal` is a valid number.
        unsafe { libc::sigismember(&raw const self.0, signal.as_raw()) == 1 }
    }

    pub(crate) fn unblock(&self) {
        self.change_mask(libc::SIG_UNBLOCK);
    }

    /// Returns the mask from before.
    fn change_mask(&self, how: i32) -> SignalSet {
        let mut before = SignalSet::of(&[]);
        // SAFETY: both sets are initialised; `how` is one of the three. It cannot fail then.
        unsafe { libc::pthread_sigmask(how, &raw const self.0, &raw mut before.0) };
        before
    }
}

/// Blocks the signals; returns those of them that were not blocked before.
pub(crate) fn block(signals: &[Signal]) -> SignalSet {
    let before = SignalSet::of(signals).change_mask(libc::SIG_BLOCK);
    let fresh: Vec<Signal> =
        signals.iter().copied().filter(|&signal| !before.contains(signal)).collect();
    SignalSet::of(&fresh)
}

/// Runs something with all signals blocked: threads that it starts take none of them.
pub(crate) fn with_all_blocked<T>(run: impl FnOnce() -> T) -> T {
    let mut all = SignalSet::of(&[]);
    // SAFETY: it only writes to the set it is given.
    unsafe { libc::sigfillset(&raw mut all.0) };
    let before = all.change_mask(libc::SIG_SETMASK);
    let result = run();
    before.change_mask(libc::SIG_SETMASK);
    result
}

/// What is done about the signals that the C library uses for threads. It installs handlers for them
/// when the first thread is started, and does not let them be looked at or changed.
pub(crate) struct Internal {
    actions: Vec<(i32, KernelAction)>,
}

/// The kernel's own structure, of which nothing need be known but that it is not larger than this.
type KernelAction = [u64; 8];

/// 32 and 33 with glibc, 34 with musl as well.
const INTERNAL: std::ops::RangeInclusive<i32> = 32..=34;

impl Internal {
    /// Notes it, for [`restore`](Self::restore). To be called before a thread is started.
    pub(crate) fn note() -> Self {
        let known = |signal| {
            let mut action = KernelAction::default();
            change_internal(signal, ptr::null(), &raw mut action).then_some((signal, action))
        };
        Self { actions: INTERNAL.filter_map(known).collect() }
    }

    /// Puts it back, when the threads have ended: the command is to inherit what was inherited.
    pub(crate) fn restore(&self) {
        for (signal, action) in &self.actions {
            change_internal(*signal, ptr::from_ref(action), ptr::null_mut());
        }
    }
}

/// # References
/// `rt_sigaction(2)`
fn change_internal(signal: i32, new: *const KernelAction, old: *mut KernelAction) -> bool {
    const SIZE_OF_SET: usize =
        if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };
    // SAFETY: each pointer is null or valid for the call; what is set was read by the same call.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SIZE_OF_SET) == 0 }
}

/// A signal that was taken from the queue.
pub(crate) struct Received {
    pub(crate) signal: Signal,
    pub(crate) sender: Sender,
}

/// Where a signal came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// The terminal, or another part of the kernel.
    Kernel,
    /// A process; `None` when it is in a pid namespace that we do not see, or is not told.
    Process(Option<Pid>),
}

/// Sleeps until one of the signals comes, and takes it from the queue. `None` when the time is over and none
/// has come; without an end it is never over.
///
/// # References
/// `sigwaitinfo(2)`, `sigtimedwait(2)`
pub(crate) fn next_until(of: &SignalSet, end: Option<Instant>) -> io::Result<Option<Received>> {
    loop {
        let left = end.map(|end| {
            let left = end.saturating_duration_since(Instant::now());
            // More seconds than the kernel can count are as good as all that it can.
            let seconds = libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX);
            libc::timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() }
        });
        let left = left.as_ref().map_or(ptr::null(), ptr::from_ref);
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: the set is initialised, `info` has room for what is written, and `left` is null or points
        // to a time that lives for the call.
        let number = unsafe { libc::sigtimedwait(&raw const of.0, info.as_mut_ptr(), left) };
        if number < 0 {
            let error = io::Error::last_os_error();
            match error.kind() {
                // A stop and a continuation end the call, too.
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(error),
            }
        }
        // SAFETY: it was zeroed, which is a valid value, and then written by the kernel.
        let info = unsafe { info.assume_init() };
        let Some(signal) = Signal::from_named_raw(number) else {
            continue;
        };
        let sender = match info.si_code {
            libc::SI_KERNEL => Sender::Kernel,
            libc::SI_USER | libc::SI_TKILL | libc::SI_QUEUE => {
                // SAFETY: these three codes come with the sender's pid.
                Sender::Process(Pid::from_raw(unsafe { info.si_pid() }))
            }
            _ => Sender::Process(None),
        };
        return Ok(Some(Received { signal, sender }));
    }
}

/// A descriptor that is readable while one of the signals, which must be blocked, waits in the queue;
/// [`next_until`] takes it from there.
///
/// # References
/// `signalfd(2)`
pub(crate) fn readable_when(pending: &SignalSet) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised, and -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const pending.0, libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just made, and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes a blocked signal from the queue if it is there.
///
/// # References
/// `sigtimedwait(2)`
pub(crate) fn take(signal: Signal) -> bool {
    let set = SignalSet::of(&[signal]);
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set and the time are initialised, and a null pointer asks for no details.
    unsafe { libc::sigtimedwait(&raw const set.0, ptr::null_mut(), &raw const at_once) > 0 }
}

/// Whether a blocked signal waits in the queue.
///
/// # References
/// `sigpending(2)`
pub(crate) fn is_pending(signal: Signal) -> bool {
    let mut pending = SignalSet::of(&[]);
    // SAFETY: the set has room for what is written.
    unsafe { libc::sigpending(&raw mut pending.0) };
    pending.contains(signal)
}

/// Returns whether the signal is ignored in this process.
pub(crate) fn is_ignored(number: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null pointer changes nothing; `action` has room for what is written.
    let asked = unsafe { libc::sigaction(number, ptr::null(), action.as_mut_ptr()) };
    // SAFETY: it was zeroed, which is a valid value, and then perhaps written by the kernel.
    asked == 0 && unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Gives the signal its default action, for us and for whoever is started from now on.
pub(crate) fn reset(number: i32) {
    // SAFETY: it installs no handler.
    unsafe { libc::signal(number, libc::SIG_DFL) };
}

/// Signals that were inherited as ignored and that lockmgr needs for itself; the command gets them
/// back.
#[derive(Default)]
pub(crate) struct Unignored(Vec<i32>);

impl Unignored {
    /// Gives an ignored signal its default action.
    pub(crate) fn take(&mut self, number: i32) {
        if is_ignored(number) {
            self.0.push(number);
            // SAFETY: it installs no handler.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
    }

    /// Ignores them again. Allocates nothing and takes no lock: the child calls it.
    pub(crate) fn give_back(&self) {
        for &number in &self.0 {
            // SAFETY: it installs no handler.
            unsafe { libc::signal(number, libc::SIG_IGN) };
        }
    }
}

/// Sends ourselves a blocked signal and lets it act before returning, if it lets us return: it stops or
/// ends this process, or the kernel knows better (no stop in an orphaned process group).
pub(crate) fn suffer(signal: Signal) {
    // It cannot fail for our own pid.
    if kill_process(getpid(), signal).is_ok() {
        act_on(signal);
    }
}

/// Lets a blocked signal act if it has been sent.
pub(crate) fn act_on(signal: Signal) {
    SignalSet::of(&[signal]).unblock();
    block(&[signal]);
}

/// Runs something that writes to a file with the signal blocked that a limit on the size of files sends: the
/// write fails instead.
pub(crate) fn without_size_signal<T>(write: impl FnOnce() -> T) -> T {
    let fresh = block(&[Signal::XFSZ]);
    let result = write();
    if fresh.contains(Signal::XFSZ) {
        take(Signal::XFSZ);
        fresh.unblock();
    }
    result
}
