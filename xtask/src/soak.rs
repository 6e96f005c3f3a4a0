//! `cargo xtask soak`: the tests that cross processes, over and over, until one fails.
//!
//! A race that shows once in a hundred runs shows here. Every second round has one core to itself and
//! shares that core with a busy loop, because a schedule with too few processors finds other races than
//! one with enough.
//!
//! Unless a filter chooses the tests, a million fencing tokens follow (a minute or two, and a release
//! build).

use std::process::{self, Child, Command};

use anyhow::{Context, Result, ensure};

use crate::step::{self, cargo, command, has_nextest, works};

/// Fencing tokens of four processes that are killed at random.
const TOKENS: &str =
    "test --release -p lockmgr --test tokens -- --exact tokens_grow_under_violence";

pub(crate) fn run(rounds: u32, filter: Option<&str>) -> Result<()> {
    ensure!(
        works(command("taskset", "--version")),
        "`taskset` is missing: it comes with util-linux"
    );
    // What parses text of others meets a few hundred cases in each test run; here it meets many.
    let mut parsers = cargo("test --quiet --package lockmgr --lib inspect::");
    parsers.env("PROPTEST_CASES", "20000");
    step::run(parsers)?;
    step::run(cargo("test --tests --no-run"))?;

    for round in 1..=rounds {
        let crowded = round % 2 == 0;
        eprintln!(
            "round {round} of {rounds}{}",
            if crowded { ", on one crowded core" } else { "" }
        );
        let busy = crowded.then(BusyLoop::start).transpose()?;
        let mut tests = if crowded {
            let mut pinned = pinned_to_first_core(&step::cargo_path());
            pinned.args(runner().split_whitespace());
            pinned
        } else {
            cargo(runner())
        };
        tests.args(filter);
        let outcome = step::run(tests);
        drop(busy);
        outcome.with_context(|| format!("round {round} of {rounds} failed"))?;
    }
    if filter.is_none() {
        eprintln!("a million fencing tokens");
        let mut tokens = cargo(TOKENS);
        tokens.env("LOCKMGR_TEST_TOKENS", "1000000");
        step::run(tokens)?;
    }
    eprintln!("{rounds} rounds, no failure");
    Ok(())
}

/// Returns the words after `cargo` that run the tests in `tests/`.
fn runner() -> &'static str {
    if has_nextest() {
        "nextest run --status-level fail --final-status-level fail -E kind(test)"
    } else {
        "test --quiet --test *"
    }
}

fn pinned_to_first_core(program: &str) -> Command {
    let mut pinned = command("taskset", "-c 0");
    pinned.arg(program);
    pinned
}

/// A process that keeps the first core busy until it is dropped.
struct BusyLoop(Child);

impl BusyLoop {
    fn start() -> Result<Self> {
        // It looks for this program in each turn, so that it ends even if this program is killed.
        let script = format!("while kill -0 {} 2>/dev/null; do :; done", process::id());
        let child = pinned_to_first_core("sh")
            .args(["-c", &script])
            .spawn()
            .context("cannot start the busy loop")?;
        Ok(Self(child))
    }
}

impl Drop for BusyLoop {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
