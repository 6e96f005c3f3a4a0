//! Who has acquired what: for re-entrance, and to refuse a wait for oneself.
//!
//! An owner is a thread, and in it a task if one is running. A hold that a `with` has taken will be
//! released where it was taken, so a thread that sleeps for it there would never wake up, nor would
//! the event loop in it: that is refused, whichever object it goes by. Of one that was taken by
//! `acquire()` nobody can know who is going to release it. That is refused only if there is no other
//! thread that could.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::lock::Shared;

thread_local! {
    static THREAD: u64 = {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
    /// Locks that a `with` of this thread has taken. Some may be released by now, by other threads.
    static SCOPED: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// More than anybody nests; then what is over is looked for.
const MANY: usize = 32;

/// Returns a number that no other thread of this process has ever had.
pub(crate) fn this_thread() -> u64 {
    THREAD.with(|number| *number)
}

/// A `with` of this thread has taken the lock.
pub(crate) fn enter(lock: &Arc<Shared>) {
    SCOPED.with_borrow_mut(|list| {
        if list.len() >= MANY {
            list.retain(|lock| lock.upgrade().is_some_and(|lock| lock.is_scoped_here()));
        }
        list.push(Arc::downgrade(lock));
    });
}

/// That `with` is over.
pub(crate) fn leave(lock: &Arc<Shared>) {
    SCOPED.with_borrow_mut(|list| {
        let at = list.iter().rposition(|other| other.as_ptr() == Arc::as_ptr(lock));
        if let Some(at) = at {
            list.swap_remove(at);
        }
    });
}

/// Runs on every lock that a `with` of this thread has taken, until one is found.
pub(crate) fn any_scoped(found: impl Fn(&Shared) -> bool) -> bool {
    let list: Vec<_> = SCOPED.with_borrow(|list| list.iter().filter_map(Weak::upgrade).collect());
    list.iter().any(|lock| found(lock))
}

/// Returns the task of asyncio or trio that runs in this thread, if one does.
pub(crate) fn current_task(py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    static CURRENT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let task = CURRENT.import(py, "lockmgr._async", "current_task")?.call0()?;
    Ok((!task.is_none()).then(|| task.unbind()))
}

/// Whether this is the only thread of Python's.
pub(crate) fn is_alone(py: Python<'_>) -> PyResult<bool> {
    // Nobody starts a thread without it but extension modules; better not to judge then.
    static MODULES: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let threading = MODULES.import(py, "sys", "modules")?.call_method1("get", ("threading",))?;
    if threading.is_none() {
        return Ok(false);
    }
    Ok(threading.call_method0("active_count")?.extract::<usize>()? == 1)
}
