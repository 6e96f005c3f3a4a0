//! `--explain`: what was done, call by call, and what came back.

use std::fmt::Write;

use super::command::{Asked, column};
use super::probe::{Step, Verdict};
use crate::show::{self, Screen, Style};

/// Lines of text are not longer than this, however wide the screen is.
const WIDTH: usize = 100;

/// The stories of the answers to one question.
pub(super) fn story(answers: &[Asked<'_>], screen: &Screen) -> String {
    let Some(first) = answers.first() else { return String::new() };
    let width = screen.width.unwrap_or(WIDTH).min(WIDTH);
    let heading = format!("{}: {}", first.probe.name, first.probe.question);
    let mut text = format!("{}\n", screen.paint(Style::Heading, &heading));
    for line in wrapped(first.probe.why, width.saturating_sub(2)) {
        let _ = writeln!(text, "  {}", screen.paint(Style::Dim, &line));
    }
    for asked in answers {
        text += &one(asked, screen);
    }
    text.push('\n');
    text
}

fn one(asked: &Asked<'_>, screen: &Screen) -> String {
    let answer = &asked.answer;
    let (standing, style) = match asked.expectation() {
        _ if answer.verdict == Verdict::NotApplicable => (String::new(), Style::Dim),
        _ if asked.is_as_expected() => (", as expected".to_owned(), Style::Plain),
        other => (format!(", expected {other}"), Style::Alarm),
    };
    let summary = show::text(&answer.summary);
    let line = format!("{}: {}{standing}: {summary}", column(asked.mechanism), answer.verdict);
    let mut text = format!("\n  {}\n", screen.paint(style, &line));
    let who = answer.steps.iter().map(|step| step.who.len()).max().unwrap_or(0);
    let what = answer.steps.iter().filter(|step| step.outcome.is_some());
    let what = what.map(|step| step.what.chars().count()).max().unwrap_or(0);
    for step in &answer.steps {
        let line = told(step, who, what);
        let style = if step.who == "lab" { Style::Dim } else { Style::Plain };
        let _ = writeln!(text, "    {}", screen.paint(style, &show::text(&line)));
    }
    text
}

fn told(step: &Step, who: usize, what: usize) -> String {
    let Step { who: actor, what: done, outcome } = step;
    match outcome.as_deref() {
        None => format!("{actor:who$}  {done}"),
        Some(word) if word.starts_with(|first: char| first.is_alphabetic()) => {
            format!("{actor:who$}  {done:what$}   {word}")
        }
        Some(number) => format!("{actor:who$}  {done:what$} = {number}"),
    }
}

/// The text in lines of so many characters, broken at spaces.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one", 1), ["one"]);
    }
}
