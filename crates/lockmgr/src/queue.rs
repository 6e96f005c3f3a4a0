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

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use rustix::io::Errno;
use rustix::thread::futex;

use crate::cancel::Interrupt;
use crate::mode::Mode;
use crate::wait::{self, Limits, Stop};

/// Who holds what through a handle, and who waits.
#[derive(Default)]
pub(crate) struct Queue {
    shared: usize,
    exclusive: bool,
    turn: Option<Asker>,
    waiting: VecDeque<Arc<Node>>,
}

/// Who asks for the turn.
#[derive(Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) mode: Mode,
    /// Neither gives up by itself nor can be told to.
    pub(crate) endless: bool,
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
            self.turn = Some(asker);
        }
        claimed
    }

    fn admits(&self, mode: Mode) -> bool {
        self.turn.is_none() && !self.exclusive && (mode == Mode::Shared || self.shared == 0)
    }

    /// Whether somebody here waits without end for a hold of that mode, which is not held through
    /// this handle, to be given back.
    pub(crate) fn waits_for(&self, held: Mode) -> bool {
        let waits = |asker: &Asker| asker.endless && asker.mode.conflicts_with(held);
        self.turn.as_ref().is_some_and(waits) || self.waiting.iter().any(|node| waits(&node.asker))
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

    /// Gives the turn to the front of the queue, if it may have it. Tell it with [`Node::grant`],
    /// after the mutex around the queue is released.
    #[must_use]
    pub(crate) fn pass_on(&mut self) -> Option<Arc<Node>> {
        let front = self.waiting.front()?;
        if !self.admits(front.asker.mode) {
            return None;
        }
        self.turn = Some(front.asker);
        self.waiting.pop_front()
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

    /// Whether the one who asks is the only one who holds or tries anything.
    pub(crate) fn is_sole_holder(&self) -> bool {
        self.turn.is_none() && (self.exclusive || self.shared == 1)
    }
}

/// A thread or task in a queue of this process.
pub(crate) struct Node {
    asker: Asker,
    state: Mutex<NodeState>,
    /// How often it was told something, as a futex: unlike the standard library's condition variable, it
    /// lets a signal through.
    told: AtomicU32,
}

#[derive(Default)]
struct NodeState {
    granted: bool,
    waker: Option<Waker>,
}

impl Node {
    pub(crate) fn new(asker: Asker) -> Self {
        Self { asker, state: Mutex::default(), told: AtomicU32::new(0) }
    }

    /// It is this one's turn.
    pub(crate) fn grant(&self) {
        self.state().granted = true;
        self.interrupt();
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
            let told = self.told.load(Ordering::SeqCst);
            if self.state().granted {
                return Ok(());
            }
            limits.check()?;
            let left = limits.deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(Instant::now());
                // Longer than the kernel can count is looked at again in a few billion years.
                left.try_into().unwrap_or(futex::Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
            });
            // Else it was told, had been told before it slept, or is out of time.
            let slept = futex::wait(&self.told, futex::Flags::PRIVATE, told, left.as_ref());
            if slept == Err(Errno::INTR) {
                wait::interrupted()?;
            }
        }
    }

    /// Returns whether it is our turn; if not, the waker is woken when that may have changed.
    pub(crate) fn poll(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if state.granted {
            return true;
        }
        let old = state.waker.replace(waker.clone());
        drop(state);
        // A waker belongs to the program: dropping the last one of a task may run any code.
        drop(old);
        false
    }

    fn state(&self) -> MutexGuard<'_, NodeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Interrupt for Node {
    fn interrupt(&self) {
        let waker = self.state().waker.take();
        self.told.fetch_add(1, Ordering::SeqCst);
        // It cannot fail for a futex that is there.
        let _ = futex::wake(&self.told, futex::Flags::PRIVATE, 1);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
