//! Several processes add to one number in one file, and none of the additions is lost.
//!
//! ```text
//! cargo run --example shared_counter -- COUNTER_FILE [PROCESSES [ROUNDS]]
//! ```
//!
//! The file is locked itself, so that no second file is needed: what was opened is given to
//! [`FileLock::from_file`], and the guard gives access to it. (A file that others *replace*, by
//! renaming a new version over it, needs a lock file beside it, which is opened by its path.)

#![expect(clippy::print_stdout, reason = "it is a program that talks")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::process::Command;

use lockmgr::{FileLock, FileLockGuard};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let number = |index: usize, default| match args.get(index) {
        Some(text) => text.to_string_lossy().parse::<u64>(),
        None => Ok(default),
    };
    let Some(file) = args.first() else {
        return Err("usage: shared_counter COUNTER_FILE [PROCESSES [ROUNDS]]".into());
    };
    let (processes, rounds) = (number(1, 4)?, number(2, 1000)?);
    if std::env::var_os(ADDER).is_some() {
        return add(file.as_ref(), rounds);
    }

    let before = read(&open(file.as_ref())?.lock_shared()?)?;
    let adders = (0..processes)
        .map(|_| Command::new(std::env::current_exe()?).args(&args).env(ADDER, "").spawn())
        .collect::<io::Result<Vec<_>>>()?;
    for mut adder in adders {
        let status = adder.wait()?;
        if !status.success() {
            return Err(format!("a process failed: {status}").into());
        }
    }
    let after = read(&open(file.as_ref())?.lock_shared()?)?;
    println!("{before} + {processes} processes x {rounds} rounds = {after}");
    if after == before + processes * rounds { Ok(()) } else { Err("an addition was lost".into()) }
}

/// Marks the processes that main starts.
const ADDER: &str = "SHARED_COUNTER_ADDER";

/// What each of the processes does.
fn add(file: &Path, rounds: u64) -> Result {
    let counter = open(file)?;
    for _ in 0..rounds {
        let guard = counter.lock()?;
        let number = read(&guard)?;
        // Between here and the write, nobody else has read.
        write(&guard, number + 1)?;
    }
    Ok(())
}

fn open(file: &Path) -> Result<FileLock> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(file)?;
    Ok(FileLock::from_file(file)?)
}

fn read(counter: &FileLockGuard<'_>) -> Result<u64> {
    let mut text = String::new();
    counter.file().rewind()?;
    counter.file().read_to_string(&mut text)?;
    Ok(if text.is_empty() { 0 } else { text.trim_end().parse()? })
}

fn write(counter: &FileLockGuard<'_>, number: u64) -> Result {
    // Numbers only grow, so no part of a longer old one is left over.
    counter.file().rewind()?;
    Ok(writeln!(counter.file(), "{number}")?)
}
