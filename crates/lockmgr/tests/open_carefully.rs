//! Promise 2: what is not fit to be a lock file is refused at once and in one clear line, what is
//! fit can be locked however it looks, and nothing that is found there is changed.
//!
//! Its other parts have files of their own: `open_without_rights.rs`, `open_under_lease.rs`,
//! `open_in_scarcity.rs`.

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lockmgr::{Error, FileLock, LockMgr, Mechanism, Semaphore};
use rustix::fs::{CWD, FileType, Mode as Permissions, OFlags};
use support::probe::{self, probe, start, told};
use support::users::{chmod, mode_of};
use support::{Worker, hear, say, serve, skip};

#[test]
fn worker() {
    serve(&[("probe", probe::run), ("churn", churn)]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

const NOT_WRITABLE: &str = "Permission: PATH: cannot lock: an exclusive record lock needs a lock \
                            file that can be written; flock does not: Bad file descriptor (os \
                            error 9)";

#[test]
fn a_directory_can_be_locked() {
    let dir = tempfile::tempdir().unwrap();
    let holder = start(dir.path(), "hold");
    holder.expect("held");
    assert!(probe(dir.path(), "try").starts_with("Busy: PATH is busy"));
    drop(holder);
    assert_eq!(probe(dir.path(), "try"), "held");
    assert_eq!(probe(dir.path(), "shared"), "held");
    for mechanism in ["ofd", "posix"] {
        assert_eq!(probe(dir.path(), &format!("{mechanism} shared")), "held");
        // No directory can be opened for writing, and the kernel wants that.
        for words in ["", " try", " timeout=1"] {
            let told = probe(dir.path(), &format!("{mechanism}{words}"));
            assert!(told.starts_with("NotLockable: PATH: it is a directory"), "{told}");
            assert!(told.contains("use a file in it, or a flock lock"), "{told}");
        }
    }
    let needs_a_file = |error: Error| {
        assert!(matches!(error, Error::NotLockable { .. }), "{error}");
        assert!(error.is_open_failure());
    };
    needs_a_file(Semaphore::open(dir.path(), 2).unwrap_err());
    let lazy = Semaphore::options().open_lazy(dir.path(), 2).unwrap();
    needs_a_file(lazy.try_acquire().unwrap_err());
    for mechanism in [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix] {
        let options = FileLock::options().mechanism(mechanism);
        needs_a_file(options.writable(true).open(dir.path()).unwrap_err());
    }
    let fair = probe(dir.path(), "ofd fair");
    assert!(fair.contains("a directory cannot be a fair lock"), "{fair}");
    assert_eq!(probe(&dir.path().join("."), "try"), "held");
    assert_eq!(probe(&dir.path().join(".."), "try shared"), "held");
}

#[test]
fn fifos_sockets_and_devices_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let [fifo, socket] = ["fifo", "socket"].map(|name| dir.path().join(name));
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Permissions::RWXU, 0).unwrap();
    let _listener = UnixListener::bind(&socket).unwrap();
    let device = PathBuf::from("/dev/null");
    for mechanism in MECHANISMS {
        for (path, kind) in [(&fifo, "FIFO"), (&socket, "socket"), (&device, "device")] {
            for words in ["", "try", "follow", "shared"] {
                assert_eq!(
                    probe(path, &format!("{mechanism} {words}")),
                    format!("NotLockable: PATH: it is a {kind}, which cannot be a lock file")
                );
            }
        }
    }
}

#[test]
fn a_symbolic_link_is_refused_unless_links_are_to_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    let [target, link] = ["target", "link"].map(|name| dir.path().join(name));
    symlink("target", &link).unwrap();
    let refused =
        "NotLockable: PATH: it is a symbolic link, which is not followed; name its target";
    // Dangling first, then with a target.
    for mechanism in MECHANISMS {
        assert_eq!(probe(&link, mechanism), refused);
        assert!(!target.exists(), "nothing is created through a link");
    }
    assert!(probe(&link, "follow no-create").starts_with("Io: PATH: cannot open: No such file"));
    assert_eq!(probe(&link, "follow"), "held");
    assert!(fs::symlink_metadata(&target).unwrap().is_file(), "made where the link leads");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    for mechanism in MECHANISMS {
        assert_eq!(probe(&link, mechanism), refused);
        let holder = start(&target, &format!("{mechanism} hold"));
        holder.expect("held");
        let outcome = probe(&link, &format!("{mechanism} follow try"));
        assert!(outcome.starts_with("Busy: "), "the same lock by either name: {outcome}");
    }
}

#[test]
fn links_that_lead_nowhere_end_in_one_clear_line() {
    let dir = tempfile::tempdir().unwrap();
    let [circle, lost] = ["circle", "lost"].map(|name| dir.path().join(name));
    symlink("circle", &circle).unwrap();
    symlink("no/such/place", &lost).unwrap();
    let too_many = "Io: PATH: cannot open: Too many levels of symbolic links (os error 40)";
    assert_eq!(probe(&circle, "follow"), too_many);
    for words in ["", "follow"] {
        assert_eq!(probe(&circle.join("a.lock"), words), too_many, "it is no link itself");
    }
    assert_eq!(
        probe(&lost, "follow"),
        "Io: PATH: cannot create: No such file or directory (os error 2); its directory does not \
         exist, or takes no new files"
    );
}

#[test]
fn a_missing_directory_is_an_error_unless_it_is_to_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/c.lock");
    let missing = "Io: PATH: cannot create: No such file or directory (os error 2); its directory \
                   does not exist, or takes no new files";
    assert_eq!(probe(&path, ""), missing);
    assert!(probe(&path, "parents no-create").starts_with("Io: PATH: cannot open: No such file"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(probe(&path, "parents"), "held");
    assert_eq!(probe(&path, ""), "held");
    // A file where a directory should be.
    let below = path.join("d.lock");
    for words in ["", "parents"] {
        assert_eq!(
            probe(&below, words),
            "Io: PATH: cannot open: Not a directory (os error 20); a part of the path is no \
             directory"
        );
    }
    assert_eq!(
        probe(&dir.path().join("new/"), ""),
        "Io: PATH: cannot create: Is a directory (os error 21); a name that ends in a slash is \
         that of a directory"
    );
}

#[test]
fn a_file_that_is_not_to_be_created_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    for mechanism in MECHANISMS {
        assert_eq!(
            probe(&path, &format!("{mechanism} no-create")),
            "Io: PATH: cannot open: No such file or directory (os error 2); it was not to be created"
        );
        assert!(!path.exists());
    }
    fs::write(&path, "").unwrap();
    assert_eq!(probe(&path, "no-create"), "held");
    // Nor is it created when it goes while it is waited for.
    let holder = start(&path, "hold");
    holder.expect("held");
    let waiter = start(&path, "no-create");
    support::wait_for_blocked(&path, 1);
    fs::remove_file(&path).unwrap();
    drop(holder);
    assert!(waiter.next_line().starts_with("Io: PATH: cannot open: No such file"));
    assert!(!path.exists());
}

#[test]
fn odd_names() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| told(&FileLock::open(path).unwrap_err(), path);
    assert_eq!(open(Path::new("")), "NotLockable: '': an empty path names no file");
    let nul = OsStr::from_bytes(b"/tmp/a\0b");
    assert_eq!(open(Path::new(nul)), "NotLockable: /tmp/a\\0b: a path cannot contain a NUL byte");
    let long = dir.path().join("x".repeat(256));
    assert_eq!(open(&long), "Io: PATH: cannot open: File name too long (os error 36)");
    assert_eq!(probe(&dir.path().join("x".repeat(255)), ""), "held");
    // Any other byte will do, and is shown so that no terminal obeys it.
    let any = dir.path().join(OsStr::from_bytes(b"\xff\xe4 \x1b[2J\n\xe2\x80\xae.lock"));
    for mechanism in MECHANISMS {
        assert_eq!(probe(&any, mechanism), "held");
    }
    let lock = FileLock::open(&any).unwrap();
    assert_eq!(lock.path(), Some(any.as_path()));
    let _held = lock.lock().unwrap();
    let busy = FileLock::open(&any).unwrap().try_lock().unwrap_err().to_string();
    assert!(busy.contains("/\\xff\\xe4 \\u{1b}[2J\\n\\u{202e}.lock is busy"), "{busy}");
}

#[test]
fn a_relative_path_means_the_directory_of_that_moment() {
    let lock = FileLock::options().create(false).open_lazy("no/such.lock").unwrap();
    let here = std::env::current_dir().unwrap();
    assert_eq!(lock.path(), Some(here.join("no/such.lock").as_path()));
}

#[test]
fn files_in_proc_can_be_locked_and_none_can_be_made_there() {
    assert_eq!(probe(Path::new("/proc/version"), "try"), "held");
    assert_eq!(probe(Path::new("/proc/version"), "ofd shared try"), "held");
    assert_eq!(
        probe(Path::new("/proc/a.lock"), ""),
        "Io: PATH: cannot create: No such file or directory (os error 2); its directory does not \
         exist, or takes no new files"
    );
}

#[test]
fn a_running_program_can_be_locked() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    fs::copy("/bin/cat", &program).unwrap();
    let mut running =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // ETXTBSY for whoever wants to write, and reading is enough here.
    assert_eq!(probe(&program, "flock try"), "held");
    assert_eq!(probe(&program, "ofd shared try"), "held");
    assert_eq!(
        probe(&program, "ofd try"),
        NOT_WRITABLE.replace("cannot lock", "cannot try to lock")
    );
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    assert_eq!(probe(&program, "ofd try"), "held");
}

#[test]
fn a_script_can_be_executed_while_it_is_locked() {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "#!/bin/sh\nexit 7\n").unwrap();
    chmod(&script, 0o755);
    for words in ["flock", "flock shared"] {
        let holder = start(&script, &format!("{words} hold"));
        holder.expect("held");
        assert_eq!(Command::new(&script).status().unwrap().code(), Some(7), "{words}");
    }
}

#[test]
fn permissions_are_exactly_those_asked_for_or_what_the_umask_leaves() {
    let dir = tempfile::tempdir().unwrap();
    for (index, (words, expected)) in [
        ("umask=022", 0o644),
        ("umask=077", 0o600),
        ("umask=0", 0o666),
        ("umask=077 mode=644", 0o644),
        ("umask=077 mode=666", 0o666),
        ("umask=777 mode=640", 0o640),
        ("umask=0 mode=600", 0o600),
        ("umask=022 mode=1666", 0o1666),
        ("umask=022 mode=0", 0),
        ("umask=077 mode=644 ofd", 0o644),
    ]
    .into_iter()
    .enumerate()
    {
        let path = dir.path().join(index.to_string());
        let worker = start(&path, &format!("{words} hold"));
        worker.expect("held");
        assert_eq!(mode_of(&path), expected, "{words}");
        drop(worker);
        // One that exists keeps its own.
        if expected != 0 {
            assert_eq!(probe(&path, "mode=777"), "held");
            assert_eq!(mode_of(&path), expected, "{words}");
        }
    }
}

#[test]
fn what_is_found_there_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let content = "not ours\n".repeat(1000);
    fs::write(&path, &content).unwrap();
    chmod(&path, 0o604);
    let before = fs::metadata(&path).unwrap();
    for mechanism in MECHANISMS {
        for words in ["", "shared", "remove", "shared remove", "mode=600", "follow", "parents"] {
            let outcome = probe(&path, &format!("{mechanism} {words}"));
            assert_eq!(outcome, "held", "{mechanism} {words}");
        }
    }
    let mut classic = LockMgr::new(&path);
    assert!(classic.acquire_lock(false, support::BOUND));
    assert!(classic.release_lock());
    drop(classic);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
    let facts = |of: &fs::Metadata| {
        (of.ino(), of.mode(), of.uid(), of.size(), of.mtime(), of.mtime_nsec(), of.ctime_nsec())
    };
    assert_eq!(facts(&before), facts(&after));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing beside it either");
}

#[test]
fn no_program_that_is_started_inherits_the_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in MECHANISMS {
        let path = dir.path().join(mechanism);
        let lock = FileLock::options()
            .mechanism(mechanism.parse::<Mechanism>().unwrap())
            .open(&path)
            .unwrap();
        // Twice, so that the descriptor of the directory for the quick check is there too.
        drop(lock.lock().unwrap());
        let guard = lock.lock().unwrap();
        let flags = rustix::io::fcntl_getfd(guard.file()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        let status = rustix::fs::fcntl_getfl(guard.file()).unwrap();
        assert!(status.contains(OFlags::NONBLOCK), "{status:?}");
        let listing = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
        let listing = String::from_utf8_lossy(&listing.stdout).into_owned();
        assert!(!listing.contains(dir.path().to_str().unwrap()), "{listing}");
        assert!(guard.file().as_raw_fd() > 2);
    }
}

/// Replaces the file as fast as it can, until told to stop.
fn churn(args: &[String]) {
    let path = PathBuf::from(&args[0]);
    let new = path.with_extension("new");
    let stop = std::thread::spawn(hear);
    say("churning");
    let mut rounds = 0_u64;
    while !stop.is_finished() {
        fs::write(&new, "").unwrap();
        fs::rename(&new, &path).unwrap();
        rounds += 1;
    }
    say(rounds);
}

#[test]
fn a_file_that_is_replaced_all_the_time_ends_in_a_lock_or_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let mut churn = Worker::spawn("churn", &[path.to_str().unwrap()]);
    churn.expect("churning");
    let (mut locked, mut refused) = (0, 0);
    for mechanism in MECHANISMS {
        let options = FileLock::options().mechanism(mechanism.parse().unwrap());
        let kept = options.open(&path).unwrap();
        for round in 0..200 {
            let fresh = options.open_lazy(&path).unwrap();
            let lock = if round % 2 == 0 { &kept } else { &fresh };
            match lock.lock_timeout(support::BOUND) {
                Ok(_guard) => locked += 1,
                Err(Error::Replaced { while_held: false, .. }) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    churn.tell("stop");
    let rounds: u64 = churn.next_line().parse().unwrap();
    assert!(rounds > 0 && locked > 0, "{rounds} {locked} {refused}");
}

#[test]
fn a_filesystem_whose_path_and_descriptor_never_agree_ends_in_a_clear_error() {
    // What `stat` by path says is made up; what `fstat` says is true.
    let made_up = "inject=newfstatat:poke_exit=@arg3=01020304050607080102030405060708";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    fs::write(&path, "").unwrap();
    let strace = |command: &mut Command, path: &Path| {
        let mut traced = Command::new("strace");
        traced.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=newfstatat"]);
        traced.args(["-e", made_up, "-P"]).arg(path);
        traced.arg(command.get_program()).args(command.get_args());
        traced.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        traced.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        *command = traced;
    };
    let mut works = Command::new("true");
    strace(&mut works, &path);
    if !works.status().is_ok_and(|status| status.success()) {
        return skip("needs strace(1) 5.11 or newer, and the right to trace");
    }
    for words in ["flock", "flock timeout=30000", "flock try", "ofd", "posix"] {
        let worker = Worker::spawn_with("probe", &[&probe::hex(&path), words], |command| {
            strace(command, &path);
        });
        assert_eq!(
            worker.next_line(),
            "Replaced: PATH: the path never names the file that was just opened through it; this \
             filesystem cannot carry the lock, put the lock file on another one"
        );
        assert!(worker.finish().success());
    }
}
