//! A rule of the whole machine, changed for a test.

use std::fs;

use lockmgr::{FileLock, OwnedFileLockGuard};

/// `fs.protected_regular`, which is the whole machine's: put back when dropped, and one test's at a
/// time, those of the library included.
pub(crate) struct ProtectedRegular {
    before: String,
    _alone: OwnedFileLockGuard,
}

impl ProtectedRegular {
    const PATH: &str = "/proc/sys/fs/protected_regular";

    pub(crate) fn set(value: &str) -> std::io::Result<Self> {
        let alone = FileLock::open(Self::PATH)?.acquire().wait_owned()?;
        let before = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, value)?;
        Ok(Self { before, _alone: alone })
    }
}

impl Drop for ProtectedRegular {
    fn drop(&mut self) {
        fs::write(Self::PATH, &self.before).expect("it could be written before");
    }
}
