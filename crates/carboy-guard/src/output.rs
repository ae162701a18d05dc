//! The output filter of chat agents: credentials, personal data and the system prompt never stand in what a person reads
//! (G68, G79, G85).
//!
//! ```text
//!  deltas ─▶ visible text ─▶ token patterns ─┐
//!                          ├ shapes ─────────┤ spans ─▶ joined ─▶ [REDACTED_KIND] in their place ─▶ cleared text
//!                          ├ prompt runs ────┤
//!                          └ the file's own ─┘            what may still become a match waits
//! ```
//!
//! However a reply is cut into deltas, the cleared text is the same; filtering it again changes nothing, as long as a file's
//! own filters begin and end at words and match no marker. *Must never* give out a byte that may still be part of a match, nor say what it overwrote: kinds and numbers are all that is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use carboy_core::chat::Screening;
use regex_automata::hybrid::dfa::Cache;

use crate::pattern::PatternError;
use crate::plain::visible_char;
use crate::tokens::{self, TokenScan};
use crate::view::More;
use crate::window::Window;

mod bounded;
mod personal;
mod prompt;
mod shapes;

use bounded::{Alphabet, Bounded, Fate};
pub use prompt::RUN_WORDS;
use prompt::{Prompt, PromptScan};
use shapes::{Check, Family, SHAPES, marker, token_kind};

/// Most octets that a filter of a file can match.
pub const FILTER_BYTES_MAX: u32 = 4096;
/// Most filters of a file.
pub const FILTERS_MAX: usize = 64;
/// Bytes kept before what is looked at, for boundaries of words.
const CONTEXT_BYTES: usize = 64;
/// The kind of a run of the system prompt.
const PROMPT_KIND: &str = "SYSTEM_PROMPT";

/// A value that may stand in a reply: one that a tool released to this very person in this conversation.
pub type Allowed<'a> = Box<dyn Fn(&str) -> bool + Send + Sync + 'a>;

/// How often something of a kind was overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// `EMAIL`, `ANTHROPIC_KEY`, or what a file's filter calls it.
    pub kind: String,
    /// Places.
    pub count: u32,
}

/// The system prompt, and what of it anybody may read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProtectedPrompt<'a> {
    /// The prompt. Empty protects nothing.
    pub text: &'a str,
    /// Texts that may stand in a reply word for word: refusal, fallback, greeting, published policy, example answers.
    pub public: &'a [&'a str],
}

/// The contents of the prompt's sections of these names (`<examples>…</examples>`): those that a reply may quote.
pub fn prompt_sections<'a>(prompt: &'a str, names: &[&str]) -> Vec<&'a str> {
    let section = |name: &&str| {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let start = prompt.find(&open)? + open.len();
        prompt[start..].find(&close).map(|len| &prompt[start..start + len])
    };
    names.iter().filter_map(section).collect()
}

/// The rules of one agent, compiled; shared by the filters of all its replies.
pub struct OutputRules {
    tokens: Tokens,
    rules: Vec<Rule>,
    prompt: Prompt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tokens {
    Filtered,
    Shown,
}

struct Rule {
    kind: String,
    replacement: String,
    family: Family,
    bounded: Bounded,
    check: Option<Check>,
}

impl OutputRules {
    /// What `screening` asks for; the prompt is always protected.
    pub fn new(screening: &Screening, prompt: ProtectedPrompt<'_>) -> Result<OutputRules, PatternError> {
        if screening.output_filters.len() > FILTERS_MAX {
            return Err(PatternError::TooMany { count: screening.output_filters.len(), max: FILTERS_MAX });
        }
        let wanted = |family: Family| match family {
            Family::Secret => screening.filter_secrets,
            Family::Personal => screening.filter_pii,
        };
        let mut rules = Vec::new();
        for shape in SHAPES.iter().filter(|shape| wanted(shape.family)) {
            rules.push(Rule {
                kind: shape.kind.to_owned(),
                replacement: marker(shape.kind),
                family: shape.family,
                bounded: Bounded::new(shape.regex, Alphabet::Ascii, shape.bytes_max)?,
                check: Some(shape.check),
            });
        }
        for filter in &screening.output_filters {
            if filter.bytes_max == 0 || filter.bytes_max > FILTER_BYTES_MAX {
                return Err(PatternError::OutOfRange {
                    pattern: filter.regex.clone(),
                    field: "bytes_max",
                    value: u64::from(filter.bytes_max),
                    allowed: "from 1 to 4096",
                });
            }
            rules.push(Rule {
                kind: filter.kind.clone(),
                replacement: filter.replacement.chars().filter_map(visible_char).collect(),
                family: Family::Secret,
                bounded: Bounded::new(&filter.regex, Alphabet::Unicode, filter.bytes_max as usize)?,
                check: None,
            });
        }
        let tokens = if screening.filter_secrets { Tokens::Filtered } else { Tokens::Shown };
        let this = Arc::new(OutputRules { tokens, rules, prompt: Prompt::new(prompt.text, prompt.public) });
        for filter in &screening.output_filters {
            if !redact(&this, &filter.replacement, &|_| false).1.is_empty() {
                return Err(PatternError::Replaced {
                    pattern: filter.regex.clone(),
                    replacement: filter.replacement.clone(),
                });
            }
        }
        Ok(Arc::into_inner(this).expect("the filters above are gone"))
    }

    fn kind(&self, what: What) -> String {
        match what {
            What::Rule(rule) => self.rules[rule].kind.clone(),
            What::Token(rule) => token_kind(tokens::rule_name(rule)),
            What::Prompt => PROMPT_KIND.to_owned(),
        }
    }

    fn replacement(&self, what: What) -> String {
        match what {
            What::Rule(rule) => self.rules[rule].replacement.clone(),
            What::Token(_) | What::Prompt => marker(&self.kind(what)),
        }
    }
}

/// The whole text filtered, and what was overwritten.
pub fn redact(
    rules: &Arc<OutputRules>,
    text: &str,
    allowed: &(dyn Fn(&str) -> bool + Send + Sync),
) -> (String, Vec<Redaction>) {
    let mut out = String::new();
    let mut filter = Filter::new(Arc::clone(rules), Box::new(allowed));
    filter.push(text, &mut out);
    let redactions = filter.finish(&mut out);
    (out, redactions)
}

/// What was found. Of matches that begin together and are equally long, the first of these gives its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Token(usize),
    Rule(usize),
    Prompt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hit {
    start: u64,
    end: u64,
    what: What,
    rest: Rest,
}

/// What follows a match at once goes with it: otherwise the rest of what was longer than its rule says would stay, and what
/// stood in the middle of a word would stand at its beginning and be found the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Letters, figures, low lines.
    Word,
    /// Hyphens too.
    Token,
}

/// Filters one reply as it streams.
pub struct Filter<'a> {
    rules: Arc<OutputRules>,
    allowed: Allowed<'a>,
    /// What was not given out yet, and a little before it.
    buffer: Vec<u8>,
    base: u64,
    /// Bytes before this position were given out or overwritten.
    given: u64,
    tokens: TokenScan,
    prompt: PromptScan,
    scans: Vec<Scan>,
    hits: Vec<Hit>,
    /// The span that is being overwritten: where it ends so far.
    open: Option<(u64, Rest)>,
    counts: BTreeMap<String, u32>,
}

struct Scan {
    cursor: u64,
    cache: Cache,
}

impl<'a> Filter<'a> {
    /// At the start of a reply. `allowed` is asked for personal data and for runs of the prompt, never for credentials.
    pub fn new(rules: Arc<OutputRules>, allowed: Allowed<'a>) -> Filter<'a> {
        let scans = rules.rules.iter().map(|rule| Scan { cursor: 0, cache: rule.bounded.cache() }).collect();
        Filter {
            rules,
            allowed,
            buffer: Vec::new(),
            base: 0,
            given: 0,
            tokens: TokenScan::new(),
            prompt: PromptScan::new(),
            scans,
            hits: Vec::new(),
            open: None,
            counts: BTreeMap::new(),
        }
    }

    /// Takes a delta and appends to `out` what is cleared by now.
    pub fn push(&mut self, delta: &str, out: &mut String) {
        let mut bytes = [0; 4];
        for c in delta.chars().filter_map(visible_char) {
            self.buffer.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        }
        self.advance(More::Open, out);
    }

    /// The reply is complete: appends the rest, and says what was overwritten. Nothing can be pushed any more.
    pub fn finish(&mut self, out: &mut String) -> Vec<Redaction> {
        self.advance(More::Ended, out);
        std::mem::take(&mut self.counts).into_iter().map(|(kind, count)| Redaction { kind, count }).collect()
    }

    fn advance(&mut self, more: More, out: &mut String) {
        let rules = Arc::clone(&self.rules);
        let window = Window { base: self.base, data: &self.buffer, more, before: None };
        let mut frontier = window.end();
        if rules.tokens == Tokens::Filtered {
            let mut found = Vec::new();
            frontier = frontier.min(self.tokens.advance(&window, &mut found));
            self.hits.extend(found.iter().map(|found| Hit {
                start: found.start,
                end: found.end,
                what: What::Token(found.rule),
                rest: Rest::Token,
            }));
        }
        let (allowed, hits) = (&*self.allowed, &mut self.hits);
        let hold = self.prompt.advance(&rules.prompt, &window, &mut |start, end| {
            if !allowed(&String::from_utf8_lossy(&window.data[window.index(start)..window.index(end)])) {
                hits.push(Hit { start, end, what: What::Prompt, rest: Rest::Word });
            }
        });
        frontier = frontier.min(hold);
        for (at, (rule, scan)) in rules.rules.iter().zip(&mut self.scans).enumerate() {
            frontier = frontier.min(scan.advance(at, rule, &window, allowed, hits));
        }
        let mut settled = window.index(frontier);
        while settled < self.buffer.len() && self.buffer[settled] & 0xc0 == 0x80 {
            settled -= 1;
        }
        self.give(self.base + settled as u64, more, out);
    }

    /// Gives out what stands before `frontier`: every match that begins there is known.
    fn give(&mut self, frontier: u64, more: More, out: &mut String) {
        self.hits.sort_by_key(|hit| (hit.start, std::cmp::Reverse(hit.end), hit.what));
        let mut hits = std::mem::take(&mut self.hits).into_iter().peekable();
        let mut clear = Vec::new();
        while self.given < frontier {
            let next = hits.peek().map_or(u64::MAX, |hit| hit.start);
            if let Some((end, rest)) = self.open {
                // Matches that overlap or touch are one.
                if next <= end {
                    if let Some(hit) = hits.next().filter(|hit| hit.end >= end) {
                        self.open = Some((hit.end, hit.rest));
                    }
                } else if self.given < end {
                    self.given = end.min(frontier).min(next.max(self.given));
                } else if self.goes_on(rest) {
                    self.given += 1;
                    self.open = Some((self.given, rest));
                } else {
                    self.open = None;
                }
            } else if next <= self.given {
                let Some(hit) = hits.next() else { break };
                *self.counts.entry(self.rules.kind(hit.what)).or_default() += 1;
                clear.extend_from_slice(self.rules.replacement(hit.what).as_bytes());
                self.open = Some((hit.end, hit.rest));
            } else {
                let until = next.min(frontier);
                let span = (self.given - self.base) as usize..(until - self.base) as usize;
                clear.extend_from_slice(&self.buffer[span]);
                self.given = until;
            }
        }
        self.hits = hits.collect();
        out.push_str(&String::from_utf8_lossy(&clear));
        if more == More::Open {
            let keep = (self.given.min(frontier) - self.base) as usize;
            let mut drop = keep.saturating_sub(CONTEXT_BYTES);
            while drop > 0 && self.buffer[drop] & 0xc0 == 0x80 {
                drop -= 1;
            }
            self.buffer.drain(..drop);
            self.base += drop as u64;
        }
    }

    fn goes_on(&self, rest: Rest) -> bool {
        let next = self.buffer.get((self.given - self.base) as usize);
        next.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || (rest == Rest::Token && *b == b'-'))
    }
}

impl Scan {
    /// Looks at what is new. Gives from where on a match may be under way.
    fn advance(
        &mut self,
        at: usize,
        rule: &Rule,
        window: &Window<'_>,
        allowed: &(dyn Fn(&str) -> bool + Send + Sync),
        hits: &mut Vec<Hit>,
    ) -> u64 {
        while self.cursor < window.end() {
            let start = window.index(self.cursor);
            let first = window.data[start];
            if first & 0xc0 == 0x80 || !rule.bounded.begins_with(first) {
                self.cursor += 1;
                continue;
            }
            match rule.bounded.at(&mut self.cache, window, start) {
                Fate::Open => return self.cursor,
                Fate::Nothing => self.cursor += 1,
                Fate::Match { end } => {
                    let text = &window.data[start..end];
                    let before = start.checked_sub(1).map(|at| window.data[at]);
                    let len = match rule.check {
                        Some(check) => check(text, before, window.data.get(end).copied()),
                        None => Some(text.len()),
                    };
                    let Some(mut len) = len.filter(|len| *len > 0) else {
                        self.cursor += 1;
                        continue;
                    };
                    // A match of bytes may end within a character.
                    while window.data.get(start + len).is_some_and(|b| b & 0xc0 == 0x80) {
                        len += 1;
                    }
                    let end = self.cursor + len as u64;
                    let released = rule.family == Family::Personal
                        && allowed(&String::from_utf8_lossy(&window.data[start..start + len]));
                    if !released {
                        hits.push(Hit { start: self.cursor, end, what: What::Rule(at), rest: Rest::Word });
                    }
                    self.cursor = end;
                }
            }
        }
        window.end()
    }
}

#[cfg(test)]
mod tests;
