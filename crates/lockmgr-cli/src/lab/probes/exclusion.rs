//! Who keeps out whom.

use super::{held_against, two};
use crate::lab::call::To::{Exclude, Share};
use crate::lab::probe::Expectation::{No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene, told};

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "processes",
            question: "Does an exclusive lock keep another process out?",
            why: "This is what a lock is for. Where it is not so, nothing else matters.",
            expected: Expected::all(Yes),
            run: processes,
        },
        Probe {
            name: "wait",
            question: "Does a process that sleeps for the lock get it when it is released?",
            why: "A wait that never ends is worse than a refusal: nothing says what is wrong.",
            expected: Expected::all(Yes),
            run: wait,
        },
        Probe {
            name: "wait-free",
            question: "Does the call that sleeps return at once when the lock is free?",
            why: "On a broken server the call that only tries can work while the one that sleeps hangs.",
            expected: Expected::all(Yes),
            run: wait_free,
        },
        Probe {
            name: "two-opens",
            question: "Does the lock keep out its own process, through a second open of the file?",
            why: "Two parts of one program that open the same lock file rely on it. A posix lock belongs \
                  to the process, which is granted it once more.",
            expected: Expected::of(Yes, Yes, No),
            run: two_opens,
        },
        Probe {
            name: "threads",
            question: "Does it keep out another thread that has opened the file itself?",
            why: "A program with threads can take flock and ofd locks as a mutex, posix locks not.",
            expected: Expected::of(Yes, Yes, No),
            run: threads,
        },
        Probe {
            name: "threads-one-open",
            question: "Does it keep out another thread that uses the same descriptor?",
            why: "No kind of file lock does: threads that share a descriptor are one owner, and need a \
                  mutex beside it.",
            expected: Expected::all(No),
            run: threads_one_open,
        },
        Probe {
            name: "shared",
            question: "Can two processes share the lock?",
            why: "Readers need not wait for each other.",
            expected: Expected::all(Yes),
            run: shared,
        },
        Probe {
            name: "shared-excludes",
            question: "Does a shared lock keep an exclusive one out?",
            why: "A writer must not come in among readers.",
            expected: Expected::all(Yes),
            run: shared_excludes,
        },
        Probe {
            name: "counts",
            question: "Must a lock that was taken twice be released twice?",
            why: "A lock is a state and no counter: a function that takes and releases a lock which its \
                  caller holds has released the caller's.",
            expected: Expected::all(No),
            run: counts,
        },
    ]
}

fn processes(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    held_against(&b, of_b, "B is refused", "A and B both have it")
}

fn wait(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let asking = b.asks(of_b, Exclude)?;
    if !asking.sleeps() {
        let outcome = asking.outcome()?;
        return Found::that(false, format!("B does not sleep: {}", told(&outcome)));
    }
    a.releases(of_a)?;
    asking.succeeds()?;
    Found::that(true, "B sleeps, and has it when A has released it")
}

fn wait_free(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let of_a = a.opens("file")?;
    a.asks(of_a, Exclude)?.succeeds()?;
    Found::that(true, "A has it at once")
}

fn two_opens(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let (first, second) = (a.opens("file")?, a.opens("file")?);
    a.takes(first, Exclude)?;
    held_against(&a, second, "A is refused", "A gets it once more")
}

fn threads(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let (one, other) = (a.thread(1), a.thread(2));
    let (first, second) = (one.opens("file")?, other.opens("file")?);
    one.takes(first, Exclude)?;
    held_against(&other, second, "the second thread is refused", "both threads have it")
}

fn threads_one_open(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let (one, other) = (a.thread(1), a.thread(2));
    let file = one.opens("file")?;
    one.takes(file, Exclude)?;
    held_against(&other, file, "the second thread is refused", "both threads have it")
}

fn shared(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Share)?;
    let granted = b.tries(of_b, Share)?.granted();
    Found::that(granted, if granted { "both have it" } else { "B is refused" })
}

fn shared_excludes(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Share)?;
    held_against(&b, of_b, "B is refused", "B has it alone beside A")
}

fn counts(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    a.takes(of_a, Exclude)?;
    a.releases(of_a)?;
    held_against(&b, of_b, "A has it still", "it is free after one release")
}
