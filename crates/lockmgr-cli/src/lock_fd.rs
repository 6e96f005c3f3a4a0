//! `lockmgr lock --fd N` and `lockmgr unlock --fd N`: locks that a shell script holds.
//!
//! The lock belongs to the open file description that the shell's descriptor refers to, and we have
//! inherited. It outlives us because nothing here releases it: the hold is turned into a bare
//! descriptor ([`OwnedFileLockGuard::into_fd`]), and closing that one is not the last close.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use lockmgr::{Acquire, Error, FileLock, Mechanism, Mode, OwnedFileLockGuard};

use crate::cli::{LockArgs, UnlockArgs};
use crate::duration::show;
use crate::exit::{self, Failure, Status};
use crate::run::{check_mechanism, free_a_signal};
use crate::say::say;
use crate::sys;
use crate::sys::signals::Unignored;
use crate::waiting::{self, Awaited, Refused, only_wait};
use crate::{finish, printable};

pub(crate) fn lock(args: &LockArgs) -> Status {
    finish(try_lock(args), args.acquire.quiet)
}

fn try_lock(args: &LockArgs) -> Result<Status, Failure> {
    let how = &args.acquire;
    let failed = |error: Error| on_descriptor(args.fd, &error, how.busy_exit_code);
    check_mechanism(how)?;
    if how.mechanism == Mechanism::Posix {
        return Err(Failure::usage(
            "a posix lock belongs to one process and would end with this one: use -m ofd, \
             the same kind of lock, which belongs to the open file",
        ));
    }
    let mut options = FileLock::options().mechanism(how.mechanism);
    if let Some(range) = how.range {
        options = options.range(range);
    }
    let handle = options.from_file(opened(args.fd)?).map_err(failed)?;
    free_a_signal(how, &mut Unignored::default());
    let was_shared = holds_shared(args.fd)?;
    let what = Awaited {
        name: Some(name_of(args.fd)),
        ..Awaited::one(format!("/proc/self/fd/{}", args.fd).into(), how.mechanism)
    };
    let acquire = handle.acquire().mode(how.mode());
    let (attempt, wait) = (Acquire::try_now_owned, Acquire::wait_owned);
    let guard = waiting::acquire(how, what, acquire, attempt, only_wait::<Refused>, wait).map_err(
        |refused| {
            let of_lock = |error: &Error, busy| on_descriptor(args.fd, error, busy);
            let mut failure = refused.failure(how, of_lock);
            if was_shared && !keep_shared(&handle) {
                failure.line.push_str("; the shared lock that the descriptor had is lost");
            }
            failure
        },
    )?;
    if is_deleted(guard.file()) {
        // Others come by the path, and lock another file.
        return Err(Failure::new(
            exit::CANNOT_OPEN,
            format!(
                "{}: the lock file was deleted or replaced: open it again, and lock that",
                name_of(args.fd)
            ),
        ));
    }
    if how.verbose && !how.quiet {
        say(&format!("waited {} for {}", show(guard.wait_time()), name_of(args.fd)));
    }
    // From here on the lock is the shell's.
    guard.into_fd().map(|_ours| exit::OK).map_err(failed)
}

/// Whether the descriptor holds a shared lock. The kernel drops a `flock` of one mode before it takes
/// the other, so a refusal can cost it.
fn holds_shared(fd: i32) -> Result<bool, Failure> {
    let Ok(guard) = OwnedFileLockGuard::adopt(opened(fd)?.into()) else {
        return Ok(false);
    };
    let shared = guard.mode() == Mode::Shared;
    // It stays the shell's.
    guard.into_fd().map(|_ours| shared).map_err(|error| on_descriptor(fd, &error, exit::BUSY))
}

/// Takes the shared lock again, or keeps it, for the shell.
fn keep_shared(handle: &FileLock) -> bool {
    handle.acquire().shared().try_now_owned().and_then(OwnedFileLockGuard::into_fd).is_ok()
}

/// Whether the file has no name any more. (That it has been given another name cannot be seen.)
fn is_deleted(file: &File) -> bool {
    file.metadata().is_ok_and(|status| status.is_file() && status.nlink() == 0)
}

pub(crate) fn unlock(args: &UnlockArgs) -> Status {
    finish(try_unlock(args), args.quiet)
}

fn try_unlock(args: &UnlockArgs) -> Result<Status, Failure> {
    let file = opened(args.fd)?;
    let ours = file.try_clone().map_err(|error| on_system(args.fd, &error))?;
    let released = match OwnedFileLockGuard::adopt(ours.into()) {
        Ok(guard) => guard.unlock().map_err(io::Error::from),
        Err(Error::NotHeld { .. }) => {
            let line = format!("{}: there is no lock to release", name_of(args.fd));
            return Err(Failure::new(exit::NOT_LOCKED, line));
        }
        // Several ranges, for which there is no one guard; or the kernel does not show the locks.
        Err(_) => sys::fd::release_all(&file),
    };
    released.map(|()| exit::OK).map_err(|error| on_system(args.fd, &error))
}

/// A descriptor of our own for the file that the shell has open as number `fd`.
fn opened(fd: i32) -> Result<File, Failure> {
    sys::fd::duplicate(fd).map_err(|error| match error.raw_os_error() {
        Some(libc::EBADF) => Failure::usage(format!(
            "descriptor {fd} is not open: open the lock file first, as in exec {}>file",
            fd.max(9)
        )),
        _ => on_system(fd, &error),
    })
}

fn on_descriptor(fd: i32, error: &Error, busy: Status) -> Failure {
    let failure = Failure::of_lock(error, busy);
    // The library knows no path, and says "lock" instead.
    let what = failure.line.strip_prefix("lock: ").unwrap_or(&failure.line);
    Failure::new(failure.status, format!("{}: {what}", name_of(fd)))
}

fn on_system(fd: i32, error: &io::Error) -> Failure {
    Failure::new(exit::SYSTEM, format!("{}: {error}", name_of(fd)))
}

/// The descriptor, and the file behind it as far as the kernel tells.
fn name_of(fd: i32) -> String {
    match fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(path) => format!("descriptor {fd} ({})", printable(path.as_os_str())),
        Err(_) => format!("descriptor {fd}"),
    }
}
