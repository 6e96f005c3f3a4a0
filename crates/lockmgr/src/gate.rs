//! The gate of fair locks: an exclusive record lock on one far byte of the lock file, which every
//! acquisition holds while it asks for the lock itself.
//!
//! Protocol:
//! 1. Take the gate, asleep if need be.
//! 2. Take the lock, asleep if need be.
//! 3. Give the gate back, at once: held any longer it would only be a second lock.
//!
//! Whoever sleeps in step 2 has the gate, so it is alone there, and all who come later sleep in
//! step 1: a release can wake nobody else, and the one who released has to queue like everybody.
//! Exclusion does not rest on the gate: it is the lock's, and whoever goes past the gate is kept out
//! by the lock. Nor does crash safety: a gate is freed with its owner like any lock.
//!
//! The byte lies beyond every lock of ours ([`Range::LIMIT`]), and its lock is an `ofd` one. It is
//! carried by the lock's own description if that can be written; `flock` descriptions are opened for
//! reading only (see `description`), so it mostly has one of its own, kept with it. A script or
//! program that is its own lock file has no gate: nobody could start it while it is open for writing.
//!
//! Where `flock` locks are record locks over the whole file, as on NFS, the gate would be covered by
//! the very lock it leads to, and a waiter would wait for itself. On filesystems that keep locks
//! elsewhere than in this kernel this is tried out before there is a gate ([`is_one_space`]).
//!
//! A record lock of another program that reaches to the end of the file covers the gate of `flock` locks,
//! which are no concern of it. Nobody can be let in then; the error says who has it
//! ([`Passage::contention`]).
//!
//! References: `fcntl(2)` (open file description locks), `flock(2)` (NFS details).

use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::description::{Description, OpenFailure, unique_id};
use crate::error::{Error, OPEN, Result};
use crate::inspect::Contention;
use crate::keeper;
use crate::mode::{Mechanism, Mode, Range};
use crate::options::{Fairness, Settings};
use crate::place::Place;
use crate::posix;
use crate::record;
use crate::sys::file::{self, Access, Create, Identity, KeptFile};
use crate::sys::fork::{self, FIRST_GENERATION, PerProcess};
use crate::sys::lock::{self, Owner, Patience};
use crate::wait::{Limits, Stop};

/// What carries the gate of a description.
#[derive(Debug)]
pub(crate) enum Gate {
    /// The description itself.
    Here,
    /// One of its own, closed with it.
    Apart(KeptFile),
}

/// Why there is no gate.
enum Obstacle {
    /// There can be none.
    Never(&'static str),
    NotWritable(Errno),
    /// The filesystem does not even have the lock itself.
    NoLock(Errno),
    Failed(OpenFailure),
    /// The path has come to name another file.
    Replaced,
}

/// What came of looking for the gate of a description that was just opened.
pub(crate) enum Found {
    Gate(Option<Gate>),
    /// The path names another file by now: open anew.
    Replaced,
}

/// Finds out how the gate of a description is to be taken, if the settings want one.
pub(crate) fn find(
    place: Option<&Place>,
    settings: &Settings,
    description: &Description,
) -> Result<Found, OpenFailure> {
    if settings.fairness == Fairness::Off {
        return Ok(Found::Gate(None));
    }
    let path = || place.map(Place::shared_path);
    let refusal = match look(place, settings, description) {
        Ok(gate) => return Ok(Found::Gate(Some(gate))),
        Err(Obstacle::Replaced) => return Ok(Found::Replaced),
        Err(Obstacle::Failed(failure)) => return Err(failure),
        Err(_) if settings.fairness == Fairness::Preferred => return Ok(Found::Gate(None)),
        Err(Obstacle::Never(reason)) => Error::unsupported(path(), OPEN, reason),
        Err(Obstacle::NoLock(errno)) => {
            Error::of_lock_call(path(), "lock", settings.mechanism, Mode::Exclusive, errno)
        }
        Err(Obstacle::NotWritable(errno)) => Error::Permission {
            path: path(),
            operation: OPEN,
            reason: "a fair lock needs a lock file that can be written",
            source: errno.into(),
        },
    };
    Err(OpenFailure::Failed(refusal))
}

fn look(
    place: Option<&Place>,
    settings: &Settings,
    description: &Description,
) -> Result<Gate, Obstacle> {
    let file = description.file();
    let os = |errno| {
        let path = place.map(Place::shared_path);
        Obstacle::Failed(OpenFailure::Failed(Error::io(path, OPEN, errno)))
    };
    match settings.mechanism {
        Mechanism::Posix => {
            return Err(Obstacle::Never("posix locks have no gate and cannot be fair"));
        }
        _ if file::status(file).map_err(os)?.kind != FileType::RegularFile => {
            return Err(Obstacle::Never(
                "a directory cannot be a fair lock; use a file in it, or do without fairness",
            ));
        }
        Mechanism::Ofd if settings.range.gate().is_none() => {
            return Err(Obstacle::Never("the last byte there can be has no gate"));
        }
        Mechanism::Ofd => {}
        Mechanism::Flock => {
            if is_one_space(place, description).map_err(|errno| match errno {
                Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK => Obstacle::NoLock(errno),
                _ => Obstacle::Never(
                    "on this filesystem it has to be tried out whether a flock lock can be fair, \
                     with a temporary file beside it, and that failed; an ofd lock can be fair",
                ),
            })? {
                return Err(Obstacle::Never(
                    "on this filesystem flock locks are record locks and cannot be fair; an ofd \
                     lock can",
                ));
            }
        }
    }
    if file::is_writable(file).map_err(os)? {
        return Ok(Gate::Here);
    }
    let Some(place) = place.filter(|_| settings.mechanism == Mechanism::Flock) else {
        return Err(Obstacle::NotWritable(Errno::ACCESS));
    };
    let status = file::status(file).map_err(os)?;
    let mut start = [0; record::START_LEN];
    // On some filesystems every file may be executed; a record of ours cannot be.
    let script = status.executable
        && status.size > 0
        && !file::read_start(file, &mut start).is_ok_and(record::is_ours);
    if script {
        return Err(Obstacle::Never(
            "a file that can be executed cannot be a fair lock, because nobody could start it \
             while it is open for writing; use another file",
        ));
    }
    open(place, settings, description.identity).map(Gate::Apart)
}

/// Opens a second, writable description of the lock file.
fn open(place: &Place, settings: &Settings, identity: Identity) -> Result<KeptFile, Obstacle> {
    const ACCESS: Access = Access::Write;
    if let Some(spare) = posix::spare(identity, ACCESS) {
        return Ok(spare);
    }
    let opened = file::open(
        place.c_path(),
        ACCESS,
        settings.follow_symlinks,
        Create::No,
        crate::visit::discard,
    )
    .map_err(|errno| match errno {
        Errno::AGAIN => Obstacle::Failed(OpenFailure::Lease(ACCESS)),
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Obstacle::Replaced,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Obstacle::NotWritable(errno),
        Errno::TXTBSY => Obstacle::Never(
            "a program that is being executed cannot be a fair lock; use another file",
        ),
        errno => {
            Obstacle::Failed(OpenFailure::Failed(Error::io(Some(place.shared_path()), OPEN, errno)))
        }
    })?;
    match file::status(&opened) {
        Ok(status) if status.identity == identity => Ok(opened),
        Ok(status) => {
            close(status.identity, opened);
            Err(Obstacle::Replaced)
        }
        Err(errno) => {
            let path = Some(place.shared_path());
            Err(Obstacle::Failed(OpenFailure::Failed(Error::io(path, OPEN, errno))))
        }
    }
}

/// Like any close, it must not drop a `posix` lock of this process.
pub(crate) fn close(identity: Identity, file: KeptFile) {
    posix::close(identity, file, true);
}

/// The way through the gate of one description. What is held of it is given back when dropped.
///
/// Only for whoever has the turn of the handle, or keeps others from getting it: to the kernel, all
/// who come by one description are the same.
pub(crate) struct Passage {
    description: Arc<Description>,
    range: Range,
    held: bool,
    generation: u32,
}

impl Passage {
    /// Goes to the gate of the description, if it has one. Nothing is held yet.
    pub(crate) fn approach(description: &Arc<Description>) -> Option<Self> {
        description.gate.as_ref()?;
        let range = match description.mechanism {
            Mechanism::Flock => Range::FLOCK_GATE,
            Mechanism::Ofd => description.range.gate()?,
            Mechanism::Posix => return None,
        };
        let generation = fork::generation();
        Some(Self { description: Arc::clone(description), range, held: false, generation })
    }

    fn file(&self) -> &KeptFile {
        match &self.description.gate {
            Some(Gate::Apart(own)) => own,
            Some(Gate::Here) | None => self.description.file(),
        }
    }

    fn take(&self, patience: Patience) -> Result<(), Errno> {
        lock::record(self.file(), Owner::Description, Mode::Exclusive, self.range, patience)
    }

    /// Takes the gate if nobody is in it; returns whether it is held.
    pub(crate) fn try_enter(&mut self) -> Result<bool, Errno> {
        if !self.held {
            self.held = match self.take(Patience::Try) {
                Ok(()) => true,
                Err(Errno::AGAIN | Errno::ACCESS) => false,
                Err(errno) => return Err(errno),
            };
        }
        Ok(self.held)
    }

    /// Who is in the way of whoever stands before the gate: also somebody who has nothing to do with it,
    /// but a record lock on all the bytes there are.
    pub(crate) fn contention(&self) -> Contention {
        let Description { identity, mechanism, .. } = *self.description;
        let look = || lock::record_obstacle(self.file(), Mode::Exclusive, self.range).ok()?;
        match if self.held { None } else { look() } {
            Some(obstacle) => {
                let kind = if obstacle.by_description { Mechanism::Ofd } else { Mechanism::Posix };
                Contention::at_gate(identity, mechanism, (kind, obstacle.range))
            }
            None => Contention::new(identity, mechanism),
        }
    }

    /// Takes the gate, asleep in the kernel until it is free.
    pub(crate) fn sleep(&mut self, limits: Limits<'_>) -> Result<(), Stop> {
        let limits = Limits { afterwards: None, ..limits };
        let (sleep, ask) = (|| self.take(Patience::Sleep), || self.take(Patience::Try));
        let identity = self.description.identity;
        keeper::wait(self.file(), identity, Mechanism::Ofd, limits, sleep, ask)?;
        self.held = true;
        Ok(())
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        // A forked child has a harmless descriptor in its place.
        if self.held && self.generation == fork::generation() {
            // It can fail only where the descriptor is no longer ours; closing releases then.
            let _ = lock::record_unlock(self.file(), Owner::Description, self.range);
        }
    }
}

/// By device, what was tried out.
static TRIED: PerProcess<Mutex<Vec<(u64, bool)>>> =
    PerProcess::new(FIRST_GENERATION, Mutex::new(Vec::new()));

/// Whether record locks see `flock` locks on the filesystem of the lock file.
fn is_one_space(place: Option<&Place>, description: &Description) -> Result<bool, Errno> {
    if file::is_on_local_filesystem(description.file()) {
        return Ok(false);
    }
    let device = description.identity.device;
    let tried = || TRIED.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, verdict)) = tried().iter().find(|(known, _)| *known == device) {
        return Ok(*verdict);
    }
    let verdict = try_out(&place.ok_or(Errno::NOENT)?.directory()?, device)?;
    tried().push((device, verdict));
    Ok(verdict)
}

/// Holds a `flock` lock on a file that nobody else knows, and looks whether it is seen as a record
/// lock through another description.
fn try_out(directory: &KeptFile, device: u64) -> Result<bool, Errno> {
    let name = format!(".lockmgr-{}-{}", std::process::id(), unique_id());
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    let [one, other] = file::scratch(directory, &name)?;
    if file::status(&one)?.identity.device != device {
        // The directory is of another filesystem: what it says means nothing for the lock file.
        return Err(Errno::XDEV);
    }
    lock::flock(&one, Mode::Exclusive, Patience::Try)?;
    lock::record_obstacle(&other, Mode::Exclusive, Range::FLOCK_GATE)
        .map(|obstacle| obstacle.is_some())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn is_taken(file: &KeptFile, range: Range) -> Result<bool, Errno> {
        lock::record_obstacle(file, Mode::Exclusive, range).map(|obstacle| obstacle.is_some())
    }

    fn directory(path: &std::path::Path) -> KeptFile {
        file::open_directory(&CString::new(path.as_os_str().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_local_filesystem_keeps_the_two_kinds_apart_and_the_try_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let anchor = directory(dir.path());
        let device = file::status(&anchor).unwrap().identity.device;
        assert_eq!(try_out(&anchor, device), Ok(false));
        assert_eq!(try_out(&anchor, device + 1), Err(Errno::XDEV));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_lock_that_covers_the_gate_is_seen_from_another_description() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = file::scratch(&directory(dir.path()), c"a").unwrap();
        assert_eq!(is_taken(&other, Range::FLOCK_GATE), Ok(false));
        // What flock is on NFS.
        lock::record(&one, Owner::Description, Mode::Exclusive, Range::BEYOND, Patience::Try)
            .unwrap();
        assert_eq!(is_taken(&other, Range::FLOCK_GATE), Ok(true));
        assert_eq!(is_taken(&one, Range::FLOCK_GATE), Ok(false));
    }

    #[test]
    fn no_lock_of_ours_covers_a_gate() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other] = file::scratch(&directory(dir.path()), c"a").unwrap();
        lock::record(&one, Owner::Description, Mode::Exclusive, Range::WHOLE, Patience::Try)
            .unwrap();
        assert_eq!(is_taken(&other, Range::FLOCK_GATE), Ok(false));
        assert_eq!(is_taken(&other, Range::WHOLE.gate().unwrap()), Ok(false));
        let last = Range::new(Range::LIMIT - 1, 1).unwrap();
        assert_eq!(is_taken(&other, last), Ok(true));
        assert_eq!(last.gate(), None);
        let other = Range::new(Range::LIMIT - 2, 1).unwrap();
        assert!(other.gate().is_some());
        assert_ne!(Range::WHOLE.gate(), Some(Range::FLOCK_GATE));
    }
}
