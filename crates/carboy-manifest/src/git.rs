//! `git-gate`: who commits (M20, M21), and which repositories the gate knows.

use serde::Serialize;

use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node};

/// Longest name or address, in characters.
const IDENTITY_CHARS_MAX: usize = 200;

/// Who commits inside; each field alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GitUser {
    /// `user.name`
    pub name: Option<String>,
    /// `user.email`
    pub email: Option<String>,
}

impl GitUser {
    /// M21: the agent's fields win, the bottle's fill.
    pub fn over(self, base: &GitUser) -> GitUser {
        GitUser { name: self.name.or_else(|| base.name.clone()), email: self.email.or_else(|| base.email.clone()) }
    }

    /// The `.gitconfig` that says so; `None` when neither field is given (M20: nothing is configured then).
    pub fn gitconfig(&self) -> Option<String> {
        if self.name.is_none() && self.email.is_none() {
            return None;
        }
        let mut text = String::from("[user]\n");
        for (key, value) in [("name", &self.name), ("email", &self.email)] {
            if let Some(value) = value {
                let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                text.push_str(&format!("\t{key} = \"{escaped}\"\n"));
            }
        }
        Some(text)
    }
}

/// A repository behind the gate. Parsed and checked; this version refuses every push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GitRepo {
    /// The repository's name inside.
    pub name: String,
    /// Where it really is.
    pub url: String,
    /// Host path of the private key that the gate would use; never visible inside.
    pub identity: Option<String>,
    /// The pinned host key.
    pub host_key: Option<String>,
}

/// What a bottle says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitGate {
    pub(crate) user: GitUser,
    pub(crate) repos: Vec<GitRepo>,
}

/// A bottle's `git-gate`.
pub(crate) fn git_gate(scope: &mut Scope<'_>, node: &Node) -> GitGate {
    let mut gate = GitGate::default();
    let Some(entries) = scope.map(node, "`git-gate`") else { return gate };
    scope.keys(entries, &keys::GIT_GATE, "`git-gate`");
    if let Some(node) = find(entries, "user") {
        gate.user = user(scope, node);
    }
    if let Some(node) = find(entries, "repos") {
        gate.repos = repos(scope, node);
    }
    gate
}

/// An agent's `git-gate`, which has `user` alone: repositories come with credentials, and those are a bottle's.
pub(crate) fn agent_git_user(scope: &mut Scope<'_>, node: &Node) -> GitUser {
    let Some(entries) = scope.map(node, "`git-gate`") else { return GitUser::default() };
    if let Some(entry) = entries.iter().find(|entry| entry.key == "repos") {
        let message = format!("{} has `git-gate.repos`, which only a bottle may have", scope.owner);
        scope.error(entry.key_at, Code::BottleKeyInAgent, message, "move `repos` to the bottle's file");
    }
    let rest: Vec<Entry> = entries.iter().filter(|entry| entry.key != "repos").cloned().collect();
    scope.keys(&rest, &keys::Keys::only(&["user"]), "`git-gate`");
    find(entries, "user").map(|node| user(scope, node)).unwrap_or_default()
}

fn user(scope: &mut Scope<'_>, node: &Node) -> GitUser {
    let mut read = GitUser::default();
    let Some(entries) = scope.map(node, "`git-gate.user`") else { return read };
    scope.keys(entries, &keys::GIT_USER, "`git-gate.user`");
    let mut field = |key: &str| {
        let node = find(entries, key)?;
        let text = scope.text(node, &format!("`git-gate.user.{key}`"))?;
        // A line end would begin a section of its own in .gitconfig (`[core] sshCommand = …`).
        let bad = text.trim().is_empty()
            || text.chars().count() > IDENTITY_CHARS_MAX
            || text.chars().any(|c| c.is_control() || c == '<' || c == '>');
        if bad {
            let message = format!("`git-gate.user.{key}` of {} is {}", scope.owner, excerpt(text));
            let fix = format!("use 1 to {IDENTITY_CHARS_MAX} characters on one line, without `<` and `>`");
            scope.error(node.at, Code::BadValue, message, fix);
            return None;
        }
        Some(text.to_owned())
    };
    read.name = field("name");
    read.email = field("email");
    read
}

fn repos(scope: &mut Scope<'_>, node: &Node) -> Vec<GitRepo> {
    let Some(entries) = scope.map(node, "`git-gate.repos`") else { return Vec::new() };
    if !entries.is_empty() {
        let message = "`git-gate.repos` is read, but pushing through the gate is not available in this version: \
                       every push from the bottle is refused";
        scope.warn(
            node.at,
            Code::PushRefused,
            message,
            "push from outside; `git: {fetch: true}` on a route allows fetches",
        );
    }
    entries.iter().filter_map(|entry| repo(scope, entry)).collect()
}

fn repo(scope: &mut Scope<'_>, entry: &Entry) -> Option<GitRepo> {
    let what = format!("repository {}", excerpt(&entry.key));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let named = entry.key.bytes().all(plain) && !entry.key.starts_with(['.', '-']) && entry.key.len() <= 100;
    if !named {
        let message = format!("{what} of {} has a name that is not valid", scope.owner);
        scope.error(entry.key_at, Code::BadName, message, "use letters, digits, `-`, `_` and inner `.`, at most 100");
    }
    let entries = scope.map(&entry.value, &what)?;
    scope.keys(entries, &keys::GIT_REPO, &what);
    let mut field = |key: &str| {
        let node = find(entries, key)?;
        let text = scope.text(node, &format!("`{key}` of {what}"))?;
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            let message = format!("`{key}` of {what} of {} is not one line of text", scope.owner);
            scope.error(node.at, Code::BadValue, message, "write it on one line");
            return None;
        }
        Some(text.to_owned())
    };
    let (url, identity, host_key) = (field("url"), field("identity"), field("host_key"));
    if find(entries, "url").is_none() {
        scope.missing(entry.key_at, "url", &what, "add `url`, as in \"ssh://git@git.example.org/team/repo.git\"");
    }
    let url = url?;
    let at = find(entries, "url").map_or(entry.key_at, |node| node.at);
    let scp_like = url.split_once(':').is_some_and(|(host, path)| {
        let scheme = matches!(host, "http" | "https" | "ssh" | "git" | "file");
        !scheme
            && !host.is_empty()
            && !path.is_empty()
            && !path.starts_with("//")
            && !host.contains('/')
            && !host.starts_with('-')
    });
    // `ext::` and `file:` run programs or read the host; a leading `-` is an option of git's own.
    let remote = ["ssh://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if !remote && (!scp_like || url.contains("::")) {
        let message = format!("`url` of {what} of {} is {}", scope.owner, excerpt(&url));
        scope.error(at, Code::BadValue, message, "use ssh://HOST/PATH, https://HOST/PATH or USER@HOST:PATH");
        return None;
    }
    named.then_some(GitRepo { name: entry.key.clone(), url, identity, host_key })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_identity_wins_field_by_field_and_none_configures_nothing() {
        // M20, M21
        let bottle = GitUser { name: Some("Bottle".into()), email: Some("b@example.org".into()) };
        let agent = GitUser { name: Some("Agent \"7\"".into()), email: None };
        let both = agent.over(&bottle);
        assert_eq!(both.gitconfig().unwrap(), "[user]\n\tname = \"Agent \\\"7\\\"\"\n\temail = \"b@example.org\"\n");
        assert_eq!(GitUser::default().gitconfig(), None);
    }
}
