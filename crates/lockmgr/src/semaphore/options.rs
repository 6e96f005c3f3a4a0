//! How the lock file of a semaphore is opened, and how it is shared out.

use std::ffi::OsStr;
use std::path::Path;

use crate::error::{Error, OPEN, Result};
use crate::mode::Mechanism;
use crate::name::{self, Scope};
use crate::options::Settings;
use crate::place::Place;
use crate::semaphore::Semaphore;
use crate::semaphore::handle::Handle;

/// Builds a [`Semaphore`].
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("sub/a.lock");
/// use lockmgr::Semaphore;
///
/// let semaphore =
///     Semaphore::options().creation_mode(0o600).create_parents(true).open(&path, 3)?;
/// let guard = semaphore.try_acquire()?;
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a semaphore is opened with them"]
pub struct SemaphoreOptions {
    settings: Settings,
    fair: bool,
}

impl Default for SemaphoreOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl SemaphoreOptions {
    /// Returns the defaults: fair, with a lock file that is created if missing.
    pub fn new() -> Self {
        let settings = Settings { mechanism: Mechanism::Ofd, ..Settings::default() };
        Self { settings, fair: true }
    }

    /// Whether a newcomer queues before it looks for free slots (on). Off, it looks first, and queues
    /// only when it finds too few: cheaper by two system calls, but those who wait for many slots may
    /// starve.
    pub fn fair(mut self, on: bool) -> Self {
        self.fair = on;
        self
    }

    /// The permissions of a lock file that is created: exactly these bits, whatever the umask. The
    /// default is 0666 less the umask. A file that exists keeps its own.
    pub fn creation_mode(mut self, bits: u32) -> Self {
        self.settings.creation_mode = Some(bits & 0o7777);
        self
    }

    /// Whether to create the lock file when it is missing (on).
    pub fn create(mut self, on: bool) -> Self {
        self.settings.create = on;
        self
    }

    /// Whether to create missing directories above it too (off).
    pub fn create_parents(mut self, on: bool) -> Self {
        self.settings.create_parents = on;
        self
    }

    /// Whether the path may end in a symbolic link (off). Leave it off where others can write in
    /// the directory: a link could make us create files elsewhere.
    pub fn follow_symlinks(mut self, on: bool) -> Self {
        self.settings.follow_symlinks = on;
        self
    }

    /// Opens the lock file now, as a semaphore of so many slots: from 1 to
    /// [`Semaphore::MAX_SLOTS`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another number; [`Error::NotLockable`], [`Error::Permission`],
    /// [`Error::Io`].
    pub fn open(&self, path: impl AsRef<Path>, slots: u32) -> Result<Semaphore> {
        let semaphore = self.open_lazy(path, slots)?;
        semaphore.handle.open_now()?;
        Ok(semaphore)
    }

    /// As [`open`](Self::open), but touches the filesystem only at the first acquisition, whose
    /// deadline then covers the opening too. A relative path is taken from today's directory.
    pub fn open_lazy(&self, path: impl AsRef<Path>, slots: u32) -> Result<Semaphore> {
        let place = Place::new(path.as_ref())?;
        if !(1..=Semaphore::MAX_SLOTS).contains(&slots) {
            let most = Semaphore::MAX_SLOTS;
            return Err(Error::unsupported(
                Some(place.shared_path()),
                OPEN,
                format!("a semaphore has from 1 to {most} slots, not {slots}"),
            ));
        }
        Ok(Semaphore::new(Handle::new(place, self.settings.clone(), slots, self.fair)))
    }

    /// Opens the semaphore that is given as a path or as a bare name; see [`name`].
    ///
    /// Unless told otherwise, the lock file of a name is created with permissions 1600, and 1666
    /// in [`Scope::System`]. A name is one lock file: do not use it as a
    /// [`FileLock`](crate::FileLock) as well.
    pub fn open_named(
        &self,
        semaphore: impl AsRef<OsStr>,
        scope: Scope,
        slots: u32,
    ) -> Result<Semaphore> {
        let semaphore = self.open_named_lazy(semaphore, scope, slots)?;
        semaphore.handle.open_now()?;
        Ok(semaphore)
    }

    /// As [`open_named`](Self::open_named), but opens the lock file only at the first acquisition.
    /// The directory of names is looked at now.
    pub fn open_named_lazy(
        &self,
        semaphore: impl AsRef<OsStr>,
        scope: Scope,
        slots: u32,
    ) -> Result<Semaphore> {
        let given = semaphore.as_ref();
        let mut options = self.clone();
        if !name::is_path(given) {
            options.settings.creation_mode.get_or_insert(scope.creation_mode());
        }
        options.open_lazy(name::resolve(given, scope)?, slots)
    }
}
