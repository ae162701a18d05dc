//! Runs that nobody looks at: started apart, left, found again, asked, told of, and gone when they are over.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::runs::{carboy, living, stderr, stdout, within};
use crate::terminal::Screen;
use crate::world::{CANARY, Person, World};
use crate::{Case, case, case_with};

/// Longest wait for something that happens by itself.
const HAPPEN_WAIT_MAX: Duration = Duration::from_secs(20);
/// A client that reads nothing is let go after 15 seconds.
const STALL_WAIT_MAX: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    let tmux = &["tmux", "bash"];
    vec![
        case_with("E11 a closed window leaves the run, which is attached again and takes input", tmux, closed_window),
        case_with("the detach key leaves a run, and the terminal as it was", tmux, detach_key),
        case_with("a full-screen program draws its screen for whoever comes back", &["tmux", "less"], full_screen),
        case_with("a client's window is the program's window", tmux, window),
        case_with("M18 E12 a detached run asks its questions first", tmux, questions_first),
        case("E11 run -d comes back with an id; wait, ps -a, logs --output and the summary have the rest", detached),
        case("run -d that cannot start says the same, with the same code, as run", same_errors),
        case("run -d without a terminal refuses what it would ask", nobody_to_ask),
        case("200 MB for a slow reader: nothing is lost, and memory is bounded", slow_reader),
        case("of three clients the one that reads nothing is let go, and the others miss nothing", stuck_client),
        case("a supervisor that is killed: attach, wait and ps -a say that the run was lost", lost),
        case("E10 --rm removes the bottle's state, and not while somebody lives in it", removed),
        case("a second run in one directory is refused, unless it was meant", second_run),
        case("logs -f shows what is asked for and ends with the run", follow_logs),
        case("E11 exec runs a command in the bottle: streams, code, environment, directory", exec_pipes),
        case_with("exec gives a terminal to a person at one", tmux, exec_terminal),
        case("exec ends with its client, and with the run", exec_ends),
        case("stop waits for the end of a detached run", stop_detached),
        case("a webhook hears a waiting program, a storm and the end, over TLS and on this machine", webhook),
        case("a webhook carries no secret that a program rings with", webhook_leak),
        case_with("what a program printed does nothing to the terminal that shows it later", tmux, hostile_output),
    ]
}

/// Starts a detached run and gives its id.
fn start(world: &World, flags: &[&str], script: &str) -> String {
    let arguments = [&["run", "-d", "--bottle", "test"], flags, &["--", "sh", "-c", script]].concat();
    let output = carboy(world, &arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let run = stdout(&output).trim_end().to_owned();
    assert!(run.starts_with("r-") && !run.contains('\n'), "{output:?}");
    assert!(stderr(&output).contains(&format!("carboy attach {run}")), "{output:?}");
    run
}

fn wait(world: &World, target: &str) -> Output {
    carboy(world, &["wait", "--json", target])
}

fn printed(world: &World, run: &str) -> String {
    stdout(&carboy(world, &["logs", "--output", run]))
}

fn see_printed(world: &World, run: &str, what: &str) {
    within(HAPPEN_WAIT_MAX, what, || printed(world, run).contains(what).then_some(()));
}

fn only_run(world: &World) -> String {
    let run = within(HAPPEN_WAIT_MAX, "a run", || living(world).first().map(|run| run["record"]["run"].clone()));
    run.as_str().unwrap().to_owned()
}

fn run_sh(script: &str) -> Vec<&str> {
    vec!["run", "--bottle", "test", "--", "sh", "-c", script]
}

fn closed_window(person: Person) {
    let world = World::new(person);
    let run = {
        let screen = Screen::open(&world, &run_sh("echo is ready; read line; echo got $line; tty; exit 7"));
        screen.see("is ready");
        let run = only_run(&world);
        screen.tmux(&["kill-server"]);
        run
    };
    let screen = Screen::open(&world, &["attach", &run]);
    screen.see("is ready");
    screen.line("hello");
    let text = screen.see("over with 7");
    assert!(text.contains("got hello\n/dev/pts/0\n"), "{text}");
    assert_eq!(wait(&world, &run).status.code(), Some(7));
    // It ended in order: the end is in the log, and who came is too.
    let actions: Vec<String> = world.log().iter().filter_map(|e| e.text("action").map(str::to_owned)).collect();
    assert_eq!(actions.iter().filter(|action| *action == "end").count(), 1);
    assert_eq!(actions.iter().filter(|action| *action == "attach").count(), 2);
}

fn detach_key(person: Person) {
    let world = World::new(person);
    let script = "printf '\\033[?1049h\\033[?25l'; stty raw -echo; echo up; while :; do sleep 0.05; done";
    let screen = Screen::open(&world, &run_sh(script));
    screen.see("up");
    let run = only_run(&world);
    screen.key("C-]");
    let text = screen.see("over with 0");
    assert!(text.contains(&format!("left {run} of bottle test")) && text.contains("carboy attach"), "{text}");
    screen.line("stty -a; echo shown $((20+3))");
    let text = screen.see("\nshown 23\n");
    assert!(text.contains(" icanon") && text.contains(" echo "), "{text}");
    assert_eq!(screen.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]), "0 1\n");
    assert_eq!(only_run(&world), run);
    drop(screen);
    assert_eq!(carboy(&world, &["stop", "--kill", &run]).status.code(), Some(0));
    // A picture that is drawn in the middle of the shell's own screen stays whole: what is said comes below it.
    let picture = "printf 'top\\nmiddle\\nbottom\\n\\033[3A'; while :; do sleep 0.05; done";
    let screen = Screen::open(&world, &run_sh(picture));
    screen.see("bottom");
    let inline = only_run(&world);
    screen.key("C-]");
    let text = screen.see("over with 0");
    assert!(text.find("top\nmiddle\nbottom\n").is_some_and(|at| text.find("left r-").unwrap() > at), "{text}");
    drop(screen);
    assert_eq!(carboy(&world, &["stop", "--kill", &inline]).status.code(), Some(0));
    let run = start(&world, &[], script);
    // Another key, or none.
    let screen = Screen::open(&world, &["attach", "--detach-key", "ctrl-q", "test"]);
    screen.see("up");
    screen.key("C-q");
    screen.see("over with 0");
    drop(screen);
    let screen = Screen::open(&world, &["attach", "--detach-key", "none", "test"]);
    screen.see("up");
    assert_eq!(carboy(&world, &["stop", "--kill", &run]).status.code(), Some(0));
    screen.see("over with 137");
}

fn full_screen(person: Person) {
    let world = World::new(person);
    let lines: String = (0..500).map(|n| format!("line {n} of the text\n")).collect();
    world.write("project/text", &lines);
    {
        let screen = Screen::open(&world, &["run", "--bottle", "test", "--", "less", "text"]);
        screen.see("line 10 of the text");
        screen.key("Space");
        screen.see("line 50 of the text");
        screen.tmux(&["kill-server"]);
    }
    let screen = Screen::open(&world, &["attach", "test"]);
    // The screen and nothing but the screen: it was drawn, not only shown again.
    let drawn = |text: &str| text.contains("line 30 of the text") && !text.contains("line 10 of the text");
    screen.see_where("the second page", drawn);
    assert_eq!(screen.tmux(&["display-message", "-p", "#{alternate_on}"]), "1\n");
    screen.key("q");
    screen.see("over with 0");
    assert_eq!(screen.tmux(&["display-message", "-p", "#{alternate_on}"]), "0\n");
}

fn window(person: Person) {
    let world = World::new(person);
    let run = start(&world, &[], "stty size; trap 'stty size' WINCH; echo traps; while :; do sleep 0.05; done");
    see_printed(&world, &run, "24 80\r\ntraps");
    let screen = Screen::open(&world, &["attach", &run]);
    screen.see("\n30 100\n");
    screen.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    screen.see("\n40 120\n");
    carboy(&world, &["stop", "--kill", &run]);
    screen.see("over with 137");
}

fn questions_first(person: Person) {
    let world = World::new(person);
    world.bottle("env: {TICKET: \"?Which ticket is it\"}\n");
    let script = "test \"$TICKET\" = secret-4711 && echo it is ${#TICKET} long; exit 3";
    let screen = Screen::open(&world, &["run", "-d", "--bottle", "test", "--", "sh", "-c", script]);
    screen.see("Which ticket is it:");
    screen.line("secret-4711");
    let text = screen.see("over with 0");
    assert!(text.contains("runs on its own") && !text.contains("secret-4711"), "{text}");
    assert_eq!(wait(&world, "test").status.code(), Some(3));
    let run = carboy(&world, &["ps", "-a", "--json"]);
    let run: Value = serde_json::from_slice(&run.stdout).unwrap();
    let run = run["ended"][0]["record"]["run"].as_str().unwrap();
    assert!(printed(&world, run).contains("it is 11 long"));
    // The terminal is as it was.
    screen.line("stty -a; echo shown $((20+3))");
    assert!(screen.see("\nshown 23\n").contains(" echo "));
}

fn detached(person: Person) {
    let world = World::new(person);
    let script = "tty; stty size; echo to stderr >&2; until [ -e go ]; do sleep 0.05; done; \
                  curl -s https://collector.example/; exit 5";
    let run = start(&world, &[], script);
    assert_eq!(living(&world)[0]["record"]["terminal"], true);
    see_printed(&world, &run, "/dev/pts/0\r\n24 80\r\nto stderr");
    // It belongs to no terminal and no session of ours, and its order is on no command line.
    let pid = living(&world)[0]["record"]["supervisor_pid"].as_u64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    assert_eq!((fields[3], fields[4]), (pid.to_string().as_str(), "0"), "session and terminal: {stat}");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.starts_with(b"carboy\0supervise\0") && !line.windows(4).any(|w| w == b"stty"), "{line:?}");
    for fd in 0..3 {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{fd}"));
        assert!(link.is_err() || link.unwrap().to_str() == Some("/dev/null"));
    }
    world.write("project/go", "");
    let waited = wait(&world, &run);
    assert_eq!(waited.status.code(), Some(5));
    let summary: Value = serde_json::from_slice(&waited.stdout).unwrap();
    assert_eq!((&summary["run"], &summary["ended"]["code"]), (&run.as_str().into(), &5.into()));
    // And once more when it is long over, by the bottle's name too.
    assert_eq!(wait(&world, &run).stdout, waited.stdout);
    assert_eq!(wait(&world, "test").status.code(), Some(5));
    let table = stdout(&carboy(&world, &["ps", "-a"]));
    assert!(table.lines().any(|l| l.starts_with(&run) && l.contains(" ended ") && l.contains("  5 ")), "{table}");
    let kept = world.dir.join("home/state/test/runs").join(&run);
    let mut names: Vec<_> =
        std::fs::read_dir(&kept).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["output", "record.json", "summary.json"]);
    for name in names {
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(kept.join(name)).unwrap().mode() & 0o777, 0o600);
    }
    assert_eq!(carboy(&world, &["attach", &run]).status.code(), Some(1));
    // Pipes, and nothing kept.
    let run = start(&world, &["--no-tty", "--no-output"], "tty; cat; echo out; exit 2");
    assert_eq!(wait(&world, &run).status.code(), Some(2));
    assert_eq!(carboy(&world, &["logs", "--output", &run]).status.code(), Some(1));
    assert_eq!(carboy(&world, &["wait", "nobody"]).status.code(), Some(1));
}

fn same_errors(person: Person) {
    let world = World::new(person);
    world.write(
        "home/bottles/keyless.md",
        "---\negress: {routes: [{host: api.example, auth_scheme: Bearer, token_env: NO_SUCH_KEY}]}\n---\n",
    );
    world.write("home/bottles/broken.md", "---\negress: {routes: [{host: \"not a host\"}]}\n---\n");
    for arguments in [
        &["--bottle", "nobody"][..],
        &["--bottle", "broken"],
        &["--bottle", "keyless"],
        &["--bottle", "test", "--workdir", "/usr"],
        &["--bottle", "test", "--bind", "/no/such/place"],
        &["--bottle", "test", "--env", "not-a-name=x"],
    ] {
        let run = |first: &[&str]| carboy(&world, &[first, arguments, &["--", "true"]].concat());
        let (here, apart) = (run(&["run"]), run(&["run", "-d"]));
        assert_ne!(here.status.code(), Some(0));
        assert_eq!((here.status.code(), stderr(&here)), (apart.status.code(), stderr(&apart)), "{arguments:?}");
        assert_eq!(stdout(&apart), "");
    }
    assert_eq!(living(&world), Vec::<Value>::new());
    let ended: Value = serde_json::from_slice(&carboy(&world, &["ps", "-a", "--json"]).stdout).unwrap();
    assert_eq!(ended["ended"], serde_json::json!([]), "what never was is not kept");
    // A program that is not there is the run's own end.
    let output = carboy(&world, &["run", "-d", "--bottle", "test", "--", "no-such-program"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(wait(&world, stdout(&output).trim()).status.code(), Some(127));
}

fn nobody_to_ask(person: Person) {
    let world = World::new(person);
    world.bottle("env: {TICKET: \"?Which ticket is it\"}\n");
    let output = carboy(&world, &["run", "-d", "--bottle", "test", "--", "true"]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("--env TICKET="), "{output:?}");
    let output =
        carboy(&world, &["run", "-d", "--bottle", "test", "-e", "TICKET=abc", "--", "sh", "-c", "echo $TICKET"]);
    let run = stdout(&output).trim().to_owned();
    assert_eq!(wait(&world, &run).status.code(), Some(0), "{output:?}");
    assert!(printed(&world, &run).contains("abc"));
}

/// A client that shows output alone.
fn watch(world: &World, run: &str) -> Child {
    world.carboy(&["attach", run]).stdout(Stdio::piped()).spawn().unwrap()
}

/// Who looks on is in the log as soon as they do.
fn see_watchers(world: &World, count: usize) {
    let attached = || world.log().iter().filter(|e| e.text("action") == Some("attach")).count();
    within(HAPPEN_WAIT_MAX, "the clients", || (attached() == count).then_some(()));
}

fn slow_reader(person: Person) {
    const LINES: u64 = 23_000_000;
    let world = World::new(person);
    let script = format!("until [ -e go ]; do sleep 0.05; done; seq {LINES}");
    let run = start(&world, &["--no-tty"], &script);
    let pid = living(&world)[0]["record"]["supervisor_pid"].as_u64().unwrap();
    let mut client = watch(&world, &run);
    see_watchers(&world, 1);
    world.write("project/go", "");
    let mut out = BufReader::with_capacity(1 << 20, client.stdout.take().unwrap());
    let (mut line, mut bytes, mut peak) = (String::new(), 0, 0);
    for expected in 1..=LINES {
        line.clear();
        bytes += out.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end().parse(), Ok(expected));
        if expected % 1_000_000 == 0 {
            // Now and then it does not read at all.
            std::thread::sleep(Duration::from_millis(100));
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = resident.and_then(|kib| kib.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
            peak = peak.max(kib.unwrap_or(0));
        }
    }
    assert_eq!(out.read_line(&mut line).unwrap(), 0);
    assert!(bytes > 190_000_000 && client.wait().unwrap().success());
    assert!(peak > 0 && peak < 100 * 1024, "{peak} KiB");
    // The last of it is kept.
    assert!(printed(&world, &run).ends_with(&format!("{}\n{LINES}\n", LINES - 1)));
    assert!(printed(&world, &run).len() <= 1024 * 1024);
}

fn stuck_client(person: Person) {
    const LINES: usize = 2_000_000;
    let world = World::new(person);
    let run = start(&world, &["--no-tty"], &format!("until [ -e go ]; do sleep 0.05; done; seq {LINES}; exit 4"));
    let readers = [watch(&world, &run), watch(&world, &run)];
    let mut stuck = watch(&world, &run);
    see_watchers(&world, 3);
    world.write("project/go", "");
    let begun = Instant::now();
    let reading: Vec<_> = readers
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                let mut text = String::new();
                client.stdout.take().unwrap().read_to_string(&mut text).unwrap();
                (text.lines().count(), client.wait().unwrap().code())
            })
        })
        .collect();
    for reader in reading {
        assert_eq!(reader.join().unwrap(), (LINES, Some(4)));
    }
    assert!(begun.elapsed() < STALL_WAIT_MAX);
    assert_eq!(wait(&world, &run).status.code(), Some(4));
    stuck.kill().unwrap();
    stuck.wait().unwrap();
}

fn lost(person: Person) {
    let world = World::new(person);
    let before: Vec<_> = std::fs::read_dir(&world.project).unwrap().map(|e| e.unwrap().file_name()).collect();
    let run = start(&world, &[], "echo up; sleep 300");
    see_printed(&world, &run, "up");
    let stubs = std::fs::read_dir(&world.project).unwrap().count();
    assert!(stubs > before.len(), "{stubs}");
    let client = watch(&world, &run);
    let mut waiting = world.carboy(&["wait", &run]);
    let waiting = waiting.spawn().unwrap();
    see_watchers(&world, 1);
    let pid = i32::try_from(living(&world)[0]["record"]["supervisor_pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    for process in [client, waiting] {
        let output = process.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(71), "{output:?}");
        assert!(stderr(&output).contains("was lost"), "{output:?}");
        assert!(stderr(&output).contains("its workspace was put in order"), "{output:?}");
    }
    // What was mounted over empty stubs is gone, and so are they.
    let names =
        |dir: &std::path::Path| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(names(&world.project), before);
    assert_eq!(wait(&world, &run).status.code(), Some(71));
    let table = stdout(&carboy(&world, &["ps", "-a"]));
    assert!(table.lines().any(|line| line.starts_with(&run) && line.contains(" lost ")), "{table}");
    // What it printed until then is there.
    assert!(printed(&world, &run).contains("up"));
}

fn removed(person: Person) {
    let world = World::new(person);
    world.sh("echo kept > ~/note").expect_code(0);
    assert_eq!(world.sh("cat ~/note").expect_code(0).stdout, "kept\n");
    let state = world.dir.join("home/state/test");
    let run = start(&world, &["--rm"], "mkdir -p ~/a/b; chmod 0 ~/a; until [ -e go ]; do sleep 0.05; done; exit 6");
    let waiting = world.carboy(&["wait", &run]).spawn().unwrap();
    // While one lives, the next may not take its home away.
    let other = carboy(&world, &["run", "--rm", "--another", "--bottle", "test", "--", "true"]);
    assert!(other.status.code() == Some(77) && stderr(&other).contains(&run), "{other:?}");
    assert!(state.join("home/note").exists());
    std::fs::write(world.project.join("go"), "").unwrap();
    assert_eq!(waiting.wait_with_output().unwrap().status.code(), Some(6));
    assert!(!state.exists());
    // Also when it is stopped.
    let run = start(&world, &["--rm"], "echo up; exec sleep 300");
    assert_eq!(carboy(&world, &["stop", &run]).status.code(), Some(0));
    assert!(!state.exists());
    assert_eq!(wait(&world, &run).status.code(), Some(1), "nothing is known of it any more");
}

fn second_run(person: Person) {
    let world = World::new(person);
    let run = start(&world, &[], "sleep 300");
    let second = carboy(&world, &["run", "--bottle", "test", "--", "true"]);
    assert_eq!(second.status.code(), Some(77), "{second:?}");
    let words = stderr(&second);
    assert!(words.contains(&run) && words.contains("carboy attach") && words.contains("--another"), "{words}");
    assert_eq!(carboy(&world, &["run", "--another", "--bottle", "test", "--", "true"]).status.code(), Some(0));
    // Somewhere else it is somebody else's work.
    world.write("elsewhere/file", "");
    let elsewhere = world.dir.join("elsewhere");
    let other = carboy(&world, &["run", "--bottle", "test", "-w", elsewhere.to_str().unwrap(), "--", "true"]);
    assert_eq!(other.status.code(), Some(0), "{other:?}");
    assert_eq!(carboy(&world, &["stop", "--kill", &run]).status.code(), Some(0));
}

fn follow_logs(person: Person) {
    let world = World::new(person);
    let script = "until [ -e go ]; do sleep 0.05; done; curl -s https://collector.example/; exit 0";
    let run = start(&world, &[], script);
    let mut follower = world.carboy(&["logs", "-f", &run]).spawn().unwrap();
    let mut out = BufReader::new(follower.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    assert!(first.contains("start") && first.contains(&run), "{first}");
    world.write("project/go", "");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("collector.example") && rest.trim_end().lines().last().unwrap().contains(" end "), "{rest}");
    assert_eq!(follower.wait().unwrap().code(), Some(0));
    // Of a run that is over it shows all and ends.
    let again = stdout(&carboy(&world, &["logs", "-f", &run]));
    assert_eq!(again, first + &rest);
}

fn exec_pipes(person: Person) {
    let world = World::new(person);
    let run = start(&world, &["-e", "SHARED=yes"], "echo up; sleep 300");
    see_printed(&world, &run, "up");
    let script = "cat; echo $SHARED $MORE; pwd; id -u; tty; echo bad >&2; exit 9";
    let mut command = world.carboy(&["exec", "test", "-e", "MORE=too", "-w", "/tmp", "--", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from outside\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(9), "{output:?}");
    assert_eq!(stdout(&output), "from outside\nyes too\n/tmp\n1000\nnot a tty\n");
    assert_eq!(stderr(&output), "bad\n");
    // Much of it, both ways.
    let mut command = world.carboy(&["exec", &run, "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let text: String = (0..400_000).map(|n| format!("line {n}\n")).collect();
    let sent = text.clone();
    let writing = std::thread::spawn(move || input.write_all(sent.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success() && stdout(&output) == text, "{} of {}", output.stdout.len(), text.len());
    // The same door for it as for the first program.
    let output = carboy(&world, &["exec", &run, "--", "curl", "-s", "https://collector.example/"]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    let output = carboy(&world, &["exec", &run, "--", "no-such-program"]);
    assert!(output.status.code() == Some(127) && stderr(&output).contains("not found in the bottle"), "{output:?}");
    assert_eq!(carboy(&world, &["exec", "nobody", "--", "true"]).status.code(), Some(1));
    // Without a command there has to be a terminal for a shell; with one the dashes may be left out.
    let output = carboy(&world, &["exec", &run]);
    assert!(output.status.code() == Some(2) && stderr(&output).contains("exec ") && stdout(&output).is_empty());
    let output = carboy(&world, &["exec", &run, "sh", "-c", "echo plainly; exit 3"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(3), "plainly\n".into()), "{output:?}");
    // It is in the log within the time in which entries are gathered.
    let execs = || world.log().iter().filter(|e| e.text("action") == Some("exec")).count();
    within(HAPPEN_WAIT_MAX, "five entries", || (execs() == 5).then_some(()));
    carboy(&world, &["stop", "--kill", &run]);
}

fn exec_terminal(person: Person) {
    let world = World::new(person);
    let run = start(&world, &[], "sleep 300");
    let screen = Screen::open(&world, &["exec", &run, "--", "bash", "--norc", "--noprofile", "-i"]);
    screen.see("bash-");
    screen.line("stty size; echo $TERM; sh -c 'echo slee\"\"ping; exec sleep 100'");
    let text = screen.see("\nsleeping\n");
    assert!(text.contains("\n30 100\ntmux\n"), "{text}");
    screen.key("C-c");
    screen.line("echo then $?; exit 8");
    let text = screen.see("over with 8");
    assert!(text.contains("\nthen 130\n"), "{text}");
    screen.line("stty -a; echo shown $((20+3))");
    assert!(screen.see("\nshown 23\n").contains(" icanon"));
    drop(screen);
    // Without a command it is a shell.
    let screen = Screen::open(&world, &["exec", &run]);
    screen.see_where("a prompt", |text| text.contains('$') || text.contains('#'));
    screen.line("cd /tmp; pwd; echo sum $((20+4)); exit 6");
    let text = screen.see("over with 6");
    assert!(text.contains("/tmp\n") && text.contains("sum 24\n"), "{text}");
    carboy(&world, &["stop", "--kill", &run]);
}

fn exec_ends(person: Person) {
    let world = World::new(person);
    let run = start(&world, &[], "sleep 300");
    let script = "trap 'echo hung up > hung; exit' HUP; echo up; while :; do sleep 0.05; done";
    let mut child = world.carboy(&["exec", &run, "--", "sh", "-c", script]).spawn().unwrap();
    let mut first = [0; 3];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    within(HAPPEN_WAIT_MAX, "the command hears of it", || world.project.join("hung").exists().then_some(()));
    // A run that ends takes its commands along.
    let child = world.carboy(&["exec", &run, "--", "sleep", "300"]).spawn().unwrap();
    let count = || world.log().iter().filter(|e| e.text("action") == Some("exec")).count();
    within(HAPPEN_WAIT_MAX, "the second command", || (count() == 2).then_some(()));
    carboy(&world, &["stop", "--kill", &run]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(137), "{output:?}");
}

fn stop_detached(person: Person) {
    let world = World::new(person);
    let run =
        start(&world, &[], "trap 'sleep 0.5; echo ended > done; exit 6' TERM; echo up; while :; do sleep 0.05; done");
    see_printed(&world, &run, "up");
    assert_eq!(carboy(&world, &["stop", &run]).status.code(), Some(0));
    assert!(world.project.join("done").exists() && living(&world).is_empty());
    assert_eq!(wait(&world, &run).status.code(), Some(6));
}

fn webhook(person: Person) {
    let world = World::new(person);
    let urls = [
        ("https://notes.example/sink?T0P-PATH".to_owned(), "/sink?T0P-PATH"),
        (format!("http://{}/sink?plain", world.provider.addr), "/sink?plain"),
    ];
    for (url, path) in urls {
        world.settings(&format!(
            "secrets: {{HOOK: {{env: HOST_CANARY}}}}\nnotify: {{bell: true, webhook: {{url: \"{url}\", token_env: HOOK}}}}\n"
        ));
        let script = "printf 'x\\033]9;Shall I go on?\\007'; until [ -e go ]; do sleep 0.05; done; \
                      for n in $(seq 25); do curl -s https://collector.example/; done; until [ -e end ]; do sleep 0.05; done; exit 3";
        let run = start(&world, &[], script);
        let heard = |event: &str| {
            let mark = format!("\"event\":\"{event}\"");
            let fits = |body: &[u8]| String::from_utf8_lossy(body).contains(&mark);
            world.provider.received().into_iter().rev().find(|r| r.method == "POST" && r.path == path && fits(&r.body))
        };
        let waiting = within(HAPPEN_WAIT_MAX, "waiting", || heard("waiting"));
        let body: Value = serde_json::from_slice(&waiting.body).unwrap();
        assert_eq!((&body["text"], &body["run"]), (&"says: Shall I go on?".into(), &run.as_str().into()));
        assert_eq!(body["bottle"], "test");
        let log = std::fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
        let noted = |line: &&str| line.contains("\"notify\"") && line.contains(&run) && line.contains("\"waiting\"");
        assert_eq!(log.lines().filter(noted).count(), 1, "written down before it is sent: {log}");
        assert!(!log.contains("Shall I go on"), "the words are the program's");
        let token = format!("Bearer {CANARY}").into_bytes();
        assert!(waiting.headers.contains(&("authorization".into(), token)), "{waiting:?}");
        std::fs::write(world.project.join("go"), "").unwrap();
        within(HAPPEN_WAIT_MAX, "storm", || heard("storm"));
        std::fs::write(world.project.join("end"), "").unwrap();
        assert_eq!(wait(&world, &run).status.code(), Some(3));
        let end = heard("end").unwrap();
        let body: Value = serde_json::from_slice(&end.body).unwrap();
        assert!(body["text"].as_str().unwrap().starts_with("ended with code 3 after "), "{body}");
        for name in ["go", "end"] {
            std::fs::remove_file(world.project.join(name)).unwrap();
        }
    }
    // One that nobody answers on costs a line in the log, once, and no run.
    world.settings("notify: {webhook: {url: \"http://127.0.0.1:1/T0P-PATH\"}}\n");
    let run = start(&world, &[], "printf '\\007'; sleep 0.3; exit 0");
    assert_eq!(wait(&world, &run).status.code(), Some(0));
    let log = std::fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
    let failed = |line: &&str| line.contains("\"notify\"") && line.contains("\"failed\"");
    assert_eq!(log.lines().filter(failed).count(), 1, "{log}");
    assert!(!log.contains("T0P-PATH"));
}

fn webhook_leak(person: Person) {
    let world = World::new(person);
    let url = format!("http://{}/sink", world.provider.addr);
    world.settings(&format!(
        "secrets: {{HOOK: {{env: HOST_CANARY}}}}\nnotify: {{webhook: {{url: \"{url}\", token_env: HOOK}}}}\n"
    ));
    // The key lies in the workspace, as it does in many; the program may reach nobody.
    world.write("project/key", CANARY);
    let run = start(&world, &[], "printf 'x\\033]9;look: %s\\007' \"$(cat key)\"; sleep 0.3; exit 0");
    assert_eq!(wait(&world, &run).status.code(), Some(0));
    let posted: Vec<String> =
        world.provider.received().iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
    assert!(posted.iter().any(|body| body.contains("says: look: [REDACTED:known_secret:HOOK]")), "{posted:?}");
    assert!(!posted.concat().contains(CANARY), "{posted:?}");
    let log = std::fs::read_to_string(world.dir.join("home/audit/audit.jsonl")).unwrap();
    let noted = |line: &&str| line.contains("\"notify\"") && line.contains("\"redacted\"") && line.contains("HOOK");
    assert_eq!(log.lines().filter(noted).count(), 1, "{log}");
}

fn hostile_output(person: Person) {
    let world = World::new(person);
    let script =
        "printf 'first\\033[2J\\033]0;stolen\\007\\033[5;5Hsecond\\033[?1049h\\033]52;c;aGVsbG8=\\007\\r\\nlast\\n'";
    let run = start(&world, &[], script);
    assert_eq!(wait(&world, &run).status.code(), Some(0));
    let screen = Screen::open(&world, &["logs", "--output", &run]);
    let text = screen.see("over with 0");
    assert!(text.contains("firstsecond\nlast\n"), "{text}");
    assert_eq!(screen.tmux(&["display-message", "-p", "#{alternate_on}"]), "0\n");
    assert!(!screen.tmux(&["display-message", "-p", "#{pane_title}"]).contains("stolen"));
    // A pipe gets what there is.
    assert!(printed(&world, &run).contains("\u{1b}[2J"));
}
