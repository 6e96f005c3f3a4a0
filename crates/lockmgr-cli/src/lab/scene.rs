//! The stage's view of a scene: actors, what they are told, and the evidence that grows with it.
//!
//! Every wait in here ends: with what was waited for, when the time of the probe is over, or when nobody
//! wants the answer any more.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use lockmgr::Mechanism;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::asleep::{self, Look};
use super::call::{Access, Bytes, Call, Fd, LockCall, Order, Outcome, Report, To, signal_name};
use super::errno;
use super::part;
use super::probe::Step;

/// What a scene has found: an answer, and why.
pub(crate) struct Found {
    pub(crate) yes: bool,
    pub(crate) because: String,
}

impl Found {
    #[expect(clippy::unnecessary_wraps, reason = "it is the last line of every scene")]
    pub(crate) fn that(yes: bool, because: impl Into<String>) -> Result<Self, Trouble> {
        Ok(Self { yes, because: because.into() })
    }
}

/// Why a scene could not be played to its end.
pub(crate) enum Trouble {
    /// A call failed in a way that is no answer.
    Call {
        who: String,
        call: String,
        errno: i32,
    },
    /// Something has not come in time.
    Hangs {
        who: String,
        what: String,
    },
    /// Nobody wants the answer any more.
    Unwanted,
    Lab(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Lab(error.to_string())
    }
}

pub(crate) type Res<T> = Result<T, Trouble>;

/// What came of asking without waiting.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Try {
    Granted,
    /// Somebody else has it.
    Refused,
}

impl Try {
    pub(crate) fn refused(self) -> bool {
        self == Try::Refused
    }

    pub(crate) fn granted(self) -> bool {
        self == Try::Granted
    }
}

/// The scene of one probe.
pub(crate) struct Scene {
    mechanism: Mechanism,
    /// Where the evidence comes to be told.
    steps: RefCell<Vec<Step>>,
    processes: RefCell<Vec<Rc<Process>>>,
    next_id: Cell<u64>,
    end: Instant,
    /// Closed by whoever asked, if he wants no answer any more.
    asker: OwnedFd,
    /// A call sleeps here for a lock and for nothing else.
    local: bool,
}

impl Scene {
    pub(super) fn new(
        mechanism: Mechanism,
        end: Instant,
        asker: OwnedFd,
        directory: BorrowedFd<'_>,
    ) -> Self {
        let local = asleep::is_local(directory);
        Self {
            local,
            mechanism,
            steps: RefCell::default(),
            processes: RefCell::default(),
            next_id: Cell::new(1),
            end,
            asker,
        }
    }

    pub(crate) fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// A process of its own, with nothing open.
    pub(crate) fn process(&self, name: &str) -> Res<Actor<'_>> {
        let (line, its_line) = UnixStream::pair()?;
        let (spare, its_spare) = UnixStream::pair()?;
        let child = Command::new(part::PROGRAM)
            .arg0("lockmgr")
            .arg(part::ACTOR)
            .stdin(OwnedFd::from(its_line))
            .stdout(OwnedFd::from(its_spare))
            .stderr(Stdio::null())
            .spawn()?;
        let process = Rc::new(Process::new(line, Some(spare)));
        process.pid.set(child.id().cast_signed());
        self.processes.borrow_mut().push(Rc::clone(&process));
        self.note("lab", format!("starts process {name}"));
        self.hear(&process, name, |heard| heard.take_here(0))?;
        Ok(Actor { scene: self, process, thread: 0, name: name.to_owned() })
    }

    /// Waits until one of them has come back; which.
    pub(crate) fn first_back<'a>(
        &self,
        all: impl Iterator<Item = &'a Asking<'a>> + Clone,
    ) -> Res<usize> {
        loop {
            for (index, asking) in all.clone().enumerate() {
                if asking.is_back()? {
                    return Ok(index);
                }
            }
            if self.left().is_zero() {
                let who = all.map(Asking::actor).collect::<Vec<_>>().join(", ");
                let what = "nobody gets the lock that was released".to_owned();
                return Err(Trouble::Hangs { who, what });
            }
            self.pause()?;
        }
    }

    /// The lines of the kernel's table about the file, when one of them is as wanted, or none after many
    /// looks. `shown`: what fdinfo shows of a lock on it, with the name that the kernel has for the file; a
    /// filesystem may show another inode than that one.
    pub(crate) fn table(
        &self,
        path: &str,
        shown: &[String],
        wanted: impl Fn(&str) -> bool,
    ) -> Res<Vec<String>> {
        // The table is read a page at a time. When somebody else's lock goes in between, those behind it
        // move up, and one may be missed: by one look, but hardly by so many.
        const LOOKS: usize = 20;
        // `1: POSIX ADVISORY WRITE 4711 fe:00:42 0 EOF`
        let known = shown.first().and_then(|line| line.split(' ').nth(5)).map(str::to_owned);
        let file = match known {
            Some(file) => format!(" {file} "),
            None => format!(":{} ", std::fs::metadata(path)?.ino()),
        };
        let mut lines = Vec::new();
        for _ in 0..LOOKS {
            lines = std::fs::read_to_string("/proc/locks")?
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .filter(|line| line.contains(&file))
                .collect();
            if lines.iter().any(|line| wanted(line)) {
                break;
            }
        }
        let found = if lines.is_empty() { "no line".to_owned() } else { lines.join("; ") };
        self.add("lab", format!("reads /proc/locks about {path:?}"), Some(found));
        Ok(lines)
    }

    /// Adds to the evidence what is no call.
    pub(crate) fn note(&self, who: &str, what: impl Into<String>) {
        self.add(who, what.into(), None);
    }

    fn add(&self, who: &str, what: String, outcome: Option<String>) {
        self.steps.borrow_mut().push(Step { who: who.to_owned(), what, outcome });
    }

    /// Ends every process that is left. Returns the evidence, and whether the kernel lets go of all of them:
    /// nobody waits for one that it does not.
    pub(super) fn end(self) -> (Vec<Step>, bool) {
        // More than a process takes to die, unless it is in the hands of a filesystem.
        const LONG: Duration = Duration::from_millis(300);
        // Less than whoever asked waits for the answer.
        const TOO_LONG: Duration = Duration::from_millis(700);
        // All of them before one is waited for: they end together.
        let mut left: Vec<Pid> =
            self.processes.borrow().iter().filter_map(|process| process.kill()).collect();
        let since = Instant::now();
        let is_stuck = |pid: &Pid| asleep::is_stuck(pid.as_raw_nonzero().get());
        while !left.is_empty() && since.elapsed() < TOO_LONG {
            left.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
            if since.elapsed() > LONG && left.iter().all(is_stuck) {
                break;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        (self.steps.take(), !left.iter().any(is_stuck))
    }

    /// Waits until `heard` finds what it looks for among what the process has said.
    fn hear<T>(
        &self,
        process: &Process,
        who: &str,
        mut heard: impl FnMut(&Process) -> Option<T>,
    ) -> Res<T> {
        loop {
            if let Some(found) = heard(process) {
                return Ok(found);
            }
            if !self.listen(process, self.left(), who)? {
                return Err(Trouble::Hangs {
                    who: who.to_owned(),
                    what: "says nothing".to_owned(),
                });
            }
        }
    }

    /// A moment, for what must be looked at again; unless nobody wants the answer any more.
    fn pause(&self) -> Res<()> {
        let moment = Timespec { tv_sec: 0, tv_nsec: 100_000 };
        match poll(&mut [PollFd::new(&self.asker, PollFlags::IN)], Some(&moment)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => Err(Trouble::Unwanted),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Waits so long, at the most, for the process to say something; returns whether it did.
    fn listen(&self, process: &Process, at_most: Duration, who: &str) -> Res<bool> {
        let limit = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let mut ready = [
            PollFd::from_borrowed_fd(process.line.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.asker.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, Some(&limit)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        if !ready[1].revents().is_empty() {
            return Err(Trouble::Unwanted);
        }
        process.read().map_err(|error| Trouble::Lab(format!("process {who} has gone: {error}")))?;
        Ok(true)
    }
}

/// A process on the stage, and what it has said.
struct Process {
    line: UnixStream,
    spare: RefCell<Option<UnixStream>>,
    pid: Cell<i32>,
    raw: RefCell<VecDeque<u8>>,
    here: RefCell<HashMap<u64, (i32, i32)>>,
    begun: RefCell<HashSet<u64>>,
    done: RefCell<HashMap<u64, Outcome>>,
    /// The kernel's number of each thread that has said it.
    threads: RefCell<HashMap<u32, i32>>,
}

impl Process {
    fn new(line: UnixStream, spare: Option<UnixStream>) -> Self {
        Self {
            line,
            spare: RefCell::new(spare),
            pid: Cell::new(0),
            raw: RefCell::default(),
            here: RefCell::default(),
            begun: RefCell::default(),
            done: RefCell::default(),
            threads: RefCell::default(),
        }
    }

    fn read(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let count = (&self.line).read(&mut buffer)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut raw = self.raw.borrow_mut();
        raw.extend(&buffer[..count]);
        while let Some(end) = raw.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = raw.drain(..=end).collect();
            match serde_json::from_slice(&line)? {
                Report::Here { id, pid, thread } => {
                    self.here.borrow_mut().insert(id, (pid, thread));
                }
                Report::Begins { id } => drop(self.begun.borrow_mut().insert(id)),
                Report::Done { id, outcome } => drop(self.done.borrow_mut().insert(id, outcome)),
            }
        }
        Ok(())
    }

    fn take_here(&self, id: u64) -> Option<()> {
        let (pid, thread) = self.here.borrow_mut().remove(&id)?;
        self.pid.set(pid);
        self.threads.borrow_mut().insert(0, thread);
        Some(())
    }

    /// Kills it, and says what is to be waited for.
    fn kill(&self) -> Option<Pid> {
        // It is our child, or an orphan that came to us: until it is waited for the number is its own.
        let pid = Pid::from_raw(self.pid.replace(0))?;
        let _may_have_ended = kill_process(pid, Signal::KILL);
        Some(pid)
    }
}

/// A call that was not waited for.
#[must_use]
pub(crate) struct Asking<'s> {
    actor: Actor<'s>,
    id: u64,
    call: String,
    /// Until it is known what came of it.
    asleep: bool,
}

/// A process, or one of its threads.
#[derive(Clone)]
pub(crate) struct Actor<'s> {
    scene: &'s Scene,
    process: Rc<Process>,
    thread: u32,
    name: String,
}

impl<'s> Actor<'s> {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid.get()
    }

    /// Another thread of the process.
    pub(crate) fn thread(&self, number: u32) -> Self {
        Self { thread: number, name: format!("{}/t{number}", self.name), ..self.clone() }
    }

    fn order(&self, call: Call) -> Res<u64> {
        let id = self.scene.next_id.replace(self.scene.next_id.get() + 1);
        let mut text = serde_json::to_vec(&Order { id, thread: self.thread, call })
            .map_err(|error| Trouble::Lab(error.to_string()))?;
        text.push(b'\n');
        (&self.process.line).write_all(&text)?;
        Ok(id)
    }

    fn outcome(&self, id: u64, call: &str) -> Res<Outcome> {
        self.scene
            .hear(&self.process, &self.name, |process| process.done.borrow_mut().remove(&id))
            .map_err(|trouble| match trouble {
                Trouble::Hangs { who, .. } => {
                    self.scene.add(
                        &self.name,
                        call.to_owned(),
                        Some("does not come back".to_owned()),
                    );
                    Trouble::Hangs { who, what: call.to_owned() }
                }
                other => other,
            })
    }

    /// Makes the call; whatever comes back is an answer.
    pub(crate) fn calls(&self, call: Call) -> Res<Outcome> {
        let spelled = call.spelled();
        let id = self.order(call)?;
        let outcome = self.outcome(id, &spelled)?;
        self.scene.add(&self.name, spelled, Some(outcome.spelled()));
        Ok(outcome)
    }

    /// Makes a call that must succeed, or there is no answer.
    pub(crate) fn does(&self, call: Call) -> Res<i64> {
        let spelled = call.spelled();
        self.calls(call)?.result.map_err(|errno| self.failed(spelled, errno))
    }

    fn failed(&self, call: String, errno: i32) -> Trouble {
        Trouble::Call { who: self.name.clone(), call, errno }
    }

    pub(crate) fn opens(&self, path: &str) -> Res<Fd> {
        self.opens_as(path, Access::Usual)
    }

    pub(crate) fn opens_as(&self, path: &str, access: Access) -> Res<Fd> {
        let fd = self.does(Call::Open { path: path.to_owned(), access })?;
        Fd::try_from(fd).map_err(|_| Trouble::Lab(format!("descriptor {fd}")))
    }

    pub(crate) fn closes(&self, fd: Fd) -> Res<()> {
        self.does(Call::Close { fd }).map(drop)
    }

    /// The scene's mechanism on the whole file, without sleeping.
    pub(crate) fn lock(&self, fd: Fd, to: To) -> LockCall {
        LockCall { fd, mechanism: self.scene.mechanism, to, bytes: Bytes::ALL, sleeps: false }
    }

    /// Takes a lock that is free.
    pub(crate) fn takes(&self, fd: Fd, to: To) -> Res<()> {
        self.does(Call::Lock(self.lock(fd, to))).map(drop)
    }

    pub(crate) fn takes_bytes(&self, fd: Fd, to: To, start: i64, length: i64) -> Res<()> {
        let bytes = Bytes::new(start, length);
        self.does(Call::Lock(LockCall { bytes, ..self.lock(fd, to) })).map(drop)
    }

    pub(crate) fn releases(&self, fd: Fd) -> Res<()> {
        self.takes(fd, To::Unlock)
    }

    /// Asks without waiting.
    pub(crate) fn tries(&self, fd: Fd, to: To) -> Res<Try> {
        self.tries_call(self.lock(fd, to))
    }

    pub(crate) fn tries_bytes(&self, fd: Fd, to: To, start: i64, length: i64) -> Res<Try> {
        let bytes = Bytes::new(start, length);
        self.tries_call(LockCall { bytes, ..self.lock(fd, to) })
    }

    pub(crate) fn tries_as(&self, mechanism: Mechanism, fd: Fd, to: To) -> Res<Try> {
        self.tries_call(LockCall { mechanism, ..self.lock(fd, to) })
    }

    fn tries_call(&self, lock: LockCall) -> Res<Try> {
        match self.calls(Call::Lock(lock))?.result {
            Ok(_) => Ok(Try::Granted),
            Err(libc::EAGAIN | libc::EACCES) => Ok(Try::Refused),
            Err(errno) => Err(self.failed(lock.spelled(), errno)),
        }
    }

    /// Asks, and sleeps for it if need be. Returns when it sleeps, or when the call has come back.
    pub(crate) fn asks(&self, fd: Fd, to: To) -> Res<Asking<'s>> {
        let mut asking = self.begins(Call::Lock(self.lock(fd, to).sleeping()))?;
        asking.asleep = self.sleeps_or_is_back(asking.id, &asking.call)?;
        if asking.asleep {
            self.scene.add(&self.name, asking.call.clone(), Some("sleeps".to_owned()));
        }
        Ok(asking)
    }

    /// Begins a call, and lets it go on.
    pub(crate) fn begins(&self, call: Call) -> Res<Asking<'s>> {
        let spelled = call.spelled();
        let id = self.order(call)?;
        Ok(Asking { actor: self.clone(), id, call: spelled, asleep: false })
    }

    /// Waits until the call sleeps (true) or has come back (false).
    fn sleeps_or_is_back(&self, id: u64, call: &str) -> Res<bool> {
        let mut in_a_row = 0;
        loop {
            let process = &self.process;
            if process.done.borrow().contains_key(&id) {
                return Ok(false);
            }
            if self.scene.left().is_zero() {
                self.scene.add(&self.name, call.to_owned(), Some("does not come back".to_owned()));
                return Err(Trouble::Hangs { who: self.name.clone(), what: call.to_owned() });
            }
            if !process.begun.borrow().contains(&id) {
                self.scene.listen(process, self.scene.left(), &self.name)?;
                continue;
            }
            if let Some((_, thread)) = process.here.borrow_mut().remove(&id) {
                process.threads.borrow_mut().insert(self.thread, thread);
            }
            let thread = process.threads.borrow().get(&self.thread).copied().unwrap_or(0);
            in_a_row = match asleep::look(self.pid(), thread) {
                Look::InLockCall if self.scene.local => return Ok(true),
                // The call may sleep for a server's answer, which comes; and where the kernel does not tell
                // the call, for a page of memory. Neither is seen so often in a row.
                Look::InLockCall | Look::Sleeps => in_a_row + 1,
                Look::Runs => 0,
            };
            if in_a_row == 50 {
                return Ok(true);
            }
            self.scene.listen(process, Duration::from_millis(1), &self.name)?;
        }
    }

    /// Makes a child that has all its descriptors.
    pub(crate) fn forks(&self) -> Res<Actor<'s>> {
        let spare = self.process.spare.borrow_mut().take();
        let spare = spare.ok_or_else(|| Trouble::Lab("one child is all it can have".to_owned()))?;
        let child = Rc::new(Process::new(spare, None));
        let pid = self.does(Call::Fork)?;
        child.pid.set(i32::try_from(pid).unwrap_or(0));
        self.scene.processes.borrow_mut().push(Rc::clone(&child));
        let name = format!("{}'", self.name);
        self.scene.hear(&child, &name, |heard| heard.take_here(0))?;
        Ok(Actor { scene: self.scene, process: child, thread: 0, name })
    }

    /// Becomes this program anew, with what `FD_CLOEXEC` leaves it.
    pub(crate) fn execs(&self) -> Res<()> {
        let spelled = Call::Exec.spelled();
        let id = self.order(Call::Exec)?;
        let failed = self.scene.hear(&self.process, &self.name, |process| {
            let failed = process.done.borrow_mut().remove(&id);
            failed.map(Some).or_else(|| process.take_here(id).map(|()| None))
        })?;
        self.scene.add(&self.name, spelled.clone(), failed.as_ref().map(Outcome::spelled));
        match failed.map(|outcome| outcome.result) {
            Some(Err(errno)) => Err(self.failed(spelled, errno)),
            _ => Ok(()),
        }
    }

    /// Ends by itself.
    pub(crate) fn exits(&self) -> Res<()> {
        self.order(Call::Exit)?;
        self.scene.note(&self.name, Call::Exit.spelled());
        self.is_gone()
    }

    pub(crate) fn is_killed(&self) -> Res<()> {
        self.is_sent(Signal::KILL.as_raw())?;
        self.is_gone()
    }

    pub(crate) fn is_sent(&self, signal: i32) -> Res<()> {
        let pid = Pid::from_raw(self.pid()).ok_or_else(|| Trouble::Lab("no process".to_owned()))?;
        let named = Signal::from_named_raw(signal)
            .ok_or_else(|| Trouble::Lab(format!("signal {signal}")))?;
        kill_process(pid, named).map_err(io::Error::from)?;
        self.scene.note("lab", format!("sends {} to {}", signal_name(signal), self.name));
        Ok(())
    }

    /// Waits until the process has ended, and with it all that the kernel does at the end of one.
    fn is_gone(&self) -> Res<()> {
        let pid = Pid::from_raw(self.process.pid.replace(0));
        let Some(pid) = pid else { return Ok(()) };
        while waitpid(Some(pid), WaitOptions::NOHANG).map_err(io::Error::from)?.is_none() {
            if self.scene.left().is_zero() {
                self.process.pid.set(pid.as_raw_nonzero().get());
                let what = "does not end".to_owned();
                return Err(Trouble::Hangs { who: self.name.clone(), what });
            }
            self.scene.pause()?;
        }
        self.scene.note(&self.name, "has ended");
        Ok(())
    }

    /// Waits until the process is stopped.
    pub(crate) fn is_stopped(&self) -> Res<()> {
        self.is_sent(Signal::STOP.as_raw())?;
        self.comes_to("is stopped", || asleep::state(self.pid(), self.pid()) == Some('T'))
    }

    /// Lets a stopped process go on, until it sleeps again.
    pub(crate) fn is_continued(&self) -> Res<()> {
        self.is_sent(Signal::CONT.as_raw())?;
        self.comes_to("sleeps again", || {
            asleep::state(self.pid(), self.pid()) == Some('S')
                && asleep::look(self.pid(), self.pid()) != Look::Runs
        })
    }

    /// How often its first thread has gone to sleep so far; `None` where that is not told.
    pub(crate) fn went_to_sleep(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line?.trim().parse().ok()
    }

    /// Waits until no signal is on its way to the process.
    pub(crate) fn has_taken_signals(&self) -> Res<()> {
        let path = format!("/proc/{}/status", self.pid());
        self.comes_to("has taken the signal", || {
            let status = std::fs::read_to_string(&path).unwrap_or_default();
            let none = |name| {
                let set = status.lines().find_map(|line| line.strip_prefix(name));
                set.is_some_and(|set| set.trim().bytes().all(|digit| digit == b'0'))
            };
            none("SigPnd:") && none("ShdPnd:")
        })
    }

    pub(crate) fn watches(&self, path: &str) -> Res<Fd> {
        let watch = self.does(Call::Watch { path: path.to_owned() })?;
        Fd::try_from(watch).map_err(|_| Trouble::Lab(format!("descriptor {watch}")))
    }

    /// The events that come: how many, and which.
    pub(crate) fn hears(&self, watch: Fd, milliseconds: u32) -> Res<(i64, String)> {
        let call = Call::Events { fd: watch, milliseconds };
        let spelled = call.spelled();
        let outcome = self.calls(call)?;
        let count = outcome.result.map_err(|errno| self.failed(spelled, errno))?;
        Ok((count, outcome.said.unwrap_or_default()))
    }

    fn comes_to(&self, what: &str, mut there: impl FnMut() -> bool) -> Res<()> {
        while !there() {
            if self.scene.left().is_zero() {
                let what = format!("never {what}");
                return Err(Trouble::Hangs { who: self.name.clone(), what });
            }
            self.scene.pause()?;
        }
        self.scene.note(&self.name, what);
        Ok(())
    }

    /// The lines about locks that the kernel shows for the descriptor.
    pub(crate) fn shown_by_descriptor(&self, fd: Fd) -> Res<Vec<String>> {
        let path = format!("/proc/{}/fdinfo/{fd}", self.pid());
        let text = std::fs::read_to_string(&path)?;
        let lines: Vec<String> = text
            .lines()
            .filter_map(|line| line.strip_prefix("lock:"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let shown = if lines.is_empty() { "no lock".to_owned() } else { lines.join("; ") };
        self.scene.add(
            "lab",
            format!("reads fdinfo of {}'s descriptor {fd}", self.name),
            Some(shown),
        );
        Ok(lines)
    }
}

impl Asking<'_> {
    /// Whether the call sleeps, or slept when it was last looked at.
    pub(crate) fn sleeps(&self) -> bool {
        self.asleep
    }

    /// Whether it has come back by now.
    pub(crate) fn is_back(&self) -> Res<bool> {
        let actor = &self.actor;
        while actor.scene.listen(&actor.process, Duration::ZERO, &actor.name)? {}
        Ok(actor.process.done.borrow().contains_key(&self.id))
    }

    /// Whether it sleeps still, or again: looks until it has come back or is seen to sleep.
    pub(crate) fn sleeps_on(&self) -> Res<bool> {
        let sleeps = self.actor.sleeps_or_is_back(self.id, &self.call)?;
        if sleeps {
            self.actor.scene.note(&self.actor.name, format!("{} sleeps on", self.call));
        }
        Ok(sleeps)
    }

    /// Waits for what comes back.
    pub(crate) fn outcome(self) -> Res<Outcome> {
        let call = if self.asleep { format!("… {}", self.call) } else { self.call };
        let outcome = self.actor.outcome(self.id, &call)?;
        self.actor.scene.add(&self.actor.name, call, Some(outcome.spelled()));
        Ok(outcome)
    }

    /// Waits until it has succeeded.
    pub(crate) fn succeeds(self) -> Res<i64> {
        let (actor, call) = (self.actor.clone(), self.call.clone());
        self.outcome()?.result.map_err(|errno| actor.failed(call, errno))
    }

    pub(crate) fn actor(&self) -> &str {
        &self.actor.name
    }
}

/// A sentence about a call.
pub(crate) fn told(outcome: &Outcome) -> String {
    match outcome.result {
        Ok(_) => "granted".to_owned(),
        Err(errno) => errno::name(errno),
    }
}
