//! The operator's webhook: one JSON text, posted to an address of the settings.
//!
//! It is the supervisor that speaks here and not the bottle. Nothing of a bottle's routes opens this door, and this door
//! opens nothing for a bottle.
//!
//! *Must never* follow a redirect, carry the token over plain text to another machine, or repeat the address's path in an
//! error: the path is a credential at most services.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use carboy_core::host::{Host, HostPattern};
use carboy_core::route::{HostPermit, Reach, Route, RouteSet};
use carboy_core::secret::{Secret, SecretText};
use carboy_core::upstream::Upstreams;
use carboy_core::verdict::Verdict;
use http::header::{self, HeaderValue};
use http::{Method, Request};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::{Dialer, Security, server_name};
use crate::alpn::Offer;
use crate::limits::GatewayLimits;

/// Longest time from the first look-up to the head of the answer.
pub const WEBHOOK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why a message did not arrive. Names the host alone.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address cannot be posted to.
    #[error("the webhook's address is not https:// (or http:// on this machine)")]
    Address,
    /// It could not be reached.
    #[error("webhook {host}: {why}")]
    Unreachable {
        /// The host.
        host: String,
        /// What went wrong.
        why: String,
    },
    /// It answered something else than that it took the message.
    #[error("webhook {host} answered with status {status}")]
    Status {
        /// The host.
        host: String,
        /// HTTP status.
        status: u16,
    },
}

/// Where a webhook is.
struct Place {
    permit: HostPermit,
    security: Security,
    authority: String,
    target: String,
}

impl Place {
    fn of(url: &str) -> Result<Place, WebhookError> {
        let (security, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (Security::Tls, rest),
            (None, Some(rest)) => (Security::Plain, rest),
            (None, None) => return Err(WebhookError::Address),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = Host::parse_authority(authority).map_err(|_| WebhookError::Address)?;
        // The one name whose meaning no resolver is asked for.
        let host = if authority_is_localhost(&host) { Host::V4(std::net::Ipv4Addr::LOCALHOST) } else { host };
        let port = port.unwrap_or(if security == Security::Tls { 443 } else { 80 });
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        // The operator named this host: the one route there is leads to it, wherever it stands.
        let mut route = Route::plain(0, HostPattern::Exact(host.clone()));
        route.ports = vec![port];
        route.reach = Reach::Private;
        match RouteSet::new(vec![route], 0).host_permit(&host, port) {
            Verdict::Allow(permit) => Ok(Place { permit, security, authority: authority.to_owned(), target }),
            Verdict::Deny(_) => Err(WebhookError::Address),
        }
    }
}

fn authority_is_localhost(host: &Host) -> bool {
    host.as_name().is_some_and(|name| name.as_str() == "localhost")
}

/// Posts `json` to `url` once, with the token as `Authorization: Bearer` where there is one.
pub async fn post_webhook(
    upstreams: &Upstreams,
    url: &str,
    token: Option<&SecretText>,
    json: Vec<u8>,
) -> Result<(), WebhookError> {
    let place = Place::of(url)?;
    let host = place.permit.host().to_string();
    let unreachable = |why: String| WebhookError::Unreachable { host: host.clone(), why };
    let sent = timeout(WEBHOOK_WAIT_MAX, send(upstreams, &place, token, json)).await;
    let status =
        sent.map_err(|_| unreachable(format!("no answer within {WEBHOOK_WAIT_MAX:?}")))?.map_err(unreachable)?;
    if (200..300).contains(&status) { Ok(()) } else { Err(WebhookError::Status { host, status }) }
}

async fn send(upstreams: &Upstreams, place: &Place, token: Option<&SecretText>, json: Vec<u8>) -> Result<u16, String> {
    let (host, port) = (place.permit.host(), place.permit.port());
    let dialer = Dialer::new(upstreams.clone(), Arc::new(GatewayLimits::default()));
    let tcp = dialer.dial(&place.permit).await.map_err(|denial| denial.detail)?;
    let security = dialer.security(host, port, place.security);
    if security == Security::Plain && upstreams.get(host, port).is_none() {
        // A name may lead anywhere: what was dialled counts.
        let local = tcp.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
        if !local {
            return Err("http:// is for this machine alone".into());
        }
    }
    let request = request(place, token, json)?;
    if security == Security::Plain {
        return exchange(tcp, request).await;
    }
    let extra = upstreams.get(host, port).and_then(|upstream| upstream.extra_ca_pem.as_deref());
    let config = dialer.tls.config(extra, Offer { h1: true, h2: false }).await?;
    let connector = tokio_rustls::TlsConnector::from(config);
    let name = server_name(host).map_err(|denial| denial.detail)?;
    let stream = connector.connect(name, tcp).await.map_err(|e| e.to_string())?;
    exchange(stream, request).await
}

fn request(place: &Place, token: Option<&SecretText>, json: Vec<u8>) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(&place.target)
        .header(header::HOST, &place.authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("carboy/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(json)))
        .map_err(|_| "its address is no request target".to_owned())?;
    if let Some(token) = token {
        let text = Secret::new(format!("Bearer {}", token.expose()));
        // The error is dropped on purpose: it must not carry the value.
        let mut value = HeaderValue::from_str(text.expose()).map_err(|_| "its token is no header value".to_owned())?;
        value.set_sensitive(true);
        request.headers_mut().insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// The status of the answer; its body is not read.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| e.to_string())?;
    // It ends with the sender and the answer, both of which go at the end of this function.
    let driven = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    driven.abort();
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart_and_only_two_schemes_are_known() {
        let place = Place::of("https://h.example:8443/a/b?c=d").ok().unwrap();
        assert_eq!((place.permit.port(), place.target.as_str()), (8443, "/a/b?c=d"));
        let place = Place::of("http://127.0.0.1?x").ok().unwrap();
        assert_eq!((place.permit.port(), place.target.as_str(), place.authority.as_str()), (80, "/?x", "127.0.0.1"));
        for url in ["ftp://h.example/", "h.example", "https://", "https://u@h.example/"] {
            assert!(Place::of(url).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn an_error_names_the_host_and_never_the_path() {
        // A port that nobody listens on: bound, and not listening.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let url = format!("http://127.0.0.1:{port}/services/T0K3N");
        let error = post_webhook(&Upstreams::default(), &url, None, b"{}".to_vec()).await.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1") && !error.contains("T0K3N"), "{error}");
    }
}
