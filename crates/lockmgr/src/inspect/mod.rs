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

mod age;
mod build;
mod contention;
mod graph;
mod line;
mod lookout;
mod place;
mod process;
mod scan;
mod table;
mod threads;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
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

use crate::error::Result;
use crate::mode::{Mechanism, Mode, Range};
use crate::printable::Printable;

use line::{Line, Told};
use scan::{FdInfo, Scan, Wanted};

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
        let (lines, pieced_together) = read_lines()?;
        Ok(Self::out_of(&lines, pieced_together, Effort::thorough()))
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

    /// Looks at one inode.
    fn of_inode(inode: Inode, effort: Effort) -> io::Result<Self> {
        const TRIES: usize = 3;
        let mut tries = 0;
        loop {
            tries += 1;
            let (mut lines, pieced_together) = read_lines()?;
            lines.retain(|line| line.lock.inode == inode);
            let found = lines.iter().any(|line| line.depth == 0);
            if found || !pieced_together || tries == TRIES {
                let looks_hidden = !found && effort.thorough;
                if !found && !looks_hidden {
                    return Ok(Self { gaps: Gaps::now(pieced_together), ..Self::default() });
                }
                return Ok(Self::around(inode, &lines, pieced_together, effort));
            }
        }
    }

    fn around(inode: Inode, lines: &[Line], pieced_together: bool, effort: Effort) -> Self {
        let mut wanted = Wanted::default();
        wanted.add(inode, true);
        Self::look(lines, &wanted, pieced_together, effort)
    }

    fn out_of(lines: &[Line], pieced_together: bool, effort: Effort) -> Self {
        let mut wanted = Wanted::default();
        for line in lines {
            wanted.add(line.lock.inode, line.depth > 0);
        }
        Self::look(lines, &wanted, pieced_together, effort)
    }

    fn look(lines: &[Line], wanted: &Wanted, pieced_together: bool, effort: Effort) -> Self {
        let mut scan = Scan::new(wanted, effort.until);
        if effort.thorough {
            scan.everybody(|_| false);
        } else {
            for pid in lines.iter().filter_map(|line| line.lock.pid) {
                scan.look_at(pid);
            }
            if !all_accounted_for(lines, &scan) {
                scan.everybody(|scan| all_accounted_for(lines, scan));
            }
            // The youngest come first, and have inherited the lock if an ancestor has it, too.
            scan.ancestors_of_nameless_holders();
        }
        let files = build::build(lines, &mut scan, effort.thorough);
        let mut gaps = Gaps::now(pieced_together);
        gaps.cut_short = scan.cut_short;
        gaps.not_permitted = std::mem::take(&mut scan.not_permitted);
        Self { files, gaps }
    }
}

/// How hard to look.
#[derive(Clone, Copy)]
struct Effort {
    /// At everybody, not only until all locks and requests have somebody.
    thorough: bool,
    until: Option<Instant>,
}

impl Effort {
    fn thorough() -> Self {
        Self { thorough: true, until: None }
    }

    fn quick() -> Self {
        Self { thorough: false, until: None }
    }

    fn at_most(limit: Duration) -> Self {
        Self { thorough: false, until: Instant::now().checked_add(limit) }
    }
}

impl Gaps {
    fn now(pieced_together: bool) -> Self {
        Self { pieced_together, hidden: !is_first_pid_namespace(), ..Self::default() }
    }
}

/// Whether somebody is known for every lock, and for every request.
fn all_accounted_for(lines: &[Line], scan: &Scan<'_>) -> bool {
    let mut open: HashMap<&Told, usize> = HashMap::new();
    let mut nameless = 0;
    for line in lines {
        if line.depth == 0 {
            *open.entry(&line.lock).or_default() += 1;
        } else if line.lock.pid.is_none() {
            nameless += 1;
        }
    }
    for lock in scan.openers.iter().flat_map(|opener| &opener.locks) {
        if let Some(count) = open.get_mut(lock) {
            *count = count.saturating_sub(1);
        }
    }
    let sleepers = scan.blocked.iter().filter(|blocked| blocked.kind == Kind::Ofd);
    sleepers.count() >= nameless
        && open.iter().all(|(lock, count)| {
            *count == 0 || lock.pid.is_some_and(|pid| scan.not_permitted.contains(&pid))
        })
}

/// Whether the kernel's table shows the locks of all processes: the first pid namespace has this
/// fixed number.
fn is_first_pid_namespace() -> bool {
    const FIRST: u64 = 0xEFFF_FFFC;
    rustix::fs::stat("/proc/self/ns/pid").map_or(true, |status| status.st_ino == FIRST)
}

/// Reads the table, in pieces as large as the kernel gives them (a page); says whether there was more
/// than one. Each piece is true of one moment, but between two of them lines are lost or told twice
/// when locks come and go.
fn read_lines() -> io::Result<(Vec<Line>, bool)> {
    let mut file = File::open("/proc/locks")?;
    let (mut text, mut piece, mut pieces) = (Vec::new(), vec![0; 1 << 14], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok((line::lines(&text).collect(), pieces > 1)),
            count => text.extend_from_slice(&piece[..count]),
        }
        pieces += 1;
    }
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
