//! Promises 2 and 5: a file under a lease of another process cannot be opened until that process
//! gives it back. That is contention, not a hang: a try says so at once, a deadline holds, and the
//! lock is acquired as soon as the lease is gone.

mod support;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use lockmgr::inspect::{self, Kind, LockTable, Record};
use lockmgr::{CancelToken, Error, FileLock, LockMgr, Mechanism, Semaphore};
use support::probe::{self, probe, start};
use support::raw::{give_lease_back, ignore, take_write_lease};
use support::tasks::{sleeps_in, system_calls_are_shown, threads_of};
use support::{Worker, eventually, hear, say, serve, skip};

#[test]
fn worker() {
    serve(&[("probe", probe::run), ("lease", lease), ("lock and lease", lock_and_lease)]);
}

/// Takes a write lease and gives it back when told to.
fn lease(args: &[String]) {
    // Whoever opens the file has this sent to us, and it would end us.
    ignore(rustix::process::Signal::IO.as_raw());
    let file = File::create(&args[0]).unwrap();
    match take_write_lease(&file) {
        Ok(()) => say("leased"),
        Err(error) => return say(error),
    }
    hear();
    give_lease_back(&file).unwrap();
    say("given back");
    hear();
}

/// Locks a file with a record and takes a lease on it, which nothing but our death makes us give up.
fn lock_and_lease(args: &[String]) {
    let lock = FileLock::options().record(true).open(&args[0]).unwrap();
    let description = File::from(lock.acquire().wait_owned().unwrap().into_fd().unwrap());
    match take_write_lease(&description) {
        Ok(()) => say("leased"),
        Err(error) => return say(error),
    }
    hear();
    say("alive");
    hear();
}

/// A process with a lease on the file; `None`, with a word about it, where there is no such thing.
fn leased(path: &Path) -> Option<Worker> {
    let worker = Worker::spawn("lease", &[path.to_str().unwrap()]);
    match worker.next_line().as_str() {
        "leased" => Some(worker),
        error => {
            skip(&format!("needs a filesystem with leases: {error}"));
            None
        }
    }
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

/// Whether the worker sleeps in a system call that opens a file, as far as that can be seen.
fn is_opening(worker: &Worker) -> bool {
    let opening = [
        libc::SYS_openat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
    ];
    let pid = worker.pid();
    threads_of(pid).into_iter().any(|thread| match sleeps_in(pid, thread) {
        Some([call, ..]) => opening.contains(&call),
        None => !system_calls_are_shown(),
    })
}

fn wait_until_opening(worker: &Worker) {
    eventually("the waiter sleeps in open", || is_opening(worker));
}

#[test]
fn a_try_is_busy_and_names_the_process_with_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in MECHANISMS {
        let path = dir.path().join(mechanism);
        let Some(lease) = leased(&path) else { return };
        let expected = format!(
            "Busy: PATH is busy, kept from being opened by a lease of pid {} (",
            lease.pid()
        );
        for words in ["try", "try shared", "try follow"] {
            let outcome = probe(&path, &format!("{mechanism} {words}"));
            assert!(outcome.starts_with(&expected), "{mechanism} {words}: {outcome}");
        }
        let mut classic = LockMgr::new(&path);
        assert!(!classic.acquire_lock(false, support::BOUND));
        assert!(classic.msg().contains("lease"), "{}", classic.msg());
    }
}

#[test]
fn a_deadline_holds() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in MECHANISMS {
        let path = dir.path().join(mechanism);
        let Some(lease) = leased(&path) else { return };
        let lock = FileLock::options()
            .mechanism(mechanism.parse::<Mechanism>().unwrap())
            .open(&path)
            .unwrap();
        let limit = Duration::from_millis(60);
        let start = Instant::now();
        let error = lock.lock_timeout(limit).unwrap_err();
        let passed = start.elapsed();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains(&format!("a lease of pid {} (", lease.pid())));
        // Late by scheduling only; far from the 45 seconds that the kernel allows a lease to break.
        assert!(passed >= limit && passed < Duration::from_secs(10), "{passed:?}");
    }
}

#[test]
fn a_semaphore_names_the_process_with_the_lease() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.lock");
    let Some(mut lease) = leased(&path) else { return };
    let expected = format!("kept from being opened by a lease of pid {} (", lease.pid());
    let limit = Duration::from_millis(60);
    for fair in [false, true] {
        let semaphore = Semaphore::options().fair(fair).open(&path, 1).unwrap();
        for timed_out in [
            semaphore.acquire_timeout(limit).unwrap_err(),
            smol::block_on(semaphore.acquire().timeout(limit).into_future()).unwrap_err(),
        ] {
            assert!(matches!(timed_out, Error::TimedOut { .. }), "{timed_out}");
            assert!(timed_out.to_string().contains(&expected), "{timed_out}");
        }
        let busy = semaphore.try_acquire().unwrap_err();
        assert!(matches!(busy, Error::Busy { .. }), "{busy}");
        assert!(busy.to_string().contains(&expected), "{busy}");
    }
    // Slots are in the way again once it can be opened.
    lease.tell("give back");
    lease.expect("given back");
    let [one, other] = [(); 2].map(|()| Semaphore::open(&path, 1).unwrap());
    let _held = one.try_acquire().unwrap();
    let busy = other.try_acquire().unwrap_err().to_string();
    assert!(busy.contains(&format!("held by pid {} (", std::process::id())), "{busy}");
}

#[test]
fn a_cancellation_ends_the_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let Some(_lease) = leased(&path) else { return };
    let lock = FileLock::open(&path).unwrap();
    let cancel = CancelToken::new();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lock.acquire().cancel(&cancel).wait_owned().map(drop));
        cancel.cancel();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled { .. })));
    });
}

#[test]
fn the_lock_is_acquired_when_the_lease_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in MECHANISMS {
        for words in ["", "timeout=30000", "shared", "remove"] {
            let path = dir.path().join(format!("{mechanism}{words}"));
            let Some(mut lease) = leased(&path) else { return };
            let waiter = start(&path, &format!("{mechanism} {words} hold"));
            wait_until_opening(&waiter);
            lease.tell("give back");
            lease.expect("given back");
            waiter.expect("held");
        }
    }
}

#[test]
fn whoever_waits_for_it_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    // `ofd`, because it opens the file for writing: while an open for reading waits for the holder of
    // a write lease to become a reader, the kernel itself (6.18) wakes up with every tick of its
    // clock.
    for words in ["ofd hold", "ofd timeout=30000 hold"] {
        let path = dir.path().join(words);
        let Some(mut lease) = leased(&path) else { return };
        let waiter = start(&path, words);
        wait_until_opening(&waiter);
        // Whoever asks again and again is seen awake now and then.
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(1));
            assert!(is_opening(&waiter), "{words}");
        }
        lease.tell("give back");
        lease.expect("given back");
        waiter.expect("held");
    }
}

#[test]
fn a_task_waits_for_it_as_a_thread_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let Some(mut lease) = leased(&path) else { return };
    let lock = FileLock::open(&path).unwrap();
    smol::block_on(async {
        let early = lock.acquire().timeout(Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(early, Error::TimedOut { .. }), "{early}");
        assert!(early.to_string().contains("a lease of pid"), "{early}");
        let mut waiter = Box::pin(lock.acquire().into_future());
        assert!(smol::future::poll_once(&mut waiter).await.is_none());
        lease.tell("give back");
        lease.expect("given back");
        waiter.await.unwrap().unlock().unwrap();
    });
}

#[test]
fn the_lock_is_acquired_when_the_process_with_the_lease_dies() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let Some(mut lease) = leased(&path) else { return };
    let waiter = start(&path, "timeout=30000 hold");
    wait_until_opening(&waiter);
    lease.kill();
    waiter.expect("held");
}

#[test]
fn a_file_that_is_replaced_meanwhile_is_not_waited_for_any_longer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let Some(mut lease) = leased(&path) else { return };
    let waiter = start(&path, "timeout=30000 hold");
    wait_until_opening(&waiter);
    std::fs::remove_file(&path).unwrap();
    // The kernel opens the old file for it now; it must not be content with that.
    lease.tell("give back");
    lease.expect("given back");
    waiter.expect("held");
    assert!(path.exists(), "made anew");
    assert_eq!(support::kernel_locks(&path).0, 1);
}

#[test]
fn a_look_at_the_lock_leaves_the_lease_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut holder = Worker::spawn("lock and lease", &[path.to_str().unwrap()]);
    match holder.next_line().as_str() {
        "leased" => {}
        error => return skip(&format!("needs a filesystem with leases: {error}")),
    }
    let table = LockTable::of(&path).unwrap();
    let kinds: Vec<&Kind> = table.files[0].locks.iter().map(|lock| &lock.kind).collect();
    assert!(kinds.contains(&&Kind::Flock) && kinds.contains(&&Kind::Lease), "{kinds:?}");
    // The record is there, but to read it the file would have to be opened.
    assert_eq!(table.files[0].record(), None);
    assert_eq!(Record::of_lock(&path), None);
    assert_eq!(inspect::last_success(&path), None);
    // One who looked before the lease was taken asks for the record now.
    let mut before = table.files[0].clone();
    before.locks.retain(|lock| lock.kind != Kind::Lease);
    assert_eq!(before.record(), None);
    holder.tell("are you there?");
    holder.expect("alive");
}
