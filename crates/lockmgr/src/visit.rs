//! A lock file opened for a moment, for its content: by whoever holds it, to write, or by anybody, to
//! read.
//!
//! Nobody is waited for or disturbed, and nothing but the right file is looked into: a file under a lease is
//! not opened to be read, because that would have its holder told to give the lease up, or killed. A reader,
//! who comes by a path that may name anything, finds the file first without opening it (`O_PATH`), and opens
//! it, if it is regular, by way of `/proc/self/fd`, so that it cannot have become another one since. A holder
//! opens the path as it has done before and compares the inode with the locked one; `/proc/self/fd` would
//! do, but each process pays twenty microseconds for its first look in there. The close drops no `posix` lock
//! of this process: [`posix`] puts it off if it has to, and the next visit takes the same descriptor again.
//!
//! References: `open(2)`, `proc_pid_fd(5)`.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::inspect::is_leased;
use crate::posix;
use crate::sys::file::{self, Access, Create, Identity, KeptFile};

/// An open lock file that goes back where it belongs when dropped.
pub(crate) struct Visit {
    /// Taken only by `drop`.
    file: Option<KeptFile>,
    identity: Identity,
}

impl Visit {
    /// Opens for reading what the path names, if it is a regular file and no symbolic link, has content,
    /// and nobody has a lease on it. (One that is taken between the look and the open is broken. Nothing
    /// can be asked of a file that is not open.)
    pub(crate) fn to_read(path: &Path) -> Option<Self> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        // Closing this kind of descriptor drops no locks.
        let pinned = file::pin(&path, false).ok()?;
        let status = file::status(&pinned).ok()?;
        if status.kind != FileType::RegularFile || status.size == 0 {
            return None;
        }
        let spare = |access| posix::spare(status.identity, access);
        if let Some(spare) = spare(Access::ReadWrite).or_else(|| spare(Access::Read)) {
            return Some(Self { file: Some(spare), identity: status.identity });
        }
        if is_leased(&pinned, status.identity) {
            return None;
        }
        // What can be read and written serves the next visit too, if its close is put off.
        let lasting = if posix::is_used() {
            Self::again(&pinned, status.identity, Access::ReadWrite).ok()
        } else {
            None
        };
        lasting.or_else(|| Self::again(&pinned, status.identity, Access::Read).ok())
    }

    /// Opens the locked file once more, for reading and writing; `None` if the path names another one.
    pub(crate) fn to_write(
        path: &CStr,
        follow: bool,
        identity: Identity,
    ) -> Result<Option<Self>, Errno> {
        if let Some(spare) = posix::spare(identity, Access::ReadWrite) {
            return Ok(Some(Self { file: Some(spare), identity }));
        }
        let opened = file::open(path, Access::ReadWrite, follow, Create::No, discard)?;
        // Of whatever was opened, it is the identity that the close has to go by.
        let found = file::status(&opened)?.identity;
        let visit = Self { file: Some(opened), identity: found };
        Ok((found == identity).then_some(visit))
    }

    /// Opens a regular file once more.
    fn again(file: &KeptFile, identity: Identity, access: Access) -> Result<Self, Errno> {
        let path = CString::new(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
            .expect("there is no NUL in it");
        let opened = file::open(&path, access, true, Create::No, discard)?;
        Ok(Self { file: Some(opened), identity })
    }

    pub(crate) fn file(&self) -> &KeptFile {
        self.file.as_ref().expect("the file is there until drop")
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            posix::close(self.identity, file, true);
        }
    }
}

/// Closes what was opened in vain: like any close, it must not drop a lock of this process.
pub(crate) fn discard(file: KeptFile) {
    if let Ok(status) = file::status(&file) {
        posix::close(status.identity, file, false);
    }
}
