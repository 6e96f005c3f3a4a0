//! `--if-busy=replace` signals who had the lock when it came, once, and nobody else.

use std::process::Stdio;

use crate::support::{Running, Scratch, is_gone, is_waited_for, wait_until, waiters};

/// A replacer in line, whose command says so and stays; what lockmgr says goes to a file of that name.
fn replacer(scratch: &Scratch, messages: &str) -> Running {
    let script = "echo up; exec sleep 1000";
    let mut command =
        scratch.lockmgr(&["run", "--fair", "--if-busy=replace", "./l", "sh", "-c", script]);
    let messages = std::fs::File::create(scratch.path(messages)).unwrap();
    Running::start(command.stderr(messages))
}

fn said(scratch: &Scratch, messages: &str) -> String {
    std::fs::read_to_string(scratch.path(messages)).unwrap()
}

#[test]
fn the_holder_goes_and_the_newcomer_has_the_lock() {
    let scratch = Scratch::new();
    for options in [&[][..], &["--no-fork"], &["-m", "ofd"]] {
        let mut holder = scratch.holder(options, "./l");
        let mechanism = if options.len() == 2 { "ofd" } else { "flock" };
        let words = ["run", "-m", mechanism, "--if-busy=replace", "./l", "true"];
        let replaced = scratch.run(&words);
        let who = format!("sent SIGTERM to pid {} ", holder.pid().as_raw_nonzero());
        replaced.exits(0).says(&[&who]);
        let ended = holder.wait();
        let code = std::os::unix::process::ExitStatusExt::signal(&ended).or(ended.code());
        assert!(matches!(code, Some(143 | 15)), "{ended:?}");
    }
    scratch.run(&["run", "-q", "--if-busy=replace", "./l", "true"]).exits(0).is_silent();
}

/// A holder that says when it is sent TERM, and goes on until it is told.
fn patient(scratch: &Scratch) -> Running {
    let script = "trap 'echo term' TERM; echo up; \
                  while :; do read line && [ \"$line\" = end ] && exit 0; done";
    let words = ["run", "--no-fork", "./l", "bash", "-c", script];
    let mut holder = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    holder.says("up");
    holder
}

#[test]
fn two_replacers_signal_the_same_holder_and_not_each_other() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let mut holder = patient(&scratch);
    let mut first = replacer(&scratch, "first");
    holder.says("term");
    wait_until("the first one waits", || waiters(&path) == 1);
    let mut second = replacer(&scratch, "second");
    holder.says("term");
    wait_until("the second one waits", || waiters(&path) == 2);
    holder.tell("end");
    first.says("up");
    // Now the first one has it, younger than the second one's arrival: it is waited for.
    // (The kernel's table, read once, may miss a line while other tests change it.)
    wait_until("the second one goes on waiting", || is_waited_for(&path));
    assert!(!is_gone(first.pid()));
    assert_eq!(said(&scratch, "first").matches("sent SIGTERM").count(), 1);
    assert_eq!(said(&scratch, "second").matches("sent SIGTERM").count(), 1);
    // A third one comes later, and may replace it; the second one is before it in the queue, and is
    // spared.
    let mut third = replacer(&scratch, "third");
    assert_eq!(first.wait().code(), Some(143));
    second.says("up");
    let who = format!("sent SIGTERM to pid {} ", first.pid().as_raw_nonzero());
    wait_until("it has said so", || said(&scratch, "third").contains(&who));
    wait_until("the third one waits", || waiters(&path) == 1);
    assert!(!is_gone(second.pid()));
    second.send(rustix::process::Signal::TERM);
    third.says("up");
}

#[test]
fn who_shares_it_or_has_left_no_record_is_spared() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    // Nothing is written into a file that holds anything else.
    std::fs::write(&path, "data").unwrap();
    let mut holder = scratch.holder(&[], "./l");
    let words = ["run", "-w", "200ms", "--if-busy=replace", "./l", "touch", "ran"];
    let shown = scratch.run(&words);
    assert!(shown.exits(75).err.contains("is not replaced: it has left no record"), "{shown:?}");
    assert!(!is_gone(holder.pid()));
    holder.send(rustix::process::Signal::TERM);
    holder.wait();
    let sharer = scratch.holder(&["-s"], "./l");
    let shown = scratch.run(&words);
    assert!(shown.exits(75).err.contains("nobody is replaced"), "{shown:?}");
    assert!(!is_gone(sharer.pid()) && !scratch.path("ran").exists());
}

#[test]
fn an_ancestor_is_spared() {
    let scratch = Scratch::new();
    let inner = "\"$LOCKMGR\" run -w 50ms --if-busy=replace --nested=wait ./l touch ran; echo $?";
    let shown = scratch.run(&["run", "./l", "sh", "-c", inner]);
    assert_eq!(shown.exits(0).out, "75\n", "{shown:?}");
    assert!(shown.err.contains("it is an ancestor"), "{shown:?}");
    let inner = "\"$LOCKMGR\" run --if-busy=replace ./l touch ran; echo $?";
    assert_eq!(scratch.run(&["run", "./l", "sh", "-c", inner]).exits(0).out, "75\n");
}

#[test]
fn what_does_not_go_with_it_is_refused() {
    let scratch = Scratch::new();
    for options in [&["-n"][..], &["-w", "0"], &["--and", "./k"], &["-m", "ofd", "--range", "0+1"]]
    {
        scratch.run(&[&["run", "--if-busy=replace"], options, &["./l", "true"]].concat()).exits(64);
    }
}
