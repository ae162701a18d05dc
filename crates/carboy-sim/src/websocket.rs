//! Responses over a WebSocket: each `response.create` is answered with the events of a stream, one to a message. And an
//! echo, for clients of WebSockets that are no model's.
//!
//! ```text
//! GET /v1/responses, upgrade ──▶ 101 ──▶ response.create ──▶ response.created … response.completed ──▶ response.create …
//! GET /socket, upgrade ──▶ 101 ──▶ each message comes back
//! ```
//!
//! *Must never* go on generating for a client that closed: between two events the socket is listened to.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::config::{Config, WebSockets};
use crate::count::Generation;
use crate::faults::{Break, WAIT_MAX};
use crate::playback::{Body, Outcome, Payload, Played, break_events};
use crate::record::{Open, ReceivedRequest};
use crate::refusal::Provider;
use crate::responses;
use crate::route::Ask;
use crate::server::{Shared, refused_on_demand, wanted_faults};

/// The endpoint.
const PATH: &str = "/v1/responses";
/// Where messages come back; without a key, and whatever the configuration says.
const ECHO_PATH: &str = "/socket";
/// Largest message that is read.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest wait for a client's next request, as at the real provider.
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);
/// How long what was sent before a break may take to reach the socket.
const FLUSH_WAIT: Duration = Duration::from_millis(20);

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// Is this a WebSocket's handshake that is served here?
pub(crate) fn is_wanted(request: &Request<Incoming>, config: &Config) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    let path = request.uri().path();
    request.method() == Method::GET
        && (path == ECHO_PATH || path == PATH && config.websockets == WebSockets::Served)
        && upgrade.is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
}

/// The answer to the handshake. The conversation goes on in a task of its own, which ends with the connection.
pub(crate) fn accept(request: &mut Request<Incoming>, open: Open, shared: Arc<Shared>) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().to_vec());
    let echoes = request.uri().path() == ECHO_PATH;
    let known = echoes || Provider::OpenAi.check_key(request.headers(), &shared.config).is_ok();
    let Some(key) = key.filter(|_| known) else {
        *response.status_mut() = if known { StatusCode::BAD_REQUEST } else { StatusCode::UNAUTHORIZED };
        return response;
    };
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let accept = base64::engine::general_purpose::STANDARD.encode(digest);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept).expect("base64 is made of characters that a field may have"),
    );
    fields.insert("x-simulated", HeaderValue::from_static("carboy-sim"));
    let headers = request.headers().clone();
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else { return };
        let mut config = WebSocketConfig::default();
        config.max_message_size = Some(MESSAGE_BYTES_MAX);
        config.max_frame_size = Some(MESSAGE_BYTES_MAX);
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        match echoes {
            true => echo(socket, &open).await,
            false => converse(socket, &headers, &open, &shared).await,
        }
    });
    response
}

/// Sends each message back, and keeps what arrived for the tests.
async fn echo(mut socket: Socket, open: &Open) {
    while let Ok(Some(Ok(message))) = tokio::time::timeout(IDLE_MAX, socket.next()).await {
        if !message.is_text() && !message.is_binary() {
            continue;
        }
        open.push(&message.clone().into_data());
        if socket.send(message).await.is_err() {
            return;
        }
    }
}

/// Whether the conversation goes on.
#[derive(PartialEq, Eq)]
enum Then {
    Next,
    Over,
}

/// Answers message after message; what they say is kept as the body of their opening.
async fn converse(mut socket: Socket, headers: &HeaderMap, open: &Open, shared: &Shared) {
    loop {
        let message = match tokio::time::timeout(IDLE_MAX, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) | Err(_) => return,
        };
        if let Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_) = &message {
            open.push(&message.clone().into_data());
        }
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) => return,
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        if answer(&mut socket, headers, text.as_bytes(), shared).await == Then::Over {
            return;
        }
    }
}

async fn answer(socket: &mut Socket, headers: &HeaderMap, text: &[u8], shared: &Shared) -> Then {
    let faults = match wanted_faults(headers, &shared.config) {
        Ok(faults) => faults,
        Err((status, message)) => return say(socket, &error(status.into(), &message)).await,
    };
    let received = nothing_received();
    let ask = Ask {
        config: &shared.config,
        method: "POST",
        path: PATH,
        query: "",
        headers,
        body: text,
        serial: shared.next_serial(),
        received: &received,
        contexts: &shared.contexts,
    };
    let outcome = match created(text) {
        Some(request) => refused_on_demand(&ask, &faults)
            .unwrap_or_else(|| responses::created(&ask, &request).unwrap_or_else(|refused| ask.refused(&refused))),
        None => return say(socket, &error(400, "Only `response.create` is understood here.")).await,
    };
    tokio::time::sleep(faults.latency).await;
    let generation = shared.generation(&ask, &outcome);
    let Outcome { status, payload, .. } = outcome;
    match payload {
        Payload::Events(steps, broken) => {
            let then = play(socket, break_events(steps, broken, faults.broken), faults.pace, generation).await;
            // There is no body to end: the connection does.
            if matches!(faults.broken, Break::EndAfter(_)) {
                left_within(socket, FLUSH_WAIT).await;
                return Then::Over;
            }
            then
        }
        Payload::Whole(body) => say(socket, &wrapped(status, &body)).await,
        Payload::Long(..) => Then::Over,
    }
}

/// The request of a `response.create`: its other members.
fn created(text: &[u8]) -> Option<Map<String, Value>> {
    let Ok(Value::Object(mut request)) = serde_json::from_slice(text) else { return None };
    let kind = request.remove("type")?;
    (kind == "response.create").then_some(request)
}

async fn play(socket: &mut Socket, steps: Vec<Played>, pace: Duration, mut generation: Option<Generation>) -> Then {
    for step in steps {
        let wait = match step {
            Played::Step(_) => pace,
            Played::Silence => WAIT_MAX,
            Played::BrokenOff => FLUSH_WAIT,
        };
        if !wait.is_zero() && left_within(socket, wait).await {
            return Then::Over;
        }
        let Played::Step(step) = step else { return Then::Over };
        if let Some(generation) = &mut generation {
            tokio::select! {
                () = generation.think(&step) => {}
                () = left(socket) => return Then::Over,
            }
            generation.take(&step);
        }
        let Some(event) = event_of(&step.bytes) else { continue };
        if say(socket, &event).await == Then::Over {
            return Then::Over;
        }
    }
    Then::Next
}

/// Waits, and notices a client that goes away meanwhile.
async fn left_within(socket: &mut Socket, wait: Duration) -> bool {
    tokio::time::timeout(wait, left(socket)).await.is_ok()
}

/// Ready when the client is gone. What it asks for meanwhile is passed over.
async fn left(socket: &mut Socket) {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(_)) | Err(_)) | None => return,
            Some(Ok(
                Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_),
            )) => {}
        }
    }
}

async fn say(socket: &mut Socket, text: &str) -> Then {
    match socket.send(Message::text(text)).await {
        Ok(()) => Then::Next,
        Err(_) => Then::Over,
    }
}

/// The data of one server-sent event, which is one line here.
fn event_of(sse: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(sse).ok()?;
    text.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned)
}

/// An error as it comes in a message.
fn error(status: u64, message: &str) -> String {
    let error = json!({"type": "invalid_request_error", "message": message, "code": null, "param": null});
    json!({"type": "error", "status": status, "error": error}).to_string()
}

fn wrapped(status: u16, body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    json!({"type": "error", "status": status, "error": body["error"]}).to_string()
}

/// A message is no HTTP request of its own; the handshake is what was recorded.
fn nothing_received() -> ReceivedRequest {
    ReceivedRequest {
        method: String::new(),
        path: String::new(),
        authority: String::new(),
        version: String::new(),
        headers: Vec::new(),
        body_len: 0,
        body: Vec::new(),
        body_sha256: None,
        alpn: None,
        server_name: None,
        peer: ([127, 0, 0, 1], 0).into(),
    }
}
