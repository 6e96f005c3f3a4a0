//! `lockmgr ls` lists every lock, whoever has it; at least what lslocks(8) lists.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Finished, Running, Scratch, finished, has, is_root, json, skip, wait_until};
use crate::terminal::alone;

const SOMEBODY: u32 = 54321;

/// The files of `ls --json` in this directory.
#[track_caller]
fn files(scratch: &Scratch, options: &[&str]) -> Vec<Value> {
    let mut command = scratch.lockmgr(&["ls", "--json"]);
    let told = json(finished(command.args(options).arg(scratch.dir())).exits(0));
    told["files"].as_array().expect("a list").clone()
}

/// The last part of each path.
fn names(files: &[Value]) -> Vec<&str> {
    files
        .iter()
        .map(|file| file["path"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or("?"))
        .collect()
}

fn number(running: &Running) -> i32 {
    running.pid().as_raw_nonzero().get()
}

#[test]
fn everything_lslocks_lists_is_listed() {
    if !has("lslocks") {
        return skip("needs lslocks, of util-linux");
    }
    let scratch = Scratch::new();
    let shared = [scratch.holder(&["-s"], "./shared"), scratch.holder(&["-s"], "./shared")];
    let posix = ["-m", "posix", "--no-fork"];
    let _posix = scratch.holder(&[&posix[..], &["--range", "3+4"]].concat(), "./posix");
    let ofd = scratch.holder(&["-m", "ofd", "--range", "5"], "./ofd");
    let deleted = scratch.holder(&[], "./deleted");
    fs::remove_file(scratch.path("deleted")).unwrap();
    let _holder = scratch.holder(&[], "./busy");
    let _waiters = [scratch.waiter(&[], "./busy", 1), scratch.waiter(&["-s"], "./busy", 2)];

    // It gives up without a word when a process ends while it looks.
    let mut theirs = Value::Null;
    wait_until("lslocks says something", || {
        let mut lslocks = Command::new("lslocks");
        lslocks.args(["--json", "-o", "PID,TYPE,MODE,START,END,INODE"]);
        let said = lslocks.output().expect("it runs").stdout;
        theirs = serde_json::from_slice(&said).unwrap_or_default();
        !theirs.is_null()
    });
    let files = files(&scratch, &[]);
    let mut compared = 0;
    for line in theirs["locks"].as_array().unwrap() {
        let text = |key: &str| line[key].to_string().trim_matches('"').to_owned();
        let Some(file) = files.iter().find(|file| file["inode"]["number"] == line["inode"]) else {
            continue;
        };
        compared += 1;
        let blocked = text("mode").ends_with('*');
        let mode = if text("mode").starts_with("WRITE") { "exclusive" } else { "shared" };
        let kind = text("type").to_lowercase().replace("ofdlck", "ofd");
        let is_it = |lock: &Value, party: &Value| {
            let len = &lock["range"]["len"];
            let start = lock["range"]["start"].as_u64().unwrap();
            // It gives the last byte, says 0 for the end of the file, and does not know that our
            // locks to the end of the file stop below 2^62.
            let ends = match len.as_u64() {
                Some(len) => [start + len - 1; 2],
                None => [0, (1 << 62) - 1],
            };
            // Of ofd locks it does not know the pid.
            let pid = party["process"]["pid"].to_string();
            lock["kind"] == *kind
                && lock["mode"] == mode
                && start.to_string() == text("start")
                && ends.iter().any(|end| end.to_string() == text("end"))
                && (pid == text("pid") || kind == "ofd")
        };
        let found = file["locks"].as_array().unwrap().iter().any(|lock| {
            let parties = if blocked { &lock["waiters"] } else { &lock["holders"] };
            let parties = parties.as_array().unwrap();
            parties.iter().any(|party| is_it(if blocked { party } else { lock }, party))
        });
        assert!(found, "{line}: {file:#}");
    }
    // Two shared, one of each other kind, one deleted, one held and two waiters.
    assert!(compared >= 7, "{compared}: {theirs}");

    // And what it does not list.
    let of = |name: &str| files.iter().find(|file| names(std::slice::from_ref(*file)) == [name]);
    let holder = &of("ofd").expect("it is held")["locks"][0]["holders"][0];
    assert_eq!(holder["process"]["pid"], number(&ofd));
    let file = of("deleted").expect("it is held");
    assert_eq!(
        (&file["deleted"], &file["locks"][0]["holders"][0]["process"]["pid"]),
        (&true.into(), &number(&deleted).into())
    );
    let locks = of("shared").expect("it is held")["locks"].as_array().unwrap();
    assert_eq!(locks.len(), shared.len());
}

#[test]
fn filters_leave_what_was_asked_for() {
    let scratch = Scratch::new();
    let quiet = scratch.holder(&[], "./quiet");
    let _busy = scratch.holder(&[], "./busy");
    let waiter = scratch.waiter(&[], "./busy", 1);
    let all = |options: &[&str]| {
        let found = files(&scratch, options);
        names(&found).iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(all(&[]), "busy quiet");
    assert_eq!(all(&["--sort", "waiters"]), "busy quiet");
    assert_eq!(all(&["--sort", "pid"]), "quiet busy");
    assert_eq!(all(&["--waiting"]), "busy");
    assert_eq!(all(&["--pid", &number(&quiet).to_string()]), "quiet");
    assert_eq!(all(&["--pid", &number(&waiter).to_string()]), "busy");
    assert_eq!(all(&["--mine"]), "busy quiet");
    assert_eq!(all(&["--user", &rustix::process::geteuid().as_raw().to_string()]), "busy quiet");
    assert_eq!(all(&["--user", "4000000000"]), "");
    scratch.run(&["ls", "--user", "no-such-user"]).exits(64).says(&["no user 'no-such-user'"]);
    // One file, by another name of it.
    std::os::unix::fs::symlink("quiet", scratch.path("link")).unwrap();
    let told = json(scratch.run(&["ls", "--json", "link"]).exits(0));
    assert_eq!(names(told["files"].as_array().unwrap()), ["quiet"]);
}

#[test]
fn mine_is_not_everybodys() {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    let scratch = Scratch::new().open_to_all();
    let _roots = scratch.holder(&["--mode", "0666"], "./roots");
    fs::write(scratch.path("theirs"), "").unwrap();
    let words = ["run", "./theirs", "sh", "-c", "echo up; exec sleep 1000"];
    let mut theirs = Running::start(scratch.lockmgr(&words).uid(SOMEBODY).gid(SOMEBODY));
    theirs.says("up");
    assert_eq!(names(&files(&scratch, &["--user", &SOMEBODY.to_string()])), ["theirs"]);
    let list = |words: &[&str]| finished(scratch.lockmgr(words).uid(SOMEBODY).gid(SOMEBODY));
    let mine = list(&["ls", "--mine"]);
    assert!(mine.exits(0).out.contains("/theirs\n") && !mine.out.contains("/roots"), "{mine:?}");
    // What this user may not look at is told, in one line.
    mine.says(&["processes could not be looked at (not permitted)"]);
    let told = json(&list(&["ls", "--json"]));
    assert!(!told["gaps"]["not_permitted"].as_array().unwrap().is_empty());
    let roots = fs::metadata(scratch.path("roots")).unwrap();
    let number = std::os::unix::fs::MetadataExt::ino(&roots);
    let file =
        told["files"].as_array().unwrap().iter().find(|file| file["inode"]["number"] == number);
    let holder = &file.expect("it is not dropped")["locks"][0]["holders"][0];
    assert_eq!(holder["standing"], "not permitted");
}

#[test]
fn empty_is_said() {
    let scratch = Scratch::new();
    let shown = finished(scratch.lockmgr(&["ls"]).arg(scratch.dir()));
    assert_eq!(shown.exits(0).out, "no such locks\n");
    scratch.run(&["ls", "./missing"]).exits(73).says(&["missing"]);
    scratch.run(&["ls", "--sort", "colour"]).exits(64);
    scratch.run(&["ls", "--watch=0"]).exits(64);
}

#[test]
fn a_deleted_file_is_found_by_its_old_path() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    fs::remove_file(scratch.path("l")).unwrap();
    let shown = scratch.run(&["ls", "./l"]);
    shown.exits(0);
    let heading = format!("{} (deleted)", scratch.path("l").display());
    assert_eq!(shown.out.lines().next(), Some(&*heading), "{shown:?}");
    assert!(shown.out.contains(&number(&holder).to_string()), "{shown:?}");
}

#[test]
fn waiters_stand_below_what_they_wait_for() {
    let scratch = Scratch::new();
    let _holders = [scratch.holder(&[], "./a"), scratch.holder(&["-m", "ofd"], "./b")];
    let _waiter = scratch.waiter(&[], "./a", 1);
    let shown: Finished = finished(scratch.lockmgr(&["ls"]).arg(scratch.dir()));
    let states: Vec<&str> = shown
        .out
        .lines()
        .map(|line| if line.starts_with('/') { line.rsplit('/').next().unwrap() } else { line })
        .map(|line| line.trim_start().split(' ').next().unwrap())
        .filter(|state| *state != "inherited")
        .collect();
    assert_eq!(states, ["a", "holds", "waits", "b", "holds"], "{shown:?}");
    // The cells of one column stand under each other.
    let at: Vec<_> = shown.out.lines().filter_map(|line| line.find("exclusive")).collect();
    assert!(at.len() == 3 && at.iter().all(|place| *place == at[0]), "{shown:?}");
    assert!(!shown.out.contains('\x1b'), "colours are for terminals: {shown:?}");
}

#[test]
fn a_watch_ends_when_nobody_reads_it_any_more() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    // So rare that what ends it cannot be the next picture.
    let mut command = scratch.lockmgr(&["ls", "--watch=3600"]);
    let mut child = command.arg(scratch.dir()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = crate::support::Listener::new(child.stdout.take().unwrap());
    assert!(reader.until("  holds").is_some());
    drop(reader);
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(0));
    drop(holder);
}

#[test]
fn a_watch_shows_what_changes() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    let mut command = scratch.lockmgr(&["ls", "--watch=0.1"]);
    let mut child = command.arg(scratch.dir()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = crate::support::Listener::new(child.stdout.take().unwrap());
    assert!(reader.until("  holds").is_some());
    // Pictures are separated by an empty line.
    assert!(reader.until("\n\n").is_some());
    drop(holder);
    assert!(reader.until("\n\nno such locks\n").is_some());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn json_of_a_watch_is_one_document_a_line() {
    let scratch = Scratch::new();
    let mut command = scratch.lockmgr(&["ls", "--json", "--watch=0.1"]);
    let mut child = command.arg(scratch.dir()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = crate::support::Listener::new(child.stdout.take().unwrap());
    for _ in 0..3 {
        let line = reader.until("\n").unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(told["command"], "ls");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn on_a_terminal_it_is_coloured_cut_and_redrawn() {
    let scratch = Scratch::new();
    let long = "x".repeat(100);
    let words = ["run", "./l", "sh", "-c", "echo up; exec sleep 1000", &long];
    let mut holder = Running::start(&mut scratch.lockmgr(&words));
    holder.says("up");
    let directory = scratch.dir().to_str().unwrap();
    let mut terminal = alone(&scratch, &["ls", "--watch=0.1", directory]);
    // Twice: it is drawn again, in the same place.
    for _ in 0..2 {
        terminal.shows("\x1b[H\x1b[2J\x1b[1m");
        terminal.shows("  holds");
        // The line fills the terminal's 80 columns, and no more.
        terminal.shows("…\r\n");
    }
    terminal.types("\x03");
    assert_eq!(terminal.end(), (None, Some(Signal::INT.as_raw())));
}

#[test]
fn no_color_is_honoured() {
    let scratch = Scratch::new();
    let _holder = scratch.holder(&[], "./l");
    let directory = scratch.dir().to_str().unwrap();
    let plain = format!("{}\r\n  holds", Path::new(directory).join("l").display());
    let lockmgr = crate::support::LOCKMGR;
    let script = format!("echo begin; NO_COLOR=1 {lockmgr} ls {directory}");
    let mut command = scratch.command(&["setsid", "--ctty", "sh", "-c", &script]);
    let mut terminal = crate::terminal::Terminal::start(&mut command);
    terminal.shows(&format!("begin\r\n{plain}"));
}

#[test]
fn what_others_hold_below_a_directory_is_found_there() {
    if !is_root() {
        return skip("needs root, to be somebody else");
    }
    let scratch = Scratch::new().open_to_all();
    scratch.sh("mkdir -p d/e other; chmod -R 755 d other").exits(0);
    let _holder = scratch.holder(&["--mode", "0644"], "./d/e/l");
    let _elsewhere = scratch.holder(&["--mode", "0644"], "./other/l");
    let listed = |words: &[&str]| finished(scratch.lockmgr(words).uid(SOMEBODY).gid(SOMEBODY));
    let path = fs::canonicalize(scratch.path("d/e/l")).unwrap();
    let path = path.to_str().unwrap();
    for asked in ["d", "./d/e/l", "."] {
        let shown = listed(&["ls", asked]);
        assert!(shown.exits(0).out.contains(&format!("{path}\n")), "{asked}: {shown:?}");
        assert_eq!(shown.out.contains("other/l"), asked == ".", "{asked}: {shown:?}");
    }
    // It may be where nothing can be read: it is not dropped.
    scratch.sh("chmod 700 d/e").exits(0);
    let shown = listed(&["ls", "d"]);
    assert!(shown.exits(0).out.contains("(path not known)"), "{shown:?}");
}

#[test]
fn a_directory_that_is_mounted_twice_has_the_same_locks() {
    let scratch = Scratch::new();
    scratch.sh("mkdir d twice; : > d/l").exits(0);
    let _holder = scratch.holder(&[], "./d/l");
    let unshared = ["unshare", "--mount", "sh", "-c"];
    let mount = "mount --bind d twice";
    if finished(&mut scratch.command(&[&unshared[..], &[mount]].concat())).code != Some(0) {
        return skip("needs unshare(1) and the right to mount");
    }
    let script = format!("{mount} && exec \"$LOCKMGR\" ls twice");
    let shown = finished(&mut scratch.command(&[&unshared[..], &[&script]].concat()));
    assert!(shown.exits(0).out.contains("/d/l\n  holds"), "{shown:?}");
}
