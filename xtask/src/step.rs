//! One step of a chore: a command, printed before it runs, from the root of the repository.

use std::env;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Returns the root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in a folder of the repository")
}

/// Returns cargo's target directory: the one that this very program was built into.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let program = env::current_exe()?;
    // TARGET/debug/xtask
    let target = program.ancestors().nth(2);
    Ok(target.context("xtask runs outside a target directory")?.to_path_buf())
}

/// Returns `program WORDS…`, to be run from the root. An argument that has spaces is added to it later.
pub(crate) fn command(program: impl AsRef<OsStr>, words: &str) -> Command {
    let mut command = Command::new(program);
    command.args(words.split_whitespace()).current_dir(root());
    command
}

/// Returns `cargo WORDS…`, by the cargo that started this program.
pub(crate) fn cargo(words: &str) -> Command {
    command(cargo_path(), words)
}

/// Returns the cargo that started this program.
pub(crate) fn cargo_path() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs a step to its end; a status other than 0 is an error.
pub(crate) fn run(mut step: Command) -> Result<()> {
    let shown = show(&step);
    eprintln!("$ {shown}");
    let status = step.status().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// Runs a step to its end and returns what it wrote to its standard output.
pub(crate) fn output_of(mut step: Command) -> Result<String> {
    let shown = show(&step);
    eprintln!("$ {shown}");
    let output = step
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(output.status.success(), "`{shown}` failed ({})", output.status);
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{shown}` printed something that is not UTF-8"))
}

/// Returns whether `program ARGS…` can be run and says 0; what it prints is not shown.
pub(crate) fn works(mut probe: Command) -> bool {
    probe
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Returns whether cargo-nextest is installed: one process a test, and an end for a test that hangs.
pub(crate) fn has_nextest() -> bool {
    works(cargo("nextest --version"))
}

/// Returns the step as one would type it.
fn show(step: &Command) -> String {
    let mut line = String::new();
    for (name, value) in step.get_envs() {
        // What is taken away is seldom there.
        let Some(value) = value.map(OsStr::to_string_lossy) else { continue };
        let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(&value));
    }
    // The full path of cargo tells nobody anything.
    let program = Path::new(step.get_program());
    line += &program.file_name().unwrap_or(program.as_os_str()).to_string_lossy();
    for arg in step.get_args() {
        line.push(' ');
        line += &quoted(&arg.to_string_lossy());
    }
    line
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shown_as_one_would_type_it() {
        let mut step = command("/usr/bin/cargo", "nextest run -E");
        step.args(["not test(/x y/)", ""]);
        step.env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(
            show(&step),
            "RUSTDOCFLAGS='-D warnings' cargo nextest run -E 'not test(/x y/)' ''"
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
