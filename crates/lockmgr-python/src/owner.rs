//! Who has acquired what: for re-entrance, and to refuse a wait for oneself.
//!
//! An owner is a thread, and in it a task if one is running. A hold that a `with` has taken will be
//! released where it was taken, so a thread that sleeps for it there would never wake up, nor would
//! the event loop in it: that is refused, whichever object it goes by, and of whichever class. A task is
//! refused what it has taken itself, or what was taken around the loop that runs it. Of one
//! that was taken by `acquire()` nobody can know who is going to release it. That is refused only if
//! there is no other thread that could.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lockmgr::{FileLock, Mechanism, Mode, OwnedFileLockGuard, Range};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString, PyWeakrefMethods, PyWeakrefReference};

thread_local! {
    static THREAD: u64 = new_key();
    /// What this thread, or a task in it, has acquired. Some may be released by now, by other threads.
    static ACQUIRED: RefCell<Vec<Weak<dyn Holder>>> = const { RefCell::new(Vec::new()) };
}

/// More than anybody nests; then what is over is looked for.
const MANY: usize = 64;

/// Returns a number for an owner, never used twice in this process, and never 0.
pub(crate) fn new_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Returns a number that no other thread of this process has ever had.
pub(crate) fn this_thread() -> u64 {
    THREAD.with(|number| *number)
}

/// What locks are held through.
pub(crate) trait Holder: Send + Sync {
    /// Who will release what is held through it by this thread, or by a task in it, and excludes what is
    /// wanted. None when nothing of that kind is held.
    fn excludes_here(&self, py: Python<'_>, wanted: &Wanted<'_>) -> Option<Release>;

    /// Whether nothing is held through it.
    fn is_idle(&self) -> bool;
}

/// Who will release a hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// The thread that acquired it: the end of a `with`, or whoever else may not do it elsewhere.
    Here,
    /// Nobody knows.
    Anyone,
}

/// What somebody is about to wait for.
pub(crate) struct Wanted<'a> {
    lock: &'a FileLock,
    range: Range,
    mode: Mode,
    waiter: Waiter<'a>,
    file: OnceCell<Option<(u64, u64)>>,
}

/// Who is about to wait.
#[derive(Clone, Copy)]
pub(crate) enum Waiter<'a> {
    /// This thread, with all that runs in it.
    Thread,
    /// A task, known by its number as well; what others in its thread hold does not matter.
    Task(&'a Py<PyAny>, u64),
}

impl Waiter<'_> {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Waiter::Thread => "thread",
            Waiter::Task(..) => "task",
        }
    }
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(lock: &'a FileLock, range: Range, mode: Mode, waiter: Waiter<'a>) -> Self {
        Self { lock, range, mode, waiter, file: OnceCell::new() }
    }

    pub(crate) fn waiter(&self) -> Waiter<'a> {
        self.waiter
    }

    /// The number of who waits.
    pub(crate) fn owner(&self) -> u64 {
        match self.waiter {
            Waiter::Thread => this_thread(),
            Waiter::Task(_, number) => number,
        }
    }

    /// Whether a hold on a range of its file is in the way.
    pub(crate) fn is_excluded_by(&self, guard: &OwnedFileLockGuard, range: Range) -> bool {
        self.conflicts_with(guard.mechanism(), range, guard.mode())
            && guard.is_held()
            && self.is_of_file(|| rustix::fs::fstat(guard.file()).ok().map(identity))
    }

    /// Whether another lock is in the way where it is held, by the file that its path names.
    pub(crate) fn is_excluded_by_lock(&self, lock: &FileLock, range: Range, mode: Mode) -> bool {
        self.conflicts_with(lock.mechanism(), range, mode)
            && self.is_of_file(|| lock.path().and_then(file_at))
    }

    fn conflicts_with(&self, mechanism: Mechanism, range: Range, mode: Mode) -> bool {
        let space = |mechanism| match mechanism {
            Mechanism::Flock => 0,
            _ => 1,
        };
        space(self.lock.mechanism()) == space(mechanism)
            && overlap(self.range, range)
            && mode.conflicts_with(self.mode)
    }

    fn is_of_file(&self, held: impl FnOnce() -> Option<(u64, u64)>) -> bool {
        let named = self.file.get_or_init(|| self.lock.path().and_then(file_at));
        named.is_some() && *named == held()
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    rustix::fs::stat(path).ok().map(identity)
}

fn identity(status: rustix::fs::Stat) -> (u64, u64) {
    (status.st_dev, status.st_ino)
}

fn overlap(one: Range, other: Range) -> bool {
    let end = |range: Range| range.len().map_or(u64::MAX, |len| range.start().saturating_add(len));
    one.start() < end(other) && other.start() < end(one)
}

/// This thread, or a task in it, has acquired something.
pub(crate) fn enter(holder: Weak<dyn Holder>) {
    // A thread that is being torn down has no list any more, and does not wait for itself.
    let _ = ACQUIRED.try_with(|list| {
        let mut list = list.borrow_mut();
        if list.len() >= MANY {
            list.retain(|holder| holder.upgrade().is_some_and(|holder| !holder.is_idle()));
        }
        list.push(holder);
    });
}

/// It has released it. What was acquired elsewhere stays in the list there until it is looked at.
pub(crate) fn leave(holder: *const ()) {
    let _ = ACQUIRED.try_with(|list| {
        let mut list = list.borrow_mut();
        if let Some(at) = list.iter().rposition(|other| std::ptr::eq(other.as_ptr().cast(), holder))
        {
            list.swap_remove(at);
        }
    });
}

/// Whether this thread, or the task, would wait for what only it can give back.
pub(crate) fn waits_for_itself(py: Python<'_>, wanted: &Wanted<'_>) -> PyResult<bool> {
    // Out of the cell first: what is dropped meanwhile may leave.
    let list: Vec<Arc<dyn Holder>> = ACQUIRED
        .try_with(|list| list.borrow().iter().filter_map(Weak::upgrade).collect())
        .unwrap_or_default();
    let mut by_anyone = false;
    for holder in list {
        match holder.excludes_here(py, wanted) {
            Some(Release::Here) => return Ok(true),
            Some(Release::Anyone) => by_anyone = true,
            None => {}
        }
    }
    // Another task may do it, though there is no other thread.
    Ok(by_anyone && matches!(wanted.waiter, Waiter::Thread) && is_alone(py)?)
}

/// Who acquires or releases something just now.
pub(crate) struct Me {
    thread: u64,
    task: Option<Py<PyAny>>,
}

impl Me {
    pub(crate) fn now(py: Python<'_>) -> PyResult<Self> {
        Ok(Self { thread: this_thread(), task: current_task(py)? })
    }

    /// For a release, which must not fail: whatever a signal's handler raises meanwhile is for afterwards.
    pub(crate) fn at_any_rate(py: Python<'_>) -> (Self, PyResult<()>) {
        let mut told = Ok(());
        for _ in 0..MANY {
            match Self::now(py) {
                Ok(me) => return (me, told),
                Err(error) => told = told.and(Err(error)),
            }
        }
        (Self { thread: this_thread(), task: None }, told)
    }

    pub(crate) fn task(&self) -> Option<&Py<PyAny>> {
        self.task.as_ref()
    }

    pub(crate) fn remember(&self, py: Python<'_>) -> PyResult<Owner> {
        let task = self.task.as_ref().map(|task| PyWeakrefReference::new(task.bind(py)));
        Ok(Owner { thread: self.thread, task: task.transpose()?.map(Bound::unbind) })
    }
}

/// Who has acquired something.
pub(crate) struct Owner {
    thread: u64,
    /// Weakly: else a task that is forgotten inside would be kept alive by the lock, and never leave.
    task: Option<Py<PyWeakrefReference>>,
}

impl Owner {
    pub(crate) fn thread(&self) -> u64 {
        self.thread
    }

    pub(crate) fn again(&self, py: Python<'_>) -> Self {
        Self { thread: self.thread, task: self.task.as_ref().map(|task| task.clone_ref(py)) }
    }

    pub(crate) fn is(&self, py: Python<'_>, me: &Me) -> bool {
        let same = match (&self.task, &me.task) {
            (None, None) => true,
            (Some(_), Some(task)) => self.is_task(py, task),
            _ => false,
        };
        same && self.thread == me.thread
    }

    /// Whether it was a task that is no more.
    pub(crate) fn is_gone(&self, py: Python<'_>) -> bool {
        self.task.is_some() && self.living_task(py).is_none()
    }

    /// Whether what it is going to release in its place it will not release before the task, which runs in
    /// this thread, has come to its end: it is the task itself, or what runs the loop.
    pub(crate) fn keeps_back(&self, py: Python<'_>, task: &Py<PyAny>) -> bool {
        self.thread == this_thread() && (self.task.is_none() || self.is_task(py, task))
    }

    fn is_task(&self, py: Python<'_>, task: &Py<PyAny>) -> bool {
        self.living_task(py).is_some_and(|living| living.is(task))
    }

    fn living_task<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.task.as_ref()?.bind(py).upgrade()
    }
}

/// Returns the task of asyncio or trio that runs in this thread, if one does.
#[pyfunction]
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    // Whoever runs a loop has imported its module. It may be half imported, by another thread.
    if let Some(asyncio) = imported(py, intern!(py, "asyncio"))?
        && let Some(running) = asyncio.getattr_opt(intern!(py, "_get_running_loop"))?
        && !running.call0()?.is_none()
    {
        let task = asyncio.call_method0(intern!(py, "current_task"))?;
        return Ok((!task.is_none()).then(|| task.unbind()));
    }
    let Some(trio) = imported(py, intern!(py, "trio"))? else { return Ok(None) };
    let Some(level) = trio.getattr_opt(intern!(py, "lowlevel"))? else { return Ok(None) };
    match level.call_method0(intern!(py, "current_task")) {
        Ok(task) => Ok(Some(task.unbind())),
        Err(error) if error.is_instance_of::<PyRuntimeError>(py) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the number by which instances of filelock's kind know the running task; 0 if there are none.
pub(crate) fn task_number(py: Python<'_>) -> PyResult<u64> {
    match imported(py, intern!(py, "lockmgr._filelock_async"))? {
        Some(module) => module.call_method0("owner")?.extract(),
        None => Ok(0),
    }
}

/// Whether this is the only thread of Python's.
pub(crate) fn is_alone(py: Python<'_>) -> PyResult<bool> {
    // Nobody starts a thread without it but extension modules; better not to judge then.
    match imported(py, intern!(py, "threading"))? {
        Some(threading) => Ok(threading.call_method0("active_count")?.extract::<usize>()? == 1),
        None => Ok(false),
    }
}

/// Returns a module if somebody has imported it.
pub(crate) fn imported<'py>(
    py: Python<'py>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(modules(py)?.get_item(name)?.filter(|module| !module.is_none()))
}

fn modules(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    MODULES.import(py, "sys", "modules")
}

/// While the interpreter is taken down, it is too late for that.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    modules(py).map(drop)
}
