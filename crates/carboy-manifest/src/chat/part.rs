//! What one agent file with `kind: chat` says: every key with its place, nothing filled in.

use std::collections::BTreeMap;

use carboy_core::chat::{ReplySpec, SourcePage, Webhooks};

use super::fences;
use super::identity::{self, IdentityPart};
use super::knobs::{self, SaidKnobs};
use super::model::{self, ModelPart};
use super::named;
use super::outward::{self, Outward};
use super::prompt::{self, Chunks, PromptPart};
use super::reply;
use super::rules::{self, RulesPart};
use super::screening::{self, RulesOfScreening};
use super::tools::{self, ToolsPart};
use crate::diagnostic::{Code, excerpt};
use crate::keys;
use crate::origin::{Origin, Said};
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node};

/// Longest title, in characters.
pub const TITLE_CHARS_MAX: usize = 100;

/// A chat agent's file.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChatPart {
    pub(crate) title: Option<Said<String>>,
    pub(crate) greeting: Option<Said<String>>,
    pub(crate) model: Option<Said<ModelPart>>,
    /// The prose without its chunks.
    pub(crate) system: String,
    pub(crate) prompt: PromptPart,
    pub(crate) tools: ToolsPart,
    pub(crate) rules: RulesPart,
    pub(crate) identity: IdentityPart,
    pub(crate) knobs: SaidKnobs,
    pub(crate) screening: RulesOfScreening,
    pub(crate) reply: ReplySpec,
    pub(crate) webhooks: Option<Webhooks>,
    pub(crate) outward: Vec<Outward>,
    pub(crate) frame_ancestors: Vec<String>,
    pub(crate) architecture: SourcePage,
    /// Where each of its keys stands.
    pub(crate) origins: BTreeMap<String, Origin>,
}

/// Reads the chat's keys among those of the front matter, and the prose.
pub(crate) fn part(scope: &mut Scope<'_>, root: &[Entry], prose: &str, prose_line: u32) -> ChatPart {
    let (system, chunks) = fences::split(scope, prose, prose_line);
    let mut chunks = Chunks::new(chunks);
    let mut part = ChatPart { system, ..ChatPart::default() };
    for entry in root {
        part.origins.insert(entry.key.clone(), scope.said((), entry.key_at).origin());
    }
    let key = |name| find(root, name);
    part.title = key("title").and_then(|node| title(scope, node));
    part.greeting = key("greeting").and_then(|node| prompt::text(scope, node, "`greeting`", &mut chunks));
    part.model = key("model").and_then(|node| model::model(scope, node));
    part.prompt = key("prompt").map(|node| prompt::prompt(scope, node, &mut chunks)).unwrap_or_default();
    part.tools = key("tools").map(|node| tools::tools(scope, node, &mut chunks)).unwrap_or_default();
    part.identity = key("identity").map(|node| identity::identity(scope, node)).unwrap_or_default();
    part.reply = key("reply").map(|node| reply::reply(scope, node)).unwrap_or_default();
    part.frame_ancestors = key("frame_ancestors").map(|node| outward::frame_ancestors(scope, node)).unwrap_or_default();
    part.architecture = key("serve").map(|node| outward::serve(scope, node)).unwrap_or_default();
    (part.webhooks, part.outward) = key("webhooks").map(|node| outward::webhooks(scope, node)).unwrap_or_default();
    if let Some(node) = key("limits") {
        limits(scope, node, &mut part);
    }
    if let Some(node) = key("screening") {
        screening_of(scope, node, &mut part);
    }
    if let Some(node) = key("requires") {
        rules::requires(scope, node, &mut part.rules);
    }
    if let Some(node) = key("confirm") {
        rules::confirm(scope, node, &mut part.rules);
    }
    if let Some(node) = key("authorize") {
        rules::authorize(scope, node, &mut part.rules);
    }
    chunks.report_unused(scope);
    named::report_strangers(scope, &part);
    part
}

fn title(scope: &mut Scope<'_>, node: &Node) -> Option<Said<String>> {
    let text = scope.text(node, "`title`")?;
    if (1..=TITLE_CHARS_MAX).contains(&text.chars().count()) && !text.contains('\n') {
        return Some(scope.said(text.to_owned(), node.at));
    }
    let message = format!("`title` of {} is {}", scope.owner, excerpt(text));
    scope.error(node.at, Code::BadValue, message, format!("write one line of 1 to {TITLE_CHARS_MAX} characters"));
    None
}

fn limits(scope: &mut Scope<'_>, node: &Node, part: &mut ChatPart) {
    let Some(entries) = scope.map(node, "`limits`") else { return };
    let (said, others) = knobs::take(scope, entries, knobs::is_limit);
    scope.keys(&others, &keys::CHAT_LIMITS, "`limits`");
    part.knobs.extend(said);
    if let Some(node) = find(&others, "calls_per_session") {
        rules::calls_per_session(scope, node, &mut part.rules);
    }
}

fn screening_of(scope: &mut Scope<'_>, node: &Node, part: &mut ChatPart) {
    let Some(entries) = scope.map(node, "`screening`") else { return };
    let (said, others) = knobs::take(scope, entries, knobs::is_screening);
    scope.keys(&others, &keys::CHAT_SCREENING, "`screening`");
    part.knobs.extend(said);
    screening::rules(scope, &others, &mut part.screening);
}
