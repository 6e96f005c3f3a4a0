//! `--and`, `--and-shared`: all of the locks or none, whatever the order, and each as safe as one alone.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Running, Scratch, hold, is_gone, is_locked, wait_until};

const HOLD: [&str; 3] = ["sh", "-c", "echo $$; read _; exit 0"];

fn holder(scratch: &Scratch, options: &[&str]) -> Running {
    let words = [&["run"], options, &HOLD].concat();
    Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()))
}

#[test]
fn all_are_held_and_all_are_released() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch, &["--and", "./b", "--and-shared", "./c", "./a"]);
    holder.says_pid();
    for name in ["a", "b", "c"] {
        assert!(is_locked(&scratch.path(name)), "{name}");
    }
    scratch.run(&["run", "-n", "-s", "./b", "true"]).exits(75);
    scratch.run(&["run", "-n", "-s", "./c", "true"]).exits(0);
    scratch.run(&["run", "-n", "./c", "true"]).exits(75);
    holder.tell("end");
    assert!(holder.wait().success());
    for name in ["a", "b", "c"] {
        assert!(!is_locked(&scratch.path(name)), "{name}");
    }
}

#[test]
fn one_that_is_busy_means_none_is_held() {
    let scratch = Scratch::new();
    let held = hold(&scratch.path("b"));
    let words = ["run", "-n", "--and", "./b", "./a", "touch", "ran"];
    scratch.run(&words).exits(75).says(&["/b is busy"]);
    let words = ["run", "--and", "./b", "./a", "echo", "granted"];
    let mut waiter = Running::start(&mut scratch.lockmgr(&words));
    wait_until("it waits", || crate::support::is_waited_for(&scratch.path("b")));
    assert!(!is_locked(&scratch.path("a")));
    drop(held);
    waiter.says("granted");
    assert!(!scratch.path("ran").exists());
}

#[test]
fn the_command_keeps_all_of_them_when_lockmgr_is_killed() {
    let scratch = Scratch::new();
    for mechanism in ["flock", "ofd"] {
        let options = ["-m", mechanism, "--and", "./b", "--and", "./c", "./a"];
        let mut running = holder(&scratch, &options);
        let command = running.says_pid();
        running.send(Signal::KILL);
        running.wait();
        for lock in ["./a", "./b", "./c"] {
            scratch.run(&["run", "-n", "-m", mechanism, lock, "true"]).exits(75);
        }
        running.tell("end");
        wait_until("the command has ended", || is_gone(command));
        scratch.run(&[&["run", "-w", "10"], &options[..], &["true"]].concat()).exits(0);
    }
}

#[test]
fn without_fork_every_mechanism_keeps_all_of_them() {
    let scratch = Scratch::new();
    for mechanism in ["flock", "ofd", "posix"] {
        let mut running = holder(&scratch, &["--no-fork", "-m", mechanism, "--and", "./b", "./a"]);
        let command = running.says_pid();
        assert_eq!(command, running.pid());
        for lock in ["./a", "./b"] {
            let words = ["run", "-n", "--no-fork", "-m", mechanism, lock, "true"];
            scratch.run(&words).exits(75);
        }
        running.tell("end");
        assert!(running.wait().success());
        let words = ["run", "-n", "--no-fork", "-m", mechanism, "--and", "./a", "./b", "true"];
        scratch.run(&words).exits(0);
    }
}

#[test]
fn what_is_given_twice_is_one_lock_and_the_order_does_not_matter() {
    let scratch = Scratch::new();
    let script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); \
                  \"$LOCKMGR\" run --and ./b ./a sh -c 'echo x >> n' || exit 1; done & \
                  i=0; while [ $i -lt 20 ]; do i=$((i+1)); \
                  \"$LOCKMGR\" run --and ./a --and-shared ../$(basename \"$PWD\")/b ./b \
                  sh -c 'echo x >> n' || exit 1; done; wait $! && wc -l < n";
    assert_eq!(scratch.sh(script).exits(0).out.trim(), "40");
}

#[test]
fn remove_removes_all_of_them_and_a_record_is_in_each() {
    let scratch = Scratch::new();
    let words = ["run", "--note", "why", "--remove", "--and", "./b", "./a", "sh", "-c", "cat a b"];
    let shown = scratch.run(&words);
    assert_eq!(shown.exits(0).out.matches("\"note\":\"why\"").count(), 2, "{shown:?}");
    assert!(!scratch.path("a").exists() && !scratch.path("b").exists());
}

#[test]
fn a_range_is_refused() {
    let scratch = Scratch::new();
    let words = ["run", "-m", "ofd", "--range", "0+1", "--and", "./b", "./a", "true"];
    scratch.run(&words).exits(64);
    scratch.run(&["run", "--and", "", "./a", "true"]).exits(64);
    scratch.run(&["run", "--system", "--and", "./b", "a", "true"]).exits(64);
}
