//! Strange files and bad luck: the right result, or one clear line.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::support::{LOCKMGR, Scratch, finished, has, hold, is_locked, is_root, skip};

/// Some user who is not root; no account is needed.
const SOMEBODY: u32 = 54321;
const SOMEBODY_ELSE: u32 = 54322;

#[test]
fn a_directory_can_be_locked() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("d")).unwrap();
    let busy = "\"$LOCKMGR\" run -n -q ./d true; echo $?";
    assert_eq!(scratch.run(&["run", "./d", "sh", "-c", busy]).exits(0).out, "75\n");
    scratch.run(&["run", ".", "true"]).exits(0).is_silent();
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let scratch = Scratch::new();
    scratch.sh("mkfifo fifo").exits(0);
    let _socket = UnixListener::bind(scratch.path("socket")).unwrap();
    symlink("nowhere", scratch.path("dangling")).unwrap();
    fs::write(scratch.path("target"), "").unwrap();
    symlink("target", scratch.path("link")).unwrap();
    for name in ["./fifo", "./socket", "./dangling", "./link", "/dev/null"] {
        for options in [&["run"][..], &["run", "-n"], &["run", "-s", "-w", "1"]] {
            let words = [options, &[name, "true"]].concat();
            scratch.run(&words).exits(73).says(&[name.trim_start_matches('.')]);
        }
    }
    assert!(!scratch.path("nowhere").exists());
}

#[test]
fn a_running_program_can_be_its_own_lock() {
    let scratch = Scratch::new();
    fs::copy("/bin/sleep", scratch.path("program")).unwrap();
    scratch.run(&["run", "./program", "./program", "0"]).exits(0).is_silent();
    assert!(fs::read(scratch.path("program")).unwrap() == fs::read("/bin/sleep").unwrap());
}

#[test]
fn content_of_others_is_left_alone() {
    let scratch = Scratch::new();
    fs::write(scratch.path("l"), "precious").unwrap();
    scratch.run(&["run", "./l", "true"]).exits(0).is_silent();
    scratch
        .run(&["run", "--remove", "./l", "sh", "-c", "exit 5"])
        .exits(5)
        .says(&["/l: ", "not removed"]);
    assert_eq!(fs::read_to_string(scratch.path("l")).unwrap(), "precious");
}

#[test]
fn names_of_any_bytes_work() {
    let scratch = Scratch::new();
    let name = OsString::from_vec(b"./\xff\xfe \n*.lock".to_vec());
    let show = OsStr::from_bytes(b"a\xff\xc0b");
    let words =
        [OsStr::new("run"), OsStr::new("-v"), &name, OsStr::new("printf"), OsStr::new("%s"), show];
    let output = scratch.lockmgr(&words).output().unwrap();
    assert_eq!(output.stdout, show.as_bytes());
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 2);
    assert!(scratch.path(&name).exists());
    let text = OsStr::from_bytes(b"printf '\xff'");
    let output =
        scratch.lockmgr(&[OsStr::new("run"), &name, OsStr::new("-c"), text]).output().unwrap();
    assert_eq!(output.stdout, b"\xff");
}

#[test]
fn names_that_are_too_long_are_refused() {
    let scratch = Scratch::new();
    scratch.run(&["run", &format!("./{}", "x".repeat(300)), "true"]).exits(73).says(&["too long"]);
    scratch
        .run(&["run", &format!("./{}", "d/".repeat(3000)), "true"])
        .exits(73)
        .says(&["too long"]);
    scratch.run(&["run", &"x".repeat(300), "true"]).exits(64).says(&["name"]);
}

#[test]
fn places_that_take_no_files_say_so() {
    let scratch = Scratch::new();
    scratch.run(&["run", "/proc/no-such-lock", "true"]).exits(73).says(&["/proc/no-such-lock: "]);
    scratch.run(&["run", "./l/x", "true"]).exits(73).says(&["/l/x: "]);
    fs::write(scratch.path("l"), "").unwrap();
    scratch.run(&["run", "./l/x", "true"]).exits(73).says(&["/l/x: "]);
}

#[test]
fn the_mode_is_what_was_asked_for() {
    let scratch = Scratch::new();
    for (options, bits) in
        [("", 0o644), ("--mode 0600", 0o600), ("--mode 666", 0o666), ("--mode 0", 0)]
    {
        scratch.sh(&format!("umask 022; \"$LOCKMGR\" run {options} ./l true")).exits(0).is_silent();
        assert_eq!(
            fs::metadata(scratch.path("l")).unwrap().permissions().mode() & 0o7777,
            bits,
            "{options}"
        );
        fs::remove_file(scratch.path("l")).unwrap();
    }
}

#[test]
fn reading_is_enough_for_flock() {
    if !is_root() {
        return skip("needs root, to run as a user without permission to write");
    }
    let scratch = open_scratch();
    fs::write(scratch.path("l"), "").unwrap();
    fs::set_permissions(scratch.path("l"), fs::Permissions::from_mode(0o444)).unwrap();
    let run = |options: &[&str]| {
        let words = [&["run"], options, &["./l", "true"]].concat();
        finished(scratch.lockmgr(&words).uid(SOMEBODY).gid(SOMEBODY))
    };
    run(&[]).exits(0).is_silent();
    run(&["-s", "-m", "ofd"]).exits(0).is_silent();
    let refused = run(&["-m", "ofd"]);
    assert!(matches!(refused.code, Some(73 | 74)), "{refused:?}");
    refused.says(&["/l: "]);
    fs::set_permissions(scratch.path("l"), fs::Permissions::from_mode(0o000)).unwrap();
    run(&[]).exits(73).says(&["/l: "]);
}

#[test]
fn where_only_writing_is_missing_the_way_out_is_named() {
    if !is_root() {
        return skip("needs root, to run as a user without permission to write");
    }
    let scratch = open_scratch();
    fs::write(scratch.path("l"), "").unwrap();
    fs::set_permissions(scratch.path("l"), fs::Permissions::from_mode(0o444)).unwrap();
    let refused = |words: &[&str]| finished(scratch.lockmgr(words).uid(SOMEBODY).gid(SOMEBODY));
    let slots = refused(&["run", "--slots", "2", "./l", "true"]);
    slots.exits(74).says(&["slots need a lock file that can be written"]);
    assert!(!slots.err.contains("flock"), "{slots:?}");
    refused(&["wait", "-m", "ofd", "./l"]).exits(74).says(&["; -s waits until"]);
    refused(&["wait", "-m", "ofd", "-s", "./l"]).exits(0);
}

#[test]
fn that_there_is_no_process_for_the_command_is_not_said_of_the_command() {
    if !is_root() || !has("prlimit") {
        return skip("needs root, to be a user with few processes, and prlimit(1)");
    }
    let scratch = open_scratch();
    fs::write(scratch.path("l"), "").unwrap();
    let words = ["prlimit", "--nproc=1", LOCKMGR, "run", "--result", "fd:1", "./l", "true"];
    let ended = finished(scratch.command(&words).uid(SOMEBODY).gid(SOMEBODY));
    ended.exits(74).says(&["cannot make a process for the command: there are as many"]);
    assert!(ended.out.contains("\"outcome\":\"not-started\",\"status\":74,"), "{ended:?}");
}

#[test]
fn a_directory_without_permission_says_so() {
    if !is_root() {
        return skip("needs root, to run as a user without permission to write");
    }
    let scratch = open_scratch();
    fs::create_dir(scratch.path("d")).unwrap();
    finished(scratch.lockmgr(&["run", "./d/l", "true"]).uid(SOMEBODY).gid(SOMEBODY))
        .exits(73)
        .says(&["/d/l: "]);
}

#[test]
fn a_foreign_file_in_a_sticky_directory_works() {
    if !is_root() {
        return skip("needs root, to be two other users");
    }
    let scratch = open_scratch();
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o1777)).unwrap();
    let run = |user: u32| {
        let script = "umask 0; exec \"$LOCKMGR\" run ./l true";
        finished(scratch.command(&["sh", "-c", script]).uid(user).gid(user))
    };
    // Where fs.protected_regular is set, opening with O_CREAT would be refused to the second one.
    run(SOMEBODY).exits(0).is_silent();
    run(SOMEBODY_ELSE).exits(0).is_silent();
    scratch.run(&["run", "./l", "true"]).exits(0).is_silent();
}

#[test]
fn few_descriptors_are_enough() {
    let scratch = Scratch::new();
    // Three are open, one is the lock's, and one is for the dynamic loader of the command.
    scratch.sh("ulimit -n 5; exec \"$LOCKMGR\" run ./l true").exits(0).is_silent();
}

#[test]
fn no_space_left_is_one_clear_line() {
    let scratch = Scratch::new();
    let full = scratch.sh("unshare --mount --map-root-user true 2>/dev/null || exit 99
         exec unshare --mount --map-root-user sh -c '
             mkdir m && mount -t tmpfs -o nr_inodes=1 none m || exit 99
             exec \"$LOCKMGR\" run ./m/l true'");
    if full.code == Some(99) {
        return skip("no mount namespace for an ordinary user here");
    }
    full.exits(73).says(&["/m/l: ", "space"]);
}

#[test]
fn a_read_only_place_is_enough_for_a_lock_file_that_exists() {
    let scratch = Scratch::new();
    let ran = scratch.sh("unshare --mount --map-root-user true 2>/dev/null || exit 99
         exec unshare --mount --map-root-user sh -c '
             mkdir m && mount -t tmpfs none m && : >m/l && mount -o remount,ro m || exit 99
             \"$LOCKMGR\" run ./m/l true || exit 1
             exec \"$LOCKMGR\" run ./m/new true'");
    if ran.code == Some(99) {
        return skip("no mount namespace for an ordinary user here");
    }
    ran.exits(73).says(&["/m/new: "]);
}

#[test]
fn a_lock_file_deleted_while_waited_for_admits_one_at_a_time() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let held = hold(&path);
    let command = "\"$LOCKMGR\" run -n -q ./l true; echo $?";
    let mut waiting =
        crate::support::Running::start(&mut scratch.lockmgr(&["run", "./l", "sh", "-c", command]));
    crate::support::wait_until("it waits", || crate::support::is_waited_for(&path));
    fs::remove_file(&path).unwrap();
    drop(held);
    // It holds the new file, which is the one that the path names.
    waiting.says("75");
    waiting.finish().exits(0);
    assert!(!is_locked(&path));
}

#[test]
fn huge_numbers_are_no_trouble() {
    let scratch = Scratch::new();
    for duration in ["18446744073709551615", "9999999999.999999999", "500000h"] {
        scratch.run(&["run", "-w", duration, "./l", "true"]).exits(0).is_silent();
    }
    let held = hold(&scratch.path("l"));
    let words = ["run", "-w", "18446744073709551615", "./l", "echo", "ran"];
    let mut waiting = crate::support::Running::start(&mut scratch.lockmgr(&words));
    crate::support::wait_until("it waits", || crate::support::is_waited_for(&scratch.path("l")));
    drop(held);
    waiting.says("ran");
    waiting.finish().exits(0);
}

#[test]
fn many_and_long_arguments_arrive() {
    let scratch = Scratch::new();
    let words: Vec<String> = ["run", "./l", "sh", "-c", "echo $# ${#1}", "-"]
        .into_iter()
        .map(String::from)
        .chain((0..20_000).map(|_| "x".repeat(50)))
        .collect();
    assert_eq!(scratch.run(&words).exits(0).out, "20000 50\n");
    // The same through the shell that `execvp` takes for a script without `#!`.
    fs::write(scratch.path("script"), "echo $# ${#1}\n").unwrap();
    fs::set_permissions(scratch.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let words =
        [vec!["run".to_owned(), "./l".into(), "./script".into()], words[6..].to_vec()].concat();
    assert_eq!(scratch.run(&words).exits(0).out, "20000 50\n");
}

#[test]
fn a_path_of_the_longest_kind_is_searched() {
    let scratch = Scratch::new();
    let long = format!("{}/bin:/usr/bin", "/no/such/directory:".repeat(3000));
    finished(scratch.lockmgr(&["run", "./l", "true"]).env("PATH", &long)).exits(0).is_silent();
    finished(scratch.lockmgr(&["run", "./l", "no-such-command"]).env("PATH", &long)).exits(127);
    finished(scratch.lockmgr(&["run", "./l", "true"]).env_remove("PATH")).exits(0).is_silent();
}

/// A scratch directory that other users can come to.
fn open_scratch() -> Scratch {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    // The program itself must be reachable, too; a checkout under a private home is not.
    assert!(Path::new(LOCKMGR).exists());
    scratch
}
