//! `lockmgr lock` and `lockmgr unlock`: their options.

use clap::Args;

use super::{AcquireArgs, values};

/// Lock a file that the calling shell has open
///
/// The lock belongs to the shell's open file: it lasts until `lockmgr unlock`, or until the last
/// process that has the file open through the shell closes it or ends.
#[derive(Args)]
#[command(after_help = "\
Examples:
  exec 9>state.lock          a shell script opens the lock file,
  lockmgr lock --fd 9        waits for the lock,
  …                          does its work,
  lockmgr unlock --fd 9      and releases it (or ends)

  ( lockmgr lock -n --fd 9 || exit 1; … ) 9>state.lock

Programs started meanwhile inherit the file and with it the lock; one that stays
in the background keeps it, unless it was started with 9>&-.")]
pub(crate) struct LockArgs {
    #[command(flatten)]
    pub(crate) acquire: AcquireArgs,

    /// The number of the open file
    #[arg(long, value_name = "N", value_parser = values::descriptor, allow_negative_numbers = true)]
    pub(crate) fd: i32,
}

/// Release the lock on a file that the calling shell has open
///
/// Exits with 1 when there was no lock.
#[derive(Args)]
#[command(after_help = "\
Example:
  exec 9>state.lock; lockmgr lock --fd 9; …; lockmgr unlock --fd 9")]
pub(crate) struct UnlockArgs {
    /// The number of the open file
    #[arg(long, value_name = "N", value_parser = values::descriptor, allow_negative_numbers = true)]
    pub(crate) fd: i32,

    /// Print no messages of lockmgr's own
    #[arg(short, long)]
    pub(crate) quiet: bool,
}
