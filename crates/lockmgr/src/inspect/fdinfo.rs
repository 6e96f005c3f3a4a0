//! What the kernel tells about one descriptor of a process: its locks, and where it leads.
//!
//! References: `proc_pid_fdinfo(5)`, `proc_pid_fd(5)`

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{CWD, readlinkat, stat};

use super::line::{Told, held_line};

/// What one descriptor's fdinfo says.
pub(super) struct FdInfo {
    /// The descriptor is closed when its process executes a program.
    pub(super) close_on_exec: bool,
    pub(super) mount: Option<u64>,
    /// Not there before Linux 5.14.
    pub(super) inode: Option<u64>,
    /// The locks of its open file description, and the `posix` locks that its process has on the file.
    pub(super) locks: Vec<Told>,
}

impl FdInfo {
    pub(super) fn of(text: &str) -> Self {
        const O_CLOEXEC: u32 = libc::O_CLOEXEC.cast_unsigned();
        let mut told = Self { close_on_exec: false, mount: None, inode: None, locks: Vec::new() };
        for line in text.lines() {
            if let Some(lock) = held_line(line) {
                told.locks.push(lock);
            } else if let Some(number) = line.strip_prefix("ino:") {
                told.inode = number.trim().parse().ok();
            } else if let Some(flags) = line.strip_prefix("flags:") {
                let flags = u32::from_str_radix(flags.trim(), 8).unwrap_or(0);
                told.close_on_exec = flags & O_CLOEXEC != 0;
            } else if let Some(number) = line.strip_prefix("mnt_id:") {
                told.mount = number.trim().parse().ok();
            }
        }
        told
    }
}

/// By which path a descriptor was opened.
pub(super) struct OpenedAs {
    pub(super) path: PathBuf,
    /// The path has been removed since.
    pub(super) deleted: bool,
}

/// Reads where the descriptor of a process leads; `descriptors` is the process's directory of them.
pub(super) fn opened_as(pid: u32, descriptors: &OwnedFd, number: &str) -> Option<OpenedAs> {
    const REMOVED: &[u8] = b" (deleted)";
    let told = readlinkat(descriptors, number, Vec::new()).ok()?.into_bytes();
    let (path, deleted) = match told.strip_suffix(REMOVED) {
        Some(before) if !is_the_file(pid, number, &told) => (before.to_vec(), true),
        _ => (told, false),
    };
    Some(OpenedAs { path: PathBuf::from(OsString::from_vec(path)), deleted })
}

/// Whether the path, which looks like that of a removed file, is in truth how the file is named: seen
/// from here, or from its process, which may live in another mount namespace.
fn is_the_file(pid: u32, number: &str, path: &[u8]) -> bool {
    let Ok(opened) = stat(format!("/proc/{pid}/fd/{number}")) else { return false };
    let there = [format!("/proc/{pid}/root").as_bytes(), path].concat();
    [path, &there].into_iter().any(|path| {
        rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|named| (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fdinfo_is_read_whatever_it_says() {
        let told = FdInfo::of(
            "pos:\t0\nflags:\t02100002\nmnt_id:\t27\nino:\t99\n\
             lock:\t1: FLOCK  ADVISORY  WRITE 42 fe:00:99 0 EOF\nlock:\tnonsense\nfuture: 1\n",
        );
        assert_eq!((told.mount, told.inode, told.locks.len()), (Some(27), Some(99), 1));
        assert!(told.close_on_exec && !FdInfo::of("flags:\t0100002\n").close_on_exec);
        assert!(FdInfo::of("").locks.is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|\n|\t|lock:|ino:|[0-9: ]){0,200}") {
            drop(FdInfo::of(&text));
        }

        #[test]
        fn what_was_written_is_read(mount in any::<u64>(), inode in any::<u64>(), locks in 0..20_usize) {
            let lock = "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:99 0 EOF\n".repeat(locks);
            let told = FdInfo::of(&format!("pos:\t0\nmnt_id:\t{mount}\nino:\t{inode}\n{lock}"));
            prop_assert_eq!((told.mount, told.inode), (Some(mount), Some(inode)));
            prop_assert_eq!(told.locks.len(), locks);
        }
    }
}
