//! What happened in a demo, in order, and what is wrong with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::show::{self, Style};

/// Something that a worker did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event {
    /// Nanoseconds of the monotonic clock: for the picture, not for the order.
    pub(super) at: u64,
    /// Counted from 1.
    pub(super) worker: u32,
    pub(super) deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Deed {
    /// It wants to go in.
    Asks,
    Enters {
        /// Whether a worker of another demo is inside; `None` where that cannot be found out.
        others: Option<bool>,
    },
    Leaves,
}

/// The events of one performance, and who was inside at each.
#[derive(Debug)]
pub(super) struct Story {
    locked: bool,
    workers: u32,
    /// With those who were inside when it happened.
    events: Vec<(Event, Vec<u32>)>,
    inside: Vec<u32>,
}

impl Story {
    pub(super) fn new(locked: bool, workers: u32) -> Self {
        Self { locked, workers, events: Vec::new(), inside: Vec::new() }
    }

    /// Adds what happened next; returns how it is told, if it is.
    pub(super) fn add(&mut self, event: Event) -> Option<(Style, String)> {
        let worker = event.worker;
        let before = self.inside.clone();
        let told = match event.deed {
            Deed::Asks => None,
            Deed::Enters { others } => {
                self.inside.push(worker);
                let told = complaint(&before, others);
                let style = if told.is_empty() { Style::Plain } else { Style::Alarm };
                Some((style, format!("+[{worker}]{told}")))
            }
            Deed::Leaves => {
                self.inside.retain(|other| *other != worker);
                Some((Style::Plain, format!("-[{worker}]")))
            }
        };
        self.events.push((event, before));
        told
    }

    /// Those who are inside.
    pub(super) fn inside(&self) -> &[u32] {
        &self.inside
    }

    /// Takes note of a worker that has ended, or was ended, inside; returns how it is told.
    pub(super) fn lose(&mut self, worker: u32) -> String {
        self.inside.retain(|other| *other != worker);
        format!("-[{worker}]  its process has ended inside")
    }

    pub(super) fn locked(&self) -> bool {
        self.locked
    }

    pub(super) fn workers(&self) -> u32 {
        self.workers
    }

    pub(super) fn visits(&self) -> usize {
        self.events.iter().filter(|(event, _)| matches!(event.deed, Deed::Enters { .. })).count()
    }

    /// How often somebody entered while another was inside.
    pub(super) fn overlaps(&self) -> usize {
        let overlaps = |(event, before): &&(Event, Vec<u32>)| match event.deed {
            Deed::Enters { others } => !before.is_empty() || others == Some(true),
            Deed::Asks | Deed::Leaves => false,
        };
        self.events.iter().filter(overlaps).count()
    }

    /// The last line.
    pub(super) fn summary(&self) -> String {
        let visits = show::count(self.visits(), "visit");
        match (self.overlaps(), self.locked) {
            (0, _) => format!("{visits}, 0 overlaps: each was alone inside"),
            (count, locked) => {
                let overlaps = show::count(count, "overlap");
                let much = if locked { "; this lock keeps nobody out" } else { "" };
                format!("{visits}, {overlaps}: somebody entered while another was inside{much}")
            }
        }
    }

    /// When it happened, counted from the first event; what; and who was inside.
    pub(super) fn told(&self) -> impl Iterator<Item = ((Duration, &Event), &[u32])> {
        let begin = self.events.iter().map(|(event, _)| event.at).min().unwrap_or(0);
        self.events.iter().map(move |(event, inside)| {
            ((Duration::from_nanos(event.at - begin), event), inside.as_slice())
        })
    }
}

fn complaint(inside: &[u32], others: Option<bool>) -> String {
    let mut names: Vec<String> = inside.iter().map(|worker| format!("[{worker}]")).collect();
    if others == Some(true) {
        names.push("a worker of another demo".into());
    }
    match names.as_slice() {
        [] => String::new(),
        [one] => format!("  overlap: {one} is inside"),
        [first @ .., last] => format!("  overlap: {} and {last} are inside", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(deeds: &[(u32, Deed)]) -> (Story, Vec<String>) {
        let mut story = Story::new(false, 3);
        let told = (0..).zip(deeds).filter_map(|(at, (worker, deed))| {
            story.add(Event { at, worker: *worker, deed: *deed }).map(|(_, text)| text)
        });
        let told = told.collect();
        (story, told)
    }

    const IN: Deed = Deed::Enters { others: Some(false) };
    const OUT: Deed = Deed::Leaves;

    #[test]
    fn pairs_do_not_overlap() {
        let (story, told) = story(&[(1, Deed::Asks), (1, IN), (2, Deed::Asks), (1, OUT), (2, IN)]);
        assert_eq!(told, ["+[1]", "-[1]", "+[2]"]);
        assert_eq!((story.visits(), story.overlaps()), (2, 0));
        assert!(story.summary().contains("0 overlaps"), "{}", story.summary());
    }

    #[test]
    fn whoever_enters_beside_another_overlaps() {
        let (story, told) = story(&[(1, IN), (2, IN), (3, IN), (1, OUT), (2, OUT), (2, IN)]);
        assert_eq!(told[1], "+[2]  overlap: [1] is inside");
        assert_eq!(told[2], "+[3]  overlap: [1] and [2] are inside");
        assert_eq!((story.visits(), story.overlaps()), (4, 3));
    }

    #[test]
    fn whoever_has_ended_inside_is_not_there_any_more() {
        let (mut story, _) = story(&[(2, IN)]);
        assert_eq!(story.inside(), [2]);
        assert!(story.lose(2).starts_with("-[2] "));
        assert_eq!(story.add(Event { at: 1, worker: 3, deed: IN }).unwrap().1, "+[3]");
        assert_eq!(story.overlaps(), 0);
    }

    #[test]
    fn those_of_another_demo_count() {
        let (story, told) = story(&[(1, Deed::Enters { others: Some(true) })]);
        assert_eq!(told, ["+[1]  overlap: a worker of another demo is inside"]);
        assert_eq!(story.overlaps(), 1);
        let (story, _) = self::story(&[(1, Deed::Enters { others: None })]);
        assert_eq!(story.overlaps(), 0);
    }
}
