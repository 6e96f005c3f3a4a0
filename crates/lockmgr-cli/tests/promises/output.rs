//! Standard output is the command's; what lockmgr says goes to standard error, whole and harmless.

use std::fs;
use std::process::Stdio;

use crate::support::{LOCKMGR, Running, Scratch, finished, has, hold, skip};

#[test]
fn standard_output_is_the_commands() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["run", "-v", "./l", "echo", "mine"]);
    assert_eq!(ran.exits(0).out, "mine\n");
    let lines: Vec<&str> = ran.err.lines().collect();
    assert!(lines[0].starts_with("lockmgr: waited ") && lines[0].ends_with("/l"), "{lines:?}");
    assert!(lines[1].starts_with("lockmgr: held ") && lines[1].contains("/l for "), "{lines:?}");
    assert_eq!(lines.len(), 2);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let scratch = Scratch::new();
    for words in [
        &["--help"][..],
        &["-h"],
        &["--version"],
        &["help", "run"],
        &["run", "--help"],
        &["lock", "--help"],
        &["unlock", "-h"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
    ] {
        let shown = scratch.run(words);
        shown.exits(0);
        assert!(shown.out.contains("lockmgr"), "{words:?}: {shown:?}");
        assert_eq!(shown.err, "", "{words:?}");
    }
    assert_eq!(
        scratch.run(&["run", "./l", "sh", "-c", "echo $1", "-", "--help"]).exits(0).out,
        "--help\n"
    );
}

#[test]
fn a_reader_that_went_away_is_no_defect() {
    let scratch = Scratch::new();
    for words in ["--help", "run --help", "completions bash", "--version", "path x"] {
        // Once with a pipe that nobody reads, SIGPIPE as usual and ignored; once with no descriptor.
        for script in [
            format!("\"$LOCKMGR\" {words} | exec true"),
            format!("trap '' PIPE; \"$LOCKMGR\" {words} | exec true"),
            format!("\"$LOCKMGR\" {words} >&-; test $? -ne 101 -a $? -ne 70"),
        ] {
            let shown = scratch.sh(&script);
            shown.exits(0);
            assert!(!shown.err.contains("defect") && !shown.err.contains("panic"), "{shown:?}");
        }
    }
    for words in ["path x", "--help", "--version", "run --help", "help ls"] {
        let script = format!("exec \"$LOCKMGR\" {words} >/dev/full");
        scratch.sh(&script).exits(74).says(&["output"]);
    }
}

#[test]
fn a_message_that_nobody_reads_costs_no_status() {
    let scratch = Scratch::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let command = "echo running; exec 2>&-; read _; exit 9";
    let mut running = Running::start(
        scratch
            .lockmgr(&["run", "-v", "./l", "sh", "-c", command])
            .stdin(Stdio::piped())
            .stderr(writer),
    );
    running.says("running");
    drop(reader);
    running.tell("go on");
    running.finish().exits(9);

    let _held = hold(&scratch.path("l"));
    let (_, writer) = std::io::pipe().expect("a pipe");
    Running::start(scratch.lockmgr(&["run", "-n", "./l", "true"]).stderr(writer))
        .finish()
        .exits(75);
}

#[test]
fn what_comes_from_outside_is_shown_and_not_obeyed() {
    let scratch = Scratch::new();
    let name = "./a\x1b[31m\nlockmgr: all is well\u{202e}";
    let _held = hold(&scratch.path(name));
    let refused = scratch.run(&["run", "-n", name, "true"]);
    refused.exits(75).says(&["\\u{1b}[31m\\n"]);
    assert!(!refused.err.contains('\u{202e}'), "{refused:?}");
    scratch.run(&["run", "./l", "./no\x07thing"]).exits(127).says(&["no\\u{7}thing"]);
}

#[test]
fn closed_standard_descriptors_do_not_become_the_lock_file() {
    let scratch = Scratch::new();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        for fork in ["", "--no-fork"] {
            let script = format!(
                "\"$LOCKMGR\" run -v {fork} ./l sh -c 'for fd in 0 1 2; do \
                 if test -e /proc/self/fd/$fd; then readlink /proc/self/fd/$fd; fi; done >seen 2>/dev/null' {closed}"
            );
            scratch.sh(&script).exits(0);
            let seen = fs::read_to_string(scratch.path("seen")).expect("the command ran");
            assert!(!seen.contains("/l\n"), "{closed} {fork}: {seen}");
            let content = fs::read_to_string(scratch.path("l")).expect("the lock file");
            let is_record = content.starts_with("{\"lockmgr\":1,") && content.ends_with("\"]}\n");
            assert!(is_record && content.lines().count() == 1, "{closed} {fork}: {content}");
        }
    }
}

#[test]
fn completions_are_scripts() {
    let scratch = Scratch::new();
    for shell in ["bash", "zsh", "fish"] {
        if !has(shell) {
            skip(&format!("{shell} is not installed"));
            continue;
        }
        let script = scratch.run(&["completions", shell]).out;
        fs::write(scratch.path("script"), script).expect("a scratch file");
        finished(&mut scratch.command(&[shell, "-n", "script"])).exits(0).is_silent();
    }
}

#[test]
fn the_terminal_is_not_needed() {
    let scratch = Scratch::new();
    let mut command = scratch.command(&["setsid", LOCKMGR, "run", "./l", "echo", "ran"]);
    assert_eq!(finished(command.stdin(Stdio::null())).exits(0).out, "ran\n");
}

/// What is opened next would get the number of a stream that is closed.
#[test]
fn a_closed_standard_stream_is_no_file_of_ours() {
    let scratch = Scratch::new();
    let content = "precious\n";
    for closed in [">&-", "2>&-", "<&-", "<&- >&- 2>&-"] {
        fs::write(scratch.path("f"), content).unwrap();
        for words in ["lab try --hold 0 ./f", "lab dup", "path x", "ls ./f", "wait ./f"] {
            let ran = scratch.sh(&format!("\"$LOCKMGR\" {words} {closed}"));
            ran.exits(0);
            // Some machines hide their first process even from root.
            let silent =
                ran.err.is_empty() || ran.err.ends_with("could not be looked at (not permitted)\n");
            assert!(closed.starts_with('2') || silent, "{words} {closed}: {ran:?}");
        }
        scratch.sh(&format!("\"$LOCKMGR\" run ./f false {closed}")).exits(1);
        let refused = scratch.sh(&format!("\"$LOCKMGR\" run --bogus ./f true {closed}"));
        refused.exits(64);
        assert_eq!(fs::read_to_string(scratch.path("f")).unwrap(), content, "{closed}");
        let words = "demo --rounds 1 --pace 1ms --svg o.svg ./l";
        scratch.sh(&format!("\"$LOCKMGR\" {words} {closed}")).exits(0);
        assert!(fs::read(scratch.path("o.svg")).unwrap().starts_with(b"<?xml"), "{closed}");
    }
}

#[test]
fn the_command_finds_closed_what_was_closed() {
    let scratch = Scratch::new();
    let look = "'for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] || set -- $@ $fd; done; echo $* >seen'";
    for options in ["", "--no-fork", "--slots 2", "--hold-tree"] {
        for (closed, seen) in [("<&-", "0"), (">&-", "1"), ("2>&-", "2"), ("<&- 2>&-", "0 2")] {
            let script = format!("\"$LOCKMGR\" run {options} ./l sh -c {look} {closed}");
            scratch.sh(&script).exits(0);
            let found = fs::read_to_string(scratch.path("seen")).unwrap();
            assert_eq!(found.trim(), seen, "{options} {closed}");
        }
    }
    // Nor does anybody take it for open who is told to use it.
    for words in ["lock --fd 0", "unlock --fd 0", "run --result fd:0 ./l true"] {
        scratch.sh(&format!("\"$LOCKMGR\" {words} <&-")).exits(64).says(&["not open"]);
    }
}
