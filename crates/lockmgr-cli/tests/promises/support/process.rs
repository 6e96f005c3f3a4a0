//! Processes of a test: run to their end, or watched while they run.

use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::{Listener, pid, wait_until};

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

/// Runs a program to its end.
#[track_caller]
pub(crate) fn finished(command: &mut Command) -> Finished {
    // A file takes any amount, so that only one of the two need be read while the program runs.
    let mut messages = tempfile::tempfile().expect("a temporary file");
    command.stderr(messages.try_clone().expect("a descriptor"));
    let mut ended = Running::start(command).finish();
    messages.rewind().expect("a file");
    let mut bytes = Vec::new();
    messages.read_to_end(&mut bytes).expect("it can be read");
    ended.err = String::from_utf8_lossy(&bytes).into_owned();
    ended
}

/// A process that says on its standard output what it has come to. It leads a process group, which is
/// killed when this goes out of scope: a test that fails leaves nobody behind.
pub(crate) struct Running {
    child: Child,
    out: Listener,
    over: bool,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).process_group(0).spawn().expect("the program starts");
        let out = Listener::new(child.stdout.take().expect("it is piped"));
        Running { child, out, over: false }
    }

    pub(crate) fn pid(&self) -> Pid {
        pid(self.child.id())
    }

    /// Writes a line to its standard input, which must be piped.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{line}").expect("it reads");
    }

    /// Nothing more is written to its standard input.
    pub(crate) fn say_no_more(&mut self) {
        drop(self.child.stdin.take());
    }

    #[track_caller]
    pub(crate) fn says(&mut self, expected: &str) {
        assert_eq!(self.out.until("\n").as_deref(), Some(expected));
    }

    /// The next line.
    #[track_caller]
    pub(crate) fn says_line(&mut self) -> String {
        self.out.until("\n").expect("a line")
    }

    /// The next line, which is a pid.
    #[track_caller]
    pub(crate) fn says_pid(&mut self) -> Pid {
        let line = self.out.until("\n").expect("a line with a pid");
        pid(line.parse().expect("a pid"))
    }

    pub(crate) fn send(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is there to be signalled");
    }

    #[track_caller]
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
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        // In this order: a program that says much would wait for us.
        let out = self.out.rest();
        let status = self.wait();
        Finished { code: status.code(), signal: status.signal(), out, err: String::new() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After its end the number may be another group's.
        if !self.over {
            let _nobody_left = kill_process_group(self.pid(), Signal::KILL);
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
