//! One handle: one kept description, one queue.
//!
//! The two tokens that pass through it are the [`Turn`], which is the right to ask the kernel, and
//! the [`Hold`], which is the lock. Both give themselves back when dropped, so no
//! early return and no panic can lose them. In a forked child both are dead: the child has a state
//! of its own ([`PerProcess`]), and its copy of the descriptor is harmless.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::description::{self, Description, OpenFailure};
use crate::error::{DIRECTORY, Error, OPEN, Result};
use crate::held;
use crate::hold::{Hold, leave_shared};
use crate::inspect::Contention;
use crate::mode::{Mechanism, Mode, Range};
use crate::options::{Fairness, Settings};
use crate::place::Place;
use crate::queue::{Asker, Node, Queue, Told};
use crate::sys::file::{Identity, KeptFile};
use crate::sys::fork::{self, PerProcess};
use crate::turn::Turn;
use crate::wait::Stop;

/// What all clones of a [`FileLock`](crate::FileLock) share.
pub(crate) struct Handle {
    /// Never used twice in a process.
    pub(crate) id: u64,
    /// `None` when the program opened the file itself.
    pub(crate) place: Option<Place>,
    pub(crate) settings: Settings,
    /// Somebody wants a writable descriptor: the program, or a filesystem (NFS, for exclusive `flock`).
    pub(crate) wants_writing: AtomicBool,
    state: PerProcess<Mutex<State>>,
}

/// What came of asking for the turn.
pub(crate) enum Claimed {
    Turn(Turn),
    /// It is not needed.
    Joined(Joined),
    Queued(Queued),
    /// A try has nothing to wait for.
    Busy,
    /// The queue would not move before the calling thread gives back what it holds.
    Never,
}

/// How the turn is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) asker: Asker,
    /// The calling thread holds the lock shared through this handle already.
    pub(crate) again: bool,
    /// The gate, if there is one, is not for this acquisition.
    pub(crate) past_gate: bool,
}

/// What changes, under one mutex that is never held while anything sleeps.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) description: Option<Arc<Description>>,
}

impl Handle {
    /// A handle that opens its file at the first acquisition.
    pub(crate) fn lazy(place: Place, settings: Settings) -> Self {
        Self::new(Some(place), settings)
    }

    /// A handle whose file is open. A lease in the way is left to the first acquisition, which has
    /// a deadline.
    pub(crate) fn opened(place: Place, settings: Settings) -> Result<Self> {
        let mut handle = Self::lazy(place, settings);
        match handle.open() {
            Ok(description) => handle.state_mut().description = Some(description),
            Err(OpenFailure::Lease(_)) => {}
            Err(OpenFailure::Failed(error)) => return Err(error),
        }
        Ok(handle)
    }

    pub(crate) fn of_file(file: File, settings: Settings, operation: &'static str) -> Result<Self> {
        let description = Description::from_file(KeptFile::keep(file), &settings, operation)?;
        let mut handle = Self::new(None, settings);
        handle.state_mut().description = Some(Arc::new(description));
        Ok(handle)
    }

    fn new(place: Option<Place>, settings: Settings) -> Self {
        let wants_writing = settings.writable;
        Self {
            id: description::unique_id(),
            place,
            settings,
            wants_writing: AtomicBool::new(wants_writing),
            state: PerProcess::new(fork::generation(), Mutex::default()),
        }
    }

    pub(crate) fn is_inherited(&self) -> bool {
        !self.state.was_made_here()
    }

    pub(crate) fn path(&self) -> Option<Arc<Path>> {
        self.place.as_ref().map(Place::shared_path)
    }

    pub(crate) fn open(&self) -> Result<Arc<Description>, OpenFailure> {
        let Some(place) = &self.place else {
            // What the program brought cannot be opened again.
            return Err(OpenFailure::Failed(if self.state.was_made_here() {
                let reason = "its file went away with the lock that was handed over";
                Error::unsupported(None, OPEN, reason)
            } else {
                Error::Forked { path: None, operation: OPEN }
            }));
        };
        let writable = self.wants_writing.load(Ordering::Relaxed);
        Description::open(place, &self.settings, writable).map(Arc::new)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.get().lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&mut self) -> &mut State {
        self.state.get_mut().get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the turn if it is free, or does without.
    pub(crate) fn claim(self: &Arc<Self>, terms: Terms) -> Option<Claimed> {
        self.claim_under(&mut self.state(), terms)
    }

    fn claim_under(self: &Arc<Self>, state: &mut State, terms: Terms) -> Option<Claimed> {
        let Terms { asker, again, past_gate } = terms;
        if asker.mode == Mode::Shared
            && (again || past_gate)
            && let Some(description) = state.share(again)
        {
            return Some(Claimed::Joined(Joined::new(self, description)));
        }
        state.queue.claim(asker, again).then(|| Claimed::Turn(self.turn(asker.mode, state)))
    }

    /// Queues for the turn, unless it has become free; a try only if it will be known soon what is to be
    /// had. `elsewhere` is what the calling thread holds on the file through other handles.
    pub(crate) fn claim_or_join(
        self: &Arc<Self>,
        terms: Terms,
        elsewhere: Option<Mode>,
    ) -> Claimed {
        let mut state = self.state();
        if let Some(claimed) = self.claim_under(&mut state, terms) {
            return claimed;
        }
        let Terms { asker, again, .. } = terms;
        let queued = |node| Queued { handle: Arc::clone(self), node: Some(node), mode: asker.mode };
        if asker.trying {
            return state
                .queue
                .join_for_try(asker)
                .map(queued)
                .map_or(Claimed::Busy, Claimed::Queued);
        }
        if elsewhere
            .is_some_and(|held| held.conflicts_with(asker.mode) || state.queue.waits_for(held))
        {
            return Claimed::Never;
        }
        Claimed::Queued(queued(state.queue.join(asker, again)))
    }

    /// Which file it is: what the path names now, or what the program brought.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match &self.place {
            Some(place) => place.identity(self.settings.follow_symlinks),
            None => self.state().description.as_ref().map(|description| description.identity),
        }
    }

    /// What the calling thread holds, through any handle, of what this one is to lock.
    pub(crate) fn held_by_this_thread(&self) -> Option<Mode> {
        if held::is_nothing() {
            return None;
        }
        let kept = self.state().description.as_ref().map(|description| description.identity);
        let follow = self.settings.follow_symlinks;
        let identity = kept.or_else(|| self.place.as_ref()?.identity(follow))?;
        held::mode_of(identity, self.settings.mechanism, self.settings.range)
    }

    /// The turn that a node was told of.
    fn turn_of(self: &Arc<Self>, mode: Mode) -> Turn {
        let mut state = self.state();
        state.queue.wake_up();
        self.turn(mode, &state)
    }

    /// Leaves the queue; if the turn has just been given, hands it on.
    fn leave(self: &Arc<Self>, node: &Arc<Node>, mode: Mode) {
        let mut state = self.state();
        if state.queue.leave(node) {
            // Those behind it may have been waiting for it alone.
            let next = state.queue.pass_on();
            drop(state);
            next.tell();
        } else if node.told() == Some(Told::Granted) {
            drop(state);
            drop(self.turn_of(mode));
        }
    }

    /// Whoever has the turn is going to sleep with it: nobody who tries is to wait for that.
    pub(crate) fn fall_asleep(&self) {
        let next = self.state().queue.fall_asleep();
        next.tell();
    }

    /// Whoever has the turn of that number will give it back soon.
    pub(crate) fn is_leaving(&self, turn: u64) {
        self.state().queue.is_leaving(turn);
    }

    fn turn(self: &Arc<Self>, mode: Mode, state: &State) -> Turn {
        let fair = self.settings.fairness != Fairness::Off;
        // On a fair handle the gate comes first; the turn joins later.
        let joined = !fair && mode == Mode::Shared && state.join();
        let number = state.queue.turn_number();
        Turn::new(Arc::clone(self), number, mode, state.description.clone(), joined, fair)
    }

    /// Who is in the way, as far as the kernel will know.
    pub(crate) fn contention(&self) -> Contention {
        match &self.state().description {
            Some(description) => Contention::new(description.identity, self.settings.mechanism),
            None => Contention::unknown(),
        }
    }

    /// Drops the description from the state, if it can be opened again. Let the result go only
    /// after the mutex: closing may take its time.
    pub(crate) fn forget(
        &self,
        state: &mut State,
        description: &Arc<Description>,
    ) -> Option<Arc<Description>> {
        // A description that the program brought cannot be opened again.
        self.place.as_ref()?;
        state.description.take_if(|kept| Arc::ptr_eq(kept, description))
    }

    pub(crate) fn lock_error(&self, operation: &'static str, mode: Mode, errno: Errno) -> Error {
        let is_record = self.settings.mechanism != Mechanism::Flock;
        let follow = self.settings.follow_symlinks;
        if (errno, mode, is_record) == (Errno::BADF, Mode::Exclusive, true)
            && self.place.as_ref().is_some_and(|place| place.is_directory(follow))
        {
            return Error::NotLockable { path: self.path(), operation, reason: DIRECTORY };
        }
        Error::of_lock_call(self.path(), operation, self.settings.mechanism, mode, errno)
    }

    pub(crate) fn gate_error(&self, errno: Errno) -> Error {
        let (mechanism, mode) = (Mechanism::Ofd, Mode::Exclusive);
        Error::of_lock_call(self.path(), "take the gate", mechanism, mode, errno)
    }
}

impl State {
    /// Shares what is held shared through the handle, without a turn.
    fn share(&mut self, again: bool) -> Option<Arc<Description>> {
        let kept = self.description.as_ref()?;
        let shared = kept.sharers.load(Ordering::Relaxed) > 0 && self.queue.share(again);
        shared.then(|| {
            kept.sharers.fetch_add(1, Ordering::Relaxed);
            Arc::clone(kept)
        })
    }

    /// Joins the shared hold of this process on the kept description, if there is one: then the
    /// kernel need not be asked.
    pub(crate) fn join(&self) -> bool {
        self.description.as_ref().is_some_and(|kept| {
            let shared = kept.sharers.load(Ordering::Relaxed) > 0;
            if shared {
                kept.sharers.fetch_add(1, Ordering::Relaxed);
            }
            shared
        })
    }
}

/// A place in the queue, which is left when it is dropped; what has been granted by then is handed on.
pub(crate) struct Queued {
    handle: Arc<Handle>,
    /// Until it is our turn.
    node: Option<Arc<Node>>,
    mode: Mode,
}

impl Queued {
    pub(crate) fn node(&self) -> &Arc<Node> {
        self.node.as_ref().expect("it is taken out by who consumes this")
    }

    /// Whether it is that of a try, which does not wait for the lock.
    pub(crate) fn is_for_try(&self) -> bool {
        self.node().is_for_try()
    }

    /// The turn that the node was told of.
    pub(crate) fn turn(mut self) -> Turn {
        self.node = None;
        self.handle.turn_of(self.mode)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            self.handle.leave(&node, self.mode);
        }
    }
}

/// A share in what is held shared through the handle. Given back when it is dropped.
pub(crate) struct Joined {
    handle: Arc<Handle>,
    description: Option<Arc<Description>>,
    generation: u32,
}

impl Joined {
    fn new(handle: &Arc<Handle>, description: Arc<Description>) -> Self {
        let (handle, generation) = (Arc::clone(handle), fork::generation());
        Self { handle, description: Some(description), generation }
    }

    /// Becomes a hold, unless the path has come to name another file.
    pub(crate) fn settle(
        mut self,
        operation: &'static str,
        bound: bool,
        waited: Duration,
    ) -> Result<Option<Hold>> {
        let Some(description) = &self.description else { return Ok(None) };
        let current = match &self.handle.place {
            Some(place) => description.is_current(place, false),
            None => Ok(true),
        };
        match current {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(errno) => return Err(Error::io(self.handle.path(), operation, errno)),
        }
        let (handle, description) = (Arc::clone(&self.handle), self.description.take());
        let description = description.expect("it was there");
        Hold::begin(handle, description, self.generation, Mode::Shared, operation, bound, waited)
            .map(Some)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let Some(description) = self.description.take() else { return };
        if self.generation != fork::generation() {
            return;
        }
        let mut state = self.handle.state();
        let gone = self.handle.forget(&mut state, &description);
        leave_shared(&description);
        state.queue.release(Mode::Shared);
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
        // Closed outside the mutex.
        drop((gone, description));
    }
}

/// Why a wait ended, as an error.
pub(crate) fn stopped(
    handle: &Handle,
    operation: &'static str,
    mode: Mode,
    stop: Stop,
    contention: impl FnOnce() -> Contention,
) -> Error {
    let path = handle.path();
    match stop {
        Stop::TimedOut => Error::TimedOut { path, operation, contention: contention() },
        Stop::Cancelled => Error::Cancelled { path, operation },
        Stop::Deadlock => Error::circle(path, operation),
        Stop::NoAlarm => Error::unsupported(
            path,
            operation,
            "there is no free signal, or no thread, to end the wait with; \
             one without a deadline and without a cancel token needs neither",
        ),
        Stop::Os(errno) => handle.lock_error(operation, mode, errno),
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileLock")
            .field("path", &self.place.as_ref().map(Place::path))
            .field("mechanism", &self.settings.mechanism)
            .field("range", &Range::to_string(&self.settings.range))
            .finish_non_exhaustive()
    }
}
