//! The answer's body as the client reads it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use carboy_core::audit::Outcome;
use carboy_core::finding::{Finding, Severity};
use carboy_core::ids::{RefusalId, RouteId};
use carboy_core::verdict::{Denial, Layer, Reason};
use carboy_guard::{Inflate, InjectionScanner, ScanPlan, StreamScanner};
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::redact_fields;
use crate::cut::{Flowed, Tap};
use crate::inject::Rest;
use crate::metering::{End, Metered};
use crate::outbound::denial_of;
use crate::request::strip_framing;
use crate::speaks::Speaks;
use crate::upstream::Lease;

/// Pieces that are decoded before other tasks get a turn.
const STEPS_PER_POLL: usize = 16;

/// What a found injection does.
pub(crate) enum Judge {
    /// Not looked for.
    None,
    /// It is written down (model streams: the text is the model's own, and nothing may be held).
    Warn(Box<InjectionScanner>),
    /// The stream ends.
    Cut(Box<InjectionScanner>),
    /// The first bytes are held until judged; later the stream ends.
    Hold(Box<InjectionScanner>),
}

impl Judge {
    fn scanner(&mut self) -> Option<&mut InjectionScanner> {
        match self {
            Judge::None => None,
            Judge::Warn(scanner) | Judge::Cut(scanner) | Judge::Hold(scanner) => Some(scanner),
        }
    }

    /// A finding that has to stop the answer.
    fn stops(&self) -> Option<Finding> {
        match self {
            Judge::None | Judge::Warn(_) => None,
            Judge::Cut(scanner) | Judge::Hold(scanner) => {
                scanner.verdict().filter(|finding| finding.severity == Severity::Block)
            }
        }
    }
}

/// The stages that the body passes.
pub(crate) struct Sieve {
    pub(crate) inflate: Option<Inflate>,
    /// The client gets the decoded text.
    pub(crate) plain: bool,
    pub(crate) plan: ScanPlan,
    pub(crate) scanner: StreamScanner,
    pub(crate) parts: Parts,
    pub(crate) judge: Judge,
}

/// What counts as one text to the scanner. It holds back the last few bytes of a text that may still become a match,
/// and nothing that is complete may be held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    /// The whole body. When it pauses, what is held back is let go, but for more than a few characters of a secret:
    /// whoever makes the upstream echo its credential also chooses where the pauses of TCP fall in it.
    One,
    /// Each server-sent event is a text of its own, complete at its blank line.
    Events,
}

/// Why an answer ended early, for hyper; the log has the particulars.
#[derive(Debug, thiserror::Error)]
#[error("the answer was stopped by the gateway")]
pub(crate) struct Broken;

/// A body that may be given to the client.
pub(crate) enum Screened {
    /// A refusal's text.
    Text(Option<Bytes>),
    /// An answer without a body.
    Empty,
    /// An upstream's body.
    Live(Box<Live>),
}

/// An upstream's body on its way in.
pub(crate) struct Live {
    tap: Tap,
    sieve: Sieve,
    /// Until the ledger is told what it cost.
    metered: Option<Metered>,
    rule: RouteId,
    /// The piece that is being decoded, and all of it, for a client that gets the original.
    rest: Bytes,
    whole: Bytes,
    busy: bool,
    ready: VecDeque<Frame<Bytes>>,
    held: usize,
    ended: bool,
    /// The log has its end already.
    told: bool,
    exact: Option<u64>,
    idle: Duration,
    silence: Pin<Box<Sleep>>,
    /// When held bytes are let go.
    flush_at: Pin<Box<Sleep>>,
    of: Rest,
}

impl Screened {
    pub(crate) fn text(bytes: Bytes) -> Screened {
        Screened::Text(Some(bytes))
    }

    pub(crate) fn new(
        inner: Incoming,
        sieve: Sieve,
        metered: Option<Metered>,
        of: Rest,
        lease: Option<Lease>,
    ) -> Screened {
        let gateway = of.exchange.gateway();
        let idle = gateway.limits.body_idle;
        let keeps_length =
            (sieve.inflate.is_none() || !sieve.plain) && !metered.as_ref().is_some_and(Metered::changes_length);
        Screened::Live(Box::new(Live {
            exact: if keeps_length { inner.size_hint().exact() } else { None },
            tap: Tap::open(&of.exchange, inner, lease),
            sieve,
            metered,
            rule: of.route.route().id.clone(),
            rest: Bytes::new(),
            whole: Bytes::new(),
            busy: false,
            ready: VecDeque::new(),
            held: 0,
            ended: false,
            told: false,
            idle,
            silence: Box::pin(sleep(idle)),
            flush_at: Box::pin(sleep(idle)),
            of,
        }))
    }

    /// Reads ahead where injection has to be judged before the head goes on.
    pub(crate) async fn hold(&mut self) -> Result<(), Denial> {
        let Screened::Live(live) = self else { return Ok(()) };
        let Judge::Hold(_) = live.sieve.judge else { return Ok(()) };
        let limits = live.of.exchange.gateway().limits.clone();
        let until = Instant::now() + limits.hold_time;
        while !live.ended && live.held < limits.gate_bytes_max {
            match timeout_at(until, std::future::poll_fn(|cx| live.advance(cx))).await {
                Ok(step) => step?,
                // A slow source is passed on as far as it was judged; a later hit ends it.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

impl Live {
    /// One step: a frame from the upstream, or another piece of the last one. Ready when something changed.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Denial>> {
        if self.busy {
            return Poll::Ready(self.decode());
        }
        // The request's body may be stopped while its answer already flows.
        if let Some(denial) = self.of.gate.denial() {
            return Poll::Ready(Err(denial));
        }
        if let Some(metered) = &mut self.metered {
            ready!(metered.poll_room(cx))?;
        }
        match self.tap.poll(cx) {
            Poll::Ready(Flowed::Frame(frame)) => {
                let (now, idle) = (Instant::now(), self.idle);
                self.silence.as_mut().reset(now + idle);
                let step = self.take(frame);
                if self.sieve.scanner.releasable() > 0 {
                    self.flush_at.as_mut().reset(now + self.of.exchange.gateway().limits.flush_pause);
                }
                Poll::Ready(step)
            }
            Poll::Ready(Flowed::Broken(error)) => {
                Poll::Ready(Err(Denial::new(Reason::UpstreamFailed, format!("its answer broke off: {error}"))))
            }
            Poll::Ready(Flowed::Shut(denial)) => Poll::Ready(Err(denial)),
            Poll::Ready(Flowed::End) => Poll::Ready(self.finish()),
            Poll::Pending if self.sieve.scanner.releasable() > 0 && self.flush_at.as_mut().poll(cx).is_ready() => {
                let mut out = Vec::new();
                let step = self.sieve.scanner.release(&mut out);
                Poll::Ready(self.pass(step.map_err(|stopped| stopped.finding), out))
            }
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(cx));
                let detail = format!("its answer paused for more than {:?}", self.idle);
                Poll::Ready(Err(Denial::new(Reason::UpstreamFailed, detail)))
            }
        }
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Denial> {
        match frame.into_data() {
            Ok(data) if self.sieve.inflate.is_some() => {
                self.whole = data.clone();
                self.rest = data;
                self.busy = true;
                self.decode()
            }
            Ok(data) => {
                if let Some(metered) = &mut self.metered {
                    metered.read(&data);
                }
                let mut out = Vec::with_capacity(data.len());
                let step = self.sieve.scanner.push(&data, &mut out);
                self.pass(step.map_err(|stopped| stopped.finding), out)?;
                self.end_of_event(&data)?;
                // A reader that counts bytes does not come back for the end.
                if self.tap.is_at_its_end() { self.finish() } else { Ok(()) }
            }
            Err(frame) => {
                self.finish()?;
                if let Ok(mut trailers) = frame.into_trailers() {
                    strip_framing(&mut trailers);
                    redact_fields(&mut trailers, &self.of.exchange);
                    self.ready.push_back(Frame::trailers(trailers));
                }
                Ok(())
            }
        }
    }

    /// Decodes a bounded piece of what is there.
    fn decode(&mut self) -> Result<(), Denial> {
        let Some(inflate) = self.sieve.inflate.as_mut() else { return Ok(()) };
        let mut decoded = Vec::new();
        let step = inflate
            .push(&self.rest, &mut decoded)
            .map_err(|error| Denial::new(Reason::UpstreamFailed, error.to_string()))?;
        self.rest.advance(step.consumed);
        self.busy = step.more;
        if let Some(metered) = &mut self.metered {
            metered.read(&decoded);
        }
        let mut out = Vec::with_capacity(decoded.len());
        let scanned = self.sieve.scanner.push(&decoded, &mut out);
        self.pass(scanned.map_err(|stopped| stopped.finding), out)?;
        self.end_of_event(&decoded)?;
        if !self.busy && !self.sieve.plain {
            let whole = std::mem::take(&mut self.whole);
            self.queue(whole);
        }
        if !self.busy && self.tap.is_at_its_end() { self.finish() } else { Ok(()) }
    }

    fn end_of_event(&mut self, newest: &[u8]) -> Result<(), Denial> {
        match self.sieve.parts {
            Parts::Events if newest.ends_with(b"\n\n") || newest.ends_with(b"\r\n\r\n") => self.flush(),
            Parts::Events | Parts::One => Ok(()),
        }
    }

    /// Ends the scanner's text here and begins another one.
    fn flush(&mut self) -> Result<(), Denial> {
        if self.sieve.scanner.held() == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        let step = self.sieve.scanner.finish(&mut out);
        self.pass(step.map_err(|stopped| stopped.finding), out)?;
        let detectors = self.of.exchange.gateway().detectors();
        self.sieve.scanner = StreamScanner::new(detectors, self.sieve.plan.clone());
        Ok(())
    }

    /// Takes what the scanner cleared, judges it, and queues it where the client gets it.
    fn pass(&mut self, step: Result<(), Box<Finding>>, out: Vec<u8>) -> Result<(), Denial> {
        let findings = self.sieve.scanner.take_findings();
        self.of.exchange.found(findings, true);
        step.map_err(|finding| self.refusal(*finding))?;
        if let Some(injection) = self.sieve.judge.scanner() {
            injection.push(&out);
        }
        if let Some(finding) = self.sieve.judge.stops() {
            return Err(self.refusal(finding));
        }
        if self.sieve.plain || self.sieve.inflate.is_none() {
            let shown = match &mut self.metered {
                Some(metered) => metered.shown(Bytes::from(out)),
                None => Bytes::from(out),
            };
            self.queue(shown);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Denial> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        if let Some(inflate) = self.sieve.inflate.as_mut() {
            inflate.finish().map_err(|error| Denial::new(Reason::UpstreamFailed, error.to_string()))?;
        }
        let mut out = Vec::new();
        let step = self.sieve.scanner.finish(&mut out);
        self.pass(step.map_err(|stopped| stopped.finding), out)?;
        if let Some(injection) = self.sieve.judge.scanner() {
            injection.finish();
        }
        if let Some(finding) = self.sieve.judge.stops() {
            return Err(self.refusal(finding));
        }
        let seen = self.sieve.judge.scanner().and_then(|injection| injection.verdict());
        self.of.exchange.found(seen.into_iter().collect(), false);
        if let Some(mut metered) = self.metered.take() {
            self.queue(metered.rest());
            metered.end(End::Whole);
        }
        // Complete: the connection may carry the next request.
        self.tap.done();
        Ok(())
    }

    /// Ends it before its end: by the client's protocol where there is one and the gateway wants it so, else it breaks off.
    /// The log has the reason.
    fn stop(&mut self, denial: Denial) -> Result<(), Broken> {
        (self.ended, self.told) = (true, true);
        self.tap.close();
        // An answer that broke off by itself is its client's to ask for again; one that is cut is not.
        let cut = denial.decided_by == Layer::Budget || denial.reason == Reason::Stopping;
        let closing = match self.metered.take() {
            // A program of ours is told the reason itself; the gateway's words are not to be taken for the model's.
            Some(metered) if cut => metered.cut(&denial).filter(|_| !self.of.exchange.is_ours()),
            Some(metered) => {
                metered.end(End::Broken);
                None
            }
            None => None,
        };
        let id = self.of.exchange.cut_off(denial.clone());
        match (closing, self.of.exchange.speaks()) {
            (Some(closing), _) => self.queue(closing),
            // A call of gRPC has its status behind its messages.
            (None, Speaks::Grpc) => self.ready.push_back(Frame::trailers(self.last_words(denial, &id))),
            (None, Speaks::Http(..)) => return Err(Broken),
        }
        Ok(())
    }

    fn last_words(&self, mut denial: Denial, id: &RefusalId) -> HeaderMap {
        denial.detail = self.of.exchange.gateway().clean(&denial.detail);
        let fields = carboy_wire::denial::grpc(&denial, id).headers.into_iter();
        fields.filter_map(|(name, value)| Some((HeaderName::from_static(name), value.parse().ok()?))).collect()
    }

    fn over(&mut self) {
        if !self.told {
            self.of.exchange.end(Outcome::Done);
        }
    }

    fn queue(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.held += bytes.len();
            self.ready.push_back(Frame::data(bytes));
        }
    }

    fn refusal(&self, finding: Finding) -> Denial {
        let denial = denial_of(&finding, &self.rule);
        self.of.exchange.found(vec![finding], false);
        denial
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        for _ in 0..STEPS_PER_POLL {
            if let Some(frame) = self.ready.pop_front() {
                if let Some(data) = frame.data_ref() {
                    let length = data.len() as u64;
                    self.of.exchange.received.fetch_add(length, Ordering::Relaxed);
                    self.exact = self.exact.map(|n| n.saturating_sub(length));
                }
                if self.ended && self.ready.is_empty() {
                    self.over();
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                self.over();
                return Poll::Ready(None);
            }
            if let Err(denial) = ready!(self.advance(cx)) {
                self.stop(denial)?;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Live {
    /// The client went away before the end.
    fn drop(&mut self) {
        if let Some(metered) = self.metered.take() {
            metered.gone(self.tap.close(), self.sieve.inflate.take(), std::mem::take(&mut self.rest));
        }
    }
}

impl Body for Screened {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Screened::Text(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Screened::Empty => Poll::Ready(None),
            Screened::Live(live) => live.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Screened::Text(bytes) => bytes.is_none(),
            Screened::Empty => true,
            Screened::Live(live) => live.ended && live.ready.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Screened::Text(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            // No hint: to a HEAD the head's own Content-Length is the answer.
            Screened::Empty => SizeHint::default(),
            Screened::Live(live) => live.exact.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
