//! What the tests need beside Rust: installed where that may be done, said where it may not. Without it
//! the tests that need it say `SKIPPED`, and the rest is tested all the same.

use std::fs;

use crate::step::{self, command, works};

/// A program, how it shows that it is there, and the Debian package that has it.
const NEEDED: [(&str, &str, &str); 6] = [
    ("tmux", "-V", "tmux"),
    ("mkfs.ext4", "-V", "e2fsprogs"),
    ("mkfs.xfs", "-V", "xfsprogs"),
    ("mkfs.btrfs", "--version", "btrfs-progs"),
    // They read the completions.
    ("zsh", "--version", "zsh"),
    ("fish", "--version", "fish"),
];

pub(crate) fn run() {
    for (program, probe, package) in NEEDED {
        if works(command(program, probe)) {
            continue;
        }
        let installed = may_install() && install(package);
        if !installed {
            eprintln!(
                "xtask: {program} is missing: some tests are skipped; apt-get install {package}"
            );
        }
    }
}

/// Installs a Debian package; returns whether that worked.
pub(crate) fn install(package: &str) -> bool {
    let attempt = || {
        let mut install = command("apt-get", "install --yes --no-install-recommends");
        install.arg(package).env("DEBIAN_FRONTEND", "noninteractive");
        step::run(install).is_ok()
    };
    // The lists of packages may be old, or not there at all.
    attempt() || step::run(command("apt-get", "update")).is_ok() && attempt()
}

pub(crate) fn may_install() -> bool {
    // The real user, then the effective one.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}
