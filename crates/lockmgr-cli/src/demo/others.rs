//! The workers of other demos in the same section.
//!
//! Whoever is inside has a shared `ofd` lock on one byte of a file beside the lock file, at the number
//! of its demo. So whoever enters can ask the kernel whether anybody of another demo is inside; such a lock
//! hinders nobody and ends with its process. The lock that the demo is about plays no part in that. The demo
//! that is the last one to end removes the file.

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use lockmgr::{FileLock, FileLockGuard, Mechanism, Range};

use crate::sys::actor::{Owner, obstacle};
use crate::sys::lock::Want;

pub(super) struct Others {
    lock: FileLock,
    demo: u32,
}

impl Others {
    /// `None` where it cannot be found out.
    pub(super) fn of(lock: &Path, demo: u32) -> Option<Self> {
        let range = Range::new(u64::from(demo), 1).ok()?;
        let options = FileLock::options().mechanism(Mechanism::Ofd).range(range);
        let lock = options.open(beside(lock)).ok()?;
        Some(Self { lock, demo })
    }

    /// Notes that this worker is inside, until the guard is dropped; says whether one of another demo is.
    pub(super) fn enter(&self) -> (Option<FileLockGuard<'_>>, Option<bool>) {
        let Ok(guard) = self.lock.try_lock_shared() else { return (None, None) };
        let fd = guard.file().as_raw_fd();
        let (below, above) = (i64::from(self.demo), i64::from(self.demo) + 1);
        let seen = |start, length| obstacle(fd, Owner::Description, Want::Exclusive, start, length);
        // No bytes would mean all of them.
        let before = if below == 0 { Ok(None) } else { seen(0, below) };
        let found = before.and_then(|before| Ok(before.is_some() || seen(above, 0)?.is_some()));
        (Some(guard), found.ok())
    }
}

/// Removes the file when nobody is inside any more: under a lock on all of it, and whoever has it open
/// looks whether its name still leads to it when he locks it.
pub(super) fn tidy_up(lock: &Path) {
    let options = FileLock::options().mechanism(Mechanism::Ofd).create(false);
    let alone = options.remove_on_release(true).open(beside(lock));
    // Where it is in use, somebody else will; and a file that is left behind does no harm.
    let _removed = alone.and_then(|file| file.try_lock()?.unlock());
}

/// The file beside the lock file in which those who are inside are noted.
pub(super) fn beside(lock: &Path) -> PathBuf {
    // `.` and the like have no name.
    let mut file = lock.file_stem().unwrap_or(OsStr::new("demo")).to_owned();
    file.push("-inside");
    if let Some(extension) = lock.extension() {
        file.push(".");
        file.push(extension);
    }
    lock.with_file_name(file)
}
