//! The facts by which a process is known: those of this one, for what it writes, and those of others,
//! to compare.
//!
//! Pids are used again, and mean other processes in other pid namespaces and after the next boot. A
//! pid with its namespace, its start time and the boot's id means one process.
//!
//! References: `proc_pid_stat(5)`, `proc_pid_status(5)`, `proc_pid_ns(5)`, `pid_namespaces(7)`.

use std::fs::{self, File};
use std::io::Read;
use std::sync::OnceLock;

use rustix::process::{Uid, geteuid};

use crate::sys::fork::{FIRST_GENERATION, PerProcess};

/// What stays true of this process as long as it lives, and costs system calls to learn.
pub(super) struct Here {
    pub(super) start: u64,
    pub(super) boot: String,
    pub(super) pidns: u64,
    /// As whom it was when it was asked; it can become another user.
    user: (Uid, String),
}

static HERE: PerProcess<OnceLock<Option<Here>>> =
    PerProcess::new(FIRST_GENERATION, OnceLock::new());

impl Here {
    /// `None` where there is no `/proc` to tell.
    pub(super) fn get() -> Option<&'static Self> {
        HERE.get().get_or_init(Self::ask).as_ref()
    }

    fn ask() -> Option<Self> {
        let uid = geteuid();
        let user = (uid, user_name(uid));
        Some(Self { start: start_of("self")?, boot: boot_id()?, pidns: pidns_of("self")?, user })
    }

    /// The name of the effective user.
    pub(super) fn user(&self) -> String {
        let uid = geteuid();
        if self.user.0 == uid { self.user.1.clone() } else { user_name(uid) }
    }
}

/// Whether the process is one that a record calls by this pid, in this pid namespace.
pub(super) fn is_called(process: u32, pid: u32, pidns: u64) -> bool {
    let process = process.to_string();
    let names = pids_of(&process).unwrap_or_default();
    // The last one is that of its own namespace.
    if names.last() != Some(&pid) {
        return false;
    }
    let found = pidns_of(&process).or_else(|| {
        // Not allowed to ask; but if both have no more than one pid, both are where /proc is from.
        (names.len() == 1 && pids_of("self")?.len() == 1).then_some(Here::get()?.pidns)
    });
    found == Some(pidns)
}

/// When the process (a pid or `self`) was started, in clock ticks since boot.
pub(super) fn start_of(process: &str) -> Option<u64> {
    let mut buffer = [0; 1024];
    let stat = read_piece(&format!("/proc/{process}/stat"), &mut buffer)?;
    // The second field is a name in brackets that may hold anything; the fields are counted from 1.
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let rest = std::str::from_utf8(&stat[after..]).ok()?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The process's pids, from that in the namespace of `/proc` to that in its own.
fn pids_of(process: &str) -> Option<Vec<u32>> {
    let status = fs::read(format!("/proc/{process}/status")).ok()?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"))?;
    let words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.map(|word| word.parse().ok()).collect()
}

fn pidns_of(process: &str) -> Option<u64> {
    // `pid:[4026531836]`; to follow the link would take twice as long.
    let link = fs::read_link(format!("/proc/{process}/ns/pid")).ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

pub(super) fn boot_id() -> Option<String> {
    let mut buffer = [0; 64];
    let text = read_piece("/proc/sys/kernel/random/boot_id", &mut buffer)?;
    Some(std::str::from_utf8(text).ok()?.trim_end().to_owned())
}

/// The user's name, or its number: `/etc/passwd` is all that is looked at, because a name service can
/// take its time.
fn user_name(uid: Uid) -> String {
    /// Longer ones are for name services.
    const READ: u64 = 1 << 20;
    if uid.is_root() {
        return "root".to_owned();
    }
    let mut text = Vec::new();
    let read = File::open("/etc/passwd").and_then(|file| file.take(READ).read_to_end(&mut text));
    let number = uid.as_raw().to_string();
    read.ok().and_then(|_| name_of(&text, &number)).unwrap_or(number)
}

fn name_of(passwd: &[u8], uid: &str) -> Option<String> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let found = fields.nth(1)? == uid.as_bytes();
        found.then(|| String::from_utf8_lossy(name).into_owned())
    })
}

/// The first piece of a small file of `/proc`, which the kernel gives in one.
fn read_piece<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let count = File::open(path).ok()?.read(buffer).ok()?;
    Some(&buffer[..count])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_called_by_its_own_pid() {
        let here = Here::get().unwrap();
        let pid = std::process::id();
        assert!(is_called(pid, pids_of("self").unwrap().pop().unwrap(), here.pidns));
        assert!(!is_called(pid, pid + 1, here.pidns));
        assert!(!is_called(pid, pid, here.pidns + 1));
        assert_eq!(start_of(&pid.to_string()), Some(here.start));
        assert_eq!(boot_id().unwrap().len(), 36);
    }

    #[test]
    fn users_have_names_or_numbers() {
        let passwd =
            b"root:x:0:0::/root:/bin/sh\n# no line\n:x:7:\nann:x:1000:1000::/:\n\xffb:x:8:8";
        assert_eq!(name_of(passwd, "1000").as_deref(), Some("ann"));
        assert_eq!(name_of(passwd, "8").as_deref(), Some("\u{fffd}b"));
        assert_eq!(name_of(passwd, "7"), None);
        assert_eq!(name_of(passwd, "100"), None);
        assert_eq!(user_name(Uid::from_raw(4_000_000_000)), "4000000000");
    }
}
