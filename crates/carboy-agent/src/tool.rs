//! Tools as values: what a model is told of them, what is checked before they run, and what they give back.
//!
//! A tool in Rust implements `Handler` (typed arguments, schema from the type); tools of MCP servers
//! implement [`Tool`] themselves. *Must never* be given a person's identity by the model.

use carboy_core::ports::Later;
use carboy_wire::chat::ToolSchema;
use serde_json::{Map, Value};

use crate::outcome::Card;
use crate::principal::Principal;

/// What a tool does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It looks.
    Read,
    /// It changes something: confirmed by a person unless its file says otherwise, and never done twice.
    Write,
}

/// What is known of a tool before it is called.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSpec {
    /// What the model is told.
    pub schema: ToolSchema,
    /// What it does to the world.
    pub effect: Effect,
}

/// Whether somebody may make a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// They may.
    Allowed,
    /// They may not, for this reason, which the model is told and which says nothing about anybody else.
    Denied(String),
}

/// A call whose arguments were read.
pub struct Call<'a> {
    /// Arguments that [`Tool::check`] gave back.
    pub arguments: &'a Map<String, Value>,
    /// Who asks, as the runtime knows it.
    pub principal: &'a Principal,
    /// What this session has proven, for tools in Rust.
    pub guard: &'a mut crate::guard_state::GuardState,
    /// Milliseconds since the epoch.
    pub now_ms: u64,
    /// The same for the same confirmed write, however often it is tried.
    pub idempotency_key: &'a str,
}

/// Something a model can ask for.
pub trait Tool: Send + Sync {
    /// What it is.
    fn spec(&self) -> &ToolSpec;

    /// Reads the arguments: control characters out, lengths and shapes checked (G14–G17). Gives them in canonical form.
    fn check(&self, arguments: &Value) -> Result<Map<String, Value>, InvalidArguments>;

    /// May this principal make this call? Least privilege by default: everybody may look, a verified principal or the
    /// terminal's user may change something.
    fn authorize(&self, principal: &Principal, arguments: &Map<String, Value>) -> Authorization {
        let _ = arguments;
        crate::tool::least_privilege(self.spec().effect, principal)
    }

    /// What a person is shown before it runs; made from its arguments by code. `None` takes a plain table of them.
    fn card(&self, arguments: &Map<String, Value>) -> Option<Card> {
        let _ = arguments;
        None
    }

    /// Could it run at all? Asked before a person is (a return that nobody proved is no question for a person).
    fn precheck(&self, call: &Call<'_>) -> Result<(), ToolError> {
        let _ = call;
        Ok(())
    }

    /// What happens to a write whose outcome nobody knows: the program ended while it ran.
    fn retry(&self) -> Retry {
        Retry::Report
    }

    /// Runs it.
    fn call<'a>(&'a self, call: Call<'a>) -> Later<'a, Result<Output, ToolError>>;
}

/// What happens to a write whose outcome nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It is tried again with the same idempotency key: the tool does it once however often it is called with it.
    SameKey,
    /// It is told to a person: nobody says that the tool does it only once.
    Report,
}

/// The default of [`Tool::authorize`].
pub fn least_privilege(effect: Effect, principal: &Principal) -> Authorization {
    use crate::principal::PrincipalKind::{Anonymous, Terminal, Verified};
    match (effect, principal.kind) {
        (Effect::Read, _) | (Effect::Write, Terminal | Verified) => Authorization::Allowed,
        (Effect::Write, Anonymous) => Authorization::Denied("this needs somebody who is signed in".into()),
    }
}

/// What a tool gives back.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The result that the model reads.
    pub value: Value,
    /// Values that a reply may mention now: what an id or a date in a reply is compared with. Those that the result's
    /// texts contain are added by the runtime.
    pub released: Vec<String>,
}

/// Arguments that are none; the model is told and can try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidArguments {
    /// Which.
    pub field: String,
    /// What is wrong, without the value.
    pub problem: String,
}

/// A call that did not succeed. What it says is for the model and leaks nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ToolError {
    /// The tool's answer is no; a structured error that the model can explain: `order_not_found`.
    #[error("{code}")]
    Refused {
        /// A stable word.
        code: &'static str,
        /// What the model is told.
        message: String,
    },
    /// It broke; the particulars go to the operator's log, not to the model.
    #[error("the tool failed")]
    Failed {
        /// For the operator.
        particulars: String,
    },
}

/// The same value without control characters in its texts and names (G14, G17); tab and line feed become spaces.
pub fn without_control(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(plain(text)),
        Value::Array(values) => Value::Array(values.iter().map(without_control).collect()),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(name, value)| (plain(name), without_control(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

fn plain(text: &str) -> String {
    let spaced = text.chars().map(|c| if matches!(c, '\t' | '\n') { ' ' } else { c });
    spaced.filter(|c| !c.is_control()).collect()
}
