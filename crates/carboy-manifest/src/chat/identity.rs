//! `identity`: how one person is told from another (G89).
//!
//! *Must never* take a key that signs: a set of keys in a file is for verifying, and one with a private or symmetric key in it
//! is refused, because it would then lie beside the agent for everybody to read.

use std::path::{Path, PathBuf};

use carboy_core::chat::Identity;
use carboy_core::ids::SecretName;
use serde_json::Value as Json;

use crate::budget::parse_duration;
use crate::diagnostic::{Code, Diagnostic, Diagnostics, excerpt};
use crate::egress::secret_name;
use crate::files::ManifestFiles;
use crate::host_paths;
use crate::keys;
use crate::origin::{Place, Said};
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// Most bytes of a file of keys.
pub const JWKS_BYTES_MAX: u64 = 64 * 1024;
/// Most keys of it.
pub const JWKS_KEYS_MAX: usize = 32;
/// How old a signed header may be where nobody says it, in seconds.
const MAX_AGE_DEFAULT_S: u32 = 300;

/// `identity`, as a file says it: the keys are read later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum IdentityPart {
    #[default]
    Anonymous,
    Jwt {
        jwks: Said<PathBuf>,
        issuer: String,
        audience: String,
        user_claim: String,
        roles_claim: Option<String>,
        cookie: Option<String>,
    },
    SignedHeader {
        header: String,
        secret: SecretName,
        max_age_s: u32,
    },
}

const FIX: &str = "write `anonymous`, {jwt: {jwks: FILE, issuer: …, audience: …}} or {signed_header: {header: X-Shop-User, secret: NAME}}";

/// Reads `identity`.
pub(crate) fn identity(scope: &mut Scope<'_>, node: &Node) -> IdentityPart {
    read(scope, node).unwrap_or_default()
}

fn read(scope: &mut Scope<'_>, node: &Node) -> Option<IdentityPart> {
    if matches!(&node.value, Value::Text(text) if text == "anonymous") {
        return Some(IdentityPart::Anonymous);
    }
    let entries = scope.map(node, "`identity`")?;
    scope.keys(entries, &keys::CHAT_IDENTITY, "`identity`");
    match entries {
        [Entry { key, value, .. }] if key == "jwt" => jwt(scope, value),
        [Entry { key, value, .. }] if key == "signed_header" => signed_header(scope, value),
        [_] => None,
        _ => {
            let message = format!("`identity` of {} says {} ways, not one", scope.owner, entries.len());
            scope.error(node.at, Code::BadValue, message, FIX);
            None
        }
    }
}

fn jwt(scope: &mut Scope<'_>, node: &Node) -> Option<IdentityPart> {
    let what = "`identity.jwt`";
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_JWT, what);
    let required = |scope: &mut Scope<'_>, key: &str| match find(entries, key) {
        Some(node) => filled(scope, node, &format!("`identity.jwt.{key}`")),
        None => {
            scope.missing(node.at, key, what, FIX);
            None
        }
    };
    let (issuer, audience) = (required(scope, "issuer"), required(scope, "audience"));
    let jwks = required(scope, "jwks").and_then(|text| {
        let at = find(entries, "jwks").map_or(node.at, |node| node.at);
        let path = path_of(scope, &text);
        if path.is_none() {
            let message = format!("`identity.jwt.jwks` of {} is {}", scope.owner, excerpt(&text));
            scope.error(
                at,
                Code::BadValue,
                message,
                "write a path: absolute, below `~/`, or beside the agent's file as in ./keys.json",
            );
        }
        path.map(|path| scope.said(path, at))
    });
    let mut claims = (Some(String::from("sub")), None);
    if let Some(node) = find(entries, "claims") {
        let inner = scope.map(node, "`identity.jwt.claims`")?;
        scope.keys(inner, &keys::CHAT_CLAIMS, "`identity.jwt.claims`");
        if let Some(node) = find(inner, "user") {
            claims.0 = filled(scope, node, "`identity.jwt.claims.user`");
        }
        if let Some(node) = find(inner, "roles") {
            claims.1 = filled(scope, node, "`identity.jwt.claims.roles`");
        }
    }
    let cookie = find(entries, "cookie").and_then(|node| token(scope, node, "`identity.jwt.cookie`"));
    Some(IdentityPart::Jwt {
        jwks: jwks?,
        issuer: issuer?,
        audience: audience?,
        user_claim: claims.0?,
        roles_claim: claims.1,
        cookie,
    })
}

fn signed_header(scope: &mut Scope<'_>, node: &Node) -> Option<IdentityPart> {
    let what = "`identity.signed_header`";
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_SIGNED_HEADER, what);
    for key in ["header", "secret"] {
        if find(entries, key).is_none() {
            scope.missing(node.at, key, what, FIX);
        }
    }
    let max_age_s = match find(entries, "max_age") {
        None => Some(MAX_AGE_DEFAULT_S),
        Some(node) => {
            let text = scope.text(node, "`identity.signed_header.max_age`")?;
            let seconds = parse_duration(text).map(|ms| ms / 1_000).filter(|s| (1..=86_400).contains(s));
            let seconds = seconds.and_then(|s| u32::try_from(s).ok());
            if seconds.is_none() {
                let message = format!("`identity.signed_header.max_age` of {} is {}", scope.owner, excerpt(text));
                scope.error(node.at, Code::BadValue, message, "write a time from 1s to 24h, as in 5m");
            }
            seconds
        }
    };
    let header = find(entries, "header").and_then(|node| token(scope, node, "`identity.signed_header.header`"));
    let secret = find(entries, "secret").and_then(|node| secret_name(scope, node, "`identity.signed_header.secret`"));
    Some(IdentityPart::SignedHeader { header: header?.to_ascii_lowercase(), secret: secret?, max_age_s: max_age_s? })
}

fn filled(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, what)?;
    if !text.trim().is_empty() && text.len() <= 1_024 {
        return Some(text.to_owned());
    }
    scope.error(
        node.at,
        Code::BadValue,
        format!("{what} of {} is {}", scope.owner, excerpt(text)),
        "write 1 to 1024 bytes",
    );
    None
}

/// The name of a header or cookie (RFC 9110, RFC 6265: a token).
fn token(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<String> {
    let text = scope.text(node, what)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) {
        return Some(text.to_owned());
    }
    let message = format!("{what} of {} is {}", scope.owner, excerpt(text));
    scope.error(node.at, Code::BadValue, message, "write a name of letters, digits, `-`, `_`, `.`");
    None
}

/// Absolute, below the home, or beside the agent's file; `..` leads nowhere.
fn path_of(scope: &Scope<'_>, text: &str) -> Option<PathBuf> {
    if let Some(path) = host_paths::expand(text, scope.home) {
        return Some(path);
    }
    let text = text.strip_prefix("./").unwrap_or(text);
    let plain = !text.is_empty() && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    plain.then(|| scope.file.parent().unwrap_or(Path::new("")).join(text))
}

/// The identity with its keys read.
pub(crate) fn whole(part: &IdentityPart, files: &dyn ManifestFiles, out: &mut Diagnostics) -> Option<Identity> {
    Some(match part {
        IdentityPart::Anonymous => Identity::Anonymous,
        IdentityPart::SignedHeader { header, secret, max_age_s } => {
            Identity::SignedHeader { header: header.clone(), secret: secret.clone(), max_age_s: *max_age_s }
        }
        IdentityPart::Jwt { jwks, issuer, audience, user_claim, roles_claim, cookie } => Identity::Jwt {
            jwks: keys_of(files, &jwks.value, &jwks.place, out)?,
            issuer: issuer.clone(),
            audience: audience.clone(),
            user_claim: user_claim.clone(),
            roles_claim: roles_claim.clone(),
            cookie: cookie.clone(),
        },
    })
}

fn keys_of(files: &dyn ManifestFiles, path: &Path, place: &Place, out: &mut Diagnostics) -> Option<String> {
    let read = match files.read(path, JWKS_BYTES_MAX) {
        Ok(Some(bytes)) => public_keys(bytes),
        Ok(None) => Err("there is no such file".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    match read {
        Ok(text) => Some(text),
        Err(problem) => {
            let message = format!("`identity.jwt.jwks`, {}: {problem}", path.display());
            let fix = "give a JSON Web Key Set (RFC 7517) of public keys: {\"keys\": [{\"kty\": \"RSA\", …}]}";
            out.push(Diagnostic::error(Code::FileUnreadable, message, fix).at(&place.file, place.at));
            None
        }
    }
}

fn public_keys(bytes: Vec<u8>) -> Result<String, String> {
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    let json: Json = serde_json::from_str(&text).map_err(|error| format!("it is not JSON: {error}"))?;
    let keys = json.get("keys").and_then(Json::as_array).ok_or("it has no list `keys`")?;
    if keys.is_empty() || keys.len() > JWKS_KEYS_MAX {
        return Err(format!("it has {} keys, not 1 to {JWKS_KEYS_MAX}", keys.len()));
    }
    for key in keys {
        let kind = key.get("kty").and_then(Json::as_str).unwrap_or_default();
        if !["RSA", "EC", "OKP"].contains(&kind) {
            return Err("a key in it is of no public kind (`kty` RSA, EC or OKP)".into());
        }
        if ["d", "p", "q", "k", "oth"].iter().any(|private| key.get(private).is_some()) {
            return Err("a key in it is private, and has no business here".into());
        }
    }
    Ok(text)
}
