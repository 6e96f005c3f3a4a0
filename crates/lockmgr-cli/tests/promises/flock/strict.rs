//! `LOCKMGR_FLOCK_STRICT=1`: the original's faults, too. Each scene shows one, with the original (where
//! it is installed) and with ours.

use std::fs;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;

use super::both::{Whose, original};
use crate::support::{
    Running, Scratch, Stranger, finished, hold, is_locked, is_pending, is_waited_for, wait_until,
};

fn both() -> Vec<Whose> {
    original().map(|_| Whose::Original).into_iter().chain([Whose::Strict]).collect()
}

#[test]
fn a_signal_orphans_the_command() {
    for whose in both() {
        for (options, keeps) in [(&[][..], true), (&["-o"], false)] {
            let scratch = Scratch::new();
            let words = [options, &["f", "sh", "-c", "echo $$; exec sleep 60 >&-"]].concat();
            let mut running = Running::start(&mut whose.command(&scratch, &words));
            let command = running.says_pid();
            running.send(Signal::TERM);
            let ended = running.finish();
            let _orphan = Stranger(command);
            assert_eq!(ended.signal, Some(Signal::TERM.as_raw()), "{whose:?}");
            assert!(!crate::support::is_gone(command), "{whose:?}");
            assert_eq!(is_locked(&scratch.path("f")), keeps, "{whose:?}");
        }
    }
}

#[test]
fn a_file_deleted_while_waited_for_is_locked() {
    for whose in both() {
        let scratch = Scratch::new();
        let path = scratch.path("f");
        let held = hold(&path);
        let mut running =
            Running::start(&mut whose.command(&scratch, &["f", "sh", "-c", "echo in; ls"]));
        wait_until("it waits", || is_waited_for(&path));
        fs::remove_file(&path).expect("it is there");
        drop(held);
        running.says("in");
        assert_eq!(running.finish().out, "", "{whose:?}");
    }
}

#[test]
fn a_blocked_sigalrm_takes_the_deadline_away() {
    for whose in both() {
        let scratch = Scratch::new();
        let path = scratch.path("f");
        let held = hold(&path);
        let flock = whose.command(&scratch, &["-w", ".02", "f", "echo", "in"]);
        let script = "exec env --block-signal=ALRM \"$@\"";
        let mut command = scratch.command(&["sh", "-c", script, "-"]);
        // As a subcommand, because env(1) gives no other name.
        command.arg(flock.get_program());
        if whose == Whose::Strict {
            command.arg("flock").env("LOCKMGR_FLOCK_STRICT", "1");
        }
        let mut running = Running::start(command.args(flock.get_args()));
        wait_until("it waits", || is_waited_for(&path));
        wait_until("its time is up", || is_pending(running.pid(), Signal::ALARM));
        assert!(is_waited_for(&path), "{whose:?}");
        drop(held);
        running.says("in");
        running.finish().exits(0);
    }
}

#[test]
fn a_fifo_is_waited_for() {
    for whose in both() {
        for options in [&["-n"][..], &["-w", ".02"]] {
            let scratch = Scratch::new();
            scratch.sh("mkfifo f").exits(0);
            let words = [options, &["f", "echo", "in"]].concat();
            let mut running = Running::start(&mut whose.command(&scratch, &words));
            let path = scratch.path("f");
            // There is a reader as soon as somebody sleeps in open.
            let mut writer = None;
            wait_until("it opens the FIFO", || {
                writer = open(&path, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
                writer.is_some()
            });
            running.says("in");
            running.finish().exits(0);
        }
    }
}

#[test]
fn the_lock_itself_works() {
    let scratch = Scratch::new();
    let run =
        |words: &[&str]| finished(Whose::Strict.command(&scratch, words).stdin(Stdio::null()));
    run(&["f", "sh", "-c", "exit 3"]).exits(3).is_silent();
    let held = hold(&scratch.path("f"));
    run(&["-n", "f", "true"]).exits(1).is_silent();
    run(&["-w", ".02", "f", "true"]).exits(1).is_silent();
    run(&["-w", "1e-6", "-E", "9", "f", "true"]).exits(9).is_silent();
    drop(held);
    run(&["-w", ".02", "f", "true"]).exits(0).is_silent();
}
