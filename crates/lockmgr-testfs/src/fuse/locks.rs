//! The locks that a server keeps: record locks by owner, with the rules of `fcntl(2)`.
//!
//! The kernel sends a `flock` lock as one over the whole file, and which of the two it was is not passed on
//! by the library underneath; so here, as on NFS, the two share one space.

/// A lock, held or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lock {
    pub(super) inode: u64,
    /// Whose it is: an open description's (`flock`, OFD) or a process's.
    pub(super) owner: u64,
    /// The open description that it was taken through.
    pub(super) handle: u64,
    pub(super) start: u64,
    /// Inclusive.
    pub(super) end: u64,
    pub(super) exclusive: bool,
    pub(super) pid: u32,
}

impl Lock {
    fn overlaps(&self, other: &Lock) -> bool {
        self.inode == other.inode && self.start <= other.end && other.start <= self.end
    }
}

/// All that are held.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Lock>);

impl Table {
    /// The first lock of somebody else that is in the way.
    pub(super) fn obstacle(&self, wanted: &Lock) -> Option<Lock> {
        let in_the_way = |held: &&Lock| {
            held.overlaps(wanted)
                && held.owner != wanted.owner
                && (held.exclusive || wanted.exclusive)
        };
        self.0.iter().find(in_the_way).copied()
    }

    /// Takes it if nobody else's is in the way; what the owner had of the range is replaced.
    pub(super) fn take(&mut self, wanted: Lock) -> bool {
        let free = self.obstacle(&wanted).is_none();
        if free {
            self.release(&wanted);
            self.0.push(wanted);
        }
        free
    }

    /// Releases what the owner has of the range.
    pub(super) fn release(&mut self, range: &Lock) {
        let mut kept = Vec::with_capacity(self.0.len());
        for held in self.0.drain(..) {
            if held.owner != range.owner || !held.overlaps(range) {
                kept.push(held);
                continue;
            }
            if held.start < range.start {
                kept.push(Lock { end: range.start - 1, ..held });
            }
            if held.end > range.end {
                kept.push(Lock { start: range.end + 1, ..held });
            }
        }
        self.0 = kept;
    }

    /// A process has closed a descriptor of the file: its record locks on it are gone.
    pub(super) fn closed(&mut self, inode: u64, owner: u64) {
        self.0.retain(|held| held.inode != inode || held.owner != owner);
    }

    /// An open description is gone, and its locks with it.
    pub(super) fn released(&mut self, handle: u64) {
        self.0.retain(|held| held.handle != handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, start: u64, end: u64, exclusive: bool) -> Lock {
        Lock { inode: 1, owner, handle: owner, start, end, exclusive, pid: 0 }
    }

    #[test]
    fn a_lock_excludes_others_and_is_split_by_a_partial_release() {
        let mut table = Table::default();
        assert!(table.take(lock(1, 0, u64::MAX, true)));
        assert!(!table.take(lock(2, 5, 5, false)));
        table.release(&lock(1, 3, 9, true));
        assert!(table.take(lock(2, 3, 9, false)) && !table.take(lock(2, 2, 9, false)));
        assert!(table.obstacle(&lock(3, 10, 10, false)).is_some_and(|held| held.owner == 1));
        table.released(1);
        assert!(table.take(lock(3, 3, 3, false)) && !table.take(lock(3, 3, 3, true)));
        table.closed(1, 2);
        assert!(table.take(lock(3, 0, 9, true)));
    }
}
