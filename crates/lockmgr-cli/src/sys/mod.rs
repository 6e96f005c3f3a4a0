//! What the command asks of the kernel that neither `std` nor `rustix` can do safely, or as it must be
//! done here: the only unsafe code of this crate.
//!
//! `entry` is not listed: it is the binary's.

#![expect(unsafe_code, reason = "this is where it lives")]

pub(crate) mod actor;
pub(crate) mod environment;
pub(crate) mod fd;
pub(crate) mod group;
pub(crate) mod lock;
pub(crate) mod number;
pub(crate) mod program;
pub(crate) mod sigalrm;
pub(crate) mod signals;
pub(crate) mod spawn;
pub(crate) mod terminal;
pub(crate) mod text;
