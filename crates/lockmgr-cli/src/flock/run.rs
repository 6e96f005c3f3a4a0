//! The command under the lock.
//!
//! The lock is never released by name: it goes with the last copy of its descriptor, as with the original.
//! So what the command leaves in the background keeps it, unless `-o` kept the descriptor from it.
//!
//! Unless it is to be strict, a signal that is sent to us is passed on to the command, and we wait for
//! the command's real end ([`child`]). The original dies of it at once, and leaves the command running,
//! with the lock or (`-o`) without it. When the command dies of what was passed on, so do we: whoever
//! waits for us sees what they see of the original.

use std::os::fd::RawFd;

use rustix::process::WaitStatus;

use super::options::Options;
use super::say::{Failure, Output};
use super::{CANNOT_EXECUTE, CANNOT_PRINT, SYSTEM};
use crate::child::{self, Trouble};
use crate::exit::{self, Status};
use crate::sys::signals::{self, Unignored};
use crate::sys::spawn::{self, Argv, Descriptor};

/// Runs the command to its end, or becomes it; returns the exit status.
pub(super) fn run(
    options: &Options,
    command: Vec<std::ffi::OsString>,
    lock: RawFd,
    strict: bool,
    ignored: &Unignored,
    mut output: Output,
) -> Status {
    if options.verbose {
        output.print_line(&[b"executing ", command[0].as_encoded_bytes()].concat());
    }
    let argv = Argv::new(command);
    // The command's children are its own, as the original has it.
    signals::reset(libc::SIGCHLD);
    if options.no_fork {
        // What was kept for standard output is lost.
        return cannot_execute(&argv, &spawn::exec(&argv, ignored));
    }
    let descriptor = if options.close { Descriptor::Close(lock) } else { Descriptor::Leave };
    let ended = if strict {
        child::run_unwatched(&argv, descriptor)
    } else {
        child::run_watched(&argv, descriptor, ignored)
    };
    let status = match ended {
        Ok(ended) => {
            let status = status_of(ended.status);
            if let Some(signal) = ended.died_of_what_was_passed_on() {
                let status = output.finish(status);
                signals::suffer(signal);
                return status;
            }
            status
        }
        Err(Trouble::NotStarted(error)) => cannot_execute(&argv, &error),
        Err(Trouble::NotForked(error)) => {
            Failure::of_system(SYSTEM, &[b"fork failed"], &error).tell()
        }
        Err(Trouble::Lost(error)) => {
            Failure::of_system(CANNOT_PRINT, &[b"waitpid failed"], &error).tell()
        }
    };
    output.finish(status)
}

fn cannot_execute(argv: &Argv, error: &std::io::Error) -> Status {
    let status = match error.raw_os_error() {
        Some(libc::ENOMEM) => SYSTEM,
        _ => CANNOT_EXECUTE,
    };
    let what = [b"failed to execute ", argv.program().to_bytes()];
    Failure::of_system(status, &what, error).tell_as_child()
}

fn status_of(status: WaitStatus) -> Status {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::try_from(code).unwrap_or(Status::MAX),
        (None, Some(signal)) => exit::of_signal(signal),
        (None, None) => SYSTEM,
    }
}
