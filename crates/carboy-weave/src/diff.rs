//! Differences of texts by lines. *Must never* take longer than its lines allow: lines that only one side has are taken
//! out before anything is compared.

use std::collections::{BTreeMap, BTreeSet};

use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::limits::DIFF_LINES_MAX;

/// Lines around a change that are shown.
const CONTEXT_LINES: usize = 3;

/// What differs: lines `old` of one side stand where lines `new` of the other do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// Lines of the first side, from 0.
    pub old: std::ops::Range<usize>,
    /// Lines of the second side, from 0.
    pub new: std::ops::Range<usize>,
}

/// Lines of both sides that are one line, ascending in both.
pub fn matches(old: &[&str], new: &[&str]) -> Vec<(usize, usize)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (middle_old, middle_new) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut ids = BTreeMap::new();
    let mut id = |line| {
        let next = ids.len();
        *ids.entry(line).or_insert(next)
    };
    let old_ids: Vec<usize> = middle_old.iter().map(|line| id(*line)).collect();
    let new_ids: Vec<usize> = middle_new.iter().map(|line| id(*line)).collect();
    let (in_old, in_new): (BTreeSet<usize>, BTreeSet<usize>) =
        (old_ids.iter().copied().collect(), new_ids.iter().copied().collect());
    let shared = |ids: &[usize], other: &BTreeSet<usize>| -> Vec<(usize, usize)> {
        ids.iter().enumerate().filter(|(_, id)| other.contains(id)).map(|(at, id)| (at, *id)).collect()
    };
    let (left, right) = (shared(&old_ids, &in_new), shared(&new_ids, &in_old));
    let only = |side: &[(usize, usize)]| -> Vec<usize> { side.iter().map(|(_, id)| *id).collect() };
    let mut found: Vec<(usize, usize)> = (0..head).map(|n| (n, n)).collect();
    for op in capture_diff_slices(Algorithm::Myers, &only(&left), &only(&right)) {
        if let DiffOp::Equal { old_index, new_index, len } = op {
            found.extend((0..len).map(|n| (head + left[old_index + n].0, head + right[new_index + n].0)));
        }
    }
    found.extend((0..tail).map(|n| (old.len() - tail + n, new.len() - tail + n)));
    found
}

/// Everything that differs, in order.
pub fn hunks(old: &[&str], new: &[&str]) -> Vec<Hunk> {
    let (mut hunks, mut at) = (Vec::new(), (0, 0));
    for (a, b) in matches(old, new).into_iter().chain([(old.len(), new.len())]) {
        if at.0 < a || at.1 < b {
            hunks.push(Hunk { old: at.0..a, new: at.1..b });
        }
        at = (a + 1, b + 1);
    }
    hunks
}

/// A text's lines, each with its end.
pub fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// A difference for a person: hunks with context. `place` says where a hunk is, given its first line of both sides
/// (from 1).
pub fn unified(old: &str, new: &str, place: &dyn Fn(usize, usize) -> String) -> Vec<String> {
    let (old, new) = (lines(old), lines(new));
    let mut groups: Vec<Vec<Hunk>> = Vec::new();
    for hunk in hunks(&old, &new) {
        match groups
            .last_mut()
            .filter(|group| group.last().is_some_and(|last| hunk.old.start - last.old.end <= 2 * CONTEXT_LINES))
        {
            Some(group) => group.push(hunk),
            None => groups.push(vec![hunk]),
        }
    }
    let mut out = Vec::new();
    for group in groups {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let before = first.old.start.min(CONTEXT_LINES).min(first.new.start);
        out.push(format!("@@ {} @@", place(first.old.start - before + 1, first.new.start - before + 1)));
        let mut at = first.old.start - before;
        for hunk in &group {
            out.extend(old[at..hunk.old.start].iter().flat_map(|line| shown(' ', line)));
            out.extend(old[hunk.old.clone()].iter().flat_map(|line| shown('-', line)));
            out.extend(new[hunk.new.clone()].iter().flat_map(|line| shown('+', line)));
            at = hunk.old.end;
        }
        let end = (last.old.end + CONTEXT_LINES).min(old.len());
        out.extend(old[at..end].iter().flat_map(|line| shown(' ', line)));
    }
    if out.len() > DIFF_LINES_MAX {
        let more = out.len() - DIFF_LINES_MAX;
        out.truncate(DIFF_LINES_MAX);
        out.push(format!("… {more} more lines"));
    }
    out
}

/// A line with its sign; what nobody sees at its end is spelled out.
fn shown(sign: char, line: &str) -> Vec<String> {
    let (body, ended) = line.strip_suffix('\n').map_or((line, false), |body| (body, true));
    let mut out = vec![format!("{sign}{body}")];
    if !ended {
        out.push("\\ no newline at the end of the file".to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_names_its_places_and_shows_what_nobody_sees() {
        let old = "a\nb\nc\nd\ne\nf\n";
        let new = "a\nb\nc\nD\ne\nf";
        let said = unified(old, new, &|a, b| format!("{a},{b}"));
        let expected = "@@ 1,1 @@\n a\n b\n c\n-d\n+D\n e\n-f\n+f\n\\ no newline at the end of the file";
        assert_eq!(said.join("\n"), expected);
    }

    #[test]
    fn two_texts_that_share_nothing_are_one_hunk_at_once() {
        let old: Vec<String> = (0..200_000).map(|n| format!("a{n}")).collect();
        let new: Vec<String> = (0..200_000).map(|n| format!("b{n}")).collect();
        let (old, new): (Vec<&str>, Vec<&str>) =
            (old.iter().map(String::as_str).collect(), new.iter().map(String::as_str).collect());
        assert_eq!(hunks(&old, &new), [Hunk { old: 0..200_000, new: 0..200_000 }]);
    }
}
