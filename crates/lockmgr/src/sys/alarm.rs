//! An alarm that interrupts the calling thread's system call, at a time or when told to.
//!
//! A POSIX timer aimed at one thread (`SIGEV_THREAD_ID`). One signal is not enough: it may arrive
//! just before the thread enters the call, or together with a signal of the host whose handler
//! restarts system calls. So a timer that went off repeats until the waiter has noticed and drops
//! the alarm. Until it goes off it costs nothing, and nothing wakes up.
//!
//! Where the kernel has no timer to give (`EAGAIN`: `RLIMIT_SIGPENDING` counts timers), a helper
//! thread sends the signals instead. The same limit makes the kernel refuse to queue real-time
//! signals for another thread, so the helper sends a classic one, which needs no queue.
//!
//! The order at the end matters: first no more signals can be sent, then the pending one is taken
//! off, then the thread's signal mask is restored. That is the order of the fields' drop.
//!
//! References: `timer_create(2)`, `timer_settime(2)`, `tgkill(2)`.

use std::io;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::gettid;

use crate::sys::signal::{self, AllBlocked, Kind, Unblocked};

/// Time between two signals of an alarm that went off.
const REPEAT: Duration = Duration::from_micros(250);

/// Interrupts the calling thread's system calls from `deadline` on, or from [`Trigger::fire`] on.
pub(crate) struct Alarm {
    trigger: Arc<Trigger>,
    helper: Option<thread::JoinHandle<()>>,
    // Dropped after the drop of `Alarm` itself, which stops all sending.
    _unblocked: Unblocked,
}

/// The part of an alarm that other threads may hold.
pub(crate) struct Trigger {
    sender: Mutex<Sender>,
    changed: Condvar,
}

enum Sender {
    /// The kernel sends.
    Timer(libc::timer_t),
    /// The helper thread sends, once `due` has come.
    Helper { due: Option<Instant> },
    /// The waiter is gone: nothing is sent any more.
    Stopped,
}

// SAFETY: a timer id is a name in the process, not a pointer into a thread; any thread may use it.
unsafe impl Send for Sender {}

impl Alarm {
    /// Sets an alarm for the calling thread; without a deadline it waits to be fired.
    pub(crate) fn set(deadline: Option<Instant>) -> io::Result<Self> {
        let thread = gettid().as_raw_nonzero().get();
        let signal = signal::ready(Kind::Any)?;
        match create_timer(signal, thread) {
            Ok(timer) => {
                let unblocked = Unblocked::new(signal);
                if let Some(deadline) = deadline {
                    arm(timer, deadline.saturating_duration_since(Instant::now()));
                }
                let trigger = Trigger::new(Sender::Timer(timer));
                Ok(Self { trigger, helper: None, _unblocked: unblocked })
            }
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                Self::with_helper(deadline, thread)
            }
            Err(error) => Err(error),
        }
    }

    #[cold]
    fn with_helper(deadline: Option<Instant>, thread: libc::pid_t) -> io::Result<Self> {
        let signal = signal::ready(Kind::Classic)?;
        let unblocked = Unblocked::new(signal);
        let trigger = Trigger::new(Sender::Helper { due: deadline });
        let sending = Arc::clone(&trigger);
        let quiet = AllBlocked::new();
        let helper = thread::Builder::new()
            .name("lockmgr-alarm".into())
            .stack_size(64 * 1024)
            .spawn(move || sending.send_signals(signal, thread))?;
        drop(quiet);
        Ok(Self { trigger, helper: Some(helper), _unblocked: unblocked })
    }

    /// The part to give to whoever may end the wait.
    pub(crate) fn trigger(&self) -> Arc<Trigger> {
        Arc::clone(&self.trigger)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let old = mem::replace(&mut *self.trigger.lock(), Sender::Stopped);
        if let Sender::Timer(timer) = old {
            // SAFETY: the id came from timer_create, and nobody can use it any more: `Stopped` has
            // taken its place under the mutex.
            unsafe { libc::timer_delete(timer) };
        }
        if let Some(helper) = self.helper.take() {
            self.trigger.changed.notify_all();
            // The helper cannot panic; if it did, there is nothing to send any more either.
            drop(helper.join());
        }
    }
}

impl Trigger {
    fn new(sender: Sender) -> Arc<Self> {
        Arc::new(Self { sender: Mutex::new(sender), changed: Condvar::new() })
    }

    /// Starts interrupting now. Harmless when the waiter has gone, and when called twice.
    pub(crate) fn fire(&self) {
        match &mut *self.lock() {
            Sender::Timer(timer) => arm(*timer, Duration::ZERO),
            Sender::Helper { due } => *due = Some(Instant::now()),
            Sender::Stopped => {}
        }
        self.changed.notify_all();
    }

    /// The helper thread.
    fn send_signals(&self, signal: libc::c_int, thread: libc::pid_t) {
        let process = rustix::process::getpid().as_raw_nonzero().get();
        let mut sender = self.lock();
        while let Sender::Helper { due } = *sender {
            let now = Instant::now();
            let pause = match due {
                Some(due) if due <= now => {
                    // SAFETY: tgkill has no memory effects. The thread exists: it joins this one
                    // before it leaves the wait.
                    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
                    Some(REPEAT)
                }
                Some(due) => Some(due - now),
                None => None,
            };
            sender = match pause {
                Some(pause) => {
                    self.changed
                        .wait_timeout(sender, pause)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.changed.wait(sender).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sender> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stopped timer that sends `signal` to `thread`.
fn create_timer(signal: libc::c_int, thread: libc::pid_t) -> io::Result<libc::timer_t> {
    // SAFETY: an all-zero sigevent is a value of this C structure.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event.sigev_notify_thread_id = thread;
    let mut timer = MaybeUninit::uninit();
    // SAFETY: both pointers are valid for the call.
    let result =
        unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, timer.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so the id is there.
    Ok(unsafe { timer.assume_init() })
}

/// Makes the timer go off after `delay`, and then every [`REPEAT`].
fn arm(timer: libc::timer_t, delay: Duration) {
    // Zero would stop the timer instead.
    let delay = delay.max(Duration::from_nanos(1));
    let spec = libc::itimerspec { it_interval: timespec(REPEAT), it_value: timespec(delay) };
    // SAFETY: the caller holds the mutex under which the id is valid; the old setting is not asked
    // for. It fails only for a bad id or a bad time, and neither can be.
    unsafe { libc::timer_settime(timer, 0, &raw const spec, ptr::null_mut()) };
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: duration.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
