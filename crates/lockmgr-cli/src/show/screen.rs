//! Standard output: whether it is a terminal, how wide and high that is, and writing to it.

use std::env;
use std::io::{self, ErrorKind, IsTerminal, Write};

use rustix::termios::tcgetwinsize;

use crate::exit::Failure;

/// What standard output is.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    colour: bool,
    pub(crate) is_terminal: bool,
    /// In characters; `None` where there is no limit.
    pub(crate) width: Option<usize>,
    /// In lines.
    pub(crate) height: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    /// A file's path.
    Heading,
    Waits,
    /// What is not the holder proper.
    Dim,
    Alarm,
}

impl Screen {
    pub(crate) fn of_output() -> Self {
        let output = io::stdout();
        let is_terminal = output.is_terminal();
        let size = if is_terminal { tcgetwinsize(&output).ok() } else { None };
        let some = |number: u16| (number > 0).then_some(usize::from(number));
        // <https://no-color.org>: set, and not empty.
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: is_terminal && !unwanted,
            is_terminal,
            width: size.and_then(|size| some(size.ws_col)),
            height: size.and_then(|size| some(size.ws_row)),
        }
    }

    /// For lines that are to be read in full, even if a terminal has to break them.
    pub(crate) fn without_end(self) -> Self {
        Self { width: None, ..self }
    }

    /// No terminal, whatever this process has.
    #[cfg(test)]
    pub(super) fn plain(width: Option<usize>) -> Self {
        Self { colour: false, is_terminal: false, width, height: None }
    }

    pub(crate) fn paint(&self, style: Style, text: &str) -> String {
        let code = match style {
            _ if !self.colour || text.is_empty() => return text.to_owned(),
            Style::Plain => return text.to_owned(),
            Style::Heading => "1",
            Style::Waits => "33",
            Style::Dim => "2",
            Style::Alarm => "1;31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Writes to standard output; says whether somebody reads it still. A reader who has gone away has
/// seen enough, and that is no failure.
pub(crate) fn write(text: &str) -> Result<bool, Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(crate::not_written(&error)),
    }
}
