//! Starts the command, in a child or in our place, and changes nothing about it.
//!
//! The command is to find everything as lockmgr found it: mask, ignored signals, descriptors, process
//! group, and the environment but for what it is told of the lock. `std::process::Command` clears the signal mask and resets SIGPIPE. glibc's
//! `posix_spawn` leaves its two internal signals (32 and 33) ignored in the child, and can set a
//! signal to its default but not to "ignored". So the child is made here in the way `posix_spawn`
//! makes it, with `clone`: it borrows our memory while we stand still (`CLONE_VM | CLONE_VFORK`), so
//! nothing is copied, and `lockmgr run LOCK true` takes a twentieth less than with `fork`.
//!
//! The child does four things before the new program replaces it, none of which takes a lock or
//! allocates: it makes the locks' descriptors inheritable, ignores again and unblocks what
//! lockmgr changed for itself, and calls `execvpe`.

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use rustix::process::Pid;

use super::environment::Environment;
use super::signals::{SignalSet, Unignored};

/// A program, its arguments and its environment, ready for `execvpe`.
pub(crate) struct Argv {
    words: Vec<CString>,
    /// Points into `words` (whose heap blocks stay where they are), and ends in a null pointer.
    pointers: Vec<*const c_char>,
    environment: Environment,
}

impl Argv {
    /// `words` has the program in front; it is looked for in `PATH` if it has no slash.
    pub(crate) fn new(words: Vec<OsString>) -> Self {
        let words: Vec<CString> = words
            .into_iter()
            .map(|word| {
                CString::new(word.into_vec())
                    .expect("words of a command line and of the environment have no NUL inside")
            })
            .collect();
        assert!(!words.is_empty(), "a command has at least a name");
        let pointers = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Argv { words, pointers, environment: Environment::with(Vec::new()) }
    }

    /// With this environment, instead of lockmgr's own.
    pub(crate) fn set_environment(&mut self, environment: Environment) {
        self.environment = environment;
    }

    pub(crate) fn program(&self) -> &CStr {
        &self.words[0]
    }
}

/// What the child gets that differs from what lockmgr has at the moment: back to how it was.
pub(crate) struct Inherit<'a> {
    /// Stay open in the command, so that the locks last even if lockmgr is killed.
    pub(crate) locks: &'a [BorrowedFd<'a>],
    /// What lockmgr blocked for itself.
    pub(crate) unblock: &'a SignalSet,
    /// What was ignored and is not, for lockmgr's sake.
    pub(crate) ignore: &'a Unignored,
}

/// What parent and child share while both look at the same memory.
struct Handover {
    program: *const c_char,
    argv: *const *const c_char,
    environment: *const *const c_char,
    locks: *const [RawFd],
    unblock: *const SignalSet,
    ignore: *const Unignored,
    /// Why there is no new program, if there is none.
    error: c_int,
}

/// Starts the command in a child; returns when it is the new program, or is none.
///
/// # References
/// `clone(2)`, `vfork(2)`, `posix_spawn(3)`, `execvp(3)`
pub(crate) fn spawn(argv: &Argv, inherit: &Inherit<'_>) -> io::Result<Pid> {
    let locks: Vec<RawFd> = inherit.locks.iter().map(AsRawFd::as_raw_fd).collect();
    let mut handover = Handover {
        program: argv.program().as_ptr(),
        argv: argv.pointers.as_ptr(),
        environment: argv.environment.as_ptr(),
        locks: ptr::from_ref(locks.as_slice()),
        unblock: ptr::from_ref(inherit.unblock),
        ignore: ptr::from_ref(inherit.ignore),
        error: 0,
    };
    // `execvp` keeps a path there, and for a script without `#!` a second array of arguments.
    let size = 64 * 1024 + argv.pointers.len() * size_of::<*const c_char>();
    let mut stack = Vec::<u128>::with_capacity(size / size_of::<u128>());
    let unused = stack.spare_capacity_mut();
    // SAFETY: one past the end of the same allocation. Stacks grow downwards on every architecture
    // that Rust supports, and the alignment of u128 is what they want.
    let top = unsafe { unused.as_mut_ptr().add(unused.len()) };
    // SAFETY: with CLONE_VFORK this thread stands still until the child has left our memory, by
    // `execvp` or `_exit`, so stack and handover outlive the child's use of them, and no other code
    // of ours looks at them in between. The child has its own signal actions and descriptor table.
    // It runs `become_the_command` alone, which is written for this.
    let pid = unsafe {
        libc::clone(
            become_the_command,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut handover).cast(),
        )
    };
    let Some(pid) = Pid::from_raw(pid.max(0)) else {
        return Err(io::Error::last_os_error());
    };
    // The compiler does not know that the child wrote there.
    // SAFETY: a plain read of our own variable.
    let error = unsafe { (&raw const handover.error).read_volatile() };
    if error == 0 {
        return Ok(pid);
    }
    // The child that became nothing.
    let _gone = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Err(io::Error::from_raw_os_error(error))
}

/// The child's whole life, in its parent's memory.
extern "C" fn become_the_command(handover: *mut c_void) -> c_int {
    let handover = handover.cast::<Handover>();
    // SAFETY: `spawn` passes its own `Handover`, and stands still; nothing else refers to it.
    let handover = unsafe { &mut *handover };
    // SAFETY: points to the numbers that `spawn` has collected, and keeps until it goes on.
    for lock in unsafe { &*handover.locks } {
        // SAFETY: it changes a flag of a descriptor in the child's own table.
        unsafe { libc::fcntl(*lock, libc::F_SETFD, 0) };
    }
    // SAFETY: points to what `spawn` borrowed. Signal actions are the child's own.
    let ignore = unsafe { &*handover.ignore };
    ignore.give_back();
    // A stop signal from here on would stop the child while the parent cannot follow it; it is as
    // late as can be, because the new program inherits the mask.
    // SAFETY: points to the set that `spawn` borrowed.
    let unblock = unsafe { &*handover.unblock };
    unblock.unblock();
    // SAFETY: a NUL-terminated string and two null-terminated arrays of such, all alive in `spawn`.
    unsafe { libc::execvpe(handover.program, handover.argv, handover.environment) };
    handover.error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    // SAFETY: `_exit` runs no handlers of the parent's and touches none of its memory.
    unsafe { libc::_exit(127) }
}

/// Replaces this process by the command; returns only if that cannot be.
pub(crate) fn exec(argv: &Argv, ignore: &Unignored) -> io::Error {
    ignore.give_back();
    let (program, environment) = (argv.program().as_ptr(), argv.environment.as_ptr());
    // SAFETY: a NUL-terminated string and two null-terminated arrays of such.
    unsafe { libc::execvpe(program, argv.pointers.as_ptr(), environment) };
    io::Error::last_os_error()
}
