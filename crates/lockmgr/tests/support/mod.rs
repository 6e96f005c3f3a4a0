//! Real processes for the tests: a test binary runs itself again in a role.
//!
//! A test file has one test that serves as the door:
//!
//! ```ignore
//! mod support;
//! use support::{Worker, serve};
//!
//! #[test]
//! fn worker() {
//!     serve(&[("hold", hold)]);
//! }
//!
//! fn hold(args: &[String]) {
//!     let lock = lockmgr::FileLock::open(&args[0]).unwrap();
//!     let guard = lock.lock().unwrap();
//!     support::say("held");
//!     support::hear(); // until told to let go
//!     drop(guard);
//! }
//! ```
//!
//! The door does nothing unless the process was started by [`Worker::spawn`]. Workers talk in
//! lines over their standard input and output, so tests wait for events and never for time.

#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::print_stdout, reason = "workers talk over their standard output")]

pub(crate) mod futures;
pub(crate) mod probe;
#[expect(unsafe_code, reason = "std has no fork")]
pub(crate) mod process;
pub(crate) mod puppet;
pub(crate) mod random;
#[expect(unsafe_code, reason = "system calls that only tests make and that have no safe wrapper")]
pub(crate) mod raw;
pub(crate) mod roles;
pub(crate) mod scene;
pub(crate) mod tasks;
pub(crate) mod users;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Generous: reached only when something is broken.
pub(crate) const BOUND: Duration = Duration::from_secs(90);

pub(crate) const ROLE: &str = "LOCKMGR_TEST_ROLE";
/// Marks the lines that are ours among what the test harness prints.
const MARK: &str = "\u{2}worker:";

/// What a worker does with its arguments.
pub(crate) type Role = fn(&[String]);

/// Runs the role this process was started in, and ends the process; returns at once in the test
/// run itself.
pub(crate) fn serve(roles: &[(&str, Role)]) {
    let Ok(text) = std::env::var(ROLE) else { return };
    let mut words = text.split('\u{1}').map(String::from);
    let role = words.next().unwrap();
    let args: Vec<String> = words.collect();
    let (_, run) = roles.iter().find(|(name, _)| *name == role).expect("a known role");
    run(&args);
    std::process::exit(0);
}

/// In a worker: tells the test a line.
pub(crate) fn say(line: impl std::fmt::Display) {
    // One write, also past the capture of the test harness.
    let text = format!("\n{MARK}{line}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).unwrap();
    out.flush().unwrap();
}

/// In a worker: waits for a line from the test; `None` when the test has gone.
pub(crate) fn hear() -> Option<String> {
    let mut line = String::new();
    let count = std::io::stdin().lock().read_line(&mut line).unwrap();
    (count > 0).then(|| line.trim_end().to_owned())
}

/// The command that starts this test binary in a role.
fn command(role: &str, args: &[&str]) -> Command {
    let mut words = vec![role];
    words.extend(args);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["worker", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, words.join("\u{1}"));
    command
}

/// A process of this test binary in a role. Killed, by its id, when dropped.
pub(crate) struct Worker {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Worker {
    pub(crate) fn spawn(role: &str, args: &[&str]) -> Self {
        Self::spawn_with(role, args, |_| {})
    }

    /// As `spawn`, with a last word on the command (environment, uid, `pre_exec` …).
    pub(crate) fn spawn_with(role: &str, args: &[&str], adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(role, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        adjust(&mut command);
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix(MARK)
                    && sender.send(line.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        Self { child, input, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the worker's next line.
    pub(crate) fn expect(&self, line: &str) {
        assert_eq!(self.next_line(), line);
    }

    pub(crate) fn next_line(&self) -> String {
        self.lines.recv_timeout(BOUND).expect("the worker says something")
    }

    /// A line, if it comes within the time. Only for "nothing happens" checks that are backed by
    /// another event.
    pub(crate) fn try_line(&self, within: Duration) -> Option<String> {
        self.lines.recv_timeout(within).ok()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Closes its input.
    pub(crate) fn hang_up(&mut self) {
        self.input = None;
    }

    pub(crate) fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> ExitStatus {
        self.input = None;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < BOUND, "the worker ends");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Runs a role in a process of its own, for what concerns a whole process: signal handlers, limits,
/// the number of threads. Other tests of the file may run beside it in this one.
pub(crate) fn alone(role: &str, args: &[&str]) {
    let status = Worker::spawn(role, args).finish();
    assert!(status.success(), "{role} {args:?}: {status}");
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn send_signal(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).expect("a named signal");
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Waits until the condition holds; fails after a generous bound.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "never came true: {what}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Lines of `/proc/locks` about the file: (held, blocked).
pub(crate) fn kernel_locks(path: &Path) -> (usize, usize) {
    let Ok(status) = std::fs::metadata(path) else { return (0, 0) };
    kernel_locks_of_inode(status.ino())
}

pub(crate) fn kernel_locks_of_inode(inode: u64) -> (usize, usize) {
    // A table that was put together of several reads is believed when it comes out the same again and again.
    const OFTEN: usize = 4;
    let suffix = format!(":{inode}");
    let count = |table: &str| {
        let ours = table.lines().filter(|line| {
            line.split_ascii_whitespace()
                .any(|word| word.matches(':').count() == 2 && word.ends_with(&suffix))
        });
        let (blocked, held): (Vec<_>, Vec<_>) = ours.partition(|line| line.contains("->"));
        (held.len(), blocked.len())
    };
    let (mut last, mut same) = (None, 0);
    loop {
        let (table, consistent) = lock_table();
        let now = count(&table);
        same = if last == Some(now) { same + 1 } else { 1 };
        if consistent || same == OFTEN {
            return now;
        }
        last = Some(now);
    }
}

/// `/proc/locks`, and whether it is true of one moment. The kernel gives a page at once, and between
/// two reads lines are lost or told twice when locks come and go elsewhere; `fs::read_to_string`
/// would begin with a read of 32 bytes.
fn lock_table() -> (String, bool) {
    let mut file = std::fs::File::open("/proc/locks").unwrap();
    let (mut table, mut page) = (Vec::new(), [0; 4096]);
    loop {
        let before = table.len();
        let count = file.read(&mut page).unwrap();
        table.extend_from_slice(&page[..count]);
        // Had there been another line, it would have fitted.
        if count < page.len() / 2 {
            return (String::from_utf8(table).unwrap(), before == 0);
        }
    }
}

/// Waits until so many are blocked in the kernel on the file.
pub(crate) fn wait_for_blocked(path: &Path, count: usize) {
    eventually("that many waiters in /proc/locks", || kernel_locks(path).1 == count);
}

/// Whether the kernel's table shows us the locks of all processes. In another pid namespace than the
/// first one it hides those whose taker is outside or dead; says so, loudly, then.
pub(crate) fn sees_all_locks() -> bool {
    // `PROC_PID_INIT_INO`
    let first = std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|link| link.as_os_str() == "pid:[4026531836]");
    if !first {
        skip("in this pid namespace the kernel hides locks; run it in the machine's first one");
    }
    first
}

/// Says, loudly, that a test could not run here.
pub(crate) fn skip(reason: &str) {
    lockmgr_testfs::skip(reason);
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Threads of this process.
pub(crate) fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// Open descriptors of this process, without the one that looks.
pub(crate) fn descriptor_count() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}
