//! Numbers as the C library reads them, in the user's locale.

use std::ffi::{CString, OsStr};
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

/// Whether a `long double`, which the original reads, has room for a number that a `double` has not.
fn a_longer_float_could(text: &[u8]) -> bool {
    const LARGEST_EXPONENT: u32 = 4930;
    let exponent = text.iter().rposition(|byte| matches!(byte, b'e' | b'E'));
    let exponent =
        exponent.and_then(|at| str::from_utf8(&text[at + 1..]).ok()?.parse::<i32>().ok());
    exponent.is_some_and(|exponent| exponent.unsigned_abs() <= LARGEST_EXPONENT)
}
