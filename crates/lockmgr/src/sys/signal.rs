//! The signal that interrupts a sleeping lock call, and the calling thread's view of it.
//!
//! A thread that sleeps in `flock` or `fcntl` can only be woken by a signal whose handler was
//! installed without `SA_RESTART`. The library takes one real-time signal that nobody uses, gives
//! it a handler that does nothing, and never takes it away again: a late signal must not find the
//! default action, which is to kill the process. A signal that the program blocks may have no handler
//! and be used all the same (`signalfd`, `sigwait`), so it is taken only where all are blocked. Before
//! each contended wait [`ready`] looks whether
//! the handler is still ours; if other code has taken the signal, another one is chosen.
//!
//! References: `signal(7)`, `sigaction(2)`, `pthread_sigmask(3)`, `sigtimedwait(2)`.

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

/// What the signal is needed for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For a timer of the kernel: a real-time signal, unless the program uses all of them.
    Any,
    /// For a thread that sends it where nothing can be queued (`RLIMIT_SIGPENDING`).
    Classic,
}

/// Classic signals that next to no program uses, the least known first.
const CLASSIC: &[libc::c_int] = &[
    // Nothing has ever sent it on Linux. These processors have no such signal.
    #[cfg(not(any(
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "mips32r6",
        target_arch = "mips64r6",
        target_arch = "sparc",
        target_arch = "sparc64"
    )))]
    libc::SIGSTKFLT,
    // Its default action is to be ignored, and so it is with our handler.
    libc::SIGURG,
];

/// The chosen signals, 0 before the first contended wait.
static CHOSEN: AtomicI32 = AtomicI32::new(0);
static CHOSEN_CLASSIC: AtomicI32 = AtomicI32::new(0);

extern "C" fn do_nothing(_signal: libc::c_int) {}

/// The signal to use, with our handler in place.
pub(crate) fn ready(kind: Kind) -> io::Result<libc::c_int> {
    let place = match kind {
        Kind::Any => &CHOSEN,
        Kind::Classic => &CHOSEN_CLASSIC,
    };
    let chosen = place.load(Ordering::Acquire);
    if chosen != 0 && is_ours(chosen) {
        return Ok(chosen);
    }
    choose(kind, place, chosen)
}

/// Takes a free signal, if possible one that the calling thread does not block: real-time ones from the
/// top, because programs that use some count from the bottom.
///
/// Lock-free, so that a fork at this moment leaves nothing locked in the child. Two threads may
/// each install a handler; one of the two signals is then used by nobody, which does no harm.
#[cold]
fn choose(kind: Kind, place: &AtomicI32, stale: libc::c_int) -> io::Result<libc::c_int> {
    let realtime = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev().filter(|_| kind == Kind::Any);
    let (blocked, unblocked): (Vec<_>, Vec<_>) = {
        let mask = mask();
        realtime.chain(CLASSIC.iter().copied()).partition(|signal| contains(&mask, *signal))
    };
    for signal in unblocked.into_iter().chain(blocked) {
        if !is_ours(signal) && !take(signal) {
            continue;
        }
        return match place.compare_exchange(stale, signal, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(signal),
            Err(winner) => Ok(winner),
        };
    }
    Err(io::Error::other("no signal is free to interrupt a wait with"))
}

/// Installs our handler if the signal has none.
fn take(signal: libc::c_int) -> bool {
    if handler(signal) != Some(libc::SIG_DFL) {
        return false;
    }
    let Some(previous) = install(signal) else {
        return false;
    };
    if previous.sa_sigaction != libc::SIG_DFL {
        // Somebody else took it between the look and the call: give it back.
        // SAFETY: `previous` is what the kernel returned for this very signal.
        unsafe { libc::sigaction(signal, &raw const previous, ptr::null_mut()) };
        return false;
    }
    true
}

fn install(signal: libc::c_int) -> Option<libc::sigaction> {
    // SAFETY: an all-zero sigaction is a value of this C structure (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = do_nothing as *const () as usize;
    // On the alternate stack where the thread has one: it may be short of the ordinary one.
    action.sa_flags = libc::SA_ONSTACK;
    let mut previous = MaybeUninit::uninit();
    // SAFETY: both pointers are valid for the call; the handler does nothing, which is safe at any
    // moment in any thread.
    if unsafe { libc::sigaction(signal, &raw const action, previous.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    Some(unsafe { previous.assume_init() })
}

fn query(signal: libc::c_int) -> Option<libc::sigaction> {
    let mut current = MaybeUninit::uninit();
    // SAFETY: a null new action only asks; the result pointer is valid for the call.
    if unsafe { libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    Some(unsafe { current.assume_init() })
}

fn handler(signal: libc::c_int) -> Option<libc::sighandler_t> {
    query(signal).map(|action| action.sa_sigaction)
}

fn is_ours(signal: libc::c_int) -> bool {
    query(signal).is_some_and(|action| {
        action.sa_sigaction == do_nothing as *const () as usize
            && action.sa_flags & libc::SA_RESTART == 0
    })
}

/// The signal, unblocked for the calling thread until this is dropped.
///
/// If it was blocked before, whatever is still pending then is taken off first: a pending signal
/// survives `exec` and would kill the new program, where the handler is gone.
pub(crate) struct Unblocked {
    signal: libc::c_int,
    was_blocked: bool,
    // The mask is the thread's own.
    _here: std::marker::PhantomData<*const ()>,
}

impl Unblocked {
    pub(crate) fn new(signal: libc::c_int) -> Self {
        let mut before = MaybeUninit::uninit();
        let only = only(signal);
        // SAFETY: both sets are valid for the call; pthread_sigmask fails only for a bad `how`.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, before.as_mut_ptr()) };
        // SAFETY: filled by the call above.
        let before = unsafe { before.assume_init() };
        let was_blocked = contains(&before, signal);
        Self { signal, was_blocked, _here: std::marker::PhantomData }
    }
}

impl Drop for Unblocked {
    fn drop(&mut self) {
        if !self.was_blocked {
            return;
        }
        let only = only(self.signal);
        // SAFETY: a valid set; the old mask is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const only, ptr::null_mut()) };
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: valid set and timeout; the information about the signal is not asked for. At
        // most one instance per sender can be pending, and every sender has stopped by now.
        while unsafe { libc::sigtimedwait(&raw const only, ptr::null_mut(), &raw const now) } > 0 {}
    }
}

/// All signals blocked for the calling thread until this is dropped, so that a thread started
/// meanwhile takes none of the program's signals.
pub(crate) struct AllBlocked {
    before: libc::sigset_t,
    _here: std::marker::PhantomData<*const ()>,
}

impl AllBlocked {
    /// Where the new thread may need the signal of the library, that is chosen now: by the mask that
    /// the program has given the calling thread.
    pub(crate) fn around_a_waiter() -> Self {
        // Without one, the wait will say so.
        let _chosen = ready(Kind::Any);
        Self::new()
    }

    pub(crate) fn new() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigfillset only writes to the set it is given.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        // SAFETY: `all` was filled above, `before` is written by the call.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
        // SAFETY: filled by the call above.
        let before = unsafe { before.assume_init() };
        Self { before, _here: std::marker::PhantomData }
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one the kernel returned.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

/// The signals that the calling thread blocks.
fn mask() -> libc::sigset_t {
    let mut mask = MaybeUninit::uninit();
    // SAFETY: a null new mask only asks; the result pointer is valid for the call, which fails only for
    // a bad `how`.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr()) };
    // SAFETY: filled by the call above.
    unsafe { mask.assume_init() }
}

fn contains(set: &libc::sigset_t, signal: libc::c_int) -> bool {
    // SAFETY: an initialised set and a signal number the system gave us.
    unsafe { libc::sigismember(ptr::from_ref(set), signal) == 1 }
}

fn only(signal: libc::c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset only writes to the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised above.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: initialised above.
    unsafe { set.assume_init() }
}
