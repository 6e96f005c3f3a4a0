//! How pictures of locks look to people: aligned, coloured on a terminal only, and harmless whatever a
//! process or a file is called.
//!
//! - `screen`: what standard output is; `rows`: alignment; `locks`: locks, holders and waiters

mod locks;
mod rows;
mod screen;

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use lockmgr::inspect::{Gaps, Inode, Process, printable};

pub(crate) use locks::{add_file, bytes};
pub(crate) use rows::Rows;
pub(crate) use screen::{Screen, Style, write};

pub(crate) fn text(text: &str) -> String {
    printable(text.as_bytes())
}

pub(crate) fn path(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}

/// A file's path, or its inode where no path is known.
pub(crate) fn file_name(known: Option<&Path>, inode: Inode) -> String {
    known.map_or_else(|| format!("inode {inode} (path not known)"), path)
}

/// `pid 42 (command, user)`
pub(crate) fn process(process: &Process) -> String {
    const WIDTH: usize = 60;
    if process.ended {
        return format!("pid {} (ended)", process.pid);
    }
    format!("pid {} ({}, {})", process.pid, process.command_line(WIDTH), process.user())
}

/// What a table does not show, in one line; `None` when it shows everything.
pub(crate) fn gaps(gaps: &Gaps) -> Option<String> {
    let mut parts = Vec::new();
    match gaps.not_permitted.len() {
        0 => {}
        1 => parts.push(
            "1 process could not be looked at (not permitted); run as root to see all".into(),
        ),
        count => parts.push(format!(
            "{count} processes could not be looked at (not permitted); run as root to see all"
        )),
    }
    if gaps.hidden {
        parts.push("locks of processes outside this pid namespace are hidden".to_owned());
    }
    if gaps.pieced_together {
        parts.push(
            "the table is long: locks that came or went while it was read may be missing".into(),
        );
    }
    if gaps.cut_short {
        parts.push("not everybody was looked at: it took too long".into());
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `1 waiter`, `2 waiters`
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
