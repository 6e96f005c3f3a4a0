//! One acquisition through an instance, and its end.

use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use lockmgr::inspect::printable;
use lockmgr::{Error, Mode, OwnedFileLockGuard, Range};
use pyo3::exceptions::{PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::arguments::{interval, patience_of, seconds_to_wait, yes_or_no};
use super::{FileLockBase, Setup};
use crate::error::{After, exception};
use crate::log::Place;
use crate::options::Patience;
use crate::owner::{Waiter, Wanted};
use crate::wait::{self, Wait};
use crate::{log, owner};

/// How often `cancel_check` is asked at the most.
const SHORTEST: Duration = Duration::from_millis(1);

/// One acquisition, as it was asked for.
pub(super) struct Request<'py> {
    pub(super) patience: Patience,
    /// It may wait, if only for no time at all.
    pub(super) blocking: bool,
    pub(super) cancel_check: Option<Bound<'py, PyAny>>,
    pub(super) poll_interval: f64,
}

impl Setup {
    /// A wait without end for oneself is an error.
    pub(super) fn refuse_own(
        &self,
        py: Python<'_>,
        waiter: Waiter<'_>,
        patience: Patience,
    ) -> PyResult<()> {
        if patience != Patience::Forever {
            return Ok(());
        }
        let wanted = Wanted::new(&self.lock, Range::WHOLE, Mode::Exclusive, waiter);
        if owner::waits_for_itself(py, &wanted)? {
            static DEADLOCK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            let text = format!(
                "{}: this thread or task holds the lock already, through another object, and would wait \
                 for itself; release it first, or share one object (is_singleton=True)",
                self.shown(),
            );
            let class = DEADLOCK.import(py, "lockmgr._errors", "DeadlockError")?;
            let error = class.call1((text,))?;
            error.setattr("lock_file", &self.lock_file)?;
            return Err(PyErr::from_value(error));
        }
        Ok(())
    }
}

impl FileLockBase {
    pub(super) fn refuse_inherited(slf: &Bound<'_, Self>, setup: &Setup) -> PyResult<()> {
        if setup.lock.is_inherited() {
            let class = slf.get_type();
            let text = format!(
                "{} for {} came here by a fork, and belongs to the parent process; make another one \
                 in the child",
                class.name()?,
                setup.shown(),
            );
            return Err(PyRuntimeError::new_err(text));
        }
        Ok(())
    }

    /// Acquires the lock for the calling thread.
    pub(super) fn take(slf: &Bound<'_, Self>, request: &Request<'_>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let setup = this.setup()?;
        Self::refuse_inherited(slf, setup)?;
        let owner = owner::this_thread();
        if this.state.enter_again(setup.here(), owner) {
            return Ok(());
        }
        let guard = match wait::attempt(py, &setup.lock, Mode::Exclusive, false, &setup.pace)? {
            Ok(guard) => guard,
            Err(busy) => Self::sleep(py, setup, request, busy)?,
        };
        this.keep(py, setup, owner, guard)
    }

    pub(super) fn keep(
        &self,
        py: Python<'_>,
        setup: &Setup,
        owner: u64,
        guard: OwnedFileLockGuard,
    ) -> PyResult<()> {
        self.state.settle(setup.habits, setup.here(), owner, guard);
        let told = log::acquired(py, &setup.lock, Mode::Exclusive);
        let told =
            if setup.calls_back { told.and_then(|()| self.call_back(py, setup)) } else { told };
        if told.is_err() {
            // Whoever gets an exception does not expect to hold anything.
            drop(self.state.leave(setup.habits, setup.here(), true));
        }
        told
    }

    /// Waits for the lock, which turned out to be busy.
    fn sleep(
        py: Python<'_>,
        setup: &Setup,
        request: &Request<'_>,
        busy: Error,
    ) -> PyResult<OwnedFileLockGuard> {
        let patience = request.patience;
        if patience == Patience::Now {
            if request.blocking
                && let Some(check) = &request.cancel_check
            {
                // Giving up is all that is left, whatever it says; but it is asked.
                check.call0()?;
            }
            return Err(setup.exception(py, busy, After::Attempt));
        }
        setup.refuse_own(py, Waiter::Thread, patience)?;
        log::while_waiting(py, Place::of(&setup.lock).as_ref(), || {
            if let Some(check) = &request.cancel_check {
                return sleep_asking(py, setup, request, check, busy);
            }
            let deadline = patience.deadline();
            let outcome = wait::sleep(py, || {
                let acquire = setup.lock.acquire();
                Ok(match deadline {
                    Some(deadline) => acquire.deadline(deadline),
                    None => acquire,
                }
                .wait_owned())
            })?;
            outcome.map_err(|error| setup.exception(py, error, After::Wait))
        })
    }

    /// Tells the program of a fresh hold.
    fn call_back(&self, py: Python<'_>, setup: &Setup) -> PyResult<()> {
        let place = setup.here();
        let callback = self.callback().as_ref().map(|callback| callback.clone_ref(py));
        let descriptor = self.state.ask(place, |held| {
            let mut file = held.guard.file();
            // The descriptor is kept from hold to hold, and whoever writes begins at the start.
            drop(file.seek(SeekFrom::Start(0)));
            file.as_raw_fd()
        });
        let (Some(callback), Some(descriptor)) = (callback, descriptor) else { return Ok(()) };
        callback.call1(py, (descriptor,))?;
        if self.state.ask(place, |_| ()).is_none() {
            return Err(PyRuntimeError::new_err("on_acquired has released the lock"));
        }
        Ok(())
    }

    pub(super) fn give_up(&self, py: Python<'_>, all: bool) -> PyResult<()> {
        let setup = self.setup()?;
        if setup.lock.is_inherited() {
            return Ok(());
        }
        match self.state.leave(setup.habits, setup.here(), all) {
            Some(guard) => {
                let outcome = setup.pace.run(py, || guard.release());
                log::released(py, &setup.lock, Mode::Exclusive)?;
                outcome.map_err(|error| setup.exception(py, error, After::Attempt))
            }
            None => Ok(()),
        }
    }

    /// The request of a call of acquire().
    pub(super) fn request<'py>(
        &self,
        timeout: Option<&Bound<'py, PyAny>>,
        poll_interval: Option<&Bound<'py, PyAny>>,
        blocking: Option<&Bound<'py, PyAny>>,
        cancel_check: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Request<'py>> {
        let habits = self.habits()?;
        let timeout = timeout.map_or(Ok(habits.timeout), seconds_to_wait)?;
        let poll_interval = poll_interval.map_or(Ok(habits.poll_interval), interval)?;
        let blocking = blocking.map_or(Ok(habits.blocking), yes_or_no)?;
        let patience = patience_of(timeout, blocking)?;
        Ok(Request { patience, blocking, cancel_check, poll_interval })
    }
}

/// Waits, and asks again and again whether to go on. The wait itself is the library's thread's, whose
/// place in the kernel's queue does not suffer from the asking.
fn sleep_asking(
    py: Python<'_>,
    setup: &Setup,
    request: &Request<'_>,
    check: &Bound<'_, PyAny>,
    busy: Error,
) -> PyResult<OwnedFileLockGuard> {
    let pause = Duration::try_from_secs_f64(request.poll_interval).unwrap_or(Duration::MAX);
    let wait =
        Wait::for_lock(&setup.lock, Mode::Exclusive, request.patience, setup.pace.is_slow())?;
    loop {
        if let Some(hold) = wait.look(py, After::Wait).map_err(|error| setup.named(py, error))? {
            return hold.take_lock();
        }
        if check.call0()?.is_truthy()? {
            wait.cancel();
            return Err(setup.exception(py, busy, After::Wait));
        }
        wait.pause(py, pause.max(SHORTEST))?;
    }
}

impl Setup {
    /// The lock file, for a message.
    fn shown(&self) -> String {
        let path = self.lock.path().map(|path| path.as_os_str().as_bytes());
        path.map(printable).unwrap_or_default()
    }

    pub(super) fn exception(&self, py: Python<'_>, error: Error, after: After) -> PyErr {
        self.named(py, exception(py, error, after))
    }

    /// A Timeout names the lock file as the program does.
    fn named(&self, py: Python<'_>, error: PyErr) -> PyErr {
        let given = self.lock_file.bind(py);
        if error.is_instance_of::<PyTimeoutError>(py)
            && let Err(failure) = error.value(py).setattr("_lock_file", given)
        {
            return failure;
        }
        error
    }
}
