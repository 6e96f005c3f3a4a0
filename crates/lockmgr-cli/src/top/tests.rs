//! The state machine and the drawing, on tables of real locks: this process's own, and what it makes wait.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lockmgr::FileLock;
use lockmgr::inspect::LockTable;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Size;
use ratatui::style::{Color, Modifier};
use tempfile::TempDir;

use super::keys::Key;
use super::picture::Look;
use super::state::{Effect, Focus, SIGNALS, State};
use super::view::{Theme, draw};

const USUAL: Size = Size { width: 80, height: 24 };

struct Scene {
    directory: TempDir,
    waiters: Vec<std::thread::JoinHandle<()>>,
}

impl Scene {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), waiters: Vec::new() }
    }

    fn hold(&self, name: &str) -> lockmgr::OwnedFileLockGuard {
        let lock = FileLock::open(self.directory.path().join(name)).unwrap();
        lock.acquire().wait_owned().unwrap()
    }

    /// A thread that waits, and its end when it gets the lock; returns when it waits.
    fn wait_for(&mut self, name: &str) {
        let path = self.directory.path().join(name);
        let before = waiters(&path);
        let lock = FileLock::open(&path).unwrap();
        self.waiters.push(std::thread::spawn(move || drop(lock.lock().unwrap())));
        let start = Instant::now();
        while waiters(&path) == before {
            assert!(start.elapsed() < Duration::from_secs(60), "nobody waits");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What there is of this scene; other tests have theirs.
    fn look(&self, at: Instant) -> Look {
        let mut table = LockTable::snapshot().unwrap();
        table.files.retain(|file| {
            file.path.as_ref().is_some_and(|path| path.starts_with(self.directory.path()))
        });
        Look { table, deadlocks: Vec::new(), at }
    }
}

fn waiters(path: &std::path::Path) -> usize {
    let table = LockTable::of(path).unwrap();
    table.files.iter().flat_map(|file| &file.locks).map(|lock| lock.waiters.len()).sum()
}

fn shown(state: &mut State, size: Size, colours: bool) -> (String, ratatui::buffer::Buffer) {
    let mut terminal = Terminal::new(TestBackend::new(size.width, size.height)).unwrap();
    state.resize(size);
    terminal.draw(|frame| draw(frame, state, Theme { colours }, None)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let rows: Vec<String> = (0..size.height)
        .map(|y| (0..size.width).map(|x| buffer[(x, y)].symbol()).collect::<String>())
        .collect();
    (rows.join("\n"), buffer)
}

fn text(state: &mut State) -> String {
    shown(state, USUAL, true).0
}

fn keys(state: &mut State, typed: &str) {
    for character in typed.chars() {
        state.key(Key::Char(character));
    }
}

fn selected(state: &State) -> String {
    let path = &state.selected_row().unwrap().path;
    path.rsplit('/').next().unwrap().to_owned()
}

#[test]
fn contended_locks_stand_first_and_the_selected_one_opens() {
    let mut scene = Scene::new();
    let held = [scene.hold("a"), scene.hold("b"), scene.hold("c")];
    scene.wait_for("b");
    scene.wait_for("b");
    scene.wait_for("c");
    let mut state = State::new(USUAL);
    assert!(text(&mut state).contains("looking…"));
    state.learn(scene.look(Instant::now()));
    let screen = text(&mut state);
    assert!(screen.contains("3 locks  2 contended  3 waiters"), "{screen}");
    let line = |end: &str| screen.lines().position(|line| line.contains(&format!("/{end} ")));
    assert!(line("b") < line("c") && line("c") < line("a"), "{screen}");
    assert!(screen.contains(&std::process::id().to_string()), "{screen}");
    assert!(!screen.contains("verified"));

    state.key(Key::Enter);
    let screen = text(&mut state);
    assert!(screen.contains("flock exclusive, held by"), "{screen}");
    assert!(screen.contains("verified, fd "), "{screen}");
    assert!(screen.contains("2 waiting"), "{screen}");
    assert!(screen.contains("├─ exclusive, >0s, thread "), "{screen}");
    assert!(screen.contains("└─ exclusive, >0s, thread "), "{screen}");
    state.key(Key::Escape);
    assert!(!text(&mut state).contains("verified"));
    assert!(matches!(state.key(Key::Escape), Effect::Quit));
    drop(held);
    scene.waiters.drain(..).for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn ages_count_from_the_first_sight() {
    let scene = Scene::new();
    let first = scene.hold("first");
    let mut state = State::new(USUAL);
    let start = Instant::now();
    state.learn(scene.look(start));
    let second = scene.hold("second");
    state.learn(scene.look(start + Duration::from_secs(10)));
    state.learn(scene.look(start + Duration::from_secs(75)));
    let ages: BTreeSet<String> = state.shown.rows.iter().map(|row| row.held.show()).collect();
    assert_eq!(ages, BTreeSet::from([">1m15".to_owned(), "1m05".to_owned()]));
    // Whoever has gone and come back is new.
    drop(second);
    state.learn(scene.look(start + Duration::from_secs(80)));
    let second = scene.hold("second");
    state.learn(scene.look(start + Duration::from_secs(90)));
    let ages: BTreeSet<String> = state.shown.rows.iter().map(|row| row.held.show()).collect();
    assert_eq!(ages, BTreeSet::from([">1m30".to_owned(), "0s".to_owned()]));
    drop((first, second));
}

#[test]
fn the_selection_stays_with_its_lock() {
    let mut scene = Scene::new();
    let mut held = vec![scene.hold("a"), scene.hold("b"), scene.hold("c")];
    let mut state = State::new(USUAL);
    state.learn(scene.look(Instant::now()));
    assert_eq!(selected(&state), "a");
    keys(&mut state, "j");
    assert_eq!(selected(&state), "b");
    scene.wait_for("c");
    state.learn(scene.look(Instant::now()));
    assert_eq!((selected(&state).as_str(), state.selected), ("b", 2));
    state.key(Key::End);
    state.key(Key::PageDown);
    state.key(Key::Down);
    assert_eq!(state.selected, 2);
    state.key(Key::Home);
    assert_eq!((selected(&state).as_str(), state.selected), ("c", 0));
    // Another holder is the same lock still.
    drop(held.pop());
    scene.waiters.pop().unwrap().join().unwrap();
    held.push(scene.hold("c"));
    keys(&mut state, "sss");
    state.learn(scene.look(Instant::now()));
    assert_eq!(selected(&state), "c");
    // What is gone gives way to what is there.
    held.clear();
    state.learn(scene.look(Instant::now()));
    assert!(state.selected_row().is_none());
    assert!(text(&mut state).contains("no locks"));
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let scene = Scene::new();
    let held = [scene.hold("Backup"), scene.hold("deploy")];
    let mut state = State::new(USUAL);
    state.learn(scene.look(Instant::now()));
    keys(&mut state, "/BACKqf");
    assert!(text(&mut state).contains("filter: BACKqf"));
    assert_eq!(state.listed.len(), 0);
    assert!(!state.frozen);
    state.key(Key::Backspace);
    state.key(Key::Backspace);
    assert_eq!((state.listed.len(), selected(&state).as_str()), (1, "Backup"));
    state.key(Key::Enter);
    state.learn(scene.look(Instant::now()));
    assert_eq!(state.listed.len(), 1);
    assert!(text(&mut state).contains("2 locks (1 shown)"));
    assert!(matches!(state.key(Key::Escape), Effect::Nothing));
    assert_eq!(state.listed.len(), 2);
    // By pid.
    keys(&mut state, &format!("/{}", std::process::id()));
    assert_eq!(state.listed.len(), 2);
    state.key(Key::Escape);
    assert!(state.filter.is_empty());
    drop(held);
}

#[test]
fn frozen_is_frozen() {
    let scene = Scene::new();
    let first = scene.hold("first");
    let mut state = State::new(USUAL);
    state.learn(scene.look(Instant::now()));
    keys(&mut state, "f");
    let second = scene.hold("second");
    state.learn(scene.look(Instant::now()));
    let screen = text(&mut state);
    assert!(screen.contains("FROZEN") && screen.contains("1 lock "), "{screen}");
    keys(&mut state, "f");
    let screen = text(&mut state);
    assert!(!screen.contains("FROZEN") && screen.contains("2 locks"), "{screen}");
    drop((first, second));
}

#[test]
fn a_signal_is_asked_about_and_only_y_is_yes() {
    let scene = Scene::new();
    let held = scene.hold("a");
    let mut state = State::new(USUAL);
    state.learn(scene.look(Instant::now()));
    keys(&mut state, "K");
    let screen = text(&mut state);
    let asked = format!("Send SIGTERM to pid {} of ", std::process::id());
    assert!(screen.contains(&asked), "{screen}");
    // Of a long command line at least the program's own name is shown; it may be broken into two lines.
    let program = std::env::current_exe().unwrap();
    let program = program.file_name().unwrap().to_str().unwrap();
    let (full, _) = shown(&mut state, Size { width: 72, ..USUAL }, true);
    let unbroken = full.replace(['│', ' ', '\n'], "");
    assert!(unbroken.contains(program), "{full}");
    for key in [Key::Enter, Key::Char(' '), Key::Char('s'), Key::PageDown] {
        assert!(matches!(state.key(key), Effect::Nothing));
        assert!(matches!(state.focus, Focus::Question(_)));
    }
    state.key(Key::Left);
    assert!(text(&mut state).contains("Send SIGKILL to pid"));
    // It is about this process, even if the lock is gone meanwhile.
    drop(held);
    state.learn(scene.look(Instant::now()));
    assert!(text(&mut state).contains("Send SIGKILL to pid"));
    let Effect::Signal(question) = state.key(Key::Char('y')) else { panic!("y is yes") };
    assert_eq!(question.process.pid, std::process::id());
    assert_eq!(SIGNALS[question.signal].1, "KILL");

    let held = scene.hold("a");
    state.learn(scene.look(Instant::now()));
    keys(&mut state, "Kn");
    assert!(matches!(state.focus, Focus::List));
    // A window in which nobody could read who it is asks nothing.
    keys(&mut state, "K");
    let (screen, _) = shown(&mut state, Size::new(30, 8), true);
    assert!(!screen.contains("Send"), "{screen}");
    keys(&mut state, "K");
    let (screen, _) = shown(&mut state, Size::new(30, 8), true);
    assert!(!screen.contains("Send") && screen.contains("no signal"), "{screen}");
    drop(held);
}

#[test]
fn every_size_is_drawn() {
    let mut scene = Scene::new();
    let held: Vec<_> = (0..30).map(|number| scene.hold(&format!("lock-{number}"))).collect();
    scene.wait_for("lock-7");
    let mut state = State::new(USUAL);
    state.learn(scene.look(Instant::now()));
    let sizes = (0..=30).chain([40, 79, 80, 81, 132, 250]);
    for width in sizes {
        for height in [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 24, 70] {
            for typed in ["", "?", "? ", "/", "K"] {
                state.focus = Focus::List;
                state.open = false;
                state.selected = 0;
                keys(&mut state, typed);
                shown(&mut state, Size::new(width, height), true);
            }
            state.focus = Focus::List;
            state.key(Key::End);
            keys(&mut state, " ");
            shown(&mut state, Size::new(width, height), true);
            state.key(Key::Tab);
            state.key(Key::End);
            shown(&mut state, Size::new(width, height), true);
            state.key(Key::Escape);
        }
    }
    // The least that is promised shows what it is about, and the selected one.
    state.focus = Focus::List;
    state.open = false;
    state.key(Key::Home);
    let (screen, _) = shown(&mut state, Size::new(20, 5), true);
    assert!(screen.contains("lockmgr top") && screen.contains("lock-7"), "{screen}");
    state.key(Key::End);
    let (screen, _) = shown(&mut state, Size::new(20, 5), true);
    assert!(!screen.contains("lock-7"), "{screen}");
    drop(held);
    scene.waiters.pop().unwrap().join().unwrap();
}

#[test]
fn without_colours_there_are_none_and_what_matters_stands_out() {
    let mut scene = Scene::new();
    let held = [scene.hold("a"), scene.hold("b")];
    scene.wait_for("b");
    let mut state = State::new(USUAL);
    state.learn(scene.look(Instant::now()));
    state.key(Key::Enter);
    for typed in ["", "K"] {
        keys(&mut state, typed);
        let (_, buffer) = shown(&mut state, USUAL, false);
        assert!(
            buffer.content.iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset)
        );
        assert!(buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::BOLD)));
        assert!(buffer.content.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
    }
    let (_, buffer) = shown(&mut state, USUAL, true);
    assert!(buffer.content.iter().any(|cell| cell.fg == Color::Red));
    drop(held);
    scene.waiters.pop().unwrap().join().unwrap();
}

#[test]
fn names_cannot_drive_the_terminal() {
    let scene = Scene::new();
    let held = scene.hold("\x1b[31mred\n\u{202e}");
    let mut state = State::new(Size::new(200, 24));
    state.learn(scene.look(Instant::now()));
    keys(&mut state, " ");
    let (screen, _) = shown(&mut state, Size::new(200, 24), true);
    assert!(screen.contains("\\u{1b}[31mred\\n\\u{202e}"), "{screen}");
    assert!(screen.chars().all(|character| character == '\n' || !character.is_control()));
    drop(held);
}

#[test]
fn the_help_fits() {
    let mut state = State::new(USUAL);
    keys(&mut state, "?");
    let screen = text(&mut state);
    assert!(screen.contains("not everything") || screen.contains("Not everything"), "{screen}");
    assert!(screen.contains("a pid namespace hides locks from outside it."), "{screen}");
    assert!(screen.contains("send a signal to the holder, after a question"), "{screen}");
    keys(&mut state, "x");
    assert!(!text(&mut state).contains("send a signal to the holder"));
}
