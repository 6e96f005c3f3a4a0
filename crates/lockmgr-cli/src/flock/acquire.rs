//! Getting the lock: one attempt, a wait with a deadline, or a wait.
//!
//! Unless it is to be strict, three things are better than in the original. The deadline is the
//! library's ([`lockmgr::call_until`]): it holds when SIGALRM is blocked or ignored, and covers the
//! opening. And when the lock was granted, the path must still name the locked file. If it was deleted or
//! replaced meanwhile, the file that the path names now is opened, under the same descriptor number,
//! and locked instead, within the same time. Where that cannot be done, it is as with the original:
//! the lock is on the file that there was. And no wait is a sleep in the server of a FUSE filesystem, which
//! nothing may end.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::inspect::{self, LockTable, Standing};
use rustix::fs::{Access, FileType, OFlags, access, fstat, stat};

use super::numbers::Timeout;
use super::open::{self, LockFile, NotOpened, Patience};
use super::options::{Kind, Options, Subject};
use super::say::{Failure, message};
use super::{CANNOT_CREATE, CANNOT_LOCK, CANNOT_OPEN, SYSTEM};
use crate::sys::lock::{self, Api, Want};
use crate::sys::sigalrm::{self, Timer};
use crate::sys::signals::Unignored;

/// How often in a row the path may name another file than the one just opened by it. Only a filesystem
/// on which the two never agree gets here; its locks are taken as they are.
const DISAGREEMENTS: u32 = 100;

/// The locked descriptor: our own, or the caller's.
pub(super) enum Locked {
    File(LockFile),
    Theirs(RawFd),
}

impl Locked {
    pub(super) fn fd(&self) -> RawFd {
        match self {
            Locked::File(file) => file.fd.as_raw_fd(),
            Locked::Theirs(fd) => *fd,
        }
    }
}

/// Opens and locks, in the order in which the original does it. Also returns how long it took to lock alone.
pub(super) fn acquire(
    options: &Options,
    strict: bool,
    ignored: &mut Unignored,
) -> Result<(Locked, Duration), Failure> {
    let limit = match options.timeout {
        Some(Timeout::After(limit)) => Some(limit),
        _ => None,
    };
    let once = options.nonblock || options.timeout == Some(Timeout::Zero);
    let patience = match limit.and_then(|limit| Instant::now().checked_add(limit)) {
        _ if strict => Patience::Strict,
        _ if once => Patience::None,
        Some(deadline) => Patience::Until(deadline),
        None => Patience::Forever,
    };
    let request = Request { options, patience, once };
    let locked = request.open()?;
    if options.timeout == Some(Timeout::Impossible) {
        return Err(no_timer(&io::Error::from_raw_os_error(libc::EINVAL)));
    }
    let _timer = match limit {
        Some(limit) if strict => Some(set_up_timer(limit)?),
        Some(_) => {
            sigalrm::survive();
            // The library needs a signal that nobody ignores.
            ignored.take(libc::SIGRTMAX());
            None
        }
        None => None,
    };
    let since = Instant::now();
    Ok((request.lock(locked)?, since.elapsed()))
}

fn set_up_timer(limit: Duration) -> Result<Timer, Failure> {
    Timer::start(limit).map_err(|error| no_timer(&error))
}

fn no_timer(error: &io::Error) -> Failure {
    Failure::of_system(SYSTEM, &[b"cannot set up timer"], error)
}

struct Request<'a> {
    options: &'a Options,
    patience: Patience,
    once: bool,
}

/// Why a lock call did not end well.
enum Refused {
    Busy,
    Late,
    /// There was nothing to end the wait with.
    NoTimer,
    Failed(io::Error),
}

impl Request<'_> {
    fn open(&self) -> Result<Locked, Failure> {
        match &self.options.subject {
            Subject::Descriptor(number) => Ok(Locked::Theirs(*number)),
            Subject::Path(path) => self.opened(path, self.access()).map(Locked::File),
        }
    }

    /// A record lock that is exclusive needs a descriptor that can write.
    fn access(&self) -> OFlags {
        if self.options.ofd && self.options.kind == Kind::Exclusive {
            OFlags::WRONLY
        } else {
            OFlags::RDONLY
        }
    }

    fn opened(&self, path: &OsStr, access: OFlags) -> Result<LockFile, Failure> {
        open::open(path, access, self.patience).map_err(|why| match why {
            NotOpened::Contended => self.not_free(matches!(self.patience, Patience::Until(_))),
            NotOpened::Failed(error) => {
                let status = match error.raw_os_error() {
                    Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE) => SYSTEM,
                    Some(libc::EROFS | libc::ENOSPC) => CANNOT_CREATE,
                    _ => CANNOT_OPEN,
                };
                let what = [b"cannot open lock file ", path.as_encoded_bytes()];
                Failure::of_system(status, &what, &error)
            }
        })
    }

    fn not_free(&self, late: bool) -> Failure {
        let text: &[u8] = match (self.options.verbose, late) {
            (false, _) => b"",
            (true, false) => b"failed to get lock",
            (true, true) => b"timeout while waiting to get lock",
        };
        Failure::new(self.options.conflict, message(&[text]))
    }

    fn lock(&self, mut locked: Locked) -> Result<Locked, Failure> {
        let mut disagreements = 0;
        loop {
            match self.attempt(locked.fd()) {
                Ok(()) => {}
                Err(Refused::Busy) => return Err(self.not_free(false)),
                Err(Refused::Late) => return Err(self.not_free(true)),
                Err(Refused::NoTimer) => {
                    // What timer_create(2) has said to the library.
                    return Err(no_timer(&io::Error::from_raw_os_error(libc::EAGAIN)));
                }
                Err(Refused::Failed(error)) => {
                    locked = self.reopened_to_write(locked, &error)?;
                    continue;
                }
            }
            let (Subject::Path(path), Locked::File(file)) = (&self.options.subject, &mut locked)
            else {
                return Ok(locked);
            };
            if self.patience == Patience::Strict
                || self.options.kind == Kind::Unlock
                || disagreements > DISAGREEMENTS
                || !is_replaced(path, file)
            {
                return Ok(locked);
            }
            match open::open(path, self.access(), self.patience) {
                Ok(current) => {
                    if !replace(file, &current) {
                        return Ok(locked);
                    }
                }
                Err(NotOpened::Contended) => {
                    return Err(self.not_free(matches!(self.patience, Patience::Until(_))));
                }
                Err(NotOpened::Failed(_)) => return Ok(locked),
            }
            disagreements = if is_replaced(path, file) { disagreements + 1 } else { 0 };
        }
    }

    /// One lock call, or two: the kernel is asked without a wait first where a wait needs preparations.
    fn attempt(&self, fd: RawFd) -> Result<(), Refused> {
        let Options { ofd, start, length, kind, .. } = *self.options;
        let api = if ofd {
            Api::Ofd { start: start.cast_signed(), length: length.cast_signed() }
        } else {
            Api::Flock
        };
        let want = match kind {
            Kind::Shared => Want::Shared,
            Kind::Exclusive => Want::Exclusive,
            Kind::Unlock => Want::Unlock,
        };
        let call = |sleep| lock::lock(fd, api, want, sleep);
        let is_unlock = want == Want::Unlock && self.patience != Patience::Strict;
        match self.patience {
            Patience::None => at_once(call),
            _ if is_unlock => at_once(call),
            Patience::Until(deadline) => match at_once(call) {
                Err(Refused::Busy) => sleep(fd, ofd, Some(deadline), call),
                result => result,
            },
            Patience::Forever if is_on_fuse(fd) => match at_once(call) {
                Err(Refused::Busy) => sleep(fd, ofd, None, call),
                result => result,
            },
            Patience::Forever => {
                let done = lockmgr::call_until(None, || call(true));
                done.map(|_| ()).map_err(refused)
            }
            Patience::Strict => loop {
                match call(!self.once) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        if Timer::has_expired() {
                            return Err(Refused::Late);
                        }
                    }
                    result => return result.map_err(refused),
                }
            },
        }
    }

    /// NFS makes a record lock of a `flock`, and refuses an exclusive one on what cannot be written.
    fn reopened_to_write(&self, locked: Locked, error: &io::Error) -> Result<Locked, Failure> {
        let may_help = matches!(error.raw_os_error(), Some(libc::EIO | libc::EBADF))
            && self.options.kind != Kind::Shared;
        let (path, file) = match (&self.options.subject, locked) {
            (Subject::Path(path), Locked::File(file)) => (path, file),
            (_, locked) => {
                return Err(cannot_lock(locked.fd().to_string().as_bytes(), error));
            }
        };
        let name = path.as_encoded_bytes();
        if !may_help || file.is_writable_and_readable {
            return Err(cannot_lock(name, error));
        }
        if let Err(errno) = access(path, Access::READ_OK | Access::WRITE_OK) {
            return Err(cannot_lock(name, &errno.into()));
        }
        drop(file);
        let file = self.opened(path, OFlags::RDWR)?;
        if !file.is_writable_and_readable {
            // What the attempt to write met.
            return Err(cannot_lock(name, &io::Error::from_raw_os_error(libc::EISDIR)));
        }
        Ok(Locked::File(file))
    }
}

/// One lock call that does not wait. A server's may be interrupted all the same, and has not been made then.
fn at_once(call: impl Fn(bool) -> io::Result<()>) -> Result<(), Refused> {
    loop {
        match call(false) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(refused),
        }
    }
}

/// Waits for a lock that was busy just now. One that the server of a FUSE filesystem keeps is asked for again
/// and again: a sleep in such a server's call may end with nothing, not even SIGKILL.
fn sleep(
    fd: RawFd,
    ofd: bool,
    deadline: Option<Instant>,
    call: impl Fn(bool) -> io::Result<()>,
) -> Result<(), Refused> {
    const PAUSE: Duration = Duration::from_millis(50);
    if !is_on_fuse(fd) || is_kept_here(fd, ofd) {
        return match lockmgr::call_until(deadline, || call(true)) {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(Refused::Late),
            Err(error) if error.kind() == io::ErrorKind::Other => Err(Refused::NoTimer),
            Err(error) => Err(refused(error)),
        };
    }
    loop {
        let left = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        thread::sleep(left.map_or(PAUSE, |left| left.min(PAUSE)));
        match at_once(&call) {
            Err(Refused::Busy) if left.is_some_and(|left| left.is_zero()) => {
                return Err(Refused::Late);
            }
            Err(Refused::Busy) => {}
            result => return result,
        }
    }
}

fn is_on_fuse(fd: RawFd) -> bool {
    const FUSE: u64 = 0x6573_5546;
    rustix::fs::statfs(by_number(fd))
        .is_ok_and(|about| u64::try_from(i128::from(about.f_type) & 0xFFFF_FFFF) == Ok(FUSE))
}

/// Whether it is this kernel that keeps the lock in the way: then it can name its holder.
fn is_kept_here(fd: RawFd, ofd: bool) -> bool {
    let wanted = if ofd { inspect::Kind::Ofd } else { inspect::Kind::Flock };
    let is_seen = |lock: &inspect::Lock| {
        lock.kind.shares_a_space_with(&wanted)
            && lock.holders.iter().any(|holder| holder.standing != Standing::NotVisible)
    };
    LockTable::of(by_number(fd))
        .is_ok_and(|table| table.files.iter().flat_map(|file| &file.locks).any(is_seen))
}

fn by_number(fd: RawFd) -> String {
    format!("/proc/self/fd/{fd}")
}

fn refused(error: io::Error) -> Refused {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Refused::Busy,
        _ => Refused::Failed(error),
    }
}

fn cannot_lock(name: &[u8], error: &io::Error) -> Failure {
    let status = match error.raw_os_error() {
        Some(libc::ENOLCK | libc::ENOMEM) => SYSTEM,
        _ => CANNOT_LOCK,
    };
    Failure::of_system(status, &[name], error)
}

/// Whether the path names another file than the open one, or none where one could be made. In doubt it
/// does not.
fn is_replaced(path: &OsStr, file: &LockFile) -> bool {
    let Ok(ours) = fstat(file.fd.as_fd()) else { return false };
    match stat(path) {
        Ok(theirs) => (ours.st_dev, ours.st_ino) != (theirs.st_dev, theirs.st_ino),
        // No file is to be made in the place of a directory.
        Err(rustix::io::Errno::NOENT) => {
            FileType::from_raw_mode(ours.st_mode) == FileType::RegularFile
        }
        Err(_) => false,
    }
}

/// Puts the newly opened file in the place of the other one, whose lock goes with it.
fn replace(file: &mut LockFile, current: &LockFile) -> bool {
    file.is_writable_and_readable = current.is_writable_and_readable;
    rustix::io::dup2(&current.fd, &mut file.fd).is_ok()
}
