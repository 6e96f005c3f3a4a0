//! The filesystems are what they say, nobody else sees them, and nothing of them stays behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr_testfs::{Kind, Locks, Server, TestFs};

#[test]
fn testfs() {
    lockmgr_testfs::serve();
}

/// Generous: reached only when something is broken.
const BOUND: Duration = Duration::from_secs(90);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < BOUND, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the process sleeps in the kernel's part of FUSE; where the kernel does not tell, whether it sleeps.
fn waits_for_a_server(pid: u32) -> bool {
    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let sleeps = read("stat")
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with(['S', 'D']));
    let place = read("wchan");
    sleeps && (place == "0" || place.contains("request_wait"))
}

fn mount(kind: Kind) -> Option<TestFs> {
    TestFs::mount(kind, &Server::of_test("testfs"))
        .inspect_err(|skipped| lockmgr_testfs::skip(&skipped.to_string()))
        .ok()
}

fn mounts(of: &str) -> String {
    fs::read_to_string(format!("/proc/{of}/mountinfo")).unwrap()
}

/// The files behind the loop devices of this machine.
fn loop_files() -> Vec<PathBuf> {
    let devices = fs::read_dir("/sys/block").map(|all| all.filter_map(Result::ok));
    let files = devices
        .into_iter()
        .flatten()
        .filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.map(|file| PathBuf::from(file.trim_end())).collect()
}

fn is_backed_by_loop(below: &Path) -> bool {
    loop_files().iter().any(|file| file.starts_with(below))
}

#[test]
fn each_kind_keeps_files_and_is_gone_when_it_is_dropped() {
    for kind in Kind::ALL {
        let Some(testfs) = mount(kind) else { continue };
        let root = testfs.path().to_owned();
        let shown = root.to_str().unwrap().to_owned();
        assert!(mounts("thread-self").contains(&shown), "{kind:?}");
        assert!(!mounts("self").contains(&shown), "{kind:?}: others must not see it");

        let [a, b, dir] = ["a", "b", "dir"].map(|name| root.join(name));
        let mut file = File::options().read(true).write(true).create_new(true).open(&a).unwrap();
        file.write_all(b"text").unwrap();
        fs::hard_link(&a, &b).unwrap();
        assert_eq!(fs::metadata(&b).unwrap().ino(), file.metadata().unwrap().ino(), "{kind:?}");
        fs::remove_file(&a).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"text");
        fs::create_dir(&dir).unwrap();
        fs::rename(&b, dir.join("c")).unwrap();
        std::os::unix::fs::symlink("dir/c", root.join("link")).unwrap();
        assert_eq!(fs::read(root.join("link")).unwrap(), b"text");
        let mut names: Vec<_> =
            fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| name != "lost+found");
        names.sort();
        assert_eq!(names, ["dir", "link"], "{kind:?}");

        let server = testfs.server_pid();
        drop(file);
        drop(testfs);
        assert!(!mounts("thread-self").contains(&shown), "{kind:?}");
        assert!(!root.parent().unwrap().exists(), "{kind:?}");
        eventually("no loop device is left", || !is_backed_by_loop(root.parent().unwrap()));
        if let Some(pid) = server {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{kind:?}");
        }
    }
}

/// A call that is never answered ends with the server, and in no other way that could be relied on.
#[test]
fn a_call_that_hangs_ends_with_the_filesystem() {
    let Some(testfs) = mount(Kind::Fuse(Locks::Hang)) else { return };
    let file = testfs.path().join("a");
    File::create(&file).unwrap();
    let mut locker = Command::new("flock").arg(&file).arg("true").spawn().unwrap();
    eventually("it waits for the server", || waits_for_a_server(locker.id()));
    drop(testfs);
    assert!(!locker.wait().unwrap().success());
}

#[test]
fn a_frozen_filesystem_answers_again_when_it_is_thawed() {
    let Some(testfs) = mount(Kind::Fuse(Locks::Served)) else { return };
    testfs.freeze();
    let mut stat = Command::new("stat")
        .arg(testfs.path().join("a"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it waits for the server", || waits_for_a_server(stat.id()));
    testfs.thaw();
    assert_eq!(stat.wait().unwrap().code(), Some(1));
}

#[test]
fn nothing_stays_behind_when_its_program_is_killed() {
    for kind in [Kind::Fuse(Locks::Local), Kind::Ext4] {
        if mount(kind).is_none() {
            continue;
        }
        let script = "echo \"$1\"; read -r line";
        let mut program = Command::new(env!("CARGO_BIN_EXE_lockmgr-testfs"))
            .args([kind.name(), "sh", "-c", script, "sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut root = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut root).unwrap();
        let below = Path::new(root.trim_end()).parent().unwrap();
        let servers = || {
            let line = format!("LOCKMGR_TESTFS_PLACE={}", root.trim_end());
            let environments = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
            environments
                .filter_map(|process| fs::read(process.path().join("environ")).ok())
                .filter(|all| all.split(|byte| *byte == 0).any(|one| one == line.as_bytes()))
                .count()
        };
        let is_fuse = matches!(kind, Kind::Fuse(_));
        assert_eq!(servers(), usize::from(is_fuse));
        assert_eq!(is_backed_by_loop(below), !is_fuse);
        program.kill().unwrap();
        // The shell ends as its input does, and the namespace with it.
        drop(program.stdin.take());
        program.wait().unwrap();
        eventually("its server is gone", || servers() == 0);
        eventually("its loop device is gone", || !is_backed_by_loop(below));
        fs::remove_dir_all(below).unwrap();
    }
}
