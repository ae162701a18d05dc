//! Whose page asks: other sites' scripts and forms may not (CSRF), and names that are not ours are not served (DNS
//! rebinding).
//!
//! *Must never* let a request that changes something pass on a browser's cookie alone.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, StatusCode};

use super::proxies::Way;
use super::refusal::Refusal;

/// May this request change something?
pub(super) fn own_page(headers: &HeaderMap, way: &Way) -> Result<(), Refusal> {
    let foreign = || {
        let next = "use the chat's own page; behind a proxy, pass `Host` on and list the proxy with `--trusted-proxy`";
        Refusal::new(StatusCode::FORBIDDEN, "foreign_origin", "this was sent by a page of another site", next)
    };
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // A browser sets it, and no script can.
    if let Some(site) = text("sec-fetch-site") {
        return if site == "same-origin" { Ok(()) } else { Err(foreign()) };
    }
    // Browsers that do not, or not over http.
    let Some(origin) = text("origin") else { return Ok(()) };
    let origin = origin.to_ascii_lowercase();
    let named = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    match (named, &way.host) {
        (Some(named), Some(host)) if without_default_port(named) == without_default_port(host) => Ok(()),
        (_, _) => Err(foreign()),
    }
}

fn without_default_port(authority: &str) -> &str {
    authority.strip_suffix(":443").or_else(|| authority.strip_suffix(":80")).unwrap_or(authority)
}

/// A service for this machine alone answers to this machine's names alone: a page whose name was made to mean 127.0.0.1
/// would otherwise count as ours.
pub(super) fn own_name(listening: SocketAddr, has_proxies: bool, way: &Way) -> Result<(), Refusal> {
    if has_proxies || !listening.ip().is_loopback() {
        return Ok(());
    }
    if way.host.as_ref().is_none_or(|authority| is_this_machine(authority)) {
        return Ok(());
    }
    let next = "open it as http://localhost; behind a proxy, list that with `--trusted-proxy`";
    Err(Refusal::new(
        StatusCode::MISDIRECTED_REQUEST,
        "foreign_name",
        "this service is for its own machine alone",
        next,
    ))
}

/// Is it one of loopback's names or addresses, with or without a port? In lower case.
pub(crate) fn is_this_machine(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.ends_with(".localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(host: &str) -> Way {
        Way { address: IpAddr::from([127, 0, 0, 1]), https: false, host: Some(host.into()) }
    }

    fn asked(fields: &[(&'static str, &str)]) -> bool {
        let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        own_page(&headers.collect(), &way("chat.example")).is_ok()
    }

    #[test]
    fn pages_of_others_change_nothing_here() {
        assert!(asked(&[]), "no browser, no cookie jar");
        assert!(asked(&[("sec-fetch-site", "same-origin"), ("origin", "https://behind.a.proxy")]));
        assert!(asked(&[("origin", "https://Chat.example")]) && asked(&[("origin", "http://chat.example:80")]));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!asked(&[("sec-fetch-site", site)]), "{site}");
        }
        for origin in ["null", "https://evil.example", "https://chat.example.evil", "https://chat.example:8443", ""] {
            assert!(!asked(&[("origin", origin)]), "{origin}");
        }
    }

    #[test]
    fn on_loopback_only_loopbacks_names_are_served() {
        let local = SocketAddr::from(([127, 0, 0, 1], 8080));
        let served = |host: &str| own_name(local, false, &way(host)).is_ok();
        assert!(served("localhost:8080") && served("127.0.0.1:8080") && served("[::1]:8080") && served("a.localhost"));
        assert!(!served("evil.example:8080") && !served("10.0.0.1") && !served(""));
        assert!(own_name(local, true, &way("shop.example")).is_ok());
        assert!(own_name(SocketAddr::from(([0, 0, 0, 0], 8080)), false, &way("shop.example")).is_ok());
    }
}
