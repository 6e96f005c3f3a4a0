//! Looks for a deadlock while a thread of this process waits in the kernel, and ends the wait if it is
//! part of one.
//!
//! The looking is done by the process's one thread for that, the wait is ended by the alarm that a
//! cancel token would use: the verdict is stored first and the waiter's alarm fired then, and the waiter
//! enters first and looks for a verdict then, so nobody sleeps through it. A lock that was granted in
//! that very moment is kept: the waiter looks for a verdict only when its call was interrupted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::cancel::Interrupt;
use crate::held;
use crate::inspect::{Deadlock, Lookout, Pauses};
use crate::timekeeper::{self, Reminder};

/// One wait that is looked after.
pub(crate) struct Watch {
    lookout: Lookout,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Ends the wait; not there while nothing is waited for.
    waiter: Option<Arc<dyn Interrupt>>,
    reminder: Option<Reminder>,
    pauses: Pauses,
    /// A circle was found, and others on it are to go first.
    patient: bool,
    found: Option<Box<Deadlock>>,
}

impl Watch {
    /// For a wait of this thread, which is about to begin. `kept`: descriptors of holds that last as long
    /// as the wait.
    pub(crate) fn of_this_thread(kept: &[u32]) -> Arc<Self> {
        let mut pinned = held::descriptors();
        pinned.extend(kept);
        Arc::new(Self { lookout: Lookout::with_pinned(pinned), state: Mutex::default() })
    }

    /// Looks from time to time until the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>, waiter: Arc<dyn Interrupt>) -> Watching {
        let mut state = self.state();
        state.waiter = Some(waiter);
        self.look_after(state.pauses.next().unwrap_or_default(), &mut state);
        Watching(Arc::clone(self))
    }

    /// Where no thread can be started there is nobody to look: then the wait is an ordinary one.
    fn look_after(self: &Arc<Self>, pause: Duration, state: &mut State) {
        let looker = Arc::new(Looker(Arc::clone(self)));
        state.reminder = timekeeper::look_at(Instant::now() + pause, looker).ok();
    }

    fn look(self: &Arc<Self>) {
        let found = self.lookout.look();
        let mut state = self.state();
        let Some(waiter) = state.waiter.clone() else { return };
        let patience =
            found.as_ref().map(|deadlock| self.lookout.patience(deadlock)).unwrap_or_default();
        match found {
            Some(_) if !state.patient && !patience.is_zero() => {
                state.patient = true;
                self.look_after(patience, &mut state);
            }
            Some(deadlock) => {
                state.found = Some(Box::new(deadlock));
                drop(state);
                waiter.interrupt();
            }
            None => {
                state.patient = false;
                let pause = state.pauses.next().unwrap_or_default();
                self.look_after(pause, &mut state);
            }
        }
    }

    pub(crate) fn has_found(&self) -> bool {
        self.state().found.is_some()
    }

    /// What has been found.
    pub(crate) fn found(&self) -> Option<Box<Deadlock>> {
        self.state().found.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread that looks is told to poke.
struct Looker(Arc<Watch>);

impl Interrupt for Looker {
    fn interrupt(&self) {
        self.0.look();
    }
}

/// Ends the looking when dropped; a look that is being taken comes to nothing.
pub(crate) struct Watching(Arc<Watch>);

impl Drop for Watching {
    fn drop(&mut self) {
        let mut state = self.0.state();
        let (waiter, reminder) = (state.waiter.take(), state.reminder.take());
        drop(state);
        drop((waiter, reminder));
    }
}
