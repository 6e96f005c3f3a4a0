//! Which threads of a process sleep in a lock call, and in which one.
//!
//! The kernel tells the system call that a blocked thread is in, with its arguments, to those who may
//! trace the process. For a record lock the third argument points to the request, which is read from
//! the process's memory: another thread may have changed it since, so it only helps to tell like
//! waiters apart.
//!
//! References: `proc_pid_syscall(5)`, `proc_pid_mem(5)`, `flock(2)`, `fcntl(2)`

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode as Permissions, OFlags, openat};
use rustix::io::Errno;

use crate::mode::{Mode, Range};

use super::process::read_at;
use super::scan::numbers;
use super::table::{Inode, Kind};

/// A thread that sleeps in a lock call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) pid: u32,
    pub(super) thread: u32,
    pub(super) descriptor: u32,
    pub(super) inode: Inode,
    pub(super) kind: Kind,
    /// As far as the request could be read.
    pub(super) mode: Option<Mode>,
    pub(super) range: Option<Range>,
}

/// Finds the threads of the process that sleep in a lock call on one of these descriptors.
pub(super) fn asleep_in_lock_calls(
    pid: u32,
    process: &OwnedFd,
    descriptors: &HashMap<u32, Inode>,
    found: &mut Vec<Blocked>,
) -> Result<(), Errno> {
    let mut text = Vec::new();
    let mut threads = Vec::new();
    numbers(process, "task", |thread| threads.push(thread))?;
    for thread in threads {
        match read_at(process, &format!("task/{thread}/syscall"), 512, &mut text) {
            Ok(()) => {}
            // It has ended.
            Err(Errno::NOENT | Errno::SRCH) => continue,
            Err(errno) => return Err(errno),
        }
        let Some(call) = LockCall::of(&String::from_utf8_lossy(&text)) else { continue };
        let Some(&inode) = descriptors.get(&call.descriptor) else { continue };
        let (mode, range) = match call.request {
            Request::Mode(mode) => (Some(mode), Some(Range::WHOLE)),
            Request::At(address) => read_request(process, address).unzip(),
        };
        let (kind, descriptor) = (call.kind, call.descriptor);
        found.push(Blocked { pid, thread, descriptor, inode, kind, mode, range });
    }
    Ok(())
}

/// A lock call that may sleep.
#[derive(Debug, PartialEq, Eq)]
struct LockCall {
    kind: Kind,
    descriptor: u32,
    request: Request,
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    Mode(Mode),
    /// The address of a `struct flock` in the process's memory.
    At(u64),
}

impl LockCall {
    /// `73 0x3 0x2 …`: the number in decimal, arguments in hexadecimal. The numbers are those of this
    /// program's own architecture.
    fn of(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let call: i64 = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (descriptor, command, request) = (argument()?, argument()?, argument()?);
        // The kernel looks at the lower half of both only.
        let descriptor = u32::try_from(descriptor & 0xffff_ffff).ok()?;
        let command = i32::try_from(command & 0x7fff_ffff).ok()?;
        if call == i64::from(libc::SYS_flock) {
            let request = match command {
                libc::LOCK_SH => Request::Mode(Mode::Shared),
                libc::LOCK_EX => Request::Mode(Mode::Exclusive),
                _ => return None,
            };
            return Some(Self { kind: Kind::Flock, descriptor, request });
        }
        if call != i64::from(libc::SYS_fcntl) {
            return None;
        }
        let kind = match command {
            libc::F_SETLKW => Kind::Posix,
            libc::F_OFD_SETLKW => Kind::Ofd,
            _ => return None,
        };
        Some(Self { kind, descriptor, request: Request::At(request) })
    }
}

/// Reads the request of a record lock from the memory of its process.
fn read_request(process: &OwnedFd, address: u64) -> Option<(Mode, Range)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let memory = File::from(openat(process, "mem", flags, Permissions::empty()).ok()?);
    let mut bytes = [0; size_of::<libc::flock>()];
    memory.read_exact_at(&mut bytes, address).ok()?;
    understand_request(&bytes)
}

/// The C structure of the 64-bit calls: two short numbers, then start and length.
fn understand_request(bytes: &[u8; size_of::<libc::flock>()]) -> Option<(Mode, Range)> {
    let short = |at: usize| Some(i16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(i64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let mode = match i32::from(short(std::mem::offset_of!(libc::flock, l_type))?) {
        libc::F_RDLCK => Mode::Shared,
        libc::F_WRLCK => Mode::Exclusive,
        _ => return None,
    };
    if i32::from(short(std::mem::offset_of!(libc::flock, l_whence))?) != libc::SEEK_SET {
        return None;
    }
    let start = u64::try_from(long(std::mem::offset_of!(libc::flock, l_start))?).ok()?;
    let range = match u64::try_from(long(std::mem::offset_of!(libc::flock, l_len))?).ok()? {
        0 => Range::as_told(start, None),
        len => Range::as_told(start, Some(start.checked_add(len - 1)?)),
    }?;
    Some((mode, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_calls_are_told_from_others() {
        let flock = libc::SYS_flock;
        let fcntl = libc::SYS_fcntl;
        let call = |text: String| LockCall::of(&text);
        assert_eq!(
            call(format!("{flock} 0x3 0x2 0x0 0x0 0x0 0x0 0x7ffe 0x7f00\n")),
            Some(LockCall {
                kind: Kind::Flock,
                descriptor: 3,
                request: Request::Mode(Mode::Exclusive)
            })
        );
        assert_eq!(
            call(format!("{fcntl} 0xffffffff00000007 0x26 0x7ffe1 0 0 0")),
            Some(LockCall { kind: Kind::Ofd, descriptor: 7, request: Request::At(0x7ffe1) })
        );
        // A try does not sleep, even if it is caught in the act.
        for odd in [
            format!("{flock} 0x3 0x6 0x0"),
            format!("{fcntl} 0x3 0x25 0x0"),
            format!("{flock} 3 2 0"),
            "running".into(),
            "-1 0x7ffe 0x7f00".into(),
            String::new(),
            "99999999999999999999 0x1 0x1 0x1".into(),
        ] {
            assert_eq!(call(odd.clone()), None, "{odd}");
        }
    }
}
