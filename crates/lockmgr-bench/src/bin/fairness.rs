//! Fairness: who gets how much of a lock that everybody wants all the time, and how long the unlucky
//! wait.
//!
//! The first table: processes that take the lock, work for a millisecond, release it and come back at
//! once. The second: a writer that comes now and then, among readers that overlap each other, so that
//! the lock is never free of them by itself. The rows take turns, and what is reported of each is the
//! median of its runs. Work is sleep, so that two cores can play eight processes; a section that
//! sleeps lets the waiters wake up meanwhile, which is how critical sections mostly are, and is no
//! harder on plain `flock` than one that computes.
#![expect(clippy::disallowed_methods, reason = "the raw calls are what lockmgr is compared with")]

use std::env;
use std::io::{Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use lockmgr::FileLock;
use lockmgr_bench::{
    Turns, median, nanoseconds, now, open_plain, print_head, print_row, ratio, time,
};
use rustix::fs::{FlockOperation, flock};

/// The order is the one of the tables; the first is the baseline.
const ROWS: [(&str, Kind); 3] =
    [("raw system calls", Kind::Raw), ("lockmgr", Kind::Plain), ("**lockmgr**, fair", Kind::Fair)];

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Raw,
    Plain,
    Fair,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Exclusive,
    Reader,
    Writer,
}

#[derive(Parser)]
struct Args {
    /// How long one run of one row lasts, in seconds
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How many runs of each row
    #[arg(long, default_value_t = 5)]
    runs: usize,
    #[arg(long, default_value_t = 8)]
    processes: usize,
    /// How long a critical section lasts, in milliseconds
    #[arg(long, default_value_t = 1.0)]
    section: f64,
    /// How long a reader stays, in milliseconds
    #[arg(long, default_value_t = 20.0)]
    read: f64,
    /// Sleep in the section instead of computing
    #[arg(long)]
    sleep: bool,
    /// Be one of the processes, on this lock file
    #[arg(long, hide = true, requires_all = ["kind", "part"])]
    lock: Option<PathBuf>,
    #[arg(long, hide = true)]
    kind: Option<Kind>,
    #[arg(long, hide = true)]
    part: Option<Part>,
}

impl Args {
    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn section(&self, part: Part) -> Duration {
        let milliseconds = match part {
            Part::Reader => self.read,
            Part::Exclusive | Part::Writer => self.section,
        };
        Duration::from_secs_f64(milliseconds / 1000.0)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    match (&args.lock, args.kind, args.part) {
        (Some(path), Some(kind), Some(part)) => play(&args, path, kind, part),
        _ => measure(&args),
    }
}

fn measure(args: &Args) -> Result<()> {
    let mut crowds = vec![Crowd::default(); ROWS.len()];
    let mut mixed = vec![Mixed::default(); ROWS.len()];
    let mut turns = Turns::of(ROWS.len());
    for _ in 0..args.runs {
        for row in turns.next_round() {
            let kind = ROWS[row].1;
            crowds[row].add(args, &run(args, kind, &vec![Part::Exclusive; args.processes])?)?;
            let mut parts = vec![Part::Reader; 4];
            parts.push(Part::Writer);
            mixed[row].add(&run(args, kind, &parts)?);
        }
    }

    let crowd = format!("{} processes, sections of {} ms", args.processes, args.section);
    print_head(
        &format!("Fairness: {crowd}"),
        &[
            "lock",
            "smallest/largest share",
            "longest wait",
            "against raw",
            "throughput",
            "against raw",
        ],
    );
    let baseline = crowds[0].medians();
    for ((name, _), crowd) in ROWS.iter().zip(&mut crowds) {
        let [share, wait, throughput] = crowd.medians();
        print_row([
            *name,
            &format!("{share:.2}"),
            &time(wait),
            &ratio(wait, baseline[1]),
            &format!("{throughput:.0}/s"),
            &ratio(throughput, baseline[2]),
        ]);
    }
    // Between two tables.
    stdout().write_all(b"\n")?;
    print_head(
        &format!("A writer among 4 overlapping readers that stay {} ms", args.read),
        &["lock", "the writer's longest wait", "against the longest read", "reads", "writes"],
    );
    for ((name, _), mixed) in ROWS.iter().zip(&mut mixed) {
        let [wait, read, reads, writes] = mixed.medians();
        print_row([
            *name,
            &time(wait),
            &ratio(wait, read),
            &format!("{reads:.0}"),
            &format!("{writes:.0}"),
        ]);
    }
    Ok(())
}

/// What one process tells: how often it was inside, its longest wait, and its longest section.
#[derive(Clone, Copy)]
struct Report {
    part: Part,
    count: f64,
    longest_wait: f64,
    longest_section: f64,
}

#[derive(Clone, Default)]
struct Crowd([Vec<f64>; 3]);

impl Crowd {
    fn add(&mut self, args: &Args, reports: &[Report]) -> Result<()> {
        let counts = || reports.iter().map(|report| report.count);
        let (least, most) = (counts().fold(f64::MAX, f64::min), counts().fold(0.0, f64::max));
        ensure!(most > 0.0, "nobody ever got the lock");
        let waits = reports.iter().map(|report| report.longest_wait);
        self.0[0].push(least / most);
        self.0[1].push(waits.fold(0.0, f64::max));
        self.0[2].push(counts().sum::<f64>() / args.seconds);
        Ok(())
    }

    fn medians(&mut self) -> [f64; 3] {
        self.0.each_mut().map(|samples| median(samples))
    }
}

#[derive(Clone, Default)]
struct Mixed([Vec<f64>; 4]);

impl Mixed {
    fn add(&mut self, reports: &[Report]) {
        let (mut wait, mut read, mut reads, mut writes) = (0.0_f64, 0.0_f64, 0.0, 0.0);
        for report in reports {
            if let Part::Writer = report.part {
                wait = wait.max(report.longest_wait);
                writes += report.count;
            } else {
                read = read.max(report.longest_section);
                reads += report.count;
            }
        }
        for (samples, value) in self.0.iter_mut().zip([wait, read, reads, writes]) {
            samples.push(value);
        }
    }

    fn medians(&mut self) -> [f64; 4] {
        self.0.each_mut().map(|samples| median(samples))
    }
}

/// Lets processes play these parts on one lock, all from the same moment on.
fn run(args: &Args, kind: Kind, parts: &[Part]) -> Result<Vec<Report>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("fairness.lock");
    open_plain(&path)?;
    let mut players: Vec<Player> =
        parts.iter().map(|part| Player::start(args, &path, kind, *part)).collect::<Result<_>>()?;
    for player in &mut players {
        player.read::<1>().context("a process did not start")?;
    }
    let begin = now() + Duration::from_millis(20);
    for player in &mut players {
        player.tell(begin)?;
    }
    players.iter_mut().map(Player::report).collect()
}

struct Player {
    part: Part,
    process: Child,
}

impl Player {
    fn start(args: &Args, path: &Path, kind: Kind, part: Part) -> Result<Self> {
        let word = |value: &dyn ToString| value.to_string();
        let value = |name: Option<clap::builder::PossibleValue>| {
            name.map(|name| name.get_name().to_owned()).unwrap_or_default()
        };
        let mut command = Command::new(env::current_exe()?);
        command.arg("--lock").arg(path);
        command.args(["--kind", &value(kind.to_possible_value())]);
        command.args(["--part", &value(part.to_possible_value())]);
        command.args(["--seconds", &word(&args.seconds), "--section", &word(&args.section)]);
        command.args(["--read", &word(&args.read)]);
        if args.sleep {
            command.arg("--sleep");
        }
        let process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self { part, process })
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        let output = self.process.stdout.as_mut().context("stdout is piped")?;
        output.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn tell(&mut self, moment: Duration) -> Result<()> {
        let input = self.process.stdin.as_mut().context("stdin is piped")?;
        input.write_all(&u64::try_from(moment.as_nanos())?.to_ne_bytes())?;
        Ok(input.flush()?)
    }

    fn report(&mut self) -> Result<Report> {
        let mut number = || -> Result<f64> {
            Ok(f64::from_ne_bytes(self.read().context("a process has failed")?))
        };
        let [count, longest_wait, longest_section] = [number()?, number()?, number()?];
        Ok(Report { part: self.part, count, longest_wait, longest_section })
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// One of the processes.
fn play(args: &Args, path: &Path, kind: Kind, part: Part) -> Result<()> {
    let file = open_plain(path)?;
    let lock = FileLock::options().fair(matches!(kind, Kind::Fair)).open(path)?;
    stdout().write_all(b"r")?;
    stdout().flush()?;
    let mut begin = [0; 8];
    stdin().read_exact(&mut begin)?;
    let begin = Duration::from_nanos(u64::from_ne_bytes(begin));
    thread::sleep(begin.saturating_sub(now()));

    let section = args.section(part);
    let end = Instant::now() + args.length();
    let (mut count, mut longest_wait, mut longest_section) = (0.0, Duration::ZERO, Duration::ZERO);
    while Instant::now() < end {
        let asked = Instant::now();
        let operation = match part {
            Part::Reader => FlockOperation::LockShared,
            Part::Exclusive | Part::Writer => FlockOperation::LockExclusive,
        };
        let guard = match (kind, part) {
            (Kind::Raw, _) => {
                flock(&file, operation)?;
                None
            }
            (_, Part::Reader) => Some(lock.lock_shared()?),
            _ => Some(lock.lock()?),
        };
        let inside = Instant::now();
        work(section, args.sleep || !matches!(part, Part::Exclusive));
        longest_section = longest_section.max(inside.elapsed());
        match guard {
            // As cheap a release as the raw one: without looking whether the file was replaced.
            Some(guard) => drop(guard),
            None => flock(&file, FlockOperation::Unlock)?,
        }
        // Who is still waiting when the time is over has waited at least until then.
        longest_wait = longest_wait.max(inside.min(end).saturating_duration_since(asked));
        if inside < end {
            count += 1.0;
        }
        if let Part::Writer = part {
            thread::sleep(section * 50);
        }
    }
    for number in [count, nanoseconds(longest_wait), nanoseconds(longest_section)] {
        stdout().write_all(&number.to_ne_bytes())?;
    }
    Ok(stdout().flush()?)
}

fn work(section: Duration, sleep: bool) {
    if sleep {
        return thread::sleep(section);
    }
    let end = Instant::now() + section;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}
