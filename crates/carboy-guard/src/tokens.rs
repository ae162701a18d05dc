//! `token_patterns`: the shapes of well-known credentials.
//!
//! A rule is a prefix, a class of characters, and a length. A prefix whose token still goes on at the longest length
//! counts as a match; one that may still become a match at the end of the stream is held back. A token around
//! [`crate::PLACEHOLDER_MARK`] is one of our own fakes and passes.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind, packed};
use carboy_core::finding::Detector;

use crate::placeholder::PLACEHOLDER_MARK;
use crate::view::More;
use crate::window::{Match, Window};

/// Longest token but PEM, in bytes.
const TOKEN_BYTES_MAX: usize = 4096;
/// Longest PEM block, in bytes.
const PEM_BYTES_MAX: usize = 16 * 1024;
/// Longest PEM header line, in bytes.
const PEM_HEADER_MAX: usize = 64;
/// Base64 characters in a row that make a PEM body.
const PEM_RUN_MIN: usize = 40;

struct Rule {
    name: &'static str,
    prefixes: &'static [&'static str],
    class: fn(u8) -> bool,
    /// Bytes behind the prefix.
    min: usize,
    max: usize,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Random characters: a digit, and at least [`DISTINCT_MIN`] different ones.
    Random,
    /// Nothing beyond class and length.
    Plain,
    /// Three base64url parts with dots.
    Jwt,
    Pem,
}

const DISTINCT_MIN: usize = 6;

fn alnum(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

fn url(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn dotted(b: u8) -> bool {
    url(b) || b == b'.'
}

fn upper(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit()
}

fn lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

fn path(b: u8) -> bool {
    alnum(b) || b == b'/'
}

fn pem(b: u8) -> bool {
    alnum(b) || b"+/=\\ \n\r\t-:,\"".contains(&b)
}

const fn rule(
    name: &'static str,
    prefixes: &'static [&'static str],
    class: fn(u8) -> bool,
    min: usize,
    max: usize,
    shape: Shape,
) -> Rule {
    Rule { name, prefixes, class, min, max, shape }
}

const RULES: &[Rule] = &[
    rule("github_token", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], alnum, 36, 255, Shape::Random),
    rule("github_fine_grained_token", &["github_pat_"], word, 40, 255, Shape::Random),
    rule("anthropic_key", &["sk-ant-"], url, 32, 256, Shape::Random),
    rule("openai_key", &["sk-", "sk-proj-", "sk-svcacct-", "sk-admin-"], url, 32, 256, Shape::Random),
    rule("aws_access_key_id", &["AKIA", "ASIA"], upper, 16, 16, Shape::Plain),
    rule("google_api_key", &["AIza"], url, 35, 35, Shape::Random),
    rule("slack_token", &["xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-", "xoxe-", "xapp-"], url, 20, 256, Shape::Random),
    rule("slack_webhook", &["hooks.slack.com/services/T"], path, 30, 80, Shape::Plain),
    rule("stripe_key", &["sk_live_", "rk_live_", "sk_test_", "rk_test_"], alnum, 16, 256, Shape::Random),
    rule("gitlab_token", &["glpat-", "gldt-", "glrt-", "glptt-"], url, 20, 128, Shape::Random),
    rule("npm_token", &["npm_"], alnum, 36, 36, Shape::Random),
    rule("pypi_token", &["pypi-AgE"], url, 50, 512, Shape::Random),
    rule("hugging_face_token", &["hf_"], alnum, 30, 64, Shape::Random),
    rule("sendgrid_key", &["SG."], dotted, 66, 66, Shape::Random),
    rule("twilio_key", &["SK"], lower_hex, 32, 32, Shape::Random),
    rule("digitalocean_token", &["dop_v1_", "doo_v1_", "dor_v1_"], lower_hex, 64, 64, Shape::Random),
    rule("jwt", &["eyJ"], dotted, 30, TOKEN_BYTES_MAX - 3, Shape::Jwt),
    rule("private_key", &["-----BEGIN "], pem, 0, PEM_BYTES_MAX, Shape::Pem),
];

/// What the tokens of all rules begin with.
pub(crate) fn prefixes() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.prefixes.iter().copied())
}

/// A rule's stable name.
pub(crate) fn rule_name(index: usize) -> &'static str {
    RULES[index].name
}

/// All prefixes at once: packed SIMD search where the processor has it.
struct Prefixes {
    packed: Option<packed::Searcher>,
    plain: AhoCorasick,
    /// Prefix → rule and length.
    rules: Vec<(usize, usize)>,
    longest: usize,
}

static PREFIXES: LazyLock<Prefixes> = LazyLock::new(|| {
    let pairs: Vec<(usize, &str)> =
        RULES.iter().enumerate().flat_map(|(i, rule)| rule.prefixes.iter().map(move |p| (i, *p))).collect();
    let texts: Vec<&str> = pairs.iter().map(|(_, p)| *p).collect();
    let mut builder = packed::Config::new().match_kind(packed::MatchKind::LeftmostLongest).builder();
    builder.extend(&texts);
    Prefixes {
        packed: builder.build(),
        plain: AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts)
            .expect("a few short prefixes fit any automaton"),
        rules: pairs.iter().map(|(i, p)| (*i, p.len())).collect(),
        longest: texts.iter().map(|t| t.len()).max().unwrap_or(0),
    }
});

impl Prefixes {
    /// The next prefix: where it begins, its rule, its length.
    fn find(&self, data: &[u8], at: usize) -> Option<(usize, usize, usize)> {
        let (start, pattern) = match &self.packed {
            Some(packed) => {
                let found = packed.find_in(data, aho_corasick::Span { start: at, end: data.len() })?;
                (found.start(), found.pattern())
            }
            None => {
                let found = self.plain.find(aho_corasick::Input::new(data).range(at..))?;
                (found.start(), found.pattern())
            }
        };
        let (rule, len) = self.rules[pattern.as_usize()];
        Some((start, rule, len))
    }
}

/// Characters of what may become a token that may be given out where a stream pauses; every prefix is public.
const PAUSE_CHARS_MAX: u64 = 6;

/// One stream's place in the token rules.
#[derive(Clone)]
pub(crate) struct TokenScan {
    /// From here on prefixes are looked for.
    cursor: u64,
    live: Option<Live>,
    behind: Behind,
}

/// A prefix whose token has not ended yet.
#[derive(Clone)]
struct Live {
    rule: usize,
    start: u64,
    body: u64,
    /// Looked at up to here.
    at: u64,
}

enum Fate {
    Open,
    /// No token: look again from here.
    No(u64),
    Token {
        end: u64,
        confirmed: u64,
    },
}

impl TokenScan {
    pub(crate) fn new() -> Self {
        TokenScan { cursor: 0, live: None, behind: Behind::default() }
    }

    /// Looks at what is new in the window; returns from where on bytes must be held back.
    pub(crate) fn advance(&mut self, window: &Window<'_>, found: &mut Vec<Match>) -> u64 {
        let prefixes = &*PREFIXES;
        loop {
            if let Some(mut live) = self.live.take() {
                match live.advance(window) {
                    Fate::Open => {
                        let hold = live.start;
                        self.live = Some(live);
                        self.behind = self.behind.before(window, window.index(hold));
                        return hold;
                    }
                    Fate::No(next) => self.cursor = next,
                    Fate::Token { end, confirmed } => {
                        self.cursor = end;
                        let text = &window.data[window.index(live.start)..window.index(end)];
                        if memchr::memmem::find(text, PLACEHOLDER_MARK.as_bytes()).is_none() {
                            found.push(Match {
                                detector: Detector::TokenPatterns,
                                rule: live.rule,
                                start: live.start,
                                end,
                                // The prefix itself was not taken before this many bytes were there.
                                confirmed: confirmed.max(live.start + prefixes.longest as u64).min(window.end()),
                                form: "",
                                open_ended: false,
                                exact: true,
                                instead: None,
                            });
                        }
                    }
                }
            }
            // A prefix is taken only when no longer one can begin at the same place: the last bytes wait.
            let settled = match window.more {
                More::Open => window.end().saturating_sub(prefixes.longest as u64 - 1),
                More::Ended => window.end(),
            };
            match prefixes.find(window.data, window.index(self.cursor.max(window.base))) {
                Some((at, rule, len)) if window.base + (at as u64) < settled => {
                    let start = window.base + at as u64;
                    if bounded(rule, self.behind.before(window, at).as_slice()) {
                        self.live = Some(Live { rule, start, body: start + len as u64, at: start + len as u64 });
                    } else {
                        self.cursor = start + 1;
                    }
                }
                Some(_) | None => {
                    self.cursor = self.cursor.max(settled);
                    let hold = self.hold(window);
                    self.behind = self.behind.before(window, window.index(hold));
                    return hold;
                }
            }
        }
    }

    /// The tokens that are only waiting for what stands behind them.
    pub(crate) fn conclude(&self, window: &Window<'_>, found: &mut Vec<Match>) {
        self.clone().advance(window, found);
    }

    /// From here on bytes are held back even when the stream pauses: what may become a token, beyond its first characters.
    pub(crate) fn guarded(&self, window: &Window<'_>) -> u64 {
        let from = match &self.live {
            Some(live) => live.start,
            None => (self.cursor.max(window.base)..window.end())
                .find(|&at| self.may_become_a_token(window, window.index(at)))
                .unwrap_or(window.end()),
        };
        if window.end() - from > PAUSE_CHARS_MAX { from } else { window.end() }
    }

    /// Is all that stands behind this place part of one token, or the beginning of a prefix?
    fn may_become_a_token(&self, window: &Window<'_>, at: usize) -> bool {
        let rest = &window.data[at..];
        RULES.iter().enumerate().any(|(number, rule)| {
            let fits = rule.prefixes.iter().any(|prefix| match rest.strip_prefix(prefix.as_bytes()) {
                Some(body) => body.iter().all(|&b| (rule.class)(b)),
                None => prefix.as_bytes().starts_with(rest),
            });
            fits && bounded(number, self.behind.before(window, at).as_slice())
        })
    }

    /// The first of the last bytes that may be the beginning of a prefix.
    fn hold(&self, window: &Window<'_>) -> u64 {
        (self.cursor.max(window.base)..window.end())
            .find(|&at| {
                let rest = &window.data[window.index(at)..];
                RULES.iter().flat_map(|rule| rule.prefixes).any(|p| {
                    let n = rest.len().min(p.len());
                    rest[..n] == p.as_bytes()[..n]
                })
            })
            .unwrap_or(window.end())
    }
}

/// Tokens do not begin in the middle of a word. The last letter of an escape is none of a word's: in a JSON text a token
/// at the beginning of a line stands behind `\n`, in a form behind `%0A`, in what `grep --color` prints behind `ESC[K`.
fn bounded(rule: usize, before: &[u8]) -> bool {
    let within: fn(u8) -> bool = match RULES[rule].shape {
        Shape::Pem => return true,
        Shape::Jwt => dotted,
        Shape::Random | Shape::Plain => word,
    };
    !before.last().copied().is_some_and(within) || ends_an_escape(before)
}

fn ends_an_escape(before: &[u8]) -> bool {
    let hex = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_hexdigit);
    match before {
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f' | b'v' | b'a' | b'e' | b'0'] => true,
        [.., b'%', a, b] | [.., b'\\', b'x', a, b] if hex(&[*a, *b]) => true,
        [.., b'\\', b'u', a, b, c, d] if hex(&[*a, *b, *c, *d]) => true,
        [.., b'\\', b'0'..=b'3', b'0'..=b'7', b'0'..=b'7'] => true,
        [before @ .., b'@'..=b'~'] => ends_a_control_sequence(before),
        _ => false,
    }
}

/// Is this a terminal's control sequence (ECMA-48 5.4) up to its last letter: ESC, `[`, numbers? The ESC may be written
/// as JSON, shells, C and forms do.
fn ends_a_control_sequence(mut before: &[u8]) -> bool {
    loop {
        before = match before {
            [rest @ .., b'0'..=b'9' | b';' | b':' | b'?'] => rest,
            [rest @ .., b'%', b'3', b'B' | b'b'] => rest,
            _ => break,
        };
    }
    let before = match before {
        [rest @ .., b'['] | [rest @ .., b'%', b'5', b'B' | b'b'] => rest,
        _ => return false,
    };
    const SPELLINGS: [&[u8]; 9] =
        [b"\x1b", b"\\e", b"\\u001b", b"\\u001B", b"\\x1b", b"\\x1B", b"\\033", b"%1b", b"%1B"];
    SPELLINGS.iter().any(|escape| before.ends_with(escape))
}

/// Bytes before a place that can be part of one escape.
const ESCAPE_BYTES_MAX: usize = 32;

/// The last bytes before the place from which on bytes are held back: the next window begins there.
#[derive(Clone, Copy, Default)]
struct Behind {
    at: u64,
    bytes: [u8; ESCAPE_BYTES_MAX],
    len: usize,
}

impl Behind {
    /// The bytes before this index of a window, at most [`ESCAPE_BYTES_MAX`]; `self` is of an earlier place.
    fn before(&self, window: &Window<'_>, index: usize) -> Behind {
        let mut all = [0; 2 * ESCAPE_BYTES_MAX];
        let mut len = 0;
        let mut push = |bytes: &[u8]| {
            all[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        };
        // What is known of bytes that have left the window joins what still stands in it.
        let from = match self.at.checked_sub(window.base) {
            Some(gap) if gap <= index as u64 => {
                push(self.as_slice());
                gap as usize
            }
            Some(_) | None => {
                push(window.before.as_slice());
                0
            }
        };
        push(&window.data[from.max(index.saturating_sub(ESCAPE_BYTES_MAX))..index]);
        let first = len.saturating_sub(ESCAPE_BYTES_MAX);
        let mut bytes = [0; ESCAPE_BYTES_MAX];
        bytes[..len - first].copy_from_slice(&all[first..len]);
        Behind { at: window.base + index as u64, bytes, len: len - first }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Live {
    fn advance(&mut self, window: &Window<'_>) -> Fate {
        let rule = &RULES[self.rule];
        let limit = self.body + rule.max as u64;
        let end = limit.min(window.end());
        let from = self.at;
        let data = &window.data[window.index(from)..window.index(end)];
        let run = data.iter().position(|&b| !(rule.class)(b));
        self.at = run.map_or(end, |n| from + n as u64);
        if rule.shape == Shape::Pem {
            if self.is_no_key(window) {
                return Fate::No(self.body);
            }
            if let Some(behind) = self.pem_end(window, from) {
                self.at = behind;
                return self.decide(window, behind);
            }
        }
        if run.is_some() {
            self.decide(window, self.at + 1)
        } else if end == limit || window.more == More::Ended {
            self.decide(window, end)
        } else {
            Fate::Open
        }
    }

    /// The run of the class ended at `self.at`.
    fn decide(&self, window: &Window<'_>, confirmed: u64) -> Fate {
        let rule = &RULES[self.rule];
        let body = &window.data[window.index(self.body)..window.index(self.at)];
        let token = match rule.shape {
            Shape::Random => body.len() >= rule.min && random(body),
            Shape::Plain => body.len() >= rule.min,
            Shape::Jwt => jwt(body) || body.len() == rule.max,
            Shape::Pem => return self.decide_pem(body, confirmed),
        };
        if token { Fate::Token { end: self.at, confirmed } } else { Fate::No(self.start + 1) }
    }

    /// The header line says that it is something else than a private key.
    fn is_no_key(&self, window: &Window<'_>) -> bool {
        let body = &window.data[window.index(self.body)..window.index(self.at)];
        let line = &body[..body.len().min(PEM_HEADER_MAX)];
        match memchr::memmem::find(line, b"-----") {
            Some(end) => !line[..end].ends_with(b"PRIVATE KEY") && !line[..end].ends_with(b"PRIVATE KEY BLOCK"),
            None => line.len() == PEM_HEADER_MAX,
        }
    }

    /// Behind the footer, if it has come; `from` is where new bytes begin.
    fn pem_end(&self, window: &Window<'_>, from: u64) -> Option<u64> {
        const FOOTER: &[u8] = b"-----END ";
        let near = from.saturating_sub((FOOTER.len() + PEM_HEADER_MAX) as u64).max(self.body);
        let tail = &window.data[window.index(near)..window.index(self.at)];
        let footer = memchr::memmem::find(tail, FOOTER)? + FOOTER.len();
        let dashes = memchr::memmem::find(&tail[footer..], b"-----")?;
        Some(near + (footer + dashes + 5) as u64)
    }

    fn decide_pem(&self, body: &[u8], confirmed: u64) -> Fate {
        let Some(header) = memchr::memmem::find(body, b"-----") else { return Fate::No(self.body) };
        let mut run = 0;
        let long_run = body[header..].iter().any(|&b| {
            run = if alnum(b) || b == b'+' || b == b'/' { run + 1 } else { 0 };
            run >= PEM_RUN_MIN
        });
        if long_run { Fate::Token { end: self.at, confirmed } } else { Fate::No(self.body) }
    }
}

fn random(body: &[u8]) -> bool {
    let mut seen = [false; 256];
    body.iter().for_each(|&b| seen[usize::from(b)] = true);
    body.iter().any(u8::is_ascii_digit) && seen.iter().filter(|s| **s).count() >= DISTINCT_MIN
}

/// Behind `eyJ`: the rest of the header, the claims (a JSON object again), the signature.
fn jwt(body: &[u8]) -> bool {
    let parts: Vec<&[u8]> = body.splitn(4, |&b| b == b'.').collect();
    matches!(parts[..], [header, claims, signature, ..] if header.len() >= 10 && claims.len() >= 10 && claims.starts_with(b"ey") && signature.len() >= 10)
}
