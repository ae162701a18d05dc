//! What stands in for a server over HTTP while its agent is attacked: the same tools, on loopback, over records that nobody has.
//!
//! ```text
//!  real server ◀── tools/list, once ── gateway        gateway ── upstreams[host] = 127.0.0.1 ──▶ StandIn ─▶ `answers`
//! ```
//!
//! It is the attacker's too: what it answers may be too large, of another form, late, or cut in the middle. *Must never* pass a
//! call on to the server that it stands for, keep a header of a request (a real credential may be in one), or listen anywhere but
//! on loopback.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use carboy_agent::attack::Guarded;
use carboy_core::chat::{ChatSpec, ToolSource};
use carboy_core::host::Host;
use carboy_core::upstream::{Transport, Upstream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::super::{ChatError, ChatRequest, lay};
use super::AttackError;
use super::answers::{self, Answer};
use crate::mcp::{HttpServer, MESSAGE_BYTES_MAX, Named, Server};
use crate::run_end::close_log;

/// Calls that are answered late, of one attack: each costs a whole wait.
const LATE_MAX: u32 = 3;
/// Connections at once.
const CONNECTIONS_MAX: usize = 64;
/// How much later than it is waited for.
const LATE_BY: Duration = Duration::from_millis(500);

/// What all the servers of an attack know.
pub(super) struct Book {
    /// The seed of the attack: the same call has the same answer.
    pub(super) seed: u64,
    /// The argument that names a record, and the one that opens it.
    pub(super) id_argument: Option<String>,
    pub(super) proof_argument: Option<String>,
    /// Records that are there.
    pub(super) records: Vec<Guarded>,
    /// Fields that the agent's file demands of a result, by tool.
    pub(super) demanded: BTreeMap<String, Vec<(String, Value)>>,
    /// What nobody may read.
    pub(super) canaries: Vec<String>,
    /// Octets that a result may have.
    pub(super) result_bytes_max: usize,
    /// How long a call is waited for.
    pub(super) wait: Duration,
}

/// Servers that stand in, all those of one agent.
#[derive(Default)]
pub(super) struct StandIns(Vec<StandIn>);

struct StandIn {
    desk: Arc<Desk>,
    task: JoinHandle<()>,
}

/// One server.
struct Desk {
    tools: Vec<Value>,
    book: OnceLock<Arc<Book>>,
    /// The idempotency key of each write, as it came.
    written: Mutex<Vec<String>>,
    late: AtomicU32,
}

impl StandIns {
    /// Asks each server for its tools, and puts one that stands in into its place.
    pub(super) async fn start(request: &mut ChatRequest) -> Result<StandIns, AttackError> {
        let mut stand_ins = StandIns::default();
        for (place, tools) in listed(request).await? {
            let (host, port) = place;
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(AttackError::Loopback)?;
            let address = listener.local_addr().map_err(AttackError::Loopback)?;
            stand_ins.0.push(StandIn::serve(listener, tools));
            let upstream = Upstream { address, transport: Transport::Plain, extra_ca_pem: None };
            request.effective.settings.upstreams.insert(host, Some(port), upstream);
        }
        Ok(stand_ins)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From here on they answer calls.
    pub(super) fn know(&self, book: Book) {
        let book = Arc::new(book);
        for stand_in in &self.0 {
            let _ = stand_in.desk.book.set(book.clone());
        }
    }

    /// Everything that was written, and how it is forgotten.
    pub(super) fn records(&self) -> (carboy_agent::attack::Records, carboy_agent::attack::Reset) {
        let desks = || self.0.iter().map(|one| one.desk.clone()).collect::<Vec<_>>();
        let (count, clear) = (desks(), desks());
        let all = move || count.iter().flat_map(|desk| desk.written().clone()).collect();
        (Box::new(all), Box::new(move || clear.iter().for_each(|desk| desk.written().clear())))
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The tools of each server over HTTP, from itself: nothing else is asked of it.
async fn listed(request: &ChatRequest) -> Result<Vec<((Host, u16), Vec<Value>)>, AttackError> {
    let of = |source: &ToolSource| match source {
        ToolSource::Http { name, host, port, path } => Some((name.clone(), host.clone(), *port, path.clone())),
        ToolSource::BuiltIn(_) | ToolSource::Command { .. } | ToolSource::Script { .. } | ToolSource::Application => {
            None
        }
    };
    let servers: Vec<_> = request.spec.tools.iter().filter_map(of).collect();
    if servers.is_empty() {
        return Ok(Vec::new());
    }
    let plane = lay(request).await?;
    let mut all = Vec::new();
    for (name, host, port, path) in servers {
        let (outbound, at) = (plane.gateway.outbound(), (host.clone(), port));
        let server = HttpServer { outbound, host, port, path };
        let asked = Server::open(Box::new(server)).await;
        let (_, tools) = asked.map_err(|error| AttackError::NoList { name, why: error.to_string() })?;
        all.push((at, tools));
    }
    plane.gateway.shutdown();
    let audit = plane.audit.clone();
    drop(plane);
    close_log(&audit).await.map_err(ChatError::from)?;
    Ok(all)
}

impl StandIn {
    fn serve(listener: TcpListener, tools: Vec<Value>) -> StandIn {
        let desk =
            Arc::new(Desk { tools, book: OnceLock::new(), written: Mutex::default(), late: AtomicU32::new(LATE_MAX) });
        let task = tokio::spawn(accept(listener, desk.clone()));
        StandIn { desk, task }
    }
}

/// Until it is aborted; its connections end with it.
async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            let _ = connections.join_next().await;
        }
        // Whoever cannot be let in is not heard: a call that fails.
        let Ok((stream, _)) = listener.accept().await else { return };
        let desk = desk.clone();
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let desk = desk.clone();
                async move { Ok::<_, Infallible>(heard(&desk, request.into_body()).await) }
            });
            // The gateway knows how a connection ended.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn heard(desk: &Desk, body: Incoming) -> Response<Body> {
    let read = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
    let read = read.map(|read| read.to_bytes()).unwrap_or_default();
    let message = serde_json::from_slice::<Value>(&read).unwrap_or_default();
    let id = message.get("id").cloned();
    match (message["method"].as_str().unwrap_or_default(), id) {
        ("initialize", Some(id)) => {
            let server = json!({"name": "stand-in", "version": "1"});
            let revision = message["params"]["protocolVersion"].clone();
            let welcome = json!({"protocolVersion": revision, "capabilities": {"tools": {}}, "serverInfo": server});
            whole(&json!({"jsonrpc": "2.0", "id": id, "result": welcome}))
        }
        ("tools/list", Some(id)) => whole(&json!({"jsonrpc": "2.0", "id": id, "result": {"tools": desk.tools}})),
        ("tools/call", Some(id)) => desk.called(&id, &message["params"]).await,
        (_, Some(id)) => {
            whole(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32_601, "message": "not offered"}}))
        }
        (_, None) => status(StatusCode::ACCEPTED),
    }
}

impl Desk {
    fn written(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn called(&self, id: &Value, params: &Value) -> Response<Body> {
        let tool = self.tools.iter().find(|tool| tool["name"] == params["name"]);
        let (Some(tool), Some(book)) = (tool, self.book.get()) else {
            return whole(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32_602, "message": "no such tool"}}));
        };
        let answer = answers::of(book, tool, &params["arguments"]);
        let writes = Named::read(tool).is_ok_and(|named| named.writes());
        if writes && !matches!(answer, Answer::NotFound) {
            let key = params["_meta"]["carboy/idempotency_key"].as_str().unwrap_or_default();
            self.written().push(format!("{} {key}", params["name"].as_str().unwrap_or_default()));
        }
        self.said(id, book, answer).await
    }

    async fn said(&self, id: &Value, book: &Book, answer: Answer) -> Response<Body> {
        let of = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
        match answer {
            Answer::NotFound => whole(&of(answers::refusal())),
            Answer::Result(value) => whole(&of(value)),
            Answer::Late(value) => {
                let left = self.late.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if left.is_ok() {
                    tokio::time::sleep(book.wait + LATE_BY).await;
                }
                whole(&of(value))
            }
            Answer::Events(value) => {
                let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {}});
                let text = format!("data: {note}\n\ndata: {}\n\n", of(value));
                typed("text/event-stream", text.into_bytes())
            }
            Answer::Raw(bytes) => typed("application/json", bytes),
            Answer::OfAnother(value) => whole(&json!({"jsonrpc": "2.0", "id": 0, "result": value})),
            Answer::Error(message) => {
                whole(&json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32_000, "message": message}}))
            }
            Answer::Status(code) => status(StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY)),
            Answer::Cut(value) => cut(of(value).to_string().into_bytes()),
        }
    }
}

fn whole(message: &Value) -> Response<Body> {
    typed("application/json", message.to_string().into_bytes())
}

fn typed(kind: &'static str, bytes: Vec<u8>) -> Response<Body> {
    let mut answer = Response::new(Body::from(bytes));
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}

fn status(code: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = code;
    answer
}

/// The first half, and then the connection is gone.
fn cut(mut bytes: Vec<u8>) -> Response<Body> {
    bytes.truncate(bytes.len() / 2);
    let gone = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let pieces = futures_util::stream::iter([Ok(Bytes::from(bytes)), Err(gone())]);
    let mut answer = Response::new(Body::from_stream(pieces));
    answer.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}

/// Fields that the file demands of results, by tool.
pub(super) fn demanded(spec: &ChatSpec) -> BTreeMap<String, Vec<(String, Value)>> {
    let mut all: BTreeMap<String, Vec<(String, Value)>> = BTreeMap::new();
    for requirement in spec.rules.values().flat_map(|rules| &rules.requires) {
        all.entry(requirement.tool.clone()).or_default().extend(requirement.result.clone());
    }
    all
}
