//! What copies of a descriptor, other descriptors and how a file was opened do to a lock.

use super::{held_against, two};
use crate::lab::call::Access::{Directory, ReadOnly, WriteOnly};
use crate::lab::call::To::{self, Exclude, Share};
use crate::lab::call::{Call, Fd};
use crate::lab::errno;
use crate::lab::probe::Expectation::{No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Actor, Found, Res, Scene, Trouble};

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "close-another",
            question: "Is it lost when the process closes another descriptor of the same file?",
            why: "The trap of posix locks: any library that opens, reads and closes the lock file has \
                  released the lock.",
            expected: Expected::of(No, No, Yes),
            run: close_another,
        },
        Probe {
            name: "dup",
            question: "Does a copy (dup) keep the lock when the first descriptor is closed?",
            why: "flock and ofd locks last until the last copy is closed, posix locks until the first one.",
            expected: Expected::of(Yes, Yes, No),
            run: dup,
        },
        Probe {
            name: "dup-unlocks",
            question: "Can the lock be released through a copy (dup)?",
            why: "Copies are one owner: who has one can release what was taken through the other.",
            expected: Expected::all(Yes),
            run: dup_unlocks,
        },
        Probe {
            name: "read-only",
            question: "Can an exclusive lock be taken on a descriptor that is open for reading only?",
            why: "A lock file that one may not write to can be locked with flock alone.",
            expected: Expected::of(Yes, No, No),
            run: |scene| opened(scene, ReadOnly, Exclude),
        },
        Probe {
            name: "read-only-shared",
            question: "Can a shared lock be taken on a descriptor that is open for reading only?",
            why: "Enough for readers, with every kind.",
            expected: Expected::all(Yes),
            run: |scene| opened(scene, ReadOnly, Share),
        },
        Probe {
            name: "write-only-shared",
            question: "Can a shared lock be taken on a descriptor that is open for writing only?",
            why: "A shell's `exec 9>lock` opens for writing only: it can share flock locks alone.",
            expected: Expected::of(Yes, No, No),
            run: |scene| opened(scene, WriteOnly, Share),
        },
        Probe {
            name: "directory",
            question: "Can a directory be locked exclusively?",
            why: "With flock a directory can be its own lock, and no lock file is needed.",
            expected: Expected::of(Yes, No, No),
            run: |scene| directory(scene, Exclude),
        },
        Probe {
            name: "directory-shared",
            question: "Can a lock on a directory be shared?",
            why: "A directory opens for reading only, and a shared record lock wants no more.",
            expected: Expected::all(Yes),
            run: |scene| directory(scene, Share),
        },
    ]
}

fn close_another(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    let another = a.opens_as("file", ReadOnly)?;
    a.takes(of_a, Exclude)?;
    a.closes(another)?;
    let granted = b.tries(of_b, Exclude)?.granted();
    Found::that(granted, if granted { "B gets it: A has lost it" } else { "A has it still" })
}

fn dup(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    a.does(Call::Dup { fd: of_a })?;
    a.closes(of_a)?;
    held_against(&b, of_b, "A has it still", "B gets it: A has lost it")
}

fn dup_unlocks(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let copy = a.does(Call::Dup { fd: of_a })?;
    a.releases(Fd::try_from(copy).unwrap_or(-1))?;
    let granted = b.tries(of_b, Exclude)?.granted();
    Found::that(granted, if granted { "it is free" } else { "A has it still" })
}

fn opened(scene: &Scene, access: crate::lab::call::Access, to: To) -> Res<Found> {
    let a = scene.process("A")?;
    let first = a.opens("file")?;
    a.closes(first)?;
    let file = a.opens_as("file", access)?;
    is_accepted(&a, file, to)
}

fn directory(scene: &Scene, to: To) -> Res<Found> {
    let a = scene.process("A")?;
    a.does(Call::Mkdir { path: "directory".to_owned() })?;
    let file = a.opens_as("directory", Directory)?;
    is_accepted(&a, file, to)
}

/// Whether the kernel takes such a descriptor for such a lock, which is free.
fn is_accepted(a: &Actor<'_>, fd: Fd, to: To) -> Res<Found> {
    let call = Call::Lock(a.lock(fd, to));
    let spelled = call.spelled();
    match a.calls(call)?.result {
        Ok(_) => Found::that(true, "A has it"),
        Err(errno @ (libc::EBADF | libc::EINVAL | libc::EISDIR)) => {
            Found::that(false, format!("A gets {}", errno::name(errno)))
        }
        Err(errno) => Err(Trouble::Call { who: a.name().to_owned(), call: spelled, errno }),
    }
}
