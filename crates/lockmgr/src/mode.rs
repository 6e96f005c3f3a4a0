//! The vocabulary: what is asked of the kernel, and of which of its locks.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Whether others may hold the lock at the same time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// Any number of holders, as long as all of them are shared.
    Shared,
    /// One holder.
    #[default]
    Exclusive,
}

impl Mode {
    /// Returns whether holders of the two modes cannot be inside together.
    #[must_use]
    pub fn conflicts_with(self, other: Mode) -> bool {
        self == Mode::Exclusive || other == Mode::Exclusive
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shared => "shared",
            Mode::Exclusive => "exclusive",
        })
    }
}

/// Which of the kernel's locks is taken.
///
/// | | `flock` | `ofd` | `posix` |
/// |---|---|---|---|
/// | owner | open file description | open file description | process |
/// | byte ranges | no | yes | yes |
/// | inherited by a child that keeps the descriptor | yes | yes | no |
/// | conflicts with programs that use `fcntl(F_SETLK)` or `lockf` | no | yes | yes |
/// | conflicts with `flock(1)` and `flock(2)` | yes | no | no |
/// | lost when any descriptor of the file is closed in the process | no | no | **yes** |
/// | exclusive on a file that can only be read | yes | no | no |
/// | async waits | yes | yes | no |
/// | fair (with a gate) | yes² | yes, if the file can be written | no |
/// | downgrade | may be lost¹ | atomic | atomic |
/// | upgrade | try only, may be lost¹ | try only, atomic | no |
/// | kernel notices deadlocks | no | no | yes |
///
/// ¹ The kernel drops the old lock before it takes the new one, so another process can get in
/// between; the call then reports [`Error::Lost`]. Not so under the gate of a fair handle.
///
/// ² If the file can be written, is no directory, and the filesystem keeps `flock` and record locks
/// apart; see [`FileLockOptions::fair`](crate::FileLockOptions::fair).
///
/// The two kinds of record lock see each other; `flock` locks are a world of their own on local
/// filesystems, and are whole-file record locks on NFS.
///
/// # References
/// `flock(2)`, `fcntl(2)` (advisory record locking; open file description locks)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Mechanism {
    /// BSD lock on the whole file.
    #[default]
    Flock,
    /// Record lock owned by the open file description. Take this one to exclude programs that use
    /// `fcntl` locks: package managers, databases, mail spools.
    Ofd,
    /// Classic record lock owned by the process. Prefer [`Mechanism::Ofd`], with which it
    /// conflicts as it should: a `posix` lock is dropped as soon as *any* code in the process
    /// closes *any* descriptor of the file, and is not seen by other threads of the process. The
    /// library makes its own handles exclude each other and puts its own closes off; it can do
    /// nothing about a library that reads the lock file behind its back. The one thing it does
    /// better is that the kernel notices deadlocks, though not always rightly where threads are in
    /// play; see [`Error::Deadlock`].
    Posix,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mechanism::Flock => "flock",
            Mechanism::Ofd => "ofd",
            Mechanism::Posix => "posix",
        })
    }
}

impl FromStr for Mechanism {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "flock" => Ok(Mechanism::Flock),
            "ofd" => Ok(Mechanism::Ofd),
            "posix" => Ok(Mechanism::Posix),
            _ => Err(Error::unsupported(
                None,
                "open",
                format!("'{}' is no mechanism: use flock, ofd or posix", text.escape_debug()),
            )),
        }
    }
}

/// The bytes of the lock file that an `ofd` or `posix` lock covers. They need not exist.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Range {
    start: u64,
    len: Option<u64>,
}

impl Range {
    /// The whole file, however long it is or becomes.
    pub const WHOLE: Range = Range { start: 0, len: None };

    /// Ranges end at or below this offset (2^62), also those that reach to the end of the file: no
    /// file is that long. The space above is kept for the library's own use, such as the gates of
    /// fair locks.
    pub const LIMIT: u64 = 1 << 62;

    /// What a foreign lock to the end of the file covers, and ours do not.
    pub(crate) const BEYOND: Range = Range { start: Self::LIMIT, len: None };

    /// The gate of `flock` locks: the first byte that no lock of ours covers.
    pub(crate) const FLOCK_GATE: Range = Range { start: Self::LIMIT, len: Some(1) };

    /// The gate of record locks on this range: a byte that belongs to its first one, so that locks
    /// on different ranges do not wait for each other. `None` for the one range for which there is
    /// no such byte left.
    pub(crate) fn gate(self) -> Option<Range> {
        let start = self.start + Self::LIMIT + 1;
        (start < 1 << 63).then_some(Range { start, len: Some(1) })
    }

    /// The smallest range that covers both of two that overlap.
    pub(crate) fn union(self, other: Range) -> Range {
        Range::between(self.start.min(other.start), self.end().max(other.end()))
    }

    /// The byte on which the waiters of a semaphore queue.
    pub(crate) const SEMAPHORE_QUEUE: Range = Range { start: Self::LIMIT + 1, len: Some(1) };

    /// Returns the range of `len` bytes from `start`; a `len` of 0 means to the end of the file,
    /// however long it becomes.
    ///
    /// # Errors
    /// [`Error::InvalidRange`] when it would reach beyond [`Range::LIMIT`].
    pub fn new(start: u64, len: u64) -> Result<Range, Error> {
        match start.checked_add(len) {
            Some(end) if end <= Self::LIMIT && start < Self::LIMIT => {
                Ok(Range { start, len: (len != 0).then_some(len) })
            }
            _ => Err(Error::InvalidRange {
                text: format!("{start}+{len}"),
                reason: "it ends beyond 2^62",
            }),
        }
    }

    /// The range from the first to the last byte as the kernel tells them; `None` for "to the end of
    /// the file", and for nonsense.
    pub(crate) fn as_told(start: u64, last: Option<u64>) -> Option<Range> {
        match last {
            None => Some(Range { start, len: None }),
            // Where ours stop that reach to the end of the file.
            Some(last) if last == Self::LIMIT - 1 => Some(Range { start, len: None }),
            Some(last) => {
                Some(Range { start, len: Some(last.checked_sub(start)?.checked_add(1)?) })
            }
        }
    }

    /// The first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// The number of bytes; `None` when it reaches to the end of the file.
    #[must_use]
    pub fn len(self) -> Option<u64> {
        self.len
    }

    /// Returns whether no byte is covered, which cannot be.
    #[must_use]
    pub fn is_empty(self) -> bool {
        false
    }

    /// The first byte that is not covered any more.
    pub(crate) fn end(self) -> u64 {
        let whole = if self.start < Self::LIMIT { Self::LIMIT } else { u64::MAX };
        self.len.map_or(whole, |len| self.start.saturating_add(len))
    }

    pub(crate) fn overlaps(self, other: Range) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// What is left of this range without the other one: nothing, one piece or two.
    pub(crate) fn without(self, other: Range) -> impl Iterator<Item = Range> {
        let before = (self.start < other.start)
            .then(|| Range::between(self.start, other.start.min(self.end())));
        let after = (other.end() < self.end())
            .then(|| Range::between(other.end().max(self.start), self.end()));
        before.into_iter().chain(after)
    }

    /// The bytes from `start` on and before `end`.
    pub(crate) fn between(start: u64, end: u64) -> Range {
        let to_the_end = end == Self::LIMIT || end == u64::MAX;
        Range { start, len: (!to_the_end).then(|| end - start) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.len {
            Some(len) => write!(f, "{}+{}", self.start, len),
            None => write!(f, "{}+EOF", self.start),
        }
    }
}

/// `START` or `START+LEN` in bytes, decimal; without `LEN`, or with 0, to the end of the file.
impl FromStr for Range {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refused =
            |reason| Error::InvalidRange { text: text.escape_debug().to_string(), reason };
        let (start, len) = text.split_once('+').unwrap_or((text, "0"));
        // `u64::from_str` would take a sign.
        let is_number =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(start) || !is_number(len) {
            return Err(refused("write START or START+LEN, in bytes"));
        }
        // What does not even fit is as far out.
        let number = |part: &str| part.parse().unwrap_or(u64::MAX);
        Range::new(number(start), number(len)).map_err(|error| match error {
            // As it was typed.
            Error::InvalidRange { reason, .. } => refused(reason),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> Range {
        Range::between(start, end)
    }

    #[test]
    fn ranges_are_read_and_shown() {
        for far in ["9223372036854775807", "18446744073709551616", "0+18446744073709551616"] {
            let refused = far.parse::<Range>().unwrap_err().to_string();
            assert_eq!(refused, format!("'{far}' is no byte range: it ends beyond 2^62"));
        }
        assert_eq!("0".parse::<Range>().unwrap(), Range::WHOLE);
        assert_eq!("10+5".parse::<Range>().unwrap().end(), 15);
        assert_eq!("10+0".parse::<Range>().unwrap().len(), None);
        assert_eq!("10+5".parse::<Range>().unwrap().to_string(), "10+5");
        for bad in [
            "",
            "+",
            "+5",
            "-1",
            "1+-1",
            "1++1",
            "0x10",
            " 1",
            "1+",
            "4611686018427387904",
            "4611686018427387903+2",
            "18446744073709551616",
            "18446744073709551615+18446744073709551615",
        ] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
        assert!("4611686018427387903+1".parse::<Range>().is_ok());
    }

    #[test]
    fn overlap_and_difference_agree_with_bytes() {
        const N: u64 = 7;
        let all = || (0..N).flat_map(|a| (a + 1..=N).map(move |b| (a, b)));
        let bytes =
            |r: Range| (0..N).filter(|b| r.start() <= *b && *b < r.end()).collect::<Vec<_>>();
        for (a, b) in all() {
            for (c, d) in all() {
                let (one, two) = (range(a, b), range(c, d));
                let both = bytes(one).iter().any(|x| bytes(two).contains(x));
                assert_eq!(one.overlaps(two), both);
                let left: Vec<u64> = one.without(two).flat_map(bytes).collect();
                let expected: Vec<u64> =
                    bytes(one).into_iter().filter(|x| !bytes(two).contains(x)).collect();
                assert_eq!(left, expected, "{one} without {two}");
            }
        }
        assert_eq!(
            Range::WHOLE.without(range(3, 5)).collect::<Vec<_>>(),
            [range(0, 3), range(5, u64::MAX)]
        );
    }
}
