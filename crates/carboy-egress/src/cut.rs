//! Where an answer comes from, and who may shut it at any moment.
//!
//! ```text
//!  upstream ──▶ Tap ──▶ answer/stream ──▶ client
//!                ▲
//!                └── Gateway::cut_off: the upstream's body is dropped there and then, whoever reads slowly or not at all
//! ```
//!
//! A body is in work where its client's connection is driven, and a client that does not read stops that. So what has to
//! end an answer takes its source away instead of waiting for it to be asked for. *Must never* leave a source open
//! after the gateway was shut: each tap is entered before it looks whether it may be open.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use carboy_core::ids::RefusalId;
use carboy_core::verdict::Denial;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::gateway::{Gateway, refusal_id};
use crate::record::Exchange;
use crate::upstream::Lease;

/// All open taps of a gateway, by the number of their request; no more than requests may be in work at once.
#[derive(Default)]
pub(crate) struct Taps(Mutex<HashMap<u64, Arc<Mutex<Source>>>>);

/// The body of one answer.
pub(crate) struct Tap {
    number: u64,
    gateway: Arc<Gateway>,
    source: Arc<Mutex<Source>>,
}

struct Source {
    body: Option<Incoming>,
    /// The h1 connection that the body comes from.
    lease: Option<Lease>,
    shut: Option<Denial>,
    waker: Option<Waker>,
    /// Since when nobody has asked for more, although there may be some. `None` while more is waited for.
    unasked: Option<Instant>,
}

/// What came out of a tap.
pub(crate) enum Flowed {
    /// A piece of the body.
    Frame(Frame<Bytes>),
    /// The end of it.
    End,
    /// It broke off.
    Broken(hyper::Error),
    /// It was shut.
    Shut(Denial),
}

const UNPOISONED: &str = "no panic under this lock";

impl Taps {
    /// Has this answer's client taken nothing of it for so long?
    pub(crate) fn is_unread(&self, number: u64, most: Duration) -> bool {
        let source = self.0.lock().expect(UNPOISONED).get(&number).cloned();
        let unasked = source.and_then(|source| source.lock().expect(UNPOISONED).unasked);
        unasked.is_some_and(|since| since.elapsed() >= most)
    }

    /// Shuts every tap. The upstreams' streams end with this call.
    pub(crate) fn shut(&self, denial: &Denial) {
        let open: Vec<_> = self.0.lock().expect(UNPOISONED).values().cloned().collect();
        for source in open {
            source.lock().expect(UNPOISONED).shut(denial);
        }
    }
}

impl Source {
    fn shut(&mut self, denial: &Denial) {
        self.shut.get_or_insert_with(|| denial.clone());
        (self.body, self.lease) = (None, None);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Tap {
    /// Opens one; it is shut at once where the gateway is.
    pub(crate) fn open(exchange: &Exchange, body: Incoming, lease: Option<Lease>) -> Tap {
        let (gateway, number) = (exchange.gateway(), exchange.number());
        let source = Arc::new(Mutex::new(Source {
            body: Some(body),
            lease,
            shut: None,
            waker: None,
            unasked: Some(Instant::now()),
        }));
        let tap = Tap { number, gateway: gateway.clone(), source };
        gateway.taps.0.lock().expect(UNPOISONED).insert(number, tap.source.clone());
        if let Some(denial) = gateway.closed_to(exchange.errand()) {
            tap.source().shut(&denial);
        }
        tap
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().expect(UNPOISONED)
    }

    /// The next piece.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Flowed> {
        let mut source = self.source();
        source.unasked = Some(Instant::now());
        if let Some(denial) = &source.shut {
            return Poll::Ready(Flowed::Shut(denial.clone()));
        }
        let Some(body) = source.body.as_mut() else { return Poll::Ready(Flowed::End) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Flowed::Frame(frame)),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Flowed::Broken(error)),
            Poll::Ready(None) => Poll::Ready(Flowed::End),
            Poll::Pending => {
                source.unasked = None;
                if !source.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    source.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Nothing more will come, as far as is known without asking.
    pub(crate) fn is_at_its_end(&self) -> bool {
        self.source().body.as_ref().is_some_and(Body::is_end_stream)
    }

    /// The answer is complete: its connection may carry the next request.
    pub(crate) fn done(&mut self) {
        let lease = self.source().lease.take();
        lease.into_iter().for_each(Lease::give_back);
    }

    /// Ends it from this side; what comes back is the rest of the body, if it is still there.
    pub(crate) fn close(&mut self) -> Option<Incoming> {
        let mut source = self.source();
        source.lease = None;
        source.body.take()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.gateway.taps.0.lock().expect(UNPOISONED).remove(&self.number);
    }
}

impl Exchange {
    /// The end of an exchange whose head is out already: written down as [`refuse`](Self::refuse) does, under this id.
    pub(crate) fn cut_off(self: &Arc<Self>, denial: Denial) -> RefusalId {
        self.tell(denial.reason); // before its body breaks off
        let id = refusal_id();
        let (exchange, under) = (self.clone(), id.clone());
        tokio::spawn(async move { exchange.refuse(denial, &under).await });
        id
    }
}

impl Gateway {
    /// Closes every route, and says so: each request is refused with `denial` in the form of its client's protocol, a model's
    /// stream on its way is ended as its protocol ends, with the denial's words in it, every other answer breaks off. Nothing
    /// is dialled any more. [`restore`](Self::restore) opens the routes again.
    pub fn cut_off(&self, denial: Denial) {
        self.close(&denial);
        self.taps.shut(&denial);
    }
}
