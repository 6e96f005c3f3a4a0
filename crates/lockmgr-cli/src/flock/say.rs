//! What the original prints, where and when it prints it.
//!
//! Messages go to standard error, each in one piece. What goes to standard output is kept until the end
//! when that is no terminal, as the C library keeps it: so it stands behind the command's own
//! output, and is lost when the command takes our place. And as there, what cannot be written in
//! the end costs the exit status.
//!
//! Words of the command line are repeated byte for byte, as scripts compare them: they are the
//! caller's own.

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::CANNOT_PRINT;
use crate::exit::Status;
use crate::sys::text::reason;

/// Before each message. Usually `flock`.
static NAME: OnceLock<Vec<u8>> = OnceLock::new();

/// A message could not be written.
static UNHEARD: AtomicBool = AtomicBool::new(false);

/// Speaks under this name from now on.
pub(super) fn speak_as(name: &OsStr) {
    NAME.get_or_init(|| name.as_bytes().to_vec());
}

pub(super) fn name() -> &'static [u8] {
    NAME.get().map_or(b"flock", Vec::as_slice)
}

/// Why it ends without what was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: Status,
    /// Empty: nothing is said.
    pub(super) text: Vec<u8>,
}

impl Failure {
    pub(super) fn new(status: Status, text: Vec<u8>) -> Self {
        Failure { status, text }
    }

    /// With the system's reason for it.
    pub(super) fn of_system(status: Status, what: &[&[u8]], error: &io::Error) -> Self {
        let text = message(&[&message(what), b": ", reason(error).as_bytes()]);
        Failure { status, text }
    }

    pub(super) fn with_hint(mut self) -> Self {
        let hint = [b"\nTry '", name(), b" --help' for more information."].concat();
        self.text.extend_from_slice(&hint);
        self
    }

    /// Says it and returns the exit status.
    pub(super) fn tell(self) -> Status {
        if !self.text.is_empty() && say(&self.text).is_err() {
            UNHEARD.store(true, Ordering::Relaxed);
        }
        self.status
    }

    /// As [`tell`](Self::tell), in the name of a child, whose standard error is not ours to judge.
    pub(super) fn tell_as_child(self) -> Status {
        drop(say(&self.text));
        self.status
    }
}

pub(super) fn message(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn say(text: &[u8]) -> io::Result<()> {
    write_all(rustix::stdio::stderr(), &message(&[name(), b": ", text, b"\n"]))
}

/// Not by way of `std`, which takes a stream that is closed for a success.
fn write_all(stream: BorrowedFd<'_>, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match rustix::io::write(stream, text) {
            Ok(count) => text = &text[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What goes to standard output.
pub(super) struct Output {
    kept: Vec<u8>,
    /// Once known; it is asked when there is something to print.
    at_once: Option<bool>,
}

impl Output {
    pub(super) fn new() -> Self {
        Output { kept: Vec::new(), at_once: None }
    }

    pub(super) fn print(&mut self, text: &[u8]) {
        self.kept.extend_from_slice(text);
        let stdout = io::stdout();
        if *self.at_once.get_or_insert_with(|| stdout.is_terminal()) && self.write().is_ok() {
            self.kept.clear();
        }
    }

    /// One line in the program's name.
    pub(super) fn print_line(&mut self, text: &[u8]) {
        self.print(&message(&[name(), b": ", text, b"\n"]));
    }

    fn write(&self) -> io::Result<()> {
        write_all(rustix::stdio::stdout(), &self.kept)
    }

    /// Writes what was kept; returns the exit status that is left of this one.
    pub(super) fn finish(self, status: Status) -> Status {
        if let Err(error) = self.write()
            && !matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EBADF))
        {
            return Failure::of_system(CANNOT_PRINT, &[b"write error"], &error).tell();
        }
        if UNHEARD.load(Ordering::Relaxed) { CANNOT_PRINT } else { status }
    }
}
