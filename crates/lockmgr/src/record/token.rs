//! The fencing token in a record, kept so that no write that stops half-way loses it.
//!
//! # Protocol
//! A token is 16 digits, no more and no less, and stands in the record twice: as `token`, right behind
//! the prefix, always at the same place, and once more as `token_again` at the end. A write goes from
//! the file's start to its end and replaces `T0` by `T1 > T0`. Wherever it stops, the file is a
//! beginning of the new line and the rest of the old one, and
//!
//! 1. before and in the first copy: the last copy, if it is there, still says `T0`; the first one says
//!    `T0`, `T1`, or digits of both, which is more than `T0`, as it has as many digits.
//! 2. between the copies: the first one says `T1`; the last one `T0`, or it is not there;
//! 3. in the last copy and behind it: the first one says `T1`, the last one `T0`, `T1`, or digits of
//!    both, which is at least `T0`.
//!
//! So the smaller one of the copies that are there ([`read`]) is at least `T0`. It is at most `T1`, too,
//! unless the old line had lost its last copy to another such accident: then a mixture can be ahead of
//! the clock, but never behind. `T1` was given to nobody as long as the write had not ended; the next
//! token is more than either.
//!
//! After a power failure a disk may hold any mixture of old and new sectors. The first copy lies in the
//! first sector, so the same holds as long as the disk writes a sector wholly or not at all. Some of
//! those mixtures are not recognised as records any more: then there is an error and no token.
//!
//! What is no copy with all its digits and the mark behind them counts as missing: a file that was cut
//! is as good as the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use super::PREFIX;

/// Numbers with fewer digits are no tokens: what is written over in place must keep its length. By the
/// clock these are microseconds since 1970, from 2001 on.
const LEAST: u64 = 1_000_000_000_000_000;

/// What JSON readers that take every number for a double still tell apart: 2^53 - 1.
pub(crate) const GREATEST: u64 = (1 << 53) - 1;

const DIGITS: usize = 16;

/// How far a stored token may be ahead of the clock: a day, in microseconds. A clock that was set to
/// another time zone, and set right again, is no reason to refuse anybody; a forged number is.
const AHEAD: u64 = 24 * 60 * 60 * 1_000_000;

/// How the two copies begin.
pub(super) const FIRST: &str = ",\"token\":";
pub(super) const AGAIN: &str = ",\"token_again\":";

/// The next token after this one, at this time; `Err` with the stored one if that cannot have come
/// about honestly.
pub(super) fn next(last: Option<u64>, now: SystemTime) -> Result<u64, u64> {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock = u64::try_from(since.as_micros()).unwrap_or(GREATEST).clamp(LEAST, GREATEST);
    let Some(last) = last else { return Ok(clock) };
    if last > clock.saturating_add(AHEAD) || last >= GREATEST {
        return Err(last);
    }
    Ok(clock.max(last + 1))
}

/// The token that lasts, in the content of a lock file, finished or not.
pub(super) fn read(content: &[u8]) -> Option<u64> {
    let first = content.strip_prefix(PREFIX).and_then(|rest| number(rest, FIRST.as_bytes()));
    // Inside a JSON string each quote has a backslash before it, and only names stand before a colon:
    // the user's words cannot look like a copy.
    let again = AGAIN.as_bytes();
    let last = content
        .windows(again.len())
        .rposition(|part| part == again)
        .and_then(|at| number(&content[at..], again));
    match (first, last) {
        (Some(first), Some(last)) => Some(first.min(last)),
        (first, last) => first.or(last),
    }
}

fn number(text: &[u8], name: &[u8]) -> Option<u64> {
    let (digits, rest) = text.strip_prefix(name)?.split_at_checked(DIGITS)?;
    let ends = matches!(rest.first(), Some(b',' | b'}'));
    let plain = digits.iter().all(u8::is_ascii_digit) && digits[0] != b'0';
    std::str::from_utf8(digits).ok().filter(|_| ends && plain)?.parse().ok()
}

/// Whether this is a number that a record can carry as a token.
pub(super) fn is_token(number: u64) -> bool {
    (LEAST..=9_999_999_999_999_999).contains(&number)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: u64 = 1_763_800_000_000_000;

    fn at(microseconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(microseconds)
    }

    #[test]
    fn the_next_is_the_clock_or_one_more() {
        assert_eq!(next(None, at(NOW)), Ok(NOW));
        assert_eq!(next(Some(NOW - 5), at(NOW)), Ok(NOW));
        assert_eq!(next(Some(NOW), at(NOW)), Ok(NOW + 1));
        assert_eq!(next(Some(NOW + AHEAD), at(NOW)), Ok(NOW + AHEAD + 1));
        assert_eq!(next(Some(NOW + AHEAD + 1), at(NOW)), Err(NOW + AHEAD + 1));
        assert_eq!(next(None, at(0)), Ok(LEAST));
        assert_eq!(next(Some(LEAST), at(0)), Ok(LEAST + 1));
        assert_eq!(next(Some(GREATEST), at(u64::MAX >> 1)), Err(GREATEST));
        assert_eq!(next(Some(GREATEST - 1), at(GREATEST)), Ok(GREATEST));
    }

    #[test]
    fn only_whole_copies_count() {
        let line = |rest: &str| read(format!("{{\"lockmgr\":1{rest}").as_bytes());
        assert_eq!(line(",\"token\":1763800000000000,"), Some(NOW));
        assert_eq!(line(",\"token\":1763800000000000"), None);
        assert_eq!(line(",\"token\":176380000000000}"), None);
        assert_eq!(line(",\"pid\":7,\"token\":1763800000000000}"), None);
        assert_eq!(line(",\"pid\":7,\"token_again\":1763800000000000}"), Some(NOW));
        assert_eq!(
            line(",\"token\":1763800000000001,\"x\":0,\"token_again\":1763800000000000}\n"),
            Some(NOW)
        );
        assert_eq!(line(",\"note\":\",\\\"token_again\\\":1763800000000000}\""), None);
    }
}
