//! The command as a job of its own: a process group that is signalled as a whole, and the terminal that
//! goes with it.
//!
//! A limit on the hold must reach what the command has started, and must not reach whoever started
//! lockmgr; so the command gets a process group of its own, as timeout(1) does it. But then the terminal's
//! Ctrl-C and Ctrl-Z go to one group and the command is in another, and a command that reads from the
//! terminal is stopped for it. So lockmgr does what a shell does for its jobs:
//!
//! - If lockmgr is in the foreground when the command starts, the child makes its own group the foreground
//!   before it becomes the command ([`spawn`](crate::sys::spawn)): it never runs a moment without.
//! - When the command stops, lockmgr takes the terminal back and stops its whole group, as the terminal would
//!   have done; when it goes on in the foreground, the terminal goes to the command before SIGCONT does.
//! - When a command in the background is stopped for using the terminal, and lockmgr has come to the
//!   foreground since (a shell's `fg` tells nobody who is running), it gets the terminal and goes on.
//! - When it ends, lockmgr takes the terminal back. If the terminal's SIGINT ended it, the rest of lockmgr's
//!   group gets that signal, too, as it would have got it from the terminal.
//! - The terminal is taken only from the command's group and given only from ours: what a shell has decided
//!   in between stands. In the background nothing is handed over.
//!
//! SIGTTOU is blocked all the time, so that lockmgr may do all that from the background.
//!
//! What does not go together: other members of lockmgr's group (`lockmgr run … | less`) are in the background
//! while the command has the terminal.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use crate::sys::group;
use crate::sys::spawn::OwnGroup;

/// The command's process group, and the way to the terminal.
pub(super) struct Job {
    /// `None` where no terminal controls us, or our own group has no number here.
    terminal: Option<(OwnedFd, Pid)>,
}

impl Job {
    /// To be called before the command is started.
    pub(super) fn new() -> Self {
        // The one that controls us, wherever standard input and output lead.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = open("/dev/tty", flags, Mode::empty()).ok();
        Self { terminal: terminal.zip(group::ours()) }
    }

    /// How the child is to begin.
    pub(super) fn start(&self) -> OwnGroup<'_> {
        OwnGroup { terminal: self.terminal.as_ref().map(|(fd, ours)| (fd.as_fd(), *ours)) }
    }

    /// Gives the command the terminal if our group has it. Returns whether it did.
    pub(super) fn give(&self, command: Pid) -> bool {
        self.terminal.as_ref().is_some_and(|(fd, ours)| hand_over(fd, *ours, command))
    }

    /// Takes the terminal back if the command's group has it. Returns whether it did.
    pub(super) fn take_back(&self, command: Pid) -> bool {
        self.terminal.as_ref().is_some_and(|(fd, ours)| hand_over(fd, command, *ours))
    }

    /// Sends a signal to our whole group, ourselves included.
    pub(super) fn tell_ours(&self, signal: Signal) {
        if let Some((_, ours)) = self.terminal {
            let _not_all_may_be_signalled = kill_process_group(ours, signal);
        }
    }
}

fn hand_over(terminal: &OwnedFd, from: Pid, to: Pid) -> bool {
    tcgetpgrp(terminal) == Ok(from) && tcsetpgrp(terminal, to).is_ok()
}
