//! The native half of the Python package `lockmgr`: a thin layer over the library.
//!
//! Semantics live in the library. What is decided here is how they meet an interpreter:
//! - A lock that is free is taken without releasing the GIL; a thread that is going to sleep releases
//!   it first (`wait`).
//! - A signal that interrupts a sleep runs its Python handler at once; the sleep goes on with the time
//!   that is left, unless the handler raised.
//! - Under asyncio and the like nothing sleeps but a thread of the library, which never touches Python:
//!   it writes an eventfd (`wait::Wait`).
//! - Every class is frozen, and none has run under a free-threaded interpreter yet, which is therefore told
//!   to keep its GIL. No mutex of this crate is held while Python code may run or the GIL is
//!   released, so that a forked child finds all of them free.
//! - What is of Python and needed again and again is kept for the process: classes, functions, the logger.
//!   So there is no second interpreter in it.

#![expect(clippy::doc_markdown, reason = "what is seen by Python's help() is written for it")]
#![expect(clippy::needless_pass_by_value, reason = "arguments from Python are the function's own")]

mod error;
mod filelock;
mod handle;
mod hold;
mod holds;
mod lock;
mod log;
mod look;
mod options;
mod owner;
mod readwrite;
mod several;
#[expect(unsafe_code, reason = "what PyO3 has no safe wrapper for")]
mod sys;
mod wait;

use pyo3::prelude::*;

/// The native half of `lockmgr`. Import from there.
#[pymodule(gil_used = true)]
mod _lockmgr {
    #[pymodule_export]
    use super::error::Obstacle;
    #[pymodule_export]
    use super::filelock::FileLockBase;
    #[pymodule_export]
    use super::handle::Handle;
    #[pymodule_export]
    use super::hold::Hold;
    #[pymodule_export]
    use super::lock::{Acquired, BaseLock};
    #[pymodule_export]
    use super::look::{holders_at, locks};
    #[pymodule_export]
    use super::owner::current_task;
    #[pymodule_export]
    use super::readwrite::{Levels, ProxyBase, ReadWriteBase, ScopeBase};
    #[pymodule_export]
    use super::several::{SetHandle, SeveralBase, SlotsHandle};
    #[pymodule_export]
    use super::wait::Wait;

    use pyo3::exceptions::PyImportError;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        if !super::sys::is_main_interpreter(module.py()) {
            let text = "lockmgr does not work in a subinterpreter; use it in the main interpreter";
            return Err(PyImportError::new_err(text));
        }
        super::error::prepare(module.py())?;
        super::look::prepare(module.py())?;
        super::owner::prepare(module.py())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
