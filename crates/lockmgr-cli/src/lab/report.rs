//! The matrix: a line for each question as soon as it is answered, and what is not as expected at the end.

use std::fmt::Write;
use std::time::Instant;

use super::command::{Asked, cell, column};
use super::json::LabJson;
use super::place::Place;
use super::probe::{Expectation, Probe, Verdict};
use super::story;
use crate::cli::LabArgs;
use crate::exit::{self, Failure, Status};
use crate::show::{self, Screen, Style};

/// Wide enough for `error!`.
const CELL: usize = 7;

pub(super) struct Report<'a> {
    args: &'a LabArgs,
    screen: Screen,
    name_width: usize,
    since: Instant,
    /// The filesystem, once it is known, and whether it has been said.
    place: Option<Place>,
    /// The columns of the heading that was printed last.
    heading: Option<Vec<String>>,
    asked: usize,
    probes: usize,
    unexpected: Vec<String>,
    json: LabJson,
}

impl<'a> Report<'a> {
    pub(super) fn new(args: &'a LabArgs, chosen: &[&Probe]) -> Self {
        Self {
            args,
            screen: Screen::of_output(),
            name_width: chosen.iter().map(|probe| probe.name.len()).max().unwrap_or(0),
            since: Instant::now(),
            place: None,
            heading: None,
            asked: 0,
            probes: 0,
            unexpected: Vec::new(),
            json: LabJson::new(Some(&args.dir)),
        }
    }

    /// Takes the answers to one question; says whether somebody reads it still.
    pub(super) fn add(&mut self, answers: &[Asked<'_>]) -> Result<bool, Failure> {
        let Some(first) = answers.first() else { return Ok(true) };
        self.probes += 1;
        let probe = first.probe;
        let mut text = String::new();
        if self.place.is_none() {
            self.place = answers.iter().find_map(|asked| asked.answer.place.clone());
            if let Some(place) = &self.place {
                let line = format!("{}, {}", told(place), kernel());
                let _ = writeln!(text, "{}\n", self.screen.paint(Style::Heading, &line));
            }
        }
        for asked in answers {
            self.asked += usize::from(asked.answer.verdict != Verdict::NotApplicable);
            if !asked.is_as_expected() {
                self.unexpected.push(unexpected(asked));
            }
        }
        if self.args.json {
            self.json.add(probe, answers, self.place.as_ref());
            return Ok(true);
        }
        if self.args.explain {
            text += &story::story(answers, &self.screen);
        } else {
            text += &self.heading(answers);
            text += &self.row(probe, answers);
        }
        show::write(&text)
    }

    /// The columns' names, where they change.
    fn heading(&mut self, answers: &[Asked<'_>]) -> String {
        let columns: Vec<String> = answers.iter().map(|asked| column(asked.mechanism)).collect();
        if self.heading.as_ref() == Some(&columns) {
            return String::new();
        }
        let mut line = " ".repeat(self.name_width);
        for column in &columns {
            let _ = write!(line, "  {column:CELL$}");
        }
        let gap = if self.heading.is_some() { "\n" } else { "" };
        self.heading = Some(columns);
        format!("{gap}{}\n", self.screen.paint(Style::Heading, line.trim_end()))
    }

    fn row(&self, probe: &Probe, answers: &[Asked<'_>]) -> String {
        let mut line = format!("{:width$}", probe.name, width = self.name_width);
        let mut shown = line.len();
        for asked in answers {
            let good = asked.is_as_expected();
            let style = match asked.answer.verdict {
                _ if !good => Style::Alarm,
                Verdict::NotApplicable => Style::Dim,
                _ => Style::Plain,
            };
            let word = format!("{}{}", cell(asked.answer.verdict), if good { "" } else { "!" });
            // Painted without the spaces, and counted without the paint.
            let space = " ".repeat(CELL.saturating_sub(word.len()));
            let _ = write!(line, "  {}{space}", self.screen.paint(style, &word));
            shown += 2 + CELL;
        }
        let room = self.screen.width.map_or(usize::MAX, |width| width.saturating_sub(shown + 2));
        let question = cut(probe.question, room);
        format!("{line}  {}\n", self.screen.paint(Style::Dim, &question))
    }

    pub(super) fn finish(self) -> Result<Status, Failure> {
        let status = if self.unexpected.is_empty() { exit::OK } else { exit::UNEXPECTED };
        if self.args.json {
            show::write(&self.json.document()?)?;
            return Ok(status);
        }
        let mut text = String::from("\n");
        if !self.unexpected.is_empty() {
            let _ = writeln!(text, "{}", self.screen.paint(Style::Alarm, "Not as expected:"));
            for line in &self.unexpected {
                let _ = writeln!(text, "  {line}");
            }
            text.push('\n');
        }
        let took = crate::duration::show(self.since.elapsed());
        let questions = show::count(self.probes, "question");
        let answers = show::count(self.asked, "answer");
        let end = match self.unexpected.len() {
            0 => "all as expected".to_owned(),
            some => format!("{some} not as expected"),
        };
        let _ = writeln!(text, "{questions}, {answers}, {end} ({took})");
        show::write(&text)?;
        Ok(status)
    }
}

/// A filesystem in a line.
fn told(place: &Place) -> String {
    let Place { kind, source, mount_point, options } = place;
    show::text(&format!("{kind} on {mount_point} ({source}; {options})"))
}

/// `Linux 6.18.0 x86_64`
pub(super) fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", show::text(release.trim()), std::env::consts::ARCH)
}

/// `posix, two-opens: expected no, and it is yes: A gets it once more`
fn unexpected(asked: &Asked<'_>) -> String {
    let expected = match asked.expectation() {
        Expectation::NotApplicable(_) => "no question".to_owned(),
        other => other.to_string(),
    };
    let which = match asked.mechanism {
        Some(mechanism) => format!("{}, {mechanism}", asked.probe.name),
        None => asked.probe.name.to_owned(),
    };
    let is = match asked.answer.verdict {
        Verdict::Error => "there is no answer".to_owned(),
        verdict => format!("it is {verdict}"),
    };
    show::text(&format!("{which}: expected {expected}, and {is}: {}", asked.answer.summary))
}

/// At most so many characters of a text that has none but narrow ones.
fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use lockmgr::Mechanism;

    use super::*;
    use crate::lab::probe::{Answer, Cause, Expected};

    fn probe(expected: Expected) -> Probe {
        Probe {
            name: "dup",
            question: "Is it so?",
            why: "It matters.",
            expected,
            run: |_| unreachable!("it is not asked"),
        }
    }

    fn asked(probe: &Probe, verdict: Verdict, cause: Option<Cause>) -> Asked<'_> {
        let answer =
            Answer { verdict, cause, summary: "A\x1b has it".into(), ..Answer::not_applicable("") };
        Asked { probe, mechanism: Some(Mechanism::Ofd), answer }
    }

    #[test]
    fn a_wrong_expectation_is_told_and_a_met_one_is_not() {
        use Expectation::{Either, No, NotApplicable, Yes};
        let verdicts = [Verdict::Yes, Verdict::No, Verdict::Error, Verdict::NotApplicable];
        for (expectation, met) in [
            (Yes, [true, false, false, false]),
            (No, [false, true, false, false]),
            (Either, [true, true, false, false]),
            (NotApplicable("no ranges"), [false, false, false, true]),
        ] {
            for (verdict, met) in verdicts.into_iter().zip(met) {
                // The other two mechanisms are expected to answer otherwise, and are not asked.
                let probe = probe(Expected::of(NotApplicable(""), expectation, NotApplicable("")));
                let asked = asked(&probe, verdict, None);
                assert_eq!(asked.is_as_expected(), met, "{expectation:?} {verdict:?}");
            }
        }
    }

    #[test]
    fn the_line_says_what_was_expected_and_what_is() {
        let probe = probe(Expected::all(Expectation::No));
        let line = unexpected(&asked(&probe, Verdict::Yes, None));
        assert_eq!(line, "dup, ofd: expected no, and it is yes: A\\u{1b} has it");
        let line = unexpected(&asked(&probe, Verdict::Error, Some(Cause::Hangs)));
        assert_eq!(line, "dup, ofd: expected no, and there is no answer: A\\u{1b} has it");
    }

    #[test]
    fn long_questions_are_cut() {
        assert_eq!(cut("Is it so?", 9), "Is it so?");
        assert_eq!(cut("Is it so?", 5), "Is i…");
        assert_eq!(cut("Is it so?", 0), "…");
    }
}
