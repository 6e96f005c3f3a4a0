//! Promise 3: a hold belongs to the process that took it. What a forked child inherits is dead: it
//! neither frees the parent's lock nor keeps it alive after the parent.
//!
//! Each scene plays in a process of its own, for every mechanism, and for `fork` as well as for a
//! bare `clone` that no at-fork handler hears of.

mod support;

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use lockmgr::{Error, FileLock, FileLockGuard, LockMgr, Mechanism, OwnedFileLockGuard};
use support::process::{self, Way, descriptors_of, fork, is_alive, open_files, outcome_of};
use support::{
    BOUND, Worker, alone, eventually, hear, kernel_locks, raw, roles, say, serve, wait_for_blocked,
};

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
        ("parent", parent),
        ("waiter", waiter),
        ("storm", storm),
        ("stormy parent", stormy_parent),
        ("leak", leak),
        ("commands", commands),
        ("exec", exec),
        ("sit", sit),
    ]);
}

/// The stage: one lock file, and who plays how.
struct Scene {
    path: PathBuf,
    mechanism: Mechanism,
    way: Way,
    more: String,
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];
/// Those whose locks can leave the process.
const OF_DESCRIPTIONS: &[&str] = &["flock", "ofd"];
const WAYS: [&str; 2] = ["fork", "clone"];

/// Plays a scene for every way and mechanism.
fn play(role: &str, mechanisms: &[&str]) {
    for mechanism in mechanisms {
        for way in WAYS {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            alone(role, &[path.to_str().unwrap(), mechanism, way]);
        }
    }
}

impl Scene {
    fn new(args: &[String]) -> Self {
        Self {
            path: PathBuf::from(&args[0]),
            mechanism: args[1].parse().unwrap(),
            way: if args[2] == "fork" { Way::Fork } else { Way::BareClone },
            more: args.get(3).cloned().unwrap_or_default(),
        }
    }

    fn open(&self) -> FileLock {
        FileLock::options().mechanism(self.mechanism).open(&self.path).unwrap()
    }

    /// Whether another process would get the lock now.
    fn is_free(&self) -> bool {
        let args = [self.path.to_str().unwrap(), &self.mechanism.to_string()];
        outcome_of("try", &args) == ["got"]
    }
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
    let deeds: [(&str, i32, Deed); 8] = [
        ("drop", 0, |guard| drop(guard)),
        ("unlock", 0, |guard| assert!(is_forked(&guard.unlock()))),
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
                    assert!(!guard.is_held());
                    deed(guard);
                });
                child.finish_with(status);
                assert!(!scene.is_free(), "{name}");
                let guard = guard.unwrap();
                assert!(guard.is_held() && guard.still_current().unwrap());
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
        assert!(smol::block_on(smol::future::poll_once(future)).is_none());
    }
    wait_for_blocked(&scene.path, 1);
    fork(scene.way, |_| drop(futures.take())).finish();
    let mut child = fork(scene.way, |parent| {
        let [first, second] = futures.take().unwrap();
        // Not behind the parent's guard in the queue of the handle, but behind it in the kernel's.
        let first = smol::spawn(first);
        wait_for_blocked(&scene.path, 2);
        drop(first);
        parent.say("dropped");
        smol::block_on(second).unwrap().unlock().unwrap();
    });
    child.expect("dropped");
    wait_for_blocked(&scene.path, 2);
    assert!(guard.is_held());
    guard.unlock().unwrap();
    // The one that waited for the kernel has the lock as soon as it is free, polled or not.
    for future in futures.unwrap().into_iter().rev() {
        smol::block_on(future).unwrap().unlock().unwrap();
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
            assert_eq!(descriptors_of(std::process::id(), &scene.path), []);
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
fn a_child_does_not_keep_the_lock_of_a_dead_parent() {
    for mechanism in MECHANISMS {
        for way in WAYS {
            for what in ["guard", "handle", "owned", "adopted", "brought", "thread", "classic"] {
                if what == "classic" && mechanism != "flock"
                    || what == "adopted" && mechanism == "posix"
                {
                    continue;
                }
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("a.lock");
                let place = [path.to_str().unwrap(), mechanism];
                let mut parent = Worker::spawn("parent", &[place[0], place[1], way, what]);
                let child = parent.next_line().parse().unwrap();
                let waiter = Worker::spawn("hold", &place);
                wait_for_blocked(&path, 1);
                parent.kill();
                waiter.expect("held");
                assert!(is_alive(child), "{mechanism}, {way}, {what}");
                // The child ends with its standard input.
                parent.hang_up();
            }
        }
    }
}

/// Holds in some way and has a child that sleeps on.
fn parent(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    let sleeper = |touch: &mut dyn FnMut()| {
        let mut child = fork(scene.way, |parent| {
            // Nothing tells the library of a bare clone before it is used there.
            if scene.way == Way::BareClone {
                touch();
            }
            parent.say("up");
            hear();
        });
        child.expect("up");
        say(child.pid());
        hear();
    };
    match scene.more.as_str() {
        "guard" => {
            let guard = lock.lock().unwrap();
            sleeper(&mut || assert!(!guard.is_held()));
        }
        "handle" => {
            let mut guard = Some(lock.lock().unwrap());
            sleeper(&mut || drop(guard.take()));
        }
        "owned" => {
            let guard = lock.acquire().shared().wait_owned().unwrap();
            sleeper(&mut || assert!(!guard.is_held()));
        }
        "adopted" => {
            let fd = lock.acquire().wait_owned().unwrap().into_fd().unwrap();
            let guard = OwnedFileLockGuard::adopt(fd).unwrap();
            sleeper(&mut || assert!(!guard.is_held()));
        }
        "brought" => {
            let file = fs::OpenOptions::new().read(true).write(true).open(&scene.path).unwrap();
            let options = FileLock::options().mechanism(scene.mechanism);
            let lock = options.from_file(file).unwrap();
            let guard = lock.lock().unwrap();
            sleeper(&mut || assert!(!guard.is_held()));
        }
        "thread" => {
            let guard = lock.lock().unwrap();
            let _still_held = guard;
            thread::scope(|scope| {
                scope.spawn(|| sleeper(&mut || drop(scene.open())));
            });
        }
        "classic" => {
            let mut lock = LockMgr::new(&scene.path);
            assert!(lock.acquire_lock(false, BOUND));
            sleeper(&mut || assert!(!lock.acquired()));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_wait_that_was_forked_over_belongs_to_the_parent() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let place = [path.to_str().unwrap(), mechanism];
        let mut first = roles::holder(&place);
        let mut parent = Worker::spawn("waiter", &[place[0], place[1], "fork"]);
        let child = parent.next_line().parse().unwrap();
        roles::release(&mut first);
        parent.expect("held");
        let last = Worker::spawn("hold", &place);
        wait_for_blocked(&path, 1);
        parent.kill();
        last.expect("held");
        assert!(is_alive(child), "{mechanism}");
        parent.hang_up();
    }
}

/// One thread waits for the kernel while another one forks.
fn waiter(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = lock.lock_timeout(BOUND).unwrap();
            say("held");
            thread::park();
            drop(guard);
        });
        wait_for_blocked(&scene.path, 1);
        let mut child = fork(scene.way, |parent| {
            parent.say("up");
            hear();
        });
        child.expect("up");
        say(child.pid());
        waiter.join().unwrap();
    });
}

#[test]
fn no_fork_beside_opens_copies_a_lock() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        alone("storm", &[path.to_str().unwrap(), mechanism, "fork"]);
    }
}

/// While threads open and close, every child looks what it got. It may be a copy of a description
/// that was open and not known yet; but then no lock may ever be taken on it.
fn storm(args: &[String]) {
    const CHILDREN: usize = 100;
    let scene = Scene::new(args);
    in_storm(&scene, |storm| {
        for _ in 0..CHILDREN {
            // From here on each thread stops as soon as it holds something.
            storm.calm.store(true, Ordering::SeqCst);
            let mut child = fork(scene.way, |parent| {
                parent.hear();
                let mut files = open_files(std::process::id());
                files.retain(|(fd, _)| {
                    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}"));
                    info.is_ok_and(|info| info.contains("lock:"))
                });
                assert_eq!(files, []);
            });
            eventually("all threads hold a lock", || storm.resting() == THREADS);
            for index in 0..THREADS {
                assert_eq!(kernel_locks(&thread_path(&scene.path, index)), (1, 0));
            }
            child.tell("look");
            child.finish();
            storm.calm.store(false, Ordering::SeqCst);
            eventually("all threads go on", || storm.resting() == 0);
        }
    });
}

#[test]
fn children_of_a_storm_keep_no_lock() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let place = [path.to_str().unwrap(), mechanism];
        let mut parent = Worker::spawn("stormy parent", &[place[0], place[1], "fork"]);
        let children: Vec<u32> =
            parent.next_line().split(' ').map(|pid| pid.parse().unwrap()).collect();
        let waiter = Worker::spawn("hold", &place);
        wait_for_blocked(&path, 1);
        parent.kill();
        waiter.expect("held");
        for index in 0..THREADS {
            let path = thread_path(&path, index);
            assert!(roles::others_get_it(&[path.to_str().unwrap(), mechanism]), "{mechanism}");
        }
        assert!(children.into_iter().all(is_alive), "{mechanism}");
        parent.hang_up();
    }
}

/// Has many children that sleep on.
fn stormy_parent(args: &[String]) {
    const CHILDREN: usize = 20;
    let scene = Scene::new(args);
    in_storm(&scene, |_| {
        let children: Vec<_> = (0..CHILDREN)
            .map(|_| {
                let mut child = fork(scene.way, |parent| {
                    parent.say("up");
                    hear();
                });
                child.expect("up");
                child
            })
            .collect();
        let pids: Vec<_> = children.iter().map(|child| child.pid().to_string()).collect();
        say(pids.join(" "));
        hear();
    });
}

const THREADS: usize = 3;

fn thread_path(path: &Path, index: usize) -> PathBuf {
    path.with_extension(index.to_string())
}

/// Holds the lock, and opens, acquires, releases and closes others in other threads, meanwhile.
fn in_storm(scene: &Scene, run: impl FnOnce(&Storm)) {
    let lock = scene.open();
    let guard = lock.lock().unwrap();
    let storm = Storm::default();
    thread::scope(|scope| {
        for index in 0..THREADS {
            let storm = &storm;
            scope.spawn(move || {
                let path = thread_path(&scene.path, index);
                let options =
                    FileLock::options().mechanism(scene.mechanism).remove_on_release(index == 0);
                let kept = options.open(&path).unwrap();
                let taken = scene.open();
                while !storm.over.load(Ordering::SeqCst) {
                    storm.hold(&options.open(&path).unwrap(), || {});
                    // What is opened and closed beside it takes nothing with it.
                    storm.hold(&kept, || drop(options.open(&path).unwrap()));
                    assert!(matches!(taken.try_lock(), Err(Error::Busy { .. })));
                }
            });
        }
        // Also when `run` fails.
        let _end = storm.end();
        run(&storm);
    });
    drop(guard);
}

#[derive(Default)]
struct Storm {
    over: AtomicBool,
    calm: AtomicBool,
    resting: AtomicUsize,
}

impl Storm {
    fn hold(&self, lock: &FileLock, run: impl FnOnce()) {
        let guard = lock.lock().unwrap();
        run();
        if self.calm.load(Ordering::SeqCst) {
            self.resting.fetch_add(1, Ordering::SeqCst);
            while self.calm.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            self.resting.fetch_sub(1, Ordering::SeqCst);
        }
        guard.unlock().unwrap();
    }

    fn resting(&self) -> usize {
        self.resting.load(Ordering::SeqCst)
    }

    fn end(&self) -> impl Drop {
        struct End<'a>(&'a Storm);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.over.store(true, Ordering::SeqCst);
                self.0.calm.store(false, Ordering::SeqCst);
            }
        }
        End(self)
    }
}

#[test]
fn a_leaked_descriptor_does_not_keep_a_released_lock() {
    for mechanism in OF_DESCRIPTIONS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        alone("leak", &[path.to_str().unwrap(), mechanism, "fork"]);
    }
}

fn leak(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    for explicitly in [false, true] {
        let guard = lock.lock().unwrap();
        // Inheritable, and none that the library knows of.
        let leaked = rustix::io::dup(guard.file()).unwrap();
        let program = Worker::spawn("sit", &[]);
        program.expect("sat");
        drop(leaked);
        assert_eq!(descriptors_of(program.pid(), &scene.path).len(), 1);
        assert!(!scene.is_free());
        if explicitly {
            guard.unlock().unwrap();
        } else {
            drop(guard);
        }
        assert!(scene.is_free());
        assert_eq!(descriptors_of(program.pid(), &scene.path).len(), 1);
    }
}

/// Another program.
fn sit(_args: &[String]) {
    say("sat");
    hear();
}

#[test]
fn commands_inherit_nothing() {
    for mechanism in MECHANISMS {
        for way in ["spawn", "fork"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            let place = [path.to_str().unwrap(), mechanism];
            let mut parent = Worker::spawn("commands", &[place[0], place[1], "fork", way]);
            let program = parent.next_line().parse().unwrap();
            let waiter = Worker::spawn("hold", &place);
            wait_for_blocked(&path, 1);
            parent.kill();
            waiter.expect("held");
            assert!(is_alive(program), "{mechanism}, {way}");
            parent.hang_up();
        }
    }
}

fn commands(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    let _guard = lock.lock().unwrap();
    let program = Worker::spawn_with("sit", &[], |command| {
        // It ends with our own standard input.
        command.stdin(std::process::Stdio::inherit());
        if scene.more == "fork" {
            process::start_by_fork(command);
        }
    });
    program.expect("sat");
    assert_eq!(descriptors_of(program.pid(), scene.path.parent().unwrap()), []);
    assert_eq!(descriptors_of(program.pid(), &scene.path), []);
    say(program.pid());
    hear();
}

#[test]
fn another_program_in_the_same_process_does_not_hold_it() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let place = [path.to_str().unwrap(), mechanism];
        let mut process = Worker::spawn("exec", &[place[0], place[1], "fork"]);
        process.expect("held");
        let waiter = Worker::spawn("hold", &place);
        wait_for_blocked(&path, 1);
        process.tell("go");
        process.expect("sat");
        waiter.expect("held");
        assert!(is_alive(process.pid()), "{mechanism}");
    }
}

fn exec(args: &[String]) {
    let scene = Scene::new(args);
    let lock = scene.open();
    let _guard = lock.lock().unwrap();
    say("held");
    hear();
    raw::become_role("sit");
}
