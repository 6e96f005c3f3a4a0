//! What outlives the command in the lock file: its token, and when it last succeeded.
//!
//! All of it happens while the lock is held: the look whether there is anything to do, and, between the
//! command's end and the release, the note that it has succeeded.

use std::time::{Duration, SystemTime};

use lockmgr::{FileLockGuard, FileLockOptions};

use crate::cli::LastingArgs;
use crate::duration::show;
use crate::printable;
use crate::say::say;

/// The options for the lock.
pub(super) fn describe(args: &LastingArgs, options: FileLockOptions) -> FileLockOptions {
    let options = options.durable(args.durable);
    if args.fenced { options.fenced(true) } else { options }
}

/// Whether there is nothing to do yet; said to people unless `quiet`.
pub(super) fn is_too_early(args: &LastingArgs, guard: &FileLockGuard<'_>, quiet: bool) -> bool {
    let Some(every) = args.every else { return false };
    let Some(ago) = since(guard.last_success()) else { return false };
    let early = ago < every;
    if early && !quiet {
        let path = guard.path().map(|path| printable(path.as_os_str()).into_owned());
        say(&format!(
            "{}: skipped: the last successful run ended {} ago (--every {})",
            path.unwrap_or_default(),
            show(ago),
            show(every)
        ));
    }
    early
}

/// `None` for never, and for times to come.
fn since(success: Option<SystemTime>) -> Option<Duration> {
    SystemTime::now().duration_since(success?).ok()
}

/// Notes that the command has succeeded, where somebody wants to know.
pub(super) fn note_success(every: bool, guard: &FileLockGuard<'_>, quiet: bool) {
    if !every && guard.last_success().is_none() {
        return;
    }
    if let Err(error) = guard.mark_success()
        && every
        && !quiet
    {
        say(&format!("the next --every will not know of this run: {error}"));
    }
}
