//! A chat agent on the plane: its calls are held, metered, written down and cut like a bottle's (U1, U2), it stands among
//! the runs, and `stop` and `resume` act on it (U3).
#![allow(clippy::unwrap_used)]

#[path = "support/shop.rs"]
mod shop;
#[path = "chat/webhooks.rs"]
mod webhooks;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use carboy_agent::{HandOff, Reply, TurnError};
use carboy_control::chat::{ChatError, ChatHost, ChatRequest, Conversations, Deployment, Ending, ModelMode};
use carboy_control::clock::SystemClock;
use carboy_control::controller;
use carboy_control::home::Home;
use carboy_control::registry::{self, Answer, Question, live_runs};
use carboy_control::summary::{Ended, Summary};
use carboy_control::supervisor::Keeping;
use carboy_core::audit::{ChainKey, Entry};
use carboy_core::budget::Shutdown;
use carboy_core::ids::SecretName;
use carboy_core::verdict::Reason;
use carboy_store::ledger::{Engine as Ledger, MemoryStore};
use shop::{KEY, KEY_NAME, Shop, WAIT_MAX, asker};
use tokio::sync::watch;

async fn ask(host: &ChatHost, text: &str) -> Result<Reply, TurnError> {
    let asker = asker();
    tokio::time::timeout(WAIT_MAX, host.engine().turn(&asker, text, &|_| {})).await.expect("it takes too long")
}

/// The question put to the run's socket, as the command line does.
async fn put(host: &ChatHost, question: Question) -> Result<Answer, String> {
    let record = host.record().clone();
    let asked = tokio::task::spawn_blocking(move || registry::open(&record, &question).map(|(answer, _)| answer));
    asked.await.unwrap().map_err(|error| error.to_string())
}

async fn end(host: ChatHost) -> Summary {
    tokio::time::timeout(WAIT_MAX, host.end(Ended::Code(0))).await.expect("it does not end").unwrap()
}

fn refusal(started: Result<ChatHost, ChatError>) -> String {
    started.err().expect("it started").to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u1_u3_a_chat_agents_turn_is_held_metered_and_written_down_under_its_own_name_and_it_stands_among_the_runs() {
    let shop = Shop::open("").await;
    let host = ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap();
    assert!(!host.is_offline());
    let reply = ask(&host, "When are you open?").await.unwrap();
    assert!(reply.text.contains("nine to five"), "{reply:?}");

    let home = shop.home();
    let living = tokio::task::spawn_blocking(move || live_runs(&home).unwrap()).await.unwrap();
    let seen: Vec<_> = living.iter().map(|a| (a.record.agent.as_deref(), a.state.as_str(), a.requests)).collect();
    assert_eq!(seen, [(Some("shop"), "running", 1)]);
    assert_eq!(living[0].record.command, ["serve", "shop"]);

    let run = host.record().run.clone();
    let summary = end(host).await;
    assert_eq!((summary.requests, summary.ended, summary.run.as_str()), (1, Ended::Code(0), run.as_str()));
    assert_eq!(shop.provider.received().len(), 1);
    let log = shop.log();
    let with =
        |action: &str| -> Vec<&Entry> { log.iter().filter(|entry| entry.text("action") == Some(action)).collect() };
    for action in ["start", "request", "answer", "end"] {
        let entries = with(action);
        assert!(!entries.is_empty(), "{action}");
        for entry in entries {
            assert_eq!((entry.text("agent"), entry.text("run")), (Some("shop"), Some(run.as_str())), "{action}");
        }
    }
    let answer = with("answer")[0];
    assert_eq!(answer.detail("meter").and_then(|v| v.as_str()), Some("anthropic"));
    assert!(answer.detail("tokens_output").and_then(|v| v.as_u64()).unwrap() > 0);
    let text = fs::read_to_string(shop.home().audit_log()).unwrap();
    assert!(!text.contains(KEY) && !text.contains("nine to five") && !text.contains("When are you open"));
    // Nobody answers any more, and what was is kept.
    let home = shop.home();
    assert!(tokio::task::spawn_blocking(move || live_runs(&home).unwrap()).await.unwrap().is_empty());
    assert_eq!(carboy_control::runs::past(&shop.home())[0].summary.as_ref().unwrap(), &summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u2_a_spent_budget_hands_people_off_politely_and_no_question_leaves() {
    let shop = Shop::open("budget: {claude: 1}\n").await;
    let host = ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap();
    let reply = ask(&host, "When are you open?").await.unwrap();
    assert_eq!(reply.handed_off, Some(HandOff::Refused(Reason::BudgetExhausted)));
    assert_eq!(reply.text, "A colleague will get back to you.");
    assert_eq!(shop.provider.requests(), 0);
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u2_u3_stop_cuts_an_answer_in_the_middle_every_way_hands_off_and_resume_lets_it_go_on() {
    let shop = Shop::open("").await;
    let host = Arc::new(ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap());
    for (how, state) in [(Shutdown::Cutoff, "cut off"), (Shutdown::Pause, "paused"), (Shutdown::Freeze, "frozen")] {
        let before = shop.provider.requests();
        let slow = host.clone();
        let turn = tokio::spawn(async move { ask(&slow, "Tell me slowly.").await });
        while shop.provider.requests() == before {
            tokio::task::yield_now().await;
        }
        let answer = put(&host, Question::Enforce { how }).await.unwrap();
        assert_eq!(answer.state, state);
        let reply = turn.await.unwrap().unwrap();
        assert_eq!(reply.handed_off, Some(HandOff::Refused(Reason::CutOff)), "{state}");
        let reply = ask(&host, "Anybody there?").await.unwrap();
        assert_eq!(reply.text, "A colleague will get back to you.", "{state}");
        assert_eq!(shop.provider.requests(), before + 1, "{state}");
        let answer = put(&host, Question::Resume).await.unwrap();
        assert_eq!((answer.state.as_str(), answer.why), ("running", None));
        assert!(ask(&host, "And now?").await.unwrap().handed_off.is_none(), "{state}");
    }
    assert!(put(&host, Question::Resume).await.unwrap_err().contains("nothing to resume"));
    let mut ending = host.ending();
    put(&host, Question::Enforce { how: Shutdown::Kill }).await.unwrap();
    assert_eq!(*ending.wait_for(Option::is_some).await.unwrap(), Some(Ending::Killed));
    let summary = end(Arc::into_inner(host).unwrap()).await;
    assert_eq!(summary.enforced.len(), 7);
    let actions: Vec<String> = shop.log().iter().filter_map(|entry| entry.text("action").map(str::to_owned)).collect();
    let of = |action: &str| actions.iter().filter(|known| *known == action).count();
    assert_eq!((of("cutoff"), of("pause"), of("freeze"), of("kill"), of("resume")), (1, 1, 1, 1, 3), "{actions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u3_stop_without_more_asks_it_to_end_and_whoever_waits_hears_of_the_end() {
    let shop = Shop::open("").await;
    let host = ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap();
    let record = host.record().clone();
    let waiting = tokio::task::spawn_blocking(move || {
        let (_, mut stream) = registry::open(&record, &Question::Wait).unwrap();
        let mut heard = Vec::new();
        std::io::Read::read_to_end(&mut stream, &mut heard).unwrap();
        String::from_utf8_lossy(&heard).into_owned()
    });
    let mut ending = host.ending();
    assert_eq!(put(&host, Question::Stop).await.unwrap().state, "stopping");
    assert_eq!(*ending.wait_for(Option::is_some).await.unwrap(), Some(Ending::Asked));
    assert!(put(&host, Question::Watch).await.unwrap_err().contains("no program's terminal"));
    let run = end(host).await.run;
    assert!(waiting.await.unwrap().contains(&run));
}

/// A tool that breaks, and says why in words of its own.
struct Breaks;

#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Nothing {}

impl carboy_agent::Handler for Breaks {
    type Args = Nothing;
    const NAME: &'static str = "look";
    const DESCRIPTION: &'static str = "Looks.";
    const EFFECT: carboy_agent::Effect = carboy_agent::Effect::Read;

    fn check(&self, args: Nothing) -> Result<Nothing, carboy_agent::InvalidArguments> {
        Ok(args)
    }

    fn call<'a>(
        &'a self,
        _: carboy_agent::Call<'a>,
        _: Nothing,
    ) -> carboy_core::ports::Later<'a, Result<carboy_agent::Output, carboy_agent::ToolError>> {
        let particulars = format!("the shelf said 500 to the key {KEY}");
        Box::pin(std::future::ready(Err(carboy_agent::ToolError::Failed { particulars })))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g83_g66_why_a_tool_failed_is_a_line_for_the_operator_with_session_and_turn_and_without_a_secret() {
    let shop = Shop::scripted("look", carboy_sim::Reply::tool("look", serde_json::json!({}))).await;
    let heard = Arc::new(std::sync::Mutex::new(Vec::<String>::new()));
    let lines = heard.clone();
    let mut request = shop.request(&[(KEY_NAME, KEY)]);
    request.spec.tools = vec![carboy_core::chat::ToolSource::Application];
    request.application = vec![carboy_agent::handler::tool(Breaks)];
    request.lines = Arc::new(move |line: &str| lines.lock().unwrap().push(line.to_owned()));
    let host = ChatHost::start(request).await.unwrap();
    ask(&host, "look").await.unwrap();
    end(host).await;
    let heard = heard.lock().unwrap().clone();
    let [line] = &heard[..] else { panic!("{heard:?}") };
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["event"], &line["tool"], &line["turn"]), (&"tool_failed".into(), &"look".into(), &1.into()));
    let particulars = line["particulars"].as_str().unwrap();
    assert!(particulars.starts_with("the shelf said 500") && !particulars.contains(KEY), "{particulars}");
    let log = shop.log();
    // One conversation is followed through the log: its turn, its tool, its calls of the model (U3).
    for action in ["turn_started", "tool_error", "request", "answer", "turn_ended"] {
        let entry = log.iter().find(|entry| entry.text("action") == Some(action)).expect(action);
        assert_eq!(entry.detail("session"), Some(&line["session"]), "{action}");
        assert_eq!(entry.detail("turn").and_then(|turn| turn.as_u64()), Some(1), "{action}");
    }
}

/// A controller of the home, in this process.
async fn controller(home: &Home) -> (watch::Sender<bool>, tokio::task::JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    let key = Box::new(|| Ok(ChainKey::Plain));
    let running =
        controller::Running { home: home.clone(), key, idle: None, metrics: None, aloud: false, stop: stopped };
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let engine = Ledger::open(Box::new(MemoryStore::default()), Arc::new(SystemClock)).unwrap();
    let run = controller::run(running, move |_| Ok(engine), move || ready.send(()).unwrap());
    let served = tokio::spawn(async move { run.await.unwrap() });
    is_ready.await.unwrap();
    (stop, served)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u2_u3_its_spending_is_the_controllers_which_shows_it_cuts_it_off_at_a_cap_and_lets_it_go_on() {
    let shop = Shop::open("budget: {claude: 6000}\nshutdown: cutoff\n").await;
    let home = shop.home();
    let (stop, served) = controller(&home).await;
    let request = ChatRequest { keeping: Keeping::Controller, ..shop.request(&[(KEY_NAME, KEY)]) };
    let host = ChatHost::start(request).await.unwrap();
    assert!(ask(&host, "When are you open?").await.unwrap().handed_off.is_none());
    let run = host.record().run.clone();
    let snapshot = carboy_control::snapshot::once(&home).await;
    let shown = format!("{snapshot:?}");
    assert!(shown.contains(&run) && shown.contains("anthropic"), "{shown}");
    // Until the cap is reached; then it is cut off, by the budget.
    let mut cut = None;
    for _ in 0..20 {
        if let Some(handed_off) = ask(&host, "Tell me slowly.").await.unwrap().handed_off {
            cut = Some(handed_off);
            break;
        }
    }
    assert_eq!(cut, Some(HandOff::Refused(Reason::BudgetExhausted)));
    let summary = end(host).await;
    assert!(summary.tokens.iter().any(|spent| format!("{spent:?}").contains("anthropic")), "{summary:?}");
    stop.send_replace(true);
    served.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g41b_without_a_key_the_error_names_the_variable_and_the_flag_and_the_flag_works() {
    let shop = Shop::open("").await;
    let refused = refusal(ChatHost::start(shop.request(&[])).await);
    assert!(refused.contains(KEY_NAME) && refused.contains("--model offline"), "{refused}");

    let offline = ChatRequest { model: ModelMode::Offline, ..shop.request(&[]) };
    let host = ChatHost::start(offline).await.unwrap();
    assert!(host.is_offline());
    let reply = ask(&host, "When are you open?").await.unwrap();
    assert!(!reply.text.is_empty() && reply.handed_off.is_none(), "{reply:?}");
    assert_eq!(shop.provider.requests(), 0, "the provider is not asked");
    // It is held and metered like any other.
    end(host).await;
    let log = shop.log();
    let answer = log.iter().find(|entry| entry.text("action") == Some("answer")).unwrap();
    assert!(answer.detail("tokens_output").and_then(|v| v.as_u64()).unwrap() > 0);
    let start = log.iter().find(|entry| entry.text("action") == Some("start")).unwrap();
    assert_eq!(start.detail("offline").and_then(|v| v.as_bool()), Some(true));

    // A real key that is there is not read for it, let alone sent.
    let spent = ChatRequest { model: ModelMode::Offline, ..shop.request(&[(KEY_NAME, KEY)]) };
    let host = ChatHost::start(spent).await.unwrap();
    assert_ne!(host.secret(&SecretName::parse(KEY_NAME).unwrap()).unwrap().expose(), KEY);
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g41b_a_missing_session_secret_is_made_in_development_and_an_error_in_production() {
    let shop = Shop::open("").await;
    let production = || Deployment::Production;
    let request = ChatRequest { deployment: production(), ..shop.request(&[(KEY_NAME, KEY)]) };
    let refused = refusal(ChatHost::start(request).await);
    assert!(refused.contains("SESSION_SECRET") && refused.contains("--preset dev"), "{refused}");
    assert!(!shop.path("home/session-secret").exists());

    let host = ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap();
    let made = host.session_secret().expose().to_owned();
    let file = shop.path("home/session-secret");
    assert_eq!(fs::read_to_string(&file).unwrap(), made);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    end(host).await;
    let host = ChatHost::start(shop.request(&[(KEY_NAME, KEY)])).await.unwrap();
    assert_eq!(host.session_secret().expose(), &made, "the same after a restart");
    end(host).await;

    let chosen = "0123456789abcdef0123456789abcdef-chosen";
    let variables = [(KEY_NAME, KEY), ("SESSION_SECRET", chosen)];
    let request = ChatRequest { deployment: production(), ..shop.request(&variables) };
    let host = ChatHost::start(request).await.unwrap();
    assert_eq!(host.session_secret().expose(), chosen);
    end(host).await;
    let short = shop.request(&[(KEY_NAME, KEY), ("SESSION_SECRET", "short-secret")]);
    let refused = refusal(ChatHost::start(short).await);
    assert!(refused.contains("12 characters"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g31_conversations_on_disk_outlive_the_process_and_their_ids_are_in_no_file() {
    let shop = Shop::open("").await;
    let request = || ChatRequest { conversations: Conversations::OnDisk, ..shop.request(&[(KEY_NAME, KEY)]) };
    let who = asker();
    let host = ChatHost::start(request()).await.unwrap();
    host.engine().turn(&who, "When are you open?", &|_| {}).await.unwrap();
    end(host).await;
    let host = ChatHost::start(request()).await.unwrap();
    let lines = host.engine().transcript(&who).await.unwrap();
    assert!(lines.iter().any(|line| line.text.contains("nine to five")), "{lines:?}");
    host.engine().forget(&who).await.unwrap();
    end(host).await;
    let cookie = who.session.to_cookie();
    let mut files = Vec::new();
    files_below(&shop.path("home"), &mut files);
    assert!(files.iter().any(|file| file.ends_with("state/shop/chat/shop/sessions.db")), "{files:?}");
    for file in files.iter().filter(|file| file.is_file()) {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(cookie.len()).any(|at| at == cookie.as_bytes()), "{}", file.display());
    }
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files_below(&entry.path(), found),
            false => found.push(entry.path()),
        }
    }
}

/// An MCP server over HTTP: what it was asked, with the session that it was asked in.
fn http_server() -> (std::net::SocketAddr, Arc<std::sync::Mutex<Vec<String>>>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::<std::sync::Mutex<Vec<String>>>::default());
    let seen = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, seen) = (stream.unwrap(), seen.clone());
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut writer = stream;
                loop {
                    let (mut length, mut session) = (0, String::new());
                    loop {
                        let mut line = String::new();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                        let (name, value) = line.split_once(':').unwrap_or(("", ""));
                        match &*name.to_ascii_lowercase() {
                            "content-length" => length = value.trim().parse().unwrap(),
                            "mcp-session-id" => session = value.trim().to_owned(),
                            _ => {}
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    reader.read_exact(&mut body).unwrap();
                    let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let method = message["method"].as_str().unwrap().to_owned();
                    seen.lock().unwrap().push(format!("{method} {session}"));
                    let tool = serde_json::json!({"name": "weather", "annotations": {"readOnlyHint": true},
                        "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}});
                    let result = match &*method {
                        "initialize" => {
                            serde_json::json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}})
                        }
                        "tools/list" => serde_json::json!({ "tools": [tool] }),
                        _ => serde_json::json!({"structuredContent": {"sky": "clear"}, "content": []}),
                    };
                    let answer =
                        serde_json::json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
                    let (head, body) = match &*method {
                        "notifications/initialized" => ("202 Accepted\r\n", String::new()),
                        "tools/list" => (
                            "200 OK\r\ncontent-type: text/event-stream\r\n",
                            format!("event: message\ndata: {answer}\n\n"),
                        ),
                        _ => ("200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s-1\r\n", answer),
                    };
                    write!(writer, "HTTP/1.1 {head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
                }
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn u1_tools_over_http_are_asked_through_the_gateway_and_without_a_route_not_at_all() {
    use carboy_core::chat::ToolSource;
    let (address, asked) = http_server();
    let shop = Shop::open("").await;
    let settings = fs::read_to_string(shop.path("home/settings.yml")).unwrap();
    shop.write("home/settings.yml", &format!("{settings}  tools.example: {{address: \"{address}\", tls: false}}\n"));
    let with_tools = || {
        let mut request = shop.request(&[(KEY_NAME, KEY)]);
        let host = carboy_core::host::Host::parse("tools.example").unwrap();
        request.spec.tools = vec![ToolSource::Http { name: "sky".into(), host, port: 443, path: "/mcp".into() }];
        request
    };
    let refused = refusal(ChatHost::start(with_tools()).await);
    assert!(refused.contains("the tools of `sky` are not there: the gateway refused"), "{refused}");
    assert!(asked.lock().unwrap().is_empty());

    let bottle = fs::read_to_string(shop.path("home/bottles/shop.md")).unwrap();
    let route = "    - host: tools.example\n      matches:\n        - methods: [POST]\n";
    shop.write("home/bottles/shop.md", &bottle.replace("---\nThe shop.", &format!("{route}---\nThe shop.")));
    let host = ChatHost::start(with_tools()).await.unwrap();
    let tool = host.tools()[0].clone();
    assert_eq!(tool.spec().schema.name, "weather");
    let arguments = tool.check(&serde_json::json!({"city": "Kyoto"})).unwrap();
    assert!(tool.check(&serde_json::json!({"city": 1})).is_err());
    let (principal, mut guard) = (asker().principal, carboy_agent::guard_state::GuardState::default());
    let (principal, guard) = (&principal, &mut guard);
    let call = carboy_agent::Call { arguments: &arguments, principal, guard, now_ms: 0, idempotency_key: "once" };
    assert_eq!(tool.call(call).await.unwrap().value, serde_json::json!({"sky": "clear"}));
    end(host).await;
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked, ["initialize ", "notifications/initialized s-1", "tools/list s-1", "tools/call s-1"]);
    let log = shop.log();
    let of_tools = |entry: &&Entry| entry.detail("host").and_then(|v| v.as_str()) == Some("tools.example");
    let answers = log.iter().filter(of_tools).filter(|entry| entry.text("action") == Some("answer")).count();
    let denied = log.iter().filter(of_tools).filter(|entry| entry.detail("reason").is_some()).count();
    assert_eq!((answers, denied), (4, 1));
}
