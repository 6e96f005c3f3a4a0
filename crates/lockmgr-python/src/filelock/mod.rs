//! The native half of `FileLock` and `AsyncFileLock`, which keep the habits of the package filelock.
//!
//! | instance | whose the hold is | who enters again at once | who may release |
//! |---|---|---|---|
//! | of each thread | the thread's, with settings of its own | the thread | the thread |
//! | shared | the thread's or task's that acquired it | the same | anybody; the end of a `with` not what another owner has acquired since |
//!
//! - All threads of an instance share one handle of the library: they queue in the process, and only
//!   the front one asks the kernel. So nobody ever comes in beside the owner, in either kind.
//! - Entering again counts; the lock is released when the count is back at zero.
//! - In a forked child an instance is dead: it shows nothing as held, releases nothing and acquires
//!   nothing.
//! - An owner that would wait for ever for what it holds itself, through another instance, gets an
//!   error. Whether that is so is only looked at when it is going to wait.

mod acquire;
mod arguments;
mod contexts;

use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use lockmgr::{FileLock, Mode};
use pyo3::exceptions::{PyDeprecationWarning, PyFileNotFoundError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFloat, PyString};

use self::acquire::Request;
use self::arguments::{interval, patience_of, seconds_to_wait, yes_or_no};
use self::contexts::{Habits, Held, SHARED, State};
use crate::error::{After, exception};
use crate::hold::Hold;
use crate::options::{Patience, place};
use crate::owner::Waiter;
use crate::wait::{self, Pace, Wait};
use crate::{look, owner};

/// The native part of FileLock and AsyncFileLock.
#[pyclass(frozen, subclass, weakref, module = "lockmgr._lockmgr")]
pub(crate) struct FileLockBase {
    setup: OnceLock<Setup>,
    /// Cleared by the garbage collector: a callback may well refer to its lock.
    on_acquired: Mutex<Option<Py<PyAny>>>,
    state: Arc<State>,
}

/// What is settled when the lock is made.
struct Setup {
    lock: FileLock,
    pace: Pace,
    /// As it was given.
    lock_file: Py<PyAny>,
    per_thread: bool,
    calls_back: bool,
    groups_errors: bool,
    habits: Habits,
}

impl Setup {
    /// Where the calling thread's settings and hold are.
    fn here(&self) -> u64 {
        if self.per_thread { owner::this_thread() } else { SHARED }
    }
}

impl FileLockBase {
    fn setup(&self) -> PyResult<&Setup> {
        self.setup.get().ok_or_else(|| {
            PyRuntimeError::new_err("the lock is not set up: its __init__ was not called")
        })
    }

    /// The settings of the calling thread.
    fn habits(&self) -> PyResult<Habits> {
        let setup = self.setup()?;
        Ok(self.state.habits(setup.habits, setup.here()))
    }

    fn change_habits(&self, change: impl FnOnce(&mut Habits)) -> PyResult<()> {
        let setup = self.setup()?;
        self.state.change_habits(setup.habits, setup.here(), change);
        Ok(())
    }

    /// Asks about the hold that the calling thread sees.
    fn ask<T>(&self, question: impl FnOnce(&Held) -> T) -> PyResult<Option<T>> {
        Ok(self.state.ask(self.setup()?.here(), question))
    }

    fn callback(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.on_acquired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl FileLockBase {
    /// The arguments are for __init__.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Self { setup: OnceLock::new(), on_acquired: Mutex::new(None), state: Arc::default() }
    }

    #[pyo3(signature = (
        lock_file, *, timeout, mode, thread_local, blocking, poll_interval, groups_errors, on_acquired
    ))]
    #[expect(clippy::too_many_arguments, reason = "all of them are the package's own keywords")]
    fn _set_up(
        &self,
        py: Python<'_>,
        lock_file: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
        mode: Option<u32>,
        thread_local: bool,
        blocking: &Bound<'_, PyAny>,
        poll_interval: &Bound<'_, PyAny>,
        groups_errors: bool,
        on_acquired: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let habits = Habits {
            timeout: seconds_to_wait(timeout)?,
            blocking: yes_or_no(blocking)?,
            poll_interval: interval(poll_interval)?,
        };
        let path = place(lock_file)?;
        if path.is_empty() {
            let number = 2; // ENOENT
            return Err(PyFileNotFoundError::new_err((
                number,
                "an empty path names no lock file",
                lock_file.clone().unbind(),
            )));
        }
        if path.as_bytes().contains(&0) {
            return Err(PyValueError::new_err("the path of a lock file has no NUL in it"));
        }
        let calls_back = on_acquired.is_some();
        let mut options = FileLock::options().create_parents(true).writable(calls_back);
        if let Some(bits) = mode {
            options = options.creation_mode(bits);
        }
        let lock = options.open_lazy(path).map_err(|error| exception(py, error, After::Attempt))?;
        let setup = Setup {
            lock,
            pace: Pace::new(false),
            lock_file: lock_file.clone().unbind(),
            per_thread: thread_local,
            calls_back,
            groups_errors,
            habits,
        };
        self.setup
            .set(setup)
            .map_err(|_| PyRuntimeError::new_err("a lock is set up once: __init__ came twice"))?;
        *self.callback() = on_acquired;
        Ok(())
    }

    /// The path of the lock file, as it was given.
    #[getter]
    fn lock_file<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        Ok(self.setup()?.lock_file.bind(py))
    }

    /// How many seconds an acquisition waits at the most: 0 is one attempt, a negative number no limit.
    #[getter]
    fn timeout(&self) -> PyResult<f64> {
        Ok(self.habits()?.timeout)
    }

    #[setter]
    fn set_timeout(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let seconds = if value.is_instance_of::<PyString>() {
            let class = py.get_type::<PyDeprecationWarning>();
            PyErr::warn(py, &class, c"a timeout that is a str is out of date; give a number", 1)?;
            seconds_to_wait(py.get_type::<PyFloat>().call1((value,))?.as_any())?
        } else {
            seconds_to_wait(value)?
        };
        self.change_habits(|habits| habits.timeout = seconds)
    }

    /// Whether an acquisition waits at all.
    #[getter]
    fn blocking(&self) -> PyResult<bool> {
        Ok(self.habits()?.blocking)
    }

    #[setter]
    fn set_blocking(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let blocking = yes_or_no(value)?;
        self.change_habits(|habits| habits.blocking = blocking)
    }

    /// How often cancel_check is asked, in seconds. Nothing else is polled.
    #[getter]
    fn poll_interval(&self) -> PyResult<f64> {
        Ok(self.habits()?.poll_interval)
    }

    #[setter]
    fn set_poll_interval(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let seconds = interval(value)?;
        self.change_habits(|habits| habits.poll_interval = seconds)
    }

    /// Called with the descriptor of the lock file whenever the lock has been acquired.
    #[getter]
    fn on_acquired(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callback().as_ref().map(|callback| callback.clone_ref(py))
    }

    /// Whether the lock is held through this instance; if it is thread-local, by this thread.
    #[getter]
    fn is_locked(&self) -> PyResult<bool> {
        Ok(self.ask(|_| ())?.is_some())
    }

    /// How many releases are to come.
    #[getter]
    fn lock_counter(&self) -> PyResult<usize> {
        Ok(self.ask(|held| held.count)?.unwrap_or(0))
    }

    /// Whether each thread has settings and a hold of its own.
    fn is_thread_local(&self) -> PyResult<bool> {
        Ok(self.setup()?.per_thread)
    }

    /// Acquires the lock, asleep in the kernel while somebody else has it, or counts one more if this thread
    /// holds it.
    ///
    /// timeout, poll_interval and blocking are as the lock was made unless they are given: timeout in
    /// seconds, 0 for one attempt, a negative number for no limit; blocking=False for one attempt.
    /// cancel_check is asked while it waits, every poll_interval seconds, whether to give up.
    ///
    /// Returns an object for `with`, which releases. Raises Timeout, which says who has the lock, also
    /// when cancel_check says so, and DeadlockError instead of waiting without end for what this thread
    /// holds through another object.
    #[pyo3(signature = (
        timeout = None, poll_interval = None, *, poll_intervall = None, blocking = None,
        cancel_check = None
    ))]
    fn acquire<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
        poll_interval: Option<&Bound<'py, PyAny>>,
        poll_intervall: Option<&Bound<'py, PyAny>>,
        blocking: Option<&Bound<'py, PyAny>>,
        cancel_check: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static PROXY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        if poll_intervall.is_some() {
            let class = py.get_type::<PyDeprecationWarning>();
            PyErr::warn(py, &class, c"poll_intervall is spelled poll_interval", 1)?;
        }
        let poll_interval = poll_intervall.or(poll_interval);
        let request = slf.get().request(timeout, poll_interval, blocking, cancel_check)?;
        Self::take(slf, &request)?;
        PROXY.import(py, "lockmgr._filelock", "AcquireReturnProxy")?.call1((slf,))
    }

    /// Counts one less, and releases the lock when nothing is left, or at once with force=True.
    /// Without effect when the lock is not held.
    #[pyo3(signature = (force = None), text_signature = "($self, force=False)")]
    fn release(&self, py: Python<'_>, force: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let all = force.map_or(Ok(false), PyAnyMethods::is_truthy)?;
        self.give_up(py, all)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let habits = slf.get().habits()?;
        let patience = patience_of(habits.timeout, habits.blocking)?;
        let Habits { blocking, poll_interval, .. } = habits;
        Self::take(slf, &Request { patience, blocking, cancel_check: None, poll_interval })?;
        if !slf.get().setup()?.per_thread {
            slf.get().state.begin(owner::this_thread());
        }
        Ok(slf.clone())
    }

    #[pyo3(signature = (exc_type = None, exc_value = None, traceback = None))]
    fn __exit__(
        &self,
        py: Python<'_>,
        exc_type: Option<&Bound<'_, PyAny>>,
        exc_value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        static BOTH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        // Python's names, which callers may use.
        let _ = (exc_type, traceback);
        if !self.setup()?.per_thread && !self.state.end(owner::this_thread()) {
            return Ok(());
        }
        let Err(error) = self.give_up(py, false) else { return Ok(()) };
        let Some(body) = exc_value else { return Err(error) };
        let groups = self.setup()?.groups_errors;
        let both = BOTH.import(py, "lockmgr._filelock", "both_failed")?;
        Err(PyErr::from_value(both.call1((body, error.value(py), groups))?))
    }

    /// Who holds the lock, according to the kernel: a list of Holder.
    fn holders<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::holders(py, &self.setup()?.lock)
    }

    /// Who is blocked on the lock, according to the kernel: a list of Waiter.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        look::waiters(py, &self.setup()?.lock)
    }

    /// A number for an owner that is no thread.
    #[staticmethod]
    fn _new_owner() -> u64 {
        owner::new_key()
    }

    /// The number of the calling thread.
    #[staticmethod]
    fn _this_thread() -> u64 {
        owner::this_thread()
    }

    /// How many threads have a hold or settings of their own.
    fn _contexts(&self) -> usize {
        self.state.count()
    }

    /// Begins to acquire for the owner, without blocking: None when that has succeeded, else a Wait.
    #[pyo3(signature = (owner, timeout, poll_interval, blocking))]
    fn _begin<'py>(
        slf: &Bound<'py, Self>,
        owner: u64,
        timeout: Option<&Bound<'py, PyAny>>,
        poll_interval: Option<&Bound<'py, PyAny>>,
        blocking: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Wait>> {
        let (py, this) = (slf.py(), slf.get());
        let setup = this.setup()?;
        Self::refuse_inherited(slf, setup)?;
        let request = this.request(timeout, poll_interval, blocking, None)?;
        if this.state.enter_again(setup.here(), owner) {
            return Ok(None);
        }
        match wait::attempt(py, &setup.lock, Mode::Exclusive, false, &setup.pace)? {
            Ok(guard) => this.keep(py, setup, owner, guard).map(|()| None),
            Err(busy) if request.patience == Patience::Now => {
                Err(setup.exception(py, busy, After::Attempt))
            }
            Err(_) => {
                if let Some(task) = owner::current_task(py)? {
                    // The task that sleeps may do so for another one.
                    let waiter = Waiter::Task(&task, owner::task_number(py)?);
                    setup.refuse_own(py, waiter, request.patience)?;
                }
                let slow = setup.pace.is_slow();
                Wait::for_lock(&setup.lock, Mode::Exclusive, request.patience, slow).map(Some)
            }
        }
    }

    /// Takes over what a Wait has acquired.
    fn _adopt(&self, py: Python<'_>, owner: u64, hold: &Bound<'_, Hold>) -> PyResult<()> {
        self.keep(py, self.setup()?, owner, hold.get().take_lock()?)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(setup) = self.setup.get() {
            visit.call(&setup.lock_file)?;
        }
        // Nobody else runs while the collector does.
        match self.on_acquired.try_lock() {
            Ok(callback) => visit.call(&*callback),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        let callback = self.callback().take();
        drop(callback);
    }
}
