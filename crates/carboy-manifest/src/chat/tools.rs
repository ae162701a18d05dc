//! `tools`: what carboy has, MCP servers that are started inside or reached over HTTP, and scripts of the file itself.

use carboy_core::chat::{BuiltInTool, ToolSource};

use super::fences::is_tool_path;
use super::outward::{Outward, Token};
use super::prompt::Chunks;
use super::url;
use crate::diagnostic::{Code, Position, excerpt};
use crate::egress::secret_name;
use crate::keys;
use crate::origin::Said;
use crate::schema::{Scope, find};
use crate::yaml::{Entry, Node, Value};

/// Most entries of `tools`.
pub const TOOLS_MAX: usize = 16;
/// Most words of a command, and most bytes of one.
pub const WORDS_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 4_096;

const FIX: &str = "write `calculator`, `save_note`, {script: {chunk: NAME}}, {mcp: {command: [PROGRAM, ARGUMENT]}} or \
                   {mcp: {url: \"https://HOST/PATH\"}}";

/// The interpreters of scripts that say none, by the ending of their file.
const INTERPRETERS: &[(&str, &str)] = &[(".py", "python3"), (".js", "node"), (".mjs", "node"), (".cjs", "node")];

/// `tools` of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct ToolsPart {
    pub(crate) sources: Vec<Said<ToolSource>>,
    /// Some entry was not understood.
    pub(crate) broken: bool,
    pub(crate) outward: Vec<Outward>,
}

/// Reads `tools`.
pub(crate) fn tools(scope: &mut Scope<'_>, node: &Node, chunks: &mut Chunks) -> ToolsPart {
    let mut part = ToolsPart::default();
    let list = scope.list(node, "`tools`").unwrap_or_default();
    if list.len() > TOOLS_MAX {
        let message = format!("`tools` of {} has {} entries, more than {TOOLS_MAX}", scope.owner, list.len());
        scope.error(node.at, Code::TooComplex, message, "let one server offer several tools");
        part.broken = true;
        return part;
    }
    for item in list {
        let Some(source) = one(scope, item, chunks, &mut part.outward) else {
            part.broken = true;
            continue;
        };
        let twice = part.sources.iter().find(|known| same(&known.value, &source));
        if let Some(first) = twice {
            let message =
                format!("`tools` of {} names one source twice; first on line {}", scope.owner, first.place.at.line);
            scope.error(item.at, Code::BadValue, message, "keep one, or give the other a `name` of its own");
            continue;
        }
        part.sources.push(scope.said(source, item.at));
    }
    part
}

/// The name of a server, where it is one.
pub(crate) fn server_name(source: &ToolSource) -> Option<&str> {
    match source {
        ToolSource::Command { name, .. } | ToolSource::Script { name, .. } | ToolSource::Http { name, .. } => {
            Some(name)
        }
        ToolSource::BuiltIn(_) | ToolSource::Application => None,
    }
}

/// How a file and a model spell a built-in tool.
pub(crate) fn built_in_name(tool: BuiltInTool) -> &'static str {
    match tool {
        BuiltInTool::Calculator => "calculator",
        BuiltInTool::SaveNote => "save_note",
    }
}

fn same(a: &ToolSource, b: &ToolSource) -> bool {
    match (server_name(a), server_name(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => a == b,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn one(scope: &mut Scope<'_>, node: &Node, chunks: &mut Chunks, outward: &mut Vec<Outward>) -> Option<ToolSource> {
    let what = "an entry of `tools`";
    let entries = match &node.value {
        Value::Text(text) => return named(scope, node.at, text),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::List(_) | Value::Map(_) | Value::Invalid => {
            scope.map(node, what)?
        }
    };
    scope.keys(entries, &keys::CHAT_TOOL, what);
    match entries {
        [Entry { key, value, .. }] if key == "mcp" => mcp(scope, value, outward),
        [Entry { key, value, .. }] if key == "script" => script(scope, value, chunks),
        [_] => None,
        _ => {
            scope.error(
                node.at,
                Code::BadValue,
                format!("{what} of {} says {} things, not one", scope.owner, entries.len()),
                FIX,
            );
            None
        }
    }
}

fn named(scope: &mut Scope<'_>, at: Position, text: &str) -> Option<ToolSource> {
    match text {
        "calculator" => Some(ToolSource::BuiltIn(BuiltInTool::Calculator)),
        "save_note" => Some(ToolSource::BuiltIn(BuiltInTool::SaveNote)),
        "application" => Some(ToolSource::Application),
        _ => {
            let message = format!("`tools` of {} names {}, which carboy does not have", scope.owner, excerpt(text));
            scope.error(at, Code::BadValue, message, FIX);
            None
        }
    }
}

/// `{name?, command: […]}` or `{name?, url, token_env?}`.
fn mcp(scope: &mut Scope<'_>, node: &Node, outward: &mut Vec<Outward>) -> Option<ToolSource> {
    let what = "`mcp` in `tools`";
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_MCP, what);
    match (find(entries, "command"), find(entries, "url")) {
        (Some(command), None) => {
            if let Some(token) = find(entries, "token_env") {
                let message = format!("{what} of {} has `token_env`, and a command is given no secret", scope.owner);
                let fix = "remove it; its requests pass the gateway, and a route of the bottle sets the credential";
                scope.error(token.at, Code::BadValue, message, fix);
            }
            let at = command.at;
            let command = words(scope, command, "`mcp.command` in `tools`")?;
            warn_relative(scope, at, &command);
            let program = command[0].rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
            Some(ToolSource::Command { name: name(scope, entries, &program)?, command })
        }
        (None, Some(address)) => {
            let found = url::url(scope, address, "`mcp.url` in `tools`");
            let token = match find(entries, "token_env") {
                Some(node) => Some(secret_name(scope, node, "`mcp.token_env` in `tools`")?),
                None => None,
            };
            let found = found?;
            let plain = found.plainness();
            let name = name(scope, entries, &found.host.to_string().replace(['.', ':'], "-"))?;
            if plain.is_some() && token.is_some() {
                let message = format!("{what} of {} has `token_env` and is reached without TLS", scope.owner);
                scope.error(
                    address.at,
                    Code::BadValue,
                    message,
                    "use https: a credential never leaves over plain text",
                );
                return None;
            }
            let place = scope.said((), address.at).place;
            let (host, port, path) = (found.host, found.port, found.path);
            let source = ToolSource::Http { name: name.clone(), host: host.clone(), port, path: path.clone() };
            let token = token.map(Token::Bearer);
            outward.push(Outward {
                what: format!("the MCP server `{name}`"),
                host,
                port,
                path,
                meter: None,
                token,
                plain,
                is_tools: true,
                place,
            });
            Some(source)
        }
        (Some(_), Some(_)) | (None, None) => {
            let message = format!("{what} of {} needs one of `command` and `url`", scope.owner);
            scope.error(node.at, Code::MissingKey, message, FIX);
            None
        }
    }
}

/// `{name?, chunk | path, interpreter?}`: `path` is the `file` of a chunk of this document, never a file of the host.
fn script(scope: &mut Scope<'_>, node: &Node, chunks: &mut Chunks) -> Option<ToolSource> {
    let what = "`script` in `tools`";
    let entries = scope.map(node, what)?;
    scope.keys(entries, &keys::CHAT_SCRIPT, what);
    let by = |key| find(entries, key);
    let (wanted, by_path) = match (by("chunk"), by("path")) {
        (Some(node), None) => (node, false),
        (None, Some(node)) => (node, true),
        (Some(_), Some(_)) | (None, None) => {
            let message = format!("{what} of {} needs one of `chunk` and `path`", scope.owner);
            scope.error(node.at, Code::MissingKey, message, "write {script: {chunk: NAME}}");
            return None;
        }
    };
    let text = scope.text(wanted, what)?.to_owned();
    let found =
        chunks.take(|chunk| if by_path { chunk.file.as_ref() == Some(&text) } else { chunk.name == text }).cloned();
    let Some(chunk) = found else {
        let (message, fix) = match by_path {
            false => {
                (format!("{what} of {} names {}, and no chunk is that", scope.owner, excerpt(&text)), chunks.known())
            }
            true => (
                format!("{what} of {} names the path {}, and no chunk has that `file`", scope.owner, excerpt(&text)),
                chunks.known_files(),
            ),
        };
        scope.error(wanted.at, Code::BadChunk, message, fix);
        return None;
    };
    let path = chunk.file.unwrap_or_else(|| chunk.name.clone());
    if !is_tool_path(&path) {
        let message =
            format!("{what} of {}: chunk {} has no `file` that it could stand in", scope.owner, excerpt(&chunk.name));
        scope.error(wanted.at, Code::BadChunk, message, "give its code block `file=\"tools/NAME.py\"`");
        return None;
    }
    let interpreter = interpreter(scope, by("interpreter"), &path, node.at)?;
    let stem = path.rsplit('/').next().and_then(|file| file.split('.').next()).unwrap_or_default().to_ascii_lowercase();
    Some(ToolSource::Script { name: name(scope, entries, &stem)?, path, interpreter, text: chunk.text })
}

fn interpreter(scope: &mut Scope<'_>, node: Option<&Node>, path: &str, at: Position) -> Option<Vec<String>> {
    match node {
        Some(Node { value: Value::Text(program), .. }) if !program.is_empty() => Some(vec![program.clone()]),
        Some(node) => words(scope, node, "`script.interpreter` in `tools`"),
        None => match INTERPRETERS.iter().find(|(ending, _)| path.ends_with(ending)) {
            Some((_, program)) => Some(vec![(*program).to_owned()]),
            None => {
                let message = format!(
                    "`script` in `tools` of {} names {}, and nobody can tell what runs it",
                    scope.owner,
                    excerpt(path)
                );
                scope.error(at, Code::MissingKey, message, "add `interpreter: [PROGRAM]`");
                None
            }
        },
    }
}

/// A command is looked for where it runs: the directory that the agent is started in is not there.
fn warn_relative(scope: &mut Scope<'_>, at: Position, command: &[String]) {
    let Some(word) = command.iter().enumerate().find_map(|(i, word)| is_relative(i, word).then_some(word)) else {
        return;
    };
    let message = format!(
        "{} of `mcp.command` in `tools` of {} is looked for in the bottle's own home, /home/agent, and not where the agent is started",
        excerpt(word),
        scope.owner
    );
    let fix = "write a script into this document ({script: {chunk: NAME}}), or the whole path of a program that the bottle has: in \
               /usr or /opt, in its image, or by its `binds`";
    scope.warn(at, Code::RelativePath, message, fix);
}

/// A program with a directory before it, or an argument that an interpreter reads as a file; none that begins with `/`, `~` or
/// `-` and no address or package (`@scope/name`).
fn is_relative(i: usize, word: &str) -> bool {
    let own = !word.starts_with(['/', '-', '~', '@']) && !word.contains("://");
    let script = INTERPRETERS.iter().any(|(ending, _)| word.ends_with(ending)) || word.ends_with(".sh");
    own && (word.starts_with("./") || word.starts_with("../") || script || (i == 0 && word.contains('/')))
}

fn words(scope: &mut Scope<'_>, node: &Node, what: &str) -> Option<Vec<String>> {
    let words: Vec<String> = scope.texts(node, what)?.into_iter().map(|(word, _)| word.to_owned()).collect();
    let fits = |word: &String| word.len() <= WORD_BYTES_MAX && !word.contains('\0');
    let good = (1..=WORDS_MAX).contains(&words.len()) && !words[0].is_empty() && words.iter().all(fits);
    if !good {
        let message = format!("{what} of {} names no program, or too much", scope.owner);
        scope.error(
            node.at,
            Code::BadValue,
            message,
            format!("write [program, argument, …], at most {WORDS_MAX} words"),
        );
    }
    good.then_some(words)
}

/// `name`, or one made of what it is.
fn name(scope: &mut Scope<'_>, entries: &[Entry], usual: &str) -> Option<String> {
    let plain = |text: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        (1..=64).contains(&text.len()) && text.chars().all(fits)
    };
    let Some(node) = find(entries, "name") else {
        let made: String = usual.chars().map(|c| if plain(&c.to_string()) { c } else { '-' }).take(64).collect();
        return Some(if made.is_empty() { String::from("tools") } else { made });
    };
    let text = scope.text(node, "`name` in `tools`")?;
    if plain(text) {
        return Some(text.to_owned());
    }
    let message = format!("`name` in `tools` of {} is {}", scope.owner, excerpt(text));
    scope.error(node.at, Code::BadName, message, "write 1 to 64 of a-z, 0-9, `-`, `_`");
    None
}
