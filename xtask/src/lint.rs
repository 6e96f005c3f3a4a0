//! `cargo xtask lint`: formatting, clippy and rustdoc over the whole workspace, the benches included.

use anyhow::{Result, ensure};

use crate::python::Environment;
use crate::step::{self, cargo, command, works};

pub(crate) fn run() -> Result<()> {
    need("fmt", "rustfmt")?;
    need("clippy", "clippy")?;

    step::run(cargo("fmt --all --check"))?;
    let clippy = "clippy --workspace --all-targets";
    step::run(cargo(&format!("{clippy} -- -D warnings")))?;
    step::run(cargo(&format!("{clippy} --all-features -- -D warnings")))?;

    // Libraries only: the command and the library are both called `lockmgr`, and their pages would collide.
    // Twice, because each pass sees what the other cannot: broken links of private items, and links from
    // public pages to items that have no public page.
    for private in ["--document-private-items", ""] {
        let mut doc = cargo("doc --workspace --lib --no-deps --all-features");
        doc.args(private.split_whitespace());
        doc.env("RUSTDOCFLAGS", "-D warnings");
        step::run(doc)?;
    }
    match Environment::prepare()? {
        Some(python) => python.lint(),
        None => Ok(()),
    }
}

/// Makes sure of a cargo subcommand that rustup's minimal profile leaves out.
fn need(subcommand: &str, component: &str) -> Result<()> {
    if works(cargo(&format!("{subcommand} --version"))) {
        return Ok(());
    }
    let install = command("rustup", &format!("component add {component}"));
    ensure!(
        step::run(install).is_ok(),
        "`cargo {subcommand}` is missing: install the toolchain's component {component}"
    );
    Ok(())
}
