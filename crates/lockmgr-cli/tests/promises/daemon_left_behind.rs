//! A program that the command left in the background has the lock's descriptor, and not the lock.

use std::fs;

use rustix::process::Pid;

use crate::support::{Running, Scratch, Stranger, is_locked};

#[test]
fn it_does_not_keep_the_lock() {
    let scratch = Scratch::new();
    for (options, mechanism) in
        [(&[][..], "flock"), (&["-v"], "flock"), (&["-w", "5"], "flock"), (&[], "ofd")]
    {
        // Its output goes elsewhere, so that the end of the command is the end of the pipe.
        let command = "sleep 60 >/dev/null 2>&1 & echo $!";
        let words = [&["run", "-m", mechanism], options, &["./l", "sh", "-c", command]].concat();
        let mut running = Running::start(&mut scratch.lockmgr(&words));
        let daemon = Stranger(running.says_pid());
        running.finish().exits(0);
        assert!(has_open(daemon.0, &scratch), "the daemon should have inherited the descriptor");
        assert!(!is_locked(&scratch.path("l")), "the daemon keeps the lock");
        scratch.run(&["run", "-n", "-m", mechanism, "./l", "true"]).exits(0);
    }
}

#[test]
fn with_no_fork_it_does() {
    let scratch = Scratch::new();
    let command = "sleep 60 >/dev/null 2>&1 & echo $!";
    let mut running =
        Running::start(&mut scratch.lockmgr(&["run", "--no-fork", "./l", "sh", "-c", command]));
    let daemon = Stranger(running.says_pid());
    running.finish().exits(0);
    assert!(is_locked(&scratch.path("l")));
    drop(daemon);
    crate::support::wait_until("the daemon's end releases", || !is_locked(&scratch.path("l")));
}

fn has_open(pid: Pid, scratch: &Scratch) -> bool {
    let path = fs::canonicalize(scratch.path("l")).expect("the lock file");
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))
        .expect("the daemon's descriptors")
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| target == path)
}
