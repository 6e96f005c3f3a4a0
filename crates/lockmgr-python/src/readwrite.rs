//! What is held of a `ReadWriteLock`, and the `with` that releases it.
//!
//! Python decides who may acquire, and waits. What comes of it is kept here: an exception that a signal's
//! handler raises may come between any two steps of Python's, and between none of ours. So a hold is either
//! kept or given back, and a `with` that was left has released what it acquired, however it was left.
//!
//! Objects may share one lock, and an owner may hold it through several of them. Each counts for itself: what
//! one has acquired, no other one releases.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use lockmgr::{Mode, OwnedFileLockGuard, Range};
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::hold::Hold;
use crate::log::Happened;
use crate::owner::{Holder, Release, Wanted};
use crate::{log, owner};

/// What is held of one lock in this process.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct Levels {
    table: Arc<Table>,
}

#[derive(Default)]
struct Table {
    /// Never locked while Python code may run or the GIL is released.
    holds: Mutex<Vec<Level>>,
}

/// What one owner holds, through whichever objects.
struct Level {
    owner: u64,
    guard: OwnedFileLockGuard,
    /// By object, how often.
    counts: Vec<(u64, usize)>,
}

impl Level {
    fn count(&self, object: u64) -> usize {
        self.counts.iter().find(|(other, _)| *other == object).map_or(0, |(_, count)| *count)
    }

    fn set_count(&mut self, object: u64, count: usize) {
        self.counts.retain(|(other, _)| *other != object);
        if count > 0 {
            self.counts.push((object, count));
        }
    }
}

impl Table {
    fn holds(&self) -> MutexGuard<'_, Vec<Level>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, owner: u64, object: u64) -> usize {
        let holds = self.holds();
        holds.iter().find(|level| level.owner == owner).map_or(0, |level| level.count(object))
    }

    /// Brings an owner's count down to this. Returns the guard when nothing is left of the hold.
    fn lower(
        self: &Arc<Self>,
        owner: u64,
        object: u64,
        count: usize,
    ) -> Option<OwnedFileLockGuard> {
        let mut holds = self.holds();
        let at = holds.iter().position(|level| level.owner == owner)?;
        if holds[at].count(object) > count {
            holds[at].set_count(object, count);
        }
        let over = holds[at].counts.is_empty().then(|| holds.swap_remove(at).guard);
        drop(holds);
        if over.is_some() {
            owner::leave(Arc::as_ptr(self).cast());
        }
        over
    }

    /// Releases whatever is held through an object.
    fn lower_all(&self, object: u64) -> Vec<OwnedFileLockGuard> {
        let mut holds = self.holds();
        for level in &mut *holds {
            level.set_count(object, 0);
        }
        let (over, left) = holds.drain(..).partition(|level| level.counts.is_empty());
        *holds = left;
        let over: Vec<Level> = over;
        over.into_iter().map(|level| level.guard).collect()
    }
}

impl Holder for Table {
    /// As its kin of filelock's, it is released by whoever acquired it.
    fn excludes_here(&self, _: Python<'_>, wanted: &Wanted<'_>) -> Option<Release> {
        let in_the_way = |level: &Level| {
            level.owner == wanted.owner() && wanted.is_excluded_by(&level.guard, Range::WHOLE)
        };
        self.holds().iter().any(in_the_way).then_some(Release::Here)
    }

    fn is_idle(&self) -> bool {
        self.holds().is_empty()
    }
}

#[pymethods]
impl Levels {
    #[new]
    fn new() -> Self {
        Self { table: Arc::default() }
    }

    /// Whether the owner holds the lock shared; None if it does not hold it.
    fn is_shared(&self, owner: u64) -> Option<bool> {
        let holds = self.table.holds();
        let held = holds.iter().find(|level| level.owner == owner && level.guard.is_held());
        held.map(|level| level.guard.mode() == Mode::Shared)
    }

    /// Whether anybody in this process holds the lock.
    fn is_held(&self) -> bool {
        self.table.holds().iter().any(|level| level.guard.is_held())
    }
}

/// The native part of ReadWriteLock and AsyncReadWriteLock: an object that a lock is held through.
#[pyclass(frozen, subclass, module = "lockmgr._lockmgr")]
pub(crate) struct ReadWriteBase {
    levels: OnceLock<Py<Levels>>,
    object: u64,
}

impl ReadWriteBase {
    fn table(&self) -> PyResult<&Arc<Table>> {
        let levels = self.levels.get().map(|levels| &levels.get().table);
        levels.ok_or_else(|| {
            PyRuntimeError::new_err("the lock is not set up: its __init__ was not called")
        })
    }

    /// The end of a `with`: releases what this thread has acquired last through the object.
    fn leave(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this, owner) = (slf.py(), slf.get(), owner::this_thread());
        match this.table()?.count(owner, this.object) {
            0 => slf.call_method0(intern!(py, "_refuse_release")).map(drop),
            count => this.release(py, owner, count - 1),
        }
    }
}

fn give_back(py: Python<'_>, guard: OwnedFileLockGuard) -> PyResult<()> {
    // In a forked child there is nothing to give back.
    if !guard.is_held() {
        return Ok(());
    }
    let path = guard.path().map(Path::to_path_buf);
    let mode = guard.mode();
    drop(guard);
    log::tell_mode(py, Happened::Released, path.as_deref(), mode)
}

#[pymethods]
impl ReadWriteBase {
    /// The arguments are for __init__.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Self { levels: OnceLock::new(), object: owner::new_key() }
    }

    #[pyo3(name = "_set_up")]
    fn set_up(&self, levels: Py<Levels>) -> PyResult<()> {
        self.levels
            .set(levels)
            .map_err(|_| PyRuntimeError::new_err("a lock is set up once: __init__ came twice"))
    }

    /// Counts one more for an owner that holds the lock in some mode; returns whether it does.
    #[pyo3(name = "_enter_again")]
    fn enter_again(&self, owner: u64) -> PyResult<bool> {
        let mut holds = self.table()?.holds();
        let Some(level) = holds.iter_mut().find(|level| level.owner == owner) else {
            return Ok(false);
        };
        let count = level.count(self.object);
        level.set_count(self.object, count + 1);
        Ok(true)
    }

    /// Keeps what an owner has acquired, and tells of it.
    #[pyo3(name = "_keep")]
    fn keep(&self, py: Python<'_>, owner: u64, hold: &Bound<'_, Hold>) -> PyResult<()> {
        let guard = hold.get().take_lock()?;
        let table = self.table()?;
        let path = guard.path().map(Path::to_path_buf);
        let mode = guard.mode();
        table.holds().push(Level { owner, guard, counts: vec![(self.object, 1)] });
        owner::enter(Arc::downgrade(table) as Weak<dyn Holder>);
        let told = log::tell_mode(py, Happened::Acquired, path.as_deref(), mode);
        if told.is_err() {
            // Whoever gets an exception does not expect to hold anything.
            self.lower(owner, 0)?;
        }
        told
    }

    /// How often an owner has acquired the lock through this object.
    #[pyo3(name = "_count")]
    fn count(&self, owner: u64) -> PyResult<usize> {
        Ok(self.table()?.count(owner, self.object))
    }

    /// Takes back what an owner has acquired through this object beyond so many times, without a word.
    #[pyo3(name = "_lower")]
    fn lower(&self, owner: u64, count: usize) -> PyResult<()> {
        drop(self.table()?.lower(owner, self.object, count));
        Ok(())
    }

    /// Releases what an owner has acquired through this object beyond so many times.
    #[pyo3(name = "_release")]
    fn release(&self, py: Python<'_>, owner: u64, count: usize) -> PyResult<()> {
        match self.table()?.lower(owner, self.object, count) {
            Some(guard) => give_back(py, guard),
            None => Ok(()),
        }
    }

    /// Releases whatever has been acquired through this object, by whomever.
    #[pyo3(name = "_release_all")]
    fn release_all(&self, py: Python<'_>) -> PyResult<()> {
        let guards = self.table()?.lower_all(self.object);
        // Those that are not come to are dropped, which releases them as well.
        guards.into_iter().try_for_each(|guard| give_back(py, guard))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(self.levels.get())
    }
}

/// What acquire() returns: for `with`, which releases.
#[pyclass(frozen, subclass, module = "lockmgr._lockmgr")]
pub(crate) struct ProxyBase {
    lock: Py<PyAny>,
}

#[pymethods]
impl ProxyBase {
    #[new]
    fn new(lock: Py<PyAny>) -> Self {
        Self { lock }
    }

    /// The lock.
    #[getter]
    fn lock<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.lock.bind(py)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.lock.bind(py).clone()
    }

    #[pyo3(signature = (*exception))]
    fn __exit__(&self, py: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let lock = self.lock.bind(py);
        match lock.cast::<ReadWriteBase>() {
            Ok(lock) => ReadWriteBase::leave(lock),
            Err(_) => lock.call_method1(intern!(py, "__exit__"), exception).map(drop),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }
}

/// What read_lock() and write_lock() return: for `with`, which acquires and releases.
#[pyclass(frozen, subclass, module = "lockmgr._lockmgr")]
pub(crate) struct ScopeBase {
    lock: Py<ReadWriteBase>,
    mode: Py<PyAny>,
    timeout: Py<PyAny>,
    blocking: Py<PyAny>,
}

#[pymethods]
impl ScopeBase {
    #[new]
    fn new(
        lock: Py<ReadWriteBase>,
        mode: Py<PyAny>,
        timeout: Py<PyAny>,
        blocking: Py<PyAny>,
    ) -> Self {
        Self { lock, mode, timeout, blocking }
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<()> {
        let (lock, owner) = (self.lock.bind(py), owner::this_thread());
        let before = lock.get().count(owner)?;
        let wanted = (&self.mode, &self.timeout, &self.blocking);
        let outcome = lock.call_method1(intern!(py, "_acquire"), wanted);
        if outcome.is_err() {
            // It may have come when the lock was acquired already.
            lock.get().lower(owner, before)?;
        }
        outcome.map(drop)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        ReadWriteBase::leave(self.lock.bind(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }
}
