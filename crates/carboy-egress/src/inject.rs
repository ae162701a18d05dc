//! Step 5: the real credential is set, for the one host that it belongs to.
//!
//! *Must never* put a credential on a request whose host was not agreed on by name, TLS and target (B16), or on a
//! leg without TLS that the operator did not ask for.

use std::sync::Arc;

use carboy_core::ids::SecretName;
use carboy_core::ports::SecretSource;
use carboy_core::route::{HostPermit, PlaceholderIn, Route, RouteAuth, RoutePermit};
use carboy_core::secret::Secret;
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::Detectors;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri, Version};

use crate::answer::Wanted;
use crate::body::{Gate, OutBody};
use crate::hold::Hold;
use crate::outbound::Scanned;
use crate::placeholder::{Filling, Lifted, strays};
use crate::record::Exchange;
use crate::request::{authority, dashed, target};
use crate::reserve::{Metering, Reserved};
use crate::upstream::{Dialer, Security};

/// Fields by which the providers' upstreams take a credential. On a route with a credential none of the bottle's own
/// gets through: with another account's key the same host would be a way to carry data out.
const CREDENTIAL_FIELDS: &[&str] = &[
    "authorization",
    "cookie",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "private-token",
    "job-token",
    "x-auth-token",
    "x-auth-key",
    "x-access-token",
    "x-api-token",
    "x-functions-key",
    "x-subscription-token",
    "x-vault-token",
    "ocp-apim-subscription-key",
    "deploy-token",
];

/// Parameters by which they take one in the query, as written with `_` and in lower case; `$httpHeaders` is any field.
const CREDENTIAL_PARAMETERS: &[&str] = &[
    "key",
    "access_token",
    "oauth_token",
    "api_key",
    "apikey",
    "x_api_key",
    "x_goog_api_key",
    "auth_token",
    "private_token",
    "job_token",
    "token",
    "subscription_key",
    "authorization",
    "$httpheaders",
];
/// Words in a WebSocket's subprotocol that is none, but a credential: in a browser no other field of an opening can be set, so
/// upstreams take `openai-insecure-api-key.KEY` and `base64url.bearer.authorization.k8s.io.TOKEN` there.
const CREDENTIAL_PROTOCOLS: &[&str] = &["api-key", "apikey", "api_key", "bearer", "authorization", "token"];
/// Rounds of percent-decoding that a careless chain of servers may do to a parameter's name.
const DECODE_ROUNDS_MAX: usize = 4;

/// Whose credentials a request may carry.
pub(crate) struct Own<'a> {
    pub(crate) route: &'a Route,
    pub(crate) lifted: &'a Lifted,
    pub(crate) detectors: &'a Detectors,
}

impl Own<'_> {
    /// Is it to stay where a credential goes? What holds a mark is the credential, and a placeholder that does not belong here
    /// is for the scanners to refuse.
    fn stays(&self, value: &[u8]) -> bool {
        self.lifted.marks(value) || strays(self.detectors, value, self.route.auth.as_ref().map(|auth| &auth.secret))
    }

    /// Fields by which a credential of the route goes, beside those by which credentials go as a rule. `None` where the route
    /// has none in a field.
    fn fields(&self) -> Option<Vec<&str>> {
        let of_auth = self.route.auth.iter().flat_map(RouteAuth::replaced_headers);
        let of_placeholders = self.route.credentials.iter().filter_map(|one| match &one.place {
            PlaceholderIn::Header(name) => Some(name.as_str()),
            PlaceholderIn::Basic(_) => Some("authorization"),
            PlaceholderIn::Query(_) | PlaceholderIn::Body(_) => None,
        });
        let fields: Vec<&str> = of_auth.chain(of_placeholders).collect();
        (!fields.is_empty()).then_some(fields)
    }

    /// Parameters of the query by which one goes. `None` where the route has none that replaces any.
    fn parameters(&self) -> Option<Vec<&str>> {
        let named = self.route.credentials.iter().filter_map(|one| match &one.place {
            PlaceholderIn::Query(name) => Some(name.as_str()),
            PlaceholderIn::Header(_) | PlaceholderIn::Basic(_) | PlaceholderIn::Body(_) => None,
        });
        let named: Vec<&str> = named.collect();
        (self.route.auth.is_some() || !named.is_empty()).then_some(named)
    }
}

/// Takes out what the bottle sent in place of the credential that will be set.
pub(crate) fn drop_replaced(headers: &mut HeaderMap, own: &Own<'_>) {
    let Some(fields) = own.fields() else { return };
    let replaced = |name: &str| CREDENTIAL_FIELDS.contains(&name) || fields.contains(&name);
    // `x_api_key` is `x-api-key` to servers that hand fields on as variables.
    let is_one = |name: &HeaderName| replaced(name.as_str()) || name.as_str().contains('_') && replaced(&dashed(name));
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_one(name)).cloned().collect();
    for name in names {
        let kept: Vec<HeaderValue> =
            headers.get_all(&name).iter().filter(|v| own.stays(v.as_bytes())).cloned().collect();
        headers.remove(&name);
        for value in kept {
            headers.append(name.clone(), value);
        }
    }
    drop_replaced_protocols(headers);
}

fn drop_replaced_protocols(headers: &mut HeaderMap) {
    let takes = |protocol: &str| {
        let protocol = protocol.to_ascii_lowercase();
        CREDENTIAL_PROTOCOLS.iter().any(|word| protocol.contains(word))
    };
    let asked: Vec<HeaderValue> = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    for value in asked {
        // What is no text names no protocol.
        let Ok(list) = value.to_str() else { continue };
        let left: Vec<&str> = list.split(',').map(str::trim).filter(|one| !one.is_empty() && !takes(one)).collect();
        if let Some(value) = Some(left.join(", ")).filter(|left| !left.is_empty()).and_then(|left| left.parse().ok()) {
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
}

/// Takes out of the query what a credential replaces, as [`drop_replaced`] does with fields. All else stays as it came.
pub(crate) fn drop_replaced_query(uri: &mut Uri, own: &Own<'_>) -> Result<(), Denial> {
    let (Some(query), Some(named)) = (uri.query(), own.parameters()) else { return Ok(()) };
    let goes = |pair: &str| (takes_credential(pair) || is_named(pair, &named)) && !own.stays(pair.as_bytes());
    if !query.split(['&', ';']).any(goes) {
        return Ok(());
    }
    let left: Vec<String> = query
        .split('&')
        .filter_map(|pair| {
            let left: Vec<&str> = pair.split(';').filter(|part| !goes(part)).collect();
            (!left.is_empty()).then(|| left.join(";"))
        })
        .collect();
    *uri = target(uri.path(), Some(left.join("&").as_str()).filter(|left| !left.is_empty()))
        .map_err(|denial| denial.by(&own.route.id))?;
    Ok(())
}

fn is_named(pair: &str, names: &[&str]) -> bool {
    let name = percent_decoded(pair.split('=').next().unwrap_or_default().as_bytes());
    names.iter().any(|named| named.as_bytes() == name)
}

/// Is this `name=value` of a query one that an upstream takes for a credential?
fn takes_credential(pair: &str) -> bool {
    let mut name = pair.split('=').next().unwrap_or_default().as_bytes().to_vec();
    for _ in 0..DECODE_ROUNDS_MAX {
        if !name.contains(&b'%') {
            break;
        }
        name = percent_decoded(&name);
    }
    // An encoded `=` in a name ends it for whoever decodes first; PHP and Rails read `key[]` as `key`.
    let end = name.iter().position(|b| matches!(b, b'=' | b'[')).unwrap_or(name.len());
    let name = String::from_utf8_lossy(&name[..end]).replace(['-', '.', '+', ' '], "_").to_ascii_lowercase();
    CREDENTIAL_PARAMETERS.contains(&name.trim_matches('_'))
}

pub(crate) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let escaped = (*first == b'%').then(|| behind.first_chunk::<2>()).flatten();
        match escaped.and_then(|[a, b]| Some((char::from(*a).to_digit(16)? << 4 | char::from(*b).to_digit(16)?) as u8))
        {
            Some(byte) => {
                out.push(byte);
                rest = &behind[2..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

/// Step 5: a request that may be written to its upstream, with its credential set. Not `Clone`, not `Debug`, and
/// made only by the step before it:
///
/// ```compile_fail
/// // Neither its fields nor a constructor can be reached from outside.
/// let forged = carboy_egress::Credentialed { request: http::Request::new(()) };
/// ```
pub struct Credentialed {
    request: Request<OutBody>,
    rest: Rest,
    metering: Metering,
    filling: Filling,
}

/// What the answer's side needs to know of the request.
pub(crate) struct Rest {
    pub(crate) gate: Arc<Gate>,
    pub(crate) permit: HostPermit,
    pub(crate) route: RoutePermit,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) wanted: Wanted,
    /// The secrets that it carries.
    pub(crate) carried: Vec<SecretName>,
    /// What is held for it, once it may have been sent; nothing for a request that costs nothing.
    pub(crate) hold: Option<Hold>,
}

impl Reserved {
    /// Sets the route's credential and makes the request as the upstream gets it.
    pub(crate) fn credential(
        self,
        secrets: &dyn SecretSource,
        dialer: &Dialer,
        inside: Security,
    ) -> Result<Credentialed, Denial> {
        let (scanned, metering) = self.into_parts();
        let Scanned { mut head, mut body, gate, permit, route, exchange, used: _, lifted, socket: _ } = scanned;
        let by_rule = |denial: Denial| denial.by(&route.route().id);
        let (auth, filling) = (&route.route().auth, lifted.filling(secrets).map_err(by_rule)?);
        let carries = auth.is_some() || !filling.is_empty();
        if carries && !dialer.may_carry_credential(permit.host(), permit.port(), inside) {
            let detail = format!("{} port {}", permit.host(), permit.port());
            return Err(by_rule(Denial::new(Reason::PlainTextCredential, detail)));
        }
        if let Some(auth) = auth {
            set(&mut head.headers, auth, secrets).map_err(by_rule)?;
        }
        filling.head(&mut head.headers, &mut head.uri).map_err(by_rule)?;
        if let Some(filled) = body.whole().filter(|_| !filling.is_empty()).map(|bytes| filling.body(bytes)) {
            head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(filled.len()));
            body.replace(filled);
        }
        let scheme =
            if dialer.security(permit.host(), permit.port(), inside) == Security::Tls { "https" } else { "http" };
        let host = HeaderValue::try_from(authority(&permit, scheme))
            .map_err(|error| Denial::new(Reason::HostInvalid, error.to_string()))?;
        head.headers.insert(header::HOST, host);
        let wanted = Wanted::settle(&head.method, &mut head.headers);
        match metering {
            // What is metered has to be read, and what decoders buffer comes late.
            Metering::Held(_) => {
                head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
            Metering::Unmetered(_) => {}
        }
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let carried = auth.iter().map(|auth| auth.secret.clone()).chain(lifted.secrets()).collect();
        let rest = Rest { gate, permit, route, exchange, wanted, carried, hold: None };
        Ok(Credentialed { request: Request::from_parts(head, body), rest, metering, filling })
    }
}

fn set(headers: &mut HeaderMap, auth: &RouteAuth, secrets: &dyn SecretSource) -> Result<(), Denial> {
    let Some(secret) = secrets.current(&auth.secret) else {
        return Err(Denial::new(Reason::SecretMissing, auth.secret.to_string()));
    };
    let (name, before) = auth.placement(secret.expose());
    let text = Secret::new(format!("{before}{}", secret.expose()));
    // The error is dropped on purpose: it must not carry the value.
    let mut value = HeaderValue::from_str(text.expose())
        .map_err(|_| Denial::new(Reason::SecretMissing, format!("{} is no header value", auth.secret)))?;
    value.set_sensitive(true);
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Denial::new(Reason::SecretMissing, format!("`{name}` is no header name")))?;
    headers.insert(name, value);
    Ok(())
}

impl Credentialed {
    /// Apart for the last step before the writing: only `reserve` calls this.
    pub(crate) fn into_parts(self) -> (Request<OutBody>, Rest, Metering, Filling) {
        (self.request, self.rest, self.metering, self.filling)
    }
}
