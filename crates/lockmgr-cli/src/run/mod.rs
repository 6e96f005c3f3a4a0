//! `lockmgr run`: acquire, run the command, release, report.
//!
//! 1. The lock is acquired with signals as they were inherited: one that kills, kills us, and the
//!    command is never started.
//!    Then the lock file is told who holds it, for people to read; the descriptor for that is closed
//!    before the command is started, and is never inherited.
//! 2. The command runs with the lock's descriptor inherited, so that even SIGKILL of lockmgr does not
//!    free the lock under it.
//! 3. When the command has ended, the lock is released by name, not by closing: a process that the
//!    command left in the background has the descriptor, too, and must not keep the lock.

mod lasting;
mod locks;

use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use lockmgr::{Acquire, FileLockGuard};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, WaitStatus};

use crate::child::{self, Trouble};
use crate::cli::{AcquireArgs, RunArgs};
use crate::duration::show;
use crate::exit::{self, Failure, Status};
use crate::say::say;
use crate::sys::signals::{self, Unignored};
use crate::sys::spawn::{self, Argv};
use crate::waiting::{self, Awaited};
use crate::{command, finish, printable};

use locks::the_lock;
pub(crate) use locks::{check_mechanism, free_a_signal};

pub(crate) fn run(args: RunArgs) -> Status {
    let quiet = args.acquire.quiet;
    finish(try_run(args), quiet)
}

fn try_run(mut args: RunArgs) -> Result<Status, Failure> {
    let words = command::words(mem::take(&mut args.command), args.shell_command.take());
    let lock = the_lock(&args, &words)?;
    let RunArgs { acquire: how, note, no_fork, hold_tree, lasting, .. } = args;
    let program = Argv::new(words);
    let mut ignored = Unignored::default();
    free_a_signal(&how, &mut ignored);
    let what = Awaited { path: lock.path().map(Path::to_path_buf).unwrap_or_default(), name: None };
    let guard = waiting::acquire(&how, what, lock.acquire(), Acquire::try_now, Acquire::wait)
        .map_err(|refused| refused.failure(&how, Failure::of_lock))?;
    tell_wait(&how, &guard);
    if note.is_some() {
        tell_if_not_kept(&how, &guard);
    }
    if lasting::is_too_early(&lasting, &guard, how.quiet) {
        return Ok(exit::OK);
    }
    lasting::tell_the_command(&guard);
    if no_fork {
        Err(become_the_command(&guard, &program, &ignored))
    } else {
        supervise(guard, &how, &program, ignored, hold_tree, lasting.every.is_some())
    }
}

fn supervise(
    guard: FileLockGuard<'_>,
    how: &AcquireArgs,
    argv: &Argv,
    ignored: Unignored,
    hold_tree: bool,
    every: bool,
) -> Result<Status, Failure> {
    let since = how.verbose.then(Instant::now);
    let path =
        guard.path().map(|path| printable(path.as_os_str()).into_owned()).unwrap_or_default();
    let ended = match child::run(argv, guard.file().as_fd(), ignored, hold_tree) {
        Err(Trouble::Lost(error)) => {
            // The command may still run, and has the lock's descriptor: the lock stays with it.
            mem::forget(guard);
            return Err(Failure::new(
                exit::SYSTEM,
                format!("cannot watch over the command: {error}"),
            ));
        }
        Err(Trouble::NotStarted(error) | Trouble::NotForked(error)) => Err(error),
        Ok(ended) => Ok(ended),
    };
    if ended.as_ref().is_ok_and(|ended| ended.status.exit_status() == Some(0)) {
        lasting::note_success(every, &guard, how.quiet);
    }
    // The command does not run any more; what is wrong now changes nothing about what it did, so its
    // status stays.
    if let Err(error) = guard.unlock()
        && !how.quiet
    {
        say(&error.to_string());
    }
    let ended = ended.map_err(|error| command::not_started(argv, &error))?;
    if let Some(since) = since.filter(|_| !how.quiet) {
        say(&format!("held {path} for {}", show(since.elapsed())));
    }
    if ended.interrupted {
        // A shell loop around us ends at Ctrl-C only if we are seen to die of it.
        signals::suffer(Signal::INT);
    }
    Ok(status_of(ended.status))
}

fn status_of(status: WaitStatus) -> Status {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::try_from(code).unwrap_or(Status::MAX),
        (None, Some(signal)) => exit::of_signal(signal),
        (None, None) => exit::SYSTEM,
    }
}

/// `--no-fork`: returns only when the command cannot be started; the guard then releases the lock.
fn become_the_command(guard: &FileLockGuard<'_>, argv: &Argv, ignored: &Unignored) -> Failure {
    // The lock lives as long as the descriptor is open in some process, so it must survive `exec`.
    let error = match fcntl_setfd(guard.file(), FdFlags::empty()) {
        Ok(()) => spawn::exec(argv, ignored),
        Err(error) => io::Error::from(error),
    };
    command::not_started(argv, &error)
}

/// For those who asked for a note. The lock is held all the same.
fn tell_if_not_kept(how: &AcquireArgs, guard: &FileLockGuard<'_>) {
    if !how.quiet
        && let Some(error) = guard.not_recorded()
    {
        say(&format!("the note is not kept: {error}"));
    }
}

fn tell_wait(how: &AcquireArgs, guard: &FileLockGuard<'_>) {
    if how.verbose && !how.quiet {
        let path = guard.path().map(|path| printable(path.as_os_str()).into_owned());
        say(&format!("waited {} for {}", show(guard.wait_time()), path.unwrap_or_default()));
    }
}
