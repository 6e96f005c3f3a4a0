//! The exit statuses, in one place.
//!
//! | status | when |
//! |---|---|
//! | the command's own | the command ran and ended |
//! | 128 + N | the command was ended by signal N |
//! | 0 | `lock`, `unlock`, `path`, `ls`, `wait`, `top`, `completions`, `--help`, `--version` did what they say |
//! | 0 | `run --every`: the last success is not that long ago, and the command was not run |
//! | 1 | `unlock --fd N`: there was no lock to release |
//! | 1 | `who`, `kill`: nobody holds the lock; `deadlocks`: there is one |
//! | 1 | `demo`: somebody was inside while another entered; `lab`: an answer is not as expected; `doctor`: locks work, with limits |
//! | 2 | `doctor`: locks are not to be relied on |
//! | 64 | the command line is wrong: an option, a lock name, a descriptor that is not open; `top` without a terminal |
//! | 70 | a defect in lockmgr itself |
//! | 73 | the lock file cannot be opened or created, or is no file that can carry a lock; a file of `--result`, `log` or `--svg` |
//! | 74 | any other failure of the system, such as no process to be had for the command |
//! | 0 | the command was not run, because the lock was busy (`--if-busy=skip`) |
//! | 75, or what `-E` says | the lock was busy, did not get free in time, or never would (`--deadlock=fail`, held by an ancestor), or too many waited (`--max-waiting`) |
//! | 77 | `kill`: refused, because a holder was not verified, not confirmed, or may not be signalled |
//! | 124 | the command was told to end, because its time was over (`--max-hold`) |
//! | 126 | the command was found, and cannot be executed |
//! | 127 | the command was not found |
//!
//! 64 to 77 are those of `sysexits.h`. The command may use the same numbers for itself; where that
//! matters, `-E` chooses another one for "busy".

/// An exit status.
pub(crate) type Status = u8;

pub(crate) const OK: Status = 0;
pub(crate) const NOT_LOCKED: Status = 1;
pub(crate) const DEADLOCK: Status = 1;
pub(crate) const OVERLAP: Status = 1;
pub(crate) const LIMITS: Status = 1;
pub(crate) const UNUSABLE: Status = 2;
pub(crate) const UNEXPECTED: Status = 1;
pub(crate) const USAGE: Status = 64;
pub(crate) const DEFECT: Status = 70;
pub(crate) const CANNOT_OPEN: Status = 73;
pub(crate) const SYSTEM: Status = 74;
pub(crate) const BUSY: Status = 75;
pub(crate) const REFUSED: Status = 77;
pub(crate) const MAX_HOLD: Status = 124;
pub(crate) const CANNOT_EXECUTE: Status = 126;
pub(crate) const NOT_FOUND: Status = 127;

/// The library's verbs for asking the kernel for a lock.
const LOCKING: [&str; 7] = [
    "lock",
    "lock shared",
    "try to lock",
    "try to lock shared",
    "take the gate",
    "acquire",
    "try to acquire",
];

/// The status of a command that a signal ended, as shells count.
pub(crate) fn of_signal(number: i32) -> Status {
    // Linux has signals 1 to 64.
    u8::try_from(128 + number).unwrap_or(u8::MAX)
}

/// Why lockmgr did not do what it was asked for: a status, and one line for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: Status,
    pub(crate) line: String,
}

impl Failure {
    pub(crate) fn new(status: Status, line: impl Into<String>) -> Self {
        Failure { status, line: line.into() }
    }

    pub(crate) fn usage(line: impl Into<String>) -> Self {
        Failure::new(USAGE, line)
    }

    /// A failure to look at the lock of a path.
    pub(crate) fn of_look(error: &lockmgr::Error) -> Self {
        use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        let status = match error {
            lockmgr::Error::Permission { .. } => CANNOT_OPEN,
            lockmgr::Error::Io { source, .. }
                if matches!(source.kind(), NotFound | NotADirectory | PermissionDenied)
                    || matches!(source.raw_os_error(), Some(libc::ELOOP | libc::ENAMETOOLONG)) =>
            {
                CANNOT_OPEN
            }
            error => return Failure::of_lock(error, BUSY),
        };
        Failure::new(status, error.to_string())
    }

    /// The kernel's table cannot be read.
    pub(crate) fn of_table(error: &std::io::Error) -> Self {
        Failure::new(SYSTEM, format!("cannot read the kernel's lock table: {error}"))
    }

    /// A failure of the library; `busy` is the status for a lock that others have.
    pub(crate) fn of_lock(error: &lockmgr::Error, busy: Status) -> Self {
        use lockmgr::Error;
        let status = match error {
            error if error.is_contended() => busy,
            error if error.is_open_failure() => CANNOT_OPEN,
            Error::NotHeld { .. } => NOT_LOCKED,
            // It is the filesystem that has no such locks.
            Error::Unsupported { .. } if LOCKING.contains(&error.operation()) => SYSTEM,
            // Options that do not go together, or not with this file.
            Error::InvalidName { .. } | Error::InvalidRange { .. } | Error::Unsupported { .. } => {
                USAGE
            }
            _ => SYSTEM,
        };
        Failure::new(status, error.to_string())
    }
}
