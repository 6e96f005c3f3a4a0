//! What fork, exec and the end of a process do to a lock.

use super::{held_against, two};
use crate::lab::call::Access::Inheritable;
use crate::lab::call::To::Exclude;
use crate::lab::probe::Expectation::{No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene};

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "fork",
            question: "Does a forked child have its parent's lock, through the inherited descriptor?",
            why: "flock and ofd locks belong to the open file description, which parent and child share: \
                  they are one holder, and do not exclude each other. A posix lock is not inherited.",
            expected: Expected::of(Yes, Yes, No),
            run: fork,
        },
        Probe {
            name: "fork-outlives",
            question: "Is the lock still held when the parent has exited and the child lives on?",
            why: "A daemon that was started under the lock keeps it, without knowing.",
            expected: Expected::of(Yes, Yes, No),
            run: fork_outlives,
        },
        Probe {
            name: "fork-child-closes",
            question: "Is the lock lost when the child closes its copy of the descriptor?",
            why: "Children close what they have inherited. That leaves the parent's lock alone, \
                  in all three kinds.",
            expected: Expected::all(No),
            run: fork_child_closes,
        },
        Probe {
            name: "fork-child-unlocks",
            question: "Does the child's unlock take the lock away from the parent?",
            why: "A destructor that unlocks, run in a forked child, releases the parent's lock. \
                  Closing is safe, unlocking is not.",
            expected: Expected::of(Yes, Yes, No),
            run: fork_child_unlocks,
        },
        Probe {
            name: "exec",
            question: "Is the lock kept over exec, when the descriptor is?",
            why: "flock(1) and wrappers like it rest on it: they lock, and become the command.",
            expected: Expected::all(Yes),
            run: exec,
        },
        Probe {
            name: "exec-cloexec",
            question: "Is it kept over exec when the descriptor is close-on-exec?",
            why: "Most languages open files close-on-exec now. The lock goes with the descriptor.",
            expected: Expected::all(No),
            run: exec_cloexec,
        },
        Probe {
            name: "exit",
            question: "Is the lock released when its holder exits?",
            why: "No clean-up is needed, and none can be forgotten.",
            expected: Expected::all(Yes),
            run: exit,
        },
        Probe {
            name: "kill",
            question: "Is the lock released when its holder is killed (SIGKILL)?",
            why: "There is no stale lock, whatever becomes of the holder. A lock file of the old kind \
                  has no such thing.",
            expected: Expected::all(Yes),
            run: kill,
        },
        Probe {
            name: "kill-child-has-it",
            question: "Is it released on SIGKILL when a child of the holder has the descriptor?",
            why: "The lock lives as long as anybody has the open file description. A forgotten child \
                  looks like a lock that hangs.",
            expected: Expected::of(No, No, Yes),
            run: kill_child_has_it,
        },
    ]
}

fn fork(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes(file, Exclude)?;
    let child = a.forks()?;
    let granted = child.tries(file, Exclude)?.granted();
    Found::that(
        granted,
        if granted { "the child is the holder, too" } else { "the child is refused" },
    )
}

fn fork_outlives(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let _child = a.forks()?;
    a.exits()?;
    held_against(&b, of_b, "the child keeps it", "it is free")
}

fn fork_child_closes(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    a.forks()?.closes(of_a)?;
    let granted = b.tries(of_b, Exclude)?.granted();
    Found::that(granted, if granted { "B gets it" } else { "A has it still" })
}

fn fork_child_unlocks(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    a.forks()?.releases(of_a)?;
    let granted = b.tries(of_b, Exclude)?.granted();
    Found::that(granted, if granted { "B gets it: A has lost it" } else { "A has it still" })
}

fn exec(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (of_a, of_b) = (a.opens_as("file", Inheritable)?, b.opens("file")?);
    a.takes(of_a, Exclude)?;
    a.execs()?;
    held_against(&b, of_b, "the new program has it", "it is free")
}

fn exec_cloexec(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    a.execs()?;
    held_against(&b, of_b, "the new program has it", "it is free")
}

fn exit(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let asking = b.asks(of_b, Exclude)?;
    a.exits()?;
    asking.succeeds()?;
    Found::that(true, "B, who slept for it, has it")
}

fn kill(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let asking = b.asks(of_b, Exclude)?;
    a.is_killed()?;
    asking.succeeds()?;
    Found::that(true, "B, who slept for it, has it")
}

fn kill_child_has_it(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let _child = a.forks()?;
    a.is_killed()?;
    let granted = b.tries(of_b, Exclude)?.granted();
    Found::that(granted, if granted { "B gets it" } else { "the child keeps it" })
}
