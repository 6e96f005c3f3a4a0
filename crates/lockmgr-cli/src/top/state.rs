//! What `top` shows, and how keys and looks change it. It knows no terminal and no clock: what happens
//! is told to it, and what it wants done it returns.

use std::rc::Rc;

use lockmgr::inspect::Process;
use ratatui::layout::Size;
use rustix::process::Signal;

use super::keys::Key;
use super::picture::{LockId, Look, Memory, Picture, Row, WhichLock, verified_holder};
use super::tree;

/// The signals that can be sent; the first is the one that is offered.
pub(super) const SIGNALS: [(Signal, &str); 8] = [
    (Signal::TERM, "TERM"),
    (Signal::INT, "INT"),
    (Signal::HUP, "HUP"),
    (Signal::QUIT, "QUIT"),
    (Signal::USR1, "USR1"),
    (Signal::USR2, "USR2"),
    (Signal::CONT, "CONT"),
    (Signal::KILL, "KILL"),
];

/// The room that the question before a signal needs: who is to be signalled must be legible.
pub(super) const QUESTION: Size = Size { width: 44, height: 9 };

/// In which order the locks stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Most waiters first, among those the one that has been waited for longest.
    Waiters,
    /// Longest wait first.
    Wait,
    /// Longest held first, as far as seen.
    Held,
    Path,
    Pid,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Sort::Waiters => Sort::Wait,
            Sort::Wait => Sort::Held,
            Sort::Held => Sort::Path,
            Sort::Path => Sort::Pid,
            Sort::Pid => Sort::Waiters,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Sort::Waiters => "waiters",
            Sort::Wait => "wait time",
            Sort::Held => "hold time",
            Sort::Path => "path",
            Sort::Pid => "pid",
        }
    }
}

/// Who gets the keys.
pub(super) enum Focus {
    List,
    /// The lock's details, which they scroll.
    Details,
    /// The filter, which is typed.
    Filter,
    Help,
    Question(Question),
}

/// Shall it be signalled? About one process, whatever the list shows meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) process: Process,
    pub(super) lock: WhichLock,
    pub(super) path: String,
    /// Into [`SIGNALS`].
    pub(super) signal: usize,
}

/// What is to be done outside.
pub(super) enum Effect {
    Nothing,
    Quit,
    /// Stop, as Ctrl-Z stops any program.
    Suspend,
    /// Draw everything anew.
    Repaint,
    Signal(Question),
}

pub(super) struct State {
    memory: Memory,
    latest: Rc<Picture>,
    /// The latest, or the one at which it was frozen.
    pub(super) shown: Rc<Picture>,
    pub(super) frozen: bool,
    pub(super) sort: Sort,
    pub(super) filter: String,
    pub(super) focus: Focus,
    /// The details are open.
    pub(super) open: bool,
    /// First line of the details that is shown.
    pub(super) scroll: usize,
    /// Said until the next key.
    pub(super) message: Option<String>,
    /// Indices of the rows that are listed, in their order.
    pub(super) listed: Vec<usize>,
    /// Into `listed`.
    pub(super) selected: usize,
    selected_id: Option<LockId>,
    /// The size of the screen, and how many rows of it the list and the details have.
    pub(super) size: Size,
    pub(super) list_rows: usize,
    pub(super) detail_rows: usize,
}

impl State {
    pub(super) fn new(size: Size) -> Self {
        Self {
            memory: Memory::default(),
            latest: Picture::empty(),
            shown: Picture::empty(),
            frozen: false,
            sort: Sort::Waiters,
            filter: String::new(),
            focus: Focus::List,
            open: false,
            scroll: 0,
            message: None,
            listed: Vec::new(),
            selected: 0,
            selected_id: None,
            size,
            list_rows: 1,
            detail_rows: 1,
        }
    }

    /// Takes a look into account. While frozen it is remembered, and not shown.
    pub(super) fn learn(&mut self, look: Look) {
        self.latest = Rc::new(self.memory.learn(look));
        if !self.frozen {
            self.show_latest();
        }
    }

    /// The screen has another size now. A question that has no room is withdrawn.
    pub(super) fn resize(&mut self, size: Size) {
        self.size = size;
        if matches!(self.focus, Focus::Question(_)) && !self.has_room_for_a_question() {
            self.focus = Focus::List;
        }
    }

    fn has_room_for_a_question(&self) -> bool {
        self.size.width >= QUESTION.width && self.size.height >= QUESTION.height
    }

    pub(super) fn selected_row(&self) -> Option<&Row> {
        self.listed.get(self.selected).and_then(|&row| self.shown.rows.get(row))
    }

    fn show_latest(&mut self) {
        self.shown = Rc::clone(&self.latest);
        self.list();
    }

    /// Works out what is listed, and keeps the selection where it was.
    fn list(&mut self) {
        let rows = &self.shown.rows;
        let wanted = self.filter.to_lowercase();
        let matches = |row: &Row| row.haystack.iter().any(|text| text.contains(&wanted));
        self.listed =
            (0..rows.len()).filter(|&at| wanted.is_empty() || matches(&rows[at])).collect();
        let order = self.sort;
        // By the path at last, so that equals do not change places from look to look.
        self.listed.sort_by(|&a, &b| {
            let (a, b) = (&rows[a], &rows[b]);
            let busiest = || b.waits.len().cmp(&a.waits.len());
            let first = match order {
                Sort::Waiters => busiest().then_with(|| b.oldest.cmp(&a.oldest)),
                Sort::Wait => b.oldest.cmp(&a.oldest).then_with(busiest),
                Sort::Held => b.held.cmp(&a.held),
                Sort::Path => std::cmp::Ordering::Equal,
                Sort::Pid => a.id.who.cmp(&b.id.who),
            };
            let start = |row: &Row| row.id.lock.range.start();
            first.then_with(|| a.path.cmp(&b.path)).then_with(|| start(a).cmp(&start(b)))
        });
        self.find_selected();
    }

    /// The same lock of the same holder, or else the same lock, or else the same place in the list.
    fn find_selected(&mut self) {
        if let Some(id) = &self.selected_id {
            let find = |same: &dyn Fn(&LockId) -> bool| {
                self.listed.iter().position(|&row| same(&self.shown.rows[row].id))
            };
            let place = id.place();
            if let Some(found) =
                find(&|other| other == id).or_else(|| find(&|o| o.place() == place))
            {
                self.selected = found;
            }
        }
        self.selected = self.selected.min(self.listed.len().saturating_sub(1));
        // Until a key has chosen one, it is the first, whichever that is.
        if self.selected_id.is_some() {
            self.remember_selected();
        }
    }

    fn remember_selected(&mut self) {
        self.selected_id =
            self.selected_row().map(|row| row.id.clone()).or(self.selected_id.take());
    }

    fn select(&mut self, index: usize) {
        self.selected = index.min(self.listed.len().saturating_sub(1));
        self.scroll = 0;
        self.remember_selected();
    }

    /// What a key does.
    pub(super) fn key(&mut self, key: Key) -> Effect {
        self.message = None;
        match key {
            Key::Control('c') => return Effect::Quit,
            Key::Control('z') => return Effect::Suspend,
            Key::Control('l') => return Effect::Repaint,
            _ => {}
        }
        match &mut self.focus {
            Focus::Help => self.focus = Focus::List,
            Focus::Filter => self.type_filter(key),
            Focus::Question(_) => return self.answer(key),
            Focus::List | Focus::Details => return self.command(key),
        }
        Effect::Nothing
    }

    fn command(&mut self, key: Key) -> Effect {
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Escape => return self.back(),
            Key::Char('?' | 'h') | Key::Function(1) => self.focus = Focus::Help,
            Key::Char('/') => self.focus = Focus::Filter,
            Key::Char('s') => {
                self.sort = self.sort.next();
                self.list();
            }
            Key::Char('f') => self.freeze(),
            Key::Char('K') | Key::Function(9) => self.ask(),
            Key::Enter | Key::Char(' ') => {
                self.open = !self.open;
                self.scroll = 0;
                self.focus = Focus::List;
                self.remember_selected();
            }
            Key::Tab if self.open => {
                let in_list = matches!(self.focus, Focus::List);
                self.focus = if in_list { Focus::Details } else { Focus::List };
            }
            _ => self.go(key),
        }
        Effect::Nothing
    }

    /// Moves in whatever has the focus.
    fn go(&mut self, key: Key) {
        let in_details = matches!(self.focus, Focus::Details);
        let (at, rows) = if in_details {
            (self.scroll, self.detail_rows)
        } else {
            (self.selected, self.list_rows)
        };
        let page = rows.saturating_sub(1).max(1);
        let to = match key {
            Key::Up | Key::Char('k') => at.saturating_sub(1),
            Key::Down | Key::Char('j') => at.saturating_add(1),
            Key::PageUp => at.saturating_sub(page),
            Key::PageDown => at.saturating_add(page),
            Key::Home | Key::Char('g') => 0,
            Key::End | Key::Char('G') => usize::MAX,
            _ => return,
        };
        if in_details {
            self.scroll = to.min(self.details().len().saturating_sub(self.detail_rows));
        } else {
            self.select(to);
        }
    }

    /// One step back; out, when there is nothing to go back from.
    fn back(&mut self) -> Effect {
        if matches!(self.focus, Focus::Details) {
            self.focus = Focus::List;
        } else if self.open {
            self.open = false;
        } else if !self.filter.is_empty() {
            self.filter.clear();
            self.list();
        } else {
            return Effect::Quit;
        }
        Effect::Nothing
    }

    fn freeze(&mut self) {
        self.frozen = !self.frozen;
        if !self.frozen {
            self.show_latest();
        }
    }

    fn type_filter(&mut self, key: Key) {
        const LONGEST: usize = 200;
        match key {
            Key::Enter => self.focus = Focus::List,
            Key::Escape => {
                self.filter.clear();
                self.focus = Focus::List;
            }
            Key::Backspace => drop(self.filter.pop()),
            Key::Control('u') => self.filter.clear(),
            Key::Char(typed) if self.filter.len() < LONGEST => self.filter.push(typed),
            _ => {}
        }
        self.list();
    }

    /// Asks before a signal is sent; says why it cannot be.
    fn ask(&mut self) {
        let Some(row) = self.selected_row() else { return };
        let (_, lock) = self.shown.file_and_lock(row);
        let Some(process) = verified_holder(lock) else {
            let known = lock.holders.first().map_or("unknown".into(), |h| h.standing.to_string());
            self.message = Some(format!(
                "no signal: nobody is verified to have taken this lock and to hold it ({known})"
            ));
            return;
        };
        if !self.has_room_for_a_question() {
            let Size { width, height } = QUESTION;
            self.message = Some(format!("no signal: the window is smaller than {width}x{height}"));
            return;
        }
        self.focus = Focus::Question(Question {
            process: process.clone(),
            lock: row.id.lock.clone(),
            path: row.path.clone(),
            signal: 0,
        });
    }

    /// Only a `y` is a yes: Enter may have been typed for something else.
    fn answer(&mut self, key: Key) -> Effect {
        let Focus::Question(question) = &mut self.focus else { return Effect::Nothing };
        let count = SIGNALS.len();
        match key {
            Key::Right | Key::Down | Key::Tab | Key::Char('j' | 'l') => {
                question.signal = (question.signal + 1) % count;
            }
            Key::Left | Key::Up | Key::Char('k' | 'h') => {
                question.signal = (question.signal + count - 1) % count;
            }
            Key::Char('y' | 'Y') => {
                let question = question.clone();
                self.focus = Focus::List;
                return Effect::Signal(question);
            }
            Key::Char('n' | 'N' | 'q') | Key::Escape => self.focus = Focus::List,
            _ => {}
        }
        Effect::Nothing
    }

    /// The lines about the selected lock.
    pub(super) fn details(&self) -> Vec<tree::Line> {
        self.selected_row().map(|row| tree::lines(&self.shown, row)).unwrap_or_default()
    }
}
