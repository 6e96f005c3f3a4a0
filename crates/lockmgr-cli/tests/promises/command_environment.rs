//! The command is told of its hold by its environment, which is otherwise lockmgr's own.

use std::os::unix::ffi::OsStrExt;

use crate::support::{Running, Scratch, finished, hold, is_waited_for, wait_until};

const SHOW: [&str; 3] = ["sh", "-c", "env | grep ^LOCKMGR_ | sort"];

#[test]
fn it_says_which_lock_and_how() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let lock = format!("LOCKMGR_LOCK={}\n", path.display());
    for (options, rest) in [
        (&[][..], "LOCKMGR_MODE=exclusive\nLOCKMGR_WAITED_MS=0\n"),
        (&["-s"], "LOCKMGR_MODE=shared\nLOCKMGR_WAITED_MS=0\n"),
        (&["--no-fork", "-m", "ofd"], "LOCKMGR_MODE=exclusive\nLOCKMGR_WAITED_MS=0\n"),
        (&["-s", "--and", "./k"], "LOCKMGR_MODE=shared\nLOCKMGR_WAITED_MS=0\n"),
        (
            &["--slots", "5", "--take", "3"],
            "LOCKMGR_MODE=slots\nLOCKMGR_SLOT=0,1,2\nLOCKMGR_WAITED_MS=0\n",
        ),
    ] {
        let shown = scratch.run(&[&["run"], options, &["./l"], &SHOW].concat());
        assert_eq!(shown.exits(0).out, format!("{lock}{rest}"), "{options:?}");
    }
    let shown = scratch.run(&[&["run", "a-name"], &SHOW[..]].concat());
    let path = scratch.run(&["path", "a-name"]).out;
    assert!(shown.exits(0).out.starts_with(&format!("LOCKMGR_LOCK={path}")), "{shown:?}");
}

#[test]
fn it_says_how_long_the_wait_was() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let held = hold(&path);
    let words = ["run", "./l", "sh", "-c", "echo $LOCKMGR_WAITED_MS"];
    let mut waiter = Running::start(&mut scratch.lockmgr(&words));
    wait_until("it waits", || is_waited_for(&path));
    let since = std::time::Instant::now();
    wait_until("some time has passed", || since.elapsed().as_millis() >= 20);
    drop(held);
    assert!(waiter.says_line().parse::<u64>().expect("a number") >= 20);
}

#[test]
fn what_an_outer_lockmgr_said_of_its_hold_is_not_passed_on() {
    let scratch = Scratch::new();
    let inner = "LOCKMGR_TOKEN=7 \"$LOCKMGR\" run ./inner sh -c 'env | grep ^LOCKMGR_ | sort'";
    let shown = scratch.run(&["run", "--slots", "2", "./outer", "sh", "-c", inner]);
    let inner = scratch.path("inner");
    let expected =
        format!("LOCKMGR_LOCK={}\nLOCKMGR_MODE=exclusive\nLOCKMGR_WAITED_MS=0\n", inner.display());
    assert_eq!(shown.exits(0).out, expected);
}

#[test]
fn the_rest_is_passed_on_byte_for_byte() {
    let scratch = Scratch::new();
    for options in [&["run"][..], &["run", "--no-fork"]] {
        let words = [options, &["./l", "sh", "-c", "printf %s \"$ODD\""]].concat();
        let mut command = scratch.lockmgr(&words);
        command.env("ODD", std::ffi::OsStr::from_bytes(b"a=\nb \\ c"));
        command.env("LOCKMGR_LOCKS", "another name");
        assert_eq!(finished(&mut command).exits(0).out, "a=\nb \\ c");
        let words = [options, &["./l", "sh", "-c", "echo $LOCKMGR_LOCKS"]].concat();
        let mut command = scratch.lockmgr(&words);
        assert_eq!(finished(command.env("LOCKMGR_LOCKS", "x")).exits(0).out, "x\n");
    }
}
