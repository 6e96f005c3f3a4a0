//! The table of the criterion bench `uncontended`, out of the estimates that its rounds have left behind.
//!
//! A contender's ratio is the median, over the rounds, of its ratio to the baseline of the same round.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use lockmgr_bench::{RAW, RAW_AND_STAT, median, print_head, print_row, ratio, time};

#[derive(Parser)]
struct Args {
    #[arg(long)]
    rounds: u32,
    #[arg(long)]
    criterion_home: PathBuf,
}

/// The columns: the bench's groups.
const GROUPS: [(&str, &str); 4] = [
    ("kept-short", "lock + unlock, kept handle"),
    ("kept-deep", "the same, path of 7 names"),
    ("once-short", "open + lock + close"),
    ("once-deep", "the same, path of 7 names"),
];

/// The rows: the names in the bench, and what a reader calls them. The first is the baseline.
const CONTENDERS: [(&str, &str); 13] = [
    ("raw", RAW),
    ("raw-stat", RAW_AND_STAT),
    ("lockmgr", "**lockmgr**, guard dropped"),
    ("lockmgr-unlock", "**lockmgr**, `unlock()`"),
    ("lockmgr-timeout", "**lockmgr**, `lock_timeout()`"),
    ("lockmgr-ofd", "**lockmgr**, mechanism `ofd`"),
    ("fslock-guard", "`fslock-guard`"),
    ("std", "`std::fs::File` (no path check)"),
    ("fd-lock", "`fd-lock` (no path check)"),
    ("fs4", "`fs4` (no path check)"),
    ("filelock", "`filelock` (no path check)"),
    ("named-lock", "`named-lock` (no path check)"),
    ("open", "`open` + `close` alone"),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let columns: Vec<&str> = [""].into_iter().chain(GROUPS.map(|(_, title)| title)).collect();
    print_head("Uncontended", &columns);
    for (contender, label) in CONTENDERS {
        let mut row = vec![label.to_owned()];
        for (group, _) in GROUPS {
            row.push(cell(&args, group, contender)?);
        }
        print_row(row);
    }
    Ok(())
}

/// Returns `TIME · RATIO`, or a dash where the bench has no such contender.
fn cell(args: &Args, group: &str, contender: &str) -> Result<String> {
    let home = args.criterion_home.join(group);
    if !home.join(contender).exists() {
        return Ok("—".to_owned());
    }
    let mut times = Vec::new();
    let mut ratios = Vec::new();
    for round in 0..args.rounds {
        let round = format!("round-{round}");
        let time = measured(&home.join(contender).join(&round))?;
        let baseline = measured(&home.join(CONTENDERS[0].0).join(&round))?;
        times.push(time);
        ratios.push(time / baseline);
    }
    Ok(format!("{} · {}", time(median(&mut times)), ratio(median(&mut ratios), 1.0)))
}

/// Returns the nanoseconds that criterion has measured in one round.
fn measured(round: &Path) -> Result<f64> {
    let path = round.join("estimates.json");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text)?;
    estimates["median"]["point_estimate"]
        .as_f64()
        .with_context(|| format!("no median in {}", path.display()))
}
