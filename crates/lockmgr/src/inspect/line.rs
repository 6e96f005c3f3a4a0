//! The lines with which the kernel describes locks, in `/proc/locks` and in `/proc/PID/fdinfo/FD`.
//!
//! Pure and total: what cannot be understood is passed over, whatever a future kernel prints; a kind
//! of lock that is not known is kept under the kernel's own word for it.
//!
//! References: `proc_locks(5)`, `proc_pid_fdinfo(5)`.

use crate::mode::{Mode, Range};

use super::table::{Inode, Kind};

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Line {
    /// The kernel's number for the lock: that of its blocked lines is the same.
    pub(super) number: u64,
    /// 0 for a lock that is held; else how deep the blocked request stands in the kernel's tree of
    /// requests that wait for one another.
    pub(super) depth: usize,
    pub(super) lock: Told,
}

/// What a line tells of a lock or a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) mode: Mode,
    pub(super) range: Range,
    /// Not there for OFD locks, and for owners outside this pid namespace.
    pub(super) pid: Option<u32>,
    pub(super) inode: Inode,
}

/// Understands those lines of `/proc/locks` that are wanted.
pub(super) fn lines_that(
    text: &[u8],
    is_wanted: impl Fn(&[u8]) -> bool,
) -> impl Iterator<Item = Line> {
    text.split(|byte| *byte == b'\n')
        .filter(move |line| is_wanted(line))
        .filter_map(|line| line_of(std::str::from_utf8(line).ok()?))
}

/// Understands what a `lock:` line of fdinfo says.
pub(super) fn held_line(line: &str) -> Option<Told> {
    line_of(line.strip_prefix("lock:")?.trim_start()).map(|line| line.lock)
}

/// `1: FLOCK  ADVISORY  WRITE 4242 fe:00:123 0 EOF`, or with `->` after the number. The last byte of
/// a range is given, not the one after it.
fn line_of(line: &str) -> Option<Line> {
    let (number, rest) = line.split_once(": ")?;
    let number = number.parse().ok()?;
    let request = rest.trim_start_matches(' ').strip_prefix("->");
    // Old kernels print all blocked requests at one depth.
    let depth =
        if request.is_some() { 1 + rest.len() - rest.trim_start_matches(' ').len() } else { 0 };
    let mut words = request.unwrap_or(rest).split_ascii_whitespace();
    let kind = Kind::of_word(words.next()?);
    let _advisory = words.next()?;
    // A lease that is being broken has no mode left; it is in the way of everybody.
    let mode = if words.next()? == "READ" { Mode::Shared } else { Mode::Exclusive };
    let pid = words.next()?.parse().ok().filter(|pid| *pid != 0);
    let mut place = words.next()?.splitn(3, ':');
    let inode = Inode {
        major: u32::from_str_radix(place.next()?, 16).ok()?,
        minor: u32::from_str_radix(place.next()?, 16).ok()?,
        number: place.next()?.parse().ok()?,
    };
    let start = words.next()?.parse().ok()?;
    let range = match words.next()? {
        "EOF" => Range::as_told(start, None),
        last => Range::as_told(start, Some(last.parse().ok()?)),
    }?;
    Some(Line { number, depth, lock: Told { kind, mode, range, pid, inode } })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &[u8]) -> impl Iterator<Item = Line> {
        lines_that(text, |_| true)
    }

    fn any_line() -> impl Strategy<Value = Line> {
        let kinds = prop_oneof!["FLOCK", "OFDLCK", "POSIX", "LEASE", "[A-Z]{1,8}"];
        let range = (any::<u64>(), proptest::option::of(any::<u64>())).prop_filter_map(
            "bytes that can be counted",
            |(start, len)| match len {
                None => Range::as_told(start, None),
                Some(len) => Range::as_told(start, Some(start.checked_add(len)?)),
            },
        );
        let inode = (any::<u32>(), any::<u32>(), any::<u64>());
        let pid = proptest::option::of(1..=u32::MAX);
        (any::<u64>(), 0..9_usize, kinds, any::<bool>(), range, pid, inode).prop_map(
            |(number, depth, kind, exclusive, range, pid, (major, minor, inode))| Line {
                number,
                depth,
                lock: Told {
                    kind: Kind::of_word(&kind),
                    mode: if exclusive { Mode::Exclusive } else { Mode::Shared },
                    range,
                    pid,
                    inode: Inode { major, minor, number: inode },
                },
            },
        )
    }

    /// As the kernel writes it.
    fn written(line: &Line) -> String {
        let Line { number, depth, lock } = line;
        let arrow = match depth {
            0 => String::new(),
            depth => format!("{:>1$}-> ", "", depth - 1),
        };
        let kind = match &lock.kind {
            Kind::Flock => "FLOCK",
            Kind::Ofd => "OFDLCK",
            Kind::Posix => "POSIX",
            Kind::Lease => "LEASE",
            Kind::Other(word) => word,
        };
        let mode = if lock.mode == Mode::Shared { "READ" } else { "WRITE" };
        let pid = lock.pid.map_or("-1".to_owned(), |pid| pid.to_string());
        let Inode { major, minor, number: inode } = lock.inode;
        let start = lock.range.start();
        let last = match lock.range.len() {
            None => "EOF".to_owned(),
            Some(len) => (start + (len - 1)).to_string(),
        };
        format!(
            "{number}: {arrow}{kind:<6} ADVISORY  {mode:<5} {pid} {major:02x}:{minor:02x}:{inode} {start} {last}"
        )
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_understood(line in any_line()) {
            prop_assert_eq!(line_of(&written(&line)), Some(line));
        }

        #[test]
        fn tables_are_understood_line_by_line(some in proptest::collection::vec(any_line(), 0..20)) {
            let text: String = some.iter().map(|line| written(line) + "\n").collect();
            prop_assert_eq!(lines(text.as_bytes()).collect::<Vec<_>>(), some);
        }

        #[test]
        fn spoilt_lines_are_passed_over_or_understood(
            line in any_line(), at in any::<prop::sample::Index>(), by in any::<u8>(),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = written(&line).into_bytes();
            let (at, cut) = (at.index(bytes.len()), cut.index(bytes.len()));
            bytes[at] = by;
            let _whatever = lines(&bytes).count();
            bytes.truncate(cut);
            let _whatever = lines(&bytes).count();
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _whatever = lines(&bytes).count();
        }

        #[test]
        fn any_text_is_read(text in "(\\PC|[0-9]: |FLOCK |->| |:){0,60}") {
            let _whatever = (line_of(&text), held_line(&text));
        }
    }

    #[test]
    fn held_and_blocked_lines_are_told_apart() {
        let text = b"1: FLOCK  ADVISORY  WRITE 4242 fe:00:123 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4243 fe:00:123 0 EOF\n\
                     1:  -> FLOCK  ADVISORY  READ 4244 fe:00:123 0 EOF\n\
                     2: OFDLCK ADVISORY  READ -1 00:1a:7 0 9\n\
                     3: LEASE  ACTIVE    READ  17 00:1a:7 0 EOF\n\
                     4: WONDER NEW       WRITE 18 00:1a:7 4611686018427387904 4611686018427387904\n";
        let lines: Vec<_> = lines(text).collect();
        let seen: Vec<_> =
            lines.iter().map(|line| (line.depth, line.lock.pid, line.lock.mode)).collect();
        assert_eq!(
            seen,
            [
                (0, Some(4242), Mode::Exclusive),
                (1, Some(4243), Mode::Exclusive),
                (2, Some(4244), Mode::Shared),
                (0, None, Mode::Shared),
                (0, Some(17), Mode::Shared),
                (0, Some(18), Mode::Exclusive),
            ]
        );
        assert_eq!(lines[0].lock.inode, Inode { major: 0xfe, minor: 0, number: 123 });
        assert_eq!(lines[0].lock.range, Range::WHOLE);
        assert_eq!(lines[3].lock.range, Range::new(0, 10).unwrap());
        assert_eq!(lines[5].lock.kind, Kind::Other("WONDER".into()));
        assert_eq!(lines[5].lock.range.start(), 1 << 62);
        assert_eq!(lines[5].lock.range.len(), Some(1));
    }

    #[test]
    fn lines_of_descriptors_are_read() {
        let held = held_line("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:123 0 9").unwrap();
        assert_eq!((held.kind, held.mode), (Kind::Ofd, Mode::Exclusive));
        assert_eq!(held_line("pos:\t0"), None);
    }

    #[test]
    fn odd_lines_are_passed_over() {
        for odd in [
            "",
            ":",
            "1:",
            "1: FLOCK",
            "1: FLOCK ADVISORY WRITE 1",
            "1: FLOCK A W 1 zz:0:1 0 EOF",
            "1: FLOCK A W 1 0:0 0 EOF",
            "1: OFDLCK A WRITE -1 0:0:1 9 3",
            "1: OFDLCK A WRITE -1 0:0:1 0 99999999999999999999",
            "\u{1b}[2J",
            "1: -> ->",
        ] {
            assert_eq!(line_of(odd), None, "{odd:?}");
        }
        assert_eq!(lines(b"\xff\xfe\n1: FLOCK  ADVISORY  WRITE 4242 fe:00:123").count(), 0);
    }
}
