//! System calls that only tests make: the rough world in which the library has to keep its promises.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockmgr::{Mechanism, Mode};

static CAUGHT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_signal: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// Signals that the handlers of [`catch`] have seen.
pub(crate) fn caught() -> usize {
    CAUGHT.load(Ordering::Relaxed)
}

/// Installs a handler that counts; with `restart` interrupted system calls go on after it.
pub(crate) fn catch(signal: i32, restart: bool) {
    let flags = if restart { libc::SA_RESTART } else { 0 };
    set_action(signal, count as *const () as usize, flags);
}

pub(crate) fn ignore(signal: i32) {
    set_action(signal, libc::SIG_IGN, 0);
}

fn set_action(signal: i32, handler: usize, flags: i32) {
    // SAFETY: an all-zero sigaction is a value of this C structure (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the action is valid for the call, and its handler does nothing but add to an atomic.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    assert_eq!(result, 0, "signal {signal}: {}", io::Error::last_os_error());
}

pub(crate) fn has_default_action(signal: i32) -> bool {
    // SAFETY: an all-zero sigaction is a value of this C structure.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a null new action only asks; the result is valid for the call.
    let result = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    assert_eq!(result, 0, "signal {signal}: {}", io::Error::last_os_error());
    action.sa_sigaction == libc::SIG_DFL
}

pub(crate) fn realtime_signals() -> RangeInclusive<i32> {
    libc::SIGRTMIN()..=libc::SIGRTMAX()
}

/// Blocks every signal that can be, for the calling thread.
pub(crate) fn block_all_signals() {
    change_mask(libc::SIG_BLOCK, None);
}

pub(crate) fn unblock_all_signals() {
    change_mask(libc::SIG_UNBLOCK, None);
}

pub(crate) fn block(signal: i32) {
    change_mask(libc::SIG_BLOCK, Some(signal));
}

fn change_mask(how: i32, signal: Option<i32>) {
    // SAFETY: an all-zero set is the empty set of this C structure.
    let mut set: libc::sigset_t = unsafe { mem::zeroed() };
    match signal {
        // SAFETY: the set is initialised, and the signal number is one of the system's.
        Some(signal) => unsafe { libc::sigaddset(&raw mut set, signal) },
        // SAFETY: the call only writes to the set.
        None => unsafe { libc::sigfillset(&raw mut set) },
    };
    // SAFETY: the set is valid for the call; the old one is not asked for.
    unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) };
}

/// Sends a signal to one thread of this process.
pub(crate) fn signal_thread(thread: i32, signal: i32) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    // SAFETY: the call has no memory effects; a thread that has gone is an error, which is no
    // matter.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
}

/// Takes a write lease: whoever opens the file now has to wait until it is given back.
pub(crate) fn take_write_lease(file: &File) -> io::Result<()> {
    lease(file, libc::F_WRLCK)
}

pub(crate) fn give_lease_back(file: &File) -> io::Result<()> {
    lease(file, libc::F_UNLCK)
}

fn lease(file: &File, kind: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow; the argument is a number.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// From now on the kernel refuses this system call to this thread, and to those that it starts, with
/// `EIO`.
pub(crate) fn refuse(call: libc::c_long) {
    let number = u32::try_from(call).unwrap();
    let step = |code: u32, jump_true, jump_false, value| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: jump_true,
        jf: jump_false,
        k: value,
    };
    let errno = u32::try_from(libc::EIO).unwrap();
    let mut filter = [
        // The number of the call is the first word of `seccomp_data`.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program =
        libc::sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: the call takes four numbers.
    let promised = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(promised, 0, "{}", io::Error::last_os_error());
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program and its steps live until the call is over, and the kernel copies them.
    let taken = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    assert_eq!(taken, 0, "{}", io::Error::last_os_error());
}

/// Becomes this program anew, in another role, with the signal mask as it is. (`Command::exec`
/// would empty the mask first.)
pub(crate) fn become_role(role: &str) -> ! {
    let program = std::env::current_exe().unwrap();
    let text = |text: &OsStr| CString::new(text.as_bytes()).unwrap();
    let program = text(program.as_os_str());
    let args: Vec<CString> = std::env::args_os().map(|arg| text(&arg)).collect();
    let mut environment: Vec<CString> = std::env::vars_os()
        .filter(|(name, _)| name != super::ROLE)
        .map(|(name, value)| text(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("="))))
        .collect();
    environment.push(CString::new(format!("{}={role}", super::ROLE)).unwrap());
    let pointers = |texts: &[CString]| {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>()
    };
    let (args, environment) = (pointers(&args), pointers(&environment));
    // SAFETY: NUL-terminated texts and null-terminated lists that live until the call is over.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), environment.as_ptr()) };
    panic!("cannot become {role}: {}", io::Error::last_os_error());
}

/// Takes, changes or waits for a lock on a descriptor number, with nothing between the caller and the
/// kernel. Record locks are on `len` bytes from `start`, 0 for all there will be.
pub(crate) fn take_lock(
    fd: i32,
    mechanism: Mechanism,
    mode: Mode,
    (start, len): (i64, i64),
    sleeps: bool,
) -> io::Result<()> {
    let result = if mechanism == Mechanism::Flock {
        let mode = if mode == Mode::Shared { libc::LOCK_SH } else { libc::LOCK_EX };
        let patience = if sleeps { 0 } else { libc::LOCK_NB };
        #[expect(clippy::disallowed_methods, reason = "this is what is looked at")]
        // SAFETY: the call has no memory effects, whatever the number.
        unsafe {
            libc::flock(fd, mode | patience)
        }
    } else {
        // SAFETY: an all-zero `flock` is a value of this C structure.
        let mut request: libc::flock = unsafe { mem::zeroed() };
        let kind = if mode == Mode::Shared { libc::F_RDLCK } else { libc::F_WRLCK };
        request.l_type = i16::try_from(kind).unwrap();
        (request.l_start, request.l_len) = (start, len);
        let command = match (mechanism, sleeps) {
            (Mechanism::Ofd, true) => libc::F_OFD_SETLKW,
            (Mechanism::Ofd, false) => libc::F_OFD_SETLK,
            (_, true) => libc::F_SETLKW,
            (_, false) => libc::F_SETLK,
        };
        // SAFETY: the command reads the structure, which is valid for the call.
        unsafe { libc::fcntl(fd, command, &raw const request) }
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A copy of the descriptor, which programs that are started from here have, too.
pub(crate) fn duplicate(fd: i32) -> i32 {
    // SAFETY: the call has no memory effects, whatever the number.
    let copy = unsafe { libc::dup(fd) };
    assert!(copy >= 0, "descriptor {fd}: {}", io::Error::last_os_error());
    copy
}

/// Closes a descriptor number.
pub(crate) fn close(fd: i32) {
    // SAFETY: whoever runs a scene alone knows its descriptors, none of which has an owner in Rust.
    assert_eq!(unsafe { libc::close(fd) }, 0, "descriptor {fd}: {}", io::Error::last_os_error());
}
