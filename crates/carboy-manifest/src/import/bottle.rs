//! Key by key: what stays, what becomes another one, what has no counterpart.

use carboy_core::ids::{AgentName, BottleName};

use super::gate::{Gate, says_the_same};
use super::{Kind, NoteKind, Source, emit, first_error, valid};
use crate::diagnostic::{Code, Diagnostics, Position};
use crate::yaml::{Entry, Node, Value};
use crate::{agent, bottle as reader};

/// Longest line that is kept as a comment, in characters.
const COMMENT_CHARS_MAX: usize = 500;

/// The lines of the front matter as they were written; none when they come from elsewhere.
pub(super) struct Lines<'a> {
    pub(super) lines: Vec<&'a str>,
    /// The first one's number in its file.
    pub(super) first_line: u32,
}

/// A root key of the new file.
pub(super) enum Piece {
    /// As it was written.
    Same(Entry),
    /// With another value, and the old lines as a comment.
    New(Entry),
    /// The old lines as a comment alone.
    Gone(Position, String),
}

/// The name under which a bottle or agent goes on; `None` when nothing of it is a name.
pub(super) fn name(stem: &str) -> Option<String> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c.to_ascii_lowercase() } else { '-' };
    let name: String = stem.chars().map(plain).collect();
    let name = name.trim_start_matches(['-', '_']).to_owned();
    (valid(Kind::Bottle, &name) && valid(Kind::Agent, &name)).then_some(name)
}

/// A bottle's front matter.
pub(super) fn bottle(source: &mut Source<'_>, name: &str, root: &[Entry], lines: &Lines<'_>) -> String {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut gate = Gate::of(root);
    let mut image: Option<Entry> = None;
    for entry in root {
        let piece = match entry.key.as_str() {
            "runtime" => {
                let fix = "nothing: how a bottle is isolated is detected; see docs/removed-keys.md#runtime";
                gone(source, entry, NoteKind::Rewritten, "is no longer needed", fix)
            }
            "ssh" => gate.ssh(source, entry),
            "git" => gate.git(source, entry),
            "git_user" => gate.git_user(source, entry),
            "git-gate" => Piece::Same(entry.clone()),
            "agent_provider" => provider(source, entry, &mut image),
            "dockerfile" | "image" => image_key(source, entry, &mut image),
            "egress" => Piece::of(entry, egress(source, name, entry)),
            "env" => Piece::of(entry, env(source, name, entry)),
            "extends" => Piece::of(entry, renamed(source, entry)),
            "budget" | "ceiling" => amounts(source, entry, |source, one| error_of(source, name, &[one])),
            _ => whole(source, name, entry),
        };
        pieces.push(piece);
    }
    let had_gate = root.iter().any(|entry| entry.key == "git-gate");
    if let Some(entry) = gate.finish(source, name) {
        let unchanged = root.iter().any(|old| old.key == "git-gate" && says_the_same(old, &entry));
        match pieces.iter_mut().find(|piece| matches!(piece, Piece::Same(old) if old.key == "git-gate")) {
            Some(_) if unchanged => {}
            Some(piece) => *piece = Piece::New(entry),
            None => pieces.push(Piece::New(entry)),
        }
    } else if had_gate {
        for piece in &mut pieces {
            if let Piece::Same(old) = piece
                && old.key == "git-gate"
            {
                *piece = Piece::Gone(old.key_at, old.key.clone());
            }
        }
    }
    if let Some(entry) = image {
        pieces.extend(accepted(source, name, &entry).then_some(Piece::New(entry)));
    }
    written(&pieces, root, lines)
}

/// An agent's front matter.
pub(super) fn agent(source: &mut Source<'_>, name: &str, root: &[Entry], lines: &Lines<'_>) -> String {
    let mut pieces = Vec::new();
    for entry in root {
        let entry = match entry.key.as_str() {
            "bottle" => renamed(source, entry).unwrap_or_else(|| entry.clone()),
            _ => entry.clone(),
        };
        let text = text_of(std::slice::from_ref(&entry));
        let mut found = Diagnostics::default();
        let parsed = AgentName::parse(name).expect("the name was checked before");
        agent::read(parsed, source.file, text.as_bytes(), source.places, &mut found);
        pieces.push(match first_error(&found) {
            None if root.contains(&entry) => Piece::Same(entry),
            None => Piece::New(entry),
            Some((_, what, fix)) => gone(source, &entry, NoteKind::LeftOut, &what, &fix),
        });
    }
    written(&pieces, root, lines)
}

/// `METER: AMOUNT` each by itself: a name that nothing is metered by takes no other limit away.
pub(super) fn amounts(
    source: &mut Source<'_>,
    entry: &Entry,
    error_of: impl Fn(&Source<'_>, Entry) -> Option<(Code, String, String)>,
) -> Piece {
    let alone = |value: Node| Entry { value, ..entry.clone() };
    let Value::Map(meters) = &entry.value.value else {
        return match error_of(source, entry.clone()) {
            None => Piece::Same(entry.clone()),
            Some((_, what, fix)) => gone(source, entry, NoteKind::LeftOut, &what, &fix),
        };
    };
    let mut kept = Vec::new();
    for meter in meters {
        match error_of(source, alone(emit::map(vec![meter.clone()], entry.value.at))) {
            None => kept.push(meter.clone()),
            Some((_, what, fix)) => {
                source.note(NoteKind::LeftOut, meter.key_at, &format!("{}.{}", entry.key, meter.key), what, fix);
            }
        }
    }
    match kept.len() {
        0 => Piece::Gone(entry.key_at, entry.key.clone()),
        all if all == meters.len() => Piece::Same(entry.clone()),
        _ => Piece::New(alone(emit::map(kept, entry.value.at))),
    }
}

impl Piece {
    /// The entry, or what it was changed to.
    fn of(entry: &Entry, changed: Option<Entry>) -> Piece {
        match changed {
            None => Piece::Same(entry.clone()),
            Some(new) => Piece::New(new),
        }
    }
}

pub(super) fn gone(source: &mut Source<'_>, entry: &Entry, kind: NoteKind, what: &str, fix: &str) -> Piece {
    source.note(kind, entry.key_at, &entry.key, what, fix);
    Piece::Gone(entry.key_at, entry.key.clone())
}

/// A key that stays when carboy's reader takes it.
fn whole(source: &mut Source<'_>, name: &str, entry: &Entry) -> Piece {
    match error_of(source, name, std::slice::from_ref(entry)) {
        None => Piece::Same(entry.clone()),
        Some((Code::UnknownKey, ..)) => {
            let fix = "docs/manifest.md lists the keys that there are";
            gone(source, entry, NoteKind::LeftOut, "is no key here", fix)
        }
        Some((_, what, fix)) => gone(source, entry, NoteKind::LeftOut, &what, &fix),
    }
}

pub(super) fn accepted(source: &mut Source<'_>, name: &str, entry: &Entry) -> bool {
    match error_of(source, name, std::slice::from_ref(entry)) {
        None => true,
        Some((_, what, fix)) => {
            source.note(NoteKind::LeftOut, entry.key_at, &entry.key, what, fix);
            false
        }
    }
}

/// What carboy's reader says of a bottle with these keys alone.
fn error_of(source: &Source<'_>, name: &str, root: &[Entry]) -> Option<(Code, String, String)> {
    let text = text_of(root);
    let name = BottleName::parse(name).expect("the name was checked before");
    let mut found = Diagnostics::default();
    reader::read(&name, source.file, text.as_bytes(), source.places, &mut found);
    first_error(&found)
}

fn text_of(root: &[Entry]) -> String {
    let mut text = String::from("---\n");
    root.iter().for_each(|entry| emit::entry(&mut text, &entry.key, &entry.value, 0));
    text.push_str("---\n");
    text
}

/// `extends` and `bottle` follow the bottles that got another name.
fn renamed(source: &mut Source<'_>, entry: &Entry) -> Option<Entry> {
    let new_name = |node: &Node| match &node.value {
        Value::Text(text) => emit::text(name(text).unwrap_or_else(|| text.clone()), node.at),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => node.clone(),
    };
    let value = match &entry.value.value {
        Value::List(items) => Node { value: Value::List(items.iter().map(new_name).collect()), at: entry.value.at },
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::Map(_) | Value::Invalid => {
            new_name(&entry.value)
        }
    };
    if value == entry.value {
        return None;
    }
    source.note(NoteKind::Rewritten, entry.key_at, &entry.key, "names a bottle that has another name now", "nothing");
    Some(Entry { value, ..entry.clone() })
}

fn env(source: &mut Source<'_>, name: &str, entry: &Entry) -> Option<Entry> {
    let Value::Map(variables) = &entry.value.value else { return bad_shape(source, name, entry) };
    let mut kept = Vec::new();
    for variable in variables {
        let alone = emit::pair("env", emit::map(vec![variable.clone()], entry.value.at));
        match error_of(source, name, &[alone]) {
            None => kept.push(variable.clone()),
            Some((_, what, fix)) => {
                source.note(NoteKind::LeftOut, variable.key_at, &format!("env.{}", variable.key), what, fix);
            }
        }
    }
    (kept.len() != variables.len()).then(|| Entry { value: emit::map(kept, entry.value.at), ..entry.clone() })
}

/// A known key with a value of the wrong kind: an empty one takes its place.
fn bad_shape(source: &mut Source<'_>, name: &str, entry: &Entry) -> Option<Entry> {
    let (_, what, fix) = error_of(source, name, std::slice::from_ref(entry))?;
    source.note(NoteKind::LeftOut, entry.key_at, &entry.key, what, fix);
    Some(Entry { value: emit::map(Vec::new(), entry.value.at), ..entry.clone() })
}

fn egress(source: &mut Source<'_>, name: &str, entry: &Entry) -> Option<Entry> {
    let Value::Map(keys) = &entry.value.value else { return bad_shape(source, name, entry) };
    let mut kept = Vec::new();
    for key in keys {
        if let ("routes", Value::List(routes)) = (key.key.as_str(), &key.value.value) {
            let routes: Vec<Node> = routes.iter().filter_map(|one| route(source, name, one)).collect();
            if !routes.is_empty() {
                let value = Node { value: Value::List(routes), at: key.value.at };
                kept.push(Entry { value, ..key.clone() });
            }
            continue;
        }
        let alone = emit::pair("egress", emit::map(vec![key.clone()], entry.value.at));
        match error_of(source, name, &[alone]) {
            None => kept.push(key.clone()),
            Some((_, what, fix)) => {
                source.note(NoteKind::LeftOut, key.key_at, &format!("egress.{}", key.key), what, fix);
            }
        }
    }
    (kept != *keys).then(|| Entry { value: emit::map(kept, entry.value.at), ..entry.clone() })
}

/// A route, its older spellings brought up to date; left out whole when any part of it is not understood.
fn route(source: &mut Source<'_>, name: &str, node: &Node) -> Option<Node> {
    let mut route = node.clone();
    if let Value::Map(keys) = &mut route.value {
        *keys = keys.iter().flat_map(|key| route_key(source, key)).collect();
    }
    let list = Node { value: Value::List(vec![route.clone()]), at: node.at };
    let alone = emit::pair("egress", emit::map(vec![emit::pair("routes", list)], node.at));
    match error_of(source, name, &[alone]) {
        None => Some(route),
        Some((_, what, fix)) => {
            let what = format!("this route was left out, all of it: {what}");
            source.note(NoteKind::LeftOut, node.at, "egress.routes", what, fix);
            None
        }
    }
}

fn route_key(source: &mut Source<'_>, key: &Entry) -> Vec<Entry> {
    match (key.key.as_str(), &key.value.value) {
        ("auth", Value::Map(parts)) if parts.iter().all(|part| new_auth(&part.key).is_some()) => {
            source.note(NoteKind::Rewritten, key.key_at, "egress.routes.auth", "is two keys here", "nothing");
            let new = |part: &Entry| Some(Entry { key: new_auth(&part.key)?.to_owned(), ..part.clone() });
            parts.iter().filter_map(new).collect()
        }
        ("token_ref", _) => {
            source.note(
                NoteKind::Rewritten,
                key.key_at,
                "egress.routes.token_ref",
                "is called `token_env` here",
                "nothing",
            );
            vec![Entry { key: "token_env".into(), ..key.clone() }]
        }
        ("path_allowlist", Value::List(paths)) if !paths.is_empty() => {
            let what = "is one entry of `matches` here";
            source.note(NoteKind::Rewritten, key.key_at, "egress.routes.path_allowlist", what, "nothing");
            let paths = emit::pair("paths", Node { value: Value::List(paths.clone()), at: key.value.at });
            let one = emit::map(vec![paths], key.value.at);
            vec![emit::pair("matches", Node { value: Value::List(vec![one]), at: key.value.at })]
        }
        (_, _) => vec![key.clone()],
    }
}

fn new_auth(key: &str) -> Option<&'static str> {
    match key {
        "scheme" | "auth_scheme" => Some("auth_scheme"),
        "token_env" | "token_ref" => Some("token_env"),
        _ => None,
    }
}

fn provider(source: &mut Source<'_>, entry: &Entry, image: &mut Option<Entry>) -> Piece {
    let Value::Map(keys) = &entry.value.value else { return whole(source, "provider", entry) };
    let mut kept = Vec::new();
    for key in keys {
        match key.key.as_str() {
            "name" | "command" | "args" | "env" => kept.push(key.clone()),
            "template" | "provider" if !keys.iter().any(|other| other.key == "name") => {
                source.note(
                    NoteKind::Rewritten,
                    key.key_at,
                    &format!("agent_provider.{}", key.key),
                    "is called `name` here",
                    "nothing",
                );
                kept.push(Entry { key: "name".into(), ..key.clone() });
            }
            "dockerfile" | "image" => {
                image_key(source, key, image);
            }
            other => {
                let fix = "see `agent_provider` in docs/manifest.md";
                source.note(NoteKind::LeftOut, key.key_at, &format!("agent_provider.{other}"), "is no key here", fix);
            }
        }
    }
    let unchanged = kept == *keys;
    let new = Entry { value: emit::map(kept, entry.value.at), ..entry.clone() };
    match whole(source, "provider", &new) {
        Piece::Same(_) if unchanged => Piece::Same(entry.clone()),
        Piece::Same(new) | Piece::New(new) => Piece::New(new),
        gone @ Piece::Gone(..) => gone,
    }
}

/// A Dockerfile or a directory; a name in a registry is nothing that carboy fetches.
fn image_key(source: &mut Source<'_>, entry: &Entry, image: &mut Option<Entry>) -> Piece {
    let path = match &entry.value.value {
        Value::Text(text) if text.starts_with('/') || text.starts_with("~/") => text.clone(),
        Value::Text(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::List(_)
        | Value::Map(_)
        | Value::Invalid => {
            let fix =
                "write `image:` with an absolute path: of a Dockerfile, an archive of `docker save`, or a directory";
            return gone(source, entry, NoteKind::LeftOut, "is no absolute path", fix);
        }
    };
    let value = match entry.key.as_str() {
        "dockerfile" => emit::map(vec![emit::pair("dockerfile", emit::text(path, entry.value.at))], entry.value.at),
        _ => emit::text(path, entry.value.at),
    };
    source.note(NoteKind::Rewritten, entry.key_at, &entry.key, "is `image` of the bottle here", "nothing");
    *image = Some(Entry { key: "image".into(), key_at: entry.key_at, value });
    Piece::Gone(entry.key_at, entry.key.clone())
}

/// The pieces as text: verbatim where the old lines are at hand and still hold.
pub(super) fn written(pieces: &[Piece], root: &[Entry], lines: &Lines<'_>) -> String {
    let block = root.windows(2).all(|pair| pair[0].key_at.line < pair[1].key_at.line) && !lines.lines.is_empty();
    let old = |at: Position| -> &[&str] {
        let end = root.iter().map(|entry| entry.key_at.line).filter(|line| *line > at.line).min();
        let index = |line: u32| (line.saturating_sub(lines.first_line) as usize).min(lines.lines.len());
        if block { &lines.lines[index(at.line)..end.map_or(lines.lines.len(), index)] } else { &[] }
    };
    let comment = |out: &mut String, at: Position| {
        for line in old(at) {
            let line: String = line.chars().take(COMMENT_CHARS_MAX).collect();
            out.push_str(&format!("# bot-bottle: {line}\n"));
        }
    };
    let mut out = String::new();
    // Comments above the first key.
    let head = root.first().map_or(0, |entry| entry.key_at.line.saturating_sub(lines.first_line) as usize);
    lines.lines.iter().take(head).for_each(|line| out.push_str(&format!("{line}\n")));
    for piece in pieces {
        match piece {
            Piece::Same(entry) if block => old(entry.key_at).iter().for_each(|line| out.push_str(&format!("{line}\n"))),
            Piece::Same(entry) => emit::entry(&mut out, &entry.key, &entry.value, 0),
            Piece::New(entry) => {
                if root.iter().any(|old| old.key == entry.key) {
                    comment(&mut out, entry.key_at);
                }
                emit::entry(&mut out, &entry.key, &entry.value, 0);
            }
            Piece::Gone(at, key) if old(*at).is_empty() => {
                out.push_str(&format!("# bot-bottle: {}\n", key.escape_debug()))
            }
            Piece::Gone(at, _) => comment(&mut out, *at),
        }
    }
    out
}
