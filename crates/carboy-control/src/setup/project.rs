//! What a project uses, by the names of its files; nothing of it is run.

use std::path::Path;

use serde::Serialize;

use super::registries::Manager;
use super::{Surroundings, names_in, read_repository};

/// Files that say which package manager a project uses.
const MARKERS: &[(Manager, &[&str])] = &[
    (Manager::Npm, &["package.json"]),
    (Manager::Pip, &["pyproject.toml", "requirements.txt", "setup.py", "setup.cfg", "Pipfile"]),
    (Manager::Cargo, &["Cargo.toml"]),
    (Manager::Go, &["go.mod"]),
];
/// Directories that hold other people's projects.
const NOT_OF_PROJECT: &[&str] = &["node_modules", "target", "vendor", "venv"];

/// What a project uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Project {
    /// Package managers, and the file that says so.
    pub managers: Vec<(Manager, String)>,
    /// Whether one of its git remotes is on GitHub.
    pub github: bool,
}

/// Looks at the project and one level below it.
pub fn look(host: &Surroundings) -> Project {
    let names = names_in(&host.workspace);
    let is_directory = |name: &String| {
        let meta = std::fs::symlink_metadata(host.workspace.join(name));
        meta.is_ok_and(|meta| meta.is_dir()) && !name.starts_with('.') && !NOT_OF_PROJECT.contains(&name.as_str())
    };
    let below = names.iter().filter(|name| is_directory(name));
    let mut files: Vec<String> = names.clone();
    for dir in below {
        files.extend(names_in(&host.workspace.join(dir)).into_iter().map(|name| format!("{dir}/{name}")));
    }
    let found = MARKERS.iter().filter_map(|(manager, markers)| {
        let is_marker = |file: &&String| markers.contains(&file.rsplit('/').next().unwrap_or_default());
        files.iter().find(is_marker).map(|file| (*manager, file.clone()))
    });
    Project { managers: found.collect(), github: has_github_remote(&host.workspace) }
}

/// The text of `.git/config` alone is looked at: git would run what that file names.
fn has_github_remote(workspace: &Path) -> bool {
    let text = read_repository(&workspace.join(".git/config")).unwrap_or_default();
    let urls = text.lines().filter_map(|line| line.trim().strip_prefix("url")?.trim_start().strip_prefix('='));
    urls.map(str::trim).any(|url| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
        rest.strip_prefix("github.com").is_some_and(|rest| rest.starts_with(['/', ':']))
    })
}

/// Who commits on this host: name and address of the person's own git configuration.
pub fn git_user(host: &Surroundings) -> Option<(String, String)> {
    let git = host.find("git", &[])?;
    let said = |key: &str| host.ask(&git, &["config", "--get", key]).filter(|value| !value.is_empty());
    let one_line = |value: String| value.lines().next().map(str::to_owned);
    Some((one_line(said("user.name")?)?, one_line(said("user.email")?)?))
}
