//! A signal to a process that holds a lock, and to no other.
//!
//! 1. The process is pinned by a descriptor (`pidfd_open`), so its number cannot come to mean another.
//! 2. Then its start time is compared: it is the one that was meant.
//! 3. Then the caller takes a new look at the kernel's table, and [`Pinned::holds`] the lock still,
//!    verified; only inherited, recorded or shared descriptions do not count.
//! 4. Then it is signalled through the descriptor.
//!
//! Between 3 and 4 it can let go of the lock; that is the kernel's to change, not ours.

use std::os::fd::OwnedFd;

use lockmgr::inspect::{Inode, Kind, Lock, LockTable, Process, Standing};
use lockmgr::{Mode, Range};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Which lock: the file, and what there is of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WhichLock {
    pub(crate) inode: Inode,
    pub(crate) kind: Kind,
    pub(crate) mode: Mode,
    pub(crate) range: Range,
}

impl WhichLock {
    pub(crate) fn new(inode: Inode, lock: &Lock) -> Self {
        Self { inode, kind: lock.kind.clone(), mode: lock.mode, range: lock.range }
    }
}

/// A process that cannot be mistaken for another one.
pub(crate) struct Pinned {
    process: Process,
    descriptor: OwnedFd,
}

impl Pinned {
    /// Pins the process that was seen; says why not.
    pub(crate) fn new(process: &Process) -> Result<Self, String> {
        let gone = || format!("pid {} has ended", process.pid);
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => return Err(gone()),
            Err(error) => return Err(format!("cannot open pid {}: {error}", process.pid)),
        };
        // Looked up by number, but after the descriptor was had: as long as that one's process lives,
        // the number is its own.
        if !process.is_still_there() {
            return Err(gone());
        }
        Ok(Self { process: process.clone(), descriptor })
    }

    /// Whether it holds the lock by its own doing, in a table that was taken after it was pinned.
    pub(crate) fn holds(&self, lock: &WhichLock, table: &LockTable) -> bool {
        table
            .files
            .iter()
            .filter(|file| file.inode == lock.inode)
            .flat_map(|file| &file.locks)
            .filter(|found| WhichLock::new(lock.inode, found) == *lock)
            .flat_map(|found| &found.holders)
            .filter(|holder| holder.standing == Standing::Verified)
            .filter_map(|holder| holder.process.as_ref())
            .any(|process| (process.pid, process.start) == (self.process.pid, self.process.start))
    }

    /// Signals it; says why not.
    ///
    /// # References
    /// `pidfd_send_signal(2)`
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = self.process.pid;
        pidfd_send_signal(&self.descriptor, signal).map_err(|error| match error {
            Errno::SRCH => format!("pid {pid} has ended"),
            Errno::PERM => format!("not permitted to signal pid {pid}"),
            error => format!("cannot signal pid {pid}: {error}"),
        })
    }
}
