//! `lockmgr doctor`: may locks be trusted here?
//!
//! - `look`: what the place is, in a child that can be given up; `mounts`: what its mount options mean
//! - `trial`: locks tried out, by the lab's probes; `traps`: what permissions and clocks do
//! - `finding`: what was found, and the verdict
//!
//! This process touches the place with nothing of its own, so it comes to an end whatever the filesystem does.

mod finding;
mod look;
mod mounts;
mod traps;
mod trial;

use std::io;

use serde::Serialize;
use serde_json::Value;

use crate::cli::DoctorArgs;
use crate::exit::{self, Failure, Status};
use crate::json::{self, PathJson};
use crate::lab::place::Place;
use crate::show::{self, Rows, Screen, Style};
use finding::{Finding, Level, Verdict};
use look::{Seen, Subject, Trouble};
use mounts::{Nature, Reach};
use trial::{AnswerJson, Trial, Works};

pub(crate) use look::play;

/// All that was found out.
struct Report<'a> {
    args: &'a DoctorArgs,
    subject: Subject,
    seen: Option<Seen>,
    reach: Reach,
    trial: Option<Trial>,
    findings: Vec<Finding>,
    verdict: Verdict,
}

pub(crate) fn doctor(args: &DoctorArgs) -> Result<Status, Failure> {
    let looked = look::look(&args.path, args.deadline);
    let (subject, found) = looked.map_err(|error| {
        Failure::new(exit::SYSTEM, format!("cannot have a process look at it: {error}"))
    })?;
    let report = match found {
        Ok(seen) => Report::of(args, subject, seen),
        Err(Trouble::NoPlace { path, errno }) => {
            let asked = show::path(&args.path);
            let error = io::Error::from_raw_os_error(errno);
            let at = if path == asked { "it" } else { &path };
            let line = format!("{asked}: cannot look at {at}: {error}");
            return Err(Failure::new(exit::CANNOT_OPEN, line));
        }
        Err(Trouble::Hangs { what, ended }) => Report::of_silence(args, subject, &what, ended),
        Err(Trouble::Lost(doing)) => {
            let line = format!("the process that looked at it has ended (it was to {doing})");
            return Err(Failure::new(exit::SYSTEM, line));
        }
    };
    let text = if args.json { report.in_json()? } else { report.for_people() };
    show::write(&text)?;
    Ok(report.verdict.status())
}

impl<'a> Report<'a> {
    fn of(args: &'a DoctorArgs, subject: Subject, seen: Seen) -> Self {
        let nature = seen.place.as_ref().map(mounts::nature_of);
        let nature = nature.unwrap_or(Nature { reach: Reach::Unknown, findings: Vec::new() });
        let mut findings = nature.findings;
        findings.extend(traps::found(&seen));
        let trial = trial::all(&subject.directory, args.deadline);
        let reach = add_what_was_tried(&mut findings, nature.reach, seen.place.as_ref(), &trial);
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
        let verdict = Verdict::of(&findings);
        Self { args, subject, seen: Some(seen), reach, trial: Some(trial), findings, verdict }
    }

    /// Of a place that does not answer.
    fn of_silence(args: &'a DoctorArgs, subject: Subject, what: &str, ended: bool) -> Self {
        let more = if ended { "" } else { "; the process that asked cannot even be killed" };
        let text = format!("the filesystem does not answer: no end of `{what}`{more}");
        let findings = vec![Finding::fatal("hangs", text)];
        let (reach, verdict) = (Reach::Unknown, Verdict::Unusable);
        Self { args, subject, seen: None, reach, trial: None, findings, verdict }
    }

    fn for_people(&self) -> String {
        let mut rows = Rows::default();
        rows.text(Style::Heading, show::path(&self.args.path));
        let mut row = |name: &str, text: String| {
            rows.cells(Style::Plain, vec![format!("  {name}"), text]);
        };
        if let Some(seen) = &self.seen {
            let place = seen.place.as_ref();
            row("filesystem", place.map_or_else(|| "not known".to_owned(), place_told));
        }
        row("reach", self.reach.told().to_owned());
        if let Some(trial) = &self.trial {
            for one in &trial.tried {
                row(&one.mechanism.to_string(), one.told());
            }
            if let Some(one_space) = trial.one_space {
                let told = if one_space {
                    "flock and record locks are one and the same"
                } else {
                    "flock and record locks do not see each other, as usual"
                };
                row("together", told.to_owned());
            }
        }
        if let Some(seen) = &self.seen {
            let files = show::count(seen.locked_files, "file");
            row("locks now", format!("on {files} of this filesystem"));
        }
        for finding in &self.findings {
            let (word, style) = match finding.level {
                Level::Note => ("note", Style::Dim),
                Level::Limit => ("limit", Style::Waits),
                Level::Fatal => ("trouble", Style::Alarm),
            };
            rows.cells(style, vec![format!("  {word}"), show::text(&finding.told())]);
        }
        // As long as the lines are, they are to be read in full.
        let mut text = rows.render(&Screen::of_output().without_end());
        if let Some(seen) = &self.seen {
            text.push_str(&seen.locks_told);
        }
        let style = match self.verdict {
            Verdict::Fine => Style::Heading,
            Verdict::Limits => Style::Waits,
            Verdict::Unusable => Style::Alarm,
        };
        text.push_str(&Screen::of_output().paint(style, &self.verdict.told(&self.findings)));
        text.push('\n');
        text
    }

    fn in_json(&self) -> Result<String, Failure> {
        let mechanism = |one: &trial::Tried| MechanismJson {
            mechanism: one.mechanism.to_string(),
            works: one.works,
            answers: one.answers_json(),
        };
        let tried = self.trial.as_ref().map(|trial| trial.tried.as_slice()).unwrap_or_default();
        let seen = self.seen.as_ref();
        let body = Body {
            path: PathJson::of(Some(&self.args.path)),
            directory: show::path(&self.subject.directory),
            filesystem: seen.and_then(|seen| seen.place.as_ref()),
            reach: self.reach,
            mechanisms: tried.iter().map(mechanism).collect(),
            one_space: self.trial.as_ref().and_then(|trial| trial.one_space),
            locked_files: seen.map(|seen| seen.locked_files),
            files: seen.map(|seen| seen.locks.as_slice()).unwrap_or_default(),
            findings: &self.findings,
            verdict: self.verdict,
            status: self.verdict.status(),
            message: self.verdict.told(&self.findings),
        };
        json::document("doctor", body)
    }
}

fn place_told(place: &Place) -> String {
    let Place { kind, source, mount_point, options } = place;
    // Of the mount and of the filesystem, which often say the same.
    let mut words: Vec<&str> = Vec::new();
    for word in options.split(',') {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    let options = words.join(",");
    format!(
        "{} ({}) on {}, {}",
        show::text(kind),
        show::text(source),
        show::text(mount_point),
        show::text(&options)
    )
}

/// Adds what trying has shown; returns what is known of the reach by now.
fn add_what_was_tried(
    findings: &mut Vec<Finding>,
    reach: Reach,
    place: Option<&Place>,
    trial: &Trial,
) -> Reach {
    let works = |one: &&trial::Tried| one.works == Works::Yes;
    let some_work = trial.tried.iter().any(|one| works(&one));
    for finding in trial.tried.iter().flat_map(|one| &one.findings) {
        // One that works is enough for those who know which.
        let is_no_end = some_work && finding.level == Level::Fatal;
        let level = if is_no_end { Level::Limit } else { finding.level };
        finding::add(findings, Finding { level, ..finding.clone() });
    }
    if trial.one_space == Some(true) {
        findings.push(Finding::limit(
            "one-space",
            "flock and record locks are one and the same here: a program that takes both on one file is in \
             its own way, and flock locks have no gate (--fair takes -m ofd)",
        ));
    }
    if reach != Reach::Unknown || !place.is_some_and(|place| place.kind.starts_with("fuse")) {
        return reach;
    }
    // FUSE: whoever keeps the locks has shown it.
    let kept_here = trial.tried.iter().filter(works).find_map(trial::Tried::is_kept_here);
    match kept_here {
        Some(true) => {
            findings.push(Finding::limit(
                "fuse-this-machine",
                "this filesystem leaves locks to this kernel: if others reach the same files by another \
                 way, they are not kept out",
            ));
            Reach::ThisMachine
        }
        Some(false) => {
            findings.push(Finding::note(
                "fuse-server",
                "the filesystem's own server keeps the locks, for all whom it serves; this kernel does not \
                 know who holds them",
            ));
            Reach::Server
        }
        None => reach,
    }
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(flatten)]
    path: PathJson,
    directory: String,
    filesystem: Option<&'a Place>,
    reach: Reach,
    mechanisms: Vec<MechanismJson>,
    one_space: Option<bool>,
    locked_files: Option<usize>,
    files: &'a [Value],
    findings: &'a [Finding],
    verdict: Verdict,
    status: Status,
    message: String,
}

#[derive(Serialize)]
struct MechanismJson {
    mechanism: String,
    works: Works,
    answers: Vec<AnswerJson>,
}
