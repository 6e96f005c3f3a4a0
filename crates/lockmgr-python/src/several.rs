//! What is composed of locks: slots of a semaphore, and sets.

use std::sync::atomic::{AtomicBool, Ordering};

use lockmgr::name::Scope;
use lockmgr::{LockSet, Mode, Semaphore};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::{After, exception, path_to_python};
use crate::hold::{Guard, Hold};
use crate::lock::BaseLock;
use crate::log;
use crate::options::{self, Patience, patience};
use crate::wait::{Wait, sleep};

/// A semaphore to acquire slots of.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct SlotsHandle {
    semaphore: Semaphore,
    /// The first attempt opens the file, which may take its time.
    opened: AtomicBool,
}

#[pymethods]
impl SlotsHandle {
    #[new]
    #[pyo3(signature = (
        lock, slots, *, fair = true, mode = None, create = true, parents = false,
        follow_symlinks = false, system = false,
    ))]
    #[expect(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "keywords")]
    fn new(
        py: Python<'_>,
        lock: &Bound<'_, PyAny>,
        slots: i64,
        fair: bool,
        mode: Option<i64>,
        create: bool,
        parents: bool,
        follow_symlinks: bool,
        system: bool,
    ) -> PyResult<Self> {
        let mut options = Semaphore::options()
            .fair(fair)
            .create(create)
            .create_parents(parents)
            .follow_symlinks(follow_symlinks);
        if let Some(bits) = mode {
            options = options.creation_mode(options::permissions(bits)?);
        }
        let scope = if system { Scope::System } else { Scope::User };
        // What is no number of slots at all is as wrong as 0.
        let slots = u32::try_from(slots).map_err(|_| {
            PyValueError::new_err(format!("slots must be a number from 1 to 65536, not {slots}"))
        })?;
        let semaphore = options.open_named_lazy(options::place(lock)?, scope, slots);
        let semaphore = semaphore.map_err(|error| exception(py, error, After::Attempt))?;
        Ok(Self { semaphore, opened: AtomicBool::new(false) })
    }

    /// The lock file, absolute.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        path_to_python(py, self.semaphore.path())
    }

    /// How many slots there are.
    #[getter]
    fn slots(&self) -> u32 {
        self.semaphore.slots()
    }

    /// Acquires so many slots, all or none, asleep if need be.
    #[pyo3(signature = (timeout = None, *, count = 1))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>, count: u32) -> PyResult<Hold> {
        let patience = patience(timeout)?;
        match self.attempt(py, patience, count)? {
            Ok(hold) => Ok(hold),
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(_) => {
                let deadline = patience.deadline();
                let path = Some(self.semaphore.path());
                let guard = log::while_waiting(py, path, lockmgr::Mechanism::Ofd, || {
                    sleep(py, || {
                        let acquire = self.semaphore.acquire_many(count);
                        match deadline {
                            Some(deadline) => acquire.deadline(deadline),
                            None => acquire,
                        }
                        .wait()
                    })
                })?;
                Ok(Hold::new(Guard::Slots(guard), false))
            }
        }
    }

    /// One attempt that overtakes nobody: a Hold, or None.
    #[pyo3(signature = (*, count = 1))]
    fn try_acquire(&self, py: Python<'_>, count: u32) -> PyResult<Option<Hold>> {
        Ok(self.attempt(py, Patience::Forever, count)?.ok())
    }

    /// Begins to wait without blocking.
    #[pyo3(signature = (timeout = None, *, count = 1))]
    fn wait(&self, timeout: Option<f64>, count: u32) -> PyResult<Wait> {
        let acquire = self.semaphore.acquire_many(count);
        let future = match patience(timeout)?.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Wait::new(Box::pin(async move { future.await.map(Guard::Slots) }), false)
    }
}

impl SlotsHandle {
    fn attempt(
        &self,
        py: Python<'_>,
        patience: Patience,
        count: u32,
    ) -> PyResult<Result<Hold, lockmgr::Error>> {
        let acquire = self.semaphore.acquire_many(count);
        let attempt =
            || if patience == Patience::Now { acquire.try_now() } else { acquire.try_in_turn() };
        let opened = self.opened.swap(true, Ordering::Relaxed);
        let outcome = if opened { attempt() } else { py.detach(attempt) };
        match outcome {
            Ok(guard) => Ok(Ok(Hold::new(Guard::Slots(guard), false))),
            Err(error) if error.is_contended() => Ok(Err(error)),
            Err(error) => Err(exception(py, error, After::Attempt)),
        }
    }
}

/// Several locks to acquire at once.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct SetHandle {
    set: LockSet,
    /// One of them, at least, takes its time.
    slow: bool,
}

#[pymethods]
impl SetHandle {
    #[new]
    #[pyo3(signature = (locks))]
    fn new(locks: Vec<Bound<'_, BaseLock>>) -> Self {
        let members = locks.iter().map(|lock| {
            let lock = lock.get();
            let mode = if lock.is_shared() { Mode::Shared } else { Mode::Exclusive };
            (lock.lock().clone(), mode)
        });
        let slow = locks.iter().any(|lock| lock.get().is_slow());
        Self { set: members.collect(), slow }
    }

    /// Acquires all the locks or none, asleep if need be.
    #[pyo3(signature = (timeout = None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Hold> {
        let patience = patience(timeout)?;
        match self.attempt(py)? {
            Ok(hold) => Ok(hold),
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(busy) => {
                let deadline = patience.deadline();
                let guard = log::while_waiting(py, busy.path(), lockmgr::Mechanism::Flock, || {
                    sleep(py, || {
                        let acquire = self.set.acquire();
                        match deadline {
                            Some(deadline) => acquire.deadline(deadline),
                            None => acquire,
                        }
                        .wait_owned()
                    })
                })?;
                Ok(Hold::new(Guard::Set(guard), self.slow))
            }
        }
    }

    /// One attempt: a Hold, or None.
    fn try_acquire(&self, py: Python<'_>) -> PyResult<Option<Hold>> {
        Ok(self.attempt(py)?.ok())
    }

    /// Begins to wait without blocking.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, timeout: Option<f64>) -> PyResult<Wait> {
        let acquire = self.set.acquire();
        let future = match patience(timeout)?.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Wait::new(Box::pin(async move { future.await.map(Guard::Set) }), self.slow)
    }
}

impl SetHandle {
    fn attempt(&self, py: Python<'_>) -> PyResult<Result<Hold, lockmgr::Error>> {
        let attempt = || self.set.acquire().try_now_owned();
        match if self.slow { py.detach(attempt) } else { attempt() } {
            Ok(guard) => Ok(Ok(Hold::new(Guard::Set(guard), self.slow))),
            Err(error) if error.is_contended() => Ok(Err(error)),
            Err(error) => Err(exception(py, error, After::Attempt)),
        }
    }
}
