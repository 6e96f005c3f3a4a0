//! Roles that many test files need. Arguments: path, mechanism (`fair ` before it for a fair handle),
//! mode (`exclusive`), range (whole).

use lockmgr::{Error, FileLock, Mode, Range};

use super::{BOUND, Role, Worker, hear, say};

/// Acquires, says `held`, and holds until it is told something.
pub(crate) const HOLD: (&str, Role) = ("hold", |args| {
    let (lock, mode) = open(args);
    let guard = lock.acquire().mode(mode).timeout(BOUND).wait().unwrap();
    say("held");
    hear();
    guard.unlock().unwrap();
    say("released");
    hear();
});

/// Says `got` or `busy`.
pub(crate) const TRY: (&str, Role) = ("try", |args| {
    let (lock, mode) = open(args);
    match lock.acquire().mode(mode).try_now() {
        Ok(_) => say("got"),
        Err(Error::Busy { .. }) => say("busy"),
        Err(other) => panic!("{other}"),
    }
});

fn open(args: &[String]) -> (FileLock, Mode) {
    let (fair, mechanism) = match args[1].strip_prefix("fair ") {
        Some(mechanism) => (true, mechanism),
        None => (false, args[1].as_str()),
    };
    let mut options = FileLock::options().mechanism(mechanism.parse().unwrap()).fair(fair);
    let mode = match args.get(2).map_or("exclusive", String::as_str) {
        "exclusive" => Mode::Exclusive,
        "shared" => Mode::Shared,
        other => panic!("no mode: {other}"),
    };
    if let Some(range) = args.get(3) {
        options = options.range(range.parse::<Range>().unwrap());
    }
    (options.open(&args[0]).unwrap(), mode)
}

/// Another process that holds the lock.
pub(crate) fn holder(args: &[&str]) -> Worker {
    let worker = Worker::spawn("hold", args);
    worker.expect("held");
    worker
}

/// Lets a [`holder`] release.
pub(crate) fn release(holder: &mut Worker) {
    holder.tell("release");
    holder.expect("released");
}

/// Whether another process would get the lock now.
pub(crate) fn others_get_it(args: &[&str]) -> bool {
    match Worker::spawn("try", args).next_line().as_str() {
        "got" => true,
        "busy" => false,
        other => panic!("{other}"),
    }
}
