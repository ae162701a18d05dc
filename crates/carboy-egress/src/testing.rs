//! Fixtures of the unit tests.

use carboy_core::host::HostPattern;
use carboy_core::ids::{RouteId, SecretName};
use carboy_core::route::{DlpPolicy, GitAccess, Reach, Route, RouteSet};
use carboy_core::secret::Secret;
use carboy_guard::Detectors;

/// The one secret of the tests' run.
pub(crate) const SECRET: &str = "Zq8vTr3LmW5xKd0PyB7n";

pub(crate) fn route(index: usize, host: &str) -> Route {
    let host = HostPattern::parse(host).unwrap();
    Route {
        id: RouteId::new(index, &host),
        host,
        ports: vec![443, 80],
        auth: None,
        matches: Vec::new(),
        git: GitAccess::Denied,
        dlp: DlpPolicy::default(),
        meter: None,
        reach: Reach::Public,
        body_bytes_max: None,
    }
}

pub(crate) fn routes(hosts: &[&str]) -> RouteSet {
    RouteSet::new(hosts.iter().enumerate().map(|(i, host)| route(i + 1, host)).collect(), 1)
}

pub(crate) fn detectors() -> Detectors {
    let name = SecretName::parse("CANARY").unwrap();
    Detectors::builder([7; 32]).known_secret(&name, &Secret::new(SECRET.to_owned())).build().unwrap()
}
