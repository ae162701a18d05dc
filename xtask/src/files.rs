//! What every source file keeps to: its size, its first line, and words that do not belong into it.

use crate::{complain, tree};

/// More lines of code than this fail; tests are not counted.
const LINES_MAX: usize = 800;
/// More than this are listed.
const LINES_WANTED: usize = 500;

/// What no text of the repository contains: a developer's own paths, and work that was left undone. Spelled apart, so
/// that this file passes.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of somebody's machine"),
    (concat!("to", "do!("), "work left undone"),
    (concat!("FIX", "ME"), "work left undone"),
];

/// Endings of files that are read for forbidden words.
const TEXTS: &[&str] = &[".rs", ".toml", ".md", ".txt", ".sh", ".yml", ".yaml", ".json", ".py", ".js", ".ci/run"];

/// Checks all files.
pub fn run() -> Result<(), String> {
    let top = tree::root();
    let (mut complaints, mut large, mut count) = (Vec::new(), Vec::new(), 0);
    for file in tree::files(&top)? {
        if !TEXTS.iter().any(|ending| file.ends_with(ending)) {
            continue;
        }
        let text = tree::text(&top, &file)?;
        complaints.extend(words(&file, &text));
        if file.ends_with(".rs") && !tree::is_test(&file) {
            count += 1;
            complaints.extend(first_line(&file, &text));
            match code_lines(&text) {
                lines if lines > LINES_MAX => {
                    complaints.push(format!("{file}: {lines} lines of code, more than {LINES_MAX}"))
                }
                lines if lines > LINES_WANTED => large.push(format!("{file} ({lines})")),
                _ => {}
            }
        }
    }
    complain("files", complaints)?;
    println!("files: {count} source files; over {LINES_WANTED} lines: {}", list(&large));
    Ok(())
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn words(file: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // The examples in the documentation that must not compile may leave a value out.
        let example = |word: &str| word.ends_with("!(") && line.trim_start().starts_with("//");
        for (word, what) in FORBIDDEN.iter().filter(|(word, _)| holds(line, word) && !example(word)) {
            complaints.push(format!("{file}:{}: `{word}`: {what}", number + 1));
        }
    }
    complaints
}

/// Whether the word stands in the line and is not the end of another one.
fn holds(line: &str, word: &str) -> bool {
    let inside = |before: char| before.is_alphanumeric() || matches!(before, '_' | '-' | '.' | '~' | '}');
    line.match_indices(word).any(|(at, _)| !line[..at].chars().next_back().is_some_and(inside))
}

fn first_line(file: &str, text: &str) -> Option<String> {
    let documented = text.lines().next().is_some_and(|line| line.starts_with("//!"));
    (!documented).then(|| format!("{file}: does not start with `//!`: say what it is and what it must never do"))
}

/// Lines up to the test module at the end.
fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines
        .windows(2)
        .position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{'));
    tests.unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_at_the_end_are_not_counted() {
        assert_eq!(code_lines("//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(code_lines("//! x\n#[cfg(test)]\nmod tests;\nfn a() {}\n"), 4);
    }

    #[test]
    fn forbidden_words_are_found_where_they_stand_alone() {
        let path = concat!("/wo", "rk/");
        assert!(holds(&format!("see {path}main"), path));
        assert!(holds(&format!("\"{path}main\""), path));
        assert!(!holds(&format!("/home/agent{path}main"), path));
        assert_eq!(words("a.rs", &format!("\n{}x)", FORBIDDEN[1].0)).len(), 1);
        assert!(words("a.rs", &format!("/// {})", FORBIDDEN[1].0)).is_empty());
    }

    #[test]
    fn a_file_says_first_what_it_is() {
        assert_eq!(first_line("a.rs", "//! what it is\n"), None);
        assert!(first_line("a.rs", "use std::fs;\n//! late\n").is_some());
        assert!(first_line("a.rs", "").is_some());
    }
}
