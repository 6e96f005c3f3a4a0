//! A command that asks for what its own ancestor holds is told so, or runs inside that hold.

use std::process::Stdio;

use crate::support::{Finished, Running, Scratch, is_waited_for, wait_until};

/// What the inner lockmgr says, inside `run` with the outer options.
fn nested(scratch: &Scratch, outer: &[&str], inner: &str) -> Finished {
    scratch.run(&[&["run"], outer, &["./l", "sh", "-c", inner]].concat())
}

#[test]
fn the_ancestor_is_named_at_once() {
    let scratch = Scratch::new();
    for mechanism in ["flock", "ofd"] {
        let inner = format!("\"$LOCKMGR\" run -m {mechanism} ./l touch ran; echo $? $PPID");
        let shown = nested(&scratch, &["-m", mechanism], &inner);
        let (status, outer) = shown.exits(0).out.trim().split_once(' ').unwrap();
        assert_eq!(status, "75", "{shown:?}");
        shown.says(&["its own ancestor", &format!("pid {outer} "), "--nested=pass"]);
    }
    nested(&scratch, &[], "\"$LOCKMGR\" run -E 9 ./l touch ran").exits(9);
    nested(&scratch, &[], "\"$LOCKMGR\" run --if-busy=skip ./l touch ran")
        .exits(0)
        .says(&["skipped", "ancestor"]);
    // However far away, and with a word of another lock on the way.
    let inner = "(\"$LOCKMGR\" run ./k sh -c '\"$LOCKMGR\" run ./l touch ran')";
    nested(&scratch, &[], inner).exits(75);
    nested(&scratch, &["--no-fork"], "\"$LOCKMGR\" run ./l touch ran").exits(75);
    nested(&scratch, &[], "\"$LOCKMGR\" run --and ./l ./a touch ran").exits(75);
    assert!(!scratch.path("ran").exists());
}

#[test]
fn with_pass_it_runs_inside() {
    let scratch = Scratch::new();
    let inner = "\"$LOCKMGR\" run --nested=pass ./l sh -c 'echo $LOCKMGR_LOCK; exit 3'; echo $?";
    let shown = nested(&scratch, &[], inner);
    assert_eq!(shown.exits(0).out, format!("{}\n3\n", scratch.path("l").display()));
    let inner = "\"$LOCKMGR\" run --no-fork -s --nested=pass ./l echo shared is enough";
    assert_eq!(nested(&scratch, &[], inner).exits(0).out, "shared is enough\n");
    // Two of them, of which the outer one has both or not.
    let inner = "\"$LOCKMGR\" run --nested=pass --and ./l ./k echo inside";
    assert_eq!(nested(&scratch, &["--and", "./k"], inner).exits(0).out, "inside\n");
    nested(&scratch, &[], inner).exits(75).says(&["not enough for --nested=pass"]);
    // The outer hold is as it was.
    let inner =
        "\"$LOCKMGR\" run --nested=pass ./l true; env -u LOCKMGR_LOCK \"$LOCKMGR\" run -n ./l true";
    nested(&scratch, &[], inner).exits(75);
}

#[test]
fn shared_in_shared_works_and_exclusive_in_shared_is_said_to_be_impossible() {
    let scratch = Scratch::new();
    nested(&scratch, &["-s"], "\"$LOCKMGR\" run -s ./l true").exits(0).is_silent();
    let shown = nested(&scratch, &["-s"], "\"$LOCKMGR\" run ./l touch ran");
    shown.exits(75).says(&["shares the lock, which is wanted exclusively"]);
    let shown = nested(&scratch, &["-s"], "\"$LOCKMGR\" run --nested=pass ./l touch ran");
    shown.exits(75).says(&["not enough for --nested=pass"]);
    assert!(!scratch.path("ran").exists());
}

#[test]
fn in_line_shared_in_shared_is_not_kept_waiting_by_a_writer_that_waits_for_both() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    for (option, status) in [("fail", 75), ("pass", 0)] {
        let script =
            format!("echo up; read _; \"$LOCKMGR\" run -s --fair --nested={option} ./l true");
        let words = ["run", "-s", "--fair", "./l", "sh", "-c", &script];
        let mut outer = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
        outer.says("up");
        let words = ["run", "--fair", "./l", "echo", "writer"];
        let mut writer = Running::start(&mut scratch.lockmgr(&words));
        wait_until("the writer waits", || is_waited_for(&path));
        outer.tell("go");
        assert_eq!(outer.wait().code(), Some(status));
        writer.says("writer");
    }
}

#[test]
fn slots_of_an_ancestor_count_where_too_few_are_left() {
    let scratch = Scratch::new();
    let outer = ["--slots", "3", "--take", "2"];
    nested(&scratch, &outer, "\"$LOCKMGR\" run --slots 3 ./l true").exits(0);
    let shown = nested(&scratch, &outer, "\"$LOCKMGR\" run --slots 3 --take 2 ./l touch ran");
    shown.exits(75).says(&["too few are left"]);
    assert!(!scratch.path("ran").exists());
    let inner = "\"$LOCKMGR\" run --slots 3 --take 2 --nested=pass ./l sh -c 'echo $LOCKMGR_SLOT'";
    assert_eq!(nested(&scratch, &outer, inner).exits(0).out, "0,1\n");
    // None of its own is taken.
    let inner =
        "\"$LOCKMGR\" run --slots 3 --nested=pass ./l \"$LOCKMGR\" run -n --slots 3 ./l true";
    nested(&scratch, &outer, inner).exits(0);
}

#[test]
fn with_pass_the_token_is_the_ancestors_or_the_command_is_not_run() {
    let scratch = Scratch::new();
    let inner = "echo $LOCKMGR_TOKEN; \"$LOCKMGR\" run --nested=pass --fenced --result fd:1 ./l \
                 sh -c 'echo $LOCKMGR_TOKEN'";
    let shown = nested(&scratch, &["--fenced"], inner);
    let lines: Vec<_> = shown.exits(0).out.lines().collect();
    let [outer, inner, result] = lines[..] else { panic!("{shown:?}") };
    assert!(outer == inner && outer.parse::<u64>().is_ok(), "{shown:?}");
    assert!(result.contains(&format!("\"token\":{outer},")), "{shown:?}");
    // Not that of the hold before, which is in the lock file still; nor one that somebody made up.
    for forged in ["", "env LOCKMGR_TOKEN=17 "] {
        let inner = format!("{forged}\"$LOCKMGR\" run --nested=pass --fenced ./l touch ran");
        nested(&scratch, &[], &inner).exits(75).says(&["not enough", "--fenced", "ancestor"]);
    }
    assert!(!scratch.path("ran").exists());
}

#[test]
fn with_pass_what_only_the_holder_can_do_is_refused_or_said() {
    let scratch = Scratch::new();
    let inner = "\"$LOCKMGR\" run --nested=pass --every 1h ./l touch ran";
    nested(&scratch, &[], inner).exits(75).says(&["not enough", "--every"]);
    assert!(!scratch.path("ran").exists());
    let inner = "\"$LOCKMGR\" run --nested=pass --note why ./l true";
    nested(&scratch, &[], inner).exits(0).says(&["the note is not kept"]);
    let inner = "\"$LOCKMGR\" run --nested=pass --remove ./l true";
    nested(&scratch, &[], inner).exits(0).says(&["the lock file is not removed"]);
    assert!(scratch.path("l").exists());
}

#[test]
fn with_pass_there_are_as_many_slots_as_were_asked_for() {
    let scratch = Scratch::new();
    let inner = "\"$LOCKMGR\" run --slots 3 ./l \"$LOCKMGR\" run --slots 3 --take 2 --nested=pass \
                 --result fd:1 ./l sh -c 'echo $LOCKMGR_SLOT'";
    let shown = nested(&scratch, &["--slots", "3", "--take", "2"], inner);
    assert!(shown.exits(0).out.starts_with("0,1\n"), "{shown:?}");
    assert!(shown.out.contains("\"slot\":0,\"slots\":[0,1]"), "{shown:?}");
    let inner = "\"$LOCKMGR\" run --slots 3 --nested=pass ./l sh -c 'echo $LOCKMGR_SLOT'";
    assert_eq!(nested(&scratch, &["--slots", "3", "--take", "2"], inner).exits(0).out, "0\n");
}

#[test]
fn a_wait_for_ones_own_ancestor_is_refused() {
    let scratch = Scratch::new();
    nested(&scratch, &[], "\"$LOCKMGR\" wait ./l").exits(75).says(&["its own ancestor"]);
    nested(&scratch, &[], "\"$LOCKMGR\" wait -E 9 ./l").exits(9);
    nested(&scratch, &["-s"], "\"$LOCKMGR\" wait -s ./l").exits(0).is_silent();
    nested(&scratch, &[], "\"$LOCKMGR\" wait -n ./l").exits(75).says(&["is busy, held by"]);
    let script = "\"$LOCKMGR\" wait --nested=wait ./l && echo after & echo up; read _";
    let words = ["run", "./l", "sh", "-c", script];
    let mut outer = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    outer.says("up");
    wait_until("it waits", || is_waited_for(&scratch.path("l")));
    outer.tell("end");
    outer.says("after");
}

#[test]
fn others_are_waited_for_and_so_is_an_ancestor_if_asked() {
    let scratch = Scratch::new();
    let path = scratch.path("m");
    let words = ["run", "./m", "sh", "-c", "echo up; read _; exit 0"];
    let mut sibling = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    sibling.says("up");
    let mut inner = Running::start(&mut scratch.lockmgr(&[
        "run",
        "./l",
        "sh",
        "-c",
        "\"$LOCKMGR\" run ./m echo granted",
    ]));
    wait_until("it waits", || is_waited_for(&path));
    sibling.tell("end");
    inner.says("granted");
    // In the background, for the end of the command that started it.
    let script = "\"$LOCKMGR\" run --nested=wait ./l echo after & echo up; read _";
    let words = ["run", "./l", "sh", "-c", script];
    let mut outer = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    outer.says("up");
    wait_until("it waits", || is_waited_for(&scratch.path("l")));
    outer.tell("end");
    outer.says("after");
}
