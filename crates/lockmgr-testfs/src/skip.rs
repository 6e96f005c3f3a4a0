//! A test that cannot be made here is said to be skipped, where that is seen.

use std::env;
use std::fs::File;
use std::io::Write;
use std::thread;

/// In the environment of the tests: the file in which `cargo xtask test` looks for what was skipped, to say
/// it at the end. (Of a test that passes, most runners do not show what it printed.)
pub const SKIPS: &str = "XTASK_TEST_SKIPS";

/// Says that the running test, or a part of it, could not be made, and why.
pub fn skip(reason: &str) {
    let line = format!("SKIPPED: {}: {reason}\n", thread::current().name().unwrap_or("a test"));
    // Not `eprintln`, which the test harness keeps back when the test passes. There is nobody else to tell.
    drop(std::io::stderr().write_all(line.as_bytes()));
    if let Some(path) = env::var_os(SKIPS) {
        // In one piece, because others write into it too.
        let opened = File::options().append(true).create(true).open(path);
        drop(opened.and_then(|mut file| file.write_all(line.as_bytes())));
    }
}
