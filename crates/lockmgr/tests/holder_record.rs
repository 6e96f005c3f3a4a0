//! The record in the lock file: true as far as it is believed, and never at the cost of anybody's data
//! or of the lock.

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockmgr::inspect::Record;
use lockmgr::{Error, FileLock, FileLockOptions, Mechanism, Range};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode as Permissions};
use rustix::process::{Resource, Rlimit, setrlimit};
use support::probe::{from_hex, hex};
use support::roles::{TRY, others_get_it};
use support::users::{
    become_user, can_mount, can_play_users, chmod, in_namespace, new_user, public_dir,
};
use support::{Worker, alone, descriptor_count, hear, say, serve};

#[test]
fn worker() {
    serve(&[
        ("hold", hold),
        ("keep one more", keep_one_more),
        ("read own", read_own),
        ("small files", small_files),
        TRY,
    ]);
}

const MECHANISMS: [&str; 3] = ["flock", "ofd", "posix"];

/// Holds the lock until told otherwise. Arguments: path in hex, mechanism; `note=…`, `shared`,
/// `plain` (no record), `user=…`. Says `held`, or `held, but …` if there is no record.
fn hold(args: &[String]) {
    let mut options = FileLock::options().mechanism(args[1].parse().unwrap()).record(true);
    let mut shared = false;
    for word in &args[2..] {
        match word.split_once('=').unwrap_or((word, "")) {
            ("note", text) => options = options.note(text),
            ("plain", _) => options = options.record(false),
            ("shared", _) => shared = true,
            ("user", id) => become_user(id.parse().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    let lock = options.open(from_hex(&args[0])).unwrap();
    let acquire = lock.acquire();
    let guard = if shared { acquire.shared().wait() } else { acquire.wait() }.unwrap();
    match guard.not_recorded() {
        None => say("held"),
        Some(error) => say(format!("held, but {error}")),
    }
    hear();
    guard.unlock().unwrap();
    say("released");
    hear();
}

fn start(path: &Path, words: &[&str]) -> Worker {
    let path = hex(path);
    Worker::spawn("hold", &[&[path.as_str()], words].concat())
}

fn holder(path: &Path, words: &[&str]) -> Worker {
    let worker = start(path, words);
    worker.expect("held");
    worker
}

fn release(mut holder: Worker) {
    holder.tell("release");
    holder.expect("released");
}

fn recording(mechanism: Mechanism) -> FileLockOptions {
    FileLock::options().mechanism(mechanism).record(true)
}

/// The words of a command line, as the kernel has them.
fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.trim_end_matches('\0').split('\0').map(String::from).collect()
}

#[test]
fn the_record_fits_the_holder() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let before = SystemTime::now() - Duration::from_millis(1);
        let holder = holder(&path, &[mechanism, "note=nightly \"backup\"\nof Ä"]);
        let after = SystemTime::now();
        let pid = holder.pid();

        let record = Record::of_lock(&path).expect(mechanism);
        assert_eq!(record.pid, pid);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
        assert_eq!(record.start.to_string(), fields[19]);
        let sys = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        assert_eq!(record.boot, sys("random/boot_id").trim());
        assert_eq!(record.host, sys("hostname").trim());
        let pidns = fs::read_link(format!("/proc/{pid}/ns/pid")).unwrap();
        assert_eq!(pidns.to_str().unwrap(), format!("pid:[{}]", record.pidns));
        let id = Command::new("id").arg("-un").output().unwrap();
        if id.status.success() {
            assert_eq!(record.user, String::from_utf8(id.stdout).unwrap().trim());
        }
        assert!(before <= record.since && record.since <= after, "{record:?}");
        assert_eq!(record.command, command_line(pid));
        assert_eq!(record.note.as_deref(), Some("nightly \"backup\"\nof Ä"));

        let content = fs::read_to_string(&path).unwrap();
        assert!(content.starts_with("{\"lockmgr\":1,\"pid\":"), "{content}");
        assert_eq!((content.matches('\n').count(), content.ends_with("}\n")), (1, true));

        release(holder);
        assert_eq!(Record::of_lock(&path), None, "{mechanism}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn a_program_can_name_another_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = FileLock::options().record_command(["rsync", "-a"]).open(&path).unwrap();
    let guard = lock.lock().unwrap();
    assert_eq!(Record::of_lock(&path).unwrap().command, ["rsync", "-a"]);
    drop(guard);
    let quiet = FileLock::options().note("x").record(false).open(&path).unwrap();
    let before = fs::read(&path).unwrap();
    let guard = quiet.lock().unwrap();
    assert!(guard.not_recorded().is_none());
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_somebody_elses_stays_byte_for_byte() {
    let long = format!("{{\"lockmgr\":1,{}}}\n", " ".repeat(4096));
    for mechanism in [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix] {
        for content in [
            &b"precious"[..],
            b"\n",
            b"4242\n",
            b"\0",
            b"{}\n",
            b"{\"lockmgr\":2,\"pid\":1}\n",
            b"{\"lockmgr\":1",
            b" {\"lockmgr\":1}\n",
            b"{\"lockmgr\":1}\nand notes\n",
            b"{\"lockmgr\":1}\n\n",
            long.as_bytes(),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.lock");
            fs::write(&path, content).unwrap();
            let before = fs::metadata(&path).unwrap();
            let lock = recording(mechanism).note("mine").open(&path).unwrap();
            let guard = lock.lock().unwrap();
            let error = guard.not_recorded().expect("there is no record").to_string();
            assert!(error.contains("data that lockmgr did not write"), "{error}");
            guard.unlock().unwrap();
            assert!(fs::read(&path).unwrap() == content, "{mechanism} {content:?}");
            let after = fs::metadata(&path).unwrap();
            let times = |status: &fs::Metadata| (status.mtime(), status.mtime_nsec());
            assert_eq!(times(&after), times(&before));
        }
    }
}

#[test]
fn an_empty_file_of_another_name_is_somebody_elses() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a.lock"), dir.path().join("other"));
    fs::write(&other, "").unwrap();
    fs::hard_link(&other, &path).unwrap();
    let lock = recording(Mechanism::Flock).open(&path).unwrap();
    let guard = lock.lock().unwrap();
    assert!(guard.not_recorded().unwrap().to_string().contains("hard link"));
    assert_eq!(fs::read(&other).unwrap(), b"");
}

#[test]
fn directories_and_files_of_proc_are_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let lock = recording(Mechanism::Flock).open(dir.path()).unwrap();
    let error = lock.lock().unwrap().not_recorded().unwrap();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    // It says that it is empty, is writable, and takes what is written for an order.
    let name = "/proc/self/oom_score_adj";
    let before = fs::read(name).unwrap();
    let lock = recording(Mechanism::Flock).create(false).open(name).unwrap();
    let error = lock.lock().unwrap().not_recorded().unwrap();
    assert!(error.to_string().contains("did not write"), "{error}");
    assert_eq!(fs::read(name).unwrap(), before);
}

#[test]
fn a_record_of_ours_is_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let torn = b"{\"lockmgr\":1,\"pid\":7,\"sta";
    for mechanism in [Mechanism::Flock, Mechanism::Ofd, Mechanism::Posix] {
        fs::write(&path, torn).unwrap();
        for note in ["x".repeat(9000), "short".to_owned(), "é\u{1b}\"".repeat(900), String::new()]
        {
            let lock = recording(mechanism).note(&note).open(&path).unwrap();
            let guard = lock.lock().unwrap();
            assert!(guard.not_recorded().is_none());
            let content = fs::read_to_string(&path).unwrap();
            assert!(content.len() <= 4096 && content.ends_with("}\n"), "{content}");
            assert_eq!(content.matches('\n').count(), 1);
            drop(guard);
            let kept = holder(&path, &[&mechanism.to_string(), &format!("note={note}")]);
            let record = Record::of_lock(&path).expect("a record");
            let shown = record.note.unwrap();
            assert!(shown == note || note.starts_with(shown.strip_suffix('…').unwrap()));
            release(kept);
        }
    }
}

#[test]
fn what_the_kernel_does_not_confirm_is_ignored() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let holder = holder(&path, &[mechanism]);
        let whole = fs::read_to_string(&path).unwrap();
        let record = Record::of_lock(&path).expect("it is whole");
        let pid = format!("\"pid\":{},", record.pid);
        let start = format!("\"start\":{},", record.start);
        let pidns = format!("\"pidns\":{},", record.pidns);
        let another_pid = format!("\"pid\":{},", std::process::id());
        let long_note = format!(",\"note\":\"{}\"}}\n", "x".repeat(4096));
        let changed = |part: &str, other: &str| {
            assert!(whole.contains(part), "{whole}: {part}");
            whole.replacen(part, other, 1).into_bytes()
        };
        let mut untrue = vec![
            Vec::new(),
            b"\x7fELF\0\xff\xfe\n".to_vec(),
            vec![0xff; 5000],
            vec![b'{'; 4000],
            [whole.as_bytes(), b"more\n"].concat(),
            [b" ", whole.as_bytes()].concat(),
            changed(&pid, &another_pid),
            changed(&pid, "\"pid\":1,"),
            changed(&start, &format!("\"start\":{},", record.start + 1)),
            changed(&pidns, &format!("\"pidns\":{},", record.pidns + 1)),
            changed(&record.boot, "00000000-0000-0000-0000-000000000000"),
            changed("\"lockmgr\":1", "\"lockmgr\":2"),
            changed("\"since\"", "\"when\""),
            changed("}\n", &long_note),
            changed("\"host\":\"", "\"host\":\"\n"),
        ];
        untrue.extend((0..whole.len()).map(|cut| whole.as_bytes()[..cut].to_vec()));
        for content in untrue {
            // Over it, not in its place: the inode is what is locked.
            fs::write(&path, &content).unwrap();
            assert_eq!(Record::of_lock(&path), None, "{mechanism} {}", content.escape_ascii());
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(Record::of_lock(&path), Some(record));
        release(holder);
    }
}

#[test]
fn what_a_crash_leaves_behind_describes_nobody() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let mut first = holder(&path, &[mechanism, "note=first"]);
        let content = fs::read(&path).unwrap();
        first.kill();
        assert_eq!(Record::of_lock(&path), None);
        // Not the next holder either, whether it shares the lock, or has it alone and says nothing.
        for words in [&[mechanism, "plain"][..], &[mechanism, "plain", "shared"]] {
            let second = holder(&path, words);
            assert_eq!(Record::of_lock(&path), None, "{words:?}");
            assert_eq!(fs::read(&path).unwrap(), content);
            release(second);
        }
        let third = holder(&path, &[mechanism]);
        assert_eq!(Record::of_lock(&path).map(|record| record.pid), Some(third.pid()));
        release(third);
    }
}

#[test]
fn only_who_has_the_file_alone_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    for mechanism in MECHANISMS {
        let shared = start(&path, &[mechanism, "shared"]);
        assert!(shared.next_line().starts_with("held, but "));
        let busy = recording(mechanism.parse().unwrap()).open(&path).unwrap();
        assert!(matches!(busy.try_lock(), Err(Error::Busy { .. })));
        assert!(matches!(busy.lock_timeout(Duration::ZERO), Err(Error::TimedOut { .. })));
        release(shared);
        assert_eq!(fs::read(&path).unwrap(), b"", "{mechanism}");
    }
    for mechanism in [Mechanism::Ofd, Mechanism::Posix] {
        let range = Range::new(0, 100).unwrap();
        let lock = recording(mechanism).range(range).open(&path).unwrap();
        let guard = lock.lock().unwrap();
        assert!(guard.not_recorded().unwrap().to_string().contains("range"));
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
    let file = fs::File::create(&path).unwrap();
    let refused = recording(Mechanism::Flock).from_file(file);
    assert!(matches!(refused, Err(Error::Unsupported { .. })));
}

#[test]
fn an_upgrade_writes_and_a_downgraded_hold_is_not_described() {
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = recording(mechanism).open(&path).unwrap();
        let mut guard = lock.lock_shared().unwrap();
        assert!(guard.not_recorded().is_some());
        guard.try_upgrade().unwrap();
        assert!(guard.not_recorded().is_none());
        assert_eq!(Record::of_lock(&path).unwrap().pid, std::process::id());
        guard.downgrade().unwrap();
        assert_eq!(Record::of_lock(&path), None);
    }
}

#[test]
fn coming_back_to_a_re_entrant_handle_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let lock = recording(Mechanism::Flock).reentrant(true).open(&path).unwrap();
    let outer = lock.lock().unwrap();
    fs::write(&path, "").unwrap();
    let inner = lock.lock().unwrap();
    assert!(inner.not_recorded().is_none());
    assert_eq!(fs::read(&path).unwrap(), b"");
    drop((inner, outer));
}

#[test]
fn tasks_write_whether_they_waited_or_not() {
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let lock = recording(mechanism).note("task").open(&path).unwrap();
        let is_described = || {
            Record::of_lock(&path)
                .is_some_and(|record| record.pid == std::process::id() && record.note.is_some())
        };
        let guard = smol::block_on(lock.acquire().into_future()).unwrap();
        assert!(is_described() && guard.not_recorded().is_none());
        drop(guard);
        let mut other = holder(&path, &[&mechanism.to_string()]);
        assert!(!is_described());
        let waiting = thread::spawn(move || smol::block_on(lock.acquire().into_future()).unwrap());
        support::wait_for_blocked(&path, 1);
        other.tell("release");
        let guard = waiting.join().unwrap();
        assert!(is_described() && guard.not_recorded().is_none());
        other.expect("released");
    }
}

#[test]
fn what_is_about_the_lock_outlives_its_holders() {
    let since_epoch = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        for left in [
            "{\"lockmgr\":1,\"token\":1764000000000000,\"last_success\":\"2026-01-02T03:04:05Z\"}\n",
            "{\"lockmgr\":1,\"token\":1764000000000000,\
             \"last_success\":\"2026-01-02T03:04:05Z\",\"pid\":1,\"boo",
            "{\"lockmgr\":1,\"last_success\":\"2026-01-02T03:04:05Z\",\"pid\":1,\
             \"token_again\":1764000000000000}",
        ] {
            fs::write(&path, left).unwrap();
            assert_eq!(Record::of_lock(&path), None);
            for note in ["long ".repeat(900), "short".to_owned()] {
                let mut holder = holder(&path, &[mechanism, &format!("note={note}")]);
                let record = Record::of_lock(&path).unwrap();
                assert_eq!(record.token, Some(1_764_000_000_000_000));
                assert_eq!(record.last_success, Some(since_epoch(1_767_323_045)));
                holder.kill();
            }
        }
        fs::write(&path, "{\"lockmgr\":1,\"token\":\"many\"}").unwrap();
        let holder = holder(&path, &[mechanism]);
        assert_eq!(Record::of_lock(&path).unwrap().token, None);
        release(holder);
    }
}

#[test]
fn nothing_but_regular_files_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let [path, fifo, link] = ["a.lock", "fifo", "link"].map(|name| dir.path().join(name));
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Permissions::RWXU, 0).unwrap();
    symlink(&path, &link).unwrap();
    let holder = holder(&path, &["flock"]);
    // Every open is an event, but one that only finds the file.
    let opened = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&opened, &fifo, WatchFlags::OPEN).unwrap();
    assert!(Record::of_lock(&path).is_some());
    for other in [&fifo, &link, dir.path(), Path::new("/dev/zero"), Path::new("/nowhere")] {
        assert_eq!(Record::of_lock(other), None);
    }
    assert_eq!(rustix::io::read(&opened, &mut [0; 256]), Err(rustix::io::Errno::AGAIN));
    release(holder);
}

#[test]
fn removal_takes_the_record_along() {
    for mechanism in MECHANISMS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.lock");
        let options = recording(mechanism.parse().unwrap()).remove_on_release(true);
        let lock = options.open(&path).unwrap();
        let guard = lock.lock().unwrap();
        assert!(fs::metadata(&path).unwrap().len() > 0);
        guard.unlock().unwrap();
        assert!(!path.exists());
    }
}

#[test]
fn who_may_not_write_locks_all_the_same() {
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o755);
    let [closed, open] = ["closed", "open"].map(|name| dir.path().join(name));
    for (path, mode) in [(&closed, 0o444), (&open, 0o666)] {
        fs::write(path, "").unwrap();
        chmod(path, mode);
    }
    let id = new_user();
    let user = format!("user={id}");
    let somebody = start(&closed, &["flock", &user]);
    let line = somebody.next_line();
    assert!(line.starts_with("held, but ") && line.contains("opened for writing"), "{line}");
    release(somebody);
    assert_eq!(fs::read(&closed).unwrap(), b"");
    // A lock for everybody has everybody's records, one after the other.
    for mechanism in MECHANISMS {
        for id in [id, new_user()] {
            let somebody = holder(&open, &[mechanism, &format!("user={id}")]);
            let record = Record::of_lock(&open).unwrap();
            assert_eq!((record.pid, record.user), (somebody.pid(), id.to_string()));
            release(somebody);
        }
    }
}

#[test]
fn another_user_reads_what_the_kernel_lets_everybody_know() {
    if !can_play_users() {
        return;
    }
    let dir = public_dir(0o755);
    let path = dir.path().join("a.lock");
    let seen_by_somebody = || {
        let path = path.clone();
        let look = move || {
            become_user(new_user());
            Record::of_lock(&path)
        };
        thread::spawn(look).join().unwrap()
    };
    for mechanism in ["flock", "posix"] {
        let holder = holder(&path, &[mechanism, "note=root's"]);
        let record = seen_by_somebody().expect(mechanism);
        assert_eq!((record.pid, record.user.as_str()), (holder.pid(), "root"));
        release(holder);
    }
    // Whose `ofd` lock it is, it does not.
    let holder = holder(&path, &["ofd"]);
    assert_eq!(seen_by_somebody(), None);
    release(holder);
}

#[test]
fn a_full_or_read_only_filesystem_costs_the_record_only() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    let place = dir.path().to_str().unwrap();
    for (setup, reason) in [
        (format!("mount -t tmpfs -o size=4k none {place}; echo x >{place}/b"), "No space left"),
        (
            format!("mount -t tmpfs none {place}; : >{path:?}; mount -o remount,ro {place}"),
            "Read-only",
        ),
    ] {
        let mut worker = Worker::spawn_with("hold", &[&hex(&path), "flock"], |command| {
            in_namespace(command, &setup);
        });
        let line = worker.next_line();
        assert!(line.starts_with("held, but ") && line.contains(reason), "{line}");
        worker.tell("release");
        worker.expect("released");
    }
}

#[test]
fn a_limit_on_file_sizes_is_no_death_sentence() {
    let dir = tempfile::tempdir().unwrap();
    alone("small files", &[&hex(&dir.path().join("a.lock"))]);
}

fn small_files(args: &[String]) {
    setrlimit(Resource::Fsize, Rlimit { current: Some(100), maximum: Some(100) }).unwrap();
    let path = from_hex(&args[0]);
    for mechanism in [Mechanism::Flock, Mechanism::Ofd] {
        let lock = recording(mechanism).open(&path).unwrap();
        let error = lock.lock().unwrap().not_recorded().expect("no record");
        assert!(error.to_string().contains("too large"), "{error}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"");
}

#[test]
fn writing_and_reading_drop_no_posix_lock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.lock");
    alone("keep one more", &[path.to_str().unwrap()]);
    alone("read own", &[path.to_str().unwrap()]);
}

/// Holds a posix lock, and a flock with a record through another handle, over and over.
fn keep_one_more(args: &[String]) {
    let path = Path::new(&args[0]);
    let posix = FileLock::options().mechanism(Mechanism::Posix).open(path).unwrap();
    let flock = recording(Mechanism::Flock).open(path).unwrap();
    let held = posix.lock().unwrap();
    let before = descriptor_count();
    for _ in 0..50 {
        assert!(flock.lock().unwrap().not_recorded().is_none());
    }
    // The one that was put off. (Counted before another process is started, which costs pipes for a
    // while.)
    assert!(descriptor_count() <= before + 1, "descriptors pile up");
    assert!(!others_get_it(&[&args[0], "posix"]));
    drop((held, flock));
    assert!(others_get_it(&[&args[0], "posix"]));
}

fn read_own(args: &[String]) {
    let path = Path::new(&args[0]);
    let lock = recording(Mechanism::Posix).open(path).unwrap();
    let held = lock.lock().unwrap();
    let before = descriptor_count();
    for _ in 0..50 {
        assert_eq!(Record::of_lock(path).map(|record| record.pid), Some(std::process::id()));
    }
    assert!(descriptor_count() <= before + 1, "descriptors pile up");
    assert!(!others_get_it(&[&args[0], "posix"]));
    drop(held);
    assert!(others_get_it(&[&args[0], "posix"]));
}
