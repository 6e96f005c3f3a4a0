//! The C library's words for what went wrong.

use std::ffi::{CStr, c_char};
use std::io;

/// The reason alone, without a number: `Permission denied`.
///
/// # References
/// `strerror(3)`
pub(crate) fn reason(error: &io::Error) -> String {
    let Some(number) = error.raw_os_error() else {
        return error.to_string();
    };
    let mut buffer = [0 as c_char; 256];
    // SAFETY: the buffer is as long as said, and the call ends it with a NUL.
    let known = unsafe { libc::strerror_r(number, buffer.as_mut_ptr(), buffer.len()) };
    if known != 0 {
        return error.to_string();
    }
    // SAFETY: see above; it lives until the copy is made.
    unsafe { CStr::from_ptr(buffer.as_ptr()) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        assert_eq!(reason(&io::Error::from_raw_os_error(libc::EACCES)), "Permission denied");
        assert_eq!(reason(&io::Error::other("no such luck")), "no such luck");
    }
}
