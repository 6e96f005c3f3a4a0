//! `lockmgr demo`: the classic picture of why one wants a lock, played by real processes.
//!
//! All workers write what they do into one pipe, a line at a time: the line of an entry after the lock was
//! granted, that of the exit before it is released. So the order of the lines is the order in which things
//! happened, without any clock; who enters while another's exit is still to come has *overlapped*. That a
//! worker of another demo is inside is found out by locks as well, in a file of their own (`others`).
//!
//! - `worker`: a worker; `others`: the workers of other demos
//! - `story`: what happened; `picture`: as SVG

mod others;
mod picture;
mod story;
mod worker;

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use lockmgr::FileLock;
use lockmgr::name::{self, Scope};
use serde::Serialize;

use crate::cli::DemoArgs;
use crate::exit::{self, Failure, Status};
use crate::json::{self, PathJson};
use crate::one_file::is_one_file;
use crate::outcome::milliseconds;
use crate::path_of_lock;
use crate::show::{self, Screen, Style};
use crate::svg::Canvas;
use story::{Deed, Event, Story};
use worker::{Part, Said};

pub(crate) use worker::play;

/// This program, also when its file has been replaced or removed.
const PROGRAM: &str = "/proc/self/exe";

pub(crate) fn demo(args: &DemoArgs) -> Result<Status, Failure> {
    let lock = path_of_lock(&args.lock, false)?;
    if !name::is_path(&args.lock) {
        // The directory of named locks may have to be made.
        let made = FileLock::options().open_named(&args.lock, Scope::User);
        made.map_err(|error| Failure::of_lock(&error, exit::BUSY))?;
    }
    let drawn_only = args.svg.as_deref().is_some_and(|path| path.as_os_str() == "-");
    let is_told = !args.json && !drawn_only;
    // Before the play: nobody is to sit through it for a picture that cannot be written.
    let canvas = match &args.svg {
        Some(path) if !drawn_only => {
            check_picture(path, &lock)?;
            Some(Canvas::open(path)?)
        }
        _ => None,
    };
    let _tidy = Tidy(&lock);
    let without_first = args.svg.is_some() && !args.no_lock;
    let mut stories = Vec::new();
    for locked in [false, true] {
        if locked != args.no_lock || without_first {
            stories.push(perform(args, &lock, locked, is_told)?);
        }
    }
    if drawn_only {
        show::write(&picture::draw(&stories))?;
    }
    if let Some(canvas) = canvas {
        canvas.draw(&picture::draw(&stories))?;
    }
    if args.json && !drawn_only {
        show::write(&in_json(args, &lock, &stories)?)?;
    }
    // That of the lock, if it was played with one.
    let overlaps = stories.last().map_or(0, Story::overlaps);
    Ok(if overlaps == 0 { exit::OK } else { exit::OVERLAP })
}

/// Removes the file beside the lock file at the end.
struct Tidy<'a>(&'a Path);

impl Drop for Tidy<'_> {
    fn drop(&mut self) {
        others::tidy_up(self.0);
    }
}

/// Refuses to draw over what others lock.
fn check_picture(path: &Path, lock: &Path) -> Result<(), Failure> {
    if is_one_file(path, lock) || is_one_file(path, &others::beside(lock)) {
        return Err(Failure::usage("--svg: this is the lock file; name another file"));
    }
    Ok(())
}

/// Plays it once.
fn perform(args: &DemoArgs, lock: &Path, locked: bool, is_told: bool) -> Result<Story, Failure> {
    let screen = Screen::of_output();
    if is_told {
        show::write(&screen.paint(Style::Heading, &heading(args, lock, locked)))?;
        show::write("\n")?;
    }
    let (mut troupe, lines) = Troupe::assemble(args, lock, locked)
        .map_err(|error| Failure::new(exit::SYSTEM, format!("cannot start a worker: {error}")))?;
    let mut story = Story::new(locked, args.workers);
    let mut failure = None;
    let mut ready = 0;
    for line in lines.lines().map_while(Result::ok) {
        let Ok(said) = serde_json::from_str(&line) else { continue };
        match said {
            Said::Ready => {
                ready += 1;
                // All of them begin together, or those who are first have nobody to meet.
                if ready == args.workers {
                    troupe.begin();
                }
            }
            Said::Failed { status, line } => {
                failure.get_or_insert(Failure::new(status, line));
                troupe.end();
            }
            Said::Did(event) => {
                if matches!(event.deed, Deed::Enters { .. }) {
                    for worker in troupe.ending(story.inside()) {
                        let shown = story.lose(worker);
                        if is_told {
                            show::write(&format!("{}\n", screen.paint(Style::Alarm, &shown)))?;
                        }
                    }
                }
                let shown = story.add(event);
                if is_told && let Some((style, text)) = shown {
                    show::write(&format!("{}\n", screen.paint(style, &text)))?;
                }
            }
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    if let Some(complaint) = troupe.dismiss() {
        return Err(Failure::new(exit::SYSTEM, complaint));
    }
    if is_told {
        let style = if story.overlaps() > 0 { Style::Alarm } else { Style::Heading };
        show::write(&format!("{}\n", screen.paint(style, &story.summary())))?;
    }
    Ok(story)
}

fn heading(args: &DemoArgs, lock: &Path, locked: bool) -> String {
    let workers = show::count(args.workers as usize, "worker");
    let rounds = show::count(args.rounds as usize, "round");
    let how = if locked {
        format!("under the {} lock {}", args.mechanism, show::path(lock))
    } else {
        "without a lock".to_owned()
    };
    format!("{workers}, {rounds}, {how}")
}

/// The workers. Killed, by their ids, when dropped.
struct Troupe {
    workers: Vec<(Child, Option<ChildStdin>)>,
}

impl Troupe {
    fn assemble(
        args: &DemoArgs,
        lock: &Path,
        locked: bool,
    ) -> io::Result<(Self, BufReader<PipeReader>)> {
        let (reader, writer) = io::pipe()?;
        let mut troupe = Self { workers: Vec::new() };
        for number in 1..=args.workers {
            let part = Part {
                number,
                lock: lock.to_path_buf(),
                mechanism: locked.then(|| args.mechanism.to_string()),
                demo: std::process::id(),
                rounds: args.rounds,
                pace: args.pace,
            };
            troupe.workers.push(start(&part, writer.try_clone()?)?);
        }
        // With `writer` ends the last copy that is no worker's, so the end of the lines is theirs.
        Ok((troupe, BufReader::new(reader)))
    }

    fn begin(&mut self) {
        for (_, input) in &mut self.workers {
            if let Some(input) = input {
                // Whoever has gone has said why.
                drop(input.write_all(b"\n"));
            }
        }
    }

    /// Those of the workers that do not live any more, or are on their way out.
    fn ending(&self, workers: &[u32]) -> Vec<u32> {
        let ends = |worker: &u32| {
            let index = (*worker as usize).checked_sub(1)?;
            Some(is_ending(self.workers.get(index)?.0.id()))
        };
        workers.iter().copied().filter(|worker| ends(worker) == Some(true)).collect()
    }

    fn end(&mut self) {
        for (child, input) in &mut self.workers {
            drop(input.take());
            drop(child.kill());
        }
    }

    /// Waits for those who have nothing more to say; tells of one who ended badly.
    fn dismiss(mut self) -> Option<String> {
        let mut complaint = None;
        for (number, (child, _)) in (1_u32..).zip(&mut self.workers) {
            match child.wait() {
                Ok(status) if status.success() => {}
                Ok(status) => {
                    complaint = Some(format!("worker {number} ended too soon: {status}"));
                }
                Err(error) => complaint = Some(format!("worker {number} is lost: {error}")),
            }
        }
        complaint
    }
}

/// Whether a child of ours, which nobody has waited for, is a zombie or becomes one. The kernel says so
/// before it lets go of the locks: whoever has got one from it finds it said.
///
/// # References
/// `proc_pid_stat(5)`
fn is_ending(child: u32) -> bool {
    /// `PF_EXITING` of the kernel.
    const EXITING: u32 = 4;
    let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { return false };
    // The name, which may hold anything, ends at the last parenthesis; behind it stands the state.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    let flags = fields.nth(6).and_then(|flags| flags.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & EXITING != 0)
}

impl Drop for Troupe {
    fn drop(&mut self) {
        self.end();
        for (child, _) in &mut self.workers {
            drop(child.wait());
        }
    }
}

fn start(part: &Part, writer: PipeWriter) -> io::Result<(Child, Option<ChildStdin>)> {
    let mut child = Command::new(PROGRAM)
        .arg0("lockmgr")
        .args(part.words())
        .stdin(Stdio::piped())
        .stdout(writer)
        .spawn()?;
    let input = child.stdin.take();
    Ok((child, input))
}

#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    path: PathJson,
    runs: Vec<RunJson>,
}

#[derive(Serialize)]
struct RunJson {
    mechanism: Option<String>,
    workers: u32,
    rounds: u32,
    pace_ms: f64,
    visits: usize,
    overlaps: usize,
    events: Vec<EventJson>,
}

#[derive(Serialize)]
struct EventJson {
    ms: f64,
    worker: u32,
    event: &'static str,
    #[serde(flatten)]
    entry: Option<EntryJson>,
}

/// What goes with an entry.
#[derive(Serialize)]
struct EntryJson {
    inside: Vec<u32>,
    others: Option<bool>,
}

fn in_json(args: &DemoArgs, lock: &Path, stories: &[Story]) -> Result<String, Failure> {
    let run = |story: &Story| RunJson {
        mechanism: story.locked().then(|| args.mechanism.to_string()),
        workers: args.workers,
        rounds: args.rounds,
        pace_ms: milliseconds(args.pace),
        visits: story.visits(),
        overlaps: story.overlaps(),
        events: story.told().map(|(event, inside)| event_json(event, inside)).collect(),
    };
    let path = PathJson::of(Some(lock));
    json::document("demo", Body { path, runs: stories.iter().map(run).collect() })
}

fn event_json((at, event): (Duration, &Event), inside: &[u32]) -> EventJson {
    let (name, entry) = match event.deed {
        Deed::Asks => ("asks", None),
        Deed::Enters { others } => ("enters", Some(EntryJson { inside: inside.to_vec(), others })),
        Deed::Leaves => ("leaves", None),
    };
    EventJson { ms: milliseconds(at), worker: event.worker, event: name, entry }
}
