//! The git gate of a file that is taken over: from itself, and from the keys that it took the place of.
//!
//! *Must never* drop a key without saying so.

use super::bottle::{Piece, accepted, gone};
use super::{NoteKind, Source, emit};
use crate::diagnostic::Position;
use crate::yaml::{Entry, Node, Value};

/// `git-gate`, put together from itself and from what it replaced.
pub(super) struct Gate {
    at: Position,
    user: Vec<Entry>,
    repos: Option<Vec<Entry>>,
    rest: Vec<Entry>,
}

impl Gate {
    pub(super) fn of(root: &[Entry]) -> Gate {
        let mut gate = Gate { at: Position::START, user: Vec::new(), repos: None, rest: Vec::new() };
        let Some(entry) = root.iter().find(|entry| entry.key == "git-gate") else { return gate };
        gate.at = entry.key_at;
        let Value::Map(keys) = &entry.value.value else {
            gate.rest.push(entry.clone());
            return gate;
        };
        for key in keys {
            match (key.key.as_str(), &key.value.value) {
                ("user", Value::Map(user)) => gate.user.clone_from(user),
                ("repos", Value::Map(repos)) => gate.repos = Some(repos.clone()),
                (_, _) => gate.rest.push(key.clone()),
            }
        }
        gate
    }

    pub(super) fn git_user(&mut self, source: &mut Source<'_>, entry: &Entry) -> Piece {
        match &entry.value.value {
            Value::Map(fields) => self.take_user(fields),
            Value::Text(name) => self.take_user(&[emit::pair("name", emit::text(name.clone(), entry.value.at))]),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Invalid => {
                let fix = "write `git-gate: {user: {name: …, email: …}}`";
                return gone(source, entry, NoteKind::LeftOut, "says no name", fix);
            }
        }
        gone(
            source,
            entry,
            NoteKind::Rewritten,
            "is `git-gate.user` here",
            "nothing; see docs/removed-keys.md#git_user",
        )
    }

    /// What `git-gate` says itself stands.
    fn take_user(&mut self, fields: &[Entry]) {
        for field in fields {
            if !self.user.iter().any(|own| own.key == field.key) {
                self.user.push(field.clone());
            }
        }
    }

    pub(super) fn git(&mut self, source: &mut Source<'_>, entry: &Entry) -> Piece {
        let keys = match &entry.value.value {
            Value::Map(keys) => keys.clone(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Invalid => {
                Vec::new()
            }
        };
        for key in &keys {
            match (key.key.as_str(), &key.value.value) {
                ("user", Value::Map(fields)) => self.take_user(fields),
                ("remotes", Value::Map(remotes)) => remotes.iter().for_each(|one| self.take_repo(source, one)),
                (other, _) => {
                    let fix = "see docs/removed-keys.md#git";
                    source.note(NoteKind::LeftOut, key.key_at, &format!("git.{other}"), "has no counterpart", fix);
                }
            }
        }
        gone(source, entry, NoteKind::Rewritten, "is `git-gate` here", "nothing; see docs/removed-keys.md#git")
    }

    fn take_repo(&mut self, source: &mut Source<'_>, entry: &Entry) {
        let fields = match &entry.value.value {
            Value::Map(fields) => fields.clone(),
            Value::Text(url) => vec![emit::pair("url", emit::text(url.clone(), entry.value.at))],
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Invalid => Vec::new(),
        };
        let mut kept = Vec::new();
        for field in fields {
            let plain = field.key.to_ascii_lowercase().replace(['-', '_'], "");
            let key = match plain.as_str() {
                "url" | "upstream" | "remote" => "url",
                "identity" | "identityfile" | "key" => "identity",
                "hostkey" | "knownhostkey" => "host_key",
                _ => {
                    let what = "is no field of a repository here";
                    let key = format!("{}.{}", entry.key, field.key);
                    source.note(NoteKind::LeftOut, field.key_at, &key, what, "see `git-gate` in docs/manifest.md");
                    continue;
                }
            };
            kept.push(Entry { key: key.into(), ..field });
        }
        let repos = self.repos.get_or_insert_default();
        if repos.iter().any(|known| known.key == entry.key) {
            let what = "is in `git-gate.repos` already, which stands";
            source.note(NoteKind::LeftOut, entry.key_at, &entry.key, what, "compare the two");
            return;
        }
        repos.push(Entry { value: emit::map(kept, entry.value.at), ..entry.clone() });
    }

    /// A host alone is no repository; an entry that names its address is one.
    pub(super) fn ssh(&mut self, source: &mut Source<'_>, entry: &Entry) -> Piece {
        let named = match &entry.value.value {
            Value::Map(hosts) => hosts.clone(),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Invalid => {
                Vec::new()
            }
        };
        let has_url = |one: &Entry| matches!(&one.value.value, Value::Map(fields) if fields.iter().any(|field| field.key.eq_ignore_ascii_case("url")));
        let (with, without): (Vec<Entry>, Vec<Entry>) = named.into_iter().partition(has_url);
        with.iter().for_each(|one| self.take_repo(source, one));
        let fix = "declare each repository under `git-gate.repos` with `url`, `identity` and `host_key`; see \
                   docs/removed-keys.md#ssh";
        for one in &without {
            source.note(NoteKind::LeftOut, one.key_at, &format!("ssh.{}", one.key), "names no repository", fix);
        }
        match (with.is_empty(), without.is_empty()) {
            (false, _) => gone(source, entry, NoteKind::Rewritten, "is `git-gate.repos` here", "nothing"),
            (true, true) => gone(source, entry, NoteKind::LeftOut, "names no repository", fix),
            (true, false) => Piece::Gone(entry.key_at, entry.key.clone()),
        }
    }

    /// The key as it is written now; what carboy's reader does not take is left out.
    pub(super) fn finish(self, source: &mut Source<'_>, name: &str) -> Option<Entry> {
        let at = self.at;
        let within = |key: &str, value: Node| emit::pair("git-gate", emit::map(vec![emit::pair(key, value)], at));
        let mut keys = Vec::new();
        let user: Vec<Entry> = self
            .user
            .into_iter()
            .filter(|field| accepted(source, name, &within("user", emit::map(vec![field.clone()], field.key_at))))
            .collect();
        if !user.is_empty() {
            keys.push(emit::pair("user", emit::map(user, at)));
        }
        if let Some(repos) = self.repos {
            let repos = repos.into_iter().filter(|repo| {
                let alone = within("repos", emit::map(vec![repo.clone()], repo.key_at));
                accepted(source, name, &Entry { key_at: repo.key_at, ..alone })
            });
            keys.push(emit::pair("repos", emit::map(repos.collect(), at)));
        }
        for rest in self.rest {
            let alone = if rest.key == "git-gate" { rest.clone() } else { within(&rest.key, rest.value.clone()) };
            if accepted(source, name, &Entry { key_at: rest.key_at, ..alone }) {
                keys.push(rest);
            }
        }
        (!keys.is_empty()).then(|| Entry { key: "git-gate".into(), key_at: at, value: emit::map(keys, at) })
    }
}

/// Both written out: places aside, and the order of a map's keys.
pub(super) fn says_the_same(a: &Entry, b: &Entry) -> bool {
    fn sorted(node: &Node) -> Node {
        let value = match &node.value {
            Value::Map(entries) => {
                let mut entries: Vec<Entry> =
                    entries.iter().map(|one| emit::pair(&one.key, sorted(&one.value))).collect();
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                Value::Map(entries)
            }
            Value::List(items) => Value::List(items.iter().map(sorted).collect()),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Invalid => node.value.clone(),
        };
        Node { value, at: Position::START }
    }
    a.key == b.key && sorted(&a.value) == sorted(&b.value)
}
