//! What the words of the command line mean: which form, which options, or what is wrong.
//!
//! Options are looked at one after the other, and the first wrong one ends it, as in the original; so
//! `-h` behind a wrong option is not reached, and one before it is all that counts. What options
//! need from each other is checked when all have been seen.

use std::env;
use std::ffi::{OsStr, OsString};

use super::numbers::{self, Timeout, Wrong};
use super::say::{Failure, message};
use super::scan::{Found, Scan, Table};
use super::{NOT_FREE, USAGE};

/// What is asked for.
pub(super) enum Order {
    Help,
    Version,
    Lock(Box<Options>),
}

/// Which lock, in which mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Shared,
    Exclusive,
    /// None: the one that there is goes.
    Unlock,
}

/// What is locked.
pub(super) enum Subject {
    Path(OsString),
    Descriptor(i32),
}

/// The options as they were given.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch on the command line")]
pub(super) struct Options {
    pub(super) kind: Kind,
    /// OFD record locks, instead of `flock(2)`'s.
    pub(super) ofd: bool,
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) nonblock: bool,
    pub(super) timeout: Option<Timeout>,
    /// The exit status where the lock is not to be had.
    pub(super) conflict: u8,
    pub(super) close: bool,
    pub(super) no_fork: bool,
    pub(super) verbose: bool,
    pub(super) subject: Subject,
    /// The words of the command, if there is one.
    pub(super) command: Option<Vec<OsString>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flag {
    Shared,
    Exclusive,
    Unlock,
    Nonblock,
    Timeout,
    Conflict,
    Close,
    NoFork,
    Ofd,
    Start,
    Length,
    Descriptor,
    Verbose,
    Help,
    Version,
}

static TABLE: Table<Flag> = Table {
    short: &[
        (b's', Flag::Shared, false),
        (b'e', Flag::Exclusive, false),
        (b'x', Flag::Exclusive, false),
        (b'n', Flag::Nonblock, false),
        (b'o', Flag::Close, false),
        (b'F', Flag::NoFork, false),
        (b'u', Flag::Unlock, false),
        (b'w', Flag::Timeout, true),
        (b'E', Flag::Conflict, true),
        (b'h', Flag::Help, false),
        (b'V', Flag::Version, false),
    ],
    long: &[
        ("shared", Flag::Shared, false),
        ("exclusive", Flag::Exclusive, false),
        ("unlock", Flag::Unlock, false),
        ("nonblocking", Flag::Nonblock, false),
        ("nb", Flag::Nonblock, false),
        ("timeout", Flag::Timeout, true),
        ("wait", Flag::Timeout, true),
        ("conflict-exit-code", Flag::Conflict, true),
        ("close", Flag::Close, false),
        ("no-fork", Flag::NoFork, false),
        ("fcntl", Flag::Ofd, false),
        ("start", Flag::Start, true),
        ("length", Flag::Length, true),
        ("fd", Flag::Descriptor, true),
        ("verbose", Flag::Verbose, false),
        ("help", Flag::Help, false),
        ("version", Flag::Version, false),
    ],
};

/// Reads the words behind the program's name.
pub(super) fn read(words: &[OsString], strict: bool) -> Result<Order, Failure> {
    if words.is_empty() {
        return Err(wrong(&[b"not enough arguments"]).with_hint());
    }
    let mut options = Options {
        kind: Kind::Exclusive,
        ofd: false,
        start: 0,
        length: 0,
        nonblock: false,
        timeout: None,
        conflict: NOT_FREE,
        close: false,
        no_fork: false,
        verbose: false,
        // Put in at the end.
        subject: Subject::Descriptor(-1),
        command: None,
    };
    let mut descriptor = None;
    let mut string_option = None;
    let mut scan = Scan::new(&TABLE, words);
    for found in scan.by_ref() {
        let (flag, value) = match found {
            Found::Option(flag, value) => (flag, value.unwrap_or_default()),
            Found::Unknown(word) if is_string_option(word) => {
                string_option = Some(word);
                break;
            }
            Found::Unknown(word) => {
                return Err(wrong(&[b"unrecognized option '", bytes(word), b"'"]).with_hint());
            }
            Found::NoArgument(word) => {
                let parts = [b"option '", bytes(word), b"' requires an argument"];
                return Err(wrong(&parts).with_hint());
            }
        };
        match flag {
            Flag::Shared => options.kind = Kind::Shared,
            Flag::Exclusive => options.kind = Kind::Exclusive,
            Flag::Unlock => options.kind = Kind::Unlock,
            Flag::Nonblock => options.nonblock = true,
            Flag::Timeout => {
                let timeout = numbers::timeout(value, strict);
                options.timeout = Some(timeout.map_err(|_| bad("invalid timeout", value, None))?);
            }
            Flag::Conflict => options.conflict = exit_code(value)?,
            Flag::Close => options.close = true,
            Flag::NoFork => options.no_fork = true,
            Flag::Ofd => options.ofd = true,
            Flag::Start => {
                (options.ofd, options.start) =
                    (true, size("invalid as start offset", value, strict)?);
            }
            Flag::Length => {
                (options.ofd, options.length) =
                    (true, size("invalid as length of lock range", value, strict)?);
            }
            Flag::Descriptor => descriptor = Some(descriptor_number(value)?),
            Flag::Verbose => options.verbose = true,
            Flag::Help => return Ok(Order::Help),
            Flag::Version => return Ok(Order::Version),
        }
    }
    if options.no_fork && options.close {
        return Err(wrong(&[b"the --no-fork and --close options are incompatible"]));
    }
    (options.subject, options.command) = form(string_option, descriptor, scan.rest())?;
    Ok(Order::Lock(Box::new(options)))
}

/// Which of the forms it is: what is locked, and the command.
fn form(
    string_option: Option<&OsStr>,
    descriptor: Option<i32>,
    words: &[OsString],
) -> Result<(Subject, Option<Vec<OsString>>), Failure> {
    let missing = || wrong(&[b"missing file descriptor, file or directory"]);
    let on_descriptor = |number: i32, command| {
        if number < 0 { Err(missing()) } else { Ok((Subject::Descriptor(number), command)) }
    };
    if let Some(option) = string_option {
        let command = shell_command(option, words)?;
        return on_descriptor(descriptor.ok_or_else(missing)?, Some(command));
    }
    match (descriptor, words) {
        (Some(_), []) => Err(wrong(&[b"missing command"])),
        (Some(number), command) => on_descriptor(number, Some(command.to_vec())),
        (None, []) => Err(missing()),
        (None, [number]) => on_descriptor(descriptor_number(number)?, None),
        (None, [path, option, text @ ..]) if is_string_option(option) => {
            Ok((Subject::Path(path.clone()), Some(shell_command(option, text)?)))
        }
        (None, [path, command @ ..]) => Ok((Subject::Path(path.clone()), Some(command.to_vec()))),
    }
}

fn is_string_option(word: &OsStr) -> bool {
    word == "-c" || word == "--command"
}

/// The one word behind `-c`, for the shell.
fn shell_command(option: &OsStr, words: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let [text] = words else {
        return Err(wrong(&[bytes(option), b" requires exactly one command argument"]));
    };
    let shell = env::var_os("SHELL").filter(|shell| !shell.is_empty());
    Ok(vec![shell.unwrap_or_else(|| "/bin/sh".into()), "-c".into(), text.clone()])
}

fn exit_code(text: &OsStr) -> Result<u8, Failure> {
    let number = numbers::integer(text, 0, 255);
    number
        .map(|number| u8::try_from(number).expect("it is in the range"))
        .map_err(|wrong| bad("invalid exit code (allowed values: 0-255)", text, Some(wrong)))
}

fn descriptor_number(text: &OsStr) -> Result<i32, Failure> {
    let number = numbers::integer(text, i32::MIN, i32::MAX);
    number.map_err(|wrong| bad("invalid file descriptor", text, Some(wrong)))
}

fn size(what: &str, text: &OsStr, strict: bool) -> Result<u64, Failure> {
    numbers::size(text, strict).map_err(|wrong| {
        let mut failure = bad(what, text, Some(wrong));
        if wrong == Wrong::Invalid {
            failure.text.extend_from_slice(b": Invalid argument");
        }
        failure
    })
}

/// A word that is no number, or none that will do.
fn bad(what: &str, text: &OsStr, why: Option<Wrong>) -> Failure {
    let range: &[u8] = match why {
        Some(Wrong::OutOfRange) => b": Numerical result out of range",
        _ => b"",
    };
    wrong(&[what.as_bytes(), b": '", bytes(text), b"'", range])
}

fn wrong(parts: &[&[u8]]) -> Failure {
    Failure::new(USAGE, message(parts))
}

fn bytes(word: &OsStr) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(word)
}
