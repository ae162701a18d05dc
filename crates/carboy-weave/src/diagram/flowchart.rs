//! Flowcharts and module graphs as mermaid writes them. *Must never* pass over a line.

use std::collections::BTreeMap;

use super::canvas::{Shape, Stroke, Tip};
use super::{Line, label, told};
use crate::fault::{Fault, Problem};
use crate::limits::{DIAGRAM_EDGES_MAX, DIAGRAM_NODES_MAX};

/// Where the arrows lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Down,
    Up,
    Right,
    Left,
}

#[derive(Debug)]
pub(super) struct Node {
    pub label: Vec<String>,
    pub shape: Shape,
    pub group: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub id: String,
    pub label: Vec<String>,
    pub parent: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Edge {
    pub from: usize,
    pub to: usize,
    pub label: Vec<String>,
    pub stroke: Stroke,
    pub tip: Tip,
}

#[derive(Debug)]
pub(super) struct Chart {
    pub direction: Direction,
    pub nodes: Vec<Node>,
    pub groups: Vec<Group>,
    pub edges: Vec<Edge>,
}

impl Chart {
    pub fn title(&self) -> String {
        let plural = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let (boxes, arrows) = (plural(self.nodes.len(), "box", "boxes"), plural(self.edges.len(), "arrow", "arrows"));
        format!("Flowchart with {boxes} and {arrows}")
    }

    pub fn words(&self) -> Vec<String> {
        let name = |node: usize| self.nodes[node].label.join(" ");
        let members = |group: usize| -> Vec<String> {
            let nodes = (0..self.nodes.len()).filter(|n| self.nodes[*n].group == Some(group)).map(name);
            let groups = self.groups.iter().filter(|g| g.parent == Some(group)).map(|g| g.label.join(" "));
            nodes.chain(groups).collect()
        };
        let groups = (0..self.groups.len())
            .map(|group| format!("Group {}: {}", self.groups[group].label.join(" "), members(group).join(", ")));
        let edges = self.edges.iter().map(|edge| {
            let label = if edge.label.is_empty() { String::new() } else { format!(" ({})", edge.label.join(" ")) };
            let sign = if edge.tip == Tip::None { "—" } else { "→" };
            format!("{} {sign} {}{label}", name(edge.from), name(edge.to))
        });
        let touched = |node: &usize| self.edges.iter().any(|edge| edge.from == *node || edge.to == *node);
        let alone = (0..self.nodes.len()).filter(|n| !touched(n) && self.nodes[*n].group.is_none()).map(name);
        groups.chain(edges).chain(alone).collect()
    }
}

/// Signs around a label, and the shape they mean; longer ones first.
const SHAPES: &[(&str, &str, Shape)] = &[
    ("([", "])", Shape::Pill),
    ("[(", ")]", Shape::Store),
    ("((", "))", Shape::Pill),
    ("[", "]", Shape::Box),
    ("(", ")", Shape::Round),
    ("{", "}", Shape::Diamond),
];

/// Arrows: how they are written alone, and how they begin and end around a label.
const ARROWS: &[(&str, Stroke, Tip)] = &[
    ("-.->", Stroke::Dotted, Tip::Arrow),
    ("-.-", Stroke::Dotted, Tip::None),
    ("==>", Stroke::Thick, Tip::Arrow),
    ("===", Stroke::Thick, Tip::None),
    ("-->", Stroke::Plain, Tip::Arrow),
    ("---", Stroke::Plain, Tip::None),
];
const LABELLED: &[(&str, &str, Stroke, Tip)] = &[
    ("-. ", ".->", Stroke::Dotted, Tip::Arrow),
    ("== ", "==>", Stroke::Thick, Tip::Arrow),
    ("-- ", "-->", Stroke::Plain, Tip::Arrow),
    ("-- ", "---", Stroke::Plain, Tip::None),
];

struct Reader {
    chart: Chart,
    names: BTreeMap<String, usize>,
    open: Vec<(usize, usize)>,
}

pub(super) fn parse(lines: &[Line<'_>]) -> Result<Chart, Problem> {
    let head = lines[0];
    let direction = match head.text.split_whitespace().nth(1) {
        None | Some("TB" | "TD") => Direction::Down,
        Some("BT") => Direction::Up,
        Some("LR") => Direction::Right,
        Some("RL") => Direction::Left,
        Some(other) => return Err(told(format!("`{other}` is no direction: TB, TD, BT, LR or RL")).at(head.number)),
    };
    let chart = Chart { direction, nodes: Vec::new(), groups: Vec::new(), edges: Vec::new() };
    let mut reader = Reader { chart, names: BTreeMap::new(), open: Vec::new() };
    for line in &lines[1..] {
        reader.line(line).map_err(|fault| fault.at(line.number))?;
    }
    match reader.open.last() {
        Some((_, line)) => Err(told("this subgraph never ends; write `end`").at(*line)),
        None => Ok(reader.chart),
    }
}

impl Reader {
    fn line(&mut self, line: &Line<'_>) -> Result<(), Fault> {
        let first = line.text.split_whitespace().next().unwrap_or("");
        match first {
            "subgraph" => return self.group(line.text["subgraph".len()..].trim(), line.number),
            "end" if line.text == "end" => {
                return self.open.pop().map(drop).ok_or_else(|| told("this `end` ends nothing"));
            }
            "classDef" | "class" | "style" | "linkStyle" | "click" | "direction" => {
                return Err(told(format!("`{first}` is not drawn; take the line out")));
            }
            _ => {}
        }
        let mut rest = line.text;
        let mut from = self.boxes(&mut rest)?;
        while !rest.is_empty() {
            let (stroke, tip, text) = arrow(&mut rest)?;
            let to = self.boxes(&mut rest)?;
            for a in &from {
                for b in &to {
                    self.edge(*a, *b, &text, stroke, tip)?;
                }
            }
            from = to;
        }
        Ok(())
    }

    fn edge(&mut self, from: usize, to: usize, text: &[String], stroke: Stroke, tip: Tip) -> Result<(), Fault> {
        if from == to {
            return Err(told("an arrow from a box to itself is not drawn; take it out"));
        }
        if self.chart.edges.len() == DIAGRAM_EDGES_MAX {
            return Err(told(format!("more than {DIAGRAM_EDGES_MAX} arrows; split it")));
        }
        self.chart.edges.push(Edge { from, to, label: text.to_vec(), stroke, tip });
        Ok(())
    }

    fn group(&mut self, text: &str, line: usize) -> Result<(), Fault> {
        let (id, title) = match text.split_once('[') {
            Some((id, rest)) => {
                (id.trim(), rest.trim_end().strip_suffix(']').ok_or_else(|| told("the [ is not closed"))?)
            }
            None => (text, text),
        };
        if self.chart.groups.iter().any(|group| group.id == id) || self.chart.groups.len() == DIAGRAM_NODES_MAX {
            return Err(told(format!(
                "the subgraph `{id}` is there already, or there are more than {DIAGRAM_NODES_MAX}"
            )));
        }
        let parent = self.open.last().map(|(group, _)| *group);
        self.chart.groups.push(Group { id: id.to_owned(), label: label(title)?, parent });
        self.open.push((self.chart.groups.len() - 1, line));
        Ok(())
    }

    /// `A[label] & B`.
    fn boxes(&mut self, rest: &mut &str) -> Result<Vec<usize>, Fault> {
        let mut all = vec![self.one_box(rest)?];
        while let Some(more) = rest.strip_prefix('&') {
            *rest = more.trim_start();
            all.push(self.one_box(rest)?);
        }
        Ok(all)
    }

    fn one_box(&mut self, rest: &mut &str) -> Result<usize, Fault> {
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | ':');
        let mut length = rest.find(|c| !fits(c)).unwrap_or(rest.len());
        // A hyphen inside of a name, as crates have them.
        while rest[length..].starts_with('-') && rest[length + 1..].starts_with(|c: char| c.is_alphanumeric()) {
            length += 1 + rest[length + 1..].find(|c| !fits(c)).unwrap_or(rest.len() - length - 1);
        }
        let id = &rest[..length];
        if id.is_empty() {
            return Err(told(format!("a box is missing before `{rest}`")));
        }
        let mut after = &rest[length..];
        let shape = SHAPES.iter().find(|(open, _, _)| after.starts_with(open));
        let drawn = match shape {
            None => None,
            Some((open, close, shape)) => {
                let inner = &after[open.len()..];
                let quoted = inner.strip_prefix('"').and_then(|text| text.find('"').map(|at| at + 2));
                let from = quoted.unwrap_or(0);
                let end = inner[from..].find(close).map(|at| from + at);
                let end = end.ok_or_else(|| told(format!("the label of `{id}` is not closed by `{close}`")))?;
                after = &inner[end + close.len()..];
                Some((label(&inner[..end])?, *shape))
            }
        };
        *rest = after.trim_start();
        if let Some(node) = self.names.get(id) {
            if let Some((label, shape)) = drawn {
                (self.chart.nodes[*node].label, self.chart.nodes[*node].shape) = (label, shape);
            }
            return Ok(*node);
        }
        if self.chart.nodes.len() == DIAGRAM_NODES_MAX {
            return Err(told(format!("more than {DIAGRAM_NODES_MAX} boxes; split it")));
        }
        let (label, shape) = drawn.unwrap_or_else(|| (vec![id.to_owned()], Shape::Box));
        self.chart.nodes.push(Node { label, shape, group: self.open.last().map(|(group, _)| *group) });
        self.names.insert(id.to_owned(), self.chart.nodes.len() - 1);
        Ok(self.chart.nodes.len() - 1)
    }
}

fn arrow(rest: &mut &str) -> Result<(Stroke, Tip, Vec<String>), Fault> {
    if let Some((sign, stroke, tip)) = ARROWS.iter().find(|(sign, _, _)| rest.starts_with(sign)) {
        let mut after = rest[sign.len()..].trim_start();
        let mut text = Vec::new();
        if let Some(inner) = after.strip_prefix('|') {
            let (said, more) = inner.split_once('|').ok_or_else(|| told("the label of an arrow is not closed by |"))?;
            (text, after) = (label(said)?, more.trim_start());
        }
        *rest = after;
        return Ok((*stroke, *tip, text));
    }
    for (open, close, stroke, tip) in LABELLED {
        let found = rest.strip_prefix(open).and_then(|inner| inner.split_once(close));
        if let Some((said, after)) = found {
            *rest = after.trim_start();
            return Ok((*stroke, *tip, label(said)?));
        }
    }
    Err(told(format!("`{rest}` is no arrow: -->, ---, -.->, ==>, with |label|")))
}
