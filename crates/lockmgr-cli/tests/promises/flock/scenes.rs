//! Scripts as they are found in the wild, and strange circumstances: each ends as with the original.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

use rustix::process::Signal;

use super::both::{Whose, has_original, same, same_script, same_with};
use crate::support::{
    Finished, Running, Scratch, Stranger, finished, has, hold, is_locked, is_root, is_waited_for,
    skip, state, wait_until,
};

/// Some user who is not root; no account is needed.
const SOMEBODY: u32 = 54321;

#[track_caller]
fn scenes(scripts: &[&str]) {
    if !has_original() {
        return;
    }
    for script in scripts {
        same_script(script);
    }
}

#[test]
fn locks_of_a_script() {
    scenes(&[
        "exec 9>f; flock 9; echo $?; flock -n f true; echo $?; flock -u 9; flock -n f true; echo $?",
        "( flock -n 9 || exit 7; flock -n f true; echo $? ) 9>f; echo $?",
        "exec 9>f 8>f; flock -s 9; flock -s -n 8; echo $?; flock -n 8; echo $?; flock -x -n 9; echo $?",
        "exec 9>f; flock 9; flock -n -E 42 f true; echo $?; flock -w .02 -E 0 f true; echo $?",
        "exec 9>f; flock 9; flock --verbose -n f true; echo $?; flock --verbose -w .02 f true; echo $?",
        "exec 9>f; flock 9; flock --verbose -w 0 f true; echo $?; flock -n -w 9 f true; echo $?",
        "exec 9>f; flock 9; flock -u f echo without a lock; flock -u -n f sh -c 'exit 3'; echo $?",
        "exec 9>f; flock 9; flock 9 && flock -n 9; echo $?; flock -u 9; flock -u 9; echo $?",
        "exec 9<f; echo $?; : >f; exec 9<f; flock -x 9; echo $?; flock -n f true; echo $?",
        "exec 9</; flock 9; echo $?; flock -n -E 5 / true; echo $?",
        "flock --verbose 77; echo $?; flock --verbose -n 0; echo $?",
        "[ \"${FLOCKER}\" != \"$0\" ] && exec env FLOCKER=\"$0\" flock -en f sh -c 'echo boilerplate; exit 9'",
    ]);
}

#[test]
fn what_the_command_finds() {
    scenes(&[
        "flock f sh -c 'grep flags /proc/self/fdinfo/3; readlink /proc/self/fd/3 | sed s,.*/,,'",
        "flock -n f sh -c 'grep flags /proc/self/fdinfo/3'; flock -w 1 f grep flags /proc/self/fdinfo/3",
        "flock -F -w1 f grep flags /proc/self/fdinfo/3; flock -s -F f grep -c lock: /proc/self/fdinfo/3",
        "flock f sh -c 'readlink /proc/self/fd/0 | sed s,.*/,,' <&-; flock f ls /proc/self/fd",
        "flock f sh -c 'exec 2>&1; readlink /proc/self/fd/1 | sed s,.*/,,' >&-; cat f",
        "exec 3</dev/null 4</dev/null; flock f ls /proc/self/fd; flock -o f ls /proc/self/fd",
        "flock -o f ls /proc/self/fd; exec 9>f; flock -o 9; ls /proc/self/fd",
        "mkdir d; flock d grep flags /proc/self/fdinfo/3; flock -n d grep flags /proc/self/fdinfo/3",
        "flock /dev/null grep flags /proc/self/fdinfo/3; flock -w 60 /dev/zero grep flags /proc/self/fdinfo/3",
        "echo in | flock f cat; flock f -c 'cat; echo \"$0\" $#' </dev/null",
        "SHELL=/bin/echo flock f -c 'a  b'; SHELL= flock f -c 'echo $0'; SHELL=/no/shell flock f -c true; echo $?",
        "SHELL=cat flock f --command f; echo $?; unset SHELL; flock f --command 'echo $0'",
        "flock -F f sh -c 'echo $$' >pid; A=b flock f sh -c 'echo $A'; rm pid",
    ]);
}

#[test]
fn how_the_command_ends() {
    scenes(&[
        "flock f sh -c 'exit 255'; echo $?; flock f sh -c 'kill -9 $$'; echo $?; flock f sh -c 'kill $$'; echo $?",
        "flock -F f sh -c 'exit 9'; echo $?; flock -F f sh -c 'kill -9 $$'; echo $?",
        "flock f ./f; echo $?; flock f .; echo $?; flock f ''; echo $?; flock f f/x; echo $?; flock f nothing; echo $?",
        "flock -F f ./f; echo $?; flock -F --verbose f nothing; echo $?; flock --verbose f nothing; echo $?",
        "echo 'echo script $0 $1' >s; chmod +x s; flock f ./s a; flock -F f ./s b; PATH=. flock f s c; echo $?",
        "printf '#!/no/such/thing\\n' >s; chmod +x s; flock f ./s; echo $?",
        "PATH=/no flock f true; echo $?; flock f env -u PATH true; echo $?",
        // What it leaves in the background keeps the lock, and does not with -o.
        "flock f sh -c 'sleep 60 >&- 2>&- & echo $! >pid'; flock -n f true; echo $?; kill $(cat pid); rm pid",
        "flock -o f sh -c 'sleep 60 >&- 2>&- & echo $! >pid'; flock -n f true; echo $?; kill $(cat pid); rm pid",
        "flock --verbose f echo between; flock --verbose -F f echo alone; flock --verbose -u f true",
    ]);
}

/// A lock call of a network filesystem may be interrupted although it does not wait.
#[test]
fn an_interrupted_call_is_made_again() {
    if !has("strace") {
        return skip("strace(1) is not installed here");
    }
    let inject = "strace -qq -o /dev/null -e trace=flock -e inject=flock:error=EINTR:when=1";
    if Scratch::new().sh(&format!("{inject} true")).code != Some(0) {
        return skip("strace(1) may not trace here");
    }
    for words in ["-n f echo in", "-w 1 f echo in", "-u f echo in", "f echo in", "-n 9", "-u 9"] {
        scenes(&[&format!("exec 9>g; {inject} flock {words}; echo $?")]);
    }
}

/// The name that the caller gives is the one it speaks under.
#[test]
fn under_another_name() {
    if !has("bash") {
        return skip("bash(1) is not installed here");
    }
    for name in ["mylock", "/some/where/my", "flock2", "''", "-flock"] {
        for words in ["-n f echo in", "f false", "", "9 d", "77"] {
            let script = "exec -a NAME \"$(command -v flock)\" WORDS";
            let script = script.replace("NAME", name).replace("WORDS", words);
            scenes(&[&format!("bash -c '{}'; echo $?", script.replace('\'', "'\\''"))]);
        }
    }
    let version = "bash -c 'exec -a mylock \"$(command -v flock)\" -V'";
    let ended = finished(&mut Whose::Ours.script(&Scratch::new(), version));
    assert!(ended.exits(0).out.starts_with("mylock from util-linux 2."), "{ended:?}");
}

#[test]
fn files_of_all_kinds() {
    scenes(&[
        "umask 077; flock f true; umask 0; flock g true; umask 0777; flock h true; umask 022; echo $?",
        "echo precious >f; chmod 444 f; flock f cat f; flock -x -n f true; echo $?",
        "ln -s target link; flock link true; ls; flock -n link true; echo $?",
        "ln -s no/target link; flock link true; echo $?; ln -s loop loop; flock loop true; echo $?",
        "mkdir d; ln -s d e; flock e true; flock e/ true; flock d/new/ true; echo $?; flock d -c 'flock -n d true'; echo $?",
        "flock /proc/self/fd/9 -c 'flock -n f true; echo $?' 9>f; flock /dev/stdin echo ran <f",
        "flock /proc/version true; echo $?; flock /proc/nothing true; echo $?; flock /sys/kernel true; echo $?",
        "flock $(printf %0300d 0) true; echo $?; flock f/f true; echo $?",
    ]);
    if !has_original() {
        return;
    }
    same_with("a socket", &[], |whose, scratch| {
        let _socket = UnixListener::bind(scratch.path("f")).expect("a socket");
        finished(&mut whose.command(scratch, &["-n", "f", "true"]))
    });
}

#[test]
fn where_it_prints() {
    scenes(&[
        "flock --help >/dev/full; echo $?; flock --version >/dev/full; echo $?; flock -h >&-; echo $?",
        "flock --verbose f true >/dev/full; echo $?; flock --verbose f sh -c 'exit 3' >/dev/full; echo $?",
        "flock --verbose f sh -c 'exit 3' >&-; echo $?; flock --verbose -F f true >/dev/full; echo $?",
        "flock f sh -c 'exit 3' >/dev/full; echo $?",
        "flock --bogus 2>/dev/full; echo $?; flock --bogus 2>&-; echo $?; flock 77 2>&-; echo $?",
        "flock f nothing 2>/dev/full; echo $?; flock -F f nothing 2>&-; echo $?; flock d/f true 2>&-; echo $?",
        "exec 9>f; flock 9; flock -n f true 2>&-; echo $?; flock --verbose -n f true 2>/dev/full; echo $?",
    ]);
}

#[test]
fn signals_and_their_state() {
    scenes(&[
        "env --ignore-signal=CHLD flock f grep Sig[BI] /proc/self/status; echo $?",
        "env --ignore-signal=PIPE --ignore-signal=INT flock f grep Sig[BI] /proc/self/status",
        "env --block-signal=CHLD --block-signal=TERM flock f sh -c 'grep Sig[BI] /proc/self/status; exit 3'; echo $?",
        "env --ignore-signal --block-signal flock -F f grep Sig[BI] /proc/self/status",
        "env --ignore-signal flock f sh -c 'grep SigBlk /proc/self/status; exit 4'; echo $?",
        "flock f grep Sig[BIC] /proc/self/status; flock -w 5 f grep Sig[BIC] /proc/self/status",
        "flock -F -w 5 f grep Sig[BIC] /proc/self/status; flock -n f grep Sig[BIC] /proc/self/status",
        // The command signals its parent.
        "flock -w 5 f sh -c 'kill -ALRM $PPID; echo alive; exit 3'; echo $?",
        "flock --verbose f true | true; echo $?",
    ]);
}

/// Signals to a flock(1) that waits.
#[test]
fn a_signal_while_it_waits() {
    if !has_original() {
        return;
    }
    for (options, signal, goes_on) in [
        (&[][..], Signal::TERM, false),
        (&[], Signal::INT, false),
        (&[], Signal::USR1, false),
        (&[], Signal::ALARM, false),
        (&["-w", "60"], Signal::TERM, false),
        (&["-w", "60"], Signal::HUP, false),
        (&["-w", "60"], Signal::ALARM, true),
        (&["-w", "60"], Signal::CONT, true),
        (&["-w", "60"], Signal::WINCH, true),
    ] {
        let what = format!("{options:?} {signal:?}");
        let play = |whose: Whose, scratch: &Scratch| -> Finished {
            let path = scratch.path("f");
            let held = hold(&path);
            let words = [options, &["f", "echo", "ran"]].concat();
            let mut running = Running::start(&mut whose.command(scratch, &words));
            wait_until("it waits", || is_waited_for(&path));
            running.send(signal);
            let status = (!goes_on).then(|| running.wait());
            drop(held);
            let mut ended = running.finish();
            assert!(!is_locked(&path));
            if let Some(status) = status {
                ended.signal = std::os::unix::process::ExitStatusExt::signal(&status);
            }
            ended
        };
        same_with(&what, &[], play);
    }
}

/// flock(1) is not stopped by what stops its command, nor kept by it.
#[test]
fn a_command_that_is_stopped() {
    if !has_original() {
        return;
    }
    for stop in ["TSTP", "TTIN", "TTOU", "STOP"] {
        for wake in ["CONT", "KILL"] {
            let script = format!(
                "(until grep -q '^State:.T' /proc/$$/status; do :; done; kill -{wake} $$) &
                 kill -{stop} $$; exit 4"
            );
            same(&["f", "sh", "-c", &script]);
        }
        let play = |whose: Whose, scratch: &Scratch| {
            let script = format!("echo $$; exec >&-; kill -{stop} $$; exit 4");
            let words = ["f", "sh", "-c", &script];
            let mut running = Running::start(&mut whose.command(scratch, &words));
            let command = running.says_pid();
            let _orphan = Stranger(command);
            wait_until("it is stopped", || state(command) == Some('T'));
            running.send(Signal::TERM);
            running.finish()
        };
        same_with(&format!("TERM after {stop}"), &[], play);
    }
}

/// Where a signal does not reach the command, flock(1) dies of it.
#[test]
fn a_signal_that_the_command_does_not_get() {
    if !has_original() {
        return;
    }
    // The command itself sends it.
    for signal in ["TERM", "INT", "HUP", "USR1"] {
        let script = format!(
            "trap 'echo gone >&2' {signal}; kill -{signal} $PPID
             while read -r _ _ state _ </proc/$PPID/stat && [ $state != Z ]; do :; done 2>&-"
        );
        same(&["f", "sh", "-c", &script]);
    }
    if !is_root() || !has("setpriv") {
        return skip("needs root and setpriv(1), to be two other users");
    }
    let play = |whose: Whose, scratch: &Scratch| {
        open(scratch.dir(), 0o777);
        scratch.sh("cp $(command -v setpriv) become && chmod 4755 become").exits(0);
        let words = ["f", "./become", "--reuid", "54322", "sh", "-c", "echo $$; exec sleep 60 >&-"];
        let mut command = whose.command(scratch, &words);
        let mut running = Running::start(command.uid(SOMEBODY).gid(SOMEBODY));
        let command = running.says_pid();
        let _orphan = Stranger(command);
        running.send(Signal::TERM);
        running.finish()
    };
    same_with("another user's command", &[], play);
}

#[test]
fn whoever_waits_gets_it_when_it_is_free() {
    if !has_original() {
        return;
    }
    for options in [&[][..], &["-s"], &["-w", "60"], &["-w", "1e18"], &["--verbose", "-w", "60"]] {
        let play = |whose: Whose, scratch: &Scratch| {
            let path = scratch.path("f");
            let held = hold(&path);
            let words = [options, &["f", "sh", "-c", "echo ran; exit 6"]].concat();
            let running = Running::start(&mut whose.command(scratch, &words));
            wait_until("it waits", || is_waited_for(&path));
            drop(held);
            running.finish()
        };
        same_with(&format!("{options:?}"), &[], play);
    }
}

#[test]
fn other_users() {
    if !has_original() {
        return;
    }
    if !is_root() {
        return skip("needs root, to be another user");
    }
    for (mode, options) in [
        (0o200, &[][..]),
        (0o200, &["-s"]),
        (0o444, &[]),
        (0o444, &["-s"]),
        (0o666, &["-n"]),
        (0o000, &["-n"]),
        (0o000, &["-w", "1"]),
    ] {
        let words = [options, &["f", "echo", "ran"]].concat();
        same_with(&format!("{mode:o} {words:?}"), &words, |whose, scratch| {
            open(scratch.dir(), 0o755);
            fs::write(scratch.path("f"), "").expect("a file");
            open(&scratch.path("f"), mode);
            finished(whose.command(scratch, &words).uid(SOMEBODY).gid(SOMEBODY))
        });
        same_with(&format!("no new file: {words:?}"), &words, |whose, scratch| {
            open(scratch.dir(), 0o755);
            finished(whose.command(scratch, &words).uid(SOMEBODY).gid(SOMEBODY))
        });
    }
    same_with("no timers left", &[], |whose, scratch| {
        open(scratch.dir(), 0o777);
        let _held = hold(&scratch.path("f"));
        let script = "ulimit -i 0; ulimit -u 0; exec -a flock \"$@\"";
        let flock = whose.command(scratch, &["-w", ".3", "f", "true"]);
        let mut command = scratch.command(&["bash", "-c", script, "-"]);
        command.arg(flock.get_program()).args(flock.get_args()).env("LC_ALL", "C");
        if whose == Whose::Strict {
            command.env("LOCKMGR_FLOCK_STRICT", "1");
        }
        finished(command.uid(SOMEBODY).gid(SOMEBODY))
    });
    same_with("no processes left", &[], |whose, scratch| {
        open(scratch.dir(), 0o777);
        let script = "ulimit -u 0 2>/dev/null || ulimit -p 0; exec -a flock \"$@\"";
        let flock = whose.command(scratch, &["f", "true"]);
        let mut command = scratch.command(&["bash", "-c", script, "-"]);
        command.arg(flock.get_program()).args(["f", "true"]).env("LC_ALL", "C");
        finished(command.uid(SOMEBODY).gid(SOMEBODY))
    });
}

fn open(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

#[test]
fn full_and_read_only_places() {
    if !has_original() {
        return;
    }
    for (options, also) in [("nr_inodes=1", "true"), ("size=1m", ": >m/f; mount -o remount,ro m")] {
        for words in ["m/f echo ran", "-n m/f echo ran", "-w1 m/g echo ran"] {
            let script = format!(
                "unshare --mount --map-root-user true 2>/dev/null || exit 99
                 exec unshare --mount --map-root-user sh -c '
                     mkdir m && mount -t tmpfs -o {options} none m && {{ {also}; }} || exit 99
                     exec flock {words}'"
            );
            if let Some(left) = same_script(&script)
                && left.status.0 == Some(99)
            {
                return skip("no mount namespace for an ordinary user here");
            }
        }
    }
}
