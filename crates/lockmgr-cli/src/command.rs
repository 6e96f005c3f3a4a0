//! The command's words: which program to start, and what to say when it does not start.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::exit::{self, Failure};
use crate::printable;
use crate::sys::spawn::Argv;
use crate::sys::text::reason;

/// Where programs are when nothing says where; the C library's own answer.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The command's words, from those after LOCK or from `-c`.
pub(crate) fn words(words: Vec<OsString>, shell_command: Option<OsString>) -> Vec<OsString> {
    match shell_command {
        Some(text) => {
            let shell = env::var_os("SHELL").filter(|shell| !shell.is_empty());
            vec![shell.unwrap_or_else(|| "/bin/sh".into()), "-c".into(), text]
        }
        None => words,
    }
}

/// What it means that the program could not be started.
pub(crate) fn not_started(argv: &Argv, error: &io::Error) -> Failure {
    let program = OsStr::from_bytes(argv.program().to_bytes());
    let shown = if program.is_empty() { "''".into() } else { printable(program) };
    let found = exists(program);
    let missing = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
        // `execvp` says so of a directory in PATH that it may not look into, too.
        io::ErrorKind::PermissionDenied => !is_path(program) && !found,
        _ => false,
    };
    match (missing, found) {
        (true, false) => Failure::new(exit::NOT_FOUND, format!("{shown}: command not found")),
        // The file is there, so what was not found is what the file asks for.
        (true, true) => Failure::new(
            exit::CANNOT_EXECUTE,
            format!(
                "{shown}: cannot be executed: the interpreter or loader that it names does not exist"
            ),
        ),
        (false, _) => {
            Failure::new(exit::CANNOT_EXECUTE, format!("{shown}: cannot be executed: {error}"))
        }
    }
}

/// What it means that there is no process which could become the program.
pub(crate) fn no_process(error: &io::Error) -> Failure {
    let why = match error.kind() {
        io::ErrorKind::WouldBlock => "there are as many as this user, or the system, may have",
        _ => &reason(error),
    };
    Failure::new(exit::SYSTEM, format!("cannot make a process for the command: {why}"))
}

/// Whether there is such a file where `execvp` looks.
fn exists(program: &OsStr) -> bool {
    if program.is_empty() {
        return false;
    }
    if is_path(program) {
        return Path::new(program).exists();
    }
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Whether `execvp` takes it as it is, instead of looking in `PATH`.
fn is_path(program: &OsStr) -> bool {
    program.as_bytes().contains(&b'/')
}
