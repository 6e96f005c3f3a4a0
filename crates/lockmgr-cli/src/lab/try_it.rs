//! `lockmgr lab try`: the experiment with two terminals.
//!
//! One lock call, made as it is, and what the kernel said to it. Only the opening is careful, as everywhere:
//! no link is followed, nothing is written, and what is no file or directory is refused.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use lockmgr::Mechanism;
use lockmgr::inspect::LockTable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::io::Errno;

use super::call::{Bytes, LockCall, To};
use super::errno;
use crate::cli::TryArgs;
use crate::duration;
use crate::exit::{self, Failure, Status};
use crate::look::is_a_lock_proper;
use crate::say::harmless;
use crate::show;
use crate::sys::text::reason;

pub(super) fn try_it(args: &TryArgs) -> Result<Status, Failure> {
    let (file, opened) = open_carefully(&args.file)?;
    let path = harmless(&args.file.to_string_lossy());
    let call = LockCall {
        fd: file.as_raw_fd(),
        mechanism: args.mechanism,
        to: if args.shared { To::Share } else { To::Exclude },
        bytes: Bytes::ALL,
        sleeps: args.wait,
    };
    let pid = std::process::id();
    let quoted = format!("{path:?}");
    show::write(&format!(
        "pid {pid}: open({quoted}, {opened}) = {}\npid {pid}: {} {}",
        call.fd,
        call.spelled(),
        if args.wait { "… " } else { "" }
    ))?;
    let since = Instant::now();
    let result = make(call);
    let waited = since.elapsed();
    match result {
        Ok(()) => {
            let waited = if args.wait {
                format!(", after {}", duration::show(waited))
            } else {
                String::new()
            };
            show::write(&format!("= 0: it has the lock{waited}\n"))?;
            hold(pid, call, args.hold)?;
            Ok(exit::OK)
        }
        Err(error) => {
            let number = error.raw_os_error().unwrap_or(0);
            let busy = matches!(number, libc::EAGAIN | libc::EACCES);
            let meaning = if busy { ": somebody else has it" } else { "" };
            let name = errno::name(number);
            show::write(&format!("= -1 {name} ({}){meaning}\n", reason(&error)))?;
            if busy {
                show::write(&holders(&args.file, pid))?;
                return Ok(exit::BUSY);
            }
            Err(Failure::new(exit::SYSTEM, advice(number, args, &path)))
        }
    }
}

fn make(call: LockCall) -> io::Result<()> {
    loop {
        match call.make() {
            // A stop and a continuation; there is no other handler.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Until the time is over, or until Enter is pressed.
fn hold(pid: u32, call: LockCall, time: Duration) -> Result<(), Failure> {
    let input = io::stdin();
    if !time.is_zero() {
        let shown = duration::show(time);
        show::write(&format!("pid {pid}: holds it for {shown}, or until Enter is pressed\n"))?;
    }
    let end = Instant::now() + time;
    let mut listens = true;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut ready = Vec::new();
        if listens {
            ready.push(PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN));
        }
        match poll(&mut ready, Some(&limit)) {
            Ok(0) => break,
            Ok(_) => {
                let mut typed = [0; 256];
                match rustix::io::read(input.as_fd(), &mut typed) {
                    Ok(count) if typed[..count].contains(&b'\n') => break,
                    Ok(count) if count > 0 => {}
                    // Nobody can press anything: the end of a pipe, a closed descriptor.
                    _ => listens = false,
                }
            }
            Err(Errno::INTR) => {}
            Err(_) => listens = false,
        }
    }
    let unlock = call.unlock();
    let result = match make(unlock) {
        Ok(()) => "= 0: released".to_owned(),
        Err(error) => format!("= -1 {}", errno::name(error.raw_os_error().unwrap_or(0))),
    };
    show::write(&format!("pid {pid}: {} {result}\n", unlock.spelled()))?;
    Ok(())
}

/// Who has locks on the file, as far as the kernel tells.
fn holders(path: &OsStr, pid: u32) -> String {
    let Ok(table) = LockTable::of(std::path::Path::new(path)) else { return String::new() };
    let mut text = String::new();
    for lock in
        table.files.iter().flat_map(|file| &file.locks).filter(|lock| is_a_lock_proper(lock))
    {
        for holder in &lock.holders {
            let who = holder.process.as_ref().map_or("not visible".to_owned(), show::process);
            let _ = writeln!(text, "pid {pid}: {} {} lock: {who}", lock.mode, lock.kind);
        }
    }
    text
}

fn advice(number: i32, args: &TryArgs, path: &str) -> String {
    let mechanism = args.mechanism;
    match number {
        libc::EBADF if mechanism != Mechanism::Flock => format!(
            "{path} can only be read, and an exclusive {mechanism} lock wants a file that can be \
             written; take --shared, or --mechanism flock"
        ),
        libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL => format!(
            "the filesystem of {path} takes no {mechanism} lock; `lockmgr lab --dir DIR` shows what it takes"
        ),
        libc::EDEADLK => format!("{path}: waiting would be a deadlock, says the kernel"),
        other => format!("{path}: the lock call failed with {}", errno::name(other)),
    }
}

/// The file, and how it was opened.
fn open_carefully(path: &OsStr) -> Result<(OwnedFd, String), Failure> {
    if path.is_empty() {
        return Err(Failure::usage("the name of the lock file is empty"));
    }
    let failed = |what: String| {
        let path = harmless(&path.to_string_lossy());
        Failure::new(exit::CANNOT_OPEN, format!("cannot open {path}: {what}"))
    };
    let always = OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let new = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
    let mut last = Errno::NOENT;
    // Somebody may make it, or remove it, between two of these.
    for (flags, shown, next) in [
        (OFlags::RDWR, "O_RDWR", &[Errno::NOENT, Errno::ACCESS, Errno::ROFS, Errno::ISDIR][..]),
        (OFlags::RDONLY, "O_RDONLY", &[Errno::NOENT]),
        (new, "O_RDWR|O_CREAT|O_EXCL, 0666", &[Errno::EXIST]),
        (OFlags::RDWR, "O_RDWR", &[]),
    ] {
        match open(path, flags | always, Mode::from_raw_mode(0o666)) {
            Ok(file) => {
                let kind = fstat(&file).map(|stat| FileType::from_raw_mode(stat.st_mode));
                return match kind {
                    Ok(FileType::RegularFile | FileType::Directory) => Ok((file, shown.to_owned())),
                    Ok(_) => Err(failed("it is neither a file nor a directory".to_owned())),
                    Err(error) => Err(failed(errno::name(error.raw_os_error()))),
                };
            }
            Err(error) => {
                last = error;
                if !next.contains(&error) {
                    break;
                }
            }
        }
    }
    let what = match last {
        Errno::LOOP => "it is a symbolic link, which is not followed".to_owned(),
        Errno::NXIO => "it is neither a file nor a directory".to_owned(),
        // Without O_NONBLOCK, open would sleep until then.
        Errno::AGAIN => "another process has a lease on it (F_SETLEASE), and was asked to give it \
                         up; try again, or see `lockmgr who`"
            .to_owned(),
        error => reason(&error.into()),
    };
    Err(failed(what))
}
