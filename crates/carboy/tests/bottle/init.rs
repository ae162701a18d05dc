//! `carboy init`: what it finds, what it writes, and that the bottle it writes works: agents start, package managers install
//! from the registries that this machine is configured to use.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::terminal::Screen;
use crate::world::{ORDINARY_USER, Person, REAL_KEY, World, is_root};
use crate::{Case, case, case_with};

pub fn cases() -> Vec<Case> {
    let (npm, pip): (&[&str], &[&str]) =
        (&["npm", "node", "curl"], &["python3", "curl", "/usr/lib/python3/dist-packages/pip"]);
    vec![
        case_with(
            "M35 a key comes in by standard input, is kept for its owner alone, and is in no other file",
            &["curl"],
            key,
        ),
        case("M35 a login is asked for by name where nobody is there to ask", no_login),
        case("M35 the file of a ChatGPT login is pointed at and not copied", chatgpt),
        case_with("M35 init asks at a terminal, shows its files, and writes after one yes", &["tmux"], asked),
        case("init a second time changes nothing, and replaces nothing without --force", second_time),
        case_with(
            "M36 an agent of a home starts in its bottle, which sees its package and not the home",
            &["node"],
            agent,
        ),
        case("M36 doctor tells of agents, and of one that a bottle cannot have", doctor),
        case_with(
            "M38 a registry that the project's own file asks for is told and not opened",
            &["npm", "node"],
            project_asks,
        ),
        case_with(
            "M38 npm installs from the configured registry, and a token in .npmrc stays outside",
            npm,
            npm_install,
        ),
        case_with("M38 pip installs into a virtual environment from the configured index", pip, pip_install),
        case_with(
            "M38 cargo builds a crate with a dependency from the configured registry",
            &["curl", "cc"],
            cargo_build,
        ),
        case_with("M38 git clones from GitHub by the preset, and a push is refused", &["curl", "git"], git_clone),
        case("M40 files of bot-bottle are taken over, and what did not fit is told with its line", import),
        case_with(
            "settings of the machine stand over a user's, and those that a user can write are refused",
            &["root"],
            system,
        ),
    ]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(output: Output) -> Output {
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    output
}

fn init(world: &World, arguments: &[&str]) -> Output {
    world.carboy(&[&["init"], arguments].concat()).output().unwrap()
}

fn read(world: &World, path: &str) -> String {
    std::fs::read_to_string(world.dir.join(path)).unwrap()
}

/// A program in the person's home.
fn program(world: &World, path: &str, content: &str) {
    world.write(path, content);
    std::fs::set_permissions(world.dir.join(path), std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// For the last word of `cargo test`: a test that has found out while it ran that it cannot.
pub fn skip(name: &str, person: Person, why: &str) {
    let label = if is_root() && person == Person::Me { "root" } else { "user" };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    std::fs::create_dir_all(&dir).unwrap();
    let line = format!("[{label}] {name}: {why}");
    println!("skipped: {line}");
    std::fs::write(dir.join(format!("carboy-init-{label}-{name}.txt")), line).unwrap();
}

/// It ran: what an earlier run of the tests has noted no longer holds.
pub fn not_skipped(name: &str, person: Person) {
    let label = if is_root() && person == Person::Me { "root" } else { "user" };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    let _ = std::fs::remove_file(dir.join(format!("carboy-init-{label}-{name}.txt")));
}

/// Can this be had from here, without any bottle? The only contact that a test makes by itself.
fn reachable(url: &str) -> bool {
    let arguments = ["-fsSL", "-m", "15", "-o", "/dev/null", url];
    Command::new("curl").args(arguments).stderr(Stdio::null()).status().unwrap().success()
}

/// The first host of a preset in the bottle that `init --dry-run` shows.
fn host_of(output: &Output, preset: &str) -> Option<String> {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = report["files"].as_array().unwrap();
    let bottle = files.iter().find(|file| file["path"].as_str().unwrap().contains("/bottles/")).unwrap();
    let line = bottle["content"].as_str().unwrap().lines().find_map(|line| {
        line.trim().strip_prefix(&format!("- {preset}: {{hosts: ["))?.split([',', ']']).next().map(str::to_owned)
    });
    line.map(|host| host.trim_matches('"').to_owned())
}

fn key(person: Person) {
    let world = World::new(person);
    world.settings("# mine\nsecrets:\n  OTHER: {env: OTHER}\n");
    let before = read(&world, "home/settings.yml");
    let mut command =
        world.carboy(&["init", "claude", "work", "--login", "api-key", "--key-from", "stdin", "--no-presets"]);
    let mut child = command.env_remove("ANTHROPIC_API_KEY").stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{REAL_KEY}\n").as_bytes()).unwrap();
    let output = ok(child.wait_with_output().unwrap());
    assert!(text(&output.stderr).contains("carboy run -d work --task"), "{}", text(&output.stderr));
    let settings = read(&world, "home/settings.yml");
    assert!(before.lines().all(|line| settings.contains(line)), "{settings}");
    let file = world.dir.join("home/secrets/ANTHROPIC_API_KEY");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{REAL_KEY}\n"));
    let written = ["home/bottles/work.md", "home/agents/work.md"].map(|path| read(&world, path)).concat();
    for shown in [written, settings, text(&output.stdout), text(&output.stderr)] {
        assert!(!shown.contains(REAL_KEY), "{shown}");
    }
    ok(world.carboy(&["check", "work"]).output().unwrap());
    // The bottle that it wrote gives the real key to the model and a fake to the program.
    let script = "echo $ANTHROPIC_API_KEY; curl -s -o /dev/null -w '%{http_code}\\n' -H 'content-type: application/json' -H 'anthropic-version: 2023-06-01' \
                  -d '{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}' \
                  https://api.anthropic.com/v1/messages; curl -s -o /dev/null -w '%{http_code}\\n' https://api.anthropic.com/v1/files";
    let mut run = world.carboy(&["run", "work", "--", "sh", "-c", script]);
    let ran = ok(run.env_remove("ANTHROPIC_API_KEY").output().unwrap());
    let lines: Vec<String> = text(&ran.stdout).lines().map(str::to_owned).collect();
    assert!(lines.len() == 3 && !lines[0].is_empty() && lines[0] != REAL_KEY, "{lines:?} {}", text(&ran.stderr));
    // (A refusal that is final is a 400 to a client of a model.)
    assert_eq!(lines[1..], ["200", "400"], "{}", text(&ran.stderr));
    assert!(world.provider.received().iter().any(|request| request.contains(REAL_KEY.as_bytes())));
    // A second key does not take the first one's place by itself.
    let mut command =
        world.carboy(&["init", "claude", "work", "--login", "api-key", "--key-from", "stdin", "--no-presets"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"sk-another-key\n").unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{REAL_KEY}\n"));
}

fn no_login(person: Person) {
    let world = World::new(person);
    let mut command = world.carboy(&["init", "claude"]);
    let output = command.env_remove("ANTHROPIC_API_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("--login none") && said.contains("claude setup-token"), "{said}");
    assert!(!world.dir.join("home/bottles/claude.md").exists());
    // A key on the command line is not taken, and not repeated.
    let output = init(&world, &["claude", "--login", "api-key", "--key-from", "sk-ant-oops"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!text(&output.stderr).contains("sk-ant-oops"), "{}", text(&output.stderr));
    // What this shell has is found without a word.
    ok(init(&world, &["claude"]));
    assert!(read(&world, "home/bottles/claude.md").contains("- anthropic: {token_env: ANTHROPIC_API_KEY}"));
    ok(init(&world, &["claude", "none", "--login", "none"]));
    assert!(!read(&world, "home/bottles/none.md").contains("anthropic"));
    assert_eq!(init(&world, &["gemini", "--login", "subscription"]).status.code(), Some(2));
}

fn chatgpt(person: Person) {
    let world = World::new(person);
    let login = r#"{"auth_mode":"chatgpt","tokens":{"access_token":"eyJreal.token.here","refresh_token":"r"}}"#;
    world.write("user/.codex/auth.json", login);
    let auth = world.dir.join("user/.codex/auth.json");
    std::fs::set_permissions(&auth, std::fs::Permissions::from_mode(0o600)).unwrap();
    ok(init(&world, &["codex", "--no-presets"]));
    let settings = read(&world, "home/settings.yml");
    assert!(settings.contains("{file: \"~/.codex/auth.json\", pointer: \"/tokens/access_token\"}"), "{settings}");
    let bottle = read(&world, "home/bottles/codex.md");
    assert!(
        bottle.contains("- chatgpt: {token_env: CHATGPT_ACCESS_TOKEN}")
            && !bottle.contains("eyJreal")
            && !settings.contains("eyJreal")
    );
    let checked = ok(world.carboy(&["check", "codex", "--json"]).output().unwrap());
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(
        report["effective"]["secrets"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["CHATGPT_ACCESS_TOKEN"]
    );
}

fn asked(person: Person) {
    let world = World::new(person);
    std::fs::create_dir_all(world.dir.join("user/.local/bin")).unwrap();
    std::fs::copy("/bin/true", world.dir.join("user/.local/bin/claude")).unwrap();
    world.write("project/.git/config", "[remote \"origin\"]\n\turl = https://github.com/a/b.git\n");
    let screen = Screen::open(&world, &["init"]);
    screen.see("What is the bottle for?");
    screen.line("1");
    screen.see("How is the model paid for?");
    screen.line("subscription");
    screen.see("Where is CLAUDE_CODE_OAUTH_TOKEN?");
    screen.line("typed");
    screen.see("(not shown)");
    screen.line("sk-ant-oat01-typed-by-a-person");
    screen.see("What to open, read-only?");
    screen.line("github-read");
    let shown = screen.see("Write these files?");
    assert!(!world.dir.join("home/bottles/claude.md").exists());
    assert!(shown.contains("- github-read") && !shown.contains("typed-by-a-person"), "{shown}");
    screen.line("y");
    screen.see("over with 0");
    let token = world.dir.join("home/secrets/CLAUDE_CODE_OAUTH_TOKEN");
    assert_eq!(std::fs::read_to_string(token).unwrap(), "sk-ant-oat01-typed-by-a-person\n");
    assert!(read(&world, "home/bottles/claude.md").contains("~/.local/bin/claude: ~/.local/bin/claude"));
    ok(world.carboy(&["check", "claude"]).output().unwrap());
    // The second time what would change is shown, and a no changes nothing.
    drop(screen);
    let before = read(&world, "home/bottles/claude.md");
    let screen = Screen::open(&world, &["init", "claude", "--login", "subscription", "--no-presets"]);
    let shown = screen.see("Replace them? [y/N]");
    assert!(shown.contains("-   - github-read"), "{shown}");
    screen.line("");
    screen.see("over with 77");
    assert_eq!(read(&world, "home/bottles/claude.md"), before);
}

fn second_time(person: Person) {
    let world = World::new(person);
    ok(init(&world, &["shell", "try", "--no-presets"]));
    let first = read(&world, "home/bottles/try.md");
    assert!(!world.dir.join("home/agents/try.md").exists());
    let again = ok(init(&world, &["shell", "try", "--no-presets"]));
    assert!(text(&again.stderr).contains("nothing to change"), "{}", text(&again.stderr));
    let mine = format!("{first}\nmine\n");
    world.write("home/bottles/try.md", &mine);
    let refused = init(&world, &["shell", "try", "--no-presets"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        text(&refused.stderr).contains("--force") && text(&refused.stderr).contains("- mine"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(read(&world, "home/bottles/try.md"), mine);
    let shown = ok(init(&world, &["shell", "try", "--no-presets", "--dry-run"]));
    assert!(text(&shown.stdout).contains("- mine"));
    ok(init(&world, &["shell", "try", "--no-presets", "--force"]));
    assert_eq!(read(&world, "home/bottles/try.md"), first);
    // What `allow` has opened stays.
    let opened = first.replacen("---\nA bottle", "egress:\n  routes:\n    - host: a.example\n---\nA bottle", 1);
    assert_ne!(opened, first);
    world.write("home/bottles/try.md", &format!("{opened}\nmine\n"));
    ok(init(&world, &["shell", "try", "--no-presets", "--force"]));
    let kept = read(&world, "home/bottles/try.md");
    assert!(kept.contains("\negress:\n  routes:\n    - host: a.example\n---\n") && !kept.contains("mine"), "{kept}");
    let again = ok(init(&world, &["shell", "try", "--no-presets"]));
    assert!(text(&again.stderr).contains("nothing to change"), "{}", text(&again.stderr));
    // A broken settings file is not added to, and a name that is none is refused.
    assert_eq!(init(&world, &["shell", "../x"]).status.code(), Some(2));
    world.write("home/settings.yml", "secrets: [\n");
    assert_eq!(init(&world, &["shell", "other"]).status.code(), Some(78));
    assert!(!world.dir.join("home/bottles/other.md").exists());
}

fn agent(person: Person) {
    let world = World::new(person);
    let package = "user/.npm-global/lib/node_modules/@openai/codex";
    program(
        &world,
        &format!("{package}/bin/codex.js"),
        "#!/usr/bin/env node\nconsole.log(require('../lib/say')(process.argv))\n",
    );
    world.write(&format!("{package}/lib/say.js"), "module.exports = argv => 'codex ' + argv.slice(2).join(' ')\n");
    world.write(&format!("{package}/package.json"), "{}");
    std::fs::create_dir_all(world.dir.join("user/.npm-global/bin")).unwrap();
    let link = world.dir.join("user/.npm-global/bin/codex");
    symlink("../lib/node_modules/@openai/codex/bin/codex.js", link).unwrap();
    world.write("user/secret.txt", "of the home");
    ok(init(&world, &["codex", "--login", "none", "--no-presets"]));
    let ran = ok(world.carboy(&["run", "codex", "-q", "--task", "say hello"]).output().unwrap());
    let said = text(&ran.stdout);
    assert!(said.starts_with("codex exec ") && said.trim_end().ends_with("say hello"), "{said}");
    let script = format!("cat {0}/user/secret.txt; touch {0}/{package}/x", world.dir.display());
    let ran = world.carboy(&["run", "codex", "-q", "--", "sh", "-c", &script]).output().unwrap();
    assert!(ran.stdout.is_empty() && text(&ran.stderr).contains("No such file"), "{ran:?}");
    assert!(text(&ran.stderr).contains("Read-only"), "{}", text(&ran.stderr));
}

fn doctor(person: Person) {
    let world = World::new(person);
    std::fs::create_dir_all(world.dir.join("user/.local/bin")).unwrap();
    std::fs::copy("/bin/true", world.dir.join("user/.local/bin/claude")).unwrap();
    program(&world, "user/.local/bin/gemini", "#!/usr/bin/env python3\n");
    let output = ok(world.carboy(&["doctor", "--json"]).output().unwrap());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let agents = report["agents"].as_array().unwrap();
    let of = |name: &str| agents.iter().find(|agent| agent["program"] == name).unwrap().clone();
    assert_eq!(of("claude")["inside"]["Ok"]["binds"][0]["target"], "~/.local/bin/claude");
    assert!(of("gemini")["inside"]["Err"].as_str().unwrap().contains("script of `python3`"));
    let said = text(&world.carboy(&["doctor"]).output().unwrap().stdout);
    assert!(said.contains("Agents here:") && said.contains("carboy init claude"), "{said}");
}

fn project_asks(person: Person) {
    let world = World::new(person);
    world.write("project/package.json", "{}");
    world.write("project/.npmrc", "registry=https://evil.invalid/\n");
    // A program of the project's own is not asked either.
    program(&world, "project/node_modules/.bin/npm", "#!/bin/sh\ntouch \"$HOME/ran\"\n");
    let mut command = world.carboy(&["init", "shell", "try"]);
    let path = format!("{}:/usr/bin:/bin", world.project.join("node_modules/.bin").display());
    let output = ok(command.env("PATH", path).output().unwrap());
    assert!(text(&output.stderr).contains("--preset npm=evil.invalid"), "{}", text(&output.stderr));
    assert!(!read(&world, "home/bottles/try.md").contains("evil.invalid"));
    assert!(!world.dir.join("user/ran").exists());
    ok(init(&world, &["shell", "try", "--preset", "npm=evil.invalid", "--force"]));
    assert!(read(&world, "home/bottles/try.md").contains("- npm: {hosts: [evil.invalid]}"));
    assert_eq!(init(&world, &["shell", "try", "--preset", "evil"]).status.code(), Some(2));
}

fn npm_install(person: Person) {
    let world = World::new(person);
    world.write("project/package.json", "{\"name\":\"tiny\",\"version\":\"1.0.0\"}\n");
    let planned = ok(init(&world, &["shell", "npm", "--dry-run", "--json"]));
    let Some(registry) = host_of(&planned, "npm") else {
        return skip("npm", person, "the registry of npm is not known");
    };
    if !reachable(&format!("https://{registry}/is-number")) {
        return skip("npm", person, "the registry of npm cannot be reached from here");
    }
    not_skipped("npm", person);
    let token = "npm_0123456789abcdefghijklmnopqrstuvwxyz";
    world.write("user/.npmrc", &format!("registry=https://{registry}/\n//other.example/:_authToken={token}\n"));
    let output = ok(init(&world, &["shell", "npm"]));
    assert!(text(&output.stderr).contains("holds a credential"), "{}", text(&output.stderr));
    for shown in [read(&world, "home/bottles/npm.md"), read(&world, "home/settings.yml"), text(&output.stderr)] {
        assert!(!shown.contains(token), "{shown}");
    }
    let script = "npm install --no-fund is-number >&2 && ls node_modules && npm config get registry; \
                  grep -rs _authToken / --include=.npmrc | wc -l";
    let ran = ok(world.carboy(&["run", "--bottle", "npm", "--", "sh", "-c", script]).output().unwrap());
    assert_eq!(text(&ran.stdout), format!("is-number\nhttps://{registry}/\n0\n"), "{}", text(&ran.stderr));
    assert!(world.project.join("node_modules/is-number/package.json").exists());
    let refused = world.log().into_iter().filter(|entry| entry.text("result") == Some("denied")).count();
    assert_eq!(refused, 0, "{}", text(&ran.stderr));
}

fn pip_install(person: Person) {
    let world = World::new(person);
    world.write("project/requirements.txt", "six\n");
    let planned = ok(init(&world, &["shell", "pip", "--dry-run", "--json"]));
    let Some(index) = host_of(&planned, "pip") else { return skip("pip", person, "the index of pip is not known") };
    if !reachable(&format!("https://{index}/simple/six/")) {
        return skip("pip", person, "the index of pip cannot be reached from here");
    }
    not_skipped("pip", person);
    ok(init(&world, &["shell", "pip"]));
    let script = "python3 -m venv .venv && .venv/bin/pip install -q -r requirements.txt >&2 && \
                  .venv/bin/python -c 'import six; print(six.__name__)'";
    let ran = ok(world.carboy(&["run", "--bottle", "pip", "--", "sh", "-c", script]).output().unwrap());
    assert_eq!(text(&ran.stdout), "six\n", "{}", text(&ran.stderr));
}

/// The toolchain of these tests, and the home that it lives in.
pub fn toolchain() -> Option<(PathBuf, PathBuf)> {
    let cargo = Path::new(env!("CARGO"));
    let home = cargo.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == ".rustup"))?.parent()?;
    Some((cargo.parent()?.to_owned(), home.to_owned()))
}

fn cargo_build(person: Person) {
    let world = World::new(person);
    let Some((bin, home)) = toolchain() else {
        return skip("cargo", person, "cargo is none of a home's toolchains here");
    };
    if person == Person::Ordinary {
        return skip("cargo", person, &format!("the toolchain is in a home that `{ORDINARY_USER}` may not read"));
    }
    world.write(
        "project/Cargo.toml",
        "[package]\nname = \"tiny\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nitoa = \"1\"\n",
    );
    world.write("project/src/main.rs", "fn main() { println!(\"{}\", itoa::Buffer::new().format(7)) }\n");
    let carboy = |arguments: &[&str]| {
        let mut command = world.carboy(arguments);
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display());
        command.env("HOME", &home).env("PATH", path).output().unwrap()
    };
    let planned = ok(carboy(&["init", "shell", "cargo", "--dry-run", "--json"]));
    let Some(index) = host_of(&planned, "cargo") else {
        return skip("cargo", person, "the index of cargo is not known");
    };
    if !reachable(&format!("https://{index}/config.json")) {
        return skip("cargo", person, "the index of cargo cannot be reached from here");
    }
    not_skipped("cargo", person);
    ok(carboy(&["init", "shell", "cargo"]));
    let ran = ok(carboy(&["run", "--bottle", "cargo", "--", "cargo", "run", "-q"]));
    assert_eq!(text(&ran.stdout), "7\n", "{}", text(&ran.stderr));
    // What it downloaded is in the bottle's own home.
    assert!(world.dir.join("home/state/cargo/home/.cargo/registry").is_dir());
}

fn git_clone(person: Person) {
    let repository = "https://github.com/dtolnay/itoa.git";
    if !reachable(&format!("{repository}/info/refs?service=git-upload-pack")) {
        return skip("git", person, "GitHub cannot be reached from here");
    }
    not_skipped("git", person);
    let world = World::new(person);
    ok(init(&world, &["shell", "git", "--preset", "github-read"]));
    let script = format!(
        "git clone -q --depth 1 {repository} it && ls it/Cargo.toml; cd it; git push -q origin HEAD:x; echo $?"
    );
    let ran = ok(world.carboy(&["run", "--bottle", "git", "--", "sh", "-c", &script]).output().unwrap());
    assert_eq!(text(&ran.stdout), "it/Cargo.toml\n128\n", "{}", text(&ran.stderr));
}

fn import(person: Person) {
    let world = World::new(person);
    assert_eq!(init(&world, &["--from", "bot-bottle"]).status.code(), Some(2));
    world.write(
        "user/.bot-bottle/bottles/old.md",
        "---\nenv: {A: b}\ngit_user: {name: Ada, email: ada@example.org}\nzzz: 1\n---\nprose\n",
    );
    world.write("user/.bot-bottle/agents/fix.md", "---\nbottle: old\n---\nYou fix.\n");
    let shown = ok(init(&world, &["--from", "bot-bottle", "--dry-run"]));
    assert!(text(&shown.stdout).contains("bottles/old.md") && !world.dir.join("home/bottles/old.md").exists());
    let output = ok(init(&world, &["--from", "bot-bottle"]));
    let said = text(&output.stderr);
    assert!(said.contains("user/.bot-bottle/bottles/old.md:4:") && said.contains("zzz"), "{said}");
    let bottle = read(&world, "home/bottles/old.md");
    assert!(bottle.contains("git-gate") && bottle.contains("prose"), "{bottle}");
    ok(world.carboy(&["check", "fix"]).output().unwrap());
    // What is there stays, unless it is given up.
    world.write("home/bottles/old.md", "---\n---\nmine\n");
    assert_eq!(init(&world, &["--from", "bot-bottle"]).status.code(), Some(2));
    assert!(read(&world, "home/bottles/old.md").contains("mine"));
    ok(init(&world, &["--from", "bot-bottle", "--force"]));
    assert_eq!(read(&world, "home/bottles/old.md"), bottle);
}

/// `/etc/carboy/settings.yml` in a mount namespace of its own.
fn with_system(world: &World, owner: &str, mode: &str, arguments: &[&str]) -> Output {
    let command = world.carboy(arguments);
    let etc = world.dir.join("etc");
    let script = "set -e; [ -d \"$0\" ] || cp -a /etc \"$0\"; mkdir -p \"$0/carboy\"; cp \"$1\" \"$0/carboy/settings.yml\"; \
                  chown root:root \"$0\" \"$0/carboy\"; chmod 755 \"$0\" \"$0/carboy\"; \
                  chown \"$2\" \"$0/carboy/settings.yml\"; chmod \"$3\" \"$0/carboy/settings.yml\"; shift 3; \
                  mount --bind \"$0\" /etc; exec \"$@\"";
    let mut outer = Command::new("unshare");
    outer.args(["--mount", "sh", "-c", script]).arg(etc).arg(world.dir.join("system.yml")).args([owner, mode]);
    outer.arg(command.get_program()).args(command.get_args()).current_dir(&world.project).env_clear();
    outer.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    outer.output().unwrap()
}

fn system(person: Person) {
    let world = World::new(person);
    world.settings("capture: force-t2\n");
    world.write("system.yml", "capture: t1\nbottle_uid: 60123\n");
    let output = ok(with_system(&world, "root:root", "644", &["check", "--bottle", "test", "--json"]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let effective = &report["effective"];
    assert_eq!(effective["capture"]["value"], "t1", "{report:#}");
    assert_eq!(effective["capture"]["origin"]["file"], "/etc/carboy/settings.yml");
    assert_eq!(effective["bottle_uid"]["value"], 60123);
    let mine = effective["upstreams"][0]["origin"]["file"].as_str().unwrap();
    assert!(mine.ends_with("home/settings.yml"), "{mine}");
    // One that somebody else can write, or that cannot be read, stops everything.
    for (owner, mode) in [("1234:root", "644"), ("root:root", "666"), ("1234:root", "600")] {
        let output = with_system(&world, owner, mode, &["run", "--bottle", "test", "--", "true"]);
        assert_eq!(output.status.code(), Some(78), "{owner} {mode} {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("/etc/carboy/settings.yml"), "{}", text(&output.stderr));
    }
}
