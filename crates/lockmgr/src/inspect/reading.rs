//! Reading `/proc/locks`.
//!
//! The kernel gives it in pieces of a page, the last of which is empty. Each piece is true of one moment,
//! but between two of them lines are lost or told twice when locks come and go, even of a table that fits
//! into one; and each piece costs a walk over all that came before it.
//!
//! The kernel counts the locks it has told and goes on behind that many. So one that has come meanwhile
//! moves the others back, and the next piece tells some of them again; those are left out.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;

use super::line::{self, Line};
use super::scan::Limit;

/// What the kernel's table said.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) lines: Vec<Line>,
    /// It came in more than one piece.
    pub(super) pieced_together: bool,
    /// There was no time for all of it.
    pub(super) cut_short: bool,
}

impl Reading {
    pub(super) fn everything(limit: Limit) -> io::Result<Self> {
        Self::take(limit, |_| true)
    }

    /// The lines about inodes of that number, on whatever device.
    pub(super) fn of_number(number: u64, limit: Limit) -> io::Result<Self> {
        let needle = format!(":{number} ");
        let mut reading = Self::take(limit, |line| contains(line, needle.as_bytes()))?;
        reading.lines.retain(|line| line.lock.inode.number == number);
        Ok(reading)
    }

    /// Whether two lines are about locks that look the same: that may be one lock.
    pub(super) fn tells_twice(&self) -> bool {
        let mut told = HashSet::new();
        self.lines.iter().filter(|line| line.depth == 0).any(|line| !told.insert(&line.lock))
    }

    fn take(limit: Limit, is_wanted: impl Fn(&[u8]) -> bool) -> io::Result<Self> {
        let mut file = File::open("/proc/locks")?;
        // What has been read of a line whose end has not, if that should ever be.
        let (mut text, mut piece, mut pieces) = (Vec::new(), vec![0; 1 << 14], 0);
        let mut told = ToldBefore::default();
        let mut reading = Self::default();
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => text.extend_from_slice(&piece[..count]),
            }
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let news = told.news_of(&text[..whole]);
            pieces += usize::from(!news.is_empty());
            reading.lines.extend(line::lines_that(&news, &is_wanted));
            text.drain(..whole);
            if limit.has_passed() {
                reading.cut_short = true;
                break;
            }
        }
        reading.pieced_together = pieces > 1;
        reading.lines.extend(line::lines_that(&text, &is_wanted));
        Ok(reading)
    }
}

/// The locks that some pieces have told, by the words of their lines, and how often.
///
/// Only those that name an owner. (Several locks can be told in the same words all the same; who has seen
/// their descriptors knows how many there are.)
#[derive(Default)]
struct ToldBefore(HashMap<Box<[u8]>, usize>);

impl ToldBefore {
    /// The next piece, without what has been told before.
    fn news_of<'p>(&mut self, piece: &'p [u8]) -> Cow<'p, [u8]> {
        let names_owner = |(_, lock): &(_, &[u8])| !contains(lock, b" -1 ");
        let (repeats, others): (Vec<_>, Vec<_>) = locks_in(piece)
            .filter(names_owner)
            .partition(|(_, lock)| self.0.get(*lock) == Some(&1));
        for (_, lock) in others {
            *self.0.entry(lock.into()).or_default() += 1;
        }
        let mut news = Cow::Borrowed(piece);
        // From behind, so that what is taken out does not move the others.
        for (place, _) in repeats.into_iter().rev() {
            news.to_mut().drain(place);
        }
        news
    }
}

/// Where each lock's lines are, and what the first of them says after its number.
fn locks_in(text: &[u8]) -> impl Iterator<Item = (Range<usize>, &[u8])> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').peekable();
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end;
        let line = lines.next()?;
        end += line.len();
        while let Some(line) = lines.next_if(|line| after_number(line).starts_with(b"->")) {
            end += line.len();
        }
        Some((start..end, after_number(line)))
    })
}

fn after_number(line: &[u8]) -> &[u8] {
    let number = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    line[number..].trim_ascii_start()
}

fn contains(line: &[u8], needle: &[u8]) -> bool {
    line.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use crate::FileLock;

    use super::*;

    fn table(locks: &[&str]) -> String {
        let numbered = |(at, lock): (usize, &&str)| format!("{}: {lock} fe:00:1 0 EOF\n", at + 1);
        locks.iter().enumerate().map(numbered).collect()
    }

    /// What is left of the last piece, by the words of its lines.
    fn news(pieces: &[&[&str]]) -> Vec<String> {
        let mut told = ToldBefore::default();
        let words = |line: &str| {
            let lock = line.split_once(": ").unwrap().1;
            lock.strip_suffix(" fe:00:1 0 EOF").unwrap().to_owned()
        };
        let mut last = Vec::new();
        for piece in pieces {
            let piece = table(piece);
            let news = told.news_of(piece.as_bytes());
            last = str::from_utf8(&news).unwrap().lines().map(words).collect();
        }
        last
    }

    #[test]
    fn what_comes_meanwhile_moves_locks_into_the_next_piece() {
        assert_eq!(news(&[&["F 1", "F 2", "F 3"], &["F 2", "F 3", "F 4"]]), ["F 4"]);
        assert_eq!(news(&[&["F 1", "F 2", "F 3"], &["F 3"]]), [""; 0]);
        let waited_for = ["F 1", "-> F 9", "-> F 8", "F 4"];
        assert_eq!(news(&[&["F 1", "-> F 9", "F 3"], &waited_for]), ["F 4"]);
        let new_first = ["F 3", "-> F 1", "F 2", "-> F 3"];
        assert_eq!(news(&[&["F 1", "F 2"], &new_first]), ["F 3", "-> F 1"]);
        assert_eq!(news(&[&["F 1", "F 2"], &["F 3"], &["F 2"]]), [""; 0]);
        assert_eq!(news(&[&["F 1"], &["F 1", "F 2"], &["F 2"]]), [""; 0]);
        assert_eq!(news(&[&[], &["F 1"]]), ["F 1"]);
        assert_eq!(news(&[&["F 1"], &[]]), [""; 0]);
    }

    #[test]
    fn lines_that_may_be_about_another_lock_stay() {
        assert_eq!(news(&[&["O -1"], &["O -1", "O -1"]]), ["O -1", "O -1"]);
        assert_eq!(news(&[&["F 1", "F 1"], &["F 1", "F 2"]]), ["F 1", "F 2"]);
    }

    #[test]
    fn a_lock_is_told_once_while_others_come_and_go() {
        const READINGS: usize = 3000;
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| FileLock::open(dir.path().join(name)).unwrap();
        let steady = open("steady");
        let _guard = steady.lock().unwrap();
        let number = dir.path().join("steady").metadata().unwrap().ino();
        let over = AtomicBool::new(false);
        let told = std::thread::scope(|scope| {
            for thread in 0..3 {
                let some = [0, 1, 2, 3].map(|lock| open(&format!("{thread} {lock}")));
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let guards = some.each_ref().map(|lock| lock.lock().unwrap());
                        std::thread::yield_now();
                        drop(guards);
                    }
                });
            }
            let told: BTreeSet<usize> = (0..READINGS)
                .map(|_| Reading::of_number(number, Limit(None)).unwrap().lines.len())
                .collect();
            over.store(true, Ordering::Relaxed);
            told
        });
        assert_eq!(told, BTreeSet::from([1]));
    }
}
