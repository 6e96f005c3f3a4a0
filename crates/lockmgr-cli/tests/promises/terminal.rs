//! At a terminal the command is a job like any other: Ctrl-C, Ctrl-Z, fg, a new size, a hangup.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::support::{Listener, Scratch, is_locked, state, wait_until};

/// A terminal, and the program that leads its session.
pub(crate) struct Terminal {
    pub(crate) user: Listener,
    pub(crate) leader: Child,
}

impl Terminal {
    pub(crate) fn start(command: &mut Command) -> Self {
        let user: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&user).expect("it is ours");
        unlockpt(&user).expect("it is ours");
        let name = ptsname(&user, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&user, size).expect("it is a terminal");
        let other_side = open(name, flags, Mode::empty()).expect("the terminal's other side");
        let copy = || Stdio::from(other_side.try_clone().expect("a descriptor"));
        let command = command.stdin(copy()).stdout(copy()).stderr(copy());
        let leader = command.spawn().expect("it starts");
        Terminal { user: Listener::new(user), leader }
    }

    pub(crate) fn types(&mut self, keys: &str) {
        self.user.source().write_all(keys.as_bytes()).expect("the terminal takes input");
    }

    /// Reads on until the text is seen.
    #[track_caller]
    pub(crate) fn shows(&mut self, text: &str) {
        let before = self.user.until(text);
        if before.is_none() {
            let seen = self.user.shown();
            // How its leader ended tells most.
            let status = self.leader.wait();
            panic!("the end came before {text:?}; seen: {seen}; the session ended: {status:?}");
        }
    }

    /// Reads a number that ends in a point.
    #[track_caller]
    pub(crate) fn reads_pid(&mut self) -> Pid {
        let line = self.user.until(".").expect("a number and a point");
        // A prompt or a job's number may stand before it.
        let number = line.rsplit(|c: char| !c.is_ascii_digit()).next().expect("the last part");
        crate::support::pid(number.parse().expect("a pid"))
    }

    pub(crate) fn end(mut self) -> (Option<i32>, Option<i32>) {
        let mut status = None;
        wait_until("the session's leader ends", || {
            status = self.leader.try_wait().expect("it is our child");
            status.is_some()
        });
        let status = status.expect("it has just been seen");
        (status.code(), status.signal())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.leader.kill());
        drop(self.leader.wait());
    }
}

/// lockmgr itself leads the session and has the terminal in front of it.
pub(crate) fn alone(scratch: &Scratch, words: &[&str]) -> Terminal {
    let mut command = scratch.command(&["setsid", "--ctty"]);
    Terminal::start(command.arg(crate::support::LOCKMGR).args(words))
}

/// An interactive shell with job control.
pub(crate) fn shell(scratch: &Scratch) -> Terminal {
    let mut command = scratch.command(&["setsid", "--ctty", "/bin/sh", "-i"]);
    let mut terminal = Terminal::start(command.env("PS1", "> ").env_remove("ENV"));
    // From then on only what programs say is seen, and not what is typed.
    terminal.types("set -m; stty -echo; echo re''ady\n");
    terminal.shows("ready");
    terminal
}

const COUNTER: &str = "n=0; trap 'n=$((n+1)); echo \"<$n>\"' \"$1\"; trap 'kill -9 $!; echo \"total $n.\"; exit 7' TERM; \
                       (trap '' INT; echo ready; exec sleep 60) & while :; do wait; done";

#[test]
fn ctrl_c_comes_once() {
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["run", "./l", "sh", "-c", COUNTER, "-", "INT"]);
    terminal.shows("ready");
    for count in 1..=20 {
        terminal.types("\x03");
        terminal.shows(&format!("<{count}>"));
    }
    // lockmgr passes signals on in their order, so a second Ctrl-C would have come by now.
    kill_process(crate::support::pid(terminal.leader.id()), Signal::TERM).unwrap();
    terminal.shows("total 20.");
    assert_eq!(terminal.end(), (Some(7), None));
}

#[test]
fn a_new_size_comes_once() {
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["run", "./l", "sh", "-c", COUNTER, "-", "WINCH"]);
    terminal.shows("ready");
    for count in 1..=10 {
        let size = Winsize { ws_row: 24, ws_col: 80 + count, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(terminal.user.source(), size).unwrap();
        terminal.shows(&format!("<{count}>"));
    }
    kill_process(crate::support::pid(terminal.leader.id()), Signal::TERM).unwrap();
    terminal.shows("total 10.");
    assert_eq!(terminal.end(), (Some(7), None));
}

#[test]
fn lockmgr_dies_of_ctrl_c_if_its_command_does() {
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["run", "./l", "sh", "-c", "echo ready; exec sleep 60"]);
    terminal.shows("ready");
    terminal.types("\x03");
    assert_eq!(terminal.end(), (None, Some(Signal::INT.as_raw())));
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn as_flock_it_dies_of_ctrl_c_when_its_command_has() {
    for command in [
        "echo ready; exec sleep 60",
        "trap 'echo cleaning; trap - INT; kill -INT $$' INT; echo ready; while :; do sleep 0.01; done",
    ] {
        let scratch = Scratch::new();
        let mut terminal = alone(&scratch, &["flock", "f", "sh", "-c", command]);
        terminal.shows("ready");
        terminal.types("\x03");
        if command.contains("cleaning") {
            // The original would have gone by now, and the session with it.
            terminal.shows("cleaning");
        }
        assert_eq!(terminal.end(), (None, Some(Signal::INT.as_raw())));
        assert!(!is_locked(&scratch.path("f")));
    }
}

#[test]
fn as_flock_it_prints_at_once_at_a_terminal() {
    for options in [&["--verbose"][..], &["--verbose", "-F"]] {
        let scratch = Scratch::new();
        let words = [&["flock"], options, &["f", "echo", "ran"]].concat();
        let mut terminal = alone(&scratch, &words);
        terminal.shows("flock: getting lock took ");
        terminal.shows("seconds\r\nflock: executing echo\r\nran\r\n");
        assert_eq!(terminal.end(), (Some(0), None));
    }
}

#[test]
fn lockmgr_outlives_ctrl_c_if_its_command_does() {
    let scratch = Scratch::new();
    let command = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.01; done";
    let mut terminal = alone(&scratch, &["run", "./l", "sh", "-c", command]);
    terminal.shows("ready");
    terminal.types("\x03");
    terminal.shows("caught");
    assert_eq!(terminal.end(), (Some(3), None));
}

#[test]
fn ctrl_c_reaches_a_command_that_has_left_the_process_group() {
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["run", "./l", "setsid", "sh", "-c", COUNTER, "-", "INT"]);
    terminal.shows("ready");
    terminal.types("\x03");
    terminal.shows("<1>");
    kill_process(crate::support::pid(terminal.leader.id()), Signal::TERM).unwrap();
    terminal.shows("total 1.");
    assert_eq!(terminal.end(), (Some(7), None));
}

#[test]
fn a_hangup_reaches_the_command() {
    let scratch = Scratch::new();
    let command = "trap 'echo hangup >seen; exit 9' HUP; echo ready; while :; do sleep 0.01; done";
    let mut terminal = alone(&scratch, &["run", "./l", "sh", "-c", command]);
    terminal.shows("ready");
    // Closing the user's side is what the end of a terminal window or of ssh is.
    terminal.user.hang_up();
    assert_eq!(terminal.end(), (Some(9), None));
    assert_eq!(std::fs::read_to_string(scratch.path("seen")).unwrap(), "hangup\n");
}

#[test]
fn a_shell_loop_ends_at_ctrl_c() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    terminal.types(
        "for i in 1 2 3; do \"$LOCKMGR\" run ./l sh -c 'echo running; exec sleep 60'; done\n",
    );
    terminal.shows("running");
    terminal.types("\x03");
    // The shell is back at once: the loop has not gone on to its second round.
    terminal.types("echo done\n");
    terminal.shows("done");
    assert!(!terminal.user.shown().contains("running"));
    terminal.types("exit\n");
}

#[test]
fn ctrl_z_and_fg() {
    let scratch = Scratch::new();
    let path = scratch.path("l");
    let mut terminal = shell(&scratch);
    let command = "echo $PPID.; echo $$.; read word; echo got $word; exit 5";
    terminal.types(&format!("\"$LOCKMGR\" run ./l sh -c '{command}'; echo status $?.\n"));
    let both = [terminal.reads_pid(), terminal.reads_pid()];
    // Often, because of a race that was lost once in a thousand times: a SIGCONT that is passed on
    // must not undo the next Ctrl-Z.
    for _ in 0..20 {
        terminal.types("\x1a");
        wait_until("both are stopped", || both.iter().all(|&pid| state(pid) == Some('T')));
        // The shell has its terminal back, and the lock is held all the time.
        terminal.types("echo meantime\n");
        terminal.shows("meantime");
        assert!(is_locked(&path));
        terminal.types("fg\n");
        wait_until("both go on", || both.iter().all(|&pid| state(pid) != Some('T')));
    }
    terminal.types("word\n");
    terminal.shows("got word");
    wait_until("the lock is free", || !is_locked(&path));
    terminal.types("exit\n");
}

#[test]
fn a_command_that_does_not_want_to_be_stopped_is_not() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    let command = "trap \"echo no\" TSTP; echo ready; for try in 1 2 3 4 5; do read word && echo got $word; done";
    terminal.types(&format!("\"$LOCKMGR\" run ./l sh -c '{command}'\n"));
    terminal.shows("ready");
    terminal.types("\x1a");
    terminal.shows("no");
    terminal.types("one\ntwo\nthree\nfour\nfive\n");
    terminal.shows("got one");
    terminal.shows("got four");
    terminal.types("exit\n");
}

#[test]
fn a_background_command_that_reads_is_stopped_and_goes_on_in_front() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    terminal.types("\"$LOCKMGR\" run ./l sh -c 'echo $PPID.; read word; echo got $word' &\n");
    let lockmgr = terminal.reads_pid();
    wait_until("it is stopped", || state(lockmgr) == Some('T'));
    terminal.types("fg\n");
    wait_until("it goes on", || state(lockmgr) != Some('T'));
    terminal.types("word\n");
    terminal.shows("got word");
    terminal.types("exit\n");
}
