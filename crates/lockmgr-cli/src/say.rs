//! What lockmgr tells people: whole lines on standard error, which nobody can forge.
//!
//! Standard output belongs to the command, or to what was asked for.

use std::io::{self, Write};

use crate::sys::signals::without_size_signal;

/// Writes one line to standard error, in one piece, so that it does not mix with the command's.
///
/// Names of files, processes and commands come from outside: a line break or an escape sequence in
/// them is shown, not obeyed.
pub(crate) fn say(line: &str) {
    let mut text = String::with_capacity(line.len() + 10);
    text.push_str("lockmgr: ");
    text.push_str(&harmless(line));
    text.push('\n');
    // When nobody can be told, there is nobody to tell; and a log without room is no reason to die.
    drop(without_size_signal(|| io::stderr().write_all(text.as_bytes())));
}

/// The text on one line, with nothing in it that a terminal obeys.
pub(crate) fn harmless(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for character in line.chars() {
        if is_safe(character) {
            text.push(character);
        } else {
            text.extend(character.escape_default());
        }
    }
    text
}

/// Control characters drive terminals; the directional ones make a line read as another.
pub(crate) fn is_safe(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_are_not_safe_text_is() {
        assert!("/tmp/größe 漢字.lock — ok".chars().all(is_safe));
        for bad in ['\n', '\r', '\x1b', '\u{7f}', '\u{9b}', '\u{202e}'] {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }
}
