//! Lines whose cells stand under each other.

use super::screen::{Screen, Style};

/// Headings, and rows of cells below them. Columns are as wide as their widest cell, over all
/// headings; the last cell of a row takes what is left of the screen.
#[derive(Default)]
pub(crate) struct Rows {
    lines: Vec<Line>,
}

enum Line {
    Text(Style, String),
    Cells(Style, Vec<String>),
}

impl Rows {
    /// A line of its own, as it is.
    pub(crate) fn text(&mut self, style: Style, text: impl Into<String>) {
        self.lines.push(Line::Text(style, text.into()));
    }

    pub(crate) fn cells(&mut self, style: Style, cells: Vec<String>) {
        self.lines.push(Line::Cells(style, cells));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines, each with a line break at its end.
    pub(crate) fn render(&self, screen: &Screen) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for line in &self.lines {
            let Line::Cells(_, cells) = line else { continue };
            let all_but_last = &cells[..cells.len().saturating_sub(1)];
            for (column, cell) in all_but_last.iter().enumerate() {
                if column == widths.len() {
                    widths.push(0);
                }
                widths[column] = widths[column].max(width(cell));
            }
        }
        let mut shown = String::new();
        for line in &self.lines {
            let (style, text) = match line {
                Line::Text(style, text) => (*style, text.clone()),
                Line::Cells(style, cells) => (*style, aligned(cells, &widths)),
            };
            let text = match screen.width {
                Some(limit) => cut(&text, limit),
                None => text,
            };
            shown.push_str(&screen.paint(style, text.trim_end()));
            shown.push('\n');
        }
        shown
    }
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (column, cell) in cells.iter().enumerate() {
        let last = column + 1 == cells.len();
        // A column without any content takes no room.
        if !last && widths[column] == 0 {
            continue;
        }
        text.push_str("  ");
        text.push_str(cell);
        if !last {
            text.extend(std::iter::repeat_n(' ', widths[column] - width(cell)));
        }
    }
    text
}

fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(columns).sum() }
}

/// How many columns of a terminal a character takes. Control characters do not come here.
fn columns(character: char) -> usize {
    match character as u32 {
        0x300..=0x36f | 0x200b..=0x200f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0x303e
        | 0x3041..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1f64f
        | 0x1f680..=0x1f6ff
        | 0x1f900..=0x1f9ff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// At most so many columns, the last one a sign that something is missing.
fn cut(text: &str, limit: usize) -> String {
    if width(text) <= limit {
        return text.to_owned();
    }
    let mut shown = String::new();
    let mut room = limit.saturating_sub(1);
    for character in text.chars() {
        match room.checked_sub(columns(character)) {
            Some(left) => room = left,
            None => break,
        }
        shown.push(character);
    }
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_under_each_other() {
        let mut rows = Rows::default();
        rows.text(Style::Plain, "/a");
        for cells in [["holds", "1", "", "long command"], ["waits", "4711", "", "x"]] {
            rows.cells(Style::Plain, cells.map(str::to_owned).to_vec());
        }
        assert_eq!(
            rows.render(&Screen::plain(None)),
            "/a\n  holds  1     long command\n  waits  4711  x\n"
        );
        assert_eq!(
            rows.render(&Screen::plain(Some(20))),
            "/a\n  holds  1     long…\n  waits  4711  x\n"
        );
    }

    #[test]
    fn wide_characters_are_counted_as_such() {
        assert_eq!(cut("漢字漢字", 8), "漢字漢字");
        assert_eq!(cut("漢字漢字", 7), "漢字漢…");
        assert_eq!(cut("e\u{301}e\u{301}", 2), "e\u{301}e\u{301}");
        assert_eq!(cut("ab", 1), "…");
    }
}
