//! pip: `pip config list`, and, where that names no index, the one that the installed pip itself brings.

use super::address::Scheme;
use super::{Configured, Manager, Whose};
use crate::setup::{Surroundings, names_in, read_repository};

/// Prints the index and the host of its files that this pip was made with.
const BUILT_IN: &str =
    "from pip._internal.models.index import PyPI; print(PyPI.simple_url); print(PyPI.file_storage_domain)";

/// What `pip config list` says of indexes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Indexes {
    index: Option<String>,
    extra: Vec<String>,
}

pub(super) fn configured(host: &Surroundings) -> Option<Configured> {
    let python = host.find("python3", &[])?;
    let built_in = host.ask(&python, &["-I", "-c", BUILT_IN]);
    let listed = host.ask(&python, &["-m", "pip", "config", "list"]);
    if built_in.is_none() && listed.is_none() {
        return None;
    }
    let mut found = Configured::new(Manager::Pip);
    let said = "`pip config list`";
    let indexes = parse(&listed.unwrap_or_default());
    let own: Vec<String> = built_in.unwrap_or_default().lines().map(str::to_owned).collect();
    let configured = indexes.index.as_deref().and_then(|url| found.add(url, said, Whose::Person));
    let mut plain = Vec::new();
    if let Some(address) = &configured {
        found.variable("PIP_INDEX_URL", address.url(), said);
        plain.extend(Some(address.clone()).filter(|address| address.scheme == Scheme::Http));
    }
    let own_index = own.first().and_then(|url| super::Address::parse(url));
    if let (None, Some(index)) = (&configured, &own_index) {
        found.add(&index.url(), "the index of the installed pip", Whose::Person);
    }
    // Its index hands out addresses on a host of their own.
    let uses_own = configured.as_ref().or(own_index.as_ref()).map(|index| &index.host);
    if let (Some(files), Some(index)) = (own.get(1), &own_index)
        && uses_own == Some(&index.host)
    {
        found.add(&format!("https://{files}"), "the files of that index", Whose::Person);
    }
    let extra: Vec<_> = indexes.extra.iter().filter_map(|url| found.add(url, said, Whose::Person)).collect();
    if !extra.is_empty() {
        let urls: Vec<String> = extra.iter().map(super::Address::url).collect();
        found.variable("PIP_EXTRA_INDEX_URL", urls.join(" "), said);
        plain.extend(extra.into_iter().filter(|address| address.scheme == Scheme::Http));
    }
    if !plain.is_empty() {
        let hosts: Vec<String> = plain.into_iter().map(|address| address.host).collect();
        found.variable("PIP_TRUSTED_HOST", hosts.join(" "), "pip takes a plain http index from these alone");
    }
    found.variable(
        "PIP_DISABLE_PIP_VERSION_CHECK",
        "1".into(),
        "pip in a bottle is the host's: it is not updated there",
    );
    of_project(host, &mut found);
    Some(found)
}

/// `--index-url` of requirements files.
fn of_project(host: &Surroundings, found: &mut Configured) {
    for name in names_in(&host.workspace) {
        if !(name.starts_with("requirements") && name.ends_with(".txt")) {
            continue;
        }
        for line in read_repository(&host.workspace.join(&name)).unwrap_or_default().lines() {
            let flags = ["--index-url", "--extra-index-url", "-i"];
            let rest = flags.iter().find_map(|flag| line.trim().strip_prefix(flag));
            if let Some(url) = rest.and_then(|rest| rest.strip_prefix([' ', '='])) {
                found.add(url.trim(), &format!("the project's {name}"), Whose::Project);
            }
        }
    }
}

/// Lines of `KEY='VALUE'`; the environment stands over a command's own section, that over the global one.
fn parse(text: &str) -> Indexes {
    let mut ranked: Vec<(usize, String, String)> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim().trim_matches(['\'', '"']).to_owned();
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        let rank = match section {
            ":env:" => 0,
            "install" => 1,
            "global" => 2,
            _ => continue,
        };
        ranked.push((rank, name.to_owned(), value));
    }
    ranked.sort_by_key(|(rank, ..)| *rank);
    let first = |wanted: &str| ranked.iter().find(|(_, name, _)| name == wanted).map(|(.., value)| value.clone());
    // Several stand in one value, divided by space or by a newline that `pip config list` shows as `\n`.
    let extra = first("extra-index-url").unwrap_or_default().replace("\\n", " ");
    Indexes { index: first("index-url"), extra: extra.split_whitespace().map(str::to_owned).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_stands_over_a_section_and_that_over_the_global_one() {
        let text = "global.index-url='https://a.example/simple'\ninstall.index-url='https://b.example/simple'\n\
                    global.extra-index-url='\\nhttps://c.example/s\\nhttps://d.example/s'\nglobal.cert='/x'\n";
        let want = |index: &str| Indexes {
            index: Some(index.into()),
            extra: vec!["https://c.example/s".into(), "https://d.example/s".into()],
        };
        assert_eq!(parse(text), want("https://b.example/simple"));
        assert_eq!(parse(&format!("{text}:env:.index-url='https://e.example/'\n")), want("https://e.example/"));
        assert_eq!(parse("freeze.index-url='https://x.example'\n"), Indexes::default());
    }
}
