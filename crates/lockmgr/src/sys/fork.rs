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
//! copies an unlisted descriptor. No fork waits for opens, which can hang. Instead the opener
//! watches for forks ([`Watch`]): if one may have been in the window, the description is closed
//! before any lock was asked for on it, and another one is opened. The copy in the child is of a
//! description that nobody will ever lock. (A bare `clone` is not seen by the watch.) A close needs
//! no such care, because the lock on a description is always released before it is closed.
//!
//! Nothing here, and nothing that a child uses of it, is guarded by a lock that another thread of
//! the parent could have held at the moment of the fork ([`Lazy`]).
//!
//! References: `pthread_atfork(3)`, `madvise(2)`, `open(2)` (`O_PATH`), `dup(2)`.

use std::hint;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

/// The first process that used the library; each fork adds one.
pub(crate) const FIRST_GENERATION: u32 = 1;

static GENERATION: AtomicU32 = AtomicU32::new(FIRST_GENERATION);
/// Forks between their first and their last handler.
static FORKING: AtomicUsize = AtomicUsize::new(0);
/// Forks that are through.
static FORKED: AtomicUsize = AtomicUsize::new(0);
static TABLE: Chunk = Chunk::new();
/// Null until the handlers are installed.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());
/// In the place of the wiped page where there is none: it says nothing.
static NO_PAGE: AtomicU32 = AtomicU32::new(SETTLED);

/// How long an open waits for a moment without forks. Only a fork whose handlers wait for the
/// very thread that opens takes that long.
const PATIENCE: Duration = Duration::from_secs(1);

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
    next: Lazy<Chunk>,
}

impl Chunk {
    const fn new() -> Self {
        Self {
            slots: [const { AtomicI32::new(FREE) }; CHUNK],
            used: AtomicUsize::new(0),
            next: Lazy::new(),
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

/// Lists a descriptor for the at-fork handler.
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
        chunk = chunk.next.get_or_make(Chunk::new);
    }
}

/// Looks out for forks from before a descriptor is opened until it is listed.
pub(crate) struct Watch {
    forked: usize,
    give_up: Option<Instant>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        prepare();
        Self { forked: FORKED.load(Ordering::SeqCst), give_up: None }
    }

    /// Returns whether no fork can have copied the descriptor before it was listed. If not, the
    /// watch begins again, for the next one.
    ///
    /// A fork that copied it began before this and either is not through yet, or has got through
    /// since the watch began.
    pub(crate) fn saw_no_fork(&mut self) -> bool {
        // The entry in the table comes before the look: a fork that is not seen has seen the entry.
        fence(Ordering::SeqCst);
        if FORKING.load(Ordering::SeqCst) == 0 && FORKED.load(Ordering::SeqCst) == self.forked {
            return true;
        }
        self.wait_for_quiet()
    }

    /// Returns true when that takes too long.
    #[cold]
    fn wait_for_quiet(&mut self) -> bool {
        let give_up = *self.give_up.get_or_insert_with(|| Instant::now() + PATIENCE);
        while FORKING.load(Ordering::SeqCst) != 0 {
            if Instant::now() > give_up {
                return true;
            }
            thread::yield_now();
        }
        self.forked = FORKED.load(Ordering::SeqCst);
        Instant::now() > give_up
    }
}

/// Which process this is: the number changes in a forked child, and only there. (Whoever asks wants
/// to know the child by it, so from now on children are told apart.)
pub(crate) fn generation() -> u32 {
    match mark() {
        Some(mark) => settle_if_wiped(mark),
        None => install(),
    }
    GENERATION.load(Ordering::Relaxed)
}

fn settle_if_wiped(mark: &AtomicU32) {
    if mark.load(Ordering::Acquire) != SETTLED {
        settle(mark);
    }
}

/// In a child that no at-fork handler announced: does the handler's work, once.
#[cold]
fn settle(mark: &AtomicU32) {
    match mark.compare_exchange(WIPED, SETTLING, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            // Another thread of the parent may have been forking; of this process, none is
            // ([`before_fork`] comes here first).
            FORKING.store(0, Ordering::SeqCst);
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

fn mark() -> Option<&'static AtomicU32> {
    // SAFETY: null, or a pointer made by `prepare` of a reference that is good for ever.
    unsafe { MARK.load(Ordering::Acquire).as_ref() }
}

/// Installs the handlers and the wiped page; cheap when that was done before.
fn prepare() {
    if mark().is_none() {
        install();
    }
}

/// Two threads may both get here, or a child once more whose parent was just here. Handlers that
/// run twice do no harm.
#[cold]
fn install() {
    // SAFETY: the three handlers are `extern "C"` functions without arguments that live as long
    // as the program; what they do is allowed between fork and exec. Where there is no memory for
    // the entry, the page below still tells a child apart.
    unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_fork_parent), Some(after_fork_child))
    };
    let mark = wiped_page().unwrap_or(&NO_PAGE);
    // A page that comes second is left alone; it is one of a few bytes, once.
    let _ = MARK.compare_exchange(
        ptr::null_mut(),
        ptr::from_ref(mark).cast_mut(),
        Ordering::AcqRel,
        Ordering::Acquire,
    );
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
    // Without a mark somebody else is installing it, and nothing has been asked for yet.
    if let Some(mark) = mark() {
        settle_if_wiped(mark);
    }
    FORKING.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn after_fork_parent() {
    FORKED.fetch_add(1, Ordering::SeqCst);
    FORKING.fetch_sub(1, Ordering::SeqCst);
}

extern "C" fn after_fork_child() {
    // Only the forking thread exists here.
    FORKING.store(0, Ordering::SeqCst);
    disown();
    if let Some(mark) = mark() {
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
        chunk = this.next.get();
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
    next: Lazy<PerProcess<T>>,
}

impl<T: Default + Send> PerProcess<T> {
    pub(crate) const fn new(generation: u32, value: T) -> Self {
        Self { generation, value, next: Lazy::new() }
    }

    /// Whether this process made it, not one that it was forked from.
    pub(crate) fn was_made_here(&self) -> bool {
        self.generation == generation()
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
            place = place.next.get_or_make(|| Self::new(now, T::default()));
        }
        &place.value
    }
}

/// A value that is made when it is first needed, by whoever comes first, without a lock: in a
/// child of a process that was about to make it, a `OnceLock` would never open.
#[derive(Debug)]
struct Lazy<T> {
    pointer: AtomicPtr<T>,
    owned: PhantomData<Box<T>>,
}

impl<T> Lazy<T> {
    const fn new() -> Self {
        Self { pointer: AtomicPtr::new(ptr::null_mut()), owned: PhantomData }
    }
}

impl<T: Send> Lazy<T> {
    fn get(&self) -> Option<&T> {
        // SAFETY: null, or from `Box::into_raw` and not freed before `self` is dropped.
        unsafe { self.pointer.load(Ordering::Acquire).as_ref() }
    }

    fn get_or_make(&self, make: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let new = Box::into_raw(Box::new(make()));
        let none = ptr::null_mut();
        match self.pointer.compare_exchange(none, new, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it came from the box above, and belongs to `self` now.
            Ok(_) => unsafe { &*new },
            Err(winner) => {
                // SAFETY: it came from the box above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                // SAFETY: not null, so from the box of another thread that came first.
                unsafe { &*winner }
            }
        }
    }
}

impl<T> Drop for Lazy<T> {
    fn drop(&mut self) {
        let pointer = *self.pointer.get_mut();
        if !pointer.is_null() {
            // SAFETY: from `Box::into_raw`, and nobody else has `self` any more.
            drop(unsafe { Box::from_raw(pointer) });
        }
    }
}
