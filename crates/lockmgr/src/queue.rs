//! The queue inside one handle: threads and tasks that share it take turns at the kernel.
//!
//! | state | `shared` | `exclusive` | `turn` |
//! |---|---|---|---|
//! | free | 0 | no | no |
//! | somebody asks the kernel | any | no | yes |
//! | held shared | > 0 | no | no |
//! | held exclusive | 0 | yes | no |
//!
//! At most one thread or task has the *turn*: the right to ask the kernel on the handle's
//! descriptor. The turn for an exclusive lock is given only when nobody holds anything through the
//! handle. Whoever has it either settles it into a hold or gives it back; both hand it on to the
//! front of the queue. Newcomers go to the back, so neither side starves.
//!
//! Somebody who only *tries* does not wait for anybody who sleeps; but while another one asks the kernel
//! without sleeping, it is not known yet whether the lock is to be had. So a try waits in the queue for as
//! long as the one with the turn is awake, and is refused when that one falls asleep.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use rustix::io::Errno;
use rustix::thread::futex;

use crate::cancel::Interrupt;
use crate::contain::contain;
use crate::mode::Mode;
use crate::wait::{self, Limits, Stop};

/// Who holds what through a handle, and who waits.
#[derive(Default)]
pub(crate) struct Queue {
    shared: usize,
    exclusive: bool,
    turn: Option<TurnTaken>,
    /// How many there were.
    turns: u64,
    waiting: VecDeque<Arc<Node>>,
}

/// Who asks for the turn.
#[derive(Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) mode: Mode,
    /// Neither gives up by itself nor can be told to.
    pub(crate) endless: bool,
    /// Makes one attempt and does not wait for the lock.
    pub(crate) trying: bool,
    /// A task, which may not be polled for a while when it is told something.
    pub(crate) task: bool,
}

impl Asker {
    /// A thread or task whose wait can be ended.
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, endless: false, trying: false, task: false }
    }
}

struct TurnTaken {
    asker: Asker,
    number: u64,
    /// May take however long it wants.
    asleep: bool,
    /// Was told to give the turn back, and will.
    leaving: bool,
}

impl Queue {
    /// Takes the turn if nobody is before us.
    ///
    /// `again` says that the calling thread holds the lock shared through this handle already: then
    /// those who queue do not count, because they may be waiting for that very hold.
    pub(crate) fn claim(&mut self, asker: Asker, again: bool) -> bool {
        let first = again || self.waiting.is_empty();
        let claimed = first && self.admits(asker.mode);
        if claimed {
            self.begin(asker, false);
        }
        claimed
    }

    fn begin(&mut self, asker: Asker, asleep: bool) {
        self.turns += 1;
        self.turn = Some(TurnTaken { asker, number: self.turns, asleep, leaving: false });
    }

    /// The number of the last turn that was given.
    pub(crate) fn turn_number(&self) -> u64 {
        self.turns
    }

    /// Shares what is held shared through this handle, whoever has the turn; `again` as for
    /// [`Queue::claim`]. Returns whether anything is.
    pub(crate) fn share(&mut self, again: bool) -> bool {
        let shares = self.shared > 0 && (again || self.waiting.is_empty());
        self.shared += usize::from(shares);
        shares
    }

    fn admits(&self, mode: Mode) -> bool {
        self.turn.is_none() && !self.exclusive && (mode == Mode::Shared || self.shared == 0)
    }

    /// Whether somebody here waits without end for a hold of that mode, which is not held through
    /// this handle, to be given back.
    pub(crate) fn waits_for(&self, held: Mode) -> bool {
        let waits = |asker: &Asker| asker.endless && asker.mode.conflicts_with(held);
        self.turn.as_ref().is_some_and(|turn| waits(&turn.asker))
            || self.waiting.iter().any(|node| waits(&node.asker))
    }

    /// Joins the queue for a try. `None` if there is nothing to wait for: somebody has the lock, or waits
    /// for it.
    pub(crate) fn join_for_try(&mut self, asker: Asker) -> Option<Arc<Node>> {
        let brief = self.turn_is_brief() && self.waiting.iter().all(|node| node.asker.trying);
        (brief && (asker.mode == Mode::Shared || self.shared == 0)).then(|| self.join(asker, false))
    }

    fn turn_is_brief(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| !turn.asleep)
    }

    /// Whoever has the turn is going to sleep with it, unless it was told to give it back.
    pub(crate) fn fall_asleep(&mut self) -> Next {
        if let Some(turn) = &mut self.turn {
            turn.asleep = !turn.leaving;
        }
        self.refuse_tries(Next::default())
    }

    /// A task has noticed that it has the turn.
    pub(crate) fn wake_up(&mut self) {
        if let Some(turn) = &mut self.turn {
            turn.asleep = false;
        }
    }

    /// Whether whoever has the turn was told to give it back.
    pub(crate) fn turn_is_leaving(&self) -> bool {
        self.turn.as_ref().is_some_and(|turn| turn.leaving)
    }

    /// Whoever has the turn of that number was told to give it back.
    pub(crate) fn is_leaving(&mut self, number: u64) {
        if let Some(turn) = self.turn.as_mut().filter(|turn| turn.number == number) {
            (turn.asleep, turn.leaving) = (false, true);
        }
    }

    /// Joins the queue; `again` as for [`Queue::claim`].
    pub(crate) fn join(&mut self, asker: Asker, again: bool) -> Arc<Node> {
        let node = Arc::new(Node::new(asker));
        if again {
            self.waiting.push_front(Arc::clone(&node));
        } else {
            self.waiting.push_back(Arc::clone(&node));
        }
        node
    }

    /// Leaves the queue. Returns false when the turn has been given to the node already: then the
    /// caller has it.
    pub(crate) fn leave(&mut self, node: &Arc<Node>) -> bool {
        let place = self.waiting.iter().position(|other| Arc::ptr_eq(other, node));
        if let Some(index) = place {
            self.waiting.remove(index);
        }
        place.is_some()
    }

    /// Gives the turn to the front of the queue, if it may have it. Tell it with [`Next::tell`], after
    /// the mutex around the queue is released.
    pub(crate) fn pass_on(&mut self) -> Next {
        let mut next = Next::default();
        if let Some(front) = self.waiting.front().map(|node| node.asker)
            && self.admits(front.mode)
        {
            self.begin(front, front.task);
            next.granted = self.waiting.pop_front();
            next.granted.iter().for_each(|node| node.decide(Told::Granted));
        }
        self.refuse_tries(next)
    }

    /// Unless it will be known soon whether there is anything to be had.
    fn refuse_tries(&mut self, mut next: Next) -> Next {
        if !self.turn_is_brief() && self.waiting.iter().any(|node| node.asker.trying) {
            let waiting = std::mem::take(&mut self.waiting);
            let (tries, waiting) = waiting.into_iter().partition(|node| node.asker.trying);
            (next.refused, self.waiting) = (tries, waiting);
            next.refused.iter().for_each(|node| node.decide(Told::Refused));
        }
        next
    }

    /// The turn has become a hold.
    pub(crate) fn settle(&mut self, mode: Mode) {
        self.turn = None;
        self.add(mode);
    }

    /// The turn has come to nothing.
    pub(crate) fn give_back(&mut self) {
        self.turn = None;
    }

    /// A hold has ended.
    pub(crate) fn release(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared -= 1,
            Mode::Exclusive => self.exclusive = false,
        }
    }

    /// A hold that came from elsewhere.
    pub(crate) fn add(&mut self, mode: Mode) {
        match mode {
            Mode::Shared => self.shared += 1,
            Mode::Exclusive => self.exclusive = true,
        }
    }

    /// Whether somebody has the turn.
    pub(crate) fn is_asking(&self) -> bool {
        self.turn.is_some()
    }

    /// Whether the one who asks is the only one who holds or tries anything.
    pub(crate) fn is_sole_holder(&self) -> bool {
        self.turn.is_none() && (self.exclusive || self.shared == 1)
    }
}

/// Who is to be told of a change.
#[must_use]
#[derive(Default)]
pub(crate) struct Next {
    granted: Option<Arc<Node>>,
    refused: VecDeque<Arc<Node>>,
}

impl Next {
    /// Not under the mutex: a waker may run code of the program.
    pub(crate) fn tell(self) {
        self.refused.iter().chain(&self.granted).for_each(|node| node.interrupt());
    }
}

/// A thread or task in a queue of this process.
pub(crate) struct Node {
    asker: Asker,
    state: Mutex<NodeState>,
    /// How often it was told something, as a futex: unlike the standard library's condition variable, it
    /// lets a signal through.
    times_told: AtomicU32,
}

#[derive(Default)]
struct NodeState {
    told: Option<Told>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// It is its turn.
    Granted,
    /// A try is over.
    Refused,
}

impl Node {
    pub(crate) fn new(asker: Asker) -> Self {
        Self { asker, state: Mutex::default(), times_told: AtomicU32::new(0) }
    }

    pub(crate) fn is_for_try(&self) -> bool {
        self.asker.trying
    }

    /// It is this one's turn.
    pub(crate) fn grant(&self) {
        self.decide(Told::Granted);
        self.interrupt();
    }

    /// Under the mutex around the queue, with which it is out of the queue; told it is after that.
    fn decide(&self, told: Told) {
        self.state().told = Some(told);
    }

    /// What was decided.
    pub(crate) fn told(&self) -> Option<Told> {
        self.state().told
    }

    /// Waits as a try does: until it is our turn, or nothing is to be had. Returns which.
    pub(crate) fn wait_for_try(&self) -> Told {
        loop {
            let count = self.times_told.load(Ordering::SeqCst);
            if let Some(told) = self.told() {
                return told;
            }
            // Whatever ends it, one looks again.
            let _ = futex::wait(&self.times_told, futex::Flags::PRIVATE, count, None);
        }
    }

    /// Sleeps until it is our turn. After an error the node is still in its queue, or has just been
    /// given the turn.
    pub(crate) fn wait(self: &Arc<Self>, limits: Limits<'_>) -> Result<(), Stop> {
        let _entries: Vec<_> = limits
            .tokens
            .iter()
            .map(|token| token.enter(Arc::clone(self) as Arc<dyn Interrupt>))
            .collect();
        loop {
            // Read before the look: what changes after it changes this, too.
            let told = self.times_told.load(Ordering::SeqCst);
            if self.told().is_some() {
                return Ok(());
            }
            limits.check()?;
            let left = limits.deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                // Longer than the kernel can count is looked at again in a few billion years.
                left.try_into().unwrap_or(futex::Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
            });
            // Else it was told, had been told before it slept, or is out of time.
            let slept = futex::wait(&self.times_told, futex::Flags::PRIVATE, told, left.as_ref());
            if slept == Err(Errno::INTR) {
                wait::interrupted()?;
            }
        }
    }

    /// Returns what we were told; if nothing yet, the waker is woken when that may have changed.
    pub(crate) fn poll(&self, waker: &Waker) -> Option<Told> {
        let mut state = self.state();
        if state.told.is_some() {
            return state.told;
        }
        let old = state.waker.replace(waker.clone());
        drop(state);
        // A waker belongs to the program: dropping the last one of a task may run any code.
        drop(old);
        None
    }

    fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupt for Node {
    fn interrupt(&self) {
        let waker = self.state().waker.take();
        self.times_told.fetch_add(1, Ordering::SeqCst);
        // It cannot fail for a futex that is there.
        let _ = futex::wake(&self.times_told, futex::Flags::PRIVATE, 1);
        if let Some(waker) = waker {
            // Whoever releases the lock is not to pay for the next one's waker.
            contain(|| waker.wake());
        }
    }
}
