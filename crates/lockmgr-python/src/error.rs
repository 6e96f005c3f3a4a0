//! The library's errors as Python's exceptions, which are defined in `lockmgr/_errors.py`.
//!
//! Who was in the way is looked up in the kernel's tables. That takes a millisecond, so it is done when
//! somebody asks; after a wait that has timed out it is done at once, while it is still true.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use lockmgr::inspect::printable;
use lockmgr::{Error, FileLock};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyType};

use crate::look;

/// Why a lock could not be had: who was in the way. Looked up when it is first asked for.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct Obstacle {
    error: Error,
    seen: OnceLock<Seen>,
}

struct Seen {
    text: String,
    holders: Vec<look::Holder>,
}

#[pymethods]
impl Obstacle {
    /// The message, which names the holders.
    fn describe(&self, py: Python<'_>) -> String {
        self.seen(py).text.clone()
    }

    /// Who held the lock, as a list of Holder.
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.seen(py).holders.iter().map(|holder| holder.to_python(py)).collect()
    }
}

impl Obstacle {
    fn seen(&self, py: Python<'_>) -> &Seen {
        if let Some(seen) = self.seen.get() {
            return seen;
        }
        let seen = py.detach(|| Seen {
            holders: look::holders_of(&self.error),
            text: self.error.to_string(),
        });
        // Whoever was first is believed.
        self.seen.get_or_init(|| seen)
    }
}

/// How the attempt ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// One look.
    Attempt,
    /// A wait.
    Wait,
}

/// Returns the exception for an error of the library.
pub(crate) fn exception(py: Python<'_>, error: Error, after: After) -> PyErr {
    build(py, error, after).unwrap_or_else(|error| error)
}

fn build(py: Python<'_>, error: Error, after: After) -> PyResult<PyErr> {
    let path = error.path().map(|path| path_to_python(py, path)).transpose()?;
    if error.is_contended() {
        let obstacle = Obstacle { error, seen: OnceLock::new() };
        if after == After::Wait {
            obstacle.seen(py);
        }
        let class = class(py, &TIMEOUT, "Timeout")?;
        return Ok(PyErr::from_value(class.call1((path, Bound::new(py, obstacle)?))?));
    }
    let text = match &error {
        // An argument that is of no file yet.
        Error::Unsupported { path: None, reason, .. } => reason.clone(),
        _ => error.to_string(),
    };
    let class = match &error {
        Error::Deadlock { .. } => class(py, &DEADLOCK, "DeadlockError")?,
        Error::Unsupported { .. } | Error::InvalidName { .. } | Error::InvalidRange { .. } => {
            class(py, &UNSUPPORTED, "UnsupportedError")?
        }
        _ => class(py, &LOCK_ERROR, "LockError")?,
    };
    let Some(number) = error.raw_os_error() else {
        let value = class.call1((text,))?;
        value.setattr("lock_file", path)?;
        return Ok(PyErr::from_value(value));
    };
    // Python chooses the subclass by the number and adds the path itself.
    let text = text.split_once(": ").map_or(text.as_str(), |(_, rest)| rest);
    let value = py.get_type::<PyOSError>().call1((number, text, path))?;
    Ok(PyErr::from_value(value))
}

/// Returns the exception for a wait that would never end, since …
pub(crate) fn deadlock(py: Python<'_>, path: Option<&Path>, reason: &str) -> PyErr {
    let build = || {
        let shown = path.map(|path| printable(path.as_os_str().as_bytes())).unwrap_or_default();
        let class = class(py, &DEADLOCK, "DeadlockError")?;
        let value = class.call1((format!("{shown}: {reason}"),))?;
        value.setattr("lock_file", path.map(|path| path_to_python(py, path)).transpose()?)?;
        PyResult::Ok(PyErr::from_value(value))
    };
    build().unwrap_or_else(|error| error)
}

/// Returns the exception for a wait that only the waiter itself could end.
pub(crate) fn waits_for_itself(py: Python<'_>, lock: &FileLock, who: &str) -> PyErr {
    let text = format!(
        "this {who} holds the lock already and would wait for itself; release it first, or make the lock \
         with reentrant=True and share that object"
    );
    deadlock(py, lock.path(), &text)
}

/// Looks up what a failure needs while that can be done: while the interpreter is taken down, when an object
/// that is forgotten may yet use a lock, nothing can be imported.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    class(py, &TIMEOUT, "Timeout")?;
    class(py, &DEADLOCK, "DeadlockError")?;
    class(py, &UNSUPPORTED, "UnsupportedError")?;
    class(py, &LOCK_ERROR, "LockError")?;
    path_to_python(py, Path::new("/")).map(drop)
}

static TIMEOUT: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static DEADLOCK: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static UNSUPPORTED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static LOCK_ERROR: PyOnceLock<Py<PyType>> = PyOnceLock::new();

fn class<'py>(
    py: Python<'py>,
    place: &'static PyOnceLock<Py<PyType>>,
    name: &str,
) -> PyResult<&'py Bound<'py, PyType>> {
    place.import(py, "lockmgr._errors", name)
}

/// A path as Python spells it, whatever its bytes.
pub(crate) fn path_to_python<'py>(py: Python<'py>, path: &Path) -> PyResult<Bound<'py, PyAny>> {
    static DECODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let bytes = path.as_os_str().as_bytes();
    DECODE.import(py, "os", "fsdecode")?.call1((PyBytes::new(py, bytes),))
}
