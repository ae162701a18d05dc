//! A chat agent and its bottle: the one that it names, which has to let it reach what it needs, or, where it names none, an
//! implied one that reaches what the agent's file itself names and nothing else.
//!
//! *Must never* imply a bottle for a file of a checked-out repository: such a file chooses among the user's bottles and widens
//! none (M39).

use std::path::Path;

use carboy_core::host::HostPattern;
use carboy_core::ids::{AgentName, BottleName, RouteId};
use carboy_core::route::{AuthScheme, DlpPolicy, OnMatch, PathMatch, Reach, RequestMatch, Route, RouteAuth, RouteSet};

use crate::agent::Agent;
use crate::bottle::Part;
use crate::chat::{self, ChatFile, Of, Outward, Token};
use crate::diagnostic::{Code, Diagnostic, Diagnostics, Position};
use crate::files::{ManifestFiles, Places};
use crate::lookup::Whose;
use crate::origin::Said;
use crate::settings::Settings;
use crate::whole::{Bottle, whole};

/// What the implied bottle's name has behind the agent's: its state is shared with no bottle of the user's.
const SUFFIX: &str = "__chat";

/// Methods of an MCP server's one endpoint.
const METHODS_OF_TOOLS: &[&str] = &["POST", "GET", "DELETE"];
const METHODS: &[&str] = &["POST"];

/// The chat agent in this agent's file, with all that belongs to it; `None` for a coding agent and after an error. What it
/// reaches without TLS on this machine becomes an upstream of the settings.
pub(crate) fn chat_of(
    files: &dyn ManifestFiles,
    places: &Places,
    agent: Option<&(Agent, Whose)>,
    settings: &mut Settings,
    out: &mut Diagnostics,
) -> Option<Box<ChatFile>> {
    let (agent, whose) = agent?;
    let part = agent.chat.as_deref()?;
    let of = Of { name: &agent.name, file: &agent.file, whose: *whose, part };
    let known = settings.secrets.keys().cloned().collect();
    let chat = chat::file_of(&of, &settings.chat, known, (files, places), out)?;
    for (host, port, origin) in chat.let_plain(&mut settings.upstreams, out) {
        settings.upstream_origins.insert((host, Some(port)), origin);
    }
    Some(Box::new(chat))
}

/// The bottle that a chat agent without one runs in; its name and itself.
pub(crate) fn implied(
    files: &dyn ManifestFiles,
    places: &Places,
    chat: &ChatFile,
    out: &mut Diagnostics,
) -> Option<(BottleName, Bottle)> {
    if chat.whose == Whose::Repository {
        let message = format!("agent `{}` comes with the working directory and names no bottle", chat.name);
        let fix = "add `bottle: NAME` of one of your own; an agent of a repository opens no route by itself";
        out.push(Diagnostic::error(Code::NothingToRun, message, fix).at(&chat.file, Position::START));
        return None;
    }
    let name = name(files, places, &chat.name, &chat.file, out)?;
    Some((name, bottle(chat, out)))
}

fn name(
    files: &dyn ManifestFiles,
    places: &Places,
    agent: &AgentName,
    file: &Path,
    out: &mut Diagnostics,
) -> Option<BottleName> {
    let text = format!("{agent}{SUFFIX}");
    match BottleName::parse(&text) {
        Ok(name) if !files.exists(&places.bottles().join(format!("{name}.md"))) => Some(name),
        Ok(_) | Err(_) => {
            let message =
                format!("agent `{agent}` names no bottle, and the name of its own, `{text}`, is taken or too long");
            let fix = "add `bottle: NAME` to its front matter, or rename it";
            out.push(Diagnostic::error(Code::BadName, message, fix).at(file, Position::START));
            None
        }
    }
}

/// What its file names, each by one route; nothing asks for more.
fn bottle(chat: &ChatFile, out: &mut Diagnostics) -> Bottle {
    let mut part = Part::default();
    if let Some(first) = chat.outward.first() {
        part.supervise = Some(Said { value: false, place: first.place.clone() });
    }
    let mut seen: Vec<&Outward> = Vec::new();
    for one in &chat.outward {
        let same = |known: &&Outward| (&known.host, known.port, &known.path) == (&one.host, one.port, &one.path);
        if !seen.iter().any(same) {
            seen.push(one);
            part.egress.routes.push(Said { value: route(one, seen.len()), place: one.place.clone() });
        }
    }
    whole(part, &format!("agent `{}`", chat.name), out)
}

fn route(one: &Outward, index: usize) -> Route {
    let host = HostPattern::Exact(one.host.clone());
    let private = one.host.as_ip().is_some_and(|ip| !carboy_core::address::is_public(ip));
    let methods = if one.is_tools { METHODS_OF_TOOLS } else { METHODS };
    Route {
        id: RouteId::new(index, &host),
        ports: vec![one.port],
        auth: one.token.as_ref().map(auth),
        matches: vec![RequestMatch {
            paths: vec![PathMatch::Exact(one.path.clone())],
            methods: methods.iter().map(|method| (*method).to_owned()).collect(),
            headers: Vec::new(),
        }],
        // A token-shaped text in a conversation ends no conversation; it leaves masked.
        dlp: match one.meter {
            Some(_) => DlpPolicy { outbound_on_match: OnMatch::Redact, ..DlpPolicy::default() },
            None => DlpPolicy::default(),
        },
        meter: one.meter.clone(),
        reach: if private { Reach::Private } else { Reach::Public },
        ..Route::plain(index, host)
    }
}

fn auth(token: &Token) -> RouteAuth {
    match token {
        Token::Bearer(secret) => {
            RouteAuth { header: "authorization".into(), scheme: AuthScheme::Bearer, secret: secret.clone() }
        }
        Token::Anthropic(secret) => {
            RouteAuth { header: "x-api-key".into(), scheme: AuthScheme::AnthropicByToken, secret: secret.clone() }
        }
    }
}

/// A chat agent in a bottle of the user's: it reaches through that what it needs, or the load fails.
pub(crate) fn through(chat: &mut ChatFile, bottle: &Bottle, label: &str, out: &mut Diagnostics) {
    chat.through(&RouteSet::new(bottle.routes.clone(), 1), label, out);
}
