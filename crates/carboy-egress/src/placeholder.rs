//! Placeholders on their way to becoming real: taken out where their route wants them, put in as the real value at step 5.
//!
//! ```text
//! Routed ─▶ lift: placeholder ─▶ mark ─▶ scanned like everything else (a placeholder that is left is refused, B42)
//!                                            │
//! Credentialed ◀─ fill: mark ─▶ real value, written as its place wants it (percent, base64, JSON) ◀─┘
//! ```
//!
//! A mark is a random text of this one request, which the gateway alone knows and which never leaves it. So the scanners see the request as it was
//! written, without the placeholder, and every byte but the placeholder's stays.
//!
//! *Must never* lift one outside of its route's own place, nor put a real value anywhere but where a placeholder was lifted.

mod body;
pub(crate) mod multipart;
mod spans;

use std::ops::Range;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use carboy_core::finding::{Detector, Location};
use carboy_core::host::Host;
use carboy_core::ids::SecretName;
use carboy_core::ports::SecretSource;
use carboy_core::route::{BasicPart, PlaceholderIn, Route, RouteSet};
use carboy_core::secret::{Secret, SecretText};
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::Detectors;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Uri, request};
use zeroize::Zeroizing;

use crate::gateway::Gateway;
use crate::outbound::unruled;
use crate::request::target;

pub(crate) use body::Writing;
use spans::{percent, plain, replaced, spans};

/// Most placeholders that are replaced in the head of one request, and as many in its body; one more is refused.
pub(crate) const LIFTED_MAX: usize = 32;
/// Random octets of a mark.
const MARK_BYTES: usize = 16;

/// A text that nobody can guess, for the marks of one request.
fn fresh_mark() -> Result<String, Denial> {
    let mut bits = [0_u8; MARK_BYTES];
    getrandom::fill(&mut bits)
        .map_err(|error| Denial::new(Reason::LimitReached, format!("no random mark for a placeholder: {error}")))?;
    Ok(format!("carboymark{}", carboy_core::audit::hex(&bits)))
}

/// What was taken out of one request, and where. Empty on a route without placeholders.
#[derive(Clone, Default)]
pub(crate) struct Lifted {
    slots: Vec<Slot>,
    /// How its body is written, once that was read.
    writing: Writing,
}

/// One credential of the route.
#[derive(Clone)]
struct Slot {
    place: PlaceholderIn,
    secret: SecretName,
    placeholder: String,
    mark: String,
    used: bool,
}

impl Lifted {
    /// Takes the route's placeholders out of the head; what stands in the way of a credential goes with them.
    pub(crate) fn from_head(head: &mut request::Parts, route: &Route, gateway: &Gateway) -> Result<Lifted, Denial> {
        let detectors = gateway.detectors();
        let mut lifted = Lifted::default();
        if route.credentials.is_empty() {
            return Ok(lifted);
        }
        let mark = fresh_mark()?;
        for (number, one) in route.credentials.iter().enumerate() {
            let Some(placeholder) = detectors.placeholder(&one.secret) else {
                let detail = format!("{} has no placeholder in this run", one.secret);
                return Err(Denial::new(Reason::SecretMissing, detail).by(&route.id));
            };
            lifted.slots.push(Slot {
                place: one.place.clone(),
                secret: one.secret.clone(),
                placeholder: placeholder.to_owned(),
                mark: format!("{mark}n{number:02}"),
                used: false,
            });
        }
        let mut room = LIFTED_MAX;
        for slot in &mut lifted.slots {
            match &slot.place {
                PlaceholderIn::Header(name) => lift_field(&mut head.headers, name.clone(), slot, &mut room),
                PlaceholderIn::Basic(part) => lift_basic(&mut head.headers, *part, slot, &mut room),
                PlaceholderIn::Query(name) => lift_query(&mut head.uri, name.clone(), slot, &mut room)?,
                PlaceholderIn::Body(_) => {}
            }
        }
        Ok(lifted)
    }

    /// Has the route a place for one in the body? Then the body is read whole.
    pub(crate) fn wants_body(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.place, PlaceholderIn::Body(_)))
    }

    /// Takes them out of a decoded body.
    pub(crate) fn lift_body(&mut self, headers: &HeaderMap, mut body: Vec<u8>) -> Vec<u8> {
        self.writing = Writing::of(headers);
        if let Writing::Multipart(boundary) = &self.writing
            && boundary.may_fall_on(&body, &self.places(&body))
        {
            return body;
        }
        let mut room = LIFTED_MAX;
        for slot in &mut self.slots {
            let PlaceholderIn::Body(name) = &slot.place else { continue };
            let mut found = self.writing.spans(&body, name.as_deref(), slot.placeholder.as_bytes());
            found.truncate(room);
            room -= found.len();
            slot.used |= !found.is_empty();
            body = replaced(&body, &found, slot.mark.as_bytes());
        }
        body
    }

    /// Does what was taken out of a body still stand in its places, after something in that body was overwritten? Otherwise
    /// what told a place from the one before it may be gone, and the real value would go into that one.
    pub(crate) fn stays_in_place(&self, body: &[u8]) -> Result<(), Denial> {
        for slot in self.slots.iter().filter(|slot| slot.used) {
            let PlaceholderIn::Body(name) = &slot.place else { continue };
            let mark = slot.mark.as_bytes();
            if self.writing.spans(body, name.as_deref(), mark).len() != spans(plain(body), mark).len() {
                let detail = format!("{} in the request body, next to what is overwritten", rule_of(&slot.secret));
                return Err(Denial::new(Reason::PlaceholderMisplaced, detail));
            }
        }
        Ok(())
    }

    /// Where the route's placeholders stand in a body, each where it wants to.
    fn places(&self, body: &[u8]) -> Vec<Range<usize>> {
        let of = |slot: &Slot| match &slot.place {
            PlaceholderIn::Body(name) => self.writing.spans(body, name.as_deref(), slot.placeholder.as_bytes()),
            PlaceholderIn::Header(_) | PlaceholderIn::Query(_) | PlaceholderIn::Basic(_) => Vec::new(),
        };
        self.slots.iter().flat_map(of).collect()
    }

    /// Does this text hold one of the marks?
    fn marked(&self, text: &[u8]) -> bool {
        self.slots.iter().any(|slot| memchr::memmem::find(text, slot.mark.as_bytes()).is_some())
    }

    /// Does this value hold one of the marks, as Basic credentials too?
    pub(crate) fn marks(&self, value: &[u8]) -> bool {
        self.marked(value) || basic(value).is_some_and(|(_, credentials)| self.marked(&credentials))
    }

    /// The secrets whose placeholders were taken out.
    pub(crate) fn secrets(&self) -> Vec<SecretName> {
        let mut used: Vec<SecretName> =
            self.slots.iter().filter(|slot| slot.used).map(|slot| slot.secret.clone()).collect();
        used.sort();
        used.dedup();
        used
    }

    /// The real values for what was taken out; empty when nothing was.
    pub(crate) fn filling(&self, secrets: &dyn SecretSource) -> Result<Filling, Denial> {
        let mut filled = Vec::new();
        for slot in self.slots.iter().filter(|slot| slot.used) {
            let missing = || Denial::new(Reason::SecretMissing, slot.secret.to_string());
            let real = secrets.current(&slot.secret).ok_or_else(missing)?;
            filled.push(Filled {
                place: slot.place.clone(),
                secret: slot.secret.clone(),
                mark: slot.mark.clone(),
                real,
            });
        }
        Ok(Filling { filled, writing: self.writing.clone() })
    }
}

fn lift_field(headers: &mut HeaderMap, name: String, slot: &mut Slot, room: &mut usize) {
    for (_, value) in headers.iter_mut().filter(|(field, _)| field.as_str() == name) {
        let mut found = spans(plain(value.as_bytes()), slot.placeholder.as_bytes());
        found.truncate(*room);
        if found.is_empty() {
            continue;
        }
        if let Ok(marked) = HeaderValue::from_bytes(&replaced(value.as_bytes(), &found, slot.mark.as_bytes())) {
            *value = marked;
            *room -= found.len();
            slot.used = true;
        }
    }
}

fn lift_basic(headers: &mut HeaderMap, part: BasicPart, slot: &mut Slot, room: &mut usize) {
    for (_, value) in headers.iter_mut().filter(|(field, _)| **field == header::AUTHORIZATION) {
        let Some((scheme, credentials)) = basic(value.as_bytes()) else { continue };
        let colon = credentials.iter().position(|b| *b == b':').unwrap_or(credentials.len());
        let wanted = match part {
            BasicPart::User => 0..colon,
            BasicPart::Password => (colon + 1).min(credentials.len())..credentials.len(),
            BasicPart::Either => 0..credentials.len(),
        };
        let mut found = spans(plain(&credentials), slot.placeholder.as_bytes());
        found.retain(|span| wanted.start <= span.start && span.end <= wanted.end);
        found.truncate(*room);
        if found.is_empty() {
            continue;
        }
        let marked = replaced(&credentials, &found, slot.mark.as_bytes());
        if let Ok(marked) = HeaderValue::from_str(&format!("{scheme}{}", STANDARD.encode(marked))) {
            *value = marked;
            *room -= found.len();
            slot.used = true;
        }
    }
}

fn lift_query(uri: &mut Uri, name: String, slot: &mut Slot, room: &mut usize) -> Result<(), Denial> {
    let Some(query) = uri.query() else { return Ok(()) };
    let mut found = body::of_pairs(query.as_bytes(), Some(&name), slot.placeholder.as_bytes());
    found.truncate(*room);
    if found.is_empty() {
        return Ok(());
    }
    let marked = replaced(query.as_bytes(), &found, slot.mark.as_bytes());
    *uri = target(uri.path(), Some(&String::from_utf8_lossy(&marked)))?;
    *room -= found.len();
    slot.used = true;
    Ok(())
}

/// The scheme as it was written with what follows it, and the decoded credentials (RFC 7617).
fn basic(value: &[u8]) -> Option<(&str, Zeroizing<Vec<u8>>)> {
    let text = std::str::from_utf8(value).ok()?;
    let end = text.find(' ')?;
    let at = end + text[end..].len() - text[end..].trim_start().len();
    let encoded = text[at..].trim_end().trim_end_matches('=');
    let is_basic = text[..end].eq_ignore_ascii_case("basic");
    let decoded = STANDARD_NO_PAD.decode(encoded).ok().filter(|_| is_basic)?;
    Some((&text[..at], Zeroizing::new(decoded)))
}

/// The real values on their way into one request. Not `Clone`, not `Debug`.
pub(crate) struct Filling {
    filled: Vec<Filled>,
    writing: Writing,
}

struct Filled {
    place: PlaceholderIn,
    secret: SecretName,
    mark: String,
    real: Arc<SecretText>,
}

impl Filling {
    /// Is there nothing to put in?
    pub(crate) fn is_empty(&self) -> bool {
        self.filled.is_empty()
    }

    /// Puts them into the head.
    pub(crate) fn head(&self, headers: &mut HeaderMap, uri: &mut Uri) -> Result<(), Denial> {
        for one in &self.filled {
            match &one.place {
                PlaceholderIn::Header(_) => one.fill_fields(headers, |value| one.in_text(value))?,
                PlaceholderIn::Basic(_) => one.fill_fields(headers, |value| one.in_basic(value))?,
                PlaceholderIn::Query(_) => one.fill_query(uri)?,
                PlaceholderIn::Body(_) => {}
            }
        }
        Ok(())
    }

    /// Puts them into a body; gives it back as it is where there is nothing to put in.
    pub(crate) fn body(&self, body: bytes::Bytes) -> bytes::Bytes {
        let mut body = body;
        for one in self.filled.iter().filter(|one| matches!(one.place, PlaceholderIn::Body(_))) {
            let found = spans(plain(&body), one.mark.as_bytes());
            if !found.is_empty() {
                let written = self.writing.written(one.real.expose());
                body = replaced(&body, &found, written.expose().as_bytes()).into();
            }
        }
        body
    }
}

impl Filled {
    fn fill_fields(&self, headers: &mut HeaderMap, write: impl Fn(&[u8]) -> Option<SecretBytes>) -> Result<(), Denial> {
        for value in headers.values_mut() {
            let Some(written) = write(value.as_bytes()) else { continue };
            // The error is dropped on purpose: it must not carry the value.
            let mut filled = HeaderValue::from_bytes(written.expose())
                .map_err(|_| Denial::new(Reason::SecretMissing, format!("{} is no header value", self.secret)))?;
            filled.set_sensitive(true);
            *value = filled;
        }
        Ok(())
    }

    /// The value with the real one in the place of its mark.
    fn in_text(&self, value: &[u8]) -> Option<SecretBytes> {
        let found = spans(plain(value), self.mark.as_bytes());
        (!found.is_empty()).then(|| Secret::new(replaced(value, &found, self.real.expose().as_bytes())))
    }

    fn in_basic(&self, value: &[u8]) -> Option<SecretBytes> {
        let (scheme, credentials) = basic(value)?;
        let filled = self.in_text(&credentials)?;
        let encoded = Zeroizing::new(STANDARD.encode(filled.expose()));
        Some(Secret::new([scheme.as_bytes(), encoded.as_bytes()].concat()))
    }

    fn fill_query(&self, uri: &mut Uri) -> Result<(), Denial> {
        let Some(query) = uri.query() else { return Ok(()) };
        let found = spans(plain(query.as_bytes()), self.mark.as_bytes());
        if found.is_empty() {
            return Ok(());
        }
        let filled =
            Zeroizing::new(replaced(query.as_bytes(), &found, percent(self.real.expose()).expose().as_bytes()));
        *uri = target(uri.path(), std::str::from_utf8(&filled).ok())
            .map_err(|_| Denial::new(Reason::SecretMissing, format!("{} is no parameter", self.secret)))?;
        Ok(())
    }
}

type SecretBytes = Secret<Vec<u8>>;

/// Has this text a placeholder of the run in it, other than the one of `own`?
pub(crate) fn strays(detectors: &Detectors, text: &[u8], own: Option<&SecretName>) -> bool {
    if !detectors.has_placeholders() {
        return false;
    }
    let found = detectors.scan_text(text, &[Detector::Placeholders], Location::RequestHeader);
    found.iter().any(|finding| own.is_none_or(|own| finding.rule != rule_of(own)))
}

fn rule_of(secret: &SecretName) -> String {
    format!("placeholder:{secret}")
}

/// B42: the head of a request that no route takes is looked at all the same, when a placeholder in it is none of its host's:
/// that somebody tried is worth more than that the host is not allowed.
pub(crate) fn astray<B>(request: &Request<B>, host: &Host, routes: &RouteSet, gateway: &Gateway) -> Option<Denial> {
    let detectors = gateway.detectors();
    if !detectors.has_placeholders() {
        return None;
    }
    let mut text = format!("{}\n", request.uri()).into_bytes();
    for (name, value) in request.headers() {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"].concat());
    }
    let here = routes.iter().filter(|route| route.host.matches(host));
    let own: Vec<String> = here.flat_map(|route| &route.credentials).map(|one| rule_of(&one.secret)).collect();
    let found = detectors.scan_text(&text, &[Detector::Placeholders], Location::RequestHeader);
    let stray = found.into_iter().find(|finding| !own.contains(&finding.rule))?;
    Some(unruled(&stray))
}

#[cfg(test)]
mod tests;
