//! A model's interface as the gateway sees it: Anthropic's format, fixed answers, whole or piece by piece.
//!
//! The same is answered behind a path that is metered and behind one that is not, so that the two differ in nothing
//! else. Of every stream it is kept when its last piece was handed to the socket and when the other end was gone.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// The gateway meters what is asked here.
pub const METERED: &str = "/v1/messages";
/// Here it scans as for a model and counts nothing: no endpoint of a model's provider has this name.
pub const UNMETERED: &str = "/v1/messages/bench";
/// How many pieces of text are written; without it the answer comes whole.
pub const EVENTS: &str = "x-bench-events";
/// Microseconds before each piece; without it they come as fast as they go.
pub const PACE_US: &str = "x-bench-pace-us";
/// The output tokens that are billed, where they are not the pieces.
pub const OUTPUT: &str = "x-bench-output";

/// Streams that are kept until somebody asks for them.
const KEPT_MAX: usize = 4096;
const TEXT: &str = "the order of tables was changed after a second review because column widths did not match";

/// What is wanted, by the request's fields.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub events: Option<usize>,
    pace: Duration,
    output: usize,
}

/// When a stream's pieces left, in microseconds since 1970: the only clock that all programs share.
#[derive(Clone, Copy)]
pub struct Seen {
    pub events: usize,
    pub last_us: u64,
    pub ended_us: u64,
    pub whole: bool,
}

/// All streams that ended since somebody asked.
pub type Streams = Arc<Mutex<Vec<Seen>>>;

pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

impl Wanted {
    pub fn of(headers: &HeaderMap) -> Wanted {
        let number = |name: &str| headers.get(name)?.to_str().ok()?.parse::<usize>().ok();
        let events = number(EVENTS);
        let pace = Duration::from_micros(number(PACE_US).unwrap_or(0) as u64);
        Wanted { events, pace, output: number(OUTPUT).or(events).unwrap_or(200) }
    }
}

/// An answer that comes whole, of about a KiB.
pub fn whole(wanted: Wanted) -> Bytes {
    let text = [TEXT; 8].join(" ");
    let output = wanted.output;
    Bytes::from(format!(
        r#"{{"id":"msg_bench","type":"message","role":"assistant","model":"bench-1","content":[{{"type":"text","text":"{text}"}}],"stop_reason":"end_turn","stop_sequence":null,"usage":{{"input_tokens":300,"output_tokens":{output}}}}}"#
    ))
}

/// All pieces of a stream, each made when it is its turn: hundreds of thousands of them would take their time to be thrown
/// away, just when it is measured how fast that goes.
pub fn pieces(events: usize, output: usize) -> impl Iterator<Item = Bytes> + Send {
    let message = r#""message":{"id":"msg_bench","type":"message","role":"assistant","model":"bench-1","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":300,"output_tokens":1}}"#;
    let begin = [
        event("message_start", message),
        event("content_block_start", r#""index":0,"content_block":{"type":"text","text":""}"#),
    ];
    let words = TEXT.split_inclusive(' ').cycle().take(events);
    let deltas = words.map(|word| {
        event("content_block_delta", &format!(r#""index":0,"delta":{{"type":"text_delta","text":"{word}"}}"#))
    });
    let delta =
        format!(r#""delta":{{"stop_reason":"end_turn","stop_sequence":null}},"usage":{{"output_tokens":{output}}}"#);
    let end = [event("content_block_stop", r#""index":0"#), event("message_delta", &delta), event("message_stop", "")];
    begin.into_iter().chain(deltas).chain(end)
}

fn event(kind: &str, rest: &str) -> Bytes {
    let comma = if rest.is_empty() { "" } else { "," };
    Bytes::from(format!("event: {kind}\ndata: {{\"type\":\"{kind}\"{comma}{rest}}}\n\n"))
}

/// A stream on its way.
pub struct Events {
    left: Box<dyn Iterator<Item = Bytes> + Send>,
    pace: Option<Interval>,
    seen: Seen,
    streams: Streams,
}

impl Events {
    pub fn new(wanted: Wanted, events: usize, streams: Streams) -> Events {
        let pace = (!wanted.pace.is_zero()).then(|| {
            let mut pace = interval(wanted.pace);
            // Late pieces do not catch up: each is an event of its own, as a model writes them.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        let seen = Seen { events: 0, last_us: 0, ended_us: 0, whole: false };
        Events { left: Box::new(pieces(events, wanted.output)), pace, seen, streams }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_tick(cx));
        }
        let Some(piece) = self.left.next() else {
            self.seen.whole = true;
            return Poll::Ready(None);
        };
        self.seen.events += 1;
        self.seen.last_us = now_us();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.seen.ended_us = now_us();
        let mut streams = self.streams.lock().expect("no panic under this lock");
        if streams.len() < KEPT_MAX {
            streams.push(self.seen);
        }
    }
}
