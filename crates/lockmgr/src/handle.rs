//! One handle: one kept description, one queue.
//!
//! The two tokens that pass through it are the [`Turn`], which is the right to ask the kernel, and
//! the [`Hold`](crate::hold::Hold), which is the lock. Both give themselves back when dropped, so no
//! early return and no panic can lose them. In a forked child both are dead: the child has a state
//! of its own ([`PerProcess`]), and its copy of the descriptor is harmless.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::description::{self, Description, OpenFailure, Place};
use crate::error::{Error, OPEN, Result};
use crate::held;
use crate::inspect::Contention;
use crate::mode::{Mechanism, Mode, Range};
use crate::options::{Fairness, Settings};
use crate::queue::{Asker, Node, Queue};
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
    /// The filesystem turned out to want a writable descriptor (NFS, for exclusive `flock`).
    pub(crate) wants_writing: AtomicBool,
    state: PerProcess<Mutex<State>>,
}

/// What came of asking for the turn.
pub(crate) enum Claimed {
    Turn(Turn),
    Queued(Arc<Node>),
    /// The queue would not move before the calling thread gives back what it holds.
    Never,
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
        Self {
            id: description::unique_id(),
            place,
            settings,
            wants_writing: AtomicBool::new(false),
            state: PerProcess::new(fork::generation(), Mutex::default()),
        }
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

    /// Takes the turn if it is free.
    pub(crate) fn claim(self: &Arc<Self>, asker: Asker, again: bool) -> Option<Turn> {
        let mut state = self.state();
        state.queue.claim(asker, again).then(|| self.turn(asker.mode, &state))
    }

    /// Queues for the turn, unless it has become free. `elsewhere` is what the calling thread holds
    /// on the file through other handles.
    pub(crate) fn claim_or_join(
        self: &Arc<Self>,
        asker: Asker,
        again: bool,
        elsewhere: Option<Mode>,
    ) -> Claimed {
        let mut state = self.state();
        if state.queue.claim(asker, again) {
            return Claimed::Turn(self.turn(asker.mode, &state));
        }
        if elsewhere
            .is_some_and(|held| held.conflicts_with(asker.mode) || state.queue.waits_for(held))
        {
            return Claimed::Never;
        }
        Claimed::Queued(state.queue.join(asker, again))
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
    pub(crate) fn turn_of(self: &Arc<Self>, mode: Mode) -> Turn {
        self.turn(mode, &self.state())
    }

    /// Leaves the queue; if the turn has just been given, hands it on.
    pub(crate) fn leave(self: &Arc<Self>, node: &Arc<Node>, mode: Mode) {
        let mut state = self.state();
        if state.queue.leave(node) {
            // Those behind it may have been waiting for it alone.
            let next = state.queue.pass_on();
            drop(state);
            tell(next);
        } else {
            drop(state);
            drop(self.turn_of(mode));
        }
    }

    fn turn(self: &Arc<Self>, mode: Mode, state: &State) -> Turn {
        let fair = self.settings.fairness != Fairness::Off;
        // On a fair handle the gate comes first; the turn joins later.
        let joined = !fair && mode == Mode::Shared && state.join();
        Turn::new(Arc::clone(self), mode, state.description.clone(), joined, fair)
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
        Error::of_lock_call(self.path(), operation, self.settings.mechanism, mode, errno)
    }

    pub(crate) fn gate_error(&self, errno: Errno) -> Error {
        let (mechanism, mode) = (Mechanism::Ofd, Mode::Exclusive);
        Error::of_lock_call(self.path(), "take the gate", mechanism, mode, errno)
    }
}

impl State {
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

/// Tells a node that it has the turn. Not under the mutex: a waker may run code of the program.
pub(crate) fn tell(next: Option<Arc<Node>>) {
    if let Some(node) = next {
        node.grant();
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
        Stop::Deadlock => Error::Deadlock { path, operation, own_thread: false, cycle: None },
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
