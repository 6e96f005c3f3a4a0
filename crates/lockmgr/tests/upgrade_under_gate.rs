//! Under the gate an upgrade of `flock` loses nothing: nobody who is fair gets in while the kernel has
//! let go of the shared lock, and a refused upgrade keeps it.

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lockmgr::{Error, FileLock, Mode};
use support::roles::{holder, others_get_it, release};
use support::{BOUND, Worker, kernel_locks, roles, say, serve, wait_for_blocked};
use tempfile::TempDir;

#[test]
fn worker() {
    serve(&[roles::HOLD, roles::TRY, ("upgrade", upgrade_again_and_again)]);
}

struct Scene {
    _dir: TempDir,
    path: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        Self { _dir: dir, path }
    }

    fn args<'a>(&'a self, mode: &'a str) -> [&'a str; 3] {
        [self.path.to_str().unwrap(), "fair flock", mode]
    }
}

fn open(path: &Path) -> FileLock {
    FileLock::options().fair(true).open(path).unwrap()
}

#[test]
fn the_only_holder_is_upgraded_and_gives_the_gate_back() {
    let scene = Scene::new();
    let lock = open(&scene.path);
    let mut guard = lock.lock_shared().unwrap();
    guard.try_upgrade().unwrap();
    assert_eq!((guard.mode(), kernel_locks(&scene.path)), (Mode::Exclusive, (1, 0)));
    assert!(!others_get_it(&scene.args("shared")));
    guard.downgrade().unwrap();
    assert!(others_get_it(&scene.args("shared")));
}

#[test]
fn a_refused_upgrade_keeps_the_shared_lock() {
    let scene = Scene::new();
    let lock = open(&scene.path);
    let mut guard = lock.lock_shared().unwrap();
    let mut other = holder(&scene.args("shared"));
    assert!(matches!(guard.try_upgrade(), Err(Error::Busy { .. })));
    assert_eq!((guard.mode(), kernel_locks(&scene.path)), (Mode::Shared, (2, 0)));
    assert!(guard.is_held() && guard.still_current().unwrap());
    release(&mut other);
    assert!(!others_get_it(&scene.args("exclusive")));
    guard.try_upgrade().unwrap();
}

#[test]
fn a_waiting_writer_does_not_slip_in() {
    let scene = Scene::new();
    let lock = open(&scene.path);
    // Alone inside, and with another reader.
    for others in [0, 1] {
        let mut guard = lock.lock_shared().unwrap();
        let mut readers: Vec<Worker> = (0..others).map(|_| holder(&scene.args("shared"))).collect();
        let mut writer = Worker::spawn("hold", &scene.args("exclusive"));
        wait_for_blocked(&scene.path, 1);
        for _ in 0..100 {
            assert!(matches!(guard.try_upgrade(), Err(Error::Busy { .. })));
            assert!(guard.is_held());
        }
        // The gate is the writer's, and the lock still is the readers'.
        assert_eq!(kernel_locks(&scene.path), (2 + others, 1));
        for reader in &mut readers {
            release(reader);
        }
        guard.unlock().unwrap();
        writer.expect("held");
        release(&mut writer);
    }
}

/// Reads a number, and adds one to it if the lock can be upgraded at once; says how often it could.
fn upgrade_again_and_again(args: &[String]) {
    let rounds: u64 = args[2].parse().unwrap();
    let options = FileLock::options().fair(true).remove_on_release(args[3] == "remove");
    let lock = options.open(Path::new(&args[0])).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(&args[1]).unwrap();
    let read = || {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let mut done = 0_u64;
    for round in 0..rounds {
        let mut guard = match round % 4 {
            // Past the gate, or in nobody's way.
            0 => match lock.try_lock() {
                Err(Error::Busy { .. }) => lock.lock_shared().unwrap(),
                guard => guard.unwrap(),
            },
            1 => lock.lock_timeout(BOUND).unwrap(),
            2 => match lock.try_lock_shared() {
                Err(Error::Busy { .. }) => lock.lock_shared().unwrap(),
                guard => guard.unwrap(),
            },
            _ => lock.lock_shared_timeout(BOUND).unwrap(),
        };
        let number = read();
        match guard.try_upgrade() {
            Ok(()) => {
                assert_eq!(read(), number, "somebody was inside in between");
                file.write_all_at(&(number + 1).to_ne_bytes(), 0).unwrap();
                done += 1;
            }
            Err(Error::Busy { .. }) => {
                assert_eq!(guard.mode(), Mode::Shared);
                assert_eq!(read(), number, "the shared lock was not kept");
            }
            Err(other) => panic!("{other}"),
        }
        guard.unlock().unwrap();
    }
    say(done);
}

#[test]
fn nothing_is_lost_whatever_the_others_do() {
    hustle("keep", 1500);
}

#[test]
fn nothing_is_lost_where_the_last_one_removes_the_file() {
    hustle("remove", 1500);
}

fn hustle(file: &str, rounds: u64) {
    const PROCESSES: u64 = 5;
    let scene = Scene::new();
    let number = scene.path.with_extension("number");
    fs::write(&number, 0_u64.to_ne_bytes()).unwrap();
    let (path, number_path) = (scene.path.to_str().unwrap(), number.to_str().unwrap());
    let workers: Vec<Worker> = (0..PROCESSES)
        .map(|_| Worker::spawn("upgrade", &[path, number_path, &rounds.to_string(), file]))
        .collect();
    let mut done = 0;
    for worker in workers {
        done += worker.next_line().parse::<u64>().unwrap();
        assert!(worker.finish().success());
    }
    let bytes = fs::read(&number).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes.try_into().unwrap()), done);
    // A quarter of them began as exclusive ones.
    assert!(done >= PROCESSES * rounds / 4, "{done}");
    assert_eq!(kernel_locks(&scene.path), (0, 0));
}
