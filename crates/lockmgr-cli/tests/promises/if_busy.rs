//! `--if-busy=fail|skip` and `--max-waiting`: what is done instead of waiting.

use crate::support::{Running, Scratch, hold, wait_until, waiters};

#[test]
fn fail_is_not_to_wait() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("l"));
    for options in [&["--if-busy=fail"][..], &["--if-busy=fail", "-w", "1h"]] {
        let words = [&["run"], options, &["./l", "touch", "ran"]].concat();
        scratch.run(&words).exits(75).says(&["/l is busy"]);
    }
    scratch.run(&["run", "--if-busy=fail", "-E", "9", "./l", "touch", "ran"]).exits(9);
    assert!(!scratch.path("ran").exists());
}

#[test]
fn skip_is_success_and_says_so() {
    let scratch = Scratch::new();
    let held = hold(&scratch.path("l"));
    for options in [&[][..], &["-w", "10ms"], &["-n"], &["-E", "9"]] {
        let words = [&["run", "--if-busy=skip"], options, &["./l", "touch", "ran"]].concat();
        scratch.run(&words).exits(0).says(&["skipped: ", "/l"]);
    }
    scratch.run(&["run", "-q", "--if-busy=skip", "./l", "touch", "ran"]).exits(0).is_silent();
    assert!(!scratch.path("ran").exists());
    // Only a busy lock is skipped.
    scratch.run(&["run", "--if-busy=skip", "./no/such", "touch", "ran"]).exits(73);
    drop(held);
    scratch.run(&["run", "--if-busy=skip", "./l", "sh", "-c", "exit 3"]).exits(3);
}

#[test]
fn slots_and_sets_are_skipped_too() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("b"));
    let words = ["run", "--if-busy=skip", "--and", "./b", "./a", "touch", "ran"];
    scratch.run(&words).exits(0).says(&["skipped: "]);
    let _slot = scratch.holder(&["--slots", "1"], "./s");
    let words = ["run", "--if-busy=skip", "--slots", "1", "./s", "touch", "ran"];
    scratch.run(&words).exits(0).says(&["skipped: "]);
    assert!(!scratch.path("ran").exists());
}

#[test]
fn where_enough_wait_already_it_gives_up() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let _held = hold(&path);
    let not = |count: &str, options: &[&str]| {
        let words = [&["run", "--max-waiting", count], options, &["./l", "touch", "ran"]].concat();
        scratch.run(&words)
    };
    let me = format!("held by pid {} (", std::process::id());
    not("0", &[]).exits(75).says(&["/l is busy, ", &me, "; waiting is not wanted"]);
    let _first = scratch.waiter(&["--max-waiting", "1"], "./l", 1);
    not("1", &[]).exits(75).says(&["/l is busy, ", &me, "; 1 waits already"]);
    let _second = scratch.waiter(&["--max-waiting", "2"], "./l", 2);
    not("2", &["-E", "7"]).exits(7);
    not("2", &["--if-busy=skip", "-w", "1h"]).exits(0).says(&["skipped: "]);
    assert!(!scratch.path("ran").exists());
}

#[test]
fn those_in_line_are_counted() {
    let scratch = Scratch::new();
    for options in [&["--fair"][..], &["--slots", "1"]] {
        let name = options[0].trim_start_matches('-');
        let _holder = scratch.holder(options, format!("./{name}"));
        let lock = format!("./{name}");
        let start = || {
            let words = [&["run"], options, &[&lock, "true"]].concat();
            Running::start(&mut scratch.lockmgr(&words))
        };
        let give_up = |count: &str| {
            let more = ["--max-waiting", count, "-w", "1ms", &lock, "true"];
            scratch.run(&[&["run"], options, &more].concat()).exits(75).err.clone()
        };
        let _first = start();
        wait_until("the first one is in front", || give_up("1").contains("1 waits already"));
        let _second = start();
        wait_until("the second one waits", || give_up("2").contains("2 wait already"));
        assert!(waiters(&scratch.path(name)) > 0);
    }
}
