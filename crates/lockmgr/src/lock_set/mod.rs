//! Several locks at once: all of them or none.
//!
//! Protocol, that of C++'s `std::lock`:
//! 1. Sleep on one of the locks while holding none of the others.
//! 2. Try the others, without waiting. All free: done.
//! 3. Otherwise release everything, and go to 1 with the one that was busy.
//!
//! No deadlock: who sleeps holds nothing of the set, so nobody waits for a sleeper, whatever orders,
//! paths or mounts are in play. The price is that a set can starve: while others keep any of its locks
//! busy, nothing makes them wait for *all* of it to be free.
//!
//! Two sets can also go on taking each other's locks in step, and where a filesystem shows one file
//! under two identities, a set can be in its own way. Neither is seen from here, so after some rounds
//! that came to nothing though nobody was waited for, there is a short pause of random length.
//!
//! A lock that is in the set twice would be busy for ever. So before each round the files are looked
//! at, and locks that would meet in the kernel are taken as one ([`Plan`]); and because a path can come
//! to name another file between that look and the grant, what was taken as one is looked at again when
//! everything is held.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::acquire::{Request, When};
use crate::cancel::CancelToken;
use crate::description::TRIES;
use crate::error::{Error, Result};
use crate::file_lock::FileLock;
use crate::guard::FileLockGuard;
use crate::handle::stopped;
use crate::hold::Hold;
use crate::mode::Mode;
use crate::queue::{Asker, Node};
use crate::wait::Limits;

mod future;
mod guard;
mod plan;

pub use future::AcquireSetFuture;
pub use guard::{LockSetGuard, OwnedLockSetGuard};

use plan::Plan;

/// Several locks that are acquired all together or not at all.
///
/// Each lock has its own mode, mechanism and options; they may lie on different filesystems. The
/// order in which they are given does not matter: sets of other threads and processes may name the
/// same locks in any order without a deadlock, because no set holds anything while it waits.
///
/// That is also its limit: a set has no place in a queue for all of its locks at once, and where
/// others keep one or another of them busy all the time, it can *starve*. Locks that are
/// [fair](crate::FileLockOptions::fair) help: the set queues at the gate of the lock that was busy.
/// Programs that mostly need the same few locks together are better off with one lock for them all.
///
/// Locks that are given twice, by whatever path, are taken once, in the stronger mode, and with the
/// [options](crate::FileLockOptions) of all: if one of them is to be recorded, fenced, durable, fair,
/// writable, re-entrant or removed on release, or to look for deadlocks, the one that is taken is too. Of
/// two notes, and of two recorded commands, the first counts. Ranges that overlap are taken as one range
/// that covers them.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = |name: &str| dir.path().join(name);
/// use std::time::Duration;
/// use lockmgr::{FileLock, LockSet};
///
/// let from = FileLock::open(path("alice.lock"))?;
/// let to = FileLock::open(path("bob.lock"))?;
/// let rates = FileLock::open(path("rates.lock"))?;
///
/// let set = LockSet::new().exclusive(&from).exclusive(&to).shared(&rates);
/// let guard = set.lock_timeout(Duration::from_secs(10))?;
/// // All three, or an error and none.
/// assert!(guard.still_current()?);
/// guard.unlock()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Crash safety
/// The kernel holds the locks; they are free as soon as the process is gone, however it ended.
///
/// # References
/// `flock(2)`, `fcntl(2)`; `std::lock` of C++
#[derive(Clone, Default)]
#[must_use = "a set does nothing until it is locked"]
pub struct LockSet {
    members: Vec<(FileLock, Mode)>,
}

impl LockSet {
    /// Returns a set of no locks.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this lock as well, in this mode.
    pub fn with(mut self, lock: &FileLock, mode: Mode) -> Self {
        self.members.push((lock.clone(), mode));
        self
    }

    /// With this lock as well, exclusively.
    pub fn exclusive(self, lock: &FileLock) -> Self {
        self.with(lock, Mode::Exclusive)
    }

    /// With this lock as well, together with other shared holders.
    pub fn shared(self, lock: &FileLock) -> Self {
        self.with(lock, Mode::Shared)
    }

    /// How many locks were given, duplicates included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Returns whether no lock was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn members(&self) -> &[(FileLock, Mode)] {
        &self.members
    }

    /// Returns an acquisition to which a deadline and cancel tokens can be given, and which can be
    /// awaited.
    pub fn acquire(&self) -> AcquireSet<'_> {
        AcquireSet { set: self, when: When::Forever, tokens: Vec::new() }
    }

    /// Acquires all the locks, however long it takes.
    ///
    /// # Errors
    /// Those of the single locks; nothing is held then. [`Error::Deadlock`] if this thread holds
    /// one of the locks already by a guard that cannot leave it; [`Error::Unsupported`] if locks of
    /// the set exclude each other for good: an `ofd` and a `posix` lock on the same bytes, or, on one
    /// file, a [fenced](crate::FileLockOptions::fenced) one and one to be
    /// [removed](crate::FileLockOptions::remove_on_release).
    pub fn lock(&self) -> Result<LockSetGuard<'_>> {
        self.acquire().wait()
    }

    /// Acquires all the locks if all of them are free.
    ///
    /// # Errors
    /// [`Error::Busy`] with the first one that was not.
    pub fn try_lock(&self) -> Result<LockSetGuard<'_>> {
        self.acquire().try_now()
    }

    /// Acquires all the locks within `timeout`, which covers everything: opening the files, all
    /// waits, all tries. Zero is one attempt.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with the lock that was last in the way; never early, late only by
    /// scheduling.
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockSetGuard<'_>> {
        self.acquire().timeout(timeout).wait()
    }

    /// As [`lock_timeout`](Self::lock_timeout), until this moment.
    pub fn lock_until(&self, deadline: Instant) -> Result<LockSetGuard<'_>> {
        self.acquire().deadline(deadline).wait()
    }
}

impl FromIterator<(FileLock, Mode)> for LockSet {
    fn from_iter<I: IntoIterator<Item = (FileLock, Mode)>>(members: I) -> Self {
        Self { members: members.into_iter().collect() }
    }
}

impl fmt::Debug for LockSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.members).finish()
    }
}

/// An acquisition of a whole set to be made; see [`Acquire`](crate::Acquire), whose endings it has.
///
/// # Cancel safety
/// Dropping the future ends the wait at once and releases whatever is held.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let (a, b) = (dir.path().join("a.lock"), dir.path().join("b.lock"));
/// use std::time::Duration;
/// use lockmgr::{CancelToken, FileLock, LockSet};
///
/// let cancel = CancelToken::new();
/// let set = LockSet::new().exclusive(&FileLock::open(&a)?).shared(&FileLock::open(&b)?);
/// let guard = set.acquire().timeout(Duration::from_secs(5)).cancel(&cancel).wait()?;
/// # drop(guard);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "an acquisition does nothing until it is waited for"]
pub struct AcquireSet<'a> {
    set: &'a LockSet,
    when: When,
    tokens: Vec<CancelToken>,
}

impl<'a> AcquireSet<'a> {
    /// For at most so long, counted from this call. Zero is one attempt.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.when = When::within(timeout);
        self
    }

    /// Until this moment. One that has passed is one attempt.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.when = When::Until(deadline);
        self
    }

    /// Until the token is cancelled. May be called more than once: any of the tokens will do.
    pub fn cancel(mut self, token: &CancelToken) -> Self {
        self.tokens.push(token.clone());
        self
    }

    /// Sleeps until all locks are held, with a guard that cannot leave this thread.
    ///
    /// # Errors
    /// As for [`LockSet::lock`], [`Error::TimedOut`] and [`Error::Cancelled`].
    pub fn wait(self) -> Result<LockSetGuard<'a>> {
        let (holds, plan, waited) = self.run(true)?;
        let guards = holds.into_iter().map(FileLockGuard::new).collect();
        Ok(LockSetGuard::new(guards, plan.into_given(), waited))
    }

    /// As [`wait`](Self::wait), with a guard that can be sent to other threads and stored.
    pub fn wait_owned(self) -> Result<OwnedLockSetGuard> {
        let (holds, plan, waited) = self.run(false)?;
        Ok(OwnedLockSetGuard::of(holds, plan, waited))
    }

    /// One attempt at each; [`Error::Busy`] when somebody has one of them.
    pub fn try_now(mut self) -> Result<LockSetGuard<'a>> {
        self.when = When::Now;
        self.wait()
    }

    /// As [`try_now`](Self::try_now), with a guard that can be sent to other threads and stored.
    pub fn try_now_owned(mut self) -> Result<OwnedLockSetGuard> {
        self.when = When::Now;
        self.wait_owned()
    }

    fn run(&self, bound: bool) -> Result<(Vec<Hold>, Plan, Duration)> {
        let since = Instant::now();
        let mut next = Next::default();
        loop {
            let plan = Plan::of(self.set.members())?;
            let Some((lock, mode)) = plan.member(next.given) else {
                return Ok((Vec::new(), plan, Duration::ZERO));
            };
            let request = Request { tokens: self.tokens.clone(), ..Request::new(mode, self.when) };
            let first = request.run(lock, bound)?;
            let waited = next.waited(&first, since);
            match complete(&plan, next.given, first, bound) {
                Ok(holds) => return Ok((holds, plan, waited)),
                Err(failure) => next.after(failure, &plan, self.when, &self.tokens)?,
            }
            if let Some(pause) = next.pause() {
                let end = Instant::now() + pause;
                let deadline = self.when.deadline().map_or(end, |deadline| deadline.min(end));
                // Whatever ends it: the next round finds out.
                let limits = Limits::new(Some(deadline), &self.tokens);
                let _ = pausing(mode).wait(limits);
            }
        }
    }
}

impl IntoFuture for AcquireSet<'_> {
    type Output = Result<OwnedLockSetGuard>;
    type IntoFuture = AcquireSetFuture;

    fn into_future(self) -> AcquireSetFuture {
        AcquireSetFuture::new(self.set.clone(), self.when, self.tokens)
    }
}

/// Which lock is slept on next.
#[derive(Default)]
struct Next {
    /// Among the given ones, since a plan is good for one round only.
    given: usize,
    rounds: usize,
    /// Rounds in a row in which nobody was waited for.
    restless: usize,
    /// Rounds in a row in which paths, and not somebody else, were in the way.
    replaced: usize,
}

/// Why a round came to nothing. Nothing is held any more.
enum RoundFailure {
    /// Somebody has the lock that was given as this one.
    Busy {
        given: usize,
        error: Error,
    },
    /// A path came to name another file.
    Replaced {
        given: usize,
    },
    Failed(Error),
}

impl Next {
    /// How long it has taken, if anybody was in the way.
    fn waited(&mut self, first: &Hold, since: Instant) -> Duration {
        self.restless = if first.waited().is_zero() { self.restless + 1 } else { 0 };
        if self.rounds == 0 && first.waited().is_zero() { Duration::ZERO } else { since.elapsed() }
    }

    /// How long to keep still before the next round.
    fn pause(&self) -> Option<Duration> {
        const RESTLESS: usize = 8;
        const LONGEST: u64 = 2000;
        (self.restless >= RESTLESS).then(|| {
            let random = RandomState::new().build_hasher().finish();
            Duration::from_micros(1 + random % LONGEST)
        })
    }

    /// After a round that came to nothing: goes on, unless that was it.
    fn after(
        &mut self,
        failure: RoundFailure,
        plan: &Plan,
        when: When,
        tokens: &[CancelToken],
    ) -> Result<()> {
        self.rounds += 1;
        match failure {
            RoundFailure::Failed(error) => return Err(error),
            RoundFailure::Busy { error, .. } if when == When::Now => return Err(error),
            RoundFailure::Busy { given, .. } => {
                self.given = given;
                self.replaced = 0;
            }
            RoundFailure::Replaced { given } => {
                self.replaced += 1;
                if self.replaced > TRIES {
                    let path = plan.member(given).and_then(|(lock, _)| lock.handle().path());
                    return Err(Error::Replaced { path, operation: "lock", while_held: false });
                }
            }
        }
        let Some((lock, mode)) = plan.member(self.given) else { return Ok(()) };
        let request = Request { tokens: tokens.to_vec(), ..Request::new(mode, when) };
        request.limits().check().map_err(|stop| {
            let handle = lock.handle();
            stopped(handle, request.operation(), mode, stop, || handle.contention())
        })
    }
}

/// Tries the other locks of the plan, with the first one held.
fn complete(
    plan: &Plan,
    given: usize,
    first: Hold,
    bound: bool,
) -> Result<Vec<Hold>, RoundFailure> {
    let slept_on = plan.place(given);
    // Released in reverse when it comes to nothing.
    let mut holds = Held(vec![(slept_on, first)]);
    for (place, (lock, mode, given)) in plan.entries().enumerate() {
        if place == slept_on {
            continue;
        }
        match Request::new(mode, When::Now).run(lock, bound) {
            Ok(hold) => holds.0.push((place, hold)),
            Err(error @ Error::Busy { .. }) => return Err(RoundFailure::Busy { given, error }),
            Err(error) => return Err(RoundFailure::Failed(error)),
        }
    }
    holds.0.sort_unstable_by_key(|(place, _)| *place);
    if let Some(given) = plan.outdated(|place| holds.0[place].1.identity()) {
        return Err(RoundFailure::Replaced { given });
    }
    Ok(std::mem::take(&mut holds.0).into_iter().map(|(_, hold)| hold).collect())
}

/// What sleeps in a pause: nobody gives it the turn.
fn pausing(mode: Mode) -> Arc<Node> {
    Arc::new(Node::new(Asker::new(mode)))
}

/// What is held so far.
struct Held(Vec<(usize, Hold)>);

impl Drop for Held {
    fn drop(&mut self) {
        while let Some(hold) = self.0.pop() {
            drop(hold);
        }
    }
}
