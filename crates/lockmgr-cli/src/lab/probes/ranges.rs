//! Bytes of a file.

use super::two;
use crate::lab::call::Call;
use crate::lab::call::To::{Exclude, Share, Unlock};
use crate::lab::probe::Expectation::Yes;
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene};

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "range-adjacent",
            question: "Can two processes lock adjacent ranges?",
            why: "One lock file can carry many locks.",
            expected: Expected::ranges(Yes),
            run: adjacent,
        },
        Probe {
            name: "range-overlap",
            question: "Do ranges that overlap in one byte exclude each other?",
            why: "Each byte has a lock of its own.",
            expected: Expected::ranges(Yes),
            run: overlap,
        },
        Probe {
            name: "structure",
            question: "Does the kernel read struct flock as this program writes it?",
            why: "Who spells the structure out by hand and errs in one place locks other bytes, and sees no \
                  error. `lockmgr lab sizes` shows it as it is here.",
            expected: Expected::ranges(Yes),
            run: structure,
        },
        Probe {
            name: "range-split",
            question: "Does unlocking the middle of a range keep both of its ends?",
            why: "The kernel makes two locks of one, and needs memory for it: an unlock can fail (ENOLCK).",
            expected: Expected::ranges(Yes),
            run: split,
        },
        Probe {
            name: "range-merge",
            question: "Do adjacent ranges of one owner become one lock?",
            why: "Who took what first is forgotten: there is nothing to release one by one.",
            expected: Expected::ranges(Yes),
            run: merge,
        },
        Probe {
            name: "range-convert",
            question: "Can the middle of one's exclusive range be made shared alone?",
            why: "Conversion is by the byte, too.",
            expected: Expected::ranges(Yes),
            run: convert,
        },
        Probe {
            name: "range-beyond-end",
            question: "Can bytes beyond the end of the file be locked, leaving its length alone?",
            why: "An empty lock file has room for any number of locks.",
            expected: Expected::ranges(Yes),
            run: beyond_end,
        },
        Probe {
            name: "range-grows",
            question: "Does a lock to the end (length 0) cover what is appended later?",
            why: "Length 0 is not the length of today: it reaches as far as a file can.",
            expected: Expected::ranges(Yes),
            run: grows,
        },
        Probe {
            name: "range-backwards",
            question: "Does a negative length cover the bytes before the start?",
            why: "A sign error locks other bytes, and is no error.",
            expected: Expected::ranges(Yes),
            run: backwards,
        },
        Probe {
            name: "range-last",
            question: "Can the last byte that an offset can name be locked (2^63 - 1)?",
            why: "Far bytes are a quiet place for locks beside the main one. Some servers count to 2^31 only.",
            expected: Expected::ranges(Yes),
            run: last,
        },
    ]
}

fn adjacent(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 0, 10)?;
    let granted = b.tries_bytes(of_b, Exclude, 10, 10)?.granted();
    Found::that(granted, if granted { "A has 0 to 9, B has 10 to 19" } else { "B is refused" })
}

fn overlap(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 0, 10)?;
    let refused = b.tries_bytes(of_b, Exclude, 9, 10)?.refused();
    Found::that(refused, if refused { "B is refused" } else { "both have byte 9" })
}

fn structure(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 40, 2)?;
    let call = Call::Test { fd: of_b, mechanism: scene.mechanism(), to: Exclude };
    let said = b.calls(call)?.said.unwrap_or_default();
    let as_written = said.starts_with("F_WRLCK, l_start 40, l_len 2, ");
    Found::that(as_written, format!("B is told: {said}"))
}

fn split(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 0, 30)?;
    a.takes_bytes(of_a, Unlock, 10, 10)?;
    let first = b.tries_bytes(of_b, Exclude, 9, 1)?.refused();
    let middle = b.tries_bytes(of_b, Exclude, 10, 10)?.granted();
    let end = b.tries_bytes(of_b, Exclude, 20, 1)?.refused();
    let as_asked = first && middle && end;
    Found::that(
        as_asked,
        if as_asked {
            "B has the middle, A both ends"
        } else {
            "the pieces are not those of before"
        },
    )
}

fn merge(scene: &Scene) -> Res<Found> {
    let a = scene.process("A")?;
    let file = a.opens("file")?;
    a.takes_bytes(file, Exclude, 0, 10)?;
    a.takes_bytes(file, Exclude, 10, 10)?;
    let lines = a.shown_by_descriptor(file)?;
    let merged = lines.len() == 1 && lines[0].ends_with(" 0 19");
    Found::that(merged, format!("the kernel shows {} for them", super::count(lines.len(), "lock")))
}

fn convert(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 0, 30)?;
    a.takes_bytes(of_a, Share, 10, 10)?;
    let middle = b.tries_bytes(of_b, Share, 10, 10)?.granted();
    let ends =
        b.tries_bytes(of_b, Share, 9, 1)?.refused() && b.tries_bytes(of_b, Share, 20, 1)?.refused();
    Found::that(
        middle && ends,
        if middle && ends { "B shares the middle, A has both ends alone" } else { "not as asked" },
    )
}

fn beyond_end(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 1000, 10)?;
    let refused = b.tries_bytes(of_b, Exclude, 1005, 1)?.refused();
    let length = a.does(Call::Length { fd: of_a })?;
    let because = if refused { "B is refused" } else { "B has it, too" };
    Found::that(refused && length == 0, format!("{because}, and the file has {length} bytes"))
}

fn grows(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes(of_a, Exclude)?;
    b.does(Call::SetLength { fd: of_b, length: 2_000_000 })?;
    let refused = b.tries_bytes(of_b, Exclude, 1_000_000, 1)?.refused();
    Found::that(refused, if refused { "B is refused" } else { "B has what was appended" })
}

fn backwards(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, 100, -10)?;
    let before = b.tries_bytes(of_b, Exclude, 90, 1)?.refused()
        && b.tries_bytes(of_b, Exclude, 99, 1)?.refused();
    let outside = b.tries_bytes(of_b, Exclude, 89, 1)?.granted()
        && b.tries_bytes(of_b, Exclude, 100, 1)?.granted();
    Found::that(
        before && outside,
        if before && outside { "A has 90 to 99" } else { "A has other bytes" },
    )
}

fn last(scene: &Scene) -> Res<Found> {
    let ((a, of_a), (b, of_b)) = two(scene)?;
    a.takes_bytes(of_a, Exclude, i64::MAX, 1)?;
    let refused = b.tries_bytes(of_b, Exclude, i64::MAX, 1)?.refused();
    let other = b.tries_bytes(of_b, Exclude, i64::MAX - 1, 1)?.granted();
    Found::that(
        refused && other,
        if refused && other {
            "A has it, B the one before"
        } else {
            "it is not the last byte that A has"
        },
    )
}
