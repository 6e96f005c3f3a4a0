//! `lockmgr lab`: asks, and prints what came of it.

use std::os::fd::{AsFd, OwnedFd};

use lockmgr::Mechanism;
use rustix::process::Signal;

use super::probe::{Answer, Cause, Expectation, Probe, Verdict};
use super::report::Report;
use super::{ask, list, probes, sizes, try_it};
use crate::cli::{LabArgs, LabOrder};
use crate::exit::{self, Failure, Status};
use crate::show;
use crate::sys::signals;

/// What is asked, of whom, and what came of it.
pub(super) struct Asked<'a> {
    pub(super) probe: &'a Probe,
    pub(super) mechanism: Option<Mechanism>,
    pub(super) answer: Answer,
}

impl Asked<'_> {
    pub(super) fn expectation(&self) -> Expectation {
        self.probe.expectation(self.mechanism)
    }

    pub(super) fn is_as_expected(&self) -> bool {
        self.expectation().is_met_by(self.answer.verdict)
    }
}

pub(crate) fn lab(args: &LabArgs) -> Result<Status, Failure> {
    match &args.other {
        Some(LabOrder::Sizes(args)) => return sizes::sizes(args),
        Some(LabOrder::Try(args)) => return try_it::try_it(args),
        None => {}
    }
    let all = probes::all();
    let chosen = choose(&all, &args.probes)?;
    if chosen.iter().all(|probe| subjects(probe, &args.mechanism).next().is_none()) {
        let line = "these probes are about names of files, and no mechanism; leave out --mechanism";
        return Err(Failure::usage(line));
    }
    if args.list {
        return list::list(&chosen, &args.mechanism, args.json);
    }
    let mut interrupted = Interrupted::new()?;
    let mut report = Report::new(args, &chosen);
    for probe in chosen {
        let mut answers = Vec::new();
        // None of a probe that is not about the mechanisms that were chosen.
        for mechanism in subjects(probe, &args.mechanism) {
            let interrupt = Some(interrupted.signals.as_fd());
            let answer = ask(probe, mechanism, &args.dir, args.deadline, interrupt);
            interrupted.act();
            check_directory(args, &answer)?;
            answers.push(Asked { probe, mechanism, answer });
        }
        if !report.add(&answers)? {
            // Nobody reads it any more.
            break;
        }
    }
    report.finish()
}

/// Of whom the question is asked.
pub(super) fn subjects(
    probe: &Probe,
    only: &[Mechanism],
) -> impl Iterator<Item = Option<Mechanism>> {
    probe.subjects().iter().copied().filter(move |subject| {
        only.is_empty() || subject.is_some_and(|mechanism| only.contains(&mechanism))
    })
}

/// The probes that are named; all of them if none is.
fn choose<'a>(all: &'a [Probe], names: &[String]) -> Result<Vec<&'a Probe>, Failure> {
    for name in names {
        if !all.iter().any(|probe| matches(name, probe.name)) {
            return Err(Failure::usage(format!(
                "there is no probe '{name}'; `lockmgr lab --list` lists them"
            )));
        }
    }
    let is_chosen =
        |probe: &&Probe| names.is_empty() || names.iter().any(|name| matches(name, probe.name));
    Ok(all.iter().filter(is_chosen).collect())
}

/// Whether the pattern, in which `*` stands for any text, is the name.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, rest)) => name.strip_prefix(before).is_some_and(|tail| {
            (0..=tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
        }),
    }
}

/// A directory in which nothing can be asked is no answer to anything.
fn check_directory(args: &LabArgs, answer: &Answer) -> Result<(), Failure> {
    let directory = show::path(&args.dir);
    let why = match &answer.cause {
        Some(Cause::Scratch { errno }) => {
            let what = match errno.as_str() {
                "ENOENT" => "there is no such directory, or none can be made in it",
                "ENOTDIR" => "it is no directory",
                "EACCES" | "EPERM" => "permission denied",
                "EROFS" => "the filesystem is read-only",
                "ENOSPC" | "EDQUOT" => "there is no room left",
                other => other,
            };
            format!("cannot make a scratch directory in {directory}: {what}")
        }
        Some(Cause::Hangs | Cause::Stuck) if answer.place.is_none() => {
            format!("the filesystem of {directory} does not answer: {}", answer.summary)
        }
        Some(Cause::Lab) if answer.place.is_none() => {
            return Err(Failure::new(exit::SYSTEM, &answer.summary));
        }
        _ => return Ok(()),
    };
    let line = format!("{why}; name another one with --dir");
    Err(Failure::new(exit::CANNOT_OPEN, line))
}

/// The signals that end the lab; they do so when everything is cleaned up.
struct Interrupted {
    blocked: signals::SignalSet,
    signals: OwnedFd,
    each: Vec<Signal>,
}

impl Interrupted {
    fn new() -> Result<Self, Failure> {
        let each: Vec<Signal> = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT]
            .into_iter()
            .filter(|signal| !signals::is_ignored(signal.as_raw()))
            .collect();
        let blocked = signals::block(&each);
        let signals = signals::readable_when(&blocked).map_err(|error| {
            Failure::new(exit::SYSTEM, format!("cannot watch for signals: {error}"))
        })?;
        Ok(Self { blocked, signals, each })
    }

    /// Dies of a signal that has come.
    fn act(&mut self) {
        if self.each.iter().any(|signal| signals::is_pending(*signal)) {
            self.blocked.unblock();
        }
    }
}

/// The verdict in a word or a sign.
pub(super) fn cell(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Yes => "yes",
        Verdict::No => "no",
        Verdict::Error => "error",
        Verdict::NotApplicable => "-",
    }
}

pub(super) fn column(mechanism: Option<Mechanism>) -> String {
    mechanism.map_or_else(|| "names".to_owned(), |mechanism| mechanism.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, is) in [
            ("fork", "fork", true),
            ("fork", "fork-child", false),
            ("fork*", "fork", true),
            ("fork*", "fork-child", true),
            ("*child*", "fork-child-closes", true),
            ("f*s", "fork-child-closes", true),
            ("f*x", "fork-child-closes", false),
            ("*", "anything", true),
            ("", "anything", false),
        ] {
            assert_eq!(matches(pattern, name), is, "{pattern} {name}");
        }
    }
}
