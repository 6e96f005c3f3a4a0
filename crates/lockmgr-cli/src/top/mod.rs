//! `lockmgr top`: every lock on the machine, as it changes, on the whole screen.
//!
//! - `lookout`: the thread that looks; `picture`: what it found, made ready; `tree`: about one lock
//! - `state`: what is shown, and what keys do to it; `keys`: keys out of bytes
//! - `view`: drawing; `text`: what fits; `backend`: onto a terminal; `screen`: taking it and giving it back
//! - here: the loop that brings them together
//!
//! Everything that can happen makes a descriptor readable, and one `poll` waits for all of it: the
//! terminal's input, a signal (blocked, and taken from the queue: nothing is interrupted), a report of the
//! lookout. So each end goes through the same door, and the terminal is what it was.

mod backend;
mod keys;
mod lookout;
mod picture;
mod screen;
mod state;
mod text;
mod tree;
mod view;

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic;
use std::sync::PoisonError;
use std::thread;
use std::time::{Duration, Instant};

use ratatui::layout::Size;
use ratatui::{Terminal, TerminalOptions, Viewport, backend::Backend};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::cli::TopArgs;
use crate::exit::{self, Failure, Status};
use crate::sys::signals::{self, SignalSet};

use backend::Ansi;
use keys::Keys;
use lookout::{DEFECT, Lookout, Report, Task};
use screen::Screen;
use state::{Effect, State};
use view::Theme;

/// Those that end the program: all that would, but for those of its own faults.
const ENDS: [Signal; 16] = [
    Signal::TERM,
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::PIPE,
    Signal::ABORT,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::STKFLT,
];

/// After this long a lone Esc is the key.
const ESCAPE_IS_A_KEY: Duration = Duration::from_millis(50);

/// Shows the locks until it is told to stop.
pub(crate) fn run(args: &TopArgs) -> Result<Status, Failure> {
    let terminal = terminal()?;
    // Before there is a second thread, which inherits the mask.
    let taken: Vec<Signal> =
        ENDS.into_iter().chain([Signal::TSTP, Signal::CONT, Signal::WINCH]).collect();
    signals::block(&taken);
    // In the background we stop by our own doing (`stop`), where the others can still end us.
    signals::block(&[Signal::TTOU]);
    let taken = SignalSet::of(&taken);
    hook_panics();
    let end = Top::start(args, terminal, taken)
        .map_err(|error| failed(&error))
        .and_then(|mut top| top.go_on());
    // What has ended it has dropped the screen by now, whichever way.
    match end? {
        End::Asked => Ok(exit::OK),
        End::Signal(signal) => {
            // The shell is to see what it was.
            signals::suffer(signal);
            Ok(exit::of_signal(signal.as_raw()))
        }
    }
}

fn failed(error: &io::Error) -> Failure {
    if let Some(defect) = DEFECT.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Failure::new(exit::DEFECT, defect);
    }
    Failure::new(exit::SYSTEM, format!("top: {error}"))
}

/// The terminal, as an open file description of our own where that can be had: it does not block, and
/// other programs that use the terminal must not find it so.
fn terminal() -> Result<File, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::usage(
            "top needs a terminal for its input and output; `lockmgr ls` prints the locks once",
        ));
    }
    if std::env::var_os("TERM").is_some_and(|name| name == "dumb") {
        return Err(Failure::usage(
            "top cannot draw on this terminal (TERM=dumb); `lockmgr ls` prints the locks once",
        ));
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let own = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/proc/self/fd/1");
    // The terminal can be another user's (su), who has left us the descriptor alone.
    own.or_else(|_| io::stdout().as_fd().try_clone_to_owned().map(File::from))
        .map_err(|error| Failure::new(exit::SYSTEM, format!("cannot open the terminal: {error}")))
}

/// A panic of this thread is told on a terminal that is as it was; another thread's is told by this one,
/// which has the terminal.
fn hook_panics() {
    let main = thread::current().id();
    panic::set_hook(Box::new(move |panic| {
        if thread::current().id() == main {
            screen::restore();
            crate::say_defect(panic);
        } else {
            *DEFECT.lock().unwrap_or_else(PoisonError::into_inner) = Some(crate::defect(panic));
        }
    }));
}

enum End {
    Asked,
    Signal(Signal),
}

struct Top {
    // First, so that it is dropped first: nothing is drawn on a terminal that was given back.
    canvas: Terminal<Ansi>,
    screen: Screen,
    terminal: File,
    taken: SignalSet,
    signals: OwnedFd,
    lookout: Lookout,
    state: State,
    keys: Keys,
    theme: Theme,
    interval: Duration,
    /// When the last look began; `None` once it is to begin now.
    looked: Option<Instant>,
    is_looking: bool,
    /// The screen shows something else than was drawn last.
    repaint: bool,
}

impl Top {
    fn start(args: &TopArgs, terminal: File, taken: SignalSet) -> io::Result<Self> {
        let signals = signals::readable_when(&taken)?;
        let lookout = Lookout::start()?;
        let backend = Ansi::new(terminal.try_clone()?, signals.try_clone()?);
        let size = backend.size()?;
        let viewport = Viewport::Fixed(size_to_area(size));
        let screen = Screen::enter(terminal.try_clone()?)?;
        let canvas = Terminal::with_options(backend, TerminalOptions { viewport })?;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
        Ok(Self {
            canvas,
            screen,
            terminal,
            taken,
            signals,
            lookout,
            state: State::new(size),
            keys: Keys::default(),
            theme: Theme { colours: !no_colour },
            interval: args.interval,
            looked: None,
            is_looking: false,
            repaint: true,
        })
    }

    fn go_on(&mut self) -> Result<End, Failure> {
        loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(end)) => return Ok(end),
                // A terminal that is hung up fails, and says so by a signal as well.
                Err(error) => return pending_end().ok_or_else(|| failed(&error)),
            }
        }
    }

    /// Draws, waits for something to happen, and does it.
    fn turn(&mut self) -> io::Result<Option<End>> {
        if !self.is_looking && self.until_next_look().is_zero() {
            self.looked = Some(Instant::now());
            self.is_looking = true;
            self.lookout.tell(Task::Look);
        }
        match self.draw() {
            // The terminal takes nothing, and a signal has come.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.repaint = true,
            result => result?,
        }
        let [input, signal, report] = self.wait()?;
        if signal && let Some(end) = self.take_signal()? {
            return Ok(Some(end));
        }
        if report {
            while let Some(report) = self.lookout.report()? {
                match report {
                    Report::Seen(look) => {
                        self.is_looking = false;
                        self.state.learn(look);
                    }
                    Report::Said(said) => {
                        self.state.message = Some(said);
                        // What became of it is seen at once.
                        self.looked = None;
                    }
                }
            }
        }
        let typed = if input { self.read()? } else { Vec::new() };
        let settled = if typed.is_empty() && !input { self.keys.settle() } else { None };
        for key in typed.into_iter().chain(settled) {
            match self.state.key(key) {
                Effect::Nothing => {}
                Effect::Quit => return Ok(Some(End::Asked)),
                Effect::Suspend => self.suspend()?,
                Effect::Repaint => self.repaint = true,
                Effect::Signal(question) => self.lookout.tell(Task::Signal(question)),
            }
        }
        Ok(None)
    }

    fn until_next_look(&self) -> Duration {
        let since = self.looked.map_or(Duration::MAX, |begun| begun.elapsed());
        self.interval.saturating_sub(since)
    }

    fn draw(&mut self) -> io::Result<()> {
        let size = self.canvas.backend().size()?;
        if size != self.state.size {
            self.state.resize(size);
            self.canvas.resize(size_to_area(size))?;
            self.repaint = true;
        }
        if self.repaint {
            self.canvas.clear()?;
            self.repaint = false;
        }
        let age = self.state.shown.at.elapsed();
        let seen = !self.state.shown.total.is_empty();
        let late = (seen && age > self.interval * 2 + Duration::from_secs(1)).then_some(age);
        let (state, theme) = (&mut self.state, self.theme);
        self.canvas.draw(|frame| view::draw(frame, state, theme, late))?;
        self.canvas.backend_mut().flush()
    }

    /// Waits until there is input, a signal or a report, or it is time to look or to draw again.
    fn wait(&self) -> io::Result<[bool; 3]> {
        const A_WHILE: Duration = Duration::from_secs(1);
        let limit = if self.keys.is_unsettled() {
            ESCAPE_IS_A_KEY
        } else if self.is_looking {
            A_WHILE
        } else {
            self.until_next_look()
        };
        // Not a moment too early, which would be a turn for nothing.
        let limit = Timespec::try_from(limit + Duration::from_millis(1))
            .unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let mut ready = [self.terminal.as_fd(), self.signals.as_fd(), self.lookout.done()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        match poll(&mut ready, Some(&limit)) {
            Ok(_) => Ok([0, 1, 2].map(|index| !ready[index].revents().is_empty())),
            Err(Errno::INTR) => Ok([false; 3]),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self) -> io::Result<Vec<keys::Key>> {
        let mut bytes = [0; 1024];
        match rustix::io::read(&self.terminal, &mut bytes) {
            Ok(0) | Err(Errno::IO) => Err(io::Error::other("the terminal has gone")),
            Ok(count) => Ok(self.keys.feed(&bytes[..count])),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    fn take_signal(&mut self) -> io::Result<Option<End>> {
        let Some(received) = signals::next_until(&self.taken, None)? else { return Ok(None) };
        match received.signal {
            // The size is looked at whenever something is drawn.
            Signal::WINCH => {}
            Signal::CONT => self.come_back()?,
            signal if signals::is_ignored(signal.as_raw()) => {}
            Signal::TSTP => self.suspend()?,
            signal => return Ok(Some(End::Signal(signal))),
        }
        Ok(None)
    }

    /// Stops, as any program does at Ctrl-Z, and goes on when it is continued.
    fn suspend(&mut self) -> io::Result<()> {
        screen::restore();
        stop(Signal::TSTP);
        self.come_back()
    }

    /// Takes the terminal again after a stop; stops again while another job has it.
    fn come_back(&mut self) -> io::Result<()> {
        loop {
            // What continued us is known.
            signals::take(Signal::CONT);
            if !self.screen.is_others() {
                break;
            }
            stop(Signal::TTOU);
        }
        self.screen.retake()?;
        self.repaint = true;
        Ok(())
    }
}

/// Stops by a signal that is blocked. The terminal is not ours meanwhile, so what ends us may end us at
/// once; were it blocked, one that comes just before the stop would have to wait for the next `fg`.
fn stop(by: Signal) {
    SignalSet::of(&ENDS).unblock();
    signals::suffer(by);
    signals::block(&ENDS);
}

/// A signal that has come and ends the program.
fn pending_end() -> Option<End> {
    let has_come =
        |signal: &Signal| !signals::is_ignored(signal.as_raw()) && signals::take(*signal);
    ENDS.into_iter().find(has_come).map(End::Signal)
}

fn size_to_area(size: Size) -> ratatui::layout::Rect {
    ratatui::layout::Rect::new(0, 0, size.width, size.height)
}
