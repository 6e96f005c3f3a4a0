//! Who holds what through an instance, and who has which settings.
//!
//! A context belongs to a thread, or to all of them where the instance is shared. It is there while
//! something is held or something was changed: threads come and go.
//!
//! The mutex around the contexts is never held while Python code may run or the GIL is released, so that
//! a forked child finds it free.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use lockmgr::{FileLock, OwnedFileLockGuard};

/// The context that all owners have in common.
pub(super) const SHARED: u64 = 0;

/// Entries of a thread's list of what it holds, from which on it is worth looking which are out of date.
const MANY: usize = 64;

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
}

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
    pub(super) count: usize,
}

impl State {
    fn contexts(&self) -> MutexGuard<'_, Vec<Context>> {
        self.contexts.lock().unwrap_or_else(PoisonError::into_inner)
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
        let held = Held { guard, owner, count: 1 };
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
        note(self);
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

    fn is_idle(&self) -> bool {
        self.contexts().iter().all(|context| context.held.is_none())
    }
}

fn held_in(contexts: &mut [Context], place: u64) -> Option<&mut Held> {
    contexts.iter_mut().find(|context| context.place == place)?.held.as_mut()
}

thread_local! {
    static ALIVE: Arc<()> = Arc::new(());
    static KEY: Cell<u64> = const { Cell::new(SHARED) };
    /// The instances that were acquired by this thread, or by tasks in it. Those that were released
    /// elsewhere are still there.
    static HELD: RefCell<Vec<Weak<State>>> = const { RefCell::new(Vec::new()) };
}

/// In the place of a thread, for what all of them share.
static FOR_EVER: LazyLock<Arc<()>> = LazyLock::new(Arc::default);

fn this_thread() -> Weak<()> {
    ALIVE.try_with(Arc::downgrade).unwrap_or_default()
}

/// A number for an owner, never used twice.
pub(super) fn new_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(SHARED + 1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The owner that the calling thread is.
pub(super) fn thread_key() -> u64 {
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
pub(super) fn holds_elsewhere(own: &Arc<State>, owner: u64, lock: &FileLock) -> bool {
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
