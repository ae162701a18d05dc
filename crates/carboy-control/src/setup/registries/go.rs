//! Go: `go env GOPROXY GOSUMDB`.

use super::{Configured, Manager, Whose};
use crate::setup::Surroundings;

pub(super) fn configured(host: &Surroundings) -> Option<Configured> {
    let go = host.find("go", &["/usr/local/go/bin".into(), host.home.join("sdk/go/bin")])?;
    let said = "`go env GOPROXY GOSUMDB`";
    let text = host.ask(&go, &["env", "GOPROXY", "GOSUMDB"])?;
    let mut lines = text.lines();
    let (proxies, database) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut found = Configured::new(Manager::Go);
    let mut kept = Vec::new();
    for proxy in proxies.split([',', '|']).map(str::trim).filter(|proxy| !proxy.is_empty()) {
        match proxy {
            "direct" => {}
            "off" => kept.push("off".to_owned()),
            url => kept.extend(found.add(url, said, Whose::Person).map(|address| address.url())),
        }
    }
    if !kept.is_empty() {
        let why = "as `go env GOPROXY` says, without `direct`: that would ask any host";
        found.variable("GOPROXY", kept.join(","), why);
    }
    // `NAME`, or `NAME+HASH+KEY [URL]`.
    let mut words = database.split_whitespace();
    let name = words.next().unwrap_or_default().split('+').next().unwrap_or_default();
    match (name, words.next()) {
        ("" | "off", _) => {}
        (_, Some(url)) => {
            found.add(url, said, Whose::Person);
        }
        (name, None) => {
            found.add(&format!("https://{name}"), said, Whose::Person);
        }
    }
    Some(found)
}
