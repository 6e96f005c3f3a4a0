//! A look around in /proc: who has the files in question open, with which locks, and which threads
//! sleep in a lock call on them.
//!
//! One pass: each process is looked at once, and each descriptor costs one system call unless it is on
//! a file in question. That is decided by device and inode; where `stat` names another device than
//! `/proc/locks` does (btrfs, overlayfs, mounts of other namespaces), by what the kernel writes into
//! fdinfo, which is the table's own naming.
//!
//! Nothing read here is trusted: processes come and go between two reads, and write what they like
//! into their memory and their command line.
//!
//! References: `proc_pid_fd(5)`, `proc_pid_fdinfo(5)`, `proc_pid_mountinfo(5)`

use std::collections::{HashMap, HashSet};
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode as Permissions, OFlags, RawDir, StatxFlags, openat, readlinkat,
    statx,
};
use rustix::io::Errno;

use super::line::{Told, held_line};
use super::process::{Process, read_at};
use super::table::Inode;
use super::threads::{Blocked, asleep_in_lock_calls};

/// A descriptor of a file in question.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) pid: u32,
    pub(super) descriptor: u32,
    pub(super) inode: Inode,
    /// The locks of its open file description (and, for `posix`, of the process through it).
    pub(super) locks: Vec<Told>,
}

/// What the look around has found so far.
pub(super) struct Scan<'a> {
    wanted: &'a Wanted,
    devices: Devices,
    until: Option<Instant>,
    pub(super) openers: Vec<Opener>,
    pub(super) blocked: Vec<Blocked>,
    pub(super) not_permitted: Vec<u32>,
    pub(super) cut_short: bool,
    /// Whether a process was looked at, and what it is.
    seen: HashSet<u32>,
    processes: HashMap<u32, Option<Process>>,
    text: Vec<u8>,
}

/// The files in question.
#[derive(Default)]
pub(super) struct Wanted {
    inodes: HashMap<u64, Vec<Inode>>,
    /// Those whose waiters are to be found.
    waited_for: HashSet<Inode>,
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
    /// `until` limits the time; what is not looked at by then stays unknown.
    pub(super) fn new(wanted: &'a Wanted, until: Option<Instant>) -> Self {
        Self {
            wanted,
            devices: Devices::mounted(),
            until,
            openers: Vec::new(),
            blocked: Vec::new(),
            not_permitted: Vec::new(),
            cut_short: false,
            seen: HashSet::new(),
            processes: HashMap::new(),
            text: Vec::new(),
        }
    }

    /// Looks at everybody, the youngest first, until `enough` says so.
    pub(super) fn everybody(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let mut pids = Vec::new();
        // Without /proc there is nothing to see.
        let _nothing = numbers(CWD, "/proc", |pid| pids.push(pid));
        for pid in pids.into_iter().rev() {
            if self.until.is_some_and(|until| Instant::now() >= until) {
                self.cut_short = true;
                return;
            }
            let before = self.openers.len();
            self.look_at(pid);
            if self.openers.len() > before && enough(self) {
                return;
            }
        }
    }

    /// Looks at the parents, and theirs, of those who have a lock for which the kernel names nobody:
    /// that is taken by the eldest.
    pub(super) fn ancestors_of_nameless_holders(&mut self) {
        // More generations than anybody has; pids that change hands meanwhile could form a ring.
        const GENERATIONS: usize = 1000;
        let is_nameless = |opener: &&Opener| opener.locks.iter().any(|lock| lock.pid.is_none());
        let found: HashSet<u32> =
            self.openers.iter().filter(is_nameless).map(|opener| opener.pid).collect();
        for pid in found {
            let mut current = pid;
            for _ in 0..GENERATIONS {
                let parent = self.process(current).map_or(0, |process| process.parent);
                if parent == 0 || self.until.is_some_and(|until| Instant::now() >= until) {
                    break;
                }
                self.look_at(parent);
                current = parent;
            }
        }
    }

    /// Looks at the descriptors of one process, and at its threads if it has a file open that is
    /// waited for.
    pub(super) fn look_at(&mut self, pid: u32) {
        if !self.seen.insert(pid) {
            return;
        }
        let first = self.openers.len();
        let looked = directory(CWD, &format!("/proc/{pid}")).and_then(|process| {
            let mut numbered = Vec::new();
            let descriptors = directory(&process, "fd")?;
            numbers(&descriptors, ".", |number| numbered.push(number))?;
            for number in numbered {
                self.look_at_descriptor(pid, number, &process, &descriptors);
            }
            let waited_for = |opener: &Opener| self.wanted.waited_for.contains(&opener.inode);
            if self.openers[first..].iter().any(waited_for) {
                let fds: HashMap<u32, Inode> = self.openers[first..]
                    .iter()
                    .filter(|opener| waited_for(opener))
                    .map(|opener| (opener.descriptor, opener.inode))
                    .collect();
                asleep_in_lock_calls(pid, &process, &fds, &mut self.blocked)?;
            }
            Ok(())
        });
        if let Err(Errno::ACCESS | Errno::PERM) = looked {
            self.not_permitted.push(pid);
        }
    }

    fn look_at_descriptor(
        &mut self,
        pid: u32,
        number: u32,
        process: &OwnedFd,
        descriptors: &OwnedFd,
    ) {
        let mut digits = itoa(number);
        let name = digits.as_str();
        // Asks no file server: one that does not answer would keep us, too.
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let Ok(status) = statx(descriptors, name, flags, StatxFlags::TYPE | StatxFlags::INO) else {
            return;
        };
        let device = (status.stx_dev_major, status.stx_dev_minor);
        let inode = Inode { major: device.0, minor: device.1, number: status.stx_ino };
        if self.devices.is_plain(device) {
            if !self.wanted.has(inode) {
                return;
            }
        } else if !matches!(
            FileType::from_raw_mode(status.stx_mode.into()),
            FileType::RegularFile | FileType::Directory
        ) {
            // Pipes and sockets are what most descriptors that are on no known mount belong to.
            return;
        }
        digits.prefix_with("fdinfo/");
        if read_at(process, digits.as_str(), usize::MAX, &mut self.text).is_err() {
            return;
        }
        let told = FdInfo::of(&String::from_utf8_lossy(&self.text));
        let inode = match told.locks.first() {
            Some(lock) => Some(lock.inode),
            None if self.devices.is_plain(device) => Some(inode),
            None => self.wanted.by_number(told.inode.unwrap_or(inode.number)),
        };
        if let Some(inode) = inode.filter(|inode| self.wanted.has(*inode)) {
            self.openers.push(Opener { pid, descriptor: number, inode, locks: told.locks });
        }
    }

    /// Who that is; looked up once.
    pub(super) fn process(&mut self, pid: u32) -> Option<&Process> {
        self.processes.entry(pid).or_insert_with(|| Process::look(pid)).as_ref()
    }
}

/// What one descriptor's fdinfo says.
pub(super) struct FdInfo {
    pub(super) mount: Option<u64>,
    /// Not there before Linux 5.14.
    pub(super) inode: Option<u64>,
    pub(super) locks: Vec<Told>,
}

impl FdInfo {
    pub(super) fn of(text: &str) -> Self {
        let mut told = Self { mount: None, inode: None, locks: Vec::new() };
        for line in text.lines() {
            if let Some(lock) = held_line(line) {
                told.locks.push(lock);
            } else if let Some(number) = line.strip_prefix("ino:") {
                told.inode = number.trim().parse().ok();
            } else if let Some(number) = line.strip_prefix("mnt_id:") {
                told.mount = number.trim().parse().ok();
            }
        }
        told
    }
}

/// The devices of the mounted filesystems.
pub(super) struct Devices {
    plain: HashSet<(u32, u32)>,
    by_mount: HashMap<u64, (u32, u32)>,
}

impl Devices {
    pub(super) fn mounted() -> Self {
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self::of(&String::from_utf8_lossy(&text))
    }

    /// `36 35 98:0 /root /mount options - type …`
    fn of(text: &str) -> Self {
        let mut devices = Self { plain: HashSet::new(), by_mount: HashMap::new() };
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(mount), Some(device)) = (words.next(), words.nth(1)) else { continue };
            let Some((major, minor)) = device.split_once(':') else { continue };
            let (Ok(mount), Ok(major), Ok(minor)) = (mount.parse(), major.parse(), minor.parse())
            else {
                continue;
            };
            devices.by_mount.insert(mount, (major, minor));
            // Its inode numbers in `stat` may be those of the layers below.
            let layered = words.skip_while(|word| *word != "-").nth(1) == Some("overlay");
            if !layered {
                devices.plain.insert((major, minor));
            }
        }
        devices
    }

    /// Whether `stat` names files of this device as `/proc/locks` does.
    pub(super) fn is_plain(&self, device: (u32, u32)) -> bool {
        self.plain.contains(&device)
    }

    pub(super) fn of_mount(&self, mount: u64) -> Option<(u32, u32)> {
        self.by_mount.get(&mount).copied()
    }
}

/// The path of a process's descriptor, and whether it has been removed.
pub(super) fn path_of(pid: u32, descriptor: u32) -> Option<(Vec<u8>, bool)> {
    const REMOVED: &[u8] = b" (deleted)";
    let link = format!("/proc/{pid}/fd/{descriptor}");
    let path = readlinkat(CWD, &*link, Vec::new()).ok()?.into_bytes();
    // A name may end like that, too.
    match path.strip_suffix(REMOVED) {
        Some(before) if rustix::fs::lstat(&*path).is_err() => Some((before.to_vec(), true)),
        _ => Some((path, false)),
    }
}

fn directory(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(at, name, flags, Permissions::empty())
}

/// The entries of a directory that are numbers.
pub(super) fn numbers(at: impl AsFd, name: &str, mut found: impl FnMut(u32)) -> Result<(), Errno> {
    let directory = directory(at, name)?;
    let mut buffer = [MaybeUninit::uninit(); 8192];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let name = entry?.file_name().to_bytes().to_owned();
        if let Some(number) = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok()) {
            found(number);
        }
    }
    Ok(())
}

/// A number's digits, without an allocation for each of thousands of descriptors.
struct Digits {
    bytes: [u8; 20],
    start: usize,
}

fn itoa(mut number: u32) -> Digits {
    let mut digits = Digits { bytes: [0; 20], start: 20 };
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

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.start..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written() {
        for number in [0, 7, 10, 4_294_967_295] {
            let mut digits = itoa(number);
            assert_eq!(digits.as_str(), number.to_string());
            digits.prefix_with("fdinfo/");
            assert_eq!(digits.as_str(), format!("fdinfo/{number}"));
        }
    }

    #[test]
    fn fdinfo_is_read_whatever_it_says() {
        let told = FdInfo::of(
            "pos:\t0\nflags:\t02100002\nmnt_id:\t27\nino:\t99\n\
             lock:\t1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF\nlock:\tnonsense\nfuture: 1\n",
        );
        assert_eq!((told.mount, told.inode, told.locks.len()), (Some(27), Some(99), 1));
        assert!(FdInfo::of("").locks.is_empty());
    }

    #[test]
    fn mounts_are_read_whatever_they_say() {
        let devices = Devices::of(
            "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
             28 27 0:50 / /merged rw - overlay overlay rw,lowerdir=/a\n\
             x y z\n29\n30 27 0:x / / - a b c\n",
        );
        assert!(devices.is_plain((254, 0)) && !devices.is_plain((0, 50)));
        assert_eq!(devices.of_mount(28), Some((0, 50)));
        assert_eq!(devices.of_mount(30), None);
    }
}
