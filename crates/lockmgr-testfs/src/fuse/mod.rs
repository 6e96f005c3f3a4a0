//! A filesystem in memory, served by this process, whose lock calls are answered as one of the [`Locks`]
//! says.

mod locks;
mod tree;

use std::env;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Config, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLock, ReplyOpen,
    ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use nix::libc;
use rustix::process::{Signal, set_parent_process_death_signal};

use locks::{Lock, Table};
use tree::{Content, Tree};

pub(crate) const DEVICE: &str = "/dev/fuse";

/// In the environment of a server: which locks it has, and where it is to be mounted.
pub(crate) const KIND: &str = "LOCKMGR_TESTFS_KIND";
pub(crate) const PLACE: &str = "LOCKMGR_TESTFS_PLACE";
/// In the environment of a server that is odd in other things than locks.
pub(crate) const ODD: &str = "LOCKMGR_TESTFS_ODD";

/// A server's line when it has mounted its filesystem; followed by what went wrong, if it has not.
pub(crate) const READY: &str = "\u{2}testfs:";

/// How long the kernel may keep what it was told.
const KEEP: Duration = Duration::from_secs(1);

/// What a FUSE filesystem does about locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// It does not deal with them, so that this kernel keeps them, on this machine alone. Most do so.
    Local,
    /// It keeps them, rightly. (It takes no notice of an interrupted call, as all servers made with this
    /// library.)
    Served,
    /// It says that it deals with them, and then that it cannot: `ENOSYS`.
    NoSys,
    /// Each lock call fails with `ENOLCK`, as that of a server whose lock service is down.
    NoLocks,
    /// It keeps them, but a call that may wait (`F_SETLKW`, `flock` without `LOCK_NB`) is never answered.
    Hang,
    /// It grants whatever is asked for, to everybody.
    Sham,
}

impl Locks {
    /// All of them.
    pub const ALL: [Locks; 6] =
        [Locks::Local, Locks::Served, Locks::NoSys, Locks::NoLocks, Locks::Hang, Locks::Sham];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Locks::Local => "fuse-local",
            Locks::Served => "fuse-served",
            Locks::NoSys => "fuse-nosys",
            Locks::NoLocks => "fuse-enolck",
            Locks::Hang => "fuse-hang",
            Locks::Sham => "fuse-sham",
        }
    }
}

/// Is the server if this process was started as one, and ends with it; else returns at once.
///
/// For the `main` of a program, or a test of its own in a test program: see [`Server`](crate::Server).
pub fn serve() {
    let (Some(kind), Some(place)) = (env::var_os(KIND), env::var_os(PLACE)) else { return };
    let locks = Locks::ALL.into_iter().find(|locks| kind == locks.name());
    let told = match locks {
        Some(locks) => run_server(locks, Path::new(&place)).map_err(|error| error.to_string()),
        None => Err("there is no such kind of filesystem".into()),
    };
    let status = if let Err(error) = told {
        say(&error);
        1
    } else {
        0
    };
    exit(status);
}

/// Mounts and serves until the standard input ends, or with the thread that started this process.
///
/// # Errors
/// What mounting has met.
pub fn run_server(locks: Locks, place: &Path) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("lockmgr-testfs".into()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    let session = Session::new(Server::new(locks), place, &config)?.spawn()?;
    say("");
    // Nothing comes; it ends with whoever holds the other end.
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(session);
    Ok(())
}

fn say(what: &str) {
    let mut output = io::stdout().lock();
    // Whoever does not listen any more does not need it.
    drop(writeln!(output, "\n{READY}{what}").and_then(|()| output.flush()));
}

struct Server {
    locks: Locks,
    state: Mutex<State>,
    next_handle: AtomicU64,
}

struct State {
    tree: Tree,
    table: Table,
    waiting: Vec<(Lock, ReplyEmpty)>,
    /// Never to be answered; an answer is sent when one of them is dropped.
    left: Vec<ReplyEmpty>,
}

impl State {
    /// Grants what has become free, in the order in which it was asked for.
    fn admit(&mut self) {
        for (lock, reply) in std::mem::take(&mut self.waiting) {
            if self.table.take(lock) {
                reply.ok();
            } else {
                self.waiting.push((lock, reply));
            }
        }
    }
}

impl Server {
    fn new(locks: Locks) -> Self {
        let state = State {
            tree: Tree::new(env::var_os(ODD).is_some()),
            table: Table::default(),
            waiting: Vec::new(),
            left: Vec::new(),
        };
        Self { locks, state: Mutex::new(state), next_handle: AtomicU64::new(1) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new_handle(&self) -> FileHandle {
        FileHandle(self.next_handle.fetch_add(1, Ordering::Relaxed))
    }
}

fn entry(reply: ReplyEntry, result: Result<fuser::FileAttr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&KEEP, &attr, Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if self.locks == Locks::Local {
            return Ok(());
        }
        let wanted = InitFlags::FUSE_POSIX_LOCKS | InitFlags::FUSE_FLOCK_LOCKS;
        config
            .add_capabilities(wanted)
            .map_err(|_| io::Error::other("this kernel passes no locks on to FUSE servers"))
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.state().tree.look_up(parent, name));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().tree.attributes(inode) {
            Ok(attr) => reply.attr(&KEEP, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let time = |time| match time {
            TimeOrNow::SpecificTime(time) => time,
            TimeOrNow::Now => SystemTime::now(),
        };
        let mut state = self.state();
        let mut change = || {
            if let Some(size) = size {
                let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
                state.tree.file(inode)?.resize(size, 0);
            }
            let attr = &mut state.tree.node(inode)?.attr;
            if let Some(mode) = mode {
                attr.perm = u16::try_from(mode & 0o7777).map_err(|_| Errno::EINVAL)?;
            }
            attr.uid = uid.unwrap_or(attr.uid);
            attr.gid = gid.unwrap_or(attr.gid);
            attr.atime = atime.map_or(attr.atime, time);
            attr.mtime = mtime.map_or(attr.mtime, time);
            attr.ctime = SystemTime::now();
            state.tree.attributes(inode)
        };
        match change() {
            Ok(attr) => reply.attr(&KEEP, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        use std::os::unix::ffi::OsStrExt;
        match self.state().tree.link_target(inode) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let content = Content::Directory(std::collections::BTreeMap::new());
        entry(reply, self.state().tree.make(parent, name, content, mode & !umask, request));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.state().tree.remove(parent, name, false));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.state().tree.remove(parent, name, true));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let content = Content::Link(target.to_path_buf());
        entry(reply, self.state().tree.make(parent, name, content, 0o777, request));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if flags.contains(RenameFlags::RENAME_EXCHANGE) {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        empty(reply, self.state().tree.rename((parent, name), (new_parent, new_name), replace));
    }

    fn link(
        &self,
        _: &Request,
        inode: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        entry(reply, self.state().tree.link(inode, new_parent, new_name));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(self.new_handle(), FopenFlags::empty());
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let content = Content::File(Vec::new());
        match self.state().tree.make(parent, name, content, mode & !umask, request) {
            Ok(attr) => {
                reply.created(&KEEP, &attr, Generation(0), self.new_handle(), FopenFlags::empty());
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().tree.file(inode) {
            Ok(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(size as usize).min(bytes.len());
                reply.data(&bytes[start..end]);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Nobody keeps more than a record in a lock file.
        const MOST: usize = 1 << 20;
        let mut state = self.state();
        let written = state.tree.file(inode).and_then(|bytes| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.checked_add(data.len()).filter(|end| *end <= MOST);
            let end = end.ok_or(Errno::EFBIG)?;
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(data);
            u32::try_from(data.len()).map_err(|_| Errno::EINVAL)
        });
        match written {
            Ok(count) => reply.written(count),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.state().tree.entries(inode) {
            Ok(entries) => {
                let seen = usize::try_from(offset).unwrap_or(usize::MAX);
                for (index, (inode, kind, name)) in entries.into_iter().enumerate().skip(seen) {
                    if reply.add(inode, index as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        state.table.closed(inode.0, owner.0);
        state.admit();
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut state = self.state();
        state.table.released(handle.0);
        state.admit();
        reply.ok();
    }

    fn getlk(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let exclusive = kind == libc::F_WRLCK;
        let wanted =
            Lock { inode: inode.0, owner: owner.0, handle: handle.0, start, end, exclusive, pid };
        let obstacle = match self.locks {
            Locks::Local | Locks::NoSys => return reply.error(Errno::ENOSYS),
            Locks::NoLocks => return reply.error(Errno::ENOLCK),
            Locks::Sham => None,
            Locks::Served | Locks::Hang => self.state().table.obstacle(&wanted),
        };
        match obstacle {
            Some(held) => {
                let kind = if held.exclusive { libc::F_WRLCK } else { libc::F_RDLCK };
                reply.locked(held.start, held.end, kind, held.pid);
            }
            None => reply.locked(start, end, libc::F_UNLCK, 0),
        }
    }

    fn setlk(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        match self.locks {
            Locks::Local | Locks::NoSys => return reply.error(Errno::ENOSYS),
            Locks::NoLocks => return reply.error(Errno::ENOLCK),
            Locks::Sham => return reply.ok(),
            Locks::Hang if sleep => return self.state().left.push(reply),
            Locks::Served | Locks::Hang => {}
        }
        let exclusive = kind == libc::F_WRLCK;
        let wanted =
            Lock { inode: inode.0, owner: owner.0, handle: handle.0, start, end, exclusive, pid };
        let mut state = self.state();
        if kind == libc::F_UNLCK {
            state.table.release(&wanted);
            state.admit();
            reply.ok();
        } else if state.table.take(wanted) {
            reply.ok();
        } else if sleep {
            state.waiting.push((wanted, reply));
        } else {
            reply.error(Errno::EAGAIN);
        }
    }
}
