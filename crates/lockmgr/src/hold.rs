//! The hold: the lock as this process has it, and everything that can be done with it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use rustix::io::{Errno, FdFlags};

use crate::description::{Description, NotRemoved};
use crate::error::{Error, Result};
use crate::events;
use crate::gate::Passage;
use crate::handle::{Handle, State};
use crate::held;
use crate::inspect::{self, Contention, HeldHere};
use crate::mode::{Mechanism, Mode, Range};
use crate::options::Settings;
use crate::record::{self, Keeping, NotKept};
use crate::sys::file::{self, Identity, KeptFile};
use crate::sys::fork;
use crate::sys::lock::{self, Owner};
use crate::visit::discard;

const UNLOCK: &str = "unlock";
const ADOPT: &str = "adopt";
const REMOVE: &str = "remove the lock file";

/// What came of removing the lock file, if that was tried.
type Removal = Option<Result<(), NotRemoved>>;

/// The lock, held.
pub(crate) struct Hold {
    handle: Arc<Handle>,
    description: Arc<Description>,
    generation: u32,
    mode: Mode,
    /// Noted in the list of the thread, which the guard cannot leave.
    bound: bool,
    waited: Duration,
    /// Neither released nor lost nor handed over.
    live: bool,
    since: events::Moment,
    /// Why the lock file does not say so, though it was to.
    not_recorded: Option<NotKept>,
}

impl Hold {
    pub(crate) fn new(
        handle: Arc<Handle>,
        description: Arc<Description>,
        generation: u32,
        mode: Mode,
        bound: bool,
        waited: Duration,
    ) -> Self {
        let since = events::now();
        let (live, not_recorded) = (true, None);
        Self { handle, description, generation, mode, bound, waited, live, since, not_recorded }
    }

    /// What has just been acquired. It fails only for want of a token, and is released then.
    pub(crate) fn begin(
        handle: Arc<Handle>,
        description: Arc<Description>,
        generation: u32,
        mode: Mode,
        operation: &'static str,
        bound: bool,
        waited: Duration,
    ) -> Result<Self> {
        if bound {
            held::add(&handle, &description, mode, generation);
        }
        events::acquired(&handle, mode, waited);
        let mut hold = Self::new(handle, description, generation, mode, bound, waited);
        hold.keep_record(operation)?;
        Ok(hold)
    }

    /// One more guard for a hold that this thread has through a re-entrant handle.
    pub(crate) fn again(handle: &Arc<Handle>, mode: Mode, description: Arc<Description>) -> Self {
        let generation = fork::generation();
        Self::new(Arc::clone(handle), description, generation, mode, true, Duration::ZERO)
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    pub(crate) fn identity(&self) -> Identity {
        self.description.identity
    }

    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    pub(crate) fn file(&self) -> &File {
        // In a child that no at-fork handler announced, this is what makes the copy harmless.
        fork::generation();
        self.description.file().file()
    }

    pub(crate) fn is_remote(&self) -> bool {
        file::is_shared_with_other_machines(self.description.file())
    }

    pub(crate) fn is_held(&self) -> bool {
        self.live && self.generation == fork::generation()
    }

    /// Tells the lock file who holds it, if that is wanted, and gets the hold its token. Fails only
    /// for want of a token; the hold is to be given up then.
    pub(crate) fn keep_record(&mut self, operation: &'static str) -> Result<()> {
        let settings = &self.handle.settings;
        let Some(wanted) = &settings.record else { return Ok(()) };
        if self.mode == Mode::Shared {
            let reason = "shared holders would overwrite each other's";
            self.not_recorded = Some(NotKept::Refused(reason));
            return Ok(());
        }
        let keeping = Keeping { fenced: settings.fenced, durable: settings.durable };
        let place = self.handle.place.as_ref();
        match record::keep(&self.description, place, wanted, keeping) {
            Ok(token) => {
                self.not_recorded = None;
                self.description.token.store(token.unwrap_or(0), Ordering::Relaxed);
            }
            Err(NotKept::Ahead(stored)) => {
                return Err(Error::TokenAhead { path: self.handle.path(), operation, stored });
            }
            Err(reason) if settings.fenced => {
                return Err(self.not_kept(reason, "get a fencing token from the lock file"));
            }
            Err(reason) => self.not_recorded = Some(reason),
        }
        Ok(())
    }

    /// The token of an exclusive hold through a fenced handle.
    pub(crate) fn token(&self) -> Option<u64> {
        let has_one = self.handle.settings.fenced && self.mode == Mode::Exclusive && self.is_held();
        has_one.then(|| self.description.token.load(Ordering::Relaxed))
    }

    pub(crate) fn last_success(&self) -> Option<SystemTime> {
        let mut start = [0; record::START_LEN];
        self.require("read the last success").ok()?;
        let content = file::read_start(self.description.file(), &mut start).ok()?;
        record::preserved(content).last_success
    }

    pub(crate) fn mark_success(&self) -> Result<()> {
        const OPERATION: &str = "note the success";
        self.require(OPERATION)?;
        if self.mode == Mode::Shared {
            let reason = "the lock is held shared, and only an exclusive holder writes";
            return Err(Error::unsupported(self.handle.path(), OPERATION, reason));
        }
        let (place, durable) = (self.handle.place.as_ref(), self.handle.settings.durable);
        record::mark_success(&self.description, place, durable)
            .map_err(|reason| self.not_kept(reason, OPERATION))
    }

    pub(crate) fn not_recorded(&self) -> Option<Error> {
        Some(self.not_kept(self.not_recorded?, "keep a record of the holder"))
    }

    fn not_kept(&self, reason: NotKept, operation: &'static str) -> Error {
        let path = self.handle.path();
        match reason {
            NotKept::Refused(reason) => Error::unsupported(path, operation, reason),
            NotKept::NotReadable => {
                let reason = "the lock file cannot be read, and may hold other data";
                Error::Permission { path, operation, reason, source: Errno::ACCESS.into() }
            }
            NotKept::NotOpened(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                let reason = "the lock file cannot be opened for writing";
                Error::Permission { path, operation, reason, source: errno.into() }
            }
            NotKept::NotOpened(errno)
            | NotKept::NotRead(errno)
            | NotKept::NotWritten(errno)
            | NotKept::NotSynced(errno) => Error::io(path, operation, errno),
            NotKept::Ahead(stored) => Error::TokenAhead { path, operation, stored },
        }
    }

    fn require(&self, operation: &'static str) -> Result<()> {
        if self.generation != fork::generation() {
            return Err(Error::Forked { path: self.handle.path(), operation });
        }
        if !self.live {
            return Err(Error::Lost { path: self.handle.path(), operation });
        }
        Ok(())
    }

    pub(crate) fn still_current(&self) -> Result<bool> {
        const OPERATION: &str = "check the lock file";
        self.require(OPERATION)?;
        match &self.handle.place {
            Some(place) => self
                .description
                .is_current(place, true)
                .map_err(|errno| Error::io(self.handle.path(), OPERATION, errno)),
            None => Ok(true),
        }
    }

    /// Releases the lock. With `report`, what went wrong on the way is looked for and told; the
    /// lock is released in any case.
    pub(crate) fn release(&mut self, report: bool) -> Result<()> {
        if !self.live {
            return Ok(());
        }
        self.require(UNLOCK)?;
        self.live = false;
        if self.bound && !held::leave(self.handle.id, &self.description) {
            return Ok(());
        }
        let path = || self.handle.path();
        let remove = self.handle.settings.remove_on_release;
        // Removal looks for itself, but a shared holder may not come to that.
        let look = report && (!remove || self.mode == Mode::Shared);
        let mut problem = if look { self.replacement() } else { None };
        let (removed, unlocked) = match self.mode {
            Mode::Exclusive => {
                let removed = if remove { self.remove() } else { None };
                let unlocked = self.description.unlock();
                (removed, unlocked)
            }
            Mode::Shared => self.release_shared(remove),
        };
        let gone = matches!(removed, Some(Ok(()))) || unlocked.is_err();
        let mut state = self.handle.state();
        let old = if gone { self.handle.forget(&mut state, &self.description) } else { None };
        state.queue.release(self.mode);
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
        drop(old);
        events::released(&self.handle, self.mode, self.since);
        match removed {
            None | Some(Ok(())) => {}
            Some(Err(NotRemoved::Replaced)) => problem = Some(self.replaced()),
            Some(Err(NotRemoved::Kept(reason))) => {
                problem = Some(Error::NotOurs { path: path(), operation: UNLOCK, reason });
            }
            Some(Err(NotRemoved::Os(errno))) => {
                problem = Some(Error::io(path(), REMOVE, errno));
            }
        }
        if let Err(errno) = unlocked {
            problem = Some(Error::io(path(), UNLOCK, errno));
        }
        problem.map_or(Ok(()), Err)
    }

    /// What the path says before the release.
    fn replacement(&self) -> Option<Error> {
        let place = self.handle.place.as_ref()?;
        match self.description.is_current(place, true) {
            Ok(true) => None,
            Ok(false) => Some(self.replaced()),
            Err(errno) => Some(Error::io(self.handle.path(), UNLOCK, errno)),
        }
    }

    fn replaced(&self) -> Error {
        Error::Replaced { path: self.handle.path(), operation: UNLOCK, while_held: true }
    }

    /// While it is held exclusively.
    fn remove(&self) -> Removal {
        self.handle.place.as_ref().map(|place| self.description.remove(place))
    }

    /// One shared hold less. The last one in the process lets go, and removes the file if it can
    /// become the exclusive holder at once.
    fn release_shared(&self, remove: bool) -> (Removal, Result<(), Errno>) {
        // Under the mutex, so that nobody joins a hold that is being given up.
        let _state = self.handle.state();
        if self.description.sharers.fetch_sub(1, Ordering::Relaxed) != 1 {
            return (None, Ok(()));
        }
        // A `posix` lock may be shared with other handles of this process, which the kernel would
        // make exclusive as well.
        // Through the gate, in which somebody else may count on being alone: see `try_upgrade`.
        let mut passage = if remove { Passage::approach(&self.description) } else { None };
        let passed = passage.as_mut().is_none_or(|passage| matches!(passage.try_enter(), Ok(true)));
        let alone = remove
            && passed
            && self.handle.settings.mechanism != Mechanism::Posix
            && matches!(self.description.try_lock(Mode::Exclusive), Ok(true));
        let removed = if alone { self.remove() } else { None };
        (removed, self.description.unlock())
    }

    pub(crate) fn downgrade(&mut self) -> Result<()> {
        const OPERATION: &str = "downgrade";
        self.require(OPERATION)?;
        if self.mode == Mode::Shared {
            return Ok(());
        }
        self.refuse_nested(OPERATION)?;
        match self.description.downgrade() {
            Ok(true) if self.was_let_go() && !self.is_current() => {
                return Err(self.lose(OPERATION));
            }
            Ok(true) => {}
            Ok(false) => return Err(self.lose(OPERATION)),
            Err(errno) => return Err(self.handle.lock_error(OPERATION, Mode::Shared, errno)),
        }
        self.description.sharers.store(1, Ordering::Relaxed);
        self.change_mode(Mode::Shared);
        Ok(())
    }

    pub(crate) fn try_upgrade(&mut self) -> Result<()> {
        const OPERATION: &str = "upgrade";
        self.require(OPERATION)?;
        if self.mode == Mode::Exclusive {
            return Ok(());
        }
        self.refuse_nested(OPERATION)?;
        let mechanism = self.handle.settings.mechanism;
        if mechanism == Mechanism::Posix {
            return Err(Error::unsupported(
                self.handle.path(),
                OPERATION,
                "a posix lock cannot be upgraded safely; ofd and flock locks can",
            ));
        }
        let busy = |hold: &Self| Error::Busy {
            path: hold.handle.path(),
            operation: OPERATION,
            contention: Contention::new(hold.description.identity, mechanism),
        };
        let handle = Arc::clone(&self.handle);
        // The mutex is held meanwhile, so that nobody joins the shared hold; nothing here waits.
        let mut state = handle.state();
        if !state.queue.is_sole_holder() {
            drop(state);
            return Err(busy(self));
        }
        // With the gate, nobody can be on his way in while `flock` has let go of the shared lock. It
        // is given back before the mutex, under which nobody else can come to it by way of this
        // handle.
        let mut passage =
            if self.was_let_go() { Passage::approach(&self.description) } else { None };
        if let Some(passage) = &mut passage
            && !passage.try_enter().map_err(|errno| handle.gate_error(errno))?
        {
            let (path, contention) = (handle.path(), passage.contention());
            return Err(Error::Busy { path, operation: OPERATION, contention });
        }
        match self.description.try_lock(Mode::Exclusive) {
            Ok(true) => {}
            Ok(false) => {
                let kept = !self.was_let_go()
                    || matches!(self.description.try_lock(Mode::Shared), Ok(true))
                        && self.is_current();
                drop(passage);
                return Err(if kept {
                    drop(state);
                    busy(self)
                } else {
                    self.lose_under(state, OPERATION)
                });
            }
            Err(errno) => {
                let error = self.handle.lock_error(OPERATION, Mode::Exclusive, errno);
                return Err(error);
            }
        }
        drop(passage);
        // Under the same mutex still: whoever comes now finds an exclusive hold.
        self.description.sharers.store(0, Ordering::Relaxed);
        state.queue.release(Mode::Shared);
        state.queue.add(Mode::Exclusive);
        drop(state);
        self.note_mode(Mode::Exclusive);
        if self.was_let_go() && !self.is_current() {
            return Err(self.lose(OPERATION));
        }
        // Without a token it stays shared, which for `flock` may fail in its turn.
        self.keep_record(OPERATION).or_else(|refused| self.downgrade().and(Err(refused)))
    }

    /// Whether a change of mode lets the lock go for a moment. In it somebody else may have been
    /// inside, and have replaced the file, as an exclusive holder may: look with `is_current`.
    fn was_let_go(&self) -> bool {
        self.handle.settings.mechanism == Mechanism::Flock
    }

    fn is_current(&self) -> bool {
        matches!(self.still_current(), Ok(true))
    }

    fn refuse_nested(&self, operation: &'static str) -> Result<()> {
        if self.bound && held::is_nested(self.handle.id, &self.description) {
            return Err(Error::unsupported(
                self.handle.path(),
                operation,
                "other guards of this thread share the hold; drop them first",
            ));
        }
        Ok(())
    }

    fn change_mode(&mut self, mode: Mode) {
        let mut state = self.handle.state();
        state.queue.release(self.mode);
        state.queue.add(mode);
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
        self.note_mode(mode);
    }

    fn note_mode(&mut self, mode: Mode) {
        if self.bound {
            held::change_mode(self.handle.id, &self.description, mode);
        }
        self.mode = mode;
    }

    /// The kernel no longer holds it for us, or no longer on the right file.
    fn lose(&mut self, operation: &'static str) -> Error {
        let handle = Arc::clone(&self.handle);
        self.lose_under(handle.state(), operation)
    }

    /// As `lose`. Until the state says so, nobody else may think that there is a hold to join.
    fn lose_under(&mut self, mut state: MutexGuard<'_, State>, operation: &'static str) -> Error {
        let _ = self.description.unlock();
        self.live = false;
        if self.bound {
            held::leave(self.handle.id, &self.description);
        }
        self.description.sharers.store(0, Ordering::Relaxed);
        state.queue.release(self.mode);
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
        Error::Lost { path: self.handle.path(), operation }
    }

    /// Hands the lock over as a descriptor of its open file description.
    pub(crate) fn into_fd(mut self) -> Result<OwnedFd> {
        const OPERATION: &str = "hand over";
        self.require(OPERATION)?;
        let refuse = |reason| Err(Error::unsupported(self.handle.path(), OPERATION, reason));
        if self.handle.settings.mechanism == Mechanism::Posix {
            return refuse("a posix lock belongs to the process and cannot be handed over");
        }
        let handle = Arc::clone(&self.handle);
        let mut state = handle.state();
        // Whoever is on the way in, as in the gate, asks on the same description.
        let shared = self.mode == Mode::Shared
            && (self.description.sharers.load(Ordering::Relaxed) > 1 || state.queue.is_asking());
        if shared {
            drop(state);
            return refuse("other guards of this handle share the hold; release them first");
        }
        self.live = false;
        self.description.sharers.store(0, Ordering::Relaxed);
        // Whoever acquires through this handle next is another party than the one we hand it to.
        let old = state.description.take_if(|kept| Arc::ptr_eq(kept, &self.description));
        state.queue.release(self.mode);
        let next = state.queue.pass_on();
        drop(state);
        next.tell();
        let description = Arc::clone(&self.description);
        drop((old, self));
        match Arc::try_unwrap(description) {
            Ok(description) => Ok(description.into_fd()),
            // A guard that was released before is not quite gone yet.
            Err(description) => description.hand_over_copy().map_err(|errno| {
                let _ = description.unlock();
                Error::io(handle.path(), OPERATION, errno)
            }),
        }
    }

    /// Takes over a lock that the descriptor's open file description holds.
    pub(crate) fn adopt(fd: OwnedFd) -> Result<Self> {
        let lock = match to_adopt(&fd) {
            Ok(lock) => lock,
            Err(error) => {
                discard(KeptFile::keep(File::from(fd)));
                return Err(error);
            }
        };
        let settings =
            Settings { mechanism: lock.mechanism, range: lock.range, ..Settings::default() };
        let handle = Arc::new(Handle::of_file(File::from(fd), settings, ADOPT)?);
        let description = {
            let mut state = handle.state();
            state.queue.add(lock.mode);
            state.description.clone().expect("a handle of a file has its description")
        };
        if lock.mode == Mode::Shared {
            description.sharers.store(1, Ordering::Relaxed);
        }
        let generation = fork::generation();
        Ok(Self::new(handle, description, generation, lock.mode, false, Duration::ZERO))
    }
}

/// The lock that the descriptor's open file description holds, made ready for a guard.
fn to_adopt(fd: &OwnedFd) -> Result<HeldHere> {
    let locks = inspect::held_through(fd).map_err(|source| Error::Io {
        path: None,
        operation: ADOPT,
        source,
    })?;
    let mut owned = locks.iter().filter(|lock| lock.mechanism != Mechanism::Posix);
    let Some(&lock) = owned.next() else {
        if file::is_on_fuse(fd) {
            return Err(Error::unsupported(
                None,
                ADOPT,
                "the server of this filesystem may keep the lock, and then the kernel does not tell \
                 what the descriptor holds",
            ));
        }
        return Err(Error::NotHeld { path: None, operation: ADOPT });
    };
    if owned.next().is_some() {
        return Err(Error::unsupported(
            None,
            ADOPT,
            "the descriptor holds several locks, and a guard stands for one",
        ));
    }
    if lock.mechanism == Mechanism::Ofd && lock.range.start() >= Range::LIMIT {
        return Err(Error::unsupported(
            None,
            ADOPT,
            "the lock begins at or beyond 2^62, where no guard has one: it is a gate, or another \
             program's",
        ));
    }
    if lock.mechanism == Mechanism::Ofd && lock.range.len().is_none() {
        // A foreign lock to the end of the file covers the gates too; ours stops before them.
        lock::record_unlock(fd, Owner::Description, Range::BEYOND)
            .map_err(|errno| Error::io(None, ADOPT, errno))?;
    }
    // It was inheritable, for us to get it; our own children are not meant.
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).map_err(|errno| Error::io(None, ADOPT, errno))?;
    Ok(lock)
}

impl Drop for Hold {
    fn drop(&mut self) {
        // There is nobody to tell; `unlock` is for those who want to know.
        drop(self.release(false));
    }
}

/// One shared hold less on the description, under the mutex of the state; the last one unlocks.
pub(crate) fn leave_shared(description: &Description) {
    if description.sharers.fetch_sub(1, Ordering::Relaxed) == 1 {
        // It can fail only where the descriptor is no longer ours; closing releases then.
        let _ = description.unlock();
    }
}
