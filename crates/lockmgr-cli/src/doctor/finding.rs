//! What the doctor finds, and what it comes to.

use lockmgr::Mechanism;
use serde::{Serialize, Serializer};

use crate::exit::{self, Status};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    /// Good to know.
    Note,
    /// Locks work, but not as on a local filesystem.
    Limit,
    /// Locks are not to be relied on.
    Fatal,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// A word for programs.
    pub(super) code: &'static str,
    /// Which ones it is about; none for all that is not about a mechanism.
    #[serde(serialize_with = "names")]
    pub(super) mechanisms: Vec<Mechanism>,
    /// For people: what it is, and what to do.
    pub(super) text: String,
}

impl Finding {
    pub(super) fn note(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Note, code, text.into())
    }

    pub(super) fn limit(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Limit, code, text.into())
    }

    pub(super) fn fatal(code: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Fatal, code, text.into())
    }

    fn new(level: Level, code: &'static str, text: String) -> Self {
        Self { level, code, mechanisms: Vec::new(), text }
    }

    /// As people read it.
    pub(super) fn told(&self) -> String {
        let names: Vec<_> = self.mechanisms.iter().map(ToString::to_string).collect();
        let about = if names.is_empty() { String::new() } else { names.join(", ") + ": " };
        about + &self.text
    }
}

/// Adds what was found of a mechanism to what was found of others, if it is the same.
pub(super) fn add(findings: &mut Vec<Finding>, finding: Finding) {
    let same = |other: &&mut Finding| {
        (other.level, other.code, &other.text) == (finding.level, finding.code, &finding.text)
    };
    match findings.iter_mut().find(same) {
        Some(other) => other.mechanisms.extend(finding.mechanisms),
        None => findings.push(finding),
    }
}

fn names<S: Serializer>(mechanisms: &[Mechanism], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(mechanisms.iter().map(ToString::to_string))
}

/// May locks be trusted?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Fine,
    Limits,
    Unusable,
}

impl Verdict {
    /// What all of it comes to.
    pub(super) fn of(findings: &[Finding]) -> Self {
        match findings.iter().map(|finding| finding.level).max() {
            None | Some(Level::Note) => Verdict::Fine,
            Some(Level::Limit) => Verdict::Limits,
            Some(Level::Fatal) => Verdict::Unusable,
        }
    }

    pub(super) fn status(self) -> Status {
        match self {
            Verdict::Fine => exit::OK,
            Verdict::Limits => exit::LIMITS,
            Verdict::Unusable => exit::UNUSABLE,
        }
    }

    /// In one sentence.
    pub(super) fn told(self, findings: &[Finding]) -> String {
        let codes = |level: Level| {
            let mut named: Vec<_> = findings
                .iter()
                .filter(|finding| finding.level == level)
                .map(|finding| finding.code)
                .collect();
            named.dedup();
            named.join(", ")
        };
        match self {
            Verdict::Fine => "fine: locks can be trusted here".to_owned(),
            Verdict::Limits if findings.iter().any(|finding| finding.code == "not-tried") => {
                format!(
                    "locks were not tried out; as far as can be seen they work here, with limits: {}",
                    codes(Level::Limit)
                )
            }
            Verdict::Limits => format!("locks work here, with limits: {}", codes(Level::Limit)),
            Verdict::Unusable => format!("do not rely on locks here: {}", codes(Level::Fatal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_is_the_verdict() {
        let note = Finding::note("a", "");
        let limit = Finding::limit("b", "");
        let fatal = Finding::fatal("c", "");
        for (findings, verdict, status, told) in [
            (vec![], Verdict::Fine, 0, "fine"),
            (vec![note.clone()], Verdict::Fine, 0, "fine"),
            (vec![limit.clone(), note.clone()], Verdict::Limits, 1, "limits: b"),
            (vec![limit, fatal, note], Verdict::Unusable, 2, "here: c"),
        ] {
            assert_eq!(Verdict::of(&findings), verdict);
            assert_eq!(verdict.status(), status);
            assert!(verdict.told(&findings).contains(told));
        }
    }
}
