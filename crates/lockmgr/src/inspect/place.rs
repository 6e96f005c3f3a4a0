//! Which inode of the kernel's table a path names; and what is on it where the table does not say.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::mode::{Mode, Range};
use crate::posix;
use crate::record::Record;
use crate::sys::file::{self, Access, Create, Identity, KeptFile};
use crate::sys::lock::{self, Patience};

use super::Effort;
use super::devices::Devices;
use super::fdinfo::FdInfo;
use super::process::Process;
use super::table::{Holder, Inode, Kind, Lock, LockTable, LockedFile, Standing};

const LOOK: &str = "look at it";

const READ_TABLE: &str = "read the kernel's lock table";

/// The table of the file that the path names.
pub(super) fn table_of(path: &Path, effort: Effort) -> Result<LockTable> {
    let shared: Arc<Path> = Arc::from(path);
    let failed = |errno: Errno| Error::io(Some(Arc::clone(&shared)), LOOK, errno);
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(Errno::INVAL))?;
    // Follows links: what a link names is what others have locked through it.
    let pinned = file::pin(&name, true).map_err(failed)?;
    let status = file::status(&pinned).map_err(failed)?;
    let inode = inode_of(&pinned, status.identity);
    let as_stat_says = status_name(status.identity);
    let hides = hides_locks(&pinned);
    let look = |effort| {
        LockTable::of_inode(inode, Some(as_stat_says), effort).map_err(|source| Error::Io {
            path: Some(Arc::clone(&shared)),
            operation: READ_TABLE,
            // That there is no /proc is not to be taken for that there is no such file.
            source: io::Error::other(source),
        })
    };
    let mut table = look(Effort { hidden: hides && effort.thorough, ..effort })?;
    if hides {
        if table.files.is_empty() && !effort.thorough {
            // Descriptors of processes that we do see may show what the table hides.
            table = look(Effort { thorough: true, hidden: true, ..effort })?;
        }
        if is_harmless_to_open(status.kind) {
            add_what_a_try_finds(&mut table, inode, &pinned);
        }
    }
    for found in &mut table.files {
        found.path = Some(path.to_path_buf());
        found.deleted = false;
        ask_the_record(found);
    }
    Ok(table)
}

/// Settles by the record in the lock file who of those who have the open file took the lock.
fn ask_the_record(file: &mut LockedFile) {
    let is_open = |lock: &Lock| {
        lock.came_by_exec
            && lock.mode == Mode::Exclusive
            && !lock.is_gate()
            && !lock.holders.is_empty()
    };
    if !file.locks.iter().any(is_open) {
        return;
    }
    let holder = file.record();
    let dead = if holder.is_none() { file.record_of_the_dead() } else { None };
    for lock in file.locks.iter_mut().filter(|lock| is_open(lock)) {
        let is_writer = |one: &Holder| {
            let start = one.process.as_ref().map(|process| process.start);
            holder.as_ref().is_some_and(|record| Some(record.start) == start)
        };
        if let Some(place) = lock.holders.iter().position(is_writer) {
            for one in &mut lock.holders {
                one.standing = Standing::Inherited;
            }
            lock.holders[place].standing = Standing::Verified;
            lock.holders[..=place].rotate_right(1);
        } else if dead.as_ref().is_some_and(|record| is_younger(&lock.holders[0], record)) {
            for one in &mut lock.holders {
                one.standing = Standing::Unclear;
            }
        }
    }
}

/// Whether the holder was started after that hold began, as far as clocks can tell.
fn is_younger(holder: &Holder, than: &Record) -> bool {
    const INACCURACY: Duration = Duration::from_secs(1);
    let started = holder.process.as_ref().and_then(Process::started);
    started.is_some_and(|started| started + INACCURACY >= than.since)
}

impl Inode {
    /// The file that the path names, as the kernel's table names it.
    ///
    /// # Errors
    /// [`Error::Io`] when the path names no file or cannot be looked up. Symbolic links are followed.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let failed = |errno: Errno| Error::io(Some(Arc::from(path)), LOOK, errno);
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| failed(Errno::INVAL))?;
        let pinned = file::pin(&name, true).map_err(failed)?;
        let status = file::status(&pinned).map_err(failed)?;
        Ok(inode_of(&pinned, status.identity))
    }
}

/// The inode as `stat` names it.
pub(super) fn status_name(identity: Identity) -> Inode {
    Inode {
        major: rustix::fs::major(identity.device),
        minor: rustix::fs::minor(identity.device),
        number: identity.inode,
    }
}

/// The inode as the kernel's table names it.
pub(crate) fn inode_of(file: &KeptFile, identity: Identity) -> Inode {
    let plain = status_name(identity);
    let fdinfo = format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd());
    let Ok(text) = std::fs::read_to_string(fdinfo) else { return plain };
    let told = FdInfo::of(&text);
    let device = told.mount.and_then(|mount| Devices::mounted().of_mount(mount));
    let (major, minor) = device.unwrap_or((plain.major, plain.minor));
    Inode { major, minor, number: told.inode.unwrap_or(plain.number) }
}

/// Whether locks can be on the file that the kernel's table does not list here.
fn hides_locks(file: &KeptFile) -> bool {
    const NFS: u64 = 0x6969;
    const CIFS: u64 = 0xFF53_4D42;
    const SMB2: u64 = 0xFE53_4D42;
    const CEPH: u64 = 0x00C3_6400;
    const FUSE: u64 = 0x6573_5546;
    const NINE_P: u64 = 0x0102_1997;
    const GFS2: u64 = 0x0116_1970;
    const OCFS2: u64 = 0x7461_636F;
    const LUSTRE: u64 = 0x0BD0_0BD0;
    let is_shared_between_machines = rustix::fs::fstatfs(file.as_fd()).is_ok_and(|filesystem| {
        #[expect(
            clippy::cast_sign_loss,
            reason = "a magic number; its type differs between architectures"
        )]
        let magic = filesystem.f_type as u64 & 0xFFFF_FFFF;
        matches!(magic, NFS | CIFS | SMB2 | CEPH | FUSE | NINE_P | GFS2 | OCFS2 | LUSTRE)
    });
    is_shared_between_machines || !super::is_first_pid_namespace()
}

fn is_harmless_to_open(kind: FileType) -> bool {
    matches!(kind, FileType::RegularFile | FileType::Directory)
}

/// Finds out by asking for it whether somebody has a lock of a sort of which the table has none. An
/// exclusive `flock` is held for an instant when nobody has one; there is no other way to ask.
fn add_what_a_try_finds(table: &mut LockTable, inode: Inode, pinned: &KeptFile) {
    let mut known = table.files.iter().flat_map(|file| &file.locks);
    // To open the file would break the lease.
    if known.clone().any(|lock| lock.kind == Kind::Lease) {
        return;
    }
    let asks_flock = !known.clone().any(|lock| lock.kind == Kind::Flock);
    let is_record = |lock: &Lock| matches!(lock.kind, Kind::Ofd | Kind::Posix) && !lock.is_gate();
    let asks_record = !known.clone().any(is_record);
    // The close after it would drop the `posix` locks that this process has on the file.
    let me = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    let is_mine =
        |lock: &Lock| lock.holders.iter().any(|holder| holder.pid().is_none_or(|pid| pid == me));
    if known.any(|lock| lock.kind == Kind::Posix && is_mine(lock)) {
        return;
    }
    let hidden = tried(pinned, asks_flock, asks_record);
    if hidden.is_empty() {
        return;
    }
    if let Some(file) = table.files.first_mut() {
        file.locks.extend(hidden);
    } else {
        table.files.push(LockedFile { inode, path: None, deleted: false, locks: hidden });
    }
}

fn tried(pinned: &KeptFile, asks_flock: bool, asks_record: bool) -> Vec<Lock> {
    let path = format!("/proc/self/fd/{}\0", pinned.as_fd().as_raw_fd());
    let Ok(path) = CString::from_vec_with_nul(path.into_bytes()) else { return Vec::new() };
    let Ok(opened) = file::open(&path, Access::Read, true, Create::No, drop_carefully) else {
        return Vec::new();
    };
    let mut hidden = Vec::new();
    let mut add = |kind, mode, range| {
        let process = None;
        let holders = vec![Holder { process, descriptor: None, standing: Standing::NotVisible }];
        hidden.push(Lock { kind, mode, range, holders, waiters: Vec::new(), came_by_exec: false });
    };
    let is_in_the_way = |mode| match lock::flock(&opened, mode, Patience::Try) {
        Ok(()) => {
            let _released = lock::flock_unlock(&opened);
            false
        }
        Err(errno) => errno == Errno::AGAIN,
    };
    if asks_flock && is_in_the_way(Mode::Exclusive) {
        let mode = if is_in_the_way(Mode::Shared) { Mode::Exclusive } else { Mode::Shared };
        add(Kind::Flock, mode, Range::WHOLE);
    }
    // All but the gates.
    let bytes = Range::as_told(0, Some(Range::LIMIT - 1)).unwrap_or_default();
    if asks_record
        && let Ok(Some(obstacle)) = lock::record_obstacle(&opened, Mode::Exclusive, bytes)
    {
        let kind = if obstacle.by_description { Kind::Ofd } else { Kind::Posix };
        add(kind, obstacle.mode, obstacle.range);
    }
    drop_carefully(opened);
    hidden
}

/// Like any close, this one must not drop a lock of this process.
fn drop_carefully(opened: KeptFile) {
    if let Ok(status) = file::status(&opened) {
        posix::close(status.identity, opened, false);
    }
}
