//! Fair handles are first come, first served: nobody who comes later gets in before the one who stands
//! in the gate, whatever the modes; and the gate is never left behind.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::inspect::Holder;
use lockmgr::{CancelToken, Error, FileLock, FileLockOptions, Mechanism, Range};
use support::process::{Way, fork};
use support::puppet::{PUPPET, Puppet};
use support::roles::{holder, others_get_it, release};
use support::users::{can_play_users, new_user, public_dir};
use support::{
    BOUND, Worker, eventually, hear, kernel_locks, probe, roles, say, sees_all_locks, serve,
    wait_for_blocked,
};
use tempfile::TempDir;

#[test]
fn worker() {
    serve(&[
        roles::HOLD,
        roles::TRY,
        PUPPET,
        ("loop", run_loop),
        ("wait and fork", wait_and_fork),
        ("refusals", refusals),
        ("probe", probe::run),
    ]);
}

const MECHANISMS: [&str; 2] = ["flock", "ofd"];

struct Scene {
    _dir: TempDir,
    path: PathBuf,
    mechanism: String,
}

impl Scene {
    fn new(mechanism: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        Self { _dir: dir, path, mechanism: format!("fair {mechanism}") }
    }

    fn open(&self) -> FileLock {
        let mechanism = self.mechanism["fair ".len()..].parse().unwrap();
        fair(mechanism).open(&self.path).unwrap()
    }

    fn args<'a>(&'a self, mode: &'a str) -> [&'a str; 3] {
        [self.path.to_str().unwrap(), &self.mechanism, mode]
    }

    fn holder(&self, mode: &str) -> Worker {
        holder(&self.args(mode))
    }

    /// A process that waits; it is the `count`th one.
    fn waiter(&self, mode: &str, count: usize) -> Worker {
        let worker = Worker::spawn("hold", &self.args(mode));
        wait_for_blocked(&self.path, count);
        worker
    }

    fn others_get(&self, mode: &str) -> bool {
        others_get_it(&self.args(mode))
    }

    /// Waits until so much is held, the gate included, and so many wait.
    fn settles_at(&self, held: usize, blocked: usize) {
        eventually("the kernel's table says so", || kernel_locks(&self.path) == (held, blocked));
    }
}

fn fair(mechanism: Mechanism) -> FileLockOptions {
    FileLock::options().mechanism(mechanism).fair(true)
}

/// Holds the lock until told to go on, then acquires and releases it as fast as it can, and says each
/// time that it got it. The third argument says by which verb.
fn run_loop(args: &[String]) {
    let lock = fair(args[1].parse().unwrap()).open(&args[0]).unwrap();
    let first = lock.lock().unwrap();
    say("held");
    hear();
    drop(first);
    for _ in 0..1000 {
        let guard = match args[2].as_str() {
            "lock" => lock.lock().unwrap(),
            "timeout" => lock.lock_timeout(BOUND).unwrap(),
            "async" => {
                let guard = smol::block_on(lock.acquire().into_future()).unwrap();
                say("again");
                drop(guard);
                continue;
            }
            "try" => loop {
                match lock.try_lock() {
                    Err(Error::Busy { .. }) => {}
                    result => break result.unwrap(),
                }
            },
            other => panic!("{other}"),
        };
        say("again");
        drop(guard);
    }
}

#[test]
fn who_releases_and_comes_back_at_once_does_not_overtake_a_waiter() {
    for mechanism in MECHANISMS {
        for verb in ["lock", "timeout", "async", "try"] {
            for _ in 0..10 {
                let scene = Scene::new(mechanism);
                let path = scene.path.to_str().unwrap();
                let mut looper = Worker::spawn("loop", &[path, mechanism, verb]);
                looper.expect("held");
                let waiter = scene.waiter("exclusive", 1);
                looper.tell("go on");
                waiter.expect("held");
                // It holds until it is told otherwise; what the looper got, it got before.
                let again = looper.try_line(Duration::from_millis(5));
                assert_eq!(again, None, "{mechanism} {verb}: overtaken");
            }
        }
    }
}

#[test]
fn waiters_get_in_in_the_order_in_which_they_came() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let mut inside = scene.holder("exclusive");
        let mut queue: Vec<Worker> =
            (1..=5).map(|count| scene.waiter("exclusive", count)).collect();
        while !queue.is_empty() {
            release(&mut inside);
            inside = queue.remove(0);
            inside.expect("held");
        }
        release(&mut inside);
        scene.settles_at(0, 0);
    }
}

#[test]
fn readers_who_come_later_wait_behind_a_writer() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let mut reader = scene.holder("shared");
        let mut also_inside = scene.holder("shared");
        let mut writer = scene.waiter("exclusive", 1);
        let mut late: Vec<Worker> = (2..=4).map(|count| scene.waiter("shared", count)).collect();
        assert!(scene.others_get("shared"), "a try goes past the gate");
        release(&mut reader);
        release(&mut also_inside);
        writer.expect("held");
        release(&mut writer);
        for reader in &mut late {
            reader.expect("held");
        }
        scene.settles_at(3, 0);
    }
}

#[test]
fn readers_of_the_same_handle_wait_behind_a_writer_too() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let first = lock.acquire().shared().wait_owned().unwrap();
        let mut writer = scene.waiter("exclusive", 1);
        thread::scope(|scope| {
            let late = scope.spawn(|| drop(lock.lock_shared_timeout(BOUND).unwrap()));
            // The one in the gate, and the one behind it.
            wait_for_blocked(&scene.path, 2);
            drop(first);
            writer.expect("held");
            assert!(!late.is_finished());
            release(&mut writer);
        });
        scene.settles_at(0, 0);
    }
}

#[test]
fn who_is_inside_comes_in_once_more_past_a_waiting_writer() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let first = lock.lock_shared().unwrap();
        let writer = scene.waiter("exclusive", 1);
        // Behind the writer, who waits for us, this would never end.
        let again = lock.lock_shared().unwrap();
        let another = scene.open();
        let through_another = another.lock_shared().unwrap();
        assert!(matches!(another.lock(), Err(Error::Deadlock { own_thread: true, .. })));
        drop((first, again, through_another));
        writer.expect("held");
    }
}

#[test]
fn the_gate_is_given_back_as_soon_as_the_lock_is_held() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let exclusive = lock.lock().unwrap();
        assert_eq!(kernel_locks(&scene.path), (1, 0));
        drop(exclusive);
        let one = lock.lock_shared().unwrap();
        let two = smol::block_on(lock.acquire().shared().into_future()).unwrap();
        assert_eq!(kernel_locks(&scene.path), (1, 0));
        drop((one, two));
        assert_eq!(kernel_locks(&scene.path), (0, 0));
        let holder = scene.holder("exclusive");
        assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
        assert!(matches!(lock.lock_timeout(Duration::ZERO), Err(Error::TimedOut { .. })));
        assert_eq!(kernel_locks(&scene.path), (1, 0));
        drop(holder);
    }
}

/// Where a waiter may be.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Behind another one.
    AtTheGate,
    /// In the gate.
    AtTheLock,
}

/// Plays with a lock that is held, and that `Stage` says how much of is taken besides; what the play
/// has done must leave no trace.
fn in_each_stage(mut play: impl FnMut(&Scene, Stage, usize)) {
    for mechanism in MECHANISMS {
        for stage in [Stage::AtTheGate, Stage::AtTheLock] {
            let scene = Scene::new(mechanism);
            let mut inside = scene.holder("exclusive");
            let before = match stage {
                Stage::AtTheGate => Some(scene.waiter("exclusive", 1)),
                Stage::AtTheLock => None,
            };
            let blocked = usize::from(before.is_some());
            play(&scene, stage, blocked + 1);
            scene.settles_at(1 + blocked, blocked);
            release(&mut inside);
            if let Some(mut before) = before {
                before.expect("held");
                release(&mut before);
            }
            assert!(scene.others_get("exclusive"), "{mechanism} {stage:?}");
        }
    }
}

#[test]
fn a_deadline_covers_the_gate_and_the_lock() {
    in_each_stage(|scene, stage, _| {
        for mode in ["exclusive", "shared"] {
            let lock = scene.open();
            let (limit, start) = (Duration::from_millis(60), Instant::now());
            let result = match mode {
                "exclusive" => lock.lock_timeout(limit),
                _ => lock.lock_shared_timeout(limit),
            };
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{stage:?} {mode}");
            assert!(start.elapsed() >= limit, "{stage:?} {mode}: never early");
            let task = smol::block_on(lock.acquire().timeout(limit).into_future());
            assert!(matches!(task, Err(Error::TimedOut { .. })), "{stage:?} {mode}");
        }
    });
}

#[test]
fn a_cancel_ends_the_wait_at_the_gate_and_at_the_lock() {
    in_each_stage(|scene, stage, blocked| {
        for asleep in [true, false] {
            let (lock, token) = (scene.open(), CancelToken::new());
            let waiting = {
                let token = token.clone();
                thread::spawn(move || {
                    let acquire = lock.acquire().cancel(&token);
                    if asleep {
                        acquire.wait_owned().map(drop)
                    } else {
                        smol::block_on(acquire.into_future()).map(drop)
                    }
                })
            };
            wait_for_blocked(&scene.path, blocked);
            token.cancel();
            let result = waiting.join().unwrap();
            assert!(matches!(result, Err(Error::Cancelled { .. })), "{stage:?}: {result:?}");
        }
    });
}

#[test]
fn a_dropped_future_leaves_the_gate_and_the_lock() {
    in_each_stage(|scene, _, blocked| {
        let lock = scene.open();
        let mut future = Box::pin(lock.acquire().into_future());
        assert!(smol::block_on(smol::future::poll_once(&mut future)).is_none());
        wait_for_blocked(&scene.path, blocked);
        drop(future);
    });
}

#[test]
fn who_is_killed_in_the_gate_frees_it() {
    in_each_stage(|scene, _, blocked| {
        let mut waiter = scene.waiter("exclusive", blocked);
        waiter.kill();
    });
}

/// Waits in a thread, forks, and says so.
fn wait_and_fork(args: &[String]) {
    let lock = fair(Mechanism::Flock).open(&args[0]).unwrap();
    thread::spawn(move || lock.lock().map(drop));
    wait_for_blocked(Path::new(&args[0]), 1);
    let child = fork(Way::Fork, |parent| {
        parent.say("here");
        // Until the parent has gone.
        parent.hear();
    });
    let mut child = child;
    child.expect("here");
    say("forked");
    hear();
}

#[test]
fn a_forked_child_does_not_keep_the_gate() {
    let scene = Scene::new("flock");
    let mut inside = scene.holder("exclusive");
    let mut waiter = Worker::spawn("wait and fork", &[scene.path.to_str().unwrap()]);
    waiter.expect("forked");
    waiter.kill();
    scene.settles_at(1, 0);
    release(&mut inside);
    assert!(scene.others_get("exclusive"));
}

#[test]
fn a_file_that_is_replaced_under_the_queue_takes_the_whole_queue_along() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let mut inside = scene.holder("exclusive");
        let mut queue: Vec<Worker> =
            (1..=3).map(|count| scene.waiter("exclusive", count)).collect();
        let new = scene.path.with_extension("new");
        fs::write(&new, "").unwrap();
        fs::rename(&new, &scene.path).unwrap();
        inside.tell("release");
        // All get in by the new file, one after the other.
        for _ in 0..queue.len() {
            let mut first = None;
            eventually("one of them gets in", || {
                first = queue.iter().position(|waiter| {
                    waiter
                        .try_line(Duration::from_millis(1))
                        .inspect(|line| assert_eq!(line, "held"))
                        .is_some()
                });
                first.is_some()
            });
            let mut holder = queue.remove(first.unwrap());
            assert!(!scene.others_get("exclusive"), "{mechanism}");
            release(&mut holder);
        }
        scene.settles_at(0, 0);
    }
}

#[test]
fn the_path_is_looked_at_again_between_the_gate_and_the_lock() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let _inside = scene.holder("exclusive");
        let lock = scene.open();
        let in_the_gate = CancelToken::new();
        thread::scope(|scope| {
            let first = scope.spawn(|| lock.acquire().cancel(&in_the_gate).wait().map(drop));
            wait_for_blocked(&scene.path, 1);
            let behind = scene.waiter("exclusive", 2);
            let new = scene.path.with_extension("new");
            fs::write(&new, "").unwrap();
            fs::rename(&new, &scene.path).unwrap();
            in_the_gate.cancel();
            assert!(matches!(first.join().unwrap(), Err(Error::Cancelled { .. })));
            // The old file is still held, and will be; that does not matter any more.
            behind.expect("held");
        });
    }
}

#[test]
fn ranges_that_begin_elsewhere_do_not_wait_at_the_same_gate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let text = path.to_str().unwrap();
    let _first = holder(&[text, "fair ofd", "exclusive", "0+10"]);
    let _waiter = Worker::spawn("hold", &[text, "fair ofd", "exclusive", "0+10"]);
    wait_for_blocked(&path, 1);
    let lock = fair(Mechanism::Ofd).range(Range::new(10, 10).unwrap()).open(&path).unwrap();
    // Less patient than the one at the other gate.
    drop(lock.lock_timeout(BOUND / 3).unwrap());
    // Nor do the two kinds of lock.
    drop(fair(Mechanism::Flock).open(&path).unwrap().lock_timeout(BOUND / 3).unwrap());
    let whole = fair(Mechanism::Ofd).open(&path).unwrap();
    assert!(matches!(whole.lock_timeout(Duration::ZERO), Err(Error::TimedOut { .. })));
}

#[test]
fn handles_that_are_not_fair_are_kept_out_as_ever() {
    for mechanism in MECHANISMS {
        let scene = Scene::new(mechanism);
        let plain = [scene.path.to_str().unwrap(), mechanism, "exclusive"];
        let mut inside = scene.holder("exclusive");
        let mut waiter = Worker::spawn("hold", &plain);
        wait_for_blocked(&scene.path, 1);
        release(&mut inside);
        waiter.expect("held");
        assert!(!scene.others_get("shared"));
        release(&mut waiter);
        let lock = scene.open();
        let guard = lock.lock().unwrap();
        assert!(!others_get_it(&plain));
        drop(guard);
        assert!(others_get_it(&plain));
    }
}

#[test]
fn threads_of_a_fair_handle_exclude_each_other_and_leave_nothing() {
    const THREADS: usize = 4;
    let scene = Scene::new("flock");
    let (lock, inside) = (scene.open(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (lock, inside) = (lock.clone(), &inside);
            scope.spawn(move || {
                for round in 0..300 {
                    if (index + round) % 3 == 0 {
                        let guard = lock.lock_timeout(BOUND).unwrap();
                        assert_eq!(inside.fetch_add(THREADS, Ordering::SeqCst), 0);
                        inside.fetch_sub(THREADS, Ordering::SeqCst);
                        drop(guard);
                    } else {
                        let guard = lock.lock_shared().unwrap();
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < THREADS);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(guard);
                    }
                }
            });
        }
    });
    scene.settles_at(0, 0);
}

/// What cannot have a gate says so when it must have one, and does without when it need not.
#[test]
fn where_there_can_be_no_gate_that_is_said_or_it_is_left_out() {
    support::alone("refusals", &[]);
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o777);
    let path = dir.path().join("a.lock");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let user = new_user();
    let told = probe::probe(&path, &format!("user={user} fair"));
    assert_eq!(
        told,
        "Permission: PATH: cannot open: a fair lock needs a lock file that can be written: \
         Permission denied (os error 13)"
    );
    assert_eq!(probe::probe(&path, &format!("user={user} prefer-fair")), "held");
    assert_eq!(probe::probe(&path, &format!("user={user} prefer-fair ofd shared")), "held");
    let told = probe::probe(&path, &format!("user={user} fair ofd shared"));
    assert!(told.starts_with("Permission: "), "{told}");
}

fn refusals(_: &[String]) {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for (path, what) in [(dir.path(), "directory"), (&script, "executed")] {
        let error = fair(Mechanism::Flock).open(path).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        let lock = FileLock::options().prefer_fair(true).open(path).unwrap();
        let guard = lock.lock().unwrap();
        let status = std::process::Command::new(&script).status().unwrap();
        assert_eq!(status.code(), Some(7), "a script can lock itself and run");
        drop(guard);
    }
    // An empty one is nothing to execute, and on some filesystems everything is executable.
    fs::write(&script, "").unwrap();
    drop(fair(Mechanism::Flock).open(&script).unwrap().lock().unwrap());
    drop(FileLock::options().record(true).open(&script).unwrap().lock().unwrap());
    assert!(fs::metadata(&script).unwrap().len() > 0, "there is a record");
    drop(fair(Mechanism::Flock).open(&script).unwrap().lock().unwrap());
    let link = dir.path().join("link");
    symlink(&script, &link).unwrap();
    drop(fair(Mechanism::Flock).follow_symlinks(true).open(&link).unwrap().lock().unwrap());

    let error = fair(Mechanism::Posix).open(&script).unwrap_err();
    assert!(error.to_string().contains("posix locks have no gate"), "{error}");
    let posix = FileLock::options().mechanism(Mechanism::Posix).prefer_fair(true);
    drop(posix.open(&script).unwrap().lock().unwrap());

    let read = File::open(&script).unwrap();
    let error = fair(Mechanism::Flock).from_file(read).unwrap_err();
    assert!(matches!(error, Error::Permission { .. }), "{error}");
    let write = File::options().write(true).open(&script).unwrap();
    drop(fair(Mechanism::Flock).from_file(write).unwrap().lock().unwrap());
    let inode = fs::metadata(&script).unwrap().ino();
    assert_eq!(support::kernel_locks_of_inode(inode), (0, 0));
}

fn holders(error: &Error) -> Vec<u32> {
    let mut pids: Vec<u32> = error.holders().iter().filter_map(Holder::pid).collect();
    pids.sort_unstable();
    pids
}

#[test]
fn a_foreign_lock_that_covers_the_gate_is_named() {
    if !sees_all_locks() {
        return;
    }
    for words in ["posix ex 0 0", "ofd ex 0 0", "posix sh 7 0"] {
        let scene = Scene::new("flock");
        let (fair, plain) = (scene.open(), FileLock::open(&scene.path).unwrap());
        let (foreign, _fd) = Puppet::holding(&scene.path, words);
        let gate = format!("its gate is taken by pid {} (", foreign.pid());
        // There is little time for each look, and the machine may be busy.
        let names = |error: &Error, before: &str, pids: &[u32]| {
            eventually("the holder is named", || {
                error.to_string().contains(&format!("{before}{gate}")) && holders(error) == pids
            });
        };
        let limit = Duration::from_millis(10);
        let task = fair.acquire().timeout(limit).into_future();
        for error in [
            fair.try_lock().unwrap_err(),
            fair.lock_timeout(limit).unwrap_err(),
            fair.lock_shared_timeout(limit).unwrap_err(),
            smol::block_on(task).unwrap_err(),
        ] {
            assert!(error.is_contended(), "{error}");
            names(&error, ", ", &[foreign.pid()]);
        }
        // A shared try goes past it, and cannot be upgraded in its face.
        let mut shared = fair.try_lock_shared().unwrap();
        let error = shared.try_upgrade().unwrap_err();
        let mut both = [foreign.pid(), std::process::id()];
        both.sort_unstable();
        names(&error, " and ", &both);
        drop(shared);
        drop(plain.try_lock().expect("it is not in the way of a plain one"));
    }
    // Who stands in the gate is not named beside the one that it waits for.
    let scene = Scene::new("flock");
    let inside = scene.holder("exclusive");
    let _waiter = scene.waiter("exclusive", 1);
    let error = scene.open().try_lock().unwrap_err();
    eventually("the one inside is named", || holders(&error) == [inside.pid()]);
    assert!(!error.to_string().contains("gate"), "{error}");
}
