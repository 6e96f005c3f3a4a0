//! A process that does as it is told, with descriptors and the kernel's lock calls: what a scene of
//! holders and waiters is made of. Its descriptors are inherited by whatever it starts.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use lockmgr::{Mechanism, Mode};
use rustix::fs::{Mode as Permissions, OFlags};

use super::tasks::{sleeps_in, this_thread};
use super::users::become_user;
use super::{ROLE, Role, Worker, eventually, hear, raw, say};

/// The role.
pub(crate) const PUPPET: (&str, Role) = ("puppet", |args| {
    if let Some(user) = args.first() {
        become_user(user.parse().unwrap());
    }
    let mut children = Vec::new();
    say("ready");
    while let Some(line) = hear() {
        let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let number = || rest.split(' ').next().unwrap().parse::<i32>().unwrap();
        match word {
            "open" => say(open(rest)),
            "dup" => say(raw::duplicate(number())),
            "close" => {
                raw::close(number());
                say("closed");
            }
            "take" => {
                Request::of(rest).take(false);
                say("held");
            }
            "ask" => {
                let request = Request::of(rest);
                let (sender, thread) = std::sync::mpsc::channel();
                thread::spawn(move || {
                    sender.send(this_thread()).unwrap();
                    request.take(true);
                    say("granted");
                });
                say(thread.recv().unwrap());
            }
            "ask-here" => {
                say("asking");
                Request::of(rest).take(true);
                say("granted");
            }
            "idle" => {
                thread::spawn(|| loop { thread::park() });
                say("idles");
            }
            "heir" => {
                let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
                say(child.id());
                children.push(child);
            }
            "child" => {
                let child = child_that_asks(rest);
                say(child.id());
                children.push(child);
            }
            "wait" => {
                say("waiting");
                let mut child = children.pop().unwrap();
                child.wait().unwrap();
            }
            "lease" => {
                let file = File::options().write(true).open(rest).unwrap();
                raw::take_write_lease(&file).unwrap();
                say(file.into_raw_fd());
            }
            other => panic!("no such order: {other}"),
        }
    }
    for mut child in children {
        // It may have ended already.
        drop(child.kill());
        drop(child.wait());
    }
});

/// The role of a puppet's child, which does one thing.
pub(crate) const ASK: (&str, Role) = ("ask", |args| Request::of(&args[0]).take(true));

fn child_that_asks(request: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["worker", "--exact", "--nocapture", "--test-threads=1"])
        .env(ROLE, ["ask", request].join("\u{1}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Opens the file so that programs that are started from here have it, too.
fn open(path: &str) -> i32 {
    let permissions = Permissions::from_raw_mode(0o666);
    let opened = rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE, permissions)
        .or_else(|_| rustix::fs::open(path, OFlags::RDONLY, permissions));
    opened.unwrap().into_raw_fd()
}

/// `FD MECHANISM MODE [START LEN]`
struct Request {
    fd: i32,
    mechanism: Mechanism,
    mode: Mode,
    bytes: (i64, i64),
}

impl Request {
    fn of(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words.get(at).map_or(0, |word| word.parse().unwrap());
        Self {
            fd: words[0].parse().unwrap(),
            mechanism: words[1].parse().unwrap(),
            mode: if words[2] == "sh" { Mode::Shared } else { Mode::Exclusive },
            bytes: (number(3), number(4)),
        }
    }

    fn take(&self, sleeps: bool) {
        raw::take_lock(self.fd, self.mechanism, self.mode, self.bytes, sleeps).unwrap();
    }
}

/// The test's end of the strings.
pub(crate) struct Puppet(pub(crate) Worker);

impl Puppet {
    pub(crate) fn new() -> Self {
        Self::of(Worker::spawn("puppet", &[]))
    }

    pub(crate) fn as_user(user: u32) -> Self {
        Self::of(Worker::spawn("puppet", &[&user.to_string()]))
    }

    pub(crate) fn of(worker: Worker) -> Self {
        worker.expect("ready");
        Self(worker)
    }

    /// A process with the file open, and a lock on it.
    pub(crate) fn holding(path: &Path, lock: &str) -> (Self, u32) {
        let mut puppet = Self::new();
        let fd = puppet.open(path);
        puppet.take(fd, lock);
        (puppet, fd)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.pid()
    }

    fn order(&mut self, line: &str) -> String {
        self.0.tell(line);
        self.0.next_line()
    }

    fn number(&mut self, line: &str) -> u32 {
        self.order(line).parse().unwrap()
    }

    pub(crate) fn open(&mut self, path: &Path) -> u32 {
        self.number(&format!("open {}", path.display()))
    }

    pub(crate) fn dup(&mut self, fd: u32) -> u32 {
        self.number(&format!("dup {fd}"))
    }

    pub(crate) fn close(&mut self, fd: u32) {
        assert_eq!(self.order(&format!("close {fd}")), "closed");
    }

    pub(crate) fn take(&mut self, fd: u32, lock: &str) {
        assert_eq!(self.order(&format!("take {fd} {lock}")), "held");
    }

    /// Asks for the lock in a thread, and returns once that sleeps.
    pub(crate) fn ask(&mut self, fd: u32, lock: &str) -> u32 {
        let thread = self.number(&format!("ask {fd} {lock}"));
        self.await_sleep(thread);
        thread
    }

    /// Asks for the lock in its only thread.
    pub(crate) fn ask_here(&mut self, fd: u32, lock: &str) -> u32 {
        assert_eq!(self.order(&format!("ask-here {fd} {lock}")), "asking");
        self.await_sleep(self.pid());
        self.pid()
    }

    /// Waits until the thread sleeps in a lock call.
    fn await_sleep(&self, thread: u32) {
        sleeps_in_lock_call(self.pid(), thread);
    }

    /// Starts a thread that does nothing.
    pub(crate) fn idle(&mut self) {
        assert_eq!(self.order("idle"), "idles");
    }

    /// Starts a program that has all descriptors, and does nothing.
    pub(crate) fn heir(&mut self) -> Heir {
        Heir(self.number("heir"))
    }

    /// Starts a program that has all descriptors, and asks for a lock.
    pub(crate) fn child(&mut self, fd: u32, lock: &str) -> Heir {
        let child = Heir(self.number(&format!("child {fd} {lock}")));
        sleeps_in_lock_call(child.0, child.0);
        child
    }

    /// Makes it wait for its youngest child.
    pub(crate) fn wait_for_child(&mut self) {
        assert_eq!(self.order("wait"), "waiting");
        let (pid, thread) = (self.pid(), i32::try_from(self.pid()).unwrap());
        eventually("it waits for its child", || {
            sleeps_in(pid, thread)
                .is_some_and(|[call, ..]| [libc::SYS_wait4, libc::SYS_waitid].contains(&call))
        });
    }

    /// Takes a write lease on the file.
    pub(crate) fn lease(&mut self, path: &Path) -> u32 {
        self.number(&format!("lease {}", path.display()))
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill();
    }
}

/// Then it stands in the kernel's table, too.
fn sleeps_in_lock_call(pid: u32, thread: u32) {
    let thread = i32::try_from(thread).unwrap();
    eventually("a thread sleeps in a lock call", || {
        sleeps_in(pid, thread)
            .is_some_and(|[call, ..]| [libc::SYS_flock, libc::SYS_fcntl].contains(&call))
    });
}

/// A process that a puppet has started. Killed, by its id, when dropped.
pub(crate) struct Heir(pub(crate) u32);

impl Drop for Heir {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        // It may have ended with its parent.
        let _killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
