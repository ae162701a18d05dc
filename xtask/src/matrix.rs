//! `docs/bypass-matrix.md`, made of what the bypass matrix of the tests found (`crates/carboy/tests/bottle/matrix`).
//!
//! The tests leave `target/tmp/matrix/PERSON.GROUP.json`: for each row its variants and what came of each. There is nothing in
//! the document that differs from run to run, so it can be compared. *Must never* put a row into it that was not run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{complain, tree};

const RESULTS: &str = "target/tmp/matrix";
const PAGE: &str = "docs/bypass-matrix.md";
const TESTS: &str = "crates/carboy/tests/bottle/matrix";
/// As whom the tests are run; the second is all there is where they are not run by root.
const PEOPLE: [&str; 2] = ["root", "user"];

/// What to do.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Write the page.
    Write,
    /// Fail where it is not what the tests gave.
    Check,
}

/// One row, as one person's tests gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    id: String,
    title: String,
    group: String,
    /// What was tried, and what came of it.
    variants: Vec<(String, String)>,
}

/// Writes or checks.
pub fn run(mode: Mode) -> Result<(), String> {
    let top = tree::root();
    let mut all: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    for person in PEOPLE {
        let rows = rows_of(&top.join(RESULTS), person)?;
        if !rows.is_empty() {
            all.insert(person, rows);
        }
    }
    let Some(found) = all.get("root").or_else(|| all.get("user")) else {
        let why = "run `cargo test -p carboy --test bottle -- \"the bypass matrix\"`, where a bottle can be made";
        if mode == Mode::Check {
            println!("skipped: the page of the bypass matrix: nothing was found to compare it with; {why}");
            return Ok(());
        }
        return Err(format!("{RESULTS} is empty: {why}"));
    };
    let mut complaints = differences(&all);
    let page = render(found);
    match mode {
        Mode::Write => {
            if !all.contains_key("root") {
                complaints.push("some rows need root, and were not run: write the page as root".to_owned());
            }
            complain("matrix", complaints)?;
            fs::write(top.join(PAGE), &page).map_err(|error| format!("cannot write {PAGE}: {error}"))?;
            println!("matrix: {}; {PAGE} is written", counts(found));
        }
        Mode::Check => {
            let written = fs::read_to_string(top.join(PAGE)).unwrap_or_default();
            // An ordinary user cannot run every row: those that were run have to stand there as they came out.
            let same = match all.contains_key("root") {
                true => written == page,
                false => found.iter().all(|row| written.contains(&line(row)) && written.contains(&section(row))),
            };
            if !same {
                complaints.push(format!("{PAGE} is not what the tests gave: run `cargo xtask matrix`"));
            }
            complain("matrix", complaints)?;
            let by: Vec<&str> = all.keys().copied().collect();
            println!("matrix: {}, as {}", counts(found), by.join(" and as "));
        }
    }
    Ok(())
}

/// Takes away what earlier tests found.
pub fn forget() {
    // Where there is nothing, nothing has to go.
    let _ = fs::remove_dir_all(tree::root().join(RESULTS));
}

fn rows_of(results: &Path, person: &str) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let mut files: Vec<String> = fs::read_dir(results)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(&format!("{person}.")) && name.ends_with(".json"))
        .collect();
    files.sort();
    for file in files {
        let path = results.join(&file);
        let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let group = file.split('.').nth(1).unwrap_or_default();
        rows.extend(parse(&text, group).ok_or_else(|| format!("{}: not what the tests write", path.display()))?);
    }
    rows.sort_by_key(|row| (number(&row.id), row.title.clone()));
    Ok(rows)
}

fn parse(text: &str, group: &str) -> Option<Vec<Row>> {
    let rows: Value = serde_json::from_str(text).ok()?;
    let row = |row: &Value| {
        let (id, title) = row["title"].as_str()?.split_once(' ')?;
        let word = |variant: &Value, key: &str| variant[key].as_str().map(str::to_owned);
        let variants: Option<Vec<_>> =
            row["variants"].as_array()?.iter().map(|v| Some((word(v, "what")?, word(v, "outcome")?))).collect();
        Some(Row { id: id.to_owned(), title: title.to_owned(), group: group.to_owned(), variants: variants? })
    };
    rows.as_array()?.iter().map(row).collect()
}

fn number(id: &str) -> u32 {
    id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

/// Where root's results and an ordinary user's are not the same.
fn differences(all: &BTreeMap<&str, Vec<Row>>) -> Vec<String> {
    let [Some(root), Some(user)] = PEOPLE.map(|person| all.get(person)) else { return Vec::new() };
    let only = |these: &[Row], those: &[Row], who: &str| -> Vec<String> {
        let missing = these.iter().filter(|row| !those.contains(row));
        missing.map(|row| format!("{} {}: as {who} only, or another result", row.id, row.title)).collect()
    };
    [only(root, user, "root"), only(user, root, "user")].concat()
}

fn counts(rows: &[Row]) -> String {
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let variants: usize = rows.iter().map(|row| row.variants.len()).sum();
    format!("{} rows, {variants} variants, 0 escapes", ids.len())
}

fn render(rows: &[Row]) -> String {
    let mut out = format!(
        "# The bypass matrix\n\nWays around an egress proxy and out of a sandbox, most of them found in products that were shipped, and \
         what came of each in a bottle. Made by `cargo xtask matrix` of what the tests found; do not edit. A test fails when anything \
         of an attack arrives at an origin outside, or when a refusal is not in the log with its reason, so every number of escapes \
         here is 0, or there is no page.\n\nEach variant runs inside a real bottle of the first tier, once as root and once as an \
         ordinary user, over the connection that is captured: no proxy variable is set. [Refusals](refusals.md) explains the \
         reasons. `kernel` is what the bottle's own kernel refuses before the gateway is asked, `unread` what stands behind the end of a \
         connection, `works` what is supported, and policed. The [checklist](checklist.md) names the tests of the rows that are not \
         here: they are run another way.\n\n{}.\n\n| row | what holds | variants | escapes | reasons | test |\n|---|---|---|---|---|---|\n",
        counts(rows)
    );
    rows.iter().for_each(|row| out.push_str(&line(row)));
    out.push_str("\n## Every variant\n");
    rows.iter().for_each(|row| out.push_str(&section(row)));
    out
}

/// A row of the table.
fn line(row: &Row) -> String {
    let Row { id, title, group, variants } = row;
    let outcomes: BTreeSet<String> = variants.iter().map(|(_, outcome)| format!("`{outcome}`")).collect();
    let outcomes: Vec<String> = outcomes.into_iter().collect();
    let (title, count, outcomes) = (cell(title), variants.len(), outcomes.join(", "));
    format!("| {id} | {title} | {count} | 0 | {outcomes} | `{TESTS}`, {group} |\n")
}

/// Its variants.
fn section(row: &Row) -> String {
    let mut out = format!("\n### {}: {}\n\n| variant | what came of it |\n|---|---|\n", row.id, row.title);
    for (what, outcome) in &row.variants {
        let _ = writeln!(out, "| {} | `{outcome}` |", code(what));
    }
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// A variant's words may hold anything that Markdown would read.
fn code(text: &str) -> String {
    let shown: String = text.chars().flat_map(char::escape_default).collect();
    let shown = shown.replace("\\'", "'").replace("\\\"", "\"").replace("\\\\", "\\");
    format!("`{}`", cell(&shown).replace('`', "'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"[{"title": "B9 user information", "variants": [{"what": "a@b | c", "outcome": "host_invalid"}, {"what": "ok", "outcome": "works"}]}]"#;

    #[test]
    fn a_page_has_each_row_and_each_variant_and_nothing_that_markdown_would_read() {
        let page = render(&parse(ONE, "names").unwrap());
        assert!(page.contains("1 rows, 2 variants, 0 escapes"));
        assert!(page.contains(
            "| B9 | user information | 2 | 0 | `host_invalid`, `works` | `crates/carboy/tests/bottle/matrix`, names |"
        ));
        assert!(page.contains("| `a@b \\| c` | `host_invalid` |"));
    }

    #[test]
    fn what_differs_between_people_is_told_and_what_is_no_result_is_none() {
        let root = parse(ONE, "names").unwrap();
        let user = parse(&ONE.replace("works", "kernel"), "names").unwrap();
        assert_eq!(differences(&BTreeMap::from([("root", root.clone()), ("user", user)])).len(), 2);
        assert!(differences(&BTreeMap::from([("root", root)])).is_empty());
        assert!(parse("{}", "x").is_none() && parse("[{\"title\": \"B1\"}]", "x").is_none());
    }
}
