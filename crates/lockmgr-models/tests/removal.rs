//! Removal of the lock file on release: look whether the path still names the locked file, unlink it
//! while it is still locked, then unlock; and whoever is granted the lock looks at the path, too.
//!
//! | step | what it does |
//! |---|---|
//! | `Outside` → `Open` | opens the file that the path names, or creates one |
//! | `Open` → `Locked` | is granted the lock on it |
//! | `Locked` → `Inside`, or → `Outside` | the path still names it; or it does not: unlocks and closes |
//! | `Inside` → `Checked` | before the removal: the path names it |
//! | `Checked` → `Unlinked` | removes the name, whatever file it names |
//! | `Unlinked` → `Outside` | unlocks and closes |

use stateright::{Checker, Model, Property};

const PROCESSES: usize = 3;

/// A file has a number. One that nobody has open, and that has no name, is free to be made again.
type File = usize;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Outside,
    Open(File),
    Locked(File),
    Inside(File),
    Checked(File),
    Unlinked(File),
    Dead,
}

impl At {
    fn file(self) -> Option<File> {
        match self {
            At::Outside | At::Dead => None,
            At::Open(file)
            | At::Locked(file)
            | At::Inside(file)
            | At::Checked(file)
            | At::Unlinked(file) => Some(file),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    at: [At; PROCESSES],
    path: Option<File>,
    /// Who has the lock on each file.
    locks: [Option<usize>; PROCESSES + 1],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    Step(usize),
    Die(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    Complete,
    /// Nobody looks at the path after the grant.
    NoLookAfterGrant,
    /// The classic order: unlock, then unlink.
    UnlockFirst,
}

impl State {
    fn unlock(&mut self, who: usize) {
        for lock in &mut self.locks {
            *lock = lock.filter(|holder| *holder != who);
        }
    }

    /// The lowest number of a file that does not exist.
    fn unused(&self) -> File {
        (0..=PROCESSES)
            .find(|file| {
                self.path != Some(*file) && self.at.iter().all(|at| at.file() != Some(*file))
            })
            .expect("each process has one file at most, and the path one")
    }
}

impl Model for Removal {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { at: [At::Outside; PROCESSES], path: None, locks: [None; PROCESSES + 1] }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for who in 0..PROCESSES {
            if state.at[who] != At::Dead {
                actions.extend([Action::Step(who), Action::Die(who)]);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let who = match action {
            Action::Die(who) => {
                state.unlock(who);
                state.at[who] = At::Dead;
                return Some(state);
            }
            Action::Step(who) => who,
        };
        state.at[who] = match last.at[who] {
            At::Outside => {
                let file = last.path.unwrap_or_else(|| last.unused());
                state.path = Some(file);
                At::Open(file)
            }
            At::Open(file) if last.locks[file].is_none() => {
                state.locks[file] = Some(who);
                At::Locked(file)
            }
            At::Locked(file) if last.path == Some(file) || *self == Removal::NoLookAfterGrant => {
                At::Inside(file)
            }
            At::Inside(file) if last.path == Some(file) => {
                if *self == Removal::UnlockFirst {
                    state.unlock(who);
                }
                At::Checked(file)
            }
            At::Checked(file) => {
                state.path = None;
                At::Unlinked(file)
            }
            // Replaced, or removed.
            At::Locked(_) | At::Inside(_) | At::Unlinked(_) => {
                state.unlock(who);
                At::Outside
            }
            At::Open(_) | At::Dead => return None,
        };
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one inside", |_, state: &State| {
                state.at.iter().filter(|at| matches!(at, At::Inside(_))).count() <= 1
            }),
            Property::always("no other file than one's own is removed", |model, state: &State| {
                // What the unlink of a process would remove now.
                *model != Removal::Complete
                    || state.at.iter().all(|at| match at {
                        At::Checked(file) => state.path == Some(*file),
                        _ => true,
                    })
            }),
            Property::always("somebody can go on", |model: &Removal, state: &State| {
                state.at.iter().all(|at| *at == At::Dead)
                    || (0..PROCESSES)
                        .any(|who| model.next_state(state, Action::Step(who)).is_some())
            }),
            Property::sometimes(
                "somebody waits for a removed file",
                |_, state: &State| matches!(state.at, [At::Unlinked(a), At::Open(b), At::Inside(c)] if a == b && b != c),
            ),
        ]
    }
}

#[test]
fn removal_keeps_its_promises() {
    Removal::Complete.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn without_the_look_after_the_grant_two_get_in() {
    let checker = Removal::NoLookAfterGrant.checker().spawn_bfs().join();
    checker.assert_any_discovery("one inside");
}

#[test]
fn unlocking_before_unlinking_lets_two_in() {
    let checker = Removal::UnlockFirst.checker().spawn_bfs().join();
    checker.assert_any_discovery("one inside");
}
