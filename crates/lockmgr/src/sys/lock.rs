//! The lock calls themselves: `flock(2)` and the two kinds of `fcntl(2)` record lock.
//!
//! A range that reaches to the end of the file stops at [`Range::LIMIT`] here: what lies beyond
//! belongs to the gates.
//!
//! Every function makes one system call and returns the kernel's error; `EINTR` included, because
//! only the caller knows whether a deadline has passed.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::mode::{Mode, Range};

/// Whether the call may sleep until the lock is free.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Try,
    Sleep,
}

/// Who owns a record lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The open file description (`F_OFD_SETLK`).
    Description,
    /// The process (`F_SETLK`).
    Process,
}

/// `flock(LOCK_SH)` or `flock(LOCK_EX)`.
pub(crate) fn flock(fd: impl AsFd, mode: Mode, patience: Patience) -> Result<(), Errno> {
    let operation = match (mode, patience) {
        (Mode::Shared, Patience::Try) => FlockOperation::NonBlockingLockShared,
        (Mode::Shared, Patience::Sleep) => FlockOperation::LockShared,
        (Mode::Exclusive, Patience::Try) => FlockOperation::NonBlockingLockExclusive,
        (Mode::Exclusive, Patience::Sleep) => FlockOperation::LockExclusive,
    };
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes the call")]
    rustix::fs::flock(fd, operation)
}

/// `flock(LOCK_UN | LOCK_NB)`: without the second flag, which is otherwise of no consequence here, a FUSE
/// server is asked for an unlock that may wait, and one that hangs for those never answers.
pub(crate) fn flock_unlock(fd: impl AsFd) -> Result<(), Errno> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes the call")]
    rustix::fs::flock(fd, FlockOperation::NonBlockingUnlock)
}

/// `fcntl(F_SETLK…)` or `fcntl(F_OFD_SETLK…)`: takes the range.
pub(crate) fn record(
    fd: impl AsFd,
    owner: Owner,
    mode: Mode,
    range: Range,
    patience: Patience,
) -> Result<(), Errno> {
    let kind = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    };
    set(fd, owner, kind, range, patience)
}

/// `fcntl(F_UNLCK)`: lets go of the range.
pub(crate) fn record_unlock(fd: impl AsFd, owner: Owner, range: Range) -> Result<(), Errno> {
    set(fd, owner, libc::F_UNLCK, range, Patience::Try)
}

fn set(
    fd: impl AsFd,
    owner: Owner,
    kind: libc::c_int,
    range: Range,
    patience: Patience,
) -> Result<(), Errno> {
    let command = match (owner, patience) {
        (Owner::Description, Patience::Try) => libc::F_OFD_SETLK,
        (Owner::Description, Patience::Sleep) => libc::F_OFD_SETLKW,
        (Owner::Process, Patience::Try) => libc::F_SETLK,
        (Owner::Process, Patience::Sleep) => libc::F_SETLKW,
    };
    let request = request(kind, range)?;
    // SAFETY: the descriptor is open for the length of the borrow, and `request` is the structure
    // that these commands read; the kernel does not keep the pointer.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw const request) };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// The C structure that the record lock calls read.
fn request(kind: libc::c_int, range: Range) -> Result<libc::flock, Errno> {
    let offset = |value: u64| libc::off_t::try_from(value).map_err(|_| Errno::OVERFLOW);
    // SAFETY: `flock` is a plain C structure for which all-zero bytes are a value; OFD locks
    // demand that `l_pid` is zero.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = i16::try_from(kind).map_err(|_| Errno::INVAL)?;
    request.l_whence = i16::try_from(libc::SEEK_SET).map_err(|_| Errno::INVAL)?;
    request.l_start = offset(range.start())?;
    request.l_len = offset(range.len().unwrap_or(Range::LIMIT.saturating_sub(range.start())))?;
    Ok(request)
}

/// A record lock in the way of another one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Obstacle {
    pub(crate) mode: Mode,
    pub(crate) range: Range,
    /// Owned by an open file description, not by a process.
    pub(crate) by_description: bool,
}

/// `fcntl(F_OFD_GETLK)`: the first record lock that is in the way, if any. Any descriptor will do,
/// however it was opened.
pub(crate) fn record_obstacle(
    fd: impl AsFd,
    mode: Mode,
    range: Range,
) -> Result<Option<Obstacle>, Errno> {
    let kind = match mode {
        Mode::Shared => libc::F_RDLCK,
        Mode::Exclusive => libc::F_WRLCK,
    };
    let mut answer = request(kind, range)?;
    // SAFETY: the descriptor is open for the length of the borrow, and the command reads and writes
    // the structure that it is given, no longer than the call lasts.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut answer) };
    if result == -1 {
        return Err(last_errno());
    }
    let mode = match libc::c_int::from(answer.l_type) {
        libc::F_RDLCK => Mode::Shared,
        libc::F_WRLCK => Mode::Exclusive,
        _ => return Ok(None),
    };
    let number = |value: libc::off_t| u64::try_from(value).unwrap_or(0);
    let start = number(answer.l_start);
    let last = match number(answer.l_len) {
        0 => None,
        len => Some(start.saturating_add(len - 1)),
    };
    let range = Range::as_told(start, last).unwrap_or_default();
    Ok(Some(Obstacle { mode, range, by_description: answer.l_pid == -1 }))
}

/// The error of the C call that was just made.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
