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
mod lasting;
mod locks;
mod nested;
mod replace;

use std::ffi::OsStr;
use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use lockmgr::inspect::Record;
use lockmgr::{Error, FileLock, FileLockGuard};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitStatus};

use crate::child::limits::{Limits, Step};
use crate::child::{self, Trouble};
use crate::cli::{AcquireArgs, IfBusy, LimitArgs, RunArgs, Wait};
use crate::duration::show;
use crate::exit::{self, Failure, Status};
use crate::outcome::{Account, Outcome};
use crate::say::say;
use crate::sys::signals::{self, Unignored};
use crate::sys::spawn::{self, Argv};
use crate::waiting::Refused;
use crate::{command, finish, printable};

use busy::{Busy, Why};
use locks::{Held, Locks};
pub(crate) use locks::{check_mechanism, free_a_signal};
use nested::WayOut;

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
    match (args.if_busy, args.acquire.wait()) {
        (IfBusy::Fail, _) | (IfBusy::Skip, Wait::Forever) => args.acquire.do_not_wait(),
        _ => {}
    }
    let locks = Locks::of(&args, &words)?;
    account.begin(Some(locks.path()));
    let busy = Busy::of(&args);
    let RunArgs { acquire: how, note, remove, no_fork, hold_tree, lasting, limit, .. } = args;
    let mut program = Argv::new(words);
    let mut ignored = Unignored::default();
    free_a_signal(&how, &mut ignored);
    let mut replaced = false;
    let acquired = match busy.before(&locks) {
        Some(outer) => Err(Why::Inside(outer)),
        None => locks.acquire(&how, |error| {
            replaced = busy.now(&locks, error)?;
            if !matches!(how.wait(), Wait::Not) {
                account.waits();
            }
            Ok(())
        }),
    };
    let held = match acquired {
        Ok(held) => Some(held),
        Err(Why::Inside(outer)) => {
            program.set_environment(environment::of_outer(&locks, &outer));
            if !how.quiet {
                tell_what_is_not_done_inside(&locks.name(), note.is_some(), remove);
            }
            account.token = outer.token;
            account.slots = outer.slots;
            None
        }
        Err(why) => {
            account.refused(outcome_of(&why, &busy));
            return busy.instead(why);
        }
    };
    if let Some(held) = &held {
        account.token = held.main().and_then(FileLockGuard::token);
        account.slots = held.slots().to_vec();
    }
    let granted = account.acquired();
    if let Some(held) = &held {
        program.set_environment(environment::of_hold(&locks, held));
        if how.verbose && !how.quiet {
            say(&format!("waited {} for {}", show(held.wait_time()), locks.name()));
        }
        if let Some(note) = &note {
            tell_if_not_kept(&how, held, note);
        }
        if held.main().is_some_and(|guard| lasting::is_too_early(&lasting, guard, how.quiet)) {
            account.command(Outcome::Skipped, None);
            return Ok(exit::OK);
        }
    }
    if no_fork {
        let descriptors = held.as_ref().map(Held::descriptors).unwrap_or_default();
        return Err(become_the_command(&descriptors, &program, &ignored));
    }
    let limited = Limited {
        granted,
        with_tree: hold_tree,
        limits: limits(&limit),
        every: lasting.every.is_some(),
        replaced,
    };
    supervise(held, &locks, &how, &program, ignored, &limited, account)
}

/// Why a wait for this lock would be one for an ancestor, which most likely waits for this process.
pub(crate) fn wait_for_ancestor(lock: &FileLock, how: &AcquireArgs) -> Option<String> {
    let locks = Locks::just(lock, how);
    let outer = nested::look(&locks).filter(|outer| outer.stuck)?;
    Some(outer.told(&locks, WayOut::Wait))
}

/// What it means for the account that there is no lock.
fn outcome_of(why: &Why, busy: &Busy) -> Outcome {
    match why {
        Why::Busy(_) | Why::Refused(Refused::Lock(Error::Busy { .. } | Error::TimedOut { .. }))
            if busy.skips() =>
        {
            Outcome::Skipped
        }
        Why::Busy(_) | Why::Refused(Refused::Lock(Error::Busy { .. })) => Outcome::Busy,
        Why::Refused(Refused::Lock(Error::TimedOut { .. })) => Outcome::TimedOut,
        Why::Refused(Refused::Lock(Error::Deadlock { .. }) | Refused::Deadlock(_)) => {
            Outcome::Deadlock
        }
        Why::Inside(_) | Why::Failed(_) | Why::Refused(Refused::Lock(_)) => Outcome::LockError,
    }
}

fn limits(args: &LimitArgs) -> Limits {
    Limits { warn_after: args.warn_after, max_hold: args.max_hold, kill_after: args.kill_after }
}

/// How the lock is to be held.
struct Limited {
    granted: Instant,
    with_tree: bool,
    limits: Limits,
    /// A success is to be noted, for the next `--every`.
    every: bool,
    /// Whoever had the lock before was told to end.
    replaced: bool,
}

/// Runs the command under what is held; under nothing when it runs inside an ancestor's limits.
fn supervise(
    held: Option<Held<'_>>,
    locks: &Locks,
    how: &AcquireArgs,
    argv: &Argv,
    ignored: Unignored,
    limits: &Limited,
    account: &mut Account,
) -> Result<Status, Failure> {
    let name = locks.name();
    let mut on_step = |step, pid| {
        account.reached(step);
        if !how.quiet {
            tell_step(step, pid, &name, limits);
        }
    };
    let terms = child::Terms {
        hold_tree: limits.with_tree,
        granted: limits.granted,
        limits: limits.limits,
        on_step: &mut on_step,
    };
    let descriptors = held.as_ref().map(Held::descriptors).unwrap_or_default();
    let ended = match child::run(argv, &descriptors, ignored, terms) {
        Err(Trouble::Lost(error)) => {
            // The command may still run, and has the locks' descriptors: the locks stay with it.
            mem::forget(held);
            account.command(Outcome::Lost, None);
            return Err(Failure::new(
                exit::SYSTEM,
                format!("cannot watch over the command: {error}"),
            ));
        }
        Err(Trouble::NotStarted(error)) => {
            account.command(Outcome::NotStarted, None);
            Err(command::not_started(argv, &error))
        }
        Err(Trouble::NotForked(error)) => {
            account.command(Outcome::NotStarted, None);
            Err(command::no_process(&error))
        }
        Ok(ended) => {
            let outcome = match (ended.overran, limits.replaced) {
                (true, _) => Outcome::MaxHold,
                (false, true) => Outcome::Replaced,
                (false, false) => Outcome::Ran,
            };
            account.command(outcome, Some(ended.status));
            account.interrupted = ended.interrupted;
            Ok(ended)
        }
    };
    if let Some(held) = held {
        if ended.as_ref().is_ok_and(|ended| ended.status.exit_status() == Some(0))
            && let Some(guard) = held.main()
        {
            lasting::note_success(limits.every, guard, how.quiet);
        }
        // The command does not run any more; what is wrong now changes nothing about what it did, so
        // its status stays.
        if let Err(error) = held.unlock()
            && !how.quiet
        {
            say(&error.to_string());
        }
    }
    account.released();
    let ended = ended?;
    if how.verbose && !how.quiet {
        say(&format!("held {name} for {}", show(limits.granted.elapsed())));
    }
    let status = status_of(ended.status);
    // As timeout(1) has it: that it had to be killed is to be seen.
    let was_killed = ended.status.terminating_signal() == Some(Signal::KILL.as_raw());
    Ok(if ended.overran && !was_killed { exit::MAX_HOLD } else { status })
}

/// Says that a limit has been reached, and what is done about it.
fn tell_step(step: Step, pid: Pid, path: &str, limits: &Limited) {
    let pid = pid.as_raw_nonzero();
    let whom = if limits.with_tree { "its whole tree" } else { "its process group" };
    let time = show(limits.granted.elapsed());
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
fn become_the_command(locks: &[BorrowedFd<'_>], argv: &Argv, ignored: &Unignored) -> Failure {
    // A lock lives as long as its descriptor is open in some process, so it must survive `exec`.
    let error = match locks.iter().try_for_each(|lock| fcntl_setfd(lock, FdFlags::empty())) {
        Ok(()) => spawn::exec(argv, ignored),
        Err(error) => io::Error::from(error),
    };
    command::not_started(argv, &error)
}

/// What the options want done to the lock file, and only whoever has the lock can do.
fn tell_what_is_not_done_inside(name: &str, note: bool, remove: bool) {
    for (_, what) in [(note, "the note is not kept"), (remove, "the lock file is not removed")]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
    {
        say(&format!("{name}: {what}: the command runs inside its ancestor's hold"));
    }
}

/// For those who asked for a note. The lock is held all the same.
fn tell_if_not_kept(how: &AcquireArgs, held: &Held<'_>, note: &OsStr) {
    if how.quiet {
        return;
    }
    if let Some(error) = held.not_recorded() {
        say(&format!("the note is not kept: {error}"));
    } else if !Record::has_room_for(&printable(note)) {
        say("the note is too long to be kept whole, and is cut");
    }
}
