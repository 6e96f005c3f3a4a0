//! `LockMgr`: the small classic interface, over [`FileLock`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::file_lock::FileLock;
use crate::guard::OwnedFileLockGuard;

/// Acquire and release a lock file, with a `bool` and a short text for an answer.
///
/// The file is created with permissions 0644 when it is acquired and removed when it is released:
/// under the lock, so that no two processes get in, and only if it holds nothing that lockmgr did
/// not write. Dropping the value releases.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("job.lock");
/// use std::time::Duration;
/// use lockmgr::LockMgr;
///
/// let mut lock = LockMgr::new(&path);
/// if lock.acquire_lock(true, Duration::from_secs(30)) {
///     assert!(path.exists());
///     lock.release_lock();
/// } else {
///     eprintln!("{}", lock.msg());
/// }
/// assert!(!path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LockMgr {
    lockfile: PathBuf,
    lock: Option<FileLock>,
    guard: Option<OwnedFileLockGuard>,
    msg: String,
}

impl LockMgr {
    /// Returns a manager for this lock file. Nothing is opened yet.
    #[must_use]
    pub fn new(lockfile: impl Into<PathBuf>) -> Self {
        Self { lockfile: lockfile.into(), lock: None, guard: None, msg: String::new() }
    }

    /// Acquires the lock; returns whether it is held.
    ///
    /// With `wait` for at most `timeout`, counted from this call to its end; without, in one
    /// attempt. A lock that this object holds already stays held, with the answer true.
    #[must_use = "when the answer is false, the lock is not held"]
    pub fn acquire_lock(&mut self, wait: bool, timeout: Duration) -> bool {
        if self.acquired() {
            "Already locked".clone_into(&mut self.msg);
            return true;
        }
        match self.acquire(wait, timeout) {
            Ok(guard) => {
                self.guard = Some(guard);
                "Success".clone_into(&mut self.msg);
                true
            }
            Err(error) => {
                self.msg = format!("Failed: {error}");
                false
            }
        }
    }

    fn acquire(&mut self, wait: bool, timeout: Duration) -> Result<OwnedFileLockGuard> {
        // A guard of the parent process, in a forked child, is of no use here.
        self.guard = None;
        let lock = match &self.lock {
            Some(lock) => lock,
            None => self.lock.insert(
                FileLock::options()
                    .creation_mode(0o644)
                    .remove_on_release(true)
                    .open_lazy(&self.lockfile)?,
            ),
        };
        let acquire = lock.acquire();
        if wait { acquire.timeout(timeout).wait_owned() } else { acquire.try_now_owned() }
    }

    /// Releases the lock and removes the file; returns whether a lock was held.
    ///
    /// A file with foreign content stays in place, and one that was replaced during the hold is
    /// not touched; [`msg`](Self::msg) says so.
    pub fn release_lock(&mut self) -> bool {
        let Some(guard) = self.guard.take().filter(OwnedFileLockGuard::is_held) else {
            "No lock to release".clone_into(&mut self.msg);
            return false;
        };
        self.msg = match guard.unlock() {
            Ok(()) => "success: lock released".to_owned(),
            Err(error @ Error::NotOurs { .. }) => format!("success: {error}"),
            Err(error) => format!("success: lock released, but {error}"),
        };
        true
    }

    /// Returns whether this object, in this process, holds the lock.
    #[must_use]
    pub fn acquired(&self) -> bool {
        self.guard.as_ref().is_some_and(OwnedFileLockGuard::is_held)
    }

    /// The lock file, as it was given.
    #[must_use]
    pub fn lockfile(&self) -> &Path {
        &self.lockfile
    }

    /// What came of the last call; empty before the first.
    #[must_use]
    pub fn msg(&self) -> &str {
        &self.msg
    }
}
