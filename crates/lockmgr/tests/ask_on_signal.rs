//! Promise 5 for runtimes whose signal handlers run outside the handler: [`lockmgr::ask_on_signal`].

mod support;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{Error, FileLock, Semaphore, ask_on_signal};
use support::tasks::{status_field, this_thread};
use support::{raw, wait_for_blocked};

/// Runs `wait` in a thread, which gets signals all the time: one that comes before the thread sleeps
/// interrupts nothing.
fn pestered<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> T {
    raw::catch(libc::SIGUSR1, false);
    let (tell_thread, thread_id) = channel();
    let (tell, outcome) = channel();
    let (stay, leave) = channel::<()>();
    let waiter = thread::spawn(move || {
        tell_thread.send(this_thread()).unwrap();
        tell.send(wait()).unwrap();
        // There to be signalled until the outcome has arrived.
        leave.recv().unwrap_err();
    });
    let thread_id = thread_id.recv().unwrap();
    let outcome = loop {
        match outcome.recv_timeout(Duration::from_millis(1)) {
            Ok(outcome) => break outcome,
            Err(RecvTimeoutError::Timeout) => raw::signal_thread(thread_id, libc::SIGUSR1),
            Err(RecvTimeoutError::Disconnected) => panic!("the waiter has panicked"),
        }
    };
    drop(stay);
    waiter.join().unwrap();
    outcome
}

/// Answers yes twice.
fn twice(asked: &Arc<AtomicU32>) -> impl Fn() -> bool + use<> {
    let asked = Arc::clone(asked);
    move || asked.fetch_add(1, Ordering::SeqCst) < 2
}

#[test]
fn a_wait_in_the_kernel_is_resumed_or_ended_as_the_answer_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let _held = FileLock::open(&path).unwrap().acquire().wait_owned().unwrap();
    for fair in [false, true] {
        for timeout in [None, Some(Duration::from_secs(1000))] {
            let asked = Arc::new(AtomicU32::new(0));
            let (path, go_on) = (path.clone(), twice(&asked));
            let outcome = pestered(move || {
                let lock = FileLock::options().fair(fair).open(&path).unwrap();
                let mut acquire = lock.acquire();
                if let Some(timeout) = timeout {
                    acquire = acquire.timeout(timeout);
                }
                ask_on_signal(go_on, || acquire.wait_owned().map(drop))
            });
            assert!(matches!(outcome, Err(Error::Cancelled { .. })));
            assert_eq!(asked.load(Ordering::SeqCst), 3);
        }
    }
}

#[test]
fn a_wait_for_ones_turn_is_ended_too_and_leaves_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let lock = FileLock::open(dir.path().join("a.lock")).unwrap();
    let held = lock.acquire().wait_owned().unwrap();
    for timeout in [None, Some(Duration::from_secs(1000))] {
        let asked = Arc::new(AtomicU32::new(0));
        let (lock, go_on) = (lock.clone(), twice(&asked));
        let outcome = pestered(move || {
            let mut acquire = lock.acquire();
            if let Some(timeout) = timeout {
                acquire = acquire.timeout(timeout);
            }
            ask_on_signal(go_on, || acquire.wait_owned().map(drop))
        });
        assert!(matches!(outcome, Err(Error::Cancelled { .. })));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
    drop(held);
    drop(lock.try_lock().unwrap());
}

#[test]
fn a_semaphore_is_meant_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.lock");
    let _held = Semaphore::open(&path, 1).unwrap().try_acquire().unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let go_on = twice(&asked);
    let outcome = pestered(move || {
        let semaphore = Semaphore::open(&path, 1).unwrap();
        ask_on_signal(go_on, || semaphore.acquire().wait().map(drop))
    });
    assert!(matches!(outcome, Err(Error::Cancelled { .. })));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn signals_take_nothing_from_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let _held = FileLock::open(&path).unwrap().acquire().wait_owned().unwrap();
    let limit = Duration::from_millis(50);
    let (outcome, passed) = pestered(move || {
        let lock = FileLock::open(&path).unwrap();
        let since = Instant::now();
        let outcome =
            ask_on_signal(|| true, || lock.acquire().timeout(limit).wait_owned().map(drop));
        (outcome, since.elapsed())
    });
    assert!(matches!(outcome, Err(Error::TimedOut { .. })));
    assert!(passed >= limit, "{passed:?}");
}

/// Counts how often it is being asked at the same time.
#[derive(Default)]
struct Depth {
    now: AtomicU32,
    most: AtomicU32,
}

impl Depth {
    fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let result = run();
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

#[test]
fn the_answer_may_take_locks_itself() {
    let dir = tempfile::tempdir().unwrap();
    let [path, other] = ["a.lock", "b.lock"].map(|name| dir.path().join(name));
    let hold = |path| FileLock::open(path).unwrap().acquire().wait_owned().unwrap();
    let _held = (hold(&path), hold(&other));
    let depth = Arc::new(Depth::default());
    let asked = Arc::clone(&depth);
    let outcome = pestered(move || {
        let (lock, other) = (FileLock::open(&path).unwrap(), FileLock::open(&other).unwrap());
        // Longer than the wait that is asked about lasts.
        let go_on = move || {
            let long = Duration::from_millis(1500);
            let inner = asked.within(|| other.acquire().timeout(long).wait_owned().map(drop));
            assert!(matches!(inner, Err(Error::TimedOut { .. })));
            true
        };
        let short = Duration::from_secs(1);
        ask_on_signal(go_on, || lock.acquire().timeout(short).wait_owned().map(drop))
    });
    assert!(matches!(outcome, Err(Error::TimedOut { .. })));
    assert_eq!(depth.most.load(Ordering::SeqCst), 1);
}

#[test]
fn what_the_answer_waits_for_is_not_interrupted_by_the_deadline_of_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let [path, other] = ["a.lock", "b.lock"].map(|name| dir.path().join(name));
    let hold = |path| FileLock::open(path).unwrap().acquire().wait_owned().unwrap();
    let _held = (hold(&path), hold(&other));
    raw::catch(libc::SIGUSR1, false);
    let (tell_thread, thread_id) = channel();
    let (tell, switches) = channel();
    let waited_for = path.clone();
    let waiter = thread::spawn(move || {
        let (lock, other) = (FileLock::open(&path).unwrap(), FileLock::open(&other).unwrap());
        tell_thread.send(this_thread()).unwrap();
        let limit = Duration::from_millis(500);
        let go_on = move || {
            let slept = || -> u64 {
                let field = "voluntary_ctxt_switches";
                status_field(std::process::id(), this_thread(), field).unwrap().parse().unwrap()
            };
            let before = slept();
            let inner = other.acquire().timeout(2 * limit).wait_owned().map(drop);
            assert!(matches!(inner, Err(Error::TimedOut { .. })));
            tell.send(slept() - before).unwrap();
            true
        };
        ask_on_signal(go_on, || lock.acquire().timeout(limit).wait_owned().map(drop))
    });
    let thread_id = thread_id.recv().unwrap();
    wait_for_blocked(&waited_for, 1);
    raw::signal_thread(thread_id, libc::SIGUSR1);
    assert!(matches!(waiter.join().unwrap(), Err(Error::TimedOut { .. })));
    // With an alarm that has gone off it is one every 250 us.
    let switches = switches.recv().unwrap();
    assert!(switches < 100, "{switches}");
}

#[test]
fn one_who_panics_when_asked_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let _held = FileLock::open(&path).unwrap().acquire().wait_owned().unwrap();
    let (outcomes, asked) = pestered(move || {
        let lock = FileLock::open(&path).unwrap();
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let go_on = move || {
            count.set(count.get() + 1);
            assert!(count.get() > 1, "an answer of the program's");
            false
        };
        let outcomes = ask_on_signal(go_on, || {
            let wait = || lock.acquire().wait_owned().map(drop);
            (catch_unwind(AssertUnwindSafe(wait)).is_err(), wait())
        });
        (outcomes, asked.get())
    });
    assert!(matches!(outcomes, (true, Err(Error::Cancelled { .. }))));
    assert_eq!(asked, 2);
}

#[test]
fn outside_the_body_nobody_is_asked() {
    let asked = Arc::new(AtomicU32::new(0));
    let go_on = {
        let asked = Arc::clone(&asked);
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            false
        }
    };
    ask_on_signal(go_on, || ());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let _held = FileLock::open(&path).unwrap().acquire().wait_owned().unwrap();
    let outcome = pestered(move || {
        let lock = FileLock::open(&path).unwrap();
        lock.acquire().timeout(Duration::from_millis(20)).wait_owned().map(drop)
    });
    assert!(matches!(outcome, Err(Error::TimedOut { .. })));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}
