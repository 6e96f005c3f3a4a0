//! `--result` says what came of it, on every way out, so that no exit status is ambiguous.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Finished, Running, Scratch, hold, is_root, is_waited_for, json, skip, wait_until,
};

/// Runs lockmgr; the result, and what else there is to see.
#[track_caller]
fn result(scratch: &Scratch, words: &[&str]) -> (Value, Finished) {
    let ended = scratch.run(&[&["run", "--result", "fd:1"][..], words].concat());
    let result = json(&ended);
    assert_eq!(result["status"], ended.code.unwrap(), "{ended:?}");
    (result, ended)
}

#[test]
fn each_way_out_has_its_own() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let path = path.to_str().unwrap();
    let (ran, ended) = result(&scratch, &["./l", "sh", "-c", "exit 75"]);
    ended.exits(75);
    assert_eq!((&ran["outcome"], &ran["exit_status"]), (&"ran".into(), &75.into()));
    assert_eq!((&ran["lock"], &ran["mode"]), (&path.into(), &"exclusive".into()));
    for key in ["signal", "token", "slot", "message"] {
        assert!(ran[key].is_null(), "{ran}");
    }
    let (killed, _) = result(&scratch, &["-s", "./l", "sh", "-c", "kill -USR1 $$"]);
    assert_eq!((&killed["outcome"], &killed["signal"]), (&"ran".into(), &"SIGUSR1".into()));
    assert_eq!((&killed["exit_status"], &killed["mode"]), (&Value::Null, &"shared".into()));
    let (absent, _) = result(&scratch, &["./l", "./nothing"]);
    assert_eq!((&absent["outcome"], &absent["status"]), (&"not-started".into(), &127.into()));
    assert!(absent["held_ms"].is_number() && absent["message"].is_string());

    let held = hold(&scratch.path("l"));
    let (busy, _) = result(&scratch, &["-n", "-E", "9", "./l", "true"]);
    assert_eq!((&busy["outcome"], &busy["status"]), (&"busy".into(), &9.into()));
    assert!(busy["held_ms"].is_null() && busy["waited_ms"].is_number(), "{busy}");
    let (late, _) = result(&scratch, &["-q", "-w", "0.1", "./l", "true"]);
    assert_eq!(late["outcome"], "timed-out");
    assert!(late["waited_ms"].as_f64() >= Some(100.0), "{late}");
    // What is not said is told all the same.
    assert!(late["message"].as_str().unwrap().contains("/l"), "{late}");
    drop(held);

    let (nowhere, _) = result(&scratch, &["./nowhere/l", "true"]);
    assert_eq!((&nowhere["outcome"], &nowhere["status"]), (&"lock-error".into(), &73.into()));
    for words in [&["--system", "./l", "true"][..], &["--range", "1+1", "l", "true"], &["", "true"]]
    {
        let (wrong, _) = result(&scratch, words);
        assert_eq!((&wrong["outcome"], &wrong["status"]), (&"usage".into(), &64.into()));
        assert!(wrong["lock"].is_null() && wrong["waited_ms"].is_null(), "{wrong}");
    }
}

#[test]
fn a_wrong_command_line_has_a_result_too() {
    let scratch = Scratch::new();
    for words in [
        &["--slots", "0", "./a", "true"][..],
        &["--bogus", "./a", "true"],
        &["-w", "x", "./a", "true"],
        &["./a"],
        &["--fenced", "--shared", "./a", "true"],
        &["--no-fork", "./a", "true"],
        &["--take", "1", "./a", "true"],
    ] {
        fs::write(scratch.path("res"), "old").unwrap();
        let ended = scratch.run(&[&["run", "--result", "res"][..], words].concat());
        ended.exits(64);
        let text = fs::read_to_string(scratch.path("res")).unwrap();
        let result: Value = serde_json::from_str(&text).expect("not the old one");
        assert_eq!((&result["outcome"], &result["status"]), (&"usage".into(), &64.into()));
        let message = result["message"].as_str().unwrap();
        let said = ended.err.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(message) && !message.is_empty(), "{message}: {said}");
    }
    // Whatever could be a lock is left alone, and so is everything if help was asked for.
    fs::write(scratch.path("res"), "old").unwrap();
    for words in [&["--bogus", "x", "./res", "true"][..], &["--help"], &["--and=./res", "--bogus"]]
    {
        scratch.run(&[&["run", "--result", "res"][..], words].concat());
        assert_eq!(fs::read_to_string(scratch.path("res")).unwrap(), "old", "{words:?}");
    }
}

#[test]
fn a_file_is_there_as_a_whole_or_not_at_all() {
    let scratch = Scratch::new();
    let file = scratch.path("result");
    let words = ["run", "--result", "result", "./l", "sh", "-c"];
    for code in [3, 4] {
        let line = format!("[ ! -e result ] && exit {code}");
        scratch.run(&[&words[..], &[&line]].concat()).exits(code);
        let result: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(result["status"], code);
    }
    // Only the lock and the result are left.
    let mut names: Vec<_> =
        fs::read_dir(scratch.dir()).unwrap().map(|f| f.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["l", "result"]);
    // Whoever is killed before its command leaves none.
    let held = hold(&scratch.path("l"));
    let mut running =
        Running::start(&mut scratch.lockmgr(&["run", "--result", "result", "./l", "true"]));
    wait_until("it waits", || is_waited_for(&scratch.path("l")));
    running.send(Signal::TERM);
    running.wait();
    assert!(!file.exists());
    drop(held);
}

#[test]
fn a_result_that_could_not_be_written_is_found_out_at_the_start() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("dir")).unwrap();
    symlink("target", scratch.path("link")).unwrap();
    for (target, code) in [
        ("fd:77", 64),
        ("fd:", 64),
        ("fd:-1", 64),
        ("fd:x", 64),
        ("fd:99999999999", 64),
        ("fd:0", 64),
        ("dir", 64),
        ("link", 64),
        ("/dev/null", 64),
        ("..", 64),
        ("", 64),
        ("nowhere/file", 73),
    ] {
        let ended = scratch.run(&["run", "--result", target, "./l", "touch", "ran"]);
        ended.exits(code).says(&["result"]);
    }
    if is_root() {
        skip("root may write anywhere");
    } else {
        scratch.run(&["run", "--result", "/proc/x", "./l", "touch", "ran"]).exits(73);
    }
    assert!(!scratch.path("ran").exists() && !scratch.path("target").exists());
}

#[test]
fn a_file_that_the_run_locks_or_writes_otherwise_is_never_its_result() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("d")).unwrap();
    let name = format!("result-{}", std::process::id());
    let named = scratch.run(&["path", &name]).out.trim().to_owned();
    // None of the files is there yet.
    for (target, options) in [
        ("./a", &["./a"][..]),
        ("a", &["d/../a"]),
        ("b", &["--and", "./b", "./a"]),
        ("b", &["--and-shared", "./b", "./a"]),
        ("a", &["--slots", "2", "./a"]),
        ("log", &["--log", "./log", "./a"]),
        (&named, &[&name]),
    ] {
        let words = [&["run", "--result", target], options, &["touch", "ran"]].concat();
        scratch.run(&words).exits(64).says(&["--result", "would be replaced"]);
    }
    // The lock file under its holder, by its own name and by another one, is where it was.
    let _holder = scratch.holder(&[], "./a");
    let inode = fs::metadata(scratch.path("a")).unwrap().ino();
    fs::hard_link(scratch.path("a"), scratch.path("again")).unwrap();
    for target in ["./a", "again"] {
        scratch.run(&["run", "-n", "--result", target, "./a", "touch", "ran"]).exits(64);
        assert_eq!(fs::metadata(scratch.path(target)).unwrap().ino(), inode);
    }
    assert!(!scratch.path("ran").exists());
    scratch.run(&["run", "--result", "d/a", "./b", "true"]).exits(0);
}

#[test]
fn the_command_has_its_descriptors_as_ever_and_nobody_reading_costs_nothing() {
    let scratch = Scratch::new();
    let list = "\"$LOCKMGR\" run --result fd:5 ./l sh -c 'echo mine >&5; set -- /proc/$$/fd/*; echo $#' 5>out; \
                \"$LOCKMGR\" run ./l sh -c 'echo mine >&5; set -- /proc/$$/fd/*; echo $#' 5>/dev/null";
    let ended = scratch.sh(list);
    let counts: Vec<_> = ended.exits(0).out.lines().collect();
    assert_eq!(counts[0], counts[1], "one descriptor more or less: {ended:?}");
    let out = fs::read_to_string(scratch.path("out")).unwrap();
    assert!(out.starts_with("mine\n{\"version\":1,\"command\":\"run\""), "{out}");
    let ended = scratch.sh(
        "(\"$LOCKMGR\" run --result fd:5 ./l sh -c 'until [ -e go ]; do sleep 0.01; done; exit 6'; \
          echo $? >status) 5>&1 | { exec </dev/null; touch go; }; cat status",
    );
    assert_eq!(ended.exits(0).out, "6\n");
    assert!(ended.err.contains("the result is not written to fd:5"), "{ended:?}");
    assert_eq!(scratch.sh("\"$LOCKMGR\" run --result fd:5 ./l true 5>/dev/full").code, Some(0));
}

#[test]
fn ctrl_c_leaves_a_result() {
    let scratch = Scratch::new();
    let words = ["run", "--result", "result", "./l", "sh", "-c", "echo up; exec sleep 60"];
    let mut terminal = crate::terminal::alone(&scratch, &words);
    terminal.shows("up");
    terminal.types("\x03");
    assert_eq!(terminal.end(), (None, Some(Signal::INT.as_raw())));
    let result = fs::read_to_string(scratch.path("result")).unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!((&result["outcome"], &result["signal"]), (&"ran".into(), &"SIGINT".into()));
}
