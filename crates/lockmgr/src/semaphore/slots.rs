//! Finding free slots and locking them: all that are wanted, or none.
//!
//! The kernel tells which lock is in the way of a range, so whole stretches of free or taken slots
//! are passed at once, and the lowest free ones are found first. Nothing is locked before enough are
//! found. Between the look and the lock somebody else may be quicker; then the look is repeated, a few
//! times.

use rustix::io::Errno;

use crate::mode::{Mode, Range};
use crate::sys::file::KeptFile;
use crate::sys::lock::{self, Owner, Patience};

/// How often to look again after somebody was quicker.
const LOOKS: usize = 4;

/// What came of it.
#[derive(Debug)]
pub(super) enum Taken {
    /// These are held now, in ascending order.
    All(Vec<u32>),
    /// Nothing is held. `gave_back` says that something was for a moment, and that somebody else may
    /// have found too few because of it.
    TooFew { gave_back: bool },
}

/// Locks `count` of the first `slots` slots, without waiting.
pub(super) fn take(file: &KeptFile, slots: u32, count: u32) -> Result<Taken, Errno> {
    let mut gave_back = false;
    for _ in 0..LOOKS {
        let mut taken = Vec::new();
        match fill(file, slots, count, &mut taken) {
            Ok(_) if taken.len() == count as usize => return Ok(Taken::All(taken)),
            result => {
                if !taken.is_empty() {
                    gave_back = true;
                    lock::record_unlock(file, Owner::Description, all(slots))?;
                }
                if !result? {
                    break;
                }
            }
        }
    }
    Ok(Taken::TooFew { gave_back })
}

/// Every slot.
fn all(slots: u32) -> Range {
    Range::between(0, u64::from(slots))
}

/// Looks for enough free slots, and only then takes them; returns whether somebody was quicker.
///
/// Where a stretch that has not been looked at is all that is needed, it is taken without a look: that
/// either succeeds or says as much as the look would have.
fn fill(file: &KeptFile, slots: u32, count: u32, taken: &mut Vec<u32>) -> Result<bool, Errno> {
    let mut missing = u64::from(count);
    let mut free = Vec::new();
    let mut unknown = vec![all(slots)];
    while missing > 0 {
        let Some(range) = unknown.pop() else { return Ok(false) };
        let is_last = unknown.is_empty() && range.end() - range.start() == missing;
        if is_last && free.is_empty() {
            if !try_lock(file, range)? {
                return Ok(false);
            }
            taken.extend(numbers(range));
            return Ok(false);
        }
        if let Some(obstacle) = look(file, range)? {
            let rest: Vec<Range> = range.without(obstacle).collect();
            // The lower part is looked at first.
            unknown.extend(rest.into_iter().rev());
        } else {
            let end = range.end().min(range.start() + missing);
            missing -= end - range.start();
            free.push(Range::between(range.start(), end));
        }
    }
    for range in free {
        if !try_lock(file, range)? {
            return Ok(true);
        }
        taken.extend(numbers(range));
    }
    Ok(false)
}

/// The numbers of the slots in a range.
fn numbers(range: Range) -> impl Iterator<Item = u32> {
    (range.start()..range.end()).filter_map(|slot| u32::try_from(slot).ok())
}

fn look(file: &KeptFile, range: Range) -> Result<Option<Range>, Errno> {
    loop {
        match lock::record_obstacle(file, Mode::Exclusive, range) {
            Err(Errno::INTR) => {}
            result => return Ok(result?.map(|obstacle| obstacle.range)),
        }
    }
}

/// Locks a range if it is free.
pub(super) fn try_lock(file: &KeptFile, range: Range) -> Result<bool, Errno> {
    loop {
        match lock::record(file, Owner::Description, Mode::Exclusive, range, Patience::Try) {
            Ok(()) => return Ok(true),
            Err(Errno::AGAIN | Errno::ACCESS) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Returns whether somebody else has the range, or a part of it.
pub(super) fn is_taken(file: &KeptFile, range: Range) -> Result<bool, Errno> {
    look(file, range).map(|obstacle| obstacle.is_some())
}
