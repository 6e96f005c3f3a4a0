//! A command in a process group of its own is a job at the terminal like any other: it reads, it gets Ctrl-C,
//! Ctrl-Z stops it together with lockmgr, `fg` and `bg` take both on, and the terminal comes back at its end.

use rustix::process::{Signal, kill_process};
use rustix::termios::tcgetpgrp;

use crate::support::{Scratch, is_gone, is_locked, pid, state, wait_until};
use crate::terminal::{alone, shell};

const RUN: &str = "\"$LOCKMGR\" run --max-hold 1000";

#[test]
fn it_reads_and_the_shell_gets_its_terminal_back() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    for round in 0..5 {
        terminal.types(&format!("{RUN} ./l sh -c 'echo up; read word; echo got $word'\n"));
        terminal.shows("up");
        terminal.types(&format!("w{round}\n"));
        terminal.shows(&format!("got w{round}"));
        terminal.types("echo it is $((40+2))\n");
        terminal.shows("it is 42");
    }
    terminal.types(&format!("{RUN} ./l ./nothing-here; echo status $?.\n"));
    terminal.shows("status 127.");
    terminal.types("read word; echo got $word\nhello\n");
    terminal.shows("got hello");
    terminal.types("exit\n");
}

#[test]
fn at_its_limit_too() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    terminal.types("\"$LOCKMGR\" run -q --max-hold 0.2 ./l sh -c 'read word'; echo status $?.\n");
    terminal.shows("status 124.");
    terminal.types("read word; echo got $word\nhello\n");
    terminal.shows("got hello");
    terminal.types("exit\n");
}

#[test]
fn ctrl_c_comes_once() {
    // What waits in the background is not to die of Ctrl-C, so it is that which says that all is ready.
    const COUNTER: &str = "n=0; trap 'n=$((n+1)); echo \"<$n>\"' INT; \
        trap 'kill -9 $!; echo \"total $n.\"; exit 7' TERM; (trap '' INT; echo ready; exec sleep 60) & \
        until wait; do :; done";
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["run", "--max-hold", "1000", "./l", "sh", "-c", COUNTER]);
    terminal.shows("ready");
    for count in 1..=10 {
        terminal.types("\x03");
        terminal.shows(&format!("<{count}>"));
    }
    kill_process(pid(terminal.leader.id()), Signal::TERM).unwrap();
    terminal.shows("total 10.");
    assert_eq!(terminal.end(), (Some(7), None));
}

#[test]
fn lockmgr_dies_of_ctrl_c_if_its_command_does() {
    let scratch = Scratch::new();
    let words = ["run", "--max-hold", "1000", "./l", "sh", "-c", "echo ready; exec sleep 60"];
    let mut terminal = alone(&scratch, &words);
    terminal.shows("ready");
    terminal.types("\x03");
    assert_eq!(terminal.end(), (None, Some(Signal::INT.as_raw())));
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_script_ends_at_ctrl_c() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    // The script sees neither the terminal's signal nor, as it is not interactive, what its child died of.
    terminal.types(&format!(
        "sh -c 'for i in 1 2; do {RUN} ./l sh -c \"echo running; exec sleep 60\"; done'\n"
    ));
    terminal.shows("running");
    terminal.types("\x03");
    terminal.types("echo it is $((40+2))\n");
    terminal.shows("it is 42");
    assert!(!terminal.user.shown().contains("running"));
    terminal.types("exit\n");
}

#[test]
fn a_hangup_reaches_the_command() {
    let scratch = Scratch::new();
    let command = "trap 'echo hangup >>seen; exit 9' HUP; echo ready; while :; do sleep 0.01; done";
    let mut terminal = alone(&scratch, &["run", "--max-hold", "1000", "./l", "sh", "-c", command]);
    terminal.shows("ready");
    terminal.user.hang_up();
    assert_eq!(terminal.end(), (Some(9), None));
    assert_eq!(std::fs::read_to_string(scratch.path("seen")).unwrap(), "hangup\n");
}

#[test]
fn ctrl_z_and_fg() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let mut terminal = shell(&scratch);
    let command = "echo $PPID.; echo $$.; read word; echo got $word; exit 5";
    terminal.types(&format!("{RUN} ./l sh -c '{command}'\n"));
    let both = [terminal.reads_pid(), terminal.reads_pid()];
    for _ in 0..20 {
        terminal.types("\x1a");
        wait_until("both are stopped", || both.iter().all(|&pid| state(pid) == Some('T')));
        terminal.types("echo it is $((40+2))\n");
        terminal.shows("it is 42");
        assert!(is_locked(&path));
        terminal.types("fg\n");
        wait_until("both go on", || both.iter().all(|&pid| state(pid) != Some('T')));
        // Before that Ctrl-Z would be for nobody who could be stopped.
        wait_until("the command has the terminal", || {
            tcgetpgrp(terminal.user.file()) == Ok(both[1])
        });
    }
    terminal.types("word\n");
    terminal.shows("got word");
    wait_until("the lock is free", || !is_locked(&path));
    terminal.types("exit\n");
}

#[test]
fn ctrl_z_stops_the_script_around_it() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    let command = "echo $$.; read word; echo got $word";
    terminal.types(&format!(
        "sh -c 'echo $$.; {RUN} ./l sh -c \"$1\"; read last; echo end $last' - '{command}'\n"
    ));
    let both = [terminal.reads_pid(), terminal.reads_pid()];
    for _ in 0..5 {
        terminal.types("\x1a");
        wait_until("both are stopped", || both.iter().all(|&pid| state(pid) == Some('T')));
        terminal.types("echo it is $((40+2))\n");
        terminal.shows("it is 42");
        terminal.types("fg\n");
        wait_until("the command has the terminal", || {
            tcgetpgrp(terminal.user.file()) == Ok(both[1])
        });
    }
    terminal.types("word\n");
    terminal.shows("got word");
    // Nobody but lockmgr gives the script its terminal back.
    terminal.types("line\n");
    terminal.shows("end line");
    terminal.types("exit\n");
}

#[test]
fn where_nobody_could_undo_it_ctrl_z_does_not_stop_for_good() {
    let scratch = Scratch::new();
    let command = "echo $$.; read word; echo got $word; exit 3";
    let mut terminal = alone(&scratch, &["run", "--max-hold", "1000", "./l", "sh", "-c", command]);
    let command = terminal.reads_pid();
    wait_until("it has the terminal", || tcgetpgrp(terminal.user.file()) == Ok(command));
    terminal.types("\x1a");
    terminal.types("word\n");
    terminal.shows("got word");
    assert_eq!(terminal.end(), (Some(3), None));
}

#[test]
fn in_the_background_nothing_is_taken_and_fg_gives_it() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    // One that wants to read, and is stopped for it.
    terminal.types(&format!("{RUN} ./l sh -c 'echo $PPID.; read word; echo got $word' &\n"));
    let lockmgr = terminal.reads_pid();
    wait_until("it is stopped", || state(lockmgr) == Some('T'));
    terminal.types("echo it is $((40+2))\n");
    terminal.shows("it is 42");
    terminal.types("fg\n");
    wait_until("it goes on", || state(lockmgr) != Some('T'));
    terminal.types("word\n");
    terminal.shows("got word");
    wait_until("it ends", || is_gone(lockmgr));
    // One that wants to read only when it is in the foreground.
    let command = "echo $PPID.; until [ -e go ]; do sleep 0.01; done; read word; echo got $word";
    terminal.types(&format!("{RUN} ./l sh -c '{command}' &\n"));
    let lockmgr = terminal.reads_pid();
    terminal.types("fg\n");
    wait_until("it is in front", || {
        tcgetpgrp(terminal.user.file())
            .is_ok_and(|group| group == lockmgr || is_child(group, lockmgr))
    });
    std::fs::write(scratch.path("go"), "").unwrap();
    terminal.types("again\n");
    terminal.shows("got again");
    terminal.types("exit\n");
}

fn is_child(child: rustix::process::Pid, parent: rustix::process::Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero()));
    let stat = stat.unwrap_or_default();
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    fields.nth(1) == Some(&parent.as_raw_nonzero().to_string())
}
