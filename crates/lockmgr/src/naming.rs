//! Whether a path still names the lock file that is open.
//!
//! The look-up has two forms. The *thorough* one walks the whole path. The *quick* one asks only
//! for the last name in a kept descriptor of its directory, which costs the same however deep the
//! path is. It sees every deletion and replacement of the lock file itself; what it assumes is that
//! no directory above was renamed or replaced, and no symbolic link among them switched, since the
//! last thorough look-up. It is used only when that was less than [`FRESH`] ago and the lock was
//! free at once; after any wait the check is thorough.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::place::{Anchor, Place};
use crate::sys::file::{self, Identity};

/// How long a thorough look-up of the path is good for, in nanoseconds.
const FRESH: u64 = 50_000_000;

/// What is known of the name of an open lock file.
#[derive(Debug)]
pub(crate) struct Naming {
    follow: bool,
    anchor: OnceLock<Option<Anchor>>,
    walked: AtomicU64,
}

impl Naming {
    pub(crate) fn new(follow: bool) -> Self {
        Self { follow, anchor: OnceLock::new(), walked: AtomicU64::new(0) }
    }

    pub(crate) fn follows_symlinks(&self) -> bool {
        self.follow
    }

    /// Returns whether the path still names the inode.
    pub(crate) fn holds(
        &self,
        place: &Place,
        identity: Identity,
        thorough: bool,
    ) -> Result<bool, Errno> {
        let now = file::coarse_now();
        let last = self.walked.load(Ordering::Relaxed);
        let quick = !thorough && last != 0 && now.saturating_sub(last) < FRESH;
        let anchor =
            if quick { self.anchor.get_or_init(|| place.anchor().ok()).as_ref() } else { None };
        let found = if let Some(anchor) = anchor {
            file::status_at(&anchor.directory, &anchor.name, self.follow)
        } else {
            self.walked.store(now, Ordering::Relaxed);
            file::status_at_path(place.c_path(), self.follow)
        };
        match found {
            Ok(status) => Ok(status.identity == identity),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}
