//! Webhooks of a chat agent (G92): hand-offs and feedback, told to servers that its file names.
//!
//! ```text
//!  Engine ─ notice ─▶ lane of the event (bounded) ─▶ signed ─▶ Outbound (route, scan, credential: as ever) ─▶ server
//!                       │ full                          └── no, or not now ─▶ a jittered wait ─▶ again … given up
//!                       └───────────────▶ log ◀── delivered, or not: one event for each notice ──────────┘
//! ```
//!
//! Each event has a lane of its own, so that a server which is down holds nothing up but what is for itself. A notice has one
//! id however often it is sent: who is told twice can tell. *Must never* make a turn wait or fail, leave by another way than the
//! agent's gateway, follow a redirect, or hold more than the log does of anybody.

mod message;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use carboy_agent::{Notice, Notices};
use carboy_core::audit::{Event, EventType, Outcome, Subject};
use carboy_core::chat::{Webhook, WebhookEvent, Webhooks};
use carboy_core::ports::{AuditSink, Clock, Errand, Outbound, OutboundAnswer, OutboundError, OutboundRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

pub(super) use message::{BadKey, Key};

use crate::clock::SystemClock;

/// Notices of one event that wait to be sent; one more is not told, and the log says so.
const QUEUE_MAX: usize = 256;
/// Notices of one event that are being sent, or wait to be sent again.
const UNDER_WAY_MAX: usize = 16;
/// How long a server may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15);
/// Octets of an answer that are read; nobody looks at them.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Longest wait before the second attempt; before each further one it is four times as long.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Longest wait before any attempt.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// How long the end of an agent waits for what is still to be told.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(5);

/// What every lane has.
pub(super) struct Ways {
    /// The agent's gateway.
    pub(super) outbound: Arc<dyn Outbound>,
    /// Where it is written down.
    pub(super) audit: Arc<dyn AuditSink>,
    /// Agent, bottle and run.
    pub(super) subject: Subject,
    /// What messages are signed with.
    pub(super) key: Key,
}

/// See the module.
pub(super) struct Postman {
    phase: watch::Sender<Phase>,
    lanes: Vec<JoinHandle<()>>,
    notices: Notices,
}

/// How far its end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    /// What waits is sent now, once.
    Closing,
    /// What is not told by now is not told.
    Over,
}

/// One event and its server.
struct Lane {
    ways: Arc<Ways>,
    hook: Webhook,
    attempts_max: u32,
}

/// Why an attempt came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// Of the gateway, by the code of its reason; or `no_answer`.
    Unsent(&'static str),
    /// The server's, and how long it asks to be left alone.
    Status(u16, Option<Duration>),
}

/// How it ended that somebody was told.
enum Told {
    Delivered { status: u16 },
    GivenUp { code: &'static str, status: Option<u16> },
}

impl Postman {
    /// Opens a lane for each webhook.
    pub(super) fn open(webhooks: &Webhooks, ways: Ways) -> Postman {
        let (ways, phase) = (Arc::new(ways), watch::Sender::new(Phase::Open));
        let mut senders: Vec<(WebhookEvent, mpsc::Sender<Notice>, Arc<Lane>)> = Vec::new();
        let mut lanes = Vec::new();
        for hook in &webhooks.hooks {
            let (sender, queue) = mpsc::channel(QUEUE_MAX);
            let lane = Arc::new(Lane { ways: ways.clone(), hook: hook.clone(), attempts_max: webhooks.attempts_max });
            lanes.push(tokio::spawn(lane.clone().work(queue, phase.subscribe())));
            senders.push((hook.on, sender, lane));
        }
        // Called within turns of many threads; sending is quick and waits for nothing.
        let senders = Mutex::new(senders);
        let notices: Notices = Arc::new(move |notice: Notice| {
            let senders = senders.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, sender, lane) in senders.iter().filter(|(on, ..)| *on == notice.event()) {
                if let Err(refused) = sender.try_send(notice.clone()) {
                    let code = match refused {
                        mpsc::error::TrySendError::Full(_) => "queue_full",
                        mpsc::error::TrySendError::Closed(_) => "ended",
                    };
                    let event = lane.event(&notice, &Told::GivenUp { code, status: None }, 0);
                    // A turn does not fail of it; where the log cannot be written, its next event does.
                    let _ = lane.ways.audit.append(event);
                }
            }
        });
        Postman { phase, lanes, notices }
    }

    /// Whom the engine tells.
    pub(super) fn notices(&self) -> Notices {
        self.notices.clone()
    }

    /// Sends what waits, once and at once, as long as [`FLUSH_WAIT_MAX`]; writes down what is left.
    pub(super) async fn close(self) {
        let Postman { phase, mut lanes, notices: _ } = self;
        phase.send_replace(Phase::Closing);
        if timeout(FLUSH_WAIT_MAX, joined(&mut lanes)).await.is_err() {
            phase.send_replace(Phase::Over);
            // Nothing is waited for any more but the log.
            joined(&mut lanes).await;
        }
    }
}

/// A panic in a lane has been reported; what comes next is done all the same.
async fn joined(lanes: &mut Vec<JoinHandle<()>>) {
    while let Some(lane) = lanes.last_mut() {
        let _ = lane.await;
        lanes.pop();
    }
}

/// Ready when the end has come so far; never when nobody ends it.
async fn reached(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    if phase.wait_for(|now| *now >= wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Lane {
    /// Sends what comes until it is closed, some at a time.
    async fn work(self: Arc<Lane>, mut queue: mpsc::Receiver<Notice>, mut phase: watch::Receiver<Phase>) {
        let (mut under_way, mut open) = (JoinSet::new(), true);
        loop {
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Closing), if open => {
                    queue.close();
                    open = false;
                }
                Some(_) = under_way.join_next(), if !under_way.is_empty() => {}
                notice = queue.recv(), if under_way.len() < UNDER_WAY_MAX => match notice {
                    Some(notice) => {
                        under_way.spawn(self.clone().deliver(notice, phase.clone()));
                    }
                    None => break,
                },
            }
        }
        while under_way.join_next().await.is_some() {}
    }

    /// One notice, to its end in the log.
    async fn deliver(self: Arc<Lane>, notice: Notice, mut phase: watch::Receiver<Phase>) {
        let body = message::body(&notice, &self.ways.subject);
        let mut attempts = 0;
        let told = loop {
            let now = *phase.borrow();
            if now == Phase::Over {
                break Told::GivenUp { code: "ended", status: None };
            }
            attempts += 1;
            let failure = tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Over) => break Told::GivenUp { code: "ended", status: None },
                sent = self.send(&notice, &body) => match sent {
                    Ok(status) => break Told::Delivered { status },
                    Err(failure) => failure,
                },
            };
            let Some(wait) = failure.wait(attempts, self.attempts_max).filter(|_| now == Phase::Open) else {
                break failure.given_up();
            };
            tokio::select! {
                () = sleep(wait) => {}
                () = reached(&mut phase, Phase::Closing) => {}
            }
        };
        // It is told or not whatever becomes of this; a log that cannot be written stops the next call at the gateway.
        let _ = self.ways.audit.append_durable(self.event(&notice, &told, attempts)).await;
    }

    /// One attempt.
    async fn send(&self, notice: &Notice, body: &[u8]) -> Result<u16, Failure> {
        let now_s = SystemClock.now_ms() / 1_000;
        let request = OutboundRequest {
            method: "POST",
            host: self.hook.host.clone(),
            port: self.hook.port,
            path: self.hook.path.clone(),
            headers: message::headers(&self.ways.key, &notice.id, now_s, body),
            body: body.to_vec(),
            conversation: Some(notice.conversation.clone()),
            errand: Errand::Notice,
        };
        let answered = timeout(ANSWER_WAIT_MAX, self.exchange(request)).await;
        answered.unwrap_or(Err(Failure::Unsent("no_answer")))
    }

    async fn exchange(&self, request: OutboundRequest) -> Result<u16, Failure> {
        let until = Instant::now() + ANSWER_WAIT_MAX / 2;
        let mut answer = self.ways.outbound.send(request).await.map_err(|error| Failure::of(&error))?;
        if let Some(reason) = answer.refused {
            return Err(Failure::Unsent(reason.code()));
        }
        // To its end, so that the log has the exchange as whole; what a server says there changes nothing.
        let mut read = 0;
        while let Ok(Some(Ok(piece))) = tokio::time::timeout_at(until, answer.body.next()).await {
            read += piece.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        match answer.status {
            200..=299 => Ok(answer.status),
            status => Err(Failure::Status(status, asked(&answer))),
        }
    }

    fn event(&self, notice: &Notice, told: &Told, attempts: u32) -> Event {
        let subject = Subject { user_id: Some(notice.user_id.clone()), ..self.ways.subject.clone() };
        let (action, result) = match told {
            Told::Delivered { .. } => ("webhook_delivered", Outcome::Done),
            Told::GivenUp { .. } => ("webhook_failed", Outcome::Failed),
        };
        let event = Event::new(EventType::Session, subject, action, result)
            .with("webhook", self.hook.on.as_str())
            .with("id", notice.id.as_str())
            .with("host", self.hook.host.to_string())
            .with("attempts", u64::from(attempts))
            .with("session", notice.conversation.session.as_str())
            .with("turn", u64::from(notice.conversation.turn));
        match told {
            Told::Delivered { status } => event.with("status", u64::from(*status)),
            Told::GivenUp { code, status: None } => event.with("code", *code),
            Told::GivenUp { code, status: Some(status) } => {
                event.with("code", *code).with("status", u64::from(*status))
            }
        }
    }
}

impl Failure {
    fn of(error: &OutboundError) -> Failure {
        match error {
            OutboundError::Refused(reason) => Failure::Unsent(reason.code()),
            OutboundError::NoAnswer(_) | OutboundError::BrokeOff(_) => Failure::Unsent("no_answer"),
        }
    }

    fn given_up(self) -> Told {
        match self {
            Failure::Unsent(code) => Told::GivenUp { code, status: None },
            Failure::Status(status, _) => Told::GivenUp { code: "status", status: Some(status) },
        }
    }

    /// How long to wait before the attempt that follows so many, if there is one. What a server finds wrong with a message,
    /// it finds wrong the next time too; what the gateway refuses now (a cut, a spent budget), it may let through later.
    fn wait(self, attempts: u32, attempts_max: u32) -> Option<Duration> {
        let asked = match self {
            Failure::Status(408 | 425 | 429 | 500.., asked) => asked,
            Failure::Status(..) => return None,
            Failure::Unsent(_) => None,
        };
        if attempts >= attempts_max {
            return None;
        }
        let most = WAIT_FIRST.saturating_mul(1 << (2 * attempts.saturating_sub(1)).min(20)).min(WAIT_MAX);
        let wait = most / 2 + jitter(most / 2);
        Some(asked.map_or(wait, |asked| asked.min(WAIT_MAX).max(wait)))
    }
}

/// What the head of an answer asks for, in seconds (RFC 9110, 10.2.3); a date is not read.
fn asked(answer: &OutboundAnswer) -> Option<Duration> {
    let after = answer.headers.iter().find(|(name, _)| name == "retry-after")?;
    after.1.trim().parse().ok().map(Duration::from_secs)
}

/// Anything from nothing to `most`, so that what failed together is not sent again together.
fn jitter(most: Duration) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
    // Without randomness the longest wait is the one that does no harm.
    Duration::from_millis(getrandom::u64().map_or(millis, |number| number % (millis + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g92_waits_grow_fourfold_with_jitter_up_to_their_most_and_end() {
        for attempts in 1..8 {
            let most = WAIT_FIRST.saturating_mul(4_u32.pow(attempts - 1)).min(WAIT_MAX);
            for _ in 0..50 {
                let wait = Failure::Unsent("no_answer").wait(attempts, 8).unwrap();
                assert!(wait >= most / 2 && wait <= most, "{attempts}: {wait:?}");
            }
        }
        assert_eq!(Failure::Unsent("no_answer").wait(8, 8), None);
    }

    #[test]
    fn g92_a_server_is_asked_again_when_it_says_later_and_not_when_it_says_no() {
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(Failure::Status(status, None).wait(1, 8).is_some(), "{status}");
        }
        for status in [301, 302, 307, 400, 401, 403, 404, 410] {
            assert_eq!(Failure::Status(status, None).wait(1, 8), None, "{status}");
        }
        let asked = |seconds| Failure::Status(503, Some(Duration::from_secs(seconds))).wait(1, 8).unwrap();
        assert_eq!((asked(7), asked(86_400)), (Duration::from_secs(7), WAIT_MAX));
    }
}
