//! The starter of `carboy init chat` (G87): it is read, it is valid, and its tools answer.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use carboy_core::chat::{Confirm, ToolSource};
use carboy_manifest::chat::starter::{ChatStarter, Script, StarterModel, agent, env_example};
use carboy_manifest::chat::{Dotenv, Flags, Surroundings, resolve};
use carboy_manifest::{Manifest, check};
use serde_json::{Value, json};
use support::{files, places, request};

fn starter(script: Script, model: StarterModel) -> ChatStarter {
    ChatStarter { name: "shop".into(), title: "Ada's \"Lamps\"".into(), model, script }
}

fn claude() -> StarterModel {
    StarterModel::Named("claude-sonnet-4-5".into())
}

#[test]
fn the_starter_checks_green_for_every_model_and_language_g87() {
    // G87, G88
    let local = StarterModel::At { base_url: "http://127.0.0.1:11434/v1".into(), name: "qwen3".into() };
    for model in [claude(), StarterModel::Named("gpt-5".into()), local] {
        for script in [Script::Python, Script::Node] {
            let starter = starter(script, model.clone());
            let home = files(&[("agents/shop.md", &agent(&starter))]);
            let report = check(&home, &request(Some("shop"), &[]));
            assert!(report.ok && report.diagnostics.is_empty(), "{}", report.diagnostics);
            let loaded = Manifest::load(&home, &request(Some("shop"), &[])).unwrap();
            let file = loaded.chat.as_ref().unwrap();
            let flags = Flags::default();
            let env = env_example(&starter);
            let (dotenv, found) = Dotenv::parse(&file.dotenv(&places()), env.as_bytes(), &file.secrets());
            assert!(found.is_empty() && dotenv.secret_names().count() == 0, "{found}");
            let around = Surroundings { dotenv: Some(&dotenv), env: &|_| None, flags: &flags };
            let spec = resolve(file, &around).unwrap().spec;
            assert_eq!(spec.title, "Ada's \"Lamps\"");
            assert_eq!(spec.rules["start_return"].confirm, Confirm::Always);
            assert_eq!(spec.rules["start_return"].requires[0].tool, "lookup_order");
            assert!(spec.prompt.refusal.contains("orders and returns"));
            assert!(spec.prompt.system.contains(&spec.prompt.refusal), "the examples show the very refusal");
            assert_eq!(spec.prompt.system.matches("Customer:").count(), 4);
            assert!(!spec.prompt.system.contains("{{") && !spec.prompt.system.contains("import"));
        }
    }
}

/// Starts the script as it stands in the agent's file and asks it.
#[allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "the real interpreter runs the real script")]
fn asked(script: Script, questions: &[Value]) -> Vec<Value> {
    let home = files(&[("agents/shop.md", &agent(&starter(script, claude())))]);
    let loaded = Manifest::load(&home, &request(Some("shop"), &[])).unwrap();
    let flags = Flags::default();
    let around = Surroundings { dotenv: None, env: &|_| None, flags: &flags };
    let spec = resolve(loaded.chat.as_ref().unwrap(), &around).unwrap().spec;
    let [ToolSource::Script { path, interpreter, text, .. }] = spec.tools.as_slice() else { panic!("one script") };
    let file = std::env::temp_dir().join(format!("carboy-starter-{}-{}", std::process::id(), path.replace('/', "-")));
    std::fs::write(&file, text).unwrap();
    let mut child = Command::new(&interpreter[0])
        .arg(&file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}; install it (apt-get install python3 nodejs)", interpreter[0]));
    let mut lines = String::new();
    for question in questions {
        lines.push_str(&format!("{question}\n"));
    }
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn both_scripts_are_the_same_mcp_server_and_check_what_they_are_told_g87() {
    // G87, G12 (not found and not yours are the same), G16
    let call = |id: u32, name: &str, order: &str, email: &str| {
        let params = json!({"name": name, "arguments": {"order_id": order, "email": email}});
        json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params})
    };
    let questions = [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-06-18"}}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}),
        call(2, "lookup_order", "SH-1001", "Ada@example.com"),
        call(3, "lookup_order", "SH-1001", "sam@example.com"),
        call(4, "lookup_order", "SH-9999", "sam@example.com"),
        call(5, "lookup_order", "SH-1", "x"),
        call(6, "start_return", "SH-1001", "ada@example.com"),
        call(7, "start_return", "SH-1001", "ada@example.com"),
        call(8, "start_return", "SH-1002", "ada@example.com"),
        call(9, "constructor", "SH-1002", "ada@example.com"),
        call(10, "lookup_order", "SH-8888", ""),
        json!({"jsonrpc": "2.0", "id": 11, "method": "resources/list"}),
    ];
    let python = asked(Script::Python, &questions);
    assert_eq!(python, asked(Script::Node, &questions));
    assert_eq!(python.len(), 12, "{python:#?}");
    let names: Vec<&str> =
        python[1]["result"]["tools"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["lookup_order", "start_return"]);
    assert_eq!(python[2]["result"]["structuredContent"]["returnable"], true);
    assert_eq!(python[3]["result"], python[4]["result"]);
    let text = |i: usize| python[i]["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!((text(3).as_str(), text(8).as_str()), ("order_not_found", "not_returnable"));
    assert!(text(5).starts_with("invalid_arguments"));
    assert_eq!(python[6]["result"], python[7]["result"]);
    assert_eq!(python[6]["result"]["structuredContent"]["return_number"], "RMA-0001");
    assert_eq!((text(9).as_str(), &python[11]["error"]["code"]), ("there is no such tool", &json!(-32601)));
}
