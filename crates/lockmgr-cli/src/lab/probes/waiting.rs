//! Who sleeps for a lock, in which order he gets it, and what wakes him up.

use rustix::process::Signal;

use super::two;
use crate::lab::call::Call;
use crate::lab::call::To::{Exclude, Share};
use crate::lab::probe::Expectation::{No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene, told};

/// A race is run so often, until it has been won once.
const ROUNDS: u32 = 20;

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "order",
            question: "Are sleeping waiters served in the order in which they came?",
            why: "As long as nobody else comes, and none of them is interrupted: see the next ones.",
            expected: Expected::all(Yes),
            run: order,
        },
        Probe {
            name: "barging",
            question: "Can a holder that releases get it again before the waiter it woke up?",
            why: "A wake-up is no hand-off: a loop that releases and asks again can starve a waiter that has \
                  slept for long.",
            expected: Expected::all(Yes),
            run: barging,
        },
        Probe {
            name: "newcomer",
            question: "Does a new reader get in among readers while a writer sleeps for the lock?",
            why: "Readers that overlap starve a writer for ever.",
            expected: Expected::all(Yes),
            run: newcomer,
        },
        Probe {
            name: "signal",
            question: "Does a signal with a handler end the sleep (EINTR)?",
            why: "It is how a wait gets a deadline: there is no lock call with one.",
            expected: Expected::all(Yes),
            run: signal,
        },
        Probe {
            name: "signal-restart",
            question: "Does the sleep go on after a handler that was installed with SA_RESTART?",
            why: "signal(2) of the C library sets it, so that such a signal ends no wait.",
            expected: Expected::all(Yes),
            run: signal_restart,
        },
        Probe {
            name: "stop-loses-place",
            question: "Does a waiter that is stopped and continued (Ctrl-Z, fg) lose its place?",
            why: "It asks anew when it goes on, and is the last one then.",
            expected: Expected::all(Yes),
            run: stop_loses_place,
        },
        Probe {
            name: "deadlock",
            question: "Does the kernel notice two processes that wait for each other (EDEADLK)?",
            why: "Only the owner of a posix lock is a process, so only there it can be seen who waits for \
                  whom. The others sleep on.",
            expected: Expected::of(No, No, Yes),
            run: deadlock,
        },
    ]
}

fn order(scene: &Scene) -> Res<Found> {
    // A waiter that something else wakes up (the machine is suspended, a control group frozen) asks anew, and
    // is the last one then. That is no answer to this question, so it is asked again.
    const ATTEMPTS: u32 = 3;
    let mut attempt = 1;
    loop {
        let (served, undisturbed) = serve(scene)?;
        let in_order = served == ["B", "C", "D"];
        if in_order || undisturbed || attempt == ATTEMPTS {
            let served = served.join(", ");
            return Found::that(in_order, format!("B, C, D asked; served were {served}"));
        }
        scene.note("lab", "a waiter was woken up by something else: once more");
        attempt += 1;
    }
}

/// Who gets the lock, one after the other, and whether all of them slept until then without a break.
fn serve(scene: &Scene) -> Res<(Vec<String>, bool)> {
    let a = scene.process("A")?;
    let of_a = a.opens("file")?;
    a.takes(of_a, Exclude)?;
    let mut waiting = Vec::new();
    for name in ["B", "C", "D"] {
        let waiter = scene.process(name)?;
        let file = waiter.opens("file")?;
        let asking = waiter.asks(file, Exclude)?;
        let went_to_sleep = waiter.went_to_sleep();
        waiting.push((waiter, file, asking, went_to_sleep));
    }
    let (mut served, mut undisturbed) = (Vec::new(), true);
    let (mut holder, mut file) = (a, of_a);
    while !waiting.is_empty() {
        undisturbed &= waiting.iter().all(|(waiter, .., before)| waiter.went_to_sleep() == *before);
        holder.releases(file)?;
        let first = scene.first_back(waiting.iter().map(|(_, _, asking, _)| asking))?;
        let (waiter, its_file, asking, _) = waiting.remove(first);
        asking.succeeds()?;
        served.push(waiter.name().to_owned());
        (holder, file) = (waiter, its_file);
    }
    holder.releases(file)?;
    Ok((served, undisturbed))
}

fn barging(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    // What is asked is what the kernel does with the lock, and not whether waking up makes B so important that
    // A has to give way to it.
    b.does(Call::Batch)?;
    a.takes(of_a, Exclude)?;
    for round in 1..=ROUNDS {
        let asking = b.asks(of_b, Exclude)?;
        let lock = a.lock(of_a, Exclude);
        if a.does(Call::Again { lock, rounds: 1 })? == 1 {
            return Found::that(true, format!("A has it again, in round {round}; B sleeps on"));
        }
        asking.succeeds()?;
        b.releases(of_b)?;
        a.takes(of_a, Exclude)?;
    }
    Found::that(false, format!("B had it in {ROUNDS} of {ROUNDS} rounds"))
}

fn newcomer(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    let c = scene.process("C")?;
    let of_c = c.opens("file")?;
    a.takes(of_a, Share)?;
    let writer = b.asks(of_b, Exclude)?;
    if !writer.sleeps() {
        let outcome = writer.outcome()?;
        return Found::that(false, format!("B does not sleep: {}", told(&outcome)));
    }
    let granted = c.tries(of_c, Share)?.granted();
    Found::that(granted, if granted { "C passes B" } else { "C is refused" })
}

fn signal(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    let signal = Signal::USR1.as_raw();
    b.does(Call::Catch { signal, restart: false })?;
    a.takes(of_a, Exclude)?;
    let asking = b.asks(of_b, Exclude)?;
    b.is_sent(signal)?;
    let outcome = asking.outcome()?;
    Found::that(outcome.result == Err(libc::EINTR), format!("B: {}", told(&outcome)))
}

fn signal_restart(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    let signal = Signal::USR1.as_raw();
    b.does(Call::Catch { signal, restart: true })?;
    a.takes(of_a, Exclude)?;
    let asking = b.asks(of_b, Exclude)?;
    b.is_sent(signal)?;
    b.has_taken_signals()?;
    a.releases(of_a)?;
    let outcome = asking.outcome()?;
    Found::that(outcome.result.is_ok(), format!("B, after A's release: {}", told(&outcome)))
}

fn stop_loses_place(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    let c = scene.process("C")?;
    let of_c = c.opens("file")?;
    a.takes(of_a, Exclude)?;
    let waiting = [b.asks(of_b, Exclude)?, c.asks(of_c, Exclude)?];
    b.is_stopped()?;
    // The kernel has woken up those behind B, to queue anew. C is to be there before B is.
    waiting[1].sleeps_on()?;
    b.is_continued()?;
    a.releases(of_a)?;
    let first = scene.first_back(waiting.iter())?;
    Found::that(first == 1, if first == 1 { "C is served first" } else { "B is served first" })
}

fn deadlock(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (one_of_a, two_of_a) = (a.opens("one")?, a.opens("two")?);
    let (one_of_b, two_of_b) = (b.opens("one")?, b.opens("two")?);
    a.takes(one_of_a, Exclude)?;
    b.takes(two_of_b, Exclude)?;
    let _sleeping = a.asks(two_of_a, Exclude)?;
    let asking = b.asks(one_of_b, Exclude)?;
    if asking.sleeps() {
        return Found::that(false, "both sleep, each for the other");
    }
    let outcome = asking.outcome()?;
    Found::that(outcome.result == Err(libc::EDEADLK), format!("B: {}", told(&outcome)))
}
