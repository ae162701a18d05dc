//! One attempt: a request out, its answer read, every way in which there is none told apart (G49).
//!
//! *Must never* repeat what a provider's error says: it may quote the conversation.

use carboy_core::chat::ChatFormat;
use carboy_core::ports::{Outbound, OutboundAnswer, OutboundBody, OutboundError, OutboundRequest};
use carboy_core::verdict::Reason;
use carboy_wire::chat::{Completion, Delta, Fault, ReadError, anthropic, openai};
use std::time::Duration;
use tokio::time::timeout;

use super::retry::{self, Again};
use super::{Terms, late};
use crate::model::ModelError;

/// Most octets of an error's body that are read; what kind of error it is stands at its beginning.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// How long the body's end is waited for once the answer's was read: a connection that came to its end is used again.
const END_WAIT: Duration = Duration::from_secs(1);

/// Reasons for which the gateway did not reach the provider: as if the network had failed.
const NOT_REACHED: &[Reason] = &[Reason::UpstreamUnreachable, Reason::UpstreamFailed];
/// Reasons that may be gone a little later, with nobody adding to a budget.
const PASSING: &[Reason] = &[Reason::BudgetHeld, Reason::LimitReached];

/// No answer, and whether to ask again.
pub(super) struct Failure {
    pub error: ModelError,
    pub again: Again,
}

impl Failure {
    fn last(error: ModelError) -> Failure {
        Failure { error, again: Again::Never }
    }

    fn passing(error: ModelError) -> Failure {
        Failure { error, again: Again::After(None) }
    }

    fn refused(reason: Reason, asked: Option<Duration>) -> Failure {
        if NOT_REACHED.contains(&reason) {
            return Failure::passing(ModelError::Unreachable(reason.what().to_owned()));
        }
        let again = if PASSING.contains(&reason) { Again::After(asked) } else { Again::Never };
        Failure { error: ModelError::Refused(reason), again }
    }

    fn fault(fault: Fault, status: u16, asked: Option<Duration>) -> Failure {
        let error = match fault {
            Fault::RateLimited => ModelError::RateLimited { retry_after: asked },
            Fault::SpendLimit | Fault::Overloaded | Fault::Failed | Fault::Final => ModelError::Status { status },
        };
        Failure { error, again: if fault.may_pass() { Again::After(asked) } else { Again::Never } }
    }
}

impl From<OutboundError> for Failure {
    fn from(error: OutboundError) -> Failure {
        match error {
            OutboundError::NoAnswer(_) | OutboundError::BrokeOff(_) => {
                Failure::passing(ModelError::Unreachable(error.to_string()))
            }
            OutboundError::Refused(reason) => Failure::refused(reason, None),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error {
            ReadError::BrokeOff => Failure::passing(ModelError::Unreachable(error.to_string())),
            ReadError::TooLarge { .. } | ReadError::Malformed(_) => {
                Failure::last(ModelError::Malformed(error.to_string()))
            }
            ReadError::Failed(fault) => Failure::fault(fault, status_of(fault), None),
        }
    }
}

/// The status that an error in the middle of an answer stands for.
fn status_of(fault: Fault) -> u16 {
    match fault {
        Fault::RateLimited => 429,
        Fault::SpendLimit => 402,
        Fault::Overloaded => 529,
        Fault::Failed => 500,
        Fault::Final => 400,
    }
}

/// Asks once.
pub(super) async fn once(
    outbound: &dyn Outbound,
    format: ChatFormat,
    terms: &Terms,
    request: OutboundRequest,
    listen: &mut (dyn FnMut(Delta) + Send),
) -> Result<Completion, Failure> {
    let sent = timeout(terms.silence, outbound.send(request)).await;
    let answer = sent.map_err(|_| Failure::passing(late("no answer", terms.silence)))??;
    let asked = retry::asked(&answer.headers);
    if let Some(reason) = answer.refused {
        return Err(Failure::refused(reason, asked));
    }
    let html = field(&answer, "content-type").is_some_and(|kind| kind.starts_with("text/html"));
    match answer.status {
        200..=299 if html => Err(Failure::last(ModelError::Malformed(
            "it is a page for people; check the model's host and path in the agent's file".into(),
        ))),
        200..=299 => read(answer.body, Reader::new(format), terms, listen).await,
        _ => Err(error_status(answer, terms, asked).await),
    }
}

fn field<'a>(answer: &'a OutboundAnswer, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// What kind of error a status stands for; its body tells a spend limit from a rate limit.
async fn error_status(mut answer: OutboundAnswer, terms: &Terms, asked: Option<Duration>) -> Failure {
    let mut body = Vec::new();
    while body.len() < ERROR_BYTES_MAX
        && let Ok(Some(Ok(piece))) = timeout(terms.silence, answer.body.next()).await
    {
        let room = ERROR_BYTES_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    let mut failure = Failure::fault(Fault::of_status(answer.status, &body), answer.status, asked);
    // The SDKs of both providers follow it before the status.
    if field(&answer, "x-should-retry") == Some("false") {
        failure.again = Again::Never;
    }
    failure
}

enum Reader {
    Anthropic(anthropic::Reader),
    OpenAi(openai::Reader),
}

impl Reader {
    fn new(format: ChatFormat) -> Reader {
        match format {
            ChatFormat::Anthropic => Reader::Anthropic(anthropic::Reader::new()),
            ChatFormat::OpenAi => Reader::OpenAi(openai::Reader::new()),
        }
    }

    fn feed(&mut self, bytes: &[u8], deltas: &mut Vec<Delta>) -> Result<(), ReadError> {
        match self {
            Reader::Anthropic(reader) => reader.feed(bytes, deltas),
            Reader::OpenAi(reader) => reader.feed(bytes, deltas),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Reader::Anthropic(reader) => reader.has_ended(),
            Reader::OpenAi(reader) => reader.has_ended(),
        }
    }

    fn finish(self, deltas: &mut Vec<Delta>) -> Result<Completion, ReadError> {
        match self {
            Reader::Anthropic(reader) => reader.finish(deltas),
            Reader::OpenAi(reader) => reader.finish(deltas),
        }
    }
}

async fn read(
    mut body: Box<dyn OutboundBody>,
    mut reader: Reader,
    terms: &Terms,
    listen: &mut (dyn FnMut(Delta) + Send),
) -> Result<Completion, Failure> {
    let mut deltas = Vec::new();
    while !reader.has_ended() {
        let piece = timeout(terms.silence, body.next()).await;
        let Some(piece) = piece.map_err(|_| Failure::passing(late("no further word", terms.silence)))? else { break };
        let fed = reader.feed(&piece?, &mut deltas);
        deltas.drain(..).for_each(&mut *listen);
        fed?;
    }
    if reader.has_ended() {
        // Nothing behind the end is heard; the answer is whole without it.
        let _ = timeout(END_WAIT, async { while let Some(Ok(_)) = body.next().await {} }).await;
    }
    let finished = reader.finish(&mut deltas);
    deltas.drain(..).for_each(listen);
    Ok(finished?)
}
