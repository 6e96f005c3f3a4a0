//! What util-linux 2.38 has not: record locks (`--fcntl`, `--start`, `--length`), `--fd`, `-c` without a
//! file. What is expected is what its development version does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use super::both::Whose;
use crate::support::{Finished, Running, Scratch, finished, has, hold, is_root, skip};

fn run(scratch: &Scratch, words: &[&str]) -> Finished {
    let ended = finished(&mut Whose::Ours.command(scratch, words));
    let strict = finished(&mut Whose::Strict.command(scratch, words));
    assert_eq!((ended.code, &ended.out, &ended.err), (strict.code, &strict.out, &strict.err));
    ended
}

fn sh(script: &str) -> Finished {
    finished(&mut Whose::Ours.script(&Scratch::new(), script))
}

/// The script's output, when it ends well and says nothing else.
#[track_caller]
fn says(script: &str, expected: &str) {
    let ended = sh(script);
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (Some(0), expected, ""),
        "{script}"
    );
}

#[test]
fn wrong_command_lines() {
    const HINT: &str = "Try 'flock --help' for more information.\n";
    const MISSING: &str = "missing file descriptor, file or directory";
    let scratch = Scratch::new();
    for (words, said) in [
        (&["-c", "echo hi"][..], MISSING),
        (&["-c"], "-c requires exactly one command argument"),
        (&["-c", "echo hi", "f"], "-c requires exactly one command argument"),
        (&["--command", "echo hi", "f"], "--command requires exactly one command argument"),
        (&["--fd", "9", "--command"], "--command requires exactly one command argument"),
        (&["--fd", "9", "-c", "a", "b"], "-c requires exactly one command argument"),
        (&["--fd", "9"], "missing command"),
        (&["--fd", "9", "--"], "missing command"),
        (&["--fd", "-1", "true"], MISSING),
        (&["--", "-5"], MISSING),
        (&["-n"], MISSING),
        (&["--fd", "x", "true"], "invalid file descriptor: 'x'"),
        (&["--fd=0x9", "true"], "invalid file descriptor: '0x9'"),
        (
            &["--fd", "2147483648", "true"],
            "invalid file descriptor: '2147483648': Numerical result out of range",
        ),
        (&["--start", "-1", "f", "true"], "invalid as start offset: '-1': Invalid argument"),
        (&["--start", "x", "f", "true"], "invalid as start offset: 'x': Invalid argument"),
        (&["--start", "1.5", "f", "true"], "invalid as start offset: '1.5': Invalid argument"),
        (
            &["--start", "1Z", "f", "true"],
            "invalid as start offset: '1Z': Numerical result out of range",
        ),
        (
            &["--length", "-5", "f", "true"],
            "invalid as length of lock range: '-5': Invalid argument",
        ),
        (&["--length=", "f", "true"], "invalid as length of lock range: '': Invalid argument"),
    ] {
        let ended = run(&scratch, words);
        assert_eq!(ended.exits(64).err, format!("flock: {said}\n"), "{words:?}");
    }
    for (words, said) in [
        (&["--fd"][..], "option '--fd' requires an argument"),
        (&["-s", "--start"], "option '--start' requires an argument"),
        (&["--le"], "option '--le' requires an argument"),
        (&["--f", "f", "true"], "unrecognized option '--f'"),
        (&["--s", "f", "true"], "unrecognized option '--s'"),
        (&["--fcntl=1", "f", "true"], "unrecognized option '--fcntl=1'"),
        (&["-?"], "unrecognized option '-?'"),
        (&["--", "-5", "-n"], ""),
    ] {
        let ended = run(&scratch, words);
        if said.is_empty() {
            // `-5` is a file, and `-n` no command.
            ended.exits(69);
            continue;
        }
        assert_eq!(ended.exits(64).err, format!("flock: {said}\n{HINT}"), "{words:?}");
    }
    assert!(!scratch.path("f").exists());
    run(&scratch, &["--fd", "77", "true"]).exits(65);
    let refused = run(&scratch, &["--start", "8E", "f", "true"]);
    assert_eq!(refused.exits(65).err, "flock: f: Invalid argument\n");
}

#[test]
fn record_locks_are_a_world_of_their_own() {
    says("flock --fcntl f flock -n f echo in", "in\n");
    says("flock --fcntl f flock --fcntl -n f echo in || echo out $?", "out 1\n");
    says("flock --fcntl -s f flock --fcntl -s -n f echo in", "in\n");
    says("flock --fcntl -s f flock --fcn -n -E 9 f echo in || echo out $?", "out 9\n");
    says("flock --fcntl f flock --fcntl -w .02 -E 8 f echo in || echo out $?", "out 8\n");
    says("flock f flock --fcntl -n f echo in", "in\n");
    // With lockmgr's own, which are the same.
    says("flock --fcntl f \"$LOCKMGR\" run -m ofd -n -q ./f echo in || echo out $?", "out 75\n");
    says(
        "\"$LOCKMGR\" run -m ofd --range 5+5 ./f flock --fcntl -n f true || echo out $?",
        "out 1\n",
    );
}

#[test]
fn how_the_file_is_opened_for_them() {
    let flags = "grep flags /proc/self/fdinfo/3";
    says(&format!("flock --fcntl f {flags}"), "flags:\t0100001\n");
    says(&format!("flock --fcntl -n f {flags}"), "flags:\t0100001\n");
    says(&format!("mkfifo f; flock --fcntl -n f {flags}"), "flags:\t0100001\n");
    says(&format!("flock --fcntl -s f {flags}"), "flags:\t0100000\n");
    says(&format!("flock --fcntl -u f {flags}"), "flags:\t0100000\n");
    says(
        "mkdir d; flock --fcntl -s d echo in; flock --fcntl -s d flock --fcntl -s -n d echo in",
        "in\nin\n",
    );
    if is_root() {
        let words = ["--fcntl", "/", "true"];
        let scratch = Scratch::new();
        fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).expect("ours");
        let refused = finished(Whose::Ours.command(&scratch, &words).uid(54321).gid(54321));
        assert_eq!(refused.exits(65).err, "flock: /: Permission denied\n");
    }
    let refused = sh("mkdir d; flock --fcntl d echo in");
    assert_eq!(
        (refused.exits(65).out.as_str(), refused.err.as_str()),
        ("", "flock: d: Is a directory\n")
    );
}

#[test]
fn ranges() {
    says("flock --start 10 --length 5 f flock --start 15 -n f echo in", "in\n");
    says("flock --start 10 --length 5 f flock --length 10 -n f echo in", "in\n");
    says("flock --start 10 --length 5 f flock --start 14 -n f echo in || echo out", "out\n");
    says(
        "flock --start 10 --length 0 f flock --start 1G --length 1 -n f echo in || echo out",
        "out\n",
    );
    says("flock --length 1K f flock --start 1023 --length 1 -n f echo in || echo out", "out\n");
    says("flock --length 1K f flock --start 1KiB -n f echo in", "in\n");
    says("flock --length 1KB f flock --start 1000 -n f echo in", "in\n");
    let range = "sed -n 's/^lock:.* \\([0-9]* [0-9EOF]*\\)$/\\1/p' /proc/self/fdinfo/3";
    says(&format!("flock --start 0x10 --length 010 f {range}"), "16 23\n");
    says(&format!("flock --st 2M f {range}"), "2097152 EOF\n");
    says(
        &format!("flock --start 6000000000000000000 --length 1 f {range}"),
        "6000000000000000000 6000000000000000000\n",
    );
}

/// Of the same family, with the same reader of sizes.
#[test]
fn sizes_are_read_as_util_linux_reads_them() {
    if !has("fallocate") {
        return skip("util-linux's fallocate(1) is not installed here");
    }
    for size in [
        "1",
        "010",
        "0x10",
        "0x10K",
        "1K",
        "1k",
        "1Kb",
        "1kb",
        "1KiB",
        "1kib",
        "1KIB",
        "1.5K",
        "1.50K",
        "0.3K",
        "1.10K",
        "1.010K",
        "1.25MiB",
        "0.05KB",
        "1.05M",
        "1.100M",
        "0.123456K",
        "1.KiB",
        " 5",
        "+5",
        "5B",
        "1.",
        "1.0",
        "1.5",
        "x",
        "K",
        "1.9999999999999999999999K",
        "0.00000000000000000000001K1",
    ] {
        let scratch = Scratch::new();
        let script = format!("fallocate -l '{size}' size && stat -c %s size");
        let theirs = scratch.sh(&script);
        let script = format!(
            "flock --length '{size}' f sed -n 's/^lock:.* 0 \\([0-9]*\\)$/\\1/p' /proc/self/fdinfo/3"
        );
        let ours = finished(&mut Whose::Ours.script(&scratch, &script));
        let last = ours.out.trim().parse::<u64>().ok();
        let length = theirs.out.trim().parse::<u64>().ok();
        assert_eq!(last.map(|last| last + 1), length, "{size}: {ours:?} {theirs:?}");
    }
}

#[test]
fn a_descriptor_and_a_command() {
    says(
        "exec 9>f; flock --fd 9 echo in; flock -n f true || echo still held; flock -u 9; flock -n f echo free",
        "in\nstill held\nfree\n",
    );
    says("exec 9>f; flock --fd 9 -c 'echo $0 in; exit 4'; echo $?", "/bin/sh in\n4\n");
    says("exec 9>f; flock -n --fd=9 --command 'echo in'", "in\n");
    says("exec 9>f; flock --fd ' 09' sh -c 'kill -9 $$'; echo $?", "137\n");
    says(
        "exec 9>f; flock -F --fd 9 f -c x 2>&1; echo $?",
        "flock: failed to execute f: No such file or directory\n69\n",
    );
    says(
        "exec 9>f; flock -o --fd 9 ls /proc/self/fd | grep -x 9 || echo closed; flock -n f true || echo held",
        "closed\nheld\n",
    );
    says(
        "exec 9>f 8>f; flock 8; flock -n -E 5 --fd 9 echo in; echo $?; flock -w .02 --fd 9 echo in; echo $?",
        "5\n1\n",
    );
    says(
        "exec 9>f; flock --fcntl --length 5 --fd 9 true; flock --fcntl -n f true || echo held",
        "held\n",
    );
    let ended = sh("exec 9>f; exec 9<f; flock --fd 9 true; flock --fcntl --fd 9 true");
    assert_eq!(ended.exits(65).err.lines().last(), Some("flock: 9: Bad file descriptor"));
}

#[test]
fn a_record_lock_is_waited_for() {
    let scratch = Scratch::new();
    let script = "flock --fcntl f sh -c 'echo in; read _'";
    let mut holder =
        Running::start(Whose::Ours.script(&scratch, script).stdin(std::process::Stdio::piped()));
    holder.says("in");
    let path = scratch.path("f");
    for whose in [Whose::Ours, Whose::Strict] {
        let late = finished(
            &mut whose.command(&scratch, &["--verbose", "--fcntl", "-w", ".02", "f", "true"]),
        );
        assert_eq!(late.exits(1).err, "flock: timeout while waiting to get lock\n");
    }
    let words = ["--fcntl", "-w", "60", "f", "echo", "mine"];
    let mut waiter = Running::start(&mut Whose::Ours.command(&scratch, &words));
    crate::support::wait_until("it waits", || crate::support::is_waited_for(&path));
    holder.tell("go");
    holder.finish().exits(0);
    waiter.says("mine");
    waiter.finish().exits(0);
    // flock(2)'s locks do not disturb it.
    let _held = hold(&path);
    run(&scratch, &["--fcntl", "-n", "f", "true"]).exits(0);
}
