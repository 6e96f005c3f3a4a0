//! Writing the record, into a lock file that this process holds exclusively and as a whole.
//!
//! In this order, and each step gives up quietly: no lock was ever refused for want of a record.
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
//!    record, finished or not, and nothing else.
//!
//! References: `pwrite(2)`, `ftruncate(2)`, `getrlimit(2)`.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Resource, getpid, getrlimit};
use rustix::system::uname;

use super::here::Here;
use super::{LONGEST, Record, START_LEN, Wanted, is_ours, line, preserved};
use crate::description::{Description, Place};
use crate::mode::Range;
use crate::sys::file::{self, KeptFile};

/// Why there is no record of a hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotKept {
    /// A reason of our own.
    Refused(&'static str),
    /// The lock file cannot be opened for writing.
    NotOpened(Errno),
    NotWritten(Errno),
}

/// Writes the record of this process, which has just been granted the lock exclusively.
pub(crate) fn keep(
    description: &Description,
    place: Option<&Place>,
    wanted: &Wanted,
) -> Result<(), NotKept> {
    let place = place.ok_or(NotKept::Refused("the program opened the file for itself"))?;
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
    let mut start = [0; START_LEN];
    let old = file::read_start(locked, &mut start).ok().filter(|start| is_ours(start)).ok_or(
        NotKept::Refused("it holds data that lockmgr did not write; lock an empty file instead"),
    )?;

    let line = of_this_process(wanted, old)
        .and_then(|record| line::written(&record))
        .ok_or(NotKept::Refused("there is no /proc to tell what this process is"))?;
    if getrlimit(Resource::Fsize).current.is_some_and(|limit| limit < LONGEST as u64) {
        return Err(NotKept::NotWritten(Errno::FBIG));
    }
    if description.may_write() {
        replace(locked, old.len(), line)
    } else {
        let visit = description
            .visit(place)
            .map_err(NotKept::NotOpened)?
            .ok_or(NotKept::Refused("its path names another file by now"))?;
        replace(visit.file(), old.len(), line)
    }
    .map_err(NotKept::NotWritten)
}

fn replace(file: &KeptFile, old_len: usize, mut line: Vec<u8>) -> Result<(), Errno> {
    let end = line.len() - 1;
    if old_len <= line.len() {
        return file::write_at(file, &line, 0);
    }
    line.truncate(end);
    line.resize(old_len - 1, b' ');
    line.push(b'\n');
    file::write_at(file, &line, 0)?;
    file::cut(file, end as u64)?;
    file::write_at(file, b"\n", end as u64)
}

fn of_this_process(wanted: &Wanted, old: &[u8]) -> Option<Record> {
    let here = Here::get()?;
    let text = |word: &OsStr| word.to_string_lossy().into_owned();
    let lasting = preserved(old);
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
fn in_milliseconds(time: SystemTime) -> SystemTime {
    let nanoseconds =
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.subsec_nanos());
    time - Duration::from_nanos(u64::from(nanoseconds % 1_000_000))
}
