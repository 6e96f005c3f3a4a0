//! A semaphore between processes: N slots, each one byte of an `ofd` lock in one lock file.
//!
//! # The protocol
//! Slot *i* is byte *i* of the lock file; one byte beyond 2^62 is the *queue*. Whoever asks has an
//! open file description of its own, and takes exclusive `ofd` locks on it:
//!
//! 1. Take the queue, asleep in the kernel's lock call until it is had. Whoever has it is the *head*.
//! 2. As the head, watch the lock file (inotify), then look for free slots and lock as many as are
//!    wanted, or none.
//! 3. Too few: sleep until the file tells something or a pause is over, and look again. The pause
//!    begins anew, at [`FIRST_PAUSE`](party::FIRST_PAUSE), with every close of the file, and doubles
//!    each time, without end. Where there is no watch, it does not grow beyond
//!    [`RECHECK`](party::RECHECK).
//! 4. Enough: let go of the queue, and see whether the path still names the file. If not, give the
//!    slots back and begin anew.
//!
//! Whoever gives slots back (a release, a change of mind, a try that got too few of several)
//!
//! 1. unlocks them,
//! 2. asks whether somebody has the queue, and if so
//! 3. does something of which the watch tells: it closes its description, which is the cheapest; or,
//!    where that stays in use, or others may have a copy of it, it touches the file.
//!
//! A try takes no part in the queue: it looks for slots once.
//!
//! # Why it is right
//! *Never more than N inside, no slot twice*: the kernel lets nobody have a byte that somebody has.
//! *No slot is lost*: what a dead process had, the kernel has unlocked.
//!
//! *Nobody sleeps while he could go on.* Behind the head everybody sleeps in the kernel's lock call,
//! which ends when the head goes on, gives up or dies. The head may have found too few slots because
//! of somebody who gives one back later:
//!
//! - In order, at a moment when the queue is seen to be taken: the event comes after the unlock. If the
//!   watch was there before, it tells, and the next look finds the slot. If not, then the watch, and
//!   the look after it, came after the unlock, and that look has found the slot.
//! - In order, at a moment when the queue is free: whoever is the head later looks later.
//! - By a close alone, as in death: the kernel tells of the close first and unlocks a little later. A
//!   look in between finds nothing. But pauses go on after every close, and after the first look; so
//!   the slot is found after at most twice the time that the kernel takes, whatever that is.
//!
//! *No deadlock between two that want many*: nobody sleeps while holding a part of what he wants.
//! Nobody starves who queues: newcomers queue behind the head, so that what is given back stays free
//! until the head has enough. (Those who only try do not queue and may be quicker.)
//!
//! What is assumed:
//! 1. All who lock slots use this protocol, or close the file when they let go.
//! 2. The kernel that keeps the locks also sees the closes and touches. On filesystems that several
//!    machines share it does not: there the head looks every [`RECHECK`](party::RECHECK) too.
//! 3. The descriptions are not shared with processes that outlive the holder, but for those that were
//!    given a copy on purpose (see the at-fork handler in `sys::fork`). A release frees the slots all
//!    the same; a death does not. A release through a copied description that is not known to be one
//!    (a child made by a bare `clone` that has not used the library yet) is found after a pause.
//!
//! The tests of `lockmgr-models` explore this protocol exhaustively, for three processes of which any
//! may die at any moment.

mod acquire;
mod future;
mod guard;
mod handle;
mod options;
mod party;
mod slots;
mod watcher;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use acquire::AcquireSlots;
pub use future::AcquireSlotsFuture;
pub use guard::SemaphoreGuard;
pub use options::SemaphoreOptions;

use crate::error::Result;
use handle::Handle;

/// A number of slots that processes, threads and tasks share through a lock file.
///
/// As long as all are taken, others wait, first come, first served. Each slot is a lock of the
/// kernel's, which releases it when its holder ends, however it ends: no slot can be lost.
///
/// - *Every guard is a holder of its own*, in whichever process, thread or task it is, and whether
///   the `Semaphore` it came from is shared, cloned or opened anew.
/// - *Several slots at once* ([`acquire_many`](Self::acquire_many)) are had all together or not at
///   all, so that two who want many do not wait for each other.
/// - *The queue* is one for all who wait, whatever number they want. Whoever is at its head keeps the
///   others back until it has what it wants; so the large are not starved by the small. Waiters sleep
///   in the kernel, which serves them in the order in which they came, but for those whom a signal
///   or `SIGSTOP` has interrupted, and a newcomer may now and then be quicker than a waiter that is
///   just being woken up. Waiters that share one `Semaphore` take turns, in order. A head that is
///   stopped holds up those behind it. A *try* does not queue, and may take what the head waits for;
///   [`fair(false)`](SemaphoreOptions::fair) lets everybody try first.
/// - *The number of slots* is not stored. Everybody should open a semaphore with the same number;
///   whoever names a smaller one uses only the first so many, also while the others are free.
/// - *A deleted or replaced lock file* does not let more in than there are slots, as long as it was
///   deleted by nobody while slots are held. The guard can tell
///   ([`still_current`](SemaphoreGuard::still_current)).
/// - *Forked children* hold nothing, as with [`FileLock`](crate::FileLock).
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("downloads.lock");
/// use std::time::Duration;
/// use lockmgr::Semaphore;
///
/// let downloads = Semaphore::open(&path, 4)?; // four at a time, on the whole machine
/// let guard = downloads.acquire().timeout(Duration::from_secs(60)).wait()?;
/// println!("on line {}", guard.slots()[0]);
/// drop(guard);
///
/// let alone = downloads.acquire_many(4).wait()?;
/// assert!(downloads.try_acquire().is_err());
/// # drop(alone);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Waiting for oneself
/// Who holds slots and waits for more may wait for itself, alone or together with others that do the
/// same, and nobody can tell: a guard may be released by any thread. Take what is needed at once, or
/// wait with a deadline. Only what can never be, more slots than there are, is refused.
///
/// # How it waits
/// Only the waiter at the head of the queue watches the lock file, with an inotify instance, of which
/// a user has 128; a thread named `lockmgr-watch` closes it after its last use, a tenth of a second to two
/// seconds later. An orderly release wakes the head at once, the death of a holder within a millisecond or so. Where no
/// instance can be had the head looks every 25 ms, and so it does on network filesystems and FUSE.
/// Otherwise it wakes up by itself only after pauses that double without end (some twenty times in the
/// first hour).
///
/// # The lock file
/// It must be a regular file that can be written, and read to be watched. A
/// [`FileLock`](crate::FileLock) of the mechanism `ofd` or `posix` on the same file meets the slots,
/// which are its first bytes; one of the mechanism `flock` is another lock.
///
/// # References
/// `fcntl(2)` (open file description locks), `inotify(7)`
#[derive(Clone)]
pub struct Semaphore {
    handle: Arc<Handle>,
}

impl Semaphore {
    /// The largest number of slots.
    pub const MAX_SLOTS: u32 = 65_536;

    /// Opens the lock file, creating it if it is missing, as a semaphore of so many slots, from 1 to
    /// [`MAX_SLOTS`](Self::MAX_SLOTS).
    ///
    /// A relative path is taken from the current directory of this moment.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for another number;
    /// [`Error::NotLockable`](crate::Error::NotLockable),
    /// [`Error::Permission`](crate::Error::Permission), [`Error::Io`](crate::Error::Io).
    pub fn open(path: impl AsRef<Path>, slots: u32) -> Result<Self> {
        Self::options().open(path, slots)
    }

    /// Returns a builder for everything that can be chosen.
    pub fn options() -> SemaphoreOptions {
        SemaphoreOptions::new()
    }

    fn new(handle: Handle) -> Self {
        Self { handle: Arc::new(handle) }
    }

    /// The lock file, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.handle.place.path()
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.handle.slots
    }

    /// Returns an acquisition of one slot, to which a deadline and cancel tokens can be given. It ends
    /// in [`wait`](AcquireSlots::wait) or `.await`.
    pub fn acquire(&self) -> AcquireSlots<'_> {
        self.acquire_many(1)
    }

    /// Returns an acquisition of so many slots, all of them or none.
    pub fn acquire_many(&self, count: u32) -> AcquireSlots<'_> {
        AcquireSlots::new(self, count)
    }

    /// Acquires a slot if one is free, past those who wait.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) if none is.
    pub fn try_acquire(&self) -> Result<SemaphoreGuard> {
        self.acquire().try_now()
    }

    /// Acquires so many slots if they are free, past those who wait.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) if too few are. That may also be said when two try to get
    /// several at the same moment and each finds some of them taken by the other.
    pub fn try_acquire_many(&self, count: u32) -> Result<SemaphoreGuard> {
        self.acquire_many(count).try_now()
    }

    /// Acquires a slot within `timeout`, which covers opening the file and every queue. Zero is one
    /// attempt.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut), never early and late only by scheduling.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<SemaphoreGuard> {
        self.acquire().timeout(timeout).wait()
    }

    /// Acquires a slot before `deadline`. One that has passed is one attempt.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut), never early and late only by scheduling.
    pub fn acquire_until(&self, deadline: Instant) -> Result<SemaphoreGuard> {
        self.acquire().deadline(deadline).wait()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
