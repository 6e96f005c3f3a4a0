//! Who was in the way of an acquisition: looked up when somebody asks, and not before.

use std::fmt;
use std::io;
use std::mem;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::mode::{Mechanism, Range};
use crate::printable::shown;
use crate::record::Record;
use crate::sys::file::Identity;

use super::age::Age;
use super::devices::Devices;
use super::place::status_name;
use super::reading::Reading;
use super::scan::Limit;
use super::table::{Gaps, Holder, Inode, Kind, Lock, LockTable, LockedFile, Standing};
use super::{Effort, is_first_pid_namespace};

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
    /// As `Lock`, but what was asked for is the gate before it, which a record lock of this mechanism and
    /// range covers.
    Gate(Mechanism, (Mechanism, Range)),
    /// A lease, because of which the file cannot even be opened.
    Lease,
}

/// A message may take no longer than this to be put together.
const LIMIT: Duration = Duration::from_millis(20);

impl Contention {
    pub(crate) fn new(identity: Identity, mechanism: Mechanism) -> Self {
        Self { obstacle: Some((identity, Obstacle::Lock(mechanism))) }
    }

    pub(crate) fn at_gate(
        identity: Identity,
        mechanism: Mechanism,
        taken_by: (Mechanism, Range),
    ) -> Self {
        Self { obstacle: Some((identity, Obstacle::Gate(mechanism, taken_by))) }
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
        self.file(None).0.map(|file| file.locks).unwrap_or_default()
    }

    /// The file, which may have this path, with no locks but those that are in the way; and what could not
    /// be seen.
    pub(crate) fn file(&self, path: Option<&Path>) -> (Option<LockedFile>, Gaps) {
        let Some((identity, obstacle)) = self.obstacle else { return Default::default() };
        let mut effort = Effort::at_most(LIMIT);
        // Where the kernel's table hides locks, descriptors may show them.
        effort.hidden = !is_first_pid_namespace();
        effort.thorough = effort.hidden;
        let status = status_name(identity);
        let mut table = LockTable::default();
        for inode in named_in_the_table(status, effort.limit) {
            table = LockTable::of_inode(inode, Some(status), effort).unwrap_or_default();
            if !table.files.is_empty() {
                break;
            }
        }
        let mut file = table.files.into_iter().next();
        if let Some(file) = &mut file {
            // Who merely stands in the gate waits for the lock itself like we do.
            let free = !file.locks.iter().any(|lock| obstacle.is_lock(lock));
            file.locks.retain(|lock| {
                obstacle.is_lock(lock) || obstacle.is_at_gate(lock) && (free || !lock.is_gate())
            });
            file.locks.sort_by_key(|lock| !obstacle.is_lock(lock));
            file.path = path.map(Path::to_path_buf);
        }
        (file, table.gaps)
    }

    /// Says in an error's text who is in the way, on the lock file with this path.
    pub(crate) fn describe(&self, path: Option<&Path>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        // Somebody has it, if only for a moment more.
        let hidden = self.obstacle.is_some() && !is_first_pid_namespace();
        let nobody = if hidden { ", holder not visible" } else { "" };
        let (file, gaps) = self.file(path);
        let Some(file) = file else { return f.write_str(nobody) };
        let record = file.record();
        let locks = &file.locks;
        let mut said = "";
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
            let way = self.obstacle.map_or("held by ", |(_, obstacle)| obstacle.way_of(lock));
            f.write_str(if told == 0 { ", " } else { " and " })?;
            f.write_str(if mem::replace(&mut said, way) == way { "" } else { way })?;
            told += 1;
            describe(first, record.as_ref(), f)?;
            if first.standing == Standing::Gone {
                // The eldest: this process, too, may have inherited it from the one that matters.
                let heir = lock
                    .holders
                    .iter()
                    .filter(|holder| holder.standing == Standing::Inherited)
                    .filter_map(|holder| Some((holder.process.as_ref()?.start, holder)))
                    .min_by_key(|(start, _)| *start)
                    .map(|(_, heir)| heir);
                f.write_str(match &first.process {
                    Some(process) if !process.ended => ", which does not have it any more; ",
                    _ => ", which has ended; ",
                })?;
                match heir {
                    Some(heir) => {
                        f.write_str("inherited by ")?;
                        describe(heir, record.as_ref(), f)?;
                    }
                    None => {
                        f.write_str("the lock lives on in a process that has its descriptor")?;
                    }
                }
            }
        }
        match (told, more) {
            (0, _) if locks.is_empty() => f.write_str(nobody),
            (0, _) => match gaps.errno.map(io::Error::from_raw_os_error) {
                Some(error) => write!(f, ", holder not found: {error}"),
                None if gaps.cut_short => f.write_str(", holder not found in time"),
                None => f.write_str(", holder not visible"),
            },
            (_, 0) => Ok(()),
            (_, more) => write!(f, " and {more} more"),
        }
    }
}

impl Obstacle {
    /// Whether it is that lock, but for the gate.
    fn is_lock(self, lock: &Lock) -> bool {
        match self {
            Obstacle::Lock(mechanism) | Obstacle::Gate(mechanism, _) => {
                lock.kind.shares_a_space_with(&mechanism.into()) && !lock.is_gate()
            }
            Obstacle::Lease => lock.kind == Kind::Lease,
        }
    }

    fn is_at_gate(self, lock: &Lock) -> bool {
        matches!(self, Obstacle::Gate(_, (mechanism, range))
            if lock.kind == mechanism.into() && lock.range == range)
    }

    /// How the lock is in the way.
    fn way_of(self, lock: &Lock) -> &'static str {
        match self {
            Obstacle::Lease => "kept from being opened by a lease of ",
            Obstacle::Gate(..) if !self.is_lock(lock) => "its gate is taken by ",
            Obstacle::Lock(_) | Obstacle::Gate(..) => "held by ",
        }
    }
}

/// `pid 42 (command, user) for 3m12s: "note"`
fn describe(holder: &Holder, record: Option<&Record>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const WIDTH: usize = 60;
    let Some(process) = &holder.process else { return f.write_str("somebody") };
    write!(f, "pid {}", process.pid)?;
    if !process.is_known() {
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

/// The inodes that the kernel's table may mean by it: on some filesystems it has another device than
/// `stat`.
fn named_in_the_table(status: Inode, limit: Limit) -> Vec<Inode> {
    let devices = Devices::mounted();
    if devices.is_plain((status.major, status.minor)) {
        return vec![status];
    }
    let reading = Reading::of_number(status.number, limit).unwrap_or_default();
    let mut named: Vec<Inode> = reading.lines.iter().map(|line| line.lock.inode).collect();
    named.retain(|inode| *inode == status || !devices.is_plain((inode.major, inode.minor)));
    named.sort();
    named.dedup();
    named
}
