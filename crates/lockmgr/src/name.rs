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
//! (`d /run/lock/lockmgr 1777 root root -`).
//!
//! Cleaners of `/tmp` delete old files. One that goes between two holds is only created again. One
//! that goes *during* a hold lets a second process in by the new file; the guard notices
//! ([`still_current`](crate::FileLockGuard::still_current)). `systemd-tmpfiles` leaves alone what is
//! locked with `flock`; for holds of `ofd` locks that last for days, and for other cleaners, exclude
//! `/tmp/lockmgr-*` there, or name a path elsewhere.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode as Permissions};
use rustix::io::Errno;

use crate::error::{Error, OPEN, Result};

/// Who shares the names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Scope {
    /// One user's processes; root's are apart from everybody else's.
    #[default]
    User,
    /// Every process on the machine.
    System,
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
    if lock.as_bytes().contains(&b'/') || lock == "." || lock == ".." {
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
    let refuse = |reason, errno: Errno| Error::Permission {
        path: Some(path.into()),
        operation: OPEN,
        reason,
        source: errno.into(),
    };
    let system = scope == Scope::System;
    let user = rustix::process::geteuid();
    if !system || user.is_root() {
        match rustix::fs::mkdir(path, Permissions::RWXU) {
            // The wider permissions come last, so that nobody finds it half made.
            Ok(()) if system => rustix::fs::chmod(path, Permissions::from_raw_mode(0o1777))
                .map_err(|errno| Error::io(Some(path.into()), OPEN, errno))?,
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => {
                return Err(refuse("the directory for named locks cannot be made", errno));
            }
            Err(errno) => return Err(Error::io(Some(path.into()), OPEN, errno)),
        }
    }
    let stat = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(errno @ Errno::NOENT) if system => {
            return Err(refuse(
                "the directory for locks of all users is made by root: \
                 install -d -m 1777 /run/lock/lockmgr",
                errno,
            ));
        }
        Err(errno) => return Err(Error::io(Some(path.into()), OPEN, errno)),
    };
    let owner = if system { 0 } else { user.as_raw() };
    let others_write = stat.st_mode & 0o022 != 0;
    let sticky = stat.st_mode & 0o1000 != 0;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        Err(refuse("the place for named locks is no directory; remove it", Errno::NOTDIR))
    } else if stat.st_uid != owner {
        Err(refuse("the directory for named locks belongs to another user; remove it", Errno::PERM))
    } else if !system && others_write {
        Err(refuse("others can write in the directory for named locks; chmod 700 it", Errno::PERM))
    } else if system && others_write && !sticky {
        Err(refuse(
            "the directory for locks of all users is not sticky; chmod 1777 it",
            Errno::PERM,
        ))
    } else {
        Ok(())
    }
}

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
