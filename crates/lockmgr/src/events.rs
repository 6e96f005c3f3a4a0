//! Events for `tracing`, when that feature is on; nothing at all otherwise.

use std::path::Path;
use std::time::Duration;

use crate::handle::Handle;
use crate::mode::Mode;

/// When a hold began, if anybody is going to be told.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    #[cfg(feature = "tracing")]
    instant: std::time::Instant,
}

pub(crate) fn now() -> Moment {
    Moment {
        #[cfg(feature = "tracing")]
        instant: std::time::Instant::now(),
    }
}

#[cfg(feature = "tracing")]
mod real {
    use super::{Duration, Handle, Mode, Moment, Path};

    fn path(handle: &Handle) -> tracing::field::DebugValue<Option<std::sync::Arc<Path>>> {
        tracing::field::debug(handle.path())
    }

    pub(crate) fn waiting(handle: &Handle, mode: Mode) {
        tracing::debug!(path = path(handle), %mode, "waiting for the lock");
    }

    pub(crate) fn acquired(handle: &Handle, mode: Mode, waited: Duration) {
        tracing::debug!(path = path(handle), %mode, ?waited, "acquired the lock");
    }

    pub(crate) fn released(handle: &Handle, mode: Mode, since: Moment) {
        tracing::debug!(path = path(handle), %mode, held = ?since.instant.elapsed(), "released the lock");
    }

    pub(crate) fn waiting_for_slots(path: &Path, count: u32) {
        tracing::debug!(?path, count, "waiting for slots");
    }

    pub(crate) fn acquired_slots(path: &Path, slots: &[u32], waited: Duration) {
        tracing::debug!(?path, ?slots, ?waited, "acquired slots");
    }

    pub(crate) fn released_slots(path: &Path, slots: &[u32], since: Moment) {
        tracing::debug!(?path, ?slots, held = ?since.instant.elapsed(), "released slots");
    }
}

#[cfg(not(feature = "tracing"))]
mod real {
    use super::{Duration, Handle, Mode, Moment, Path};

    pub(crate) fn waiting(_handle: &Handle, _mode: Mode) {}
    pub(crate) fn acquired(_handle: &Handle, _mode: Mode, _waited: Duration) {}
    pub(crate) fn released(_handle: &Handle, _mode: Mode, _since: Moment) {}
    pub(crate) fn waiting_for_slots(_path: &Path, _count: u32) {}
    pub(crate) fn acquired_slots(_path: &Path, _slots: &[u32], _waited: Duration) {}
    pub(crate) fn released_slots(_path: &Path, _slots: &[u32], _since: Moment) {}
}

pub(crate) use real::{
    acquired, acquired_slots, released, released_slots, waiting, waiting_for_slots,
};
