//! From the kernel's lines and what was seen in /proc to a table of locks with holders and waiters.
//!
//! A line and a descriptor belong together when fdinfo repeats the line. Several locks can be told in
//! the same words (shared `ofd` locks of one range, two descriptions of one process); then the
//! descriptors are sorted into descriptions by `kcmp(2)`, one for each line.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::sys::process::compare_descriptions as compare;

use super::fdinfo::OpenedAs;
use super::line::{Line, Told};
use super::process::Process;
use super::reading::Reading;
use super::scan::{Opener, Scan, is_there};
use super::table::{Holder, Inode, Kind, Lock, LockedFile, Standing, Waiter};
use super::threads::Blocked;

/// Builds a table.
pub(super) struct Builder<'s, 'w> {
    scan: &'s mut Scan<'w>,
    files: Vec<LockedFile>,
    place: HashMap<Inode, usize>,
    /// What each lock was told as, by file.
    told: Vec<Vec<Told>>,
    /// Descriptions that show a lock, for each way of telling it; each line takes one away.
    descriptions: HashMap<Told, VecDeque<Vec<usize>>>,
    blocked: BTreeMap<Inode, Vec<Blocked>>,
    parents: HashMap<u32, u32>,
}

impl<'s, 'w> Builder<'s, 'w> {
    pub(super) fn new(lines: &[Line], scan: &'s mut Scan<'w>) -> Self {
        let mut held: HashMap<&Told, usize> = HashMap::new();
        for line in lines.iter().filter(|line| line.depth == 0) {
            *held.entry(&line.lock).or_default() += 1;
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
                let lines = held.get(&told).copied().unwrap_or(0);
                // One line, so one lock, so one description: nothing to sort. (The one of another
                // pid namespace has no line, and no pid that would tell it apart.)
                let sorted = if openers.len() == 1 || lines == 1 && told.pid.is_some() {
                    VecDeque::from([openers])
                } else {
                    by_description(&scan.openers, openers, lines)
                };
                (told, sorted)
            })
            .collect();
        let mut blocked: BTreeMap<Inode, Vec<Blocked>> = BTreeMap::new();
        for thread in std::mem::take(&mut scan.blocked) {
            blocked.entry(thread.inode).or_default().push(thread);
        }
        Self {
            scan,
            files: Vec::new(),
            place: HashMap::new(),
            told: Vec::new(),
            descriptions,
            blocked,
            parents: HashMap::new(),
        }
    }

    /// Adds the locks that the kernel's table has, with their waiters.
    pub(super) fn add_lines(&mut self, lines: &[Line]) {
        let mut locks: Vec<(&Told, Vec<Waiter>, Vec<usize>)> = Vec::new();
        let mut lines = lines.iter().peekable();
        while let Some(line) = lines.next() {
            if line.depth > 0 {
                // Its lock's line was lost between two reads.
                continue;
            }
            let mut waiters = Vec::new();
            while let Some(blocked) =
                lines.next_if(|next| next.depth > 0 && next.number == line.number)
            {
                waiters.push(self.waiter(blocked));
            }
            locks.push((&line.lock, waiters, Vec::new()));
        }
        // Of locks that are told alike, those with waiters choose first: nobody waits for his own.
        for has_waiters in [true, false] {
            for (told, waiters, sharers) in &mut locks {
                if waiters.is_empty() != has_waiters {
                    *sharers = self.description_for(told, waiters);
                }
            }
        }
        for (told, waiters, sharers) in locks {
            self.add(told, &sharers, waiters);
        }
    }

    /// Takes a description that shows this lock, not one through which the lock's waiters ask.
    fn description_for(&mut self, told: &Told, waiters: &[Waiter]) -> Vec<usize> {
        let openers = &self.scan.openers;
        let asks_through = |description: &Vec<usize>| {
            waiters.iter().any(|waiter| {
                description.iter().map(|index| &openers[*index]).any(|opener| {
                    waiter.kind == told.kind
                        && waiter.pid() == Some(opener.pid)
                        && waiter.descriptor == Some(opener.descriptor)
                })
            })
        };
        let Some(descriptions) = self.descriptions.get_mut(told) else { return Vec::new() };
        let place = descriptions.iter().position(|description| !asks_through(description));
        descriptions.remove(place.unwrap_or(0)).unwrap_or_default()
    }

    fn add(&mut self, told: &Told, sharers: &[usize], waiters: Vec<Waiter>) {
        if sharers.iter().any(|sharer| self.scan.openers[*sharer].on_a_twin) {
            return;
        }
        let holders = self.holders(told, sharers);
        let taker = holders.first().and_then(Holder::pid);
        let came_by_exec = told.kind == Kind::Ofd
            && !sharers
                .iter()
                .map(|sharer| &self.scan.openers[*sharer])
                .any(|opener| Some(opener.pid) == taker && opener.close_on_exec);
        let Told { ref kind, mode, range, inode, .. } = *told;
        let index = *self.place.entry(inode).or_insert_with(|| {
            self.files.push(LockedFile { inode, path: None, deleted: false, locks: Vec::new() });
            self.told.push(Vec::new());
            self.files.len() - 1
        });
        let kind = kind.clone();
        self.files[index].locks.push(Lock { kind, mode, range, holders, waiters, came_by_exec });
        self.told[index].push(told.clone());
    }

    /// Who holds a lock that these descriptors show. Empty when nobody can be named.
    fn holders(&mut self, told: &Told, sharers: &[usize]) -> Vec<Holder> {
        let mut lowest = BTreeMap::new();
        for &sharer in sharers {
            let Opener { pid, descriptor, .. } = self.scan.openers[sharer];
            let number = lowest.entry(pid).or_insert(descriptor);
            *number = descriptor.min(*number);
        }
        let taker = match told.kind {
            Kind::Ofd => self.eldest(&lowest),
            _ => told.pid,
        };
        let mut holders = Vec::new();
        if let Some(taker) = taker {
            let process = self.scan.process(taker).cloned();
            // It may have ended since its descriptors were looked at.
            let lives = process.as_ref().is_some_and(|process| !process.zombie);
            let descriptor = lowest.remove(&taker).filter(|_| lives);
            let (process, standing) = match descriptor {
                Some(_) => (process, Standing::Verified),
                None => self.recorded(taker, lowest.keys()),
            };
            let process = process.or_else(|| Some(Process::ended(taker)));
            holders.push(Holder { process, descriptor, standing });
        }
        let is_from_another = taker.is_some() || told.kind != Kind::Ofd;
        let standing = if is_from_another { Standing::Inherited } else { Standing::Unclear };
        for (pid, descriptor) in lowest {
            let process = self.scan.process(pid).filter(|process| !process.zombie).cloned();
            if process.is_some() {
                holders.push(Holder { process, descriptor: Some(descriptor), standing });
            }
        }
        holders
    }

    /// What can be said of the process that the kernel recorded, and that was not seen to have the lock.
    fn recorded<'a>(
        &mut self,
        pid: u32,
        heirs: impl Iterator<Item = &'a u32>,
    ) -> (Option<Process>, Standing) {
        let is_hidden = self.scan.not_permitted.contains(&pid);
        let was_seen = self.scan.has_seen(pid);
        let might_have_it = is_hidden || self.scan.cut_short && !was_seen;
        let process = self.scan.process(pid).cloned();
        match process {
            Some(process) if might_have_it && !process.zombie => {
                (Some(process), Standing::NotPermitted)
            }
            None if !is_there(pid) => (None, Standing::Gone),
            // /proc hides it, or nothing more could be opened there.
            None => {
                let standing = if was_seen { Standing::Gone } else { Standing::NotPermitted };
                (Some(Process::hidden(pid)), standing)
            }
            Some(process) => {
                // Another process may have the number now: one that is younger than an heir.
                let heirs: Vec<u32> = heirs.copied().collect();
                let is_older = |heir: u32| {
                    self.scan.process(heir).is_some_and(|heir| process.start <= heir.start)
                };
                let is_the_same = !heirs.is_empty() && heirs.into_iter().all(is_older);
                let process = if is_the_same { process } else { Process::hidden(pid) };
                (Some(process), Standing::Gone)
            }
        }
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
            let parent = match self.parents.get(&current) {
                Some(&parent) => parent,
                None => self.scan.process(current).map_or(0, |process| process.parent),
            };
            self.parents.insert(current, parent);
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
            blocked.kind == told.kind
                && blocked.mode.is_none_or(|mode| mode == told.mode)
                && blocked.range.is_none_or(|range| range == told.range)
                && told.pid.is_none_or(|pid| pid == blocked.pid)
        };
        let found = self
            .blocked
            .get_mut(&told.inode)
            .and_then(|asleep| asleep.iter().position(fits).map(|index| asleep.remove(index)));
        let pid = told.pid.or(found.as_ref().map(|blocked| blocked.pid));
        Waiter {
            process: pid
                .map(|pid| self.scan.process(pid).cloned().unwrap_or_else(|| Self::unseen(pid))),
            thread: found.as_ref().map(|blocked| blocked.thread),
            descriptor: found.as_ref().map(|blocked| blocked.descriptor),
            kind: told.kind.clone(),
            mode: told.mode,
            range: told.range,
            depth: line.depth,
            interchangeable: false,
        }
    }

    /// A process that is named as a waiter and not to be seen.
    fn unseen(pid: u32) -> Process {
        if is_there(pid) { Process::hidden(pid) } else { Process::ended(pid) }
    }

    /// Descriptions with locks that the table has no line for: it hides those of owners outside this
    /// pid namespace, and loses some when it is long and changes while it is read.
    pub(super) fn add_what_the_table_hides(&mut self) {
        let mut hidden: Vec<(Told, Vec<usize>)> = Vec::new();
        for (told, descriptions) in &mut self.descriptions {
            hidden.extend(descriptions.drain(..).map(|sharers| (told.clone(), sharers)));
        }
        hidden.sort_by_key(|(told, sharers)| (told.inode, sharers.first().copied()));
        for (told, sharers) in hidden {
            self.add(&told, &sharers, Vec::new());
        }
    }

    /// Threads that were seen asleep in a lock call without a line: it came after the table was read,
    /// or is hidden.
    pub(super) fn add_late_waiters(&mut self) {
        for blocked in std::mem::take(&mut self.blocked).into_values().flatten() {
            let Blocked { pid, thread, descriptor, inode, kind, mode, range } = blocked;
            let (Some(mode), Some(range)) = (mode, range) else { continue };
            let Some(process) = self.scan.process(pid).cloned() else { continue };
            let Some(&index) = self.place.get(&inode) else { continue };
            let waiter = Waiter {
                process: Some(process),
                thread: Some(thread),
                descriptor: Some(descriptor),
                kind,
                mode,
                range,
                depth: 1,
                interchangeable: true,
            };
            put_behind_what_is_in_the_way(&mut self.files[index].locks, waiter);
        }
    }

    /// Looks once more where nobody was found who has a lock now: it may have gone since, and then it is
    /// taken out. Says whether one was.
    pub(super) fn settle_doubts(
        &mut self,
        read_again: impl FnOnce() -> std::io::Result<Reading>,
    ) -> bool {
        // One that is ending closes its descriptors, and is not shown any more while it does.
        let is_doubtful = |lock: &Lock| {
            lock.holders.iter().all(|holder| {
                holder.standing == Standing::Gone
                    || holder.standing == Standing::NotPermitted
                        && holder.process.as_ref().is_some_and(|process| process.ending)
            })
        };
        let mut doubts: HashMap<Told, usize> = HashMap::new();
        for (file, told) in self.files.iter().zip(&self.told) {
            for (_, told) in file.locks.iter().zip(told).filter(|(lock, _)| is_doubtful(lock)) {
                doubts.insert(told.clone(), 0);
            }
        }
        if doubts.is_empty() {
            return false;
        }
        let again = read_again().ok().filter(|again| !again.cut_short);
        for line in again.iter().flat_map(|again| &again.lines).filter(|line| line.depth == 0) {
            if let Some(count) = doubts.get_mut(&line.lock) {
                *count += 1;
            }
        }
        let nobody = if self.scan.cut_short { Standing::NotFound } else { Standing::NotVisible };
        let mut changed = false;
        for (file, told) in self.files.iter_mut().zip(&self.told) {
            // Those of which somebody is known account for their lines first.
            for (_, told) in file.locks.iter().zip(told).filter(|(lock, _)| !is_doubtful(lock)) {
                if let Some(count) = doubts.get_mut(told) {
                    *count = count.saturating_sub(1);
                }
            }
            let mut left_behind = Vec::new();
            let mut told = told.iter();
            file.locks.retain_mut(|lock| {
                let told = told.next().expect("there is one for each lock");
                if !is_doubtful(lock) {
                    return true;
                }
                match doubts.get_mut(told) {
                    Some(count) if *count > 0 => *count -= 1,
                    _ if again.is_some() => {
                        left_behind.append(&mut lock.waiters);
                        changed = true;
                        return false;
                    }
                    _ => {}
                }
                if lock.holders.iter().all(|holder| holder.standing == Standing::Gone) {
                    let (process, descriptor) = (None, None);
                    lock.holders.push(Holder { process, descriptor, standing: nobody });
                }
                true
            });
            for waiter in left_behind.into_iter().filter(|waiter| waiter.thread.is_some()) {
                put_behind_what_is_in_the_way(&mut file.locks, waiter);
            }
        }
        changed
    }

    pub(super) fn finish(self) -> Vec<LockedFile> {
        let Self { mut files, scan, .. } = self;
        files.retain(|file| !file.locks.is_empty());
        for file in &mut files {
            mark_those_alike(&mut file.locks);
            if let Some(OpenedAs { path, deleted }) = scan.names.remove(&file.inode) {
                file.path = Some(path);
                file.deleted = deleted;
            }
        }
        files
    }
}

/// Marks requests that the kernel tells in the same words: which thread is whose line, it does not say.
fn mark_those_alike(locks: &mut [Lock]) {
    let words = |waiter: &Waiter| {
        let pid = if waiter.kind == Kind::Ofd { None } else { waiter.pid() };
        (waiter.kind.clone(), waiter.mode, waiter.range, pid)
    };
    let mut alike: HashMap<_, usize> = HashMap::new();
    for waiter in locks.iter().flat_map(|lock| &lock.waiters) {
        *alike.entry(words(waiter)).or_default() += 1;
    }
    for waiter in locks.iter_mut().flat_map(|lock| &mut lock.waiters) {
        waiter.interchangeable |= alike.get(&words(waiter)).is_some_and(|count| *count > 1);
    }
}

/// Adds a waiter to a lock that keeps it waiting, if there is one.
fn put_behind_what_is_in_the_way(locks: &mut [Lock], waiter: Waiter) {
    if let Some(lock) = locks.iter_mut().find(|lock| waiter.is_blocked_by(lock)) {
        lock.waiters.push(waiter);
    }
}

/// Sorts descriptors into open file descriptions, of which so many are known to be there. The kernel
/// has an order among them. Where it does not compare for us, each descriptor counts as a description of
/// its own, but no more than there are.
fn by_description(openers: &[Opener], indexes: Vec<usize>, lines: usize) -> VecDeque<Vec<usize>> {
    let mut sorted: Vec<Vec<usize>> = Vec::new();
    let mut not_compared = Vec::new();
    'openers: for index in indexes {
        let at = |index: usize| (openers[index].pid, openers[index].descriptor);
        let (mut low, mut high) = (0, sorted.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match sorted[middle].first().and_then(|first| compare(at(index), at(*first))) {
                Some(Ordering::Equal) => {
                    sorted[middle].push(index);
                    continue 'openers;
                }
                Some(Ordering::Less) => high = middle,
                Some(Ordering::Greater) => low = middle + 1,
                None => {
                    not_compared.push(index);
                    continue 'openers;
                }
            }
        }
        sorted.insert(low, vec![index]);
    }
    for index in not_compared {
        let are_all_there = sorted.len() >= lines;
        match sorted.last_mut() {
            Some(last) if are_all_there => last.push(index),
            _ => sorted.push(vec![index]),
        }
    }
    // As they were found, not as the kernel's memory lies.
    sorted.sort_by_key(|description| description.first().copied());
    sorted.into()
}
