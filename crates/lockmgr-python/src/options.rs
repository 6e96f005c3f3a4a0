//! What a lock is made of, as Python says it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lockmgr::name::{self, Scope};
use lockmgr::{FileLock, Mechanism, Mode, OnDeadlock, Range};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyString};

use crate::error::{After, exception};

/// The keyword arguments that say what a lock is.
#[expect(clippy::struct_excessive_bools, reason = "each is a keyword of its own")]
pub(crate) struct Options {
    pub(crate) mechanism: String,
    pub(crate) byte_range: Option<(u64, Option<u64>)>,
    pub(crate) fair: bool,
    pub(crate) remove: bool,
    pub(crate) note: Option<String>,
    pub(crate) record: bool,
    pub(crate) mode: Option<i64>,
    pub(crate) create: bool,
    pub(crate) parents: bool,
    pub(crate) follow_symlinks: bool,
    pub(crate) fenced: bool,
    pub(crate) durable: bool,
    pub(crate) deadlock: String,
    pub(crate) system: bool,
}

impl Options {
    /// Returns the handle. Nothing is opened yet.
    pub(crate) fn open(
        &self,
        py: Python<'_>,
        lock: &Bound<'_, PyAny>,
    ) -> PyResult<(FileLock, Range)> {
        let place = place(lock)?;
        self.build(&place).map_err(|error| match error {
            Failure::Library(error) => exception(py, error, After::Attempt),
            Failure::Python(error) => error,
        })
    }

    /// Returns those that are not as they are by default, as keywords.
    pub(crate) fn keywords<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let keywords = PyDict::new(py);
        keywords.set_item("mechanism", &self.mechanism)?;
        keywords.set_item("deadlock", &self.deadlock)?;
        if let Some(range) = self.byte_range {
            keywords.set_item("byte_range", range)?;
        }
        if let Some(note) = &self.note {
            keywords.set_item("note", note)?;
        }
        if let Some(mode) = self.mode {
            keywords.set_item("mode", mode)?;
        }
        for (name, value, default) in [
            ("fair", self.fair, false),
            ("remove", self.remove, false),
            ("record", self.record, false),
            ("create", self.create, true),
            ("parents", self.parents, false),
            ("follow_symlinks", self.follow_symlinks, false),
            ("fenced", self.fenced, false),
            ("durable", self.durable, false),
            ("system", self.system, false),
        ] {
            if value != default {
                keywords.set_item(name, value)?;
            }
        }
        Ok(keywords)
    }

    fn build(&self, place: &OsStr) -> Result<(FileLock, Range), Failure> {
        let mechanism: Mechanism = self.mechanism.parse()?;
        let mut options = FileLock::options()
            .mechanism(mechanism)
            .fair(self.fair)
            .remove_on_release(self.remove)
            .create(self.create)
            .create_parents(self.parents)
            .follow_symlinks(self.follow_symlinks)
            .deadlock(match self.deadlock.as_str() {
                "ignore" => OnDeadlock::Ignore,
                "fail" => OnDeadlock::Fail,
                other => {
                    let text = format!("deadlock must be 'ignore' or 'fail', not {other:?}");
                    return Err(Failure::Python(PyValueError::new_err(text)));
                }
            });
        let mut range = Range::WHOLE;
        if let Some((start, length)) = self.byte_range {
            // As for fcntl.lockf, 0 is to the end as well.
            range = Range::new(start, length.unwrap_or(0))?;
            options = options.range(range);
        }
        if let Some(bits) = self.mode {
            options = options.creation_mode(permissions(bits).map_err(Failure::Python)?);
        }
        if self.record {
            options = options.record(true);
        }
        if let Some(note) = &self.note {
            options = options.note(note);
        }
        if self.fenced {
            options = options.fenced(true);
        }
        options = options.durable(self.durable);
        let scope = if self.system { Scope::System } else { Scope::User };
        let lock = if name::is_path(place) {
            options.open_lazy(place)?
        } else {
            options.open_named_lazy(place, scope)?
        };
        Ok((lock, range))
    }
}

enum Failure {
    Library(lockmgr::Error),
    Python(PyErr),
}

impl From<lockmgr::Error> for Failure {
    fn from(error: lockmgr::Error) -> Self {
        Failure::Library(error)
    }
}

/// Returns a lock as the library takes it. A str without a slash is a name; what is a path by its type
/// stays one.
pub(crate) fn place(lock: &Bound<'_, PyAny>) -> PyResult<OsString> {
    static FSPATH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = lock.py();
    if lock.is_instance_of::<PyString>() || lock.is_instance_of::<PyBytes>() {
        return spelled(lock);
    }
    if !lock.hasattr(intern!(py, "__fspath__"))? {
        let class = lock.get_type().name()?;
        let text = format!("a lock is a str, bytes or path, not {class}");
        return Err(PyTypeError::new_err(text));
    }
    let path = spelled(&FSPATH.import(py, "os", "fspath")?.call1((lock,))?)?;
    if name::is_path(&path) {
        return Ok(path);
    }
    Ok(PathBuf::from(".").join(path).into_os_string())
}

/// Of a str or of bytes.
fn spelled(lock: &Bound<'_, PyAny>) -> PyResult<OsString> {
    match lock.cast::<PyBytes>() {
        Ok(bytes) => Ok(OsStr::from_bytes(bytes.as_bytes()).to_owned()),
        Err(_) => lock.extract(),
    }
}

/// Returns permission bits that are no more than that.
pub(crate) fn permissions(bits: i64) -> PyResult<u32> {
    u32::try_from(bits).ok().filter(|bits| bits & !0o7777 == 0).ok_or_else(|| {
        PyValueError::new_err(format!("mode must be permission bits such as 0o644, not {bits}"))
    })
}

pub(crate) fn mode(shared: bool) -> Mode {
    if shared { Mode::Shared } else { Mode::Exclusive }
}

/// How long to wait, as Python says it: seconds; None is however long it takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Patience {
    /// One attempt.
    Now,
    For(Duration),
    Forever,
}

impl Patience {
    /// Returns the moment at which it ends, counted from now.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Patience::Now => Some(Instant::now()),
            Patience::For(time) => Instant::now().checked_add(time),
            Patience::Forever => None,
        }
    }

    pub(crate) fn seconds(self) -> Option<f64> {
        match self {
            Patience::Now => Some(0.0),
            Patience::For(time) => Some(time.as_secs_f64()),
            Patience::Forever => None,
        }
    }
}

/// `timeout=` as it was given: None is without end, and so is infinity.
pub(crate) fn patience(timeout: Option<f64>) -> PyResult<Patience> {
    match timeout {
        None => Ok(Patience::Forever),
        Some(0.0) => Ok(Patience::Now),
        // What Duration cannot hold is longer than anybody lives.
        Some(seconds) if seconds > 0.0 => {
            Ok(Duration::try_from_secs_f64(seconds).map_or(Patience::Forever, Patience::For))
        }
        Some(seconds) => {
            let text =
                format!("timeout must be a number of seconds from 0 on, or None, not {seconds}");
            Err(PyValueError::new_err(text))
        }
    }
}
