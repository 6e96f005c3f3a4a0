//! `lockmgr run`: the options about what outlives the command, in the lock file.

use std::time::Duration;

use clap::Args;

/// What the lock file is to say to those who come later.
#[derive(Args, Default)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(crate) struct LastingArgs {
    /// Do nothing when the last successful run under this lock ended less than DURATION ago
    ///
    /// Says so in one line and exits with 0. Looked at when the lock is held, so of several that
    /// start together one runs. A run is successful when the command exits with 0; its end
    /// is noted in the lock file while the lock is still held. From the first --every on,
    /// runs without it count, too, as long as they are exclusive.
    /// A time in the future, after the clock was set back, counts as none.
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse,
          allow_hyphen_values = true, conflicts_with_all = ["shared", "no_fork", "remove", "range"])]
    pub(crate) every: Option<Duration>,

    /// Give the command a fencing token in `LOCKMGR_TOKEN`
    ///
    /// A number that grows with every fenced hold of this lock, for what the command writes to: it can
    /// refuse a smaller one than it has seen, which comes from a command that is late. The last one is
    /// kept in the lock file. Without a lock file to keep it in, the command is not started; nor when the
    /// last one is more than a day ahead of the clock.
    #[arg(long, conflicts_with_all = ["shared", "remove", "range"])]
    pub(crate) fenced: bool,

    /// Have what is written into the lock file on its disk before going on (fdatasync)
    ///
    /// So that a token (--fenced) or the last success (--every) outlasts a power failure, too.
    #[arg(long)]
    pub(crate) durable: bool,
}
