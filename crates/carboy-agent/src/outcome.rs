//! What a turn shows while it runs, and how it ends.

use carboy_core::verdict::Reason;
use serde::{Deserialize, Serialize};

use crate::model::ModelError;

/// What whoever asked can show while a turn runs.
#[derive(Clone, Debug, PartialEq)]
pub enum TurnEvent {
    /// A tool is at work, or done.
    Step {
        /// Its name.
        tool: String,
        /// How far.
        phase: StepPhase,
    },
    /// A call's arguments were none: what is wrong, in the tool's words and without the value. The model is told and can try
    /// again.
    Invalid {
        /// The tool's name.
        tool: String,
        /// Which argument.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A sentence of the reply that passed every check. Sentences come in order and are the reply's text, piece by piece.
    Sentence(String),
    /// What was shown so far is void: this stands in its place (a later sentence did not pass).
    Replace(String),
    /// A person is asked.
    Card(Card),
}

/// How far a tool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepPhase {
    /// It runs.
    Started,
    /// It gave a result.
    Done,
    /// It said no, or broke.
    Failed,
    /// A person is asked first.
    Waits,
    /// Whoever runs the agent is asked first.
    WaitsForOperator,
}

/// An action that waits for a person's click, made by code from its arguments (no word of it is the model's).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// The one-use token, bound to session, tool and arguments; set by the runtime.
    pub token: String,
    /// `Return order BK-1001?`
    pub title: String,
    /// What is done to what: name and value.
    pub rows: Vec<(String, String)>,
    /// The label of the button that does it.
    pub action: String,
    /// Milliseconds since the epoch after which it is void.
    pub expires_ms: u64,
}

/// How a turn ended well.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// What the person reads: every sentence that was released, or what replaced them.
    pub text: String,
    /// An action that waits.
    pub card: Option<Card>,
    /// A check failed, and `text` is the fallback.
    pub withheld: Vec<String>,
    /// The conversation was handed to a person, and why.
    pub handed_off: Option<HandOff>,
    /// Which turn of the conversation it belongs to, from 1: what a judgement names. 0 before there is one.
    pub turn: u32,
}

/// Why a conversation was handed to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOff {
    /// The person asked for one.
    Asked,
    /// No model may be asked any more: a spent budget, a cut.
    Refused(Reason),
}

/// How a turn did not come about. Each is told apart in the log, in a status and in words.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TurnError {
    /// Too many requests (G80).
    #[error("Rate limit exceeded. Max {max} requests per {window}.")]
    RateLimited {
        /// How many.
        max: u32,
        /// `hour`, `minute`.
        window: &'static str,
        /// When one more is let in, in seconds.
        retry_after_s: u32,
    },
    /// The message itself is at fault (G49: 400).
    #[error("{problem}")]
    Invalid {
        /// What is wrong, and the limit.
        problem: String,
    },
    /// It looks like an attack (G76).
    #[error(
        "Your input appears to contain instructions that could compromise security. Input flagged as potentially malicious \
         (confidence: {confidence_percent}%). Detected patterns: {}.", patterns.join(", ")
    )]
    Injection {
        /// In hundredths.
        confidence_percent: u8,
        /// Categories, each once, in the order of the list.
        patterns: Vec<String>,
    },
    /// The conversation is over: the most turns were had, or it is another's.
    #[error("{problem}")]
    SessionOver {
        /// What to do.
        problem: String,
    },
    /// What a card, or a question to the operator, waits for is over.
    #[error("{problem}")]
    CardOver {
        /// How, as far as that may be told.
        problem: String,
    },
    /// The model gave no answer.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It took too long.
    #[error("the answer took longer than {seconds} s")]
    TooLate {
        /// The limit.
        seconds: u32,
    },
    /// A part that nothing passes without is not there: the log, the session store.
    #[error("{what} cannot be used")]
    Unavailable {
        /// Which.
        what: &'static str,
    },
}
