//! `--if-busy=replace`: signals the holder, once, and leaves the rest to the queue.
//!
//! 1. Whoever has the lock exclusively, verified by the kernel, and with a record in the lock file that
//!    names the same process, is the one, unless it got the lock after this command had come, or is
//!    an ancestor, process 1, or this process.
//! 2. It is pinned, and everything is looked at once more: the same process must have the same hold.
//! 3. It is sent SIGTERM, as `lockmgr kill` would.
//!
//! Then the wait is an ordinary one: nobody is looked for a second time. So each command signals one
//! process at most, and only one that was there before it. Two that come while the same holder is in
//! signal that one both, and never each other: whichever gets the lock first has got it after the other
//! came. A chain of replacements has an end, because each one leads to an older hold. What is not
//! prevented is that a third one gets in between, and that a holder gets two signals.

use std::time::{Duration, SystemTime};

use lockmgr::Mode;
use lockmgr::inspect::{Holder, Kind, LockTable, LockedFile, Process, Record, Standing};
use rustix::process::Signal;

use super::locks::Locks;
use crate::exit::Failure;
use crate::kill::aim::{Target, is_same};
use crate::look::{ancestors, look_at};
use crate::say::say;
use crate::show;

/// Signals the holder, if it may be. What is in the way of that is said, and the wait goes on.
/// Returns whether somebody was signalled.
pub(super) fn replace(locks: &Locks, came: SystemTime, quiet: bool) -> Result<bool, Failure> {
    let said = |line: &str| {
        if !quiet {
            say(&format!("{}: {line}", locks.name()));
        }
    };
    let Some((process, holder, record)) = settled(locks, came, &said)? else { return Ok(false) };
    let Some(mut target) = Target::pin(process, holder)? else { return Ok(false) };
    let who = show::process(&target.process);
    match settled(locks, came, &said)? {
        Some((process, _, again)) if is_same(&process, &target.process) && again == record => {}
        _ => return Ok(false),
    }
    match target.send(Signal::TERM) {
        Ok(()) if target.ended => Ok(false),
        Ok(()) => {
            said(&format!("sent SIGTERM to {who}, to take its place"));
            Ok(true)
        }
        Err(_) => {
            said(&format!("{who} is not replaced: this user may not signal it"));
            Ok(false)
        }
    }
}

/// What one look has found.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Found {
    TheOne(Process, Holder, Record),
    /// Why nobody is to be replaced.
    Nobody(String),
    /// As `Nobody`; but the table changes while it is read, and the record is written after the grant,
    /// so another look may find more.
    NotYet(String),
}

/// The holder to be replaced. Says why there is none.
fn settled(
    locks: &Locks,
    came: SystemTime,
    said: &impl Fn(&str),
) -> Result<Option<(Process, Holder, Record)>, Failure> {
    const LOOKS: usize = 10;
    const PAUSE: Duration = Duration::from_millis(5);
    for look in 1.. {
        match the_one(locks, came)? {
            Found::TheOne(process, holder, record) => return Ok(Some((process, holder, record))),
            Found::NotYet(_) if look < LOOKS => std::thread::sleep(PAUSE),
            Found::NotYet(why) | Found::Nobody(why) => {
                said(&why);
                break;
            }
        }
    }
    Ok(None)
}

fn the_one(locks: &Locks, came: SystemTime) -> Result<Found, Failure> {
    let table = look_at(locks.path(), true)?.unwrap_or_default();
    let Some((process, holder)) = exclusive(&table, locks) else {
        let line = "nobody is replaced: only a holder that has the lock alone, and is verified";
        return Ok(Found::NotYet(line.into()));
    };
    let who = show::process(&process);
    let not = |why: &str| format!("{who} is not replaced: {why}");
    if process.pid == std::process::id() || process.pid == 1 {
        return Ok(Found::Nobody(not("it is this process, or process 1")));
    }
    if ancestors().iter().any(|ancestor| is_same(ancestor, &process)) {
        return Ok(Found::Nobody(not("it is an ancestor of this process")));
    }
    let record = table.files.iter().find_map(LockedFile::record);
    let agrees = |record: &Record| (record.pid, record.start) == (process.pid, process.start);
    let Some(record) = record.filter(agrees) else {
        return Ok(Found::NotYet(not("it has left no record of itself in the lock file")));
    };
    if record.since > came {
        return Ok(Found::Nobody(not("it has got the lock after this command came")));
    }
    Ok(Found::TheOne(process, holder, record))
}

/// Whoever has the lock alone, by his own doing.
fn exclusive(table: &LockTable, locks: &Locks) -> Option<(Process, Holder)> {
    let kind = Kind::from(locks.mechanism);
    let found = table.files.iter().flat_map(|file| &file.locks);
    found
        .filter(|lock| lock.kind.shares_a_space_with(&kind) && !lock.is_gate())
        .filter(|lock| lock.mode == Mode::Exclusive)
        .flat_map(|lock| &lock.holders)
        .filter(|holder| holder.standing == Standing::Verified)
        .find_map(|holder| Some((holder.process.clone()?, holder.clone())))
}
