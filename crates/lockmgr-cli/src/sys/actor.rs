//! What the actors of `lockmgr lab` ask of the kernel: the bare calls, by the number of a descriptor,
//! because whose lock it is and what a call does about it is just what the lab wants to see.

use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

use super::lock::Want;

/// Who owns a record lock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Process,
    Description,
}

/// A lock in the way of another one, as `F_GETLK` tells it.
pub(crate) struct Obstacle {
    pub(crate) shared: bool,
    pub(crate) start: i64,
    pub(crate) length: i64,
    pub(crate) pid: i32,
}

/// `fcntl(F_GETLK)` or `fcntl(F_OFD_GETLK)`.
///
/// # References
/// `fcntl(2)`
pub(crate) fn obstacle(
    fd: RawFd,
    owner: Owner,
    want: Want,
    start: i64,
    length: i64,
) -> io::Result<Option<Obstacle>> {
    let kind = if want == Want::Shared { libc::F_RDLCK } else { libc::F_WRLCK };
    // SAFETY: an all-zero flock is a value of this C structure, with whence 0 and the pid 0 that the
    // calls for open file descriptions demand.
    let mut asked: libc::flock = unsafe { mem::zeroed() };
    asked.l_type = libc::c_short::try_from(kind).expect("a small constant");
    asked.l_start = start;
    asked.l_len = length;
    let command = match owner {
        Owner::Process => libc::F_GETLK,
        Owner::Description => libc::F_OFD_GETLK,
    };
    // SAFETY: the structure lives for the call, which reads and writes it; a number that is no
    // descriptor is refused.
    if unsafe { libc::fcntl(fd, command, &raw mut asked) } == -1 {
        return Err(io::Error::last_os_error());
    }
    let kind = libc::c_int::from(asked.l_type);
    Ok((kind != libc::F_UNLCK).then_some(Obstacle {
        shared: kind == libc::F_RDLCK,
        start: asked.l_start,
        length: asked.l_len,
        pid: asked.l_pid,
    }))
}

/// `lockf(3)` from the file's current offset; 0 bytes are all to the end.
pub(crate) fn lockf(fd: RawFd, command: libc::c_int, length: i64) -> io::Result<()> {
    // SAFETY: it takes numbers and touches no memory of ours.
    if unsafe { libc::lockf(fd, command, length) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes a child that goes on from here; `None` in that child.
///
/// Only for an actor, a process of one thread: in the child there is then no other thread whose lock
/// could be left taken, and it may do everything that the parent may.
///
/// # References
/// `fork(2)`
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    #[expect(clippy::disallowed_methods, reason = "what fork does to locks is the question")]
    // SAFETY: the caller has no second thread, so the child's copy of the memory is whole.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        child => Ok(Pid::from_raw(child)),
    }
}

/// A descriptor that this program was started with, by its number.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: it takes numbers; whether there is such a descriptor is the kernel's to say.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and an actor has but one table of descriptors, in which this one is not.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// Installs a handler that does nothing; with `restart`, interrupted calls go on after it.
///
/// # References
/// `sigaction(2)`
pub(crate) fn catch(signal: libc::c_int, restart: bool) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a value of this C structure: no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
    // SAFETY: the action is valid for the call, and its handler does nothing.
    if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// From now on this thread waits for its turn when it is woken up, and takes the processor from nobody.
///
/// # References
/// `sched_setscheduler(2)`
pub(crate) fn become_batch() -> io::Result<()> {
    // SAFETY: an all-zero parameter is a value of this C structure, and the one that this policy wants.
    let parameter: libc::sched_param = unsafe { mem::zeroed() };
    // SAFETY: 0 stands for this thread; the parameter lives for the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
