//! The terminal while `top` has it: raw, on its alternate screen; and as it was before at every end.
//!
//! What the terminal was like is kept where the panic hook finds it ([`restore`]), so that a panic's line
//! is not written to a screen that is about to vanish. Nothing here waits for anybody: the lock around it
//! is not held while anything else is done, and a terminal that is gone is no error.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

use crate::sys::group;

/// The alternate screen, without the cursor, and lines that do not wrap.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[0m\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[2J\x1b[?7h\x1b[?25h\x1b[?1049l";

struct Before {
    terminal: File,
    modes: Termios,
}

/// Set while the terminal is not as it was.
static BEFORE: Mutex<Option<Before>> = Mutex::new(None);

/// Has the terminal until it is dropped.
pub(super) struct Screen {
    terminal: File,
}

impl Screen {
    /// Takes the terminal.
    pub(super) fn enter(terminal: File) -> io::Result<Self> {
        let screen = Self { terminal };
        screen.take()?;
        Ok(screen)
    }

    fn take(&self) -> io::Result<()> {
        let modes = tcgetattr(&self.terminal)?;
        let kept = Before { terminal: self.terminal.try_clone()?, modes };
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        self.make_raw()
    }

    fn make_raw(&self) -> io::Result<()> {
        let mut modes = tcgetattr(&self.terminal)?;
        modes.make_raw();
        set(&self.terminal, &modes)?;
        say(&self.terminal, ENTER);
        Ok(())
    }

    /// Takes it anew after [`restore`], or after somebody else has stopped and continued this process
    /// and the shell had the terminal meanwhile. To be called in the foreground only.
    pub(super) fn retake(&self) -> io::Result<()> {
        let is_restored = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if is_restored { self.take() } else { self.make_raw() }
    }

    /// Whether the terminal is another job's, which is in front. (It need not be the one that controls
    /// this session; then nobody is in front.)
    pub(super) fn is_others(&self) -> bool {
        is_others(&self.terminal)
    }
}

fn is_others(terminal: &File) -> bool {
    tcgetpgrp(terminal).is_ok_and(|in_front| !group::is_our_group(in_front))
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was, if it is not. Twice is once. In the background it leaves the terminal
/// alone: it is another job's, and the shell has made it what that one needs.
pub(super) fn restore() {
    let kept = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(Before { terminal, modes }) = kept
        && !is_others(&terminal)
    {
        // Nobody can be told, and there is nothing else to try.
        drop(set(&terminal, &modes));
        say(&terminal, LEAVE);
    }
}

/// Writes if the terminal takes it within a second: one that is stopped (Ctrl-S) must not keep us.
fn say(mut terminal: &File, mut text: &[u8]) {
    let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
    while !text.is_empty() {
        match terminal.write(text) {
            Ok(count) if count > 0 => text = &text[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut room = [PollFd::from_borrowed_fd(terminal.as_fd(), PollFlags::OUT)];
                if !matches!(poll(&mut room, Some(&limit)), Ok(1..) | Err(Errno::INTR)) {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// A stop and a continuation end the call, too.
fn set(terminal: &File, modes: &Termios) -> io::Result<()> {
    loop {
        match tcsetattr(terminal, OptionalActions::Now, modes) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// One test, because there is one terminal in a process.
    #[test]
    fn every_end_restores_the_terminal() {
        let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&user).unwrap();
        unlockpt(&user).unwrap();
        let name = ptsname(&user, Vec::new()).unwrap();
        let terminal =
            File::from(open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap());
        let mut user = File::from(user);
        let mut seen = move |text: &[u8]| {
            let mut bytes = vec![0; text.len()];
            user.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, text, "{:?}", String::from_utf8_lossy(&bytes));
        };
        let echoes = || {
            let modes = tcgetattr(&terminal).unwrap();
            modes.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
        };
        let enter = || Screen::enter(terminal.try_clone().unwrap()).unwrap();

        let screen = enter();
        assert!(!echoes());
        seen(ENTER);
        restore();
        assert!(echoes());
        seen(LEAVE);
        screen.retake().unwrap();
        assert!(!echoes());
        seen(ENTER);
        screen.retake().unwrap();
        seen(ENTER);
        drop(screen);
        assert!(echoes());
        seen(LEAVE);

        // By a panic: the hook restores it before the line is printed, the unwinding does nothing more.
        let screen = enter();
        seen(ENTER);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _screen = screen;
            restore();
            assert!(echoes());
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(echoes());
        seen(LEAVE);

        // And without a hook.
        let screen = enter();
        seen(ENTER);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _screen = screen;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert!(echoes());
        seen(LEAVE);
        restore();
    }
}
