//! Numbers as the C library reads them, in the user's locale.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// Reads a whole word as a number: decimal or hexadecimal, with exponent, `inf` and `nan` included.
/// Its decimal point is the locale's; `.` will do in every locale, unless it is to be strict.
///
/// # References
/// `strtod(3)`, `locale(7)`
pub(crate) fn float(text: &OsStr, strict: bool) -> Option<f64> {
    if strict || !text.as_bytes().iter().all(|&byte| byte.is_ascii_digit() || byte == b'.') {
        // SAFETY: an empty name asks for the locale of the environment. No other thread runs yet.
        unsafe { libc::setlocale(libc::LC_NUMERIC, c"".as_ptr()) };
        let number = parse(text);
        if strict || number.is_some() {
            return number;
        }
        // SAFETY: as above.
        unsafe { libc::setlocale(libc::LC_NUMERIC, c"C".as_ptr()) };
    }
    parse(text)
}

/// The decimal point of the user's locale: one byte or more.
///
/// # References
/// `localeconv(3)`
pub(crate) fn decimal_point() -> Vec<u8> {
    // SAFETY: an empty name asks for the locale of the environment. No other thread runs yet.
    unsafe { libc::setlocale(libc::LC_NUMERIC, c"".as_ptr()) };
    // SAFETY: it takes nothing and returns a pointer. No other thread runs yet.
    let conventions = unsafe { libc::localeconv() };
    // SAFETY: it points to a structure of the C library, which the next such call may change.
    let point = unsafe { (*conventions).decimal_point };
    // SAFETY: it is a NUL-terminated string; see above.
    unsafe { CStr::from_ptr(point) }.to_bytes().to_vec()
}

fn parse(text: &OsStr) -> Option<f64> {
    let text = CString::new(text.as_bytes()).ok()?;
    let mut end = ptr::null_mut();
    // SAFETY: it takes nothing and returns a pointer.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it points to this thread's own variable, which is always there.
    unsafe { *errno = 0 };
    // SAFETY: the text ends in a NUL, and `end` is written with a pointer into it.
    let number = unsafe { libc::strtod(text.as_ptr(), &raw mut end) };
    // SAFETY: as above.
    let errno = unsafe { *errno };
    let length = end.addr() - text.as_ptr().addr();
    if length == 0 || length != text.as_bytes().len() {
        return None;
    }
    if errno == libc::ERANGE && !a_longer_float_could(text.as_bytes()) {
        return None;
    }
    Some(number)
}

/// Whether a `long double`, which the original reads, has room for a decimal number that a `double` has not.
fn a_longer_float_could(text: &[u8]) -> bool {
    const LARGEST_EXPONENT: i64 = 4931;
    if text.iter().any(|byte| matches!(byte, b'x' | b'X')) {
        return false;
    }
    let at = text.iter().position(|byte| matches!(byte, b'e' | b'E')).unwrap_or(text.len());
    let (digits, exponent) = text.split_at(at);
    let exponent = match str::from_utf8(exponent.get(1..).unwrap_or_default()) {
        Ok("") => 0,
        Ok(number) => number.parse::<i64>().unwrap_or(i64::from(i32::MAX)),
        Err(_) => return false,
    };
    let start = digits.iter().position(|byte| !b" \t\n\x0b\x0c\r+-".contains(byte));
    let digits = &digits[start.unwrap_or(0)..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let (whole, fraction) = digits.split_at(end);
    let zeros = |digits: &[u8]| digits.iter().take_while(|digit| **digit == b'0').count();
    let leading = match whole.len() - zeros(whole) {
        0 => {
            -1 - i64::try_from(zeros(fraction.get(1..).unwrap_or_default())).unwrap_or(i64::MAX / 2)
        }
        size => i64::try_from(size - 1).unwrap_or(i64::MAX / 2),
    };
    leading.saturating_add(exponent).abs() <= LARGEST_EXPONENT
}
