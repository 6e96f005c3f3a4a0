//! The scratch directory of one probe: made for it, and gone after it, whatever happened.
//!
//! It may lie where others may write, so nothing but what lies flat in the very directory that was made is
//! ever removed, and no link is followed.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::exit::{self, Status};

/// Which directory it is, however it is called by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(directory: &OwnedFd) -> Result<Self, Errno> {
        let stat = fs::fstat(directory)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// A directory that this process has made.
pub(super) struct Scratch {
    /// Where a relative path begins.
    start: OwnedFd,
    path: PathBuf,
    directory: OwnedFd,
}

impl Scratch {
    /// Makes the directory and goes into it.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        let start = open(Path::new("."))?;
        fs::mkdir(path, Mode::RWXU)?;
        let opened = open(path).and_then(|directory| {
            rustix::process::fchdir(&directory)?;
            Ok(directory)
        });
        match opened {
            Ok(directory) => Ok(Self { start, path: path.to_owned(), directory }),
            Err(error) => {
                let _nothing_is_in_it = fs::unlinkat(&start, path, AtFlags::REMOVEDIR);
                Err(error.into())
            }
        }
    }

    pub(super) fn identity(&self) -> io::Result<Identity> {
        Ok(Identity::of(&self.directory)?)
    }

    pub(super) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Removes what lies in it, and it.
    pub(super) fn remove(self) -> io::Result<()> {
        empty(&self.directory)?;
        Ok(fs::unlinkat(&self.start, &self.path, AtFlags::REMOVEDIR)?)
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty())
}

fn empty(directory: &OwnedFd) -> Result<(), Errno> {
    // A filesystem need not list what is removed while it lists.
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
            found.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in found {
        let removed = match kind {
            FileType::Directory => fs::unlinkat(directory, &name, AtFlags::REMOVEDIR),
            _ => fs::unlinkat(directory, &name, AtFlags::empty())
                .or_else(|_| fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)),
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes what a stage has left that was killed: `PATH IDENTITY`, in a process of its own, because the
/// filesystem may not answer.
pub(super) fn sweep(words: &[OsString]) -> Status {
    let [path, identity] = words else { return exit::USAGE };
    let identity = identity.to_str().and_then(|text| serde_json::from_str(text).ok());
    let swept = || -> Result<(), Errno> {
        let directory = open(Path::new(path))?;
        if identity.is_some() && Some(Identity::of(&directory)?) == identity {
            empty(&directory)?;
            fs::rmdir(Path::new(path))?;
        }
        Ok(())
    };
    if swept().is_ok() { exit::OK } else { exit::SYSTEM }
}
