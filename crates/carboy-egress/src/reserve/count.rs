//! The provider's own count of a request, asked for when a cap is near.
//!
//! It carries the prompt, so it goes the way that the prompt goes: through a route that allows it, to the same host, with
//! the same credential, on a connection of the same pool, and it is in the log. Where the provider has no such endpoint, the
//! routes do not allow it, or no count comes, the local bound stands.
//!
//! *Must never* send anything that the request itself would not send, or take longer or more than its limits.

use bytes::Bytes;
use carboy_core::audit::{Event, EventType, Outcome};
use carboy_core::route::{RequestFacts, RoutePermit, RouteSet};
use carboy_core::verdict::Denial;
use carboy_wire::count;
use carboy_wire::demand::Demand;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Uri};
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{Target, aside};
use crate::connection::Flow;
use crate::outbound::Scanned;
use crate::upstream::{self, Answer, Lease};

/// What is to be counted.
pub(super) struct Prompt<'a> {
    pub(super) target: &'a Target,
    pub(super) demand: &'a Demand,
    pub(super) body: &'a Bytes,
}

/// Asks; `None` where there is no count.
pub(super) async fn ask(scanned: &Scanned, flow: &Flow, routes: &RouteSet, prompt: Prompt<'_>) -> Option<u64> {
    let format = prompt.target.format;
    let request = count::request(format, scanned.route.path(), prompt.body, prompt.demand)?;
    let route = allowed(scanned, routes, &request.path)?;
    let gateway = flow.gateway();
    let event = |how| {
        Event::new(EventType::Egress, gateway.subject.clone(), "count", how)
            .with("request", scanned.exchange.number())
            .with("host", scanned.permit.host().to_string())
            .with("port", scanned.permit.port())
            .with("path", gateway.clean(&request.path))
            .with("rule", route.route().id.as_str())
    };
    // As with every request: the intent is in the chain before a byte leaves.
    gateway.audit.append(event(Outcome::Allowed)).ok()?;
    let length = request.body.len() as u64;
    let max = gateway.limits.count_bytes_max;
    let answer =
        async { read(send(scanned, flow, route.clone(), request.path.clone(), request.body).await.ok()?, max).await };
    let tokens = timeout(gateway.limits.count_wait, answer).await.ok().flatten();
    let tokens = tokens.and_then(|body| count::answer(format, &body));
    let how = if tokens.is_some() { Outcome::Done } else { Outcome::Failed };
    let mut event = event(how).with("bytes_sent", length);
    if let Some(tokens) = tokens {
        event = event.with("tokens_input", tokens);
    }
    // Told to the next request, should the log be full by now.
    let _ = gateway.audit.append(event);
    tokens
}

/// The routes have to allow it, by the rule that allowed the request itself: another may hold another credential.
fn allowed(scanned: &Scanned, routes: &RouteSet, path: &str) -> Option<RoutePermit> {
    let headers: Vec<(&str, &[u8])> =
        scanned.head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let facts = RequestFacts { method: Method::POST.as_str(), path, query: "", headers: &headers };
    let permit = routes.route(&scanned.permit, &facts).into_result().ok()?;
    (permit.route().id == scanned.route.route().id && permit.path() == path).then_some(permit)
}

async fn send(
    scanned: &Scanned,
    flow: &Flow,
    route: RoutePermit,
    path: String,
    body: Vec<u8>,
) -> Result<Answer, Denial> {
    let gateway = flow.gateway();
    let mut head = http::Request::new(()).into_parts().0;
    head.method = Method::POST;
    head.uri = Uri::try_from(path).unwrap_or_default();
    head.headers = fields(&scanned.head.headers, body.len());
    let reserved = aside(scanned, head, route, body);
    let credentialed = reserved.credential(&*gateway.secrets, &gateway.dialer, flow.pool().inside())?;
    upstream::send(&gateway.dialer, flow.pool(), credentialed.aside()).await
}

/// The request's own fields, less what speaks of its body.
fn fields(of: &HeaderMap, length: usize) -> HeaderMap {
    let mut fields = of.clone();
    for name in [header::CONTENT_ENCODING, header::RANGE, header::TE, header::TRAILER] {
        fields.remove(name);
    }
    fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    fields
}

async fn read(answer: Answer, bytes_max: usize) -> Option<Vec<u8>> {
    let Answer { response, lease, rest: _ } = answer;
    if response.status() != StatusCode::OK || response.headers().contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    let mut body = response.into_body();
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if all.len() + data.len() > bytes_max {
                return None;
            }
            all.extend_from_slice(&data);
        }
    }
    lease.into_iter().for_each(Lease::give_back);
    Some(all)
}
