//! Locks as the kernel sees them, and a competitor for them: nothing here is of lockmgr.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::FlockOperation;

/// Whether another process could not have the lock alone now. Asked of the kernel, not of lockmgr.
#[expect(clippy::disallowed_methods, reason = "a judge that is independent of the library")]
pub(crate) fn is_locked(path: &Path) -> bool {
    let file = File::open(path).expect("the lock file is there");
    // Released at once, for the reason given at `Held`.
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        || rustix::fs::flock(&file, FlockOperation::Unlock).is_err()
}

/// Whether somebody waits for a lock on the file: a line with `->` in the kernel's table.
pub(crate) fn is_waited_for(path: &Path) -> bool {
    waiters(path) > 0
}

/// How many wait for a lock on the file.
pub(crate) fn waiters(path: &Path) -> usize {
    let Ok(metadata) = fs::metadata(path) else { return 0 };
    let inode = format!(":{} ", metadata.ino());
    let table = fs::read_to_string("/proc/locks").expect("the kernel's lock table");
    table.lines().filter(|line| line.contains("->") && line.contains(&inode)).count()
}

/// Takes a lease on a file that is open for writing, which lasts as long as the file is open: opening it by
/// others has to wait. Returns whether the filesystem has such leases.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
pub(crate) fn take_write_lease(file: &File) -> bool {
    /// From `fcntl.h`; the crate libc has it not.
    const F_SETSIG: libc::c_int = 10;
    // Whoever opens the file has a signal sent to us: not SIGIO, which would end us.
    // SAFETY: the descriptor is open, and the command takes a number.
    unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) };
    // SAFETY: the descriptor is open, and the command takes a number.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0 }
}

/// A lock held by the test itself until this is dropped.
#[must_use]
pub(crate) struct Held(File);

impl Held {
    /// Lets others in that share it.
    #[expect(
        clippy::disallowed_methods,
        reason = "a competitor that is independent of the library"
    )]
    pub(crate) fn share(&self) {
        rustix::fs::flock(&self.0, FlockOperation::LockShared).expect("it is held");
    }
}

impl Drop for Held {
    #[expect(
        clippy::disallowed_methods,
        reason = "a competitor that is independent of the library"
    )]
    fn drop(&mut self) {
        // Closing would not do: a child that another test is just starting has the descriptor, too.
        rustix::fs::flock(&self.0, FlockOperation::Unlock).expect("it is held");
    }
}

#[expect(clippy::disallowed_methods, reason = "a competitor that is independent of the library")]
pub(crate) fn hold(path: &Path) -> Held {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .open(path)
        .expect("the lock file can be created");
    rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("the lock is granted");
    Held(file)
}
