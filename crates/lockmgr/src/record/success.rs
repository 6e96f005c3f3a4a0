//! When work under a lock last succeeded: written by whoever holds the lock, read by anybody.
//!
//! As everything in the record that outlives its holder, it is the word of whoever may write the lock
//! file. The kernel confirms none of it.

use std::path::Path;
use std::time::SystemTime;

use super::believe::read;
use super::keep::{content, in_milliseconds, write};
use super::{Lasting, NotKept, START_LEN, line, preserved};
use crate::description::Description;
use crate::place::Place;
use crate::visit::Visit;

/// Returns when work under this lock last succeeded, as far as somebody noted it there
/// ([`FileLockGuard::mark_success`](crate::FileLockGuard::mark_success), `lockmgr run --every`), to the
/// millisecond.
///
/// Whether anybody holds the lock, and whether the one who noted it still lives, does not matter.
/// `None` when nothing was noted, there is no such file, it may not be read, or is under a lease, which
/// an open would break.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
/// use std::time::Duration;
/// use lockmgr::{FileLock, inspect};
///
/// let lock = FileLock::open(&path)?;
/// let guard = lock.lock()?;
/// assert_eq!(guard.last_success(), None);
/// // the nightly work
/// guard.mark_success()?;
/// drop(guard);
///
/// let age = inspect::last_success(&path).expect("it was noted").elapsed()?;
/// assert!(age < Duration::from_secs(3600));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn last_success(path: impl AsRef<Path>) -> Option<SystemTime> {
    let visit = Visit::to_read(path.as_ref())?;
    preserved(&read(&visit)?).last_success
}

/// Notes that the work under the lock has succeeded now. Only while it is held exclusively.
pub(crate) fn mark_success(
    description: &Description,
    place: Option<&Place>,
    durable: bool,
) -> Result<(), NotKept> {
    let mut start = [0; START_LEN];
    let old = content(description, place, &mut start)?;
    let lasting = Lasting {
        token: preserved(old).token,
        last_success: Some(in_milliseconds(SystemTime::now())),
    };
    // What the record says of its writer stays, whoever that was.
    let line = match line::parsed(old) {
        Some(mut record) => {
            (record.token, record.last_success) = (lasting.token, lasting.last_success);
            line::written(&record)
        }
        None => None,
    };
    write(description, place, old, line.unwrap_or_else(|| line::of_lasting(lasting)), durable)
}
