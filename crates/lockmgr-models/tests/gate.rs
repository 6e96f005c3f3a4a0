//! The gate: take the gate, take the lock, give the gate back at once.
//!
//! What it promises beyond the lock itself: whoever has the gate is the next one to get the lock. A
//! releaser that comes back at once cannot be quicker than a waiter that has yet to wake up.
//!
//! | step | what it does |
//! |---|---|
//! | `Outside` → `WantsGate` | asks for the gate |
//! | `WantsGate` → `WantsLock` | gets the gate; asks for the lock |
//! | `WantsLock` → `Both` | gets the lock |
//! | `Both` → `Inside` | gives the gate back |
//! | `Inside` → `Outside` | gives the lock back |
//!
//! To ask is a step of its own: between it and the grant the process sleeps, and wakes up late.

use stateright::{Checker, Model, Property};

const PROCESSES: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Outside,
    WantsGate,
    WantsLock,
    Both,
    Inside,
    Dead,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    at: [At; PROCESSES],
    gate: Option<usize>,
    lock: Option<usize>,
    /// Somebody got the lock while somebody else was waiting for it with the gate.
    overtaken: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    Step(usize),
    Die(usize),
}

/// The protocol, and what may be taken out of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Complete,
    /// The process with this number goes to the lock directly.
    PassedBy(usize),
    /// Given back before the lock is had.
    GivenBackEarly,
    /// Who has the gate goes in without the lock.
    InsteadOfTheLock,
}

impl Gate {
    fn skips_gate(self, who: usize) -> bool {
        self == Gate::PassedBy(who)
    }
}

impl Model for Gate {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { at: [At::Outside; PROCESSES], gate: None, lock: None, overtaken: false }]
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
                state.at[who] = At::Dead;
                state.gate = state.gate.filter(|holder| *holder != who);
                state.lock = state.lock.filter(|holder| *holder != who);
                return Some(state);
            }
            Action::Step(who) => who,
        };
        state.at[who] = match last.at[who] {
            At::Outside if self.skips_gate(who) => At::WantsLock,
            At::Outside => At::WantsGate,
            At::WantsGate if last.gate.is_none() => {
                if *self != Gate::GivenBackEarly {
                    state.gate = Some(who);
                }
                At::WantsLock
            }
            At::WantsLock if last.lock.is_none() || *self == Gate::InsteadOfTheLock => {
                state.lock = Some(who);
                // Who came to the lock without the gate may be overtaken by right.
                let waits = |other: usize| {
                    other != who && last.at[other] == At::WantsLock && !self.skips_gate(other)
                };
                state.overtaken |= (0..PROCESSES).any(waits);
                At::Both
            }
            At::Both => {
                state.gate = state.gate.filter(|holder| *holder != who);
                At::Inside
            }
            At::Inside => {
                state.lock = state.lock.filter(|holder| *holder != who);
                At::Outside
            }
            At::WantsGate | At::WantsLock | At::Dead => return None,
        };
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one inside", |_, state: &State| {
                state.at.iter().filter(|at| matches!(at, At::Both | At::Inside)).count() <= 1
            }),
            Property::always("nobody is overtaken at the gate", |_, state: &State| {
                !state.overtaken
            }),
            Property::always("somebody can go on", |model: &Gate, state: &State| {
                state.at.iter().all(|at| *at == At::Dead)
                    || (0..PROCESSES)
                        .any(|who| model.next_state(state, Action::Step(who)).is_some())
            }),
            Property::sometimes("everybody waits, and one is inside", |_, state: &State| {
                state.at == [At::Inside, At::WantsLock, At::WantsGate]
            }),
        ]
    }
}

#[test]
fn the_gate_keeps_its_promises() {
    Gate::Complete.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn who_passes_the_gate_by_overtakes() {
    let checker = Gate::PassedBy(0).checker().spawn_bfs().join();
    checker.assert_any_discovery("nobody is overtaken at the gate");
}

#[test]
fn a_gate_that_is_given_back_early_does_nothing() {
    let checker = Gate::GivenBackEarly.checker().spawn_bfs().join();
    checker.assert_any_discovery("nobody is overtaken at the gate");
}

#[test]
fn the_gate_is_no_lock() {
    let checker = Gate::InsteadOfTheLock.checker().spawn_bfs().join();
    checker.assert_any_discovery("one inside");
}
