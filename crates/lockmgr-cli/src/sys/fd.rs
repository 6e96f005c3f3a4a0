//! Descriptors that somebody else opened, or did not.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec, fcntl_getfd};

/// Those of the three standard streams that lockmgr was started without: bit N for number N.
static MISSING: AtomicU32 = AtomicU32::new(0);

/// Puts something harmless in the place of each standard stream that is closed: what lockmgr opens next,
/// a lock file for one, would get its number, and be written into or read from as the stream.
///
/// Rust's runtime does that, but is not started here (see `main`). The commands that lockmgr runs find
/// these streams as closed as it did.
pub(crate) fn occupy_closed_streams() {
    let null = || open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    // Where there is no such device: this can be neither written nor read.
    let root = |_: Errno| open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    for fd in 0..3 {
        // SAFETY: the kernel checks the number in the one call that it is used for.
        let stream = unsafe { BorrowedFd::borrow_raw(fd) };
        if fcntl_getfd(stream) == Err(Errno::BADF) {
            MISSING.fetch_or(1 << fd, Ordering::Relaxed);
            // It gets this number, the lowest one that is free, and keeps it.
            let _occupied = null().or_else(root).map(IntoRawFd::into_raw_fd);
        }
    }
}

/// Returns a second descriptor for the open file description behind number `fd`, or `EBADF`.
///
/// The number itself stays as it is: it belongs to whoever started us.
pub(crate) fn duplicate(fd: i32) -> io::Result<File> {
    let is_missing = |fd: i32| fd < 3 && MISSING.load(Ordering::Relaxed) & (1_u32 << fd) != 0;
    if fd < 0 || is_missing(fd) {
        return Err(Errno::BADF.into());
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
