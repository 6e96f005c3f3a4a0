//! Reading a record, and finding out whether to believe it.
//!
//! Anybody who may write the lock file may have written it, and a holder that died left its record
//! behind. So a record counts only if the process that it names, by pid, pid namespace, start time and
//! boot, is the one that the kernel says holds the lock.

use std::path::Path;

use super::here::{Here, boot_id, is_called};
use super::{Record, START_LEN, line};
use crate::inspect::{Kind, LockTable, LockedFile, Process, inode_of};
use crate::mode::Mode;
use crate::sys::file;
use crate::visit::Visit;

impl Record {
    /// Returns the record in this lock file, if its writer holds the lock exclusively now.
    ///
    /// `None` when there is nothing to believe: no file, no record, a torn or foreign one, one whose
    /// writer holds the lock no longer, or no permission to find out. The file is opened only if it is
    /// a regular one that nobody has a lease on, without waiting for anybody; symbolic links are not
    /// followed.
    ///
    /// A record tells of the last exclusive hold that wrote one. If the very process that wrote it
    /// takes the lock again and writes none, the old record still stands for it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
    /// use lockmgr::{FileLock, inspect::Record};
    ///
    /// let lock = FileLock::options().note("nightly backup").open(&path)?;
    /// let guard = lock.lock()?;
    /// let record = Record::of_lock(&path).expect("we hold it");
    /// assert_eq!(record.pid, std::process::id());
    /// assert_eq!(record.note.as_deref(), Some("nightly backup"));
    /// guard.unlock()?;
    /// assert_eq!(Record::of_lock(&path), None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # References
    /// `proc_locks(5)`, `proc_pid_fdinfo(5)`
    #[must_use]
    pub fn of_lock(path: impl AsRef<Path>) -> Option<Self> {
        LockTable::of(path).ok()?.files.first()?.record()
    }

    /// Whether there is room for all of such a note in a lock file: for some 1500 bytes, of which a control
    /// character takes six. A longer one is cut, and ends in `…`.
    #[must_use]
    pub fn has_room_for(note: &str) -> bool {
        line::is_kept_whole(note)
    }
}

impl LockedFile {
    /// Returns what the exclusive holder has written into the lock file, if the kernel confirms that
    /// it was this very process: the record that [`Record::of_lock`] tells of.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        let content = self.content()?;
        self.locks
            .iter()
            .filter(|lock| lock.mode == Mode::Exclusive && lock.kind != Kind::Lease)
            .flat_map(|lock| &lock.holders)
            .filter_map(|holder| holder.process.as_ref())
            .find_map(|process| of_holder(&content, process.pid, process.start))
    }

    /// What a process of this boot and pid namespace has left behind in the lock file that is not there any
    /// more. It is the word of whoever may write the file.
    pub(crate) fn record_of_the_dead(&self) -> Option<Record> {
        let record = line::parsed(&self.content()?)?;
        let here = Here::get()?;
        let is_of_here = (&record.boot, record.pidns) == (&here.boot, here.pidns);
        let is_the_writer = |process: &Process| process.start == record.start && !process.zombie;
        let writer = Process::look(record.pid).filter(is_the_writer);
        (is_of_here && writer.is_none()).then_some(record)
    }

    fn content(&self) -> Option<Vec<u8>> {
        let visit = Visit::to_read(self.path.as_deref()?)?;
        // The path is somebody's: in another view of the filesystem it may name another file.
        if inode_of(visit.file(), visit.identity()) != self.inode {
            return None;
        }
        read(&visit)
    }
}

/// The record that is a lock file's whole content, if it is that of the process with this pid and
/// this start time (in clock ticks since boot), which the caller knows to hold the lock exclusively.
pub(crate) fn of_holder(content: &[u8], pid: u32, start: u64) -> Option<Record> {
    let record = line::parsed(content)?;
    let is_the_holder = record.start == start
        && boot_id().is_some_and(|boot| record.boot == boot)
        && is_called(pid, record.pid, record.pidns);
    is_the_holder.then_some(record)
}

/// The content, as far as it can be a record. Read twice: a writer may be at it.
pub(crate) fn read(visit: &Visit) -> Option<Vec<u8>> {
    let (mut once, mut again) = ([0; START_LEN], [0; START_LEN]);
    let once = file::read_start(visit.file(), &mut once).ok()?;
    let again = file::read_start(visit.file(), &mut again).ok()?;
    (once == again).then(|| once.to_vec())
}
