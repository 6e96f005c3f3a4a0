//! Who was in the way of an acquisition: looked up when somebody asks, and not before.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::mode::Mechanism;
use crate::printable::shown;
use crate::record::Record;
use crate::sys::file::Identity;

use super::age::Age;
use super::scan::Devices;
use super::table::{Holder, Inode, Kind, Lock, LockTable, LockedFile, Standing};
use super::{Effort, read_lines};

/// Who was in the way of an acquisition. Nothing is looked up until somebody asks.
#[derive(Clone, Debug)]
pub struct Contention {
    obstacle: Option<(Identity, Obstacle)>,
}

/// What kept the lock from being acquired.
#[derive(Clone, Copy, Debug)]
enum Obstacle {
    /// A lock that conflicts with one of this mechanism.
    Lock(Mechanism),
    /// A lease, because of which the file cannot even be opened.
    Lease,
}

/// A message may take no longer than this to be put together.
const LIMIT: Duration = Duration::from_millis(20);

impl Contention {
    pub(crate) fn new(identity: Identity, mechanism: Mechanism) -> Self {
        Self { obstacle: Some((identity, Obstacle::Lock(mechanism))) }
    }

    pub(crate) fn of_lease(identity: Identity) -> Self {
        Self { obstacle: Some((identity, Obstacle::Lease)) }
    }

    /// Where the inode is not known, or the holder is another user of the same handle.
    pub(crate) fn unknown() -> Self {
        Self { obstacle: None }
    }

    /// Who holds the lock now: best effort, within some 20 ms, and possibly no longer true. Empty when
    /// nobody does any more.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        self.locks().into_iter().flat_map(|lock| lock.holders).collect()
    }

    /// How many requests are queued for the lock now. Best effort, as [`holders`](Self::holders).
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.locks().iter().map(|lock| lock.waiters.len()).sum()
    }

    fn locks(&self) -> Vec<Lock> {
        self.file().map(|file| file.locks).unwrap_or_default()
    }

    /// What the kernel says is in the way.
    fn file(&self) -> Option<LockedFile> {
        let (identity, obstacle) = self.obstacle?;
        let inode = named_in_the_table(identity)?;
        let table = LockTable::of_inode(inode, Effort::at_most(LIMIT)).unwrap_or_default();
        let matters = |lock: &Lock| match obstacle {
            Obstacle::Lock(mechanism) => {
                lock.kind.shares_a_space_with(&mechanism.into()) && !lock.is_gate()
            }
            Obstacle::Lease => lock.kind == Kind::Lease,
        };
        let mut file = table.files.into_iter().next()?;
        file.locks.retain(matters);
        Some(file)
    }

    /// Says in an error's text who is in the way, on the lock file with this path.
    pub(crate) fn describe(&self, path: Option<&Path>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        let Some(mut file) = self.file() else { return Ok(()) };
        file.path = path.map(Path::to_path_buf);
        let record = file.record();
        let locks = &file.locks;
        let lease = matches!(self.obstacle, Some((_, Obstacle::Lease)));
        let mut told = 0;
        let mut more = 0;
        for lock in locks {
            let Some(first) = lock.holders.first().filter(|holder| holder.process.is_some()) else {
                continue;
            };
            if told == SHOWN {
                more += 1;
                continue;
            }
            f.write_str(match (told, lease) {
                (0, true) => ", kept from being opened by a lease of ",
                (0, false) => ", held by ",
                _ => " and ",
            })?;
            told += 1;
            describe(first, record.as_ref(), f)?;
            if first.standing == Standing::Gone {
                let heir = lock.holders.iter().find(|holder| {
                    holder.standing == Standing::Inherited && holder.process.is_some()
                });
                match heir {
                    Some(heir) => {
                        f.write_str(", which has ended; inherited by ")?;
                        describe(heir, record.as_ref(), f)?;
                    }
                    None => f.write_str(
                        ", which has ended; the lock lives on in a process that has its descriptor",
                    )?,
                }
            }
        }
        match (told, more) {
            (0, _) if locks.is_empty() => Ok(()),
            (0, _) => f.write_str(", holder not visible"),
            (_, 0) => Ok(()),
            (_, more) => write!(f, " and {more} more"),
        }
    }
}

/// `pid 42 (command, user) for 3m12s: "note"`
fn describe(holder: &Holder, record: Option<&Record>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const WIDTH: usize = 60;
    let Some(process) = &holder.process else { return f.write_str("somebody") };
    write!(f, "pid {}", process.pid)?;
    if process.ended {
        return Ok(());
    }
    // Of `lockmgr run` it is the command that matters; it says so in its record.
    let record = record.filter(|record| record.start == process.start);
    let command = record.filter(|record| !record.command.is_empty()).map_or_else(
        || process.command_line(WIDTH),
        |record| shown(record.command.join(" ").as_bytes(), WIDTH),
    );
    write!(f, " ({command}, {})", process.user())?;
    let Some(record) = record else { return Ok(()) };
    if let Ok(age) = SystemTime::now().duration_since(record.since) {
        write!(f, " for {}", Age(age))?;
    }
    match &record.note {
        Some(note) => write!(f, ": \"{}\"", shown(note.as_bytes(), WIDTH)),
        None => Ok(()),
    }
}

/// The inode as the kernel's table names it: on some filesystems with another device than `stat`.
fn named_in_the_table(identity: Identity) -> Option<Inode> {
    let plain = Inode {
        major: rustix::fs::major(identity.device),
        minor: rustix::fs::minor(identity.device),
        number: identity.inode,
    };
    let (lines, _) = read_lines().ok()?;
    let mut named = lines.iter().map(|line| line.lock.inode);
    if named.clone().any(|inode| inode == plain) {
        return Some(plain);
    }
    if Devices::mounted().is_plain((plain.major, plain.minor)) {
        return None;
    }
    named.find(|inode| inode.number == plain.number)
}
