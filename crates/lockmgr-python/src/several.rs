//! What is composed of locks: slots of a semaphore, and sets.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use lockmgr::name::Scope;
use lockmgr::{Error, LockSet, Mechanism, Mode, Semaphore};
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::{After, deadlock, exception, path_to_python};
use crate::hold::{Guard, Hold, Kept};
use crate::holds::{Holds, Taken};
use crate::lock::BaseLock;
use crate::log::{Happened, Place};
use crate::options::{self, Patience, patience};
use crate::owner::{Holder, Me, Release, Waiter, Wanted};
use crate::wait::{Wait, sleep};
use crate::{lock, log, owner};

/// Several things to acquire at once: slots, or locks.
pub(crate) trait Several: Send + Sync {
    /// One attempt. `Ok(Err(…))` when something is in the way.
    fn attempt(
        &self,
        py: Python<'_>,
        patience: Patience,
        count: u32,
    ) -> PyResult<Result<Guard, Error>>;

    /// Would one wait for what only oneself can give back?
    fn refuse_own(
        &self,
        py: Python<'_>,
        waiter: Waiter<'_>,
        held: &Holds<Arc<Kept>>,
        count: u32,
    ) -> PyResult<()>;

    fn sleep(&self, py: Python<'_>, deadline: Option<Instant>, count: u32) -> PyResult<Guard>;

    /// Begins to wait without blocking.
    fn wait(&self, patience: Patience, count: u32) -> PyResult<Wait>;

    /// What is waited for, when this was in the way.
    fn place(&self, busy: &Error) -> Option<Place>;

    /// Whether its release may take its time.
    fn is_slow(&self) -> bool;

    /// Whether it is in the way of what is wanted, where it is held.
    fn excludes(&self, wanted: &Wanted<'_>) -> bool;

    fn tell(&self, py: Python<'_>, happened: Happened, count: usize) -> PyResult<()>;
}

/// What is held through one object.
struct Shared {
    several: Arc<dyn Several>,
    holds: Holds<Arc<Kept>>,
}

impl Holder for Shared {
    fn excludes_here(&self, py: Python<'_>, wanted: &Wanted<'_>) -> Option<Release> {
        self.holds.who_releases(py, wanted.waiter(), |_| self.several.excludes(wanted))
    }

    fn is_idle(&self) -> bool {
        !self.holds.is_held()
    }
}

/// The native part of Semaphore and LockSet.
#[pyclass(frozen, subclass, weakref, module = "lockmgr._lockmgr")]
pub(crate) struct SeveralBase {
    setup: OnceLock<Arc<Shared>>,
    patience: Mutex<Patience>,
}

#[pymethods]
impl SeveralBase {
    /// The arguments are for __init__.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Self { setup: OnceLock::new(), patience: Mutex::new(Patience::Forever) }
    }

    fn _set_up(&self, handle: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let several: Arc<dyn Several> = match handle.cast::<SlotsHandle>() {
            Ok(slots) => Arc::<Slots>::clone(&slots.get().slots),
            Err(_) => Arc::<Set>::clone(&handle.cast::<SetHandle>()?.get().set),
        };
        self.set_timeout(timeout)?;
        let shared = Shared { several, holds: Holds::default() };
        self.setup
            .set(Arc::new(shared))
            .map_err(|_| PyRuntimeError::new_err("it is set up already"))
    }

    /// How long acquiring waits unless it is told otherwise, in seconds; None is however long it takes.
    #[getter]
    fn timeout(&self) -> Option<f64> {
        self.patience().seconds()
    }

    #[setter]
    fn set_timeout(&self, timeout: Option<f64>) -> PyResult<()> {
        let wanted = patience(timeout)?;
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
        Ok(())
    }

    /// Releases what this thread or task has acquired last; else what another one has.
    ///
    /// RuntimeError if nothing is held; LockError, after the release, if a lock file was deleted or replaced
    /// during the hold.
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (me, told) = Me::at_any_rate(py);
        let Some(kept) = this.taken(this.shared()?.holds.release(py, &me, false)) else {
            return Err(PyRuntimeError::new_err(format!("{} is not held", slf.repr()?)));
        };
        kept.release(py, true)?;
        told
    }

    /// Whether anything is held through this object, in this process.
    fn locked(&self) -> PyResult<bool> {
        Ok(self.shared()?.holds.is_held())
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        slf.get().take(slf.py(), slf.get().patience(), 1, true)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.leave(py)
    }

    fn _acquire(&self, py: Python<'_>, timeout: Option<f64>, count: u32) -> PyResult<Hold> {
        self.take(py, self.patience_of(timeout)?, count, false).map(Hold::of)
    }

    /// Begins to acquire for a task without blocking: a Hold when that has succeeded already, else a Wait.
    fn _begin<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
        count: u32,
        scoped: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let patience = self.patience_of(timeout)?;
        let (shared, me) = (self.shared()?, Me::now(py)?);
        let busy = match shared.several.attempt(py, patience, count)? {
            Ok(guard) => {
                let hold = Hold::of(self.keep(py, guard, &me, scoped)?);
                return Ok(Bound::new(py, hold)?.into_any());
            }
            Err(busy) if patience == Patience::Now => {
                return Err(exception(py, busy, After::Attempt));
            }
            Err(busy) => busy,
        };
        if let Some(task) = me.task() {
            let waiter = Waiter::Task(task, owner::task_number(py)?);
            shared.several.refuse_own(py, waiter, &shared.holds, count)?;
        }
        let wait = shared.several.wait(patience, count)?.about(shared.several.place(&busy));
        Ok(Bound::new(py, wait)?.into_any())
    }

    /// Takes over what a Wait has got for a task.
    fn _adopt(&self, py: Python<'_>, hold: &Bound<'_, Hold>, scoped: bool) -> PyResult<Hold> {
        let me = Me::now(py)?;
        match hold.get().take() {
            Some(guard) => self.keep(py, guard, &me, scoped).map(Hold::of),
            None => Err(PyTypeError::new_err("the hold has been released")),
        }
    }

    /// The end of a `with`, without a word about replaced lock files. None is left in a child that was
    /// forked inside. Released is whatever a signal's handler raises meanwhile.
    #[pyo3(name = "_leave")]
    fn leave(&self, py: Python<'_>) -> PyResult<()> {
        let (me, told) = Me::at_any_rate(py);
        if let Some(kept) = self.taken(self.shared()?.holds.leave(py, &me, false)) {
            kept.release(py, false)?;
        }
        told
    }
}

impl SeveralBase {
    fn shared(&self) -> PyResult<&Arc<Shared>> {
        self.setup
            .get()
            .ok_or_else(|| PyRuntimeError::new_err("it is not set up: its __init__ was not called"))
    }

    fn patience(&self) -> Patience {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn patience_of(&self, timeout: Option<f64>) -> PyResult<Patience> {
        if timeout.is_some() { patience(timeout) } else { Ok(self.patience()) }
    }

    fn take(
        &self,
        py: Python<'_>,
        patience: Patience,
        count: u32,
        scoped: bool,
    ) -> PyResult<Arc<Kept>> {
        let (shared, me) = (self.shared()?, Me::now(py)?);
        let several = &shared.several;
        let guard = match several.attempt(py, patience, count)? {
            Ok(guard) => guard,
            Err(busy) if patience == Patience::Now => {
                return Err(exception(py, busy, After::Attempt));
            }
            Err(busy) => {
                let deadline = patience.deadline();
                several.refuse_own(py, Waiter::Thread, &shared.holds, count)?;
                log::while_waiting(py, several.place(&busy).as_ref(), || {
                    several.sleep(py, deadline, count)
                })?
            }
        };
        self.keep(py, guard, &me, scoped)
    }

    fn keep(&self, py: Python<'_>, guard: Guard, me: &Me, scoped: bool) -> PyResult<Arc<Kept>> {
        let shared = self.shared()?;
        let several = &shared.several;
        let count = guard.count();
        let kept = Kept::new(guard, several.is_slow(), Some(Arc::clone(several)));
        let number = shared.holds.push(py, Arc::clone(&kept), me, scoped)?;
        owner::enter(Arc::<Shared>::downgrade(shared) as Weak<dyn Holder>);
        if let Err(raised) = several.tell(py, Happened::Acquired, count) {
            // A signal's handler has raised while the record was made: nobody knows of this hold.
            drop(shared.holds.undo(number));
            drop(kept.guard().take());
            return Err(raised);
        }
        Ok(kept)
    }

    /// What is to be released. Nothing is counted here, and everybody may release it.
    fn taken(&self, taken: Taken<Arc<Kept>>) -> Option<Arc<Kept>> {
        let Taken::Last(kept) = taken else { return None };
        if let Some(shared) = self.setup.get() {
            owner::leave(Arc::as_ptr(shared).cast());
        }
        Some(kept)
    }
}

/// A semaphore to acquire slots of.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct SlotsHandle {
    slots: Arc<Slots>,
}

struct Slots {
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
        let opened = AtomicBool::new(false);
        Ok(Self { slots: Arc::new(Slots { semaphore, opened }) })
    }

    /// The lock file, absolute.
    #[getter]
    fn path<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        path_to_python(py, self.slots.semaphore.path())
    }

    /// How many slots there are.
    #[getter]
    fn slots(&self) -> u32 {
        self.slots.semaphore.slots()
    }
}

impl Several for Slots {
    fn attempt(
        &self,
        py: Python<'_>,
        patience: Patience,
        count: u32,
    ) -> PyResult<Result<Guard, Error>> {
        let acquire = self.semaphore.acquire_many(count);
        let attempt =
            || if patience == Patience::Now { acquire.try_now() } else { acquire.try_in_turn() };
        let opened = self.opened.swap(true, Ordering::Relaxed);
        let outcome = if opened { attempt() } else { py.detach(attempt) };
        guard_or_busy(py, outcome.map(Guard::Slots))
    }

    fn refuse_own(
        &self,
        py: Python<'_>,
        waiter: Waiter<'_>,
        held: &Holds<Arc<Kept>>,
        count: u32,
    ) -> PyResult<()> {
        // All of it, and what a `with` will release.
        let (all, scoped) = held.of_waiter(py, waiter, |held| {
            held.fold((0, 0), |(all, scoped), (kept, by_with)| {
                let count = kept.guard().as_ref().map_or(0, Guard::count);
                (all + count, scoped + if by_with { count } else { 0 })
            })
        });
        let would_wait = |held: usize| held + count as usize > self.semaphore.slots() as usize;
        let by_itself = would_wait(scoped)
            || matches!(waiter, Waiter::Thread) && would_wait(all) && owner::is_alone(py)?;
        if !by_itself {
            return Ok(());
        }
        let who = waiter.word();
        let text = format!(
            "this {who} holds so many of the slots already that it would wait for itself; release them first"
        );
        Err(deadlock(py, Some(self.semaphore.path()), &text))
    }

    fn sleep(&self, py: Python<'_>, deadline: Option<Instant>, count: u32) -> PyResult<Guard> {
        let guard = sleep(py, || {
            let acquire = self.semaphore.acquire_many(count);
            match deadline {
                Some(deadline) => acquire.deadline(deadline),
                None => acquire,
            }
            .wait()
        });
        guard.map(Guard::Slots)
    }

    fn wait(&self, patience: Patience, count: u32) -> PyResult<Wait> {
        let acquire = self.semaphore.acquire_many(count);
        let future = match patience.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Wait::new(Box::pin(async move { future.await.map(Guard::Slots) }), false)
    }

    fn place(&self, _: &Error) -> Option<Place> {
        Some(Place { path: self.semaphore.path().to_owned(), mechanism: Mechanism::Ofd })
    }

    fn is_slow(&self) -> bool {
        false
    }

    /// Slots exclude only slots, which `refuse_own` counts.
    fn excludes(&self, _: &Wanted<'_>) -> bool {
        false
    }

    fn tell(&self, py: Python<'_>, happened: Happened, count: usize) -> PyResult<()> {
        log::tell(py, happened, Some(self.semaphore.path()), || match count {
            1 => "1 slot".into(),
            count => format!("{count} slots").into(),
        })
    }
}

/// Several locks to acquire at once.
#[pyclass(frozen, module = "lockmgr._lockmgr")]
pub(crate) struct SetHandle {
    set: Arc<Set>,
}

struct Set {
    locks: LockSet,
    members: Vec<(Arc<lock::Shared>, Mode)>,
    /// One of them, at least, takes its time.
    slow: bool,
}

#[pymethods]
impl SetHandle {
    #[new]
    #[pyo3(signature = (locks))]
    fn new(locks: Vec<Bound<'_, BaseLock>>) -> Self {
        let mode = |lock: &BaseLock| options::mode(lock.is_shared());
        let handles =
            locks.iter().map(|lock| (lock.get().lock().clone(), mode(lock.get()))).collect();
        let shared = |lock: &BaseLock| (Arc::clone(lock.shared()), mode(lock));
        let members = locks.iter().map(|lock| shared(lock.get())).collect();
        let slow = locks.iter().any(|lock| lock.get().is_slow());
        Self { set: Arc::new(Set { locks: handles, members, slow }) }
    }
}

impl Several for Set {
    fn attempt(&self, py: Python<'_>, _: Patience, _: u32) -> PyResult<Result<Guard, Error>> {
        let attempt = || self.locks.acquire().try_now_owned();
        let outcome = if self.slow { py.detach(attempt) } else { attempt() };
        guard_or_busy(py, outcome.map(Guard::Set))
    }

    fn refuse_own(
        &self,
        py: Python<'_>,
        waiter: Waiter<'_>,
        _: &Holds<Arc<Kept>>,
        _: u32,
    ) -> PyResult<()> {
        self.members.iter().try_for_each(|(member, mode)| member.refuse_own(py, *mode, waiter))
    }

    fn sleep(&self, py: Python<'_>, deadline: Option<Instant>, _: u32) -> PyResult<Guard> {
        let guard = sleep(py, || {
            let acquire = self.locks.acquire();
            match deadline {
                Some(deadline) => acquire.deadline(deadline),
                None => acquire,
            }
            .wait_owned()
        });
        guard.map(Guard::Set)
    }

    fn wait(&self, patience: Patience, _: u32) -> PyResult<Wait> {
        let acquire = self.locks.acquire();
        let future = match patience.deadline() {
            Some(deadline) => acquire.deadline(deadline),
            None => acquire,
        }
        .into_future();
        Wait::new(Box::pin(async move { future.await.map(Guard::Set) }), self.slow)
    }

    fn place(&self, busy: &Error) -> Option<Place> {
        let in_the_way = |member: &lock::Shared| member.lock().path() == busy.path();
        let (member, _) = self.members.iter().find(|(member, _)| in_the_way(member))?;
        Place::of(member.lock())
    }

    fn is_slow(&self) -> bool {
        self.slow
    }

    fn excludes(&self, wanted: &Wanted<'_>) -> bool {
        self.members.iter().any(|(member, mode)| member.excludes(wanted, *mode))
    }

    fn tell(&self, py: Python<'_>, happened: Happened, _: usize) -> PyResult<()> {
        let tell = |(member, mode): &(Arc<lock::Shared>, Mode)| {
            log::tell_mode(py, happened, member.lock().path(), *mode)
        };
        self.members.iter().try_for_each(tell)
    }
}

fn guard_or_busy(py: Python<'_>, outcome: Result<Guard, Error>) -> PyResult<Result<Guard, Error>> {
    match outcome {
        Err(error) if !error.is_contended() => Err(exception(py, error, After::Attempt)),
        outcome => Ok(outcome),
    }
}
