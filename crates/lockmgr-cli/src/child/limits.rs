//! How long the lock may be held: what is due, and when.
//!
//! The time counts from the grant, on the clock that stands still while the machine sleeps. Nothing
//! ticks: the loop that waits for signals sleeps until the next step, and no longer.

use std::time::{Duration, Instant};

/// What `--warn-after`, `--max-hold` and `--kill-after` ask for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Limits {
    pub(crate) warn_after: Option<Duration>,
    pub(crate) max_hold: Option<Duration>,
    /// From the moment the command was told to end.
    pub(crate) kill_after: Option<Duration>,
}

/// What is done when its time has come; each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Say that the lock is held for long.
    Warn,
    /// Tell the command to end.
    End,
    /// End it.
    Kill,
}

/// The steps that are left.
pub(super) struct Schedule {
    steps: Vec<(Instant, Step)>,
    kill_after: Option<Duration>,
}

impl Schedule {
    pub(super) fn new(granted: Instant, limits: Limits) -> Self {
        let step = |after: Option<Duration>, step| {
            // What is too far away for the clock is never.
            after.and_then(|after| granted.checked_add(after)).map(|due| (due, step))
        };
        let steps = [step(limits.warn_after, Step::Warn), step(limits.max_hold, Step::End)];
        Self { steps: steps.into_iter().flatten().collect(), kill_after: limits.kill_after }
    }

    /// When the next step is due; `None` when there is none.
    pub(super) fn next(&self) -> Option<Instant> {
        self.steps.iter().map(|(due, _)| *due).min()
    }

    /// Takes a step that is due, the earliest first.
    pub(super) fn take(&mut self, now: Instant) -> Option<Step> {
        let (index, &(due, step)) =
            self.steps.iter().enumerate().min_by_key(|(_, (due, _))| *due)?;
        if now < due {
            return None;
        }
        self.steps.remove(index);
        if step == Step::End {
            let due = self.kill_after.and_then(|after| now.checked_add(after));
            self.steps.extend(due.map(|due| (due, Step::Kill)));
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_step_comes_once_in_its_order_and_not_early() {
        let start = Instant::now();
        let limits = Limits {
            warn_after: Some(SECOND),
            max_hold: Some(3 * SECOND),
            kill_after: Some(2 * SECOND),
        };
        let mut schedule = Schedule::new(start, limits);
        assert_eq!(schedule.next(), Some(start + SECOND));
        assert_eq!(schedule.take(start), None);
        assert_eq!(schedule.take(start + SECOND), Some(Step::Warn));
        assert_eq!(schedule.take(start + 2 * SECOND), None);
        // Late, and from then on the time until the KILL counts.
        assert_eq!(schedule.take(start + 4 * SECOND), Some(Step::End));
        assert_eq!(schedule.next(), Some(start + 6 * SECOND));
        assert_eq!(schedule.take(start + 5 * SECOND), None);
        assert_eq!(schedule.take(start + 6 * SECOND), Some(Step::Kill));
        assert_eq!((schedule.take(start + 9 * SECOND), schedule.next()), (None, None));
    }

    #[test]
    fn what_is_not_asked_for_or_too_far_away_never_comes() {
        let start = Instant::now();
        assert_eq!(Schedule::new(start, Limits::default()).next(), None);
        let limits = Limits { max_hold: Some(Duration::MAX), ..Limits::default() };
        assert_eq!(Schedule::new(start, limits).next(), None);
        let limits = Limits { max_hold: Some(Duration::ZERO), ..Limits::default() };
        let mut schedule = Schedule::new(start, limits);
        assert_eq!(schedule.take(start), Some(Step::End));
        assert_eq!(schedule.next(), None);
    }
}
