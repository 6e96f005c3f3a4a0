//! When enough has been seen: somebody is known for every lock, and a thread for every request.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::sys::process::compare_descriptions;

use super::line::{Line, Told};
use super::scan::Scan;
use super::table::Kind;

/// Locks that are told alike.
#[derive(Default)]
struct Open {
    /// For how many nobody was found yet.
    count: usize,
    /// Process and descriptor of those that were found, if there are several: other descriptors of one
    /// description account for no other lock.
    found: Vec<(u32, u32)>,
}

/// What is still to be accounted for.
pub(super) struct Account<'l> {
    open: HashMap<&'l Told, Open>,
    /// Requests that the kernel does not say whose they are.
    nameless: usize,
    /// How many of the scan's openers have been entered.
    entered: usize,
}

impl<'l> Account<'l> {
    pub(super) fn of(lines: &'l [Line]) -> Self {
        let mut open: HashMap<&Told, Open> = HashMap::new();
        let mut nameless = 0;
        for line in lines {
            if line.depth == 0 {
                open.entry(&line.lock).or_default().count += 1;
            } else if line.lock.pid.is_none() {
                nameless += 1;
            }
        }
        Self { open, nameless, entered: 0 }
    }

    /// Enters what was seen since the last time; whether nothing is open any more.
    pub(super) fn is_settled_by(&mut self, scan: &Scan<'_>) -> bool {
        for opener in &scan.openers[self.entered..] {
            let at = (opener.pid, opener.descriptor);
            for lock in &opener.locks {
                let Some(Open { count, found }) = self.open.get_mut(lock) else { continue };
                if *count > 1 || !found.is_empty() {
                    let is_same = |other: &(u32, u32)| {
                        compare_descriptions(*other, at) == Some(Ordering::Equal)
                    };
                    if found.iter().any(is_same) {
                        continue;
                    }
                    found.push(at);
                }
                *count -= 1;
                if *count == 0 {
                    self.open.remove(lock);
                }
            }
        }
        self.entered = scan.openers.len();
        let cannot_be_seen =
            |told: &Told| told.pid.is_some_and(|pid| scan.not_permitted.contains(&pid));
        scan.blocked.iter().filter(|blocked| blocked.kind == Kind::Ofd).count() >= self.nameless
            && self.open.keys().all(|told| cannot_be_seen(told))
    }
}
