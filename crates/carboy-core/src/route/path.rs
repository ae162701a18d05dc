//! How a request's path is read: once, strictly, and so that no server can read it as another one.
//!
//! *Must never* accept a path that a server which decodes once more, decodes `%2f`, merges slashes or strips path
//! parameters would resolve to somewhere else than where it was judged.

/// Rounds of percent-decoding that a careless chain of servers may do.
const DECODE_ROUNDS_MAX: usize = 4;

/// A path as servers may read it; a rule has to allow all of these.
pub(super) struct Readings {
    /// Normal, and what is sent.
    pub(super) sent: String,
    /// With its `%2F` as separators, where it has any.
    split: Option<String>,
}

impl Readings {
    /// `None` as for [`normal_path`], but for `%2F`: registries and forges have it in their names.
    pub(super) fn of(raw: &str) -> Option<Readings> {
        let sent = normal(raw, Slash::Kept)?;
        let split = sent.contains("%2F").then(|| sent.replace("%2F", "/"));
        match split {
            // What is behind a hidden separator must not move.
            Some(split) if normal(&split, Slash::Refused)? != split => None,
            split => Some(Readings { sent, split }),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.sent[..]).chain(self.split.as_deref())
    }
}

/// What becomes of `%2F`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slash {
    Kept,
    Refused,
}

/// The path as the strictest upstream would read it: unreserved characters decoded once, `.` and `..` resolved,
/// repeated slashes kept apart. `None` when it escapes its root, hides a separator or a dot segment (`%2f`, `%5c`,
/// `\`, `%252e`, `..%3b`), or holds a broken escape: such a path is read differently by different servers.
pub fn normal_path(raw: &str) -> Option<String> {
    normal(raw, Slash::Refused)
}

fn normal(raw: &str, slash: Slash) -> Option<String> {
    let decoded = decode_unreserved(raw, slash)?;
    if !decoded.starts_with('/') {
        // `OPTIONS *` and authority forms have no path to allow.
        return None;
    }
    let mut out: Vec<&str> = Vec::new();
    let segments: Vec<&str> = decoded[1..].split('/').collect();
    for (i, segment) in segments.iter().enumerate() {
        let last = i + 1 == segments.len();
        // `..;x` is `..` to servers that strip path parameters.
        match segment.split(';').next().unwrap_or("") {
            ".." => {
                out.pop()?;
                if last {
                    out.push("");
                }
            }
            "." if last => out.push(""),
            "." => {}
            _ if hides_structure(segment) => return None,
            _ => out.push(segment),
        }
    }
    Some(format!("/{}", out.join("/")))
}

fn decode_unreserved(raw: &str, slash: Slash) -> Option<String> {
    let bytes = raw.as_bytes();
    let mut out = String::with_capacity(raw.len());
    let mut i = 0;
    while i < bytes.len() {
        let b = bytes[i];
        match b {
            b'%' => {
                let hex = raw.get(i + 1..i + 3)?;
                let value = u8::from_str_radix(hex, 16).ok().filter(|_| hex.bytes().all(|h| h.is_ascii_hexdigit()))?;
                match value {
                    b'/' if slash == Slash::Refused => return None,
                    b'\\' | 0 => return None,
                    v if v.is_ascii_alphanumeric() || b"-._~".contains(&v) => out.push(v as char),
                    _ => {
                        out.push('%');
                        out.push_str(&hex.to_ascii_uppercase());
                    }
                }
                i += 3;
            }
            b'\\' | 0..=b' ' | 0x7f => return None,
            _ => {
                let c = raw[i..].chars().next()?;
                out.push(c);
                i += c.len_utf8();
            }
        }
    }
    Some(out)
}

/// Would a segment that is decoded further have a separator in it, or be a dot segment? One `%2F` is left to
/// [`Readings`].
fn hides_structure(segment: &str) -> bool {
    let mut text = segment.as_bytes().to_vec();
    for round in 0..DECODE_ROUNDS_MAX {
        if is_overlong(&text) || is_dots_in_disguise(&text) {
            return true;
        }
        if !text.contains(&b'%') {
            return false;
        }
        let next = decode_all(&text);
        if next == text {
            return false;
        }
        text = next;
        let separators: &[u8] = if round == 0 { b"\\\0" } else { b"/\\\0" };
        let dots = text.split(|b| *b == b'/').any(|part| {
            let bare = part.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
            bare == b"." || bare == b".."
        });
        if dots || text.iter().any(|b| separators.contains(b)) {
            return true;
        }
        if round == 0 {
            // A kept `%2F` was looked at; from here on a slash is one that was hidden deeper.
            text.retain(|b| *b != b'/');
        }
    }
    // Still not plain after all rounds.
    text.contains(&b'%') || is_overlong(&text) || is_dots_in_disguise(&text)
}

/// Is a character written in more octets than it has? No UTF-8 (RFC 3629, 3), and `%c0%ae` is a dot to servers that read it.
fn is_overlong(text: &[u8]) -> bool {
    text.windows(2).any(|pair| {
        let least = match pair[0] {
            0xc0 | 0xc1 => 0x80..=0xbf,
            0xe0 => 0x80..=0x9f,
            0xf0 => 0x80..=0x8f,
            _ => return false,
        };
        least.contains(&pair[1])
    })
}

/// Characters that become `.`, `/` or `\` where text is brought into another form (NFKC, a code page's best fit).
const LOOK_ALIKES: &[(&str, &str)] = &[
    ("\u{ff0e}", "."),
    ("\u{fe52}", "."),
    ("\u{2024}", "."),
    ("\u{2025}", ".."),
    ("\u{ff0f}", "/"),
    ("\u{2044}", "/"),
    ("\u{2215}", "/"),
    ("\u{ff3c}", "/"),
    ("\u{fe68}", "/"),
];

/// Would it be a dot segment then? A look-alike that stands in a title is nobody's business.
fn is_dots_in_disguise(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    if text.is_ascii() {
        return false;
    }
    let folded = LOOK_ALIKES.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    folded != text && folded.split('/').any(|part| matches!(part.split(';').next().map(str::trim), Some("." | "..")))
}

/// `%XX` undone as often as it takes, within bounds; what is no escape stays.
pub(super) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    for _ in 0..DECODE_ROUNDS_MAX {
        text = decode_all(&text);
    }
    text
}

fn decode_all(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&b) = text.get(at) {
        match (b, digit(at + 1), digit(at + 2)) {
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
    out
}
