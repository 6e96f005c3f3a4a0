//! Nested use: an ancestor of this process has the lock that it wants.
//!
//! The ancestor most likely waits for the end of this very process, and so the wait would never end.
//! The environment says whether there may be such an ancestor, and nothing more: who it is, and whether
//! it has the lock, is looked up in the process tree and in the kernel's table.
//!
//! An ancestor counts when it has the locked open file, whether it took the lock or has inherited it:
//! as long as it is there, its lockmgr does not let go. Ancestors that have ended are no ancestors:
//! what a daemon of a command's does, holds up nobody.

use std::env;
use std::path::Path;
use std::thread;
use std::time::Duration;

use lockmgr::inspect::{Kind, Lock, Process, Standing};
use lockmgr::{Mode, Range};

use super::environment;
use super::locks::Locks;
use crate::look::{ancestors, look_at};
use crate::show;

/// What ancestors have of the locks that are wanted.
pub(super) struct Outer {
    /// The ancestor.
    process: Process,
    /// One wait at least would never end.
    pub(super) stuck: bool,
    /// All that is wanted is held.
    pub(super) covers: bool,
    /// Held shared, and wanted exclusively.
    upgrade: bool,
    /// The numbers of the slots, as many as are wanted.
    pub(super) slots: Vec<u32>,
    /// The fencing token, where that was looked for ([`Outer::with_token`]).
    pub(super) token: Option<u64>,
}

/// What to do instead of a wait for an ancestor.
#[derive(Clone, Copy)]
pub(super) enum WayOut {
    /// `run` can be told to pass.
    CanPass,
    /// It was, and the ancestor has not enough.
    NotEnough,
    /// `wait` has nothing to pass to.
    Wait,
}

/// Whether an outer lockmgr says that there may be such an ancestor.
pub(super) fn is_hinted_at() -> bool {
    env::var_os(environment::LOCK).is_some()
}

/// Looks for ancestors that have something of it.
pub(super) fn look(locks: &Locks) -> Option<Outer> {
    if !is_hinted_at() {
        return None;
    }
    let ancestors = ancestors();
    let (mut outer, mut found) = (None::<Outer>, 0);
    for (path, mode) in &locks.members {
        let held = held_by(&ancestors, path, locks);
        let Some((process, _)) = held.first() else { continue };
        found += 1;
        let (stuck, covers, slots) = if let Some((take, slots)) = locks.take_of_slots() {
            let numbers = held.iter().flat_map(|(_, lock)| numbers(lock.range, slots));
            let mut numbers: Vec<u32> = numbers.filter_map(|slot| slot.try_into().ok()).collect();
            numbers.sort_unstable();
            let count = numbers.len() as u64;
            numbers.truncate(usize::try_from(take).unwrap_or(usize::MAX));
            (slots.saturating_sub(count) < take, count >= take, numbers)
        } else {
            // Two that share a lock do not keep each other out; but somebody who waits in line
            // for the one can keep the other waiting.
            let in_the_way = |lock: &Lock| lock.mode.conflicts_with(*mode) || locks.fair;
            let enough = |lock: &Lock| {
                covers(lock.range, locks.range)
                    && (lock.mode == Mode::Exclusive || *mode == Mode::Shared)
            };
            let any = |is: &dyn Fn(&Lock) -> bool| held.iter().any(|(_, lock)| is(lock));
            (any(&in_the_way), any(&enough), Vec::new())
        };
        let shared = held.iter().all(|(_, lock)| lock.mode == Mode::Shared);
        let upgrade = shared && *mode == Mode::Exclusive;
        match &mut outer {
            None => {
                let process = process.clone();
                outer = Some(Outer { process, stuck, covers, upgrade, slots, token: None });
            }
            Some(outer) => {
                outer.stuck |= stuck;
                outer.covers &= covers;
                outer.upgrade |= upgrade;
            }
        }
    }
    outer.map(|outer| Outer { covers: outer.covers && found == locks.members.len(), ..outer })
}

/// The locks on the file that have to do with those wanted, and the ancestor that has each: whoever took
/// it, or else the nearest one.
fn held_by(ancestors: &[Process], path: &Path, locks: &Locks) -> Vec<(Process, Lock)> {
    let mut found = Vec::new();
    for lock in in_the_way(path, locks) {
        let has = |ancestor: &&Process, verified: bool| {
            lock.holders.iter().any(|holder| {
                let has_it_now = match holder.standing {
                    Standing::Verified => true,
                    Standing::Inherited | Standing::Unclear => !verified,
                    _ => false,
                };
                has_it_now
                    && holder.process.as_ref().is_some_and(|process| {
                        (process.pid, process.start) == (ancestor.pid, ancestor.start)
                    })
            })
        };
        let taker = ancestors.iter().find(|ancestor| has(ancestor, true));
        let holder = taker.or_else(|| ancestors.iter().find(|ancestor| has(ancestor, false)));
        if let Some(holder) = holder {
            found.push((holder.clone(), lock));
        }
    }
    found
}

/// The table changes while it is read, and now and then a lock is missed. Somebody has one, or nobody
/// would look: so it is looked for again, but not for long, for it may have been released since.
fn in_the_way(path: &Path, locks: &Locks) -> Vec<Lock> {
    const LOOKS: usize = 5;
    const PAUSE: Duration = Duration::from_millis(2);
    let kind = Kind::from(locks.mechanism);
    for look in 1.. {
        let table = look_at(path, true).ok().flatten().unwrap_or_default();
        let found = table.files.into_iter().flat_map(|file| file.locks);
        let matters = |lock: &Lock| {
            lock.kind.shares_a_space_with(&kind)
                && !lock.is_gate()
                && overlap(lock.range, locks.range)
        };
        let found: Vec<Lock> = found.filter(matters).collect();
        if !found.is_empty() || look == LOOKS {
            return found;
        }
        thread::sleep(PAUSE);
    }
    Vec::new()
}

impl Outer {
    /// As it is, with the token of the ancestor's hold, if it has one.
    pub(super) fn with_token(self, locks: &Locks) -> Self {
        Self { token: environment::token_of_outer(locks), ..self }
    }

    /// What to say when the wait is not begun.
    pub(super) fn told(&self, locks: &Locks, way_out: WayOut) -> String {
        let (name, who) = (locks.name(), show::process(&self.process));
        let what = match locks.take_of_slots() {
            Some(_) => "has so many of the slots that too few are left",
            None if self.upgrade => "shares the lock, which is wanted exclusively here",
            None => "has the lock",
        };
        let way_out = match (way_out, self.covers) {
            (WayOut::Wait, _) => "--nested=wait waits all the same",
            (WayOut::CanPass | WayOut::NotEnough, true) => {
                "--nested=pass runs the command inside that hold, --nested=wait waits"
            }
            (WayOut::NotEnough, false) => "its hold is not enough for --nested=pass",
            (WayOut::CanPass, false) => {
                "let the outer command have all that is needed; --nested=wait waits"
            }
        };
        format!(
            "{name}: this would wait for its own ancestor {who}, which {what}, and most likely \
             waits for this process; {way_out}"
        )
    }

    /// What to say when the command is not run inside, and why.
    pub(super) fn not_inside(&self, locks: &Locks, why: &str) -> String {
        let (name, who) = (locks.name(), show::process(&self.process));
        format!("{name}: the hold of its own ancestor {who} is not enough for --nested=pass: {why}")
    }
}

fn end(range: Range) -> u64 {
    range.len().map_or(u64::MAX, |len| range.start().saturating_add(len))
}

fn overlap(one: Range, other: Range) -> bool {
    one.start() < end(other) && other.start() < end(one)
}

fn covers(outer: Range, inner: Range) -> bool {
    outer.start() <= inner.start() && end(inner) <= end(outer)
}

/// The numbers of the slots in a range.
fn numbers(range: Range, slots: u64) -> std::ops::Range<u64> {
    range.start()..end(range).min(slots)
}
