//! `lockmgr log`: its options.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Sum up a log of `lockmgr run --log`, or draw it
///
/// For each lock: how often it was had and for how long it was waited for and held (the median, the 99th
/// percentile, the longest), how often in a row the command was not run at the end of the log, and when it
/// last ended with status 0. Lines that are torn or not lockmgr's are counted, and otherwise ignored.
#[derive(Args)]
#[command(after_help = "\
Examples:
  lockmgr log /var/log/locks.jsonl
  lockmgr log --json /var/log/locks.jsonl
  lockmgr log --svg locks.svg /var/log/locks.jsonl   one lane a run: waiting is
                                                     pale, holding solid
  tail -n 500 /var/log/locks.jsonl | lockmgr log -

Exit status:
  0   it was read
  64  wrong usage, such as a picture in the place of the log
  73  a file cannot be opened or created
  74  another failure of the system")]
pub(crate) struct LogArgs {
    /// Print JSON (docs/json.md)
    #[arg(long)]
    pub(crate) json: bool,

    /// Draw the timeline into OUT, as SVG; - is standard output, and then nothing else is printed
    ///
    /// One lane a run, the last 200 of them.
    #[arg(long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,

    /// The log; - is standard input
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}
