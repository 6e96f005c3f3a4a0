//! What the calling thread holds through guards that cannot leave it.
//!
//! Two questions need this list: would a wait be for something that only this very thread can give
//! back (then it would last for ever, and is refused), and does a re-entrant handle come back to
//! its owner. Entries of a forked parent are in the child's copy of the list; they are recognised
//! by their generation and mean nothing.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use crate::description::Description;
use crate::handle::Handle;
use crate::mode::{Mechanism, Mode, Range};
use crate::sys::file::Identity;
use crate::sys::fork;

/// What is held.
struct Held {
    identity: Identity,
    mechanism: Mechanism,
    range: Range,
    mode: Mode,
}

struct Entry {
    /// The handle and the description, by numbers that are never used twice.
    handle: u64,
    description: u64,
    generation: u32,
    held: Held,
    /// Through which the kernel knows it.
    descriptor: u32,
    /// Guards that share the hold: more than one only for re-entrant handles.
    guards: usize,
    /// For the next guard of a re-entrant handle.
    again: Option<Arc<Description>>,
}

impl Entry {
    fn is_of(&self, handle: u64, description: &Description) -> bool {
        self.handle == handle && self.description == description.id
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
        list.retain(|entry| entry.generation == generation);
        run(&mut list)
    })
    .ok()
}

/// Notes a hold of this thread.
pub(crate) fn add(handle: &Handle, description: &Arc<Description>, mode: Mode, generation: u32) {
    let Description { id, identity, mechanism, range, .. } = **description;
    with(|list| {
        list.push(Entry {
            handle: handle.id,
            description: id,
            generation,
            held: Held { identity, mechanism, range, mode },
            descriptor: description.file().as_fd().as_raw_fd().unsigned_abs(),
            guards: 1,
            again: handle.settings.reentrant.then(|| Arc::clone(description)),
        });
    });
}

/// Counts one more guard on the hold that this thread has through a re-entrant handle; returns
/// what it is on.
pub(crate) fn enter_again(handle: u64) -> Option<(Mode, Arc<Description>)> {
    with(|list| {
        let entry = list.iter_mut().find(|entry| entry.handle == handle)?;
        let description = entry.again.clone()?;
        entry.guards += 1;
        Some((entry.held.mode, description))
    })
    .flatten()
}

/// Counts one guard less; returns whether it was the last one of its hold.
pub(crate) fn leave(handle: u64, description: &Description) -> bool {
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
pub(crate) fn change_mode(handle: u64, description: &Description, mode: Mode) {
    with(|list| {
        if let Some(entry) = list.iter_mut().find(|entry| entry.is_of(handle, description)) {
            entry.held.mode = mode;
        }
    });
}

/// Returns whether several guards share the hold.
pub(crate) fn is_nested(handle: u64, description: &Description) -> bool {
    with(|list| list.iter().any(|entry| entry.is_of(handle, description) && entry.guards > 1))
        .unwrap_or(false)
}

/// Returns whether this thread holds anything through the handle, in which mode.
pub(crate) fn mode_through(handle: u64) -> Option<Mode> {
    with(|list| list.iter().find(|entry| entry.handle == handle).map(|entry| entry.held.mode))
        .flatten()
}

/// Returns whether this thread holds anything on the description of this number.
pub(crate) fn is_on(description: u64) -> bool {
    with(|list| list.iter().any(|entry| entry.description == description)).unwrap_or(false)
}

/// Returns whether this thread holds nothing at all.
pub(crate) fn is_nothing() -> bool {
    with(|list| list.is_empty()).unwrap_or(true)
}

/// The descriptors of everything that this thread holds.
pub(crate) fn descriptors() -> Vec<u32> {
    with(|list| list.iter().map(|entry| entry.descriptor).collect()).unwrap_or_default()
}

/// Returns in which mode this thread holds what such a lock would meet: exclusive if any of it is.
pub(crate) fn mode_of(identity: Identity, mechanism: Mechanism, range: Range) -> Option<Mode> {
    with(|list| {
        let met = list.iter().map(|entry| &entry.held).filter(|held| {
            held.identity == identity
                && same_space(held.mechanism, mechanism)
                && held.range.overlaps(range)
        });
        met.map(|held| held.mode).reduce(
            |one, other| {
                if one == Mode::Exclusive { one } else { other }
            },
        )
    })
    .flatten()
}

/// `ofd` and `posix` locks see each other; `flock` sees only `flock`.
fn same_space(one: Mechanism, other: Mechanism) -> bool {
    (one == Mechanism::Flock) == (other == Mechanism::Flock)
}
