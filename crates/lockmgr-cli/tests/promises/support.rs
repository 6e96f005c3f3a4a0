//! Starting processes, waiting for what they do, and judging locks without lockmgr's help.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longer than anything here takes on the slowest machine; only a failing test waits for it.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

pub(crate) const LOCKMGR: &str = env!("CARGO_BIN_EXE_lockmgr");

/// A directory of the test's own.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
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

    /// Runs a shell script to its end.
    pub(crate) fn sh(&self, script: &str) -> Finished {
        finished(&mut self.command(&["/bin/sh", "-c", script]))
    }
}

/// What a process left.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Finished {
    /// Checks the exit status, and shows everything if it is another one.
    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// Checks that lockmgr said one line, with these words in it.
    #[track_caller]
    pub(crate) fn says(&self, words: &[&str]) -> &Self {
        assert_eq!(self.err.lines().count(), 1, "one line: {self:?}");
        assert!(self.err.starts_with("lockmgr: "), "{self:?}");
        assert!(words.iter().all(|word| self.err.contains(word)), "{words:?}: {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn is_silent(&self) -> &Self {
        assert_eq!((self.out.as_str(), self.err.as_str()), ("", ""), "{self:?}");
        self
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Finished {
            code: output.status.code(),
            signal: output.status.signal(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub(crate) fn finished(command: &mut Command) -> Finished {
    command.output().expect("the program starts").into()
}

/// A process that says on its standard output what it has come to; killed when it goes out of scope.
pub(crate) struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    over: bool,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        Running { child, out, over: false }
    }

    pub(crate) fn pid(&self) -> Pid {
        pid(self.child.id())
    }

    /// The next line it says; `None` at the end of what it says.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.out.read_line(&mut line).expect("its output can be read");
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Writes a line to its standard input, which must be piped.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{line}").expect("it reads");
    }

    #[track_caller]
    pub(crate) fn says(&mut self, expected: &str) {
        assert_eq!(self.line().as_deref(), Some(expected));
    }

    /// The next line, which is a pid.
    #[track_caller]
    pub(crate) fn says_pid(&mut self) -> Pid {
        let line = self.line().expect("a line with a pid");
        pid(line.parse().expect("a pid"))
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there to be signalled");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the process ends", || {
            status = self.child.try_wait().expect("it is our child");
            status.is_some()
        });
        self.over = true;
        status.expect("it has just been seen")
    }

    /// Waits for the end; returns what was said in the meantime, too.
    pub(crate) fn finish(mut self) -> Finished {
        let status = self.wait();
        let mut out = String::new();
        self.out.read_to_string(&mut out).expect("its output can be read");
        Finished { code: status.code(), signal: status.signal(), out, err: String::new() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A process that is not our child; killed when it goes out of scope.
pub(crate) struct Stranger(pub(crate) Pid);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _may_be_gone = kill_process(self.0, Signal::KILL);
    }
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).expect("a pid")
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

pub(crate) fn is_gone(pid: Pid) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Whether another process could not have the lock alone now. Asked of the kernel, not of lockmgr.
#[expect(clippy::disallowed_methods, reason = "a judge that is independent of the library")]
pub(crate) fn is_locked(path: &Path) -> bool {
    let file = File::open(path).expect("the lock file is there");
    // Released at once, for the reason given at `Held`.
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        || rustix::fs::flock(&file, FlockOperation::Unlock).is_err()
}

/// Whether somebody waits for a lock on the file: a line with `->` in the kernel's table.
pub(crate) fn is_waited_for(path: &Path) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return false };
    let inode = format!(":{} ", metadata.ino());
    let table = fs::read_to_string("/proc/locks").expect("the kernel's lock table");
    table.lines().any(|line| line.contains("->") && line.contains(&inode))
}

/// A lock held by the test itself until this is dropped.
#[must_use]
pub(crate) struct Held(File);

impl Drop for Held {
    #[expect(
        clippy::disallowed_methods,
        reason = "a competitor that is independent of the library"
    )]
    fn drop(&mut self) {
        // Closing would not do: a child that another test is just starting has the descriptor, too.
        rustix::fs::flock(&self.0, FlockOperation::Unlock).expect("it is held");
    }
}

#[expect(clippy::disallowed_methods, reason = "a competitor that is independent of the library")]
pub(crate) fn hold(path: &Path) -> Held {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o666)
        .open(path)
        .expect("the lock file can be created");
    rustix::fs::flock(&file, FlockOperation::LockExclusive).expect("the lock is granted");
    Held(file)
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Says that a test was not made, and why.
pub(crate) fn skip(reason: &str) {
    // Not `eprintln`, which the test harness keeps back when the test passes.
    writeln!(std::io::stderr(), "SKIPPED: {reason}").expect("standard error");
}

/// Whether a program is installed.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}
