//! Who holds what through an instance, and who has which settings.
//!
//! A context belongs to a thread, or to all of them where the instance is shared. It is there while
//! something is held or something was changed: threads come and go.
//!
//! The mutex around the contexts is never held while Python code may run or the GIL is released, so that
//! a forked child finds it free.

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use lockmgr::{OwnedFileLockGuard, Range};
use pyo3::prelude::*;

use crate::owner::{self, Holder, Release, Wanted};

/// The context that all owners have in common.
pub(super) const SHARED: u64 = 0;

/// What may be changed later, by each thread for itself unless the instance is shared.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Habits {
    pub(super) timeout: f64,
    pub(super) blocking: bool,
    pub(super) poll_interval: f64,
}

#[derive(Default)]
pub(super) struct State {
    /// One for each thread that holds the lock or has settings of its own; of a shared instance one.
    contexts: Mutex<Vec<Context>>,
    /// Of a shared instance, the `with`s that are going to release what they took.
    scopes: Mutex<Vec<Scope>>,
}

struct Scope {
    owner: u64,
    /// That of the hold.
    number: u64,
}

/// More than one owner nests around what it has released by hand; then that is forgotten.
const MANY: usize = 64;

struct Context {
    place: u64,
    habits: Habits,
    /// Gone when the thread is whose habits these are.
    thread: Weak<()>,
    held: Option<Held>,
}

pub(super) struct Held {
    pub(super) guard: OwnedFileLockGuard,
    owner: u64,
    number: u64,
    pub(super) count: usize,
}

impl State {
    fn contexts(&self) -> MutexGuard<'_, Vec<Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scopes(&self) -> MutexGuard<'_, Vec<Scope>> {
        self.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more if the owner holds the lock; returns whether it does.
    pub(super) fn enter_again(&self, place: u64, owner: u64) -> bool {
        let mut contexts = self.contexts();
        match held_in(&mut contexts, place) {
            Some(held) if held.owner == owner => {
                held.count += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn settle(
        self: &Arc<Self>,
        defaults: Habits,
        place: u64,
        owner: u64,
        guard: OwnedFileLockGuard,
    ) {
        let held = Held { guard, owner, number: owner::new_key(), count: 1 };
        let mut contexts = self.contexts();
        match contexts.iter_mut().find(|context| context.place == place) {
            Some(context) => context.held = Some(held),
            None => contexts.push(Context {
                place,
                habits: defaults,
                thread: Weak::new(),
                held: Some(held),
            }),
        }
        drop(contexts);
        owner::enter(Arc::downgrade(self) as Weak<dyn Holder>);
    }

    /// A `with` of a shared instance has begun.
    pub(super) fn begin(&self, owner: u64) {
        let Some(number) = self.ask(SHARED, |held| held.number) else { return };
        let mut scopes = self.scopes();
        let over = |scope: &Scope| scope.owner == owner && scope.number != number;
        // Begun by hand, and what they took was released by hand.
        if scopes.iter().filter(|scope| over(scope)).count() >= MANY
            && let Some(first) = scopes.iter().position(over)
        {
            scopes.remove(first);
        }
        scopes.push(Scope { owner, number });
    }

    /// A `with` of a shared instance ends. False if what it took was released, and another owner has the
    /// lock by now.
    pub(super) fn end(&self, owner: u64) -> bool {
        let mut scopes = self.scopes();
        let Some(own) = scopes.iter().rposition(|scope| scope.owner == owner) else {
            // It has begun in another thread.
            return true;
        };
        let number = scopes.remove(own).number;
        drop(scopes);
        let is_own = |held: &Held| held.number == number || held.owner == owner;
        self.ask(SHARED, is_own).unwrap_or(true)
    }

    /// Counts one less, or all. Returns the guard when nothing is left.
    pub(super) fn leave(
        self: &Arc<Self>,
        defaults: Habits,
        place: u64,
        all: bool,
    ) -> Option<OwnedFileLockGuard> {
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
        if context.habits == defaults {
            contexts.swap_remove(index);
        }
        drop(contexts);
        owner::leave(Arc::as_ptr(self).cast());
        held.map(|held| held.guard)
    }

    /// The settings of a context.
    pub(super) fn habits(&self, defaults: Habits, place: u64) -> Habits {
        let contexts = self.contexts();
        let own = contexts.iter().find(|context| context.place == place);
        own.map_or(defaults, |context| context.habits)
    }

    pub(super) fn change_habits(
        &self,
        defaults: Habits,
        place: u64,
        change: impl FnOnce(&mut Habits),
    ) {
        let mut contexts = self.contexts();
        let index = contexts.iter().position(|context| context.place == place);
        let index = index.unwrap_or_else(|| {
            // What threads have changed that are gone by now.
            contexts.retain(|other| other.held.is_some() || other.thread.strong_count() > 0);
            contexts.push(Context { place, habits: defaults, thread: Weak::new(), held: None });
            contexts.len() - 1
        });
        let context = &mut contexts[index];
        change(&mut context.habits);
        context.thread = if place == SHARED { Arc::downgrade(&FOR_EVER) } else { this_thread() };
        if context.held.is_none() && context.habits == defaults {
            contexts.swap_remove(index);
        }
    }

    /// Asks about the hold of a context.
    pub(super) fn ask<T>(&self, place: u64, question: impl FnOnce(&Held) -> T) -> Option<T> {
        match held_in(&mut self.contexts(), place) {
            Some(held) if held.guard.is_held() => Some(question(held)),
            _ => None,
        }
    }

    /// How many contexts there are.
    pub(super) fn count(&self) -> usize {
        self.contexts().len()
    }
}

impl Holder for State {
    /// Whoever acquires it is expected to release it, as the package filelock does.
    fn excludes_here(&self, _: Python<'_>, wanted: &Wanted<'_>) -> Option<Release> {
        let contexts = self.contexts();
        let mut holds = contexts.iter().filter_map(|context| context.held.as_ref());
        let in_the_way = |held: &Held| {
            held.owner == wanted.owner() && wanted.is_excluded_by(&held.guard, Range::WHOLE)
        };
        holds.any(in_the_way).then_some(Release::Here)
    }

    fn is_idle(&self) -> bool {
        self.contexts().iter().all(|context| context.held.is_none())
    }
}

fn held_in(contexts: &mut [Context], place: u64) -> Option<&mut Held> {
    contexts.iter_mut().find(|context| context.place == place)?.held.as_mut()
}

thread_local! {
    static ALIVE: Arc<()> = Arc::new(());
}

/// In the place of a thread, for what all of them share.
static FOR_EVER: LazyLock<Arc<()>> = LazyLock::new(Arc::default);

fn this_thread() -> Weak<()> {
    ALIVE.try_with(Arc::downgrade).unwrap_or_default()
}
