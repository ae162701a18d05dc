//! A user's home in memory, for tests.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use carboy_manifest::{Code, Diagnostics, Effective, LoadError, Manifest, MapFiles, Places, Request, Trust, Trusted};

pub fn places() -> Places {
    Places { carboy_home: "/home/u/.carboy".into(), home: "/home/u".into(), cwd: "/repo".into() }
}

/// Files by their path below `/home/u/.carboy`, or absolute.
pub fn files(list: &[(&str, &str)]) -> MapFiles {
    list.iter().map(|(path, text)| (places().carboy_home.join(path), *text)).collect()
}

pub fn request(agent: Option<&str>, bottles: &[&str]) -> Request {
    let bottles = bottles.iter().map(|name| (*name).to_owned()).collect();
    Request { agent: agent.map(str::to_owned), bottles, places: places() }
}

/// Somebody who agrees to everything.
pub struct TrustAll;

impl Trust for TrustAll {
    fn of(&self, _: &Path, _: &str) -> Trusted {
        Trusted::Yes
    }
}

/// Loads what is asked for, a repository's agent included.
pub fn load_trusted(files: &MapFiles, request: &Request) -> Result<Effective, Diagnostics> {
    Manifest::load_trusting(files, request, &TrustAll).map_err(|error| match error {
        LoadError::Invalid(errors) => errors,
        LoadError::NeedsTrust(_) => panic!("everything is trusted"),
    })
}

/// Loads a bottle with this front matter.
pub fn bottle(yaml: &str) -> Result<Effective, Diagnostics> {
    let text = format!("---\n{yaml}\n---\nprose\n");
    Manifest::load(&files(&[("bottles/dev.md", &text)]), &request(None, &["dev"]))
}

/// The findings of a bottle with this front matter: `code line:column message`.
pub fn findings(yaml: &str) -> Vec<String> {
    let all = match bottle(yaml) {
        Ok(good) => good.warnings,
        Err(errors) => errors,
    };
    shown(&all)
}

pub fn shown(all: &Diagnostics) -> Vec<String> {
    let place = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
    all.iter().map(|d| format!("{} {}:{} {}", d.code.as_str(), place(d.line), place(d.column), d.message)).collect()
}

pub fn codes(all: &Diagnostics) -> Vec<Code> {
    all.iter().map(|d| d.code).collect()
}

/// A bottle with one route of these lines (each without indentation) and the given findings.
pub fn route(lines: &str) -> String {
    let mut yaml = String::from("egress:\n  routes:\n");
    for (i, line) in lines.lines().enumerate() {
        yaml.push_str(if i == 0 { "    - " } else { "      " });
        yaml.push_str(line);
        yaml.push('\n');
    }
    yaml
}
