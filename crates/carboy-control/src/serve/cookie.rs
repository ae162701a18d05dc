//! The cookie that carries a session's id: minted here, signed, verified in constant time (G45).
//!
//! ```text
//!  __Host-carboy-bookly = base64url(32 random octets) . base64url(HMAC-SHA256(secret, agent, owner, id))
//! ```
//!
//! Whoever signs in or out gets a new session: the owner is part of what is signed, so a cookie that was planted before
//! opens nothing afterwards. *Must never* take an id from anywhere else, and never tell why a cookie was not taken.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use carboy_agent::SessionId;
use carboy_core::ids::AgentName;
use carboy_core::secret::SecretText;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue};
use sha2::Sha256;

/// Cookies of one request that are looked through.
const COOKIES_MAX: usize = 64;
/// Longest value that can be ours.
const VALUE_BYTES_MAX: usize = 160;
/// What the signature is for, so that it serves for nothing else.
const PURPOSE: &[u8] = b"carboy session cookie v1";

/// Which sites may send the cookie along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// Only from our own pages (SameSite=Lax).
    Own,
    /// In frames of listed sites, each with a jar of its own (SameSite=None; Partitioned); needs https.
    Framed,
}

/// Signs and reads cookies of one agent.
pub(super) struct Cookies {
    agent: AgentName,
    secret: SecretText,
    placed: Placed,
}

impl Cookies {
    pub fn new(agent: AgentName, secret: SecretText, placed: Placed) -> Cookies {
        Cookies { agent, secret, placed }
    }

    /// The session that the request's cookie names, when it was signed here for this owner.
    pub fn read(&self, headers: &HeaderMap, owner: &str, https: bool) -> Option<SessionId> {
        let name = self.name(https);
        // One of several may be another's, planted for a path or a parent domain.
        values(headers, &name).find_map(|value| self.opened(str::from_utf8(value).ok()?, owner))
    }

    fn opened(&self, value: &str, owner: &str) -> Option<SessionId> {
        if value.len() > VALUE_BYTES_MAX {
            return None;
        }
        let (id, signature) = value.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        // Constant time: `verify_slice` compares without an early way out.
        self.mac(id, owner).verify_slice(&signature).ok()?;
        SessionId::from_cookie(id)
    }

    /// The field that sets it. Without an age it ends with the browser; the session itself ends when it is idle.
    pub fn set(&self, session: &SessionId, owner: &str, https: bool) -> Option<HeaderValue> {
        let id = session.to_cookie();
        let signature = URL_SAFE_NO_PAD.encode(self.mac(&id, owner).finalize().into_bytes());
        let attributes = match (https, self.placed) {
            (true, Placed::Framed) => "; Path=/; HttpOnly; SameSite=None; Secure; Partitioned",
            (true, Placed::Own) => "; Path=/; HttpOnly; SameSite=Lax; Secure",
            // Without https a browser takes no SameSite=None.
            (false, Placed::Own | Placed::Framed) => "; Path=/; HttpOnly; SameSite=Lax",
        };
        let mut value = HeaderValue::from_str(&format!("{}={id}.{signature}{attributes}", self.name(https))).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Over https with the prefix that no other host below the same domain can set.
    fn name(&self, https: bool) -> String {
        format!("{}carboy-{}", if https { "__Host-" } else { "" }, self.agent)
    }

    fn mac(&self, id: &str, owner: &str) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(self.secret.expose().as_bytes()).expect("HMAC takes a key of any length");
        for part in [PURPOSE, self.agent.as_str().as_bytes(), owner.as_bytes(), id.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Every value that a cookie of this name has, as it came: one that is no text hides none that stands beside it.
pub(super) fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
    let fields = headers.get_all(http::header::COOKIE).iter().map(HeaderValue::as_bytes);
    let pairs = fields.flat_map(|field| field.split(|octet| *octet == b';')).take(COOKIES_MAX);
    pairs.filter_map(move |pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookies(secret: &str, placed: Placed) -> Cookies {
        Cookies::new(AgentName::parse("bookly").unwrap(), SecretText::new(secret.to_owned()), placed)
    }

    fn sent_back(set: &HeaderValue) -> HeaderMap {
        let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
        HeaderMap::from_iter([(http::header::COOKIE, pair.parse().unwrap())])
    }

    #[test]
    fn g45_what_was_signed_here_for_this_owner_comes_back_and_nothing_else_does() {
        let (ours, session) = (cookies("one", Placed::Own), SessionId::fresh().unwrap());
        let set = ours.set(&session, "", false).unwrap();
        let back = sent_back(&set);
        let read = ours.read(&back, "", false).unwrap();
        assert_eq!(read.to_cookie(), session.to_cookie());
        assert!(cookies("another", Placed::Own).read(&back, "", false).is_none());
        assert!(ours.read(&back, "somebody", false).is_none());
        assert!(ours.read(&back, "", true).is_none(), "over https it has another name");
    }

    #[test]
    fn g45_every_changed_octet_makes_it_nobodys_and_never_a_panic() {
        let ours = cookies("one", Placed::Own);
        let set = ours.set(&SessionId::fresh().unwrap(), "", false).unwrap();
        let (name, value) = set.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
        for at in 0..value.len() {
            let mut changed = value.as_bytes().to_vec();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of unpadded base64 has bits that mean nothing; they are refused too, or mean the same.
            let headers = HeaderMap::from_iter([(http::header::COOKIE, format!("{name}={changed}").parse().unwrap())]);
            assert!(ours.read(&headers, "", false).is_none(), "octet {at}");
        }
        for rubbish in ["", ".", "..", "a.b", "=", &"x".repeat(4_000)] {
            let headers = HeaderMap::from_iter([(http::header::COOKIE, format!("{name}={rubbish}").parse().unwrap())]);
            assert!(ours.read(&headers, "", false).is_none());
        }
    }

    #[test]
    fn g45_octets_that_are_no_ascii_make_no_cookie_ours_and_hide_none_that_is() {
        let (ours, session) = (cookies("one", Placed::Own), SessionId::fresh().unwrap());
        let set = ours.set(&session, "", false).unwrap();
        let pair = set.to_str().unwrap().split(';').next().unwrap();
        let read = |field: &[u8]| {
            let headers = HeaderMap::from_iter([(http::header::COOKIE, HeaderValue::from_bytes(field).unwrap())]);
            ours.read(&headers, "", false).map(|session| session.to_cookie())
        };
        for octets in [&b"\xe9"[..], b"\xa0", b"\xff", "é".as_bytes(), "\u{a0}".as_bytes()] {
            let (name, value) = pair.as_bytes().split_at("carboy-bookly=".len());
            for at in 0..=value.len() {
                let changed = [name, &value[..at], octets, &value[at..]].concat();
                assert_eq!(read(&changed), None, "{octets:x?} at {at}");
            }
            assert_eq!(read(&[octets, name, value].concat()), None, "{octets:x?}");
            let beside = [b"theme=", octets, b"; ", pair.as_bytes(), b"; ", octets, b"=1"].concat();
            assert_eq!(read(&beside), Some(session.to_cookie()), "{octets:x?}");
        }
    }

    #[test]
    fn g90_attributes_follow_where_the_page_stands_and_how_it_is_reached() {
        let session = SessionId::fresh().unwrap();
        let attributes = |placed, https| {
            let set = cookies("one", placed).set(&session, "", https).unwrap();
            let (pair, rest) = set.to_str().unwrap().split_once("; ").unwrap();
            format!("{} {rest}", pair.split('=').next().unwrap())
        };
        assert_eq!(attributes(Placed::Own, false), "carboy-bookly Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(attributes(Placed::Own, true), "__Host-carboy-bookly Path=/; HttpOnly; SameSite=Lax; Secure");
        assert_eq!(attributes(Placed::Framed, false), "carboy-bookly Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(
            attributes(Placed::Framed, true),
            "__Host-carboy-bookly Path=/; HttpOnly; SameSite=None; Secure; Partitioned"
        );
    }
}
