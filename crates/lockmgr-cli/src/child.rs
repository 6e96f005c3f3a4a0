//! The command while it runs: started, given its signals, waited for to its real end.
//!
//! # Signals
//!
//! Those that are passed on ([`FORWARDED`]) and SIGCHLD are blocked while the command runs, and taken from
//! the queue one at a time ([`signals::next_until`]). There is no handler, so nothing is ever interrupted, and no
//! moment at which a signal could be missed: what comes before the command is started waits in the
//! queue until it is. Each one reaches the command once:
//!
//! - What a process sent to lockmgr is passed on, except to its own sender, and unless that process has sent
//!   it to the command, too: with the whole process group, or to one after the other, as timeout(1) and
//!   systemd do it. That cannot be seen. But whether the command was sent any signal can ([`overheard`]): if
//!   it was, within [`TOGETHER`] or until the sender is at rest, it has it already. A command that is
//!   sent signals all the time is not judged by that, nor is one that has a handler for the end of its
//!   children, as shells have, until it has been [`QUIET`]: what would be lost is worse than what comes twice.
//!   Nor is one without a handler for the signal, for
//!   which once and twice are the same.
//! - What the kernel sent (Ctrl-C, Ctrl-\\, Ctrl-Z, a window's new size, a hangup) went to the whole
//!   process group, and is not sent again: unless the command has left the group, or lockmgr leads
//!   the session, whose leader alone is told of a hangup.
//! - What was ignored when lockmgr was started is ignored: by us, and by the command, which has
//!   inherited that.
//!
//! The pid that a signal goes to is always that of a child that has not been waited for, so it cannot
//! have become another process.
//!
//! SIGPIPE is blocked, too: a message of ours that nobody reads must not cost the command's status.
//! Any other signal acts on lockmgr as on any program. If it kills, the command keeps the lock
//! through the descriptor that it has inherited.
//!
//! # Stopping
//!
//! lockmgr is stopped when its command is, not when Ctrl-Z is pressed: an editor that puts the terminal
//! in order first, or a command that does not want to be stopped, gets its way as without lockmgr.
//! The stop is SIGTSTP's, which the kernel does not carry out where nobody could undo it. A SIGSTOP
//! that somebody sent to the command alone is theirs to undo, and not followed.
//!
//! When lockmgr goes on, so does its command, but it is not told so twice: a SIGCONT passed on late
//! would undo the Ctrl-Z that followed it.
//!
//! # The tree
//!
//! With `hold_tree` lockmgr is the child subreaper: a descendant whose parent ends becomes its child.
//! So "no children left" means "no descendants left", and waiting for any child waits for them all.
//! When the command has ended, signals go to those children that are left.
//!
//! # Limits
//!
//! What a limit asks for ([`limits`]) is done between two signals: the wait for them ends when it is due.
//! A command whose hold is limited is in a process group of its own ([`job`]). At the limit the group gets
//! SIGTERM, and SIGCONT, because what is stopped does not hear of it; after that, SIGKILL. The group's number
//! is the command's pid, and it is used only until the command has been waited for, so it cannot have become
//! another group's. With `hold_tree` every descendant is signalled, in whatever group ([`tree`]).
//! Either way the end is waited for as ever: the lock is not released because a time is over.
//! Signals from the terminal, SIGTSTP and SIGCONT go to the whole group, others to the command alone.

mod job;
pub(crate) mod limits;
mod overheard;
mod tree;

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process,
    kill_process_group, set_child_subreaper, wait, waitid, waitpid,
};

use job::Job;
use limits::{Limits, Schedule, Step};
use overheard::{MEANINGLESS, Overheard};
use tree::Told;

use crate::sys::group;
use crate::sys::signals::{self, Received, Sender, SignalSet, Unignored};
use crate::sys::spawn::{Argv, Descriptor, Inherit, NotStarted, spawn};

/// The signals that are passed on to the command.
const FORWARDED: [Signal; 9] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
    Signal::CONT,
    Signal::TSTP,
];

/// Those of them that flock(1) passes on: what ends the original. To the others it does what any program does.
const FORWARDED_BY_FLOCK: &[Signal] = FORWARDED.split_at(6).0;

/// Signals of one sender come for the command and for us within this time of each other.
const TOGETHER: Duration = Duration::from_micros(100);

/// How long a sender may go on before it is taken to have sent all that it was to send.
const PATIENCE: Duration = Duration::from_millis(10);

/// How long the command must have been sent nothing else for what it is sent to mean something.
const QUIET: Duration = Duration::from_secs(2);

/// Between two looks at the sender.
const PAUSE: Duration = Duration::from_micros(200);

/// How the command ended.
pub(crate) struct Ended {
    pub(crate) status: WaitStatus,
    /// The terminal's Ctrl-C ended it.
    pub(crate) interrupted: bool,
    /// It was told to end, because its time was over.
    pub(crate) overran: bool,
    /// The signals that came for it, by way of us: bit N for number N.
    came: u128,
}

impl Ended {
    fn unwatched(status: WaitStatus) -> Self {
        Ended { status, interrupted: false, overran: false, came: 0 }
    }

    /// The signal that ended it, if we have got it, too.
    pub(crate) fn died_of_what_was_passed_on(&self) -> Option<Signal> {
        let number = self.status.terminating_signal()?;
        let signal = Signal::from_named_raw(number)?;
        (self.came & bit(signal) != 0).then_some(signal)
    }
}

fn bit(signal: Signal) -> u128 {
    1 << signal.as_raw()
}

/// Why there is no end to report.
pub(crate) enum Trouble {
    /// The command could not be started.
    NotStarted(io::Error),
    /// The kernel made no process for it.
    NotForked(io::Error),
    /// The kernel refused what it cannot refuse, such as to wait for a child.
    Lost(io::Error),
}

impl From<NotStarted> for Trouble {
    fn from(why: NotStarted) -> Self {
        match why {
            NotStarted::NoChild(error) => Trouble::NotForked(error),
            NotStarted::NoProgram(error, _) => Trouble::NotStarted(error),
        }
    }
}

/// How the command is to be watched over.
pub(crate) struct Terms<'a> {
    pub(crate) hold_tree: bool,
    /// When the lock was granted.
    pub(crate) granted: Instant,
    pub(crate) limits: Limits,
    /// Is told of each step when it is taken, and of the command's pid.
    pub(crate) on_step: &'a mut dyn FnMut(Step, Pid),
}

/// Runs the command to its end. Signals stay blocked afterwards, so that what comes too late for the
/// command does not cut off the release and the exit status.
pub(crate) fn run(
    argv: &Argv,
    locks: &[BorrowedFd<'_>],
    mut ignore: Unignored,
    Terms { hold_tree, granted, limits, on_step }: Terms<'_>,
) -> Result<Ended, Trouble> {
    let job = limits.max_hold.map(|_| Job::new());
    let (mut blocked, awaited) = to_be_blocked(&FORWARDED);
    blocked.push(Signal::PIPE);
    // It would stop us for taking the terminal back.
    blocked.extend(job.as_ref().map(|_| Signal::TTOU));
    let unblock = signals::block(&blocked);
    // What is sent to our group does not reach the other one.
    let overheard = job.is_none().then(|| Overheard::start(&awaited).ok()).flatten();
    // The kernel throws away the status of children whose parent ignores SIGCHLD.
    ignore.take(Signal::CHILD.as_raw());
    if hold_tree {
        // Any pid stands for "yes".
        set_child_subreaper(Some(getpid())).map_err(|error| Trouble::Lost(error.into()))?;
    }
    let lock = Descriptor::Inherit(locks);
    let own_group = job.as_ref().map(Job::start);
    let ears = overheard.as_ref().map(Overheard::ears);
    let inherit = Inherit { lock, unblock: &unblock, ignore: &ignore, own_group, ears };
    let pid = spawn(argv, &inherit).inspect_err(|failed| {
        if let (Some(job), NotStarted::NoProgram(_, pid)) = (&job, failed) {
            job.take_back(*pid);
        }
    })?;
    let schedule = Schedule::new(granted, limits);
    Watch { hold_tree, job, schedule, ..Watch::new(pid, awaited, overheard, on_step) }
        .until_the_end()
        .map_err(Trouble::Lost)
}

/// What is blocked while the command runs, and what of it is taken from the queue.
fn to_be_blocked(forwarded: &[Signal]) -> (Vec<Signal>, SignalSet) {
    let awaited = [forwarded, &[Signal::CHILD]].concat();
    let set = SignalSet::of(&awaited);
    ([&awaited[..], &[MEANINGLESS]].concat(), set)
}

/// As [`run`], for flock(1): SIGCHLD has its default action, and SIGPIPE the one it was inherited with.
/// It is not stopped when its command is, and where a signal cannot reach the command, it dies of it at
/// once, as the original does ([`Watch::is_not_to_be_heard`]).
pub(crate) fn run_watched(
    argv: &Argv,
    lock: Descriptor<'_>,
    ignore: &Unignored,
) -> Result<Ended, Trouble> {
    let (blocked, awaited) = to_be_blocked(FORWARDED_BY_FLOCK);
    let unblock = signals::block(&blocked);
    let overheard = Overheard::start(&awaited).ok();
    let ears = overheard.as_ref().map(Overheard::ears);
    let pid = spawn(argv, &Inherit { lock, unblock: &unblock, ignore, own_group: None, ears })?;
    Watch { whose: Whose::Flock, ..Watch::new(pid, awaited, overheard, &mut |_, _| ()) }
        .until_the_end()
        .map_err(Trouble::Lost)
}

/// Runs the command to its end, and leaves signals alone: one that kills us leaves the command behind.
pub(crate) fn run_unwatched(argv: &Argv, lock: Descriptor<'_>) -> Result<Ended, Trouble> {
    let nothing = SignalSet::of(&[]);
    let inherit = Inherit {
        lock,
        unblock: &nothing,
        ignore: &Unignored::default(),
        own_group: None,
        ears: None,
    };
    let pid = spawn(argv, &inherit)?;
    loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(Ended::unwatched(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Trouble::Lost(error.into())),
        }
    }
}

/// Whose command it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Run,
    Flock,
}

struct Watch<'a> {
    pid: Pid,
    /// What is taken from the queue.
    awaited: SignalSet,
    /// `None` where there were no descriptors for it, and for a group of its own.
    overheard: Option<Overheard>,
    /// The command was sent a signal. If one comes for us until then, it is the same one.
    heard_until: Option<Instant>,
    /// When the command was last sent one that did not come for us, too.
    heard_another: Option<Instant>,
    begun: Instant,
    whose: Whose,
    hold_tree: bool,
    /// The process group that the command leads, if it has one of its own.
    job: Option<Job>,
    schedule: Schedule,
    on_step: &'a mut dyn FnMut(Step, Pid),
    /// The last signal that a limit has sent, and, with `hold_tree`, to whom.
    told: Option<Told>,
    /// Whether the terminal has sent SIGINT.
    interrupted: bool,
    /// Whether a SIGCONT of ours may have met the next Ctrl-Z, and undone it.
    continued: bool,
    ended: Option<WaitStatus>,
    /// The signals that came for it: bit N for number N.
    came: u128,
}

impl<'a> Watch<'a> {
    /// In our group, without limits.
    fn new(
        pid: Pid,
        awaited: SignalSet,
        overheard: Option<Overheard>,
        on_step: &'a mut dyn FnMut(Step, Pid),
    ) -> Self {
        Watch {
            pid,
            awaited,
            overheard,
            heard_until: None,
            heard_another: None,
            begun: Instant::now(),
            whose: Whose::Run,
            hold_tree: false,
            job: None,
            schedule: Schedule::new(Instant::now(), Limits::default()),
            on_step,
            told: None,
            interrupted: false,
            continued: false,
            ended: None,
            came: 0,
        }
    }

    fn until_the_end(mut self) -> io::Result<Ended> {
        loop {
            match self.next()? {
                Some(Received { signal: Signal::CHILD, .. }) => {
                    if let Some(status) = self.look_after_children()? {
                        return Ok(self.end(status));
                    }
                    if let Some(told) = self.told.as_mut().filter(|_| self.hold_tree) {
                        told.tell();
                    }
                }
                Some(other) if !signals::is_ignored(other.signal.as_raw()) => self.forward(&other),
                _ => {}
            }
            // However many signals come, what is due is done.
            while let Some(step) = self.schedule.take(Instant::now()) {
                self.carry_out(step);
            }
        }
    }

    /// Sleeps until one of our signals comes, or something is due.
    fn next(&mut self) -> io::Result<Option<Received>> {
        let end = self.schedule.next();
        let Some(overheard) = &self.overheard else {
            return signals::next_until(&self.awaited, end);
        };
        loop {
            // What is in the queue by now came together with what the command was told before.
            let now = Instant::now();
            if let Some(received) = signals::next_until(&self.awaited, Some(now))? {
                return Ok(Some(received));
            }
            if end.is_some_and(|end| end <= now) {
                return Ok(None);
            }
            if self.heard_until.take_if(|until| *until <= now).is_some() {
                self.heard_another = Some(now);
            }
            if overheard.wait(self.heard_until.into_iter().chain(end).min())?
                && self.heard_until.replace(Instant::now() + TOGETHER).is_some()
            {
                self.heard_another = Some(now);
            }
        }
    }

    fn end(self, status: WaitStatus) -> Ended {
        let by_interrupt = status.terminating_signal() == Some(Signal::INT.as_raw());
        let had_terminal = self.job.as_ref().is_some_and(|job| job.take_back(self.pid));
        if let Some(job) = self.job.as_ref().filter(|_| had_terminal && by_interrupt) {
            // We have it blocked, and die of it when everything is done.
            job.tell_ours(Signal::INT);
        }
        Ended {
            status,
            interrupted: by_interrupt && (self.interrupted || had_terminal),
            overran: self.told.is_some(),
            came: self.came,
        }
    }

    fn carry_out(&mut self, step: Step) {
        let signal = match step {
            Step::Warn => None,
            Step::End => Some(Signal::TERM),
            Step::Kill => Some(Signal::KILL),
        };
        if let Some(signal) = signal {
            let told = self.told.insert(Told::new(signal));
            if self.ended.is_none() {
                // It has not been waited for, so the group is still its own.
                let _gone_or_not_ours = kill_process_group(self.pid, signal);
                if step == Step::End {
                    let _gone_or_not_ours = kill_process_group(self.pid, Signal::CONT);
                }
            }
            if self.hold_tree {
                told.tell();
            }
        }
        (self.on_step)(step, self.pid);
    }

    /// Takes note of everything that has happened to children: one SIGCHLD can stand for several of
    /// them. Returns the command's status when there is nothing more to wait for.
    fn look_after_children(&mut self) -> io::Result<Option<WaitStatus>> {
        let mut options = WaitOptions::NOHANG;
        options.set(WaitOptions::UNTRACED, self.whose == Whose::Run);
        loop {
            let event =
                if self.hold_tree { wait(options) } else { waitpid(Some(self.pid), options) };
            match event {
                Ok(Some((pid, status))) if pid == self.pid && self.ended.is_none() => {
                    if !status.stopped() {
                        self.ended = Some(status);
                        if !self.hold_tree {
                            return Ok(self.ended);
                        }
                    } else if let Some(signal) = job_control(status) {
                        self.stop(signal);
                    }
                }
                // One of those that the command left behind; that it is gone is all we want to know.
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(rustix::io::Errno::CHILD) if self.ended.is_some() => return Ok(self.ended),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stops as the command has, and sees to it that the command goes on when we do: by itself if
    /// SIGCONT was sent to the whole process group, as a shell's `fg` does. Only what has not gone on
    /// is sent the SIGCONT that woke us: by then the next Ctrl-Z may have stopped it again.
    fn stop(&mut self, by: Signal) {
        if self.job.is_some() {
            return self.stop_the_job(by);
        }
        signals::suffer(Signal::TSTP);
        let was_continued = signals::take(Signal::CONT);
        let options = WaitIdOptions::CONTINUED | WaitIdOptions::NOHANG;
        let goes_on = matches!(waitid(WaitId::Pid(self.pid), options), Ok(Some(_)));
        if was_continued && !goes_on && !signals::is_pending(Signal::TSTP) {
            // It has not been waited for, so it is there, if only as a zombie.
            let _not_ours = kill_process(self.pid, Signal::CONT);
            self.continued = true;
        }
    }

    /// As [`stop`](Self::stop), for a process group of its own, to which nobody else sends SIGCONT.
    fn stop_the_job(&self, by: Signal) {
        let Some(job) = &self.job else { return };
        let wants_terminal = by != Signal::TSTP;
        // If we have come to the foreground, that is all it was stopped for.
        if !(wants_terminal && job.give(self.pid)) {
            if job.take_back(self.pid) {
                // Whoever waits for our group as a whole sees it stop as a whole.
                job.tell_ours(Signal::TSTP);
                signals::act_on(Signal::TSTP);
            } else {
                signals::suffer(Signal::TSTP);
            }
            let was_continued = signals::take(Signal::CONT);
            // Where nobody could undo it we have not been stopped. Without the terminal that it wants
            // it would only be stopped again, and again.
            if !job.give(self.pid) && wants_terminal && !was_continued {
                return;
            }
        }
        let _not_ours = kill_process_group(self.pid, Signal::CONT);
    }

    fn forward(&mut self, received: &Received) {
        let from_kernel = received.sender == Sender::Kernel;
        self.interrupted |= from_kernel && received.signal == Signal::INT;
        self.came |= bit(received.signal);
        let told_alone = received.signal == Signal::HUP && group::we_lead_the_session();
        // Told twice is better than not at all: it stops, or has a handler that stops it.
        let undone = received.signal == Signal::TSTP && std::mem::take(&mut self.continued);
        self.continued |= received.signal == Signal::CONT && self.job.is_none();
        if let Some(job) = self.job.as_ref().filter(|_| received.signal == Signal::CONT) {
            // Some shells send it with every `fg`.
            job.give(self.pid);
        }
        let is_for_all = from_kernel || matches!(received.signal, Signal::TSTP | Signal::CONT);
        let targets = if self.ended.is_none() { vec![self.pid] } else { tree::children(getpid()) };
        // Whatever it was, it was not the one after this.
        let is_heard = self.heard_until.take().is_some()
            | self.overheard.as_ref().is_some_and(Overheard::has_heard);
        let mut out_of_reach = false;
        for target in targets {
            let has_it_already = match received.sender {
                Sender::Kernel => !told_alone && !undone && group::is_ours(target),
                Sender::Process(sender) => {
                    sender == Some(target) || self.is_told(target, received, is_heard)
                }
            };
            // A Ctrl-Z that came after a SIGCONT is the last word.
            let is_outdated = received.signal == Signal::CONT && signals::is_pending(Signal::TSTP);
            if has_it_already || is_outdated {
                continue;
            }
            // It may belong to another user by now, or be a zombie: then there is nothing to do.
            let sent = if self.job.is_some() && is_for_all && self.ended.is_none() {
                kill_process_group(target, received.signal)
            } else {
                kill_process(target, received.signal)
            };
            out_of_reach |= sent == Err(rustix::io::Errno::PERM);
            if let Some(overheard) = &self.overheard {
                let _that_one_was_ours = overheard.has_heard();
            }
        }
        if self.whose == Whose::Flock
            && (out_of_reach || self.is_not_to_be_heard(received.sender, is_heard))
        {
            signals::suffer(received.signal);
        }
    }

    /// Whether the command has got this signal of a process, too.
    fn is_told(&self, target: Pid, Received { signal, sender }: &Received, is_heard: bool) -> bool {
        let Sender::Process(sender) = *sender else { return false };
        // Those that stop and continue it are judged by what they have done to it.
        target == self.pid
            && self.ended.is_none()
            && !matches!(*signal, Signal::TSTP | Signal::CONT)
            && heeds(target, *signal)
            && self.is_told_by(sender, *signal, is_heard)
    }

    /// Whether the command was sent a signal together with this one. Gives the sender the time to do it.
    fn is_told_by(&self, sender: Option<Pid>, signal: Signal, is_heard: bool) -> bool {
        let Some(overheard) = &self.overheard else { return false };
        let end = Instant::now() + PATIENCE;
        let mut is_over = false;
        let mut has_heard = is_heard;
        let is_recent = |at: Instant| at.elapsed() < QUIET;
        let is_anything = self.heard_another.is_some_and(is_recent)
            || is_recent(self.begun) && has(self.pid, &["SigCgt:"], Signal::CHILD);
        if is_anything || has_heard && is_another_pending(signal) {
            // What was heard may be something else. Twice is better than not at all.
            return false;
        }
        while !has_heard && !is_over {
            is_over = sender.is_none_or(is_at_rest) || end <= Instant::now();
            thread::sleep(PAUSE);
            has_heard = overheard.has_heard();
        }
        if has_heard {
            // First for us, and then for all: that is one signal.
            thread::sleep(PAUSE);
            signals::take(signal);
        }
        has_heard
    }

    /// For flock(1): whether a signal was meant for us alone, by the command; or the command cannot act on
    /// it, because it is stopped, and finds it when it goes on.
    fn is_not_to_be_heard(&self, sender: Sender, is_heard: bool) -> bool {
        let by_command = sender == Sender::Process(Some(self.pid));
        by_command && !is_heard || state(self.pid) == Some('T')
    }
}

/// Whether a second signal of this kind would be one too many: there is a handler for the first one, or
/// somebody who fetches it.
fn heeds(process: Pid, signal: Signal) -> bool {
    // While it is stopped, the kernel makes one of the two.
    has(process, &["SigCgt:", "SigBlk:"], signal) && state(process) != Some('T')
}

/// Whether the signal is in one of the process's sets, which are named as in proc(5).
fn has(process: Pid, sets: &[&str], signal: Signal) -> bool {
    let text = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero()));
    text.as_deref().unwrap_or_default().lines().any(|line| {
        let set = sets.iter().find_map(|name| line.strip_prefix(name));
        let set = set.and_then(|set| u128::from_str_radix(set.trim(), 16).ok());
        // The lowest bit is that of signal 1.
        set.is_some_and(|set| set & (bit(signal) >> 1) != 0)
    })
}

/// Whether another one that is passed on waits to be taken.
fn is_another_pending(signal: Signal) -> bool {
    FORWARDED_BY_FLOCK.iter().any(|&other| other != signal && signals::is_pending(other))
}

/// Whether the process waits for something, or is gone: what it was at is over.
fn is_at_rest(process: Pid) -> bool {
    !matches!(state(process), Some('R' | 'D'))
}

/// The state letter of a process, as in ps(1).
fn state(process: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The name in front, in parentheses, may be anything.
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// The signal by which a process was stopped in the terminal's name, or by itself.
fn job_control(status: WaitStatus) -> Option<Signal> {
    let number = status.stopping_signal()?;
    [Signal::TSTP, Signal::TTIN, Signal::TTOU].into_iter().find(|s| s.as_raw() == number)
}
