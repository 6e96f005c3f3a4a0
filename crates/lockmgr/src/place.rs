//! Where a lock file is to be found: its path, and the directory in which the path ends.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Error, FIND_HERE, OPEN, Result};
use crate::sys::file::{self, Identity, KeptFile};
use crate::visit::discard;

/// Where a lock file is to be found. One allocation: one-shot acquisitions pay for every one.
#[derive(Debug)]
pub(crate) struct Place {
    /// Absolute.
    c_path: CString,
    /// Where the last name begins, if there is one to look up in a directory.
    name: Option<usize>,
}

/// The directory of a lock file, opened, and the name of the lock file in it.
#[derive(Debug)]
pub(crate) struct Anchor {
    pub(crate) directory: KeptFile,
    pub(crate) name: CString,
}

impl Place {
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let refuse = |operation, reason| Error::NotLockable {
            path: Some(Arc::from(path)),
            operation,
            reason,
        };
        let mut bytes = Vec::new();
        // A handle means the file that its path named when it was made, wherever the process goes
        // later.
        if !path.is_absolute() {
            if path.as_os_str().is_empty() {
                return Err(refuse(OPEN, "an empty path names no file"));
            }
            let here = std::env::current_dir().map_err(|source| Error::Io {
                path: Some(Arc::from(path)),
                operation: FIND_HERE,
                source,
            })?;
            bytes.extend_from_slice(here.as_os_str().as_bytes());
            bytes.push(b'/');
        }
        let given = path.as_os_str().as_bytes();
        // For the messages: `./a.lock` is shown as people would write it.
        let given = given.strip_prefix(b"./").filter(|rest| !rest.is_empty()).unwrap_or(given);
        bytes.reserve_exact(given.len() + 1);
        bytes.extend_from_slice(given);
        let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let name = (!matches!(&bytes[start..], b"" | b"." | b"..")).then_some(start);
        let c_path =
            CString::new(bytes).map_err(|_| refuse(OPEN, "a path cannot contain a NUL byte"))?;
        Ok(Self { c_path, name })
    }

    pub(crate) fn c_path(&self) -> &CStr {
        &self.c_path
    }

    /// The directory of the lock file.
    pub(crate) fn directory(&self) -> Result<KeptFile, Errno> {
        self.anchor().map(|anchor| anchor.directory)
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.c_path.as_bytes()))
    }

    /// For an error.
    pub(crate) fn shared_path(&self) -> Arc<Path> {
        Arc::from(self.path())
    }

    /// Makes the file with exactly these permissions; false where that can only be done less well.
    pub(crate) fn make_exactly(&self, permissions: u32) -> Result<bool, Errno> {
        match self.path().parent().map(|parent| CString::new(parent.as_os_str().as_bytes())) {
            Some(Ok(parent)) => file::make_exactly(&parent, &self.c_path, permissions, discard),
            _ => Ok(false),
        }
    }

    /// What the path names now.
    pub(crate) fn identity(&self, follow: bool) -> Option<Identity> {
        file::status_at_path(&self.c_path, follow).ok().map(|status| status.identity)
    }

    /// Whether the path names a directory now.
    pub(crate) fn is_directory(&self, follow: bool) -> bool {
        file::status_at_path(&self.c_path, follow)
            .is_ok_and(|status| status.kind == FileType::Directory)
    }

    /// Whether the path names this file now.
    pub(crate) fn names(&self, identity: Identity, follow: bool) -> Result<bool, Errno> {
        match file::status_at_path(&self.c_path, follow) {
            Ok(status) => Ok(status.identity == identity),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Opens the directory that the path leads to now.
    pub(crate) fn anchor(&self) -> Result<Anchor, Errno> {
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Errno::INVAL);
        let name = text(&self.c_path.as_bytes()[self.name.ok_or(Errno::ISDIR)?..])?;
        let parent = self.path().parent().ok_or(Errno::ISDIR)?;
        let directory = file::open_directory(&text(parent.as_os_str().as_bytes())?)?;
        Ok(Anchor { directory, name })
    }
}
