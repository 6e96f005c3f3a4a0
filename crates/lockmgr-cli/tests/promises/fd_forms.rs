//! `lock --fd` and `unlock --fd`: the lock lives on the shell's open file, not on lockmgr.

use crate::support::{Finished, Scratch, hold, is_locked};

#[test]
fn the_lock_outlives_lockmgr_and_ends_with_unlock() {
    let scratch = Scratch::new();
    for mechanism in ["flock", "ofd"] {
        let script = format!(
            "exec 9>>f; \"$LOCKMGR\" lock -m {mechanism} --fd 9 || exit 1
             \"$LOCKMGR\" run -n -q -m {mechanism} ./f true; echo while $?
             \"$LOCKMGR\" unlock --fd 9 || exit 2
             \"$LOCKMGR\" run -n -q -m {mechanism} ./f true; echo after $?"
        );
        let ran = scratch.sh(&script);
        assert_eq!(
            (ran.exits(0).out.as_str(), ran.err.as_str()),
            ("while 75\nafter 0\n", ""),
            "{mechanism}"
        );
    }
}

#[test]
fn the_lock_ends_with_the_shell() {
    let scratch = Scratch::new();
    scratch.sh("exec 9>>f; \"$LOCKMGR\" lock --fd 9").exits(0).is_silent();
    assert!(!is_locked(&scratch.path("f")));
    scratch
        .sh("( \"$LOCKMGR\" lock -n --fd 9 || exit 9; \"$LOCKMGR\" run -n -q ./f true ) 9>>f")
        .exits(75);
    assert!(!is_locked(&scratch.path("f")));
}

#[test]
fn the_shell_is_named_as_the_holder() {
    let scratch = Scratch::new();
    for (mechanism, its) in [("flock", "inherited by pid "), ("ofd", "held by pid ")] {
        // The look around has its limit in time: on a slow machine it may take another one.
        let script = format!(
            "echo $$; exec 9>>f; \"$LOCKMGR\" lock -m {mechanism} --fd 9 || exit 1
             for i in 1 2 3 4 5 6 7 8 9; do \"$LOCKMGR\" run -n -m {mechanism} ./f true; done; exit $?"
        );
        let ran = scratch.sh(&script);
        let shell = ran.exits(75).out.trim().to_owned();
        // The one that says it has inherited the descriptor, too.
        assert!(ran.err.contains(&format!("{its}{shell} (")), "{}", ran.err);
    }
}

#[test]
fn any_number_will_do_the_standard_ones_too() {
    let scratch = Scratch::new();
    for (fd, redirection) in [(0, "<"), (1, ">>"), (2, "2>>"), (7, "7<>")] {
        std::fs::write(scratch.path("f"), "").unwrap();
        let script = format!(
            "{{ \"$LOCKMGR\" lock --fd {fd} && ! \"$LOCKMGR\" run -n -q ./f true && \"$LOCKMGR\" unlock --fd {fd} \
             && \"$LOCKMGR\" run -n -q ./f true; }} {redirection}f"
        );
        scratch.sh(&script).exits(0);
    }
}

#[test]
fn busy_and_late_are_75() {
    let scratch = Scratch::new();
    let _held = hold(&scratch.path("f"));
    let lock = |options: &str| -> Finished {
        scratch.sh(&format!("exec 9>>f; \"$LOCKMGR\" lock {options} --fd 9"))
    };
    lock("-n").exits(75).says(&["descriptor 9", "/f", "busy"]);
    lock("-w 0.05").exits(75).says(&["descriptor 9", "/f", "timed out"]);
    lock("-n -E 4").exits(4);
    lock("-q -n").exits(75).is_silent();
}

#[test]
fn shared_and_exclusive_convert() {
    let scratch = Scratch::new();
    let script =
        "exec 9<>f 8<>f; \"$LOCKMGR\" lock -s --fd 9 && \"$LOCKMGR\" lock -s -n --fd 8 || exit 1
                  \"$LOCKMGR\" lock -n -q --fd 9; test $? = 75 || exit 2
                  \"$LOCKMGR\" unlock --fd 8 && \"$LOCKMGR\" lock -n --fd 9 || exit 3
                  \"$LOCKMGR\" lock -s -n -q --fd 8; test $? = 75 || exit 4";
    scratch.sh(script).exits(0).is_silent();
}

#[test]
fn a_range_of_the_shells_file() {
    let scratch = Scratch::new();
    let script = "exec 9<>f; \"$LOCKMGR\" lock -m ofd --range 5+5 --fd 9 || exit 1
                  \"$LOCKMGR\" run -n -q -m ofd --range 9+1 ./f true; test $? = 75 || exit 2
                  \"$LOCKMGR\" run -n -q -m ofd --range 10+1 ./f true || exit 3
                  \"$LOCKMGR\" unlock --fd 9 || exit 4
                  \"$LOCKMGR\" run -n -q -m ofd ./f true || exit 5";
    scratch.sh(script).exits(0).is_silent();
}

#[test]
fn unlock_releases_all_that_the_file_holds() {
    let scratch = Scratch::new();
    let script = "exec 9<>f; for r in 0+1 10+1 20+1; do \"$LOCKMGR\" lock -m ofd --range $r --fd 9 || exit 1; done
                  \"$LOCKMGR\" lock --fd 9 || exit 2
                  \"$LOCKMGR\" run -n -q -m ofd --range 10+1 ./f true; test $? = 75 || exit 3
                  \"$LOCKMGR\" run -n -q ./f true; test $? = 75 || exit 4
                  \"$LOCKMGR\" unlock --fd 9 || exit 5
                  \"$LOCKMGR\" run -n -q -m ofd ./f true || exit 6
                  \"$LOCKMGR\" run -n -q ./f true || exit 7
                  \"$LOCKMGR\" unlock -q --fd 9";
    scratch.sh(script).exits(1).is_silent();
}

#[test]
fn what_cannot_be_is_said() {
    let scratch = Scratch::new();
    for fd in ["9", "77", "1048576", "-1"] {
        scratch.run(&["lock", "--fd", fd]).exits(64).says(&["descriptor", fd, "not open"]);
        scratch.run(&["unlock", "--fd", fd]).exits(64).says(&["descriptor", fd, "not open"]);
    }
    scratch.sh("exec 9>>f; \"$LOCKMGR\" lock -m posix --fd 9").exits(64).says(&["-m ofd"]);
    scratch.sh("exec 9>>f; \"$LOCKMGR\" lock --range 0+1 --fd 9").exits(64).says(&["-m ofd"]);
    // An exclusive record lock needs a descriptor that can write.
    scratch.sh(": >f; exec 9<f; \"$LOCKMGR\" lock -m ofd --fd 9").exits(74).says(&["descriptor 9"]);
    scratch.sh(": >f; exec 9<f; \"$LOCKMGR\" lock -m ofd -s --fd 9").exits(0);
}

#[test]
fn unlock_of_nothing_is_1() {
    let scratch = Scratch::new();
    scratch.sh("exec 9>>f; \"$LOCKMGR\" unlock --fd 9").exits(1).says(&["descriptor 9", "no lock"]);
    scratch.sh("exec 9>>f; \"$LOCKMGR\" unlock -q --fd 9").exits(1).is_silent();
    // The lock of another open of the same file is not ours to release.
    let _held = hold(&scratch.path("f"));
    scratch.sh("exec 9>>f; \"$LOCKMGR\" unlock -q --fd 9").exits(1);
    assert!(is_locked(&scratch.path("f")));
}
