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

use lockmgr::{Acquire, Error, FileLockGuard};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitStatus};

use crate::child::limits::{Limits, Step};
use crate::child::{self, Trouble};
use crate::cli::{AcquireArgs, LimitArgs, RunArgs};
use crate::duration::show;
use crate::exit::{self, Failure, Status};
use crate::outcome::{Account, Outcome};
use crate::say::say;
use crate::sys::signals::{self, Unignored};
use crate::sys::spawn::{self, Argv};
use crate::waiting::{self, Awaited, Refused};
use crate::{command, finish, printable};

use locks::the_lock;
pub(crate) use locks::{check_mechanism, free_a_signal};

pub(crate) fn run(args: RunArgs) -> Status {
    let quiet = args.acquire.quiet;
    let mut account = match Account::open(&args) {
        Ok(account) => account,
        Err(failure) => return finish(Err(failure), quiet),
    };
    let result = try_run(args, &mut account);
    let message = result.as_ref().err().map(|failure| failure.line.clone());
    let status = finish(result, quiet);
    let interrupted = account.interrupted;
    account.close(status, message.as_deref());
    if interrupted {
        // A shell loop around us ends at Ctrl-C only if we are seen to die of it.
        signals::suffer(Signal::INT);
    }
    status
}

fn try_run(mut args: RunArgs, account: &mut Account) -> Result<Status, Failure> {
    let words = command::words(mem::take(&mut args.command), args.shell_command.take());
    let lock = the_lock(&args, &words)?;
    account.begin(lock.path());
    let RunArgs { acquire: how, note, no_fork, hold_tree, lasting, limit, .. } = args;
    let program = Argv::new(words);
    let mut ignored = Unignored::default();
    free_a_signal(&how, &mut ignored);
    let what = Awaited { path: lock.path().map(Path::to_path_buf).unwrap_or_default(), name: None };
    let acquired = waiting::acquire(&how, what, lock.acquire(), Acquire::try_now, |acquire| {
        account.waits();
        acquire.wait()
    });
    let guard = acquired.map_err(|refused| {
        account.refused(outcome_of(&refused));
        refused.failure(&how, Failure::of_lock)
    })?;
    let granted = account.acquired();
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
        let terms = Hold { granted, with_tree: hold_tree, limits: limits(&limit) };
        supervise(guard, &how, &program, ignored, &terms, lasting.every.is_some(), account)
    }
}

/// What it means for the account that there is no lock.
fn outcome_of(refused: &Refused) -> Outcome {
    match refused {
        Refused::Lock(Error::Busy { .. }) => Outcome::Busy,
        Refused::Lock(Error::TimedOut { .. }) => Outcome::TimedOut,
        Refused::Lock(Error::Deadlock { .. }) | Refused::Deadlock(_) => Outcome::Deadlock,
        Refused::Lock(_) => Outcome::LockError,
    }
}

fn limits(args: &LimitArgs) -> Limits {
    Limits { warn_after: args.warn_after, max_hold: args.max_hold, kill_after: args.kill_after }
}

/// How the lock is to be held.
struct Hold {
    granted: Instant,
    with_tree: bool,
    limits: Limits,
}

fn supervise(
    guard: FileLockGuard<'_>,
    how: &AcquireArgs,
    argv: &Argv,
    ignored: Unignored,
    hold: &Hold,
    every: bool,
    account: &mut Account,
) -> Result<Status, Failure> {
    let path =
        guard.path().map(|path| printable(path.as_os_str()).into_owned()).unwrap_or_default();
    let mut on_step = |step, pid| {
        account.reached(step);
        if !how.quiet {
            tell_step(step, pid, &path, hold);
        }
    };
    let terms = child::Terms {
        hold_tree: hold.with_tree,
        granted: hold.granted,
        limits: hold.limits,
        on_step: &mut on_step,
    };
    let ended = match child::run(argv, guard.file().as_fd(), ignored, terms) {
        Err(Trouble::Lost(error)) => {
            // The command may still run, and has the lock's descriptor: the lock stays with it.
            mem::forget(guard);
            account.command(Outcome::Lost, None);
            return Err(Failure::new(
                exit::SYSTEM,
                format!("cannot watch over the command: {error}"),
            ));
        }
        Err(Trouble::NotStarted(error) | Trouble::NotForked(error)) => {
            account.command(Outcome::NotStarted, None);
            Err(error)
        }
        Ok(ended) => {
            let outcome = if ended.overran { Outcome::MaxHold } else { Outcome::Ran };
            account.command(outcome, Some(ended.status));
            account.interrupted = ended.interrupted;
            Ok(ended)
        }
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
    account.released();
    let ended = ended.map_err(|error| command::not_started(argv, &error))?;
    if how.verbose && !how.quiet {
        say(&format!("held {path} for {}", show(hold.granted.elapsed())));
    }
    let status = status_of(ended.status);
    // As timeout(1) has it: that it had to be killed is to be seen.
    let was_killed = ended.status.terminating_signal() == Some(Signal::KILL.as_raw());
    Ok(if ended.overran && !was_killed { exit::MAX_HOLD } else { status })
}

/// Says that a limit has been reached, and what is done about it.
fn tell_step(step: Step, pid: Pid, path: &str, hold: &Hold) {
    let pid = pid.as_raw_nonzero();
    let whom = if hold.with_tree { "its whole tree" } else { "its process group" };
    let time = show(hold.granted.elapsed());
    say(&match step {
        Step::Warn => format!("{path}: the command (pid {pid}) has held the lock for {time}"),
        Step::End => format!(
            "{path}: the command (pid {pid}) has held the lock for {time}: SIGTERM to {whom}"
        ),
        Step::Kill => format!(
            "{path}: the command (pid {pid}) has not ended, after {time}: SIGKILL to {whom}"
        ),
    });
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
