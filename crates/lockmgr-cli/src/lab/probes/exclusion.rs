//! Who keeps out whom.

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
            why: "On a broken server the call that tries can work while the one that sleeps hangs.",
            expected: Expected::all(Yes),
            run: wait_free,
        },
        Probe {
            name: "two-opens",
            question: "Does a lock keep out its own process, through a second open of the file?",
            why: "Two parts of one program that open the same lock file rely on it. A posix lock belongs \
                  to the process, and is granted once more.",
            expected: Expected::of(Yes, Yes, No),
            run: two_opens,
        },
        Probe {
            name: "shared",
            question: "Can two processes share the lock?",
            why: "Readers that need not wait for each other.",
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
    ]
}

fn processes(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (of_a, of_b) = (a.opens("file")?, b.opens("file")?);
    a.takes(of_a, Exclude)?;
    let refused = b.tries(of_b, Exclude)?.refused();
    Found::that(refused, if refused { "B is refused" } else { "A and B both have it" })
}

fn wait(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (of_a, of_b) = (a.opens("file")?, b.opens("file")?);
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
    let refused = a.tries(second, Exclude)?.refused();
    Found::that(refused, if refused { "A is refused" } else { "A gets it once more" })
}

fn shared(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (of_a, of_b) = (a.opens("file")?, b.opens("file")?);
    a.takes(of_a, Share)?;
    let granted = b.tries(of_b, Share)?.granted();
    Found::that(granted, if granted { "both have it" } else { "B is refused" })
}

fn shared_excludes(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (of_a, of_b) = (a.opens("file")?, b.opens("file")?);
    a.takes(of_a, Share)?;
    let refused = b.tries(of_b, Exclude)?.refused();
    Found::that(refused, if refused { "B is refused" } else { "B has it alone beside A" })
}
