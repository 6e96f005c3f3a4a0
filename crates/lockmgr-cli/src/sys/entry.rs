//! The C `main`: hands the words of the command line on, and returns the exit status.

use std::ffi::{CStr, OsString, c_char, c_int};
use std::os::unix::ffi::OsStringExt;

// The unwinder, linked into the command (see `build.rs` for why). It must come as a whole: when the
// linker meets it, nothing has asked for it yet.
#[cfg(static_unwinder)]
#[link(name = "gcc_eh", kind = "static", modifiers = "+whole-archive,-bundle")]
#[expect(unsafe_code, reason = "it names a library and declares nothing")]
unsafe extern "C" {}

/// Starts the command.
///
/// # Safety
/// To be called by the C runtime alone: `words` points to `count` strings that live as long as the
/// process.
#[expect(unsafe_code, reason = "the C entry point, and reading what it is given")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let words: Vec<OsString> = (0..usize::try_from(count).unwrap_or(0))
        .map(|index| {
            // SAFETY: `index` is below `count`, and there are that many elements.
            let element = unsafe { words.add(index) };
            // SAFETY: see above; the strings are readable.
            let word = unsafe { *element };
            // SAFETY: each element is a NUL-terminated string.
            let word = unsafe { CStr::from_ptr(word) };
            OsString::from_vec(word.to_bytes().to_vec())
        })
        .collect();
    lockmgr_cli::start(&words)
}
