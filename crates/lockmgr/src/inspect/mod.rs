//! The kernel's truth about a lock: who is in the way.
//!
//! So far only what one read of `/proc/locks` tells about one file: the pids that the kernel
//! recorded for it, with their command lines. Holders of `ofd` locks have no pid there, and a pid
//! namespace hides holders outside it; both are reported as holders that are not visible.
//!
//! References: `proc_locks(5)`, `proc_pid_cmdline(5)`.

mod held_here;
mod table;

use std::fmt;
use std::fs;

pub(crate) use held_here::held_through;

use crate::mode::Mechanism;
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
    lock: Option<(Identity, Mechanism)>,
}

impl Contention {
    pub(crate) fn new(identity: Identity, mechanism: Mechanism) -> Self {
        Self { lock: Some((identity, mechanism)) }
    }

    /// Where the inode is not known, or the holder is another user of the same handle.
    pub(crate) fn unknown() -> Self {
        Self { lock: None }
    }

    /// Who holds the lock now. Best effort: empty when the kernel does not say.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        let Some((identity, mechanism)) = self.lock else {
            return Vec::new();
        };
        let Ok(text) = fs::read("/proc/locks") else {
            return Vec::new();
        };
        let mut pids: Vec<u32> = table::parse(&text)
            .filter(|lock| !lock.waiting && lock.concerns(identity, mechanism))
            .filter_map(|lock| lock.pid)
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids.into_iter().map(|pid| Holder { pid, command: command_of(pid) }).collect()
    }

    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let holders = self.holders();
        for (index, holder) in holders.iter().take(SHOWN).enumerate() {
            f.write_str(if index == 0 { ", held by " } else { " and " })?;
            write!(f, "pid {}", holder.pid)?;
            if !holder.command.is_empty() {
                write!(f, " ({})", holder.command)?;
            }
        }
        match holders.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The process's command line, or its short name in brackets for those that have none.
fn command_of(pid: u32) -> String {
    const SHOWN: usize = 60;
    let Ok(raw) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return String::new();
    };
    let words = raw.strip_suffix(b"\0").unwrap_or(&raw);
    let text = String::from_utf8_lossy(words);
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == SHOWN {
            shown.push('…');
            break;
        }
        match character {
            '\0' => shown.push(' '),
            control if control.is_control() => shown.extend(control.escape_default()),
            other => shown.push(other),
        }
    }
    shown
}
