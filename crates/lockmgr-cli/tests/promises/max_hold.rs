//! A limit on the hold ends the command and everything in its process group, and the lock is released
//! when that has really ended, not when the time is over.

use std::fs;

use rustix::process::{Pid, Signal, getpgid, kill_process};

use crate::support::{
    Finished, Running, Scratch, Stranger, finished, is_gone, is_locked, json, pid, wait_until,
};

/// Time enough for a shell to get ready; the limits here come after it.
const READY: &str = "3";

/// Runs lockmgr with SIGTERM ignored, which its command inherits: so it does not end at its limit.
fn deaf(scratch: &Scratch, words: &str) -> Running {
    let line = format!("trap '' TERM; exec \"$LOCKMGR\" run {words}");
    Running::start(&mut scratch.command(&["/bin/sh", "-c", &line]))
}

#[test]
fn the_command_is_told_to_end_and_the_status_is_124() {
    let scratch = Scratch::new();
    let options = ["run", "--max-hold", "0.1", "--result", "fd:1", "./l"];
    let ended = scratch.run(&[&options[..], &["sleep", "1000"]].concat());
    ended.exits(124).says(&["has held the lock for", "SIGTERM"]);
    let result = json(&ended);
    assert_eq!((&result["outcome"], &result["signal"]), (&"max-hold".into(), &"SIGTERM".into()));
    assert!(result["held_ms"].as_f64() >= Some(100.0), "{result}");
    assert!(!is_locked(&scratch.path("l")));
    // Its own status if it ends in time, also without a limit that could come.
    for limit in ["1000", "1000000000000000"] {
        scratch
            .run(&["run", "--max-hold", limit, "./l", "sh", "-c", "exit 9"])
            .exits(9)
            .is_silent();
    }
}

#[test]
fn a_command_that_ends_well_when_told_is_over_its_time_all_the_same() {
    let scratch = Scratch::new();
    let line = "trap 'kill $!; exit 0' TERM; sleep 1000 & wait";
    scratch.run(&["run", "--max-hold", READY, "./l", "sh", "-c", line]).exits(124);
}

#[test]
fn a_command_that_does_not_end_is_killed_and_the_status_is_137() {
    let scratch = Scratch::new();
    let words = "--max-hold 0.05 --kill-after 0.05 --result fd:1 ./l sleep 1000 2>err";
    let ended = deaf(&scratch, words).finish();
    ended.exits(137);
    let said = fs::read_to_string(scratch.path("err")).unwrap();
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(said.contains("SIGTERM") && said.contains("SIGKILL"), "{said}");
    let result = json(&ended);
    assert_eq!((&result["outcome"], &result["signal"]), (&"max-hold".into(), &"SIGKILL".into()));
}

#[test]
fn the_lock_is_kept_until_the_real_end() {
    let scratch = Scratch::new();
    let words = "-q --max-hold 0.05 --log log ./l sh -c 'echo $$; exec sleep 1000'";
    let mut running = deaf(&scratch, words);
    let command = running.says_pid();
    let log = || fs::read_to_string(scratch.path("log")).unwrap_or_default();
    wait_until("the limit is reached", || log().contains("\"event\":\"max-hold\""));
    assert!(is_locked(&scratch.path("l")));
    kill_process(command, Signal::KILL).unwrap();
    running.finish().exits(137);
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn what_is_stopped_hears_of_it() {
    let scratch = Scratch::new();
    let stop = "kill -STOP $$; exit 3";
    scratch.run(&["run", "--max-hold", "0.3", "./l", "sh", "-c", stop]).exits(124);
}

#[test]
fn the_whole_group_is_told_and_nobody_outside_of_it() {
    let scratch = Scratch::new();
    let line = "sleep 1000 & echo $!; echo $$; wait";
    let mut running = Running::start(&mut scratch.lockmgr(&[
        "run",
        "-q",
        "--max-hold",
        READY,
        "./l",
        "sh",
        "-c",
        line,
    ]));
    let (child, command) = (running.says_pid(), running.says_pid());
    assert_eq!(getpgid(Some(child)), Ok(command));
    assert_ne!(getpgid(Some(running.pid())), Ok(command));
    // It leads a group of this test's making, and was not signalled itself.
    running.finish().exits(124);
    wait_until("the other one ends, too", || is_gone(child));
}

#[test]
fn without_a_limit_there_is_no_group_of_its_own() {
    let scratch = Scratch::new();
    let line = "echo $$; exec sleep 1000";
    let mut running = Running::start(&mut scratch.lockmgr(&[
        "run",
        "--warn-after",
        "1000",
        "./l",
        "sh",
        "-c",
        line,
    ]));
    let command = running.says_pid();
    assert_eq!(getpgid(Some(command)), getpgid(Some(running.pid())));
}

#[test]
fn with_hold_tree_the_whole_tree_is_told() {
    let scratch = Scratch::new();
    // A session of its own, below one that has ended: neither group nor parent lead to it.
    let line = "setsid sh -c 'sleep 1000 & echo $! >inner.new; mv inner.new inner; wait' & \
                setsid sleep 1000 & echo $!; exit 5";
    let mut running = Running::start(&mut scratch.lockmgr(&[
        "run",
        "-q",
        "--hold-tree",
        "--max-hold",
        READY,
        "./l",
        "sh",
        "-c",
        line,
    ]));
    let outer = running.says_pid();
    wait_until("it is there", || scratch.path("inner").exists());
    let text = fs::read_to_string(scratch.path("inner")).unwrap();
    let inner: Pid = pid(text.trim().parse().unwrap());
    let (outer, inner) = (Stranger(outer), Stranger(inner));
    running.finish().exits(124);
    assert!(is_gone(outer.0) && is_gone(inner.0));
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn with_hold_tree_whoever_is_deaf_is_killed_wherever_it_is() {
    let scratch = Scratch::new();
    let words = "-q --hold-tree --max-hold 0.05 --kill-after 0.05 ./l \
                 sh -c 'setsid sh -c \"sleep 1000 & sleep 1000\" & sleep 1000'";
    deaf(&scratch, words).finish().exits(137);
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_warning_comes_once_and_changes_nothing() {
    let scratch = Scratch::new();
    let warned = |options: &[&str], seconds: &str| -> Finished {
        let options = [&["run", "--warn-after", "0.05"][..], options].concat();
        scratch.run(
            &[&options[..], &["./l", "sh", "-c", &format!("sleep {seconds}; exit 4")]].concat(),
        )
    };
    warned(&[], "0.3").exits(4).says(&["has held the lock for"]);
    warned(&["-q"], "0.3").exits(4).is_silent();
    scratch.run(&["run", "--warn-after", "1000", "./l", "true"]).exits(0).is_silent();
}

#[test]
fn the_time_counts_from_the_grant() {
    let scratch = Scratch::new();
    let mut holder = scratch.holder(&[], "./l");
    let mut waiter = Running::start(&mut scratch.lockmgr(&[
        "run",
        "-q",
        "--max-hold",
        READY,
        "--log",
        "log",
        "./l",
        "sh",
        "-c",
        "echo up; exec sleep 1000",
    ]));
    let log = || fs::read_to_string(scratch.path("log")).unwrap_or_default();
    wait_until("it waits", || log().contains("\"event\":\"waiting\""));
    // Longer than the limit, if the wait counted.
    std::thread::sleep(std::time::Duration::from_secs_f64(READY.parse().unwrap()));
    holder.send(Signal::TERM);
    holder.wait();
    waiter.says("up");
    assert!(!log().contains("max-hold"));
    waiter.finish().exits(124);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scratch = Scratch::new();
    for options in [
        &["--max-hold", "1", "--no-fork"][..],
        &["--warn-after", "1", "--no-fork"],
        &["--result", "result", "--no-fork"],
        &["--log", "log", "--no-fork"],
        &["--kill-after", "1"],
        &["--max-hold", "0"],
        &["--max-hold", "-1"],
    ] {
        let words = [&["run"][..], options, &["./l", "true"]].concat();
        let ended = finished(&mut scratch.lockmgr(&words));
        assert_eq!(ended.exits(64).out, "", "{options:?}");
        assert!(ended.err.contains("--"), "{ended:?}");
    }
    assert!(!scratch.path("l").exists());
}
