//! Acquiring the lock, and what is said and looked for while it is busy.
//!
//! A lock that is free at the first try costs nothing of this. Otherwise the main thread waits in the
//! kernel, undisturbed, because an interruption would cost its place in the queue, and a second thread
//! does the talking: on a terminal one line that it keeps up to date, elsewhere a plain line from time
//! to time, so that a queued job never looks like a hung one; and it looks for deadlocks.
//!
//! That thread takes no signals, and it is gone before the command is started, which happens in our
//! memory (`sys::spawn`). Should it hang in a file of /proc, the command does not wait for it: then it
//! sleeps in the kernel, and does nothing when it wakes up but end.

mod line;

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lockmgr::inspect::{Deadlock, Lookout, Pauses};
use lockmgr::{Acquire, AcquireSet, AcquireSlots, CancelToken, Error, Mechanism};

use crate::cli::{AcquireArgs, OnDeadlock, Wait};
use crate::exit::{Failure, Status};
use crate::say::{harmless, say};
use crate::sys::signals::{Internal, with_all_blocked};
use crate::sys::terminal::{self, StatusLine};

use line::{PlainPauses, Scene};

/// What is waited for.
pub(crate) struct Awaited {
    /// By which the lock files can be looked at.
    pub(crate) paths: Vec<PathBuf>,
    /// What to call it, if not by its paths.
    pub(crate) name: Option<String>,
    /// What the kernel keeps it with.
    pub(crate) mechanism: Mechanism,
    /// It is a semaphore, whose front waiter does not wait in the kernel's table.
    pub(crate) slots: bool,
}

impl Awaited {
    /// The lock on one file.
    pub(crate) fn one(path: PathBuf, mechanism: Mechanism) -> Self {
        Self { paths: vec![path], name: None, mechanism, slots: false }
    }

    fn called(&self, one: impl Fn(&PathBuf) -> String) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| self.paths.iter().map(one).collect::<Vec<_>>().join(" and "))
    }
}

/// An acquisition that can be limited.
pub(crate) trait Limited: Clone {
    fn until(self, deadline: Instant) -> Self;
    fn unless(self, cancel: &CancelToken) -> Self;
}

impl Limited for Acquire<'_> {
    fn until(self, deadline: Instant) -> Self {
        self.deadline(deadline)
    }

    fn unless(self, cancel: &CancelToken) -> Self {
        self.cancel(cancel)
    }
}

impl Limited for AcquireSet<'_> {
    fn until(self, deadline: Instant) -> Self {
        self.deadline(deadline)
    }

    fn unless(self, cancel: &CancelToken) -> Self {
        self.cancel(cancel)
    }
}

impl Limited for AcquireSlots<'_> {
    fn until(self, deadline: Instant) -> Self {
        self.deadline(deadline)
    }

    fn unless(self, cancel: &CancelToken) -> Self {
        self.cancel(cancel)
    }
}

/// For those who do nothing about a busy lock but wait.
#[expect(clippy::unnecessary_wraps, reason = "others do have reasons not to wait")]
pub(crate) fn only_wait<R>(_: &Error) -> Result<(), R> {
    Ok(())
}

/// Why there is no lock.
pub(crate) enum Refused {
    Lock(Error),
    /// The wait was given up, or not begun, because it would never end.
    Deadlock(String),
}

impl Refused {
    pub(crate) fn failure(
        self,
        how: &AcquireArgs,
        of_lock: impl FnOnce(&Error, Status) -> Failure,
    ) -> Failure {
        match self {
            Refused::Lock(error) => of_lock(&error, how.busy_exit_code),
            Refused::Deadlock(line) => Failure::new(how.busy_exit_code, line),
        }
    }
}

/// Acquires the lock as the options want it: with `attempt`, and, if it is busy, with `wait`. In between
/// `busy`, which is told of the refusal, may have reasons not to wait.
pub(crate) fn acquire<A: Limited, G, R: From<Refused>>(
    how: &AcquireArgs,
    what: Awaited,
    acquire: A,
    attempt: impl FnOnce(A) -> lockmgr::Result<G>,
    busy: impl FnOnce(&Error) -> Result<(), R>,
    wait: impl FnOnce(A) -> lockmgr::Result<G>,
) -> Result<G, R> {
    // The time runs from here.
    let (acquire, deadline) = match how.wait() {
        Wait::Not | Wait::Forever => (acquire, None),
        Wait::For(limit) => match Instant::now().checked_add(limit) {
            Some(deadline) => (acquire.until(deadline), Some(deadline)),
            None => (acquire, None),
        },
    };
    match attempt(acquire.clone()) {
        Err(error @ Error::Busy { .. }) => {
            busy(&error)?;
            if matches!(how.wait(), Wait::Not) {
                return Err(Refused::Lock(error).into());
            }
        }
        result => return result.map_err(|error| Refused::Lock(error).into()),
    }
    let short_name = what
        .called(|path| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned());
    let name = what.called(|path| path.to_string_lossy().into_owned());
    let cancel = CancelToken::new();
    let acquire = if how.deadlock == OnDeadlock::Fail { acquire.unless(&cancel) } else { acquire };
    let companion = Companion::start(Watch {
        paths: what.paths,
        name: harmless(&name),
        short_name: harmless(&short_name),
        mechanism: what.mechanism,
        slots: what.slots,
        lookout: Lookout::of_this_thread(),
        deadlock: how.deadlock,
        quiet: how.quiet,
        since: Instant::now(),
        deadline,
        cancel,
        shared: Arc::default(),
    });
    let result = wait(acquire);
    match (result, companion.and_then(Companion::end)) {
        (Err(Error::Cancelled { .. }), Some(found)) => Err(Refused::Deadlock(format!(
            "{name}: the wait would never end, for this is a deadlock: {found}"
        ))
        .into()),
        (result, _) => result.map_err(|error| Refused::Lock(error).into()),
    }
}

/// The second thread, seen from the first.
struct Companion {
    internal: Internal,
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The wait is over.
    over: bool,
    /// The thread has nothing left to do.
    gone: bool,
    /// Because of this the wait was ended.
    found: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Companion {
    /// `None` where nothing is to be said or done, and where no thread can be had: then the wait is an
    /// ordinary one.
    fn start(watch: Watch) -> Option<Self> {
        if watch.quiet && watch.deadlock != OnDeadlock::Fail {
            return None;
        }
        let shared = Arc::clone(&watch.shared);
        // Whoever looks for deadlocks knows by the name that this thread holds up nobody.
        let thread = thread::Builder::new().name("lockmgr-line".into()).stack_size(512 * 1024);
        let internal = Internal::note();
        let thread = with_all_blocked(|| thread.spawn(move || watch.run())).ok()?;
        Some(Self { internal, shared, thread })
    }

    /// Ends the thread; returns why it has ended the wait, if it has.
    fn end(self) -> Option<String> {
        /// Only a file of /proc that does not answer takes longer.
        const PATIENCE: Duration = Duration::from_secs(2);
        let mut state = self.shared.state();
        state.over = true;
        self.shared.changed.notify_all();
        let still_there = |state: &mut State| !state.gone;
        let wait = self.shared.changed.wait_timeout_while(state, PATIENCE, still_there);
        let mut state = wait.unwrap_or_else(PoisonError::into_inner).0;
        let (gone, found) = (state.gone, state.found.take());
        drop(state);
        if gone {
            // What it may have panicked about has been said.
            drop(self.thread.join());
            self.internal.restore();
        }
        found
    }
}

/// The second thread.
struct Watch {
    paths: Vec<PathBuf>,
    name: String,
    short_name: String,
    mechanism: Mechanism,
    slots: bool,
    lookout: Lookout,
    deadlock: OnDeadlock,
    quiet: bool,
    since: Instant,
    deadline: Option<Instant>,
    cancel: CancelToken,
    shared: Arc<Shared>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().gone = true;
        self.shared.changed.notify_all();
    }
}

/// When something is due. Far enough away is never.
fn never() -> Instant {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + YEAR
}

impl Watch {
    fn run(self) {
        let mut said = Saying::new(&self);
        let mut looks = Looking::new(&self);
        while self.sleep_until(said.due.min(looks.due)) {
            let now = Instant::now();
            if said.due <= now {
                said.say(&self);
            }
            if looks.due <= now {
                match looks.look(&self) {
                    Verdict::Nothing => {}
                    Verdict::Warn(line) => said.interject(&line),
                    Verdict::End(line) => {
                        drop(said.line.take());
                        self.shared.state().found = Some(line);
                        self.cancel.cancel();
                        return;
                    }
                }
            }
        }
    }

    /// Returns whether the time has come, and not the end of the wait.
    fn sleep_until(&self, due: Instant) -> bool {
        let mut state = self.shared.state();
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if state.over || left.is_zero() {
                return !state.over;
            }
            let wait = self.shared.changed.wait_timeout(state, left);
            state = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// What is said about the wait.
struct Saying {
    due: Instant,
    line: Option<StatusLine>,
    pauses: PlainPauses,
}

impl Saying {
    const ON_A_TERMINAL: Duration = Duration::from_millis(500);
    const UP_TO_DATE: Duration = Duration::from_secs(1);

    fn new(watch: &Watch) -> Self {
        let understands = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let terminal = understands && io::stderr().is_terminal();
        let mut pauses = PlainPauses::default();
        let (line, first) = if watch.quiet {
            return Self { due: never(), line: None, pauses };
        } else if terminal {
            (Some(StatusLine::new()), Self::ON_A_TERMINAL)
        } else {
            (None, pauses.next().unwrap_or_default())
        };
        Self { due: watch.since + first, line, pauses }
    }

    fn say(&mut self, watch: &Watch) {
        let begin = Instant::now();
        match &mut self.line {
            Some(line) if !terminal::is_ours() => line.abandon(),
            Some(line) => {
                const USUAL: usize = 80;
                let text = Scene::look(watch).fitting(terminal::width().unwrap_or(USUAL));
                // Looking takes its time.
                if !watch.shared.state().over {
                    line.draw(&text);
                }
            }
            None => {
                let text = Scene::look(watch).whole();
                if !watch.shared.state().over {
                    say(&text);
                }
            }
        }
        // Looking is to take no more than a twentieth of our time, however much there is to look at.
        let pause = match self.line {
            Some(_) => Self::UP_TO_DATE.max(begin.elapsed() * 20),
            None => self.pauses.next().unwrap_or_default(),
        };
        self.due = Instant::now() + pause;
    }

    /// Says something that stays.
    fn interject(&mut self, text: &str) {
        if let Some(line) = &mut self.line {
            line.clear();
            self.due = Instant::now();
        }
        say(text);
    }
}

/// The looking for deadlocks.
struct Looking {
    due: Instant,
    pauses: Pauses,
    told: Option<String>,
    /// A deadlock was found, and others in it are to give up first.
    patient: bool,
}

enum Verdict {
    Nothing,
    Warn(String),
    End(String),
}

impl Looking {
    fn new(watch: &Watch) -> Self {
        let mut pauses = Pauses::default();
        let due = match watch.deadlock {
            OnDeadlock::Ignore => never(),
            OnDeadlock::Warn | OnDeadlock::Fail => watch.since + pauses.next().unwrap_or_default(),
        };
        Self { due, pauses, told: None, patient: false }
    }

    fn look(&mut self, watch: &Watch) -> Verdict {
        let found = watch.lookout.look();
        let was_patient = std::mem::take(&mut self.patient);
        self.due = Instant::now() + self.pauses.next().unwrap_or_default();
        let Some(deadlock) = found else { return Verdict::Nothing };
        if watch.deadlock == OnDeadlock::Fail {
            let patience = watch.lookout.patience(&deadlock);
            if was_patient || patience.is_zero() {
                return Verdict::End(deadlock.to_string());
            }
            self.patient = true;
            self.due = Instant::now() + patience;
            return Verdict::Nothing;
        }
        self.warn(watch, &deadlock)
    }

    fn warn(&mut self, watch: &Watch, deadlock: &Deadlock) -> Verdict {
        let text = deadlock.to_string();
        if self.told.as_ref() == Some(&text) {
            return Verdict::Nothing;
        }
        let end = if watch.deadline.is_some() {
            "will not end before its time is up"
        } else {
            "will never end by itself"
        };
        let line = format!("{}: this wait {end}, for it is a deadlock: {text}", watch.name);
        self.told = Some(text);
        Verdict::Warn(line)
    }
}
