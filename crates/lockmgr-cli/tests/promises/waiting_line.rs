//! A wait says whom it is for: on a terminal in one line that is kept up to date and taken away,
//! elsewhere in a plain line now and then; and the wait itself is not disturbed by it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::{Running, Scratch, hold, is_waited_for, pid, state, wait_until};
use crate::terminal::{Terminal, alone, shell};

const CLEAR: &str = "\r\x1b[K";

/// Waits for the next state of the line, and returns it.
#[track_caller]
fn line(terminal: &mut Terminal) -> String {
    loop {
        let drawn = terminal.user.until("\x1b[K").expect("a line");
        let line = drawn.rsplit('\r').next().unwrap_or_default().to_owned();
        if !line.is_empty() {
            assert!(!line.chars().any(char::is_control), "{line:?}");
            return line;
        }
    }
}

fn resize(terminal: &mut Terminal, columns: u16) {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal.user.source(), size).unwrap();
}

/// A command that holds the lock until it is told something; its last word is hostile.
fn holder(scratch: &Scratch) -> Running {
    let hostile = "evil\x1b[2J\r\n\x07\u{202e}";
    let words = ["run", "--note", "a \x07 note", "./l", "sh", "-c", "echo ready; read _", hostile];
    let mut holder = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
    holder.says("ready");
    holder
}

#[test]
fn the_line_names_the_holder_keeps_up_and_goes() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch);
    let mut waiter = alone(&scratch, &["run", "-w", "1h", "./l", "echo", "granted"]);
    resize(&mut waiter, 500);
    let first = line(&mut waiter);
    assert!(first.starts_with("lockmgr: waiting "), "{first}");
    let who = format!("for l, held by pid {} (", holder.pid().as_raw_nonzero());
    assert!(first.contains(&who) && first.contains("evil\\u{1b}[2J"), "{first}");
    assert!(first.contains(", gives up in 59m"), "{first}");
    let holder_says = first.split_once(") for ").expect("since when it has it").1;
    assert!(holder_says.contains("s: \"a \\u{7} note\""), "{first}");
    let second = line(&mut waiter);
    assert_ne!(first, second, "the time goes on");
    // It fits whatever the terminal is made to be.
    resize(&mut waiter, 40);
    let mut narrow = line(&mut waiter);
    while narrow.chars().count() >= 40 {
        // Drawn before the new size was.
        narrow = line(&mut waiter);
    }
    assert!(narrow.starts_with("lockmgr: waiting "), "{narrow}");
    holder.tell("end");
    waiter.shows(CLEAR);
    waiter.shows("granted");
    assert_eq!(waiter.end(), (Some(0), None));
}

#[test]
fn the_line_goes_before_the_error_comes() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("l"));
    let mut waiter = alone(&scratch, &["run", "-w", "1", "./l", "true"]);
    line(&mut waiter);
    waiter.shows(&format!("{CLEAR}lockmgr: "));
    waiter.shows("timed out");
    assert_eq!(waiter.end(), (Some(75), None));
}

#[test]
fn the_line_goes_when_a_signal_ends_the_wait() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("l"));
    for signal in [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT] {
        let mut waiter = alone(&scratch, &["run", "./l", "true"]);
        line(&mut waiter);
        if signal == Signal::INT {
            waiter.types("\x03");
        } else {
            rustix::process::kill_process(pid(waiter.leader.id()), signal).unwrap();
        }
        waiter.shows(CLEAR);
        assert!(!waiter.user.rest().contains("waiting"), "{signal:?}");
        assert_eq!(waiter.end(), (None, Some(signal.as_raw())));
    }
}

#[test]
fn a_part_of_a_script_waits_with_a_line_too() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch);
    let mut terminal = shell(&scratch);
    terminal.types("exec 9>l; \"$LOCKMGR\" lock --fd 9; echo status $?\n");
    let shown = line(&mut terminal);
    assert!(shown.contains("descriptor 9") && shown.contains("held by pid"), "{shown}");
    holder.tell("end");
    terminal.shows(CLEAR);
    terminal.shows("status 0");
    terminal.types("exit\n");
}

/// A thread of a process by its name, and how often it has gone to sleep.
fn thread_named(process: Pid, name: &str) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())).ok()?;
    tasks.flatten().find_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (comm.trim_end() == name).then(|| count?.trim().parse().ok()).flatten()
    })
}

/// The pids of those who wait, in the kernel's order.
fn queue(path: &Path) -> Vec<i32> {
    let inode = format!(":{} ", fs::metadata(path).unwrap().ino());
    let table = fs::read_to_string("/proc/locks").unwrap();
    table
        .lines()
        .filter(|line| line.contains("->") && line.contains(&inode))
        .filter_map(|line| line.split_whitespace().nth(5)?.parse().ok())
        .collect()
}

#[test]
fn the_line_costs_no_place_in_the_queue() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let held = hold(&path);
    let mut first = alone(&scratch, &["run", "./l", "echo", "first"]);
    let first_pid = pid(first.leader.id());
    // The kernel's table is torn now and then, by locks that come and go meanwhile; not for long. (setsid(1) has
    // become lockmgr by then.)
    let mut order = vec![first_pid.as_raw_nonzero().get()];
    wait_until("it waits", || queue(&path) == order);
    let mut others: Vec<Running> = Vec::new();
    for _ in 0..2 {
        let next = Running::start(&mut scratch.lockmgr(&["run", "-q", "./l", "echo", "next"]));
        order.push(next.pid().as_raw_nonzero().get());
        others.push(next);
        wait_until("it waits behind them", || queue(&path) == order);
    }
    let sleeps = thread_named(first_pid, "lockmgr").expect("the main thread");
    for _ in 0..3 {
        line(&mut first);
        wait_until("the queue is as it was", || queue(&path) == order);
    }
    assert_eq!(thread_named(first_pid, "lockmgr"), Some(sleeps), "it has slept all the time");
    drop(held);
    first.shows("first");
    assert_eq!(first.end(), (Some(0), None));
    for mut other in others {
        other.says("next");
    }
}

#[test]
fn nobody_is_left_when_the_command_starts() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch);
    let command = "ls /proc/$PPID/task | wc -l; grep SigCgt /proc/$PPID/status | tail -c 9";
    let mut waiter = alone(&scratch, &["run", "./l", "sh", "-c", command]);
    line(&mut waiter);
    let process = pid(waiter.leader.id());
    assert!(thread_named(process, "lockmgr-line").is_some());
    holder.tell("end");
    waiter.shows(&format!("{CLEAR}1\r\n"));
    // No handler either, of signals 1 to 32; the others are the C library's.
    waiter.shows("00000000\r\n");
    assert_eq!(waiter.end(), (Some(0), None));
}

#[test]
fn quiet_is_quiet() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let held = hold(&path);
    let mut waiter = alone(&scratch, &["run", "-q", "./l", "echo", "granted"]);
    wait_until("it waits", || is_waited_for(&path));
    // Whoever would say something is started before the wait.
    assert_eq!(thread_named(pid(waiter.leader.id()), "lockmgr-line"), None);
    drop(held);
    assert_eq!(waiter.user.until("granted").as_deref(), Some(""));
    assert_eq!(waiter.end(), (Some(0), None));
}

#[test]
fn what_is_told_with_verbose_is_not_lost() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch);
    let mut waiter = alone(&scratch, &["run", "-v", "./l", "true"]);
    line(&mut waiter);
    holder.tell("end");
    waiter.shows(&format!("{CLEAR}lockmgr: waited "));
    waiter.shows("lockmgr: held ");
    assert_eq!(waiter.end(), (Some(0), None));
}

#[test]
fn in_the_background_the_terminal_is_left_alone() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("l"));
    let mut terminal = shell(&scratch);
    // With this, writing from the background would stop it.
    terminal.types("stty tostop; \"$LOCKMGR\" run ./l true & echo $!.\n");
    let process = terminal.reads_pid();
    let sleeps = || thread_named(process, "lockmgr-line");
    wait_until("it could have written", || sleeps().is_some_and(|count| count >= 3));
    assert_ne!(state(process), Some('T'));
    assert!(!terminal.user.shown().contains("waiting"));
    terminal.types("fg\n");
    terminal.shows("lockmgr: waiting ");
    terminal.types("\x03");
    terminal.shows(CLEAR);
    terminal.types("exit\n");
}

#[test]
fn without_a_terminal_it_is_a_plain_line_after_ten_seconds() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch);
    let messages = fs::File::create(scratch.path("messages")).unwrap();
    let mut command = scratch.lockmgr(&["run", "./l", "echo", "granted"]);
    let mut waiter = Running::start(command.stderr(messages));
    let said = || fs::read_to_string(scratch.path("messages")).unwrap();
    wait_until("it says something", || said().contains('\n'));
    let line = said();
    assert!(line.starts_with("lockmgr: waiting 10s for "), "{line}");
    let who = format!("/l, held by pid {} (", holder.pid().as_raw_nonzero());
    assert!(line.contains(&who), "{line}");
    assert_eq!(line.lines().count(), 1);
    assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
    holder.tell("end");
    waiter.says("granted");
}

#[test]
fn for_slots_it_names_holders_of_slots_and_those_ahead() {
    let scratch = Scratch::new();
    let script = "echo ready; read _; exit 0";
    let words = ["run", "--slots", "2", "./s", "sh", "-c", script];
    let mut holders: Vec<Running> = (0..2)
        .map(|_| {
            let mut holder = Running::start(scratch.lockmgr(&words).stdin(Stdio::piped()));
            holder.says("ready");
            holder
        })
        .collect();
    let wait = ["run", "--slots", "2", "./s", "echo", "granted"];
    let mut first = alone(&scratch, &wait);
    resize(&mut first, 500);
    let shown = line(&mut first);
    assert!(shown.contains(" for s, held by pid ") && shown.contains(" and 1 more"), "{shown}");
    assert!(!shown.contains("ahead"), "{shown}");
    let mut second = alone(&scratch, &wait);
    resize(&mut second, 500);
    let shown = line(&mut second);
    assert!(shown.contains(", 1 ahead"), "{shown}");
    holders[0].tell("end");
    first.shows("granted");
    second.shows("granted");
    assert_eq!((first.end(), second.end()), ((Some(0), None), (Some(0), None)));
}

#[test]
fn for_several_locks_it_names_the_holder_of_the_one_that_is_waited_for() {
    let scratch = Scratch::new();
    let mut holder = holder(&scratch);
    let mut waiter = alone(&scratch, &["run", "--and", "./l", "./k", "echo", "granted"]);
    resize(&mut waiter, 500);
    let shown = line(&mut waiter);
    let who = format!(" for k and l, held by pid {} (", holder.pid().as_raw_nonzero());
    assert!(shown.contains(&who), "{shown}");
    holder.tell("end");
    waiter.shows("granted");
    assert_eq!(waiter.end(), (Some(0), None));
}

#[test]
fn a_deadlock_of_sets_with_an_inner_wait_is_warned_of() {
    let scratch = Scratch::new();
    let script =
        |inner: &str| format!("echo up; read _; \"$LOCKMGR\" run --deadlock=fail {inner} true");
    let start = |lock: &str, inner: &str| {
        let mut command =
            scratch.command(&["sh", "-c", "exec \"$LOCKMGR\" run \"$0\" sh -c \"$1\""]);
        let mut one = Running::start(command.arg(lock).arg(script(inner)).stdin(Stdio::piped()));
        one.says("up");
        one
    };
    let mut one = start("./a", "--and ./c ./b");
    let mut other = start("./b", "--and ./d ./a");
    one.tell("go");
    other.tell("go");
    let codes = [one.wait().code(), other.wait().code()];
    assert!(codes.contains(&Some(75)), "{codes:?}");
}
