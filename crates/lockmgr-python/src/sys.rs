//! What there is no safe wrapper for.

use pyo3::ffi;
use pyo3::prelude::*;

/// Returns whether this is the interpreter that the process began with.
pub(crate) fn is_main_interpreter(_: Python<'_>) -> bool {
    // SAFETY: It may be called by every thread that is attached to an interpreter, which the token
    // proves, and returns that interpreter.
    let this = unsafe { ffi::PyInterpreterState_Get() };
    // SAFETY: This thread is attached to it, so it is alive. The first one has the number 0.
    unsafe { ffi::PyInterpreterState_GetID(this) == 0 }
}
