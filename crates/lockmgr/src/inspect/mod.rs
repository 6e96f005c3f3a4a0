//! The kernel's truth about a lock: who is in the way.
//!
//! So far only what one read of `/proc/locks` tells about one file: the pids that the kernel
//! recorded for it, with their command lines. Holders of `ofd` locks have no pid there, and are
//! reported as holders that are not visible; those outside our pid namespace are not there at all.
//!
//! What a holder wants to say about itself it writes into the lock file: [`Record`].
//!
//! References: `proc_locks(5)`, `proc_pid_cmdline(5)`.

mod held_here;
mod table;

use std::fmt;
use std::fs::File;
use std::io::Read;

pub(crate) use held_here::{held_in, held_through};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::mode::Mechanism;
use crate::printable::Printable;
pub use crate::record::Record;
use crate::sys::file::Identity;

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The process, as the kernel recorded it when the lock was taken.
    pub pid: u32,
    /// Its command line, words separated by blanks, shortened, control characters escaped; empty
    /// when it cannot be read.
    pub command: String,
}

/// Who was in the way of an acquisition. Nothing is looked up until somebody asks.
#[derive(Clone, Debug)]
pub struct Contention {
    obstacle: Option<(Identity, Obstacle)>,
}

/// What kept the lock from being acquired.
#[derive(Clone, Copy, Debug)]
enum Obstacle {
    /// A lock that conflicts with one of this mechanism.
    Lock(Mechanism),
    /// A lease, because of which the file cannot even be opened.
    Lease,
}

impl Contention {
    pub(crate) fn new(identity: Identity, mechanism: Mechanism) -> Self {
        Self { obstacle: Some((identity, Obstacle::Lock(mechanism))) }
    }

    pub(crate) fn of_lease(identity: Identity) -> Self {
        Self { obstacle: Some((identity, Obstacle::Lease)) }
    }

    /// Where the inode is not known, or the holder is another user of the same handle.
    pub(crate) fn unknown() -> Self {
        Self { obstacle: None }
    }

    /// Who holds the lock now. Best effort: empty when the kernel does not say.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        named(&self.lines())
    }

    /// What the kernel's table says is in the way.
    fn lines(&self) -> Vec<table::Line> {
        const TRIES: usize = 3;
        let Some((identity, obstacle)) = self.obstacle else {
            return Vec::new();
        };
        for _ in 0..TRIES {
            let Ok(snapshot) = table::read() else { break };
            let lines: Vec<table::Line> = table::parse(&snapshot.text)
                .filter(|line| match obstacle {
                    Obstacle::Lock(mechanism) => {
                        !line.waiting && line.concerns(identity, mechanism)
                    }
                    Obstacle::Lease => line.is_lease_on(identity),
                })
                .collect();
            if snapshot.consistent || !lines.is_empty() {
                return lines;
            }
        }
        Vec::new()
    }

    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let lease = matches!(self.obstacle, Some((_, Obstacle::Lease)));
        let lines = self.lines();
        let holders = named(&lines);
        if holders.is_empty() {
            // A holder that the kernel does not name has a line without a pid.
            return f.write_str(if lines.is_empty() { "" } else { ", holder not visible" });
        }
        f.write_str(if lease { ", kept from being opened by a lease of " } else { ", held by " })?;
        for (index, holder) in holders.iter().take(SHOWN).enumerate() {
            f.write_str(if index == 0 { "" } else { " and " })?;
            write!(f, "pid {}", holder.pid)?;
            if !holder.command.is_empty() {
                write!(f, " ({})", holder.command)?;
            } else if has_ended(holder.pid) {
                f.write_str(" (ended; the lock lives on in a process that has its descriptor)")?;
            }
        }
        match holders.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Who holds locks on a file exclusively, of whatever mechanism.
pub(crate) struct Exclusive {
    pub(crate) pids: Vec<u32>,
    /// There is one without a pid.
    pub(crate) unnamed: bool,
}

/// Best effort, as [`Contention::holders`] is.
pub(crate) fn exclusive_holders(identity: Identity) -> Exclusive {
    const TRIES: usize = 3;
    let mut found = Exclusive { pids: Vec::new(), unnamed: false };
    for _ in 0..TRIES {
        let Ok(snapshot) = table::read() else { break };
        for line in table::parse(&snapshot.text) {
            if line.exclusive && !line.waiting && line.is_lock_on(identity) {
                found.pids.extend(line.pid);
                found.unnamed |= line.pid.is_none();
            }
        }
        if snapshot.consistent || found.unnamed || !found.pids.is_empty() {
            break;
        }
    }
    found
}

/// The processes that the lines name.
fn named(lines: &[table::Line]) -> Vec<Holder> {
    let mut pids: Vec<u32> = lines.iter().filter_map(|line| line.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().map(|pid| Holder { pid, command: command_of(pid) }).collect()
}

fn has_ended(pid: u32) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// The process's command line, or its short name in brackets for those that have none.
fn command_of(pid: u32) -> String {
    const SHOWN: usize = 60;
    // A process can make its command line as long as it likes.
    const READ: u64 = 1024;
    let read = |name| {
        let mut bytes = Vec::new();
        File::open(format!("/proc/{pid}/{name}"))
            .and_then(|file| file.take(READ).read_to_end(&mut bytes))
            .map(|_| bytes)
            .unwrap_or_default()
    };
    let mut words = read("cmdline");
    if words.last() == Some(&0) {
        words.pop();
    }
    for byte in &mut words {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    if words.is_empty() {
        words = read("comm");
        words.pop();
        if !words.is_empty() {
            words.insert(0, b'[');
            words.push(b']');
        }
    }
    let mut shown = Printable(&words).to_string();
    if let Some((end, _)) = shown.char_indices().nth(SHOWN) {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_without_a_command_line_has_a_short_name() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Ended, and not yet waited for.
        while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        assert_eq!(command_of(pid), "[true]");
        assert!(!has_ended(pid));
        child.wait().unwrap();
        assert_eq!(command_of(pid), "");
        assert!(has_ended(pid));
    }
}
