//! What all clones of a [`Semaphore`](super::Semaphore) share: where the lock file is, the queue of
//! those who wait through this handle, and a few open descriptions for whoever comes next.
//!
//! Only one of those who wait through a handle, the one with the [`Turn`], waits in the kernel. Every
//! hold has a description of its own; it comes back here when the hold ends, with nothing locked on
//! it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::description::{Description, OpenFailure};
use crate::error::{Error, Result};
use crate::inspect::Contention;
use crate::mode::{Mechanism, Mode, Range};
use crate::options::Settings;
use crate::place::Place;
use crate::posix;
use crate::queue::{Asker, Node, Queue, Told};
use crate::semaphore::slots;
use crate::sys::file;
use crate::sys::fork::{self, PerProcess};
use crate::sys::lock::{self, Owner};
use crate::wait::Stop;

/// Descriptions that are kept open. Opening one costs more than everything else on the way.
const KEPT: usize = 4;

pub(super) struct Handle {
    pub(super) place: Place,
    pub(super) settings: Settings,
    pub(super) slots: u32,
    pub(super) fair: bool,
    state: PerProcess<Mutex<State>>,
}

/// What changes, under one mutex that is never held while anything sleeps.
#[derive(Default)]
struct State {
    /// Only its turn is used: nobody holds anything through the queue.
    queue: Queue,
    kept: Vec<Description>,
}

impl Handle {
    pub(super) fn new(place: Place, settings: Settings, slots: u32, fair: bool) -> Self {
        let state = PerProcess::new(fork::generation(), Mutex::default());
        Self { place, settings, slots, fair, state }
    }

    /// Opens the file now. A lease in the way is left to the first acquisition, which has a deadline.
    pub(super) fn open_now(&self) -> Result<()> {
        match self.open() {
            Ok(description) => self.state().kept.push(description),
            Err(OpenFailure::Lease(_)) => {}
            Err(OpenFailure::Failed(error)) => return Err(error),
        }
        Ok(())
    }

    /// Returns a description on which nothing is locked.
    pub(super) fn open(&self) -> Result<Description, OpenFailure> {
        let kept = self.state().kept.pop();
        kept.map_or_else(|| Description::open(&self.place, &self.settings, true), Ok)
    }

    /// Unlocks everything on the description. `slots` says that slots are among it: then whoever may
    /// wait for them is woken.
    ///
    /// After an error, closing the description has unlocked it.
    pub(super) fn let_go(&self, description: Description, slots: Slots) -> Result<(), Errno> {
        lock::record_unlock(description.file(), Owner::Description, Range::WHOLE)?;
        if slots == Slots::None || !is_waited_for(&description) {
            let mut state = self.state();
            if state.kept.len() < KEPT {
                state.kept.push(description);
                return Ok(());
            }
        } else if slots == Slots::Exposed || posix::is_used() {
            // Our close may tell nothing, or be put off ([`posix`]). Where this cannot be done, there is
            // still the close; and after that, the pauses.
            let _ = file::touch(description.file());
        }
        // Closed outside the mutex.
        drop(description);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.get().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the turn, or joins the queue for it.
    pub(super) fn claim_or_join(self: &Arc<Self>, task: bool) -> Result<Turn, Queued> {
        let asker = Asker { task, ..Asker::new(Mode::Exclusive) };
        let mut state = self.state();
        if state.queue.claim(asker, false) {
            return Ok(self.turn(&state));
        }
        Err(self.queued(state.queue.join(asker, false)))
    }

    /// Takes the turn for a try, if it is free, or becomes free before somebody sleeps with it.
    pub(super) fn claim_for_try(self: &Arc<Self>) -> Option<Turn> {
        let asker = Asker { trying: true, ..Asker::new(Mode::Exclusive) };
        let mut state = self.state();
        if state.queue.claim(asker, false) {
            return Some(self.turn(&state));
        }
        let queued = self.queued(state.queue.join_for_try(asker)?);
        drop(state);
        (queued.node().wait_for_try() == Told::Granted).then(|| queued.turn())
    }

    fn queued(self: &Arc<Self>, node: Arc<Node>) -> Queued {
        Queued { handle: Arc::clone(self), node: Some(node) }
    }

    fn turn(self: &Arc<Self>, state: &State) -> Turn {
        let number = state.queue.turn_number();
        Turn { handle: Arc::clone(self), number, generation: fork::generation() }
    }

    /// The turn that somebody in the queue was told of.
    fn turn_of_node(self: &Arc<Self>) -> Turn {
        let mut state = self.state();
        state.queue.wake_up();
        self.turn(&state)
    }

    /// Leaves the queue; if the turn has just been given, hands it on.
    fn leave(self: &Arc<Self>, node: &Arc<Node>) {
        let left = self.state().queue.leave(node);
        if !left && node.told() == Some(Told::Granted) {
            drop(self.turn_of_node());
        }
    }

    /// Whoever has the turn of that number will give it back soon.
    pub(super) fn is_leaving(&self, turn: u64) {
        self.state().queue.is_leaving(turn);
    }

    /// For an error.
    #[expect(clippy::unnecessary_wraps, reason = "that is how errors want it")]
    pub(super) fn path(&self) -> Option<Arc<Path>> {
        Some(self.place.shared_path())
    }

    /// Who may be in the way, when no description is at hand: somebody with slots or with a lease.
    pub(super) fn contention(&self, leased: bool) -> Contention {
        match self.place.identity(self.settings.follow_symlinks) {
            Some(identity) if leased => Contention::of_lease(identity),
            Some(identity) => Contention::new(identity, Mechanism::Ofd),
            None => Contention::unknown(),
        }
    }

    pub(super) fn lock_error(&self, operation: &'static str, errno: Errno) -> Error {
        let (path, mode) = (self.path(), Mode::Exclusive);
        match Error::of_lock_call(path, operation, Mechanism::Ofd, mode, errno) {
            Error::Permission { path, operation, source, .. } if errno == Errno::BADF => {
                let reason = "slots need a lock file that can be written";
                Error::Permission { path, operation, reason, source }
            }
            other => other,
        }
    }

    /// Why a wait ended, as an error. Who is in the way, the caller knows.
    pub(super) fn stopped(
        &self,
        operation: &'static str,
        stop: Stop,
        contention: impl FnOnce() -> Contention,
    ) -> Error {
        let path = self.path();
        match stop {
            Stop::TimedOut => Error::TimedOut { path, operation, contention: contention() },
            Stop::Cancelled => Error::Cancelled { path, operation },
            // No watch is set for it: who would have to let go, is not known of slots.
            Stop::Deadlock => Error::circle(path, operation),
            Stop::NoAlarm => Error::unsupported(
                path,
                operation,
                "there is no free signal, or no thread, to end the wait with; \
                 one without a deadline and without a cancel token needs neither",
            ),
            Stop::Os(errno) => self.lock_error(operation, errno),
        }
    }
}

/// What is let go of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Slots {
    None,
    /// Slots, on a description that is ours alone: closing it is an event, and the cheapest one.
    Some,
    /// Slots, on a description of which others may have a copy: closing ours is no event then.
    Exposed,
}

/// Returns whether somebody has the queue. Ask after slots were unlocked.
fn is_waited_for(description: &Description) -> bool {
    // When in doubt, yes.
    slots::is_taken(description.file(), Range::SEMAPHORE_QUEUE).unwrap_or(true)
}

/// Tells whoever waits that slots were unlocked on the description, which stays in use.
pub(super) fn tell_of_slots(description: &Description) {
    if is_waited_for(description) {
        // Where that cannot be done, the pauses help.
        let _ = file::touch(description.file());
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("path", &self.place.path())
            .field("slots", &self.slots)
            .field("fair", &self.fair)
            .finish_non_exhaustive()
    }
}

/// The right to wait in the kernel on behalf of a handle.
pub(super) struct Turn {
    handle: Arc<Handle>,
    number: u64,
    generation: u32,
}

impl Turn {
    /// What the queue knows it by.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether it was to be given back.
    pub(super) fn is_leaving(&self) -> bool {
        self.handle.state().queue.turn_is_leaving()
    }

    /// Whoever has it is going to sleep with it: nobody who tries is to wait for that.
    pub(super) fn fall_asleep(&self) {
        let next = self.handle.state().queue.fall_asleep();
        next.tell();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            return;
        }
        let mut state = self.handle.state();
        state.queue.give_back();
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
    }
}

/// A place in the queue, which is left when it is dropped; what has been granted by then is handed on.
pub(super) struct Queued {
    handle: Arc<Handle>,
    /// Until it is our turn.
    node: Option<Arc<Node>>,
}

impl Queued {
    pub(super) fn node(&self) -> &Arc<Node> {
        self.node.as_ref().expect("it is taken out by who consumes this")
    }

    /// The turn that the node was told of.
    pub(super) fn turn(mut self) -> Turn {
        self.node = None;
        self.handle.turn_of_node()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.handle.leave(&node);
        }
    }
}
