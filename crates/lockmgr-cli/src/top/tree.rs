//! What there is to say about one lock: its holders, and everybody who waits because of it, as a tree.
//!
//! A waiter that holds locks itself, for which others wait, has those below it; a holder that waits
//! itself has what it waits for below it. A process that comes back to where it has been is not followed
//! again, so the tree ends whatever the kernel's table says.

use lockmgr::inspect::{Deadlock, Holder, Lock, LockTable, LockedFile, Process, Standing, Waiter};

use super::picture::{Picture, Row, in_circle, shown_path, shown_range};

/// More of a command line than this is for `ps`.
const COMMAND: usize = 200;

/// Deeper than this nobody reads.
const DEEPEST: usize = 16;

/// A line, and what kind of line it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) tone: Tone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Heading,
    Holder,
    Waiter,
    Nested,
    Alarm,
}

/// Everything about the lock, a line each.
pub(super) fn lines(picture: &Picture, row: &Row) -> Vec<Line> {
    let (file, lock) = picture.file_and_lock(row);
    let mut tree = Tree { table: &picture.table, deadlocks: &picture.deadlocks, lines: Vec::new() };
    let range = shown_range(lock.range).map(|range| format!(" {range}")).unwrap_or_default();
    let gate = if lock.is_gate() { ", the gate of a fair queue" } else { "" };
    tree.add(Tone::Heading, format!("{} {}{range}{gate}, held by", lock.kind, lock.mode));
    for (index, holder) in lock.holders.iter().enumerate() {
        let age = if index == 0 { format!(", seen {}", row.held.show()) } else { String::new() };
        tree.add(Tone::Holder, format!("  {}", shown_holder(holder, &age)));
        if let Some(process) = &holder.process {
            tree.waits_itself(process.pid);
        }
    }
    let elsewhere = waiting_elsewhere(file, lock);
    if lock.waiters.is_empty() && elsewhere > 0 {
        let told = "waiting for this one, too; the kernel has them behind another lock of the file";
        tree.add(Tone::Heading, format!("{elsewhere} {told}"));
    } else if lock.waiters.is_empty() {
        tree.add(Tone::Heading, "nobody waits".into());
    } else {
        let order = if lock.waiters.iter().any(|waiter| waiter.interchangeable) {
            " (their order is not known)"
        } else {
            ""
        };
        tree.add(Tone::Heading, format!("{} waiting{order}", lock.waiters.len()));
        let ages: Vec<String> = row.waits.iter().map(|age| format!(", {}", age.show())).collect();
        tree.waiters(file, lock, &ages, "  ", &mut vec![lock]);
    }
    for circle in &picture.deadlocks {
        if circle.links.iter().any(|link| link.inode == file.inode) {
            let word = if circle.certain { "DEADLOCK" } else { "possible deadlock" };
            tree.add(Tone::Alarm, format!("{word}: {circle}"));
        }
    }
    tree.lines
}

/// How many requests stand behind other locks of the file, and would not be granted for this one either: each
/// waits for one lock at a time.
fn waiting_elsewhere(file: &LockedFile, lock: &Lock) -> usize {
    let others = file.locks.iter().filter(|other| !std::ptr::eq(*other, lock));
    others.flat_map(|other| &other.waiters).filter(|waiter| waiter.is_blocked_by(lock)).count()
}

struct Tree<'p> {
    table: &'p LockTable,
    deadlocks: &'p [Deadlock],
    lines: Vec<Line>,
}

impl<'p> Tree<'p> {
    fn add(&mut self, tone: Tone, text: String) {
        self.lines.push(Line { text, tone });
    }

    /// What a holder waits for, and who has that, as far as it goes.
    fn waits_itself(&mut self, pid: u32) {
        let mut been = vec![pid];
        let mut at = pid;
        while let Some((file, lock)) = self.obstacle_of(at) {
            let owner = lock.holders.first().and_then(|holder| holder.process.as_ref());
            let by = owner.map_or("somebody not visible".into(), shown_process);
            let indent = "  ".repeat(been.len() + 1);
            let path = shown_path(file);
            self.add(Tone::Nested, format!("{indent}which waits for {path}, held by {by}"));
            match owner {
                Some(owner) if !been.contains(&owner.pid) && been.len() < DEEPEST => {
                    been.push(owner.pid);
                    at = owner.pid;
                }
                _ => return,
            }
        }
    }

    /// The lock that a process waits for, if it waits.
    fn obstacle_of(&self, pid: u32) -> Option<(&'p LockedFile, &'p Lock)> {
        let all =
            self.table.files.iter().flat_map(|file| file.locks.iter().map(move |l| (file, l)));
        all.into_iter()
            .find(|(_, lock)| lock.waiters.iter().any(|waiter| waiter.pid() == Some(pid)))
    }

    fn waiters(
        &mut self,
        file: &LockedFile,
        lock: &'p Lock,
        ages: &[String],
        indent: &str,
        been: &mut Vec<&'p Lock>,
    ) {
        let circle = in_circle(self.deadlocks, file.inode, lock);
        for (index, waiter) in lock.waiters.iter().enumerate() {
            let is_last = index + 1 == lock.waiters.len();
            let branch = if is_last { "└─ " } else { "├─ " };
            let below = format!("{indent}{}", if is_last { "   " } else { "│  " });
            let age = ages.get(index).map_or("", String::as_str);
            let is_in_it = circle.is_some() && self.is_in_circle(waiter);
            let (tone, mark) = match (is_in_it, circle) {
                (true, Some(true)) => (Tone::Alarm, "DEADLOCK "),
                (true, _) => (Tone::Alarm, "possible deadlock "),
                _ => (Tone::Waiter, ""),
            };
            self.add(tone, format!("{indent}{branch}{mark}{}", shown_waiter(waiter, age)));
            let Some(pid) = waiter.pid() else { continue };
            for (its_file, its_lock) in self.contended_locks_of(pid) {
                let path = shown_path(its_file);
                let range =
                    shown_range(its_lock.range).map(|r| format!(" {r}")).unwrap_or_default();
                let what =
                    format!("{below}holds {path} ({} {}{range})", its_lock.kind, its_lock.mode);
                if been.iter().any(|seen| std::ptr::eq(*seen, its_lock)) {
                    self.add(Tone::Nested, format!("{what}: see above"));
                } else if been.len() < DEEPEST {
                    self.add(Tone::Nested, what);
                    been.push(its_lock);
                    self.waiters(its_file, its_lock, &[], &below, been);
                }
            }
        }
    }

    fn is_in_circle(&self, waiter: &Waiter) -> bool {
        self.deadlocks
            .iter()
            .flat_map(|circle| &circle.links)
            .any(|link| link.waiter.pid() == waiter.pid() && link.waiter.thread == waiter.thread)
    }

    fn contended_locks_of(&self, pid: u32) -> Vec<(&'p LockedFile, &'p Lock)> {
        let has = |lock: &&Lock| {
            !lock.waiters.is_empty()
                && lock
                    .holders
                    .iter()
                    .any(|holder| holder.pid() == Some(pid) && holder.standing != Standing::Gone)
        };
        let files = self.table.files.iter();
        files.flat_map(|file| file.locks.iter().filter(has).map(move |lock| (file, lock))).collect()
    }
}

fn shown_process(process: &Process) -> String {
    if process.ended {
        return format!("pid {}, which has ended", process.pid);
    }
    format!("pid {} {}  {}", process.pid, process.user(), process.command_line(COMMAND))
}

// What is short stands first: a command line may be longer than the screen is wide.
fn shown_holder(holder: &Holder, age: &str) -> String {
    let Some(process) = &holder.process else { return "somebody not visible".into() };
    let through = holder.descriptor.map(|fd| format!(", fd {fd}")).unwrap_or_default();
    format!("{}{through}{age}: {}", holder.standing, shown_process(process))
}

fn shown_waiter(waiter: &Waiter, age: &str) -> String {
    let place = if waiter.is_at_gate() { " at the gate" } else { "" };
    let range = shown_range(waiter.range).filter(|_| !waiter.is_at_gate());
    let range = range.map(|range| format!(" {range}")).unwrap_or_default();
    let by = waiter.process.as_ref().map_or("somebody not visible".into(), shown_process);
    let thread = waiter.thread.filter(|&thread| Some(thread) != waiter.pid());
    let thread = thread.map(|thread| format!(", thread {thread}")).unwrap_or_default();
    format!("{}{range}{place}{age}{thread}: {by}", waiter.mode)
}
