//! `lockmgr lab --json`: the answers with all their evidence (docs/json.md).

use std::path::Path;

use jiff::Timestamp;
use lockmgr::Mechanism;
use serde::Serialize;

use super::command::Asked;
use super::place::Place;
use super::probe::{Expectation, Probe, Step, Verdict};
use super::report::kernel;
use crate::exit::Failure;
use crate::json::{self, PathJson};

/// The document.
#[derive(Serialize)]
pub(super) struct LabJson {
    directory: Option<PathJson>,
    filesystem: Option<Place>,
    kernel: String,
    time: String,
    probes: Vec<ProbeJson>,
    asked: usize,
    unexpected: usize,
}

#[derive(Serialize)]
struct ProbeJson {
    name: &'static str,
    question: &'static str,
    why: &'static str,
    answers: Vec<AnswerJson>,
}

#[derive(Serialize)]
struct AnswerJson {
    mechanism: Option<String>,
    expected: String,
    expected_because: Option<&'static str>,
    /// `null` when it was not asked.
    verdict: Option<Verdict>,
    as_expected: Option<bool>,
    cause: Option<&'static str>,
    errno: Option<String>,
    summary: Option<String>,
    took_ms: Option<f64>,
    steps: Vec<Step>,
}

impl AnswerJson {
    fn of(probe: &Probe, mechanism: Option<Mechanism>) -> Self {
        let expectation = probe.expectation(mechanism);
        let because = match expectation {
            Expectation::NotApplicable(why) => Some(why),
            _ => None,
        };
        Self {
            mechanism: mechanism.map(|mechanism| mechanism.to_string()),
            expected: expectation.to_string(),
            expected_because: because,
            verdict: None,
            as_expected: None,
            cause: None,
            errno: None,
            summary: None,
            took_ms: None,
            steps: Vec::new(),
        }
    }
}

impl LabJson {
    pub(super) fn new(directory: Option<&Path>) -> Self {
        Self {
            directory: directory.map(|path| PathJson::of(Some(path))),
            filesystem: None,
            kernel: kernel(),
            time: format!("{:.0}", Timestamp::now()),
            probes: Vec::new(),
            asked: 0,
            unexpected: 0,
        }
    }

    /// A question that is not asked.
    pub(super) fn list(
        &mut self,
        probe: &Probe,
        subjects: impl Iterator<Item = Option<Mechanism>>,
    ) {
        let answers = subjects.map(|subject| AnswerJson::of(probe, subject)).collect();
        self.push(probe, answers);
    }

    pub(super) fn add(&mut self, probe: &Probe, asked: &[Asked<'_>], place: Option<&Place>) {
        self.filesystem = place.cloned();
        let mut answers = Vec::new();
        for one in asked {
            let answer = &one.answer;
            self.asked += usize::from(answer.verdict != Verdict::NotApplicable);
            self.unexpected += usize::from(!one.is_as_expected());
            answers.push(AnswerJson {
                verdict: Some(answer.verdict),
                as_expected: Some(one.is_as_expected()),
                cause: answer.cause.as_ref().map(super::probe::Cause::name),
                errno: answer.cause.as_ref().and_then(|cause| cause.errno()).map(str::to_owned),
                summary: Some(answer.summary.clone()),
                took_ms: Some(answer.took.as_secs_f64() * 1e3),
                steps: answer.steps.clone(),
                ..AnswerJson::of(probe, one.mechanism)
            });
        }
        self.push(probe, answers);
    }

    fn push(&mut self, probe: &Probe, answers: Vec<AnswerJson>) {
        let Probe { name, question, why, .. } = *probe;
        self.probes.push(ProbeJson { name, question, why, answers });
    }

    pub(super) fn document(&self) -> Result<String, Failure> {
        json::document("lab", self)
    }
}
