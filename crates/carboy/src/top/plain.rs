//! The dashboard without a screen: one frame as text, and one line.

use std::sync::Arc;

use carboy_control::snapshot::{Controller, Snapshot};
use carboy_core::budget::Scope;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::draw::canvas::Look;
use super::draw::{counted, draw};
use super::figures::{countdown, out_in_ms, permille, sum};
use super::rows::{View, rows};
use super::state::State;
use crate::budget::tokens;

/// Columns where there is no terminal, and the most there are.
const COLUMNS: u16 = 120;
const COLUMNS_MAX: u16 = 400;
/// Most rows of a frame, and those beside the tree.
const ROWS_MAX: usize = 600;
const ROWS_BESIDE: usize = 22;

/// One frame, as high as the tree needs.
pub fn frame(snapshot: Snapshot, look: Look, columns: Option<u16>) -> String {
    let mut state = State::new(true);
    state.show(Arc::new(snapshot));
    state.selected = Scope::Host;
    let height = (2 * state.rows.len() + ROWS_BESIDE).min(ROWS_MAX);
    let area = Rect::new(0, 0, columns.unwrap_or(COLUMNS).min(COLUMNS_MAX), u16::try_from(height).unwrap_or(24));
    let mut buffer = Buffer::empty(area);
    draw(&mut buffer, &state, Look { colour: false, ..look });
    let mut lines = text(&buffer);
    // The last line is of keys, which nobody can press.
    lines.pop();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

/// What stands in a buffer, line by line.
pub fn text(buffer: &Buffer) -> Vec<String> {
    let area = buffer.area;
    let line = |y| {
        let mut line = String::new();
        let mut skip = 0;
        for x in 0..area.width {
            let symbol = buffer[(area.x + x, area.y + y)].symbol();
            if skip == 0 {
                line.push_str(symbol);
                skip = crate::report::width(symbol);
            }
            skip = skip.saturating_sub(1);
        }
        line.trim_end().to_owned()
    };
    (0..area.height).map(line).collect()
}

/// One line: what runs, the host's tightest cap, how fast it goes.
pub fn line(snapshot: &Snapshot, look: Look) -> String {
    let mut parts = vec![counted(snapshot)];
    let rows = rows(snapshot, &View::default());
    let all = rows.iter().flat_map(|row| Some((row, row.tightest()?)));
    // The one that is nearest to its end, wherever it stands.
    let tight = all.max_by_key(|(_, (_, cap))| permille(cap.standing.spent, cap.standing.cap));
    if let Some((row, (meter, cap))) = tight {
        let standing = cap.standing;
        let (spent, most) = (tokens(standing.spent.tokens_up()), tokens(standing.cap.tokens_down()));
        let share = permille(standing.spent, standing.cap) / 10;
        parts.push(format!("{} {spent}/{most} {share}%", row.scope));
        if let Some(ms) = out_in_ms(meter, cap) {
            parts.push(if ms == 0 { "spent".to_owned() } else { format!("out in {}", countdown(ms)) });
        }
    } else if let Some(host) = rows.first() {
        parts.push(format!("{} spent", tokens(sum(&host.meters, |meter| meter.spent.weighted.tokens_up()))));
    }
    if let Some(rate @ 1..) = rows.first().map(|host| sum(&host.meters, |meter| meter.rate[0])) {
        parts.push(format!("{}/min", tokens(rate)));
    }
    match &snapshot.controller {
        Controller::Here => {}
        Controller::Absent => parts.push("no controller".to_owned()),
        Controller::Away { .. } => parts.push("controller away".to_owned()),
    }
    look.clean(&parts.join(" | ")) + "\n"
}
