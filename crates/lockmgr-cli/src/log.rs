//! `--log FILE`: what happens to locks, one line of JSON an event, and `lockmgr log FILE`, which reads it.
//!
//! # What is promised to other writers
//!
//! Any number of processes append to the file at the same time. Each event is one `write(2)` on a
//! descriptor with `O_APPEND`, of less than 4096 bytes: on a local file system the kernel puts such writes one
//! behind the other. (On NFS it does not; there each machine needs a file of its own.) A write that was
//! cut short by a full disk leaves a piece of a line; the next event begins on a line of its own, if
//! that is not possible the reader finds it all the same ([`read`]).
//!
//! # What is promised to the command
//!
//! The log never costs the command anything: not its start, not its status. What goes wrong is said once,
//! and the log is left alone from then on.
//!
//! # How it is opened
//!
//! As a lock file is: a FIFO or device is refused and does not hang, a symbolic link at the end of
//! the path is not followed (in a directory that everybody may write to, it could lead anywhere), another
//! user's file is opened without `O_CREAT`. A new file has mode 0666 less the umask.

mod read;
mod show;
mod summary;
mod svg;

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process;

use lockmgr::Mode;
use rustix::fs::{Mode as Bits, OFlags, open};
use rustix::io::Errno;
use rustix::process::Signal;
use serde::Serialize;

use crate::exit::Status;
use crate::json;
use crate::outcome::{LockJson, Outcome};
use crate::printable;
use crate::say::say;
use crate::sys::signals;

pub(crate) use show::log;

/// One event.
#[derive(Serialize)]
pub(crate) struct Event {
    /// First, so that the beginning of a line is known when it is seen.
    time: String,
    version: u32,
    #[serde(rename = "event")]
    name: &'static str,
    /// Names one run: a pid alone comes again.
    run: String,
    pid: u32,
    #[serde(flatten)]
    lock: LockJson,
    mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) waited_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) held_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<Status>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) slots: Vec<u32>,
}

/// Grows as that of `--json` does.
const VERSION: u32 = 1;

/// A line is shorter than this.
const ROOM: usize = 4096;

impl Event {
    pub(crate) fn new(name: &'static str, lock: Option<&Path>, mode: Mode) -> Self {
        Self {
            time: format!("{:.3}", jiff::Timestamp::now()),
            version: VERSION,
            name,
            run: String::new(),
            pid: process::id(),
            lock: LockJson::of(lock),
            mode: mode.to_string(),
            waited_ms: None,
            held_ms: None,
            outcome: None,
            status: None,
            exit_status: None,
            signal: None,
            token: None,
            slots: Vec::new(),
        }
    }
}

/// The file that events are appended to.
pub(crate) struct Log {
    file: Option<File>,
    run: String,
    /// How messages call it.
    name: String,
    quiet: bool,
}

impl Log {
    /// `None` when it cannot be opened, which is said.
    pub(crate) fn open(path: &Path, quiet: bool) -> Option<Self> {
        let name = printable(path.as_os_str()).into_owned();
        let run = format!("{}-{}", process::id(), jiff::Timestamp::now().as_microsecond());
        let mut log = Self { file: None, run, name, quiet };
        match open_file(path) {
            Ok(file) => log.file = Some(file),
            Err(error) => log.give_up(&error),
        }
        log.file.is_some().then_some(log)
    }

    /// Appends the event, or says that it cannot, once.
    pub(crate) fn append(&mut self, mut event: Event) {
        let Some(mut file) = self.file.as_ref() else { return };
        event.run.clone_from(&self.run);
        let Ok(mut line) = json::line(&event) else { return };
        if line.len() >= ROOM {
            // A path as long as that is not worth a torn line.
            event.lock = LockJson::of(None);
            line = json::line(&event).unwrap_or_default();
        }
        let line = line.as_bytes();
        let written = signals::without_size_signal(|| match file.write(line)? {
            whole if whole == line.len() => Ok(()),
            _ => {
                // Whoever comes next begins on a new line.
                drop(file.write(b"\n"));
                Err(io::ErrorKind::StorageFull.into())
            }
        });
        if let Err(error) = written {
            self.file = None;
            self.give_up(&error);
        }
    }

    fn give_up(&self, error: &io::Error) {
        if !self.quiet {
            signals::block(&[Signal::PIPE]);
            say(&format!("{}: the log is not written: {error}", self.name));
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CLOEXEC
        | OFlags::NOCTTY
        | OFlags::NONBLOCK
        | OFlags::NOFOLLOW;
    let bits = Bits::from_raw_mode(0o666);
    // Somebody may remove or create it between two tries; twice is chance, more is malice.
    for _ in 0..4 {
        for flags in [flags, flags | OFlags::CREATE | OFlags::EXCL] {
            match open(path, flags, bits) {
                Ok(file) => return regular(file.into()),
                Err(Errno::NOENT) if !flags.contains(OFlags::CREATE) => {}
                Err(Errno::EXIST) => break,
                Err(Errno::NXIO) => return Err(io::Error::other(NOT_REGULAR)),
                Err(Errno::LOOP) => {
                    return Err(io::Error::other("it is a symbolic link; name its target"));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Err(Errno::EXIST.into())
}

const NOT_REGULAR: &str = "it is not a regular file";

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(NOT_REGULAR)) }
}
