//! The upstream connections of one connection from the bottle: one multiplexed h2, or h1 ones that are reused in turn.
//!
//! They are never shared between connections from the bottle: what one of them did cannot be seen by another.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use carboy_core::route::HostPermit;
use carboy_core::verdict::{Denial, Reason};
use http::header::{self, HeaderValue};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::{Dialer, Security, Sender};
use crate::alpn::{Alpn, Offer};
use crate::body::OutBody;

/// Idle h1 connections that are kept; more than one only exist when h2 streams meet an h1 upstream.
const IDLE_MAX: usize = 8;
/// How long a kept h1 connection may take to say that it is free.
const READY_WAIT: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Pool {
    inside: Security,
    offer: Offer,
    open: Mutex<Open>,
    /// Held while dialling, so that concurrent h2 streams share one new connection.
    dialling: AsyncMutex<()>,
}

#[derive(Default)]
struct Open {
    h2: Option<http2::SendRequest<OutBody>>,
    idle: Vec<http1::SendRequest<OutBody>>,
    /// What the early dial ended with; the first request is told.
    failed: Option<Denial>,
}

/// Gives an h1 connection back once its answer was read to the end; dropped before that, the connection ends.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    sender: http1::SendRequest<OutBody>,
}

impl Lease {
    /// The answer is complete: the connection may carry another request.
    pub(crate) fn give_back(self) {
        let mut open = self.pool.open.lock().expect("no panic under this lock");
        if open.idle.len() < IDLE_MAX {
            open.idle.push(self.sender);
        }
    }
}

/// A connection that is ready for one request.
pub(crate) struct Line(Sender);

/// Whether bytes of a request that failed may have left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Not one.
    Nothing,
    /// Some, or all of them.
    Perhaps,
}

/// Why there is no answer.
pub(crate) struct Failure {
    pub(crate) denial: Denial,
    pub(crate) left: Left,
}

impl Failure {
    fn before(denial: Denial) -> Failure {
        Failure { denial, left: Left::Nothing }
    }
}

impl Pool {
    pub(crate) fn new(inside: Security, offer: Offer) -> Arc<Pool> {
        Arc::new(Pool { inside, offer, open: Mutex::default(), dialling: AsyncMutex::new(()) })
    }

    /// The bottle's own leg.
    pub(crate) fn inside(&self) -> Security {
        self.inside
    }

    /// Dials before the first request, so that the client can be told the origin's choice of protocol.
    /// `None`: it could not be reached, and the first request will be told why.
    pub(crate) async fn prepare(&self, dialer: &Dialer, permit: &HostPermit) -> Option<Option<Alpn>> {
        let _one = self.dialling.lock().await;
        let connected = dialer.connect(permit, self.inside, self.offer).await;
        let mut open = self.open.lock().expect("no panic under this lock");
        match connected {
            Ok((Sender::H1(sender), alpn)) => {
                open.idle.push(sender);
                Some(alpn)
            }
            Ok((Sender::H2(sender), alpn)) => {
                open.h2 = Some(sender);
                Some(alpn)
            }
            Err(denial) => {
                open.failed = Some(denial);
                None
            }
        }
    }

    /// A connection that is ready for a request, dialled where none is kept.
    pub(crate) async fn line(&self, dialer: &Dialer, permit: &HostPermit) -> Result<Line, Denial> {
        match self.kept().await {
            Some(sender) => Ok(Line(sender)),
            None => self.fresh(dialer, permit).await.map(Line),
        }
    }

    /// Sends one request and waits for the head of its answer; on `line` first, where there is one.
    pub(super) async fn send(
        self: &Arc<Self>,
        dialer: &Dialer,
        permit: &HostPermit,
        line: Option<Line>,
        mut request: Request<OutBody>,
    ) -> Result<(Response<Incoming>, Option<Lease>), Failure> {
        let mut line = line.map(|line| line.0);
        // A kept connection may have been closed by the upstream meanwhile: hyper hands the request back when not a
        // byte of it was sent, and only then another connection is tried.
        for _ in 0..=IDLE_MAX {
            let sender = match line.take() {
                Some(sender) => sender,
                None => match self.kept().await {
                    Some(sender) => sender,
                    None => break,
                },
            };
            match self.send_on(sender, permit, request).await? {
                Sent::Answered(response, lease) => return Ok((response, lease)),
                Sent::NotSent(back) => request = back,
            }
        }
        let sender = self.fresh(dialer, permit).await.map_err(Failure::before)?;
        match self.send_on(sender, permit, request).await? {
            Sent::Answered(response, lease) => Ok((response, lease)),
            Sent::NotSent(_) => Err(Failure::before(failed(permit, "it closed a new connection at once"))),
        }
    }

    async fn kept(&self) -> Option<Sender> {
        loop {
            let candidate = {
                let mut open = self.open.lock().expect("no panic under this lock");
                match &open.h2 {
                    Some(h2) if h2.is_closed() => {
                        open.h2 = None;
                        continue;
                    }
                    Some(h2) => return Some(Sender::H2(h2.clone())),
                    None => open.idle.pop()?,
                }
            };
            let mut sender = candidate;
            // One that is still busy with an unread request body is not worth waiting for.
            if let Ok(Ok(())) = timeout(READY_WAIT, sender.ready()).await {
                return Some(Sender::H1(sender));
            }
        }
    }

    async fn fresh(&self, dialer: &Dialer, permit: &HostPermit) -> Result<Sender, Denial> {
        let _one = self.dialling.lock().await;
        // While this waited, the early dial or another stream may have got a connection, or an answer why not.
        if let Some(denial) = self.open.lock().expect("no panic under this lock").failed.take() {
            return Err(denial);
        }
        if let Some(sender) = self.kept().await {
            return Ok(sender);
        }
        let connected = dialer.connect(permit, self.inside, self.offer).await;
        let (sender, _) = connected.inspect_err(|_| dialer.alpn.forget(permit.host(), permit.port()))?;
        if let Sender::H2(h2) = &sender {
            self.open.lock().expect("no panic under this lock").h2 = Some(h2.clone());
        }
        Ok(sender)
    }

    async fn send_on(
        self: &Arc<Self>,
        sender: Sender,
        permit: &HostPermit,
        request: Request<OutBody>,
    ) -> Result<Sent, Failure> {
        let (outcome, lease) = match sender {
            Sender::H1(mut sender) => {
                let outcome = sender.try_send_request(request).await;
                (outcome, Some(Lease { pool: self.clone(), sender }))
            }
            Sender::H2(mut sender) => {
                if sender.ready().await.is_err() {
                    return Ok(Sent::NotSent(request));
                }
                (sender.try_send_request(for_h2(request).map_err(Failure::before)?).await, None)
            }
        };
        match outcome {
            Ok(response) => Ok(Sent::Answered(response, lease)),
            Err(mut error) => match error.take_message() {
                Some(request) => Ok(Sent::NotSent(for_h1(request))),
                None => Err(Failure { denial: failed(permit, &describe(error.error())), left: Left::Perhaps }),
            },
        }
    }
}

enum Sent {
    Answered(Response<Incoming>, Option<Lease>),
    NotSent(Request<OutBody>),
}

/// HTTP/2 names scheme and authority in the target; the request carries them as `Host`.
fn for_h2(request: Request<OutBody>) -> Result<Request<OutBody>, Denial> {
    let (mut head, body) = request.into_parts();
    let Some(host) = head.headers.remove(header::HOST) else { return Ok(Request::from_parts(head, body)) };
    let path = head.uri.path_and_query().map_or("/", |target| target.as_str());
    head.uri = Uri::builder()
        .scheme("https")
        .authority(host.as_bytes())
        .path_and_query(path)
        .build()
        .map_err(|error| Denial::new(Reason::HostInvalid, error.to_string()))?;
    Ok(Request::from_parts(head, body))
}

/// The way back, for a request that an h2 connection did not take.
fn for_h1(request: Request<OutBody>) -> Request<OutBody> {
    let (mut head, body) = request.into_parts();
    let authority = head.uri.authority().and_then(|own| HeaderValue::from_str(own.as_str()).ok());
    if let (Some(host), Some(path)) = (authority, head.uri.path_and_query().cloned()) {
        head.headers.insert(header::HOST, host);
        head.uri = Uri::from(path);
    }
    Request::from_parts(head, body)
}

fn failed(permit: &HostPermit, why: &str) -> Denial {
    Denial::new(Reason::UpstreamFailed, format!("{} port {}: {why}", permit.host(), permit.port()))
}

/// hyper's words with their cause.
pub(crate) fn describe(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
