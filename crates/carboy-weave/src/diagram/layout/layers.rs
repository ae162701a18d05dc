//! Layers: ranks along the arrows, an order in each, places. *Must never* loop longer than its passes.

use std::collections::BTreeMap;

use crate::diagram::canvas::{Rect, Shape};

/// Space between two layers.
const LAYER_GAP: f64 = 34.0;
/// Space between two items of a layer.
const ITEM_GAP: f64 = 26.0;
/// Width of an arrow that passes through a layer.
const PASSING: f64 = 10.0;
/// Passes that put things into order, and then in place.
const PASSES: usize = 12;

/// The way of an arrow through its level.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Which arrow.
    pub edge: usize,
    /// From its beginning to its end, without both ends.
    pub between: Vec<(f64, f64)>,
    /// Where its label is.
    pub label: Option<(f64, f64)>,
    /// Whether it goes up.
    pub upwards: bool,
}

impl Lane {
    pub fn moved(mut self, x: f64, y: f64) -> Lane {
        let to = |at: &mut (f64, f64)| *at = (at.0 + x, at.1 + y);
        self.between.iter_mut().for_each(to);
        self.label.iter_mut().for_each(to);
        self
    }
}

struct Link {
    edge: usize,
    from: usize,
    to: usize,
    upwards: bool,
    label: Option<(f64, f64)>,
    /// Stand-ins in the layers between, from the upper to the lower.
    between: Vec<usize>,
    label_item: Option<usize>,
}

/// Items and arrows of one level; items beyond the given ones stand in for arrows.
pub struct Level {
    sizes: Vec<(f64, f64)>,
    given: usize,
    links: Vec<Link>,
    ranks: Vec<usize>,
}

/// The level laid out.
pub struct LaidOut {
    pub width: f64,
    pub height: f64,
    pub rects: Vec<Rect>,
    pub lanes: Vec<Lane>,
}

impl Level {
    pub fn new(sizes: Vec<(f64, f64)>) -> Level {
        Level { given: sizes.len(), ranks: vec![0; sizes.len()], sizes, links: Vec::new() }
    }

    pub fn edge(&mut self, edge: usize, from: usize, to: usize, label: Option<(f64, f64)>) {
        self.links.push(Link { edge, from, to, upwards: false, label, between: Vec::new(), label_item: None });
    }

    pub fn lay_out(mut self) -> LaidOut {
        self.turn_cycles();
        self.rank();
        self.stand_ins();
        let layers = self.order();
        let xs = self.places(&layers);
        self.rects(&layers, &xs)
    }

    /// Arrows that lead back to where the way came from go upwards.
    fn turn_cycles(&mut self) {
        let mut marks = vec![0u8; self.given];
        for start in 0..self.given {
            let mut stack = vec![(start, 0usize)];
            if marks[start] != 0 {
                continue;
            }
            marks[start] = 1;
            while let Some((item, next)) = stack.pop() {
                let found =
                    self.links.iter().enumerate().skip(next).find(|(_, link)| !link.upwards && link.from == item);
                let Some((index, link)) = found else {
                    marks[item] = 2;
                    continue;
                };
                let to = link.to;
                stack.push((item, index + 1));
                match marks[to] {
                    0 => {
                        marks[to] = 1;
                        stack.push((to, 0));
                    }
                    1 => self.links[index].upwards = true,
                    _ => {}
                }
            }
        }
    }

    fn upper_lower(link: &Link) -> (usize, usize) {
        if link.upwards { (link.to, link.from) } else { (link.from, link.to) }
    }

    fn rank(&mut self) {
        // Longest ways: at most as many rounds as items, for there is no cycle left.
        for _ in 0..=self.given {
            let mut moved = false;
            for link in &self.links {
                let (upper, lower) = Level::upper_lower(link);
                let least = self.ranks[upper] + if link.label.is_some() { 2 } else { 1 };
                if self.ranks[lower] < least {
                    self.ranks[lower] = least;
                    moved = true;
                }
            }
            if !moved {
                break;
            }
        }
        // What only leads somewhere stands right above it, not at the top.
        for item in (0..self.given).rev() {
            let into = self.links.iter().any(|link| Level::upper_lower(link).1 == item);
            let below = self.links.iter().filter(|link| Level::upper_lower(link).0 == item);
            let nearest = below
                .map(|link| self.ranks[Level::upper_lower(link).1] - if link.label.is_some() { 2 } else { 1 })
                .min();
            if let (false, Some(rank)) = (into, nearest) {
                self.ranks[item] = rank;
            }
        }
    }

    fn stand_ins(&mut self) {
        for link in &mut self.links {
            let (upper, lower) = Level::upper_lower(link);
            let (from, to) = (self.ranks[upper], self.ranks[lower]);
            let middle = (from + to) / 2;
            for rank in from + 1..to {
                let label = link.label.filter(|_| rank == middle.max(from + 1));
                link.between.push(self.sizes.len());
                if label.is_some() {
                    link.label_item = Some(self.sizes.len());
                }
                self.sizes.push(label.unwrap_or((PASSING, 0.0)));
                self.ranks.push(rank);
            }
        }
    }

    /// Neighbours of each item: above, below.
    fn neighbours(&self) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
        let (mut above, mut below) = (vec![Vec::new(); self.sizes.len()], vec![Vec::new(); self.sizes.len()]);
        for link in &self.links {
            let (upper, lower) = Level::upper_lower(link);
            let chain: Vec<usize> = std::iter::once(upper).chain(link.between.iter().copied()).chain([lower]).collect();
            for pair in chain.windows(2) {
                below[pair[0]].push(pair[1]);
                above[pair[1]].push(pair[0]);
            }
        }
        (above, below)
    }

    fn order(&self) -> Vec<Vec<usize>> {
        let depth = self.ranks.iter().max().map_or(0, |deepest| deepest + 1);
        let mut layers = vec![Vec::new(); depth];
        (0..self.sizes.len()).for_each(|item| layers[self.ranks[item]].push(item));
        let (above, below) = self.neighbours();
        for pass in 0..PASSES {
            let mut at = vec![0.0f64; self.sizes.len()];
            let note = |layer: &Vec<usize>, at: &mut Vec<f64>| {
                layer.iter().enumerate().for_each(|(n, item)| at[*item] = n as f64 - layer.len() as f64 / 2.0);
            };
            layers.iter().for_each(|layer| note(layer, &mut at));
            let down = pass % 2 == 0;
            let ranks: Vec<usize> = if down { (0..depth).collect() } else { (0..depth).rev().collect() };
            for rank in ranks {
                let towards = if down { &above } else { &below };
                layers[rank].sort_by(|a, b| mean(towards, *a, &at).total_cmp(&mean(towards, *b, &at)));
                note(&layers[rank], &mut at);
            }
        }
        layers
    }

    /// The middle of each item across the layers.
    fn places(&self, layers: &[Vec<usize>]) -> Vec<f64> {
        let apart = |a: usize, b: usize| (self.sizes[a].0 + self.sizes[b].0) / 2.0 + ITEM_GAP;
        let mut xs = vec![0.0f64; self.sizes.len()];
        for layer in layers {
            for pair in layer.windows(2) {
                xs[pair[1]] = xs[pair[0]] + apart(pair[0], pair[1]);
            }
            let middle = layer.last().map_or(0.0, |last| xs[*last] / 2.0);
            layer.iter().for_each(|item| xs[*item] -= middle);
        }
        let (above, below) = self.neighbours();
        for pass in 0..PASSES {
            let both: Vec<Vec<usize>> = above.iter().zip(&below).map(|(a, b)| [a.as_slice(), b].concat()).collect();
            let towards = match (pass + 1 == PASSES, pass % 2) {
                (true, _) => &both,
                (false, 0) => &above,
                (false, _) => &below,
            };
            for layer in layers {
                let wanted: Vec<f64> = layer.iter().map(|item| mean(towards, *item, &xs)).collect();
                let (mut right, mut left) = (wanted.clone(), wanted);
                for n in 1..layer.len() {
                    right[n] = right[n].max(right[n - 1] + apart(layer[n - 1], layer[n]));
                }
                for n in (1..layer.len()).rev() {
                    left[n - 1] = left[n - 1].min(left[n] - apart(layer[n - 1], layer[n]));
                }
                layer.iter().enumerate().for_each(|(n, item)| xs[*item] = (right[n] + left[n]) / 2.0);
            }
        }
        let edge = (0..self.sizes.len()).map(|item| xs[item] - self.sizes[item].0 / 2.0).fold(f64::MAX, f64::min);
        xs.iter().map(|x| x - edge).collect()
    }

    fn rects(self, layers: &[Vec<usize>], xs: &[f64]) -> LaidOut {
        let (mut ys, mut y) = (vec![0.0; self.sizes.len()], 0.0);
        let mut half = vec![0.0; self.sizes.len()];
        for layer in layers {
            let height = layer.iter().map(|item| self.sizes[*item].1).fold(0.0, f64::max);
            layer.iter().for_each(|item| (ys[*item], half[*item]) = (y + height / 2.0, height / 2.0));
            y += height + LAYER_GAP;
        }
        let rect = |item: usize| {
            let (width, height) = self.sizes[item];
            Rect { x: xs[item] - width / 2.0, y: ys[item] - height / 2.0, width, height }
        };
        let lane = |link: &Link| {
            let label = link.label_item.map(|item| (xs[item], ys[item]));
            // Straight through a layer: a bend beside a box would cut its corner.
            let through = |item: &usize| [-half[*item], half[*item]].map(|along| (xs[*item], ys[*item] + along));
            let mut between: Vec<(f64, f64)> = link.between.iter().flat_map(through).collect();
            between.dedup();
            if link.upwards {
                between.reverse();
            }
            Lane { edge: link.edge, between, label, upwards: link.upwards }
        };
        let all = (0..self.sizes.len()).map(rect);
        let width = all.map(|rect| rect.x + rect.width).fold(0.0, f64::max);
        let (rects, lanes) = ((0..self.given).map(rect).collect(), self.links.iter().map(lane).collect());
        LaidOut { width, height: (y - LAYER_GAP).max(0.0), rects, lanes }
    }
}

/// The middle of an item's neighbours; its own place where it has none.
fn mean(towards: &[Vec<usize>], item: usize, at: &[f64]) -> f64 {
    let all = &towards[item];
    if all.is_empty() { at[item] } else { all.iter().map(|other| at[*other]).sum::<f64>() / all.len() as f64 }
}

/// Most boxes that one arrow is led around.
const DETOURS_MAX: usize = 8;
/// Space between an arrow and the box that it goes around.
const DETOUR_GAP: f64 = 12.0;

/// The points of an arrow, led around boxes that it would cross: an arrow into a group knows nothing of what is in it.
pub fn around<'r>(mut points: Vec<(f64, f64)>, boxes: impl Iterator<Item = &'r Rect>) -> Vec<(f64, f64)> {
    let mut boxes: Vec<&Rect> = boxes.collect();
    for _ in 0..DETOURS_MAX {
        let crossed = (1..points.len()).find_map(|n| {
            let (from, to) = (points[n - 1], points[n]);
            let hit = boxes.iter().position(|rect| crosses(from, to, rect))?;
            Some((n, hit))
        });
        let Some((n, hit)) = crossed else { break };
        let rect = boxes.remove(hit);
        let (from, to) = (points[n - 1], points[n]);
        let (left, right) = (rect.x - DETOUR_GAP, rect.x + rect.width + DETOUR_GAP);
        let way = |x: f64| (from.0 - x).abs() + (to.0 - x).abs();
        let x = if way(left) < way(right) { left } else { right };
        let (top, bottom) = (rect.y - 2.0, rect.y + rect.height + 2.0);
        let beside = if from.1 <= to.1 { [(x, top), (x, bottom)] } else { [(x, bottom), (x, top)] };
        points.splice(n..n, beside);
    }
    points
}

/// Whether the curve between two points enters a box.
fn crosses(from: (f64, f64), to: (f64, f64), rect: &Rect) -> bool {
    const STEPS: usize = 24;
    (1..STEPS).any(|step| {
        let t = step as f64 / STEPS as f64;
        // The curve of `canvas`: it leaves and arrives along the way.
        let (across, along) =
            (t * t * (3.0 - 2.0 * t), 1.5 * t * (1.0 - t) * (1.0 - t) + 1.5 * t * t * (1.0 - t) + t * t * t);
        let (x, y) = (from.0 + (to.0 - from.0) * across, from.1 + (to.1 - from.1) * along);
        x > rect.x - 3.0 && x < rect.x + rect.width + 3.0 && y > rect.y && y < rect.y + rect.height
    })
}

/// An arrow's end at the upper or lower side of a box: where it leads across, its lane, whether it begins here.
type End = (f64, usize, bool);

/// The points of each arrow. Arrows at one side of a box are spread along it, in the order of where they lead.
pub fn paths(
    lanes: &[Lane],
    nodes: &[(usize, Rect)],
    shape: &dyn Fn(usize) -> Shape,
    ends: &dyn Fn(usize) -> (usize, usize),
) -> Vec<(usize, Vec<(f64, f64)>)> {
    let rects: BTreeMap<usize, Rect> = nodes.iter().copied().collect();
    let mut sides: BTreeMap<(usize, bool), Vec<End>> = BTreeMap::new();
    for (index, lane) in lanes.iter().enumerate() {
        let (from, to) = ends(lane.edge);
        let (first, last) = (lane.between.first(), lane.between.last());
        let x_of = |point: Option<&(f64, f64)>, other: usize| point.map_or(rects[&other].center().0, |point| point.0);
        sides.entry((from, !lane.upwards)).or_default().push((x_of(first, to), index, true));
        sides.entry((to, lane.upwards)).or_default().push((x_of(last, from), index, false));
    }
    let mut starts = vec![(0.0, 0.0); lanes.len()];
    let mut stops = starts.clone();
    for ((node, below), mut all) in sides {
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (rect, count) = (rects[&node], all.len() as f64);
        for (n, (_, lane, first)) in all.into_iter().enumerate() {
            let across = (n as f64 + 1.0) / (count + 1.0) - 0.5;
            let x = rect.center().0 + across * rect.width * 0.8;
            // The side of a diamond runs away from its corner.
            let slope = if shape(node) == Shape::Diamond { across.abs() * 0.8 * rect.height } else { 0.0 };
            let y = if below { rect.y + rect.height - slope } else { rect.y + slope };
            if first { starts[lane] = (x, y) } else { stops[lane] = (x, y) }
        }
    }
    let points = |(n, lane): (usize, &Lane)| {
        let all = std::iter::once(starts[n]).chain(lane.between.iter().copied()).chain([stops[n]]);
        (lane.edge, all.collect())
    };
    lanes.iter().enumerate().map(points).collect()
}
