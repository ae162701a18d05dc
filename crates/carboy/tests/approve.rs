//! `carboy approve` by the built binary: a write that waits for the operator, asked for in one process and answered in another, and
//! what the person reads of it at a terminal, over HTTP and in a log (U4).

#![allow(clippy::unwrap_used)]

#[path = "support/desk.rs"]
mod desk;
#[path = "support/waiting.rs"]
mod waiting;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use desk::{Desk, Ran, Screen, told};
use serde_json::{Value, json};
use waiting::within;

const WISH: &str = "I want to return SH-1001, ada@example.com";
/// Longest wait for something to appear.
const APPEAR_WAIT_MAX: Duration = Duration::from_secs(60);

/// The starter of `init chat`, whose returns the operator approves.
fn shop() -> Desk {
    let desk = Desk::new();
    let made = told(&desk.carboy(&["init", "chat", "shop", "--yes"]).output().unwrap());
    assert_eq!(made.code, Some(0), "{made:?}");
    let path = desk.path("home/agents/shop.md");
    let text = fs::read_to_string(&path).unwrap();
    let (from, to) = ("confirm: [start_return]", "confirm: {operator: [start_return]}");
    assert!(text.contains(from), "the starter has no `{from}` any more");
    fs::write(path, text.replace(from, to)).unwrap();
    desk
}

fn approve(desk: &Desk, arguments: &[&str]) -> Ran {
    told(&desk.carboy(&[&["approve"], arguments].concat()).output().unwrap())
}

fn waits(desk: &Desk) -> Vec<Value> {
    let ran = approve(desk, &["--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str::<Value>(&ran.out).unwrap().as_array().unwrap().clone()
}

/// `carboy serve`, and a person with a cookie.
struct Served {
    child: Child,
    address: String,
    cookie: String,
}

impl Served {
    fn start(desk: &Desk) -> Served {
        Served::start_with(desk, &[])
    }

    fn start_with(desk: &Desk, variables: &[(&str, &str)]) -> Served {
        let mut command = desk.carboy(&["serve", "shop", "--model", "offline", "--listen", "127.0.0.1:0"]);
        command.envs(variables.iter().copied());
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("serves at"))).unwrap().unwrap();
        let (_, address) = line.split_once("http://").unwrap();
        let address = address.trim_end_matches('/').to_owned();
        // Whoever talks is listened to.
        std::thread::spawn(move || lines.for_each(drop));
        Served { child, address, cookie: String::new() }
    }

    fn ask(&mut self, method: &str, path: &str, body: &Value) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = if method == "GET" { String::new() } else { body.to_string() };
        let (address, cookie) = (&self.address, &self.cookie);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncookie: {cookie}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        if let Some(cookie) = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")) {
            self.cookie = cookie.split(';').next().unwrap().to_owned();
        }
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    fn transcript(&mut self) -> Value {
        self.ask("GET", "/api/transcript", &Value::Null)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn u4_g88_what_a_served_agent_asks_the_operator_is_answered_by_another_process_and_read_in_the_conversation() {
    let desk = shop();
    assert_eq!(waits(&desk), [] as [Value; 0]);
    let mut served = Served::start(&desk);
    let reply = served.ask("POST", "/api/chat", &json!({"message": WISH}));
    assert!(reply.get("card").is_none(), "the person is not asked: {reply}");
    let said = reply["reply"].as_str().unwrap();
    assert!(said.ends_with("Somebody has to approve that first; you will read here how it ends."), "{said}");
    assert_eq!(served.transcript()["waits"], 1);

    let all = waits(&desk);
    assert_eq!(all.len(), 1, "{all:?}");
    let one = &all[0];
    assert_eq!(
        (&one["kind"], &one["agent"], &one["tool"]),
        (&json!("approval"), &json!("shop"), &json!("start_return"))
    );
    assert!(one["rows"].as_array().unwrap().contains(&json!({"name": "order id", "value": "SH-1001"})), "{one}");
    let id = one["id"].as_str().unwrap();
    let table = approve(&desk, &[]);
    assert!(table.out.starts_with("ID ") && table.out.contains(id) && table.out.contains("start return?"), "{table:?}");
    let shown = approve(&desk, &[id]);
    assert!(shown.err.contains("SH-1001") && shown.err.contains(&format!("carboy approve {id} --yes")), "{shown:?}");
    assert_eq!((shown.code, desk.entries("write_intent").len()), (Some(0), 0), "to look at it answers nothing");

    let said = approve(&desk, &[id, "--yes", "--say", "We send you a label."]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), "approved, and done\n"), "{said:?}");
    let kept = served.transcript();
    let lines: Vec<&str> =
        kept["lines"].as_array().unwrap().iter().map(|line| line["text"].as_str().unwrap()).collect();
    let last = &lines[lines.len() - 2..];
    assert_eq!(last, ["This was approved, and it is done: start return?", "A person writes: We send you a label."]);
    assert_eq!(kept["waits"], 0);
    assert_eq!(desk.entries("write_intent").len(), 1);
    let by = desk.entries("ask_approved").remove(0);
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    assert_eq!(by.detail("by").and_then(Value::as_str), Some(user.trim()));
    assert_eq!(by.detail("answerer").and_then(Value::as_str), Some("operator"));

    let again = approve(&desk, &[id, "--no"]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.err.contains("waits"), "{again:?}");
    assert_eq!(waits(&desk), [] as [Value; 0]);
    let verified = told(&desk.carboy(&["audit", "verify"]).output().unwrap());
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

#[test]
fn u4_a_request_for_a_person_is_answered_and_one_that_is_declined_does_nothing() {
    let desk = shop();
    let mut served = Served::start(&desk);
    served.ask("POST", "/api/chat", &json!({"message": WISH}));
    served.ask("POST", "/api/handoff", &json!({}));
    let all = waits(&desk);
    let of = |kind: &str| all.iter().find(|one| one["kind"] == kind).unwrap()["id"].as_str().unwrap().to_owned();
    let (write, person) = (of("approval"), of("hand_off"));
    let said = approve(&desk, &[&write, "--no", "--json"]);
    let said: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&said["answer"], &said["came"]), (&json!("declined"), &json!("declined")));
    let said = approve(&desk, &[&person, "--yes"]);
    assert_eq!(said.out, "taken over; the person reads it in the conversation\n", "{said:?}");
    let kept = served.transcript();
    let text = kept["lines"].to_string();
    assert!(
        text.contains("This was not approved, and nothing was done") && text.contains("has taken this over"),
        "{text}"
    );
    assert_eq!((desk.entries("write_intent").len(), &kept["waits"]), (0, &json!(0)));
}

#[test]
fn u4_an_answer_that_is_given_while_the_agent_is_away_is_carried_out_when_it_is_back() {
    let desk = shop();
    let mut served = Served::start(&desk);
    served.ask("POST", "/api/chat", &json!({"message": WISH}));
    let cookie = served.cookie.clone();
    let id = waits(&desk)[0]["id"].as_str().unwrap().to_owned();
    drop(told(&desk.carboy(&["stop", "shop"]).output().unwrap()));
    within(APPEAR_WAIT_MAX, "the end of the service", || served.child.try_wait().unwrap());
    let said = approve(&desk, &[&id, "--yes"]);
    assert!(said.code == Some(0) && said.err.contains("kept: it is carried out when agent shop runs"), "{said:?}");
    let twice = approve(&desk, &[&id, "--no"]);
    assert!(twice.code == Some(1) && twice.err.contains("is answered already"), "{twice:?}");
    assert_eq!(desk.entries("write_intent").len(), 0);

    let mut served = Served::start(&desk);
    served.cookie = cookie;
    // What was done is kept at once, and the words about it behind that.
    let told = |kept: &Value| kept["lines"].to_string().contains("it is done: start return?");
    let kept = within(APPEAR_WAIT_MAX, "the words", || Some(served.transcript()).filter(told));
    assert_eq!((desk.entries("write_intent").len(), &kept["waits"]), (1, &json!(0)));
}

#[test]
fn u4_at_the_terminal_the_answer_comes_while_the_person_does_nothing() {
    let desk = shop();
    let screen = Screen::open(&desk, &["run", "shop", "--model", "offline"], &[]);
    screen.see("\nYou:");
    screen.line(WISH);
    screen.see("· start_return: waits for the operator (carboy approve)");
    let id = within(APPEAR_WAIT_MAX, "the question", || Some(waits(&desk).first()?["id"].as_str()?.to_owned()));
    let said = approve(&desk, &[&id, "--yes"]);
    assert_eq!(said.out, "approved, and done\n", "{said:?}");
    let text = screen.see("Agent: This was approved, and it is done: start return?");
    assert_eq!(text.matches("This was approved").count(), 1, "{text}");
    screen.line("Hello");
    screen.see_times("[offline model]", 2);
    assert_eq!(screen.text().matches("This was approved").count(), 1, "it is told once");
}

fn read(desk: &Desk, id: &str) -> Value {
    let ran = approve(desk, &[id, "--conversation", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    serde_json::from_str(&ran.out).unwrap()
}

fn stopped(desk: &Desk, served: &mut Served) {
    drop(told(&desk.carboy(&["stop", "shop"]).output().unwrap()));
    within(APPEAR_WAIT_MAX, "the end of the service", || served.child.try_wait().unwrap());
}

#[test]
fn u4_the_operator_reads_the_conversation_before_and_after_the_answer_as_the_person_does_and_the_log_has_it_first() {
    let desk = shop();
    // The secret is the service's alone: it is the service that is asked.
    let mut served = Served::start_with(&desk, &[("SESSION_SECRET", &"s".repeat(32))]);
    served.ask("POST", "/api/chat", &json!({"message": WISH}));
    served.ask("POST", "/api/handoff", &json!({}));
    let id = waits(&desk).iter().find(|one| one["kind"] == "hand_off").unwrap()["id"].as_str().unwrap().to_owned();
    let shown = approve(&desk, &[&id]);
    assert!(shown.err.contains("`--conversation` shows what was said"), "{shown:?}");
    assert_eq!(desk.entries("conversation_read").len(), 0, "the question alone is no conversation");

    let whole = read(&desk, &id);
    assert_eq!((&whole["kind"], &whole["agent"]), (&json!("hand_off"), &json!("shop")));
    assert_eq!(whole["lines"], served.transcript()["lines"]);
    assert!(whole["lines"].to_string().contains("SH-1001"), "{whole}");
    let entry = desk.entries("conversation_read").remove(0);
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    assert_eq!((entry.text("event_type"), entry.text("agent")), (Some("operator"), Some("shop")));
    assert_eq!(entry.text("user_id"), whole["user"].as_str());
    let detail = |name: &str| entry.detail(name).and_then(Value::as_str).map(str::to_owned);
    assert_eq!((detail("by").as_deref(), detail("ask")), (Some(user.trim()), Some(id.clone())));
    assert_eq!(detail("session").as_deref(), whole["session"].as_str());

    for n in 0..10 {
        served.ask("POST", "/api/chat", &json!({"message": format!("Hello, number {n}")}));
    }
    let said = approve(&desk, &[&id, "--yes", "--say", "I am Ann."]);
    assert_eq!(said.out, "taken over; the person reads it in the conversation\n", "{said:?}");
    let short = approve(&desk, &[&id, "--conversation"]);
    assert!(short.out.contains("  A person writes: I am Ann.\n") && !short.out.contains("SH-1001"), "{short:?}");
    let count = read(&desk, &id)["lines"].as_array().unwrap().len();
    let cut = format!("the last 20 of {count} lines; `carboy approve {id} --conversation --all` shows all");
    assert!(count > 20 && short.err.contains(&cut), "{short:?}");
    let all = approve(&desk, &[&id, "--conversation", "--all"]);
    assert!(all.out.starts_with("Person ") && all.out.contains(&format!("\n  {WISH}\n")), "{all:?}");
    let of_nobody = approve(&desk, &["h-0123456789ab", "--conversation"]);
    assert!(of_nobody.code == Some(1) && of_nobody.err.contains("no question `h-0123456789ab` waits"), "{of_nobody:?}");
    assert_eq!(desk.entries("conversation_read").len(), 4);
    assert_eq!(told(&desk.carboy(&["audit", "verify"]).output().unwrap()).code, Some(0));
}

#[test]
fn u4_the_conversation_is_read_while_nobody_runs_the_agent_and_one_that_was_forgotten_is_no_more() {
    let desk = shop();
    let mut served = Served::start(&desk);
    served.ask("POST", "/api/chat", &json!({"message": WISH}));
    served.ask("POST", "/api/handoff", &json!({}));
    let (cookie, lines) = (served.cookie.clone(), served.transcript()["lines"].clone());
    let id = waits(&desk).iter().find(|one| one["kind"] == "hand_off").unwrap()["id"].as_str().unwrap().to_owned();
    stopped(&desk, &mut served);
    assert_eq!(read(&desk, &id)["lines"], lines);
    let entry = desk.entries("conversation_read").remove(0);
    assert_eq!((entry.text("agent"), entry.text("bottle")), (Some("shop"), Some("shop__chat")));

    // Nothing is shown with another secret, without one, or past the log.
    let other =
        desk.carboy(&["approve", &id, "--conversation"]).env("SESSION_SECRET", "o".repeat(32)).output().unwrap();
    let other = told(&other);
    assert!(other.code == Some(70) && other.err.contains("under another session secret"), "{other:?}");
    let (secret, aside) = (desk.path("home/session-secret"), desk.path("home/aside"));
    fs::rename(&secret, &aside).unwrap();
    let without = approve(&desk, &[&id, "--conversation"]);
    assert!(without.code == Some(78) && without.err.contains("SESSION_SECRET is not set"), "{without:?}");
    fs::rename(&aside, &secret).unwrap();
    let log = desk.path("home/audit/audit.jsonl");
    let text = fs::read(&log).unwrap();
    fs::write(&log, [text.as_slice(), b"no entry\n"].concat()).unwrap();
    let unwritten = approve(&desk, &[&id, "--conversation"]);
    assert!(unwritten.err.contains("nothing is shown, because it cannot be written down"), "{unwritten:?}");
    fs::write(&log, &text).unwrap();
    let shown: String = [other, without, unwritten].iter().map(|ran| format!("{}{}", ran.out, ran.err)).collect();
    assert!(!shown.contains("SH-1001"), "{shown}");
    assert_eq!(desk.entries("conversation_read").len(), 1);

    assert_eq!(approve(&desk, &[&id, "--yes"]).code, Some(0));
    let mut served = Served::start(&desk);
    served.cookie = cookie;
    assert_eq!(read(&desk, &id)["lines"], served.transcript()["lines"], "it is answered now");
    served.ask("DELETE", "/api/transcript", &json!({}));
    let gone = |when: &str| {
        let ran = approve(&desk, &[&id, "--conversation"]);
        let said = format!("the conversation of `{id}` is no more");
        assert!((ran.code, ran.out.as_str()) == (Some(1), "") && ran.err.contains(&said), "{when}: {ran:?}");
    };
    gone("while the agent runs");
    stopped(&desk, &mut served);
    gone("while it does not");
    let left = desk::files_below(&desk.path("home/state/shop__chat/chat/shop/asks"));
    let left = left.iter().map(|name| fs::read_to_string(desk.path("home/state/shop__chat/chat/shop/asks").join(name)));
    assert!(!left.flatten().any(|text| text.contains("SH-1001")), "what is forgotten is on no board either");
}

#[test]
fn u4_an_answer_from_before_a_short_run_is_carried_out_in_it_and_read_where_its_conversation_goes_on() {
    let desk = shop();
    let said = desk.says(&["run", "shop", "--model", "offline"], &format!("{WISH}\n"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let id = waits(&desk)[0]["id"].as_str().unwrap().to_owned();
    assert!(read(&desk, &id)["lines"].to_string().contains("SH-1001"), "a conversation at a terminal is kept, too");
    let kept = approve(&desk, &[&id, "--yes"]);
    assert!(kept.code == Some(0) && kept.err.contains("kept: it is carried out when agent shop runs"), "{kept:?}");
    assert_eq!(desk.entries("write_intent").len(), 0);

    // Nobody says a word: it is over as soon as it has begun.
    let said = desk.says(&["run", "shop", "--model", "offline"], "");
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!((desk.entries("write_intent").len(), desk.entries("write_outcome").len()), (1, 1));
    assert_eq!(waits(&desk), [] as [Value; 0]);

    let said = desk.says(&["run", "shop", "--model", "offline"], &format!("{WISH}\n"));
    assert_eq!(said.code, Some(0), "{said:?}");
    let id = waits(&desk)[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(approve(&desk, &[&id, "--no"]).code, Some(0));
    let said = desk.says(&["run", "shop", "--model", "offline", "--session", "last"], "Hello\n");
    let (answer, reply) = (said.out.find("This was not approved"), said.out.find("Hello!"));
    assert!(answer.is_some() && answer < reply, "the answer comes first: {said:?}");
    assert_eq!(said.out.matches("This was not approved").count(), 1, "{said:?}");
}
