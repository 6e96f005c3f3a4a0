//! The examples do what they say.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use support::{BOUND, wait_for_blocked};

/// The program of an example, which `cargo test` builds beside the tests; some ways to run the tests
/// (`--tests`, `--test examples`) do not, and leave none or an old one there.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let profile_dir = tests.parent().and_then(Path::parent).unwrap();
    let program = profile_dir.join("examples").join(name);
    let built = fs::metadata(&program).and_then(|status| status.modified()).ok();
    if built.is_none_or(|built| built < newest_source()) {
        let profile = match profile_dir.file_name().and_then(|name| name.to_str()).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--examples", "--profile", profile]);
        cargo.arg("--target-dir").arg(profile_dir.parent().unwrap());
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        if cfg!(feature = "tracing") {
            cargo.args(["--features", "tracing"]);
        }
        assert!(cargo.status().unwrap().success());
    }
    program
}

/// When anything that the examples are made of was changed last.
fn newest_source() -> SystemTime {
    fn newest(path: &Path) -> SystemTime {
        match fs::read_dir(path) {
            Ok(list) => list
                .map(|entry| newest(&entry.unwrap().path()))
                .max()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            Err(_) => fs::metadata(path).unwrap().modified().unwrap(),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["src", "examples"].map(|part| newest(&root.join(part))).into_iter().max().unwrap()
}

/// A running example. Killed, by its id, when dropped.
struct Terminal {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Terminal {
    fn new(name: &str, args: &[&str]) -> Self {
        let mut child = Command::new(example(name))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn press_enter(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn two_terminals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let args = [path.to_str().unwrap(), "600"];
    let mut first = Terminal::new("two_terminals", &args);
    assert_eq!(first.next_line(), "Acquired at once. Holding it for 600 s, or until Enter ...");
    let mut second = Terminal::new("two_terminals", &args);
    let busy = second.next_line();
    let expected = format!("{} is busy, held by pid {} (", path.display(), first.child.id());
    assert!(busy.starts_with(&expected) && busy.contains("two_terminals"), "{busy}");
    assert_eq!(second.next_line(), "Waiting for it ...");
    wait_for_blocked(&path, 1);

    first.press_enter();
    assert_eq!(first.next_line(), "Released.");
    assert!(first.child.wait().unwrap().success());
    assert!(second.next_line().starts_with("Acquired after "));

    // A third one gets it from the second one's death.
    let mut third = Terminal::new("two_terminals", &args);
    assert!(third.next_line().contains(&format!("held by pid {} (", second.child.id())));
    assert_eq!(third.next_line(), "Waiting for it ...");
    wait_for_blocked(&path, 1);
    drop(second);
    assert!(third.next_line().starts_with("Acquired after "));
}

#[test]
fn two_terminals_without_a_terminal_holds_for_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let start = Instant::now();
    let mut alone = Terminal::new("two_terminals", &[path.to_str().unwrap(), "1"]);
    // No input at all is no Enter.
    drop(alone.child.stdin.take());
    assert!(alone.next_line().starts_with("Acquired at once."));
    assert_eq!(alone.next_line(), "Released.");
    assert!(start.elapsed() >= Duration::from_secs(1) && start.elapsed() < BOUND);
}

#[test]
fn shared_counter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("counter");
    let count = |expected: &str| {
        let output =
            Command::new(example("shared_counter")).arg(&path).args(["6", "500"]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), expected);
        assert!(output.status.success());
    };
    count("0 + 6 processes x 500 rounds = 3000");
    count("3000 + 6 processes x 500 rounds = 6000");
    assert_eq!(fs::read_to_string(&path).unwrap(), "6000\n");
}
