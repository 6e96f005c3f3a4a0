//! One handle, one kept description, one queue: threads that share a `FileLock` exclude each other,
//! share its shared lock, and come first who came first. Two handles are two parties, and for
//! `posix`, where the kernel sees only the process, the library makes them so.

mod support;

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, Error, FileLock, Mechanism, Mode, Range};
use support::roles::{HOLD, TRY, holder, others_get_it, release};
use support::tasks::{this_thread, wait_until_queued};
use support::{
    BOUND, Worker, alone, descriptor_count, eventually, hear, kernel_locks, say, serve,
    wait_for_blocked,
};

#[test]
fn worker() {
    serve(&[HOLD, TRY, ("other program", other_program), ("put off", closes_are_put_off)]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

fn open(path: impl AsRef<Path>, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

fn open_range(path: &Path, mechanism: &str, range: &str) -> FileLock {
    let range: Range = range.parse().unwrap();
    FileLock::options().mechanism(mechanism.parse().unwrap()).range(range).open(path).unwrap()
}

/// Tells the other threads of a test to end, also when this one fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What the lock protects: says so when somebody is inside who should not be.
#[derive(Default)]
struct Inside {
    writers: AtomicUsize,
    readers: AtomicUsize,
    count: AtomicUsize,
}

impl Inside {
    fn enter(&self, mode: Mode) {
        match mode {
            Mode::Exclusive => {
                assert_eq!(self.writers.fetch_add(1, Ordering::SeqCst), 0, "two writers");
                assert_eq!(self.readers.load(Ordering::SeqCst), 0, "a writer beside readers");
                // Not one step, so that an overlap loses a count.
                let count = self.count.load(Ordering::Relaxed);
                std::hint::spin_loop();
                self.count.store(count + 1, Ordering::Relaxed);
            }
            Mode::Shared => {
                self.readers.fetch_add(1, Ordering::SeqCst);
                assert_eq!(self.writers.load(Ordering::SeqCst), 0, "a reader beside a writer");
            }
        }
    }

    fn leave(&self, mode: Mode) {
        match mode {
            Mode::Exclusive => self.writers.fetch_sub(1, Ordering::SeqCst),
            Mode::Shared => self.readers.fetch_sub(1, Ordering::SeqCst),
        };
    }
}

/// Each thread in its own way, with time limits, cancellations and attempts in between.
fn mixed_rounds(handles: &[FileLock], path: &Path) {
    const THREADS: usize = 8;
    const ROUNDS: usize = 300;
    let inside = Inside::default();
    let writes = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let (lock, inside, writes) = (&handles[number % handles.len()], &inside, &writes);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mode =
                        if (round + number) % 3 == 0 { Mode::Shared } else { Mode::Exclusive };
                    let acquire = lock.acquire().mode(mode);
                    let result = match (round * 7 + number) % 8 {
                        0 => acquire.try_now(),
                        1 => acquire.timeout(Duration::from_micros(200)).wait(),
                        2 => {
                            let token = CancelToken::new();
                            let canceller = {
                                let token = token.clone();
                                scope.spawn(move || token.cancel())
                            };
                            let result = acquire.cancel(&token).wait();
                            canceller.join().unwrap();
                            result
                        }
                        3 => acquire.timeout(BOUND).wait(),
                        _ => acquire.wait(),
                    };
                    match result {
                        Ok(guard) => {
                            inside.enter(mode);
                            if mode == Mode::Exclusive {
                                writes.fetch_add(1, Ordering::Relaxed);
                            }
                            inside.leave(mode);
                            drop(guard);
                        }
                        Err(
                            Error::Busy { .. } | Error::TimedOut { .. } | Error::Cancelled { .. },
                        ) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
    });
    assert_eq!(inside.count.into_inner(), writes.into_inner(), "a round was lost");
    assert_eq!(kernel_locks(path), (0, 0));
    for lock in handles {
        drop(lock.try_lock().unwrap());
    }
}

#[test]
fn threads_of_one_handle_exclude_each_other() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        mixed_rounds(&[open(&path, mechanism)], &path);
    }
}

#[test]
fn handles_of_one_process_exclude_each_other() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let handles: Vec<_> = (0..3).map(|_| open(&path, mechanism)).collect();
        mixed_rounds(&handles, &path);
    }
}

#[test]
fn a_clone_is_the_same_handle_and_another_one_is_another_party() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (one, two) = (open(&path, mechanism), open(&path, mechanism));
        let clone = one.clone();
        let guard = one.acquire().wait_owned().unwrap();
        for busy in [&one, &clone, &two] {
            assert!(matches!(busy.try_lock(), Err(Error::Busy { .. })));
            assert!(matches!(busy.try_lock_shared(), Err(Error::Busy { .. })));
        }
        drop((one, guard));
        drop(clone.try_lock().unwrap());
        drop(two.try_lock().unwrap());
    }
}

#[test]
fn shared_holders_of_a_handle_are_one_lock_to_the_kernel() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let text = path.to_str().unwrap();
        let lock = open(&path, mechanism);
        let guards: Vec<_> = (0..5)
            .map(|_| thread::scope(|s| s.spawn(|| lock.acquire().shared().wait_owned()).join()))
            .map(|guard| guard.unwrap().unwrap())
            .collect();
        assert_eq!(kernel_locks(&path), (1, 0));
        assert!(others_get_it(&[text, mechanism, "shared"]));
        for guard in guards {
            assert!(guard.is_held());
            assert!(!others_get_it(&[text, mechanism]));
            assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
            drop(guard);
        }
        assert_eq!(kernel_locks(&path), (0, 0));
        assert!(others_get_it(&[text, mechanism]));
    }
}

/// Starts a thread that acquires, and waits until it is in the queue.
fn queued<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    acquire: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (sender, threads) = channel();
    let handle = scope.spawn(move || {
        sender.send(this_thread()).unwrap();
        acquire()
    });
    wait_until_queued(threads.recv().unwrap());
    handle
}

#[test]
fn first_come_first_served() {
    use Mode::{Exclusive, Shared};
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let modes = [Exclusive, Exclusive, Shared, Exclusive, Shared, Exclusive];
        let order = Mutex::new(Vec::new());
        thread::scope(|scope| {
            let guard = lock.acquire().wait_owned().unwrap();
            for (number, mode) in modes.into_iter().enumerate() {
                let (lock, order) = (&lock, &order);
                queued(scope, move || {
                    let guard = lock.acquire().mode(mode).timeout(BOUND).wait().unwrap();
                    order.lock().unwrap().push(number);
                    drop(guard);
                });
            }
            drop(guard);
        });
        assert_eq!(order.into_inner().unwrap(), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn shared_ones_next_to_each_other_in_the_queue_come_in_together() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let inside = AtomicUsize::new(0);
        thread::scope(|scope| {
            let guard = lock.acquire().wait_owned().unwrap();
            for _ in 0..4 {
                queued(scope, || {
                    let _guard = lock.lock_shared().unwrap();
                    inside.fetch_add(1, Ordering::SeqCst);
                    eventually("all four are inside", || inside.load(Ordering::SeqCst) == 4);
                });
            }
            drop(guard);
        });
    }
}

/// Attempts, and times that are over, do not overtake those who wait.
#[test]
fn an_attempt_does_not_barge() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        thread::scope(|scope| {
            let reader = lock.acquire().shared().wait_owned().unwrap();
            let writer = queued(scope, || drop(lock.lock().unwrap()));
            assert!(matches!(lock.try_lock_shared(), Err(Error::Busy { .. })));
            assert!(matches!(
                lock.lock_shared_timeout(Duration::ZERO),
                Err(Error::TimedOut { .. })
            ));
            drop(reader);
            writer.join().unwrap();
            drop(lock.try_lock_shared().unwrap());
        });
    }
}

/// Readers that relieve each other without a gap, so that a lock that lets them overtake would never
/// come to the writer.
#[test]
fn readers_do_not_starve_a_writer() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let (over, entered) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let guard = lock.lock_shared().unwrap();
                        let mine = entered.fetch_add(1, Ordering::SeqCst) + 1;
                        // Until the next one is inside; a writer in between keeps it out.
                        let start = Instant::now();
                        while entered.load(Ordering::SeqCst) == mine
                            && start.elapsed() < Duration::from_millis(20)
                            && !over.load(Ordering::SeqCst)
                        {
                            thread::yield_now();
                        }
                        drop(guard);
                    }
                });
            }
            let _over = Over(&over);
            eventually("the readers are at it", || entered.load(Ordering::SeqCst) > 50);
            for _ in 0..5 {
                drop(lock.lock_timeout(BOUND).unwrap());
            }
        });
    }
}

#[test]
fn writers_do_not_starve_a_reader() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        drop(lock.lock().unwrap());
                    }
                });
            }
            let _over = Over(&over);
            for _ in 0..50 {
                drop(lock.lock_shared_timeout(BOUND).unwrap());
            }
        });
    }
}

/// How somebody in the queue gives up.
#[derive(Clone, Copy, PartialEq)]
enum GivesUp {
    TimedOut,
    Cancelled,
}

/// Acquires exclusively in vain.
fn in_vain(lock: &FileLock, how: GivesUp, token: &CancelToken) {
    match how {
        GivesUp::TimedOut => {
            let result = lock.lock_timeout(Duration::from_millis(150));
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        }
        GivesUp::Cancelled => {
            let result = lock.acquire().cancel(token).wait();
            assert!(matches!(result, Err(Error::Cancelled { .. })), "{result:?}");
        }
    }
}

#[test]
fn who_gives_up_in_the_queue_holds_up_nobody() {
    for mechanism in MECHANISMS {
        for how in [GivesUp::TimedOut, GivesUp::Cancelled] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let lock = open(&path, mechanism);
            let token = CancelToken::new();

            // In the middle: those before and behind it come in their order.
            let order = Mutex::new(Vec::new());
            thread::scope(|scope| {
                let guard = lock.acquire().wait_owned().unwrap();
                let enters = |number| {
                    let (lock, order) = (&lock, &order);
                    move || {
                        let guard = lock.lock().unwrap();
                        order.lock().unwrap().push(number);
                        drop(guard);
                    }
                };
                queued(scope, enters(1));
                let leaver = queued(scope, || in_vain(&lock, how, &token));
                queued(scope, enters(2));
                token.cancel();
                leaver.join().unwrap();
                drop(guard);
            });
            assert_eq!(order.into_inner().unwrap(), [1, 2]);

            // At the front: the shared one behind it waited for nothing else.
            let token = CancelToken::new();
            thread::scope(|scope| {
                let _guard = lock.acquire().shared().wait_owned().unwrap();
                let leaver = queued(scope, || in_vain(&lock, how, &token));
                let reader = queued(scope, || drop(lock.lock_shared_timeout(BOUND).unwrap()));
                token.cancel();
                leaver.join().unwrap();
                reader.join().unwrap();
            });

            // With the turn, in the kernel: the next one gets it.
            let token = CancelToken::new();
            let mut other = holder(&[path.to_str().unwrap(), mechanism, "shared"]);
            thread::scope(|scope| {
                let leaver = scope.spawn(|| in_vain(&lock, how, &token));
                eventually("it waits in the kernel, or did", || {
                    kernel_locks(&path).1 == 1 || leaver.is_finished()
                });
                let reader = queued(scope, || drop(lock.lock_shared_timeout(BOUND).unwrap()));
                token.cancel();
                leaver.join().unwrap();
                reader.join().unwrap();
            });
            release(&mut other);
            drop(lock.try_lock().unwrap());
        }
    }
}

/// An upgrade takes place only where nobody else is inside, also nobody who comes in this moment.
#[test]
fn an_upgrade_lets_nobody_slip_in() {
    for mechanism in ["flock", "ofd"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let inside = Inside::default();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        if let Ok(guard) = lock.try_lock_shared() {
                            inside.enter(Mode::Shared);
                            inside.leave(Mode::Shared);
                            drop(guard);
                            // Else somebody shares it all the time.
                            thread::yield_now();
                        }
                    }
                });
            }
            let _over = Over(&over);
            let mut upgraded = 0;
            let start = Instant::now();
            while upgraded < 5000 && start.elapsed() < BOUND / 20 {
                let mut guard = lock.lock_shared().unwrap();
                match guard.try_upgrade() {
                    Ok(()) => {
                        upgraded += 1;
                        inside.enter(Mode::Exclusive);
                        // Who slipped in needs a moment to get so far.
                        for _ in 0..50 {
                            std::hint::spin_loop();
                        }
                        inside.leave(Mode::Exclusive);
                    }
                    Err(Error::Busy { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                drop(guard);
            }
            assert!(upgraded > 100, "{upgraded} upgrades");
        });
        drop(lock.try_lock().unwrap());
    }
}

/// A program that knows nothing of lockmgr and locks with `fcntl(F_SETLK)`.
fn other_program(args: &[String]) {
    use rustix::fs::FlockOperation::{NonBlockingLockExclusive, Unlock};
    let file = File::options().read(true).write(true).open(&args[0]).unwrap();
    let set = |operation| {
        #[expect(clippy::disallowed_methods, reason = "this plays a program without lockmgr")]
        rustix::fs::fcntl_lock(&file, operation).is_ok()
    };
    while let Some(line) = hear() {
        match line.as_str() {
            "lock" => say(if set(NonBlockingLockExclusive) { "got" } else { "busy" }),
            "unlock" => say(if set(Unlock) { "released" } else { "not released" }),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn programs_that_use_fcntl_locks_are_excluded_from_record_locks() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let mut other = Worker::spawn("other program", &[path.to_str().unwrap()]);
        let mut ask = |what: &str| {
            other.tell(what);
            other.next_line()
        };
        let record = mechanism != "flock";

        let guard = lock.lock().unwrap();
        assert_eq!(ask("lock"), if record { "busy" } else { "got" });
        drop(guard);
        assert_eq!(ask("lock"), "got");
        assert_eq!(matches!(lock.try_lock(), Err(Error::Busy { .. })), record);
        if record {
            let result = lock.lock_timeout(Duration::from_millis(20));
            assert!(matches!(result, Err(Error::TimedOut { .. })));
            thread::scope(|scope| {
                let waiter = scope.spawn(|| drop(lock.lock_timeout(BOUND).unwrap()));
                wait_for_blocked(&path, 1);
                assert_eq!(ask("unlock"), "released");
                waiter.join().unwrap();
            });
        }
    }
}

/// The kernel drops all `posix` locks of a process on a file when it closes any descriptor of it.
#[test]
fn closing_another_handle_does_not_drop_a_posix_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let text = path.to_str().unwrap();
    let lock = open(&path, "posix");
    let guard = lock.lock().unwrap();
    for mechanism in MECHANISMS {
        // Opened only, used, used in vain.
        drop(open(&path, mechanism));
        let other = open(&path, mechanism);
        drop(other.try_lock_shared());
        drop(other);
        assert!(!others_get_it(&[text, "posix", "shared"]), "after {mechanism}");
    }
    let range = open_range(&path, "posix", "7+1");
    assert!(matches!(range.try_lock(), Err(Error::Busy { .. })));
    drop(range);
    assert!(!others_get_it(&[text, "posix", "shared"]));
    // Its own handle closes with the last guard.
    drop(lock.clone());
    guard.unlock().unwrap();
    assert!(others_get_it(&[text, "posix"]));
}

/// What was not closed then is closed later.
fn closes_are_put_off(args: &[String]) {
    let lock = open(&args[0], "posix");
    drop(lock.lock().unwrap());
    let before = descriptor_count();
    for _ in 0..3 {
        let guard = lock.lock().unwrap();
        for _ in 0..10 {
            drop(open(&args[0], "posix").try_lock_shared());
        }
        assert!(descriptor_count() > before);
        drop(guard);
        assert!(descriptor_count() <= before);
    }
}

#[test]
fn closes_that_were_put_off_are_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    alone("put off", &[dir.path().join("a.lock").to_str().unwrap()]);
}

#[test]
fn ranges_that_overlap_are_unlocked_only_as_far_as_nobody_needs_them() {
    for mechanism in ["ofd", "posix"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let text = path.to_str().unwrap();
        let free = |range: &str| others_get_it(&[text, mechanism, "exclusive", range]);
        let handle = |range: &str| open_range(&path, mechanism, range);
        let (one, two, three) = (handle("0+100"), handle("50+100"), handle("60+10"));
        let first = one.lock_shared().unwrap();
        let second = two.lock_shared().unwrap();
        let third = three.lock_shared().unwrap();
        assert!(!free("0+50") && !free("50+50") && !free("100+50") && free("150+50"));
        drop(first);
        assert!(free("0+50") && !free("50+50") && !free("100+50"));
        drop(second);
        assert!(free("0+60") && !free("60+10") && free("70+80"));
        assert!(!free("0+0"));
        drop(third);
        assert!(free("0+0"));
        // In vain over a part that another one holds: what it holds stays.
        let guard = three.lock_shared().unwrap();
        assert!(matches!(one.try_lock(), Err(Error::Busy { .. })));
        assert!(matches!(
            two.lock_timeout(Duration::from_millis(5)),
            Err(Error::TimedOut { .. } | Error::Deadlock { .. })
        ));
        assert!(!free("60+10") && free("50+10") && free("70+10"));
        drop(guard);
    }
}

#[test]
fn ranges_that_do_not_overlap_do_not_wait_for_each_other() {
    for mechanism in ["ofd", "posix"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let locks: Vec<_> =
            (0..8).map(|n| open_range(&path, mechanism, &format!("{}+10", n * 10))).collect();
        let guards: Vec<_> = locks.iter().map(|lock| lock.lock().unwrap()).collect();
        let text = path.to_str().unwrap();
        assert!(!others_get_it(&[text, mechanism, "shared", "79+1"]));
        assert!(others_get_it(&[text, mechanism, "exclusive", "80+1"]));
        drop(guards);
        assert!(others_get_it(&[text, mechanism, "exclusive", "0+0"]));
    }
}

/// The same in the process and in the kernel: `ofd` and `posix` see each other.
#[test]
fn ofd_and_posix_locks_of_one_process_exclude_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    for (one, two) in [(Mechanism::Ofd, Mechanism::Posix), (Mechanism::Posix, Mechanism::Ofd)] {
        let (one, two) = (open(&path, &one.to_string()), open(&path, &two.to_string()));
        let guard = one.acquire().wait_owned().unwrap();
        assert!(matches!(two.try_lock_shared(), Err(Error::Busy { .. })));
        thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(two.lock_timeout(BOUND).unwrap()));
            wait_for_blocked(&path, 1);
            drop(guard);
            waiter.join().unwrap();
        });
    }
}
