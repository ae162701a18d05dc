//! The opening handshake, on both legs: by HTTP/1.1 (RFC 6455, section 4), or by HTTP/2 on the bottle's (RFC 8441).
//!
//! *Must never* hand the bottle's own key or extensions on, or take an answer that does not fit the key that was sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use carboy_core::host::Host;
use carboy_core::route::RouteSet;
use carboy_core::verdict::{Denial, Reason};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use sha1::{Digest, Sha1};

use crate::answer::{Screened, redact_fields};
use crate::record::Exchange;
use crate::request::strip_hop_by_hop;

/// Section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Octets of a key before it is encoded (section 4.1).
const KEY_BYTES: usize = 16;
/// The only version there is.
const VERSION: &str = "13";

/// A client's request to go on as a WebSocket.
pub(crate) struct Asked {
    /// What it expects in the answer; by HTTP/2 there is no such field.
    accept: Option<HeaderValue>,
    upgrade: OnUpgrade,
}

/// The protocol that an extended CONNECT asks for (RFC 8441, section 4).
pub(crate) fn extended_connect(head: &request::Parts) -> Option<&str> {
    head.extensions.get::<Protocol>().map(Protocol::as_str)
}

/// What was sent upstream, as far as the answer has to fit it.
pub(crate) struct Offered {
    accept: HeaderValue,
    protocols: Vec<String>,
}

impl Asked {
    /// Takes the handshake out of a request's head. `None` where none is asked for, or where no route to this host takes
    /// one: such an upgrade is refused like any other.
    pub(crate) fn take(head: &mut request::Parts, host: &Host, routes: &RouteSet) -> Result<Option<Asked>, Denial> {
        if !routes.iter().any(|route| route.websocket && route.host.matches(host)) {
            return Ok(None);
        }
        if extended_connect(head).is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
            return Asked::take_extended(head).map(Some);
        }
        let mut upgrades = head.headers.get_all(header::UPGRADE).iter();
        let alone = upgrades.next().filter(|_| upgrades.next().is_none());
        if alone.is_none_or(|value| !value.as_bytes().eq_ignore_ascii_case(b"websocket")) {
            return Ok(None);
        }
        if head.method != Method::GET || head.version != Version::HTTP_11 {
            return Err(broken("it is no GET of HTTP/1.1"));
        }
        if !names_upgrade(&head.headers) {
            return Err(broken("`Connection` does not name the upgrade"));
        }
        only_version(&head.headers)?;
        let key = only(&head.headers, &header::SEC_WEBSOCKET_KEY)
            .filter(|key| STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == KEY_BYTES))
            .ok_or_else(|| broken("its key is not 16 bytes in base64"))?;
        let accept = Some(accept_of(key.as_bytes()));
        let upgrade = head.extensions.remove::<OnUpgrade>().ok_or_else(|| broken("its connection cannot switch"))?;
        forget(&mut head.headers);
        Ok(Some(Asked { accept, upgrade }))
    }

    /// RFC 8441, section 5: what is a GET with an upgrade in HTTP/1.1, and is judged by the routes as that.
    fn take_extended(head: &mut request::Parts) -> Result<Asked, Denial> {
        only_version(&head.headers)?;
        let upgrade = head.extensions.remove::<OnUpgrade>().ok_or_else(|| broken("its stream cannot switch"))?;
        head.extensions.remove::<Protocol>();
        head.method = Method::GET;
        forget(&mut head.headers);
        Ok(Asked { accept: None, upgrade })
    }

    /// Is it a stream of a connection that carries others too?
    pub(crate) fn is_a_stream(&self) -> bool {
        self.accept.is_none()
    }

    /// Puts a handshake of the gateway's own into the head that goes upstream.
    pub(crate) fn offer(&self, headers: &mut HeaderMap) -> Result<Offered, Denial> {
        let mut bits = [0_u8; KEY_BYTES];
        getrandom::fill(&mut bits)
            .map_err(|error| Denial::new(Reason::LimitReached, format!("no random key for a WebSocket: {error}")))?;
        let key = STANDARD.encode(bits);
        let protocols = protocols_of(headers);
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
        let accept = accept_of(key.as_bytes());
        let key = HeaderValue::try_from(key).expect("base64 is made of characters that a field may have");
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        Ok(Offered { accept, protocols })
    }

    /// The answer for the client, once the upstream's fits what was offered; and the client's own leg.
    pub(crate) fn accept(
        self,
        offered: &Offered,
        answer: &Response<Incoming>,
        exchange: &Exchange,
    ) -> Result<(Response<Screened>, OnUpgrade), Denial> {
        let failed = |what: &str| Denial::new(Reason::UpstreamFailed, format!("it switched protocols, but {what}"));
        let fields = answer.headers();
        let upgraded = only(fields, &header::UPGRADE).is_some_and(|to| to.eq_ignore_ascii_case("websocket"));
        if !upgraded || only(fields, &header::SEC_WEBSOCKET_ACCEPT) != offered.accept.to_str().ok() {
            return Err(failed("not to the WebSocket that was asked for"));
        }
        if fields.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
            return Err(failed("with extensions that were not offered"));
        }
        let chosen = protocols_of(fields);
        if chosen.len() > 1 || !chosen.iter().all(|one| offered.protocols.contains(one)) {
            return Err(failed("with a subprotocol that was not offered"));
        }
        let mut headers = fields.clone();
        strip_hop_by_hop(&mut headers);
        for name in [header::CONTENT_LENGTH, header::CONTENT_TYPE, header::ALT_SVC] {
            headers.remove(name);
        }
        redact_fields(&mut headers, exchange);
        headers.remove(header::SEC_WEBSOCKET_ACCEPT);
        let mut response = Response::new(Screened::Empty);
        if let Some(accept) = self.accept {
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        *response.headers_mut() = headers;
        Ok((response, self.upgrade))
    }
}

fn broken(what: &str) -> Denial {
    Denial::new(Reason::ProtocolRefused, format!("a WebSocket's opening: {what}"))
}

fn only_version(headers: &HeaderMap) -> Result<(), Denial> {
    let version = only(headers, &header::SEC_WEBSOCKET_VERSION);
    if version == Some(VERSION) { Ok(()) } else { Err(broken("its version is not 13")) }
}

/// What was for this leg alone.
fn forget(headers: &mut HeaderMap) {
    for name in [
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        // Compressed frames are not whole messages to a scanner, and none is offered to the upstream.
        header::SEC_WEBSOCKET_EXTENSIONS,
        header::SEC_WEBSOCKET_ACCEPT,
    ] {
        headers.remove(name);
    }
}

/// The field's value where it stands once and is visible ASCII.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { first.to_str().ok() }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    let mut names = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    names.any(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")))
}

fn protocols_of(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|name| name.trim().to_owned()).collect()
}

fn accept_of(key: &[u8]) -> HeaderValue {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    HeaderValue::try_from(STANDARD.encode(digest)).expect("base64 is made of characters that a field may have")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_standard() {
        // RFC 6455, section 1.3.
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_field_that_stands_twice_says_nothing() {
        let mut headers = HeaderMap::new();
        headers.append("sec-websocket-key", HeaderValue::from_static("a"));
        assert_eq!(only(&headers, &header::SEC_WEBSOCKET_KEY), Some("a"));
        headers.append("sec-websocket-key", HeaderValue::from_static("a"));
        assert_eq!(only(&headers, &header::SEC_WEBSOCKET_KEY), None);
    }
}
