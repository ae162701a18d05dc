//! Fixtures of the unit tests.

use carboy_core::host::HostPattern;
use carboy_core::ids::SecretName;
use carboy_core::route::{Route, RouteSet};
use carboy_core::secret::Secret;
use carboy_guard::Detectors;

/// The one secret of the tests' run.
pub(crate) const SECRET: &str = "Zq8vTr3LmW5xKd0PyB7n";

pub(crate) fn route(index: usize, host: &str) -> Route {
    Route::plain(index, HostPattern::parse(host).unwrap())
}

pub(crate) fn routes(hosts: &[&str]) -> RouteSet {
    RouteSet::new(hosts.iter().enumerate().map(|(i, host)| route(i + 1, host)).collect(), 1)
}

pub(crate) fn detectors() -> Detectors {
    let name = SecretName::parse("CANARY").unwrap();
    Detectors::builder([7; 32]).known_secret(&name, &Secret::new(SECRET.to_owned())).build().unwrap()
}
