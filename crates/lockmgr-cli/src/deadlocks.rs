//! `lockmgr deadlocks`: processes that wait for each other in a circle.

use lockmgr::inspect::{Deadlock, Gaps, LockTable};
use serde::Serialize;

use crate::cli::DeadlocksArgs;
use crate::exit::{self, Failure, Status};
use crate::json::{self, DeadlockJson, GapsJson, Teller};
use crate::say::say;
use crate::show::{self, Rows, Screen, Style};

pub(crate) fn deadlocks(args: &DeadlocksArgs) -> Result<Status, Failure> {
    let table = LockTable::snapshot().map_err(|error| Failure::of_table(&error))?;
    let found = table.deadlocks();
    if args.json {
        show::write(&in_json(&found, &table.gaps)?)?;
    } else {
        show::write(&for_people(&found, &table.gaps))?;
        if let Some(line) = show::gaps(&table.gaps) {
            say(&line);
        }
    }
    Ok(match found.is_empty() {
        false => exit::DEADLOCK,
        true if table.gaps.cut_short => exit::SYSTEM,
        true => exit::OK,
    })
}

fn for_people(found: &[Deadlock], gaps: &Gaps) -> String {
    let mut rows = Rows::default();
    if found.is_empty() {
        rows.text(Style::Plain, format!("no deadlock{}", show::as_far_as_seen(gaps)));
    }
    for deadlock in found {
        if !rows.is_empty() {
            rows.text(Style::Plain, "");
        }
        add(&mut rows, deadlock);
    }
    rows.render(&Screen::of_output())
}

/// A chain that ends where it began.
fn add(rows: &mut Rows, deadlock: &Deadlock) {
    let how = if deadlock.certain { "certain" } else { "possible" };
    let who = match deadlock.links.len() {
        1 => "a process waits for itself".to_owned(),
        count => format!("{count} processes wait for each other"),
    };
    rows.text(Style::Alarm, format!("{how} deadlock: {who}"));
    for link in &deadlock.links {
        let waiter = link.waiter.process.as_ref();
        rows.text(Style::Plain, format!("  {}", waiter.map(show::process).unwrap_or_default()));
        let file = show::file_name(link.path.as_deref(), link.inode);
        let mut lock = format!("{} {}", link.kind, link.mode);
        let bytes = show::bytes(link.range, false);
        if !bytes.is_empty() {
            lock = format!("{lock} {bytes}");
        }
        rows.text(Style::Waits, format!("    waits for {file} ({lock}), held by"));
    }
    if let Some(last) = deadlock.links.last() {
        rows.text(Style::Plain, format!("  pid {}, where it began", last.holder.pid));
    }
}

#[derive(Serialize)]
struct Body {
    deadlocks: Vec<DeadlockJson>,
    gaps: GapsJson,
}

fn in_json(found: &[Deadlock], gaps: &Gaps) -> Result<String, Failure> {
    let mut teller = Teller::default();
    let deadlocks = found.iter().map(|deadlock| teller.deadlock(deadlock)).collect();
    json::document("deadlocks", Body { deadlocks, gaps: gaps.into() })
}
