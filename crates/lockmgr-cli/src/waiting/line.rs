//! The line that says whom a wait is for, and when it is said where nothing can be kept up to date.

use std::time::{Duration, Instant, SystemTime};

use lockmgr::inspect::{
    Holder, Kind, Lock, LockTable, LockedFile, Process, Record, Standing, Waiter,
};

use super::Watch;
use crate::duration::show;
use crate::say::harmless;

/// When to say a plain line: after 10 s, and then 30 s, 1, 2 and 5 minutes and every 10 minutes after the
/// one before.
#[derive(Clone, Debug, Default)]
pub(super) struct PlainPauses {
    made: usize,
}

impl Iterator for PlainPauses {
    type Item = Duration;

    /// Never `None`.
    fn next(&mut self) -> Option<Duration> {
        const SECONDS: [u64; 6] = [10, 30, 60, 120, 300, 600];
        let seconds = SECONDS[self.made.min(SECONDS.len() - 1)];
        self.made += 1;
        Some(Duration::from_secs(seconds))
    }
}

/// What there is to be said. All of it is harmless to print.
#[derive(Debug, Default)]
pub(super) struct Scene {
    /// What the lock is called.
    name: String,
    short_name: String,
    waited: Duration,
    holder: Option<Seen>,
    /// What is to be said of the holder before and after it.
    before: &'static str,
    after: String,
    ahead: usize,
    left: Option<Duration>,
}

/// A process.
#[derive(Debug)]
struct Seen {
    pid: u32,
    command: String,
    user: String,
    /// What it says of itself: since when it has the lock, and why.
    age: Option<Duration>,
    note: Option<String>,
}

impl Seen {
    /// The record counts if it is the process's own.
    fn of(process: &Process, record: Option<&Record>) -> Self {
        /// More than any line shows; there is nothing to be seen of one that has ended.
        const WIDTH: usize = 400;
        let record = record.filter(|record| record.start == process.start);
        let age = record.and_then(|record| SystemTime::now().duration_since(record.since).ok());
        // Of `lockmgr run` it is the command that matters.
        let command = record.filter(|record| !record.command.is_empty());
        let command = command.map(|record| cut(&harmless(&record.command.join(" ")), WIDTH));
        Self {
            pid: process.pid,
            command: command.unwrap_or_else(|| process.command_line(WIDTH)),
            user: process.user(),
            age,
            note: record.and_then(|record| record.note.clone()),
        }
    }

    /// ` for 3m12s: "nightly backup"`
    fn told_of_itself(&self, with_note: bool) -> String {
        let age = self.age.map(|age| format!(" for {}", whole_seconds(age))).unwrap_or_default();
        match &self.note {
            Some(note) if with_note => format!("{age}: \"{note}\""),
            _ => age,
        }
    }
}

impl Scene {
    /// Looks at the lock now.
    pub(super) fn look(watch: &Watch) -> Self {
        let tables: Vec<LockTable> =
            watch.paths.iter().map(|path| LockTable::of(path).unwrap_or_default()).collect();
        let locks = |table: &LockTable| -> Vec<Lock> {
            table.files.iter().flat_map(|file| file.locks.clone()).collect()
        };
        let files: Vec<(&LockTable, Vec<Lock>)> =
            tables.iter().map(|table| (table, locks(table))).collect();
        let kind = Kind::from(watch.mechanism);
        let now = Instant::now();
        let mut scene = Self {
            name: watch.name.clone(),
            short_name: watch.short_name.clone(),
            waited: now.saturating_duration_since(watch.since),
            left: watch.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            ahead: files.iter().find_map(|(_, locks)| ahead(locks, watch.slots)).unwrap_or(0),
            ..Self::default()
        };
        let is_mine = |waiter: &Waiter| waiter.pid() == Some(std::process::id());
        let in_the_way = |lock: &&Lock| lock.kind.shares_a_space_with(&kind) && !lock.is_gate();
        // The one that the kernel has us wait for, else any.
        let waits = |lock: &Lock| lock.waiters.iter().any(is_mine);
        let mut files: Vec<_> = files.iter().collect();
        files.sort_by_key(|(_, locks)| {
            (!locks.iter().any(waits), locks.iter().find(in_the_way).is_none())
        });
        let Some((table, locks)) = files.first() else { return scene };
        let record = table.files.iter().find_map(LockedFile::record);
        let mut matters: Vec<&Lock> = locks.iter().filter(in_the_way).collect();
        matters.sort_by_key(|lock| !waits(lock));
        match matters.split_first() {
            Some((lock, others)) => scene.tell_holder(lock, others.len(), record.as_ref()),
            None => {
                if let Some(lease) = locks.iter().find(|lock| lock.kind == Kind::Lease) {
                    scene.tell_holder(lease, 0, None);
                    scene.before = "kept from being opened by a lease of";
                }
            }
        }
        scene
    }

    fn tell_holder(&mut self, lock: &Lock, others: usize, record: Option<&Record>) {
        let lives = |holder: &&Holder| holder.standing != Standing::Gone;
        let process =
            |holder: &Holder| holder.process.as_ref().map(|process| Seen::of(process, record));
        let heir = lock.holders.iter().filter(lives).find_map(process);
        let has_gone = lock.holders.first().is_some_and(|first| first.standing == Standing::Gone);
        self.before = match (&heir, has_gone) {
            (Some(_), false) => "held by",
            (Some(_), true) => "inherited by",
            (None, _) => "held by a process that cannot be seen",
        };
        self.holder = heir;
        if others > 0 {
            self.after = format!(" and {others} more");
        }
    }

    /// On one line of so many columns, one of which stays free.
    pub(super) fn fitting(&self, width: usize) -> String {
        let room = width.saturating_sub(1);
        let name = &self.short_name;
        let all = self.put(name, self.holder.as_ref().map(|holder| holder.command.as_str()), true);
        if columns(&all) <= room {
            return all;
        }
        // As much of the command as there is room for; if there is none, nothing of it.
        let without = columns(&self.put(name, Some(""), false));
        let command = self.holder.as_ref().map_or("", |holder| &holder.command);
        let text = match room.checked_sub(without) {
            Some(left) if left >= 4 => self.put(name, Some(&cut(command, left)), false),
            _ => self.put(name, None, false),
        };
        cut(&text, room)
    }

    /// In full.
    pub(super) fn whole(&self) -> String {
        const COMMAND: usize = 100;
        let command = self.holder.as_ref().map(|holder| cut(&holder.command, COMMAND));
        self.put(&self.name, command.as_deref(), true).trim_start_matches("lockmgr: ").to_owned()
    }

    fn put(&self, name: &str, command: Option<&str>, with_note: bool) -> String {
        let waited = whole_seconds(self.waited);
        let before =
            if self.before.is_empty() { String::new() } else { format!(", {}", self.before) };
        let holder = match (&self.holder, command) {
            (Some(seen @ Seen { pid, user, .. }), Some(command)) => {
                format!(" pid {pid} ({command}, {user}){}", seen.told_of_itself(with_note))
            }
            (Some(Seen { pid, .. }), None) => format!(" pid {pid}"),
            (None, _) => String::new(),
        };
        let after = &self.after;
        let ahead = if self.ahead > 0 { format!(", {} ahead", self.ahead) } else { String::new() };
        let left = self.left.map(|left| format!(", gives up in {}", whole_seconds(left)));
        let left = left.unwrap_or_default();
        harmless(&format!(
            "lockmgr: waiting {waited} for {name}{before}{holder}{after}{ahead}{left}"
        ))
    }
}

/// How many requests stand before ours in the kernel's queue. `None` where ours is not seen. The front
/// waiter for slots has the queue, and waits elsewhere.
fn ahead(locks: &[Lock], slots: bool) -> Option<usize> {
    let is_mine = |waiter: &Waiter| waiter.pid() == Some(std::process::id());
    locks.iter().find_map(|lock| {
        let place = lock.waiters.iter().position(is_mine)?;
        let past_the_gate =
            || locks.iter().filter(|lock| !lock.is_gate()).map(|lock| lock.waiters.len()).sum();
        // Whoever has the gate is before all who wait for it.
        let before: usize = match lock.is_gate() {
            true if slots => 1,
            true => past_the_gate(),
            false => 0,
        };
        Some(place + before)
    })
}

fn whole_seconds(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => show(Duration::from_secs(seconds)),
    }
}

/// Columns that the text takes on a terminal, at most: other scripts than ours can take two.
fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

fn columns_of(character: char) -> usize {
    if character.is_ascii() { 1 } else { 2 }
}

/// As much of the text as fits, with a sign where something is missing.
fn cut(text: &str, room: usize) -> String {
    if columns(text) <= room {
        return text.to_owned();
    }
    let mut left = room.saturating_sub(columns_of('…'));
    let mut shown: String = text
        .chars()
        .take_while(|&character| {
            let fits = columns_of(character) <= left;
            left = left.saturating_sub(columns_of(character));
            fits
        })
        .collect();
    if room >= columns_of('…') {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> Scene {
        Scene {
            name: "/srv/größe/backup.lock".into(),
            short_name: "backup.lock".into(),
            waited: Duration::from_millis(12_900),
            holder: Some(Seen {
                pid: 4242,
                command: "rsync -a --delete /srv/one/very/long/path /mnt/another".into(),
                user: "root".into(),
                age: Some(Duration::from_secs(192)),
                note: Some("nightly backup".into()),
            }),
            before: "held by",
            after: String::new(),
            ahead: 2,
            left: Some(Duration::from_secs(75)),
        }
    }

    #[test]
    fn the_line_fits_every_width() {
        for width in 0..300 {
            let line = scene().fitting(width);
            assert!(columns(&line) < width.max(1), "{width}: {line}");
        }
        assert_eq!(
            scene().fitting(120),
            "lockmgr: waiting 12s for backup.lock, held by pid 4242 (rsync -a --delet…, root) for \
             3m12s, 2 ahead, gives up in 1m15s"
        );
        assert_eq!(
            scene().fitting(300),
            format!("lockmgr: {}", scene().whole().replace("/srv/größe/", ""))
        );
        assert_eq!(scene().fitting(40), "lockmgr: waiting 12s for backup.lock,…");
        let wide = Scene { short_name: "漢".repeat(100), ..scene() };
        assert!(columns(&wide.fitting(50)) < 50);
    }

    #[test]
    fn the_plain_line_says_all() {
        assert_eq!(
            scene().whole(),
            "waiting 12s for /srv/größe/backup.lock, held by pid 4242 (rsync -a --delete \
             /srv/one/very/long/path /mnt/another, root) for 3m12s: \"nightly backup\", 2 ahead, \
             gives up in 1m15s"
        );
        let unknown = Scene { holder: None, before: "", ahead: 0, left: None, ..scene() };
        assert_eq!(unknown.whole(), "waiting 12s for /srv/größe/backup.lock");
    }

    #[test]
    fn nothing_drives_the_terminal() {
        let mut hostile = Scene { short_name: "a\x1b[2J\n\u{202e}".into(), ..scene() };
        hostile.holder.as_mut().unwrap().note = Some("\x1b[2J\n\u{202e}".into());
        assert!(!hostile.fitting(300).chars().any(|c| c.is_control() || c == '\u{202e}'));
    }

    #[test]
    fn plain_lines_grow_rare() {
        let seconds: Vec<u64> =
            PlainPauses::default().take(8).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [10, 30, 60, 120, 300, 600, 600, 600]);
    }
}
