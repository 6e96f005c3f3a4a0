//! The thread that looks at the kernel's table, so that keys are answered while it does: on a busy machine
//! a look takes a while.
//!
//! It does one thing at a time, when it is told to, and makes a descriptor readable when it is done. It
//! inherits a mask in which the program's signals are blocked, so it takes none of them. When it panics,
//! the hook leaves the text here, and the program ends with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use lockmgr::inspect::LockTable;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::exit::Failure;
use crate::signal_holder::Pinned;

use super::picture::Look;
use super::state::{Question, SIGNALS};

/// What the panic of another thread than the main one said.
pub(super) static DEFECT: Mutex<Option<String>> = Mutex::new(None);

pub(super) enum Task {
    Look,
    /// What was asked, and answered with yes.
    Signal(Question),
}

pub(super) enum Report {
    Seen(Look),
    /// What became of a signal.
    Said(String),
}

pub(super) struct Lookout {
    tasks: Sender<Task>,
    reports: Receiver<io::Result<Report>>,
    done: Arc<OwnedFd>,
}

impl Lookout {
    pub(super) fn start() -> io::Result<Self> {
        let (tasks, to_do) = channel();
        let (results, reports) = channel();
        let done = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let bell = Bell(Arc::clone(&done));
        // It is not waited for at the end: a look that is slow must not keep the program.
        thread::Builder::new().name("lookout".into()).spawn(move || {
            let bell = bell;
            for task in to_do {
                if results.send(perform(task)).is_err() {
                    return;
                }
                bell.ring();
            }
        })?;
        Ok(Self { tasks, reports, done })
    }

    pub(super) fn tell(&self, task: Task) {
        // If the thread is gone, `report` says so.
        drop(self.tasks.send(task));
    }

    /// Readable when there are reports.
    pub(super) fn done(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }

    /// The next report that is there; an error when the thread is gone, or could not look.
    pub(super) fn report(&self) -> io::Result<Option<Report>> {
        let mut count = [0; 8];
        let _nothing_to_read = rustix::io::read(&self.done, &mut count);
        match self.reports.try_recv() {
            Ok(report) => report.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                let said = DEFECT.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(io::Error::other(said.unwrap_or_else(|| "the lookout has ended".into())))
            }
        }
    }
}

/// Rings when it is dropped as well, by a panic for one.
struct Bell(Arc<OwnedFd>);

impl Bell {
    fn ring(&self) {
        let _never_full = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.ring();
    }
}

fn perform(task: Task) -> io::Result<Report> {
    match task {
        Task::Look => {
            let table = LockTable::snapshot()
                .map_err(|error| io::Error::other(Failure::of_table(&error).line))?;
            let at = Instant::now();
            let deadlocks = table.deadlocks();
            Ok(Report::Seen(Look { table, deadlocks, at }))
        }
        Task::Signal(question) => {
            let (signal, name) = SIGNALS[question.signal];
            let pid = question.process.pid;
            let said = match signal_it(&question, signal) {
                Ok(()) => format!("SIG{name} sent to pid {pid}"),
                Err(why) => format!("SIG{name} not sent: {why}"),
            };
            Ok(Report::Said(said))
        }
    }
}

fn signal_it(question: &Question, signal: Signal) -> Result<(), String> {
    let pid = question.process.pid;
    let ended = || format!("pid {pid} has ended");
    let pinned = Pinned::new(&question.process)
        .map_err(|error| format!("cannot open pid {pid}: {error}"))?
        .ok_or_else(ended)?;
    let table = LockTable::snapshot().map_err(|error| format!("cannot look: {error}"))?;
    if !question.lock.is_held_by(&question.process, &table) {
        return Err(format!("pid {pid} does not hold {} any more", question.path));
    }
    match pinned.signal(signal) {
        Ok(true) => Ok(()),
        Ok(false) => Err(ended()),
        Err(Errno::PERM) => Err(format!("not permitted to signal pid {pid}")),
        Err(error) => Err(format!("cannot signal pid {pid}: {error}")),
    }
}
