//! How a Python thread or an event loop waits.
//!
//! | who | while the lock is free | while it is not |
//! |---|---|---|
//! | a thread | one attempt under the GIL | sleeps in the kernel without the GIL; a signal that interrupts the sleep takes the GIL for its Python handler |
//! | a task | the same attempt | the library's waiter thread sleeps, and writes an eventfd ([`Wait`]) |

use std::cell::RefCell;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lockmgr::{Error, FileLock, Mode, OwnedFileLockGuard};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::error::{After, exception};
use crate::hold::{Guard, Hold};
use crate::log::{self, Place};
use crate::options::Patience;

/// Whether it takes its time even to acquire a lock that is free, or to release it. Then it is done without
/// the GIL.
pub(crate) struct Pace {
    slow: AtomicBool,
    known: AtomicBool,
}

impl Pace {
    /// Of a lock that was never acquired. Where its file is created each time, or waits for its disk, it is
    /// always slow.
    pub(crate) fn new(always_slow: bool) -> Self {
        Self { slow: AtomicBool::new(true), known: AtomicBool::new(always_slow) }
    }

    /// The first acquisition opens the file, and tells on what kind of filesystem it lies.
    fn learn(&self, guard: &OwnedFileLockGuard) {
        if !self.known.swap(true, Ordering::Relaxed) {
            self.slow.store(guard.is_remote(), Ordering::Relaxed);
        }
    }

    pub(crate) fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Runs something about the lock, without the GIL if it may take its time.
    pub(crate) fn run<T: Send>(&self, py: Python<'_>, what: impl FnOnce() -> T + Send) -> T {
        if self.is_slow() { py.detach(what) } else { what() }
    }
}

/// One attempt. `Ok(Err(…))` when somebody has the lock.
///
/// `in_turn` is for who is going to wait: through a fair lock such an attempt overtakes nobody.
pub(crate) fn attempt(
    py: Python<'_>,
    lock: &FileLock,
    mode: Mode,
    in_turn: bool,
    pace: &Pace,
) -> PyResult<Result<OwnedFileLockGuard, Error>> {
    let attempt = lock.acquire().mode(mode);
    let attempt = || if in_turn { attempt.try_in_turn_owned() } else { attempt.try_now_owned() };
    match pace.run(py, attempt) {
        Ok(guard) => {
            pace.learn(&guard);
            Ok(Ok(guard))
        }
        Err(error) if error.is_contended() => Ok(Err(error)),
        Err(error) => Err(exception(py, error, After::Attempt)),
    }
}

/// Acquires a lock, asleep if need be. `before_sleep` is asked when it turns out to be taken.
pub(crate) fn acquire(
    py: Python<'_>,
    lock: &FileLock,
    mode: Mode,
    patience: Patience,
    pace: &Pace,
    before_sleep: impl FnOnce() -> PyResult<()>,
) -> PyResult<OwnedFileLockGuard> {
    match attempt(py, lock, mode, patience != Patience::Now, pace)? {
        Ok(guard) => return Ok(guard),
        Err(busy) if patience == Patience::Now => {
            return Err(exception(py, busy, After::Attempt));
        }
        Err(_) => {}
    }
    let deadline = patience.deadline();
    before_sleep()?;
    log::while_waiting(py, Place::of(lock).as_ref(), || {
        sleep(py, || {
            let acquire = lock.acquire().mode(mode);
            match deadline {
                Some(deadline) => acquire.deadline(deadline),
                None => acquire,
            }
            .wait_owned()
        })
    })
}

/// Runs a wait of the library without the GIL, and Python's signal handlers in between.
///
/// A daemon thread that comes out of its sleep while the interpreter is taken down does not get the GIL
/// any more; PyO3 keeps it where it is until the process ends.
pub(crate) fn sleep<T: Send>(
    py: Python<'_>,
    wait: impl FnOnce() -> Result<T, Error> + Send,
) -> PyResult<T> {
    // What came before the wait does not interrupt it.
    py.check_signals()?;
    let (outcome, raised) = py.detach(|| {
        let raised: Rc<RefCell<Option<PyErr>>> = Rc::default();
        let place = Rc::clone(&raised);
        let go_on = move || {
            #[expect(
                clippy::redundant_closure_for_method_calls,
                reason = "it is not general enough"
            )]
            let handled = Python::try_attach(|py| py.check_signals());
            // None while the interpreter is taken down: then there is nobody to handle anything.
            match handled {
                None | Some(Ok(())) => true,
                Some(Err(error)) => {
                    place.replace(Some(error));
                    false
                }
            }
        };
        let outcome = lockmgr::ask_on_signal(go_on, wait);
        (outcome, raised.take())
    });
    match (outcome, raised) {
        // A handler that raised is the reason; a lock that was granted all the same is released.
        (_, Some(raised)) => Err(raised),
        (Ok(guard), None) => Ok(guard),
        (Err(error), None) => Err(exception(py, error, After::Wait)),
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Guard, Error>> + Send>>;

/// A wait that blocks nobody. When its descriptor is readable, poll() it.
///
/// Ends with cancel(), or when nothing refers to it any more: then nothing is held and no thread stays
/// behind.
#[pyclass(frozen, module = "lockmgr._lockmgr", weakref)]
pub(crate) struct Wait {
    waiting: Mutex<Option<Waiting>>,
    /// The release of what it gets may take its time.
    slow: bool,
    /// What it waits for, for the log.
    place: Option<Place>,
    bell: Arc<Bell>,
}

/// What the library's waiter thread rings. It lives as long as anybody may ring it.
struct Bell {
    eventfd: OwnedFd,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It can only fail when it has been rung 2^64 times.
        let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
    }
}

impl Wait {
    pub(crate) fn new(waiting: Waiting, slow: bool) -> PyResult<Self> {
        let eventfd =
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| {
                PyOSError::new_err((errno.raw_os_error(), "cannot make an eventfd"))
            })?;
        let waiting = Mutex::new(Some(waiting));
        Ok(Self { waiting, slow, place: None, bell: Arc::new(Bell { eventfd }) })
    }

    /// What the log is told of when it lasts.
    pub(crate) fn about(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    pub(crate) fn for_lock(
        lock: &FileLock,
        mode: Mode,
        patience: Patience,
        slow: bool,
    ) -> PyResult<Self> {
        let acquire = lock.acquire().mode(mode);
        let future = match patience.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Self::new(Box::pin(async move { future.await.map(Guard::Lock) }), slow)
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Wait {
    /// The descriptor that becomes readable when poll() has something to say.
    fn fileno(&self) -> i32 {
        self.bell.eventfd.as_raw_fd()
    }

    /// What the log will be told of if it lasts, to be ended with it; None if nobody listens.
    #[pyo3(name = "_notice")]
    fn notice<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.place.as_ref().map_or(Ok(None), |place| place.notice(py))
    }

    /// A Hold when the lock has been acquired, None while it has not; raises when it never will be.
    /// Poll once before the first wait for the descriptor, which begins the waiting.
    fn poll(&self, py: Python<'_>) -> PyResult<Option<Hold>> {
        // Who was in the way is not looked for at once: that would block the loop.
        self.look(py, After::Attempt)
    }

    /// Ends the wait at once. Nothing is held then. Without effect when it is over.
    pub(crate) fn cancel(&self) {
        let over = self.waiting().take();
        drop(over);
    }
}

/// For a thread that asks something else in between.
impl Wait {
    /// As `poll`; and whoever was in the way is looked for as after this.
    pub(crate) fn look(&self, py: Python<'_>, after: After) -> PyResult<Option<Hold>> {
        let mut count = [0; 8];
        // Empty unless it was rung.
        let _ = rustix::io::read(&self.bell.eventfd, &mut count);
        let mut place = self.waiting();
        let Some(waiting) = &mut *place else {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("the wait is over"));
        };
        let waker = Waker::from(Arc::clone(&self.bell));
        match waiting.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => Ok(None),
            Poll::Ready(outcome) => {
                let over = place.take();
                drop(place);
                drop(over);
                match outcome {
                    Ok(guard) => Ok(Some(Hold::new(guard, self.slow))),
                    Err(error) => Err(exception(py, error, after)),
                }
            }
        }
    }

    /// Sleeps until there is something to poll, or so long. Python's signal handlers run.
    pub(crate) fn pause(&self, py: Python<'_>, time: Duration) -> PyResult<()> {
        py.check_signals()?;
        let bell = Arc::clone(&self.bell);
        // What is longer than the kernel can count is cut.
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        // An interruption is as good as a pause.
        py.detach(|| {
            let _ = poll(&mut [PollFd::new(&bell.eventfd, PollFlags::IN)], Some(&time));
        });
        py.check_signals()
    }
}
