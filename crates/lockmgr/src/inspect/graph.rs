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

use std::cmp::Ordering;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::{fmt, fs};

use crate::mode::{Mode, Range};
use crate::printable::Printable;
use crate::sys::process::compare_descriptions;

use super::line::{Line, Told};
use super::process::{Process, read_at};
use super::reading::Reading;
use super::scan::{Limit, directory, numbers};
use super::table::{Holder, Inode, Kind, Lock, LockTable, LockedFile, Standing, Waiter};
use super::threads::LockCall;

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
        let told = self.gaps.pieced_together.then(|| Reading::everything(Limit(None)).ok());
        let stuck = graph.stuck(None);
        let mut found = Vec::new();
        for knot in knots {
            let stuck_part = knot.intersection(&stuck.processes).copied().collect();
            let is_no_patchwork = |links: &Vec<Link>| {
                told.as_ref().is_none_or(|told| are_still_told(links, told.as_ref()))
            };
            if let Some(links) = graph.shortest_circle(&stuck_part).filter(is_no_patchwork) {
                found.push(Deadlock { certain: !self.gaps.cut_short, links });
            } else if let Some(links) = graph.shortest_circle(&knot)
                // A thread that waits for another one of its process is nothing unusual.
                && links.len() > 1
                && is_no_patchwork(&links)
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
        // Who was not looked at may be able to release one of the locks.
        if !stuck.party || self.gaps.cut_short {
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

/// Whether the kernel tells the same when it is asked again: a table that was read in pieces may show a
/// circle none of whose moments was ever one.
fn are_still_told(links: &[Link], reading: Option<&Reading>) -> bool {
    let Some(reading) = reading else { return false };
    links.iter().all(|link| {
        let of_inode = |line: &&Line| line.lock.inode == link.inode;
        let mut held = reading.lines.iter().filter(of_inode).filter(|line| line.depth == 0);
        let mut blocked = reading.lines.iter().filter(of_inode).filter(|line| line.depth > 0);
        let is_the_lock = |told: &Told| {
            (&told.kind, told.mode, told.range) == (&link.kind, link.mode, link.range)
        };
        let waiter = &link.waiter;
        let is_the_request = |told: &Told| {
            (&told.kind, told.mode, told.range) == (&waiter.kind, waiter.mode, waiter.range)
                && told.pid.is_none_or(|pid| Some(pid) == waiter.pid())
        };
        held.any(|line| is_the_lock(&line.lock)) && blocked.any(|line| is_the_request(&line.lock))
    })
}

struct Graph<'t> {
    /// What each waiting process waits for.
    waits: BTreeMap<u32, Vec<Wait<'t>>>,
    /// What those who wait, or are waited for, do.
    states: HashMap<u32, State>,
    /// Those whom nobody was permitted to look at.
    unseen: &'t [u32],
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
                        somebody_else: living().any(|holder| {
                            holder.process.is_none() || holder.standing == Standing::NotPermitted
                        }),
                    });
                }
            }
        }
        let mut graph = Self { waits, states: HashMap::new(), unseen: &table.gaps.not_permitted };
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

    /// The ancestors of those who could not be looked at, who may have inherited from them.
    fn have_unseen_descendants(&self) -> BTreeSet<u32> {
        let mut ancestors = BTreeSet::new();
        for &unseen in self.unseen {
            let mut next = unseen;
            while let Some(process) = Process::look(next) {
                next = process.parent;
                if next == 0 || !ancestors.insert(next) {
                    break;
                }
            }
        }
        ancestors
    }

    /// Those who will not move by themselves any more; the party by what that thread waits for alone.
    fn stuck(&self, party: Option<&Party<'_>>) -> Stuck {
        let mut stuck =
            Stuck { processes: self.states.keys().copied().collect(), party: party.is_some() };
        let ancestors = self.have_unseen_descendants();
        loop {
            let moving: Vec<u32> = stuck
                .processes
                .iter()
                .copied()
                .filter(|pid| !self.is_stuck(*pid, &self.states[pid], &stuck, party, &ancestors))
                .collect();
            let party_moves = stuck.party
                && !party.is_some_and(|party| {
                    let mut waits = self.waits.get(&party.process).into_iter().flatten();
                    waits.any(|wait| {
                        wait.waiter.thread == Some(party.thread)
                            && wait.is_hopeless(&stuck, Some(party), &ancestors)
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

    fn is_stuck(
        &self,
        pid: u32,
        state: &State,
        stuck: &Stuck,
        party: Option<&Party<'_>>,
        ancestors: &BTreeSet<u32>,
    ) -> bool {
        let waits = self.waits.get(&pid).map_or(&[][..], Vec::as_slice);
        !state.threads.is_empty()
            && state.threads.iter().all(|thread| match thread.does {
                Does::HelpsAnother => true,
                Does::WaitsForChild(child) => stuck.processes.contains(&child),
                Does::WaitsForChildren => {
                    !state.children.is_empty()
                        && state.children.iter().all(|c| stuck.processes.contains(c))
                }
                Does::WaitsForEvents(_) | Does::SomethingElse => false,
                Does::AsksForLock => waits.iter().any(|wait| {
                    wait.is_hopeless(stuck, party, ancestors)
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
    /// Whether nobody is left who could release the lock; also none of those who may have inherited it
    /// from one of the `ancestors`, and could not be looked at.
    fn is_hopeless(
        &self,
        stuck: &Stuck,
        party: Option<&Party<'_>>,
        ancestors: &BTreeSet<u32>,
    ) -> bool {
        let pinned = party.filter(|party| stuck.party && self.is_pinned_by(party));
        !self.somebody_else
            && !self.owners.is_empty()
            && self.owners.is_disjoint(ancestors)
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
    lock.kind.shares_a_space_with(&waiter.kind)
        && lock.mode.conflicts_with(waiter.mode)
        && lock.range.overlaps(waiter.range)
        && !is_his_own(lock, waiter)
}

/// Whether the request is to change this very lock: asked for by its owner, which is a process for
/// `posix`, and an open file description for the others.
fn is_his_own(lock: &Lock, waiter: &Waiter) -> bool {
    lock.kind == waiter.kind
        && lock.holders.iter().filter(|holder| holder.pid() == waiter.pid()).any(|holder| {
            let (Some(pid), Some(has), Some(asks)) =
                (waiter.pid(), holder.descriptor, waiter.descriptor)
            else {
                return lock.kind == Kind::Posix;
            };
            lock.kind == Kind::Posix
                || has == asks
                || compare_descriptions((pid, has), (pid, asks)) == Some(Ordering::Equal)
        })
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
    /// Sleeps until this child ends.
    WaitsForChild(u32),
    /// Sleeps in a lock call, or what it does may not be seen.
    AsksForLock,
    /// Sleeps until the epoll instance with this descriptor has something for it.
    WaitsForEvents(u32),
    SomethingElse,
}

impl State {
    /// The children that a thread waits for.
    fn awaited_children(&self) -> impl Iterator<Item = &u32> {
        let all = self.threads.iter().any(|thread| thread.does == Does::WaitsForChildren);
        self.children.iter().filter(move |child| {
            all || self.threads.iter().any(|thread| thread.does == Does::WaitsForChild(**child))
        })
    }

    /// Nothing is known of those who may not be looked at; they count as moving.
    fn look(pid: u32) -> Self {
        let mut state = Self { threads: Vec::new(), children: Vec::new() };
        let Ok(tasks) = directory(rustix::fs::CWD, &format!("/proc/{pid}/task")) else {
            return state;
        };
        let mut thread_numbers = Vec::new();
        let _gone = numbers(&tasks, Limit(None), |number| thread_numbers.push(number));
        let read = |number: u32, name: &str| {
            let mut text = Vec::new();
            read_at(&tasks, &format!("{number}/{name}"), usize::MAX, &mut text)
                .map(|()| String::from_utf8_lossy(&text).into_owned())
        };
        let own_name = read(pid, "comm").unwrap_or_default();
        for number in thread_numbers {
            let does = match (read(number, "comm"), read(number, "syscall")) {
                // A thread that was given no name has the program's.
                (Ok(name), _) if name.starts_with(HELPERS) && name != own_name => {
                    Does::HelpsAnother
                }
                (_, Ok(call)) => match Does::of(&call) {
                    Does::WaitsForEvents(queue) if has_only_signals(pid, queue) => {
                        Does::WaitsForChildren
                    }
                    does => does,
                },
                (_, Err(_)) => Does::AsksForLock,
            };
            let children = read(number, "children").unwrap_or_default();
            state
                .children
                .extend(children.split_whitespace().filter_map(|c| c.parse::<u32>().ok()));
            state.threads.push(Thread { number, does });
        }
        state
    }
}

/// Whether nothing but signals comes to the epoll instance that is the process's descriptor, as to the one
/// by which `lockmgr run` waits for its command.
fn has_only_signals(pid: u32, queue: u32) -> bool {
    let told = |descriptor: &str| fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}"));
    let is_signalfd = |descriptor: &str| {
        told(descriptor).is_ok_and(|told| told.lines().any(|line| line.starts_with("sigmask:")))
    };
    let queue = told(&queue.to_string()).unwrap_or_default();
    let mut targets = queue.lines().filter_map(|line| line.strip_prefix("tfd:")).peekable();
    targets.peek().is_some()
        && targets.all(|line| line.split_whitespace().next().is_some_and(is_signalfd))
}

/// How the names of this library's threads begin.
pub(super) const HELPERS: &str = "lockmgr-";

impl Does {
    /// By the system call that the thread is in, with its arguments.
    fn of(call: &str) -> Self {
        /// A timeout of -1.
        const FOR_EVER: u32 = u32::MAX;
        if LockCall::of(call).is_some() {
            return Does::AsksForLock;
        }
        let mut words = call.split_ascii_whitespace();
        let Some(Ok(number)) = words.next().map(str::parse::<libc::c_long>) else {
            return Does::SomethingElse;
        };
        let mut argument = || {
            let word = words.next()?.strip_prefix("0x")?;
            // The kernel looks at the lower half of numbers and pointers to nowhere alike.
            u64::from_str_radix(word, 16).ok()
        };
        let (first, second, third, fourth) = (argument(), argument(), argument(), argument());
        let lower_half = |value: u64| u32::try_from(value & 0xffff_ffff).ok();
        let child = |value: Option<u64>| {
            let pid = lower_half(value?)?;
            (pid != 0 && i32::try_from(pid).is_ok()).then_some(Does::WaitsForChild(pid))
        };
        if number == libc::SYS_wait4 {
            child(first).unwrap_or(Does::WaitsForChildren)
        } else if number == libc::SYS_waitid {
            let one = first.and_then(lower_half) == Some(libc::P_PID);
            one.then(|| child(second)).flatten().unwrap_or(Does::WaitsForChildren)
        } else if number == libc::SYS_rt_sigtimedwait && third == Some(0)
            || number == libc::SYS_rt_sigsuspend
        {
            Does::WaitsForChildren
        } else if number == libc::SYS_epoll_pwait
            && fourth.and_then(lower_half) == Some(FOR_EVER)
            && let Some(queue) = first.and_then(lower_half)
        {
            Does::WaitsForEvents(queue)
        } else {
            Does::SomethingElse
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_that_wait_for_children_are_known() {
        let (wait4, waitid) = (libc::SYS_wait4, libc::SYS_waitid);
        let (sigtimedwait, flock) = (libc::SYS_rt_sigtimedwait, libc::SYS_flock);
        let epoll = libc::SYS_epoll_pwait;
        for (call, does) in [
            (format!("{wait4} 0xffffffff 0x7f 0x2 0x0 0x1"), Does::WaitsForChildren),
            (format!("{wait4} 0xffffffffffffffff 0x7f 0x2 0x0"), Does::WaitsForChildren),
            (format!("{wait4} 0x2a 0x7f 0x2 0x0 0x1"), Does::WaitsForChild(42)),
            (format!("{waitid} 0x1 0x2a 0x7f 0x4"), Does::WaitsForChild(42)),
            (format!("{waitid} 0x0 0x0 0x7f 0x4"), Does::WaitsForChildren),
            (format!("{sigtimedwait} 0x7f 0x7f 0x0 0x8"), Does::WaitsForChildren),
            (format!("{sigtimedwait} 0x7f 0x7f 0x7f 0x8"), Does::SomethingElse),
            (format!("{flock} 0x3 0x2 0x0"), Does::AsksForLock),
            (format!("{epoll} 0x4 0x7f 0x2 0xffffffffffffffff 0x0"), Does::WaitsForEvents(4)),
            (format!("{epoll} 0x4 0x7f 0x2 0x1 0x0"), Does::SomethingElse),
            ("running".to_owned(), Does::SomethingElse),
            (String::new(), Does::SomethingElse),
        ] {
            assert!(Does::of(&call) == does, "{call}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\PC|[0-9a-fx ]){0,100}") {
            let _whatever = Does::of(&text);
        }
    }
}
