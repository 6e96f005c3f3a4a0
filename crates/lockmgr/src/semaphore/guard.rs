//! The guard: slots as this process has them, and everything that can be done with them.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use crate::description::Description;
use crate::error::{Error, Result};
use crate::events;
use crate::semaphore::handle::{Handle, Slots};
use crate::sys::fork;

const RELEASE: &str = "release";
const UNTAKEN: &str = "taken only by what consumes the guard";

/// Slots of a [`Semaphore`](crate::Semaphore), released when dropped. It may be sent to other threads
/// and stored.
///
/// In a child made by `fork` the guard is dead: it holds nothing there, and dropping it there does
/// not touch the parent's slots.
///
/// # Crash safety
/// The kernel releases the slots when the process ends, however it ends.
#[must_use = "the slots are released as soon as the guard is dropped"]
pub struct SemaphoreGuard {
    handle: Arc<Handle>,
    /// Taken when the slots are released.
    description: Option<Description>,
    generation: u32,
    slots: Vec<u32>,
    /// Others may have a copy of the descriptor.
    exposed: AtomicBool,
    waited: Duration,
    since: events::Moment,
}

impl SemaphoreGuard {
    pub(super) fn new(
        handle: Arc<Handle>,
        description: Description,
        generation: u32,
        slots: Vec<u32>,
        waited: Duration,
    ) -> Self {
        events::acquired_slots(handle.place.path(), &slots, waited);
        let since = events::now();
        let (description, exposed) = (Some(description), AtomicBool::new(false));
        Self { handle, description, generation, slots, exposed, waited, since }
    }

    /// The numbers of the slots, ascending; the first of all is 0. While the guard lives, no other
    /// holder has any of them.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The lock file, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.handle.place.path()
    }

    /// How long the acquisition waited; zero when the slots were free.
    #[must_use]
    pub fn wait_time(&self) -> Duration {
        self.waited
    }

    /// The open lock file, on whose open file description the slots are locked.
    ///
    /// Do not unlock through it. A copy of it in another process keeps the slots until this guard
    /// releases them, even when this process dies.
    #[must_use]
    pub fn file(&self) -> &File {
        // In a child that no at-fork handler announced, this is what makes the copy harmless.
        fork::generation();
        self.exposed.store(true, Ordering::Relaxed);
        self.description().file().file()
    }

    /// Returns whether this guard stands for slots: false in a forked child.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.generation == fork::generation()
    }

    /// Returns whether the path still names the lock file. If not, somebody has deleted or replaced
    /// it during the hold, and others may hold the same slots of the new one.
    ///
    /// # Errors
    /// [`Error::Forked`], or what looking the path up met.
    pub fn still_current(&self) -> Result<bool> {
        self.look("check the lock file")
    }

    /// Releases the slots and tells what dropping would keep to itself.
    ///
    /// # Errors
    /// The slots are released in every case. [`Error::Replaced`]: the lock file was deleted or
    /// replaced during the hold. [`Error::Forked`]: they were never this process's.
    #[doc(alias = "unlock")]
    pub fn release(mut self) -> Result<()> {
        let path = self.handle.path();
        let operation = RELEASE;
        let current = self.look(operation);
        if matches!(current, Err(Error::Forked { .. })) {
            return current.map(drop);
        }
        self.let_go().map_err(|errno| Error::io(path.clone(), operation, errno))?;
        if current? { Ok(()) } else { Err(Error::Replaced { path, operation, while_held: true }) }
    }

    /// Hands the slots over: returns a descriptor that holds them, and releases nothing.
    ///
    /// The slots are taken as long as this descriptor, and its copies in other processes, are open. It
    /// is close-on-exec; clear that in the child that is to have it.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn into_fd(mut self) -> Result<OwnedFd> {
        self.require("hand over")?;
        let description = self.description.take().expect(UNTAKEN);
        Ok(description.into_fd())
    }

    fn description(&self) -> &Description {
        self.description.as_ref().expect(UNTAKEN)
    }

    fn require(&self, operation: &'static str) -> Result<()> {
        if self.is_held() {
            Ok(())
        } else {
            Err(Error::Forked { path: self.handle.path(), operation })
        }
    }

    fn look(&self, operation: &'static str) -> Result<bool> {
        self.require(operation)?;
        self.description()
            .is_current(&self.handle.place, true)
            .map_err(|errno| Error::io(self.handle.path(), operation, errno))
    }

    /// Releases what this process has: in a forked child that is nothing but a descriptor.
    fn let_go(&mut self) -> Result<(), Errno> {
        let Some(description) = self.description.take() else { return Ok(()) };
        if !self.is_held() {
            return Ok(());
        }
        let exposed = *self.exposed.get_mut();
        let slots = if exposed { Slots::Exposed } else { Slots::Some };
        let result = self.handle.let_go(description, slots);
        events::released_slots(self.handle.place.path(), &self.slots, self.since);
        result
    }
}

impl Drop for SemaphoreGuard {
    fn drop(&mut self) {
        // There is nobody to tell; `release` is for those who want to know. After an error, closing
        // has released the slots.
        let _ = self.let_go();
    }
}

impl fmt::Debug for SemaphoreGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SemaphoreGuard")
            .field("semaphore", &self.handle)
            .field("slots", &self.slots)
            .field("held", &self.is_held())
            .finish_non_exhaustive()
    }
}
