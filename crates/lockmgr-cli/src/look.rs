//! Looking at one lock, for `who` and `kill`.

use std::io::ErrorKind;
use std::path::Path;

use lockmgr::Error;
use lockmgr::inspect::{Holder, Kind, Lock, LockTable, Standing};

use crate::exit::Failure;

/// The locks of the file, `all` of whose holders are looked for if so wanted. `None` when there is no
/// such file.
///
/// A lock that is released while one looks is in the table, and nobody has it: then it is looked at
/// again. What stays like that is held in a way that /proc does not show (a descriptor on its way
/// through a socket).
pub(crate) fn look_at(path: &Path, all: bool) -> Result<Option<LockTable>, Failure> {
    const TRIES: usize = 4;
    for tries in 1.. {
        let looked = if all { LockTable::of_thoroughly(path) } else { LockTable::of(path) };
        match looked {
            Ok(table) if tries < TRIES && table.files.iter().any(|file| is_over(&file.locks)) => {}
            Ok(table) => return Ok(Some(table)),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(Failure::of_look(&error)),
        }
    }
    Ok(None)
}

/// Whether nobody has one of the locks any more.
fn is_over(locks: &[Lock]) -> bool {
    let is_over = |lock: &Lock| {
        // Behind one who has gone, somebody who is not visible is no more than a guess.
        let nobody = |one: &Holder| matches!(one.standing, Standing::Gone | Standing::NotVisible);
        lock.holders.iter().all(nobody)
            && lock.holders.iter().any(|one| one.standing == Standing::Gone)
    };
    locks.iter().any(is_over)
}

/// Whether it is what people mean by a lock: no lease, and no gate.
pub(crate) fn is_a_lock_proper(lock: &Lock) -> bool {
    lock.kind != Kind::Lease && !lock.is_gate()
}
