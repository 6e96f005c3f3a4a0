//! From shared to exclusive and back.

use super::two;
use crate::lab::call::Call;
use crate::lab::call::To::{Exclude, Share};
use crate::lab::probe::Expectation::{No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene};

/// A race is run so often.
const ROUNDS: u32 = 5;

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "downgrade",
            question: "Does a downgrade to shared let another reader in?",
            why: "A writer that has finished can go on reading, among others.",
            expected: Expected::all(Yes),
            run: downgrade,
        },
        Probe {
            name: "downgrade-atomic",
            question: "Is a downgrade atomic: does no waiting writer get in between?",
            why: "flock(2) warns that a conversion need not be atomic. On the Linux of today there is no gap \
                  to be seen, where an unlock and a new lock do show one.",
            expected: Expected::all(Yes),
            run: downgrade_atomic,
        },
        Probe {
            name: "upgrade-refused",
            question: "Does a refused upgrade leave the shared lock in place?",
            why: "flock drops what it has before it asks for more. After a refused upgrade it has nothing, \
                  and nothing says so.",
            expected: Expected::of(No, Yes, Yes),
            run: upgrade_refused,
        },
        Probe {
            name: "upgrade-asleep",
            question: "Does a holder that sleeps for an upgrade keep its shared lock meanwhile?",
            why: "If not, somebody can write in between, and what was read before is not true any more.",
            expected: Expected::of(No, Yes, Yes),
            run: upgrade_asleep,
        },
        Probe {
            name: "upgrade-duel",
            question: "Do two sharers that both ask for the exclusive lock sleep for ever?",
            why: "Each waits for the other's shared lock. flock is spared because it drops its own first; \
                  posix gets an error; ofd sleeps.",
            expected: Expected::of(No, Yes, No),
            run: upgrade_duel,
        },
    ]
}

fn downgrade(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    a.takes(of_a, Share)?;
    let granted = b.tries(of_b, Share)?.granted();
    Found::that(granted, if granted { "both share it" } else { "B is refused" })
}

fn downgrade_atomic(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    // On one processor the kernel lets B run as soon as it is woken up, at times: if there is a gap, B is in it
    // at times.
    for actor in [&a, &b] {
        actor.does(Call::OneProcessor)?;
    }
    for round in 1..=ROUNDS {
        a.takes(of_a, Exclude)?;
        let asking = b.asks(of_b, Exclude)?;
        if a.tries(of_a, Share)?.refused() || asking.is_back()? {
            return Found::that(false, format!("B got in between, in round {round}"));
        }
        a.releases(of_a)?;
        asking.succeeds()?;
        b.releases(of_b)?;
    }
    // Would it be seen, if there was a gap? With an unlock in between there is one.
    let mut seen = 0;
    for _ in 0..ROUNDS {
        a.takes(of_a, Exclude)?;
        let asking = b.asks(of_b, Exclude)?;
        seen += i64::from(a.does(Call::Again { lock: a.lock(of_a, Share), rounds: 1 })? == 0);
        a.releases(of_a)?;
        asking.succeeds()?;
        b.releases(of_b)?;
    }
    Found::that(
        true,
        format!(
            "B slept on, in {ROUNDS} of {ROUNDS} rounds; with an unlock in between it got in, in {seen} of \
             {ROUNDS}"
        ),
    )
}

fn upgrade_refused(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Share)?;
    b.takes(of_b, Share)?;
    if a.tries(of_a, Exclude)?.granted() {
        return Found::that(false, "A was not refused: B's shared lock does not count");
    }
    let kept = b.tries(of_b, Exclude)?.refused();
    Found::that(kept, if kept { "A shares it still" } else { "B has it alone: A has lost it" })
}

fn upgrade_asleep(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Share)?;
    b.takes(of_b, Share)?;
    let asking = a.asks(of_a, Exclude)?;
    if !asking.sleeps() {
        asking.outcome()?;
        return Found::that(false, "A does not sleep: B's shared lock does not count");
    }
    let kept = b.tries(of_b, Exclude)?.refused();
    Found::that(kept, if kept { "A shares it still" } else { "B has it alone while A sleeps" })
}

fn upgrade_duel(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Share)?;
    b.takes(of_b, Share)?;
    let of_both = [a.asks(of_a, Exclude)?, b.asks(of_b, Exclude)?];
    for asking in of_both {
        if !asking.sleeps_on()? {
            let who = asking.actor().to_owned();
            return Found::that(
                false,
                match asking.outcome()?.result {
                    Ok(_) => format!("{who} has it"),
                    Err(libc::EDEADLK) => format!("{who} is told: EDEADLK"),
                    Err(errno) => format!("{who} gets {}", crate::lab::errno::name(errno)),
                },
            );
        }
    }
    Found::that(true, "both sleep, each for the other")
}
