//! One look at the kernel's table, made ready to be shown: a row for each lock, with ages and counts;
//! and the memory that the ages come from.
//!
//! The kernel does not know since when a lock is held. So ages count from when this program first saw
//! the holder (or waiter) at this very lock, and what was there at the first look may be older. Between
//! two looks a lock can change hands and come back, unseen.

use std::collections::{HashMap, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;
use std::time::Instant;

use lockmgr::inspect::{
    Deadlock, Holder, Inode, Kind, Lock, LockTable, LockedFile, Process, Standing, Waiter,
    printable,
};
use lockmgr::{Mode, Range};

use crate::kill::aim::is_same;

use super::text::Age;

/// So many looks are remembered for the curves.
const REMEMBERED: usize = 240;

/// What a look found.
pub(super) struct Look {
    pub(super) table: LockTable,
    pub(super) deadlocks: Vec<Deadlock>,
    pub(super) at: Instant,
}

/// Which lock: the file, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct WhichLock {
    pub(super) inode: Inode,
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    pub(super) range: Range,
}

impl WhichLock {
    pub(super) fn new(inode: Inode, lock: &Lock) -> Self {
        Self { inode, kind: lock.kind.clone(), mode: lock.mode, range: lock.range }
    }

    /// Whether that process holds it by its own doing: only an inherited, recorded or shared description
    /// does not count.
    pub(super) fn is_held_by(&self, process: &Process, table: &LockTable) -> bool {
        table
            .files
            .iter()
            .filter(|file| file.inode == self.inode)
            .flat_map(|file| &file.locks)
            .filter(|found| Self::new(self.inode, found) == *self)
            .flat_map(|found| &found.holders)
            .filter(|holder| holder.standing == Standing::Verified)
            .filter_map(|holder| holder.process.as_ref())
            .any(|holder| is_same(holder, process))
    }
}

/// A process, whatever becomes of its number.
type Who = Option<(u32, u64)>;

/// A lock and the first of its holders: what a row is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LockId {
    pub(super) lock: WhichLock,
    pub(super) who: Who,
}

impl LockId {
    /// What stays the same when the lock changes hands.
    pub(super) fn place(&self) -> Place {
        Place { inode: self.lock.inode, kind: self.lock.kind.clone(), range: self.lock.range }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    inode: Inode,
    kind: Kind,
    range: Range,
}

#[derive(PartialEq, Eq, Hash)]
enum Sighting {
    Holds(LockId),
    Waits { lock: WhichLock, who: Who, thread: Option<u32> },
}

/// When everything that is there was first seen, and how many waited.
#[derive(Default)]
pub(super) struct Memory {
    since: HashMap<Sighting, (Instant, bool)>,
    waiting: HashMap<Place, VecDeque<u64>>,
    total: VecDeque<u64>,
    looked: bool,
}

impl Memory {
    /// Takes a look into account, and makes a picture of it.
    pub(super) fn learn(&mut self, look: Look) -> Picture {
        let before = std::mem::take(&mut self.since);
        let is_first = !self.looked;
        self.looked = true;
        let mut first_seen = |sighting: Sighting| {
            let seen = before.get(&sighting).copied().unwrap_or((look.at, is_first));
            // Two that cannot be told apart are as old as the first of them.
            let (since, or_more) = *self.since.entry(sighting).or_insert(seen);
            Age { seen: look.at.saturating_duration_since(since), or_more }
        };
        let mut rows = Vec::new();
        for (file_at, file) in look.table.files.iter().enumerate() {
            for (lock_at, lock) in file.locks.iter().enumerate() {
                let id = id_of(file.inode, lock);
                let held = first_seen(Sighting::Holds(id.clone()));
                let waits = lock.waiters.iter().map(|waiter| first_seen(waits(file.inode, waiter)));
                let waits: Vec<Age> = waits.collect();
                rows.push(Row {
                    path: shown_path(file),
                    held,
                    oldest: waits.iter().copied().max_by_key(|age| (age.seen, age.or_more)),
                    waits,
                    deadlock: in_circle(&look.deadlocks, file.inode, lock),
                    haystack: haystack(file, lock),
                    id,
                    at: (file_at, lock_at),
                });
            }
        }
        self.count(&rows);
        Picture {
            total: self.total.iter().copied().collect(),
            waiting: self.waiting.iter().map(|(at, counts)| (at.clone(), counts.clone())).collect(),
            table: look.table,
            deadlocks: look.deadlocks,
            at: look.at,
            rows,
        }
    }

    fn count(&mut self, rows: &[Row]) {
        let mut now: HashMap<Place, u64> = HashMap::new();
        for row in rows {
            *now.entry(row.id.place()).or_default() += row.waits.len() as u64;
        }
        remember(&mut self.total, now.values().sum());
        for (place, counts) in &mut self.waiting {
            remember(counts, now.remove(place).unwrap_or(0));
        }
        // A place that is free and unwanted for as long as we remember is forgotten.
        self.waiting.retain(|_, counts| counts.iter().any(|&count| count > 0));
        for (place, count) in now.into_iter().filter(|&(_, count)| count > 0) {
            self.waiting.insert(place, VecDeque::from([count]));
        }
    }
}

fn remember(counts: &mut VecDeque<u64>, count: u64) {
    counts.push_back(count);
    if counts.len() > REMEMBERED {
        counts.pop_front();
    }
}

/// What is shown until the next look.
pub(super) struct Picture {
    pub(super) table: LockTable,
    pub(super) deadlocks: Vec<Deadlock>,
    pub(super) at: Instant,
    /// In the order of the table.
    pub(super) rows: Vec<Row>,
    /// How many waited at each look, the newest last.
    pub(super) total: Vec<u64>,
    waiting: HashMap<Place, VecDeque<u64>>,
}

impl Picture {
    pub(super) fn empty() -> Rc<Self> {
        Rc::new(Self {
            table: LockTable::default(),
            deadlocks: Vec::new(),
            at: Instant::now(),
            rows: Vec::new(),
            total: Vec::new(),
            waiting: HashMap::new(),
        })
    }

    pub(super) fn file_and_lock(&self, row: &Row) -> (&LockedFile, &Lock) {
        let file = &self.table.files[row.at.0];
        (file, &file.locks[row.at.1])
    }

    /// How many waited there at each look, the newest last.
    pub(super) fn waited_for(&self, place: &Place) -> Vec<u64> {
        self.waiting.get(place).into_iter().flatten().copied().collect()
    }

    pub(super) fn waiters(&self) -> usize {
        self.rows.iter().map(|row| row.waits.len()).sum()
    }

    pub(super) fn contended(&self) -> usize {
        self.rows.iter().filter(|row| !row.waits.is_empty()).count()
    }
}

/// One lock.
pub(super) struct Row {
    pub(super) id: LockId,
    /// The file's path as it may be printed.
    pub(super) path: String,
    pub(super) held: Age,
    /// The waiters' ages, in the kernel's order.
    pub(super) waits: Vec<Age>,
    pub(super) oldest: Option<Age>,
    /// It is part of a circle, and whether that is certain.
    pub(super) deadlock: Option<bool>,
    /// What a filter looks at, in lower case.
    pub(super) haystack: Vec<String>,
    /// Where it is in the table.
    at: (usize, usize),
}

fn who(process: Option<&Process>) -> Who {
    process.map(|process| (process.pid, process.start))
}

pub(super) fn id_of(inode: Inode, lock: &Lock) -> LockId {
    let first = lock.holders.first();
    LockId {
        lock: WhichLock::new(inode, lock),
        who: who(first.and_then(|holder| holder.process.as_ref())),
    }
}

fn waits(inode: Inode, waiter: &Waiter) -> Sighting {
    let lock =
        WhichLock { inode, kind: waiter.kind.clone(), mode: waiter.mode, range: waiter.range };
    Sighting::Waits { lock, who: who(waiter.process.as_ref()), thread: waiter.thread }
}

/// Whether the lock is in the way of somebody in a circle, and the circle is certain.
pub(super) fn in_circle(deadlocks: &[Deadlock], inode: Inode, lock: &Lock) -> Option<bool> {
    deadlocks
        .iter()
        .filter(|circle| {
            circle.links.iter().any(|link| {
                let which = WhichLock {
                    inode: link.inode,
                    kind: link.kind.clone(),
                    mode: link.mode,
                    range: link.range,
                };
                which == WhichLock::new(inode, lock)
                    && lock.holders.iter().any(|holder| holder.pid() == Some(link.holder.pid))
            })
        })
        .map(|circle| circle.certain)
        .max()
}

/// The file's path as it may be printed, or its inode.
pub(super) fn shown_path(file: &LockedFile) -> String {
    match &file.path {
        Some(path) => {
            let deleted = if file.deleted { " (deleted)" } else { "" };
            format!("{}{deleted}", printable(path.as_os_str().as_bytes()))
        }
        None => format!("inode {}", file.inode),
    }
}

fn haystack(file: &LockedFile, lock: &Lock) -> Vec<String> {
    const WIDTH: usize = 1000;
    let holders = lock.holders.iter().filter_map(|holder| holder.process.as_ref());
    let waiters = lock.waiters.iter().filter_map(|waiter| waiter.process.as_ref());
    let mut words = vec![shown_path(file).to_lowercase()];
    for process in holders.chain(waiters) {
        words.push(process.pid.to_string());
        words.push(process.user().to_lowercase());
        words.push(process.command_line(WIDTH).to_lowercase());
    }
    words
}

/// The bytes, when it is not the whole file.
pub(super) fn shown_range(range: Range) -> Option<String> {
    (range != Range::WHOLE).then(|| range.to_string())
}

/// The holder that a signal would be for: it took the lock and has it now.
pub(super) fn verified_holder(lock: &Lock) -> Option<&Process> {
    lock.holders
        .iter()
        .find(|holder| holder.standing == Standing::Verified)
        .and_then(|holder: &Holder| holder.process.as_ref())
}
