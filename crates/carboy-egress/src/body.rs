//! Request bodies on their way out: a reader that yields only cleared bytes.
//!
//! ```text
//! client ──▶ Incoming ──▶ feed ──▶ StreamScanner ──▶ ready ──▶ upstream
//!                          │ a hit, the limit, silence
//!                          ▼
//!                         Gate ──▶ the exchange is refused, the upstream's stream reset
//! ```
//!
//! *Must never* yield a byte that its scanner has not cleared, and never buffers more than the gate's bytes plus
//! what the scanner holds back.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use carboy_core::finding::Finding;
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::StreamScanner;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use crate::gateway::Gateway;
use crate::limits::GatewayLimits;
use crate::outbound::Scan;
use crate::record::Exchange;
use crate::request::strip_framing;

/// What goes upstream.
pub(crate) enum OutBody {
    /// No body at all.
    Empty,
    /// Scanned as a whole; its share of what such bodies may hold goes with it.
    Whole(Arc<Exchange>, Option<Bytes>, #[expect(dead_code, reason = "held as long as the bytes are")] Share),
    /// Of a request that the gateway makes beside the bottle's: none of its exchange's bytes.
    Aside(Option<Bytes>),
    /// Scanned as it flows.
    Gated(Box<Gated>),
}

/// Bytes of the memory that bodies which are read whole share.
#[derive(Default)]
pub(crate) struct Share(Option<OwnedSemaphorePermit>);

impl Share {
    /// Takes `bytes` more. Nobody waits: bodies that wait for each other's end would wait for ever.
    pub(crate) fn grow(&mut self, gateway: &Gateway, bytes: usize) -> Result<(), Denial> {
        let more = u32::try_from(bytes).ok().and_then(|n| gateway.whole_bytes.clone().try_acquire_many_owned(n).ok());
        let Some(more) = more else {
            let most = gateway.limits.whole_bytes_max;
            let detail = format!("{most} bytes in bodies that are read whole at once");
            return Err(Denial::new(Reason::LimitReached, detail));
        };
        match &mut self.0 {
            Some(share) => share.merge(more),
            None => self.0 = Some(more),
        }
        Ok(())
    }
}

/// Why a body ended early, for hyper; the particulars are in the [`Gate`].
#[derive(Debug, thiserror::Error)]
#[error("the request body was stopped by the gateway")]
pub(crate) struct BodyStopped;

/// Where a body in flight says that it was stopped.
#[derive(Default)]
pub(crate) struct Gate {
    denial: Mutex<Option<Denial>>,
    stopped: Notify,
}

impl Gate {
    fn stop(&self, denial: Denial) {
        self.denial.lock().expect("no panic under this lock").get_or_insert(denial);
        // `notify_one` keeps the word for a waiter that comes later.
        self.stopped.notify_one();
    }

    /// The denial, once there is one.
    pub(crate) fn denial(&self) -> Option<Denial> {
        self.denial.lock().expect("no panic under this lock").clone()
    }

    /// Waits until the body is stopped.
    pub(crate) async fn stopped(&self) -> Denial {
        loop {
            if let Some(denial) = self.denial() {
                return denial;
            }
            self.stopped.notified().await;
        }
    }
}

/// A body that is scanned as it flows.
pub(crate) struct Gated {
    inner: Incoming,
    scanner: StreamScanner,
    scan: Scan,
    ready: VecDeque<Frame<Bytes>>,
    ended: bool,
    /// What was not decided when the body ended, given out at a pause or not: the beginning of a match may go on in the
    /// trailers.
    tail: Bytes,
    /// As `Content-Length` promised, less what was yielded.
    remaining: Option<u64>,
    taken: u64,
    bytes_max: Option<u64>,
    idle: Duration,
    silence: Pin<Box<Sleep>>,
    pause: Duration,
    /// When what the scanner holds back is looked at again: its client may be waiting for an answer to it.
    pause_at: Pin<Box<Sleep>>,
    /// It was since the last piece came.
    paused: bool,
    gate: Arc<Gate>,
    /// Until the routes are closed: then no more leaves, whoever reads the answer or not.
    closing: Pin<Box<dyn Future<Output = Denial> + Send + Sync>>,
}

impl Gated {
    pub(crate) fn new(inner: Incoming, scan: Scan, bytes_max: Option<u64>) -> Gated {
        let (gateway, errand) = (scan.exchange().gateway().clone(), scan.exchange().errand());
        let (idle, pause) = (gateway.limits.body_idle, gateway.limits.gate_pause);
        scan.exchange().sends();
        Gated {
            remaining: inner.size_hint().exact(),
            inner,
            scanner: scan.body_scanner(),
            scan,
            ready: VecDeque::new(),
            ended: false,
            tail: Bytes::new(),
            taken: 0,
            bytes_max,
            idle,
            silence: Box::pin(sleep(idle)),
            pause,
            pause_at: Box::pin(sleep(pause)),
            paused: false,
            gate: Arc::default(),
            closing: Box::pin(async move { gateway.closing_to(errand).await }),
        }
    }

    pub(crate) fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    /// Scans the first bytes before any head goes out. Returns when the gate is full, when the body has ended, or
    /// when it pauses: then the other side may have to speak first, and what was cleared goes on.
    pub(crate) async fn fill(&mut self, limits: &GatewayLimits) -> Result<(), Denial> {
        // A client that promised a short body is going to send it; no dialogue needs it in parts.
        let short = self.remaining.is_some_and(|n| n <= limits.gate_bytes_max as u64);
        let start = Instant::now();
        while !self.ended && self.taken < limits.gate_bytes_max as u64 {
            let until = if short {
                Instant::now() + limits.body_idle
            } else {
                (Instant::now() + limits.gate_pause).min(start + limits.gate_time)
            };
            match timeout_at(until, self.inner.frame()).await {
                Ok(Some(Ok(frame))) => self.feed(frame)?,
                Ok(Some(Err(_))) => return Err(Denial::new(Reason::ProtocolRefused, "the request body broke off")),
                Ok(None) => self.finish()?,
                Err(_) if short => return Err(late(limits.body_idle)),
                Err(_) => break,
            }
        }
        if self.ended && self.remaining.is_none() {
            let held = self.ready.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum();
            let trailers = self.ready.iter().any(Frame::is_trailers);
            self.remaining = (!trailers).then_some(held);
        }
        Ok(())
    }

    fn feed(&mut self, frame: Frame<Bytes>) -> Result<(), Denial> {
        match frame.into_data() {
            Ok(data) => {
                self.taken += data.len() as u64;
                if let Some(max) = self.bytes_max.filter(|max| self.taken > *max) {
                    return Err(Denial::new(Reason::BodyTooLarge, format!("limit {max} bytes")).by(self.scan.rule()));
                }
                let mut out = Vec::with_capacity(data.len());
                let step = self.scanner.push(&data, &mut out);
                self.passed(step.map_err(|stopped| stopped.finding), Bytes::from(out))?;
                if self.inner.is_end_stream() { self.finish() } else { Ok(()) }
            }
            Err(frame) => {
                self.finish()?;
                let Ok(mut trailers) = frame.into_trailers() else { return Ok(()) };
                strip_framing(&mut trailers);
                self.scan.drop_replaced(&mut trailers);
                self.scan.trailers(&self.tail, &mut trailers)?;
                self.ready.push_back(Frame::trailers(trailers));
                Ok(())
            }
        }
    }

    /// Is something held back that was not looked at since it came? Not in a body whose length was promised: that comes
    /// whatever is answered.
    fn waits(&self) -> bool {
        !self.paused && self.remaining.is_none() && self.scanner.held() > 0
    }

    /// In a dialogue the next piece comes when this one was answered: what may leave of what is held back, leaves.
    fn let_go(&mut self) -> Result<(), Denial> {
        self.paused = true;
        let mut out = Vec::new();
        let step = self.scanner.pause_strictly(&mut out);
        self.passed(step.map_err(|stopped| stopped.finding), Bytes::from(out))
    }

    fn finish(&mut self) -> Result<(), Denial> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        let mut out = Vec::new();
        let given = self.scanner.given().to_vec();
        let step = self.scanner.finish(&mut out);
        self.tail = [&given[..], &out].concat().into();
        let out = Bytes::from(out);
        self.passed(step.map_err(|stopped| stopped.finding), out)
    }

    fn passed(&mut self, step: Result<(), Box<Finding>>, out: Bytes) -> Result<(), Denial> {
        self.scan.passed(self.scanner.take_findings());
        step.map_err(|finding| self.scan.refusal(*finding))?;
        if !out.is_empty() {
            self.ready.push_back(Frame::data(out));
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyStopped>>> {
        loop {
            let over = self.ended && self.ready.is_empty();
            if !over && let Poll::Ready(denial) = self.closing.as_mut().poll(cx) {
                return self.stop(denial);
            }
            if let Some(frame) = self.ready.pop_front() {
                if let Some(data) = frame.data_ref() {
                    let length = data.len() as u64;
                    self.scan.exchange().sent.fetch_add(length, Ordering::Relaxed);
                    self.remaining = self.remaining.map(|n| n.saturating_sub(length));
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let step = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let (now, idle, pause) = (Instant::now(), self.idle, self.pause);
                    self.silence.as_mut().reset(now + idle);
                    self.pause_at.as_mut().reset(now + pause);
                    self.paused = false;
                    self.feed(frame)
                }
                Poll::Ready(Some(Err(_))) => {
                    // Its client's doing: behind an answer that is nothing to tell.
                    return self.give_up(Denial::new(Reason::ProtocolRefused, "the request body broke off"));
                }
                Poll::Ready(None) => self.finish(),
                Poll::Pending if self.waits() && self.pause_at.as_mut().poll(cx).is_ready() => self.let_go(),
                Poll::Pending => {
                    ready!(self.silence.as_mut().poll(cx));
                    Err(late(self.idle))
                }
            };
            if let Err(denial) = step {
                return self.stop(denial);
            }
        }
    }

    fn stop(&mut self, denial: Denial) -> Poll<Option<Result<Frame<Bytes>, BodyStopped>>> {
        self.scan.exchange().stopped(&denial);
        self.give_up(denial)
    }

    fn give_up(&mut self, denial: Denial) -> Poll<Option<Result<Frame<Bytes>, BodyStopped>>> {
        self.ended = true;
        self.ready.clear();
        self.gate.stop(denial);
        Poll::Ready(Some(Err(BodyStopped)))
    }
}

impl Drop for Gated {
    /// Sent to its end, or wanted no more.
    fn drop(&mut self) {
        self.scan.exchange().has_sent();
    }
}

impl OutBody {
    /// The bytes of a body that is there as a whole.
    pub(crate) fn whole(&self) -> Option<Bytes> {
        match self {
            OutBody::Whole(_, bytes, _) | OutBody::Aside(bytes) => bytes.clone(),
            OutBody::Empty | OutBody::Gated(_) => None,
        }
    }

    /// Puts other bytes in the place of those of a body that is there as a whole.
    pub(crate) fn replace(&mut self, bytes: Bytes) {
        match self {
            OutBody::Whole(_, own, _) | OutBody::Aside(own) => *own = Some(bytes),
            OutBody::Empty | OutBody::Gated(_) => {}
        }
    }
}

fn late(patience: Duration) -> Denial {
    Denial::new(Reason::LimitReached, format!("the request body paused for more than {patience:?}"))
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = BodyStopped;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyStopped>>> {
        match self.get_mut() {
            OutBody::Empty => Poll::Ready(None),
            OutBody::Whole(exchange, bytes, _) => Poll::Ready(bytes.take().map(|bytes| {
                exchange.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Ok(Frame::data(bytes))
            })),
            OutBody::Aside(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            OutBody::Gated(gated) => gated.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutBody::Empty => true,
            OutBody::Whole(_, bytes, _) | OutBody::Aside(bytes) => bytes.is_none(),
            OutBody::Gated(gated) => gated.ended && gated.ready.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            OutBody::Empty => SizeHint::with_exact(0),
            OutBody::Whole(_, bytes, _) | OutBody::Aside(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            OutBody::Gated(gated) => gated.remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// The trailers of a message that was read as a whole.
pub(crate) fn no_trailers(trailers: Option<&HeaderMap>) -> Result<(), Denial> {
    match trailers {
        Some(trailers) if !trailers.is_empty() => {
            Err(Denial::new(Reason::ProtocolRefused, "trailers after a body that is read whole"))
        }
        Some(_) | None => Ok(()),
    }
}
