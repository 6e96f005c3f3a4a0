//! The processes of the lab that are this program, started anew, and how they are told apart.

use std::ffi::OsString;
use std::{fs, io, process};

use crate::exit::Status;

use super::{actor, scratch, stage};

/// This program, also when its file has been replaced or removed.
pub(super) const PROGRAM: &str = "/proc/self/exe";

pub(super) const ACTOR: &str = "--lab-actor";
pub(super) const STAGE: &str = "--lab-stage";
pub(super) const SWEEP: &str = "--lab-sweep";

/// Fails where `/proc` does not show this process under its number, and so none of the actors: it is missing,
/// or that of another pid namespace.
pub(crate) fn check_proc() -> io::Result<()> {
    let shown = fs::read_link("/proc/self").ok();
    if shown.is_some_and(|shown| shown.as_os_str() == process::id().to_string().as_str()) {
        return Ok(());
    }
    Err(io::Error::other("/proc is missing, or that of another pid namespace; mount the right one"))
}

/// Plays the part that the words of the command line give to this process, if they give one. `words`:
/// without the program's name.
pub(crate) fn play(words: &[OsString]) -> Option<Status> {
    let (part, rest) = words.split_first()?;
    match part.to_str()?.strip_prefix("--lab-")? {
        "actor" => Some(actor::play(rest)),
        "stage" => Some(stage::play(rest)),
        "sweep" => Some(scratch::sweep(rest)),
        _ => None,
    }
}
