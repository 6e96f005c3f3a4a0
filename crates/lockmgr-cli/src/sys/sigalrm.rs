//! SIGALRM as flock(1) treats it: while it waits with a timeout, and afterwards, a SIGALRM of somebody
//! else does not kill it. And the original's own timer, for those who want no other.

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static EXPIRED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_alarm(
    _signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a pointer to what it knows about the signal.
    if unsafe { (*info).si_code } == libc::SI_TIMER {
        EXPIRED.store(true, Ordering::Relaxed);
    }
}

/// Takes the signal, so that it interrupts and does nothing else. A new program starts with the default.
fn heed() {
    // SAFETY: an all-zero sigaction is a value of this C structure (empty mask).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_alarm as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the action lives for the call; the handler only stores into an atomic.
    unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
}

/// Sees to it that SIGALRM does not kill. Where it is ignored, that is so already, and stays so for the
/// command.
pub(crate) fn survive() {
    if !super::signals::is_ignored(libc::SIGALRM) {
        heed();
    }
}

/// The original's timer: after the time is up it interrupts, again and again.
pub(crate) struct Timer(libc::timer_t);

impl Timer {
    /// # References
    /// `timer_create(2)`, `timer_settime(2)`
    pub(crate) fn start(first: Duration) -> io::Result<Self> {
        heed();
        // SAFETY: an all-zero sigevent is a value of this C structure.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGALRM;
        let mut timer = MaybeUninit::uninit();
        // SAFETY: both pointers are valid for the call.
        let created = unsafe {
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr())
        };
        if created != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so the id is there.
        let timer = Timer(unsafe { timer.assume_init() });
        let seconds = first.as_secs();
        let centiseconds = if seconds == 0 { 1 } else { seconds % 100 };
        let again = Duration::from_secs(seconds / 100) + Duration::from_millis(10 * centiseconds);
        let spec = libc::itimerspec { it_interval: timespec(again), it_value: timespec(first) };
        // SAFETY: the id is of the timer above; the old setting is not asked for.
        match unsafe { libc::timer_settime(timer.0, 0, &raw const spec, ptr::null_mut()) } {
            0 => Ok(timer),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether it has interrupted.
    pub(crate) fn has_expired() -> bool {
        EXPIRED.load(Ordering::Relaxed)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the id came from timer_create, and is not used after this.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
