//! What `run` is to acquire, as the options describe it, what cannot be, and what is held then: one
//! lock, several of them, or slots.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockmgr::name::{self, Scope};
use lockmgr::{
    Acquire, AcquireSet, AcquireSlots, Error, FileLock, FileLockGuard, LockSet, LockSetGuard,
    Mechanism, Mode, Range, Semaphore, SemaphoreGuard,
};

use super::lasting;
use crate::cli::{AcquireArgs, IfBusy, OnDeadlock, RunArgs, Wait};
use crate::exit::Failure;
use crate::printable;
use crate::sys::signals::Unignored;
use crate::waiting::{self, Awaited, Refused};

/// What is to be acquired; nothing is opened yet, so that the deadline covers it.
pub(super) struct Locks {
    what: What,
    /// The lock files, that of LOCK in front, and the modes.
    pub(super) members: Vec<(PathBuf, Mode)>,
    pub(super) mechanism: Mechanism,
    pub(super) range: Range,
    /// At a gate, or in a semaphore's queue.
    pub(super) fair: bool,
}

enum What {
    One(FileLock),
    All(LockSet),
    Slots(Semaphore, u32),
}

/// What is held.
pub(super) enum Held<'a> {
    One(FileLockGuard<'a>),
    All(LockSetGuard<'a>),
    Slots(SemaphoreGuard),
}

impl Locks {
    /// What the options describe, for a command of these words.
    pub(super) fn of(args: &RunArgs, words: &[OsString]) -> Result<Self, Failure> {
        check_mechanism(&args.acquire)?;
        check_usage(args)?;
        let scope = if args.system { Scope::System } else { Scope::User };
        let of_lock = |error: Error| Failure::of_lock(&error, args.acquire.busy_exit_code);
        if let Some(slots) = args.slots {
            return Self::slots(args, slots, scope).map_err(of_lock);
        }
        let others = args.and.iter().map(|lock| (lock, Mode::Exclusive));
        let shared = args.and_shared.iter().map(|lock| (lock, Mode::Shared));
        let given = [(&args.lock, args.acquire.mode())];
        let locks = given
            .into_iter()
            .chain(others)
            .chain(shared)
            .map(|(lock, mode)| Ok((one(args, words, lock, mode, scope)?, mode)))
            .collect::<lockmgr::Result<Vec<(FileLock, Mode)>>>()
            .map_err(of_lock)?;
        let path = |lock: &FileLock| lock.path().map(Path::to_path_buf).unwrap_or_default();
        let members = locks.iter().map(|(lock, mode)| (path(lock), *mode)).collect();
        let what = match locks.as_slice() {
            [(lock, _)] => What::One(lock.clone()),
            _ => What::All(locks.into_iter().collect()),
        };
        let range = args.acquire.range.unwrap_or(Range::WHOLE);
        Ok(Self { what, members, mechanism: args.acquire.mechanism, range, fair: args.fair })
    }

    /// One lock that is there already.
    pub(super) fn just(lock: &FileLock, how: &AcquireArgs) -> Self {
        let path = lock.path().map(Path::to_path_buf).unwrap_or_default();
        Self {
            what: What::One(lock.clone()),
            members: vec![(path, how.mode())],
            mechanism: how.mechanism,
            range: how.range.unwrap_or(Range::WHOLE),
            fair: false,
        }
    }

    fn slots(args: &RunArgs, slots: u32, scope: Scope) -> lockmgr::Result<Self> {
        let mut options = Semaphore::options().create(!args.no_create);
        if let Some(mode) = args.mode {
            options = options.creation_mode(mode);
        }
        let semaphore = options.open_named_lazy(&args.lock, scope, slots)?;
        let members = vec![(semaphore.path().to_path_buf(), Mode::Exclusive)];
        let what = What::Slots(semaphore, args.take.unwrap_or(1));
        let range = Range::new(0, slots.into())?;
        Ok(Self { what, members, mechanism: Mechanism::Ofd, range, fair: true })
    }

    /// How many slots are wanted, and how many there are.
    pub(super) fn take_of_slots(&self) -> Option<(u64, u64)> {
        match &self.what {
            What::Slots(semaphore, take) => Some(((*take).into(), semaphore.slots().into())),
            What::One(_) | What::All(_) => None,
        }
    }

    /// The lock file of LOCK.
    pub(super) fn path(&self) -> &Path {
        self.members.first().map_or(Path::new(""), |(path, _)| path)
    }

    /// All the lock files, for people.
    pub(super) fn name(&self) -> String {
        let names: Vec<_> =
            self.members.iter().map(|(path, _)| printable(path.as_os_str()).into_owned()).collect();
        names.join(" and ")
    }

    /// The word for what is held.
    pub(super) fn mode(&self) -> &'static str {
        match (&self.what, self.members.first()) {
            (What::Slots(..), _) => "slots",
            (_, Some((_, Mode::Shared))) => "shared",
            _ => "exclusive",
        }
    }

    /// Acquires all of it. `busy` is asked before there is a wait.
    ///
    /// The first attempt overtakes nobody in line.
    pub(super) fn acquire<R: From<Refused>>(
        &self,
        how: &AcquireArgs,
        busy: impl FnOnce(&Error) -> Result<(), R>,
    ) -> Result<Held<'_>, R> {
        let awaited = Awaited {
            paths: self.members.iter().map(|(path, _)| path.clone()).collect(),
            name: None,
            mechanism: self.mechanism,
            slots: matches!(self.what, What::Slots(..)),
        };
        match &self.what {
            What::One(lock) => {
                let acquire = lock.acquire().mode(how.mode());
                let attempt = Acquire::try_in_turn;
                waiting::acquire(how, awaited, acquire, attempt, busy, Acquire::wait).map(Held::One)
            }
            What::All(set) => {
                let (attempt, wait) = (AcquireSet::try_now, AcquireSet::wait);
                waiting::acquire(how, awaited, set.acquire(), attempt, busy, wait).map(Held::All)
            }
            What::Slots(semaphore, take) => {
                let acquire = semaphore.acquire_many(*take);
                let (attempt, wait) = (AcquireSlots::try_in_turn, AcquireSlots::wait);
                waiting::acquire(how, awaited, acquire, attempt, busy, wait).map(Held::Slots)
            }
        }
    }
}

impl Held<'_> {
    /// The descriptors on which it is held.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Held::One(guard) => vec![guard.file().as_fd()],
            Held::All(guards) => guards.iter().map(|guard| guard.file().as_fd()).collect(),
            Held::Slots(guard) => vec![guard.file().as_fd()],
        }
    }

    pub(super) fn wait_time(&self) -> Duration {
        match self {
            Held::One(guard) => guard.wait_time(),
            Held::All(guards) => guards.wait_time(),
            Held::Slots(guard) => guard.wait_time(),
        }
    }

    /// The numbers of the slots.
    pub(super) fn slots(&self) -> &[u32] {
        match self {
            Held::Slots(guard) => guard.slots(),
            Held::One(_) | Held::All(_) => &[],
        }
    }

    /// Why a record is missing that was asked for.
    pub(super) fn not_recorded(&self) -> Option<Error> {
        match self {
            Held::One(guard) => guard.not_recorded(),
            Held::All(guards) => guards.iter().find_map(FileLockGuard::not_recorded),
            Held::Slots(_) => None,
        }
    }

    /// The guard of LOCK, unless that is slots.
    pub(super) fn main(&self) -> Option<&FileLockGuard<'_>> {
        match self {
            Held::One(guard) => Some(guard),
            Held::All(guards) => guards.get(0),
            Held::Slots(_) => None,
        }
    }

    /// Releases all of it, by name.
    pub(super) fn unlock(self) -> lockmgr::Result<()> {
        match self {
            Held::One(guard) => guard.unlock(),
            Held::All(guards) => guards.unlock(),
            Held::Slots(guard) => guard.release(),
        }
    }
}

/// One of the locks.
fn one(
    args: &RunArgs,
    words: &[OsString],
    lock: &OsString,
    mode: Mode,
    scope: Scope,
) -> lockmgr::Result<FileLock> {
    let mut options = FileLock::options()
        .mechanism(args.acquire.mechanism)
        .create(!args.no_create)
        .fair(args.fair)
        .remove_on_release(args.remove);
    // Without a note, what cannot be recorded is not tried.
    if args.note.is_some() || mode == Mode::Exclusive {
        options = options.record_command(words);
    }
    if let Some(note) = &args.note {
        options = options.note(printable(note));
    }
    // What outlives the command stands in the file of LOCK.
    if *lock == args.lock {
        options = lasting::describe(&args.lasting, options);
    }
    if let Some(range) = args.acquire.range {
        options = options.range(range);
    }
    if let Some(mode) = args.mode {
        options = options.creation_mode(mode);
    }
    options.open_named_lazy(lock, scope)
}

/// Refuses what cannot be, or would not mean what it says.
fn check_usage(args: &RunArgs) -> Result<(), Failure> {
    let refuse = |line: &str| Err(Failure::usage(line));
    let mechanism = args.acquire.mechanism;
    if mechanism == Mechanism::Posix && !args.no_fork {
        return refuse(
            "a posix lock belongs to one process and the command could not inherit it: \
             use -m ofd (the same kind of lock, inherited), or --no-fork",
        );
    }
    if mechanism == Mechanism::Posix && args.fair {
        return refuse("posix locks cannot be fair: use -m ofd, the same kind of lock");
    }
    let mut locks = [&args.lock].into_iter().chain(&args.and).chain(&args.and_shared);
    if locks.clone().any(|lock| lock.is_empty()) {
        return refuse("the lock's name is empty");
    }
    if args.system && locks.any(|lock| name::is_path(lock)) {
        return refuse("--system is for names, and LOCK is a path; leave it out");
    }
    if args.slots.is_some() && (args.lasting.every.is_some() || args.lasting.fenced) {
        return refuse(
            "--every and --fenced write into the lock file, which several have with --slots: \
             use another lock for them, or leave out --slots",
        );
    }
    if let (Some(slots), Some(take)) = (args.slots, args.take)
        && take > slots
    {
        return refuse("--take asks for more slots than there are (--slots)");
    }
    if args.if_busy == IfBusy::Replace {
        if matches!(args.acquire.wait(), Wait::Not) {
            return refuse("--if-busy=replace has to wait for the holder's end: leave out -n");
        }
        if args.slots.is_some() || !args.and.is_empty() || !args.and_shared.is_empty() {
            return refuse(
                "--if-busy=replace is for one lock: it does not go with --slots or --and",
            );
        }
        if args.acquire.range.is_some() {
            return refuse(
                "--if-busy=replace needs the holder's record, and a --range has none: lock all",
            );
        }
    }
    Ok(())
}

/// Refuses what no mechanism can do, and says which one can.
pub(crate) fn check_mechanism(how: &AcquireArgs) -> Result<(), Failure> {
    if how.range.is_some() && how.mechanism == Mechanism::Flock {
        return Err(Failure::usage(
            "flock locks whole files: for a --range use -m ofd, with everybody who uses this lock",
        ));
    }
    Ok(())
}

/// A deadline (or the end of a deadlock) interrupts the wait by a real-time signal that nobody uses. Some daemons start their
/// children with every signal ignored; then this one is taken back.
pub(crate) fn free_a_signal(how: &AcquireArgs, ignored: &mut Unignored) {
    if matches!(how.wait(), Wait::For(_)) || how.deadlock == OnDeadlock::Fail {
        ignored.take(libc::SIGRTMAX());
    }
}
