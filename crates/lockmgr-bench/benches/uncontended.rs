//! Locking when nobody else wants to: what the calls themselves cost.
//!
//! Every contender does the closest thing it has to "take the exclusive lock or fail, release it", on the
//! same file. They do not all do the same: lockmgr and fslock-guard check after locking that the path
//! still names the file that they have locked, which costs a system call, and the others do not. lockmgr
//! also keeps its threads apart, as named-lock does; with the others, two threads on one handle are both
//! let in, or the handle cannot be shared at all.
//!
//! The baseline makes its system calls as a C program does, through a function. Where rustix gets them
//! inlined, as into fd-lock, a pair can cost a quarter less: processors that guard against speculation
//! through returns pay for each return that follows a system call.
#![expect(clippy::disallowed_methods, reason = "the raw calls are what lockmgr is compared with")]

use std::hint::black_box;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use fslock_guard::LockFileGuard;
use lockmgr::{FileLock, Mechanism};
use lockmgr_bench::open_plain;
use named_lock::NamedLock;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, open, statat};

const FREE: &str = "nobody else has this lock";
const OPENED: &str = "the lock file is ours";

/// Adds one contender.
fn add(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut turn: impl FnMut()) {
    group.bench_function(name, |bencher| bencher.iter(&mut turn));
}

/// Locks or unlocks, as a C program does it.
#[inline(never)]
fn raw_flock(file: BorrowedFd<'_>, operation: FlockOperation) {
    flock(file, operation).expect(FREE);
}

/// Asks what the path names, as any path check has to.
fn stat(path: &Path) {
    black_box(statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).expect("the lock file is there"));
}

/// Lock and unlock on a handle that stays open.
fn kept(group: &mut BenchmarkGroup<'_, WallTime>, path: &Path) {
    let file = open_plain(path).expect(OPENED);
    add(group, "raw", || {
        raw_flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
        raw_flock(file.as_fd(), FlockOperation::Unlock);
    });
    add(group, "raw-stat", || {
        raw_flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
        stat(path);
        raw_flock(file.as_fd(), FlockOperation::Unlock);
    });

    let lock = FileLock::open(path).expect(OPENED);
    add(group, "lockmgr", || drop(lock.try_lock().expect(FREE)));
    // Checks once more that the path names the file, to be able to say so.
    add(group, "lockmgr-unlock", || {
        lock.try_lock().expect(FREE).unlock().expect("nobody has replaced the file");
    });
    add(group, "lockmgr-timeout", || {
        drop(lock.lock_timeout(Duration::from_secs(1)).expect(FREE));
    });

    let ofd = FileLock::options().mechanism(Mechanism::Ofd).open(path).expect(OPENED);
    add(group, "lockmgr-ofd", || drop(ofd.try_lock().expect(FREE)));

    add(group, "std", || {
        file.try_lock().expect(FREE);
        file.unlock().expect("it is locked");
    });

    let mut fd_lock = fd_lock::RwLock::new(open_plain(path).expect(OPENED));
    add(group, "fd-lock", || drop(fd_lock.try_write().expect(FREE)));

    let fs4 = open_plain(path).expect(OPENED);
    // Spelt out, because std's methods of the same name would win.
    add(group, "fs4", || {
        fs4::FileExt::try_lock(&fs4).expect(FREE);
        fs4::FileExt::unlock(&fs4).expect("it is locked");
    });

    let mut filelock = filelock::FileLock::new(path).expect(OPENED);
    add(group, "filelock", || {
        drop(filelock.try_lock().expect("locking works").expect(FREE));
    });

    let named_lock = NamedLock::with_path(path).expect(OPENED);
    add(group, "named-lock", || {
        drop(named_lock.try_lock().expect(FREE));
    });
}

/// Open, lock and close, on a file that exists.
fn once(group: &mut BenchmarkGroup<'_, WallTime>, path: &Path) {
    // Without O_CREAT, which the others have: the least that this can cost.
    let raw_open = || open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).expect(OPENED);
    add(group, "open", || drop(raw_open()));
    add(group, "raw", || {
        let file = raw_open();
        raw_flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
    });

    add(group, "raw-stat", || {
        let file = raw_open();
        raw_flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive);
        stat(path);
    });

    // Unlocks before it closes, as named-lock, fd-lock, filelock and fslock-guard do: the lock must not
    // live on in a descriptor that a child got by chance.
    add(group, "lockmgr", || {
        let lock = FileLock::open(path).expect(OPENED);
        drop(lock.try_lock().expect(FREE));
    });
    add(group, "lockmgr-unlock", || {
        let lock = FileLock::open(path).expect(OPENED);
        lock.try_lock().expect(FREE).unlock().expect("nobody has replaced the file");
    });
    add(group, "lockmgr-ofd", || {
        let lock = FileLock::options().mechanism(Mechanism::Ofd).open(path).expect(OPENED);
        drop(lock.try_lock().expect(FREE));
    });

    add(group, "fslock-guard", || {
        drop(LockFileGuard::try_lock(path).expect("locking works").expect(FREE));
    });
    add(group, "std", || {
        open_plain(path).expect(OPENED).try_lock().expect(FREE);
    });
    add(group, "fd-lock", || {
        let mut fd_lock = fd_lock::RwLock::new(open_plain(path).expect(OPENED));
        drop(fd_lock.try_write().expect(FREE));
    });
    add(group, "fs4", || {
        let fs4 = open_plain(path).expect(OPENED);
        fs4::FileExt::try_lock(&fs4).expect(FREE);
    });
    add(group, "filelock", || {
        let mut filelock = filelock::FileLock::new(path).expect(OPENED);
        drop(filelock.try_lock().expect("locking works").expect(FREE));
    });
    // Tries to create the file first, each time.
    add(group, "named-lock", || {
        let named_lock = NamedLock::with_path(path).expect(OPENED);
        drop(named_lock.try_lock().expect(FREE));
    });
}

/// Measures on a short path and on a deep one: a path check that walks the path pays for each folder.
fn uncontended(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let short = dir.path().join("uncontended.lock");
    let deep: PathBuf = dir.path().join("a/b/c/d/uncontended.lock");
    std::fs::create_dir_all(deep.parent().expect("it has folders")).expect("they can be made");

    for (depth, path) in [("short", &short), ("deep", &deep)] {
        open_plain(path).expect("the lock file can be made");
        let mut group = criterion.benchmark_group(format!("kept-{depth}"));
        kept(&mut group, path);
        group.finish();
        let mut group = criterion.benchmark_group(format!("once-{depth}"));
        once(&mut group, path);
        group.finish();
    }
}

criterion_group!(benches, uncontended);
criterion_main!(benches);
