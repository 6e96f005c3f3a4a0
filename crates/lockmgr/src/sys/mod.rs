//! One file per kernel interface; the library's only unsafe code.
//!
//! Nothing here knows what a lock is for. Each function makes the system call that its name says,
//! retries what must be retried and hands back the kernel's own error number.

pub(crate) mod alarm;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod lock;
pub(crate) mod process;
pub(crate) mod signal;
pub(crate) mod watch;
