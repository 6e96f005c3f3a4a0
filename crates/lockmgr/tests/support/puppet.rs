//! A process that does as it is told, with descriptors and the kernel's lock calls: what a scene of
//! holders and waiters is made of. Its descriptors are inherited by whatever it starts.

use std::fs::File;
use std::os::fd::IntoRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use lockmgr::{Mechanism, Mode};
use rustix::fs::{Mode as Permissions, OFlags};
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid,
};

use super::process::{Way, fork};
use super::tasks::{sleeps_in, this_thread};
use super::users::become_user;
use super::{Role, Worker, eventually, hear, raw, say, send_signal};

/// The role. It is played by a child that has one thread, which the test harness does not.
pub(crate) const PUPPET: (&str, Role) = ("puppet", |args| {
    let player = fork(Way::Fork, |_| {
        // Blocked as it may be, it must not outlive the test.
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        play(args);
    });
    let pid = player.pid();
    // It is reaped here.
    std::mem::forget(player);
    wait_for(pid);
});

fn wait_for(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    waitpid(pid, WaitOptions::empty()).unwrap();
}

fn play(args: &[String]) {
    if let Some(user) = args.first() {
        become_user(user.parse().unwrap());
    }
    let mut children = Vec::new();
    let mut asking = Vec::new();
    say(std::process::id());
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
                thread::spawn(|| {
                    loop {
                        thread::park();
                    }
                });
                say("idles");
            }
            "heir" => {
                let child = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
                say(child.id());
                children.push(child);
            }
            "child" => {
                let request = Request::of(rest);
                let child = fork(Way::Fork, |_| request.take(true));
                say(child.pid());
                asking.push(child.pid());
                // Whoever asked for it ends it.
                std::mem::forget(child);
            }
            "wait" => {
                say("waiting");
                wait_for(asking.pop().unwrap());
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
pub(crate) struct Puppet(pub(crate) Worker, u32);

impl Puppet {
    pub(crate) fn new() -> Self {
        Self::of(Worker::spawn("puppet", &[]))
    }

    pub(crate) fn as_user(user: u32) -> Self {
        Self::of(Worker::spawn("puppet", &[&user.to_string()]))
    }

    pub(crate) fn of(worker: Worker) -> Self {
        let pid = worker.next_line().parse().unwrap();
        Self(worker, pid)
    }

    /// A process with the file open, and a lock on it.
    pub(crate) fn holding(path: &Path, lock: &str) -> (Self, u32) {
        let mut puppet = Self::new();
        let fd = puppet.open(path);
        puppet.take(fd, lock);
        (puppet, fd)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.1
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

    /// Ends it, and returns when its locks are gone.
    pub(crate) fn kill(&mut self) {
        send_signal(self.1, Signal::KILL.as_raw());
        // Its parent has seen the end of it.
        self.0.child.wait().unwrap();
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
        let pid = i32::try_from(self.0).ok().and_then(Pid::from_raw).unwrap();
        // It may have ended with its parent.
        let _killed = kill_process(pid, Signal::KILL);
    }
}
