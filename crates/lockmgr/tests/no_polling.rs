//! Promise 4: waiting is the kernel's wait. Whoever waits, with a deadline, a token, in a queue or as
//! a task, sleeps: it does not wake up to look around, and uses no CPU.

mod support;

use std::path::Path;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, FileLock};
use support::roles::{HOLD, holder, release};
use support::tasks::{Activity, sleeps_in, system_calls_are_shown, this_thread, threads_of};
use support::{BOUND, Worker, eventually, hear, kernel_locks, say, serve, skip, wait_for_blocked};

#[test]
fn worker() {
    serve(&[HOLD, ("wait", wait), ("queue", queue), ("task", task)]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];
/// How long the waiters are watched. A poll that is too rare to be seen in this time would be useless.
const WATCHED: Duration = Duration::from_secs(2);
/// Nothing is due in the time of the test.
const FAR: Duration = Duration::from_secs(600);

fn open(path: impl AsRef<Path>, mechanism: &str) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).open(path).unwrap()
}

/// In the kernel; with a deadline, a token, both or neither.
fn wait(args: &[String]) {
    let lock = open(&args[0], &args[1]);
    let token = CancelToken::new();
    let mut acquire = lock.acquire();
    if args[2].contains("deadline") {
        acquire = acquire.timeout(FAR);
    }
    if args[2].contains("token") {
        acquire = acquire.cancel(&token);
    }
    say(this_thread());
    let guard = acquire.wait().unwrap();
    say("held");
    drop(guard);
}

/// Several threads in the queue of one handle, or behind each other with one handle each; only the
/// front one can wait in the kernel.
fn queue(args: &[String]) {
    let shared = open(&args[0], &args[1]);
    thread::scope(|scope| {
        for _ in 0..3 {
            let lock = if args[2] == "one" { shared.clone() } else { open(&args[0], &args[1]) };
            scope.spawn(move || {
                say(this_thread());
                drop(lock.lock_timeout(FAR).unwrap());
                say("held");
            });
        }
    });
}

/// Two tasks of one handle: one waits in the kernel, one in the queue, both with a deadline.
fn task(args: &[String]) {
    let lock = open(&args[0], &args[1]);
    let waiting = || lock.acquire().timeout(FAR).into_future();
    let (mut front, mut back) = (Box::pin(waiting()), Box::pin(waiting()));
    let mut context = Context::from_waker(Waker::noop());
    assert!(front.as_mut().poll(&mut context).is_pending());
    assert!(back.as_mut().poll(&mut context).is_pending());
    say(this_thread());
    hear();
    for future in [&mut front, &mut back] {
        eventually("it is ready", || match future.as_mut().poll(&mut context) {
            Poll::Ready(guard) => {
                drop(guard.unwrap());
                true
            }
            Poll::Pending => false,
        });
        say("held");
    }
}

/// A process that waits for a lock, and the one that holds it.
struct Scene {
    what: String,
    waiter: Worker,
    holder: Worker,
    path: std::path::PathBuf,
    mechanism: &'static str,
    /// How many acquisitions are to come.
    grants: usize,
}

impl Scene {
    fn new(
        dir: &Path,
        role: &str,
        mechanism: &'static str,
        how: &str,
        blocked: usize,
        grants: usize,
    ) -> Self {
        let what = format!("{role} {mechanism} {how}");
        let path = dir.join(what.replace(' ', "-"));
        let text = path.to_str().unwrap();
        let holder = holder(&[text, mechanism]);
        let waiter = Worker::spawn(role, &[text, mechanism, how]);
        wait_for_blocked(&path, blocked);
        Self { what, waiter, holder, path, mechanism, grants }
    }

    /// Every thread that says where it sleeps is in the right call.
    fn check_where_it_sleeps(&self) {
        let (call, command) = match self.mechanism {
            "flock" => (libc::SYS_flock, None),
            "ofd" => (libc::SYS_fcntl, Some(libc::F_OFD_SETLKW)),
            _ => (libc::SYS_fcntl, Some(libc::F_SETLKW)),
        };
        let locking = threads_of(self.waiter.pid())
            .into_iter()
            .filter_map(|thread| sleeps_in(self.waiter.pid(), thread))
            .filter(|[number, _, second]| {
                *number == call && command.is_none_or(|command| *second == i64::from(command))
            })
            .count();
        assert_eq!(locking, kernel_locks(&self.path).1, "{}", self.what);
    }
}

#[test]
fn waiters_sleep_until_it_is_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    let mut scenes = Vec::new();
    for mechanism in MECHANISMS {
        for how in ["plain", "deadline", "token", "deadline and token"] {
            scenes.push(Scene::new(dir.path(), "wait", mechanism, how, 1, 1));
        }
        scenes.push(Scene::new(dir.path(), "queue", mechanism, "one", 1, 3));
        let blocked = if mechanism == "posix" { 1 } else { 3 };
        scenes.push(Scene::new(dir.path(), "queue", mechanism, "each", blocked, 3));
        if mechanism != "posix" {
            scenes.push(Scene::new(dir.path(), "task", mechanism, "two", 1, 2));
        }
    }
    for scene in &scenes {
        for _ in 0..if scene.what.starts_with("queue") { 3 } else { 1 } {
            scene.waiter.next_line();
        }
    }
    let before: Vec<_> = scenes.iter().map(|scene| Activity::at_rest(scene.waiter.pid())).collect();
    if system_calls_are_shown() {
        scenes.iter().for_each(Scene::check_where_it_sleeps);
    } else {
        skip("this kernel does not say in which system call a thread sleeps");
    }

    // Meanwhile locks come and go elsewhere.
    let other = dir.path().join("other");
    let (one, two) = (FileLock::open(&other).unwrap(), FileLock::open(&other).unwrap());
    let start = Instant::now();
    thread::scope(|scope| {
        for lock in [&one, &two] {
            scope.spawn(move || {
                while start.elapsed() < WATCHED {
                    let guard = lock.lock_timeout(BOUND).unwrap();
                    thread::sleep(Duration::from_millis(1));
                    drop(guard);
                }
            });
        }
    });

    for (scene, before) in scenes.iter().zip(before) {
        assert_eq!(Activity::of(scene.waiter.pid()), before, "{}", scene.what);
    }
    for scene in &mut scenes {
        release(&mut scene.holder);
        if scene.what.starts_with("task") {
            scene.waiter.tell("go on");
        }
        for _ in 0..scene.grants {
            scene.waiter.expect("held");
        }
    }
}

/// What the test above measures is there to be seen: a process that does wake up is told apart.
#[test]
fn a_waiter_that_looks_around_would_be_noticed() {
    let pid = std::process::id();
    let before = Activity::of(pid);
    eventually("its wake-ups are counted", || Activity::of(pid) != before);
}
