//! A semaphore lets as many in as it has slots, several slots at once, first come, first served; what
//! is given back or left behind by the dead is free at once.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, Error, Semaphore};
use support::process::{Way, fork, outcome_of, without_inotify};
use support::tasks::{Activity, threads_named, wait_until_queued};
use support::{BOUND, Worker, alone, descriptor_count, eventually, hear, kernel_locks, say, serve};

#[test]
fn worker() {
    serve(&[
        ("hold", hold),
        ("try", try_it),
        ("wait", wait),
        ("no_inotify", no_inotify),
        ("drop_futures", drop_futures),
    ]);
}

/// Arguments: path, slots, how many of them. Holds them until it is told something.
fn hold(args: &[String]) {
    let (semaphore, count) = open(args);
    let guard = semaphore.acquire_many(count).wait().unwrap();
    say(format!("held {:?}", guard.slots()));
    hear();
    guard.release().unwrap();
    say("released");
    hear();
}

/// As [`hold`], but says first that it is going to wait.
fn wait(args: &[String]) {
    say("waiting");
    hold(args);
}

fn try_it(args: &[String]) {
    let (semaphore, count) = open(args);
    match semaphore.try_acquire_many(count) {
        Ok(guard) => say(format!("held {:?}", guard.slots())),
        Err(Error::Busy { .. }) => say("busy"),
        Err(other) => panic!("{other}"),
    }
}

fn open(args: &[String]) -> (Semaphore, u32) {
    (Semaphore::open(&args[0], args[1].parse().unwrap()).unwrap(), args[2].parse().unwrap())
}

fn holder(path: &Path, slots: &str, count: &str) -> (Worker, String) {
    let worker = Worker::spawn("hold", &[path.to_str().unwrap(), slots, count]);
    let said = worker.next_line();
    (worker, said)
}

fn others_get(path: &Path, slots: &str, count: &str) -> String {
    outcome_of("try", &[path.to_str().unwrap(), slots, count]).concat()
}

struct Scene {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        Self { _dir: dir, path }
    }

    fn open(&self, slots: u32) -> Semaphore {
        Semaphore::open(&self.path, slots).unwrap()
    }
}

/// Waits until somebody sleeps at the head of the queue, and returns how many queue behind it.
fn wait_for_head(path: &Path) {
    let queue = format!(" {} ", (1_u64 << 62) + 1);
    let inode = {
        use std::os::unix::fs::MetadataExt;
        format!(":{}", fs::metadata(path).unwrap().ino())
    };
    eventually("somebody is the head", || {
        fs::read_to_string("/proc/locks")
            .unwrap()
            .lines()
            .any(|line| line.contains(&inode) && line.contains(&queue) && !line.contains("->"))
    });
}

#[test]
fn as_many_as_there_are_slots() {
    let scene = Scene::new();
    let (mut one, said) = holder(&scene.path, "3", "2");
    assert_eq!(said, "held [0, 1]");
    let (two, said) = holder(&scene.path, "3", "1");
    assert_eq!(said, "held [2]");
    assert_eq!(others_get(&scene.path, "3", "1"), "busy");
    one.tell("release");
    one.expect("released");
    assert_eq!(others_get(&scene.path, "3", "3"), "busy");
    assert_eq!(others_get(&scene.path, "3", "2"), "held [0, 1]");
    drop(two);
    eventually("the dead hold nothing", || others_get(&scene.path, "3", "3") == "held [0, 1, 2]");
    assert_eq!(kernel_locks(&scene.path), (0, 0));
}

#[test]
fn every_guard_is_a_holder_of_its_own() {
    let scene = Scene::new();
    let (semaphore, clone) = (scene.open(3), scene.open(3));
    let a = semaphore.try_acquire().unwrap();
    let b = semaphore.clone().try_acquire().unwrap();
    let c = clone.try_acquire().unwrap();
    assert_eq!((a.slots(), b.slots(), c.slots()), (&[0][..], &[1][..], &[2][..]));
    assert!(matches!(semaphore.try_acquire(), Err(Error::Busy { .. })));
    drop(b);
    // Of what the others have, nothing went with it.
    assert_eq!(others_get(&scene.path, "3", "2"), "busy");
    assert_eq!(others_get(&scene.path, "3", "1"), "held [1]");
    thread::spawn(move || drop(a)).join().unwrap();
    c.release().unwrap();
    assert_eq!(semaphore.try_acquire_many(3).unwrap().slots(), [0, 1, 2]);
}

#[test]
fn a_smaller_semaphore_uses_the_first_slots_only() {
    let scene = Scene::new();
    let (_first, said) = holder(&scene.path, "2", "2");
    assert_eq!(said, "held [0, 1]");
    assert_eq!(others_get(&scene.path, "2", "1"), "busy");
    assert_eq!(others_get(&scene.path, "5", "3"), "held [2, 3, 4]");
}

#[test]
fn what_can_never_be_is_refused() {
    let scene = Scene::new();
    for slots in [0, Semaphore::MAX_SLOTS + 1] {
        let refused = Semaphore::open(&scene.path, slots);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    let semaphore = scene.open(2);
    for count in [0, 3] {
        let refused = semaphore.acquire_many(count).wait();
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    let largest = scene.open(Semaphore::MAX_SLOTS);
    let guard = largest.try_acquire_many(Semaphore::MAX_SLOTS).unwrap();
    assert_eq!(guard.slots().len(), 65_536);
    assert!(matches!(semaphore.try_acquire(), Err(Error::Busy { .. })));
}

#[test]
fn a_directory_is_refused_when_it_is_opened() {
    let scene = Scene::new();
    let refused = Semaphore::open(scene.path.parent().unwrap(), 1);
    assert!(matches!(refused, Err(Error::NotLockable { .. })), "{refused:?}");
}

/// The large are not starved by the small: who queues behind the head does not pass it.
#[test]
fn nobody_passes_the_head_of_the_queue() {
    let scene = Scene::new();
    let path = scene.path.to_str().unwrap();
    let (mut first, _) = holder(&scene.path, "2", "1");
    let mut large = Worker::spawn("wait", &[path, "2", "2"]);
    large.expect("waiting");
    wait_for_head(&scene.path);
    let mut small = Worker::spawn("wait", &[path, "2", "1"]);
    small.expect("waiting");
    // One slot is free all the time, and it is kept for the head.
    support::wait_for_blocked(&scene.path, 1);
    assert_eq!(others_get(&scene.path, "2", "1"), "held [1]");
    first.tell("release");
    first.expect("released");
    large.expect("held [0, 1]");
    assert!(small.try_line(Duration::ZERO).is_none());
    large.tell("release");
    large.expect("released");
    small.expect("held [0]");
    small.tell("release");
    small.expect("released");
}

/// The wake-up comes from the event, not from a pause: those are long by then.
#[test]
fn a_release_wakes_the_head_at_once() {
    for killed in [false, true] {
        let scene = Scene::new();
        let (mut first, _) = holder(&scene.path, "1", "1");
        let waiter = Worker::spawn("wait", &[scene.path.to_str().unwrap(), "1", "1"]);
        waiter.expect("waiting");
        wait_for_head(&scene.path);
        // Asleep for the length of pauses that are much longer than what follows.
        let pid = waiter.pid();
        Activity::at_rest(pid);
        thread::sleep(Duration::from_secs(2));
        let start = Instant::now();
        if killed {
            first.signal(libc::SIGKILL);
        } else {
            first.tell("release");
        }
        waiter.expect("held [0]");
        let took = start.elapsed();
        assert!(took < Duration::from_millis(500), "killed: {killed}, after {took:?}");
    }
}

/// A slot may be released while others have a copy of its descriptor.
#[test]
fn a_release_of_a_copied_description_wakes_the_head_too() {
    let scene = Scene::new();
    let guard = scene.open(1).try_acquire().unwrap();
    let copy = guard.file().try_clone().unwrap();
    let waiter = Worker::spawn("wait", &[scene.path.to_str().unwrap(), "1", "1"]);
    waiter.expect("waiting");
    wait_for_head(&scene.path);
    Activity::at_rest(waiter.pid());
    thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    guard.release().unwrap();
    waiter.expect("held [0]");
    assert!(start.elapsed() < Duration::from_millis(500), "after {:?}", start.elapsed());
    drop(copy);
}

#[test]
fn a_slot_that_was_handed_over_is_held_by_its_descriptor() {
    let scene = Scene::new();
    let semaphore = scene.open(1);
    let fd = semaphore.try_acquire().unwrap().into_fd().unwrap();
    assert!(matches!(semaphore.try_acquire(), Err(Error::Busy { .. })));
    drop(fd);
    semaphore.try_acquire().unwrap().release().unwrap();
}

#[test]
fn a_deadline_ends_the_wait_at_the_file_and_in_the_queue() {
    let scene = Scene::new();
    let (_first, _) = holder(&scene.path, "1", "1");
    let mut waiters = Vec::new();
    for _ in 0..2 {
        let semaphore = scene.open(1);
        let start = Instant::now();
        let limit = Duration::from_millis(60);
        let result = semaphore.acquire_timeout(limit);
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        assert!(start.elapsed() >= limit && start.elapsed() < BOUND);
        let zero = semaphore.acquire_timeout(Duration::ZERO);
        assert!(matches!(zero, Err(Error::TimedOut { .. })), "{zero:?}");
        // The second time somebody else is the head.
        let waiter = Worker::spawn("wait", &[scene.path.to_str().unwrap(), "1", "1"]);
        waiter.expect("waiting");
        wait_for_head(&scene.path);
        waiters.push(waiter);
    }
}

#[test]
fn a_cancellation_ends_every_kind_of_wait() {
    let scene = Scene::new();
    let (_first, _) = holder(&scene.path, "1", "1");
    let cancel = CancelToken::new();
    let shared = scene.open(1);
    let waiters: Vec<_> = [shared.clone(), shared, scene.open(1)]
        .into_iter()
        .enumerate()
        .map(|(index, semaphore)| {
            let (cancel, (sender, thread)) = (cancel.clone(), std::sync::mpsc::channel());
            let waiter = thread::spawn(move || {
                sender.send(support::tasks::this_thread()).unwrap();
                semaphore.acquire().cancel(&cancel).wait().map(drop)
            });
            let id = thread.recv().unwrap();
            match index {
                0 => wait_for_head(&scene.path),
                // In the queue of the handle.
                1 => wait_until_queued(id),
                // In the kernel's.
                _ => support::wait_for_blocked(&scene.path, 1),
            }
            waiter
        })
        .collect();
    cancel.cancel();
    for waiter in waiters {
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled { .. })));
    }
    assert_eq!(kernel_locks(&scene.path), (1, 0));
}

#[test]
fn dropping_a_future_leaves_nothing_behind() {
    // Threads and descriptors are counted.
    alone("drop_futures", &[]);
}

fn drop_futures(_: &[String]) {
    let scene = Scene::new();
    let semaphore = scene.open(2);
    let (all, other) = (semaphore.try_acquire().unwrap(), scene.open(2).try_acquire().unwrap());
    let descriptors = descriptor_count();
    smol::block_on(async {
        let mut futures: Vec<_> = (1..=3)
            .map(|count| Box::pin(semaphore.acquire_many(count.min(2)).into_future()))
            .collect();
        for future in &mut futures {
            assert!(smol::future::poll_once(future).await.is_none());
        }
        wait_for_head(&scene.path);
        // The head, and one behind it.
        drop(futures.remove(0));
        drop(futures.remove(1));
        drop((all, other));
        let guard = futures.remove(0).await.unwrap();
        assert_eq!(guard.slots(), [0, 1]);
    });
    eventually("no thread stays", || {
        threads_named("lockmgr-wait") == 0 && threads_named("lockmgr-watch") == 0
    });
    // Some descriptions of the lock file are kept for the next acquisition.
    assert!(descriptor_count() <= descriptors + 4, "{} open", descriptor_count());
    drop(semaphore);
    assert_eq!(others_get(&scene.path, "2", "2"), "held [0, 1]");
    assert_eq!(kernel_locks(&scene.path), (0, 0));
}

#[test]
fn tasks_get_their_slots_in_turn() {
    let scene = Scene::new();
    let semaphore = scene.open(2);
    let executor = smol::Executor::new();
    let tasks: Vec<_> = (0..20)
        .map(|index| {
            let semaphore = semaphore.clone();
            executor.spawn(async move {
                let guard = semaphore.acquire_many(index % 2 + 1).timeout(BOUND).await.unwrap();
                smol::future::yield_now().await;
                guard.release().unwrap();
            })
        })
        .collect();
    smol::block_on(executor.run(async {
        for task in tasks {
            task.await;
        }
    }));
    assert!(semaphore.try_acquire_many(2).is_ok());
}

#[test]
fn a_waiter_follows_the_path_when_the_file_is_replaced() {
    let scene = Scene::new();
    let (_first, _) = holder(&scene.path, "1", "1");
    let waiters = [(); 2].map(|()| {
        let waiter = Worker::spawn("wait", &[scene.path.to_str().unwrap(), "1", "1"]);
        waiter.expect("waiting");
        waiter
    });
    wait_for_head(&scene.path);
    support::wait_for_blocked(&scene.path, 1);
    fs::remove_file(&scene.path).unwrap();
    // One of the two; nobody prevents a deletion by those who hold nothing.
    let (mut one, mut two) = waiters.into();
    if one.try_line(Duration::from_millis(1)).is_none() {
        eventually("somebody is inside", || kernel_locks(&scene.path).0 > 0);
        if let Some(said) = two.try_line(Duration::from_millis(500)) {
            assert_eq!(said, "held [0]");
            std::mem::swap(&mut one, &mut two);
        } else {
            one.expect("held [0]");
        }
    }
    one.tell("release");
    one.expect("released");
    two.expect("held [0]");
}

#[test]
fn the_guard_tells_of_a_replaced_file() {
    let scene = Scene::new();
    let semaphore = scene.open(1);
    let guard = semaphore.try_acquire().unwrap();
    assert!(guard.still_current().unwrap());
    fs::remove_file(&scene.path).unwrap();
    assert!(!guard.still_current().unwrap());
    assert!(matches!(guard.release(), Err(Error::Replaced { while_held: true, .. })));
    assert!(semaphore.try_acquire().unwrap().still_current().unwrap());
}

#[test]
fn a_forked_child_holds_nothing() {
    for way in [Way::Fork, Way::BareClone] {
        let scene = Scene::new();
        let semaphore = scene.open(2);
        let guard = semaphore.try_acquire().unwrap();
        let mut kept = Some(guard);
        let mut child = fork(way, |parent| {
            let guard = kept.take().unwrap();
            assert!(!guard.is_held());
            assert!(matches!(guard.still_current(), Err(Error::Forked { .. })));
            let mine = semaphore.try_acquire().unwrap();
            parent.say(format!("{:?}", mine.slots()));
            drop(mine);
            // The copy of the parent's guard, released here.
            assert!(matches!(guard.release(), Err(Error::Forked { .. })));
            parent.say("released");
            parent.hear();
        });
        child.expect("[1]");
        child.expect("released");
        assert_eq!(others_get(&scene.path, "2", "2"), "busy");
        assert_eq!(others_get(&scene.path, "2", "1"), "held [1]");
        child.tell("go on");
        child.finish();
        assert_eq!(others_get(&scene.path, "2", "2"), "busy");
        kept.take().unwrap().release().unwrap();
        assert_eq!(others_get(&scene.path, "2", "2"), "held [0, 1]");
    }
}

/// While it waits, the head wakes up less and less often.
#[test]
fn the_head_does_not_poll() {
    let scene = Scene::new();
    let (_first, _) = holder(&scene.path, "1", "1");
    let waiter = Worker::spawn("wait", &[scene.path.to_str().unwrap(), "1", "1"]);
    waiter.expect("waiting");
    wait_for_head(&scene.path);
    let switches = |activity: &Activity| activity.total_switches();
    Activity::at_rest(waiter.pid());
    let before = switches(&Activity::of(waiter.pid()));
    thread::sleep(Duration::from_secs(3));
    let after = switches(&Activity::of(waiter.pid()));
    assert!(after - before <= 16, "{} times in three seconds", after - before);
}

/// Where no inotify instance can be had, the head looks from time to time.
#[test]
fn it_works_without_inotify() {
    let scene = Scene::new();
    let (mut first, _) = holder(&scene.path, "1", "1");
    let args = [scene.path.to_str().unwrap(), "1", "1"];
    let waiter = Worker::spawn_with("no_inotify", &args, without_inotify);
    waiter.expect("waiting");
    wait_for_head(&scene.path);
    first.signal(libc::SIGKILL);
    waiter.expect("held [0]");
    first.kill();
}

fn no_inotify(args: &[String]) {
    use rustix::fs::inotify;
    // Where the limit could not be set, all that this user can have are taken.
    let all: Vec<_> =
        std::iter::from_fn(|| inotify::init(inotify::CreateFlags::CLOEXEC).ok()).collect();
    wait(args);
    drop(all);
}

#[test]
fn a_head_that_gives_up_leaves_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let other = Semaphore::open(&path, 1).unwrap();
    // It keeps its description for the next time.
    let impatient = Semaphore::open(&path, 1).unwrap();
    let guard = other.acquire().wait().unwrap();
    impatient.acquire_timeout(Duration::from_millis(5)).unwrap_err();
    impatient.acquire().try_in_turn().unwrap_err();
    drop(guard);
    drop(other.acquire().try_in_turn().expect("nobody waits"));
}

#[test]
fn a_try_in_turn_overtakes_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let semaphore = Semaphore::open(&path, 2).unwrap();
    let guard = semaphore.acquire().try_in_turn().unwrap();
    thread::scope(|scope| {
        let waiter = Semaphore::open(&path, 2).unwrap();
        let both = scope.spawn(move || drop(waiter.acquire_many(2).wait().unwrap()));
        // As soon as it is the head.
        while let Ok(guard) = semaphore.acquire().try_in_turn() {
            drop(guard);
            thread::yield_now();
        }
        drop(semaphore.try_acquire().expect("a slot is free"));
        drop(guard);
        both.join().unwrap();
    });
}
