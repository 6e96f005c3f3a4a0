//! `lockmgr log`: what is printed of a log.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::read::{Found, read};
use super::summary::{Spread, Summary, runs, summaries};
use super::svg;
use crate::cli::LogArgs;
use crate::exit::{self, Failure, Status};
use crate::one_file::is_one_file;
use crate::say::say;
use crate::show::{self, Rows, Screen, Style};
use crate::svg::Canvas;
use crate::{duration, json};

#[derive(Serialize)]
struct Body {
    events: usize,
    foreign_lines: u64,
    locks: Vec<Summary>,
}

pub(crate) fn log(args: &LogArgs) -> Result<Status, Failure> {
    if args.svg.as_deref().is_some_and(|out| is_of_log(out, &args.file)) {
        let line = "--svg: this is the log itself, which would be replaced; name another file";
        return Err(Failure::usage(line));
    }
    let found = found(&args.file)?;
    let runs = runs(&found.entries);
    if let Some(out) = &args.svg {
        let picture = svg::draw(&runs);
        if is_dash(out) {
            return show::write(&picture).map(|_| exit::OK);
        }
        Canvas::open(out)?.draw(&picture)?;
    }
    let locks = summaries(&runs);
    let text = if args.json {
        let body = Body { events: found.entries.len(), foreign_lines: found.foreign, locks };
        json::document("log", body)?
    } else {
        told(&locks)
    };
    show::write(&text)?;
    if !args.json && found.foreign > 0 {
        let lines = show::count(usize::try_from(found.foreign).unwrap_or(usize::MAX), "line");
        say(&format!("{}: {lines} torn or not lockmgr's, left out", show::path(&args.file)));
    }
    Ok(exit::OK)
}

fn is_dash(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Whether the picture would be drawn over the log. A terminal or a pipe can be both.
fn is_of_log(out: &Path, log: &Path) -> bool {
    let log = if is_dash(log) { Path::new("/dev/stdin") } else { log };
    !is_dash(out) && out.is_file() && is_one_file(out, log)
}

fn found(path: &Path) -> Result<Found, Failure> {
    let read = if is_dash(path) {
        read(io::stdin().lock())
    } else {
        File::open(path).and_then(|file| read(BufReader::new(file)))
    };
    read.map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::CANNOT_OPEN, format!("{}: {error}", show::path(path)))
}

fn told(locks: &[Summary]) -> String {
    let mut rows = Rows::default();
    for lock in locks {
        let name = lock.lock.as_deref().map_or_else(|| "(path not logged)".into(), show::text);
        rows.text(Style::Heading, name);
        let runs = show::count(lock.runs, "run");
        let mut parts = vec![format!("{runs}, {} failed", lock.failed)];
        if lock.unfinished > 0 {
            parts.push(format!("{} unfinished", lock.unfinished));
        }
        parts.extend(
            lock.not_run.iter().map(|not| format!("{} {}", not.times, show::text(&not.outcome))),
        );
        rows.cells(Style::Plain, vec!["  runs".into(), parts.join(", ")]);
        for (what, spread) in [("  waits", &lock.waits_ms), ("  holds", &lock.holds_ms)] {
            if let Some(spread) = spread {
                rows.cells(Style::Plain, vec![what.into(), spread.told()]);
            }
        }
        let skips = lock.skips_in_a_row;
        let style = if skips > 0 { Style::Alarm } else { Style::Plain };
        rows.cells(style, vec!["  skips in a row".into(), skips.to_string()]);
        let success = lock.last_success.as_deref().unwrap_or("none in this log");
        rows.cells(Style::Plain, vec!["  last success".into(), success.into()]);
    }
    rows.render(&Screen::of_output())
}

impl Spread {
    fn told(&self) -> String {
        let show = |ms: f64| duration::show(Duration::from_secs_f64(ms / 1e3));
        format!("p50 {}, p99 {}, max {}", show(self.p50), show(self.p99), show(self.max))
    }
}
