//! Changes of mode: what is atomic is, and where the kernel lets go for a moment (flock), the guard
//! tells the truth about what became of the lock. Promise 1 holds all the while.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{Error, FileLock, FileLockGuard, Mechanism, Mode, Range};
use support::roles::{holder, others_get_it, release};
use support::{
    BOUND, Worker, kernel_locks, kernel_locks_of_inode, roles, say, serve, tasks, wait_for_blocked,
};
use tempfile::TempDir;

#[test]
fn worker() {
    serve(&[roles::HOLD, roles::TRY, ("convert", convert)]);
}

const ALL: [&str; 3] = ["flock", "ofd", "posix"];
const UPGRADABLE: [&str; 2] = ["flock", "ofd"];

struct Scene {
    _dir: TempDir,
    path: PathBuf,
    mechanism: &'static str,
}

impl Scene {
    fn new(mechanism: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        Self { _dir: dir, path, mechanism }
    }

    fn open(&self) -> FileLock {
        let mechanism: Mechanism = self.mechanism.parse().unwrap();
        FileLock::options().mechanism(mechanism).open(&self.path).unwrap()
    }

    fn args<'a>(&'a self, mode: &'a str) -> [&'a str; 3] {
        [self.path.to_str().unwrap(), self.mechanism, mode]
    }

    fn others_get(&self, mode: &str) -> bool {
        others_get_it(&self.args(mode))
    }

    fn spawn_waiter(&self, mode: &str) -> Worker {
        Worker::spawn("hold", &self.args(mode))
    }
}

#[test]
fn a_downgrade_lets_in_those_who_wait_shared_and_nobody_else() {
    for mechanism in ALL {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let mut guard = lock.lock().unwrap();
        let mut reader = scene.spawn_waiter("shared");
        wait_for_blocked(&scene.path, 1);
        guard.downgrade().unwrap();
        assert_eq!(guard.mode(), Mode::Shared);
        reader.expect("held");
        assert!(guard.is_held() && guard.still_current().unwrap());
        let writer = scene.spawn_waiter("exclusive");
        wait_for_blocked(&scene.path, 1);
        release(&mut reader);
        assert!(!scene.others_get("exclusive"), "{mechanism}: the guard still has it");
        guard.downgrade().unwrap();
        guard.unlock().unwrap();
        writer.expect("held");
    }
}

#[test]
fn an_upgrade_shuts_everybody_out() {
    for mechanism in UPGRADABLE {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let mut guard = lock.lock_shared().unwrap();
        assert!(scene.others_get("shared"));
        guard.try_upgrade().unwrap();
        assert_eq!(guard.mode(), Mode::Exclusive);
        assert!(!scene.others_get("shared"));
        guard.try_upgrade().unwrap();
        guard.downgrade().unwrap();
        assert!(scene.others_get("shared"));
        guard.try_upgrade().unwrap();
        let reader = scene.spawn_waiter("shared");
        wait_for_blocked(&scene.path, 1);
        guard.unlock().unwrap();
        reader.expect("held");
    }
}

#[test]
fn an_upgrade_is_refused_while_others_share_and_the_lock_is_kept() {
    for mechanism in UPGRADABLE {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let mut other = holder(&scene.args("shared"));
        let mut guard = lock.lock_shared().unwrap();
        for _ in 0..3 {
            assert!(matches!(guard.try_upgrade(), Err(Error::Busy { .. })));
            assert!(guard.is_held() && guard.still_current().unwrap());
            assert_eq!(guard.mode(), Mode::Shared);
            assert_eq!(kernel_locks(&scene.path), (2, 0));
        }
        release(&mut other);
        assert!(!scene.others_get("exclusive"), "{mechanism}: it is still held shared");
        guard.try_upgrade().unwrap();
        assert!(!scene.others_get("shared"));
    }
}

#[test]
fn an_ofd_upgrade_overtakes_a_writer_that_waits_without_ever_letting_go() {
    let scene = Scene::new("ofd");
    let lock = scene.open();
    let mut other = holder(&scene.args("shared"));
    let mut guard = lock.lock_shared().unwrap();
    let mut writer = scene.spawn_waiter("exclusive");
    wait_for_blocked(&scene.path, 1);
    assert!(matches!(guard.try_upgrade(), Err(Error::Busy { .. })));
    assert_eq!(kernel_locks(&scene.path), (2, 1));
    release(&mut other);
    guard.try_upgrade().unwrap();
    // It may look up, but stays outside.
    wait_for_blocked(&scene.path, 1);
    assert_eq!(kernel_locks(&scene.path), (1, 1));
    guard.unlock().unwrap();
    writer.expect("held");
    release(&mut writer);
}

/// On kernels that have no pause between dropping the old lock and looking for conflicts, a change
/// that succeeds has let nobody in; the others may. Either way the guard tells.
#[test]
fn a_flock_change_of_mode_beside_a_writer_that_waits_tells_what_became_of_it() {
    const ROUNDS: usize = 20;
    let scene = Scene::new("flock");
    let lock = scene.open();
    for round in 0..ROUNDS {
        let upgrade = round % 2 == 0;
        let mut guard = if upgrade { lock.lock_shared() } else { lock.lock() }.unwrap();
        let mut writer = scene.spawn_waiter("exclusive");
        wait_for_blocked(&scene.path, 1);
        match if upgrade { guard.try_upgrade() } else { guard.downgrade() } {
            Ok(()) => {
                assert!(guard.is_held() && guard.still_current().unwrap());
                assert_eq!(guard.mode() == Mode::Exclusive, upgrade);
                // The writer has looked and waits again.
                wait_for_blocked(&scene.path, 1);
                guard.unlock().unwrap();
                writer.expect("held");
            }
            Err(Error::Lost { .. }) => {
                writer.expect("held");
                holds_nothing(&lock, guard);
            }
            Err(other) => panic!("{other}"),
        }
        release(&mut writer);
    }
}

/// What is left of a guard whose lock was lost.
fn holds_nothing(lock: &FileLock, mut guard: FileLockGuard<'_>) {
    assert!(!guard.is_held());
    assert!(matches!(guard.still_current(), Err(Error::Lost { .. })));
    assert!(matches!(guard.try_upgrade(), Err(Error::Lost { .. })));
    assert!(matches!(guard.downgrade(), Err(Error::Lost { .. })));
    // Its end frees nothing, and the handle is ready for another try.
    drop(guard);
    if let Ok(guard) = lock.try_lock_shared() {
        assert!(guard.is_held());
        guard.unlock().unwrap();
    }
}

#[test]
fn a_file_that_was_replaced_is_not_upgraded_or_downgraded_to() {
    let replace = |scene: &Scene| {
        let new = scene.path.with_extension("new");
        fs::write(&new, "").unwrap();
        fs::rename(&new, &scene.path).unwrap();
    };
    for upgrade in [true, false] {
        // With flock a holder who came in between may have done that.
        let scene = Scene::new("flock");
        let lock = scene.open();
        let mut guard = if upgrade { lock.lock_shared() } else { lock.lock() }.unwrap();
        let old = fs::metadata(&scene.path).unwrap();
        replace(&scene);
        let result = if upgrade { guard.try_upgrade() } else { guard.downgrade() };
        assert!(matches!(result, Err(Error::Lost { .. })));
        assert_eq!(kernel_locks_of_inode(old.ino()), (0, 0));
        holds_nothing(&lock, guard);
        assert!(scene.others_get("exclusive"));
        // The others never let go, so nobody but a stranger can have done it.
        let scene = Scene::new("ofd");
        let lock = scene.open();
        let mut guard = if upgrade { lock.lock_shared() } else { lock.lock() }.unwrap();
        replace(&scene);
        if upgrade { guard.try_upgrade() } else { guard.downgrade() }.unwrap();
        assert!(guard.is_held() && !guard.still_current().unwrap());
    }
}

#[test]
fn sharers_inside_the_process_refuse_an_upgrade() {
    for mechanism in UPGRADABLE {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        let mut one = lock.acquire().shared().wait_owned().unwrap();
        let two = lock.acquire().shared().wait_owned().unwrap();
        assert!(matches!(one.try_upgrade(), Err(Error::Busy { .. })));
        assert!(one.is_held() && two.is_held());
        assert_eq!(kernel_locks(&scene.path), (1, 0));
        drop(two);
        one.try_upgrade().unwrap();
        assert!(!scene.others_get("shared"));
        // Another handle of the process is another party.
        one.downgrade().unwrap();
        let other = scene.open();
        let two = other.lock_shared().unwrap();
        assert!(matches!(one.try_upgrade(), Err(Error::Busy { .. })));
        drop(two);
        one.try_upgrade().unwrap();
    }
}

#[test]
fn those_who_queue_at_the_handle_see_the_change() {
    for mechanism in ALL {
        let scene = Scene::new(mechanism);
        let lock = scene.open();
        thread::scope(|scope| {
            let (sender, queued) = channel();
            let waiter = |mode| {
                let (sender, lock) = (sender.clone(), &lock);
                let waiter = scope.spawn(move || {
                    sender.send(tasks::this_thread()).unwrap();
                    lock.acquire().mode(mode).timeout(BOUND).wait().unwrap().unlock().unwrap();
                });
                tasks::wait_until_queued(queued.recv().unwrap());
                waiter
            };
            let mut guard = lock.acquire().wait_owned().unwrap();
            let reader = waiter(Mode::Shared);
            guard.downgrade().unwrap();
            reader.join().unwrap();
            let writer = waiter(Mode::Exclusive);
            if mechanism == "posix" {
                assert!(matches!(guard.try_upgrade(), Err(Error::Unsupported { .. })));
                assert_eq!(guard.mode(), Mode::Shared);
            } else {
                guard.try_upgrade().unwrap();
            }
            assert!(!writer.is_finished() && !scene.others_get("exclusive"));
            guard.unlock().unwrap();
            writer.join().unwrap();
        });
    }
}

#[test]
fn only_the_lock_s_own_bytes_change_their_mode() {
    let scene = Scene::new("ofd");
    let [path, mechanism, _] = scene.args("");
    let lock = FileLock::options()
        .mechanism(Mechanism::Ofd)
        .range(Range::new(10, 10).unwrap())
        .open(&scene.path)
        .unwrap();
    let mut guard = lock.lock_shared().unwrap();
    let _before = holder(&[path, mechanism, "shared", "0+10"]);
    let _after = holder(&[path, mechanism, "shared", "20"]);
    guard.try_upgrade().unwrap();
    assert!(!others_get_it(&[path, mechanism, "shared", "19+1"]));
    assert!(others_get_it(&[path, mechanism, "shared", "0+10"]));
    guard.downgrade().unwrap();
    assert!(others_get_it(&[path, mechanism, "shared", "0"]));
    assert!(!others_get_it(&[path, mechanism, "exclusive", "19+1"]));
}

#[test]
fn no_update_is_lost_by_changes_of_mode() {
    const PROCESSES: usize = 4;
    for mechanism in ALL {
        let scene = Scene::new(mechanism);
        let number = scene.path.with_extension("number");
        fs::write(&number, 0_u64.to_ne_bytes()).unwrap();
        let args = scene.args("");
        let workers: Vec<_> =
            (0..PROCESSES).map(|_| Worker::spawn("convert", &args[..2])).collect();
        let mut total = 0;
        let mut outcomes = Outcomes::default();
        for worker in workers {
            let told = worker.next_line();
            let mut counts = told.split(' ').map(|count| count.parse::<u64>().unwrap());
            let mut next = || counts.next().unwrap();
            total += next();
            outcomes.upgraded += next();
            outcomes.busy += next();
            outcomes.lost += next();
            assert!(worker.finish().success());
        }
        assert_eq!(total, read(&File::open(&number).unwrap()), "{mechanism}");
        if mechanism != "posix" {
            assert!(outcomes.upgraded + outcomes.busy > 0, "{mechanism}: {outcomes:?}");
        }
        if mechanism == "ofd" {
            assert_eq!(outcomes.lost, 0);
        }
        eprintln!("{mechanism}: {total} updates, {outcomes:?}");
    }
}

#[derive(Debug, Default)]
struct Outcomes {
    upgraded: u64,
    busy: u64,
    lost: u64,
}

fn read(number: &File) -> u64 {
    let mut bytes = [0; 8];
    number.read_exact_at(&mut bytes, 0).unwrap();
    u64::from_ne_bytes(bytes)
}

/// Adds to the number, under locks that change their mode, and says how often.
fn convert(args: &[String]) {
    // On a busy machine the time ends it, and fewer rounds are counted.
    const ROUNDS: usize = 6000;
    const TIME: Duration = Duration::from_secs(3);
    let start = Instant::now();
    let path = Path::new(&args[0]);
    let mechanism: Mechanism = args[1].parse().unwrap();
    let lock = FileLock::options().mechanism(mechanism).open(path).unwrap();
    let number =
        OpenOptions::new().read(true).write(true).open(path.with_extension("number")).unwrap();
    let mut total = 0;
    let mut add = || {
        let before = read(&number);
        thread::yield_now();
        number.write_all_at(&(before + 1).to_ne_bytes(), 0).unwrap();
        total += 1;
        before + 1
    };
    // Nobody writes while it is held shared.
    let stays = |known: u64| {
        assert_eq!(read(&number), known);
        thread::yield_now();
        assert_eq!(read(&number), known);
    };
    let mut outcomes = Outcomes::default();
    for round in (0..ROUNDS).take_while(|_| start.elapsed() < TIME) {
        let guard = if round % 6 == 0 {
            let mut guard = lock.lock().unwrap();
            let written = add();
            match guard.downgrade() {
                Ok(()) if mechanism == Mechanism::Flock => stays(read(&number)),
                Ok(()) => stays(written),
                Err(Error::Lost { .. }) => outcomes.lost += 1,
                Err(other) => panic!("{other}"),
            }
            guard
        } else {
            let mut guard = lock.lock_shared().unwrap();
            let seen = read(&number);
            stays(seen);
            if mechanism != Mechanism::Posix {
                match guard.try_upgrade() {
                    Ok(()) => {
                        outcomes.upgraded += 1;
                        assert!(mechanism == Mechanism::Flock || seen == read(&number));
                        add();
                    }
                    Err(Error::Busy { .. }) => {
                        outcomes.busy += 1;
                        stays(if mechanism == Mechanism::Flock { read(&number) } else { seen });
                    }
                    Err(Error::Lost { .. }) => outcomes.lost += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            guard
        };
        if guard.is_held() {
            guard.unlock().unwrap();
        }
    }
    say(format!("{total} {} {} {}", outcomes.upgraded, outcomes.busy, outcomes.lost));
}
