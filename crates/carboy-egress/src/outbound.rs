//! Step 3: everything of a request is seen before it leaves.
//!
//! A body without a content coding is *gated*: its first bytes are scanned before any head goes out, the rest as it
//! flows. A body with one is read *whole*, decoded and scanned, and then goes out as its original bytes: decoders of
//! modern formats may hold whole blocks back, so releasing encoded bytes piece by piece would release what nobody
//! has seen. A metered request is read whole as well, and goes out decoded: what it may cost has to be known first.
//! *Must never* let a body pass that it could not decode.

mod whole;

use std::sync::Arc;

use bytes::Bytes;
use carboy_core::finding::{Detector, Finding, Location, Severity};
use carboy_core::ids::RouteId;
use carboy_core::route::{HostPermit, OnMatch, Route, RoutePermit};
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::{Coding, Detectors, Mode, ScanPlan, StreamScanner};
use http::header::{self, HeaderMap, HeaderValue};
use http::request;
use http_body::Body;
use hyper::body::Incoming;

use crate::body::{Gate, Gated, OutBody};
use crate::inject::{self, Own};
use crate::messages;
use crate::placeholder::Lifted;
use crate::record::Exchange;
use crate::request::{Routed, target};
use crate::reserve::{self, Use};
use crate::websocket::Asked;

use whole::{Keep, Whole};

/// Most bytes of a body's end that trailers are judged together with: more than any token or key spans.
const TAIL_BYTES_MAX: usize = 20 * 1024;

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
    /// The placeholders that were taken out of it.
    pub(crate) lifted: Lifted,
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
        let mut lifted = Lifted::from_head(&mut head, route.route(), &gateway)?;
        let own = Own { route: route.route(), lifted: &lifted, detectors: &gateway.detectors() };
        inject::drop_replaced(&mut head.headers, &own);
        inject::drop_replaced_query(&mut head.uri, &own)?;
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
        } else if lifted.wants_body() {
            let whole =
                Whole { codings, keep: Keep::Decoded, route: route.route(), scan: &scan, limits: &gateway.limits };
            (whole.read_lifting(body, &mut head.headers, &mut lifted).await?, Arc::default())
        } else if codings.is_empty() && keep == Keep::AsSent {
            gated(body, route.route(), scan).await?
        } else {
            let whole = Whole { codings, keep, route: route.route(), scan: &scan, limits: &gateway.limits };
            (whole.read(body, &mut head.headers).await?, Arc::default())
        };
        if route.route().dlp.inbound.contains(&Detector::NaiveInjectionDetection) {
            make_ready_for_answers();
        }
        Ok(Scanned { head, body, gate, permit, route, exchange, used, lifted, socket })
    }
}

/// What the first answer of a process is to be read with is made while its upstream is asked.
fn make_ready_for_answers() {
    static BEGUN: std::sync::Once = std::sync::Once::new();
    // Without the thread the first scan makes it.
    BEGUN.call_once(|| drop(tokio::task::spawn_blocking(carboy_guard::InjectionScanner::make_ready)));
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
        let (rule, detectors) = (route.route(), exchange.gateway().detectors());
        // Whatever a route looks for, a run's placeholders are among it.
        let placeholders = detectors.has_placeholders().then_some(Detector::Placeholders);
        Scan {
            detectors,
            list: rule.dlp.outbound.iter().copied().chain(placeholders).collect(),
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
        if self.refuses(worst) || blocking(&left).is_some() {
            self.exchange.found(findings, false);
            return Err(denial);
        }
        head.uri = target(head.uri.path(), Some(&clean)).map_err(|_| denial)?;
        self.passed(findings);
        Ok(())
    }

    /// Is it refused, whatever the route says of matches? A placeholder is never overwritten: that it was sent is the matter.
    fn refuses(&self, finding: &Finding) -> bool {
        self.mode == Mode::Block || finding.detector == Detector::Placeholders
    }

    /// Takes out of trailers what a credential replaces.
    pub(crate) fn drop_replaced(&self, trailers: &mut HeaderMap) {
        let own = Own { route: self.route.route(), lifted: &Lifted::default(), detectors: &self.detectors };
        inject::drop_replaced(trailers, &own);
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
        if self.refuses(worst) {
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
    unruled(finding).by(rule)
}

/// The same where no rule has anything to do with it.
pub(crate) fn unruled(finding: &Finding) -> Denial {
    let reason = match finding.detector {
        Detector::Placeholders => Reason::PlaceholderMisplaced,
        Detector::KnownSecrets => Reason::SecretKnown,
        Detector::TokenPatterns => Reason::SecretPattern,
        Detector::NaiveInjectionDetection => Reason::Injection,
    };
    Denial::new(reason, format!("{} in the {}", finding.rule, finding.location))
}
