//! From an answer to the bytes of its body: in steps, at a pace, encoded, charged as it goes, and broken where asked.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::coding::{Coding, Encoder};
use crate::count::{Cost, Generation};
use crate::faults::{Break, Faults, WAIT_MAX};

/// How long what was sent before a break may take to reach the socket.
const FLUSH_WAIT: Duration = Duration::from_millis(20);

/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BrokenOff>;

/// Ends a connection in the middle of a body.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the simulated provider broke the connection off, as it was asked to")]
pub(crate) struct BrokenOff;

/// An answer before it is encoded and played.
pub(crate) struct Outcome {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub payload: Payload,
    /// What it costs, when this is a model's answer.
    pub charge: Option<Cost>,
}

pub(crate) enum Payload {
    /// All at once, when all of it is there.
    Whole(Vec<u8>),
    /// One by one.
    Events(Vec<Step>, ErrorEvent),
    /// Too large to hold.
    Long(u64, Box<dyn Iterator<Item = Vec<u8>> + Send>),
}

/// The event that stands for a failure in this protocol.
pub(crate) struct ErrorEvent(pub Vec<u8>);

/// Bytes that leave together, and how much of the output they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub bytes: Vec<u8>,
    /// Bytes of output that are seen in it.
    pub output: u64,
    /// Tokens of output that were written before it and are not seen.
    pub hidden: u64,
    /// It says what the answer cost: all of that was written by then.
    pub sums_up: bool,
}

impl Step {
    /// Bytes of which so many are output.
    pub fn of(bytes: Vec<u8>, output: u64) -> Step {
        Step { bytes, output, hidden: 0, sums_up: false }
    }

    pub fn after(mut self, hidden: u64) -> Step {
        self.hidden = hidden;
        self
    }

    pub fn summing_up(mut self) -> Step {
        self.sums_up = true;
        self
    }
}

impl Outcome {
    pub fn json(status: u16, body: &impl serde::Serialize) -> Outcome {
        let body = serde_json::to_vec(body).expect("these structs always serialise");
        Outcome::whole(status, "application/json", body)
    }

    pub fn whole(status: u16, content_type: &'static str, body: Vec<u8>) -> Outcome {
        Outcome { status, content_type, headers: Vec::new(), payload: Payload::Whole(body), charge: None }
    }

    pub fn events(steps: Vec<Step>, error: Vec<u8>) -> Outcome {
        let headers = vec![("cache-control", "no-cache".into())];
        let payload = Payload::Events(steps, ErrorEvent(error));
        Outcome { status: 200, content_type: "text/event-stream; charset=utf-8", headers, payload, charge: None }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Outcome {
        self.headers.push((name, value.into()));
        self
    }

    /// Makes it a model's answer, which is charged for.
    pub fn charged(mut self, cost: Cost) -> Outcome {
        self.charge = Some(cost);
        self
    }
}

/// Turns the outcome into the response that hyper sends; `generation` is what a model's answer is charged to.
pub(crate) async fn play(
    outcome: Outcome,
    coding: Coding,
    faults: &Faults,
    generation: Option<Generation>,
) -> Result<Response<Body>, BrokenOff> {
    let Outcome { status, content_type, headers, payload, charge: _ } = outcome;
    let mut response = Response::new(Full::new(Bytes::new()).map_err(never).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).expect("statuses here are constants or checked");
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert("x-simulated", HeaderValue::from_static("carboy-sim"));
    for (name, value) in headers {
        // A value that is no header value can only come from a query; it is left out.
        if let Ok(value) = HeaderValue::from_str(&value) {
            fields.insert(name, value);
        }
    }
    if let Some(token) = coding.token() {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(token));
    }
    if faults.broken == Break::BeforeHead {
        return Err(BrokenOff);
    }
    *response.body_mut() = match payload {
        Payload::Whole(body) => {
            if let Some(generation) = generation {
                write_out(generation, faults.pace).await;
            }
            let mut encoder = Encoder::new(coding);
            let mut body = encoder.push(&body);
            body.extend(encoder.finish());
            fields.insert(header::CONTENT_LENGTH, body.len().into());
            whole(body, faults.broken)
        }
        Payload::Events(steps, error) => {
            let steps = break_events(steps, error, faults.broken).into_iter();
            paced(Box::new(steps), coding, faults.pace, generation)
        }
        Payload::Long(length, chunks) => {
            if coding == Coding::Identity {
                fields.insert(header::CONTENT_LENGTH, length.into());
            }
            let steps = chunks.map(|bytes| Played::Step(Step::of(bytes, 0)));
            paced(Box::new(steps), coding, Duration::ZERO, None)
        }
    };
    Ok(response)
}

/// Parts in which a whole answer is written, each after a wait of the pace.
const WHOLE_PARTS: u64 = 8;

/// Writes a whole answer before its head goes out. Dropped by a client that leaves, it is charged as far as it is.
async fn write_out(mut generation: Generation, pace: Duration) {
    if !pace.is_zero() {
        for part in 0..WHOLE_PARTS {
            tokio::time::sleep(pace).await;
            generation.goes_on(0, generation.output() * part / WHOLE_PARTS - generation.charged());
        }
    }
    generation.end();
}

fn never(never: Infallible) -> BrokenOff {
    match never {}
}

fn whole(mut body: Vec<u8>, broken: Break) -> Body {
    match broken {
        Break::TruncateAt(at) if at < body.len() => {
            body.truncate(at);
            let steps = [Played::Step(Step::of(body, 0)), Played::BrokenOff];
            paced(Box::new(steps.into_iter()), Coding::Identity, Duration::ZERO, None)
        }
        Break::BeforeUsage => {
            body.truncate(body.len() / 2);
            let steps = [Played::Step(Step::of(body, 0)), Played::BrokenOff];
            paced(Box::new(steps.into_iter()), Coding::Identity, Duration::ZERO, None)
        }
        Break::DropAfter(0) => paced(Box::new([Played::BrokenOff].into_iter()), Coding::Identity, Duration::ZERO, None),
        Break::SilentAfter(0) => paced(Box::new([Played::Silence].into_iter()), Coding::Identity, Duration::ZERO, None),
        Break::TruncateAt(_)
        | Break::Nowhere
        | Break::BeforeHead
        | Break::SilentAfter(_)
        | Break::DropAfter(_)
        | Break::EndAfter(_)
        | Break::MalformedAfter(_)
        | Break::ErrorAfter(_) => Full::new(Bytes::from(body)).map_err(never).boxed_unsync(),
    }
}

/// What comes next of an answer.
pub(crate) enum Played {
    Step(Step),
    /// Nothing any more, for as long as the client waits.
    Silence,
    BrokenOff,
}

pub(crate) fn break_events(mut steps: Vec<Step>, error: ErrorEvent, broken: Break) -> Vec<Played> {
    let place = |after: usize| after.min(steps.len());
    let mut end = None;
    match broken {
        Break::Nowhere | Break::TruncateAt(_) | Break::BeforeHead => {}
        Break::BeforeUsage => {
            steps.truncate(steps.iter().position(|step| step.sums_up).unwrap_or(steps.len()));
            end = Some(Played::BrokenOff);
        }
        Break::SilentAfter(after) => {
            steps.truncate(after);
            end = Some(Played::Silence);
        }
        Break::DropAfter(after) => {
            steps.truncate(after);
            end = Some(Played::BrokenOff);
        }
        Break::EndAfter(after) => steps.truncate(after),
        Break::MalformedAfter(after) => {
            let bytes = b"event: content_block_delta\ndata: {\"type\": \"content_blo\n\n".to_vec();
            steps.insert(place(after), Step::of(bytes, 0));
        }
        Break::ErrorAfter(after) => {
            steps.truncate(after);
            steps.push(Step::of(error.0, 0));
        }
    }
    steps.into_iter().map(Played::Step).chain(end).collect()
}

struct Player {
    steps: Box<dyn Iterator<Item = Played> + Send>,
    encoder: Option<Encoder>,
    pace: Duration,
    generation: Option<Generation>,
}

/// Each step is made, charged and sent when the client has taken the one before it: nothing piles up.
fn paced(
    steps: Box<dyn Iterator<Item = Played> + Send>,
    coding: Coding,
    pace: Duration,
    generation: Option<Generation>,
) -> Body {
    let player = Player { steps, encoder: Some(Encoder::new(coding)), pace, generation };
    let frames = stream::unfold(player, |mut player| async move {
        let frame = player.next().await?;
        Some((frame, player))
    });
    StreamBody::new(frames).boxed_unsync()
}

impl Player {
    async fn next(&mut self) -> Option<Result<Frame<Bytes>, BrokenOff>> {
        let encoder = self.encoder.as_mut()?;
        let Some(step) = self.steps.next() else {
            let rest = self.encoder.take()?.finish();
            return (!rest.is_empty()).then(|| Ok(Frame::data(rest.into())));
        };
        if !self.pace.is_zero() {
            tokio::time::sleep(self.pace).await;
        }
        let step = match step {
            Played::Step(step) => step,
            Played::Silence => {
                tokio::time::sleep(WAIT_MAX).await;
                self.encoder = None;
                return Some(Err(BrokenOff));
            }
            Played::BrokenOff => {
                // hyper throws away what it has not yet written when a body fails.
                tokio::time::sleep(FLUSH_WAIT).await;
                self.encoder = None;
                return Some(Err(BrokenOff));
            }
        };
        if let Some(generation) = &mut self.generation {
            generation.think(&step).await;
            generation.take(&step);
        }
        Some(Ok(Frame::data(encoder.push(&step.bytes).into())))
    }
}
