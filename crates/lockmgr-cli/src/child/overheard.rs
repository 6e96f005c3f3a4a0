//! Whether the command is sent signals, by whomever.
//!
//! Whoever signals a process group or a service as a whole signals the command and us, each once, and what
//! comes to us does not say so. If it were passed on, the command would have it twice, and the second one
//! may cut off what the first one began.
//!
//! A signalfd in an epoll instance tells of signals to the process that has put it there, whoever asks
//! (`signalfd(2)`, "epoll(7) semantics"), and whatever program that process becomes. So the command's process puts one
//! there before it becomes the command. It is heard of each signal that this process is sent and does not
//! ignore; of which is not said. But when the instance is asked, the signalfd is looked at in the name of
//! whoever asks, and has nothing to tell unless a signal waits for *them*. So one without a meaning waits
//! for us all the time. With `EPOLLET` nothing is told twice.
//!
//! Where a kernel has it otherwise, nothing is heard, and all is passed on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};

use crate::sys::signals::{self, SignalSet};

/// Waits for us all the time; to be blocked. Where it ever acts, it does nothing.
pub(super) const MEANINGLESS: Signal = Signal::URG;

/// In the epoll instance, our own signals; the command's are 0.
const OURS: u64 = 1;

/// The wait for our own signals and the command's.
pub(super) struct Overheard {
    epoll: OwnedFd,
    command: OwnedFd,
    _ours: OwnedFd,
}

impl Overheard {
    /// To be started before the command, with the signals that are awaited, which are blocked.
    pub(super) fn start(awaited: &SignalSet) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let ours = signals::readable_when(awaited)?;
        epoll::add(&epoll, &ours, epoll::EventData::new_u64(OURS), epoll::EventFlags::IN)?;
        let command = signals::readable_when(&SignalSet::of(&[MEANINGLESS]))?;
        kill_process(getpid(), MEANINGLESS)?;
        Ok(Self { epoll, command, _ours: ours })
    }

    /// The epoll instance, and the signalfd that the command's process is to put there.
    pub(super) fn ears(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.epoll.as_fd(), self.command.as_fd())
    }

    /// Sleeps until the command is sent a signal, which is `true`, one of ours has come, or the time is over.
    pub(super) fn wait(&self, end: Option<Instant>) -> io::Result<bool> {
        let left = end
            .and_then(|end| Timespec::try_from(end.saturating_duration_since(Instant::now())).ok());
        let mut events = Vec::with_capacity(2);
        let buffer = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, buffer, left.as_ref()) {
            // A stop and a continuation end the call, too.
            Ok(_) | Err(Errno::INTR) => {
                Ok(events.iter().any(|event: &epoll::Event| event.data.u64() != OURS))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the command was sent a signal since it was last asked.
    pub(super) fn has_heard(&self) -> bool {
        self.wait(Some(Instant::now())).unwrap_or(false)
    }
}
