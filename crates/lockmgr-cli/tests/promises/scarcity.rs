//! What cannot be looked at is not taken for absent: where there is no `/proc`, where it hides processes, and
//! where the descriptors run out.

use serde_json::Value;

use crate::support::{Finished, Running, Scratch, finished, has, is_root, json, skip};

fn number(running: &Running) -> i64 {
    running.pid().as_raw_nonzero().get().into()
}

/// Runs a script where a new `/proc` is mounted like this; `None`, with a word about it, where that is not
/// permitted.
fn where_proc_is(scratch: &Scratch, mounted: &str, script: &str) -> Option<Finished> {
    let unshare =
        |script: &str| finished(&mut scratch.command(&["unshare", "--mount", "sh", "-c", script]));
    let mount = format!("mount -t {mounted} none /proc");
    if !is_root() || !has("unshare") || unshare(&mount).code != Some(0) {
        skip("needs root, unshare(1), and the right to mount");
        return None;
    }
    Some(unshare(&format!("{mount}; {script}")))
}

#[test]
fn without_proc_a_lock_is_not_called_free() {
    let scratch = Scratch::new();
    let _holder = scratch.holder(&[], "./l");
    for words in ["who ./l", "kill -y ./l", "ls", "ls ./l", "deadlocks"] {
        let script = format!("exec \"$LOCKMGR\" {words}");
        let Some(shown) = where_proc_is(&scratch, "tmpfs", &script) else { return };
        shown.exits(74).says(&["the kernel's lock table"]);
        assert_eq!(shown.out, "", "{words}");
    }
    // A file that is not there is free all the same.
    let script = "exec \"$LOCKMGR\" who ./m";
    let Some(shown) = where_proc_is(&scratch, "tmpfs", script) else { return };
    assert_eq!(shown.exits(1).out, "./m: free (there is no such file)\n");
}

#[test]
fn a_holder_that_proc_hides_is_there_and_nothing_is_made_up_about_it() {
    if !has("setpriv") {
        return skip("needs setpriv(1)");
    }
    let scratch = Scratch::new().open_to_all();
    let holder = scratch.holder(&["--mode", "0666"], "./l");
    let nobody = "exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$LOCKMGR\"";
    let hidden =
        |words: &str| where_proc_is(&scratch, "proc -o hidepid=2", &format!("{nobody} {words}"));
    let Some(shown) = hidden("who --json ./l") else { return };
    let told = json(&shown);
    let first = &told["locks"][0]["file"]["locks"][0]["holders"][0];
    assert_eq!(first["standing"], "not permitted");
    let process = &first["process"];
    assert_eq!((&process["pid"], &process["ended"]), (&number(&holder).into(), &false.into()));
    for key in ["start", "started", "parent", "uid", "user", "zombie", "name", "command"] {
        assert_eq!(process[key], Value::Null, "{key}: {process}");
    }
    let Some(refused) = hidden("run -n ./l true") else { return };
    refused.exits(75).says(&[&format!("held by pid {}", number(&holder))]);
    assert!(!refused.err.contains("ended"), "{refused:?}");
}

#[test]
fn nobody_has_let_go_because_the_descriptors_ran_out() {
    const WHY: &str = "Too many open files";
    let scratch = Scratch::new();
    let _holder = scratch.holder(&[], "./l");
    let mut failures = 0;
    // The dynamic linker needs the fourth one. With the last ones there is enough for everything.
    for limit in 4..16 {
        let with_few = |words: &str| {
            let mut shown = scratch.sh(&format!("ulimit -n {limit}; exec \"$LOCKMGR\" {words}"));
            shown.out = format!("{limit} {words}: {}", shown.out);
            shown
        };
        for (words, found, expected) in [
            ("ls .", "/l\n  holds", 0),
            ("deadlocks", "no deadlock\n", 0),
            ("who ./l", "./l: held\n  holds", 0),
            ("kill -y -w 0 -s CONT ./l", "", 75),
        ] {
            let shown = with_few(words);
            let is_whole = shown.code == Some(expected) && shown.out.contains(found);
            if !is_whole {
                failures += 1;
                assert!(shown.err.contains(WHY), "{shown:?}");
                let is_held = words.starts_with("who") && shown.code == Some(0);
                assert!(shown.code == Some(74) || is_held, "{shown:?}");
            }
            for wrong in ["gone", "(ended)", "let go", "held by others", "too long"] {
                assert!(!(shown.out.clone() + &shown.err).contains(wrong), "{shown:?}");
            }
        }
        let refused = with_few("run -n ./l true");
        refused.exits(75);
        assert!(!refused.err.contains("ended") && !refused.err.contains("any more"), "{refused:?}");
    }
    assert!(failures > 0, "none of the limits was low enough");
}
