//! The files under `examples/` and the tables of the reference hold what they promise.

mod support;

use carboy_core::host::Host;
use carboy_core::route::RequestFacts;
use carboy_manifest::{Manifest, check};
use support::{bottle, files, request};

const BOTTLE: &str = include_str!("../../../examples/bottles/work.md");
const AGENT: &str = include_str!("../../../examples/agents/fixer.md");
const REFERENCE: &str = include_str!("../../../docs/manifest.md");

#[test]
fn the_examples_load_without_a_finding() {
    // M1, M21
    let home = files(&[("bottles/work.md", BOTTLE), ("agents/fixer.md", AGENT)]);
    let loaded = Manifest::load(&home, &request(Some("fixer"), &[])).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
    assert_eq!(loaded.git_user.gitconfig().unwrap(), "[user]\n\tname = \"Fixer\"\n\temail = \"agent@example.org\"\n");
    assert!(loaded.prompt.starts_with("You mend one failing test") && loaded.secrets().len() == 1);
    let permit = loaded.routes.host_permit(&Host::parse("api.anthropic.com").unwrap(), 443).into_result().unwrap();
    let ask = |method, path| {
        let facts = RequestFacts { method, path, query: "", headers: &[] };
        loaded.routes.route(&permit, &facts).into_result().is_ok()
    };
    assert!(
        ask("POST", "/v1/messages") && ask("POST", "/v1/messages/count_tokens") && !ask("POST", "/api/event_logging")
    );
    assert!(check(&home, &request(Some("fixer"), &[])).ok);
}

#[test]
fn every_example_of_the_reference_is_accepted() {
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let (key, example) = (cells.first()?.trim_matches('`'), cells.get(4)?.trim_matches('`'));
        Some((key.to_owned(), example.to_owned()))
    };
    let section = |title: &str| {
        let from = REFERENCE.split(&format!("\n## {title}\n")).nth(1).expect("the section");
        let rows = from.split("\n## ").next().unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
        rows.filter_map(row).collect::<Vec<_>>()
    };
    let whole = |key: &str, example: &str| match example.starts_with(&format!("{key}:")) {
        true => example.to_owned(),
        false => format!("{key}: {example}"),
    };
    let bottles = section("Bottle");
    assert_eq!(bottles.len(), 22);
    for (key, example) in bottles {
        let text = format!("---\n{}\n---\n", whole(&key, &example));
        let home = files(&[("bottles/dev.md", &text), ("bottles/base.md", "---\n---\n")]);
        Manifest::load(&home, &request(None, &["dev"])).unwrap_or_else(|errors| panic!("{key}: {errors}"));
    }
    let routes = section("Route");
    assert_eq!(routes.len(), 13);
    for (key, example) in routes {
        let rest = match key.as_str() {
            "host" => "",
            "auth_scheme" => "host: a.example\ntoken_env: KEY\n",
            "token_env" => "host: a.example\nauth_scheme: token\n",
            "auth_header" => "host: a.example\nauth_scheme: Bearer\ntoken_env: KEY\n",
            _ => "host: a.example\n",
        };
        let yaml = support::route(&format!("{rest}{}", whole(&key, &example)));
        bottle(&yaml).unwrap_or_else(|errors| panic!("{key}: {errors}"));
    }
    let settings = section("settings.yml");
    assert_eq!(settings.len(), 17);
    for (key, example) in settings {
        let pem = ("/home/u/ca.pem", "-----BEGIN CERTIFICATE-----\n");
        let home = files(&[("settings.yml", &whole(&key, &example)), pem]);
        assert!(check(&home, &request(None, &[])).ok, "{key}");
    }
    for (key, example) in section("Agent") {
        let text = format!("---\n{}\n---\n", whole(&key, &example));
        let home = files(&[("agents/fix.md", &text), ("bottles/work.md", "---\n---\n")]);
        assert!(check(&home, &request(None, &[])).ok, "{key}");
    }
    let chat: Vec<_> = section("Chat agent").into_iter().take_while(|(key, _)| key != "--preset").collect();
    assert_eq!(chat.len(), 15);
    for (key, example) in chat {
        let model = if key == "model" { "" } else { "model: gpt-5\n" };
        let tools = if key == "tools" { "" } else { "tools: [{mcp: {command: [shop]}}]\n" };
        let prose = if key == "prompt" { "```text {chunk=\"refusal\"}\nNo.\n```\n" } else { "" };
        let text = format!("---\nkind: chat\n{model}{tools}{}\n---\n{prose}", whole(&key, &example));
        let report = check(&files(&[("agents/shop.md", &text)]), &request(None, &[]));
        assert!(report.ok, "{key}: {}", report.diagnostics);
    }
}
