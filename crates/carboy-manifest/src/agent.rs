//! An agent's file: which bottle, who commits, and the prompt. It holds nothing that widens a bottle (M39).

use std::path::{Path, PathBuf};

use carboy_core::audit::{hex, sha256};
use carboy_core::ids::{AgentName, BottleName};
use serde::Serialize;

use crate::budget::{self, Amounts};
use crate::diagnostic::{Code, Diagnostics, Position, listed};
use crate::files::Places;
use crate::frontmatter::{self, FrontMatterError};
use crate::git::{UserPart, agent_git_user};
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{self, Entry, Node, Value};

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
    "window",
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
    pub(crate) budget: Amounts,
    /// What stands below the front matter.
    pub prompt: String,
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
    let (root, prompt) = front_matter(scope, bytes)?;
    let mut root = root_map(scope, &root)?;
    let widening: Vec<Entry> = root.iter().filter(|e| BOTTLE_KEYS.contains(&e.key.as_str())).cloned().collect();
    if let Some(first) = widening.first() {
        let names = listed(widening.iter().map(|entry| &entry.key));
        let message = format!("{} has {names}, which only a bottle may have: an agent never widens one", scope.owner);
        scope.error(first.key_at, Code::BottleKeyInAgent, message, "move it to the bottle's file");
        root.retain(|entry| !BOTTLE_KEYS.contains(&entry.key.as_str()));
    }
    scope.keys(&root, &keys::AGENT, "the front matter");
    let bottle = find(&root, "bottle").and_then(|node| bottle(scope, node));
    let git_user = find(&root, "git-gate").map(|node| agent_git_user(scope, node)).unwrap_or_default();
    let budget = budget::amounts_of(scope, &root, "budget");
    let sha256 = hex(&sha256(bytes));
    Some(Agent { name, file: scope.file.to_path_buf(), bottle, git_user, budget, prompt, sha256 })
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
    Some((document(scope, parts.yaml, parts.first_line), parts.prose.to_owned()))
}

/// Reads YAML and reports what is wrong with it.
pub(crate) fn document(scope: &mut Scope<'_>, text: &str, first_line: u32) -> Node {
    let (root, errors) = yaml::parse(text, first_line);
    for error in errors {
        scope.error(error.at, error.kind.code(), error.to_string(), error.kind.fix());
    }
    root
}

/// The keys of a file; an empty file has none.
pub(crate) fn root_map(scope: &mut Scope<'_>, root: &Node) -> Option<Vec<Entry>> {
    match &root.value {
        Value::Null => Some(Vec::new()),
        Value::Bool(_) | Value::Int(_) | Value::Text(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            scope.map(root, "the front matter").map(<[Entry]>::to_vec)
        }
    }
}
