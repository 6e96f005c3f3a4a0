//! The lock calls themselves: `flock(2)` and the two kinds of `fcntl(2)` record lock.
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

/// `flock(LOCK_UN)`.
pub(crate) fn flock_unlock(fd: impl AsFd) -> Result<(), Errno> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that makes the call")]
    rustix::fs::flock(fd, FlockOperation::Unlock)
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

/// `fcntl(F_OFD_GETLK)`: returns a range that keeps an exclusive lock on this one from being had, if
/// there is any. Which one of several, the kernel decides.
pub(crate) fn record_obstacle(fd: impl AsFd, range: Range) -> Result<Option<Range>, Errno> {
    let mut found = request(libc::F_WRLCK, range)?;
    // SAFETY: the descriptor is open for the length of the borrow, and `found` is the structure that
    // this command reads and fills; the kernel does not keep the pointer.
    let result = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut found) };
    if result == -1 {
        return Err(last_errno());
    }
    if libc::c_int::from(found.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let number = |value: libc::off_t| u64::try_from(value).map_err(|_| Errno::OVERFLOW);
    let (start, len) = (number(found.l_start)?, number(found.l_len)?);
    Ok(Some(Range::between(start, if len == 0 { u64::MAX } else { start + len })))
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

fn request(kind: libc::c_int, range: Range) -> Result<libc::flock, Errno> {
    let offset = |value: u64| libc::off_t::try_from(value).map_err(|_| Errno::OVERFLOW);
    // SAFETY: `flock` is a plain C structure for which all-zero bytes are a value; OFD locks
    // demand that `l_pid` is zero.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = i16::try_from(kind).map_err(|_| Errno::INVAL)?;
    request.l_whence = i16::try_from(libc::SEEK_SET).map_err(|_| Errno::INVAL)?;
    request.l_start = offset(range.start())?;
    request.l_len = offset(range.len().unwrap_or(0))?;
    Ok(request)
}

/// The error of the C call that was just made.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
