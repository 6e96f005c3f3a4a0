//! Who a process is.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::printable::{Printable, shown};
use crate::sys::fork::{FIRST_GENERATION, PerProcess};

/// A process, as it was when it was looked at. Its pid may belong to another one since: compare
/// [`start`](Process::start) after `pidfd_open(2)` before you signal it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`).
    pub start: u64,
    /// The number of the process that started it, or has inherited it.
    pub parent: u32,
    /// The user it runs as, by number.
    pub uid: u32,
    /// Its command line, raw: each word ends in a zero byte. Empty for kernel threads.
    pub command: Vec<u8>,
    /// The kernel's short name for it, at most 15 bytes, raw.
    pub name: Vec<u8>,
    /// It has ended, and its parent has not taken note yet.
    pub zombie: bool,
    /// It is ending: its memory has gone, and the kernel closes its descriptors, or is about to.
    pub ending: bool,
    /// It has ended, and nothing but its pid is known. What runs under this number now, if anything
    /// does, is not shown: nothing says that it is the same process.
    pub ended: bool,
}

/// A command line can be megabytes; this much is read.
const COMMAND_READ: usize = 4096;

impl Process {
    /// Looks at a process. `None` when there is none of that number.
    ///
    /// # References
    /// `proc_pid_stat(5)`, `proc_pid_cmdline(5)`
    #[must_use]
    pub fn look(pid: u32) -> Option<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
        Self::look_in(pid, &directory, "./", &mut Vec::new())
    }

    /// Looks at the process whose directory in /proc is, from this one, there.
    pub(super) fn look_in(
        pid: u32,
        directory: &OwnedFd,
        there: &str,
        text: &mut Vec<u8>,
    ) -> Option<Self> {
        // A process of another user may hide it; then there is the short name.
        let _hidden = read_at(directory, &format!("{there}cmdline"), COMMAND_READ, text);
        let command = text.clone();
        let uid = rustix::fs::statat(directory, there, AtFlags::empty()).ok()?.st_uid;
        read_at(directory, &format!("{there}stat"), 1024, text).ok()?;
        let stat = Stat::of(text)?;
        Some(Self {
            pid,
            start: stat.start,
            parent: stat.parent,
            uid,
            command,
            name: stat.name.to_vec(),
            zombie: stat.is_over(),
            ending: stat.is_ending(),
            ended: false,
        })
    }

    /// A process that is not there any more.
    pub(super) fn ended(pid: u32) -> Self {
        Self { ended: true, ..Self::hidden(pid) }
    }

    /// A process that is there, and of which /proc shows nothing.
    pub(super) fn hidden(pid: u32) -> Self {
        Self {
            pid,
            start: 0,
            parent: 0,
            uid: 0,
            command: Vec::new(),
            name: Vec::new(),
            zombie: false,
            ending: false,
            ended: false,
        }
    }

    /// Returns whether anything is known of it but its number. Of one that has ended, or that /proc hides
    /// (`hidepid`), nothing is, and what the other fields say means nothing.
    #[must_use]
    pub fn is_known(&self) -> bool {
        !self.ended && self.start != 0
    }

    /// The words of the command line.
    pub fn words(&self) -> impl Iterator<Item = &[u8]> {
        let ended = self.command.strip_suffix(b"\0").unwrap_or(&self.command);
        // An empty command line has no words, not one empty word.
        ended.split(|byte| *byte == 0).filter(move |_| !self.command.is_empty())
    }

    /// The command line as it may be printed, at most `width` characters: words separated by blanks,
    /// control characters escaped. Where that is too long, the directories of the program go first. Of a
    /// process without a command line the short name, in brackets.
    #[must_use]
    pub fn command_line(&self, width: usize) -> String {
        let mut words: Vec<_> = self.words().collect();
        let mut bytes = words.join(&b' ');
        if bytes.is_empty() && self.is_known() {
            bytes = [b"[", &self.name[..], b"]"].concat();
        }
        let whole = shown(&bytes, width);
        if whole.ends_with('…')
            && let Some(program) = words.first_mut()
            && let Some(slash) = program.iter().rposition(|byte| *byte == b'/')
            && slash + 1 < program.len()
        {
            *program = &program[slash + 1..];
            return shown(&words.join(&b' '), width);
        }
        whole
    }

    /// The user's name from `/etc/passwd`, or the number where it has none; `?` when only the pid is
    /// known.
    #[must_use]
    pub fn user(&self) -> String {
        if self.is_known() { user_name(self.uid) } else { "?".to_owned() }
    }

    /// How long ago it started, to a hundredth of a second; the time the machine slept counts. `None` when
    /// only the pid is known.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        if !self.is_known() {
            return None;
        }
        let ticks_a_second = rustix::param::clock_ticks_per_second().max(1);
        let start = Duration::from_millis(self.start.checked_mul(1000)? / ticks_a_second);
        // The clock that the kernel counts a process's start in.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(u64::try_from(now.tv_sec).ok()?, u32::try_from(now.tv_nsec).ok()?);
        Some(now.saturating_sub(start))
    }

    /// When it started, by today's clock, to a hundredth of a second.
    #[must_use]
    pub fn started(&self) -> Option<SystemTime> {
        SystemTime::now().checked_sub(self.age()?)
    }

    /// The file it executes, where this user may know.
    #[must_use]
    pub fn executable(&self) -> Option<PathBuf> {
        let path = fs::read_link(format!("/proc/{}/exe", self.pid)).ok()?;
        self.is_still_there().then_some(path)
    }

    /// Where its resources are accounted: the control group, and what that says of its container and
    /// of its systemd unit.
    #[must_use]
    pub fn control_group(&self) -> Option<ControlGroup> {
        let text = fs::read(format!("/proc/{}/cgroup", self.pid)).ok()?;
        let group = ControlGroup::of(&text)?;
        self.is_still_there().then_some(group)
    }

    /// Returns whether the process runs still: not another one that was given its pid, and no zombie.
    #[must_use]
    pub fn is_still_there(&self) -> bool {
        if self.ended {
            return false;
        }
        let text = fs::read(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        Stat::of(&text).is_some_and(|stat| stat.start == self.start && !stat.is_over())
    }
}

/// Whether the process could have a lock at all: it is not known to have ended, and no thread of the
/// kernel's own.
pub(super) fn may_have_descriptors(pid: u32) -> bool {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let text = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    Stat::of(&text).is_none_or(|stat| !stat.is_over() && stat.flags & KERNEL_THREAD == 0)
}

/// Reads a small file of /proc, at most so many bytes of it.
pub(super) fn read_at(
    directory: &OwnedFd,
    name: &str,
    limit: usize,
    into: &mut Vec<u8>,
) -> Result<(), Errno> {
    const PIECE: usize = 4096;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    into.clear();
    let file = openat(directory, name, flags, Mode::empty())?;
    loop {
        into.reserve(PIECE);
        let asked = into.capacity() - into.len();
        let count = rustix::io::read(&file, rustix::buffer::spare_capacity(into))?;
        // These files are made when they are read: what does not fill the space is all there is.
        if count < asked || into.len() >= limit {
            into.truncate(limit);
            return Ok(());
        }
    }
}

/// What `/proc/PID/stat` says.
struct Stat<'a> {
    name: &'a [u8],
    state: u8,
    parent: u32,
    flags: u64,
    threads: u64,
    start: u64,
}

impl<'a> Stat<'a> {
    /// `42 (name) S 1 …`; the name may contain anything, parentheses and newlines too.
    fn of(text: &'a [u8]) -> Option<Self> {
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let name = text.get(open + 1..close)?;
        let mut rest = std::str::from_utf8(text.get(close + 1..)?).ok()?.split_ascii_whitespace();
        let state = *rest.next()?.as_bytes().first()?;
        let parent = rest.next()?.parse().ok()?;
        // They are fields 9, 20 and 22, and the state is field 3.
        let flags = rest.nth(4)?.parse().ok()?;
        let threads = rest.nth(10)?.parse().ok()?;
        let start = rest.nth(1)?.parse().ok()?;
        Some(Self { name, state, parent, flags, threads, start })
    }

    fn is_over(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// `PF_EXITING`. Of a process with other threads, the first one alone may have ended.
    fn is_ending(&self) -> bool {
        const EXITING: u64 = 0x4;
        !self.is_over() && self.flags & EXITING != 0 && self.threads <= 1
    }
}

/// A control group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ControlGroup {
    /// Its path below the root of the hierarchy, as it may be printed.
    pub path: String,
    /// The systemd unit: a service, a scope, or another one.
    pub unit: Option<String>,
    /// The container's id, of those that carry it in the path: Docker, Podman, containerd, CRI-O.
    pub container: Option<String>,
}

impl ControlGroup {
    /// Takes the unified hierarchy's line if it says something, else systemd's own, else the longest.
    fn of(text: &[u8]) -> Option<Self> {
        let lines = || {
            text.split(|byte| *byte == b'\n').filter_map(|line| {
                let mut parts = line.splitn(3, |byte| *byte == b':');
                Some((parts.next()?, parts.next()?, parts.next()?))
            })
        };
        let is_something = |path: &[u8]| path.len() > 1;
        let path = lines()
            .find(|(number, _, path)| *number == b"0" && is_something(path))
            .or_else(|| {
                lines().find(|(_, name, path)| *name == b"name=systemd" && is_something(path))
            })
            .or_else(|| lines().max_by_key(|(_, _, path)| path.len()))
            .map(|(_, _, path)| Printable(path).to_string())?;
        let unit = path
            .split('/')
            .rfind(|part| {
                [".service", ".scope", ".socket", ".mount", ".swap", ".timer"]
                    .iter()
                    .any(|ending| part.len() > ending.len() && part.ends_with(ending))
            })
            .map(str::to_owned);
        let container = path
            .split(['/', '-', '.', ':'])
            .rfind(|part| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .map(str::to_owned);
        Some(Self { path, unit, container })
    }
}

/// The name of a user.
pub(crate) fn user_name(uid: u32) -> String {
    static NAMES: PerProcess<OnceLock<HashMap<u32, String>>> =
        PerProcess::new(FIRST_GENERATION, OnceLock::new());
    let names = NAMES.get().get_or_init(|| {
        let text = fs::read("/etc/passwd").unwrap_or_default();
        let mut names = HashMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            let mut parts = line.split(|byte| *byte == b':');
            if let (Some(name), Some(_password), Some(number)) =
                (parts.next(), parts.next(), parts.next())
                && let Some(number) = std::str::from_utf8(number).ok().and_then(|n| n.parse().ok())
            {
                // The first one counts, as for the C library.
                names.entry(number).or_insert_with(|| Printable(name).to_string());
            }
        }
        names
    });
    names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_do_not_move_the_fields() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 5000 300";
        for name in ["a", "", ") S 1 (", "x\ny", "a b", "((("] {
            let text = format!("42 ({name}) {rest}");
            let stat = Stat::of(text.as_bytes()).unwrap();
            assert_eq!((stat.name, stat.parent, stat.start), (name.as_bytes(), 7, 4711));
            assert_eq!(stat.state, b'S');
        }
        for short in ["", "42", "42 (x", "42 (x)", "42 )x(", "42 (x) S 1 2 3"] {
            assert!(Stat::of(short.as_bytes()).is_none(), "{short}");
        }
    }

    #[test]
    fn a_process_that_is_ending_is_known_by_its_flags() {
        let is_ending = |state: &str, flags: u64, threads: u64| {
            let fields = "1 1 0 -1";
            let text =
                format!("42 (x) {state} 7 {fields} {flags} 1 2 3 4 5 6 7 8 20 0 {threads} 0 9");
            Stat::of(text.as_bytes()).unwrap().is_ending()
        };
        assert!(is_ending("R", 0x0040_0004, 1));
        assert!(!is_ending("R", 0x0040_0000, 1));
        // Its first thread has ended, the others have not; and it has ended.
        assert!(!is_ending("S", 0x0040_0004, 2) && !is_ending("Z", 0x0040_0004, 1));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(ControlGroup::of(&bytes));
            let _nothing = Stat::of(&bytes);
        }

        #[test]
        fn spoilt_lines_are_read(at in 0..70_usize, by in any::<u8>(), cut in 0..70_usize) {
            let mut text = b"42 (a) b) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 5000".to_vec();
            let at = at % text.len();
            text[at] = by;
            text.truncate(cut);
            let _nothing = Stat::of(&text);
        }

        #[test]
        fn what_stat_tells_is_understood(
            name in proptest::collection::vec(any::<u8>(), 0..16), state in "[A-Za-z]",
            parent in any::<u32>(), flags in any::<u64>(), start in any::<u64>(),
        ) {
            let rest = format!(
                ") {state} {parent} 1 1 0 -1 {flags} 1 2 3 4 5 6 7 8 20 0 1 0 {start} 5000 300 0"
            );
            let text = [b"42 (", &name[..], rest.as_bytes()].concat();
            let stat = Stat::of(&text).unwrap();
            prop_assert_eq!(stat.name, &name[..]);
            prop_assert_eq!((stat.parent, stat.flags, stat.start), (parent, flags, start));
        }
    }

    #[test]
    fn a_process_knows_itself() {
        let me = Process::look(std::process::id()).unwrap();
        assert!(me.is_still_there());
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        let first = std::env::args().next().unwrap();
        assert_eq!(me.words().next().unwrap(), first.as_bytes());
        assert!(me.age().unwrap() < Duration::from_secs(3600), "{:?}", me.age());
        assert!(me.started().unwrap() <= SystemTime::now());
        assert_eq!(Process::ended(1).age(), None);
        assert_eq!(me.executable().unwrap(), std::env::current_exe().unwrap());
    }

    #[test]
    fn a_process_without_a_command_line_has_a_short_name() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = child.id();
        // Ended, and not yet waited for.
        let ended = loop {
            let process = Process::look(pid).unwrap();
            if process.zombie {
                break process;
            }
            std::thread::yield_now();
        };
        assert_eq!(ended.command_line(60), "[true]");
        assert!(!ended.is_still_there());
        child.wait().unwrap();
        assert_eq!(Process::look(pid), None);
    }

    #[test]
    fn long_and_hostile_command_lines_are_shown_short_and_harmless() {
        let mut process = Process::look(std::process::id()).unwrap();
        process.command = b"\x1b[2Jrm\0-rf\0a\nb\0".to_vec();
        assert_eq!(process.command_line(60), "\\u{1b}[2Jrm -rf a\\nb");
        process.command = [b'x'; 100].to_vec();
        assert_eq!(process.command_line(10), "xxxxxxxxx…");
        process.command = vec![b'x'; 10];
        assert_eq!(process.command_line(10), "xxxxxxxxxx");
        process.command = b"/opt/far/away/bin/tool\0--all\0/srv\0".to_vec();
        assert_eq!(process.command_line(33), "/opt/far/away/bin/tool --all /srv");
        assert_eq!(process.command_line(32), "tool --all /srv");
        assert_eq!(process.command_line(8), "tool --…");
        process.command = b"/opt/far/away/\0".to_vec();
        assert_eq!(process.command_line(8), "/opt/fa…");
    }

    #[test]
    fn groups_tell_units_and_containers() {
        let id = "0123456789abcdef".repeat(4);
        for (text, unit, container) in [
            ("0::/system.slice/cron.service\n".to_owned(), Some("cron.service"), None),
            (
                "0::/user.slice/user-1000.slice/session-3.scope".to_owned(),
                Some("session-3.scope"),
                None,
            ),
            (format!("0::/system.slice/docker-{id}.scope\n"), None, Some(())),
            (format!("12:pids:/docker/{id}\n1:name=systemd:/\n0::/\n"), None, Some(())),
            (format!("0::/kubepods.slice/cri-containerd:{id}"), None, Some(())),
            ("0::/\n".to_owned(), None, None),
        ] {
            let group = ControlGroup::of(text.as_bytes()).unwrap();
            assert_eq!(group.container, container.map(|()| id.clone()), "{text}");
            if container.is_none() {
                assert_eq!(group.unit.as_deref(), unit, "{text}");
            }
        }
        assert_eq!(ControlGroup::of(b"nonsense"), None);
    }
}
