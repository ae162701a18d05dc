//! Addresses of registries: scheme, host, port and path, without what stands before an `@`.

use carboy_core::host::Host;
use serde::Serialize;

/// Is an address reached by TLS?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// By TLS.
    Https,
    /// In plain text.
    Http,
}

/// How much of an address a preset needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// The host: what the registry hands out may stand beside its index.
    Host,
    /// What is below the path.
    Path,
}

/// Where a registry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Address {
    /// How it is reached.
    pub scheme: Scheme,
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Without `/` at its end; empty for the root.
    pub path: String,
    /// Whether a credential stood in it.
    pub credentials: bool,
}

impl Address {
    /// `http(s)://[credential@]host[:port][/path]`; what is behind `?` or `#` is dropped. `None` for anything else.
    pub fn parse(url: &str) -> Option<Address> {
        let url = url.trim();
        let url = url.strip_prefix("sparse+").unwrap_or(url);
        let (scheme, rest) = url.split_once("://")?;
        let (scheme, usual) = match scheme.to_ascii_lowercase().as_str() {
            "https" => (Scheme::Https, 443),
            "http" => (Scheme::Http, 80),
            _ => return None,
        };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (credentials, authority) = match authority.rsplit_once('@') {
            Some((_, authority)) => (true, authority),
            None => (false, authority),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !authority.ends_with(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
            Some(_) | None => (authority, usual),
        };
        let host = Host::parse(host).ok()?.to_string();
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host };
        let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~+".contains(c);
        let path = path.trim_end_matches('/');
        if !path.chars().all(plain) || path.contains("//") || path.split('/').any(|part| part == ".." || part == ".") {
            return None;
        }
        Some(Address { scheme, host, port, path: path.to_owned(), credentials })
    }

    /// As a preset's `hosts` takes it.
    pub fn spec(&self, extent: Extent) -> String {
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        let path = match extent {
            Extent::Host => "",
            Extent::Path => &self.path,
        };
        format!("{}{port}{path}", self.host)
    }

    /// As a tool takes it, without the credential.
    pub fn url(&self) -> String {
        let (scheme, usual) = match self.scheme {
            Scheme::Https => ("https", 443),
            Scheme::Http => ("http", 80),
        };
        let port = if self.port == usual { String::new() } else { format!(":{}", self.port) };
        format!("{scheme}://{}{port}{}", self.host, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_a_path_and_no_credential() {
        let of = |url: &str| {
            let address = Address::parse(url)?;
            Some((address.spec(Extent::Path), address.url(), address.credentials))
        };
        let is = |spec: &str, url: &str, credentials| Some((spec.to_owned(), url.to_owned(), credentials));
        assert_eq!(of("https://r.example/"), is("r.example", "https://r.example", false));
        assert_eq!(of("sparse+https://R.example/a/b/"), is("r.example/a/b", "https://r.example/a/b", false));
        assert_eq!(of("http://r.example/npm"), is("r.example:80/npm", "http://r.example/npm", false));
        assert_eq!(of("https://u:p@r.example:8443/x?t=1"), is("r.example:8443/x", "https://r.example:8443/x", true));
        assert_eq!(of("https://[fd00::7]:8443/x"), is("[fd00::7]:8443/x", "https://[fd00::7]:8443/x", false));
        for url in [
            "",
            "r.example",
            "file:///x",
            "git+ssh://r.example/x",
            "https://",
            "https://a b/",
            "https://r:0/",
            "https://r.example/a b",
            "https://r.example/../x",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
