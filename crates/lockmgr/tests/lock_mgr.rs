//! `LockMgr`, the small classic interface: what it answers, what it says, and what it does to the
//! lock file.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use lockmgr::{FileLock, LockMgr, Mechanism};
use support::probe::{self, start};
use support::process::{Way, fork};
use support::users::{chmod, mode_of};
use support::{BOUND, alone, hear, say, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[
        ("probe", probe::run),
        ("classic", classic),
        ("any umask", any_umask),
        ("forked", forked),
    ]);
}

#[test]
#[expect(
    unused_must_use,
    reason = "the compiler has to warn of this, or the expectation is in vain"
)]
fn an_answer_that_nobody_looks_at_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    LockMgr::new(dir.path().join("a.lock")).acquire_lock(false, BOUND);
}

/// Acquires (`try` or a timeout in milliseconds), says what came of it, and releases when told to.
fn classic(args: &[String]) {
    let mut lock = LockMgr::new(&args[0]);
    let held = match &*args[1] {
        "try" => lock.acquire_lock(false, BOUND),
        limit => lock.acquire_lock(true, Duration::from_millis(limit.parse().unwrap())),
    };
    say(format!("{held} {}", lock.msg()));
    hear();
    say(format!("{} {}", lock.release_lock(), lock.msg()));
}

fn start_classic(path: &Path, how: &str) -> support::Worker {
    support::Worker::spawn("classic", &[path.to_str().unwrap(), how])
}

#[test]
fn one_object_and_all_that_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut lock = LockMgr::new(&path);
    assert_eq!((lock.lockfile(), lock.msg(), lock.acquired()), (&*path, "", false));
    assert!(!path.exists(), "nothing is touched before it is asked for");

    assert!(!lock.release_lock());
    assert_eq!(lock.msg(), "No lock to release");

    for wait in [false, true] {
        assert!(lock.acquire_lock(wait, Duration::from_secs(1)));
        assert_eq!((lock.msg(), lock.acquired()), ("Success", true));
        assert!(path.exists());

        let since = Instant::now();
        assert!(lock.acquire_lock(true, BOUND), "it is held: that is what was asked for");
        assert_eq!((lock.msg(), lock.acquired()), ("Already locked", true));
        assert!(since.elapsed() < BOUND / 2);

        assert!(lock.release_lock());
        assert_eq!((lock.msg(), lock.acquired()), ("success: lock released", false));
        assert!(!path.exists());

        assert!(!lock.release_lock());
        assert_eq!((lock.msg(), lock.acquired()), ("No lock to release", false));
    }
}

fn any_umask(args: &[String]) {
    for mask in [0, 0o022, 0o077, 0o777] {
        rustix::process::umask(mask.into());
        let path = Path::new(&args[0]).join(format!("{mask:o}"));
        let mut lock = LockMgr::new(&path);
        assert!(lock.acquire_lock(false, BOUND), "{}", lock.msg());
        assert_eq!(mode_of(&path), 0o644, "umask {mask:o}");
        assert!(lock.release_lock());
    }
}

#[test]
fn the_file_is_made_with_0644_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    alone("any umask", &[dir.path().to_str().unwrap()]);
    // A file that exists keeps what it has.
    let path = dir.path().join("old");
    fs::write(&path, "").unwrap();
    chmod(&path, 0o600);
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(false, BOUND));
    assert_eq!(mode_of(&path), 0o600);
}

#[test]
fn dropping_releases_and_removes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(false, BOUND));
    drop(lock);
    assert!(!path.exists());
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(false, BOUND));
}

#[test]
fn without_waiting_there_is_one_attempt_which_says_who_is_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let holder = start_classic(&path, "try");
    holder.expect("true Success");
    let mut lock = LockMgr::new(&path);
    let since = Instant::now();
    // The timeout is for those who wait.
    assert!(!lock.acquire_lock(false, BOUND));
    assert!(since.elapsed() < BOUND / 2);
    let expected = format!("Failed: {} is busy, held by pid {} (", path.display(), holder.pid());
    assert!(lock.msg().starts_with(&expected), "{}", lock.msg());
    assert!(!lock.acquired());
    assert!(!lock.release_lock());
    assert_eq!(lock.msg(), "No lock to release");
    assert!(path.exists(), "it is the other one's");
}

#[test]
fn the_timeout_is_for_the_whole_call() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let holder = start(&path, "hold");
    holder.expect("held");
    let mut lock = LockMgr::new(&path);
    for limit in [0, 1, 50].map(Duration::from_millis) {
        let since = Instant::now();
        assert!(!lock.acquire_lock(true, limit));
        let passed = since.elapsed();
        assert!(passed >= limit && passed < limit + BOUND / 2, "{limit:?}: {passed:?}");
        let expected = format!(
            "Failed: {}: timed out while waiting for the lock, held by pid {} (",
            path.display(),
            holder.pid()
        );
        assert!(lock.msg().starts_with(&expected), "{}", lock.msg());
    }
    // The holder's death is as good as its release.
    drop(holder);
    assert!(lock.acquire_lock(true, Duration::MAX));
    assert_eq!(lock.msg(), "Success");
}

#[test]
fn a_waiter_gets_it_when_it_is_released_and_the_file_goes_with_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut lock = LockMgr::new(&path);
    for _ in 0..3 {
        assert!(lock.acquire_lock(true, BOUND), "{}", lock.msg());
        let mut waiter = start_classic(&path, "30000");
        wait_for_blocked(&path, 1);
        assert!(lock.release_lock());
        waiter.expect("true Success");
        assert!(!lock.acquire_lock(false, BOUND));
        waiter.tell("release");
        waiter.expect("true success: lock released");
        assert!(!path.exists());
    }
}

#[test]
fn it_is_an_flock_as_others_take_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(false, BOUND));
    assert!(FileLock::open(&path).unwrap().try_lock().is_err());
    let records = FileLock::options().mechanism(Mechanism::Ofd).open(&path).unwrap();
    drop(records.try_lock().unwrap());
    // Two objects are two parties, in one thread too; and the answer is no hang.
    let mut other = LockMgr::new(&path);
    assert!(!other.acquire_lock(true, Duration::from_millis(20)));
    assert!(other.msg().starts_with("Failed: "), "{}", other.msg());
}

#[test]
fn foreign_content_stays_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    fs::write(&path, "data").unwrap();
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(true, BOUND));
    assert!(lock.release_lock());
    assert_eq!(
        lock.msg(),
        format!(
            "success: {}: the lock was released, but the file not removed: it holds data that \
             lockmgr did not write",
            path.display()
        )
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "data");
}

#[test]
fn a_replaced_file_is_not_touched_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(true, BOUND));
    fs::remove_file(&path).unwrap();
    let mut other = LockMgr::new(&path);
    assert!(other.acquire_lock(false, BOUND));
    assert!(lock.release_lock());
    assert_eq!(
        lock.msg(),
        format!(
            "success: lock released, but {}: the lock file was deleted or replaced while the lock \
             was held; another process may have held the new one at the same time",
            path.display()
        )
    );
    assert!(path.exists(), "it is the other one's");
    assert!(other.release_lock());
    assert_eq!(other.msg(), "success: lock released");
}

#[test]
fn what_cannot_be_opened_is_said_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/a.lock");
    for (path, reason) in [
        (
            &*missing,
            "cannot create: No such file or directory (os error 2); its directory does not exist, or takes no new files",
        ),
        (Path::new("/dev/null"), "it is a device, which cannot be a lock file"),
    ] {
        let mut lock = LockMgr::new(path);
        for wait in [false, true, true] {
            assert!(!lock.acquire_lock(wait, BOUND));
            assert_eq!(lock.msg(), format!("Failed: {}: {reason}", path.display()));
            assert!(!lock.acquired());
        }
    }
    let mut empty = LockMgr::new("");
    assert!(!empty.acquire_lock(false, BOUND));
    assert_eq!(empty.msg(), "Failed: '': an empty path names no file");
    // What was in the way is gone: the same object goes on.
    let mut lock = LockMgr::new(&missing);
    assert!(!lock.acquire_lock(false, BOUND));
    fs::create_dir(missing.parent().unwrap()).unwrap();
    assert!(lock.acquire_lock(false, BOUND));
}

fn forked(args: &[String]) {
    let mut lock = LockMgr::new(&args[0]);
    assert!(lock.acquire_lock(false, BOUND));
    let mut child = fork(Way::Fork, |parent| {
        parent.say(lock.acquired());
        parent.say(format!("{} {}", lock.release_lock(), lock.msg()));
        let held = lock.acquire_lock(false, BOUND);
        parent.say(format!("{held} {}", lock.msg()));
        parent.hear();
        let held = lock.acquire_lock(true, BOUND);
        parent.say(format!("{held} {}", lock.msg()));
        parent.say(format!("{} {}", lock.release_lock(), lock.msg()));
    });
    child.expect("false");
    child.expect("false No lock to release");
    let busy = child.next_line();
    assert!(busy.starts_with("false Failed: ") && busy.contains(" is busy"), "{busy}");
    assert!(lock.acquired() && Path::new(&args[0]).exists());
    // (The closure has a copy of its own: this process's is still here.)
    assert!(lock.release_lock());
    child.tell("released");
    child.expect("true Success");
    child.expect("true success: lock released");
    child.finish();
    assert!(!Path::new(&args[0]).exists());
}

#[test]
fn in_a_forked_child_nothing_is_held_and_the_parent_is_not_disturbed() {
    let dir = tempfile::tempdir().unwrap();
    alone("forked", &[dir.path().join("a.lock").to_str().unwrap()]);
}

#[test]
fn it_can_be_handed_to_another_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut lock = LockMgr::new(&path);
    assert!(lock.acquire_lock(false, BOUND));
    let mut lock = std::thread::spawn(move || {
        assert!(lock.release_lock());
        lock
    })
    .join()
    .unwrap();
    assert!(lock.acquire_lock(false, BOUND));
}
