//! How a picture gets onto a terminal: the few escape sequences that every terminal of the last decades
//! knows, gathered and written in one piece.
//!
//! Colours are the terminal's own eight; with none (`NO_COLOR`) the styles carry attributes alone, and
//! this sends what they carry.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

pub(super) struct Ansi {
    output: File,
    /// Readable when there is something more important than to wait for a terminal that takes nothing.
    signals: OwnedFd,
    gathered: Vec<u8>,
}

impl Ansi {
    pub(super) fn new(output: File, signals: OwnedFd) -> Self {
        Self { output, signals, gathered: Vec::new() }
    }

    /// Waits for room at the terminal; an error when a signal has come first.
    fn wait_for_room(&self) -> io::Result<()> {
        let mut ready = [
            PollFd::from_borrowed_fd(self.output.as_fd(), PollFlags::OUT),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Ok(_) if ready[0].revents().is_empty() => Err(Errno::INTR.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn put(&mut self, sequence: &str) {
        self.gathered.extend_from_slice(sequence.as_bytes());
    }

    /// Everything anew, from nothing: attributes add to what is set.
    fn put_style(&mut self, look: &Look) {
        self.put("\x1b[0");
        for (attribute, code) in [
            (Modifier::BOLD, ";1"),
            (Modifier::DIM, ";2"),
            (Modifier::UNDERLINED, ";4"),
            (Modifier::REVERSED, ";7"),
        ] {
            if look.modifier.contains(attribute) {
                self.put(code);
            }
        }
        for (colour, first) in [(look.fg, 30), (look.bg, 40)] {
            let number = match colour {
                Color::Black => 0,
                Color::Red => 1,
                Color::Green => 2,
                Color::Yellow => 3,
                Color::Blue => 4,
                Color::Magenta => 5,
                Color::Cyan => 6,
                Color::Gray => 7,
                _ => continue,
            };
            self.put(&format!(";{}", first + number));
        }
        self.put("m");
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    fg: Color,
    bg: Color,
    modifier: Modifier,
}

impl Backend for Ansi {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut look = None;
        let mut next = None;
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                self.put(&format!("\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1));
            }
            next = x.checked_add(1).map(|x| (x, y));
            let this = Look { fg: cell.fg, bg: cell.bg, modifier: cell.modifier };
            if look != Some(this) {
                self.put_style(&this);
                look = Some(this);
            }
            // Whatever has got this far: a control character is not for the terminal.
            let symbol = cell.symbol();
            self.put(if symbol.contains(char::is_control) { "?" } else { symbol });
        }
        if look.is_some() {
            self.put("\x1b[0m");
        }
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.put("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        self.put("\x1b[?25h");
        Ok(())
    }

    /// Nobody asks: the view has the whole screen.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        self.put(&format!("\x1b[{};{}H", u32::from(y) + 1, u32::from(x) + 1));
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, kind: ClearType) -> io::Result<()> {
        self.put(match kind {
            ClearType::All => "\x1b[0m\x1b[2J",
            ClearType::AfterCursor => "\x1b[0m\x1b[J",
            ClearType::BeforeCursor => "\x1b[0m\x1b[1J",
            ClearType::CurrentLine => "\x1b[0m\x1b[2K",
            ClearType::UntilNewLine => "\x1b[0m\x1b[K",
        });
        Ok(())
    }

    fn size(&self) -> io::Result<Size> {
        let size = rustix::termios::tcgetwinsize(&self.output)?;
        // A terminal that does not know its size says 0.
        let or = |number, usual| if number == 0 { usual } else { number };
        Ok(Size::new(or(size.ws_col, 80), or(size.ws_row, 24)))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::ZERO })
    }

    /// An error of the kind `Interrupted` says that a signal has come while the terminal took nothing:
    /// the rest is lost, and everything is to be drawn anew.
    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::take(&mut self.gathered);
        let mut rest = &gathered[..];
        while !rest.is_empty() {
            match self.output.write(rest) {
                Ok(0) => return Err(Errno::IO.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_for_room()?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
