//! `cargo xtask man`: the man pages, one for the command and one for each subcommand, out of the same
//! definition that parses the command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap_complete::Shell;

use crate::step;

pub(crate) fn run(out: Option<PathBuf>) -> Result<()> {
    let dir = match out {
        Some(dir) => dir,
        None => step::target_dir()?.join("man"),
    };
    write_to(&dir)
}

/// Writes the man pages into `dir`, which is made if need be.
pub(crate) fn write_to(dir: &Path) -> Result<()> {
    let failed = || format!("cannot write the man pages into {}", dir.display());
    fs::create_dir_all(dir).with_context(failed)?;
    clap_mangen::generate_to(lockmgr_cli::cli::command(), dir).with_context(failed)?;
    let pages = fs::read_dir(dir)?.count();
    eprintln!("wrote {pages} man pages into {}", dir.display());
    Ok(())
}

/// Generates the completions of every shell that `lockmgr completions` offers, and keeps none of them:
/// a definition that `clap_complete` cannot digest panics here and not at a user's prompt.
pub(crate) fn generate_completions() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate(
            shell,
            &mut lockmgr_cli::cli::command(),
            "lockmgr",
            &mut io::sink(),
        );
    }
}
