//! How a text would change, line by line, for a person.

use std::fmt::Write as _;

use super::drafts::Draft;
use crate::report::{Palette, printable};

/// Most lines of either text that are compared; of longer ones the new text is shown whole.
const LINES_MAX: usize = 2000;
/// Unchanged lines around a change.
const AROUND: usize = 2;

/// A line of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'t> {
    Same(&'t str),
    Gone(&'t str),
    New(&'t str),
}

/// What changes in each of these files.
pub fn of_drafts(drafts: &[&Draft]) -> String {
    let mut out = String::new();
    for draft in drafts {
        let _ = writeln!(out, "{}:", draft.path.display());
        match (draft.before.as_deref(), draft.text()) {
            (Some(before), Some(after)) => out.push_str(&shown(before, after, Palette::stderr())),
            // A secret, of which nothing is shown.
            (Some(_) | None, _) => out.push_str("  its content would be another\n"),
        }
    }
    out
}

/// The lines that go and come, with a few around them.
pub fn shown(before: &str, after: &str, palette: Palette) -> String {
    let lines = lines(before, after);
    let changed = |i: usize| !matches!(lines.get(i), Some(Line::Same(_)) | None);
    let near = |i: usize| (i.saturating_sub(AROUND)..=i + AROUND).any(changed);
    let mut out = String::new();
    let mut skipped = false;
    for (i, line) in lines.iter().enumerate() {
        if !near(i) {
            skipped = true;
            continue;
        }
        if skipped {
            out.push_str("  …\n");
            skipped = false;
        }
        // Writing to a String cannot fail.
        let _ = match line {
            Line::Same(text) => writeln!(out, "    {}", printable(text)),
            Line::Gone(text) => writeln!(out, "  {}", palette.bad(&format!("- {}", printable(text)))),
            Line::New(text) => writeln!(out, "  {}", palette.good(&format!("+ {}", printable(text)))),
        };
    }
    out
}

/// By the longest common subsequence of lines.
fn lines<'t>(before: &'t str, after: &'t str) -> Vec<Line<'t>> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    if old.len() > LINES_MAX || new.len() > LINES_MAX {
        return new.into_iter().map(Line::New).collect();
    }
    let width = new.len() + 1;
    let mut length = vec![0u16; (old.len() + 1) * width];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            length[i * width + j] = if old[i] == new[j] {
                length[(i + 1) * width + j + 1] + 1
            } else {
                length[(i + 1) * width + j].max(length[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut out) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            out.push(Line::Same(old[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < old.len() && (j == new.len() || length[(i + 1) * width + j] >= length[i * width + j + 1]) {
            out.push(Line::Gone(old[i]));
            i += 1;
        } else {
            out.push(Line::New(new[j]));
            j += 1;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_what_comes_is_told_and_the_rest_stays() {
        use Line::{Gone, New, Same};
        assert_eq!(lines("a\nb\nc\n", "a\nx\nc\nd\n"), [Same("a"), Gone("b"), New("x"), Same("c"), New("d")]);
        assert_eq!(lines("", "a\n"), [New("a")]);
        assert_eq!(lines("a\n", ""), [Gone("a")]);
    }
}
