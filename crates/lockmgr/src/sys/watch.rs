//! Watching a lock file for the end of somebody's hold on it.
//!
//! Events of four kinds are asked for, because a hold can end in four ways:
//!
//! | what happened | event |
//! |---|---|
//! | an orderly release, which touches the file after the unlock ([`file::touch`]) | `IN_ATTRIB` |
//! | the holder's last descriptor was closed, also by its death | `IN_CLOSE_WRITE` |
//! | the file was deleted or replaced | `IN_ATTRIB`, `IN_DELETE_SELF` |
//! | it was renamed | `IN_MOVE_SELF` |
//!
//! Exclusive record locks need a descriptor that can write, so the closes of mere readers are left
//! out. An event that tells of a close comes a little *before* the kernel drops the lock.
//!
//! References: `inotify(7)`, `ppoll(2)`.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

#[cfg(doc)]
use crate::sys::file;
use crate::sys::file::{KeptFile, retry};

/// What a watched file has told.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// A descriptor was closed: a lock may be about to go.
    pub(crate) closed: bool,
    /// The path may mean something else now.
    pub(crate) renamed: bool,
}

/// An inotify instance, which watches one file at a time. They are few (128 for a user), quick to
/// make and slow to close: the kernel may take more than ten milliseconds for that.
#[derive(Debug)]
pub(crate) struct Watch {
    instance: KeptFile,
    /// Of the file that is watched now.
    descriptor: Option<i32>,
}

impl Watch {
    pub(crate) fn new() -> Result<Self, Errno> {
        let open = |_again| inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        Ok(Self { instance: KeptFile::open_with(open, drop)?, descriptor: None })
    }

    /// Watches this file from now on, and no other. Where there is no `/proc`, it is the file that
    /// the path names: look afterwards whether that is the same one.
    pub(crate) fn follow(&mut self, file: &KeptFile, path: &Path) -> Result<(), Errno> {
        let events = WatchFlags::ATTRIB
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let by_descriptor = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let descriptor = match retry(|| inotify::add_watch(&self.instance, &*by_descriptor, events))
        {
            Err(Errno::NOENT) => retry(|| inotify::add_watch(&self.instance, path, events))?,
            result => result?,
        };
        if let Some(old) = self.descriptor.replace(descriptor)
            && old != descriptor
        {
            // It may have ended with its file.
            let _ = inotify::remove_watch(&self.instance, old);
        }
        Ok(())
    }

    /// Takes what has been told so far.
    pub(crate) fn take(&self) -> Seen {
        let mut seen = Seen::default();
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut reader = inotify::Reader::new(&self.instance, &mut buffer);
        while let Ok(event) = reader.next() {
            let kinds = event.events();
            let overflow = kinds.contains(ReadFlags::QUEUE_OVERFLOW);
            seen.closed |= overflow || kinds.contains(ReadFlags::CLOSE_WRITE);
            seen.renamed |= kinds != ReadFlags::CLOSE_WRITE;
        }
        seen
    }
}

/// Sleeps until the file has something to tell, for at most so long; without a watch always so
/// long. Returns whether it has; `EINTR` after any signal.
pub(crate) fn sleep(watch: Option<&Watch>, time: Duration) -> Result<bool, Errno> {
    let time = Timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    let Some(watch) = watch else {
        return rustix::event::poll(&mut [], Some(&time)).map(|_| false);
    };
    let mut polled = [PollFd::new(&watch.instance, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&time)).map(|ready| ready > 0)
}
