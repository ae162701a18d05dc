//! Where the boxes of a flowchart go: in layers, each group laid out by itself and then set into the layers around it.
//!
//! ```text
//!  items of a group ─▶ ranks (no cycle) ─▶ stand-ins for long arrows and labels ─▶ order ─▶ places
//! ```
//!
//! Everything is laid out downwards and turned at the end. *Must never* depend on anything but the chart: the same
//! source is the same picture.

mod layers;

use super::canvas::{Canvas, LINE_HEIGHT, Rect, Route, Shape, text_width};
use super::flowchart::{Chart, Direction, Node};
use layers::{Lane, Level};

/// Space inside of a group.
const INSET: f64 = 14.0;
/// Space for a group's title.
const TITLE: f64 = 24.0;

/// A group laid out: places from its own corner.
#[derive(Default)]
struct Placed {
    width: f64,
    height: f64,
    nodes: Vec<(usize, Rect)>,
    groups: Vec<(usize, Rect)>,
    lanes: Vec<Lane>,
}

impl Placed {
    /// Takes a laid out group in at a place.
    fn take(&mut self, inner: Placed, (x, y): (f64, f64)) {
        let moved = |rect: Rect| Rect { x: rect.x + x, y: rect.y + y, ..rect };
        self.nodes.extend(inner.nodes.into_iter().map(|(node, rect)| (node, moved(rect))));
        self.groups.extend(inner.groups.into_iter().map(|(group, rect)| (group, moved(rect))));
        self.lanes.extend(inner.lanes.into_iter().map(|lane| lane.moved(x, y)));
    }
}

/// Whether the chart goes sideways.
fn sideways(chart: &Chart) -> bool {
    matches!(chart.direction, Direction::Right | Direction::Left)
}

/// A size as the layout sees it.
fn turned(chart: &Chart, (width, height): (f64, f64)) -> (f64, f64) {
    if sideways(chart) { (height, width) } else { (width, height) }
}

fn node_size(node: &Node) -> (f64, f64) {
    let (width, height) = (text_width(&node.label) + 28.0, node.label.len().max(1) as f64 * LINE_HEIGHT + 18.0);
    match node.shape {
        Shape::Diamond => (width * 1.35 + 10.0, height * 1.6),
        Shape::Store => (width, height + 12.0),
        Shape::Pill => (width + 14.0, height),
        Shape::Box | Shape::Round | Shape::Group | Shape::Frame => (width, height),
    }
}

/// What stands directly in a group (or outside of all).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Member {
    Node(usize),
    Group(usize),
}

fn place(chart: &Chart, group: Option<usize>) -> Placed {
    let nodes = (0..chart.nodes.len()).filter(|n| chart.nodes[*n].group == group).map(Member::Node);
    let groups = (0..chart.groups.len()).filter(|g| chart.groups[*g].parent == group).map(Member::Group);
    let members: Vec<Member> = nodes.chain(groups).collect();
    let mut inner: Vec<Option<Placed>> = Vec::new();
    let mut sizes = Vec::new();
    for member in &members {
        match member {
            Member::Node(node) => {
                sizes.push(turned(chart, node_size(&chart.nodes[*node])));
                inner.push(None);
            }
            Member::Group(group) => {
                let placed = framed(chart, *group);
                sizes.push((placed.width, placed.height));
                inner.push(Some(placed));
            }
        }
    }
    let mut level = Level::new(sizes);
    for (index, edge) in chart.edges.iter().enumerate() {
        let ends = (member_of(chart, &members, group, edge.from), member_of(chart, &members, group, edge.to));
        if let (Some(from), Some(to)) = ends
            && from != to
        {
            let size = (text_width(&edge.label) + 10.0, edge.label.len() as f64 * LINE_HEIGHT);
            let label = (!edge.label.is_empty()).then(|| turned(chart, size));
            level.edge(index, from, to, label);
        }
    }
    let laid = level.lay_out();
    let mut placed = Placed { width: laid.width, height: laid.height, lanes: laid.lanes, ..Placed::default() };
    for ((member, rect), inner) in members.iter().zip(laid.rects).zip(inner) {
        match (member, inner) {
            (Member::Node(node), _) => placed.nodes.push((*node, rect)),
            (Member::Group(group), inner) => {
                placed.groups.push((*group, rect));
                placed.take(inner.unwrap_or_default(), (rect.x, rect.y));
            }
        }
    }
    placed
}

/// A group with the space around what is in it.
fn framed(chart: &Chart, group: usize) -> Placed {
    let inner = place(chart, Some(group));
    let title = text_width(&chart.groups[group].label) + 2.0 * INSET;
    let (before, above) = match chart.direction {
        Direction::Down => (INSET, INSET + TITLE),
        Direction::Up => (INSET, INSET),
        Direction::Right | Direction::Left => (INSET + TITLE, INSET),
    };
    let extra = match chart.direction {
        Direction::Down | Direction::Up => (2.0 * INSET, 2.0 * INSET + TITLE),
        Direction::Right | Direction::Left => (2.0 * INSET + TITLE, 2.0 * INSET),
    };
    let (mut width, mut height) = (inner.width + extra.0, inner.height + extra.1);
    if sideways(chart) {
        height = height.max(title)
    } else {
        width = width.max(title)
    }
    let more = (width - inner.width - extra.0) / 2.0;
    let mut placed = Placed { width, height, ..Placed::default() };
    placed.take(inner, (before + more, above));
    placed
}

/// Which member of a group a node is in.
fn member_of(chart: &Chart, members: &[Member], group: Option<usize>, node: usize) -> Option<usize> {
    let (mut member, mut parent) = (Member::Node(node), chart.nodes[node].group);
    while parent != group {
        let up = parent?;
        (member, parent) = (Member::Group(up), chart.groups[up].parent);
    }
    members.iter().position(|other| *other == member)
}

/// Draws a chart.
pub(super) fn draw(chart: &Chart) -> Canvas {
    let placed = place(chart, None);
    let turn = |(x, y): (f64, f64)| match chart.direction {
        Direction::Down => (x, y),
        Direction::Up => (x, placed.height - y),
        Direction::Right => (y, x),
        Direction::Left => (placed.height - y, x),
    };
    let turn_rect = |rect: &Rect| {
        let (ax, ay) = turn((rect.x, rect.y));
        let (bx, by) = turn((rect.x + rect.width, rect.y + rect.height));
        Rect { x: ax.min(bx), y: ay.min(by), width: (ax - bx).abs(), height: (ay - by).abs() }
    };
    let mut canvas = Canvas::default();
    for (group, rect) in &placed.groups {
        let rect = turn_rect(rect);
        canvas.shape(Shape::Group, rect);
        // In the corner, where the fewest arrows pass.
        canvas.text_from((rect.x + 8.0, rect.y + TITLE / 2.0 + 2.0), &chart.groups[*group].label, true);
    }
    let route = if sideways(chart) { Route::Horizontal } else { Route::Vertical };
    let paths = layers::paths(&placed.lanes, &placed.nodes, &|node| chart.nodes[node].shape, &|edge| {
        (chart.edges[edge].from, chart.edges[edge].to)
    });
    for (edge, points) in paths {
        let ends = [chart.edges[edge].from, chart.edges[edge].to];
        let points =
            layers::around(points, placed.nodes.iter().filter(|(node, _)| !ends.contains(node)).map(|(_, r)| r));
        let edge = &chart.edges[edge];
        canvas.path(points.into_iter().map(turn).collect(), edge.stroke, edge.tip, route);
    }
    for (node, rect) in &placed.nodes {
        let (node, rect) = (&chart.nodes[*node], turn_rect(rect));
        canvas.shape(node.shape, rect);
        let lower = if node.shape == Shape::Store { 5.0 } else { 0.0 };
        let (x, y) = rect.center();
        canvas.text((x, y + lower), &node.label, false);
    }
    for lane in &placed.lanes {
        if let Some(at) = lane.label {
            canvas.label(turn(at), &chart.edges[lane.edge].label);
        }
    }
    canvas
}
