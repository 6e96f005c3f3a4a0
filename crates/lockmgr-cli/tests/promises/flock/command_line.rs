//! Every kind of command line, right and wrong, beside the original.

use super::both::{Whose, has_original, same};
use crate::support::{LOCKMGR, Scratch, finished};

#[test]
fn forms() {
    if !has_original() {
        return;
    }
    for words in [
        &["f", "echo", "hi"][..],
        &["f", "-c", "echo $0 $#"],
        &["f", "--command", "exit 3"],
        &["f", "-c"],
        &["f", "--command"],
        &["f", "-c", "a", "b"],
        &["f", "--comm", "x"],
        &["f", "--", "echo"],
        &["--", "f", "echo", "x"],
        &["--", "f", "--", "echo"],
        &["f", "echo", "-n", "--help"],
        &["9", "echo", "a file of that name"],
        &["", "true"],
        &["f", ""],
        &["-", "echo", "x"],
        &[".", "echo", "x"],
        &["d/e", "true"],
        &["/", "echo", "x"],
        &["/dev/null", "echo", "x"],
        &["-s", "/dev/full", "echo", "x"],
        &["f/", "true"],
        &["f\n\u{1b}[1m", "no such\tcommand"],
        &["d\n\u{1b}[1m/e", "true"],
    ] {
        same(words);
    }
}

#[test]
fn descriptors() {
    if !has_original() {
        return;
    }
    for word in [
        "0",
        "1",
        "2",
        "77",
        " 0",
        "+0",
        "00",
        "\t0",
        "2147483647",
        "2147483648",
        "0x0",
        "0 ",
        "f",
        "",
        "99999999999999999999",
        "99999999999999999999x",
        "2147483648x",
        "1.0",
        "-",
        "9f",
    ] {
        same(&[word]);
        same(&["--verbose", "-n", word]);
        same(&["-o", "-s", word]);
        same(&["-F", "-u", word]);
    }
}

#[test]
fn options() {
    if !has_original() {
        return;
    }
    for options in [
        &["-s"][..],
        &["-x"],
        &["-e"],
        &["-u"],
        &["-sxu"],
        &["--shared", "--exclusive", "--unlock"],
        &["--sh", "--ex", "--e", "--un", "--u"],
        &["-n"],
        &["--nb"],
        &["--nonblock"],
        &["--nonblocking"],
        &["--non"],
        &["--no"],
        &["--n"],
        &["--no-fork"],
        &["--no-"],
        &["-F"],
        &["-o"],
        &["--close"],
        &["--clo"],
        &["--c"],
        &["-o", "-F"],
        &["-Fo"],
        &["--verbose"],
        &["--verb"],
        &["--verbose", "-F"],
        &["--verbose", "-nw5"],
        &["--ver"],
        &["-q"],
        &["-nq"],
        &["--bogus"],
        &["--bogus=3"],
        &["--shared=3"],
        &["--nb=1"],
        &["-nE5"],
        &["-E5w5"],
        &["-E", "7"],
        &["--conflict-exit-code", "7"],
        &["--conf=7"],
        &["-h"],
        &["-V", "-q"],
        &["-5"],
    ] {
        // Of --help and --version only the status is the same.
        if options[0] == "-h" || options[0] == "-V" {
            continue;
        }
        same(&[options, &["f", "echo", "ran"]].concat());
        same(&[options, &["f", "no-such-command"]].concat());
        same(&[options, &["0"]].concat());
        same(options);
    }
    same(&[]);
}

#[test]
fn numbers() {
    if !has_original() {
        return;
    }
    let small = format!("0.{}1", "0".repeat(400));
    let large = "9".repeat(4000);
    for seconds in [
        &small, &large, "1e4931", "-1e-6", "0", "1", ".05", "2.", "1e-3", "0x1", "0x.8p1", " 1",
        "+1", "1e-9", "-1", "-0.5", "-1e-9", "inf", "nan", "-inf", "infinity", "1e20", "1e400",
        "1e-400", "1e5000", "1e18", "", "x", "1 ", "5x", "1,5", ".", "0x", "1_0", "--", "-s",
    ] {
        for option in ["-w", "--wait", "--timeout", "--time"] {
            same(&[option, seconds, "f", "echo", "ran"]);
        }
        same(&[&format!("--wait={seconds}"), "-u", "f", "echo", "ran"]);
        same(&["-n", "-w", seconds, "0"]);
        same(&["--verbose", "-w", seconds, "f", "echo", "ran"]);
    }
    for code in [
        "0",
        "1",
        "255",
        "256",
        "-1",
        "1000000",
        "99999999999999999999",
        "99999999999999999999x",
        "-99999999999999999999",
        "",
        "x",
        " 7",
        "+7",
        "7 ",
        "0x7",
        "07",
        "1.0",
    ] {
        same(&["-E", code, "f", "echo", "ran"]);
        same(&[&format!("--conflict-exit-code={code}"), "f", "echo", "ran"]);
    }
    for option in ["-w", "-E", "--wait", "--timeout", "--conflict-exit-code", "-nw", "-sE"] {
        same(&[option]);
    }
}

#[test]
fn help_and_version_have_the_originals_form() {
    let scratch = Scratch::new();
    let run = |words: &[&str]| {
        finished(scratch.lockmgr(&[&["flock"], words].concat()).env("LC_ALL", "C"))
    };
    let version = run(&["-V"]);
    assert!(version.exits(0).out.starts_with("flock from util-linux 2."), "{version:?}");
    assert_eq!(version.out.lines().count(), 1);
    assert_eq!(run(&["--version", "--bogus"]).exits(0).out, version.out);
    let help = run(&["-h"]);
    assert!(
        help.exits(0).out.starts_with("\nUsage:\n flock [options] <file>|<directory> <command>")
    );
    assert_eq!(run(&["--help"]).out, help.out);
    if !has_original() {
        return;
    }
    let original = Whose::Original;
    let original = finished(&mut original.command(&scratch, &["--help"]));
    // The newer version has lines that the older one has not.
    let lines: Vec<&str> = help.out.lines().collect();
    let mut ours = lines.iter();
    for line in original.out.lines() {
        assert!(ours.any(|our| *our == line), "{line:?} is not in its place in {}", help.out);
    }
}

/// What the program calls itself with is not for others.
#[test]
fn there_are_no_hidden_options() {
    let scratch = Scratch::new();
    for word in ["--lab-actor", "--demo-worker", "--doctor-look"] {
        let ended = finished(&mut Whose::Ours.command(&scratch, &[word, "x"]));
        let said = format!(
            "flock: unrecognized option '{word}'\nTry 'flock --help' for more information.\n"
        );
        assert_eq!(ended.exits(64).err, said);
    }
}

#[test]
fn as_a_subcommand_it_is_the_same() {
    let scratch = Scratch::new();
    let link = scratch.path("flock");
    std::os::unix::fs::symlink(LOCKMGR, &link).expect("a link");
    for words in [
        &["f", "echo", "ran"][..],
        &["-n", "f", "sh", "-c", "exit 3"],
        &["f", "-c", "echo $0"],
        &["--help"],
        &["-h"],
        &["--version"],
        &["--bogus"],
        &[],
        &["77"],
    ] {
        let linked =
            finished(&mut scratch.command(&[&[link.to_str().expect("UTF-8")], words].concat()));
        let named = finished(&mut scratch.lockmgr(&[&["flock"], words].concat()));
        assert_eq!((linked.code, &linked.out, &linked.err), (named.code, &named.out, &named.err));
        assert!(linked.err.is_empty() || linked.err.starts_with("flock: "), "{linked:?}");
    }
}
