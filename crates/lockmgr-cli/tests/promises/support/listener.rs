//! Reading what a process says, with a bound: a test that hears nothing fails, and does not hang.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::BOUND;

pub(crate) struct Listener {
    source: File,
    heard: Vec<u8>,
}

impl Listener {
    pub(crate) fn new(source: impl Into<OwnedFd>) -> Self {
        Listener { source: File::from(source.into()), heard: Vec::new() }
    }

    /// Waits for more; returns whether there was any before the end.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut ready = [PollFd::from_borrowed_fd(self.source.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: BOUND.as_secs().cast_signed(), tv_nsec: 0 };
        let count = poll(&mut ready, Some(&limit)).expect("poll");
        assert!(count > 0, "nothing more came; heard: {}", self.shown());
        let mut buffer = [0; 16384];
        // A terminal says with an error that nobody is left at its other side.
        let read = self.source.read(&mut buffer).unwrap_or(0);
        self.heard.extend_from_slice(&buffer[..read]);
        read > 0
    }

    /// Waits for the text; returns what comes before it, and forgets both. `None` when the end comes
    /// first.
    #[track_caller]
    pub(crate) fn until(&mut self, text: &str) -> Option<String> {
        let text = text.as_bytes();
        loop {
            if let Some(at) = self.heard.windows(text.len()).position(|window| window == text) {
                let before: Vec<u8> = self.heard.drain(..at + text.len()).take(at).collect();
                return Some(String::from_utf8_lossy(&before).into_owned());
            }
            if !self.more() {
                return None;
            }
        }
    }

    /// Waits for the end; returns all that has not been returned yet.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> String {
        while self.more() {}
        self.shown()
    }

    /// What has been heard and not been looked for.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.heard).into_owned()
    }

    pub(crate) fn source(&mut self) -> &mut File {
        &mut self.source
    }

    pub(crate) fn file(&self) -> &File {
        &self.source
    }

    pub(crate) fn hang_up(&mut self) {
        self.source = File::open("/dev/null").expect("/dev/null");
    }
}
