//! Detection in homes made of real files and programs.

use std::path::Path;

use carboy_manifest::starter::Program;

use super::agents::{self, Inside, InstalledAgent};
use super::project::look;
use super::propose::{Proposal, path_variable};
use super::registries::{Manager, Whose, configured};
use super::testing::{FakeHome, below};
use super::toolchains;

const NODE: &str = "case \"$1\" in -p) echo \"$0\"; echo v22.1.0;; esac";

fn shown(found: &InstalledAgent, home: &FakeHome) -> (Option<String>, Vec<String>, Vec<String>) {
    let Inside { command, binds, path } = found.inside.clone().unwrap();
    let text = |path: &Path| below(path, &home.host);
    let binds = binds.iter().map(|bind| match &bind.target {
        Some(target) => format!("{} -> {target}", text(&bind.source)),
        None => text(&bind.source),
    });
    (command.as_deref().map(text), binds.collect(), path.iter().map(|path| text(path)).collect())
}

#[test]
fn a_single_file_is_shown_by_its_link_so_that_an_update_is_followed() {
    // M36
    let mut home = FakeHome::new();
    let version = home.executable("home/.local/share/claude/versions/2.1.0", "\x7fELF");
    home.link("home/.local/bin/claude", version.to_str().unwrap());
    home.on_path("home/.local/bin");
    let found = agents::find(&home.host, Program::Claude).unwrap();
    assert_eq!(found.real, version);
    assert_eq!(shown(&found, &home), (None, vec!["~/.local/bin/claude -> ~/.local/bin/claude".into()], vec![]));
}

#[test]
fn a_package_of_a_version_manager_is_shown_with_its_node_and_one_beside_it_with_its_package_alone() {
    // M36
    let home = FakeHome::new();
    let root = "home/.nvm/versions/node/v22.1.0";
    home.program(&format!("{root}/bin/node"), NODE);
    home.executable(&format!("{root}/lib/node_modules/@openai/codex/bin/codex.js"), "#!/usr/bin/env node\n");
    home.link(&format!("{root}/bin/codex"), "../lib/node_modules/@openai/codex/bin/codex.js");
    // Found although it is not on PATH.
    let found = agents::find(&home.host, Program::Codex).unwrap();
    let root = "~/.nvm/versions/node/v22.1.0".to_owned();
    // As it is found: an update of the package may have another file behind it.
    let command = Some(format!("{root}/bin/codex"));
    assert_eq!(shown(&found, &home), (command, vec![root.clone()], vec![format!("{root}/bin")]));

    home.executable("home/.npm-global/lib/node_modules/@google/gemini-cli/dist/index.js", "#!/usr/bin/env node\n");
    home.link("home/.npm-global/bin/gemini", "../lib/node_modules/@google/gemini-cli/dist/index.js");
    home.program("bin/node", &format!("exec {}/bin/node \"$@\"", home.at("home/.nvm/versions/node/v22.1.0").display()));
    let found = agents::find(&home.host, Program::Gemini).unwrap();
    let package = "~/.npm-global/lib/node_modules/@google/gemini-cli".to_owned();
    let want = (Some(format!("{package}/dist/index.js")), vec![root.clone(), package], vec![format!("{root}/bin")]);
    assert_eq!(shown(&found, &home), want);
}

#[test]
fn the_directory_that_holds_an_agents_login_is_never_proposed() {
    // M36
    let home = FakeHome::new();
    home.program("bin/node", NODE);
    home.program("home/.claude/local/claude", "exec node_modules/.bin/claude");
    home.write("home/.claude/.credentials.json", "{}");
    home.executable("home/.claude/local/node_modules/@anthropic-ai/claude-code/cli.js", "#!/usr/bin/env node\n");
    home.link("home/.claude/local/node_modules/.bin/claude", "../@anthropic-ai/claude-code/cli.js");
    let found = agents::find(&home.host, Program::Claude).unwrap();
    // (`bin/node` says that its root is the directory of all: it holds the home, and is refused.)
    let why = found.inside.clone().unwrap_err();
    assert!(why.contains("never visible"), "{why}");
    home.program("node/bin/node", NODE);
    home.program("bin/node", &format!("exec {}/node/bin/node \"$@\"", home.at("").display()));
    let found = agents::find(&home.host, Program::Claude).unwrap();
    let (_, binds, _) = shown(&found, &home);
    assert!(binds.contains(&"~/.claude/local/node_modules".to_owned()) && binds.len() == 2, "{binds:?}");
}

#[test]
fn a_program_of_the_repository_is_not_run() {
    let mut home = FakeHome::new();
    let marker = home.at("ran");
    for name in ["claude", "npm", "python3", "cargo", "go", "node"] {
        home.program(&format!("project/node_modules/.bin/{name}"), &format!("touch {}", marker.display()));
    }
    home.link("bin/codex", "../project/node_modules/.bin/claude");
    home.on_path("project/node_modules/.bin");
    assert!(agents::installed(&home.host).is_empty());
    assert!(Manager::ALL.into_iter().all(|manager| configured(&home.host, manager).is_none()));
    assert!(!marker.exists());
}

#[test]
fn a_tool_is_not_asked_in_the_project_where_a_file_could_steer_it() {
    let home = FakeHome::new();
    home.program("bin/npm", "pwd > \"$HOME/asked-in\"; echo https://r.example/");
    home.write("project/package.json", "{}");
    configured(&home.host, Manager::Npm).unwrap();
    assert_eq!(std::fs::read_to_string(home.at("home/asked-in")).unwrap(), "/\n");
}

#[test]
fn npm_says_its_registry_and_a_token_stays_where_it_is() {
    // M38
    let home = FakeHome::new();
    home.program("bin/npm", "[ \"$3\" = registry ] && echo https://u:npm_secret@r.example/npm/");
    home.write(
        "home/.npmrc",
        "registry=https://r.example/npm/\n@acme:registry=https://acme.example/\n//r.example/:_authToken=npm_secret\n",
    );
    home.write("project/.npmrc", "registry=https://evil.example/?\n");
    let found = configured(&home.host, Manager::Npm).unwrap();
    let hosts: Vec<_> = found.registries.iter().map(|r| (r.address.host.as_str(), r.whose)).collect();
    assert_eq!(
        hosts,
        [("r.example", Whose::Person), ("acme.example", Whose::Person), ("evil.example", Whose::Project)]
    );
    assert_eq!(found.env[0].value, "https://r.example/npm/");
    assert!(found.notes.iter().any(|note| note.contains("holds a credential")), "{:?}", found.notes);
    assert!(!format!("{found:?}").contains("npm_secret"));
}

#[test]
fn a_host_that_the_project_asks_for_is_shown_and_not_opened() {
    let home = FakeHome::new();
    home.program("bin/npm", "echo https://r.invalid/");
    home.write("project/.npmrc", "registry=https://evil.invalid/\n");
    let proposal = Proposal::of_manager(&home.host, Manager::Npm).unwrap();
    let hosts = |lines: &[carboy_manifest::starter::PresetLine]| -> Vec<String> {
        lines.iter().flat_map(|line| line.hosts.clone()).collect()
    };
    assert_eq!(hosts(&proposal.lines), ["r.invalid"]);
    assert_eq!(hosts(&proposal.asked_by_project), ["evil.invalid"]);
}

#[test]
fn cargo_says_its_registries_and_the_index_says_where_downloads_are() {
    // M38
    let home = FakeHome::new();
    home.program("bin/cargo", "exit 1");
    let cached = "home/.cargo/registry/index/index.example-0123/config.json";
    home.write(cached, r#"{"dl":"https://dl.example:443/a/crates/{crate}/{version}","api":"https://x.example"}"#);
    let hosts = |home: &FakeHome| -> Vec<String> {
        let found = configured(&home.host, Manager::Cargo).unwrap();
        found.registries.iter().map(|registry| registry.address.url()).collect()
    };
    // Nothing is configured: what cargo has used is its own.
    assert_eq!(hosts(&home), ["https://index.example", "https://dl.example/a/crates"]);
    let config = "[source.crates-io]\nreplace-with = \"mirror\"\n[source.mirror]\nregistry = \"sparse+https://index.example/m/\"\n";
    home.write("home/.cargo/config.toml", config);
    assert_eq!(hosts(&home), ["https://index.example/m", "https://dl.example/a/crates"]);
    let found = configured(&home.host, Manager::Cargo).unwrap();
    assert_eq!(found.binds[0].target.as_deref(), Some("~/.cargo/config.toml"));
    // A token keeps the file out.
    home.write(
        "home/.cargo/config.toml",
        &format!("{config}[registries.acme]\nindex = \"https://git.example/x\"\ntoken = \"cio-secret\"\n"),
    );
    let found = configured(&home.host, Manager::Cargo).unwrap();
    assert!(found.binds.is_empty() && !format!("{found:?}").contains("cio-secret"));
    let told = |words: &str| found.notes.iter().any(|note| note.contains(words));
    assert!(told("is a git index") && told("holds a credential"), "{:?}", found.notes);
}

#[test]
fn cargo_that_has_read_no_index_yet_is_made_to_read_it_in_a_directory_of_its_own() {
    let mut home = FakeHome::new();
    let script = "[ \"$1\" = generate-lockfile ] || exit 1; mkdir -p \"$CARGO_HOME/registry/index/i.example-9\" && \
                  echo '{\"dl\":\"https://i.example/dl\"}' > \"$CARGO_HOME/registry/index/i.example-9/config.json\"";
    home.program("bin/cargo", script);
    home.system_on_path();
    let found = configured(&home.host, Manager::Cargo).unwrap();
    let urls: Vec<String> = found.registries.iter().map(|registry| registry.address.url()).collect();
    assert_eq!(urls, ["https://i.example", "https://i.example/dl"]);
    assert_eq!(super::names_in(&home.at("home/.carboy/run")), Vec::<String>::new());
}

#[test]
fn go_is_asked_for_its_proxy_and_direct_is_left_out() {
    // M38
    let home = FakeHome::new();
    home.program(
        "bin/go",
        "[ \"$2\" = GOPROXY ] && echo 'https://p.example/go|https://q.example,direct' && echo sum.example",
    );
    let found = configured(&home.host, Manager::Go).unwrap();
    let hosts: Vec<&str> = found.registries.iter().map(|registry| registry.address.host.as_str()).collect();
    assert_eq!(hosts, ["p.example", "q.example", "sum.example"]);
    assert_eq!(found.env[0].value, "https://p.example/go,https://q.example");
}

#[test]
fn pip_uses_what_is_configured_or_what_it_brings_along() {
    // M38
    let mut home = FakeHome::new();
    let built_in =
        "if [ \"$2\" = -c ]; then echo https://own.example/simple; echo files.example; else cat \"$HOME/list\"; fi";
    home.system_on_path();
    home.program("bin/python3", built_in);
    let hosts = |home: &FakeHome| -> Vec<String> {
        let found = configured(&home.host, Manager::Pip).unwrap();
        found.registries.iter().map(|registry| registry.address.host.clone()).collect()
    };
    home.write("home/list", "");
    assert_eq!(hosts(&home), ["own.example", "files.example"]);
    home.write("home/list", "global.index-url='http://mirror.example:8081/simple'\n");
    assert_eq!(hosts(&home), ["mirror.example"]);
    let found = configured(&home.host, Manager::Pip).unwrap();
    let env: Vec<_> = found.env.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
    assert_eq!(
        env[..2],
        [("PIP_INDEX_URL", "http://mirror.example:8081/simple"), ("PIP_TRUSTED_HOST", "mirror.example")]
    );
}

#[test]
fn registries_of_this_machine_and_of_private_networks_are_told_apart() {
    let home = FakeHome::new();
    let of = |url: &str| {
        home.program("bin/npm", &format!("echo {url}"));
        Proposal::of_manager(&home.host, Manager::Npm).unwrap()
    };
    let private = of("http://10.1.2.3:4873/npm/");
    assert!(private.lines[0].private && private.lines[0].hosts == ["10.1.2.3:4873"], "{private:?}");
    let local = of("http://127.0.0.1:4873/");
    assert!(local.lines.is_empty() && local.notes[0].contains("forward: {4873: \"127.0.0.1:4873\"}"), "{local:?}");
    let special = of("https://192.0.2.7/");
    assert!(!special.lines[0].private && special.pinned[0].address.to_string() == "192.0.2.7", "{special:?}");
}

#[test]
fn a_project_uses_what_its_files_name_and_nothing_of_it_is_followed() {
    let home = FakeHome::new();
    home.write("project/web/package.json", "{}");
    home.write("project/Cargo.toml", "");
    home.write("project/node_modules/x/go.mod", "");
    home.write("project/.git/config", "[remote \"o\"]\n\turl = git@github.com:a/b.git\n");
    let project = look(&home.host);
    assert_eq!(project.managers, [(Manager::Npm, "web/package.json".into()), (Manager::Cargo, "Cargo.toml".into())]);
    assert!(project.github);
    for (url, is) in [
        ("https://github.com/a/b", true),
        ("https://github.com.evil.example/a", false),
        ("https://evil.example/github.com/", false),
    ] {
        home.write("project/.git/config", &format!("url = {url}\n"));
        assert_eq!(look(&home.host).github, is, "{url}");
    }
    // A link in the project is not followed to what the person alone may read.
    std::fs::remove_file(home.at("project/.git/config")).unwrap();
    home.write("home/secret", "url = https://github.com/a/b\n");
    home.link("project/.git/config", "../../home/secret");
    assert!(!look(&home.host).github);
}

#[test]
fn a_toolchain_of_a_home_is_shown_at_its_own_path_and_a_whole_home_never() {
    // M36
    let home = FakeHome::new();
    let root = home.at("home/.rustup/toolchains/stable");
    home.write("home/.rustup/toolchains/stable/bin/.keep", "");
    let script = format!("case \"$1\" in --print) echo {};; *) echo 'rustc 1.90.0 (abc)';; esac", root.display());
    home.program("bin/rustc", &script);
    let found = toolchains::of_manager(&home.host, Manager::Cargo).unwrap();
    assert_eq!(
        (found.name.as_str(), &found.binds[0].source, found.binds[0].target.as_deref()),
        ("rustc 1.90.0", &root, None)
    );
    let path = path_variable(&found.path).unwrap();
    assert!(path.value.starts_with(&format!("{}/bin:/home/agent/.local/bin:", root.display())), "{}", path.value);
    home.program("bin/rustc", &script.replace(root.to_str().unwrap(), home.host.home.to_str().unwrap()));
    let found = toolchains::of_manager(&home.host, Manager::Cargo).unwrap();
    assert!(found.binds.is_empty() && found.refused.is_some());
}

#[test]
fn in_a_directory_of_a_project_no_program_of_the_project_is_run() {
    let mut home = FakeHome::new();
    home.write("project/package.json", "{}");
    home.host.workspace = home.at("project/packages/one");
    std::fs::create_dir_all(&home.host.workspace).unwrap();
    home.write("other/.venv/pyvenv.cfg", "home = /usr/bin");
    let ran = home.at("ran");
    let theirs = format!("touch {}; echo theirs", ran.display());
    let places = [
        "project/node_modules/.bin",
        "project/.venv/bin",
        "project/tools",
        "other/.venv/bin",
        "other/node_modules/.bin",
    ];
    for place in places {
        home.program(&format!("{place}/python3"), &theirs);
    }
    home.link("venv", "other/.venv");
    let (first, path) = (home.at(""), home.host.variable("PATH").unwrap());
    let of = |place: &str| first.join(place).display().to_string();
    let hostile = places.map(of).join(":");
    home.set("PATH", &format!("{hostile}:{}:.:node_modules/.bin:{path}:/usr/bin:/bin", of("venv/bin")));
    assert_ne!(home.host.find("python3", &[home.at("project/tools")]), Some(home.at("project/tools/python3")));
    // A program of the person's own that is a script, and calls another by its name.
    home.executable("bin/python3", "#!/usr/bin/env own-interpreter\n");
    home.program("bin/own-interpreter", "echo own");
    for place in places {
        home.program(&format!("{place}/own-interpreter"), &theirs);
    }
    let found = home.host.find("python3", &[]).unwrap();
    assert_eq!((found.clone(), home.host.ask(&found, &[])), (home.at("bin/python3"), Some("own".into())));
    for place in &places[..3] {
        assert_eq!(home.host.ask(&home.at(place).join("python3"), &[]), None, "{place}");
    }
    assert!(!ran.exists());
}
