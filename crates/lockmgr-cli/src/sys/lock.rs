//! The bare lock calls, on descriptors by their number: whether there is such a descriptor is the
//! kernel's to say.

use std::io;
use std::mem;
use std::os::fd::RawFd;

/// What is asked of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Shared,
    Exclusive,
    Unlock,
}

/// By which of the kernel's locks.
#[derive(Clone, Copy)]
pub(crate) enum Api {
    Flock,
    /// Open file description lock on `length` bytes from `start`; length 0 is to the end of the file.
    /// Numbers that the kernel does not take are for it to refuse.
    Ofd {
        start: i64,
        length: i64,
    },
    /// Record lock of the process, on the same terms.
    Posix {
        start: i64,
        length: i64,
    },
}

/// Makes one lock call; sleeps in it if `sleep` is set and the lock is not free.
///
/// # References
/// `flock(2)`, `fcntl(2)` (open file description locks)
pub(crate) fn lock(fd: RawFd, api: Api, want: Want, sleep: bool) -> io::Result<()> {
    let result = match api {
        Api::Flock => {
            let operation = match want {
                Want::Shared => libc::LOCK_SH,
                Want::Exclusive => libc::LOCK_EX,
                Want::Unlock => libc::LOCK_UN,
            };
            let operation = operation | if sleep { 0 } else { libc::LOCK_NB };
            #[expect(
                clippy::disallowed_methods,
                reason = "the caller's own lock in flock(1), the thing looked at in the lab"
            )]
            // SAFETY: it takes two numbers and touches no memory.
            unsafe {
                libc::flock(fd, operation)
            }
        }
        Api::Ofd { start, length } | Api::Posix { start, length } => {
            let kind = match want {
                Want::Shared => libc::F_RDLCK,
                Want::Exclusive => libc::F_WRLCK,
                Want::Unlock => libc::F_UNLCK,
            };
            // SAFETY: an all-zero flock is a value of this C structure, with whence 0 (from the start
            // of the file); the OFD commands demand that the pid is 0.
            let mut request: libc::flock = unsafe { mem::zeroed() };
            request.l_type = libc::c_short::try_from(kind).expect("a small constant");
            request.l_start = start;
            request.l_len = length;
            let command = match (api, sleep) {
                (Api::Posix { .. }, true) => libc::F_SETLKW,
                (Api::Posix { .. }, false) => libc::F_SETLK,
                (_, true) => libc::F_OFD_SETLKW,
                (_, false) => libc::F_OFD_SETLK,
            };
            // SAFETY: the structure lives for the call; a number that is no descriptor is refused.
            unsafe { libc::fcntl(fd, command, &raw const request) }
        }
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
