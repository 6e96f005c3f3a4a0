//! `lockmgr who`, `lockmgr ls`, `lockmgr deadlocks`: their options.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::values;

/// Show who holds a lock, and who waits for it
///
/// First the holders, then the waiters in the kernel's order, each one under what it waits for.
/// Whoever took the lock is found, with whatever program: flock(1), a package manager, a database.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr who backup                 a lock by its name
  lockmgr who /var/lib/dpkg/lock     a lock file of another program
  lockmgr who -a ./deploy.lock       with everybody who has inherited it
  lockmgr who --json backup | jq '.locks[].file.locks[]?.holders[].process.pid'

What is known of a holder:
  holds          it took the lock and has it now
  inherited      it has the open file that another process has locked
  unclear        it has the open file; whether it or another process locked it is not known
  gone           it took the lock, and has ended or let go of it since
  not permitted  the kernel names it; this user may not look whether it has the lock still
  not visible    the lock is held, and the kernel does not show by whom
  not found      the lock is held; by whom was not found, for not everybody was looked at

Exit status:
  0 held (of several LOCKs: at least one); 1 all are free; a lock file that does not exist is
  free; 64 wrong usage; 73 the path cannot be looked up; 74 another failure of the system")]
pub(crate) struct WhoArgs {
    /// Lock files (anything with a slash), or names of locks
    #[arg(value_name = "LOCK", required = true, value_hint = ValueHint::AnyPath)]
    pub(crate) locks: Vec<OsString>,
    /// Names are the locks that all users share
    #[arg(long)]
    pub(crate) system: bool,
    /// Look at every process, to find all who have inherited the lock
    ///
    /// Without it, looking ends when every lock and every waiter has got a name.
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// List every lock on the machine, with who holds it and who waits for it
///
/// A file's locks stand below its path, and waiters below what they wait for. `gate` is what
/// lockmgr's own waiters queue at when they take turns: whoever has it is the next. Without root, locks of other users are shown,
/// but not everything about who has them.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr ls                        everything
  lockmgr ls --waiting --watch      what is waited for, again every 2 seconds
  lockmgr ls --mine /srv            the caller's locks on files below /srv
  lockmgr ls --user www-data --sort waiters
  lockmgr ls --json | jq '.files[] | select(.deleted)'

`lockmgr help who` tells what the words before a pid mean.

Exit status:
  0, also when there are none; 64 wrong usage; 73 a PATH cannot be looked up; 74 another failure
  of the system, because of which not everybody was looked at")]
pub(crate) struct LsArgs {
    /// Only locks on this file, or on files below this directory
    ///
    /// Of a lock whose holder may not be looked at no path is known; then the directory is searched for its
    /// file. What may yet be there, because not all of it can be read, is listed, too.
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<OsString>,
    /// Only locks that the calling user's processes hold or wait for
    #[arg(long)]
    pub(crate) mine: bool,
    /// Only locks that somebody waits for
    #[arg(long)]
    pub(crate) waiting: bool,
    /// Only locks that process PID holds or waits for
    #[arg(long, value_name = "PID", value_parser = values::whole::<u32>(1..=i32::MAX as u64),
          allow_negative_numbers = true)]
    pub(crate) pid: Option<u32>,
    /// Only locks that this user's processes hold or wait for (a name or a number)
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The order of the files
    #[arg(long, value_name = "KEY", value_enum, default_value = "path")]
    pub(crate) sort: SortKey,
    /// Show it again every SECS seconds (2) until interrupted
    ///
    /// On a terminal each picture replaces the one before; elsewhere an empty line stands between
    /// them, and JSON comes one document a line.
    #[arg(long, value_name = "SECS", num_args = 0..=1, require_equals = true,
          default_missing_value = "2", value_parser = interval)]
    pub(crate) watch: Option<Duration>,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the files are sorted by.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum SortKey {
    /// By path, those without a known one last
    Path,
    /// By the first holder's pid
    Pid,
    /// By the first holder's user
    User,
    /// By the number of waiters, most first
    Waiters,
    /// As the kernel lists them
    Kernel,
}

fn interval(text: &str) -> Result<Duration, String> {
    match crate::duration::parse(text)? {
        short if short < Duration::from_millis(100) => Err("write 0.1 seconds or more".into()),
        interval => Ok(interval),
    }
}

/// Show processes that wait for each other in a circle
///
/// A circle is certain when everybody who could release one of its locks is stuck in it. It is possible
/// when somebody may yet let go, or could not be looked at.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr deadlocks
  lockmgr deadlocks --json | jq '.deadlocks[] | select(.certain)'

Exit status:
  0 none found; 1 at least one, certain or possible; 64 wrong usage; 74 a failure of the system,
  or none found and not everybody looked at")]
pub(crate) struct DeadlocksArgs {
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}
