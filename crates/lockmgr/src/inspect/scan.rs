//! A look around in /proc: who has the files in question open, with which locks, and which threads
//! sleep in a lock call on them.
//!
//! One pass: each process is looked at once, and each descriptor costs one system call unless it is on
//! a file in question. That is decided by device and inode; where `stat` names another device than
//! `/proc/locks` does (btrfs, overlayfs, mounts of other namespaces), by what the kernel writes into
//! fdinfo, which is the table's own naming.
//!
//! Nothing read here is trusted: processes come and go between two reads, and write what they like
//! into their memory and their command line. Who a process is, is read through the directory through
//! which its descriptors are read, so that it is the same one even if its number is given away.
//!
//! References: `proc_pid_fd(5)`, `proc_pid_fdinfo(5)`

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode as Permissions, OFlags, RawDir, StatxFlags, openat, readlinkat,
    statx,
};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::devices::Devices;
use super::fdinfo::{FdInfo, OpenedAs, opened_as};
use super::line::Told;
use super::process::{Process, read_at};
use super::table::Inode;
use super::threads::{Blocked, asleep_in_lock_calls};

/// A descriptor of a file in question.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) pid: u32,
    pub(super) descriptor: u32,
    pub(super) inode: Inode,
    /// It has not come from the program that its process executed before.
    pub(super) close_on_exec: bool,
    /// The locks of its open file description (and, for `posix`, of the process through it).
    pub(super) locks: Vec<Told>,
    /// It is on another file, which the kernel's table names alike: a file in another subvolume.
    pub(super) on_a_twin: bool,
}

/// What the look around has found so far.
pub(super) struct Scan<'a> {
    wanted: &'a Wanted,
    proc: Arc<OwnedFd>,
    devices: Arc<Devices>,
    pub(super) limit: Limit,
    pub(super) openers: Vec<Opener>,
    pub(super) blocked: Vec<Blocked>,
    /// How the files in question were opened: by a holder, if that could be seen.
    pub(super) names: HashMap<Inode, OpenedAs>,
    named_by_holder: HashSet<Inode>,
    pub(super) not_permitted: BTreeSet<u32>,
    /// It was not possible to look at everybody to the end.
    pub(super) cut_short: bool,
    /// Why, unless it was for want of time.
    pub(super) failed: Option<Errno>,
    begun: HashSet<u32>,
    /// Those of whom everything was seen.
    seen: HashSet<u32>,
    processes: HashMap<u32, Option<Process>>,
    text: Vec<u8>,
    numbers: Vec<u32>,
}

/// A moment after which looking is to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(pub(super) Option<Instant>);

impl Limit {
    pub(super) fn has_passed(self) -> bool {
        self.0.is_some_and(|until| Instant::now() >= until)
    }
}

/// The files in question.
#[derive(Default)]
pub(super) struct Wanted {
    inodes: HashMap<u64, Vec<Inode>>,
    /// Those whose waiters are to be found.
    waited_for: HashSet<Inode>,
    /// Where one file is meant: what `stat` calls it.
    exactly: Option<Inode>,
}

impl Wanted {
    pub(super) fn add(&mut self, inode: Inode, has_waiters: bool) {
        let same_number = self.inodes.entry(inode.number).or_default();
        if !same_number.contains(&inode) {
            same_number.push(inode);
        }
        if has_waiters {
            self.waited_for.insert(inode);
        }
    }

    /// The one file, which `stat` calls `status`.
    pub(super) fn exactly(inode: Inode, status: Option<Inode>, has_waiters: bool) -> Self {
        let mut wanted = Self { exactly: status, ..Self::default() };
        wanted.add(inode, has_waiters);
        wanted
    }

    /// The number of the one file, if it is one.
    pub(super) fn number(&self) -> Option<u64> {
        let mut numbers = self.inodes.keys();
        numbers.next().copied().filter(|_| numbers.next().is_none())
    }

    fn has(&self, inode: Inode) -> bool {
        self.inodes.get(&inode.number).is_some_and(|same_number| same_number.contains(&inode))
    }

    /// The one file with that inode number.
    fn by_number(&self, number: u64) -> Option<Inode> {
        match self.inodes.get(&number).map(Vec::as_slice) {
            Some([inode]) => Some(*inode),
            _ => None,
        }
    }
}

impl<'a> Scan<'a> {
    /// What is not looked at within the limit stays unknown.
    ///
    /// # Errors
    /// When there is no /proc, or no descriptor to open it with.
    pub(super) fn new(wanted: &'a Wanted, limit: Limit) -> Result<Self, Errno> {
        let proc = directory(CWD, "/proc")?;
        Ok(Self::with(wanted, limit, Arc::new(proc), Arc::new(Devices::mounted())))
    }

    fn with(wanted: &'a Wanted, limit: Limit, proc: Arc<OwnedFd>, devices: Arc<Devices>) -> Self {
        Self {
            wanted,
            proc,
            devices,
            limit,
            openers: Vec::new(),
            blocked: Vec::new(),
            names: HashMap::new(),
            named_by_holder: HashSet::new(),
            not_permitted: BTreeSet::new(),
            cut_short: false,
            failed: None,
            begun: HashSet::new(),
            seen: HashSet::new(),
            processes: HashMap::new(),
            text: Vec::with_capacity(4096),
            numbers: Vec::new(),
        }
    }

    /// Those who have not been looked at, with the highest numbers first.
    fn others(&mut self) -> Vec<u32> {
        let mut pids = Vec::new();
        let listed = numbers(&self.proc, self.limit, |pid| pids.push(pid));
        if let Err(errno) = listed {
            self.stop(errno);
        }
        pids.retain(|pid| !self.begun.contains(pid));
        pids.reverse();
        pids
    }

    /// Looks at one after the other, these first, until `enough` says so.
    pub(super) fn until(&mut self, first: &[u32], mut enough: impl FnMut(&Self) -> bool) {
        for &pid in first {
            let before = self.openers.len();
            self.look_at(pid);
            if self.cut_short || self.openers.len() > before && enough(self) {
                return;
            }
        }
        for pid in self.others() {
            let before = self.openers.len();
            self.look_at(pid);
            if self.cut_short || self.openers.len() > before && enough(self) {
                return;
            }
        }
    }

    /// Looks at the parents, and theirs, of those who have a lock for which the kernel names nobody, or
    /// somebody who was not seen to have it: it is theirs if they have it, too.
    pub(super) fn ancestors_of_heirs(&mut self) {
        // More generations than anybody has; pids that change hands meanwhile could form a ring.
        const GENERATIONS: usize = 1000;
        let takers: HashSet<(u32, &Told)> = self
            .openers
            .iter()
            .flat_map(|opener| opener.locks.iter().map(|lock| (opener.pid, lock)))
            .filter(|(pid, lock)| lock.pid == Some(*pid))
            .collect();
        let is_known = |lock: &Told| lock.pid.is_some_and(|pid| takers.contains(&(pid, lock)));
        let is_heir = |opener: &&Opener| opener.locks.iter().any(|lock| !is_known(lock));
        let found: HashSet<u32> =
            self.openers.iter().filter(is_heir).map(|opener| opener.pid).collect();
        for pid in found {
            let mut current = pid;
            for _ in 0..GENERATIONS {
                let parent = self.process(current).map_or(0, |process| process.parent);
                if parent == 0 || self.limit.has_passed() {
                    break;
                }
                self.look_at(parent);
                current = parent;
            }
        }
    }

    /// Looks at everybody: on several processors if they are many and there is no hurry, because a
    /// message that is put together within a limit is not worth a thread.
    pub(super) fn everybody(&mut self) {
        const MOST_THREADS: usize = 4;
        const WORTH_A_THREAD: usize = 128;
        const SHARE: usize = 16;
        let pids = self.others();
        let processors = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let threads = if self.limit.0.is_some() { 1 } else { processors };
        let partners = (pids.len() / WORTH_A_THREAD).min(threads.saturating_sub(1));
        // Whoever is ready takes the next few: nobody waits for one that the machine does not run.
        let shares = Mutex::new(pids.chunks(SHARE));
        let work = |scan: &mut Self| loop {
            let share = shares.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(share) = share else { break };
            for &pid in share {
                scan.look_at(pid);
            }
        };
        thread::scope(|scope| {
            let mut others = Vec::new();
            for _ in 0..partners {
                let mut partner = self.partner();
                let named = thread::Builder::new().name("lockmgr-look".into());
                let started = named.spawn_scoped(scope, move || {
                    work(&mut partner);
                    partner
                });
                // Without a thread there is one less to help.
                others.extend(started.ok());
            }
            work(self);
            for other in others {
                match other.join() {
                    Ok(partner) => self.absorb(partner),
                    Err(_panic) => self.cut_short = true,
                }
            }
        });
        // Whoever came first: the same picture twice of what has not changed.
        self.openers.sort_by_key(|opener| (opener.pid, opener.descriptor));
        self.blocked.sort_by_key(|blocked| (blocked.pid, blocked.thread));
    }

    /// One that looks for the same, and has seen nothing.
    fn partner(&self) -> Self {
        Self::with(self.wanted, self.limit, Arc::clone(&self.proc), Arc::clone(&self.devices))
    }

    /// Adds what another one has seen.
    fn absorb(&mut self, other: Self) {
        self.openers.extend(other.openers);
        self.blocked.extend(other.blocked);
        for (inode, name) in other.names {
            let is_holder_s = other.named_by_holder.contains(&inode);
            if is_holder_s && self.named_by_holder.insert(inode) {
                self.names.insert(inode, name);
            } else {
                self.names.entry(inode).or_insert(name);
            }
        }
        self.not_permitted.extend(other.not_permitted);
        self.cut_short |= other.cut_short;
        self.failed = self.failed.or(other.failed);
        self.begun.extend(other.begun);
        self.seen.extend(other.seen);
        self.processes.extend(other.processes);
    }

    /// Looks at a process that the kernel has named: it may be one that /proc does not show.
    pub(super) fn look_at_named(&mut self, pid: u32) {
        self.look_at(pid);
        if !self.seen.contains(&pid) && !self.cut_short && is_there(pid) {
            self.not_permitted.insert(pid);
        }
    }

    /// Looks at the descriptors of one process, and at its threads if it has a file open that is
    /// waited for.
    fn look_at(&mut self, pid: u32) {
        if self.cut_short || !self.begun.insert(pid) {
            return;
        }
        match self.look(pid) {
            Ok(()) => {
                self.seen.insert(pid);
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                self.not_permitted.insert(pid);
            }
            // It has ended, or is ending.
            Err(Errno::NOENT | Errno::SRCH) => {}
            Err(errno) => self.stop(errno),
        }
    }

    /// The time is over, or there is no descriptor or no memory to go on.
    fn stop(&mut self, errno: Errno) {
        self.cut_short = true;
        if errno != Errno::TIME {
            self.failed.get_or_insert(errno);
        }
    }

    fn look(&mut self, pid: u32) -> Result<(), Errno> {
        if self.limit.has_passed() {
            return Err(Errno::TIME);
        }
        let first = self.openers.len();
        let mut place = itoa(pid);
        place.end_with("/fd");
        let descriptors = directory(&self.proc, place.as_str())?;
        let mut listed = std::mem::take(&mut self.numbers);
        listed.clear();
        let outcome = numbers(&descriptors, self.limit, |number| listed.push(number))
            .and_then(|()| self.look_at_descriptors(pid, &listed, &descriptors));
        self.numbers = listed;
        outcome?;
        if self.openers.len() == first {
            return Ok(());
        }
        let text = &mut self.text;
        self.processes
            .entry(pid)
            .or_insert_with(|| Process::look_in(pid, &descriptors, "../", text));
        let waited_for: HashMap<u32, Inode> = self.openers[first..]
            .iter()
            .filter(|opener| self.wanted.waited_for.contains(&opener.inode) && !opener.on_a_twin)
            .map(|opener| (opener.descriptor, opener.inode))
            .collect();
        if !waited_for.is_empty() {
            let process = directory(&descriptors, "..")?;
            asleep_in_lock_calls(pid, &process, &waited_for, self.limit, &mut self.blocked)?;
        }
        Ok(())
    }

    fn look_at_descriptors(
        &mut self,
        pid: u32,
        listed: &[u32],
        descriptors: &OwnedFd,
    ) -> Result<(), Errno> {
        // Seldom enough to cost nothing, often enough for a message to be in time.
        const BETWEEN_LOOKS_AT_THE_CLOCK: usize = 256;
        for some in listed.chunks(BETWEEN_LOOKS_AT_THE_CLOCK) {
            for &number in some {
                self.look_at_descriptor(pid, number, descriptors)?;
            }
            if self.limit.has_passed() {
                return Err(Errno::TIME);
            }
        }
        Ok(())
    }

    fn look_at_descriptor(
        &mut self,
        pid: u32,
        number: u32,
        descriptors: &OwnedFd,
    ) -> Result<(), Errno> {
        let mut digits = itoa(number);
        // Asks no file server: one that does not answer would keep us, too.
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let fields = StatxFlags::TYPE | StatxFlags::INO;
        let status = match statx(descriptors, digits.as_str(), flags, fields) {
            Ok(status) => status,
            Err(errno) => return gap(errno, || is_refused(descriptors, digits.as_str())),
        };
        let device = (status.stx_dev_major, status.stx_dev_minor);
        let named = Inode { major: device.0, minor: device.1, number: status.stx_ino };
        let is_plain = self.devices.is_plain(device)
            // What else there is (pipes, sockets) is on no mount, and named truly.
            || !matches!(
                FileType::from_raw_mode(status.stx_mode.into()),
                FileType::RegularFile | FileType::Directory
            );
        if is_plain && !self.wanted.has(named) {
            return Ok(());
        }
        digits.prefix_with("../fdinfo/");
        if let Err(errno) = read_at(descriptors, digits.as_str(), usize::MAX, &mut self.text) {
            return gap(errno, || true);
        }
        let told = FdInfo::of(&String::from_utf8_lossy(&self.text));
        let inode = match told.locks.first() {
            Some(lock) => Some(lock.inode),
            None if is_plain => Some(named),
            None => self.place_of(&told, named.number),
        };
        let Some(inode) = inode.filter(|inode| self.wanted.has(*inode)) else { return Ok(()) };
        let on_a_twin = self.wanted.exactly.is_some_and(|exactly| !is_plain && exactly != named);
        self.remember_name(inode, pid, number, descriptors, !told.locks.is_empty());
        let FdInfo { close_on_exec, locks, .. } = told;
        let descriptor = number;
        self.openers.push(Opener { pid, descriptor, inode, close_on_exec, locks, on_a_twin });
        Ok(())
    }

    /// What the table calls the file of a descriptor without a lock, by the mount that it is on.
    fn place_of(&self, told: &FdInfo, number: u64) -> Option<Inode> {
        let number = told.inode.unwrap_or(number);
        match told.mount.and_then(|mount| self.devices.of_mount(mount)) {
            Some((major, minor)) => Some(Inode { major, minor, number }),
            None => self.wanted.by_number(number),
        }
    }

    fn remember_name(
        &mut self,
        inode: Inode,
        pid: u32,
        number: u32,
        descriptors: &OwnedFd,
        holds: bool,
    ) {
        // Of one file that was asked for by name, the name is known.
        if self.wanted.exactly.is_some()
            || self.named_by_holder.contains(&inode)
            || !holds && self.names.contains_key(&inode)
        {
            return;
        }
        if let Some(name) = opened_as(pid, descriptors, itoa(number).as_str()) {
            self.names.insert(inode, name);
            if holds {
                self.named_by_holder.insert(inode);
            }
        }
    }

    /// Who that is; looked up once.
    pub(super) fn process(&mut self, pid: u32) -> Option<&Process> {
        self.processes.entry(pid).or_insert_with(|| Process::look(pid)).as_ref()
    }

    /// Whether everything of the process was looked at.
    pub(super) fn has_seen(&self, pid: u32) -> bool {
        self.seen.contains(&pid)
    }
}

/// What it means that a descriptor cannot be looked at. Mostly it was closed meanwhile, or its filesystem
/// does not answer, and there are the others; but not if all the others will be refused, too.
fn gap(errno: Errno, is_refused: impl Fn() -> bool) -> Result<(), Errno> {
    match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(errno),
        Errno::ACCESS | Errno::PERM if is_refused() => Err(errno),
        _ => Ok(()),
    }
}

/// Whether it is the kernel that shows this user no descriptor of the process, and not a filesystem.
fn is_refused(descriptors: &OwnedFd, number: &str) -> bool {
    matches!(readlinkat(descriptors, number, Vec::new()), Err(Errno::ACCESS | Errno::PERM))
}

/// Whether there is such a process, one that is hidden in /proc too.
pub(super) fn is_there(pid: u32) -> bool {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    number.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

pub(super) fn directory(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, name, flags, Permissions::empty())
}

/// The entries of a directory that are numbers. The directory has ended when the kernel says so, not when
/// it fills less than the buffer: it stops there for a signal, too.
pub(super) fn numbers(
    directory: impl AsFd,
    limit: Limit,
    mut found: impl FnMut(u32),
) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = std::str::from_utf8(entry.file_name().to_bytes());
        if let Some(number) = name.ok().and_then(|name| name.parse().ok()) {
            found(number);
        }
        if entries.is_buffer_empty() && limit.has_passed() {
            return Err(Errno::TIME);
        }
    }
    Ok(())
}

/// A number's digits, without an allocation for each of thousands of descriptors.
struct Digits {
    bytes: [u8; 28],
    start: usize,
    end: usize,
}

fn itoa(mut number: u32) -> Digits {
    let mut digits = Digits { bytes: [0; 28], start: 24, end: 24 };
    loop {
        digits.start -= 1;
        digits.bytes[digits.start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return digits;
        }
    }
}

impl Digits {
    fn prefix_with(&mut self, prefix: &str) {
        self.start -= prefix.len();
        self.bytes[self.start..self.start + prefix.len()].copy_from_slice(prefix.as_bytes());
    }

    fn end_with(&mut self, ending: &str) {
        let end = self.end + ending.len();
        self.bytes[self.end..end].copy_from_slice(ending.as_bytes());
        self.end = end;
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.start..self.end]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use crate::sys::alarm::Alarm;

    use super::*;

    #[test]
    fn all_numbers_are_found_while_signals_come() {
        const FILES: usize = 1000;
        let dir = tempfile::tempdir().unwrap();
        for number in 0..FILES {
            File::create(dir.path().join(number.to_string())).unwrap();
        }
        // Goes off at once, and then again and again.
        let _alarm = Alarm::set(Some(Instant::now())).unwrap();
        for _ in 0..200 {
            let open = || directory(CWD, dir.path().to_str().unwrap());
            let directory = rustix::io::retry_on_intr(open).unwrap();
            let mut found = 0;
            numbers(&directory, Limit(None), |_| found += 1).unwrap();
            assert_eq!(found, FILES);
        }
    }

    #[test]
    fn numbers_are_written() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut digits = itoa(number);
            assert_eq!(digits.as_str(), number.to_string());
            digits.end_with("/fd");
            assert_eq!(digits.as_str(), format!("{number}/fd"));
            let mut digits = itoa(number);
            digits.prefix_with("../fdinfo/");
            assert_eq!(digits.as_str(), format!("../fdinfo/{number}"));
        }
    }
}
