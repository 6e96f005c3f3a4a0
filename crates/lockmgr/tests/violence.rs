//! Promise 1 under violence: processes that add to one plain file under the lock, while the lock
//! file is deleted and replaced and everybody is killed at random, lose no round and never meet.
//!
//! # The accounts
//! - The *tally*, a plain file, has a column for each process and their sum. A round reads it,
//!   adds one to its own column and to the sum, and writes it back in one call, which a SIGKILL does
//!   not cut in two.
//! - A worker's *log*, which nobody else writes, says how many rounds it has begun and completed. So
//!   at its next entry, also in its next life, it knows what its column must say: exactly the
//!   completed rounds, or one more if it was killed between the two entries. Two that are inside
//!   together write back an old tally, and somebody's column falls behind.
//! - The *marker* says who is inside. Whoever enters must find it empty, or find a process that was
//!   killed inside; whoever leaves must find itself.
//!
//! # The violence
//! - A replacer acquires the lock as everybody does, and then deletes or replaces the lock file;
//!   see [`Replacement`]. From then on it is not inside any more, whatever it goes on holding.
//! - Workers and replacer are killed and started again, or stopped for a moment, when the sum has
//!   reached numbers that a seed decides. `LOCKMGR_TEST_SEED` repeats a seed.

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lockmgr::{CancelToken, Error, FileLock, FileLockGuard, FileLockOptions, LockMgr, Mechanism};
use support::process::Identity;
use support::random::Random;
use support::{BOUND, Worker, serve};

const WORKERS: usize = 8;
const ROUNDS: u64 = 5000;
/// The replacer's column comes after the workers'.
const REPLACER: usize = WORKERS;

#[test]
fn worker() {
    serve(&[("rounds", rounds), ("replace", replace)]);
}

#[test]
fn violence_against_flock() {
    violence("flock");
}

#[test]
fn violence_against_ofd() {
    violence("ofd");
}

#[test]
fn violence_against_posix() {
    violence("posix");
}

#[test]
fn violence_against_fair_flock() {
    violence("fair flock");
}

#[test]
fn violence_against_lockmgr_with_its_removal_on_release() {
    violence("LockMgr");
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
        let dir = dir.path().to_str().unwrap();
        Some(Worker::spawn(role, &[dir, kind, &index.to_string(), &seed]))
    };
    let mut processes: Vec<_> = (0..=REPLACER).map(|index| start(index, &mut random)).collect();
    let tally = place.tally();
    let mut kills = 0;
    let mut next = random.between(30, 150);
    let mut last = (0, Instant::now());
    while processes[..WORKERS].iter().any(Option::is_some) {
        for (index, process) in processes.iter_mut().enumerate() {
            let Some(ended) = process.as_mut().and_then(|it| it.child.try_wait().unwrap()) else {
                continue;
            };
            assert!(ended.success() && index != REPLACER, "{kind} {index} of {seed}: {ended}");
            *process = None;
        }
        let sum = Tally::read(&tally).sum;
        if sum != last.0 {
            last = (sum, Instant::now());
        }
        assert!(last.1.elapsed() < BOUND, "{kind}, {seed}: stuck after {sum} rounds");
        if sum < next {
            thread::sleep(Duration::from_micros(300));
            continue;
        }
        next += random.between(30, 150);
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
    if let Some(mut replacer) = processes.pop().flatten() {
        replacer.kill();
    }
    let tally = Tally::read(&tally);
    tally.check();
    let mut died_inside = 0;
    for index in 0..WORKERS {
        let log = Log::read(&place.log(index));
        assert_eq!(tally.columns[index], ROUNDS, "{kind} {index} of {seed}: {tally:?}");
        assert_eq!((log.begun, log.completed), (ROUNDS, ROUNDS), "{kind} {index} of {seed}");
        died_inside += log.found_dead;
    }
    let replacer = Log::read(&place.log(REPLACER));
    died_inside += replacer.found_dead;
    // Else the test has lost its teeth.
    assert!(kills > 100 && died_inside > 0, "{seed}: {kills} killed, {died_inside} inside");
    assert!(replacer.replacements > 500, "{seed}: {} replacements", replacer.replacements);
    #[expect(clippy::print_stderr, reason = "seen when the output is asked for")]
    {
        let replacements = replacer.replacements;
        eprintln!("{kind}: {kills} killed, {died_inside} inside, {replacements} replacements");
    }
}

/// Where everything is.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn create(dir: &Path) -> Self {
        let place = Self { dir: dir.to_owned() };
        fs::write(dir.join("tally"), [0; Tally::BYTES]).unwrap();
        fs::write(dir.join("marker"), [0; 16]).unwrap();
        for index in 0..=REPLACER {
            fs::write(dir.join(format!("log.{index}")), [0; Log::BYTES]).unwrap();
        }
        place
    }

    fn lock_file(&self) -> PathBuf {
        self.dir.join("a.lock")
    }

    fn tally(&self) -> File {
        self.open("tally")
    }

    fn marker(&self) -> File {
        self.open("marker")
    }

    fn log(&self, index: usize) -> File {
        self.open(&format!("log.{index}"))
    }

    fn open(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).open(self.dir.join(name)).unwrap()
    }
}

/// Numbers as they stand in a file, written and read in one call.
fn get<const N: usize>(file: &File) -> [u64; N] {
    let mut bytes = [0; 128];
    file.read_exact_at(&mut bytes[..N * 8], 0).unwrap();
    std::array::from_fn(|i| u64::from_ne_bytes(bytes[i * 8..][..8].try_into().unwrap()))
}

fn put(file: &File, numbers: &[u64]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
    assert_eq!(file.write_at(&bytes, 0).unwrap(), bytes.len());
}

#[derive(Debug)]
struct Tally {
    sum: u64,
    columns: [u64; WORKERS + 1],
}

impl Tally {
    const BYTES: usize = (WORKERS + 2) * 8;

    fn read(file: &File) -> Self {
        let [sum, columns @ ..]: [u64; WORKERS + 2] = get(file);
        Self { sum, columns }
    }

    fn write(&self, file: &File) {
        let mut numbers = vec![self.sum];
        numbers.extend(self.columns);
        put(file, &numbers);
    }

    fn check(&self) {
        assert_eq!(self.sum, self.columns.iter().sum::<u64>(), "{self:?}");
    }
}

#[derive(Clone, Copy, Default)]
struct Log {
    begun: u64,
    completed: u64,
    /// How often somebody had died inside.
    found_dead: u64,
    replacements: u64,
}

impl Log {
    const BYTES: usize = 4 * 8;

    fn read(file: &File) -> Self {
        let [begun, completed, found_dead, replacements] = get(file);
        Self { begun, completed, found_dead, replacements }
    }

    fn write(&self, file: &File) {
        put(file, &[self.begun, self.completed, self.found_dead, self.replacements]);
    }
}

/// One process, inside and outside.
struct Player {
    index: usize,
    me: Identity,
    tally: File,
    marker: File,
    log_file: File,
    log: Log,
    random: Random,
}

impl Player {
    fn new(place: &Place, index: usize, seed: u64) -> Self {
        let log_file = place.log(index);
        let log = Log::read(&log_file);
        let (tally, marker) = (place.tally(), place.marker());
        let random = Random::from(seed);
        Self { index, me: Identity::mine(), tally, marker, log_file, log, random }
    }

    /// To be called under the lock. After it the player is inside.
    fn enter(&mut self) {
        let [pid, start] = get(&self.marker);
        if pid != 0 {
            let other = Identity { pid: u32::try_from(pid).unwrap(), start };
            assert!(!other.is_alive(), "{other:?} and {:?} are inside together", self.me);
            self.log.found_dead += 1;
            self.log.write(&self.log_file);
        }
        self.mark(Some(self.me));
    }

    /// To be called under the lock, at the end.
    fn leave(&self) {
        let [pid, start] = get(&self.marker);
        assert_eq!(
            (pid, start),
            (u64::from(self.me.pid), self.me.start),
            "it was me who is inside"
        );
        self.mark(None);
    }

    fn mark(&self, who: Option<Identity>) {
        let (pid, start) = who.map_or((0, 0), |who| (u64::from(who.pid), who.start));
        put(&self.marker, &[pid, start]);
    }

    /// To be called under the lock.
    fn count_one(&mut self) {
        let mut tally = Tally::read(&self.tally);
        tally.check();
        let mine = &mut tally.columns[self.index];
        let known = self.log.completed..=self.log.begun;
        assert!(known.contains(mine), "{}: {mine} counted, not {known:?}", self.index);
        // More than one is possible only after a death; now it is known.
        let last = self.index != REPLACER && *mine == ROUNDS;
        self.log.completed = *mine;
        self.log.begun = *mine + u64::from(!last);
        self.log.write(&self.log_file);
        if last {
            // It had died between its last round and its last word.
            return;
        }
        if self.random.below(16) == 0 {
            thread::yield_now();
        }
        *mine += 1;
        tally.sum += 1;
        tally.write(&self.tally);
    }

    /// To be called after the lock was released.
    fn completed(&mut self) {
        self.log.completed = self.log.begun;
        self.log.write(&self.log_file);
    }
}

/// The role of a worker: its number decides by which verbs it gets the lock.
fn rounds(args: &[String]) {
    let place = Place { dir: PathBuf::from(&args[0]) };
    let index = args[2].parse().unwrap();
    let mut player = Player::new(&place, index, args[3].parse().unwrap());
    if args[1] == "LockMgr" {
        return lockmgr_rounds(&place, &mut player);
    }
    let options = options(&args[1]);
    let open = || options.open(place.lock_file()).unwrap();
    let kept = open();
    while player.log.completed < ROUNDS {
        let fresh;
        let lock = if index % 2 == 0 {
            &kept
        } else {
            fresh = open();
            &fresh
        };
        let guard = acquire(lock, index);
        player.enter();
        if player.random.below(8) == 0 {
            // Another handle that comes and goes takes nothing with it.
            drop(open());
        }
        player.count_one();
        player.leave();
        guard.unlock().unwrap();
        player.completed();
    }
}

fn options(kind: &str) -> FileLockOptions {
    let fair = kind.strip_prefix("fair ");
    // A killed LockMgr leaves its file behind, and what it locks is an flock.
    let mechanism = fair.unwrap_or(kind).parse().unwrap_or(Mechanism::Flock);
    FileLock::options().mechanism(mechanism).fair(fair.is_some())
}

enum Guard<'a> {
    Here(FileLockGuard<'a>),
    Owned(lockmgr::OwnedFileLockGuard),
}

impl Guard<'_> {
    fn unlock(self) -> lockmgr::Result<()> {
        match self {
            Guard::Here(guard) => guard.unlock(),
            Guard::Owned(guard) => guard.unlock(),
        }
    }
}

fn acquire(lock: &FileLock, index: usize) -> Guard<'_> {
    Guard::Here(match index {
        0 | 1 => lock.lock().unwrap(),
        2 | 3 => impatient(|| lock.lock_timeout(Duration::from_millis(1))),
        4 => lock.acquire().timeout(BOUND).cancel(&CancelToken::new()).wait().unwrap(),
        5 => match lock.try_lock() {
            Err(Error::Busy { .. }) => lock.lock_timeout(BOUND).unwrap(),
            result => result.unwrap(),
        },
        _ if lock.mechanism() == Mechanism::Posix => lock.lock_timeout(BOUND).unwrap(),
        6 => return Guard::Owned(smol::block_on(lock.acquire().into_future()).unwrap()),
        _ => {
            let short =
                || smol::block_on(lock.acquire().timeout(Duration::from_millis(2)).into_future());
            return Guard::Owned(impatient(short));
        }
    })
}

/// Tries until the deadline leaves time enough.
fn impatient<G>(mut acquire: impl FnMut() -> lockmgr::Result<G>) -> G {
    loop {
        match acquire() {
            Err(Error::TimedOut { .. }) => {}
            result => return result.unwrap(),
        }
    }
}

fn lockmgr_rounds(place: &Place, player: &mut Player) {
    let mut kept = LockMgr::new(place.lock_file());
    while player.log.completed < ROUNDS {
        let mut fresh;
        let lock = if player.index.is_multiple_of(2) {
            &mut kept
        } else {
            fresh = LockMgr::new(place.lock_file());
            &mut fresh
        };
        let acquired = match player.index {
            0..4 => lock.acquire_lock(true, BOUND),
            4 | 5 => lock.acquire_lock(false, BOUND) || lock.acquire_lock(true, BOUND),
            _ => loop {
                if lock.acquire_lock(true, Duration::from_millis(2)) {
                    break true;
                }
                assert!(lock.msg().contains("timed out"), "{}", lock.msg());
            },
        };
        assert!(acquired, "{}", lock.msg());
        player.enter();
        player.count_one();
        player.leave();
        assert!(lock.release_lock());
        assert_eq!(lock.msg(), "success: lock released");
        player.completed();
    }
}

/// What the replacer does when it has the lock.
#[derive(Clone, Copy)]
enum Replacement {
    /// Deletes the lock file and lets go.
    Delete,
    /// Puts another file in its place and lets go.
    Replace,
    /// Deletes or replaces it, but lets go only after others have been inside through the new one:
    /// those who wait for the old one wait for nothing.
    KeepOld { delete: bool },
    /// Puts a file in its place on which it already has the lock, so that it is still inside when
    /// it lets go of the old one.
    KeepNew,
}

/// The role of the replacer; it ends by being killed.
fn replace(args: &[String]) {
    let place = Place { dir: PathBuf::from(&args[0]) };
    let index = args[2].parse().unwrap();
    let mut player = Player::new(&place, index, args[3].parse().unwrap());
    let options = options(&args[1]);
    let (path, new) = (place.lock_file(), place.dir.join("new.lock"));
    let lock = options.open(&path).unwrap();
    loop {
        let guard = lock.lock().unwrap();
        player.enter();
        let replacement = match player.random.below(5) {
            0 => Replacement::Delete,
            1 => Replacement::Replace,
            2 => Replacement::KeepOld { delete: true },
            3 => Replacement::KeepOld { delete: false },
            _ => Replacement::KeepNew,
        };
        player.log.replacements += 1;
        player.log.write(&player.log_file);
        if let Replacement::KeepNew = replacement {
            let next = options.open(&new).unwrap();
            let next_guard = next.lock().unwrap();
            fs::rename(&new, &path).unwrap();
            player.count_one();
            assert!(matches!(guard.unlock(), Err(Error::Replaced { while_held: true, .. })));
            player.leave();
            // It knows its file by another path, which leads nowhere now.
            assert!(matches!(next_guard.unlock(), Err(Error::Replaced { .. })));
            player.completed();
            continue;
        }
        player.leave();
        if let Replacement::Replace | Replacement::KeepOld { delete: false } = replacement {
            fs::write(&new, "").unwrap();
            fs::rename(&new, &path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        // Others are inside from here on.
        if let Replacement::KeepOld { .. } = replacement {
            let before = Tally::read(&player.tally).sum;
            let start = Instant::now();
            while Tally::read(&player.tally).sum == before
                && start.elapsed() < Duration::from_millis(20)
            {
                thread::yield_now();
            }
        }
        assert!(matches!(guard.unlock(), Err(Error::Replaced { while_held: true, .. })));
    }
}
