//! What the kernel tells about a thread: where it sleeps, how often it woke, its signals.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::eventually;

/// The calling thread, as the kernel names it.
pub(crate) fn this_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The process's threads.
pub(crate) fn threads_of(pid: u32) -> Vec<i32> {
    let Ok(list) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    list.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Threads of this process that have this name.
pub(crate) fn threads_named(name: &str) -> usize {
    threads_of(std::process::id())
        .into_iter()
        .filter(|thread| {
            fs::read_to_string(format!("/proc/self/task/{thread}/comm"))
                .is_ok_and(|comm| comm.trim_end() == name)
        })
        .count()
}

/// A field of `/proc/PID/task/TID/status`.
pub(crate) fn status_field(pid: u32, thread: i32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

/// A set of signals of the calling thread: `SigPnd`, `ShdPnd` or `SigBlk`.
pub(crate) fn signals_here(field: &str) -> u64 {
    let text = status_field(std::process::id(), this_thread(), field).unwrap();
    u64::from_str_radix(&text, 16).unwrap()
}

/// The state letter of a process: `S`, `R`, `T` …
pub(crate) fn state_of(pid: u32) -> Option<char> {
    state_of_thread(pid, i32::try_from(pid).unwrap())
}

pub(crate) fn state_of_thread(pid: u32, thread: i32) -> Option<char> {
    status_field(pid, thread, "State")?.chars().next()
}

/// The system call in which the thread sleeps, and its first two arguments; `None` when it runs or
/// when we are not allowed to know.
pub(crate) fn sleeps_in(pid: u32, thread: i32) -> Option<[i64; 3]> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).ok()?;
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut argument = || i64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    Some([number, argument()?, argument()?])
}

/// Whether `/proc/…/syscall` can be read here at all.
pub(crate) fn system_calls_are_shown() -> bool {
    fs::read_to_string("/proc/thread-self/syscall").is_ok()
}

/// Whether a thread of this process is still there.
pub(crate) fn is_alive(thread: i32) -> bool {
    Path::new(&format!("/proc/self/task/{thread}")).exists()
}

/// Waits until a thread of this process sleeps outside any lock call: where the queue of a handle
/// lets it sleep. Or until it has ended: on a slow machine its time may be over before we look.
pub(crate) fn wait_until_queued(thread: i32) {
    eventually("the thread sleeps in a queue", || {
        if !is_alive(thread) {
            true
        } else if system_calls_are_shown() {
            sleeps_in(std::process::id(), thread).is_some_and(|[call, ..]| call == libc::SYS_futex)
        } else {
            status_field(std::process::id(), thread, "State")
                .is_some_and(|state| state.starts_with('S'))
        }
    });
}

/// What a process has done so far: the voluntary context switches of each of its threads, and the
/// CPU time of all of them in clock ticks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Activity {
    switches: BTreeMap<i32, String>,
    ticks: u64,
}

impl Activity {
    pub(crate) fn of(pid: u32) -> Self {
        let switches = threads_of(pid)
            .into_iter()
            .filter_map(|thread| {
                Some((thread, status_field(pid, thread, "voluntary_ctxt_switches")?))
            })
            .collect();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // Fields 14 and 15, counted from after the name, which may contain anything.
        let (_, rest) = stat.rsplit_once(')').unwrap();
        let ticks = rest
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .map(|word| word.parse::<u64>().unwrap())
            .sum();
        Self { switches, ticks }
    }

    /// Voluntary context switches of all threads.
    pub(crate) fn total_switches(&self) -> u64 {
        self.switches.values().map(|count| count.parse::<u64>().unwrap()).sum()
    }

    /// Waits until the process has come to rest.
    pub(crate) fn at_rest(pid: u32) -> Self {
        let mut last = Self::of(pid);
        eventually("the process sleeps", || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let now = Self::of(pid);
            let same = now == last;
            last = now;
            same
        });
        last
    }
}
