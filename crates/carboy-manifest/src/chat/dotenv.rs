//! The `.env` beside an agent (G66b): read for known names only.
//!
//! *Must never* win over the real environment, show a value, or take a name that nobody reads: what such a file says about
//! anything else stays where it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use carboy_core::ids::SecretName;
use carboy_core::secret::SecretText;

use super::knobs::Knob;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position, excerpt};
use crate::origin::{Origin, Sourced};

/// Most bytes of a `.env`.
pub const DOTENV_BYTES_MAX: u64 = 64 * 1024;
/// Most lines of it.
pub const DOTENV_LINES_MAX: usize = 1_000;

/// What a `.env` says: thresholds, and the secrets that the agent needs.
#[derive(Default)]
pub struct Dotenv {
    /// The file.
    pub file: PathBuf,
    pub(crate) knobs: BTreeMap<&'static str, Sourced<u32>>,
    secrets: BTreeMap<SecretName, SecretText>,
    /// Names that stand there without a value.
    empty: BTreeSet<SecretName>,
}

impl fmt::Debug for Dotenv {
    /// Names, no values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.secrets.keys().map(SecretName::as_str).collect();
        f.debug_struct("Dotenv").field("file", &self.file).field("knobs", &self.knobs).field("secrets", &names).finish()
    }
}

impl Dotenv {
    /// Reads it. `secrets` are the names that the agent needs ([`ChatFile::secrets`](super::ChatFile::secrets)). Unknown names
    /// are warnings; what is none of a `.env`'s lines is an error, and told without the line.
    pub fn parse(file: &Path, bytes: &[u8], secrets: &BTreeSet<SecretName>) -> (Dotenv, Diagnostics) {
        let mut read = Dotenv { file: file.to_path_buf(), ..Dotenv::default() };
        let mut out = Diagnostics::default();
        let Ok(text) = std::str::from_utf8(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)) else {
            let error = Diagnostic::error(Code::NotUtf8, "the file is not UTF-8 text", "save the file as UTF-8");
            out.push(error.at(file, Position::START));
            return (read, out);
        };
        let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
        for (line, number) in text.lines().zip(1..) {
            let at = Position { line: number, column: 1 };
            if number as usize > DOTENV_LINES_MAX {
                let message = format!("more than {DOTENV_LINES_MAX} lines; the others were not read");
                out.push(Diagnostic::error(Code::TooComplex, message, "keep only what this agent needs").at(file, at));
                break;
            }
            match assignment(line) {
                Ok(None) => {}
                Ok(Some((name, value))) => {
                    if let Some(first) = seen.insert(name, number) {
                        let message = format!("{} stands twice; first on line {first}", excerpt(name));
                        out.push(Diagnostic::error(Code::DuplicateKey, message, "keep one of the two").at(file, at));
                    }
                    read.take(name, value, at, secrets, &mut out);
                }
                Err(problem) => {
                    let fix = "write NAME=VALUE, with the value in quotes where it has spaces";
                    out.push(Diagnostic::error(Code::BadValue, problem, fix).at(file, at));
                }
            }
        }
        (read, out)
    }

    fn take(&mut self, name: &str, value: String, at: Position, known: &BTreeSet<SecretName>, out: &mut Diagnostics) {
        let place = |diagnostic: Diagnostic| diagnostic.at(&self.file, at);
        if let Some(knob) = Knob::of_variable(name) {
            match knob.parse(name, &value) {
                Ok(value) => {
                    let origin = Origin::File { file: self.file.clone(), line: at.line };
                    self.knobs.insert(knob.name, Sourced { value, origin });
                }
                Err(error) => out.push(place(error)),
            }
            return;
        }
        match SecretName::parse(name).ok().filter(|name| known.contains(name)) {
            // An empty line of an example is nobody's key.
            Some(name) if value.is_empty() => drop(self.empty.insert(name)),
            Some(name) => {
                self.secrets.insert(name, SecretText::new(value));
            }
            None => {
                let message = format!("{} is read by nobody here", excerpt(name));
                let fix = "remove it; known are the names in docs/defaults.md and the secrets that the agent names";
                out.push(place(Diagnostic::warning(Code::NoEffect, message, fix)));
            }
        }
    }

    /// A secret of it; to be asked only where settings and environment have none.
    pub fn secret(&self, name: &SecretName) -> Option<&SecretText> {
        self.secrets.get(name)
    }

    /// Does a secret stand there without a value?
    pub fn is_empty_line(&self, name: &SecretName) -> bool {
        self.empty.contains(name)
    }

    /// The names of its secrets.
    pub fn secret_names(&self) -> impl Iterator<Item = &SecretName> {
        self.secrets.keys()
    }
}

/// `NAME=VALUE`, with `export` before it or not; `None` for a blank line or a comment.
fn assignment(line: &str) -> Result<Option<(&str, String)>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=').ok_or("a line that assigns nothing")?;
    let (name, value) = (name.trim(), value.trim());
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.len() > 128 || !name.bytes().all(plain) {
        return Err("a line whose name is none");
    }
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let (inner, after) = value[1..].split_once(quote).ok_or("a value whose quote is never closed")?;
            let after = after.trim_start();
            if !after.is_empty() && !after.starts_with('#') {
                return Err("a value with something behind its closing quote");
            }
            inner.to_owned()
        }
        Some('#') | None => String::new(),
        Some(_) => value.split(" #").next().unwrap_or_default().trim_end().to_owned(),
    };
    Ok(Some((name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Dotenv, Vec<String>) {
        let known = ["ANTHROPIC_API_KEY", "OPENAI_API_KEY"].map(|name| SecretName::parse(name).unwrap());
        let (read, found) = Dotenv::parse(Path::new("/a/.env"), text.as_bytes(), &known.into_iter().collect());
        (read, found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn known_names_are_read_and_values_are_never_shown_g66b() {
        // G66b, G66, G41
        let (read, found) = parsed(
            "# my keys\n\nexport ANTHROPIC_API_KEY='sk-ant-xyz'\nOPENAI_API_KEY=\nMAX_REQUESTS_PER_HOUR=50 # fewer\n\
             injection_threshold=\"0.3\"\nFILTER_PII=no\nPATH=/evil\n",
        );
        let name = SecretName::parse("ANTHROPIC_API_KEY").unwrap();
        assert_eq!(read.secret(&name).map(|secret| secret.expose().as_str()), Some("sk-ant-xyz"));
        assert_eq!(read.secret_names().count(), 1);
        let knob = |name: &str| read.knobs.get(name).map(|said| said.value);
        assert_eq!(
            (knob("requests_per_hour"), knob("injection_percent"), knob("filter_pii")),
            (Some(50), Some(30), Some(0))
        );
        assert_eq!(read.knobs["injection_percent"].origin, Origin::File { file: "/a/.env".into(), line: 6 });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("/a/.env:8:1: warning: `PATH` is read by nobody here"), "{found:?}");
        assert!(!format!("{read:?}{found:?}").contains("xyz"));
    }

    #[test]
    fn what_is_no_line_of_a_dotenv_is_an_error_at_its_place_that_repeats_nothing() {
        for (text, words) in [
            ("sk-ant-secret", "/a/.env:1:1: error: a line that assigns nothing"),
            ("A B=sk-ant-secret", "a line whose name is none"),
            ("ANTHROPIC_API_KEY=\"sk-ant-secret", "never closed"),
            ("ANTHROPIC_API_KEY='sk-ant-secret'x", "behind its closing quote"),
            ("\nMAX_REQUESTS_PER_HOUR=many", "/a/.env:2:1: error: `MAX_REQUESTS_PER_HOUR` is `many`"),
            ("FILTER_PII=true\nFILTER_PII=false", "/a/.env:2:1: error: `FILTER_PII` stands twice; first on line 1"),
        ] {
            let (_, found) = parsed(text);
            assert!(found.len() == 1 && found[0].contains(words), "{text}: {found:?}");
            assert!(!found[0].contains("secret"), "{found:?}");
        }
        let long = "#\n".repeat(DOTENV_LINES_MAX + 1);
        assert!(parsed(&long).1[0].contains("more than 1000 lines"));
    }
}
