//! A gRPC service: each message comes back as it arrives, and trailers say how the call ended.
//!
//! ```text
//! POST /carboy.sim.Echo/Echo     one message back for each
//! POST /carboy.sim.Echo/Repeat   three for each
//! POST /carboy.sim.Echo/Fail     no message, and a status in the head (a response of trailers alone)
//! ```
//!
//! Its messages are octets and nothing more, so that a client needs no generated code. *Must never* hold a message back
//! until the next one: both ends of a call may be waiting for each other.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::faults::WAIT_MAX;
use crate::playback::{Body, BrokenOff};
use crate::record::Open;

/// Where its methods are.
const SERVICE: &str = "/carboy.sim.Echo/";
/// Largest message that is taken, as gRPC's own libraries have it.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A flag and a length stand before each message.
const PREFIX_BYTES: usize = 5;
/// Longest wait for the next message.
const READ_WAIT_MAX: Duration = WAIT_MAX;
/// `RESOURCE_EXHAUSTED`
const TOO_LARGE: &str = "8";
/// `FAILED_PRECONDITION`
const FAILED: &str = "9";

/// Is this a call of its methods?
pub(crate) fn is_wanted(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.starts_with(b"application/grpc") && request.uri().path().starts_with(SERVICE)
}

/// The answer, whose body flows as the request's does.
pub(crate) fn answer(request: Request<Incoming>, open: Open) -> Response<Body> {
    let times = match request.uri().path().strip_prefix(SERVICE) {
        Some("Echo") => Some(1),
        Some("Repeat") => Some(3),
        Some(_) | None => None,
    };
    let mut response = match times {
        Some(times) => {
            let call = Call { body: request.into_body(), open, held: BytesMut::new(), times, back: 0, over: false };
            Response::new(StreamBody::new(stream::unfold(call, Call::next)).boxed_unsync())
        }
        None => {
            let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
            response.headers_mut().extend(status(FAILED, "the call fails, as it was asked to"));
            response
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().insert("x-simulated", HeaderValue::from_static("carboy-sim"));
    response
}

/// One call under way.
struct Call {
    body: Incoming,
    open: Open,
    held: BytesMut,
    times: usize,
    /// Messages that went back.
    back: u64,
    over: bool,
}

impl Call {
    /// The next frame of the answer.
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, BrokenOff>, Call)> {
        loop {
            if self.over {
                return None;
            }
            if let Some(message) = self.message() {
                self.back += self.times as u64;
                return Some((Ok(Frame::data(message.repeat(self.times).into())), self));
            }
            if self.held.len() > MESSAGE_BYTES_MAX {
                return Some(self.end(TOO_LARGE, "the message is larger than 4 MiB"));
            }
            match tokio::time::timeout(READ_WAIT_MAX, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.open.push(data);
                        self.held.extend_from_slice(data);
                    }
                }
                Ok(None) => return Some(self.end("0", "")),
                Ok(Some(Err(_))) | Err(_) => {
                    self.over = true;
                    return Some((Err(BrokenOff), self));
                }
            }
        }
    }

    /// A whole message with its prefix, if it is there.
    fn message(&mut self) -> Option<Bytes> {
        let length = self.held.get(1..PREFIX_BYTES)?.get_u32() as usize;
        (self.held.len() - PREFIX_BYTES >= length).then(|| self.held.split_to(PREFIX_BYTES + length).freeze())
    }

    fn end(mut self, code: &'static str, words: &'static str) -> (Result<Frame<Bytes>, BrokenOff>, Call) {
        self.over = true;
        let mut trailers = status(code, words);
        trailers.insert("x-messages", HeaderValue::from(self.back));
        (Ok(Frame::trailers(trailers)), self)
    }
}

fn status(code: &'static str, words: &'static str) -> HeaderMap {
    [("grpc-status", code), ("grpc-message", words)]
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
        .into_iter()
        .collect()
}
