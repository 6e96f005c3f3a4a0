//! What the pictures of `log` and `demo` have in common: colours, distances, text that stays text, and the
//! file that they are drawn into.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::exit::{self, Failure};
use crate::show;

/// The file for a picture, which keeps what it has until there is one.
pub(crate) struct Canvas<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Canvas<'a> {
    pub(crate) fn open(path: &'a Path) -> Result<Self, Failure> {
        match File::options().write(true).create(true).truncate(false).open(path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(no_picture(path, &error)),
        }
    }

    pub(crate) fn draw(mut self, picture: &str) -> Result<(), Failure> {
        // A pipe or a terminal has nothing to be cut off.
        let has_content = self.file.metadata().is_ok_and(|status| status.is_file());
        let emptied = if has_content { self.file.set_len(0) } else { Ok(()) };
        emptied
            .and_then(|()| self.file.write_all(picture.as_bytes()))
            .map_err(|error| no_picture(self.path, &error))
    }
}

fn no_picture(path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::CANNOT_OPEN, format!("{}: {error}", show::path(path)))
}

/// Hues that are told apart by most eyes; more locks than these begin again.
pub(crate) const HUES: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#56b4e9", "#6a3d9a", "#555555"];

/// 1, 2 or 5 times a power of ten, up to minutes; above that in minutes, hours or days.
pub(crate) fn round_step(at_least: f64) -> f64 {
    const LONG: [f64; 12] = [
        60.0,
        120.0,
        300.0,
        600.0,
        1800.0,
        3600.0,
        7200.0,
        21600.0,
        43200.0,
        86400.0,
        604_800.0,
        2_592_000.0,
    ];
    if at_least > 50.0 {
        let long = LONG.into_iter().find(|step| *step >= at_least);
        // Years: any number will do.
        return long.unwrap_or(at_least);
    }
    // By hand: the logarithm would have every start of the command load the mathematical library.
    let mut power = 1e-3;
    while power * 10.0 <= at_least {
        power *= 10.0;
    }
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|n| n * power)
        .find(|step| *step >= at_least)
        .unwrap_or(power)
}

/// The text as XML has it, between tags.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // No XML can have them.
            '\u{0}'..='\u{8}'
            | '\u{b}'
            | '\u{c}'
            | '\u{e}'..='\u{1f}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                safe.push('\u{fffd}');
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_has_a_few_lines_however_long_it_is() {
        for seconds in [0.0, 1e-3, 0.5, 3.0, 59.0, 3600.0, 1e5, 1e7, 6e11] {
            let step = round_step(seconds / 8.0);
            assert!(step > 0.0 && seconds / step <= 8.5, "{seconds}: {step}");
        }
    }
}
