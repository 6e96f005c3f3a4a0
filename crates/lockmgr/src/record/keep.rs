//! Writing the record, into a lock file that this process holds exclusively and as a whole.
//!
//! In this order, and each step gives up quietly: no lock was ever refused for want of a record. (Of a
//! token it is: [`Keeping::fenced`].)
//!
//! 1. The file is regular, has no other name, and its content is nothing or ours. What counts is what
//!    can be read, not the size: files of `/proc` say that they are empty. (With another name, a hard
//!    link, it may be somebody else's file that happens to be empty.)
//! 2. The kernel would let us write so much: beyond the limit of `ulimit -f` a write is a signal that
//!    kills.
//! 3. It is opened for writing for the moment, because `flock` descriptors can only be read; by its
//!    path, and used only if that leads to the very file that is locked.
//! 4. One `pwrite` replaces the whole content: a record that is shorter than the old one is filled up
//!    with blanks in front of its newline, so that no crash leaves a rest behind it. Only then is it
//!    cut to its length, without the newline, which comes last. At each point the file holds one
//!    record, finished or not, and nothing else; and the token of either record can be read from it
//!    ([`token`]).
//! 5. If a write fails half-way, the old content is put back.
//! 6. If it is to last beyond a power failure, file and directory are synced before anybody is told.
//!
//! References: `pwrite(2)`, `ftruncate(2)`, `getrlimit(2)`, `fdatasync(2)`.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Resource, getpid, getrlimit};
use rustix::system::uname;

use super::here::Here;
use super::{LONGEST, Lasting, Record, START_LEN, Wanted, is_ours, line, preserved, token};
use crate::description::Description;
use crate::mode::Range;
use crate::place::Place;
use crate::sys::file::{self, KeptFile};

/// Why there is no record of a hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotKept {
    /// A reason of our own.
    Refused(&'static str),
    /// The lock file can only be written, so that nobody knows what would be overwritten.
    NotReadable,
    /// The lock file cannot be opened for writing.
    NotOpened(Errno),
    NotRead(Errno),
    NotWritten(Errno),
    NotSynced(Errno),
    /// The stored token cannot have come about honestly.
    Ahead(u64),
}

/// What a record is to be good for, besides being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// Give the hold a token of its own.
    pub(crate) fenced: bool,
    /// Sync.
    pub(crate) durable: bool,
}

/// Writes the record of this process, which has just been granted the lock exclusively. Returns the
/// token of the hold, if it was to get one.
pub(crate) fn keep(
    description: &Description,
    place: Option<&Place>,
    wanted: &Wanted,
    keeping: Keeping,
) -> Result<Option<u64>, NotKept> {
    let mut start = [0; START_LEN];
    let old = content(description, place, &mut start)?;
    let mut lasting = preserved(old);
    if keeping.fenced {
        let next = token::next(lasting.token, SystemTime::now()).map_err(NotKept::Ahead)?;
        lasting.token = Some(next);
    }
    let line = of_this_process(wanted, lasting)
        .and_then(|record| line::written(&record))
        .or_else(|| keeping.fenced.then(|| line::of_lasting(lasting)))
        .ok_or(NotKept::Refused("there is no /proc to tell what this process is"))?;
    write(description, place, old, line, keeping.durable)?;
    Ok(lasting.token.filter(|_| keeping.fenced))
}

/// The lock file's content, if it is for us to replace.
pub(super) fn content<'a>(
    description: &Description,
    place: Option<&Place>,
    start: &'a mut [u8; START_LEN],
) -> Result<&'a [u8], NotKept> {
    if place.is_none() {
        return Err(NotKept::Refused("the program opened the file for itself"));
    }
    if description.range != Range::WHOLE {
        return Err(NotKept::Refused(
            "the lock covers a range of the file, and others may hold the other bytes",
        ));
    }
    let locked = description.file();
    let status = file::status(locked).map_err(NotKept::NotWritten)?;
    if status.kind != FileType::RegularFile {
        return Err(NotKept::Refused("it is not a regular file"));
    }
    if !status.one_name {
        return Err(NotKept::Refused("it has another name, a hard link"));
    }
    let start = file::read_start(locked, start).map_err(|errno| match errno {
        // It was opened for writing only, because reading is not allowed.
        Errno::BADF => NotKept::NotReadable,
        errno => NotKept::NotRead(errno),
    })?;
    if is_ours(start) {
        Ok(start)
    } else {
        Err(NotKept::Refused(
            "it holds data that lockmgr did not write; lock an empty file instead",
        ))
    }
}

/// Replaces the content by this line.
pub(super) fn write(
    description: &Description,
    place: Option<&Place>,
    old: &[u8],
    line: Vec<u8>,
    durable: bool,
) -> Result<(), NotKept> {
    let place = place.ok_or(NotKept::Refused("the program opened the file for itself"))?;
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < LONGEST as u64) {
        return Err(NotKept::NotWritten(Errno::FBIG));
    }
    let visit;
    let file = if description.may_write() {
        description.file()
    } else {
        visit = description
            .visit(place)
            .map_err(NotKept::NotOpened)?
            .ok_or(NotKept::Refused("its path names another file by now"))?;
        visit.file()
    };
    replace(file, old, line).map_err(NotKept::NotWritten)?;
    if durable {
        file::sync(file).map_err(NotKept::NotSynced)?;
        description.sync_directory(place).map_err(NotKept::NotSynced)?;
    }
    Ok(())
}

fn replace(file: &KeptFile, old: &[u8], line: Vec<u8>) -> Result<(), Errno> {
    steps(old.len(), line).iter().try_for_each(|step| step.make(file)).inspect_err(|_| {
        // It was there before, so there is room for it. If even that fails, nothing is lost: see
        // `token`.
        let _torn = file::write_at(file, old, 0).and_then(|()| file::cut(file, old.len() as u64));
    })
}

/// One system call of a replacement.
#[derive(Debug)]
enum Step {
    Write(Vec<u8>, usize),
    Cut(usize),
}

impl Step {
    fn make(&self, file: &KeptFile) -> Result<(), Errno> {
        match self {
            Self::Write(bytes, offset) => file::write_at(file, bytes, *offset as u64),
            Self::Cut(length) => file::cut(file, *length as u64),
        }
    }
}

/// What makes this line, with its newline, the whole content.
fn steps(old_len: usize, mut line: Vec<u8>) -> Vec<Step> {
    if old_len <= line.len() {
        return vec![Step::Write(line, 0)];
    }
    let end = line.len() - 1;
    line.truncate(end);
    line.resize(old_len - 1, b' ');
    line.push(b'\n');
    vec![Step::Write(line, 0), Step::Cut(end), Step::Write(b"\n".to_vec(), end)]
}

fn of_this_process(wanted: &Wanted, lasting: Lasting) -> Option<Record> {
    let here = Here::get()?;
    let text = |word: &OsStr| word.to_string_lossy().into_owned();
    Some(Record {
        pid: getpid().as_raw_nonzero().get().unsigned_abs(),
        start: here.start,
        boot: here.boot.clone(),
        host: uname().nodename().to_string_lossy().into_owned(),
        user: here.user(),
        pidns: here.pidns,
        since: in_milliseconds(SystemTime::now()),
        command: match &wanted.command {
            Some(words) => words.iter().map(|word| text(word)).collect(),
            None => std::env::args_os().map(|word| text(&word)).collect(),
        },
        note: wanted.note.clone(),
        token: lasting.token,
        last_success: lasting.last_success,
    })
}

/// Finer than people care for is only longer.
pub(super) fn in_milliseconds(time: SystemTime) -> SystemTime {
    let nanoseconds =
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.subsec_nanos());
    time - Duration::from_nanos(u64::from(nanoseconds % 1_000_000))
}

#[cfg(test)]
mod tests;
