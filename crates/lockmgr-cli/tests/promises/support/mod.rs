//! Starting processes, waiting for what they do, and judging locks without lockmgr's help.

mod json;
mod judge;
mod listener;
mod process;
mod protected;

use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

pub(crate) use json::{check, json, schema};
pub(crate) use judge::{Held, hold, is_locked, is_waited_for, take_write_lease, waiters};
pub(crate) use listener::Listener;
pub(crate) use process::{Finished, Running, Stranger, finished};
pub(crate) use protected::ProtectedRegular;

/// Longer than anything here takes on the slowest machine; only a failing test waits for it.
pub(crate) const BOUND: Duration = Duration::from_secs(90);

pub(crate) const LOCKMGR: &str = env!("CARGO_BIN_EXE_lockmgr");

/// Gives the signals of these tests their default action, which children inherit: a shell starts its
/// background jobs with SIGINT and SIGQUIT ignored, and nohup(1) does so with SIGHUP.
#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn undo_ignored_signals() {
    for signal in (1..32).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: a null pointer changes nothing; `action` has room for what is written.
        unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
        // SAFETY: it was zeroed, which is a valid value, and then written by the kernel.
        let ignored = unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN;
        // Rust's runtime ignores SIGPIPE in this process, and undoes that in children itself.
        if ignored && signal != libc::SIGPIPE {
            // SAFETY: it installs no handler.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

/// A directory of the test's own.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        undo_ignored_signals();
        Scratch(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command with these words, in this directory, where `$LOCKMGR` is the program.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(words[0].as_ref());
        command
            .args(&words[1..])
            .current_dir(self.dir())
            .env("LOCKMGR", LOCKMGR)
            .env_remove("SHELL")
            // These tests may run under a lock themselves.
            .env_remove("LOCKMGR_LOCK")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn lockmgr<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = self.command(&[LOCKMGR]);
        command.args(words);
        command
    }

    /// Runs lockmgr to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Finished {
        finished(&mut self.lockmgr(words))
    }

    /// A command that has the lock, with these options before its name; it says so, and stays.
    pub(crate) fn holder(&self, options: &[&str], lock: impl AsRef<OsStr>) -> Running {
        let mut command = self.lockmgr(&["run"]);
        command.args(options).arg(lock).args(["sh", "-c", "echo up; exec sleep 1000"]);
        let mut holder = Running::start(&mut command);
        holder.says("up");
        holder
    }

    /// A command that waits for the lock, and has been seen to; there are `count` waiters then.
    pub(crate) fn waiter(&self, options: &[&str], lock: &str, count: usize) -> Running {
        let mut command = self.lockmgr(&["run"]);
        command.args(options).arg(lock).args(["sh", "-c", "echo up; exec sleep 1000"]);
        let waiter = Running::start(&mut command);
        wait_until("it waits", || waiters(&self.path(lock)) == count);
        waiter
    }

    /// Everybody may come in, whoever he is.
    pub(crate) fn open_to_all(self) -> Self {
        fs::set_permissions(self.dir(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        self
    }

    /// Runs a shell script to its end.
    pub(crate) fn sh(&self, script: &str) -> Finished {
        finished(&mut self.command(&["/bin/sh", "-c", script]))
    }
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < BOUND, "gave up waiting until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The state letter of a process, as in ps(1): `T` for stopped; `None` when it is gone.
pub(crate) fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Whether a signal for this process waits to be taken.
pub(crate) fn is_pending(pid: Pid, signal: Signal) -> bool {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let text = fs::read_to_string(path).expect("it is there");
    let pending = text.lines().find_map(|line| line.strip_prefix("ShdPnd:\t")).expect("a line");
    let pending = u64::from_str_radix(pending, 16).expect("a number");
    pending & (1 << (signal.as_raw() - 1)) != 0
}

/// Whether lockmgr has taken this signal, and sleeps until the next one comes for it.
pub(crate) fn has_taken(pid: Pid, signal: Signal) -> bool {
    if is_pending(pid, signal) {
        return false;
    }
    let path = format!("/proc/{}/syscall", pid.as_raw_nonzero());
    let text = fs::read_to_string(path).expect("it is there");
    let number = text.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
    [libc::SYS_epoll_pwait, libc::SYS_rt_sigtimedwait].map(Some).contains(&number)
}

pub(crate) fn is_gone(pid: Pid) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a pid")
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test was not made, and why.
pub(crate) fn skip(reason: &str) {
    lockmgr_testfs::skip(reason);
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
