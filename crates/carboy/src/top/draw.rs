//! The screen, of a state: the same for a terminal, a test and `--once`.
//!
//! ```text
//!  carboy top   what runs                      the controller, the time
//!  (what is wrong, and what to do)
//!  tree
//!  ── selected ──
//!  detail
//!  (a question, or what came of it)
//!  keys
//! ```
//!
//! *Must never* panic, whatever the size and the names.

pub mod canvas;
mod detail;
mod tree;

use carboy_control::snapshot::{Controller, RunState, Snapshot};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use canvas::{Canvas, Look, Tone};

use super::act;
use super::state::{Banner, Giving, Mode, State};
use crate::report::width;
pub use detail::DETAIL_LINES_MAX;

/// A lower screen has the tree alone, and a still lower one the rows alone.
const DETAIL_HEIGHT_MIN: u16 = 14;
const HEADS_HEIGHT_MIN: u16 = 5;
/// Notices that are shown at once.
const NOTICES_MAX: usize = 3;

/// The parts of the screen, top down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    head: Rect,
    notices: Rect,
    tree: Rect,
    detail: Rect,
    banner: Rect,
    keys: Rect,
}

fn parts(state: &State, area: Rect) -> Parts {
    let whole = area.height >= HEADS_HEIGHT_MIN;
    let fixed = u16::from(whole);
    let notices = u16::try_from(notices(state).len()).unwrap_or(0).min(area.height.saturating_sub(4));
    let banner = if whole { u16::try_from(said(state).len()).unwrap_or(0).min(2) } else { 0 };
    let room = area.height.saturating_sub(2 * fixed + notices + banner);
    let tree_rows = u16::try_from(state.rows.len()).unwrap_or(u16::MAX).saturating_add(1);
    let tree = match (area.height < DETAIL_HEIGHT_MIN, state.zoomed) {
        (true, false) => room,
        (_, true) => 0,
        // What the tree does not need is the detail's, and the other way round at most half.
        (false, false) => tree_rows.min(room.div_ceil(2)).max(3.min(room)),
    };
    let mut y = area.y;
    let mut next = |height: u16| {
        let part = Rect::new(area.x, y, area.width, height).intersection(area);
        y = y.saturating_add(height);
        part
    };
    Parts {
        head: next(fixed),
        notices: next(notices),
        tree: next(tree),
        detail: next(room - tree),
        banner: next(banner),
        keys: next(fixed),
    }
}

/// Which row of the tree stands at a place of the screen.
pub fn row_at(state: &State, area: Rect, column: u16, row: u16) -> Option<usize> {
    let tree = parts(state, area).tree;
    let inside = column < tree.right() && row > tree.y && row < tree.bottom();
    let at = || {
        let begin = tree::first(state.at(), state.rows.len(), usize::from(tree.height.saturating_sub(1)));
        begin + usize::from(row - tree.y - 1)
    };
    inside.then(at).filter(|at| *at < state.rows.len())
}

/// Draws everything.
pub fn draw(buffer: &mut Buffer, state: &State, look: Look) {
    let area = buffer.area;
    buffer.reset();
    let parts = parts(state, area);
    let now_ms = state.snapshot.as_ref().map_or(0, |snapshot| snapshot.at_ms);
    let mut canvas = Canvas { buffer, area, look };
    head(&mut canvas.part(parts.head), state, now_ms);
    for (y, (text, tone)) in (0..).zip(notices_at(state, look)) {
        canvas.part(parts.notices).put(0, y, u16::MAX, &text, tone);
    }
    if state.mode == Mode::Help {
        let body = Rect::new(area.x, parts.tree.y, area.width, parts.tree.height + parts.detail.height);
        help(&mut canvas.part(body));
    } else {
        if parts.tree.height > 0 {
            tree::draw(&mut canvas.part(parts.tree), state, now_ms);
        }
        if parts.detail.height > 0 {
            detail::draw(&mut canvas.part(parts.detail), state, now_ms);
        }
        if let Some(text) = nothing(state) {
            let y = parts.tree.height.saturating_sub(1).min(2);
            canvas.part(parts.tree).put(0, y, u16::MAX, text, Tone::Plain);
        }
    }
    for (y, (text, tone)) in (0..).zip(said(state)) {
        canvas.part(parts.banner).put(0, y, u16::MAX, &text, tone);
    }
    keys(&mut canvas.part(parts.keys), state);
}

/// What is to be done where there is nothing.
fn nothing(state: &State) -> Option<&'static str> {
    let snapshot = state.snapshot.as_deref()?;
    match (snapshot.runs.is_empty(), state.view.filter.is_empty(), state.rows.len()) {
        (true, true, 0 | 1) => Some("Nothing runs. `carboy run AGENT` starts something; `a` shows what has ended."),
        (_, false, 0 | 1) => Some("Nothing is called so. Esc shows everything again."),
        (_, _, _) => None,
    }
}

/// How many runs there are in each state that is worth a word.
pub fn counted(snapshot: &Snapshot) -> String {
    let count = |state| snapshot.runs.iter().filter(|run| RunState::of(&run.state) == state).count();
    let runs = snapshot.runs.len();
    let mut words = format!("{runs} {}", if runs == 1 { "run" } else { "runs" });
    let states = [RunState::CutOff, RunState::Paused, RunState::Frozen, RunState::Stopping, RunState::Silent];
    for (state, count) in states.map(|state| (state, count(state))).into_iter().filter(|(_, count)| *count > 0) {
        words.push_str(&format!(", {count} {}", state.word()));
    }
    words
}

fn head(canvas: &mut Canvas<'_>, state: &State, now_ms: u64) {
    let mut left = " carboy top".to_owned();
    let mut right = String::new();
    if let Some(snapshot) = state.snapshot.as_deref() {
        left.push_str(&format!("  {}", counted(snapshot)));
        if let Some(ledger) = &snapshot.ledger {
            let flying = state.rows.first().map_or(0, |host| host.in_flight.len());
            left.push_str(&format!("  {flying} under way"));
            if ledger.waiting > 0 {
                left.push_str(&format!(", {} waiting", ledger.waiting));
            }
        }
        right = (canvas.look.local)(now_ms, now_ms);
    }
    if state.read_only {
        right = format!("only looking   {right}");
    }
    let wide = canvas.area.width;
    canvas.put(0, 0, wide, &left, Tone::Plain);
    let room = usize::from(wide).saturating_sub(width(&canvas.look.clean(&left)));
    if room > width(&right) + 2 {
        canvas.put_right(wide.saturating_sub(1), 0, wide, &right, Tone::Plain);
    }
    canvas.tint(0, Tone::Turned);
}

/// What is wrong, for the space that it takes.
fn notices(state: &State) -> Vec<(String, Tone)> {
    // What it is of is said in as many lines.
    let look = Look { colour: false, ascii: true, local: |_, _| String::new() };
    notices_at(state, look)
}

fn notices_at(state: &State, look: Look) -> Vec<(String, Tone)> {
    let Some(snapshot) = state.snapshot.as_deref() else {
        return vec![("looking ...".to_owned(), Tone::Faint)];
    };
    let mut notices = Vec::new();
    match (&snapshot.controller, &snapshot.ledger) {
        (Controller::Here, _) => {}
        (Controller::Absent, _) => {
            let words = "no controller, so no figures: `carboy controller run` starts one; so does a run";
            notices.push((words.to_owned(), Tone::Warn));
        }
        (Controller::Away { why }, Some(ledger)) => {
            let of = (look.local)(ledger.at_ms, snapshot.at_ms);
            notices.push((format!("the controller is away: figures are of {of} ({why})"), Tone::Bad));
        }
        (Controller::Away { why }, None) => notices.push((format!("the controller is away: {why}"), Tone::Bad)),
    }
    if let Some(why) = snapshot.ledger.as_ref().and_then(|ledger| ledger.failing.as_ref()) {
        notices.push((format!("nothing can be held just now: {why}"), Tone::Bad));
    }
    if let Some(why) = &snapshot.blind {
        notices.push((format!("the runs cannot be listed: {why}"), Tone::Bad));
    }
    notices.truncate(NOTICES_MAX);
    notices
}

/// A question, or what came of the last action, in one or two lines.
fn said(state: &State) -> Vec<(String, Tone)> {
    match &state.mode {
        Mode::Confirm(action) => {
            return vec![(format!(" {}? [y/N]", act::words(action)), Tone::Warn)];
        }
        Mode::Amount(scope, giving, typed) => {
            let what = match giving {
                Giving::TopUp => format!("top up {scope} by"),
                Giving::Budget => format!("set the budget of {scope} to"),
            };
            return vec![
                (format!(" {what}: {typed}_"), Tone::Warn),
                (" [METER=]AMOUNT, as in 500k or claude=2M; Enter gives it, Esc does not".to_owned(), Tone::Faint),
            ];
        }
        Mode::Filter => return vec![(format!(" /{}_", state.view.filter), Tone::Warn)],
        Mode::Tree | Mode::Help => {}
    }
    match &state.banner {
        None if !state.view.filter.is_empty() => {
            vec![(format!(" /{} (Esc shows everything)", state.view.filter), Tone::Faint)]
        }
        None => vec![],
        Some(Banner::Done(words)) => vec![(format!(" {words}"), Tone::Good)],
        Some(Banner::Waits(words)) => vec![(format!(" {words}"), Tone::Faint)],
        Some(Banner::Failed { what, next }) => {
            let next = next.iter().map(|next| (format!(" hint: {next}"), Tone::Strong));
            [(format!(" error: {what}"), Tone::Bad)].into_iter().chain(next).collect()
        }
    }
}

const ACTING: [(&str, &str); 7] =
    [("c", "cut"), ("p", "pause"), ("f", "freeze"), ("K", "kill"), ("r", "resume"), ("t", "top up"), ("b", "budget")];
/// What is never left out, and what is before the others.
const FIRST: [(&str, &str); 2] = [("?", "help"), ("q", "quit")];
const LOOKING: [(&str, &str); 3] = [("/", "filter"), ("s", "sort"), ("a", "all")];

fn keys(canvas: &mut Canvas<'_>, state: &State) {
    let acting: &[(&str, &str)] = if state.read_only { &[] } else { &ACTING };
    let mut x = 1;
    for (key, what) in FIRST.iter().chain(acting).chain(&LOOKING) {
        let wide = u16::try_from(key.len() + what.len() + 1).unwrap_or(u16::MAX);
        if x + wide > canvas.area.width {
            return;
        }
        x = canvas.put(x, 0, u16::MAX, key, Tone::Strong);
        x = canvas.put(x, 0, u16::MAX, &format!(" {what}"), Tone::Faint) + 2;
    }
}

/// Every key, and every mark.
const HELP: [(&str, &str); 19] = [
    ("c", "cut off: every route is closed, its processes go on"),
    ("p", "pause: its processes stand still"),
    ("f", "freeze: its processes end, `r` starts it again"),
    ("K", "kill: it ends at once (k moves up)"),
    ("r", "resume what is stopped"),
    ("t", "top up a budget, in its present window"),
    ("b", "set a budget"),
    ("", "on a bottle, an agent or the host they are for every run below"),
    ("arrows j k g G", "move; pages too, and the mouse"),
    ("Enter", "the detail alone, and back"),
    ("Tab", "move in the detail, and back"),
    ("/", "filter by name or state; Esc ends it"),
    ("s S", "sort by name, share, spent, rate, state; turned round"),
    ("a", "also what has ended"),
    ("Ctrl-Z", "leave for a while; `fg` comes back"),
    ("q Esc Ctrl-C", "quit"),
    ("bar", "spent, held for requests under way, left; ^ marks a ceiling"),
    ("OUT IN", "when it is spent, at the rate of the last five minutes"),
    ("PACE", "what is spent against what has gone of the window"),
];

fn help(canvas: &mut Canvas<'_>) {
    for (y, (key, what)) in (0..).zip(HELP) {
        canvas.put(1, y, 15, key, Tone::Strong);
        canvas.put(17, y, u16::MAX, what, Tone::Plain);
    }
}
