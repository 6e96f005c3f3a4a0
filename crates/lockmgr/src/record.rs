//! The record: what a holder writes into its lock file about itself, for people to read.
//!
//! Format 1 is one JSON object on one line, UTF-8, at the start of the file, at most [`LONGEST`] bytes
//! with its newline, and with `"lockmgr":1` as its first member. Four things stay true of it:
//!
//! 1. *Only what is ours is written over*: a file that is empty, or that holds nothing but a record
//!    ([`is_ours`]). Other people's data stays as it is, byte for byte ([`mod@keep`]).
//! 2. *It is written by whoever holds the lock exclusively*, and by nobody else.
//! 3. *It is believed only as far as the kernel agrees*: the process that it names must hold the lock
//!    now ([`mod@believe`]). So what a crash leaves behind says nothing about the next holder.
//! 4. *What is not about one holder outlives it*: [`Lasting`] goes from record to record, and the token
//!    among it survives a write that stops anywhere ([`mod@token`]).
//!
//! The parser takes bytes that anybody may have written; it is total, and what does not fit the
//! format is no record.

pub(crate) mod believe;
mod here;
mod keep;
mod line;
mod success;
mod token;

use std::ffi::OsString;
use std::time::SystemTime;

pub(crate) use keep::{Keeping, NotKept, keep};
pub use success::last_success;
pub(crate) use success::mark_success;

/// How every record of ours begins.
const PREFIX: &[u8] = b"{\"lockmgr\":1";

/// No record is longer.
const LONGEST: usize = 4096;

/// Enough of a file's start for [`is_ours`].
pub(crate) const START_LEN: usize = LONGEST + 1;

/// What a holder wrote into its lock file about itself, confirmed by the kernel.
///
/// Written by exclusive holders, if the lock file is theirs to write: by `lockmgr run`, and by
/// programs that ask for it ([`FileLockOptions::record`](crate::FileLockOptions::record)).
///
/// Pid, start time, boot and pid namespace are the kernel's word by the time you see them. The rest is
/// the holder's own, or that of anybody else who may write the lock file: escape it before you show it
/// on a terminal. It can be shortened, because a record has no more than 4096 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The process, as it is called in its own pid namespace.
    pub pid: u32,
    /// When that process was started, in clock ticks since boot.
    pub start: u64,
    /// The boot of the system, by its id.
    pub boot: String,
    /// The name of the machine or container.
    pub host: String,
    /// The name of the effective user, or its number if `/etc/passwd` has no name for it.
    pub user: String,
    /// The inode number of the pid namespace.
    pub pidns: u64,
    /// When the lock was acquired, by the holder's clock.
    pub since: SystemTime,
    /// The command line that the lock is held for. What is not UTF-8 was replaced.
    pub command: Vec<String>,
    /// The holder's free text.
    pub note: Option<String>,
    /// The fencing token of the last hold that had one
    /// ([`FileLockOptions::fenced`](crate::FileLockOptions::fenced)).
    pub token: Option<u64>,
    /// When the last run that succeeded ended, as far as somebody noted it
    /// ([`mark_success`](crate::FileLockGuard::mark_success)).
    pub last_success: Option<SystemTime>,
}

/// What is not about one holder, and goes on to the next one's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lasting {
    pub(crate) token: Option<u64>,
    pub(crate) last_success: Option<SystemTime>,
}

/// What a holder wants to have said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The program's own command line if there is none.
    pub(crate) command: Option<Vec<OsString>>,
    pub(crate) note: Option<String>,
}

impl Wanted {
    /// This, and what it leaves open as the other one has it.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let command = self.command.as_ref().or(other.command.as_ref()).cloned();
        let note = self.note.as_ref().or(other.note.as_ref()).cloned();
        Self { command, note }
    }
}

/// Returns whether a file that begins with these bytes holds nothing but a record of ours: one
/// line, which a crash may have left unfinished.
pub(crate) fn is_ours(start: &[u8]) -> bool {
    let line = start.strip_suffix(b"\n").unwrap_or(start);
    start.is_empty()
        || start.len() <= LONGEST
            && !line.contains(&b'\n')
            && line
                .strip_prefix(PREFIX)
                .is_some_and(|rest| matches!(rest.first(), Some(b',' | b'}')))
}

/// Returns what the next record is to repeat from the one in these bytes, whoever wrote it.
pub(crate) fn preserved(start: &[u8]) -> Lasting {
    line::lasting(start)
}

#[cfg(test)]
mod tests {
    use super::{START_LEN, is_ours};

    #[test]
    fn only_empty_files_and_records_are_ours() {
        for ours in
            [&b""[..], b"{\"lockmgr\":1,", b"{\"lockmgr\":1}", b"{\"lockmgr\":1,\"pid\":7}\n"]
        {
            assert!(is_ours(ours));
        }
        let long = [b"{\"lockmgr\":1,", &[b' '; START_LEN][..]].concat();
        for foreign in [
            &b"\n"[..],
            b"42",
            b"{\"lockmgr\":1",
            b"{\"lockmgr\":12",
            b"{\"lockmgr\":2,",
            b"{\"lockmgr\":1}\n\n",
            b"{\"lockmgr\":1}\nnotes",
            &long[..START_LEN],
        ] {
            assert!(!is_ours(foreign), "{foreign:?}");
        }
    }
}
