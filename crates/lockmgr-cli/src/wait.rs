//! `lockmgr wait`: until a lock is free.
//!
//! There is no way to be told of a release but to wait for the lock: so it is acquired, and released at
//! once. A file that is not there, or goes while it is waited for, carries no lock.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use lockmgr::{Acquire, Error, FileLock, Mechanism};
use serde::Serialize;

use crate::cli::{NestedWait, Wait, WaitArgs};
use crate::duration;
use crate::exit::{self, Failure, Status};
use crate::json::{self, HolderJson, PathJson, Teller};
use crate::run::{check_mechanism, free_a_signal, wait_for_ancestor};
use crate::say::say;
use crate::sys::signals::Unignored;
use crate::waiting::{self, Awaited, Refused};
use crate::{path_of_lock, show};

pub(crate) fn wait(args: &WaitArgs) -> Result<Status, Failure> {
    let how = &args.acquire;
    check_mechanism(how)?;
    let path = path_of_lock(&args.lock, args.system)?;
    let mut options = FileLock::options().mechanism(how.mechanism).create(false);
    if let Some(range) = how.range {
        options = options.range(range);
    }
    let failed = |error: &Error| {
        let mut failure = Failure::of_lock(error, how.busy_exit_code);
        let is_record_lock = how.mechanism != Mechanism::Flock;
        if matches!(error, Error::Permission { source, .. } if is_record_lock && is_badf(source)) {
            failure.line.push_str("; -s waits until the lock could be shared, and only reads");
        }
        failure
    };
    let lock = options.open_lazy(&path).map_err(|error| failed(&error))?;
    free_a_signal(how, &mut Unignored::default());
    let since = Instant::now();
    let what = Awaited::one(path.clone(), how.mechanism);
    let acquire = lock.acquire().mode(how.mode());
    let busy = |_: &Error| {
        let waits = args.nested == NestedWait::Fail && !matches!(how.wait(), Wait::Not);
        match waits.then(|| wait_for_ancestor(&lock, how)).flatten() {
            Some(line) => Err(Refused::Deadlock(line)),
            None => Ok(()),
        }
    };
    let acquired = match waiting::acquire(how, what, acquire, Acquire::try_now, busy, Acquire::wait)
    {
        Ok(guard) => Ok(guard.unlock()),
        Err(Refused::Lock(error)) => Err(error),
        Err(refused) => return Err(refused.failure(how, Failure::of_lock)),
    };
    let waited = since.elapsed();
    let over = match &acquired {
        // What the release says (the file was replaced meanwhile) changes nothing: it was free.
        Ok(_) => Over { path: &path, existed: true, busy: None, waited },
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Over { path: &path, existed: false, busy: None, waited }
        }
        Err(error) if error.is_contended() => {
            Over { path: &path, existed: true, busy: Some(error), waited }
        }
        Err(error) => return Err(failed(error)),
    };
    if args.json {
        show::write(&over.in_json()?)?;
    }
    match over.busy {
        Some(_) if args.json => Ok(how.busy_exit_code),
        Some(error) => Err(failed(error)),
        None => {
            if how.verbose && !how.quiet {
                say(&over.told(how.wait()));
            }
            Ok(exit::OK)
        }
    }
}

/// The kernel wants another descriptor: one that can write.
fn is_badf(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADF)
}

/// How the wait ended.
struct Over<'a> {
    path: &'a Path,
    existed: bool,
    busy: Option<&'a Error>,
    waited: Duration,
}

#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    path: PathJson,
    existed: bool,
    free: bool,
    waited_seconds: f64,
    holders: Vec<HolderJson>,
}

impl Over<'_> {
    fn told(&self, wait: Wait) -> String {
        let path = show::path(self.path);
        match wait {
            _ if !self.existed => format!("{path} is free: there is no such file"),
            Wait::Not => format!("{path} is free"),
            _ => format!("{path} is free, after {}", duration::show(self.waited)),
        }
    }

    fn in_json(&self) -> Result<String, Failure> {
        let holders = self.busy.map(Error::holders).unwrap_or_default();
        let mut teller = Teller::default();
        let body = Body {
            path: PathJson::of(Some(self.path)),
            existed: self.existed,
            free: self.busy.is_none(),
            waited_seconds: self.waited.as_secs_f64(),
            holders: holders.iter().map(|holder| teller.holder(holder)).collect(),
        };
        json::document("wait", body)
    }
}
