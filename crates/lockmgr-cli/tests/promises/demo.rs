//! The demo shows what a lock is for, and tells truly what it saw.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::support::{Finished, Running, Scratch, is_locked, json, pid, wait_until, waiters};

/// Every entry is followed by the exit of the same worker.
#[track_caller]
fn are_pairs(finished: &Finished) {
    let steps: Vec<_> = finished.out.lines().filter(|line| line.starts_with(['+', '-'])).collect();
    assert!(!steps.is_empty() && steps.len().is_multiple_of(2), "{finished:?}");
    for pair in steps.chunks(2) {
        assert_eq!(pair[0].replace('+', "-"), pair[1], "{finished:?}");
    }
}

#[test]
fn under_the_lock_nobody_is_inside_beside_another_in_a_hundred_runs() {
    let scratch = Scratch::new();
    for round in 0..100 {
        let mechanism = ["flock", "ofd", "posix"][round % 3];
        let ran = scratch.run(&["demo", "--pace", "2ms", "-m", mechanism, "./a.lock"]);
        ran.exits(0);
        are_pairs(&ran);
        assert!(ran.out.contains("9 visits, 0 overlaps"), "{ran:?}");
        assert_eq!(ran.err, "");
    }
}

#[test]
fn without_it_they_overlap_and_each_time_is_shown() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["demo", "--no-lock", "--pace", "200ms", "--rounds", "2", "./a.lock"]);
    ran.exits(1);
    let shown = ran.out.lines().filter(|line| line.contains("  overlap: ")).count();
    assert!(shown > 0, "{ran:?}");
    let much = if shown == 1 { "overlap" } else { "overlaps" };
    assert!(ran.out.contains(&format!("6 visits, {shown} {much}: ")), "{ran:?}");
    assert!(!scratch.path("a.lock").exists(), "the lock was not to be used");
}

/// One worker that stays inside.
fn occupant(scratch: &Scratch, options: &[&str]) -> Running {
    let mut command = scratch.lockmgr(&["demo", "--workers", "1", "--rounds", "1"]);
    command.args(["--pace", "1h"]).args(options).arg("./a.lock");
    let mut occupant = Running::start(&mut command);
    occupant.says_line();
    occupant.says("+[1]");
    occupant
}

#[test]
fn two_demos_take_turns_under_the_lock() {
    let scratch = Scratch::new();
    let mut first = occupant(&scratch, &[]);
    let mut command = scratch.lockmgr(&["demo", "--workers", "1", "--rounds", "1"]);
    command.args(["--pace", "1ms", "--json", "./a.lock"]);
    let second = Running::start(&mut command);
    wait_until("the second one waits", || waiters(&scratch.path("a.lock")) == 1);
    first.send(Signal::KILL);
    first.wait();
    let ended = second.finish();
    let told = json(ended.exits(0));
    assert_eq!(told.pointer("/runs/0/overlaps"), Some(&0.into()));
    assert_eq!(told.pointer("/runs/0/events/1/others"), Some(&false.into()));
}

#[test]
fn two_demos_without_the_lock_see_each_other() {
    for options in [&[][..], &["--no-lock"]] {
        // Another place each time: a worker that was killed may be inside for a moment yet.
        let scratch = Scratch::new();
        let _first = occupant(&scratch, options);
        let mut words = vec!["demo", "--no-lock", "--workers", "1", "--rounds", "1"];
        words.extend(["--pace", "1ms", "./a.lock"]);
        let ran = scratch.run(&words);
        ran.exits(1);
        assert!(ran.out.contains("+[1]  overlap: a worker of another demo is inside"), "{ran:?}");
        assert!(ran.out.contains("1 visit, 1 overlap: "), "{ran:?}");
    }
}

#[test]
fn the_default_lock_is_one_for_all_terminals() {
    let scratch = Scratch::new();
    let told = json(scratch.run(&["demo", "--pace", "1ms", "--rounds", "1", "--json"]).exits(0));
    let path = scratch.run(&["path", "demo"]);
    assert_eq!(told["path"], path.exits(0).out.trim_end());
}

#[test]
fn a_demo_that_is_killed_leaves_no_worker_behind() {
    let scratch = Scratch::new();
    let mut demo = occupant(&scratch, &[]);
    assert!(is_locked(&scratch.path("a.lock")));
    // Only the one process.
    demo.send(Signal::KILL);
    demo.wait();
    wait_until("its worker has gone", || !is_locked(&scratch.path("a.lock")));
}

/// Who has the lock now.
fn worker_inside(scratch: &Scratch) -> rustix::process::Pid {
    let told = json(scratch.run(&["who", "--json", "./a.lock"]).exits(0));
    let locks = told.pointer("/locks/0/file/locks").and_then(serde_json::Value::as_array);
    // Beside the gate, which who waits has.
    let lock = locks.unwrap().iter().find(|lock| lock["kind"] == "flock").unwrap();
    let process = lock.pointer("/holders/0/process/pid").and_then(serde_json::Value::as_u64);
    pid(process.unwrap().try_into().unwrap())
}

#[test]
fn a_worker_that_is_killed_inside_is_not_in_there_any_more() {
    let scratch = Scratch::new();
    let mut demo = Running::start(&mut scratch.lockmgr(&[
        "demo",
        "--workers",
        "2",
        "--rounds",
        "1",
        "--pace",
        "10s",
        "./a.lock",
    ]));
    demo.says_line();
    demo.says("+[1]");
    wait_until("the other one waits", || waiters(&scratch.path("a.lock")) == 1);
    let shown = scratch.run(&["who", "./a.lock"]);
    assert!(shown.exits(0).out.contains("lockmgr --demo-worker 1 ./a.lock flock "), "{shown:?}");
    kill_process(worker_inside(&scratch), Signal::KILL).unwrap();
    demo.says("-[1]  its process has ended inside");
    demo.says("+[2]");
    kill_process(worker_inside(&scratch), Signal::KILL).unwrap();
    demo.finish().exits(74);
}

#[test]
fn nothing_is_left_behind_but_the_lock_file() {
    let scratch = Scratch::new();
    let files = || {
        let names = fs::read_dir(scratch.dir()).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    fs::create_dir(scratch.path("d")).unwrap();
    for lock in ["./a.lock", ".", "./d"] {
        scratch.run(&["demo", "--rounds", "1", "--pace", "1ms", lock]).exits(0);
        assert_eq!(files(), ["a.lock", "d"], "{lock}");
    }
    // Somebody of another demo is inside: it is his.
    let other = occupant(&scratch, &["--no-lock"]);
    scratch.run(&["demo", "--no-lock", "--rounds", "1", "--pace", "1ms", "./a.lock"]).exits(1);
    assert_eq!(files(), ["a-inside.lock", "a.lock", "d"]);
    drop(other);
}

#[test]
fn the_picture_goes_into_a_pipe_too_and_never_over_the_lock() {
    let scratch = Scratch::new();
    let words = "demo --json --rounds 1 --pace 1ms";
    let script = format!(
        "mkfifo fifo; cat fifo >got & \"$LOCKMGR\" {words} --svg fifo ./a.lock >/dev/null || exit; wait
         \"$LOCKMGR\" {words} --svg /dev/stdout ./a.lock | cat"
    );
    let ran = scratch.sh(&script);
    assert!(ran.exits(0).out.starts_with("<?xml"), "{ran:?}");
    is_xml(&fs::read_to_string(scratch.path("got")).unwrap());
    for picture in ["a.lock", "./a-inside.lock"] {
        scratch.run(&["demo", "--svg", picture, "./a.lock"]).exits(64).says(&["the lock file"]);
    }
}

#[test]
fn the_picture_shows_both() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["demo", "--pace", "5ms", "--svg", "a.svg", "./a.lock"]);
    ran.exits(0);
    let svg = fs::read_to_string(scratch.path("a.svg")).unwrap();
    let [without, with] = ["Without a lock", "With the lock"].map(|text| svg.rfind(text).unwrap());
    assert!(without < with);
    assert!(svg[with..].contains("9 visits, 0 overlaps"), "{svg}");
    // 18 stretches inside, and some of waiting.
    assert!(svg.matches(", inside: ").count() == 18 && svg.contains(", waits: "), "{svg}");
    is_xml(&svg);

    let drawn = scratch.run(&["demo", "--no-lock", "--pace", "5ms", "--svg", "-", "./a.lock"]);
    assert!(drawn.out.starts_with("<?xml") && !drawn.out.contains("With the lock"), "{drawn:?}");
    is_xml(&drawn.out);
}

#[track_caller]
fn is_xml(text: &str) {
    let mut open = Vec::new();
    let mut rest = text.split_once("?>").expect("a declaration").1;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, after) = after.split_once('>').expect("a tag ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{text}");
        } else if !tag.ends_with('/') {
            open.push(tag.split([' ', '\n']).next().expect("a name"));
        }
        rest = after;
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    let scratch = Scratch::new();
    scratch
        .run(&["demo", "./no/a.lock"])
        .exits(73)
        .says(&["no/a.lock", "its directory does not exist"]);
    let svg =
        scratch.run(&["demo", "--rounds", "1", "--pace", "0", "--svg", "no/a.svg", "./a.lock"]);
    svg.exits(73).says(&["no/a.svg"]);
    scratch.run(&["demo", "--workers", "0"]).exits(64);
    scratch.run(&["demo", "a/../b\nc"]).exits(73).says(&["b\\nc"]);
    scratch.run(&["demo", "no good name"]).exits(64).says(&["no good name"]);
}

/// A word of its own makes a worker of the program; with anything else behind it, it is none.
#[test]
fn nobody_becomes_a_worker_by_chance() {
    let scratch = Scratch::new();
    for words in [&["--demo-worker", "x"][..], &["--demo-worker"], &["--demo-worker", "{}", "y"]] {
        assert_eq!(scratch.run(words).code, Some(64), "{words:?}");
    }
}
