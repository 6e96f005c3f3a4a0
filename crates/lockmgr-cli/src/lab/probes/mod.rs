//! The list of all probes, in the order in which they are told.

mod conversion;
mod descriptors;
mod exclusion;
mod files;
mod kinds;
mod names;
mod processes;
mod ranges;
mod visible;
mod waiting;

use super::call::Fd;
use super::call::To::Exclude;
use super::probe::Probe;
use super::scene::{Actor, Found, Res, Scene};

pub(crate) fn all() -> Vec<Probe> {
    [
        exclusion::probes(),
        kinds::probes(),
        processes::probes(),
        descriptors::probes(),
        files::probes(),
        conversion::probes(),
        ranges::probes(),
        waiting::probes(),
        visible::probes(),
        names::probes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Two processes that have opened the same file.
fn two(scene: &Scene) -> Res<((Actor<'_>, Fd), (Actor<'_>, Fd))> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let (of_a, of_b) = (a.opens("file")?, b.opens("file")?);
    Ok(((a, of_a), (b, of_b)))
}

/// The answer is yes when B, who has nothing to do with the lock so far, cannot have it alone.
fn held_against(b: &Actor<'_>, fd: Fd, held: &str, free: &str) -> Res<Found> {
    let refused = b.tries(fd, Exclude)?.refused();
    Found::that(refused, if refused { held } else { free })
}

/// `1 lock`, `2 locks`
fn count(number: usize, noun: &str) -> String {
    crate::show::count(number, noun)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_and_texts_are_in_order() {
        let mut names = HashSet::new();
        for probe in all() {
            assert!(names.insert(probe.name), "twice: {}", probe.name);
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(probe.name.bytes().all(plain), "{}", probe.name);
            assert!(!["sizes", "try", "help"].contains(&probe.name), "{}", probe.name);
            assert!(probe.question.ends_with('?'), "{}", probe.question);
            assert!(probe.question.len() <= 100, "{}", probe.question);
            assert!(probe.why.ends_with('.') && !probe.why.contains("  "), "{}", probe.why);
        }
    }
}
