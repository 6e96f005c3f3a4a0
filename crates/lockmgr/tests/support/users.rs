//! Other users, and places of one's own: what takes root, or a namespace, to play.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;

use super::{is_root, skip};

/// A user id that nobody has, and that no other test uses, in whatever process it runs.
pub(crate) fn new_user() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() * 64 + COUNT.fetch_add(1, Ordering::Relaxed) % 64;
    let id = 1_000_000 + number;
    // Many a user namespace has no more than 16 bits of them.
    if can_become(id) { id } else { 60_000 + number % 5_000 }
}

/// Makes the calling thread, and those that it will start, act as this user.
///
/// The thread only, so that nobody else of the process is disturbed; and no `exec`, because the
/// user may not be allowed to reach this program's file.
pub(crate) fn become_user(id: u32) {
    try_to_become_user(id).expect("root can become anybody");
}

fn try_to_become_user(id: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Tries it in a thread that is then thrown away.
fn can_become(id: u32) -> bool {
    thread::spawn(move || try_to_become_user(id).is_ok()).join().unwrap()
}

/// Whether other users can be played here; says so if not.
pub(crate) fn can_play_users() -> bool {
    let can = is_root() && can_become(new_user());
    if !can {
        skip("needs root, to act as other users");
    }
    can
}

/// A new directory with these permissions, which every user can reach.
pub(crate) fn public_dir(mode: u32) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), mode);
    dir
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// The permission bits of a file.
pub(crate) fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Turns the command into one that runs in a mount namespace of its own, in which `setup` (a shell
/// script) was run first. What it mounts goes with the process.
pub(crate) fn in_namespace(command: &mut Command, setup: &str) {
    let mut inside = Command::new("unshare");
    inside.args(unshare_flags()).args(["sh", "-ec", &format!("{setup}\nexec \"$0\" \"$@\"")]);
    inside.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(key, value),
            None => inside.env_remove(key),
        };
    }
    inside.stdin(Stdio::piped()).stdout(Stdio::piped());
    *command = inside;
}

/// Whether [`in_namespace`] works here; says so if not.
pub(crate) fn can_mount() -> bool {
    let can = Command::new("unshare")
        .args(unshare_flags())
        .args(["mount", "-t", "tmpfs", "none", "/mnt"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !can {
        skip("needs unshare(1) and the right to mount in a namespace");
    }
    can
}

fn unshare_flags() -> &'static [&'static str] {
    if is_root() { &["--mount"] } else { &["--map-root-user", "--mount"] }
}
