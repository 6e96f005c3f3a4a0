//! `Lock`: one object that excludes processes, threads and tasks alike.
//!
//! What is held is a stack of holds, each with its owner: one when the lock is exclusive, as many as
//! there are sharers when it is shared. The stack's mutex is held for a push or a pop and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lockmgr::{FileLock, OwnedFileLockGuard};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use crate::error::{After, exception, path_to_python};
use crate::hold::{Guard, Hold};
use crate::look;
use crate::options::{Options, Patience, mode, patience};
use crate::wait::{self, Wait};

/// The native part of Lock.
#[pyclass(frozen, subclass, weakref, module = "lockmgr._lockmgr")]
pub(crate) struct BaseLock {
    lock: FileLock,
    shared: bool,
    patience: Patience,
    sleeps: bool,
    holds: Mutex<Vec<OwnedFileLockGuard>>,
}

#[pymethods]
impl BaseLock {
    #[new]
    #[pyo3(signature = (
        path_or_name, *, shared = false, timeout = None, mechanism = "flock", byte_range = None,
        fair = false, remove = false, note = None, record = false, mode = None, create = true,
        parents = false, follow_symlinks = false, fenced = false, durable = false,
        deadlock = "ignore", system = false,
    ))]
    #[expect(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "keywords")]
    fn new(
        py: Python<'_>,
        path_or_name: &Bound<'_, PyAny>,
        shared: bool,
        timeout: Option<f64>,
        mechanism: &str,
        byte_range: Option<(u64, Option<u64>)>,
        fair: bool,
        remove: bool,
        note: Option<String>,
        record: bool,
        mode: Option<u32>,
        create: bool,
        parents: bool,
        follow_symlinks: bool,
        fenced: bool,
        durable: bool,
        deadlock: &str,
        system: bool,
    ) -> PyResult<Self> {
        let options = Options {
            mechanism: mechanism.to_owned(),
            byte_range,
            fair,
            remove,
            note,
            record,
            mode,
            create,
            parents,
            follow_symlinks,
            fenced,
            durable,
            deadlock: deadlock.to_owned(),
            system,
        };
        Ok(Self {
            lock: options.open(py, path_or_name)?,
            shared,
            patience: patience(timeout)?,
            sleeps: durable,
            holds: Mutex::default(),
        })
    }

    /// The lock file, absolute.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.lock.path().map(|path| path_to_python(py, path)).transpose()
    }

    /// Acquires the lock.
    #[pyo3(signature = (timeout = None, *, shared = None))]
    fn acquire(
        slf: &Bound<'_, Self>,
        timeout: Option<f64>,
        shared: Option<bool>,
    ) -> PyResult<Acquired> {
        let this = slf.get();
        let patience = if timeout.is_some() { patience(timeout)? } else { this.patience };
        this.take(slf.py(), patience, shared.unwrap_or(this.shared))?;
        Ok(Acquired { lock: slf.clone().unbind() })
    }

    /// Releases the lock.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.pop()?.unlock().map_err(|error| exception(py, error, After::Attempt))
    }

    /// Whether the lock is held through this object.
    fn locked(&self) -> bool {
        self.holds().iter().any(OwnedFileLockGuard::is_held)
    }

    /// Who holds the lock, according to the kernel: a list of Holder.
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::holders(py, &self.lock)
    }

    /// Who is blocked on the lock, according to the kernel: a list of Waiter.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::waiters(py, &self.lock)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        this.take(slf.py(), this.patience, this.shared)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.pop().map(drop)
    }

    /// Begins to acquire without blocking: None when that has succeeded already, else a Wait.
    #[pyo3(signature = (timeout = None, *, shared = None))]
    fn _begin(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        shared: Option<bool>,
    ) -> PyResult<Option<Wait>> {
        let patience = if timeout.is_some() { patience(timeout)? } else { self.patience };
        let mode = mode(shared.unwrap_or(self.shared));
        match wait::attempt(py, &self.lock, mode, self.sleeps)? {
            Ok(guard) => {
                self.push(guard);
                Ok(None)
            }
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(_) => Wait::for_lock(&self.lock, mode, patience).map(Some),
        }
    }

    /// Takes a Hold over.
    fn _adopt(&self, hold: &Bound<'_, Hold>) -> PyResult<()> {
        match hold.get().take() {
            Some(Guard::Lock(guard)) => {
                self.push(guard);
                Ok(())
            }
            _ => Err(PyTypeError::new_err("not the hold of a lock")),
        }
    }
}

impl BaseLock {
    fn holds(&self) -> MutexGuard<'_, Vec<OwnedFileLockGuard>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, py: Python<'_>, patience: Patience, shared: bool) -> PyResult<()> {
        let guard = wait::acquire(py, &self.lock, mode(shared), patience, self.sleeps, || Ok(()))?;
        self.push(guard);
        Ok(())
    }

    fn push(&self, guard: OwnedFileLockGuard) {
        self.holds().push(guard);
    }

    fn pop(&self) -> PyResult<OwnedFileLockGuard> {
        let popped = self.holds().pop();
        popped.ok_or_else(|| PyRuntimeError::new_err("the lock is not held"))
    }
}

/// An acquired Lock, to be released by `with`.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct Acquired {
    lock: Py<BaseLock>,
}

#[pymethods]
impl Acquired {
    #[new]
    fn new(lock: Py<BaseLock>) -> Self {
        Self { lock }
    }

    /// The lock.
    #[getter]
    fn lock<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLock> {
        self.lock.bind(py)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> Bound<'py, BaseLock> {
        self.lock.bind(py).clone()
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        self.lock.get().pop().map(drop)
    }
}
