//! `lockmgr run`: acquire, run the command, release, report.
//!
//! 1. The lock is acquired with signals as they were inherited: one that kills, kills us, and the
//!    command is never started.
//!    Then the lock file is told who holds it, for people to read; the descriptor for that is closed
//!    before the command is started, and is never inherited.
//! 2. The command runs with the descriptor of every lock inherited, so that even SIGKILL of lockmgr
//!    does not free a lock under it.
//! 3. When the command has ended, the lock is released by name, not by closing: a process that the
//!    command left in the background has the descriptor, too, and must not keep the lock.

mod busy;
mod environment;
mod locks;
mod nested;
mod replace;

use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, WaitStatus};

use crate::child::{self, Ended, Trouble};
use crate::cli::{AcquireArgs, IfBusy, RunArgs, Wait};
use crate::duration::show;
use crate::exit::{self, Failure, Status};
use crate::say::say;
use crate::sys::signals::{self, Unignored};
use crate::sys::spawn::{self, Argv};
use crate::{command, finish};

use busy::{Busy, Why};
use locks::{Held, Locks};
pub(crate) use locks::{check_mechanism, free_a_signal};

pub(crate) fn run(args: RunArgs) -> Status {
    let quiet = args.acquire.quiet;
    finish(try_run(args), quiet)
}

fn try_run(mut args: RunArgs) -> Result<Status, Failure> {
    let words = command::words(mem::take(&mut args.command), args.shell_command.take());
    match (args.if_busy, args.acquire.wait()) {
        (IfBusy::Fail, _) | (IfBusy::Skip, Wait::Forever) => args.acquire.do_not_wait(),
        _ => {}
    }
    let locks = Locks::of(&args, &words)?;
    let busy = Busy::of(&args);
    let RunArgs { acquire: how, note, no_fork, hold_tree, .. } = args;
    let mut program = Argv::new(words);
    let mut ignored = Unignored::default();
    free_a_signal(&how, &mut ignored);
    let acquired = match busy.before(&locks) {
        Some(outer) => Err(Why::Inside(outer)),
        None => locks.acquire(&how, || busy.now(&locks)),
    };
    let held = match acquired {
        Ok(held) => held,
        Err(Why::Inside(outer)) => {
            program.set_environment(environment::of_outer(&locks, &outer.slots));
            if no_fork {
                return Err(become_the_command(&[], &program, &ignored));
            }
            return match child::run(&program, &[], ignored, hold_tree) {
                Ok(ended) => Ok(status_after(&ended)),
                Err(Trouble::Lost(error)) => Err(lost(&error)),
                Err(Trouble::NotStarted(error)) => Err(command::not_started(&program, &error)),
            };
        }
        Err(why) => return busy.instead(why),
    };
    program.set_environment(environment::of_hold(&locks, &held));
    if how.verbose && !how.quiet {
        say(&format!("waited {} for {}", show(held.wait_time()), locks.name()));
    }
    if note.is_some() {
        tell_if_not_kept(&how, &held);
    }
    if no_fork {
        Err(become_the_command(&held.descriptors(), &program, &ignored))
    } else {
        supervise(held, &locks, &how, &program, ignored, hold_tree)
    }
}

fn supervise(
    held: Held<'_>,
    locks: &Locks,
    how: &AcquireArgs,
    argv: &Argv,
    ignored: Unignored,
    hold_tree: bool,
) -> Result<Status, Failure> {
    let since = how.verbose.then(Instant::now);
    let ended = match child::run(argv, &held.descriptors(), ignored, hold_tree) {
        Err(Trouble::Lost(error)) => {
            // The command may still run, and has the locks' descriptors: the locks stay with it.
            mem::forget(held);
            return Err(lost(&error));
        }
        Err(Trouble::NotStarted(error)) => Err(error),
        Ok(ended) => Ok(ended),
    };
    // The command does not run any more; what is wrong now changes nothing about what it did, so its
    // status stays.
    if let Err(error) = held.unlock()
        && !how.quiet
    {
        say(&error.to_string());
    }
    let ended = ended.map_err(|error| command::not_started(argv, &error))?;
    if let Some(since) = since.filter(|_| !how.quiet) {
        say(&format!("held {} for {}", locks.name(), show(since.elapsed())));
    }
    Ok(status_after(&ended))
}

fn lost(error: &io::Error) -> Failure {
    Failure::new(exit::SYSTEM, format!("cannot watch over the command: {error}"))
}

/// The status to end with; or the end itself, by the signal that ended the command.
fn status_after(ended: &Ended) -> Status {
    if ended.interrupted {
        // A shell loop around us ends at Ctrl-C only if we are seen to die of it.
        signals::suffer(Signal::INT);
    }
    status_of(ended.status)
}

fn status_of(status: WaitStatus) -> Status {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::try_from(code).unwrap_or(Status::MAX),
        (None, Some(signal)) => exit::of_signal(signal),
        (None, None) => exit::SYSTEM,
    }
}

/// `--no-fork`: returns only when the command cannot be started; the guard then releases the lock.
fn become_the_command(locks: &[BorrowedFd<'_>], argv: &Argv, ignored: &Unignored) -> Failure {
    // A lock lives as long as its descriptor is open in some process, so it must survive `exec`.
    let error = match locks.iter().try_for_each(|lock| fcntl_setfd(lock, FdFlags::empty())) {
        Ok(()) => spawn::exec(argv, ignored),
        Err(error) => io::Error::from(error),
    };
    command::not_started(argv, &error)
}

/// For those who asked for a note. The lock is held all the same.
fn tell_if_not_kept(how: &AcquireArgs, held: &Held<'_>) {
    if !how.quiet
        && let Some(error) = held.not_recorded()
    {
        say(&format!("the note is not kept: {error}"));
    }
}
