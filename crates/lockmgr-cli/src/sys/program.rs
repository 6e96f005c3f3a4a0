//! What the kernel was asked to execute.

use std::ffi::{CStr, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

/// The path by which this program was executed, as it was given: a link's own. `None` where the kernel does
/// not say.
///
/// # References
/// `getauxval(3)` (`AT_EXECFN`), `execve(2)`
pub(crate) fn executed() -> Option<OsString> {
    // SAFETY: it takes a number and touches no memory.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) };
    let address = usize::try_from(address).ok().filter(|address| *address != 0)?;
    let text = ptr::with_exposed_provenance::<c_char>(address);
    // SAFETY: the kernel has put a NUL-terminated string there, which stays for the life of the process.
    let text = unsafe { CStr::from_ptr(text) };
    Some(OsStr::from_bytes(text.to_bytes()).to_owned())
}
