//! `--hold-tree`: the lock is held until the last descendant of the command has ended.

use rustix::process::Signal;

use crate::support::{Running, Scratch, Stranger, is_gone, is_locked, wait_until};

/// Leaves a process in the background that ends when `pipe` is written to, in a session of its own.
const LEAVE_ONE: &str = "mkfifo pipe; setsid sh -c 'echo $$; exec >/dev/null; read _ <pipe' & read _ </dev/null; exit 4";

#[test]
fn the_lock_is_held_for_what_was_left_behind() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let mut running =
        Running::start(&mut scratch.lockmgr(&["run", "--hold-tree", "./l", "sh", "-c", LEAVE_ONE]));
    let left = Stranger(running.says_pid());
    // The end of what is said is the end of the command: the one that is left has closed its output.
    wait_until("the command has ended", || only_children(&running) == [left.0]);
    assert!(is_locked(&path));
    std::fs::write(scratch.path("pipe"), "end\n").unwrap();
    running.finish().exits(4);
    assert!(is_gone(left.0));
    assert!(!is_locked(&path));
}

#[test]
fn signals_reach_what_was_left_behind() {
    let scratch = Scratch::new();
    let mut running =
        Running::start(&mut scratch.lockmgr(&["run", "--hold-tree", "./l", "sh", "-c", LEAVE_ONE]));
    let left = Stranger(running.says_pid());
    wait_until("the command has ended", || only_children(&running) == [left.0]);
    running.send(Signal::TERM);
    running.finish().exits(4);
    assert!(is_gone(left.0));
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn orphans_that_end_while_the_command_runs_are_no_zombies() {
    let scratch = Scratch::new();
    // The orphan's parent is gone, so it is lockmgr's child, and lockmgr must wait for it.
    let command = "( sh -c 'echo $$' & ); read _; exit 2";
    let mut running = Running::start(
        scratch
            .lockmgr(&["run", "--hold-tree", "./l", "sh", "-c", command])
            .stdin(std::process::Stdio::piped()),
    );
    let orphan = running.says_pid();
    wait_until("the orphan is waited for", || crate::support::state(orphan).is_none());
    running.tell("end");
    running.finish().exits(2);
}

#[test]
fn nobody_left_is_the_plain_case() {
    let scratch = Scratch::new();
    scratch.run(&["run", "--hold-tree", "./l", "true"]).exits(0).is_silent();
    scratch.run(&["run", "--hold-tree", "./l", "sh", "-c", "kill $$"]).exits(143).is_silent();
    scratch.run(&["run", "--hold-tree", "./l", "no-such-command-here"]).exits(127);
}

fn only_children(running: &Running) -> Vec<rustix::process::Pid> {
    let pid = running.pid().as_raw_nonzero();
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .expect("the kernel lists children");
    list.split_whitespace().map(|pid| crate::support::pid(pid.parse().expect("a pid"))).collect()
}
