//! A chat agent's tools in real bottles (G87): a Python script as an MCP server, as whoever runs this and, when that is
//! root, once more as the ordinary user `carboytest`.
//!
//! The program starts itself again as a bottle's init, hence the main of its own.

// Without libtest clippy does not see that these are tests.
#![allow(clippy::unwrap_used)]

#[path = "../support/shop.rs"]
mod shop;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_agent::guard_state::GuardState;
use carboy_agent::{Call, Effect, Output, Tool, ToolError};
use carboy_control::chat::{ChatHost, ChatRequest};
use carboy_control::registry::{self, Question, live_runs};
use carboy_control::summary::Ended;
use carboy_core::budget::Shutdown;
use carboy_core::chat::{BuiltInTool, ToolSource};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use shop::{KEY, KEY_NAME, Shop, asker, spec};

const ORDINARY_USER: &str = "carboytest";
const SECOND_RUN: &str = "CARBOY_CHAT_TOOLS_AGAIN";
const CASE: &str = "CARBOY_CHAT_TOOLS_CASE";
const SERVER: &str = include_str!("server.py");

static LEFT_OUT: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn main() {
    carboy_control::bottle::run_init_if_asked();
    let cases: [(&'static str, fn()); 7] = [
        ("g87_a_script_of_the_agents_file_is_a_tool_that_runs_in_a_bottle", script),
        ("g87_what_a_tool_tries_to_reach_is_captured_and_refused_and_it_holds_no_key", contained),
        ("g87_a_tool_neither_sees_nor_writes_the_directory_that_its_agent_was_started_in", apart_from_the_host),
        ("a_server_that_dies_is_started_once_more_and_then_its_tools_fail_closed", dying),
        ("answers_that_are_late_or_too_large_harm_nobody", misbehaving),
        ("answers_that_are_none_or_have_no_end_harm_nobody", noisy),
        ("u3_a_frozen_agents_tools_end_and_are_started_again_after_resume", frozen),
    ];
    if let Some(case) = std::env::var_os(CASE) {
        let (_, body) = cases.iter().find(|(name, _)| case == *name).expect("a case of this program");
        return body();
    }
    let arguments = Arguments::from_args();
    let stands = carboy_control::doctor::probe(&std::env::temp_dir()).tier.is_some();
    let mut trials: Vec<Trial> = Vec::new();
    for (name, _) in cases {
        if !stands {
            leave_out(format!("{name}: no bottle can be made on this host; `carboy doctor` says why"));
        } else if !Path::new("/usr/bin/python3").exists() {
            leave_out(format!("{name}: `python3` is not on this machine; `apt-get install python3`"));
        }
        let runs = stands && Path::new("/usr/bin/python3").exists();
        trials.push(Trial::test(name, move || apart(name)).with_ignored_flag(!runs));
    }
    trials.extend(as_ordinary_user(stands));
    let conclusion = libtest_mimic::run(&arguments, trials);
    tell_left_out();
    conclusion.exit();
}

/// A case in a process of its own: one that has started an agent holds its secrets, and makes no bottle any more.
fn apart(case: &str) -> Result<(), Failed> {
    let output = Command::new(std::env::current_exe()?).env(CASE, case).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

fn as_ordinary_user(stands: bool) -> Option<Trial> {
    if !rustix::process::geteuid().is_root() || std::env::var_os(SECOND_RUN).is_some() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let exists = passwd.lines().any(|line| line.starts_with(&format!("{ORDINARY_USER}:")));
    let name = "the same holds for an ordinary user";
    if !exists {
        leave_out(format!("{name}: user `{ORDINARY_USER}` does not exist; `useradd -m {ORDINARY_USER}`"));
    }
    let again = Trial::test(name, || {
        // The build directory may be closed to others.
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("chat-tools");
        // By another process: a bottle cloned meanwhile would hold the copy open for writing.
        Command::new("cp").arg(std::env::current_exe()?).arg(&copy).status()?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open)?;
        let output = Command::new("runuser")
            .args(["-u", ORDINARY_USER, "--"])
            .arg(&copy)
            .env(SECOND_RUN, "1")
            .env_remove("TMPDIR")
            .env_remove("XDG_RUNTIME_DIR")
            .current_dir("/")
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprintln!("{text}");
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    });
    Some(again.with_ignored_flag(!exists || !stands))
}

fn leave_out(line: String) {
    LEFT_OUT.lock().unwrap().push(line);
}

/// For the last word of `cargo test` (`xtask/tests/skipped.rs`).
fn tell_left_out() {
    let lines = LEFT_OUT.lock().unwrap();
    lines.iter().for_each(|line| println!("skipped: {line}"));
    if std::env::var_os(SECOND_RUN).is_none() {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("carboy-chat-tools.txt"), lines.join("\n")).unwrap();
    }
}

fn run<F: Future<Output = ()>>(body: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(100), body()).await.expect("it takes too long");
    });
}

fn request(shop: &Shop) -> ChatRequest {
    let script = ToolSource::Script {
        name: "desk".into(),
        path: "desk/server.py".into(),
        interpreter: vec!["python3".into()],
        text: SERVER.into(),
    };
    let mut spec = spec();
    spec.tools = vec![ToolSource::BuiltIn(BuiltInTool::Calculator), script];
    spec.limits.tool_wait_ms = 3_000;
    spec.limits.tool_result_bytes_max = 64 * 1024;
    ChatRequest { spec, ..shop.request(&[(KEY_NAME, KEY), ("SESSION_SECRET", &"5".repeat(40))]) }
}

async fn start(shop: &Shop) -> ChatHost {
    ChatHost::start(request(shop)).await.unwrap_or_else(|error| panic!("{error}"))
}

fn named(host: &ChatHost, name: &str) -> Arc<dyn Tool> {
    let names: Vec<&str> = host.tools().iter().map(|tool| tool.spec().schema.name.as_str()).collect();
    host.tools().iter().find(|tool| tool.spec().schema.name == name).unwrap_or_else(|| panic!("{names:?}")).clone()
}

async fn call(host: &ChatHost, name: &str, arguments: Value) -> Result<Output, ToolError> {
    let tool = named(host, name);
    let arguments = tool.check(&arguments).unwrap();
    let (principal, mut guard) = (asker().principal, GuardState::default());
    let (principal, guard) = (&principal, &mut guard);
    tool.call(Call { arguments: &arguments, principal, guard, now_ms: 0, idempotency_key: "once" }).await
}

async fn behave(host: &ChatHost, how: &str, to: &str) -> Result<Value, String> {
    match call(host, "behave", json!({"how": how, "to": to})).await {
        Ok(output) => Ok(output.value),
        Err(ToolError::Failed { particulars }) => Err(particulars),
        Err(ToolError::Refused { code, message }) => Err(format!("{code}: {message}")),
    }
}

async fn end(host: ChatHost) {
    host.end(Ended::Code(0)).await.unwrap();
}

fn script() {
    run(|| async {
        let shop = Shop::open("").await;
        let host = start(&shop).await;
        let names: Vec<&str> = host.tools().iter().map(|tool| tool.spec().schema.name.as_str()).collect();
        assert_eq!(names, ["calculator", "look_up", "desk_calculator", "behave"]);
        let effects: Vec<Effect> = host.tools().iter().map(|tool| tool.spec().effect).collect();
        assert_eq!(effects, [Effect::Read, Effect::Read, Effect::Write, Effect::Write]);
        let found = call(&host, "look_up", json!({"order": "BK-1001"})).await.unwrap();
        assert_eq!(found.value, json!({"order": "BK-1001", "state": "sent"}));
        let other = call(&host, "desk_calculator", json!({})).await.unwrap();
        assert_eq!(other.value, json!({"text": "the other calculator"}));
        // The log says which text it is that runs.
        let log = std::fs::read_to_string(shop.home().audit_log()).unwrap();
        let sha256 = carboy_core::audit::hex(&carboy_core::audit::sha256(SERVER.as_bytes()));
        assert!(log.contains(&format!("\"scripts\":[\"desk/server.py {sha256}\"]")), "{log}");
        // Checked before it leaves this process.
        for wrong in [json!({"order": "BK-1"}), json!({}), json!({"order": "BK-1001", "x": 1}), json!("BK-1001")] {
            assert!(named(&host, "look_up").check(&wrong).is_err(), "{wrong}");
        }
        // Who asks is the runtime's to say.
        let meta = behave(&host, "meta", "").await.unwrap();
        assert_eq!(meta.pointer("/meta/carboy~1user"), Some(&json!("person")));
        assert_eq!(meta.pointer("/meta/carboy~1idempotency_key"), Some(&json!("once")));
        // What it asks of its client is declined.
        let declined = behave(&host, "ask", "").await.unwrap();
        assert_eq!(
            (declined.pointer("/id"), declined.pointer("/error/code")),
            (Some(&json!("mine")), Some(&json!(-32601)))
        );
        assert_eq!(behave(&host, "error", "").await, Err("tool_error: order_not_found".into()));
        let around = behave(&host, "look", "").await.unwrap();
        assert_eq!((&around["uid"], &around["writable"]), (&json!(1000), &json!(false)), "{around}");

        // The agent and its tools' bottle are two runs of one agent's bottle.
        let home = shop.home();
        let living = tokio::task::spawn_blocking(move || live_runs(&home).unwrap()).await.unwrap();
        let commands: Vec<&str> = living.iter().map(|one| one.record.command[0].as_str()).collect();
        assert_eq!(commands.len(), 2, "{commands:?}");
        assert!(commands.contains(&"serve") && commands.contains(&"sh"), "{commands:?}");
        end(host).await;
        let home = shop.home();
        let living = tokio::task::spawn_blocking(move || live_runs(&home).unwrap()).await.unwrap();
        assert!(living.is_empty(), "{living:?}");
    });
}

fn contained() {
    run(|| async {
        let shop = Shop::open("").await;
        let host = start(&shop).await;
        let by_name = behave(&host, "fetch", "https://elsewhere.example/steal").await.unwrap();
        assert!(by_name["answer"].as_str().unwrap().starts_with("refused: "), "{by_name}");
        // A documentation address (RFC 5737): captured, and nobody is there.
        let by_address = behave(&host, "connect", "192.0.2.7:80").await.unwrap();
        assert!(by_address["answer"].as_str().unwrap().contains("403"), "{by_address}");
        let model = behave(&host, "fetch", "http://api.anthropic.com/not-a-path").await.unwrap();
        let around = behave(&host, "look", "").await.unwrap();
        let values = around["values"].as_str().unwrap();
        assert!(!values.contains(KEY) && !values.contains(&"5".repeat(40)), "{model} {around}");
        let run = host.record().run.clone();
        end(host).await;
        let log = shop.log();
        let refused: Vec<_> = log.iter().filter_map(|entry| entry.detail("reason").and_then(Value::as_str)).collect();
        assert!(refused.contains(&"name_not_allowed") && refused.contains(&"address_not_allowed"), "{refused:?}");
        let of_tool = log.iter().find(|entry| entry.detail("reason").is_some()).unwrap();
        assert!(of_tool.text("run").is_some_and(|tool| tool != run), "it is the tool's run that is refused");
        assert!(!std::fs::read_to_string(shop.home().audit_log()).unwrap().contains(KEY));
    });
}

fn apart_from_the_host() {
    run(|| async {
        let shop = Shop::open("").await;
        shop.write("user/.env", "SECRET=of the shop");
        // A whole home is never shown to a bottle; nothing of it is, so the agent starts there.
        let (home, state) = (shop.path("user"), shop.home().states().join("shop/home"));
        let request = ChatRequest { workdir: home.clone(), ..request(&shop) };
        let host = ChatHost::start(request).await.unwrap_or_else(|error| panic!("{error}"));
        let seen = behave(&host, "files", home.to_str().unwrap()).await.unwrap();
        let gone = |what: &str| seen[what].as_str().is_some_and(|said| said.starts_with("refused: FileNotFoundError"));
        assert!(gone("read") && gone("write") && gone("list"), "{seen}");
        assert_eq!(seen["cwd"], json!("/home/agent"));
        assert!(!home.join("planted").exists());
        // What it leaves is in the bottle's home, which is its owner's alone, and there the next time.
        assert!(state.join("kept").exists());
        let again = behave(&host, "files", home.to_str().unwrap()).await.unwrap();
        assert!(again["here"].as_array().unwrap().contains(&json!("kept")), "{again}");
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&state).unwrap());
        assert_eq!(mode & 0o777, 0o700);
        end(host).await;
        // Not even traces of a look at it.
        let left: Vec<_> = std::fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".env"]);
    });
}

fn dying() {
    run(|| async {
        let shop = Shop::open("").await;
        let host = start(&shop).await;
        let died = behave(&host, "die", "").await.unwrap_err();
        assert!(died.contains("it ended, and said last: a last word") && !died.contains('\x1b'), "{died:?}");
        assert_eq!(behave(&host, "anything", "").await, Ok(json!({"text": "did anything"})), "started once more");
        behave(&host, "die", "").await.unwrap_err();
        for _ in 0..2 {
            let gone = behave(&host, "anything", "").await.unwrap_err();
            assert!(gone.contains("it ended again after it was restarted"), "{gone}");
        }
        // The others are what they were.
        let sum = call(&host, "calculator", json!({"expression": "15 * 23"})).await.unwrap();
        assert_eq!(sum.value, json!({"result": "15 * 23 = 345"}));
        end(host).await;
    });
}

fn misbehaving() {
    run(|| async {
        let shop = Shop::open("").await;
        let host = start(&shop).await;
        let big = behave(&host, "big", "").await.unwrap_err();
        assert!(big.contains("the limit is 65536"), "{big}");
        let late = behave(&host, "sleep", "").await.unwrap_err();
        assert_eq!(late, "no answer to tools/call within 3 s");
        // It still sleeps, and reads nothing: whoever asks is not kept.
        assert!(behave(&host, "anything", "").await.is_err());
        end(host).await;
    });
}

fn noisy() {
    run(|| async {
        let shop = Shop::open("").await;
        let host = start(&shop).await;
        let noise = behave(&host, "noise", "").await.unwrap_err();
        assert!(noise.contains("logs belong to stderr"), "{noise}");
        let endless = behave(&host, "endless", "").await.unwrap_err();
        assert!(endless.contains("more than 1048576 octets"), "{endless}");
        end(host).await;
    });
}

fn frozen() {
    run(|| async {
        let shop = Shop::open("").await;
        let host = start(&shop).await;
        let put = async |question: Question| {
            let record = host.record().clone();
            let asked =
                tokio::task::spawn_blocking(move || registry::open(&record, &question).map(|(answer, _)| answer));
            asked.await.unwrap().unwrap().state
        };
        for _ in 0..2 {
            // More than once, because an operator's word is no fault of the server's.
            assert_eq!(put(Question::Enforce { how: Shutdown::Freeze }).await, "frozen");
            let mut refused = String::new();
            while !refused.contains("carboy resume") {
                refused = behave(&host, "anything", "").await.err().unwrap_or_default();
                tokio::task::yield_now().await;
            }
            assert_eq!(put(Question::Resume).await, "running");
            assert_eq!(behave(&host, "anything", "").await, Ok(json!({"text": "did anything"})));
        }
        // Paused, it stands still where it is, and goes on there.
        assert_eq!(put(Question::Enforce { how: Shutdown::Pause }).await, "paused");
        assert!(behave(&host, "anything", "").await.unwrap_err().contains("no answer"));
        assert_eq!(put(Question::Resume).await, "running");
        assert_eq!(behave(&host, "anything", "").await, Ok(json!({"text": "did anything"})));
        end(host).await;
    });
}
