//! Numbers on the command line, with everything that the C library's readers take: leading blanks, a
//! sign, hexadecimal fractions, sizes with a unit.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::sys::number;

/// What is wrong with a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    Invalid,
    OutOfRange,
}

/// How long to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Timeout {
    /// Less than a microsecond.
    Zero,
    After(Duration),
    /// A number, and no time: negative, infinite, none.
    Impossible,
}

/// The first number whose whole seconds do not fit into a `time_t`.
const TOO_MANY_SECONDS: f64 = 9_223_372_036_854_775_808.0;

/// Seconds, cut to microseconds.
pub(super) fn timeout(text: &OsStr, strict: bool) -> Result<Timeout, Wrong> {
    let seconds = number::float(text, strict).ok_or(Wrong::Invalid)?;
    if seconds.is_nan() || seconds.abs() >= TOO_MANY_SECONDS {
        return Ok(Timeout::Impossible);
    }
    #[expect(clippy::cast_possible_truncation, reason = "cutting is what is wanted")]
    let (whole, micros) = (seconds.trunc() as i64, (seconds.fract() * 1e6) as i32);
    Ok(match (u64::try_from(whole), u32::try_from(micros)) {
        (Ok(0), Ok(0)) => Timeout::Zero,
        // In a `long double` its product with a million does not reach a whole one.
        (Ok(0), Err(_)) if seconds >= -1e-6 => Timeout::Zero,
        // Never a full second: the product of a fraction may be rounded up to one.
        (Ok(whole), Ok(micros)) => Timeout::After(Duration::new(whole, micros.min(999_999) * 1000)),
        _ => Timeout::Impossible,
    })
}

/// A decimal number in the range.
pub(super) fn integer(text: &OsStr, low: i32, high: i32) -> Result<i32, Wrong> {
    let (negative, digits) = match without_blanks(text.as_bytes()) {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let size = digits[..end]
        .iter()
        .fold(0_i64, |size, digit| size.saturating_mul(10).saturating_add(i64::from(digit - b'0')));
    // What does not fit is noticed before what follows it.
    if (end == 0 || end < digits.len()) && size < i64::MAX {
        return Err(Wrong::Invalid);
    }
    match i32::try_from(if negative { -size } else { size }) {
        Ok(number) if (low..=high).contains(&number) => Ok(number),
        _ => Err(Wrong::OutOfRange),
    }
}

/// A number of bytes: decimal, octal (`0…`) or hexadecimal (`0x…`); with a unit (`K`, `KiB`: 1024;
/// `KB`: 1000; up to `Y`), before which a decimal fraction may stand.
/// Its decimal point is the locale's; `.` will do in every locale, unless it is to be strict.
pub(super) fn size(text: &OsStr, strict: bool) -> Result<u64, Wrong> {
    let text = text.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || !strict && *byte == b'.';
    if text.iter().all(is_plain) {
        return size_with(b".", text);
    }
    match size_with(&number::decimal_point(), text) {
        Err(Wrong::Invalid) if !strict => size_with(b".", text),
        result => result,
    }
}

fn size_with(point: &[u8], text: &[u8]) -> Result<u64, Wrong> {
    let text = without_blanks(text);
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let (mut size, mut rest) = whole_number(text)?;
    let mut fraction: &[u8] = &[];
    if let Some(digits) = rest.strip_prefix(point) {
        let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        (fraction, rest) = digits.split_at(end);
        if rest.is_empty() {
            return Err(Wrong::Invalid);
        }
    }
    let (letter, base) = match rest {
        [] => return Ok(size),
        [letter] | [letter, b'i', b'B' | b'b'] => (letter, 1024_u64),
        [letter, b'B' | b'b'] => (letter, 1000),
        _ => return Err(Wrong::Invalid),
    };
    let unit = b"KMGTPEZY".iter().position(|unit| *unit == letter.to_ascii_uppercase());
    let power = u32::try_from(unit.ok_or(Wrong::Invalid)? + 1).map_err(|_| Wrong::Invalid)?;
    if size == 0 && fraction.iter().all(|digit| *digit == b'0') {
        return Ok(0);
    }
    let unit = base.checked_pow(power).ok_or(Wrong::OutOfRange)?;
    size = size.checked_mul(unit).ok_or(Wrong::OutOfRange)?;
    size.checked_add(part_of(unit, fraction)?).ok_or(Wrong::OutOfRange)
}

/// The fraction of the unit, as the original counts it: digit by digit in whole parts of the unit, so
/// that 0.3K is 1024/3 bytes; and 0.10K is 1024, a fault that two programs on one file had better share.
fn part_of(unit: u64, digits: &[u8]) -> Result<u64, Wrong> {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    if zeros == digits.len() {
        return Ok(0);
    }
    let (mut fraction, _) = whole_number(&digits[zeros..])?;
    let mut whole = 10_u64;
    let mut next_place = |fraction: &mut u64| match whole.checked_mul(10) {
        Some(more) => whole = more,
        // As precise as it gets.
        None => *fraction /= 10,
    };
    for _ in 1..fraction.saturating_sub(1).checked_ilog10().map_or(1, |power| power + 1) {
        next_place(&mut fraction);
    }
    for _ in 0..zeros {
        next_place(&mut fraction);
    }
    let (mut sum, mut place) = (0_u64, whole);
    while fraction > 0 {
        let digit = fraction % 10;
        if let Some(part) = place.checked_div(digit).and_then(|parts| unit.checked_div(parts)) {
            sum = sum.checked_add(part).ok_or(Wrong::OutOfRange)?;
        }
        fraction /= 10;
        place /= 10;
    }
    Ok(sum)
}

/// The number in front, and what follows it.
fn whole_number(text: &[u8]) -> Result<(u64, &[u8]), Wrong> {
    let (base, digits) = match text {
        [b'0', b'x' | b'X', digits @ ..] if digits.first().is_some_and(u8::is_ascii_hexdigit) => {
            (16, digits)
        }
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let value = |byte: &u8| char::from(*byte).to_digit(base);
    let end = digits.iter().position(|byte| value(byte).is_none()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if digits.is_empty() {
        return Err(Wrong::Invalid);
    }
    let number = digits.iter().filter_map(value).try_fold(0_u64, |number, digit| {
        number.checked_mul(base.into())?.checked_add(digit.into())
    });
    Ok((number.ok_or(Wrong::OutOfRange)?, rest))
}

fn without_blanks(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        let micros = |count| Ok(Timeout::After(Duration::from_micros(count)));
        for (text, expected) in [
            ("1", micros(1_000_000)),
            (".05", micros(50_000)),
            ("2.", micros(2_000_000)),
            ("1e-3", micros(1000)),
            ("0x1", micros(1_000_000)),
            ("0x.8p1", micros(1_000_000)),
            (" \t1", micros(1_000_000)),
            ("+1", micros(1_000_000)),
            ("1e-6", micros(1)),
            ("0", Ok(Timeout::Zero)),
            ("0.0", Ok(Timeout::Zero)),
            ("1e-9", Ok(Timeout::Zero)),
            ("-1e-9", Ok(Timeout::Zero)),
            ("1e-400", Ok(Timeout::Zero)),
            ("-1e-6", Ok(Timeout::Zero)),
            ("-0.0000011", Ok(Timeout::Impossible)),
            ("-1", Ok(Timeout::Impossible)),
            ("-0.5", Ok(Timeout::Impossible)),
            ("inf", Ok(Timeout::Impossible)),
            ("nan", Ok(Timeout::Impossible)),
            ("1e20", Ok(Timeout::Impossible)),
            ("1e400", Ok(Timeout::Impossible)),
            ("1e4931", Ok(Timeout::Impossible)),
            ("1e5000", Err(Wrong::Invalid)),
            ("1e-5000", Err(Wrong::Invalid)),
            ("", Err(Wrong::Invalid)),
            ("x", Err(Wrong::Invalid)),
            ("1 ", Err(Wrong::Invalid)),
            ("5x", Err(Wrong::Invalid)),
            ("1,5", Err(Wrong::Invalid)),
        ] {
            assert_eq!(timeout(OsStr::new(text), true), expected, "{text:?}");
        }
    }

    #[test]
    fn integers() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("255", Ok(255)),
            (" +09", Ok(9)),
            ("\n7", Ok(7)),
            ("256", Err(Wrong::OutOfRange)),
            ("-1", Err(Wrong::OutOfRange)),
            ("99999999999999999999", Err(Wrong::OutOfRange)),
            ("", Err(Wrong::Invalid)),
            (" ", Err(Wrong::Invalid)),
            ("-", Err(Wrong::Invalid)),
            ("0x7", Err(Wrong::Invalid)),
            ("7 ", Err(Wrong::Invalid)),
            ("256x", Err(Wrong::Invalid)),
            ("99999999999999999999x", Err(Wrong::OutOfRange)),
            ("x", Err(Wrong::Invalid)),
        ] {
            assert_eq!(integer(OsStr::new(text), 0, 255), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("10", Ok(10)),
            (" +10", Ok(10)),
            ("010", Ok(8)),
            ("0x10", Ok(16)),
            ("0x10K", Ok(16384)),
            ("1K", Ok(1024)),
            ("1k", Ok(1024)),
            ("1KiB", Ok(1024)),
            ("1KB", Ok(1000)),
            ("2MiB", Ok(2 << 20)),
            ("3MB", Ok(3_000_000)),
            ("1.5K", Ok(1536)),
            ("0.05KB", Ok(50)),
            ("0.3K", Ok(341)),
            ("1.25MiB", Ok((1 << 20) + (1 << 18) - 1)),
            ("1.10K", Ok(2048)),
            ("1.100M", Ok(2 << 20)),
            ("1.010K", Ok(1126)),
            ("0.123456K", Ok(125)),
            ("1.KiB", Ok(1024)),
            ("1.9999999999999999999999K", Err(Wrong::OutOfRange)),
            ("8E", Ok(8 << 60)),
            ("0Y", Ok(0)),
            ("16E", Err(Wrong::OutOfRange)),
            ("1Z", Err(Wrong::OutOfRange)),
            ("18446744073709551616", Err(Wrong::OutOfRange)),
            ("-1", Err(Wrong::Invalid)),
            ("", Err(Wrong::Invalid)),
            ("K", Err(Wrong::Invalid)),
            ("1.5", Err(Wrong::Invalid)),
            ("1.0", Err(Wrong::Invalid)),
            ("1B", Err(Wrong::Invalid)),
            ("1X", Err(Wrong::Invalid)),
            ("1KiBx", Err(Wrong::Invalid)),
            ("0x", Err(Wrong::Invalid)),
            ("x", Err(Wrong::Invalid)),
        ] {
            assert_eq!(size(OsStr::new(text), true), expected, "{text:?}");
        }
    }
}
