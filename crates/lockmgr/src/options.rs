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
use crate::sys::file::KeptFile;
use crate::visit::discard;

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

/// What to do about a deadlock: processes that wait for each other in a circle, so that none of them
/// will ever go on.
///
/// The kernel finds those of `posix` locks by itself, and those of `flock` and `ofd` locks never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnDeadlock {
    /// Wait on: somebody else may end it, or a deadline.
    #[default]
    Ignore,
    /// Give the wait up, with an [`Error::Deadlock`] that spells the circle out.
    ///
    /// A second thread, one for the whole process, looks after the first second of waiting and then
    /// after 1, 2, 4, 8, 16 and every 30 seconds. The wait is not interrupted for it, and keeps its
    /// place in the kernel's queue. A look costs microseconds while nobody is blocked by what this
    /// process holds, and else as much as
    /// [`LockTable::snapshot`](crate::inspect::LockTable::snapshot).
    ///
    /// Only a *certain* deadlock ends the wait: everybody who could release one of the locks is blocked
    /// in the circle himself, as far as his threads may be looked at. Of this process that is known for
    /// what the waiting thread holds by guards that cannot leave it. Owned guards could be dropped by
    /// anybody; [`Acquire::while_holding`](crate::Acquire::while_holding) says that they are not, and
    /// awaited acquisitions need that.
    ///
    /// Of several that find the same circle, the youngest process gives up at once, the others look
    /// again after 200 ms and more; see [`Lookout::patience`](crate::inspect::Lookout::patience).
    ///
    /// Waits for one's turn at a handle that threads share happen inside the process, are not looked at,
    /// and do not show in the circle.
    Fail,
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
    pub(crate) writable: bool,
    pub(crate) remove_on_release: bool,
    pub(crate) reentrant: bool,
    pub(crate) fairness: Fairness,
    pub(crate) deadlock: OnDeadlock,
    /// What exclusive holders write into the lock file. One allocation, so that the rest of the
    /// settings stays as cheap to pass on as it is without.
    pub(crate) record: Option<Arc<Wanted>>,
    /// Exclusive holds get a token; there is a record then.
    pub(crate) fenced: bool,
    pub(crate) durable: bool,
}

/// Whether acquisitions pass the gate; the later one asks for more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Fairness {
    Off,
    /// Where there can be a gate.
    Preferred,
    Required,
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
            writable: false,
            remove_on_release: false,
            reentrant: false,
            fairness: Fairness::Off,
            record: None,
            fenced: false,
            durable: false,
            deadlock: OnDeadlock::Ignore,
        }
    }
}

impl Settings {
    /// These, and whatever else a hold with the other ones would have.
    pub(crate) fn united_with(&self, other: &Self) -> Self {
        let record = match (&self.record, &other.record) {
            (Some(one), Some(other)) => Some(Arc::new(one.or(other))),
            (one, other) => one.as_ref().or(other.as_ref()).cloned(),
        };
        let fails = [self.deadlock, other.deadlock].contains(&OnDeadlock::Fail);
        Self {
            writable: self.writable || other.writable,
            remove_on_release: self.remove_on_release || other.remove_on_release,
            reentrant: self.reentrant || other.reentrant,
            fairness: self.fairness.max(other.fairness),
            deadlock: if fails { OnDeadlock::Fail } else { OnDeadlock::Ignore },
            record,
            fenced: self.fenced || other.fenced,
            durable: self.durable || other.durable,
            ..self.clone()
        }
    }

    /// Whether a hold with these has all that one with the other ones has.
    pub(crate) fn give_all_of(&self, other: &Self) -> bool {
        let united = self.united_with(other);
        self.writable == united.writable
            && self.remove_on_release == united.remove_on_release
            && self.reentrant == united.reentrant
            && self.fairness == united.fairness
            && self.deadlock == united.deadlock
            && self.record == united.record
            && self.fenced == united.fenced
            && self.durable == united.durable
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

    /// Whether the lock file is opened for reading and writing whatever the mechanism (off), so that
    /// the holder can write through [`file`](crate::FileLockGuard::file).
    ///
    /// Off, `flock` opens for reading alone, which is all it needs: a file that may not be written can be
    /// locked then, and a program that is being executed can lock its own file.
    ///
    /// # Errors
    /// Opening reports [`Error::Permission`] where the file may not be written.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
    /// use std::io::Write;
    /// use lockmgr::FileLock;
    ///
    /// let lock = FileLock::options().writable(true).open(&path)?;
    /// let guard = lock.lock()?;
    /// guard.file().write_all(b"mine")?;
    /// # assert_eq!(std::fs::read(&path)?, b"mine");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn writable(mut self, on: bool) -> Self {
        self.settings.writable = on;
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

    /// Whether waiting is first come, first served (off).
    ///
    /// Bare waiting in the kernel is quick, but whoever releases and comes back at once often
    /// overtakes those who sleep, and overlapping readers keep a writer out for good. A fair handle
    /// passes a *gate* on its way in: one far byte of the lock file, of which it takes an exclusive
    /// record lock before it waits for the lock itself, and which it gives back as soon as it has
    /// the lock. So only the one at the gate waits for those inside, and the others wait behind it,
    /// in the order in which the kernel queues them.
    ///
    /// What is promised, among handles that are fair:
    /// - Once a waiter stands in the gate, nobody who comes later gets the lock before it, whatever
    ///   the modes: a holder that releases and asks again at once queues behind it, and new readers
    ///   wait behind a writer, who waits only for those that are inside already.
    /// - At the gate the kernel's order holds, which is first come, first served, save that a
    ///   newcomer may overtake the front one while that is waking up, and that a waiter which is
    ///   stopped or gets a signal goes to the end. A waiter that is *stopped* in the gate holds up
    ///   all behind it, as one that is stopped inside would.
    /// - A `try` never waits at the gate. Shared, it goes past it: it may overtake a writer.
    ///   Exclusive, it needs to find the gate open, so it is `Busy` also while somebody else is just
    ///   being let in, and overtakes nobody.
    /// - A handle is one party: threads and tasks that share it queue inside the process, in order,
    ///   and only the front one comes to the gate.
    ///
    /// Handles that are not fair, and other programs, go past the gate. It costs two more system
    /// calls, and under load some of the throughput, since each hand-over wakes two.
    ///
    /// A thread that holds the lock shared by a guard that cannot leave it gets it shared again
    /// without the gate, at which a writer may be waiting for that very guard. Of owned guards, and
    /// of what one process does for another, nobody can know: do not wait for a second shared hold
    /// while you have the first.
    ///
    /// The gate needs a lock file that can be opened for writing, and can be no directory. `ofd`
    /// locks have a gate for each first byte of a range: ranges that begin elsewhere do not wait at
    /// it, also if they overlap. `posix` locks have none. Where `flock` is a record lock, as on NFS,
    /// `flock` has none either; that is tried out, once for each such filesystem, with a temporary
    /// file in the directory of the lock file.
    ///
    /// A record lock of another program (`fcntl`, `lockf`) that reaches to the end of the file covers
    /// the gate. A fair `flock` waits for it, though a plain one would not; the error names its holder.
    ///
    /// # Errors
    /// Opening reports [`Error::Unsupported`] or [`Error::Permission`] where there can be no gate;
    /// see [`prefer_fair`](Self::prefer_fair).
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
    /// use lockmgr::FileLock;
    ///
    /// let lock = FileLock::options().fair(true).open(&path)?;
    /// let guard = lock.lock()?;
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fair(mut self, on: bool) -> Self {
        self.settings.fairness = if on { Fairness::Required } else { Fairness::Off };
        self
    }

    /// As [`fair`](Self::fair), but where there can be no gate, goes without. The last one of the
    /// two that is called counts.
    pub fn prefer_fair(mut self, on: bool) -> Self {
        self.settings.fairness = if on { Fairness::Preferred } else { Fairness::Off };
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
    /// Off takes [`note`](Self::note), [`record_command`](Self::record_command) and
    /// [`fenced`](Self::fenced) back.
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
            self.settings.fenced = false;
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

    /// Whether every exclusive hold gets a token (off): a number that grows with each of them, by which
    /// a resource can refuse whoever comes late. Implies [`record`](Self::record), in which the last
    /// token is kept.
    ///
    /// The kernel takes the lock from a process that dies, and from nobody else. But what a process has
    /// *sent* can arrive when its sender has long gone: a request on its way to a server, a job in a
    /// queue. If each request carries the holder's [token](crate::FileLockGuard::token), and the
    /// resource remembers the greatest one it has seen, it can refuse those from before.
    ///
    /// # What is promised
    /// Each exclusive hold, also one by [`try_upgrade`](crate::FileLockGuard::try_upgrade), has a
    /// greater token than all before it, as long as the lock file survives: whoever crashes, and
    /// wherever a write of the record stops. Tokens are the microseconds since 1970 by the wall clock, or
    /// one more than the last token if that is more. They have 16 digits, and stay below 2^53 until the
    /// year 2255: every JSON reader keeps them.
    ///
    /// When the lock file is deleted or cut, and after a power failure without
    /// [`durable`](Self::durable), the next token is as good as the clock: greater, unless the clock was
    /// set back meanwhile. All who take the lock have to be fenced: holds that are not get no token and
    /// leave the last one as it is.
    ///
    /// A shared hold has no token. Others hold the lock as well, so there is no order among
    /// them that a resource could check. An [adopted](crate::OwnedFileLockGuard::adopt) one has none
    /// either: hand the number over, too.
    ///
    /// # Errors
    /// Unlike a note, the token is not best effort. An exclusive acquisition fails, and releases the
    /// lock, where the lock file cannot carry a record ([`Error::Unsupported`]; see
    /// [`record`](Self::record)) or may not be written ([`Error::Permission`], [`Error::Io`]).
    /// [`Error::TokenAhead`]: the last token is more than a day ahead of the clock. It was
    /// forged, or the clock was wrong then or is now. It is not followed, for nobody could take it back,
    /// and not lowered either. Set the clock right; if that is right, delete the lock file while nobody
    /// works under it, and see to the resource, which may have seen the number. (A day, so that a clock
    /// that was in the wrong time zone stops nobody.)
    ///
    /// Opening refuses byte ranges and [removal on release](Self::remove_on_release), which would forget
    /// the last token.
    ///
    /// # Example
    /// A resource that checks: here a file with the last token in front of its content. Whoever it is
    /// that writes, a check and the write that it allows have to be one step. A database has
    /// transactions for that (`UPDATE … WHERE token <= ?`), a server a mutex; for this file, where every
    /// writer is a process of its own, it is another lock, held for a moment.
    ///
    /// ```
    /// use std::fs;
    /// use std::path::{Path, PathBuf};
    /// use lockmgr::FileLock;
    ///
    /// struct Resource {
    ///     path: PathBuf,
    /// }
    ///
    /// impl Resource {
    ///     /// Writes, unless somebody with a greater token has been here.
    ///     fn write(&self, token: u64, text: &str) -> Result<(), Box<dyn std::error::Error>> {
    ///         let step = FileLock::open(self.path.with_extension("step"))?;
    ///         let _guard = step.lock()?;
    ///         let content = fs::read_to_string(&self.path).unwrap_or_default();
    ///         let last = content.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
    ///         if token < last {
    ///             return Err(format!("too late: {token} comes after {last}").into());
    ///         }
    ///         // What replaces a file at once is never half written.
    ///         let new = self.path.with_extension("new");
    ///         fs::write(&new, format!("{token} {text}"))?;
    ///         Ok(fs::rename(new, &self.path)?)
    ///     }
    /// }
    ///
    /// # let dir = tempfile::tempdir()?; let dir = dir.path();
    /// let resource = Resource { path: dir.join("resource") };
    /// let lock = FileLock::options().fenced(true).open(dir.join("a.lock"))?;
    ///
    /// // The first holder prepares a request, and dies before it is delivered.
    /// let guard = lock.lock()?;
    /// let delayed = (guard.token().expect("it is fenced"), "from the first");
    /// drop(guard);
    ///
    /// // The second one works.
    /// let guard = lock.lock()?;
    /// let token = guard.token().expect("it is fenced");
    /// resource.write(token, "from the second")?;
    /// resource.write(token, "from the second, again")?;
    ///
    /// // Now the old request arrives.
    /// let refused = resource.write(delayed.0, delayed.1).unwrap_err();
    /// assert!(refused.to_string().starts_with("too late"));
    /// assert!(fs::read_to_string(dir.join("resource"))?.ends_with("from the second, again"));
    /// # drop(guard);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fenced(mut self, on: bool) -> Self {
        if on {
            self.wanted();
        }
        self.settings.fenced = on;
        self
    }

    /// Whether records, tokens and [successes](crate::FileLockGuard::mark_success) are on their disk
    /// before the guard, or the call, returns (off): so that they outlast a power failure.
    ///
    /// One `fdatasync` for each exclusive hold, and for each lock file that is opened an `fsync` of its
    /// directory. That takes as long as the disk takes; on some, tens of milliseconds. Directories made
    /// by [`create_parents`](Self::create_parents) are not synced themselves.
    ///
    /// # References
    /// `fsync(2)`
    pub fn durable(mut self, on: bool) -> Self {
        self.settings.durable = on;
        self
    }

    fn wanted(&mut self) -> &mut Wanted {
        Arc::make_mut(self.settings.record.get_or_insert_default())
    }

    /// What to do when a wait turns out to be part of a deadlock; [`OnDeadlock::Ignore`] unless said
    /// otherwise.
    pub fn deadlock(mut self, what: OnDeadlock) -> Self {
        self.settings.deadlock = what;
        self
    }

    /// Opens the lock file now, creating it if that is allowed.
    ///
    /// # Errors
    /// [`Error::NotLockable`], [`Error::Permission`], [`Error::Io`]; [`Error::Unsupported`] for
    /// options that exclude each other.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        self.check(Some(path.as_ref()))?;
        FileLock::at(path.as_ref(), self.settings.clone())
    }

    /// As [`open`](Self::open), but touches the filesystem only at the first acquisition, whose
    /// deadline then covers the opening too. A relative path is taken from today's directory.
    pub fn open_lazy(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        self.check(Some(path.as_ref()))?;
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
    /// [`Error::Forked`] from it. While the process has a [`posix`](Mechanism::Posix) lock on the same
    /// file, the descriptor stays open when the handle is dropped, and is closed with that lock.
    pub fn from_file(&self, file: File) -> Result<FileLock> {
        if let Err(error) = self.check_unnamed() {
            discard(KeptFile::keep(file));
            return Err(error);
        }
        FileLock::of_file(file, self.settings.clone())
    }

    fn check_unnamed(&self) -> Result<()> {
        self.check(None)?;
        if self.settings.remove_on_release {
            return Err(Error::unsupported(None, OPEN, "a lock without a path cannot be removed"));
        }
        if self.settings.record.is_some() {
            let reason = "no record can be kept in a file that the program opened for itself";
            return Err(Error::unsupported(None, OPEN, reason));
        }
        Ok(())
    }

    fn check(&self, path: Option<&Path>) -> Result<()> {
        let Settings { mechanism, range, follow_symlinks, remove_on_release, fairness, .. } =
            self.settings;
        let refuse = |reason: &str| Err(Error::unsupported(path.map(Arc::from), OPEN, reason));
        if mechanism == Mechanism::Flock && range != Range::WHOLE {
            return refuse("flock locks the whole file; for a byte range use ofd (or posix)");
        }
        if fairness == Fairness::Required && mechanism == Mechanism::Posix {
            return refuse("posix locks have no gate and cannot be fair; ofd and flock locks can");
        }
        if fairness == Fairness::Required && mechanism == Mechanism::Ofd && range.gate().is_none() {
            return refuse("a lock on the very last byte there can be cannot be fair");
        }
        if self.settings.fenced && range != Range::WHOLE {
            return refuse("a lock on a byte range has no fencing token; lock the whole file");
        }
        if self.settings.fenced && remove_on_release {
            return refuse(
                "removal on release would forget the last fencing token; leave the lock file there",
            );
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
