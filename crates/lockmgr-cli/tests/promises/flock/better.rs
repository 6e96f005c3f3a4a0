//! Better than the original, where nobody can be hurt. What is written in docs/flock.md, and each point of
//! it here.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::both::{Whose, original};
use crate::signals::{COUNTER, group_signals_come_once};
use crate::support::{
    BOUND, Finished, LOCKMGR, ProtectedRegular, Running, Scratch, finished, has, has_taken, hold,
    is_gone, is_locked, is_root, is_waited_for, skip, state, take_write_lease, wait_until,
};

fn ours(scratch: &Scratch, words: &[&str]) -> Finished {
    finished(&mut Whose::Ours.command(scratch, words))
}

#[test]
fn a_deadline_holds_whatever_the_caller_does_with_signals() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("f"));
    for state in [
        "--block-signal=ALRM",
        "--ignore-signal=ALRM",
        "--block-signal",
        "--ignore-signal",
        "--default-signal",
    ] {
        let start = Instant::now();
        let words = ["env", state, LOCKMGR, "flock", "--verbose", "-w", ".05", "f", "echo", "in"];
        let late = finished(scratch.command(&words).env("LC_ALL", "C"));
        let passed = start.elapsed();
        assert_eq!(late.exits(1).err, "flock: timeout while waiting to get lock\n", "{state}");
        assert!(passed >= Duration::from_millis(50) && passed < BOUND, "{passed:?}");
    }
}

#[test]
fn an_ignored_sigalrm_stays_ignored_for_the_command() {
    let scratch = Scratch::new();
    for wait in [&["-w", "60"][..], &["-w", "60", "-F"]] {
        let words = [
            &["env", "--ignore-signal=ALRM", "--ignore-signal=RTMAX", LOCKMGR, "flock"][..],
            wait,
            &["f", "sh", "-c", "grep SigIgn /proc/self/status"],
        ];
        let held = hold(&scratch.path("f"));
        let running = Running::start(&mut scratch.command(&words.concat()));
        wait_until("it waits", || is_waited_for(&scratch.path("f")));
        drop(held);
        let direct = [&words[0][..3], &words[2][1..]].concat();
        let direct = finished(&mut scratch.command(&direct));
        assert_eq!(running.finish().exits(0).out, direct.exits(0).out);
    }
}

#[test]
fn a_fifo_does_not_hang_whoever_does_not_want_to_wait() {
    let scratch = Scratch::new();
    scratch.sh("mkfifo f").exits(0);
    for options in [&["-n"][..], &["-w", "60"], &["-w", "0"], &["-n", "-s"], &["-n", "--fcntl"]] {
        let words = [options, &["f", "echo", "in"]].concat();
        assert_eq!(ours(&scratch, &words).exits(0).out, "in\n", "{options:?}");
    }
    let script = "flock -n f sh -c 'grep flags /proc/self/fdinfo/3; flock -n f true; echo $?'";
    let ended = finished(&mut Whose::Ours.script(&scratch, script));
    assert_eq!(ended.exits(0).out, "flags:\t0100000\n1\n");
}

#[test]
fn a_lease_is_contention() {
    let scratch = Scratch::new();
    let path = scratch.path("f");
    let file = File::create(&path).expect("a file");
    if !take_write_lease(&file) {
        return skip("needs a filesystem with leases");
    }
    let run = |options: &[&str]| ours(&scratch, &[options, &["f", "true"]].concat());
    assert_eq!(run(&["--verbose", "-n"]).exits(1).err, "flock: failed to get lock\n");
    let start = Instant::now();
    let late = run(&["--verbose", "-w", ".05", "-E", "9"]);
    assert_eq!(late.exits(9).err, "flock: timeout while waiting to get lock\n");
    // Far from the 45 seconds that the kernel allows a lease to break.
    assert!(start.elapsed() < Duration::from_secs(20));
    let mut running =
        Running::start(&mut Whose::Ours.command(&scratch, &["-w", "60", "f", "echo", "in"]));
    drop(file);
    running.says("in");
    running.finish().exits(0);
}

/// What it says of the time is the lock's alone.
#[test]
fn the_time_that_the_opening_took_is_not_the_locks() {
    for whose in original().map(|_| Whose::Original).into_iter().chain([Whose::Ours, Whose::Strict])
    {
        let scratch = Scratch::new();
        let path = scratch.path("f");
        let file = File::create(&path).expect("a file");
        if !take_write_lease(&file) {
            return skip("needs a filesystem with leases");
        }
        let running =
            Running::start(&mut whose.command(&scratch, &["--verbose", "-w", "60", "f", "true"]));
        let begun = Instant::now();
        wait_until("it breaks the lease", || lease(&file) != libc::F_WRLCK);
        std::thread::sleep(Duration::from_millis(300));
        drop(file);
        let out = running.finish().exits(0).out.clone();
        let took = out.split(' ').nth(4).and_then(|text| text.parse::<f64>().ok());
        assert!(took.expect("a number") < begun.elapsed().as_secs_f64() - 0.25, "{whose:?}: {out}");
    }
}

#[expect(unsafe_code, reason = "there is no safe wrapper")]
fn lease(file: &File) -> libc::c_int {
    // SAFETY: the descriptor is open, and the command takes nothing.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) }
}

#[test]
fn a_lock_file_deleted_while_waited_for_does_not_let_two_in() {
    for options in [&[][..], &["-w", "60"], &["-s"]] {
        let scratch = Scratch::new();
        let path = scratch.path("f");
        let held = hold(&path);
        let show = "grep flags /proc/self/fdinfo/3; readlink /proc/self/fd/3; ls -l /proc/self/fd | grep -c '/f$'; echo in; read _";
        let words = [options, &["f", "sh", "-c", show]].concat();
        let mut command = Whose::Ours.command(&scratch, &words);
        let mut running = Running::start(command.stdin(Stdio::piped()));
        wait_until("it waits", || is_waited_for(&path));
        fs::remove_file(&path).expect("it is there");
        drop(held);
        // The command finds it as if it had been opened only now.
        running.says("flags:\t0100000");
        running.says(&path.canonicalize().expect("it is there again").display().to_string());
        running.says("1");
        running.says("in");
        assert!(is_locked(&path), "others get in by the path");
        running.tell("go on");
        running.finish().exits(0);
    }
}

#[test]
fn a_lock_file_replaced_again_and_again() {
    let scratch = Scratch::new();
    // Each of them deletes the file that it holds, as the last thing it does: with the original two are
    // inside at once, soon.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        flock f sh -c 'mkdir alone || echo two inside; rmdir alone; rm -f f'; done";
    let mut workers: Vec<Running> = Vec::new();
    for _ in 0..4 {
        let script = script.replace("flock", "\"$LOCKMGR\" flock");
        workers.push(Running::start(&mut scratch.command(&["sh", "-c", &script])));
    }
    for worker in workers {
        assert_eq!(worker.finish().exits(0).out, "");
    }
}

#[test]
fn a_directory_that_is_gone_is_not_replaced_by_a_file() {
    let scratch = Scratch::new();
    let path = scratch.path("d");
    fs::create_dir(&path).expect("a directory");
    let holder = Running::start(Whose::Ours.command(&scratch, &["d", "cat"]).stdin(Stdio::piped()));
    wait_until("it is held", || is_locked(&path));
    let running = Running::start(&mut Whose::Ours.command(&scratch, &["d", "echo", "in"]));
    wait_until("it waits", || is_waited_for(&path));
    fs::remove_dir(&path).expect("it is empty");
    drop(holder);
    assert_eq!(running.finish().exits(0).out, "in\n");
    assert!(!path.exists());
}

#[test]
fn where_the_file_cannot_be_made_again_it_is_as_with_the_original() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("d")).expect("a directory");
    let path = scratch.path("d/f");
    let held = hold(&path);
    symlink("d", scratch.path("link")).expect("a link");
    let running = Running::start(&mut Whose::Ours.command(&scratch, &["link/f", "echo", "in"]));
    wait_until("it waits", || is_waited_for(&path));
    fs::remove_dir_all(scratch.path("d")).expect("it is ours");
    drop(held);
    assert_eq!(running.finish().exits(0).out, "in\n");
}

#[test]
fn a_foreign_file_in_a_sticky_directory() {
    const OWNER: u32 = 54321;
    const OTHER: u32 = 54322;
    if !is_root() {
        return skip("needs root, to be two other users");
    }
    let Ok(_protected) = ProtectedRegular::set("2") else {
        return skip("needs the right to set fs.protected_regular");
    };
    let scratch = Scratch::new();
    let permit = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    permit(scratch.dir(), 0o1777);
    fs::write(scratch.path("f"), "").expect("a file");
    permit(&scratch.path("f"), 0o666);
    chown(scratch.path("f"), Some(OWNER), Some(OWNER)).expect("root can");
    for user in [0, OWNER, OTHER] {
        let run = |whose: Whose, options: &[&str]| {
            let words = [options, &["f", "echo", "in"]].concat();
            finished(whose.command(&scratch, &words).uid(user).gid(user))
        };
        for options in [&[][..], &["-n"], &["-w", "1"], &["-s"], &["--fcntl"]] {
            assert_eq!(run(Whose::Ours, options).exits(0).out, "in\n", "{user} {options:?}");
        }
        if user != OWNER {
            let refused = run(Whose::Strict, &[]);
            assert_eq!(
                refused.exits(66).err,
                "flock: cannot open lock file f: Permission denied\n"
            );
        }
    }
}

/// Sent to flock itself, a signal reaches the command, whose end is waited for.
#[test]
fn a_signal_reaches_the_command() {
    let command = "trap 'kill -9 $!; echo cleaning; read _; echo clean; exit 3' TERM INT HUP; \
                   sleep 60 >&- & echo ready; wait";
    for options in [&[][..], &["-o"], &["-w", "9"], &["--verbose"]] {
        for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
            let scratch = Scratch::new();
            let words = [options, &["f", "sh", "-c", command]].concat();
            let mut command = Whose::Ours.command(&scratch, &words);
            let mut running = Running::start(command.stdin(Stdio::piped()));
            running.says("ready");
            running.send(signal);
            running.says("cleaning");
            assert!(is_locked(&scratch.path("f")), "{options:?}: the command still runs");
            running.tell("go on");
            running.says("clean");
            running.finish().exits(3);
            // The command's own child has the descriptor until it has died.
            wait_until("the lock is free", || !is_locked(&scratch.path("f")));
        }
    }
}

#[test]
fn a_signal_of_the_group_reaches_the_command_once() {
    let scratch = Scratch::new();
    group_signals_come_once(|words| Whose::Ours.command(&scratch, &[&["f"], words].concat()));
}

/// A shell is sent a signal at the end of each program that it runs. None of them is taken for the other.
#[test]
fn a_command_that_gets_signals_all_the_time_gets_ours() {
    let scratch = Scratch::new();
    // Not `exit`, whose status a trap for CHLD may change.
    let command = "trap 'kill -9 $$' TERM; trap : CHLD; /bin/true; /bin/true; echo ready; \
                   while :; do /bin/true; done";
    for shell in ["sh", "bash"].into_iter().filter(|shell| has(shell) || *shell == "sh") {
        for _ in 0..20 {
            let words = ["f", shell, "-c", command];
            let mut running = Running::start(&mut Whose::Ours.command(&scratch, &words));
            running.says("ready");
            running.send(Signal::TERM);
            running.finish().exits(137);
        }
    }
}

/// As timeout(1) does it: to flock, and then to all.
#[test]
fn a_signal_for_flock_and_then_for_the_group_reaches_the_command_once() {
    if !has("perl") {
        return skip("perl(1) is not installed here");
    }
    let scratch = Scratch::new();
    let script = "flock f sh -c \"$COUNTER\" - TERM USR2 & trap '' TERM; read _; echo $!
        while read _; do kill -TERM $!; kill -TERM 0; done; wait $!";
    let mut command = Whose::Ours.script(&scratch, script);
    command.env("COUNTER", COUNTER).stdin(Stdio::piped());
    let mut running = Running::start(&mut command);
    running.says("ready");
    running.tell("who?");
    let flock = running.says_pid();
    for count in 1..=10 {
        running.tell("now");
        running.says(&count.to_string());
        wait_until("both are taken", || has_taken(flock, Signal::TERM));
    }
    running.say_no_more();
    kill_process(flock, Signal::USR2).expect("it is there");
    assert_eq!(running.finish().exits(7).out, "", "it came more often than it was sent");
}

/// What does not end the original is not for the command.
#[test]
fn a_stop_of_flock_is_not_passed_on() {
    if !has("perl") {
        return skip("perl(1) is not installed here");
    }
    let scratch = Scratch::new();
    for (name, signal) in [("TSTP", Signal::TSTP), ("CONT", Signal::CONT), ("WINCH", Signal::WINCH)]
    {
        let words = ["f", "sh", "-c", COUNTER, "-", name];
        let mut running = Running::start(&mut Whose::Ours.command(&scratch, &words));
        running.says("ready");
        running.send(signal);
        if signal == Signal::TSTP {
            wait_until("it is stopped", || state(running.pid()) == Some('T'));
            running.send(Signal::CONT);
        }
        running.send(Signal::TERM);
        assert_eq!(running.finish().exits(7).out, "", "{name}");
    }
}

/// Whoever waits for flock sees it die of the signal, as with the original.
#[test]
fn flock_dies_as_its_command_does_of_a_signal_that_it_got() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1] {
        let scratch = Scratch::new();
        let words = ["f", "sh", "-c", "ulimit -c 0; echo $$; exec sleep 60"];
        let mut running = Running::start(&mut Whose::Ours.command(&scratch, &words));
        let command = running.says_pid();
        running.send(signal);
        assert_eq!(running.finish().signal, Some(signal.as_raw()));
        assert!(is_gone(command));
        assert!(!is_locked(&scratch.path("f")));
    }
    // And not of one that the command alone has got.
    let scratch = Scratch::new();
    ours(&scratch, &["f", "sh", "-c", "kill -TERM $$"]).exits(143);
}

#[test]
fn a_decimal_point_is_one_in_every_locale() {
    let scratch = Scratch::new();
    // One with a decimal comma, made here; without its source only those that there are.
    let made = scratch.sh("localedef -i de_DE -f UTF-8 ./de_DE.UTF-8 2>/dev/null").code == Some(0);
    let run = |whose: Whose, locale: &str, seconds: &str| {
        let mut command = whose.command(&scratch, &["-w", seconds, "f", "echo", "in"]);
        finished(command.env("LC_ALL", locale).env("LOCPATH", scratch.dir()))
    };
    for locale in ["C", "C.UTF-8", "de_DE.UTF-8", "xx_XX"] {
        for seconds in ["0.5", "0.5e0", "5"] {
            let ended = run(Whose::Ours, locale, seconds);
            assert_eq!(ended.exits(0).out, "in\n", "{locale} {seconds}");
        }
    }
    if !made {
        return skip("the source of the locale de_DE is not installed here");
    }
    for whose in original().map(|_| Whose::Original).into_iter().chain([Whose::Strict]) {
        run(whose, "de_DE.UTF-8", "0,5").exits(0);
        run(whose, "de_DE.UTF-8", "0.5").exits(64);
    }
    run(Whose::Ours, "de_DE.UTF-8", "0,5").exits(0);
    run(Whose::Ours, "C", "0,5").exits(64);
    // So it is with sizes.
    let run = |whose: Whose, locale: &str, size: &str| {
        let mut command = whose.command(&scratch, &["--length", size, "f", "sed", "-n"]);
        command.args(["s/^lock:.* 0 \\([0-9]*\\)$/\\1/p", "/proc/self/fdinfo/3"]);
        finished(command.env("LC_ALL", locale).env("LOCPATH", scratch.dir()))
    };
    for (whose, size) in [(Whose::Ours, "1,5K"), (Whose::Ours, "1.5K"), (Whose::Strict, "1,5K")] {
        assert_eq!(run(whose, "de_DE.UTF-8", size).exits(0).out, "1535\n", "{whose:?} {size}");
    }
    run(Whose::Strict, "de_DE.UTF-8", "1.5K").exits(64);
    run(Whose::Ours, "C", "1,5K").exits(64);
}
