//! An open lock file: the description that carries the lock, and its inode.
//!
//! The kernel locks an inode, people mean a path. Between opening and being granted the lock, and
//! between two acquisitions on a kept descriptor, the path may have come to name another file; a
//! lock on the old inode would then exclude nobody who comes by the path. So after every grant it is
//! made sure that the path still names the same (device, inode): how, is the business of [`Naming`].
//! If not, the description is given up and the whole acquisition starts anew.
//!
//! Removal (`remove_on_release`) follows the same thought. A file is unlinked only while it is held
//! exclusively and only if its name, in a directory that was opened for this, still names the held
//! inode. Whoever waits on the removed inode is granted it, finds that the path names something
//! else, and starts anew. (The order "unlock, then unlink" would let a second process lock the old
//! inode and a third one create and lock a new file.)

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{CREATE, DIRECTORY, Error, OPEN, Result};
use crate::gate::{self, Found, Gate};
use crate::keeper;
use crate::mode::{Mechanism, Mode, Range};
use crate::naming::Naming;
use crate::options::Settings;
use crate::place::Place;
use crate::posix;
use crate::record;
use crate::sys::file::{self, Access, Create, Identity, KeptFile};
use crate::sys::lock::{self, Owner, Patience};
use crate::visit::{Visit, discard};
use crate::wait::{self, Limits, Stop};

/// How often an acquisition starts anew because the path named another file each time, without
/// once finding somebody else to wait for. Real replacements end after a few; only a filesystem
/// whose path and descriptor never agree gets here.
pub(crate) const TRIES: usize = 1000;

/// Reading and writing, for the owner.
const OWNER_MAY: u32 = 0o600;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that is never used twice.
pub(crate) fn unique_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Why a lock file could not be opened.
#[derive(Debug)]
pub(crate) enum OpenFailure {
    /// A lease of another process stands in the way for some seconds.
    Lease(Access),
    Failed(Error),
}

/// An open lock file.
#[derive(Debug)]
pub(crate) struct Description {
    /// Taken only by `drop`.
    file: Option<KeptFile>,
    /// Never used twice in a process.
    pub(crate) id: u64,
    pub(crate) identity: Identity,
    access: Option<Access>,
    pub(crate) mechanism: Mechanism,
    pub(crate) range: Range,
    /// Shared holds of this process on this description. Changed only by the holder of the turn
    /// while it is zero, and under the mutex of the handle's state otherwise.
    pub(crate) sharers: AtomicUsize,
    naming: Naming,
    /// Where acquisitions pass one.
    pub(crate) gate: Option<Gate>,
    /// The fencing token of the exclusive hold; 0 for none.
    pub(crate) token: AtomicU64,
    /// The name of the lock file is known to be on its disk.
    name_is_durable: AtomicBool,
    /// Somebody else has a copy of the descriptor, and with it the lock.
    handed_over: AtomicBool,
}

impl Description {
    /// Opens or creates the lock file, with the gate that the settings want.
    pub(crate) fn open(
        place: &Place,
        settings: &Settings,
        writable: bool,
    ) -> Result<Self, OpenFailure> {
        for _ in 0..TRIES {
            let mut description = Self::open_without_gate(place, settings, writable)?;
            match gate::find(Some(place), settings, &description)? {
                Found::Gate(gate) => {
                    description.gate = gate;
                    return Ok(description);
                }
                Found::Replaced => {}
            }
        }
        Err(never_the_same(place))
    }

    fn open_without_gate(
        place: &Place,
        settings: &Settings,
        writable: bool,
    ) -> Result<Self, OpenFailure> {
        let mut make_parents = settings.create_parents;
        let mut found_nothing_to_create = false;
        for _ in 0..TRIES {
            match open_existing(place, settings, writable) {
                Ok(opened) => return Self::checked(place, settings, writable, opened),
                Err((Errno::NOENT, _)) if settings.create => {}
                Err((errno, access)) => return Err(explain(place, settings, OPEN, errno, access)),
            }
            let permissions = settings.creation_mode.unwrap_or(0o666);
            let create = if found_nothing_to_create {
                // Neither there nor creatable: a dangling link, and links are to be followed.
                Create::Any(permissions)
            } else {
                Create::New(permissions)
            };
            let access = accesses(settings.mechanism, writable)[0];
            let exact = settings.creation_mode.filter(|_| matches!(create, Create::New(_)));
            let made = match exact {
                // Whoever made it must be able to open it.
                Some(exact) if exact & OWNER_MAY == OWNER_MAY => place.make_exactly(exact),
                _ => Ok(false),
            };
            let opened = match made {
                Ok(true) => continue,
                Ok(false) => {
                    file::open(place.c_path(), access, settings.follow_symlinks, create, discard)
                }
                Err(errno) => Err(errno),
            };
            match opened {
                Ok(opened) => {
                    if let Some(exact) = exact {
                        file::set_permissions(&opened, exact);
                    }
                    return Self::checked(place, settings, writable, (opened, access));
                }
                // Somebody was quicker.
                Err(Errno::EXIST) => found_nothing_to_create = settings.follow_symlinks,
                Err(Errno::NOENT) if make_parents => {
                    make_parents = false;
                    if let Some(parent) = place.path().parent() {
                        std::fs::create_dir_all(parent)
                            .map_err(|source| OpenFailure::Failed(no_parents(place, source)))?;
                    }
                }
                Err(errno) => return Err(explain(place, settings, CREATE, errno, access)),
            }
        }
        Err(never_the_same(place))
    }

    /// Takes an opened file if it is one that can be a lock file.
    fn checked(
        place: &Place,
        settings: &Settings,
        writable: bool,
        (opened, access): (KeptFile, Access),
    ) -> Result<Self, OpenFailure> {
        let refuse = |reason| {
            OpenFailure::Failed(Error::NotLockable {
                path: Some(place.shared_path()),
                operation: OPEN,
                reason,
            })
        };
        let status = file::status(&opened).map_err(|errno| {
            OpenFailure::Failed(Error::io(Some(place.shared_path()), OPEN, errno))
        })?;
        if let Some(reason) = not_lockable(status.kind, writable) {
            return Err(refuse(reason));
        }
        Ok(Self::new(opened, status.identity, Some(access), settings))
    }

    /// Takes a descriptor that the program opened.
    pub(crate) fn from_file(
        file: KeptFile,
        settings: &Settings,
        operation: &'static str,
    ) -> Result<Self> {
        let status = file::status(&file).map_err(|errno| Error::io(None, operation, errno))?;
        let mut description = Self::new(file, status.identity, None, settings);
        description.gate = match gate::find(None, settings, &description) {
            Ok(Found::Gate(gate)) => gate,
            Ok(Found::Replaced) | Err(OpenFailure::Lease(_)) => None,
            Err(OpenFailure::Failed(error)) => return Err(error),
        };
        Ok(description)
    }

    fn new(
        file: KeptFile,
        identity: Identity,
        access: Option<Access>,
        settings: &Settings,
    ) -> Self {
        Self {
            file: Some(file),
            id: unique_id(),
            identity,
            access,
            mechanism: settings.mechanism,
            range: settings.range,
            sharers: AtomicUsize::new(0),
            naming: Naming::new(settings.follow_symlinks),
            gate: None,
            token: AtomicU64::new(0),
            name_is_durable: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
        }
    }

    pub(crate) fn file(&self) -> &KeptFile {
        self.file.as_ref().expect("the file is there until drop")
    }

    /// The descriptor, with whatever is locked on it.
    ///
    /// Not a copy of it: ours would have to be closed then, which may be put off ([`posix`]), and the
    /// lock would outlast everybody who was given it.
    pub(crate) fn into_fd(mut self) -> OwnedFd {
        self.file.take().expect("the file is there until drop").into_fd()
    }

    /// A copy of the descriptor, for those who cannot have it itself.
    pub(crate) fn hand_over_copy(&self) -> Result<OwnedFd, Errno> {
        self.handed_over.store(true, Ordering::Relaxed);
        self.file().duplicate()
    }

    /// Whether the kept descriptor can be written. One of the program's own is not for us to write.
    pub(crate) fn may_write(&self) -> bool {
        matches!(self.access, Some(Access::Write | Access::ReadWrite))
    }

    /// Opens the file once more, to write; `None` if the path names another one by now.
    pub(crate) fn visit(&self, place: &Place) -> Result<Option<Visit>, Errno> {
        Visit::to_write(place.c_path(), self.naming.follows_symlinks(), self.identity)
    }

    /// Sees to it that the lock file's name outlasts a power failure, whoever has created it.
    pub(crate) fn sync_directory(&self, place: &Place) -> Result<(), Errno> {
        if !self.name_is_durable.load(Ordering::Relaxed) {
            file::sync_directory(&place.directory()?, discard)?;
            self.name_is_durable.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether a refusal may come from a server that wants the file open for writing.
    pub(crate) fn may_need_writing(&self, mode: Mode, errno: Errno) -> bool {
        self.mechanism == Mechanism::Flock
            && mode == Mode::Exclusive
            && self.access == Some(Access::Read)
            && matches!(errno, Errno::BADF | Errno::IO)
    }

    /// Takes the lock if it is free.
    pub(crate) fn try_lock(&self, mode: Mode) -> Result<bool, Errno> {
        let result = match self.mechanism {
            Mechanism::Flock => lock::flock(self.file(), mode, Patience::Try),
            Mechanism::Ofd => {
                lock::record(self.file(), Owner::Description, mode, self.range, Patience::Try)
            }
            Mechanism::Posix => {
                return posix::try_lock(self.file(), self.identity, self.id, mode, self.range);
            }
        };
        match result {
            Ok(()) => Ok(true),
            // EACCES is what some systems, and some network filesystems, say instead.
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Takes the lock, asleep in the kernel until it is free.
    pub(crate) fn sleep_lock(&self, mode: Mode, limits: Limits<'_>) -> Result<(), Stop> {
        if self.mechanism == Mechanism::Posix {
            return posix::sleep_lock(
                self.file(),
                self.identity,
                self.id,
                mode,
                self.range,
                limits,
            );
        }
        let call = |patience| match self.mechanism {
            Mechanism::Flock => lock::flock(self.file(), mode, patience),
            Mechanism::Ofd | Mechanism::Posix => {
                lock::record(self.file(), Owner::Description, mode, self.range, patience)
            }
        };
        keeper::wait(
            self.file(),
            self.identity,
            self.mechanism,
            limits,
            || call(Patience::Sleep),
            || call(Patience::Try),
        )
    }

    /// Lets go of the lock, for every copy of the descriptor that may have leaked somewhere.
    pub(crate) fn unlock(&self) -> Result<(), Errno> {
        match self.mechanism {
            Mechanism::Flock => lock::flock_unlock(self.file()),
            Mechanism::Ofd => lock::record_unlock(self.file(), Owner::Description, self.range),
            Mechanism::Posix => posix::unlock(self.file(), self.identity, self.id, self.range),
        }
    }

    /// Makes an exclusive hold shared.
    pub(crate) fn downgrade(&self) -> Result<bool, Errno> {
        match self.mechanism {
            Mechanism::Posix => {
                posix::downgrade(self.file(), self.identity, self.id, self.range).map(|()| true)
            }
            Mechanism::Flock | Mechanism::Ofd => self.try_lock(Mode::Shared),
        }
    }

    /// Returns whether the path still names this file; without `thorough`, as quickly as may be.
    pub(crate) fn is_current(&self, place: &Place, thorough: bool) -> Result<bool, Errno> {
        self.naming.holds(place, self.file(), self.identity, thorough)
    }

    /// Looks the path up before a sleep, so that the look after it can be a quick one. Returns false
    /// if the path names another file already, and the sleep should be for that one.
    pub(crate) fn prepare_for_sleep(&self, place: &Place) -> bool {
        self.naming.prepare(place, self.file(), self.identity)
    }

    /// Removes the lock file. Only while it is held exclusively, as a whole.
    pub(crate) fn remove(&self, place: &Place) -> Result<(), NotRemoved> {
        if !self.is_current(place, true).map_err(NotRemoved::Os)? {
            return Err(NotRemoved::Replaced);
        }
        let status = file::status(self.file()).map_err(NotRemoved::Os)?;
        if status.kind != FileType::RegularFile {
            return Err(NotRemoved::Kept("it is not a regular file"));
        }
        if status.size > 0 {
            let mut start = [0; record::START_LEN];
            let ours = file::read_start(self.file(), &mut start).is_ok_and(record::is_ours);
            if !ours {
                return Err(NotRemoved::Kept("it holds data that lockmgr did not write"));
            }
        }
        let anchor = place.anchor().map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => NotRemoved::Replaced,
            errno => NotRemoved::Os(errno),
        })?;
        match file::status_at(&anchor.directory, &anchor.name, false) {
            Ok(status) if status.identity == self.identity => {}
            _ => return Err(NotRemoved::Replaced),
        }
        file::unlink_at(&anchor.directory, &anchor.name).map_err(|errno| match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                NotRemoved::Kept("its directory does not allow the removal")
            }
            Errno::NOENT => NotRemoved::Replaced,
            errno => NotRemoved::Os(errno),
        })
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        if let Some(Gate::Apart(own)) = self.gate.take() {
            gate::close(self.identity, own);
        }
        if let Some(file) = self.file.take() {
            let spare = self.access.is_some() && !*self.handed_over.get_mut();
            posix::close(self.identity, file, spare);
        }
    }
}

fn never_the_same(place: &Place) -> OpenFailure {
    OpenFailure::Failed(Error::Replaced {
        path: Some(place.shared_path()),
        operation: OPEN,
        while_held: false,
    })
}

/// Why a lock file was not removed.
#[derive(Debug)]
pub(crate) enum NotRemoved {
    Replaced,
    Kept(&'static str),
    Os(Errno),
}

/// How to open, in order of preference.
///
/// `flock` needs no more than reading, and must not ask for more: an inherited writable descriptor
/// would make `exec` of the lock file fail (`ETXTBSY`), and scripts do lock themselves. Exclusive
/// record locks need writing. Whatever is refused, the next one may do.
fn accesses(mechanism: Mechanism, writable: bool) -> &'static [Access] {
    match mechanism {
        Mechanism::Flock if writable => &[Access::ReadWrite],
        Mechanism::Flock => &[Access::Read, Access::Write],
        Mechanism::Ofd | Mechanism::Posix => &[Access::ReadWrite, Access::Read, Access::Write],
    }
}

fn open_existing(
    place: &Place,
    settings: &Settings,
    writable: bool,
) -> Result<(KeptFile, Access), (Errno, Access)> {
    let mut first = None;
    for &access in accesses(settings.mechanism, writable) {
        if let Some(spare) = open_spare(place, settings, access) {
            return Ok((spare, access));
        }
        match file::open(place.c_path(), access, settings.follow_symlinks, Create::No, discard) {
            Ok(opened) => return Ok((opened, access)),
            Err(
                errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::TXTBSY | Errno::ISDIR),
            ) => {
                first.get_or_insert((errno, access));
            }
            Err(errno) => return Err((errno, access)),
        }
    }
    Err(first.expect("there is at least one way to open"))
}

/// A descriptor of the same file that could not be closed yet.
fn open_spare(place: &Place, settings: &Settings, access: Access) -> Option<KeptFile> {
    if !posix::has_spares() {
        return None;
    }
    // Closing this kind of descriptor drops no locks.
    let pinned = file::pin(place.c_path(), settings.follow_symlinks).ok()?;
    posix::spare(file::status(&pinned).ok()?.identity, access)
}

/// What the kernel's refusal to open means.
fn explain(
    place: &Place,
    settings: &Settings,
    operation: &'static str,
    errno: Errno,
    access: Access,
) -> OpenFailure {
    let path = Some(place.shared_path());
    let not_lockable = |path, reason| Error::NotLockable { path, operation, reason };
    OpenFailure::Failed(match errno {
        Errno::AGAIN => return OpenFailure::Lease(access),
        // Else the links of a directory lead nowhere.
        Errno::LOOP
            if !settings.follow_symlinks && file::status_at_path(place.c_path(), false).is_ok() =>
        {
            not_lockable(path, "it is a symbolic link, which is not followed; name its target")
        }
        Errno::ISDIR if operation == OPEN => not_lockable(path, DIRECTORY),
        // No name was created, and none of the ways to open it fits: a FIFO nobody reads, a socket.
        Errno::NXIO => {
            let kind = file::status_at_path(place.c_path(), settings.follow_symlinks)
                .ok()
                .and_then(|status| not_lockable_kind(status.kind));
            not_lockable(path, kind.unwrap_or("it is not a file that can be opened"))
        }
        Errno::ACCESS | Errno::PERM | Errno::ROFS => Error::Permission {
            path,
            operation,
            reason: match file::status_at_path(place.c_path(), settings.follow_symlinks) {
                Ok(_) => "its permissions do not allow it",
                Err(_) if operation == CREATE => "its directory allows no new file",
                Err(_) => "its directory cannot be searched",
            },
            source: errno.into(),
        },
        errno => Error::io(path, operation, errno),
    })
}

/// Why the directories above could not be made.
fn no_parents(place: &Place, source: std::io::Error) -> Error {
    let (path, operation) = (Some(place.shared_path()), CREATE);
    match Errno::from_io_error(&source) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Error::Permission {
            path,
            operation,
            reason: "a directory above it cannot be made",
            source,
        },
        _ => Error::Io { path, operation, source },
    }
}

fn not_lockable(kind: FileType, writable: bool) -> Option<&'static str> {
    match kind {
        FileType::Directory if writable => Some(DIRECTORY),
        FileType::RegularFile | FileType::Directory => None,
        kind => Some(not_lockable_kind(kind).unwrap_or("it is not a regular file or a directory")),
    }
}

fn not_lockable_kind(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::Fifo => Some("it is a FIFO, which cannot be a lock file"),
        FileType::Socket => Some("it is a socket, which cannot be a lock file"),
        FileType::CharacterDevice | FileType::BlockDevice => {
            Some("it is a device, which cannot be a lock file")
        }
        _ => None,
    }
}

/// Sleeps until the lease of another process does not stand in the way of opening any more.
pub(crate) fn sleep_out_lease(
    place: &Place,
    follow: bool,
    access: Access,
    limits: Limits<'_>,
) -> Result<(), Stop> {
    let pinned = file::pin(place.c_path(), follow).map_err(Stop::Os)?;
    let status = file::status(&pinned).map_err(Stop::Os)?;
    if status.kind != FileType::RegularFile {
        // It has been replaced since; opening anew will tell.
        return Ok(());
    }
    wait::interruptible(limits, || file::sleep_out_lease(&pinned, access, discard))
}
