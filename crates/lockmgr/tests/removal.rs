//! `remove_on_release`: the lock file goes while it is held, so that no two get in; and nothing goes
//! that is not the lock's own.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use lockmgr::{Error, FileLock, FileLockOptions, Mechanism, Mode, Range};
use support::probe::{self, probe, start, told};
use support::users::{can_play_users, new_user, public_dir};
use support::{Worker, hear, say, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[("probe", probe::run), ("rounds", rounds)]);
}

const MECHANISMS: [Mechanism; 3] = [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix];

fn removing(mechanism: Mechanism) -> FileLockOptions {
    FileLock::options().mechanism(mechanism).remove_on_release(true)
}

#[test]
fn the_file_goes_with_the_lock_and_comes_back_with_it() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = removing(mechanism).open(&path).unwrap();
        for _ in 0..3 {
            let guard = lock.lock().unwrap();
            assert!(path.exists() && guard.still_current().unwrap());
            guard.unlock().unwrap();
            assert!(!path.exists(), "{mechanism}");
            // So it does when nobody asks what came of it, and when the holder panics.
            drop(lock.lock().unwrap());
            assert!(!path.exists(), "{mechanism}");
            let panicked = std::panic::catch_unwind(|| {
                let _guard = lock.lock().unwrap();
                std::panic::resume_unwind(Box::new(()));
            });
            assert!(panicked.is_err() && !path.exists(), "{mechanism}");
        }
        let lock = removing(mechanism).open(&path).unwrap();
        lock.acquire().wait_owned().unwrap().unlock().unwrap();
        assert!(!path.exists(), "{mechanism}");
    }
}

#[test]
fn opening_and_failing_to_acquire_remove_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let holder = start(&path, "hold");
    holder.expect("held");
    let inode = fs::metadata(&path).unwrap().ino();
    assert!(probe(&path, "remove try").starts_with("Busy"));
    assert!(probe(&path, "remove timeout=10").starts_with("TimedOut"));
    assert!(probe(&path, "remove shared try").starts_with("Busy"));
    drop(removing(Mechanism::Flock).open(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(support::kernel_locks(&path), (1, 0));
}

#[test]
fn a_killed_holder_leaves_the_file_and_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut holder = start(&path, "remove hold");
    holder.expect("held");
    holder.kill();
    assert!(path.exists());
    assert_eq!(probe(&path, "remove try"), "held");
    assert!(!path.exists());
}

#[test]
fn the_last_shared_holder_removes_the_file() {
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut other = start(&path, &format!("{mechanism} remove shared hold"));
        other.expect("held");
        let lock = removing(mechanism).open(&path).unwrap();
        let (one, two) = (lock.lock_shared().unwrap(), lock.lock_shared().unwrap());
        one.unlock().unwrap();
        assert!(path.exists(), "another guard of this process shares it");
        two.unlock().unwrap();
        assert!(path.exists(), "another process shares it");
        assert_eq!(support::kernel_locks(&path), (1, 0));
        other.tell("release");
        assert!(other.finish().success());
        assert!(!path.exists(), "{mechanism}");
    }
}

#[test]
fn a_shared_posix_holder_never_removes_the_file() {
    // The kernel would make the lock of the whole process exclusive, with what other handles share.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = removing(Mechanism::Posix).open(&path).unwrap();
    lock.lock_shared().unwrap().unlock().unwrap();
    assert!(path.exists());
}

#[test]
fn what_holds_anything_else_stays() {
    let dir = tempfile::tempdir().unwrap();
    for (index, content) in [
        "x",
        "\n",
        "12345\n",
        "{\"lockmgr\":2}\n",
        "{\"lockmgr\":1}\nand somebody's notes\n",
        "{\"lockmgr\":10}\n",
        &"{\"lockmgr\":1,".repeat(400),
    ]
    .into_iter()
    .enumerate()
    {
        for mechanism in MECHANISMS {
            let path = dir.path().join(format!("{index}{mechanism}"));
            fs::write(&path, content).unwrap();
            let guard = removing(mechanism).open(&path).unwrap();
            assert_eq!(
                told(&guard.lock().unwrap().unlock().unwrap_err(), &path),
                "NotOurs: PATH: the lock was released, but the file not removed: it holds data \
                 that lockmgr did not write"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert_eq!(support::kernel_locks(&path), (0, 0));
        }
    }
}

#[test]
fn a_record_of_ours_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    for content in ["{\"lockmgr\":1}", "{\"lockmgr\":1,\"pid\":7}\n", "{\"lockmgr\":1,\"pi"] {
        for mechanism in MECHANISMS {
            fs::write(&path, content).unwrap();
            let lock = removing(mechanism).open(&path).unwrap();
            lock.lock().unwrap().unlock().unwrap();
            assert!(!path.exists(), "{content}");
        }
    }
}

#[test]
fn content_that_comes_during_the_hold_counts_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = removing(Mechanism::Flock).open(&path).unwrap();
    let guard = lock.lock().unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(guard.unlock(), Err(Error::NotOurs { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_directory_stays() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join(".")] {
        let lock = removing(Mechanism::Flock).open(&path).unwrap();
        assert_eq!(
            told(&lock.lock().unwrap().unlock().unwrap_err(), &path),
            "NotOurs: PATH: the lock was released, but the file not removed: it is not a regular \
             file"
        );
        assert!(dir.path().is_dir());
    }
}

#[test]
fn a_file_that_others_may_not_delete_stays() {
    if !can_play_users() {
        return;
    }
    // Sticky: only the owner of a file may delete it; and not writable: nobody may.
    let sticky = public_dir(0o1777);
    let closed = public_dir(0o755);
    for dir in [&sticky, &closed] {
        let path = dir.path().join("a.lock");
        fs::write(&path, "").unwrap();
        let worker = start(&path, &format!("user={} remove", new_user()));
        worker.expect("held");
        worker.expect(
            "NotOurs: PATH: the lock was released, but the file not removed: its directory does \
             not allow the removal",
        );
        assert!(worker.finish().success());
        assert!(path.exists());
        assert_eq!(support::kernel_locks(&path), (0, 0));
    }
}

#[test]
fn a_file_that_was_replaced_or_deleted_during_the_hold_is_not_touched() {
    for mechanism in MECHANISMS {
        for mode in [Mode::Exclusive, Mode::Shared] {
            for replace in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("a.lock");
                let lock = removing(mechanism).open(&path).unwrap();
                let guard = lock.acquire().mode(mode).wait().unwrap();
                fs::remove_file(&path).unwrap();
                if replace {
                    // Empty, as a lock file of somebody else who holds it now.
                    fs::write(&path, "").unwrap();
                }
                let error = guard.unlock().unwrap_err();
                assert!(matches!(error, Error::Replaced { while_held: true, .. }), "{error}");
                assert_eq!(path.exists(), replace, "{mechanism} {mode}");
                drop(lock.acquire().mode(mode).wait().unwrap());
            }
        }
    }
}

#[test]
fn waiters_of_other_processes_get_in_one_after_the_other() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = removing(mechanism).open(&path).unwrap();
        let guard = lock.lock().unwrap();
        let mut waiters: Vec<Worker> = (0..3)
            .map(|_| start(&path, &format!("{mechanism} timeout=30000 remove hold")))
            .collect();
        wait_for_blocked(&path, waiters.len());
        guard.unlock().unwrap();
        while !waiters.is_empty() {
            let mut holder = None;
            support::eventually("one of them is in", || {
                holder = waiters
                    .iter()
                    .position(|waiter| waiter.try_line(std::time::Duration::ZERO).is_some());
                holder.is_some()
            });
            let mut holder = waiters.swap_remove(holder.unwrap());
            // The others wait for the file that the path names now, and for nothing else.
            wait_for_blocked(&path, waiters.len());
            assert_eq!(support::kernel_locks(&path).0, 1);
            holder.tell("release");
            assert!(holder.finish().success());
        }
        assert!(!path.exists());
    }
}

/// Adds to a number again and again, and removes the lock file each time.
fn rounds(args: &[String]) {
    let [path, counter] = [&args[0], &args[1]].map(Path::new);
    let options = removing(args[2].parse().unwrap());
    let kept = options.open(path).unwrap();
    say("ready");
    hear();
    for round in 0..args[3].parse::<u32>().unwrap() {
        let lock = if round % 2 == 0 { &kept } else { &options.open_lazy(path).unwrap() };
        let guard = lock.lock_timeout(support::BOUND).unwrap();
        let number: u64 = fs::read_to_string(counter).unwrap().parse().unwrap();
        fs::write(counter, (number + 1).to_string()).unwrap();
        guard.unlock().unwrap();
    }
    say("done");
}

#[test]
fn no_two_get_in_however_often_the_file_goes() {
    const WORKERS: u64 = 4;
    const ROUNDS: u64 = 250;
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let [path, counter] = ["a.lock", "counter"].map(|name| dir.path().join(name));
        fs::write(&counter, "0").unwrap();
        let [path_text, counter_text] = [&path, &counter].map(|path| path.to_str().unwrap());
        let (mechanism_text, rounds) = (mechanism.to_string(), ROUNDS.to_string());
        let args = [path_text, counter_text, &mechanism_text, &rounds];
        let mut workers: Vec<Worker> =
            (0..WORKERS).map(|_| Worker::spawn("rounds", &args)).collect();
        for worker in &mut workers {
            worker.expect("ready");
            worker.tell("go");
        }
        for worker in &workers {
            worker.expect("done");
        }
        assert_eq!(fs::read_to_string(&counter).unwrap(), (WORKERS * ROUNDS).to_string());
        assert!(!path.exists(), "the last one has removed it");
    }
}

#[test]
fn what_cannot_go_together_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let text = |error: Error| told(&error, &path);
    let range = Range::new(0, 10).unwrap();
    for mechanism in [Mechanism::Ofd, Mechanism::Posix] {
        assert_eq!(
            text(removing(mechanism).range(range).open(&path).unwrap_err()),
            "Unsupported: PATH: cannot open: a lock on a byte range cannot remove the file, on \
             which others may hold other ranges"
        );
    }
    assert_eq!(
        text(removing(Mechanism::Flock).follow_symlinks(true).open(&path).unwrap_err()),
        "Unsupported: PATH: cannot open: removal on release and following symbolic links exclude \
         each other"
    );
    let file = fs::File::create(dir.path().join("data")).unwrap();
    assert_eq!(
        text(removing(Mechanism::Flock).from_file(file).unwrap_err()),
        "Unsupported: lock: cannot open: a lock without a path cannot be removed"
    );
    assert!(!path.exists(), "and nothing was created for it");
}
