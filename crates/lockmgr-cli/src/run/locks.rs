//! What `run` is to acquire, as the options describe it, and what cannot be.

use std::ffi::OsString;

use lockmgr::name::{self, Scope};
use lockmgr::{Error, FileLock, Mechanism, Mode};

use super::lasting;
use crate::cli::{AcquireArgs, OnDeadlock, RunArgs, Wait};
use crate::exit::Failure;
use crate::printable;
use crate::sys::signals::Unignored;

/// The lock that the options describe, for a command of these words; nothing is opened yet, so that the deadline covers it.
pub(super) fn the_lock(args: &RunArgs, words: &[OsString]) -> Result<FileLock, Failure> {
    let of_lock = |error: Error| Failure::of_lock(&error, args.acquire.busy_exit_code);
    check_mechanism(&args.acquire)?;
    if args.acquire.mechanism == Mechanism::Posix && !args.no_fork {
        return Err(Failure::usage(
            "a posix lock belongs to one process and the command could not inherit it: \
             use -m ofd (the same kind of lock, inherited), or --no-fork",
        ));
    }
    if args.lock.is_empty() {
        return Err(Failure::usage("the lock's name is empty"));
    }
    if args.system && name::is_path(&args.lock) {
        return Err(Failure::usage("--system is for names, and LOCK is a path; leave it out"));
    }
    let scope = if args.system { Scope::System } else { Scope::User };
    let mut options = FileLock::options()
        .mechanism(args.acquire.mechanism)
        .create(!args.no_create)
        .remove_on_release(args.remove);
    // Without a note, what cannot be recorded is not tried.
    if args.note.is_some() || args.acquire.mode() == Mode::Exclusive {
        options = options.record_command(words);
    }
    if let Some(note) = &args.note {
        options = options.note(printable(note));
    }
    options = lasting::describe(&args.lasting, options);
    if let Some(range) = args.acquire.range {
        options = options.range(range);
    }
    if let Some(mode) = args.mode {
        options = options.creation_mode(mode);
    }
    options.open_named_lazy(&args.lock, scope).map_err(of_lock)
}

/// Refuses what no mechanism can do, and says which one can.
pub(crate) fn check_mechanism(how: &AcquireArgs) -> Result<(), Failure> {
    if how.range.is_some() && how.mechanism == Mechanism::Flock {
        return Err(Failure::usage(
            "flock locks whole files: for a --range use -m ofd, with everybody who uses this lock",
        ));
    }
    Ok(())
}

/// A deadline (or the end of a deadlock) interrupts the wait by a real-time signal that nobody uses. Some daemons start their
/// children with every signal ignored; then this one is taken back.
pub(crate) fn free_a_signal(how: &AcquireArgs, ignored: &mut Unignored) {
    if matches!(how.wait(), Wait::For(_)) || how.deadlock == OnDeadlock::Fail {
        ignored.take(libc::SIGRTMAX());
    }
}
