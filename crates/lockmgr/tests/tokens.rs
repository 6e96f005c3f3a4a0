//! Fencing tokens: each exclusive hold has a greater one than all before it, whoever is killed, and
//! wherever a write stops. Where that cannot be kept, there is an error and no token.

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use lockmgr::inspect::{Record, last_success};
use lockmgr::{Error, FileLock, FileLockOptions, LockSet, Mechanism, Mode, Range};
use rustix::process::{Resource as Limited, Rlimit, setrlimit};
use support::random::Random;
use support::roles::{TRY, others_get_it};
use support::users::{become_user, can_play_users, chmod, new_user, public_dir};
use support::{BOUND, Worker, alone, eventually, raw, serve};

const MECHANISMS: [Mechanism; 3] = [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix];
const DAY: u64 = 24 * 60 * 60 * 1_000_000;

#[test]
fn worker() {
    serve(&[
        ("rounds", rounds),
        ("small files", small_files),
        ("nothing to write", nothing_to_write),
        ("no sync", no_sync),
        TRY,
    ]);
}

fn fenced(mechanism: Mechanism) -> FileLockOptions {
    FileLock::options().mechanism(mechanism).fenced(true)
}

fn clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_micros().try_into().unwrap()
}

/// What a record says that tells of nothing but a token.
fn bare(token: u64) -> String {
    format!("{{\"lockmgr\":1,\"token\":{token},\"token_again\":{token}}}\n")
}

fn free(path: &Path, mechanism: Mechanism) -> bool {
    others_get_it(&[path.to_str().unwrap(), &mechanism.to_string()])
}

#[test]
fn each_exclusive_hold_has_a_greater_one_however_it_is_acquired() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let before = clock();
        let lock = fenced(mechanism).open(&path).unwrap();
        let mut tokens = vec![lock.lock().unwrap().token()];
        tokens.push(lock.try_lock().unwrap().token());
        tokens.push(lock.acquire().timeout(BOUND).wait_owned().unwrap().token());
        let other = fenced(mechanism).open(&path).unwrap();
        tokens.push(other.lock().unwrap().token());
        if mechanism != Mechanism::Posix {
            tokens.push(runtime.block_on(async { lock.acquire().await.unwrap().token() }));
            let holder = fenced(mechanism).open(&path).unwrap();
            let first = holder.lock().unwrap();
            tokens.push(first.token());
            let waiter = lock.clone();
            let asleep = thread::spawn(move || waiter.acquire().wait_owned().unwrap().token());
            support::wait_for_blocked(&path, 1);
            drop(first);
            tokens.push(asleep.join().unwrap());
            let mut guard = lock.lock_shared().unwrap();
            assert_eq!(guard.token(), None);
            guard.try_upgrade().unwrap();
            tokens.push(guard.token());
            guard.downgrade().unwrap();
            assert_eq!(guard.token(), None, "others may be in");
            guard.try_upgrade().unwrap();
            tokens.push(guard.token());
        }
        let set = LockSet::new().exclusive(&lock);
        tokens.push(set.acquire().wait().unwrap().get(0).unwrap().token());
        let numbers: Vec<u64> = tokens.into_iter().map(|token| token.expect("fenced")).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{mechanism} {numbers:?}");
        assert!(before <= numbers[0] && *numbers.last().unwrap() <= clock() + 100, "{numbers:?}");
        assert!(numbers.iter().all(|number| *number < 1 << 53));
        assert_eq!(FileLock::open(&path).unwrap().lock().unwrap().token(), None, "not fenced");
    }
}

#[test]
fn nested_holds_and_records_have_the_same_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = fenced(Mechanism::Flock).reentrant(true).open(&path).unwrap();
    let outer = lock.lock().unwrap();
    let inner = lock.lock().unwrap();
    assert!(outer.token().is_some() && outer.token() == inner.token());
    assert_eq!(Record::of_lock(&path).unwrap().token, outer.token());
    let token = outer.token().unwrap();
    drop((inner, outer));
    // Those without one of their own hand the last one on.
    for options in [FileLock::options(), FileLock::options().note("x".repeat(2000))] {
        drop(options.record(true).open(&path).unwrap().lock().unwrap());
        assert!(fs::read_to_string(&path).unwrap().contains(&format!("\"token\":{token},")));
    }
    assert!(lock.lock().unwrap().token().unwrap() > token);
}

#[test]
fn a_clock_behind_the_last_token_is_followed_by_one_more_for_a_day() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let ahead = clock() + DAY / 2;
        fs::write(&path, bare(ahead)).unwrap();
        let lock = fenced(mechanism).open(&path).unwrap();
        for more in 1..5 {
            assert_eq!(lock.lock().unwrap().token(), Some(ahead + more));
        }
        for absurd in [clock() + DAY + 60_000_000, (1 << 53) - 1, 9_999_999_999_999_999] {
            let content = bare(absurd);
            fs::write(&path, &content).unwrap();
            let error = lock.lock().unwrap_err();
            assert!(matches!(error, Error::TokenAhead { stored, .. } if stored == absurd));
            let text = error.to_string();
            assert!(text.contains("ahead of the clock") && text.contains("delete"), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content, "neither followed nor lowered");
            assert!(free(&path, mechanism));
        }
    }
}

#[test]
fn a_refused_upgrade_stays_shared_and_a_refused_set_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a.lock"), dir.path().join("b.lock"));
    fs::write(&path, bare((1 << 53) - 1)).unwrap();
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let lock = fenced(mechanism).open(&path).unwrap();
        let mut guard = lock.lock_shared().unwrap();
        assert!(matches!(guard.try_upgrade(), Err(Error::TokenAhead { .. })));
        assert_eq!((guard.is_held(), guard.mode(), guard.token()), (true, Mode::Shared, None));
        let second = FileLock::options().mechanism(mechanism).open(&path).unwrap();
        drop(second.try_lock_shared().unwrap());
        assert!(second.try_lock().is_err());
        guard.unlock().unwrap();
        let beside = FileLock::options().mechanism(mechanism).open(&other).unwrap();
        let set = LockSet::new().exclusive(&beside).exclusive(&lock);
        assert!(matches!(set.acquire().wait(), Err(Error::TokenAhead { .. })));
        assert!(free(&other, mechanism) && free(&path, mechanism));
    }
}

#[test]
fn what_cannot_carry_a_token_is_refused_and_released() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in MECHANISMS {
        let refused = |path: &Path, reason: &str| {
            let error = fenced(mechanism).open(path).unwrap().lock().unwrap_err().to_string();
            assert!(error.contains("fencing token") && error.contains(reason), "{error}");
            assert!(free(path, mechanism), "{mechanism}");
        };
        let path = dir.path().join(format!("{mechanism}.lock"));
        fs::write(&path, "precious").unwrap();
        refused(&path, "did not write");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::write(&path, "").unwrap();
        let link = dir.path().join(format!("{mechanism}.link"));
        fs::hard_link(&path, &link).unwrap();
        refused(&path, "hard link");
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
    let error = fenced(Mechanism::Flock).open(dir.path()).unwrap().lock().unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    let path = dir.path().join("new.lock");
    let range = fenced(Mechanism::Ofd).range(Range::new(0, 9).unwrap()).open(&path);
    assert!(range.unwrap_err().to_string().contains("byte range"));
    let removed = fenced(Mechanism::Flock).remove_on_release(true).open(&path);
    assert!(removed.unwrap_err().to_string().contains("forget"));
    let file = File::create(dir.path().join("own")).unwrap();
    assert!(matches!(
        FileLock::options().fenced(true).from_file(file),
        Err(Error::Unsupported { .. })
    ));
    symlink("own", dir.path().join("link")).unwrap();
    let follow =
        fenced(Mechanism::Flock).follow_symlinks(true).open(dir.path().join("link")).unwrap();
    assert!(follow.lock().unwrap().token().is_some());
}

#[test]
fn a_lock_file_that_may_not_be_written_gives_none() {
    if !can_play_users() {
        return support::skip("needs root, to act as another user");
    }
    let dir = public_dir(0o755);
    let path = dir.path().join("a.lock");
    fs::write(&path, "").unwrap();
    chmod(&path, 0o644);
    alone("nothing to write", &[path.to_str().unwrap(), &new_user().to_string()]);
    assert!(free(&path, Mechanism::Flock));
}

fn nothing_to_write(args: &[String]) {
    become_user(args[1].parse().unwrap());
    let lock = fenced(Mechanism::Flock).open(&args[0]).unwrap();
    let error = lock.lock().unwrap_err();
    assert!(matches!(error, Error::Permission { .. }), "{error}");
    drop(lock.lock_shared().unwrap());
    drop(FileLock::open(&args[0]).unwrap().lock().unwrap());
}

/// A real write of one real record over another, stopped after each byte.
#[test]
fn after_any_torn_write_the_next_token_is_greater() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    // Ahead of the clock, so that only the file can tell; the next one changes all its digits.
    let last = (clock() + DAY / 4) / 1_000_000 * 1_000_000 + 999_999;
    for (old_note, new_note) in [("", ""), ("short", "a much longer one"), ("a long one", "")] {
        fs::write(&path, bare(last - 1)).unwrap();
        let lock = |note: &str| fenced(Mechanism::Flock).note(note).open(&path).unwrap();
        assert_eq!(lock(old_note).lock().unwrap().token(), Some(last));
        let old = fs::read(&path).unwrap();
        assert_eq!(lock(new_note).lock().unwrap().token(), Some(last + 1));
        let mut new = fs::read(&path).unwrap();
        if new.len() < old.len() {
            new.pop();
            new.resize(old.len() - 1, b' ');
            new.push(b'\n');
        }
        for cut in 0..=new.len() {
            let torn = [&new[..cut], old.get(cut..).unwrap_or_default()].concat();
            fs::write(&path, &torn).unwrap();
            let token = lock("again").lock().unwrap().token().unwrap();
            assert!(
                token == last + 1 || token == last + 2,
                "{token} {last} {}",
                torn.escape_ascii()
            );
        }
    }
}

#[test]
fn without_room_to_write_there_is_no_token_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    alone("small files", &[dir.path().join("a.lock").to_str().unwrap()]);
}

fn small_files(args: &[String]) {
    let lock = fenced(Mechanism::Flock).open(&args[0]).unwrap();
    let first = lock.lock().unwrap().token().unwrap();
    let content = fs::read(&args[0]).unwrap();
    for limit in [0, 1, 20, 100, 4095] {
        let maximum = Rlimit { current: Some(limit), maximum: None };
        setrlimit(Limited::Fsize, maximum).unwrap();
        // Beyond the limit a write is a signal that kills.
        let error = lock.lock().unwrap_err();
        assert!(matches!(&error, Error::Io { .. }), "{error}");
        assert_eq!(fs::read(&args[0]).unwrap(), content);
    }
    setrlimit(Limited::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    assert!(lock.lock().unwrap().token().unwrap() > first);
}

#[test]
fn durable_means_that_no_guard_is_returned_before_the_sync() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in MECHANISMS {
        let path = dir.path().join(format!("{mechanism}.lock"));
        let lock = fenced(mechanism).durable(true).open(&path).unwrap();
        let first = lock.lock().unwrap().token();
        assert!(first.is_some() && lock.lock().unwrap().token() > first);
    }
    for call in [libc::SYS_fdatasync, libc::SYS_fsync] {
        let path = dir.path().join(format!("{call}.lock"));
        alone("no sync", &[path.to_str().unwrap(), &call.to_string()]);
    }
}

/// In a process for which the kernel refuses the system call.
fn no_sync(args: &[String]) {
    raw::refuse(args[1].parse().unwrap());
    let lock = fenced(Mechanism::Flock).durable(true).open(&args[0]).unwrap();
    let error = lock.lock().unwrap_err();
    assert!(matches!(&error, Error::Io { .. }), "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(lock.lock_shared().is_ok());
    assert!(fenced(Mechanism::Flock).open(&args[0]).unwrap().lock().unwrap().token().is_some());
}

#[test]
fn a_success_outlives_whoever_had_it() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = FileLock::options().mechanism(mechanism).open(&path).unwrap();
        assert_eq!(last_success(&path), None);
        let before = SystemTime::now() - Duration::from_millis(1);
        let guard = lock.lock().unwrap();
        assert_eq!(guard.last_success(), None);
        guard.mark_success().unwrap();
        let noted = guard.last_success().expect("just now");
        assert!(before <= noted && noted <= SystemTime::now());
        drop(guard);
        assert_eq!(last_success(&path), Some(noted));
        // It goes through other people's records, as they go through it.
        let guard =
            fenced(mechanism).note("mine").open(&path).unwrap().acquire().wait_owned().unwrap();
        assert_eq!(guard.last_success(), Some(noted));
        guard.mark_success().unwrap();
        // An `ofd` holder is looked for among descriptors, which the other tests of this process open
        // and close meanwhile.
        let mut found = None;
        eventually("the record tells of the holder", || {
            found = Record::of_lock(&path);
            found.is_some()
        });
        let record = found.unwrap();
        assert_eq!((record.note.as_deref(), record.token), (Some("mine"), guard.token()));
        assert!(record.last_success >= Some(noted));
        drop(guard);
        let shared = lock.lock_shared().unwrap();
        assert!(matches!(shared.mark_success(), Err(Error::Unsupported { .. })));
        drop(shared);
        fs::write(&path, "precious").unwrap();
        assert!(lock.lock().unwrap().mark_success().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(last_success(&path), None);
    }
}

/// Four processes that are killed at random, and lose and cut their lock file.
///
/// The *resource* is a plain file with the last token and the number of rounds, read and written in one
/// call each. Every fourth worker or so deletes the lock file, under the lock, as its last deed there.
#[test]
fn tokens_grow_under_violence() {
    let text = std::env::var("LOCKMGR_TEST_TOKENS");
    let goal: u64 = text.map_or(20_000, |text| text.parse().expect("a number of tokens"));
    let mut random = Random::new();
    let seed = random.seed();
    let dir = tempfile::tempdir().unwrap();
    let resource = Resource::create(&dir.path().join("resource"));
    let start = |index: usize, random: &mut Random| {
        let kind = ["plain", "noted"][index % 2];
        let words =
            [dir.path().to_str().unwrap(), kind, &goal.to_string(), &random.next().to_string()];
        Some(Worker::spawn("rounds", &words))
    };
    let mut workers: Vec<_> = (0..4).map(|index| start(index, &mut random)).collect();
    let mut kills = 0;
    let (mut next, mut last) = (0, (0, Instant::now()));
    while workers.iter().any(Option::is_some) {
        for worker in &mut workers {
            let Some(ended) = worker.as_mut().and_then(|it| it.child.try_wait().unwrap()) else {
                continue;
            };
            assert!(ended.success(), "{seed}: {ended}");
            *worker = None;
        }
        let (_, rounds, ..) = resource.read();
        if rounds != last.0 {
            last = (rounds, Instant::now());
        }
        assert!(last.1.elapsed() < BOUND, "{seed}: stuck after {rounds} rounds");
        if rounds < next {
            thread::sleep(Duration::from_micros(300));
            continue;
        }
        next = rounds + random.between(goal / 400, goal / 100);
        let index = random.below(workers.len());
        if let Some(victim) = &mut workers[index] {
            victim.kill();
            kills += 1;
            workers[index] = start(index, &mut random);
        }
    }
    let (token, rounds, deletions, cuts) = resource.read();
    assert!(rounds >= goal, "{seed}: {rounds}");
    // Else the test has lost its teeth.
    assert!(kills > 50 && deletions > 50 && cuts > 50, "{seed}: {kills} {deletions} {cuts}");
    eprintln!("{rounds} tokens up to {token}, {kills} killed, {deletions} deletions, {cuts} cuts");
}

/// Arguments: directory, kind, number of rounds of all together, seed.
fn rounds(args: &[String]) {
    let dir = Path::new(&args[0]);
    let (path, goal) = (dir.join("a.lock"), args[2].parse().unwrap());
    let mut random = Random::from(args[3].parse::<u64>().unwrap());
    let resource = Resource::open(&dir.join("resource"));
    let mut seen = BTreeSet::new();
    let noted = args[1] == "noted";
    loop {
        let mut options = fenced(Mechanism::Flock);
        if noted {
            // So that records get longer and shorter.
            options = options.note("x".repeat(random.below(1500)));
        }
        let lock = options.open(&path).unwrap();
        for _ in 0..20 {
            let guard = lock.lock().unwrap();
            let token = guard.token().expect("fenced");
            let (last, rounds, mut deletions, mut cuts) = resource.read();
            assert!(token > last, "{token} comes after {last}, round {rounds}");
            assert!(seen.insert(token));
            let deed = random.below(200);
            deletions += u64::from(deed == 0);
            cuts += u64::from(deed == 1 || deed == 2);
            resource.write((token, rounds + 1, deletions, cuts));
            if rounds + 1 >= goal {
                return;
            }
            match deed {
                0 => fs::remove_file(&path).unwrap(),
                1 => cut(&path, 0),
                // In the middle, but such that it can still be seen whose it was.
                2 => cut(&path, 13 + u64::try_from(random.below(300)).unwrap()),
                _ => {}
            }
        }
        seen.clear();
    }
}

fn cut(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let length = length.min(file.metadata().unwrap().len());
    file.set_len(length).unwrap();
}

/// Last token, rounds, deletions and cuts.
type Account = (u64, u64, u64, u64);

struct Resource(File);

impl Resource {
    fn create(path: &Path) -> Self {
        fs::write(path, [0; 32]).unwrap();
        Self::open(path)
    }

    fn open(path: &Path) -> Self {
        Self(OpenOptions::new().read(true).write(true).open(path).unwrap())
    }

    fn read(&self) -> Account {
        let mut bytes = [0; 32];
        self.0.read_exact_at(&mut bytes, 0).unwrap();
        let number = |index: usize| u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
        (number(0), number(1), number(2), number(3))
    }

    /// In one call, which a SIGKILL does not cut in two.
    fn write(&self, account: Account) {
        let numbers = [account.0, account.1, account.2, account.3];
        let bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
        self.0.write_all_at(&bytes, 0).unwrap();
    }
}
