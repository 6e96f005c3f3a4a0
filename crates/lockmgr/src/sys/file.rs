//! Opening, identifying and closing lock files.
//!
//! Every open here is `O_CLOEXEC|O_NONBLOCK|O_NOCTTY`, never lands on descriptors 0 to 2 (a program
//! started with its standard output closed must not print into a lock file), and lists the
//! descriptor for the at-fork handler ([`fork`]).
//!
//! The kernel gives the lowest number that is free. What lands on 0 to 2 is moved up, which closes a
//! descriptor, and in a process with `posix` locks a close has consequences. So once there may be such
//! locks ([`closes_matter_now`]) the free numbers among those three are taken for the time of an open,
//! by descriptors whose close has none (`O_PATH`). Where another thread closes a stream in that very
//! moment, what landed is given to whoever knows when it can be closed.
//!
//! References: `open(2)`, `stat(2)`, `pwrite(2)`, `ftruncate(2)`, `fsync(2)`, `unlink(2)`, `fcntl(2)`.

use std::ffi::CStr;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode as Permissions, OFlags, RawMode, SeekFrom, Stat, Timespec,
    Timestamps, UTIME_NOW,
};
use rustix::io::{Errno, FdFlags};

use crate::sys::fork::{self, Slot};

/// A descriptor that the library keeps: closed on drop, harmless in a forked child.
#[derive(Debug)]
pub(crate) struct KeptFile {
    file: ManuallyDrop<File>,
    slot: Slot,
}

impl KeptFile {
    /// Takes over a descriptor that was opened elsewhere. Copies that forks have made of it before
    /// are the program's affair.
    pub(crate) fn keep(file: File) -> Self {
        Self::list(file)
    }

    /// Opens and lists as one step, as far as a fork in another thread is concerned. `open` is
    /// called again, told so by its argument, until no fork came between; `discard` closes what was
    /// opened in vain, and what landed on a standard stream.
    pub(super) fn open_with(
        mut open: impl FnMut(bool) -> Result<OwnedFd, Errno>,
        discard: fn(Self),
    ) -> Result<Self, Errno> {
        let _streams = CLOSES_MATTER.load(Ordering::SeqCst).then(take_closed_streams);
        let mut watch = fork::Watch::new();
        let mut again = false;
        loop {
            let kept = Self::list(File::from(above_standard_streams(open(again)?, discard)?));
            if watch.saw_no_fork() {
                return Ok(kept);
            }
            // A child may have a copy that keeps what would be locked on it.
            discard(kept);
            again = true;
        }
    }

    fn list(file: File) -> Self {
        let slot = fork::list(file.as_raw_fd());
        Self { file: ManuallyDrop::new(file), slot }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// A second descriptor of the same open file description, not listed: it is meant for another
    /// process.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd, Errno> {
        rustix::io::fcntl_dupfd_cloexec(&*self.file, FIRST_FREE)
    }

    /// The descriptor itself, close-on-exec and not listed any more: it is meant for another process.
    pub(crate) fn into_fd(self) -> OwnedFd {
        let mut kept = ManuallyDrop::new(self);
        kept.slot.free();
        // SAFETY: nothing uses the field after this, for the value around it is never dropped.
        let file = unsafe { ManuallyDrop::take(&mut kept.file) };
        // One that the program brought may be inheritable. It cannot fail on an open descriptor.
        let _ = rustix::io::fcntl_setfd(&file, FdFlags::CLOEXEC);
        file.into()
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        self.slot.free();
        // SAFETY: nothing uses the field after this.
        unsafe { ManuallyDrop::drop(&mut self.file) };
    }
}

impl AsFd for KeptFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The lowest descriptor that is not a standard stream.
const FIRST_FREE: RawFd = 3;

/// The close of a descriptor may drop locks of this process.
static CLOSES_MATTER: AtomicBool = AtomicBool::new(false);

/// From now on the process may have locks that closing a descriptor drops.
pub(crate) fn closes_matter_now() {
    CLOSES_MATTER.store(true, Ordering::SeqCst);
}

/// Takes the numbers of the standard streams that are closed, until the descriptors are dropped. Where
/// there are none left to do it with, what is about to be opened cannot be opened either.
fn take_closed_streams() -> Vec<OwnedFd> {
    // SAFETY: the call has no memory effects, whatever the number.
    let is_closed = |fd: &RawFd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == -1;
    let place_holder = |_| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(c"/", flags, Permissions::empty()).ok()
    };
    (0..FIRST_FREE).filter(is_closed).filter_map(place_holder).collect()
}

/// Moves what landed on a standard stream. The descriptor it leaves is given to `discard`.
fn above_standard_streams(fd: OwnedFd, discard: fn(KeptFile)) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() >= FIRST_FREE {
        return Ok(fd);
    }
    let moved = rustix::io::fcntl_dupfd_cloexec(&fd, FIRST_FREE);
    discard(KeptFile::list(File::from(fd)));
    moved
}

/// What one `open` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

/// How a missing file is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Create {
    /// Not at all: the file must exist.
    No,
    /// A new file with these permissions less the umask, or `EEXIST` (`O_CREAT|O_EXCL`).
    New(u32),
    /// As `New`, but an existing file, or the target of a dangling link, will do (`O_CREAT`).
    Any(u32),
}

/// Opens a lock file. What was opened in vain is given to `discard`, because closing a descriptor of
/// a file is not without consequences for this process's locks on it.
pub(crate) fn open(
    path: &CStr,
    access: Access,
    follow: bool,
    create: Create,
    discard: fn(KeptFile),
) -> Result<KeptFile, Errno> {
    let mut flags = OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    flags |= match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::WRONLY,
        Access::ReadWrite => OFlags::RDWR,
    };
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let permissions = match create {
        Create::No => 0,
        Create::New(permissions) => {
            flags |= OFlags::CREATE | OFlags::EXCL;
            permissions
        }
        Create::Any(permissions) => {
            flags |= OFlags::CREATE;
            permissions
        }
    };
    let permissions = Permissions::from_raw_mode(permissions as RawMode);
    let open = |again| {
        if again && matches!(create, Create::New(_)) {
            // We have made it ourselves. If it has gone since, or cannot be opened like this, the
            // caller is to begin anew.
            let flags = flags.difference(OFlags::CREATE | OFlags::EXCL);
            return retry(|| rustix::fs::open(path, flags, permissions)).map_err(|_| Errno::EXIST);
        }
        retry(|| rustix::fs::open(path, flags, permissions))
    };
    KeptFile::open_with(open, discard)
}

/// Permissions that the umask was seen to leave alone. A program that changes its umask later is
/// rare, and all it risks is the moment that [`make_exactly`] avoids.
static LET_THROUGH: AtomicU32 = AtomicU32::new(0);

/// Makes a new file that has exactly these permissions from the moment on at which it can be found:
/// whoever opens it meets no narrower ones, and a crash leaves none (`O_TMPFILE`, then a name).
///
/// Returns false where the ordinary way has to do: the filesystem does not know this one, there is
/// no `/proc`, or the umask is known to take none of these permissions away.
pub(crate) fn make_exactly(
    directory: &CStr,
    path: &CStr,
    permissions: u32,
    discard: fn(KeptFile),
) -> Result<bool, Errno> {
    if permissions & !LET_THROUGH.load(Ordering::Relaxed) == 0 {
        return Ok(false);
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let wanted = Permissions::from_raw_mode(permissions as RawMode);
    let open = |_again| retry(|| rustix::fs::open(directory, flags, wanted));
    let opened = KeptFile::open_with(open, drop);
    let unnamed = match opened {
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(false),
        opened => opened?,
    };
    if rustix::fs::fstat(&unnamed)
        .is_ok_and(|stat| Permissions::from_raw_mode(stat.st_mode) == wanted)
    {
        LET_THROUGH.fetch_or(permissions, Ordering::Relaxed);
    } else {
        set_permissions(&unnamed, permissions);
    }
    let link = format!("/proc/self/fd/{}", unnamed.as_fd().as_raw_fd());
    match retry(|| rustix::fs::linkat(CWD, &*link, CWD, path, AtFlags::SYMLINK_FOLLOW)) {
        Ok(()) => {
            // Somebody may have found and locked it already.
            discard(unnamed);
            Ok(true)
        }
        Err(Errno::EXIST) => Err(Errno::EXIST),
        // The ordinary way may do, and if not, will tell better why.
        Err(_) => Ok(false),
    }
}

/// A directory, as an anchor for names in it (`O_PATH`).
pub(crate) fn open_directory(path: &CStr) -> Result<KeptFile, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |_again| retry(|| rustix::fs::open(path, flags, Permissions::empty()));
    KeptFile::open_with(open, drop)
}

/// Names an inode without opening it (`O_PATH`): neither leases nor FIFOs can make this sleep.
pub(crate) fn pin(path: &CStr, follow: bool) -> Result<KeptFile, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let open = |_again| retry(|| rustix::fs::open(path, flags, Permissions::empty()));
    KeptFile::open_with(open, drop)
}

/// Sleeps until no lease stands in the way of opening the pinned regular file.
///
/// One `open` without `O_NONBLOCK`, which the kernel ends with `EINTR` when a signal comes. The
/// caller has made sure that the file is regular, and goes through `/proc/self/fd`, so that it
/// cannot have become a FIFO since. The descriptor itself is given up at once. (While
/// an open for reading waits for a write lease, Linux wakes up with every tick of its clock; that
/// is seen from 6.18, and nothing that could be done better here.)
pub(crate) fn sleep_out_lease(
    pinned: &KeptFile,
    access: Access,
    discard: fn(KeptFile),
) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", pinned.as_fd().as_raw_fd());
    let flags = OFlags::CLOEXEC
        | OFlags::NOCTTY
        | match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
    // Not in flight: a fork must not wait for this, and the copy a child might get of a descriptor
    // that never carries a lock does no harm.
    let opened = rustix::fs::open(path, flags, Permissions::empty())?;
    discard(KeptFile::list(File::from(opened)));
    Ok(())
}

/// Sets the file's times to now, which whoever watches the file is told of. Needs no more than a
/// file that may be written.
pub(crate) fn touch(file: &KeptFile) -> Result<(), Errno> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    retry(|| rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: now }))
}

/// Whether the file lies on a FUSE filesystem, whose server may keep its locks.
pub(crate) fn is_on_fuse(file: impl AsFd) -> bool {
    const FUSE: u32 = 0x6573_5546;
    filesystem(file) == Some(FUSE)
}

/// Whether other machines may lock the file too, of which this kernel's events tell nothing.
pub(crate) fn is_shared_with_other_machines(file: &KeptFile) -> bool {
    /// NFS, SMB (three of them), Ceph, 9P, AFS (two), GFS2, OCFS2, Lustre, FUSE.
    const SHARED: [u32; 12] = [
        0x0000_6969,
        0x0000_517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x00C3_6400,
        0x0102_1997,
        0x5346_414F,
        0x6B41_4653,
        0x0116_1970,
        0x7461_636F,
        0x0BD0_0BD0,
        0x6573_5546,
    ];
    // A filesystem that does not tell is taken for the worst.
    filesystem(file).is_none_or(|kind| SHARED.contains(&kind))
}

/// Sets exactly these permissions. Filesystems without permissions refuse; that is no failure.
pub(crate) fn set_permissions(file: &KeptFile, permissions: u32) {
    let result = rustix::fs::fchmod(file, Permissions::from_raw_mode(permissions as RawMode));
    // The file was made by us a moment ago and is usable either way.
    let _ = result;
}

/// An inode, as far as this kernel can tell one from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// What `stat` says of a file, as far as a lock cares.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) identity: Identity,
    pub(crate) kind: FileType,
    pub(crate) size: u64,
    /// For anybody.
    pub(crate) executable: bool,
    /// No other hard link leads to the file.
    pub(crate) one_name: bool,
    /// The time of the inode's last change (`ctime`), in nanoseconds since 1970; 0 for one before.
    pub(crate) changed: u64,
}

impl Status {
    fn new(stat: &Stat) -> Self {
        Self {
            identity: Identity { device: stat.st_dev, inode: stat.st_ino },
            kind: FileType::from_raw_mode(stat.st_mode),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            executable: stat.st_mode & 0o111 != 0,
            one_name: stat.st_nlink == 1,
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// What the descriptor refers to.
pub(crate) fn status(file: impl AsFd) -> Result<Status, Errno> {
    retry(|| rustix::fs::fstat(&file)).map(|stat| Status::new(&stat))
}

/// Whether the descriptor can be written through.
pub(crate) fn is_writable(file: impl AsFd) -> Result<bool, Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    Ok(flags.intersects(OFlags::WRONLY | OFlags::RDWR))
}

/// What the descriptor was opened for; `None` if for nothing (`O_PATH`), as those that a forked child has
/// in the place of its parent's.
pub(crate) fn access(file: impl AsFd) -> Option<Access> {
    let flags = rustix::fs::fcntl_getfl(file).ok()?;
    if flags.contains(OFlags::PATH) {
        None
    } else if flags.contains(OFlags::RDWR) {
        Some(Access::ReadWrite)
    } else if flags.contains(OFlags::WRONLY) {
        Some(Access::Write)
    } else {
        Some(Access::Read)
    }
}

/// Sets the offset of the open file description to the start.
pub(crate) fn rewind(file: impl AsFd) -> Result<(), Errno> {
    rustix::fs::seek(file, SeekFrom::Start(0)).map(drop)
}

/// Filesystems whose locks are kept by this kernel alone, which keeps `flock` and record locks
/// apart. Of others it cannot be known without a try.
const LOCAL: [u32; 19] = [
    0xEF53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0x794C_7630, // overlay
    0xF2F5_2010, // f2fs
    0x2FC1_2FC1, // zfs
    0xCA45_1A4E, // bcachefs
    0x3153_464A, // jfs
    0x3434,      // nilfs
    0x5265_4973, // reiserfs
    0x4D44,      // fat
    0x2011_BAB0, // exfat
    0x7366_746E, // ntfs3
    0x9660,      // iso9660
    0x1501_3346, // udf
    0x7371_7368, // squashfs
    0xE0F5_E1E2, // erofs
];

/// Whether the file lies on a filesystem that leaves locks to this kernel.
pub(crate) fn is_on_local_filesystem(file: impl AsFd) -> bool {
    filesystem(file).is_some_and(|kind| LOCAL.contains(&kind))
}

/// Local filesystems that were seen to set the change time of a file that is renamed, exchanged, linked
/// or unlinked. Not xfs, which leaves it alone when two files exchange their names (6.18). Not overlay:
/// what is open may be the file below, of which nobody unlinks anything.
const TELL_RENAMES: [u32; 3] = [
    0xEF53,      // ext2, ext3, ext4
    0x9123_683E, // btrfs
    0x0102_1994, // tmpfs
];

/// Whether whatever happens to a name of the file shows in its link count or its change time, at once.
pub(crate) fn tells_renames(file: impl AsFd) -> bool {
    filesystem(file).is_some_and(|kind| TELL_RENAMES.contains(&kind))
}

/// The magic number of the filesystem that the file lies on.
fn filesystem(file: impl AsFd) -> Option<u32> {
    let status = retry(|| rustix::fs::fstatfs(&file)).ok()?;
    // The type of the field differs between processors; the number has 32 bits.
    u32::try_from(i128::from(status.f_type) & 0xFFFF_FFFF).ok()
}

/// Two open file descriptions of a new file in the directory that nobody else will find.
pub(crate) fn scratch(directory: &KeptFile, name: &CStr) -> Result<[KeptFile; 2], Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let permissions = Permissions::from_raw_mode(0o600);
    let open_at = |path: &CStr, more: OFlags| {
        let open =
            |_again| retry(|| rustix::fs::openat(directory, path, flags | more, permissions));
        KeptFile::open_with(open, drop)
    };
    if let Ok(one) = open_at(c".", OFlags::TMPFILE) {
        let path = std::ffi::CString::new(format!("/proc/self/fd/{}", one.as_fd().as_raw_fd()))
            .map_err(|_| Errno::INVAL)?;
        if let Ok(other) = open_at(&path, OFlags::empty()) {
            return Ok([one, other]);
        }
    }
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let one = open_at(name, new)?;
    let other = open_at(name, OFlags::NOFOLLOW);
    unlink_at(directory, name)?;
    Ok([one, other?])
}

/// What the path names now.
pub(crate) fn status_at_path(path: &CStr, follow: bool) -> Result<Status, Errno> {
    status_at(CWD, path, follow)
}

/// What the name means now in a directory.
pub(crate) fn status_at(directory: impl AsFd, name: &CStr, follow: bool) -> Result<Status, Errno> {
    let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
    retry(|| rustix::fs::statat(&directory, name, flags)).map(|stat| Status::new(&stat))
}

/// Removes the name from the directory.
pub(crate) fn unlink_at(directory: impl AsFd, name: &CStr) -> Result<(), Errno> {
    retry(|| rustix::fs::unlinkat(&directory, name, AtFlags::empty()))
}

/// Reads the first bytes of a file, wherever its offset stands.
pub(crate) fn read_start(file: impl AsFd, buffer: &mut [u8]) -> Result<&[u8], Errno> {
    let count = retry(|| rustix::io::pread(&file, &mut *buffer, 0))?;
    Ok(&buffer[..count])
}

/// Writes all of the bytes at this offset, in one call; wherever the file's own offset stands.
pub(crate) fn write_at(file: impl AsFd, bytes: &[u8], offset: u64) -> Result<(), Errno> {
    match retry(|| rustix::io::pwrite(&file, bytes, offset))? {
        count if count == bytes.len() => Ok(()),
        // What the kernel does when there is room for a part.
        _ => Err(Errno::NOSPC),
    }
}

/// Cuts the file to this length.
pub(crate) fn cut(file: impl AsFd, length: u64) -> Result<(), Errno> {
    retry(|| rustix::fs::ftruncate(&file, length))
}

/// Waits until the file's content is on its disk.
pub(crate) fn sync(file: impl AsFd) -> Result<(), Errno> {
    retry(|| rustix::fs::fdatasync(&file))
}

/// Waits until the names in the directory, which may be one of [`open_directory`], are on its disk. What
/// is opened for it is given to `discard`: a directory can be a lock file, too.
pub(crate) fn sync_directory(directory: &KeptFile, discard: fn(KeptFile)) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |_again| retry(|| rustix::fs::openat(directory, c".", flags, Permissions::empty()));
    let readable = KeptFile::open_with(open, discard)?;
    let synced = retry(|| rustix::fs::fsync(&readable));
    discard(readable);
    synced
}

/// A cheap clock for "how long ago", in nanoseconds; it may lag by some milliseconds.
pub(crate) fn coarse_now() -> u64 {
    coarse(libc::CLOCK_MONOTONIC_COARSE)
}

/// The clock that the kernel stamps files with, in nanoseconds since 1970. A filesystem may use a finer
/// one, which is ahead of it by some milliseconds at most, but none that lags behind.
pub(crate) fn coarse_time_of_day() -> u64 {
    coarse(libc::CLOCK_REALTIME_COARSE)
}

/// By way of the C library, which has the kernel's fast path for it set up already.
fn coarse(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call. It cannot fail: every Linux has these clocks.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    nanoseconds(now.tv_sec, now.tv_nsec)
}

/// The types of both parts differ between processors; a time before 1970 is 0.
fn nanoseconds(seconds: impl TryInto<u64>, nanoseconds: impl TryInto<u64>) -> u64 {
    let seconds = seconds.try_into().unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.try_into().unwrap_or(0))
}

/// Calls that do not wait for a lock are simply made again after a signal.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
