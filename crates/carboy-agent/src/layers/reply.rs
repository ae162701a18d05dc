//! What a reply must keep to, whatever model wrote it (G21–G26).
//!
//! ```text
//!  reply ─▶ every id, every date ⊆ released values?
//!       ├─▶ markdown?                                   ─▶ ValidationResult: all violations, for good
//!       └─▶ off-topic phrase without the refusal?
//! ```
//!
//! Ids and dates are compared in their folded form, so that no zero-width space, full-width digit or look-alike makes one
//! that is not looked at. *Must never* put a word of the reply into a violation: they go into logs.

use std::collections::BTreeSet;

use carboy_core::chat::{Grounded, GroundingScope, ReplySpec};
use carboy_guard::PatternError;
use carboy_guard::grounding::{self, Date, IdShape};
use carboy_guard::plain;
use regex::RegexBuilder;

use super::grounds::Grounds;
use super::markdown;
pub use super::markdown::Markdown;

/// Most patterns of a kind in one file.
pub const PATTERNS_MAX: usize = 64;
/// Octets of one compiled phrase.
const PHRASE_BYTES_MAX: usize = 1024 * 1024;

/// The checks of one agent, compiled.
pub struct Checker {
    ids: Vec<IdShape>,
    dates: Grounded,
    scope: GroundingScope,
    format: Format,
    off_topic: Vec<Phrase>,
    refusal: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Any,
    Plain,
}

struct Phrase {
    source: String,
    regex: regex::Regex,
}

/// What is wrong with a reply: all of it, and nothing can be taken back (G26).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a reply that was not found valid must not be shown"]
pub struct ValidationResult {
    violations: Box<[Violation]>,
}

impl ValidationResult {
    /// Nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.violations.is_empty()
    }

    /// Everything that is wrong, ids first, each place once.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// The codes of what is wrong, each once, for the log and for [`Reply::withheld`](crate::Reply).
    pub fn codes(&self) -> Vec<String> {
        let codes: BTreeSet<&str> = self.violations.iter().map(Violation::code).collect();
        codes.into_iter().map(str::to_owned).collect()
    }
}

/// One thing that is wrong, without the words that are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An id that no tool released (G21).
    #[error("an id of the shape `{shape}` that no tool released, at character {at}")]
    UngroundedId {
        /// The shape, as the file has it.
        shape: String,
        /// Where it begins.
        at: usize,
    },
    /// A date that no tool released (G22).
    #[error("a date that no tool released, at character {at}")]
    UngroundedDate {
        /// Where it begins.
        at: usize,
    },
    /// Markdown where plain text is asked for (G23).
    #[error("markdown ({kind:?}) in a reply of plain text, at character {at}")]
    Markdown {
        /// Which.
        kind: Markdown,
        /// Where it begins.
        at: usize,
    },
    /// A phrase of off-topic answers, and the refusal is not there (G24).
    #[error("an off-topic phrase (`{phrase}`) without the refusal")]
    OffTopic {
        /// The phrase, as the file has it.
        phrase: String,
    },
}

impl Violation {
    /// Its stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Violation::UngroundedId { .. } => "ungrounded_id",
            Violation::UngroundedDate { .. } => "ungrounded_date",
            Violation::Markdown { .. } => "markdown",
            Violation::OffTopic { .. } => "off_topic",
        }
    }
}

/// What can be said of the beginning of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may be shown.
    Good,
    /// It must wait: it has an off-topic phrase, and the refusal may still come.
    Waits,
    /// Whatever follows, it is wrong.
    Bad(ValidationResult),
}

impl Checker {
    /// Compiles what the file asks for. Off-topic phrases are regular expressions without case; a blank in one stands for any
    /// white space, and it begins and ends at the edge of a word (G25).
    pub fn new(spec: &ReplySpec, refusal: &str) -> Result<Checker, PatternError> {
        for list in [&spec.id_patterns, &spec.off_topic] {
            if list.len() > PATTERNS_MAX {
                return Err(PatternError::TooMany { count: list.len(), max: PATTERNS_MAX });
            }
        }
        Ok(Checker {
            ids: spec.id_patterns.iter().map(|source| IdShape::new(source)).collect::<Result<_, _>>()?,
            dates: spec.dates,
            scope: spec.scope,
            format: if spec.plain_text { Format::Plain } else { Format::Any },
            off_topic: spec.off_topic.iter().map(|source| phrase(source)).collect::<Result<_, _>>()?,
            refusal: spaced(refusal),
        })
    }

    /// Checks a whole reply, as it is shown.
    pub fn check(&self, reply: &str, grounds: &Grounds) -> ValidationResult {
        let mut violations = self.lasting(reply, reply, grounds);
        violations.extend(self.off_topic(reply));
        ValidationResult { violations: violations.into() }
    }

    /// Checks the beginning of a reply that ends between two sentences.
    pub(super) fn standing(&self, beginning: &str, grounds: &Grounds) -> Standing {
        // A sentence never ends with its line: what only a line of its own is (`---`) is not one yet.
        let violations = self.lasting(beginning, &format!("{beginning} x"), grounds);
        if !violations.is_empty() {
            return Standing::Bad(ValidationResult { violations: violations.into() });
        }
        if self.off_topic(beginning).is_empty() { Standing::Good } else { Standing::Waits }
    }

    /// What no further sentence can put right.
    fn lasting(&self, text: &str, lines: &str, grounds: &Grounds) -> Vec<Violation> {
        let mut violations = Vec::new();
        let folded = plain::folded(text);
        let place = |at: usize| folded[..at].chars().count();
        for shape in &self.ids {
            let mut released = None;
            for id in shape.ids(&folded) {
                if !released.get_or_insert_with(|| grounds.ids(shape, self.scope)).contains(&id.text) {
                    let at = place(id.span.start);
                    violations.push(Violation::UngroundedId { shape: shape.source().to_owned(), at });
                }
            }
        }
        if self.dates == Grounded::Yes {
            let mut released: Option<BTreeSet<Date>> = None;
            for (date, span) in grounding::dates(&folded) {
                if !released.get_or_insert_with(|| grounds.dates(self.scope)).contains(&date) {
                    violations.push(Violation::UngroundedDate { at: place(span.start) });
                }
            }
        }
        if self.format == Format::Plain {
            let place = |at: usize| lines[..at].chars().count();
            let found = markdown::find(lines);
            violations.extend(found.into_iter().map(|(kind, at)| Violation::Markdown { kind, at: place(at) }));
        }
        violations
    }

    fn off_topic(&self, text: &str) -> Vec<Violation> {
        if self.off_topic.is_empty() {
            return Vec::new();
        }
        let text = spaced(text);
        if !self.refusal.is_empty() && text.contains(&self.refusal) {
            return Vec::new();
        }
        let found = self.off_topic.iter().filter(|phrase| phrase.regex.is_match(&text));
        found.map(|phrase| Violation::OffTopic { phrase: phrase.source.clone() }).collect()
    }
}

fn phrase(source: &str) -> Result<Phrase, PatternError> {
    let pattern = format!(r"\b{{start-half}}(?:{})\b{{end-half}}", spaced(source));
    let problem = |problem: String| PatternError::Invalid { pattern: source.to_owned(), problem };
    let regex = RegexBuilder::new(&pattern)
        .case_insensitive(true)
        .size_limit(PHRASE_BYTES_MAX)
        .build()
        .map_err(|error| problem(error.to_string().lines().last().unwrap_or_default().trim().to_owned()))?;
    if regex.is_match("") {
        return Err(PatternError::MatchesEmpty { pattern: source.to_owned() });
    }
    Ok(Phrase { source: source.to_owned(), regex })
}

/// White space as single blanks, and one kind of apostrophe: `I’d  recommend` is `I'd recommend`.
fn spaced(text: &str) -> String {
    let straight: String = plain::visible(text)
        .chars()
        .map(|c| match c {
            '\u{2018}' | '\u{2019}' | '\u{201b}' | '\u{2032}' => '\'',
            c => c,
        })
        .collect();
    straight.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
