//! What a picture of the kernel's lock table consists of.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::mode::{Mechanism, Mode, Range};

use super::process::Process;

/// The kind of a lock, as the kernel's table has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// `flock(2)`.
    Flock,
    /// A record lock of an open file description.
    Ofd,
    /// A record lock of a process.
    Posix,
    /// A lease, `fcntl(F_SETLEASE)`: not a lock, but it keeps others from opening the file.
    Lease,
    /// Something else, in the kernel's own word.
    Other(Arc<str>),
}

impl Kind {
    pub(super) fn of_word(word: &str) -> Self {
        match word {
            "FLOCK" => Kind::Flock,
            "OFDLCK" => Kind::Ofd,
            "POSIX" => Kind::Posix,
            "LEASE" => Kind::Lease,
            word => Kind::Other(word.into()),
        }
    }

    /// Returns whether locks of the two kinds see each other at all.
    #[must_use]
    pub fn shares_a_space_with(&self, other: &Kind) -> bool {
        let is_record = |kind: &Kind| matches!(kind, Kind::Ofd | Kind::Posix);
        self == other || is_record(self) && is_record(other)
    }
}

impl From<Mechanism> for Kind {
    fn from(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::Flock => Kind::Flock,
            Mechanism::Ofd => Kind::Ofd,
            Mechanism::Posix => Kind::Posix,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Flock => f.write_str("flock"),
            Kind::Ofd => f.write_str("ofd"),
            Kind::Posix => f.write_str("posix"),
            Kind::Lease => f.write_str("lease"),
            Kind::Other(word) => f.write_str(&word.to_lowercase()),
        }
    }
}

/// An inode, named as `/proc/locks` does: with the device of its filesystem, which on btrfs and
/// overlayfs is another one than `stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "this is what an inode is named by")]
pub struct Inode {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// The inode's number on that device.
    pub number: u64,
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}:{:02x}:{}", self.major, self.minor, self.number)
    }
}

/// Locks, their holders and their waiters.
///
/// A table is as true as a look around can be: the kernel changes while it is taken.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LockTable {
    /// The files that carry locks, in the order of the kernel's table.
    pub files: Vec<LockedFile>,
    /// What could not be seen.
    pub gaps: Gaps,
}

/// What a [`LockTable`] does not show, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gaps {
    /// Processes whose descriptors or threads this user may not look at, and which may therefore be
    /// holders or waiters that are not named. Under Yama even processes of the same user can be
    /// among them.
    pub not_permitted: Vec<u32>,
    /// This pid namespace is not the machine's first: locks of processes outside it are hidden.
    pub hidden: bool,
    /// The kernel's table was too long to be read with care (some 450 locks), or changed too much: where
    /// locks came or went meanwhile, others may be missing or told twice.
    pub pieced_together: bool,
    /// Not everybody was looked at to the end: the time that was set for it, or this process's
    /// descriptors or memory, ran out.
    pub cut_short: bool,
    /// The error number of what ran out, unless it was the time (`EMFILE`, `ENFILE`, `ENOMEM`).
    pub errno: Option<i32>,
}

/// A file and its locks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LockedFile {
    /// The inode.
    pub inode: Inode,
    /// A path of the file: the one that was asked about, or the one by which a holder or waiter
    /// opened it, in that process's view of the filesystem. `None` when nobody who has it open may be
    /// looked at.
    pub path: Option<PathBuf>,
    /// The path has been removed; only those who have the file open still see this inode.
    pub deleted: bool,
    /// The locks, in the kernel's order.
    pub locks: Vec<Lock>,
}

impl LockedFile {
    /// Returns whether somebody waits for a lock on this file.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.locks.iter().any(|lock| !lock.waiters.is_empty())
    }

    /// How many wait: the requests that the kernel has, and the front waiter of a semaphore's queue, which has
    /// the gate and sleeps outside of the kernel's lock calls.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let asleep = self.locks.iter().map(|lock| lock.waiters.len()).sum::<usize>();
        asleep + self.locks.iter().filter(|lock| self.is_had_by_front(lock)).count()
    }

    /// Returns whether this is a gate whose holder waits for its turn, and is not among the waiters of
    /// another lock of the file.
    #[must_use]
    pub fn is_had_by_front(&self, lock: &Lock) -> bool {
        let has_gate = lock.holders.first().and_then(Holder::pid);
        let mut asleep = self.locks.iter().flat_map(|lock| &lock.waiters).map(Waiter::pid);
        lock.is_gate()
            && self.locks.iter().any(|lock| lock.kind == Kind::Ofd && !lock.is_gate())
            && !asleep.any(|pid| pid.is_some() && pid == has_gate)
    }
}

/// A lock that is held.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Lock {
    /// Its kind.
    pub kind: Kind,
    /// Shared or exclusive; a lease for reading counts as shared.
    pub mode: Mode,
    /// The bytes that it covers.
    pub range: Range,
    /// Who holds it: first whoever took it, as far as that is known, then those who have the same
    /// open file description. Never empty: where nobody can be named, there is a holder without a
    /// process.
    pub holders: Vec<Holder>,
    /// Who is blocked because of it, in the order of the kernel's queue.
    pub waiters: Vec<Waiter>,
    /// It is an `ofd` lock, and its first holder may have it from a program that it executed before.
    pub(super) came_by_exec: bool,
}

impl Lock {
    /// Returns whether this is a gate: not the lock itself but the place at the head of its queue, an
    /// `ofd` lock on bytes from 2^62 on.
    #[must_use]
    pub fn is_gate(&self) -> bool {
        is_gate(&self.kind, self.range)
    }
}

/// Whether a lock covers nothing but what is set aside for gates.
pub(super) fn is_gate(kind: &Kind, range: Range) -> bool {
    *kind == Kind::Ofd && range.start() >= Range::LIMIT
}

/// A process that holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The process; `None` when the kernel does not name it.
    pub process: Option<Process>,
    /// The lowest descriptor through which the process has the lock.
    pub descriptor: Option<u32>,
    /// How this is known.
    pub standing: Standing,
}

impl Holder {
    /// The pid, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }
}

/// How it is known that a process holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Standing {
    /// The process took the lock and has the open file description now. Who took an `ofd` lock, the
    /// kernel does not record: then it is the only process that has the description, or the one from
    /// which all the others descend. That it may have the lock from one that has ended is known only
    /// where the lock file tells (see [`Unclear`](Self::Unclear)).
    Verified,
    /// The process has the open file description, which another process locked.
    Inherited,
    /// The process has the open file description of an `ofd` lock; whether it took the lock, or another
    /// process that has the description or had it, the kernel does not tell. It is one of several, or
    /// (in a table of one file) the record in the lock file is of a process that has ended, and whose
    /// command it may be: it is younger than that hold, and its descriptor survives an `exec`.
    Unclear,
    /// The kernel recorded this process when the lock was taken, but the process has ended or let go
    /// of the description since, and the lock lives on in others. Of a process that has the number now
    /// but may be another one, nothing is shown.
    Gone,
    /// The kernel recorded this process; this user may not look whether it still has the lock (or
    /// there was no time or no descriptor to).
    NotPermitted,
    /// The lock is held, but the kernel hides by whom: by a process outside this pid namespace, on
    /// another machine, or one that this user may not look at.
    NotVisible,
    /// The lock is held, and by whom was not found, because not everybody was looked at
    /// ([`Gaps::cut_short`]).
    NotFound,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Standing::Verified => "verified",
            Standing::Inherited => "inherited",
            Standing::Unclear => "unclear",
            Standing::Gone => "gone",
            Standing::NotPermitted => "not permitted",
            Standing::NotVisible => "not visible",
            Standing::NotFound => "not found",
        })
    }
}

/// A thread that is blocked on a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiter {
    /// The process; `None` when the kernel does not name it and it could not be found.
    pub process: Option<Process>,
    /// The thread that sleeps in the lock call, where this user may look.
    pub thread: Option<u32>,
    /// The descriptor through which it asks.
    pub descriptor: Option<u32>,
    /// The kind of the lock it asks for.
    pub kind: Kind,
    /// The mode it asks for.
    pub mode: Mode,
    /// The bytes it asks for.
    pub range: Range,
    /// 1 for a request that is blocked by the lock itself, 2 for one that waits behind a request of
    /// depth 1, and so on. Exclusive requests stand in a chain.
    pub depth: usize,
    /// Whether other requests like this one exist, so that the kernel's line and the thread may be
    /// crossed with theirs: then the order among them is not known.
    pub interchangeable: bool,
}

impl Waiter {
    /// The pid, if there is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid)
    }

    /// Returns whether the lock is in the way of what it asks for. More than one can be; the kernel has the
    /// request behind one of them.
    #[must_use]
    pub fn is_blocked_by(&self, lock: &Lock) -> bool {
        lock.kind.shares_a_space_with(&self.kind)
            && lock.mode.conflicts_with(self.mode)
            && lock.range.overlaps(self.range)
    }

    /// Returns whether it waits for the gate, so for its turn in the queue.
    #[must_use]
    pub fn is_at_gate(&self) -> bool {
        is_gate(&self.kind, self.range)
    }
}

impl LockTable {
    /// The file with that path, if it carries a lock.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> Option<&LockedFile> {
        let path = path.as_ref();
        self.files.iter().find(|file| file.path.as_deref() == Some(path) && !file.deleted)
    }
}
