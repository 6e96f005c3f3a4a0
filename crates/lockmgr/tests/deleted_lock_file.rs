//! Promise 1: exclusion on the path. A lock file that is deleted or replaced while it is waited
//! for, or by whoever holds it, admits nobody besides the holder.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{Error, FileLock, LockMgr, Mechanism};
use lockmgr_testfs::{Kind, Server, TestFs};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use support::{Worker, hear, say, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[("hold", hold)]);
}

/// Acquires with a deadline, says so, and holds until told otherwise.
fn hold(args: &[String]) {
    let mechanism: Mechanism = args[1].parse().unwrap();
    let lock = FileLock::options().mechanism(mechanism).open(&args[0]).unwrap();
    let guard = lock.lock_timeout(support::BOUND).unwrap();
    assert!(guard.still_current().unwrap());
    say("held");
    hear();
    match guard.unlock() {
        Ok(()) => say("released"),
        Err(Error::Replaced { while_held: true, .. }) => say("replaced"),
        Err(other) => panic!("{other}"),
    }
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

fn replace(path: &Path) {
    let new = path.with_extension("new");
    fs::write(&new, "").unwrap();
    fs::rename(&new, path).unwrap();
}

#[test]
fn a_waiter_follows_the_path_to_the_new_file() {
    for mechanism in MECHANISMS {
        for delete_only in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let text = path.to_str().unwrap();
            let mut first = Worker::spawn("hold", &[text, mechanism]);
            first.expect("held");
            let mut second = Worker::spawn("hold", &[text, mechanism]);
            wait_for_blocked(&path, 1);
            if delete_only {
                fs::remove_file(&path).unwrap();
            } else {
                replace(&path);
            }
            // A third one comes by the path and gets the new file: it must exclude the second.
            let mut third = Worker::spawn("hold", &[text, mechanism]);
            third.expect("held");
            // The first one's unlock notices the foreign deletion, which nobody can prevent.
            first.tell("go");
            first.expect("replaced");
            wait_for_blocked(&path, 1);
            third.tell("go");
            third.expect("released");
            second.expect("held");
            second.tell("go");
            second.expect("released");
        }
    }
}

#[test]
fn a_kept_handle_notices_that_its_free_file_was_replaced() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = FileLock::options().mechanism(mechanism.parse().unwrap()).open(&path).unwrap();
        for _ in 0..3 {
            drop(lock.lock().unwrap());
        }
        replace(&path);
        let guard = lock.lock().unwrap();
        assert!(guard.still_current().unwrap());
        let other = Worker::spawn("hold", &[path.to_str().unwrap(), mechanism]);
        wait_for_blocked(&path, 1);
        guard.unlock().unwrap();
        other.expect("held");
    }
}

type Change = fn(&Path);

/// What may happen to the name of a lock file; each leaves another file at its path, or none.
const CHANGES: [(&str, Change); 5] = [
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("replaced by a rename", replace),
    ("renamed", |path| fs::rename(path, path.with_extension("old")).unwrap()),
    ("exchanged", |path| {
        let other = path.with_extension("other");
        fs::write(&other, "").unwrap();
        renameat_with(CWD, path, CWD, &other, RenameFlags::EXCHANGE).unwrap();
    }),
    ("renamed, while another name still leads to it", |path| {
        let link = path.with_extension("link");
        fs::hard_link(path, &link).unwrap();
        fs::remove_file(path).unwrap();
        fs::rename(link, path.with_extension("old")).unwrap();
    }),
];

/// A handle that has had time to learn that asking the inode will do.
fn practised(path: &Path) -> FileLock {
    let lock = FileLock::open(path).unwrap();
    let start = Instant::now();
    // Longer than a tick of the kernel's clock, and often enough in less time than a walk is good for.
    while start.elapsed() < Duration::from_millis(20) {
        drop(lock.lock().unwrap());
    }
    lock
}

/// On this machine's own filesystem, and on those that are known to note changes of names in the file
/// itself, and on one that does not.
fn on_each_filesystem(look: impl Fn(&str, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    look("this", dir.path());
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs, Kind::Tmpfs, Kind::Overlay] {
        // There is no server among them.
        match TestFs::mount(kind, &Server::of_test("worker")) {
            Ok(filesystem) => look(kind.name(), filesystem.path()),
            Err(skipped) => support::skip(&skipped.to_string()),
        }
    }
}

#[test]
fn a_practised_handle_notices_whatever_happens_to_the_name() {
    on_each_filesystem(|kind, dir| {
        for (what, change) in CHANGES {
            let path = dir.join("a.lock");
            for _ in 0..8 {
                let lock = practised(&path);
                change(&path);
                let guard = lock.lock().unwrap();
                assert!(guard.still_current().unwrap(), "{what} on {kind} in {}", dir.display());
                guard.unlock().unwrap();
            }
        }
    });
}

#[test]
fn after_a_wait_a_practised_handle_notices_whatever_happened_to_the_name() {
    on_each_filesystem(|kind, dir| {
        for (what, change) in CHANGES {
            let path = dir.join("a.lock");
            for deadline in [false, true] {
                let lock = practised(&path);
                let other = FileLock::open(&path).unwrap();
                let held = other.lock().unwrap();
                thread::scope(|scope| {
                    let waiter = scope.spawn(|| {
                        let guard =
                            if deadline { lock.lock_timeout(support::BOUND) } else { lock.lock() };
                        assert!(guard.unwrap().still_current().unwrap(), "{what} on {kind}");
                    });
                    wait_for_blocked(&path, 1);
                    change(&path);
                    drop(held);
                    waiter.join().unwrap();
                });
            }
        }
    });
}

#[test]
fn a_directory_replaced_above_is_noticed_by_the_next_patient_acquisition() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("d"), dir.path().join("old"));
    fs::create_dir(&one).unwrap();
    let path = one.join("a.lock");
    let lock = FileLock::open(&path).unwrap();
    drop(lock.lock().unwrap());
    fs::rename(&one, &two).unwrap();
    fs::create_dir(&one).unwrap();
    // What the quick check assumes lasts for 50 ms; this is the documented limit, not a guess.
    thread::sleep(Duration::from_millis(80));
    let guard = lock.lock().unwrap();
    assert!(path.exists(), "it was made anew where the path leads now");
    guard.unlock().unwrap();
}

#[test]
fn what_a_look_at_the_path_has_told_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("d"), dir.path().join("old"));
    fs::create_dir(&one).unwrap();
    let path = one.join("a.lock");
    let lock = practised(&path);
    let guard = lock.lock().unwrap();
    fs::rename(&one, &two).unwrap();
    fs::create_dir(&one).unwrap();
    // The file itself has the name and the times that it had.
    assert!(!guard.still_current().unwrap());
    drop(guard);
    let guard = lock.lock().unwrap();
    assert!(guard.still_current().unwrap());
    guard.unlock().unwrap();
}

/// As deployments do that copy a tree by hard links and switch a symbolic link to the copy.
#[test]
fn a_directory_switched_by_a_link_hides_no_later_deletion() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, current, new] =
            ["1", "2", "current", "new"].map(|name| dir.path().join(name));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        symlink(&one, &current).unwrap();
        let path = current.join("a.lock");
        let options = FileLock::options().mechanism(mechanism.parse().unwrap());
        let lock = options.open(&path).unwrap();
        for _ in 0..3 {
            drop(lock.lock().unwrap());
        }
        fs::hard_link(one.join("a.lock"), two.join("a.lock")).unwrap();
        symlink(&two, &new).unwrap();
        fs::rename(&new, &current).unwrap();
        // It is the same file still, and excludes.
        let text = path.to_str().unwrap();
        let mut holder = Worker::spawn("hold", &[text, mechanism]);
        holder.expect("held");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.acquire().wait_owned().unwrap());
            wait_for_blocked(&path, 1);
            // What is left in the old directory is not what the path names.
            fs::remove_file(&path).unwrap();
            holder.tell("go");
            holder.expect("replaced");
            let guard = waiter.join().unwrap();
            assert!(guard.still_current().unwrap(), "{mechanism}");
            // Whoever comes by the path is kept out.
            let _other = Worker::spawn("hold", &[text, mechanism]);
            wait_for_blocked(&path, 1);
        });
    }
}

#[test]
fn a_foreign_removal_during_a_hold_is_told_by_the_guard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = FileLock::open(&path).unwrap();
    let guard = lock.lock().unwrap();
    assert!(guard.still_current().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(!guard.still_current().unwrap());
    assert!(matches!(guard.unlock(), Err(Error::Replaced { while_held: true, .. })));
    // Released all the same, and the handle goes on with the new file.
    lock.lock().unwrap().unlock().unwrap();
}

#[test]
fn removal_on_release_lets_a_waiter_in_by_the_new_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut first = LockMgr::new(&path);
    assert!(first.acquire_lock(false, support::BOUND), "{}", first.msg());
    let mut second = Worker::spawn("hold", &[path.to_str().unwrap(), "flock"]);
    wait_for_blocked(&path, 1);
    assert!(first.release_lock());
    second.expect("held");
    // The second holds the file that the path names now: the first is excluded by it.
    assert!(!first.acquire_lock(false, support::BOUND));
    assert!(first.msg().starts_with("Failed: "), "{}", first.msg());
    second.tell("go");
    second.expect("released");
    assert!(first.acquire_lock(true, support::BOUND));
}
