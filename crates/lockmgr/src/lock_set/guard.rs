//! The guards of a set: the locks of all of it, released in reverse.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::file_lock::FileLock;
use crate::guard::{FileLockGuard, OwnedFileLockGuard};
use crate::hold::Hold;

use super::plan::{Given, Plan};

/// All the locks of a set, held; released in reverse when dropped. It stays in the thread that
/// acquired it.
///
/// # Crash safety
/// The kernel releases the locks when the process ends, however it ends.
#[must_use = "the locks are released as soon as the guard is dropped"]
pub struct LockSetGuard<'a> {
    guards: Vec<FileLockGuard<'a>>,
    given: Given,
    waited: Duration,
}

/// As [`LockSetGuard`], but it owns its handles and may be sent to other threads and stored.
///
/// # Crash safety
/// The kernel releases the locks when the process ends, however it ends.
#[must_use = "the locks are released as soon as the guard is dropped"]
pub struct OwnedLockSetGuard {
    guards: Vec<OwnedFileLockGuard>,
    given: Given,
    waited: Duration,
}

impl<'a> LockSetGuard<'a> {
    pub(super) fn new(guards: Vec<FileLockGuard<'a>>, given: Given, waited: Duration) -> Self {
        Self { guards, given, waited }
    }
}

impl OwnedLockSetGuard {
    pub(super) fn of(holds: Vec<Hold>, plan: Plan, waited: Duration) -> Self {
        let guards = holds.into_iter().map(OwnedFileLockGuard::new).collect();
        Self { guards, given: plan.into_given(), waited }
    }
}

/// The two guards offer the same.
macro_rules! set_guard_methods {
    ([$($life:lifetime)?], $guard:ty, $single:ty) => {
        impl $(<$life>)? $guard {
            /// The guard of the lock that was given as number `index`, counted from 0. Locks that
            /// were taken as one have the same guard, whose mode is the stronger one and whose path
            /// is that of one of them.
            #[must_use]
            pub fn get(&self, index: usize) -> Option<&$single> {
                self.guards.get(self.given.place(index)?)
            }

            /// As [`get`](Self::get), to change the mode.
            #[must_use]
            pub fn get_mut(&mut self, index: usize) -> Option<&mut $single> {
                self.guards.get_mut(self.given.place(index)?)
            }

            /// The guards, one for each lock that was taken.
            pub fn iter(&self) -> std::slice::Iter<'_, $single> {
                self.guards.iter()
            }

            /// How long the acquisition waited; zero when everything was free.
            #[must_use]
            pub fn wait_time(&self) -> Duration {
                self.waited
            }

            /// Returns whether this guard stands for the locks: false in a forked child, and after
            /// a change of mode that lost one of them.
            #[must_use]
            pub fn is_held(&self) -> bool {
                self.guards.iter().all(<$single>::is_held)
            }

            /// Returns whether all the paths still name the locked files, also those that were taken
            /// as one.
            ///
            /// # Errors
            /// Those of the single guards.
            pub fn still_current(&self) -> Result<bool> {
                for guard in &self.guards {
                    if !guard.still_current()? {
                        return Ok(false);
                    }
                }
                Ok(self.strayed("check the lock file")?.is_none())
            }

            fn strayed(&self, operation: &'static str) -> Result<Option<&FileLock>> {
                self.given.strayed(operation, |place| self.guards[place].identity())
            }

            /// Releases everything, in reverse, and tells what dropping would keep to itself.
            ///
            /// # Errors
            /// All locks are released in every case. The first error of the single guards, or
            /// [`Error::Replaced`] with a path that was taken as one with another.
            pub fn unlock(mut self) -> Result<()> {
                const OPERATION: &str = "unlock";
                let strayed = self.strayed(OPERATION).and_then(|strayed| {
                    strayed.map_or(Ok(()), |lock| {
                        let path = lock.handle().path();
                        Err(Error::Replaced { path, operation: OPERATION, while_held: true })
                    })
                });
                let mut outcome = Ok(());
                while let Some(guard) = self.guards.pop() {
                    let result = guard.unlock();
                    outcome = outcome.and(result);
                }
                outcome.and(strayed)
            }
        }

        impl $(<$life>)? Drop for $guard {
            fn drop(&mut self) {
                while let Some(guard) = self.guards.pop() {
                    drop(guard);
                }
            }
        }

        impl $(<$life>)? fmt::Debug for $guard {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_list().entries(&self.guards).finish()
            }
        }
    };
}

set_guard_methods!(['a], LockSetGuard<'a>, FileLockGuard<'a>);
set_guard_methods!([], OwnedLockSetGuard, OwnedFileLockGuard);

impl<'a, 'b> IntoIterator for &'a LockSetGuard<'b> {
    type Item = &'a FileLockGuard<'b>;
    type IntoIter = std::slice::Iter<'a, FileLockGuard<'b>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a> IntoIterator for &'a OwnedLockSetGuard {
    type Item = &'a OwnedFileLockGuard;
    type IntoIter = std::slice::Iter<'a, OwnedFileLockGuard>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
