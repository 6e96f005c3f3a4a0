//! The table of locks where sight is short or names differ: other users, pid namespaces, layered
//! filesystems; and beside what `lslocks` finds.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use lockmgr::inspect::{Inode, Kind, LockTable};
use lockmgr::{Mechanism, Mode};
use support::puppet::{PUPPET, Puppet};
use support::raw::take_lock;
use support::users::{become_user, can_mount, can_play_users, in_namespace, new_user, public_dir};
use support::{Worker, eventually, is_root, kernel_locks, say, sees_all_locks, serve, skip};

#[test]
fn worker() {
    serve(&[PUPPET, ("look", look), ("look at own", look_at_own)]);
}

/// Every lock on the file, in words, and what is not seen. Arguments: path, user (or empty).
fn look(args: &[String]) {
    if !args[1].is_empty() {
        become_user(args[1].parse().unwrap());
    }
    for table in [LockTable::of(&args[0]), LockTable::of_thoroughly(&args[0])] {
        tell(&table.unwrap());
    }
}

fn tell(table: &LockTable) {
    let mut lines: Vec<String> = Vec::new();
    for lock in table.files.iter().flat_map(|file| &file.locks) {
        let pids = lock.holders.iter().map(|h| format!(" {} {}", h.pid().unwrap_or(0), h.standing));
        let waiters = lock.waiters.len();
        lines.push(format!("{} {}{} <{waiters}", lock.kind, lock.mode, pids.collect::<String>()));
    }
    lines.sort();
    let hidden = if table.gaps.hidden { "hides " } else { "" };
    say(format!("{hidden}{}", lines.join("; ")));
}

/// Locks a file that it has made, and looks. Arguments: path, and that of a file that may bear the same
/// number.
fn look_at_own(args: &[String]) {
    let files: Vec<File> = args.iter().map(|path| File::create(path).unwrap()).collect();
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        take_lock(files[0].as_raw_fd(), mechanism, Mode::Exclusive, (0, 0), false).unwrap();
    }
    tell(&LockTable::of(&args[0]).unwrap());
    tell(&LockTable::of_thoroughly(&args[0]).unwrap());
    if let Some(twin) = args.get(1) {
        tell(&LockTable::of(twin).unwrap());
    }
    let table = LockTable::snapshot().unwrap();
    let found = table.file(&args[0]).map_or(0, |file| file.locks.len());
    say(format!("snapshot {found}"));
    // The error of a second handle finds the holder by the same way.
    let lock = lockmgr::FileLock::open(&args[0]).unwrap();
    let busy = lock.try_lock().unwrap_err();
    // It is looked for no longer than 20 ms, which may be too short where much goes on.
    let named = format!("held by pid {} (", std::process::id());
    eventually("the error names the holder", || busy.to_string().contains(&named));
    say("named");
}

#[test]
fn what_another_user_may_not_see_is_said() {
    if !sees_all_locks() {
        return;
    }
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o755);
    let user = new_user().to_string();
    let path = dir.path().join("a");
    for mechanism in ["flock", "posix", "ofd"] {
        let path = path.with_extension(mechanism);
        let (holder, _fd) = Puppet::holding(&path, &format!("{mechanism} ex"));
        let looks = Worker::spawn("look", &[path.to_str().unwrap(), &user]);
        let seen = match mechanism {
            "ofd" => "ofd exclusive 0 not visible <0".to_owned(),
            _ => format!("{mechanism} exclusive {} not permitted <0", holder.pid()),
        };
        looks.expect(&seen);
        looks.expect(&seen);
    }
}

#[test]
fn one_s_own_processes_are_seen_by_any_user() {
    if !sees_all_locks() {
        return;
    }
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o777);
    let user = new_user();
    let path = dir.path().join("a");
    let mut holder = Puppet::as_user(user);
    let fd = holder.open(&path);
    holder.take(fd, "flock ex");
    let looks = Worker::spawn("look", &[path.to_str().unwrap(), &user.to_string()]);
    // The kernel may forbid even that (a change of user makes a process undumpable).
    let seen = looks.next_line();
    let pid = holder.pid();
    let fine = ["verified", "not permitted"].map(|how| format!("flock exclusive {pid} {how} <0"));
    assert!(fine.contains(&seen), "{seen}");
}

#[test]
fn locks_from_outside_the_pid_namespace_are_held_by_somebody() {
    if !is_root() {
        return skip("needs root, for a pid namespace");
    }
    let dir = tempfile::tempdir().unwrap();
    for (lock, seen) in [
        ("flock ex", "flock exclusive 0 not visible <0"),
        ("flock sh", "flock shared 0 not visible <0"),
        ("ofd ex", "ofd exclusive 0 not visible <0"),
        ("posix sh", "posix shared 0 not visible <0"),
        ("", ""),
    ] {
        let path = dir.path().join(lock.replace(' ', "-") + "lock");
        fs::write(&path, "").unwrap();
        let _holder = (!lock.is_empty()).then(|| Puppet::holding(&path, lock));
        let held = kernel_locks(&path);
        let looks = Worker::spawn_with("look", &[path.to_str().unwrap(), ""], |command| {
            let mut inside = Command::new("unshare");
            inside.args(["--pid", "--fork", "--mount-proc"]);
            inside.arg(command.get_program()).args(command.get_args());
            for (key, value) in command.get_envs() {
                inside.env(key, value.unwrap());
            }
            inside.stdin(Stdio::piped()).stdout(Stdio::piped());
            *command = inside;
        });
        for _ in 0..2 {
            assert_eq!(looks.next_line(), format!("hides {seen}"), "{lock}");
        }
        assert_eq!(kernel_locks(&path), held, "looking has left nothing, and taken nothing");
    }
}

#[test]
fn whom_proc_hides_is_neither_guessed_nor_dropped() {
    if !sees_all_locks() || !can_play_users() || !can_mount() {
        return;
    }
    let dir = public_dir(0o755);
    let user = new_user().to_string();
    for (mechanism, seen) in [
        ("flock", "flock exclusive PID not permitted <0"),
        ("posix", "posix exclusive PID not permitted <0"),
        ("ofd", "ofd exclusive 0 not visible <0"),
    ] {
        let path = dir.path().join(mechanism);
        let (holder, _fd) = Puppet::holding(&path, &format!("{mechanism} ex"));
        let seen = seen.replace("PID", &holder.pid().to_string());
        for hidepid in ["noaccess", "invisible"] {
            let looks = Worker::spawn_with("look", &[path.to_str().unwrap(), &user], |command| {
                in_namespace(command, &format!("mount -t proc -o hidepid={hidepid} p /proc"));
            });
            for _ in 0..2 {
                assert_eq!(looks.next_line(), seen, "{mechanism}, hidepid={hidepid}");
            }
        }
    }
}

#[test]
fn a_holder_in_another_mount_namespace_is_found() {
    if !sees_all_locks() || !can_mount() {
        return;
    }
    // The holder's file lies where there is nothing here; only the device and the number are the same.
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    let (here, there) = (at.join("here"), at.join("there"));
    fs::create_dir(&here).unwrap();
    fs::create_dir(&there).unwrap();
    for mechanism in ["flock", "ofd", "posix"] {
        let path = here.join(mechanism);
        fs::write(&path, "").unwrap();
        let bind = format!("mount --bind {} {}", here.display(), there.display());
        let inside = |command: &mut Command| in_namespace(command, &bind);
        let mut holder = Puppet::of(Worker::spawn_with("puppet", &[], inside));
        let fd = holder.open(&there.join(mechanism));
        holder.take(fd, &format!("{mechanism} ex"));
        for table in [LockTable::of(&path), LockTable::of_thoroughly(&path)] {
            let table = table.unwrap();
            let locks: Vec<_> = table.files.iter().flat_map(|file| &file.locks).collect();
            assert_eq!(locks.len(), 1, "{mechanism}: {table:?}");
            assert_eq!(locks[0].holders[0].pid(), Some(holder.pid()), "{mechanism}: {table:?}");
            assert_eq!(locks[0].holders[0].standing.to_string(), "verified", "{mechanism}");
        }
        // Nobody here has it open, so the name is the one that it has over there.
        let (table, inode) = (LockTable::snapshot().unwrap(), Inode::of(&path).unwrap());
        let file = table.files.iter().find(|file| file.inode == inode).unwrap();
        assert_eq!(file.path.as_deref(), Some(&*there.join(mechanism)));
        assert_eq!(file.locks[0].holders[0].pid(), Some(holder.pid()), "{mechanism}");
    }
}

/// Looks at locks on files of a filesystem that is mounted for the occasion.
fn on(setup: &str, paths: &[&str]) {
    let looks = Worker::spawn_with("look at own", paths, |command| in_namespace(command, setup));
    let quick = looks.next_line();
    let words: Vec<&str> = quick.split(' ').collect();
    // The process's number is another one inside; both locks have the same holder.
    assert_eq!((words[0], words[1], words[3], words[4]), ("flock", "exclusive", "verified", "<0;"));
    assert_eq!((words[5], words[6], words[8]), ("ofd", "exclusive", "verified"), "{quick}");
    assert_eq!(words[2], words[7], "{quick}");
    looks.expect(&quick);
    if paths.len() > 1 {
        // The other file, which the kernel's table may call the same, has no lock.
        looks.expect("");
        let snapshot = looks.next_line();
        assert!(snapshot.starts_with("snapshot "), "{snapshot}");
    } else {
        looks.expect("snapshot 2");
    }
    looks.expect("named");
}

#[test]
fn overlays() {
    if !sees_all_locks() {
        return;
    }
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    let at = at.to_str().unwrap();
    // Layers of two filesystems make it name inodes in ways of its own.
    let setup = format!(
        "mkdir {at}/t && mount -t tmpfs none {at}/t && cd {at}/t && mkdir -p low up work ../merged\n\
         : > low/a\n\
         mount -t overlay -o lowerdir={at}/t/low:/usr,upperdir={at}/t/up,workdir={at}/t/work \
         none {at}/merged"
    );
    on(&setup, &[&format!("{at}/merged/a")]);
    on(&setup.replace(&format!("mkdir {at}/t"), "true"), &[&format!("{at}/merged/new")]);
}

#[test]
fn subvolumes() {
    if !sees_all_locks() {
        return;
    }
    let works = |program: &str| {
        Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok()
    };
    if !is_root() || !can_mount() || !works("mkfs.btrfs") {
        return skip("needs root and mkfs.btrfs");
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().canonicalize().unwrap();
    let at = at.to_str().unwrap();
    let setup = format!(
        "truncate -s 200M {at}/image && mkfs.btrfs -q {at}/image && mkdir -p {at}/m\n\
         mount -o loop {at}/image {at}/m\n\
         btrfs -q subvolume create {at}/m/one && btrfs -q subvolume create {at}/m/two"
    );
    let files = [format!("{at}/m/one/a"), format!("{at}/m/two/a")];
    on(&setup, &[&files[0]]);
    // The first file of each has the same number, and the table the same device for both.
    on(&setup, &[&files[0], &files[1]]);
}

#[test]
fn what_lslocks_finds_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    let mut puppets = Vec::new();
    for (name, lock) in [
        ("flock", "flock ex"),
        ("shared", "flock sh"),
        ("posix", "posix ex 3 4"),
        ("ofd", "ofd sh 0 10"),
        ("to the end", "posix sh 100 0"),
    ] {
        puppets.push(Puppet::holding(&at(name), lock).0);
    }
    let mut waiter = Puppet::new();
    let fd = waiter.open(&at("flock"));
    waiter.ask(fd, "flock ex");
    let columns = "PID,TYPE,MODE,START,END,INODE";
    let mut lslocks = Command::new("lslocks");
    lslocks.args(["--bytes", "--noheadings", "--raw", "-o", columns]).stderr(Stdio::inherit());
    let Ok(output) = lslocks.output() else {
        return skip("lslocks is missing: it comes with util-linux");
    };
    assert!(output.status.success());
    // Where many locks come and go, the kernel's table loses some when it is read, and tells others
    // twice.
    let mut table = LockTable::snapshot().unwrap();
    for _ in 0..20 {
        if table.gaps.pieced_together {
            table = LockTable::snapshot().unwrap();
        }
    }
    let mut found = BTreeSet::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [pid, kind, mode, start, end, inode] = words[..] else { panic!("{line}") };
        let Some(file) = table.files.iter().find(|file| file.inode.number.to_string() == inode)
        else {
            let is_ours = ["flock", "shared", "posix", "ofd", "to the end"]
                .iter()
                .any(|name| fs::metadata(at(name)).unwrap().ino().to_string() == inode);
            assert!(!is_ours, "{line}");
            continue;
        };
        if !file.path.as_ref().is_some_and(|path| path.starts_with(dir.path())) {
            continue;
        }
        found.insert(line.to_owned());
        let last = |start: u64, len: Option<u64>| len.map_or(0, |len| start + len - 1).to_string();
        let fits = |theirs: &Kind, its_mode: Mode, range: lockmgr::Range| {
            let theirs =
                if *theirs == Kind::Ofd { "OFDLCK".to_owned() } else { theirs.to_string() };
            let its_mode = if its_mode == Mode::Shared { "READ" } else { "WRITE" };
            theirs.eq_ignore_ascii_case(kind)
                && its_mode == mode.trim_end_matches('*')
                && range.start().to_string() == start
                && last(range.start(), range.len()) == end
        };
        let who = |number: Option<u32>| pid == "-1" || number.is_some_and(|n| n.to_string() == pid);
        let is_held = file.locks.iter().any(|lock| {
            fits(&lock.kind, lock.mode, lock.range) && lock.holders.iter().any(|h| who(h.pid()))
        });
        let is_waited_for = file
            .locks
            .iter()
            .flat_map(|lock| &lock.waiters)
            .any(|waiter| fits(&waiter.kind, waiter.mode, waiter.range) && who(waiter.pid()));
        assert!(if mode.ends_with('*') { is_waited_for } else { is_held }, "{line}: {file:?}");
    }
    assert_eq!(found.len(), 6, "five locks and a waiter: {found:?}");
    // What lslocks does not know: whose the ofd lock is.
    let ofd = table.file(at("ofd")).unwrap();
    assert_eq!(ofd.locks[0].holders[0].pid(), Some(puppets[3].pid()));
}
