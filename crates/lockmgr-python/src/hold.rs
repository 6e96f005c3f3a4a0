//! A held lock as a Python object.

use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockmgr::{Error, Mode, OwnedFileLockGuard, OwnedLockSetGuard, SemaphoreGuard};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::{After, exception};
use crate::several::{HeldSet, Members};

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
    guard: Kept,
    /// Its release may take its time, and is done without the GIL.
    slow: bool,
    /// Of a set: that this thread has acquired it.
    noted: Option<Arc<HeldSet>>,
}

/// The guard, until it is released.
pub(crate) type Kept = Arc<Mutex<Option<Guard>>>;

pub(crate) fn look_into(kept: &Kept) -> MutexGuard<'_, Option<Guard>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hold {
    pub(crate) fn new(guard: Guard, slow: bool) -> Self {
        Self { guard: Arc::new(Mutex::new(Some(guard))), slow, noted: None }
    }

    /// Of a set that this thread has just acquired.
    pub(crate) fn of_set(guard: OwnedLockSetGuard, slow: bool, members: Members) -> Self {
        let mut hold = Self::new(Guard::Set(guard), slow);
        hold.noted = Some(HeldSet::new(members, Arc::clone(&hold.guard)));
        hold
    }

    fn guard(&self) -> MutexGuard<'_, Option<Guard>> {
        look_into(&self.guard)
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
        let Some(guard) = self.take() else { return Ok(()) };
        let release = || {
            if check && guard.is_held() {
                guard.unlock()
            } else {
                drop(guard);
                Ok(())
            }
        };
        let outcome = if self.slow { py.detach(release) } else { release() };
        outcome.map_err(|error| exception(py, error, After::Attempt))
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

    /// A `with` is going to release it.
    #[pyo3(name = "_scope")]
    fn scope(&self) {
        if let Some(noted) = &self.noted {
            noted.scope();
        }
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf.get().scope();
        slf
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
