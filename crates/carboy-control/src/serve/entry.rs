//! What happens to every request before and after its route: its way, its name, its person, its cookie; then its walls
//! and its line in the log.
//!
//! *Must never* let an answer out that went past here.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use carboy_agent::{Asker, SessionId};
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::identity::{principal, short};
use super::journal::Entry;
use super::listener::Peer;
use super::proxies::{Way, way};
use super::refusal::{Refusal, Told};
use super::{App, origin};

/// The page, which starts a session.
pub(super) const INDEX: &str = "/static/index.html";

/// Who asks, and as what the log knows it.
#[derive(Clone)]
pub(super) struct Visitor {
    pub asker: Asker,
    pub correlation: Arc<str>,
}

/// One request, from its head to its answer.
pub(super) async fn routed(app: &Arc<App>, router: Router, mut request: Request<Body>, peer: Peer) -> Response<Body> {
    let began = Instant::now();
    let way = way(peer.0, request.headers(), &app.trusted);
    let (method, route) = (request.method().clone(), pattern(request.uri().path()));
    let correlation = correlation();
    let entered = enter(app, &mut request, &way, route, &correlation);
    let (mut answer, session) = match entered {
        Ok(entered) => {
            let mut answer =
                TowerToHyperService::new(router).call(request).await.unwrap_or_else(|never| match never {});
            let session = entered.map(|(key, cookie)| {
                if let Some(cookie) = cookie {
                    answer.headers_mut().append(header::SET_COOKIE, cookie);
                }
                key
            });
            (answer, session)
        }
        Err(refusal) => (refusal.answer(), None),
    };
    if method == Method::OPTIONS && answer.status() == StatusCode::METHOD_NOT_ALLOWED {
        answer = options(answer);
    }
    app.walls.put(&mut answer, way.https);
    if let Ok(id) = HeaderValue::from_str(&correlation) {
        answer.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    }
    let told = answer.extensions().get::<Told>();
    app.journal.request(&Entry {
        correlation: &correlation,
        method: method_name(&method),
        route,
        status: answer.status().as_u16(),
        code: told.map(|told| told.code),
        particulars: told.and_then(|told| told.particulars.as_deref()),
        address: way.address,
        session: session.map(|key| app.engine.name_of(key)).as_deref(),
        took: began.elapsed(),
    });
    answer
}

type Entered = Option<(carboy_core::ports::SessionKey, Option<HeaderValue>)>;

fn enter(
    app: &App,
    request: &mut Request<Body>,
    way: &Way,
    route: &str,
    correlation: &Arc<str>,
) -> Result<Entered, Refusal> {
    origin::own_name(app.address, !app.trusted.is_empty(), way)?;
    let api = route.starts_with("/api/");
    if api && !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        origin::own_page(request.headers(), way)?;
    }
    if request.method() == Method::OPTIONS || !(api || route == "/" || request.uri().path() == INDEX) {
        return Ok(None);
    }
    let vouched = app.identities.vouched(request.headers(), app.clock.now_ms()).map_err(|refused| {
        let next = "sign in again, then reload this page";
        Refusal::new(StatusCode::UNAUTHORIZED, "not_recognised", "your sign-in does not hold", next).because(refused)
    })?;
    let owner = vouched.as_ref().map_or("", |vouched| vouched.user.as_str());
    let (session, cookie) = match app.cookies.read(request.headers(), owner, way.https) {
        Some(session) => (session, None),
        None => {
            let session = SessionId::fresh().map_err(Refusal::internal)?;
            let cookie = app.cookies.set(&session, owner, way.https);
            (session, cookie)
        }
    };
    let key = session.key();
    let principal = principal(vouched.as_ref(), &session);
    let asker = Asker { session, principal, address: Some(way.address) };
    request.extensions_mut().insert(Visitor { asker, correlation: correlation.clone() });
    Ok(Some((key, cookie)))
}

/// A known route's name for the log, never what somebody typed.
fn pattern(path: &str) -> &'static str {
    const ROUTES: &[&str] = &[
        "/",
        "/health",
        "/architecture",
        "/metrics",
        "/api/chat",
        "/api/confirm",
        "/api/decline",
        "/api/stop",
        "/api/transcript",
        "/api/handoff",
        "/api/feedback",
        "/api/state",
    ];
    let whole = ROUTES.iter().find(|route| **route == path).copied();
    whole.unwrap_or(if path.starts_with("/static/") { "/static/*" } else { "-" })
}

fn method_name(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH", "TRACE", "CONNECT"];
    known.into_iter().find(|name| *name == method.as_str()).unwrap_or("-")
}

/// Random, and ours: a client's own id would let it write into the log.
fn correlation() -> Arc<str> {
    let mut octets = [0; 8];
    match getrandom::fill(&mut octets) {
        Ok(()) => octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>().into(),
        // Without randomness no session is made either; the request is refused there.
        Err(_) => short(&[0; 6]).into(),
    }
}

/// What may be asked at this address. No field that would let another site's script ask.
fn options(refused: Response<Body>) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    if let Some(allow) = refused.headers().get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allow.clone());
    }
    answer
}
