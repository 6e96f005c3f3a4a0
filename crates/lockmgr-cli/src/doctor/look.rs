//! Looking at the place without taking any lock: done in a process of its own, because a filesystem that
//! hangs does not answer `stat` either.
//!
//! The child says before each step what it is about to do, so that its parent can tell what hung, and at
//! the end what it saw. Nothing that it finds there is opened unless it is a regular file or a directory,
//! and nothing is changed: a scratch file without a name, or with one of its own, tells whose new files are
//! and what the clock says.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lockmgr::inspect::{Inode, LockTable, LockedFile};
use rustix::fs::{
    Access, AtFlags, CWD, FileType, Mode, OFlags, Stat, accessat, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::trial::STACK;
use crate::exit::{self, Status};
use crate::json::Teller;
use crate::lab::place::Place;
use crate::lab::{check_proc, errno};
use crate::show::{self, Rows, Screen, Style};
use crate::sys::signals::without_size_signal;

/// The word that makes this program the child.
const LOOK: &str = "--doctor-look";
const PROGRAM: &str = "/proc/self/exe";
/// What a child that was killed has to end.
const GRACE: Duration = Duration::from_millis(500);
/// More are not shown to people.
const MOST_FILES: usize = 12;

/// What the child says: one line each.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// The bytes of the directory's path, and of the name in it.
    Subject(Vec<u8>, Option<Vec<u8>>),
    Doing(String),
    Seen(Box<Seen>),
    Failed(Trouble),
}

/// Why nothing was seen.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Trouble {
    /// There is no such place.
    NoPlace { path: String, errno: i32 },
    /// A call has not come back; whether the child could be ended.
    Hangs { what: String, ended: bool },
    /// The child ended without a word.
    Lost(String),
}

/// What was seen.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Of the directory.
    pub(super) place: Option<Place>,
    pub(super) directory: DirectorySeen,
    /// What PATH names, if that is not the directory itself; `None` when there is nothing yet.
    pub(super) file: Option<FileSeen>,
    /// PATH names the directory itself.
    pub(super) is_directory: bool,
    /// What came of making a file.
    pub(super) scratch: Result<ScratchSeen, String>,
    /// `fs.protected_regular`.
    pub(super) protected_regular: u8,
    pub(super) user: u32,
    /// The locks on the file or below the directory, for programs and for people; and on how many files of
    /// the filesystem there are any.
    pub(super) locks: Vec<Value>,
    pub(super) locks_told: String,
    pub(super) locked_files: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DirectorySeen {
    pub(super) mode: u32,
    pub(super) owner: u32,
    /// Why nothing in it can be opened.
    pub(super) no_search: Option<String>,
    /// It has been removed, and we are in it.
    pub(super) removed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FileSeen {
    pub(super) kind: KindSeen,
    pub(super) mode: u32,
    pub(super) owner: u32,
    /// It is a mount point, so that the directory says nothing of it.
    pub(super) mounted_itself: bool,
    /// Why it cannot be opened for reading, or for reading and writing.
    pub(super) no_reading: Option<String>,
    pub(super) no_writing: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum KindSeen {
    Regular,
    Directory,
    Link,
    Other,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ScratchSeen {
    pub(super) owner: u32,
    /// How far the filesystem's clock is ahead of ours.
    pub(super) ahead_ms: i64,
}

/// What PATH names: a directory itself, or a file in one.
pub(super) struct Subject {
    pub(super) directory: PathBuf,
    pub(super) name: Option<OsString>,
}

/// Looks, for at most so long.
pub(super) fn look(
    path: &Path,
    deadline: Duration,
) -> io::Result<(Subject, Result<Seen, Trouble>)> {
    check_proc()?;
    let (reader, writer) = io::pipe()?;
    let mut child = Command::new(PROGRAM)
        .arg0("lockmgr")
        .arg(LOOK)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let heard = hear(reader, Instant::now() + deadline);
    let _may_have_ended = kill_process_group(Pid::from_child(&child), Signal::KILL);
    let ended = ends(&mut child);
    let (mut subject, found) = heard?;
    let found = match found {
        Err(Trouble::Hangs { what, .. }) => Err(Trouble::Hangs { what, ended }),
        found => found,
    };
    if subject.directory.as_os_str().is_empty() {
        subject = Subject { directory: path.to_path_buf(), name: None };
    }
    Ok((subject, found))
}

fn hear(reader: PipeReader, end: Instant) -> io::Result<(Subject, Result<Seen, Trouble>)> {
    let mut subject = Subject { directory: PathBuf::new(), name: None };
    let (sender, lines) = channel();
    // It ends with the pipe; if the filesystem keeps the child, it is left waiting.
    thread::Builder::new().stack_size(STACK).spawn(move || {
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    })?;
    let mut doing = "begin".to_owned();
    let found = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Told::Subject(directory, name)) => {
                    subject.directory = OsString::from_vec(directory).into();
                    subject.name = name.map(OsString::from_vec);
                }
                Ok(Told::Doing(what)) => doing = what,
                Ok(Told::Seen(seen)) => break Ok(*seen),
                Ok(Told::Failed(trouble)) => break Err(trouble),
                Err(error) => break Err(Trouble::Lost(error.to_string())),
            },
            Err(RecvTimeoutError::Timeout) => {
                break Err(Trouble::Hangs { what: doing, ended: true });
            }
            Err(RecvTimeoutError::Disconnected) => break Err(Trouble::Lost(doing)),
        }
    };
    Ok((subject, found))
}

/// Waits for a child that was killed; false when the filesystem keeps it.
fn ends(child: &mut Child) -> bool {
    let end = Instant::now() + GRACE;
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            result => return matches!(result, Ok(Some(_))),
        }
    }
}

/// Is the child if the words of the command line, without the program's name, say so.
pub(crate) fn play(words: &[OsString]) -> Option<Status> {
    let [first, path] = words else { return None };
    if first != LOOK {
        return None;
    }
    // Nobody is to be left behind when the doctor is killed.
    let _as_well_as_can_be = set_parent_process_death_signal(Some(Signal::KILL));
    let told = match see(Path::new(path)) {
        Ok(seen) => Told::Seen(Box::new(seen)),
        Err(trouble) => Told::Failed(trouble),
    };
    Some(if say(&told).is_ok() { exit::OK } else { exit::SYSTEM })
}

fn say(told: &Told) -> io::Result<()> {
    let mut line = serde_json::to_vec(told)?;
    line.push(b'\n');
    io::stdout().write_all(&line)?;
    io::stdout().flush()
}

/// Says what comes next, and does it.
fn step<T>(what: &str, path: &Path, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Trouble> {
    let what = format!("{what} {}", show::path(path));
    doing(&what)?;
    call().map_err(|error| no_place(path, error))
}

fn doing(what: &str) -> Result<(), Trouble> {
    say(&Told::Doing(what.to_owned())).map_err(|error| Trouble::Lost(error.to_string()))
}

fn no_place(path: &Path, error: Errno) -> Trouble {
    Trouble::NoPlace { path: show::path(path), errno: error.raw_os_error() }
}

fn see(path: &Path) -> Result<Seen, Trouble> {
    let found = step("stat", path, || match statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(behind_link(path, stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    })?;
    let subject = subject_of(path, found.as_ref())?;
    let directory = subject.directory.clone().into_os_string().into_vec();
    let told = Told::Subject(directory, subject.name.clone().map(OsStringExt::into_vec));
    say(&told).map_err(|error| Trouble::Lost(error.to_string()))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = step("open", &subject.directory, || {
        openat(CWD, &subject.directory, flags, Mode::empty())
            .or_else(|_| openat(CWD, &subject.directory, flags | OFlags::PATH, Mode::empty()))
    })?;
    let stat = step("fstat", &subject.directory, || fstat(&opened))?;
    let search = accessat(&opened, c".", Access::EXEC_OK, AtFlags::EACCESS);
    let directory = DirectorySeen {
        mode: stat.st_mode & 0o7777,
        owner: stat.st_uid,
        no_search: search.err().map(|error| errno::name(error.raw_os_error())),
        removed: stat.st_nlink == 0,
    };
    let place = Place::of(opened.as_fd());
    let file = match (&subject.name, found) {
        (Some(name), Some(stat)) => {
            doing(&format!("open {}", show::path(path)))?;
            Some(see_file(&opened, name, &stat))
        }
        _ => None,
    };
    doing(&format!("make a file in {}", show::path(&subject.directory)))?;
    let scratch = see_scratch(&opened).map_err(|error| errno::name(error.raw_os_error()));
    doing("look who holds locks")?;
    let lock_file = subject.name.is_some().then_some(path);
    let (locks, locks_told, locked_files) = see_locks(lock_file, &opened);
    let protected = fs::read_to_string("/proc/sys/fs/protected_regular").unwrap_or_default();
    Ok(Seen {
        place,
        directory,
        file,
        is_directory: subject.name.is_none(),
        scratch,
        protected_regular: protected.trim().parse().unwrap_or(0),
        user: rustix::process::geteuid().as_raw(),
        locks,
        locks_told,
        locked_files,
    })
}

/// What is behind a link to a directory; else what is there.
fn behind_link(path: &Path, stat: Stat) -> Stat {
    let is = |stat: &Stat, kind| FileType::from_raw_mode(stat.st_mode) == kind;
    if is(&stat, FileType::Symlink)
        && let Ok(behind) = statat(CWD, path, AtFlags::empty())
        && is(&behind, FileType::Directory)
    {
        return behind;
    }
    stat
}

fn subject_of(path: &Path, found: Option<&Stat>) -> Result<Subject, Trouble> {
    let is_directory =
        found.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
    if is_directory {
        return Ok(Subject { directory: path.to_path_buf(), name: None });
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    match path.file_name() {
        Some(name) => Ok(Subject { directory: parent, name: Some(name.to_owned()) }),
        None => Err(no_place(path, Errno::NOENT)),
    }
}

fn see_file(directory: &OwnedFd, name: &OsString, stat: &Stat) -> FileSeen {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => KindSeen::Regular,
        FileType::Directory => KindSeen::Directory,
        FileType::Symlink => KindSeen::Link,
        _ => KindSeen::Other,
    };
    // Asked and not tried: to open it would break a lease on it.
    let refused = |access| match accessat(directory, name, access, AtFlags::EACCESS) {
        Err(error) if kind == KindSeen::Regular => Some(errno::name(error.raw_os_error())),
        _ => None,
    };
    let path_only = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let itself = openat(directory, name, path_only, Mode::empty());
    let mount = |fd: &OwnedFd| Place::of(fd.as_fd()).map(|place| place.mount_point);
    FileSeen {
        kind,
        mode: stat.st_mode & 0o7777,
        owner: stat.st_uid,
        mounted_itself: itself.is_ok_and(|itself| mount(&itself) != mount(directory)),
        no_reading: refused(Access::READ_OK),
        no_writing: refused(Access::READ_OK | Access::WRITE_OK),
    }
}

/// Makes a file, without a name where that can be done.
fn see_scratch(directory: &OwnedFd) -> Result<ScratchSeen, Errno> {
    let mode = Mode::from_raw_mode(0o600);
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let file = if let Ok(file) = openat(directory, c".", flags | OFlags::TMPFILE, mode) {
        file
    } else {
        let name = format!(".lockmgr-doctor-{}", std::process::id());
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let new = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = openat(directory, &name, new, mode)?;
        unlinkat(directory, &name, AtFlags::empty())?;
        file
    };
    // A clock that is looked at only when something is written.
    let file = File::from(file);
    let before = SystemTime::now();
    let written = without_size_signal(|| (&file).write_all(b"x"));
    let after = SystemTime::now();
    let stat = fstat(&file)?;
    let ahead_ms = match written {
        Ok(()) => ahead(stat.st_mtime, stat.st_mtime_nsec, before, after),
        Err(_) => 0,
    };
    Ok(ScratchSeen { owner: stat.st_uid, ahead_ms })
}

/// How far the time lies outside of the two others.
fn ahead(
    seconds: impl Into<i128>,
    nanoseconds: impl TryInto<u32>,
    before: SystemTime,
    after: SystemTime,
) -> i64 {
    let milliseconds = |time: SystemTime| {
        time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis().cast_signed())
    };
    let nanoseconds = i128::from(nanoseconds.try_into().unwrap_or(0));
    let told = seconds.into() * 1000 + nanoseconds / 1_000_000;
    let (before, after) = (milliseconds(before), milliseconds(after));
    let difference = if told < before { told - before } else { (told - after).max(0) };
    i64::try_from(difference).unwrap_or(i64::MAX)
}

/// The locks on the lock file, or on files below the directory; and on how many files of the filesystem
/// there are any.
fn see_locks(file: Option<&Path>, directory: &OwnedFd) -> (Vec<Value>, String, usize) {
    let by_descriptor = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let everything = LockTable::snapshot().unwrap_or_default();
    let count = Inode::of(&by_descriptor).map_or(0, |here| {
        let on_it = |inode: Inode| (inode.major, inode.minor) == (here.major, here.minor);
        everything.files.iter().filter(|file| on_it(file.inode)).count()
    });
    let files = match (file, fs::read_link(&by_descriptor)) {
        (Some(file), _) => LockTable::of(file).map(|table| table.files).unwrap_or_default(),
        (None, Ok(directory)) => {
            let below = |file: &LockedFile| {
                file.path.as_ref().is_some_and(|path| path.starts_with(&directory))
            };
            everything.files.into_iter().filter(below).collect()
        }
        (None, Err(_)) => Vec::new(),
    };
    let (mut rows, mut teller) = (Rows::default(), Teller::default());
    let mut values = Vec::new();
    for (index, file) in files.iter().filter(|file| !file.locks.is_empty()).enumerate() {
        if index < MOST_FILES {
            let name = show::file_name(file.path.as_deref(), file.inode);
            let _legend = show::add_file(&mut rows, file, &name);
        }
        values.extend(serde_json::to_value(teller.file(file)).ok());
    }
    if values.len() > MOST_FILES {
        let more = values.len() - MOST_FILES;
        rows.text(Style::Dim, format!("and {}: see lockmgr ls", show::count(more, "more file")));
    }
    let told = if rows.is_empty() { String::new() } else { rows.render(&Screen::of_output()) };
    (values, told, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_only_outside_of_the_moment() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        for (ms, expected) in [(1000, 0), (1005, 0), (999, -1), (1006, 1), (61_005, 60_000)] {
            let found = ahead(ms / 1000, (ms % 1000) * 1_000_000, at(1000), at(1005));
            assert_eq!(found, expected, "{ms}");
        }
    }
}
