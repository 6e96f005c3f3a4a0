//! What is sent to lockmgr reaches the command, and lockmgr waits for the command's real end.

use std::fs;
use std::process::Command;

use rustix::process::{Signal, kill_process, kill_process_group};

use crate::support::{
    Running, Scratch, finished, has, has_taken, hold, is_gone, is_locked, is_waited_for, skip,
    state, wait_until,
};

/// Counts the signals of one name it gets, and says each count; another one, TERM, ends it with status 7.
/// No shell, which would hear of children, too.
pub(crate) const COUNTER: &str = "exec perl -e '$| = 1; $SIG{$ARGV[0]} = sub { print ++$n, qq(\\n) }; \
    $SIG{$ARGV[1] || q(TERM)} = sub { exit 7 }; print qq(ready\\n); select(undef, undef, undef, 0.01) while 1' \"$@\"";

#[test]
fn each_signal_reaches_the_command_once() {
    if !has("perl") {
        return skip("perl(1) is not installed here");
    }
    let scratch = Scratch::new();
    for (name, signal) in [
        ("INT", Signal::INT),
        ("HUP", Signal::HUP),
        ("QUIT", Signal::QUIT),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("WINCH", Signal::WINCH),
        ("CONT", Signal::CONT),
        ("TSTP", Signal::TSTP),
    ] {
        let mut running =
            Running::start(&mut scratch.lockmgr(&["run", "./l", "sh", "-c", COUNTER, "-", name]));
        running.says("ready");
        for count in 1..=5 {
            running.send(signal);
            running.says(&count.to_string());
        }
        running.send(Signal::TERM);
        let ended = running.finish();
        ended.exits(7);
        assert_eq!(ended.out, "", "{name} came more often than it was sent");
        assert!(!is_locked(&scratch.path("l")));
    }
}

#[test]
fn a_signal_of_the_group_reaches_the_command_once() {
    let scratch = Scratch::new();
    group_signals_come_once(|words| scratch.lockmgr(&[&["run", "./l"], words].concat()));
}

/// By turns for the one process and for the whole group, each kind of signal.
pub(crate) fn group_signals_come_once(command: impl Fn(&[&str]) -> Command) {
    if !has("perl") {
        return skip("perl(1) is not installed here");
    }
    for (name, signal, end_name, end) in [
        ("INT", Signal::INT, "TERM", Signal::TERM),
        ("HUP", Signal::HUP, "TERM", Signal::TERM),
        ("USR1", Signal::USR1, "TERM", Signal::TERM),
        ("TERM", Signal::TERM, "USR2", Signal::USR2),
    ] {
        let words = ["sh", "-c", COUNTER, "-", name, end_name];
        let mut running = Running::start(&mut command(&words));
        running.says("ready");
        for count in 1..=10 {
            if count % 2 == 0 {
                running.send(signal);
            } else {
                kill_process_group(running.pid(), signal).expect("it is there");
            }
            running.says(&count.to_string());
            // Two at once are one to the kernel, too.
            wait_until("it is taken", || has_taken(running.pid(), signal));
        }
        running.send(end);
        assert_eq!(running.finish().exits(7).out, "", "{name} came more often than it was sent");
    }
}

#[test]
fn a_session_that_is_not_visible_is_no_obstacle() {
    let scratch = Scratch::new();
    // As in a container that was entered from outside: the numbers of our session and of our process
    // group are 0 there.
    let line = "trap 'kill $!; echo hup; exit 3' HUP; sleep 60 & (kill -HUP $PPID); wait";
    let inside = "\"$LOCKMGR\" run ./l sh -c \"$1\"; echo status $?";
    let unshare = ["setsid", "--wait", "unshare", "--pid", "--map-root-user", "--fork", "sh", "-c"];
    if finished(&mut scratch.command(&[&unshare[..], &["true"]].concat())).code != Some(0) {
        skip("this user may make no pid namespaces");
        return;
    }
    let ended = finished(&mut scratch.command(&[&unshare[..], &[inside, "-", line]].concat()));
    ended.exits(0);
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("hup\nstatus 3\n", ""));
}

#[test]
fn signals_before_the_command_is_ready_are_not_lost() {
    let scratch = Scratch::new();
    // As early as it can be: the command's first line shows that it runs, not that it is prepared.
    for _ in 0..20 {
        let mut running = Running::start(&mut scratch.lockmgr(&[
            "run",
            "./l",
            "sh",
            "-c",
            "echo up; exec sleep 60",
        ]));
        running.says("up");
        running.send(Signal::TERM);
        running.finish().exits(143);
    }
}

#[test]
fn the_real_end_is_waited_for() {
    let scratch = Scratch::new();
    let command = "trap 'echo cleaning; read _; echo clean; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut running = Running::start(
        scratch.lockmgr(&["run", "./l", "sh", "-c", command]).stdin(std::process::Stdio::piped()),
    );
    running.says("ready");
    running.send(Signal::TERM);
    running.says("cleaning");
    assert!(is_locked(&scratch.path("l")), "the lock was given up before the command's end");
    running.tell("go on");
    running.says("clean");
    running.finish().exits(3);
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_signal_while_waiting_kills_and_the_command_is_not_started() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    for wait in [&["run"][..], &["run", "-w", "60"]] {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1] {
            let held = hold(&path);
            let words = [wait, &["./l", "touch", "ran"]].concat();
            let running = Running::start(&mut scratch.lockmgr(&words));
            wait_until("it waits for the lock", || is_waited_for(&path));
            running.send(signal);
            let ended = running.finish();
            assert_eq!(ended.signal, Some(signal.as_raw()), "{ended:?}");
            drop(held);
            assert!(!is_locked(&path));
            assert!(!scratch.path("ran").exists(), "the command was started");
        }
    }
}

#[test]
fn a_stop_while_waiting_is_only_a_stop() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let held = hold(&path);
    let running = Running::start(&mut scratch.lockmgr(&["run", "-w", "60", "./l", "echo", "ran"]));
    wait_until("it waits for the lock", || is_waited_for(&path));
    running.send(Signal::STOP);
    wait_until("it is stopped", || state(running.pid()) == Some('T'));
    running.send(Signal::CONT);
    wait_until("it waits again", || is_waited_for(&path));
    drop(held);
    assert_eq!(running.finish().exits(0).out, "ran\n");
}

#[test]
fn lockmgr_stopped_and_continued_while_the_command_ends() {
    let scratch = Scratch::new();
    let mut running = Running::start(
        scratch
            .lockmgr(&["run", "./l", "sh", "-c", "echo $$; read _; exit 5"])
            .stdin(std::process::Stdio::piped()),
    );
    let command = running.says_pid();
    running.send(Signal::STOP);
    wait_until("lockmgr is stopped", || state(running.pid()) == Some('T'));
    running.tell("go on");
    wait_until("the command has ended", || is_gone(command));
    assert!(is_locked(&scratch.path("l")));
    running.send(Signal::CONT);
    running.finish().exits(5);
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_command_stopped_alone_does_not_stop_lockmgr() {
    if !has("perl") {
        return skip("perl(1) is not installed here");
    }
    let scratch = Scratch::new();
    let mut running =
        Running::start(&mut scratch.lockmgr(&["run", "./l", "sh", "-c", COUNTER, "-", "USR1"]));
    running.says("ready");
    let command = only_child(&running);
    kill_process(command, Signal::STOP).unwrap();
    wait_until("the command is stopped", || state(command) == Some('T'));
    // It would come first, and does nothing while the command is stopped.
    running.send(Signal::USR1);
    assert_ne!(state(running.pid()), Some('T'));
    // lockmgr passes it on, and it wakes the command.
    running.send(Signal::CONT);
    running.says("1");
    running.send(Signal::TERM);
    running.finish().exits(7);
}

#[test]
fn what_the_command_sends_to_lockmgr_does_not_come_back() {
    let scratch = Scratch::new();
    let command = "trap 'echo came back' USR1; kill -USR1 $PPID; kill -USR2 $PPID; \
                   trap 'exit 4' TERM; echo sent; while :; do sleep 0.01; done";
    let mut running = Running::start(&mut scratch.lockmgr(&["run", "./l", "sh", "-c", command]));
    running.says("sent");
    running.send(Signal::TERM);
    let ended = running.finish();
    assert_eq!(ended.exits(4).out, "");
}

#[test]
fn signals_of_the_group_do_not_end_lockmgr_before_the_command() {
    let scratch = Scratch::new();
    // The command sends TERM to its whole group, lockmgr included, and takes its time to end.
    let command = "trap 'echo caught' TERM; kill -TERM 0; echo on; exit 6";
    let ran = finished(scratch.command(&["setsid", "--wait"]).args([
        crate::support::LOCKMGR,
        "run",
        "./l",
        "sh",
        "-c",
        command,
    ]));
    assert_eq!(ran.exits(6).out, "caught\non\n");
}

fn only_child(running: &Running) -> rustix::process::Pid {
    let pid = running.pid().as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .expect("the kernel lists children");
    crate::support::pid(list.trim().parse().expect("one child"))
}
