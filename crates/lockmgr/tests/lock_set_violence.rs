//! Sets under violence: processes that take random locks of a few together, in random orders, modes and
//! ways, while they are killed and stopped at random, never meet inside, never get stuck, and leave
//! everything free.
//!
//! # The accounts
//! - Each lock has a *marker*, a plain file: an exclusive holder writes itself into it on entering and
//!   clears it on leaving. Whoever enters, in whatever mode, must find it empty, or find a process that
//!   was killed inside.
//! - The *rounds* file has a number for each worker: its completed rounds. While they grow, nobody is
//!   stuck.
//!
//! Some locks have a second path (a hard link), some are fair, some are record locks that overlap in
//! part. `LOCKMGR_TEST_SEED` repeats a seed.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, Error, FileLock, LockSet, Mechanism, Mode, OwnedLockSetGuard, Range};
use support::process::Identity;
use support::{BOUND, Worker, eventually, kernel_locks, serve};

const WORKERS: usize = 6;
const ROUNDS: u64 = 2000;

/// The locks: path, what is fair, mechanism, range, and the markers that it guards.
type Row = (&'static str, bool, Mechanism, (u64, u64), &'static [u64]);
const LOCKS: [Row; 8] = [
    ("a", false, Mechanism::Flock, (0, 0), &[0]),
    // Another path to `a`.
    ("a2", false, Mechanism::Flock, (0, 0), &[0]),
    ("b", true, Mechanism::Flock, (0, 0), &[1]),
    ("c", true, Mechanism::Ofd, (0, 0), &[2]),
    ("d", false, Mechanism::Ofd, (0, 10), &[3, 4]),
    // Overlaps with the one above.
    ("d", false, Mechanism::Ofd, (5, 10), &[4, 5]),
    ("e", false, Mechanism::Posix, (0, 0), &[6]),
    ("f", true, Mechanism::Flock, (0, 0), &[7]),
];
const MARKERS: usize = 8;

#[test]
fn worker() {
    serve(&[("rounds", rounds)]);
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % bound
    }
}

fn numbers(dir: &Path, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(dir.join(name)).unwrap()
}

fn get<const N: usize>(file: &File, index: u64) -> [u64; N] {
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes[..N * 8], index * 8 * N as u64).unwrap();
    std::array::from_fn(|i| u64::from_ne_bytes(bytes[i * 8..][..8].try_into().unwrap()))
}

fn put(file: &File, index: u64, values: &[u64]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    file.write_all_at(&bytes, index * bytes.len() as u64).unwrap();
}

#[test]
fn sets_under_violence() {
    let seed = std::env::var("LOCKMGR_TEST_SEED").map_or_else(
        |_| u64::from(std::process::id()).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        |seed| seed.parse().unwrap(),
    );
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("markers"), [0; 16 * MARKERS]).unwrap();
    fs::write(dir.path().join("rounds"), [0; 8 * WORKERS]).unwrap();
    for (path, ..) in LOCKS {
        if path == "a2" {
            fs::hard_link(dir.path().join("a"), dir.path().join("a2")).unwrap();
        } else {
            fs::write(dir.path().join(path), "").unwrap();
        }
    }
    let start = |index: usize, random: &mut Random| {
        let (number, seed) = (index.to_string(), (random.below(1 << 40) | 1).to_string());
        Some(Worker::spawn("rounds", &[dir.path().to_str().unwrap(), &number, &seed]))
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|index| start(index, &mut random)).collect();
    let file = numbers(dir.path(), "rounds");
    let completed = || (0..WORKERS as u64).map(|index| get::<1>(&file, index)[0]).sum::<u64>();
    let (mut kills, mut next, mut last) = (0, 20, (0, Instant::now()));
    while workers.iter().any(Option::is_some) {
        for (index, worker) in workers.iter_mut().enumerate() {
            if let Some(status) = worker.as_mut().and_then(|it| it.child.try_wait().unwrap()) {
                assert!(status.success(), "{index}, seed {seed}: {status}");
                *worker = None;
            }
        }
        let sum = completed();
        if sum != last.0 {
            last = (sum, Instant::now());
        }
        assert!(last.1.elapsed() < BOUND, "seed {seed}: stuck after {sum} rounds");
        if sum < next {
            thread::sleep(Duration::from_micros(300));
            continue;
        }
        next += 20 + random.below(60) as u64;
        let index = random.below(WORKERS);
        let stop = random.below(4) == 0;
        if let Some(victim) = &mut workers[index] {
            if stop {
                victim.signal(libc::SIGSTOP);
                thread::sleep(Duration::from_millis(1));
                victim.signal(libc::SIGCONT);
            } else {
                victim.kill();
                kills += 1;
                workers[index] = start(index, &mut random);
            }
        }
    }
    assert_eq!(completed(), ROUNDS * WORKERS as u64);
    assert!(kills > 50, "seed {seed}: {kills} killed");
    for (path, ..) in LOCKS {
        let path = dir.path().join(path);
        eventually("everything is free", || kernel_locks(&path) == (0, 0));
    }
}

fn rounds(args: &[String]) {
    let dir = Path::new(&args[0]);
    let (index, seed): (u64, u64) = (args[1].parse().unwrap(), args[2].parse().unwrap());
    let mut random = Random(seed);
    let (markers, file) = (numbers(dir, "markers"), numbers(dir, "rounds"));
    let locks: Vec<FileLock> = LOCKS
        .iter()
        .map(|(path, fair, mechanism, (start, len), _)| {
            let options = FileLock::options().mechanism(*mechanism).fair(*fair);
            options.range(Range::new(*start, *len).unwrap()).open(dir.join(path)).unwrap()
        })
        .collect();
    let me = Identity::mine();
    let me = [u64::from(me.pid), me.start];
    loop {
        let [done] = get::<1>(&file, index);
        if done == ROUNDS {
            return;
        }
        let mut set = LockSet::new();
        let mut modes = [None; MARKERS];
        for _ in 0..=random.below(4) {
            let which = random.below(LOCKS.len());
            let mode = if random.below(3) == 0 { Mode::Shared } else { Mode::Exclusive };
            set = set.with(&locks[which], mode);
            for marker in LOCKS[which].4 {
                let old: &mut Option<Mode> = &mut modes[usize::try_from(*marker).unwrap()];
                if *old != Some(Mode::Exclusive) {
                    *old = Some(mode);
                }
            }
        }
        let guard = acquire(&set, &mut random);
        for (marker, mode) in (0..).zip(modes) {
            let Some(mode) = mode else { continue };
            let [pid, start] = get::<2>(&markers, marker);
            let inside = Identity { pid: u32::try_from(pid).unwrap(), start };
            assert!(pid == 0 || !inside.is_alive(), "{marker}: {inside:?} is inside too");
            if mode == Mode::Exclusive {
                put(&markers, marker, &me);
            }
        }
        if random.below(8) == 0 {
            thread::yield_now();
        }
        for (marker, mode) in (0..).zip(modes) {
            if mode == Some(Mode::Exclusive) {
                assert_eq!(get::<2>(&markers, marker), me, "{marker}: somebody came in");
                put(&markers, marker, &[0, 0]);
            }
        }
        guard.unlock().unwrap();
        put(&file, index, &[done + 1]);
    }
}

fn acquire(set: &LockSet, random: &mut Random) -> OwnedLockSetGuard {
    let token = CancelToken::new();
    loop {
        let acquire = set.acquire();
        let result = match random.below(5) {
            0 => acquire.wait_owned(),
            1 => acquire.timeout(Duration::from_millis(1)).wait_owned(),
            2 => acquire.try_now_owned(),
            3 => acquire.timeout(BOUND).cancel(&token).wait_owned(),
            _ => match smol::block_on(acquire.timeout(Duration::from_millis(3)).into_future()) {
                // There is a posix lock in it.
                Err(Error::Unsupported { .. }) => set.acquire().wait_owned(),
                result => result,
            },
        };
        match result {
            Err(Error::Busy { .. } | Error::TimedOut { .. }) => {}
            result => return result.unwrap(),
        }
    }
}
