//! Where `flock` locks are record locks, as on NFS, `flock` has no gate, and that is found out by
//! trying: on a filesystem (FUSE) whose locks a server keeps, once in one table for both kinds, once
//! in two.

mod support;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;

use lockmgr::{Error, FileLock, Mechanism};
use rustix::mount::{MountFlags, mount};
use support::users::{can_mount, in_namespace};
use support::{Worker, say, serve, skip};

#[test]
fn worker() {
    serve(&[("play", play)]);
}

#[test]
fn flock_has_no_gate_where_it_is_a_record_lock() {
    in_each_world("one");
}

#[test]
fn flock_has_a_gate_where_a_server_keeps_the_two_apart() {
    in_each_world("apart");
}

fn in_each_world(world: &str) {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let args = [dir.path().to_str().unwrap(), world];
    let worker = Worker::spawn_with("play", &args, |command| in_namespace(command, ""));
    match worker.next_line().as_str() {
        "done" => {}
        other => return skip(other),
    }
    assert!(worker.finish().success());
}

fn play(args: &[String]) {
    let (dir, one) = (Path::new(&args[0]), args[1] == "one");
    let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
        return say("needs /dev/fuse");
    };
    let data = format!("fd={},rootmode=40755,user_id=0,group_id=0", device.as_raw_fd());
    let data = CString::new(data).unwrap();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    if mount("lockmgr-test", dir, "fuse", flags, data.as_c_str()).is_err() {
        return say("needs the right to mount a FUSE filesystem");
    }
    thread::spawn(move || Server { device, one, names: Vec::new(), locks: Vec::new() }.run());

    let path = dir.join("a.lock");
    for _ in 0..2 {
        let fair = FileLock::options().fair(true).open(&path);
        if one {
            let error = fair.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains("flock locks are record locks"), "{error}");
        } else {
            drop(fair.unwrap().lock().unwrap());
        }
        // An ofd lock and its gate are of one kind, and the waiter does not wait for itself.
        let ofd = FileLock::options().mechanism(Mechanism::Ofd).fair(true).open(&path).unwrap();
        drop(ofd.lock().unwrap());
        let preferred = FileLock::options().prefer_fair(true).open(&path).unwrap();
        let guard = preferred.lock().unwrap();
        let other = FileLock::open(&path).unwrap();
        assert!(matches!(other.try_lock(), Err(Error::Busy { .. })));
        drop(guard);
        drop(other.try_lock().unwrap());
    }
    let left: Vec<_> = fs::read_dir(dir.join("made")).unwrap().collect();
    assert!(left.is_empty(), "the try has left {left:?}");
    say("done");
}

/// A filesystem of empty files that come into being when they are made, in a directory that shows
/// nothing; below `made` it shows what was made and not removed, other than lock files.
struct Server {
    device: File,
    /// One table of locks, or one for each kind.
    one: bool,
    names: Vec<Option<Vec<u8>>>,
    locks: Vec<Lock>,
}

#[derive(Clone, PartialEq)]
struct Lock {
    file: u64,
    flock: bool,
    owner: u64,
    start: u64,
    end: u64,
    exclusive: bool,
}

const MADE: u64 = 2;
/// The node of the first name.
const FIRST: u64 = 3;

/// Numbers of the requests, from `linux/fuse.h`.
mod request {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const OPEN: u32 = 14;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const GETLK: u32 = 31;
    pub(super) const SETLK: u32 = 32;
    pub(super) const SETLKW: u32 = 33;
    pub(super) const CREATE: u32 = 35;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// `fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let mode = if node < FIRST { 0o040_777 } else { 0o100_666 };
    let mut bytes = longs(&[node, 0, 0, 0, 0, 0]);
    bytes.extend(words(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
    bytes
}

/// `fuse_entry_out`.
fn entry(node: u64) -> Vec<u8> {
    let mut bytes = longs(&[node, 0, 0, 0, 0]);
    bytes.extend(attributes(node));
    bytes
}

impl Server {
    fn run(mut self) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count) = self.device.read(&mut buffer) {
            let (head, body) = buffer[..count].split_at(40);
            let (kind, unique, node) = (u32_at(head, 4), u64_at(head, 8), u64_at(head, 16));
            if matches!(kind, request::FORGET | request::BATCH_FORGET | request::INTERRUPT) {
                continue;
            }
            let (error, data) = match self.answer(kind, node, body) {
                Ok(data) => (0, data),
                Err(errno) => (-errno, Vec::new()),
            };
            let mut reply = words(&[u32::try_from(16 + data.len()).unwrap(), 0]);
            reply[4..8].copy_from_slice(&error.to_ne_bytes());
            reply.extend(unique.to_ne_bytes());
            reply.extend(data);
            self.device.write_all(&reply).unwrap();
        }
    }

    fn node(&self, name: &[u8]) -> Option<u64> {
        let index = self.names.iter().position(|known| known.as_deref() == Some(name))?;
        Some(FIRST + index as u64)
    }

    fn answer(&mut self, kind: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let text = |from: usize| body[from..].split(|byte| *byte == 0).next().unwrap().to_vec();
        match kind {
            request::INIT => {
                const POSIX_LOCKS: u32 = 1 << 1;
                const FLOCK_LOCKS: u32 = 1 << 10;
                let mut reply = words(&[7, 31, 4096, POSIX_LOCKS | FLOCK_LOCKS]);
                reply.extend(words(&[0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
                Ok(reply)
            }
            request::LOOKUP if text(0) == b"made" => Ok(entry(MADE)),
            request::LOOKUP => self.node(&text(0)).map(entry).ok_or(libc::ENOENT),
            request::GETATTR | request::SETATTR => {
                let mut reply = longs(&[0, 0]);
                reply.extend(attributes(node));
                Ok(reply)
            }
            request::OPEN | request::OPENDIR => Ok(longs(&[0, 0])),
            request::CREATE => {
                if self.node(&text(16)).is_some() {
                    return Err(libc::EEXIST);
                }
                self.names.push(Some(text(16)));
                let mut reply = entry(FIRST + self.names.len() as u64 - 1);
                reply.extend(longs(&[0, 0]));
                Ok(reply)
            }
            request::UNLINK => {
                let index = self.node(&text(0)).ok_or(libc::ENOENT)? - FIRST;
                self.names[usize::try_from(index).unwrap()] = None;
                Ok(Vec::new())
            }
            request::READDIR => Ok(self.list(node, u64_at(body, 8))),
            request::RELEASE => {
                let owner = u64_at(body, 16);
                self.locks.retain(|lock| (lock.file, lock.owner) != (node, owner));
                Ok(Vec::new())
            }
            request::RELEASEDIR => Ok(Vec::new()),
            request::GETLK | request::SETLK | request::SETLKW => self.lock(kind, node, body),
            // Among them FLUSH: then no close waits for an answer, even when this thread has gone.
            _ => Err(libc::ENOSYS),
        }
    }

    /// `fuse_dirent`s, all at once.
    fn list(&self, node: u64, offset: u64) -> Vec<u8> {
        let mut reply = Vec::new();
        let left = self.names.iter().flatten().filter(|name| !name.ends_with(b".lock"));
        for (number, name) in (1..).zip(left) {
            if node != MADE || number <= offset {
                continue;
            }
            reply.extend(longs(&[FIRST, number]));
            reply.extend(words(&[u32::try_from(name.len()).unwrap(), 8]));
            reply.extend(name);
            reply.resize(reply.len().next_multiple_of(8), 0);
        }
        reply
    }

    fn lock(&mut self, kind: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        let (unlock, write) = (libc::F_UNLCK.unsigned_abs(), libc::F_WRLCK.unsigned_abs());
        let wanted = Lock {
            file: node,
            flock: u32_at(body, 40) & 1 != 0,
            owner: u64_at(body, 8),
            start: u64_at(body, 16),
            end: u64_at(body, 24),
            exclusive: u32_at(body, 32) == write,
        };
        let conflict = self.locks.iter().find(|lock| {
            lock.file == node
                && (self.one || lock.flock == wanted.flock)
                && lock.owner != wanted.owner
                && lock.start <= wanted.end
                && wanted.start <= lock.end
                && (lock.exclusive || wanted.exclusive)
        });
        if kind == request::GETLK {
            let mut reply = conflict.map_or(longs(&[0, 0]), |lock| longs(&[lock.start, lock.end]));
            reply.extend(words(&[if conflict.is_some() { write } else { unlock }, 0]));
            return Ok(reply);
        }
        let same = |lock: &Lock| {
            lock.file == node && lock.owner == wanted.owner && lock.flock == wanted.flock
        };
        if u32_at(body, 32) == unlock {
            // Nobody here unlocks a part of what was locked.
            self.locks.retain(|lock| {
                !(same(lock) && wanted.start <= lock.start && lock.end <= wanted.end)
            });
            return Ok(Vec::new());
        }
        if conflict.is_some() {
            // Nobody here is to wait.
            return Err(if kind == request::SETLKW { libc::EDEADLK } else { libc::EAGAIN });
        }
        self.locks.retain(|lock| !(same(lock) && lock.start == wanted.start));
        self.locks.push(wanted);
        Ok(Vec::new())
    }
}
