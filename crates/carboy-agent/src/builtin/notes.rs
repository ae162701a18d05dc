//! Notes: one text, one new file on a shelf of their own.
//!
//! ```text
//!   {content, filename?} ─▶ check (no separators, plain names, lengths) ─▶ NoteName ─▶ NoteShelf::put
//! ```
//!
//! *Must never* name a file outside the shelf (G78): a [`NoteName`] is one plain name, and a shelf resolves it below its own
//! directory without following a link. *Must never* replace a note.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use carboy_core::audit::{hex, sha256};
use carboy_core::ports::Later;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::handler::Handler;
use crate::outcome::Card;
use crate::tool::{Call, Effect, InvalidArguments, Output, ToolError};

/// Longest note, in characters.
pub const NOTE_CHARS_MAX: usize = 10_000;
/// Longest name, in characters, its ending included.
pub const NAME_CHARS_MAX: usize = 80;
/// Hexadecimal digits of a name that nobody chose.
const NAME_HEX_DIGITS: usize = 12;

/// The name of one note: a plain file name, no directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NoteName(String);

impl NoteName {
    /// Letters, digits, `-`, `_`, `.` and spaces of ASCII; `.txt` is added where it ends in neither that nor `.md`.
    ///
    /// # Errors
    /// What is wrong, for the model.
    pub fn parse(given: &str) -> Result<NoteName, String> {
        let given = given.trim();
        if given.contains(['/', '\\']) {
            return Err("Filename cannot contain path separators".into());
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
        if !given.starts_with(|c: char| c.is_ascii_alphanumeric()) || given.contains("..") || given.ends_with('.') {
            return Err("Filename must begin with a letter or digit and cannot contain `..` or end in a dot".into());
        }
        if !given.chars().all(plain) {
            return Err("Filename can contain only letters, digits, spaces and - _ .".into());
        }
        let ends = |suffix: &str| given.to_ascii_lowercase().ends_with(suffix);
        let name = if ends(".txt") || ends(".md") { given.to_owned() } else { format!("{given}.txt") };
        match name.len() > NAME_CHARS_MAX {
            true => Err(format!("Filename is longer than {NAME_CHARS_MAX} characters")),
            false => Ok(NoteName(name)),
        }
    }

    /// `note_YYYYMMDD_<12 hex>.txt` (G75): the same for the same write, so that one that is tried again makes no second note.
    pub fn of_write(now_ms: u64, idempotency_key: &str) -> NoteName {
        let (year, month, day) = date_of(now_ms);
        let digest = hex(&sha256(idempotency_key.as_bytes()));
        NoteName(format!("note_{year:04}{month:02}{day:02}_{}.txt", &digest[..NAME_HEX_DIGITS]))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NoteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The civil date (UTC) of a time, by Howard Hinnant's `civil_from_days`.
fn date_of(now_ms: u64) -> (u64, u64, u64) {
    let days = now_ms / 86_400_000 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Where notes go: one directory, and nothing beside it.
pub trait NoteShelf: Send + Sync {
    /// Writes a new note, durable when ready. A note of this name with the same content is the same note, written before
    /// (a write that is tried again); one with other content is [`NoteError::Taken`]. Links are never followed, and the
    /// name is resolved below the shelf alone.
    fn put<'a>(&'a self, name: &'a NoteName, content: &'a str) -> Later<'a, Result<(), NoteError>>;

    /// What people call the shelf: `notes`.
    fn label(&self) -> &str;
}

/// A note that was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Another note has the name.
    #[error("a note of this name is there already; choose another filename")]
    Taken,
    /// The shelf holds all that it may.
    #[error("the shelf holds {notes_max} notes, and takes no more; ask the operator to clear it")]
    Full {
        /// How many.
        notes_max: usize,
    },
    /// It cannot be written to; the particulars are for the operator.
    #[error("the shelf cannot be written to")]
    Unavailable(String),
}

impl From<NoteError> for ToolError {
    fn from(error: NoteError) -> ToolError {
        let message = error.to_string();
        match error {
            NoteError::Taken => ToolError::Refused { code: "note_exists", message },
            NoteError::Full { .. } => ToolError::Refused { code: "notes_full", message },
            NoteError::Unavailable(particulars) => ToolError::Failed { particulars },
        }
    }
}

/// Saves notes.
pub struct SaveNote {
    shelf: Arc<dyn NoteShelf>,
}

impl SaveNote {
    /// Notes go to this shelf.
    pub fn new(shelf: Arc<dyn NoteShelf>) -> SaveNote {
        SaveNote { shelf }
    }
}

/// Its arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveNoteArgs {
    /// The text of the note.
    pub content: String,
    /// A plain file name without directories; left out, the note is named after the day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

impl Handler for SaveNote {
    type Args = SaveNoteArgs;

    const NAME: &'static str = "save_note";
    const DESCRIPTION: &'static str = "Saves a text as a new note. Give a filename only when the person asked for one.";
    const EFFECT: Effect = Effect::Write;

    fn check(&self, args: SaveNoteArgs) -> Result<SaveNoteArgs, InvalidArguments> {
        let invalid = |field: &str, problem: String| InvalidArguments { field: field.into(), problem };
        if args.content.trim().is_empty() {
            return Err(invalid("content", "Content is empty".into()));
        }
        if args.content.chars().count() > NOTE_CHARS_MAX {
            return Err(invalid("content", format!("Content is longer than {NOTE_CHARS_MAX} characters")));
        }
        let filename = match args.filename.as_deref().map(NoteName::parse) {
            Some(Ok(name)) => Some(name.0),
            Some(Err(problem)) => return Err(invalid("filename", problem)),
            None => None,
        };
        Ok(SaveNoteArgs { content: args.content, filename })
    }

    fn card(&self, args: &SaveNoteArgs) -> Option<Card> {
        let name = args.filename.clone().unwrap_or_else(|| "named after the day".into());
        let rows = vec![("File".into(), name), ("Text".into(), args.content.clone())];
        Some(Card { token: String::new(), title: "Save this note?".into(), rows, action: "Save".into(), expires_ms: 0 })
    }

    fn call<'a>(&'a self, call: Call<'a>, args: SaveNoteArgs) -> Later<'a, Result<Output, ToolError>> {
        let name = match args.filename.as_deref().map(NoteName::parse) {
            Some(Ok(name)) => name,
            Some(Err(message)) => {
                return Box::pin(std::future::ready(Err(ToolError::Refused { code: "invalid_arguments", message })));
            }
            None => NoteName::of_write(call.now_ms, call.idempotency_key),
        };
        Box::pin(async move {
            self.shelf.put(&name, &args.content).await?;
            let place = format!("{}/{name}", self.shelf.label());
            Ok(Output { value: json!({"result": format!("Note saved to {place}")}), released: vec![place] })
        })
    }
}

/// Notes in memory, for tests and for agents that keep nothing.
#[derive(Debug)]
pub struct MemoryShelf {
    notes: Mutex<BTreeMap<NoteName, String>>,
    notes_max: usize,
}

impl MemoryShelf {
    /// An empty shelf of at most so many notes.
    pub fn new(notes_max: usize) -> MemoryShelf {
        MemoryShelf { notes: Mutex::default(), notes_max }
    }

    /// All notes, by name.
    pub fn notes(&self) -> Vec<(String, String)> {
        let notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        notes.iter().map(|(name, text)| (name.to_string(), text.clone())).collect()
    }
}

impl NoteShelf for MemoryShelf {
    fn put<'a>(&'a self, name: &'a NoteName, content: &'a str) -> Later<'a, Result<(), NoteError>> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match notes.get(name) {
            Some(known) if known == content => Ok(()),
            Some(_) => Err(NoteError::Taken),
            None if notes.len() >= self.notes_max => Err(NoteError::Full { notes_max: self.notes_max }),
            None => {
                notes.insert(name.clone(), content.to_owned());
                Ok(())
            }
        };
        drop(notes);
        Box::pin(std::future::ready(written))
    }

    fn label(&self) -> &str {
        "notes"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::guard_state::GuardState;
    use crate::tool::{Authorization, Tool, least_privilege};
    use crate::{Principal, PrincipalKind};

    /// 2025-03-07T12:00:00Z
    const NOW_MS: u64 = 1_741_348_800_000;

    fn principal(kind: PrincipalKind) -> Principal {
        Principal { id: "cli_user".into(), kind, roles: BTreeSet::new() }
    }

    fn save(shelf: &Arc<MemoryShelf>, arguments: Value, key: &str) -> Result<Value, String> {
        let tool = crate::handler::tool(SaveNote::new(shelf.clone()));
        let arguments = tool.check(&arguments).map_err(|error| error.problem)?;
        let principal = principal(PrincipalKind::Terminal);
        let mut guard = GuardState::default();
        let call = Call {
            arguments: &arguments,
            principal: &principal,
            guard: &mut guard,
            now_ms: NOW_MS,
            idempotency_key: key,
        };
        let mut later = tool.call(call);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match later.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(output)) => Ok(output.value),
            std::task::Poll::Ready(Err(error)) => Err(error.to_string()),
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_note_without_a_name_is_named_after_the_day_g75() {
        // G75: and a write that is tried again makes no second one
        let shelf = Arc::new(MemoryShelf::new(10));
        let first = save(&shelf, json!({"content": "Buy milk."}), "one").unwrap();
        assert_eq!(save(&shelf, json!({"content": "Buy milk."}), "one").unwrap(), first);
        save(&shelf, json!({"content": "Buy milk."}), "two").unwrap();
        let notes = shelf.notes();
        assert_eq!(notes.len(), 2);
        for (name, text) in &notes {
            let hex = name.strip_prefix("note_20250307_").and_then(|rest| rest.strip_suffix(".txt")).unwrap();
            assert!(hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()), "{name}");
            assert_eq!(text, "Buy milk.");
        }
        assert!(notes.iter().any(|(name, _)| first == json!({"result": format!("Note saved to notes/{name}")})));
    }

    #[test]
    fn a_name_with_a_path_in_it_is_refused_in_the_exact_words_g78() {
        // G78, G62
        let shelf = Arc::new(MemoryShelf::new(10));
        for name in ["../../etc/passwd", "/etc/passwd", "a/b", "..\\x", "\\\\host\\share", "./x"] {
            let refused = save(&shelf, json!({"content": "x", "filename": name}), "k");
            assert_eq!(refused, Err("Filename cannot contain path separators".into()), "{name}");
        }
        for name in ["..", ".bashrc", "", " ", "a..b", "x.", "-rf", "a\u{2215}b", "a:b", "café", "a\u{202e}b", "CON*"]
        {
            assert!(save(&shelf, json!({"content": "x", "filename": name}), "k").is_err(), "{name:?}");
        }
        assert!(save(&shelf, json!({"content": "x", "filename": "a".repeat(77)}), "k").is_err());
        assert!(shelf.notes().is_empty());
        for (name, kept) in [("list", "list.txt"), ("A b.md", "A b.md"), ("x.TXT", "x.TXT"), ("t.sh", "t.sh.txt")] {
            save(&shelf, json!({"content": "x", "filename": name}), "k").unwrap();
            assert!(shelf.notes().iter().any(|(known, _)| known == kept), "{name}");
        }
        // A NUL is gone before anything looks at the name (G17).
        save(&shelf, json!({"content": "x", "filename": "nul\u{0}.txt"}), "k").unwrap();
        assert!(shelf.notes().iter().any(|(known, _)| known == "nul.txt"));
    }

    #[test]
    fn contents_and_shelves_have_bounds_and_no_note_is_replaced() {
        // G62, G67
        let shelf = Arc::new(MemoryShelf::new(2));
        let note = |content: &str, name: &str| save(&shelf, json!({"content": content, "filename": name}), "k");
        assert_eq!(note(" ", "a"), Err("Content is empty".into()));
        assert!(note(&"é".repeat(NOTE_CHARS_MAX), "a").is_ok());
        assert_eq!(note(&"é".repeat(NOTE_CHARS_MAX + 1), "b"), Err("Content is longer than 10000 characters".into()));
        assert_eq!(note("other", "a"), Err("note_exists".into()));
        assert!(note("x", "b").is_ok());
        assert_eq!(note("x", "c"), Err("notes_full".into()));
        assert!(save(&shelf, json!({"content": "x", "path": "/etc"}), "k").is_err());
    }

    #[test]
    fn writing_needs_somebody_who_is_known_g67() {
        let denied = least_privilege(Effect::Write, &principal(PrincipalKind::Anonymous));
        assert!(matches!(denied, Authorization::Denied(_)));
        let tool: Arc<dyn Tool> = crate::handler::tool(SaveNote::new(Arc::new(MemoryShelf::new(1))));
        let arguments = tool.check(&json!({"content": "x"})).unwrap();
        assert_eq!(tool.authorize(&principal(PrincipalKind::Terminal), &arguments), Authorization::Allowed);
        assert!(matches!(tool.authorize(&principal(PrincipalKind::Anonymous), &arguments), Authorization::Denied(_)));
        let card = tool.card(&arguments).unwrap();
        assert_eq!(card.rows[1], ("Text".to_owned(), "x".to_owned()));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (ms, date) in [
            (0, (1970, 1, 1)),
            (951_782_400_000, (2000, 2, 29)),
            (NOW_MS, (2025, 3, 7)),
            (1_735_689_599_999, (2024, 12, 31)),
            (4_102_444_800_000, (2100, 1, 1)),
        ] {
            assert_eq!(date_of(ms), date);
        }
    }
}
