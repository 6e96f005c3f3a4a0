//! The command while it runs: started, given its signals, waited for to its real end.
//!
//! # Signals
//!
//! The signals of [`FORWARDED`] and SIGCHLD are blocked while the command runs, and taken from the
//! queue one at a time ([`signals::next`]). There is no handler, so nothing is ever interrupted, and no
//! moment at which a signal could be missed: what comes before the command is started waits in the
//! queue until it is. Each one reaches the command once:
//!
//! - What a process sent to lockmgr is passed on, except to its own sender.
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

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, kill_process,
    set_child_subreaper, wait, waitid, waitpid,
};

use crate::sys::group;
use crate::sys::signals::{self, Received, Sender, SignalSet, Unignored};
use crate::sys::spawn::{Argv, Inherit, spawn};

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

/// What is blocked while the command runs; the last one is never taken from the queue.
const BLOCKED: [Signal; 11] = {
    let mut signals = [Signal::PIPE; 11];
    let mut index = 0;
    while index < FORWARDED.len() {
        signals[index] = FORWARDED[index];
        index += 1;
    }
    signals[9] = Signal::CHILD;
    signals
};

/// How the command ended.
pub(crate) struct Ended {
    pub(crate) status: WaitStatus,
    /// The terminal's Ctrl-C ended it.
    pub(crate) interrupted: bool,
}

/// Why there is no end to report.
pub(crate) enum Trouble {
    /// The command could not be started.
    NotStarted(io::Error),
    /// The kernel refused what it cannot refuse, such as to wait for a child.
    Lost(io::Error),
}

/// Runs the command to its end. Signals stay blocked afterwards, so that what comes too late for the
/// command does not cut off the release and the exit status.
pub(crate) fn run(
    argv: &Argv,
    locks: &[BorrowedFd<'_>],
    mut ignore: Unignored,
    hold_tree: bool,
) -> Result<Ended, Trouble> {
    let unblock = signals::block(&BLOCKED);
    // The kernel throws away the status of children whose parent ignores SIGCHLD.
    ignore.take(Signal::CHILD.as_raw());
    if hold_tree {
        // Any pid stands for "yes".
        set_child_subreaper(Some(getpid())).map_err(|error| Trouble::Lost(error.into()))?;
    }
    let inherit = Inherit { locks, unblock: &unblock, ignore: &ignore };
    let pid = spawn(argv, &inherit).map_err(Trouble::NotStarted)?;
    Watch { pid, hold_tree, interrupted: false, continued: false, ended: None }
        .until_the_end()
        .map_err(Trouble::Lost)
}

struct Watch {
    pid: Pid,
    hold_tree: bool,
    /// Whether the terminal has sent SIGINT.
    interrupted: bool,
    /// Whether a SIGCONT of ours may have met the next Ctrl-Z, and undone it.
    continued: bool,
    ended: Option<WaitStatus>,
}

impl Watch {
    fn until_the_end(mut self) -> io::Result<Ended> {
        let awaited = SignalSet::of(&BLOCKED[..10]);
        loop {
            let received = signals::next(&awaited)?;
            if received.signal == Signal::CHILD {
                if let Some(status) = self.look_after_children()? {
                    let interrupted = self.interrupted
                        && status.terminating_signal() == Some(Signal::INT.as_raw());
                    return Ok(Ended { status, interrupted });
                }
            } else if !signals::is_ignored(received.signal.as_raw()) {
                self.forward(&received);
            }
        }
    }

    /// Takes note of everything that has happened to children: one SIGCHLD can stand for several of
    /// them. Returns the command's status when there is nothing more to wait for.
    fn look_after_children(&mut self) -> io::Result<Option<WaitStatus>> {
        let options = WaitOptions::NOHANG | WaitOptions::UNTRACED;
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
                    } else if is_job_control(status) {
                        self.stop();
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
    fn stop(&mut self) {
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

    fn forward(&mut self, received: &Received) {
        let from_kernel = received.sender == Sender::Kernel;
        self.interrupted |= from_kernel && received.signal == Signal::INT;
        let told_alone = received.signal == Signal::HUP && group::we_lead_the_session();
        // Told twice is better than not at all: it stops, or has a handler that stops it.
        let undone = received.signal == Signal::TSTP && std::mem::take(&mut self.continued);
        self.continued |= received.signal == Signal::CONT;
        let targets = if self.ended.is_none() { vec![self.pid] } else { children() };
        for target in targets {
            let has_it_already = match received.sender {
                Sender::Kernel => !told_alone && !undone && group::is_ours(target),
                Sender::Process(sender) => sender == Some(target),
            };
            // A Ctrl-Z that came after a SIGCONT is the last word.
            let is_outdated = received.signal == Signal::CONT && signals::is_pending(Signal::TSTP);
            if !has_it_already && !is_outdated {
                // It may belong to another user by now, or be a zombie: then there is nothing to do.
                let _gone_or_not_ours = kill_process(target, received.signal);
            }
        }
    }
}

/// Whether a stopped process was stopped in the terminal's name, or by itself.
fn is_job_control(status: WaitStatus) -> bool {
    let job_control = [Signal::TSTP, Signal::TTIN, Signal::TTOU];
    status.stopping_signal().is_some_and(|number| job_control.iter().any(|s| s.as_raw() == number))
}

/// The children of this process that have not been waited for. Empty where the kernel does not list
/// them (it is built without `CONFIG_PROC_CHILDREN`, or /proc is not there).
fn children() -> Vec<Pid> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
