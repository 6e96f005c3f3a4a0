//! Ending waits from outside.
//!
//! A token keeps a list of what waits under it; a waiter enters itself before it sleeps and leaves
//! when it is done. [`CancelToken::cancel`] sets the flag first and then pokes everyone on the
//! list; a waiter enters first and then looks at the flag: so nobody sleeps through it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::sys::fork::{self, PerProcess};

/// Cancels waits from any thread.
///
/// Clones are the same token. A token that was cancelled stays cancelled: waits under it end at
/// once with [`Error::Cancelled`](crate::Error::Cancelled), also those that begin later. An
/// acquisition that finds the lock free succeeds all the same.
///
/// ```
/// # let dir = tempfile::tempdir()?; let path = dir.path().join("a.lock");
/// use lockmgr::{CancelToken, Error, FileLock};
///
/// let busy = FileLock::open(&path)?;
/// let _held = busy.acquire().wait_owned()?;
///
/// let cancel = CancelToken::new();
/// let waiter = {
///     let (lock, cancel) = (FileLock::open(&path)?, cancel.clone());
///     std::thread::spawn(move || lock.acquire().cancel(&cancel).wait_owned().map(drop))
/// };
/// cancel.cancel();
/// assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled { .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct CancelToken {
    state: Arc<State>,
}

struct State {
    cancelled: AtomicBool,
    /// A forked child must not poke its parent's waiters: what they sleep with does not exist there.
    waiters: PerProcess<Mutex<Vec<Arc<dyn Interrupt>>>>,
}

impl Default for State {
    fn default() -> Self {
        let waiters = PerProcess::new(fork::generation(), Mutex::default());
        Self { cancelled: AtomicBool::new(false), waiters }
    }
}

/// Something that sleeps and can be woken to look at its tokens.
pub(crate) trait Interrupt: Send + Sync {
    fn interrupt(&self);
}

impl CancelToken {
    /// Returns a token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends every wait under this token, now and in future. Returns at once; the waiters are awake
    /// within a millisecond.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::SeqCst);
        // A waiter's waker may run code of the program: not under our mutex.
        let waiters = self.waiters().clone();
        for waiter in waiters {
            waiter.interrupt();
        }
    }

    /// Returns whether [`CancelToken::cancel`] was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Enters a waiter until the result is dropped. Look at the flag after this, not before.
    pub(crate) fn enter(&self, waiter: Arc<dyn Interrupt>) -> Entry {
        self.waiters().push(Arc::clone(&waiter));
        Entry { token: self.clone(), waiter }
    }

    fn waiters(&self) -> MutexGuard<'_, Vec<Arc<dyn Interrupt>>> {
        self.state.waiters.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken")
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}

/// A waiter's place in the list of its token.
pub(crate) struct Entry {
    token: CancelToken,
    waiter: Arc<dyn Interrupt>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut waiters = self.token.waiters();
        if let Some(index) = waiters.iter().position(|other| Arc::ptr_eq(other, &self.waiter)) {
            waiters.swap_remove(index);
        }
    }
}
