//! Steps 1 to 2: a request whose names agree, and a route for it.
//!
//! [`Intercepted`] says that the name asked of DNS, the TLS server name and the request's own target are one host
//! (B15, B16, B19). [`Routed`] says that a route allows method, path and headers. Neither can be made elsewhere.

use std::sync::Arc;

use carboy_core::host::Host;
use carboy_core::route::{HostPermit, RequestFacts, RoutePermit, RouteSet};
use carboy_core::verdict::{Denial, Reason};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Uri, request};
use hyper::body::Incoming;

use crate::connection::Flow;
use crate::record::Exchange;
use crate::signed;
use crate::websocket::{Asked, extended_connect};

/// Fields that speak to the next hop alone (RFC 9110, 7.6.1), `te` and `trailer` aside.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "transfer-encoding",
    "upgrade",
];

/// Step 1: the names agree, the form can be policed, and the host may be dialled.
pub(crate) struct Intercepted {
    head: request::Parts,
    body: Incoming,
    permit: HostPermit,
    exchange: Arc<Exchange>,
    socket: Option<Asked>,
}

/// Step 2: a route allows the request.
pub(crate) struct Routed {
    pub(crate) head: request::Parts,
    pub(crate) body: Incoming,
    pub(crate) permit: HostPermit,
    pub(crate) route: RoutePermit,
    pub(crate) exchange: Arc<Exchange>,
    /// The path as the bottle spelled it, where that is not the one in `head`, which is the one that is sent.
    pub(crate) asked: Option<String>,
    /// It is to go on as a WebSocket.
    pub(crate) socket: Option<Asked>,
}

impl Intercepted {
    /// Checks the form and the names, and asks whether the host may be dialled at all.
    pub(crate) fn agree(
        request: Request<Incoming>,
        flow: &Flow,
        routes: &RouteSet,
        exchange: &Arc<Exchange>,
    ) -> Result<Intercepted, Denial> {
        flow.standing()?;
        let permit = routes.host_permit(flow.host(), flow.port()).into_result()?;
        flow.gateway().name_counted(flow.host(), routes)?;
        let (mut head, body) = request.into_parts();
        let most = flow.gateway().limits.headers_max;
        if head.headers.len() > most {
            return Err(Denial::new(Reason::LimitReached, format!("more than {most} header fields")));
        }
        agree_on_target(&head, flow)?;
        let socket = Asked::take(&mut head, flow.host(), routes)?;
        refuse_other_protocols(&head)?;
        strip_hop_by_hop(&mut head.headers);
        Ok(Intercepted { head, body, permit, exchange: exchange.clone(), socket })
    }

    /// Asks the routes for this request.
    pub(crate) fn route(self, routes: &RouteSet) -> Result<Routed, Denial> {
        let Intercepted { mut head, body, permit, exchange, socket } = self;
        let headers: Vec<(&str, &[u8])> =
            head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let facts = RequestFacts {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or(""),
            headers: &headers,
        };
        let route = routes.route(&permit, &facts).into_result().inspect_err(|_| {
            let nearest = routes.nearest(permit.host(), permit.port(), Some(&facts));
            exchange.missed(&nearest.map(|nearest| nearest.misfits).unwrap_or_default());
        })?;
        exchange.routed(&route, head.uri.path());
        signed::refuse(&head).map_err(|denial| denial.by(&route.route().id))?;
        if socket.is_some() && !route.route().websocket {
            return Err(other_protocol().by(&route.route().id));
        }
        // From here on there is one path, the one that was judged: what came could be another path to the server that
        // it goes to, and a secret split over `a/x/../b` would be whole there alone.
        let asked = (head.uri.path() != route.path()).then(|| head.uri.path().to_owned());
        head.uri = target(route.path(), head.uri.query())?;
        Ok(Routed { head, body, permit, route, exchange, asked, socket })
    }
}

/// A request line's target.
pub(crate) fn target(path: &str, query: Option<&str>) -> Result<Uri, Denial> {
    let target = match query {
        Some(query) => format!("{path}?{query}").parse(),
        None => path.parse(),
    };
    target.map_err(|_| Denial::new(Reason::HostInvalid, "the target is not a path"))
}

/// Exactly one target, and it is the host that this connection was opened to.
fn agree_on_target(head: &request::Parts, flow: &Flow) -> Result<(), Denial> {
    // RFC 3986, 2: a target is ASCII. Servers that read other octets as Latin-1 end the path at a no-break space.
    if head.uri.path_and_query().is_some_and(|target| !target.as_str().is_ascii()) {
        return Err(Denial::new(Reason::HostInvalid, "the target has octets that are no ASCII; percent-encode them"));
    }
    let mut named = 0;
    let hosts = head.headers.get_all(header::HOST);
    for value in &hosts {
        named += 1;
        let text = value.to_str().map_err(|_| Denial::new(Reason::HostInvalid, "Host is not visible ASCII"))?;
        agree(text, flow)?;
    }
    if named > 1 {
        return Err(Denial::new(Reason::HostInvalid, format!("{named} Host fields")));
    }
    // Absolute form in HTTP/1, `:authority` in HTTP/2.
    if let Some(authority) = head.uri.authority() {
        agree(authority.as_str(), flow)?;
        named += 1;
    }
    if named == 0 {
        return Err(Denial::new(Reason::HostInvalid, "no Host and no :authority"));
    }
    Ok(())
}

fn agree(text: &str, flow: &Flow) -> Result<(), Denial> {
    let (host, port) =
        Host::parse_authority(text).map_err(|error| Denial::new(Reason::HostInvalid, error.to_string()))?;
    if &host != flow.host() || port.is_some_and(|port| port != flow.port()) {
        let port = port.map(|port| format!(" port {port}")).unwrap_or_default();
        let detail = format!("connected to {} port {}, asked for {host}{port}", flow.host(), flow.port());
        return Err(Denial::new(Reason::NameMismatch, detail));
    }
    Ok(())
}

/// What would turn the connection into something that is no sequence of requests.
fn refuse_other_protocols(head: &request::Parts) -> Result<(), Denial> {
    let refused = |what: &str| Err(Denial::new(Reason::ProtocolRefused, what.to_owned()));
    if extended_connect(head).is_some() {
        return Err(other_protocol());
    }
    if head.method == Method::CONNECT {
        return refused("CONNECT; the gateway is no proxy to be asked for tunnels");
    }
    if head.method == Method::TRACE {
        return refused("TRACE, which would show the credential (B41)");
    }
    for value in head.headers.get_all(header::UPGRADE) {
        // A server may ignore an upgrade (RFC 9110, 7.8). Java's client asks for h2c on every plain request: it is
        // answered over HTTP/1.1. Anything else cannot go on without the upgrade.
        if !value.as_bytes().eq_ignore_ascii_case(b"h2c") {
            return Err(other_protocol());
        }
    }
    for value in head.headers.get_all(header::TRANSFER_ENCODING) {
        if !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return refused("a Transfer-Encoding other than chunked");
        }
    }
    Ok(())
}

fn other_protocol() -> Denial {
    Denial::new(Reason::ProtocolRefused, "an Upgrade to another protocol")
}

/// Whether the client asks to go on as a WebSocket (RFC 6455, 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WebSocket {
    /// It does.
    Asked,
    /// It does not.
    NotAsked,
}

/// Looks at the request's `Upgrade`.
pub(crate) fn wants_web_socket<B>(request: &Request<B>) -> WebSocket {
    let asked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    if request.headers().get_all(header::UPGRADE).iter().any(asked) { WebSocket::Asked } else { WebSocket::NotAsked }
}

/// Takes out what speaks to the next hop alone, and what `Connection` names. `te: trailers` stays: gRPC needs it.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // These decide how the message is read; no `Connection` takes them out.
        .filter(|name| !FRAMING.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(*name);
    }
    headers.remove("http2-settings");
    // `transfer_encoding` is `transfer-encoding` to servers that hand fields on as variables.
    let disguised: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .filter(|name| {
            let dashed = dashed(name);
            HOP_BY_HOP.contains(&&*dashed) || FRAMING.iter().any(|framing| framing.as_str() == dashed)
        })
        .cloned()
        .collect();
    for name in disguised {
        headers.remove(name);
    }
    if headers.get_all(header::TE).iter().any(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        headers.remove(header::TE);
    }
}

/// Fields that say how a message is to be read.
const FRAMING: &[HeaderName] = &[
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::TE,
    header::TRAILER,
];

/// Fields that no trailer may carry (RFC 9110, 6.5.1): a server that merges trailers would take them for its head's.
const NOT_IN_TRAILERS: &[HeaderName] = &[
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::TE,
    header::TRAILER,
    header::AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::RANGE,
    header::EXPECT,
    header::CACHE_CONTROL,
];

/// The name as servers read it that know no difference between `_` and `-`.
pub(crate) fn dashed(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

/// Takes out of trailers what only a head may say.
pub(crate) fn strip_framing(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    for name in NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

/// `host`, with brackets around IPv6 and the port where it is not the scheme's own.
pub(crate) fn authority(permit: &HostPermit, scheme: &str) -> String {
    let host = match permit.host() {
        Host::V6(v6) => format!("[{v6}]"),
        host @ (Host::Name(_) | Host::V4(_)) => host.to_string(),
    };
    let default = if scheme == "https" { 443 } else { 80 };
    if permit.port() == default { host } else { format!("{host}:{}", permit.port()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hops_own_fields_go_and_trailers_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Private, host, Content-Encoding"),
            ("content-encoding", "br"),
            ("transfer_encoding", "chunked"),
            ("content_length", "1"),
            ("x_y", "1"),
            ("x-private", "1"),
            ("host", "a.example"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("accept", "*/*"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "content-encoding", "host", "te", "x_y"]);
    }
}
