//! `notify` of `settings.yml`: how the operator hears that something waits.
//!
//! *Must never* repeat a webhook's address in a message: its path is a credential at most services.

use carboy_core::host::Host;
use carboy_core::ids::SecretName;
use serde::{Serialize, Serializer};

use crate::diagnostic::Code;
use crate::keys;
use crate::schema::{Scope, find};
use crate::yaml::Node;

/// Longest address of a webhook, in bytes.
pub const WEBHOOK_URL_BYTES_MAX: usize = 2048;

/// How the operator hears of a question, a storm of refusals and the end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notify {
    /// The bell of the terminal.
    pub bell: bool,
    /// A notice on the desktop.
    pub desktop: bool,
    /// A message over HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

impl Default for Notify {
    /// The bell alone.
    fn default() -> Self {
        Notify { bell: true, desktop: false, webhook: None }
    }
}

/// Where a message is posted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Webhook {
    /// `https://…`, or `http://` on this machine. As JSON scheme and host alone.
    #[serde(serialize_with = "origin_alone")]
    pub url: String,
    /// The secret that goes along as `Authorization: Bearer`.
    #[serde(rename = "token_env", skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretName>,
}

fn origin_alone<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let end = url.find("://").map_or(0, |at| at + 3);
    let rest = url[end..].find(['/', '?']).map_or(url.len(), |at| end + at);
    serializer.serialize_str(&url[..rest])
}

/// `notify`: `bell`, `desktop`, `webhook`.
pub(super) fn notify(scope: &mut Scope<'_>, node: &Node) -> Option<Notify> {
    let entries = scope.map(node, "`notify`")?;
    scope.keys(entries, &keys::NOTIFY, "`notify`");
    let mut read = Notify::default();
    if let Some(node) = find(entries, "bell") {
        read.bell = scope.boolean(node, "`notify.bell`")?;
    }
    if let Some(node) = find(entries, "desktop") {
        read.desktop = scope.boolean(node, "`notify.desktop`")?;
    }
    if let Some(node) = find(entries, "webhook") {
        read.webhook = Some(webhook(scope, node)?);
    }
    Some(read)
}

fn webhook(scope: &mut Scope<'_>, node: &Node) -> Option<Webhook> {
    let entries = scope.map(node, "`notify.webhook`")?;
    scope.keys(entries, &keys::WEBHOOK, "`notify.webhook`");
    let token = match find(entries, "token_env") {
        Some(node) => Some(crate::egress::secret_name(scope, node, "`notify.webhook.token_env`")?),
        None => None,
    };
    let Some(url) = find(entries, "url") else {
        scope.missing(node.at, "url", "`notify.webhook`", "add `url: \"https://hooks.example.org/…\"`");
        return None;
    };
    let text = scope.text(url, "`notify.webhook.url`")?;
    if !accepted(text) {
        let message = String::from("`notify.webhook.url` of settings.yml is no address that is posted to");
        let fix = "write \"https://HOST[:PORT]/PATH\" without user and fragment (or http:// to a loopback address)";
        scope.error(url.at, Code::BadValue, message, fix);
        return None;
    }
    Some(Webhook { url: text.to_owned(), token })
}

/// An address without user, fragment and white space; plain text on this machine alone.
fn accepted(url: &str) -> bool {
    let clean =
        url.len() <= WEBHOOK_URL_BYTES_MAX && url.bytes().all(|b| b.is_ascii_graphic() && b != b'#' && b != b'\\');
    let authority = |rest: &str| rest.split(['/', '?']).next().unwrap_or_default().to_owned();
    match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => clean && Host::parse_authority(&authority(rest)).is_ok(),
        (None, Some(rest)) => {
            let authority = authority(rest);
            let host = match authority.rsplit_once(':') {
                Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port != 0) => host,
                Some(_) | None => authority.as_str(),
            };
            let plain = host.trim_start_matches('[').trim_end_matches(']');
            clean && (host == "localhost" || plain.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()))
        }
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_encrypted_or_stays_on_this_machine() {
        for url in [
            "https://h.example/x",
            "https://h.example:8443/x?y=z",
            "http://127.0.0.1:9/x",
            "http://[::1]:9/",
            "http://localhost:9",
        ] {
            assert!(accepted(url), "{url}");
        }
        for url in [
            "h.example/x",
            "http://h.example/",
            "ftp://h.example/",
            "https://u:p@h.example/",
            "https:///x",
            "https://h.example/#x",
            "https://h.example/ x",
            "http://127.0.0.1.h.example/",
            "http://127.0.0.1@h.example/",
        ] {
            assert!(!accepted(url), "{url}");
        }
    }
}
