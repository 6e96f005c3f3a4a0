//! The kernel's truth about locks, as Python objects, which are defined in `lockmgr/_inspect.py`.

use lockmgr::inspect::{self, LockTable, LockedFile};
use lockmgr::{Error, FileLock, Mechanism};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::error::{After, exception};

/// Longer command lines are cut.
const WIDTH: usize = 200;

/// One holder, with nothing of Python in it.
pub(crate) struct Holder {
    pid: Option<u32>,
    command: String,
    user: Option<String>,
    mode: Option<&'static str>,
    mechanism: Option<String>,
    standing: String,
    since: Option<f64>,
    note: Option<String>,
}

impl Holder {
    fn of(holder: &inspect::Holder) -> Self {
        let process = holder.process.as_ref();
        Self {
            pid: holder.pid(),
            command: process.map(|process| process.command_line(WIDTH)).unwrap_or_default(),
            user: process.map(inspect::Process::user),
            mode: None,
            mechanism: None,
            standing: holder.standing.to_string(),
            since: None,
            note: None,
        }
    }

    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        CLASS.import(py, "lockmgr._inspect", "Holder")?.call1((
            self.pid,
            &self.command,
            &self.user,
            self.mode,
            &self.mechanism,
            &self.standing,
            self.since,
            &self.note,
        ))
    }
}

/// Who was in the way.
pub(crate) fn holders_of(error: &Error) -> Vec<Holder> {
    error.holders().iter().map(Holder::of).collect()
}

struct Waiter {
    pid: Option<u32>,
    command: String,
    user: Option<String>,
    mode: &'static str,
    mechanism: String,
    thread: Option<u32>,
    depth: usize,
}

impl Waiter {
    fn of(waiter: &inspect::Waiter) -> Self {
        let process = waiter.process.as_ref();
        Self {
            pid: waiter.pid(),
            command: process.map(|process| process.command_line(WIDTH)).unwrap_or_default(),
            user: process.map(inspect::Process::user),
            mode: word(waiter.mode),
            mechanism: waiter.kind.to_string(),
            thread: waiter.thread,
            depth: waiter.depth,
        }
    }

    fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        CLASS.import(py, "lockmgr._inspect", "Waiter")?.call1((
            self.pid,
            &self.command,
            &self.user,
            self.mode,
            &self.mechanism,
            self.thread,
            self.depth,
        ))
    }
}

fn word(mode: lockmgr::Mode) -> &'static str {
    match mode {
        lockmgr::Mode::Shared => "shared",
        lockmgr::Mode::Exclusive => "exclusive",
    }
}

pub(crate) fn holders<'py>(py: Python<'py>, lock: &FileLock) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let found = py.detach(|| {
        let Some(file) = file_of(lock)? else { return Ok(Vec::new()) };
        let record = file.record();
        let mut found = Vec::new();
        for one in file.locks.iter().filter(|one| !one.is_gate() && concerns(lock, one)) {
            for holder in &one.holders {
                let mut seen = Holder::of(holder);
                seen.mode = Some(word(one.mode));
                seen.mechanism = Some(one.kind.to_string());
                if let Some(record) = record.as_ref().filter(|it| Some(it.pid) == seen.pid) {
                    seen.note.clone_from(&record.note);
                    seen.since = record
                        .since
                        .duration_since(std::time::UNIX_EPOCH)
                        .ok()
                        .map(|since| since.as_secs_f64());
                }
                found.push(seen);
            }
        }
        Ok(found)
    });
    let found = found.map_err(|error| exception(py, error, After::Attempt))?;
    found.iter().map(|holder| holder.to_python(py)).collect()
}

pub(crate) fn waiters<'py>(py: Python<'py>, lock: &FileLock) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let found = py.detach(|| {
        let Some(file) = file_of(lock)? else { return Ok(Vec::new()) };
        let locks = file.locks.iter().filter(|one| concerns(lock, one));
        Ok(locks.flat_map(|one| &one.waiters).map(Waiter::of).collect::<Vec<_>>())
    });
    let found = found.map_err(|error| exception(py, error, After::Attempt))?;
    found.iter().map(|waiter| waiter.to_python(py)).collect()
}

/// Whether a lock on the file can be in this one's way.
fn concerns(lock: &FileLock, one: &inspect::Lock) -> bool {
    let mechanism: Mechanism = lock.mechanism();
    one.kind.shares_a_space_with(&mechanism.into()) || one.is_gate()
}

/// The locks on the file, if there is one.
fn file_of(lock: &FileLock) -> Result<Option<LockedFile>, Error> {
    let Some(path) = lock.path() else { return Ok(None) };
    match LockTable::of(path) {
        Ok(table) => Ok(table.files.into_iter().next()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
