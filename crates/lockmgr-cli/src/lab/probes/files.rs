//! Which file it is that is locked.

use super::{held_against, two};
use crate::lab::call::To::Exclude;
use crate::lab::call::{Call, Naming};
use crate::lab::probe::Expectation::{No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene};

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "symlink",
            question: "Does it keep out who opens the file through a symbolic link?",
            why: "The lock is on the file and not on a name. By a link an attacker can have you lock a file \
                  of his choice: follow none in a directory of others.",
            expected: Expected::all(Yes),
            run: |scene| other_name(scene, Naming::Symlink),
        },
        Probe {
            name: "hard-link",
            question: "Does it keep out who opens the file by another name (a hard link)?",
            why: "The lock is on the file and not on a name.",
            expected: Expected::all(Yes),
            run: |scene| other_name(scene, Naming::Link),
        },
        Probe {
            name: "deleted",
            question: "Does it still guard the name when the file was deleted and made anew?",
            why: "Whoever deletes a lock file lets two in: one has the old file locked, one the new. After \
                  each grant the path must be compared with the file.",
            expected: Expected::all(No),
            run: deleted,
        },
        Probe {
            name: "deleted-open",
            question: "Does it keep out those who had the file open before it was deleted?",
            why: "They queue for a file that has no name any more, and are let in beside the new one.",
            expected: Expected::all(Yes),
            run: deleted_open,
        },
        Probe {
            name: "mandatory",
            question: "Does it keep others from writing to the file without asking?",
            why: "All these locks are advisory: who does not ask is not stopped.",
            expected: Expected::all(No),
            run: mandatory,
        },
    ]
}

fn other_name(scene: &Scene, how: Naming) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let of_a = a.opens("file")?;
    b.does(Call::Name { how, from: "file".to_owned(), to: "other".to_owned() })?;
    let of_b = b.opens("other")?;
    a.takes(of_a, Exclude)?;
    held_against(&b, of_b, "B is refused", "A and B both have it")
}

fn deleted(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let of_a = a.opens("file")?;
    a.takes(of_a, Exclude)?;
    b.does(Call::Unlink { path: "file".to_owned() })?;
    let of_b = b.opens("file")?;
    held_against(&b, of_b, "B is refused", "A has the old file, and B the new one")
}

fn deleted_open(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    b.does(Call::Unlink { path: "file".to_owned() })?;
    held_against(&b, of_b, "B is refused", "A and B both have it")
}

fn mandatory(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    let written = b.calls(Call::Write { fd: of_b, text: "x".to_owned() })?;
    let stopped = matches!(written.result, Err(libc::EAGAIN | libc::EACCES | libc::EPERM));
    Found::that(stopped, if stopped { "B's write is refused" } else { "B writes" })
}
