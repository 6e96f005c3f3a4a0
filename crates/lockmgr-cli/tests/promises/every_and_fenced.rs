//! `--every` runs a command no more often than that, and only success counts; `--fenced` tells the
//! command a number that grows.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use lockmgr::inspect::last_success;

use crate::support::{Running, Scratch, finished, is_locked};

/// Puts the last success this much earlier, as if the time had passed.
fn age(scratch: &Scratch, by: Duration) {
    let noted = last_success(scratch.path("l")).expect("it was noted");
    let content = fs::read_to_string(scratch.path("l")).expect("a record");
    let write = |time: SystemTime| {
        let time = jiff::Timestamp::try_from(time).expect("a time of today");
        format!("\"last_success\":\"{time}\"")
    };
    let aged = content.replace(&write(noted), &write(noted - by));
    assert_ne!(aged, content);
    fs::write(scratch.path("l"), aged).expect("a scratch file");
}

#[test]
fn a_command_that_succeeded_is_not_run_again_too_early() {
    for mechanism in ["flock", "ofd"] {
        let scratch = Scratch::new();
        let run = |options: &[&str], command: &str| {
            let words = [&["run", "-m", mechanism], options, &["./l", "-c", command]].concat();
            scratch.run(&words)
        };
        let every = ["--every", "1h"];
        // Failures do not count, nor does death by a signal.
        run(&every, "exit 3").exits(3).is_silent();
        run(&every, "kill -TERM $$").exits(143).is_silent();
        assert_eq!(last_success(scratch.path("l")), None);
        run(&every, "echo ran > ran").exits(0).is_silent();
        assert!(last_success(scratch.path("l")).is_some());
        run(&every, "echo again > ran").exits(0).says(&["l: skipped", "ago (--every 1h"]);
        run(&["--every", "1h", "-q"], "echo again > ran").exits(0).is_silent();
        assert_eq!(fs::read_to_string(scratch.path("ran")).expect("it ran"), "ran\n");
        assert!(!is_locked(&scratch.path("l")));

        age(&scratch, Duration::from_secs(3599));
        run(&every, "false").exits(0).says(&["skipped"]);
        age(&scratch, Duration::from_secs(2));
        run(&every, "exit 4").exits(4).is_silent();
        // Without --every a success counts as well, since somebody wants to know.
        run(&[], "true").exits(0).is_silent();
        run(&every, "false").exits(0).says(&["skipped"]);
    }
}

#[test]
fn the_success_is_noted_before_the_lock_is_released() {
    let scratch = Scratch::new();
    let words = ["run", "--every", "1h", "./l", "-c", "echo up; read _"];
    let mut running = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    running.says("up");
    let waiter = scratch.waiter(&["--every", "1h"], "./l", 1);
    assert_eq!(last_success(scratch.path("l")), None);
    running.tell("go on");
    running.finish().exits(0);
    // It does not say that it is up, and stay.
    assert_eq!(waiter.finish().exits(0).out, "");
}

#[test]
fn a_time_to_come_and_a_lock_without_every_are_nothing_to_go_by() {
    let scratch = Scratch::new();
    scratch.run(&["run", "./l", "true"]).exits(0).is_silent();
    assert_eq!(last_success(scratch.path("l")), None, "nobody asked");
    let text = "{\"lockmgr\":1,\"last_success\":\"2999-01-01T00:00:00Z\"}\n";
    fs::write(scratch.path("l"), text).expect("a scratch file");
    scratch.run(&["run", "--every", "1h", "./l", "-c", "exit 5"]).exits(5).is_silent();
}

#[test]
fn a_success_that_cannot_be_noted_is_told() {
    let scratch = Scratch::new();
    fs::write(scratch.path("foreign"), "precious").expect("a scratch file");
    let run = |options: &[&str]| {
        scratch.run(&[&["run", "--every", "1h"], options, &["./foreign", "true"]].concat())
    };
    run(&[]).exits(0).says(&["will not know of this run", "did not write"]);
    run(&["-q"]).exits(0).is_silent();
    assert_eq!(fs::read(scratch.path("foreign")).expect("it is there"), b"precious");
}

#[test]
fn the_command_gets_a_token_that_grows() {
    for mechanism in ["flock", "ofd", "posix"] {
        let scratch = Scratch::new();
        let mut last = 0;
        for options in [&[][..], &["--durable"], &["--no-fork"], &["--no-fork", "--durable"]] {
            if mechanism == "posix" && !options.contains(&"--no-fork") {
                continue;
            }
            let fenced = ["run", "-m", mechanism, "--fenced"];
            let words = [&fenced, options, &["./l", "-c", "echo $LOCKMGR_TOKEN"]].concat();
            let ran = scratch.run(&words);
            let token: u64 = ran.exits(0).out.trim().parse().expect("a number");
            assert!(token > last && token < 1 << 53, "{token} {last}");
            last = token;
        }
        let mut plain = scratch.lockmgr(&["run", "./l", "-c", "echo ${LOCKMGR_TOKEN-none}"]);
        assert_eq!(finished(plain.env("LOCKMGR_TOKEN", "7")).exits(0).out, "none\n");
    }
}

#[test]
fn without_a_token_the_command_is_not_started() {
    let scratch = Scratch::new();
    fs::write(scratch.path("foreign"), "precious").expect("a scratch file");
    let run = |lock: &str| {
        let ran = scratch.run(&["run", "--fenced", lock, "-c", "echo ran"]);
        assert_eq!(ran.out, "");
        ran
    };
    run("./foreign").exits(64).says(&["fencing token", "did not write"]);
    let absurd = (1_u64 << 53) - 1;
    let text = format!("{{\"lockmgr\":1,\"token\":{absurd},\"token_again\":{absurd}}}\n");
    fs::write(scratch.path("l"), text).expect("a scratch file");
    run("./l").exits(74).says(&["ahead of the clock"]);
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let scratch = Scratch::new();
    for options in [
        &["--fenced", "-s"][..],
        &["--every", "1h", "--shared"],
        &["--every", "1h", "--no-fork"],
        &["--every", "1h", "--remove"],
        &["--every", "soon"],
        &["--every", "-1"],
        &["--fenced", "--remove"],
        &["--fenced", "-m", "ofd", "--range", "0+1"],
        &["--every", "1h", "-m", "ofd", "--range", "0+1"],
    ] {
        scratch.run(&[&["run"], options, &["./l", "true"]].concat()).exits(64);
    }
    assert!(!scratch.path("l").exists());
}
