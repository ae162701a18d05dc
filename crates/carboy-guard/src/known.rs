//! D1, D2: known secrets in a stream.
//!
//! Each variant of a secret is looked for in the normalised view ([`crate::view`]); the few whose view is too short to
//! be distinctive are looked for as they are. What is held back is the beginning of a variant at the end of the stream.

use std::collections::HashMap;

use carboy_core::finding::Detector;
use zeroize::{Zeroize, Zeroizing};

use crate::automaton::{Automaton, Cursor, Hit, LITERAL_BYTES_MIN};
use crate::variants::{Variant, paired, variants};
use crate::view::{More, View, back, fold};
use crate::window::{Match, Window};

/// Shortest view that is distinctive, in characters: below it "pass word" would be a leak of `password`.
const VIEW_CHARS_MIN: usize = 12;
/// Longest literal that is looked for, in bytes; of a longer variant its beginning.
const LITERAL_BYTES_MAX: usize = 4096;
/// Bytes of punctuation at either end of a secret that belong to a match in the view.
const FRINGE_BYTES_MAX: usize = 16;
/// Characters of a beginning that may be let go when the stream pauses: texts end in `sk-` or `Bearer` all the time,
/// and what is behind those is still overwritten when it comes.
const PAUSE_CHARS_MAX: usize = 6;
/// Bytes that go through the view at a time.
const STEP_BYTES: usize = 16 * 1024;

/// A value that is looked for.
pub(crate) struct Sought<'a> {
    /// What it is reported as.
    pub(crate) rule: String,
    /// As what: a secret, or the placeholder of one.
    pub(crate) detector: Detector,
    pub(crate) value: &'a [u8],
    /// A secret's placeholder.
    pub(crate) instead: Option<&'a str>,
}

/// The compiled variants of all secrets of a run, and of their placeholders.
pub(crate) struct KnownSecrets {
    rules: Vec<(String, Detector)>,
    /// Each secret in plain, to tell a token that is one of ours from any other.
    plain: Vec<Zeroizing<Vec<u8>>>,
    folded: Automaton,
    folded_literals: Vec<Literal>,
    exact: Automaton,
    exact_literals: Vec<Literal>,
    /// Longest punctuation before the first letter of a variant.
    lead_max: usize,
}

/// Variants that look the same to one automaton.
struct Literal {
    rule: usize,
    /// Length in the automaton's stream.
    len: usize,
    variants: Vec<Variant>,
    cut: Cut,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Whole,
    /// Only the beginning is looked for: the end of the match is not known.
    Beginning,
}

impl KnownSecrets {
    pub(crate) fn new<'a>(all: impl Iterator<Item = Sought<'a>>) -> Self {
        let (mut rules, mut plain) = (Vec::new(), Vec::new());
        let (mut folded, mut exact) = (Table::default(), Table::default());
        let mut lead_max = 0;
        for Sought { rule: name, detector, value, instead } in all {
            let rule = rules.len();
            rules.push((name, detector));
            plain.push(Zeroizing::new(value.to_vec()));
            let variants = instead.map_or_else(|| variants(value), |fake| paired(value, fake.as_bytes()));
            for variant in variants {
                let view = fold(&variant.bytes);
                // The character before one within base64 is changed with it.
                let edge = usize::from(variant.instead.as_ref().is_some_and(|instead| instead.lead != 0));
                if view.len() >= VIEW_CHARS_MIN {
                    lead_max = lead_max.max(fringes(&variant.bytes).0).max(edge);
                    folded.add(view, rule, variant);
                } else {
                    exact.add(variant.bytes.to_vec(), rule, variant);
                }
            }
        }
        KnownSecrets {
            rules,
            plain,
            folded: Automaton::new(folded.texts.iter().map(|t| &t[..])),
            folded_literals: folded.take(),
            exact: Automaton::new(exact.texts.iter().map(|t| &t[..])),
            exact_literals: exact.take(),
            lead_max,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(crate) fn rule(&self, index: usize) -> &str {
        &self.rules[index].0
    }

    /// The rule of the secret or placeholder that `token` is, or is a part of, or has in it.
    pub(crate) fn rule_of_token(&self, token: &[u8]) -> Option<(&str, Detector)> {
        let within = |part: &[u8], whole: &[u8]| memchr::memmem::find(whole, part).is_some();
        let of = self.plain.iter().position(|secret| within(token, secret) || within(secret, token))?;
        let (rule, detector) = &self.rules[of];
        Some((rule, *detector))
    }
}

#[derive(Default)]
struct Table {
    texts: Vec<Vec<u8>>,
    literals: Vec<Literal>,
    index: HashMap<Vec<u8>, usize>,
}

impl Table {
    fn add(&mut self, mut text: Vec<u8>, rule: usize, variant: Variant) {
        let cut = if text.len() > LITERAL_BYTES_MAX { Cut::Beginning } else { Cut::Whole };
        text.truncate(LITERAL_BYTES_MAX);
        if text.len() < LITERAL_BYTES_MIN {
            return;
        }
        if let Some(&at) = self.index.get(&text) {
            text.zeroize();
            if self.literals[at].rule == rule {
                self.literals[at].variants.push(variant);
            }
            return;
        }
        self.index.insert(text.clone(), self.texts.len());
        self.literals.push(Literal { rule, len: text.len(), variants: vec![variant], cut });
        self.texts.push(text);
    }

    fn take(&mut self) -> Vec<Literal> {
        self.texts.iter_mut().for_each(Zeroize::zeroize);
        self.index.drain().for_each(|(mut text, _)| text.zeroize());
        std::mem::take(&mut self.literals)
    }
}

/// Bytes before the first and behind the last letter or digit.
fn fringes(text: &[u8]) -> (usize, usize) {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || *b >= 0x80;
    let lead = text.iter().position(plain).unwrap_or(0);
    let trail = text.iter().rev().position(plain).unwrap_or(0);
    (lead.min(FRINGE_BYTES_MAX), trail.min(FRINGE_BYTES_MAX))
}

/// One stream's place in the known secrets.
pub(crate) struct KnownScan {
    view: View,
    folded: Cursor,
    exact: Cursor,
    exact_cursor: u64,
    /// Matches whose last punctuation may still come: their span in the view and the literal.
    pending: Vec<Pending>,
    normalised: Vec<u8>,
    hits: Vec<Hit>,
    guarded: u64,
}

struct Pending {
    start: u64,
    end: u64,
    literal: usize,
}

impl KnownScan {
    pub(crate) fn new() -> Self {
        KnownScan {
            view: View::new(),
            folded: Cursor::new(),
            exact: Cursor::new(),
            exact_cursor: 0,
            pending: Vec::new(),
            normalised: Vec::new(),
            hits: Vec::new(),
            guarded: 0,
        }
    }

    /// From here on bytes are held back even when the stream pauses: a good part of a secret, or all of it.
    pub(crate) fn guarded(&self) -> u64 {
        self.guarded
    }

    /// Looks at what is new in the window; returns from where on bytes must be held back.
    pub(crate) fn advance(&mut self, known: &KnownSecrets, window: &Window<'_>, found: &mut Vec<Match>) -> u64 {
        self.guarded = window.end();
        if known.is_empty() {
            return window.end();
        }
        let hold = self.advance_view(known, window);
        let hold = self.settle(known, window, found).min(hold);
        self.advance_exact(known, window, found).min(hold)
    }

    fn advance_view(&mut self, known: &KnownSecrets, window: &Window<'_>) -> u64 {
        loop {
            let from = window.index(self.view.cursor);
            let to = window.data.len().min(from + STEP_BYTES);
            let more = if to == window.data.len() { window.more } else { More::Open };
            let step = &window.data[from..to];
            let before = self.view.clone();
            self.normalised.clear();
            self.view.run(step, more, &mut self.normalised);
            self.hits.clear();
            self.folded.feed(&known.folded, &self.normalised, &mut self.hits);
            self.place_hits(known, window, before, step, more);
            if to == window.data.len() {
                break;
            }
        }
        let depth = self.folded.depth(&known.folded);
        let from = back(window.data, window.index(self.view.cursor), depth);
        let hold = (window.base + from as u64).saturating_sub(known.lead_max as u64).max(window.base);
        if depth > PAUSE_CHARS_MAX {
            self.guarded = self.guarded.min(hold);
        }
        hold
    }

    /// From places in the view to places in the stream; the hits come in the order of their ends.
    fn place_hits(&mut self, known: &KnownSecrets, window: &Window<'_>, mut view: View, step: &[u8], more: More) {
        if self.hits.is_empty() {
            return;
        }
        let (base, mut seen, mut next) = (view.cursor, 0, 0);
        let (hits, pending) = (&self.hits, &mut self.pending);
        view.walk(step, more, |_, behind| {
            seen += 1;
            while next < hits.len() && hits[next].end == seen {
                let literal = hits[next].literal as usize;
                let end = base + behind as u64;
                let start = back(window.data, window.index(end), known.folded_literals[literal].len);
                pending.push(Pending { start: window.base + start as u64, end, literal });
                next += 1;
            }
        });
    }

    /// Reports the matches whose surroundings are complete.
    pub(crate) fn settle(&mut self, known: &KnownSecrets, window: &Window<'_>, found: &mut Vec<Match>) -> u64 {
        let mut hold = window.end();
        self.pending.retain(|pending| {
            let literal = &known.folded_literals[pending.literal];
            let trail = literal.variants.iter().map(|v| fringes(&v.bytes).1).max().unwrap_or(0) as u64;
            if window.more == More::Open && window.end() < pending.end + trail {
                hold = hold.min(pending.start.saturating_sub(known.lead_max as u64).max(window.base));
                return true;
            }
            let confirmed = (pending.end + trail).min(window.end());
            let (start, end) = literal.surroundings(window, pending.start, pending.end);
            found.push(literal.to_match(known, window, (start, end), confirmed));
            false
        });
        self.guarded = self.guarded.min(hold);
        hold
    }

    fn advance_exact(&mut self, known: &KnownSecrets, window: &Window<'_>, found: &mut Vec<Match>) -> u64 {
        if known.exact.is_empty() {
            return window.end();
        }
        let from = window.index(self.exact_cursor);
        let base = self.exact_cursor;
        self.hits.clear();
        self.exact.feed(&known.exact, &window.data[from..], &mut self.hits);
        for hit in &self.hits {
            let literal = &known.exact_literals[hit.literal as usize];
            let end = base + hit.end as u64;
            found.push(literal.to_match(known, window, (end - literal.len as u64, end), end));
        }
        self.exact_cursor = window.end();
        let depth = self.exact.depth(&known.exact);
        if depth > PAUSE_CHARS_MAX {
            self.guarded = self.guarded.min(window.end() - depth as u64);
        }
        window.end() - depth as u64
    }
}

impl Literal {
    /// The span with the punctuation at its ends that belongs to the secret.
    fn surroundings(&self, window: &Window<'_>, start: u64, end: u64) -> (u64, u64) {
        let (at, behind) = (window.index(start), window.index(end));
        let (mut first, mut last) = (start, end);
        for variant in &self.variants {
            let (lead, trail) = fringes(&variant.bytes);
            let bytes = &variant.bytes[..];
            if lead <= at && window.data[at - lead..at] == bytes[..lead] {
                first = first.min(start - lead as u64);
            }
            if window.data[behind..].starts_with(&bytes[bytes.len() - trail..]) {
                last = last.max(end + trail as u64);
            }
        }
        (first, last)
    }

    fn to_match(&self, known: &KnownSecrets, window: &Window<'_>, (start, end): (u64, u64), confirmed: u64) -> Match {
        let text = &window.data[window.index(start)..window.index(end)];
        let exactly = self.variants.iter().find(|v| text.starts_with(&v.bytes) || text.ends_with(&v.bytes));
        let first = self.variants.first().map_or("literal", |v| v.form);
        Match {
            detector: known.rules[self.rule].1,
            rule: self.rule,
            start,
            end,
            confirmed,
            form: exactly.map_or(if first == "literal" { "respelled" } else { first }, |v| v.form),
            open_ended: self.cut == Cut::Beginning,
            exact: exactly.is_some(),
            instead: self.variants.iter().find(|v| *v.bytes == *text).and_then(|v| v.instead.clone()),
        }
    }
}
