//! Descriptors that somebody else opened.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::FlockOperation;
use rustix::io::fcntl_dupfd_cloexec;

/// Returns a second descriptor for the open file description behind number `fd`, or `EBADF`.
///
/// The number itself stays as it is: it belongs to whoever started us.
pub(crate) fn duplicate(fd: i32) -> io::Result<File> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: the kernel checks the number in the one call that it is used for, and nothing in this
    // process closes or reuses descriptors that it did not open.
    let theirs = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(fcntl_dupfd_cloexec(theirs, 3)?.into())
}

/// Releases every lock that the open file description holds, of both mechanisms that it can hold.
///
/// # References
/// `flock(2)`, `fcntl(2)` (open file description locks)
#[expect(clippy::disallowed_methods, reason = "a release that was asked for by name, by its owner")]
pub(crate) fn release_all(file: &File) -> io::Result<()> {
    // With this flag, which changes nothing else, not even a FUSE server that hangs is waited for.
    rustix::fs::flock(file, FlockOperation::NonBlockingUnlock)?;
    // SAFETY: an all-zero flock is a value of this C structure: whence 0, start 0, length "to the end".
    let mut everything: libc::flock = unsafe { mem::zeroed() };
    everything.l_type = libc::c_short::try_from(libc::F_UNLCK).expect("a small constant");
    // SAFETY: the descriptor is open, and the structure lives for the call.
    let failed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const everything) };
    if failed == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
