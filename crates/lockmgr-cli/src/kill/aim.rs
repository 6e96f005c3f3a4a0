//! Whom `lockmgr kill`, and `run --if-busy=replace`, may signal, and how it makes sure that nobody else is hit.
//!
//! In the order that [`signal_holder`](crate::signal_holder) explains: pin it, compare its start time,
//! look at the lock again, signal what is pinned.

use std::path::Path;

use lockmgr::inspect::{Holder, Lock, Process, Standing};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::exit::{Failure, SYSTEM};
use crate::look::{ancestors, is_a_lock_proper, look_at};
use crate::show;
use crate::signal_holder::Pinned;

/// Why those are not signalled who have merely inherited the lock.
pub(super) const INHERITED: &str =
    "it has inherited the lock and did not take it; --inherited signals it, too";

/// Who is signalled besides those that are verified to hold the lock.
#[derive(Clone, Copy, Default)]
pub(crate) struct Whom {
    /// Those, too, that have the open file without having locked it.
    pub(crate) inherited: bool,
    /// Process 1, too.
    pub(crate) init: bool,
}

/// A holder that may be signalled, pinned.
pub(crate) struct Target {
    pub(crate) process: Process,
    /// As which it was found.
    pub(crate) holder: Holder,
    pub(crate) pinned: Pinned,
    pub(crate) sent: Vec<Signal>,
    pub(crate) ended: bool,
    pub(crate) holds: bool,
}

/// A holder that is not signalled, and why.
pub(crate) struct Spared {
    pub(crate) holder: Holder,
    pub(crate) reason: &'static str,
}

/// The locks on the file now, those that count as such. A file that is not there has none.
pub(crate) fn locks_of(path: &Path) -> Result<Vec<Lock>, Failure> {
    let table = look_at(path, true)?.unwrap_or_default();
    if table.gaps.cut_short {
        // Who was not seen has not let go.
        let (path, why) = (show::path(path), show::why_cut_short(&table.gaps));
        let line = format!("{path}: cannot find out who holds it: {why}");
        return Err(Failure::new(SYSTEM, line));
    }
    let locks = table.files.into_iter().flat_map(|file| file.locks);
    Ok(locks.filter(is_a_lock_proper).collect())
}

/// Sorts the holders into those who may be signalled and those who may not.
pub(crate) fn choose(locks: &[Lock], whom: Whom) -> (Vec<(Process, Holder)>, Vec<Spared>) {
    let (mut chosen, mut spared): (Vec<(Process, Holder)>, Vec<Spared>) = Default::default();
    for holder in locks.iter().flat_map(|lock| &lock.holders) {
        if holder.standing == Standing::Gone {
            continue;
        }
        match (&holder.process, why_not(holder, whom)) {
            (Some(process), None) => {
                let known = chosen.iter_mut().find(|(other, _)| is_same(other, process));
                match known {
                    // It may have inherited one lock and taken another.
                    Some((_, known)) if holder.standing == Standing::Verified => {
                        *known = holder.clone();
                    }
                    Some(_) => {}
                    None => chosen.push((process.clone(), holder.clone())),
                }
            }
            (_, why_not) => {
                let reason = why_not.unwrap_or("the kernel does not show who it is");
                if !spared.iter().any(|other| other.holder.process == holder.process) {
                    spared.push(Spared { holder: holder.clone(), reason });
                }
            }
        }
    }
    spared.retain(|one| !chosen.iter().any(|(process, _)| one.holder.pid() == Some(process.pid)));
    (chosen, spared)
}

fn why_not(holder: &Holder, whom: Whom) -> Option<&'static str> {
    let pid = holder.pid()?;
    if pid == std::process::id() {
        return Some("it is this very process, which has inherited the lock");
    }
    let is_our_ancestor = || ancestors().iter().any(|ancestor| ancestor.pid == pid);
    if !whom.inherited && pid != 1 && is_our_ancestor() {
        return Some(
            "this command runs under it, and it may wait for our end; --inherited signals it all \
             the same",
        );
    }
    if pid == 1 && !whom.init {
        return Some("it is process 1; --init signals it, too");
    }
    match holder.standing {
        Standing::Verified => None,
        Standing::Inherited | Standing::Unclear if whom.inherited => None,
        Standing::Inherited => Some(INHERITED),
        Standing::Unclear => Some(
            "it has the lock, and whether it or another process took it is not known; --inherited \
             signals all who have it",
        ),
        _ if holder.process.as_ref().is_some_and(|process| process.ending) => {
            Some("it is ending already")
        }
        _ => Some("this user may not look whether it holds the lock"),
    }
}

/// Whether both are one process: the same pid, and the same start.
pub(crate) fn is_same(one: &Process, other: &Process) -> bool {
    one.pid == other.pid && one.start == other.start && !one.ended && !other.ended
}

impl Target {
    /// Pins the process. `None` when it has ended since it was seen.
    pub(crate) fn pin(process: Process, holder: Holder) -> Result<Option<Self>, Failure> {
        let pinned = Pinned::new(&process).map_err(|error| {
            let line = format!("cannot pin process {}: {error}", process.pid);
            Failure::new(SYSTEM, line)
        })?;
        let Some(pinned) = pinned else { return Ok(None) };
        let (sent, ended, holds) = (Vec::new(), false, true);
        Ok(Some(Self { process, holder, pinned, sent, ended, holds }))
    }

    /// Sends a signal to exactly this process; says whether it could be.
    pub(crate) fn send(&mut self, signal: Signal) -> Result<(), Errno> {
        if self.pinned.signal(signal)? {
            self.sent.push(signal);
        } else {
            self.ended = true;
        }
        Ok(())
    }

    /// Notes whether it is among the holders of these locks.
    pub(crate) fn compare(&mut self, locks: &[Lock]) {
        // As long as it is pinned and has not ended, its number is no other's.
        let is_it = |process: &Process| {
            is_same(process, &self.process)
                || process.pid == self.process.pid && !process.is_known() && !self.ended
        };
        self.holds = locks.iter().flat_map(|lock| &lock.holders).any(|holder| {
            holder.standing != Standing::Gone && holder.process.as_ref().is_some_and(is_it)
        });
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use lockmgr::inspect::LockTable;

    use super::*;

    fn child() -> (std::process::Child, Process) {
        let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
        let process = Process::look(child.id()).unwrap();
        (child, process)
    }

    /// Who holds a lock that this very process has.
    fn some_holder() -> Holder {
        let file = tempfile::NamedTempFile::new().unwrap();
        let lock = lockmgr::FileLock::open(file.path()).unwrap();
        let _guard = lock.lock().unwrap();
        let table = LockTable::of(file.path()).unwrap();
        table.files[0].locks[0].holders[0].clone()
    }

    #[test]
    fn a_process_that_was_given_the_pid_since_is_not_pinned() {
        let (mut child, process) = child();
        let mut before = process.clone();
        before.start -= 1;
        assert!(Target::pin(before, some_holder()).unwrap().is_none());
        assert!(Target::pin(process, some_holder()).unwrap().is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn who_is_pinned_and_ends_is_signalled_no_more_and_nobody_else_is() {
        let (mut child, process) = child();
        let mut target = Target::pin(process.clone(), some_holder()).unwrap().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // The number is free for another one now; the descriptor is not.
        assert_eq!(target.send(Signal::KILL), Ok(()));
        assert!(target.ended && target.sent.is_empty());
        assert!(Target::pin(process, some_holder()).unwrap().is_none());
    }
}
