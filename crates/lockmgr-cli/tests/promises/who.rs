//! `lockmgr who` tells the truth about one lock: who holds it, who waits, or that it is free.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;

use serde_json::Value;

use crate::support::{Running, Scratch, finished, has, is_gone, is_root, json, skip, wait_until};

const SOMEBODY: u32 = 54321;

/// The pid of a holder or waiter.
fn pid_of(party: &Value) -> i64 {
    party["process"]["pid"].as_i64().expect("a pid")
}

fn number(running: &Running) -> i64 {
    running.pid().as_raw_nonzero().get().into()
}

#[test]
fn holders_and_waiters_in_the_kernels_order() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    let first = scratch.waiter(&[], "./l", 1);
    let second = scratch.waiter(&["-s"], "./l", 2);
    let shown = scratch.run(&["who", "./l"]);
    shown.exits(0);
    let lines: Vec<&str> = shown.out.lines().collect();
    assert_eq!(lines[0], "./l: held, 2 waiters");
    for (line, state, pid, mode) in [
        (lines[1], "  holds", number(&holder), "exclusive"),
        (lines[2], "    waits", number(&first), "exclusive"),
        (lines[3], "waits", number(&second), "shared"),
    ] {
        assert!(line.contains(state) && line.contains(mode), "{shown:?}");
        assert!(line.contains(&format!(" {pid} ")), "{line}: {pid}");
    }
    let told = json(&scratch.run(&["who", "--json", "./l"]));
    let lock = &told["locks"][0]["file"]["locks"][0];
    assert_eq!(told["locks"][0]["held"], true);
    assert_eq!((&lock["kind"], &lock["mode"]), (&"flock".into(), &"exclusive".into()));
    assert_eq!(pid_of(&lock["holders"][0]), number(&holder));
    assert_eq!(lock["holders"][0]["standing"], "verified");
    assert_eq!(pid_of(&lock["waiters"][0]), number(&first));
    assert_eq!(pid_of(&lock["waiters"][1]), number(&second));
    assert_eq!(lock["waiters"][0]["thread"], number(&first));
}

#[test]
fn every_mechanism_and_its_bytes() {
    let scratch = Scratch::new();
    for (options, kind, len) in [
        (&["-s"][..], "flock", Value::Null),
        (&["-m", "ofd", "--range", "10+5"], "ofd", 5.into()),
        (&["-m", "posix", "--no-fork", "--range", "10"], "posix", Value::Null),
    ] {
        let holder = scratch.holder(options, "./l");
        let told = json(scratch.run(&["who", "--json", "./l"]).exits(0));
        let lock = &told["locks"][0]["file"]["locks"][0];
        assert_eq!((&lock["kind"], &lock["range"]["len"]), (&kind.into(), &len), "{told}");
        assert_eq!(pid_of(&lock["holders"][0]), number(&holder), "{told}");
    }
}

#[test]
fn empty_is_said() {
    let scratch = Scratch::new();
    fs::write(scratch.path("l"), "").unwrap();
    assert_eq!(scratch.run(&["who", "./l"]).exits(1).out, "./l: free\n");
    let missing = scratch.run(&["who", "./m"]);
    assert_eq!(missing.exits(1).out, "./m: free (there is no such file)\n");
    assert_eq!(missing.err, "");
    assert!(!scratch.path("m").exists());
    let told = json(scratch.run(&["who", "--json", "./l", "./m"]).exits(1));
    let exists: Vec<_> = (0..2).map(|index| told["locks"][index]["exists"].clone()).collect();
    assert_eq!(exists, [true, false]);
    assert_eq!(told["locks"][0]["file"], Value::Null);
    // Of several, one that is held decides.
    let _holder = scratch.holder(&[], "./l");
    scratch.run(&["who", "./m", "./l"]).exits(0);
}

#[test]
fn a_lock_that_lives_on_names_its_heirs() {
    let scratch = Scratch::new();
    // The taker becomes the shell, which ends.
    let script = "sleep 1000 >/dev/null & echo $!";
    let words = ["run", "--no-fork", "./l", "sh", "-c", script];
    let mut taker = Running::start(&mut scratch.lockmgr(&words));
    let heir = taker.says_pid();
    wait_until("the taker ends", || is_gone(taker.pid()));
    let told = json(scratch.run(&["who", "--json", "./l"]).exits(0));
    let holders = &told["locks"][0]["file"]["locks"][0]["holders"];
    assert_eq!((&holders[0]["standing"], pid_of(&holders[0])), (&"gone".into(), number(&taker)));
    assert_eq!(holders[1]["standing"], "inherited");
    assert_eq!(pid_of(&holders[1]), i64::from(heir.as_raw_nonzero().get()));
    let shown = scratch.run(&["who", "./l"]);
    assert!(shown.out.contains("\ninherited: ") && shown.out.contains("\ngone: "), "{shown:?}");
}

#[test]
fn all_who_have_inherited_it_are_named_when_asked() {
    let scratch = Scratch::new();
    let _holder = scratch.holder(&[], "./l");
    let told = json(scratch.run(&["who", "-a", "--json", "./l"]).exits(0));
    let holders = told["locks"][0]["file"]["locks"][0]["holders"].as_array().unwrap().clone();
    let standings: Vec<_> = holders.iter().map(|holder| holder["standing"].clone()).collect();
    assert_eq!(standings, ["verified", "inherited"], "lockmgr and its command");
    // The shell that says "up" becomes `sleep` a moment later.
    let command = &holders[1]["process"]["command"][0];
    assert!(command == "sh" || command == "sleep", "{command}");
}

#[test]
fn hostile_names_are_shown_and_not_obeyed() {
    let scratch = Scratch::new();
    let file = OsStr::from_bytes(b"./a\x1b[2J\nb\xff\xe2\x80\xae.lock");
    let title = OsStr::from_bytes(b"\x1b]0;owned\x07\nlockmgr: forged\xff");
    let words = [
        OsStr::new("run"),
        file,
        "sh".as_ref(),
        "-c".as_ref(),
        "echo up; exec sleep 1000".as_ref(),
    ];
    let mut holder = Running::start(scratch.lockmgr(&words).arg0(title));
    holder.says("up");
    for words in [&["who"][..], &["ls"], &["who", "--json"], &["ls", "--json"]] {
        let mut command = scratch.lockmgr(words);
        let shown = finished(command.arg(file));
        shown.exits(0);
        let text = shown.out.strip_suffix('\n').unwrap();
        let lines: Vec<&str> = text.split('\n').collect();
        assert!(!lines.iter().any(|line| line.starts_with("lockmgr: forged")), "{shown:?}");
        assert!(
            !text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')),
            "{shown:?}"
        );
        assert!(text.contains("\\u{1b}[2J") || text.contains("\\u001b[2J"), "{shown:?}");
    }
    let mut command = scratch.lockmgr(&["who", "--json"]);
    let told = json(&finished(command.arg(file)));
    assert_eq!(told["locks"][0]["path_bytes"], "Li9hG1sySgpi/+KAri5sb2Nr");
    let process = &told["locks"][0]["file"]["locks"][0]["holders"][0]["process"];
    assert_eq!(process["command_bytes"][0], "G10wO293bmVkBwpsb2NrbWdyOiBmb3JnZWT/");
}

#[test]
fn what_the_holder_says_of_itself_is_shown_and_not_obeyed() {
    let scratch = Scratch::new();
    let _holder = scratch.holder(&["--note", "nightly\u{1b}[2J\nbackup"], "./l");
    let shown = scratch.run(&["who", "./l"]);
    let line = shown.exits(0).out.lines().last().unwrap();
    assert!(line.starts_with("  the holder says: for "), "{shown:?}");
    assert!(line.ends_with("; its note: nightly\\u{1b}[2J\\nbackup"), "{shown:?}");
    let told = json(&scratch.run(&["who", "--json", "./l"]));
    assert_eq!(told["locks"][0]["record"]["note"], "nightly\u{1b}[2J\nbackup");
}

#[test]
fn a_name_is_the_lock_of_that_name() {
    let scratch = Scratch::new();
    let name = format!("lockmgr-test.who-{}", std::process::id());
    let path = scratch.run(&["path", &name]).exits(0).out.trim_end().to_owned();
    let holder = scratch.holder(&[], &name);
    let shown = scratch.run(&["who", &name]);
    drop(holder);
    fs::remove_file(&path).unwrap();
    assert!(shown.exits(0).out.starts_with(&format!("{path}: held\n")), "{shown:?}");
}

#[test]
fn what_cannot_be_looked_up_is_73_and_wrong_usage_64() {
    let scratch = Scratch::new();
    fs::write(scratch.path("l"), "").unwrap();
    scratch.run(&["who", "./l/x"]).exits(73).says(&["l/x"]);
    scratch.run(&["who"]).exits(64);
    scratch.run(&["who", ""]).exits(64);
    scratch.run(&["who", "a b"]).exits(64).says(&["name"]);
    scratch.run(&["who", "--system", "./l"]).exits(64).says(&["--system"]);
}

#[test]
fn another_users_holder_is_named_and_marked() {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    let scratch = Scratch::new().open_to_all();
    let holder = scratch.holder(&["--mode", "0644"], "./l");
    let words = ["who", "--json", "./l"];
    let told = json(&finished(scratch.lockmgr(&words).uid(SOMEBODY).gid(SOMEBODY)));
    let first = &told["locks"][0]["file"]["locks"][0]["holders"][0];
    assert_eq!(first["standing"], "not permitted");
    assert_eq!((pid_of(first), &first["process"]["uid"]), (number(&holder), &0.into()));
    let shown = finished(scratch.lockmgr(&["who", "./l"]).uid(SOMEBODY).gid(SOMEBODY));
    shown.exits(0).says(&["could not be looked at", "root"]);
    assert!(shown.out.contains("not permitted  "), "{shown:?}");
}

#[test]
fn a_reader_that_went_away_costs_no_status() {
    let scratch = Scratch::new();
    let _holder = scratch.holder(&[], "./l");
    if !has("bash") {
        return skip("needs bash, for the status of a pipe's first command");
    }
    for (words, code) in [("who ./l", "0"), ("who ./m", "1"), ("ls --json", "0")] {
        for traps in ["", "trap '' PIPE;"] {
            let script =
                format!("{traps} \"$LOCKMGR\" {words} | exec true; echo ${{PIPESTATUS[0]}}");
            let shown = finished(&mut scratch.command(&["bash", "-c", &script]));
            assert_eq!((shown.out.trim_end(), shown.err.as_str()), (code, ""), "{words}");
        }
    }
}
