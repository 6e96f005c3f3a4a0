//! A cancel token ends any wait, from any thread: in the kernel, in the queue of a handle, behind
//! another handle of the process. The outcome is a guard or `Cancelled`, never both and never a
//! hang. How quickly is a matter for the bench; here it is tested with a bound of seconds.

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{Acquire, CancelToken, Error, FileLock, Mode, OwnedFileLockGuard, Result};
use support::roles::{HOLD, TRY, holder, others_get_it, release};
use support::tasks::{signals_here, this_thread, wait_until_queued};
use support::{BOUND, alone, kernel_locks, raw, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[HOLD, TRY, ("blocked", with_all_signals_blocked)]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];
const LATE: Duration = Duration::from_secs(10);

fn open(path: impl AsRef<Path>, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

fn is_cancelled<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::Cancelled { .. }))
}

#[test]
fn many_waiters_under_one_token() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut other = holder(&[path.to_str().unwrap(), mechanism]);
        let token = CancelToken::new();
        let (sender, threads) = channel();
        let handles: Vec<_> = (0..4).map(|_| open(&path, mechanism)).collect();
        let start = thread::scope(|scope| {
            for round in 0..16_u32 {
                // Several threads on each handle, with and without a deadline, in both modes.
                let (lock, token, sender) = (&handles[round as usize % 4], &token, sender.clone());
                scope.spawn(move || {
                    sender.send(this_thread()).unwrap();
                    let mut acquire = lock.acquire().cancel(token);
                    if round % 3 == 0 {
                        acquire = acquire.timeout(BOUND);
                    }
                    if round % 5 == 0 {
                        acquire = acquire.shared();
                    }
                    assert!(is_cancelled(&acquire.wait()));
                });
            }
            // One of each handle waits in the kernel; posix handles queue behind the first.
            wait_for_blocked(&path, if mechanism == "posix" { 1 } else { 4 });
            for _ in 0..16 {
                threads.recv().unwrap();
            }
            let start = Instant::now();
            token.cancel();
            start
        });
        assert!(start.elapsed() < LATE);
        assert_eq!(kernel_locks(&path), (1, 0));
        assert!(token.is_cancelled());
        release(&mut other);
        for lock in handles {
            drop(lock.lock_timeout(BOUND).unwrap());
        }
    }
}

#[test]
fn from_any_thread_also_that_of_the_holder() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (one, two) = (open(&path, mechanism), open(&path, mechanism));
        let guard = one.lock().unwrap();
        for lock in [&one, &two] {
            let token = CancelToken::new();
            thread::scope(|scope| {
                let (sender, threads) = channel();
                let waiter = scope.spawn({
                    let token = token.clone();
                    move || {
                        sender.send(this_thread()).unwrap();
                        lock.acquire().cancel(&token).wait().map(drop)
                    }
                });
                let thread = threads.recv().unwrap();
                if std::ptr::eq(lock, &raw const two) && mechanism != "posix" {
                    wait_for_blocked(&path, 1);
                } else {
                    wait_until_queued(thread);
                }
                token.cancel();
                token.cancel();
                assert!(is_cancelled(&waiter.join().unwrap()));
            });
        }
        drop(guard);
        drop(two.try_lock().unwrap());
        drop(one.try_lock().unwrap());
    }
}

#[test]
fn a_cancelled_token_ends_only_what_would_wait() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let token = CancelToken::new();
        token.cancel();
        // Free: it succeeds, again and again, in every form.
        for mode in [Mode::Exclusive, Mode::Shared] {
            let acquire = lock.acquire().mode(mode).cancel(&token);
            drop(acquire.clone().wait().unwrap());
            drop(acquire.clone().timeout(Duration::ZERO).wait_owned().unwrap());
            drop(acquire.try_now().unwrap());
        }
        // Held, through the same handle and through another one.
        let guard = lock.acquire().wait_owned().unwrap();
        for lock in [&lock, &open(&path, mechanism)] {
            let acquire = lock.acquire().cancel(&token);
            assert!(is_cancelled(&acquire.clone().wait()));
            assert!(is_cancelled(&acquire.clone().timeout(BOUND).wait()));
            assert!(matches!(acquire.try_now(), Err(Error::Busy { .. })));
        }
        drop(guard);
        drop(lock.acquire().cancel(&token).wait().unwrap());
    }
}

#[test]
fn any_of_several_tokens_will_do() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let _other = holder(&[path.to_str().unwrap(), mechanism]);
        let lock = open(&path, mechanism);
        for chosen in 0..3 {
            let tokens: Vec<CancelToken> = (0..3).map(|_| CancelToken::new()).collect();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    let acquire = lock.acquire();
                    tokens.iter().fold(acquire, Acquire::cancel).wait().map(drop)
                });
                wait_for_blocked(&path, 1);
                tokens[chosen].clone().cancel();
                assert!(is_cancelled(&waiter.join().unwrap()));
            });
            let cancelled: Vec<bool> = tokens.iter().map(CancelToken::is_cancelled).collect();
            assert_eq!(cancelled, [chosen == 0, chosen == 1, chosen == 2]);
        }
    }
}

/// The token of one wait does not disturb another, and a token can outlive its waits.
#[test]
fn only_its_own_waits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut other = holder(&[path.to_str().unwrap(), "flock"]);
    let (one, two) = (open(&path, "flock"), open(&path, "flock"));
    let (token_one, token_two) = (CancelToken::new(), CancelToken::new());
    thread::scope(|scope| {
        let first = scope.spawn(|| one.acquire().cancel(&token_one).wait().map(drop));
        let second = scope.spawn(|| two.acquire().cancel(&token_two).wait().map(drop));
        wait_for_blocked(&path, 2);
        token_one.cancel();
        assert!(is_cancelled(&first.join().unwrap()));
        wait_for_blocked(&path, 1);
        assert!(!second.is_finished());
        release(&mut other);
        second.join().unwrap().unwrap();
    });
    token_two.cancel();
}

fn with_all_signals_blocked(args: &[String]) {
    raw::block_all_signals();
    let lock = open(&args[0], &args[1]);
    let before = signals_here("SigBlk");
    for round in 0..50_u64 {
        let token = CancelToken::new();
        let canceller = {
            let token = token.clone();
            thread::spawn(move || {
                thread::sleep(Duration::from_micros(round * 20));
                token.cancel();
            })
        };
        assert!(is_cancelled(&lock.acquire().cancel(&token).wait()));
        canceller.join().unwrap();
        assert_eq!((signals_here("SigBlk"), signals_here("SigPnd")), (before, 0));
    }
}

#[test]
fn it_works_when_the_waiter_blocks_all_signals() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let _other = holder(&[path.to_str().unwrap(), mechanism]);
        alone("blocked", &[path.to_str().unwrap(), mechanism]);
    }
}

/// Small random numbers; the seed is the round, so that a failure can be seen again.
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D;
    x ^= x >> 29;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 32)
}

fn spin(turns: u64) {
    for _ in 0..turns {
        std::hint::spin_loop();
    }
}

/// Lets cancellation and grant meet, in all orders. `waiting` and `holding` are the handles of the
/// two sides: the same one, or two.
fn race(waiting: &FileLock, holding: &FileLock, rounds: u64) {
    let (tokens, inbox) = channel::<CancelToken>();
    let (outbox, results) = channel::<Result<OwnedFileLockGuard>>();
    let (granted, cancelled) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(move || {
            for token in inbox {
                let result = waiting.acquire().cancel(&token).wait_owned();
                if outbox.send(result).is_err() {
                    break;
                }
            }
        });
        let (cancels, inbox) = channel::<(CancelToken, Arc<Barrier>, u64)>();
        scope.spawn(move || {
            for (token, start, pause) in inbox {
                start.wait();
                spin(pause);
                token.cancel();
            }
        });
        for round in 0..rounds {
            let dice = random(round);
            let guard = holding.acquire().timeout(BOUND).wait_owned().unwrap();
            let token = CancelToken::new();
            let start = Arc::new(Barrier::new(2));
            tokens.send(token.clone()).unwrap();
            // From before it has begun to wait to long after.
            spin((dice >> 8) % 4000);
            let late = 400 * (dice & 7);
            cancels.send((token, Arc::clone(&start), late)).unwrap();
            start.wait();
            spin(400 * ((dice >> 3) & 7));
            drop(guard);
            match results.recv_timeout(BOUND).expect("a wait never hangs") {
                Ok(guard) => {
                    granted.fetch_add(1, Ordering::Relaxed);
                    assert!(guard.is_held());
                    assert!(matches!(holding.try_lock(), Err(Error::Busy { .. })), "round {round}");
                    drop(guard);
                }
                Err(Error::Cancelled { .. }) => {
                    cancelled.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other}"),
            }
            // Whatever came of it, nobody holds it now.
            drop(holding.try_lock().unwrap_or_else(|error| panic!("round {round}: {error}")));
        }
        drop((tokens, cancels));
    });
    // Otherwise nothing has met.
    let (granted, cancelled) = (granted.into_inner(), cancelled.into_inner());
    assert!(granted > rounds / 50, "granted {granted}");
    assert!(cancelled > rounds / 50, "cancelled {cancelled}");
}

/// Cancels at the very moment in which the wait begins: nobody sleeps through it.
fn race_with_the_beginning(lock: &FileLock, rounds: usize) {
    let tokens: Vec<CancelToken> = (0..rounds).map(|_| CancelToken::new()).collect();
    let begun = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for (round, token) in tokens.iter().enumerate() {
                while begun.load(Ordering::Acquire) <= round {
                    thread::yield_now();
                }
                // Mostly in the first microseconds: where the moment is depends on the machine.
                let longest = [20, 60, 200, 700][round % 4];
                spin(random(round as u64) % longest);
                token.cancel();
            }
        });
        for (round, token) in tokens.iter().enumerate() {
            begun.store(round + 1, Ordering::Release);
            let acquire = lock.acquire().cancel(token);
            // The deadline is only there so that a sleeper wakes up to fail.
            let result = if round % 2 == 0 { acquire.timeout(BOUND) } else { acquire }.wait_owned();
            if !is_cancelled(&result) {
                // The other thread is to end as well.
                begun.store(rounds, Ordering::Release);
                panic!("round {round}: {result:?}");
            }
        }
    });
}

#[test]
fn the_race_with_the_beginning_of_a_wait() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (lock, other) = (open(&path, mechanism), open(&path, mechanism));
        let guard = lock.acquire().wait_owned().unwrap();
        // In the queue of the handle; in the kernel, or behind another handle of the process.
        race_with_the_beginning(&lock, 3000);
        race_with_the_beginning(&other, 3000);
        drop(guard);
        // In the kernel for posix too.
        let _other = holder(&[path.to_str().unwrap(), mechanism]);
        race_with_the_beginning(&lock, 3000);
    }
}

#[test]
fn the_race_with_the_grant_between_two_handles() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        race(&open(&path, mechanism), &open(&path, mechanism), 2000);
        assert!(others_get_it(&[path.to_str().unwrap(), mechanism]));
    }
}

#[test]
fn the_race_with_the_grant_in_the_queue_of_a_handle() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        race(&lock, &lock, 2000);
        assert!(others_get_it(&[path.to_str().unwrap(), mechanism]));
    }
}
