//! `lockmgr lab --list`: the questions, and what is expected.

use std::fmt::Write;

use lockmgr::Mechanism;

use super::command::{column, subjects};
use super::json::LabJson;
use super::probe::{Expectation, Probe};
use super::story::wrapped;
use crate::exit::{self, Failure, Status};
use crate::show::{self, Screen, Style};

/// Lines of text are not longer than this, however wide the screen is.
const WIDTH: usize = 100;

pub(super) fn list(
    chosen: &[&Probe],
    only: &[Mechanism],
    as_json: bool,
) -> Result<Status, Failure> {
    if as_json {
        let mut json = LabJson::new(None);
        for probe in chosen.iter().filter(|probe| subjects(probe, only).next().is_some()) {
            json.list(probe, subjects(probe, only));
        }
        show::write(&json.document()?)?;
        return Ok(exit::OK);
    }
    let screen = Screen::of_output();
    let width = screen.width.unwrap_or(WIDTH).min(WIDTH);
    let mut text = String::new();
    for probe in chosen.iter().filter(|probe| subjects(probe, only).next().is_some()) {
        let expected: Vec<String> = subjects(probe, only)
            .map(|subject| format!("{} {}", column(subject), word(probe.expectation(subject))))
            .collect();
        let heading = screen.paint(Style::Heading, probe.name);
        let _ = writeln!(text, "{heading}  {}", expected.join(", "));
        let _ = writeln!(text, "  {}", probe.question);
        for line in wrapped(probe.why, width.saturating_sub(2)) {
            let _ = writeln!(text, "  {}", screen.paint(Style::Dim, &line));
        }
        text.push('\n');
    }
    show::write(text.trim_end_matches('\n'))?;
    show::write("\n")?;
    Ok(exit::OK)
}

fn word(expectation: Expectation) -> String {
    match expectation {
        Expectation::NotApplicable(_) => "-".to_owned(),
        other => other.to_string(),
    }
}
