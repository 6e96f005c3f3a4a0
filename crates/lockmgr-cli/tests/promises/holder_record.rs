//! While the command runs, the lock file says who holds it; the command, the lock and other people's
//! files come to no harm by that.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use lockmgr::inspect::Record;
use rustix::process::{Pid, Signal, test_kill_process};

use crate::support::{LOCKMGR, Running, Scratch, finished, is_locked, is_root, pid, skip};

/// Says its pid and stays until it is told something.
const SIT: &str = "echo $$; read _";

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

#[test]
fn the_lock_file_names_the_command_and_the_note() {
    for mechanism in ["flock", "ofd"] {
        let scratch = Scratch::new();
        let words = ["run", "-m", mechanism, "--note", "-v is \"fine\"", "./l", "sh", "-c", SIT];
        let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
        running.says_pid();
        let record = Record::of_lock(scratch.path("l")).expect(mechanism);
        assert_eq!(record.pid, number(running.pid()));
        assert_eq!(record.command, ["sh", "-c", SIT]);
        assert_eq!(record.note.as_deref(), Some("-v is \"fine\""));
        running.tell("go on");
        running.finish().exits(0);
        assert_eq!(Record::of_lock(scratch.path("l")), None);
        // The next one says what is true of it, and nothing of the one before.
        let shell = scratch.lockmgr(&["run", "./l", "-c", "cat l"]).output().expect("it runs");
        let content = String::from_utf8(shell.stdout).expect("UTF-8");
        assert!(content.contains("\"command\":[\"/bin/sh\",\"-c\",\"cat l\"]}\n"), "{content}");
        assert!(content.ends_with("}\n") && content.matches('\n').count() == 1, "{content}");
    }
}

#[test]
fn the_command_itself_is_the_holder_without_a_fork() {
    for mechanism in ["flock", "ofd", "posix"] {
        let scratch = Scratch::new();
        let words = ["run", "-m", mechanism, "--no-fork", "./l", "sh", "-c", SIT];
        let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
        let shell = running.says_pid();
        assert_eq!(shell, running.pid());
        let record = Record::of_lock(scratch.path("l")).expect(mechanism);
        assert_eq!((record.pid, record.command.len()), (number(shell), 3));
        running.tell("go on");
        running.finish().exits(0);
    }
}

#[test]
fn words_that_are_no_text_are_shown_as_well_as_can_be() {
    let scratch = Scratch::new();
    let odd = OsStr::from_bytes(b"a\xff\nb");
    let words = [OsStr::new("run"), "--note".as_ref(), odd, "./l".as_ref(), "cat".as_ref()];
    let mut command = scratch.lockmgr(&words);
    let content = finished(command.args(["--", "l"].map(OsStr::new)).arg(odd)).out;
    assert!(content.contains("\"cat\",\"--\",\"l\",\"a\u{fffd}\\u000ab\"]"), "{content}");
    assert!(content.contains("\"note\":\"a\u{fffd}\\u000ab\"}\n"), "{content}");
}

#[test]
fn the_command_inherits_nothing_to_write_with() {
    let scratch = Scratch::new();
    for fork in [&[][..], &["--no-fork"]] {
        let look = "ls -l /proc/self/fd | grep '/l$'";
        let words = [&["run"], fork, &["./l", "sh", "-c", look]].concat();
        let seen = scratch.run(&words).exits(0).out.clone();
        assert_eq!(seen.lines().count(), 1, "{seen}");
        assert!(seen.starts_with("lr-x"), "{seen}");
    }
}

#[test]
fn a_note_that_is_cut_is_told_to_be() {
    let scratch = Scratch::new();
    let run = |length: usize, quiet: &[&str]| {
        let note = "n".repeat(length);
        let command = ["./l", "grep", "-q", "\"note\":\"n*\"", "l"];
        scratch.run(&[&["run", "--note", &note], quiet, &command].concat())
    };
    run(1500, &[]).exits(0);
    run(2000, &[]).exits(1).says(&["the note is too long"]);
    assert_eq!(run(2000, &["-q"]).exits(1).err, "");
}

#[test]
fn only_who_asked_for_a_note_is_told_that_there_is_none() {
    let scratch = Scratch::new();
    fs::write(scratch.path("foreign"), "precious").expect("a scratch file");
    for (how, reason) in [
        (&["./foreign"][..], "did not write"),
        (&["-s", "./shared"], "shared"),
        (&["-m", "ofd", "--range", "0+9", "./range"], "range"),
        (&["."], "not a regular file"),
    ] {
        let run = |options: &[&str]| {
            let words = [&["run"], options, how, &["sh", "-c", "exit 5"]].concat();
            scratch.run(&words)
        };
        run(&[]).exits(5).is_silent();
        run(&["--note", "why", "-q"]).exits(5).is_silent();
        run(&["--note", "why"]).exits(5).says(&["the note is not kept", reason]);
    }
    assert_eq!(fs::read(scratch.path("foreign")).expect("it is there"), b"precious");
    for empty in ["shared", "range"] {
        assert_eq!(fs::read(scratch.path(empty)).expect("it is there"), b"");
    }
}

#[test]
fn a_lock_file_that_may_not_be_written_is_locked() {
    if !is_root() {
        return skip("needs root, to act as another user");
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::write(scratch.path("l"), "").expect("a scratch file");
    // The program may lie where only root gets to.
    fs::copy(LOCKMGR, scratch.path("lockmgr")).expect("a copy");
    let program = scratch.path("lockmgr").into_os_string().into_string().expect("UTF-8");
    for (options, lines) in [(&[][..], 0), (&["--note", "why"], 1)] {
        let words = [&[program.as_str(), "run"], options, &["./l", "true"]].concat();
        let ran = finished(scratch.command(&words).uid(54321).gid(54321));
        assert_eq!(ran.exits(0).err.lines().count(), lines, "{ran:?}");
        assert!(lines == 0 || ran.err.contains("opened for writing"), "{ran:?}");
    }
    assert_eq!(fs::read(scratch.path("l")).expect("it is there"), b"");
}

#[test]
fn who_was_killed_is_not_believed_though_the_lock_lives_on() {
    let scratch = Scratch::new();
    let words = ["run", "./l", "sh", "-c", SIT];
    let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    let command = running.says_pid();
    assert!(Record::of_lock(scratch.path("l")).is_some());
    running.send(Signal::KILL);
    running.wait();
    assert!(is_locked(&scratch.path("l")));
    assert_eq!(Record::of_lock(scratch.path("l")), None);
    // It ends with its input, which ended with us.
    drop(running);
    crate::support::wait_until("the command ends", || {
        crate::support::is_gone(command) || test_kill_process(command).is_err()
    });
}

#[test]
fn removal_takes_the_record_along() {
    let scratch = Scratch::new();
    scratch
        .run(&["run", "--remove", "--note", "why", "./l", "test", "-s", "l"])
        .exits(0)
        .is_silent();
    assert!(!scratch.path("l").exists());
}

#[test]
fn no_file_may_grow_and_the_command_runs() {
    let scratch = Scratch::new();
    let ran = scratch.sh("ulimit -f 0; exec \"$LOCKMGR\" run ./l echo ran | cat");
    assert_eq!(ran.exits(0).out, "ran\n");
    assert_eq!(fs::read(scratch.path("l")).expect("it is there"), b"");
}

#[test]
fn a_holder_in_a_pid_namespace_is_known_by_both_its_pids() {
    let scratch = Scratch::new();
    let unshare = ["unshare", "--pid", "--fork", "--kill-child"];
    if finished(scratch.command(&unshare).arg("true")).code != Some(0) {
        return skip("needs unshare(1) and the right to make a pid namespace");
    }
    let words = [&unshare[..], &[LOCKMGR, "run", "./l", "sh", "-c", SIT]].concat();
    let mut running = Running::start(scratch.command(&words).stdin(Stdio::piped()));
    let inner = running.says_pid();
    assert_ne!(inner, pid(1));
    let record = Record::of_lock(scratch.path("l")).expect("the kernel shows us who it is");
    assert_eq!(record.pid, 1, "it is the first one in there");
    running.tell("go on");
    running.finish().exits(0);
}
