//! `lockmgr wait`: its options.

use std::ffi::OsString;

use clap::{Args, ValueEnum, ValueHint};

use super::AcquireArgs;

/// Wait until a lock is free
///
/// It waits as every waiter does: it queues for the lock, and when its turn comes it has the lock for
/// an instant and lets go. So it wakes at once, is passed by nobody, is seen in `lockmgr who`, and
/// makes those behind it wait for that instant. When it returns the lock was free; somebody else may
/// have it by now. To do something under the lock, use `lockmgr run`.
///
/// A lock file that does not exist is free, and is not created. -s waits only until the lock could be
/// shared, -x (the default) until nobody holds it.
#[derive(Args)]
#[expect(clippy::doc_markdown, reason = "help is plain text: names of variables stand as they are")]
#[command(after_help = "\
Examples:
  lockmgr wait backup                    until no backup runs
  lockmgr wait -w 10m -m ofd /var/lib/dpkg/lock-frontend
  lockmgr wait -s ./data.lock            until no writer is left
  lockmgr wait -n backup && echo free    do not wait, only ask

Exit status:
  0   the lock was free
  75  (or -E) busy, timed out, or held by an ancestor
  64  wrong usage
  73  the lock file cannot be opened
  74  another failure of the system")]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    pub(crate) acquire: AcquireArgs,

    /// What to do when an ancestor of this process has the lock: fail (the default) or wait
    ///
    /// fail: give up at once, with the status for a busy lock, because the ancestor most likely waits for
    /// the end of this very process. wait: wait as for anybody else, such as in the background. It is looked
    /// for where LOCKMGR_LOCK is in the environment and the lock is busy; what is found is the kernel's word.
    #[arg(
        long,
        value_name = "fail|wait",
        hide_possible_values = true,
        default_value = "fail",
        hide_default_value = true
    )]
    pub(crate) nested: NestedWait,

    /// A name is the lock that all users share
    #[arg(long)]
    pub(crate) system: bool,

    /// Print JSON (docs/json.md) when the wait is over
    #[arg(long)]
    pub(crate) json: bool,

    /// A lock file (anything with a slash), or a lock's name
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) lock: OsString,
}

/// What to do about an ancestor's hold.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum NestedWait {
    Fail,
    Wait,
}
