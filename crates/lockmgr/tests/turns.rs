//! Threads and tasks that share a handle are refused, or kept waiting, only for what is so: not because another
//! one of them is just asking the kernel, has given up, sleeps at the gate, or has panicked.

mod support;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use lockmgr::{Error, FileLock, Mechanism, OwnedFileLockGuard, Semaphore, ask_on_signal};
use support::futures::poll_once;
use support::tasks::this_thread;
use support::{BOUND, Worker, eventually, raw, roles, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[roles::HOLD, roles::TRY]);
}

/// A fair handle that is held shared, a writer in another process who waits for that in the gate, and a thread
/// of ours that sleeps at the gate with the turn of the handle.
fn at_the_gate(mechanism: &str, run: impl FnOnce(&FileLock, OwnedFileLockGuard, Worker)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let options = FileLock::options().mechanism(mechanism.parse().unwrap()).fair(true);
    let lock = options.open(&path).unwrap();
    let held = lock.acquire().shared().wait_owned().unwrap();
    let writer = Worker::spawn("hold", &[path.to_str().unwrap(), &format!("fair {mechanism}")]);
    wait_for_blocked(&path, 1);
    thread::scope(|scope| {
        scope.spawn(|| drop(lock.lock_shared_timeout(BOUND).unwrap()));
        wait_for_blocked(&path, 2);
        run(&lock, held, writer);
    });
}

#[test]
fn who_holds_it_shared_gets_it_again_though_another_thread_has_the_turn() {
    for mechanism in ["flock", "ofd"] {
        at_the_gate(mechanism, |lock, held, mut writer| {
            let bound = lock.try_lock_shared().unwrap();
            let again = lock.lock_shared_timeout(BOUND).unwrap();
            assert!(matches!(lock.lock(), Err(Error::Deadlock { own_thread: true, .. })));
            drop((bound, held, again));
            writer.expect("held");
            roles::release(&mut writer);
        });
    }
}

#[test]
fn what_another_thread_is_about_to_share_is_not_handed_over() {
    for mechanism in ["flock", "ofd"] {
        at_the_gate(mechanism, |_, held, mut writer| {
            assert!(matches!(held.into_fd(), Err(Error::Unsupported { .. })));
            // It was released then.
            writer.expect("held");
            roles::release(&mut writer);
        });
    }
}

#[test]
fn shared_tries_do_not_refuse_each_other() {
    const THREADS: usize = 4;
    for (fair, held) in [(false, false), (false, true), (true, false), (true, true)] {
        let dir = tempfile::tempdir().unwrap();
        let lock = FileLock::options().fair(fair).open(dir.path().join("a.lock")).unwrap();
        let _held = held.then(|| lock.acquire().shared().wait_owned().unwrap());
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let lock = &lock;
                scope.spawn(move || {
                    for _ in 0..3000 {
                        let guard = match thread {
                            0 => lock.lock_shared_timeout(Duration::ZERO),
                            _ => lock.try_lock_shared(),
                        };
                        assert!(guard.is_ok(), "fair {fair}, held {held}: {guard:?}");
                    }
                });
            }
        });
    }
}

/// Polls the future once, and drops it while it waits in the kernel.
fn begin_and_drop(path: &std::path::Path, future: impl Future) {
    let mut future = pin!(future);
    assert!(poll_once(&mut future).is_pending());
    wait_for_blocked(path, 1);
}

#[test]
fn a_future_that_was_dropped_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let (holder, lock) = (FileLock::open(&path).unwrap(), FileLock::open(&path).unwrap());
    for round in 0..300 {
        let held = holder.lock().unwrap();
        begin_and_drop(&path, lock.acquire().into_future());
        drop(held);
        let guard = lock.try_lock();
        assert!(guard.is_ok(), "round {round}: {guard:?}");
    }
}

#[test]
fn a_future_of_slots_that_was_dropped_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.lock");
    let (holder, slots) = (Semaphore::open(&path, 1).unwrap(), Semaphore::open(&path, 1).unwrap());
    for round in 0..300 {
        let held = holder.try_acquire().unwrap();
        let mut future = Box::pin(slots.acquire().into_future());
        assert!(poll_once(&mut future).is_pending());
        drop(future);
        drop(held);
        let guard = slots.acquire().try_in_turn();
        assert!(guard.is_ok(), "round {round}: {guard:?}");
    }
}

#[test]
fn a_task_that_is_not_polled_keeps_no_try_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let lock = FileLock::open(dir.path().join("a.lock")).unwrap();
    let held = lock.lock().unwrap();
    let mut future = Box::pin(lock.acquire().into_future());
    assert!(poll_once(&mut future).is_pending());
    // It has the turn now, and does not know.
    drop(held);
    assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
    drop(future);
    drop(lock.try_lock().unwrap());
}

/// Runs `wait` in a thread that is interrupted until it has panicked in its answer.
fn panicking_in_its_answer(wait: impl FnOnce() + Send + 'static) {
    raw::catch(libc::SIGUSR1, false);
    let (tell_thread, thread_id) = channel();
    let over = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&over);
    let waiter = thread::spawn(move || {
        tell_thread.send(this_thread()).unwrap();
        let outcome =
            catch_unwind(AssertUnwindSafe(|| ask_on_signal(|| panic!("no answer"), wait)));
        is_over.store(true, Ordering::SeqCst);
        // There to be signalled until that was seen.
        thread::park();
        outcome.is_err()
    });
    let thread_id = thread_id.recv().unwrap();
    eventually("the waiter has panicked", || {
        raw::signal_thread(thread_id, libc::SIGUSR1);
        over.load(Ordering::SeqCst)
    });
    waiter.thread().unpark();
    assert!(waiter.join().unwrap());
}

#[test]
fn an_answer_that_panics_leaves_no_place_in_a_queue() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix] {
        let options = FileLock::options().mechanism(mechanism);
        let lock = options.open(dir.path().join("a.lock")).unwrap();
        // In the queue of the handle, and in that of the inode.
        for other in [lock.clone(), options.open(dir.path().join("a.lock")).unwrap()] {
            let held = lock.acquire().wait_owned().unwrap();
            panicking_in_its_answer(move || drop(other.lock()));
            drop(held);
            drop(lock.lock_timeout(BOUND).unwrap());
        }
    }
    let slots = Semaphore::open(dir.path().join("s.lock"), 1).unwrap();
    for before in [false, true] {
        let held = slots.try_acquire().unwrap();
        // Who waits in the kernel is in the way of the others.
        let mut first = Box::pin(slots.acquire().into_future());
        if before {
            assert!(poll_once(&mut first).is_pending());
        }
        let other = slots.clone();
        panicking_in_its_answer(move || drop(other.acquire().wait()));
        drop((held, first));
        drop(slots.acquire_timeout(BOUND).unwrap());
    }
}

/// A waker of a program that is broken.
struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a broken waker");
    }
}

#[test]
fn a_waker_that_panics_takes_no_lock_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = FileLock::open(&path).unwrap();
    let held = lock.lock().unwrap();
    let mut first = Box::pin(lock.acquire().shared().into_future());
    let mut second = Box::pin(lock.acquire().shared().into_future());
    let broken = Waker::from(Arc::new(Panics));
    assert!(poll_once(&mut first).is_pending());
    assert!(second.as_mut().poll(&mut Context::from_waker(&broken)).is_pending());
    drop(held);
    // The first one gets the lock, and wakes the second one.
    assert!(matches!(poll_once(&mut first), Poll::Ready(Ok(_))));
    drop((first, second));
    assert!(roles::others_get_it(&[path.to_str().unwrap(), "flock"]));
    drop(lock.lock_timeout(BOUND).unwrap());
}
