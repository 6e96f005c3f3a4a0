//! `lockmgr demo`: its options.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};
use lockmgr::Mechanism;

use super::values;

/// See why one wants a lock: workers that get in each other's way, or do not
///
/// Each worker is a process that enters a section of which there is only one (`+[1]`), works in there for a
/// while, and leaves it (`-[1]`). Under the lock the lines come in pairs. Without it (--no-lock) workers
/// enter while others are inside, which is said when it happens, and counted at the end.
///
/// A second demo in another terminal works in the same section, under the same lock: they take turns. Then
/// see `lockmgr who demo` in a third one. While they play there is a second file beside that of the lock, in
/// which those who are inside are noted: demo-inside.lock for demo.lock.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr demo                     three workers, three rounds, in turns
  lockmgr demo --no-lock           the same without a lock
  lockmgr demo --svg demo.svg      one after the other, and a picture of both
  lockmgr demo -m ofd --workers 8 --pace 20ms ./some.lock

Exit status:
  0   nobody entered while another was inside
  1   somebody did, as without a lock, or where locks do not work
  64  wrong usage
  73  the lock file or the picture cannot be opened or created
  74  another failure of the system, or a worker that was killed")]
pub(crate) struct DemoArgs {
    /// Go in without a lock
    #[arg(long)]
    pub(crate) no_lock: bool,
    /// How many processes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = values::whole::<u32>(1..=99),
          allow_negative_numbers = true)]
    pub(crate) workers: u32,
    /// How often each of them goes in
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = values::whole::<u32>(1..=1000),
          allow_negative_numbers = true)]
    pub(crate) rounds: u32,
    /// How long a worker stays inside, about
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = crate::duration::parse,
          allow_hyphen_values = true)]
    pub(crate) pace: Duration,
    /// Draw what happened into FILE, as SVG; - is standard output, and then nothing else is printed
    ///
    /// Plays it twice, without the lock and then with it, and draws both (with --no-lock: only that).
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
    /// Which of the kernel's locks to take
    #[arg(
        short, long, value_name = "flock|ofd|posix", hide_possible_values = true,
        default_value = "flock", value_parser = values::mechanism()
    )]
    pub(crate) mechanism: Mechanism,
    /// Print JSON (docs/json.md) when it is over, and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// A lock file (anything with a slash), or a lock's name
    #[arg(default_value = "demo", value_hint = ValueHint::AnyPath)]
    pub(crate) lock: OsString,
}
