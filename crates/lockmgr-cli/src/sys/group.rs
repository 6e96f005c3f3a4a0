//! Which process group and session processes belong to.
//!
//! The kernel says 0 for a group or a session whose leader this pid namespace does not show: lockmgr
//! started in a container from outside, `unshare --pid`. The numbers are compared, and stand for no
//! process, so 0 is as good as any other; it is not to rustix, whose `Pid` is never 0.

use rustix::process::{Pid, getpid};

/// Whether the process is in our process group. Not if it is gone.
///
/// # References
/// `getpgid(2)`
pub(crate) fn is_ours(of: Pid) -> bool {
    // SAFETY: it takes a number and touches no memory.
    let theirs = unsafe { libc::getpgid(of.as_raw_nonzero().get()) };
    // SAFETY: it takes nothing and cannot fail.
    theirs == unsafe { libc::getpgrp() }
}

/// Whether this is the number of our process group.
///
/// # References
/// `getpgrp(2)`
#[cfg(feature = "top")]
pub(crate) fn is_our_group(number: Pid) -> bool {
    // SAFETY: it takes nothing and cannot fail.
    number.as_raw_nonzero().get() == unsafe { libc::getpgrp() }
}

/// The number of our process group; `None` where this pid namespace does not show it.
///
/// # References
/// `getpgrp(2)`
pub(crate) fn ours() -> Option<Pid> {
    // SAFETY: it takes nothing and cannot fail.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// Whether we lead our session.
///
/// # References
/// `getsid(2)`
pub(crate) fn we_lead_the_session() -> bool {
    // SAFETY: it takes a number and touches no memory; 0 stands for the caller.
    unsafe { libc::getsid(0) == getpid().as_raw_nonzero().get() }
}
