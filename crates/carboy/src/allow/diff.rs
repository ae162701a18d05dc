//! A change of one file as a unified diff. Lines are only ever added in one place, so one hunk is enough.

use std::fmt::Write as _;

/// Lines that are shown before and after the change.
const CONTEXT_LINES: usize = 3;

/// The diff, as `diff -u` and `git apply` know it; control characters are shown, not sent.
pub fn unified(path: &str, before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let front = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let back = old[front..].iter().rev().zip(new[front..].iter().rev()).take_while(|(a, b)| a == b).count();
    let start = front.saturating_sub(CONTEXT_LINES);
    let (old_end, new_end) = (old.len() - back, new.len() - back);
    let tail = &old[old_end..(old_end + CONTEXT_LINES).min(old.len())];
    let (old_count, new_count) = (old_end + tail.len() - start, new_end + tail.len() - start);
    let path = crate::report::printable(path);
    let mut out = format!("--- {path}\n+++ {path}\n@@ -{},{old_count} +{},{new_count} @@\n", start + 1, start + 1);
    let mut lines = |mark: char, lines: &[&str]| {
        for line in lines {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{mark}{}", crate::report::printable(line));
        }
    };
    lines(' ', &old[start..front]);
    lines('-', &old[front..old_end]);
    lines('+', &new[front..new_end]);
    lines(' ', tail);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_lines_stand_in_their_place() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n";
        let after = "1\n2\n3\n4\n5\nx\ny\u{1b}\n6\n7\n8\n";
        let want = "--- f\n+++ f\n@@ -3,6 +3,8 @@\n 3\n 4\n 5\n+x\n+y\\u{1b}\n 6\n 7\n 8\n";
        assert_eq!(unified("f", before, after), want);
        assert_eq!(unified("f", "", "a\n"), "--- f\n+++ f\n@@ -1,0 +1,1 @@\n+a\n");
    }
}
