//! A set is all or nothing: it holds none of its locks while it waits, merges what would wait for
//! itself, keeps its deadline through all stages, and lets go of everything whatever ends it.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{
    CancelToken, Error, FileLock, FileLockOptions, LockSet, LockSetGuard, Mechanism, Mode,
    OwnedLockSetGuard, Range,
};
use support::roles::{holder, others_get_it, release};
use support::{BOUND, Worker, eventually, kernel_locks, roles, serve, tasks, wait_for_blocked};
use tempfile::TempDir;

#[test]
fn worker() {
    serve(&[roles::HOLD, roles::TRY, ("cross", cross)]);
}

/// Lock files by letter, `flock` unless said otherwise.
struct Scene {
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn open(&self, name: &str) -> FileLock {
        FileLock::open(self.path(name)).unwrap()
    }

    fn ofd(&self, name: &str, range: Range) -> FileLock {
        let options = FileLock::options().mechanism(Mechanism::Ofd).range(range);
        options.open(self.path(name)).unwrap()
    }

    fn hold(&self, name: &str, mode: &str) -> Worker {
        holder(&[self.path(name).to_str().unwrap(), "flock", mode])
    }

    fn is_free(&self, name: &str) -> bool {
        self.others_get(name, "flock", "0")
    }

    fn others_get(&self, name: &str, mechanism: &str, range: &str) -> bool {
        others_get_it(&[self.path(name).to_str().unwrap(), mechanism, "exclusive", range])
    }

    fn others_read(&self, name: &str) -> bool {
        others_get_it(&[self.path(name).to_str().unwrap(), "flock", "shared"])
    }

    fn wait_for_blocked(&self, name: &str) {
        wait_for_blocked(&self.path(name), 1);
    }
}

/// How a set may be waited for.
const WAYS: [Way; 3] = [Way::Here, Way::Owned, Way::Task];

#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    Here,
    Owned,
    Task,
}

/// Acquires, holds until `stay` returns, and releases.
fn acquire(
    set: &LockSet,
    way: Way,
    limit: Duration,
    token: &CancelToken,
    stay: impl FnOnce(),
) -> lockmgr::Result<()> {
    let acquire = set.acquire().timeout(limit).cancel(token);
    match way {
        Way::Here => {
            let guard = acquire.wait()?;
            stay();
            guard.unlock()
        }
        Way::Owned => {
            let guard = acquire.wait_owned()?;
            stay();
            guard.unlock()
        }
        Way::Task => {
            let guard: OwnedLockSetGuard = smol::block_on(acquire.into_future())?;
            stay();
            guard.unlock()
        }
    }
}

#[test]
fn all_are_held_in_their_modes_and_all_are_released() {
    let scene = Scene::new();
    let bytes = Range::new(10, 5).unwrap();
    let (a, b, c) = (scene.open("a"), scene.open("b"), scene.ofd("c", bytes));
    let set = LockSet::new().exclusive(&a).shared(&b).with(&c, Mode::Exclusive);
    for way in WAYS {
        acquire(&set, way, BOUND, &CancelToken::new(), || {
            assert!(!scene.others_read("a"), "{way:?}");
            assert!(scene.others_read("b") && !scene.is_free("b"), "{way:?}");
            assert!(!scene.others_get("c", "ofd", "14+1") && scene.others_get("c", "ofd", "15+1"));
        })
        .unwrap();
        for name in ["a", "b", "c"] {
            assert_eq!(kernel_locks(&scene.path(name)), (0, 0), "{way:?} {name}");
        }
    }
    let guard = set.try_lock().unwrap();
    assert_eq!(guard.wait_time(), Duration::ZERO);
    assert!(guard.is_held() && guard.still_current().unwrap());
    assert_eq!(guard.get(0).unwrap().path(), Some(&*scene.path("a")));
    assert_eq!(guard.get(1).unwrap().mode(), Mode::Shared);
    assert_eq!(guard.get(2).unwrap().mechanism(), Mechanism::Ofd);
    assert!(guard.get(3).is_none());
    assert_eq!(guard.iter().count(), 3);
    let inode = guard.get(0).unwrap().file().metadata().unwrap().ino();
    assert_eq!(inode, fs::metadata(scene.path("a")).unwrap().ino());
    drop(guard);
    assert_eq!(LockSet::new().lock().unwrap().iter().count(), 0);
    assert!(smol::block_on(LockSet::new().acquire().into_future()).unwrap().is_held());
}

#[test]
fn what_is_owned_may_go_to_other_threads() {
    fn is_send<T: Send + 'static>(value: T) -> T {
        value
    }
    let scene = Scene::new();
    let set = is_send(LockSet::new().exclusive(&scene.open("a")).exclusive(&scene.open("b")));
    let guard = is_send(set.acquire().wait_owned().unwrap());
    thread::spawn(move || guard.unlock().unwrap()).join().unwrap();
    let future = is_send(set.acquire().into_future());
    thread::spawn(move || drop(smol::block_on(future).unwrap())).join().unwrap();
    assert!(scene.is_free("a") && scene.is_free("b"));
}

#[test]
fn a_try_takes_all_or_nothing() {
    let scene = Scene::new();
    let (a, b, c) = (scene.open("a"), scene.open("b"), scene.open("c"));
    let set = LockSet::new().exclusive(&a).exclusive(&b).exclusive(&c);
    for busy in ["a", "b", "c"] {
        let _held = scene.hold(busy, "shared");
        let error = set.try_lock().unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert_eq!(error.path(), Some(&*scene.path(busy)));
        assert!(matches!(set.acquire().try_now_owned(), Err(Error::Busy { .. })));
        assert!(matches!(set.lock_timeout(Duration::ZERO), Err(Error::TimedOut { .. })));
        for free in ["a", "b", "c"].into_iter().filter(|name| *name != busy) {
            assert!(scene.is_free(free), "{free} is free while {busy} is busy");
        }
    }
    drop(set.lock_timeout(Duration::ZERO).unwrap());
}

#[test]
fn nothing_is_held_while_it_sleeps_and_it_sleeps_on_the_one_that_was_busy() {
    for way in WAYS {
        let scene = Scene::new();
        let (a, b) = (scene.open("a"), scene.open("b"));
        let mut on_b = scene.hold("b", "exclusive");
        thread::scope(|scope| {
            let set = LockSet::new().exclusive(&a).exclusive(&b);
            let waiting = scope.spawn(move || {
                acquire(&set, way, BOUND, &CancelToken::new(), || ()).unwrap();
            });
            scene.wait_for_blocked("b");
            assert_eq!(kernel_locks(&scene.path("a")), (0, 0), "{way:?}");
            let mut on_a = scene.hold("a", "exclusive");
            release(&mut on_b);
            // It got the one, found the other one busy, and gave the one back.
            scene.wait_for_blocked("a");
            assert_eq!(kernel_locks(&scene.path("b")), (0, 0), "{way:?}");
            let mut on_b = scene.hold("b", "exclusive");
            release(&mut on_a);
            scene.wait_for_blocked("b");
            assert_eq!(kernel_locks(&scene.path("a")), (0, 0), "{way:?}");
            assert!(!waiting.is_finished());
            release(&mut on_b);
        });
        assert!(scene.is_free("a") && scene.is_free("b"));
    }
}

/// Takes two locks in one order, again and again.
fn cross(args: &[String]) {
    let open = |path: &str| FileLock::options().fair(args[2] == "fair").open(path).unwrap();
    let set = LockSet::new().exclusive(&open(&args[0])).exclusive(&open(&args[1]));
    for _ in 0..1000 {
        set.lock_timeout(BOUND).unwrap().unlock().unwrap();
    }
}

#[test]
fn opposite_orders_do_not_deadlock() {
    for fair in ["fair", "plain"] {
        let scene = Scene::new();
        let names: Vec<String> =
            ["a", "b", "c"].map(|name| scene.path(name).to_str().unwrap().to_owned()).into();
        let pairs = [(0, 1), (1, 0), (1, 2), (2, 0)];
        let workers: Vec<Worker> = pairs
            .iter()
            .map(|(one, two)| Worker::spawn("cross", &[&names[*one], &names[*two], fair]))
            .collect();
        for worker in workers {
            assert!(worker.finish().success(), "{fair}");
        }
    }
}

/// Calls `play` with a set of `a` and `b`, in each stage of a wait: on the first one, and on the second
/// one after the first one was given back.
fn in_each_stage(play: impl Fn(&Scene, &LockSet, &(dyn Fn() + Sync))) {
    for second in [false, true] {
        let scene = Scene::new();
        let set = LockSet::new().exclusive(&scene.open("a")).exclusive(&scene.open("b"));
        let mut on_a = scene.hold("a", "exclusive");
        let on_b = scene.hold("b", "exclusive");
        let proceed = std::sync::Mutex::new(Some(move || release(&mut on_a)));
        let reach = || {
            scene.wait_for_blocked("a");
            if second && let Some(mut proceed) = proceed.lock().unwrap().take() {
                proceed();
                scene.wait_for_blocked("b");
            }
        };
        play(&scene, &set, &reach);
        drop((proceed, on_b));
        for name in ["a", "b"] {
            eventually("nothing is left", || kernel_locks(&scene.path(name)) == (0, 0));
        }
    }
}

#[test]
fn one_deadline_covers_all_stages() {
    for way in WAYS {
        in_each_stage(|_, set, reach| {
            let (limit, start) = (Duration::from_millis(150), Instant::now());
            thread::scope(|scope| {
                let waiting = scope.spawn(|| acquire(set, way, limit, &CancelToken::new(), || ()));
                reach();
                let result = waiting.join().unwrap();
                assert!(matches!(result, Err(Error::TimedOut { .. })), "{way:?}: {result:?}");
                assert!(start.elapsed() >= limit, "{way:?}: never early");
            });
        });
    }
}

#[test]
fn a_cancel_ends_each_stage() {
    for way in WAYS {
        in_each_stage(|_, set, reach| {
            let token = CancelToken::new();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| acquire(set, way, BOUND, &token, || ()));
                reach();
                token.cancel();
                let result = waiting.join().unwrap();
                assert!(matches!(result, Err(Error::Cancelled { .. })), "{way:?}: {result:?}");
            });
        });
    }
}

#[test]
fn a_dropped_future_leaves_nothing_in_each_stage() {
    in_each_stage(|_, set, reach| {
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        thread::scope(|scope| {
            scope.spawn(move || {
                reach();
                drop(stop);
            });
            smol::block_on(smol::future::or(
                async { panic!("it got in: {:?}", set.acquire().await) },
                async { assert!(stopped.recv().await.is_err()) },
            ));
        });
        eventually("the waiter thread ends", || tasks::threads_named("lockmgr-wait") == 0);
    });
}

#[test]
fn what_is_given_twice_is_taken_once_in_the_stronger_mode() {
    let scene = Scene::new();
    let a = scene.open("a");
    fs::hard_link(scene.path("a"), scene.path("hard")).unwrap();
    symlink(scene.path("a"), scene.path("soft")).unwrap();
    let follow = FileLock::options().follow_symlinks(true);
    let others = [
        a.clone(),
        scene.open("a"),
        scene.open("hard"),
        follow.open(scene.path("soft")).unwrap(),
        FileLock::from_file(fs::File::open(scene.path("a")).unwrap()).unwrap(),
    ];
    for other in &others {
        for way in WAYS {
            let set = LockSet::new().shared(&a).exclusive(other).shared(&a);
            acquire(&set, way, BOUND, &CancelToken::new(), || {
                assert!(!scene.others_read("a"), "{other:?} {way:?}");
                assert_eq!(kernel_locks(&scene.path("a")).0, 1);
            })
            .unwrap();
            let set = LockSet::new().shared(other).shared(&a);
            acquire(&set, way, BOUND, &CancelToken::new(), || {
                assert!(scene.others_read("a") && !scene.is_free("a"), "{other:?} {way:?}");
            })
            .unwrap();
        }
        let set = LockSet::new().shared(&a).exclusive(other);
        let guard = set.lock().unwrap();
        assert_eq!((guard.iter().count(), guard.get(0).unwrap().mode()), (1, Mode::Exclusive));
        assert!(std::ptr::eq(guard.get(0).unwrap(), guard.get(1).unwrap()));
    }
}

#[test]
fn what_is_taken_as_one_has_the_options_of_all() {
    let scene = Scene::new();
    let options = FileLock::options;
    let open = |options: FileLockOptions, name: &str| options.open(scene.path(name)).unwrap();
    let both_orders = |one: &FileLock, other: &FileLock, look: &dyn Fn(&LockSetGuard<'_>)| {
        for (first, second) in [(one, other), (other, one)] {
            for mode in [Mode::Shared, Mode::Exclusive] {
                let set = LockSet::new().with(first, mode).exclusive(second);
                let guard = set.lock().unwrap();
                assert_eq!(guard.iter().count(), 1);
                look(&guard);
                guard.unlock().unwrap();
            }
        }
    };
    let content = |name| fs::read_to_string(scene.path(name)).unwrap();
    let (plain, fenced) = (scene.open("a"), open(options().fenced(true), "a"));
    both_orders(&plain, &fenced, &|guard| {
        assert!(guard.get(0).unwrap().token().is_some() && guard.get(1).unwrap().token().is_some());
    });
    // Each asks for something that the other does not.
    let noted = open(options().note("x").durable(true), "a");
    both_orders(&noted, &fenced, &|guard| {
        assert!(guard.get(0).unwrap().token().is_some());
        assert!(content("a").contains("\"note\":\"x\""), "{}", content("a"));
    });
    let (one, two) = (open(options().note("1"), "a"), open(options().note("2"), "a"));
    drop(LockSet::new().exclusive(&two).exclusive(&one).lock().unwrap());
    assert!(content("a").contains("\"note\":\"2\""), "the first counts: {}", content("a"));
    let writable = open(options().writable(true), "a");
    both_orders(&plain, &writable, &|guard| {
        rustix::io::write(guard.get(0).unwrap().file(), b"").unwrap();
    });

    let brought = || FileLock::from_file(fs::File::open(scene.path("b")).unwrap()).unwrap();
    let removing = || open(options().remove_on_release(true), "b");
    for by_file in [false, true] {
        for order in [false, true] {
            let removing = removing();
            let plain = if by_file { brought() } else { scene.open("b") };
            let (first, second) = if order { (&plain, &removing) } else { (&removing, &plain) };
            LockSet::new().exclusive(first).exclusive(second).lock().unwrap().unlock().unwrap();
            assert!(!scene.path("b").exists(), "removed on release");
        }
    }
    let (removing, fenced) = (removing(), open(options().fenced(true), "b"));
    for set in [
        LockSet::new().exclusive(&removing).exclusive(&fenced),
        LockSet::new().shared(&fenced).exclusive(&removing),
    ] {
        let error = set.lock().unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("forget"), "{error}");
    }
    assert!(scene.is_free("b"));
}

#[test]
fn missing_files_are_recognised_by_their_names() {
    let scene = Scene::new();
    symlink(scene.dir.path(), scene.path("elsewhere")).unwrap();
    for way in WAYS {
        let lazy = |options: FileLockOptions, name: &str| {
            options.remove_on_release(true).open_lazy(scene.path(name)).unwrap()
        };
        let (one, two) =
            (lazy(FileLock::options(), "new"), lazy(FileLock::options(), "elsewhere/./new"));
        let set = LockSet::new().exclusive(&one).exclusive(&two);
        acquire(&set, way, BOUND, &CancelToken::new(), || assert!(!scene.is_free("new"))).unwrap();
        assert!(!scene.path("new").exists(), "removed on release");
    }
}

#[test]
fn ranges_that_overlap_are_taken_as_one() {
    let scene = Scene::new();
    let range = |start, len| scene.ofd("a", Range::new(start, len).unwrap());
    let (low, middle, high, apart) = (range(0, 10), range(5, 10), range(14, 6), range(20, 5));
    for way in WAYS {
        // The first and the third meet only by way of the second.
        let set = LockSet::new().exclusive(&low).shared(&high).shared(&middle).shared(&apart);
        acquire(&set, way, BOUND, &CancelToken::new(), || {
            assert!(!scene.others_get("a", "ofd", "0+1") && !scene.others_get("a", "ofd", "19+1"));
            assert!(!scene.others_get("a", "ofd", "24+1") && scene.others_get("a", "ofd", "25"));
            assert_eq!(kernel_locks(&scene.path("a")).0, 2, "{way:?}");
        })
        .unwrap();
    }
    let inner = range(2, 3);
    let set = LockSet::new().exclusive(&inner).shared(&low);
    let guard = set.lock().unwrap();
    assert_eq!((guard.iter().count(), guard.get(0).unwrap().mode()), (1, Mode::Exclusive));
    drop(guard);
    // Two worlds: no reason to merge, none to refuse.
    let flock = scene.open("a");
    let set = LockSet::new().exclusive(&flock).exclusive(&low);
    assert_eq!(set.lock().unwrap().iter().count(), 2);
    let posix = FileLock::options().mechanism(Mechanism::Posix).open(scene.path("a")).unwrap();
    let error = LockSet::new().exclusive(&posix).shared(&low).lock().unwrap_err();
    assert!(error.to_string().contains("exclude each other"), "{error}");
    assert_eq!(LockSet::new().shared(&posix).shared(&low).lock().unwrap().iter().count(), 2);
    let task = smol::block_on(LockSet::new().shared(&posix).acquire().into_future());
    assert!(matches!(task, Err(Error::Unsupported { .. })));
}

#[test]
fn waiting_for_oneself_is_an_error() {
    let scene = Scene::new();
    let (a, b, again) = (scene.open("a"), scene.open("b"), scene.open("a"));
    let set = LockSet::new().exclusive(&b).exclusive(&a);
    let own_thread = |result: lockmgr::Result<LockSetGuard<'_>>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Deadlock { own_thread: true, .. }), "{error}");
    };
    let held = again.lock().unwrap();
    own_thread(set.lock());
    drop(held);
    let held = set.lock().unwrap();
    assert!(matches!(again.lock(), Err(Error::Deadlock { own_thread: true, .. })));
    own_thread(set.lock());
    own_thread(LockSet::new().shared(&again).lock());
    drop(held);
    drop(set.lock().unwrap());
    assert!(scene.is_free("a") && scene.is_free("b"));
}

#[test]
fn unlock_releases_all_in_reverse_and_tells_the_first_error() {
    let scene = Scene::new();
    let names = ["a", "b", "c"];
    let set: LockSet = names.map(|name| (scene.open(name), Mode::Exclusive)).into_iter().collect();
    let guard = set.lock().unwrap();
    fs::remove_file(scene.path("a")).unwrap();
    fs::remove_file(scene.path("b")).unwrap();
    assert!(!guard.still_current().unwrap());
    let error = guard.unlock().unwrap_err();
    assert!(matches!(error, Error::Replaced { while_held: true, .. }), "{error}");
    assert_eq!(error.path(), Some(&*scene.path("b")), "the first one that was released");
    assert!(names.into_iter().all(|name| scene.is_free(name)));
}

#[test]
fn every_path_of_what_was_taken_as_one_is_looked_at() {
    for way in WAYS {
        for by_file in [false, true] {
            let scene = Scene::new();
            fs::write(scene.path("a"), "").unwrap();
            fs::hard_link(scene.path("a"), scene.path("b")).unwrap();
            let first = if by_file {
                FileLock::from_file(fs::File::open(scene.path("a")).unwrap()).unwrap()
            } else {
                scene.open("a")
            };
            let set = LockSet::new().exclusive(&first).exclusive(&scene.open("b"));
            acquire(&set, way, BOUND, &CancelToken::new(), || ()).unwrap();
            let error = acquire(&set, way, BOUND, &CancelToken::new(), || {
                fs::remove_file(scene.path("b")).unwrap();
                drop(scene.open("b").try_lock().expect("somebody else has the new one"));
            })
            .unwrap_err();
            assert!(matches!(error, Error::Replaced { while_held: true, .. }), "{error}");
            assert_eq!(error.path(), Some(&*scene.path("b")), "{way:?}");
            assert!(scene.is_free("a"));
        }
    }
    let scene = Scene::new();
    let a = scene.open("a");
    fs::hard_link(scene.path("a"), scene.path("b")).unwrap();
    let set = LockSet::new().exclusive(&a).exclusive(&scene.open("b"));
    let guard = set.lock().unwrap();
    assert!(guard.still_current().unwrap());
    fs::rename(scene.path("b"), scene.path("c")).unwrap();
    assert!(!guard.still_current().unwrap());
    assert!(guard.iter().all(|single| single.still_current().unwrap()), "by its own path");
    fs::rename(scene.path("c"), scene.path("b")).unwrap();
    assert!(guard.still_current().unwrap());
    guard.unlock().unwrap();
}

#[test]
fn a_path_that_comes_to_name_another_file_is_locked_there_too() {
    for way in WAYS {
        let scene = Scene::new();
        let mut inside = scene.hold("a", "exclusive");
        fs::hard_link(scene.path("a"), scene.path("b")).unwrap();
        let set = LockSet::new().exclusive(&scene.open("a")).exclusive(&scene.open("b"));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                acquire(&set, way, BOUND, &CancelToken::new(), || {
                    assert!(!scene.is_free("a") && !scene.is_free("b"), "{way:?}");
                })
            });
            // Taken as one, it waits for one.
            scene.wait_for_blocked("a");
            fs::write(scene.path("new"), "").unwrap();
            fs::rename(scene.path("new"), scene.path("b")).unwrap();
            release(&mut inside);
            waiting.join().unwrap().unwrap();
        });
        // And the other way round: what is two when it waits, and one when it gets in.
        let mut inside = scene.hold("a", "exclusive");
        thread::scope(|scope| {
            let waiting = scope.spawn(|| acquire(&set, way, BOUND, &CancelToken::new(), || ()));
            scene.wait_for_blocked("a");
            fs::hard_link(scene.path("a"), scene.path("new")).unwrap();
            fs::rename(scene.path("new"), scene.path("b")).unwrap();
            release(&mut inside);
            waiting.join().unwrap().unwrap();
        });
    }
}
