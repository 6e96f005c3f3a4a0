//! A bare name instead of a path.
//!
//! | who, which scope | directory | permissions |
//! |---|---|---|
//! | a user | `/tmp/lockmgr-UID/` | 0700, the user's |
//! | root | `/run/lockmgr/` | 0700, root's |
//! | `system` | `/run/lock/lockmgr/` | 1777, root's |
//!
//! The place depends on the effective user id and on nothing else. No environment variable takes
//! part: cron has no `XDG_RUNTIME_DIR`, and the same user and name must be the same lock in a
//! terminal, in cron and in a service. The directory is made on first use, and refused if it is not
//! exactly what it should be: somebody else may have put it there.
//!
//! The directory for all users is made by root, because its owner could delete other people's lock
//! files. Where no root process has used it since boot, a line for `systemd-tmpfiles` does it
//! (`d /run/lock/lockmgr 1777 root root -`, in `docs/tmpfiles.d/lockmgr.conf`).
//!
//! # Cleaners of `/tmp`
//! They delete old files, and locking makes no file younger: one that is locked every day is as old
//! as its creation. A lock file that goes between two holds is only created again. One that goes
//! *during* a hold lets a second process in by the new file; the guard notices
//! ([`still_current`](crate::FileLockGuard::still_current)), but only afterwards. So:
//!
//! - Lock files of names have the sticky bit (`ls -l` shows a `T`), which means nothing to the
//!   kernel and "not to be cleaned up" to `systemd-tmpfiles`, in all its versions.
//! - Without that bit (an own [`creation_mode`](crate::FileLockOptions::creation_mode)) it would
//!   spare a file that is locked with `flock` at that moment, from version 254 on; older versions
//!   look for such locks on directories only, and no version looks for record locks.
//! - It takes an exclusive `flock` itself on what it is about to delete. Whoever tries in that
//!   instant finds the lock busy; whoever waits goes on with the new file.
//! - Other cleaners (`tmpreaper`, `tmpwatch`, a `find` in cron) know nothing of this: exclude
//!   `/tmp/lockmgr-*` there, or give a path elsewhere.
//!
//! References: `tmpfiles.d(5)`, `systemd-tmpfiles(8)`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode as Permissions};
use rustix::io::Errno;

use crate::error::{CREATE, Error, OPEN, Result};

/// Who shares the names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scope {
    /// One user's processes; root's are apart from everybody else's.
    #[default]
    User,
    /// Every process on the machine.
    System,
}

impl Scope {
    /// The permissions of new lock files: for whoever is in the scope, and not to be cleaned up.
    pub(crate) fn creation_mode(self) -> u32 {
        match self {
            Scope::User => 0o1600,
            Scope::System => 0o1666,
        }
    }
}

const EXTENSION: &str = ".lock";
/// What fits into a directory entry together with the extension.
const LONGEST: usize = 255 - EXTENSION.len();

/// Returns the path of a lock that is given as a path or as a bare name.
///
/// With a slash in it, and for `.` and `..`, it is a path and returned as it is. A bare name
/// (`[A-Za-z0-9._-]+`) becomes the path of its lock file, whose directory is made and checked.
///
/// # Errors
/// [`Error::InvalidName`]; [`Error::Permission`] or [`Error::Io`] when the directory cannot be made
/// or is not to be trusted.
pub fn resolve(lock: &OsStr, scope: Scope) -> Result<PathBuf> {
    if is_path(lock) {
        return Ok(PathBuf::from(lock));
    }
    let name = check(lock)?;
    let directory = directory(scope);
    make(&directory, scope)?;
    Ok(directory.join(format!("{name}{EXTENSION}")))
}

/// Returns the path of a bare name's lock file, without touching anything.
///
/// # Errors
/// [`Error::InvalidName`]
pub fn path_of(name: &str, scope: Scope) -> Result<PathBuf> {
    let name = check(name.as_ref())?;
    Ok(directory(scope).join(format!("{name}{EXTENSION}")))
}

/// Whether a lock is given as a path, not as a bare name.
#[must_use]
pub fn is_path(lock: &OsStr) -> bool {
    lock.as_bytes().contains(&b'/') || lock == "." || lock == ".."
}

fn check(name: &OsStr) -> Result<&str> {
    let refuse = |reason| {
        Err(Error::InvalidName { name: name.to_string_lossy().escape_debug().to_string(), reason })
    };
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > LONGEST {
        return refuse("it is longer than 250 characters");
    }
    match name.to_str() {
        Some("." | "..") => refuse("write a path to lock a directory, such as ./"),
        Some(text) if name.as_bytes().iter().all(allowed) => Ok(text),
        _ => refuse(
            "a name has letters, digits, '.', '_' and '-' only; for a file in this directory write \
             ./ before it",
        ),
    }
}

fn directory(scope: Scope) -> PathBuf {
    let user = rustix::process::geteuid();
    match scope {
        Scope::System => PathBuf::from("/run/lock/lockmgr"),
        Scope::User if user.is_root() => PathBuf::from("/run/lockmgr"),
        Scope::User => PathBuf::from(format!("/tmp/lockmgr-{}", user.as_raw())),
    }
}

/// Makes the directory if it is missing, and looks whether it is what it should be.
fn make(path: &Path, scope: Scope) -> Result<()> {
    let fail = |operation, errno| Error::io(Some(path.into()), operation, errno);
    let refuse = |operation, reason, errno: Errno| Error::Permission {
        path: Some(path.into()),
        operation,
        reason,
        source: errno.into(),
    };
    let system = scope == Scope::System;
    let user = rustix::process::geteuid();
    if !system || user.is_root() {
        match rustix::fs::mkdir(path, Permissions::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                return Err(refuse(CREATE, "the directory for named locks cannot be made", errno));
            }
            Err(errno) => return Err(fail(CREATE, errno)),
        }
    }
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(errno @ Errno::NOENT) if system => {
            return Err(refuse(
                OPEN,
                "the directory for locks of all users has to be made by root \
                 (install -d -m 1777 /run/lock/lockmgr)",
                errno,
            ));
        }
        Err(errno) => return Err(fail(OPEN, errno)),
    };
    let permissions = stat.st_mode & 0o7777;
    let owner = if system { 0 } else { user.as_raw() };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(refuse(
            OPEN,
            "use a path instead of a name, or remove this; the place for named locks is no directory",
            Errno::NOTDIR,
        ));
    }
    if stat.st_uid != owner {
        return Err(refuse(
            OPEN,
            if system {
                "use a path instead of a name; the directory for locks of all users belongs to \
                 somebody who is not root"
            } else {
                "use a path instead of a name, or the lock of all users (--system); the directory \
                 for named locks belongs to another user"
            },
            Errno::PERM,
        ));
    }
    if system && user.is_root() && permissions == HALF_MADE {
        // The wider permissions come last, so that nobody finds it half made; whoever was to set
        // them, and may have been killed before, does not matter.
        return rustix::fs::chmod(path, Permissions::from_raw_mode(0o1777))
            .map_err(|errno| fail(CREATE, errno));
    }
    if permissions & 0o022 == 0 || system && permissions & 0o1000 != 0 {
        return Ok(());
    }
    let reason = if system {
        "the directory for locks of all users is not sticky; chmod 1777 it"
    } else {
        "others can write in the directory for named locks; chmod 700 it"
    };
    Err(refuse(OPEN, reason, Errno::PERM))
}

/// The permissions that every directory here is born with.
const HALF_MADE: u32 = 0o700;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_and_bad_names_are_refused() {
        for path in ["./a", "/x/y", "a/b", ".", ".."] {
            assert_eq!(resolve(path.as_ref(), Scope::User).unwrap(), Path::new(path));
        }
        let long = "x".repeat(251);
        for bad in ["", "a b", "ä", "a\n", "*", &long] {
            assert!(matches!(path_of(bad, Scope::User), Err(Error::InvalidName { .. })), "{bad:?}");
        }
        assert!(path_of(&"x".repeat(250), Scope::User).is_ok());
    }

    #[test]
    fn scopes_never_meet() {
        let name = |scope| path_of("backup-1.x_y", scope).unwrap();
        assert_ne!(name(Scope::User), name(Scope::System));
        assert!(name(Scope::User).ends_with("backup-1.x_y.lock"));
    }
}
