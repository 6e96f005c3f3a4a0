//! Promise 3: no copy of a descriptor keeps the lock: none in a forked child, not even of one that a
//! fork met half open, none in another program, whoever let it leak there. (What a child may do with
//! its dead guards is in `fork_keeps_lock.rs`.)

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use lockmgr::{Error, FileLock, LockMgr, OwnedFileLockGuard};
use support::process::{self, Way, descriptors_of, fork, is_alive, open_files};
use support::scene::{MECHANISMS, OF_DESCRIPTIONS, Scene, WAYS};
use support::{
    BOUND, Worker, alone, eventually, hear, kernel_locks, raw, roles, say, serve, wait_for_blocked,
};

#[test]
fn worker() {
    serve(&[
        roles::HOLD,
        roles::TRY,
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
    assert_eq!(descriptors_of(program.pid(), scene.path.parent().unwrap()), [0_i32; 0]);
    assert_eq!(descriptors_of(program.pid(), &scene.path), [0_i32; 0]);
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
