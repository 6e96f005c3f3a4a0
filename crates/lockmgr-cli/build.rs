//! Finds the static half of gcc's unwinder, so that the command is linked without `libgcc_s.so.1`.
//!
//! Rust's standard library asks for that shared library, which it needs only while a panic unwinds.
//! The dynamic loader maps, relocates and initialises it at every start, though: a tenth of the
//! wall time of `lockmgr run LOCK true`. The same code is in `libgcc_eh.a` beside every gcc; `main.rs`
//! links that when the configuration `static_unwinder` is set here. Where the archive is not found,
//! the command is linked in the usual way and only starts more slowly.
//!
//! A static libc would save less again (about a twentieth), and can only be asked for through
//! `RUSTFLAGS`, for every crate of the build at once.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(static_unwinder)");
    if let Some(directory) = directory_of_the_archive() {
        println!("cargo::rustc-cfg=static_unwinder");
        println!("cargo::rustc-link-search=native={}", directory.display());
    }
}

fn directory_of_the_archive() -> Option<PathBuf> {
    let target = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    let crt_static = target("FEATURE").split(',').any(|feature| feature == "crt-static");
    if target("OS") != "linux" || target("ENV") != "gnu" || crt_static {
        return None;
    }
    // The linker that cargo was told to use; without one, rustc takes `cc`, which serves the host.
    let linker = env::var_os("RUSTC_LINKER")
        .or_else(|| (env::var("HOST").ok() == env::var("TARGET").ok()).then(|| "cc".into()))?;
    let output = Command::new(linker).arg("-print-file-name=libgcc_eh.a").output().ok()?;
    let archive = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end());
    // A driver that does not find the file prints the bare name back.
    let found = archive.is_absolute() && archive.is_file();
    found.then(|| archive.parent().map(PathBuf::from)).flatten()
}
