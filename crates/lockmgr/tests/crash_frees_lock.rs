//! Promise 8: nothing is lost or leaked. However its holder ends, the lock is free at once, and no
//! file, descriptor, thread, timer or place in a queue outlives what it was for.

mod support;

use std::cell::RefCell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use lockmgr::{CancelToken, Error, FileLock, LockMgr, Mechanism, OwnedFileLockGuard, Range};
use support::process::{exit_at_once, is_alive};
use support::{
    BOUND, Worker, alone, descriptor_count, eventually, hear, kernel_locks, roles, say, serve,
    thread_count, wait_for_blocked,
};

#[test]
fn worker() {
    serve(&[
        roles::HOLD,
        roles::TRY,
        ("crash", crash),
        ("async waiter", async_waiter),
        ("churn", churn),
        ("accounts", accounts),
        ("come and go", come_and_go),
    ]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

fn open(args: &[String]) -> FileLock {
    let mechanism: Mechanism = args[1].parse().unwrap();
    FileLock::options().mechanism(mechanism).open(&args[0]).unwrap()
}

/// How a holder can end; the second word says whether its process goes on.
const ENDS: [(&str, bool); 14] = [
    ("killed", false),
    ("killed, owned guard", false),
    ("killed, shared", false),
    ("killed, LockMgr", false),
    ("terminated", false),
    ("aborts", false),
    ("exits", false),
    ("exits at once", false),
    ("forgets and exits", false),
    ("keeps it in a static and exits", false),
    ("panics", false),
    ("panics and catches", true),
    ("panics in a thread", true),
    ("panics in a task", true),
];

#[test]
fn the_lock_is_free_however_its_holder_ends() {
    for mechanism in MECHANISMS {
        for (end, goes_on) in ENDS {
            if end.ends_with("LockMgr") && mechanism != "flock"
                || end.ends_with("task") && mechanism == "posix"
            {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let place = [path.to_str().unwrap(), mechanism];
            let mut holder = Worker::spawn("crash", &[place[0], place[1], end]);
            holder.expect("held");
            let mut waiter = Worker::spawn("hold", &place);
            wait_for_blocked(&path, 1);
            match end {
                _ if end.starts_with("killed") => holder.signal(libc::SIGKILL),
                "terminated" => holder.signal(libc::SIGTERM),
                _ => holder.tell("end"),
            }
            waiter.expect("held");
            if goes_on {
                holder.expect("goes on");
                assert!(is_alive(holder.pid()), "{end}");
            } else {
                let status = holder.finish();
                assert_eq!(status.success(), end.contains("exits"), "{end}: {status}");
            }
            assert_eq!(kernel_locks(&path), (1, 0), "{mechanism}: {end}");
            roles::release(&mut waiter);
            assert_eq!(names_in(dir.path()), ["a.lock"], "{mechanism}: {end}");
        }
    }
}

thread_local! {
    static KEPT: RefCell<Vec<OwnedFileLockGuard>> = const { RefCell::new(Vec::new()) };
}

/// Panics that are meant need not be told.
fn expect_panics() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.to_string().ends_with("on purpose") {
            tell(info);
        }
    }));
}

fn crash(args: &[String]) {
    expect_panics();
    let lock = open(args);
    let held = || {
        say("held");
        hear();
    };
    let end = args[2].as_str();
    match end {
        "killed, LockMgr" => {
            let mut lock = LockMgr::new(&args[0]);
            assert!(lock.acquire_lock(false, BOUND));
            held();
        }
        "killed, shared" => {
            let _guards = (lock.lock_shared().unwrap(), lock.lock_shared().unwrap());
            held();
        }
        "killed, owned guard" => {
            let _guard = lock.acquire().wait_owned().unwrap();
            held();
        }
        "keeps it in a static and exits" => {
            KEPT.with_borrow_mut(|kept| kept.push(lock.acquire().wait_owned().unwrap()));
            held();
            std::process::exit(0);
        }
        "panics in a thread" => {
            let result = thread::scope(|scope| {
                let thread = scope.spawn(|| {
                    let _guard = lock.lock().unwrap();
                    held();
                    panic!("on purpose");
                });
                thread.join()
            });
            assert!(result.is_err());
        }
        "panics in a task" => {
            let task = smol::spawn(async move {
                let _guard = lock.acquire().await.unwrap();
                held();
                panic!("on purpose");
            });
            let task = panic::catch_unwind(AssertUnwindSafe(|| smol::block_on(task)));
            assert!(task.is_err());
        }
        _ => {
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                let guard = lock.lock().unwrap();
                held();
                match end {
                    "aborts" => std::process::abort(),
                    "exits" => std::process::exit(0),
                    "exits at once" => exit_at_once(0),
                    "forgets and exits" => {
                        std::mem::forget(guard);
                        std::process::exit(0);
                    }
                    _ => panic!("on purpose"),
                }
            }));
            if end == "panics" {
                panic::resume_unwind(result.unwrap_err());
            }
        }
    }
    say("goes on");
    hear();
}

#[test]
fn it_is_free_as_soon_as_the_dead_holder_can_be_waited_for() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let place = [path.to_str().unwrap(), mechanism];
        let lock = open(&place.map(String::from));
        for _ in 0..20 {
            let mut holder = roles::holder(&place);
            assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
            holder.kill();
            lock.try_lock().unwrap().unlock().unwrap();
        }
    }
}

#[test]
fn a_waiter_that_dies_leaves_its_place_to_the_next() {
    for mechanism in MECHANISMS {
        for role in ["hold", "async waiter"] {
            if role == "async waiter" && mechanism == "posix" {
                continue;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let place = [path.to_str().unwrap(), mechanism];
            let mut first = roles::holder(&place);
            let mut second = Worker::spawn(role, &place);
            wait_for_blocked(&path, 1);
            let third = Worker::spawn("hold", &place);
            wait_for_blocked(&path, 2);
            second.kill();
            // In the kernel it stood between the other two; the third moves up.
            wait_for_blocked(&path, 1);
            roles::release(&mut first);
            third.expect("held");
        }
    }
}

fn async_waiter(args: &[String]) {
    let lock = open(args);
    let guard = smol::block_on(lock.acquire().into_future());
    panic!("it was to die while it waited: {guard:?}");
}

#[test]
fn a_crash_amid_creation_and_removal_leaves_no_other_file() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut workers: Vec<_> =
            (0..3).map(|_| Worker::spawn("churn", &[path.to_str().unwrap()])).collect();
        for worker in &mut workers {
            worker.expect("at it");
            worker.kill();
        }
        let names = names_in(dir.path());
        assert!(names.is_empty() || names == ["a.lock"], "{names:?}");
        let mut next = LockMgr::new(&path);
        assert!(next.acquire_lock(false, BOUND), "{}", next.msg());
        assert!(next.release_lock());
        assert_eq!(names_in(dir.path()), [""; 0]);
    }
}

/// Makes and removes lock files until it is killed.
fn churn(args: &[String]) {
    let mut round = 0;
    loop {
        let mut lock = LockMgr::new(&args[0]);
        if lock.acquire_lock(true, BOUND) {
            lock.release_lock();
        }
        round += 1;
        if round == 20 {
            say("at it");
        }
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn nothing_is_left_after_thousands() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        alone("accounts", &[path.to_str().unwrap(), mechanism]);
        assert_eq!(names_in(dir.path()), ["a.lock"]);
    }
}

/// What a process has.
#[derive(Debug, PartialEq, Eq)]
struct Belongings {
    descriptors: usize,
    threads: usize,
    /// Lines of `/proc/self/timers`, where the kernel has that.
    timers: usize,
    locks: (usize, usize),
}

impl Belongings {
    fn now(path: &Path) -> Self {
        Self {
            descriptors: descriptor_count(),
            threads: thread_count(),
            timers: fs::read_to_string("/proc/self/timers").map_or(0, |text| text.lines().count()),
            locks: kernel_locks(path),
        }
    }
}

/// What is done over and over; the number is the round.
type Business = fn(&[String], &FileLock, usize);

fn accounts(args: &[String]) {
    let path = PathBuf::from(&args[0]);
    let lock = open(args);
    let mut businesses: Vec<(&str, usize, Business)> = vec![
        ("acquisitions on a kept handle", 3000, keep),
        ("acquisitions on new handles", 3000, open_anew),
        ("panics", 100, panic_inside),
        ("waits that end by their deadline", 300, time_out),
        ("waits that are cancelled", 300, cancel),
        ("waits that are granted", 300, be_granted),
    ];
    if lock.mechanism() != Mechanism::Posix {
        businesses.push(("futures that are dropped", 1000, drop_future));
        businesses.push(("futures that end by their deadline", 300, time_out_future));
        businesses.push(("locks handed over", 1000, hand_over));
    }
    if lock.mechanism() == Mechanism::Flock {
        businesses.push(("files that are removed", 1000, remove));
    }
    expect_panics();
    for (what, count, business) in businesses {
        // What is set up once, at first use, is no leak; nor is what runtimes and allocators keep.
        for round in 0..10 {
            business(args, &lock, round);
        }
        let before = settled(&path);
        for round in 0..count {
            business(args, &lock, round);
        }
        let mut after = Belongings::now(&path);
        // A waiter thread needs a moment to end.
        let start = std::time::Instant::now();
        while after != before && start.elapsed() < BOUND / 6 {
            thread::yield_now();
            after = Belongings::now(&path);
        }
        if after != before {
            say(format!("{what}: {before:?} became {after:?}"));
            std::process::exit(1);
        }
    }
}

/// What it has when nothing changes any more.
fn settled(path: &Path) -> Belongings {
    let mut last = Belongings::now(path);
    eventually("the process has come to rest", || {
        thread::sleep(Duration::from_millis(20));
        let now = Belongings::now(path);
        let same = now == last;
        last = now;
        same
    });
    last
}

#[test]
fn handles_that_come_and_go_beside_a_hold_leave_nothing() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        alone("come and go", &[path.to_str().unwrap(), mechanism]);
    }
}

/// While a `posix` lock is held, no descriptor of its file can be closed without dropping it.
fn come_and_go(args: &[String]) {
    let mechanism: Mechanism = args[1].parse().unwrap();
    let bytes = |start| {
        let options = FileLock::options().mechanism(mechanism);
        match mechanism {
            Mechanism::Flock => options,
            _ => options.range(Range::new(start, 10).unwrap()),
        }
    };
    let lock = bytes(0).open(&args[0]).unwrap();
    let guard = lock.acquire().wait_owned().unwrap();
    let visit = || {
        let (same, other) = (bytes(5).open(&args[0]).unwrap(), bytes(10).open(&args[0]).unwrap());
        assert!(matches!(same.try_lock(), Err(Error::Busy { .. })));
        if mechanism != Mechanism::Flock {
            other.lock().unwrap().unlock().unwrap();
        }
    };
    visit();
    let before = descriptor_count();
    for _ in 0..500 {
        visit();
    }
    assert_eq!(descriptor_count(), before);
    assert_eq!(kernel_locks(Path::new(&args[0])), (1, 0));
    guard.unlock().unwrap();
    // Nor does it last longer than the hold.
    drop(lock);
    assert!(descriptor_count() < before);
}

fn keep(_args: &[String], lock: &FileLock, round: usize) {
    if round.is_multiple_of(2) {
        lock.lock_timeout(BOUND).unwrap().unlock().unwrap();
    } else {
        drop((lock.lock_shared().unwrap(), lock.try_lock_shared().unwrap()));
    }
}

fn open_anew(args: &[String], _lock: &FileLock, _round: usize) {
    let lock = open(args);
    let guard = lock.acquire().wait_owned().unwrap();
    // Also while the handle is held, which is what puts closes off for `posix`.
    drop(open(args));
    drop(lock);
    guard.unlock().unwrap();
}

fn panic_inside(_args: &[String], lock: &FileLock, _round: usize) {
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        let _guard = lock.lock().unwrap();
        panic!("on purpose");
    }));
    assert!(result.is_err());
}

/// Somebody else has it while `run` runs: another handle, or another thread on the same one.
fn while_held(args: &[String], lock: &FileLock, round: usize, run: impl FnOnce()) {
    let other = if round.is_multiple_of(2) { open(args) } else { lock.clone() };
    let guard = other.acquire().wait_owned().unwrap();
    run();
    guard.unlock().unwrap();
}

fn time_out(args: &[String], lock: &FileLock, round: usize) {
    while_held(args, lock, round, || {
        for timeout in [Duration::ZERO, Duration::from_micros(200)] {
            assert!(matches!(lock.lock_timeout(timeout), Err(Error::TimedOut { .. })));
        }
    });
}

fn cancel(args: &[String], lock: &FileLock, round: usize) {
    while_held(args, lock, round, || {
        let token = CancelToken::new();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.acquire().cancel(&token).wait_owned());
            if round.is_multiple_of(3) {
                thread::yield_now();
            }
            token.cancel();
            assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled { .. })));
        });
    });
}

fn be_granted(args: &[String], lock: &FileLock, round: usize) {
    thread::scope(|scope| {
        let mut waiter = None;
        while_held(args, lock, round, || {
            waiter = Some(scope.spawn(|| lock.lock_timeout(BOUND).unwrap().unlock().unwrap()));
            thread::yield_now();
        });
        waiter.unwrap().join().unwrap();
    });
}

fn drop_future(args: &[String], lock: &FileLock, round: usize) {
    while_held(args, lock, round, || {
        let mut future = lock.acquire().timeout(BOUND).into_future();
        assert!(smol::block_on(smol::future::poll_once(&mut future)).is_none());
        drop(future);
        if round.is_multiple_of(20) {
            // The wait has ended although nothing was released.
            wait_for_blocked(Path::new(&args[0]), 0);
        }
    });
    lock.lock_timeout(BOUND).unwrap().unlock().unwrap();
}

fn time_out_future(args: &[String], lock: &FileLock, round: usize) {
    while_held(args, lock, round, || {
        let future = lock.acquire().timeout(Duration::from_micros(200)).into_future();
        assert!(matches!(smol::block_on(future), Err(Error::TimedOut { .. })));
    });
}

fn hand_over(_args: &[String], lock: &FileLock, round: usize) {
    let fd = lock.acquire().wait_owned().unwrap().into_fd().unwrap();
    if round.is_multiple_of(2) {
        OwnedFileLockGuard::adopt(fd).unwrap().unlock().unwrap();
    }
}

fn remove(args: &[String], _lock: &FileLock, _round: usize) {
    let path = format!("{}.removed", args[0]);
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(false, BOUND));
    assert!(lock.release_lock());
    assert!(!Path::new(&path).exists());
}
