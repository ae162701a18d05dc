//! Which test proves which row of the acceptance lists: collected from the sources, written to `docs/checklist.md`.
//!
//! A test cites a row by a comment that begins with it (`// M18`, `// B28, B29: why`, `// D1–D3`), above or inside the
//! test, by the start of its name (`fn d14_the_closest_pair`), or, in a harness of its own under `tests/`, by the start of
//! a text (`"B28 a secret in a name"`). Rows stand in `xtask/ids.txt`, rows that are still open in `xtask/pending.txt`.

mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;

use crate::{complain, tree};

const IDS: &str = "xtask/ids.txt";
const PENDING: &str = "xtask/pending.txt";
const TABLE: &str = "docs/checklist.md";

/// What to do.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Write the table.
    Write,
    /// Fail where it is out of date or a row has no proof.
    Check,
}

/// The rows of one list.
struct Section {
    name: String,
    rows: Vec<(String, String)>,
}

/// How much of a row is still open.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Open {
    /// All of it: no test cites it.
    Whole,
    /// A part: tests cite it, and more have to come.
    Part,
}

/// Row → tests, as `file::name`.
type Proofs = BTreeMap<String, BTreeSet<String>>;

/// Writes or checks.
pub fn run(mode: Mode) -> Result<(), String> {
    let top = tree::root();
    let sections = sections(&tree::text(&top, IDS)?)?;
    let pending = pending(&tree::text(&top, PENDING)?)?;
    let ids: BTreeSet<&str> = sections.iter().flat_map(|s| s.rows.iter().map(|(id, _)| id.as_str())).collect();
    let mut proofs = Proofs::new();
    let searched = |file: &&String| {
        file.ends_with(".rs") && ["crates/", "apps/", "xtask/tests/", "tests/"].iter().any(|top| file.starts_with(top))
    };
    for file in tree::files(&top)?.iter().filter(searched) {
        for (id, test) in scan::citations(file, &tree::text(&top, file)?, &ids) {
            proofs.entry(id).or_default().insert(format!("{file}::{test}"));
        }
    }
    let table = render(&sections, &pending, &proofs);
    match mode {
        Mode::Write => {
            fs::write(top.join(TABLE), &table).map_err(|error| format!("cannot write {TABLE}: {error}"))?;
            println!("table: {} of {} rows have a test; {TABLE} is written", proofs.len(), ids.len());
            Ok(())
        }
        Mode::Check => {
            let mut complaints = unproven(&ids, &pending, &proofs);
            if fs::read_to_string(top.join(TABLE)).ok().as_deref() != Some(&table) {
                complaints.push(format!("{TABLE} is out of date: run `cargo xtask table`"));
            }
            complain("table", complaints)?;
            println!("table: {}", summary(ids.len(), &pending));
            Ok(())
        }
    }
}

fn sections(text: &str) -> Result<Vec<Section>, String> {
    let (mut sections, mut seen): (Vec<Section>, BTreeSet<&str>) = (Vec::new(), BTreeSet::new());
    for line in text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("# ") {
            sections.push(Section { name: name.to_owned(), rows: Vec::new() });
            continue;
        }
        let (id, title) = line.split_once(' ').ok_or_else(|| format!("{IDS}: `{line}` has no title"))?;
        let section = sections.last_mut().ok_or_else(|| format!("{IDS}: `{line}` stands before any section"))?;
        if scan::id(id) != Some((id, "")) || !seen.insert(id) {
            return Err(format!("{IDS}: `{id}` is no id, or stands there twice"));
        }
        section.rows.push((id.to_owned(), title.to_owned()));
    }
    Ok(sections)
}

fn pending(text: &str) -> Result<BTreeMap<String, Open>, String> {
    let mut pending = BTreeMap::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty()) {
        let (id, open) = match line.split_whitespace().collect::<Vec<_>>()[..] {
            [id] => (id, Open::Whole),
            [id, "partial"] => (id, Open::Part),
            _ => return Err(format!("{PENDING}: `{line}` is neither `ID` nor `ID partial`")),
        };
        if pending.insert(id.to_owned(), open).is_some() {
            return Err(format!("{PENDING}: `{id}` stands there twice"));
        }
    }
    Ok(pending)
}

/// Rows without a proof, and open rows that have one.
fn unproven(ids: &BTreeSet<&str>, pending: &BTreeMap<String, Open>, proofs: &Proofs) -> Vec<String> {
    let unknown = pending.keys().filter(|id| !ids.contains(id.as_str()));
    let mut complaints: Vec<String> = unknown.map(|id| format!("{id}: pending, but not in {IDS}")).collect();
    for id in ids {
        match (pending.get(*id), proofs.get(*id)) {
            (None, None) => complaints.push(format!("{id}: no test cites it, and it is not in {PENDING}")),
            (Some(Open::Whole), Some(tests)) => complaints.push(format!(
                "{id}: pending, but cited by {}; take it off {PENDING}, or mark it `{id} partial` there",
                tests.first().map_or("a test", String::as_str)
            )),
            (Some(Open::Part), None) => complaints.push(format!("{id}: partly open, but no test cites it")),
            (None, Some(_)) | (Some(Open::Whole), None) | (Some(Open::Part), Some(_)) => {}
        }
    }
    complaints
}

/// Every row is proven, or open in part, or open.
fn summary(rows: usize, pending: &BTreeMap<String, Open>) -> String {
    let part = pending.values().filter(|open| matches!(open, Open::Part)).count();
    let (proven, open) = (rows - pending.len(), pending.len() - part);
    format!("of {rows} rows {proven} are proven by tests, {part} in part, and {open} are open")
}

fn render(sections: &[Section], pending: &BTreeMap<String, Open>, proofs: &Proofs) -> String {
    let rows: usize = sections.iter().map(|section| section.rows.len()).sum();
    let mut out = format!(
        "# Checklist\n\nWhich test proves which row of the acceptance lists. Written by `cargo xtask table`; do not edit.\n\n\
         {}.\n",
        summary(rows, pending)
    );
    for section in sections {
        let _ = write!(out, "\n## {}\n\n| row | what | tests |\n|---|---|---|\n", section.name);
        for (id, title) in &section.rows {
            let mut cells: Vec<String> = proofs.get(id).into_iter().flatten().map(|test| cell(test)).collect();
            match pending.get(id) {
                Some(Open::Whole) => cells.push("pending".to_owned()),
                Some(Open::Part) => cells.push("partly pending".to_owned()),
                None => {}
            }
            let _ = writeln!(out, "| {id} | {} | {} |", escaped(title), cells.join("<br>"));
        }
    }
    out
}

fn cell(test: &str) -> String {
    format!("`{}`", escaped(test).replace('`', "'"))
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proofs(cited: &[&str]) -> Proofs {
        cited.iter().map(|id| ((*id).to_owned(), BTreeSet::from(["a.rs::t".to_owned()]))).collect()
    }

    #[test]
    fn a_row_needs_a_test_or_a_place_among_the_open_ones_but_not_both() {
        let ids = BTreeSet::from(["M1", "M2", "M3", "M4", "M5"]);
        let open = pending("# why\nM2\nM3 partial # half\nM4\nM9\n").unwrap();
        let complaints = unproven(&ids, &open, &proofs(&["M1", "M3", "M4"]));
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        assert!(complaints[0].starts_with("M9: pending, but not in"));
        assert!(complaints[1].starts_with("M4: pending, but cited by a.rs::t"));
        assert!(complaints[2].starts_with("M5: no test cites it"));
    }

    #[test]
    fn lists_with_nonsense_are_refused() {
        assert!(pending("M1\nM1 partial\n").is_err());
        assert!(pending("M1 mostly\n").is_err());
        assert!(sections("#\n# A\nM1 x\nM1 y\n").is_err());
        assert!(sections("#\nM1 x\n").is_err());
        assert!(sections("#\n# A\nMX y\n").is_err());
    }

    #[test]
    fn the_table_shows_tests_and_open_rows() {
        let sections = sections("#\n# Names\nM1 one | two\nM2 three\n").unwrap();
        let table = render(&sections, &pending("M2").unwrap(), &proofs(&["M1"]));
        assert!(table.contains("of 2 rows 1 are proven by tests, 0 in part, and 1 are open"));
        assert!(table.ends_with("## Names\n\n| row | what | tests |\n|---|---|---|\n| M1 | one \\| two | `a.rs::t` |\n| M2 | three | pending |\n"));
    }
}
