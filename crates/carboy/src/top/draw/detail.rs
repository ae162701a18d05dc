//! Everything about what is selected: tokens by kind, caps, requests under way, models, and what it did last.
//!
//! *Must never* show more of an entry than the log's own line does.

use carboy_core::audit::Entry;
use carboy_core::budget::{CapKind, CapLine, MeterLine, Usage};

use super::canvas::{Canvas, Tone};
use super::tree::{bar, pace_tone, percent, sparkline};
use crate::budget::tokens;
use crate::report::{duration, what};
use crate::top::figures::{BUCKETS_MAX, cache_hits, countdown, estimated, out_in_ms, pace, permille, sum, usage};
use crate::top::rows::Row;
use crate::top::state::{Pane, State};
use carboy_control::log::parse_time;
use carboy_control::snapshot::Snapshot;

/// Most lines of the detail; what is above can be scrolled away.
pub const DETAIL_LINES_MAX: usize = 200;
/// Models and requests that are shown while the tree is.
const FEW: usize = 2;
/// Columns of a cap's bar.
const BAR: u16 = 16;

/// One line.
enum Line {
    Parts(Vec<(String, Tone)>),
    /// What stands before the bar, the cap, and what stands after it.
    Bar(String, Box<CapLine>, Vec<(String, Tone)>),
}

/// Draws it.
pub fn draw(canvas: &mut Canvas<'_>, state: &State, now_ms: u64) {
    let Some(row) = state.row() else { return };
    title(canvas, state, row, now_ms);
    let lines = lines(canvas, state, row, now_ms);
    let height = usize::from(canvas.area.height.saturating_sub(1));
    let begin = state.scrolled.min(lines.len().saturating_sub(height));
    for (y, line) in (1..canvas.area.height).zip(lines.into_iter().skip(begin)) {
        match line {
            Line::Parts(parts) => drop(canvas.line(y, &parts)),
            Line::Bar(before, cap, after) => {
                let x = canvas.put(0, y, u16::MAX, &before, Tone::Plain);
                let standing = cap.standing;
                let wide = BAR.min(canvas.area.width.saturating_sub(x));
                bar(canvas, (x, y, wide), standing.spent.as_milli(), standing.held.as_milli(), standing.cap.as_milli());
                after.iter().fold(x + wide + 1, |x, (text, tone)| canvas.put(x, y, u16::MAX, text, *tone));
            }
        }
    }
}

fn title(canvas: &mut Canvas<'_>, state: &State, row: &Row, now_ms: u64) {
    let rule = canvas.look.pick("─", "-");
    let width = canvas.area.width;
    canvas.put(0, 0, width, &rule.repeat(usize::from(width)), Tone::Faint);
    let tone = if state.pane == Pane::Detail { Tone::Turned } else { Tone::Strong };
    let mut text = format!(" {} ", row.scope);
    if let Some(run) = &row.run {
        let record = &run.record;
        let agent = record.agent.as_ref().map(|agent| format!(", agent {agent}")).unwrap_or_default();
        let up = duration(now_ms.saturating_sub(record.started_ms));
        text = format!(" {} of bottle {}{agent}, {} for {up} ", record.run, record.bottle, run.state);
    }
    let x = canvas.put(1, 0, width.saturating_sub(2), &text, tone);
    if let Some(run) = &row.run {
        let command = run.record.task.clone().unwrap_or_else(|| run.record.command.join(" "));
        let command: Vec<&str> = command.split_whitespace().collect();
        canvas.put(x + 1, 0, width.saturating_sub(x + 2), &format!(" {} ", command.join(" ")), Tone::Faint);
    }
}

fn lines(canvas: &Canvas<'_>, state: &State, row: &Row, now_ms: u64) -> Vec<Line> {
    let few = if state.zoomed { usize::MAX } else { FEW };
    let mut lines = Vec::new();
    if let Some(why) = row.run.as_ref().and_then(|run| run.why.as_ref()) {
        lines.push(Line::Parts(vec![("why    ".into(), Tone::Faint), (why.clone(), Tone::Warn)]));
    }
    let snapshot = state.snapshot.as_deref();
    let log = log_of(snapshot, row);
    if let Some(warning) = log.iter().rev().find(|entry| is_warning(entry)) {
        lines.push(Line::Parts(warned(canvas, warning, now_ms)));
    }
    if row.meters.is_empty() {
        let hint = "nothing metered yet; `carboy budget set` sets a cap all the same";
        lines.push(Line::Parts(vec![("tokens ".into(), Tone::Faint), (hint.into(), Tone::Plain)]));
    } else {
        lines.push(Line::Parts(by_kind(row)));
        lines.push(Line::Parts(rates(canvas, state, row, now_ms)));
    }
    lines.extend(caps(row, now_ms, few));
    let flying = row.in_flight.iter().take(few);
    lines.extend(flying.map(|flight| {
        let model = flight.model.as_deref().unwrap_or("(no model named)");
        let sent = if flight.sent { "under way" } else { "about to leave" };
        let words = format!(
            "{model}  {sent} for {}, holds {}",
            countdown(flight.age_ms),
            tokens(flight.hold.weighted.tokens_up())
        );
        Line::Parts(vec![("flies  ".into(), Tone::Faint), (words, Tone::Plain)])
    }));
    let more = row.in_flight.len().saturating_sub(few);
    if more > 0 {
        lines.push(Line::Parts(vec![(format!("       and {more} more"), Tone::Faint)]));
    }
    lines.extend(models(snapshot, row, few));
    if let Some(refusal) = log.iter().rev().find_map(|entry| entry.detail("refusal")?.as_str()) {
        let both = format!("carboy explain {refusal}  or  carboy allow {refusal}");
        lines.push(Line::Parts(vec![("refused".into(), Tone::Faint), (format!(" {both}"), Tone::Strong)]));
    }
    let recent = log.iter().rev().map(|entry| Line::Parts(logged(canvas, entry, now_ms)));
    lines.extend(recent);
    lines.truncate(DETAIL_LINES_MAX);
    lines
}

fn split(usage: &Usage) -> String {
    format!(
        "in {} out {} cache read {} written {}",
        tokens(usage.input),
        tokens(usage.output),
        tokens(usage.cache_read),
        tokens(usage.cache_write)
    )
}

fn by_kind(row: &Row) -> Vec<(String, Tone)> {
    let usage = usage(&row.meters);
    let hits = cache_hits(&usage).map(|hits| format!(" hits {hits}%")).unwrap_or_default();
    let requests = sum(&row.meters, |meter| meter.requests);
    let refused = match row.refusals() {
        0 => String::new(),
        refused => format!(", {refused} refused"),
    };
    let mut parts = vec![("tokens ".to_owned(), Tone::Faint), (format!("{}{hits}", split(&usage)), Tone::Plain)];
    if let percent @ 1.. = estimated(&row.meters) {
        parts.push((format!(" ~{percent}% estimated"), Tone::Warn));
    }
    parts.push((format!("  {requests} requests{refused}"), Tone::Plain));
    parts
}

fn rates(canvas: &Canvas<'_>, state: &State, row: &Row, now_ms: u64) -> Vec<(String, Tone)> {
    let rate = |n: usize| tokens(sum(&row.meters, |meter| meter.rate[n]));
    let words = format!("{} a minute, {} in 5, {} in 30  ", rate(0), rate(1), rate(2));
    let mut parts = vec![("rate   ".to_owned(), Tone::Faint), (words, Tone::Plain)];
    if let Some((meter, cap)) = row.tightest() {
        if let Some(ms) = out_in_ms(meter, cap) {
            let at = (canvas.look.local)(now_ms.saturating_add(ms), now_ms);
            // The second would not be true.
            let at = at.rsplit_once(':').map_or(at.as_str(), |(minutes, _)| minutes);
            parts.push((format!("out at {at} (in {})  ", countdown(ms)), Tone::Warn));
        }
        if let Some(pace) = pace(cap, now_ms) {
            parts.push((format!("{}  ", pace.word()), pace_tone(pace)));
        }
    }
    let course = state.history.course(&row.scope, BUCKETS_MAX / 2, now_ms);
    if course.iter().any(|tokens| *tokens > 0) {
        parts.push((sparkline(&course, canvas.look.ascii), Tone::Good));
    }
    parts
}

fn caps(row: &Row, now_ms: u64, few: usize) -> Vec<Line> {
    let all = row.meters.iter().flat_map(|meter| meter.caps.iter().map(move |cap| (meter, cap)));
    let line = |(meter, cap): (&MeterLine, &CapLine)| {
        let standing = &cap.standing;
        let kind = match cap.kind {
            CapKind::Budget => "budget",
            CapKind::Ceiling => "ceiling",
        };
        let (share, tone) = percent(permille(standing.spent, standing.cap));
        let held = match standing.held.tokens_up() {
            0 => String::new(),
            held => format!(", {} held", tokens(held)),
        };
        let ends = match cap.until_ms {
            _ if cap.replaced => ", a nearer budget governs".to_owned(),
            Some(until) => format!(", resets in {}", countdown(until.saturating_sub(now_ms))),
            None => String::new(),
        };
        let spent = tokens(standing.spent.tokens_up());
        let words = format!(" {spent} of {}{held}{ends}", tokens(standing.cap.tokens_down()));
        let before = format!("{kind:<7}{:<10} ", meter.meter.as_str());
        Line::Bar(before, Box::new(cap.clone()), vec![(share, tone), (words, Tone::Plain)])
    };
    all.take(few).map(line).collect()
}

fn models(snapshot: Option<&Snapshot>, row: &Row, few: usize) -> Vec<Line> {
    let mut of: Vec<_> = snapshot.iter().flat_map(|s| &s.models).filter(|model| model.scope == row.scope).collect();
    of.sort_by_key(|model| std::cmp::Reverse(model.charged.weighted));
    let line = |model: &&carboy_control::snapshot::UsageRow| {
        let name = model.model.as_deref().unwrap_or("(no model named)");
        let charged = tokens(model.charged.weighted.tokens_up());
        let words = format!("{name}  {charged} in {} requests  {}", model.requests, split(&model.usage));
        Line::Parts(vec![("model  ".into(), Tone::Faint), (words, Tone::Plain)])
    };
    of.iter().take(few).map(line).collect()
}

/// What the runs at or below it did, the oldest first.
fn log_of<'s>(snapshot: Option<&'s Snapshot>, row: &Row) -> Vec<&'s Entry> {
    let runs = row.runs.iter().map(|run| &run.record.run);
    let mut entries: Vec<&Entry> = runs.filter_map(|run| snapshot?.log.get(run)).flatten().collect();
    entries.sort_by_key(|entry| entry.seq());
    entries
}

/// Something that a person was told about a budget.
fn is_warning(entry: &Entry) -> bool {
    entry.text("event_type") == Some("budget") && entry.text("result") == Some("warned")
}

fn time(canvas: &Canvas<'_>, entry: &Entry, now_ms: u64) -> String {
    let ms = entry.text("timestamp").and_then(|text| parse_time(text).ok());
    ms.map_or_else(|| "-".to_owned(), |ms| (canvas.look.local)(ms, now_ms))
}

fn warned(canvas: &Canvas<'_>, entry: &Entry, now_ms: u64) -> Vec<(String, Tone)> {
    let words = ["why", "text"].iter().find_map(|name| entry.detail(name)?.as_str());
    let words = words.map_or_else(|| entry.text("action").unwrap_or("-").to_owned(), str::to_owned);
    vec![("warned ".into(), Tone::Faint), (format!("{} {words}", time(canvas, entry, now_ms)), Tone::Warn)]
}

fn logged(canvas: &Canvas<'_>, entry: &Entry, now_ms: u64) -> Vec<(String, Tone)> {
    let result = entry.text("result").unwrap_or("-");
    let tone = match result {
        "allowed" | "done" => Tone::Good,
        "denied" | "blocked" | "failed" => Tone::Bad,
        _ => Tone::Warn,
    };
    let mut parts = vec![
        (format!("{} ", time(canvas, entry, now_ms)), Tone::Faint),
        (format!("{result:<8}"), tone),
        (what(entry), Tone::Plain),
    ];
    if let Some(reason) = entry.detail("reason").and_then(|reason| reason.as_str()) {
        parts.push((format!("  {reason}"), Tone::Bad));
    }
    if let Some(refusal) = entry.detail("refusal").and_then(|refusal| refusal.as_str()) {
        parts.push((format!("  {refusal}"), Tone::Faint));
    } else if let Some(why) = entry.detail("why").and_then(|why| why.as_str()) {
        parts.push((format!("  {why}"), Tone::Faint));
    }
    parts
}
