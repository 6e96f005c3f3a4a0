//! What is told to the logger `lockmgr`, and at what price: a look into a dictionary while it listens to
//! nothing.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use lockmgr::{FileLock, Mechanism, Mode};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::error::path_to_python;
use crate::owner;

const DEBUG: u8 = 10;
const INFO: u8 = 20;

struct Logger {
    logger: Py<PyAny>,
    /// The logger's own memory of `isEnabledFor`, which it clears whenever the answer may have changed.
    /// None should a version of Python not have it.
    memory: Option<Py<PyDict>>,
}

static LOGGER: PyOnceLock<Logger> = PyOnceLock::new();

/// Returns the logger; None while nobody has imported `logging`, for then nobody listens.
fn logger(py: Python<'_>) -> PyResult<Option<&'static Logger>> {
    if let Some(logger) = LOGGER.get(py) {
        return Ok(Some(logger));
    }
    let Some(logging) = owner::imported(py, intern!(py, "logging"))? else { return Ok(None) };
    // Half imported by another thread, or by whoever is importing us.
    let Some(get) = logging.getattr_opt(intern!(py, "getLogger"))? else { return Ok(None) };
    let logger = get.call1(("lockmgr",))?;
    let memory = logger.getattr_opt("_cache")?.and_then(|cache| cache.cast_into().ok());
    let found = Logger { logger: logger.unbind(), memory: memory.map(Bound::unbind) };
    // Another thread may have been quicker, with the same.
    Ok(Some(LOGGER.get_or_init(py, || found)))
}

/// Returns the logger if it listens to this level.
fn listening(py: Python<'_>, level: u8) -> PyResult<Option<&'static Logger>> {
    let Some(logger) = logger(py)? else { return Ok(None) };
    if let Some(memory) = &logger.memory
        && let Some(known) = memory.bind(py).get_item(level)?
    {
        return Ok(known.is_truthy()?.then_some(logger));
    }
    let listens = logger.logger.bind(py).call_method1(intern!(py, "isEnabledFor"), (level,))?;
    Ok(listens.is_truthy()?.then_some(logger))
}

/// What is told at the level DEBUG.
#[derive(Clone, Copy)]
pub(crate) enum Happened {
    Acquired,
    Released,
}

/// Tells that so much of the lock file was acquired or released.
pub(crate) fn tell(
    py: Python<'_>,
    happened: Happened,
    path: Option<&Path>,
    what: impl FnOnce() -> Cow<'static, str>,
) -> PyResult<()> {
    let Some(logger) = listening(py, DEBUG)? else { return Ok(()) };
    let path = path.map(|path| path_to_python(py, path)).transpose()?;
    let text = match happened {
        Happened::Acquired => "acquired %s (%s)",
        Happened::Released => "released %s (%s)",
    };
    logger.logger.bind(py).call_method1(intern!(py, "debug"), (text, path, what()))?;
    Ok(())
}

pub(crate) fn tell_mode(
    py: Python<'_>,
    happened: Happened,
    path: Option<&Path>,
    mode: Mode,
) -> PyResult<()> {
    let word = if mode == Mode::Shared { "shared" } else { "exclusive" };
    tell(py, happened, path, || word.into())
}

pub(crate) fn acquired(py: Python<'_>, lock: &FileLock, mode: Mode) -> PyResult<()> {
    tell_mode(py, Happened::Acquired, lock.path(), mode)
}

pub(crate) fn released(py: Python<'_>, lock: &FileLock, mode: Mode) -> PyResult<()> {
    tell_mode(py, Happened::Released, lock.path(), mode)
}

/// The lock that is waited for.
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) mechanism: Mechanism,
}

impl Place {
    pub(crate) fn of(lock: &FileLock) -> Option<Self> {
        Some(Self { path: lock.path()?.to_owned(), mechanism: lock.mechanism() })
    }

    /// What is to be told of a wait for it that lasts longer than a second; None if nobody listens.
    pub(crate) fn notice<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        static BEGIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if listening(py, INFO)?.is_none() {
            return Ok(None);
        }
        let begin = BEGIN.import(py, "lockmgr._log", "begin")?;
        begin.call1((path_to_python(py, &self.path)?, self.mechanism.to_string())).map(Some)
    }
}

/// Runs a wait, of which `_log` tells when it lasts longer than a second, if anybody listens.
pub(crate) fn while_waiting<T>(
    py: Python<'_>,
    place: Option<&Place>,
    wait: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    let notice = place.map(|place| place.notice(py)).transpose()?.flatten();
    let outcome = wait();
    if let Some(notice) = notice {
        notice.call_method0(intern!(py, "end"))?;
    }
    outcome
}
