//! `carboy check --attack` by the built binary, on the starter of `init chat` and on copies of it with holes: its tools are the
//! real script, in a real bottle.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A person with a home, and an agent that `init chat` wrote.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let desk = Desk { dir: tempfile::tempdir().unwrap() };
        for name in ["home", "work"] {
            fs::create_dir(desk.path(name)).unwrap();
        }
        fs::set_permissions(desk.path("home"), fs::Permissions::from_mode(0o700)).unwrap();
        let (code, _, err) = desk.carboy(&["init", "chat", "shop", "--script", "python"]);
        assert_eq!(code, Some(0), "{err}");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carboy"));
        command.args(arguments).env_clear().current_dir(self.path("work"));
        command.env("HOME", self.path("")).env("CARBOY_HOME", self.path("home"));
        command.env("PATH", std::env::var("PATH").unwrap_or_default());
        command
    }

    fn carboy(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let ran = self.command(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (ran.status.code(), text(&ran.stdout), text(&ran.stderr))
    }

    /// Another agent, the starter with these words for those.
    fn holed(&self, name: &str, changes: &[(&str, &str)]) {
        let agents = self.path("home").join("agents");
        let mut text = fs::read_to_string(agents.join("shop.md")).unwrap();
        for (from, to) in changes {
            assert!(text.contains(from), "the starter has no `{from}` any more");
            text = text.replacen(from, to, 1);
        }
        fs::write(agents.join(format!("{name}.md")), text).unwrap();
    }

    /// Attacks it: the exit code, and every hole as JSON has it.
    fn attacked(&self, name: &str) -> (Option<i32>, Vec<Value>) {
        let (code, out, err) = self.carboy(&["check", "--attack", name, "--rounds", "200", "--seed", "1", "--json"]);
        let whole: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
        assert_eq!((&whole["agent"], &whole["seed"], &whole["rounds"]), (&name.into(), &1.into(), &200.into()));
        (code, whole["holes"].as_array().unwrap().clone())
    }
}

const REQUIRES: &str =
    "requires:\n  start_return: {after: lookup_order, same: order_id, within: 15m, result: {returnable: true}}\n";

#[test]
fn g91_no_hole_is_found_in_what_init_chat_writes_and_nothing_is_left_behind() {
    let desk = Desk::new();
    let (code, out, err) = desk.carboy(&["check", "--attack", "shop", "--rounds", "200", "--seed", "1"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.last(), Some(&"shop: no hole was found in 200 attacks (again: --rounds 200 --seed 1)"));
    for (line, tool) in lines.iter().zip(["lookup_order", "start_return"]) {
        assert!(line.starts_with(&format!("calls of {tool}: ")) && !line.contains(": 0 succeeded"), "{out}");
    }
    assert_eq!(lines.len(), 3, "{out}");
    assert!(err.contains("no provider is asked"), "{err}");
    assert_eq!(fs::read_dir(desk.path("work")).unwrap().count(), 0);
}

#[test]
fn g91_g11_i1_a_return_that_builds_on_nothing_is_a_hole_with_its_script_and_its_rule() {
    let desk = Desk::new();
    desk.holed("holed", &[(REQUIRES, "")]);
    let (code, out, err) = desk.carboy(&["check", "--attack", "holed", "--rounds", "200", "--seed", "1"]);
    assert_eq!(code, Some(1), "{out}{err}");
    assert!(out.contains("hole I1: start_return ran although lookup_order had not succeeded"), "{out}");
    assert!(out.contains("1. person ") && out.contains("the model calls start_return("), "{out}");
    assert!(out.contains("start_return: {after: lookup_order, same: order_id, within: 15m}"), "{out}");
    // Where it belongs: above the last line of the front matter.
    let text = fs::read_to_string(desk.path("home").join("agents/holed.md")).unwrap();
    let line = 2 + text.lines().skip(1).position(|line| line == "---").unwrap();
    assert!(out.replace("\n", " ").replace("  ", "").contains(&format!("holed.md:{line}):")), "{out}");
    assert!(out.ends_with("holed: 1 hole in 200 attacks (again: --rounds 200 --seed 1)\n"), "{out}");
    assert_eq!(desk.attacked("holed").1.len(), 1);
}

#[test]
fn g91_g12_i3_i4_i5_i10_holes_of_a_script_and_of_a_reply_are_named_each_by_its_law() {
    let desk = Desk::new();
    let laws = |name: &str, changes: &[(&str, &str)]| {
        desk.holed(name, changes);
        let (code, holes) = desk.attacked(name);
        assert_eq!(code, Some(1), "{name}");
        holes.iter().map(|hole| hole["law"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = laws("anybody", &[("if order is None or not matches:", "if order is None:")]);
    assert!(found.contains(&"I3".to_owned()), "{found:?}");
    let telling = "if order is None:\n        raise Refused(\"there_is_no_such_order\")\n    if not matches:";
    let found = laws("telling", &[("if order is None or not matches:", telling)]);
    assert_eq!(found, ["I4"]);
    let found = laws("unconfirmed", &[("confirm: [start_return]", "confirm: {never: [start_return]}")]);
    assert_eq!(found, ["I5"]);
    let found = laws("ungrounded", &[("  ids: [\"SH-[0-9]{4}\"]\n", "")]);
    assert_eq!(found, ["I10"]);
}

/// An MCP server over HTTP of somebody's own: it lists its tools, and notes whatever else it is asked.
struct Sky {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Sky {
    fn open() -> Sky {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        std::thread::spawn(move || listener.incoming().for_each(|stream| drop(answer(stream.unwrap(), &heard))));
        Sky { address, asked }
    }
}

/// One request, one answer, and no more on this connection.
fn answer(mut stream: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut from = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0);
    while from.read_line(&mut line)? > 2 {
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let message: Value = serde_json::from_slice(&body).unwrap();
    let method = message["method"].as_str().unwrap().to_owned();
    asked.lock().unwrap().push(method.clone());
    let order = json!({"type": "string", "pattern": "^SKY-[0-9]{4}$"});
    let arguments = |more: Value| json!({"type": "object", "properties": more, "additionalProperties": false});
    let tools = json!([
        {"name": "look", "description": "Looks a booking up.", "annotations": {"readOnlyHint": true},
         "inputSchema": arguments(json!({"order_id": order, "email": {"type": "string"}})),
         "outputSchema": {"type": "object", "properties": {"flies_on": {"type": "string", "format": "date"}}}},
        {"name": "cancel", "description": "Cancels a booking.",
         "inputSchema": arguments(json!({"order_id": order}))},
    ]);
    let result = match method.as_str() {
        "initialize" => json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                               "serverInfo": {"name": "sky", "version": "1"}}),
        "tools/list" => json!({"tools": tools}),
        _ => json!({}),
    };
    let text = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", text.len())?;
    write!(stream, "connection: close\r\n\r\n{text}")
}

impl Desk {
    /// An agent whose tools are on that server.
    fn of_sky(&self, name: &str, sky: &Sky, confirm: &str) {
        let file = format!(
            "---\nkind: chat\nmodel: claude-sonnet-4-5\ntools: [{{mcp: {{url: \"http://{}/mcp\"}}}}]\n\
             requires:\n  cancel: {{after: look, same: order_id, within: 15m, result: {{cancellable: true}}}}\n\
             confirm: {confirm}\nauthorize: [{{allow: all}}]\n\
             reply:\n  ids: [\"SKY-[0-9]{{4}}\"]\n---\n\
             You help with bookings.\n",
            sky.address
        );
        fs::write(self.path("home").join("agents").join(format!("{name}.md")), file).unwrap();
    }
}

#[test]
fn g91_an_agent_whose_tools_are_on_a_server_is_attacked_at_a_server_that_stands_in() {
    let (desk, sky) = (Desk::new(), Sky::open());
    desk.of_sky("sky", &sky, "[cancel]");
    let (code, out, err) = desk.carboy(&["check", "--attack", "sky", "--rounds", "200"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.starts_with("calls of look: ") && out.lines().count() == 3, "{out}");
    assert_eq!(
        format!("{}\n", out.lines().last().unwrap()),
        "sky: no hole was found in 200 attacks (again: --rounds 200 --seed 1)\n"
    );
    assert!(err.contains("asked once for the list of their tools"), "{err}");
    let asked = std::mem::take(&mut *sky.asked.lock().unwrap());
    assert_eq!(asked, ["initialize", "notifications/initialized", "tools/list"], "nobody's server is attacked");

    desk.of_sky("loose", &sky, "{never: [cancel]}");
    let (code, holes) = desk.attacked("loose");
    assert_eq!((code, holes.len()), (Some(1), 1), "{holes:?}");
    assert_eq!((&holes[0]["law"], &holes[0]["tool"]), (&"I5".into(), &"cancel".into()));
    let file = desk.path("home").join("agents/loose.md");
    assert_eq!(holes[0]["at"], json!({"file": file, "line": 7}), "{:?}", holes[0]);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().nth(6), Some("confirm: {never: [cancel]}"));
}

#[test]
fn g91_a_server_that_is_not_there_is_told_with_what_to_do() {
    let (desk, sky) = (Desk::new(), Sky { address: "127.0.0.1:9".parse().unwrap(), asked: Arc::default() });
    desk.of_sky("sky", &sky, "[cancel]");
    let (code, out, err) = desk.carboy(&["check", "--attack", "sky"]);
    assert_eq!((code, out.as_str()), (Some(70), ""), "{err}");
    assert!(err.contains("which does not list them") && err.contains("start it, or"), "{err}");
}

#[test]
fn g91_g11_g12_bookly_is_attacked_over_records_of_its_own_and_its_desks_are_as_they_were() {
    let desk = Desk::new();
    let (code, out, err) = desk.carboy(&["check", "--attack", "bookly", "--rounds", "150"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(
        format!("{}\n", out.lines().last().unwrap()),
        "bookly: no hole was found in 150 attacks (again: --rounds 150 --seed 1)\n"
    );
    assert!(err.contains("over records made for this"), "{err}");
    let records = |dir: &std::path::Path| {
        let find = Command::new("find").arg(dir).args(["-name", "*books*"]).output().unwrap();
        String::from_utf8(find.stdout).unwrap()
    };
    assert_eq!(records(&desk.path("home")), "", "the desk's own records were not even made");
}

#[test]
fn g91_ctrl_c_ends_an_attack_with_what_it_found_and_leaves_nothing_behind() {
    let desk = Desk::new();
    let temporary = desk.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut command = desk.command(&["check", "--attack", "bookly", "--rounds", "1000000", "--json"]);
    command.env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Its first word is said before the first attack; its records say that it is at work.
    let mut first = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert!(first.contains("1000000 times (seed 1)"), "{first}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));
    let whole: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert!(whole["played"].as_u64().unwrap() < 1_000_000 && whole["holes"] == json!([]), "{whole}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "its directory went with it");
    let (_, out, _) = desk.carboy(&["ps", "--json"]);
    assert!(!out.contains("bookly"), "{out}");
}

#[test]
fn g91_a_tool_that_never_worked_is_named_and_is_not_called_sound() {
    let desk = Desk::new();
    desk.holed(
        "crash",
        &[(
            "    order_id, email = arguments",
            "    raise ValueError(\"no database\")\n    order_id, email = arguments",
        )],
    );
    let attack = ["check", "--attack", "crash", "--rounds", "20"];
    let (code, out, err) = desk.carboy(&attack);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("calls of lookup_order: 0 succeeded, "), "{out}");
    assert!(out.contains("no call of lookup_order succeeded: nothing about it was tried"), "{out}");
    assert!(out.contains("crash: no hole was found in what worked in 20 attacks"), "{out}");
    let (_, out, _) = desk.carboy(&[&attack[..], &["--json"]].concat());
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(whole["calls"][0]["succeeded"], 0);
    assert_eq!(whole["untried"], json!(["lookup_order", "start_return"]));
}

#[test]
fn g91_what_is_no_chat_agent_is_refused_in_words() {
    let desk = Desk::new();
    let (code, _, err) = desk.carboy(&["check", "--attack"]);
    assert_eq!(code, Some(2), "{err}");
}
