//! `--fair`: nobody overtakes who waits in line.

use std::process::Stdio;

use crate::support::{Running, Scratch, wait_until, waiters};

#[test]
fn a_newcomer_that_shares_does_not_overtake_a_writer() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let words = ["run", "-s", "--fair", "./l", "sh", "-c", "echo up; read _; exit 0"];
    let mut reader = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    reader.says("up");
    let script = "echo writer; read _; exit 0";
    let words = ["run", "--fair", "./l", "sh", "-c", script];
    let mut writer = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    wait_until("the writer waits", || waiters(&path) == 1);
    scratch.run(&["run", "-n", "-s", "--fair", "./l", "true"]).exits(75);
    let words = ["run", "-s", "--fair", "./l", "echo", "next"];
    let mut next = Running::start(&mut scratch.lockmgr(&words));
    wait_until("the next one waits", || waiters(&path) == 2);
    // Whoever is not fair goes past.
    scratch.run(&["run", "-n", "-s", "./l", "true"]).exits(0);
    reader.tell("end");
    writer.says("writer");
    wait_until("the next one waits for the writer", || waiters(&path) == 1);
    writer.tell("end");
    next.says("next");
}

#[test]
fn what_cannot_be_fair_is_refused() {
    let scratch = Scratch::new();
    scratch.run(&["run", "--fair", "--no-fork", "-m", "posix", "./l", "true"]).exits(64);
    std::fs::create_dir(scratch.path("d")).unwrap();
    scratch.run(&["run", "--fair", "./d", "true"]).exits(64).says(&["directory"]);
    scratch.run(&["run", "--fair", "-m", "ofd", "./l", "true"]).exits(0);
    scratch.run(&["run", "--fair", "--slots", "2", "./s", "true"]).exits(0);
    scratch.run(&["run", "--fair", "--and", "./k", "./l", "true"]).exits(0);
}
