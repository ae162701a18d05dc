//! A request from the bottle, from its head to the answer. Read this first.
//!
//! | step | type | what it proves |
//! |---|---|---|
//! | 1 | `Intercepted` | the bottle is known by its socket; the name asked of DNS, the TLS server name and the target agree; a `HostPermit` says that the host may be dialled |
//! | 2 | `Routed` | a route allows method, path and fields |
//! | 3 | `Scanned` | every byte is seen before it leaves |
//! | 4 | `Reserved` | what it may cost is held, or a permit says that it costs nothing |
//! | 5 | [`Credentialed`](crate::Credentialed) | the real secret is set, for this host alone |
//! | 5½ | `Dispatched` | the hold is durable, and the request says what it may write |
//! | 6 | `Answer` | it was written to a checked address over a verified connection |
//! | 7 | `Screened` | what comes back holds no secret of this run, was judged and metered; its end is told to the ledger |
//!
//! Each step consumes the one before it; none has a public constructor. A denial of any step ends in [`refuse`], which
//! writes it down before the client is told.

use std::convert::Infallible;
use std::sync::Arc;

use carboy_core::ids::SecretName;
use carboy_core::ports::SecretSource;
use carboy_core::verdict::{Denial, Reason};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::answer::{Screened, denied};
use crate::connection::Flow;
use crate::gateway::refusal_id;
use crate::learn;
use crate::placeholder::astray;
use crate::record::Exchange;
use crate::request::{Intercepted, WebSocket, wants_web_socket};
use crate::sending::Untold;
use crate::upstream;
use crate::websocket;

/// Answers one request of a connection; never fails, because a failure is an answer too.
pub(crate) async fn handle(flow: Arc<Flow>, request: Request<Incoming>) -> Result<Response<Screened>, Infallible> {
    let exchange = Exchange::open(flow.gateway(), flow.host(), flow.port(), &request);
    flow.holds(&exchange);
    let upgrade = wants_web_socket(&request);
    let gateway = flow.gateway().clone();
    let astray = gateway.routes_known().ok().and_then(|routes| astray(&request, flow.host(), &routes, &gateway));
    let passed = tokio::select! {
        biased;
        denial = gateway.closing_to(exchange.errand()) => Err(denial), // what is under way ends here, and its hold with it
        passed = pass(&flow, request, &exchange) => passed,
    };
    match passed {
        Ok(response) => Ok(response),
        // A request that no route takes is not scanned; a placeholder in its head is told all the same.
        Err(denial) => {
            let denial = astray.filter(|_| denial.reason.is_of_routes()).unwrap_or(denial);
            Ok(refuse(&exchange, denial, upgrade).await)
        }
    }
}

async fn pass(flow: &Flow, request: Request<Incoming>, exchange: &Arc<Exchange>) -> Result<Response<Screened>, Denial> {
    let gateway = flow.gateway();
    let routes = gateway.routes_for(exchange.errand())?;

    exchange.placed()?;
    let request = learn::look(request, flow, &routes, exchange).await?;
    let intercepted = Intercepted::agree(request, flow, &routes, exchange)?;
    let routed = intercepted.route(&routes)?;
    let mut scanned = routed.scan().await?;
    if let Some(asked) = scanned.socket.take() {
        return websocket::open(flow, &routes, scanned, asked).await; // its messages go through steps of their own
    }
    let reserved = scanned.reserve(flow, &routes).await?;
    let credentialed = reserved.credential(&*gateway.secrets, &gateway.dialer, flow.pool().inside())?;

    let now = gateway.routes_for(exchange.errand())?;
    if now.generation() != routes.generation() && !exchange.stands(&now) {
        return Err(Denial::new(Reason::RequestNotAllowed, "its route was withdrawn while the request was read"));
    }
    exchange.allow()?; // the intent is in the chain before a byte leaves
    let dispatched = credentialed.dispatch(&gateway.dialer, flow.pool()).await?;
    let answer = upstream::send(&gateway.dialer, flow.pool(), dispatched).await?;

    if answer.response.status() == StatusCode::UNAUTHORIZED {
        refresh(&gateway.secrets, &answer.rest.carried);
    }
    answer.screen().await
}

/// Writes the refusal down, durably, and renders it for the client.
async fn refuse(exchange: &Arc<Exchange>, denial: Denial, upgrade: WebSocket) -> Response<Screened> {
    let untold = Untold::new(exchange, &denial);
    tokio::time::sleep(exchange.refusal_wait(&denial)).await;
    untold.told();
    let id = refusal_id();
    let upgrade = denial.reason == Reason::ProtocolRefused && upgrade == WebSocket::Asked;
    // A client that leaves meanwhile takes neither the entry nor the word to the operator with it.
    let (of, under) = (exchange.clone(), id.clone());
    let written = tokio::spawn(async move {
        if upgrade { of.refuse_upgrade(denial, &under).await } else { of.refuse(denial, &under).await }
    });
    let denial = written.await.unwrap_or_else(|error| Denial::new(Reason::AuditUnavailable, error.to_string()));
    let mut response = denied(&denial, &id, exchange.speaks());
    if upgrade && denial.reason == Reason::ProtocolRefused {
        // Codex tries a WebSocket first; at this status, and no other, it goes on with POST at once.
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
    }
    response
}

/// The upstream did not take the credential: it may have been renewed. The request is not sent again (its client
/// decides that); the source limits how often it reads.
fn refresh(secrets: &Arc<dyn SecretSource>, carried: &[SecretName]) {
    for name in carried {
        let (secrets, name) = (secrets.clone(), name.clone());
        tokio::spawn(async move {
            let _ = secrets.refresh(&name).await;
        });
    }
}

/// What every request gets while the run ends.
pub(crate) fn stopping() -> Denial {
    Denial::new(Reason::Stopping, "")
}
