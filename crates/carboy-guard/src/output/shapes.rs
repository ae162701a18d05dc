//! The built-in rules of the output filter: shapes of credentials besides `token_patterns`, and personal data with its check
//! digits.

use super::personal;

/// What a rule is about, and so which setting turns it off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Secret,
    /// A value that was released to this very person is left alone.
    Personal,
}

/// One shape. Letters and digits are those of ASCII.
pub(super) struct Shape {
    /// `[REDACTED_kind]` stands there afterwards.
    pub kind: &'static str,
    pub family: Family,
    pub regex: &'static str,
    /// Longest match, in octets.
    pub bytes_max: usize,
    /// Looks at a match and what stands around it; gives how many of its octets are one.
    pub check: Check,
}

/// The matched octets, the one before and the one behind.
pub(super) type Check = fn(&[u8], Option<u8>, Option<u8>) -> Option<usize>;

const fn secret(kind: &'static str, regex: &'static str, bytes_max: usize, check: Check) -> Shape {
    Shape { kind, family: Family::Secret, regex, bytes_max, check }
}

const fn personal(kind: &'static str, regex: &'static str, bytes_max: usize, check: Check) -> Shape {
    Shape { kind, family: Family::Personal, regex, bytes_max, check }
}

/// No class of a value has brackets in it, so that what stands in for a value is never part of another.
pub(super) const SHAPES: &[Shape] = &[
    // Looser than the rule of requests: a shortened or mistyped key says enough to be none of a customer's business.
    secret("ANTHROPIC_KEY", r"\bsk-ant-[A-Za-z0-9_-]{6,250}", 257, whole),
    secret("OPENAI_KEY", r"\bsk-(?:proj-|svcacct-|admin-)?[A-Za-z0-9_-]{20,250}", 264, random),
    secret("BEARER_TOKEN", r"(?i)\bbearer [A-Za-z0-9._~+/-]{20,1000}={0,2}", 1009, random),
    secret("URL_CREDENTIALS", r"(?i)\b[a-z][a-z0-9+]{1,15}://[^\s/:@\[\]]{1,64}:[^\s/@\[\]]{1,128}@", 213, whole),
    secret(
        "SECRET",
        r#"(?i)\b(?:(?:api|secret|access|private|signing|encryption)[_ -]?(?:access[_ -]?)?key|client[_ -]?secret|secret|(?:access|auth|refresh|session)[_ -]?token|token|passw(?:or)?d|passphrase|pwd)["'`]?(?:\s{0,2}[:=]|\sis)\s{0,2}["'`]?[^\s"'`\[\],;]{8,200}"#,
        256,
        mixed_value,
    ),
    personal("EMAIL", r"\b[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24}\b", 474, whole),
    personal("IBAN", r"(?i)\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}", 64, personal::iban),
    personal("CARD", r"\b\d(?:[ -]?\d){12,18}", 37, personal::card),
    personal("SSN", r"\b\d{3}[- ]\d{2}[- ]\d{4}\b", 11, personal::ssn),
    personal(
        "PHONE",
        r"\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?(?:\d{1,4}[ .-]?){1,5}\d{2,4}|(?:\b1[ .-])?\(\d{3}\) ?\d{3}[ .-]\d{4}|\b(?:1[ .-])?\d{3}[ .-]\d{3}[ .-]\d{4}",
        48,
        personal::phone,
    ),
    personal("IP_ADDRESS", r"\b\d{1,3}(?:\.\d{1,3}){3,8}\b", 36, personal::ipv4),
    personal("IP_ADDRESS", r"(?:\b[0-9A-Fa-f]{1,4}|::)[0-9A-Fa-f:]{4,38}", 42, personal::ipv6),
];

/// The marker that takes the place of a kind.
pub(super) fn marker(kind: &str) -> String {
    format!("[REDACTED_{kind}]")
}

/// What the marker of a `token_patterns` rule calls it.
pub(super) fn token_kind(rule: &str) -> String {
    match rule {
        "github_token" | "github_fine_grained_token" => "GITHUB_TOKEN".to_owned(),
        "aws_access_key_id" => "AWS_KEY".to_owned(),
        rule => rule.to_ascii_uppercase(),
    }
}

fn whole(text: &[u8], _: Option<u8>, _: Option<u8>) -> Option<usize> {
    Some(text.len())
}

/// A made-up word has no digit in it.
fn random(text: &[u8], _: Option<u8>, _: Option<u8>) -> Option<usize> {
    text.iter().any(u8::is_ascii_digit).then_some(text.len())
}

/// `password: hunter22`, but not `password: forgotten?`
fn mixed_value(text: &[u8], _: Option<u8>, _: Option<u8>) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let sign = lower.iter().position(|b| matches!(b, b':' | b'='));
    let is = lower.windows(4).position(|window| window == b" is ").map(|at| at + 2);
    let value = &text[sign.into_iter().chain(is).min()?..];
    (value.iter().any(u8::is_ascii_digit) && value.iter().any(u8::is_ascii_alphabetic)).then_some(text.len())
}
