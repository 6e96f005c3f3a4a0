//! Who has acquired what: for re-entrance, and to refuse a wait for oneself.
//!
//! An owner is a thread, and in it a task if one is running. A hold that a `with` has taken will be
//! released where it was taken, so a thread that sleeps for it there would never wake up, nor would
//! the event loop in it: that is refused, whichever object it goes by, and of whichever class. Of one
//! that was taken by `acquire()` nobody can know who is going to release it. That is refused only if
//! there is no other thread that could.

use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use lockmgr::{FileLock, Mechanism, Mode, OwnedFileLockGuard, Range};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

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

/// Returns the task of asyncio or trio that runs in this thread, if one does.
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let task = CURRENT.import(py, "lockmgr._async", "current_task")?.call0()?;
    Ok((!task.is_none()).then(|| task.unbind()))
}

/// Returns the number by which instances of filelock's kind know the running task; 0 if there are none.
pub(crate) fn task_number(py: Python<'_>) -> PyResult<u64> {
    let module = modules(py)?.call_method1("get", ("lockmgr._filelock_async",))?;
    if module.is_none() { Ok(0) } else { module.call_method0("owner")?.extract() }
}

/// Whether this is the only thread of Python's.
fn is_alone(py: Python<'_>) -> PyResult<bool> {
    // Nobody starts a thread without it but extension modules; better not to judge then.
    let threading = modules(py)?.call_method1("get", ("threading",))?;
    if threading.is_none() {
        return Ok(false);
    }
    Ok(threading.call_method0("active_count")?.extract::<usize>()? == 1)
}

fn modules(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static MODULES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    MODULES.import(py, "sys", "modules")
}
