//! A wait that is part of a certain deadlock fails where that was asked for, and says with whom; a wait
//! that may yet end does not, and no wait is disturbed by the looking.

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{Error, FileLock, OnDeadlock, Result};
use support::process::{Forked, Parent, Way, fork};
use support::{BOUND, eventually, kernel_locks, wait_for_blocked};
use tempfile::TempDir;

fn open(path: &str, mechanism: &str, what: OnDeadlock) -> FileLock {
    FileLock::options().mechanism(mechanism.parse().unwrap()).deadlock(what).open(path).unwrap()
}

/// Holds one lock and, when it is told, waits for another. Arguments: path and mechanism of both; then
/// words: `fail`; how the first one is held, `bound` (unless said otherwise), `owned`, `kept` or
/// `async`; `thread` for a thread that stands by, `child` for a child that has inherited the first lock.
fn cross(args: &[String], parent: &mut Parent) {
    let has = |word: &str| args[4..].iter().any(|arg| arg == word);
    let what = if has("fail") { OnDeadlock::Fail } else { OnDeadlock::Ignore };
    let (one, two) = (open(&args[0], &args[1], what), open(&args[2], &args[3], what));
    let bystander = has("thread").then(|| thread::spawn(|| thread::sleep(2 * BOUND)));
    let mut child = None;
    let outcome = if has("owned") || has("kept") || has("async") {
        let guard = one.acquire().wait_owned().unwrap();
        parent.say("held");
        parent.hear();
        let acquire = two.acquire();
        let acquire =
            if has("kept") || has("async") { acquire.while_holding(&guard) } else { acquire };
        told(if has("async") {
            smol::block_on(acquire.into_future()).map(drop)
        } else {
            acquire.wait().map(drop)
        })
    } else {
        let guard = one.lock().unwrap();
        if has("child") {
            // The at-fork handler would close the lock's descriptor; this child has another one.
            let copy = guard.file().try_clone().unwrap();
            child = Some(fork(Way::Fork, move |parent| {
                let _kept = copy;
                parent.say("ready");
                parent.hear();
            }));
        }
        if let Some(child) = &mut child {
            child.expect("ready");
        }
        parent.say("held");
        parent.hear();
        told(two.lock().map(drop))
    };
    parent.say(outcome);
    parent.hear();
    drop((bystander, child));
}

/// As `cross`, but another thread holds the first lock, and lets go of it when it is told. Arguments: the
/// two paths.
fn cross_in_threads(args: &[String], parent: &mut Parent) {
    let [one, two] = [0, 1].map(|at: usize| open(&args[at], "posix", OnDeadlock::Ignore));
    let (held, (keep, kept)) = (channel(), channel::<()>());
    let holder = thread::spawn(move || {
        let guard = one.lock().unwrap();
        held.0.send(()).unwrap();
        kept.recv().unwrap();
        drop(guard);
    });
    held.1.recv().unwrap();
    parent.say("held");
    parent.hear();
    let (outcome, out) = channel();
    let waiter = thread::spawn(move || outcome.send(two.lock_timeout(BOUND).map(drop)).unwrap());
    // A refusal comes at once, if it comes.
    let early = out.recv_timeout(Duration::from_millis(200));
    parent.say(early.map_or("waits".into(), |result| format!("{result:?}")));
    parent.hear();
    keep.send(()).unwrap();
    holder.join().unwrap();
    parent.say(out.recv().map_or("nothing".into(), told));
    waiter.join().unwrap();
    parent.hear();
}

/// A process with no thread but the one that waits: one of the test harness would have another.
fn party(args: &[&str]) -> Forked {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let mut party = fork(Way::Fork, move |parent| cross(&args, parent));
    party.expect("held");
    party
}

fn told(result: Result<()>) -> String {
    match result {
        Ok(()) => "got".into(),
        Err(error @ Error::Deadlock { own_thread: false, cycle: Some(_), .. }) => {
            assert_eq!(error.kind(), std::io::ErrorKind::Deadlock);
            let text = error.to_string();
            assert!(!text.contains('\n'), "{text}");
            text
        }
        Err(Error::Deadlock { own_thread: false, cycle: None, .. }) => "found by the kernel".into(),
        Err(other) => panic!("{other}"),
    }
}

/// Processes in a circle: each one holds a lock, and the one before it wants it.
struct Circle {
    dir: TempDir,
    workers: Vec<Forked>,
}

impl Circle {
    /// One process for each mechanism; nobody waits yet.
    fn new(mechanisms: &[&str], words: impl Fn(usize) -> &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut circle = Self { dir, workers: Vec::new() };
        for (index, mechanism) in mechanisms.iter().enumerate() {
            let next = (index + 1) % mechanisms.len();
            let (one, two) = (circle.path(index), circle.path(next));
            let mut args =
                vec![one.to_str().unwrap(), mechanism, two.to_str().unwrap(), mechanisms[next]];
            args.extend(words(index).split_whitespace());
            circle.workers.push(party(&args));
        }
        circle
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.path().join(format!("lock-{index}"))
    }

    /// Lets everybody wait.
    fn close(&mut self) -> Instant {
        for worker in &mut self.workers {
            worker.tell("wait");
        }
        Instant::now()
    }
}

#[test]
fn three_processes_over_flock_and_ofd_are_told_apart_and_let_go() {
    let mut circle =
        Circle::new(&["flock", "ofd", "ofd"], |index| if index == 1 { "fail" } else { "" });
    let closed = circle.close();
    let error = circle.workers[1].next_line();
    let took = closed.elapsed();
    assert!(error.contains("deadlock"), "{error}");
    // Spelled out from the one who tells it, round to himself.
    let pids: Vec<String> =
        [1, 2, 0, 1].iter().map(|&index| format!("pid {}", circle.workers[index].pid())).collect();
    let mut rest = error.as_str();
    for pid in &pids {
        let (_, after) =
            rest.split_once(pid.as_str()).unwrap_or_else(|| panic!("{pids:?}: {error}"));
        rest = after;
    }
    for index in 0..3 {
        assert!(error.contains(&format!("lock-{index}")), "{error}");
    }
    {
        eprintln!("found and told {took:?} after the circle was closed: {error}");
    }
    // It releases what it has, and the others come through one after the other.
    circle.workers[0].expect("got");
    circle.workers[2].expect("got");
}

#[test]
fn if_all_want_to_fail_the_others_get_the_lock() {
    let mut circle = Circle::new(&["flock", "ofd", "flock"], |_| "fail");
    circle.close();
    let mut failed = 0;
    let outcomes: Vec<String> = circle
        .workers
        .drain(..)
        .rev()
        .map(|mut worker| {
            let outcome = worker.next_line();
            worker.finish();
            outcome
        })
        .collect();
    for outcome in &outcomes {
        failed += usize::from(outcome != "got");
    }
    assert!(failed >= 1, "{outcomes:?}");
}

#[test]
fn what_a_thread_holds_by_a_bound_guard_only_it_can_release() {
    // The others cannot know that, but the thread itself does.
    let mut circle =
        Circle::new(&["flock", "ofd"], |index| if index == 0 { "fail thread" } else { "" });
    circle.workers[1].tell("wait");
    wait_for_blocked(&circle.path(0), 1);
    circle.workers[0].tell("wait");
    assert!(circle.workers[0].next_line().contains("deadlock"));
}

#[test]
fn of_an_owned_guard_it_must_be_said() {
    for word in ["fail kept", "fail async"] {
        let mut circle = Circle::new(&["ofd", "flock"], |index| if index == 0 { word } else { "" });
        circle.workers[1].tell("wait");
        wait_for_blocked(&circle.path(0), 1);
        circle.workers[0].tell("wait");
        assert!(circle.workers[0].next_line().contains("deadlock"), "{word}");
    }
}

/// The thread that looks for deadlocks, and how often it has gone to sleep.
fn looks(pid: u32) -> Option<u64> {
    threads(pid)
        .into_iter()
        .find(|(_, name)| name == "lockmgr-look")
        .map(|(thread, _)| runs(pid, thread))
}

fn threads(pid: u32) -> Vec<(u32, String)> {
    let Ok(list) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    list.filter_map(|entry| {
        let entry = entry.ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((entry.file_name().to_str()?.parse().ok()?, name.trim_end().to_owned()))
    })
    .collect()
}

fn runs(pid: u32, thread: u32) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    let count = |line: &str| line.rsplit('\t').next()?.parse::<u64>().ok();
    status.lines().filter(|line| line.starts_with("voluntary_ctxt")).find_map(count).unwrap_or(0)
}

/// Waits until that many looks have been taken since now.
fn wait_for_looks(pid: u32, count: u64) {
    let mut first = None;
    eventually("it looks", || {
        let now = looks(pid);
        let first = *first.get_or_insert(now.unwrap_or(0));
        now.is_some_and(|now| now >= first + count)
    });
}

#[test]
fn a_circle_that_may_yet_open_is_left_alone() {
    // An owned guard; a thread of the other one that could release; a child that has the lock, too.
    for (mine, other) in [("fail owned thread", ""), ("fail", "thread"), ("fail child", "")] {
        let mut circle =
            Circle::new(&["flock", "ofd"], |index| if index == 0 { mine } else { other });
        circle.workers[1].tell("wait");
        wait_for_blocked(&circle.path(0), 1);
        circle.workers[0].tell("wait");
        wait_for_blocked(&circle.path(1), 1);
        // Two sleeps at most come before the first look.
        wait_for_looks(circle.workers[0].pid(), 4);
        assert_eq!(kernel_locks(&circle.path(1)), (1, 1), "{mine} {other}");
    }
}

#[test]
fn looking_does_not_disturb_the_wait_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    let text = path.to_str().unwrap();
    let holder = FileLock::open(&path).unwrap();
    let held = holder.lock().unwrap();
    let other = dir.path().join("b");
    let other = other.to_str().unwrap();
    let mut waiter = party(&[other, "ofd", text, "flock", "fail"]);
    waiter.tell("wait");
    wait_for_blocked(&path, 1);
    let pid = waiter.pid();
    eventually("somebody looks", || looks(pid).is_some());
    let asleep = || {
        let waiting = threads(pid).into_iter().filter(|(_, name)| name != "lockmgr-look");
        waiting.map(|(thread, _)| (thread, runs(pid, thread))).collect::<Vec<_>>()
    };
    let before = asleep();
    wait_for_looks(pid, 2);
    assert_eq!(asleep(), before, "nobody but the one who looks has run");
    held.unlock().unwrap();
    eventually("nobody looks any more", || looks(pid).is_none() && threads(pid).len() == 1);
    waiter.expect("got");
}

#[test]
fn what_another_thread_will_end_is_no_deadlock() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a", "b"].map(|name| dir.path().join(name));
    let party = |one: usize| {
        let args = [one, 1 - one].map(|at| paths[at].to_str().unwrap().to_owned());
        let mut party = fork(Way::Fork, move |parent| cross_in_threads(&args, parent));
        party.expect("held");
        party
    };
    let mut parties = [party(0), party(1)];
    parties[0].tell("go");
    wait_for_blocked(&paths[1], 1);
    // To the kernel this completes a circle of two processes.
    parties[1].tell("go");
    for party in &mut parties {
        party.expect("waits");
    }
    for party in &mut parties {
        party.tell("let go");
    }
    for party in &mut parties {
        party.expect("got");
        party.tell("end");
    }
}

#[test]
fn a_deadlock_that_the_kernel_finds_is_told_to_who_holds_what_is_waited_for() {
    for words in ["", "thread", "owned"] {
        let mut circle = Circle::new(&["posix"; 3], |index| if index == 2 { words } else { "" });
        for index in 0..2 {
            circle.workers[index].tell("go");
            wait_for_blocked(&circle.path(index + 1), 1);
        }
        circle.workers[2].tell("go");
        circle.workers[2].expect("found by the kernel");
        circle.workers[2].tell("end");
        circle.workers[1].expect("got");
        circle.workers[1].tell("end");
        circle.workers[0].expect("got");
        circle.workers[0].tell("end");
    }
}
