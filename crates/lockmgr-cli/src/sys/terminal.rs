//! The terminal behind standard error: how wide it is, whether it is ours to write to, and the one line
//! that must not stay on it when a signal ends us.

use std::io::{self, Write};
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::signals::is_ignored;

const CLEAR: &[u8] = b"\r\x1b[K";

/// Whether the line is on the screen. Only one at a time can be.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// Columns of the terminal; `None` when it does not say.
///
/// # References
/// `TIOCGWINSZ(2const)`
pub(crate) fn width() -> Option<usize> {
    let mut size = MaybeUninit::<libc::winsize>::zeroed();
    // SAFETY: `size` has room for what is written.
    let asked = unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) };
    // SAFETY: it was zeroed, which is a valid value, and then perhaps written by the kernel.
    let columns = unsafe { size.assume_init() }.ws_col;
    (asked == 0 && columns > 0).then(|| columns.into())
}

/// Whether we are in the terminal's foreground, so that what we write is in nobody's way. A terminal
/// that does not control us has no foreground. Where the kernel hides a group, it says 0 for it.
///
/// # References
/// `tcgetpgrp(3)`
pub(crate) fn is_ours() -> bool {
    // SAFETY: it takes a number and touches no memory of ours.
    let foreground = unsafe { libc::tcgetpgrp(libc::STDERR_FILENO) };
    // SAFETY: it takes nothing and cannot fail.
    foreground == -1 || foreground == unsafe { libc::getpgrp() }
}

/// A line that is written over and over; cleared when this is dropped, and when one of the signals comes
/// that end programs at a terminal.
pub(crate) struct StatusLine {
    handled: Vec<i32>,
}

impl StatusLine {
    pub(crate) fn new() -> Self {
        let mut line = Self { handled: Vec::new() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
            // What was inherited as ignored stays so; nobody else installs handlers here.
            if !is_ignored(signal) {
                change_action(signal, clear_and_die as *const () as usize);
                line.handled.push(signal);
            }
        }
        line
    }

    /// Shows the text, which is narrower than the terminal, in place of the one before.
    #[expect(clippy::unused_self, reason = "without it there is nobody to clear the line")]
    pub(crate) fn draw(&mut self, text: &str) {
        DRAWN.store(true, Ordering::SeqCst);
        // In one piece, so that it is never seen half done.
        drop(io::stderr().write_all(&[b"\r", text.as_bytes(), b"\x1b[K"].concat()));
    }

    /// Takes the line away.
    #[expect(clippy::unused_self, reason = "see `draw`")]
    pub(crate) fn clear(&mut self) {
        if DRAWN.swap(false, Ordering::SeqCst) {
            drop(io::stderr().write_all(CLEAR));
        }
    }

    /// The terminal is somebody else's now, and so is the line.
    #[expect(clippy::unused_self, reason = "see `draw`")]
    pub(crate) fn abandon(&mut self) {
        DRAWN.store(false, Ordering::SeqCst);
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        self.clear();
        for &signal in &self.handled {
            change_action(signal, libc::SIG_DFL);
        }
    }
}

/// With our handler the second signal of a kind acts as it would without: even if the terminal takes no
/// output, nobody is kept from dying.
fn change_action(signal: i32, handler: usize) {
    // SAFETY: an all-zero sigaction is a value of this C structure (no flags, empty mask).
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
    // SAFETY: the action is valid for the call, and the old one is not asked for; our handler makes
    // async-signal-safe calls only.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

/// The handler. By now the signal's action is the default one again, and it is not blocked.
extern "C" fn clear_and_die(signal: libc::c_int) {
    if DRAWN.swap(false, Ordering::SeqCst) {
        // SAFETY: the bytes are valid for the call, which is async-signal-safe.
        unsafe { libc::write(libc::STDERR_FILENO, CLEAR.as_ptr().cast(), CLEAR.len()) };
    }
    // SAFETY: it takes a number, and is async-signal-safe.
    unsafe { libc::raise(signal) };
}
