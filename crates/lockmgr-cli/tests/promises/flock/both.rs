//! The original and ours on the same scene, and what each of them left: exit status, output, messages,
//! and the files.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use super::translation::translated;
use crate::support::{Finished, LOCKMGR, Scratch, finished, skip};

/// Where scripts find it: in the scene's directory, and nothing that `ls` shows.
const PROGRAMS: &str = ".programs";

/// Whose flock(1) it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    Original,
    Ours,
    /// Ours, told to have the original's faults, too.
    Strict,
}

impl Whose {
    fn program(self) -> PathBuf {
        match self {
            Whose::Original => original().expect("looked for before"),
            Whose::Ours | Whose::Strict => LOCKMGR.into(),
        }
    }

    fn prepare(self, command: &mut Command) {
        command.env("LC_ALL", "C").env_remove("LOCKMGR_FLOCK_STRICT");
        if self == Whose::Strict {
            command.env("LOCKMGR_FLOCK_STRICT", "1");
        }
    }

    /// flock(1) with these words.
    pub(super) fn command(self, scratch: &Scratch, words: &[&str]) -> Command {
        let mut command = scratch.command(&[self.program()]);
        command.arg0("flock").args(words);
        // A file of its own: descriptor 0 is locked in some scenes, and /dev/null is everybody's.
        command.stdin(tempfile::tempfile().expect("a temporary file"));
        self.prepare(&mut command);
        command
    }

    /// A script that finds it as `flock`.
    pub(super) fn script(self, scratch: &Scratch, script: &str) -> Command {
        let programs = scratch.path(PROGRAMS);
        fs::create_dir(&programs).expect("a directory");
        symlink(self.program(), programs.join("flock")).expect("a link");
        let path = env::var("PATH").expect("a PATH");
        let mut command = scratch.command(&["/bin/sh", "-c", script]);
        command.env("PATH", format!("{}:{path}", programs.display()));
        self.prepare(&mut command);
        command
    }
}

/// The original, if it is installed.
pub(super) fn original() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let found = env::split_paths(&path).map(|dir| dir.join("flock")).find(|path| path.is_file())?;
    let version = Command::new(&found).arg("--version").output().ok()?;
    String::from_utf8_lossy(&version.stdout).contains("util-linux").then_some(found)
}

pub(super) fn has_original() -> bool {
    let has = original().is_some();
    if !has {
        skip("util-linux's flock(1) is not installed here");
    }
    has
}

/// What is left when it has ended.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Left {
    pub(super) status: (Option<i32>, Option<i32>),
    pub(super) out: String,
    pub(super) err: String,
    /// Name, type and permissions, size.
    files: Vec<String>,
}

impl Left {
    pub(super) fn of(scratch: &Scratch, ended: Finished) -> Self {
        let mut files: Vec<String> = fs::read_dir(scratch.dir())
            .expect("the directory")
            .map(|entry| entry.expect("an entry"))
            .filter(|entry| entry.file_name() != PROGRAMS)
            .map(|entry| {
                let status = entry.metadata().expect("its status");
                let name = entry.file_name();
                format!("{} {:o} {}", name.display(), status.permissions().mode(), status.len())
            })
            .collect();
        files.sort();
        let out = without_times(&ended.out);
        Left { status: (ended.code, ended.signal), out, err: ended.err, files }
    }
}

/// Waiting takes another time with each run.
fn without_times(text: &str) -> String {
    let mut parts = text.split("getting lock took ");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (time, rest) = part.split_once(' ').expect("a unit");
        let (seconds, micros) = time.split_once('.').expect("a fraction");
        assert!(seconds.parse::<u32>().is_ok() && micros.len() == 6, "{time}");
        all.push_str("getting lock took TIME ");
        all.push_str(rest);
    }
    all
}

/// Plays the same scene with the original and with ours, strict and not, and compares what is left.
#[track_caller]
pub(super) fn same_with(
    what: &str,
    words: &[&str],
    play: impl Fn(Whose, &Scratch) -> Finished,
) -> Option<Left> {
    original()?;
    let played = |whose| {
        let scratch = Scratch::new();
        let ended = play(whose, &scratch);
        Left::of(&scratch, ended)
    };
    let mut expected = played(Whose::Original);
    expected.err = translated(&expected.err, words);
    for whose in [Whose::Ours, Whose::Strict] {
        assert_eq!(played(whose), expected, "left: {whose:?}, right: the original: {what}");
    }
    Some(expected)
}

/// The same words for both.
#[track_caller]
pub(super) fn same(words: &[&str]) -> Option<Left> {
    same_with(&words.join(" "), words, |whose, scratch| {
        finished(&mut whose.command(scratch, words))
    })
}

/// The same script for both.
#[track_caller]
pub(super) fn same_script(script: &str) -> Option<Left> {
    same_with(script, &[], |whose, scratch| finished(&mut whose.script(scratch, script)))
}
