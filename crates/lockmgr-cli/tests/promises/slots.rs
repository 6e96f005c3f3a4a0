//! `--slots N --take K`: as many commands at a time as there are slots, each of which knows its own.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Running, Scratch, is_gone, wait_until, waiters};

/// A command that has slots until it is told something; it says which.
fn holder(scratch: &Scratch, options: &[&str]) -> (Running, String) {
    let script = "echo \"slots $LOCKMGR_SLOT\"; read _; exit 0";
    let words = [&["run"], options, &["./s", "sh", "-c", script]].concat();
    let mut holder = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    let slots = holder.says_line();
    (holder, slots)
}

#[test]
fn no_more_than_n_and_each_slot_once() {
    let scratch = Scratch::new();
    let (mut first, one) = holder(&scratch, &["--slots", "3"]);
    let (_second, two) = holder(&scratch, &["--slots", "3", "--take", "2"]);
    assert_eq!((one.as_str(), two.as_str()), ("slots 0", "slots 1,2"));
    // The kernel's table changes while it is read, so now and then a holder is missed.
    wait_until("both holders are named", || {
        let busy = scratch.run(&["run", "-n", "--slots", "3", "./s", "true"]);
        let named = busy.exits(75).err.contains("/s is busy, held by pid ");
        named && busy.err.contains(" and pid ")
    });
    scratch.run(&["run", "-n", "--slots", "2", "./s", "true"]).exits(75);
    scratch.run(&["run", "-w", "0.01", "--slots", "3", "--take", "3", "./s", "true"]).exits(75);
    let mut waiter = Running::start(&mut scratch.lockmgr(&[
        "run",
        "--slots",
        "3",
        "./s",
        "sh",
        "-c",
        "echo $LOCKMGR_SLOT",
    ]));
    first.tell("end");
    waiter.says("0");
    assert!(waiter.wait().success());
}

#[test]
fn the_command_keeps_its_slots_when_lockmgr_is_killed_and_its_child_does_not_when_it_ends() {
    let scratch = Scratch::new();
    let words = ["run", "--slots", "1", "./s", "sh", "-c", "echo $$; read _; exit 0"];
    let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    let command = running.says_pid();
    running.send(Signal::KILL);
    running.wait();
    scratch.run(&["run", "-n", "--slots", "1", "./s", "true"]).exits(75);
    running.tell("end");
    wait_until("the command has ended", || is_gone(command));
    scratch.run(&["run", "-w", "10", "--slots", "1", "./s", "true"]).exits(0);

    // What it leaves behind in the background has the descriptor, and not the slot.
    let script = "sleep 1000 >&- 2>&- & echo $!";
    let left = scratch.run(&["run", "--slots", "1", "./s", "sh", "-c", script]);
    let left =
        crate::support::Stranger(crate::support::pid(left.exits(0).out.trim().parse().unwrap()));
    assert!(!is_gone(left.0));
    scratch.run(&["run", "-n", "--slots", "1", "./s", "true"]).exits(0);
}

#[test]
fn without_fork_the_command_has_the_slots() {
    let scratch = Scratch::new();
    let (mut holder, slots) = holder(&scratch, &["--no-fork", "--slots", "2", "--take", "2"]);
    assert_eq!(slots, "slots 0,1");
    scratch.run(&["run", "-n", "--slots", "2", "./s", "true"]).exits(75);
    holder.tell("end");
    assert!(holder.wait().success());
    scratch.run(&["run", "-n", "--slots", "2", "--take", "2", "./s", "true"]).exits(0);
}

#[test]
fn a_newcomer_does_not_overtake_who_waits_for_many() {
    let scratch = Scratch::new();
    let (mut first, _) = holder(&scratch, &["--slots", "2"]);
    let words = ["run", "--slots", "2", "--take", "2", "./s", "sh", "-c", "echo many"];
    let mut many = Running::start(&mut scratch.lockmgr(&words));
    let path = scratch.path("s");
    // The next one is not let in though a slot is free, and stands in the queue.
    wait_until("it is in front", || {
        scratch.run(&["run", "-n", "--slots", "2", "./s", "true"]).code == Some(75)
    });
    let words = ["run", "--slots", "2", "./s", "sh", "-c", "echo next"];
    let mut next = Running::start(&mut scratch.lockmgr(&words));
    wait_until("it waits", || waiters(&path) == 1);
    first.tell("end");
    many.says("many");
    next.says("next");
}

#[test]
fn what_does_not_go_with_slots_is_refused() {
    let scratch = Scratch::new();
    for words in [
        &["--slots", "0"][..],
        &["--slots", "65537"],
        &["--slots", "x"],
        &["--take", "2"],
        &["--slots", "2", "--take", "3"],
        &["--slots", "2", "--take", "0"],
        &["--slots", "2", "-s"],
        &["--slots", "2", "-m", "ofd"],
        &["--slots", "2", "--remove"],
        &["--slots", "2", "--note", "x"],
        &["--slots", "2", "--and", "./b"],
        &["--slots", "2", "--if-busy=replace"],
    ] {
        scratch.run(&[&["run"], words, &["./s", "touch", "ran"]].concat()).exits(64);
    }
    assert!(!scratch.path("ran").exists() && !scratch.path("s").exists());
}

#[test]
fn the_front_waiter_is_counted_and_waits() {
    let scratch = Scratch::new();
    let _holder = scratch.holder(&["--slots", "1"], "./s");
    let mut front = Running::start(&mut scratch.lockmgr(&["run", "--slots", "1", "./s", "true"]));
    let who = || scratch.run(&["who", "./s"]).exits(0).out.clone();
    wait_until("it has the gate", || who().contains("gate"));
    assert!(who().starts_with("./s: held, 1 waiter\n"), "{}", who());
    let _second = scratch.waiter(&["--slots", "1"], "./s", 1);
    let shown = who();
    assert!(shown.starts_with("./s: held, 2 waiters\n"), "{shown}");
    let gate = shown.lines().find(|line| line.contains("gate")).unwrap();
    let number = format!(" {} ", front.pid().as_raw_nonzero());
    assert!(gate.trim_start().starts_with("waits") && gate.contains(&number), "{shown}");
    front.send(Signal::TERM);
    front.wait();
}
