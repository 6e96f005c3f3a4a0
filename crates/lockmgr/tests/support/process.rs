//! Processes made by hand, and what the kernel tells about a process.
//!
//! `std` has no `fork`. The child made here runs a closure and ends without unwinding any further;
//! it talks with its parent in lines, and a panic in it arrives there as a line too.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lockmgr::Mechanism;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{BOUND, MARK, command, eventually};

/// How to make a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `fork(3)`, with everybody's at-fork handlers.
    Fork,
    /// The bare system call, of which no handler hears. Only where no other thread allocates:
    /// the C library does not hear of it either.
    BareClone,
}

pub(crate) const WAYS: [Way; 2] = [Way::Fork, Way::BareClone];

/// A child made by [`fork`]. Killed, by its id, when dropped.
pub(crate) struct Forked {
    pid: Pid,
    line: BufReader<UnixStream>,
    ended: bool,
}

/// The child's end of the line.
pub(crate) struct Parent(BufReader<UnixStream>);

/// Runs `child` in a new process, which ends with it: with status 0, or 101 after a panic.
pub(crate) fn fork(way: Way, child: impl FnOnce(&mut Parent)) -> Forked {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let pid = match way {
        #[expect(clippy::disallowed_methods, reason = "what forking does is what is tested")]
        // SAFETY: the child runs in a copy of this process with this thread alone. It uses the
        // allocator, which glibc makes fit for that, and nothing that another thread may have
        // locked: the standard streams and the panic output are left alone.
        Way::Fork => unsafe { libc::fork() },
        Way::BareClone => {
            // SAFETY: with these arguments, flags `SIGCHLD` and no new stack, the call is a fork.
            // That no other thread is in the allocator at this moment is the caller's promise.
            let pid = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            i32::try_from(pid).unwrap()
        }
    };
    if pid == 0 {
        drop(ours);
        run_child(theirs, child);
    }
    assert!(pid > 0, "{way:?}: {}", io::Error::last_os_error());
    ours.set_read_timeout(Some(BOUND)).unwrap();
    Forked { pid: Pid::from_raw(pid).unwrap(), line: BufReader::new(ours), ended: false }
}

fn run_child(line: UnixStream, child: impl FnOnce(&mut Parent)) -> ! {
    let complaint = line.try_clone().unwrap();
    panic::set_hook(Box::new(move |info| {
        let text = info.to_string().replace('\n', " ");
        // There is nobody else to tell.
        drop(writeln!(&complaint, "{text}"));
    }));
    let mut parent = Parent(BufReader::new(line));
    let result = panic::catch_unwind(AssertUnwindSafe(|| child(&mut parent)));
    exit_at_once(if result.is_ok() { 0 } else { 101 });
}

/// Ends the process without any clean-up.
pub(crate) fn exit_at_once(status: i32) -> ! {
    // SAFETY: the call does not return, and touches no memory.
    unsafe { libc::_exit(status) }
}

impl Parent {
    pub(crate) fn say(&mut self, line: impl std::fmt::Display) {
        writeln!(self.0.get_mut(), "{line}").unwrap();
    }

    /// Waits for a line; `None` when the parent and all its copies have gone.
    pub(crate) fn hear(&mut self) -> Option<String> {
        read_line(&mut self.0)
    }
}

fn read_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let count = from.read_line(&mut line).expect("a line comes");
    (count > 0).then(|| line.trim_end().to_owned())
}

impl Forked {
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.next_line(), line);
    }

    pub(crate) fn next_line(&mut self) -> String {
        read_line(&mut self.line).expect("the child says something")
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.line.get_mut(), "{line}").unwrap();
    }

    /// Waits for the end, which must have been a good one.
    pub(crate) fn finish(self) {
        self.finish_with(0);
    }

    /// Waits for the end with this status.
    pub(crate) fn finish_with(mut self, expected: i32) {
        drop(self.line.get_mut().shutdown(Shutdown::Write));
        let mut status = None;
        eventually("the child ends", || {
            status = waitpid(Some(self.pid), WaitOptions::NOHANG).unwrap();
            status.is_some()
        });
        self.ended = true;
        let (_, status) = status.unwrap();
        if status.exit_status() != Some(expected) {
            self.line.get_mut().set_nonblocking(true).unwrap();
            let last = (&mut self.line).lines().map_while(Result::ok).last();
            panic!("the child ended with {status:?}: {}", last.unwrap_or_default());
        }
    }

    pub(crate) fn kill(&mut self) {
        if !self.ended {
            kill_process(self.pid, Signal::KILL).unwrap();
            waitpid(Some(self.pid), WaitOptions::empty()).unwrap();
            self.ended = true;
        }
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes the command start its process by `fork`, with the at-fork handlers, instead of
/// `posix_spawn`.
pub(crate) fn start_by_fork(command: &mut Command) {
    // SAFETY: the closure does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
}

/// Makes the command's process one that gets no inotify instance, whoever else has how many: in a user
/// namespace of its own, with a limit of none. Where that is not allowed, nothing is changed.
pub(crate) fn without_inotify(command: &mut Command) {
    let limit_to_none = || {
        // SAFETY: the call concerns this process alone, which has one thread and is about to exec.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0 {
            let path = c"/proc/sys/user/max_inotify_instances".as_ptr();
            // SAFETY: a constant, NUL-terminated path.
            let fd = unsafe { libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC) };
            // SAFETY: one byte of a constant; a descriptor that is not open is an error.
            unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) };
        }
        Ok(())
    };
    // SAFETY: the closure makes three system calls and touches nothing else.
    unsafe { command.pre_exec(limit_to_none) };
}

/// Runs a role to its end, without a thread of this process that would listen to it, and returns
/// what it said.
pub(crate) fn outcome_of(role: &str, args: &[&str]) -> Vec<String> {
    let output =
        command(role, args).stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{role} {args:?}: {}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_prefix(MARK)).map(String::from).collect()
}

/// Unlocks through a descriptor number, as code might that has remembered one.
pub(crate) fn unlock(fd: RawFd, mechanism: Mechanism) -> io::Result<()> {
    // SAFETY: an all-zero `flock` is a value of this C structure.
    let mut request: libc::flock = unsafe { std::mem::zeroed() };
    request.l_type = i16::try_from(libc::F_UNLCK).unwrap();
    let result = match mechanism {
        #[expect(clippy::disallowed_methods, reason = "this is what the library guards against")]
        // SAFETY: the call has no memory effects, whatever the number.
        Mechanism::Flock => unsafe { libc::flock(fd, libc::LOCK_UN) },
        // SAFETY: the command reads the structure, which is valid for the call.
        Mechanism::Ofd => unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const request) },
        // SAFETY: as above.
        _ => unsafe { libc::fcntl(fd, libc::F_SETLK, &raw const request) },
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes over a descriptor that this process was started with.
pub(crate) fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: fails for a number that is not open; does nothing else.
    assert_ne!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, -1, "descriptor {fd} is open");
    // SAFETY: it is open, and only the caller, who was told the number, uses it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A process, told apart from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// In clock ticks since the machine's start.
    pub(crate) start: u64,
}

impl Identity {
    pub(crate) fn mine() -> Self {
        let pid = std::process::id();
        let (_, fields) = stat(pid).expect("this process is there");
        Self { pid, start: fields[START] }
    }

    /// Whether it is still running, and not on its way out: the kernel frees the locks of a process
    /// that has ended while it is still to be seen.
    pub(crate) fn is_alive(self) -> bool {
        const EXITING: u64 = 4;
        stat(self.pid).is_some_and(|(state, fields)| {
            fields[START] == self.start
                && !matches!(state, 'Z' | 'X')
                && fields[FLAGS] & EXITING == 0
        })
    }
}

/// Whether the process is there and runs, or sleeps.
pub(crate) fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// Places among the fields that [`stat`] returns.
const FLAGS: usize = 5;
const START: usize = 18;

/// State letter and the numbers after it in `/proc/PID/stat` (fields 4 and on).
fn stat(pid: u32) -> Option<(char, Vec<u64>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    // Some are negative; none of those is asked for.
    Some((state, words.map(|word| word.parse().unwrap_or(0)).collect()))
}

/// The descriptors of a process that are open on this file.
pub(crate) fn descriptors_of(pid: u32, file: &Path) -> Vec<RawFd> {
    open_files(pid).into_iter().filter(|(_, link)| link == file).map(|(fd, _)| fd).collect()
}

/// The descriptors of a process, and what they are open on.
pub(crate) fn open_files(pid: u32) -> Vec<(RawFd, PathBuf)> {
    let Ok(list) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    list.filter_map(|entry| {
        let entry = entry.ok()?;
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, fs::read_link(entry.path()).ok()?))
    })
    .collect()
}
