//! On filesystems that have other locks than ext4, or none: the doctor tells each of them apart, in time, and
//! no command takes a lock for had that is not.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;

use lockmgr_testfs::{Kind, Locks, Server, TestFs};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Finished, ProtectedRegular, Running, Scratch, finished, is_root, json, skip, state, wait_until,
};

#[test]
fn testfs() {
    lockmgr_testfs::serve();
}

fn mounted(kind: Kind) -> Option<TestFs> {
    TestFs::mount(kind, &Server::of_test("filesystems::testfs"))
        .inspect_err(|skipped| skip(&skipped.to_string()))
        .ok()
}

/// The codes of the findings that matter.
fn codes(told: &Value) -> Vec<&str> {
    let findings = told["findings"].as_array().expect("findings");
    let serious = findings.iter().filter(|finding| finding["level"] != "note");
    serious.map(|finding| finding["code"].as_str().expect("a code")).collect()
}

fn works(told: &Value) -> Vec<&str> {
    let mechanisms = told["mechanisms"].as_array().expect("mechanisms");
    mechanisms.iter().map(|one| one["works"].as_str().expect("a word")).collect()
}

/// How long an answer may take that comes, and one that does not.
const PATIENCE: &str = "30s";
const IMPATIENCE: &str = "3s";

#[track_caller]
fn examined(scratch: &Scratch, path: &Path, deadline: &str) -> (Finished, Value) {
    let mut command = scratch.lockmgr(&["doctor", "--json", "--deadline", deadline]);
    let ran = finished(command.arg(path));
    let told = json(&ran);
    assert_eq!(told["status"], ran.code.expect("a status"), "{ran:?}");
    (ran, told)
}

#[test]
fn the_doctor_tells_them_apart() {
    let scratch = Scratch::new();
    let yes = ["yes"; 3];
    let no = ["no"; 3];
    for (kind, status, works_there, reach, limits) in [
        (Kind::Ext4, 0, yes, "local", &[][..]),
        (Kind::Xfs, 0, yes, "local", &[]),
        (Kind::Btrfs, 0, yes, "local", &[]),
        (Kind::Tmpfs, 0, yes, "local", &[]),
        (Kind::Overlay, 0, yes, "local", &[]),
        (Kind::Fuse(Locks::Local), 1, yes, "this-machine", &["fuse-this-machine"]),
        (Kind::Fuse(Locks::Served), 1, yes, "server", &["not-interruptible", "one-space"]),
        (Kind::Fuse(Locks::NoSys), 2, no, "unknown", &["no-locks"]),
        (Kind::Fuse(Locks::NoLocks), 2, no, "unknown", &["no-locks"]),
        (Kind::Fuse(Locks::Hang), 2, no, "unknown", &["hangs"]),
        (Kind::Fuse(Locks::Sham), 2, no, "unknown", &["false-success"]),
    ] {
        let Some(testfs) = mounted(kind) else { continue };
        let hangs = matches!(kind, Kind::Fuse(Locks::Hang | Locks::Served));
        let deadline = if hangs { IMPATIENCE } else { PATIENCE };
        let (ran, told) = examined(&scratch, testfs.path(), deadline);
        ran.exits(status);
        assert_eq!(
            (works(&told), &told["reach"]),
            (works_there.to_vec(), &reach.into()),
            "{kind:?}"
        );
        let mut found = codes(&told);
        // The temporary filesystem has the permissions of /tmp.
        found.retain(|code| *code != "anybody-may-replace");
        assert_eq!(found, limits, "{kind:?}: {told}");
        let kind_told = told.pointer("/filesystem/kind").and_then(Value::as_str).unwrap();
        assert!(kind.name().starts_with(kind_told), "{kind_told}");
        assert_eq!(
            told.pointer("/filesystem/mount_point").unwrap(),
            testfs.path().to_str().unwrap()
        );
        let nothing_left = fs::read_dir(testfs.path()).unwrap().filter_map(Result::ok);
        let left: Vec<_> = nothing_left.map(|entry| entry.file_name()).collect();
        assert!(left.iter().all(|name| name == "lost+found"), "{kind:?}: {left:?}");

        if hangs {
            continue;
        }
        let mut command = scratch.lockmgr(&["doctor", "--deadline", deadline]);
        let ran = finished(command.arg(testfs.path()));
        ran.exits(status);
        let last = ran.out.lines().last().unwrap();
        assert_eq!(told["message"], last);
        assert!(limits.iter().all(|code| last.contains(code)), "{last}");
    }
}

/// Not even `stat` comes back.
#[test]
fn the_doctor_has_a_verdict_on_a_filesystem_that_does_not_answer() {
    let scratch = Scratch::new();
    let Some(testfs) = mounted(Kind::Fuse(Locks::Local)) else { return };
    let file = testfs.path().join("a.lock");
    fs::write(&file, "").unwrap();
    testfs.freeze();
    for path in [testfs.path(), &file] {
        let (ran, told) = examined(&scratch, path, IMPATIENCE);
        ran.exits(2);
        assert_eq!(codes(&told), ["hangs"], "{told}");
        assert_eq!(told["filesystem"], Value::Null);
    }
    testfs.thaw();
    examined(&scratch, &file, PATIENCE).0.exits(1);
}

#[test]
fn the_doctor_shows_who_holds_the_lock() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./a.lock");
    let (_, told) = examined(&scratch, &scratch.path("a.lock"), PATIENCE);
    let pid = told.pointer("/files/0/locks/0/holders/0/process/pid").expect("a holder");
    let holders = scratch.run(&["who", "--json", "./a.lock"]);
    assert_eq!(Some(pid), json(&holders).pointer("/locks/0/file/locks/0/holders/0/process/pid"));
    assert!(told["locked_files"].as_u64().unwrap() >= 1);
    let ran = scratch.run(&["doctor", "--deadline", PATIENCE, "./a.lock"]);
    assert!(ran.out.contains(&format!("holds  {pid}")), "{ran:?}");
    // And below a directory.
    let (_, told) = examined(&scratch, scratch.dir(), PATIENCE);
    assert_eq!(told.pointer("/files/0/locks/0/holders/0/process/pid"), Some(pid), "{told}");
    drop(holder);
}

#[test]
fn the_doctor_sees_traps_of_paths() {
    let scratch = Scratch::new();
    scratch.sh("mkfifo fifo; ln -s a.lock link; : > a.lock; mkdir open; chmod 777 open");
    for (path, status, code) in
        [("fifo", 2, "no-file"), ("link", 1, "link"), ("open", 1, "anybody-may-replace")]
    {
        let (ran, told) = examined(&scratch, Path::new(path), PATIENCE);
        ran.exits(status);
        assert!(codes(&told).contains(&code), "{path}: {told}");
    }
    scratch.sh("ln -s open linked").exits(0);
    let (_, told) = examined(&scratch, Path::new("linked"), PATIENCE);
    assert_eq!((codes(&told), &told["directory"]), (vec!["anybody-may-replace"], &"linked".into()));
    // Not there yet: its directory is what counts.
    let (ran, told) = examined(&scratch, Path::new("new.lock"), PATIENCE);
    ran.exits(0);
    assert_eq!(told["directory"], ".");
    assert!(!scratch.path("new.lock").exists());
    scratch
        .run(&["doctor", "no/such.lock"])
        .exits(73)
        .says(&["no/such.lock: cannot look at no: No such"]);
    scratch.run(&["doctor", "a.lock/x"]).exits(73).says(&["cannot look at it: Not a dir"]);
    scratch.run(&["doctor"]).exits(64);
    scratch.run(&["doctor", "--deadline", "0", "."]).exits(64);
    let (_, told) = examined(&scratch, Path::new("/proc"), PATIENCE);
    assert!(codes(&told).contains(&"no-place"), "{told}");
}

#[test]
fn the_doctor_sees_a_directory_in_which_nothing_can_be_opened() {
    let scratch = Scratch::new().open_to_all();
    let removed = "mkdir gone; cd gone; rmdir ../gone; exec \"$LOCKMGR\" doctor --json .";
    let ran = scratch.sh(removed);
    assert_eq!(codes(&json(ran.exits(2)))[0], "no-place", "{ran:?}");
    if !is_root() {
        return skip("needs root, to be somebody else");
    }
    scratch.sh("mkdir closed; chmod 700 closed").exits(0);
    let mut command = scratch.lockmgr(&["doctor", "--json", "closed"]);
    let ran = finished(command.uid(54321).gid(54321));
    assert_eq!(codes(&json(ran.exits(2)))[0], "no-permission", "{ran:?}");
}

#[test]
fn the_doctor_needs_little_memory_and_writes_little() {
    let scratch = Scratch::new();
    // Enough for the program itself, and for no other thread's stack.
    for limit in (6..40).map(|count| count * 2000) {
        let ran = scratch.sh(&format!("ulimit -v {limit}; exec \"$LOCKMGR\" doctor ."));
        assert!(!ran.err.contains("defect"), "{limit}: {ran:?}");
        if ran.code == Some(0) {
            break;
        }
    }
    let ran = scratch.sh("ulimit -f 0; \"$LOCKMGR\" doctor . | cat");
    assert!(ran.out.contains("locks can be trusted") && ran.err.is_empty(), "{ran:?}");
}

/// Root squash, and a server's clock.
#[test]
fn the_doctor_sees_whose_the_files_are_and_what_time_it_is() {
    let scratch = Scratch::new();
    let server = Server::of_test("filesystems::testfs").odd();
    let testfs = match TestFs::mount(Kind::Fuse(Locks::Local), &server) {
        Ok(testfs) => testfs,
        Err(skipped) => return skip(&skipped.to_string()),
    };
    let (ran, told) = examined(&scratch, testfs.path(), PATIENCE);
    ran.exits(1);
    let found = codes(&told);
    assert!(found.contains(&"squashed") && found.contains(&"clock"), "{told}");
    assert!(
        told.to_string().contains("3600 s behind") || told.to_string().contains("3599 s behind")
    );
}

#[test]
fn the_doctor_sees_what_cannot_be_written() {
    let scratch = Scratch::new();
    let Some(testfs) = mounted(Kind::Tmpfs) else { return };
    let [old, new] = ["old", "new"].map(|name| testfs.path().join(name));
    fs::write(&old, "").unwrap();
    let mut bind = scratch.command(&["mount", "--bind"]);
    finished(bind.args([&old, &old])).exits(0);
    let (_, told) = examined(&scratch, &old, PATIENCE);
    assert!(codes(&told).contains(&"mounted-itself"), "{told}");
    finished(scratch.command(&["umount"]).arg(&old)).exits(0);
    let mut remount = scratch.command(&["mount", "-o", "remount,ro"]);
    finished(remount.arg(testfs.path())).exits(0);
    let (ran, told) = examined(&scratch, &old, PATIENCE);
    ran.exits(1);
    assert_eq!(codes(&told), ["read-only", "cannot-write", "not-tried"], "{told}");
    assert_eq!(works(&told), ["untried"; 3]);
    assert!(told["message"].as_str().unwrap().starts_with("locks were not tried out"), "{told}");
    let (ran, told) = examined(&scratch, &new, PATIENCE);
    ran.exits(2);
    assert_eq!(codes(&told), ["no-new-files", "read-only", "not-tried"], "{told}");
}

#[test]
fn the_doctor_sees_a_file_that_others_may_not_open_to_create() {
    let scratch = Scratch::new();
    if !is_root() {
        return skip("needs root, for a file of somebody else");
    }
    let Ok(_protected) = ProtectedRegular::set("2") else {
        return skip("needs the right to set fs.protected_regular");
    };
    scratch
        .sh("mkdir sticky; chmod 1777 sticky; : > sticky/a.lock; chown 1234 sticky/a.lock")
        .exits(0);
    let (ran, told) = examined(&scratch, Path::new("sticky/a.lock"), PATIENCE);
    ran.exits(1);
    assert_eq!(codes(&told), ["protected-regular"], "{told}");
    scratch.sh("chown 0 sticky/a.lock").exits(0);
    examined(&scratch, Path::new("sticky/a.lock"), PATIENCE).0.exits(0);
}

/// The lock is not had, the command does not run, and the line says why.
#[test]
fn run_does_without_a_false_success() {
    let scratch = Scratch::new();
    for (locks, words) in
        [(Locks::NoSys, "this filesystem has no"), (Locks::NoLocks, "lock service is down")]
    {
        let Some(testfs) = mounted(Kind::Fuse(locks)) else { continue };
        let lock = testfs.path().join("a.lock");
        for options in [&[][..], &["-n"], &["-w", "1m"], &["-s"], &["--fair"], &["--slots", "2"]] {
            let mut command = scratch.lockmgr(&["run"]);
            command.args(options).arg(&lock).args(["echo", "inside"]);
            let ran = finished(&mut command);
            assert_eq!(ran.out, "", "{options:?}");
            ran.exits(74).says(&[words, "a.lock"]);
        }
    }
}

/// Waits there end at their deadline, and with a signal; the demo works, since it only asks.
#[test]
fn run_waits_where_waiting_calls_hang() {
    let scratch = Scratch::new();
    let Some(testfs) = mounted(Kind::Fuse(Locks::Hang)) else { return };
    let lock = testfs.path().join("a.lock");
    let mut command = scratch.lockmgr(&["run"]);
    command.arg(&lock).args(["sh", "-c", "echo up; exec sleep 1000"]);
    let mut holder = Running::start(&mut command);
    holder.says("up");
    let mut command = scratch.lockmgr(&["run", "-w", "50ms"]);
    command.arg(&lock).arg("true");
    finished(&mut command).exits(75).says(&["timed out"]);
    // Without a deadline, it is to be interrupted.
    let mut command = scratch.lockmgr(&["run", "-v"]);
    command.arg(&lock).arg("true");
    let waiting = Running::start(&mut command);
    waiting.send(Signal::TERM);
    assert_eq!(waiting.finish().signal, Some(Signal::TERM.as_raw()));
    // Nor for flock(1).
    let flock = |words: &[&str]| {
        let mut command = scratch.lockmgr(&["flock"]);
        finished(command.args(words))
    };
    let file = lock.to_str().unwrap();
    flock(&["-w", "0.1", "-E", "9", file, "true"]).exits(9);
    flock(&["-n", "-E", "9", file, "true"]).exits(9);
    let mut command = scratch.lockmgr(&["flock"]);
    let mut endless = Running::start(command.args([file, "true"]));
    wait_until("it asks, and sleeps", || {
        let at = format!("/proc/{}/wchan", endless.pid().as_raw_nonzero());
        let place = fs::read_to_string(at).unwrap_or_default();
        // Where the kernel does not tell in what it sleeps, that it does.
        place.contains("nanosleep") || place == "0" && state(endless.pid()) == Some('S')
    });
    endless.send(Signal::KILL);
    endless.wait();
    // With its command, which has the lock too.
    drop(holder);
    flock(&[file, "true"]).exits(0);
    let mut command = scratch.lockmgr(&["demo", "--pace", "2ms"]);
    command.arg(&lock);
    finished(&mut command).exits(0);
    let script = "exec 9>>a.lock; \"$LOCKMGR\" lock --fd 9; \"$LOCKMGR\" run -nq a.lock true; echo $?; \
                  \"$LOCKMGR\" unlock --fd 9; \"$LOCKMGR\" run -nq a.lock echo free";
    let mut command = scratch.command(&["sh", "-c", &script.replace("a.lock", file)]);
    assert_eq!(finished(&mut command).exits(0).out, "75\nfree\n");
}

/// Where a lock keeps nobody out, the demo shows it.
#[test]
fn the_demo_sees_through_a_sham() {
    let scratch = Scratch::new();
    let Some(testfs) = mounted(Kind::Fuse(Locks::Sham)) else { return };
    let mut command = scratch.lockmgr(&["demo", "--pace", "200ms", "--rounds", "2"]);
    command.arg(testfs.path().join("a.lock"));
    let ran = finished(&mut command);
    ran.exits(1);
    assert!(ran.out.contains("this lock keeps nobody out"), "{ran:?}");
}
