//! The account of one `lockmgr run`: what has come of it, for `--result` and `--log`.
//!
//! `run` tells it what happens, in the order in which it happens; at the end, however that comes about
//! (a refusal, a wrong use, a defect), [`Account::close`] or the drop writes the result. So a result is
//! missing only when lockmgr was killed: by a signal before the command was started, or by SIGKILL. To
//! keep that true, the result of an earlier run is removed at the start ([`target`]).

mod target;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockmgr::Mode;
use lockmgr::name::Scope;
use rustix::process::{Signal, WaitStatus};
use serde::Serialize;

use crate::child::limits::Step;
use crate::cli::{MadeOut, RunArgs, signal_name};
use crate::exit::{self, Failure, Status};
use crate::json::{self, PathJson};
use crate::log::{Event, Log};
use crate::path_of;
use crate::say::say;
use target::Target;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The command ran, and ended by itself or by a signal of others.
    Ran,
    /// As `Ran`; for it, whoever held the lock before was ended.
    Replaced,
    /// The command ran, and was told to end because its time was over.
    MaxHold,
    /// The lock was busy, and was not waited for.
    Busy,
    /// The lock did not get free in time.
    TimedOut,
    /// It would never have got free (`--deadlock=fail`).
    Deadlock,
    /// Not to run was all right (`--if-busy=skip`, `--every`).
    Skipped,
    /// The lock could not be had for another reason.
    LockError,
    /// The lock was had; the command could not be started.
    NotStarted,
    /// The command was started, and lockmgr can no longer watch over it.
    Lost,
    /// The command line is wrong.
    Usage,
    /// A defect in lockmgr.
    Defect,
}

/// What is known of one run; see the module.
pub(crate) struct Account {
    target: Option<Target>,
    log: Option<Log>,
    quiet: bool,
    mode: Mode,
    lock: Option<PathBuf>,
    started: Instant,
    granted: Option<Instant>,
    /// From the start to the grant or the refusal.
    waited: Option<Duration>,
    held: Option<Duration>,
    outcome: Option<Outcome>,
    ended: Option<WaitStatus>,
    /// The fencing token of the hold.
    pub(crate) token: Option<u64>,
    /// The numbers of the slots that are held, in ascending order.
    pub(crate) slots: Vec<u32>,
    /// The terminal's Ctrl-C ended the command.
    pub(crate) interrupted: bool,
    closed: bool,
}

/// The result as it is written.
#[derive(Serialize)]
struct Body<'a> {
    outcome: Outcome,
    status: Status,
    exit_status: Option<i32>,
    signal: Option<String>,
    #[serde(flatten)]
    lock: LockJson,
    mode: String,
    waited_ms: Option<f64>,
    held_ms: Option<f64>,
    token: Option<u64>,
    slot: Option<u32>,
    slots: &'a [u32],
    message: Option<&'a str>,
}

/// As [`PathJson`], under another name.
#[derive(Serialize)]
pub(crate) struct LockJson {
    lock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock_bytes: Option<String>,
}

impl LockJson {
    pub(crate) fn of(path: Option<&Path>) -> Self {
        let PathJson { path, path_bytes } = PathJson::of(path);
        Self { lock: path, lock_bytes: path_bytes }
    }
}

impl Account {
    /// Opens what the options name. Fails when a result that is asked for could not be written.
    pub(crate) fn open(args: &RunArgs) -> Result<Self, Failure> {
        let target = match &args.result {
            Some(target) => Some(Target::open(target, &used(args))?),
            None => None,
        };
        let quiet = args.acquire.quiet;
        let log = args.log.as_deref().and_then(|path| Log::open(path, quiet));
        Ok(Self::new(target, log, quiet, args.acquire.mode()))
    }

    fn new(target: Option<Target>, log: Option<Log>, quiet: bool, mode: Mode) -> Self {
        Self {
            target,
            log,
            quiet,
            mode,
            lock: None,
            started: Instant::now(),
            granted: None,
            waited: None,
            held: None,
            outcome: None,
            ended: None,
            token: None,
            slots: Vec::new(),
            interrupted: false,
            closed: false,
        }
    }

    /// Which lock it is about; the wait counts from here.
    pub(crate) fn begin(&mut self, lock: Option<&Path>) {
        self.lock = lock.map(Path::to_path_buf);
        self.started = Instant::now();
    }

    /// The lock is busy, and is waited for from now on.
    pub(crate) fn waits(&mut self) {
        self.note("waiting", |_| {});
    }

    /// There is no lock, and why; another reason than a contended lock need not be told.
    pub(crate) fn refused(&mut self, outcome: Outcome) {
        self.waited = Some(self.started.elapsed());
        self.outcome = Some(outcome);
    }

    /// The lock is held from now on. Returns since when.
    pub(crate) fn acquired(&mut self) -> Instant {
        let granted = Instant::now();
        self.granted = Some(granted);
        self.waited = Some(granted.duration_since(self.started));
        self.note("acquired", |_| {});
        granted
    }

    /// A limit on the hold has been reached.
    pub(crate) fn reached(&mut self, step: Step) {
        let event = match step {
            Step::Warn => "warn-after",
            Step::End => "max-hold",
            Step::Kill => "kill-after",
        };
        let held = self.granted.map(|granted| granted.elapsed());
        self.note(event, |event| event.held_ms = held.map(milliseconds));
    }

    /// What came of the command, while the lock is still held.
    pub(crate) fn command(&mut self, outcome: Outcome, ended: Option<WaitStatus>) {
        self.outcome = Some(outcome);
        self.ended = ended;
    }

    /// The lock is not held any more.
    pub(crate) fn released(&mut self) {
        self.held = self.granted.map(|granted| granted.elapsed());
    }

    /// Writes the end: the exit status, and the message that goes with a failure.
    pub(crate) fn close(mut self, status: Status, message: Option<&str>) {
        self.write_end(status, message);
    }

    fn write_end(&mut self, status: Status, message: Option<&str>) {
        self.closed = true;
        let by_status = if status == exit::USAGE { Outcome::Usage } else { Outcome::LockError };
        let outcome = self.outcome.unwrap_or(by_status);
        let exit_status = self.ended.and_then(WaitStatus::exit_status);
        let signal = self.ended.and_then(WaitStatus::terminating_signal).map(name_of_signal);
        let held_ms = self.held.map(milliseconds);
        let event = if self.held.is_some() { Some("released") } else { None };
        let (token, slots) = (self.token, self.slots.clone());
        self.note(event.unwrap_or(outcome.name()), |event| {
            event.outcome = Some(outcome);
            event.status = Some(status);
            event.held_ms = held_ms;
            event.exit_status = exit_status;
            event.signal.clone_from(&signal);
            event.token = token;
            event.slots = slots;
        });
        let Some(target) = self.target.take() else { return };
        let body = Body {
            outcome,
            status,
            exit_status,
            signal,
            lock: LockJson::of(self.lock.as_deref()),
            mode: self.mode.to_string(),
            waited_ms: self.waited.map(milliseconds),
            held_ms,
            token: self.token,
            slot: self.slots.first().copied(),
            slots: &self.slots,
            message,
        };
        let written = json::document("run", body).and_then(|text| target.write(text.as_bytes()));
        if let Err(failure) = written
            && !self.quiet
        {
            say(&failure.line);
        }
    }

    fn note(&mut self, event: &'static str, fill: impl FnOnce(&mut Event)) {
        let Some(log) = &mut self.log else { return };
        let mut event = Event::new(event, self.lock.as_deref(), self.mode);
        event.waited_ms = self.waited.map(milliseconds);
        fill(&mut event);
        log.append(event);
    }
}

impl Drop for Account {
    /// Only a panic leaves it open.
    fn drop(&mut self) {
        if !self.closed {
            self.outcome = Some(Outcome::Defect);
            self.write_end(exit::DEFECT, None);
        }
    }
}

impl Outcome {
    /// As in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Ran => "ran",
            Outcome::Replaced => "replaced",
            Outcome::MaxHold => "max-hold",
            Outcome::Busy => "busy",
            Outcome::TimedOut => "timed-out",
            Outcome::Deadlock => "deadlock",
            Outcome::Skipped => "skipped",
            Outcome::LockError => "lock-error",
            Outcome::NotStarted => "not-started",
            Outcome::Lost => "lost",
            Outcome::Usage => "usage",
            Outcome::Defect => "defect",
        }
    }
}

/// Writes the result of a command line that is wrong, if it says where to.
pub(crate) fn of_wrong_usage(MadeOut { result, others }: MadeOut, message: &str) {
    let Some(result) = result else { return };
    // What is a lock among the other words is not known: any of them can be.
    let scopes = [Scope::User, Scope::System];
    let locks = others.iter().flat_map(|word| scopes.map(|scope| path_of(word, scope).ok()));
    let paths = others.iter().map(PathBuf::from).chain(locks.flatten());
    let used: Vec<_> = paths.map(|path| (path, "a file of the same command line")).collect();
    match Target::open(&result, &used) {
        Ok(target) => {
            let account = Account::new(Some(target), None, false, Mode::Exclusive);
            account.close(exit::USAGE, Some(message));
        }
        Err(failure) => say(&failure.line),
    }
}

/// The files that the run has for something else than its result, and what they are.
fn used(args: &RunArgs) -> Vec<(PathBuf, &'static str)> {
    let scope = if args.system { Scope::System } else { Scope::User };
    let locks = [&args.lock].into_iter().chain(&args.and).chain(&args.and_shared);
    // What is no name of a lock has no file, and is refused for itself.
    let locks = locks.filter_map(|lock| path_of(lock, scope).ok());
    let log = args.log.iter().cloned().map(|log| (log, "the file of --log"));
    locks.map(|lock| (lock, "a lock file")).chain(log).collect()
}

/// Milliseconds with three decimals.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn name_of_signal(number: i32) -> String {
    Signal::from_named_raw(number).map_or_else(|| format!("signal {number}"), signal_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_in_json() {
        for outcome in [
            Outcome::Ran,
            Outcome::MaxHold,
            Outcome::Busy,
            Outcome::TimedOut,
            Outcome::Deadlock,
            Outcome::LockError,
            Outcome::NotStarted,
            Outcome::Lost,
            Outcome::Usage,
            Outcome::Defect,
        ] {
            assert_eq!(serde_json::to_value(outcome).unwrap(), outcome.name());
        }
    }
}
