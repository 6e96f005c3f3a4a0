//! A lock file to acquire: what the Python classes are made of.

use lockmgr::{FileLock, OwnedFileLockGuard};
use pyo3::prelude::*;

use crate::error::path_to_python;
use crate::hold::{Guard, Hold};
use crate::look;
use crate::options::{Options, mode, patience};
use crate::wait::{self, Pace, Wait};

/// A lock file that holds are acquired on, each an object of its own.
///
/// Threads and tasks that share a handle exclude each other; two handles are two parties.
#[pyclass(frozen, module = "lockmgr._lockmgr", weakref)]
pub(crate) struct Handle {
    lock: FileLock,
    pace: Pace,
}

#[pymethods]
impl Handle {
    #[new]
    #[pyo3(signature = (
        lock, *, mechanism = "flock", byte_range = None, fair = false, remove = false, note = None,
        record = false, mode = None, create = true, parents = false, follow_symlinks = false,
        fenced = false, durable = false, deadlock = "ignore", system = false,
    ))]
    #[expect(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "keywords")]
    fn new(
        py: Python<'_>,
        lock: &Bound<'_, PyAny>,
        mechanism: &str,
        byte_range: Option<(u64, Option<u64>)>,
        fair: bool,
        remove: bool,
        note: Option<String>,
        record: bool,
        mode: Option<i64>,
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
        Ok(Self { lock: options.open(py, lock)?.0, pace: Pace::new(durable || remove) })
    }

    /// The lock file, absolute.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.lock.path().map(|path| path_to_python(py, path)).transpose()
    }

    /// One attempt: a Hold, or None if the lock is busy.
    #[pyo3(signature = (*, shared = false))]
    fn try_acquire(&self, py: Python<'_>, shared: bool) -> PyResult<Option<Hold>> {
        let guard = wait::attempt(py, &self.lock, mode(shared), false, &self.pace)?;
        Ok(guard.ok().map(|guard| self.hold(guard)))
    }

    /// Acquires, asleep in the kernel if need be, for at most timeout seconds; None is however long it
    /// takes, and 0 one attempt. Raises Timeout.
    #[pyo3(signature = (timeout = None, *, shared = false))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>, shared: bool) -> PyResult<Hold> {
        let guard =
            wait::acquire(py, &self.lock, mode(shared), patience(timeout)?, &self.pace, || Ok(()))?;
        Ok(self.hold(guard))
    }

    /// Begins to wait without blocking: a Wait, which tells by its descriptor when to poll it.
    #[pyo3(signature = (timeout = None, *, shared = false))]
    fn wait(&self, timeout: Option<f64>, shared: bool) -> PyResult<Wait> {
        Wait::for_lock(&self.lock, mode(shared), patience(timeout)?, self.pace.is_slow())
    }

    /// Who holds the lock, according to the kernel: a list of Holder.
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::holders(py, &self.lock)
    }

    /// Who is blocked on the lock, according to the kernel: a list of Waiter.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::waiters(py, &self.lock)
    }
}

impl Handle {
    fn hold(&self, guard: OwnedFileLockGuard) -> Hold {
        Hold::new(Guard::Lock(guard), self.pace.is_slow())
    }
}
