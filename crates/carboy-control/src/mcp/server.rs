//! One server over whichever connection: greeted, asked for its tools, started once more when it ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use carboy_core::audit::{hex, sha256};
use carboy_core::ports::{Conversation, Later};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::{McpError, PAGES_MAX, Question, REVISION, REVISIONS, START_WAIT_MAX, TOOLS_MAX, Transport};

/// How often a server that ended by itself is started again.
const RESTARTS_MAX: u32 = 1;

/// Makes connections to a server: starts its bottle, or opens a session.
pub(crate) trait Connect: Send + Sync {
    /// A new connection.
    fn connect(&self) -> Later<'_, Result<Arc<dyn Transport>, McpError>>;

    /// Is its agent stopped, so that none is to be made?
    fn is_stopped(&self) -> bool;

    /// Raised whenever somebody has let its agent go on: what ended before that was not the server's own fault.
    fn let_go_on(&self) -> u32;
}

/// See the module.
pub(crate) struct Server {
    connect: Box<dyn Connect>,
    open: Mutex<Option<Arc<dyn Transport>>>,
    /// Of what it listed at the start.
    tools: String,
    restarts: AtomicU32,
    /// The operator's word that restarts are counted from.
    since: AtomicU32,
}

impl Server {
    /// Connects, greets, and takes the list of its tools.
    pub(crate) async fn open(connect: Box<dyn Connect>) -> Result<(Server, Vec<Value>), McpError> {
        let transport = connect.connect().await?;
        let tools = greet(&*transport).await.inspect_err(|_| transport.end())?;
        let since = AtomicU32::new(connect.let_go_on());
        let digest = digest(&tools);
        let open = Mutex::new(Some(transport));
        Ok((Server { connect, open, tools: digest, restarts: AtomicU32::new(0), since }, tools))
    }

    /// Calls a tool.
    pub(crate) async fn call(
        &self,
        params: Value,
        wait: Duration,
        conversation: Conversation,
    ) -> Result<Value, McpError> {
        let question = Question { method: "tools/call", params, wait, conversation: Some(conversation) };
        self.live().await?.ask(question).await
    }

    /// The connection, made anew where it ended and may be.
    async fn live(&self) -> Result<Arc<dyn Transport>, McpError> {
        let mut open = self.open.lock().await;
        if let Some(transport) = open.as_ref().filter(|transport| transport.lives()) {
            return Ok(transport.clone());
        }
        if self.connect.is_stopped() {
            return Err(McpError::Stopped);
        }
        let word = self.connect.let_go_on();
        if self.since.swap(word, Ordering::Relaxed) != word {
            self.restarts.store(0, Ordering::Relaxed);
        }
        if self.restarts.load(Ordering::Relaxed) >= RESTARTS_MAX {
            let why = "it ended again after it was restarted; start the agent anew when it is mended";
            return Err(McpError::Gone(why.into()));
        }
        let transport = match self.connect.connect().await {
            // Not its fault: it is tried again when its agent goes on.
            Err(McpError::Stopped) => return Err(McpError::Stopped),
            other => {
                self.restarts.fetch_add(1, Ordering::Relaxed);
                other?
            }
        };
        match greet(&*transport).await {
            Ok(tools) if digest(&tools) == self.tools => {}
            Ok(_) => {
                transport.end();
                self.restarts.store(RESTARTS_MAX, Ordering::Relaxed);
                let why = "it has other tools than before it ended; start the agent anew to use those";
                return Err(McpError::Gone(why.into()));
            }
            Err(error) => {
                transport.end();
                return Err(error);
            }
        }
        *open = Some(transport.clone());
        Ok(transport)
    }
}

async fn greet(transport: &dyn Transport) -> Result<Vec<Value>, McpError> {
    let client = json!({"name": "carboy", "version": env!("CARGO_PKG_VERSION")});
    let hello = json!({"protocolVersion": REVISION, "capabilities": {}, "clientInfo": client});
    let welcome = transport.ask(begin("initialize", hello)).await?;
    let revision = welcome.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
    if !REVISIONS.contains(&revision) {
        return Err(McpError::Malformed(format!("it speaks none of the revisions {}", REVISIONS.join(", "))));
    }
    if welcome.pointer("/capabilities/tools").is_none() {
        return Err(McpError::Malformed("it offers no tools".into()));
    }
    transport.tell("notifications/initialized", json!({})).await?;
    let mut tools = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES_MAX {
        let params = cursor.map_or_else(|| json!({}), |cursor: Value| json!({"cursor": cursor}));
        let mut page = transport.ask(begin("tools/list", params)).await?;
        let Some(Value::Array(listed)) = page.get_mut("tools").map(Value::take) else {
            return Err(McpError::Malformed("`tools/list` gave no list".into()));
        };
        tools.extend(listed);
        if tools.len() > TOOLS_MAX {
            return Err(McpError::Malformed(format!("it has more than {TOOLS_MAX} tools")));
        }
        cursor = page.get_mut("nextCursor").map(Value::take).filter(|cursor| !cursor.is_null());
        if cursor.is_none() {
            return Ok(tools);
        }
    }
    Err(McpError::Malformed(format!("it lists its tools in more than {PAGES_MAX} pages")))
}

/// A question of nobody's.
fn begin(method: &'static str, params: Value) -> Question {
    Question { method, params, wait: START_WAIT_MAX, conversation: None }
}

fn digest(tools: &[Value]) -> String {
    let texts: Vec<String> = tools.iter().map(Value::to_string).collect();
    hex(&sha256(texts.join("\n").as_bytes()))
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(transport) = self.open.get_mut() {
            transport.end();
        }
    }
}
