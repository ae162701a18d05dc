//! A turn as server-sent events: its log, read from where the client stands.
//!
//! *Must never* buffer for a slow client: an event is made when the connection takes it.

use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Response};
use tokio::sync::watch;
use tokio::time::timeout;

use super::turns::{Event, Reading};

/// Silence after which a comment is sent, so that proxies keep the connection.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// A comment that says nothing.
const STILL_HERE: &str = ": still here\n\n";

/// The answer that streams a turn's events from `place` on.
pub(super) fn answer(reading: Reading, place: usize) -> Response<Body> {
    let reader = Reader { grown: reading.turn.grown(), reading, place, ended: false };
    let events = futures_util::stream::unfold(reader, |mut reader| async move {
        let text = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), reader))
    });
    let mut answer = Response::new(Body::from_stream(events));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // nginx would keep sentences back until its buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
}

/// Where a client that comes back stands: after the event that it names.
pub(super) fn place(headers: &HeaderMap) -> usize {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<usize>().ok());
    last.map_or(0, |last| last.saturating_add(1))
}

struct Reader {
    reading: Reading,
    grown: watch::Receiver<(usize, bool)>,
    place: usize,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let (count, ended) = *self.grown.borrow_and_update();
        // Who names an event that never was gets the last one again, which has the whole reply.
        let place = if ended { self.place.min(count.saturating_sub(1)) } else { self.place };
        if let Some(event) = self.reading.turn.event(place) {
            self.place = place + 1;
            self.ended = matches!(event, Event::Done(..) | Event::Failed(_));
            return Some(text(place, &event));
        }
        match timeout(HEARTBEAT, self.grown.changed()).await {
            // What grew is read at the next call; an empty piece would end the body.
            Ok(_) => Box::pin(self.next()).await,
            Err(_) => Some(STILL_HERE.to_owned()),
        }
    }
}

/// JSON has no line feed outside its texts' escapes, so one `data` line holds it.
fn text(place: usize, event: &Event) -> String {
    format!("id: {place}\nevent: {}\ndata: {}\n\n", event.name(), event.json())
}
