//! Whether a path still names the lock file that is open.
//!
//! There are two ways to look:
//!
//! - The *walk* looks up the whole path.
//! - The *inode* is asked for its link count and its change time (`ctime`). If the file has one name,
//!   and neither has changed since the path was seen to name it, then nobody has unlinked, renamed,
//!   replaced or linked it. This looks nothing up at all, which counts most after a wait, when
//!   every step goes through cold caches.
//!
//! The inode sees every deletion and replacement of the lock file itself; what is assumed when it is
//! asked is that no directory above was renamed or replaced, nothing was mounted over them or the file,
//! and no symbolic link among them switched, since the last walk. So it is asked only when that was less
//! than [`FRESH`] ago. Before a sleep the path is walked, so that after a short one the inode can be
//! asked. (A kept descriptor of the directory is no third way: it stays with the old directory when
//! the path is switched to another one, and to open it anew as often takes longer than the walks that
//! it saves.)
//!
//! The inode's word is taken under these conditions, which together are the proof:
//!
//! 1. One look at the path read the change time `C` with a link count of 1; a second look, *begun after
//!    that*, found the path to name this inode, and read `C` again. So the name was there at a moment
//!    between two readings of `C`.
//! 2. A change later than a reading gives another time than `C`: the kernel's coarse clock was past `C`
//!    before the look began, and the kernel stamps a change with that clock or a finer one. Where `C`
//!    is in whole milliseconds the filesystem may keep no finer ones (ext4 with small inodes keeps
//!    seconds); it must then be [`COARSEST`] in the past. Nobody but the clock can set a change time;
//!    one that is set back would have to come out at the very nanosecond of `C`.
//! 3. Unlinking, linking, renaming and exchanging all set the change time of the inode itself. POSIX
//!    leaves that open for a rename, and network filesystems keep attributes back, so this is for
//!    filesystems only of which it is known. It is not for paths that may end in a symbolic link either:
//!    a link that is switched changes nothing in the file that it led to.
//!
//! What else changes the time (a write, a chmod) makes the next look one at the path, and is no harm.
//!
//! References: `stat(2)`, `inode(7)`, `rename(2)`.

use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::place::Place;
use crate::sys::file::{self, Identity, Status};

/// How long a walk is good for, in nanoseconds.
const FRESH: u64 = 50_000_000;

/// The coarsest change times that a filesystem keeps, in nanoseconds (FAT: two seconds).
const COARSEST: u64 = 2_000_000_000;

/// What is known of the name of an open lock file.
#[derive(Debug)]
pub(crate) struct Naming {
    follow: bool,
    /// When the last walk began, if it led to the file; else 0.
    walked: AtomicU64,
    mark: AtomicU64,
    tells_renames: OnceLock<bool>,
}

/// What the inode said at the last look: 0 for nothing that helps, else its change time shifted by
/// one, and in the lowest bit whether a second look has confirmed it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark(u64);

impl Mark {
    const NONE: Self = Self(0);

    fn seen(changed: u64) -> Self {
        Self(changed << 1)
    }

    fn confirmed(self) -> Self {
        Self(self.0 | 1)
    }

    fn is_confirmed(self) -> bool {
        self.0 & 1 == 1
    }

    fn is_of(self, changed: u64) -> bool {
        self.0 & !1 == Self::seen(changed).0
    }
}

impl Naming {
    pub(crate) fn new(follow: bool) -> Self {
        Self {
            follow,
            walked: AtomicU64::new(0),
            mark: AtomicU64::new(Mark::NONE.0),
            tells_renames: OnceLock::new(),
        }
    }

    pub(crate) fn follows_symlinks(&self) -> bool {
        self.follow
    }

    /// Returns whether the path still names the open file, of this identity.
    pub(crate) fn holds(
        &self,
        place: &Place,
        file: impl AsFd,
        identity: Identity,
        thorough: bool,
    ) -> Result<bool, Errno> {
        if !thorough && self.was_walked_within(FRESH) && self.is_unchanged(&file) {
            return Ok(true);
        }
        self.walk(place, file, identity)
    }

    /// Walks the path before a sleep, so that the look after it can be the cheapest. Returns false if
    /// the path names another file already.
    pub(crate) fn prepare(&self, place: &Place, file: impl AsFd, identity: Identity) -> bool {
        // The second look can confirm what the first has seen.
        (0..2).all(|_| {
            self.mark().is_confirmed() && self.was_walked_within(FRESH / 10)
                || !matches!(self.walk(place, &file, identity), Ok(false))
        })
    }

    fn was_walked_within(&self, time: u64) -> bool {
        let walked = self.walked.load(Ordering::Relaxed);
        walked != 0 && file::coarse_now().saturating_sub(walked) < time
    }

    /// Whether the inode says that nothing has happened to its name.
    fn is_unchanged(&self, file: impl AsFd) -> bool {
        let mark = self.mark();
        mark.is_confirmed()
            && file::status(file).is_ok_and(|status| status.one_name && mark.is_of(status.changed))
    }

    /// Looks the path up, and keeps what the inode said.
    fn walk(&self, place: &Place, file: impl AsFd, identity: Identity) -> Result<bool, Errno> {
        let begun = file::coarse_now();
        // Both before the look: see the proof.
        let (before, clock) = (self.mark(), file::coarse_time_of_day());
        let looked_up = file::status_at_path(place.c_path(), self.follow);
        let led_here = looked_up.is_ok_and(|status| status.identity == identity);
        // Only now: until a walk has led here again, the inode is not to be asked.
        self.walked.store(if led_here { begun } else { 0 }, Ordering::Relaxed);
        match looked_up {
            Ok(status) if led_here => {
                let mark = if !has_telling_time(&status, clock) {
                    Mark::NONE
                } else if !before.is_of(status.changed) {
                    Mark::seen(status.changed)
                } else if before.is_confirmed() || self.tells_renames(file) {
                    before.confirmed()
                } else {
                    before
                };
                if mark != before {
                    self.mark.store(mark.0, Ordering::Release);
                }
                Ok(true)
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn mark(&self) -> Mark {
        Mark(self.mark.load(Ordering::Acquire))
    }

    fn tells_renames(&self, file: impl AsFd) -> bool {
        *self.tells_renames.get_or_init(|| !self.follow && file::tells_renames(file))
    }
}

/// Whether whatever happens to the file's name later will show in its link count or change time.
/// `clock` was read before the status.
fn has_telling_time(status: &Status, clock: u64) -> bool {
    let age = if status.changed.is_multiple_of(1_000_000) { COARSEST } else { 0 };
    status.one_name && status.changed != 0 && clock > status.changed.saturating_add(age)
}

#[cfg(test)]
mod tests {
    use rustix::fs::FileType;

    use super::*;

    const NOW: u64 = 1_800_000_000_123_456_789;

    fn told(changed: u64, one_name: bool) -> bool {
        let identity = Identity { device: 1, inode: 2 };
        let kind = FileType::RegularFile;
        let status = Status { identity, kind, size: 0, executable: false, one_name, changed };
        has_telling_time(&status, NOW)
    }

    #[test]
    fn a_change_time_tells_once_the_clock_is_past_it() {
        assert!(told(NOW - 1, true));
        assert!(!told(NOW, true));
        assert!(!told(NOW + 1, true));
        assert!(!told(NOW - 1, false));
        assert!(!told(0, true));
    }

    #[test]
    fn one_that_may_be_coarse_tells_later() {
        let second = NOW - NOW % 1_000_000_000;
        assert!(!told(second, true));
        assert!(!told(second - 1_000_000_000, true));
        assert!(told(second - 2_000_000_000, true));
        assert!(told(second - 1, true));
    }

    #[test]
    fn a_mark_is_of_one_time() {
        let mark = Mark::seen(NOW);
        assert!(mark.is_of(NOW) && !mark.is_confirmed());
        assert!(mark.confirmed().is_of(NOW) && mark.confirmed().is_confirmed());
        assert!(!mark.confirmed().is_of(NOW + 1));
        assert!(!Mark::NONE.is_confirmed());
    }
}
