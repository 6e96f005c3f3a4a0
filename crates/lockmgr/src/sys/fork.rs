//! What belongs to which process: descriptors that must not survive into a forked child.
//!
//! A lock lives on the open file description, and `fork` hands every description to the child. Left
//! alone, that copy would keep the lock alive after its owner died, and an unlock through it would
//! free the owner's lock. So:
//!
//! 1. Every descriptor the library keeps is listed in a table ([`list`]).
//! 2. The at-fork handler of the child puts a harmless `O_PATH` descriptor in the place of each
//!    listed one. The number stays taken, so values in the child that still name it can neither
//!    touch the parent's lock nor some unrelated file that got the number later: every read, write
//!    and lock on it fails with `EBADF`.
//! 3. The child is told apart by a generation number, not by its pid (pids are reused, and differ
//!    between pid namespaces). A child made by a bare `clone` system call runs no handler; a page
//!    that the kernel wipes on fork (`MADV_WIPEONFORK`) gives it away, and the first use of any
//!    lock there does what the handler would have done.
//!
//! Between `open` and the entry in the table there is a window in which a fork in another thread
//! would copy an unlisted descriptor. Opens and closes therefore count as in flight
//! ([`InFlight`]), and the at-fork handler waits for them, but at most 10 ms: an `open` that hangs
//! on a dead network mount must not make `fork` hang too. In that one case the child keeps a copy.
//!
//! References: `pthread_atfork(3)`, `madvise(2)`, `open(2)` (`O_PATH`), `dup(2)`.

use std::hint;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The first process that used the library; each fork adds one.
pub(crate) const FIRST_GENERATION: u32 = 1;

static GENERATION: AtomicU32 = AtomicU32::new(FIRST_GENERATION);
static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
static FORKING: AtomicUsize = AtomicUsize::new(0);
static TABLE: Chunk = Chunk::new();
static MARK: OnceLock<Option<&'static AtomicU32>> = OnceLock::new();

/// How long a fork waits for opens and closes in other threads.
const PATIENCE: Duration = Duration::from_millis(10);

const FREE: RawFd = -1;
const CHUNK: usize = 62;

/// Values of the page that the kernel wipes: zero is what a child finds.
const WIPED: u32 = 0;
const SETTLED: u32 = 1;
const SETTLING: u32 = 2;

/// A grow-only list of descriptor numbers that the at-fork handler can walk without a lock.
#[derive(Debug)]
struct Chunk {
    slots: [AtomicI32; CHUNK],
    used: AtomicUsize,
    next: OnceLock<Box<Chunk>>,
}

impl Chunk {
    const fn new() -> Self {
        Self {
            slots: [const { AtomicI32::new(FREE) }; CHUNK],
            used: AtomicUsize::new(0),
            next: OnceLock::new(),
        }
    }
}

/// An entry of the table: given back by [`Slot::free`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    chunk: &'static Chunk,
    index: usize,
}

impl Slot {
    pub(crate) fn free(self) {
        self.chunk.slots[self.index].store(FREE, Ordering::Release);
        self.chunk.used.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lists a descriptor for the at-fork handler. Call it, and [`Slot::free`], under [`in_flight`].
pub(crate) fn list(fd: RawFd) -> Slot {
    prepare();
    let mut chunk: &'static Chunk = &TABLE;
    loop {
        if chunk.used.load(Ordering::Relaxed) < CHUNK {
            for (index, slot) in chunk.slots.iter().enumerate() {
                if slot.load(Ordering::Relaxed) == FREE
                    && slot.compare_exchange(FREE, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    chunk.used.fetch_add(1, Ordering::Relaxed);
                    return Slot { chunk, index };
                }
            }
        }
        chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
    }
}

/// Marks an open or a close that a fork should wait for.
pub(crate) struct InFlight(());

/// Begins an open or a close that a fork should wait for.
pub(crate) fn in_flight() -> InFlight {
    loop {
        IN_FLIGHT.fetch_add(1, Ordering::SeqCst);
        if FORKING.load(Ordering::SeqCst) == 0 {
            return InFlight(());
        }
        IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
        thread::yield_now();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        IN_FLIGHT.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Which process this is: the number changes in a forked child, and only there.
pub(crate) fn generation() -> u32 {
    if let Some(Some(mark)) = MARK.get()
        && mark.load(Ordering::Acquire) != SETTLED
    {
        settle(mark);
    }
    GENERATION.load(Ordering::Relaxed)
}

/// In a child that no at-fork handler announced: does the handler's work, once.
#[cold]
fn settle(mark: &AtomicU32) {
    match mark.compare_exchange(WIPED, SETTLING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            disown();
            mark.store(SETTLED, Ordering::Release);
        }
        Err(_) => {
            while mark.load(Ordering::Acquire) == SETTLING {
                hint::spin_loop();
            }
        }
    }
}

/// Installs the handlers and the wiped page; cheap when that was done before.
fn prepare() {
    MARK.get_or_init(|| {
        // SAFETY: the three handlers are `extern "C"` functions without arguments that live as
        // long as the program; what they do is allowed between fork and exec. Where there is no
        // memory for the entry, the page below still tells a child apart.
        unsafe {
            libc::pthread_atfork(Some(before_fork), Some(after_fork_parent), Some(after_fork_child))
        };
        wiped_page()
    });
}

/// A word that reads [`SETTLED`] here and [`WIPED`] in any copy of this process.
fn wiped_page() -> Option<&'static AtomicU32> {
    let size = 4096;
    // SAFETY: a fresh anonymous private mapping, no address asked for, so no memory of ours is
    // touched. The result is checked below.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is exactly the mapping made above.
    if unsafe { libc::madvise(page, size, libc::MADV_WIPEONFORK) } != 0 {
        // SAFETY: as above; nothing refers to the mapping yet.
        unsafe { libc::munmap(page, size) };
        return None;
    }
    // SAFETY: the mapping is page-aligned, zeroed (a valid AtomicU32), large enough and never
    // unmapped, so the reference is good for the rest of the program.
    let mark = unsafe { &*page.cast::<AtomicU32>() };
    mark.store(SETTLED, Ordering::Release);
    Some(mark)
}

extern "C" fn before_fork() {
    FORKING.fetch_add(1, Ordering::SeqCst);
    let start = Instant::now();
    while IN_FLIGHT.load(Ordering::SeqCst) != 0 && start.elapsed() < PATIENCE {
        thread::yield_now();
    }
}

extern "C" fn after_fork_parent() {
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

extern "C" fn after_fork_child() {
    // Only the forking thread exists here: whatever the others had in flight is gone.
    FORKING.store(0, Ordering::SeqCst);
    IN_FLIGHT.store(0, Ordering::SeqCst);
    disown();
    if let Some(Some(mark)) = MARK.get() {
        mark.store(SETTLED, Ordering::Release);
    }
}

/// Puts a harmless descriptor in the place of every listed one, and starts a new generation.
fn disown() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
    let mut harmless = FREE;
    let mut chunk = Some(&TABLE);
    while let Some(this) = chunk {
        for slot in &this.slots {
            let fd = slot.load(Ordering::Acquire);
            if fd != FREE {
                harmless = replace(fd, harmless);
            }
        }
        chunk = this.next.get().map(|next| &**next);
    }
    if harmless != FREE {
        // SAFETY: `harmless` was opened by `replace` and is listed nowhere.
        unsafe { libc::close(harmless) };
    }
}

/// Replaces `fd`; returns the descriptor to copy from, opened when there is none yet.
///
/// Only async-signal-safe calls: the child of a threaded process may use nothing else.
fn replace(fd: RawFd, harmless: RawFd) -> RawFd {
    let mut source = harmless;
    if source == FREE {
        source = open_harmless();
    }
    if source == FREE {
        // No descriptor is free (EMFILE): giving up the parent's copy makes room for one.
        // SAFETY: `fd` is listed, hence a descriptor of ours that the child must not keep.
        unsafe { libc::close(fd) };
        source = open_harmless();
        if source == fd || source == FREE {
            return FREE;
        }
    }
    // SAFETY: both are descriptors of this process; dup3 has no memory effects.
    unsafe { libc::dup3(source, fd, libc::O_CLOEXEC) };
    source
}

fn open_harmless() -> RawFd {
    // SAFETY: a constant, NUL-terminated path; `open` has no other memory effects.
    unsafe { libc::open(c"/".as_ptr(), libc::O_PATH | libc::O_CLOEXEC) }
}

/// A value that every process has for itself: a forked child starts with a fresh one.
///
/// The parent's value may be locked by a thread that does not exist in the child, so the child
/// never touches it; it is leaked there.
pub(crate) struct PerProcess<T> {
    generation: u32,
    value: T,
    next: OnceLock<Box<PerProcess<T>>>,
}

impl<T: Default> PerProcess<T> {
    pub(crate) const fn new(generation: u32, value: T) -> Self {
        Self { generation, value, next: OnceLock::new() }
    }

    /// The value of this process, when nobody else can see it and it was made here.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        &mut self.value
    }

    /// The value of this process.
    pub(crate) fn get(&self) -> &T {
        let now = generation();
        let mut place = self;
        while place.generation != now {
            place = place.next.get_or_init(|| Box::new(Self::new(now, T::default())));
        }
        &place.value
    }
}
