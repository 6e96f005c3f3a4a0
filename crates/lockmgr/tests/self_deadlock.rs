//! Promise 6: no self-deadlock in silence. A thread that would wait for what only it can give back
//! gets an error that says so, or comes in again where the handle is re-entrant. Whoever can still
//! be helped by somebody else is not judged.

mod support;

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use lockmgr::{CancelToken, Error, FileLock, Mode, Range, Result};
use support::roles::{HOLD, TRY, holder, others_get_it};
use support::tasks::{is_alive, this_thread, wait_until_queued};
use support::{BOUND, Worker, eventually, hear, kernel_locks, say, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[HOLD, TRY, ("cross", cross)]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

fn open(path: impl AsRef<Path>, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

fn open_range(path: &Path, mechanism: &str, range: &str) -> FileLock {
    let range: Range = range.parse().unwrap();
    FileLock::options().mechanism(mechanism.parse().unwrap()).range(range).open(path).unwrap()
}

fn reentrant(path: &Path, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).reentrant(true).open(path).unwrap()
}

/// Runs in a thread of its own, and fails if that hangs.
fn ends<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, results) = channel();
    let thread = thread::spawn(move || sender.send(run()).unwrap());
    match results.recv_timeout(BOUND) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().unwrap_err())
        }
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>) {
    match result {
        Err(error @ Error::Deadlock { own_thread: true, .. }) => {
            assert!(error.to_string().contains("this thread holds the lock"), "{error}");
            assert_eq!(error.kind(), std::io::ErrorKind::Deadlock);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn waiting_for_a_lock_that_this_thread_holds_is_an_error() {
    for mechanism in MECHANISMS {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
            for held in [Mode::Exclusive, Mode::Shared] {
                let guard = lock.acquire().mode(held).wait().unwrap();
                for lock in [&lock, &lock.clone(), &other] {
                    let token = CancelToken::new();
                    let far = Duration::from_secs(3600);
                    refused(lock.lock());
                    refused(lock.lock_timeout(far));
                    refused(lock.acquire().wait_owned());
                    refused(lock.acquire().cancel(&token).wait());
                    refused(lock.acquire().timeout(far).cancel(&token).wait_owned());
                    // An attempt does not wait, so it is merely refused.
                    assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
                    if held == Mode::Exclusive {
                        refused(lock.lock_shared());
                        refused(lock.lock_shared_timeout(far));
                        assert!(matches!(lock.try_lock_shared(), Err(Error::Busy { .. })));
                    } else {
                        drop(lock.lock_shared().unwrap());
                        drop(lock.lock_shared_timeout(far).unwrap());
                        drop(lock.try_lock_shared().unwrap());
                    }
                }
                assert!(guard.is_held());
                assert!(!others_get_it(&[path.to_str().unwrap(), mechanism]));
                guard.unlock().unwrap();
            }
            drop(other.lock().unwrap());
            drop(lock.lock().unwrap());
        });
    }
}

#[test]
fn it_is_judged_by_the_mode_held_now() {
    for mechanism in MECHANISMS {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
            let mut guard = lock.lock().unwrap();
            refused(other.lock_shared());
            guard.downgrade().unwrap();
            drop(other.lock_shared().unwrap());
            refused(other.lock());
            if mechanism != "posix" {
                guard.try_upgrade().unwrap();
                refused(other.lock_shared());
            }
            drop(guard);
            drop(other.lock().unwrap());

            if mechanism != "posix" {
                let mut guard = lock.lock_shared().unwrap();
                guard.try_upgrade().unwrap();
                refused(other.lock_shared());
                refused(lock.lock_shared());
            }
        });
    }
}

#[test]
fn mechanisms_that_do_not_see_each_other_do_not_wait_for_each_other() {
    ends(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        for record in ["ofd", "posix"] {
            let (flock, record) = (open(&path, "flock"), open(&path, record));
            let one = flock.lock().unwrap();
            let two = record.lock_timeout(BOUND).unwrap();
            drop((one, two));
            let one = record.lock().unwrap();
            let two = flock.lock().unwrap();
            drop((one, two));
        }
        let (ofd, posix) = (open(&path, "ofd"), open(&path, "posix"));
        let guard = ofd.lock().unwrap();
        refused(posix.lock());
        drop(guard);
        let guard = posix.lock().unwrap();
        refused(ofd.lock());
        drop(guard);
    });
}

#[test]
fn ranges_that_do_not_overlap_are_no_reason() {
    for mechanism in ["ofd", "posix"] {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let range = |range| open_range(&path, mechanism, range);
            let (low, high, both) = (range("0+10"), range("10+10"), range("9+2"));
            let first = low.lock().unwrap();
            let second = high.lock().unwrap();
            refused(both.lock());
            drop(first);
            refused(both.lock_shared());
            drop(second);
            drop(both.lock().unwrap());
        });
    }
}

#[test]
fn two_files_are_no_reason() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let one = open(dir.path().join("one"), mechanism);
        let two = open(dir.path().join("two"), mechanism);
        let first = one.lock().unwrap();
        let second = two.lock_timeout(BOUND).unwrap();
        drop((first, second));
    }
}

/// What this thread holds there is not what it waits for: another process is.
#[test]
fn a_wait_for_another_process_is_not_judged_by_what_is_held_beside_it() {
    for (mine, theirs, wanted) in [
        (("flock", None), ("ofd", None), ("ofd", None)),
        (("flock", None), ("posix", None), ("posix", None)),
        (("ofd", None), ("flock", None), ("flock", None)),
        (("ofd", Some("0+10")), ("ofd", Some("10+10")), ("ofd", Some("10+5"))),
        (("posix", Some("0+10")), ("posix", Some("10+10")), ("posix", Some("15+9"))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let open_it = |(mechanism, range): (&str, Option<&str>)| {
            range
                .map_or_else(|| open(&path, mechanism), |range| open_range(&path, mechanism, range))
        };
        let mut args = vec![path.to_str().unwrap(), theirs.0, "exclusive"];
        args.extend(theirs.1);
        let _other = holder(&args);
        let lock = open_it(mine);
        let _guard = lock.lock().unwrap();
        let result = open_it(wanted).lock_timeout(Duration::from_millis(20)).map(drop);
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
    }
}

/// The same file by another name is the same lock.
#[test]
fn a_hard_link_is_the_same_file() {
    for mechanism in MECHANISMS {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let (one, two) = (dir.path().join("one"), dir.path().join("two"));
            let lock = open(&one, mechanism);
            std::fs::hard_link(&one, &two).unwrap();
            let _guard = lock.lock().unwrap();
            refused(open(&two, mechanism).lock());
        });
    }
}

/// What the error advises, after it has said what is wrong.
#[track_caller]
fn advice<T: std::fmt::Debug>(result: Result<T>) -> String {
    let text = result.unwrap_err().to_string();
    text.split_once("would wait for itself; ").expect(&text).1.to_owned()
}

#[test]
fn what_is_advised_would_help() {
    const REENTRANT: &str = "release it first, or make the handle re-entrant";
    for mechanism in MECHANISMS {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let (plain, again) = (open(&path, mechanism), reentrant(&path, mechanism));
            let held = plain.lock().unwrap();
            assert_eq!(advice(plain.lock()), REENTRANT);
            assert_eq!(advice(plain.lock_shared()), REENTRANT);
            assert_eq!(advice(plain.acquire().wait_owned()), "release it first");
            // No handle re-enters what another one holds.
            assert_eq!(advice(again.lock()), "release it first");
            assert_eq!(advice(open(&path, mechanism).lock()), "release it first");
            drop(held);
            // No handle becomes exclusive by being entered again.
            for lock in [&plain, &again] {
                let held = lock.lock_shared().unwrap();
                assert_eq!(advice(lock.lock()), "release it first");
                drop(held);
            }
            let held = again.lock().unwrap();
            assert_eq!(
                advice(again.acquire().wait_owned()),
                "release it first; only guards that cannot leave the thread are re-entrant"
            );
            drop(held);
        });
    }
}

/// An owned guard may be released by any thread: waiting for it is no deadlock.
#[test]
fn owned_guards_are_not_judged() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        for waits in [&lock, &other] {
            let guard = lock.acquire().wait_owned().unwrap();
            let result = waits.lock_timeout(Duration::from_millis(20));
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
            // Now it goes to another thread, which releases it while this one waits.
            let (sender, threads) = channel();
            sender.send(this_thread()).unwrap();
            let kernel = std::ptr::eq(waits, &raw const other) && mechanism != "posix";
            let releaser = {
                let path = path.clone();
                thread::spawn(move || {
                    let waiter = threads.recv().unwrap();
                    if kernel {
                        wait_for_blocked(&path, 1);
                    } else {
                        wait_until_queued(waiter);
                    }
                    drop(guard);
                })
            };
            drop(waits.lock_timeout(BOUND).unwrap());
            releaser.join().unwrap();
        }
    }
}

/// Another thread waits through the second handle already, for what this thread holds through the
/// first. Who queues behind that one waits for itself.
#[test]
fn behind_a_thread_that_waits_for_this_one() {
    for mechanism in MECHANISMS {
        for held in [Mode::Exclusive, Mode::Shared] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let (first, second) = (open(&path, mechanism), open(&path, mechanism));
            let (sender, threads) = channel();
            let waiting = second.clone();
            let (go, may_go) = channel();
            let waiter = thread::spawn(move || {
                may_go.recv().unwrap();
                sender.send(this_thread()).unwrap();
                drop(waiting.lock().unwrap());
            });
            ends(move || {
                let guard = first.acquire().mode(held).wait().unwrap();
                go.send(()).unwrap();
                let thread = threads.recv().unwrap();
                if mechanism == "posix" {
                    wait_until_queued(thread);
                } else {
                    wait_for_blocked(&path, 1);
                }
                refused(second.lock());
                refused(second.lock_timeout(BOUND));
                refused(second.lock_shared());
                refused(second.acquire().shared().wait_owned());
                // A third handle waits behind nobody: what the mode allows can be had.
                let third = open(&path, mechanism);
                match held {
                    Mode::Exclusive => refused(third.lock_shared()),
                    Mode::Shared => drop(third.lock_shared_timeout(BOUND).unwrap()),
                }
                drop(guard);
            });
            waiter.join().unwrap();
        }
    }
}

/// The same, but the one in front gives up in time, or can be told to: that is worth waiting for.
#[test]
fn behind_a_thread_that_will_give_up() {
    for mechanism in MECHANISMS {
        for cancelled in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let (first, second) = (open(&path, mechanism), open(&path, mechanism));
            let (sender, threads) = channel();
            let (go, may_go) = channel();
            let token = CancelToken::new();
            let waiter = {
                let (second, token) = (second.clone(), token.clone());
                thread::spawn(move || {
                    may_go.recv().unwrap();
                    sender.send(this_thread()).unwrap();
                    if cancelled {
                        second.acquire().cancel(&token).wait().map(drop)
                    } else {
                        second.lock_timeout(Duration::from_millis(100)).map(drop)
                    }
                })
            };
            ends(move || {
                let guard = first.lock_shared().unwrap();
                go.send(()).unwrap();
                let thread = threads.recv().unwrap();
                if mechanism == "posix" {
                    wait_until_queued(thread);
                } else {
                    eventually("it waits in the kernel, or did", || {
                        kernel_locks(&path).1 == 1 || !is_alive(thread)
                    });
                }
                // What cannot end well is refused all the same.
                refused(second.lock());
                let canceller = thread::spawn({
                    let this = this_thread();
                    move || {
                        wait_until_queued(this);
                        token.cancel();
                    }
                });
                drop(second.lock_shared().unwrap());
                canceller.join().unwrap();
                drop(guard);
            });
            let result = waiter.join().unwrap();
            assert!(
                matches!(result, Err(Error::Cancelled { .. } | Error::TimedOut { .. })),
                "{result:?}"
            );
        }
    }
}

/// Through the handle itself a shared holder comes in again before those who wait for it to leave.
#[test]
fn a_shared_holder_does_not_queue_behind_who_waits_for_it() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let waiting = lock.clone();
        let (sender, threads) = channel();
        let (go, may_go) = channel();
        let waiter = thread::spawn(move || {
            may_go.recv().unwrap();
            sender.send(this_thread()).unwrap();
            drop(waiting.lock_timeout(BOUND).unwrap());
        });
        ends(move || {
            let guard = lock.lock_shared().unwrap();
            go.send(()).unwrap();
            wait_until_queued(threads.recv().unwrap());
            drop(lock.lock_shared().unwrap());
            drop(lock.try_lock_shared().unwrap());
            drop(lock.lock_shared_timeout(Duration::ZERO).unwrap());
            drop(guard);
        });
        waiter.join().unwrap();
    }
}

/// Also when it came to be shared only later.
#[test]
fn a_downgraded_holder_does_not_queue_behind_who_waits_for_it() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let lock = open(dir.path().join("a.lock"), mechanism);
        let mut guard = lock.lock().unwrap();
        guard.downgrade().unwrap();
        let (sender, threads) = channel();
        let waiter = thread::spawn({
            let lock = lock.clone();
            move || {
                sender.send(this_thread()).unwrap();
                drop(lock.lock_timeout(BOUND).unwrap());
            }
        });
        wait_until_queued(threads.recv().unwrap());
        drop(lock.lock_shared_timeout(BOUND).unwrap());
        drop(guard);
        waiter.join().unwrap();
    }
}

/// Takes one file and, when it is told, the other; says what came of it.
fn cross(args: &[String]) {
    let (one, two) = (open(&args[0], "posix"), open(&args[1], "posix"));
    let guard = one.lock().unwrap();
    say("held");
    while let Some(line) = hear() {
        let result = match line.as_str() {
            "wait" => two.lock(),
            "wait with a deadline" => two.lock_timeout(BOUND),
            "end" => break,
            other => panic!("{other}"),
        };
        match result {
            Ok(_) => say("got"),
            Err(error @ Error::Deadlock { own_thread: false, .. }) => {
                assert!(error.to_string().contains("another process"), "{error}");
                say("deadlock");
            }
            Err(other) => panic!("{other}"),
        }
    }
    drop(guard);
    say("released");
}

#[test]
fn the_kernel_finds_deadlocks_between_processes_for_posix_locks() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let (one_text, two_text) = (one.to_str().unwrap(), two.to_str().unwrap());
    for wait in ["wait", "wait with a deadline"] {
        let mut left = Worker::spawn("cross", &[one_text, two_text]);
        let mut right = Worker::spawn("cross", &[two_text, one_text]);
        left.expect("held");
        right.expect("held");
        left.tell(wait);
        wait_for_blocked(&two, 1);
        right.tell(wait);
        right.expect("deadlock");
        // It keeps what it had, and the other one comes to its own once it lets go.
        assert_eq!(kernel_locks(&two), (1, 1));
        right.tell("end");
        right.expect("released");
        left.expect("got");
        left.tell("end");
        left.expect("released");
    }
}

#[test]
fn a_reentrant_handle_counts() {
    for mechanism in MECHANISMS {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let text = path.to_str().unwrap();
            let lock = reentrant(&path, mechanism);
            let free = || others_get_it(&[text, mechanism, "shared"]);
            // Dropped in any order: the last one releases.
            for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
                let mut guards = [
                    Some(lock.lock().unwrap()),
                    Some(lock.lock_timeout(BOUND).unwrap()),
                    Some(lock.try_lock().unwrap()),
                ];
                assert_eq!(kernel_locks(&path), (1, 0));
                for (count, index) in order.into_iter().enumerate() {
                    assert!(!free());
                    let guard = guards[index].take().unwrap();
                    assert!(guard.is_held());
                    if count % 2 == 0 {
                        guard.unlock().unwrap();
                    }
                }
                assert!(free());
            }
        });
    }
}

#[test]
fn a_reentrant_handle_and_the_other_mode() {
    for mechanism in MECHANISMS {
        ends(move || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let text = path.to_str().unwrap();
            let lock = reentrant(&path, mechanism);
            let shared_would_do = || others_get_it(&[text, mechanism, "shared"]);

            // Shared inside exclusive: it stays exclusive until the last one has gone.
            let outer = lock.lock().unwrap();
            let inner = lock.lock_shared().unwrap();
            let innermost = lock.try_lock_shared().unwrap();
            drop(outer);
            assert!(!shared_would_do());
            drop(innermost);
            assert!(!shared_would_do());
            drop(inner);
            assert!(shared_would_do());

            // Shared inside shared.
            let outer = lock.lock_shared().unwrap();
            let inner = lock.lock_shared().unwrap();
            drop(outer);
            assert!(!others_get_it(&[text, mechanism]));
            drop(inner);
            assert!(others_get_it(&[text, mechanism]));

            // Exclusive inside shared would wait for itself.
            let outer = lock.lock_shared().unwrap();
            refused(lock.lock());
            refused(lock.lock_timeout(BOUND));
            assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
            assert!(outer.is_held());
            drop(outer);

            // No change of mode while several guards share the hold.
            let mut outer = lock.lock().unwrap();
            let inner = lock.lock().unwrap();
            assert!(matches!(outer.downgrade(), Err(Error::Unsupported { .. })));
            drop(inner);
            outer.downgrade().unwrap();
            drop(outer);
            drop(lock.lock().unwrap());
        });
    }
}

#[test]
fn a_reentrant_handle_excludes_other_threads_and_handles() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = reentrant(&path, mechanism);
        let outer = lock.lock().unwrap();
        let inner = lock.lock().unwrap();
        thread::scope(|scope| {
            let busy = scope.spawn(|| matches!(lock.try_lock(), Err(Error::Busy { .. })));
            assert!(busy.join().unwrap());
            let waiter = scope.spawn(|| drop(lock.lock_timeout(BOUND).unwrap()));
            drop(outer);
            refused(reentrant(&path, mechanism).lock());
            assert!(!waiter.is_finished());
            drop(inner);
            waiter.join().unwrap();
        });
        // An owned guard takes no part: it is another claim on the lock.
        let guard = lock.lock().unwrap();
        refused(lock.acquire().wait_owned());
        drop(guard);
        let guard = lock.acquire().wait_owned().unwrap();
        let result = lock.lock_timeout(Duration::from_millis(20));
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        drop(guard);
        eventually("it is free", || lock.try_lock().is_ok());
    }
}
