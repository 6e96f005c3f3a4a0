//! A signal to a process that holds a lock, and to no other.
//!
//! 1. The process is pinned by a descriptor (`pidfd_open`), so its number cannot come to mean another.
//! 2. Then its start time is compared: it is the one that was meant.
//! 3. Then the caller takes a new look at the kernel's table, whether it holds the lock still.
//! 4. Then it is signalled through the descriptor.
//!
//! Between 3 and 4 it can let go of the lock; that is the kernel's to change, not ours.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lockmgr::inspect::Process;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that cannot be mistaken for another one.
pub(crate) struct Pinned {
    descriptor: OwnedFd,
}

impl Pinned {
    /// Pins the process that was seen. `None` when it has ended since.
    pub(crate) fn new(process: &Process) -> Result<Option<Self>, Errno> {
        let number = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        let Some(number) = number else { return Ok(None) };
        let descriptor = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Looked up by number, but after the descriptor was had: as long as that one's process lives,
        // the number is its own.
        if process.is_still_there() {
            return Ok(Some(Self { descriptor }));
        }
        // It has ended, unless there is no descriptor left to find out with.
        match File::open(format!("/proc/{}/stat", process.pid))
            .map_err(|error| error.raw_os_error())
        {
            Err(Some(errno @ (libc::EMFILE | libc::ENFILE | libc::ENOMEM))) => {
                Err(Errno::from_raw_os_error(errno))
            }
            _ => Ok(None),
        }
    }

    /// Sends a signal to exactly this process; says whether it was still there.
    ///
    /// # References
    /// `pidfd_send_signal(2)`
    pub(crate) fn signal(&self, signal: Signal) -> Result<bool, Errno> {
        match pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Readable once the process has ended.
impl AsFd for Pinned {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
