//! `lockmgr wait` returns when the lock is free, has it for no longer than an instant, and creates nothing.

use std::fs;

use crate::support::{Running, Scratch, is_locked, is_waited_for, json, wait_until};

#[test]
fn free_is_free_at_once() {
    let scratch = Scratch::new();
    fs::write(scratch.path("l"), "").unwrap();
    scratch.run(&["wait", "./l"]).exits(0).is_silent();
    assert!(!is_locked(&scratch.path("l")));
    scratch.run(&["wait", "-n", "-v", "./l"]).exits(0).says(&["./l is free"]);
}

#[test]
fn a_missing_file_is_free_and_is_not_made() {
    let scratch = Scratch::new();
    scratch.run(&["wait", "./l"]).exits(0).is_silent();
    scratch.run(&["wait", "-w", "1", "./no/such/l"]).exits(0).is_silent();
    let told = json(scratch.run(&["wait", "--json", "./l"]).exits(0));
    assert_eq!((&told["free"], &told["existed"]), (&true.into(), &false.into()));
    assert_eq!(fs::read_dir(scratch.dir()).unwrap().count(), 0);
    let name = format!("lockmgr-test.wait-{}", std::process::id());
    scratch.run(&["wait", &name]).exits(0).is_silent();
    let path = scratch.run(&["path", &name]).exits(0).out.trim_end().to_owned();
    assert!(!fs::exists(path).unwrap());
}

#[test]
fn it_waits_as_a_waiter_does_until_the_release() {
    let scratch = Scratch::new();
    for (held, wait) in
        [(&["-s"][..], &["-x"][..]), (&[], &["-s"]), (&["-m", "ofd"], &["-m", "ofd"])]
    {
        let holder = scratch.holder(held, "./l");
        let words = [&["wait"], wait, &["./l"]].concat();
        let mut waiting = Running::start(&mut scratch.lockmgr(&words));
        wait_until("it waits", || is_waited_for(&scratch.path("l")));
        drop(holder);
        assert_eq!(waiting.wait().code(), Some(0), "{held:?} {wait:?}");
    }
    // Readers do not keep it waiting who would be a reader.
    let _reader = scratch.holder(&["-s"], "./l");
    scratch.run(&["wait", "-n", "-s", "./l"]).exits(0);
    scratch.run(&["wait", "-n", "./l"]).exits(75);
}

#[test]
fn a_file_that_goes_while_it_is_waited_for_is_free() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    let mut waiting = Running::start(&mut scratch.lockmgr(&["wait", "./l"]));
    wait_until("it waits", || is_waited_for(&scratch.path("l")));
    fs::remove_file(scratch.path("l")).unwrap();
    drop(holder);
    assert_eq!(waiting.wait().code(), Some(0));
    assert!(!scratch.path("l").exists());
}

#[test]
fn a_busy_lock_names_its_holder() {
    let scratch = Scratch::new();
    let holder = scratch.holder(&[], "./l");
    let pid = format!("pid {}", holder.pid().as_raw_nonzero());
    scratch.run(&["wait", "-n", "./l"]).exits(75).says(&["busy", &pid]);
    scratch.run(&["wait", "-w", "0.05", "./l"]).exits(75).says(&["timed out", &pid]);
    scratch.run(&["wait", "-w", "0.05", "-E", "9", "-q", "./l"]).exits(9).is_silent();
    let told = json(scratch.run(&["wait", "-n", "--json", "./l"]).exits(75));
    assert_eq!(told["free"], false);
    assert_eq!(told["holders"][0]["process"]["pid"], holder.pid().as_raw_nonzero().get());
    scratch.run(&["wait", "--range", "1", "./l"]).exits(64).says(&["ofd"]);
    scratch.run(&["wait", "/proc/self/mem/x"]).exits(73);
}
