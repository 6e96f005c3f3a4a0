//! What is told to the logger `lockmgr`, and at what price: a look into a dictionary while it listens to
//! nothing.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::error::path_to_python;

const DEBUG: u8 = 10;
const INFO: u8 = 20;

struct Logger {
    logger: Py<PyAny>,
    /// The logger's own memory of `isEnabledFor`, which it clears whenever the answer may have changed.
    /// None should a version of Python not have it.
    memory: Option<Py<PyDict>>,
}

static LOGGER: PyOnceLock<Logger> = PyOnceLock::new();

static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();

/// Returns the logger; None while nobody has imported `logging`, for then nobody listens.
fn logger(py: Python<'_>) -> PyResult<Option<&'static Logger>> {
    if let Some(logger) = LOGGER.get(py) {
        return Ok(Some(logger));
    }
    let modules = MODULES.get_or_try_init(py, || {
        PyResult::Ok(py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?.unbind())
    })?;
    let Some(logging) = modules.bind(py).get_item(intern!(py, "logging"))? else {
        return Ok(None);
    };
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

fn debug(py: Python<'_>, text: &str, lock: &lockmgr::FileLock, shared: bool) -> PyResult<()> {
    let Some(logger) = listening(py, DEBUG)? else { return Ok(()) };
    let path = lock.path().map(|path| path_to_python(py, path)).transpose()?;
    let mode = if shared { "shared" } else { "exclusive" };
    logger.logger.bind(py).call_method1(intern!(py, "debug"), (text, path, mode))?;
    Ok(())
}

pub(crate) fn acquired(py: Python<'_>, lock: &lockmgr::FileLock, shared: bool) -> PyResult<()> {
    debug(py, "acquired %s (%s)", lock, shared)
}

pub(crate) fn released(py: Python<'_>, lock: &lockmgr::FileLock, shared: bool) -> PyResult<()> {
    debug(py, "released %s (%s)", lock, shared)
}

/// Runs a wait, of which `_log` tells when it lasts longer than a second, if anybody listens.
pub(crate) fn while_waiting<T>(
    py: Python<'_>,
    path: Option<&std::path::Path>,
    mechanism: lockmgr::Mechanism,
    wait: impl FnOnce() -> PyResult<T>,
) -> PyResult<T> {
    static BEGIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let (Some(path), Some(_)) = (path, listening(py, INFO)?) else { return wait() };
    let begin = BEGIN.import(py, "lockmgr._log", "begin")?;
    let notice = begin.call1((path_to_python(py, path)?, mechanism.to_string()))?;
    let outcome = wait();
    notice.call_method0(intern!(py, "end"))?;
    outcome
}
