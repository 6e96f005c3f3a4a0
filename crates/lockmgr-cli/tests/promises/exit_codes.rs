//! The exit status is the command's own, or says what went wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::support::{Scratch, finished, hold, is_root, skip, wait_until};

#[test]
fn the_commands_own_status() {
    let scratch = Scratch::new();
    for code in [0, 1, 42, 64, 75, 127, 255] {
        let exit = format!("exit {code}");
        scratch.run(&["run", "./l", "sh", "-c", &exit]).exits(code).is_silent();
        scratch.run(&["run", "./l", "-c", &exit]).exits(code).is_silent();
        scratch.run(&["run", "--no-fork", "./l", "--", "sh", "-c", &exit]).exits(code).is_silent();
    }
}

#[test]
fn a_signal_is_128_and_its_number() {
    let scratch = Scratch::new();
    for (signal, code) in [("TERM", 143), ("KILL", 137), ("INT", 130), ("USR1", 138), ("PIPE", 141)]
    {
        let kill = format!("kill -{signal} $$");
        scratch.run(&["run", "./l", "sh", "-c", &kill]).exits(code).is_silent();
    }
}

#[test]
fn not_found_is_127() {
    let scratch = Scratch::new();
    for command in ["no-such-command-here", "./nothing", "/no/such/directory/x", "", "./l/x"] {
        scratch.run(&["run", "./l", "--", command]).exits(127).says(&["not found"]);
        scratch.run(&["run", "--no-fork", "./l", "--", command]).exits(127).says(&["not found"]);
    }
}

#[test]
fn a_directory_of_the_path_that_may_not_be_looked_into_is_passed_over() {
    if !is_root() {
        return skip("needs root, to run as a user without permission");
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(scratch.path("closed")).unwrap();
    fs::set_permissions(scratch.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(scratch.path("l"), "").unwrap();
    let path = format!("{}:/usr/bin:/bin", scratch.path("closed").display());
    let run = |program: &str| {
        let mut command = scratch.lockmgr(&["run", "./l", program]);
        finished(command.env("PATH", &path).uid(54321).gid(54321))
    };
    run("true").exits(0).is_silent();
    run("no-such-command-here").exits(127).says(&["not found"]);
}

#[test]
fn not_executable_is_126() {
    let scratch = Scratch::new();
    fs::write(scratch.path("plain"), "text").unwrap();
    fs::write(scratch.path("dangling"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(scratch.path("dangling"), fs::Permissions::from_mode(0o755)).unwrap();
    for (command, reason) in
        [("./plain", "denied"), ("/tmp", "denied"), ("./dangling", "interpreter")]
    {
        scratch.run(&["run", "./l", command]).exits(126).says(&["cannot be executed", reason]);
        scratch.run(&["run", "--no-fork", "./l", command]).exits(126).says(&["cannot be", reason]);
    }
}

#[test]
fn a_script_without_an_interpreter_line_runs() {
    let scratch = Scratch::new();
    fs::write(scratch.path("script"), "echo \"$0 $1 $2\"; exit 3\n").unwrap();
    fs::set_permissions(scratch.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = scratch.run(&["run", "./l", "./script", "a b", "c"]);
    assert_eq!(ran.exits(3).out, "./script a b c\n");
}

#[test]
fn busy_is_75_or_what_was_asked_for() {
    let scratch = Scratch::new();
    let held = hold(&scratch.path("l"));
    for wait in [&["-n"][..], &["-w", "0"], &["-w", "0.05"], &["-w", "20ms"], &["-n", "-w", "1000"]]
    {
        for (option, code) in [(&[][..], 75), (&["-E", "0"], 0), (&["-E", "255"], 255)] {
            let words = [&["run"], wait, option, &["./l", "echo", "ran"]].concat();
            let refused = scratch.run(&words);
            refused.exits(code).says(&["/l"]);
            assert_eq!(refused.out, "", "the command ran");
            scratch.run(&[&["run", "-q"], &words[1..]].concat()).exits(code).is_silent();
        }
    }
    drop(held);
    scratch.run(&["run", "-n", "./l", "true"]).exits(0);
}

#[test]
fn busy_tells_who() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("l"));
    let me = format!("pid {}", std::process::id());
    for (options, word) in [(&["-n"][..], "busy"), (&["-w", ".01"], "timed out")] {
        let words = [&["run"], options, &["./l", "true"]].concat();
        // The kernel's table changes while it is read, so now and then a holder is missed.
        wait_until("the holder is named", || {
            let refused = scratch.run(&words);
            refused.exits(75).says(&[word]);
            refused.err.contains(&me)
        });
    }
}

#[test]
fn a_wrong_command_line_is_64() {
    let scratch = Scratch::new();
    for words in [
        &[][..],
        &["frobnicate"],
        &["run"],
        &["run", "./l"],
        &["run", "--bogus", "./l", "true"],
        &["run", "./l", "-n", "true"],
        &["run", "./l", "--bogus", "true"],
        &["run", "./l", "-c", "true", "word"],
        &["run", "-w", "-1", "./l", "true"],
        &["run", "-w", "nan", "./l", "true"],
        &["run", "-w", "inf", "./l", "true"],
        &["run", "-w", "soon", "./l", "true"],
        &["run", "-w", "", "./l", "true"],
        &["run", "-E", "256", "./l", "true"],
        &["run", "-E", "-1", "./l", "true"],
        &["run", "--mode", "0888", "./l", "true"],
        &["run", "--mode", "10000", "./l", "true"],
        &["run", "-m", "semaphore", "./l", "true"],
        &["run", "--range", "5-7", "-m", "ofd", "./l", "true"],
        &["run", "--no-fork", "--remove", "./l", "true"],
        &["run", "--no-fork", "--hold-tree", "./l", "true"],
        &["lock"],
        &["lock", "--fd", "x"],
        &["completions", "tcsh"],
        &["path"],
    ] {
        let refused = scratch.run(words);
        refused.exits(64);
        assert_eq!(refused.out, "", "{words:?}");
        assert!(!refused.err.is_empty(), "{words:?}");
        assert!(!scratch.path("l").exists(), "{words:?} touched the lock file");
    }
}

#[test]
fn what_a_mechanism_cannot_do_is_64_and_names_the_way_out() {
    let scratch = Scratch::new();
    scratch.run(&["run", "--range", "0+1", "./l", "true"]).exits(64).says(&["-m ofd"]);
    scratch.run(&["run", "-m", "posix", "./l", "true"]).exits(64).says(&["-m ofd", "--no-fork"]);
    scratch.run(&["run", "", "true"]).exits(64).says(&["empty"]);
    assert!(!scratch.path("l").exists());
}

#[test]
fn a_lock_file_that_cannot_be_is_73() {
    let scratch = Scratch::new();
    scratch.run(&["run", "./no/such/l", "true"]).exits(73).says(&["no/such/l"]);
    scratch.run(&["run", "--no-create", "./l", "true"]).exits(73).says(&["/l: "]);
    assert!(!scratch.path("l").exists());
    scratch.run(&["run", "-q", "./no/such/l", "true"]).exits(73).is_silent();
}

#[test]
fn a_number_that_cannot_be_is_told_what_can() {
    let scratch = Scratch::new();
    let huge = "99999999999999999999";
    for (words, told) in [
        (&["run", "--slots", "-1", "./l", "true"][..], "a whole number from 1 to 65536"),
        (&["run", "--slots", huge, "./l", "true"], "a whole number from 1 to 65536"),
        (&["run", "--slots", "2", "--take", "-1", "./l", "true"], "from 1 to 65536"),
        (&["run", "-E", "-1", "./l", "true"], "a whole number from 0 to 255"),
        (&["run", "-E", huge, "./l", "true"], "a whole number from 0 to 255"),
        (&["run", "--max-waiting", "-1", "./l", "true"], "a whole number, 0 or more"),
        (&["run", "-m", "ofd", "--range", "-1", "./l", "true"], "'-1' is no byte range: write"),
        (&["run", "-m", "ofd", "--range", "9223372036854775807", "./l", "true"], "range: it ends"),
        (&["run", "--mode", "-1", "./l", "true"], "in octal"),
        (&["run", "-w", huge, "./l", "true"], "that is too long"),
        (&["run", "-w", "-1", "./l", "true"], "cannot be negative"),
        (&["run", "-w", "-1s", "./l", "true"], "cannot be negative"),
        (&["run", "--every", "-1.5h", "./l", "true"], "cannot be negative"),
        (&["run", "-w", "-n", "./l", "true"], "'-n' for '--timeout <DURATION>': write seconds"),
        (&["run", "--max-hold", "0", "./l", "true"], "that leaves no time at all"),
        (&["lab", "--deadline", "0"], "that leaves no time at all"),
        (&["lab", "--deadline", "-1"], "cannot be negative"),
        (&["lab", "try", "--hold", "-1", "./l"], "cannot be negative"),
        (&["demo", "--pace", "-1"], "cannot be negative"),
        (&["demo", "--workers", "-1"], "a whole number from 1 to 99"),
        (&["ls", "--pid", "-1"], "a whole number from 1 to "),
        (&["lock", "--fd", "x"], "the number of an open descriptor"),
        (&["unlock", "--fd", huge], "the number of an open descriptor"),
    ] {
        let refused = scratch.run(words);
        refused.exits(64);
        assert!(refused.err.contains(told), "{words:?}: {refused:?}");
        for never in ["'-- -1'", "target type", "invalid digit", "+0'"] {
            assert!(!refused.err.contains(never), "{words:?}: {refused:?}");
        }
    }
    assert!(!scratch.path("l").exists());
}
