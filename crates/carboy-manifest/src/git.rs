//! `git-gate`: who commits (M20, M21), and which repositories the gate knows.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::origin::{Place, Said};
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

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

/// Who commits, as files say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserPart {
    pub(crate) name: Option<Said<String>>,
    pub(crate) email: Option<Said<String>>,
}

impl UserPart {
    /// M21, M27: this one's fields win, the other's fill.
    pub(crate) fn over(self, base: UserPart) -> UserPart {
        UserPart { name: self.name.or(base.name), email: self.email.or(base.email) }
    }
}

/// A repository, as files say it: a file that extends another may say a part of it (M28).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepoPart {
    /// Where its name stands.
    pub(crate) place: Place,
    pub(crate) url: Option<Said<String>>,
    pub(crate) identity: Option<Said<String>>,
    pub(crate) host_key: Option<Said<String>>,
}

impl RepoPart {
    /// M28: this one's fields win, the other's fill.
    pub(crate) fn over(self, base: RepoPart) -> RepoPart {
        RepoPart {
            place: self.place,
            url: self.url.or(base.url),
            identity: self.identity.or(base.identity),
            host_key: self.host_key.or(base.host_key),
        }
    }
}

/// What a bottle's file says. M28: no `repos` and an empty `repos` are two things.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GitGate {
    pub(crate) user: UserPart,
    pub(crate) repos: Option<BTreeMap<String, RepoPart>>,
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
        gate.repos = Some(repos(scope, node));
    }
    gate
}

/// An agent's `git-gate`, which has `user` alone: repositories come with credentials, and those are a bottle's.
pub(crate) fn agent_git_user(scope: &mut Scope<'_>, node: &Node) -> UserPart {
    let Some(entries) = scope.map(node, "`git-gate`") else { return UserPart::default() };
    if let Some(entry) = entries.iter().find(|entry| entry.key == "repos") {
        let message = format!("{} has `git-gate.repos`, which only a bottle may have", scope.owner);
        scope.error(entry.key_at, Code::BottleKeyInAgent, message, "move `repos` to the bottle's file");
    }
    let rest: Vec<Entry> = entries.iter().filter(|entry| entry.key != "repos").cloned().collect();
    scope.keys(&rest, &keys::Keys::only(&["user"]), "`git-gate`");
    find(entries, "user").map(|node| user(scope, node)).unwrap_or_default()
}

fn user(scope: &mut Scope<'_>, node: &Node) -> UserPart {
    let mut read = UserPart::default();
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
        Some(scope.said(text.to_owned(), node.at))
    };
    read.name = field("name");
    read.email = field("email");
    read
}

fn repos(scope: &mut Scope<'_>, node: &Node) -> BTreeMap<String, RepoPart> {
    let Some(entries) = scope.map(node, "`git-gate.repos`") else { return BTreeMap::new() };
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
    entries.iter().filter_map(|entry| Some((entry.key.clone(), repo(scope, entry)?))).collect()
}

/// What is missing here may stand in the file that this one extends; the whole is looked at after the merge.
fn repo(scope: &mut Scope<'_>, entry: &Entry) -> Option<RepoPart> {
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
        let text = scope.text(node, &format!("`{key}` of {what}")).unwrap_or_default();
        let is_text = matches!(node.value, Value::Text(_));
        if is_text && (text.trim().is_empty() || text.chars().any(char::is_control)) {
            let message = format!("`{key}` of {what} of {} is not one line of text", scope.owner);
            scope.error(node.at, Code::BadValue, message, "write it on one line");
        } else if is_text && key == "url" && !is_remote(text) {
            let message = format!("`url` of {what} of {} is {}", scope.owner, excerpt(text));
            let fix = "use ssh://HOST/PATH, https://HOST/PATH or USER@HOST:PATH";
            scope.error(node.at, Code::BadValue, message, fix);
        }
        // Kept although it may be wrong, which is reported: the field is not missing.
        Some(scope.said(text.to_owned(), node.at))
    };
    let (url, identity, host_key) = (field("url"), field("identity"), field("host_key"));
    Some(RepoPart { place: scope.said((), entry.key_at).place, url, identity, host_key })
}

/// `ext::` and `file:` run programs or read the host; a leading `-` is an option of git's own.
fn is_remote(url: &str) -> bool {
    let scp_like = url.split_once(':').is_some_and(|(host, path)| {
        let scheme = matches!(host, "http" | "https" | "ssh" | "git" | "file");
        let parted = !host.is_empty() && !path.is_empty() && !path.starts_with("//");
        !scheme && parted && !host.contains('/') && !host.starts_with('-')
    });
    let named = ["ssh://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    named || (scp_like && !url.contains("::"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Position;

    #[test]
    fn an_agents_identity_wins_field_by_field_and_none_configures_nothing() {
        // M20, M21
        let said = |text: &str| {
            let place = Place { file: "f.md".into(), at: Position::START };
            Some(Said { value: text.to_owned(), place })
        };
        let bottle = UserPart { name: said("Bottle"), email: said("b@example.org") };
        let agent = UserPart { name: said("Agent \"7\""), email: None };
        let both = agent.over(bottle);
        let user = GitUser { name: both.name.map(|said| said.value), email: both.email.map(|said| said.value) };
        assert_eq!(user.gitconfig().unwrap(), "[user]\n\tname = \"Agent \\\"7\\\"\"\n\temail = \"b@example.org\"\n");
        assert_eq!(GitUser::default().gitconfig(), None);
    }
}
