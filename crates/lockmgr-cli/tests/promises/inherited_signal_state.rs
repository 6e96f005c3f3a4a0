//! The command finds mask and ignored signals as lockmgr found them, and they do not break lockmgr.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{LOCKMGR, Running, Scratch, finished, hold, skip};

/// Prints the lines that show which signals are blocked and ignored.
const SHOW: [&str; 4] = ["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"];

/// Ways to be started; each goes before the program's words.
const STARTS: [&[&str]; 6] = [
    &["env"],
    &["env", "--ignore-signal=PIPE"],
    &["env", "--ignore-signal=CHLD", "--ignore-signal=HUP", "--ignore-signal=INT"],
    &["env", "--block-signal=ALRM"],
    &[
        "env",
        "--block-signal=CHLD",
        "--block-signal=TERM",
        "--block-signal=USR1",
        "--block-signal=PIPE",
    ],
    &["env", "--block-signal", "--ignore-signal"],
];

fn can_set_signals() -> bool {
    let scratch = Scratch::new();
    let works =
        finished(&mut scratch.command(&["env", "--block-signal=ALRM", "true"])).code == Some(0);
    if !works {
        skip("env(1) has no --block-signal here (GNU coreutils 8.31 has)");
    }
    works
}

#[test]
fn the_command_inherits_what_lockmgr_inherited() {
    if !can_set_signals() {
        return;
    }
    let scratch = Scratch::new();
    for start in STARTS {
        let direct = finished(&mut scratch.command(&[start, &SHOW].concat()));
        direct.exits(0);
        for options in [&[][..], &["--no-fork"], &["-w", "5"], &["--hold-tree"], &["-v"]] {
            let words = [start, &[LOCKMGR, "run"], options, &["./l"], &SHOW].concat();
            let under = finished(&mut scratch.command(&words));
            assert_eq!(under.exits(0).out, direct.out, "{start:?} {options:?}");
        }
    }
}

#[test]
fn the_command_inherits_it_after_a_wait_with_a_deadline() {
    if !can_set_signals() {
        return;
    }
    let scratch = Scratch::new();
    let path = scratch.path("l");
    for start in STARTS {
        let direct = finished(&mut scratch.command(&[start, &SHOW].concat()));
        let held = hold(&path);
        let words = [start, &[LOCKMGR, "run", "-w", "60", "./l"], &SHOW].concat();
        let running = Running::start(&mut scratch.command(&words));
        crate::support::wait_until("it waits", || crate::support::is_waited_for(&path));
        drop(held);
        assert_eq!(running.finish().exits(0).out, direct.out, "{start:?}");
    }
}

#[test]
fn the_status_is_known_even_if_sigchld_was_ignored_or_blocked() {
    if !can_set_signals() {
        return;
    }
    let scratch = Scratch::new();
    for start in STARTS {
        let words = [start, &[LOCKMGR, "run", "./l", "sh", "-c", "exit 37"]].concat();
        finished(&mut scratch.command(&words)).exits(37);
    }
}

#[test]
fn a_deadline_ends_the_wait_whatever_is_blocked_or_ignored() {
    if !can_set_signals() {
        return;
    }
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("l"));
    for start in STARTS {
        let words = [start, &[LOCKMGR, "run", "-w", "0.2", "./l", "true"]].concat();
        let since = Instant::now();
        finished(&mut scratch.command(&words)).exits(75);
        assert!(since.elapsed() >= Duration::from_millis(200), "{start:?}: too early");
    }
}

#[test]
fn what_was_ignored_is_not_passed_on() {
    if !can_set_signals() {
        return;
    }
    let scratch = Scratch::new();
    // As under nohup. A shell cannot trap what was ignored when it started; this one sees the signals
    // that come all the same, because env restores the default.
    let mut running = Running::start(&mut scratch.command(&[
        "env",
        "--ignore-signal=HUP",
        LOCKMGR,
        "run",
        "./l",
        "env",
        "--default-signal=HUP",
        "sh",
        "-c",
        "trap 'echo hangup' HUP; trap 'exit 8' TERM; echo ready; while :; do sleep 0.01; done",
    ]));
    running.says("ready");
    running.send(Signal::HUP);
    running.send(Signal::TERM);
    assert_eq!(running.finish().exits(8).out, "");
}

#[test]
fn the_environment_and_the_directory_are_the_same() {
    let scratch = Scratch::new();
    let direct = scratch.sh("exec env -u _ sh -c 'pwd; env; umask; ulimit -a'");
    let under = scratch
        .sh("exec env -u _ \"$LOCKMGR\" run ./l env -u LOCKMGR_LOCK -u LOCKMGR_MODE \
         -u LOCKMGR_WAITED_MS sh -c 'pwd; env; umask; ulimit -a'");
    assert_eq!(under.exits(0).out, direct.exits(0).out);
}
