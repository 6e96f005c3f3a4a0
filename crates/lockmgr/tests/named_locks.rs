//! A bare name is the same lock for the same user wherever it is used, never another user's, and
//! never in a place that somebody else has prepared.
//!
//! What belongs under `/run` plays in a mount namespace with a `/run` of its own; users are ids that
//! nobody has.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use lockmgr::name::{Scope, path_of};
use lockmgr::{Error, FileLock, Mechanism};
use support::probe::{self, hex, probe, start};
use support::users::{can_mount, can_play_users, chmod, in_namespace, mode_of, new_user};
use support::{Worker, serve};

#[test]
fn worker() {
    serve(&[
        ("probe", probe::run),
        ("roots_own", roots_own),
        ("for_all", for_all),
        ("for_all_without_root", for_all_without_root),
        ("for_all_in_a_bad_place", for_all_in_a_bad_place),
        ("first_of_all", first_of_all),
    ]);
}

/// No other lock on this machine is called that.
fn name() -> String {
    format!("lockmgr-test-{}", std::process::id())
}

/// Plays a role as root of a namespace whose `/run` is new.
fn with_own_run(role: &str) {
    if !can_mount() {
        return;
    }
    let worker = Worker::spawn_with(role, &[], |command| {
        in_namespace(command, "mount -t tmpfs -o mode=755 none /run; mkdir -m 1777 /run/lock");
    });
    assert!(worker.finish().success());
}

/// The directory of a new user's names, removed when dropped.
struct Home {
    uid: u32,
    path: PathBuf,
}

impl Home {
    fn new() -> Self {
        let uid = new_user();
        let home = Self { uid, path: format!("/tmp/lockmgr-{uid}").into() };
        home.clear();
        home
    }

    fn clear(&self) {
        if self.path.is_dir() && !self.path.is_symlink() {
            fs::remove_dir_all(&self.path).unwrap();
        } else if self.path.is_symlink() || self.path.exists() {
            fs::remove_file(&self.path).unwrap();
        }
    }

    fn lock_file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.lock"))
    }

    /// What somebody's acquisition of a name comes to.
    fn probe(&self, name: &str, words: &str) -> String {
        probe(Path::new(name), &format!("user={} named {words}", self.uid))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.clear();
    }
}

#[test]
fn a_user_s_names_live_in_a_private_directory_under_tmp() {
    if !can_play_users() {
        return;
    }
    let home = Home::new();
    let lock_file = home.lock_file("a.b_c-1");
    for words in ["", "umask=077", "umask=0", "ofd", "posix shared"] {
        assert_eq!(home.probe("a.b_c-1", words), format!("held {}", lock_file.display()));
        assert_eq!(mode_of(&home.path), 0o700, "{words}");
        // With the sticky bit, because of which `systemd-tmpfiles` never cleans it up.
        assert_eq!(mode_of(&lock_file), 0o1600, "{words}");
        let status = fs::metadata(&home.path).unwrap();
        assert_eq!((status.uid(), status.gid()), (home.uid, home.uid));
        home.clear();
    }
    assert!(home.probe("a", "mode=640").starts_with("held "));
    assert_eq!(mode_of(&home.lock_file("a")), 0o640, "exactly as told");
}

#[test]
fn one_s_own_names_whoever_one_is() {
    let name = name();
    let path = match FileLock::options().open_named(&name, Scope::User) {
        Ok(lock) => lock.path().unwrap().to_owned(),
        // Root of a container may have no `/run` to write to.
        Err(error @ Error::Permission { .. }) => return support::skip(&error.to_string()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(path, path_of(&name, Scope::User).unwrap());
    fs::remove_file(path).unwrap();
}

#[test]
fn the_same_name_is_one_lock_for_all_processes_of_a_user() {
    if !can_play_users() {
        return;
    }
    let [home, other] = [Home::new(), Home::new()];
    for mechanism in ["flock", "ofd", "posix"] {
        let mut holder = start("x".as_ref(), &format!("user={} named {mechanism} hold", home.uid));
        holder.expect(&format!("held {}", home.lock_file("x").display()));
        let path = home.lock_file("x");
        let busy = home.probe("x", &format!("{mechanism} try"));
        assert!(busy.starts_with(&format!("Busy: {} is busy", path.display())), "{busy}");
        let waiter = start("x".as_ref(), &format!("user={} named {mechanism}", home.uid));
        support::wait_for_blocked(&path, 1);
        // Neither another name nor another user is concerned.
        assert!(home.probe("y", &format!("{mechanism} try")).starts_with("held "));
        assert!(other.probe("x", &format!("{mechanism} try")).starts_with("held "));
        holder.tell("release");
        assert!(waiter.next_line().starts_with("held "));
    }
}

#[test]
fn no_variable_of_the_environment_has_a_say() {
    if !can_play_users() {
        return;
    }
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    chmod(elsewhere.path(), 0o777);
    let args = [&*hex("x".as_ref()), &format!("user={} named", home.uid)];
    let expected = format!("held {}", home.lock_file("x").display());
    for value in [None, Some(elsewhere.path().to_str().unwrap()), Some("relative"), Some("")] {
        let worker = Worker::spawn_with("probe", &args, |command| {
            for variable in
                ["HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "TMPDIR", "USER", "LOGNAME"]
            {
                match value {
                    Some(value) => command.env(variable, value),
                    None => command.env_remove(variable),
                };
            }
        });
        worker.expect(&expected);
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_is_not_what_it_should_be_is_refused() {
    if !can_play_users() {
        return;
    }
    let home = Home::new();
    let elsewhere = tempfile::tempdir().unwrap();
    chmod(elsewhere.path(), 0o777);
    let own = |path: &Path, uid| chown(path, Some(uid), Some(uid)).unwrap();
    let refused = |reason: &str| {
        let outcome = home.probe("x", "");
        assert!(
            outcome.starts_with(&format!(
                "Permission: {}: cannot open: {reason}",
                home.path.display()
            )),
            "{outcome}"
        );
        home.clear();
    };

    symlink(elsewhere.path(), &home.path).unwrap();
    refused("use a path instead of a name, or remove this; the place");
    symlink(home.path.with_extension("no"), &home.path).unwrap();
    refused("use a path instead of a name, or remove this; the place");
    fs::write(&home.path, "").unwrap();
    own(&home.path, home.uid);
    refused("use a path instead of a name, or remove this; the place");
    for stranger in [0, new_user()] {
        fs::create_dir(&home.path).unwrap();
        chmod(&home.path, 0o777);
        own(&home.path, stranger);
        refused("use a path instead of a name, or the lock of all users (--system); the directory");
    }
    for mode in [0o770, 0o707, 0o1777] {
        fs::create_dir(&home.path).unwrap();
        own(&home.path, home.uid);
        chmod(&home.path, mode);
        refused("others can write in the directory for named locks; chmod 700 it");
    }
    assert_eq!(
        fs::read_dir(elsewhere.path()).unwrap().count(),
        0,
        "nothing was made through a link"
    );

    // A link in the place of the lock file is no better.
    assert!(home.probe("x", "").starts_with("held "));
    fs::remove_file(home.lock_file("x")).unwrap();
    symlink(elsewhere.path().join("y"), home.lock_file("x")).unwrap();
    assert!(home.probe("x", "").starts_with("NotLockable: "));
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn root_s_own_names_live_in_run() {
    with_own_run("roots_own");
}

fn roots_own(_args: &[String]) {
    let path = Path::new("/run/lockmgr/x.lock");
    let holder = start("x".as_ref(), "named hold umask=0");
    holder.expect(&format!("held {}", path.display()));
    assert_eq!((mode_of(Path::new("/run/lockmgr")), mode_of(path)), (0o700, 0o1600));
    assert!(
        probe("x".as_ref(), "named try").starts_with("Busy: /run/lockmgr/x.lock is busy, held by")
    );
    // The lock for all users is another one.
    assert_eq!(probe("x".as_ref(), "system try"), "held /run/lock/lockmgr/x.lock");
    chmod(Path::new("/run/lockmgr"), 0o770);
    assert!(
        probe("x".as_ref(), "named try")
            .starts_with("Permission: /run/lockmgr: cannot open: others")
    );
}

#[test]
fn a_name_for_all_users_is_one_lock_for_all_of_them() {
    with_own_run("for_all");
}

fn for_all(_args: &[String]) {
    let directory = Path::new("/run/lock/lockmgr");
    let path = directory.join("x.lock");
    let held = format!("held {}", path.display());
    assert_eq!(probe("x".as_ref(), "system umask=077"), held);
    assert_eq!((mode_of(directory), mode_of(&path)), (0o1777, 0o1666));
    fs::remove_file(&path).unwrap();
    if !can_play_users() {
        return;
    }
    let [home, other] = [Home::new(), Home::new()];
    for mechanism in ["flock", "ofd", "posix"] {
        let words = |uid: u32, more| format!("user={uid} system {mechanism} umask=077 {more}");
        let mut holder = start("x".as_ref(), &words(home.uid, "hold"));
        holder.expect(&held);
        assert_eq!(fs::metadata(&path).unwrap().uid(), home.uid);
        assert_eq!(mode_of(&path), 0o1666, "whatever the umask, for everybody");
        for uid in [other.uid, home.uid, 0] {
            let outcome = probe("x".as_ref(), &words(uid, "try"));
            assert!(outcome.starts_with(&format!("Busy: {} is busy", path.display())), "{outcome}");
        }
        let waiter = start("x".as_ref(), &words(other.uid, "hold"));
        support::wait_for_blocked(&path, 1);
        // Everybody's own locks of that name are others.
        assert!(home.probe("x", "try").starts_with("held /tmp/"));
        assert_eq!(probe("x".as_ref(), "named try"), "held /run/lockmgr/x.lock");
        holder.tell("release");
        assert!(holder.finish().success());
        waiter.expect(&held);
        drop(waiter);
        fs::remove_file(&path).unwrap();
    }
    // The directory is everybody's, the files in it are not.
    assert_eq!(probe("x".as_ref(), &format!("user={} system mode=600", home.uid)), held);
    let outcome = probe("x".as_ref(), &format!("user={} system", other.uid));
    assert!(outcome.contains("cannot open: its permissions do not allow it"), "{outcome}");
}

#[test]
fn without_root_the_directory_for_all_users_is_not_made() {
    if can_play_users() {
        with_own_run("for_all_without_root");
    }
}

fn for_all_without_root(_args: &[String]) {
    let words = format!("user={} system", new_user());
    assert_eq!(
        probe("x".as_ref(), &words),
        "Permission: /run/lock/lockmgr: cannot open: the directory for locks of all users has to \
         be made by root (install -d -m 1777 /run/lock/lockmgr): No such file or directory (os \
         error 2)"
    );
    assert!(!Path::new("/run/lock/lockmgr").exists());
    assert_eq!(probe("x".as_ref(), "system"), "held /run/lock/lockmgr/x.lock");
    assert_eq!(probe("x".as_ref(), &words), "held /run/lock/lockmgr/x.lock");
    // Nor where there is no place for it at all.
    fs::remove_dir_all("/run/lock").unwrap();
    assert!(probe("x".as_ref(), &words).contains("has to be made by root"));
    assert_eq!(
        probe("x".as_ref(), "system"),
        "Io: /run/lock/lockmgr: cannot create: No such file or directory (os error 2); its \
         directory does not exist, or takes no new files"
    );
}

#[test]
fn a_bad_directory_for_all_users_is_refused_and_a_half_made_one_is_finished() {
    with_own_run("for_all_in_a_bad_place");
}

fn for_all_in_a_bad_place(_args: &[String]) {
    let directory = Path::new("/run/lock/lockmgr");
    let refused = |reason: &str| {
        let outcome = probe("x".as_ref(), "system");
        assert!(
            outcome.starts_with(&format!("Permission: /run/lock/lockmgr: cannot open: {reason}")),
            "{outcome}"
        );
    };
    fs::create_dir(directory).unwrap();
    chmod(directory, 0o777);
    refused("the directory for locks of all users is not sticky; chmod 1777 it");
    fs::remove_dir(directory).unwrap();
    symlink("/tmp", directory).unwrap();
    refused("use a path instead of a name, or remove this; the place");
    fs::remove_file(directory).unwrap();
    fs::create_dir(directory).unwrap();
    if chown(directory, Some(new_user()), None).is_ok() {
        chmod(directory, 0o1777);
        refused("use a path instead of a name; the directory for locks of all users belongs to");
        chown(directory, Some(0), None).unwrap();
    }
    // So it is when whoever made it was killed just then.
    chmod(directory, 0o700);
    assert_eq!(probe("x".as_ref(), "system"), "held /run/lock/lockmgr/x.lock");
    assert_eq!(mode_of(directory), 0o1777);
    // Narrower on purpose: so it stays.
    chmod(directory, 0o1770);
    assert_eq!(probe("x".as_ref(), "system"), "held /run/lock/lockmgr/x.lock");
    assert_eq!(mode_of(directory), 0o1770);
}

#[test]
fn two_users_who_are_the_first_at_once_both_get_a_name_for_all() {
    if can_play_users() {
        with_own_run("first_of_all");
    }
}

/// With one argument: takes name after name, each of them at the same moment as somebody else.
fn first_of_all(args: &[String]) {
    const ROUNDS: usize = 300;
    if let Some(uid) = args.first() {
        rustix::process::umask(0o077.into());
        support::users::become_user(uid.parse().unwrap());
        for round in 0..ROUNDS {
            support::say(round);
            support::hear();
            let lock = FileLock::options()
                .mechanism(Mechanism::Ofd)
                .open_named(format!("n{round}"), Scope::System)
                .unwrap();
            lock.lock_timeout(support::BOUND).unwrap().unlock().unwrap();
        }
        return;
    }
    assert!(probe("x".as_ref(), "system").starts_with("held "));
    let mut users = [(), ()].map(|()| Worker::spawn("first_of_all", &[&new_user().to_string()]));
    for round in 0..ROUNDS {
        for user in &users {
            user.expect(&round.to_string());
        }
        for user in &mut users {
            user.tell("go");
        }
    }
    for user in users {
        assert!(user.finish().success());
    }
}
