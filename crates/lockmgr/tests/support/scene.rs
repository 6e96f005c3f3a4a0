//! The stage for the tests about forks: one lock file, and who plays how.

use std::path::PathBuf;

use lockmgr::{FileLock, Mechanism};

use super::alone;
use super::process::{Way, outcome_of};

/// What a role is told.
pub(crate) struct Scene {
    pub(crate) path: PathBuf,
    pub(crate) mechanism: Mechanism,
    pub(crate) way: Way,
    pub(crate) more: String,
}

pub(crate) const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];
/// Those whose locks can leave the process.
pub(crate) const OF_DESCRIPTIONS: &[&str] = &["flock", "ofd"];
pub(crate) const WAYS: [&str; 2] = ["fork", "clone"];

/// Plays a scene for every way and mechanism.
pub(crate) fn play(role: &str, mechanisms: &[&str]) {
    for mechanism in mechanisms {
        for way in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            alone(role, &[path.to_str().unwrap(), mechanism, way]);
        }
    }
}

impl Scene {
    pub(crate) fn new(args: &[String]) -> Self {
        Self {
            path: PathBuf::from(&args[0]),
            mechanism: args[1].parse().unwrap(),
            way: if args[2] == "fork" { Way::Fork } else { Way::BareClone },
            more: args.get(3).cloned().unwrap_or_default(),
        }
    }

    pub(crate) fn open(&self) -> FileLock {
        FileLock::options().mechanism(self.mechanism).open(&self.path).unwrap()
    }

    /// Whether another process would get the lock now.
    pub(crate) fn is_free(&self) -> bool {
        let args = [self.path.to_str().unwrap(), &self.mechanism.to_string()];
        outcome_of("try", &args) == ["got"]
    }
}
