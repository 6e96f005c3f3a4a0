//! With the feature `tracing`: an event when a wait begins, when the lock is acquired and when it is
//! released, each with the path and the mode, the last two with how long it took.

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lockmgr::{Error, FileLock};
use support::roles::{HOLD, holder, release};
use support::{BOUND, serve, wait_for_blocked};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[test]
fn worker() {
    serve(&[HOLD]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

/// One event: its message and its fields as text.
#[derive(Clone, Debug, Default)]
struct Seen {
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Seen {
    /// A duration as `Debug` writes it, in seconds.
    fn duration(&self, field: &str) -> f64 {
        let text = self.fields.get(field).unwrap_or_else(|| panic!("no {field}: {self:?}"));
        let (number, scale) = [("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)]
            .into_iter()
            .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))
            .unwrap_or_else(|| panic!("no duration: {text}"));
        number.parse::<f64>().unwrap() * scale
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.insert(field.name(), text);
        }
    }
}

/// Keeps the events of the library.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Seen>>>);

impl Log {
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    /// Checks which events came, all of them about this path and mode.
    fn expect(&self, messages: &[&str], path: &Path, mode: &str) -> Vec<Seen> {
        let seen = self.take();
        let found: Vec<&str> = seen.iter().map(|event| event.message.as_str()).collect();
        assert_eq!(found, messages);
        for event in &seen {
            assert!(event.fields["path"].contains(path.to_str().unwrap()), "{event:?}");
            assert_eq!(event.fields["mode"], mode);
        }
        seen
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("lockmgr")
    }

    fn event(&self, event: &Event<'_>) {
        assert!(*event.metadata().level() >= Level::DEBUG, "too loud for a library");
        let mut seen = Seen::default();
        event.record(&mut seen);
        self.0.lock().unwrap().push(seen);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Runs with a log for this thread.
fn logged(run: impl FnOnce(&Log)) {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || run(&log));
}

const WAITING: &str = "waiting for the lock";
const ACQUIRED: &str = "acquired the lock";
const RELEASED: &str = "released the lock";
const HELD: Duration = Duration::from_millis(30);

fn open(path: &Path, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

#[test]
fn a_free_lock_is_acquired_and_released() {
    for mechanism in MECHANISMS {
        logged(|log| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let lock = open(&path, mechanism);
            assert!(log.take().is_empty());
            let guard = lock.lock().unwrap();
            let acquired = log.expect(&[ACQUIRED], &path, "exclusive");
            assert!(acquired[0].duration("waited").abs() < f64::EPSILON);
            thread::sleep(HELD);
            guard.unlock().unwrap();
            let released = log.expect(&[RELEASED], &path, "exclusive");
            assert!(released[0].duration("held") >= HELD.as_secs_f64());

            drop(lock.lock_shared().unwrap());
            log.expect(&[ACQUIRED, RELEASED], &path, "shared");
        });
    }
}

#[test]
fn a_contended_lock_is_waited_for_first() {
    for mechanism in MECHANISMS {
        logged(|log| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let lock = open(&path, mechanism);

            // In the kernel.
            let mut other = holder(&[path.to_str().unwrap(), mechanism]);
            let releaser = thread::spawn({
                let path = path.clone();
                move || {
                    wait_for_blocked(&path, 1);
                    thread::sleep(HELD);
                    release(&mut other);
                }
            });
            let guard = lock.lock_timeout(BOUND).unwrap();
            releaser.join().unwrap();
            let events = log.expect(&[WAITING, ACQUIRED], &path, "exclusive");
            assert!(events[1].duration("waited") >= HELD.as_secs_f64());
            assert!(guard.wait_time() >= HELD);
            drop(guard);
            log.expect(&[RELEASED], &path, "exclusive");

            // In the queue of the handle.
            let guard = lock.acquire().wait_owned().unwrap();
            log.expect(&[ACQUIRED], &path, "exclusive");
            let releaser = thread::spawn(move || {
                thread::sleep(HELD);
                drop(guard);
            });
            drop(lock.lock_shared().unwrap());
            releaser.join().unwrap();
            let events = log.expect(&[WAITING, ACQUIRED, RELEASED], &path, "shared");
            assert!(events[1].duration("waited") > 0.0);
        });
    }
}

#[test]
fn a_wait_in_vain_is_told_once() {
    for mechanism in MECHANISMS {
        logged(|log| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let _other = holder(&[path.to_str().unwrap(), mechanism]);
            let lock = open(&path, mechanism);
            assert!(matches!(lock.lock_timeout(HELD), Err(Error::TimedOut { .. })));
            log.expect(&[WAITING], &path, "exclusive");
            // An attempt does not wait.
            assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
            assert!(log.take().is_empty());
        });
    }
}

#[test]
fn a_task_tells_the_same() {
    for mechanism in ["flock", "ofd"] {
        logged(|log| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let lock = open(&path, mechanism);
            smol::block_on(async {
                let guard = lock.acquire().await.unwrap();
                log.expect(&[ACQUIRED], &path, "exclusive");
                let late = lock.acquire().timeout(Duration::from_millis(20));
                assert!(matches!(late.await, Err(Error::TimedOut { .. })));
                log.expect(&[WAITING], &path, "exclusive");
                drop(guard);
                log.expect(&[RELEASED], &path, "exclusive");
            });
        });
    }
}

/// Guards of a re-entrant handle share one hold: it is acquired and released once.
#[test]
fn a_hold_that_guards_share_is_told_once() {
    logged(|log| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = FileLock::options().reentrant(true).open(&path).unwrap();
        let outer = lock.lock().unwrap();
        let inner = lock.lock().unwrap();
        drop(outer);
        log.expect(&[ACQUIRED], &path, "exclusive");
        drop(inner);
        log.expect(&[RELEASED], &path, "exclusive");
    });
}
