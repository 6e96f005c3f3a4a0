//! Promise 3, the deliberate exception: a held lock moves to another process as a descriptor, and
//! is held by somebody at every moment in between.

mod support;

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use lockmgr::{Error, FileLock, Mechanism, Mode, OwnedFileLockGuard, Range};
use rustix::io::FdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use support::process::{inherited, is_alive};
use support::roles::others_get_it;
use support::{
    BOUND, Worker, eventually, hear, kernel_locks, raw, roles, say, serve, skip, wait_for_blocked,
};
use tempfile::TempDir;

#[test]
fn worker() {
    serve(&[
        roles::HOLD,
        roles::TRY,
        ("send", send),
        ("receive", receive),
        ("bequeath", bequeath),
        ("inherit", inherit),
    ]);
}

/// A lock file, and one of the locks that can move.
struct Scene {
    _dir: TempDir,
    path: PathBuf,
    words: [&'static str; 3],
}

impl Scene {
    /// `words`: mechanism, mode, range.
    fn new(words: [&'static str; 3]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        Self { _dir: dir, path, words }
    }

    fn all() -> impl Iterator<Item = Self> {
        [
            ["flock", "exclusive", "0"],
            ["flock", "shared", "0"],
            ["ofd", "exclusive", "0"],
            ["ofd", "shared", "0"],
            ["ofd", "exclusive", "100+10"],
        ]
        .into_iter()
        .map(Self::new)
    }

    fn args(&self) -> [&str; 4] {
        let [mechanism, mode, range] = self.words;
        [self.path.to_str().unwrap(), mechanism, mode, range]
    }

    /// Whether another process would get the same bytes exclusively now.
    fn is_free(&self) -> bool {
        let [path, mechanism, _, range] = self.args();
        let free = others_get_it(&[path, mechanism, "exclusive", range]);
        if range.contains('+') {
            assert!(others_get_it(&[path, mechanism, "exclusive", "0+100"]), "bytes before it");
            assert!(others_get_it(&[path, mechanism, "exclusive", "110"]), "bytes after it");
        } else if self.words[1] == "shared" {
            assert!(others_get_it(&[path, mechanism, "shared"]), "it is shared");
        }
        free
    }

    /// After a close, not an unlock: until it runs its program, a process that another test has just
    /// started has copies of all our descriptors.
    fn becomes_free(&self) {
        eventually("the lock is free", || self.is_free());
    }
}

fn open(args: &[String]) -> (FileLock, Mode) {
    let mut options = FileLock::options().mechanism(args[1].parse().unwrap());
    let range: Range = args[3].parse().unwrap();
    if range != Range::WHOLE {
        options = options.range(range);
    }
    let mode = if args[2] == "shared" { Mode::Shared } else { Mode::Exclusive };
    (options.open(&args[0]).unwrap(), mode)
}

fn acquire(args: &[String]) -> OwnedFileLockGuard {
    let (lock, mode) = open(args);
    lock.acquire().mode(mode).wait_owned().unwrap()
}

fn describe(guard: &OwnedFileLockGuard) -> String {
    assert!(guard.is_held() && guard.still_current().unwrap());
    assert_eq!(guard.path(), None);
    format!("{} {}", guard.mechanism(), guard.mode())
}

#[test]
fn a_lock_travels_through_a_unix_socket() {
    for scene in Scene::all() {
        let socket = scene.path.with_extension("socket");
        let mut receiver = Worker::spawn("receive", &[socket.to_str().unwrap()]);
        receiver.expect("listening");
        let [path, mechanism, mode, range] = scene.args();
        let args = [path, mechanism, mode, range, socket.to_str().unwrap()];
        let mut sender = Worker::spawn("send", &args);
        sender.expect("sent");
        assert!(!scene.is_free(), "the sender still has its descriptor");
        sender.kill();
        assert!(!scene.is_free(), "it is on its way, in the socket");
        receiver.tell("receive");
        receiver.expect(&format!("{mechanism} {mode}"));
        assert!(!scene.is_free(), "the receiver has it");
        receiver.tell("release");
        receiver.expect("released");
        assert!(scene.is_free());
    }
}

#[test]
fn a_receiver_that_is_killed_frees_it() {
    for scene in Scene::all() {
        let socket = scene.path.with_extension("socket");
        let mut receiver = Worker::spawn("receive", &[socket.to_str().unwrap()]);
        receiver.expect("listening");
        let [path, mechanism, mode, range] = scene.args();
        let args = [path, mechanism, mode, range, socket.to_str().unwrap()];
        let mut sender = Worker::spawn("send", &args);
        sender.expect("sent");
        sender.tell("let go");
        sender.expect("let go");
        receiver.tell("receive");
        receiver.next_line();
        let waiter = Worker::spawn("hold", &[path, mechanism, "exclusive", range]);
        wait_for_blocked(&scene.path, 1);
        receiver.kill();
        waiter.expect("held");
        assert!(is_alive(sender.pid()));
    }
}

/// Sends the lock to the socket.
fn send(args: &[String]) {
    let fd = acquire(args).into_fd().unwrap();
    let stream = UnixStream::connect(&args[4]).unwrap();
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(&stream, &[IoSlice::new(b"lock")], &mut control, SendFlags::empty()).unwrap();
    say("sent");
    hear();
    drop(fd);
    say("let go");
    hear();
}

/// Receives a lock from the socket and adopts it.
fn receive(args: &[String]) {
    let listener = UnixListener::bind(&args[0]).unwrap();
    say("listening");
    hear();
    let (stream, _) = listener.accept().unwrap();
    let mut text = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let guard = OwnedFileLockGuard::adopt(fd.unwrap()).unwrap();
    say(describe(&guard));
    hear();
    guard.unlock().unwrap();
    say("released");
    hear();
}

#[test]
fn a_lock_is_inherited_by_the_child_that_is_meant_to_have_it() {
    for scene in Scene::all() {
        let mut parent = Worker::spawn("bequeath", &scene.args());
        parent.expect(&scene.words[..2].join(" "));
        let child: u32 = parent.next_line().parse().unwrap();
        parent.kill();
        assert!(!scene.is_free());
        // The child has the same standard input.
        parent.tell("release");
        scene.becomes_free();
        assert!(is_alive(child));
    }
}

/// Gives the lock to a child.
fn bequeath(args: &[String]) {
    let fd = acquire(args).into_fd().unwrap();
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    let child = Worker::spawn_with("inherit", &[&fd.as_raw_fd().to_string()], |command| {
        command.stdin(Stdio::inherit());
    });
    drop(fd);
    say(child.next_line());
    say(child.pid());
    thread::park();
}

fn inherit(args: &[String]) {
    let guard = OwnedFileLockGuard::adopt(inherited(args[0].parse().unwrap())).unwrap();
    say(describe(&guard));
    hear();
    guard.unlock().unwrap();
    hear();
}

#[test]
fn a_lock_that_flock_took_is_adopted() {
    for (flag, mode) in [("-x", Mode::Exclusive), ("-s", Mode::Shared)] {
        let scene = Scene::new(["flock", if flag == "-s" { "shared" } else { "exclusive" }, "0"]);
        let file = File::create(&scene.path).unwrap();
        // On its standard input it has our own open file description.
        let mut flock = Command::new("flock");
        match flock.args([flag, "0"]).stdin(file.try_clone().unwrap()).status() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return skip("needs flock(1)");
            }
            status => assert!(status.unwrap().success()),
        }
        assert!(!scene.is_free());
        let guard = OwnedFileLockGuard::adopt(OwnedFd::from(file)).unwrap();
        assert_eq!(guard.mode(), mode);
        assert_eq!(describe(&guard), scene.words[..2].join(" "));
        guard.unlock().unwrap();
        assert!(scene.is_free());
    }
}

#[test]
fn what_holds_no_lock_is_not_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let file = File::create(&path).unwrap();
    let copy = || OwnedFd::from(file.try_clone().unwrap());
    let not_held = |fd| matches!(OwnedFileLockGuard::adopt(fd), Err(Error::NotHeld { .. }));
    assert!(not_held(copy()));
    assert!(not_held(OwnedFd::from(UnixStream::pair().unwrap().0)));
    // Somebody else's lock on the same file.
    let elsewhere = FileLock::open(&path).unwrap();
    let guard = elsewhere.lock().unwrap();
    assert!(not_held(copy()));
    drop(guard);
    // A lock of the process is not the descriptor's.
    let posix = FileLock::options().mechanism(Mechanism::Posix).open(&path).unwrap();
    let guard = posix.lock().unwrap();
    assert!(not_held(OwnedFd::from(posix_file(&path))));
    drop(guard);
    // Which of several?
    let lock_bytes = |start| {
        let options =
            FileLock::options().mechanism(Mechanism::Ofd).range(Range::new(start, 1).unwrap());
        options.from_file(file.try_clone().unwrap()).unwrap()
    };
    let (first, second) = (lock_bytes(0), lock_bytes(10));
    let guards = (first.lock().unwrap(), second.lock().unwrap());
    assert!(matches!(OwnedFileLockGuard::adopt(copy()), Err(Error::Unsupported { .. })));
    assert!(guards.0.is_held() && guards.1.is_held());
    drop(guards);
    assert!(not_held(copy()));
}

#[test]
fn a_foreign_lock_beyond_all_of_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock_bytes = |bytes| {
        let file = File::create(&path).unwrap();
        raw::take_lock(file.as_raw_fd(), Mechanism::Ofd, Mode::Exclusive, bytes, false).unwrap();
        file
    };
    let beyond = i64::try_from(Range::LIMIT).unwrap();
    for bytes in [(beyond + 10, 0), (beyond, 0), (beyond, 1), (beyond + 10, 5)] {
        let file = lock_bytes(bytes);
        let copy = OwnedFd::from(file.try_clone().unwrap());
        let error = OwnedFileLockGuard::adopt(copy).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{bytes:?}: {error}");
        assert!(error.to_string().contains("2^62"), "{error}");
        assert_eq!(kernel_locks(&path).0, 1, "{bytes:?}: it is still held");
    }
    // One that reaches there from below loses that part, which no lock of ours has.
    let guard = OwnedFileLockGuard::adopt(OwnedFd::from(lock_bytes((beyond - 1, 0)))).unwrap();
    assert_eq!(kernel_locks(&path).0, 1);
    guard.unlock().unwrap();
    assert_eq!(kernel_locks(&path).0, 0);
}

fn posix_file(path: &Path) -> File {
    fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn the_handle_is_another_party_afterwards() {
    for scene in Scene::all() {
        let args = scene.args().map(String::from);
        let (lock, mode) = open(&args);
        let fd = lock.acquire().mode(mode).wait_owned().unwrap().into_fd().unwrap();
        assert!(matches!(lock.try_lock(), Err(Error::Busy { .. })));
        assert_eq!(lock.try_lock_shared().is_ok(), mode == Mode::Shared);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| lock.lock_timeout(BOUND).unwrap().unlock().unwrap());
            wait_for_blocked(&scene.path, 1);
            drop(fd);
            waiter.join().unwrap();
        });
        assert!(scene.is_free());
    }
}

#[test]
fn those_who_queue_at_the_handle_then_wait_for_the_new_holder() {
    for scene in Scene::all() {
        let (lock, mode) = open(&scene.args().map(String::from));
        let guard = lock.acquire().mode(mode).wait_owned().unwrap();
        thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let (lock, path) = (&lock, &scene.path);
            let waiter = scope.spawn(move || {
                sender.send(support::tasks::this_thread()).unwrap();
                lock.lock_timeout(BOUND).unwrap().unlock().unwrap();
            });
            support::tasks::wait_until_queued(receiver.recv().unwrap());
            let fd = guard.into_fd().unwrap();
            wait_for_blocked(path, 1);
            let guard = OwnedFileLockGuard::adopt(fd).unwrap();
            guard.unlock().unwrap();
            waiter.join().unwrap();
        });
    }
}

#[test]
fn a_file_that_the_program_brought_goes_with_its_lock() {
    let scene = Scene::new(["flock", "exclusive", "0"]);
    fs::write(&scene.path, "data").unwrap();
    let lock = FileLock::from_file(File::open(&scene.path).unwrap()).unwrap();
    let fd = lock.acquire().wait_owned().unwrap().into_fd().unwrap();
    assert!(matches!(lock.try_lock(), Err(Error::Unsupported { .. })));
    let guard = OwnedFileLockGuard::adopt(fd).unwrap();
    let mut text = String::new();
    guard.file().read_to_string(&mut text).unwrap();
    assert_eq!(text, "data");
    assert!(!scene.is_free());
    drop(guard);
    assert!(scene.is_free());
}

#[test]
fn the_descriptor_is_inherited_by_nobody_unasked() {
    for scene in Scene::all() {
        let fd = acquire(&scene.args().map(String::from)).into_fd().unwrap();
        assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(FdFlags::CLOEXEC));
        assert!(fd.as_raw_fd() > 2);
        drop(fd);
        scene.becomes_free();
    }
}

#[test]
fn an_adopted_lock_is_released_whatever_copies_there_are() {
    for scene in Scene::all() {
        for explicitly in [false, true] {
            let fd = acquire(&scene.args().map(String::from)).into_fd().unwrap();
            let _copy = fd.try_clone().unwrap();
            let guard = OwnedFileLockGuard::adopt(fd).unwrap();
            assert!(!scene.is_free());
            if explicitly {
                guard.unlock().unwrap();
            } else {
                drop(guard);
            }
            assert!(scene.is_free());
        }
    }
}

#[test]
fn an_adopted_lock_changes_its_mode() {
    for mechanism in ["flock", "ofd"] {
        let scene = Scene::new([mechanism, "exclusive", "0"]);
        let [path, ..] = scene.args();
        let fd = acquire(&scene.args().map(String::from)).into_fd().unwrap();
        let mut guard = OwnedFileLockGuard::adopt(fd).unwrap();
        guard.downgrade().unwrap();
        assert_eq!(guard.mode(), Mode::Shared);
        assert!(others_get_it(&[path, mechanism, "shared"]));
        assert!(!scene.is_free());
        guard.try_upgrade().unwrap();
        assert!(!others_get_it(&[path, mechanism, "shared"]));
        // And can go on travelling.
        let guard = OwnedFileLockGuard::adopt(guard.into_fd().unwrap()).unwrap();
        assert!(!scene.is_free());
        drop(guard);
        assert!(scene.is_free());
    }
}

#[test]
fn a_posix_lock_cannot_move() {
    let scene = Scene::new(["posix", "exclusive", "0"]);
    let guard = acquire(&scene.args().map(String::from));
    assert!(!scene.is_free());
    assert!(matches!(guard.into_fd(), Err(Error::Unsupported { .. })));
    assert!(scene.is_free(), "it is released then");
}

#[test]
fn a_hold_that_is_shared_inside_the_process_cannot_move() {
    for mechanism in ["flock", "ofd"] {
        let scene = Scene::new([mechanism, "shared", "0"]);
        let (lock, _) = open(&scene.args().map(String::from));
        let (one, two) =
            (lock.acquire().shared().wait_owned(), lock.acquire().shared().wait_owned());
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(matches!(one.into_fd(), Err(Error::Unsupported { .. })));
        assert!(!scene.is_free(), "the other guard has it");
        let fd = two.into_fd().unwrap();
        assert!(!scene.is_free());
        drop(fd);
        scene.becomes_free();
    }
}

#[test]
fn a_hold_that_another_thread_is_about_to_share_cannot_move() {
    for mechanism in ["flock", "ofd"] {
        let scene = Scene::new([mechanism, "shared", "0"]);
        let options = FileLock::options().mechanism(mechanism.parse().unwrap()).fair(true);
        let lock = options.open(&scene.path).unwrap();
        let guard = lock.acquire().shared().wait_owned().unwrap();
        // Stands in the gate until the hold ends.
        let fair = format!("fair {mechanism}");
        let mut writer = Worker::spawn("hold", &[scene.path.to_str().unwrap(), &fair]);
        wait_for_blocked(&scene.path, 1);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(lock.lock_shared_timeout(BOUND).unwrap()));
            wait_for_blocked(&scene.path, 2);
            // Its wait is on the very description that would be handed over, and would keep it.
            assert!(matches!(guard.into_fd(), Err(Error::Unsupported { .. })));
            writer.expect("held");
            roles::release(&mut writer);
            waiter.join().unwrap();
        });
        assert!(scene.is_free());
    }
}
