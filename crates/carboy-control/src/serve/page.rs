//! The page and its files, which are part of the program (G51), and the page of the agent's source where it has one.
//!
//! *Must never* read a file: there is no path that could leave a directory.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::identity::short;
use super::refusal::Refusal;
use super::whole;

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const ASSETS: &[Asset] = &[
    Asset { name: "index.html", kind: "text/html; charset=utf-8", bytes: include_bytes!("assets/index.html") },
    Asset { name: "app.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("assets/app.js") },
    Asset { name: "wire.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("assets/wire.js") },
    Asset { name: "view.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("assets/view.js") },
    Asset { name: "theme.js", kind: "text/javascript; charset=utf-8", bytes: include_bytes!("assets/theme.js") },
    Asset { name: "style.css", kind: "text/css; charset=utf-8", bytes: include_bytes!("assets/style.css") },
    Asset { name: "icon.svg", kind: "image/svg+xml", bytes: include_bytes!("assets/icon.svg") },
    Asset { name: EMBED, kind: "text/javascript; charset=utf-8", bytes: include_bytes!("assets/embed.js") },
];

/// The script that shops put into their pages.
const EMBED: &str = "embed.js";

/// Whether other sites may show the chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Embedding {
    Allowed,
    Refused,
}

/// A file below `/static/`.
pub(super) fn asset(name: &str, headers: &HeaderMap, embedding: Embedding) -> Result<Response<Body>, Refusal> {
    let asset = ASSETS.iter().find(|asset| asset.name == name).ok_or_else(Refusal::not_found)?;
    if asset.name == EMBED && embedding == Embedding::Refused {
        let words = "this agent is shown on no other site";
        let next = "list the site under `frame_ancestors` in the agent's file";
        return Err(Refusal::new(StatusCode::NOT_FOUND, "not_embedded", words, next));
    }
    // Known by its content: a new program's page is never mixed with an old one's script.
    let tag = format!("\"{}\"", short(&Sha256::digest(asset.bytes)));
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let mut answer = if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
        let mut unchanged = Response::new(Body::empty());
        *unchanged.status_mut() = StatusCode::NOT_MODIFIED;
        unchanged
    } else {
        Response::new(whole(asset.bytes))
    };
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(asset.kind));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        fields.insert(header::ETAG, tag);
    }
    // The page itself sets a cookie, and is never kept.
    let keep = if asset.name == "index.html" { "no-store" } else { "no-cache" };
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if asset.name == EMBED {
        let policy = HeaderName::from_static("cross-origin-resource-policy");
        fields.insert(policy, HeaderValue::from_static("cross-origin"));
    }
    Ok(answer)
}

/// The page of an agent's source, as `carboy lit weave` makes it, and what it refers to.
#[derive(Clone, Debug, Default)]
pub struct Architecture {
    /// The page.
    pub page: Bytes,
    /// Its stylesheet and pictures, by the names that the page gives them: `bookly.css`, `bookly-1.svg`.
    pub files: BTreeMap<String, Bytes>,
    /// A policy of its own (G48), where the one of all other pages would break it.
    pub policy: Option<String>,
}

impl Architecture {
    pub(super) fn answer(&self) -> Response<Body> {
        let mut answer = Response::new(whole(self.page.clone()));
        let fields = answer.headers_mut();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        let policy = self.policy.as_ref().and_then(|policy| HeaderValue::from_str(policy).ok());
        if let Some(policy) = policy {
            fields.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    /// A file that the page refers to. Names of other kinds are not served, whoever made the page.
    pub(super) fn file(&self, name: &str) -> Option<Response<Body>> {
        let kind = match name.rsplit_once('.')?.1 {
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => return None,
        };
        let mut answer = Response::new(whole(self.files.get(name)?.clone()));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Some(answer)
    }
}

/// What is told where there is no such page.
pub(super) fn no_architecture() -> Refusal {
    let next = "its operator shows it by `serve: {architecture: true}` in the agent's file";
    Refusal::new(StatusCode::NOT_FOUND, "no_architecture", "this agent shows no page of its source", next)
}
