//! The semaphore's wait: two slots, one who waits for one of them, one who waits for both, and one who
//! only tries to get both. See the module `semaphore` of the library for the protocol in words.
//!
//! | step | what it does |
//! |---|---|
//! | `Outside` → `WantsQueue` → `Head` | asks for the queue, and gets it (those who try do not) |
//! | `Head` → `Looking` | watches the file |
//! | `Looking` | takes one slot after the other, if it is free |
//! | `Looking` → `Asleep` | too few: what was taken is given back, and the event awaited |
//! | `Asleep` → `Looking` | an event has come; or a pause is over |
//! | `Looking` → `Leaving` → `Inside` | enough; gives the queue back |
//! | `Inside` → `Unlocked` | unlocks |
//! | `Unlocked` → `Telling` → `Outside` | sees whether somebody has the queue; touches the file then |
//! | `Dying` → `Dead` | the kernel has told of the close, and unlocks only then |

use stateright::{Checker, Model, Property};

const PROCESSES: usize = 3;
const SLOTS: usize = 2;
const WANTED: [usize; PROCESSES] = [1, 2, 2];
/// Does not queue.
const TRIES: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    Outside,
    WantsQueue,
    Head,
    /// At the slot with this number.
    Looking(usize),
    Asleep,
    Leaving,
    Inside,
    Unlocked,
    Telling,
    /// Only without `watches_first`: has found too few, and watches from now on.
    Late,
    /// Only without `asks_after_unlock`: has found nobody to tell, and unlocks now.
    Silent,
    Dying,
    Dead,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct State {
    at: [At; PROCESSES],
    queue: Option<usize>,
    slots: [Option<usize>; SLOTS],
    /// Events that the watch of each has and that were not taken yet.
    told: [bool; PROCESSES],
    watches: [bool; PROCESSES],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Action {
    Step(usize),
    /// The pause of a sleeper is over.
    Pause(usize),
    Die(usize),
}

/// The protocol: what is there, and what was taken out.
#[derive(Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a part of the protocol of its own")]
struct Wait {
    /// Processes die.
    deaths: bool,
    /// Sleepers look again after pauses.
    pauses: bool,
    /// A release touches the file.
    touches: bool,
    /// So does one who gives a part back.
    touches_after_part: bool,
    /// The watch comes before the look, not after it.
    watches_first: bool,
    /// Whether somebody has the queue is asked after the unlock, not before it.
    asks_after_unlock: bool,
    /// Those who wait queue.
    queues: bool,
}

/// Orderly processes need no pauses: the touch is enough.
const ORDERLY: Wait = Wait {
    deaths: false,
    pauses: false,
    touches: true,
    touches_after_part: true,
    watches_first: true,
    asks_after_unlock: true,
    queues: true,
};

const MORTAL: Wait = Wait { deaths: true, pauses: true, ..ORDERLY };

impl State {
    fn of(&self, who: usize) -> usize {
        self.slots.iter().filter(|holder| **holder == Some(who)).count()
    }

    fn free(&self) -> usize {
        self.slots.iter().filter(|holder| holder.is_none()).count()
    }

    fn unlock(&mut self, who: usize) {
        for slot in &mut self.slots {
            *slot = slot.filter(|holder| *holder != who);
        }
    }

    fn leave_queue(&mut self, who: usize) {
        self.queue = self.queue.filter(|holder| *holder != who);
    }

    /// An event on the file.
    fn tell(&mut self) {
        for who in 0..PROCESSES {
            self.told[who] |= self.watches[who];
        }
    }
}

impl Wait {
    fn step(self, last: &State, who: usize) -> Option<State> {
        let mut state = last.clone();
        let tries = who == TRIES;
        state.at[who] = match last.at[who] {
            At::Outside if tries => At::Looking(0),
            At::Outside if !self.queues => At::Head,
            At::Outside => At::WantsQueue,
            At::WantsQueue if last.queue.is_none() => {
                state.queue = Some(who);
                At::Head
            }
            At::Head => {
                state.watches[who] = self.watches_first;
                At::Looking(0)
            }
            At::Looking(_) if last.of(who) == WANTED[who] => At::Leaving,
            At::Looking(slot) if slot < SLOTS => {
                state.slots[slot] = last.slots[slot].or(Some(who));
                At::Looking(slot + 1)
            }
            // Too few; what was taken is given back.
            At::Looking(_) => {
                state.unlock(who);
                match (tries, last.of(who)) {
                    (true, 1..) if self.touches_after_part => At::Unlocked,
                    (true, _) => At::Outside,
                    // Nobody else sleeps at the file.
                    (false, _) if self.watches_first => At::Asleep,
                    (false, _) => At::Late,
                }
            }
            At::Late => {
                state.watches[who] = true;
                At::Asleep
            }
            At::Asleep if last.told[who] => {
                state.told[who] = false;
                At::Looking(0)
            }
            At::Leaving => {
                state.leave_queue(who);
                state.watches[who] = false;
                state.told[who] = false;
                At::Inside
            }
            At::Inside if self.asks_after_unlock => {
                state.unlock(who);
                At::Unlocked
            }
            At::Inside if last.queue.is_none() => At::Silent,
            At::Inside => At::Unlocked,
            At::Silent => {
                state.unlock(who);
                At::Outside
            }
            At::Unlocked if !self.asks_after_unlock => {
                state.unlock(who);
                At::Telling
            }
            At::Unlocked if last.queue.is_none() => At::Outside,
            At::Unlocked => At::Telling,
            At::Telling => {
                if self.touches {
                    state.tell();
                }
                At::Outside
            }
            At::Dying => {
                state.unlock(who);
                state.leave_queue(who);
                At::Dead
            }
            At::WantsQueue | At::Asleep | At::Dead => return None,
        };
        Some(state)
    }
}

impl Model for Wait {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            at: [At::Outside; PROCESSES],
            queue: None,
            slots: [None; SLOTS],
            told: [false; PROCESSES],
            watches: [false; PROCESSES],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (who, at) in state.at.iter().enumerate() {
            actions.push(Action::Step(who));
            if self.pauses && *at == At::Asleep {
                actions.push(Action::Pause(who));
            }
            if self.deaths && !matches!(at, At::Dying | At::Dead) {
                actions.push(Action::Die(who));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Step(who) => return self.step(last, who),
            Action::Pause(who) => state.at[who] = At::Looking(0),
            Action::Die(who) => {
                state.at[who] = At::Dying;
                state.watches[who] = false;
                state.told[who] = false;
                state.tell();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no more inside than slots", |_, state: &State| {
                let inside =
                    (0..PROCESSES).filter(|who| matches!(state.at[*who], At::Leaving | At::Inside));
                inside.clone().map(|who| WANTED[who]).sum::<usize>() <= SLOTS
                    && inside.clone().all(|who| state.of(who) == WANTED[who])
            }),
            Property::always("nobody sleeps who could go on", |model: &Wait, state: &State| {
                // Somebody is about to tell of what is free.
                let busy = [At::Unlocked, At::Telling, At::Dying];
                let awaited = state.at.iter().any(|at| busy.contains(at));
                (0..PROCESSES).all(|who| {
                    state.at[who] != At::Asleep
                        || state.free() < WANTED[who]
                        || state.told[who]
                        || model.pauses
                        || awaited
                })
            }),
            Property::always("somebody can go on", |model: &Wait, state: &State| {
                state.at.iter().all(|at| *at == At::Dead)
                    || (0..PROCESSES).any(|who| {
                        model.step(state, who).is_some()
                            || model.pauses && state.at[who] == At::Asleep
                    })
            }),
            Property::always("no slot is lost", |_, state: &State| {
                let outside = |at: &At| {
                    matches!(at, At::Outside | At::WantsQueue | At::Head | At::Asleep | At::Dead)
                };
                !state.at.iter().all(outside) || state.free() == SLOTS
            }),
            Property::always("only the head sleeps at the file", |model: &Wait, state: &State| {
                !model.queues
                    || (0..PROCESSES)
                        .all(|who| state.at[who] != At::Asleep || state.queue == Some(who))
            }),
            Property::sometimes("somebody sleeps while somebody queues", |_, state: &State| {
                state.at[0] == At::WantsQueue && state.at[1] == At::Asleep
            }),
        ]
    }
}

fn finds(broken: Wait, property: &'static str) {
    broken.checker().spawn_bfs().join().assert_any_discovery(property);
}

const LOST: &str = "nobody sleeps who could go on";

#[test]
fn the_orderly_need_no_pauses() {
    ORDERLY.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn the_wait_keeps_its_promises_whoever_dies() {
    MORTAL.checker().spawn_bfs().join().assert_properties();
}

#[test]
fn without_pauses_a_death_is_missed() {
    finds(Wait { pauses: false, ..MORTAL }, LOST);
}

#[test]
fn without_the_touch_a_release_is_missed() {
    finds(Wait { touches: false, ..ORDERLY }, LOST);
}

#[test]
fn without_the_touch_a_part_given_back_is_missed() {
    finds(Wait { touches_after_part: false, ..ORDERLY }, LOST);
}

#[test]
fn a_watch_after_the_look_misses_a_release() {
    finds(Wait { watches_first: false, ..ORDERLY }, LOST);
}

#[test]
fn asking_before_the_unlock_misses_a_newcomer() {
    finds(Wait { asks_after_unlock: false, ..ORDERLY }, LOST);
}

#[test]
fn without_the_queue_nobody_is_told() {
    finds(Wait { queues: false, ..ORDERLY }, LOST);
}
