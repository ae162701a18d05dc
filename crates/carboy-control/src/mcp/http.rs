//! A server over HTTP ("streamable HTTP"): each message is a POST through the agent's gateway.
//!
//! *Must never* have another way out than that gateway, or read more of an answer than one message.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carboy_core::host::Host;
use carboy_core::ports::{Conversation, Errand, Later, Outbound, OutboundAnswer, OutboundError, OutboundRequest};
use carboy_wire::sse::Parser;
use serde_json::{Value, json};

use super::{Connect, MESSAGE_BYTES_MAX, McpError, Question, REVISION, Transport, result_of};

/// How long a message that expects no answer may take.
const TELL_WAIT_MAX: Duration = Duration::from_secs(10);
/// Characters of a session's name.
const SESSION_CHARS_MAX: usize = 256;

/// Where a server is.
#[derive(Clone)]
pub(crate) struct HttpServer {
    pub(crate) outbound: Arc<dyn Outbound>,
    pub(crate) host: Host,
    pub(crate) port: u16,
    pub(crate) path: String,
}

/// One session with it.
struct HttpSession {
    server: HttpServer,
    next: AtomicU64,
    session: Mutex<Option<String>>,
    over: AtomicBool,
}

impl Connect for HttpServer {
    fn connect(&self) -> Later<'_, Result<Arc<dyn Transport>, McpError>> {
        let session = HttpSession {
            server: self.clone(),
            next: AtomicU64::new(1),
            session: Mutex::default(),
            over: AtomicBool::new(false),
        };
        Box::pin(std::future::ready(Ok(Arc::new(session) as Arc<dyn Transport>)))
    }

    fn is_stopped(&self) -> bool {
        false // the gateway refuses by itself
    }

    fn let_go_on(&self) -> u32 {
        0
    }
}

impl HttpSession {
    async fn post(&self, message: &Value, conversation: Option<Conversation>) -> Result<OutboundAnswer, McpError> {
        let body = message.to_string().into_bytes();
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(McpError::TooLarge);
        }
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut headers = vec![
            field("content-type", "application/json"),
            field("accept", "application/json, text/event-stream"),
            field("mcp-protocol-version", REVISION),
        ];
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
        headers.extend(session.map(|session| ("mcp-session-id".to_owned(), session)));
        let HttpServer { outbound, host, port, path } = &self.server;
        let request = OutboundRequest {
            method: "POST",
            host: host.clone(),
            port: *port,
            path: path.clone(),
            headers,
            body,
            conversation,
            errand: Errand::Work,
        };
        let answer = outbound.send(request).await.map_err(broken)?;
        if let Some(reason) = answer.refused {
            return Err(McpError::Refused(reason));
        }
        match answer.status {
            200..=299 => Ok(answer),
            // The session is over (2025-06-18, "Session Management"): the next call begins a new one.
            404 if self.has_session() => {
                self.over.store(true, Ordering::Relaxed);
                Err(McpError::Gone("it has forgotten the session".into()))
            }
            status => Err(McpError::Gone(format!("it answered with status {status}"))),
        }
    }

    fn has_session(&self) -> bool {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    async fn asked(&self, question: Question) -> Result<Value, McpError> {
        let Question { method, params, wait: _, conversation } = question;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let answer = self.post(&message, conversation).await?;
        if method == "initialize" {
            let given = header(&answer, "mcp-session-id").filter(|name| fits(name)).map(str::to_owned);
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = given;
        }
        let events = header(&answer, "content-type").is_some_and(|kind| kind.starts_with("text/event-stream"));
        let message = if events { from_events(answer, id).await? } else { whole(answer).await? };
        if message.get("id").and_then(Value::as_u64) != Some(id) {
            return Err(McpError::Malformed("an answer to another question".into()));
        }
        result_of(message)
    }
}

impl Transport for HttpSession {
    fn ask(&self, question: Question) -> Later<'_, Result<Value, McpError>> {
        let (method, wait) = (question.method, question.wait);
        Box::pin(async move {
            match tokio::time::timeout(wait, self.asked(question)).await {
                Ok(result) => result,
                Err(_) => Err(McpError::Late { method, seconds: wait.as_secs(), said: None }),
            }
        })
    }

    fn tell(&self, method: &'static str, params: Value) -> Later<'_, Result<(), McpError>> {
        Box::pin(async move {
            let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
            match tokio::time::timeout(TELL_WAIT_MAX, self.post(&message, None)).await {
                Ok(told) => told.map(|_| ()),
                Err(_) => Err(McpError::Late { method, seconds: TELL_WAIT_MAX.as_secs(), said: None }),
            }
        })
    }

    fn lives(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn fits(name: &str) -> bool {
    name.len() <= SESSION_CHARS_MAX && name.bytes().all(|b| b.is_ascii_graphic())
}

fn header<'a>(answer: &'a OutboundAnswer, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn broken(error: OutboundError) -> McpError {
    match error {
        OutboundError::Refused(reason) => McpError::Refused(reason),
        OutboundError::NoAnswer(why) | OutboundError::BrokeOff(why) => McpError::Gone(why),
    }
}

async fn whole(mut answer: OutboundAnswer) -> Result<Value, McpError> {
    let mut text = Vec::new();
    while let Some(piece) = answer.body.next().await {
        text.extend(piece.map_err(broken)?);
        if text.len() > MESSAGE_BYTES_MAX {
            return Err(McpError::TooLarge);
        }
    }
    serde_json::from_slice(&text).map_err(|_| McpError::Malformed("its answer is no JSON".into()))
}

/// The answer among the events; what it tells or asks on the way is passed over.
async fn from_events(mut answer: OutboundAnswer, id: u64) -> Result<Value, McpError> {
    let mut parser = Parser::new(MESSAGE_BYTES_MAX);
    let (mut events, mut read) = (Vec::new(), 0);
    while let Some(piece) = answer.body.next().await {
        let piece = piece.map_err(broken)?;
        read += piece.len();
        parser.feed(&piece, &mut events).map_err(|_| McpError::TooLarge)?;
        if read > 2 * MESSAGE_BYTES_MAX {
            return Err(McpError::TooLarge);
        }
        for event in events.drain(..) {
            let message: Value = serde_json::from_str(&event.data)
                .map_err(|_| McpError::Malformed("an event of its answer is no JSON".into()))?;
            if message.get("method").is_none() && message.get("id").and_then(Value::as_u64) == Some(id) {
                return Ok(message);
            }
        }
    }
    Err(McpError::Gone("its answer ended without a result".into()))
}
