//! A refusal in the words of the client's own protocol.
//!
//! An agent that gets a bare 403 retries, guesses or gives up without a word. So the answer has the shape of the
//! error that the client's library knows, names a stable code, says what can be done next by the agent and by the
//! operator, and carries the id under which the audit log has it. It never carries a secret or any part of a body, and
//! nothing in it can move a terminal's cursor.

use carboy_core::ids::RefusalId;
use carboy_core::verdict::{Denial, Reason};
use serde::Serialize;

use crate::format::WireFormat;

/// Longest detail that is shown, in characters; paths and hosts from inside can be longer.
pub const DETAIL_CHARS_MAX: usize = 512;

/// Longest `Accept` that is read, in bytes; of a longer one nothing is believed.
const ACCEPT_BYTES_MAX: usize = 4096;

/// Refusals that may be gone on the next try. Every other one is final: retrying it is noise in the log and in the
/// agent's time.
const WORTH_RETRYING: &[Reason] =
    &[Reason::LimitReached, Reason::UpstreamUnreachable, Reason::UpstreamFailed, Reason::BudgetHeld];

/// Refusals after which nothing can be had until somebody adds to a budget: the clients know an answer of their own for it.
const SPENT: &[Reason] = &[Reason::BudgetExhausted, Reason::CutOff];

/// What OpenAI calls a spent budget: programs that ask for the code know it, whatever the status.
const QUOTA: &str = "insufficient_quota";

/// The answer to send. `content-length` is the body's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DenialBody {
    /// HTTP status.
    pub status: u16,
    /// Value of `content-type`.
    pub content_type: &'static str,
    /// Further fields, lower-case names, visible ASCII values.
    pub headers: Vec<(&'static str, String)>,
    /// UTF-8.
    pub body: Vec<u8>,
}

/// Renders the denial for a client that speaks `format` (`None`: anything else) and sent this `Accept` field.
///
/// JSON by default; plain text for a client that asks for text or HTML rather than JSON and speaks no model's format.
pub fn render(denial: &Denial, id: &RefusalId, format: Option<WireFormat>, accept: Option<&str>) -> DenialBody {
    let shown = Shown { reason: denial.reason, rule: denial.rule.as_ref().map(|rule| rule.as_str()), id, denial };
    let (content_type, body) = match format {
        None if prefers_text(accept) => ("text/plain; charset=utf-8", shown.text().into_bytes()),
        None | Some(WireFormat::AnthropicMessages | WireFormat::OpenAiChat | WireFormat::OpenAiResponses) => {
            ("application/json", json(&shown.common(format)))
        }
        Some(WireFormat::Gemini) => ("application/json", json(&shown.gemini())),
    };
    DenialBody { status: status(denial.reason, format), content_type, headers: headers(denial, id), body }
}

/// The denial as a client of gRPC reads it: a response of trailers alone, which stand in its head (gRPC over HTTP2). Any
/// other answer is "unknown" to such a client, or a status that is made up from HTTP's.
pub fn grpc(denial: &Denial, id: &RefusalId) -> DenialBody {
    let shown = Shown { reason: denial.reason, rule: denial.rule.as_ref().map(|rule| rule.as_str()), id, denial };
    let mut headers = headers(denial, id);
    headers.push(("grpc-status", grpc_status(denial.reason).to_string()));
    headers.push(("grpc-message", percent_encoded(&format!("{}: {}", denial.reason.code(), shown.message()))));
    DenialBody { status: 200, content_type: "application/grpc", headers, body: Vec::new() }
}

/// gRPC's code. Its clients try again after `UNAVAILABLE`, and "should not until the state of the system has been mended"
/// after `FAILED_PRECONDITION`.
fn grpc_status(reason: Reason) -> u8 {
    const INVALID_ARGUMENT: u8 = 3;
    const PERMISSION_DENIED: u8 = 7;
    const RESOURCE_EXHAUSTED: u8 = 8;
    const FAILED_PRECONDITION: u8 = 9;
    const UNIMPLEMENTED: u8 = 12;
    const UNAVAILABLE: u8 = 14;
    match reason.http_status() {
        403 => PERMISSION_DENIED,
        402 | 429 => RESOURCE_EXHAUSTED,
        // What a server of gRPC says of messages that are packed in a way it does not know.
        415 => UNIMPLEMENTED,
        400..=499 => INVALID_ARGUMENT,
        _ if WORTH_RETRYING.contains(&reason) => UNAVAILABLE,
        _ => FAILED_PRECONDITION,
    }
}

/// As `grpc-message` has it: every octet but visible ASCII and the space, and the percent sign itself, in hex.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// The denial as OpenAI's Responses tell an error in a message of a WebSocket.
pub fn message(denial: &Denial, id: &RefusalId) -> String {
    let format = Some(WireFormat::OpenAiResponses);
    let shown = Shown { reason: denial.reason, rule: denial.rule.as_ref().map(|rule| rule.as_str()), id, denial };
    let CommonBody { kind, error, carboy } = shown.common(format);
    let body = MessageBody { kind, status: status(denial.reason, format), error, carboy };
    serde_json::to_string(&body).expect("a struct of strings and numbers always serialises")
}

/// The status that makes the client stop and show the text. Seen with the real programs, each answer carrying
/// `x-should-retry: false`: Codex tries a 403, 413, 415 or 421 seven times and a 502 or 503 twenty times, a 400 twice;
/// Claude Code puts "Failed to authenticate" before the text of a 403 and drops the text of a 413, and shows that of a
/// 400. So a final refusal is a 400 to a model's client; everybody else gets the status that fits best.
///
/// A spent budget is what a provider's own is: 402 ends Claude Code and Gemini at the first, opencode at the second answer.
/// Codex would end at the first 429 with [`QUOTA`], but in words of its own ("Check your plan and billing details") that
/// send people to the wrong place; a 400 ends it at the first as well, and it shows ours. What is held for others is a 429 to
/// everybody but Codex, which takes that for the end: it waits and comes again after a 503.
fn status(reason: Reason, format: Option<WireFormat>) -> u16 {
    let own = reason.http_status();
    let last = !WORTH_RETRYING.contains(&reason);
    match format {
        Some(WireFormat::OpenAiResponses) if reason == Reason::BudgetHeld => 503,
        Some(WireFormat::OpenAiResponses) if last => 400,
        _ if SPENT.contains(&reason) => own,
        Some(WireFormat::AnthropicMessages | WireFormat::OpenAiChat) if last && own < 500 => 400,
        Some(
            WireFormat::AnthropicMessages | WireFormat::OpenAiChat | WireFormat::OpenAiResponses | WireFormat::Gemini,
        )
        | None => own,
    }
}

fn headers(denial: &Denial, id: &RefusalId) -> Vec<(&'static str, String)> {
    let reason = denial.reason;
    let mut headers = vec![("x-carboy-refusal", id.to_string()), ("x-carboy-reason", reason.code().to_owned())];
    if !WORTH_RETRYING.contains(&reason) {
        // Read by the Anthropic and OpenAI SDKs and by Claude Code, before the status.
        headers.push(("x-should-retry", "false".to_owned()));
    }
    if let Some(seconds) = denial.retry_after_s {
        headers.push(("retry-after", seconds.to_string()));
    }
    headers.push(("cache-control", "no-store".to_owned()));
    headers
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("a struct of strings and numbers always serialises")
}

struct Shown<'a> {
    reason: Reason,
    rule: Option<&'a str>,
    id: &'a RefusalId,
    denial: &'a Denial,
}

/// The shape that the SDKs of Anthropic (`type`, `error.type`, `error.message`) and OpenAI (`error.type`, `error.code`,
/// `error.message`) both show.
#[derive(Serialize)]
struct CommonBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: CommonError,
    carboy: Particulars<'a>,
}

/// The same with the status that a message has no line for.
#[derive(Serialize)]
struct MessageBody<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    status: u16,
    error: CommonError,
    carboy: Particulars<'a>,
}

#[derive(Serialize)]
struct CommonError {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'static str,
    message: String,
}

/// `google.rpc.Status`, as Google's libraries show it.
#[derive(Serialize)]
struct GeminiBody<'a> {
    error: GeminiError,
    carboy: Particulars<'a>,
}

#[derive(Serialize)]
struct GeminiError {
    code: u16,
    message: String,
    status: &'static str,
}

/// The same facts for programs, in every JSON shape.
#[derive(Serialize)]
struct Particulars<'a> {
    id: &'a RefusalId,
    code: &'static str,
    rule: Option<&'a str>,
    decided_by: carboy_core::verdict::Layer,
    agent_step: &'static str,
    operator_step: String,
    explain: String,
    detail: String,
}

impl<'a> Shown<'a> {
    fn common(&self, format: Option<WireFormat>) -> CommonBody<'a> {
        let status = self.reason.http_status();
        let kind = match format {
            Some(WireFormat::OpenAiChat | WireFormat::OpenAiResponses) => openai_error_type(status),
            None | Some(WireFormat::AnthropicMessages | WireFormat::Gemini) => anthropic_error_type(status),
        };
        let (kind, code) = match format {
            Some(WireFormat::OpenAiResponses) if SPENT.contains(&self.reason) => (QUOTA, QUOTA),
            _ => (kind, self.reason.code()),
        };
        let error = CommonError { kind, code, message: self.message() };
        CommonBody { kind: "error", error, carboy: self.particulars() }
    }

    fn gemini(&self) -> GeminiBody<'a> {
        let code = self.reason.http_status();
        let error = GeminiError { code, message: self.message(), status: google_status(code) };
        GeminiBody { error, carboy: self.particulars() }
    }

    fn particulars(&self) -> Particulars<'a> {
        Particulars {
            id: self.id,
            code: self.reason.code(),
            rule: self.rule,
            decided_by: self.denial.decided_by,
            agent_step: self.reason.agent_step(),
            operator_step: self.reason.operator_step_for(self.id),
            explain: self.explain(),
            detail: self.detail(),
        }
    }

    /// One line: clients that show anything show this.
    fn message(&self) -> String {
        format!(
            "{}: {}. Next: {}. Operator: {}. [{}]",
            self.heading(),
            self.happened(),
            self.reason.agent_step(),
            self.reason.operator_step_for(self.id),
            self.explain()
        )
    }

    fn text(&self) -> String {
        let rule = self.rule.map(|rule| format!("rule: {rule}\n")).unwrap_or_default();
        format!(
            "{}: {}\nnext: {}\noperator: {}\ncode: {}\n{rule}{}\n",
            self.heading(),
            self.happened(),
            self.reason.agent_step(),
            self.reason.operator_step_for(self.id),
            self.reason.code(),
            self.explain()
        )
    }

    /// An outage is no refusal: whoever reads "refused" looks for the rule that did it.
    fn heading(&self) -> &'static str {
        if self.reason.is_failure() { "carboy could not get it" } else { "carboy refused this" }
    }

    /// The command that says more, and names the refusal: the last word in every shape.
    fn explain(&self) -> String {
        format!("carboy explain {}", self.id)
    }

    fn happened(&self) -> String {
        let detail = self.detail();
        if detail.is_empty() { self.reason.what().to_owned() } else { format!("{} ({detail})", self.reason.what()) }
    }

    /// The detail quotes hosts and paths that a program inside chose; escape sequences and line breaks in them must
    /// not reach a terminal or fake a line of the answer.
    fn detail(&self) -> String {
        let mut shown: String = self.denial.detail.chars().take(DETAIL_CHARS_MAX).map(visible).collect();
        if self.denial.detail.chars().nth(DETAIL_CHARS_MAX).is_some() {
            shown.push('…');
        }
        shown
    }
}

/// The character, or U+FFFD in place of one that a terminal acts on or a reader cannot see.
pub fn visible(c: char) -> char {
    if c.is_control() || is_invisible(c) { '\u{fffd}' } else { c }
}

/// Line separators and the characters that reorder what stands around them (CVE-2021-42574).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Anthropic's error types by status; 415 and 421 have none of their own.
fn anthropic_error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// OpenAI's: its own 403s say `invalid_request_error` as well; the code tells them apart.
fn openai_error_type(status: u16) -> &'static str {
    match status {
        402 => "billing_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// `google.rpc.Code` by status.
fn google_status(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        402 | 429 => "RESOURCE_EXHAUSTED",
        400..=499 => "INVALID_ARGUMENT",
        502 | 503 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

/// Does the client want text or HTML more than JSON (RFC 9110 §12.5.1)? Wildcards speak for neither side.
fn prefers_text(accept: Option<&str>) -> bool {
    let Some(accept) = accept.filter(|accept| accept.len() <= ACCEPT_BYTES_MAX) else { return false };
    let (mut text, mut json) = (0, 0);
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight =
            parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="))).map_or(1000, milli);
        if matches!(&media[..], "text/plain" | "text/html" | "application/xhtml+xml" | "text/*") {
            text = text.max(weight);
        } else if media == "application/json" || media.ends_with("+json") {
            json = json.max(weight);
        }
    }
    text > json
}

/// A weight in thousandths; what is no number is worth nothing.
fn milli(weight: &str) -> u32 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    if whole == "1" {
        return 1000;
    }
    if whole != "0" || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return 0;
    }
    format!("{fraction:0<3}").parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
