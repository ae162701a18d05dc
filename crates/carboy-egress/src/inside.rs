//! The way out for programs of ours that are in no bottle: a chat agent's models, tools and webhooks.
//!
//! ```text
//!  Outbound::send ─▶ HTTP/1 client ═ a pipe in memory ═ connection ─▶ pipeline ─▶ upstream       (as for a bottle)
//!  OutboundAnswer ◀─ HTTP/1 client ═                  ═ answer     ◀─────────────┘
//! ```
//!
//! What differs from a bottle's request is who says which host it is for (the caller, not a captured socket), and that the
//! reason of a refusal reaches the caller beside the answer, where no upstream can write. *Must never* open a socket,
//! leave out a step of the pipeline, or believe a header field about a refusal.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use carboy_core::host::Host;
use carboy_core::ports::{
    Conversation, Errand, Later, Outbound, OutboundAnswer, OutboundBody, OutboundError, OutboundRequest,
};
use carboy_core::verdict::{Denial, Reason};
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use crate::alpn::Offer;
use crate::connection::Flow;
use crate::gateway::Gateway;
use crate::upstream::{Pool, Security};

/// Bytes that the pipe holds in each direction.
const PIPE_BYTES: usize = 64 * 1024;
/// Hosts whose connections are kept open between requests; beyond that all are let go.
const HOSTS_MAX: usize = 64;
/// The port that is not named in `Host`.
const HTTPS_PORT: u16 = 443;

/// What is known of a request of ours besides what it asks for.
#[derive(Default)]
pub(crate) struct Told {
    /// Why it was refused, or its answer cut; the first reason stays.
    reason: OnceLock<Reason>,
    /// For whom it was made.
    pub(crate) conversation: Option<Conversation>,
    /// What it is for.
    errand: Errand,
}

impl Told {
    /// The first reason is what ended it.
    pub(crate) fn set(&self, reason: Reason) {
        let _ = self.reason.set(reason);
    }

    pub(crate) fn errand(&self) -> Errand {
        self.errand
    }

    fn get(&self) -> Option<&Reason> {
        self.reason.get()
    }
}

/// See the module.
struct Inside {
    gateway: Arc<Gateway>,
    pools: Mutex<Pools>,
}

/// Kept connections, of one generation of routes.
#[derive(Default)]
struct Pools {
    generation: u64,
    by_host: HashMap<(Host, u16), Arc<Pool>>,
}

impl Gateway {
    /// The way out through this gateway for programs of ours: each request passes every step that a bottle's does.
    pub fn outbound(self: &Arc<Self>) -> Arc<dyn Outbound> {
        Arc::new(Inside { gateway: self.clone(), pools: Mutex::default() })
    }
}

impl Outbound for Inside {
    fn send(&self, request: OutboundRequest) -> Later<'_, Result<OutboundAnswer, OutboundError>> {
        Box::pin(self.exchange(request))
    }
}

impl Inside {
    async fn exchange(&self, request: OutboundRequest) -> Result<OutboundAnswer, OutboundError> {
        let (host, port) = (request.host.clone(), request.port);
        let (conversation, errand) = (request.conversation.clone(), request.errand);
        let request = written(request)?;
        let Ok(place) = self.gateway.connections.clone().try_acquire_owned() else {
            let detail = format!("{} connections at once", self.gateway.limits.connections_max);
            self.gateway.refuse_connection(&host, port, Denial::new(Reason::LimitReached, detail)).await;
            return Err(OutboundError::Refused(Reason::LimitReached));
        };
        self.gateway.count(|stats| stats.connections += 1);
        let told = Arc::new(Told { conversation, errand, ..Told::default() });
        let pool = self.pool(&host, port);
        let flow = Flow::of_ours(self.gateway.clone(), host, port, pool, told.clone());
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        // Not ended with its client: an answer that was left in the middle is read on for what it cost, and settled.
        tokio::spawn(async move {
            flow.serve(theirs, None).await;
            drop(place);
        });
        let limits = &self.gateway.limits;
        let (mut sender, connection) = http1::Builder::new()
            .max_headers(limits.headers_max)
            .max_header_size(limits.head_bytes_max)
            .handshake::<_, Full<Bytes>>(TokioIo::new(ours))
            .await
            .map_err(|error| OutboundError::NoAnswer(error.to_string()))?;
        let pipe = Pipe(tokio::spawn(connection).abort_handle());
        let response = sender.send_request(request).await.map_err(|error| match told.get() {
            Some(reason) => OutboundError::Refused(*reason),
            None => OutboundError::NoAnswer(error.to_string()),
        })?;
        let (head, body) = response.into_parts();
        let headers = head.headers.iter();
        Ok(OutboundAnswer {
            status: head.status.as_u16(),
            headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value.as_bytes()))).collect(),
            refused: told.get().copied(),
            body: Box::new(Arriving { body: Some(body), told, _sender: sender, _pipe: pipe }),
        })
    }

    /// The connections that are kept for this host. Other routes may not allow it: with a new generation all begin anew.
    fn pool(&self, host: &Host, port: u16) -> Arc<Pool> {
        let generation = self.gateway.routes_known().map_or(0, |routes| routes.generation());
        let mut pools = self.pools.lock().expect("no panic under this lock");
        let key = (host.clone(), port);
        if pools.generation != generation || (pools.by_host.len() >= HOSTS_MAX && !pools.by_host.contains_key(&key)) {
            *pools = Pools { generation, by_host: HashMap::new() };
        }
        // The caller's own leg is this process: nobody is between who could read a credential.
        let open = || Pool::new(Security::Tls, Offer { h1: true, h2: true });
        pools.by_host.entry(key).or_insert_with(open).clone()
    }
}

/// As it goes down the pipe.
fn written(request: OutboundRequest) -> Result<Request<Full<Bytes>>, OutboundError> {
    let OutboundRequest { method, host, port, path, headers, body, conversation: _, errand: _ } = request;
    let name = match &host {
        Host::V6(v6) => format!("[{v6}]"),
        Host::Name(_) | Host::V4(_) => host.to_string(),
    };
    let authority = if port == HTTPS_PORT { name } else { format!("{name}:{port}") };
    let mut written = Request::builder().method(method).uri(path).header(header::HOST, authority);
    for (name, value) in headers {
        let decided_here = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
        if !decided_here.iter().any(|own| name.eq_ignore_ascii_case(own.as_str())) {
            written = written.header(name, value);
        }
    }
    written
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| OutboundError::NoAnswer(format!("the request cannot be written: {error}")))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// Our end of the pipe; dropped, the other end finds it closed, and the exchange ends as when a bottle's client goes away.
struct Pipe(AbortHandle);

impl Drop for Pipe {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A body on its way to the caller.
struct Arriving {
    /// Until its end, or the first error.
    body: Option<Incoming>,
    told: Arc<Told>,
    /// A client without a sender would end the connection at its next pause.
    _sender: http1::SendRequest<Full<Bytes>>,
    _pipe: Pipe,
}

impl Arriving {
    async fn piece(&mut self) -> Option<Result<Vec<u8>, OutboundError>> {
        loop {
            match self.body.as_mut()?.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Some(Ok(data.into())),
                    // Trailers: nobody here reads them.
                    Err(_) => {}
                },
                Some(Err(error)) => {
                    self.body = None;
                    return Some(Err(match self.told.get() {
                        Some(reason) => OutboundError::Refused(*reason),
                        None => OutboundError::BrokeOff(error.to_string()),
                    }));
                }
                None => {
                    self.body = None;
                    return None;
                }
            }
        }
    }
}

impl OutboundBody for Arriving {
    fn next(&mut self) -> Later<'_, Option<Result<Vec<u8>, OutboundError>>> {
        Box::pin(self.piece())
    }
}
