//! The semaphore under violence: processes that take one slot, or several, while the lock file is
//! deleted and replaced and everybody is killed at random. No slot is ever had twice, none is lost,
//! nobody waits for ever, and in the end everything is free.
//!
//! # The accounts
//! - The *board*, a plain file, has a cell for each slot. Whoever enters must find the cells of its
//!   slots empty, or with the name of a process that was killed inside, and puts its own name there;
//!   whoever leaves must find itself. So there are never more inside than there are slots.
//! - A worker's *log* counts its rounds, over all its lives. That all are done in the end, and that
//!   the sum never stands still for long, says that no slot is lost and that nobody waits for ever.
//!
//! # The violence
//! - Workers know different numbers of slots, and want different numbers of them.
//! - A replacer takes all slots, and then deletes or replaces the lock file.
//! - All are killed and started again, or stopped for a moment, when the sum has reached numbers that
//!   a seed decides. `LOCKMGR_TEST_SEED` repeats a seed.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, Error, Semaphore, SemaphoreGuard};
use support::process::Identity;
use support::random::Random;
use support::{BOUND, Worker, kernel_locks, serve};

const SLOTS: u32 = 4;
const WORKERS: usize = 8;
const ROUNDS: u64 = 3000;
const REPLACER: usize = WORKERS;

#[test]
fn worker() {
    serve(&[("rounds", rounds), ("replace", replace)]);
}

#[test]
fn violence_against_the_semaphore() {
    violence("steady");
}

#[test]
fn violence_against_a_semaphore_whose_file_is_replaced() {
    violence("replaced");
}

/// The referee.
fn violence(kind: &str) {
    let mut random = Random::new();
    let seed = random.seed();
    let dir = tempfile::tempdir().unwrap();
    let place = Place::create(dir.path());
    let start = |index: usize, random: &mut Random| {
        let role = if index == REPLACER { "replace" } else { "rounds" };
        let seed = random.next().to_string();
        Some(Worker::spawn(role, &[dir.path().to_str().unwrap(), &index.to_string(), &seed]))
    };
    let last = if kind == "replaced" { REPLACER } else { WORKERS - 1 };
    let mut processes: Vec<_> = (0..=last).map(|index| start(index, &mut random)).collect();
    let (mut kills, mut next) = (0, random.between(20, 60));
    let mut progress = (0, Instant::now());
    while processes[..WORKERS].iter().any(Option::is_some) {
        for (index, process) in processes.iter_mut().enumerate() {
            let Some(ended) = process.as_mut().and_then(|it| it.child.try_wait().unwrap()) else {
                continue;
            };
            assert!(ended.success() && index != REPLACER, "{index} of {seed}: {ended}");
            *process = None;
        }
        let sum: u64 = (0..WORKERS).map(|index| place.rounds_of(index)).sum();
        if sum != progress.0 {
            progress = (sum, Instant::now());
        }
        assert!(progress.1.elapsed() < BOUND, "{seed}: stuck after {sum} rounds");
        if sum < next {
            thread::sleep(Duration::from_micros(300));
            continue;
        }
        next += random.between(20, 60);
        let index = random.below(processes.len());
        let stop = random.below(4) == 0;
        if let Some(victim) = &mut processes[index] {
            if stop {
                victim.signal(libc::SIGSTOP);
                thread::sleep(Duration::from_millis(1));
                victim.signal(libc::SIGCONT);
            } else {
                victim.kill();
                kills += 1;
                processes[index] = start(index, &mut random);
            }
        }
    }
    drop(processes);
    assert!((0..WORKERS).all(|index| place.rounds_of(index) == ROUNDS), "{seed}");
    // Else the test has lost its teeth.
    let died_inside = get::<1>(&place.open("dead"), 0)[0];
    assert!(kills > 50 && died_inside > 0, "{seed}: {kills} killed, {died_inside} inside");
    let all = Semaphore::open(place.lock_file(), SLOTS).unwrap().try_acquire_many(SLOTS);
    assert_eq!(all.unwrap().slots(), [0, 1, 2, 3], "{seed}");
    assert_eq!(kernel_locks(&place.lock_file()), (0, 0), "{seed}");
    #[expect(clippy::print_stderr, reason = "seen when the output is asked for")]
    {
        eprintln!("{kind}: {kills} killed, {died_inside} found inside");
    }
}

/// Where everything is.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn create(dir: &Path) -> Self {
        fs::write(dir.join("board"), [0; SLOTS as usize * 16]).unwrap();
        fs::write(dir.join("dead"), [0; 8]).unwrap();
        for index in 0..=REPLACER {
            fs::write(dir.join(format!("log.{index}")), [0; 8]).unwrap();
        }
        Self { dir: dir.to_owned() }
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join("a.lock")
    }

    fn open(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.dir.join(name)).unwrap()
    }

    fn rounds_of(&self, index: usize) -> u64 {
        get::<1>(&self.open(&format!("log.{index}")), 0)[0]
    }
}

/// Numbers as they stand in a file, written and read in one call.
fn get<const N: usize>(file: &File, place: u64) -> [u64; N] {
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes[..N * 8], place * 16).unwrap();
    std::array::from_fn(|i| u64::from_ne_bytes(bytes[i * 8..][..8].try_into().unwrap()))
}

fn put(file: &File, place: u64, numbers: &[u64]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    assert_eq!(file.write_at(&bytes, place * 16).unwrap(), bytes.len());
}

/// One process, inside and outside.
struct Player {
    place: Place,
    me: Identity,
    board: File,
    dead: File,
    random: Random,
}

impl Player {
    fn new(args: &[String]) -> Self {
        let place = Place { dir: PathBuf::from(&args[0]) };
        let (board, dead) = (place.open("board"), place.open("dead"));
        let random = Random::from(args[2].parse::<u64>().unwrap());
        Self { place, me: Identity::mine(), board, dead, random }
    }

    fn enter(&mut self, guard: &SemaphoreGuard) {
        for slot in guard.slots() {
            let [pid, start] = get(&self.board, u64::from(*slot));
            if pid != 0 {
                let other = Identity { pid: u32::try_from(pid).unwrap(), start };
                assert!(!other.is_alive(), "{other:?} and {:?} have slot {slot}", self.me);
                // Two may count at once; that at least one is left is all that matters.
                put(&self.dead, 0, &[get::<1>(&self.dead, 0)[0] + 1]);
            }
            put(&self.board, u64::from(*slot), &[u64::from(self.me.pid), self.me.start]);
        }
        if self.random.below(8) == 0 {
            thread::yield_now();
        }
    }

    fn leave(&self, guard: &SemaphoreGuard) {
        for slot in guard.slots() {
            let found = get(&self.board, u64::from(*slot));
            assert_eq!(found, [u64::from(self.me.pid), self.me.start], "I have slot {slot}");
            put(&self.board, u64::from(*slot), &[0, 0]);
        }
    }
}

/// The role of a worker: its number decides how many slots it knows of and how it gets them.
fn rounds(args: &[String]) {
    let index: usize = args[1].parse().unwrap();
    let mut player = Player::new(args);
    let slots = [SLOTS, SLOTS, SLOTS, SLOTS, SLOTS, SLOTS - 1, 2, 1][index];
    let options = Semaphore::options().fair(index != 1);
    let path = player.place.lock_file();
    let open = || options.open(&path, slots).unwrap();
    let kept = open();
    let log = player.place.open(&format!("log.{index}"));
    let mut done = get::<1>(&log, 0)[0];
    while done < ROUNDS {
        let fresh;
        let semaphore = if player.random.below(4) == 0 {
            fresh = open();
            &fresh
        } else {
            &kept
        };
        let most = usize::try_from(slots).unwrap();
        let count = if player.random.below(3) == 0 { player.random.below(most) + 1 } else { 1 };
        let guard = acquire(semaphore, index, u32::try_from(count).unwrap());
        assert_eq!(guard.slots().len(), count);
        assert!(guard.slots().iter().all(|slot| *slot < slots));
        player.enter(&guard);
        player.leave(&guard);
        guard.release().unwrap();
        done += 1;
        put(&log, 0, &[done]);
    }
}

fn acquire(semaphore: &Semaphore, index: usize, count: u32) -> SemaphoreGuard {
    let acquire = semaphore.acquire_many(count);
    match index {
        0 | 1 => acquire.wait().unwrap(),
        2 => impatient(|| acquire.clone().timeout(Duration::from_millis(1)).wait()),
        3 => match acquire.clone().try_now() {
            Err(Error::Busy { .. }) => acquire.timeout(BOUND).wait().unwrap(),
            result => result.unwrap(),
        },
        4 => acquire.timeout(BOUND).cancel(&CancelToken::new()).wait().unwrap(),
        5 => smol::block_on(acquire.into_future()).unwrap(),
        6 => impatient(|| {
            // Dropped while it waits, queues, or is just being granted.
            smol::block_on(smol::future::or(acquire.clone().into_future(), async {
                smol::Timer::after(Duration::from_micros(500)).await;
                acquire.clone().timeout(Duration::ZERO).await
            }))
        }),
        _ => acquire.timeout(BOUND).wait().unwrap(),
    }
}

/// Tries until the deadline leaves time enough.
fn impatient(mut acquire: impl FnMut() -> lockmgr::Result<SemaphoreGuard>) -> SemaphoreGuard {
    loop {
        match acquire() {
            Err(Error::TimedOut { .. }) => {}
            result => return result.unwrap(),
        }
    }
}

/// The role of the replacer; it ends by being killed.
fn replace(args: &[String]) {
    let mut player = Player::new(args);
    let (path, new) = (player.place.lock_file(), player.place.dir.join("new.lock"));
    let semaphore = Semaphore::open(&path, SLOTS).unwrap();
    loop {
        let guard = semaphore.acquire_many(SLOTS).wait().unwrap();
        player.enter(&guard);
        player.leave(&guard);
        if player.random.below(2) == 0 {
            fs::write(&new, "").unwrap();
            fs::rename(&new, &path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        // Others are inside from here on.
        if player.random.below(2) == 0 {
            thread::yield_now();
        }
        assert!(matches!(guard.release(), Err(Error::Replaced { while_held: true, .. })));
        thread::sleep(Duration::from_micros(player.random.between(50, 2000)));
    }
}
