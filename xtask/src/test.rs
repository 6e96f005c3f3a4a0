//! `cargo xtask test`: everything that must hold before a change lands.
//!
//! The main run comes last, so that its summary is what one sees at the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};

use lockmgr_testfs::SKIPS;

use crate::man;
use crate::prepare;
use crate::python::Environment;
use crate::step::{self, cargo, has_nextest};

pub(crate) fn run(python: bool, runner_args: &[String]) -> Result<()> {
    if python {
        return python_tests(runner_args);
    }
    prepare::run();
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let skips = scratch.path().join("skips");
    let outcome = run_tests(runner_args, scratch.path(), &skips);
    // Whatever came of the rest.
    tell_skips(&skips);
    outcome
}

fn run_tests(runner_args: &[String], scratch: &Path, skips: &Path) -> Result<()> {
    let noting = |mut step: Command| {
        step.env(SKIPS, skips);
        step
    };
    if !runner_args.is_empty() {
        let mut narrowed = noting(all_tests());
        if !has_nextest() {
            // The arguments are for the test programs and not for cargo.
            narrowed.arg("--");
        }
        narrowed.args(runner_args);
        return step::run(narrowed);
    }

    man::write_to(scratch)?;
    man::generate_completions();
    step::run(cargo("build --package lockmgr --examples"))?;
    step::run(cargo("test --doc --package lockmgr --all-features"))?;
    step::run(noting(library_with_all_features()))?;
    python_tests(&[])?;
    step::run(noting(all_tests()))
}

/// Says which tests could not be made here, and why: a test that was skipped has passed, and that is easily
/// taken for more than it is.
fn tell_skips(skips: &Path) {
    let noted = fs::read_to_string(skips).unwrap_or_default();
    // Some are run twice, with other features.
    let lines: BTreeSet<_> = noted.lines().collect();
    if !lines.is_empty() {
        eprintln!("xtask: {} tests or parts of tests could not be made here:", lines.len());
    }
    for line in lines {
        eprintln!("  {line}");
    }
}

fn python_tests(arguments: &[String]) -> Result<()> {
    match Environment::prepare()? {
        Some(python) => python.test(arguments),
        None => Ok(()),
    }
}

/// Returns the run of all tests in the default members, with the features they are shipped with.
fn all_tests() -> Command {
    // `--tests` means those in libraries and programs too, but not the programs that have none: named by
    // `--bins`, the command itself would be run for a test.
    if has_nextest() { nextest_run() } else { cargo("test --tests") }
}

/// Returns the run of the library's tests with its optional features. The long ones stay out: a feature
/// adds events to what they do and changes nothing in it.
fn library_with_all_features() -> Command {
    if has_nextest() {
        let mut run = nextest_run();
        run.args(["--package", "lockmgr", "--all-features"]);
        run.args(["-E", "not test(violence)"]);
        run
    } else {
        cargo("test --package lockmgr --all-features --tests -- --skip violence")
    }
}

fn nextest_run() -> Command {
    let in_ci = env::var_os("CI").is_some();
    cargo(if in_ci { "nextest run --profile ci" } else { "nextest run" })
}
