//! The kinds of requests: what is sent, and what has to come back.

use bytes::Bytes;
use http::Method;

use crate::{Failure, content, model};

/// A kind of request.
#[derive(Clone)]
pub struct Shape {
    pub method: Method,
    pub path: &'static str,
    pub fields: Vec<(&'static str, String)>,
    pub body: Bytes,
    pub expected: Expected,
}

/// What makes an answer the whole one.
#[derive(Clone, Copy)]
pub enum Expected {
    /// So many bytes.
    Bytes(usize),
    /// These bytes, near its end.
    Near(&'static str),
}

/// Bytes of an answer's end in which [`Expected::Near`] is looked for.
const END_BYTES: usize = 512;

/// An answer as far as it came.
#[derive(Default)]
pub struct Arrived {
    bytes: usize,
    end: Vec<u8>,
}

impl Arrived {
    pub fn add(&mut self, piece: &[u8], expected: Expected) {
        self.bytes += piece.len();
        if let Expected::Near(_) = expected {
            self.end.extend_from_slice(&piece[piece.len().saturating_sub(END_BYTES)..]);
            self.end.drain(..self.end.len().saturating_sub(END_BYTES));
        }
    }

    pub fn check(&self, expected: Expected) -> Result<(), Failure> {
        let found = match expected {
            Expected::Bytes(bytes) => self.bytes == bytes,
            Expected::Near(text) => self.end.windows(text.len()).any(|part| part == text.as_bytes()),
        };
        if found { Ok(()) } else { Err(format!("an answer of {} bytes is not the whole one", self.bytes).into()) }
    }
}

impl Shape {
    pub fn named(name: &str) -> Result<Shape, Failure> {
        let (small, large) = (content::json(content::SMALL_BYTES), content::json(content::LARGE_BYTES));
        let page = |method, path, body, answer: &Bytes| Shape {
            method,
            path,
            fields: Vec::new(),
            body,
            expected: Expected::Bytes(answer.len()),
        };
        Ok(match name {
            "get" => page(Method::GET, "/small", Bytes::new(), &small),
            "get-100k" => page(Method::GET, "/large", Bytes::new(), &large),
            "post" => page(Method::POST, "/small", small.clone(), &small),
            "post-100k" => page(Method::POST, "/small", large, &small),
            "chat" => chat(false),
            "chat-stream" => chat(true),
            "answer" => answer(model::METERED),
            "answer-free" => answer(model::UNMETERED),
            "stream" => stream(model::METERED, 100, 0),
            "stream-free" => stream(model::UNMETERED, 100, 0),
            "long-stream" => stream(model::METERED, 1000, 0),
            "long-stream-free" => stream(model::UNMETERED, 1000, 0),
            "paced-stream" => stream(model::METERED, 1000, 2000),
            "paced-stream-free" => stream(model::UNMETERED, 1000, 2000),
            _ => return Err(format!("no shape `{name}`").into()),
        })
    }
}

fn answer(path: &'static str) -> Shape {
    let headers = http::HeaderMap::new();
    let expected = Expected::Bytes(model::whole(model::Wanted::of(&headers)).len());
    Shape { method: Method::POST, path, fields: Vec::new(), body: content::json(content::SMALL_BYTES), expected }
}

/// A stream of so many pieces, one every so many microseconds.
pub fn stream(path: &'static str, events: usize, pace_us: u64) -> Shape {
    let mut fields = vec![(model::EVENTS, events.to_string())];
    if pace_us > 0 {
        fields.push((model::PACE_US, pace_us.to_string()));
    }
    let bytes = model::pieces(events, events).map(|piece| piece.len()).sum();
    let body = content::streamed(content::json(content::SMALL_BYTES));
    Shape { method: Method::POST, path, fields, body, expected: Expected::Bytes(bytes) }
}

fn chat(streams: bool) -> Shape {
    let (body, expected) = if streams {
        (content::streamed(content::json(content::SMALL_BYTES)), Expected::Near("[DONE]"))
    } else {
        (content::json(content::SMALL_BYTES), Expected::Near("completion_tokens"))
    };
    Shape { method: Method::POST, path: "/v1/chat/completions", fields: Vec::new(), body, expected }
}
