//! Messages from one leg to the other, until either ends, the routes are closed, or something does not pass.
//!
//! *Must never* read on from the upstream while what is held is used up, or wait for a client that does not read once the
//! routes are closed: the upstream's connection goes first.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use carboy_core::audit::Outcome;
use carboy_core::finding::{Detector, Location, Severity};
use carboy_core::route::RoutePermit;
use carboy_core::verdict::{Denial, Reason};
use carboy_guard::InjectionScanner;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::drawn::{Account, Drawn};
use super::responses::{Next, Responses};
use crate::gateway::{Gateway, refusal_id};
use crate::outbound::{Scan, denial_of};
use crate::record::Exchange;
use crate::reserve::Target;

/// Largest message, in octets, its fragments together.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest silence on both legs; providers end a WebSocket after an hour.
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);
/// How long either side may take to read what ends the connection.
const CLOSING_WAIT_MAX: Duration = Duration::from_millis(250);
/// Longest reason of a close, in octets (RFC 6455, section 5.5: 125 with the code).
const REASON_BYTES_MAX: usize = 123;

type Socket = WebSocketStream<Drawn<TokioIo<Upgraded>>>;

/// A WebSocket that both legs have agreed to.
pub(super) struct Relayed {
    pub(super) exchange: Arc<Exchange>,
    pub(super) scan: Scan,
    pub(super) route: RoutePermit,
    /// What its messages are booked to, where they cost.
    pub(super) metered: Option<Arc<Target>>,
}

/// Why it ends.
enum Over {
    /// A side closed it, with this code.
    Closed(Side, Option<CloseCode>),
    /// A side went away, or does not read.
    Gone(Side),
    /// The upstream's message is too large, or no message at all; or one of ours would be none.
    Unreadable(CloseCode),
    /// The same of the client's: it is refused like a request that is none.
    Refused(CloseCode, Denial),
    /// The gateway ends it.
    Cut(Denial),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// Both legs, and what is known of what they carry.
struct Relay {
    exchange: Arc<Exchange>,
    scan: Scan,
    client: Socket,
    of_client: Arc<Account>,
    of_upstream: Arc<Account>,
    /// Taken away to end it there and then.
    upstream: Option<Socket>,
    responses: Option<Responses>,
    injection: Option<InjectionScanner>,
}

/// What the routes say when one was taken away.
pub(super) fn withdrawn() -> Denial {
    Denial::new(Reason::RequestNotAllowed, "its route was withdrawn")
}

impl Relayed {
    /// Waits for both legs to switch, and carries messages until the end.
    pub(super) async fn run(self, client: OnUpgrade, upstream: OnUpgrade) {
        let Relayed { exchange, scan, route, metered } = self;
        let wait = exchange.gateway().limits.handshake;
        let both = timeout(wait, async { tokio::try_join!(client, upstream) }).await;
        let Ok(Ok((client, upstream))) = both else { return exchange.end(Outcome::Failed) };
        let judges = route.route().dlp.inbound.contains(&Detector::NaiveInjectionDetection);
        let (of_client, of_upstream) = (Account::new(exchange.gateway()), Account::new(exchange.gateway()));
        let relay = Relay {
            client: socket(client, Role::Server, &of_client).await,
            upstream: Some(socket(upstream, Role::Client, &of_upstream).await),
            of_client,
            of_upstream,
            responses: metered.map(|target| Responses::new(target, route.path().to_owned())),
            injection: judges.then(|| InjectionScanner::new(Location::ResponseBody)),
            exchange,
            scan,
        };
        relay.carry().await;
    }
}

async fn socket(io: Upgraded, role: Role, account: &Arc<Account>) -> Socket {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX)).max_frame_size(Some(MESSAGE_BYTES_MAX));
    let io = Drawn::new(TokioIo::new(io), account.clone());
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}

impl Relay {
    async fn carry(mut self) {
        let over = loop {
            if let Err(over) = self.step().await {
                break over;
            }
        };
        // A leg that was not read on because there was no room looks as if it had gone away.
        let full = [&self.of_client, &self.of_upstream].into_iter().find_map(|account| account.full());
        let over = match (over, full) {
            (Over::Gone(_), Some(denial)) => Over::Cut(denial),
            (over, _) => over,
        };
        self.end(over).await;
    }

    /// One message of either side.
    async fn step(&mut self) -> Result<(), Over> {
        let quiet_until = Instant::now() + IDLE_MAX;
        let Relay { exchange, client, upstream, responses, .. } = self;
        let Some(upstream) = upstream.as_mut() else { return Err(Over::Gone(Side::Upstream)) };
        let from_upstream = async {
            if let Some(responses) = responses {
                poll_fn(|cx| responses.poll_room(cx)).await.map_err(Over::Cut)?;
            }
            received(upstream.next().await, Side::Upstream)
        };
        let (side, message) = tokio::select! {
            denial = closing(exchange) => return Err(Over::Cut(denial)),
            message = client.next() => (Side::Client, received(message, Side::Client)?),
            message = from_upstream => (Side::Upstream, message?),
            () = sleep_until(quiet_until) => return Err(Over::Gone(Side::Client)),
        };
        match (side, message) {
            (Side::Client, message) => self.client_says(message).await,
            (Side::Upstream, message) => self.upstream_says(message).await,
        }
    }

    async fn client_says(&mut self, message: Message) -> Result<(), Over> {
        let (bytes, text) = match message {
            Message::Text(text) => (Bytes::from(text), Form::Text),
            Message::Binary(bytes) => (bytes, Form::Binary),
            // Its own leg answers it; what it carries stays here.
            Message::Ping(_) => return self.send(Side::Upstream, Message::Ping(Bytes::new())).await,
            Message::Pong(_) | Message::Frame(_) => return Ok(()),
            Message::Close(frame) => return Err(Over::Closed(Side::Client, frame.map(|frame| frame.code))),
        };
        let _held = self.of_client.of_message();
        if self.responses.is_none() {
            let cleared = self.scan.message(&bytes).map_err(Over::Cut)?;
            self.exchange.sent.fetch_add(cleared.len() as u64, Ordering::Relaxed);
            return self.send(Side::Upstream, text.message(cleared)?).await;
        }
        if text == Form::Binary {
            let why = "a binary message where requests are metered: they are texts";
            return Err(Over::Refused(CloseCode::Unsupported, Denial::new(Reason::ProtocolRefused, why)));
        }
        self.asked(bytes).await
    }

    /// A message on a metered route: a request of its own.
    async fn asked(&mut self, message: Bytes) -> Result<(), Over> {
        let own = self.exchange.carried();
        let passed = match self.scan.within(&own).message(&message) {
            Ok(cleared) => self.hold(&own, cleared).await,
            Err(denial) => Ok(Err(denial)),
        };
        match passed? {
            Ok(message) => {
                self.exchange.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
                self.send(Side::Upstream, Form::Text.message(message)?).await
            }
            Err(denial) => {
                let told = refused(&own, denial).await;
                self.send(Side::Client, Message::text(told)).await
            }
        }
    }

    async fn hold(&mut self, own: &Arc<Exchange>, message: Bytes) -> Result<Result<Bytes, Denial>, Over> {
        let Some(responses) = self.responses.as_mut() else { return Ok(Ok(message)) };
        match responses.look(&message) {
            Next::Send(message) => Ok(Ok(message)),
            Next::Refuse(denial) => Ok(Err(denial)),
            Next::Close(denial) => Err(Over::Cut(denial)),
            Next::Create => {
                let gateway = self.exchange.gateway().clone();
                tokio::select! {
                    biased;
                    denial = gateway.closing() => Err(Over::Cut(denial)),
                    held = responses.create(own, message) => Ok(held),
                }
            }
        }
    }

    async fn upstream_says(&mut self, message: Message) -> Result<(), Over> {
        let (bytes, form) = match message {
            Message::Text(text) => (Bytes::from(text), Form::Text),
            Message::Binary(bytes) => (bytes, Form::Binary),
            Message::Ping(_) => return self.send(Side::Client, Message::Ping(Bytes::new())).await,
            Message::Pong(_) | Message::Frame(_) => return Ok(()),
            Message::Close(frame) => return Err(Over::Closed(Side::Upstream, frame.map(|frame| frame.code))),
        };
        let _held = self.of_upstream.of_message();
        if let Some(responses) = &mut self.responses {
            responses.read(&bytes);
        }
        let shown = self.screened(&bytes)?;
        self.exchange.received.fetch_add(shown.len() as u64, Ordering::Relaxed);
        let sent = self.send(Side::Client, form.message(shown.clone())?).await;
        if let Some(responses) = &mut self.responses {
            responses.told(&bytes, &shown).map_err(Over::Cut)?;
        }
        sent
    }

    /// Rid of this run's secrets, and judged.
    fn screened(&mut self, message: &Bytes) -> Result<Bytes, Over> {
        let known = [Detector::KnownSecrets];
        let record = self.responses.as_ref().and_then(Responses::exchange).unwrap_or(&self.exchange);
        let (clean, findings) = record.gateway().detectors().redact(message, &known, Location::ResponseBody);
        let shown = if findings.is_empty() { message.clone() } else { Bytes::from(clean) };
        record.found(findings, true);
        if let Some(injection) = &mut self.injection {
            injection.push(&shown);
            let found = injection.verdict().filter(|finding| finding.severity == Severity::Block);
            // A model's words are its own, and nothing of them may be held.
            if let Some(finding) = found.filter(|_| !self.exchange.is_model()) {
                let denial = denial_of(&finding, self.scan.rule());
                self.exchange.found(vec![finding], false);
                return Err(Over::Cut(denial));
            }
        }
        Ok(shown)
    }

    /// Sends a message, and notices meanwhile that the routes are closed.
    async fn send(&mut self, to: Side, message: Message) -> Result<(), Over> {
        let wait = self.exchange.gateway().limits.body_idle;
        let Relay { exchange, client, upstream, .. } = self;
        let socket = match to {
            Side::Client => client,
            Side::Upstream => upstream.as_mut().ok_or(Over::Gone(Side::Upstream))?,
        };
        tokio::select! {
            biased;
            denial = closing(exchange) => Err(Over::Cut(denial)),
            sent = timeout(wait, socket.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(Over::Gone(to)),
            },
        }
    }

    async fn end(mut self, over: Over) {
        if let Some(mut injection) = self.injection.take() {
            injection.finish();
            self.exchange.found(injection.verdict().into_iter().collect(), false);
        }
        match over {
            Over::Cut(denial) => self.cut(denial).await,
            Over::Closed(Side::Client, code) => {
                self.read_on().await;
                self.close(code, CloseCode::Away).await;
                self.exchange.end(Outcome::Done);
            }
            Over::Closed(Side::Upstream, code) => {
                let how = if self.is_active() { Outcome::Failed } else { Outcome::Done };
                self.broken();
                self.close(code, CloseCode::Normal).await;
                self.exchange.end(how);
            }
            Over::Gone(Side::Client) => {
                self.read_on().await;
                self.close(None, CloseCode::Away).await;
                self.exchange.end(Outcome::Done);
            }
            Over::Gone(Side::Upstream) => {
                self.broken();
                self.close(None, CloseCode::Error).await;
                self.exchange.end(Outcome::Failed);
            }
            Over::Unreadable(code) => {
                self.broken();
                self.close(Some(code), code).await;
                self.exchange.end(Outcome::Failed);
            }
            Over::Refused(code, denial) => {
                self.broken();
                // Written down before anybody is told.
                self.exchange.refuse(denial, &refusal_id()).await;
                self.close(Some(code), code).await;
            }
        }
    }

    fn is_active(&self) -> bool {
        self.responses.as_ref().is_some_and(Responses::is_active)
    }

    fn broken(&mut self) {
        if let Some(responses) = &mut self.responses {
            responses.broken();
        }
    }

    /// The client went away: what has arrived by now is read for the end, and what it cost.
    async fn read_on(&mut self) {
        let until = sleep(self.exchange.gateway().limits.drain);
        let mut until = std::pin::pin!(until);
        while let (Some(upstream), Some(responses)) = (self.upstream.as_mut(), self.responses.as_mut()) {
            if !responses.is_active() {
                return;
            }
            let message = tokio::select! {
                () = &mut until => break,
                message = upstream.next() => message,
            };
            let Ok(Message::Text(text)) = received(message, Side::Upstream) else { break };
            responses.read(text.as_bytes());
            if responses.told(text.as_bytes(), b"").is_err() {
                break;
            }
        }
        self.broken();
    }

    /// Ends it from here: the upstream at once, the client with what its protocol has for that.
    async fn cut(mut self, denial: Denial) {
        self.upstream = None;
        let messages = self.responses.as_mut().map(|responses| responses.cut(&denial)).unwrap_or_default();
        let id = refusal_id();
        // Written down before anybody is told.
        let denial = self.exchange.refuse(denial, &id).await;
        let reason = format!("carboy: {}; carboy explain {id}", denial.reason);
        let _ = timeout(CLOSING_WAIT_MAX, async {
            for message in messages {
                if self.client.feed(Message::text(message)).await.is_err() {
                    return;
                }
            }
            let _ = self.client.close(Some(frame(CloseCode::Policy, &reason))).await;
            linger(&mut self.client).await;
        })
        .await;
    }

    /// Closes both legs: with what the other side said where it may be said, else with `otherwise`.
    async fn close(&mut self, code: Option<CloseCode>, otherwise: CloseCode) {
        let code = code.filter(|code| code.is_allowed()).unwrap_or(otherwise);
        let (client, upstream) = (&mut self.client, self.upstream.take());
        let _ = timeout(CLOSING_WAIT_MAX, async {
            let of_client = async {
                let _ = client.close(Some(frame(code, ""))).await;
                linger(client).await;
            };
            let of_upstream = async {
                if let Some(mut upstream) = upstream {
                    let _ = upstream.close(Some(frame(code, ""))).await;
                    linger(&mut upstream).await;
                }
            };
            tokio::join!(of_client, of_upstream);
        })
        .await;
    }
}

/// Reads until the other side has closed as well, so that it gets what was sent before the connection goes.
async fn linger(socket: &mut Socket) {
    while let Some(Ok(_)) = socket.next().await {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Binary,
}

impl Form {
    fn message(self, bytes: Bytes) -> Result<Message, Over> {
        match self {
            Form::Binary => Ok(Message::Binary(bytes)),
            Form::Text => match Utf8Bytes::try_from(bytes) {
                Ok(text) => Ok(Message::Text(text)),
                // What was overwritten began within a character.
                Err(_) => Err(Over::Unreadable(CloseCode::Invalid)),
            },
        }
    }
}

fn received(message: Option<tungstenite::Result<Message>>, side: Side) -> Result<Message, Over> {
    match message {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(unreadable(&error, side)),
        None => Err(Over::Gone(side)),
    }
}

/// What is wrong with what came; a connection that only broke off is gone.
fn unreadable(error: &tungstenite::Error, side: Side) -> Over {
    let (code, reason, why) = if let tungstenite::Error::Capacity(_) = error {
        let why = format!("a message of more than {MESSAGE_BYTES_MAX} octets");
        (CloseCode::Size, Reason::BodyTooLarge, why)
    } else if let tungstenite::Error::Utf8(_) = error {
        (CloseCode::Invalid, Reason::ProtocolRefused, "a text that is not UTF-8".to_owned())
    } else if let tungstenite::Error::Protocol(what) = error
        && *what != ProtocolError::ResetWithoutClosingHandshake
    {
        (CloseCode::Protocol, Reason::ProtocolRefused, format!("no frame of a WebSocket: {what}"))
    } else {
        return Over::Gone(side);
    };
    match side {
        Side::Client => Over::Refused(code, Denial::new(reason, why)),
        Side::Upstream => Over::Unreadable(code),
    }
}

fn frame(code: CloseCode, reason: &str) -> CloseFrame {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    CloseFrame { code, reason: Utf8Bytes::from(&reason[..end]) }
}

/// Waits until the connection may not go on: every route is closed, its own was withdrawn, or the run ends.
async fn closing(exchange: &Arc<Exchange>) -> Denial {
    let gateway: &Arc<Gateway> = exchange.gateway();
    let mut law = gateway.watch_law();
    loop {
        law.borrow_and_update();
        match gateway.routes_now() {
            Err(denial) => return denial,
            Ok(routes) if !exchange.stands(&routes) => return withdrawn(),
            Ok(_) => {}
        }
        if law.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Writes the refusal of one message down, and gives what its client is told.
async fn refused(own: &Arc<Exchange>, denial: Denial) -> String {
    sleep(own.gateway().refusal_wait(&denial)).await;
    let id = refusal_id();
    let denial = own.refuse(denial, &id).await;
    carboy_wire::denial::message(&denial, &id)
}
