//! A held lock as a Python object.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockmgr::{Error, Mode, OwnedFileLockGuard, OwnedLockSetGuard, SemaphoreGuard};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::{After, exception};
use crate::holds::Guarded;
use crate::log::Happened;
use crate::several::Several;

/// What can be held.
pub(crate) enum Guard {
    Lock(OwnedFileLockGuard),
    Slots(SemaphoreGuard),
    Set(OwnedLockSetGuard),
}

impl Guard {
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Guard::Lock(guard) => guard.is_held(),
            Guard::Slots(guard) => guard.is_held(),
            Guard::Set(guard) => guard.is_held(),
        }
    }

    /// How many slots it is, where there are some.
    pub(crate) fn count(&self) -> usize {
        match self {
            Guard::Slots(guard) => guard.slots().len(),
            _ => 1,
        }
    }

    /// Releases, and tells what dropping would keep to itself.
    pub(crate) fn unlock(self) -> Result<(), Error> {
        match self {
            Guard::Lock(guard) => guard.unlock(),
            Guard::Slots(guard) => guard.release(),
            Guard::Set(guard) => guard.unlock(),
        }
    }
}

/// A held lock, released by release() or when nothing refers to it any more.
///
/// It belongs to the process that acquired it: in a forked child it holds nothing.
#[pyclass(frozen, module = "lockmgr._lockmgr", weakref)]
pub(crate) struct Hold {
    kept: Arc<Kept>,
}

/// The guard, until it is released.
pub(crate) struct Kept {
    guard: Mutex<Option<Guard>>,
    /// Its release may take its time, and is done without the GIL.
    slow: bool,
    /// A `with` has taken it.
    entered: AtomicBool,
    /// What its release is told of by, if it is.
    several: Option<Arc<dyn Several>>,
}

impl Kept {
    pub(crate) fn new(guard: Guard, slow: bool, several: Option<Arc<dyn Several>>) -> Arc<Self> {
        let (guard, entered) = (Mutex::new(Some(guard)), AtomicBool::new(false));
        Arc::new(Self { guard, slow, entered, several })
    }

    pub(crate) fn guard(&self) -> MutexGuard<'_, Option<Guard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Releases, if that was not done. With `check`, tells what dropping would keep to itself.
    pub(crate) fn release(&self, py: Python<'_>, check: bool) -> PyResult<()> {
        let Some(guard) = self.guard().take() else { return Ok(()) };
        let (held, count) = (guard.is_held(), guard.count());
        let release = || {
            if check && held {
                guard.unlock()
            } else {
                drop(guard);
                Ok(())
            }
        };
        let outcome = if self.slow { py.detach(release) } else { release() };
        if held && let Some(several) = &self.several {
            several.tell(py, Happened::Released, count)?;
        }
        outcome.map_err(|error| exception(py, error, After::Attempt))
    }
}

impl Guarded for Arc<Kept> {
    fn is_held(&self) -> bool {
        self.guard().as_ref().is_some_and(Guard::is_held)
    }

    fn is_over(&self) -> bool {
        self.guard().is_none()
    }

    fn is_scoped(&self) -> bool {
        self.entered.load(Ordering::Relaxed)
    }
}

impl Hold {
    pub(crate) fn new(guard: Guard, slow: bool) -> Self {
        Self { kept: Kept::new(guard, slow, None) }
    }

    /// Of what an object keeps as well.
    pub(crate) fn of(kept: Arc<Kept>) -> Self {
        Self { kept }
    }

    fn guard(&self) -> MutexGuard<'_, Option<Guard>> {
        self.kept.guard()
    }

    pub(crate) fn take(&self) -> Option<Guard> {
        self.guard().take()
    }

    /// The guard of a file lock, which this hold is no more.
    pub(crate) fn take_lock(&self) -> PyResult<OwnedFileLockGuard> {
        match self.take() {
            Some(Guard::Lock(guard)) => Ok(guard),
            _ => Err(PyValueError::new_err("this is not the hold of a lock")),
        }
    }

    /// Asks the guard of a file lock.
    fn ask<T>(&self, question: impl FnOnce(&mut OwnedFileLockGuard) -> T) -> PyResult<T> {
        match &mut *self.guard() {
            Some(Guard::Lock(guard)) => Ok(question(guard)),
            Some(_) => Err(PyValueError::new_err("only the hold of a single lock can do that")),
            None => Err(PyValueError::new_err("the lock has been released")),
        }
    }
}

#[pymethods]
impl Hold {
    /// Whether this stands for a lock: False after release(), and in a forked child.
    #[getter]
    fn held(&self) -> bool {
        self.guard().as_ref().is_some_and(Guard::is_held)
    }

    /// Releases the lock. Without effect when it has been released.
    ///
    /// With check=True, raises LockError, after the release, if the lock file was deleted or replaced
    /// during the hold, or could not be removed though it was to be.
    #[pyo3(signature = (*, check = false))]
    fn release(&self, py: Python<'_>, check: bool) -> PyResult<()> {
        self.kept.release(py, check)
    }

    /// The descriptor of the lock file. Do not unlock or close it.
    fn fileno(&self) -> PyResult<i32> {
        match &*self.guard() {
            Some(Guard::Lock(guard)) => Ok(guard.file().as_raw_fd()),
            Some(Guard::Slots(guard)) => Ok(guard.file().as_raw_fd()),
            Some(Guard::Set(_)) => Err(PyValueError::new_err("a set has more than one descriptor")),
            None => Err(PyValueError::new_err("the lock has been released")),
        }
    }

    /// Whether the lock is held shared.
    #[getter]
    fn shared(&self) -> PyResult<bool> {
        self.ask(|guard| guard.mode() == Mode::Shared)
    }

    /// The fencing token, of an exclusive hold of a fenced lock.
    #[getter]
    fn token(&self) -> PyResult<Option<u64>> {
        self.ask(|guard| guard.token())
    }

    /// How long the lock was waited for, in seconds.
    #[getter]
    fn wait_time(&self) -> PyResult<f64> {
        match &*self.guard() {
            Some(Guard::Lock(guard)) => Ok(guard.wait_time().as_secs_f64()),
            Some(Guard::Slots(guard)) => Ok(guard.wait_time().as_secs_f64()),
            Some(Guard::Set(guard)) => Ok(guard.wait_time().as_secs_f64()),
            None => Err(PyValueError::new_err("the lock has been released")),
        }
    }

    /// Whether the path still names the locked file.
    fn still_current(&self, py: Python<'_>) -> PyResult<bool> {
        let current = match &*self.guard() {
            Some(Guard::Lock(guard)) => guard.still_current(),
            Some(Guard::Slots(guard)) => guard.still_current(),
            Some(Guard::Set(guard)) => guard.still_current(),
            None => return Ok(false),
        };
        current.map_err(|error| exception(py, error, After::Attempt))
    }

    /// Makes an exclusive hold shared.
    fn downgrade(&self, py: Python<'_>) -> PyResult<()> {
        self.ask(OwnedFileLockGuard::downgrade)?
            .map_err(|error| exception(py, error, After::Attempt))
    }

    /// Makes a shared hold exclusive if that is possible at once; else raises Timeout.
    fn try_upgrade(&self, py: Python<'_>) -> PyResult<()> {
        self.ask(OwnedFileLockGuard::try_upgrade)?
            .map_err(|error| exception(py, error, After::Attempt))
    }

    fn __enter__(slf: Py<Self>) -> PyResult<Py<Self>> {
        let kept = &slf.get().kept;
        // A second `with` would run its body without the lock, or end with it what the first one has.
        if !kept.is_held() || kept.entered.swap(true, Ordering::Relaxed) {
            let text = "a hold is for one `with` while it is held: acquire again";
            return Err(PyRuntimeError::new_err(text));
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.release(py, false)
    }

    /// The slots of a semaphore that are held, counted from 0.
    #[getter]
    fn slots(&self) -> Option<Vec<u32>> {
        match &*self.guard() {
            Some(Guard::Slots(guard)) => Some(guard.slots().to_vec()),
            _ => None,
        }
    }
}
