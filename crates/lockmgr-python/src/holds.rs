//! What is held through one object, by whom, and the `with`s that are going to release it.
//!
//! | what ends | what is released |
//! |---|---|
//! | a `with` on the object | the hold that it took; if that is gone, one that its owner has acquired since |
//! | a `with` on what acquiring returned | the hold that this was; if that is gone, the same |
//! | a `with` that began in another thread or task | what a task took that is no more; else what was taken last |
//! | `release()` | what its caller acquired last; else what another one has |
//!
//! So a `with` whose hold was released inside it never releases that of the next one. A mutex is held
//! for a push or a pop and nothing else.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use crate::owner::{self, Me, Owner, Release, Waiter};

/// More than one owner nests around what it has released by hand; then that is forgotten.
const MANY: usize = 64;

/// What is held: a guard, or something with one in it.
pub(crate) trait Guarded {
    /// In a forked child nothing is.
    fn is_held(&self) -> bool;

    /// It was released by itself, and can be forgotten.
    fn is_over(&self) -> bool {
        false
    }

    /// A `with` of its own is going to release it.
    fn is_scoped(&self) -> bool {
        false
    }
}

/// The holds of one object.
pub(crate) struct Holds<T>(Mutex<Inner<T>>);

struct Inner<T> {
    list: Vec<Held<T>>,
    /// In the order in which they have begun.
    scopes: Vec<Scope>,
}

/// One hold.
pub(crate) struct Held<T> {
    pub(crate) what: T,
    number: u64,
    owner: Owner,
    /// How often its owner has acquired it: more than once only if the lock is re-entrant.
    pub(crate) count: usize,
    /// A `with` has taken it, and will release it in its place.
    scoped: bool,
}

/// A `with` on the object, by the number of the hold that it took.
struct Scope {
    number: u64,
    owner: Owner,
}

/// What came of a release.
pub(crate) enum Taken<T> {
    /// It is held no more.
    Last(T),
    /// Its owner has acquired it once more.
    Counted,
    /// Another owner has it, who alone may release it.
    Others,
    Nothing,
}

impl<T> Default for Holds<T> {
    fn default() -> Self {
        Self(Mutex::new(Inner { list: Vec::new(), scopes: Vec::new() }))
    }
}

impl<T: Guarded> Held<T> {
    fn is_of(&self, py: Python<'_>, me: &Me) -> bool {
        self.what.is_held() && self.owner.is(py, me)
    }

    fn is_scoped(&self) -> bool {
        self.scoped || self.what.is_scoped()
    }
}

impl<T: Guarded> Holds<T> {
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks about all holds that are held.
    pub(crate) fn ask<R>(
        &self,
        question: impl FnOnce(&mut dyn DoubleEndedIterator<Item = &T>) -> R,
    ) -> R {
        let inner = self.inner();
        question(&mut inner.list.iter().map(|held| &held.what).filter(|what| what.is_held()))
    }

    pub(crate) fn is_held(&self) -> bool {
        self.ask(|held| held.next().is_some())
    }

    /// Adds what was acquired, `scoped` by a `with` on the object. Returns its number.
    pub(crate) fn push(&self, py: Python<'_>, what: T, me: &Me, scoped: bool) -> PyResult<u64> {
        let (owner, number) = (me.remember(py)?, owner::new_key());
        let scope = scoped.then(|| owner.again(py));
        let mut inner = self.inner();
        let over: Vec<_> = inner.list.extract_if(.., |held| held.what.is_over()).collect();
        inner.list.push(Held { what, number, owner, count: 1, scoped });
        if let Some(owner) = scope {
            inner.begin(py, me, Scope { number, owner });
        }
        drop(inner);
        drop(over);
        Ok(number)
    }

    /// Counts up what the owner holds already, if `may` agrees. Returns its number.
    pub(crate) fn again<E>(
        &self,
        py: Python<'_>,
        me: &Me,
        scoped: bool,
        may: impl FnOnce(&T) -> Result<(), E>,
    ) -> PyResult<Option<Result<u64, E>>> {
        let scope = if scoped { Some(me.remember(py)?) } else { None };
        let mut inner = self.inner();
        let Some(held) = inner.list.iter_mut().find(|held| held.is_of(py, me)) else {
            return Ok(None);
        };
        if let Err(refused) = may(&held.what) {
            return Ok(Some(Err(refused)));
        }
        held.count += 1;
        let number = held.number;
        if let Some(owner) = scope {
            inner.begin(py, me, Scope { number, owner });
        }
        Ok(Some(Ok(number)))
    }

    /// A `with` has begun on what acquiring returned. False if that is held no more.
    pub(crate) fn enter(&self, number: u64) -> bool {
        let here = owner::this_thread();
        let mut inner = self.inner();
        let Some(held) = inner.list.iter_mut().find(|held| held.number == number) else {
            return false;
        };
        // Another thread's `with` does not release it here.
        held.scoped |= held.owner.thread() == here;
        held.what.is_held()
    }

    /// The end of a `with` on the object. `own_only`: others' may only be released by themselves.
    pub(crate) fn leave(&self, py: Python<'_>, me: &Me, own_only: bool) -> Taken<T> {
        let mut inner = self.inner();
        if let Some(own) = inner.scopes.iter().rposition(|scope| scope.owner.is(py, me)) {
            let number = inner.scopes.remove(own).number;
            return inner.end(py, me, number);
        }
        // A task that is forgotten inside leaves when it is no task any more.
        let forgotten = inner.scopes.iter().rposition(|scope| scope.owner.is_gone(py));
        if forgotten.is_none()
            && let Some(own) = inner.unclaimed_of(py, me)
        {
            return inner.take(own);
        }
        let Some(scope) = forgotten.or_else(|| inner.last_scope()) else {
            // As of a hold that another thread has acquired without a `with`.
            return match inner.list.iter().rposition(|held| !held.is_scoped()) {
                Some(at) => inner.take_anyones(py, at, own_only),
                None => Taken::Nothing,
            };
        };
        let number = inner.scopes[scope].number;
        let taken = match inner.place_of(number) {
            Some(at) => inner.take_anyones(py, at, own_only),
            None => Taken::Nothing,
        };
        if !matches!(taken, Taken::Others) {
            inner.scopes.remove(scope);
        }
        taken
    }

    /// The end of a `with` on what acquiring returned.
    pub(crate) fn leave_one(
        &self,
        py: Python<'_>,
        me: &Me,
        number: u64,
        own_only: bool,
    ) -> Taken<T> {
        let mut inner = self.inner();
        match inner.place_of(number) {
            Some(at) if !inner.list[at].owner.is(py, me) => inner.take_anyones(py, at, own_only),
            _ => inner.end(py, me, number),
        }
    }

    /// What release() releases.
    pub(crate) fn release(&self, py: Python<'_>, me: &Me, own_only: bool) -> Taken<T> {
        let mut inner = self.inner();
        if let Some(own) = inner.list.iter().rposition(|held| held.is_of(py, me)) {
            return inner.take(own);
        }
        let held = inner.list.iter().filter(|held| held.what.is_held());
        if own_only && held.clone().any(|held| held.has_owner(py)) {
            return Taken::Others;
        }
        match inner.list.iter().rposition(|held| held.what.is_held()) {
            Some(at) => inner.take(at),
            None => Taken::Nothing,
        }
    }

    /// Takes back what was just acquired, of which nobody knows.
    pub(crate) fn undo(&self, number: u64) -> Option<T> {
        let mut inner = self.inner();
        let at = inner.place_of(number)?;
        inner.scopes.retain(|scope| scope.number != number);
        Some(inner.list.remove(at).what)
    }

    /// Who will release what this thread, or a task in it, holds and is in the way.
    pub(crate) fn who_releases(
        &self,
        py: Python<'_>,
        waiter: Waiter<'_>,
        is_in_the_way: impl Fn(&T) -> bool,
    ) -> Option<Release> {
        self.of_waiter(py, waiter, |held| {
            let mut in_the_way = held.filter(|(what, _)| is_in_the_way(what));
            let (_, first) = in_the_way.next()?;
            let scoped = first || in_the_way.any(|(_, scoped)| scoped);
            Some(if scoped { Release::Here } else { Release::Anyone })
        })
    }

    /// Asks about what the waiter keeps from itself, each with whether a `with` will release it: of a task,
    /// only where one will.
    pub(crate) fn of_waiter<R>(
        &self,
        py: Python<'_>,
        waiter: Waiter<'_>,
        question: impl FnOnce(&mut dyn Iterator<Item = (&T, bool)>) -> R,
    ) -> R {
        let inner = self.inner();
        let mut by_waiter = inner.list.iter().filter(|held| {
            let by_waiter = match waiter {
                Waiter::Task(task, _) => held.is_scoped() && held.owner.keeps_back(py, task),
                Waiter::Thread => held.owner.thread() == owner::this_thread(),
            };
            by_waiter && held.what.is_held()
        });
        question(&mut by_waiter.by_ref().map(|held| (&held.what, held.is_scoped())))
    }
}

impl<T: Guarded> Held<T> {
    /// Whether the thread or task that has acquired it may yet release it.
    fn has_owner(&self, py: Python<'_>) -> bool {
        self.what.is_held() && !self.owner.is_gone(py)
    }
}

impl<T: Guarded> Inner<T> {
    fn begin(&mut self, py: Python<'_>, me: &Me, scope: Scope) {
        if self.scopes.len() >= MANY {
            self.forget_one(py, me);
        }
        self.scopes.push(scope);
    }

    /// Forgets a `with` of this owner that was begun by hand, and whose hold was released by hand: there
    /// would be ever more of them.
    fn forget_one(&mut self, py: Python<'_>, me: &Me) {
        let over = |scope: &Scope| self.place_of(scope.number).is_none();
        let own: Vec<_> = (0..self.scopes.len())
            .filter(|&at| over(&self.scopes[at]) && self.scopes[at].owner.is(py, me))
            .collect();
        if own.len() >= MANY {
            self.scopes.remove(own[0]);
        }
    }

    fn place_of(&self, number: u64) -> Option<usize> {
        self.list.iter().position(|held| held.number == number && !held.what.is_over())
    }

    /// What the owner has acquired last and no `with` is going to release.
    fn unclaimed_of(&self, py: Python<'_>, me: &Me) -> Option<usize> {
        self.list.iter().rposition(|held| !held.is_scoped() && held.is_of(py, me))
    }

    /// The last `with` whose hold is there.
    fn last_scope(&self) -> Option<usize> {
        self.scopes.iter().rposition(|scope| self.place_of(scope.number).is_some())
    }

    /// The end of this owner's `with`.
    fn end(&mut self, py: Python<'_>, me: &Me, number: u64) -> Taken<T> {
        match self.place_of(number).or_else(|| self.unclaimed_of(py, me)) {
            Some(at) => self.take(at),
            None => Taken::Nothing,
        }
    }

    fn take_anyones(&mut self, py: Python<'_>, at: usize, own_only: bool) -> Taken<T> {
        if own_only && self.list[at].has_owner(py) { Taken::Others } else { self.take(at) }
    }

    fn take(&mut self, at: usize) -> Taken<T> {
        if self.list[at].count > 1 {
            self.list[at].count -= 1;
            return Taken::Counted;
        }
        Taken::Last(self.list.remove(at).what)
    }
}
