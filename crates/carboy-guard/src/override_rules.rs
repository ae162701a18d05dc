//! Messages that try to override an agent's instructions, by weighted patterns (G63, G64).
//!
//! ```text
//!  message ─▶ as it reads ─────────────────────────┐
//!          ├▶ folded (look-alikes, accents) ───────┤
//!          ├▶ figures as letters (1gn0re) ─────────┼▶ patterns ─▶ categories, the greatest confidence
//!          ├▶ letters alone (i-g-n-o-r-e) ─────────┤
//!          └▶ base64, hexadecimal, rot13, reversed ┘
//! ```
//!
//! It can be explained in one sentence for each refusal, and it is a speed bump: what an agent may do is decided by code,
//! wherever a message got by. *Must never* be the only thing between a message and an action.

use base64::Engine;
use carboy_core::chat::InjectionPattern;
use regex::bytes::{RegexSet, RegexSetBuilder};
use regex::{Regex, RegexBuilder};

use crate::pattern::{PatternError, compile_error};
use crate::plain;

mod phrases;

use phrases::{PHRASES, SQUEEZED};

/// Octets of one compiled pattern.
const PATTERN_BYTES_MAX: usize = 1024 * 1024;
/// Octets of the states that a search of the built-in patterns keeps.
const STATES_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most patterns of a file.
pub const PATTERNS_MAX: usize = 256;
/// Encoded parts of one message that are looked into.
const ENCODED_MAX: usize = 16;
/// Shortest encoded part, in characters: an override does not fit into less.
const ENCODED_CHARS_MIN: usize = 24;
/// What instructions that were hidden are called, besides what they say.
const HIDDEN: &str = "obfuscated_instructions";

/// The patterns, compiled.
#[derive(Debug)]
pub struct Rules {
    built_in: RegexSet,
    squeezed: RegexSet,
    /// Those of the file, on the message as it reads.
    own: Vec<(Regex, String, u8)>,
    encoded: Regex,
}

/// What the patterns say of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The greatest confidence of the patterns that match, in hundredths; 0 if none does.
    pub confidence_percent: u8,
    /// The categories of those that match, each once, in the order of the list.
    pub patterns: Vec<String>,
}

impl Judgement {
    /// Is it an attack at this threshold? At exactly the threshold it is (G64).
    pub fn reaches(&self, threshold_percent: u8) -> bool {
        !self.patterns.is_empty() && self.confidence_percent >= threshold_percent
    }
}

impl Rules {
    /// The built-in patterns and these.
    pub fn new(own: &[InjectionPattern]) -> Result<Rules, PatternError> {
        if own.len() > PATTERNS_MAX {
            return Err(PatternError::TooMany { count: own.len(), max: PATTERNS_MAX });
        }
        let own = own
            .iter()
            .map(|pattern| {
                if pattern.confidence_percent > 100 {
                    return Err(PatternError::OutOfRange {
                        pattern: pattern.regex.clone(),
                        field: "confidence",
                        value: u64::from(pattern.confidence_percent),
                        allowed: "from 0 to 100 hundredths",
                    });
                }
                let regex = one(&pattern.regex)?;
                if regex.is_match("") {
                    return Err(PatternError::MatchesEmpty { pattern: pattern.regex.clone() });
                }
                Ok((regex, pattern.category.clone(), pattern.confidence_percent))
            })
            .collect::<Result<_, _>>()?;
        Ok(Rules {
            built_in: set(PHRASES.iter().map(|phrase| phrase.regex))?,
            squeezed: set(SQUEEZED.iter().map(|phrase| phrase.regex))?,
            own,
            encoded: one(r"[a-z0-9+/_-]{24,}={0,2}")?,
        })
    }

    /// Judges a message.
    pub fn judge(&self, message: &str) -> Judgement {
        let visible = plain::visible(message);
        let mut found = Found::default();
        let folded = spaced(&plain::folded(message));
        self.phrases(&folded, &mut found);
        let open = found.categories.clone();
        // What only shows when a disguise is taken off was hidden.
        self.phrases(&spaced(&figures_as_letters(&folded)), &mut found);
        self.squeezed(&folded, &mut found);
        let mut decoded = self.decoded(&visible);
        decoded.push(rot13(&folded));
        decoded.push(folded.chars().rev().collect());
        for text in decoded {
            self.strong_phrases(&spaced(&plain::folded(&text)), &mut found);
        }
        if found.categories.len() > open.len() {
            found.add(HIDDEN, found.confidence);
        }
        for (regex, category, confidence) in &self.own {
            if regex.is_match(&visible) || regex.is_match(&folded) {
                found.add(category, *confidence);
            }
        }
        self.judgement(found)
    }

    fn phrases(&self, text: &str, found: &mut Found) {
        self.built_in
            .matches(text.as_bytes())
            .iter()
            .for_each(|at| found.add(PHRASES[at].category, PHRASES[at].confidence));
    }

    /// Only what is beyond doubt counts in a text that was made by decoding: chance makes words too.
    fn strong_phrases(&self, text: &str, found: &mut Found) {
        let strong = |at: &usize| PHRASES[*at].confidence >= 85;
        let matches = self.built_in.matches(text.as_bytes());
        matches.iter().filter(strong).for_each(|at| found.add(PHRASES[at].category, PHRASES[at].confidence));
    }

    fn squeezed(&self, folded: &str, found: &mut Found) {
        let letters: String = folded.chars().filter(|c| c.is_alphanumeric()).collect();
        for text in [figures_as_letters(&letters), letters] {
            let matches = self.squeezed.matches(text.as_bytes());
            matches.iter().for_each(|at| found.add(SQUEEZED[at].category, SQUEEZED[at].confidence));
        }
    }

    /// Parts of the message in base64 or hexadecimal, as the texts they are.
    fn decoded(&self, visible: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for part in self.encoded.find_iter(visible).take(ENCODED_MAX) {
            let part = part.as_str().trim_end_matches('=');
            let bytes = if part.bytes().all(|b| b.is_ascii_hexdigit()) { hex(part) } else { base64(part) };
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            texts.extend(text.filter(|text| part.len() >= ENCODED_CHARS_MIN && readable(text)));
        }
        texts
    }

    fn judgement(&self, found: Found) -> Judgement {
        let own = self.own.iter().map(|(_, category, _)| category.as_str());
        let all = PHRASES.iter().map(|phrase| phrase.category).chain([HIDDEN]).chain(own);
        let mut patterns: Vec<String> = Vec::new();
        for category in all {
            if found.categories.iter().any(|c| c == category) && !patterns.iter().any(|c| c == category) {
                patterns.push(category.to_owned());
            }
        }
        Judgement { confidence_percent: found.confidence, patterns }
    }
}

#[derive(Default)]
struct Found {
    confidence: u8,
    categories: Vec<String>,
}

impl Found {
    fn add(&mut self, category: &str, confidence: u8) {
        self.confidence = self.confidence.max(confidence);
        if !self.categories.iter().any(|c| c == category) {
            self.categories.push(category.to_owned());
        }
    }
}

fn one(pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(pattern)
        .case_insensitive(true)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .map_err(|error| compile_error(pattern, &error))
}

fn set<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<RegexSet, PatternError> {
    // Words of other scripts are folded as messages are: ASCII is syntax here and stays.
    let fold = |c: char| if c.is_ascii() { Some(c) } else { plain::folded_char(c) };
    let patterns = patterns.map(|pattern| pattern.chars().filter_map(fold).collect::<String>());
    // Folded text has its letters in ASCII, so boundaries and classes of ASCII do, and need no slower engine where a message
    // has other characters too.
    RegexSetBuilder::new(patterns)
        .unicode(false)
        .size_limit(64 * PATTERN_BYTES_MAX)
        .dfa_size_limit(STATES_BYTES_MAX)
        .build()
        .map_err(|error| compile_error("built-in", &error))
}

/// White space, quotes and emphasis as one blank each.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_whitespace() || matches!(c, '*' | '`' | '"' | '~') { ' ' } else { c };
        if c != ' ' || !out.ends_with(' ') {
            out.push(c);
        }
    }
    out
}

/// `1gn0r3` as it is meant. Numbers that stand alone become words of nobody.
fn figures_as_letters(text: &str) -> String {
    let letter = |c| match c {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' | '+' => 't',
        c => c,
    };
    text.chars().map(letter).collect()
}

fn rot13(text: &str) -> String {
    let turn = |c: char| match c {
        'a'..='m' => char::from(c as u8 + 13),
        'n'..='z' => char::from(c as u8 - 13),
        c => c,
    };
    text.chars().map(turn).collect()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16);
    text.as_bytes().chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)).collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let standard = text.replace('-', "+").replace('_', "/");
    // A part of a group at the end decodes to nothing.
    let whole = if standard.len() % 4 == 1 { &standard[..standard.len() - 1] } else { &standard[..] };
    let config = base64::engine::GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true);
    base64::engine::GeneralPurpose::new(&base64::alphabet::STANDARD, config).decode(whole).ok()
}

/// Text, and not bytes that happen to be UTF-8.
fn readable(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || c.is_whitespace())
        && text.chars().filter(|c| c.is_alphabetic()).count() >= 8
}

#[cfg(test)]
mod tests;
