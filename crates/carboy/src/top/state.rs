//! The dashboard without its screen: what is shown, what is selected, and what a key means.
//!
//! ```text
//!  tree ── / ──► filter     ── c p f K r ──► a question ── y ──► Effect::Act
//!       ── ? ──► help       ── t b ────────► an amount ── Enter ─► Effect::Act
//! ```
//!
//! *Must never* act: it says what is to be done, after it was confirmed; and to no other run than the one that was
//! confirmed, whatever the tree has become meanwhile.

use std::sync::Arc;

use carboy_control::registry::Answer;
use carboy_control::snapshot::Snapshot;
use carboy_core::budget::{Scope, Shutdown};
use ratatui::layout::Rect;

use super::figures::{History, sum};
use super::keys::Key;
use super::rows::{Row, View, rows};
use super::{act, draw};

/// Longest filter or amount that is typed, in characters.
const TYPED_MAX: usize = 40;
/// Rows that a page key moves by.
const PAGE: usize = 10;

/// What keys mean just now.
#[derive(Clone, Debug, PartialEq)]
pub enum Mode {
    Tree,
    Help,
    /// What was typed so far is the view's filter.
    Filter,
    Confirm(Action),
    /// For which scope, of which kind, and what was typed so far.
    Amount(Scope, Giving, String),
}

/// What an amount is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giving {
    TopUp,
    Budget,
}

/// Something that is done to runs or budgets.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Stop { how: Shutdown, of: Scope, runs: Vec<Answer> },
    Resume { of: Scope, runs: Vec<Answer> },
    Give { giving: Giving, scope: Scope, amount: String },
}

/// What a key led to.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    None,
    /// It is to be drawn again.
    Draw,
    Act(Action),
    Suspend,
    Quit,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Banner {
    Done(String),
    Failed { what: String, next: Option<String> },
    Waits(String),
}

/// Which part of the screen moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    Tree,
    Detail,
}

/// Everything that is drawn.
#[derive(Clone, Debug)]
pub struct State {
    pub snapshot: Option<Arc<Snapshot>>,
    pub rows: Vec<Row>,
    pub history: History,
    pub selected: Scope,
    pub view: View,
    pub mode: Mode,
    pub pane: Pane,
    /// The detail has the whole screen.
    pub zoomed: bool,
    /// Lines of the detail that are above its window.
    pub scrolled: usize,
    pub banner: Option<Banner>,
    pub read_only: bool,
}

impl State {
    pub fn new(read_only: bool) -> State {
        State {
            snapshot: None,
            rows: Vec::new(),
            history: History::default(),
            selected: Scope::Host,
            view: View::default(),
            mode: Mode::Tree,
            pane: Pane::Tree,
            zoomed: false,
            scrolled: 0,
            banner: None,
            read_only,
        }
    }

    /// Shows another snapshot.
    pub fn show(&mut self, snapshot: Arc<Snapshot>) {
        let first = self.snapshot.is_none();
        self.snapshot = Some(snapshot);
        self.arrange();
        let at_ms = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.at_ms);
        for row in &self.rows {
            self.history.note(&row.scope, sum(&row.meters, |meter| meter.spent.weighted.tokens_up()), at_ms);
        }
        if first && let Some(run) = self.rows.iter().find(|row| row.run.is_some()) {
            // Whoever has one run wants to see that one.
            self.selected = run.scope.clone();
        }
    }

    /// The rows of the snapshot, in the present view; what is selected stays so, or what stands in its place is.
    fn arrange(&mut self) {
        let at = self.at();
        if let Some(snapshot) = &self.snapshot {
            self.rows = rows(snapshot, &self.view);
        }
        if !self.rows.iter().any(|row| row.scope == self.selected) {
            self.select(at.min(self.rows.len().saturating_sub(1)));
        }
    }

    /// Where the selected row stands.
    pub fn at(&self) -> usize {
        self.rows.iter().position(|row| row.scope == self.selected).unwrap_or(0)
    }

    /// The selected row.
    pub fn row(&self) -> Option<&Row> {
        self.rows.get(self.at())
    }

    fn select(&mut self, at: usize) {
        if let Some(row) = self.rows.get(at) {
            self.selected = row.scope.clone();
            self.scrolled = 0;
        }
    }

    /// What a key means, on a screen of this size.
    pub fn key(&mut self, key: Key, area: Rect) -> Effect {
        if key == Key::Ctrl('c') {
            return Effect::Quit;
        }
        if key == Key::Ctrl('z') {
            return Effect::Suspend;
        }
        if matches!(key, Key::Resized | Key::Ctrl('l')) {
            return Effect::Draw;
        }
        match std::mem::replace(&mut self.mode, Mode::Tree) {
            Mode::Tree => self.on_tree(key, area),
            Mode::Help => Effect::Draw,
            Mode::Filter => self.on_filter(key),
            Mode::Confirm(action) => match key {
                Key::Char('y' | 'Y') => self.acts(action),
                Key::Char(_)
                | Key::Ctrl(_)
                | Key::Up
                | Key::Down
                | Key::PageUp
                | Key::PageDown
                | Key::Home
                | Key::End
                | Key::Enter
                | Key::Tab
                | Key::Esc
                | Key::Backspace
                | Key::Click(..)
                | Key::Resized => {
                    self.banner = Some(Banner::Done("nothing was done".into()));
                    Effect::Draw
                }
            },
            Mode::Amount(scope, giving, typed) => self.on_amount(key, scope, giving, typed),
        }
    }

    fn acts(&mut self, action: Action) -> Effect {
        self.banner = Some(Banner::Waits(format!("{} ...", act::words(&action))));
        Effect::Act(action)
    }

    fn on_tree(&mut self, key: Key, area: Rect) -> Effect {
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Esc => return self.on_escape(),
            Key::Up | Key::Char('k') => self.moves(|at| at.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.moves(|at| at.saturating_add(1)),
            Key::PageUp => self.moves(|at| at.saturating_sub(PAGE)),
            Key::PageDown => self.moves(|at| at.saturating_add(PAGE)),
            Key::Home | Key::Char('g') => self.moves(|_| 0),
            Key::End | Key::Char('G') => self.moves(|_| usize::MAX),
            Key::Enter => self.zoomed = !self.zoomed,
            Key::Tab => {
                self.pane = if self.pane == Pane::Tree { Pane::Detail } else { Pane::Tree };
            }
            Key::Click(column, row) => {
                if let Some(at) = draw::row_at(self, area, column, row) {
                    self.pane = Pane::Tree;
                    self.select(at);
                }
            }
            Key::Char(c) => return self.on_letter(c),
            Key::Ctrl(_) | Key::Backspace | Key::Resized => return Effect::None,
        }
        Effect::Draw
    }

    fn on_letter(&mut self, letter: char) -> Effect {
        match letter {
            '?' | 'h' => self.mode = Mode::Help,
            '/' => self.mode = Mode::Filter,
            's' => self.view.sort = self.view.sort.next(),
            'S' => self.view.reversed = !self.view.reversed,
            'a' => self.view.ended = !self.view.ended,
            'c' => return self.ask_to_stop(Shutdown::Cutoff),
            'p' => return self.ask_to_stop(Shutdown::Pause),
            'f' => return self.ask_to_stop(Shutdown::Freeze),
            'K' => return self.ask_to_stop(Shutdown::Kill),
            'r' => return self.ask_to_resume(),
            't' => return self.ask_amount(Giving::TopUp),
            'b' => return self.ask_amount(Giving::Budget),
            _ => return Effect::None,
        }
        self.arrange();
        Effect::Draw
    }

    /// Out of what one is in, one step at a time, and at last out of the program.
    fn on_escape(&mut self) -> Effect {
        if self.banner.take().is_some() {
            return Effect::Draw;
        }
        if !self.view.filter.is_empty() {
            self.view.filter.clear();
            self.arrange();
            return Effect::Draw;
        }
        if std::mem::take(&mut self.zoomed) {
            return Effect::Draw;
        }
        Effect::Quit
    }

    fn moves(&mut self, to: impl Fn(usize) -> usize) {
        match self.pane {
            Pane::Tree => self.select(to(self.at()).min(self.rows.len().saturating_sub(1))),
            Pane::Detail => self.scrolled = to(self.scrolled).min(draw::DETAIL_LINES_MAX),
        }
    }

    fn on_filter(&mut self, key: Key) -> Effect {
        let mut typed = std::mem::take(&mut self.view.filter);
        let goes_on = types(key, &mut typed);
        self.view.filter = typed.to_lowercase();
        match goes_on {
            Typing::GoesOn => self.mode = Mode::Filter,
            Typing::Ends => {}
            Typing::Leaves => self.view.filter.clear(),
        }
        self.arrange();
        Effect::Draw
    }

    fn on_amount(&mut self, key: Key, scope: Scope, giving: Giving, mut typed: String) -> Effect {
        match types(key, &mut typed) {
            Typing::GoesOn => self.mode = Mode::Amount(scope, giving, typed),
            Typing::Ends if !typed.trim().is_empty() => {
                return self.acts(Action::Give { giving, scope, amount: typed.trim().to_owned() });
            }
            Typing::Ends | Typing::Leaves => self.banner = Some(Banner::Done("nothing was done".into())),
        }
        Effect::Draw
    }

    fn refuses(&mut self, what: &str, next: &str) -> Effect {
        self.banner = Some(Banner::Failed { what: what.into(), next: Some(next.into()) });
        Effect::Draw
    }

    fn only_looks(&mut self) -> Effect {
        self.refuses("this dashboard only looks", "start it without --read-only to act")
    }

    fn ask_to_stop(&mut self, how: Shutdown) -> Effect {
        if self.read_only {
            return self.only_looks();
        }
        let runs: Vec<Answer> = self.row().map(|row| row.runs.clone()).unwrap_or_default();
        let runs: Vec<Answer> = runs.into_iter().filter(|run| run.state != "frozen").collect();
        if runs.is_empty() {
            return self
                .refuses("no run lives there", "select a run, or what it stands below; `a` shows what has ended");
        }
        self.banner = None;
        self.mode = Mode::Confirm(Action::Stop { how, of: self.selected.clone(), runs });
        Effect::Draw
    }

    fn ask_to_resume(&mut self) -> Effect {
        if self.read_only {
            return self.only_looks();
        }
        let runs: Vec<Answer> = self.row().map(|row| row.runs.clone()).unwrap_or_default();
        let runs: Vec<Answer> = runs.into_iter().filter(|run| run.why.is_some() || run.state == "frozen").collect();
        if runs.is_empty() {
            return self.refuses("nothing is stopped there", "`c`, `p` and `f` stop a run");
        }
        self.banner = None;
        self.mode = Mode::Confirm(Action::Resume { of: self.selected.clone(), runs });
        Effect::Draw
    }

    fn ask_amount(&mut self, giving: Giving) -> Effect {
        if self.read_only {
            return self.only_looks();
        }
        self.banner = None;
        // Of the meter that binds it most, so that the amount alone is enough.
        let meter = self.row().and_then(Row::tightest).map(|(meter, _)| format!("{}=", meter.meter));
        self.mode = Mode::Amount(self.selected.clone(), giving, meter.unwrap_or_default());
        Effect::Draw
    }
}

/// What a key does to a text that is typed.
enum Typing {
    GoesOn,
    Ends,
    Leaves,
}

fn types(key: Key, typed: &mut String) -> Typing {
    match key {
        Key::Enter => return Typing::Ends,
        Key::Esc => return Typing::Leaves,
        Key::Backspace => drop(typed.pop()),
        Key::Ctrl('u') => typed.clear(),
        Key::Char(c) if typed.chars().count() < TYPED_MAX && !c.is_control() => typed.push(c),
        Key::Char(_)
        | Key::Ctrl(_)
        | Key::Up
        | Key::Down
        | Key::PageUp
        | Key::PageDown
        | Key::Home
        | Key::End
        | Key::Tab
        | Key::Click(..)
        | Key::Resized => {}
    }
    Typing::GoesOn
}
