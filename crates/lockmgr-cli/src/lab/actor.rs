//! An actor: a process that does what it is told, one call at a time, and says what came of it.
//!
//! It is this program, started anew, so that it has nothing but what the scene wants it to have:
//! descriptor 0 is its line to the stage, descriptor 1 the line for a child that it may be told to fork,
//! and every other one it was told to open. Nothing is between an order and the kernel's call.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use lockmgr::Mechanism;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{self, CWD, Mode, OFlags, RenameFlags, inotify};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, set_parent_process_death_signal};
use rustix::thread::{
    ClockId, CpuSet, clock_nanosleep_absolute, gettid, sched_getaffinity, sched_getcpu,
    sched_setaffinity,
};

use super::call::{Access, Call, Fd, LockCall, Making, Naming, Order, Outcome, Report, To};
use super::part;
use crate::exit::{self, Status};
use crate::sys::actor::{self as raw, Owner};

/// The whole life of an actor. `words`: the order that it was executed for, if it was another before.
pub(super) fn play(words: &[OsString]) -> Status {
    // Nobody is to be left behind when the stage is killed. (An actor that is forked ends with its line.)
    let _as_well_as_can_be = set_parent_process_death_signal(Some(Signal::KILL));
    let order = words.first().and_then(|word| word.to_str()).and_then(|word| word.parse().ok());
    let begin = || -> io::Result<()> {
        let line = UnixStream::from(raw::adopt(0)?);
        let spare = UnixStream::from(raw::adopt(1)?);
        Actor::new(line, Some(spare))?.obey(order.unwrap_or(0))
    };
    if begin().is_ok() { exit::OK } else { exit::SYSTEM }
}

/// The process.
struct Actor {
    line: BufReader<UnixStream>,
    /// For a child.
    spare: Option<UnixStream>,
    hands: Arc<Hands>,
    threads: HashMap<u32, Sender<(u64, Call)>>,
}

/// What its threads share.
struct Hands {
    out: Mutex<UnixStream>,
    open: Mutex<HashMap<Fd, Arc<OwnedFd>>>,
}

impl Actor {
    fn new(line: UnixStream, spare: Option<UnixStream>) -> io::Result<Self> {
        let out = Mutex::new(line.try_clone()?);
        Ok(Self {
            line: BufReader::new(line),
            spare,
            hands: Arc::new(Hands { out, open: Mutex::default() }),
            threads: HashMap::new(),
        })
    }

    /// Does what it is told until nobody tells it anything.
    fn obey(mut self, id: u64) -> io::Result<()> {
        self.hands.here(id)?;
        loop {
            let mut line = String::new();
            if self.line.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let Order { id, thread, call } = serde_json::from_str(&line)?;
            match call {
                call if thread != 0 => self.pass_on(id, thread, call)?,
                Call::Exit => std::process::exit(0),
                Call::Exec => {
                    // Only if it cannot be.
                    let error = Command::new(part::PROGRAM)
                        .arg0("lockmgr")
                        .args([part::ACTOR, &id.to_string()])
                        .exec();
                    self.hands.done(id, Err(error))?;
                }
                Call::Fork => self.fork(id)?,
                call => {
                    self.hands.report(&Report::Begins { id })?;
                    let outcome = self.hands.make(&call);
                    self.hands.done(id, outcome)?;
                }
            }
        }
    }

    fn fork(&mut self, id: u64) -> io::Result<()> {
        let Some(spare) = self.spare.take() else {
            return self.hands.done(id, Err(io::Error::other("no line for a second child")));
        };
        if !self.threads.is_empty() {
            return self.hands.done(id, Err(io::Error::other("not with threads")));
        }
        match raw::fork() {
            Err(error) => self.hands.done(id, Err(error)),
            Ok(Some(child)) => {
                drop(spare);
                let pid = i64::from(child.as_raw_nonzero().get());
                self.hands.done(id, Ok((pid, None)))
            }
            Ok(None) => {
                // The parent's line is the parent's: its end is to be seen.
                self.line = BufReader::new(spare.try_clone()?);
                *self.hands.out.lock().unwrap_or_else(PoisonError::into_inner) = spare;
                self.hands.here(0)
            }
        }
    }

    fn pass_on(&mut self, id: u64, thread: u32, call: Call) -> io::Result<()> {
        let sender = self.threads.entry(thread).or_insert_with(|| {
            let (sender, orders) = mpsc::channel::<(u64, Call)>();
            let hands = Arc::clone(&self.hands);
            thread::spawn(move || -> io::Result<()> {
                for (id, call) in orders {
                    hands.here(id)?;
                    hands.report(&Report::Begins { id })?;
                    let outcome = hands.make(&call);
                    hands.done(id, outcome)?;
                }
                Ok(())
            });
            sender
        });
        sender.send((id, call)).map_err(|_| io::Error::other("the thread has ended"))
    }
}

/// What a call returned and told, or its error.
type Made = io::Result<(i64, Option<String>)>;

impl Hands {
    fn report(&self, report: &Report) -> io::Result<()> {
        let mut text = serde_json::to_vec(report)?;
        text.push(b'\n');
        self.out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&text)
    }

    fn here(&self, id: u64) -> io::Result<()> {
        let number = |pid: rustix::process::Pid| pid.as_raw_nonzero().get();
        self.report(&Report::Here { id, pid: number(getpid()), thread: number(gettid()) })
    }

    fn done(&self, id: u64, made: Made) -> io::Result<()> {
        let outcome = match made {
            Ok((number, said)) => Outcome { result: Ok(number), said },
            Err(error) => match error.raw_os_error() {
                Some(number) => Outcome { result: Err(number), said: None },
                None => Outcome { result: Err(libc::EINVAL), said: Some(error.to_string()) },
            },
        };
        self.report(&Report::Done { id, outcome })
    }

    /// The descriptor; one that was inherited over exec is met here for the first time.
    fn get(&self, fd: Fd) -> io::Result<Arc<OwnedFd>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = open.get(&fd) {
            return Ok(Arc::clone(known));
        }
        let adopted = Arc::new(raw::adopt(fd)?);
        open.insert(fd, Arc::clone(&adopted));
        Ok(adopted)
    }

    fn keep(&self, fd: OwnedFd) -> (i64, Option<String>) {
        let number = fd.as_raw_fd();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(number, Arc::new(fd));
        (i64::from(number), None)
    }

    fn close(&self, fd: Fd) -> Made {
        let known = self.get(fd)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&fd);
        drop(Arc::into_inner(known).ok_or_else(|| io::Error::other("it is in use"))?);
        Ok((0, None))
    }

    fn make(&self, call: &Call) -> Made {
        let nothing = |()| (0, None);
        let plain = |result: Result<(), Errno>| Ok(result.map(nothing)?);
        match call {
            Call::Open { path, access } => Ok(self.keep(open(path, *access)?)),
            Call::Close { fd } => self.close(*fd),
            Call::Dup { fd } => Ok(self.keep(rustix::io::dup(self.get(*fd)?)?)),
            Call::Lock(lock) => lock.make().map(nothing),
            Call::Test { fd, mechanism, to } => test(*fd, *mechanism, *to),
            Call::Lockf { fd } => raw::lockf(*fd, libc::F_TLOCK, 0).map(nothing),
            Call::Again { lock, rounds } => again(*lock, *rounds),
            Call::Write { fd, text } => {
                let count = rustix::io::write(self.get(*fd)?, text.as_bytes())?;
                Ok((i64::try_from(count).unwrap_or(i64::MAX), None))
            }
            Call::SetLength { fd, length } => plain(fs::ftruncate(self.get(*fd)?, *length)),
            Call::Length { fd } => Ok((fs::fstat(self.get(*fd)?)?.st_size, None)),
            Call::Name { how, from, to } => plain(name(*how, from, to)),
            Call::Unlink { path } => plain(fs::unlink(path)),
            Call::Mkdir { path } => plain(fs::mkdir(path, Mode::RWXU)),
            Call::MakeMany { at, how, prefix, rounds } => {
                sleep_until(*at);
                make_many(*how, prefix, *rounds)
            }
            Call::RenameOver { path, rounds } => rename_over(path, *rounds),
            Call::LookFor { path, rounds } => look_for(path, *rounds),
            Call::Catch { signal, restart } => raw::catch(*signal, *restart).map(nothing),
            Call::Batch => raw::become_batch().map(nothing),
            Call::OneProcessor => one_processor(),
            Call::Watch { path } => {
                let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
                inotify::add_watch(&watch, path, inotify::WatchFlags::CLOSE)?;
                Ok(self.keep(watch))
            }
            Call::Events { fd, milliseconds } => events(&*self.get(*fd)?, *milliseconds),
            Call::Fork | Call::Exec | Call::Exit => {
                Err(io::Error::other("only the first thread can do that"))
            }
        }
    }
}

fn open(path: &str, access: Access) -> Result<OwnedFd, Errno> {
    let usual = OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = match access {
        Access::Usual => OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC,
        Access::Inheritable => OFlags::RDWR | OFlags::CREATE,
        Access::ReadOnly => OFlags::RDONLY | OFlags::CLOEXEC,
        Access::WriteOnly => OFlags::WRONLY | OFlags::CLOEXEC,
        Access::Directory => OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Access::New => OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
    };
    fs::open(path, flags | usual, Mode::RUSR | Mode::WUSR)
}

fn test(fd: Fd, mechanism: Mechanism, to: To) -> Made {
    let owner = if mechanism == Mechanism::Ofd { Owner::Description } else { Owner::Process };
    Ok(match raw::obstacle(fd, owner, to.want(), 0, 0)? {
        None => (0, Some("F_UNLCK: nothing is in the way".to_owned())),
        Some(lock) => {
            let kind = if lock.shared { "F_RDLCK" } else { "F_WRLCK" };
            let text = format!(
                "{kind}, l_start {}, l_len {}, l_pid {}",
                lock.start, lock.length, lock.pid
            );
            // The pid is the answer that is asked for.
            (i64::from(lock.pid), Some(text))
        }
    })
}

fn again(lock: LockCall, rounds: u32) -> Made {
    for round in 0..rounds {
        lock.unlock().make()?;
        match lock.make() {
            Ok(()) => {}
            Err(error) if is_busy(&error) => return Ok((i64::from(round), None)),
            Err(error) => return Err(error),
        }
    }
    Ok((i64::from(rounds), None))
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

fn name(how: Naming, from: &str, to: &str) -> Result<(), Errno> {
    match how {
        Naming::Link => fs::link(from, to),
        Naming::Symlink => fs::symlink(from, to),
    }
}

fn sleep_until(nanoseconds: u64) {
    let time = Timespec {
        tv_sec: i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0),
        tv_nsec: i64::try_from(nanoseconds % 1_000_000_000).unwrap_or(0),
    };
    // Early is no harm.
    let _slept = clock_nanosleep_absolute(ClockId::Monotonic, &time);
}

fn make_many(how: Making, prefix: &str, rounds: u32) -> Made {
    let own = format!("own-{}", getpid().as_raw_nonzero());
    if how == Making::Link {
        drop(open(&own, Access::Usual)?);
    }
    let mut made = 0;
    for round in 0..rounds {
        let path = format!("{prefix}{round}");
        if matches!(how, Making::Rename | Making::RenameNew) {
            drop(open(&own, Access::Usual)?);
        }
        let result = match how {
            Making::Create => open(&path, Access::New).map(drop),
            Making::Link => fs::link(&own, &path),
            Making::Mkdir => fs::mkdir(&path, Mode::RWXU),
            Making::Rename => fs::rename(&own, &path),
            Making::RenameNew => fs::renameat_with(CWD, &own, CWD, &path, RenameFlags::NOREPLACE),
        };
        match result {
            Ok(()) => made += 1,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((made, None))
}

fn rename_over(path: &str, rounds: u32) -> Made {
    let other = format!("{path}.new");
    for _ in 0..rounds {
        drop(open(&other, Access::Usual)?);
        fs::rename(&other, path)?;
    }
    Ok((i64::from(rounds), None))
}

fn look_for(path: &str, rounds: u32) -> Made {
    let mut missing = 0;
    for _ in 0..rounds {
        match open(path, Access::ReadOnly) {
            Ok(file) => drop(file),
            Err(Errno::NOENT) => missing += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok((missing, None))
}

/// The first of the processors that it may run on: the same for all of one scene.
fn one_processor() -> Made {
    let allowed = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|number| allowed.is_set(*number));
    let first = first.unwrap_or_else(sched_getcpu);
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one)?;
    Ok((0, None))
}

fn events(watch: &OwnedFd, milliseconds: u32) -> Made {
    let limit = Timespec {
        tv_sec: i64::from(milliseconds / 1000),
        tv_nsec: i64::from(milliseconds % 1000) * 1_000_000,
    };
    if poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit))? == 0 {
        return Ok((0, Some("no event".to_owned())));
    }
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    loop {
        names.push(match reader.next()?.events() {
            events if events.contains(inotify::ReadFlags::CLOSE_WRITE) => "IN_CLOSE_WRITE",
            events if events.contains(inotify::ReadFlags::CLOSE_NOWRITE) => "IN_CLOSE_NOWRITE",
            _ => "another event",
        });
        if reader.is_buffer_empty() {
            return Ok((i64::try_from(names.len()).unwrap_or(i64::MAX), Some(names.join(", "))));
        }
    }
}
