//! Commands that wait for each other in a circle are told so, or let go of it: `--deadlock`.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use crate::support::{BOUND, Running, Scratch, is_waited_for, wait_until};

/// What each one of a circle does inside its lock: when it is told, it wants the next one's.
const NEST: &str = "echo ready; read _; \"$LOCKMGR\" run $@ true; echo status $?";

/// One lock and its mechanism for each process, and the options of its inner lockmgr.
fn circle(scratch: &Scratch, parties: &[(&str, &str, &str)]) -> Vec<Running> {
    let mut running = Vec::new();
    for (index, (lock, mechanism, options)) in parties.iter().enumerate() {
        let (next, its_mechanism, _) = parties[(index + 1) % parties.len()];
        let messages = fs::File::create(scratch.path(format!("messages-{index}"))).unwrap();
        let mut words = vec!["run", "-m", mechanism, lock, "sh", "-c", NEST, "-"];
        words.extend(options.split_whitespace());
        words.extend(["-m", its_mechanism, next]);
        let mut command = scratch.lockmgr(&words);
        let mut party = Running::start(command.stdin(Stdio::piped()).stderr(Stdio::from(messages)));
        party.says("ready");
        running.push(party);
    }
    running
}

fn messages(scratch: &Scratch, index: usize) -> String {
    fs::read_to_string(scratch.path(format!("messages-{index}"))).unwrap_or_default()
}

#[test]
fn a_circle_of_three_over_flock_and_ofd_is_broken_and_spelled_out() {
    let scratch = Scratch::new();
    let parties = [
        ("./a", "flock", "--deadlock=fail"),
        ("./b", "ofd", "--deadlock=fail"),
        ("./c", "flock", "--deadlock=fail"),
    ];
    let mut running = circle(&scratch, &parties);
    for party in &mut running {
        party.tell("go on");
    }
    let closed = Instant::now();
    let index = std::cell::Cell::new(0);
    wait_until("somebody gives up", || {
        index.set((0..3).find(|&index| messages(&scratch, index).contains('\n')).unwrap_or(3));
        index.get() < 3
    });
    let took = closed.elapsed();
    // Generous: the figure is for people to read.
    assert!(took < BOUND);
    let said = messages(&scratch, index.get());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("deadlock"), "{said}");
    for lock in ["/a", "/b", "/c"] {
        assert!(said.contains(&format!("waits for {}{lock}", scratch.dir().display())), "{said}");
    }
    eprintln!("given up {took:?} after the circle was closed: {said}");
    let statuses: Vec<String> = running.into_iter().map(|party| party.finish().out).collect();
    assert!(statuses.contains(&"status 75\n".to_owned()), "{statuses:?}");
    assert!(statuses.iter().all(|status| ["status 0\n", "status 75\n"].contains(&status.as_str())));
    assert_eq!(statuses[index.get()], "status 75\n");
}

#[test]
fn a_warning_is_given_once_and_the_wait_goes_on() {
    let scratch = Scratch::new();
    let mut running = circle(&scratch, &[("./a", "flock", ""), ("./b", "ofd", "-w 4")]);
    for party in &mut running {
        party.tell("go on");
    }
    wait_until("both are warned", || (0..2).all(|index| messages(&scratch, index).contains('\n')));
    wait_until("both wait on", || {
        is_waited_for(&scratch.path("a")) && is_waited_for(&scratch.path("b"))
    });
    // The deadline of one opens the circle; looks after 2 and 3 seconds have said nothing new.
    running.pop().unwrap().finish().exits(0);
    running.pop().unwrap().finish().exits(0);
    assert_eq!(messages(&scratch, 0).lines().count(), 1);
    let said = messages(&scratch, 1);
    assert_eq!(said.lines().count(), 2, "the warning and the deadline: {said}");
    assert!(said.lines().next().unwrap().contains("deadlock"), "{said}");
}

#[test]
fn those_who_must_not_be_told_are_not() {
    let scratch = Scratch::new();
    let parties = [("./a", "flock", "-q -w 3"), ("./b", "flock", "--deadlock=ignore -w 4")];
    let mut running = circle(&scratch, &parties);
    for party in &mut running {
        party.tell("go on");
    }
    running.remove(0).finish().exits(0);
    running.remove(0).finish().exits(0);
    assert_eq!((messages(&scratch, 0), messages(&scratch, 1)), (String::new(), String::new()));
}

#[test]
fn a_circle_through_processes_that_closed_the_lock_is_found() {
    // Python closes what it does not know in its children: then the lock is had by processes that wait
    // for the end of the waiter.
    if !crate::support::has("python3") {
        return crate::support::skip("python3 is not installed");
    }
    let scratch = Scratch::new();
    let script = "import os, subprocess, sys; print('ready', flush=True); input(); \
                  print('status', subprocess.run([os.environ['LOCKMGR'], 'run', *sys.argv[1:], 'true'])\
                  .returncode, flush=True)";
    let start = |lock, next, option| {
        let words = ["run", lock, "python3", "-c", script, option, next];
        let mut command = scratch.lockmgr(&words);
        let mut party = Running::start(command.stdin(Stdio::piped()).stderr(Stdio::null()));
        party.says("ready");
        party
    };
    let mut one = start("./a", "./b", "--deadlock=fail");
    let mut two = start("./b", "./a", "--deadlock=ignore");
    one.tell("go on");
    two.tell("go on");
    assert_eq!(one.finish().out, "status 75\n");
    assert_eq!(two.finish().out, "status 0\n");
}
