//! `lockmgr lab` asks the kernel, tells what differs from what is expected, always ends, and leaves nothing
//! behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use lockmgr_testfs::{Kind, Locks, Server, TestFs};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Finished, LOCKMGR, Running, Scratch, finished, has, is_locked, is_root, json, pid, skip, state,
    take_write_lease, wait_until,
};
use crate::terminal::Terminal;

/// The door for the servers of the filesystems.
#[test]
fn testfs() {
    lockmgr_testfs::serve();
}

fn mounted(kind: Kind) -> Option<TestFs> {
    TestFs::mount(kind, &Server::of_test("lab::testfs"))
        .map_err(|skipped| skip(&skipped.to_string()))
        .ok()
}

fn lab(dir: &Path, words: &[&str]) -> Finished {
    let scratch = Scratch::new();
    let mut command = scratch.lockmgr(&["lab", "--dir"]);
    finished(command.arg(dir).args(words))
}

#[track_caller]
fn is_empty(dir: &Path) {
    let left: Vec<_> = entries(dir);
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// What is in the directory, apart from what `mkfs` has put there.
fn entries(dir: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(dir).expect("it is a directory");
    entries
        .map(|entry| entry.expect("it can be read").file_name())
        .filter(|name| name != "lost+found")
        .collect()
}

/// Every answer of the document, with its probe.
fn answers(document: &Value) -> Vec<(&Value, &Value)> {
    let probes = document["probes"].as_array().expect("a list");
    probes
        .iter()
        .flat_map(|probe| {
            let answers = probe["answers"].as_array().expect("a list");
            answers.iter().map(move |answer| (probe, answer))
        })
        .collect()
}

/// Everything is asked, and answered as expected, with its evidence.
#[track_caller]
fn is_as_expected(dir: &Path) {
    let ran = lab(dir, &["--json"]);
    let document = json(&ran);
    let mut asked = 0;
    for (probe, answer) in answers(&document) {
        assert_eq!(answer["as_expected"], true, "{}: {answer}", probe["name"]);
        if answer["verdict"] != "not applicable" {
            asked += 1;
            let steps = answer["steps"].as_array().expect("a list");
            assert!(steps.len() >= 2, "no evidence: {}: {answer}", probe["name"]);
        }
    }
    assert!(asked > 180, "{asked}");
    assert_eq!(document["asked"], asked);
    assert_eq!(document["unexpected"], 0);
    ran.exits(0);
    is_empty(dir);
}

#[test]
fn all_is_as_expected_in_the_directory_for_temporary_files() {
    let scratch = Scratch::new();
    is_as_expected(scratch.dir());
}

macro_rules! all_is_as_expected_on {
    ($($name:ident: $kind:expr;)*) => {
        mod all_is_as_expected_on {
            use super::*;

            $(#[test]
            fn $name() {
                if let Some(fs) = mounted($kind) {
                    is_as_expected(fs.path());
                }
            })*
        }
    };
}

all_is_as_expected_on! {
    ext4: Kind::Ext4;
    tmpfs: Kind::Tmpfs;
    xfs: Kind::Xfs;
    btrfs: Kind::Btrfs;
    overlay: Kind::Overlay;
    fuse_with_the_kernels_locks: Kind::Fuse(Locks::Local);
}

/// Every verdict, by probe and mechanism.
fn verdicts(document: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    answers(document)
        .into_iter()
        .map(|(probe, answer)| {
            (text(&probe["name"]), text(&answer["mechanism"]), text(&answer["verdict"]))
        })
        .collect()
}

#[test]
fn a_filesystem_whose_locks_fail_is_no_answer_and_not_as_expected() {
    for (locks, errno) in [(Locks::NoLocks, "ENOLCK"), (Locks::NoSys, "ENOSYS")] {
        let Some(fs) = mounted(Kind::Fuse(locks)) else { return };
        let ran = lab(fs.path(), &["processes", "create-exclusive", "--json"]);
        let document = json(&ran);
        for (probe, answer) in answers(&document) {
            if probe["name"] == "processes" {
                assert_eq!(answer["verdict"], "error", "{answer}");
                assert_eq!((&answer["cause"], &answer["errno"]), (&"call".into(), &errno.into()));
                assert_eq!(answer["as_expected"], false);
            } else {
                assert_eq!(answer["as_expected"], true, "names are no locks: {answer}");
            }
        }
        assert_eq!(document["unexpected"], 3);
        assert_eq!(document["filesystem"]["kind"].as_str().map(|kind| &kind[..4]), Some("fuse"));
        ran.exits(1);
        is_empty(fs.path());
    }
}

#[test]
fn a_filesystem_that_grants_everything_is_caught() {
    let Some(fs) = mounted(Kind::Fuse(Locks::Sham)) else { return };
    let ran = lab(fs.path(), &["processes", "shared"]);
    ran.exits(1);
    for mechanism in ["flock", "ofd", "posix"] {
        let line =
            format!("  processes, {mechanism}: expected yes, and it is no: A and B both have it\n");
        assert!(ran.out.contains(&line), "{ran:?}");
    }
    assert!(ran.out.contains("no!"), "{ran:?}");
    assert!(ran.out.contains("2 questions, 6 answers, 3 not as expected ("), "{ran:?}");
}

#[test]
fn where_flock_is_a_record_lock_the_matrix_shows_it() {
    let Some(fs) = mounted(Kind::Fuse(Locks::Served)) else { return };
    let ran = lab(fs.path(), &["against-*", "processes", "--json"]);
    let document = json(&ran);
    for (probe, mechanism, verdict) in verdicts(&document) {
        assert_eq!(verdict, "yes", "{probe} {mechanism}");
    }
    // Four of them are not so on a local filesystem.
    assert_eq!(document["unexpected"], 4);
    ran.exits(1);
}

#[test]
fn a_wait_that_never_ends_is_ended() {
    let Some(fs) = mounted(Kind::Fuse(Locks::Hang)) else { return };
    let ran = lab(fs.path(), &["wait-free", "processes", "--deadline", "300ms", "--json"]);
    for (probe, answer) in answers(&json(&ran)) {
        if probe["name"] == "processes" {
            assert_eq!(answer["verdict"], "yes", "{answer}");
            continue;
        }
        assert_eq!(answer["verdict"], "error", "{answer}");
        let cause = answer["cause"].as_str().expect("there is one");
        assert!(["hangs", "stuck"].contains(&cause), "{answer}");
        let steps = answer["steps"].as_array().expect("a list");
        let last = steps.last().expect("evidence");
        assert_eq!(last["outcome"], "does not come back", "{answer}");
    }
    ran.exits(1);
    is_empty(fs.path());
}

#[test]
fn a_filesystem_that_answers_nothing_at_all_is_named() {
    let Some(fs) = mounted(Kind::Fuse(Locks::Local)) else { return };
    fs.freeze();
    let ran = lab(fs.path(), &["--deadline", "300ms"]);
    fs.thaw();
    ran.exits(73).says(&["does not answer", "--dir"]);
    assert_eq!(ran.out, "");
}

/// An actor that dies of what it is told to do: its answer is missing, and nothing else.
#[test]
fn an_answer_that_is_missing_is_not_as_expected() {
    let scratch = Scratch::new();
    let ran = scratch.sh("ulimit -f 1; exec \"$LOCKMGR\" lab range-grows range-last -m ofd");
    ran.exits(1);
    assert!(ran.out.contains("range-grows, ofd: expected yes, and there is no answer:"), "{ran:?}");
    assert!(ran.out.contains("2 questions, 2 answers, 1 not as expected ("), "{ran:?}");
    is_empty(scratch.dir());
}

#[test]
fn directories_that_will_not_do_are_named() {
    let scratch = Scratch::new();
    fs::write(scratch.path("file"), "").expect("a file");
    symlink("nowhere", scratch.path("dangling")).expect("a link");
    let mut bad = vec!["missing", "file", "dangling", "/sys/fs", "missing\x1b[31m"];
    if !is_root() {
        bad.push("/");
    }
    for dir in bad {
        let ran = scratch.run(&["lab", "--dir", dir]);
        ran.exits(73).says(&["cannot make a scratch directory in", "--dir"]);
        assert_eq!(ran.out, "", "{dir}");
        assert!(!ran.err.contains('\x1b'), "{ran:?}");
    }
    assert_eq!(entries(scratch.dir()).len(), 2);
}

#[test]
fn without_a_view_of_its_processes_it_says_so() {
    let scratch = Scratch::new();
    let foreign = finished(&mut scratch.command(&["unshare", "--pid", "--fork", "true"]));
    if foreign.code != Some(0) {
        skip(&format!("no pid namespace can be made: {}", foreign.err.trim()));
        return;
    }
    let ran = finished(&mut scratch.command(&["unshare", "--pid", "--fork", LOCKMGR, "lab"]));
    ran.exits(74).says(&["/proc", "another pid namespace"]);
    let words = ["unshare", "--pid", "--fork", "--mount-proc", LOCKMGR, "lab", "wait", "table*"];
    finished(&mut scratch.command(&words)).exits(0);
    is_empty(scratch.dir());
}

#[test]
fn a_link_to_a_directory_and_an_odd_name_will_do() {
    let scratch = Scratch::new();
    let odd = "a b\n*";
    fs::create_dir(scratch.path(odd)).expect("a directory");
    symlink(odd, scratch.path("link")).expect("a link");
    for dir in [odd, "link", "."] {
        scratch.run(&["lab", "processes", "--dir", dir]).exits(0);
    }
    is_empty(&scratch.path(odd));
}

#[test]
fn words_that_are_no_probes_are_refused() {
    let scratch = Scratch::new();
    for words in [
        &["lab", "nosuch"][..],
        &["lab", "processes", "nosuch*"],
        &["lab", "-m", "lockf"],
        &["lab", "--deadline", "0"],
        &["lab", "--dir", ""],
        &["lab", "try"],
        &["lab", "sizes", "more"],
        &["lab", "--list", "--explain"],
        &["lab", "create-exclusive", "-m", "posix"],
    ] {
        let ran = scratch.run(words);
        ran.exits(64);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{words:?}: {ran:?}");
    }
    scratch.run(&["lab", "x\x1b"]).exits(64).says(&["no probe", "--list"]);
    is_empty(scratch.dir());
}

#[test]
fn one_mechanism_and_some_probes_can_be_chosen() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["lab", "fork*", "dup", "-m", "posix", "-m", "ofd", "--json"]);
    let asked = verdicts(&json(&ran));
    let names: BTreeSet<&str> = asked.iter().map(|(name, _, _)| name.as_str()).collect();
    assert!(names.contains("dup") && names.contains("fork-child-unlocks"), "{names:?}");
    assert!(names.iter().all(|name| *name == "dup" || name.starts_with("fork")), "{names:?}");
    assert!(asked.iter().all(|(_, mechanism, _)| ["posix", "ofd"].contains(&mechanism.as_str())));
    let shown = scratch.run(&["lab", "dup", "-m", "posix"]);
    shown.exits(0);
    assert!(shown.out.contains("posix\n") && !shown.out.contains("flock"), "{shown:?}");
    assert!(shown.out.contains("1 question, 1 answer, all as expected ("), "{shown:?}");
}

#[test]
fn the_story_has_who_did_what_and_what_came_back() {
    let scratch = Scratch::new();
    let ran = scratch.run(&["lab", "close-another", "--explain", "-m", "posix"]);
    ran.exits(0);
    let story = [
        "close-another: Is it lost when the process closes another descriptor of the same file?\n",
        "  posix: yes, as expected: B gets it: A has lost it\n",
        "    A    fcntl(4, F_SETLK, {F_WRLCK, SEEK_SET, 0, 0}) = 0\n",
        "    A    close(5) ",
        "    B    fcntl(4, F_SETLK, {F_WRLCK, SEEK_SET, 0, 0}) = 0\n",
    ];
    let mut rest = ran.out.as_str();
    for line in story {
        let at = rest.find(line).unwrap_or_else(|| panic!("{line:?} is not in {rest}"));
        rest = &rest[at + line.len()..];
    }
}

#[test]
fn the_list_is_what_is_asked() {
    let scratch = Scratch::new();
    let listed = scratch.run(&["lab", "--list", "--json", "--dir", "/nowhere"]);
    let listed_too = json(listed.exits(0));
    let asked = scratch.run(&["lab", "range*", "create*", "--json"]);
    let names = |document: &Value| -> BTreeSet<String> {
        verdicts(document).into_iter().map(|(name, _, _)| name).collect()
    };
    assert!(names(&listed_too).is_superset(&names(&json(&asked))));
    assert!(answers(&listed_too).iter().all(|(_, answer)| answer["verdict"].is_null()));
    let text = scratch.run(&["lab", "--list"]);
    for (probe, _) in answers(&listed_too) {
        let question = probe["question"].as_str().expect("text");
        assert!(text.out.contains(question), "{question}");
    }
    is_empty(scratch.dir());
}

/// docs/research.md is out of date when a question is missing in it, or an answer is another one.
#[test]
fn the_research_has_every_question_and_what_is_expected() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/research.md");
    let page = fs::read_to_string(page).expect("the page is there");
    let scratch = Scratch::new();
    let listed = json(scratch.run(&["lab", "--list", "--json"]).exits(0));
    for probe in listed["probes"].as_array().expect("a list") {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let answers = probe["answers"].as_array().expect("a list");
        let cells: Vec<String> = answers
            .iter()
            .map(|answer| text(&answer["expected"]).replace("not applicable", "–"))
            .collect();
        let (name, question) = (text(&probe["name"]), text(&probe["question"]));
        let row = format!("| `{name}` | {} | {question} |\n", cells.join(" | "));
        // Where filesystems differ, the page has what one of them answers.
        let rows = ["yes", "no"].map(|answer| row.replace("yes or no", answer));
        let is_there = rows.iter().any(|row| page.contains(row));
        assert!(is_there, "run `cargo xtask research`; there is no {row:?}");
    }
}

#[test]
fn nothing_is_left_when_the_lab_is_ended() {
    for signal in [Signal::INT, Signal::TERM, Signal::KILL] {
        let scratch = Scratch::new();
        let mut running = Running::start(&mut scratch.lockmgr(&["lab", "--json"]));
        let number = running.pid();
        wait_until("a scratch directory is there", || !entries(scratch.dir()).is_empty());
        running.send(signal);
        let status = running.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal.as_raw()));
        assert!(matches!(state(number), None | Some('Z')));
        wait_until("the scratch directory is gone", || entries(scratch.dir()).is_empty());
        wait_until("nobody is left in it", || !somebody_is_in(scratch.dir()));
        if signal != Signal::KILL {
            // It had to wait for that before it died.
            is_empty(scratch.dir());
        }
    }
}

/// In the middle of a question that would not be answered for an hour.
#[test]
fn nothing_is_left_when_the_lab_is_ended_while_it_waits() {
    for signal in [Signal::TERM, Signal::KILL] {
        let Some(fs) = mounted(Kind::Fuse(Locks::Hang)) else { return };
        let scratch = Scratch::new();
        let words = ["lab", "wait-free", "-m", "posix", "--deadline", "1h", "--dir"];
        let mut running = Running::start(scratch.lockmgr(&words).arg(fs.path()));
        let inside = || entries(fs.path()).first().map(|name| fs.path().join(name));
        wait_until("the file of the question is there", || {
            inside().is_some_and(|inside| inside.join("file").exists())
        });
        running.send(signal);
        let status = running.wait();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(signal.as_raw()));
        wait_until("the scratch directory is gone", || entries(fs.path()).is_empty());
    }
}

/// Whether a process works in this directory, or in one below it that may be gone by now.
fn somebody_is_in(dir: &Path) -> bool {
    let below = dir.join(".lockmgr-lab");
    let below = below.to_str().expect("plain text");
    let processes = fs::read_dir("/proc").expect("/proc");
    processes.flatten().any(|process| {
        let place = fs::read_link(process.path().join("cwd"));
        place.is_ok_and(|place| place.to_string_lossy().starts_with(below))
    })
}

#[test]
fn a_reader_that_went_away_ends_it() {
    let scratch = Scratch::new();
    let ran = scratch.sh("\"$LOCKMGR\" lab | exec true; echo ended");
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("ended\n", ""));
    is_empty(scratch.dir());
}

#[test]
fn colour_is_for_terminals_and_not_for_those_who_want_none() {
    let scratch = Scratch::new();
    let on_terminal = |no_colour: &str| {
        let mut command = scratch.lockmgr(&["lab", "processes"]);
        command.env("TERM", "xterm").env("NO_COLOR", no_colour);
        let mut terminal = Terminal::start(&mut command);
        let shown = terminal.user.until("all as expected").expect("it says so");
        assert_eq!(terminal.end(), (Some(0), None));
        shown
    };
    assert!(on_terminal("").contains("\x1b[1m"));
    assert!(!on_terminal("1").contains('\x1b'));
    assert!(!scratch.run(&["lab", "processes"]).out.contains('\x1b'));
}

/// The structure as it is printed, packed by Python, is one that the kernel takes.
#[test]
fn sizes_are_those_of_the_kernel() {
    let scratch = Scratch::new();
    let text = scratch.run(&["lab", "sizes"]);
    assert!(text.exits(0).out.contains("struct flock: "), "{text:?}");
    let sizes = json(scratch.run(&["lab", "sizes", "--json"]).exits(0));
    let constant = |name: &str| {
        let constants = sizes["constants"].as_array().expect("a list");
        let known = constants.iter().find(|constant| constant["name"] == name);
        known.expect("it is listed")["value"].as_i64().expect("a number")
    };
    if !has("python3") {
        skip("python3 is not installed");
        return;
    }
    let format = sizes["structure"]["python_format"].as_str().expect("text");
    let (command, kind) = (constant("F_OFD_SETLK"), constant("F_WRLCK"));
    let size = &sizes["structure"]["size"];
    let script = format!(
        "import fcntl, struct, sys\n\
         assert struct.calcsize('{format}') == {size}\n\
         file = open('l', 'w')\n\
         fcntl.fcntl(file, {command}, struct.pack('{format}', {kind}, 0, 40, 2, 0))\n\
         print('up', flush=True)\n\
         sys.stdin.readline()\n"
    );
    let mut python = scratch.command(&["python3", "-c", &script]);
    let mut python = Running::start(python.stdin(Stdio::piped()));
    python.says("up");
    // Bytes 40 and 41, and no other.
    for (range, status) in [("40+1", 75), ("41+1", 75), ("39+1", 0), ("42+1", 0)] {
        scratch.run(&["run", "-qn", "-m", "ofd", "--range", range, "./l", "true"]).exits(status);
    }
    python.tell("");
    python.finish().exits(0);
}

/// The experiment with two terminals, without the terminals.
#[test]
fn the_second_one_is_refused_or_waits() {
    for (first, second, meet) in [
        ("flock", "flock", true),
        ("ofd", "ofd", true),
        ("posix", "posix", true),
        ("ofd", "posix", true),
        ("posix", "ofd", true),
        ("flock", "posix", false),
        ("ofd", "flock", false),
    ] {
        let scratch = Scratch::new();
        let mut holder = scratch.lockmgr(&["lab", "try", "-m", first, "--hold", "1h", "l"]);
        let mut holder = Running::start(holder.stdin(Stdio::piped()));
        wait_for_line(&mut holder, "until Enter is pressed");

        let refused = scratch.run(&["lab", "try", "-m", second, "--hold", "0", "l"]);
        if !meet {
            assert!(refused.exits(0).out.contains("= 0: it has the lock"), "{refused:?}");
            continue;
        }
        assert!(refused.exits(75).out.contains("= -1 EAGAIN ("), "{refused:?}");
        let owner = format!("exclusive {first} lock: pid {} (", holder.pid().as_raw_nonzero());
        assert!(refused.out.contains(&owner), "{owner}: {refused:?}");

        let mut waiter =
            scratch.lockmgr(&["lab", "try", "-m", second, "--wait", "--hold", "0", "l"]);
        let waiter = Running::start(&mut waiter);
        wait_until("it waits", || crate::support::is_waited_for(&scratch.path("l")));
        // Enter.
        holder.tell("");
        let released = holder.finish();
        assert!(released.exits(0).out.contains("= 0: released"), "{released:?}");
        let ran = waiter.finish();
        assert!(ran.exits(0).out.contains("= 0: it has the lock, after"), "{ran:?}");
    }
}

#[track_caller]
fn wait_for_line(running: &mut Running, text: &str) {
    while !running.says_line().contains(text) {}
}

#[test]
fn sharers_try_together() {
    let scratch = Scratch::new();
    let mut holder = scratch.lockmgr(&["lab", "try", "--shared", "--hold", "1h", "l"]);
    let mut holder = Running::start(holder.stdin(Stdio::piped()));
    wait_for_line(&mut holder, "until Enter is pressed");
    scratch.run(&["lab", "try", "-s", "--hold", "0", "l"]).exits(0);
    let refused = scratch.run(&["lab", "try", "--hold", "0", "l"]);
    assert!(refused.exits(75).out.contains("flock(3, LOCK_EX|LOCK_NB) = -1 EAGAIN"), "{refused:?}");
    holder.send(Signal::TERM);
    holder.wait();
    assert!(!is_locked(&scratch.path("l")));
}

#[test]
fn a_lease_is_called_by_its_name() {
    let scratch = Scratch::new();
    let file = fs::File::create(scratch.path("l")).expect("a file");
    if !take_write_lease(&file) {
        return skip("this filesystem has no leases");
    }
    scratch
        .run(&["lab", "try", "l"])
        .exits(73)
        .says(&["cannot open l: another process has a lease"]);
}

#[test]
fn a_try_does_no_harm() {
    let scratch = Scratch::new();
    fs::write(scratch.path("precious"), "content").expect("a file");
    symlink("precious", scratch.path("link")).expect("a link");
    scratch.sh("mkfifo fifo").exits(0);
    for words in [&["precious"][..], &["-m", "posix", "precious"], &["-m", "ofd", "precious"]] {
        let mut words = words.to_vec();
        words.splice(0..0, ["lab", "try", "--hold", "0"]);
        scratch.run(&words).exits(0);
    }
    assert_eq!(fs::read_to_string(scratch.path("precious")).expect("it is there"), "content");
    for (bad, why) in [
        ("link", "symbolic link"),
        ("fifo", "neither a file nor a directory"),
        ("/dev/null", "neither a file nor a directory"),
        ("missing/l", "No such file"),
        ("precious/l", "Not a directory"),
    ] {
        let ran = scratch.run(&["lab", "try", bad]);
        ran.exits(73).says(&["cannot open", why]);
        assert_eq!(ran.out, "");
    }
    // What the kernel says is shown, and then what to do about it.
    let ran = scratch.run(&["lab", "try", "-m", "posix", "."]);
    ran.exits(74).says(&["--mechanism flock"]);
    assert!(ran.out.contains("= -1 EBADF ("), "{ran:?}");
    scratch.run(&["lab", "try", "--hold", "0", "."]).exits(0);
}

#[test]
fn the_holder_is_killed_and_the_waiter_has_it() {
    let scratch = Scratch::new();
    let mut holder = scratch.lockmgr(&["lab", "try", "--hold", "1h", "l"]);
    let mut holder = Running::start(holder.stdin(Stdio::piped()));
    wait_for_line(&mut holder, "until Enter is pressed");
    let mut waiter = scratch.lockmgr(&["lab", "try", "-w", "--hold", "0", "l"]);
    let waiter = Running::start(&mut waiter);
    wait_until("it waits", || crate::support::is_waited_for(&scratch.path("l")));
    let number = holder.pid();
    holder.send(Signal::KILL);
    holder.wait();
    assert!(state(pid(number.as_raw_nonzero().get().unsigned_abs())).is_none());
    waiter.finish().exits(0);
}
