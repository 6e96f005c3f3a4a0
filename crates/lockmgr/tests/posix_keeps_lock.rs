//! Promise 8, for `posix` locks, which the kernel drops when the process closes any descriptor of the
//! file: no close of the library's does, and none that it puts off for their sake costs anybody
//! anything.

mod support;

use std::fs::{self, File};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use lockmgr::inspect::{self, Record};
use lockmgr::{
    Error, FileLock, FileLockOptions, Mechanism, Mode, OwnedFileLockGuard, Range, Semaphore,
};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use support::roles::others_get_it;
use support::{alone, descriptor_count, kernel_locks, raw, roles, serve};

#[test]
fn worker() {
    serve(&[
        roles::TRY,
        ("close a stream", close_a_stream),
        ("sync the directory", sync_the_directory),
        ("refuse descriptors", refuse_descriptors),
        ("hand over", hand_over),
        ("come and go", come_and_go),
        ("give a slot back", give_a_slot_back),
        ("read from the start", read_from_the_start),
    ]);
}

/// What becomes of the lock file, and of a descriptor.
type Opens = fn(&Path);
type Refuses = fn(File);

fn posix() -> FileLockOptions {
    FileLock::options().mechanism(Mechanism::Posix)
}

/// Runs a role with the path of a lock file that is there.
fn alone_with_a_file(role: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    fs::write(&path, "").unwrap();
    alone(role, &[path.to_str().unwrap()]);
}

#[test]
fn a_closed_standard_stream_costs_no_lock() {
    alone_with_a_file("close a stream");
}

/// What opens the lock file gets the number of a stream that is closed, and cannot stay there.
fn close_a_stream(args: &[String]) {
    let path = Path::new(&args[0]);
    let openers: [(&str, Opens); 6] = [
        ("posix", |path| drop(posix().open(path).unwrap())),
        ("flock", |path| drop(FileLock::open(path).unwrap())),
        ("fair", |path| drop(FileLock::options().fair(true).open(path).unwrap().lock().unwrap())),
        ("note", |path| drop(FileLock::options().note("x").open(path).unwrap().lock().unwrap())),
        ("record", |path| drop(Record::of_lock(path))),
        ("success", |path| assert_eq!(inspect::last_success(path), None)),
    ];
    let lock = posix().open(path).unwrap();
    for stream in 0..2 {
        let kept = raw::duplicate(stream);
        for (name, open) in openers {
            let guard = lock.lock().unwrap();
            raw::close(stream);
            open(path);
            // The lowest number that is free: nothing of ours is there.
            assert_eq!(raw::duplicate(kept), stream, "{name}");
            assert!(!others_get_it(&[&args[0], "posix"]), "{name}: the lock is lost");
            guard.unlock().unwrap();
            assert!(others_get_it(&[&args[0], "posix"]), "{name}");
        }
    }
}

#[test]
fn a_lock_on_the_directory_outlasts_a_durable_record() {
    alone_with_a_file("sync the directory");
}

fn sync_the_directory(args: &[String]) {
    let directory = Path::new(&args[0]).parent().unwrap();
    let held = posix().open(directory).unwrap();
    let guard = held.lock_shared().unwrap();
    let locks = || kernel_locks(directory).0;
    assert_eq!(locks(), 1);
    let durable = FileLock::options().fenced(true).durable(true).open(&args[0]).unwrap();
    drop(durable.lock().unwrap());
    assert_eq!(locks(), 1, "the lock is lost");
    drop(guard);
    assert_eq!(locks(), 0);
}

#[test]
fn a_refused_descriptor_costs_no_lock() {
    alone_with_a_file("refuse descriptors");
}

fn refuse_descriptors(args: &[String]) {
    let path = Path::new(&args[0]);
    let lock = posix().open(path).unwrap();
    let refusals: [(&str, Refuses); 3] = [
        ("adopt", |file| {
            let error = OwnedFileLockGuard::adopt(OwnedFd::from(file)).unwrap_err();
            assert!(matches!(error, Error::NotHeld { .. }), "{error}");
        }),
        ("record", |file| drop(FileLock::options().note("x").from_file(file).unwrap_err())),
        ("remove", |file| {
            drop(FileLock::options().remove_on_release(true).from_file(file).unwrap_err());
        }),
    ];
    for (name, refuse) in refusals {
        let guard = lock.lock().unwrap();
        let file = File::open(path).unwrap();
        let number = file.as_raw_fd();
        refuse(file);
        assert!(!others_get_it(&[&args[0], "posix"]), "{name}: the lock is lost");
        guard.unlock().unwrap();
        // Nor does it stay open for longer.
        assert!(!Path::new(&format!("/proc/self/fd/{number}")).exists(), "{name}");
    }
}

#[test]
fn what_is_handed_over_beside_it_goes_with_the_receiver() {
    alone_with_a_file("hand over");
}

/// While the process has a `posix` lock on the same file, no descriptor of it can be closed.
fn hand_over(args: &[String]) {
    let path = Path::new(&args[0]);
    let apart = posix().range(Range::new(1000, 1).unwrap()).open(path).unwrap();
    let beside = apart.lock().unwrap();
    let first = Range::new(0, 1).unwrap();
    let ofd = FileLock::options().mechanism(Mechanism::Ofd).range(first);
    for (name, options) in [
        ("flock", FileLock::options()),
        ("flock", FileLock::options().writable(true)),
        ("ofd", ofd.clone()),
    ] {
        let words = [args[0].as_str(), name, "exclusive", if name == "ofd" { "0+1" } else { "0" }];
        for shared in [false, true] {
            let lock = options.open(path).unwrap();
            let acquire = if shared { lock.acquire().shared() } else { lock.acquire() };
            let fd = acquire.wait_owned().unwrap().into_fd().unwrap();
            drop(lock);
            assert!(!others_get_it(&words), "{name}");
            drop(fd);
            assert!(others_get_it(&words), "{name}: nobody has it any more");
        }
    }
    let brought = File::options().read(true).write(true).open(path).unwrap();
    let lock = ofd.from_file(brought).unwrap();
    drop(lock.acquire().wait_owned().unwrap().into_fd().unwrap());
    assert!(others_get_it(&[&args[0], "ofd", "exclusive", "0+1"]));
    drop(lock);

    let semaphore = Semaphore::open(path, 1).unwrap();
    let fd = semaphore.try_acquire().unwrap().into_fd().unwrap();
    assert!(semaphore.try_acquire().is_err());
    drop(fd);
    semaphore.try_acquire().expect("nobody has the slot any more").release().unwrap();
    drop(beside);
}

#[test]
fn handles_of_all_kinds_come_and_go_beside_it() {
    alone_with_a_file("come and go");
}

/// A handle of every kind, opened and dropped over and over, costs so many descriptors and no more.
fn come_and_go(args: &[String]) {
    let path = Path::new(&args[0]);
    let options = FileLock::options;
    let apart = posix().range(Range::new(1000, 1).unwrap());
    let first = Range::new(0, 1).unwrap();
    let ofd = options().mechanism(Mechanism::Ofd).range(first);
    let kinds = [
        options(),
        options().writable(true),
        options().fair(true),
        options().note("x"),
        ofd.clone().fair(true),
        ofd,
        posix().range(first),
    ];
    let visit = || {
        for kind in &kinds {
            drop(kind.open(path).unwrap().lock().unwrap());
            drop(kind.open(path).unwrap().lock_shared().unwrap());
            drop(Record::of_lock(path));
        }
        let semaphore = Semaphore::open(path, 2).unwrap();
        drop([semaphore.try_acquire().unwrap(), semaphore.try_acquire().unwrap()]);
    };
    let before = descriptor_count();
    let lock = apart.open(path).unwrap();
    let guard = lock.lock().unwrap();
    visit();
    let first_time = descriptor_count();
    for _ in 0..100 {
        visit();
    }
    assert_eq!(descriptor_count(), first_time, "descriptors pile up");
    assert_eq!(kernel_locks(path), (1, 0), "nothing is locked on those that wait for their close");
    guard.unlock().unwrap();
    drop(lock);
    assert_eq!(descriptor_count(), before);
}

#[test]
fn a_descriptor_that_is_used_again_begins_at_the_start() {
    alone_with_a_file("read from the start");
}

fn read_from_the_start(args: &[String]) {
    let path = Path::new(&args[0]);
    let beside = posix().range(Range::new(1000, 1).unwrap()).open(path).unwrap();
    let guard = beside.lock().unwrap();
    for text in ["first", "other"] {
        let lock = FileLock::options().writable(true).open(path).unwrap();
        lock.lock().unwrap().file().write_all(text.as_bytes()).unwrap();
    }
    drop(guard);
    assert_eq!(fs::read_to_string(path).unwrap(), "other");
}

#[test]
fn a_slot_that_is_given_back_beside_it_is_told_of() {
    alone_with_a_file("give a slot back");
}

/// The head of the queue watches the file for closes, and this one is put off.
fn give_a_slot_back(args: &[String]) {
    let path = Path::new(&args[0]);
    let beside = posix().range(Range::new(1000, 1).unwrap()).open(path).unwrap();
    let _held = beside.lock().unwrap();
    let semaphore = Semaphore::open(path, 1).unwrap();
    let guard = semaphore.try_acquire().unwrap();
    // A real head could find the slot by itself before it is told.
    let head = File::options().write(true).open(path).unwrap();
    let queue = (i64::try_from(Range::LIMIT).unwrap() + 1, 1);
    raw::take_lock(head.as_raw_fd(), Mechanism::Ofd, Mode::Exclusive, queue, false).unwrap();
    let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, path, WatchFlags::ATTRIB | WatchFlags::CLOSE_WRITE).unwrap();
    guard.release().unwrap();
    let mut buffer = [MaybeUninit::uninit(); 1024];
    inotify::Reader::new(&watch, &mut buffer).next().expect("the release was told of");
}
