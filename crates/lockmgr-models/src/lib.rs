//! The protocols of lockmgr as small state machines.
//!
//! The models are the tests of this crate, a file each. Three processes take the steps of the protocol
//! in every order that there is, and any of them may die at any moment; each step is one system call.
//! In no state that can be reached may a promise be broken. Each model is also explored with one of
//! its key steps taken out, and then a broken promise must be found: a model that cannot fail proves
//! nothing.
//!
//! | model | protocol | where it stands |
//! |---|---|---|
//! | `gate` | gate, lock, gate given back | DESIGN: the fairness byte |
//! | `removal` | removal of the lock file on release | `description.rs`, `turn.rs` |
//! | `semaphore` | queue, watch, look, sleep; unlock, ask, touch | `semaphore/mod.rs` |
