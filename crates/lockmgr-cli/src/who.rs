//! `lockmgr who`: who holds a lock, and who waits for it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use lockmgr::inspect::{Gaps, LockTable, LockedFile, Record, Standing};
use serde::Serialize;

use crate::cli::WhoArgs;
use crate::duration;
use crate::exit::{self, Failure, Status};
use crate::json::{self, FileJson, GapsJson, PathJson, RecordJson, Teller};
use crate::look::{is_a_lock_proper, look_at};
use crate::path_of_lock;
use crate::say::say;
use crate::show::{self, Rows, Screen, Style};

/// What was found of one lock.
struct Found {
    path: PathBuf,
    exists: bool,
    /// What carries the lock; without one, the lock is free.
    file: Option<LockedFile>,
    gaps: Gaps,
    /// What the holder has written into the lock file, if it is believed.
    record: Option<Record>,
}

impl Found {
    fn look(path: PathBuf, all: bool) -> Result<Self, Failure> {
        let table = look_at(&path, all)?;
        let exists = table.is_some();
        let LockTable { files, gaps, .. } = table.unwrap_or_default();
        let file = files.into_iter().next();
        let record = file.as_ref().and_then(LockedFile::record);
        Ok(Self { path, exists, file, gaps, record })
    }

    /// A gate is had while one queues, and a lease is no lock.
    fn is_held(&self) -> bool {
        self.file.iter().flat_map(|file| &file.locks).any(is_a_lock_proper)
    }
}

pub(crate) fn who(args: &WhoArgs) -> Result<Status, Failure> {
    let mut found = Vec::new();
    for lock in &args.locks {
        found.push(Found::look(path_of_lock(lock, args.system)?, args.all)?);
    }
    let text = if args.json { in_json(&found)? } else { for_people(&found) };
    show::write(&text)?;
    if !args.json {
        tell_gaps(&found);
    }
    Ok(if found.iter().any(Found::is_held) {
        exit::OK
    } else if found.iter().any(|one| one.gaps.cut_short) {
        exit::SYSTEM
    } else {
        exit::NOT_LOCKED
    })
}

fn for_people(found: &[Found]) -> String {
    let mut rows = Rows::default();
    let mut legend = BTreeSet::new();
    for one in found {
        if !rows.is_empty() {
            rows.text(Style::Plain, "");
        }
        // Others may have locked the file by way of the link.
        let link = std::fs::read_link(&one.path).ok();
        let link = link.map(|target| format!(" -> {}", show::path(&target)));
        let path = show::path(&one.path) + &link.unwrap_or_default();
        match &one.file {
            None if one.exists => rows.text(Style::Plain, format!("{path}: free")),
            None => rows.text(Style::Plain, format!("{path}: free (there is no such file)")),
            Some(file) => {
                let waiters = file.waiting();
                let state = match (one.is_held(), waiters) {
                    (false, _) => "free, but",
                    (true, 0) => "held",
                    (true, _) => &format!("held, {}", show::count(waiters, "waiter")),
                };
                legend.append(&mut show::add_file(&mut rows, file, &format!("{path}: {state}")));
                if let Some(record) = &one.record {
                    rows.text(Style::Plain, told(record));
                }
            }
        }
    }
    if !legend.is_empty() {
        rows.text(Style::Plain, "");
    }
    for line in legend {
        rows.text(Style::Dim, line);
    }
    rows.render(&Screen::of_output())
}

/// What the holder says of itself.
fn told(record: &Record) -> String {
    let age = record.since.elapsed().unwrap_or_default();
    let command = show::text(&record.command.join(" "));
    let note = record.note.as_ref().map(|note| format!("; its note: {}", show::text(note)));
    format!("  the holder says: for {}, {command}{}", duration::show(age), note.unwrap_or_default())
}

/// Says why somebody has no name, where somebody has none.
fn tell_gaps(found: &[Found]) {
    let lacks_names = |one: &&Found| {
        one.file.iter().flat_map(|file| &file.locks).any(|lock| {
            lock.holders
                .iter()
                .any(|holder| holder.process.is_none() || holder.standing == Standing::NotPermitted)
                || lock.waiters.iter().any(|waiter| waiter.process.is_none())
        })
    };
    if let Some(one) = found.iter().find(lacks_names)
        && let Some(line) = show::gaps(&one.gaps)
    {
        say(&line);
    }
}

#[derive(Serialize)]
struct Body {
    locks: Vec<FoundJson>,
}

#[derive(Serialize)]
struct FoundJson {
    #[serde(flatten)]
    path: PathJson,
    exists: bool,
    held: bool,
    file: Option<FileJson>,
    gaps: GapsJson,
    record: Option<RecordJson>,
}

fn in_json(found: &[Found]) -> Result<String, Failure> {
    let mut teller = Teller::default();
    let tell = |one: &Found| FoundJson {
        path: PathJson::of(Some(&one.path)),
        exists: one.exists,
        held: one.is_held(),
        file: one.file.as_ref().map(|file| teller.file(file)),
        gaps: (&one.gaps).into(),
        record: one.record.as_ref().map(RecordJson::from),
    };
    json::document("who", Body { locks: found.iter().map(tell).collect() })
}
