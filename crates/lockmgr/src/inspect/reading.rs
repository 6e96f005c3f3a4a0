//! Reading `/proc/locks`.
//!
//! The kernel gives it in pieces of a page. Each piece is true of one moment. Between two of them the
//! kernel only counts: it goes on behind as many locks as it has told. So when locks come or go meanwhile,
//! others are told twice or not at all, also at the end of a table of one piece.
//!
//! Locks that stay keep their order. So a piece that begins a little *before* the end of the last one, and
//! has one of its locks again that has stayed, can be joined to it there, and of what stays nothing is lost
//! and nothing told twice. Which one has stayed is concluded from the order of several; where all of
//! them are told in the same words (shared `ofd` locks of one range), only their numbers are left to go by.
//! But beginning anywhere else than at the end costs the kernel a walk over all that comes
//! before, so that is done for [`FEW`] pieces only; a longer table is read as it comes. And that walk is
//! another moment than the piece: what it ends in, mostly the rest of a line, comes first and says nothing
//! of where the piece begins.
//!
//! Reference: `proc_locks(5)`.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::line::{self, Line};
use super::scan::Limit;

/// So many pieces are joined with care: some hundred locks.
const FEW: usize = 8;

/// How often to begin anew when a piece cannot be joined to the last one.
const TRIES: usize = 5;

/// So much of the last piece is asked for once more, in bytes.
const OVERLAP: usize = 1024;

/// Room for a piece. One lock with all requests that wait for it comes in one piece, however many.
const ROOM: usize = 1 << 18;

/// What the kernel's table said.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) lines: Vec<Line>,
    /// It came in pieces that may not belong together.
    pub(super) pieced_together: bool,
    /// There was no time for all of it.
    pub(super) cut_short: bool,
    /// Owners of the locks that stand beside those that name no owner.
    ///
    /// The kernel adds each lock to the front of its processor's list, so what stands beside a lock was
    /// taken at about the same time, by the same process if it takes several.
    pub(super) near: Vec<u32>,
}

impl Reading {
    pub(super) fn everything(limit: Limit) -> io::Result<Self> {
        let (told, reading) = Self::take(limit)?;
        Ok(Self { lines: line::lines_that(&told, |_| true).collect(), ..reading })
    }

    /// The lines about inodes of that number, on whatever device.
    pub(super) fn of_number(number: u64, limit: Limit) -> io::Result<Self> {
        let needle = format!(":{number} ");
        let is_wanted = |line: &[u8]| contains(line, needle.as_bytes());
        let (told, reading) = Self::take(limit)?;
        let mut lines: Vec<Line> = line::lines_that(&told, is_wanted).collect();
        lines.retain(|line| line.lock.inode.number == number);
        let is_nameless = |line: &Line| line.depth == 0 && line.lock.pid.is_none();
        let near = if lines.iter().any(is_nameless) { near(&told, is_wanted) } else { Vec::new() };
        Ok(Self { lines, near, ..reading })
    }

    /// Whether two lines are about locks that look the same: that may be one lock.
    pub(super) fn tells_twice(&self) -> bool {
        let mut told = HashSet::new();
        self.lines.iter().filter(|line| line.depth == 0).any(|line| !told.insert(&line.lock))
    }

    /// The text, and what is to be said of it.
    fn take(limit: Limit) -> io::Result<(Vec<u8>, Self)> {
        let file = File::open("/proc/locks")?;
        let mut piece = vec![0; ROOM];
        let mut tries = 0;
        loop {
            tries += 1;
            let mut text = Text::default();
            let mut cut_short = false;
            while !cut_short && text.read_on(&file, &mut piece)? {
                cut_short = limit.has_passed();
            }
            if text.is_torn && text.pieces <= FEW && tries < TRIES && !cut_short {
                continue;
            }
            let reading = Self { pieced_together: text.is_torn, cut_short, ..Self::default() };
            return Ok((text.told, reading));
        }
    }
}

/// Who owns the locks that stand beside the wanted ones.
fn near(told: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    const ON_EACH_SIDE: usize = 4;
    let lines: Vec<&[u8]> = told.split(|byte| *byte == b'\n').collect();
    let mut owners = Vec::new();
    for at in (0..lines.len()).filter(|at| is_wanted(lines[*at])) {
        let beside = at.saturating_sub(ON_EACH_SIDE)..(at + ON_EACH_SIDE + 1).min(lines.len());
        let told = lines[beside].iter().flat_map(|line| line::lines_that(line, |_| true));
        owners.extend(told.filter_map(|line| line.lock.pid));
    }
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// What has been read so far.
#[derive(Default)]
struct Text {
    told: Vec<u8>,
    /// Where that ends in the kernel's text.
    end: u64,
    pieces: usize,
    /// Some pieces are not known to belong together.
    is_torn: bool,
}

impl Text {
    /// Adds the next piece; returns whether there was one.
    fn read_on(&mut self, file: &File, piece: &mut [u8]) -> io::Result<bool> {
        let before = if self.pieces < FEW { tail(&self.told) } else { &[] };
        let start = self.end.saturating_sub(before.len() as u64);
        let count = file.read_at(piece, start)?;
        let mut piece = &piece[..count];
        let joint = if before.is_empty() {
            // The first piece, or one of a long table, which ends where the kernel is to go on.
            self.is_torn |= self.pieces > 0 && count > 0;
            0
        } else {
            let whole = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            piece = &piece[..whole];
            join(before, piece).unwrap_or_else(|| {
                self.is_torn = true;
                before.len().min(whole)
            })
        };
        self.end = start + piece.len() as u64;
        self.told.extend_from_slice(&piece[joint..]);
        self.pieces += 1;
        Ok(joint < piece.len())
    }
}

/// The last locks of a text, with their requests: at most [`OVERLAP`], but at least one. Nothing when that
/// is too much to be read once more.
fn tail(text: &[u8]) -> &[u8] {
    let from = text.len().saturating_sub(OVERLAP);
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let mut start = text.len();
    for line in lines.rev() {
        let begins_at = start - line.len();
        if begins_at < from && start < text.len() && !is_request(&text[start..]) {
            break;
        }
        start = begins_at;
    }
    let tail = &text[start..];
    if tail.len() < ROOM / 2 { tail } else { &[] }
}

/// Where in the piece the news begins: after the last lock that the text before it ends with, too.
///
/// That must be one of which there are no two in the words of their lines, and one that has stayed: what
/// was released and taken again has moved, so of those that both have, it is the most that are in the same
/// order that count. If there is none, it is the very last one, under the same number.
fn join(before: &[u8], piece: &[u8]) -> Option<usize> {
    if piece.starts_with(before) {
        return Some(before.len());
    }
    let told: Vec<_> = locks_in(before).collect();
    // Not the first one, which is of the moment before.
    let here: Vec<_> = locks_in(piece).skip(1).collect();
    let only = |locks: &[Lock<'_>], words: &[u8]| {
        let mut alike = (0..locks.len()).filter(|at| locks[*at].words == words);
        alike.next().filter(|_| alike.next().is_none())
    };
    let found = told.iter().filter_map(|lock| only(&told, lock.words).and(only(&here, lock.words)));
    let stayed = last_in_order(found).map(|at| &here[at]);
    let last = || {
        let last = told.last()?;
        here.iter().find(|other| (other.number, other.words) == (last.number, last.words))
    };
    Some(stayed.or_else(last)?.place.end)
}

/// The last member of the longest subsequence that ascends.
fn last_in_order(numbers: impl Iterator<Item = usize>) -> Option<usize> {
    // The least last member of those of each length.
    let mut least: Vec<usize> = Vec::new();
    for number in numbers {
        let shorter = least.partition_point(|last| *last < number);
        if shorter == least.len() {
            least.push(number);
        } else {
            least[shorter] = number;
        }
    }
    least.pop()
}

/// A lock in a text.
struct Lock<'t> {
    number: &'t [u8],
    words: &'t [u8],
    /// With the requests that wait for it.
    place: Range<usize>,
}

fn locks_in(text: &[u8]) -> impl Iterator<Item = Lock<'_>> {
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').peekable();
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end;
        let line = lines.next()?;
        end += line.len();
        while let Some(line) = lines.next_if(|line| is_request(line)) {
            end += line.len();
        }
        let (number, words) = numbered(line);
        Some(Lock { number, words, place: start..end })
    })
}

fn is_request(line: &[u8]) -> bool {
    numbered(line).1.starts_with(b"->")
}

fn numbered(line: &[u8]) -> (&[u8], &[u8]) {
    let number = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
    (&line[..number], line[number..].trim_ascii_start())
}

fn contains(line: &[u8], needle: &[u8]) -> bool {
    line.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use crate::FileLock;

    use super::*;

    fn table(locks: &[&str]) -> String {
        let mut number = 0;
        let mut text = String::new();
        for lock in locks {
            number += usize::from(!lock.starts_with("->"));
            writeln!(text, "{number}: {lock} fe:00:1 0 EOF").unwrap();
        }
        text
    }

    /// What the piece adds to the locks before it.
    fn news(before: &[&str], piece: &[&str]) -> Option<usize> {
        let (before, piece) = (table(before), table(piece));
        // What the kernel's walk ended in, unless nothing has changed.
        let torn = if piece.starts_with(&before) { "" } else { ": F 1 fe:00:1 0 EOF\n" };
        let piece = format!("{torn}{piece}");
        let start = join(before.as_bytes(), piece.as_bytes())?;
        Some(piece[start..].lines().count())
    }

    #[test]
    fn pieces_are_joined_at_the_last_lock_that_both_have() {
        assert_eq!(news(&["F 1", "F 2"], &["F 1", "F 2"]), Some(0));
        assert_eq!(news(&["F 1", "F 2"], &["F 1", "F 2", "F 3"]), Some(1));
        let whole = table(&["F 1", "F 2"]);
        assert_eq!(join(whole.as_bytes(), whole.as_bytes()), Some(whole.len()));
        // Some have come before it.
        assert_eq!(news(&["F 1", "F 2"], &["F 8", "F 9", "F 1", "F 2", "F 3"]), Some(1));
        // The last one has gone, or has more requests.
        assert_eq!(news(&["F 1", "F 2"], &["F 1", "F 3", "F 4"]), Some(2));
        assert_eq!(news(&["F 1", "F 2", "-> F 3"], &["F 2", "-> F 3", "-> F 4", "F 3"]), Some(1));
        // One was taken again, and has moved.
        assert_eq!(news(&["F 1", "F 2", "F 3"], &["F 3", "F 1", "F 2", "F 4"]), Some(1));
        assert_eq!(news(&["F 1", "F 2", "F 3"], &["F 1", "F 3", "F 4", "F 2", "F 5"]), Some(3));
        // What is told alike is known by what stands before or behind it.
        assert_eq!(news(&["F 1", "O -1", "O -1"], &["F 1", "O -1", "O -1", "O -1"]), Some(1));
        assert_eq!(news(&["F 1", "O -1", "F 2"], &["F 8", "F 1", "O -1", "O -1"]), Some(2));
        assert_eq!(news(&["O -1", "O -1", "F 2"], &["O -1", "F 2", "O -1"]), Some(1));
        assert_eq!(news(&["O -1", "O -1"], &["O -1", "O -1", "O -1"]), Some(1));
    }

    #[test]
    fn pieces_with_nothing_in_common_are_not_joined() {
        assert_eq!(news(&["F 1"], &["F 2"]), None);
        let torn = ": F 2 fe:00:1 0 EOF\n9: F 3 fe:00:1 0 EOF\n";
        assert_eq!(join(table(&["F 1", "F 2"]).as_bytes(), torn.as_bytes()), None);
        assert_eq!(news(&["F 1"], &[]), None);
        assert_eq!(news(&["F 1", "F 2", "F 3"], &["-> F 3"]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_joined_or_not(
            before in proptest::collection::vec(any::<u8>(), 0..80), piece in "([0-9:]|->|F| |\n){0,60}",
        ) {
            let tail = tail(&before);
            prop_assert!(before.ends_with(tail));
            let end = join(tail, piece.as_bytes()).unwrap_or(0);
            prop_assert!(end <= piece.len());
        }
    }

    #[test]
    fn the_tail_is_of_whole_locks() {
        let lock = "F 1 some more words to make it longer";
        let text = table(&[lock; 100]);
        let tail_len = tail(text.as_bytes()).len();
        assert!((OVERLAP - 100..=OVERLAP).contains(&tail_len), "{tail_len}");
        assert!(text.as_bytes()[..text.len() - tail_len].ends_with(b"\n"));
        // One lock, and a queue.
        let mut queue = vec!["-> F 2 some more words to make it longer"; 100];
        queue.insert(0, lock);
        queue.insert(0, lock);
        let text = table(&queue);
        assert_eq!(text.len() - tail(text.as_bytes()).len(), text.find('\n').unwrap() + 1);
        assert_eq!(tail(b"").len(), 0);
        assert_eq!(tail(b"1: F"), b"1: F");
    }

    #[test]
    fn who_stands_beside_a_lock_is_near() {
        let line =
            |inode: u32, pid: i32| format!("1: FLOCK ADVISORY WRITE {pid} 00:1:{inode} 0 EOF\n");
        let lines = (1..=20).map(|number| line(number, if number == 10 { -1 } else { 100 }));
        let mut lines: Vec<String> = lines.collect();
        lines[5] = line(6, 66);
        lines[4] = line(5, 55);
        let text = lines.concat();
        assert_eq!(near(text.as_bytes(), |line| contains(line, b":10 ")), [66, 100]);
        assert_eq!(near(text.as_bytes(), |line| contains(line, b":5 ")), [55, 66, 100]);
        assert_eq!(near(text.as_bytes(), |line| contains(line, b":30 ")), [0; 0]);
    }

    /// How often each of so many locks that stay was told, while others come and go.
    fn times_told(stay: usize, readings: usize) -> BTreeSet<usize> {
        const CHURNS: usize = 3;
        let dir = tempfile::tempdir().unwrap();
        let open = |name: String| FileLock::open(dir.path().join(name)).unwrap();
        let locks: Vec<_> = (0..stay).map(|lock| open(format!("stays {lock}"))).collect();
        let guards: Vec<_> = locks.iter().map(|lock| lock.lock().unwrap()).collect();
        let inode = |path: &std::path::Path| path.metadata().unwrap().ino();
        let numbers: BTreeSet<u64> =
            guards.iter().map(|guard| inode(guard.path().unwrap())).collect();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for churn in 0..CHURNS {
                let locks = [0, 1, 2, 3].map(|lock| open(format!("goes {churn} {lock}")));
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        let guards = locks.each_ref().map(|lock| lock.lock().unwrap());
                        thread::yield_now();
                        drop(guards);
                    }
                });
            }
            let readings = std::iter::repeat_with(|| Reading::everything(Limit(None)).unwrap())
                // Of others nothing is promised, and it shows: when more has changed between two
                // pieces than they overlap by.
                .filter(|reading| !reading.pieced_together && !reading.tells_twice())
                .take(readings);
            let mut told = BTreeSet::new();
            for Reading { lines, .. } in readings {
                for number in &numbers {
                    let is_it = |line: &&Line| line.lock.inode.number == *number;
                    told.insert(lines.iter().filter(is_it).count());
                }
            }
            over.store(true, Ordering::Relaxed);
            told
        })
    }

    #[test]
    fn locks_that_stay_are_told_once_in_a_short_table() {
        assert_eq!(times_told(10, 2000), BTreeSet::from([1]));
    }

    #[test]
    fn locks_that_stay_are_told_once_in_a_table_of_some_pieces() {
        assert_eq!(times_told(150, 500), BTreeSet::from([1]));
    }
}
