//! Documents that are generated from the code, compared with it. `UPDATE_DOCS=1 cargo test -p carboy --test docs`
//! writes them.

// Without `#[cfg(test)]` clippy does not see that the helpers here are of tests.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use carboy_core::verdict::Reason;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn compare(path: &str, text: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is out of date: UPDATE_DOCS=1 cargo test -p carboy --test docs", path.display());
}

#[test]
fn the_page_of_refusals_lists_every_reason() {
    // H7
    let mut page = String::from(
        "# Refusals\n\nEvery reason for which carboy refuses something. The code is stable: it stands in the answer to the agent \
         (`x-carboy-reason`, and in the body), in the log (`details.reason`) and in the summary of a run. Beside it stands an id, \
         `x-` and six characters: `carboy explain ID` says what was asked, which part of which route did not fit, how it would be decided \
         now, and what would allow it; `carboy allow ID` opens exactly that. [allowing.md](allowing.md) is about both.\n\nThe status is the \
         one that an ordinary client gets; a client of a model that would retry or hide the text gets 400 for a final refusal, and for a \
         spent budget what a provider's own would be: 402, over OpenAI's Responses 400 with `insufficient_quota` (see `carboy-wire`, \
         `denial::status`). A refused name is not answered by HTTP but by NXDOMAIN, with an extended error (RFC 8914) where the \
         query allows one.\n",
    );
    for reason in Reason::ALL {
        page.push_str(&format!(
            "\n## {}\n\n{}. Status {}, decided by {:?}{}.\n\n* The agent can: {}.\n* The operator can: {}.\n",
            reason.code(),
            first_capital(reason.what()),
            reason.http_status(),
            reason.layer(),
            if reason.is_failure() { "; a failure, and no refusal" } else { "" },
            reason.agent_step(),
            reason.operator_step()
        ));
    }
    compare("docs/refusals.md", &page);
}

/// A clause as a sentence's beginning.
fn first_capital(clause: &str) -> String {
    let mut chars = clause.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

#[test]
fn every_link_between_the_documents_resolves() {
    let root = root();
    let mut broken = Vec::new();
    for page in pages(&root) {
        let text = std::fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || file.is_empty();
            if !elsewhere && !page.parent().unwrap().join(file).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

fn pages(root: &Path) -> Vec<PathBuf> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        entries.filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
    };
    [below(root), below(&root.join("docs")), below(&root.join("docs/guides"))].concat()
}

#[test]
fn every_promise_has_a_number_of_its_own_and_names_a_test_that_exists() {
    let root = root();
    let text = std::fs::read_to_string(root.join("SPECIFICATION.md")).unwrap();
    let promises: Vec<&str> =
        text.lines().filter(|line| line.starts_with("| S") && !line.contains("| pending")).collect();
    assert!(promises.len() > 30);
    let mut numbers = std::collections::BTreeSet::new();
    for promise in promises {
        let number = promise.split(' ').nth(1).unwrap();
        assert!(numbers.insert(number), "{number} is there twice");
        let proof = promise.rsplit(" | ").next().unwrap().trim_end_matches(" |");
        let (file, test) = proof.split_once(": ").unwrap_or_else(|| panic!("no test in {promise}"));
        let source =
            std::fs::read_to_string(root.join(file.trim_matches('`'))).unwrap_or_else(|e| panic!("{file}: {e}"));
        assert!(source.contains(test.trim_matches(['`', '"'])), "{promise}");
    }
}

/// The source files below a directory, as one text.
fn sources(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => sources(&path),
            false => std::fs::read_to_string(path).unwrap_or_default(),
        })
        .collect()
}

/// Rows of the table under a heading, cells apart.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = page.split_once(&format!("\n## {heading}\n")).unwrap().1.split("\n## ").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    lines.skip(1).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn g86_the_page_of_compliance_names_actions_kinds_and_boxes_that_there_are() {
    // G86, G72b
    let root = root();
    let page = std::fs::read_to_string(root.join("docs/compliance.md")).unwrap();
    let written: String = ["carboy-agent", "carboy-control", "carboy-core", "carboy-egress"]
        .iter()
        .map(|name| sources(&root.join("crates").join(name).join("src")))
        .collect();
    let actions = rows(&page, "The log");
    assert!(actions.len() > 12, "{actions:?}");
    for row in actions {
        for action in row[0].split(',').map(|action| action.trim().trim_matches('`')) {
            assert!(written.contains(&format!("\"{action}\"")), "nothing writes {action}");
        }
        for kind in row[1].split(", ") {
            serde_json::from_value::<carboy_core::audit::EventType>(kind.into()).unwrap();
        }
    }
    // The mappings that were asked for, and the three errors in the words that the program has for them.
    let gdpr: Vec<_> = rows(&page, "GDPR").into_iter().map(|row| row[0]).collect();
    for asked in ["Access log", "Redaction of personal data", "Consent events", "Breach events"] {
        assert!(gdpr.iter().any(|row| row.contains(asked)), "{asked}");
    }
    let soc2: Vec<_> = rows(&page, "SOC 2").into_iter().map(|row| row[0]).collect();
    for asked in ["Access", "Audit", "Secrets", "Monitoring"] {
        assert!(soc2.iter().any(|row| row.contains(asked)), "{asked}");
    }
    let troubles = page.split("## Three errors that people report").nth(1).unwrap();
    let words = std::fs::read_to_string(root.join("crates/carboy/src/chat/words.rs")).unwrap();
    let turns = std::fs::read_to_string(root.join("crates/carboy-agent/src/outcome.rs")).unwrap();
    for (told, said) in [
        ("**`Security policy violation: …", "Security policy violation: {error}"),
        (
            "Input flagged as potentially malicious (confidence: 90%). Detected patterns: …`**",
            "Input flagged as potentially malicious",
        ),
        (
            "**`Rate limit exceeded: Rate limit exceeded. Max 100 requests per hour.`**",
            "Rate limit exceeded. Max {max} requests per {window}.",
        ),
        ("**`1 validation error for ToolInput`**", "1 validation error for ToolInput"),
    ] {
        assert!(troubles.contains(told), "the page has not {told}");
        assert!(words.contains(said) || turns.contains(said), "the program does not say {said}");
    }
    // Every variable, knob and command that it names in code is one.
    let knobs: Vec<&str> = carboy_manifest::chat::KNOBS.iter().map(|knob| knob.name).collect();
    for name in ["session_idle_s", "sessions_max", "filter_pii", "requests_per_ip_per_minute"] {
        assert!(knobs.contains(&name) && page.contains(&format!("`{name}`")), "{name}");
    }
    let looked = std::fs::read_to_string(root.join("crates/carboy/src/doctor/production.rs")).unwrap();
    let boxes = rows(&page, "Before customers come");
    assert!(boxes.len() > 10);
    for row in boxes {
        assert!(looked.contains(&format!("\"{}\"", row[0])), "doctor --production has no box {}", row[0]);
    }
}

#[test]
fn the_help_of_every_command_is_the_reference() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_carboy")).args(arguments).env("COLUMNS", "100").output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let mut page = String::from("# Commands\n\nThe help texts of the program itself.\n");
    let commands = [
        "",
        "tour",
        "init",
        "doctor",
        "run",
        "serve",
        "attach",
        "exec",
        "top",
        "ps",
        "logs",
        "explain",
        "wait",
        "approve",
        "allow",
        "stop",
        "resume",
        "audit",
        "audit verify",
        "audit tail",
        "audit query",
        "budget",
        "budget show",
        "budget set",
        "budget unset",
        "budget top-up",
        "controller",
        "controller run",
        "controller status",
        "controller stop",
        "controller install",
        "bottle",
        "bottle ls",
        "bottle show",
        "bottle diff",
        "bottle apply",
        "bottle undo",
        "bottle quarantine",
        "bottle du",
        "bottle rm",
        "check",
        "lit",
        "lit tangle",
        "lit verify",
        "lit sync",
        "lit weave",
        "lit map",
        "lit hook",
        "completions",
        "uninstall",
    ];
    for command in commands {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.push("--help");
        let text: Vec<String> = help(&arguments).lines().map(|line| line.trim_end().to_owned()).collect();
        page.push_str(
            &format!("\n## `carboy {command}`\n\n```text\n{}\n```\n", text.join("\n")).replace("carboy `", "carboy`"),
        );
    }
    compare("docs/commands.md", &page);
}
