//! Doors for the fuzz targets to readers that are nobody else's business. *Must never* be used by anything that is shipped.

use std::ops::Range;

use carboy_core::host::HostPattern;
use carboy_core::route::{Route, RouteSet};
use carboy_guard::Detectors;

use crate::gateway::Learning;
use crate::limits::GatewayLimits;
use crate::names::NamePool;
use crate::placeholder::multipart::Boundary;
use crate::proxy::{Head, ProxyAuth};

/// What a bottle's name server answers to these bytes.
pub fn dns(query: &[u8]) -> Option<Vec<u8>> {
    let patterns = ["api.example", "*.files.example"].iter().filter_map(|host| HostPattern::parse(host).ok());
    let routes = patterns.enumerate().map(|(n, host)| Route::plain(n + 1, host)).collect();
    let detectors = Detectors::builder([7; 32]).build().ok()?;
    let mut names = NamePool::new(&GatewayLimits { names_max: 16, wildcard_names_max: 8, ..GatewayLimits::default() });
    crate::dns::answer(query, &RouteSet::new(routes, 1), &mut names, &detectors, Learning::Off).bytes(None)
}

/// The host of a proxy request and the length of its head, when one is complete.
pub fn proxy_head(read: &[u8]) -> Option<(String, usize)> {
    let (head, length) = Head::parse(read, 64, &ProxyAuth::Socket).ok()??;
    match head {
        Head::Tunnel { host, .. } | Head::Request { host, .. } => Some((host.to_string(), length)),
    }
}

/// Where a text stands in the field `name` of form data of this `Content-Type`.
pub fn form_data(content_type: &str, body: &[u8], name: &str, wanted: &[u8]) -> Vec<Range<usize>> {
    Boundary::of(content_type).map_or_else(Vec::new, |boundary| boundary.spans(body, Some(name), wanted))
}

/// What a ClientHello in these pieces turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Hello {
    /// Whole, with the server name that it says.
    Read(Option<String>),
    /// More is needed.
    Unfinished,
    /// None.
    Broken,
}

/// Reads one.
pub fn client_hello(pieces: &[&[u8]]) -> Hello {
    let mut acceptor = rustls::server::Acceptor::default();
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match acceptor.read_tls(&mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Hello::Broken,
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => return Hello::Read(accepted.client_hello().server_name().map(str::to_owned)),
                Ok(None) => {}
                Err(_) => return Hello::Broken,
            }
        }
    }
    Hello::Unfinished
}
