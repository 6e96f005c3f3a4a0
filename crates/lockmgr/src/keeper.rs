//! Who keeps the locks of a file, and what a wait for one of them is then.
//!
//! A thread that sleeps in this kernel's own lock call is woken by a signal. One whose call was passed on
//! to the server of a FUSE filesystem sleeps until that server answers: if the server takes no notice of
//! an interruption (many have no code for it) or has stopped answering, not even SIGKILL ends the
//! sleep, and no deadline could be kept. So nobody sleeps there. A lock that a FUSE server keeps is asked
//! for again and again, without waiting; between the attempts the thread sleeps in a call of this
//! kernel, which every signal ends. What that costs is the order among the waiters.
//!
//! Most FUSE filesystems leave locks to this kernel, and the wait is the kernel's then. It can be told by
//! its table, which has a line for the lock that is in the way. Where there is none (or it is hidden, in a
//! pid namespace, or the lock has just been released) asking does no harm.
//!
//! References: `fuse(4)`, `proc_locks(5)`.

use std::time::{Duration, Instant};

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::thread::nanosleep;

use crate::inspect;
use crate::mode::Mechanism;
use crate::sys::file::{self, Identity, KeptFile};
use crate::wait::{self, Limits, Stop};

/// The pauses between attempts grow from the first one to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waits for a lock that was busy just now: asleep in the kernel's call (`sleep`), or by asking (`ask`)
/// where a sleep could not be ended.
pub(crate) fn wait(
    file: &KeptFile,
    identity: Identity,
    mechanism: Mechanism,
    limits: Limits<'_>,
    sleep: impl FnMut() -> Result<(), Errno>,
    ask: impl FnMut() -> Result<(), Errno>,
) -> Result<(), Stop> {
    if file::is_on_fuse(file) && !inspect::is_in_the_way(file, identity, mechanism) {
        ask_again_and_again(limits, ask)
    } else {
        wait::interruptible(limits, sleep)
    }
}

fn ask_again_and_again(
    limits: Limits<'_>,
    mut ask: impl FnMut() -> Result<(), Errno>,
) -> Result<(), Stop> {
    let mut pauses = Pauses::default();
    wait::interruptible(limits, || match ask() {
        Err(Errno::AGAIN | Errno::ACCESS) => Err(pauses.sleep(limits)),
        result => result,
    })
}

/// The pauses between attempts, where no event would end a sleep.
pub(crate) struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Pauses {
    /// Sleeps for one of them, in a call of this kernel, and says so as an interrupted call would. However
    /// it ends: the limits are to be looked at, and then it is asked again.
    pub(crate) fn sleep(&mut self, limits: Limits<'_>) -> Errno {
        let left = limits.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let time = left.map_or(self.next, |left| left.min(self.next));
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        let _slept = nanosleep(&Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() });
        Errno::INTR
    }
}
