//! The routes (G43): each a few lines from a request to the engine and back.
//!
//! *Must never* decide anything about a message: that is the engine's.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, RawQuery, State};
use axum::routing::{get, post};
use axum::{Router, response::Response};
use carboy_agent::engine::FEEDBACK_REASONS;
use carboy_agent::{Judgement, Line, Who};
use carboy_core::ports::Conversation;
use carboy_store::audit::rfc3339;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::body::Said;
use super::entry::Visitor;
use super::page::{Embedding, asset, no_architecture};
use super::refusal::Refusal;
use super::turns::{Came, Event, REQUEST_BYTES_MAX, Reading, Work, of_reply};
use super::{App, stream};

/// How long the head of a stream waits for a first event, so that a refusal is an answer of its own.
const FIRST_EVENT_WAIT: Duration = Duration::from_secs(1);

type Answer = Result<Response, Refusal>;
type Shared = State<Arc<App>>;
type Who_ = Extension<Visitor>;

/// All routes; everything else is 404.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(start))
        .route("/health", get(health))
        .route("/static/{*name}", get(file))
        .route("/architecture", get(architecture))
        .route("/metrics", get(metrics))
        .route("/api/chat", post(chat))
        .route("/api/confirm", post(confirm))
        .route("/api/decline", post(decline))
        .route("/api/stop", post(stop))
        .route("/api/transcript", get(transcript).delete(forget))
        .route("/api/handoff", post(hand_off))
        .route("/api/feedback", post(feedback))
        .route("/api/state", get(state))
        .fallback(elsewhere)
        .method_not_allowed_fallback(not_so)
        .with_state(app)
}

/// Relative, so that it holds below any prefix a proxy puts in front.
async fn start() -> Response {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_static("static/index.html"));
    answer
}

async fn health(State(app): Shared) -> Answer {
    if app.turns.is_open() { Ok(json_answer(&json!({"status": "ok"}))) } else { Err(Refusal::stopping()) }
}

async fn file(State(app): Shared, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let framed = !app.engine.spec().frame_ancestors.is_empty();
    asset(&name, &headers, if framed { Embedding::Allowed } else { Embedding::Refused })
}

async fn architecture(State(app): Shared) -> Answer {
    app.architecture.as_ref().map(super::Architecture::answer).ok_or_else(no_architecture)
}

async fn metrics(State(app): Shared) -> Answer {
    let metrics = app.metrics.as_ref().ok_or_else(Refusal::not_found)?;
    let mut answer = Response::new(Body::from(metrics.render()));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(answer)
}

/// Files that the page of the agent's source refers to; nothing else is anywhere else.
async fn elsewhere(State(app): Shared, request: Request<Body>) -> Answer {
    let name = request.uri().path().strip_prefix('/').unwrap_or_default();
    let readable = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
    let found = app.architecture.as_ref().filter(|_| readable).and_then(|page| page.file(name));
    found.ok_or_else(Refusal::not_found)
}

async fn not_so() -> Refusal {
    let next = "see `Allow` for the methods of this address";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address has no such method", next)
}

async fn chat(State(app): Shared, Extension(visitor): Who_, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let said = Said::read(&head.headers, body, app.engine.spec().limits.message_chars_max).await?;
    let message = said.text("message")?.to_owned();
    let (engine, asker) = (app.engine.clone(), visitor.asker.clone());
    let reading = app
        .begin(&visitor, &said, Work::Answer, move |watch| async move { engine.turn(&asker, &message, &*watch).await })
        .await?;
    answer(reading, &head.headers).await
}

async fn confirm(State(app): Shared, Extension(visitor): Who_, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let said = Said::read(&head.headers, body, 0).await?;
    let token = said.text("token")?.to_owned();
    let (engine, asker) = (app.engine.clone(), visitor.asker.clone());
    let reading = app
        .begin(&visitor, &said, Work::Action, move |watch| async move { engine.confirm(&asker, &token, &*watch).await })
        .await?;
    answer(reading, &head.headers).await
}

async fn decline(State(app): Shared, Extension(visitor): Who_, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let said = Said::read(&head.headers, body, 0).await?;
    let reply = app.engine.decline(&visitor.asker, said.text("token")?).await?;
    Ok(json_answer(&of_reply(&reply)))
}

async fn stop(State(app): Shared, Extension(visitor): Who_, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    Said::read(&head.headers, body, 0).await?;
    Ok(json_answer(&json!({"stopped": app.turns.stop(visitor.asker.session.key())})))
}

async fn transcript(State(app): Shared, Extension(visitor): Who_, RawQuery(query): RawQuery) -> Answer {
    // Read before the lines are: a turn that ends in between is in them, or is waited for in vain once.
    let under_way = app.turns.under_way(visitor.asker.session.key());
    let lines = app.engine.transcript(&visitor.asker).await?;
    let wanted = query.unwrap_or_default();
    if wanted.split('&').any(|pair| pair.split('=').next() == Some("download")) {
        return Ok(download(&app.engine.spec().title, app.offline.as_deref(), &lines));
    }
    let cards = app.engine.cards(&visitor.asker).await?;
    // Somebody of the shop's answers at some time: the page looks again while this is not 0.
    let waits = app.engine.waits(&visitor.asker).await?;
    Ok(json_answer(&json!({"lines": lines, "cards": cards, "under_way": under_way, "waits": waits})))
}

async fn forget(State(app): Shared, Extension(visitor): Who_) -> Answer {
    let key = visitor.asker.session.key();
    app.turns.stop(key);
    app.engine.forget(&visitor.asker).await?;
    app.turns.forget(key);
    Ok(json_answer(&json!({"forgotten": true})))
}

async fn hand_off(State(app): Shared, Extension(visitor): Who_, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    Said::read(&head.headers, body, 0).await?;
    let reply = app.engine.hand_off(&visitor.asker).await?;
    Ok(json_answer(&of_reply(&reply)))
}

async fn feedback(State(app): Shared, Extension(visitor): Who_, request: Request<Body>) -> Answer {
    let (head, body) = request.into_parts();
    let said = Said::read(&head.headers, body, 0).await?;
    let judgement = match said.text("judgement")? {
        "helpful" => Judgement::Helpful,
        "not_helpful" => Judgement::NotHelpful,
        _ => {
            let next = "send `helpful` or `not_helpful`";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_request", "there is no such judgement", next));
        }
    };
    let reason = said.optional("reason").unwrap_or_default();
    app.engine.feedback(&visitor.asker, said.number("turn")?, judgement, reason).await?;
    Ok(json_answer(&json!({"noted": true})))
}

async fn state(State(app): Shared, Extension(visitor): Who_) -> Answer {
    let spec = app.engine.spec();
    Ok(json_answer(&json!({
        "title": spec.title,
        "greeting": spec.greeting,
        "offline": app.offline,
        "signed_in": visitor.asker.principal.kind == carboy_agent::PrincipalKind::Verified,
        "limits": {
            "message_chars_max": spec.limits.message_chars_max,
            "turns_max": spec.limits.turns_max,
        },
        "feedback_reasons": FEEDBACK_REASONS,
        "architecture": app.architecture.is_some(),
        "now_ms": app.clock.now_ms(),
    })))
}

impl App {
    async fn begin<W, F>(&self, visitor: &Visitor, said: &Said, work: Work, run: W) -> Result<Reading, Refusal>
    where
        W: FnOnce(Box<dyn Fn(carboy_agent::TurnEvent) + Send + Sync>) -> F,
        F: Future<Output = Result<carboy_agent::Reply, carboy_agent::TurnError>> + Send + 'static,
    {
        let plain = |id: &&str| {
            let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            !id.is_empty() && id.len() <= REQUEST_BYTES_MAX && id.bytes().all(safe)
        };
        let request = said.optional("request").filter(plain).unwrap_or(&visitor.correlation).to_owned();
        let (key, correlation) = (visitor.asker.session.key(), visitor.correlation.clone());
        let (journal, session) = (self.journal.clone(), self.engine.name_of(key));
        let reading = self.turns.start(key, request, work, run, move |ended| {
            let turn = ended.as_ref().map_or(0, |reply| reply.turn);
            let whose = Conversation { session, turn };
            match ended {
                Ok(_) => journal.turn(&correlation, &whose, "done", None),
                Err(refusal) => journal.turn(&correlation, &whose, refusal.code, refusal.particulars.as_deref()),
            }
        })?;
        match reading.came {
            Came::Began => {}
            // The engine counts what it is asked; of a turn that is there already it hears nothing.
            Came::Joined => self.engine.reads_along(&visitor.asker).await?,
        }
        Ok(reading)
    }
}

/// A stream where one is asked for, else the whole reply.
async fn answer(reading: Reading, headers: &HeaderMap) -> Answer {
    let turn = &reading.turn;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepts.to_ascii_lowercase().contains("text/event-stream") {
        return Ok(json_answer(&of_reply(&turn.outcome().await?)));
    }
    // What is refused at once has a status of its own.
    let _ = timeout(FIRST_EVENT_WAIT, turn.grown().wait_for(|(count, _)| *count > 0)).await;
    match turn.event(0) {
        Some(Event::Failed(refusal)) => Err(refusal),
        Some(_) | None => Ok(stream::answer(reading, stream::place(headers))),
    }
}

fn json_answer(value: &Value) -> Response {
    let mut answer = Response::new(Body::from(value.to_string()));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// The conversation as a text file.
fn download(title: &str, offline: Option<&str>, lines: &[Line]) -> Response {
    let mut text = format!("{title}\n");
    if let Some(label) = offline {
        text.push_str(&format!("({label})\n"));
    }
    for line in lines {
        let who = match line.who {
            Who::Person => "You",
            Who::Agent => title,
            Who::Step => "Tool",
            Who::Note => "Note",
        };
        text.push_str(&format!("\n[{}] {who}:\n{}\n", rfc3339(line.at_ms), line.text));
    }
    let mut answer = Response::new(Body::from(text));
    let fields = answer.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"conversation.txt\""));
    answer
}
