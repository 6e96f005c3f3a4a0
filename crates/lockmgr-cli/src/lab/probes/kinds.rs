//! Which kinds of lock see each other.

use lockmgr::Mechanism;

use super::two;
use crate::lab::call::Call;
use crate::lab::call::To::Exclude;
use crate::lab::probe::Expectation::{No, NotApplicable, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene};

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "against-flock",
            question: "Does it keep out a process that asks with flock(2)?",
            why: "flock(2) has its own world on a local filesystem. Where record locks are seen by it \
                  (NFS), the two are one.",
            expected: Expected::of(Yes, No, No),
            run: |scene| against(scene, Mechanism::Flock),
        },
        Probe {
            name: "against-ofd",
            question: "Does it keep out a process that asks for an OFD lock?",
            why: "The two kinds of record lock see each other, so that a program can change from one to \
                  the other. OFD locks are not what flock(2) is made of.",
            expected: Expected::of(No, Yes, Yes),
            run: |scene| against(scene, Mechanism::Ofd),
        },
        Probe {
            name: "against-posix",
            question: "Does it keep out a process that asks with fcntl(F_SETLK)?",
            why: "Package managers, databases and mail programs ask that way.",
            expected: Expected::of(No, Yes, Yes),
            run: |scene| against(scene, Mechanism::Posix),
        },
        Probe {
            name: "own-other-kind",
            question: "Does it keep out its own process that asks for the other kind of record lock?",
            why: "A program that mixes the two kinds on one file locks itself out: they have different \
                  owners even in one process, through one descriptor.",
            expected: Expected::of(
                NotApplicable("flock is no record lock, see against-ofd and against-posix"),
                Yes,
                Yes,
            ),
            run: own_other_kind,
        },
        Probe {
            name: "lockf",
            question: "Is lockf(3) this kind of lock?",
            why: "lockf(3) is fcntl(F_SETLK) by another name, with all that comes with it: the process \
                  owns the lock, and any close drops it.",
            expected: Expected::of(No, No, Yes),
            run: lockf,
        },
    ]
}

fn against(scene: &Scene, other: Mechanism) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let refused = b.tries_as(other, of_b, Exclude)?.refused();
    Found::that(refused, if refused { "B is refused" } else { "B has its lock beside A's" })
}

fn own_other_kind(scene: &Scene) -> Res<Found> {
    let other = match scene.mechanism() {
        Mechanism::Ofd => Mechanism::Posix,
        _ => Mechanism::Ofd,
    };
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes(file, Exclude)?;
    let refused = a.tries_as(other, file, Exclude)?.refused();
    Found::that(refused, if refused { "A is refused by itself" } else { "A has both" })
}

fn lockf(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    let second = a.opens("file")?;
    a.does(Call::Lockf { fd: of_a })?;
    // The same kind conflicts between processes, and its owner is granted it once more.
    let seen = b.tries(of_b, Exclude)?.refused();
    let owner = a.tries(second, Exclude)?.granted();
    Found::that(
        seen && owner,
        match (seen, owner) {
            (true, true) => "B is refused, and A is granted it once more: one and the same lock",
            (true, false) => "they see each other, and have different owners",
            (false, _) => "B has its lock beside A's: they do not see each other",
        },
    )
}
