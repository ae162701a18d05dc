//! The tree of scopes as a table that has as many columns as fit.
//!
//! *Must never* show a figure in part: a column is there with all of it, or not at all.

use carboy_control::snapshot::RunState;
use carboy_core::budget::{CapKind, Scope};

use super::canvas::{Canvas, Tone};
use crate::budget::tokens;
use crate::top::figures::{BUCKETS_MAX, Level, countdown, estimated, out_in_ms, pace, permille, sum};
use crate::top::rows::Row;
use crate::top::state::State;

/// One column beside the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    State,
    Spent,
    Held,
    Cap,
    Bar,
    Percent,
    Rate,
    Out,
    Resets,
    Refused,
    Pace,
    Flying,
    Rate5,
    Rate30,
    Estimated,
    Course,
}

/// In the order in which they are given up, the last one first, with their widths.
const BY_WORTH: [(Column, u16); 16] = [
    (Column::Percent, 6),
    (Column::Spent, 6),
    (Column::State, 8),
    (Column::Cap, 7),
    (Column::Bar, 10),
    (Column::Held, 6),
    (Column::Rate, 6),
    (Column::Out, 6),
    (Column::Resets, 6),
    (Column::Refused, 7),
    (Column::Pace, 7),
    (Column::Flying, 3),
    (Column::Rate5, 6),
    (Column::Rate30, 6),
    (Column::Estimated, 4),
    (Column::Course, 20),
];

/// In the order in which they stand.
const BY_PLACE: [Column; 16] = [
    Column::State,
    Column::Spent,
    Column::Held,
    Column::Cap,
    Column::Bar,
    Column::Percent,
    Column::Rate,
    Column::Rate5,
    Column::Rate30,
    Column::Out,
    Column::Resets,
    Column::Pace,
    Column::Flying,
    Column::Refused,
    Column::Estimated,
    Column::Course,
];

/// Least and most room for names.
const NAME_MIN: u16 = 15;
const NAME_MAX: u16 = 48;
/// Widest bar and course.
const BAR_MAX: u16 = 32;

impl Column {
    fn head(self) -> &'static str {
        match self {
            Column::State => "STATE",
            Column::Spent => "SPENT",
            Column::Held => "HELD",
            Column::Cap => "CAP",
            Column::Bar => "",
            Column::Percent => "%",
            Column::Rate => "/MIN",
            Column::Out => "OUT IN",
            Column::Resets => "RESETS",
            Column::Refused => "REFUSED",
            Column::Pace => "PACE",
            Column::Flying => "FLY",
            Column::Rate5 => "5 MIN",
            Column::Rate30 => "30 MIN",
            Column::Estimated => "EST",
            Column::Course => "LAST MINUTES",
        }
    }

    fn is_left(self) -> bool {
        matches!(self, Column::State | Column::Bar | Column::Pace | Column::Course)
    }
}

/// The columns that fit, with their widths, and the room for names.
fn columns(width: u16) -> (Vec<(Column, u16)>, u16) {
    let mut room = width.saturating_sub(NAME_MIN.min(width));
    let mut chosen: Vec<(Column, u16)> = Vec::new();
    for (column, wide) in BY_WORTH {
        if room < wide + 1 {
            break;
        }
        room -= wide + 1;
        chosen.push((column, wide));
    }
    for (grows, most) in [(Column::Bar, BAR_MAX), (Column::Course, BUCKETS_MAX as u16)] {
        // Names get half of what is left.
        if let Some((_, wide)) = chosen.iter_mut().find(|(column, _)| *column == grows) {
            let more = (room / 2).min(most - *wide);
            *wide += more;
            room -= more;
        }
    }
    let name = (NAME_MIN.min(width) + room).min(NAME_MAX);
    let placed = BY_PLACE.iter().filter_map(|place| chosen.iter().find(|(column, _)| column == place).copied());
    (placed.collect(), name)
}

/// Which row stands first, so that the selected one is seen.
pub fn first(at: usize, rows: usize, height: usize) -> usize {
    at.saturating_sub(height / 2).min(rows.saturating_sub(height))
}

/// Draws the head and the rows.
pub fn draw(canvas: &mut Canvas<'_>, state: &State, now_ms: u64) {
    let (columns, name) = columns(canvas.area.width);
    let height = usize::from(canvas.area.height.saturating_sub(1));
    let order = format!("{}{}", state.view.sort.word(), if state.view.reversed { ", reversed" } else { "" });
    canvas.put(0, 0, name, &format!("SCOPE by {order}"), Tone::Faint);
    let mut x = name;
    for (column, wide) in &columns {
        x += 1;
        match column.is_left() {
            true => drop(canvas.put(x, 0, *wide, column.head(), Tone::Faint)),
            false => canvas.put_right(x + wide, 0, *wide, column.head(), Tone::Faint),
        }
        x += wide;
    }
    let at = state.at();
    let begin = first(at, state.rows.len(), height);
    for (n, row) in state.rows.iter().enumerate().skip(begin).take(height) {
        let y = u16::try_from(n - begin + 1).unwrap_or(u16::MAX);
        named(canvas, y, name, row);
        let mut x = name;
        for (column, wide) in &columns {
            x += 1;
            cell(canvas, (x, y, *wide), *column, row, state, now_ms);
            x += wide;
        }
        if n == at {
            canvas.tint(y, Tone::Turned);
        }
    }
}

fn named(canvas: &mut Canvas<'_>, y: u16, columns: u16, row: &Row) {
    let look = canvas.look;
    let mut lead = String::new();
    for (n, last) in row.last.iter().enumerate() {
        let here = n + 1 == row.last.len();
        lead.push_str(match (here, last) {
            (true, true) => look.pick("└ ", "` "),
            (true, false) => look.pick("├ ", "|-"),
            (false, true) => "  ",
            (false, false) => look.pick("│ ", "| "),
        });
    }
    let tone = match row.scope {
        Scope::Run(_) => Tone::Plain,
        Scope::Host | Scope::Bottle(_) | Scope::Agent(_) => Tone::Strong,
    };
    let x = canvas.put(0, y, columns, &lead, Tone::Faint);
    canvas.put(x, y, columns.saturating_sub(x), row.name(), tone);
}

/// What a state looks like.
pub fn state_tone(state: RunState) -> Tone {
    match state {
        RunState::Running => Tone::Good,
        RunState::CutOff | RunState::Silent => Tone::Bad,
        RunState::Paused | RunState::Frozen | RunState::Stopping => Tone::Warn,
        RunState::Ended => Tone::Faint,
    }
}

fn cell(canvas: &mut Canvas<'_>, (x, y, wide): (u16, u16, u16), column: Column, row: &Row, state: &State, now: u64) {
    let tight = row.tightest();
    let standing = tight.map(|(_, cap)| cap.standing);
    let some = |count: u64| if count == 0 { String::new() } else { tokens(count) };
    let plain = |text: String| (text, Tone::Plain);
    let (text, tone) = match column {
        Column::State if row.run.is_some() => (row.state_words(), state_tone(row.state())),
        Column::State => (row.state_words(), Tone::Faint),
        Column::Spent => plain(tokens(match standing {
            Some(standing) => standing.spent.tokens_up(),
            None => sum(&row.meters, |meter| meter.spent.weighted.tokens_up()),
        })),
        Column::Held => plain(some(match standing {
            Some(standing) => standing.held.tokens_up(),
            None => sum(&row.meters, |meter| meter.held.weighted.tokens_up()),
        })),
        Column::Cap => match tight {
            Some((_, cap)) => plain(match cap.kind {
                CapKind::Budget => tokens(cap.standing.cap.tokens_down()),
                CapKind::Ceiling => format!("^{}", tokens(cap.standing.cap.tokens_down())),
            }),
            None => (String::new(), Tone::Plain),
        },
        Column::Bar => {
            if let Some(standing) = standing {
                bar(canvas, (x, y, wide), standing.spent.as_milli(), standing.held.as_milli(), standing.cap.as_milli());
            }
            return;
        }
        Column::Percent => match standing {
            Some(standing) => percent(permille(standing.spent, standing.cap)),
            None => plain(String::new()),
        },
        Column::Rate => plain(some(sum(&row.meters, |meter| meter.rate[0]))),
        Column::Rate5 => plain(some(sum(&row.meters, |meter| meter.rate[1]))),
        Column::Rate30 => plain(some(sum(&row.meters, |meter| meter.rate[2]))),
        Column::Out => match tight.and_then(|(meter, cap)| out_in_ms(meter, cap)) {
            Some(0) => ("now".into(), Tone::Bad),
            Some(ms) => (countdown(ms), if ms < 600_000 { Tone::Warn } else { Tone::Plain }),
            None => plain(String::new()),
        },
        Column::Resets => match tight.and_then(|(_, cap)| cap.until_ms) {
            Some(until) => plain(countdown(until.saturating_sub(now))),
            None => plain(String::new()),
        },
        Column::Pace => match tight.and_then(|(_, cap)| pace(cap, now)) {
            Some(pace) => (pace.word().to_owned(), pace_tone(pace)),
            None => plain(String::new()),
        },
        Column::Flying => plain(some(row.in_flight.len() as u64)),
        Column::Refused => plain(some(row.refusals())),
        Column::Estimated => plain(match estimated(&row.meters) {
            0 => String::new(),
            percent => format!("~{percent}%"),
        }),
        Column::Course => {
            let course = state.history.course(&row.scope, usize::from(wide), now);
            (sparkline(&course, canvas.look.ascii), Tone::Good)
        }
    };
    match column.is_left() {
        true => drop(canvas.put(x, y, wide, &text, tone)),
        false => canvas.put_right(x + wide, y, wide, &text, tone),
    }
}

pub fn pace_tone(pace: crate::top::figures::Pace) -> Tone {
    match pace {
        crate::top::figures::Pace::Cool => Tone::Good,
        crate::top::figures::Pace::On => Tone::Plain,
        crate::top::figures::Pace::Hot => Tone::Warn,
    }
}

/// A percentage, with a mark where it is much.
pub fn percent(permille: u64) -> (String, Tone) {
    let level = Level::of(permille);
    let tone = match level {
        Level::Low | Level::Half => Tone::Plain,
        Level::Much => Tone::Warn,
        Level::NearlyAll => Tone::Bad,
    };
    let shown = (permille / 10).min(999);
    (format!("{}{shown}%", level.mark()), tone)
}

/// What was spent, what is held, and the rest.
pub fn bar(canvas: &mut Canvas<'_>, (x, y, wide): (u16, u16, u16), spent: u64, held: u64, cap: u64) {
    let cells = |part: u64| -> u16 {
        let cells = (u128::from(part) * u128::from(wide)).checked_div(u128::from(cap)).unwrap_or(u128::from(wide));
        u16::try_from(cells).unwrap_or(wide).min(wide)
    };
    // Anything spent or held is seen.
    let full = cells(spent).max(u16::from(spent > 0)).min(wide);
    let both = cells(spent.saturating_add(held)).max(full + u16::from(held > 0)).min(wide);
    let level = Level::of(permille(carboy_core::budget::Amount::milli(spent), carboy_core::budget::Amount::milli(cap)));
    let look = canvas.look;
    let of = |glyph: &str, count: u16| glyph.repeat(usize::from(count));
    canvas.put(x, y, full, &of(look.pick("█", "#"), full), Tone::Level(level));
    canvas.put(x + full, y, both - full, &of(look.pick("▒", "="), both - full), Tone::Level(level));
    canvas.put(x + both, y, wide - both, &of(look.pick("·", "."), wide - both), Tone::Faint);
}

/// A course as marks of eight heights.
pub fn sparkline(course: &[u64], ascii: bool) -> String {
    const WIDE: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const ASCII: [char; 8] = ['.', ':', '-', '=', '+', '*', '%', '#'];
    let marks = if ascii { ASCII } else { WIDE };
    let most = course.iter().copied().max().unwrap_or(0);
    let mark = |tokens: &u64| match (tokens, most) {
        (0, _) | (_, 0) => ' ',
        (tokens, most) => {
            let height = u128::from(*tokens) * 7 / u128::from(most);
            marks[usize::try_from(height).unwrap_or(7).min(7)]
        }
    };
    course.iter().map(mark).collect()
}
