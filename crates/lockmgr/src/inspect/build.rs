//! From the kernel's lines and what was seen in /proc to a table of locks with holders and waiters.
//!
//! A line and a descriptor belong together when fdinfo repeats the line. Several locks can be told in
//! the same words (shared `ofd` locks of one range, two descriptions of one process); then the
//! descriptors are sorted into descriptions by `kcmp(2)`, one for each line.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::sys::process::compare_descriptions;

use super::line::{Line, Told};
use super::process::Process;
use super::scan::{Opener, Scan, path_of};
use super::table::{Holder, Inode, Kind, Lock, LockedFile, Standing, Waiter};
use super::threads::Blocked;

/// Builds the files' locks out of the lines. `thorough` when everybody was looked at.
pub(super) fn build(lines: &[Line], scan: &mut Scan<'_>, thorough: bool) -> Vec<LockedFile> {
    let mut builder = Builder::new(lines, scan);
    let mut lines = lines.iter().peekable();
    while let Some(line) = lines.next() {
        if line.depth > 0 {
            // Its lock's line was lost between two reads.
            continue;
        }
        let mut waiters = Vec::new();
        while let Some(blocked) = lines.next_if(|next| next.depth > 0 && next.number == line.number)
        {
            waiters.push(builder.waiter(blocked));
        }
        builder.add(line.lock.clone(), waiters);
    }
    if thorough {
        builder.add_what_the_table_hides();
    }
    builder.add_late_waiters();
    builder.finish()
}

struct Builder<'s, 'w> {
    scan: &'s mut Scan<'w>,
    files: Vec<LockedFile>,
    place: HashMap<Inode, usize>,
    /// Descriptions that show a lock, for each way of telling it; each line takes one away.
    descriptions: HashMap<Told, Vec<Vec<usize>>>,
    /// How many requests are told alike.
    alike: HashMap<Told, usize>,
    blocked: Vec<Blocked>,
    ancestors: HashMap<u32, u32>,
}

impl<'s, 'w> Builder<'s, 'w> {
    fn new(lines: &[Line], scan: &'s mut Scan<'w>) -> Self {
        let mut held: HashMap<&Told, usize> = HashMap::new();
        let mut alike = HashMap::new();
        for line in lines {
            if line.depth == 0 {
                *held.entry(&line.lock).or_default() += 1;
            } else {
                *alike.entry(line.lock.clone()).or_default() += 1;
            }
        }
        let mut showing: HashMap<Told, Vec<usize>> = HashMap::new();
        for (index, opener) in scan.openers.iter().enumerate() {
            for lock in &opener.locks {
                showing.entry(lock.clone()).or_default().push(index);
            }
        }
        let descriptions = showing
            .into_iter()
            .map(|(told, openers)| {
                // One line, so one lock, so one description: nothing to sort.
                let sorted = match held.get(&told) {
                    Some(1) if told.pid.is_some() || openers.len() == 1 => vec![openers],
                    _ => by_description(&scan.openers, openers),
                };
                (told, sorted)
            })
            .collect();
        let blocked = std::mem::take(&mut scan.blocked);
        Self {
            scan,
            files: Vec::new(),
            place: HashMap::new(),
            descriptions,
            alike,
            blocked,
            ancestors: HashMap::new(),
        }
    }

    fn file(&mut self, inode: Inode) -> &mut LockedFile {
        let index = *self.place.entry(inode).or_insert_with(|| {
            self.files.push(LockedFile { inode, path: None, deleted: false, locks: Vec::new() });
            self.files.len() - 1
        });
        &mut self.files[index]
    }

    fn add(&mut self, told: Told, waiters: Vec<Waiter>) {
        let sharers = match self.descriptions.get_mut(&told) {
            Some(descriptions) if !descriptions.is_empty() => descriptions.remove(0),
            _ => Vec::new(),
        };
        let holders = self.holders(&told, &sharers);
        let Told { kind, mode, range, inode, .. } = told;
        self.file(inode).locks.push(Lock { kind, mode, range, holders, waiters });
    }

    /// Who holds a lock that these descriptors show.
    fn holders(&mut self, told: &Told, sharers: &[usize]) -> Vec<Holder> {
        let mut lowest = BTreeMap::new();
        for &sharer in sharers {
            let Opener { pid, descriptor, .. } = self.scan.openers[sharer];
            let number = lowest.entry(pid).or_insert(descriptor);
            *number = descriptor.min(*number);
        }
        let taker = told.pid.or_else(|| self.eldest(&lowest));
        let mut holders = Vec::new();
        if let Some(taker) = taker {
            let process = self.scan.process(taker).cloned();
            // It may have ended since its descriptors were looked at.
            let lives = process.as_ref().is_some_and(|process| !process.zombie);
            let descriptor = lowest.remove(&taker).filter(|_| lives);
            let standing = match &process {
                _ if descriptor.is_some() => Standing::Verified,
                Some(process)
                    if !process.zombie && self.scan.not_permitted.contains(&taker)
                        || self.scan.cut_short =>
                {
                    Standing::NotPermitted
                }
                _ => Standing::Gone,
            };
            let process = process.or_else(|| Some(Process::ended(taker)));
            holders.push(Holder { process, descriptor, standing });
        }
        let standing = if taker.is_some() { Standing::Inherited } else { Standing::Unclear };
        for (pid, descriptor) in lowest {
            let process = self.scan.process(pid).filter(|process| !process.zombie).cloned();
            if process.is_some() {
                holders.push(Holder { process, descriptor: Some(descriptor), standing });
            }
        }
        let lives_on = holders.iter().any(|holder| holder.standing != Standing::Gone);
        if holders.is_empty() || !lives_on && self.must_be_held_by_somebody(told) {
            holders.push(Holder {
                process: None,
                descriptor: None,
                standing: Standing::NotVisible,
            });
        }
        holders
    }

    /// A recorded process that has gone can be the last one only if the lock has gone since.
    fn must_be_held_by_somebody(&self, told: &Told) -> bool {
        told.kind != Kind::Posix && !self.scan.not_permitted.is_empty()
    }

    /// Of processes that share a description, the one that all others descend from.
    fn eldest(&mut self, sharers: &BTreeMap<u32, u32>) -> Option<u32> {
        if sharers.len() < 2 {
            return sharers.keys().next().copied();
        }
        let mut eldest = None;
        for &pid in sharers.keys() {
            if !self.descends_from_any(pid, sharers) && eldest.replace(pid).is_some() {
                return None;
            }
        }
        eldest
    }

    fn descends_from_any(&mut self, pid: u32, sharers: &BTreeMap<u32, u32>) -> bool {
        // More generations than anybody has; pids that change hands meanwhile could form a ring.
        const GENERATIONS: usize = 1000;
        let mut current = pid;
        for _ in 0..GENERATIONS {
            let parent = match self.ancestors.get(&current) {
                Some(&parent) => parent,
                None => self.scan.process(current).map_or(0, |process| process.parent),
            };
            self.ancestors.insert(current, parent);
            if parent == 0 {
                return false;
            }
            if sharers.contains_key(&parent) {
                return true;
            }
            current = parent;
        }
        false
    }

    fn waiter(&mut self, line: &Line) -> Waiter {
        let told = &line.lock;
        let fits = |blocked: &Blocked| {
            blocked.inode == told.inode
                && blocked.kind == told.kind
                && blocked.mode.is_none_or(|mode| mode == told.mode)
                && blocked.range.is_none_or(|range| range == told.range)
                && told.pid.is_none_or(|pid| pid == blocked.pid)
        };
        let found = self.blocked.iter().position(fits).map(|index| self.blocked.remove(index));
        let pid = told.pid.or(found.as_ref().map(|blocked| blocked.pid));
        Waiter {
            process: pid
                .map(|pid| self.scan.process(pid).cloned().unwrap_or_else(|| Process::ended(pid))),
            thread: found.as_ref().map(|blocked| blocked.thread),
            descriptor: found.as_ref().map(|blocked| blocked.descriptor),
            kind: told.kind.clone(),
            mode: told.mode,
            range: told.range,
            depth: line.depth,
            interchangeable: self.alike.get(told).is_some_and(|count| *count > 1),
        }
    }

    /// Descriptions with locks that the table has no line for: it hides those of owners outside this
    /// pid namespace, and loses some when it is long and changes while it is read.
    fn add_what_the_table_hides(&mut self) {
        let mut hidden: Vec<(Told, Vec<usize>)> = Vec::new();
        for (told, descriptions) in &mut self.descriptions {
            let told = told.clone();
            hidden.extend(descriptions.drain(..).map(|sharers| (told.clone(), sharers)));
        }
        hidden.sort_by_key(|(told, sharers)| (told.inode, sharers.first().copied()));
        for (told, sharers) in hidden {
            let holders = self.holders(&told, &sharers);
            let Told { kind, mode, range, inode, .. } = told;
            let waiters = Vec::new();
            self.file(inode).locks.push(Lock { kind, mode, range, holders, waiters });
        }
    }

    /// Threads that were seen asleep in a lock call without a line: it came after the table was read,
    /// or is hidden.
    fn add_late_waiters(&mut self) {
        for blocked in std::mem::take(&mut self.blocked) {
            let Blocked { pid, thread, descriptor, inode, kind, mode, range } = blocked;
            let (Some(mode), Some(range)) = (mode, range) else { continue };
            let Some(process) = self.scan.process(pid).cloned() else { continue };
            let Some(&index) = self.place.get(&inode) else { continue };
            let in_the_way = |lock: &&mut Lock| {
                lock.kind.shares_a_space_with(&kind)
                    && lock.mode.conflicts_with(mode)
                    && lock.range.overlaps(range)
            };
            if let Some(lock) = self.files[index].locks.iter_mut().find(in_the_way) {
                lock.waiters.push(Waiter {
                    process: Some(process),
                    thread: Some(thread),
                    descriptor: Some(descriptor),
                    kind,
                    mode,
                    range,
                    depth: 1,
                    interchangeable: true,
                });
            }
        }
    }

    fn finish(mut self) -> Vec<LockedFile> {
        let mut openers: HashMap<Inode, (u32, u32)> = HashMap::new();
        for opener in &self.scan.openers {
            openers.entry(opener.inode).or_insert((opener.pid, opener.descriptor));
        }
        for file in &mut self.files {
            let holder = file
                .locks
                .iter()
                .flat_map(|lock| &lock.holders)
                .find_map(|holder| Some((holder.pid()?, holder.descriptor?)));
            if let Some((pid, descriptor)) = holder.or(openers.get(&file.inode).copied())
                && let Some((path, deleted)) = path_of(pid, descriptor)
            {
                file.path = Some(PathBuf::from(std::ffi::OsString::from_vec(path)));
                file.deleted = deleted;
            }
        }
        self.files
    }
}

/// Sorts descriptors into open file descriptions. Where the kernel does not compare them for us, each
/// one counts as its own.
fn by_description(openers: &[Opener], indexes: Vec<usize>) -> Vec<Vec<usize>> {
    let mut sorted: Vec<Vec<usize>> = Vec::new();
    for index in indexes {
        let mine = &openers[index];
        let same = sorted.iter_mut().find(|description| {
            description.first().is_some_and(|first| {
                let other = &openers[*first];
                compare_descriptions((mine.pid, mine.descriptor), (other.pid, other.descriptor))
                    == Some(true)
            })
        });
        match same {
            Some(description) => description.push(index),
            None => sorted.push(vec![index]),
        }
    }
    sorted
}
