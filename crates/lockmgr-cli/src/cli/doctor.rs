//! `lockmgr doctor`: its options.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::values;

/// Find out whether locks can be trusted at a place
///
/// Which filesystem it is and how it is mounted; whether other machines see its locks; which mechanisms work
/// (tried out in a directory of its own, with processes of its own), whether flock and record locks see each
/// other, whether anything hangs; what permissions and clocks of the place stand in the way; who holds locks
/// there now. Nothing that is found there is touched, and a filesystem that does not answer ends in a
/// verdict, too.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr doctor .
  lockmgr doctor /srv/nfs/deploy.lock      a lock file, which need not be there yet
  lockmgr doctor --json /data | jq '.verdict, .findings[].code'
  lockmgr lab --dir /data --explain        the same questions and many more, call by call

Exit status:
  0 fine; 1 locks work, with the limits that are named; 2 do not rely on locks there; 64 wrong
  usage; 73 there is no such place; 74 another failure of the system")]
pub(crate) struct DoctorArgs {
    /// How long one answer may take
    ///
    /// What takes longer is said to hang. Where that is so, no more is asked, and it is over after some
    /// three times as long.
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = values::limit)]
    pub(crate) deadline: Duration,
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
    /// A directory, or a lock file in one
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
}
