//! Signals for everything that the command has left behind, wherever it went: with `hold_tree` a limit
//! on the hold must reach what has made a process group or a session of its own, too.
//!
//! lockmgr is the subreaper then, so the tree is found from the top, through the lists of children. Each
//! process is pinned by a pidfd *before* its parent is looked at: if the parent is the one in whose list it
//! stood, the pinned process is that child, and the signal goes through the descriptor. A pid that was
//! given to somebody else in between is never signalled.
//!
//! A process that is started while this goes on can be missed. It is found at the next look, which comes
//! with the end of its parent: [`Told::tell`] is called for each SIGCHLD from then on, and signals whom it
//! has not signalled before.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

/// A signal for the whole tree, and who has got it.
pub(super) struct Told {
    signal: Signal,
    /// Process and start time: a pid alone may come again.
    told: HashSet<(Pid, u64)>,
}

impl Told {
    pub(super) fn new(signal: Signal) -> Self {
        Self { signal, told: HashSet::new() }
    }

    /// Signals whoever is in the tree and has not had this signal yet.
    pub(super) fn tell(&mut self) {
        let mut open = vec![getpid()];
        let mut seen = HashSet::new();
        while let Some(parent) = open.pop() {
            for child in children(parent) {
                let Some((start, pinned)) = pin(child, parent) else { continue };
                if !seen.insert(child) {
                    continue;
                }
                if self.told.insert((child, start)) {
                    let _gone_or_not_ours = pidfd_send_signal(&pinned, self.signal);
                    if self.signal != Signal::KILL {
                        // Whoever is stopped would not hear of it.
                        let _gone_or_not_ours = pidfd_send_signal(&pinned, Signal::CONT);
                    }
                }
                open.push(child);
            }
        }
    }
}

/// The process, if it is a child of that parent, and when it started.
fn pin(child: Pid, parent: Pid) -> Option<(u64, OwnedFd)> {
    let pinned = pidfd_open(child, PidfdFlags::empty()).ok()?;
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero())).ok()?;
    // The name in front, in parentheses, may be anything.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let its_parent: i32 = fields.nth(1)?.parse().ok()?;
    let began: u64 = fields.nth(17)?.parse().ok()?;
    (its_parent == parent.as_raw_nonzero().get()).then_some((began, pinned))
}

/// The children of all threads of a process. Empty where the kernel does not list them (it is built
/// without `CONFIG_PROC_CHILDREN`, or /proc is not there).
pub(super) fn children(of: Pid) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{}/task", of.as_raw_nonzero()));
    let mut children = Vec::new();
    for thread in threads.into_iter().flatten().flatten() {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = list.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        children.extend(pids);
    }
    children
}
