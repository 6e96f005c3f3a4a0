//! How a lock file is opened and what is asked of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, OPEN, Result};
use crate::file_lock::FileLock;
use crate::mode::{Mechanism, Range};
use crate::name::{self, Scope};
use crate::record::Wanted;

/// Builds a [`FileLock`].
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("sub/a.lock");
/// use lockmgr::{FileLock, Mechanism, Range};
///
/// let lock = FileLock::options()
///     .mechanism(Mechanism::Ofd)
///     .range(Range::new(0, 512)?)
///     .creation_mode(0o600)
///     .create_parents(true)
///     .open(&path)?;
/// let guard = lock.lock()?;
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a lock is opened with them"]
pub struct FileLockOptions {
    settings: Settings,
}

/// The options as they mean it.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own in the public builder"
)]
pub(crate) struct Settings {
    pub(crate) mechanism: Mechanism,
    pub(crate) range: Range,
    pub(crate) creation_mode: Option<u32>,
    pub(crate) create: bool,
    pub(crate) create_parents: bool,
    pub(crate) follow_symlinks: bool,
    pub(crate) remove_on_release: bool,
    pub(crate) reentrant: bool,
    /// What exclusive holders write into the lock file. One allocation, so that the rest of the
    /// settings stays as cheap to pass on as it is without.
    pub(crate) record: Option<Arc<Wanted>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mechanism: Mechanism::Flock,
            range: Range::WHOLE,
            creation_mode: None,
            create: true,
            create_parents: false,
            follow_symlinks: false,
            remove_on_release: false,
            reentrant: false,
            record: None,
        }
    }
}

impl Default for FileLockOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl FileLockOptions {
    /// Returns the defaults: `flock` on the whole file, which is created if missing.
    pub fn new() -> Self {
        Self { settings: Settings::default() }
    }

    /// Which of the kernel's locks to take; [`Mechanism::Flock`] unless said otherwise.
    pub fn mechanism(mut self, mechanism: Mechanism) -> Self {
        self.settings.mechanism = mechanism;
        self
    }

    /// The bytes to lock, for `ofd` and `posix`; the whole file unless said otherwise.
    pub fn range(mut self, range: Range) -> Self {
        self.settings.range = range;
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
    /// the directory: a link could make us create files elsewhere. What a dangling link leads to is
    /// created with the creation mode less the umask.
    pub fn follow_symlinks(mut self, on: bool) -> Self {
        self.settings.follow_symlinks = on;
        self
    }

    /// Whether to remove the lock file on release (off).
    ///
    /// It is removed while it is still held exclusively, so that no two processes get in; a shared
    /// holder removes it only if it can become the exclusive one at once. A file with content that
    /// lockmgr did not write stays, and `unlock` says so. Each acquisition then has to create the
    /// file anew, and waiters lose their place in the queue when it goes: a lock file that stays is
    /// quicker and fairer.
    pub fn remove_on_release(mut self, on: bool) -> Self {
        self.settings.remove_on_release = on;
        self
    }

    /// Whether a thread that holds the lock through this handle gets it again at once (off).
    ///
    /// Counted: the lock is released with the thread's last guard. Only guards that cannot leave
    /// their thread take part, not owned ones. A thread that holds it shared does not get it
    /// exclusively this way; it is told that it would wait for itself.
    pub fn reentrant(mut self, on: bool) -> Self {
        self.settings.reentrant = on;
        self
    }

    /// Whether exclusive holders write into the lock file who they are (off), for people and for
    /// [`inspect::Record`](crate::inspect::Record): one line with process, user, command and time.
    ///
    /// Written after the lock is acquired and before the guard is returned, also by
    /// [`try_upgrade`](crate::FileLockGuard::try_upgrade); this costs some twenty microseconds, the
    /// first time in a process a few times that. The line stays when the lock is released; nobody
    /// believes it then. Shared holders write nothing.
    ///
    /// Nothing is written into a file that holds anything else, that has a second name (a hard link),
    /// or that may not be written; the lock is acquired all the same, and
    /// [`not_recorded`](crate::FileLockGuard::not_recorded) says why there is no record. A lock on a
    /// byte range has none, because others may hold the other bytes.
    ///
    /// Off takes [`note`](Self::note) and [`record_command`](Self::record_command) back.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
    /// use lockmgr::FileLock;
    ///
    /// let lock = FileLock::options().record(true).open(&path)?;
    /// let guard = lock.lock()?;
    /// assert!(guard.not_recorded().is_none());
    /// assert!(std::fs::read_to_string(&path)?.starts_with("{\"lockmgr\":1,\"pid\":"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record(mut self, on: bool) -> Self {
        if on {
            self.wanted();
        } else {
            self.settings.record = None;
        }
        self
    }

    /// What the record says besides the facts, in the holder's own words; implies
    /// [`record`](Self::record). About 1500 bytes of it are kept.
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.wanted().note = Some(text.into());
        self
    }

    /// The command line that the record names, instead of this program's own; implies
    /// [`record`](Self::record). For those who take the lock on behalf of another program.
    pub fn record_command<I>(mut self, words: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        self.wanted().command = Some(words.into_iter().map(Into::into).collect());
        self
    }

    fn wanted(&mut self) -> &mut Wanted {
        Arc::make_mut(self.settings.record.get_or_insert_default())
    }

    /// Opens the lock file now, creating it if that is allowed.
    ///
    /// # Errors
    /// [`Error::NotLockable`], [`Error::Permission`], [`Error::Io`]; [`Error::Unsupported`] for
    /// options that exclude each other.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        self.check()?;
        FileLock::at(path.as_ref(), self.settings.clone())
    }

    /// As [`open`](Self::open), but touches the filesystem only at the first acquisition, whose
    /// deadline then covers the opening too. A relative path is taken from today's directory.
    pub fn open_lazy(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        self.check()?;
        FileLock::lazily_at(path.as_ref(), self.settings.clone())
    }

    /// Opens the lock that is given as a path or as a bare name; see [`name`].
    ///
    /// Unless told otherwise, the lock file of a name is created with permissions 1600, and 1666
    /// in [`Scope::System`], so that every user can take it; the sticky bit keeps cleaners away.
    pub fn open_named(&self, lock: impl AsRef<OsStr>, scope: Scope) -> Result<FileLock> {
        let (options, path) = self.named(lock.as_ref(), scope)?;
        options.open(path)
    }

    /// As [`open_named`](Self::open_named), but opens the lock file only at the first acquisition.
    /// The directory of names is looked at now.
    pub fn open_named_lazy(&self, lock: impl AsRef<OsStr>, scope: Scope) -> Result<FileLock> {
        let (options, path) = self.named(lock.as_ref(), scope)?;
        options.open_lazy(path)
    }

    fn named(&self, lock: &OsStr, scope: Scope) -> Result<(Self, PathBuf)> {
        let mut options = self.clone();
        if !name::is_path(lock) {
            options.settings.creation_mode.get_or_insert(scope.creation_mode());
        }
        Ok((options, name::resolve(lock, scope)?))
    }

    /// Locks a file that is open already; the guard gives access to it
    /// ([`file`](crate::FileLockGuard::file)), so that data can be read and written under the lock.
    ///
    /// There is no path, so nothing is checked or removed. The content is the program's, so no
    /// [`record`](Self::record) can be kept in it. A forked child gets
    /// [`Error::Forked`] from it.
    pub fn from_file(&self, file: File) -> Result<FileLock> {
        self.check()?;
        if self.settings.remove_on_release {
            return Err(Error::unsupported(None, OPEN, "a lock without a path cannot be removed"));
        }
        if self.settings.record.is_some() {
            let reason = "no record can be kept in a file that the program opened for itself";
            return Err(Error::unsupported(None, OPEN, reason));
        }
        FileLock::of_file(file, self.settings.clone())
    }

    fn check(&self) -> Result<()> {
        let Settings { mechanism, range, follow_symlinks, remove_on_release, .. } = self.settings;
        let refuse = |reason: &str| Err(Error::unsupported(None, OPEN, reason));
        if mechanism == Mechanism::Flock && range != Range::WHOLE {
            return refuse("flock locks the whole file; for a byte range use ofd (or posix)");
        }
        if remove_on_release && range != Range::WHOLE {
            return refuse(
                "a lock on a byte range cannot remove the file, on which others may hold other \
                 ranges",
            );
        }
        if remove_on_release && follow_symlinks {
            return refuse("removal on release and following symbolic links exclude each other");
        }
        Ok(())
    }
}
