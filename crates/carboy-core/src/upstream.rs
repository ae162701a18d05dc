//! Where a host is really reached: company gateways, mirrors, tests. From settings, never from a bottle's file
//! in a checked-out repository.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::host::Host;

/// Overrides by host and port. A host without one is resolved by the host's own resolver and must be public.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams(BTreeMap<(Host, Option<u16>), Upstream>);

/// One override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Address and port that are dialled. Being named by the operator, it may be private.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// PEM certificates trusted for this host in addition to the platform's.
    pub extra_ca_pem: Option<String>,
}

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TLS, verified for the host's name.
    Tls,
    /// No TLS. The only case in which a credential may leave over plain text.
    Plain,
}

impl Upstreams {
    /// Adds or replaces an override; `port` is the one that the client asked for, `None` for all.
    pub fn insert(&mut self, host: Host, port: Option<u16>, upstream: Upstream) {
        self.0.insert((host, port), upstream);
    }

    /// The override that holds for this host and port: the one with the port, else the one for all.
    pub fn get(&self, host: &Host, port: u16) -> Option<&Upstream> {
        self.0.get(&(host.clone(), Some(port))).or_else(|| self.0.get(&(host.clone(), None)))
    }

    /// All of them, for `check`.
    pub fn iter(&self) -> impl Iterator<Item = (&Host, Option<u16>, &Upstream)> {
        self.0.iter().map(|((host, port), upstream)| (host, *port, upstream))
    }
}
