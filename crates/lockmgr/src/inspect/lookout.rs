//! Whether a wait of this process can never end, found out by another thread while it goes on.
//!
//! 1. One read of `/proc/locks`: a circle needs somebody who is blocked by something that this process
//!    holds, or one of its ancestors. Mostly there is nobody, and that was all.
//! 2. The graph of those files that somebody waits for. Mostly there is no circle.
//! 3. A picture of /proc is not taken at one moment, and a circle that is put together of what was true
//!    at different ones need never have been. So the picture is taken again, and the kernel is asked
//!    before and after how often each thread on whom the verdict depends has run. Who has not run in
//!    between was asleep in the same call all the time, and what the second picture says was true
//!    then, and stays true.
//!
//! References: `proc_locks(5)`, `proc_pid_status(5)`

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::time::Duration;

use rustix::fs::CWD;

use super::Effort;
use super::fdinfo::FdInfo;
use super::graph::{Deadlock, HELPERS, Party};
use super::line::Line;
use super::process::Process;
use super::reading::Reading;
use super::scan::{Limit, Wanted, directory, numbers};
use super::table::{Inode, LockTable};

/// Looks for deadlocks that a thread of this process is part of, while it waits for a lock.
///
/// Made by the thread that is going to wait, and used by another one: the wait itself is not disturbed,
/// because that would cost its place in the kernel's queue. The name of that other thread has to begin
/// with `lockmgr-`: so does everybody who looks know that it will not release anything.
///
/// What is found is certain: see [`Deadlock::certain`]. Waits that the kernel does not see, such as the
/// ones inside a process for a handle that its threads share, are not part of any circle.
///
/// ```
/// use lockmgr::inspect::Lookout;
///
/// let lookout = Lookout::of_this_thread();
/// let looking = std::thread::Builder::new().name("lockmgr-look".into());
/// let found = looking.spawn(move || lookout.look())?.join().unwrap();
/// // It is not even waiting.
/// assert_eq!(found, None);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lookout {
    thread: u32,
    /// Descriptors whose locks nobody but the thread can release while it waits.
    pinned: Vec<u32>,
}

impl Lookout {
    /// For the calling thread. Its process counts as blocked when all its threads are.
    #[must_use]
    pub fn of_this_thread() -> Self {
        Self::with_pinned(Vec::new())
    }

    /// For the calling thread, which alone can release the locks of these descriptors: whatever the
    /// other threads of its process do, those do not go away while it waits.
    pub(crate) fn with_pinned(pinned: Vec<u32>) -> Self {
        Self { thread: rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(), pinned }
    }

    /// Looks now. `None` when the thread is part of no circle, when the circle is not certain, and when
    /// it cannot be seen. Takes microseconds when nobody is blocked by what this process holds, and
    /// else about as long as `LockTable::snapshot`, twice if there is something to be found.
    #[must_use]
    pub fn look(&self) -> Option<Deadlock> {
        let (_, involved) = self.judge()?;
        let before = runs_of(&involved, self.thread)?;
        let (deadlock, involved) = self.judge()?;
        (runs_of(&involved, self.thread)? == before).then_some(deadlock)
    }

    fn judge(&self) -> Option<(Deadlock, BTreeSet<u32>)> {
        let mut reading = Reading::everything(Limit(None)).ok()?;
        let lines = &mut reading.lines;
        let waited_for: HashSet<Inode> =
            lines.iter().filter(|line| line.depth > 0).map(|line| line.lock.inode).collect();
        if !somebody_is_blocked_by_us(lines, &waited_for) {
            return None;
        }
        lines.retain(|line| waited_for.contains(&line.lock.inode));
        let mut wanted = Wanted::default();
        for line in lines.iter() {
            wanted.add(line.lock.inode, true);
        }
        let (table, _) = LockTable::look(&reading, &wanted, Effort::thorough()).ok()?;
        let process = std::process::id();
        table.certain_deadlock_of(&Party { process, thread: self.thread, pinned: &self.pinned })
    }

    /// How long the thread is to let others go first: two members of one circle that find it at the same
    /// time need not both give up. The youngest process goes at once, the others after 200, 400, 600 ms
    /// and so on, at most a second; each should [look](Self::look) again then.
    ///
    /// It is a courtesy and no protocol: members that look at moments which differ by just that much may
    /// still give up both.
    #[must_use]
    pub fn patience(&self, deadlock: &Deadlock) -> Duration {
        const STEP: Duration = Duration::from_millis(200);
        const MOST: u32 = 5;
        let key = |process: &Process, thread| (process.start, process.pid, thread);
        let members = || {
            deadlock
                .links
                .iter()
                .filter_map(|link| Some(key(link.waiter.process.as_ref()?, link.waiter.thread)))
        };
        let (pid, thread) = (std::process::id(), Some(self.thread));
        let Some(mine) = members().find(|member| member.1 == pid && member.2 == thread) else {
            return Duration::ZERO;
        };
        let younger = members().filter(|member| *member > mine).count();
        STEP * u32::try_from(younger).unwrap_or(MOST).min(MOST)
    }
}

/// When to look: after the first second of waiting, and then after 1, 2, 4, 8, 16 and every 30 seconds.
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    made: u32,
}

impl Iterator for Pauses {
    type Item = Duration;

    /// The time until the next look; never `None`.
    fn next(&mut self) -> Option<Duration> {
        const LONGEST: u64 = 30;
        // The first two are one second.
        let seconds = 1_u64 << self.made.saturating_sub(1).min(5);
        self.made = self.made.saturating_add(1);
        Some(Duration::from_secs(seconds.min(LONGEST)))
    }
}

/// Whether there is a request, besides the one that we have ourselves, for a file that we or those who
/// wait for us have locked.
fn somebody_is_blocked_by_us(lines: &[Line], waited_for: &HashSet<Inode>) -> bool {
    if lines.iter().filter(|line| line.depth > 0).nth(1).is_none() {
        return false;
    }
    let mut pid = std::process::id();
    // More ancestors than anybody has.
    for _ in 0..1000 {
        if holds_one_of(pid, waited_for) {
            return true;
        }
        match Process::look(pid).map(|process| process.parent) {
            None | Some(0) => return false,
            Some(parent) => pid = parent,
        }
    }
    false
}

/// Whether a descriptor of the process has a lock on one of the files. Of those who may not be looked
/// at nothing certain could be said either.
fn holds_one_of(pid: u32, files: &HashSet<Inode>) -> bool {
    let path = format!("/proc/{pid}/fdinfo");
    let mut descriptors = Vec::new();
    if directory(CWD, &path)
        .and_then(|open| numbers(open, Limit(None), |number| descriptors.push(number)))
        .is_err()
    {
        return false;
    }
    descriptors.into_iter().any(|number| {
        let text = fs::read_to_string(format!("{path}/{number}")).unwrap_or_default();
        FdInfo::of(&text).locks.iter().any(|lock| files.contains(&lock.inode))
    })
}

/// How often each thread on whom the verdict depends has gone to sleep or been put aside: the waiting
/// one, and all of these processes except helpers. `None` when that cannot be seen.
fn runs_of(processes: &BTreeSet<u32>, waiting: u32) -> Option<Vec<(u32, u32, String)>> {
    let mut runs =
        vec![(std::process::id(), waiting, runs_of_thread(std::process::id(), waiting)?)];
    for &pid in processes {
        let mut threads = Vec::new();
        directory(CWD, &format!("/proc/{pid}/task"))
            .and_then(|tasks| numbers(tasks, Limit(None), |number| threads.push(number)))
            .ok()?;
        for thread in threads {
            let name = fs::read(format!("/proc/{pid}/task/{thread}/comm")).ok()?;
            if !name.starts_with(HELPERS.as_bytes()) {
                runs.push((pid, thread, runs_of_thread(pid, thread)?));
            }
        }
    }
    Some(runs)
}

fn runs_of_thread(pid: u32, thread: u32) -> Option<String> {
    let status = fs::read(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
    Some(counts.collect::<Vec<_>>().join(" ")).filter(|counts| !counts.is_empty())
}

#[cfg(test)]
mod tests {
    use super::Pauses;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let seconds: Vec<u64> = Pauses::default().take(9).map(|pause| pause.as_secs()).collect();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
