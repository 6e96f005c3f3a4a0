//! Draws the state. Whatever the size of the screen, there is a line that says what is seen, at least
//! one row of the list, and a line for keys, filter and messages; columns that have no room are left out,
//! the path last.

use std::fmt::Write;
use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Sparkline, Wrap};

use lockmgr::Mode;
use lockmgr::inspect::Process;

use super::picture::{Row, shown_range};
use super::state::{Focus, QUESTION, Question, SIGNALS, State};
use super::text::{Age, keep_end, keep_start, width};
use super::tree::Tone;

/// Colours, or attributes alone.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    pub(super) colours: bool,
}

impl Theme {
    fn coloured(self, colour: Color, otherwise: Modifier) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    fn alarm(self) -> Style {
        self.coloured(Color::Red, Modifier::UNDERLINED).add_modifier(Modifier::BOLD)
    }

    fn contended(self) -> Style {
        self.coloured(Color::Yellow, Modifier::BOLD)
    }

    fn curve(self) -> Style {
        self.coloured(Color::Cyan, Modifier::empty())
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything. `late` is how old the picture is, when that is worth saying.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State, theme: Theme, late: Option<Duration>) {
    let area = frame.area();
    let [top, rest] = split(area, 1);
    let [middle, bottom] = split(rest, rest.height.saturating_sub(1));
    header(frame, top, state, theme, late);
    let (list_area, details_area) = share(middle, state.open);
    list(frame, list_area, state, theme);
    if let Some(area) = details_area {
        details(frame, area, state, theme);
    }
    footer(frame, bottom, state);
    match &state.focus {
        Focus::Help => help(frame, area),
        Focus::Question(question) => ask(frame, area, question, theme),
        Focus::List | Focus::Details | Focus::Filter => {}
    }
}

/// The uppermost rows, and the rest.
fn split(area: Rect, rows: u16) -> [Rect; 2] {
    let rows = rows.min(area.height);
    let upper = Rect { height: rows, ..area };
    let lower = Rect { y: area.y + rows, height: area.height - rows, ..area };
    [upper, lower]
}

/// What the list has, and what the details have when they are open: the larger part.
fn share(area: Rect, open: bool) -> (Rect, Option<Rect>) {
    if !open {
        return (area, None);
    }
    // Column names and three rows, or as many as a third is.
    let rows = if area.height < 8 { 1.min(area.height) } else { (area.height / 3).max(4) };
    let [upper, lower] = split(area, rows);
    (upper, Some(lower))
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme, late: Option<Duration>) {
    let picture = &state.shown;
    let mut spans = vec![Span::styled("lockmgr top", BOLD)];
    let count = |number: usize, one: &str, many: &str| {
        format!("  {number} {}", if number == 1 { one } else { many })
    };
    spans.push(Span::raw(count(picture.rows.len(), "lock", "locks")));
    if state.listed.len() != picture.rows.len() {
        spans.push(Span::raw(format!(" ({} shown)", state.listed.len())));
    }
    spans.push(Span::raw(format!("  {} contended", picture.contended())));
    spans.push(Span::raw(count(picture.waiters(), "waiter", "waiters")));
    let certain = picture.deadlocks.iter().filter(|circle| circle.certain).count();
    if certain > 0 {
        spans.push(Span::styled(count(certain, "DEADLOCK", "DEADLOCKS"), theme.alarm()));
    } else if !picture.deadlocks.is_empty() {
        spans.push(Span::styled("  possible deadlock", theme.alarm()));
    }
    if state.frozen {
        spans.push(Span::styled("  FROZEN", theme.contended()));
    }
    if let Some(late) = late {
        let age = Age { seen: late, or_more: false };
        spans.push(Span::styled(format!("  as of {} ago", age.show()), theme.contended()));
    }
    let line = Line::from(spans);
    let taken = u16::try_from(line.width()).unwrap_or(u16::MAX);
    frame.render_widget(line, area);
    let left = area.width.saturating_sub(taken.saturating_add(2));
    curve(frame, area, left.min(40), &picture.total, theme);
}

/// A curve at the right end of a line, the newest count last, as tall as one line is.
fn curve(frame: &mut Frame<'_>, area: Rect, columns: u16, counts: &[u64], theme: Theme) {
    if columns < 8 || area.height == 0 {
        return;
    }
    let newest = &counts[counts.len().saturating_sub(usize::from(columns))..];
    let columns = u16::try_from(newest.len()).unwrap_or(columns);
    let place = Rect { x: area.right() - columns, y: area.y, width: columns, height: 1 };
    frame.render_widget(Sparkline::default().data(newest).style(theme.curve()), place);
}

/// The columns that are as wide as what they say: name and width.
const COLUMNS: [(&str, usize); 5] =
    [("WAIT", 4), ("OLDEST", 6), ("HELD", 6), ("KIND", 5), ("MODE", 6)];

/// How many of those, and how much is left for the path and for the holder.
fn columns(total: usize) -> (usize, usize, usize) {
    for shown in (0..=COLUMNS.len()).rev() {
        let fixed: usize = COLUMNS[..shown].iter().map(|(_, width)| width + 1).sum();
        let left = total.saturating_sub(fixed);
        if left >= 24 {
            let path = (left - 1) / 2;
            return (shown, path, left - 1 - path);
        }
    }
    (0, total, 0)
}

fn list(frame: &mut Frame<'_>, area: Rect, state: &mut State, theme: Theme) {
    let total = usize::from(area.width);
    let (fixed, path, holder) = columns(total);
    let area = if area.height >= 4 {
        let [names, rest] = split(area, 1);
        let mut line = String::new();
        for (name, width) in &COLUMNS[..fixed] {
            push(&mut line, format_args!("{name:<width$} "));
        }
        push(&mut line, format_args!("{:<path$} ", "LOCK"));
        if holder > 0 {
            line += "HOLDER";
        }
        frame.render_widget(Line::styled(keep_start(&line, total), DIM), names);
        rest
    } else {
        area
    };
    state.list_rows = usize::from(area.height);
    if state.listed.is_empty() {
        let filtered = !state.shown.rows.is_empty();
        let text = match (filtered, state.shown.total.is_empty()) {
            (true, _) => "no lock matches the filter (Esc clears it)",
            (_, true) => "looking…",
            _ => "no locks",
        };
        frame.render_widget(Line::styled(keep_start(text, total), DIM), area);
        return;
    }
    let first = (state.selected + 1).saturating_sub(state.list_rows);
    let visible = state.listed.iter().enumerate().skip(first).take(state.list_rows);
    for (line, (index, &row)) in (area.y..).zip(visible) {
        let row = &state.shown.rows[row];
        let mut style = match row.deadlock {
            Some(_) => theme.alarm(),
            None if !row.waits.is_empty() => theme.contended(),
            None => Style::new(),
        };
        if index == state.selected {
            style = style.patch(REVERSED);
        }
        let mut text = row_text(state, row, fixed, path, holder);
        text.extend(std::iter::repeat_n(' ', total.saturating_sub(width(&text))));
        let place = Rect { y: line, height: 1, ..area };
        frame.render_widget(Line::styled(text, style), place);
    }
}

fn row_text(state: &State, row: &Row, fixed: usize, path: usize, holder: usize) -> String {
    let (_, lock) = state.shown.file_and_lock(row);
    let mode = match lock.mode {
        Mode::Shared => "shared",
        Mode::Exclusive => "excl.",
    };
    let waiting = if row.waits.is_empty() { "-".into() } else { row.waits.len().to_string() };
    let oldest = row.oldest.map_or("-".into(), Age::show);
    let cells = [waiting, oldest, row.held.show(), lock.kind.to_string(), mode.to_owned()];
    let mut line = String::new();
    for ((_, columns), cell) in COLUMNS.iter().zip(cells).take(fixed) {
        push(&mut line, format_args!("{:<columns$} ", keep_start(&cell, *columns)));
    }
    let range = shown_range(lock.range).map(|range| format!(" {range}"));
    let range = if lock.is_gate() { Some(" gate".to_owned()) } else { range }.unwrap_or_default();
    // The range tells two locks of one file apart; the path gives way.
    let name = keep_end(&row.path, path.saturating_sub(width(&range)).max(path / 2));
    let name = keep_start(&format!("{name}{range}"), path);
    line += &name;
    line.extend(std::iter::repeat_n(' ', (path + 1).saturating_sub(width(&name))));
    if holder > 0 {
        let first = lock.holders.first();
        let by = match first.and_then(|holder| holder.process.as_ref()) {
            None => "not visible".to_owned(),
            Some(process) if process.ended => format!("{} (ended)", process.pid),
            Some(process) => {
                format!("{} {} {}", process.pid, process.user(), short_command(process))
            }
        };
        line += &keep_start(&by, holder);
    }
    line
}

/// The command line without the directories of the program.
fn short_command(process: &Process) -> String {
    const WIDTH: usize = 200;
    let line = process.command_line(WIDTH);
    let (program, rest) = line.split_at(line.find(' ').unwrap_or(line.len()));
    let name = program.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(program);
    format!("{name}{rest}")
}

fn details(frame: &mut Frame<'_>, area: Rect, state: &mut State, theme: Theme) {
    let [title, body] = split(area, 1);
    let Some(row) = state.selected_row() else { return };
    let counts = state.shown.waited_for(&row.id.place());
    let columns = usize::from(title.width);
    let curve_columns = u16::try_from(counts.len()).unwrap_or(u16::MAX).min(title.width / 3);
    let room = columns.saturating_sub(usize::from(curve_columns) + 1);
    let focused = matches!(state.focus, Focus::Details);
    let style = if focused { BOLD.patch(REVERSED) } else { BOLD };
    let mut text = format!("── {} ", keep_end(&row.path, room.saturating_sub(4)));
    text.extend(std::iter::repeat_n('─', room.saturating_sub(width(&text))));
    frame.render_widget(Line::styled(text, style), title);
    curve(frame, title, curve_columns, &counts, theme);

    let lines = state.details();
    state.detail_rows = usize::from(body.height);
    state.scroll = state.scroll.min(lines.len().saturating_sub(state.detail_rows));
    let visible = lines.iter().skip(state.scroll).take(state.detail_rows);
    for (y, line) in (body.y..).zip(visible) {
        let style = match line.tone {
            Tone::Heading => BOLD,
            Tone::Holder | Tone::Waiter => Style::new(),
            Tone::Nested => theme.contended(),
            Tone::Alarm => theme.alarm(),
        };
        let place = Rect { y, height: 1, ..body };
        frame.render_widget(Line::styled(keep_start(&line.text, columns), style), place);
    }
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let columns = usize::from(area.width);
    if let Focus::Filter = state.focus {
        let text = format!("filter: {}", state.filter);
        let shown = keep_end(&text, columns.saturating_sub(1));
        let cursor = u16::try_from(width(&shown)).unwrap_or(0);
        frame.render_widget(Line::raw(shown), area);
        if area.height > 0 && cursor < area.width {
            frame.set_cursor_position((area.x + cursor, area.y));
        }
        return;
    }
    if let Some(message) = &state.message {
        frame.render_widget(Line::styled(keep_start(message, columns), BOLD), area);
        return;
    }
    let mut text = String::new();
    if !state.filter.is_empty() {
        push(&mut text, format_args!("filter: {}  ", state.filter));
    }
    let details = if state.open { "Enter close  Tab scroll" } else { "Enter details" };
    push(
        &mut text,
        format_args!("? help  q quit  {details}  / filter  K signal  f freeze  s sort: "),
    );
    text += state.sort.name();
    let gaps = &state.shown.table.gaps;
    if gaps.hidden || !gaps.not_permitted.is_empty() {
        text += "  (not everything is visible, see ?)";
    }
    frame.render_widget(Line::styled(keep_start(&text, columns), DIM), area);
}

/// Appends; to a string that cannot fail.
fn push(line: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = line.write_fmt(text);
}

/// A box in the middle, as large as there is room for.
fn dialog(frame: &mut Frame<'_>, area: Rect, columns: u16, rows: u16, title: &str) -> Rect {
    let columns = columns.min(area.width);
    let rows = rows.min(area.height);
    let place = Rect {
        x: area.x + (area.width - columns) / 2,
        y: area.y + (area.height - rows) / 2,
        width: columns,
        height: rows,
    };
    frame.render_widget(Clear, place);
    let block = Block::bordered().title(title);
    let inside = block.inner(place);
    frame.render_widget(block, place);
    inside
}

const HELP: &str = "\
up down k j   one lock up or down        PgUp PgDn Home End
Enter Space   details of the lock        Tab  scroll them
/             filter by path, command, user or pid
s  sort       f  freeze, and go on       Ctrl-L  repaint
K  F9         send a signal to the holder, after a question
Esc           one step back, then quit   q  Ctrl-C  quit
WAIT   how many wait      OLDEST  the longest wait
HELD   how long it is held. The kernel does not know how long:
       this counts from when it was first seen here; >12s was
       there before.    ▁▂▅ how many waited, look by look
gate   the place at the head of a fair queue
Not everything is visible: some processes need more rights to
be looked at; a pid namespace hides locks from outside it.";

fn help(frame: &mut Frame<'_>, area: Rect) {
    let rows = u16::try_from(HELP.lines().count()).unwrap_or(20);
    let inside = dialog(frame, area, 66, rows + 2, " help: any key closes it ");
    frame.render_widget(Paragraph::new(HELP), inside);
}

fn ask(frame: &mut Frame<'_>, area: Rect, question: &Question, theme: Theme) {
    let inside = dialog(frame, area, area.width.min(72), QUESTION.height, " send a signal ");
    let columns = usize::from(inside.width);
    let process = &question.process;
    let (_, name) = SIGNALS[question.signal];
    let command = process.command_line(columns.saturating_mul(2).saturating_sub(4));
    let user = process.user();
    let choice = SIGNALS.iter().enumerate().flat_map(|(at, (_, name))| {
        let style = if at == question.signal { REVERSED } else { Style::new() };
        [Span::styled(*name, style), Span::raw(" ")]
    });
    let text = vec![
        Line::styled(format!("Send SIG{name} to pid {} of {user}?", process.pid), theme.alarm()),
        Line::raw(command),
        Line::raw(keep_end(&format!("holds {}", question.path), columns)),
        choice.collect::<Line<'_>>(),
        Line::styled("y send   n leave it   ←/→ other signal", BOLD),
    ];
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), inside);
}
