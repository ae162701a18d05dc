//! What a chat agent says by itself and is told besides its prose: `prompt`, each text in the front matter or in a chunk.

use carboy_core::chat::ChatPrompt;

use super::fences::Chunk;
use crate::diagnostic::{Code, excerpt, listed};
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Node, Value};

/// Longest of these texts, in characters.
pub const TEXT_CHARS_MAX: usize = 8_000;

/// What people read where a file says nothing.
pub(crate) const REFUSAL: &str = "I am sorry, I cannot help with that here.";
/// In place of a reply that was withheld.
pub(crate) const FALLBACK: &str =
    "I am sorry, I cannot give you a reliable answer to that. Please ask in another way, or ask for a person.";
/// When no model may be asked any more.
pub(crate) const HAND_OFF: &str =
    "I cannot go on here just now. A person will take this over; please come back a little later.";
/// The first line of a conversation.
pub(crate) const GREETING: &str = "Hello! How can I help?";

/// `prompt`, as a file says it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PromptPart {
    pub(crate) reminder: Option<Said<String>>,
    pub(crate) long_reminder: Option<Said<String>>,
    pub(crate) refusal: Option<Said<String>>,
    pub(crate) fallback: Option<Said<String>>,
    pub(crate) hand_off: Option<Said<String>>,
}

impl PromptPart {
    /// All of them, with carboy's own where the file says none.
    pub(crate) fn whole(&self, system: String) -> ChatPrompt {
        let or = |said: &Option<Said<String>>, own: &str| said.as_ref().map_or(own, |said| &said.value).to_owned();
        ChatPrompt {
            system,
            reminder: or(&self.reminder, ""),
            long_reminder: or(&self.long_reminder, ""),
            refusal: or(&self.refusal, REFUSAL),
            fallback: or(&self.fallback, FALLBACK),
            hand_off: or(&self.hand_off, HAND_OFF),
        }
    }
}

/// Chunks, and which of them somebody has used.
pub(crate) struct Chunks {
    pub(crate) all: Vec<Chunk>,
    used: Vec<bool>,
}

impl Chunks {
    /// None is used yet.
    pub(crate) fn new(all: Vec<Chunk>) -> Chunks {
        Chunks { used: vec![false; all.len()], all }
    }

    /// The chunk that `fits`, marked as used.
    pub(crate) fn take(&mut self, fits: impl Fn(&Chunk) -> bool) -> Option<&Chunk> {
        let at = self.all.iter().position(fits)?;
        self.used[at] = true;
        Some(&self.all[at])
    }

    /// What somebody who asks for one that is not there could have meant.
    pub(crate) fn known(&self) -> String {
        match self.all.as_slice() {
            [] => "write it below the front matter, as ```text {chunk=\"NAME\"}".to_owned(),
            all => format!("use one of {}", listed(all.iter().map(|chunk| &chunk.name))),
        }
    }

    /// What somebody who asks for the `file` of one could have meant.
    pub(crate) fn known_files(&self) -> String {
        let files: Vec<&String> = self.all.iter().filter_map(|chunk| chunk.file.as_ref()).collect();
        let own = "`path` is the `file` of a code block in this document, no file on disk";
        match files.as_slice() {
            [] => format!(
                "{own}: put the script below the front matter, as ```python {{chunk=\"NAME\" file=\"tools/NAME.py\"}}"
            ),
            files => format!("{own}: there is {}", listed(files)),
        }
    }

    /// A chunk that nobody uses is told to no model and run by nobody: it was meant for something.
    pub(crate) fn report_unused(&self, scope: &mut Scope<'_>) {
        for (chunk, _) in self.all.iter().zip(&self.used).filter(|(_, used)| !**used) {
            let message = format!("chunk {} of {} is used by nothing", excerpt(&chunk.name), scope.owner);
            let fix = "name it under `tools` or `prompt`, or take the braces away and it is part of the prompt";
            scope.error(chunk.at, Code::BadChunk, message, fix);
        }
    }
}

/// `prompt: {refusal, reminder, …}`.
pub(crate) fn prompt(scope: &mut Scope<'_>, node: &Node, chunks: &mut Chunks) -> PromptPart {
    let Some(entries) = scope.map(node, "`prompt`") else { return PromptPart::default() };
    scope.keys(entries, &keys::CHAT_PROMPT, "`prompt`");
    let mut text =
        |key: &str| find(entries, key).and_then(|node| text(scope, node, &format!("`prompt.{key}`"), chunks));
    PromptPart {
        reminder: text("reminder"),
        long_reminder: text("long_reminder"),
        refusal: text("refusal"),
        fallback: text("fallback"),
        hand_off: text("hand_off"),
    }
}

/// A text, or `{chunk: NAME}`.
pub(crate) fn text(scope: &mut Scope<'_>, node: &Node, what: &str, chunks: &mut Chunks) -> Option<Said<String>> {
    let text = match &node.value {
        Value::Map(entries) => {
            scope.keys(entries, &keys::CHAT_CHUNK, what);
            let Some(name) = find(entries, "chunk") else {
                scope.missing(node.at, "chunk", what, "write a text, or {chunk: NAME}");
                return None;
            };
            let wanted = scope.text(name, what)?.to_owned();
            match chunks.take(|chunk| chunk.name == wanted) {
                Some(chunk) => chunk.text.trim().to_owned(),
                None => {
                    let message =
                        format!("{what} of {} names a chunk {} that is not there", scope.owner, excerpt(&wanted));
                    scope.error(name.at, Code::BadChunk, message, chunks.known());
                    return None;
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Invalid => {
            scope.text(node, what)?.to_owned()
        }
    };
    bounded(scope, node, what, text)
}

fn bounded(scope: &mut Scope<'_>, node: &Node, what: &str, text: String) -> Option<Said<String>> {
    let chars = text.chars().count();
    if (1..=TEXT_CHARS_MAX).contains(&chars) {
        return Some(scope.said(text, node.at));
    }
    let message = format!("{what} of {} has {chars} characters", scope.owner);
    scope.error(node.at, Code::BadValue, message, format!("write 1 to {TEXT_CHARS_MAX} characters, or remove the key"));
    None
}
