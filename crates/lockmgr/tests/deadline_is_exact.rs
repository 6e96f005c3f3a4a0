//! Promise 5: a deadline is exact. Never early; late only by scheduling, whatever signals the
//! program uses, blocks, ignores or is stopped by; zero is one attempt, and the longest time is for
//! ever. Late is tested with a bound of seconds: how late is a matter for the bench.

mod support;

use std::fs::File;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, Error, FileLock, Mode};
use rustix::process::{Resource, Rlimit};
use support::roles::{HOLD, TRY, holder, release};
use support::tasks::{signals_here, state_of, this_thread, threads_of, wait_until_queued};
use support::{
    BOUND, Worker, alone, eventually, hear, kernel_locks, raw, say, serve, skip, thread_count,
    wait_for_blocked,
};

#[test]
fn worker() {
    serve(&[
        HOLD,
        TRY,
        ("lease", lease),
        ("storm", storm),
        ("blocked", with_all_signals_blocked),
        ("alarm", with_an_odd_alarm_signal),
        ("no timers", without_timers),
        ("taken", with_our_signal_taken),
        ("read", with_signals_that_are_read),
        ("stopped", wait_in_front_of_a_stop),
        ("clean", leave_no_signal),
        ("clean without timers", leave_no_signal_without_timers),
        ("after exec", after_exec),
    ]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];
const LATE: Duration = Duration::from_secs(10);

fn open(path: impl AsRef<std::path::Path>, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

/// A lock file that another process holds.
struct Held {
    _dir: tempfile::TempDir,
    path: String,
    holder: Worker,
}

impl Held {
    fn new(mechanism: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock").to_str().unwrap().to_owned();
        let holder = holder(&[&path, mechanism]);
        Self { _dir: dir, path, holder }
    }
}

/// Waits in vain, and checks the time of the refusal.
fn waits_in_vain(lock: &FileLock, mode: Mode, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    let result = match mode {
        Mode::Exclusive => lock.lock_timeout(timeout),
        Mode::Shared => lock.lock_shared_timeout(timeout),
    };
    check_refusal(&result, deadline);

    let deadline = Instant::now() + timeout;
    let result = match mode {
        Mode::Exclusive => lock.lock_until(deadline),
        Mode::Shared => lock.lock_shared_until(deadline),
    };
    check_refusal(&result, deadline);
}

fn check_refusal<T: std::fmt::Debug>(result: &lockmgr::Result<T>, deadline: Instant) {
    let now = Instant::now();
    assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
    assert!(now >= deadline, "{:?} early", deadline - now);
    assert!(now < deadline + LATE, "{:?} late", now - deadline);
}

const TIMEOUTS: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_micros(30),
    Duration::from_micros(250),
    Duration::from_millis(1),
    Duration::from_micros(7_300),
    Duration::from_millis(120),
];

#[test]
fn never_early_in_the_kernel() {
    for mechanism in MECHANISMS {
        let held = Held::new(mechanism);
        let lock = open(&held.path, mechanism);
        for mode in [Mode::Exclusive, Mode::Shared] {
            for timeout in TIMEOUTS {
                waits_in_vain(&lock, mode, timeout);
            }
        }
    }
}

#[test]
fn never_early_many_times() {
    let held = Held::new("flock");
    let lock = open(&held.path, "flock");
    for round in 0..500 {
        waits_in_vain(&lock, Mode::Exclusive, Duration::from_micros(round * 3));
    }
}

#[test]
fn never_early_in_the_queue_of_a_handle() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let lock = open(dir.path().join("a.lock"), mechanism);
        // An owned guard is not this thread's, so that waiting is no error.
        let _guard = lock.acquire().wait_owned().unwrap();
        for mode in [Mode::Exclusive, Mode::Shared] {
            for timeout in TIMEOUTS {
                waits_in_vain(&lock, mode, timeout);
            }
        }
    }
}

#[test]
fn never_early_between_two_handles_of_a_process() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let (one, two) = (open(&path, mechanism), open(&path, mechanism));
        let _guard = one.acquire().wait_owned().unwrap();
        for mode in [Mode::Exclusive, Mode::Shared] {
            for timeout in TIMEOUTS {
                waits_in_vain(&two, mode, timeout);
            }
        }
    }
}

/// The queue and the kernel share one deadline: the first in the queue gives up, and the second
/// goes on in the kernel with what is left of its own time.
#[test]
fn one_deadline_covers_the_queue_and_the_kernel() {
    for mechanism in MECHANISMS {
        let held = Held::new(mechanism);
        let lock = open(&held.path, mechanism);
        thread::scope(|scope| {
            let front =
                scope.spawn(|| waits_in_vain(&lock, Mode::Exclusive, Duration::from_millis(60)));
            eventually("it waits in the kernel, or did", || {
                kernel_locks(held.path.as_ref()).1 == 1 || front.is_finished()
            });
            waits_in_vain(&lock, Mode::Exclusive, Duration::from_millis(200));
            front.join().unwrap();
        });
        assert_eq!(kernel_locks(held.path.as_ref()), (1, 0));
    }
}

fn lease(args: &[String]) {
    // The kernel tells the holder of a lease by a signal that would end it.
    raw::ignore(libc::SIGIO);
    let file = File::create(&args[0]).unwrap();
    match raw::take_write_lease(&file) {
        Ok(()) => say("leased"),
        Err(error) => return say(format!("no lease: {error}")),
    }
    hear();
    raw::give_lease_back(&file).unwrap();
    say("given back");
    hear();
}

#[test]
fn a_deadline_covers_the_opening_of_a_leased_file() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut leaser = Worker::spawn("lease", &[path.to_str().unwrap()]);
        match leaser.next_line().as_str() {
            "leased" => {}
            reason => return skip(reason),
        }
        let start = Instant::now();
        let lock = open(&path, mechanism);
        assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
        assert!(start.elapsed() < LATE, "the open itself must not wait for the lease");
        for timeout in TIMEOUTS {
            waits_in_vain(&lock, Mode::Exclusive, timeout);
        }
        let token = CancelToken::new();
        thread::scope(|scope| {
            let cancelled = scope.spawn(|| lock.acquire().cancel(&token).wait().map(drop));
            let patient = scope.spawn(|| lock.lock_timeout(BOUND).map(drop));
            token.cancel();
            assert!(matches!(cancelled.join().unwrap(), Err(Error::Cancelled { .. })));
            leaser.tell("give it back");
            leaser.expect("given back");
            patient.join().unwrap().unwrap();
        });
    }
}

#[test]
fn zero_is_one_attempt() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = open(&path, mechanism);
        let past = Instant::now();
        for _ in 0..3 {
            drop(lock.lock_timeout(Duration::ZERO).unwrap());
            drop(lock.lock_shared_timeout(Duration::ZERO).unwrap());
            drop(lock.lock_until(past).unwrap());
            drop(lock.acquire().timeout(Duration::ZERO).wait_owned().unwrap());
        }
        // Held by the same handle, then by another one.
        let guard = lock.acquire().wait_owned().unwrap();
        check_refusal(&lock.lock_until(past), past);
        check_refusal(&open(&path, mechanism).lock_until(past), past);
        drop(guard);
        drop(lock.lock_until(past).unwrap());
    }
}

#[test]
fn the_longest_times_are_for_ever() {
    let endless = [
        Duration::MAX,
        Duration::from_secs(u64::MAX),
        // These can be named by the clock, if not by the timer.
        Duration::from_secs(u64::MAX / 4),
        Duration::from_secs(1 << 40),
    ];
    for mechanism in MECHANISMS {
        for timeout in endless {
            let mut held = Held::new(mechanism);
            let lock = open(&held.path, mechanism);
            let token = CancelToken::new();
            let (sender, threads) = channel();
            thread::scope(|scope| {
                let plain = scope.spawn(|| drop(lock.lock_timeout(timeout).unwrap()));
                wait_for_blocked(held.path.as_ref(), 1);
                let queued = scope.spawn(|| {
                    sender.send(this_thread()).unwrap();
                    drop(lock.acquire().timeout(timeout).cancel(&token).wait().unwrap());
                });
                wait_until_queued(threads.recv().unwrap());
                assert!(!plain.is_finished() && !queued.is_finished());
                release(&mut held.holder);
            });
            drop(lock.lock_timeout(timeout).unwrap());
        }
    }
}

/// Waits in vain while another thread sends this one a signal without a pause.
fn storm(args: &[String]) {
    let (path, mechanism, restart) = (&args[0], &args[1], &args[2] == "restart");
    let lock = open(path, mechanism);
    raw::catch(libc::SIGUSR1, restart);
    let target = this_thread();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                raw::signal_thread(target, libc::SIGUSR1);
            }
        });
        for timeout in [1, 20, 150] {
            waits_in_vain(&lock, Mode::Exclusive, Duration::from_millis(timeout));
        }
        assert!(raw::caught() > 100, "{} signals", raw::caught());
        // Neither with nor without a deadline does it end a wait that is not over.
        say("waiting");
        drop(lock.lock_timeout(BOUND).unwrap());
        say("held");
        hear();
        say("waiting");
        drop(lock.lock().unwrap());
        say("held");
        hear();
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_storm_of_foreign_signals_neither_shortens_nor_prolongs_it() {
    for mechanism in MECHANISMS {
        for kind in ["restart", "interrupt"] {
            let mut held = Held::new(mechanism);
            let mut stormy = Worker::spawn("storm", &[&held.path, mechanism, kind]);
            for _ in 0..2 {
                stormy.expect("waiting");
                assert_eq!(stormy.try_line(Duration::from_millis(50)), None);
                release(&mut held.holder);
                stormy.expect("held");
                held.holder = holder(&[&held.path, mechanism]);
                stormy.tell("again");
            }
            assert!(stormy.finish().success());
        }
    }
}

fn with_all_signals_blocked(args: &[String]) {
    raw::block_all_signals();
    let before = signals_here("SigBlk");
    let lock = open(&args[0], &args[1]);
    for timeout in TIMEOUTS {
        waits_in_vain(&lock, Mode::Exclusive, timeout);
    }
    assert_eq!(signals_here("SigBlk"), before);
}

#[test]
fn it_holds_when_the_thread_blocks_all_signals() {
    for mechanism in MECHANISMS {
        let held = Held::new(mechanism);
        alone("blocked", &[&held.path, mechanism]);
    }
}

fn with_an_odd_alarm_signal(args: &[String]) {
    match args[1].as_str() {
        "blocked" => raw::block(libc::SIGALRM),
        "ignored" => raw::ignore(libc::SIGALRM),
        other => panic!("{other}"),
    }
    waits_in_vain(&open(&args[0], "flock"), Mode::Exclusive, Duration::from_millis(50));
}

#[test]
fn it_holds_when_the_alarm_signal_is_blocked_or_ignored() {
    let held = Held::new("flock");
    alone("alarm", &[&held.path, "blocked"]);
    alone("alarm", &[&held.path, "ignored"]);
}

/// The kernel counts timers and queued signals against this limit.
fn allow_no_timers() {
    rustix::process::setrlimit(Resource::Sigpending, Rlimit { current: Some(0), maximum: Some(0) })
        .unwrap();
}

fn without_timers(args: &[String]) {
    allow_no_timers();
    let lock = open(&args[0], &args[1]);
    let threads = thread_count();
    for timeout in TIMEOUTS {
        waits_in_vain(&lock, Mode::Exclusive, timeout);
    }
    let token = CancelToken::new();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| lock.acquire().cancel(&token).wait().map(drop));
        wait_for_blocked(args[0].as_ref(), 1);
        token.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled { .. })));
    });
    eventually("no helper thread is left", || thread_count() == threads);
    say("waiting");
    drop(lock.lock_timeout(BOUND).unwrap());
    say("held");
}

#[test]
fn it_holds_when_the_kernel_has_no_timer_to_give() {
    for mechanism in MECHANISMS {
        let mut held = Held::new(mechanism);
        let worker = Worker::spawn("no timers", &[&held.path, mechanism]);
        worker.expect("waiting");
        wait_for_blocked(held.path.as_ref(), 1);
        release(&mut held.holder);
        worker.expect("held");
        assert!(worker.finish().success());
    }
}

fn with_our_signal_taken(args: &[String]) {
    let lock = open(&args[0], "flock");
    let free: Vec<i32> = raw::realtime_signals().filter(|s| raw::has_default_action(*s)).collect();
    assert!(!free.is_empty());
    let wait = || waits_in_vain(&lock, Mode::Exclusive, Duration::from_millis(20));
    wait();
    for _ in 0..5 {
        let ours: Vec<i32> =
            free.iter().copied().filter(|signal| !raw::has_default_action(*signal)).collect();
        assert!(!ours.is_empty(), "the library uses a real-time signal");
        for signal in ours {
            raw::catch(signal, true);
        }
        wait();
        wait();
    }
    // No real-time signal is left.
    for signal in free {
        raw::catch(signal, true);
    }
    wait();
    // Nothing at all is left: a clear error at once, and free locks can be had all the same.
    raw::catch(libc::SIGSTKFLT, true);
    raw::catch(libc::SIGURG, true);
    let error = lock.lock_timeout(BOUND).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    say(error);
    hear();
    drop(lock.lock_timeout(BOUND).unwrap());
    say("held");
}

/// What is blocked may be read by the program, and must not be taken off before it comes to that.
fn with_signals_that_are_read(args: &[String]) {
    let read = raw::realtime_signals().rev().filter(|s| raw::has_default_action(*s)).take(2);
    let read: Vec<i32> = read.collect();
    for signal in &read {
        raw::block(*signal);
    }
    let lock = open(&args[0], "flock");
    let timeout = Duration::from_millis(20);
    if args[1] == "in a task" {
        let mut future = pin!(lock.acquire().timeout(timeout).into_future());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let error = runtime.block_on(&mut future).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    } else {
        waits_in_vain(&lock, Mode::Exclusive, timeout);
    }
    assert!(read.iter().all(|signal| raw::has_default_action(*signal)));
    assert!(raw::realtime_signals().any(|signal| !raw::has_default_action(signal)));
}

#[test]
fn it_takes_no_signal_that_the_program_may_read() {
    for who in ["in a thread", "in a task"] {
        let held = Held::new("flock");
        alone("read", &[&held.path, who]);
    }
}

#[test]
fn it_holds_when_other_code_takes_our_signal() {
    let mut held = Held::new("flock");
    let mut worker = Worker::spawn("taken", &[&held.path]);
    let error = worker.next_line();
    assert!(error.contains("signal"), "{error}");
    release(&mut held.holder);
    worker.tell("go on");
    worker.expect("held");
    assert!(worker.finish().success());
}

/// Waits for the time that it is told, and says how it ended.
fn wait_in_front_of_a_stop(args: &[String]) {
    let lock = open(&args[0], &args[1]);
    while let Some(line) = hear() {
        let timeout = Duration::from_millis(line.parse().unwrap());
        say("waiting");
        let deadline = Instant::now() + timeout;
        match lock.lock_timeout(timeout) {
            Ok(guard) => {
                say("held");
                hear();
                drop(guard);
                say("released");
            }
            result => {
                check_refusal(&result, deadline);
                say("timed out");
            }
        }
    }
}

/// Has it wait for so many milliseconds, and returns when it does, or when that time is over.
fn have_it_wait(worker: &mut Worker, path: &str, time: u64) {
    worker.tell(&time.to_string());
    worker.expect("waiting");
    let start = Instant::now();
    eventually("it waits", || {
        kernel_locks(path.as_ref()).1 == 1 || start.elapsed() > Duration::from_millis(time)
    });
}

fn stop(worker: &Worker) {
    worker.signal(libc::SIGSTOP);
    eventually("it is stopped", || state_of(worker.pid()) == Some('T'));
}

#[test]
fn a_waiter_that_is_stopped_keeps_its_deadline() {
    for mechanism in MECHANISMS {
        let mut held = Held::new(mechanism);
        let mut waiter = Worker::spawn("stopped", &[&held.path, mechanism]);

        // Goes on before its time is over.
        have_it_wait(&mut waiter, &held.path, 300);
        for _ in 0..3 {
            stop(&waiter);
            waiter.signal(libc::SIGCONT);
        }
        waiter.expect("timed out");

        // Goes on after its time is over.
        let start = Instant::now();
        have_it_wait(&mut waiter, &held.path, 100);
        stop(&waiter);
        eventually("its time is over", || start.elapsed() > Duration::from_millis(150));
        waiter.signal(libc::SIGCONT);
        waiter.expect("timed out");

        // The lock is released meanwhile, and it goes on in time.
        have_it_wait(&mut waiter, &held.path, 25_000);
        stop(&waiter);
        release(&mut held.holder);
        waiter.signal(libc::SIGCONT);
        waiter.expect("held");

        // It is the holder that is stopped.
        let mut second = Worker::spawn("stopped", &[&held.path, mechanism]);
        stop(&waiter);
        have_it_wait(&mut second, &held.path, 100);
        second.expect("timed out");
        have_it_wait(&mut second, &held.path, 25_000);
        waiter.signal(libc::SIGCONT);
        waiter.tell("release");
        waiter.expect("released");
        second.expect("held");
    }
}

fn leave_no_signal(args: &[String]) {
    let lock = open(&args[0], &args[1]);
    // Unblocked, then blocked.
    many_short_waits(&lock);
    raw::block_all_signals();
    many_short_waits(&lock);
    // A signal that were pending now would end the new program as soon as it unblocks it.
    raw::become_role("after exec");
}

fn leave_no_signal_without_timers(args: &[String]) {
    allow_no_timers();
    leave_no_signal(args);
}

fn many_short_waits(lock: &FileLock) {
    let before = signals_here("SigBlk");
    let waiter = this_thread();
    let canceller = |token: CancelToken, pause: u64| {
        thread::spawn(move || {
            thread::sleep(Duration::from_micros(pause));
            token.cancel();
        })
    };
    for round in 0..200 {
        let result = if round % 4 == 0 {
            let token = CancelToken::new();
            let canceller = canceller(token.clone(), round);
            let result = lock.acquire().cancel(&token).wait().map(drop);
            // Looked at before the canceller is through, and after it.
            check_signals(before);
            canceller.join().unwrap();
            result
        } else {
            lock.lock_timeout(Duration::from_micros(round * 5)).map(drop)
        };
        check_signals(before);
        assert!(
            matches!(result, Err(Error::TimedOut { .. } | Error::Cancelled { .. })),
            "{result:?}"
        );
    }
    assert_eq!(threads_of(std::process::id()).iter().filter(|other| **other == waiter).count(), 1);
}

fn check_signals(mask: u64) {
    assert_eq!(signals_here("SigBlk"), mask);
    assert_eq!(signals_here("SigPnd"), 0);
    assert_eq!(signals_here("ShdPnd"), 0);
}

fn after_exec(_args: &[String]) {
    raw::unblock_all_signals();
    say("alive");
}

#[test]
fn a_wait_leaves_the_signal_mask_and_no_signal_behind() {
    for mechanism in MECHANISMS {
        for role in ["clean", "clean without timers"] {
            let held = Held::new(mechanism);
            let worker = Worker::spawn(role, &[&held.path, mechanism]);
            worker.expect("alive");
            assert!(worker.finish().success());
        }
    }
}
