//! The command `lockmgr`. Everything it does is in the library half of this crate; what is here is the
//! way in.
//!
//! `main` is the C one (in `sys/entry.rs`) and not Rust's, for two reasons. Rust's runtime sets
//! SIGPIPE to "ignore" before its `main`, and the command that lockmgr runs is to find the signals as
//! lockmgr found them. And that runtime's preparations (a signal stack, a look at the stack's limits
//! and at descriptors 0 to 2) cost 7 % of the wall time of `lockmgr run LOCK true`. The look at those
//! descriptors is made all the same, by `sys::fd::occupy_closed_streams`.

#![no_main]

#[path = "sys/entry.rs"]
mod entry;
