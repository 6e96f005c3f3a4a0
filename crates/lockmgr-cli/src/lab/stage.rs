//! The stage: a process that plays one scene, on one filesystem, with actors of its own, and hands the
//! answer to whoever asked.
//!
//! It leads a process group with all of its actors in it. It touches the filesystem as little as can be (a
//! scratch directory is made and removed), because what it touches may never answer; then whoever asked
//! ends it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockmgr::Mechanism;
use rustix::process::{Signal, getpid, set_child_subreaper};
use serde::{Deserialize, Serialize};

use super::errno;
use super::place::Place;
use super::probe::{Answer, Cause, Probe, Verdict};
use super::probes;
use super::scene::{Found, Scene, Trouble};
use super::scratch::{Identity, Scratch};
use crate::exit::{self, Status};
use crate::sys::{actor as raw, signals};

/// What the stage says to whoever asked.
#[derive(Serialize, Deserialize)]
pub(super) enum Told {
    /// The scratch directory is there, on this filesystem.
    Scratch(Identity, Option<Place>),
    Answer(Answer),
}

/// What is to be played.
pub(super) struct Script<'a> {
    pub(super) probe: &'a str,
    pub(super) mechanism: Option<Mechanism>,
    pub(super) scratch: PathBuf,
    pub(super) deadline: Duration,
}

impl Script<'_> {
    /// As the words of a command line.
    pub(super) fn words(&self) -> [OsString; 4] {
        let mechanism = self.mechanism.map_or("-".to_owned(), |mechanism| mechanism.to_string());
        [
            self.probe.into(),
            mechanism.into(),
            self.scratch.clone().into(),
            self.deadline.as_millis().to_string().into(),
        ]
    }
}

/// The whole life of a stage. Descriptor 0 ends when nobody wants the answer any more; the answer goes to
/// descriptor 1.
pub(super) fn play(words: &[OsString]) -> Status {
    let [probe, mechanism, scratch, deadline] = words else { return exit::USAGE };
    let number = deadline.to_str().and_then(|text| text.parse().ok());
    let all = probes::all();
    let probe = all.iter().find(|known| probe == known.name);
    let (Some(probe), Some(milliseconds)) = (probe, number) else { return exit::USAGE };
    let mechanism = mechanism.to_str().and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_millis(milliseconds);
    match perform(probe, mechanism, Path::new(scratch), end) {
        Ok(()) => exit::OK,
        // Nobody listens.
        Err(_) => exit::SYSTEM,
    }
}

fn perform(
    probe: &Probe,
    mechanism: Option<Mechanism>,
    path: &Path,
    end: Instant,
) -> io::Result<()> {
    let since = Instant::now();
    // Nobody listening is no reason to die of it with the directory left behind.
    signals::block(&[Signal::PIPE]);
    let (asker, mut listener) = lines()?;
    // Children are waited for, and those of children come to us when they are orphaned.
    signals::reset(Signal::CHILD.as_raw());
    set_child_subreaper(Some(getpid()))?;
    let scratch = match Scratch::make(path) {
        Ok(scratch) => scratch,
        Err(error) => return tell(&mut listener, &Told::Answer(no_scratch(&error))),
    };
    let place = Place::of(scratch.directory().as_fd());
    let told = scratch
        .identity()
        .and_then(|identity| tell(&mut listener, &Told::Scratch(identity, place)));
    if let Err(error) = told {
        // Whoever asked has been killed by now.
        scratch.remove()?;
        return Err(error);
    }

    let scene = Scene::new(mechanism.unwrap_or_default(), end, asker, scratch.directory().as_fd());
    let played = (probe.run)(&scene);
    let (steps, all_ended) = scene.end();
    let removed = scratch.remove();
    let (verdict, mut cause, mut summary) = judge(played);
    if !all_ended {
        summary.push_str("; the filesystem does not let go of a process that was killed");
        cause = cause.map(|_| Cause::Stuck);
    }
    if let Err(error) = removed {
        summary = format!("{summary} (the scratch directory cannot be removed: {error})");
    }
    let answer = Answer { verdict, cause, summary, steps, took: since.elapsed(), place: None };
    tell(&mut listener, &Told::Answer(answer))
}

/// The two lines to whoever asked. Actors have others in their places.
fn lines() -> io::Result<(OwnedFd, File)> {
    let asker = rustix::io::fcntl_dupfd_cloexec(raw::adopt(0)?, 3)?;
    let listener = rustix::io::fcntl_dupfd_cloexec(raw::adopt(1)?, 3)?;
    Ok((asker, File::from(listener)))
}

fn tell(listener: &mut File, told: &Told) -> io::Result<()> {
    let mut text = serde_json::to_vec(told)?;
    text.push(b'\n');
    listener.write_all(&text)
}

fn no_scratch(error: &io::Error) -> Answer {
    let errno = errno::name(error.raw_os_error().unwrap_or(0));
    Answer {
        verdict: Verdict::Error,
        summary: format!("no scratch directory can be made: {errno}"),
        cause: Some(Cause::Scratch { errno }),
        steps: Vec::new(),
        took: Duration::ZERO,
        place: None,
    }
}

fn judge(played: Result<Found, Trouble>) -> (Verdict, Option<Cause>, String) {
    match played {
        Ok(Found { yes, because }) => (if yes { Verdict::Yes } else { Verdict::No }, None, because),
        Err(Trouble::Call { who, call, errno }) => {
            let errno = errno::name(errno);
            let summary = format!("{who}: {call} fails with {errno}");
            (Verdict::Error, Some(Cause::Call { errno }), summary)
        }
        Err(Trouble::Hangs { who, what }) => {
            (Verdict::Error, Some(Cause::Hangs), format!("{who}: {what}: no answer in time"))
        }
        Err(Trouble::Unwanted) => (Verdict::Error, Some(Cause::Lab), "interrupted".to_owned()),
        Err(Trouble::Lab(what)) => (Verdict::Error, Some(Cause::Lab), what),
    }
}
