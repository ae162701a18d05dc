//! The port of models: a prompt in, words and calls out.

use std::time::Duration;

use carboy_core::ports::Later;
use carboy_core::verdict::Reason;
use carboy_wire::chat::{Completion, Delta, Prompt};

/// Something that answers prompts.
pub trait Model: Send + Sync {
    /// Asks. `listen` hears the answer as it arrives; what it heard of an answer that then fails is void.
    /// Dropped before it is ready, it ends the request, and what was read is charged.
    fn complete<'a>(
        &'a self,
        prompt: &'a Prompt<'a>,
        listen: &'a mut (dyn FnMut(Delta) + Send),
    ) -> Later<'a, Result<Completion, ModelError>>;
}

/// No answer (G49).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The provider asks for patience.
    #[error("the model's provider limits the rate")]
    RateLimited {
        /// How long it asks for.
        retry_after: Option<Duration>,
    },
    /// It cannot be reached, or its answer broke off.
    #[error("the model's provider cannot be reached: {0}")]
    Unreachable(String),
    /// It answered with a status that is no answer.
    #[error("the model's provider answered with status {status}")]
    Status {
        /// HTTP status.
        status: u16,
    },
    /// It answered, in no form that is known.
    #[error("the model's answer cannot be read: {0}")]
    Malformed(String),
    /// The gateway refused: a spent budget, a cut, a route that is not there.
    #[error("the gateway refused to ask the model: {0}")]
    Refused(Reason),
}
