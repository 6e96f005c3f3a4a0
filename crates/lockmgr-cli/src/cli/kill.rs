//! `lockmgr kill`: its options.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueHint};
use rustix::process::Signal;

use super::values;

/// Signal whoever holds a lock, and wait until the lock is free
///
/// Only processes that were verified are signalled: that took the lock, and have it still at the
/// moment of the signal. They are pinned first, so that the signal cannot reach another process that
/// was given the same pid. Others are named and left alone: those that have merely inherited the lock
/// (unless --inherited), those that may not be looked at, and those that wait.
///
/// A holder that is `lockmgr run` passes TERM on to its command and releases the lock when that ends.
/// KILL ends lockmgr alone; the command has inherited the lock and keeps it, which is then said.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch on the command line")]
#[command(after_help = "\
Examples:
  lockmgr kill backup                      asks, sends TERM, waits until the lock is free
  lockmgr kill -y --kill-after 5s backup   does not ask; after 5 s, KILL
  lockmgr kill -y -s HUP -w 1m ./my.lock   gives up waiting after a minute
  lockmgr kill -y -9 backup                as kill(1) spells it

Exit status:
  0 those who were signalled do not hold the lock any more: it is free, or others have it since;
  1 nobody held it; 75 it is still held when the time of -w is over; 77 refused: nobody could be
  verified, was confirmed, or may be signalled, or somebody who was not signalled keeps the lock;
  64 wrong usage; 73 the path cannot be looked up; 74 another failure of the system")]
pub(crate) struct KillArgs {
    /// The signal: a name with or without SIG, or a number; -KILL or -9 will do as well
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM", value_parser = values::signal)]
    pub(crate) signal: Signal,
    /// Send KILL to those that hold the lock still after DURATION
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    pub(crate) kill_after: Option<Duration>,
    /// Give up waiting after DURATION; 0 does not wait
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = crate::duration::parse)]
    pub(crate) timeout: Option<Duration>,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Signal those, too, that have the lock's open file without having locked it
    #[arg(long)]
    pub(crate) inherited: bool,
    /// Signal process 1, too, if it holds the lock
    #[arg(long)]
    pub(crate) init: bool,
    /// A name is the lock that all users share
    #[arg(long)]
    pub(crate) system: bool,
    /// Print no messages
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print JSON (docs/json.md) when it is over
    #[arg(long)]
    pub(crate) json: bool,
    /// A lock file (anything with a slash), or a lock's name
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) lock: OsString,
}

/// The words with kill(1)'s `-9` and `-KILL` written as options; `None` if there are none of those.
pub(super) fn as_options(words: &[OsString]) -> Option<Vec<OsString>> {
    let is_signal = |word: &OsString| {
        let name = word.to_str().and_then(|word| word.strip_prefix('-'));
        name.is_some_and(|name| values::signal(name).is_ok())
    };
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let place = words[..end].iter().position(is_signal)?;
    let mut words = words.to_vec();
    let mut option = OsString::from("--signal=");
    option.push(words[place].to_string_lossy().trim_start_matches('-'));
    words[place] = option;
    Some(words)
}
