//! apt: the archives in `sources.list` and `sources.list.d`, one-line and deb822.

use super::{Configured, Manager, Whose};
use crate::setup::{Surroundings, names_in, read_own};

pub(super) fn configured(host: &Surroundings) -> Option<Configured> {
    host.find("apt-get", &[])?;
    let mut found = Configured::new(Manager::Apt);
    let apt = host.etc.join("apt");
    let below = names_in(&apt.join("sources.list.d")).into_iter().map(|name| format!("sources.list.d/{name}"));
    for name in std::iter::once("sources.list".to_owned()).chain(below) {
        let urls = match name.rsplit_once('.').map(|(_, end)| end) {
            Some("list") => one_line(&read_own(&apt.join(&name)).unwrap_or_default()),
            Some("sources") => deb822(&read_own(&apt.join(&name)).unwrap_or_default()),
            Some(_) | None => continue,
        };
        for url in urls.iter().filter(|url| url.starts_with("http")) {
            found.add(url, &format!("/etc/apt/{name}"), Whose::Person);
        }
    }
    Some(found)
}

/// `deb [options] URL SUITE COMPONENT…`
fn one_line(text: &str) -> Vec<String> {
    let sources = text.lines().map(str::trim).filter_map(|line| {
        let rest = line.strip_prefix("deb-src ").or_else(|| line.strip_prefix("deb "))?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        rest.split_whitespace().next().map(str::to_owned)
    });
    sources.collect()
}

/// `URIs: URL URL`, in stanzas of which some are switched off.
fn deb822(text: &str) -> Vec<String> {
    let mut urls = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let fields = stanza.lines().filter_map(|line| line.split_once(':'));
            fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        if field("Enabled").is_some_and(|value| matches!(value, "no" | "false" | "0")) {
            continue;
        }
        urls.extend(field("URIs").unwrap_or_default().split_whitespace().map(str::to_owned));
    }
    urls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_read_from_both_forms() {
        let list = "# deb http://no.example x y\ndeb [signed-by=/k arch=amd64] https://a.example/debian s main\n\
                    deb-src http://b.example/ s main\n";
        assert_eq!(one_line(list), ["https://a.example/debian", "http://b.example/"]);
        let sources = "Types: deb\n# http://no.example/\nURIs: http://c.example/d https://e.example\nSuites: x\n\n\
                       Types: deb\nEnabled: no\nURIs: http://off.example\n";
        assert_eq!(deb822(sources), ["http://c.example/d", "https://e.example"]);
    }
}
