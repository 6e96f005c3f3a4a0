//! Locks, their holders and their waiters as rows.

use std::collections::BTreeSet;

use lockmgr::Range;
use lockmgr::inspect::{Holder, Lock, LockedFile, Process, Standing, Waiter};

use super::rows::Rows;
use super::screen::Style;

/// More of a command line than any screen shows.
const COMMAND_WIDTH: usize = 1000;

/// What the words before a pid mean, for those that do not say it themselves.
const LEGEND: [(Standing, &str); 6] = [
    (Standing::Inherited, "inherited: it has the open file, which another process has locked"),
    (
        Standing::Unclear,
        "unclear: it has the open file; whether it or another process locked it is not known",
    ),
    (Standing::Gone, "gone: it took the lock, and has ended or let go of it since"),
    (
        Standing::NotPermitted,
        "not permitted: the kernel names it; this user may not look whether it has the lock still",
    ),
    (
        Standing::NotVisible,
        "not visible: the lock is held, and the kernel does not show this user by whom",
    ),
    (
        Standing::NotFound,
        "not found: the lock is held; by whom was not found, for not everybody was looked at",
    ),
];

/// Adds the file's locks below its name; returns which standings were among them.
pub(crate) fn add_file(
    rows: &mut Rows,
    file: &LockedFile,
    heading: &str,
) -> BTreeSet<&'static str> {
    let mut met = BTreeSet::new();
    rows.text(Style::Heading, heading);
    for lock in &file.locks {
        for (index, holder) in lock.holders.iter().enumerate() {
            add_holder(rows, lock, holder, index == 0, file.is_had_by_front(lock));
            met.extend(
                LEGEND.iter().filter(|(known, _)| *known == holder.standing).map(|(_, text)| *text),
            );
        }
        for waiter in &lock.waiters {
            add_waiter(rows, waiter);
        }
    }
    met
}

/// The lock itself is described beside its first holder. Who is at the front of a queue has the gate, and
/// waits.
fn add_holder(rows: &mut Rows, lock: &Lock, holder: &Holder, first: bool, is_front: bool) {
    let state = match holder.standing {
        Standing::Verified if is_front => "waits".to_owned(),
        Standing::Verified => "holds".to_owned(),
        other => other.to_string(),
    };
    let style = match holder.standing {
        Standing::Verified if is_front => Style::Waits,
        Standing::Verified => Style::Plain,
        Standing::NotPermitted | Standing::NotVisible | Standing::NotFound => Style::Alarm,
        _ => Style::Dim,
    };
    let [kind, mode, bytes] = if first {
        [lock.kind.to_string(), lock.mode.to_string(), bytes(lock.range, lock.is_gate())]
    } else {
        [const { String::new() }; 3]
    };
    let process = holder.process.as_ref();
    let pid = process.map_or_else(|| "-".into(), |process| process.pid.to_string());
    rows.cells(style, vec![state, pid, user(process), kind, mode, bytes, command(process)]);
}

fn add_waiter(rows: &mut Rows, waiter: &Waiter) {
    let process = waiter.process.as_ref();
    let pid = process.map(|process| process.pid);
    // The first thread has the process's number.
    let thread = waiter.thread.filter(|thread| Some(*thread) != pid);
    let number = match (pid, thread) {
        (Some(pid), Some(thread)) => format!("{pid}/{thread}"),
        (Some(pid), None) => pid.to_string(),
        (None, _) => "-".into(),
    };
    let cells = vec![
        format!("{}waits", "  ".repeat(waiter.depth.min(16))),
        number,
        user(process),
        waiter.kind.to_string(),
        waiter.mode.to_string(),
        bytes(waiter.range, waiter.is_at_gate()),
        command(process),
    ];
    rows.cells(Style::Waits, cells);
}

fn user(process: Option<&Process>) -> String {
    process.filter(|process| !process.ended).map(Process::user).unwrap_or_default()
}

fn command(process: Option<&Process>) -> String {
    match process {
        None => "(not known)".into(),
        Some(process) if process.ended => "(ended)".into(),
        Some(process) if process.ending => {
            format!("{} (ending)", process.command_line(COMMAND_WIDTH))
        }
        Some(process) => process.command_line(COMMAND_WIDTH),
    }
}

/// The bytes of a lock, if they are not the whole file.
pub(crate) fn bytes(range: Range, is_gate: bool) -> String {
    match range {
        _ if is_gate => "gate".into(),
        Range::WHOLE => String::new(),
        range => range.to_string(),
    }
}
