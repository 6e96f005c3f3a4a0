//! Starts the command, in a child or in our place, and changes nothing about it.
//!
//! The command is to find everything as lockmgr found it: mask, ignored signals, descriptors, process
//! group, and the environment but for what it is told of the lock. `std::process::Command` clears the signal mask and resets SIGPIPE. glibc's
//! `posix_spawn` leaves its two internal signals (32 and 33) ignored in the child, and can set a
//! signal to its default but not to "ignored". So the child is made here in the way `posix_spawn`
//! makes it, with `clone`: it borrows our memory while we stand still (`CLONE_VM | CLONE_VFORK`), so
//! nothing is copied, and `lockmgr run LOCK true` takes a twentieth less than with `fork`.
//!
//! The child does a few things before the new program replaces it, none of which takes a lock or
//! allocates: it makes the locks' descriptors inheritable (or closes one), ignores again what lockmgr
//! changed for itself, makes a process group of its own if it is to have one and takes the terminal
//! into it, lets lockmgr hear of its signals, unblocks what lockmgr blocked, and calls `execvpe`.

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
    /// What becomes of the locks' descriptors.
    pub(crate) lock: Descriptor<'a>,
    /// What lockmgr blocked for itself.
    pub(crate) unblock: &'a SignalSet,
    /// What was ignored and is not, for lockmgr's sake.
    pub(crate) ignore: &'a Unignored,
    /// A process group that the command is to lead; else it stays in ours.
    pub(crate) own_group: Option<OwnGroup<'a>>,
    /// An epoll instance, and a signalfd that the child is to put there: it tells of the child's signals then.
    pub(crate) ears: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
}

/// A process group of the command's own.
pub(crate) struct OwnGroup<'a> {
    /// The terminal that controls us, and our group: if that has the terminal, the new one gets it.
    pub(crate) terminal: Option<(BorrowedFd<'a>, Pid)>,
}

/// What the command finds of the locks' descriptors.
#[derive(Clone, Copy)]
pub(crate) enum Descriptor<'a> {
    /// They stay open in the command, so that the locks last even if lockmgr is killed.
    Inherit(&'a [BorrowedFd<'a>]),
    /// It is as it was opened.
    Leave,
    /// The command does not get it.
    Close(RawFd),
}

/// Why there is no command.
pub(crate) enum NotStarted {
    /// The kernel made no process for it.
    NoChild(io::Error),
    /// The process, which has come and gone, found no program, or none that it could become. Its
    /// process group may have got the terminal.
    NoProgram(io::Error, Pid),
}

/// What parent and child share while both look at the same memory.
struct Handover {
    program: *const c_char,
    argv: *const *const c_char,
    environment: *const *const c_char,
    /// Descriptors to be inherited.
    make_inheritable: *const [RawFd],
    /// One to be closed; -1 for none.
    close: RawFd,
    unblock: *const SignalSet,
    ignore: *const Unignored,
    own_group: bool,
    /// -1 for none.
    terminal: RawFd,
    our_group: c_int,
    /// -1 for none.
    epoll: RawFd,
    signals: RawFd,
    /// Why there is no new program, if there is none.
    error: c_int,
}

/// Starts the command in a child; returns when it is the new program, or is none.
///
/// # References
/// `clone(2)`, `vfork(2)`, `posix_spawn(3)`, `execvp(3)`
pub(crate) fn spawn(argv: &Argv, inherit: &Inherit<'_>) -> Result<Pid, NotStarted> {
    let terminal = inherit.own_group.as_ref().and_then(|own| own.terminal);
    let (make_inheritable, close) = match inherit.lock {
        Descriptor::Inherit(locks) => (locks.iter().map(AsRawFd::as_raw_fd).collect(), -1),
        Descriptor::Leave => (Vec::new(), -1),
        Descriptor::Close(fd) => (Vec::new(), fd),
    };
    let mut handover = Handover {
        program: argv.program().as_ptr(),
        argv: argv.pointers.as_ptr(),
        environment: argv.environment.as_ptr(),
        make_inheritable: ptr::from_ref(make_inheritable.as_slice()),
        close,
        unblock: ptr::from_ref(inherit.unblock),
        ignore: ptr::from_ref(inherit.ignore),
        own_group: inherit.own_group.is_some(),
        terminal: terminal.map_or(-1, |(fd, _)| fd.as_raw_fd()),
        our_group: terminal.map_or(0, |(_, group)| group.as_raw_nonzero().get()),
        epoll: inherit.ears.map_or(-1, |(epoll, _)| epoll.as_raw_fd()),
        signals: inherit.ears.map_or(-1, |(_, signals)| signals.as_raw_fd()),
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
        return Err(NotStarted::NoChild(io::Error::last_os_error()));
    };
    // The compiler does not know that the child wrote there.
    // SAFETY: a plain read of our own variable.
    let error = unsafe { (&raw const handover.error).read_volatile() };
    if error == 0 {
        return Ok(pid);
    }
    // The child that became nothing.
    let _gone = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Err(NotStarted::NoProgram(io::Error::from_raw_os_error(error), pid))
}

/// The child's whole life, in its parent's memory.
extern "C" fn become_the_command(handover: *mut c_void) -> c_int {
    let handover = handover.cast::<Handover>();
    // SAFETY: `spawn` passes its own `Handover`, and stands still; nothing else refers to it.
    let handover = unsafe { &mut *handover };
    // SAFETY: points to the numbers that `spawn` has collected, and keeps until it goes on.
    for lock in unsafe { &*handover.make_inheritable } {
        // SAFETY: it changes a flag of a descriptor in the child's own table.
        unsafe { libc::fcntl(*lock, libc::F_SETFD, 0) };
    }
    if handover.close >= 0 {
        // SAFETY: it closes a descriptor in the child's own table, which nothing else here uses.
        unsafe { libc::close(handover.close) };
    }
    // SAFETY: points to what `spawn` borrowed. Signal actions are the child's own.
    let ignore = unsafe { &*handover.ignore };
    ignore.give_back();
    if handover.own_group {
        // SAFETY: it takes numbers; for a child that has only just begun it cannot fail.
        unsafe { libc::setpgid(0, 0) };
        // SAFETY: it takes a number, which is that of an open descriptor or -1, and touches no memory.
        let foreground = unsafe { libc::tcgetpgrp(handover.terminal) };
        if handover.terminal >= 0 && foreground == handover.our_group {
            // SAFETY: it takes nothing and cannot fail.
            let own_group = unsafe { libc::getpid() };
            // SAFETY: numbers only. SIGTTOU is blocked, so this does not stop us.
            unsafe { libc::tcsetpgrp(handover.terminal, own_group) };
        }
    }
    if handover.epoll >= 0 {
        let events = (libc::EPOLLIN | libc::EPOLLET).cast_unsigned();
        let mut event = libc::epoll_event { events, u64: 0 };
        // SAFETY: two numbers of open descriptors, and a structure that lives for the call. If it fails,
        // nothing is told.
        unsafe {
            libc::epoll_ctl(handover.epoll, libc::EPOLL_CTL_ADD, handover.signals, &raw mut event)
        };
    }
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
