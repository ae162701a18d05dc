//! Three-way merges of texts by lines, as diff3 makes them. *Must never* choose between two changes of one place.

use crate::diff::{lines, matches};

/// Two changes of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Line of `ours` at which it begins, from 1.
    pub ours_line: usize,
    /// Line of `theirs` at which it begins, from 1.
    pub theirs_line: usize,
    /// What it was.
    pub base: String,
    /// What one side made of it.
    pub ours: String,
    /// What the other side made of it.
    pub theirs: String,
}

/// What both sides made of `base`, together.
pub fn merge(base: &str, ours: &str, theirs: &str) -> Result<String, Vec<Conflict>> {
    let (base, ours, theirs) = (lines(base), lines(ours), lines(theirs));
    let to = |side: &[&str]| -> Vec<Option<usize>> {
        let mut at = vec![None; base.len()];
        matches(&base, side).into_iter().for_each(|(b, s)| at[b] = Some(s));
        at
    };
    let (in_ours, in_theirs) = (to(&ours), to(&theirs));
    let stable = (0..base.len()).filter_map(|n| Some((n, in_ours[n]?, in_theirs[n]?)));
    let (mut out, mut conflicts, mut at) = (String::new(), Vec::new(), (0, 0, 0));
    for (b, o, t) in stable.chain([(base.len(), ours.len(), theirs.len())]) {
        let (was, one, other) = (base[at.0..b].concat(), ours[at.1..o].concat(), theirs[at.2..t].concat());
        if one == other || other == was {
            out.push_str(&one);
        } else if one == was {
            out.push_str(&other);
        } else {
            let (ours_line, theirs_line) = (at.1 + 1, at.2 + 1);
            conflicts.push(Conflict { ours_line, theirs_line, base: was, ours: one, theirs: other });
        }
        out.push_str(base.get(b).copied().unwrap_or(""));
        at = (b + 1, o + 1, t + 1);
    }
    if conflicts.is_empty() { Ok(out) } else { Err(conflicts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_different_places_meet_and_of_one_place_do_not() {
        let base = "a\nb\nc\nd\ne\n";
        assert_eq!(merge(base, "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\nf\n").unwrap(), "A\nb\nc\nd\nE\nf\n");
        assert_eq!(merge(base, "a\nx\nc\nd\ne\n", "a\nx\nc\nd\ne\n").unwrap(), "a\nx\nc\nd\ne\n");
        assert_eq!(merge(base, "", base).unwrap(), "");
        let conflicts = merge(base, "a\nX\nc\nd\ne\n", "a\nY\nc\nd\ne\n").unwrap_err();
        let (base, ours, theirs) = ("b\n".to_owned(), "X\n".to_owned(), "Y\n".to_owned());
        assert_eq!(conflicts, [Conflict { ours_line: 2, theirs_line: 2, base, ours, theirs }]);
    }
}
