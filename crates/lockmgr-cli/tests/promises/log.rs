//! `--log` keeps what happened, whoever writes at the same time, and never costs the command anything;
//! `lockmgr log` reads it whatever is in it.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Running, Scratch, Stranger, check, finished, hold, is_waited_for, json, schema, wait_until,
};

/// The events of a log, each of which fits the schema.
#[track_caller]
fn events(scratch: &Scratch, log: &str) -> Vec<Value> {
    let root = schema();
    let text = fs::read_to_string(scratch.path(log)).unwrap();
    let read = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("a line is JSON");
        if let Err(why) = check(&event, &root["$defs"]["event"], &root) {
            panic!("the line does not fit docs/lockmgr.schema.json: {why}\n{line}");
        }
        event
    };
    text.lines().map(read).collect()
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn what_happens_is_in_its_order() {
    let scratch = Scratch::new();
    scratch.run(&["run", "--log", "log", "./l", "sh", "-c", "exit 3"]).exits(3).is_silent();
    let held = hold(&scratch.path("l"));
    scratch.run(&["run", "-n", "--log", "log", "./l", "true"]).exits(75);
    scratch.run(&["run", "-w", "0.05", "--log", "log", "./l", "true"]).exits(75);
    let waiter =
        Running::start(&mut scratch.lockmgr(&["run", "-s", "--log", "log", "./l", "true"]));
    wait_until("it waits", || is_waited_for(&scratch.path("l")));
    drop(held);
    waiter.finish().exits(0);
    let words = ["--max-hold", "0.05", "--warn-after", "0.01", "-q"];
    scratch
        .run(&[&["run", "--log", "log"][..], &words, &["./l", "sleep", "60"]].concat())
        .exits(124);
    scratch.run(&["run", "--log", "log", "./l", "./nothing"]).exits(127);
    let events = events(&scratch, "log");
    let expected = [
        "acquired",
        "released",
        "busy",
        "waiting",
        "timed-out",
        "waiting",
        "acquired",
        "released",
        "acquired",
        "warn-after",
        "max-hold",
        "released",
        "acquired",
        "released",
    ];
    assert_eq!(names(&events), expected);
    assert_eq!((&events[1]["exit_status"], &events[1]["outcome"]), (&3.into(), &"ran".into()));
    assert_eq!((&events[6]["mode"], &events[8]["mode"]), (&"shared".into(), &"exclusive".into()));
    assert_eq!(
        (&events[11]["outcome"], &events[11]["signal"]),
        (&"max-hold".into(), &"SIGTERM".into())
    );
    assert_eq!(events[13]["outcome"], "not-started");
    let times: Vec<_> = events.iter().map(|event| event["time"].as_str().unwrap()).collect();
    assert!(
        times.is_sorted()
            && times.iter().all(|time| time.len() == "2026-01-01T00:00:00.000Z".len())
    );
    let runs: HashSet<_> = events.iter().map(|event| event["run"].as_str().unwrap()).collect();
    assert_eq!(runs.len(), 6);

    let summary = json(&scratch.run(&["log", "--json", "log"]));
    let lock = &summary["locks"][0];
    assert_eq!(summary["events"], 14);
    assert_eq!(
        (&lock["runs"], &lock["failed"], &lock["unfinished"]),
        (&4.into(), &3.into(), &0.into())
    );
    assert_eq!(lock["not_run"][0], serde_json::json!({"outcome": "busy", "times": 1}));
    assert_eq!(lock["skips_in_a_row"], 0);
    assert_eq!(lock["last_success"], events[7]["time"]);
    assert!(lock["waits_ms"]["max"].as_f64() >= lock["waits_ms"]["p50"].as_f64());
    let told = scratch.run(&["log", "log"]);
    for part in ["4 runs, 3 failed, 1 busy, 1 timed-out", "waits", "p99", "last success"] {
        assert!(told.exits(0).out.contains(part), "{part}: {told:?}");
    }
}

#[test]
fn many_processes_share_a_log() {
    let scratch = Scratch::new();
    let line =
        "for i in 1 2 3 4 5 6 7 8 9 10; do \"$LOCKMGR\" run --log log ./l true || exit; done";
    let all: Vec<_> =
        (0..8).map(|_| Running::start(&mut scratch.command(&["/bin/sh", "-c", line]))).collect();
    for running in all {
        running.finish().exits(0);
    }
    let events = events(&scratch, "log");
    let count = |name| names(&events).into_iter().filter(|event| *event == name).count();
    assert_eq!((count("acquired"), count("released")), (80, 80));
    let summary = json(&scratch.run(&["log", "--json", "log"]));
    assert_eq!((&summary["foreign_lines"], &summary["locks"][0]["runs"]), (&0.into(), &80.into()));
}

#[test]
fn a_log_that_cannot_be_written_costs_one_message_and_nothing_else() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    fs::write(scratch.path("target"), "").unwrap();
    symlink("target", scratch.path("link")).unwrap();
    scratch.sh("mkfifo fifo").exits(0);
    for log in ["dir", "link", "fifo", "nowhere/log", "/dev/full"] {
        let words = ["--log", log, "./l", "sh", "-c", "exit 5"];
        scratch.run(&[&["run"][..], &words].concat()).exits(5).says(&["the log is not written"]);
        scratch.run(&[&["run", "-q"][..], &words].concat()).exits(5).is_silent();
    }
    assert_eq!(fs::read_to_string(scratch.path("target")).unwrap(), "");
    // No room: a shared lock, so that nothing else is written.
    let full = "ulimit -f 0; exec \"$LOCKMGR\" run -s --log log ./l sh -c 'exit 5'";
    let ended = scratch.sh(&format!("{full} 2>&1"));
    assert!(ended.exits(5).out.contains("the log is not written"), "{ended:?}");
    // Not even if the message has no room, either: standard error is a file here.
    scratch.sh(full).exits(5).is_silent();
}

#[test]
fn what_is_no_event_is_left_out_and_said() {
    let scratch = Scratch::new();
    scratch.run(&["run", "--log", "log", "./l", "true"]).exits(0);
    let good = fs::read_to_string(scratch.path("log")).unwrap();
    let mut log = fs::OpenOptions::new().append(true).open(scratch.path("log")).unwrap();
    log.write_all(b"noise\n\xff\x00\x1b[2J\n{}\n").unwrap();
    // A piece of a line, behind which another run goes on.
    log.write_all(&good.as_bytes()[..50]).unwrap();
    scratch.run(&["run", "--log", "log", "./l", "true"]).exits(0);
    let ended = scratch.run(&["log", "--json", "log"]);
    let summary = json(&ended);
    assert_eq!((&summary["events"], &summary["foreign_lines"]), (&4.into(), &4.into()));
    assert_eq!(summary["locks"][0]["runs"], 2);
    scratch.run(&["log", "log"]).exits(0).says(&["4 lines"]);
    for bad in ["./nothing", "."] {
        scratch.run(&["log", bad]).exits(73).says(&[bad]);
    }
    let empty = scratch.run(&["log", "/dev/null"]);
    empty.exits(0).is_silent();
    let piped = scratch.sh("\"$LOCKMGR\" log --json - <log");
    assert_eq!(json(&piped), summary);
}

#[test]
fn a_killed_lockmgr_leaves_an_unfinished_hold() {
    let scratch = Scratch::new();
    let words = ["run", "--log", "log", "./l", "sh", "-c", "echo $$; exec sleep 1000"];
    let mut holder = Running::start(&mut scratch.lockmgr(&words));
    let command = Stranger(holder.says_pid());
    holder.send(Signal::KILL);
    holder.wait();
    drop(command);
    let summary = json(&scratch.run(&["log", "--json", "log"]));
    assert_eq!(
        (&summary["locks"][0]["unfinished"], &summary["locks"][0]["runs"]),
        (&1.into(), &0.into())
    );
    scratch.run(&["log", "--svg", "out.svg", "log"]).exits(0);
    assert!(fs::read_to_string(scratch.path("out.svg")).unwrap().contains("stroke-dasharray"));
}

#[test]
fn skips_in_a_row_are_those_since_the_last_run() {
    let scratch = Scratch::new();
    let busy = || {
        let held = hold(&scratch.path("l"));
        scratch.run(&["run", "-n", "-q", "--log", "log", "./l", "true"]).exits(75);
        drop(held);
    };
    busy();
    scratch.run(&["run", "--log", "log", "./l", "true"]).exits(0);
    busy();
    busy();
    let summary = json(&scratch.run(&["log", "--json", "log"]));
    assert_eq!(summary["locks"][0]["skips_in_a_row"], 2);
}

#[test]
fn the_timeline_is_sound_xml_whatever_the_lock_is_called() {
    let scratch = Scratch::new();
    let name = "./<&\"'>\u{1b}]]>--\u{202e}ü";
    for _ in 0..3 {
        scratch.run(&["run", "--log", "log", name, "true"]).exits(0);
    }
    let held = hold(&scratch.path(name));
    scratch.run(&["run", "-n", "-q", "--log", "log", name, "true"]).exits(75);
    drop(held);
    let ended = scratch.run(&["log", "--svg", "-", "log"]);
    let svg = &ended.exits(0).out;
    assert!(svg.starts_with("<?xml") && svg.contains("&lt;&amp;&quot;"), "{svg}");
    assert_sound(svg);
    assert_eq!(svg.matches("<g>").count(), 4);
    for (out, log) in [("log", "log"), ("./again", "log"), ("log", "-")] {
        let before = fs::read(scratch.path("log")).unwrap();
        drop(fs::hard_link(scratch.path("log"), scratch.path("again")));
        let script = format!("\"$LOCKMGR\" log --svg {out} {log} <log");
        scratch.sh(&script).exits(64).says(&["the log itself"]);
        assert!(fs::read(scratch.path("log")).unwrap() == before, "{out} {log}");
    }
    scratch.run(&["log", "--svg", "./nowhere/x.svg", "log"]).exits(73).says(&["nowhere"]);
    let empty = finished(&mut scratch.lockmgr(&["log", "--svg", "-", "/dev/null"]));
    assert_sound(&empty.exits(0).out);
}

/// Checks what a parser would: tags match, attributes are quoted, nothing is left unescaped.
#[track_caller]
fn assert_sound(xml: &str) {
    let body = xml.split_once("?>").expect("a declaration").1;
    let mut open: Vec<&str> = Vec::new();
    let mut rest = body.trim();
    while let Some((text, after)) = rest.split_once('<') {
        assert_text(text);
        let (tag, after) = after.split_once('>').expect("a tag has an end");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        assert_text(tag);
        let quotes: Vec<&str> = tag.trim_end_matches('/').split('"').collect();
        assert!(quotes.len() % 2 == 1 && !tag.contains('\''), "{tag}");
        let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap();
        assert!(name.chars().all(char::is_alphanumeric), "{tag}");
        if !tag.ends_with('/') {
            open.push(name);
        }
        assert!(!open.is_empty() || rest.is_empty(), "one element at the top");
    }
    assert_eq!((open, rest), (vec![], ""));
}

#[track_caller]
fn assert_text(text: &str) {
    assert!(!text.contains('>') && text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    for after in text.split('&').skip(1) {
        let name = after.split_once(';').expect("a reference has an end").0;
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{name}");
    }
}
