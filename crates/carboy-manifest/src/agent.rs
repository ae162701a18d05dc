//! An agent's file: which bottle, who commits, and the prompt. It holds nothing that widens a bottle (M39).

use std::path::{Path, PathBuf};

use carboy_core::audit::{hex, sha256};
use carboy_core::ids::{AgentName, BottleName};
use serde::Serialize;

use crate::budget::{self, Spending};
use crate::chat::{self, ChatPart};
use crate::diagnostic::{Code, Diagnostics, Position, excerpt, listed};
use crate::files::Places;
use crate::frontmatter::{self, FrontMatterError};
use crate::git::{UserPart, agent_git_user};
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
pub(crate) use crate::schema::{document, root_map};
use crate::yaml::{Entry, Node, Value};

/// Keys of a bottle that an agent file may not have. Those that `AGENT` knows itself are not among them.
const BOTTLE_KEYS: &[&str] = &[
    "agent_provider",
    "backend",
    "binds",
    "ceiling",
    "count",
    "egress",
    "env",
    "extends",
    "forward",
    "gate",
    "image",
    "mounts",
    "overrun",
    "presets",
    "publish",
    "shutdown",
    "supervise",
    "warn",
    "workspace",
];

/// One agent, checked.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The stem of its file.
    pub name: AgentName,
    /// Its file.
    pub file: PathBuf,
    /// The bottle it wants, and where it says so; `None` leaves it to the command line.
    pub(crate) bottle: Option<Said<BottleName>>,
    /// Who commits; its fields win over the bottle's.
    pub(crate) git_user: UserPart,
    /// What it may spend.
    pub(crate) budget: Spending,
    /// What stands below the front matter; of a chat agent without its chunks.
    pub prompt: String,
    /// `kind: chat`
    pub(crate) chat: Option<Box<ChatPart>>,
    /// SHA-256 of the file's bytes, in hex: what a person who looked at it agreed to (M39).
    pub sha256: String,
}

/// An agent's file of a repository, by its place and content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepositoryAgent {
    /// The file, below the working directory.
    pub file: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// Reads an agent's file. The agent is worth something only when `out` has got no error.
pub(crate) fn read(
    name: AgentName,
    file: &Path,
    bytes: &[u8],
    places: &Places,
    out: &mut Diagnostics,
) -> Option<Agent> {
    let owner = format!("agent `{name}`");
    let start = out.kept();
    let mut scope = Scope { file, owner: &owner, home: &places.home, carboy_home: &places.carboy_home, out };
    let agent = read_in(&mut scope, name, bytes);
    out.sort_from(start);
    agent
}

fn read_in(scope: &mut Scope<'_>, name: AgentName, bytes: &[u8]) -> Option<Agent> {
    let (root, prompt, prompt_line) = parts(scope, bytes)?;
    let mut root = root_map(scope, &root)?;
    let widening: Vec<Entry> = root.iter().filter(|e| BOTTLE_KEYS.contains(&e.key.as_str())).cloned().collect();
    if let Some(first) = widening.first() {
        let names = listed(widening.iter().map(|entry| &entry.key));
        let message = format!("{} has {names}, which only a bottle may have: an agent never widens one", scope.owner);
        scope.error(first.key_at, Code::BottleKeyInAgent, message, "move it to the bottle's file");
        root.retain(|entry| !BOTTLE_KEYS.contains(&entry.key.as_str()));
    }
    let chat = match kind(scope, &root)? {
        Kind::Chat => {
            refuse_git(scope, &mut root);
            scope.keys(&root, &keys::CHAT, "the front matter");
            Some(Box::new(chat::part(scope, &root, &prompt, prompt_line)))
        }
        Kind::Coding => {
            refuse_chat_keys(scope, &mut root);
            scope.keys(&root, &keys::AGENT, "the front matter");
            None
        }
    };
    let bottle = find(&root, "bottle").and_then(|node| bottle(scope, node));
    let git_user = find(&root, "git-gate").map(|node| agent_git_user(scope, node)).unwrap_or_default();
    let budget = budget::spending(scope, &root);
    let sha256 = hex(&sha256(bytes));
    let prompt = chat.as_ref().map_or(prompt, |chat| chat.system.clone());
    Some(Agent { name, file: scope.file.to_path_buf(), bottle, git_user, budget, prompt, chat, sha256 })
}

/// What an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It works in a bottle for whoever started it.
    Coding,
    /// It talks to people.
    Chat,
}

fn kind(scope: &mut Scope<'_>, root: &[Entry]) -> Option<Kind> {
    let Some(node) = find(root, "kind") else { return Some(Kind::Coding) };
    match scope.text(node, "`kind`")? {
        "coding" => Some(Kind::Coding),
        "chat" => Some(Kind::Chat),
        text => {
            let message = format!("`kind` of {} is {}", scope.owner, excerpt(text));
            scope.error(node.at, Code::BadValue, message, "write `chat`, or `coding` (the same as no `kind`)");
            None
        }
    }
}

/// A chat agent has no working tree and commits nothing.
fn refuse_git(scope: &mut Scope<'_>, root: &mut Vec<Entry>) {
    for entry in root.iter().filter(|entry| entry.key == "git-gate") {
        let message = format!("{} is a chat agent and has `git-gate`: it commits nothing", scope.owner);
        scope.error(entry.key_at, Code::NotAvailable, message, "remove `git-gate`");
    }
    root.retain(|entry| entry.key != "git-gate");
}

/// Keys that mean something for a chat agent alone: told as that, and not as unknown ones.
fn refuse_chat_keys(scope: &mut Scope<'_>, root: &mut Vec<Entry>) {
    let of_chat = |key: &str| keys::CHAT.allowed.contains(&key) && !keys::AGENT.allowed.contains(&key);
    for entry in root.iter().filter(|entry| of_chat(&entry.key)) {
        let message = format!("`{}` in the front matter of {} is for chat agents", entry.key, scope.owner);
        let fix = match entry.key.as_str() {
            "prompt" => "write the prompt below the front matter, or add `kind: chat`".to_owned(),
            key => format!("add `kind: chat`, or remove `{key}`; what is not enforced is not accepted"),
        };
        scope.error(entry.key_at, Code::NotAvailable, message, fix);
    }
    root.retain(|entry| !of_chat(&entry.key));
}

fn bottle(scope: &mut Scope<'_>, node: &Node) -> Option<Said<BottleName>> {
    if matches!(node.value, Value::List(_)) {
        let message = format!("`bottle` of {} is a list, not text", scope.owner);
        let fix = "name one bottle; a bottle with `extends: [a, b]` joins several";
        scope.error(node.at, Code::WrongType, message, fix);
        return None;
    }
    let text = scope.text(node, "`bottle`")?;
    match BottleName::parse(text) {
        Ok(name) => Some(scope.said(name, node.at)),
        Err(error) => {
            let message = format!("`bottle` of {}: {error}", scope.owner);
            scope.error(node.at, Code::BadName, message, "write the name of a file under bottles/, without `.md`");
            None
        }
    }
}

/// The tree and the prose of a Markdown file; `None` when there is no front matter, which is reported.
pub(crate) fn front_matter(scope: &mut Scope<'_>, bytes: &[u8]) -> Option<(Node, String)> {
    parts(scope, bytes).map(|(root, prose, _)| (root, prose))
}

/// The same, with the line on which the prose begins.
fn parts(scope: &mut Scope<'_>, bytes: &[u8]) -> Option<(Node, String, u32)> {
    let split = frontmatter::text_of(bytes).and_then(frontmatter::split);
    let parts = match split {
        Ok(parts) => parts,
        Err(error) => {
            let (at, code, fix) = match error {
                FrontMatterError::NoStart => {
                    (Position::START, Code::FrontMatter, "begin the file with `---`, the keys, and `---` again")
                }
                FrontMatterError::NoEnd => {
                    (Position::START, Code::FrontMatter, "write a line of `---` alone between the keys and the text")
                }
                FrontMatterError::NotUtf8(at) => (at, Code::NotUtf8, "save the file as UTF-8"),
            };
            scope.error(at, code, error.to_string(), fix);
            return None;
        }
    };
    Some((document(scope, parts.yaml, parts.first_line), parts.prose.to_owned(), parts.prose_line))
}
