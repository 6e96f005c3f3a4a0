//! The lock is held from before the command's first instruction to after its last one.

use std::fs;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Running, Scratch, is_locked, is_waited_for, wait_until};

/// A command that says when it runs, and ends when it is told to.
const UNTIL_TOLD: &str = "echo running; read _";

#[test]
fn held_while_the_command_runs_and_free_after() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    for options in [&[][..], &["--no-fork"], &["-w", "60"], &["-n"], &["--hold-tree"]] {
        let words = [&["run"], options, &["./l", "sh", "-c", UNTIL_TOLD]].concat();
        let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
        running.says("running");
        assert!(is_locked(&path), "{options:?}");
        running.tell("end");
        running.finish().exits(0);
        assert!(!is_locked(&path), "{options:?}");
    }
}

#[test]
fn a_command_that_closes_the_descriptor_is_still_locked_for() {
    let scratch = Scratch::new();
    let command = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; echo running; read _";
    let mut running =
        Running::start(scratch.lockmgr(&["run", "./l", "sh", "-c", command]).stdin(Stdio::piped()));
    running.says("running");
    assert!(is_locked(&scratch.path("l")));
    running.tell("end");
    running.finish().exits(0);
}

#[test]
fn the_next_one_waits_and_then_runs() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let mut first = Running::start(
        scratch.lockmgr(&["run", "./l", "sh", "-c", UNTIL_TOLD]).stdin(Stdio::piped()),
    );
    first.says("running");
    let mut second = Running::start(&mut scratch.lockmgr(&["run", "./l", "echo", "second"]));
    wait_until("the second one waits", || is_waited_for(&path));
    first.tell("end");
    first.finish().exits(0);
    second.says("second");
    second.finish().exits(0);
}

#[test]
fn shared_holders_are_inside_together_and_exclude_others() {
    let scratch = Scratch::new();
    let start = || {
        let mut command = scratch.lockmgr(&["run", "-s", "./l", "sh", "-c", UNTIL_TOLD]);
        let mut running = Running::start(command.stdin(Stdio::piped()));
        running.says("running");
        running
    };
    let (mut one, mut two) = (start(), start());
    scratch.run(&["run", "-n", "./l", "true"]).exits(75);
    scratch.run(&["run", "-n", "-s", "./l", "true"]).exits(0);
    one.tell("end");
    one.finish().exits(0);
    scratch.run(&["run", "-n", "./l", "true"]).exits(75);
    two.tell("end");
    two.finish().exits(0);
    scratch.run(&["run", "-n", "./l", "true"]).exits(0);
}

#[test]
fn record_locks_exclude_by_range() {
    let scratch = Scratch::new();
    for options in [&["-m", "ofd"][..], &["-m", "ofd", "--no-fork"], &["-m", "posix", "--no-fork"]]
    {
        let words =
            [&["run", "--range", "10+5"], options, &["./l", "sh", "-c", UNTIL_TOLD]].concat();
        let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
        running.says("running");
        for (range, code) in [("14+1", 75), ("15+1", 0), ("0+10", 0), ("0", 75), ("10+5", 75)] {
            scratch.run(&["run", "-n", "-m", "ofd", "--range", range, "./l", "true"]).exits(code);
        }
        scratch.run(&["run", "-n", "./l", "true"]).exits(0);
        running.tell("end");
        running.finish().exits(0);
        scratch.run(&["run", "-n", "-m", "ofd", "./l", "true"]).exits(0);
    }
}

#[test]
fn without_a_fork_the_command_is_lockmgr_itself() {
    let scratch = Scratch::new();
    let mut command = scratch.lockmgr(&["run", "--no-fork", "./l", "sh", "-c", "echo $$; read _"]);
    let mut running = Running::start(command.stdin(Stdio::piped()));
    assert_eq!(running.says_pid(), running.pid());
    assert!(is_locked(&scratch.path("l")));
    running.send(Signal::TERM);
    let ended = running.finish();
    assert_eq!(ended.signal, Some(Signal::TERM.as_raw()));
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_removed_lock_file_still_excludes() {
    let scratch = Scratch::new();
    fs::write(scratch.path("count"), "0\n").expect("a scratch file");
    // Four loops of read, add, write; each round removes the lock file at its end.
    let round = "read n <count; echo $((n + 1)) >count";
    let one = format!(
        "for i in $(seq 50); do \"$LOCKMGR\" run --remove ./l sh -c '{round}' || exit 1; done"
    );
    let script = format!("for j in 1 2 3 4; do ( {one} ) & done; wait; cat count");
    assert_eq!(scratch.sh(&script).exits(0).out, "200\n");
    assert!(!scratch.path("l").exists(), "the lock file was to be removed");
}

#[test]
fn a_command_that_does_not_start_leaves_nothing() {
    let scratch = Scratch::new();
    scratch.run(&["run", "--remove", "./l", "no-such-command-here"]).exits(127);
    assert!(!scratch.path("l").exists());
    scratch.run(&["run", "./l", "no-such-command-here"]).exits(127);
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_lock_file_replaced_under_the_command_is_told_and_costs_no_status() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["run", "./l", "sh", "-c", "rm l; echo other >l; exit 3"]);
    ran.exits(3).says(&["/l: ", "replaced"]);
    scratch.run(&["run", "-q", "./l", "sh", "-c", "rm l; exit 4"]).exits(4).is_silent();
}
