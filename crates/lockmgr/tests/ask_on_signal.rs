//! Promise 5 for runtimes whose signal handlers run outside the handler: [`lockmgr::ask_on_signal`].

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{Error, FileLock, Semaphore, ask_on_signal};
use support::raw;
use support::tasks::this_thread;

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
