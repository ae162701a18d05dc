//! Finds the rows that tests cite. Reads Rust as lines, which rustfmt makes regular enough.

use std::collections::BTreeSet;

/// Rows T1 to T4 are cited here only: elsewhere T1 and T2 are the tiers of the sandbox.
const T_ROWS_IN: &[&str] = &["crates/carboy-guard/", "crates/carboy-egress/"];

/// Every citation of a file: row and test.
pub fn citations(file: &str, source: &str, ids: &BTreeSet<&str>) -> Vec<(String, String)> {
    let in_tests = crate::tree::is_test(file) && !file.ends_with("/tests.rs");
    let scan = Scan { file, ids, in_tests };
    let mut place = Place::default();
    for line in source.lines() {
        let indent = line.len() - line.trim_start().len();
        let code = line.trim();
        if code.starts_with("#[") && (code.contains("test]") || code.contains("test(")) && !code.contains("cfg(") {
            place.marked = true;
        }
        let inside = place.current.as_ref().is_some_and(|test| indent > test.indent);
        if let Some(name) = function(code) {
            if !inside {
                place.leave();
            }
            place.enter(&scan, name, indent, inside);
        } else if let Some(comment) = comment(line) {
            let cited = scan.rows(comment.trim_start_matches(['/', '!']).trim_start());
            if inside { place.cite(cited) } else { place.above.extend(cited) }
        } else if !code.is_empty() && !code.starts_with("#[") && !inside {
            place.above.clear();
        }
        if in_tests {
            texts(line).for_each(|text| place.text(&scan, text));
        }
    }
    place.leave();
    place.found
}

/// Where the reading stands.
#[derive(Default)]
struct Place {
    found: Vec<(String, String)>,
    /// Rows of comments above the next function.
    above: Vec<String>,
    /// The next function is a test.
    marked: bool,
    current: Option<Test>,
    /// Rows of comments in a harness, for the next text that reads like a test's name.
    waiting: Vec<String>,
}

/// The function that lines belong to.
struct Test {
    name: String,
    indent: usize,
    /// It makes tests and is none itself: each is named by a text.
    harness: bool,
}

impl Place {
    fn enter(&mut self, scan: &Scan, name: &str, indent: usize, inside: bool) {
        let above = std::mem::take(&mut self.above);
        if !inside && (self.marked || scan.in_tests) {
            let harness = !self.marked;
            self.found.extend(above.into_iter().chain(scan.in_name(name)).map(|id| (id, name.to_owned())));
            self.current = Some(Test { name: name.to_owned(), indent, harness });
        }
        self.marked = false;
    }

    fn cite(&mut self, rows: Vec<String>) {
        match &self.current {
            Some(test) if test.harness => self.waiting.extend(rows),
            Some(test) => self.found.extend(rows.into_iter().map(|id| (id, test.name.clone()))),
            None => {}
        }
    }

    fn text(&mut self, scan: &Scan, text: &str) {
        let own = scan.rows(text);
        if is_a_sentence(text) || !own.is_empty() {
            let rows = own.into_iter().chain(std::mem::take(&mut self.waiting));
            self.found.extend(rows.map(|id| (id, text.to_owned())));
        }
    }

    /// The function ends: what waited for a name gets the function's.
    fn leave(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        if let Some(test) = self.current.take() {
            self.found.extend(waiting.into_iter().map(|id| (id, test.name.clone())));
        }
    }
}

/// A test's name reads like one: words, and nothing of a script or of a table of numbers.
fn is_a_sentence(text: &str) -> bool {
    let words = text.split(' ').filter(|word| word.chars().filter(|c| c.is_alphabetic()).count() > 1).count();
    words >= 3 && !text.contains([';', '$', '\n', '\\', '{', '=', '|', '<', '>'])
}

struct Scan<'a> {
    file: &'a str,
    ids: &'a BTreeSet<&'a str>,
    in_tests: bool,
}

impl Scan<'_> {
    fn known(&self, id: &str) -> bool {
        self.ids.contains(id) && (!id.starts_with('T') || T_ROWS_IN.iter().any(|place| self.file.starts_with(place)))
    }

    /// The rows at the start of a text: `B1`, `B1 B2`, `B1, B2`, `B1–B9, B11: why`, `B28 a secret in a name`.
    fn rows(&self, text: &str) -> Vec<String> {
        let (mut rows, mut rest): (Vec<String>, &str) = (Vec::new(), text);
        while let Some((first, after)) = id(rest) {
            let last = ["–", "..", "-"].iter().find_map(|dash| id(after.strip_prefix(*dash)?));
            match last.and_then(|(last, after)| Some((span(first, last)?, after))) {
                Some((ids, after)) => {
                    rows.extend(ids);
                    rest = after;
                }
                None => {
                    rows.push(first.to_owned());
                    rest = after;
                }
            }
            let listed = [", ", " and ", " + ", "/"].iter().find_map(|comma| rest.strip_prefix(*comma));
            match listed.or_else(|| rest.strip_prefix(' ').filter(|next| id(next).is_some())) {
                Some(next) => rest = next,
                None => break,
            }
        }
        let ends = rest.is_empty() || rest.starts_with([' ', ':', ';', '.', ',', '(', ')']);
        rows.retain(|id| ends && self.known(id));
        rows
    }

    /// The rows at the start of a function's name: `b1_b2_proxy_variables_unset`.
    fn in_name(&self, name: &str) -> Vec<String> {
        let words = name.split('_').map(str::to_ascii_uppercase);
        words.take_while(|word| id(word) == Some((word, ""))).filter(|word| self.known(word)).collect()
    }
}

/// An id at the start of a text, and the rest: a capital, one to three digits, perhaps `b` or `c`.
pub fn id(text: &str) -> Option<(&str, &str)> {
    let digits = text.get(1..)?.bytes().take_while(u8::is_ascii_digit).count();
    if !text.starts_with(|first: char| first.is_ascii_uppercase()) || !(1..=3).contains(&digits) {
        return None;
    }
    let letter = text[1 + digits..].starts_with(['b', 'c']);
    let (id, rest) = text.split_at(1 + digits + usize::from(letter));
    (!rest.starts_with(|next: char| next.is_alphanumeric() || next == '_')).then_some((id, rest))
}

/// `B1`, `B9` → all in between; none where they are not of one list, or more than a list has.
fn span(first: &str, last: &str) -> Option<Vec<String>> {
    let (from, to): (u32, u32) = (first[1..].parse().ok()?, last[1..].parse().ok()?);
    let alike = first[..1] == last[..1] && from < to && to - from < 100;
    alike.then(|| (from..=to).map(|n| format!("{}{n}", &first[..1])).collect())
}

/// The name of the function that a line begins.
fn function(code: &str) -> Option<&str> {
    let mut rest = code;
    for word in ["pub(super) ", "pub(crate) ", "pub ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// What follows `//`, where that is not a part of a text.
fn comment(line: &str) -> Option<&str> {
    let mut quoted = false;
    let bytes = line.as_bytes();
    for at in 0..bytes.len() {
        match bytes[at] {
            b'"' if at == 0 || bytes[at - 1] != b'\\' => quoted = !quoted,
            b'/' if !quoted && bytes.get(at + 1) == Some(&b'/') => return Some(&line[at + 2..]),
            _ => {}
        }
    }
    None
}

/// The texts of a line.
fn texts(line: &str) -> impl Iterator<Item = &str> {
    let code = comment(line).map_or(line, |comment| &line[..line.len() - comment.len() - 2]);
    code.split('"').skip(1).step_by(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, source: &str) -> Vec<String> {
        let ids = BTreeSet::from(["M1", "M2", "M3", "M18", "D14", "B1", "B2", "B3", "B28", "B29", "T1", "G54", "G54b"]);
        citations(file, source, &ids).into_iter().map(|(id, test)| format!("{id} {test}")).collect()
    }

    #[test]
    fn comments_above_and_inside_a_test_are_its_own() {
        let source = "
// M1: not a test's
fn decide() {
    // M2
}
mod tests {
    // M18
    #[test]
    fn asks() {
        assert!(true); // D14
        // B28, B29: names
    }

    /// B1–B3
    #[tokio::test]
    async fn captured() {}

    // M3
    fn helper() {}
}
";
        let wanted = ["M18 asks", "D14 asks", "B28 asks", "B29 asks", "B1 captured", "B2 captured", "B3 captured"];
        assert_eq!(found("crates/carboy-core/src/a.rs", source), wanted);
    }

    #[test]
    fn names_begin_with_rows() {
        let source = "#[test]\nfn b1_b28_unset() {}\n#[test]\nfn every_m1() {}\n";
        assert_eq!(found("crates/x/src/a.rs", source), ["B1 b1_b28_unset", "B28 b1_b28_unset"]);
    }

    #[test]
    fn a_harness_cites_by_texts_and_by_comments_above_functions() {
        let source = "
fn main() {
    trial(\"B28 a secret in a name\", dns);
    row(\"B1, B2\", \"https://B3/\");
    // M2
    needs(\"cp\", trial(
        \"a copy gets nothing more\",
        \"cp a b\",
    ));
    // M3
}
// B29
fn dns() {}
";
        let wanted = [
            "B28 B28 a secret in a name",
            "B1 B1, B2",
            "B2 B1, B2",
            "M2 a copy gets nothing more",
            "M3 main",
            "B29 dns",
        ];
        assert_eq!(found("crates/carboy/tests/bypass.rs", source), wanted);
        assert_eq!(found("crates/carboy/src/main.rs", source), [] as [&str; 0]);
    }

    #[test]
    fn what_only_looks_like_a_row_is_none() {
        let source = "#[test]\nfn a() {\n // M18x y\n // E2E\n // see M1\n // T1: rootless\n // M99\n // G54b\n}\n";
        assert_eq!(found("crates/carboy-bottle/src/a.rs", source), ["G54b a"]);
        assert_eq!(found("crates/carboy-guard/src/a.rs", "// T1\n#[test]\nfn near() {}\n"), ["T1 near"]);
    }

    #[test]
    fn a_comment_before_other_code_is_not_carried_to_a_test() {
        let source = "// M1\nconst X: u8 = 1;\n#[test]\nfn t() {}\n";
        assert_eq!(found("crates/x/src/a.rs", source), [] as [&str; 0]);
    }
}
