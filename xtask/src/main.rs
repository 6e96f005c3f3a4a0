//! `cargo xtask …`: every chore of this repository as a command that a person and CI run alike.
//!
//! Each step is printed before it runs, so that whatever fails can be repeated by hand, and the first
//! failing step ends the chore.
#![expect(clippy::print_stderr, reason = "telling what it runs is half of what this program does")]

mod bench;
mod lint;
mod man;
mod prepare;
mod research;
mod soak;
mod step;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The chores of this repository")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check formatting, lints and docs; a warning is a failure
    Lint,
    /// Run every test
    Test {
        /// Given to the test runner: a filter, for one. Only the tests it names run then
        #[arg(last = true)]
        runner_args: Vec<String>,
    },
    /// Write the man pages
    Man {
        /// Where to [default: `man` in cargo's target directory]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Run the tests that cross processes again and again, every second time on one crowded core
    Soak {
        #[arg(long, default_value_t = 100)]
        rounds: u32,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Run `lockmgr lab` on real filesystems (as root), and write the answers into docs/research.md
    Research,
    /// Measure, and write the tables into docs/benchmarks.md and README.md
    Bench {
        /// Seconds instead of minutes; prints the tables and writes nothing
        #[arg(long)]
        quick: bool,
        /// Only this; prints its tables and writes nothing
        only: Option<bench::Part>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Lint => lint::run(),
        Chore::Test { runner_args } => test::run(&runner_args),
        Chore::Man { out } => man::run(out),
        Chore::Soak { rounds, filter } => soak::run(rounds, filter.as_deref()),
        Chore::Research => research::run(),
        Chore::Bench { quick, only } => bench::run(quick, only),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
