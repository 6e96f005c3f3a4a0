//! The type most people need: a lock on a file, and the short verbs to take it.

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acquire::{Acquire, Request, When};
use crate::error::{OPEN, Result};
use crate::guard::FileLockGuard;
use crate::handle::Handle;
use crate::mode::{Mechanism, Mode};
use crate::options::{FileLockOptions, Settings};
use crate::place::Place;

/// A lock that processes, threads and tasks exclude each other with, through a file.
///
/// The file only gives the lock a name; the lock itself is the kernel's, which releases it when its
/// holder ends, however it ends. There is nothing stale to clean up, and the file may stay.
///
/// - *Processes*: whoever locks the same path is excluded, also when the file is deleted or
///   replaced while somebody waits for it.
/// - *Threads and tasks* that share one `FileLock` (or clones of it, which are the same handle)
///   exclude each other as well, first come, first served. Two `FileLock`s opened separately are
///   two parties, also within one thread; waiting for oneself is an error, not a hang.
/// - *Forked children* hold nothing: a lock belongs to the process that took it. A handle can be
///   used in the child; it opens the file anew there.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("app.lock");
/// use std::time::Duration;
/// use lockmgr::{Error, FileLock};
///
/// let lock = FileLock::open(&path)?;
/// match lock.lock_timeout(Duration::from_secs(10)) {
///     Ok(guard) => {
///         // alone here
///         guard.unlock()?;
///     }
///     Err(error @ Error::TimedOut { .. }) => eprintln!("{error}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What the path check assumes
/// After every grant the path must still name the locked file. It is walked for that, and before a wait
/// as well; on filesystems that are known to note every change of a name in the file itself (ext4, btrfs,
/// tmpfs), less than 50 ms after a walk only the file's link count and change time are looked at. So a
/// directory above that is itself renamed, replaced or mounted upon in that short time is noticed there
/// by a later acquisition only. The lock file's own deletion or replacement is always noticed.
///
/// # References
/// `flock(2)`, `fcntl(2)`
#[derive(Clone)]
pub struct FileLock {
    handle: Arc<Handle>,
}

impl FileLock {
    /// Opens the lock file, creating it if it is missing. Nothing is locked yet.
    ///
    /// A relative path is taken from the current directory of this moment.
    ///
    /// # Errors
    /// [`Error::NotLockable`](crate::Error::NotLockable) for FIFOs, sockets, devices and symbolic
    /// links; [`Error::Permission`](crate::Error::Permission) and
    /// [`Error::Io`](crate::Error::Io).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::options().open(path)
    }

    /// Returns a builder for everything that can be chosen.
    pub fn options() -> FileLockOptions {
        FileLockOptions::new()
    }

    /// Locks a file that is open already, with `flock`; see
    /// [`FileLockOptions::from_file`] for the other mechanisms.
    pub fn from_file(file: File) -> Result<Self> {
        Self::options().from_file(file)
    }

    pub(crate) fn at(path: &Path, settings: Settings) -> Result<Self> {
        Ok(Self { handle: Arc::new(Handle::opened(Place::new(path)?, settings)?) })
    }

    pub(crate) fn lazily_at(path: &Path, settings: Settings) -> Result<Self> {
        Ok(Self { handle: Arc::new(Handle::lazy(Place::new(path)?, settings)) })
    }

    pub(crate) fn of_file(file: File, settings: Settings) -> Result<Self> {
        Ok(Self { handle: Arc::new(Handle::of_file(file, settings, OPEN)?) })
    }

    pub(crate) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// The lock file, absolute; `None` when the program opened it itself.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.handle.place.as_ref().map(Place::path)
    }

    /// Which of the kernel's locks is taken.
    #[must_use]
    pub fn mechanism(&self) -> Mechanism {
        self.handle.settings.mechanism
    }

    /// Returns whether this handle was made in another process, of which this one is a forked child.
    ///
    /// It can be used here all the same, as a party of its own; this is for programs whose own state
    /// beside it is the parent's.
    ///
    /// # References
    /// `fork(2)`
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.handle.is_inherited()
    }

    /// Returns an acquisition to which a mode, a deadline and cancel tokens can be given, and which
    /// can be awaited.
    pub fn acquire(&self) -> Acquire<'_> {
        Acquire::new(self)
    }

    /// Acquires the lock exclusively, however long it takes.
    ///
    /// # Errors
    /// [`Error::Deadlock`](crate::Error::Deadlock) if this thread holds it already; whatever
    /// opening the file may meet.
    ///
    /// # Crash safety
    /// The kernel releases the lock when the process ends, however it ends.
    #[doc(alias = "LOCK_EX")]
    #[doc(alias = "F_SETLKW")]
    pub fn lock(&self) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Exclusive, When::Forever)
    }

    /// As [`lock`](Self::lock), together with other shared holders.
    #[doc(alias = "LOCK_SH")]
    pub fn lock_shared(&self) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Shared, When::Forever)
    }

    /// Acquires the lock exclusively if it is free.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) if it is not.
    #[doc(alias = "LOCK_NB")]
    #[doc(alias = "F_SETLK")]
    pub fn try_lock(&self) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Exclusive, When::Now)
    }

    /// As [`try_lock`](Self::try_lock), together with other shared holders.
    pub fn try_lock_shared(&self) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Shared, When::Now)
    }

    /// Acquires the lock exclusively within `timeout`, which covers opening the file, the queue
    /// inside the process, and the kernel's. Zero is one attempt.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut), never early and late only by scheduling.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Exclusive, When::within(timeout))
    }

    /// As [`lock_timeout`](Self::lock_timeout), together with other shared holders.
    pub fn lock_shared_timeout(&self, timeout: Duration) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Shared, When::within(timeout))
    }

    /// Acquires the lock exclusively before `deadline`. One that has passed is one attempt.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut), never early and late only by scheduling.
    pub fn lock_until(&self, deadline: Instant) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Exclusive, When::Until(deadline))
    }

    /// As [`lock_until`](Self::lock_until), together with other shared holders.
    pub fn lock_shared_until(&self, deadline: Instant) -> Result<FileLockGuard<'_>> {
        self.run(Mode::Shared, When::Until(deadline))
    }

    fn run(&self, mode: Mode, when: When) -> Result<FileLockGuard<'_>> {
        Request::new(mode, when).run(self, true).map(FileLockGuard::new)
    }
}

impl fmt::Debug for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
