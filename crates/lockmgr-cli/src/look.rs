//! Looking at one lock, and at who we are, for `who`, `kill` and what `run` does about a busy lock.

use std::io::ErrorKind;
use std::path::Path;

use lockmgr::Error;
use lockmgr::inspect::{Holder, Kind, Lock, LockTable, Process, Standing};

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
            Ok(table) if tries < TRIES && is_over(&table) => {}
            Ok(table) => return Ok(Some(table)),
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => break,
            Err(error) => return Err(Failure::of_look(&error)),
        }
    }
    Ok(None)
}

/// Whether nobody is seen to have one of the locks, though he should be: for an `ofd` lock that has been
/// released since, that is a holder who is not visible. Where locks are hidden he may well be just that.
/// One who is ending is about to be nobody.
fn is_over(table: &LockTable) -> bool {
    let nobody = |one: &Holder| match one.standing {
        Standing::Gone | Standing::NotVisible => true,
        Standing::NotPermitted => one.process.as_ref().is_some_and(|process| process.ending),
        _ => false,
    };
    let mut locks = table.files.iter().flat_map(|file| &file.locks);
    !table.gaps.hidden && locks.any(|lock| lock.holders.iter().all(nobody))
}

/// Whether it is what people mean by a lock: no lease, and no gate.
pub(crate) fn is_a_lock_proper(lock: &Lock) -> bool {
    lock.kind != Kind::Lease && !lock.is_gate()
}

/// The ancestors of this process, the parent first.
pub(crate) fn ancestors() -> Vec<Process> {
    // More generations than anybody has; pids that change hands meanwhile could form a ring.
    const GENERATIONS: usize = 1000;
    let myself = Process::look(std::process::id());
    let parent = |process: &Process| Process::look(process.parent).filter(|one| one.pid != 0);
    let first = myself.as_ref().and_then(parent);
    std::iter::successors(first, parent).take(GENERATIONS).collect()
}
