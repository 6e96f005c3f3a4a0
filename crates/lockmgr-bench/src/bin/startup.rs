//! Start-up: what `lockmgr run LOCK true` takes from spawn to exit, beside flock(1).
//!
//! A shell loop pays this in every turn. `run` without options is a case of its own: its definition of
//! options is not built then. So there is a row with an option, too. Every command is started in every round, in changing order.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lockmgr_bench::{Turns, median, nanoseconds, print_head, print_row, ratio, time};

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 2000)]
    rounds: u32,
    /// The command to measure [default: the `lockmgr` beside this program]
    #[arg(long)]
    lockmgr: Option<PathBuf>,
}

/// What is started, and the row it is compared with.
const ROWS: [(&[&str], usize); 10] = [
    (&["true"], 1),
    (&["flock", "LOCK", "true"], 1),
    (&["lockmgr", "run", "LOCK", "true"], 1),
    (&["lockmgr", "flock", "LOCK", "true"], 1),
    (&["flock", "--no-fork", "LOCK", "true"], 4),
    (&["lockmgr", "run", "--no-fork", "LOCK", "true"], 4),
    (&["lockmgr", "flock", "--no-fork", "LOCK", "true"], 4),
    (&["flock", "-w", "9", "LOCK", "true"], 7),
    (&["lockmgr", "run", "-w", "9", "LOCK", "true"], 7),
    (&["lockmgr", "flock", "-w", "9", "LOCK", "true"], 7),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let lockmgr = match args.lockmgr {
        Some(path) => path,
        None => env::current_exe()?.with_file_name("lockmgr"),
    };
    ensure!(
        lockmgr.exists(),
        "{} is missing: cargo build --release --package lockmgr-cli",
        lockmgr.display()
    );
    let dir = tempfile::tempdir()?;
    let lock = dir.path().join("startup.lock");

    let mut commands = ROWS
        .iter()
        .map(|(words, _)| command(words, &lockmgr, &lock))
        .collect::<Result<Vec<Command>>>()?;
    let mut samples = vec![Vec::new(); ROWS.len()];
    let mut turns = Turns::of(ROWS.len());
    for _ in 0..args.rounds {
        for row in turns.next_round() {
            let start = Instant::now();
            let status = commands[row].spawn()?.wait()?;
            samples[row].push(nanoseconds(start.elapsed()));
            ensure!(status.success(), "`{}`: {status}", ROWS[row].0.join(" "));
        }
    }

    print_head("Start-up: from spawn to exit", &["command", "median", "against flock(1)"]);
    let medians: Vec<f64> = samples.iter_mut().map(|samples| median(samples)).collect();
    for ((words, baseline), median) in ROWS.iter().zip(&medians) {
        let name = format!("`{}`", words.join(" "));
        print_row([&name, &time(*median), &ratio(*median, medians[*baseline])]);
    }
    Ok(())
}

/// Returns the command with its program's full path, so that looking it up is in nobody's price.
fn command(words: &[&str], lockmgr: &Path, lock: &Path) -> Result<Command> {
    let mut command = match words[0] {
        "lockmgr" => Command::new(lockmgr),
        name => Command::new(found_in_path(name)?),
    };
    for word in &words[1..] {
        if *word == "LOCK" {
            command.arg(lock);
        } else {
            command.arg(word);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command)
}

fn found_in_path(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("`{name}` is not in PATH"))
}
