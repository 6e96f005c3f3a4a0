//! `lockmgr ls`: every lock on the machine.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockmgr::inspect::{Holder, Inode, Lock, LockTable, LockedFile, Process, Waiter};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::cli::{LsArgs, SortKey};
use crate::exit::{self, Failure, Status};
use crate::json::{self, FileJson, GapsJson, Teller};
use crate::say::say;
use crate::show::{self, Rows, Screen, Style};

pub(crate) fn ls(args: &LsArgs) -> Result<Status, Failure> {
    let mut first = true;
    loop {
        let table = look(args)?;
        let screen = Screen::of_output();
        let mut text = if args.json { in_json(&table)? } else { for_people(&table, args, &screen) };
        if args.watch.is_some() && !args.json {
            text = redrawn(&text, first, &screen);
        }
        let is_read = show::write(&text)?;
        if !args.json
            && (args.watch.is_none() || !screen.is_terminal)
            && first
            && let Some(line) = show::gaps(&table.gaps)
        {
            say(&line);
        }
        match args.watch {
            Some(interval) if is_read && !reader_leaves_within(interval) => first = false,
            _ => {
                // The process ends here. To give thousands of locks back piece by piece helps nobody.
                let is_whole = !table.gaps.cut_short;
                std::mem::forget(table);
                return Ok(if is_whole { exit::OK } else { exit::SYSTEM });
            }
        }
    }
}

/// Sleeps; returns early, and `true`, when nobody reads the output any more.
fn reader_leaves_within(interval: Duration) -> bool {
    let output = io::stdout();
    let timeout = Timespec::try_from(interval).ok();
    // An end of a pipe that nobody reads is reported without being asked for.
    let mut polled = [PollFd::new(&output, PollFlags::empty())];
    match poll(&mut polled, timeout.as_ref()) {
        // A stop and a continuation: the time for a new picture.
        Ok(0) | Err(Errno::INTR) => false,
        _ => true,
    }
}

/// On a terminal, what fits on the screen, in the place of the picture before.
fn redrawn(text: &str, first: bool, screen: &Screen) -> String {
    if !screen.is_terminal {
        return if first { text.to_owned() } else { format!("\n{text}") };
    }
    let home = "\x1b[H\x1b[2J";
    let lines: Vec<&str> = text.lines().collect();
    // The last line stays free, for the cursor.
    let room = screen.height.map_or(usize::MAX, |height| height.saturating_sub(1).max(1));
    if lines.len() <= room {
        return format!("{home}{text}");
    }
    let shown = lines[..room - 1].join("\n");
    format!("{home}{shown}\n… {} more\n", show::count(lines.len() + 1 - room, "line"))
}

/// The locks that were asked for, in the order that was asked for.
fn look(args: &LsArgs) -> Result<LockTable, Failure> {
    if let Some(user) = args.user.as_ref().filter(|user| !is_user(user)) {
        return Err(Failure::usage(format!("there is no user '{}'", show::text(user))));
    }
    let mut table = LockTable::snapshot().map_err(|error| Failure::of_table(&error))?;
    if !args.paths.is_empty() {
        restrict(&mut table, &args.paths.iter().map(PathBuf::from).collect::<Vec<_>>())?;
    }
    let me = rustix::process::geteuid().as_raw();
    let is_wanted = |lock: &Lock| {
        (!args.waiting || !lock.waiters.is_empty())
            && (!args.mine || somebody(lock, |process| process.uid == me))
            && args.pid.is_none_or(|pid| has_pid(lock, pid))
            && args.user.as_ref().is_none_or(|user| {
                somebody(lock, |process| {
                    process.user() == *user || process.uid.to_string() == *user
                })
            })
    };
    for file in &mut table.files {
        file.locks.retain(is_wanted);
    }
    table.files.retain(|file| !file.locks.is_empty());
    sort(&mut table.files, args.sort);
    Ok(table)
}

/// Whether it is a number, or a name in `/etc/passwd`, from where the names that are shown come.
fn is_user(user: &str) -> bool {
    let passwd = std::fs::read("/etc/passwd").unwrap_or_default();
    let mut names = passwd
        .split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b':').next().unwrap_or_default());
    user.parse::<u32>().is_ok() || !user.is_empty() && names.any(|name| name == user.as_bytes())
}

/// Whether a holder or waiter is such a process.
fn somebody(lock: &Lock, mut is_such: impl FnMut(&Process) -> bool) -> bool {
    let holders = lock.holders.iter().filter_map(|holder| holder.process.as_ref());
    let waiters = lock.waiters.iter().filter_map(|waiter| waiter.process.as_ref());
    holders.chain(waiters).any(|process| !process.ended && is_such(process))
}

fn has_pid(lock: &Lock, pid: u32) -> bool {
    lock.holders.iter().filter_map(Holder::pid).any(|holder| holder == pid)
        || lock.waiters.iter().filter_map(Waiter::pid).any(|waiter| waiter == pid)
}

/// Keeps the files at these paths, and below those that are directories.
fn restrict(table: &mut LockTable, paths: &[PathBuf]) -> Result<(), Failure> {
    let mut kept = vec![false; table.files.len()];
    for path in paths {
        keep(table, path, &mut kept)?;
    }
    let mut kept = kept.into_iter();
    table.files.retain(|_| kept.next().unwrap_or(true));
    Ok(())
}

fn keep(table: &mut LockTable, path: &Path, kept: &mut Vec<bool>) -> Result<(), Failure> {
    let inode = match Inode::of(path) {
        Ok(inode) => inode,
        // A file that was deleted under its holders has this path still, in the table.
        Err(error) => {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
            let mut found = false;
            for (file, kept) in table.files.iter().zip(kept) {
                let is_it = file.deleted && file.path.as_deref() == Some(&absolute);
                *kept |= is_it;
                found |= is_it;
            }
            return if found { Ok(()) } else { Err(Failure::of_look(&error)) };
        }
    };
    let mut directory = Directory::at(path);
    let mut found = false;
    let mut nameless = Vec::new();
    for (file, kept) in table.files.iter_mut().zip(kept.iter_mut()) {
        if file.inode == inode {
            found = true;
            *kept = true;
            // It was named by whoever asks.
            file.path
                .get_or_insert_with(|| std::path::absolute(path).unwrap_or_else(|_| path.into()));
        }
        match (&mut directory, &file.path) {
            (Some(directory), Some(path)) => {
                // Another filesystem is not asked: it may not answer.
                *kept |= path.starts_with(&directory.path)
                    || is_beside(file.inode, inode) && directory.is_above(path);
            }
            (Some(_), None) if is_beside(file.inode, inode) => nameless.push((file, kept)),
            _ => {}
        }
    }
    if let Some(directory) = &directory
        && !nameless.is_empty()
    {
        directory.name(&mut nameless);
    }
    if !found && table.gaps.hidden {
        // One file can be tried; see `LockTable::of`.
        let tried = LockTable::of_thoroughly(path).map_err(|error| Failure::of_look(&error))?;
        kept.extend(tried.files.iter().map(|_| true));
        table.files.extend(tried.files);
    }
    Ok(())
}

/// A directory, and what is known of others: whether they lie below it.
struct Directory {
    path: PathBuf,
    /// Device and inode, by which it is known by whatever path.
    itself: (u64, u64),
    others: HashMap<PathBuf, bool>,
}

impl Directory {
    fn at(path: &Path) -> Option<Self> {
        let path = std::fs::canonicalize(path).ok()?;
        let found = std::fs::metadata(&path).ok().filter(Metadata::is_dir)?;
        Some(Self { path, itself: (found.dev(), found.ino()), others: HashMap::new() })
    }

    /// Whether the path leads through it, perhaps by another name: where it is mounted a second time, it is
    /// the same directory.
    fn is_above(&mut self, path: &Path) -> bool {
        let Some(parent) = path.parent() else { return false };
        if let Some(&known) = self.others.get(parent) {
            return known;
        }
        let found = std::fs::metadata(parent).map(|found| (found.dev(), found.ino()));
        let is_it = found.is_ok_and(|found| found == self.itself) || self.is_above(parent);
        self.others.insert(parent.to_path_buf(), is_it);
        is_it
    }

    /// Finds the paths of files of whose holders none may be looked at, by reading the directories. What is
    /// not found stays without a path, and is kept if it may yet be there: not everything could be read.
    fn name(&self, files: &mut [(&mut LockedFile, &mut bool)]) {
        /// More entries are not read.
        const MOST: usize = 200_000;
        let mut left = MOST;
        let mut is_whole = true;
        let mut open = vec![self.path.clone()];
        while let Some(directory) = open.pop() {
            let Ok(entries) = std::fs::read_dir(&directory) else {
                is_whole = false;
                continue;
            };
            for entry in entries {
                let (Ok(entry), Some(rest)) = (entry, left.checked_sub(1)) else {
                    is_whole = false;
                    break;
                };
                left = rest;
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    // What is mounted there is searched only if it is asked for.
                    let device = entry.metadata().map(|found| found.dev());
                    if device.is_ok_and(|device| device == self.itself.0) {
                        open.push(entry.path());
                    } else {
                        is_whole = false;
                    }
                }
                let of_that_number =
                    |file: &LockedFile| file.path.is_none() && file.inode.number == entry.ino();
                for (file, kept) in files.iter_mut().filter(|(file, _)| of_that_number(file)) {
                    if names(&entry.path(), file.inode) {
                        file.path = Some(entry.path());
                        **kept = true;
                    }
                }
            }
        }
        for (_, kept) in files.iter_mut().filter(|(file, _)| file.path.is_none()) {
            **kept |= !is_whole;
        }
    }
}

/// Whether both are on one filesystem.
fn is_beside(one: Inode, other: Inode) -> bool {
    (one.major, one.minor) == (other.major, other.minor)
}

/// Whether the path is that of the inode, and not of a link to it.
fn names(path: &Path, inode: Inode) -> bool {
    !path.is_symlink() && Inode::of(path).is_ok_and(|found| found == inode)
}

fn sort(files: &mut [LockedFile], key: SortKey) {
    let first = |file: &LockedFile| {
        let mut holders = file.locks.iter().flat_map(|lock| &lock.holders);
        holders.find_map(|holder| holder.process.clone())
    };
    match key {
        SortKey::Kernel => {}
        SortKey::Path => {
            files.sort_by(|a, b| {
                (a.path.is_none(), &a.path, a.inode).cmp(&(b.path.is_none(), &b.path, b.inode))
            });
        }
        SortKey::Pid => {
            files.sort_by_cached_key(|file| first(file).map_or(u32::MAX, |process| process.pid));
        }
        SortKey::User => files.sort_by_cached_key(|file| {
            let user = first(file).filter(|process| !process.ended).map(|process| process.user());
            (user.is_none(), user)
        }),
        SortKey::Waiters => files.sort_by_cached_key(|file| {
            Reverse(file.locks.iter().map(|lock| lock.waiters.len()).sum::<usize>())
        }),
    }
}

fn for_people(table: &LockTable, args: &LsArgs, screen: &Screen) -> String {
    let mut rows = Rows::default();
    for file in &table.files {
        let mut heading = show::file_name(file.path.as_deref(), file.inode);
        if file.deleted {
            heading.push_str(" (deleted)");
        }
        show::add_file(&mut rows, file, &heading);
    }
    if rows.is_empty() {
        let asked = args.waiting || args.mine || args.pid.is_some() || args.user.is_some();
        let none = if asked || !args.paths.is_empty() { "no such locks" } else { "no locks" };
        rows.text(Style::Plain, format!("{none}{}", show::as_far_as_seen(&table.gaps)));
    }
    rows.render(screen)
}

#[derive(Serialize)]
struct Body {
    files: Vec<FileJson>,
    gaps: GapsJson,
}

fn in_json(table: &LockTable) -> Result<String, Failure> {
    let files = Teller::default().files(&table.files);
    json::document("ls", Body { files, gaps: (&table.gaps).into() })
}
