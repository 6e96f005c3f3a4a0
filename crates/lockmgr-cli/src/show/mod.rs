//! How pictures of locks look to people: aligned, coloured on a terminal only, and harmless whatever a
//! process or a file is called.
//!
//! - `screen`: what standard output is; `rows`: alignment; `locks`: locks, holders and waiters

mod locks;
mod rows;
mod screen;

use std::io::Error;
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
    let not_seen = match gaps.not_permitted.len() {
        0 => None,
        1 => Some("1 process".to_owned()),
        count => Some(format!("{count} processes")),
    };
    // Root may lack the capability, as in a container.
    let is_root = rustix::process::geteuid().is_root();
    let advice = if is_root { "" } else { "; run as root to see all" };
    parts.extend(
        not_seen.map(|who| format!("{who} could not be looked at (not permitted){advice}")),
    );
    if gaps.hidden {
        parts.push("locks of processes outside this pid namespace are hidden".to_owned());
    }
    if gaps.pieced_together {
        parts.push(
            "the table is long: where locks came or went while it was read, others may be missing \
             or told twice"
                .into(),
        );
    }
    if gaps.cut_short {
        parts.push(format!("not everybody was looked at: {}", why_cut_short(gaps)));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What is to be added when nothing was found.
pub(crate) fn as_far_as_seen(gaps: &Gaps) -> &'static str {
    if gaps.cut_short { " seen" } else { "" }
}

/// Why not everybody was looked at.
pub(crate) fn why_cut_short(gaps: &Gaps) -> String {
    gaps.errno.map_or_else(
        || "it took too long".into(),
        |errno| Error::from_raw_os_error(errno).to_string(),
    )
}

/// `1 waiter`, `2 waiters`
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
