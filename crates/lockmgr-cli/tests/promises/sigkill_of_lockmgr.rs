//! SIGKILL of lockmgr does not free the lock under the running command.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Running, Scratch, is_gone, is_locked, wait_until};

#[test]
fn the_command_keeps_the_lock_until_it_ends() {
    let scratch = Scratch::new();
    for mechanism in ["flock", "ofd"] {
        let words = ["run", "-m", mechanism, "./l", "sh", "-c", "echo $$; read _; exit 0"];
        let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
        let command = running.says_pid();
        running.send(Signal::KILL);
        assert!(running.wait().code().is_none());
        assert!(!is_gone(command), "the command died with lockmgr");
        scratch.run(&["run", "-n", "-m", mechanism, "./l", "true"]).exits(75);
        assert!(mechanism != "flock" || is_locked(&scratch.path("l")));
        running.tell("end");
        wait_until("the command has ended", || is_gone(command));
        scratch.run(&["run", "-w", "10", "-m", mechanism, "./l", "true"]).exits(0);
    }
}

#[test]
fn a_waiter_that_is_killed_leaves_the_queue() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let held = crate::support::hold(&path);
    let running = Running::start(&mut scratch.lockmgr(&["run", "./l", "touch", "ran"]));
    wait_until("it waits", || crate::support::is_waited_for(&path));
    running.send(Signal::KILL);
    running.finish();
    assert!(!crate::support::is_waited_for(&path));
    drop(held);
    assert!(!scratch.path("ran").exists());
}
