//! Who waits for whom, and where that goes round in a circle.
//!
//! A thread that sleeps in a lock call waits for every lock that is in the way of its request; a lock
//! goes away when any process that has its open file description unlocks it. So a request is stuck if
//! one of the locks in its way is had by stuck processes only, and a process is stuck if each of its
//! threads is: asleep in a stuck request, or waiting for children that are all stuck (a shell, a
//! supervisor). The largest set of processes of which that is true is found by starting from all and
//! taking out, again and again, those of which it is not.
//!
//! A cycle inside that set is *certain*: nobody in it will ever move by himself. (A deadline that one of
//! them has set, or a signal, still can end it.) Any other cycle is *possible*: somebody on it, or
//! somebody with a copy of a descriptor, may yet let go.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::mode::{Mode, Range};
use crate::printable::Printable;

use super::process::Process;
use super::scan::numbers;
use super::table::{Holder, Inode, Kind, Lock, LockTable, LockedFile, Standing, Waiter};

/// Processes that wait for each other in a circle.
///
/// Displays as one line, which spells the circle out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadlock {
    /// Nobody who could let go of one of the locks can do so any more. Otherwise the circle may yet be
    /// left by somebody who is not blocked, or who could not be looked at.
    pub certain: bool,
    /// The circle: each one waits for a lock that the next one holds, or an ancestor that waits for the
    /// next one's end, and the last one for one of the first.
    pub links: Vec<Link>,
}

/// One step of a [`Deadlock`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Who waits.
    pub waiter: Waiter,
    /// The file of the lock that is in the way.
    pub inode: Inode,
    /// Its path, as far as known.
    pub path: Option<PathBuf>,
    /// The lock in the way: its kind, mode and bytes.
    pub kind: Kind,
    /// Its mode.
    pub mode: Mode,
    /// Its bytes.
    pub range: Range,
    /// Who holds it: the waiter of the next link, unless there are `descendants`.
    pub holder: Process,
    /// Where the holder waits for the end of a child: that child, and so on down to the waiter of the
    /// next link. A shell, a supervisor and `sudo` stand between a lock and a waiter like this.
    pub descendants: Vec<Process>,
}

impl fmt::Display for Deadlock {
    /// One line: `pid 7 (a) waits for /x, held by pid 8 (b), which waits for …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::os::unix::ffi::OsStrExt;
        const WIDTH: usize = 40;
        for (index, link) in self.links.iter().enumerate() {
            if let (0, Some(process)) = (index, &link.waiter.process) {
                write!(f, "pid {} ({})", process.pid, process.command_line(WIDTH))?;
            } else {
                f.write_str(", which")?;
            }
            f.write_str(" waits for ")?;
            match &link.path {
                Some(path) => Printable(path.as_os_str().as_bytes()).fmt(f)?,
                None => write!(f, "inode {}", link.inode)?,
            }
            write!(f, ", held by pid {}", link.holder.pid)?;
            let last = index + 1 == self.links.len();
            if !last || !link.descendants.is_empty() {
                write!(f, " ({})", link.holder.command_line(WIDTH))?;
            }
            for (index, child) in link.descendants.iter().enumerate() {
                write!(f, ", which waits for the end of its child, pid {}", child.pid)?;
                if !last || index + 1 < link.descendants.len() {
                    write!(f, " ({})", child.command_line(WIDTH))?;
                }
            }
        }
        Ok(())
    }
}

impl LockTable {
    /// Finds the circles of processes that wait for each other. Best of a
    /// [`snapshot`](Self::snapshot): the table of one file shows no circle over two.
    ///
    /// Looks at the processes again, to see what their other threads do.
    #[must_use]
    pub fn deadlocks(&self) -> Vec<Deadlock> {
        let graph = Graph::of(self);
        let knots = graph.knots();
        if knots.is_empty() {
            return Vec::new();
        }
        let stuck = graph.stuck(None);
        let mut found = Vec::new();
        for knot in knots {
            let stuck_part = knot.intersection(&stuck.processes).copied().collect();
            if let Some(links) = graph.shortest_circle(&stuck_part) {
                found.push(Deadlock { certain: true, links });
            } else if let Some(links) = graph.shortest_circle(&knot)
                // A thread that waits for another one of its process is nothing unusual.
                && links.len() > 1
            {
                found.push(Deadlock { certain: false, links });
            }
        }
        found
    }

    /// Finds out whether the party is on a circle of which nobody can ever move; with everybody on whom
    /// that depends.
    pub(super) fn certain_deadlock_of(
        &self,
        party: &Party<'_>,
    ) -> Option<(Deadlock, BTreeSet<u32>)> {
        let graph = Graph::of(self);
        let stuck = graph.stuck(Some(party));
        if !stuck.party {
            return None;
        }
        let links = graph.circle_of(party, &stuck)?;
        let mut reached = graph.reach(party.process);
        reached.retain(|pid| stuck.processes.contains(pid));
        Some((Deadlock { certain: true, links }, reached))
    }
}

/// A thread that waits for a lock, seen from inside its process.
pub(super) struct Party<'a> {
    pub(super) process: u32,
    pub(super) thread: u32,
    /// The descriptors whose locks nobody in the process but this thread can release.
    pub(super) pinned: &'a [u32],
}

/// Those who will not move by themselves any more.
struct Stuck {
    processes: BTreeSet<u32>,
    /// The party will not, whatever other threads of its process do.
    party: bool,
}

struct Graph<'t> {
    /// What each waiting process waits for.
    waits: BTreeMap<u32, Vec<Wait<'t>>>,
    /// What those who wait, or are waited for, do.
    states: HashMap<u32, State>,
}

/// A request, and a lock that is in its way.
struct Wait<'t> {
    waiter: &'t Waiter,
    file: &'t LockedFile,
    lock: &'t Lock,
    /// Those who can release it.
    owners: BTreeSet<u32>,
    /// There are others who could, and who are not known.
    somebody_else: bool,
}

impl<'t> Graph<'t> {
    fn of(table: &'t LockTable) -> Self {
        let mut waits: BTreeMap<u32, Vec<Wait<'t>>> = BTreeMap::new();
        for file in &table.files {
            for waiter in file.locks.iter().flat_map(|lock| &lock.waiters) {
                let Some(pid) = waiter.pid() else { continue };
                for lock in file.locks.iter().filter(|lock| is_in_the_way(lock, waiter)) {
                    let lives = |holder: &&Holder| holder.standing != Standing::Gone;
                    let living = || lock.holders.iter().filter(lives);
                    waits.entry(pid).or_default().push(Wait {
                        waiter,
                        file,
                        lock,
                        owners: living().filter_map(Holder::pid).collect(),
                        somebody_else: living().any(|holder| holder.process.is_none()),
                    });
                }
            }
        }
        let mut graph = Self { waits, states: HashMap::new() };
        // Whom nobody waits for is on no circle.
        let mut open: Vec<u32> =
            graph.waits.values().flatten().flat_map(|wait| wait.owners.iter().copied()).collect();
        while let Some(pid) = open.pop() {
            if let Entry::Vacant(place) = graph.states.entry(pid) {
                place.insert(State::look(pid));
                open.extend(graph.successors(pid));
            }
        }
        graph
    }

    /// Whom the process waits for: owners of locks, and children.
    fn successors(&self, pid: u32) -> impl Iterator<Item = u32> + '_ {
        let owners = self.waits.get(&pid).into_iter().flatten().flat_map(|wait| &wait.owners);
        owners.chain(self.states.get(&pid).into_iter().flat_map(State::awaited_children)).copied()
    }

    /// Everybody who can be reached from there, in one step or more.
    fn reach(&self, pid: u32) -> BTreeSet<u32> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<u32> = self.successors(pid).collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(self.successors(next));
            }
        }
        reached
    }

    /// The sets of processes that all wait for each other, directly or not.
    fn knots(&self) -> Vec<BTreeSet<u32>> {
        let reach: HashMap<u32, BTreeSet<u32>> =
            self.states.keys().map(|&pid| (pid, self.reach(pid))).collect();
        let mut knots: Vec<BTreeSet<u32>> = Vec::new();
        for (&pid, reached) in &reach {
            if reached.contains(&pid) && !knots.iter().any(|knot| knot.contains(&pid)) {
                let comes_back =
                    |other: &u32| reach.get(other).is_some_and(|back| back.contains(&pid));
                knots.push(reached.iter().copied().filter(comes_back).collect());
            }
        }
        knots.sort();
        knots
    }

    /// The shortest circle inside the set.
    fn shortest_circle(&self, inside: &BTreeSet<u32>) -> Option<Vec<Link>> {
        inside.iter().filter_map(|&start| self.circle_through(start, inside)).min_by_key(Vec::len)
    }

    fn circle_through(&self, start: u32, inside: &BTreeSet<u32>) -> Option<Vec<Link>> {
        self.circle(start, |_| true, |_, owner| inside.contains(&owner))
    }

    /// The shortest circle through what that very thread waits for.
    fn circle_of(&self, party: &Party<'_>, stuck: &Stuck) -> Option<Vec<Link>> {
        self.circle(
            party.process,
            |wait| wait.waiter.thread == Some(party.thread),
            |wait, owner| {
                stuck.processes.contains(&owner)
                    || wait.is_some_and(|wait| wait.is_pinned_by(party) && owner == party.process)
            },
        )
    }

    /// The shortest circle through a process: `begins` says with which of its waits it may begin, and
    /// `goes` whether it may go on to an owner, or to a child.
    fn circle(
        &self,
        start: u32,
        begins: impl Fn(&Wait<'_>) -> bool,
        goes: impl Fn(Option<&Wait<'_>>, u32) -> bool,
    ) -> Option<Vec<Link>> {
        let mut came_by: HashMap<u32, (u32, Option<&Wait<'_>>)> = HashMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(pid) = open.pop_front() {
            let waits = self.waits.get(&pid).into_iter().flatten();
            let owners = waits
                .filter(|wait| pid != start || begins(wait))
                .flat_map(|wait| wait.owners.iter().map(move |&owner| (Some(wait), owner)));
            let awaited = self.states.get(&pid).into_iter().flat_map(State::awaited_children);
            // The circle begins with a lock.
            let children = awaited.filter(|_| pid != start).map(|&child| (None, child));
            for (wait, next) in owners.chain(children) {
                if came_by.contains_key(&next) || !goes(wait, next) {
                    continue;
                }
                came_by.insert(next, (pid, wait));
                if next == start {
                    return links(start, &mut came_by);
                }
                open.push_back(next);
            }
        }
        None
    }

    /// Those who will not move by themselves any more; the party by what that thread waits for alone.
    fn stuck(&self, party: Option<&Party<'_>>) -> Stuck {
        let mut stuck =
            Stuck { processes: self.states.keys().copied().collect(), party: party.is_some() };
        loop {
            let moving: Vec<u32> = stuck
                .processes
                .iter()
                .copied()
                .filter(|pid| !self.is_stuck(*pid, &self.states[pid], &stuck, party))
                .collect();
            let party_moves = stuck.party
                && !party.is_some_and(|party| {
                    let mut waits = self.waits.get(&party.process).into_iter().flatten();
                    waits.any(|wait| {
                        wait.waiter.thread == Some(party.thread)
                            && wait.is_hopeless(&stuck, Some(party))
                    })
                });
            if moving.is_empty() && !party_moves {
                return stuck;
            }
            stuck.party &= !party_moves;
            for pid in moving {
                stuck.processes.remove(&pid);
            }
        }
    }

    fn is_stuck(&self, pid: u32, state: &State, stuck: &Stuck, party: Option<&Party<'_>>) -> bool {
        let waits = self.waits.get(&pid).map_or(&[][..], Vec::as_slice);
        !state.threads.is_empty()
            && state.threads.iter().all(|thread| match thread.does {
                Does::HelpsAnother => true,
                Does::WaitsForChildren => {
                    !state.children.is_empty()
                        && state.children.iter().all(|c| stuck.processes.contains(c))
                }
                Does::SomethingElse => waits.iter().any(|wait| {
                    wait.is_hopeless(stuck, party)
                        && match wait.waiter.thread {
                            Some(number) => number == thread.number,
                            // Which thread it is could not be seen; with one, there is no doubt.
                            None => state.threads.len() == 1,
                        }
                }),
            })
            // Helpers alone would be nobody who waits.
            && state.threads.iter().any(|thread| thread.does != Does::HelpsAnother)
    }
}

/// The way back from `start` to itself; each link has a lock, and the children that came after it.
fn links(start: u32, came_by: &mut HashMap<u32, (u32, Option<&Wait<'_>>)>) -> Option<Vec<Link>> {
    let mut links = Vec::new();
    let mut descendants = Vec::new();
    let mut at = start;
    while let Some((before, wait)) = came_by.remove(&at) {
        match wait {
            Some(wait) => {
                let mut link = wait.link_to(at)?;
                descendants.reverse();
                link.descendants = std::mem::take(&mut descendants);
                links.push(link);
            }
            None => descendants.push(Process::look(at)?),
        }
        at = before;
    }
    links.reverse();
    Some(links)
}

impl Wait<'_> {
    /// Whether nobody is left who could release the lock.
    fn is_hopeless(&self, stuck: &Stuck, party: Option<&Party<'_>>) -> bool {
        let pinned = party.filter(|party| stuck.party && self.is_pinned_by(party));
        !self.somebody_else
            && !self.owners.is_empty()
            && self.owners.iter().all(|owner| {
                stuck.processes.contains(owner)
                    || pinned.is_some_and(|party| party.process == *owner)
            })
    }

    /// Whether nobody in the party's process but the party can release the lock.
    fn is_pinned_by(&self, party: &Party<'_>) -> bool {
        self.lock.holders.iter().any(|holder| {
            holder.pid() == Some(party.process)
                && holder.descriptor.is_some_and(|number| party.pinned.contains(&number))
        })
    }

    fn link_to(&self, owner: u32) -> Option<Link> {
        let holder = self
            .lock
            .holders
            .iter()
            .filter_map(|holder| holder.process.as_ref())
            .find(|process| process.pid == owner)?;
        Some(Link {
            waiter: self.waiter.clone(),
            inode: self.file.inode,
            path: self.file.path.clone(),
            kind: self.lock.kind.clone(),
            mode: self.lock.mode,
            range: self.lock.range,
            holder: holder.clone(),
            descendants: Vec::new(),
        })
    }
}

/// Whether the lock must go before the request can be granted.
fn is_in_the_way(lock: &Lock, waiter: &Waiter) -> bool {
    let is_his_own = lock.holders.iter().any(|holder| {
        holder.pid() == waiter.pid()
            && match lock.kind {
                // Owned by the process.
                Kind::Posix => waiter.kind == Kind::Posix,
                // Asked for through the very description that has it: a conversion.
                _ => holder.descriptor.is_some() && holder.descriptor == waiter.descriptor,
            }
    });
    lock.kind.shares_a_space_with(&waiter.kind)
        && lock.mode.conflicts_with(waiter.mode)
        && lock.range.overlaps(waiter.range)
        && !is_his_own
}

/// What a process does.
struct State {
    threads: Vec<Thread>,
    children: Vec<u32>,
}

struct Thread {
    number: u32,
    does: Does,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Does {
    /// A thread of this library's own in that program, by its name: it holds nothing.
    HelpsAnother,
    /// Sleeps until a child ends, or a signal comes.
    WaitsForChildren,
    SomethingElse,
}

impl State {
    /// The children, if a thread waits for them.
    fn awaited_children(&self) -> &[u32] {
        let waits = self.threads.iter().any(|thread| thread.does == Does::WaitsForChildren);
        if waits { &self.children } else { &[] }
    }

    /// Nothing is known of those who may not be looked at; they count as moving.
    fn look(pid: u32) -> Self {
        let mut state = Self { threads: Vec::new(), children: Vec::new() };
        let task = format!("/proc/{pid}/task");
        let mut thread_numbers = Vec::new();
        let _gone = numbers(rustix::fs::CWD, &task, |number| thread_numbers.push(number));
        for number in thread_numbers {
            let read = |name| fs::read_to_string(format!("{task}/{number}/{name}"));
            let does = match (read("comm"), read("syscall")) {
                (Ok(name), _) if name.starts_with(HELPERS) => Does::HelpsAnother,
                (_, Ok(call)) if waits_for_children(&call) => Does::WaitsForChildren,
                _ => Does::SomethingElse,
            };
            let children = read("children").unwrap_or_default();
            state
                .children
                .extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
            state.threads.push(Thread { number, does });
        }
        state
    }
}

/// How the names of this library's threads begin.
pub(crate) const HELPERS: &str = "lockmgr-";

/// Whether a thread sleeps in `wait4`, `waitid`, or in `sigtimedwait` without a time limit.
fn waits_for_children(call: &str) -> bool {
    let mut words = call.split_ascii_whitespace();
    let Some(Ok(number)) = words.next().map(str::parse::<i64>) else { return false };
    number == i64::from(libc::SYS_wait4)
        || number == i64::from(libc::SYS_waitid)
        || number == i64::from(libc::SYS_rt_sigtimedwait) && words.nth(2) == Some("0x0")
        || number == i64::from(libc::SYS_rt_sigsuspend)
}

#[cfg(test)]
mod tests {
    use super::waits_for_children;

    #[test]
    fn calls_that_wait_for_children_are_known() {
        let (wait4, sigtimedwait) = (libc::SYS_wait4, libc::SYS_rt_sigtimedwait);
        assert!(waits_for_children(&format!("{wait4} 0xffffffff 0x7f 0x2 0x0 0x1")));
        assert!(waits_for_children(&format!("{sigtimedwait} 0x7f 0x7f 0x0 0x8")));
        assert!(!waits_for_children(&format!("{sigtimedwait} 0x7f 0x7f 0x7f 0x8")));
        assert!(!waits_for_children("running"));
        assert!(!waits_for_children(""));
    }
}
