//! Text that fits: cut to a number of columns, with a sign that it was cut; and ages, in six columns.

use std::time::Duration;

use ratatui::text::Span;

/// The columns that a text takes on a screen.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Keeps the beginning.
pub(super) fn keep_start(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        kept.push(character);
        if width(&kept) >= columns {
            kept.pop();
            break;
        }
    }
    if columns > 0 {
        kept.push('…');
    }
    kept
}

/// Keeps the end, where paths differ.
pub(super) fn keep_end(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut start = text.len();
    for (index, _) in text.char_indices().rev() {
        if width(&text[index..]) >= columns {
            break;
        }
        start = index;
    }
    let sign = if columns > 0 { "…" } else { "" };
    format!("{sign}{}", &text[start..])
}

/// How long something has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Age {
    pub(super) seen: Duration,
    /// It was there when this program began to look, so it may be older by any amount.
    pub(super) or_more: bool,
}

impl Age {
    /// At most six columns for anything below a hundred days.
    pub(super) fn show(self) -> String {
        let sign = if self.or_more { ">" } else { "" };
        let seconds = self.seen.as_secs();
        match seconds {
            ..60 => format!("{sign}{seconds}s"),
            60..600 => format!("{sign}{}m{:02}", seconds / 60, seconds % 60),
            600..3600 => format!("{sign}{}m", seconds / 60),
            3600..86400 => format!("{sign}{}h{:02}", seconds / 3600, seconds / 60 % 60),
            _ => format!("{sign}{}d{:02}", seconds / 86400, seconds / 3600 % 24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_to_columns() {
        for (text, columns, start, end) in [
            ("abc", 3, "abc", "abc"),
            ("abcdef", 3, "ab…", "…ef"),
            ("漢字漢字", 5, "漢字…", "…漢字"),
            ("漢字漢字", 4, "漢…", "…字"),
            ("abc", 1, "…", "…"),
            ("abc", 0, "", ""),
        ] {
            assert_eq!(keep_start(text, columns), start, "{text} {columns}");
            assert_eq!(keep_end(text, columns), end, "{text} {columns}");
            assert!(width(&keep_start(text, columns)) <= columns);
            assert!(width(&keep_end(text, columns)) <= columns);
        }
    }

    #[test]
    fn ages_fit_and_grow() {
        for (seconds, shown) in [
            (0, ">0s"),
            (59, ">59s"),
            (61, ">1m01"),
            (3599, ">59m"),
            (3660, ">1h01"),
            (90_000, ">1d01"),
            (86400 * 99, ">99d00"),
        ] {
            let age = Age { seen: Duration::from_secs(seconds), or_more: true };
            assert_eq!(age.show(), shown);
            assert!(age.show().len() <= 6);
        }
    }
}
