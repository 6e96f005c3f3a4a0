//! Filesystems to test locks on, made for one test and gone with it.
//!
//! ```ignore
//! #[test]
//! fn testfs() {
//!     lockmgr_testfs::serve(); // the door for the FUSE servers, see `Server`
//! }
//!
//! #[test]
//! fn works_everywhere() {
//!     for kind in Kind::ALL {
//!         match TestFs::mount(kind, &Server::of_test("testfs")) {
//!             Ok(fs) => look_at(fs.path()),
//!             Err(skipped) => skip(&skipped.to_string()),
//!         }
//!     }
//! }
//! ```
//!
//! What is kept true:
//! - *Nobody else sees it.* A filesystem is mounted in a mount namespace of the calling thread, which the
//!   processes and threads that this thread starts afterwards inherit. (`/proc/self` of the test is that of
//!   its first thread, outside; `/proc/thread-self` is inside.)
//! - *Nothing stays behind*, even if the test is killed (but for an empty temporary directory): a namespace
//!   takes its mounts along, a mount its loop device with the image, and a FUSE server dies with the thread
//!   that started it, which ends every call that it has left without an answer.
//! - *Where it cannot be had, that is said*: [`Skipped`] names what is missing, and [`skip()`] says it where it
//!   is seen and counted.

mod fuse;
mod mount;
mod skip;

pub use fuse::{Locks, run_server, serve};
pub use mount::{Server, Skipped, TestFs};
pub use skip::{SKIPS, skip};

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On a loop device.
    Ext4,
    /// On a loop device.
    Xfs,
    /// On a loop device.
    Btrfs,
    /// In memory.
    Tmpfs,
    /// Two directories of a tmpfs, one above the other.
    Overlay,
    /// Served by a process of ours.
    Fuse(Locks),
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 11] = [
        Kind::Ext4,
        Kind::Xfs,
        Kind::Btrfs,
        Kind::Tmpfs,
        Kind::Overlay,
        Kind::Fuse(Locks::Local),
        Kind::Fuse(Locks::Served),
        Kind::Fuse(Locks::NoSys),
        Kind::Fuse(Locks::NoLocks),
        Kind::Fuse(Locks::Hang),
        Kind::Fuse(Locks::Sham),
    ];

    /// The name, as on the command line of the program.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Tmpfs => "tmpfs",
            Kind::Overlay => "overlay",
            Kind::Fuse(locks) => locks.name(),
        }
    }

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}
