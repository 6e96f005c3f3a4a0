//! What looking costs on a busy machine: the list of all locks beside `lslocks`, and who holds one file.
//!
//! The machine is made busy here: 2 000 processes with 16 descriptors each, 5 of which hold a lock on a
//! file of its own, `flock`, `ofd` and `posix` in turn. The files that are asked about are those of
//! processes all over the range of pids, so that nobody profits from where it begins to look. One more
//! process, in the middle, holds an `ofd` lock and no other, so that nothing beside it in the kernel's
//! table hints at it. Each row is a program that is started anew, as a person would.
#![expect(clippy::disallowed_methods, reason = "the raw calls are what is looked at")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _, stdout};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use lockmgr::inspect::LockTable;
use lockmgr::{FileLock, Mechanism};
use lockmgr_bench::{Turns, median, nanoseconds, open_plain, print_head, print_row, ratio, time};
use rustix::fs::{FlockOperation, flock};

const HOLDERS: usize = 2_000;
const LOCKS_EACH: usize = 5;
const DESCRIPTORS_EACH: usize = 16;

#[derive(Parser)]
struct Args {
    /// How often each row is measured
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How many processes hold locks
    #[arg(long, default_value_t = HOLDERS)]
    holders: usize,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is when it starts itself.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Hold { place: PathBuf, number: usize },
    #[command(hide = true)]
    HoldOne { place: PathBuf },
    /// Print all locks
    #[command(hide = true)]
    List,
    /// Print who holds one file
    #[command(hide = true)]
    Who { path: PathBuf },
}

fn main() -> Result<()> {
    let args = Args::parse();
    match args.role {
        Some(Role::Hold { place, number }) => hold(&place, number),
        Some(Role::HoldOne { place }) => hold_one(&place),
        Some(Role::List) => print(&LockTable::snapshot()?),
        Some(Role::Who { path }) => print(&LockTable::of(&path)?),
        None => compare(args.rounds, args.holders),
    }
}

/// The program of a row, for each round.
type ToStart = fn(&Scene<'_>, usize) -> Command;

fn compare(rounds: usize, holders: usize) -> Result<()> {
    let place = tempfile::tempdir()?;
    let scene = Scene::set_up(place.path(), holders)?;
    let has_lslocks = Command::new("lslocks").arg("--version").stdout(Stdio::null()).status();
    ensure!(has_lslocks.is_ok(), "`lslocks` is missing: it comes with util-linux");

    let rows: [(&str, ToStart); 5] = [
        ("`lslocks`", |_, _| Command::new("lslocks")),
        ("lockmgr, all locks", |_, _| own("list")),
        ("lockmgr, one file, flock: the kernel names a live holder", |scene, round| {
            scene.who(round, Mechanism::Flock)
        }),
        (
            "lockmgr, one file, ofd: descriptors are searched, of neighbours in the table first",
            |scene, round| scene.who(round, Mechanism::Ofd),
        ),
        (
            "lockmgr, one file, ofd, all that its process holds: half of all descriptors are searched",
            |scene, _| {
                let mut command = own("who");
                command.arg(single(scene.place));
                command
            },
        ),
    ];
    let mut costs = vec![Vec::new(); rows.len()];
    let mut turns = Turns::of(rows.len());
    // The first round warms up caches, and is not counted.
    for round in 0..=rounds {
        for row in turns.next_round() {
            let mut command = rows[row].1(&scene, round);
            let start = Instant::now();
            let output = command.stderr(Stdio::inherit()).output()?;
            let cost = nanoseconds(start.elapsed());
            ensure!(output.status.success(), "{command:?}: {}", output.status);
            check(row, &output.stdout, place.path(), holders)?;
            if round > 0 {
                costs[row].push(cost);
            }
        }
    }

    let locks = holders * LOCKS_EACH;
    print_head(
        &format!("Looking, with {locks} locks of {holders} processes"),
        &["", "median", "of `lslocks`"],
    );
    let baseline = median(&mut costs[0]);
    for ((name, _), costs) in rows.iter().zip(&mut costs) {
        let cost = median(costs);
        print_row([(*name).to_owned(), time(cost), ratio(cost, baseline)]);
    }
    Ok(())
}

/// A row that finds less than there is would be fast for nothing.
fn check(row: usize, output: &[u8], place: &Path, holders: usize) -> Result<()> {
    let text = String::from_utf8_lossy(output);
    if row == 0 {
        // It knows neither holder nor path of an ofd lock.
        let least = holders * LOCKS_EACH;
        ensure!(text.lines().count() >= least, "lslocks does not show all locks");
        return Ok(());
    }
    let place = place.to_string_lossy();
    // There may be others on this machine.
    let ours = || text.lines().filter(|line| line.contains(&*place));
    let expected = if row == 1 { holders * LOCKS_EACH + 1 } else { 1 };
    ensure!(ours().count() == expected, "row {row} has {} lines", ours().count());
    let verified = ours().filter(|line| line.contains(" verified ")).count();
    ensure!(verified == expected, "row {row} knows {verified} holders of {expected}");
    Ok(())
}

/// This program in another role.
fn own(role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(role);
    command
}

struct Scene<'p> {
    place: &'p Path,
    /// How many hold as many locks as all do.
    count: usize,
    holders: Vec<(Child, ChildStdin)>,
}

impl<'p> Scene<'p> {
    fn set_up(place: &'p Path, count: usize) -> Result<Self> {
        let mut scene = Self { place, count, holders: Vec::new() };
        let program = std::env::current_exe()?;
        let single = (count / 2, vec!["hold-one".to_owned()]);
        let mut all: Vec<_> = (0..count)
            .map(|number| (number, vec!["hold".to_owned(), number.to_string()]))
            .collect();
        all.push(single);
        all.sort_by_key(|(number, _)| *number);
        for (_, mut words) in all {
            words.insert(1, place.to_string_lossy().into_owned());
            let mut child = Command::new(&program)
                .args(words)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start a holder")?;
            let stdin = child.stdin.take().expect("a pipe");
            let mut ready = [0];
            child.stdout.take().expect("a pipe").read_exact(&mut ready)?;
            scene.holders.push((child, stdin));
        }
        Ok(scene)
    }

    /// Asks about a file of that mechanism, another one each time.
    fn who(&self, round: usize, mechanism: Mechanism) -> Command {
        const STRIDE: usize = 617;
        let number = round * STRIDE % self.count;
        let lock = (0..LOCKS_EACH)
            .find(|lock| mechanism_of(number, *lock) == mechanism)
            .expect("each process has all mechanisms");
        let mut command = own("who");
        command.arg(path_of(self.place, number, lock));
        command
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        for (child, stdin) in self.holders.drain(..) {
            let mut child = child;
            // It ends with its standard input.
            drop(stdin);
            child.wait().ok();
        }
    }
}

fn mechanism_of(number: usize, lock: usize) -> Mechanism {
    [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix][(number + lock) % 3]
}

fn path_of(place: &Path, number: usize, lock: usize) -> PathBuf {
    place.join(format!("{number}-{lock}.lock"))
}

fn single(place: &Path) -> PathBuf {
    place.join("single.lock")
}

/// Holds one lock, and as many descriptors as the others.
fn hold_one(place: &Path) -> Result<()> {
    let lock = FileLock::options().mechanism(Mechanism::Ofd).open(single(place))?;
    let _guard = lock.lock()?;
    hold_descriptors(place, Vec::new())
}

/// Holds until standard input ends.
fn hold(place: &Path, number: usize) -> Result<()> {
    let mut kept = Vec::new();
    let mut guards = Vec::new();
    for lock in 0..LOCKS_EACH {
        let path = path_of(place, number, lock);
        match mechanism_of(number, lock) {
            Mechanism::Flock => {
                let file = open_plain(&path)?;
                flock(&file, FlockOperation::NonBlockingLockExclusive)?;
                kept.push(file);
            }
            mechanism => {
                let lock = FileLock::options().mechanism(mechanism).open(&path)?;
                guards.push(lock.acquire().wait_owned()?);
            }
        }
    }
    hold_descriptors(place, kept)
}

/// Opens as many files as there are to be, and keeps them until standard input ends.
fn hold_descriptors(place: &Path, mut kept: Vec<File>) -> Result<()> {
    let log = place.join("log");
    while fs::read_dir("/proc/self/fd")?.count() <= DESCRIPTORS_EACH {
        kept.push(File::options().append(true).create(true).open(&log)?);
    }
    ensure!(kept.iter().all(|file| file.as_raw_fd() >= 0));
    stdout().write_all(b"+")?;
    stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn print(table: &LockTable) -> Result<()> {
    let mut out = std::io::BufWriter::new(stdout().lock());
    for file in &table.files {
        for lock in &file.locks {
            write!(out, "{} {} {}", lock.kind, lock.mode, lock.range)?;
            for holder in &lock.holders {
                write!(out, " {}", holder.standing)?;
                if let Some(process) = &holder.process {
                    let command = process.command_line(60);
                    write!(out, " {} {command} {}", process.pid, process.user())?;
                }
            }
            let path = file.path.as_deref().unwrap_or(Path::new("?"));
            writeln!(out, " {}", path.display())?;
        }
    }
    out.flush()?;
    Ok(())
}
