//! A bare name is the same lock for the same user everywhere.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::support::{Finished, Scratch, finished, is_root, skip};

/// A name of this test's own; its lock file is removed at the end.
struct Name {
    name: String,
    path: PathBuf,
}

impl Name {
    fn new(scratch: &Scratch, what: &str) -> Self {
        let name = format!("lockmgr-test.{what}-{}", std::process::id());
        let path = path_of(&scratch.run(&["path", &name]));
        Name { name, path }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

fn path_of(shown: &Finished) -> PathBuf {
    PathBuf::from(shown.exits(0).out.trim_end())
}

#[test]
fn a_name_is_a_file_in_the_users_directory() {
    let scratch = Scratch::new();
    let name = Name::new(&scratch, "place");
    let uid = rustix::process::geteuid().as_raw();
    let directory = if uid == 0 { "/run/lockmgr".into() } else { format!("/tmp/lockmgr-{uid}") };
    assert_eq!(name.path, Path::new(&directory).join(format!("{}.lock", name.name)));
    let command = format!("\"$LOCKMGR\" run -n -q {} true; echo $?", name.path.display());
    assert_eq!(scratch.run(&["run", &name.name, "sh", "-c", &command]).exits(0).out, "75\n");
    let bits = fs::metadata(&directory).unwrap().permissions().mode() & 0o7777;
    assert_eq!(bits, 0o700);
}

#[test]
fn the_environment_does_not_change_it() {
    let scratch = Scratch::new();
    let name = Name::new(&scratch, "environment");
    let mut command = scratch.lockmgr(&["path", &name.name]);
    command.env_clear().envs([
        ("XDG_RUNTIME_DIR", "/x"),
        ("TMPDIR", "/y"),
        ("HOME", "/z"),
        ("UID", "7"),
    ]);
    assert_eq!(path_of(&finished(&mut command)), name.path);
}

#[test]
fn path_touches_nothing() {
    let scratch = Scratch::new();
    let name = Name::new(&scratch, "untouched");
    assert!(!name.path.exists());
    assert_eq!(path_of(&scratch.run(&["path", "./some/where"])), Path::new("./some/where"));
    assert!(!scratch.path("some").exists());
    assert_eq!(path_of(&scratch.run(&["path", ".."])), Path::new(".."));
}

#[test]
fn the_systems_name_is_another_lock() {
    let scratch = Scratch::new();
    let shown = path_of(&scratch.run(&["path", "--system", "x"]));
    assert_eq!(shown, Path::new("/run/lock/lockmgr/x.lock"));
}

#[test]
fn all_users_share_the_systems_name() {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    let scratch = Scratch::new();
    let name = format!("lockmgr-test.system-{}", std::process::id());
    let path = path_of(&scratch.run(&["path", "--system", &name]));
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    scratch.run(&["run", "--system", &name, "true"]).exits(0).is_silent();
    let other =
        finished(scratch.lockmgr(&["run", "--system", &name, "true"]).uid(54321).gid(54321));
    fs::remove_file(&path).unwrap();
    other.exits(0).is_silent();
}

#[test]
fn another_user_has_another_lock() {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = scratch.lockmgr(&["path", "x"]);
    assert_eq!(
        path_of(&finished(command.uid(54321).gid(54321))),
        Path::new("/tmp/lockmgr-54321/x.lock")
    );
}

#[test]
fn a_directory_that_somebody_else_prepared_is_refused() {
    if !is_root() {
        return skip("needs root, to be another user");
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.dir(), fs::Permissions::from_mode(0o755)).unwrap();
    let user = 54_400 + std::process::id() % 1000;
    let trap = PathBuf::from(format!("/tmp/lockmgr-{user}"));
    let refused = || finished(scratch.lockmgr(&["run", "x", "true"]).uid(user).gid(user));
    std::os::unix::fs::symlink(scratch.dir(), &trap).unwrap();
    let by_link = refused();
    fs::remove_file(&trap).unwrap();
    fs::create_dir(&trap).unwrap();
    let by_owner = refused();
    fs::remove_dir(&trap).unwrap();
    by_link.exits(73).says(&[trap.to_str().unwrap()]);
    by_owner.exits(73).says(&[trap.to_str().unwrap()]);
}

#[test]
fn a_name_of_other_letters_is_refused() {
    let scratch = Scratch::new();
    for name in ["a b", "ä", "a\nb", "a*", "$x", "~x"] {
        scratch.run(&["run", name, "true"]).exits(64).says(&["name"]);
        scratch.run(&["path", name]).exits(64).says(&["name"]);
    }
    scratch.run(&["path", ""]).exits(64);
}
