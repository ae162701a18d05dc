//! What a detector saw: kind, place and weight, never the text itself.

use std::fmt;
use std::ops::Range;

use serde::Serialize;

/// One detection. It carries no matched text: a log of findings must not become a store of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which detector.
    pub detector: Detector,
    /// What it found, as a stable rule name: `github_token`, `known_secret:ANTHROPIC_API_KEY`, `jailbreak`.
    pub rule: String,
    /// What has to happen with it by default.
    pub severity: Severity,
    /// In words, for people: "disclosure and jailbreak phrases 37 characters apart".
    pub reason: String,
    /// Which part of the message.
    pub location: Location,
    /// Bytes of that part, where they are known (a match in a decoded form has the span of the decoded text).
    pub span: Range<u64>,
    /// How the secret was disguised (`literal`, `base64`, `gzip+base64`…); empty for other detectors.
    pub form: &'static str,
    /// Keyed fingerprint of the matched text, so that the same text is recognised without being kept.
    pub fingerprint: Option<Fingerprint>,
}

/// Detectors by the names that manifests use (D9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detector {
    /// Outbound: placeholders of this run's credentials, where they do not belong. Always on, and no manifest's to name.
    Placeholders,
    /// Outbound: shapes of well-known credentials.
    TokenPatterns,
    /// Outbound, and inbound as redaction: the values that this run holds, in every disguise of D2.
    KnownSecrets,
    /// Inbound: disclosure and jailbreak phrases near each other (D10–D15).
    NaiveInjectionDetection,
}

impl Detector {
    /// The manifest's and the log's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Detector::Placeholders => "placeholders",
            Detector::TokenPatterns => "token_patterns",
            Detector::KnownSecrets => "known_secrets",
            Detector::NaiveInjectionDetection => "naive_injection_detection",
        }
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// D8: what a finding asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Say so, let it pass.
    Warn,
    /// Must not pass as it is.
    Block,
}

/// D6, D8: which part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Location {
    /// Method, path and query.
    #[serde(rename = "request line")]
    RequestLine,
    /// Names and values of the request's header fields (and trailers).
    #[serde(rename = "request header")]
    RequestHeader,
    /// The request's body.
    #[serde(rename = "request body")]
    RequestBody,
    /// Names and values of the response's header fields (and trailers).
    #[serde(rename = "response header")]
    ResponseHeader,
    /// The response's body.
    #[serde(rename = "response body")]
    ResponseBody,
    /// A name asked of DNS.
    #[serde(rename = "dns name")]
    DnsName,
    /// A file or standard input given to `carboy scan`.
    #[serde(rename = "file")]
    File,
    /// What leaves the bottle through a published or forwarded port.
    #[serde(rename = "port stream")]
    PortStream,
}

impl Location {
    /// As it stands in reports: `response body`.
    pub fn as_str(self) -> &'static str {
        match self {
            Location::RequestLine => "request line",
            Location::RequestHeader => "request header",
            Location::RequestBody => "request body",
            Location::ResponseHeader => "response header",
            Location::ResponseBody => "response body",
            Location::DnsName => "dns name",
            Location::File => "file",
            Location::PortStream => "port stream",
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first 64 bits of HMAC-SHA256(key of this host, matched text), in hex.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// Computes it; `key` is per host and never leaves it.
    pub fn new(key: &[u8; 32], text: &[u8]) -> Self {
        let tag = crate::audit::hmac_sha256(key, text);
        Fingerprint(crate::audit::hex(&tag[..8]))
    }

    /// Sixteen hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
