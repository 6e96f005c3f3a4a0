//! `lockmgr lab`: its options.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueHint};
use lockmgr::Mechanism;

use super::values;

/// See how locks behave here: ask the kernel, with real processes
///
/// Each probe is a question that is answered with yes or no: processes that lab starts lock real files in a
/// directory of its own, which is removed afterwards, and what the kernel says to them is the answer. The
/// answers of the three mechanisms (flock, ofd, posix) stand side by side. What differs from what a local
/// filesystem of Linux is expected to answer is marked with `!`, and told below.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  lockmgr lab                              all probes, in the current directory
  lockmgr lab --dir /srv/nfs               on another filesystem
  lockmgr lab dup --explain                one probe, call by call
  lockmgr lab -m posix 'fork*' 'exec*'     some of them, of one mechanism
  lockmgr lab --list                       all questions, and why one asks them
  lockmgr lab sizes                        struct flock, in numbers
  lockmgr lab try -m posix ./some.lock     in two terminals

Exit status:
  0   everything is as expected
  1   an answer is not, or there is none (a call failed, or did not come back)
  64  wrong usage
  73  the directory cannot be used
  74  another failure of the system"
)]
pub(crate) struct LabArgs {
    #[command(subcommand)]
    pub(crate) other: Option<LabOrder>,

    /// Only these probes; `*` stands for any text
    #[arg(value_name = "PROBE")]
    pub(crate) probes: Vec<String>,

    /// Only of this mechanism; can be given more than once
    #[arg(
        short, long, value_name = "flock|ofd|posix", hide_possible_values = true,
        value_parser = values::mechanism(), action = clap::ArgAction::Append
    )]
    pub(crate) mechanism: Vec<Mechanism>,

    /// The directory to ask about
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,

    /// Tell the story of each answer: who made which call, and what came back
    #[arg(long)]
    pub(crate) explain: bool,

    /// List the probes, what is expected and why it matters; ask nothing
    #[arg(long, conflicts_with = "explain")]
    pub(crate) list: bool,

    /// How long one answer may take
    ///
    /// A filesystem may never answer. Then the processes are killed, and the next question is asked.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = values::limit,
          allow_hyphen_values = true)]
    pub(crate) deadline: Duration,

    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// What else there is in the lab.
#[derive(Subcommand)]
pub(crate) enum LabOrder {
    Sizes(SizesArgs),
    Try(TryArgs),
}

/// Show struct flock and the constants, as they are on this platform
///
/// The size of the structure that fcntl(2) is given, the place of each of its members, and the numbers of
/// the commands and kinds: for programs in other languages that have to spell them out.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr lab sizes
  lockmgr lab sizes --json |
    jq '.constants[] | select(.name == \"F_OFD_SETLK\").value'")]
pub(crate) struct SizesArgs {
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,
}

/// Hold a lock for ten seconds; in a second terminal, see what becomes of asking for it
///
/// Says which call it makes, and what the kernel returns. The first one holds the lock for ten seconds, or
/// until Enter is pressed. The second one is refused, or waits (--wait).
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr lab try -m posix ./some.lock         in one terminal,
  lockmgr lab try -m ofd ./some.lock           in another: refused, for
                                               these two see each other
  lockmgr lab try -m flock ./some.lock         has it: flock is on its own
  lockmgr lab try -m posix --wait ./some.lock  has it when the first has ended

Exit status:
  0   it had the lock
  75  refused
  64  wrong usage
  73  the file cannot be opened or created
  74  another failure of the system, such as a filesystem without locks")]
pub(crate) struct TryArgs {
    /// Which of the kernel's locks to take
    #[arg(
        short, long, value_name = "flock|ofd|posix", hide_possible_values = true,
        default_value = "flock", value_parser = values::mechanism()
    )]
    pub(crate) mechanism: Mechanism,
    /// Share the lock with others that share it
    #[arg(short, long)]
    pub(crate) shared: bool,
    /// Sleep until the lock is free
    #[arg(short, long)]
    pub(crate) wait: bool,
    /// How long to hold it
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::duration::parse,
          allow_hyphen_values = true)]
    pub(crate) hold: Duration,
    /// The file; it is made if it is not there, and never written to
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) file: OsString,
}
