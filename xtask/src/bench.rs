//! `cargo xtask bench`: measures everything that the README claims, in one go, and writes the tables
//! exactly as the programs print them, losses included.
//!
//! What one table compares was measured in turns, so that a machine whose speed drifts, or whose
//! neighbours come and go, is unfair to nobody.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::python::Environment;
use crate::step::{self, cargo, command};

/// Between which tables stand.
type Markers = (&'static str, &'static str);

const MARKERS: Markers = ("<!-- bench:start -->", "<!-- bench:end -->");
const PYTHON_MARKERS: Markers = ("<!-- python-bench:start -->", "<!-- python-bench:end -->");

/// What docs/benchmarks.md is before its first table.
const NEW_PAGE: &str = "# Benchmarks

Written by `cargo xtask bench`; what each row does exactly is said in the comments of `crates/lockmgr-bench`.
Ratios above 1 are losses.

<!-- bench:start -->
<!-- bench:end -->
";

/// What can be measured by itself.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Part {
    Fairness,
}

pub(crate) fn run(quick: bool, only: Option<Part>) -> Result<()> {
    step::run(cargo("build --release --package lockmgr-bench"))?;
    if let Some(Part::Fairness) = only {
        eprintln!("\n{}\n\n{}", machine(), fairness(quick)?);
        return Ok(());
    }
    step::run(cargo("build --release --package lockmgr-cli"))?;

    let (handoffs, starts, seconds) = if quick { (30, 50, 1) } else { (400, 2000, 5) };
    let uncontended = uncontended(quick)?;
    let handoff = program("handoff", &format!("--rounds {handoffs}"))?;
    let semaphore = program("semaphore", &format!("--rounds {handoffs}"))?;
    let startup = program("startup", &format!("--rounds {starts}"))?;
    let waitcost = program("waitcost", &format!("--seconds {seconds}"))?;
    let (rounds, holders) = if quick { (3, 200) } else { (15, 2000) };
    let inspect = program("inspect", &format!("--rounds {rounds} --holders {holders}"))?;

    let fairness = fairness(quick)?;

    let summary = [uncontended, handoff, startup].join("\n");
    let everything =
        format!("{}\n\n{summary}\n{semaphore}\n{waitcost}\n{fairness}\n{inspect}", machine());
    if quick {
        // A number that was measured for a blink is not worth publishing.
        eprintln!("\n{everything}");
        return Ok(());
    }

    let page = step::root().join("docs/benchmarks.md");
    if !page.exists() {
        fs::write(&page, NEW_PAGE).with_context(|| format!("cannot write {}", page.display()))?;
    }
    put_between(&page, MARKERS, &everything)?;
    put_between(&step::root().join("README.md"), MARKERS, &summary)
}

/// Measures the Python package beside its peers.
pub(crate) fn run_python(quick: bool) -> Result<()> {
    let environment = Environment::prepare()?.context("there is no Python to measure")?;
    let tables = environment.bench(quick)?;
    let everything = format!("{}\n\n{tables}", machine());
    if quick {
        eprintln!("\n{everything}");
        return Ok(());
    }
    put_between(&step::root().join("docs/benchmarks.md"), PYTHON_MARKERS, &everything)?;
    put_between(&step::root().join("README.md"), PYTHON_MARKERS, &summary_of(&everything))
}

/// Returns what the README has of the tables: the first of them.
fn summary_of(tables: &str) -> String {
    let end = tables.find("<!-- end of summary -->").unwrap_or(tables.len());
    tables[..end].trim().to_owned()
}

/// Runs the criterion bench several times over and returns the table of all its rounds.
///
/// Criterion finishes with one contender before it begins with the next. Short rounds over all of them,
/// each compared with the baseline of its own round, keep slow drift out of the ratios.
fn uncontended(quick: bool) -> Result<String> {
    let bench = "bench --package lockmgr-bench --bench uncontended";
    step::run(cargo(&format!("{bench} --no-run")))?;
    let rounds = if quick { 1 } else { 15 };
    let results = step::target_dir()?.join("criterion");
    for round in 0..rounds {
        let mut bench = cargo(&format!(
            "{bench} -- --output-format bencher --noplot --nresamples 1000 --sample-size 30 \
             --warm-up-time 0.05 --measurement-time 0.15 --save-baseline round-{round}"
        ));
        bench.env("CRITERION_HOME", &results);
        // Its own line for each contender would bury the tables.
        step::output_of(bench)?;
    }
    let mut table = command(bench_program("uncontended-table")?, "");
    table.args(["--rounds", &rounds.to_string(), "--criterion-home"]);
    table.arg(results);
    step::output_of(table)
}

fn fairness(quick: bool) -> Result<String> {
    let (runs, seconds) = if quick { (1, 1) } else { (5, 10) };
    program("fairness", &format!("--runs {runs} --seconds {seconds}"))
}

/// Runs one of the bench crate's programs and returns the table that it prints.
fn program(name: &str, words: &str) -> Result<String> {
    step::output_of(command(bench_program(name)?, words))
}

fn bench_program(name: &str) -> Result<PathBuf> {
    Ok(step::target_dir()?.join("release").join(name))
}

/// Returns one line about where the numbers come from.
fn machine() -> String {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu_info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = step::output_of(command("rustc", "--version")).unwrap_or_default();
    let rustc = rustc.split(" (").next().unwrap_or_default();
    format!("Measured on {model}, {cores} cores, Linux {}, {rustc}.", kernel.trim())
}

/// Replaces what stands between the markers of `file`. A file without markers, or no file at all, does not
/// want the tables and is left alone.
fn put_between(file: &Path, (start, end): Markers, text: &str) -> Result<()> {
    let old = fs::read_to_string(file).ok();
    let Some(new) = old.and_then(|old| spliced(&old, (start, end), text)) else {
        eprintln!("no {start} … {end} in {}: left alone", file.display());
        return Ok(());
    };
    fs::write(file, new).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("wrote the tables into {}", file.display());
    Ok(())
}

fn spliced(old: &str, (start, end): Markers, text: &str) -> Option<String> {
    let (before, rest) = old.split_once(start)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{start}\n\n{}\n\n{end}{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_replace_only_what_stands_between_the_markers() {
        let (start, end) = MARKERS;
        let first =
            spliced(&format!("a\n{start}\n{end}\nb\n"), MARKERS, "| x |\n").expect("markers");
        assert_eq!(first, format!("a\n{start}\n\n| x |\n\n{end}\nb\n"));
        let second = spliced(&first, MARKERS, "| y |\n").expect("markers");
        assert_eq!(second, format!("a\n{start}\n\n| y |\n\n{end}\nb\n"));
        assert_eq!(spliced("no markers", MARKERS, "x"), None);
        assert_eq!(spliced(&second, PYTHON_MARKERS, "x"), None);
    }
}
