//! The built-in providers with the real programs: without questions, with a fake key, with a hand on the workspace.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use carboy_sim::{ReceivedRequest, Reply, Script};
use serde_json::{Value, json};

use crate::clients::client;
use crate::terminal::Screen;
use crate::world::{Person, REAL_GEMINI_KEY, REAL_KEY, REAL_OPENAI_KEY, Ran, World, reason};
use crate::{Case, case, case_with};

/// In every fake.
const FAKE: &str = "carboy-placeholder";
/// What the agent file says, and nothing else.
const PROMPT: &str = "You grow zebra tomatoes.";
/// What the tool is asked to do: shows the environment, what stands in the repository, and leaves a file.
const WORK: &str = "env > env.txt; cat fixtures.txt; echo pl\"\"anted | tee made.txt";
const CLAUDE_TOKEN: &str = "sk-ant-oat01-real-0123456789abcdefghijklmnopqrstuvwxyz-REAL";

pub fn cases() -> Vec<Case> {
    let needs = |paths: &[&str], more: &[&'static str]| -> &'static [&'static str] {
        let clients = paths.iter().map(|path| &*client(path).leak());
        clients.chain(more.iter().copied()).collect::<Vec<_>>().leak()
    };
    let claude = || needs(&["bin/claude"], &[]);
    let codex = || needs(&["bin/codex"], &["node"]);
    vec![
        case_with("M37 E9 claude does a task with its tools, and knows of it the next time", claude(), claude_task),
        case_with("M37 E9 codex does a task with its tools, and knows of it the next time", codex(), codex_task),
        case_with("M37 gemini does a task with its tools", needs(&["bin/gemini"], &["node"]), gemini_task),
        case_with("M37 opencode does a task with its tools", needs(&["bin/opencode"], &[]), opencode_task),
        case_with(
            "M37 claude in a terminal asks nothing before its prompt",
            needs(&["bin/claude"], &["tmux"]),
            claude_terminal,
        ),
        case_with(
            "M37 codex in a terminal asks nothing before its prompt",
            needs(&["bin/codex"], &["tmux", "node"]),
            codex_terminal,
        ),
        case_with(
            "M37 gemini in a terminal asks nothing before its prompt",
            needs(&["bin/gemini"], &["tmux", "node"]),
            gemini_terminal,
        ),
        case_with("M35 claude with a subscription's token holds a fake of it", claude(), claude_subscription),
        case_with(
            "M35 codex with a ChatGPT login holds a fake of it and names the real account",
            codex(),
            chatgpt_subscription,
        ),
        case_with(
            "M37 what claude reports to its maker on the model's host is refused, and it works",
            claude(),
            telemetry,
        ),
        case("a WebSocket is refused with 426, so that its client goes on with requests", web_socket),
        case("M36 a home that an earlier run made a trap of is made ready again", trap),
        case("M19 a provider of the manifest's own gets the task as its last argument", own_provider),
        case("a task comes from the command line, a file or standard input", tasks),
        case("M36 a program that the bottle does not see is told with the lines that show it", not_visible),
        case("M36 check prints what is visible, and what never is", never_list),
    ]
}

/// Three texts in the shape of tokens, put together here so that this file holds none.
fn fixtures() -> [String; 3] {
    [
        format!("AKIA{}", "Z7QH2M4NXW5RTYVB"),
        format!("ghp_{}", "q8Zr2LmX5vNc7TbY1wKd4HsJ6gPf3RaE0uQi"),
        format!("sk_live_{}", "4eC39HqLyjWDarjtT1zdp7dcN8mKv2Xq"),
    ]
}

/// A bottle with the client as provider, an agent file, and a repository with fixtures in it.
fn world(person: Person, name: &str, presets: &str, script: Script) -> World {
    let world = World::configured(person, |config| config.script = script);
    with_provider(&world, name, presets);
    world
}

fn with_provider(world: &World, name: &str, presets: &str) {
    let program = client(&format!("bin/{name}"));
    world.bottle(&format!("agent_provider: {{name: {name}, command: {program}}}\npresets: {presets}\n"));
    world.write("home/agents/night.md", &format!("---\nbottle: test\n---\n{PROMPT}\n"));
    world.write("project/fixtures.txt", &(fixtures().join("\n") + "\n"));
}

fn script(tool: &str, input: Value) -> Script {
    Script::default()
        .on_tool_result("planted", Reply::text("It is done, said the simulated gardener."))
        .on("sow", Reply::tool(tool, input))
        .on("greet", Reply::text("Simulated good evening."))
}

fn task(world: &World, task: &str) -> Ran {
    world.run_with(&["night", "--task", task], &[])
}

/// The text of a request as its client wrote it.
fn body(request: &ReceivedRequest) -> String {
    String::from_utf8_lossy(&request.body).into_owned()
}

/// The model's requests, each with the real credential; nothing that arrived carries a fake or a fixture.
fn model_requests(world: &World, path: &str, credential: (&str, &str)) -> Vec<ReceivedRequest> {
    let all = world.provider.received();
    for request in &all {
        for unwanted in fixtures().iter().map(String::as_str).chain([FAKE]) {
            assert!(!request.contains(unwanted.as_bytes()), "`{unwanted}` arrived: {}", request.path);
        }
    }
    let asked: Vec<_> = all.into_iter().filter(|request| request.path.contains(path)).collect();
    assert!(asked.iter().all(|request| request.header(credential.0) == Some(credential.1)), "{asked:?}");
    asked
}

/// No file below holds any of the real credentials.
fn assert_no_real_key(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            assert_no_real_key(&entry.path());
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            for key in [REAL_KEY, REAL_OPENAI_KEY, REAL_GEMINI_KEY, CLAUDE_TOKEN, &chatgpt_token()] {
                let found = bytes.windows(key.len()).any(|window| window == key.as_bytes());
                assert!(!found, "{} holds a real credential", entry.path().display());
            }
        }
    }
}

fn home(world: &World) -> std::path::PathBuf {
    world.dir.join("home/state/test/home")
}

/// A task with a tool's call, its traces, and what the bottle holds of it.
fn assert_does_its_task(world: &World, path: &str, credential: (&str, &str)) {
    let ran = task(world, "- sow the seeds").expect_code(0);
    assert!(ran.stdout.contains("It is done, said the simulated gardener."), "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(fs::read_to_string(world.project.join("made.txt")).unwrap(), "planted\n");
    let environment = fs::read_to_string(world.project.join("env.txt")).unwrap();
    assert!(environment.contains("CARBOY_BOTTLE=test"), "{environment}");
    let requests = model_requests(world, path, credential);
    assert!(requests.len() >= 2, "{}", requests.len());
    assert!(requests.iter().any(|request| body(request).contains(PROMPT)), "the agent file's text did not arrive");
    let found = ran.summary["findings"].as_array().unwrap();
    assert!(!found.is_empty(), "the fixtures were not noticed: {}", ran.summary);
    assert_no_real_key(&world.dir.join("home/state"));
    assert_no_real_key(&world.project);
}

/// The next run, told to go on, says what the one before was asked.
fn assert_remembers(world: &World, command: &[&str], path: &str, credential: (&str, &str)) {
    let before = world.provider.received().len();
    world.run_with(&["night"], command).expect_code(0);
    let requests = model_requests(world, path, credential);
    let remembered =
        requests.iter().any(|request| body(request).contains("sow the seeds") && body(request).contains("greet me"));
    assert!(world.provider.received().len() > before && remembered, "the earlier run was forgotten");
}

fn claude_task(person: Person) {
    let tool = json!({"command": WORK, "description": "sows"});
    let world = world(person, "claude", "[anthropic]", script("Bash", tool));
    assert_does_its_task(&world, "/v1/messages", ("x-api-key", REAL_KEY));
    let again = [&client("bin/claude"), "--continue", "--print", "greet me"];
    assert_remembers(&world, &again, "/v1/messages", ("x-api-key", REAL_KEY));
}

fn codex_task(person: Person) {
    let tool = json!(format!("text(await tools.exec_command({{cmd: {}}}))", json!(WORK)));
    let world = world(person, "codex", "[openai]", script("exec", tool));
    let bearer = format!("Bearer {REAL_OPENAI_KEY}");
    assert_does_its_task(&world, "/v1/responses", ("authorization", &bearer));
    let flags = ["exec", "resume", "--last", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"];
    let program = client("bin/codex");
    let again = [&[program.as_str()], &flags[..], &["greet me"]].concat();
    assert_remembers(&world, &again, "/v1/responses", ("authorization", &bearer));
    // Its WebSocket is refused in a way that it understands: no request is tried twice.
    let upgrades = world.log().iter().filter(|e| e.detail("reason") == Some(&json!("protocol_refused"))).count();
    assert!(upgrades <= 2, "{upgrades}");
}

fn gemini_task(person: Person) {
    let tool = json!({"command": WORK, "description": "sows"});
    let world = world(person, "gemini", "[gemini]", script("run_shell_command", tool));
    assert_does_its_task(&world, "enerateContent", ("x-goog-api-key", REAL_GEMINI_KEY));
    let again = [&client("bin/gemini"), "--yolo", "--resume", "latest", "--prompt", "greet me"];
    assert_remembers(&world, &again, "enerateContent", ("x-goog-api-key", REAL_GEMINI_KEY));
}

fn opencode_task(person: Person) {
    let tool = json!({"command": WORK, "description": "sows"});
    let world = world(person, "opencode", "[anthropic]", script("bash", tool));
    assert_does_its_task(&world, "/v1/messages", ("x-api-key", REAL_KEY));
    let again = [&client("bin/opencode"), "run", "--continue", "greet me"];
    assert_remembers(&world, &again, "/v1/messages", ("x-api-key", REAL_KEY));
}

/// The prompt stands there without a question before it; what is typed is answered. Twice: the second run has its own
/// state of the first one to start from.
fn assert_asks_nothing(world: &World, prompt: &str) {
    for run in ["first", "second"] {
        let screen = Screen::open(world, &["run", "night"]);
        let text = screen.see(prompt);
        for question in ["trust", "Trust", "theme", "log in", "Log in", "Sign in", "sign in", "API key?"] {
            assert!(!text.contains(question), "{run} run: `{question}` stands on:\n{text}");
        }
        screen.tmux(&["send-keys", "-l", "please greet me"]);
        screen.see("please greet me");
        screen.key("Enter");
        screen.see("Simulated good evening.");
        let stopped = world.carboy(&["stop", "--kill", "test"]).output().unwrap();
        assert!(stopped.status.success(), "{stopped:?}");
        screen.see("over with");
    }
}

fn claude_terminal(person: Person) {
    let world = world(person, "claude", "[anthropic]", script("Bash", json!({})));
    assert_asks_nothing(&world, "bypass permissions on");
}

fn codex_terminal(person: Person) {
    let world = world(person, "codex", "[openai]", script("exec", json!("")));
    assert_asks_nothing(&world, "Ask Codex to do anything");
}

fn gemini_terminal(person: Person) {
    let world = world(person, "gemini", "[gemini]", script("run_shell_command", json!({})));
    assert_asks_nothing(&world, "Type your message");
}

fn claude_subscription(person: Person) {
    let tool = json!({"command": WORK, "description": "sows"});
    let world = World::configured(person, |config| {
        config.script = script("Bash", tool);
        config.anthropic_key = CLAUDE_TOKEN.into();
    });
    with_provider(&world, "claude", "[{anthropic: {token_env: CLAUDE_CODE_OAUTH_TOKEN}}]");
    let file = world.dir.join("home/claude.token");
    world.write("home/claude.token", CLAUDE_TOKEN);
    only_mine(&file);
    world.settings(&format!("secrets:\n  CLAUDE_CODE_OAUTH_TOKEN: {{file: {}}}\n", file.display()));
    assert_does_its_task(&world, "/v1/messages", ("authorization", &format!("Bearer {CLAUDE_TOKEN}")));
    // Claude Code keeps the variable from its tools; a shell sees it.
    let shown = world.sh("echo $CLAUDE_CODE_OAUTH_TOKEN, $ANTHROPIC_API_KEY").stdout;
    assert_eq!(shown, "carboy-placeholder-claude-code-oauth-token,\n");
    let asked = model_requests(&world, "/v1/messages", ("authorization", &format!("Bearer {CLAUDE_TOKEN}")));
    assert!(asked.iter().all(|request| request.header("anthropic-beta").is_some_and(|beta| beta.contains("oauth-"))));
}

/// A token as ChatGPT gives them: three parts, of which the second names the account.
fn chatgpt_token() -> String {
    let account = json!({"chatgpt_account_id": "account-4711", "chatgpt_plan_type": "pro"});
    let claims = json!({"exp": 4_102_444_800_u64, "https://api.openai.com/auth": account}).to_string();
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims), part("the signature of a real token"))
}

fn only_mine(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn chatgpt_subscription(person: Person) {
    let tool = json!(format!("text(await tools.exec_command({{cmd: {}}}))", json!(WORK)));
    let world = World::configured(person, |config| {
        config.script = script("exec", tool);
        config.chatgpt_token = chatgpt_token();
        config.chatgpt_account = "account-4711".into();
    });
    with_provider(&world, "codex", "[chatgpt]");
    let login = json!({"auth_mode": "chatgpt", "tokens": {"access_token": chatgpt_token(), "refresh_token": "r"}});
    world.write("user/.codex/auth.json", &login.to_string());
    only_mine(&world.dir.join("user/.codex/auth.json"));
    world.settings("secrets:\n  CHATGPT_ACCESS_TOKEN: {file: ~/.codex/auth.json, pointer: /tokens/access_token}\n");
    let bearer = format!("Bearer {}", chatgpt_token());
    let ran = task(&world, "- sow the seeds").expect_code(0);
    assert!(ran.stdout.contains("It is done, said the simulated gardener."), "{}\n{}", ran.stdout, ran.stderr);
    let asked = model_requests(&world, "/backend-api/codex/responses", ("authorization", &bearer));
    assert!(asked.len() >= 2 && asked.iter().all(|r| r.header("chatgpt-account-id") == Some("account-4711")));
    assert_no_real_key(&world.dir.join("home/state"));
    assert_no_real_key(&world.project);
    let inside: Value = serde_json::from_slice(&fs::read(home(&world).join(".codex/auth.json")).unwrap()).unwrap();
    assert_eq!(inside["tokens"]["account_id"], "account-4711");
}

fn telemetry(person: Person) {
    let world = world(person, "claude", "[anthropic]", script("Bash", json!({})));
    // Started by a shell, it gets nothing that keeps it quiet.
    let script = format!("HOME=/tmp exec {} -p 'greet me'", client("bin/claude"));
    let ran = world.run_with(&["night"], &["sh", "-c", &script]).expect_code(0);
    assert!(ran.stdout.contains("Simulated good evening."), "{}", ran.stdout);
    assert!(ran.refused("request_not_allowed") > 0, "{:?}", ran.entries);
    let paths: Vec<String> = world.provider.received().into_iter().map(|request| request.path).collect();
    let reports = |path: &String| path.contains("event_logging") || path.contains("metrics") || path.contains("eval");
    assert!(!paths.iter().any(reports), "{paths:?}");
    // As a provider it does not even ask.
    let ran = world.run_with(&["night", "--task", "greet me"], &[]).expect_code(0);
    assert_eq!(ran.summary["refusals"], json!([]), "{:?}", ran.entries);
}

fn web_socket(person: Person) {
    let world = World::new(person);
    let mut agent = world.agent();
    let upgrade = |to: &'static str| [("connection", "upgrade"), ("upgrade", to), ("sec-websocket-version", "13")];
    for (to, status) in [("websocket", 426), ("WebSocket", 426), ("irc", 400)] {
        let report = agent.http("GET", "https://api.openai.com/v1/responses", &upgrade(to), b"");
        assert_eq!((report.status, reason(&report)), (Some(status), Some("protocol_refused")), "{to}: {report:?}");
        assert!(report.body.contains("protocol_refused") && !report.headers.contains_key("upgrade"), "{report:?}");
    }
    // A host that is no model's: there nothing goes on by itself.
    agent.http("GET", "https://notes.example/page/clean", &upgrade("websocket"), b"");
    let ran = agent.finish().expect_code(0);
    // The client of a model went on over HTTP: a note, and no alarm. The log has each.
    assert_eq!((&ran.summary["web_sockets"], &ran.summary["refusals"][0]["count"]), (&json!(2), &json!(2)), "{ran:?}");
    assert!(ran.stderr.contains("2 WebSocket attempts answered with 426"), "{}", ran.stderr);
    assert_eq!(ran.refused("protocol_refused"), 4, "{:?}", ran.entries);
}

fn trap(person: Person) {
    // The program is a script: what is looked at here is the home.
    let world = World::new(person);
    world.write("project/claude", "#!/bin/sh\ncat ~/.claude.json ~/.claude/settings.json\n");
    make_executable(&world.project.join("claude"));
    let program = world.project.join("claude").display().to_string();
    world.bottle(&format!("agent_provider: {{name: claude, command: {program}}}\n"));
    let victim = world.dir.join("victim");
    world.write("victim", "mine");
    let lay = "rm -rf ~/.claude ~/.claude.json; ln -s $0 ~/.claude.json; mkfifo ~/settings.json; ln -s / ~/.claude";
    world.run(&["sh", "-c", lay, victim.to_str().unwrap()]).expect_code(0);
    let ran = world.run_with(&[], &[]).expect_code(0);
    assert!(ran.stdout.contains("hasCompletedOnboarding"), "{}", ran.stdout);
    assert!(ran.stdout.contains("skipDangerousModePermissionPrompt"), "{}", ran.stdout);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    // What the program adds is kept, what it takes away comes back.
    let change = "echo '{\"theme\":\"light\",\"mine\":1,\"hasCompletedOnboarding\":false}' > ~/.claude.json";
    world.sh(change).expect_code(0);
    let ran = world.run_with(&[], &[]).expect_code(0);
    assert!(ran.stdout.contains("\"mine\": 1") && ran.stdout.contains("\"theme\": \"light\""), "{}", ran.stdout);
    assert!(ran.stdout.contains("\"hasCompletedOnboarding\": true"), "{}", ran.stdout);
    // A program that is not the provider's finds its home as it was.
    world.sh("rm -rf ~/.claude.json").expect_code(0);
    assert_eq!(world.sh("ls -a ~ | grep -c claude.json").stdout, "0\n");
}

fn make_executable(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

fn own_provider(person: Person) {
    let world = World::new(person);
    world.bottle("agent_provider: {name: mine, command: printf, args: ['%s|%s\\n', first]}\n");
    assert_eq!(world.run_with(&["--task", "do it"], &[]).expect_code(0).stdout, "first|do it\n");
    // `shell` takes a script.
    world.bottle("agent_provider: shell\n");
    assert_eq!(world.run_with(&["--task", "echo $((40 + 2)) $BASH"], &[]).expect_code(0).stdout, "42 /usr/bin/bash\n");
}

fn tasks(person: Person) {
    let world = World::new(person);
    world.bottle("agent_provider: shell\n");
    world.write("project/task.txt", "echo from a file\n");
    assert_eq!(world.run_with(&["--task", "@task.txt"], &[]).expect_code(0).stdout, "from a file\n");
    let mut command = world.carboy(&["run", "-q", "--bottle", "test", "--task", "-"]);
    world.write("input", "echo from standard input\n");
    command.stdin(fs::File::open(world.dir.join("input")).unwrap());
    assert_eq!(String::from_utf8_lossy(&command.output().unwrap().stdout), "from standard input\n");
    for (spec, says) in [
        ("", "nothing to do"),
        ("@gone.txt", "gone.txt: No such file"),
        (&*"x".repeat(102_401), "larger than 102400 bytes"),
    ] {
        let output = world.carboy(&["run", "--bottle", "test", "--task", spec]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(says), "{stderr}");
    }
    let both = world.carboy(&["run", "--bottle", "test", "--task", "x", "--", "ls"]).output().unwrap();
    assert_eq!(both.status.code(), Some(2));
}

fn not_visible(person: Person) {
    let world = World::new(person);
    world.write("user/.local/bin/opencode", "#!/bin/sh\necho 1.0\n");
    world.bottle("agent_provider: opencode\n");
    make_executable(&world.dir.join("user/.local/bin/opencode"));
    // A native program is shown by one file; /bin/true stands for it.
    fs::copy("/bin/true", world.dir.join("user/.local/bin/opencode")).unwrap();
    let output = world.carboy(&["run", "--bottle", "test"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(127), "{stderr}");
    assert!(stderr.contains("user/.local/bin/opencode on this host"), "{stderr}");
    let line = stderr.lines().find_map(|line| line.split_once("    binds: ")).map(|(_, line)| line);
    world.bottle(&format!("agent_provider: opencode\nbinds: {}\n", line.unwrap()));
    world.run_with(&[], &[]).expect_code(0);
}

fn never_list(person: Person) {
    let world = World::new(person);
    world.bottle("binds: {/usr/share/doc: /mnt/doc}\n");
    let output = world.carboy(&["check", "--bottle", "test"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    for want in ["/usr/share/doc", "/mnt/doc", ".ssh", ".aws", ".netrc", ".npmrc"] {
        assert!(text.contains(want), "`{want}` is not in:\n{text}");
    }
}
