//! What is composed of locks: slots of a semaphore, and sets.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use lockmgr::name::Scope;
use lockmgr::{LockSet, Mode, OwnedLockSetGuard, Semaphore};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::error::{After, exception, path_to_python};
use crate::hold::{Guard, Hold, Kept, look_into};
use crate::lock::{BaseLock, Shared};
use crate::options::{self, Patience, patience};
use crate::owner::{Holder, Release, Waiter, Wanted};
use crate::wait::{Wait, sleep};
use crate::{log, owner};

/// A semaphore to acquire slots of.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct SlotsHandle {
    semaphore: Semaphore,
    /// The first attempt opens the file, which may take its time.
    opened: AtomicBool,
}

#[pymethods]
impl SlotsHandle {
    #[new]
    #[pyo3(signature = (
        lock, slots, *, fair = true, mode = None, create = true, parents = false,
        follow_symlinks = false, system = false,
    ))]
    #[expect(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "keywords")]
    fn new(
        py: Python<'_>,
        lock: &Bound<'_, PyAny>,
        slots: i64,
        fair: bool,
        mode: Option<i64>,
        create: bool,
        parents: bool,
        follow_symlinks: bool,
        system: bool,
    ) -> PyResult<Self> {
        let mut options = Semaphore::options()
            .fair(fair)
            .create(create)
            .create_parents(parents)
            .follow_symlinks(follow_symlinks);
        if let Some(bits) = mode {
            options = options.creation_mode(options::permissions(bits)?);
        }
        let scope = if system { Scope::System } else { Scope::User };
        // What is no number of slots at all is as wrong as 0.
        let slots = u32::try_from(slots).map_err(|_| {
            PyValueError::new_err(format!("slots must be a number from 1 to 65536, not {slots}"))
        })?;
        let semaphore = options.open_named_lazy(options::place(lock)?, scope, slots);
        let semaphore = semaphore.map_err(|error| exception(py, error, After::Attempt))?;
        Ok(Self { semaphore, opened: AtomicBool::new(false) })
    }

    /// The lock file, absolute.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        path_to_python(py, self.semaphore.path())
    }

    /// How many slots there are.
    #[getter]
    fn slots(&self) -> u32 {
        self.semaphore.slots()
    }

    /// Acquires so many slots, all or none, asleep if need be.
    #[pyo3(signature = (timeout = None, *, count = 1))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>, count: u32) -> PyResult<Hold> {
        let patience = patience(timeout)?;
        match self.attempt(py, patience, count)? {
            Ok(hold) => Ok(hold),
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(_) => {
                let deadline = patience.deadline();
                let path = Some(self.semaphore.path());
                let guard = log::while_waiting(py, path, lockmgr::Mechanism::Ofd, || {
                    sleep(py, || {
                        let acquire = self.semaphore.acquire_many(count);
                        match deadline {
                            Some(deadline) => acquire.deadline(deadline),
                            None => acquire,
                        }
                        .wait()
                    })
                })?;
                Ok(Hold::new(Guard::Slots(guard), false))
            }
        }
    }

    /// One attempt that overtakes nobody: a Hold, or None.
    #[pyo3(signature = (*, count = 1))]
    fn try_acquire(&self, py: Python<'_>, count: u32) -> PyResult<Option<Hold>> {
        Ok(self.attempt(py, Patience::Forever, count)?.ok())
    }

    /// Begins to wait without blocking.
    #[pyo3(signature = (timeout = None, *, count = 1))]
    fn wait(&self, timeout: Option<f64>, count: u32) -> PyResult<Wait> {
        let acquire = self.semaphore.acquire_many(count);
        let future = match patience(timeout)?.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Wait::new(Box::pin(async move { future.await.map(Guard::Slots) }), false)
    }
}

impl SlotsHandle {
    fn attempt(
        &self,
        py: Python<'_>,
        patience: Patience,
        count: u32,
    ) -> PyResult<Result<Hold, lockmgr::Error>> {
        let acquire = self.semaphore.acquire_many(count);
        let attempt =
            || if patience == Patience::Now { acquire.try_now() } else { acquire.try_in_turn() };
        let opened = self.opened.swap(true, Ordering::Relaxed);
        let outcome = if opened { attempt() } else { py.detach(attempt) };
        match outcome {
            Ok(guard) => Ok(Ok(Hold::new(Guard::Slots(guard), false))),
            Err(error) if error.is_contended() => Ok(Err(error)),
            Err(error) => Err(exception(py, error, After::Attempt)),
        }
    }
}

/// The locks of a set.
pub(crate) type Members = Arc<[(Arc<Shared>, Mode)]>;

/// A set that a thread has acquired.
pub(crate) struct HeldSet {
    members: Members,
    guard: Kept,
    thread: u64,
    scoped: AtomicBool,
}

impl HeldSet {
    /// Of this thread.
    pub(crate) fn new(members: Members, guard: Kept) -> Arc<Self> {
        let (thread, scoped) = (owner::this_thread(), AtomicBool::new(false));
        let held = Arc::new(Self { members, guard, thread, scoped });
        owner::enter(Arc::downgrade(&held) as Weak<dyn Holder>);
        held
    }

    /// A `with` is going to release it.
    pub(crate) fn scope(&self) {
        self.scoped.store(true, Ordering::Relaxed);
    }
}

impl Holder for HeldSet {
    fn excludes_here(&self, _: Python<'_>, wanted: &Wanted<'_>) -> Option<Release> {
        let by_waiter =
            matches!(wanted.waiter(), Waiter::Thread) && self.thread == owner::this_thread();
        let excludes = by_waiter
            && !self.is_idle()
            && self.members.iter().any(|(member, mode)| member.excludes(wanted, *mode));
        let scoped = self.scoped.load(Ordering::Relaxed);
        excludes.then_some(if scoped { Release::Here } else { Release::Anyone })
    }

    fn is_idle(&self) -> bool {
        !look_into(&self.guard).as_ref().is_some_and(Guard::is_held)
    }
}

impl Drop for HeldSet {
    fn drop(&mut self) {
        owner::leave(ptr::from_ref(self).cast());
    }
}

/// Several locks to acquire at once.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct SetHandle {
    set: LockSet,
    members: Members,
    /// One of them, at least, takes its time.
    slow: bool,
}

#[pymethods]
impl SetHandle {
    #[new]
    #[pyo3(signature = (locks))]
    fn new(locks: Vec<Bound<'_, BaseLock>>) -> Self {
        let mode = |lock: &BaseLock| options::mode(lock.is_shared());
        let set = locks.iter().map(|lock| (lock.get().lock().clone(), mode(lock.get()))).collect();
        let shared = |lock: &BaseLock| (Arc::clone(lock.shared()), mode(lock));
        let members = locks.iter().map(|lock| shared(lock.get())).collect();
        let slow = locks.iter().any(|lock| lock.get().is_slow());
        Self { set, members, slow }
    }

    /// Acquires all the locks or none, asleep if need be.
    #[pyo3(signature = (timeout = None))]
    fn acquire(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Hold> {
        let patience = patience(timeout)?;
        match self.attempt(py)? {
            Ok(hold) => Ok(hold),
            Err(busy) if patience == Patience::Now => Err(exception(py, busy, After::Attempt)),
            Err(busy) => {
                for (member, mode) in self.members.iter() {
                    member.refuse_own_thread(py, *mode)?;
                }
                let deadline = patience.deadline();
                let guard = log::while_waiting(py, busy.path(), lockmgr::Mechanism::Flock, || {
                    sleep(py, || {
                        let acquire = self.set.acquire();
                        match deadline {
                            Some(deadline) => acquire.deadline(deadline),
                            None => acquire,
                        }
                        .wait_owned()
                    })
                })?;
                Ok(self.hold(guard))
            }
        }
    }

    /// One attempt: a Hold, or None.
    fn try_acquire(&self, py: Python<'_>) -> PyResult<Option<Hold>> {
        Ok(self.attempt(py)?.ok())
    }

    /// Begins to wait without blocking.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, timeout: Option<f64>) -> PyResult<Wait> {
        let acquire = self.set.acquire();
        let future = match patience(timeout)?.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Wait::new(Box::pin(async move { future.await.map(Guard::Set) }), self.slow)
    }
}

impl SetHandle {
    fn hold(&self, guard: OwnedLockSetGuard) -> Hold {
        Hold::of_set(guard, self.slow, Arc::clone(&self.members))
    }

    fn attempt(&self, py: Python<'_>) -> PyResult<Result<Hold, lockmgr::Error>> {
        let attempt = || self.set.acquire().try_now_owned();
        match if self.slow { py.detach(attempt) } else { attempt() } {
            Ok(guard) => Ok(Ok(self.hold(guard))),
            Err(error) if error.is_contended() => Ok(Err(error)),
            Err(error) => Err(exception(py, error, After::Attempt)),
        }
    }
}
