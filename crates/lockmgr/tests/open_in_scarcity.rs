//! Promises 2 and 8, where the machine has run out of something: one clear line, nothing left
//! behind, and no descriptor that is taken for a standard stream.

mod support;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;

use lockmgr::{CancelToken, Error, FileLock, LockMgr, Mechanism};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::probe::{self, hex, probe, told};
use support::users::{can_mount, in_namespace};
use support::{Worker, alone, say, serve};

#[test]
fn worker() {
    serve(&[
        ("probe", probe::run),
        ("few descriptors", few_descriptors),
        ("no standard streams", no_standard_streams),
    ]);
}

#[test]
fn no_space_left() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // One inode is the root directory, one is there.
    let setup = format!(
        "mount -t tmpfs -o nr_inodes=2 none '{0}'; touch '{0}/there.lock'",
        dir.path().display()
    );
    let probe = |path: &Path, words: &str| {
        let worker = Worker::spawn_with("probe", &[&hex(path), words], |command| {
            in_namespace(command, &setup);
        });
        let outcome = worker.next_line();
        assert!(worker.finish().success());
        outcome
    };
    let full = "PATH: cannot create: No space left on device (os error 28)";
    for words in ["", "ofd", "try", "mode=600"] {
        assert_eq!(probe(&dir.path().join("new.lock"), words), format!("Io: {full}"));
    }
    // What is there needs no space.
    for words in ["", "ofd", "posix", "shared"] {
        assert_eq!(probe(&dir.path().join("there.lock"), words), "held", "{words}");
    }
}

/// Takes all descriptors that the limit allows.
fn use_up() -> Vec<File> {
    let mut taken = Vec::new();
    loop {
        match File::open("/dev/null") {
            Ok(file) => taken.push(file),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
                return taken;
            }
        }
    }
}

const TOO_MANY: &str = "Io: PATH: cannot open: Too many open files (os error 24)";

fn few_descriptors(args: &[String]) {
    let dir = Path::new(&args[0]);
    let limit = Rlimit { current: Some(40), ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let busy = FileLock::open(dir.join("busy.lock")).unwrap();
    let _busy = busy.acquire().wait_owned().unwrap();

    for mechanism in [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix] {
        let path = dir.join(mechanism.to_string());
        let options = FileLock::options().mechanism(mechanism);
        let kept = options.open(&path).unwrap();
        let lazy = options.open_lazy(&path).unwrap();
        let mut classic = LockMgr::new(dir.join("classic.lock"));
        assert!(classic.acquire_lock(false, support::BOUND));
        let waiter = FileLock::open(dir.join("busy.lock")).unwrap();

        let taken = use_up();
        assert_eq!(told(&options.open(&path).unwrap_err(), &path), TOO_MANY);
        assert_eq!(told(&lazy.lock().unwrap_err(), &path), TOO_MANY);
        assert_eq!(told(&lazy.try_lock_shared().unwrap_err(), &path), TOO_MANY);
        // A handle whose file is open needs none.
        for _ in 0..3 {
            drop(kept.lock().unwrap());
            kept.lock_timeout(support::BOUND).unwrap().unlock().unwrap();
        }
        // Neither does waiting, nor its end.
        let limit = std::time::Duration::from_millis(5);
        let cancel = CancelToken::new();
        let error = waiter.acquire().timeout(limit).cancel(&cancel).wait_owned().unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        // The lock is released even where its file cannot be removed, and that is told.
        assert!(classic.release_lock());
        assert_eq!(
            classic.msg().replace(dir.to_str().unwrap(), "DIR"),
            "success: lock released, but DIR/classic.lock: cannot remove the lock file: Too many \
             open files (os error 24)"
        );
        drop(taken);

        drop(lazy.lock().unwrap());
        assert_eq!(support::kernel_locks(&path), (0, 0));
        assert_eq!(support::kernel_locks(&dir.join("classic.lock")), (0, 0));
        assert!(classic.acquire_lock(false, support::BOUND), "{}", classic.msg());
        assert!(classic.release_lock());
        assert_eq!(classic.msg(), "success: lock released");
    }
}

#[test]
fn no_descriptor_left() {
    let dir = tempfile::tempdir().unwrap();
    alone("few descriptors", &[dir.path().to_str().unwrap()]);
    // Not even for the one that opens the lock file; the process itself needs a few to start.
    assert_eq!(probe(&dir.path().join("a.lock"), "files=3"), TOO_MANY);
}

/// Closes a standard stream.
fn close(stream: i32) {
    // SAFETY: nobody in this process uses the stream: its one thread is here.
    #[expect(unsafe_code, reason = "closing a standard stream is the very thing to be tried")]
    let owned = unsafe { OwnedFd::from_raw_fd(stream) };
    drop(owned);
}

fn no_standard_streams(args: &[String]) {
    let dir = Path::new(&args[0]);
    let [kept_in, kept_out] = [
        rustix::io::fcntl_dupfd_cloexec(io::stdin(), 100).unwrap(),
        rustix::io::fcntl_dupfd_cloexec(io::stdout(), 100).unwrap(),
    ];
    let (mut lowest, mut listing) = (i32::MAX, Vec::new());
    (0..3).for_each(close);
    for mechanism in [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix] {
        let path = dir.join(mechanism.to_string());
        let lock = FileLock::options().mechanism(mechanism).open(&path).unwrap();
        drop(lock.lock().unwrap());
        // Now with the directory that the quick check keeps open.
        let guard = lock.lock().unwrap();
        lowest = lowest.min(guard.file().as_raw_fd());
        listing.extend((0..3).filter_map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).ok()));
        drop(guard);
    }
    let mut classic = LockMgr::new(dir.join("classic.lock"));
    assert!(classic.acquire_lock(false, support::BOUND));
    assert!(classic.release_lock());
    // The lowest free numbers: the standard streams must be free still.
    let back = [&kept_in, &kept_out, &kept_out].map(|kept| rustix::io::dup(kept).unwrap());
    assert_eq!(back.map(IntoRawFd::into_raw_fd), [0, 1, 2]);
    // While `/proc/self/fd` is read it is open itself, as 0.
    listing.retain(|target| target.starts_with(dir));
    say(format!("{lowest} {listing:?}"));
}

#[test]
fn closed_standard_streams_are_not_replaced_by_lock_files() {
    let dir = tempfile::tempdir().unwrap();
    let worker = Worker::spawn("no standard streams", &[dir.path().to_str().unwrap()]);
    let line = worker.next_line();
    let (lowest, open) = line.split_once(' ').unwrap();
    assert!(lowest.parse::<i32>().unwrap() > 2, "{line}");
    assert_eq!(open, "[]");
    assert!(worker.finish().success());
}
