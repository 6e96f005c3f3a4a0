//! Inter-process locking done right.
//!
//! A lock is a fact that the kernel keeps; this crate asks for it well, waits for it well, and tells
//! the truth about it.
//!
//! ```
//! # let dir = tempfile::tempdir()?; let path = dir.path().join("app.lock");
//! use lockmgr::FileLock;
//!
//! let lock = FileLock::open(&path)?;
//! let guard = lock.lock()?;
//! // One process, one thread, one task at a time.
//! drop(guard);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Under any async runtime, or none:
//!
//! ```
//! # let dir = tempfile::tempdir()?; let path = dir.path().join("app.lock");
//! # fn block_on<F: Future>(f: F) -> F::Output {
//! #     use std::{pin::pin, sync::Arc, task::{Context, Poll, Wake}, thread};
//! #     struct Unpark(thread::Thread);
//! #     impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark(); } }
//! #     let waker = Arc::new(Unpark(thread::current())).into();
//! #     let mut f = pin!(f);
//! #     loop {
//! #         match f.as_mut().poll(&mut Context::from_waker(&waker)) {
//! #             Poll::Ready(output) => return output,
//! #             Poll::Pending => thread::park(),
//! #         }
//! #     }
//! # }
//! use std::time::Duration;
//! use lockmgr::FileLock;
//!
//! # block_on(async {
//! let lock = FileLock::open(&path)?;
//! let guard = lock.acquire().timeout(Duration::from_secs(3)).await?;
//! # drop(guard);
//! # Ok::<(), lockmgr::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//! 1. *Exclusion on the path.* A lock file that is deleted or replaced while it is waited for, or by
//!    whoever holds it, never lets two in.
//! 2. *No polling.* A waiter sleeps in the kernel's own lock call, whatever its deadline; a deadline
//!    or a [`CancelToken`] ends the sleep with a signal that is the library's own. (One exception: a
//!    lock that the server of a FUSE filesystem keeps is asked for every 50 ms, because a sleep in such
//!    a server's call may have no end, not even by SIGKILL.)
//! 3. *Deadlines are exact*: never early, late only by scheduling.
//! 4. *A hold belongs to the process that took it.* Forked children neither release nor keep it.
//! 5. *Waiting for oneself is an error*, not a hang: for a lock that the thread holds by a guard that
//!    cannot leave it. (Of an owned guard nobody knows who will drop it.)
//! 6. *Nothing is left behind* by a crash, a panic, a dropped future: no lock, descriptor or thread.
//!
//! # Signals
//! The first contended wait with a deadline or a token takes one real-time signal that has no
//! handler, for the rest of the program: one that the calling thread does not block, if there is any,
//! because what is blocked may be read (`signalfd(2)`, `sigwait(3)`). Where none is free, or `RLIMIT_SIGPENDING` lets none be
//! queued, it takes `SIGSTKFLT` (or `SIGURG`) in the same way. Nothing is done in the handler. System
//! calls of other threads are not disturbed: the signal is sent to the waiting thread alone.

// Not for the whole workspace: helpers of integration tests do unwrap.
#![warn(clippy::unwrap_used)]

#[cfg(not(target_os = "linux"))]
compile_error!("lockmgr runs on Linux so far");

mod acquire;
mod cancel;
mod contain;
mod description;
mod error;
mod events;
mod file_lock;
mod future;
mod gate;
mod guard;
mod handle;
mod held;
mod hold;
pub mod inspect;
mod job;
mod keeper;
mod lock_mgr;
mod lock_set;
mod mode;
pub mod name;
mod naming;
mod options;
mod place;
mod posix;
mod printable;
mod queue;
mod record;
mod semaphore;
#[expect(unsafe_code, reason = "the system calls that have no safe wrapper")]
mod sys;
mod timekeeper;
mod turn;
mod visit;
mod wait;
mod watch;

pub use acquire::Acquire;
pub use cancel::CancelToken;
pub use error::{Error, Result};
pub use file_lock::FileLock;
pub use future::AcquireFuture;
pub use guard::{FileLockGuard, OwnedFileLockGuard};
pub use lock_mgr::LockMgr;
pub use lock_set::{AcquireSet, AcquireSetFuture, LockSet, LockSetGuard, OwnedLockSetGuard};
pub use mode::{Mechanism, Mode, Range};
pub use options::{FileLockOptions, OnDeadlock};
pub use semaphore::{
    AcquireSlots, AcquireSlotsFuture, Semaphore, SemaphoreGuard, SemaphoreOptions,
};
pub use wait::{ask_on_signal, call_until};
