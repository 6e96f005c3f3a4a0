//! What others can see of a lock, and of its release.

use lockmgr::Mechanism;

use super::two;
use crate::lab::call::Access::ReadOnly;
use crate::lab::call::Call;
use crate::lab::call::To::Exclude;
use crate::lab::probe::Expectation::{No, NotApplicable, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene};

/// More than an event takes on the slowest machine; only without one it is waited for.
const EVENT_BOUND: u32 = 2000;

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "table",
            question: "Does /proc/locks list the lock?",
            why: "Who looks for a holder begins there.",
            expected: Expected::all(Yes),
            run: table,
        },
        Probe {
            name: "table-pid",
            question: "Does /proc/locks name the process that has it?",
            why: "An OFD lock has no process for an owner: the table says -1, and /proc/PID/fdinfo must tell.",
            expected: Expected::of(Yes, No, Yes),
            run: table_pid,
        },
        Probe {
            name: "table-waiter",
            question: "Does /proc/locks list a process that sleeps for it?",
            why: "In a line with `->` below the lock it waits for.",
            expected: Expected::all(Yes),
            run: table_waiter,
        },
        Probe {
            name: "fdinfo",
            question: "Does /proc/PID/fdinfo/FD of the holder show the lock?",
            why: "The one place that shows the holder of an OFD lock.",
            expected: Expected::all(Yes),
            run: fdinfo,
        },
        Probe {
            name: "fdinfo-child",
            question: "Does fdinfo show it for a child that has inherited the descriptor?",
            why: "So a forgotten child that keeps a lock can be found, which /proc/locks does not name.",
            expected: Expected::of(Yes, Yes, No),
            run: fdinfo_child,
        },
        Probe {
            name: "getlk",
            question: "Does F_GETLK (F_OFD_GETLK) tell the process that has it?",
            why: "For an OFD lock it says -1: held, by whom is not told.",
            expected: Expected::of(NotApplicable("F_GETLK sees record locks only"), No, Yes),
            run: getlk,
        },
        Probe {
            name: "inotify-unlock",
            question: "Is there an inotify event when the lock is released by an unlock?",
            why: "Nothing but the lock call itself can sleep until a lock is released.",
            expected: Expected::all(No),
            run: inotify_unlock,
        },
        Probe {
            name: "inotify-close",
            question: "Is there an inotify event when it is released by closing the file?",
            why: "IN_CLOSE comes with the last descriptor: a wake-up for who waits for any of several.",
            expected: Expected::all(Yes),
            run: |scene| inotify_end(scene, false),
        },
        Probe {
            name: "inotify-kill",
            question: "Is there an inotify event when its holder is killed?",
            why: "The kernel closes the files of the dead as well.",
            expected: Expected::all(Yes),
            run: |scene| inotify_end(scene, true),
        },
    ]
}

fn table(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes(file, Exclude)?;
    let lines = scene.table("file", &a.shown_by_descriptor(file)?, |_| true)?;
    Found::that(
        !lines.is_empty(),
        lines.first().map_or("there is no such line".to_owned(), |line| format!("\"{line}\"")),
    )
}

fn table_pid(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes(file, Exclude)?;
    let lines = scene.table("file", &a.shown_by_descriptor(file)?, |_| true)?;
    // `1: POSIX  ADVISORY  WRITE 4711 fe:00:42 0 EOF`
    let Some(pid) = lines.first().and_then(|line| line.split(' ').nth(4)) else {
        return Found::that(false, "there is no such line");
    };
    let is_a = pid == a.pid().to_string();
    Found::that(is_a, if is_a { "the pid is A's".to_owned() } else { format!("it says {pid}") })
}

fn table_waiter(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let _sleeping = b.asks(of_b, Exclude)?;
    let is_waiter = |line: &str| line.contains("->");
    let lines = scene.table("file", &a.shown_by_descriptor(of_a)?, is_waiter)?;
    let line = lines.iter().find(|line| is_waiter(line));
    Found::that(
        line.is_some(),
        line.map_or("there is no line with ->".to_owned(), |line| format!("\"{line}\"")),
    )
}

fn fdinfo(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes(file, Exclude)?;
    let lines = a.shown_by_descriptor(file)?;
    Found::that(
        !lines.is_empty(),
        lines.first().map_or("it shows none".to_owned(), |line| format!("\"{line}\"")),
    )
}

fn fdinfo_child(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes(file, Exclude)?;
    let child = a.forks()?;
    let shown = !child.shown_by_descriptor(file)?.is_empty();
    Found::that(shown, if shown { "the child's shows it" } else { "the child's shows none" })
}

fn getlk(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let mechanism = match scene.mechanism() {
        Mechanism::Ofd => Mechanism::Ofd,
        _ => Mechanism::Posix,
    };
    let pid = b.does(Call::Test { fd: of_b, mechanism, to: Exclude })?;
    let is_a = pid == i64::from(a.pid());
    Found::that(is_a, if is_a { "the pid is A's".to_owned() } else { format!("it says {pid}") })
}

fn inotify_unlock(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, _)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let watch = b.watches("file")?;
    a.releases(of_a)?;
    // An event that is known to come, after whatever the release has raised.
    let marker = b.opens_as("file", ReadOnly)?;
    b.closes(marker)?;
    let (count, names) = b.hears(watch, EVENT_BOUND)?;
    if count == 0 {
        return Found::that(false, "there are no events here at all");
    }
    let more = names != "IN_CLOSE_NOWRITE";
    Found::that(
        more,
        if more { names } else { "none but that of the close which came after".to_owned() },
    )
}

fn inotify_end(scene: &Scene, killed: bool) -> Res<Found> {
    let ((a, of_a), (b, _)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let watch = b.watches("file")?;
    if killed {
        a.is_killed()?;
    } else {
        a.closes(of_a)?;
    }
    let (count, names) = b.hears(watch, EVENT_BOUND)?;
    Found::that(count > 0, if count > 0 { names } else { "none".to_owned() })
}
