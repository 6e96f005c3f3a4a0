//! What one descriptor of this process holds, as the kernel tells it in `/proc/self/fdinfo`.
//!
//! References: `proc_pid_fdinfo(5)`.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use crate::mode::{Mechanism, Mode, Range};

/// A lock on an open file description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeldHere {
    pub(crate) mechanism: Mechanism,
    pub(crate) mode: Mode,
    pub(crate) range: Range,
}

/// The locks that the descriptor's open file description holds (and, for `posix`, this process).
pub(crate) fn held_through(fd: impl AsFd) -> std::io::Result<Vec<HeldHere>> {
    let text = fs::read(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd()))?;
    Ok(held_in(&text))
}

/// The locks of one file of `fdinfo`.
pub(crate) fn held_in(info: &[u8]) -> Vec<HeldHere> {
    String::from_utf8_lossy(info).lines().filter_map(parse_line).collect()
}

/// `lock: 1: OFDLCK ADVISORY  WRITE -1 fe:00:123 0 9`; the end is the last byte, or `EOF`.
fn parse_line(line: &str) -> Option<HeldHere> {
    let (_number, rest) = line.strip_prefix("lock:")?.trim_start().split_once(": ")?;
    let words: Vec<&str> = rest.split_ascii_whitespace().collect();
    let [mechanism, _advisory, mode, _pid, _place, start, end] = words[..] else {
        return None;
    };
    Some(HeldHere {
        mechanism: match mechanism {
            "FLOCK" => Mechanism::Flock,
            "OFDLCK" => Mechanism::Ofd,
            "POSIX" => Mechanism::Posix,
            _ => return None,
        },
        mode: match mode {
            "READ" => Mode::Shared,
            "WRITE" => Mode::Exclusive,
            _ => return None,
        },
        range: {
            let start: u64 = start.parse().ok()?;
            let len = match end {
                "EOF" => 0,
                end => end.parse::<u64>().ok()?.checked_sub(start)?.checked_add(1)?,
            };
            Range::new(start, len).ok()?
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_lines_are_read() {
        let held = parse_line("lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:123 0 9").unwrap();
        assert_eq!((held.mechanism, held.mode), (Mechanism::Ofd, Mode::Exclusive));
        assert_eq!(held.range, Range::new(0, 10).unwrap());
        let held = parse_line("lock:\t1: FLOCK  ADVISORY  READ 7 fe:00:123 0 EOF").unwrap();
        assert_eq!((held.mode, held.range), (Mode::Shared, Range::WHOLE));
        for odd in [
            "pos:\t0",
            "lock:",
            "lock:\t1: FLOCK",
            "lock:\t1: NEW X READ 1 0:0:1 0 EOF",
            "lock:\t1: OFDLCK A WRITE -1 0:0:1 9 3",
        ] {
            assert_eq!(parse_line(odd), None, "{odd}");
        }
    }
}
