//! The lines of `/proc/locks`.
//!
//! Total: a line that cannot be understood is passed over, whatever a future kernel prints.

use std::fs::File;
use std::io::{self, Read};

use crate::mode::Mechanism;
use crate::sys::file::Identity;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// A `->` line: blocked, not held.
    pub(super) waiting: bool,
    lease: bool,
    mechanism: Option<Mechanism>,
    /// Nobody else holds it.
    pub(super) exclusive: bool,
    /// Not there for OFD locks, and for owners outside this pid namespace.
    pub(super) pid: Option<u32>,
    major: u64,
    minor: u64,
    inode: u64,
}

impl Line {
    /// Whether this lock can be in the way of one of that mechanism on that file.
    pub(super) fn concerns(&self, identity: Identity, mechanism: Mechanism) -> bool {
        let same_space = self
            .mechanism
            .is_some_and(|own| (own == Mechanism::Flock) == (mechanism == Mechanism::Flock));
        same_space && self.is_on(identity)
    }

    pub(super) fn is_lease_on(&self, identity: Identity) -> bool {
        self.lease && self.is_on(identity)
    }

    /// Whether it is a lock on that file, and of what kind does not matter.
    pub(super) fn is_lock_on(&self, identity: Identity) -> bool {
        self.mechanism.is_some() && self.is_on(identity)
    }

    fn is_on(&self, identity: Identity) -> bool {
        self.inode == identity.inode
            && self.major == u64::from(rustix::fs::major(identity.device))
            && self.minor == u64::from(rustix::fs::minor(identity.device))
    }
}

/// The table, and whether it is true of one moment.
pub(super) struct Snapshot {
    pub(super) text: Vec<u8>,
    pub(super) consistent: bool,
}

/// Reads the table, in pieces as large as the kernel gives them (a page). Each piece is true of one
/// moment, but between two of them lines are lost or told twice when locks come and go.
pub(super) fn read() -> io::Result<Snapshot> {
    let mut file = File::open("/proc/locks")?;
    let (mut text, mut piece, mut pieces) = (Vec::new(), vec![0; 1 << 14], 0);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Snapshot { text, consistent: pieces < 2 }),
            count => text.extend_from_slice(&piece[..count]),
        }
        pieces += 1;
    }
}

/// Understands the table.
pub(super) fn parse(text: &[u8]) -> impl Iterator<Item = Line> {
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .filter_map(parse_line)
}

/// `1: FLOCK  ADVISORY  WRITE 4242 fe:00:123 0 EOF`, or with `->` after the number.
fn parse_line(line: &str) -> Option<Line> {
    let (_number, rest) = line.split_once(": ")?;
    let mut words = rest.split_ascii_whitespace().peekable();
    let waiting = words.next_if_eq(&"->").is_some();
    let kind = words.next()?;
    let mechanism = match kind {
        "FLOCK" => Some(Mechanism::Flock),
        "OFDLCK" => Some(Mechanism::Ofd),
        "POSIX" => Some(Mechanism::Posix),
        _ => None,
    };
    let _advisory = words.next()?;
    let mode = words.next()?;
    let pid = words.next()?.parse().ok().filter(|pid| *pid != 0);
    let mut place = words.next()?.splitn(3, ':');
    Some(Line {
        waiting,
        lease: kind == "LEASE",
        mechanism,
        exclusive: mode == "WRITE",
        pid,
        major: u64::from_str_radix(place.next()?, 16).ok()?,
        minor: u64::from_str_radix(place.next()?, 16).ok()?,
        inode: place.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_and_blocked_lines_are_told_apart() {
        let text = b"1: FLOCK  ADVISORY  WRITE 4242 fe:00:123 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4243 fe:00:123 0 EOF\n\
                     2: OFDLCK ADVISORY  READ -1 00:1a:7 0 9\n\
                     3: LEASE  ACTIVE    READ  17 00:1a:7 0 EOF\n";
        let lines: Vec<_> = parse(text).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!((lines[0].waiting, lines[0].pid), (false, Some(4242)));
        assert_eq!((lines[1].waiting, lines[1].pid), (true, Some(4243)));
        assert_eq!((lines[0].exclusive, lines[2].exclusive), (true, false));
        assert_eq!((lines[2].mechanism, lines[2].pid), (Some(Mechanism::Ofd), None));
        assert_eq!((lines[3].mechanism, lines[3].lease), (None, true));
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
            "\u{1b}[2J",
            "1: -> ->",
        ] {
            assert_eq!(parse_line(odd), None, "{odd:?}");
        }
        assert_eq!(parse(b"\xff\xfe\n1: FLOCK  ADVISORY  WRITE 4242 fe:00:123").count(), 1);
    }
}
