//! `Lock`: one object that excludes processes, threads and tasks alike.
//!
//! What is held is a list of holds, each with its owner: one when the lock is exclusive, as many as there
//! are sharers when it is shared. The list's mutex is held for a push or a pop and nothing else.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lockmgr::inspect::printable;
use lockmgr::{FileLock, Mode, OwnedFileLockGuard, Range, name};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyWeakrefMethods, PyWeakrefReference};

use crate::error::{After, deadlock, exception, path_to_python};
use crate::hold::{Guard, Hold};
use crate::options::{self, Options, Patience, mode, patience};
use crate::owner::{Holder, Release, Waiter, Wanted};
use crate::wait::{self, Pace, Wait};
use crate::{log, look, owner};

/// What the holds of a lock are counted in, apart from the Python object.
pub(crate) struct Shared {
    lock: FileLock,
    range: Range,
    holds: Mutex<Vec<Held>>,
}

/// One hold.
struct Held {
    guard: OwnedFileLockGuard,
    thread: u64,
    /// Weakly: else a task that is forgotten inside would be kept alive by the lock, and never leave.
    task: Option<Py<PyWeakrefReference>>,
    /// How often its owner has acquired it: more than once only if the lock is re-entrant.
    count: usize,
    /// A `with` has taken it, and will release it in its place.
    scoped: bool,
}

impl Held {
    fn is_of(&self, py: Python<'_>, thread: u64, task: Option<&Py<PyAny>>) -> bool {
        let same = match (&self.task, task) {
            (None, None) => true,
            (Some(_), Some(task)) => self.is_of_task(py, task),
            _ => false,
        };
        same && self.thread == thread && self.guard.is_held()
    }

    fn is_of_task(&self, py: Python<'_>, task: &Py<PyAny>) -> bool {
        self.living_task(py).is_some_and(|living| living.is(task))
    }

    fn living_task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.task.as_ref()?.bind(py).upgrade()
    }

    /// Whether the thread or task that has acquired it may yet release it.
    fn has_owner(&self, py: Python<'_>) -> bool {
        self.guard.is_held() && (self.task.is_none() || self.living_task(py).is_some())
    }
}

impl Shared {
    fn holds(&self) -> MutexGuard<'_, Vec<Held>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody is about to wait for through it.
    fn wanted<'a>(&'a self, mode: Mode, waiter: Waiter<'a>) -> Wanted<'a> {
        Wanted::new(&self.lock, self.range, mode, waiter)
    }

    /// Whether it is in the way of what is wanted, where it is held in this mode.
    pub(crate) fn excludes(&self, wanted: &Wanted<'_>, mode: Mode) -> bool {
        wanted.is_excluded_by_lock(&self.lock, self.range, mode)
    }

    /// Before a thread goes to sleep: would it wait for what only it can give back?
    pub(crate) fn refuse_own_thread(&self, py: Python<'_>, mode: Mode) -> PyResult<()> {
        if owner::waits_for_itself(py, &self.wanted(mode, Waiter::Thread))? {
            return Err(deadlock(py, &self.lock, "thread"));
        }
        Ok(())
    }
}

impl Holder for Shared {
    fn excludes_here(&self, py: Python<'_>, wanted: &Wanted<'_>) -> Option<Release> {
        let here = owner::this_thread();
        let holds = self.holds();
        let mut in_the_way = holds.iter().filter(|held| {
            let by_waiter = match wanted.waiter() {
                Waiter::Task(task, _) => held.scoped && held.is_of_task(py, task),
                Waiter::Thread => true,
            };
            by_waiter && held.thread == here && wanted.is_excluded_by(&held.guard, self.range)
        });
        let first = in_the_way.next()?;
        let scoped = first.scoped || in_the_way.any(|held| held.scoped);
        Some(if scoped { Release::Here } else { Release::Anyone })
    }

    fn is_idle(&self) -> bool {
        self.holds().iter().all(|held| !held.guard.is_held())
    }
}

/// The native part of Lock, which has the documentation.
#[pyclass(frozen, subclass, weakref, module = "lockmgr._lockmgr")]
pub(crate) struct BaseLock {
    shared: Arc<Shared>,
    options: Options,
    /// If it was given as a name.
    name: Option<OsString>,
    by_default_shared: bool,
    reentrant: bool,
    patience: Patience,
    pace: Pace,
}

#[pymethods]
impl BaseLock {
    #[new]
    #[pyo3(signature = (
        path_or_name, *, shared = false, timeout = None, mechanism = "flock", byte_range = None,
        fair = false, reentrant = false, remove = false, note = None, record = false, mode = None,
        create = true, parents = false, follow_symlinks = false, fenced = false, durable = false,
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
        reentrant: bool,
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
        let (lock, range) = options.open(py, path_or_name)?;
        Ok(Self {
            shared: Arc::new(Shared { lock, range, holds: Mutex::default() }),
            options,
            name: options::place(path_or_name).ok().filter(|place| !name::is_path(place)),
            by_default_shared: shared,
            reentrant,
            patience: patience(timeout)?,
            pace: Pace::new(durable || remove),
        })
    }

    /// The lock file, absolute.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.lock().path().map(|path| path_to_python(py, path)).transpose()
    }

    /// Which of the kernel's locks it is: "flock", "ofd" or "posix".
    #[getter]
    fn mechanism(&self) -> String {
        self.lock().mechanism().to_string()
    }

    /// How long acquiring waits unless it is told otherwise, in seconds; None is however long it takes.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.patience.seconds()
    }

    /// Acquires the lock, asleep in the kernel while somebody else has it.
    ///
    /// timeout is in seconds, and covers everything; 0 is one attempt, math.inf waits however long it
    /// takes, and None does as the lock was made. With shared=True, together with other shared holders.
    ///
    /// Returns an object for `with`, which releases:
    ///
    ///     with lock.acquire(timeout=10):
    ///         ...
    ///
    /// Raises Timeout, which says who holds it, and DeadlockError instead of waiting for itself.
    #[pyo3(signature = (timeout = None, *, shared = None))]
    fn acquire(
        slf: &Bound<'_, Self>,
        timeout: Option<f64>,
        shared: Option<bool>,
    ) -> PyResult<Acquired> {
        let this = slf.get();
        let patience = this.patience(timeout)?;
        this.take(slf.py(), patience, shared.unwrap_or(this.by_default_shared), false)?;
        Ok(Acquired { lock: slf.clone().unbind() })
    }

    /// Releases the lock; RuntimeError if it is not held.
    ///
    /// Raises LockError, after the release, if the lock file was deleted or replaced during the hold, so
    /// that somebody else may have been inside too, or if it was to be removed and could not be. (`with`
    /// keeps that to itself.)
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let Some(held) = self.pop(py)? else { return Ok(()) };
        let shared = held.guard.mode() == Mode::Shared;
        let outcome = self.pace.run(py, || held.guard.unlock());
        log::released(py, self.lock(), shared)?;
        outcome.map_err(|error| exception(py, error, After::Attempt))
    }

    /// Whether the lock is held through this object, in this process. Who else holds it, holders() tells.
    fn locked(&self) -> bool {
        self.shared.holds().iter().any(|held| held.guard.is_held())
    }

    /// Who holds the lock, according to the kernel, whoever took it and by whatever program: a list of
    /// Holder.
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::holders(py, self.lock())
    }

    /// Who is blocked on the lock, according to the kernel: a list of Waiter.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::waiters(py, self.lock())
    }

    /// The fencing token, which grows with every exclusive hold of a lock made with fenced=True; None if
    /// the lock is not, or is held shared, or not at all.
    #[getter]
    fn token(&self) -> Option<u64> {
        self.shared.holds().iter().rev().find_map(|held| held.guard.token())
    }

    /// Whether the lock is held, and its path still names the locked file.
    fn still_current(&self, py: Python<'_>) -> PyResult<bool> {
        let current = match self.shared.holds().iter().rfind(|held| held.guard.is_held()) {
            Some(held) => held.guard.still_current(),
            None => Ok(false),
        };
        current.map_err(|error| exception(py, error, After::Attempt))
    }

    /// The descriptor of the lock file while the lock is held. Do not unlock or close it.
    fn fileno(&self) -> PyResult<i32> {
        let fd = self
            .shared
            .holds()
            .iter()
            .rfind(|held| held.guard.is_held())
            .map(|held| held.guard.file().as_raw_fd());
        fd.ok_or_else(|| PyRuntimeError::new_err(self.not_held()))
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        this.take(slf.py(), this.patience, this.by_default_shared, true)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.leave(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let path = this.path(slf.py())?.map(|path| path.repr()).transpose()?;
        let path = path.map(|path| path.to_string()).unwrap_or_default();
        let held = if this.locked() { ", held" } else { "" };
        Ok(format!("<{} {path}{held}>", slf.get_type().name()?))
    }

    /// What a copy in another process is made of; it contends there on its own.
    fn __getnewargs_ex__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
        let keywords = self.options.keywords(py)?;
        keywords.set_item("shared", self.by_default_shared)?;
        keywords.set_item("reentrant", self.reentrant)?;
        keywords.set_item("timeout", self.patience.seconds())?;
        let place = match &self.name {
            Some(name) => Some(name.into_pyobject(py)?.into_any()),
            None => self.path(py)?,
        };
        Ok((PyTuple::new(py, [place])?, keywords))
    }

    /// Begins to acquire for a task without blocking: None when that has succeeded already, else a Wait.
    #[pyo3(signature = (timeout, shared, task, scoped))]
    fn _begin(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        shared: Option<bool>,
        task: Option<Py<PyAny>>,
        scoped: bool,
    ) -> PyResult<Option<Wait>> {
        let patience = self.patience(timeout)?;
        let mode = mode(shared.unwrap_or(self.by_default_shared));
        if self.reentrant && self.enter_again(py, mode, task.as_ref())? {
            return Ok(None);
        }
        let in_turn = patience != Patience::Now;
        match wait::attempt(py, self.lock(), mode, in_turn, &self.pace)? {
            Ok(guard) => {
                self.push(py, guard, task, scoped)?;
                Ok(None)
            }
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(_) => {
                if let Some(task) = &task {
                    let waiter = Waiter::Task(task, owner::task_number(py)?);
                    if owner::waits_for_itself(py, &self.shared.wanted(mode, waiter))? {
                        return Err(deadlock(py, self.lock(), "task"));
                    }
                }
                Wait::for_lock(self.lock(), mode, patience, self.pace.is_slow()).map(Some)
            }
        }
    }

    /// Takes over what a Wait has got for a task.
    fn _adopt(
        &self,
        py: Python<'_>,
        hold: &Bound<'_, Hold>,
        task: Option<Py<PyAny>>,
        scoped: bool,
    ) -> PyResult<()> {
        match hold.get().take() {
            Some(Guard::Lock(guard)) => self.push(py, guard, task, scoped),
            _ => Err(PyTypeError::new_err("not the hold of a lock")),
        }
    }

    /// Releases what the task holds, without a word about replaced lock files.
    fn _leave(&self, py: Python<'_>, task: Option<Py<PyAny>>) -> PyResult<()> {
        let held = self.remove(py, task.as_ref())?;
        self.drop_quietly(py, held)
    }
}

impl BaseLock {
    pub(crate) fn lock(&self) -> &FileLock {
        &self.shared.lock
    }

    /// What its holds are counted in.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Whether even a free one takes its time.
    pub(crate) fn is_slow(&self) -> bool {
        self.pace.is_slow()
    }

    /// Whether it is acquired shared unless told otherwise.
    pub(crate) fn is_shared(&self) -> bool {
        self.by_default_shared
    }

    fn patience(&self, timeout: Option<f64>) -> PyResult<Patience> {
        if timeout.is_some() { patience(timeout) } else { Ok(self.patience) }
    }

    fn take(&self, py: Python<'_>, patience: Patience, shared: bool, scoped: bool) -> PyResult<()> {
        let mode = mode(shared);
        let task = if self.reentrant {
            let task = owner::current_task(py)?;
            if self.enter_again(py, mode, task.as_ref())? {
                return Ok(());
            }
            task
        } else {
            None
        };
        let refuse_own = || self.shared.refuse_own_thread(py, mode);
        let guard = wait::acquire(py, self.lock(), mode, patience, &self.pace, refuse_own)?;
        self.push(py, guard, task, scoped)
    }

    /// Counts up what the owner holds already, through a re-entrant lock.
    fn enter_again(&self, py: Python<'_>, mode: Mode, task: Option<&Py<PyAny>>) -> PyResult<bool> {
        let here = owner::this_thread();
        let mut holds = self.shared.holds();
        let Some(held) = holds.iter_mut().find(|held| held.is_of(py, here, task)) else {
            return Ok(false);
        };
        if held.guard.mode() == Mode::Shared && mode == Mode::Exclusive {
            drop(holds);
            return Err(deadlock(py, self.lock(), "owner"));
        }
        held.count += 1;
        Ok(true)
    }

    fn push(
        &self,
        py: Python<'_>,
        guard: OwnedFileLockGuard,
        task: Option<Py<PyAny>>,
        scoped: bool,
    ) -> PyResult<()> {
        let shared = guard.mode() == Mode::Shared;
        let task = task.map(|task| PyWeakrefReference::new(task.bind(py))).transpose()?;
        let task = task.map(Bound::unbind);
        let held = Held { guard, thread: owner::this_thread(), task, count: 1, scoped };
        self.shared.holds().push(held);
        owner::enter(Arc::downgrade(&self.shared) as Weak<dyn Holder>);
        let told = log::acquired(py, self.lock(), shared);
        if told.is_err() {
            // A signal's handler has raised while the record was made: nobody knows of this hold.
            drop(self.pop(py)?);
        }
        told
    }

    /// The end of a `with`.
    pub(crate) fn leave(&self, py: Python<'_>) -> PyResult<()> {
        let held = self.pop(py)?;
        self.drop_quietly(py, held)
    }

    fn drop_quietly(&self, py: Python<'_>, held: Option<Held>) -> PyResult<()> {
        let Some(held) = held else { return Ok(()) };
        let shared = held.guard.mode() == Mode::Shared;
        self.pace.run(py, || drop(held.guard));
        log::released(py, self.lock(), shared)
    }

    fn pop(&self, py: Python<'_>) -> PyResult<Option<Held>> {
        let task = if self.reentrant { owner::current_task(py)? } else { None };
        self.remove(py, task.as_ref())
    }

    /// Removes one hold, of this owner if it has one. None when its owner has acquired it once more.
    fn remove(&self, py: Python<'_>, task: Option<&Py<PyAny>>) -> PyResult<Option<Held>> {
        let here = owner::this_thread();
        let mut holds = self.shared.holds();
        let at = match holds.iter().rposition(|held| held.is_of(py, here, task)) {
            Some(at) => at,
            // In a forked child, what the parent holds ends without effect.
            None => match holds.len() {
                0 => return Err(PyRuntimeError::new_err(self.not_held())),
                _ if self.reentrant && holds.iter().any(|held| held.has_owner(py)) => {
                    drop(holds);
                    let text =
                        "a re-entrant lock is released by the thread or task that acquired it";
                    return Err(PyRuntimeError::new_err(text));
                }
                holds => holds - 1,
            },
        };
        if holds[at].count > 1 {
            holds[at].count -= 1;
            return Ok(None);
        }
        let held = holds.remove(at);
        drop(holds);
        owner::leave(Arc::as_ptr(&self.shared).cast());
        Ok(Some(held))
    }

    fn not_held(&self) -> String {
        let path = self.lock().path().map(|path| printable(path.as_os_str().as_bytes()));
        format!("{}: the lock is not held through this object", path.unwrap_or_default())
    }

    /// A `with` has begun on what acquire() has got.
    fn scope(&self) {
        let here = owner::this_thread();
        let mut holds = self.shared.holds();
        if let Some(held) = holds.iter_mut().rfind(|held| held.thread == here && !held.scoped) {
            held.scoped = true;
        }
    }
}

/// An acquired Lock, to be released by `with`.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct Acquired {
    lock: Py<BaseLock>,
}

#[pymethods]
impl Acquired {
    /// The lock.
    #[getter]
    fn lock<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLock> {
        self.lock.bind(py)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> Bound<'py, BaseLock> {
        self.lock.get().scope();
        self.lock.bind(py).clone()
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.lock.get().leave(py)
    }
}
