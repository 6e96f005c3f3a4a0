//! Code of the program that the library runs where it must do no harm: the wakers of its tasks. They
//! are called by threads that serve others too, and in the middle of a release.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs it, and goes on if it panics. The panic hook has told of the panic by then.
pub(crate) fn contain(foreign: impl FnOnce()) {
    // Nothing of ours is changed in there.
    drop(catch_unwind(AssertUnwindSafe(foreign)));
}
