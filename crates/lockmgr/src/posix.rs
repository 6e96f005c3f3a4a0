//! Process-owned record locks, made bearable inside one process.
//!
//! The kernel knows one owner, the process. Left alone, two handles of a process would both get an
//! exclusive lock, an unlock by one would drop the other's, and closing *any* descriptor of the
//! file would drop them all. This registry, one entry an inode, keeps true:
//!
//! 1. *Exclusion inside the process.* A range is reserved here before the kernel is asked for it,
//!    and nobody else of this process gets a conflicting one until it is given back. First come,
//!    first served among those that conflict.
//! 2. *An unlock drops only what nobody else needs.* The kernel is told to let go of the range less
//!    what others of this process still hold or are asking for.
//! 3. *No close of ours drops a lock.* While anything on an inode is reserved, descriptors of it
//!    that the library would close are kept here, and closed with the last reservation.
//!
//! What it cannot do: other code in the process that opens and closes the same file drops the
//! locks. That is why [`Mechanism::Ofd`] is the better choice.
//!
//! A close must not run beside the very first reservation of its inode. Closers therefore count
//! themselves, and close without a look at the registry only while nobody has ever used it;
//! whoever reserves says so first and then waits until those closers are through.
//!
//! References: `fcntl(2)`, "Advisory record locking".

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::io::Errno;

use crate::held;
use crate::inspect;
use crate::keeper::{self, Pauses};
use crate::mode::{Mechanism, Mode, Range};
use crate::queue::{Asker, Node};
use crate::sys::file::{self, Access, Identity, KeptFile};
use crate::sys::fork::{FIRST_GENERATION, PerProcess};
use crate::sys::lock::{self, Owner, Patience};
use crate::wait::{Limits, Stop};

static PROCESS: PerProcess<Process> = PerProcess::new(FIRST_GENERATION, Process::new());

type Registry = BTreeMap<Identity, Inode>;

/// All of it begins anew in a forked child, which owns no such lock.
struct Process {
    registry: Mutex<Registry>,
    ever_used: AtomicBool,
    closing: AtomicUsize,
    spares: AtomicUsize,
}

impl Process {
    const fn new() -> Self {
        Self {
            registry: Mutex::new(BTreeMap::new()),
            ever_used: AtomicBool::new(false),
            closing: AtomicUsize::new(0),
            spares: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Default)]
struct Inode {
    reserved: Vec<Claim>,
    waiting: Vec<(Claim, Arc<Node>)>,
    put_off: Vec<KeptFile>,
    /// Put off as well, and as good as new for the next one who opens the file in this way.
    spare: Vec<(Access, KeptFile)>,
}

/// A range of one inode, wanted or held by one open description of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim {
    owner: u64,
    mode: Mode,
    range: Range,
}

impl Claim {
    fn conflicts_with(&self, other: &Claim) -> bool {
        self.range.overlaps(other.range) && self.mode.conflicts_with(other.mode)
    }
}

impl Inode {
    /// Reserves if nothing reserved, and nobody who came earlier, conflicts.
    ///
    /// `again` says that the calling thread holds a part of the file already: then those who came
    /// earlier do not count, because they may be waiting for that very hold.
    fn reserve(&mut self, claim: Claim, again: bool) -> bool {
        let waits_before = |(other, _): &(Claim, _)| other.conflicts_with(&claim);
        let free = !self.reserved.iter().any(|other| other.conflicts_with(&claim))
            && (again || !self.waiting.iter().any(waits_before));
        if free {
            self.reserved.push(claim);
        }
        free
    }

    /// Reserves for everyone in the queue whose turn has come; they are to be told.
    fn admit(&mut self) -> Vec<Arc<Node>> {
        let mut admitted = Vec::new();
        for (claim, node) in mem::take(&mut self.waiting) {
            if self.reserve(claim, false) {
                admitted.push(node);
            } else {
                self.waiting.push((claim, node));
            }
        }
        admitted
    }
}

/// Takes the range without waiting; false when somebody has it.
pub(crate) fn try_lock(
    file: &KeptFile,
    identity: Identity,
    owner: u64,
    mode: Mode,
    range: Range,
) -> Result<bool, Errno> {
    let (claim, again) = (Claim { owner, mode, range }, holds_already(identity));
    if !registry_for_use().entry(identity).or_default().reserve(claim, again) {
        return Ok(false);
    }
    match lock::record(file, Owner::Process, mode, range, Patience::Try) {
        Ok(()) => Ok(true),
        Err(error) => {
            // Our reservation may have kept a part of somebody else's old range locked.
            unlock(file, identity, owner, range)?;
            match error {
                Errno::AGAIN | Errno::ACCESS => Ok(false),
                error => Err(error),
            }
        }
    }
}

/// Takes the range, asleep until it is free.
pub(crate) fn sleep_lock(
    file: &KeptFile,
    identity: Identity,
    owner: u64,
    mode: Mode,
    range: Range,
    limits: Limits<'_>,
) -> Result<(), Stop> {
    let (claim, again) = (Claim { owner, mode, range }, holds_already(identity));
    let mut registry = registry_for_use();
    let inode = registry.entry(identity).or_default();
    let mut attempt = Attempt { file, identity, claim, node: None, succeeded: false };
    if inode.reserve(claim, again) {
        drop(registry);
    } else {
        let node = Arc::new(Node::new(Asker::new(mode)));
        let place = if again { 0 } else { inode.waiting.len() };
        inode.waiting.insert(place, (claim, Arc::clone(&node)));
        drop(registry);
        attempt.node.insert(node).wait(limits)?;
        attempt.node = None;
    }
    let call = |patience| lock::record(file, Owner::Process, mode, range, patience);
    let (mut pauses, mut was_for_good) = (Pauses::default(), false);
    let sleep = || match call(Patience::Sleep) {
        Err(Errno::DEADLK) => {
            // What the kernel has seen may have gone before we look: its word counts between two looks.
            let before = mem::replace(&mut was_for_good, is_for_good(owner));
            match (before, was_for_good) {
                (true, true) => Err(Errno::DEADLK),
                (false, true) => Err(Errno::INTR),
                (_, false) => Err(pauses.sleep(limits)),
            }
        }
        result => result,
    };
    let ask = || call(Patience::Try);
    keeper::wait(file, identity, Mechanism::Posix, limits, sleep, ask)?;
    attempt.succeeded = true;
    Ok(())
}

/// A place in the queue of an inode, and then a reservation. Given back when nothing comes of it; what is
/// to be reported is why.
struct Attempt<'a> {
    file: &'a KeptFile,
    identity: Identity,
    claim: Claim,
    /// While it is in the queue.
    node: Option<Arc<Node>>,
    succeeded: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Self { file, identity, claim, .. } = *self;
        if self.succeeded || self.node.take().is_some_and(|node| leave(identity, &node)) {
            return;
        }
        let _ = unlock(file, identity, claim.owner, claim.range);
    }
}

/// Whether the deadlock that the kernel has found stays one whatever the other threads of this process do.
/// `owner` is the one who asks.
///
/// The kernel sees processes: when one of our threads is waited for by a process for which another one is
/// about to wait, that is a circle to it, also where the first one will let go in a moment. So it is
/// certain only if all that others wait for is held by the calling thread. Otherwise nothing is left but to
/// ask again, after a pause, until the kernel lets the thread sleep or the circle is one of this thread:
/// no event tells of either.
fn is_for_good(owner: u64) -> bool {
    if std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        return true;
    }
    let owners = |(identity, inode): (&Identity, &Inode)| {
        let place = |claim: &Claim| (*identity, claim.owner);
        inode.reserved.iter().map(place).collect::<Vec<_>>()
    };
    let claims: Vec<_> = PROCESS.get().lock().iter().flat_map(owners).collect();
    !claims.into_iter().any(|(identity, other)| {
        other != owner && !held::is_on(other) && inspect::others_wait_for_posix(identity)
    })
}

/// Whether the calling thread holds anything on the file.
fn holds_already(identity: Identity) -> bool {
    held::mode_of(identity, Mechanism::Posix, Range::WHOLE).is_some()
}

/// Leaves the queue; returns false when the range has been reserved in this very moment.
fn leave(identity: Identity, node: &Arc<Node>) -> bool {
    let mut registry = registry_for_use();
    let inode = registry.entry(identity).or_default();
    let before = inode.waiting.len();
    inode.waiting.retain(|(_, other)| !Arc::ptr_eq(other, node));
    if inode.waiting.len() == before {
        return false;
    }
    // Those behind it may have been waiting for it alone.
    let admitted = inode.admit();
    drop(registry);
    for node in admitted {
        node.grant();
    }
    true
}

/// Gives the range back: in the kernel as far as nobody else of this process needs it.
pub(crate) fn unlock(
    file: &KeptFile,
    identity: Identity,
    owner: u64,
    range: Range,
) -> Result<(), Errno> {
    let mut registry = registry_for_use();
    let Some(inode) = registry.get_mut(&identity) else {
        return Ok(());
    };
    if let Some(index) =
        inode.reserved.iter().position(|claim| claim.owner == owner && claim.range == range)
    {
        inode.reserved.swap_remove(index);
    }
    let mut pieces = vec![range];
    for other in &inode.reserved {
        pieces = pieces.into_iter().flat_map(|piece| piece.without(other.range)).collect();
    }
    let result =
        pieces.into_iter().try_for_each(|piece| lock::record_unlock(file, Owner::Process, piece));
    let admitted = inode.admit();
    if inode.reserved.is_empty()
        // Under the mutex: nobody can reserve before these are closed.
        && let Some(gone) = registry.remove(&identity)
    {
        PROCESS.get().spares.fetch_sub(gone.spare.len(), Ordering::Relaxed);
    }
    drop(registry);
    for node in admitted {
        node.grant();
    }
    result
}

/// Makes an exclusive hold shared, in one step.
pub(crate) fn downgrade(
    file: &KeptFile,
    identity: Identity,
    owner: u64,
    range: Range,
) -> Result<(), Errno> {
    let mut registry = registry_for_use();
    lock::record(file, Owner::Process, Mode::Shared, range, Patience::Try)?;
    let Some(inode) = registry.get_mut(&identity) else {
        return Ok(());
    };
    for claim in &mut inode.reserved {
        if claim.owner == owner && claim.range == range {
            claim.mode = Mode::Shared;
        }
    }
    let admitted = inode.admit();
    drop(registry);
    for node in admitted {
        node.grant();
    }
    Ok(())
}

/// Closes a descriptor, or puts that off while a lock of this process depends on it.
///
/// `spare` says that [`spare`] may give it to somebody else meanwhile: it was opened by the library,
/// nothing is locked on it, and it was not handed over.
pub(crate) fn close(identity: Identity, file: KeptFile, spare: bool) {
    let process = PROCESS.get();
    process.closing.fetch_add(1, Ordering::SeqCst);
    if !process.ever_used.load(Ordering::SeqCst) {
        drop(file);
        process.closing.fetch_sub(1, Ordering::SeqCst);
        return;
    }
    process.closing.fetch_sub(1, Ordering::SeqCst);
    let access = if spare { file::access(&file) } else { None };
    let mut registry = process.lock();
    match (registry.get_mut(&identity), access) {
        (Some(inode), _) if inode.reserved.is_empty() => drop(file),
        (Some(inode), Some(access)) => {
            inode.spare.push((access, file));
            process.spares.fetch_add(1, Ordering::Relaxed);
        }
        (Some(inode), None) => inode.put_off.push(file),
        // Under the mutex: nobody can reserve before it is closed.
        (None, _) => drop(file),
    }
}

/// Whether this process has ever asked for such a lock, so that closing can have consequences.
pub(crate) fn is_used() -> bool {
    PROCESS.get().ever_used.load(Ordering::Relaxed)
}

/// Whether it is worth asking for a [`spare`].
pub(crate) fn has_spares() -> bool {
    PROCESS.get().spares.load(Ordering::Relaxed) != 0
}

/// A descriptor of this file, open for just this, whose close was put off. Without this, handles that
/// come and go while another one holds a lock would pile up descriptors until there are none left.
pub(crate) fn spare(identity: Identity, access: Access) -> Option<KeptFile> {
    if !has_spares() {
        return None;
    }
    let process = PROCESS.get();
    let mut registry = process.lock();
    let spare = &mut registry.get_mut(&identity)?.spare;
    let index = spare.iter().position(|(has, _)| *has == access)?;
    let (_, file) = spare.swap_remove(index);
    process.spares.fetch_sub(1, Ordering::Relaxed);
    drop(registry);
    // The program may have read and written through it. A file that cannot do that has no offset.
    let _ = file::rewind(&file);
    Some(file)
}

fn registry_for_use() -> MutexGuard<'static, Registry> {
    let process = PROCESS.get();
    file::closes_matter_now();
    process.ever_used.store(true, Ordering::SeqCst);
    while process.closing.load(Ordering::SeqCst) != 0 {
        thread::yield_now();
    }
    process.lock()
}
