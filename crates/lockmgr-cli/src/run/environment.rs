//! What the command is told of its hold, by its environment.
//!
//! All the names are ours: what an outer lockmgr said of another hold is not passed on.

use std::env;
use std::ffi::OsString;

use lockmgr::FileLockGuard;
use lockmgr::inspect::Record;

use super::locks::{Held, Locks};
use super::nested::Outer;
use crate::one_file::is_one_file;
use crate::sys::environment::Environment;

/// The lock file of LOCK.
pub(super) const LOCK: &str = "LOCKMGR_LOCK";
/// `exclusive`, `shared` or `slots`.
const MODE: &str = "LOCKMGR_MODE";
/// The numbers of the slots, from 0, ascending, with commas between them.
const SLOT: &str = "LOCKMGR_SLOT";
/// Whole milliseconds.
const WAITED_MS: &str = "LOCKMGR_WAITED_MS";
/// The fencing token of the hold, where it has one.
const TOKEN: &str = "LOCKMGR_TOKEN";

/// For a command that runs under what is held.
pub(super) fn of_hold(locks: &Locks, held: &Held<'_>) -> Environment {
    let slots = held.slots();
    let token = held.main().and_then(FileLockGuard::token).map(|token| token.to_string().into());
    Environment::with(vec![
        (LOCK, Some(locks.path().into())),
        (MODE, Some(locks.mode().into())),
        (SLOT, (!slots.is_empty()).then(|| listed(slots.iter().map(u32::to_string)))),
        (WAITED_MS, Some(held.wait_time().as_millis().to_string().into())),
        (TOKEN, token),
    ])
}

/// For a command that runs inside the hold of an ancestor.
pub(super) fn of_outer(locks: &Locks, outer: &Outer) -> Environment {
    let slots = (!outer.slots.is_empty()).then(|| listed(outer.slots.iter().map(u32::to_string)));
    // What the ancestor said of this very hold stays; of another one nothing does.
    if is_told_of(locks) {
        return Environment::with(vec![(SLOT, slots)]);
    }
    Environment::with(vec![
        (LOCK, Some(locks.path().into())),
        (MODE, Some(locks.mode().into())),
        (SLOT, slots),
        (WAITED_MS, Some("0".into())),
        (TOKEN, None),
    ])
}

/// The token of the ancestor's hold: the one that it gave us, if the holder's record, which the kernel
/// confirms, has it, too. (By itself it may be the token of somebody before.)
pub(super) fn token_of_outer(locks: &Locks) -> Option<u64> {
    let token = env::var(TOKEN).ok()?.parse().ok()?;
    let recorded = || Record::of_lock(locks.path())?.token;
    (is_told_of(locks) && recorded() == Some(token)).then_some(token)
}

/// Whether an outer lockmgr says that this is the lock it has, and not another one.
fn is_told_of(locks: &Locks) -> bool {
    env::var_os(LOCK).is_some_and(|lock| is_one_file(lock.as_ref(), locks.path()))
}

fn listed(numbers: impl Iterator<Item = String>) -> OsString {
    numbers.collect::<Vec<_>>().join(",").into()
}
