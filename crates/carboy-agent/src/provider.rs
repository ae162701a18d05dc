//! A model at a provider, asked through the gateway.
//!
//! ```text
//!  Prompt ─▶ body ─▶ Outbound (route, scan, hold, credential, meter) ─▶ provider
//!  Completion ◀─ deltas ◀─ reader ◀──────────────────────────────────────┘
//!       an error that may pass, before a word was heard ─▶ wait ─▶ ask again      at most so often, at most so long
//! ```
//!
//! It is made once for each agent, with its time limits, and shared by all turns. *Must never* set a credential (the gateway
//! does), ask again after a word was heard, or ask again where money is the answer: a spent budget, a cut, a spend limit of
//! the account.

mod answer;
mod retry;

use std::sync::Arc;
use std::time::Duration;

use carboy_core::chat::{ChatFormat, ChatLimits, ModelChoice};
use carboy_core::ports::{Errand, Later, Outbound, OutboundRequest};
use carboy_wire::chat::openai::OutputCap;
use carboy_wire::chat::{Completion, Delta, Prompt, anthropic, openai};
use tokio::time::{Instant, sleep, timeout_at};

use crate::model::{Model, ModelError};
use answer::Failure;

/// How long a model is waited for, and how often it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long it may be silent: before its answer's head, and between two pieces.
    pub silence: Duration,
    /// How long all of it may take, every attempt and every wait between them.
    pub whole: Duration,
    /// Most attempts for one prompt, the first included.
    pub attempts_max: u32,
    /// Longest wait before the second attempt; it doubles with each.
    pub wait_first: Duration,
    /// Longest wait before any attempt. A provider that asks for more is not asked again.
    pub wait_max: Duration,
}

impl Terms {
    /// Those of an agent.
    pub fn of(limits: &ChatLimits) -> Terms {
        Terms {
            silence: Duration::from_millis(limits.model_wait_ms.into()),
            whole: Duration::from_millis(limits.turn_wait_ms.into()),
            attempts_max: 3,
            wait_first: Duration::from_secs(1),
            wait_max: Duration::from_secs(20),
        }
    }
}

/// A model at a provider. See the module.
pub struct ProviderModel {
    outbound: Arc<dyn Outbound>,
    choice: ModelChoice,
    terms: Terms,
}

impl ProviderModel {
    /// The model of an agent, reached through this way out.
    pub fn new(outbound: Arc<dyn Outbound>, choice: ModelChoice, terms: Terms) -> ProviderModel {
        ProviderModel { outbound, choice, terms }
    }

    fn request(&self, prompt: &Prompt<'_>) -> OutboundRequest {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut headers = vec![
            field("content-type", "application/json"),
            field("accept", "text/event-stream, application/json"),
            field("accept-encoding", "identity"),
        ];
        let body = match self.choice.format {
            ChatFormat::Anthropic => {
                headers.push(field("anthropic-version", anthropic::VERSION));
                anthropic::request(prompt)
            }
            ChatFormat::OpenAi => openai::request(prompt, OutputCap::of_host(&self.choice.host.to_string())),
        };
        OutboundRequest {
            method: "POST",
            host: self.choice.host.clone(),
            port: self.choice.port,
            path: self.choice.path.clone(),
            headers,
            body,
            conversation: prompt.conversation.cloned(),
            errand: Errand::Work,
        }
    }

    async fn ask(&self, prompt: &Prompt<'_>, listen: &mut (dyn FnMut(Delta) + Send)) -> Result<Completion, ModelError> {
        let request = self.request(prompt);
        let deadline = Instant::now() + self.terms.whole;
        let mut heard = false;
        let mut attempt = 1;
        loop {
            let mut told = |delta| {
                heard = true;
                listen(delta);
            };
            let once = answer::once(&*self.outbound, self.choice.format, &self.terms, request.clone(), &mut told);
            let failure = match timeout_at(deadline, once).await {
                Ok(Ok(completion)) => return Ok(completion),
                Ok(Err(failure)) => failure,
                Err(_) => return Err(late("no whole answer", self.terms.whole)),
            };
            let Failure { error, again } = failure;
            let left = deadline.saturating_duration_since(Instant::now());
            match retry::wait(&self.terms, attempt, again).filter(|wait| !heard && *wait < left) {
                Some(wait) => sleep(wait).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }
}

fn late(what: &str, after: Duration) -> ModelError {
    ModelError::Unreachable(format!("{what} within {} s; ask again, or raise the limit", after.as_secs()))
}

impl Model for ProviderModel {
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>> {
        Box::pin(self.ask(prompt, listen))
    }
}
