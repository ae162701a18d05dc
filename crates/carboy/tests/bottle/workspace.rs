//! `workspace: overlay`, `bottle diff|apply|undo|quarantine|rm`: real bottles, real git, hostile layers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{Person, Ran, World};
use crate::{Case, case, case_with};

/// Longest wait for something that another process does.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    vec![
        case_with(
            "E10 git and a package tree work in an overlay; diff, apply and undo bring it over and back",
            &["git"],
            whole_way,
        ),
        case("E10 a hostile layer is shown safely, and applying it changes nothing but the workspace", hostile),
        case("E10 steering files and git settings of a layer are held back, shown, and applied when named", steering),
        case("E10 while a run lives its layer is not applied, taken back, removed or shared", busy),
        case("E10 an apply that is killed in the middle is finished by the next one and undone as one", killed),
        case(
            "E10 state is kept per bottle and directory, and `workspace: overlay` in the file is as good as the flag",
            kept,
        ),
        case_with(
            "a git worktree works in both modes and its repository is kept apart in an overlay",
            &["git"],
            worktree,
        ),
        case("in direct mode diff names what changed, and undo says what can take it back", direct),
        case_with(
            "B51 what was taken out of a workspace is listed, shown as a difference and put back",
            &["git"],
            quarantine,
        ),
        case("bottle ls, show, du and rm count and remove a hostile state, and only that", keep),
        case("doctor says whether overlays work here", doctor),
    ]
}

/// The binary in the workspace; its output, whatever the code.
fn carboy(world: &World, arguments: &[&str]) -> Output {
    world.carboy(arguments).output().unwrap()
}

/// The same, and it must succeed; standard output.
fn good(world: &World, arguments: &[&str]) -> String {
    let output = carboy(world, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn json(world: &World, arguments: &[&str]) -> Value {
    let output = carboy(world, arguments);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {output:?}"))
}

fn overlay(world: &World, script: &str) -> Ran {
    world.run_with(&["--overlay"], &["sh", "-c", script])
}

/// Everything below a directory, links not followed: kind, mode and content.
fn picture(root: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                waiting.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            let mode = if meta.is_symlink() { 0 } else { meta.permissions().mode() };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), (mode, content));
        }
    }
    found
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "safe.directory=*", "-c", "user.name=a", "-c", "user.email=a@example.org"]).args(arguments);
    command.current_dir(directory).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A repository with a commit and the tree of a package manager.
fn project(world: &World) {
    git(&world.project, &["init", "-q", "-b", "main"]);
    for n in 0..40 {
        world.write(&format!("project/node_modules/pkg{n}/index.js"), &format!("module.exports = {n}\n"));
        world.write(&format!("project/node_modules/pkg{n}/package.json"), "{}\n");
    }
    world.write("project/.gitignore", "node_modules\n");
    world.write("project/README", "one\ntwo\nthree\n");
    world.write("project/old/name", "kept\n");
    git(&world.project, &["add", "."]);
    git(&world.project, &["commit", "-q", "-m", "first"]);
}

const WORK: &str = "set -e; git config user.name a; git config user.email a@example.org; \
    git checkout -q -b topic; printf 'one\\n2\\nthree\\n' > README; git commit -qam second; mv old new; git add -A; \
    git commit -qm moved; git checkout -q main; git commit -q --allow-empty -m other; git checkout -q topic; \
    git rebase -q main; rm -r node_modules/pkg1; rm -r node_modules/pkg2; mkdir node_modules/pkg2; \
    echo new > node_modules/pkg2/index.js; mv node_modules/pkg3 node_modules/renamed; \
    ln -s ../renamed node_modules/pkg4/link; chmod 755 node_modules/pkg5/index.js; git log --format=%s; git status --short";

fn whole_way(person: Person) {
    let world = World::new(person);
    project(&world);
    let before = picture(&world.project);
    let ran = overlay(&world, WORK).expect_code(0);
    assert_eq!(ran.stdout, "moved\nsecond\nother\nfirst\n", "{}", ran.stderr);
    assert_eq!(picture(&world.project), before, "the workspace changed before anything was applied");
    assert!(ran.stderr.contains("carboy bottle diff test"), "{}", ran.stderr);
    // The next run goes on where this one ended.
    let again =
        overlay(&world, "git log -1 --format=%s; cat node_modules/pkg2/index.js; ls node_modules/pkg1").expect_code(2);
    assert_eq!(again.stdout, "moved\nnew\n");

    let diff = good(&world, &["bottle", "diff", "test", "README"]);
    assert!(diff.contains("--- a/README\n+++ b/README\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"), "{diff}");
    let names = good(&world, &["bottle", "diff", "test", "--name-only", "node_modules"]);
    let names: Vec<&str> = names.lines().collect();
    for name in [
        "node_modules/pkg1/index.js",
        "node_modules/pkg2/package.json",
        "node_modules/renamed/index.js",
        "node_modules/pkg5/index.js",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(!names.contains(&"node_modules/pkg6/index.js"));
    let listed = json(&world, &["bottle", "diff", "test", "--json"]);
    let of = |path: &str| listed[0]["changes"].as_array().unwrap().iter().find(|c| c["path"] == path).unwrap().clone();
    assert_eq!(
        (of("node_modules/pkg5/index.js")["what"].as_str(), of("old/name")["what"].as_str()),
        (Some("mode"), Some("deleted"))
    );
    assert_eq!(of("node_modules/pkg4/link")["after"]["target"], "../renamed");

    good(&world, &["bottle", "apply", "test", "--dry-run"]);
    assert_eq!(picture(&world.project), before);
    let refused = carboy(&world, &["bottle", "apply", "test"]);
    assert_eq!(refused.status.code(), Some(77), "without a terminal and `--yes` nobody agreed");
    assert_eq!(picture(&world.project), before);
    // user.name and user.email are settings that the repository did not have: they are held back and nothing else is.
    let applied = json(&world, &["bottle", "apply", "test", "--yes", "--json"]);
    let left = applied[0]["left"].as_array().unwrap();
    assert_eq!(left.iter().map(|l| l["path"].as_str().unwrap()).collect::<Vec<_>>(), [".git/config"], "{left:?}");
    assert_eq!(git(&world.project, &["log", "--format=%s"]), "moved\nsecond\nother\nfirst");
    assert_eq!(git(&world.project, &["status", "--short"]), "");
    git(&world.project, &["fsck", "--strict"]);
    assert_eq!(fs::read_to_string(world.project.join("node_modules/pkg2/index.js")).unwrap(), "new\n");
    assert!(
        !world.project.join("node_modules/pkg1").exists()
            && !world.project.join("node_modules/pkg2/package.json").exists()
    );
    good(&world, &["bottle", "undo", "test", "--yes"]);
    let decided: Vec<String> = world.log().iter().filter_map(|entry| entry.text("action").map(str::to_owned)).collect();
    let count = |action: &str| decided.iter().filter(|done| *done == action).count();
    assert_eq!((count("bottle_apply"), count("bottle_undo")), (1, 1), "{decided:?}");
    // Although `git status` has written its index anew meanwhile.
    let now = picture(&world.project);
    let differ: Vec<_> =
        now.iter().filter(|(path, node)| before.get(*path) != Some(node)).map(|(path, _)| path).collect();
    assert_eq!((differ, now.len()), (vec![], before.len()));
}

fn hostile(person: Person) {
    let world = World::new(person);
    world.write("user/.bashrc", "mine\n");
    world.write("project/dir/inner", "x\n");
    world.write("project/file", "x\n");
    world.write("project/kept", "x\n");
    let home = world.dir.join("user");
    let script = format!(
        "ln -s {home}/.bashrc rc; ln -s .. up; ln -s {home} home; rm -r dir; echo f > dir; rm file; mkdir file; \
         echo in > file/in; printf x > \"$(printf 'new\\nline')\"; printf x > \"$(printf 'esc\\033[2J\\033]0;t\\007')\"; \
         printf x > \"$(printf 'bad\\377utf')\"; printf 'a\\033[31mb\\n' > text; truncate -s 5G huge; truncate -s 300M sparse; \
         mkfifo pipe; printf x > suid; chmod 6755 suid; mkdir closed; echo x > closed/x; chmod 0 closed; \
         p=.; for i in $(seq 200); do p=$p/d; done; mkdir -p $p; echo deep > $p/deep; chmod 777 kept",
        home = home.display()
    );
    let before = picture(&world.project);
    overlay(&world, &script).expect_code(0);
    assert_eq!(picture(&world.project), before);
    for arguments in [&["bottle", "diff", "test"][..], &["bottle", "apply", "test", "--dry-run"]] {
        let output = carboy(&world, arguments);
        let shown = [output.stdout, output.stderr].concat();
        assert!(
            !shown.iter().any(|b| matches!(b, 0x1b | 0x07)) && std::str::from_utf8(&shown).is_ok(),
            "{arguments:?}"
        );
        let text = String::from_utf8(shown).unwrap();
        for name in ["larger than 4 GiB", "a device, a pipe or a socket"] {
            assert!(text.contains(name), "{arguments:?}: {name} in {text}");
        }
        // An apply lists the first two hundred.
        for name in ["new\\nline", "bad\\xffutf"].iter().filter(|_| arguments[1] == "diff") {
            assert!(text.contains(name), "{arguments:?}: {name} in {text}");
        }
    }
    let applied = json(&world, &["bottle", "apply", "test", "--yes", "--json"]);
    let left: Vec<&str> = applied[0]["left"].as_array().unwrap().iter().map(|l| l["path"].as_str().unwrap()).collect();
    let closed = if person == Person::Me && crate::world::is_root() {
        &["huge", "pipe"][..]
    } else {
        &["closed", "huge", "pipe"]
    };
    assert_eq!(left, closed, "{applied}");
    let at = |path: &str| world.project.join(path);
    assert_eq!(fs::read_to_string(home.join(".bashrc")).unwrap(), "mine\n");
    assert_eq!(fs::read_link(at("rc")).unwrap(), home.join(".bashrc"));
    assert_eq!(fs::metadata(at("suid")).unwrap().permissions().mode() & 0o7000, 0);
    assert_eq!(
        (fs::read_to_string(at("dir")).unwrap(), fs::read_to_string(at("file/in")).unwrap()),
        ("f\n".into(), "in\n".into())
    );
    assert!(fs::symlink_metadata(at("pipe")).is_err() && fs::symlink_metadata(at("huge")).is_err());
    let sparse = fs::metadata(at("sparse")).unwrap();
    assert!(std::os::unix::fs::MetadataExt::blocks(&sparse) < 1000, "a hole of the bottle's must stay one");
    let deep = std::iter::repeat_n("d", 200).collect::<Vec<_>>().join("/");
    assert_eq!(fs::read_to_string(at(&deep).join("deep")).unwrap(), "deep\n");
    // A second layer writes below a link that the first one brought: it lands in the workspace or not at all.
    overlay(&world, "rm home; mkdir home; echo evil > home/.bashrc").expect_code(0);
    good(&world, &["bottle", "apply", "test", "--yes", "home"]);
    assert_eq!(fs::read_to_string(home.join(".bashrc")).unwrap(), "mine\n");
    assert_eq!(fs::read_to_string(at("home/.bashrc")).unwrap(), "evil\n");
    assert!(carboy(&world, &["bottle", "undo", "test", "--yes"]).status.success());
    assert!(carboy(&world, &["bottle", "undo", "test", "--yes"]).status.success());
    assert_eq!(picture(&world.project), before);
}

fn steering(person: Person) {
    let world = World::new(person);
    world.write("project/.git/config", "[core]\n\tbare = false\n");
    for name in ["objects", "refs"] {
        world.write(&format!("project/.git/{name}/keep"), "");
    }
    world.write("project/.git/HEAD", "ref: refs/heads/main\n");
    let script = "mkdir -p .git/hooks .claude .vscode; printf '[core]\\n\\tbare = false\\n\\tfsmonitor = touch /tmp/x\\n' > .git/config; \
                  echo evil > .git/hooks/post-checkout; echo '{}' > .claude/settings.json; echo '{}' > .mcp.json; echo x > plain";
    let ran = overlay(&world, script).expect_code(0);
    assert_eq!(ran.summary["quarantined"], serde_json::json!([]), "nothing of the host was touched");
    let applied = json(&world, &["bottle", "apply", "test", "--yes", "--json"]);
    let left: Vec<&str> = applied[0]["left"].as_array().unwrap().iter().map(|l| l["path"].as_str().unwrap()).collect();
    assert_eq!(left, [".claude/settings.json", ".git/config", ".git/hooks/post-checkout", ".mcp.json"]);
    assert!(world.project.join("plain").exists() && !world.project.join(".mcp.json").exists());
    assert_eq!(fs::read_to_string(world.project.join(".git/config")).unwrap(), "[core]\n\tbare = false\n");
    // What steers is shown with its lines before anybody agrees.
    let shown = good(&world, &["bottle", "apply", "test", "--steering", "--dry-run"]);
    assert!(shown.contains("+\tfsmonitor = touch /tmp/x") && shown.contains("+evil"), "{shown}");
    good(&world, &["bottle", "apply", "test", "--yes", ".mcp.json"]);
    assert!(world.project.join(".mcp.json").exists() && !world.project.join(".claude/settings.json").exists());
    good(&world, &["bottle", "apply", "test", "--yes", "--steering"]);
    assert!(fs::read_to_string(world.project.join(".git/config")).unwrap().contains("fsmonitor"));
}

/// A run that lives until it is killed.
struct Living(Child);

impl Living {
    fn start(world: &World, flags: &[&str]) -> Living {
        let mut arguments = vec!["run", "--bottle", "test"];
        arguments.extend(flags);
        arguments.extend(["--", "sh", "-c", "echo ready; sleep 1000"]);
        let mut child = world.carboy(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Living(child)
    }
}

impl Drop for Living {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn busy(person: Person) {
    let world = World::new(person);
    let living = Living::start(&world, &["--overlay"]);
    let run = json(&world, &["ps", "--json"])[0]["record"]["run"].as_str().unwrap().to_owned();
    for arguments in [
        &["bottle", "diff", "test"][..],
        &["bottle", "apply", "test", "--yes"],
        &["bottle", "undo", "test", "--yes"],
        &["bottle", "rm", "test", "--yes"],
        &["run", "--bottle", "test", "--overlay", "--another", "--", "true"],
    ] {
        let output = carboy(&world, arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(77), "{arguments:?}: {text}");
        assert!(text.contains(&run), "{arguments:?}: {text}");
    }
    drop(living);
    // A supervisor that was killed holds nothing.
    let until = Instant::now() + WAIT_MAX;
    while carboy(&world, &["bottle", "diff", "test"]).status.code() == Some(77) {
        assert!(Instant::now() < until, "the lock outlived its run");
    }
    overlay(&world, "true").expect_code(0);
}

fn killed(person: Person) {
    const FILES: usize = 3000;
    let world = World::new(person);
    for n in 0..FILES / 2 {
        fs::write(world.project.join(format!("f{n}")), "before").unwrap();
    }
    let before = picture(&world.project);
    let script = format!("i=0; while [ $i -lt {FILES} ]; do echo after$i > f$i; i=$((i+1)); done");
    overlay(&world, &script).expect_code(0);
    let mut child = world.carboy(&["bottle", "apply", "test", "--yes"]).spawn().unwrap();
    let until = Instant::now() + WAIT_MAX;
    while !world.project.join("f2000").exists() {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let half = picture(&world.project);
    let done =
        (0..FILES).filter(|n| half.get(Path::new(&format!("f{n}"))).is_some_and(|f| f.1.starts_with(b"after"))).count();
    assert!(0 < done && done < FILES, "{done}");
    // Each file is the old one or the new one, whole.
    for (path, (_, content)) in &half {
        let name = path.to_str().unwrap();
        let whole = content == b"before" || *content == format!("after{}\n", &name[1..]).into_bytes();
        assert!(whole || name.starts_with(".carboy-apply-"), "{name}: {content:?}");
    }
    good(&world, &["bottle", "apply", "test", "--yes"]);
    for n in 0..FILES {
        assert_eq!(fs::read_to_string(world.project.join(format!("f{n}"))).unwrap(), format!("after{n}\n"));
    }
    assert!(
        fs::read_dir(&world.project).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().starts_with(".carboy"))
    );
    good(&world, &["bottle", "undo", "test", "--yes"]);
    assert_eq!(picture(&world.project), before);
}

fn kept(person: Person) {
    let world = World::new(person);
    world.bottle("workspace: overlay\n");
    world.run(&["sh", "-c", "echo one > a; echo home > ~/b"]).expect_code(0);
    assert!(!world.project.join("a").exists());
    let ran = world.run(&["sh", "-c", "cat a ~/b"]).expect_code(0);
    assert_eq!(ran.stdout, "one\nhome\n");
    // Another directory has a layer of its own.
    fs::create_dir(world.dir.join("other")).unwrap();
    let other = world.dir.join("other");
    let ran = world.run_with(&["--workdir", other.to_str().unwrap()], &["sh", "-c", "ls a; cat ~/b"]).expect_code(0);
    assert_eq!(ran.stdout, "home\n");
    assert_eq!(good(&world, &["bottle", "diff", "test", "--name-only"]), "a\n");
    let of_other = good(&world, &["bottle", "diff", "test", "--name-only", "--workspace", other.to_str().unwrap()]);
    assert_eq!(of_other, "");
    // What was never applied is thrown away by `undo`, after asking.
    assert_eq!(carboy(&world, &["bottle", "undo", "test"]).status.code(), Some(77));
    good(&world, &["bottle", "undo", "test", "--yes"]);
    assert_eq!(good(&world, &["bottle", "diff", "test", "--name-only"]), "");
    assert_eq!(world.run(&["sh", "-c", "ls; cat ~/b"]).expect_code(0).stdout, "home\n");
}

fn worktree(person: Person) {
    let world = World::new(person);
    fs::create_dir(world.dir.join("repo")).unwrap();
    let repository = world.dir.join("repo");
    git(&repository, &["init", "-q", "-b", "main"]);
    git(&repository, &["commit", "-q", "--allow-empty", "-m", "first"]);
    fs::remove_dir(&world.project).unwrap();
    git(&repository, &["worktree", "add", "-q", "-b", "topic", world.project.to_str().unwrap()]);
    let commit = "git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m";
    let before = picture(&repository);
    let ran = overlay(&world, &format!("{commit} second && git log --format=%s")).expect_code(0);
    assert_eq!(ran.stdout, "second\nfirst\n", "{}", ran.stderr);
    assert_eq!(picture(&repository), before);
    good(&world, &["bottle", "apply", "test", "--yes"]);
    assert_eq!(git(&world.project, &["log", "--format=%s"]), "second\nfirst");
    good(&world, &["bottle", "undo", "test", "--yes"]);
    assert_eq!(git(&world.project, &["log", "--format=%s"]), "first");
    good(&world, &["bottle", "undo", "test", "--yes"]);
    let ran = world.sh(&format!("{commit} direct && git log --format=%s")).expect_code(0);
    assert_eq!(ran.stdout, "direct\nfirst\n", "{}", ran.stderr);
    assert_eq!(git(&repository, &["log", "--format=%s", "topic"]), "direct\nfirst");
    // A checkout that only says it is a worktree of that repository is shown nothing of it.
    let hostile = world.dir.join("hostile");
    fs::create_dir(&hostile).unwrap();
    fs::copy(world.project.join(".git"), hostile.join(".git")).unwrap();
    let ran = world.run_with(&["--workdir", hostile.to_str().unwrap()], &["ls", repository.to_str().unwrap()]);
    assert_ne!(ran.code, 0, "{}", ran.stdout);
}

fn direct(person: Person) {
    let world = World::new(person);
    for name in ["edited", "removed", "moded", "same"] {
        world.write(&format!("project/{name}"), "x\n");
    }
    world.sh("echo longer > edited; rm removed; chmod 755 moded; mkdir d; echo x > d/new").expect_code(0);
    let output = carboy(&world, &["bottle", "diff", "test"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected = ["added     d", "added     d/new", "modified  edited", "mode      moded", "deleted   removed"];
    assert_eq!(lines, expected, "{}", String::from_utf8_lossy(&output.stderr));
    for what in ["undo", "apply"] {
        let output = carboy(&world, &["bottle", what, "test", "--yes"]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains("git restore") && text.contains("overlay"), "{text}");
    }
}

fn quarantine(person: Person) {
    let world = World::new(person);
    git(&world.project, &["init", "-q"]);
    let config = world.project.join(".git/config");
    let script = "git config core.fsmonitor evil; git config core.pager evil2; git init -q sub; echo evil > sub/.git/hooks/pre-commit";
    let ran = world.sh(script).expect_code(0);
    let named = ran.summary["quarantined"].as_array().unwrap();
    assert!(named.iter().any(|q| q.as_str().unwrap().contains("q-1")), "{named:?}");
    let listed = json(&world, &["bottle", "quarantine", "test", "--json"]);
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2, "{listed:?}");
    let of = |path: &Path| listed.iter().find(|e| e["path"] == path.to_str().unwrap()).unwrap();
    let entry = of(&config);
    assert_eq!(entry["changes"].as_array().unwrap().len(), 2);
    assert_eq!(entry["run"], ran.summary["run"]);
    let id = entry["id"].as_str().unwrap();
    let shown = good(&world, &["bottle", "quarantine", "test", "show", id]);
    assert!(shown.contains("+\tfsmonitor = evil") && shown.contains("+\tpager = evil2"), "{shown}");
    assert_eq!(carboy(&world, &["bottle", "quarantine", "test", "restore", id]).status.code(), Some(77));
    good(&world, &["bottle", "quarantine", "test", "restore", id, "--yes"]);
    assert!(fs::read_to_string(&config).unwrap().contains("fsmonitor = evil"));
    assert_eq!(carboy(&world, &["bottle", "quarantine", "test", "restore", id, "--yes"]).status.code(), Some(77));
    // Through a link nothing is put back.
    let hook = world.project.join("sub/.git/hooks/pre-commit");
    let id = of(&hook)["id"].as_str().unwrap();
    let elsewhere = world.dir.join("elsewhere");
    fs::rename(world.project.join("sub"), &elsewhere).unwrap();
    symlink(&elsewhere, world.project.join("sub")).unwrap();
    assert_ne!(carboy(&world, &["bottle", "quarantine", "test", "restore", id, "--yes"]).status.code(), Some(0));
    fs::remove_file(world.project.join("sub")).unwrap();
    fs::rename(&elsewhere, world.project.join("sub")).unwrap();
    good(&world, &["bottle", "quarantine", "test", "restore", id, "--yes"]);
    assert_eq!(fs::read_to_string(hook).unwrap(), "evil\n");
    let missing = carboy(&world, &["bottle", "quarantine", "test", "show", "q-99"]);
    assert!(missing.status.code() == Some(1) && String::from_utf8_lossy(&missing.stderr).contains("q-99"));
}

fn keep(person: Person) {
    let world = World::new(person);
    world.write("user/precious", "mine\n");
    let script = format!(
        "cd; ln -s {} out; ln -s / root; p=.; for i in $(seq 300); do p=$p/$(printf 'd%.0s' $(seq 60)); \
         mkdir d$(printf 'd%.0s' $(seq 59)) && cd d$(printf 'd%.0s' $(seq 59)); done; mkdir closed; echo x > closed/x; chmod 0 closed; \
         cd; chmod 0 dddd* ; dd if=/dev/zero of=big bs=1M count=3 2>/dev/null",
        world.dir.join("user").display()
    );
    overlay(&world, &script).expect_code(0);
    let listed = json(&world, &["bottle", "ls", "--size", "--json"]);
    let of_test = listed.as_array().unwrap().iter().find(|b| b["name"] == "test").unwrap();
    assert!(of_test["last_run"]["run"].as_str().unwrap().starts_with("r-"), "{of_test}");
    let shown = json(&world, &["bottle", "show", "test", "--json"]);
    let home = shown["parts"].as_array().unwrap().iter().find(|p| p["what"] == "its home").unwrap();
    assert!(home["size"]["bytes"].as_u64().unwrap() > 3_000_000, "{home}");
    for arguments in [&["bottle", "ls"][..], &["bottle", "show", "test"], &["bottle", "du"], &["bottle", "du", "test"]]
    {
        assert!(good(&world, arguments).contains("test"), "{arguments:?}");
    }
    assert_eq!(carboy(&world, &["bottle", "rm", "test"]).status.code(), Some(77));
    assert!(world.dir.join("home/state/test/home/big").exists());
    good(&world, &["bottle", "rm", "test", "--yes"]);
    assert!(fs::symlink_metadata(world.dir.join("home/state/test")).is_err());
    assert_eq!(fs::read_to_string(world.dir.join("user/precious")).unwrap(), "mine\n");
    assert!(world.dir.join("home/bottles/test.md").exists());
    assert_eq!(carboy(&world, &["bottle", "show", "nothing"]).status.code(), Some(1));
    overlay(&world, "true").expect_code(0);
}

fn doctor(person: Person) {
    let world = World::new(person);
    let found = carboy(&world, &["doctor"]);
    let text = String::from_utf8_lossy(&found.stdout).into_owned() + &String::from_utf8_lossy(&found.stderr);
    assert!(text.lines().any(|line| line.contains("overlay") && line.contains("workspace: overlay")), "{text}");
}
