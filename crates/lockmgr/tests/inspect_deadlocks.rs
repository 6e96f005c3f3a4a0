//! Circles of waiting processes are found, named and judged: certain only if nobody who could let go
//! can do so any more; and where there is none, none is reported.

mod support;

use std::path::{Path, PathBuf};

use lockmgr::inspect::{Deadlock, LockTable};
use support::puppet::{PUPPET, Puppet};
use support::serve;

#[test]
fn worker() {
    serve(&[PUPPET]);
}

/// The deadlocks over files of this directory.
fn deadlocks(here: &Path) -> Vec<Deadlock> {
    let here = here.canonicalize().unwrap();
    let mut found = LockTable::snapshot().unwrap().deadlocks();
    found.retain(|deadlock| {
        deadlock.links.iter().any(|link| link.path.as_ref().is_some_and(|p| p.starts_with(&here)))
    });
    found
}

/// (waiter, file, holder) of each link, beginning with the lowest waiter.
fn links(deadlock: &Deadlock) -> Vec<(u32, PathBuf, u32)> {
    let mut links: Vec<_> = deadlock
        .links
        .iter()
        .map(|link| (link.waiter.pid().unwrap(), link.path.clone().unwrap(), link.holder.pid))
        .collect();
    let lowest = (0..links.len()).min_by_key(|at| links[*at].0).unwrap();
    links.rotate_left(lowest);
    links
}

/// Puppets, each with a lock of its own file, which all have opened.
fn circle(dir: &Path, locks: &[&str]) -> (Vec<Puppet>, Vec<PathBuf>) {
    let dir = dir.canonicalize().unwrap();
    let paths: Vec<PathBuf> = (0..locks.len()).map(|at| dir.join(format!("{at}.lock"))).collect();
    let puppets = paths.iter().zip(locks).map(|(path, lock)| Puppet::holding(path, lock).0);
    (puppets.collect(), paths)
}

fn only(found: &[Deadlock]) -> Deadlock {
    let [deadlock] = found else { panic!("{found:?}") };
    deadlock.clone()
}

#[test]
fn three_processes_over_flock_and_ofd() {
    let dir = tempfile::tempdir().unwrap();
    let locks = ["flock ex", "ofd ex 0 10", "flock sh"];
    let (mut puppets, paths) = circle(dir.path(), &locks);
    let asks = ["ofd sh 5 1", "flock ex", "flock ex"];
    for (at, ask) in asks.iter().enumerate() {
        assert!(deadlocks(dir.path()).is_empty(), "not before the last one waits");
        let fd = puppets[at].open(&paths[(at + 1) % 3]);
        puppets[at].ask_here(fd, ask);
    }
    let deadlock = only(&deadlocks(dir.path()));
    assert!(deadlock.certain);
    let pids: Vec<u32> = puppets.iter().map(Puppet::pid).collect();
    let mut expected: Vec<_> =
        (0..3).map(|at| (pids[at], paths[(at + 1) % 3].clone(), pids[(at + 1) % 3])).collect();
    let lowest = (0..3).min_by_key(|at| pids[*at]).unwrap();
    expected.rotate_left(lowest);
    assert_eq!(links(&deadlock), expected);
    let text = deadlock.to_string();
    for (pid, path) in pids.iter().zip(&paths) {
        assert!(text.contains(&format!("pid {pid} ")) && text.contains(path.to_str().unwrap()));
    }
    // The end of one is the end of it.
    puppets[1].kill();
    support::eventually("no deadlock any more", || deadlocks(dir.path()).is_empty());
}

#[test]
fn one_process_and_two_descriptions() {
    let dir = tempfile::tempdir().unwrap();
    for mechanism in ["flock", "ofd"] {
        let path = dir.path().join(mechanism);
        let (mut puppet, _) = Puppet::holding(&path, &format!("{mechanism} ex"));
        let second = puppet.open(&path);
        puppet.ask_here(second, &format!("{mechanism} ex"));
        let deadlock = only(&deadlocks(dir.path()));
        assert!(deadlock.certain, "{deadlock}");
        assert_eq!(deadlock.links.len(), 1);
        assert_eq!(deadlock.links[0].holder.pid, puppet.pid());
    }
}

#[test]
fn a_parent_that_waits_for_its_blocked_child_lets_nothing_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut puppets, paths) = circle(dir.path(), &["flock ex", "flock ex"]);
    // The first one leaves the asking to its child, which has all its descriptors.
    let fd = puppets[0].open(&paths[1]);
    let child = puppets[0].child(fd, "flock ex");
    let fd = puppets[1].open(&paths[0]);
    puppets[1].ask_here(fd, "flock ex");
    let deadlock = only(&deadlocks(dir.path()));
    assert!(!deadlock.certain, "the parent is awake, and has the descriptor: {deadlock}");
    puppets[0].wait_for_child();
    let deadlock = only(&deadlocks(dir.path()));
    assert!(deadlock.certain, "{deadlock}");
    let waiters: Vec<_> = links(&deadlock).into_iter().map(|link| link.0).collect();
    assert!(waiters.contains(&child.0) && waiters.contains(&puppets[1].pid()), "{waiters:?}");
}

#[test]
fn somebody_awake_with_the_descriptor_may_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut puppets, paths) = circle(dir.path(), &["flock ex", "ofd ex"]);
    let heir = puppets[1].heir();
    for (at, ask) in ["ofd ex", "flock ex"].iter().enumerate() {
        let fd = puppets[at].open(&paths[1 - at]);
        puppets[at].ask_here(fd, ask);
    }
    assert!(!only(&deadlocks(dir.path())).certain);
    drop(heir);
    support::eventually("certain without the heir", || {
        deadlocks(dir.path()).first().is_some_and(|deadlock| deadlock.certain)
    });
}

#[test]
fn another_thread_may_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let (mut puppets, paths) = circle(dir.path(), &["flock ex", "flock ex"]);
    puppets[0].idle();
    for at in 0..2 {
        let fd = puppets[at].open(&paths[1 - at]);
        puppets[at].ask_here(fd, "flock ex");
    }
    assert!(!only(&deadlocks(dir.path())).certain);
}

#[test]
fn waiting_is_no_deadlock() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("contended");
    // Plain contention: a holder, and some who wait in a row; readers and a writer; two threads of a
    // process, of which one has it.
    let (mut holder, fd) = Puppet::holding(&path, "flock ex");
    let mut waiters = Vec::new();
    for _ in 0..3 {
        let mut waiter = Puppet::new();
        let fd = waiter.open(&path);
        waiter.ask_here(fd, "flock ex");
        waiters.push(waiter);
    }
    let second = holder.open(&path);
    holder.ask(second, "flock ex");
    let readers = dir.path().join("readers");
    let (_one, _) = Puppet::holding(&readers, "ofd sh");
    let (mut other, other_fd) = Puppet::holding(&readers, "ofd sh");
    let (mut writer, writer_fd) = (Puppet::new(), fd);
    assert_eq!(writer.open(&readers), writer_fd);
    writer.ask_here(writer_fd, "ofd ex");
    // An upgrade through a copy: it waits for the other reader, and not for itself.
    let copy = other.dup(other_fd);
    other.ask_here(copy, "ofd ex");
    assert_eq!(deadlocks(dir.path()), []);
}

#[test]
fn two_upgrades_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("upgrades");
    let (mut one, fd) = Puppet::holding(&path, "ofd sh");
    let (mut other, other_fd) = Puppet::holding(&path, "ofd sh");
    one.ask_here(fd, "ofd ex");
    assert_eq!(deadlocks(dir.path()), []);
    other.ask_here(other_fd, "ofd ex");
    assert!(only(&deadlocks(dir.path())).certain);
}
