//! flock(1): what `lockmgr` is when it is called as `flock`, or as `lockmgr flock`.
//!
//! It is the `flock` of util-linux, as of its development version of August 2026, to the letter where
//! scripts can see it (options, forms, exit statuses, messages, the descriptor that the command finds),
//! and better where they cannot be hurt. `docs/flock.md` lists what is better and what differs;
//! `LOCKMGR_FLOCK_STRICT=1` keeps the original's behaviour there, too.
//!
//! - `scan`, `numbers`, `options`: the command line. Not by clap, which cannot give what `getopt_long`
//!   gives to the letter: abbreviated long options, an end of the options at the first other word, the
//!   messages.
//! - `open`, `acquire`: the lock
//! - `run`: the command
//! - `say`: every message
//!
//! Nothing here is a second lock manager: what waits is the library, what supervises is `child`.

mod acquire;
mod help;
mod numbers;
mod open;
mod options;
mod run;
mod say;
mod scan;

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use options::{Options, Order};
use say::{Failure, Output};

use crate::exit::Status;
use crate::sys::program;
use crate::sys::signals::Unignored;

/// The lock is not to be had, unless `-E` says otherwise.
const NOT_FREE: Status = 1;
/// Standard output or standard error took not all that it was given; or the command cannot be waited for.
const CANNOT_PRINT: Status = 1;
const USAGE: Status = 64;
/// The kernel does not lock this.
const CANNOT_LOCK: Status = 65;
const CANNOT_OPEN: Status = 66;
const CANNOT_EXECUTE: Status = 69;
/// No memory, no descriptors, no processes, no timer.
const SYSTEM: Status = 71;
const CANNOT_CREATE: Status = 73;

/// Set to anything but nothing: as the original, in its faults, too.
const STRICT: &str = "LOCKMGR_FLOCK_STRICT";

/// The name to speak under, and the words behind it, if this command line calls for flock(1).
///
/// The first word is for the caller to choose, and may say nothing: what the kernel has executed counts then.
pub(crate) fn words(line: &[OsString]) -> Option<(&OsStr, &[OsString])> {
    const OURS: [&str; 2] = ["flock", "lockmgr"];
    let (program, words) = line
        .split_first()
        .map_or((OsStr::new(""), line), |(program, words)| (base_name(program), words));
    let is_flock = match OURS.iter().position(|name| program == *name) {
        Some(index) => index == 0,
        None => program::executed().is_some_and(|path| base_name(&path) == "flock"),
    };
    if is_flock {
        return Some((program, words));
    }
    let (first, words) = words.split_first()?;
    (first == "flock").then_some((first, words))
}

fn base_name(path: &OsStr) -> &OsStr {
    OsStr::from_bytes(path.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default())
}

/// Runs flock(1) under this name with these words; returns the exit status.
pub(crate) fn start(name: &OsStr, words: &[OsString]) -> Status {
    say::speak_as(name);
    let strict = env::var_os(STRICT).is_some_and(|value| is_yes(&value));
    let mut output = Output::new();
    match options::read(words, strict) {
        Ok(Order::Help) => {
            output.print(&help::text(say::name()));
            output.finish(crate::exit::OK)
        }
        Ok(Order::Version) => {
            output.print(&[say::name(), help::VERSION].concat());
            output.finish(crate::exit::OK)
        }
        Ok(Order::Lock(options)) => lock(*options, strict, output),
        Err(failure) => fail(failure, output),
    }
}

fn is_yes(value: &OsStr) -> bool {
    !value.is_empty() && value != "0"
}

fn fail(failure: Failure, output: Output) -> Status {
    let status = failure.tell();
    output.finish(status)
}

fn lock(mut options: Options, strict: bool, mut output: Output) -> Status {
    let mut ignored = Unignored::default();
    let command = options.command.take();
    let (locked, took) = match acquire::acquire(&options, strict, &mut ignored) {
        Ok(locked) => locked,
        Err(failure) => return fail(failure, output),
    };
    if options.verbose {
        let (seconds, micros) = (took.as_secs(), took.subsec_micros());
        output.print_line(format!("getting lock took {seconds}.{micros:06} seconds").as_bytes());
    }
    match command {
        // The descriptor is the caller's, and so is the lock.
        None => output.finish(crate::exit::OK),
        Some(command) => run::run(&options, command, locked.fd(), strict, &ignored, output),
    }
}
