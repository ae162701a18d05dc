//! Sequence diagrams as mermaid writes them. *Must never* pass over a line.

use super::canvas::{Canvas, LINE_HEIGHT, Rect, Route, Shape, Stroke, Tip, text_width};
use super::{Line, label, told};
use crate::fault::{Fault, Problem};
use crate::limits::{DIAGRAM_EDGES_MAX, DIAGRAM_NODES_MAX};

struct Participant {
    id: String,
    label: Vec<String>,
}

/// What happens, from top to bottom.
enum Step {
    Message { from: usize, to: usize, text: Vec<String>, stroke: Stroke, tip: Tip, number: Option<usize> },
    Note { first: usize, last: usize, side: Side, text: Vec<String> },
    Open { kind: &'static str, text: Vec<String> },
    Else { word: &'static str, text: Vec<String> },
    Close { kind: &'static str },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Over,
    Left,
    Right,
}

pub(super) struct Sequence {
    participants: Vec<Participant>,
    steps: Vec<Step>,
}

const ARROWS: &[(&str, Stroke, Tip)] = &[
    ("-->>", Stroke::Dotted, Tip::Arrow),
    ("->>", Stroke::Plain, Tip::Arrow),
    ("--x", Stroke::Dotted, Tip::Cross),
    ("-x", Stroke::Plain, Tip::Cross),
    ("--)", Stroke::Dotted, Tip::Open),
    ("-)", Stroke::Plain, Tip::Open),
    ("-->", Stroke::Dotted, Tip::None),
    ("->", Stroke::Plain, Tip::None),
];
/// Frames, and the word that divides them.
const FRAMES: &[(&str, &str)] = &[("loop", ""), ("opt", ""), ("alt", "else"), ("par", "and"), ("critical", "option")];

struct Reader {
    sequence: Sequence,
    number: Option<usize>,
    messages: usize,
    open: Vec<(&'static str, &'static str, usize)>,
}

pub(super) fn parse(lines: &[Line<'_>]) -> Result<Sequence, Problem> {
    let sequence = Sequence { participants: Vec::new(), steps: Vec::new() };
    let mut reader = Reader { sequence, number: None, messages: 0, open: Vec::new() };
    if lines[0].text != "sequenceDiagram" {
        return Err(told(format!("`{}` says more than sequenceDiagram", lines[0].text)).at(lines[0].number));
    }
    for line in &lines[1..] {
        reader.line(line).map_err(|fault| fault.at(line.number))?;
    }
    match reader.open.last() {
        Some((kind, _, line)) => Err(told(format!("this {kind} never ends; write `end`")).at(*line)),
        None if reader.sequence.participants.is_empty() => Err(told("nobody takes part in it").at(lines[0].number)),
        None => Ok(reader.sequence),
    }
}

impl Reader {
    fn line(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let (first, rest) = line.text.split_once(' ').map_or((line.text, ""), |(first, rest)| (first, rest.trim()));
        if line.text == "autonumber" {
            self.number = Some(1);
            return Ok(());
        }
        if matches!(first, "participant" | "actor") && !rest.is_empty() {
            let (id, said) = rest.split_once(" as ").unwrap_or((rest, rest));
            let (id, said) = (id.trim(), label(said)?);
            let found = self.participant(id)?;
            self.sequence.participants[found].label = said;
            return Ok(());
        }
        if let Some((kind, divider)) = FRAMES.iter().find(|(kind, _)| *kind == first) {
            self.sequence.steps.push(Step::Open { kind, text: label(rest)? });
            self.open.push((kind, divider, line.number));
            return Ok(());
        }
        if let Some((_, word)) = FRAMES.iter().find(|(_, word)| *word == first) {
            let inside = self.open.last().is_some_and(|(_, divider, _)| divider == word);
            if !inside {
                return Err(told(format!("`{word}` stands outside of what it divides")));
            }
            self.sequence.steps.push(Step::Else { word, text: label(rest)? });
            return Ok(());
        }
        if line.text == "end" {
            let (kind, _, _) = self.open.pop().ok_or_else(|| told("this `end` ends nothing"))?;
            self.sequence.steps.push(Step::Close { kind });
            return Ok(());
        }
        if first.eq_ignore_ascii_case("note") { self.note(rest) } else { self.message(line.text) }
    }

    fn participant(&mut self, id: &str) -> Result<usize, Fault> {
        let all = &mut self.sequence.participants;
        if let Some(found) = all.iter().position(|participant| participant.id == id) {
            return Ok(found);
        }
        if id.is_empty() || all.len() == DIAGRAM_NODES_MAX {
            return Err(told(format!("a participant is missing, or there are more than {DIAGRAM_NODES_MAX}")));
        }
        all.push(Participant { id: id.to_owned(), label: label(id)? });
        Ok(all.len() - 1)
    }

    fn note(&mut self, text: &str) -> Result<(), Fault> {
        let kinds = [("over ", Side::Over), ("left of ", Side::Left), ("right of ", Side::Right)];
        let found = kinds.iter().find_map(|(word, side)| Some((text.strip_prefix(word)?, *side)));
        let (rest, side) =
            found.ok_or_else(|| told(format!("a note stands `over`, `left of` or `right of`: `{text}`")))?;
        let (who, said) = rest.split_once(':').ok_or_else(|| told("a note has no text: write `: text`"))?;
        let (first, last) = who.split_once(',').unwrap_or((who, who));
        let (a, b) = (self.participant(first.trim())?, self.participant(last.trim())?);
        self.sequence.steps.push(Step::Note { first: a.min(b), last: a.max(b), side, text: label(said)? });
        Ok(())
    }

    fn message(&mut self, text: &str) -> Result<(), Fault> {
        let found = ARROWS.iter().filter_map(|(sign, stroke, tip)| Some((text.find(sign)?, *sign, *stroke, *tip)));
        let first = found.min_by_key(|(at, sign, _, _)| (*at, usize::MAX - sign.len()));
        let (at, sign, stroke, tip) = first.ok_or_else(|| told(format!("`{text}` is not understood")))?;
        let (from, rest) = (text[..at].trim(), &text[at + sign.len()..]);
        if rest.starts_with(['+', '-']) {
            return Err(told("activation (+ and -) is not drawn; take the sign out"));
        }
        let (to, said) = rest.split_once(':').ok_or_else(|| told("a message has no text: write `: text`"))?;
        if self.messages == DIAGRAM_EDGES_MAX {
            return Err(told(format!("more than {DIAGRAM_EDGES_MAX} messages; split it")));
        }
        self.messages += 1;
        let (from, to, text) = (self.participant(from)?, self.participant(to.trim())?, label(said)?);
        let number = self.number;
        self.number = number.map(|number| number + 1);
        self.sequence.steps.push(Step::Message { from, to, text, stroke, tip, number });
        Ok(())
    }
}

const BOX_HEIGHT: f64 = 34.0;
const GAP: f64 = 14.0;
const SELF_WIDTH: f64 = 40.0;

impl Sequence {
    pub fn title(&self) -> String {
        let messages = self.steps.iter().filter(|step| matches!(step, Step::Message { .. })).count();
        format!("Sequence diagram with {} participants and {messages} messages", self.participants.len())
    }

    pub fn words(&self) -> Vec<String> {
        let name = |who: usize| self.participants[who].label.join(" ");
        let step = |step: &Step| match step {
            Step::Message { from, to, text, number, .. } => {
                let number = number.map_or(String::new(), |number| format!("{number}. "));
                format!("{number}{} to {}: {}", name(*from), name(*to), text.join(" "))
            }
            Step::Note { first, last, side, text } => {
                let who = if first == last { name(*first) } else { format!("{}, {}", name(*first), name(*last)) };
                let side = match side {
                    Side::Over => "over",
                    Side::Left => "left of",
                    Side::Right => "right of",
                };
                format!("note {side} {who}: {}", text.join(" "))
            }
            Step::Open { kind, text } => format!("{kind}: {}", text.join(" ")),
            Step::Else { word, text } => format!("{word}: {}", text.join(" ")),
            Step::Close { kind } => format!("end of {kind}"),
        };
        self.steps.iter().map(step).collect()
    }

    /// The middle of each participant's line: far enough apart for the texts between them.
    fn columns(&self) -> Vec<f64> {
        let widths: Vec<f64> = self.participants.iter().map(|p| text_width(&p.label) + 28.0).collect();
        let mut gaps: Vec<f64> = widths.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0 + 24.0).collect();
        let (mut left, mut right) = (widths[0] / 2.0, 0.0f64);
        for step in &self.steps {
            let (a, b, width) = match step {
                Step::Message { from, to, text, number, .. } => {
                    let numbered = if number.is_some() { 26.0 } else { 0.0 };
                    let own = if from == to { SELF_WIDTH + 10.0 } else { 34.0 };
                    let (first, last) = (*from.min(to), *from.max(to));
                    (first, if from == to { first + 1 } else { last }, text_width(text) + numbered + own)
                }
                Step::Note { first, last, side: Side::Over, text } if first == last => {
                    left = if *first == 0 { left.max(text_width(text) / 2.0 + 16.0) } else { left };
                    (*first, first + 1, text_width(text) / 2.0 + 30.0)
                }
                Step::Note { first, side: Side::Left, text, .. } => {
                    left = if *first == 0 { left.max(text_width(text) + 34.0) } else { left };
                    (first.saturating_sub(1), *first, text_width(text) + 40.0)
                }
                Step::Note { first, last, text, side } => {
                    (*first, if *side == Side::Right { first + 1 } else { *last }, text_width(text) + 40.0)
                }
                Step::Open { .. } | Step::Else { .. } | Step::Close { .. } => continue,
            };
            let b = b.min(gaps.len());
            if a < b {
                let missing = width - gaps[a..b].iter().sum::<f64>();
                let each = missing.max(0.0) / (b - a) as f64;
                gaps[a..b].iter_mut().for_each(|gap| *gap += each);
            } else {
                right = right.max(width);
            }
        }
        // Frames reach out to the left of the first line.
        let depth = self.steps.iter().filter(|step| matches!(step, Step::Open { .. })).count().min(4) as f64;
        let mut at = left + depth * 8.0;
        let mut columns = vec![at];
        for gap in gaps {
            at += gap;
            columns.push(at);
        }
        columns
    }

    pub fn draw(&self) -> Canvas {
        let (columns, mut lines, mut canvas) = (self.columns(), Canvas::default(), Canvas::default());
        let top = self.participants.iter().map(|p| p.label.len()).max().unwrap_or(1) as f64 * LINE_HEIGHT + 16.0;
        let top = top.max(BOX_HEIGHT);
        let mut y = top + GAP;
        let mut frames: Vec<(f64, usize)> = Vec::new();
        let right = columns.last().copied().unwrap_or(0.0);
        let edge = |depth: usize| columns[0] - 40.0 + 8.0 * depth as f64;
        let mut shapes = Vec::new();
        for step in &self.steps {
            match step {
                Step::Message { from, to, text, stroke, tip, number } => {
                    y = message(&mut canvas, (columns[*from], columns[*to]), y, (text, *number), (*stroke, *tip));
                }
                Step::Note { first, last, side, text } => {
                    y = note(&mut canvas, (columns[*first], columns[*last]), y, *side, text);
                }
                Step::Open { kind, text } => {
                    frames.push((y, shapes.len()));
                    shapes.push(Rect { x: 0.0, y, width: 0.0, height: 0.0 });
                    let x = edge(frames.len() - 1).max(0.0);
                    canvas.text_from((x + 8.0, y + 12.0), &[format!("{kind}  {}", text.join(" "))], true);
                    y += LINE_HEIGHT + 12.0;
                }
                Step::Else { word, text } => {
                    let x = edge(frames.len().saturating_sub(1)).max(0.0);
                    canvas.path(vec![(x, y), (right + 40.0, y)], Stroke::Dotted, Tip::None, Route::Straight);
                    canvas.text_from((x + 8.0, y + 12.0), &[format!("{word}  {}", text.join(" "))], true);
                    y += LINE_HEIGHT + 12.0;
                }
                Step::Close { .. } => {
                    if let Some((from, index)) = frames.pop() {
                        let inset = 8.0 * frames.len() as f64;
                        let x = edge(frames.len()).max(0.0);
                        let far = right + 56.0 - inset;
                        shapes[index] = Rect { x, y: from, width: far - x, height: y - from };
                        y += GAP;
                    }
                }
            }
        }
        shapes.into_iter().for_each(|rect| lines.shape(Shape::Frame, rect));
        for (participant, x) in self.participants.iter().zip(&columns) {
            let width = text_width(&participant.label) + 28.0;
            lines.path(vec![(*x, top), (*x, y + GAP)], Stroke::Dotted, Tip::None, Route::Straight);
            lines.shape(Shape::Round, Rect { x: x - width / 2.0, y: 0.0, width, height: top });
            lines.text((*x, top / 2.0), &participant.label, true);
        }
        lines.append(canvas);
        lines
    }
}

/// An arrow with its text above it; where the next step begins.
fn message(
    canvas: &mut Canvas,
    (from, to): (f64, f64),
    y: f64,
    (text, number): (&[String], Option<usize>),
    (stroke, tip): (Stroke, Tip),
) -> f64 {
    let mut text = text.to_vec();
    if let (Some(number), Some(first)) = (number, text.first_mut()) {
        *first = format!("{number}. {first}");
    }
    let height = text.len() as f64 * LINE_HEIGHT;
    if from == to {
        let line = y + height / 2.0;
        let points = vec![
            (from, line - 8.0),
            (from + SELF_WIDTH, line - 8.0),
            (from + SELF_WIDTH, line + 10.0),
            (from + 1.0, line + 10.0),
        ];
        canvas.path(points, stroke, tip, Route::Straight);
        canvas.text_from((from + SELF_WIDTH + 8.0, line), &text, false);
        return y + height + 24.0;
    }
    let line = y + height + 4.0;
    canvas.label(((from + to) / 2.0, y + height / 2.0), &text);
    canvas.path(vec![(from, line), (to, line)], stroke, tip, Route::Straight);
    line + GAP
}

fn note(canvas: &mut Canvas, (first, last): (f64, f64), y: f64, side: Side, text: &[String]) -> f64 {
    let (own, height) = (text_width(text) + 20.0, text.len() as f64 * LINE_HEIGHT + 10.0);
    let (x, width) = match side {
        Side::Over => {
            let width = own.max(last - first + 60.0);
            ((first + last) / 2.0 - width / 2.0, width)
        }
        Side::Left => (first - own - 10.0, own),
        Side::Right => (first + 10.0, own),
    };
    canvas.shape(Shape::Box, Rect { x, y, width, height });
    canvas.text((x + width / 2.0, y + height / 2.0), text, false);
    y + height + GAP
}
