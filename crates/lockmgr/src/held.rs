//! What the calling thread holds through guards that cannot leave it.
//!
//! Two questions need this list: would a wait be for something that only this very thread can give
//! back (then it would last for ever, and is refused), and does a re-entrant handle come back to
//! its owner. Entries of a forked parent are in the child's copy of the list; they are recognised
//! by their generation and mean nothing.

use std::cell::RefCell;
use std::sync::Arc;

use crate::description::Description;
use crate::mode::{Mechanism, Mode, Range};
use crate::sys::file::Identity;
use crate::sys::fork;

/// One hold of this thread.
pub(crate) struct Held {
    /// The handle, by a number that is never used twice.
    pub(crate) handle: u64,
    pub(crate) description: Arc<Description>,
    pub(crate) mode: Mode,
    pub(crate) generation: u32,
}

/// What somebody wants to hold.
pub(crate) struct Wanted {
    pub(crate) identity: Identity,
    pub(crate) mechanism: Mechanism,
    pub(crate) range: Range,
    pub(crate) mode: Mode,
}

struct Entry {
    held: Held,
    /// Guards that share the hold: more than one only for re-entrant handles.
    guards: usize,
}

impl Entry {
    fn is_of(&self, handle: u64, description: &Arc<Description>) -> bool {
        self.held.handle == handle && Arc::ptr_eq(&self.held.description, description)
    }
}

thread_local! {
    static HELD: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
}

/// Runs on the list, without what a parent process held; `None` while the thread is being torn
/// down.
fn with<T>(run: impl FnOnce(&mut Vec<Entry>) -> T) -> Option<T> {
    let generation = fork::generation();
    HELD.try_with(|list| {
        let mut list = list.borrow_mut();
        list.retain(|entry| entry.held.generation == generation);
        run(&mut list)
    })
    .ok()
}

/// Notes a hold of this thread.
pub(crate) fn add(held: Held) {
    with(|list| list.push(Entry { held, guards: 1 }));
}

/// Counts one more guard on a hold that this thread has through the handle; returns what it is on.
pub(crate) fn enter_again(handle: u64) -> Option<(Mode, Arc<Description>)> {
    with(|list| {
        let entry = list.iter_mut().find(|entry| entry.held.handle == handle)?;
        entry.guards += 1;
        Some((entry.held.mode, Arc::clone(&entry.held.description)))
    })
    .flatten()
}

/// Counts one guard less; returns whether it was the last one of its hold.
pub(crate) fn leave(handle: u64, description: &Arc<Description>) -> bool {
    with(|list| {
        let Some(index) = list.iter().position(|entry| entry.is_of(handle, description)) else {
            return true;
        };
        list[index].guards -= 1;
        let last = list[index].guards == 0;
        if last {
            list.swap_remove(index);
        }
        last
    })
    .unwrap_or(true)
}

/// Notes that the hold has another mode now.
pub(crate) fn change_mode(handle: u64, description: &Arc<Description>, mode: Mode) {
    with(|list| {
        if let Some(entry) = list.iter_mut().find(|entry| entry.is_of(handle, description)) {
            entry.held.mode = mode;
        }
    });
}

/// Returns whether several guards share the hold.
pub(crate) fn is_nested(handle: u64, description: &Arc<Description>) -> bool {
    with(|list| list.iter().any(|entry| entry.is_of(handle, description) && entry.guards > 1))
        .unwrap_or(false)
}

/// Returns whether this thread holds anything through the handle, in which mode.
pub(crate) fn mode_through(handle: u64) -> Option<Mode> {
    with(|list| list.iter().find(|entry| entry.held.handle == handle).map(|entry| entry.held.mode))
        .flatten()
}

/// Returns whether a hold of this thread stands in the way of the wanted one.
pub(crate) fn blocks(wanted: &Wanted) -> bool {
    with(|list| {
        list.iter().any(|Entry { held, .. }| {
            held.description.identity == wanted.identity
                && same_space(held.description.mechanism, wanted.mechanism)
                && held.description.range.overlaps(wanted.range)
                && held.mode.conflicts_with(wanted.mode)
        })
    })
    .unwrap_or(false)
}

/// `ofd` and `posix` locks see each other; `flock` sees only `flock`.
fn same_space(one: Mechanism, other: Mechanism) -> bool {
    (one == Mechanism::Flock) == (other == Mechanism::Flock)
}
