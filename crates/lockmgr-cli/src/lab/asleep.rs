//! Whether a thread of an actor sleeps in a lock call: looked up, never guessed from time.

use std::fs;
use std::os::fd::BorrowedFd;

/// What a thread is seen to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It sleeps, and the kernel says that it does so in a lock call.
    InLockCall,
    /// It sleeps; in what, the kernel does not tell (it may be built without that file, or not permit it).
    Sleeps,
    Runs,
}

pub(super) fn look(process: i32, thread: i32) -> Look {
    // The kernel names the call of a thread that sleeps or is stopped; of one that runs it says so.
    let call = fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall"));
    let sleeps = matches!(state(process, thread), Some('S' | 'D'));
    let number = call.as_ref().ok().and_then(|line| line.split(' ').next()?.parse::<i64>().ok());
    match (sleeps, number) {
        (true, Some(libc::SYS_flock | libc::SYS_fcntl)) => Look::InLockCall,
        (true, None) if call.is_err() => Look::Sleeps,
        _ => Look::Runs,
    }
}

/// Whether the filesystem is one whose lock calls ask nobody but the kernel.
pub(super) fn is_local(directory: BorrowedFd<'_>) -> bool {
    // As in linux/magic.h: ext2 to ext4, XFS, Btrfs, tmpfs, ramfs, overlayfs, F2FS.
    const LOCAL: [u64; 7] =
        [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0xf2f5_2010];
    rustix::fs::fstatfs(directory)
        .is_ok_and(|about| u64::try_from(about.f_type).is_ok_and(|kind| LOCAL.contains(&kind)))
}

/// Whether a thread of a process that was killed sleeps where not even that wakes it up.
pub(super) fn is_stuck(process: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{process}/task"));
    threads.into_iter().flatten().flatten().any(|thread| {
        let number = thread.file_name().to_str().and_then(|name| name.parse().ok());
        number.is_some_and(|number| state(process, number) == Some('D'))
    })
}

/// The state letter as in ps(1); `None` when the thread is gone.
pub(super) fn state(process: i32, thread: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{process}/task/{thread}/stat")).ok()?;
    // The name stands in parentheses and may have some itself.
    stat.rsplit(')').next()?.trim_start().chars().next()
}
