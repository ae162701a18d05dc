//! Runs stopped in four ways, by hand, and let go on: in place, or from the disk.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use carboy_core::audit::Entry;
use serde_json::Value;

use crate::runs::{Live, carboy, living, stderr, stdout, within};
use crate::terminal::Screen;
use crate::world::{Person, STANDARD_ROUTES, World, reason};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long nothing may move.
const STILL: Duration = Duration::from_millis(200);
/// C10: nothing of it lives after this.
const DEAD_WITHIN: Duration = Duration::from_secs(1);
const NOTES: &str = "https://notes.example/page/clean";

/// Counts in the workspace, as fast as a shell can, and hears nothing.
const COUNTS: &str =
    "trap '' TERM INT; echo ready; i=0; while :; do i=$((i+1)); echo $i > count.part; mv count.part count; done";

pub fn cases() -> Vec<Case> {
    vec![
        case_with(
            "E3 C10 at a terminal a run is paused, resumed in place, frozen and started again",
            &["tmux"],
            at_a_terminal,
        ),
        case(
            "C10 stop does what the bottle's file says, and a failure while it is cut off has a code of its own",
            as_told,
        ),
        case_with(
            "C10 C11 what a spent budget has stopped stays so until there is room",
            &["/usr/bin/python3"],
            budget,
        ),
        case_with("C10 C18 a storm after a final no is frozen, and killed the next time", &["/usr/bin/python3"], storm),
        case(
            "C10 C18 a run that is cut off is refused everything, lives, and has its routes again after resume",
            cutoff,
        ),
        case("C10 C18 a paused run makes no progress, goes on where it stood, and is shown", pause),
        case("C10 a paused run is asked to end, and hears it", stop_paused),
        case("E3 E11 a frozen run is started again under its id, with its home, files and flags", freeze),
        case("E3 values of variables are never on the disk, and are asked for again", freeze_variables),
        case("E3 with --rm nothing is removed while it may go on", freeze_rm),
        case("E3 an agent goes on with its last conversation, and begins anew where there is none", conversation),
        case("E3 M39 a repository's agent that has changed is asked about again", trust_again),
        case("E3 a run whose supervisor was killed, running, paused or cut off, is resumed from the disk", lost),
        case("C10 E11 stop --all and resume --all, and what is not stopped says so", all),
        case("C10 attach and wait say that it is paused, and hear of its end", attach_paused),
        case_with(
            "C10 a thousand processes and a fork bomb are frozen, and nothing lives after a second",
            &["/usr/bin/perl"],
            hostile,
        ),
        case_with(
            "C10 a program that holds a connection open is cut off, frozen and gone",
            &["/usr/bin/python3"],
            holds_open,
        ),
    ]
}

fn run_of(world: &World) -> String {
    living(world)[0]["record"]["run"].as_str().unwrap().to_owned()
}

fn state(world: &World) -> String {
    living(world).first().map(|run| run["state"].as_str().unwrap().to_owned()).unwrap_or_default()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn stands(path: &Path) {
    let (before, end) = (read(path), Instant::now() + STILL);
    while Instant::now() < end {
        assert_eq!(read(path), before, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn goes_on(path: &Path) {
    let before = read(path);
    within(HAPPEN_WAIT_MAX, "it goes on", || (read(path) != before).then_some(()));
}

/// What was done to runs, as `action by`.
fn actions(world: &World) -> Vec<String> {
    let wanted = ["cutoff", "pause", "freeze", "kill", "resume", "stop"];
    let done = |entry: &Entry| {
        let action = entry.text("action").filter(|action| wanted.contains(action))?;
        Some(format!("{action} {}", entry.detail("by").and_then(Value::as_str).unwrap_or("-")))
    };
    world.log().iter().filter_map(done).collect()
}

/// A word that only this world's processes have on their command lines.
fn marker(world: &World) -> String {
    format!("86400.{}", std::fs::metadata(&world.dir).unwrap().ino())
}

fn processes(marker: &str) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    // The words of a run's own command line have it too, in a longer word.
    lines.filter(|line| line.split(|b| *b == 0).any(|word| word == marker.as_bytes())).count()
}

fn kill_supervisor(world: &World) -> Instant {
    let lives = living(world).into_iter().find(|run| run["state"] != "frozen").unwrap();
    let pid = i32::try_from(lives["record"]["supervisor_pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    Instant::now()
}

fn cutoff(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    assert_eq!(agent.http("GET", NOTES, &[], b"").status, Some(200));
    let run = run_of(&world);
    let stopped = carboy(&world, &["stop", "--cutoff", "--json", &run]);
    let told: Vec<Value> = serde_json::from_slice(&stopped.stdout).unwrap();
    assert_eq!(
        (&told[0]["run"], &told[0]["state"], &told[0]["ended"]),
        (&run.clone().into(), &"cut off".into(), &false.into())
    );
    assert_eq!(state(&world), "cut off");
    let table = stdout(&carboy(&world, &["ps"]));
    assert!(table.contains("cut off") && table.contains("cutoff by the operator: by `carboy stop`"), "{table}");
    let refused = agent.http("GET", NOTES, &[], b"");
    assert!(refused.error.is_some() || reason(&refused) == Some("cut_off"), "{refused:?}");
    assert_eq!(carboy(&world, &["resume"]).status.code(), Some(0));
    assert_eq!(state(&world), "running");
    assert_eq!(agent.http("GET", NOTES, &[], b"").status, Some(200));
    let ran = agent.finish().expect_code(0);
    assert_eq!(actions(&world), ["cutoff operator", "resume operator"]);
    let done: Vec<&Value> = ran.summary["enforced"].as_array().unwrap().iter().map(|one| &one["action"]).collect();
    assert_eq!(done, ["cutoff", "resume"]);
    assert!(ran.stderr.contains("cutoff, operator: by `carboy stop`"), "{}", ran.stderr);
    let log = stdout(&carboy(&world, &["logs", &run]));
    assert!(log.contains("cutoff") && log.contains("by=operator"), "{log}");
}

fn pause(person: Person) {
    let world = World::new(person);
    let live = Live::start(&world, "test", COUNTS);
    let (count, run) = (world.project.join("count"), run_of(&world));
    goes_on(&count);
    assert_eq!(carboy(&world, &["stop", "--pause", "test"]).status.code(), Some(0));
    assert_eq!(state(&world), "paused");
    stands(&count);
    let stood: u64 = read(&count).trim().parse().unwrap();
    let exec = carboy(&world, &["exec", &run, "true"]);
    assert!(!exec.status.success() && stderr(&exec).contains("the bottle is paused"), "{exec:?}");
    // What is stricter holds: nothing is loosened by asking for less.
    let less = carboy(&world, &["stop", "--cutoff", "test"]);
    assert!(less.status.success() && stderr(&less).contains("is paused"), "{less:?}");
    assert_eq!(carboy(&world, &["resume", "test"]).status.code(), Some(0));
    goes_on(&count);
    assert!(read(&count).trim().parse::<u64>().unwrap() > stood, "it began anew");
    assert_eq!(stdout(&carboy(&world, &["exec", &run, "echo", "again"])), "again\n");
    assert_eq!(carboy(&world, &["stop", "--pause", "test"]).status.code(), Some(0));
    let begun = Instant::now();
    assert_eq!(carboy(&world, &["stop", "--kill", "test"]).status.code(), Some(0));
    assert!(begun.elapsed() < HAPPEN_WAIT_MAX);
    assert_eq!(live.end(), Some(137));
    let all = ["pause operator", "resume operator", "pause operator", "kill operator"];
    assert_eq!(actions(&world), all);
}

fn stop_paused(person: Person) {
    let world = World::new(person);
    let live = Live::start(&world, "test", "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done");
    carboy(&world, &["stop", "--pause", "test"]);
    assert_eq!(carboy(&world, &["stop", "test"]).status.code(), Some(0));
    assert_eq!(live.end(), Some(6));
}

/// Says what it finds of an earlier start, and of its surroundings.
const TWICE: &str = "if [ -e ~/kept ]; then cat ~/kept here; pwd; echo $GIVEN; exit 3; fi; \
                     trap '' TERM INT; echo home > ~/kept; echo work > here; echo ready; while :; do sleep 1; done";

fn freeze(person: Person) {
    let world = World::new(person);
    let live = Live::start(&world, "test", TWICE);
    let run = run_of(&world);
    let frozen = carboy(&world, &["stop", "--freeze", "test"]);
    assert_eq!(frozen.status.code(), Some(0), "{frozen:?}");
    assert!(stderr(&frozen).contains(&format!("is frozen; `carboy resume {run}` lets it go on")), "{frozen:?}");
    assert_eq!(live.end(), Some(75));
    assert_eq!(state(&world), "frozen");
    assert!(stdout(&carboy(&world, &["ps", "-a"])).contains("frozen"));
    // Nothing is left in the workspace but what the program made.
    let left: Vec<_> = std::fs::read_dir(&world.project).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["here"]);
    let resume = world.dir.join("home/state/test/runs").join(&run).join("resume.json");
    assert_eq!(std::fs::metadata(&resume).unwrap().mode() & 0o777, 0o600);
    let attach = carboy(&world, &["attach", &run]);
    assert!(stderr(&attach).contains(&format!("`carboy resume {run}`")), "{attach:?}");
    let again = carboy(&world, &["resume"]);
    let expected = format!("home\nwork\n{}\n\n", world.project.display());
    assert_eq!((again.status.code(), stdout(&again)), (Some(3), expected), "{again:?}");
    let starts: Vec<Entry> = world.log().into_iter().filter(|e| e.text("action") == Some("start")).collect();
    assert!(starts.len() == 2 && starts.iter().all(|start| start.text("run") == Some(&run)), "one id: one budget");
    assert!(carboy(&world, &["audit", "verify"]).status.success());
    // It has ended: there is nothing more to go on with.
    assert!(!resume.exists());
    let nothing = carboy(&world, &["resume", &run]);
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert_eq!(carboy(&world, &["resume"]).status.code(), Some(1));
}

fn freeze_variables(person: Person) {
    let world = World::new(person);
    let value = "a-value-of-nobodys-business";
    let live = Live::start_with(&world, &["--bottle", "test", "--env", &format!("GIVEN={value}")], TWICE);
    let run = run_of(&world);
    carboy(&world, &["stop", "--freeze", "test"]);
    assert_eq!(live.end(), Some(75));
    let kept = std::process::Command::new("grep").arg("-r").arg(value).arg(world.dir.join("home")).output().unwrap();
    assert_eq!(stdout(&kept), "");
    let without = carboy(&world, &["resume", &run]);
    assert!(without.status.code() == Some(2) && stderr(&without).contains("`--env GIVEN=VALUE`"), "{without:?}");
    assert_eq!(state(&world), "frozen", "what did not come about leaves it as it was");
    let with = carboy(&world, &["resume", &run, "--env", "GIVEN=another"]);
    assert!(with.status.code() == Some(3) && stdout(&with).ends_with("another\n"), "{with:?}");
}

fn freeze_rm(person: Person) {
    let world = World::new(person);
    let live = Live::start_with(&world, &["--bottle", "test", "--rm"], TWICE);
    carboy(&world, &["stop", "--freeze", "test"]);
    assert_eq!(live.end(), Some(75));
    assert_eq!(carboy(&world, &["resume"]).status.code(), Some(3));
    assert!(!world.dir.join("home/state/test").exists(), "now it is removed");
}

fn conversation(person: Person) {
    let world = World::new(person);
    // What stands in for the agent says how it was started, and keeps a conversation when its task says so.
    let program = "#!/bin/sh\necho \"$@\" >> said\ncase \"$*\" in *--continue*) exit 4;; *keep*) mkdir -p ~/.claude/projects/w; \
                   echo '{}' > ~/.claude/projects/w/a.jsonl;; esac\ntouch ready; exec sleep 1000\n";
    world.write("tools/claude", program);
    let tool = world.dir.join("tools/claude");
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.bottle(&format!("agent_provider: {{name: claude, command: {0}}}\nbinds: {{{0}: ro}}\n", tool.display()));
    let ready = world.project.join("ready");
    let start = |arguments: &[&str]| {
        let child = world.carboy(arguments).spawn().unwrap();
        within(HAPPEN_WAIT_MAX, "the agent is up", || ready.exists().then_some(()));
        std::fs::remove_file(&ready).unwrap();
        assert_eq!(carboy(&world, &["stop", "--freeze", "test"]).status.code(), Some(0));
        assert_eq!(child.wait_with_output().unwrap().status.code(), Some(75));
    };
    // Frozen before it had said anything: it begins anew, with its task.
    start(&["run", "-b", "test", "--task", "just begin"]);
    start(&["resume"]);
    let said = read(&world.project.join("said"));
    assert_eq!(said, "--dangerously-skip-permissions --print -- just begin\n".repeat(2));
    assert_eq!(carboy(&world, &["bottle", "rm", "--yes", "test"]).status.code(), Some(0));
    start(&["run", "-b", "test", "--task", "keep"]);
    let again = carboy(&world, &["resume"]);
    assert_eq!(again.status.code(), Some(4), "{again:?}");
    let said = read(&world.project.join("said"));
    assert!(said.contains("--dangerously-skip-permissions --print --continue -- You were stopped"), "{said}");
    assert!(said.ends_with("The task was:\n\nkeep\n"), "{said}");
}

fn trust_again(person: Person) {
    let world = World::new(person);
    let agent =
        |text: &str| world.write("project/.carboy/agents/ours.md", &format!("---\nbottle: test\n---\n{text}\n"));
    agent("One.");
    let start = ["run", "ours", "--trust", "--", "sh", "-c", "[ -e ~/kept ] && exit 3; touch ~/kept; sleep 1000"];
    let child = world.carboy(&start).spawn().unwrap();
    let kept = world.dir.join("home/state/test/home/kept");
    within(HAPPEN_WAIT_MAX, "it is up", || kept.exists().then_some(()));
    carboy(&world, &["stop", "--freeze", "test"]);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(75));
    agent("Another one.");
    let asked = carboy(&world, &["resume"]);
    assert!(asked.status.code() == Some(77) && stderr(&asked).contains("--trust"), "{asked:?}");
    assert_eq!(carboy(&world, &["resume", "--trust"]).status.code(), Some(3));
}

fn lost(person: Person) {
    for stopped in [None, Some("--pause"), Some("--cutoff")] {
        let world = World::new(person);
        let marker = marker(&world);
        let script = TWICE.replace("while :; do sleep 1; done", &format!("exec sleep {marker}"));
        let mut live = Live::start(&world, "test", &script);
        let run = run_of(&world);
        within(HAPPEN_WAIT_MAX, "it sleeps", || (processes(&marker) > 0).then_some(()));
        if let Some(how) = stopped {
            assert_eq!(carboy(&world, &["stop", how, "test"]).status.code(), Some(0));
        }
        kill_supervisor(&world);
        within(DEAD_WITHIN, "nothing lives", || (processes(&marker) == 0).then_some(()));
        live.child.wait().unwrap();
        assert_eq!(living(&world), Vec::<Value>::new());
        assert!(stdout(&carboy(&world, &["ps", "-a"])).contains("lost"));
        // Nobody has stopped it: it is gone on with when it is named, and offered when it is not.
        let offered = carboy(&world, &["resume"]);
        let hint = format!("run {run} was lost: `carboy resume {run}` starts it again");
        assert!(offered.status.code() == Some(1) && stderr(&offered).contains(&hint), "{offered:?}");
        let again = carboy(&world, &["resume", &run]);
        assert!(again.status.code() == Some(3) && stdout(&again).starts_with("home\nwork\n"), "{again:?}");
        let left: Vec<_> =
            std::fs::read_dir(&world.project).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["here"], "the workspace is in order");
    }
}

fn all(person: Person) {
    let world = World::new(person);
    world.write("home/bottles/other.md", "---\n---\nAnother one.\n");
    assert_eq!(carboy(&world, &["resume", "--all"]).status.code(), Some(0));
    let (mut first, second) = (Live::start(&world, "test", COUNTS), Live::start(&world, "other", TWICE));
    let goes = carboy(&world, &["resume", "test"]);
    assert!(goes.status.code() == Some(1) && stderr(&goes).contains("goes on: `carboy attach"), "{goes:?}");
    assert_eq!(carboy(&world, &["stop", "--all", "--pause"]).status.code(), Some(0));
    assert_eq!(living(&world).iter().filter(|run| run["state"] == "paused").count(), 2);
    let several = carboy(&world, &["resume"]);
    assert!(several.status.code() == Some(2) && stderr(&several).contains("`--all`"), "{several:?}");
    // The one goes further, the other stays.
    assert_eq!(carboy(&world, &["stop", "--freeze", "other"]).status.code(), Some(0));
    assert_eq!(second.end(), Some(75));
    assert!(first.child.try_wait().unwrap().is_none());
    let resumed = carboy(&world, &["resume", "--all"]);
    assert_eq!((resumed.status.code(), stdout(&resumed).lines().count()), (Some(0), 2), "{resumed:?}");
    goes_on(&world.project.join("count"));
    within(HAPPEN_WAIT_MAX, "the other came to its end", || (living(&world).len() == 1).then_some(()));
    assert_eq!(carboy(&world, &["wait", "other"]).status.code(), Some(3));
    assert_eq!(carboy(&world, &["stop", "--all", "--kill"]).status.code(), Some(0));
    assert_eq!(first.end(), Some(137));
}

fn attach_paused(person: Person) {
    let world = World::new(person);
    let started = carboy(&world, &["run", "-d", "-b", "test", "--", "sh", "-c", "echo up; read line; echo over"]);
    let run = stdout(&started).trim().to_owned();
    carboy(&world, &["stop", "--pause", &run]);
    let attached = world.carboy(&["attach", &run]).stdin(Stdio::null()).spawn().unwrap();
    let waits = world.carboy(&["wait", &run]).spawn().unwrap();
    // Both are there before it goes on.
    within(HAPPEN_WAIT_MAX, "somebody looks on", || {
        world.log().iter().any(|entry| entry.text("action") == Some("attach")).then_some(())
    });
    assert_eq!(carboy(&world, &["resume", "-d", &run]).status.code(), Some(0));
    carboy(&world, &["stop", "--kill", &run]);
    let (attached, waited) = (attached.wait_with_output().unwrap(), waits.wait_with_output().unwrap());
    assert!(stderr(&attached).contains("it is paused (pause by the operator"), "{attached:?}");
    assert_eq!((attached.status.code(), waited.status.code()), (Some(137), Some(137)));
}

fn hostile(person: Person) {
    let world = World::new(person);
    let marker = marker(&world);
    let many = format!("i=0; while [ $i -lt 1000 ]; do sleep {marker} & i=$((i+1)); done; echo ready; wait");
    let bomb = format!("perl -e 'while (1) {{ fork }}' {marker} & echo ready; wait");
    for (script, processes_max) in [(many, 2_000), (bomb, 300)] {
        world.bottle(&format!("limits: {{processes: {processes_max}}}\n"));
        for way in ["--freeze", "supervisor"] {
            let mut live = Live::start(&world, "test", &format!("trap '' TERM INT HUP; {script}"));
            let begun = Instant::now();
            if way == "supervisor" {
                kill_supervisor(&world);
                within(DEAD_WITHIN, "nothing lives", || (processes(&marker) == 0).then_some(()));
                live.child.wait().unwrap();
            } else {
                assert_eq!(carboy(&world, &["stop", way, "test"]).status.code(), Some(0));
                eprintln!("stop {way}: over after {:?}", begun.elapsed());
                assert_eq!(processes(&marker), 0);
                assert_eq!(live.end(), Some(75));
            }
        }
        assert_eq!(carboy(&world, &["bottle", "rm", "--yes", "test"]).status.code(), Some(0));
    }
}

fn holds_open(person: Person) {
    let world = World::new(person);
    let program: PathBuf = world.project.join("holds.py");
    let text = "import socket, signal, time\n\
                for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n\
                c = socket.create_connection(('plain.example', 80)); c.sendall(b'GET /page/clean HTTP/1.1\\r\\nHost: plain.example\\r\\n')\n\
                print('ready', flush=True)\n\
                while True: time.sleep(1)\n";
    world.write("project/holds.py", text);
    let live = Live::start(&world, "test", &format!("exec python3 {}", program.display()));
    assert_eq!(carboy(&world, &["stop", "--cutoff", "test"]).status.code(), Some(0));
    assert_eq!(state(&world), "cut off");
    let begun = Instant::now();
    assert_eq!(carboy(&world, &["stop", "--freeze", "test"]).status.code(), Some(0));
    assert!(begun.elapsed() < HAPPEN_WAIT_MAX, "{:?}", begun.elapsed());
    assert_eq!(live.end(), Some(75));
    assert_eq!(actions(&world), ["cutoff operator", "freeze operator"]);
}

fn as_told(person: Person) {
    let world = World::new(person);
    world.bottle("shutdown: cutoff\n");
    let live = Live::start(&world, "test", "echo ready; while [ ! -e over ]; do sleep 0.05; done; exit 5");
    let told = carboy(&world, &["stop", "test"]);
    assert!(told.status.success() && stderr(&told).contains("is cut off"), "{told:?}");
    assert_eq!(state(&world), "cut off");
    world.write("project/over", "");
    // Its own code is in the summary; whoever waits hears that it was cut off.
    assert_eq!(live.end(), Some(79));
    assert_eq!(carboy(&world, &["wait", "test"]).status.code(), Some(79));
}

/// Asks a model for something until it is told to end, and says what it got.
pub const ASKS: &str = r#"
import json, os, time, urllib.request, urllib.error
body = json.dumps({'model': 'claude-x', 'max_tokens': 500, 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
head = {'anthropic-version': '2023-06-01', 'content-type': 'application/json'}
print('ready', flush=True)
n = 0
while not os.path.exists('over'):
    request = urllib.request.Request('https://api.anthropic.com/v1/messages', body, head)
    try: said = urllib.request.urlopen(request).status
    except urllib.error.HTTPError as e: said = e.code
    n += 1
    open('said.part', 'w').write(f'{n} {said}')
    os.rename('said.part', 'said')
    time.sleep(0.3)
"#;

fn budget(person: Person) {
    let world = World::new(person);
    world.write("project/asks.py", ASKS);
    let said = world.project.join("said");
    let last = |code: &str| within(HAPPEN_WAIT_MAX, code, || read(&said).ends_with(code).then_some(()));
    world.bottle(&format!("{STANDARD_ROUTES}budget: {{claude: 600}}\nshutdown: cutoff\n"));
    let live = Live::start(&world, "test", "exec python3 asks.py");
    within(HAPPEN_WAIT_MAX, "it is cut off", || (state(&world) == "cut off").then_some(()));
    let table = stdout(&carboy(&world, &["ps"]));
    assert!(table.contains("cutoff by the budget: budget of bottle:test for anthropic"), "{table}");
    let still = carboy(&world, &["resume"]);
    let hint = "carboy budget top-up bottle:test anthropic=AMOUNT";
    assert!(still.status.code() == Some(77) && stderr(&still).contains(hint), "{still:?}");
    assert_eq!(state(&world), "cut off");
    // With room again nobody has to resume it.
    let more = carboy(&world, &["budget", "top-up", "bottle:test", "claude=100k"]);
    assert!(more.status.success(), "{more:?}");
    last(" 200");
    assert_eq!(state(&world), "running");
    world.write("project/over", "");
    assert_eq!(live.end(), Some(0));
    assert_eq!(actions(&world), ["cutoff budget", "resume budget"]);
    // Frozen by the next one: it is not started to be frozen again.
    std::fs::remove_file(world.project.join("over")).unwrap();
    world.bottle(&format!("{STANDARD_ROUTES}ceiling: {{claude: 700}}\nshutdown: freeze\n"));
    let live = Live::start(&world, "test", "exec python3 asks.py");
    assert_eq!(live.end(), Some(75));
    let still = carboy(&world, &["resume"]);
    assert!(still.status.code() == Some(77) && stderr(&still).contains("budget top-up bottle:test"), "{still:?}");
    assert_eq!(state(&world), "frozen");
    world.bottle(&format!("{STANDARD_ROUTES}ceiling: {{claude: 1M}}\nshutdown: freeze\n"));
    world.write("project/over", "");
    let again = carboy(&world, &["resume"]);
    assert_eq!(again.status.code(), Some(0), "{again:?}");
}

fn storm(person: Person) {
    let world = World::new(person);
    let text = "import urllib.request\nprint('ready', flush=True)\nwhile True:\n    \
                try: urllib.request.urlopen('http://plain.example/page/clean')\n    except Exception: pass\n";
    world.write("project/storms.py", text);
    let live = Live::start(&world, "test", "exec python3 storms.py");
    let run = run_of(&world);
    assert_eq!(carboy(&world, &["stop", "--cutoff", "test"]).status.code(), Some(0));
    assert_eq!(live.end(), Some(75));
    assert_eq!(actions(&world), ["cutoff operator", "freeze storm"]);
    // The next time it is not given another one.
    let again = carboy(&world, &["resume", "-d", &run]);
    assert_eq!((again.status.code(), stdout(&again)), (Some(0), format!("{run}\n")), "{again:?}");
    assert_eq!(carboy(&world, &["stop", "--cutoff", "test"]).status.code(), Some(0));
    assert_eq!(carboy(&world, &["wait", &run]).status.code(), Some(79));
    assert_eq!(actions(&world)[2..], ["cutoff operator", "kill storm"]);
}

fn at_a_terminal(person: Person) {
    let world = World::new(person);
    let script = "tty >/dev/null || exit 9; if [ -e ~/kept ]; then echo back aga\"\"in; exit 3; fi; touch ~/kept; \
                  while read line; do echo heard $line; done";
    let screen = Screen::open(&world, &["run", "--bottle", "test", "--", "sh", "-c", script]);
    within(HAPPEN_WAIT_MAX, "it is up", || world.dir.join("home/state/test/home/kept").exists().then_some(()));
    let run = run_of(&world);
    assert_eq!(carboy(&world, &["stop", "--pause", &run]).status.code(), Some(0));
    screen.see(&format!("was paused: by `carboy stop`; `carboy resume {run}` lets it go on"));
    screen.line("one");
    // A second window: it says that it is paused, lets it go on and looks in.
    let other = Screen::open(&world, &["attach", &run]);
    other.see("carboy: it is paused (pause by the operator: by `carboy stop`)");
    let third = Screen::open(&world, &["resume", &run]);
    third.see(&format!("{run} of bottle test goes on (running)"));
    for seen in [&screen, &other, &third] {
        seen.see("heard one");
    }
    assert_eq!(carboy(&world, &["stop", "--freeze", &run]).status.code(), Some(0));
    screen.see("over with 75");
    other.see("over with 75");
    let again = Screen::open(&world, &["resume", "test"]);
    again.see("was frozen (by `carboy stop`), and is started again");
    again.see("back again");
    again.see("over with 3");
}
