//! Promise 5 for system calls of the program's own: [`lockmgr::call_until`].

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lockmgr::call_until;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// Sleeps until the FIFO has a writer.
fn open(fifo: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(fifo, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Into::into)
}

fn fifo(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    path
}

#[test]
fn the_deadline_holds_and_is_never_early() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo(dir.path());
    for milliseconds in [1, 10, 50] {
        let limit = Duration::from_millis(milliseconds);
        let start = Instant::now();
        assert!(call_until(Some(start + limit), || open(&fifo)).unwrap().is_none());
        let passed = start.elapsed();
        assert!(passed >= limit && passed < Duration::from_secs(20), "{passed:?}");
    }
}

#[test]
fn what_is_done_in_time_is_returned() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = fifo(dir.path());
    for deadline in [None, Some(Instant::now() + Duration::from_secs(60))] {
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| call_until(deadline, || open(&fifo)).unwrap().is_some());
            // Sleeps until there is a reader.
            drop(std::fs::File::options().write(true).open(&fifo).unwrap());
            assert!(reader.join().unwrap());
        });
    }
}

#[test]
fn errors_are_the_calls_own_and_signals_are_none() {
    let calls = AtomicU32::new(0);
    let deadline = Some(Instant::now() + Duration::from_secs(60));
    for deadline in [None, deadline] {
        let result =
            call_until::<()>(deadline, || match calls.fetch_add(1, Ordering::Relaxed) % 3 {
                0 | 1 => Err(io::Error::from_raw_os_error(libc::EINTR)),
                _ => Err(io::Error::from_raw_os_error(libc::ENOLCK)),
            });
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ENOLCK));
    }
    assert_eq!(calls.into_inner(), 6);
}

#[test]
fn no_call_is_made_when_the_deadline_has_passed() {
    let result = call_until::<()>(Some(Instant::now()), || panic!("it was called"));
    assert!(result.unwrap().is_none());
}
