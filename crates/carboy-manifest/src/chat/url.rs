//! Addresses of services: scheme, host, port, path; nothing else.

use std::net::IpAddr;

use carboy_core::host::Host;
use carboy_core::route::{is_private_unicast, normal_path};

use crate::diagnostic::{Code, excerpt};
use crate::schema::Scope;
use crate::yaml::Node;

/// Longest address, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// Begins with `/`.
    pub(crate) path: String,
    /// `http`, not `https`.
    pub(crate) plain: bool,
}

impl Url {
    /// What has to be true of the way there, where it is one without TLS.
    pub(crate) fn plainness(&self) -> Option<Plain> {
        self.plain.then(|| Plain { host: self.host.clone(), port: self.port })
    }
}

/// A service that is spoken to without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plain {
    pub(crate) host: Host,
    pub(crate) port: u16,
}

impl Plain {
    /// Its address, where it is written as one of this machine or of a private network.
    pub(crate) fn local(&self) -> Option<IpAddr> {
        self.host.as_ip().filter(|ip| ip.is_loopback() || is_private_unicast(*ip))
    }
}

/// `https://host[:port][/path]` or `http://…`, without user, query and fragment. `localhost` is 127.0.0.1.
pub(crate) fn parse(text: &str) -> Option<Url> {
    let (plain, rest) = match text.strip_prefix("https://") {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix("http://")?),
    };
    if text.len() > URL_BYTES_MAX || rest.contains(['?', '#', '@', '\\', ' ']) {
        return None;
    }
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = Host::parse_authority(authority).ok()?;
    let host = match host.as_name().map(carboy_core::host::DnsName::as_str) {
        Some("localhost") => Host::parse("127.0.0.1").ok()?,
        Some(_) | None => host,
    };
    let port = port.unwrap_or(if plain { 80 } else { 443 });
    Some(Url { host, port, path: normal_path(path)?, plain })
}

/// The same of a file.
pub(crate) fn url(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<Url> {
    let text = scope.text(node, what)?;
    let found = parse(text);
    if found.is_none() {
        // A query may carry a token, which is not repeated.
        let shown = excerpt(text.split(['?', '#']).next().unwrap_or_default());
        let message = format!("{what} of {} is {shown}", scope.owner);
        let fix = "write https://HOST[:PORT]/PATH, without a name, a query or a fragment in it";
        scope.error(node.at, Code::BadValue, message, fix);
    }
    found
}
