//! What a log comes to: runs, put together from their events, and a summary for each lock.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use super::read::Entry;

/// One `lockmgr run`, as far as the log tells.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pid: u32,
    /// `None` where the path was too long for the log.
    pub(super) lock: Option<String>,
    pub(super) mode: String,
    /// When its first event was written; the wait began before that if it did not wait for long.
    pub(super) first: Timestamp,
    pub(super) waiting: Option<Timestamp>,
    pub(super) acquired: Option<Timestamp>,
    pub(super) end: Option<Timestamp>,
    pub(super) waited_ms: Option<f64>,
    pub(super) held_ms: Option<f64>,
    pub(super) outcome: Option<String>,
    pub(super) status: Option<u8>,
}

/// The runs, in the order of their first events.
pub(super) fn runs(entries: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut known: HashMap<(&str, u32), usize> = HashMap::new();
    for entry in entries {
        let index = *known.entry((&entry.run, entry.pid)).or_insert_with(|| {
            runs.push(Run::of(entry));
            runs.len() - 1
        });
        runs[index].add(entry);
    }
    runs
}

impl Run {
    fn of(entry: &Entry) -> Self {
        Self {
            pid: entry.pid,
            lock: entry.lock.clone(),
            mode: entry.mode.clone(),
            first: entry.time,
            waiting: None,
            acquired: None,
            end: None,
            waited_ms: None,
            held_ms: None,
            outcome: None,
            status: None,
        }
    }

    fn add(&mut self, entry: &Entry) {
        self.waited_ms = entry.waited_ms.or(self.waited_ms);
        self.held_ms = entry.held_ms.or(self.held_ms);
        match entry.event.as_str() {
            "waiting" => self.waiting = Some(entry.time),
            "acquired" => self.acquired = Some(entry.time),
            // What happens in the middle of a hold, and what later versions will tell.
            _ if entry.outcome.is_none() => {}
            _ => {
                self.end = Some(entry.time);
                self.outcome.clone_from(&entry.outcome);
                self.status = entry.status;
            }
        }
    }

    /// The command was run to its end, and the end was good.
    pub(super) fn is_success(&self) -> bool {
        self.status == Some(0) && matches!(self.outcome.as_deref(), Some("ran" | "replaced"))
    }
}

/// How the lengths of time are spread, in milliseconds; each is one that was measured.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    fn of(mut lengths: Vec<f64>) -> Option<Self> {
        lengths.sort_by(f64::total_cmp);
        // The smallest that so many in a hundred do not exceed.
        let nearest =
            |percent: usize| lengths.get((lengths.len() * percent).div_ceil(100).max(1) - 1);
        Some(Self { p50: *nearest(50)?, p99: *nearest(99)?, max: *lengths.last()? })
    }
}

/// What is known of one lock.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// `null` where the path was too long for the log.
    pub(super) lock: Option<String>,
    /// The lock was had and released.
    pub(super) runs: usize,
    /// Of these, how many ended with another status than 0.
    pub(super) failed: usize,
    /// The lock was had, and the log does not say that it was released.
    pub(super) unfinished: usize,
    /// The lock was not had, by the reason.
    pub(super) not_run: Vec<NotRun>,
    pub(super) waits_ms: Option<Spread>,
    pub(super) holds_ms: Option<Spread>,
    /// How many times, up to the end of the log, the command was not run.
    pub(super) skips_in_a_row: usize,
    pub(super) last_success: Option<String>,
}

/// How often the lock was not had for one reason.
#[derive(Debug, Serialize)]
pub(super) struct NotRun {
    pub(super) outcome: String,
    pub(super) times: usize,
}

/// A summary for each lock, by its path.
pub(super) fn summaries(runs: &[Run]) -> Vec<Summary> {
    let mut by_lock: BTreeMap<Option<&str>, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_lock.entry(run.lock.as_deref()).or_default().push(run);
    }
    by_lock.into_iter().map(|(lock, runs)| summary(lock, &runs)).collect()
}

fn summary(lock: Option<&str>, runs: &[&Run]) -> Summary {
    let had: Vec<&&Run> = runs.iter().filter(|run| run.acquired.is_some()).collect();
    let done: Vec<&&&Run> = had.iter().filter(|run| run.end.is_some()).collect();
    let mut not_run: BTreeMap<String, usize> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.acquired.is_none()) {
        // A wait without an end is still on, or its lockmgr was killed.
        let reason = run.outcome.as_deref().unwrap_or("waiting");
        *not_run.entry(reason.to_owned()).or_default() += 1;
    }
    // By when it was known, which is not the order in which they began.
    let mut by_end: Vec<(Timestamp, bool)> = runs
        .iter()
        .filter_map(|run| match (run.acquired, run.end) {
            (Some(acquired), _) => Some((acquired, true)),
            (None, Some(end)) => Some((end, false)),
            (None, None) => None,
        })
        .collect();
    by_end.sort();
    let last_success = runs.iter().filter(|run| run.is_success()).filter_map(|run| run.end).max();
    Summary {
        lock: lock.map(str::to_owned),
        runs: done.len(),
        failed: done.iter().filter(|run| !run.is_success()).count(),
        unfinished: had.len() - done.len(),
        not_run: not_run.into_iter().map(|(outcome, times)| NotRun { outcome, times }).collect(),
        waits_ms: Spread::of(had.iter().filter_map(|run| run.waited_ms).collect()),
        holds_ms: Spread::of(done.iter().filter_map(|run| run.held_ms).collect()),
        skips_in_a_row: by_end.iter().rev().take_while(|(_, ran)| !ran).count(),
        last_success: last_success.map(|time| format!("{time:.3}")),
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn percentiles_are_measured_values() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![3.0]), Some(Spread { p50: 3.0, p99: 3.0, max: 3.0 }));
        let many = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Spread::of(many), Some(Spread { p50: 100.0, p99: 198.0, max: 200.0 }));
    }
}
