//! What a probe is, and what an answer is.

use std::fmt;
use std::time::Duration;

use lockmgr::Mechanism;
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::scene::{Found, Scene, Trouble};

/// One question, and everything about it. To add a probe is to add one of these to a list in `probes`.
pub(crate) struct Probe {
    /// A word of letters and hyphens; the user types it.
    pub(crate) name: &'static str,
    /// It can be answered with yes or no.
    pub(crate) question: &'static str,
    /// What a program gains or loses by the answer: one or two sentences.
    pub(crate) why: &'static str,
    pub(crate) expected: Expected,
    /// Plays the scene, and says what it found.
    pub(crate) run: fn(&Scene) -> Result<Found, Trouble>,
}

/// What a local filesystem of Linux is expected to answer.
#[derive(Clone, Copy)]
pub(crate) enum Expected {
    /// The question is about a mechanism, and asked of each.
    Locks { flock: Expectation, ofd: Expectation, posix: Expectation },
    /// The question is about names of files, and asked once.
    Names(Expectation),
}

impl Expected {
    pub(crate) const fn of(flock: Expectation, ofd: Expectation, posix: Expectation) -> Self {
        Self::Locks { flock, ofd, posix }
    }

    /// The same of all three.
    pub(crate) const fn all(all: Expectation) -> Self {
        Self::Locks { flock: all, ofd: all, posix: all }
    }

    /// Of the two that have ranges.
    pub(crate) const fn ranges(records: Expectation) -> Self {
        Self::of(Expectation::NotApplicable("flock has no ranges"), records, records)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expectation {
    Yes,
    No,
    /// Local filesystems differ.
    Either,
    /// The question makes no sense here; why.
    NotApplicable(&'static str),
}

impl Expectation {
    /// Whether the answer is as expected.
    pub(crate) fn is_met_by(self, verdict: Verdict) -> bool {
        match self {
            Expectation::Yes => verdict == Verdict::Yes,
            Expectation::No => verdict == Verdict::No,
            Expectation::Either => matches!(verdict, Verdict::Yes | Verdict::No),
            Expectation::NotApplicable(_) => verdict == Verdict::NotApplicable,
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Expectation::Yes => "yes",
            Expectation::No => "no",
            Expectation::Either => "yes or no",
            Expectation::NotApplicable(_) => "not applicable",
        })
    }
}

impl Probe {
    /// The columns of the matrix in which it stands: one for each mechanism, or the one of names.
    pub(crate) fn subjects(&self) -> &'static [Option<Mechanism>] {
        match self.expected {
            Expected::Locks { .. } => {
                &[Some(Mechanism::Flock), Some(Mechanism::Ofd), Some(Mechanism::Posix)]
            }
            Expected::Names(_) => &[None],
        }
    }

    pub(crate) fn expectation(&self, mechanism: Option<Mechanism>) -> Expectation {
        match (self.expected, mechanism) {
            (Expected::Names(expectation), _) => expectation,
            (Expected::Locks { ofd, .. }, Some(Mechanism::Ofd)) => ofd,
            (Expected::Locks { posix, .. }, Some(Mechanism::Posix)) => posix,
            (Expected::Locks { flock, .. }, _) => flock,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Verdict {
    #[serde(rename = "yes")]
    Yes,
    #[serde(rename = "no")]
    No,
    /// The question could not be answered.
    #[serde(rename = "error")]
    Error,
    #[serde(rename = "not applicable")]
    NotApplicable,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Yes => "yes",
            Verdict::No => "no",
            Verdict::Error => "error",
            Verdict::NotApplicable => "not applicable",
        })
    }
}

/// Why there is no yes or no.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Cause {
    /// A call failed with an error that is no answer to the question: its name (`ENOLCK`).
    Call { errno: String },
    /// A call has not come back when the time was over; it could be ended.
    Hangs,
    /// The same, and not even SIGKILL has ended it: the filesystem keeps the process.
    Stuck,
    /// No scratch directory can be made there: the name of the error.
    Scratch { errno: String },
    /// The lab itself went wrong.
    Lab,
}

/// What came of a probe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    /// With a verdict of "error".
    pub(crate) cause: Option<Cause>,
    /// One sentence.
    pub(crate) summary: String,
    /// What was done, by whom, and what came back, in order.
    pub(crate) steps: Vec<Step>,
    pub(crate) took: Duration,
    /// The filesystem that was asked; not known if it never got so far.
    pub(crate) place: Option<Place>,
}

impl Cause {
    /// As JSON has it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Cause::Call { .. } => "call",
            Cause::Hangs => "hangs",
            Cause::Stuck => "stuck",
            Cause::Scratch { .. } => "scratch",
            Cause::Lab => "lab",
        }
    }

    pub(crate) fn errno(&self) -> Option<&str> {
        match self {
            Cause::Call { errno } | Cause::Scratch { errno } => Some(errno),
            _ => None,
        }
    }
}

impl Answer {
    pub(crate) fn not_applicable(why: &str) -> Self {
        Self {
            verdict: Verdict::NotApplicable,
            cause: None,
            summary: why.to_owned(),
            steps: Vec::new(),
            took: Duration::ZERO,
            place: None,
        }
    }
}

/// One line of the evidence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// `A`, `B`, `A/t1` (a thread of A), `A'` (a child of A), or `lab`.
    pub(crate) who: String,
    /// The call in C, or what else was done.
    pub(crate) what: String,
    /// What came back: `0`, `-1 EAGAIN`, or `sleeps`; nothing for what returns nothing.
    pub(crate) outcome: Option<String>,
}
