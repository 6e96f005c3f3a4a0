//! `Lock`: one object that excludes processes, threads and tasks alike.
//!
//! One hold when the lock is exclusive, as many as there are sharers when it is shared.

use std::ffi::OsString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use lockmgr::inspect::printable;
use lockmgr::{FileLock, Mode, OwnedFileLockGuard, Range, name};
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::error::{After, deadlock, exception, path_to_python, waits_for_itself};
use crate::hold::{Guard, Hold};
use crate::holds::{Guarded, Holds, Taken};
use crate::log::Place;
use crate::options::{self, Options, Patience, mode, patience};
use crate::owner::{Holder, Me, Release, Waiter, Wanted};
use crate::wait::{self, Pace, Wait};
use crate::{log, look, owner};

/// What the holds of a lock are counted in, apart from the Python object.
pub(crate) struct Shared {
    lock: FileLock,
    range: Range,
    holds: Holds<OwnedFileLockGuard>,
}

impl Guarded for OwnedFileLockGuard {
    fn is_held(&self) -> bool {
        OwnedFileLockGuard::is_held(self)
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> &FileLock {
        &self.lock
    }

    /// What somebody is about to wait for through it.
    fn wanted<'a>(&'a self, mode: Mode, waiter: Waiter<'a>) -> Wanted<'a> {
        Wanted::new(&self.lock, self.range, mode, waiter)
    }

    /// Whether it is in the way of what is wanted, where it is held in this mode.
    pub(crate) fn excludes(&self, wanted: &Wanted<'_>, mode: Mode) -> bool {
        wanted.is_excluded_by_lock(&self.lock, self.range, mode)
    }

    /// Before somebody begins to wait: would it be for what only the waiter itself can give back?
    pub(crate) fn refuse_own(
        &self,
        py: Python<'_>,
        mode: Mode,
        waiter: Waiter<'_>,
    ) -> PyResult<()> {
        if owner::waits_for_itself(py, &self.wanted(mode, waiter))? {
            return Err(waits_for_itself(py, &self.lock, waiter.word()));
        }
        Ok(())
    }
}

impl Holder for Shared {
    fn excludes_here(&self, py: Python<'_>, wanted: &Wanted<'_>) -> Option<Release> {
        let is_in_the_way = |guard: &_| wanted.is_excluded_by(guard, self.range);
        self.holds.who_releases(py, wanted.waiter(), is_in_the_way)
    }

    fn is_idle(&self) -> bool {
        !self.holds.is_held()
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
            shared: Arc::new(Shared { lock, range, holds: Holds::default() }),
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
        let shared = shared.unwrap_or(this.by_default_shared);
        let number = this.take(slf.py(), patience, shared, false)?;
        let entered = AtomicBool::new(false);
        Ok(Acquired { lock: slf.clone().unbind(), number, entered })
    }

    /// Releases the lock; RuntimeError if it is not held.
    ///
    /// Raises LockError, after the release, if the lock file was deleted or replaced during the hold, so
    /// that somebody else may have been inside too, or if it was to be removed and could not be. (`with`
    /// keeps that to itself.)
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let (me, told) = Me::at_any_rate(py);
        let taken = self.shared.holds.release(py, &me, self.reentrant);
        if let Some(guard) = self.taken(taken)? {
            let mode = guard.mode();
            let outcome = self.pace.run(py, || guard.unlock());
            log::released(py, self.lock(), mode)?;
            outcome.map_err(|error| exception(py, error, After::Attempt))?;
        }
        told
    }

    /// Whether the lock is held through this object, in this process. Who else holds it, holders() tells.
    fn locked(&self) -> bool {
        self.shared.holds.is_held()
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
        self.shared.holds.ask(|held| held.rev().find_map(OwnedFileLockGuard::token))
    }

    /// Whether the lock is held, and its path still names the locked file.
    fn still_current(&self, py: Python<'_>) -> PyResult<bool> {
        let current = self.shared.holds.ask(|held| match held.next_back() {
            Some(guard) => guard.still_current(),
            None => Ok(false),
        });
        current.map_err(|error| exception(py, error, After::Attempt))
    }

    /// The descriptor of the lock file while the lock is held. Do not unlock or close it.
    fn fileno(&self) -> PyResult<i32> {
        let last = |held: &mut dyn DoubleEndedIterator<Item = &OwnedFileLockGuard>| {
            held.next_back().map(|guard| guard.file().as_raw_fd())
        };
        let fd = self.shared.holds.ask(last);
        fd.ok_or_else(|| PyRuntimeError::new_err(self.not_held()))
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let this = slf.get();
        this.take(slf.py(), this.patience, this.by_default_shared, true)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.leave(py, Holds::leave)
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
    #[pyo3(signature = (timeout, shared, scoped))]
    fn _begin(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        shared: Option<bool>,
        scoped: bool,
    ) -> PyResult<Option<Wait>> {
        let patience = self.patience(timeout)?;
        let mode = mode(shared.unwrap_or(self.by_default_shared));
        let me = Me::now(py)?;
        if self.reentrant && self.enter_again(py, mode, &me, scoped)?.is_some() {
            return Ok(None);
        }
        let in_turn = patience != Patience::Now;
        match wait::attempt(py, self.lock(), mode, in_turn, &self.pace)? {
            Ok(guard) => {
                self.push(py, guard, &me, scoped)?;
                Ok(None)
            }
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(_) => {
                if let Some(task) = me.task() {
                    let waiter = Waiter::Task(task, owner::task_number(py)?);
                    self.shared.refuse_own(py, mode, waiter)?;
                }
                let wait = Wait::for_lock(self.lock(), mode, patience, self.pace.is_slow())?;
                Ok(Some(wait.about(Place::of(self.lock()))))
            }
        }
    }

    /// Takes over what a Wait has got for a task.
    fn _adopt(&self, py: Python<'_>, hold: &Bound<'_, Hold>, scoped: bool) -> PyResult<()> {
        let me = Me::now(py)?;
        match hold.get().take() {
            Some(Guard::Lock(guard)) => self.push(py, guard, &me, scoped).map(|_| ()),
            _ => Err(PyTypeError::new_err("not the hold of a lock")),
        }
    }

    /// The end of an `async with`.
    fn _leave(&self, py: Python<'_>) -> PyResult<()> {
        self.leave(py, Holds::leave)
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

    /// Returns the number of the hold.
    fn take(
        &self,
        py: Python<'_>,
        patience: Patience,
        shared: bool,
        scoped: bool,
    ) -> PyResult<u64> {
        let mode = mode(shared);
        let me = Me::now(py)?;
        if self.reentrant
            && let Some(number) = self.enter_again(py, mode, &me, scoped)?
        {
            return Ok(number);
        }
        let refuse_own = || self.shared.refuse_own(py, mode, Waiter::Thread);
        let guard = wait::acquire(py, self.lock(), mode, patience, &self.pace, refuse_own)?;
        self.push(py, guard, &me, scoped)
    }

    /// Counts up what the owner holds already, through a re-entrant lock.
    fn enter_again(
        &self,
        py: Python<'_>,
        mode: Mode,
        me: &Me,
        scoped: bool,
    ) -> PyResult<Option<u64>> {
        let may = |guard: &OwnedFileLockGuard| match (guard.mode(), mode) {
            (Mode::Shared, Mode::Exclusive) => Err(()),
            _ => Ok(()),
        };
        match self.shared.holds.again(py, me, scoped, may)? {
            Some(Err(())) => {
                let text = "this owner holds the lock shared, and cannot have it exclusively as well; \
                            release it first";
                Err(deadlock(py, self.lock().path(), text))
            }
            Some(Ok(number)) => Ok(Some(number)),
            None => Ok(None),
        }
    }

    fn push(
        &self,
        py: Python<'_>,
        guard: OwnedFileLockGuard,
        me: &Me,
        scoped: bool,
    ) -> PyResult<u64> {
        let mode = guard.mode();
        let number = self.shared.holds.push(py, guard, me, scoped)?;
        owner::enter(Arc::downgrade(&self.shared) as Weak<dyn Holder>);
        if let Err(raised) = log::acquired(py, self.lock(), mode) {
            // A signal's handler has raised while the record was made: nobody knows of this hold.
            drop(self.shared.holds.undo(number));
            owner::leave(Arc::as_ptr(&self.shared).cast());
            return Err(raised);
        }
        Ok(number)
    }

    /// The end of a `with`, without a word about replaced lock files. Released is whatever a signal's
    /// handler raises meanwhile.
    fn leave(
        &self,
        py: Python<'_>,
        end: impl FnOnce(&Holds<OwnedFileLockGuard>, Python<'_>, &Me, bool) -> Taken<OwnedFileLockGuard>,
    ) -> PyResult<()> {
        let (me, told) = Me::at_any_rate(py);
        let taken = end(&self.shared.holds, py, &me, self.reentrant);
        if let Some(guard) = self.taken(taken)? {
            let mode = guard.mode();
            self.pace.run(py, || drop(guard));
            log::released(py, self.lock(), mode)?;
        }
        told
    }

    /// None when its owner has acquired it once more.
    fn taken(&self, taken: Taken<OwnedFileLockGuard>) -> PyResult<Option<OwnedFileLockGuard>> {
        match taken {
            Taken::Last(guard) => {
                owner::leave(Arc::as_ptr(&self.shared).cast());
                Ok(Some(guard))
            }
            Taken::Counted => Ok(None),
            Taken::Others => Err(PyRuntimeError::new_err(
                "a re-entrant lock is released by the thread or task that acquired it",
            )),
            Taken::Nothing => Err(PyRuntimeError::new_err(self.not_held())),
        }
    }

    fn not_held(&self) -> String {
        format!("{}: the lock is not held through this object", self.shown())
    }

    /// The lock file, for a message.
    fn shown(&self) -> String {
        let path = self.lock().path().map(|path| printable(path.as_os_str().as_bytes()));
        path.unwrap_or_default()
    }
}

/// An acquired Lock, to be released by `with`.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct Acquired {
    lock: Py<BaseLock>,
    number: u64,
    entered: AtomicBool,
}

#[pymethods]
impl Acquired {
    /// The lock.
    #[getter]
    fn lock<'py>(&self, py: Python<'py>) -> &Bound<'py, BaseLock> {
        self.lock.bind(py)
    }

    fn __enter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, BaseLock>> {
        let lock = self.lock.get();
        // A second `with` would run its body without the lock, or end with it what the first one has.
        if self.entered.load(Ordering::Relaxed) || !lock.shared.holds.enter(self.number) {
            let text =
                "what acquire() has returned is for one `with` while it is held: acquire again";
            return Err(PyRuntimeError::new_err(format!("{}: {text}", lock.shown())));
        }
        self.entered.store(true, Ordering::Relaxed);
        Ok(self.lock.bind(py).clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let end = |holds: &Holds<_>, py: Python<'_>, me: &Me, own_only| {
            holds.leave_one(py, me, self.number, own_only)
        };
        self.lock.get().leave(py, end)
    }

    /// For annotations: the class of the lock.
    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        cls.py().import("types")?.call_method1("GenericAlias", (cls, item))
    }

    /// A lock may well keep it. What clears the lock ends that.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lock)
    }
}
