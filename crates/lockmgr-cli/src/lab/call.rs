//! The calls that actors make: as an order on the way to them, and as a person reads it in C.

use std::fmt::Write;
use std::io;

use lockmgr::Mechanism;
use serde::{Deserialize, Serialize};

use super::errno;
use crate::sys::lock::{self, Api, Want};

/// The number of a descriptor in an actor.
pub(crate) type Fd = i32;

/// The bytes of a record lock, as the kernel is given them: length 0 is to the end of the file, and a
/// negative one reaches backwards.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bytes {
    pub(crate) start: i64,
    pub(crate) length: i64,
}

impl Bytes {
    pub(crate) const ALL: Self = Self { start: 0, length: 0 };

    pub(crate) fn new(start: i64, length: i64) -> Self {
        Self { start, length }
    }
}

/// What a lock call is for.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum To {
    Share,
    Exclude,
    Unlock,
}

impl To {
    pub(crate) fn want(self) -> Want {
        match self {
            To::Share => Want::Shared,
            To::Exclude => Want::Exclusive,
            To::Unlock => Want::Unlock,
        }
    }

    fn in_flock(self) -> &'static str {
        match self {
            To::Share => "LOCK_SH",
            To::Exclude => "LOCK_EX",
            To::Unlock => "LOCK_UN",
        }
    }

    fn in_fcntl(self) -> &'static str {
        match self {
            To::Share => "F_RDLCK",
            To::Exclude => "F_WRLCK",
            To::Unlock => "F_UNLCK",
        }
    }
}

/// One lock call.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct LockCall {
    pub(crate) fd: Fd,
    #[serde(with = "mechanism")]
    pub(crate) mechanism: Mechanism,
    pub(crate) to: To,
    pub(crate) bytes: Bytes,
    pub(crate) sleeps: bool,
}

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Access {
    /// To read and write; made if it is not there.
    Usual,
    /// The same, without `O_CLOEXEC`.
    Inheritable,
    ReadOnly,
    WriteOnly,
    Directory,
    /// Made by this call, or refused.
    New,
}

impl Access {
    fn spelled(self) -> &'static str {
        match self {
            Access::Usual => "O_RDWR|O_CREAT|O_CLOEXEC, 0600",
            Access::Inheritable => "O_RDWR|O_CREAT, 0600",
            Access::ReadOnly => "O_RDONLY|O_CLOEXEC",
            Access::WriteOnly => "O_WRONLY|O_CLOEXEC",
            Access::Directory => "O_RDONLY|O_DIRECTORY|O_CLOEXEC",
            Access::New => "O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600",
        }
    }
}

/// How a file gets a second name.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Naming {
    Link,
    Symlink,
}

/// An order to an actor.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Call {
    Open {
        path: String,
        access: Access,
    },
    Close {
        fd: Fd,
    },
    Dup {
        fd: Fd,
    },
    Lock(LockCall),
    /// `F_GETLK` or `F_OFD_GETLK`.
    Test {
        fd: Fd,
        #[serde(with = "mechanism")]
        mechanism: Mechanism,
        to: To,
    },
    /// `lockf(fd, F_TLOCK, 0)`
    Lockf {
        fd: Fd,
    },
    /// Unlocks and at once asks again, so often or until it is refused.
    Again {
        lock: LockCall,
        rounds: u32,
    },
    Fork,
    Exec,
    Exit,
    Write {
        fd: Fd,
        text: String,
    },
    SetLength {
        fd: Fd,
        length: u64,
    },
    Length {
        fd: Fd,
    },
    Name {
        how: Naming,
        from: String,
        to: String,
    },
    Unlink {
        path: String,
    },
    Mkdir {
        path: String,
    },
    /// Tries to make `PREFIX0`, `PREFIX1`, …; how many of them it made, the others were there. Begins at a time
    /// of the monotonic clock, in nanoseconds, so that all racers are off together.
    MakeMany {
        at: u64,
        how: Making,
        prefix: String,
        rounds: u32,
    },
    /// Renames two names over a third in turn, so often.
    RenameOver {
        path: String,
        rounds: u32,
    },
    /// Opens the name, so often; how often it was not there.
    LookFor {
        path: String,
        rounds: u32,
    },
    Catch {
        signal: i32,
        restart: bool,
    },
    /// When it is woken up it takes the processor from nobody.
    Batch,
    OneProcessor,
    Watch {
        path: String,
    },
    /// The inotify events that come within the time.
    Events {
        fd: Fd,
        milliseconds: u32,
    },
}

/// What makes a lock file of the old kind.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Making {
    /// `open` with `O_EXCL`
    Create,
    /// `link` of a file of one's own
    Link,
    Mkdir,
    /// `rename`, which replaces
    Rename,
    /// `rename` that does not
    RenameNew,
}

impl Call {
    /// As one would write it in C.
    pub(crate) fn spelled(&self) -> String {
        match self {
            Call::Open { path, access } => format!("open({path:?}, {})", access.spelled()),
            Call::Close { fd } => format!("close({fd})"),
            Call::Dup { fd } => format!("dup({fd})"),
            Call::Lock(lock) => lock.spelled(),
            Call::Test { fd, mechanism, to } => {
                let command = if *mechanism == Mechanism::Ofd { "F_OFD_GETLK" } else { "F_GETLK" };
                format!("fcntl({fd}, {command}, {{{}, SEEK_SET, 0, 0}})", to.in_fcntl())
            }
            Call::Lockf { fd } => format!("lockf({fd}, F_TLOCK, 0)"),
            Call::Again { lock, rounds } => {
                let free = lock.unlock().spelled();
                format!("{free}; {}; up to {rounds} times", lock.spelled())
            }
            Call::Fork => "fork()".to_owned(),
            Call::Exec => "execve(itself)".to_owned(),
            Call::Exit => "_exit(0)".to_owned(),
            Call::Write { fd, text } => format!("write({fd}, {text:?}, {})", text.len()),
            Call::SetLength { fd, length } => format!("ftruncate({fd}, {length})"),
            Call::Length { fd } => format!("fstat({fd}, …).st_size"),
            Call::Name { how, from, to } => match how {
                Naming::Link => format!("link({from:?}, {to:?})"),
                Naming::Symlink => format!("symlink({from:?}, {to:?})"),
            },
            Call::Unlink { path } => format!("unlink({path:?})"),
            Call::Mkdir { path } => format!("mkdir({path:?}, 0700)"),
            Call::MakeMany { how, prefix, rounds, .. } => {
                let last = rounds.saturating_sub(1);
                match how {
                    Making::Create => {
                        format!("open(\"{prefix}0\"…\"{prefix}{last}\", O_CREAT|O_EXCL)")
                    }
                    Making::Link => format!("link(its own file, \"{prefix}0\"…\"{prefix}{last}\")"),
                    Making::Mkdir => format!("mkdir(\"{prefix}0\"…\"{prefix}{last}\")"),
                    Making::Rename => {
                        format!("rename(its own files, \"{prefix}0\"…\"{prefix}{last}\")")
                    }
                    Making::RenameNew => format!(
                        "renameat2(its own files, \"{prefix}0\"…\"{prefix}{last}\", RENAME_NOREPLACE)"
                    ),
                }
            }
            Call::RenameOver { path, rounds } => {
                format!("rename(another file, {path:?}), {rounds} times")
            }
            Call::LookFor { path, rounds } => format!("open({path:?}, O_RDONLY), {rounds} times"),
            Call::Catch { signal, restart } => {
                let flags = if *restart { "SA_RESTART" } else { "0" };
                format!("sigaction({}, handler, flags {flags})", signal_name(*signal))
            }
            Call::Batch => "sched_setscheduler(0, SCHED_BATCH)".to_owned(),
            Call::OneProcessor => "sched_setaffinity(0, one processor)".to_owned(),
            Call::Watch { path } => format!("inotify_add_watch({path:?}, IN_CLOSE)"),
            Call::Events { fd, milliseconds } => {
                format!("poll({{{fd}, POLLIN}}, {milliseconds} ms); read({fd}, inotify events)")
            }
        }
    }
}

impl LockCall {
    /// The call that lets go of what this one takes.
    pub(crate) fn unlock(self) -> Self {
        Self { to: To::Unlock, sleeps: false, ..self }
    }

    /// The call that sleeps if need be.
    pub(crate) fn sleeping(self) -> Self {
        Self { sleeps: true, ..self }
    }

    /// Makes it, in this process.
    pub(crate) fn make(self) -> io::Result<()> {
        let Bytes { start, length } = self.bytes;
        let api = match self.mechanism {
            Mechanism::Ofd => Api::Ofd { start, length },
            Mechanism::Posix => Api::Posix { start, length },
            _ => Api::Flock,
        };
        lock::lock(self.fd, api, self.to.want(), self.sleeps)
    }

    pub(crate) fn spelled(&self) -> String {
        let fd = self.fd;
        if self.mechanism == Mechanism::Flock {
            let patience = if self.sleeps || self.to == To::Unlock { "" } else { "|LOCK_NB" };
            return format!("flock({fd}, {}{patience})", self.to.in_flock());
        }
        let command = match (self.mechanism, self.sleeps) {
            (Mechanism::Ofd, true) => "F_OFD_SETLKW",
            (Mechanism::Ofd, false) => "F_OFD_SETLK",
            (_, true) => "F_SETLKW",
            (_, false) => "F_SETLK",
        };
        let Bytes { start, length } = self.bytes;
        format!("fcntl({fd}, {command}, {{{}, SEEK_SET, {start}, {length}}})", self.to.in_fcntl())
    }
}

/// What came back.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// What the call returned, or the number of the error.
    pub(crate) result: Result<i64, i32>,
    /// What else it told.
    pub(crate) said: Option<String>,
}

impl Outcome {
    /// `0`, `-1 EAGAIN`
    pub(crate) fn spelled(&self) -> String {
        let mut text = match self.result {
            Ok(number) => number.to_string(),
            Err(number) => format!("-1 {}", errno::name(number)),
        };
        if let Some(said) = &self.said {
            let _ = write!(text, " ({said})");
        }
        text
    }
}

/// An order on its way to an actor.
#[derive(Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) id: u64,
    /// 0 is the first thread; another one is started when it is first named.
    pub(crate) thread: u32,
    pub(crate) call: Call,
}

/// What an actor says.
#[derive(Serialize, Deserialize)]
pub(crate) enum Report {
    /// A process or a thread is there. To order `id`, or 0.
    Here {
        id: u64,
        pid: i32,
        thread: i32,
    },
    /// The next thing it does is the call.
    Begins {
        id: u64,
    },
    Done {
        id: u64,
        outcome: Outcome,
    },
}

pub(crate) fn signal_name(number: i32) -> String {
    rustix::process::Signal::from_named_raw(number)
        .map_or_else(|| format!("signal {number}"), crate::cli::signal_name)
}

/// A mechanism as its name.
pub(crate) mod mechanism {
    use lockmgr::Mechanism;
    use serde::{Deserialize, Deserializer, Serializer, de};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    pub(crate) fn serialize<S: Serializer>(
        value: &Mechanism,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Mechanism, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
