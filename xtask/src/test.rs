//! `cargo xtask test`: everything that must hold before a change lands.
//!
//! The main run comes last, so that its summary is what one sees at the end.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};

use crate::man;
use crate::prepare;
use crate::python::Environment;
use crate::step::{self, cargo, has_nextest};

pub(crate) fn run(python: bool, runner_args: &[String]) -> Result<()> {
    if python {
        return python_tests(runner_args);
    }
    prepare::run();
    if !runner_args.is_empty() {
        let mut narrowed = all_tests();
        if !has_nextest() {
            // The arguments are for the test programs and not for cargo.
            narrowed.arg("--");
        }
        narrowed.args(runner_args);
        return step::run(narrowed);
    }

    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    man::write_to(scratch.path())?;
    man::generate_completions();
    step::run(cargo("build --package lockmgr --examples"))?;
    step::run(cargo("test --doc --package lockmgr --all-features"))?;
    step::run(library_with_all_features())?;
    python_tests(&[])?;
    step::run(all_tests())
}

fn python_tests(arguments: &[String]) -> Result<()> {
    match Environment::prepare()? {
        Some(python) => python.test(arguments),
        None => Ok(()),
    }
}

/// Returns the run of all tests in the default members, with the features they are shipped with.
fn all_tests() -> Command {
    if has_nextest() { nextest_run() } else { cargo("test --lib --bins --tests") }
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
        cargo("test --package lockmgr --all-features --lib --tests -- --skip violence")
    }
}

fn nextest_run() -> Command {
    let in_ci = env::var_os("CI").is_some();
    cargo(if in_ci { "nextest run --profile ci" } else { "nextest run" })
}
