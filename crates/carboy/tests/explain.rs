//! An agent as a page, by the built binary: everything that its file allows is on it, and nothing that a policy forbids.

// A test may stop at the first thing that is not as it should be.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

const BOTTLE: &str = "---\negress:\n  routes:\n    - host: api.example.org\n      token_env: EXAMPLE_TOKEN\n      auth_scheme: Bearer\n      matches:\n        - \
                      methods: [GET]\n          paths: [{type: prefix, value: /v1/}]\n    - host: \"*.files.example\"\nbudget: \
                      {anthropic: 2M}\n---\nFor trying.\n";
const AGENT: &str = "---\nbottle: work\n---\n# How it works\n\nIt reads the *list* and nothing else.\n\n```sh {chunk=\"list\" \
                     file=\"list.sh\"}\ncurl https://api.example.org/v1/list\n```\n";

fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("bottles/work.md", BOTTLE), ("agents/reader.md", AGENT)] {
        let path = dir.path().join("home").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn explain(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
    command.arg("explain").args(arguments).env_clear().current_dir(dir).env("HOME", dir);
    command.env("CARBOY_HOME", dir.join("home")).output().unwrap()
}

/// Exit code 0; standard output.
fn good(dir: &Path, arguments: &[&str]) -> String {
    let output = explain(dir, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Another exit code; what was said.
fn bad(dir: &Path, arguments: &[&str], code: i32) -> String {
    let output = explain(dir, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

/// The values of an attribute.
fn values<'a>(page: &'a str, attribute: &str) -> BTreeSet<&'a str> {
    page.split(&format!(" {attribute}=\"")).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn the_page_says_what_the_agent_may_reach_and_spend_and_shows_its_code() {
    // U5
    let dir = home();
    good(dir.path(), &["reader", "--html", "reader.html"]);
    let page = fs::read_to_string(dir.path().join("reader.html")).unwrap();
    for part in [
        "api.example.org",
        "*.files.example",
        "EXAMPLE_TOKEN in authorization",
        "work.md:4",
        "2M weighted tokens",
        "It reads the <em>list</em>",
        "list.sh",
        "~/.ssh",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // What it points to is there, and is here.
    let ids = values(&page, "id");
    for target in values(&page, "href").union(&values(&page, "src")) {
        match target.strip_prefix('#') {
            Some(anchor) => assert!(ids.contains(anchor), "{anchor}"),
            None => assert!(dir.path().join(target).is_file() && !target.contains('/'), "{target}"),
        }
    }
    assert!(!page.contains("<script") && !page.contains(" style="), "the strict policy holds");
}

#[test]
fn g87_the_page_of_the_starter_of_a_chat_agent_is_written_with_its_words_and_its_tools() {
    let dir = tempfile::tempdir().unwrap();
    let mut init = Command::new(env!("CARGO_BIN_EXE_carboy"));
    init.args(["init", "chat", "shop", "--yes"]).env_clear().current_dir(dir.path()).env("HOME", dir.path());
    let output = init.env("CARBOY_HOME", dir.path().join("home")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    good(dir.path(), &["shop", "--html", "shop.html"]);
    let page = fs::read_to_string(dir.path().join("shop.html")).unwrap();
    // The refusal is a chunk of the front matter's: no file is made of it.
    for part in ["start_return", "with anything else I cannot", "HANDLERS"] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn the_same_file_is_the_same_page_and_nothing_is_written_anew() {
    let dir = home();
    let written = |dir: &Path| {
        let names = ["reader.html", "reader.css", "reader-1.svg", "reader-1-dark.svg"];
        names.map(|name| (fs::read(dir.join(name)).unwrap(), fs::metadata(dir.join(name)).unwrap().ino()))
    };
    good(dir.path(), &["reader", "--html", "reader.html"]);
    let first = written(dir.path());
    good(dir.path(), &["reader", "--html", "reader.html"]);
    assert_eq!(written(dir.path()), first);
}

#[test]
fn what_stands_beside_the_page_and_is_not_its_own_is_left_alone() {
    let dir = home();
    fs::write(dir.path().join("style.css"), "mine").unwrap();
    let said = bad(dir.path(), &["reader", "--html", "style.html"], 77);
    assert!(said.contains("style.css stands beside the page"), "{said}");
    assert_eq!(fs::read_to_string(dir.path().join("style.css")).unwrap(), "mine");
    assert!(!dir.path().join("style.html").exists());
    assert!(bad(dir.path(), &["reader", "--html", "page"], 2).contains("name it NAME.html"));
}

#[test]
fn a_name_that_is_nobodys_and_a_file_with_errors_are_told() {
    let dir = home();
    let said = bad(dir.path(), &["writer"], 2);
    assert!(said.contains("no agent and no bottle is called `writer`") && said.contains("work, reader"), "{said}");
    assert!(good(dir.path(), &["work"]).contains("api.example.org port"));
    let json: serde_json::Value = serde_json::from_str(&good(dir.path(), &["reader", "--json"])).unwrap();
    assert_eq!(json["agent"], "reader");
    fs::write(dir.path().join("home/bottles/work.md"), "---\negress: {routs: []}\n---\n").unwrap();
    assert!(bad(dir.path(), &["reader"], 78).contains("work.md:2"));
}
