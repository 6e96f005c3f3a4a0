//! Names as locks: what lock files of the old kind rest on.

use std::thread;
use std::time::Duration;

use crate::lab::call::{Access, Call, Making};
use crate::lab::probe::Expectation::{Either, No, Yes};
use crate::lab::probe::{Expected, Probe};
use crate::lab::scene::{Found, Res, Scene, Trouble};

/// So many names are raced for.
const NAMES: u32 = 100;

pub(super) fn probes() -> Vec<Probe> {
    vec![
        Probe {
            name: "create-exclusive",
            question: "Of several that make a file with O_EXCL at once, is it one that succeeds?",
            why: "A lock without lock calls: the name is the lock.",
            expected: Expected::Names(Yes),
            run: |scene| race(scene, Making::Create),
        },
        Probe {
            name: "create-stale",
            question: "Is such a lock free when its holder has been killed?",
            why: "It stays, and whoever cleans up has to guess from pids and times.",
            expected: Expected::Names(No),
            run: stale,
        },
        Probe {
            name: "link-exclusive",
            question: "Of several that link a file to one name at once, is it one that succeeds?",
            why: "The old way on NFS, where O_EXCL was not to be trusted.",
            expected: Expected::Names(Yes),
            run: |scene| race(scene, Making::Link),
        },
        Probe {
            name: "mkdir-exclusive",
            question: "Of several that make a directory at once, is it one that succeeds?",
            why: "The way of shell scripts.",
            expected: Expected::Names(Yes),
            run: |scene| race(scene, Making::Mkdir),
        },
        Probe {
            name: "rename-exclusive",
            question: "Of several that rename a file to one name at once, is it one that succeeds?",
            why: "rename(2) replaces what is there: it publishes a file as a whole, and excludes nobody.",
            expected: Expected::Names(No),
            run: |scene| race(scene, Making::Rename),
        },
        Probe {
            name: "rename-noreplace",
            question: "And with RENAME_NOREPLACE?",
            why: "renameat2(2) can be told to leave alone what is there, where the filesystem supports it.",
            expected: Expected::Names(Yes),
            run: |scene| race(scene, Making::RenameNew),
        },
        Probe {
            name: "rename-atomic",
            question: "Does a name that is renamed over always exist?",
            why: "A reader finds the old file or the new one, and never none.",
            expected: Expected::Names(Yes),
            run: rename_atomic,
        },
        Probe {
            name: "rename-stamps",
            question: "Does a rename change the change time (ctime) of the file itself?",
            why: "If so, whoever has a lock file open can tell without looking that its name is still its own. \
                  POSIX leaves it open.",
            expected: Expected::Names(Either),
            run: |scene| {
                stamps(scene, |path| Call::Rename {
                    from: path.to_owned(),
                    to: "elsewhere".to_owned(),
                    exchange: false,
                })
            },
        },
        Probe {
            name: "unlink-stamps",
            question: "Does it change when the file is deleted?",
            why: "The same, for a file that has gone; its link count tells, too.",
            expected: Expected::Names(Either),
            run: |scene| stamps(scene, |path| Call::Unlink { path: path.to_owned() }),
        },
        Probe {
            name: "exchange-stamps",
            question: "Does it change when two files exchange their names (RENAME_EXCHANGE)?",
            why: "xfs leaves it alone, and FUSE tells of it late; lockmgr looks the path up there.",
            expected: Expected::Names(Either),
            run: |scene| {
                scene.process("B")?.opens("other")?;
                stamps(scene, |path| Call::Rename {
                    from: path.to_owned(),
                    to: "other".to_owned(),
                    exchange: true,
                })
            },
        },
    ]
}

fn race(scene: &Scene, how: Making) -> Res<Found> {
    let racers = [scene.process("A")?, scene.process("B")?, scene.process("C")?];
    let mut running = Vec::new();
    let at = soon();
    for racer in &racers {
        running.push(racer.begins(Call::MakeMany {
            at,
            how,
            prefix: "n".to_owned(),
            rounds: NAMES,
        })?);
    }
    let mut made = Vec::new();
    for racer in running {
        made.push(racer.succeeds()?);
    }
    // Whoever did not make a name found it there, so each was made at least once.
    let once = made.iter().sum::<i64>() == i64::from(NAMES);
    let [a, b, c] = made[..] else { unreachable!("three racers") };
    Found::that(once, format!("of {NAMES} names A made {a}, B {b}, C {c}"))
}

/// A time of the monotonic clock by which all racers will have heard of it.
fn soon() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) + 2_000_000
}

fn stale(scene: &Scene) -> Res<Found> {
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    a.opens_as("lock", Access::New)?;
    a.is_killed()?;
    let made = b.calls(Call::Open { path: "lock".to_owned(), access: Access::New })?;
    match made.result {
        Ok(_) => Found::that(true, "B gets it"),
        Err(errno) => Found::that(false, format!("B gets {}", crate::lab::errno::name(errno))),
    }
}

fn rename_atomic(scene: &Scene) -> Res<Found> {
    const LOOKS: u32 = 2000;
    let (a, b) = (scene.process("A")?, scene.process("B")?);
    let first = a.opens("file")?;
    a.closes(first)?;
    let renaming = a.begins(Call::RenameOver { path: "file".to_owned(), rounds: 200 })?;
    let missing = b.does(Call::LookFor { path: "file".to_owned(), rounds: LOOKS })?;
    renaming.succeeds()?;
    Found::that(missing == 0, format!("B looked {LOOKS} times, and found none {missing} times"))
}

/// Whether what another process does to a file's name shows in the file's change time.
fn stamps(scene: &Scene, change: impl FnOnce(&str) -> Call) -> Res<Found> {
    /// Longer than a tick of the clock that files are stamped with.
    const TICK: Duration = Duration::from_millis(20);
    let (a, b) = (scene.process("A")?, scene.process("C")?);
    let fd = a.opens("file")?;
    let before = a.does(Call::Changed { fd })?;
    thread::sleep(TICK);
    match b.does(change("file")) {
        // So it is with an exchange, here and there.
        Err(Trouble::Call { errno: libc::EINVAL, .. }) => {
            return Found::that(false, "the filesystem cannot do that");
        }
        outcome => outcome?,
    };
    let after = a.does(Call::Changed { fd })?;
    let later = Duration::from_nanos(after.saturating_sub(before).unsigned_abs());
    let what = if after == before {
        "it is the same one".to_owned()
    } else {
        format!("it is another one, {later:.0?} later")
    };
    Found::that(after != before, what)
}
