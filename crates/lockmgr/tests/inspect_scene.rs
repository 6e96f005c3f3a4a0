//! What the table of locks shows is what is: real holders and waiters of every kind, compared pid by
//! pid, thread by thread, descriptor by descriptor.

mod support;

use std::fmt::Write;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use lockmgr::inspect::{Lock, LockTable, LockedFile};
use support::puppet::{PUPPET, Puppet};
use support::raw::take_lock;
use support::{Worker, say, sees_all_locks, serve};
use tempfile::TempDir;

#[test]
fn worker() {
    serve(&[PUPPET, ("on fd 0", on_fd_0)]);
}

fn on_fd_0(_: &[String]) {
    take_lock(0, lockmgr::Mechanism::Flock, lockmgr::Mode::Exclusive, (0, 0), false).unwrap();
    say("held");
    loop {
        std::thread::park();
    }
}

/// A place with lock files.
struct Stage(TempDir);

impl Stage {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        // As the kernel spells it, without links on the way.
        self.0.path().canonicalize().unwrap().join(name)
    }
}

/// One line for each lock: `kind mode range: pid/fd standing, … < depth:pid/tid/fd mode range, …`
fn shown(lock: &Lock) -> String {
    let number = |number: Option<u32>| number.map_or("?".to_owned(), |number| number.to_string());
    let holders: Vec<String> = lock
        .holders
        .iter()
        .map(|h| format!("{}/{} {}", number(h.pid()), number(h.descriptor), h.standing))
        .collect();
    let mut text = format!("{} {} {}: {}", lock.kind, lock.mode, lock.range, holders.join(", "));
    for (index, waiter) in lock.waiters.iter().enumerate() {
        text += if index == 0 { " < " } else { ", " };
        write!(
            text,
            "{}:{}/{}/{} {} {}{}",
            waiter.depth,
            number(waiter.pid()),
            number(waiter.thread),
            number(waiter.descriptor),
            waiter.mode,
            waiter.range,
            if waiter.interchangeable { " or another" } else { "" },
        )
        .unwrap();
    }
    text
}

fn all_shown(file: &LockedFile) -> Vec<String> {
    // The kernel keeps a list for each processor, so there is no order among a file's locks.
    let mut lines: Vec<String> = file.locks.iter().map(shown).collect();
    lines.sort();
    lines
}

/// A table that is true of one moment. Where many locks come and go, the kernel's own loses some.
fn whole_snapshot() -> LockTable {
    const TRIES: usize = 20;
    let taken = || LockTable::snapshot().unwrap();
    (0..TRIES).map(|_| taken()).find(|table| !table.gaps.pieced_together).unwrap_or_else(taken)
}

fn in_snapshot(number: u64) -> LockedFile {
    let table = whole_snapshot();
    let mut found = table.files.into_iter().filter(|file| file.inode.number == number);
    let file = found.next().expect("the file is in the table");
    assert!(found.next().is_none(), "one file, one entry");
    file
}

/// Checks what every way of looking shows.
fn expect(path: &Path, mut lines: Vec<String>) {
    expect_thoroughly(path, lines.clone());
    lines.sort();
    assert_eq!(all_shown(&LockTable::of(path).unwrap().files[0]), lines, "of");
}

/// Checks what is shown by those ways of looking that find all heirs.
fn expect_thoroughly(path: &Path, mut lines: Vec<String>) {
    lines.sort();
    let file = in_snapshot(fs::metadata(path).unwrap().ino());
    assert_eq!(all_shown(&file), lines, "snapshot");
    assert_eq!(file.path.as_deref(), Some(path));
    assert!(!file.deleted);
    let table = LockTable::of_thoroughly(path).unwrap();
    assert_eq!(all_shown(&table.files[0]), lines, "of_thoroughly");
    assert_eq!(table.files[0].path.as_deref(), Some(path));
    assert_eq!(table.files.len(), 1);
}

#[test]
fn every_mechanism_and_mode() {
    let stage = Stage::new();
    for mechanism in ["flock", "ofd", "posix"] {
        for (word, mode) in [("sh", "shared"), ("ex", "exclusive")] {
            let path = stage.path(&format!("{mechanism}-{mode}"));
            let (holder, fd) = Puppet::holding(&path, &format!("{mechanism} {word}"));
            let mut waiter = Puppet::new();
            let asked = waiter.open(&path);
            let thread = waiter.ask(asked, &format!("{mechanism} ex"));
            let (pid, other) = (holder.pid(), waiter.pid());
            expect(
                &path,
                vec![format!(
                    "{mechanism} {mode} 0+EOF: {pid}/{fd} verified \
                     < 1:{other}/{thread}/{asked} exclusive 0+EOF"
                )],
            );
            let table = LockTable::of(&path).unwrap();
            let process = table.files[0].locks[0].holders[0].process.as_ref().unwrap();
            assert!(process.command_line(500).contains("worker --exact --nocapture"));
            assert!(process.is_still_there());
        }
    }
}

#[test]
fn nothing_on_a_file_is_nothing_in_the_table() {
    let stage = Stage::new();
    let path = stage.path("free");
    fs::write(&path, "").unwrap();
    assert!(LockTable::of(&path).unwrap().files.is_empty());
    assert!(LockTable::of_thoroughly(&path).unwrap().files.is_empty());
    let number = fs::metadata(&path).unwrap().ino();
    assert!(LockTable::snapshot().unwrap().files.iter().all(|file| file.inode.number != number));
    assert!(LockTable::of(stage.path("none")).is_err());
}

#[test]
fn ranges_end_where_they_end() {
    let stage = Stage::new();
    let path = stage.path("ranges");
    let (mut first, fd) = Puppet::holding(&path, "ofd ex 0 10");
    first.take(fd, "ofd sh 100 0");
    let (second, other_fd) = Puppet::holding(&path, "posix ex 50 1");
    let mut waiter = Puppet::new();
    let asked = waiter.open(&path);
    let thread = waiter.ask(asked, "posix ex 5 20");
    let far = waiter.ask(asked, "ofd ex 4611686018427387000 7");
    let (pid, other, waits) = (first.pid(), second.pid(), waiter.pid());
    expect(
        &path,
        vec![
            format!(
                "ofd exclusive 0+10: {pid}/{fd} verified \
                 < 1:{waits}/{thread}/{asked} exclusive 5+20"
            ),
            format!(
                "ofd shared 100+EOF: {pid}/{fd} verified \
                 < 1:{waits}/{far}/{asked} exclusive 4611686018427387000+7"
            ),
            format!("posix exclusive 50+1: {other}/{other_fd} verified"),
        ],
    );
}

#[test]
fn two_mechanisms_on_one_inode() {
    let stage = Stage::new();
    let path = stage.path("two");
    let (mut holder, fd) = Puppet::holding(&path, "flock ex");
    let second = holder.open(&path);
    holder.take(second, "ofd ex");
    let pid = holder.pid();
    expect(
        &path,
        vec![
            format!("flock exclusive 0+EOF: {pid}/{fd} verified"),
            format!("ofd exclusive 0+EOF: {pid}/{second} verified"),
        ],
    );
}

#[test]
fn heirs_of_the_dead() {
    if !sees_all_locks() {
        return;
    }
    let stage = Stage::new();
    for mechanism in ["flock", "ofd"] {
        let path = stage.path(mechanism);
        let (mut holder, fd) = Puppet::holding(&path, &format!("{mechanism} ex"));
        let (first, second) = (holder.heir(), holder.heir());
        let (pid, one, other) = (holder.pid(), first.0, second.0);
        expect_thoroughly(
            &path,
            vec![format!(
                "{mechanism} exclusive 0+EOF: \
                 {pid}/{fd} verified, {one}/{fd} inherited, {other}/{fd} inherited"
            )],
        );
        holder.kill();
        let left = match mechanism {
            "flock" => {
                format!("{pid}/? gone, {one}/{fd} inherited, {other}/{fd} inherited")
            }
            // The kernel does not say who took it, and neither descends from the other.
            _ => format!("{one}/{fd} unclear, {other}/{fd} unclear"),
        };
        expect_thoroughly(&path, vec![format!("{mechanism} exclusive 0+EOF: {left}")]);
        // The quick look stops at the first of them.
        let quick = LockTable::of(&path).unwrap();
        let holders = &quick.files[0].locks[0].holders;
        assert!(holders.iter().any(|h| [Some(one), Some(other)].contains(&h.pid())), "{holders:?}");
        if mechanism == "flock" {
            let gone = &holders[0];
            assert!(gone.process.as_ref().unwrap().ended, "{gone:?}");
        }
    }
}

#[test]
fn who_let_go_of_the_description_is_not_its_holder() {
    let stage = Stage::new();
    let path = stage.path("handed over");
    let (mut taker, fd) = Puppet::holding(&path, "flock ex");
    let heir = taker.heir();
    taker.close(fd);
    let (pid, other) = (taker.pid(), heir.0);
    expect(&path, vec![format!("flock exclusive 0+EOF: {pid}/? gone, {other}/{fd} inherited")]);
    let table = LockTable::of(&path).unwrap();
    // It is older than the heir, so it is the one that the kernel has recorded.
    let process = table.files[0].locks[0].holders[0].process.as_ref().unwrap();
    assert!(process.is_still_there() && process.command_line(500).contains("worker"));
}

#[test]
fn standard_input() {
    let stage = Stage::new();
    let path = stage.path("fd 0");
    let file = File::create(&path).unwrap();
    let holder = Worker::spawn_with("on fd 0", &[], |command| {
        command.stdin(file);
    });
    holder.expect("held");
    expect(&path, vec![format!("flock exclusive 0+EOF: {}/0 verified", holder.pid())]);
}

#[test]
fn deleted_files_and_those_that_look_it() {
    let stage = Stage::new();
    // A name that ends like that of a removed file, and the removed file that is then told alike.
    let (odd, plain) = (stage.path("x (deleted)"), stage.path("x"));
    let (odd_holder, odd_fd) = Puppet::holding(&odd, "flock ex");
    let (holder, fd) = Puppet::holding(&plain, "flock ex");
    let number = fs::metadata(&plain).unwrap().ino();
    fs::remove_file(&plain).unwrap();
    expect(&odd, vec![format!("flock exclusive 0+EOF: {}/{odd_fd} verified", odd_holder.pid())]);
    let file = in_snapshot(number);
    assert_eq!((file.path.as_deref(), file.deleted), (Some(&*plain), true));
    assert_eq!(
        all_shown(&file),
        [format!("flock exclusive 0+EOF: {}/{fd} verified", holder.pid())]
    );
    // Another file of that name has no part in it.
    fs::write(&plain, "").unwrap();
    assert!(LockTable::of(&plain).unwrap().files.is_empty());
    let both = stage.path("x (deleted) (deleted)");
    let (_third, _) = Puppet::holding(&both, "flock ex");
    let number = fs::metadata(&both).unwrap().ino();
    fs::remove_file(&both).unwrap();
    let file = in_snapshot(number);
    assert_eq!((file.path, file.deleted), (Some(both), true));
}

#[test]
fn names_of_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let stage = Stage::new();
    let path = stage.path("").join(std::ffi::OsStr::from_bytes(b"a\n\x1b[2J\xff b"));
    let file = File::create(&path).unwrap();
    take_lock(file.as_raw_fd(), lockmgr::Mechanism::Ofd, lockmgr::Mode::Exclusive, (0, 0), false)
        .unwrap();
    let me = std::process::id();
    expect(&path, vec![format!("ofd exclusive 0+EOF: {me}/{} verified", file.as_raw_fd())]);
}

#[test]
fn hard_links_are_one_file() {
    let stage = Stage::new();
    let (one, other) = (stage.path("one"), stage.path("other"));
    let (holder, fd) = Puppet::holding(&one, "flock ex");
    fs::hard_link(&one, &other).unwrap();
    let line = format!("flock exclusive 0+EOF: {}/{fd} verified", holder.pid());
    expect(&one, vec![line.clone()]);
    let table = LockTable::of(&other).unwrap();
    assert_eq!(all_shown(&table.files[0]), [line]);
    assert_eq!(table.files[0].path, Some(other));
}

#[test]
fn waiters_in_the_order_of_the_queue() {
    let stage = Stage::new();
    let path = stage.path("queue");
    let (holder, fd) = Puppet::holding(&path, "flock ex");
    let mut line = format!("flock exclusive 0+EOF: {}/{fd} verified", holder.pid());
    let mut waiters = Vec::new();
    for depth in 1..=4 {
        let mut waiter = Puppet::new();
        let fd = waiter.open(&path);
        let thread = waiter.ask(fd, "flock ex");
        line += if depth == 1 { " < " } else { ", " };
        write!(line, "{depth}:{}/{thread}/{fd} exclusive 0+EOF", waiter.pid()).unwrap();
        waiters.push(waiter);
    }
    expect(&path, vec![line]);
}

#[test]
fn waiters_behind_waiters_of_record_locks() {
    let stage = Stage::new();
    let path = stage.path("tree");
    let (holder, fd) = Puppet::holding(&path, "posix ex 0 100");
    let ask = |lock: &str| {
        let mut waiter = Puppet::new();
        let fd = waiter.open(&path);
        let thread = waiter.ask(fd, lock);
        (format!("{}/{thread}/{fd}", waiter.pid()), waiter)
    };
    let (first, _first) = ask("posix ex 0 10");
    let (behind, _behind) = ask("ofd sh 5 1");
    let (beside, _beside) = ask("ofd sh 50 1");
    expect(
        &path,
        vec![format!(
            "posix exclusive 0+100: {}/{fd} verified < 1:{first} exclusive 0+10, \
             2:{behind} shared 5+1, 1:{beside} shared 50+1",
            holder.pid()
        )],
    );
}

#[test]
fn threads_of_one_process_that_wait_for_ofd_locks() {
    let stage = Stage::new();
    let (one, other) = (stage.path("one"), stage.path("other"));
    let (holder, fd) = Puppet::holding(&one, "ofd ex");
    let (other_holder, other_fd) = Puppet::holding(&other, "ofd ex 0 9");
    let mut waiter = Puppet::new();
    let (asked, other_asked) = (waiter.open(&one), waiter.open(&other));
    waiter.idle();
    let (first, second) = (waiter.ask(asked, "ofd ex 3 4"), waiter.ask(other_asked, "ofd sh 0 5"));
    // Those that ask alike cannot be told apart from their lines.
    let pid = waiter.pid();
    expect(
        &one,
        vec![format!(
            "ofd exclusive 0+EOF: {}/{fd} verified < 1:{pid}/{first}/{asked} exclusive 3+4",
            holder.pid()
        )],
    );
    expect(
        &other,
        vec![format!(
            "ofd exclusive 0+9: {}/{other_fd} verified < 1:{pid}/{second}/{other_asked} shared 0+5",
            other_holder.pid()
        )],
    );
    let third = waiter.ask(asked, "ofd ex 3 4");
    let shown = all_shown(&LockTable::of(&one).unwrap().files[0]).join("\n");
    for thread in [first, third] {
        let named = format!("{pid}/{thread}/{asked} exclusive 3+4 or another");
        assert!(shown.contains(&named), "{named} in {shown}");
    }
}

#[test]
fn locks_that_are_told_alike() {
    let stage = Stage::new();
    // Two processes, two descriptions; and a copy in each, which is no other lock.
    let path = stage.path("ofd");
    let (mut first, fd) = Puppet::holding(&path, "ofd sh");
    first.dup(fd);
    let (mut second, other_fd) = Puppet::holding(&path, "ofd sh");
    second.dup(other_fd);
    let heir = second.heir();
    let mut lines = vec![
        format!("ofd shared 0+EOF: {}/{fd} verified", first.pid()),
        format!(
            "ofd shared 0+EOF: {}/{other_fd} verified, {}/{other_fd} inherited",
            second.pid(),
            heir.0
        ),
    ];
    expect_thoroughly(&path, lines.clone());
    // The quick look finds somebody for each of the two.
    let quick = LockTable::of(&path).unwrap();
    assert_eq!(quick.files[0].locks.len(), 2);
    for lock in &quick.files[0].locks {
        assert!(lock.holders[0].pid().is_some(), "{lock:?}");
    }
    // Two descriptions of one process.
    let path = stage.path("flock");
    let (mut holder, fd) = Puppet::holding(&path, "flock sh");
    let second = holder.open(&path);
    holder.take(second, "flock sh");
    let pid = holder.pid();
    lines = vec![
        format!("flock shared 0+EOF: {pid}/{fd} verified"),
        format!("flock shared 0+EOF: {pid}/{second} verified"),
    ];
    expect(&path, lines);
}

#[test]
fn siblings_that_share_a_description() {
    let stage = Stage::new();
    let path = stage.path("siblings");
    let mut parent = Puppet::new();
    let fd = parent.open(&path);
    let (one, other) = (parent.heir(), parent.heir());
    parent.take(fd, "ofd ex");
    // All have it, and the parent is the one from whom the others descend.
    expect_thoroughly(
        &path,
        vec![format!(
            "ofd exclusive 0+EOF: {}/{fd} verified, {}/{fd} inherited, {}/{fd} inherited",
            parent.pid(),
            one.0,
            other.0
        )],
    );
}

#[test]
fn leases() {
    if !sees_all_locks() {
        return;
    }
    let stage = Stage::new();
    let path = stage.path("leased");
    fs::write(&path, "").unwrap();
    let mut holder = Puppet::new();
    let fd = holder.lease(&path);
    let pid = holder.pid();
    expect(&path, vec![format!("lease exclusive 0+EOF: {pid}/{fd} verified")]);
    // Looking has not broken it.
    expect(&path, vec![format!("lease exclusive 0+EOF: {pid}/{fd} verified")]);
}

#[test]
fn conversions_wait_for_the_others_only() {
    let stage = Stage::new();
    let path = stage.path("conversion");
    let (mut upgrades, fd) = Puppet::holding(&path, "ofd sh");
    let copy = upgrades.dup(fd);
    let (reader, other_fd) = Puppet::holding(&path, "ofd sh");
    let thread = upgrades.ask(copy, "ofd ex");
    let (pid, other) = (upgrades.pid(), reader.pid());
    expect(
        &path,
        vec![
            format!("ofd shared 0+EOF: {pid}/{fd} verified"),
            format!(
                "ofd shared 0+EOF: {other}/{other_fd} verified \
                 < 1:{pid}/{thread}/{copy} exclusive 0+EOF"
            ),
        ],
    );
    assert_eq!(LockTable::snapshot().unwrap().of_ours(&stage), Vec::<String>::new());
}

/// Deadlocks among the files of a stage.
trait OfOurs {
    fn of_ours(&self, stage: &Stage) -> Vec<String>;
}

impl OfOurs for LockTable {
    fn of_ours(&self, stage: &Stage) -> Vec<String> {
        let here = stage.path("");
        let mut found = self.deadlocks();
        found.retain(|deadlock| {
            let path = deadlock.links[0].path.as_deref();
            path.is_some_and(|path| path.starts_with(&here))
        });
        found.iter().map(ToString::to_string).collect()
    }
}

struct SetAtTheEnd<'a>(&'a AtomicBool);
impl Drop for SetAtTheEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn processes_that_come_and_go() {
    let stage = Stage::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = SetAtTheEnd(&over);
        for number in 0..2 {
            let path = stage.path(&format!("churn {number}"));
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // Lives for a few milliseconds, under a lock of which it is the heir.
                    let file = File::create(&path).unwrap();
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "whose lock it is does not matter"
                    )]
                    file.lock().unwrap();
                    let status = std::process::Command::new("true").stdin(file).status().unwrap();
                    assert!(status.success());
                }
            });
        }
        let me = std::process::id();
        for _ in 0..200 {
            let table = LockTable::snapshot().unwrap();
            let ours = table.files.iter().filter(|file| {
                file.path.as_ref().is_some_and(|path| path.starts_with(stage.path("")))
            });
            for holder in ours.flat_map(|file| &file.locks).flat_map(|lock| &lock.holders) {
                let Some(process) = &holder.process else { continue };
                let line = process.command_line(500);
                let is_ours = process.pid == me && line.contains("inspect_scene");
                // While it starts and while it ends it has no command line but a name.
                let is_child = process.parent == me
                    && (["true", "[true]"].contains(&&*line) || line.contains("inspect_scene"));
                // What has ended has no command, least of all another one's.
                let is_over = line.is_empty() || process.zombie;
                assert!(is_ours || is_child || is_over, "{holder:?} {line}");
            }
        }
    });
}

#[test]
fn looking_does_not_disturb_the_process_that_looks() {
    let stage = Stage::new();
    let path = stage.path("own");
    let file = File::create(&path).unwrap();
    let fd = file.as_raw_fd();
    take_lock(fd, lockmgr::Mechanism::Posix, lockmgr::Mode::Exclusive, (0, 0), false).unwrap();
    let line = format!("posix exclusive 0+EOF: {}/{fd} verified", std::process::id());
    expect(&path, vec![line.clone()]);
    expect(&path, vec![line]);
}
