//! Reading `/proc/locks`.
//!
//! The kernel gives it in pieces of a page. Each piece is true of one moment, but between two of them
//! lines are lost or told twice when locks come and go; and each piece costs a walk over all that came
//! before it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};

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
        let mut reading = Self::default();
        loop {
            match file.read(&mut piece)? {
                0 => break,
                count => text.extend_from_slice(&piece[..count]),
            }
            pieces += 1;
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            reading.lines.extend(line::lines_that(&text[..whole], &is_wanted));
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

fn contains(line: &[u8], needle: &[u8]) -> bool {
    line.windows(needle.len()).any(|window| window == needle)
}
