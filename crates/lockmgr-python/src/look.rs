//! The kernel's truth about locks, as Python objects, which are defined in `lockmgr/_inspect.py`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use lockmgr::inspect::{self, LockTable, LockedFile, Record, printable};
use lockmgr::{Error, FileLock, Mechanism};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

use crate::error::{After, exception, path_to_python};

/// Longer command lines are cut.
const WIDTH: usize = 200;

/// One holder, with nothing of Python in it.
pub(crate) struct Holder {
    pid: Option<u32>,
    command: String,
    user: Option<String>,
    mode: &'static str,
    mechanism: String,
    standing: String,
    since: Option<f64>,
    note: Option<String>,
}

impl Holder {
    /// With what the lock, and the record in its file, say of it.
    fn of(holder: &inspect::Holder, lock: &inspect::Lock, record: Option<&Record>) -> Self {
        let process = holder.process.as_ref();
        let record = record.filter(|record| Some(record.pid) == holder.pid());
        let since = record.and_then(|record| record.since.duration_since(UNIX_EPOCH).ok());
        let note = record.and_then(|record| record.note.as_ref());
        Self {
            pid: holder.pid(),
            command: process.map(|process| process.command_line(WIDTH)).unwrap_or_default(),
            user: process.map(inspect::Process::user),
            mode: word(lock.mode),
            mechanism: lock.kind.to_string(),
            standing: holder.standing.to_string(),
            since: since.map(|since| since.as_secs_f64()),
            note: note.map(|note| printable(note.as_bytes())),
        }
    }

    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        class(py)?.call1((
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

fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    CLASS.import(py, "lockmgr._inspect", "Holder")
}

/// As of the exceptions, for those that name a holder.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    class(py).map(drop)
}

/// Who was in the way.
pub(crate) fn holders_of(error: &Error) -> Vec<Holder> {
    error.obstacle().map(|file| holders_among(&file, |_| true)).unwrap_or_default()
}

/// Who has those locks on the file.
fn holders_among(file: &LockedFile, wanted: impl Fn(&inspect::Lock) -> bool) -> Vec<Holder> {
    let record = file.record();
    let locks = file.locks.iter().filter(|one| wanted(one));
    let of_lock = |one: &inspect::Lock| -> Vec<_> {
        one.holders.iter().map(|holder| Holder::of(holder, one, record.as_ref())).collect()
    };
    locks.flat_map(of_lock).collect()
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
    let Some(path) = lock.path() else { return Ok(Vec::new()) };
    holders_of_path(py, path, lock.mechanism())
}

/// Who holds a lock of this mechanism on the file, according to the kernel: a list of Holder.
#[pyfunction]
pub(crate) fn holders_at<'py>(
    py: Python<'py>,
    path: PathBuf,
    mechanism: &str,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let mechanism = mechanism.parse().map_err(|error| exception(py, error, After::Attempt))?;
    holders_of_path(py, &path, mechanism)
}

fn holders_of_path<'py>(
    py: Python<'py>,
    path: &Path,
    mechanism: Mechanism,
) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let found = py.detach(|| {
        let Some(file) = file_at(path)? else { return Ok(Vec::new()) };
        Ok(holders_among(&file, |one| !one.is_gate() && concerns(mechanism, one)))
    });
    let found = found.map_err(|error| exception(py, error, After::Attempt))?;
    found.iter().map(|holder| holder.to_python(py)).collect()
}

pub(crate) fn waiters<'py>(py: Python<'py>, lock: &FileLock) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let found = py.detach(|| {
        let Some(path) = lock.path() else { return Ok(Vec::new()) };
        let Some(file) = file_at(path)? else { return Ok(Vec::new()) };
        let locks = file.locks.iter().filter(|one| concerns(lock.mechanism(), one));
        Ok(locks.flat_map(|one| &one.waiters).map(Waiter::of).collect::<Vec<_>>())
    });
    let found = found.map_err(|error| exception(py, error, After::Attempt))?;
    found.iter().map(|waiter| waiter.to_python(py)).collect()
}

/// Every lock on the machine, whoever took it, according to the kernel: a list of LockInfo. Gates, which are
/// places at the head of a queue, are left out; who waits there waits for the lock.
#[pyfunction]
pub(crate) fn locks(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyAny>>> {
    static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let table = py.detach(LockTable::snapshot).map_err(|error| {
        PyErr::new::<PyOSError, _>((error.raw_os_error(), "cannot read the kernel's lock table"))
    })?;
    let class = CLASS.import(py, "lockmgr._inspect", "LockInfo")?;
    let mut found = Vec::new();
    for file in &table.files {
        let record = file.record();
        let path = file.path.as_ref().map(|path| path_to_python(py, path)).transpose()?;
        let gates = file.locks.iter().filter(|one| one.is_gate());
        let at_gate: Vec<_> = gates.flat_map(|gate| &gate.waiters).map(Waiter::of).collect();
        for one in file.locks.iter().filter(|one| !one.is_gate()) {
            let holders = one
                .holders
                .iter()
                .map(|holder| Holder::of(holder, one, record.as_ref()).to_python(py));
            let waiters = one.waiters.iter().map(Waiter::of).collect::<Vec<_>>();
            let waiters = waiters.iter().chain(&at_gate).map(|waiter| waiter.to_python(py));
            found.push(class.call1((
                &path,
                file.deleted,
                word(one.mode),
                one.kind.to_string(),
                (one.range.start(), one.range.len()),
                PyTuple::new(py, holders.collect::<PyResult<Vec<_>>>()?)?,
                PyTuple::new(py, waiters.collect::<PyResult<Vec<_>>>()?)?,
            ))?);
        }
    }
    Ok(found)
}

/// Whether a lock on the file can be in the way of one of this mechanism.
fn concerns(mechanism: Mechanism, one: &inspect::Lock) -> bool {
    one.kind.shares_a_space_with(&mechanism.into()) || one.is_gate()
}

/// The file with its locks, if it has any.
fn file_at(path: &Path) -> Result<Option<LockedFile>, Error> {
    match LockTable::of(path) {
        Ok(table) => Ok(table.files.into_iter().next()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
