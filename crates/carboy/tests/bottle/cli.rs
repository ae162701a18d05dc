//! What is asked of a person at launch, and what is refused before anything runs.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use serde_json::Value;

use crate::world::{Person, REAL_KEY, STANDARD_ROUTES, World};
use crate::{Case, case};

/// A file with two mistakes on known lines.
const BROKEN: &str = "egress:\n  routes:\n    - host: https://a.example\nruntime: runsc\n";

pub fn cases() -> Vec<Case> {
    vec![
        case("M11 M12 check says every error with its place, and exits with 78", check),
        case("check says which secrets are not there, and runs no command to know", check_looks_for_secrets),
        case("check of an agent that is not there says which are, and that it is a bottle", no_such_agent),
        case("M7 a broken file that was not chosen stops no launch, a chosen one does", broken_files),
        case("a missing secret stops the launch and is named", missing_secret),
        case("a home or a system directory is no workspace", workspaces),
        case("--env, --bind and --workdir do what they say", flags),
        case("keys and carboy's own files are never bound", never_bound),
        case("a real key is not put into a variable inside, by whatever way", keys_in_variables),
        case("M19 without a command the bottle's provider is started", provider),
        case("nothing runs without a log, or from a home that others may write", no_log),
        case("M18 E12 without a terminal a `?` variable names the flag to use", asked_without_terminal),
        case("M4 M9 M39 an agent's file chooses the bottle, and the command line another", agents),
        case("M3 a repository's bottle file is ignored, with a warning", repository_bottle),
        case(
            "the guide's first bottle: ~/.carboy, a project with blanks in its name, sockets in XDG_RUNTIME_DIR",
            first_bottle,
        ),
        case("doctor --json says the tier", doctor),
        case("the tour goes as promised", tour),
        case("an interrupted tour leaves nothing behind", interrupted_tour),
        case("a program that is not there is told apart from one that may not run", not_started),
    ]
}

fn carboy(world: &World, arguments: &[&str]) -> Output {
    world.carboy(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `carboy run FLAGS -- touch ran` has to end with this code, without the program having run.
fn refused(world: &World, flags: &[&str], code: i32) -> String {
    let before = names(&world.project);
    let output = carboy(world, &[&["run"], flags, &["--", "touch", "ran"]].concat());
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    // Nothing ran, and what the bottle puts into a workspace for its time is gone.
    assert_eq!(names(&world.project), before);
    stderr(&output)
}

fn names(dir: &std::path::Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn check(person: Person) {
    let world = World::new(person);
    let good = carboy(&world, &["check"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(stdout(&good).ends_with("valid: 2 files checked\n"), "{good:?}");
    let object: Value =
        serde_json::from_slice(&carboy(&world, &["check", "--json", "--bottle", "test"]).stdout).unwrap();
    assert_eq!(object["ok"], true, "{object}");
    assert!(object["effective"].is_object() && !object.to_string().contains(REAL_KEY), "{object}");
    let page = stdout(&carboy(&world, &["check", "--bottle", "test"]));
    for row in ["bottle     test\n", "program    ", "routes     ", "secrets    ANTHROPIC_API_KEY, from ", "hidden     "]
    {
        assert!(page.contains(row), "{row} is not in {page}");
    }
    assert!(page.contains("notes.example port ") && !page.contains('{') && !page.contains(REAL_KEY), "{page}");
    world.bottle(BROKEN);
    let bad = carboy(&world, &["check"]);
    assert_eq!(bad.status.code(), Some(78));
    let text = stdout(&bad);
    assert!(text.contains("/bottles/test.md:4:13: ") && text.contains("/bottles/test.md:5:1: "), "{text}");
    let json = carboy(&world, &["check", "--json"]);
    assert_eq!(json.status.code(), Some(78));
    let object: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(object["ok"], false);
    let mut found: Vec<(&str, i64)> = object["diagnostics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| (d["code"].as_str().unwrap(), d["line"].as_i64().unwrap()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("bad-host", 4), ("removed-key", 5)]);
}

fn check_looks_for_secrets(person: Person) {
    let world = World::new(person);
    let without_key = |arguments: &[&str]| world.carboy(arguments).env_remove("ANTHROPIC_API_KEY").output().unwrap();
    for arguments in [&["check"][..], &["check", "--bottle", "test"]] {
        let text = stdout(&carboy(&world, arguments));
        assert!(!text.contains("warning: ANTHROPIC_API_KEY"), "{text}");
        let output = without_key(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = stdout(&output);
        assert!(text.contains("warning: ANTHROPIC_API_KEY: not set here (bottle test)\n  fix: `export"), "{text}");
    }
    let states = || {
        let object: Value = serde_json::from_slice(&without_key(&["check", "--json"]).stdout).unwrap();
        let all = object["secrets"].as_array().unwrap().clone();
        all.iter().find(|one| one["secret"] == "ANTHROPIC_API_KEY").unwrap().clone()
    };
    assert_eq!(states()["state"], "missing");
    // A file is looked at as a launch would, and a command is not run to look.
    let key = world.dir.join("key.txt");
    world.settings(&format!("secrets:\n  ANTHROPIC_API_KEY: {{file: {}}}\n", key.display()));
    assert!(states()["fix"].as_str().unwrap().contains("umask 077"), "{}", states());
    let failed = without_key(&["run", "--bottle", "test", "--", "true"]);
    assert_eq!(failed.status.code(), Some(78));
    assert!(stderr(&failed).contains("hint: write the value there"), "{failed:?}");
    world.write("key.txt", REAL_KEY);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(states()["what"].as_str().unwrap().contains("chmod 600"), "{}", states());
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(states()["state"], "ready");
    let ran = world.dir.join("project/ran");
    world.settings(&format!("secrets:\n  ANTHROPIC_API_KEY: {{command: [touch, {}]}}\n", ran.display()));
    assert_eq!(states()["state"], "not_run");
    assert!(!ran.exists());
}

fn no_such_agent(person: Person) {
    let world = World::new(person);
    world.write("home/agents/fixer.md", "---\nbottle: test\n---\nDo it.\n");
    let text = |name: &str| {
        let output = carboy(&world, &["check", name]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        stdout(&output)
    };
    let nobody = text("nosuch");
    for part in ["there is no agent `nosuch`", "fixer", "--bottle: `test`", "1 error in what was asked for"] {
        assert!(nobody.contains(part), "{part} is not in {nobody}");
    }
    assert!(text("test").contains("there is a bottle of that name: `--bottle test`"));
}

fn broken_files(person: Person) {
    let world = World::new(person);
    world.write("home/bottles/broken.md", &format!("---\n{BROKEN}---\n"));
    world.run(&["true"]).expect_code(0);
    let text = refused(&world, &["--bottle", "broken"], 78);
    assert!(text.contains("/bottles/broken.md:4:13: ") && text.contains("  fix: "), "{text}");
    let text = refused(&world, &["--bottle", "nobody"], 78);
    assert!(text.contains("nobody"), "{text}");
    refused(&world, &[], 78);
    refused(&world, &["--bottle", "../x"], 78);
    refused(&world, &["--bottle", "test", "--bottle", "broken"], 78);
}

fn missing_secret(person: Person) {
    let world = World::new(person);
    let arguments = ["run", "--bottle", "test", "--", "touch", "ran"];
    let before = names(&world.project);
    for empty in [false, true] {
        let mut command = world.carboy(&arguments);
        if empty {
            command.env("ANTHROPIC_API_KEY", "")
        } else {
            command.env_remove("ANTHROPIC_API_KEY")
        };
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let text = stderr(&output);
        assert!(text.contains("ANTHROPIC_API_KEY") && text.contains("settings.yml"), "{text}");
        assert_eq!(names(&world.project), before);
    }
    // From a command or a file it is as good.
    world.write("key.txt", REAL_KEY);
    let file = world.dir.join("key.txt");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    world.settings(&format!(
        "secrets:\n  ANTHROPIC_API_KEY: {{file: {}}}\n  OPENAI_API_KEY: {{command: [echo, from-a-command]}}\n",
        file.display()
    ));
    let output =
        world.carboy(&arguments).env_remove("ANTHROPIC_API_KEY").env_remove("OPENAI_API_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn workspaces(person: Person) {
    let world = World::new(person);
    let home = world.dir.join("user");
    for dir in ["/", "/home", "/etc", "/usr", "/proc", home.to_str().unwrap(), world.dir.to_str().unwrap()] {
        let text = refused(&world, &["--bottle", "test", "--workdir", dir], 77);
        assert!(text.contains("--workdir"), "{dir}: {text}");
    }
    let text = refused(&world, &["--bottle", "test", "--workdir", "/nonexistent"], 2);
    assert!(text.contains("/nonexistent"), "{text}");
}

fn flags(person: Person) {
    let world = World::new(person);
    world.write("shown/file", "given\n");
    world.write("writable/file", "given\n");
    world.write("elsewhere/here", "");
    let path = |name: &str| world.dir.join(name).to_str().unwrap().to_owned();
    let (shown, writable) = (path("shown"), format!("{}:/mnt/w:rw", path("writable")));
    let flags =
        ["--env", "GIVEN=a=b", "--env", "LANG", "--bind", &shown, "--bind", &writable, "--workdir", &path("elsewhere")];
    let script = format!(
        "echo $GIVEN $LANG; pwd; ls; cat {shown}/file /mnt/w/file; echo more >>/mnt/w/file; \
         echo more 2>/dev/null >>{shown}/file || echo read-only"
    );
    let ran = world.run_with(&flags, &["sh", "-c", &script]).expect_code(0);
    let expected = format!("a=b C.UTF-8\n{}\nhere\ngiven\ngiven\nread-only\n", path("elsewhere"));
    assert_eq!(ran.stdout, expected, "{}", ran.stderr);
    assert_eq!(std::fs::read_to_string(world.dir.join("writable/file")).unwrap(), "given\nmore\n");
    // `--workdir` is where the run is: an unset variable and an absent source are told with the flag.
    let text = refused(&world, &["--bottle", "test", "--env", "NOT_SET_ANYWHERE"], 2);
    assert!(text.contains("NOT_SET_ANYWHERE=VALUE"), "{text}");
    let text = refused(&world, &["--bottle", "test", "--bind", "/nonexistent"], 2);
    assert!(text.contains("/nonexistent"), "{text}");
    refused(&world, &["--bottle", "test", "--bind", "/usr:relative"], 2);
}

fn never_bound(person: Person) {
    let world = World::new(person);
    world.write("user/.ssh/id", "key");
    let path = |name: &str| world.dir.join(name).to_str().unwrap().to_owned();
    for bind in [path("user/.ssh"), path("user/.ssh/id"), path("home"), path("home/ca"), path("user")] {
        let text = refused(&world, &["--bottle", "test", "--bind", &format!("{bind}:/mnt/x")], 77);
        assert!(text.contains("never shown") || text.contains("cannot be shown"), "{bind}: {text}");
    }
    // A link to them is what it points to.
    std::os::unix::fs::symlink(path("user/.ssh"), world.dir.join("link")).unwrap();
    refused(&world, &["--bottle", "test", "--bind", &format!("{}:/mnt/x", path("link"))], 77);
}

fn keys_in_variables(person: Person) {
    let world = World::new(person);
    let habit = ["--bottle", "test", "--env", "ANTHROPIC_API_KEY"];
    let text = refused(&world, &habit, 77);
    assert!(text.contains("ANTHROPIC_API_KEY") && !text.contains(REAL_KEY), "{text}");
    let other = format!("URL=https://u:{REAL_KEY}@notes.example/");
    let text = refused(&world, &["--bottle", "test", "--env", &other], 77);
    assert!(text.contains("variable URL") && !text.contains(REAL_KEY), "{text}");
    world.bottle(&format!("{STANDARD_ROUTES}env: {{HELD: {REAL_KEY}}}\n"));
    let text = refused(&world, &["--bottle", "test"], 77);
    assert!(text.contains("HELD") && !text.contains(REAL_KEY), "{text}");
    // Another value under the name of a secret is the person's business.
    world.bottle(STANDARD_ROUTES);
    let ran =
        world.run_with(&["--env", "ANTHROPIC_API_KEY=mine"], &["sh", "-c", "echo $ANTHROPIC_API_KEY"]).expect_code(0);
    assert_eq!(ran.stdout, "mine\n");
}

fn provider(person: Person) {
    let world = World::new(person);
    world.bottle("agent_provider: {name: mine, command: sh, args: [-c, \"echo hello $WHO\"], env: {WHO: you}}\n");
    let ran = carboy(&world, &["run", "-q", "--bottle", "test"]);
    assert_eq!((ran.status.code(), stdout(&ran).as_str()), (Some(0), "hello you\n"), "{ran:?}");
    // A built-in one is the program of its name.
    world.bottle("agent_provider: codex\n");
    let ran = carboy(&world, &["run", "-q", "--bottle", "test", "--env", "PATH=/nonexistent"]);
    assert_eq!(ran.status.code(), Some(127), "{ran:?}");
    assert!(stderr(&ran).contains("`codex` was not found"), "{ran:?}");
}

fn no_log(person: Person) {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new(person);
    let log = world.dir.join("home/audit/audit.jsonl");
    std::fs::create_dir_all(&log).unwrap();
    let text = refused(&world, &["--bottle", "test"], 70);
    assert!(text.contains("audit.jsonl"), "{text}");
    std::fs::remove_dir(&log).unwrap();
    for (path, mode) in [("home/audit", 0o777), ("home/ca", 0o770), ("home/state", 0o722)] {
        world.run(&["true"]).expect_code(0);
        std::fs::set_permissions(world.dir.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
        let text = refused(&world, &["--bottle", "test"], 70);
        assert!(text.contains(path) && text.contains("0700"), "{path}: {text}");
        std::fs::set_permissions(world.dir.join(path), std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}

fn asked_without_terminal(person: Person) {
    let world = World::new(person);
    world.bottle("env: {TICKET: \"?Which ticket\", FIXED: set}\n");
    let text = refused(&world, &["--bottle", "test"], 2);
    assert!(text.contains("TICKET") && text.contains("--env TICKET=VALUE"), "{text}");
    let ran = world.run_with(&["--env", "TICKET=7"], &["sh", "-c", "echo $TICKET $FIXED"]).expect_code(0);
    assert_eq!(ran.stdout, "7 set\n");
}

fn agents(person: Person) {
    let world = World::new(person);
    world.write("home/agents/fixer.md", "---\nbottle: test\n---\nYou fix.\n");
    world.write("home/bottles/other.md", "---\nenv: {WHICH: other}\n---\n");
    let run = |arguments: &[&str]| {
        carboy(&world, &[&["run", "-q"], arguments, &["--", "sh", "-c", "echo $CARBOY_BOTTLE"]].concat())
    };
    assert_eq!(stdout(&run(&["fixer"])), "test\n");
    assert_eq!(stdout(&run(&["fixer", "--bottle", "other"])), "other\n");
    // M39: the repository's agent of the same name wins, once a person has looked at it.
    world.write("project/.carboy/agents/fixer.md", "---\nbottle: other\n---\n");
    let unseen = run(&["fixer"]);
    assert_eq!((unseen.status.code(), stdout(&unseen).as_str()), (Some(77), ""), "{unseen:?}");
    assert!(stderr(&unseen).contains("--trust"), "{unseen:?}");
    assert_eq!(stdout(&run(&["fixer", "--trust"])), "other\n");
    assert_eq!(stdout(&run(&["fixer"])), "other\n");
    let entry = world.log().into_iter().rfind(|entry| entry.text("action") == Some("start")).unwrap();
    assert_eq!((entry.text("agent"), entry.text("bottle")), (Some("fixer"), Some("other")));
}

fn repository_bottle(person: Person) {
    let world = World::new(person);
    world.write("project/.carboy/bottles/test.md", "---\nenv: {WIDE: \"yes\"}\n---\n");
    world.write("project/.carboy/bottles/mine.md", "---\n---\n");
    let ran = world.sh("echo wide=$WIDE").expect_code(0);
    assert_eq!(ran.stdout, "wide=\n");
    assert!(ran.stderr.contains("mine.md") && ran.stderr.contains("test.md"), "{}", ran.stderr);
    refused(&world, &["--bottle", "mine"], 78);
}

fn doctor(person: Person) {
    let world = World::new(person);
    let output = carboy(&world, &["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["tier"], "T1", "{object}");
    let findings = object["findings"].as_array().unwrap();
    assert!(findings.len() >= 5 && findings.iter().all(|f| f["standing"] != "blocking"), "{object}");
    // It is said in words as well, and looking leaves nothing behind.
    assert!(stdout(&carboy(&world, &["doctor"])).contains("Bottles here: tier T1"));
    let state = std::fs::read_dir(world.dir.join("home/state")).map_or(0, Iterator::count);
    assert_eq!(state, 0);
}

fn tour(person: Person) {
    let world = World::new(person);
    let output = carboy(&world, &["tour", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{object:#}");
    assert_eq!(object["ok"], true, "{object:#}");
    let steps: Vec<&str> = object["steps"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(
        steps,
        ["bottle", "model_call", "secret_out", "unknown_host", "metadata", "poisoned_page", "dns", "audit"]
    );
    // It is gone afterwards, and this person's home was not used.
    assert!(!std::path::Path::new(object["audit_log"].as_str().unwrap()).exists());
    assert_eq!(world.log().len(), 0);
}

fn interrupted_tour(person: Person) {
    let world = World::new(person);
    world.write("tmp/.keep", "");
    let tmp = world.dir.join("tmp");
    let mut child = world.carboy(&["tour"]).env("TMPDIR", &tmp).spawn().unwrap();
    // The first line of the story is out before the bottle stands.
    let mut first = [0];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    // It hears signals from a moment after its first line on.
    while !heard(&child) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(names(&tmp), [".keep"]);
}

/// Does the process handle SIGINT?
fn heard(child: &std::process::Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 << (2 - 1) != 0
}

fn not_started(person: Person) {
    let world = World::new(person);
    let absent = carboy(&world, &["run", "-b", "test", "--", "no-such-program"]);
    assert_eq!(absent.status.code(), Some(127), "{absent:?}");
    assert!(stderr(&absent).contains("`no-such-program` was not found in the bottle"), "{absent:?}");
    world.write("project/plain.txt", "text");
    let plain = carboy(&world, &["run", "-b", "test", "--", "./plain.txt"]);
    assert_eq!(plain.status.code(), Some(126), "{plain:?}");
    assert!(stderr(&plain).contains("cannot be executed"), "{plain:?}");
    // Nothing ran: the error is the whole story. And what is there is not said to be missing when its loader is.
    assert!(!stderr(&absent).contains("requests"), "{absent:?}");
    world.write("project/odd", "#!/no/such/interpreter\n");
    let set = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(world.project.join("odd"), set).unwrap();
    let odd = carboy(&world, &["run", "-b", "test", "--", "./odd"]);
    assert_eq!(odd.status.code(), Some(126), "{odd:?}");
    assert!(stderr(&odd).contains("`./odd` is there") && stderr(&odd).contains("loader"), "{odd:?}");
    let bottle = carboy(&world, &["run", "test", "--", "true"]);
    assert!(stderr(&bottle).contains("carboy run --bottle test -- COMMAND"), "{bottle:?}");
}

fn first_bottle(person: Person) {
    let world = World::new(person);
    for dir in ["user/.carboy/bottles", "user/src/my pröject", "runtime"] {
        world.write(&format!("{dir}/.keep"), "");
        std::fs::set_permissions(world.dir.join(dir), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    let at_home = |arguments: &[&str]| {
        let mut command = world.carboy(arguments);
        command.env_remove("CARBOY_HOME").env("XDG_RUNTIME_DIR", world.dir.join("runtime"));
        command.current_dir(world.dir.join("user/src/my pröject"));
        command
    };
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(world.dir.join("user/.carboy"), private).unwrap();
    world.write("user/.carboy/bottles/work.md", "---\negress:\n  routes:\n    - host: api.anthropic.com\n      auth_scheme: Bearer\n      token_env: ANTHROPIC_API_KEY\n      meter: anthropic\n---\nFor work on this project.\n");
    let settings = std::fs::read_to_string(world.dir.join("home/settings.yml")).unwrap();
    world.write("user/.carboy/settings.yml", &settings.replace("/home/provider.pem", "/provider.pem"));
    world.write("provider.pem", world.provider.ca_pem());
    let checked = at_home(&["check"]).output().unwrap();
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let script =
        "pwd; ls -A; cat ../../.carboy/settings.yml ~/.carboy/settings.yml 2>&1 | grep -c upstreams; carboy ps";
    let ran = at_home(&["run", "-q", "--bottle", "work", "--", "sh", "-c", script]).output().unwrap();
    let pwd = world.dir.join("user/src/my pröject").display().to_string();
    assert!(stdout(&ran).starts_with(&format!("{pwd}\n")) && stdout(&ran).ends_with("\n0\n"), "{ran:?}");
    // Asked and stopped over the runtime directory's socket.
    let mut command = at_home(&["run", "--bottle", "work", "--", "sh", "-c", "echo ready; exec sleep 300"]);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let runs: Vec<Value> = serde_json::from_slice(&at_home(&["ps", "--json"]).output().unwrap().stdout).unwrap();
    assert_eq!((line.as_str(), runs.len()), ("ready\n", 1));
    assert!(
        runs[0]["record"]["socket"].as_str().unwrap().starts_with(world.dir.join("runtime/carboy").to_str().unwrap())
    );
    assert!(at_home(&["stop", "work"]).output().unwrap().status.success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    // The controller that the run has started would stay for the next one.
    assert!(at_home(&["controller", "stop", "--force"]).output().unwrap().status.success());
    assert_eq!(std::fs::read_dir(world.dir.join("runtime/carboy")).unwrap().count(), 0);
}
