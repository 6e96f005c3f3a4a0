//! The lock is the kernel's, so whoever else asks the kernel for it is excluded, and excludes us:
//! `flock(1)`, and Python's `fcntl.flock` and `fcntl.lockf`. The holder is named to whoever meets
//! it, whatever it calls itself.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use lockmgr::inspect::{Holder, Standing};
use lockmgr::{Error, FileLock, Mechanism, Mode};
use support::probe::{self, start};
use support::{Worker, eventually, kernel_locks, sees_all_locks, serve, skip, wait_for_blocked};

#[test]
fn worker() {
    serve(&[("probe", probe::run)]);
}

/// A program of somebody else's that tells its progress in lines, and goes on when it gets one.
/// Killed, by its id, when dropped.
struct Foreign {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Foreign {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn expect(&mut self, line: &str) {
        assert_eq!(self.next_line(), line);
    }

    fn tell(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may have ended already. What it has started gets an end of file, and ends by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// `flock(1)`, around a command that says when it runs.
fn flock_command(path: &Path, options: &[&str]) -> Foreign {
    let mut command = Command::new("flock");
    command.args(options).arg(path).args(["sh", "-c", "echo held; read line"]);
    Foreign::start(&mut command)
}

fn have(program: &str) -> bool {
    let have = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !have {
        skip(&format!("needs {program}"));
    }
    have
}

fn lock(path: &Path, mechanism: Mechanism) -> FileLock {
    FileLock::options().mechanism(mechanism).open(path).unwrap()
}

/// Who is in the way of a try.
fn in_the_way(lock: &FileLock, mode: Mode) -> Option<Error> {
    match lock.acquire().mode(mode).try_now() {
        Ok(guard) => {
            guard.unlock().unwrap();
            None
        }
        Err(error @ Error::Busy { .. }) => Some(error),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_command_flock_excludes_us_and_is_named() {
    if !sees_all_locks() {
        return;
    }
    if !have("flock") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    for (options, keeps_out_shared) in [(&["-x"][..], true), (&["-s"], false)] {
        let mut holder = flock_command(&path, options);
        holder.expect("held");
        let own = lock(&path, Mechanism::Flock);
        let busy = in_the_way(&own, Mode::Exclusive).expect("flock(1) holds it");
        let [named] = &busy.holders()[..] else { panic!("{:?}", busy.holders()) };
        assert_eq!(named.pid(), Some(holder.pid()));
        let obstacle = busy.obstacle().unwrap();
        assert_eq!(obstacle.path.as_deref(), Some(&*path));
        let [held] = &obstacle.locks[..] else { panic!("{obstacle:?}") };
        assert_eq!(held.mode == Mode::Exclusive, keeps_out_shared);
        assert_eq!(held.holders[0].pid(), Some(holder.pid()));
        let named = named.process.as_ref().unwrap();
        let command = format!("flock {} {} sh -c echo held; read line", options[0], path.display());
        // As much of it as fits into a line.
        let shown: String = command.chars().take(50).collect();
        let named = format!("{}, {}", named.command_line(60), named.user());
        assert!(named.starts_with(&shown), "{named}");
        assert_eq!(
            busy.to_string(),
            format!("{} is busy, held by pid {} ({named})", path.display(), holder.pid())
        );
        assert_eq!(in_the_way(&own, Mode::Shared).is_some(), keeps_out_shared);
        // Record locks live in another world.
        assert!(in_the_way(&lock(&path, Mechanism::Ofd), Mode::Exclusive).is_none());
        // We wait for it, and get it when its command ends.
        let waiter = start(&path, "timeout=30000");
        wait_for_blocked(&path, 1);
        let holders: Vec<u32> = busy.holders().iter().filter_map(Holder::pid).collect();
        assert_eq!(holders, [holder.pid()], "who waits does not hold");
        holder.tell();
        waiter.expect("held");
    }
}

#[test]
fn the_command_flock_waits_for_us() {
    if !have("flock") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for mode in [Mode::Exclusive, Mode::Shared] {
        let path = dir.path().join(mode.to_string());
        let own = lock(&path, Mechanism::Flock);
        let guard = own.acquire().mode(mode).wait().unwrap();
        let tries = |options: &[&str]| {
            let mut command = Command::new("flock");
            command.args(options).arg(&path).arg("true").status().unwrap().code()
        };
        assert_eq!(tries(&["-n", "-E", "9"]), Some(9));
        assert_eq!(tries(&["-w", "0.05", "-E", "9"]), Some(9));
        let shared = if mode == Mode::Shared { 0 } else { 9 };
        assert_eq!(tries(&["-s", "-n", "-E", "9"]), Some(shared));

        let mut waiter = flock_command(&path, &[]);
        wait_for_blocked(&path, 1);
        guard.unlock().unwrap();
        waiter.expect("held");
        assert!(in_the_way(&own, Mode::Exclusive).is_some());
    }
}

/// The Python programs: how they lock, and what they then wait for.
const PYTHON: &str = "
import fcntl, os, sys
kind, path, mode = sys.argv[1:4]
call = fcntl.flock if kind == 'flock' else fcntl.lockf
flag = fcntl.LOCK_EX if mode == 'exclusive' else fcntl.LOCK_SH
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
if sys.argv[4] == 'try':
    try:
        call(file, flag | fcntl.LOCK_NB)
        print('got', flush=True)
    except OSError as error:
        print('busy' if isinstance(error, BlockingIOError) else error, flush=True)
    sys.exit()
print('ready', os.getpid(), flush=True)
call(file, flag)
print('held', flush=True)
sys.stdin.readline()
";

/// Python itself: what is called `python3` may be a script that looks for it, each time anew.
fn real_python() -> Option<String> {
    let output = have("python3").then(|| {
        Command::new("python3").args(["-I", "-c", "import sys; print(sys.executable)"]).output()
    })?;
    Some(String::from_utf8(output.unwrap().stdout).unwrap().trim_end().to_owned())
}

fn run_python(program: &str, kind: &str, path: &Path, mode: &str, how: &str) -> Foreign {
    let mut command = Command::new(program);
    command.args(["-I", "-c", PYTHON, kind]).arg(path).args([mode, how]);
    Foreign::start(&mut command)
}

/// The pid of a Python program that is about to lock.
fn ready(python: &mut Foreign) -> u32 {
    python.next_line().strip_prefix("ready ").unwrap().parse().unwrap()
}

/// What Python calls `lockf` are record locks.
const PAIRS: [(&str, Mechanism); 3] =
    [("flock", Mechanism::Flock), ("lockf", Mechanism::Ofd), ("lockf", Mechanism::Posix)];

#[test]
fn python_excludes_us_and_is_named() {
    let Some(python) = real_python() else { return };
    let python = |kind, path: &Path, mode: &str, how| run_python(&python, kind, path, mode, how);
    let dir = tempfile::tempdir().unwrap();
    for (kind, mechanism) in PAIRS {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let path = dir.path().join(format!("{kind}{mechanism}{mode}"));
            let mut holder = python(kind, &path, &mode.to_string(), "hold");
            let pid = ready(&mut holder);
            holder.expect("held");
            let own = lock(&path, mechanism);
            let busy = in_the_way(&own, Mode::Exclusive).expect("Python holds it");
            let named = busy.holders();
            assert_eq!(named.len(), 1, "{named:?}");
            assert_eq!(named[0].pid(), Some(pid));
            let command = named[0].process.as_ref().unwrap().command_line(500);
            assert!(command.contains("python"), "{named:?}");
            assert!(busy.to_string().contains(&format!("busy, held by pid {pid} (")), "{busy}");
            assert_eq!(in_the_way(&own, Mode::Shared).is_some(), mode == Mode::Exclusive);
            let waiter = start(&path, &format!("{mechanism} timeout=30000"));
            wait_for_blocked(&path, 1);
            holder.tell();
            waiter.expect("held");
        }
    }
}

#[test]
fn python_waits_for_us() {
    let Some(python) = real_python() else { return };
    let python = |kind, path: &Path, mode: &str, how| run_python(&python, kind, path, mode, how);
    let dir = tempfile::tempdir().unwrap();
    for (kind, mechanism) in PAIRS {
        for mode in [Mode::Exclusive, Mode::Shared] {
            let path = dir.path().join(format!("{kind}{mechanism}{mode}"));
            // From another process: a record lock would not be in the way of its own one.
            let mut holder = start(&path, &format!("{mechanism} {} hold", word(mode)));
            holder.expect("held");
            python(kind, &path, "exclusive", "try").expect("busy");
            let shared = if mode == Mode::Shared { "got" } else { "busy" };
            python(kind, &path, "shared", "try").expect(shared);
            // The other kind of lock is no obstacle.
            let other = if kind == "flock" { "lockf" } else { "flock" };
            python(other, &path, "exclusive", "try").expect("got");

            let mut waiter = python(kind, &path, "exclusive", "wait");
            ready(&mut waiter);
            wait_for_blocked(&path, 1);
            holder.tell("release");
            assert!(holder.finish().success());
            waiter.expect("held");
            assert!(in_the_way(&lock(&path, mechanism), Mode::Exclusive).is_some());
        }
    }
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive => "",
        Mode::Shared => "shared",
    }
}

#[test]
fn holders_that_the_kernel_does_not_name_are_found() {
    if !sees_all_locks() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let holder = start(&path, "ofd hold");
    holder.expect("held");
    let busy = in_the_way(&lock(&path, Mechanism::Ofd), Mode::Exclusive).unwrap();
    // The search ends after 20 ms, and where much goes on that may be too soon.
    let named = format!("{} is busy, held by pid {} (", path.display(), holder.pid());
    let late = format!("{} is busy, holder not found in time", path.display());
    eventually("the holder is found", || {
        let text = busy.to_string();
        assert!(text.starts_with(&named) || text == late, "{text}");
        text.starts_with(&named)
    });
    // A free lock has no holder, visible or not.
    drop(holder);
    eventually("the lock is free", || kernel_locks(&path) == (0, 0));
    assert_eq!(busy.to_string(), format!("{} is busy", path.display()));
}

#[test]
fn many_holders_are_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let holders: Vec<Worker> = (0..5).map(|_| start(&path, "shared hold")).collect();
    for holder in &holders {
        holder.expect("held");
    }
    let busy = in_the_way(&lock(&path, Mechanism::Flock), Mode::Exclusive).unwrap();
    assert_eq!(busy.holders().len(), 5);
    let text = busy.to_string();
    assert_eq!(text.matches("pid ").count(), 3, "{text}");
    assert!(text.ends_with(" and 2 more"), "{text}");
}

#[test]
fn a_hostile_process_title_does_nothing_to_the_reader_s_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let title = "\u{202e}live\x1b]0;owned\x07\x1b[2J\u{9b}1m\r\nlockmgr: all is well, trust me";
    let words = [&*probe::hex(&path), "hold"];
    let holder = Worker::spawn_with("probe", &words, |command| {
        command.arg0(title);
    });
    holder.expect("held");
    let busy = in_the_way(&lock(&path, Mechanism::Flock), Mode::Exclusive).unwrap();
    let text = busy.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!text.contains('\u{202e}'), "{text:?}");
    let escaped = "(\\u{202e}live\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}1m\\r\\nlockmgr";
    assert!(text.contains(escaped), "{text}");
}

#[test]
fn a_holder_that_has_ended_is_not_made_out_to_be_there() {
    if !sees_all_locks() {
        return;
    }
    if !have("flock") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    // The shell's own descriptor, locked by a program that ends at once: a common idiom.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9>\"$0\"; flock 9; echo held; read line"]).arg(&path);
    let mut holder = Foreign::start(&mut shell);
    holder.expect("held");
    let busy = in_the_way(&lock(&path, Mechanism::Flock), Mode::Exclusive).unwrap();
    let mut holders = Vec::new();
    // The search for the heir ends after 20 ms, and where much goes on that may be too soon.
    eventually("the heir is found", || {
        holders = busy.holders();
        holders.iter().any(|holder| holder.standing == Standing::Inherited)
    });
    let [taker, heir] = &holders[..] else { panic!("{holders:?}") };
    assert_eq!(taker.standing, Standing::Gone);
    assert_eq!(heir.pid(), Some(holder.pid()));
    let process = heir.process.as_ref().unwrap();
    let expected = format!(
        "{} is busy, held by pid {}, which has ended; inherited by pid {} ({}, {})",
        path.display(),
        taker.pid().unwrap(),
        holder.pid(),
        process.command_line(60),
        process.user()
    );
    eventually("the text names the heir", || busy.to_string() == expected);
}
