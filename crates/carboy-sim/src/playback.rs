//! From an answer to the bytes of its body: in steps, at a pace, encoded, and broken where asked.

use std::convert::Infallible;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::count::{Till, tokens};
use crate::faults::{Break, Faults};

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
    /// Input tokens to charge, when this is a model's answer.
    pub charge: Option<u64>,
}

pub(crate) enum Payload {
    /// All at once; the output bytes to charge.
    Whole(Vec<u8>, u64),
    /// One by one.
    Events(Vec<Step>, ErrorEvent),
    /// Too large to hold.
    Long(u64, Box<dyn Iterator<Item = Vec<u8>> + Send>),
}

/// The event that stands for a failure in this protocol.
pub(crate) struct ErrorEvent(pub Vec<u8>);

/// Bytes that leave together, and how many of them count as output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub bytes: Vec<u8>,
    pub output: u64,
}

impl Outcome {
    pub fn json(status: u16, body: &impl serde::Serialize) -> Outcome {
        let body = serde_json::to_vec(body).expect("these structs always serialise");
        Outcome::whole(status, "application/json", body)
    }

    pub fn whole(status: u16, content_type: &'static str, body: Vec<u8>) -> Outcome {
        Outcome { status, content_type, headers: Vec::new(), payload: Payload::Whole(body, 0), charge: None }
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
    pub fn charged(mut self, input: u64, output_bytes: u64) -> Outcome {
        self.charge = Some(input);
        if let Payload::Whole(_, output) = &mut self.payload {
            *output = output_bytes;
        }
        self
    }
}

/// What `?encoding=` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Identity,
    Gzip,
    Deflate,
}

impl Coding {
    pub fn parse(text: &str) -> Option<Coding> {
        match text {
            "identity" => Some(Coding::Identity),
            "gzip" => Some(Coding::Gzip),
            "deflate" => Some(Coding::Deflate),
            _ => None,
        }
    }

    fn token(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
        }
    }
}

/// Turns the outcome into the response that hyper sends.
pub(crate) fn play(outcome: Outcome, coding: Coding, faults: &Faults, till: &Till) -> Response<Body> {
    let Outcome { status, content_type, headers, payload, charge } = outcome;
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
    if let Some(input) = charge {
        till.charge(1, input, 0);
    }
    *response.body_mut() = match payload {
        Payload::Whole(body, output) => {
            till.charge(0, 0, tokens(output));
            let mut encoder = Encoder::new(coding);
            let mut body = encoder.push(&body);
            body.extend(encoder.finish());
            fields.insert(header::CONTENT_LENGTH, body.len().into());
            whole(body, faults.broken, till)
        }
        Payload::Events(steps, error) => {
            let steps = break_events(steps, error, faults.broken).into_iter();
            paced(Box::new(steps), coding, faults.pace, till.clone())
        }
        Payload::Long(length, chunks) => {
            if coding == Coding::Identity {
                fields.insert(header::CONTENT_LENGTH, length.into());
            }
            let steps = chunks.map(|bytes| Ok(Step { bytes, output: 0 }));
            paced(Box::new(steps), coding, Duration::ZERO, till.clone())
        }
    };
    response
}

fn never(never: Infallible) -> BrokenOff {
    match never {}
}

fn whole(mut body: Vec<u8>, broken: Break, till: &Till) -> Body {
    match broken {
        Break::TruncateAt(at) if at < body.len() => {
            body.truncate(at);
            let steps = [Ok(Step { bytes: body, output: 0 }), Err(BrokenOff)];
            paced(Box::new(steps.into_iter()), Coding::Identity, Duration::ZERO, till.clone())
        }
        Break::TruncateAt(_)
        | Break::Nowhere
        | Break::DropAfter(_)
        | Break::EndAfter(_)
        | Break::MalformedAfter(_)
        | Break::ErrorAfter(_) => Full::new(Bytes::from(body)).map_err(never).boxed_unsync(),
    }
}

type Played = Result<Step, BrokenOff>;

fn break_events(mut steps: Vec<Step>, error: ErrorEvent, broken: Break) -> Vec<Played> {
    let place = |after: usize| after.min(steps.len());
    match broken {
        Break::Nowhere | Break::TruncateAt(_) => {}
        Break::DropAfter(after) => {
            steps.truncate(after);
            return steps.into_iter().map(Ok).chain([Err(BrokenOff)]).collect();
        }
        Break::EndAfter(after) => steps.truncate(after),
        Break::MalformedAfter(after) => {
            let bytes = b"event: content_block_delta\ndata: {\"type\": \"content_blo\n\n".to_vec();
            steps.insert(place(after), Step { bytes, output: 0 });
        }
        Break::ErrorAfter(after) => {
            steps.truncate(after);
            steps.push(Step { bytes: error.0, output: 0 });
        }
    }
    steps.into_iter().map(Ok).collect()
}

struct Player {
    steps: Box<dyn Iterator<Item = Played> + Send>,
    encoder: Option<Encoder>,
    pace: Duration,
    till: Till,
    output_bytes: u64,
}

/// Each step is made, charged and sent when the client has taken the one before it: nothing piles up.
fn paced(steps: Box<dyn Iterator<Item = Played> + Send>, coding: Coding, pace: Duration, till: Till) -> Body {
    let player = Player { steps, encoder: Some(Encoder::new(coding)), pace, till, output_bytes: 0 };
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
        let Ok(step) = step else {
            // hyper throws away what it has not yet written when a body fails.
            tokio::time::sleep(FLUSH_WAIT).await;
            self.encoder = None;
            return Some(Err(BrokenOff));
        };
        let before = tokens(self.output_bytes);
        self.output_bytes += step.output;
        self.till.charge(0, 0, tokens(self.output_bytes) - before);
        Some(Ok(Frame::data(encoder.push(&step.bytes).into())))
    }
}

enum Encoder {
    Identity,
    Gzip(GzEncoder<Vec<u8>>),
    /// HTTP's `deflate` is the zlib format (RFC 9110 §8.4.1.2).
    Deflate(ZlibEncoder<Vec<u8>>),
}

const IN_MEMORY: &str = "compressing into memory does not fail";

impl Encoder {
    fn new(coding: Coding) -> Encoder {
        match coding {
            Coding::Identity => Encoder::Identity,
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
            Coding::Deflate => Encoder::Deflate(ZlibEncoder::new(Vec::new(), Compression::fast())),
        }
    }

    /// All of `bytes`, decodable without what follows.
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Encoder::Identity => bytes.to_vec(),
            Encoder::Gzip(encoder) => {
                encoder.write_all(bytes).and_then(|()| encoder.flush()).expect(IN_MEMORY);
                std::mem::take(encoder.get_mut())
            }
            Encoder::Deflate(encoder) => {
                encoder.write_all(bytes).and_then(|()| encoder.flush()).expect(IN_MEMORY);
                std::mem::take(encoder.get_mut())
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Encoder::Identity => Vec::new(),
            Encoder::Gzip(encoder) => encoder.finish().expect(IN_MEMORY),
            Encoder::Deflate(encoder) => encoder.finish().expect(IN_MEMORY),
        }
    }
}
