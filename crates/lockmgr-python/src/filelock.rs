//! The native half of `FileLock` and `AsyncFileLock`, which keep the habits of the package filelock.
//!
//! | instance | whose the hold is | who enters again at once | who may release |
//! |---|---|---|---|
//! | of each thread | the thread's, with settings of its own | the thread | the thread |
//! | shared | the thread's or task's that acquired it | the same | anybody |
//!
//! - All threads of an instance share one handle of the library: they queue in the process, and only
//!   the front one asks the kernel. So nobody ever comes in beside the owner, in either kind.
//! - Entering again counts; the lock is released when the count is back at zero.
//! - In a forked child an instance is dead: it shows nothing as held, releases nothing and acquires
//!   nothing.
//! - An owner that would wait for ever for what it holds itself, through another instance, gets an
//!   error. Whether that is so is only looked at when it is going to wait.
//!
//! The mutex around the contexts is never held while Python code may run or the GIL is released.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use lockmgr::{Error, FileLock, Mode, OwnedFileLockGuard};
use pyo3::exceptions::{
    PyDeprecationWarning, PyFileNotFoundError, PyOverflowError, PyRuntimeError, PyTimeoutError,
    PyTypeError, PyValueError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyFloat, PyString};

use crate::error::{After, exception};
use crate::hold::Hold;
use crate::log;
use crate::look;
use crate::options::{Patience, patience, place};
use crate::wait::{self, Wait};

/// The context that all owners have in common.
const SHARED: u64 = 0;

/// Entries of a thread's list of what it holds, from which on it is worth looking which are out of date.
const MANY: usize = 64;

/// How often `cancel_check` is asked at the most.
const SHORTEST: Duration = Duration::from_millis(1);

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
    /// As it was given.
    lock_file: Py<PyAny>,
    per_thread: bool,
    calls_back: bool,
    groups_errors: bool,
    habits: Habits,
}

/// What may be changed later, by each thread for itself unless the instance is shared.
#[derive(Clone, Copy, PartialEq)]
struct Habits {
    timeout: f64,
    blocking: bool,
    poll_interval: f64,
}

#[derive(Default)]
struct State {
    /// One for each thread that holds the lock or has settings of its own; of a shared instance one.
    contexts: Mutex<Vec<Context>>,
}

struct Context {
    place: u64,
    habits: Habits,
    held: Option<Held>,
}

struct Held {
    guard: OwnedFileLockGuard,
    owner: u64,
    count: usize,
}

/// One acquisition, as it was asked for.
struct Request<'py> {
    patience: Patience,
    /// It may wait, if only for no time at all.
    blocking: bool,
    cancel_check: Option<Bound<'py, PyAny>>,
    poll_interval: f64,
}

impl State {
    fn contexts(&self) -> MutexGuard<'_, Vec<Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more if the owner holds the lock; returns whether it does.
    fn enter_again(&self, place: u64, owner: u64) -> bool {
        let mut contexts = self.contexts();
        match held_in(&mut contexts, place) {
            Some(held) if held.owner == owner => {
                held.count += 1;
                true
            }
            _ => false,
        }
    }

    fn settle(self: &Arc<Self>, setup: &Setup, place: u64, owner: u64, guard: OwnedFileLockGuard) {
        let held = Held { guard, owner, count: 1 };
        let mut contexts = self.contexts();
        match contexts.iter_mut().find(|context| context.place == place) {
            Some(context) => context.held = Some(held),
            None => contexts.push(Context { place, habits: setup.habits, held: Some(held) }),
        }
        drop(contexts);
        note(self);
    }

    /// Counts one less, or all. Returns the guard when nothing is left.
    fn leave(self: &Arc<Self>, setup: &Setup, place: u64, all: bool) -> Option<OwnedFileLockGuard> {
        let mut contexts = self.contexts();
        let index = contexts.iter().position(|context| context.place == place)?;
        let context = &mut contexts[index];
        let held = context.held.as_mut()?;
        if held.count > 1 && !all {
            held.count -= 1;
            return None;
        }
        let held = context.held.take();
        // Threads come and go; only what differs from the rest is worth remembering.
        if context.habits == setup.habits {
            contexts.swap_remove(index);
        }
        drop(contexts);
        forget(self);
        held.map(|held| held.guard)
    }

    /// Whether the owner holds, through this instance, the file with this device and inode.
    fn holds(&self, owner: u64, (device, inode): (u64, u64)) -> bool {
        self.contexts().iter().filter_map(|context| context.held.as_ref()).any(|held| {
            held.owner == owner
                && held.guard.is_held()
                && held
                    .guard
                    .file()
                    .metadata()
                    .is_ok_and(|status| (status.dev(), status.ino()) == (device, inode))
        })
    }

    fn is_idle(&self) -> bool {
        self.contexts().iter().all(|context| context.held.is_none())
    }
}

fn held_in(contexts: &mut [Context], place: u64) -> Option<&mut Held> {
    contexts.iter_mut().find(|context| context.place == place)?.held.as_mut()
}

thread_local! {
    static KEY: Cell<u64> = const { Cell::new(SHARED) };
    /// The instances that were acquired by this thread, or by tasks in it. Those that were released
    /// elsewhere are still there.
    static HELD: RefCell<Vec<Weak<State>>> = const { RefCell::new(Vec::new()) };
}

/// A number for an owner, never used twice.
fn new_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(SHARED + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The owner that the calling thread is.
fn thread_key() -> u64 {
    let known = KEY.with(Cell::get);
    if known != SHARED {
        return known;
    }
    let key = new_key();
    KEY.with(|place| place.set(key));
    key
}

fn note(state: &Arc<State>) {
    // A thread that is being torn down has no list any more, and does not wait for itself.
    let _ = HELD.try_with(|list| {
        let mut list = list.borrow_mut();
        if list.len() >= MANY {
            list.retain(|held| held.upgrade().is_some_and(|held| !held.is_idle()));
        }
        list.push(Arc::downgrade(state));
    });
}

fn forget(state: &Arc<State>) {
    let _ = HELD.try_with(|list| {
        let mut list = list.borrow_mut();
        if let Some(index) = list.iter().rposition(|held| held.as_ptr() == Arc::as_ptr(state)) {
            list.swap_remove(index);
        }
    });
}

/// Whether the owner holds what the path names, through another instance.
fn holds_elsewhere(own: &Arc<State>, owner: u64, lock: &FileLock) -> bool {
    let Some(status) = lock.path().and_then(|path| fs::symlink_metadata(path).ok()) else {
        return false;
    };
    let file = (status.dev(), status.ino());
    HELD.try_with(|list| {
        list.borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .any(|state| !Arc::ptr_eq(&state, own) && state.holds(owner, file))
    })
    .unwrap_or(false)
}

impl Setup {
    /// Where the calling thread's settings and hold are.
    fn here(&self) -> u64 {
        if self.per_thread { thread_key() } else { SHARED }
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
        let place = setup.here();
        let contexts = self.state.contexts();
        let own = contexts.iter().find(|context| context.place == place);
        Ok(own.map_or(setup.habits, |context| context.habits))
    }

    fn change_habits(&self, change: impl FnOnce(&mut Habits)) -> PyResult<()> {
        let setup = self.setup()?;
        let place = setup.here();
        let mut contexts = self.state.contexts();
        let index = contexts.iter().position(|context| context.place == place);
        let index = index.unwrap_or_else(|| {
            contexts.push(Context { place, habits: setup.habits, held: None });
            contexts.len() - 1
        });
        let context = &mut contexts[index];
        change(&mut context.habits);
        if context.held.is_none() && context.habits == setup.habits {
            contexts.swap_remove(index);
        }
        Ok(())
    }

    /// Asks about the hold that the calling thread sees.
    fn ask<T>(&self, nothing: T, question: impl FnOnce(&Held) -> T) -> PyResult<T> {
        let setup = self.setup()?;
        let place = setup.here();
        Ok(match held_in(&mut self.state.contexts(), place) {
            Some(held) if held.guard.is_held() => question(held),
            _ => nothing,
        })
    }

    fn refuse_inherited(slf: &Bound<'_, Self>, setup: &Setup) -> PyResult<()> {
        if setup.lock.is_inherited() {
            let class = slf.get_type();
            let text = format!(
                "{} for {} came here by a fork, and belongs to the parent process; make another one \
                 in the child",
                class.name()?,
                setup.lock_file.bind(slf.py()),
            );
            return Err(PyRuntimeError::new_err(text));
        }
        Ok(())
    }

    /// Acquires the lock for the calling thread.
    fn take(slf: &Bound<'_, Self>, request: &Request<'_>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let setup = this.setup()?;
        Self::refuse_inherited(slf, setup)?;
        let owner = thread_key();
        if this.state.enter_again(setup.here(), owner) {
            return Ok(());
        }
        let guard = match wait::attempt(py, &setup.lock, Mode::Exclusive, false, false)? {
            Ok(guard) => guard,
            Err(busy) => this.sleep(py, setup, owner, request, busy)?,
        };
        this.keep(py, setup, owner, guard)
    }

    fn keep(
        &self,
        py: Python<'_>,
        setup: &Setup,
        owner: u64,
        guard: OwnedFileLockGuard,
    ) -> PyResult<()> {
        self.state.settle(setup, setup.here(), owner, guard);
        log::acquired(py, &setup.lock, false)?;
        if setup.calls_back { self.call_back(py, setup) } else { Ok(()) }
    }

    /// Waits for the lock, which turned out to be busy.
    fn sleep(
        &self,
        py: Python<'_>,
        setup: &Setup,
        owner: u64,
        request: &Request<'_>,
        busy: Error,
    ) -> PyResult<OwnedFileLockGuard> {
        let patience = request.patience;
        if patience == Patience::Now {
            if request.blocking
                && let Some(check) = &request.cancel_check
            {
                // Giving up is all that is left, whatever it says; but it is asked.
                check.call0()?;
            }
            return Err(setup.exception(py, busy, After::Attempt));
        }
        self.refuse_own(py, setup, owner, patience)?;
        log::while_waiting(py, setup.lock.path(), setup.lock.mechanism(), || {
            if let Some(check) = &request.cancel_check {
                return sleep_asking(py, setup, request, check, busy);
            }
            let deadline = patience.deadline();
            let outcome = wait::sleep(py, || {
                let acquire = setup.lock.acquire();
                Ok(match deadline {
                    Some(deadline) => acquire.deadline(deadline),
                    None => acquire,
                }
                .wait_owned())
            })?;
            outcome.map_err(|error| setup.exception(py, error, After::Wait))
        })
    }

    /// A wait without end for oneself is an error.
    fn refuse_own(
        &self,
        py: Python<'_>,
        setup: &Setup,
        owner: u64,
        patience: Patience,
    ) -> PyResult<()> {
        if patience == Patience::Forever && holds_elsewhere(&self.state, owner, &setup.lock) {
            static DEADLOCK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let text = format!(
                "{}: this thread or task holds the lock already, through another object, and would wait \
                 for itself; release it first, or share one object (is_singleton=True)",
                setup.lock_file.bind(py),
            );
            let class = DEADLOCK.import(py, "lockmgr._errors", "DeadlockError")?;
            return Err(PyErr::from_value(class.call1((text,))?));
        }
        Ok(())
    }

    /// Tells the program of a fresh hold. What that raises gives the lock up again.
    fn call_back(&self, py: Python<'_>, setup: &Setup) -> PyResult<()> {
        let place = setup.here();
        let callback = self.callback().as_ref().map(|callback| callback.clone_ref(py));
        let descriptor = self.ask(None, |held| {
            let mut file = held.guard.file();
            // The descriptor is kept from hold to hold, and whoever writes begins at the start.
            drop(file.seek(SeekFrom::Start(0)));
            Some(file.as_raw_fd())
        })?;
        let (Some(callback), Some(descriptor)) = (callback, descriptor) else { return Ok(()) };
        let called = callback.call1(py, (descriptor,));
        if let Err(raised) = called {
            drop(self.state.leave(setup, place, true));
            return Err(raised);
        }
        if !self.ask(false, |_| true)? {
            return Err(PyRuntimeError::new_err("on_acquired has released the lock"));
        }
        Ok(())
    }

    fn callback(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.on_acquired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self, py: Python<'_>, all: bool) -> PyResult<()> {
        let setup = self.setup()?;
        if setup.lock.is_inherited() {
            return Ok(());
        }
        match self.state.leave(setup, setup.here(), all) {
            Some(guard) => {
                let outcome = guard.release();
                log::released(py, &setup.lock, false)?;
                outcome.map_err(|error| setup.exception(py, error, After::Attempt))
            }
            None => Ok(()),
        }
    }

    /// The request of a call of acquire().
    fn request<'py>(
        &self,
        timeout: Option<&Bound<'py, PyAny>>,
        poll_interval: Option<&Bound<'py, PyAny>>,
        blocking: Option<&Bound<'py, PyAny>>,
        cancel_check: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Request<'py>> {
        let habits = self.habits()?;
        let timeout = timeout.map_or(Ok(habits.timeout), seconds_to_wait)?;
        let poll_interval = poll_interval.map_or(Ok(habits.poll_interval), interval)?;
        let blocking = blocking.map_or(Ok(habits.blocking), yes_or_no)?;
        let patience = patience_of(timeout, blocking)?;
        Ok(Request { patience, blocking, cancel_check, poll_interval })
    }
}

/// Waits, and asks again and again whether to go on. The wait itself is the library's thread's, whose
/// place in the kernel's queue does not suffer from the asking.
fn sleep_asking(
    py: Python<'_>,
    setup: &Setup,
    request: &Request<'_>,
    check: &Bound<'_, PyAny>,
    busy: Error,
) -> PyResult<OwnedFileLockGuard> {
    let pause = Duration::try_from_secs_f64(request.poll_interval).unwrap_or(Duration::MAX);
    let wait = Wait::for_lock(&setup.lock, Mode::Exclusive, request.patience)?;
    loop {
        if let Some(hold) = wait.poll(py).map_err(|error| setup.named(py, error))? {
            return hold.take_lock();
        }
        if check.call0()?.is_truthy()? {
            wait.cancel();
            return Err(setup.exception(py, busy, After::Wait));
        }
        wait.pause(py, pause.max(SHORTEST))?;
    }
}

impl Setup {
    fn exception(&self, py: Python<'_>, error: Error, after: After) -> PyErr {
        self.named(py, exception(py, error, after))
    }

    /// A Timeout names the lock file as the program does.
    fn named(&self, py: Python<'_>, error: PyErr) -> PyErr {
        let given = self.lock_file.bind(py);
        if error.is_instance_of::<PyTimeoutError>(py)
            && let Err(failure) = error.value(py).setattr("_lock_file", given)
        {
            return failure;
        }
        error
    }
}

fn patience_of(timeout: f64, blocking: bool) -> PyResult<Patience> {
    match (blocking, timeout) {
        (false, _) => Ok(Patience::Now),
        (true, timeout) if timeout < 0.0 => Ok(Patience::Forever),
        (true, timeout) => patience(Some(timeout)),
    }
}

/// A number of seconds. A str or a bool is none, though Python could make one of it.
fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if let Ok(value) = value.cast_exact::<PyFloat>() {
        return Ok(value.value());
    }
    let wrong = || -> PyResult<PyErr> {
        let class = value.get_type();
        let text = format!("{name} is a number of seconds, and {} is none", class.name()?);
        Ok(PyTypeError::new_err(text))
    };
    if value.is_instance_of::<PyBool>() || value.is_instance_of::<PyString>() {
        return Err(wrong()?);
    }
    match value.extract() {
        Ok(seconds) => Ok(seconds),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            Ok(if value.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY })
        }
        Err(_) => Err(wrong()?),
    }
}

fn seconds_to_wait(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds = seconds("timeout", value)?;
    if seconds.is_nan() {
        let text = "timeout is a number of seconds: 0 is one attempt, any negative one no limit; nan is none";
        return Err(PyValueError::new_err(text));
    }
    Ok(seconds)
}

fn interval(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    let seconds = seconds("poll_interval", value)?;
    if !seconds.is_finite() || seconds < 0.0 {
        let text = format!("poll_interval is a finite number of seconds from 0 on, not {seconds}");
        return Err(PyValueError::new_err(text));
    }
    Ok(seconds)
}

fn yes_or_no(value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value.cast::<PyBool>().map(|value| value.is_true()).map_err(|_| {
        let class = value.get_type();
        PyTypeError::new_err(format!("blocking is True or False, and no {class}"))
    })
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
        self.ask(false, |_| true)
    }

    /// How many releases are to come.
    #[getter]
    fn lock_counter(&self) -> PyResult<usize> {
        self.ask(0, |held| held.count)
    }

    /// Whether each thread has settings and a hold of its own.
    fn is_thread_local(&self) -> PyResult<bool> {
        Ok(self.setup()?.per_thread)
    }

    /// Acquires the lock, or counts one more if this thread holds it.
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
    #[pyo3(signature = (force = false))]
    fn release(&self, py: Python<'_>, force: bool) -> PyResult<()> {
        self.give_up(py, force)
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        let habits = slf.get().habits()?;
        let patience = patience_of(habits.timeout, habits.blocking)?;
        let Habits { blocking, poll_interval, .. } = habits;
        Self::take(slf, &Request { patience, blocking, cancel_check: None, poll_interval })?;
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
        new_key()
    }

    /// The number of the calling thread.
    #[staticmethod]
    fn _this_thread() -> u64 {
        thread_key()
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
        match wait::attempt(py, &setup.lock, Mode::Exclusive, false, false)? {
            Ok(guard) => this.keep(py, setup, owner, guard).map(|()| None),
            Err(busy) if request.patience == Patience::Now => {
                Err(setup.exception(py, busy, After::Attempt))
            }
            Err(_) => {
                this.refuse_own(py, setup, owner, request.patience)?;
                Wait::for_lock(&setup.lock, Mode::Exclusive, request.patience).map(Some)
            }
        }
    }

    /// Takes over what a Wait has acquired.
    fn _adopt(&self, py: Python<'_>, owner: u64, hold: &Bound<'_, Hold>) -> PyResult<()> {
        self.keep(py, self.setup()?, owner, hold.get().take_lock()?)
    }

    #[expect(clippy::needless_pass_by_value, reason = "PyO3's signature")]
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
