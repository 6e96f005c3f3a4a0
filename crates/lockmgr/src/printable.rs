//! Text that somebody else chose, as it may be shown: on one line, and with nothing in it that a
//! terminal would obey or an eye would be deceived by.

use std::fmt;
use std::fmt::Write;

/// Shows bytes that are meant as text: control characters, characters that are invisible or turn
/// the direction of writing, and what is no UTF-8 are escaped.
pub(crate) struct Printable<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Most text is harmless at a glance, and a list of all locks has much of it.
        if self.0.iter().all(|byte| matches!(byte, b' '..=b'~'))
            && let Ok(text) = str::from_utf8(self.0)
        {
            return f.write_str(text);
        }
        // After another character, an accent that combines with it is nothing to be escaped.
        let mut pair = String::from("x");
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if matches!(character, '\'' | '"' | '\\') {
                    f.write_char(character)?;
                } else {
                    pair.truncate(1);
                    pair.push(character);
                    pair.escape_debug().skip(1).try_for_each(|shown| f.write_char(shown))?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// The text as it may be shown, cut to so many characters.
pub(crate) fn shown(text: &[u8], width: usize) -> String {
    let mut shown = Printable(text).to_string();
    if shown.chars().count() > width
        && let Some((end, _)) = shown.char_indices().nth(width.saturating_sub(1))
    {
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::Printable;

    #[test]
    fn what_is_harmless_stays_and_what_is_not_is_escaped() {
        for text in ["/tmp/a b", "it's \"x\" \\ y", "Größe 日本 e\u{301}", ""] {
            assert_eq!(Printable(text.as_bytes()).to_string(), text);
        }
        for (raw, shown) in [
            (&b"a\nb\0"[..], "a\\nb\\0"),
            (b"\x1b[31m", "\\u{1b}[31m"),
            (b"\xff\xc3", "\\xff\\xc3"),
            ("\u{202e}\u{200b}\u{9b}\u{2028}".as_bytes(), "\\u{202e}\\u{200b}\\u{9b}\\u{2028}"),
        ] {
            assert_eq!(Printable(raw).to_string(), shown);
        }
    }
}
