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
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{Mode as Permissions, OFlags, openat};
use rustix::io::Errno;

use crate::mode::{Mode, Range};

use super::process::read_at;
use super::scan::{Limit, directory, numbers};
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
    limit: Limit,
    found: &mut Vec<Blocked>,
) -> Result<(), Errno> {
    let mut text = Vec::new();
    let mut threads = Vec::new();
    let tasks = directory(process, "task")?;
    numbers(&tasks, limit, |thread| threads.push(thread))?;
    for thread in threads {
        if limit.has_passed() {
            return Err(Errno::TIME);
        }
        match read_at(&tasks, &format!("{thread}/syscall"), 512, &mut text) {
            Ok(()) => {}
            // It has ended.
            Err(Errno::NOENT | Errno::SRCH) => continue,
            Err(errno) => return Err(errno),
        }
        let Some(call) = LockCall::of(&String::from_utf8_lossy(&text)) else { continue };
        let Some(&inode) = descriptors.get(&call.descriptor) else { continue };
        let (mode, range) = match call.request {
            Request::Mode(mode) => (Some(mode), Some(Range::WHOLE)),
            Request::At(address) => read_request(process, address).unwrap_or_default(),
        };
        let (kind, descriptor) = (call.kind, call.descriptor);
        found.push(Blocked { pid, thread, descriptor, inode, kind, mode, range });
    }
    Ok(())
}

/// A lock call that may sleep.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LockCall {
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
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let call: libc::c_long = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (descriptor, command, request) = (argument()?, argument()?, argument()?);
        // The kernel looks at the lower half of both only.
        let descriptor = u32::try_from(descriptor & 0xffff_ffff).ok()?;
        let command = i32::try_from(command & 0x7fff_ffff).ok()?;
        if call == libc::SYS_flock {
            let request = match command {
                libc::LOCK_SH => Request::Mode(Mode::Shared),
                libc::LOCK_EX => Request::Mode(Mode::Exclusive),
                _ => return None,
            };
            return Some(Self { kind: Kind::Flock, descriptor, request });
        }
        if call != libc::SYS_fcntl {
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
fn read_request(process: &OwnedFd, address: u64) -> Option<(Option<Mode>, Option<Range>)> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let memory = File::from(openat(process, "mem", flags, Permissions::empty()).ok()?);
    let mut bytes = [0; size_of::<libc::flock>()];
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(understand_request(&bytes))
}

/// The C structure of the 64-bit calls: two short numbers, then start and length. Where they count from
/// the position in the file, or backwards (`lockf(3)`), the range is not known.
fn understand_request(bytes: &[u8; size_of::<libc::flock>()]) -> (Option<Mode>, Option<Range>) {
    let short = |at: usize| Some(i16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(i64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let mode = match short(offset_of!(libc::flock, l_type)).map(i32::from) {
        Some(libc::F_RDLCK) => Some(Mode::Shared),
        Some(libc::F_WRLCK) => Some(Mode::Exclusive),
        _ => None,
    };
    let range = || {
        if i32::from(short(offset_of!(libc::flock, l_whence))?) != libc::SEEK_SET {
            return None;
        }
        let start = u64::try_from(long(offset_of!(libc::flock, l_start))?).ok()?;
        match u64::try_from(long(offset_of!(libc::flock, l_len))?).ok()? {
            0 => Range::as_told(start, None),
            len => Range::as_told(start, Some(start.checked_add(len - 1)?)),
        }
    };
    (mode, range())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|[0-9a-fx ]){0,100}") {
            let _nothing = LockCall::of(&text);
        }

        #[test]
        fn any_request_is_read(bytes in any::<[u8; size_of::<libc::flock>()]>()) {
            let _nothing = understand_request(&bytes);
        }

        #[test]
        fn lock_calls_are_understood(
            descriptor in any::<u32>(), upper in any::<u32>(), at in any::<u64>(), more in any::<u64>(),
        ) {
            let first = u64::from(upper) << 32 | u64::from(descriptor);
            for (number, command, kind, request) in [
                (libc::SYS_fcntl, libc::F_OFD_SETLKW, Kind::Ofd, Request::At(at)),
                (libc::SYS_fcntl, libc::F_SETLKW, Kind::Posix, Request::At(at)),
                (libc::SYS_flock, libc::LOCK_SH, Kind::Flock, Request::Mode(Mode::Shared)),
            ] {
                let text = format!("{number} {first:#x} {command:#x} {at:#x} {more:#x} 0x0 0x0 0x7 0x8\n");
                prop_assert_eq!(LockCall::of(&text), Some(LockCall { kind, descriptor, request }));
            }
        }

        #[test]
        fn requests_are_understood(start in 0..i64::MAX, len in 0..i64::MAX, exclusive: bool) {
            let kind = if exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
            let mut bytes = [0; size_of::<libc::flock>()];
            let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
            put(offset_of!(libc::flock, l_type), &i16::try_from(kind).unwrap().to_ne_bytes());
            put(offset_of!(libc::flock, l_start), &start.to_ne_bytes());
            put(offset_of!(libc::flock, l_len), &len.to_ne_bytes());
            let (mode, range) = understand_request(&bytes);
            prop_assert_eq!(mode, Some(if exclusive { Mode::Exclusive } else { Mode::Shared }));
            let range = range.unwrap();
            prop_assert_eq!(i64::try_from(range.start()), Ok(start));
            prop_assert_eq!(range.len(), u64::try_from(len).ok().filter(|len| *len != 0));
        }
    }

    #[test]
    fn requests_that_count_from_elsewhere_have_a_mode_at_least() {
        let mut bytes = [0; size_of::<libc::flock>()];
        let whence = i16::try_from(libc::SEEK_CUR).unwrap().to_ne_bytes();
        let at = offset_of!(libc::flock, l_whence);
        bytes[at..at + 2].copy_from_slice(&whence);
        assert_eq!(understand_request(&bytes), (Some(Mode::Shared), None));
    }

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
