//! On every filesystem there is a lock that works or an error that says why not, and a wait that ends
//! when it should: never a false success, never a hang.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::name::Scope;
use lockmgr::{
    CancelToken, Error, FileLock, FileLockOptions, LockMgr, LockSet, Mechanism, Mode, Semaphore,
};
use lockmgr_testfs::{Kind, Locks, Server, TestFs};
use support::roles::{HOLD, TRY, holder, others_get_it, release};
use support::tasks::{sleeps_in, state_of_thread, system_calls_are_shown, this_thread};
use support::users::chmod;
use support::{BOUND, Worker, eventually, hear, say, serve, skip};

#[test]
fn worker() {
    serve(&[HOLD, TRY, ("count", count), ("wait", wait), ("slot", slot), ("named", named)]);
}

#[test]
fn testfs() {
    lockmgr_testfs::serve();
}

const ALL: [Mechanism; 3] = [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix];

/// Long enough to be a wait, short enough to be waited for.
const SHORT: Duration = Duration::from_millis(60);

macro_rules! on_each_with_locks {
    ($($name:ident: $kind:expr;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn excludes() {
                on($kind, excludes_others);
            }

            #[test]
            fn counts() {
                on($kind, nobody_is_let_in_beside_another);
            }

            #[test]
            fn ends_waits() {
                on($kind, waits_end);
            }

            #[test]
            fn keeps_to_the_path() {
                on($kind, the_path_is_what_counts);
            }

            #[test]
            fn does_the_rest() {
                on($kind, what_is_made_of_locks_works);
            }

            #[test]
            fn carries_names() {
                on($kind, named_locks_work);
            }
        })*
    };
}

on_each_with_locks! {
    ext4: Kind::Ext4;
    xfs: Kind::Xfs;
    btrfs: Kind::Btrfs;
    tmpfs: Kind::Tmpfs;
    overlay: Kind::Overlay;
    fuse_local: Kind::Fuse(Locks::Local);
    fuse_served: Kind::Fuse(Locks::Served);
    fuse_hang: Kind::Fuse(Locks::Hang);
}

fn mounted(kind: Kind) -> Option<TestFs> {
    TestFs::mount(kind, &Server::of_test("testfs"))
        .inspect_err(|skipped| skip(&skipped.to_string()))
        .ok()
}

fn on(kind: Kind, check: impl Fn(&TestFs)) {
    if let Some(testfs) = mounted(kind) {
        check(&testfs);
    }
}

fn with(mechanism: Mechanism) -> FileLockOptions {
    FileLock::options().mechanism(mechanism)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn excludes_others(testfs: &TestFs) {
    for mechanism in ALL {
        let path = testfs.path().join(format!("{mechanism}.lock"));
        let args = [text(&path), &mechanism.to_string(), "exclusive"];
        let lock = with(mechanism).open(&path).unwrap();
        let mut other = holder(&args);
        assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })), "{mechanism}");
        assert!(matches!(lock.try_lock_shared(), Err(Error::Busy { .. })), "{mechanism}");
        release(&mut other);
        let guard = lock.try_lock().unwrap();
        assert!(!others_get_it(&args), "{mechanism}");
        assert!(!others_get_it(&[args[0], args[1], "shared"]), "{mechanism}");
        drop(guard);
        let guard = lock.lock_shared().unwrap();
        assert!(others_get_it(&[args[0], args[1], "shared"]), "{mechanism}");
        assert!(!others_get_it(&args), "{mechanism}");
        drop(guard);
        assert!(others_get_it(&args), "{mechanism}");

        let mut other = holder(&args);
        other.kill();
        drop(lock.lock_timeout(BOUND).unwrap());
    }
}

const PROCESSES: usize = 3;
const ROUNDS: usize = 40;

/// Each process adds to a number in a file, in steps that only a lock keeps together.
fn nobody_is_let_in_beside_another(testfs: &TestFs) {
    for mechanism in ALL {
        let path = testfs.path().join(format!("{mechanism}.lock"));
        let number = testfs.path().join(format!("{mechanism}.number"));
        fs::write(&number, "0").unwrap();
        let args = [text(&path), &mechanism.to_string(), text(&number)];
        let workers: Vec<_> = (0..PROCESSES).map(|_| Worker::spawn("count", &args)).collect();
        for worker in workers {
            worker.expect("counted");
            assert!(worker.finish().success());
        }
        assert_eq!(fs::read_to_string(&number).unwrap(), (PROCESSES * ROUNDS).to_string());
    }
}

fn count(args: &[String]) {
    let lock = with(args[1].parse().unwrap()).open(&args[0]).unwrap();
    for _ in 0..ROUNDS {
        let guard = lock.lock_timeout(BOUND).unwrap();
        let old: usize = fs::read_to_string(&args[2]).unwrap().parse().unwrap();
        thread::yield_now();
        fs::write(&args[2], (old + 1).to_string()).unwrap();
        drop(guard);
    }
    say("counted");
}

fn waits_end(testfs: &TestFs) {
    for mechanism in ALL {
        let path = testfs.path().join(format!("{mechanism}.lock"));
        let args = [text(&path), &mechanism.to_string(), "exclusive"];
        let lock = with(mechanism).open(&path).unwrap();
        let mut other = holder(&args);

        let start = Instant::now();
        let error = lock.lock_timeout(SHORT).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{mechanism}: {error}");
        assert!(start.elapsed() >= SHORT, "{mechanism}");

        let token = CancelToken::new();
        let (sender, thread) = channel();
        thread::scope(|scope| {
            let cancelled = scope.spawn(|| {
                sender.send(this_thread()).unwrap();
                lock.acquire().cancel(&token).wait().map(drop)
            });
            until_asleep(std::process::id(), thread.recv().unwrap());
            token.cancel();
            let error = cancelled.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Cancelled { .. }), "{mechanism}: {error}");
        });

        if mechanism != Mechanism::Posix {
            let error = smol::block_on(lock.acquire().timeout(SHORT).into_future()).unwrap_err();
            assert!(matches!(error, Error::TimedOut { .. }), "{mechanism}: {error}");
        }

        // Neither a deadline nor a token, and it can be killed all the same.
        let mut endless = Worker::spawn("wait", &args[..2]);
        let thread: i32 = endless.next_line().parse().unwrap();
        until_asleep(endless.pid(), thread);
        endless.kill();

        // A wait that is worth it.
        let mut waiting = Worker::spawn("wait", &args[..2]);
        let thread: i32 = waiting.next_line().parse().unwrap();
        until_asleep(waiting.pid(), thread);
        release(&mut other);
        waiting.expect("held");
        assert!(!others_get_it(&args), "{mechanism}");
        waiting.tell("release");
        assert!(waiting.finish().success());
    }
}

/// Says its thread, waits for ever, says `held`.
fn wait(args: &[String]) {
    let lock = with(args[1].parse().unwrap()).open(&args[0]).unwrap();
    say(this_thread());
    let guard = lock.lock().unwrap();
    say("held");
    hear();
    drop(guard);
}

/// Waits until the thread sleeps for a lock: in a lock call that waits, or between two attempts. (An
/// attempt sleeps too, where a server has to answer it.)
fn until_asleep(pid: u32, thread: i32) {
    eventually("the thread waits for the lock", || {
        if !system_calls_are_shown() {
            return state_of_thread(pid, thread) == Some('S');
        }
        sleeps_in(pid, thread).is_some_and(|[call, _, second]| match call {
            libc::SYS_flock => second & i64::from(libc::LOCK_NB) == 0,
            libc::SYS_nanosleep | libc::SYS_clock_nanosleep => true,
            libc::SYS_fcntl => {
                [libc::F_SETLKW, libc::F_OFD_SETLKW].map(i64::from).contains(&second)
            }
            _ => false,
        })
    });
}

fn the_path_is_what_counts(testfs: &TestFs) {
    for mechanism in ALL {
        let path = testfs.path().join(format!("{mechanism}.lock"));
        let args = [text(&path), &mechanism.to_string(), "exclusive"];
        let mut other = holder(&args);
        let mut waiting = Worker::spawn("wait", &args[..2]);
        let thread: i32 = waiting.next_line().parse().unwrap();
        until_asleep(waiting.pid(), thread);
        // Whoever comes now makes a new file, which is what the waiter has to get.
        fs::remove_file(&path).unwrap();
        let mut second = holder(&args);
        other.kill();
        assert!(!others_get_it(&args), "{mechanism}");
        release(&mut second);
        waiting.expect("held");
        assert!(!others_get_it(&args), "{mechanism}");
        waiting.tell("release");
        assert!(waiting.finish().success());

        let lock = with(mechanism).remove_on_release(true).open(&path).unwrap();
        let guard = lock.lock().unwrap();
        guard.unlock().unwrap();
        assert!(!path.exists(), "{mechanism}");
        let guard = lock.lock().unwrap();
        assert!(guard.still_current().unwrap() && !others_get_it(&args), "{mechanism}");
    }
}

fn what_is_made_of_locks_works(testfs: &TestFs) {
    let one_space = matches!(testfs.kind(), Kind::Fuse(Locks::Served | Locks::Hang));
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let path = testfs.path().join(format!("{mechanism}.lock"));
        let fair = with(mechanism).fair(true).open(&path);
        if one_space && mechanism == Mechanism::Flock {
            assert!(matches!(fair, Err(Error::Unsupported { .. })), "{fair:?}");
            continue;
        }
        let fair = fair.unwrap();
        let mut other = holder(&[text(&path), &format!("fair {mechanism}")]);
        assert!(matches!(fair.lock_timeout(SHORT), Err(Error::TimedOut { .. })));
        // The first in line is in the gate, this one before it.
        let mut first = Worker::spawn("wait", &[text(&path), &mechanism.to_string()]);
        first.next_line();
        assert!(matches!(fair.lock_timeout(SHORT), Err(Error::TimedOut { .. })));
        first.kill();
        release(&mut other);
        drop(fair.lock_timeout(BOUND).unwrap());
    }

    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let path = testfs.path().join(format!("{mechanism}.converted"));
        let args = [text(&path), &mechanism.to_string(), "shared"];
        let lock = with(mechanism).open(&path).unwrap();
        let mut guard = lock.lock().unwrap();
        guard.downgrade().unwrap();
        assert!(others_get_it(&args), "{mechanism}");
        guard.try_upgrade().unwrap();
        assert!(!others_get_it(&args), "{mechanism}");
    }

    let path = testfs.path().join("fenced.lock");
    let fenced = FileLock::options().fenced(true).note("why").open(&path).unwrap();
    let first = fenced.lock().unwrap().token().unwrap();
    let guard = fenced.lock().unwrap();
    assert!(guard.token().unwrap() > first && guard.not_recorded().is_none());
    drop(guard);

    let path = testfs.path().join("slots");
    let semaphore = Semaphore::open(&path, 2).unwrap();
    let slot = semaphore.acquire().wait().unwrap();
    let mut other = Worker::spawn("slot", &[text(&path)]);
    other.expect("held");
    assert!(matches!(semaphore.try_acquire(), Err(Error::Busy { .. })));
    assert!(matches!(semaphore.acquire_timeout(SHORT), Err(Error::TimedOut { .. })));
    other.kill();
    drop(semaphore.acquire_timeout(BOUND).unwrap());
    drop(slot);

    let [a, b] = ["a", "b"].map(|name| testfs.path().join(name));
    let locks = [&a, &b].map(|path| FileLock::open(path).unwrap());
    let set = LockSet::new().exclusive(&locks[0]).exclusive(&locks[1]);
    drop(set.lock().unwrap());
    let mut other = holder(&[text(&b), "flock", "exclusive"]);
    assert!(matches!(set.lock_timeout(SHORT), Err(Error::TimedOut { .. })));
    assert!(others_get_it(&[text(&a), "flock", "exclusive"]));
    release(&mut other);
    drop(set.lock().unwrap());

    let mut classic = LockMgr::new(&a);
    assert!(classic.acquire_lock(false, Duration::ZERO) && !others_get_it(&[text(&a), "flock"]));
    assert!(classic.release_lock() && others_get_it(&[text(&a), "flock"]));
}

/// The directory of named locks may lie anywhere.
fn named_locks_work(testfs: &TestFs) {
    let directory = Path::new("/run/lockmgr");
    fs::create_dir_all(directory).unwrap();
    // Seen from here and by what is started here, and gone with it.
    let bound = Command::new("mount").arg("--bind").arg(testfs.path()).arg(directory).status();
    assert!(bound.unwrap().success());
    chmod(directory, 0o700);
    let lock = FileLock::options().open_named("here", Scope::User).unwrap();
    assert_eq!(lock.path(), Some(directory.join("here.lock").as_path()));
    let guard = lock.lock().unwrap();
    assert!(testfs.path().join("here.lock").exists());
    let mut waiting = Worker::spawn("named", &["here"]);
    let thread: i32 = waiting.next_line().parse().unwrap();
    until_asleep(waiting.pid(), thread);
    drop(guard);
    waiting.expect("held");
    assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
    waiting.kill();
    drop(lock.lock_timeout(BOUND).unwrap());
}

fn named(args: &[String]) {
    let lock = FileLock::options().open_named(&args[0], Scope::User).unwrap();
    say(this_thread());
    let guard = lock.lock().unwrap();
    say("held");
    hear();
    drop(guard);
}

fn slot(args: &[String]) {
    let semaphore = Semaphore::open(&args[0], 2).unwrap();
    let guard = semaphore.acquire_timeout(BOUND).unwrap();
    say("held");
    hear();
    drop(guard);
}

/// Where there are no locks, every way of asking for one says so, and which.
#[test]
fn no_locks_are_no_success() {
    for (locks, errno) in [(Locks::NoSys, libc::ENOSYS), (Locks::NoLocks, libc::ENOLCK)] {
        on(Kind::Fuse(locks), |testfs| refuses(testfs.path(), locks, errno));
    }
}

fn refuses(dir: &Path, locks: Locks, errno: i32) {
    let clear = |error: &Error| {
        let told = error.to_string();
        if locks == Locks::NoSys {
            assert!(matches!(error, Error::Unsupported { .. }), "{told}");
            assert!(told.contains("this filesystem has no"), "{told}");
        } else {
            assert_eq!(error.raw_os_error(), Some(errno), "{told}");
            assert!(told.contains("the file server's lock service is down"), "{told}");
        }
        assert!(told.contains(text(dir)), "{told}");
    };
    for mechanism in ALL {
        let path = dir.join(format!("{mechanism}.lock"));
        let lock = with(mechanism).open(&path).unwrap();
        for mode in [Mode::Exclusive, Mode::Shared] {
            let acquire = || lock.acquire().mode(mode);
            clear(&acquire().try_now().unwrap_err());
            clear(&acquire().timeout(BOUND).wait().unwrap_err());
            clear(&acquire().cancel(&CancelToken::new()).wait().unwrap_err());
            clear(&acquire().wait().unwrap_err());
            if mechanism != Mechanism::Posix {
                clear(&smol::block_on(acquire().into_future()).unwrap_err());
            }
        }
        let removing = with(mechanism).remove_on_release(true).open(&path).unwrap();
        clear(&removing.lock().unwrap_err());
        assert!(path.exists());
    }
    let preferred = FileLock::options().prefer_fair(true).open(dir.join("flock.lock")).unwrap();
    clear(&preferred.lock().unwrap_err());
    clear(&FileLock::options().fair(true).open(dir.join("flock.lock")).unwrap_err());
    let fair = with(Mechanism::Ofd).fair(true).open(dir.join("ofd.lock")).unwrap();
    clear(&fair.lock().unwrap_err());
    let semaphore = Semaphore::open(dir.join("slots"), 2).unwrap();
    clear(&semaphore.try_acquire().unwrap_err());
    clear(&semaphore.acquire_timeout(BOUND).unwrap_err());
    let mut classic = LockMgr::new(dir.join("classic"));
    assert!(!classic.acquire_lock(true, BOUND));
    assert!(!classic.acquired() && classic.msg().contains("classic"), "{}", classic.msg());
}

/// The server dies under a holder and a waiter: neither goes on as if it had the lock.
#[test]
fn a_dead_server_is_an_error() {
    for locks in [Locks::Served, Locks::Hang] {
        on(Kind::Fuse(locks), |testfs| {
            let path = testfs.path().join("a.lock");
            let _other = holder(&[text(&path), "flock", "exclusive"]);
            let lock = FileLock::open(&path).unwrap();
            let server = testfs.server_pid().unwrap();
            let (sender, thread) = channel();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    sender.send(this_thread()).unwrap();
                    lock.lock_timeout(BOUND).map(drop)
                });
                until_asleep(std::process::id(), thread.recv().unwrap());
                support::send_signal(server, libc::SIGKILL);
                let error = waiter.join().unwrap().unwrap_err();
                assert!(matches!(error, Error::Io { .. }), "{locks:?}: {error}");
            });
        });
    }
}
