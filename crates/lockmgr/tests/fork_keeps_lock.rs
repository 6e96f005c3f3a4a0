//! Promise 3: a hold belongs to the process that took it. What a forked child inherits is dead: it
//! cannot free the parent's lock, whatever it does, and can lock anew. (What it cannot keep is in
//! `copies_keep_no_lock.rs`.)
//!
//! Each scene plays in a process of its own, for every mechanism, and for `fork` as well as for a
//! bare `clone` that no at-fork handler hears of.

mod support;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use lockmgr::inspect::Process;
use lockmgr::{Error, FileLock, FileLockGuard, LockMgr, OwnedFileLockGuard};
use support::futures::{block_on, poll_once};
use support::process::{self, descriptors_of, fork};
use support::scene::{MECHANISMS, OF_DESCRIPTIONS, Scene, play};
use support::{BOUND, roles, serve, wait_for_blocked};

#[test]
fn worker() {
    serve(&[
        roles::HOLD,
        roles::TRY,
        ("guards", guards),
        ("owned guards", owned_guards),
        ("classic", classic),
        ("anew", anew),
        ("brought files", brought_files),
        ("futures", futures),
        ("harmless", harmless),
        ("lazy", lazy),
        ("names", names),
    ]);
}

fn is_forked<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Forked { .. }))
}

#[test]
fn a_childs_guards_are_dead() {
    play("guards", &MECHANISMS);
}

fn guards(args: &[String]) {
    type Deed = fn(FileLockGuard<'_>);
    let deeds: [(&str, i32, Deed); 9] = [
        ("drop", 0, |guard| drop(guard)),
        ("unlock", 0, |guard| assert!(is_forked(&guard.unlock()))),
        ("release", 0, |guard| assert!(is_forked(&guard.release()))),
        ("downgrade", 0, |mut guard| assert!(is_forked(&guard.downgrade()))),
        ("upgrade", 0, |mut guard| assert!(is_forked(&guard.try_upgrade()))),
        ("look", 0, |guard| assert!(is_forked(&guard.still_current()))),
        ("panic", 101, |_guard| panic!("in the critical section, on purpose")),
        ("exit", 7, |_guard| std::process::exit(7)),
        ("forget", 0, |guard| std::mem::forget(guard)),
    ];
    let scene = Scene::new(args);
    let reentrant =
        FileLock::options().mechanism(scene.mechanism).reentrant(true).open(&scene.path).unwrap();
    for lock in [scene.open(), reentrant] {
        for shared in [false, true] {
            for (name, status, deed) in deeds {
                let acquire = || if shared { lock.lock_shared() } else { lock.lock() };
                let mut guard = Some(acquire().unwrap());
                let child = fork(scene.way, |_| {
                    let guard = guard.take().unwrap();
                    assert!(!guard.is_held() && lock.is_inherited());
                    deed(guard);
                });
                child.finish_with(status);
                assert!(!scene.is_free(), "{name}");
                let guard = guard.unwrap();
                assert!(guard.is_held() && guard.still_current().unwrap() && !lock.is_inherited());
                guard.unlock().unwrap();
                assert!(scene.is_free(), "{name}");
            }
        }
    }
}

#[test]
fn a_childs_owned_and_adopted_guards_are_dead() {
    play("owned guards", OF_DESCRIPTIONS);
}

fn owned_guards(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    for adopted in [false, true] {
        for hand_over in [false, true] {
            let mut guard = lock.acquire().wait_owned().unwrap();
            if adopted {
                guard = OwnedFileLockGuard::adopt(guard.into_fd().unwrap()).unwrap();
            }
            let mut guard = Some(guard);
            let child = fork(scene.way, |_| {
                let guard = guard.take().unwrap();
                if hand_over {
                    assert!(is_forked(&guard.into_fd()));
                } else {
                    // Another thread than the one that forked.
                    thread::spawn(move || drop(guard)).join().unwrap();
                }
            });
            child.finish();
            assert!(!scene.is_free());
            guard.unwrap().unlock().unwrap();
            assert!(scene.is_free());
        }
    }
}

#[test]
fn a_childs_lock_manager_holds_nothing_and_removes_nothing() {
    // The classic interface locks with flock.
    play("classic", &["flock"]);
}

fn classic(args: &[String]) {
    let scene = Scene::new(args);
    let mut lock = Some(LockMgr::new(&scene.path));
    let ours =
        |lock: &mut Option<LockMgr>| assert!(lock.as_mut().unwrap().acquire_lock(false, BOUND));
    ours(&mut lock);
    fork(scene.way, |_| drop(lock.take())).finish();
    assert!(scene.path.exists() && !scene.is_free());
    let child = fork(scene.way, |_| {
        let lock = lock.as_mut().unwrap();
        assert!(!lock.acquired());
        assert!(!lock.release_lock());
        assert_eq!(lock.msg(), "No lock to release");
        assert!(!lock.acquire_lock(false, BOUND), "the parent has it");
    });
    child.finish();
    assert!(scene.path.exists() && !scene.is_free());
    assert!(lock.as_ref().unwrap().acquired());
    let mut child = fork(scene.way, |parent| {
        let lock = lock.as_mut().unwrap();
        parent.say("ready");
        assert!(lock.acquire_lock(true, BOUND), "{}", lock.msg());
        parent.say("held");
        parent.hear();
        assert!(lock.release_lock());
    });
    child.expect("ready");
    wait_for_blocked(&scene.path, 1);
    let lock = lock.as_mut().unwrap();
    assert!(lock.release_lock());
    child.expect("held");
    assert!(!lock.acquire_lock(false, BOUND), "the child has it");
    child.tell("go");
    child.finish();
    assert!(!scene.path.exists(), "the child removed its own");
    assert!(lock.acquire_lock(false, BOUND));
}

#[test]
fn a_child_uses_the_same_handle_anew() {
    play("anew", &MECHANISMS);
}

fn anew(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    let guard = lock.lock().unwrap();
    let mut child = fork(scene.way, |parent| {
        assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
        // Neither queues the child behind its parent's guard, nor does it wait for itself.
        assert!(matches!(lock.lock_timeout(Duration::ZERO), Err(Error::TimedOut { .. })));
        let mut grandchild = fork(scene.way, |parent| {
            assert!(matches!(lock.try_lock_shared(), Err(Error::Busy { .. })));
            parent.say("busy");
            parent.hear();
            let guard = lock.lock_timeout(BOUND).unwrap();
            guard.unlock().unwrap();
        });
        grandchild.expect("busy");
        parent.say("busy");
        let guard = lock.lock_timeout(BOUND).unwrap();
        parent.say("held");
        grandchild.tell("go");
        wait_for_blocked(&scene.path, 1);
        parent.hear();
        guard.unlock().unwrap();
        grandchild.finish();
    });
    child.expect("busy");
    wait_for_blocked(&scene.path, 1);
    guard.unlock().unwrap();
    child.expect("held");
    assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
    child.tell("go");
    child.finish();
    // Shared: both have it, each for itself.
    let guard = lock.lock_shared().unwrap();
    let mut child = fork(scene.way, |parent| {
        let guard = lock.try_lock_shared().unwrap();
        assert!(matches!(scene.open().try_lock(), Err(Error::Busy { .. })));
        parent.say("held");
        parent.hear();
        drop(guard);
    });
    child.expect("held");
    drop(guard);
    assert!(!scene.is_free());
    assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
    child.tell("go");
    child.finish();
    assert!(scene.is_free());
}

#[test]
fn a_file_that_the_program_brought_is_the_parents() {
    play("brought files", &MECHANISMS);
}

fn brought_files(args: &[String]) {
    let scene = Scene::new(args);
    let file = fs::OpenOptions::new().create_new(true).write(true).read(true).open(&scene.path);
    let options = FileLock::options().mechanism(scene.mechanism);
    let lock = options.from_file(file.unwrap()).unwrap();
    let guard = lock.lock().unwrap();
    fork(scene.way, |_| {
        assert!(is_forked(&lock.try_lock()));
        assert!(is_forked(&lock.lock_shared()));
    })
    .finish();
    assert!(!scene.is_free());
    guard.file().write_all_at(b"by the parent", 0).unwrap();
    drop(guard);
    assert!(scene.is_free());
    lock.try_lock().unwrap().unlock().unwrap();
}

#[test]
fn a_future_of_the_parent_begins_anew_in_the_child() {
    play("futures", OF_DESCRIPTIONS);
}

fn futures(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    let guard = lock.acquire().wait_owned().unwrap();
    let other = scene.open();
    // One waits in the queue of the handle, the other for the kernel.
    let mut futures = Some([lock.acquire().into_future(), other.acquire().into_future()]);
    for future in futures.as_mut().unwrap() {
        assert!(poll_once(future).is_pending());
    }
    wait_for_blocked(&scene.path, 1);
    fork(scene.way, |_| drop(futures.take())).finish();
    let mut child = fork(scene.way, |parent| {
        let [mut first, second] = futures.take().unwrap();
        // Not behind the parent's guard in the queue of the handle, but behind it in the kernel's.
        assert!(poll_once(&mut first).is_pending());
        wait_for_blocked(&scene.path, 2);
        drop(first);
        parent.say("dropped");
        block_on(second).unwrap().unlock().unwrap();
    });
    child.expect("dropped");
    wait_for_blocked(&scene.path, 2);
    assert!(guard.is_held());
    guard.unlock().unwrap();
    // The one that waited for the kernel has the lock as soon as it is free, polled or not.
    for future in futures.unwrap().into_iter().rev() {
        block_on(future).unwrap().unlock().unwrap();
    }
    child.finish();
}

#[test]
fn a_childs_descriptor_is_harmless() {
    play("harmless", &MECHANISMS);
}

fn harmless(args: &[String]) {
    let scene = Scene::new(args);
    let file = || fs::OpenOptions::new().create(true).append(true).read(true).open(&scene.path);
    let options = FileLock::options().mechanism(scene.mechanism);
    let locks = [scene.open(), options.from_file(file().unwrap()).unwrap()];
    for lock in &locks {
        let mut guard = Some(lock.lock().unwrap());
        let child = fork(scene.way, |_| {
            let guard = guard.take().unwrap();
            let mut file = guard.file();
            let number = file.as_raw_fd();
            let refused = file.write_all(b"by the child").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
            let refused = process::unlock(number, scene.mechanism).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EBADF));
            assert_eq!(descriptors_of(std::process::id(), &scene.path), [0_i32; 0]);
            let new = fs::File::open(scene.path.parent().unwrap()).unwrap();
            assert_ne!(new.as_raw_fd(), number, "its number is not given to another file");
            drop(guard);
            let new = fs::File::open(scene.path.parent().unwrap()).unwrap();
            assert_ne!(new.as_raw_fd(), number, "nor while the handle is there");
        });
        child.finish();
        assert!(!scene.is_free());
        drop(guard);
        assert!(scene.is_free());
    }
    assert_eq!(fs::read(&scene.path).unwrap(), b"");
}

#[test]
fn a_child_knows_an_inherited_handle_that_was_never_used() {
    play("lazy", &MECHANISMS);
}

fn lazy(args: &[String]) {
    let scene = Scene::new(args);
    let lock = FileLock::options().mechanism(scene.mechanism).open_lazy(&scene.path).unwrap();
    fork(scene.way, |_| assert!(lock.is_inherited())).finish();
    assert!(!lock.is_inherited());
}

/// The parent's other threads may be at anything in the moment of the fork.
#[test]
fn a_child_can_say_whose_a_process_is() {
    support::alone("names", &[]);
}

fn names(_args: &[String]) {
    let over = AtomicBool::new(false);
    let me = Process::look(std::process::id()).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert!(!me.user().is_empty());
                }
            });
        }
        for _ in 0..30 {
            fork(process::Way::Fork, |_| assert!(!me.user().is_empty())).finish();
        }
        over.store(true, Ordering::Relaxed);
    });
}
