//! `lockmgr deadlocks` finds processes that wait for each other in a circle, and no others.

use std::process::Stdio;

use serde_json::Value;

use crate::support::{Running, Scratch, json, wait_until, waiters};

/// A command that has one lock, and asks for the other one when it is told to.
fn knot(scratch: &Scratch, has: &[&str], wants: &str) -> Running {
    let script = format!("echo up; read _; exec \"$LOCKMGR\" run {wants} true");
    let mut command = scratch.lockmgr(&["run"]);
    let mut running =
        Running::start(command.args(has).args(["sh", "-c", &script]).stdin(Stdio::piped()));
    running.says("up");
    running
}

/// The deadlock that goes over this test's files.
fn ours(scratch: &Scratch) -> (Option<i32>, Option<Value>) {
    let shown = scratch.run(&["deadlocks", "--json"]);
    let told = json(&shown);
    let directory = scratch.dir().to_str().unwrap();
    let is_ours = |deadlock: &&Value| {
        deadlock["links"]
            .as_array()
            .unwrap()
            .iter()
            .all(|link| link["path"].as_str().is_some_and(|path| path.starts_with(directory)))
    };
    let all = told["deadlocks"].as_array().unwrap();
    // 1 says that there is one, ours or another.
    assert_eq!(shown.code, Some(i32::from(!all.is_empty())));
    (shown.code, all.iter().find(is_ours).cloned())
}

#[test]
fn a_circle_of_three_is_found_and_named() {
    let scratch = Scratch::new();
    let mut knots = [
        knot(&scratch, &["./a"], "./b"),
        knot(&scratch, &["./b"], "-m ofd ./c"),
        knot(&scratch, &["-m", "ofd", "./c"], "./a"),
    ];
    for (knot, wanted) in knots.iter_mut().zip(["b", "c"]) {
        knot.tell("go");
        wait_until("it waits", || waiters(&scratch.path(wanted)) == 1);
    }
    // A chain is no circle.
    assert_eq!(ours(&scratch).1, None);
    knots[2].tell("go");
    wait_until("it waits", || waiters(&scratch.path("a")) == 1);
    let (code, found) = ours(&scratch);
    let found = found.expect("the circle is found");
    assert_eq!(code, Some(1));
    let links = found["links"].as_array().unwrap();
    assert_eq!((&found["certain"], links.len()), (&true.into(), 3), "{found:#}");
    for (index, link) in links.iter().enumerate() {
        let next = &links[(index + 1) % 3]["waiter"]["process"]["pid"];
        assert_eq!(&link["holder"]["pid"], next, "{found:#}");
    }
    let shown = scratch.run(&["deadlocks"]);
    shown.exits(1);
    assert!(shown.out.contains("certain deadlock: 3 processes wait for each other"), "{shown:?}");
    for name in ["a", "b", "c"] {
        let line = format!("    waits for {} (", scratch.path(name).display());
        assert!(shown.out.contains(&line), "{shown:?}");
    }
    // Without one of them it is none.
    let [first, ..] = knots;
    drop(first);
    wait_until("the circle is gone", || ours(&scratch).1.is_none());
}

#[test]
fn none_is_said() {
    let scratch = Scratch::new();
    let shown = scratch.run(&["deadlocks"]);
    // Other tests make deadlocks at the same time.
    assert_eq!(shown.out == "no deadlock\n", shown.code == Some(0), "{shown:?}");
}
