//! Asking one question of one filesystem, with a deadline that holds even if the filesystem never answers.
//!
//! Whoever asks touches the filesystem with nothing of his own: all of that is done by the stage and its
//! actors, which are a process group that can be killed. A process that the kernel does not let go of (a
//! FUSE request that was read and is never answered) is left behind, and the answer says so.

use std::io::{self, BufRead, BufReader, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lockmgr::Mechanism;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::part;
use super::probe::{Answer, Cause, Expectation, Probe, Verdict};
use super::scratch::Identity;
use super::stage::{Script, Told};

/// What the stage has beyond the probe's own time: to clean up and to say so.
const GRACE: Duration = Duration::from_secs(1);

/// Asks the probe's question of the filesystem on which `directory` lies.
///
/// Returns at `deadline` plus about two seconds at the latest, with everything ended that can be and
/// nothing left in `directory` that can be removed. With `interrupt`, it ends as soon as that is readable.
pub(crate) fn ask(
    probe: &Probe,
    mechanism: Option<Mechanism>,
    directory: &Path,
    deadline: Duration,
    interrupt: Option<BorrowedFd<'_>>,
) -> Answer {
    if let Expectation::NotApplicable(why) = probe.expectation(mechanism) {
        return Answer::not_applicable(why);
    }
    let since = Instant::now();
    let scratch = directory.join(scratch_name());
    let script = Script { probe: probe.name, mechanism, scratch, deadline };
    let mut answer = match Stage::start(&script) {
        Ok(stage) => stage.answer(&script, since + deadline + GRACE, interrupt),
        Err(error) => failed(Cause::Lab, format!("the lab cannot begin: {error}")),
    };
    answer.took = since.elapsed();
    answer
}

/// A name that nothing in the directory has, as far as can be.
fn scratch_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanoseconds = now.map_or(0, |now| now.subsec_nanos());
    format!(".lockmgr-lab-{}-{count}-{nanoseconds:x}", std::process::id())
}

fn failed(cause: Cause, summary: String) -> Answer {
    Answer {
        verdict: Verdict::Error,
        cause: Some(cause),
        summary,
        steps: Vec::new(),
        took: Duration::ZERO,
        place: None,
    }
}

struct Stage {
    child: Child,
    /// Which is sent by whom goes with its number only as long as it is not waited for.
    group: Pid,
    told: BufReader<PipeReader>,
}

/// How waiting for the stage ended.
enum Heard {
    Line,
    TooLate,
    Interrupted,
}

impl Stage {
    fn start(script: &Script<'_>) -> io::Result<Self> {
        part::check_proc()?;
        let (told, teller) = io::pipe()?;
        let child = Command::new(part::PROGRAM)
            .arg0("lockmgr")
            .arg(part::STAGE)
            .args(script.words())
            .stdin(Stdio::piped())
            .stdout(teller)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let group = Pid::from_child(&child);
        Ok(Self { child, group, told: BufReader::new(told) })
    }

    fn answer(
        mut self,
        script: &Script<'_>,
        end: Instant,
        interrupt: Option<BorrowedFd<'_>>,
    ) -> Answer {
        let (mut identity, mut place) = (None, None);
        let mut interrupt = interrupt;
        let mut end = end;
        let answer = loop {
            match self.hear(end, interrupt) {
                Ok(Heard::Line) => match self.next() {
                    Some(Told::Scratch(known, on)) => (identity, place) = (Some(known), on),
                    Some(Told::Answer(answer)) => break Some(answer),
                    None => break None,
                },
                Ok(Heard::Interrupted) => {
                    // It cleans up when its asker has gone.
                    drop(self.child.stdin.take());
                    interrupt = None;
                    end = end.min(Instant::now() + GRACE);
                }
                Ok(Heard::TooLate) | Err(_) => break None,
            }
        };
        let ended = self.end();
        let answer = answer.unwrap_or_else(|| {
            let swept = identity.is_none_or(|identity| sweep(&script.scratch, identity));
            no_answer(&script.scratch, ended, swept)
        });
        Answer { place, ..answer }
    }

    fn next(&mut self) -> Option<Told> {
        let mut line = String::new();
        self.told.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    fn hear(&self, end: Instant, interrupt: Option<BorrowedFd<'_>>) -> io::Result<Heard> {
        if !self.told.buffer().is_empty() {
            return Ok(Heard::Line);
        }
        loop {
            let told = PollFd::from_borrowed_fd(self.told.get_ref().as_fd(), PollFlags::IN);
            let mut ready = vec![told];
            ready.extend(interrupt.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut ready, Some(&left(end))) {
                Ok(0) => return Ok(Heard::TooLate),
                Ok(_) if ready[0].revents().is_empty() => return Ok(Heard::Interrupted),
                Ok(_) => return Ok(Heard::Line),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Ends the whole group; says whether the kernel let the stage go.
    fn end(mut self) -> bool {
        // The stage has not been waited for, so the number is its own.
        let _all_may_have_ended = kill_process_group(self.group, Signal::KILL);
        ends(&mut self.child, Instant::now() + GRACE)
    }
}

fn left(end: Instant) -> Timespec {
    let left = end.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// Waits for the end of a child that may be stuck in the kernel.
fn ends(child: &mut Child, end: Instant) -> bool {
    if let Ok(pidfd) = pidfd_open(Pid::from_child(child), PidfdFlags::empty()) {
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN)];
        while poll(&mut ready, Some(&left(end))) == Err(rustix::io::Errno::INTR) {}
    }
    matches!(child.try_wait(), Ok(Some(_)))
}

/// Removes the scratch directory of a stage that was killed; says whether that could be done.
fn sweep(path: &Path, identity: Identity) -> bool {
    let Ok(identity) = serde_json::to_string(&identity) else { return false };
    let broom = Command::new(part::PROGRAM)
        .arg0("lockmgr")
        .arg(part::SWEEP)
        .arg(path)
        .arg(identity)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    let Ok(mut broom) = broom else { return false };
    if !ends(&mut broom, Instant::now() + GRACE) {
        let _may_have_ended = broom.kill();
        return false;
    }
    // It has been waited for.
    matches!(broom.wait(), Ok(status) if status.success())
}

fn no_answer(scratch: &Path, ended: bool, swept: bool) -> Answer {
    let (cause, mut summary) = if ended {
        (Cause::Hangs, "no answer in time; the processes were killed".to_owned())
    } else {
        let text =
            "no answer in time, and the filesystem does not let go of a process that was killed";
        (Cause::Stuck, text.to_owned())
    };
    if !swept {
        summary = format!("{summary}; {} may be left behind", scratch.display());
    }
    failed(cause, summary)
}
