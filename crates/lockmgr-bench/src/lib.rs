//! What the bench programs share: medians, tables, turns, and a look at who waits in the kernel.
//!
//! Two rules keep the numbers honest on a noisy machine: what is compared is measured in turns within one
//! run, and what is reported are medians and their ratios.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

/// What a baseline is called in every table: the system calls themselves.
pub const RAW: &str = "raw system calls";

/// The least that a path check costs: the baseline and one `stat` of the path.
pub const RAW_AND_STAT: &str = "raw system calls and one `stat`";

/// Returns the median of `samples`, which end up sorted.
///
/// # Panics
/// If there are none.
pub fn median(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    if samples.len() % 2 == 1 {
        samples[middle]
    } else {
        f64::midpoint(samples[middle - 1], samples[middle])
    }
}

/// Returns nanoseconds in the unit that reads best.
#[must_use]
pub fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        ns if ns < 9_999.5 => format!("{ns:.0} ns"),
        ns if ns < 9_999_500.0 => format!("{:.1} µs", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}

/// Returns `value` as a multiple of `baseline`: above 1 is slower.
#[must_use]
pub fn ratio(value: f64, baseline: f64) -> String {
    format!("{:.2}×", value / baseline)
}

/// Prints one row of a Markdown table.
#[expect(clippy::print_stdout, reason = "the tables are what these programs are for")]
pub fn print_row<S: AsRef<str>>(cells: impl IntoIterator<Item = S>) {
    let mut line = "|".to_owned();
    for cell in cells {
        line += " ";
        line += cell.as_ref();
        line += " |";
    }
    println!("{line}");
}

/// Prints the head of a Markdown table: its name, the columns, and the rule under them.
#[expect(clippy::print_stdout, reason = "the tables are what these programs are for")]
pub fn print_head(title: &str, columns: &[&str]) {
    println!("**{title}**\n");
    print_row(columns);
    let rules = columns.iter().enumerate();
    print_row(rules.map(|(column, _)| if column == 0 { "---" } else { "---:" }));
}

/// The order of turns, another one in each round: who comes after whom must not decide who wins.
#[derive(Debug)]
pub struct Turns {
    order: Vec<usize>,
    state: u64,
}

impl Turns {
    /// Returns the turns of `count` contenders.
    #[must_use]
    pub fn of(count: usize) -> Self {
        // Any start but 0 will do, and the same one each time makes runs alike.
        Self { order: (0..count).collect(), state: 0x9E37_79B9_7F4A_7C15 }
    }

    /// Returns the next round's order.
    pub fn next_round(&mut self) -> Vec<usize> {
        for last in (1..self.order.len()).rev() {
            // xorshift64: poor, and plenty for a shuffle.
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let among = u64::try_from(last + 1).expect("a small number");
            let other = usize::try_from(self.state % among).expect("at most `last`");
            self.order.swap(last, other);
        }
        self.order.clone()
    }
}

/// Returns the time on the clock that all processes of the machine share.
#[must_use]
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::try_from(time).expect("the monotonic clock starts at 0")
}

/// Returns `duration` in nanoseconds.
#[must_use]
pub fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// Opens the lock file for a contender that works on a `File`, the way std's documentation does it.
///
/// # Errors
/// If it can be neither opened nor created.
pub fn open_plain(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Waits until somebody sleeps in the kernel for a lock on `file`: until then, a release would be no
/// hand-off.
///
/// # Errors
/// If nobody does within ten seconds.
pub fn await_sleeper(file: &File) -> Result<()> {
    // By inode alone: some filesystems name another device in the table than stat(2) does.
    let inode = format!(":{} ", file.metadata()?.ino());
    let bound = Instant::now() + Duration::from_secs(10);
    loop {
        let table = std::fs::read_to_string("/proc/locks")?;
        if table.lines().any(|line| line.contains("->") && line.contains(&inode)) {
            return Ok(());
        }
        ensure!(Instant::now() < bound, "nobody waits for inode {inode}in /proc/locks:\n{table}");
        thread::sleep(Duration::from_micros(100));
    }
}

/// Runs a future to its end on this thread: the smallest executor there is, so that no runtime's cost
/// gets into the numbers.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&mut [4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }

    #[test]
    fn everybody_has_one_turn_a_round() {
        let mut turns = Turns::of(5);
        for _ in 0..100 {
            let mut round = turns.next_round();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
    }
}
