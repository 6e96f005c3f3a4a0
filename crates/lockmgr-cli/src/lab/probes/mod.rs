//! The list of all probes, in the order in which they are told.

mod exclusion;

use super::probe::Probe;

pub(crate) fn all() -> Vec<Probe> {
    let mut all = Vec::new();
    all.extend(exclusion::probes());
    all
}
