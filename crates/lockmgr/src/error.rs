//! One error type: what was tried, on which file, why it failed, and what to do about it.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::inspect::{Contention, Deadlock, Holder, LockedFile};
use crate::mode::{Mechanism, Mode};
use crate::printable::Printable;

/// The result of the library's fallible calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong with a lock.
///
/// Each value displays as one line that names the file and says what to do next. Converts into
/// [`io::Error`] with the kind that users of `std` expect; the error itself is kept inside.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Somebody holds the lock, and the call was not to wait. Kind: `WouldBlock`.
    #[non_exhaustive]
    Busy {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// Who is in the way; looked up when asked for.
        contention: Contention,
    },
    /// The deadline passed before the lock was free. Kind: `TimedOut`.
    #[non_exhaustive]
    TimedOut {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// Who is in the way; looked up when asked for.
        contention: Contention,
    },
    /// The wait was cancelled through its token. Kind: `Interrupted` would make `std`'s own loops
    /// try again, so: `Other`.
    #[non_exhaustive]
    Cancelled {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
    },
    /// The wait would never end: the calling thread holds the lock itself, or it is part of a circle of
    /// processes that wait for each other, found by the kernel (`posix`) or by us
    /// ([`OnDeadlock::Fail`](crate::OnDeadlock::Fail)). Kind: `Deadlock`.
    ///
    /// The kernel looks at processes, not at their threads. What it finds is reported if all that the
    /// others wait for is held by the calling thread, by guards that cannot leave it, or if the process
    /// has one thread; otherwise another thread may end it, and the wait goes on, until the deadline if
    /// need be. Which thread of *another* process holds what, nobody can tell: where that is not the one
    /// that waits, the wait might have ended. Try again then, with what you hold released.
    #[non_exhaustive]
    Deadlock {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// Whether the calling thread itself is the holder.
        own_thread: bool,
        /// The circle, where it is known.
        cycle: Option<Box<Deadlock>>,
        /// What to do instead.
        advice: &'static str,
    },
    /// A FIFO, socket, device or symbolic link, or a directory where that cannot work.
    /// Kind: `InvalidInput`.
    #[non_exhaustive]
    NotLockable {
        /// The file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// What it is, and what to do instead.
        reason: &'static str,
    },
    /// The permissions do not allow it. Kind: `PermissionDenied`.
    #[non_exhaustive]
    Permission {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// What was not allowed.
        reason: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path names another file than the one that is, or was to be, locked. Kind: `Other`.
    #[non_exhaustive]
    Replaced {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// Whether it was noticed while the lock was held: then somebody else may have been inside
        /// too. Otherwise no try found path and descriptor in agreement.
        while_held: bool,
    },
    /// The lock file was to be removed, but holds data that lockmgr did not write, or may not be
    /// removed. The lock was released all the same. Kind: `Other`.
    #[non_exhaustive]
    NotOurs {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// Why it was left in place.
        reason: &'static str,
    },
    /// The token in the lock file is more than a day ahead of the clock, so the next one was not given:
    /// somebody forged it, or a clock is wrong. The lock was released. Kind: `InvalidData`.
    #[non_exhaustive]
    TokenAhead {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// The token in it.
        stored: u64,
    },
    /// A change of mode that the kernel does not make in one step lost the lock to somebody else.
    /// The guard holds nothing any more. Kind: `Other`.
    #[non_exhaustive]
    Lost {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
    },
    /// The descriptor holds no lock that could be adopted. Kind: `InvalidInput`.
    #[non_exhaustive]
    NotHeld {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
    },
    /// The guard or descriptor was taken by the process that this one was forked from.
    /// Kind: `Other`.
    #[non_exhaustive]
    Forked {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
    },
    /// The mechanism, the filesystem or the combination of options cannot do it.
    /// Kind: `Unsupported`.
    #[non_exhaustive]
    Unsupported {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// What cannot be done, and what can.
        reason: String,
    },
    /// A bare lock name with other characters than `A-Z a-z 0-9 . _ -`, or too long.
    /// Kind: `InvalidInput`.
    #[non_exhaustive]
    InvalidName {
        /// The name, with control characters escaped.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A byte range that cannot be. Kind: `InvalidInput`.
    #[non_exhaustive]
    InvalidRange {
        /// The range as it was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Any other failure of a system call. Kind: the call's own.
    #[non_exhaustive]
    Io {
        /// The lock file.
        path: Option<Arc<Path>>,
        /// The verb that was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a directory cannot be locked exclusively by a record lock, or be written.
pub(crate) const DIRECTORY: &str = "it is a directory, which cannot be opened for writing as this \
    needs; use a file in it, or a flock lock, which does not need it (but on NFS)";

/// The verb of every failure to open the lock file.
pub(crate) const OPEN: &str = "open";

/// The verb of every failure to create it, when it was not there to be opened.
pub(crate) const CREATE: &str = "create";

/// The verb of the failure to make a relative path absolute.
pub(crate) const FIND_HERE: &str = "find the current directory, from which its path begins";

impl Error {
    /// The lock file, where there is a path to it.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Busy { path, .. }
            | Error::TimedOut { path, .. }
            | Error::Cancelled { path, .. }
            | Error::Deadlock { path, .. }
            | Error::NotLockable { path, .. }
            | Error::Permission { path, .. }
            | Error::Replaced { path, .. }
            | Error::NotOurs { path, .. }
            | Error::TokenAhead { path, .. }
            | Error::Lost { path, .. }
            | Error::NotHeld { path, .. }
            | Error::Forked { path, .. }
            | Error::Unsupported { path, .. }
            | Error::Io { path, .. } => path.as_deref(),
            Error::InvalidName { .. } | Error::InvalidRange { .. } => None,
        }
    }

    /// The verb that was tried: `"lock"`, `"lock shared"`, `"unlock"`, `"open"` and so on.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        match self {
            Error::Busy { operation, .. }
            | Error::TimedOut { operation, .. }
            | Error::Cancelled { operation, .. }
            | Error::Deadlock { operation, .. }
            | Error::NotLockable { operation, .. }
            | Error::Permission { operation, .. }
            | Error::Replaced { operation, .. }
            | Error::NotOurs { operation, .. }
            | Error::TokenAhead { operation, .. }
            | Error::Lost { operation, .. }
            | Error::NotHeld { operation, .. }
            | Error::Forked { operation, .. }
            | Error::Unsupported { operation, .. }
            | Error::Io { operation, .. } => operation,
            Error::InvalidName { .. } | Error::InvalidRange { .. } => OPEN,
        }
    }

    /// The kind that [`io::Error`] has for it.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Error::Busy { .. } => io::ErrorKind::WouldBlock,
            Error::TimedOut { .. } => io::ErrorKind::TimedOut,
            Error::Deadlock { .. } => io::ErrorKind::Deadlock,
            Error::NotLockable { .. }
            | Error::NotHeld { .. }
            | Error::InvalidName { .. }
            | Error::InvalidRange { .. } => io::ErrorKind::InvalidInput,
            Error::Permission { .. } => io::ErrorKind::PermissionDenied,
            Error::TokenAhead { .. } => io::ErrorKind::InvalidData,
            Error::Unsupported { .. } => io::ErrorKind::Unsupported,
            Error::Io { source, .. } => source.kind(),
            Error::Cancelled { .. }
            | Error::Replaced { .. }
            | Error::NotOurs { .. }
            | Error::Lost { .. }
            | Error::Forked { .. } => io::ErrorKind::Other,
        }
    }

    /// The kernel's error number, where a system call failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Permission { source, .. } | Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Returns whether somebody else had the lock: [`Error::Busy`] or [`Error::TimedOut`].
    #[must_use]
    pub fn is_contended(&self) -> bool {
        matches!(self, Error::Busy { .. } | Error::TimedOut { .. })
    }

    /// Returns whether there was no lock file to ask the kernel about: it could not be opened,
    /// created or used as one.
    #[must_use]
    pub fn is_open_failure(&self) -> bool {
        match self {
            Error::NotLockable { .. } => true,
            Error::Permission { operation, .. } | Error::Io { operation, .. } => {
                matches!(*operation, OPEN | CREATE | FIND_HERE)
            }
            _ => false,
        }
    }

    /// Who holds the lock, looked up in the kernel's table when this is called: best effort,
    /// possibly empty, and possibly no longer true.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        match self {
            Error::Busy { contention, .. } | Error::TimedOut { contention, .. } => {
                contention.holders()
            }
            _ => Vec::new(),
        }
    }

    /// The lock file, with those of its locks that were in the way: looked up when this is called, as
    /// [`holders`](Self::holders) are.
    #[must_use]
    pub fn obstacle(&self) -> Option<LockedFile> {
        match self {
            Error::Busy { contention, .. } | Error::TimedOut { contention, .. } => {
                contention.file(self.path()).0
            }
            _ => None,
        }
    }

    /// A deadlock with others, so far without its members.
    pub(crate) fn circle(path: Option<Arc<Path>>, operation: &'static str) -> Self {
        let advice = "release what you hold and try again";
        Error::Deadlock { path, operation, own_thread: false, cycle: None, advice }
    }

    pub(crate) fn unsupported(
        path: Option<Arc<Path>>,
        operation: &'static str,
        reason: impl Into<String>,
    ) -> Self {
        Error::Unsupported { path, operation, reason: reason.into() }
    }

    pub(crate) fn io(path: Option<Arc<Path>>, operation: &'static str, error: Errno) -> Self {
        Error::Io { path, operation, source: error.into() }
    }

    /// What the kernel's refusal of a lock call means.
    pub(crate) fn of_lock_call(
        path: Option<Arc<Path>>,
        operation: &'static str,
        mechanism: Mechanism,
        mode: Mode,
        error: Errno,
    ) -> Self {
        match error {
            Errno::DEADLK => Error::circle(path, operation),
            Errno::BADF => Error::Permission {
                path,
                operation,
                reason: match (mechanism, mode) {
                    (Mechanism::Flock, _) => "this filesystem wants the lock file to be writable",
                    (_, Mode::Exclusive) => {
                        "an exclusive record lock needs a lock file that can be written; \
                         flock does not"
                    }
                    (_, Mode::Shared) => "a shared record lock needs a lock file that can be read",
                },
                source: error.into(),
            },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Error::Permission {
                path,
                operation,
                reason: "the filesystem refuses the lock",
                source: error.into(),
            },
            Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL => Error::unsupported(
                path,
                operation,
                format!("this filesystem has no {mechanism} locks ({})", io::Error::from(error)),
            ),
            error => Error::io(path, operation, error),
        }
    }
}

/// A path as it may be printed.
struct Shown<'a>(Option<&'a Path>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) if path.as_os_str().is_empty() => f.write_str("''"),
            Some(path) => Printable(path.as_os_str().as_bytes()).fmt(f),
            None => f.write_str("lock"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Shown(self.path());
        match self {
            Error::Busy { contention, .. } => {
                write!(f, "{shown} is busy")?;
                contention.describe(self.path(), f)
            }
            Error::TimedOut { contention, .. } => {
                write!(f, "{shown}: timed out while waiting for the lock")?;
                contention.describe(self.path(), f)
            }
            Error::Cancelled { .. } => write!(f, "{shown}: the wait for the lock was cancelled"),
            Error::Deadlock { own_thread: true, advice, .. } => write!(
                f,
                "{shown}: this thread holds the lock already and would wait for itself; {advice}"
            ),
            Error::Deadlock { cycle: Some(cycle), advice, .. } => write!(
                f,
                "{shown}: the wait would never end, for this is a deadlock: {cycle}; {advice}"
            ),
            Error::Deadlock { own_thread: false, advice, .. } => write!(
                f,
                "{shown}: waiting would complete a deadlock with another process; {advice}"
            ),
            Error::NotLockable { reason, .. } => write!(f, "{shown}: {reason}"),
            Error::Permission { operation, reason, source, .. } => {
                write!(f, "{shown}: cannot {operation}: {reason}: {source}")
            }
            Error::Replaced { while_held: true, .. } => write!(
                f,
                "{shown}: the lock file was deleted or replaced while the lock was held; \
                 another process may have held the new one at the same time"
            ),
            Error::Replaced { while_held: false, .. } => write!(
                f,
                "{shown}: the path never names the file that was just opened through it; \
                 this filesystem cannot carry the lock, put the lock file on another one"
            ),
            Error::NotOurs { reason, .. } => {
                write!(f, "{shown}: the lock was released, but the file not removed: {reason}")
            }
            Error::TokenAhead { stored, .. } => write!(
                f,
                "{shown}: no fencing token: the last one, {stored}, is more than a day ahead of the \
                 clock; set the clock right, or delete the lock file if the number was forged"
            ),
            Error::Lost { operation, .. } => write!(
                f,
                "{shown}: the lock was lost to another process during {operation}; \
                 acquire it again and look at the data anew"
            ),
            Error::NotHeld { operation, .. } => {
                write!(f, "{shown}: cannot {operation}: the descriptor holds no lock")
            }
            Error::Forked { operation, .. } => write!(
                f,
                "{shown}: cannot {operation}: the lock belongs to the process this one was \
                 forked from; open it anew here"
            ),
            Error::Unsupported { operation, reason, .. } => {
                write!(f, "{shown}: cannot {operation}: {reason}")
            }
            Error::InvalidName { name, reason } => write!(f, "'{name}' is no lock name: {reason}"),
            Error::InvalidRange { text, reason } => {
                write!(f, "'{text}' is no byte range: {reason}")
            }
            Error::Io { operation, source, .. } => {
                write!(f, "{shown}: cannot {operation}: {source}")?;
                match (Errno::from_io_error(source), *operation) {
                    (Some(Errno::NOENT), OPEN) => f.write_str("; it was not to be created"),
                    (Some(Errno::NOENT), CREATE) => {
                        f.write_str("; its directory does not exist, or takes no new files")
                    }
                    (Some(Errno::NOTDIR), OPEN | CREATE) => {
                        f.write_str("; a part of the path is no directory")
                    }
                    (Some(Errno::ISDIR), CREATE) => {
                        f.write_str("; a name that ends in a slash is that of a directory")
                    }
                    (Some(Errno::NOLCK), _) => f.write_str(
                        "; the kernel is out of locks, or the file server's lock service is down",
                    ),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Permission { source, .. } | Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), error)
    }
}
