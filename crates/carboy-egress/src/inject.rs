//! Steps 4 and 5: un-metered for now, and the real credential set for the one host that it belongs to.
//!
//! *Must never* put a credential on a request whose host was not agreed on by name, TLS and target (B16), or on a
//! leg without TLS that the operator did not ask for.

use std::sync::Arc;

use carboy_core::ports::SecretSource;
use carboy_core::route::{HostPermit, Route, RouteAuth, RoutePermit};
use carboy_core::secret::Secret;
use carboy_core::verdict::{Denial, Reason};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Version};

use crate::answer::Wanted;
use crate::body::{Gate, OutBody};
use crate::outbound::Scanned;
use crate::record::Exchange;
use crate::request::{authority, dashed};
use crate::upstream::{Dialer, Security};

/// Fields by which the providers' upstreams take a credential. On a route with a credential none of the bottle's own
/// gets through: with another account's key the same host would be a way to carry data out.
const CREDENTIAL_FIELDS: &[&str] =
    &["authorization", "x-api-key", "x-goog-api-key", "api-key", "private-token", "job-token", "x-auth-token"];

/// Takes out what the bottle sent in place of the credential that will be set.
pub(crate) fn drop_replaced(headers: &mut HeaderMap, route: &Route) {
    if let Some(auth) = &route.auth {
        for name in auth.replaced_headers() {
            headers.remove(name);
        }
        for name in CREDENTIAL_FIELDS {
            headers.remove(*name);
        }
        let replaced = |name: &str| CREDENTIAL_FIELDS.contains(&name) || auth.replaced_headers().contains(&name);
        let disguised: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().contains('_') && replaced(&dashed(name))).cloned().collect();
        for name in disguised {
            headers.remove(name);
        }
    }
}

/// Step 4: the permit of a request whose tokens nobody counts. Budgets put a reservation in its place.
pub(crate) struct Unmetered(Scanned);

impl Scanned {
    /// Lets the request go on without a reservation.
    pub(crate) fn unmetered(self) -> Unmetered {
        Unmetered(self)
    }
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
}

/// What the answer's side needs to know of the request.
pub(crate) struct Rest {
    pub(crate) gate: Arc<Gate>,
    pub(crate) permit: HostPermit,
    pub(crate) route: RoutePermit,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) wanted: Wanted,
}

impl Unmetered {
    /// Sets the route's credential and makes the request as the upstream gets it.
    pub(crate) fn credential(
        self,
        secrets: &dyn SecretSource,
        dialer: &Dialer,
        inside: Security,
    ) -> Result<Credentialed, Denial> {
        let Scanned { mut head, body, gate, permit, route, exchange } = self.0;
        if let Some(auth) = &route.route().auth {
            if !dialer.may_carry_credential(permit.host(), permit.port(), inside) {
                let detail = format!("{} port {}", permit.host(), permit.port());
                return Err(Denial::new(Reason::PlainTextCredential, detail).by(&route.route().id));
            }
            set(&mut head.headers, auth, secrets).map_err(|denial| denial.by(&route.route().id))?;
        }
        let scheme =
            if dialer.security(permit.host(), permit.port(), inside) == Security::Tls { "https" } else { "http" };
        let host = HeaderValue::try_from(authority(&permit, scheme))
            .map_err(|error| Denial::new(Reason::HostInvalid, error.to_string()))?;
        head.headers.insert(header::HOST, host);
        // The path as it was judged: what came could be another path to the server that it goes to.
        let target = match head.uri.query() {
            Some(query) => format!("{}?{query}", route.path()),
            None => route.path().to_owned(),
        };
        head.uri = target.parse().map_err(|_| Denial::new(Reason::HostInvalid, "the target is not a path"))?;
        let wanted = Wanted::settle(&head.method, &mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let rest = Rest { gate, permit, route, exchange, wanted };
        Ok(Credentialed { request: Request::from_parts(head, body), rest })
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
    /// Apart for the writing: only `upstream` calls this.
    pub(crate) fn into_parts(self) -> (Request<OutBody>, Rest) {
        (self.request, self.rest)
    }
}
