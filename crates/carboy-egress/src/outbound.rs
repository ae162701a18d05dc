//! Step 3: everything of a request is seen before it leaves.
//!
//! A body without a content coding is *gated*: its first bytes are scanned before any head goes out, the rest as it
//! flows. A body with one is read *whole*, decoded and scanned, and then goes out as its original bytes: decoders of
//! modern formats may hold whole blocks back, so releasing encoded bytes piece by piece would release what nobody
//! has seen. A metered request is read whole as well, and goes out decoded: what it may cost has to be known first.
//! *Must never* let a body pass that it could not decode.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use carboy_core::finding::{Detector, Finding, Location, Severity};
use carboy_core::ids::RouteId;
use carboy_core::route::{HostPermit, OnMatch, Route, RoutePermit};
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::{Coding, DecodedMax, Detectors, Inflate, InflateError, Mode, ScanPlan, StreamScanner};
use http::header::{self, HeaderMap, HeaderValue};
use http::request;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::body::{Gate, Gated, OutBody, Share, no_trailers};
use crate::inject;
use crate::limits::GatewayLimits;
use crate::messages;
use crate::record::Exchange;
use crate::request::{Routed, target};
use crate::reserve::{self, Use};
use crate::websocket::Asked;

/// Most bytes of a body's end that trailers are judged together with: more than any token or key spans.
const TAIL_BYTES_MAX: usize = 20 * 1024;

/// Most room that is made for a body because its head says how long it is; nobody has to send what it announced.
const ROOM_BYTES_MAX: usize = 256 * 1024;

/// Step 3. Made by [`Routed::scan`] alone.
pub(crate) struct Scanned {
    pub(crate) head: request::Parts,
    pub(crate) body: OutBody,
    pub(crate) gate: Arc<Gate>,
    pub(crate) permit: HostPermit,
    pub(crate) route: RoutePermit,
    pub(crate) exchange: Arc<Exchange>,
    /// Whether its tokens are counted.
    pub(crate) used: Use,
    /// It is to go on as a WebSocket.
    pub(crate) socket: Option<Asked>,
}

/// What is looked for in one request, by the rule that allowed it.
#[derive(Clone)]
pub(crate) struct Scan {
    detectors: Arc<Detectors>,
    list: Vec<Detector>,
    mode: Mode,
    rule: RouteId,
    route: RoutePermit,
    exchange: Arc<Exchange>,
}

impl Routed {
    /// Scans target, fields and body by the route's rules.
    pub(crate) async fn scan(self) -> Result<Scanned, Denial> {
        let Routed { mut head, body, permit, route, exchange, asked, socket } = self;
        let gateway = exchange.gateway().clone();
        // What will be replaced does not leave, so it is not judged: bottles hold fakes that look like the real thing.
        inject::drop_replaced(&mut head.headers, route.route());
        inject::drop_replaced_query(&mut head.uri, route.route())?;
        head.headers.remove(header::EXPECT);
        let scan = Scan::of(&route, &exchange);
        scan.spelling(&head, &permit, asked.as_deref())?;
        scan.target(&mut head, &permit)?;
        scan.fields(&mut head.headers)?;
        refuse_long(&body, route.route())?;
        let used = reserve::classify(&head, &permit, &route, socket.as_ref())?;
        let codings = codings_of(&head.headers)?;
        messages::settle(&mut head.headers).map_err(|denial| denial.by(&route.route().id))?;
        let keep = match used {
            Use::Metered(_) => Keep::Decoded,
            Use::Unmetered(_) => Keep::AsSent,
        };
        let (body, gate) = if body.is_end_stream() {
            (OutBody::Empty, Arc::default())
        } else if codings.is_empty() && keep == Keep::AsSent {
            gated(body, route.route(), scan).await?
        } else {
            let whole = Whole { codings, keep, route: route.route(), scan: &scan, limits: &gateway.limits };
            (whole.read(body, &mut head.headers).await?, Arc::default())
        };
        Ok(Scanned { head, body, gate, permit, route, exchange, used, socket })
    }
}

/// `Supervise` refuses at once: no body waits for a person.
fn mode_of(on_match: OnMatch) -> Mode {
    match on_match {
        OnMatch::Redact => Mode::Redact,
        OnMatch::Block | OnMatch::Supervise => Mode::Block,
    }
}

fn refuse_long(body: &Incoming, route: &Route) -> Result<(), Denial> {
    match (route.body_bytes_max, body.size_hint().lower()) {
        (Some(max), length) if length > max => {
            Err(Denial::new(Reason::BodyTooLarge, format!("{length} bytes, limit {max}")).by(&route.id))
        }
        (Some(_) | None, _) => Ok(()),
    }
}

async fn gated(body: Incoming, route: &Route, scan: Scan) -> Result<(OutBody, Arc<Gate>), Denial> {
    let limits = scan.exchange.gateway().limits.clone();
    let mut gated = Gated::new(body, scan, route.body_bytes_max);
    gated.fill(&limits).await?;
    let gate = gated.gate();
    Ok((OutBody::Gated(Box::new(gated)), gate))
}

/// In what form a body goes out that was read as a whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// As it came, unless something in it was overwritten.
    AsSent,
    /// Without its content codings.
    Decoded,
}

/// A body with a content coding, or of a metered request, read as a whole.
struct Whole<'a> {
    codings: Vec<Coding>,
    keep: Keep,
    route: &'a Route,
    scan: &'a Scan,
    limits: &'a GatewayLimits,
}

impl Whole<'_> {
    async fn read(self, body: Incoming, headers: &mut HeaderMap) -> Result<OutBody, Denial> {
        let mut share = Share::default();
        let out = if self.codings.is_empty() {
            self.read_plain(body, &mut share).await?
        } else {
            self.read_encoded(body, &mut share, headers).await?
        };
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(out.len()));
        Ok(OutBody::Whole(self.scan.exchange.clone(), Some(out), share))
    }

    /// Scans as it reads; what comes out is what goes on, redacted where that was asked for.
    async fn read_plain(&self, body: Incoming, share: &mut Share) -> Result<Bytes, Denial> {
        let mut scanner = self.scan.body_scanner();
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let mut cleared = Vec::with_capacity(announced.min(ROOM_BYTES_MAX));
        self.collect(body, share, |data| {
            scanner.push(&data, &mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))
        })
        .await?;
        scanner.finish(&mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))?;
        self.scan.passed(scanner.take_findings());
        Ok(Bytes::from(cleared))
    }

    async fn read_encoded(&self, body: Incoming, share: &mut Share, headers: &mut HeaderMap) -> Result<Bytes, Denial> {
        let mut encoded = BytesMut::new();
        self.collect(body, share, |data| {
            encoded.extend_from_slice(&data);
            Ok(())
        })
        .await?;
        let encoded = encoded.freeze();
        let in_wrapping = self.scan_wrapping(&encoded)?;
        let (plain, mut findings) = self.decode_and_scan(&encoded)?;
        findings.extend(in_wrapping);
        let redacted = self.scan.passed(findings);
        match plain {
            Some(plain) if redacted || self.keep == Keep::Decoded => {
                headers.remove(header::CONTENT_ENCODING);
                share.grow(self.scan.exchange.gateway(), plain.len())?;
                Ok(Bytes::from(plain))
            }
            Some(_) | None => Ok(encoded),
        }
    }

    async fn collect(
        &self,
        mut body: Incoming,
        share: &mut Share,
        mut take: impl FnMut(Bytes) -> Result<(), Denial>,
    ) -> Result<(), Denial> {
        let max = self.limits.whole_body_bytes_max.min(self.route.body_bytes_max.unwrap_or(u64::MAX));
        let until = Instant::now() + self.limits.whole_body_time;
        let mut taken = 0;
        loop {
            let next = until.min(Instant::now() + self.limits.body_idle);
            let frame = match timeout_at(next, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(Denial::new(Reason::ProtocolRefused, "the request body broke off")),
                Ok(None) => return Ok(()),
                Err(_) => return Err(Denial::new(Reason::LimitReached, "the request body took too long")),
            };
            no_trailers(frame.trailers_ref())?;
            if let Ok(data) = frame.into_data() {
                taken += data.len() as u64;
                if taken > max {
                    let detail = format!("limit {max} bytes for a body that is read whole");
                    return Err(Denial::new(Reason::BodyTooLarge, detail).by(&self.route.id));
                }
                share.grow(self.scan.exchange.gateway(), data.len()).map_err(|denial| denial.by(&self.route.id))?;
                take(data)?;
            }
        }
    }

    /// Scans the encoded bytes as they are: formats have places (names, comments, skipped frames) that no decoder
    /// yields. Where matches are redacted, the decoded text goes out in place of such a wrapping.
    fn scan_wrapping(&self, encoded: &[u8]) -> Result<Option<Finding>, Denial> {
        let plan = ScanPlan { detectors: self.scan.list.clone(), mode: Mode::Block, location: Location::RequestBody };
        let mut scanner = StreamScanner::shallow(self.scan.detectors.clone(), plan);
        let mut sink = Vec::new();
        for piece in encoded.chunks(carboy_guard::inflate::OUT_PER_CALL_MAX) {
            sink.clear();
            if let Err(stopped) = scanner.push(piece, &mut sink) {
                return self.in_wrapping(*stopped.finding);
            }
        }
        match scanner.finish(&mut sink) {
            Ok(()) => Ok(None),
            Err(stopped) => self.in_wrapping(*stopped.finding),
        }
    }

    fn in_wrapping(&self, finding: Finding) -> Result<Option<Finding>, Denial> {
        match self.scan.mode {
            Mode::Block => Err(self.scan.refusal(finding)),
            Mode::Redact => Ok(Some(finding)),
        }
    }

    /// Scans the decoded text. Gives it back where it may have to replace the original.
    fn decode_and_scan(&self, encoded: &[u8]) -> Result<(Option<Vec<u8>>, Vec<Finding>), Denial> {
        let keep = self.scan.mode == Mode::Redact || self.keep == Keep::Decoded;
        let mut scanner = self.scan.scanner(self.scan.list.clone(), self.scan.mode);
        let mut inflate = Inflate::new(&self.codings, DecodedMax(self.limits.whole_body_bytes_max));
        let (mut rest, mut decoded, mut cleared) = (encoded, Vec::new(), Vec::new());
        loop {
            decoded.clear();
            let step = inflate.push(rest, &mut decoded).map_err(|error| self.undecodable(error))?;
            rest = &rest[step.consumed..];
            if !keep {
                cleared.clear();
            }
            scanner.push(&decoded, &mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))?;
            if !step.more {
                break;
            }
        }
        inflate.finish().map_err(|error| self.undecodable(error))?;
        scanner.finish(&mut cleared).map_err(|stopped| self.scan.refusal(*stopped.finding))?;
        Ok((keep.then_some(cleared), scanner.take_findings()))
    }

    fn undecodable(&self, error: InflateError) -> Denial {
        let reason = match error {
            InflateError::TooLarge { .. } => Reason::BodyTooLarge,
            InflateError::Corrupt { .. } | InflateError::TrailingData { .. } | InflateError::Truncated { .. } => {
                Reason::BodyUndecodable
            }
        };
        Denial::new(reason, error.to_string()).by(&self.route.id)
    }
}

/// The request's content codings in the order of application; several fields count as one list.
fn codings_of(headers: &HeaderMap) -> Result<Vec<Coding>, Denial> {
    let mut list = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let text = value.to_str().map_err(|_| Denial::new(Reason::BodyUndecodable, "Content-Encoding is not ASCII"))?;
        let more = Coding::parse_list(text).map_err(|e| Denial::new(Reason::BodyUndecodable, e.to_string()))?;
        list.extend(more);
    }
    if list.len() > carboy_guard::inflate::CODINGS_MAX {
        return Err(Denial::new(Reason::BodyUndecodable, carboy_guard::UnknownCoding::TooMany.to_string()));
    }
    Ok(list)
}

impl Scan {
    /// By the rule that allowed it.
    pub(crate) fn of(route: &RoutePermit, exchange: &Arc<Exchange>) -> Scan {
        let rule = route.route();
        Scan {
            detectors: exchange.gateway().detectors(),
            list: rule.dlp.outbound.clone(),
            mode: mode_of(rule.dlp.outbound_on_match),
            rule: rule.id.clone(),
            route: route.clone(),
            exchange: exchange.clone(),
        }
    }

    /// The same for a part of the exchange that has a record of its own, with what is looked for now.
    pub(crate) fn within(&self, exchange: &Arc<Exchange>) -> Scan {
        Scan { detectors: exchange.gateway().detectors(), exchange: exchange.clone(), ..self.clone() }
    }

    /// Scans a whole message; what comes out may leave.
    pub(crate) fn message(&self, message: &[u8]) -> Result<Bytes, Denial> {
        let (mut scanner, mut cleared) = (self.body_scanner(), Vec::with_capacity(message.len()));
        scanner.push(message, &mut cleared).map_err(|stopped| self.refusal(*stopped.finding))?;
        scanner.finish(&mut cleared).map_err(|stopped| self.refusal(*stopped.finding))?;
        self.passed(scanner.take_findings());
        Ok(Bytes::from(cleared))
    }

    /// A scanner for the body.
    pub(crate) fn body_scanner(&self) -> StreamScanner {
        self.scanner(self.list.clone(), self.mode)
    }

    pub(crate) fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    pub(crate) fn rule(&self) -> &RouteId {
        &self.rule
    }

    fn scanner(&self, detectors: Vec<Detector>, mode: Mode) -> StreamScanner {
        let plan = ScanPlan { detectors, mode, location: Location::RequestBody };
        StreamScanner::new(self.detectors.clone(), plan)
    }

    /// Writes down what was let through; says whether something was overwritten.
    pub(crate) fn passed(&self, findings: Vec<Finding>) -> bool {
        let redacted = findings.iter().any(|finding| finding.severity == Severity::Block);
        self.exchange.found(findings, redacted);
        redacted
    }

    /// Writes down what is not let through, and makes the refusal. The text that was found is in neither.
    pub(crate) fn refusal(&self, finding: Finding) -> Denial {
        let denial = denial_of(&finding, &self.rule);
        self.exchange.found(vec![finding], false);
        denial
    }

    /// Scans the path as it was spelled, where another one is sent: a secret in what is taken out of it was meant to
    /// leave all the same.
    fn spelling(&self, head: &request::Parts, permit: &HostPermit, asked: Option<&str>) -> Result<(), Denial> {
        let Some(asked) = asked else { return Ok(()) };
        let text = format!("{} {}{asked}?{}", head.method, permit.host(), head.uri.query().unwrap_or(""));
        let findings = self.look(text.as_bytes(), Location::RequestLine);
        // One in the query is there in what is sent as well, and may be redacted.
        let sent = format!("?{}", head.uri.query().unwrap_or(""));
        let in_query = self.look(sent.as_bytes(), Location::RequestLine);
        match blocking(&findings) {
            Some(worst) if blocking(&in_query).is_none() => {
                let denial = denial_of(worst, &self.rule);
                self.exchange.found(findings, false);
                Err(denial)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Scans method, host, path and query. A match in the query may be redacted; one before it is always refused,
    /// because the path is what the route was chosen by.
    fn target(&self, head: &mut request::Parts, permit: &HostPermit) -> Result<(), Denial> {
        let before = format!("{} {}{}", head.method, permit.host(), head.uri.path());
        let query = head.uri.query().unwrap_or("");
        let findings = self.look(format!("{before}?{query}").as_bytes(), Location::RequestLine);
        let Some(worst) = blocking(&findings) else {
            self.passed(findings);
            return Ok(());
        };
        let denial = denial_of(worst, &self.rule);
        let (clean, _) = self.detectors.redact(query.as_bytes(), &self.list, Location::RequestLine);
        let clean = query_safe(&clean);
        let left = self.look(format!("{before}?{clean}").as_bytes(), Location::RequestLine);
        if self.mode == Mode::Block || blocking(&left).is_some() {
            self.exchange.found(findings, false);
            return Err(denial);
        }
        head.uri = target(head.uri.path(), Some(&clean)).map_err(|_| denial)?;
        self.passed(findings);
        Ok(())
    }

    /// Takes out what a credential replaces, trailers included.
    pub(crate) fn drop_replaced(&self, headers: &mut HeaderMap) {
        inject::drop_replaced(headers, self.route.route());
    }

    /// Scans trailers as [`fields`](Self::fields) does, and each as what goes on where the body ended: `tail` is what of
    /// the body could be the beginning of a match.
    pub(crate) fn trailers(&self, tail: &[u8], trailers: &mut HeaderMap) -> Result<(), Denial> {
        self.fields(trailers)?;
        if tail.is_empty() || trailers.is_empty() {
            return Ok(());
        }
        let tail = &tail[tail.len().saturating_sub(TAIL_BYTES_MAX)..];
        let judge = |text: &[u8]| {
            let findings = self.look(&[tail, text].concat(), Location::RequestBody);
            let worst = findings.into_iter().find(|finding| finding.severity == Severity::Block);
            worst.map_or(Ok(()), |worst| Err(self.refusal(worst)))
        };
        let mut values = Vec::new();
        for (name, value) in trailers.iter() {
            judge(value.as_bytes())?;
            judge(&[name.as_str().as_bytes(), b": ", value.as_bytes()].concat())?;
            values.extend_from_slice(value.as_bytes());
        }
        judge(&values)
    }

    /// Scans names and values of header fields or trailers; redacts values or refuses.
    pub(crate) fn fields(&self, headers: &mut HeaderMap) -> Result<(), Denial> {
        let findings = self.look(&joined(headers), Location::RequestHeader);
        let Some(worst) = blocking(&findings) else {
            self.passed(findings);
            return Ok(());
        };
        let denial = denial_of(worst, &self.rule);
        if self.mode == Mode::Block {
            self.exchange.found(findings, false);
            return Err(denial);
        }
        for value in headers.values_mut() {
            let (clean, found) = self.detectors.redact(value.as_bytes(), &self.list, Location::RequestHeader);
            if !found.is_empty() {
                *value = HeaderValue::from_bytes(&clean).map_err(|_| denial.clone())?;
            }
        }
        // A match in a name, or across two values, cannot be taken out value by value.
        if blocking(&self.look(&joined(headers), Location::RequestHeader)).is_some() {
            self.exchange.found(findings, false);
            return Err(denial);
        }
        self.passed(findings);
        Ok(())
    }

    fn look(&self, text: &[u8], location: Location) -> Vec<Finding> {
        self.detectors.scan_text(text, &self.list, location)
    }
}

fn blocking(findings: &[Finding]) -> Option<&Finding> {
    findings.iter().find(|finding| finding.severity == Severity::Block)
}

/// Fields one after the other, so that one pass sees them all: a name with its values, which servers put together
/// (HTTP/2 clients send a cookie in crumbs), and then all values once more without the names between them. `Host` is
/// known to be the host that was allowed.
fn joined(headers: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::with_capacity(1024);
    for name in headers.keys().filter(|name| **name != header::HOST) {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        for value in headers.get_all(name) {
            text.extend_from_slice(value.as_bytes());
            text.push(b'\n');
        }
    }
    text.push(b'\n');
    for (_, value) in headers.iter().filter(|(name, _)| **name != header::HOST) {
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text
}

/// The marks that redaction leaves, as a query may hold them.
fn query_safe(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace('[', "%5B").replace(']', "%5D").replace(' ', "+")
}

/// The refusal that a finding asks for.
pub(crate) fn denial_of(finding: &Finding, rule: &RouteId) -> Denial {
    let reason = match finding.detector {
        Detector::KnownSecrets => Reason::SecretKnown,
        Detector::TokenPatterns => Reason::SecretPattern,
        Detector::NaiveInjectionDetection => Reason::Injection,
    };
    Denial::new(reason, format!("{} in the {}", finding.rule, finding.location)).by(rule)
}
