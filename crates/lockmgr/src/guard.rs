//! The guards: the values whose drop releases the lock.

use std::fmt;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::MutexGuard;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::hold::Hold;
use crate::mode::{Mechanism, Mode};
use crate::place::Place;
use crate::sys::file::Identity;

/// A held lock, released when dropped. It stays in the thread that acquired it.
///
/// In a child made by `fork` the guard is dead: it holds nothing there, and dropping it there does
/// not touch the parent's lock.
///
/// # Crash safety
/// The kernel releases the lock when the process ends, however it ends.
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct FileLockGuard<'a> {
    hold: Hold,
    // Not `Send`, as a mutex's guard: waiting for a lock that the same thread holds can then be
    // recognised with certainty.
    _here: PhantomData<(&'a (), MutexGuard<'a, ()>)>,
}

/// As [`FileLockGuard`], but it owns its handle and may be sent to other threads and stored.
///
/// # Crash safety
/// The kernel releases the lock when the process ends, however it ends.
#[must_use = "the lock is released as soon as the guard is dropped"]
pub struct OwnedFileLockGuard {
    hold: Hold,
}

impl FileLockGuard<'_> {
    pub(crate) fn new(hold: Hold) -> Self {
        Self { hold, _here: PhantomData }
    }
}

/// The two guards offer the same; only what differs is written out.
macro_rules! guard_methods {
    ($guard:ty) => {
        impl $guard {
            /// The lock file; `None` when the program opened it itself.
            #[must_use]
            pub fn path(&self) -> Option<&Path> {
                self.hold.handle().place.as_ref().map(Place::path)
            }

            /// The mode the lock is held in.
            #[must_use]
            pub fn mode(&self) -> Mode {
                self.hold.mode()
            }

            /// Which of the kernel's locks it is.
            #[must_use]
            pub fn mechanism(&self) -> Mechanism {
                self.hold.handle().settings.mechanism
            }

            /// How long the acquisition waited; zero when the lock was free.
            #[must_use]
            pub fn wait_time(&self) -> Duration {
                self.hold.waited()
            }

            /// Why the lock file has no record of this hold, though one was asked for
            /// ([`FileLockOptions::record`](crate::FileLockOptions::record)); `None` when all is
            /// well, and for the inner guards of a re-entrant handle.
            #[must_use]
            pub fn not_recorded(&self) -> Option<Error> {
                self.hold.not_recorded()
            }

            /// The fencing token of this exclusive hold, greater than those of all before it;
            /// `None` unless the handle is [fenced](crate::FileLockOptions::fenced), and for shared
            /// holds. The inner guards of a re-entrant handle have that of the outer one.
            #[must_use]
            pub fn token(&self) -> Option<u64> {
                self.hold.token()
            }

            /// When the work under this lock last succeeded, as noted in the lock file by
            /// [`mark_success`](Self::mark_success); `None` if it was not. See
            /// [`inspect::last_success`](crate::inspect::last_success).
            #[must_use]
            pub fn last_success(&self) -> Option<SystemTime> {
                self.hold.last_success()
            }

            /// Notes in the lock file that the work under this lock has succeeded, now: for those
            /// who come later, whether this process still lives or not.
            ///
            /// # Errors
            /// [`Error::Unsupported`](crate::Error::Unsupported): the lock is held shared, or the
            /// lock file cannot carry a [record](crate::FileLockOptions::record).
            /// [`Error::Permission`](crate::Error::Permission), [`Error::Io`](crate::Error::Io): it
            /// cannot be written; what was noted before stays.
            /// [`Error::Forked`](crate::Error::Forked), [`Error::Lost`](crate::Error::Lost).
            ///
            /// # Crash safety
            /// A crash in the middle of it can lose what was noted before, but never a fencing token.
            pub fn mark_success(&self) -> Result<()> {
                self.hold.mark_success()
            }

            /// The open lock file. Opened by the library for `flock` it can only be read, unless it was
            /// to be [writable](crate::FileLockOptions::writable); to work on data under the lock, open
            /// it yourself and use [`FileLock::from_file`](crate::FileLock::from_file).
            ///
            /// Do not unlock or convert the lock through it.
            #[must_use]
            pub fn file(&self) -> &File {
                self.hold.file()
            }

            /// Returns whether this guard stands for a lock: false in a forked child, and after
            /// a change of mode that lost it.
            #[must_use]
            pub fn is_held(&self) -> bool {
                self.hold.is_held()
            }

            /// Returns whether the path still names the locked file. If not, somebody has deleted
            /// or replaced it during the hold, and others may hold a lock on the new one.
            ///
            /// # Errors
            /// [`Error::Forked`](crate::Error::Forked), [`Error::Lost`](crate::Error::Lost), or
            /// what looking the path up met.
            pub fn still_current(&self) -> Result<bool> {
                self.hold.still_current()
            }

            pub(crate) fn identity(&self) -> Identity {
                self.hold.identity()
            }

            /// Returns whether the lock file lies on a filesystem that other machines may share. There even
            /// a lock that is free, and a look at the path, can take a trip over the network.
            #[must_use]
            pub fn is_remote(&self) -> bool {
                self.hold.is_remote()
            }

            /// Releases the lock and tells what dropping would keep to itself.
            ///
            /// # Errors
            /// The lock is released in every case.
            /// [`Error::Replaced`](crate::Error::Replaced): the lock file was deleted or replaced
            /// during the hold. [`Error::NotOurs`](crate::Error::NotOurs): it was to be removed,
            /// but holds data of somebody else. [`Error::Forked`](crate::Error::Forked): it was
            /// never this process's.
            pub fn unlock(mut self) -> Result<()> {
                self.hold.release(true)
            }

            /// Releases the lock, as dropping does, and tells whether the kernel agreed. Does not look
            /// whether the lock file was replaced during the hold, as [`unlock`](Self::unlock) does.
            ///
            /// # Errors
            /// [`Error::Io`](crate::Error::Io): somebody closed the descriptor; the lock is gone then,
            /// too. [`Error::Forked`](crate::Error::Forked): it was never this process's.
            pub fn release(mut self) -> Result<()> {
                self.hold.release(false)
            }

            /// Makes an exclusive hold shared; others that wait for it shared get in.
            ///
            /// Atomic for `ofd` and `posix`. `flock` drops the old lock before it takes the new
            /// one: if another process gets in between, the lock is lost. No-op when shared.
            ///
            /// # Errors
            /// [`Error::Lost`](crate::Error::Lost): the guard holds nothing any more.
            pub fn downgrade(&mut self) -> Result<()> {
                self.hold.downgrade()
            }

            /// Makes a shared hold exclusive if that is possible at once. No-op when exclusive.
            ///
            /// Atomic for `ofd`: nobody gets in between, and a refused upgrade keeps the shared
            /// lock. Not for `flock`: another process may have been inside in between, so look at
            /// the data anew; a refused upgrade takes the shared lock back, but can lose it.
            /// `posix` locks are not upgraded.
            ///
            /// Through a [fair](crate::FileLockOptions::fair) handle `flock` is upgraded under the
            /// gate, and takes the shared lock back before it leaves it: nobody who is fair too
            /// gets in between, and a refused upgrade keeps the shared lock. It is refused as well
            /// while somebody waits at the gate, who is waiting for this very hold.
            ///
            /// # Errors
            /// [`Error::Busy`](crate::Error::Busy): others share the lock, or wait at its gate; it
            /// is still held shared. [`Error::Lost`](crate::Error::Lost): the guard holds nothing
            /// any more; with the gate only if somebody got in past it. Through a
            /// [fenced](crate::FileLockOptions::fenced) handle also what keeps it from getting a token;
            /// it is still held shared then.
            pub fn try_upgrade(&mut self) -> Result<()> {
                self.hold.try_upgrade()
            }
        }

        impl fmt::Debug for $guard {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($guard))
                    .field("lock", self.hold.handle())
                    .field("mode", &self.hold.mode())
                    .field("held", &self.hold.is_held())
                    .finish()
            }
        }
    };
}

guard_methods!(FileLockGuard<'_>);
guard_methods!(OwnedFileLockGuard);

impl OwnedFileLockGuard {
    pub(crate) fn new(hold: Hold) -> Self {
        Self { hold }
    }

    pub(crate) fn into_hold(self) -> Hold {
        self.hold
    }

    /// Hands the lock over: returns a descriptor that holds it, and releases nothing.
    ///
    /// The lock now lasts as long as this descriptor, and its copies in other processes, are open,
    /// or until somebody unlocks through one of them. It is close-on-exec; clear that in the child
    /// that is to have it, or send it over a Unix socket, and let the receiver
    /// [`adopt`](Self::adopt) it. The [`FileLock`](crate::FileLock) opens the file anew at its next
    /// acquisition, as another party.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for `posix` locks, which belong to the
    /// process, and while other guards of the handle share the hold, or are about to. The lock is
    /// released then.
    pub fn into_fd(self) -> Result<OwnedFd> {
        self.hold.into_fd()
    }

    /// Takes over a lock that this descriptor holds, from [`into_fd`](Self::into_fd) of another
    /// process or taken by any other program. Mechanism, mode and range are asked of the kernel.
    ///
    /// The guard knows no path, so a deleted lock file is not noticed through it.
    ///
    /// # Errors
    /// The descriptor is closed then; keep a copy if what it holds is not to go with it.
    /// [`Error::NotHeld`] when it holds no `flock` or `ofd` lock; [`Error::Unsupported`] when it holds
    /// several, or one that begins at or beyond [`Range::LIMIT`](crate::Range::LIMIT), or on a FUSE
    /// filesystem, whose server may keep the lock without the kernel's knowing; [`Error::Io`] when
    /// `/proc` cannot be read.
    ///
    /// # References
    /// `proc_pid_fdinfo(5)`
    pub fn adopt(fd: OwnedFd) -> Result<Self> {
        Hold::adopt(fd).map(Self::new)
    }
}
