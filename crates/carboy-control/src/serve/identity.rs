//! Who is asking, as the shop vouches for it: a JSON Web Token or a signed field; else nobody in particular (G89).
//!
//! *Must never* take a word of an unsigned field for somebody, nor let a broken token pass as "nobody": whoever sends one
//! is told, so that a shop whose keys have changed hears of it.

use std::collections::BTreeSet;

use carboy_agent::{ANONYMOUS, Principal, PrincipalKind, SessionId, TERMINAL_USER};
use carboy_core::chat::Identity;
use carboy_core::secret::SecretText;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use serde_json::Value;
use sha2::Sha256;

use super::cookie;
use super::jwt::{KeySet, KeySetError, TokenError};

/// Longest name of a person, in characters.
const USER_CHARS_MAX: usize = 200;
/// Most roles of one person.
const ROLES_MAX: usize = 64;
/// How far ahead a signed field's time may be, in seconds: clocks differ.
const AHEAD_S_MAX: u64 = 30;

/// The scheme of a token in `Authorization` (RFC 6750, 2.1).
const BEARER: &[u8] = b"bearer ";

/// Somebody whom the shop vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vouched {
    /// As the shop calls them.
    pub user: String,
    /// What they are.
    pub roles: BTreeSet<String>,
}

/// Why a token or a signed field was not taken; for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityRefused {
    /// The token.
    #[error("the token was not taken: {0}")]
    Token(#[from] TokenError),
    /// Its claims name nobody.
    #[error("the token's claims name nobody")]
    Nobody,
    /// The field is of another form, more than once there, or names nobody.
    #[error("the signed field is not USER;ROLES;UNIX_SECONDS;HEX")]
    Malformed,
    /// The signature is another's.
    #[error("the signed field's signature does not hold")]
    Signature,
    /// Too old, or of the future.
    #[error("the signed field's time is too far from now")]
    Stale,
}

/// An agent's `identity:` that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] KeySetError),
    /// Its secret was not handed over.
    #[error(
        "the agent's people are known by a signed header, and its secret is not there; set the secret that `identity:` names"
    )]
    NoSecret,
}

/// How people of one agent are known.
pub(super) enum Identities {
    Anonymous,
    Jwt { keys: KeySet, issuer: String, audience: String, user: String, roles: Option<String>, cookie: Option<String> },
    Signed { header: String, secret: SecretText, max_age_s: u32 },
}

impl Identities {
    pub fn new(identity: &Identity, secret: Option<SecretText>) -> Result<Identities, IdentityError> {
        Ok(match identity {
            Identity::Anonymous => Identities::Anonymous,
            Identity::Jwt { jwks, issuer, audience, user_claim, roles_claim, cookie } => Identities::Jwt {
                keys: KeySet::parse(jwks)?,
                issuer: issuer.clone(),
                audience: audience.clone(),
                user: user_claim.clone(),
                roles: roles_claim.clone(),
                cookie: cookie.clone(),
            },
            Identity::SignedHeader { header, max_age_s, .. } => Identities::Signed {
                header: header.to_ascii_lowercase(),
                secret: secret.filter(|text| !text.expose().is_empty()).ok_or(IdentityError::NoSecret)?,
                max_age_s: *max_age_s,
            },
        })
    }

    /// Whom the request's token or field vouches for; `None` where it has none.
    pub fn vouched(&self, headers: &HeaderMap, now_ms: u64) -> Result<Option<Vouched>, IdentityRefused> {
        let now_s = now_ms / 1_000;
        match self {
            Identities::Anonymous => Ok(None),
            Identities::Jwt { keys, issuer, audience, user, roles, cookie } => {
                let Some(token) = token(headers, cookie.as_deref())? else { return Ok(None) };
                let claims = keys.verify(token, issuer, audience, now_s)?;
                let user = claims[user.as_str()].as_str().filter(|user| is_user(user));
                let user = user.ok_or(IdentityRefused::Nobody)?.to_owned();
                Ok(Some(Vouched {
                    user,
                    roles: roles.as_ref().map_or_else(BTreeSet::new, |name| listed(&claims[name.as_str()])),
                }))
            }
            Identities::Signed { header, secret, max_age_s } => {
                let mut fields = headers.get_all(header.as_str()).iter();
                let Some(field) = fields.next() else { return Ok(None) };
                if fields.next().is_some() {
                    return Err(IdentityRefused::Malformed);
                }
                let field = field.to_str().map_err(|_| IdentityRefused::Malformed)?;
                signed(field, secret, *max_age_s, now_s).map(Some)
            }
        }
    }
}

/// The principal of a request: vouched for, or a name made from the session.
pub(super) fn principal(vouched: Option<&Vouched>, session: &SessionId) -> Principal {
    match vouched {
        Some(vouched) => {
            Principal { id: vouched.user.clone(), kind: PrincipalKind::Verified, roles: vouched.roles.clone() }
        }
        None => Principal {
            id: format!("{ANONYMOUS}{}", short(&session.key().0)),
            kind: PrincipalKind::Anonymous,
            roles: BTreeSet::new(),
        },
    }
}

/// The first octets of a hash, as logs and names show it.
pub(super) fn short(hash: &[u8]) -> String {
    hash.iter().take(6).map(|octet| format!("{octet:02x}")).collect()
}

/// One that is no text is one that does not hold: whoever shows it is not taken for somebody who shows none.
fn token<'h>(headers: &'h HeaderMap, name: Option<&'h str>) -> Result<Option<&'h str>, TokenError> {
    let bearer = headers.get(http::header::AUTHORIZATION).and_then(|field| {
        let (scheme, token) = field.as_bytes().split_at_checked(BEARER.len())?;
        scheme.eq_ignore_ascii_case(BEARER).then_some(token.trim_ascii())
    });
    let cookie = || name.and_then(|name| cookie::values(headers, name).find(|value| !value.is_empty()));
    let token = bearer.or_else(cookie).map(str::from_utf8).transpose();
    token.map_err(|_| TokenError::Malformed)
}

fn is_user(user: &str) -> bool {
    !user.is_empty()
        && !user.starts_with(ANONYMOUS)
        && user != TERMINAL_USER
        && user.chars().count() <= USER_CHARS_MAX
        && !user.chars().any(char::is_control)
}

/// A list of texts, or one text with blanks between (as `scope` has it).
fn listed(claim: &Value) -> BTreeSet<String> {
    let roles: Vec<&str> = match claim {
        Value::Array(roles) => roles.iter().filter_map(Value::as_str).collect(),
        Value::String(roles) => roles.split_whitespace().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    roles.into_iter().filter(|role| is_user(role)).take(ROLES_MAX).map(str::to_owned).collect()
}

/// `USER;ROLES;UNIX_SECONDS;HEX(HMAC-SHA256 of what stands before the last semicolon)`, roles with commas between.
fn signed(field: &str, secret: &SecretText, max_age_s: u32, now_s: u64) -> Result<Vouched, IdentityRefused> {
    let (said, signature) = field.rsplit_once(';').ok_or(IdentityRefused::Malformed)?;
    let signature = from_hex(signature).ok_or(IdentityRefused::Malformed)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(said.as_bytes());
    mac.verify_slice(&signature).map_err(|_| IdentityRefused::Signature)?;
    let mut parts = said.rsplitn(3, ';');
    let (seconds, roles, user) = match (parts.next(), parts.next(), parts.next()) {
        (Some(seconds), Some(roles), Some(user)) => (seconds, roles, user),
        (_, _, _) => return Err(IdentityRefused::Malformed),
    };
    let at: u64 = seconds.parse().map_err(|_| IdentityRefused::Malformed)?;
    if at > now_s.saturating_add(AHEAD_S_MAX) || at.saturating_add(u64::from(max_age_s)) < now_s {
        return Err(IdentityRefused::Stale);
    }
    if !is_user(user) {
        return Err(IdentityRefused::Malformed);
    }
    let roles = roles.split(',').map(str::trim).filter(|role| !role.is_empty()).take(ROLES_MAX);
    Ok(Vouched { user: user.to_owned(), roles: roles.map(str::to_owned).collect() })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use carboy_core::ids::SecretName;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn field(said: &str, key: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(said.as_bytes());
        let hex: String = mac.finalize().into_bytes().iter().map(|octet| format!("{octet:02x}")).collect();
        format!("{said};{hex}")
    }

    fn vouched(fields: &[&str]) -> Result<Option<Vouched>, IdentityRefused> {
        let identity = Identity::SignedHeader {
            header: "X-Shop-User".into(),
            secret: SecretName::parse("SHOP_KEY").unwrap(),
            max_age_s: 60,
        };
        let known = Identities::new(&identity, Some(SecretText::new("key".to_owned()))).unwrap();
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append("x-shop-user", field.parse().unwrap());
        }
        known.vouched(&headers, NOW_MS)
    }

    #[test]
    fn g89_a_signed_field_says_who_it_is_and_what_they_are() {
        let sarah = field("sarah;admin, support;1800000000", "key");
        let roles = ["admin", "support"].map(str::to_owned).into();
        assert_eq!(vouched(&[&sarah]), Ok(Some(Vouched { user: "sarah".into(), roles })));
        let nobody = field("sarah;;1799999940", "key");
        assert_eq!(vouched(&[&nobody]).unwrap().unwrap().roles, BTreeSet::new());
        assert_eq!(vouched(&[]), Ok(None));
    }

    #[test]
    fn g89_a_field_that_is_forged_stale_doubled_or_broken_is_refused() {
        let sarah = field("sarah;admin;1800000000", "key");
        assert_eq!(vouched(&[&sarah.replace("sarah", "peter")]), Err(IdentityRefused::Signature));
        assert_eq!(vouched(&[&field("sarah;admin;1800000000", "other")]), Err(IdentityRefused::Signature));
        assert_eq!(vouched(&[&field("sarah;admin;1799999939", "key")]), Err(IdentityRefused::Stale));
        assert_eq!(vouched(&[&field("sarah;admin;1800000031", "key")]), Err(IdentityRefused::Stale));
        assert_eq!(vouched(&[&sarah, &sarah]), Err(IdentityRefused::Malformed));
        for broken in ["", ";", ";;;", "sarah", &field(";admin;1800000000", "key"), &field("1800000000", "key")] {
            assert_eq!(vouched(&[broken]), Err(IdentityRefused::Malformed), "{broken}");
        }
    }

    #[test]
    fn g89_octets_that_are_no_ascii_are_nobodys_and_never_somebody_elses() {
        let signed = Identities::Signed {
            header: "x-shop-user".into(),
            secret: SecretText::new("key".to_owned()),
            max_age_s: 60,
        };
        // Signed as they are, and as what a lossy conversion makes of them.
        for (said, shown) in
            [(&b"s\xe9b;;1800000000"[..], "sb;;1800000000"), (b"s\xe9b;;1800000000", "s\u{fffd}b;;1800000000")]
        {
            let signed_as = field(shown, "key");
            let (_, signature) = signed_as.rsplit_once(';').unwrap();
            let value = [said, b";", signature.as_bytes()].concat();
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-shop-user"),
                http::HeaderValue::from_bytes(&value).unwrap(),
            )]);
            assert_eq!(signed.vouched(&headers, NOW_MS), Err(IdentityRefused::Malformed));
        }
        let by_token = Identities::Jwt {
            keys: KeySet::parse(
                r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
            )
            .unwrap(),
            issuer: "https://shop.example".into(),
            audience: "chat".into(),
            user: "sub".into(),
            roles: None,
            cookie: Some("shop".into()),
        };
        let shown = |name: &'static str, value: &[u8]| {
            let field = (http::HeaderName::from_static(name), http::HeaderValue::from_bytes(value).unwrap());
            by_token.vouched(&HeaderMap::from_iter([field]), NOW_MS)
        };
        let refused = Err(IdentityRefused::Token(TokenError::Malformed));
        for octet in [0x80_u8, 0xa0, 0xe9, 0xff] {
            assert_eq!(shown("authorization", &[b"Bearer a.b", &[octet][..], b".c"].concat()), refused);
            assert_eq!(shown("authorization", &[b"Bearer ", &[octet][..]].concat()), refused);
            assert_eq!(shown("cookie", &[b"shop=a.b.c", &[octet][..]].concat()), refused);
            assert_eq!(shown("cookie", &[b"theme=", &[octet][..], b"; shop=a.b.c"].concat()), refused);
            // Another cookie's octets are nobody's token.
            assert_eq!(shown("cookie", &[b"theme=", &[octet][..]].concat()), Ok(None));
        }
        assert_eq!(shown("authorization", b"Basic c2FyYWg6"), Ok(None));
    }

    #[test]
    fn g89_without_its_secret_a_signed_header_is_not_served() {
        let identity = Identity::SignedHeader {
            header: "x".into(),
            secret: SecretName::parse("SHOP_KEY").unwrap(),
            max_age_s: 60,
        };
        assert_eq!(Identities::new(&identity, None).err(), Some(IdentityError::NoSecret));
        let empty = Some(SecretText::new(String::new()));
        assert_eq!(Identities::new(&identity, empty).err(), Some(IdentityError::NoSecret));
    }
}
