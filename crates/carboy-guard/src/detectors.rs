//! The compiled detectors of one run: its known secrets in every disguise, and the shapes of well-known tokens.
//!
//! It is built once at launch and shared by every scanner of the run. It never prints or returns a secret.

use std::collections::BTreeMap;

use base64::Engine;
use carboy_core::finding::{Detector, Finding, Fingerprint, Location, Severity};
use carboy_core::ids::SecretName;
use carboy_core::secret::SecretText;
use zeroize::Zeroizing;

use crate::known::{KnownScan, KnownSecrets, Sought};
use crate::tokens::{self, TokenScan};
use crate::variants::turned_over;
use crate::view::More;
use crate::window::{Match, Window};

/// Shortest secret that is looked for, in bytes: shorter ones would be found everywhere.
pub const SECRET_BYTES_MIN: usize = 8;
/// Longest secret that is looked for, in bytes (a PEM key fits).
pub const SECRET_BYTES_MAX: usize = 16 * 1024;
/// Most secrets of one run.
pub const SECRETS_MAX: usize = 256;

/// Times that a short text is percent-decoded: an application behind a gateway decodes what that already has.
pub const PERCENT_ROUNDS_MAX: usize = 3;

/// Why the detectors could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Too short to be told from ordinary text.
    #[error("secret `{name}` has fewer than {SECRET_BYTES_MIN} bytes and cannot be recognised: use a longer one")]
    TooShort {
        /// Which one.
        name: SecretName,
    },
    /// Longer than what is scanned for.
    #[error("secret `{name}` has more than {SECRET_BYTES_MAX} bytes: keep only the credential itself in it")]
    TooLong {
        /// Which one.
        name: SecretName,
    },
    /// More than one run may hold.
    #[error("more than {SECRETS_MAX} secrets in one run: split the bottle")]
    TooMany,
}

/// Compiled known secrets of one run and the token rules; shared as `Arc<Detectors>`.
pub struct Detectors {
    fingerprint_key: [u8; 32],
    known: KnownSecrets,
    placeholders: BTreeMap<SecretName, String>,
}

/// Collects the secrets of a run.
pub struct DetectorsBuilder {
    fingerprint_key: [u8; 32],
    secrets: Vec<(SecretName, Zeroizing<Vec<u8>>)>,
    placeholders: BTreeMap<SecretName, String>,
}

/// Rounds after which [`Detectors::redact`] overwrites with stars instead of markers: a secret that is part of its
/// own marker would otherwise never end.
const REDACT_ROUNDS_MAX: usize = 3;

impl Detectors {
    /// `fingerprint_key` is the key of this host for [`carboy_core::finding::Fingerprint`].
    pub fn builder(fingerprint_key: [u8; 32]) -> DetectorsBuilder {
        DetectorsBuilder { fingerprint_key, secrets: Vec::new(), placeholders: BTreeMap::new() }
    }

    pub(crate) fn known(&self) -> &KnownSecrets {
        &self.known
    }

    /// Has the run placeholders at all?
    pub fn has_placeholders(&self) -> bool {
        !self.placeholders.is_empty()
    }

    /// What stands inside in this secret's place, where it has a placeholder of this run.
    pub fn placeholder(&self, name: &SecretName) -> Option<&str> {
        self.placeholders.get(name).map(String::as_str)
    }

    /// Scans a short text (request line, header value, DNS name) as it stands, percent-decoded (up to
    /// [`PERCENT_ROUNDS_MAX`] times), and the decoded credentials of `Basic`. Spans are those of the text in which the match stands. One finding per rule.
    pub fn scan_text(&self, text: &[u8], detectors: &[Detector], location: Location) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut forms = vec![text.to_vec()];
        for _ in 0..PERCENT_ROUNDS_MAX {
            match forms.last().and_then(|form| percent_decoded(form)) {
                Some(decoded) => forms.push(decoded),
                None => break,
            }
        }
        forms.extend(basic_credentials(text));
        for form in forms {
            for m in self.matches(&form, detectors) {
                let finding = self.finding(&m, &form[m.start as usize..m.end as usize], location);
                if !found.iter().any(|f: &Finding| f.rule == finding.rule) {
                    found.push(finding);
                }
            }
        }
        // Where one text is both, what it really is comes first.
        found.sort_by_key(|finding| match finding.detector {
            Detector::Placeholders => 0,
            Detector::KnownSecrets => 1,
            Detector::TokenPatterns | Detector::NaiveInjectionDetection => 2,
        });
        found
    }

    /// D7: the text with every match replaced by `[REDACTED:rule]`; in a response, a secret that has a placeholder by that,
    /// written in the same way. A text in which only a decoded form matches (percent-encoding, `Basic`) is replaced as a
    /// whole.
    pub fn redact(&self, text: &[u8], detectors: &[Detector], location: Location) -> (Vec<u8>, Vec<Finding>) {
        let (mut text, mut findings) = (text.to_vec(), Vec::new());
        let inbound = matches!(location, Location::ResponseHeader | Location::ResponseBody);
        for round in 0.. {
            let matches = self.matches(&text, detectors);
            if matches.is_empty() {
                break;
            }
            let mut out = Vec::with_capacity(text.len());
            let mut at = 0;
            for (span, first) in union(&matches, text.len()) {
                let found = &matches[first];
                findings.push(self.finding(found, &text[span.clone()], location));
                out.extend_from_slice(&text[at..span.start]);
                at = span.end;
                match found.instead.as_ref().filter(|instead| inbound && instead.bytes.len() == span.len()) {
                    Some(instead) => {
                        turn(out.last_mut(), instead.lead);
                        out.extend_from_slice(&instead.bytes);
                        turn(text.get_mut(at), instead.trail);
                    }
                    None if round < REDACT_ROUNDS_MAX => {
                        out.extend_from_slice(format!("[REDACTED:{}]", self.rule_name(found)).as_bytes());
                    }
                    None => out.push(b'*'),
                }
            }
            out.extend_from_slice(&text[at..]);
            text = out;
        }
        let hidden = self.scan_text(&text, detectors, location);
        if let Some(first) = hidden.first() {
            text = format!("[REDACTED:{}]", first.rule).into_bytes();
            findings.extend(hidden);
        }
        (text, findings)
    }

    fn matches(&self, text: &[u8], detectors: &[Detector]) -> Vec<Match> {
        let window = Window { base: 0, data: text, more: More::Ended, before: None };
        let mut matches = Vec::new();
        if detectors.contains(&Detector::KnownSecrets) || detectors.contains(&Detector::Placeholders) {
            KnownScan::new().advance(&self.known, &window, &mut matches);
            matches.retain(|found| detectors.contains(&found.detector));
        }
        if detectors.contains(&Detector::TokenPatterns) {
            TokenScan::new().advance(&window, &mut matches);
        }
        matches.sort_by_key(|m| (m.start, std::cmp::Reverse(m.end), m.detector));
        matches
    }

    fn rule_name<'a>(&'a self, found: &Match) -> &'a str {
        match found.detector {
            Detector::KnownSecrets | Detector::Placeholders => self.known.rule(found.rule),
            Detector::TokenPatterns | Detector::NaiveInjectionDetection => tokens::rule_name(found.rule),
        }
    }

    /// The finding that ends a stream. A secret of this run that has the shape of a token is confirmed as a token before
    /// its last byte is there, and is told as what it is.
    pub(crate) fn last_finding(&self, found: &Match, text: &[u8], location: Location) -> Finding {
        let finding = self.finding(found, text, location);
        match (found.detector, self.known.rule_of_token(text)) {
            (Detector::TokenPatterns, Some((rule, detector))) => Finding {
                detector,
                rule: rule.to_owned(),
                reason: reason_of(detector, rule, "literal"),
                form: "literal",
                ..finding
            },
            (Detector::TokenPatterns, None)
            | (Detector::Placeholders | Detector::KnownSecrets | Detector::NaiveInjectionDetection, _) => finding,
        }
    }

    pub(crate) fn finding(&self, found: &Match, text: &[u8], location: Location) -> Finding {
        let rule = self.rule_name(found).to_owned();
        let reason = reason_of(found.detector, &rule, found.form);
        Finding {
            detector: found.detector,
            rule,
            severity: Severity::Block,
            reason,
            location,
            span: found.start..found.end,
            form: found.form,
            fingerprint: Some(Fingerprint::new(&self.fingerprint_key, text)),
        }
    }
}

fn reason_of(detector: Detector, rule: &str, form: &str) -> String {
    match detector {
        Detector::KnownSecrets => format!("a secret of this run, written as {form}"),
        Detector::Placeholders => format!("a placeholder of this run's credentials, written as {form}"),
        Detector::TokenPatterns | Detector::NaiveInjectionDetection => {
            format!("text in the shape of a credential ({rule})")
        }
    }
}

fn turn(byte: Option<&mut u8>, bits: u8) {
    if let Some(byte) = byte {
        *byte = turned_over(*byte, bits);
    }
}

/// Overlapping and touching matches as one span each, with the index of its first match. A match whose end is not
/// known takes the rest of the text, `len` bytes in all.
fn union(matches: &[Match], len: usize) -> Vec<(std::ops::Range<usize>, usize)> {
    let mut spans: Vec<(std::ops::Range<usize>, usize)> = Vec::new();
    for (i, found) in matches.iter().enumerate() {
        let (start, end) = (found.start as usize, if found.open_ended { len } else { found.end as usize });
        match spans.last_mut() {
            Some((last, _)) if start <= last.end => last.end = last.end.max(end),
            Some(_) | None => spans.push((start..end, i)),
        }
    }
    spans
}

/// The text with `%XX` decoded, if there is any.
fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        match (b, digit(text.get(at + 1)), digit(text.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            _ => {
                out.push(b);
                at += 1;
            }
        }
    }
    (out.len() < text.len()).then_some(out)
}

/// The decoded credentials of every `Basic` in the text (RFC 7617), a line each: the first one may be a decoy.
fn basic_credentials(text: &[u8]) -> Option<Vec<u8>> {
    const SCHEME: &[u8] = b"basic ";
    let mut all = Vec::new();
    let mut at = 0;
    while let Some(next) = text[at..].windows(SCHEME.len()).position(|w| w.eq_ignore_ascii_case(SCHEME)) {
        at += next + SCHEME.len();
        if let Some(credentials) = one_basic(&text[at..]) {
            all.extend_from_slice(&credentials);
            all.push(b'\n');
        }
    }
    (!all.is_empty()).then_some(all)
}

fn one_basic(text: &[u8]) -> Option<Vec<u8>> {
    let value = text.trim_ascii_start();
    let end = value.iter().position(|b| !b.is_ascii_alphanumeric() && !b"+/-_".contains(b)).unwrap_or(value.len());
    let standard: Vec<u8> = value[..end]
        .iter()
        .map(|&b| {
            if b == b'-' {
                b'+'
            } else if b == b'_' {
                b'/'
            } else {
                b
            }
        })
        .collect();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(standard).ok()
}

impl DetectorsBuilder {
    /// Adds one secret (D1, D2).
    pub fn known_secret(mut self, name: &SecretName, value: &SecretText) -> Self {
        self.secrets.push((name.clone(), Zeroizing::new(value.expose().as_bytes().to_vec())));
        self
    }

    /// Adds what stands inside in the place of the secret of this name: it is found wherever [`Detector::Placeholders`] is
    /// looked for, and stands in what comes back where the secret was.
    pub fn placeholder(mut self, name: &SecretName, value: &str) -> Self {
        self.placeholders.insert(name.clone(), value.to_owned());
        self
    }

    /// Compiles. Errors name the secret, never its value.
    pub fn build(self) -> Result<Detectors, BuildError> {
        if self.secrets.len() + self.placeholders.len() > SECRETS_MAX {
            return Err(BuildError::TooMany);
        }
        for (name, value) in &self.secrets {
            if value.len() < SECRET_BYTES_MIN {
                return Err(BuildError::TooShort { name: name.clone() });
            }
            if value.len() > SECRET_BYTES_MAX {
                return Err(BuildError::TooLong { name: name.clone() });
            }
        }
        let real = self.secrets.iter().map(|(name, value)| Sought {
            rule: format!("known_secret:{name}"),
            detector: Detector::KnownSecrets,
            value,
            instead: self.placeholders.get(name).map(String::as_str),
        });
        let fakes = self.placeholders.iter().map(|(name, value)| Sought {
            rule: format!("placeholder:{name}"),
            detector: Detector::Placeholders,
            value: value.as_bytes(),
            instead: None,
        });
        let known = KnownSecrets::new(real.chain(fakes));
        Ok(Detectors { fingerprint_key: self.fingerprint_key, known, placeholders: self.placeholders })
    }
}

#[cfg(test)]
mod tests;
