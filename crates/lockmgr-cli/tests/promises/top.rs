//! `lockmgr top` shows what the kernel knows, answers keys, and leaves the terminal as it was, however it
//! ends: with real holders and waiters, in a real terminal (tmux, and the bare pty).

use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::{LocalModes, Termios, tcgetattr};

use crate::support::{
    Held, LOCKMGR, Running, Scratch, has, hold, is_locked, is_waited_for, pid, skip, state,
    wait_until,
};
use crate::terminal::{Terminal, alone, shell};

/// A tmux server of the test's own, with one shell on a screen of 80×24; `None` where there is no tmux.
struct Tmux {
    socket: String,
    scratch: Scratch,
    /// A lock that the filter hides: an empty list reads otherwise on a machine where nobody holds any.
    _hidden: (Scratch, Held),
}

impl Tmux {
    fn start() -> Option<Self> {
        if !has("tmux") {
            skip("there is no tmux to drive `top` in: apt-get install tmux");
            return None;
        }
        let scratch = Scratch::new();
        let socket = scratch.path("tmux").to_str().expect("a path of our own").to_owned();
        let elsewhere = Scratch::new();
        let hidden = hold(&elsewhere.path("hidden.lock"));
        let tmux = Tmux { socket, scratch, _hidden: (elsewhere, hidden) };
        let words =
            ["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "/bin/sh", "-i"];
        let started = tmux.command(&words).env("PS1", "> ").env_remove("ENV").output();
        let started = started.expect("tmux starts");
        assert!(started.status.success(), "{started:?}");
        tmux.prompts();
        tmux.types("echo the old screen\n");
        tmux.shows("\nthe old screen\n");
        Some(tmux)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.scratch.command(&["tmux", "-S", &self.socket]);
        // Not a window in somebody's tmux, and no colours or locale of theirs.
        command.args(words).env_remove("TMUX").env_remove("NO_COLOR").env("LC_ALL", "C.UTF-8");
        command
    }

    fn tell(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("tmux runs")
    }

    fn types(&self, text: &str) {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.key("Enter");
            }
            if !line.is_empty() {
                self.tell(&["send-keys", "-l", line]);
            }
        }
    }

    fn key(&self, name: &str) {
        self.tell(&["send-keys", name]);
    }

    fn screen(&self) -> String {
        String::from_utf8(self.tell(&["capture-pane", "-p"]).stdout).expect("text")
    }

    #[track_caller]
    fn shows(&self, text: &str) {
        self.becomes(text, |screen| screen.contains(text));
    }

    /// Waits for words in a box, however they are broken into lines: that depends on how long the paths
    /// and the pids of this run are.
    #[track_caller]
    fn shows_in_a_box(&self, text: &str) {
        self.becomes(text, |screen| {
            let inside = screen.lines().filter_map(|line| line.split('│').nth(1));
            let words: Vec<_> = inside.flat_map(str::split_whitespace).collect();
            words.join(" ").contains(text)
        });
    }

    #[track_caller]
    fn becomes(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        let mut last = String::new();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until("the screen shows it", || {
                last = self.screen();
                is_so(&last)
            });
        }));
        assert!(outcome.is_ok(), "never seen: {what}\n{last}");
    }

    /// Waits for the shell: what is typed before its prompt is shown before it, too.
    #[track_caller]
    fn prompts(&self) {
        self.becomes("a prompt", |screen| {
            screen.trim_end().ends_with("\n>") || screen.trim() == ">"
        });
    }

    /// Starts `top` and filters for what is of this test; the status is shown after its end.
    fn top(&self) {
        self.types("\"$LOCKMGR\" top --interval 100ms; echo status $?.\n");
        self.shows("lockmgr top  ");
        self.types("/");
        self.shows("filter:");
        let directory = self.scratch.dir().file_name().expect("it has a name");
        self.types(&format!("{}\n", directory.to_str().expect("a name of our own")));
        self.shows("q quit");
    }

    /// The old screen is back, with what comes after it.
    #[track_caller]
    fn is_restored(&self, status: u8) {
        self.shows(&format!("\nstatus {status}."));
        self.prompts();
        let screen = self.screen();
        assert!(screen.starts_with("> echo the old screen\nthe old screen\n"), "{screen}");
        assert!(!screen.contains("lockmgr top  "), "{screen}");
        self.types("echo typed\n");
        self.shows("> echo typed\ntyped\n");
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let server = self.tell(&["display-message", "-p", "#{pid}"]).stdout;
        self.tell(&["kill-server"]);
        let server = String::from_utf8_lossy(&server).trim().parse().ok().and_then(Pid::from_raw);
        if let Some(server) = server.filter(|_| !std::thread::panicking()) {
            wait_until("tmux has ended", || crate::support::is_gone(server));
        }
    }
}

fn holder(scratch: &Scratch, lock: &str) -> Running {
    let words = ["run", lock, "sh", "-c", "echo has it; exec sleep 1000"];
    let mut holder = Running::start(&mut scratch.lockmgr(&words));
    holder.says("has it");
    holder
}

fn waiter(scratch: &Scratch, words: &[&str], lock: &str) -> Running {
    let waiter = Running::start(&mut scratch.lockmgr(words));
    wait_until("it waits", || is_waited_for(&scratch.path(lock)));
    waiter
}

#[test]
fn the_contended_lock_appears_opens_and_q_restores_the_screen() {
    let Some(tmux) = Tmux::start() else { return };
    let scratch = &tmux.scratch;
    let holder_of = holder(scratch, "./a-free.lock");
    let other = holder(scratch, "./contended.lock");
    // It waits, and others wait for it: a tree of two floors.
    let middle = waiter(
        scratch,
        &["run", "./middle.lock", LOCKMGR, "run", "./contended.lock", "true"],
        "contended.lock",
    );
    let last = waiter(scratch, &["run", "./middle.lock", "true"], "middle.lock");
    tmux.top();
    tmux.becomes("both locks, the contended ones first", |screen| {
        let at = |name: &str| screen.lines().position(|line| line.contains(name));
        match (at("/contended.lock "), at("/middle.lock "), at("/a-free.lock ")) {
            (Some(contended), Some(middle), Some(free)) => contended < free && middle < free,
            _ => false,
        }
    });
    let screen = tmux.screen();
    assert!(screen.contains(&other.pid().as_raw_nonzero().to_string()), "{screen}");
    assert!(screen.contains(&holder_of.pid().as_raw_nonzero().to_string()), "{screen}");
    assert!(!screen.contains("held by"), "{screen}");

    let line = |screen: &str| screen.lines().position(|line| line.contains("/contended.lock "));
    if line(&screen) > Some(2) {
        tmux.key("Down");
    }
    tmux.key("Enter");
    tmux.shows("flock exclusive, held by");
    tmux.becomes("the tree", |screen| {
        let mut lines = screen.lines();
        let mut next = |part: String| lines.any(|line| line.contains(&part));
        next(format!(": pid {} ", other.pid().as_raw_nonzero()))
            && next("1 waiting".into())
            && next("  └─ exclusive, ".into())
            && next("     holds /".into())
            && next(format!(": pid {} ", last.pid().as_raw_nonzero()))
    });
    tmux.key("Enter");
    tmux.becomes("closed details", |screen| !screen.contains("held by"));
    tmux.key("?");
    tmux.shows("send a signal to the holder, after a question");
    tmux.key("x");
    tmux.types("q");
    tmux.is_restored(0);
    drop((middle, last));
}

#[test]
fn a_small_window_and_a_large_one() {
    let Some(tmux) = Tmux::start() else { return };
    let _holder = holder(&tmux.scratch, "./the.lock");
    tmux.top();
    tmux.shows("/the.lock");
    for (columns, rows) in [("20", "5"), ("200", "60"), ("80", "24")] {
        tmux.tell(&["resize-window", "-x", columns, "-y", rows]);
        tmux.becomes("the lock at another size", |screen| {
            screen.lines().count() <= rows.parse().expect("a number")
                && screen.starts_with("lockmgr top")
                && screen.contains("the.lock")
        });
        tmux.key("Enter");
        tmux.shows("flock exclusive");
        tmux.key("Enter");
        tmux.becomes("closed details", |screen| !screen.contains("flock exclusive"));
    }
    tmux.types("q");
    tmux.shows("\nstatus 0.");
}

#[test]
fn a_signal_goes_to_the_holder_that_was_named_and_after_a_yes() {
    let Some(tmux) = Tmux::start() else { return };
    let holder = holder(&tmux.scratch, "./the.lock");
    let path = tmux.scratch.path("the.lock");
    tmux.top();
    tmux.shows("/the.lock");
    let question = format!("Send SIGTERM to pid {} of ", holder.pid().as_raw_nonzero());
    tmux.types("K");
    tmux.shows_in_a_box(&question);
    tmux.shows_in_a_box(" run ./the.lock sh -c echo has it;");
    tmux.key("Right");
    tmux.shows_in_a_box("Send SIGINT to pid ");
    tmux.types("n");
    tmux.becomes("no question", |screen| !screen.contains("Send SIG"));
    tmux.types("K");
    // TERM again, whatever was chosen before.
    tmux.shows_in_a_box(&question);
    assert!(is_locked(&path));
    tmux.types("y");
    holder.finish().exits(143);
    tmux.shows("no lock matches the filter");
    tmux.types("q");
    tmux.is_restored(0);
}

#[test]
fn a_holder_that_has_let_go_is_not_signalled() {
    let Some(tmux) = Tmux::start() else { return };
    // This very process is the holder: if it were signalled, the test would not pass.
    let held = hold(&tmux.scratch.path("the.lock"));
    tmux.top();
    tmux.shows("/the.lock");
    tmux.types("K");
    tmux.shows_in_a_box(&format!("Send SIGTERM to pid {} of ", std::process::id()));
    drop(held);
    tmux.shows("no lock matches the filter");
    tmux.types("y");
    tmux.shows("SIGTERM not sent: ");
    tmux.shows("does not hold");
    tmux.types("q");
    tmux.is_restored(0);
}

#[test]
fn who_has_only_inherited_a_lock_is_not_signalled() {
    let Some(tmux) = Tmux::start() else { return };
    let script = "exec 9>the.lock; \"$LOCKMGR\" lock --fd 9; echo has it; read _; echo alive";
    let mut command = tmux.scratch.command(&["/bin/sh", "-c", script]);
    let mut holder = Running::start(command.stdin(std::process::Stdio::piped()));
    holder.says("has it");
    tmux.top();
    tmux.shows("/the.lock");
    tmux.types("K");
    tmux.shows("no signal: nobody is verified");
    holder.tell("go on");
    holder.says("alive");
    tmux.types("q");
    tmux.is_restored(0);
}

#[test]
fn a_deadlock_is_marked() {
    let Some(tmux) = Tmux::start() else { return };
    let scratch = &tmux.scratch;
    let cross = |one: &str, other: &str| {
        let script = format!("echo has it; read _; exec \"$LOCKMGR\" run ./{other} true");
        let mut command = scratch.lockmgr(&["run", &format!("./{one}"), "sh", "-c", &script]);
        let mut running = Running::start(command.stdin(std::process::Stdio::piped()));
        running.says("has it");
        running
    };
    let mut crossing = [cross("one", "two"), cross("two", "one")];
    for running in &mut crossing {
        running.tell("go on");
    }
    tmux.top();
    tmux.becomes("a deadlock in the first line", |screen| {
        screen.lines().next().is_some_and(|line| line.to_lowercase().contains("deadlock"))
    });
    tmux.key("Enter");
    tmux.becomes("the circle", |screen| {
        let lower = screen.to_lowercase();
        lower.contains("─ deadlock exclusive") || lower.contains("─ possible deadlock exclusive")
    });
    tmux.shows(": see above");
    tmux.types("q");
    tmux.is_restored(0);
}

#[test]
fn ctrl_z_leaves_the_screen_and_fg_comes_back() {
    let Some(tmux) = Tmux::start() else { return };
    let _holder = holder(&tmux.scratch, "./the.lock");
    tmux.types("set -m; clear; echo the old screen\n");
    tmux.becomes("a fresh screen", |screen| screen.starts_with("the old screen\n>"));
    tmux.top();
    for round in 0..3 {
        tmux.shows("/the.lock");
        tmux.key("C-z");
        tmux.becomes("the old screen", |screen| {
            screen.starts_with("the old screen\n>")
                && screen.matches(" Stopped ").count() == round + 1
                && !screen.contains("lockmgr top  ")
        });
        tmux.prompts();
        tmux.types(&format!("echo meantime {round}\n"));
        tmux.shows(&format!("\nmeantime {round}\n"));
        tmux.types("fg\n");
        tmux.shows("lockmgr top  ");
        tmux.key("Enter");
        tmux.shows("verified");
        tmux.key("Enter");
        tmux.becomes("closed details", |screen| !screen.contains("verified"));
    }
    tmux.types("q");
    tmux.shows("\nmeantime 2\n");
    tmux.prompts();
    tmux.types("echo typed\n");
    tmux.shows("> echo typed\ntyped\n");
}

/// What a program can do to a terminal.
fn modes(terminal: &Terminal) -> (LocalModes, u32, u32, u32) {
    let modes: Termios = tcgetattr(terminal.user.file()).expect("a terminal");
    (
        modes.local_modes,
        modes.input_modes.bits(),
        modes.output_modes.bits(),
        modes.control_modes.bits(),
    )
}

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Starts `top` in a shell that stays; returns its pid once it has drawn.
fn top_in(terminal: &mut Terminal) -> Pid {
    terminal.types("sh -c 'echo $$.; exec \"$LOCKMGR\" top'; echo status $?.\n");
    let top = terminal.reads_pid();
    terminal.shows(ENTERED);
    terminal.shows("q quit");
    top
}

#[test]
fn signals_end_it_and_the_terminal_is_as_it_was() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    let before = modes(&terminal);
    for signal in [
        Signal::TERM,
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::PIPE,
        Signal::ABORT,
        Signal::XCPU,
    ] {
        let top = top_in(&mut terminal);
        assert_ne!(modes(&terminal), before);
        kill_process(top, signal).unwrap();
        terminal.shows(LEFT);
        if signal == Signal::INT {
            // It died of it, so the shell gives up the line.
            terminal.types("echo after\n");
            terminal.shows("after");
        } else {
            terminal.shows(&format!("status {}.", 128 + signal.as_raw()));
        }
        assert_eq!(modes(&terminal), before, "{signal:?}");
    }
    // And by its own keys.
    for key in ["q", "\x1b", "\x03"] {
        top_in(&mut terminal);
        terminal.types(key);
        terminal.shows(LEFT);
        terminal.shows("status 0.");
        assert_eq!(modes(&terminal), before, "{key:?}");
    }
    terminal.types("exit\n");
}

#[test]
fn stopped_from_outside_it_takes_the_terminal_again() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    let before = modes(&terminal);
    let top = top_in(&mut terminal);
    let raw = modes(&terminal);
    // A stop that can be answered.
    kill_process(top, Signal::TSTP).unwrap();
    terminal.shows(LEFT);
    wait_until("it is stopped", || state(top) == Some('T'));
    assert_eq!(modes(&terminal), before);
    terminal.types("fg\n");
    terminal.shows(ENTERED);
    terminal.shows("q quit");
    assert_eq!(modes(&terminal), raw);
    // And one that cannot.
    kill_process(top, Signal::STOP).unwrap();
    wait_until("it is stopped", || state(top) == Some('T'));
    terminal.types("fg\n");
    terminal.shows(ENTERED);
    terminal.shows("q quit");
    assert_eq!(modes(&terminal), raw);
    terminal.types("q");
    terminal.shows(LEFT);
    assert_eq!(modes(&terminal), before);
    terminal.types("exit\n");
}

#[test]
fn in_the_background_it_leaves_the_terminal_alone_and_can_be_ended() {
    let scratch = Scratch::new();
    let mut terminal = shell(&scratch);
    for stop in [Signal::TSTP, Signal::STOP] {
        let top = top_in(&mut terminal);
        kill_process(top, stop).unwrap();
        wait_until("it is stopped", || state(top) == Some('T'));
        terminal.types("stty -echo icanon isig; echo mine\n");
        terminal.shows("mine");
        let mine = modes(&terminal);
        // It goes on without the terminal, so it stops again.
        let again = "while :; do jobs >j; grep -q 'tty output' j && break; done; echo a''gain";
        terminal.types(&format!("bg; {again}\n"));
        terminal.shows("again");
        assert_eq!(modes(&terminal), mine);
        terminal.types("kill -TERM %1; bg; wait %1; echo status $?.\n");
        terminal.shows("status 143.");
        assert_eq!(modes(&terminal), mine);
        terminal.types("stty sane -echo; echo sane\n");
        terminal.shows("sane");
    }
    terminal.types("exit\n");
}

#[test]
fn a_terminal_that_is_hung_up_ends_it() {
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["top"]);
    terminal.shows("q quit");
    terminal.user.hang_up();
    assert_eq!(terminal.end(), (None, Some(Signal::HUP.as_raw())));
}

#[test]
fn a_terminal_that_takes_nothing_does_not_keep_it() {
    let scratch = Scratch::new();
    let mut terminal = alone(&scratch, &["top"]);
    terminal.shows("q quit");
    // Each one draws everything again, and nobody reads it.
    let top = pid(terminal.leader.id());
    for _ in 0..20 {
        terminal.types(&"\x0c".repeat(50));
    }
    kill_process(top, Signal::TERM).unwrap();
    assert_eq!(terminal.end(), (None, Some(Signal::TERM.as_raw())));
}

#[test]
fn colours_are_used_unless_they_are_not_wanted() {
    let scratch = Scratch::new();
    let path = scratch.path("the.lock");
    let held = hold(&path);
    let waiter = waiter(&scratch, &["run", "./the.lock", "true"], "the.lock");
    for (value, coloured) in [("", true), ("1", false)] {
        let mut terminal = shell(&scratch);
        terminal.types(&format!("NO_COLOR={value} \"$LOCKMGR\" top\n"));
        terminal.shows(ENTERED);
        // The second picture, which has the lock.
        let drawn = terminal.user.until("contended").expect("it is drawn")
            + &terminal.user.until("HOLDER").expect("it is drawn")
            + &terminal.user.until("the.lock").expect("it is drawn");
        let is_colour = |sequence: &str| {
            let Some((numbers, _)) = sequence.split_once('m') else { return false };
            numbers.split(';').any(|number| matches!(number.parse(), Ok(30..=49_u32)))
        };
        assert_eq!(drawn.split("\x1b[").skip(1).any(is_colour), coloured, "{drawn:?}");
        terminal.types("q");
        terminal.shows(LEFT);
        terminal.types("exit\n");
    }
    drop(held);
    waiter.finish().exits(0);
}

#[test]
fn without_a_terminal_it_says_so() {
    let scratch = Scratch::new();
    scratch.run(&["top"]).exits(64).says(&["terminal"]);
    let mut terminal = shell(&scratch);
    terminal.types("TERM=dumb \"$LOCKMGR\" top; echo status $?.\n");
    terminal.shows("lockmgr: top cannot draw on this terminal");
    terminal.shows("status 64.");
    terminal.types("\"$LOCKMGR\" top </dev/null; echo status $?.\n");
    terminal.shows("lockmgr: top needs a terminal");
    terminal.shows("status 64.");
    terminal.types("exit\n");
}
