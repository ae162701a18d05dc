//! A WebSocket between a bottle and an upstream, on a route that allows it (`websocket: true`; RFC 6455).
//!
//! ```text
//! GET, upgrade ─▶ Intercepted ─▶ Routed ─▶ Scanned ─▶ Credentialed ─▶ 101 ─▶ 101 ─▶ relay
//!
//! bottle ── message ─▶ scanned whole ─▶ held, durable, bounded (`response.create`) ─▶ upstream
//! bottle ◀─ message ── rid of secrets, judged, metered, settled at its end        ◀── upstream
//! ```
//!
//! Both legs are opened by this gateway, with a key of its own and without extensions, so that nothing but whole messages
//! passes: what a ping, a pong or the reason of a close could carry is not handed on. On a metered route a message is a
//! request like any other, with a record, a hold and an end of its own.
//!
//! *Must never* send a message on that was not seen whole, start a response that is not held, or leave the upstream's
//! connection open after the routes were closed.

mod drawn;
mod handshake;
mod relay;
mod responses;

use std::sync::Arc;

use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Reason};
use http::{Response, StatusCode};

use crate::answer::Screened;
use crate::connection::Flow;
use crate::outbound::{Scan, Scanned};
use crate::reserve::{Target, Use};
use crate::upstream;

pub(crate) use handshake::{Asked, extended_connect};
use relay::Relayed;

/// Opens one: asks the upstream for it, and answers with what the upstream answers. Once both have switched, the
/// connection goes on as a relay.
pub(crate) async fn open(
    flow: &Flow,
    routes: &RouteSet,
    mut scanned: Scanned,
    asked: Asked,
) -> Result<Response<Screened>, Denial> {
    let (gateway, exchange) = (flow.gateway(), scanned.exchange.clone());
    let metered = target_of(&mut scanned)?;
    let scan = Scan::of(&scanned.route, &exchange);
    let route = scanned.route.clone();
    let offer = asked.offer(&mut scanned.head.headers)?;
    let credentialed = scanned.for_opening().credential(&*gateway.secrets, &gateway.dialer, flow.pool().inside())?;
    let now = gateway.routes_now()?;
    if now.generation() != routes.generation() && !exchange.stands(&now) {
        return Err(relay::withdrawn());
    }
    exchange.allow()?;
    let mut answer = upstream::open_socket(&gateway.dialer, flow.pool().inside(), credentialed.opening()).await?;
    if answer.response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return answer.screen().await;
    }
    exchange.answered(answer.response.status().as_u16());
    let is_a_stream = asked.is_a_stream();
    let (response, client) = asked.accept(&offer, &answer.response, &exchange)?;
    let upstream = hyper::upgrade::on(&mut answer.response);
    let relayed = Relayed { exchange, scan, route, metered: metered.map(Arc::new) };
    let relay = Box::pin(relayed.run(client, upstream));
    if is_a_stream {
        // Ends with its stream, and that with the connection; and with the routes, as ever.
        tokio::spawn(relay);
    } else {
        flow.go_on_with(relay);
    }
    Ok(response)
}

/// What its messages are to the meter: `None` where they cost nothing.
fn target_of(scanned: &mut Scanned) -> Result<Option<Target>, Denial> {
    match scanned.take_use() {
        Use::Unmetered(_) => Ok(None),
        Use::Metered(target) if target.is_responses() => Ok(Some(target)),
        Use::Metered(_) => {
            let why = "only Responses are metered over a WebSocket: use HTTP";
            Err(Denial::new(Reason::Unmeterable, why).by(&scanned.route.route().id))
        }
    }
}
