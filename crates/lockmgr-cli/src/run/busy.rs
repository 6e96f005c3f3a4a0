//! What to do about a busy lock before, or instead of, waiting for it.
//!
//! In this order: an ancestor that has it ([`nested`]), others that wait already (`--max-waiting`),
//! and the holder that is to go ([`replace`]). All of it is looked up only when the lock is busy.

use std::time::SystemTime;

use lockmgr::Error;
use lockmgr::inspect::{Kind, Lock, LockTable};

use super::locks::Locks;
use super::nested::{self, Outer, WayOut};
use super::replace;
use crate::cli::{IfBusy, Nested, RunArgs};
use crate::exit::{self, Failure, Status};
use crate::say::say;
use crate::waiting::Refused;

/// What the options say.
#[derive(Clone, Copy)]
pub(super) struct Busy {
    policy: IfBusy,
    nested: Nested,
    max_waiting: Option<usize>,
    /// `--fenced` and `--every`, which want something of the lock file.
    fenced: bool,
    every: bool,
    quiet: bool,
    status: Status,
    /// When this command came. What is held since later than that is not replaced.
    came: SystemTime,
}

/// Why there is no lock of our own.
pub(super) enum Why {
    /// Somebody has it, and it is not waited for.
    Busy(String),
    /// The command is to run inside an ancestor's hold.
    Inside(Outer),
    Failed(Failure),
    Refused(Refused),
}

impl From<Refused> for Why {
    fn from(refused: Refused) -> Self {
        Why::Refused(refused)
    }
}

impl Busy {
    pub(super) fn of(args: &RunArgs) -> Self {
        Self {
            policy: args.if_busy,
            nested: args.nested,
            max_waiting: args.max_waiting,
            fenced: args.lasting.fenced,
            every: args.lasting.every.is_some(),
            quiet: args.acquire.quiet,
            status: args.acquire.busy_exit_code,
            came: SystemTime::now(),
        }
    }

    /// Before anything is tried: where slots are free the ancestor's would not be noticed.
    pub(super) fn before(&self, locks: &Locks) -> Option<Outer> {
        let is_asked = self.nested == Nested::Pass && locks.take_of_slots().is_some();
        is_asked.then(|| nested::look(locks)).flatten().filter(|outer| outer.covers)
    }

    /// Whether a busy lock is no failure.
    pub(super) fn skips(&self) -> bool {
        self.policy == IfBusy::Skip
    }

    /// When the first attempt has failed, with this error; fails unless there is to be a wait. Returns
    /// whether the holder was told to end.
    pub(super) fn now(&self, locks: &Locks, busy: &Error) -> Result<bool, Why> {
        if self.nested != Nested::Wait
            && let Some(outer) = nested::look(locks)
        {
            let pass = self.nested == Nested::Pass;
            if pass && outer.covers {
                return Err(self.inside(outer.with_token(locks), locks));
            }
            if outer.stuck {
                let way_out = if pass { WayOut::NotEnough } else { WayOut::CanPass };
                return Err(Why::Busy(outer.told(locks, way_out)));
            }
        }
        if let Some(most) = self.max_waiting {
            let count = waiting(locks);
            if count >= most {
                let wait = match count {
                    0 => "waiting is not wanted (--max-waiting 0)".into(),
                    1 => "1 waits already".into(),
                    count => format!("{count} wait already"),
                };
                return Err(Why::Busy(format!("{busy}; {wait}")));
            }
        }
        if self.policy == IfBusy::Replace {
            return replace::replace(locks, self.came, self.quiet).map_err(Why::Failed);
        }
        Ok(false)
    }

    /// The command is to run inside the ancestor's hold, if that has all that was asked for.
    fn inside(&self, outer: Outer, locks: &Locks) -> Why {
        let lacking = if self.every {
            "what --every goes by stands in the lock file, and is noted by whoever has the lock; \
             give the outer command --every"
        } else if self.fenced && outer.token.is_none() {
            "it is not known to have a fencing token; give the outer command --fenced"
        } else {
            return Why::Inside(outer);
        };
        Why::Busy(outer.not_inside(locks, lacking))
    }

    /// What comes of having no lock; [`Why::Inside`] is not for here.
    pub(super) fn instead(&self, why: Why) -> Result<Status, Failure> {
        let (line, status) = match why {
            Why::Busy(line) => (line, self.status),
            Why::Refused(Refused::Deadlock(line)) => return Err(Failure::new(self.status, line)),
            Why::Refused(Refused::Lock(error)) => {
                let failure = Failure::of_lock(&error, self.status);
                if !error.is_contended() {
                    return Err(failure);
                }
                (failure.line, self.status)
            }
            Why::Failed(failure) => return Err(failure),
            Why::Inside(_) => return Err(Failure::new(exit::DEFECT, "an inner run was not run")),
        };
        if self.policy != IfBusy::Skip {
            return Err(Failure::new(status, line));
        }
        if !self.quiet {
            say(&format!("skipped: {line}"));
        }
        Ok(exit::OK)
    }
}

/// How many wait, on the lock of which most do.
fn waiting(locks: &Locks) -> usize {
    let kind = Kind::from(locks.mechanism);
    let on_one = |(path, _): &(_, _)| {
        let table = LockTable::of(path as &std::path::PathBuf).unwrap_or_default();
        let found: Vec<Lock> = table.files.into_iter().flat_map(|file| file.locks).collect();
        let counts = |lock: &&Lock| lock.kind.shares_a_space_with(&kind) || lock.is_gate();
        let count: usize = found.iter().filter(counts).map(|lock| lock.waiters.len()).sum();
        // The front one has the queue, and sleeps outside the kernel's lock calls.
        let front = locks.take_of_slots().is_some() && found.iter().any(Lock::is_gate);
        count + usize::from(front)
    };
    locks.members.iter().map(on_one).max().unwrap_or(0)
}
