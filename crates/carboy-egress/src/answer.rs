//! The way back in: what the upstream answered, decoded, rid of this run's secrets and judged for injection.
//!
//! ```text
//! Incoming ─▶ Inflate ─▶ StreamScanner (known secrets overwritten) ─▶ InjectionScanner ─▶ client
//! ```
//!
//! The client gets the decoded text when it said that it understands the coding; otherwise (a `.tar.gz` that a
//! server calls `gzip`) it gets the original bytes, each piece after its decoded text was looked at. Text on routes
//! that block injection is held up to the gate's size before the head goes on; model streams are never held.
//! *Must never* pass what it could not decode.

mod stream;

use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::finding::{Detector, Location};
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::{Coding, DecodedMax, Inflate, InjectionScanner, Mode, ScanPlan, StreamScanner};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, response};
use http_body::Body;

use crate::messages;
use crate::metering::{End, Form, Metered};
use crate::record::Exchange;
use crate::request::strip_hop_by_hop;
use crate::speaks::Speaks;
use crate::upstream::Answer;

pub(crate) use stream::{Judge, Parts, Screened, Sieve};

/// Server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// Most decoded bytes of one answer. It is streamed, so this bounds time, not memory.
const DECODED_BYTES_MAX: u64 = 1 << 40;

/// What the client said about the answer that it wants.
pub(crate) struct Wanted {
    head_only: bool,
    codings: Vec<Coding>,
}

impl Wanted {
    /// Reads the request and reduces what is asked of the upstream to what can be scanned: no coding that is not
    /// ours, and none at all for a part of a representation, which could not be decoded.
    pub(crate) fn settle(method: &Method, headers: &mut HeaderMap) -> Wanted {
        let asked: Vec<String> = headers
            .get_all(header::ACCEPT_ENCODING)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|item| item.trim().to_ascii_lowercase())
            .collect();
        let mut codings = Vec::new();
        let mut kept = Vec::new();
        for item in &asked {
            let mut parts = item.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default();
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            if let Ok([coding]) = Coding::parse_list(name).as_deref() {
                if !refused {
                    codings.push(*coding);
                }
                kept.push(item.as_str());
            }
        }
        if !asked.is_empty() || headers.contains_key(header::RANGE) {
            let value = if headers.contains_key(header::RANGE) || kept.is_empty() {
                HeaderValue::from_static("identity")
            } else {
                HeaderValue::from_str(&kept.join(", ")).unwrap_or(HeaderValue::from_static("identity"))
            };
            headers.insert(header::ACCEPT_ENCODING, value);
        }
        Wanted { head_only: method == Method::HEAD, codings }
    }

    fn understands(&self, codings: &[Coding]) -> bool {
        codings.iter().all(|coding| self.codings.contains(coding))
    }
}

impl Answer {
    /// Judges head and body; the response that comes back may be given to the client.
    pub(crate) async fn screen(self) -> Result<Response<Screened>, Denial> {
        let Answer { response, lease, mut rest } = self;
        let exchange = rest.exchange.clone();
        let (mut head, body) = response.into_parts();
        exchange.answered(head.status.as_u16());
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Denial::new(Reason::UpstreamFailed, "it switched protocols without being asked"));
        }
        settle_framing(&mut head.headers)?;
        strip_hop_by_hop(&mut head.headers);
        // The reason phrase is text that nobody has looked at.
        head.extensions.clear();
        // HTTP/3 does not get through; a client that is told of it only loses time.
        head.headers.remove(header::ALT_SVC);
        redact_fields(&mut head.headers, &exchange);
        let codings = codings_of(&head.headers)?;
        messages::judge_answer(&head.headers)?;
        if head.status == StatusCode::PARTIAL_CONTENT && !codings.is_empty() {
            return Err(Denial::new(Reason::UpstreamFailed, "a part of an encoded answer cannot be decoded"));
        }
        if is_slice_of_text(&head) && !rest.carried.is_empty() {
            // Cut where the client chooses, an echo holds too little of the credential to be known by (B41).
            let detail = "a part of a text, where it was shown a credential; ask for all of it, without Range";
            return Err(Denial::new(Reason::UpstreamFailed, detail));
        }
        let plain = rest.wanted.understands(&codings);
        if plain && !codings.is_empty() {
            head.headers.remove(header::CONTENT_ENCODING);
            head.headers.remove(header::CONTENT_LENGTH);
            head.headers.remove("content-md5");
        }
        let parts = if media_type(&head) == EVENT_STREAM { Parts::Events } else { Parts::One };
        let form = if plain || codings.is_empty() { Form::Plain } else { Form::Coded };
        let metered = rest.hold.take().map(|hold| Metered::new(hold, head.status, parts, form));
        if rest.wanted.head_only || body.is_end_stream() {
            metered.into_iter().for_each(|metered| metered.end(End::Whole));
            exchange.end(Outcome::Done);
            lease.into_iter().for_each(crate::upstream::Lease::give_back);
            return Ok(Response::from_parts(head, Screened::Empty));
        }
        let judge = judge_of(&head, &rest.route.route().dlp.inbound, &exchange);
        let inflate = (!codings.is_empty()).then(|| Inflate::new(&codings, DecodedMax(DECODED_BYTES_MAX)));
        // What goes on as its original bytes cannot be overwritten: a known secret in it ends the stream.
        let mode = if inflate.is_some() && !plain { Mode::Block } else { Mode::Redact };
        let plan = ScanPlan { detectors: vec![Detector::KnownSecrets], mode, location: Location::ResponseBody };
        let scanner = StreamScanner::new(exchange.gateway().detectors(), plan.clone());
        let sieve = Sieve { inflate, plain, plan, scanner, parts, judge };
        if metered.as_ref().is_some_and(Metered::changes_length) {
            head.headers.remove(header::CONTENT_LENGTH);
        }
        let mut screened = Screened::new(body, sieve, metered, rest, lease);
        screened.hold().await?;
        Ok(Response::from_parts(head, screened))
    }
}

/// Only `chunked` was undone on the way here, and where it was, `Content-Length` says nothing (RFC 9112, 6.3).
fn settle_framing(headers: &mut HeaderMap) -> Result<(), Denial> {
    let mut chunked = false;
    for value in headers.get_all(header::TRANSFER_ENCODING) {
        if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
            let detail = "it used a transfer encoding that nobody asked for";
            return Err(Denial::new(Reason::UpstreamFailed, detail));
        }
        chunked = true;
    }
    if chunked {
        headers.remove(header::CONTENT_LENGTH);
    }
    Ok(())
}

/// Where injection is looked for, and what a hit does.
fn judge_of(head: &response::Parts, inbound: &[Detector], exchange: &Exchange) -> Judge {
    let kind = media_type(head);
    if !inbound.contains(&Detector::NaiveInjectionDetection) || !is_text(&kind) {
        return Judge::None;
    }
    let scanner = Box::new(InjectionScanner::new(Location::ResponseBody));
    if exchange.is_model() {
        Judge::Warn(scanner)
    } else if kind == EVENT_STREAM {
        Judge::Cut(scanner)
    } else {
        Judge::Hold(scanner)
    }
}

/// Lower case, without parameters; empty when there is none.
fn media_type(head: &response::Parts) -> String {
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// Parts of files that are no text pass: no server shows what it was sent in one.
fn is_slice_of_text(head: &response::Parts) -> bool {
    let kind = media_type(head);
    head.status == StatusCode::PARTIAL_CONTENT && (is_text(&kind) || kind.starts_with("multipart/"))
}

/// Types that an agent reads as text. Nothing said counts as text: a page without a type is read all the same.
fn is_text(kind: &str) -> bool {
    kind.is_empty()
        || kind.starts_with("text/")
        || ["json", "xml", "yaml", "javascript", "ecmascript", "html", "markdown", "x-www-form-urlencoded", "x-ndjson"]
            .iter()
            .any(|part| kind.starts_with("application/") && kind.contains(part))
}

/// B41: this run's secrets never come back in a header field, the injected one included.
pub(crate) fn redact_fields(headers: &mut HeaderMap, exchange: &Exchange) {
    let detectors = &exchange.gateway().detectors();
    let known = [Detector::KnownSecrets];
    let mut all = Vec::with_capacity(1024);
    for (_, value) in headers.iter() {
        all.extend_from_slice(value.as_bytes());
        all.push(b'\n');
    }
    if detectors.scan_text(&all, &known, Location::ResponseHeader).is_empty() {
        return;
    }
    for value in headers.values_mut() {
        let (clean, findings) = detectors.redact(value.as_bytes(), &known, Location::ResponseHeader);
        if !findings.is_empty() {
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static("[REDACTED]"));
            exchange.found(findings, true);
        }
    }
}

fn codings_of(headers: &HeaderMap) -> Result<Vec<Coding>, Denial> {
    let mut list = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        let more = Coding::parse_list(text).map_err(|e| Denial::new(Reason::UpstreamFailed, e.to_string()))?;
        list.extend(more);
    }
    if list.len() > carboy_guard::inflate::CODINGS_MAX {
        return Err(Denial::new(Reason::UpstreamFailed, "too many content codings on top of each other"));
    }
    Ok(list)
}

/// A refusal as the client gets it.
pub(crate) fn denied(denial: &Denial, id: &carboy_core::ids::RefusalId, speaks: Speaks<'_>) -> Response<Screened> {
    let (rendered, body) = match speaks {
        Speaks::Http(format, accept) => {
            let mut rendered = carboy_wire::denial::render(denial, id, format, accept);
            let body = Screened::text(Bytes::from(std::mem::take(&mut rendered.body)));
            (rendered, body)
        }
        // Nothing behind the head: its fields are the trailers.
        Speaks::Grpc => (carboy_wire::denial::grpc(denial, id), Screened::Empty),
    };
    let status = StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::FORBIDDEN);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(rendered.content_type));
    for (name, value) in rendered.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(fields: &[(&str, &str)]) -> (Option<String>, Vec<Coding>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let wanted = Wanted::settle(&Method::GET, &mut headers);
        let sent = headers.get(header::ACCEPT_ENCODING).map(|value| value.to_str().unwrap().to_owned());
        (sent, wanted.codings)
    }

    #[test]
    fn only_codings_that_can_be_scanned_are_asked_for() {
        let (sent, codings) = settle(&[("accept-encoding", "gzip, dcb;q=1, br;q=0.5, *")]);
        assert_eq!((sent.as_deref(), codings), (Some("gzip, br;q=0.5"), vec![Coding::Gzip, Coding::Brotli]));
        assert_eq!(settle(&[("accept-encoding", "dcb")]).0.as_deref(), Some("identity"));
        assert_eq!(settle(&[("accept-encoding", "gzip"), ("range", "bytes=0-9")]).0.as_deref(), Some("identity"));
        assert_eq!(settle(&[]), (None, Vec::new()));
    }
}
