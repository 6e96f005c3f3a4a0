//! A log as it is read: one line at a time, whatever is in it.
//!
//! The file is not trusted. A line that is no event of ours is counted and passed over: a piece of a line (a
//! full disk, a machine that lost power), a line of another program, one too long to be ours, numbers
//! that cannot be. If an event follows a piece on the same line, it is found by its beginning.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// One event of a log.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(deserialize_with = "time")]
    pub(super) time: Timestamp,
    version: u32,
    pub(super) event: String,
    pub(super) run: String,
    pub(super) pid: u32,
    pub(super) lock: Option<String>,
    pub(super) mode: String,
    pub(super) waited_ms: Option<f64>,
    pub(super) held_ms: Option<f64>,
    pub(super) outcome: Option<String>,
    pub(super) status: Option<u8>,
}

/// What was read.
#[derive(Default)]
pub(super) struct Found {
    /// In the order of the file, which is that of the writes.
    pub(super) entries: Vec<Entry>,
    /// Lines, and pieces of lines, that are no events.
    pub(super) foreign: u64,
}

/// How every event begins. Inside a string the quotes would have backslashes.
const BEGINNING: &[u8] = b"{\"time\":\"";

/// No event is longer.
const LONGEST: usize = 4096;

pub(super) fn read(mut input: impl BufRead) -> io::Result<Found> {
    let mut found = Found::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        // Room for a piece of a line in front of an event, and no more: a file without line breaks must
        // not fill the memory.
        let most = (2 * LONGEST) as u64;
        if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(found);
        }
        let is_whole = line.ends_with(b"\n");
        if !is_whole && line.len() == 2 * LONGEST {
            input.skip_until(b'\n')?;
            found.foreign += 1;
            continue;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        if let Some(entry) = entry(text) {
            found.entries.push(entry);
            continue;
        }
        found.foreign += 1;
        let last = text.windows(BEGINNING.len()).rposition(|window| window == BEGINNING);
        found.entries.extend(last.and_then(|at| entry(&text[at..])));
    }
}

fn time<'a, D: Deserializer<'a>>(from: D) -> Result<Timestamp, D::Error> {
    let text = Cow::<str>::deserialize(from)?;
    text.parse().map_err(D::Error::custom)
}

fn entry(text: &[u8]) -> Option<Entry> {
    if text.len() >= LONGEST || !text.starts_with(BEGINNING) {
        return None;
    }
    let entry: Entry = serde_json::from_slice(text).ok()?;
    let is_sane = |number: Option<f64>| number.is_none_or(|ms| (0.0..1e15).contains(&ms));
    (entry.version == 1 && is_sane(entry.waited_ms) && is_sane(entry.held_ms)).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &str) -> String {
        format!(
            r#"{{"time":"2026-01-01T00:00:00.000Z","version":1,"event":"{event}","run":"1-1","pid":1,"lock":"/l","mode":"exclusive"}}"#
        )
    }

    fn events(text: &[u8]) -> (Vec<String>, u64) {
        let found = read(text).unwrap();
        (found.entries.into_iter().map(|entry| entry.event).collect(), found.foreign)
    }

    #[test]
    fn events_are_found_among_anything() {
        let (a, b) = (line("a"), line("b"));
        assert_eq!(events(format!("{a}\n{b}\n").as_bytes()), (vec!["a".into(), "b".into()], 0));
        // The last line has no end: whoever wrote it may not have finished, but it is complete.
        assert_eq!(events(format!("{a}\n\n{b}").as_bytes()).0.len(), 2);
        assert_eq!(events(format!("{}{b}\n", &a[..40]).as_bytes()), (vec!["b".into()], 1));
        assert_eq!(events(format!("{}\n{b}", &a[..40]).as_bytes()), (vec!["b".into()], 1));
        for foreign in [
            &b"hello"[..],
            b"{}",
            b"\xff\xfe\0",
            b"[1]",
            br#"{"time":"x","version":1}"#,
            b"{\"time\":\"",
        ] {
            let text = [foreign, b"\n", a.as_bytes(), b"\n"].concat();
            assert_eq!(events(&text), (vec!["a".into()], 1), "{foreign:?}");
        }
        let long = [&vec![b'x'; 100_000][..], b"\n", a.as_bytes()].concat();
        assert_eq!(events(&long), (vec!["a".into()], 1));
    }

    #[test]
    fn numbers_that_cannot_be_are_not_believed() {
        for bad in ["-1", "1e300", "\"1\""] {
            let text = line("a").replace("\"pid\"", &format!("\"held_ms\":{bad},\"pid\""));
            assert_eq!(events(text.as_bytes()), (vec![], 1), "{bad}");
        }
        let later = line("a").replace("\"version\":1", "\"version\":2");
        assert_eq!(events(later.as_bytes()), (vec![], 1));
    }
}
