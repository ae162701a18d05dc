//! Adding an entry to `settings.yml` without touching anything else in it.
//!
//! *Must never* write a secret, only where one is found; *must never* change an entry that is there.

use std::path::Path;

use super::{EditError, block_end, entry};
use crate::settings::SecretFrom;
use crate::starter::{path_text, quoted_text};
use crate::yaml::{self, Value};

/// One entry below `secrets` or `upstreams`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// `secrets` or `upstreams`.
    section: &'static str,
    key: String,
    value: String,
    /// Stands above it; may be empty.
    why: String,
}

impl NewEntry {
    /// Where a secret is found. `home` is written as `~`.
    pub fn secret(name: &str, from: &SecretFrom, home: &Path, why: &str) -> NewEntry {
        let path = |path: &Path| quoted_text(&path_text(path, home));
        let value = match from {
            SecretFrom::Env(variable) => format!("{{env: {variable}}}"),
            SecretFrom::File(file) => format!("{{file: {}}}", path(file)),
            SecretFrom::JsonFile { path: file, pointer } => {
                format!("{{file: {}, pointer: {}}}", path(file), quoted_text(pointer))
            }
            SecretFrom::Command(words) => {
                let words: Vec<String> = words.iter().map(|word| quoted_text(word)).collect();
                format!("{{command: [{}]}}", words.join(", "))
            }
        };
        NewEntry { section: "secrets", key: name.to_owned(), value, why: why.to_owned() }
    }

    /// The one address at which a host is reached. `host` is `HOST` or `HOST:PORT`.
    pub fn upstream(host: &str, address: std::net::SocketAddr, tls: Tls, why: &str) -> NewEntry {
        let tls = match tls {
            Tls::Yes => "",
            Tls::No => ", tls: false",
        };
        let value = format!("{{address: \"{address}\"{tls}}}");
        NewEntry { section: "upstreams", key: quoted_text(host), value, why: why.to_owned() }
    }
}

/// Is the upstream reached by TLS?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Yes.
    Yes,
    /// In plain text.
    No,
}

/// The text of the settings with the entries added, each at the end of its section; a section that is not there yet is
/// put at the end of the file.
///
/// # Errors
/// When the file is not valid, or a section is written in flow form.
pub fn add_entries(text: &str, entries: &[NewEntry]) -> Result<String, EditError> {
    entries.iter().try_fold(text.to_owned(), |text, new| add_entry(&text, new))
}

fn add_entry(text: &str, new: &NewEntry) -> Result<String, EditError> {
    let (tree, errors) = yaml::parse(text, 1);
    if !errors.is_empty() {
        return Err(EditError::Invalid);
    }
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let (at, indent, above) = match entry(&tree, new.section) {
        None => (lines.len(), 2, format!("{}:\n", new.section)),
        Some((at, node)) => {
            let flow = EditError::NotABlock { line: at.line, key: new.section };
            let first = match &node.value {
                Value::Map(entries) => entries.first().ok_or(flow.clone())?.key_at,
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Invalid => {
                    return Err(flow);
                }
            };
            if first.line == at.line {
                return Err(flow);
            }
            let end = block_end(&lines, at, lines.len(), |indent, _| indent >= at.column as usize);
            (end, first.column as usize - 1, String::new())
        }
    };
    let mut out: String = lines[..at].concat();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(&above);
    let indent = " ".repeat(indent);
    if !new.why.is_empty() {
        out.push_str(&format!("{indent}# {}\n", new.why.replace(|c: char| c.is_control(), " ")));
    }
    out.push_str(&format!("{indent}{}: {}\n", new.key, new.value));
    out.push_str(&lines[at..].concat());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{MapFiles, Places};
    use crate::load::Request;

    fn check(text: &str) {
        let places = Places { carboy_home: "/h/.carboy".into(), home: "/h".into(), cwd: "/w".into() };
        let files: MapFiles = [("/h/.carboy/settings.yml", text)].into_iter().collect();
        let report = crate::check(&files, &Request { agent: None, bottles: vec![], places });
        assert!(report.ok, "{}\n{text}", report.diagnostics);
    }

    fn entries() -> Vec<NewEntry> {
        let home = Path::new("/h");
        let secret = |name, from| NewEntry::secret(name, &from, home, "why: so");
        vec![
            secret("A", SecretFrom::Env("OTHER".into())),
            secret("B", SecretFrom::File("/h/.carboy/secrets/B".into())),
            secret(
                "C",
                SecretFrom::JsonFile { path: "/h/.x/auth.json".into(), pointer: "/tokens/access_token".into() },
            ),
            secret("D", SecretFrom::Command(vec!["pass".into(), "show".into(), "a \"b\": #c".into()])),
            NewEntry::upstream("registry.example", "10.0.0.7:443".parse().unwrap(), Tls::Yes, ""),
            NewEntry::upstream("registry.example:80", "[fd00::7]:80".parse().unwrap(), Tls::No, ""),
        ]
    }

    #[test]
    fn entries_are_added_wherever_their_section_stands_and_everything_else_stays() {
        for text in [
            "",
            "# nothing yet",
            "capture: t1\n",
            "secrets:\n    X: {env: Y} # mine\n\n# about capture\ncapture: t1\n",
            "upstreams:\n  a.example: {address: \"10.0.0.1:443\"}\nsecrets:\n  X:\n    file: ~/x\n",
        ] {
            let changed = add_entries(text, &entries()).unwrap();
            check(&changed);
            for line in text.lines() {
                assert!(changed.contains(line), "{line:?} is gone from {changed}");
            }
            assert_eq!(changed.matches("secrets:").count(), 1, "{changed}");
        }
    }

    #[test]
    fn a_section_in_one_line_and_a_broken_file_are_left_to_the_person() {
        for text in ["secrets: {A: {env: B}}\n", "secrets:\n"] {
            assert!(matches!(add_entries(text, &entries()), Err(EditError::NotABlock { line: 1, .. })), "{text}");
        }
        assert_eq!(add_entries("a: [\n", &entries()), Err(EditError::Invalid));
    }
}
