//! Promise 2, where not everything is allowed: whatever can be locked with the rights that there
//! are is locked, and the rest is refused in one line that says which right is missing.

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::thread;
use std::time::Duration;

use lockmgr::{FileLock, OwnedFileLockGuard};
use support::probe::{self, hex, probe, start};
use support::users::{
    can_mount, can_play_users, chmod, in_namespace, mode_of, new_user, public_dir,
};
use support::{Worker, serve, skip};

#[test]
fn worker() {
    serve(&[("probe", probe::run)]);
}

/// What an outcome says of a right that is missing: the reason, without the kernel's words.
fn refused(outcome: &str) -> &str {
    let (_, reason) = outcome.split_once("Permission: PATH: ").expect(outcome);
    reason.split_once(" (os error").expect(outcome).0
}

#[test]
fn a_file_that_can_only_be_read() {
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o755);
    let path = dir.path().join("a.lock");
    fs::write(&path, "root's\n").unwrap();
    chmod(&path, 0o444);
    let somebody = format!("user={}", new_user());
    for words in ["flock", "flock shared", "ofd shared", "posix shared"] {
        assert_eq!(probe(&path, &format!("{somebody} {words}")), "held", "{words}");
    }
    for mechanism in ["ofd", "posix"] {
        assert_eq!(
            refused(&probe(&path, &format!("{somebody} {mechanism}"))),
            "cannot lock: an exclusive record lock needs a lock file that can be written; flock \
             does not: Bad file descriptor"
        );
    }
    // It is a real lock: users exclude each other through a file that neither can write.
    let holder = start(&path, &format!("user={} hold", new_user()));
    holder.expect("held");
    let outcome = probe(&path, &format!("{somebody} try"));
    assert!(outcome.starts_with(&format!("Busy: PATH is busy, held by pid {} (", holder.pid())));
    assert_eq!(fs::read_to_string(&path).unwrap(), "root's\n");
}

#[test]
fn a_file_that_can_only_be_written() {
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o755);
    let path = dir.path().join("a.lock");
    fs::write(&path, "").unwrap();
    chmod(&path, 0o222);
    let somebody = format!("user={}", new_user());
    for words in ["flock", "flock shared", "ofd", "posix"] {
        assert_eq!(probe(&path, &format!("{somebody} {words}")), "held", "{words}");
    }
    for mechanism in ["ofd", "posix"] {
        assert_eq!(
            refused(&probe(&path, &format!("{somebody} {mechanism} shared"))),
            "cannot lock shared: a shared record lock needs a lock file that can be read: Bad file \
             descriptor"
        );
    }
    // What may be in it nobody knows, so it is not for us to write.
    for mechanism in ["flock", "ofd", "posix"] {
        assert_eq!(
            refused(&probe(&path, &format!("{somebody} {mechanism} fenced"))),
            "cannot get a fencing token from the lock file: the lock file cannot be read, and may \
             hold other data: Permission denied"
        );
    }
}

#[test]
fn a_file_or_directory_that_is_closed_to_us() {
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o755);
    let somebody = format!("user={}", new_user());
    let secret = dir.path().join("secret.lock");
    fs::write(&secret, "").unwrap();
    chmod(&secret, 0o600);
    for mechanism in ["flock", "ofd", "posix"] {
        assert_eq!(
            refused(&probe(&secret, &format!("{somebody} {mechanism}"))),
            "cannot open: its permissions do not allow it: Permission denied"
        );
    }
    assert_eq!(
        refused(&probe(&dir.path().join("new.lock"), &somebody)),
        "cannot create: its directory allows no new file: Permission denied"
    );
    assert_eq!(
        refused(&probe(&dir.path().join("new/a.lock"), &format!("{somebody} parents"))),
        "cannot create: a directory above it cannot be made: Permission denied"
    );
    chmod(dir.path(), 0o700);
    assert_eq!(
        refused(&probe(&secret, &somebody)),
        "cannot open: its directory cannot be searched: Permission denied"
    );
    // A lost right is no lost lock file: what is open can still be locked, until the path has to be
    // looked at.
    chmod(dir.path(), 0o755);
    chmod(&secret, 0o644);
    let holder = start(&secret, "hold");
    holder.expect("held");
    let waiter = start(&secret, &somebody);
    support::wait_for_blocked(&secret, 1);
    chmod(dir.path(), 0o700);
    // It was looked at before the wait, which is good for 50 ms: the documented limit, not a guess.
    thread::sleep(Duration::from_millis(80));
    drop(holder);
    assert_eq!(waiter.next_line(), "Io: PATH: cannot lock: Permission denied (os error 13)");
}

/// `fs.protected_regular`, which is the whole machine's: put back when dropped, and one test's at a
/// time.
struct ProtectedRegular {
    before: String,
    _alone: OwnedFileLockGuard,
}

impl ProtectedRegular {
    const PATH: &str = "/proc/sys/fs/protected_regular";

    fn set(value: &str) -> std::io::Result<Self> {
        let alone = FileLock::open(Self::PATH)?.acquire().wait_owned()?;
        let before = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, value)?;
        Ok(Self { before, _alone: alone })
    }
}

impl Drop for ProtectedRegular {
    fn drop(&mut self) {
        fs::write(Self::PATH, &self.before).unwrap();
    }
}

#[test]
fn a_foreign_file_in_a_sticky_directory_although_the_kernel_protects_it_from_being_created() {
    if !can_play_users() {
        return;
    }
    let Ok(_protected) = ProtectedRegular::set("2") else {
        return skip("needs the right to set fs.protected_regular");
    };
    for directory_mode in [0o1777, 0o1775] {
        let dir = public_dir(directory_mode);
        let path = dir.path().join("a.lock");
        fs::write(&path, "").unwrap();
        chmod(&path, 0o666);
        let [owner, other] = [new_user(), new_user()];
        chown(&path, Some(owner), Some(owner)).unwrap();
        // So it is with the flags that everybody else opens with: not even root may.
        let naive = fs::File::options().append(true).create(true).open(&path);
        assert_eq!(naive.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        for who in [other, owner, 0] {
            for words in ["flock", "ofd", "posix", "flock shared", "flock mode=644"] {
                assert_eq!(probe(&path, &format!("user={who} {words}")), "held", "{who} {words}");
            }
        }
        assert_eq!(mode_of(&path), 0o666);
    }
}

#[test]
fn a_read_only_place() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("there.lock");
    fs::write(&path, "").unwrap();
    let setup = format!("mount --bind -o ro '{0}' '{0}'", dir.path().display());
    let probe = |path: &Path, words: &str| {
        let worker = Worker::spawn_with("probe", &[&hex(path), words], |command| {
            in_namespace(command, &setup);
        });
        let outcome = worker.next_line();
        assert!(worker.finish().success());
        outcome
    };
    for words in ["flock", "flock shared", "ofd shared", "posix shared"] {
        assert_eq!(probe(&path, words), "held", "{words}");
    }
    assert!(refused(&probe(&path, "ofd")).starts_with("cannot lock: an exclusive record lock"));
    let new = dir.path().join("new.lock");
    assert_eq!(
        refused(&probe(&new, "")),
        "cannot create: its directory allows no new file: Read-only file system"
    );
    assert_eq!(
        refused(&probe(&dir.path().join("new/a.lock"), "parents")),
        "cannot create: a directory above it cannot be made: Read-only file system"
    );
}
