//! The end of the interpreter, while threads are still asleep.
//!
//! A daemon thread that wakes up when the interpreter is being taken down must not touch it: Python before
//! 3.14 ends such a thread in a way that frames of Rust do not survive. It may well wake up then, since
//! the lock that it waits for is released when the main thread's objects go. So from the `atexit` hooks on,
//! a thread other than the main one that comes out of a sleep stays outside. The process is about to
//! end, and takes it along.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pyo3::prelude::*;

static BEGUN: AtomicBool = AtomicBool::new(false);

/// Called at exit, when all threads that are no daemons have ended.
#[pyfunction]
pub(crate) fn _at_exit() {
    BEGUN.store(true, Ordering::SeqCst);
}

pub(crate) fn has_begun_for_this_thread() -> bool {
    BEGUN.load(Ordering::SeqCst) && !rustix::process::getpid().eq(&rustix::thread::gettid())
}

/// Does not return.
pub(crate) fn stay_out() -> ! {
    loop {
        thread::park();
    }
}
