//! An agent's tools, from wherever its file says that they come, under names that are each one's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carboy_agent::Tool;
use carboy_agent::builtin::{Calculator, NoteShelf, SaveNote};
use carboy_agent::handler::tool;
use carboy_core::chat::{BuiltInTool, ToolSource};
use carboy_core::ports::Outbound;

use super::bottles::{BottledServer, ToolBottle};
use super::shelf::DirShelf;
use super::{ChatError, ChatRequest};
use crate::mcp::{Connect, HttpServer, McpTool, Named, START_WAIT_MAX, Server};

/// Tools of one agent: more is no choice that a model makes well.
const TOOLS_MAX: usize = 128;
/// Characters of a name with its server's before it.
const NAME_CHARS_MAX: usize = 64;

/// After so long whoever waits is told for what.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// What a source of the file gave.
enum Found {
    Own(Vec<Arc<dyn Tool>>),
    Served { server: String, connected: Arc<Server>, tools: Vec<Named> },
}

/// Where the tools of servers are reached.
pub(super) struct Ways {
    pub(super) outbound: Arc<dyn Outbound>,
    pub(super) bottle: Arc<ToolBottle>,
}

/// All tools, in the order of the file.
pub(super) async fn all(request: &ChatRequest, ways: &Ways) -> Result<Vec<Arc<dyn Tool>>, ChatError> {
    let mut found = Vec::new();
    let mut shelf: Option<Arc<dyn NoteShelf>> = None;
    for source in &request.spec.tools {
        found.push(match source {
            ToolSource::BuiltIn(BuiltInTool::Calculator) => Found::Own(vec![tool(Calculator)]),
            // Made only where notes are taken: an agent without them leaves no directory behind.
            ToolSource::BuiltIn(BuiltInTool::SaveNote) => {
                let shelf = match &shelf {
                    Some(shelf) => shelf.clone(),
                    None => shelf.insert(open_shelf(&request.workdir)?).clone(),
                };
                Found::Own(vec![tool(SaveNote::new(shelf))])
            }
            ToolSource::Application => Found::Own(request.application.clone()),
            ToolSource::Command { name, command } => {
                let command = BottledServer::command(ways.bottle.clone(), command.clone());
                served(name, Box::new(command), request).await?
            }
            ToolSource::Script { name, path, interpreter, .. } => {
                let script = BottledServer::script(ways.bottle.clone(), interpreter, path);
                served(name, Box::new(script.map_err(|why| not_there(name, why))?), request).await?
            }
            ToolSource::Http { name, host, port, path } => {
                let (host, port, path) = (host.clone(), *port, path.clone());
                let server = HttpServer { outbound: ways.outbound.clone(), host, port, path };
                served(name, Box::new(server), request).await?
            }
        });
    }
    named(found, request)
}

fn open_shelf(workdir: &Path) -> Result<Arc<dyn NoteShelf>, ChatError> {
    Ok(Arc::new(DirShelf::open(workdir)?))
}

fn not_there(server: &str, why: String) -> ChatError {
    ChatError::Tools { server: server.to_owned(), why }
}

async fn served(name: &str, connect: Box<dyn Connect>, request: &ChatRequest) -> Result<Found, ChatError> {
    let mut opening = std::pin::pin!(Server::open(connect));
    let opened = tokio::select! {
        biased;
        opened = &mut opening => opened,
        () = tokio::time::sleep(TOLD_AFTER) => {
            let seconds = START_WAIT_MAX.as_secs();
            (request.tell)(&format!("starting the tools of `{name}` ({seconds} s at most; Ctrl-C ends it)"));
            opening.await
        }
    };
    let (server, listed) = opened.map_err(|error| not_there(name, error.to_string()))?;
    let tools = listed.iter().map(Named::read).collect::<Result<_, _>>().map_err(|why| not_there(name, why))?;
    Ok(Found::Served { server: name.to_owned(), connected: Arc::new(server), tools })
}

/// Gives each its name: that of its server before it, where two have the same.
fn named(found: Vec<Found>, request: &ChatRequest) -> Result<Vec<Arc<dyn Tool>>, ChatError> {
    let mut taken: BTreeMap<String, usize> = BTreeMap::new();
    for source in &found {
        let names: Vec<&str> = match source {
            Found::Own(tools) => tools.iter().map(|tool| tool.spec().schema.name.as_str()).collect(),
            Found::Served { tools, .. } => tools.iter().map(|tool| tool.name.as_str()).collect(),
        };
        names.into_iter().for_each(|name| *taken.entry(name.to_owned()).or_default() += 1);
    }
    let limits = &request.spec.limits;
    let bounds = (Duration::from_millis(limits.tool_wait_ms.into()), limits.tool_result_bytes_max as usize);
    let mut tools: Vec<Arc<dyn Tool>> = Vec::new();
    for source in found {
        match source {
            Found::Own(own) => tools.extend(own),
            Found::Served { server, connected, tools: listed } => {
                for tool in listed {
                    let shared = taken.get(&tool.name).is_some_and(|count| *count > 1);
                    let shown = if shared { prefixed(&server, &tool.name)? } else { tool.name.clone() };
                    tools.push(Arc::new(McpTool::new(connected.clone(), tool, shown, bounds)));
                }
            }
        }
    }
    match tools.len() > TOOLS_MAX {
        true => Err(not_there("the agent", format!("it has {} tools, the limit is {TOOLS_MAX}", tools.len()))),
        false => Ok(tools),
    }
}

fn prefixed(server: &str, name: &str) -> Result<String, ChatError> {
    let server_part: String = server.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let shown = format!("{server_part}_{name}");
    match shown.len() > NAME_CHARS_MAX {
        true => Err(not_there(server, format!("its tool `{name}` has another's name, and `{shown}` is too long"))),
        false => Ok(shown),
    }
}
