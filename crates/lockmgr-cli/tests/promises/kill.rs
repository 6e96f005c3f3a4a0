//! `lockmgr kill` signals who was verified to hold the lock, nobody else, and says what came of it.

use std::os::unix::process::CommandExt;

use rustix::process::Pid;

use crate::support::{
    Running, Scratch, Stranger, finished, is_gone, is_locked, is_root, json, skip, state,
    wait_until,
};
use crate::terminal::alone;

const SOMEBODY: u32 = 54321;

/// A holder that is no child of lockmgr, and ignores TERM.
fn stubborn(scratch: &Scratch) -> Running {
    let script = "trap '' TERM; echo up; exec sleep 1000";
    let words = ["run", "--no-fork", "./l", "sh", "-c", script];
    let mut running = Running::start(&mut scratch.lockmgr(&words));
    running.says("up");
    running
}

/// A lock whose taker has ended, and that lives on in a process of this pid.
fn heir(scratch: &Scratch) -> Stranger {
    let script = "sleep 1000 >/dev/null & echo $!";
    let words = ["run", "--no-fork", "./l", "sh", "-c", script];
    let mut taker = Running::start(&mut scratch.lockmgr(&words));
    let heir = Stranger(taker.says_pid());
    assert!(taker.wait().success());
    heir
}

fn named(pid: Pid) -> String {
    format!("pid {} ", pid.as_raw_nonzero())
}

#[test]
fn the_holder_is_signalled_and_the_lock_is_free() {
    let scratch = Scratch::new();
    let mut holder = scratch.holder(&[], "./l");
    let killed = scratch.run(&["kill", "-y", "./l"]);
    killed.exits(0);
    // TERM went to lockmgr, which passed it on and released the lock after its command.
    assert_eq!(holder.wait().code(), Some(143));
    assert!(killed.err.contains(&format!("sent SIGTERM to {}", named(holder.pid()))), "{killed:?}");
    assert!(killed.err.ends_with("lockmgr: ./l is free\n"), "{killed:?}");
    assert!(!is_locked(&scratch.path("l")));
    scratch.run(&["kill", "-y", "./l"]).exits(1).says(&["nobody holds it"]);
    scratch.run(&["kill", "-y", "./missing"]).exits(1).says(&["nobody holds it"]);
}

#[test]
fn every_mechanism_and_several_holders() {
    let scratch = Scratch::new();
    for options in [&["-m", "ofd", "--no-fork"][..], &["-m", "posix", "--no-fork"], &["-s"]] {
        let mut holders = [scratch.holder(&["-s"], "./l"), scratch.holder(options, "./l")];
        let killed = scratch.run(&["kill", "-y", "--json", "-q", "./l"]);
        killed.exits(0);
        let told = json(&killed);
        assert_eq!(told["outcome"], "free", "{told:#}");
        assert_eq!(told["signalled"].as_array().unwrap().len(), 2);
        for holder in &mut holders {
            holder.wait();
        }
        assert_eq!(killed.err, "");
    }
}

#[test]
fn waiters_are_left_alone() {
    let scratch = Scratch::new();
    let mut holder = scratch.holder(&[], "./l");
    let mut waiter = scratch.waiter(&[], "./l", 1);
    let killed = scratch.run(&["kill", "-y", "./l"]);
    killed.exits(0);
    holder.wait();
    waiter.says("up");
    assert!(!killed.err.contains(&format!("to {}", named(waiter.pid()))), "{killed:?}");
}

#[test]
fn nobody_is_signalled_unasked() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    let refused = scratch.run(&["kill", "./l"]);
    refused.exits(77);
    assert!(refused.err.contains("-y says yes"), "{refused:?}");
    assert_eq!(json(scratch.run(&["kill", "--json", "./l"]).exits(77))["outcome"], "refused");

    let mut terminal = alone(&scratch, &["kill", "./l"]);
    terminal.shows(&format!("send SIGTERM to {}", named(holder.pid())));
    terminal.shows("[y/N] ");
    terminal.types("n\n");
    terminal.shows("nobody was signalled");
    assert_eq!(terminal.end(), (Some(77), None));
    assert!(!is_gone(holder.pid()) && is_locked(&scratch.path("l")));

    let mut terminal = alone(&scratch, &["kill", "./l"]);
    terminal.shows("[y/N] ");
    terminal.types("y\n");
    terminal.shows("is free");
    assert_eq!(terminal.end(), (Some(0), None));
}

#[test]
fn who_has_let_go_during_the_question_is_not_signalled() {
    let scratch = Scratch::new();
    let script = "exec 9>l; \"$LOCKMGR\" lock --fd 9; echo up; read _; exec 9>&-; echo let go; exec sleep 1000";
    let mut command = scratch.command(&["sh", "-c", script]);
    let mut holder = Running::start(command.stdin(std::process::Stdio::piped()));
    holder.says("up");
    let mut terminal = alone(&scratch, &["kill", "--inherited", "./l"]);
    terminal.shows("[y/N] ");
    holder.tell("go");
    holder.says("let go");
    terminal.types("y\n");
    terminal.shows("is not signalled: it has let go of the lock");
    assert_eq!(terminal.end(), (Some(0), None));
    assert!(!is_gone(holder.pid()));
}

#[test]
fn heirs_are_named_and_spared_unless_asked_for() {
    let scratch = Scratch::new();
    let heir = heir(&scratch);
    let refused = scratch.run(&["kill", "-y", "./l"]);
    refused.exits(77);
    assert!(
        refused.err.contains(&named(heir.0)) && refused.err.contains("inherited"),
        "{refused:?}"
    );
    let told = json(scratch.run(&["kill", "-y", "--json", "./l"]).exits(77));
    assert_eq!(
        (&told["outcome"], &told["spared"][0]["standing"]),
        (&"refused".into(), &"inherited".into())
    );
    assert!(!is_gone(heir.0));
    let killed = scratch.run(&["kill", "-y", "--inherited", "./l"]);
    killed.exits(0);
    wait_until("it ends", || is_gone(heir.0));
}

#[test]
fn a_command_that_outlives_lockmgr_is_said_to_keep_the_lock() {
    let scratch = Scratch::new();
    let mut holder = scratch.holder(&[], "./l");
    let killed = scratch.run(&["kill", "-y", "-s", "KILL", "./l"]);
    killed.exits(77);
    holder.wait();
    assert!(killed.err.contains("the lock lives on in pid "), "{killed:?}");
    assert!(is_locked(&scratch.path("l")));
    scratch.run(&["kill", "-y", "--inherited", "./l"]).exits(0);
}

#[test]
fn who_does_not_obey_is_killed_when_that_was_asked_for() {
    let scratch = Scratch::new();
    let mut holder = stubborn(&scratch);
    let tried = scratch.run(&["kill", "-y", "-w", "0.05", "./l"]);
    tried.exits(75);
    assert!(tried.err.contains(&format!("still held by {}", named(holder.pid()))), "{tried:?}");
    let told = json(scratch.run(&["kill", "-y", "-w", "0", "--json", "./l"]).exits(75));
    assert_eq!(
        (&told["outcome"], &told["signalled"][0]["holds"]),
        (&"still_held".into(), &true.into())
    );
    let killed = scratch.run(&["kill", "-y", "--kill-after", "50ms", "./l"]);
    killed.exits(0);
    assert!(killed.err.contains(&format!("sent SIGKILL to {}", named(holder.pid()))), "{killed:?}");
    holder.wait();
}

#[test]
fn a_holder_that_lets_go_and_lives_is_enough() {
    let scratch = Scratch::new();
    let script = "exec 9>l; \"$LOCKMGR\" lock --fd 9; \
                  trap '\"$LOCKMGR\" unlock --fd 9; echo let go' HUP; \
                  echo up; while :; do read _; done";
    let mut command = scratch.command(&["sh", "-c", script]);
    let mut holder = Running::start(command.stdin(std::process::Stdio::piped()));
    holder.says("up");
    scratch.run(&["kill", "-y", "-s", "HUP", "--inherited", "./l"]).exits(0);
    holder.says("let go");
    assert!(!is_gone(holder.pid()));
}

#[test]
fn it_does_not_signal_itself() {
    let scratch = Scratch::new();
    let script = "exec 9>l; \"$LOCKMGR\" lock --fd 9; \"$LOCKMGR\" kill -y --json ./l; echo $?";
    let shown = scratch.sh(script);
    assert!(shown.exits(0).out.ends_with("}\n77\n"), "{shown:?}");
    assert!(shown.err.contains("it is this very process"), "{shown:?}");
    let script = "exec 9>l; \"$LOCKMGR\" lock --fd 9; \
                  \"$LOCKMGR\" kill -y -s USR1 --inherited -w 0 ./l; echo $?";
    let shown = scratch.sh(&format!("trap 'echo caught' USR1; {script}"));
    assert!(shown.exits(0).out.contains("caught"), "{shown:?}");
    assert!(shown.err.contains("it is this very process"), "{shown:?}");
}

#[test]
fn process_1_is_spared_unless_asked_for() {
    let unshared = ["unshare", "--fork", "--pid", "--mount-proc", "sh", "-c"];
    let scratch = Scratch::new();
    let script = "exec \"$LOCKMGR\" run --no-fork ./l sh -c 'trap \"echo caught\" USR1; \
                  \"$LOCKMGR\" kill -y ./l; echo $?; \"$LOCKMGR\" kill -y --init -s USR1 -w 0 ./l; true'";
    if finished(&mut scratch.command(&[&unshared[..], &["true"]].concat())).code != Some(0) {
        return skip("needs unshare(1) and the right to make a pid namespace");
    }
    let shown = finished(&mut scratch.command(&[&unshared[..], &[script]].concat()));
    assert_eq!(shown.exits(0).out, "77\ncaught\n", "{shown:?}");
    assert!(shown.err.contains("it is process 1"), "{shown:?}");
}

#[test]
fn other_users_holders_are_named_and_left_alone() {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    let scratch = Scratch::new().open_to_all();
    let holder = scratch.holder(&["--mode", "0644"], "./l");
    let words = ["kill", "-y", "./l"];
    let refused = finished(scratch.lockmgr(&words).uid(SOMEBODY).gid(SOMEBODY));
    refused.exits(77);
    assert!(refused.err.contains(&named(holder.pid())), "{refused:?}");
    assert!(refused.err.contains("may not look"), "{refused:?}");
    assert!(state(holder.pid()).is_some() && is_locked(&scratch.path("l")));
}

#[test]
fn a_wrong_command_line_is_64() {
    let scratch = Scratch::new();
    for words in [
        &["kill"][..],
        &["kill", "-s", "FROBNICATE", "./l"],
        &["kill", "-s", "0", "./l"],
        &["kill", "--kill-after", "soon", "./l"],
        &["kill", "--system", "./l"],
    ] {
        scratch.run(words).exits(64);
    }
}

#[test]
fn what_it_runs_under_is_not_signalled_unasked() {
    let scratch = Scratch::new();
    let inner = "\"$LOCKMGR\" kill -y ./l; echo $?";
    let ended = scratch.run(&["run", "./l", "sh", "-c", inner]);
    ended.exits(0);
    assert_eq!(ended.out, "77\n", "{ended:?}");
    assert!(ended.err.contains("runs under it"), "{ended:?}");
}

#[test]
fn a_link_does_not_choose_who_is_signalled() {
    let scratch = Scratch::new();
    let mut holder = scratch.holder(&[], "./precious");
    std::os::unix::fs::symlink("precious", scratch.path("link")).unwrap();
    scratch.run(&["kill", "-y", "./link"]).exits(73).says(&["symbolic link to precious"]);
    assert!(is_locked(&scratch.path("precious")));
    holder.send(rustix::process::Signal::TERM);
    holder.wait();
}

#[test]
fn ones_own_holder_that_is_ending_is_nobody_else() {
    if !is_root() {
        return skip("needs root, to be a user who is not");
    }
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    // While its memory is given back and its descriptors are closed, only root may look at it.
    for _ in 0..40 {
        // Its parent takes note of its end at once.
        let script = "\"$LOCKMGR\" run ./l sh -c 'echo up; exec sleep 1000' & wait";
        let mut parent = scratch.command(&["sh", "-c", script]);
        let mut holder = Running::start(parent.uid(SOMEBODY).gid(SOMEBODY));
        holder.says("up");
        let words = ["kill", "-y", "--json", "./l"];
        let killed = finished(scratch.lockmgr(&words).uid(SOMEBODY).gid(SOMEBODY));
        killed.exits(0);
        let told = json(&killed);
        assert_eq!((&told["outcome"], &told["holders"]), (&"free".into(), &serde_json::json!([])));
        let process = &told["signalled"][0]["process"];
        assert_eq!(process["ended"], told["signalled"][0]["ended"], "{told}");
        assert!(process["executable"].is_string() && process["command"].is_array(), "{told}");
        holder.wait();
    }
}

#[test]
fn who_may_have_inherited_an_ofd_lock_is_spared_unless_asked() {
    let scratch = Scratch::new();
    let words = ["run", "-m", "ofd", "./l", "sh", "-c", "echo $$; exec sleep 1000"];
    let mut taker = Running::start(&mut scratch.lockmgr(&words));
    let heir = Stranger(taker.says_pid());
    assert!(scratch.run(&["who", "./l"]).exits(0).out.contains("  holds  "));
    // The record that it leaves behind is of nobody who is there.
    taker.send(rustix::process::Signal::KILL);
    wait_until("the taker ends", || is_gone(taker.pid()));
    let shown = scratch.run(&["who", "./l"]);
    assert!(shown.exits(0).out.contains("  unclear  "), "{shown:?}");
    let spared = scratch.run(&["kill", "-y", "./l"]);
    spared.exits(77);
    assert!(!is_gone(heir.0) && spared.err.contains("took it is not known"), "{spared:?}");
    scratch.run(&["kill", "-y", "--inherited", "./l"]).exits(0);
    // One that became the command itself has left word that it took the lock.
    let words = ["run", "--no-fork", "-m", "ofd", "./l", "sh", "-c", "echo up; exec sleep 1000"];
    let mut taker = Running::start(&mut scratch.lockmgr(&words));
    taker.says("up");
    assert!(scratch.run(&["who", "./l"]).exits(0).out.contains("  holds  "));
    scratch.run(&["kill", "-y", "./l"]).exits(0);
    taker.wait();
}
