//! The kernel's truth about locks: who holds them, who waits for them, and who waits for whom.
//!
//! Every lock on the machine, whoever took it: `flock(1)`, Python's `fcntl`, a database, this crate.
//!
//! ```
//! # let dir = tempfile::tempdir()?; let path = dir.path().join("app.lock");
//! use lockmgr::FileLock;
//! use lockmgr::inspect::LockTable;
//!
//! let lock = FileLock::open(&path)?;
//! let guard = lock.lock()?;
//! let table = LockTable::of(&path)?;
//! let holder = &table.files[0].locks[0].holders[0];
//! assert_eq!(holder.pid(), Some(std::process::id()));
//! # drop(guard);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Where it is from
//! `/proc/locks` lists locks and blocked requests, with a pid for `flock` and `posix` ones.
//! `/proc/PID/fdinfo` shows which descriptors have a lock, so the holders of `ofd` locks, and those who
//! have inherited a lock whose taker is dead. `/proc/PID/task/TID/syscall` shows the threads that sleep
//! in a lock call.
//!
//! # What cannot be seen
//! Processes of other users, unless one is root or may trace them, and under Yama even one's own: what
//! needs more rights is [`Standing::NotPermitted`] or [`Standing::NotVisible`], and
//! [`Gaps::not_permitted`] lists whom one may not look at. Locks of processes outside the pid namespace
//! ([`Gaps::hidden`]), and those of other machines on a network filesystem. How long a lock has been
//! held, the kernel does not know; the holder's record may ([`LockedFile::record`]).
//!
//! # References
//! `proc_locks(5)`, `proc_pid_fdinfo(5)`, `proc_pid_syscall(5)`, `lslocks(8)`

mod account;
mod age;
mod build;
mod contention;
mod devices;
mod fdinfo;
mod graph;
mod line;
mod lookout;
mod place;
mod process;
mod reading;
mod scan;
mod table;
mod threads;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::{Duration, Instant};

pub use crate::record::{Record, last_success};
pub use contention::Contention;
pub use graph::{Deadlock, Link};
pub use lookout::{Lookout, Pauses};
pub use process::{ControlGroup, Process};
pub use table::{Gaps, Holder, Inode, Kind, Lock, LockTable, LockedFile, Standing, Waiter};

pub(crate) use place::inode_of;

use rustix::io::Errno;

use crate::error::Result;
use crate::mode::{Mechanism, Mode, Range};
use crate::printable::Printable;
use crate::sys::file::{Identity, KeptFile};

use account::Account;
use build::Builder;
use fdinfo::FdInfo;
use reading::Reading;
use scan::{Limit, Scan, Wanted};

/// Text that somebody else chose, as it may be shown: paths, command lines, names.
///
/// On one line: control characters, characters that are invisible or turn the direction of writing,
/// and what is no UTF-8 are escaped. Quotes and backslashes stay as they are.
///
/// ```
/// assert_eq!(lockmgr::inspect::printable(b"a\x1b[2J\nb\xff"), "a\\u{1b}[2J\\nb\\xff");
/// ```
#[must_use]
pub fn printable(text: &[u8]) -> String {
    Printable(text).to_string()
}

impl LockTable {
    /// Looks at every lock on the machine.
    ///
    /// Each process is looked at once; the cost grows with the number of descriptors, not with
    /// processes × locks.
    ///
    /// # Errors
    /// When `/proc/locks` cannot be read.
    pub fn snapshot() -> io::Result<Self> {
        let effort = Effort::thorough();
        let reading = Reading::everything(effort.limit)?;
        let mut wanted = Wanted::default();
        for line in &reading.lines {
            wanted.add(line.lock.inode, line.depth > 0);
        }
        Ok(Self::look(&reading, &wanted, effort)?.0)
    }

    /// Looks at the locks of one file: who holds them, and who waits.
    ///
    /// Quick: looks at those whom the kernel names, and at others only as long as a lock or a waiter
    /// is not accounted for. So it need not find everybody who has inherited a lock; see
    /// [`of_thoroughly`](Self::of_thoroughly). The table has no file when there is no lock on it.
    ///
    /// Where the kernel's table hides locks (in a pid namespace, on a network filesystem), and shows
    /// none, the file is tried: it is opened for reading and locked for an instant, and what is in the
    /// way is reported as [`Standing::NotVisible`].
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the path names no file, cannot be looked up, or /proc
    /// cannot be read. Symbolic links are followed.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        place::table_of(path.as_ref(), Effort::quick())
    }

    /// As [`of`](Self::of), but looks at everybody: all who have the lock's open file description are
    /// among the holders, as far as this user may see.
    ///
    /// # Errors
    /// As `of`.
    pub fn of_thoroughly(path: impl AsRef<Path>) -> Result<Self> {
        place::table_of(path.as_ref(), Effort::thorough())
    }

    /// Looks at one inode, which `stat` calls `status` where that is known.
    fn of_inode(inode: Inode, status: Option<Inode>, effort: Effort) -> io::Result<Self> {
        const TRIES: usize = 3;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut reading = Reading::of_number(inode.number, effort.limit)?;
            reading.lines.retain(|line| line.lock.inode == inode);
            let is_last = tries == TRIES || effort.limit.has_passed();
            let is_held = reading.lines.iter().any(|line| line.depth == 0);
            // Lost between two pieces, or told in both.
            if reading.pieced_together && !is_last && (!is_held || reading.tells_twice()) {
                continue;
            }
            if !is_held && !effort.hidden {
                return Ok(Self { gaps: Gaps::of(&reading), ..Self::default() });
            }
            let waited_for = effort.hidden || reading.lines.iter().any(|line| line.depth > 0);
            let wanted = Wanted::exactly(inode, status, waited_for);
            let (table, changed) = Self::look(&reading, &wanted, effort)?;
            if !changed || is_last {
                return Ok(table);
            }
        }
    }

    /// Finds out whose the lines are; and whether some of them were no longer true by then.
    fn look(reading: &Reading, wanted: &Wanted, effort: Effort) -> io::Result<(Self, bool)> {
        let lines = &reading.lines;
        let mut scan = Scan::new(wanted, effort.limit)?;
        for pid in lines.iter().filter_map(|line| line.lock.pid) {
            scan.look_at_named(pid);
        }
        if effort.thorough {
            scan.everybody();
        } else {
            let mut account = Account::of(lines);
            if !account.is_settled_by(&scan) {
                // This process is one that may have inherited a lock, and leads to whom it is from.
                let mut first = vec![std::process::id()];
                first.extend(&reading.near);
                scan.until(&first, |scan| account.is_settled_by(scan));
            }
            // The youngest come first, and have inherited the lock if an ancestor has it, too.
            scan.ancestors_of_heirs();
        }
        let mut gaps = Gaps::of(reading);
        gaps.cut_short |= scan.cut_short;
        gaps.errno = scan.failed.map(Errno::raw_os_error);
        let mut builder = Builder::new(lines, &mut scan);
        builder.add_lines(lines);
        if effort.thorough {
            builder.add_what_the_table_hides();
        }
        builder.add_late_waiters();
        let changed = builder.settle_doubts(|| match wanted.number() {
            Some(number) => Reading::of_number(number, effort.limit),
            None => Reading::everything(effort.limit),
        });
        let files = builder.finish();
        gaps.not_permitted = scan.not_permitted.iter().copied().collect();
        gaps.not_permitted.retain(|pid| process::may_have_descriptors(*pid));
        Ok((Self { files, gaps }, changed))
    }
}

/// How hard to look.
#[derive(Clone, Copy)]
struct Effort {
    /// At everybody, not only until all locks and requests have somebody.
    thorough: bool,
    /// Even if the kernel's table has no line.
    hidden: bool,
    limit: Limit,
}

impl Effort {
    fn thorough() -> Self {
        Self { thorough: true, ..Self::quick() }
    }

    fn quick() -> Self {
        Self { thorough: false, hidden: false, limit: Limit(None) }
    }

    fn at_most(limit: Duration) -> Self {
        Self { limit: Limit(Instant::now().checked_add(limit)), ..Self::quick() }
    }
}

impl Gaps {
    fn of(reading: &Reading) -> Self {
        Self {
            pieced_together: reading.pieced_together,
            cut_short: reading.cut_short,
            hidden: !is_first_pid_namespace(),
            ..Self::default()
        }
    }
}

/// Whether the kernel's table lists a lock, or a request for one, that locks of this mechanism on the file
/// see.
pub(crate) fn is_in_the_way(file: &KeptFile, identity: Identity, mechanism: Mechanism) -> bool {
    let inode = inode_of(file, identity);
    let reading = Reading::of_number(inode.number, Limit(None)).unwrap_or_default();
    let wanted = Kind::from(mechanism);
    let is_seen = |told: &line::Told| told.inode == inode && told.kind.shares_a_space_with(&wanted);
    reading.lines.iter().any(|line| is_seen(&line.lock))
}

/// Whether the kernel's table lists a request of another process for a `posix` lock on the inode. Also on
/// one of the same number elsewhere: only where it says no, it is certain.
pub(crate) fn others_wait_for_posix(identity: Identity) -> bool {
    let me = std::process::id();
    let reading = Reading::of_number(identity.inode, Limit(None)).unwrap_or_default();
    let is_request = |line: &line::Line| line.depth > 0 && line.lock.kind == Kind::Posix;
    reading.lines.iter().any(|line| is_request(line) && line.lock.pid != Some(me))
}

/// Whether the kernel's table lists a lease on the file: to open it would break that.
pub(crate) fn is_leased(file: &KeptFile, identity: Identity) -> bool {
    let inode = inode_of(file, identity);
    let reading = Reading::of_number(inode.number, Limit(None)).unwrap_or_default();
    let is_it = |told: &line::Told| told.kind == Kind::Lease && told.inode == inode;
    reading.lines.iter().any(|line| is_it(&line.lock))
}

/// Whether the kernel's table shows the locks of all processes: the first pid namespace has this
/// fixed number.
fn is_first_pid_namespace() -> bool {
    const FIRST: u64 = 0xEFFF_FFFC;
    rustix::fs::stat("/proc/self/ns/pid").map_or(true, |status| status.st_ino == FIRST)
}

/// A lock on an open file description of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldHere {
    pub(crate) mechanism: Mechanism,
    pub(crate) mode: Mode,
    pub(crate) range: Range,
}

/// The locks that the descriptor's open file description holds (and, for `posix`, this process).
pub(crate) fn held_through(fd: impl AsFd) -> io::Result<Vec<HeldHere>> {
    let text = std::fs::read(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    let told = FdInfo::of(&String::from_utf8_lossy(&text));
    Ok(told
        .locks
        .into_iter()
        .filter_map(|lock| {
            let mechanism = match lock.kind {
                Kind::Flock => Mechanism::Flock,
                Kind::Ofd => Mechanism::Ofd,
                Kind::Posix => Mechanism::Posix,
                Kind::Lease | Kind::Other(_) => return None,
            };
            Some(HeldHere { mechanism, mode: lock.mode, range: lock.range })
        })
        .collect())
}
