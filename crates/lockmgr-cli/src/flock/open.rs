//! The lock file, opened as the original opens it: read-only (for writing where a record lock needs
//! that), created with 0666 less the umask, whatever it is and wherever a symbolic link leads; on the
//! lowest free number, and without close-on-exec, so that the command has it under that number.
//!
//! Better, unless it is to be strict:
//!
//! - Whoever does not want to wait (`-n`, `-w`) does not wait in `open` either. A FIFO opens at once,
//!   without its other end; a lease of another process is contention, for which `-w` has its time.
//!   (Devices are opened plainly: for some of them `O_NONBLOCK` means something else.)
//! - A file that exists is opened even where the kernel does not let us ask for its creation: the
//!   file of another user in a sticky directory, with `fs.protected_regular` or `fs.protected_fifos`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::fs::{FileType, Mode, OFlags, fcntl_setfl, stat};
use rustix::io::{Errno, dup2};

/// How long `open` may take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as it takes, and with nothing better than the original has.
    Strict,
    Forever,
    Until(Instant),
    None,
}

/// Why there is no descriptor.
pub(super) enum NotOpened {
    /// Somebody's lease was in the way.
    Contended,
    Failed(io::Error),
}

/// An open lock file.
pub(super) struct LockFile {
    pub(super) fd: OwnedFd,
    pub(super) is_writable_and_readable: bool,
}

/// Opens or creates it with this access; a directory for reading, whatever was asked for.
pub(super) fn open(
    path: &OsStr,
    access: OFlags,
    patience: Patience,
) -> Result<LockFile, NotOpened> {
    let (opened, used) = open_any(path, access | OFlags::NOCTTY | OFlags::CREATE, patience);
    let fd = match opened {
        // Linux does not like O_CREAT on a directory, and no directory can be opened for writing.
        Err(NotOpened::Failed(error)) if error.raw_os_error() == Some(libc::EISDIR) => {
            let flags = OFlags::RDONLY | OFlags::NOCTTY;
            let fd = plain(path, flags).map_err(|errno| NotOpened::Failed(errno.into()))?;
            return Ok(LockFile { fd, is_writable_and_readable: false });
        }
        Err(NotOpened::Failed(error))
            if error.raw_os_error() == Some(libc::EACCES) && patience != Patience::Strict =>
        {
            let flags = used.difference(OFlags::CREATE);
            match open_any(path, flags, patience).0 {
                Ok(fd) => fd,
                Err(NotOpened::Contended) => return Err(NotOpened::Contended),
                Err(NotOpened::Failed(_)) => return Err(NotOpened::Failed(error)),
            }
        }
        opened => opened?,
    };
    Ok(LockFile { fd, is_writable_and_readable: access == OFlags::RDWR })
}

/// Also returns the flags, which differ for a FIFO.
fn open_any(
    path: &OsStr,
    flags: OFlags,
    patience: Patience,
) -> (Result<OwnedFd, NotOpened>, OFlags) {
    let failed = |errno: Errno| NotOpened::Failed(errno.into());
    if matches!(patience, Patience::Strict | Patience::Forever) {
        return (plain(path, flags).map_err(failed), flags);
    }
    let mut flags = flags;
    let wanted = flags;
    match stat(path).map(|status| FileType::from_raw_mode(status.st_mode)) {
        Ok(FileType::CharacterDevice | FileType::BlockDevice) => {
            return (plain(path, flags).map_err(failed), flags);
        }
        // One without a reader cannot be opened for writing alone.
        Ok(FileType::Fifo) if flags.contains(OFlags::WRONLY) => {
            flags = flags.difference(OFlags::WRONLY) | OFlags::RDWR;
        }
        _ => {}
    }
    let opened = match (plain(path, flags | OFlags::NONBLOCK), patience) {
        // The command is to find it as the original opens it.
        (Ok(mut fd), _) => {
            if flags != wanted
                && let Ok(writer) = plain(path, wanted | OFlags::NONBLOCK)
            {
                // There is a reader now: it itself.
                let _still_works = dup2(&writer, &mut fd);
            }
            fcntl_setfl(&fd, OFlags::empty()).map(|()| fd).map_err(failed)
        }
        (Err(Errno::AGAIN), Patience::Until(deadline)) => {
            let opened = lockmgr::call_until(Some(deadline), || {
                rustix::fs::open(path, flags, PERMISSIONS).map_err(Into::into)
            });
            opened.map_err(NotOpened::Failed).and_then(|fd| fd.ok_or(NotOpened::Contended))
        }
        (Err(Errno::AGAIN), _) => Err(NotOpened::Contended),
        (Err(errno), _) => Err(failed(errno)),
    };
    (opened, flags)
}

/// Less the umask.
const PERMISSIONS: Mode = Mode::from_raw_mode(0o666);

fn plain(path: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    loop {
        match rustix::fs::open(path, flags, PERMISSIONS) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
