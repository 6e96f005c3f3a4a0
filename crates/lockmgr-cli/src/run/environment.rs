//! What the command is told of its hold, by its environment.
//!
//! All the names are ours: what an outer lockmgr said of another hold is not passed on.

use std::ffi::OsString;

use lockmgr::FileLockGuard;

use super::locks::{Held, Locks};
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

/// For a command that runs inside the hold of an ancestor, with these of its slots.
pub(super) fn of_outer(locks: &Locks, slots: &[u64]) -> Environment {
    // What the ancestor said of this very hold stays; of another one nothing does.
    if std::env::var_os(LOCK).as_deref() == Some(locks.path().as_os_str()) {
        return Environment::with(Vec::new());
    }
    Environment::with(vec![
        (LOCK, Some(locks.path().into())),
        (MODE, Some(locks.mode().into())),
        (SLOT, (!slots.is_empty()).then(|| listed(slots.iter().map(u64::to_string)))),
        (WAITED_MS, Some("0".into())),
        (TOKEN, None),
    ])
}

fn listed(numbers: impl Iterator<Item = String>) -> OsString {
    numbers.collect::<Vec<_>>().join(",").into()
}
