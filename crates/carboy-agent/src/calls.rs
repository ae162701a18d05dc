//! One call that a model asked for, from its name to its result. Read it with `turn`: this is its fifth layer.
//!
//! | step | type | what it proves |
//! |---|---|---|
//! | 1 | `Known` | the agent has the tool, and the arguments are of a size that is read |
//! | 2 | `Checked` | control characters are out, lengths and shapes are right (G14–G17) |
//! | 3 | `Authorized` | this principal may make this call, by the file's rules or the tool's own |
//! | 4 | `Due` | what has to succeed before did, for the same key, and the tool may be used once more (G11, G88) |
//! | 5 | `Possible` | the tool itself sees no reason why it could not run |
//! | 6 | `Cleared` | it needs no confirmation, or a person gave one for exactly these arguments (I5) |
//! | 7 | `Ran` | it was run, within its time; what it gave back is bounded |
//!
//! Each step consumes the one before it; none has a constructor outside of this file. *Must never* run a tool by another way,
//! or tell a model why something failed inside.

use std::sync::Arc;
use std::time::Duration;

use carboy_core::ask::{Answerer, Spent};
use carboy_core::chat::{AuthorizationEffect, AuthorizationRule, ChatSpec, Confirm};
use serde_json::{Map, Value, json};

use crate::guard_state::GuardState;
use crate::principal::Principal;
use crate::requires::{Demands, NotYet};
use crate::tool::{Authorization, Call, Effect, Output, Tool, ToolError, without_control};
use crate::unasked::Unasked;

/// What the engine knows of tools: the agent's, and what its file demands of them.
pub(crate) struct Tools {
    list: Vec<Arc<dyn Tool>>,
    rules: Vec<AuthorizationRule>,
    pub(crate) demands: Demands,
    arguments_bytes_max: usize,
    result_bytes_max: usize,
    wait: Duration,
}

/// A call that does not run: what the model is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct No {
    /// A stable word.
    pub(crate) code: &'static str,
    /// What is wrong, and what to do.
    pub(crate) message: String,
    /// Which argument, where it is one.
    pub(crate) field: Option<String>,
    /// Who said that this principal may not: `rule` or `tool`.
    pub(crate) denied_by: Option<&'static str>,
}

impl No {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> No {
        No { code, message: message.into(), field: None, denied_by: None }
    }

    /// As the model reads it.
    pub(crate) fn to_json(&self) -> Value {
        let mut text = json!({"error": self.code, "message": self.message});
        if let (Some(field), Some(map)) = (&self.field, text.as_object_mut()) {
            map.insert("field".into(), field.as_str().into());
        }
        without_control(&text)
    }
}

/// Step 1.
pub(crate) struct Known<'e> {
    tools: &'e Tools,
    tool: &'e Arc<dyn Tool>,
    input: Value,
}

/// Step 2.
pub(crate) struct Checked<'e> {
    tools: &'e Tools,
    tool: &'e Arc<dyn Tool>,
    arguments: Map<String, Value>,
}

/// Step 3.
pub(crate) struct Authorized<'e>(Checked<'e>);

/// Step 4.
pub(crate) struct Due<'e>(Checked<'e>);

/// Step 5.
pub(crate) struct Possible<'e>(Checked<'e>);

/// Step 6.
pub(crate) struct Cleared<'e>(Checked<'e>);

/// Where a possible call goes.
pub(crate) enum Next<'e> {
    /// It runs.
    Run(Cleared<'e>),
    /// A person is asked.
    Ask(Possible<'e>),
    /// Whoever runs the agent is.
    Request(Possible<'e>),
}

/// The code of a run that nobody waited for to its end.
pub(crate) const LATE: &str = "tool_too_late";

/// Step 7: how it ended.
#[derive(Debug)]
pub(crate) enum Ran {
    /// It gave a result.
    Done(Output),
    /// Its answer is no.
    Refused(No),
    /// It broke, or gave back too much. The particulars are the operator's.
    Failed { no: No, particulars: String },
    /// Nobody waited any longer: whether it was done is not known.
    TooLate(No),
}

impl Tools {
    pub(crate) fn new(spec: &ChatSpec, list: Vec<Arc<dyn Tool>>) -> Tools {
        Tools {
            list,
            rules: spec.authorize.clone(),
            demands: Demands::new(&spec.rules),
            arguments_bytes_max: spec.limits.tool_arguments_bytes_max as usize,
            result_bytes_max: spec.limits.tool_result_bytes_max as usize,
            wait: Duration::from_millis(spec.limits.tool_wait_ms.into()),
        }
    }

    /// The tool of this name, by its own name: a model's spelling goes no further.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.list.iter().find(|tool| tool.spec().schema.name == name)
    }

    /// Step 1. Without an input it was too large to be kept.
    pub(crate) fn know(&self, name: &str, input: Option<&Value>) -> Result<Known<'_>, No> {
        let Some(tool) = self.named(name) else {
            let names: Vec<&str> = self.list.iter().map(|tool| tool.spec().schema.name.as_str()).collect();
            return Err(No::new("unknown_tool", format!("there is no such tool; the tools are {}", names.join(", "))));
        };
        let bytes_max = self.arguments_bytes_max;
        let Some(input) = input.filter(|input| !is_larger(input, bytes_max)) else {
            let depth_max = crate::answer::ARGUMENTS_DEPTH_MAX;
            let message = format!("arguments have at most {bytes_max} octets and {depth_max} levels; send less");
            return Err(No::new("arguments_too_large", message));
        };
        Ok(Known { tools: self, tool, input: input.clone() })
    }

    fn ruled(&self, principal: &Principal, tool: &str, arguments: &Map<String, Value>) -> Option<AuthorizationEffect> {
        let given =
            |name: &String| arguments.get(name).is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)));
        let fits = |rule: &&AuthorizationRule| {
            (rule.tools.is_empty() || rule.tools.contains(tool))
                && (rule.users.is_empty() || rule.users.contains(&principal.id))
                && (rule.roles.is_empty() || rule.roles.iter().any(|role| principal.roles.contains(role)))
                && (rule.arguments.is_empty() || rule.arguments.iter().any(given))
        };
        self.rules.iter().find(fits).map(|rule| rule.effect)
    }
}

/// Longer as JSON than this? Counted, not built.
pub(crate) fn is_larger(value: &Value, bytes_max: usize) -> bool {
    struct Left(usize);
    impl std::io::Write for Left {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::FileTooLarge)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Left(bytes_max), value).is_err()
}

impl<'e> Known<'e> {
    /// The tool's own name.
    pub(crate) fn name(&self) -> &'e str {
        &self.tool.spec().schema.name
    }

    /// Step 2.
    pub(crate) fn check(self) -> Result<Checked<'e>, No> {
        let Known { tools, tool, input } = self;
        let arguments = tool.check(&input).map_err(|error| No {
            code: "invalid_arguments",
            message: error.to_string(),
            field: Some(error.field),
            denied_by: None,
        })?;
        Ok(Checked { tools, tool, arguments })
    }
}

impl<'e> Checked<'e> {
    pub(crate) fn arguments(&self) -> &Map<String, Value> {
        &self.arguments
    }

    /// Step 3. The first rule that fits decides, and without one the tool.
    pub(crate) fn authorize(self, principal: &Principal) -> Result<Authorized<'e>, No> {
        let denied = |message: String, by| Err(No { denied_by: Some(by), ..No::new("not_authorized", message) });
        match self.tools.ruled(principal, &self.tool.spec().schema.name, &self.arguments) {
            Some(AuthorizationEffect::Allow) => Ok(Authorized(self)),
            Some(AuthorizationEffect::Deny) => denied("this person may not do this".into(), "rule"),
            None => match self.tool.authorize(principal, &self.arguments) {
                Authorization::Allowed => Ok(Authorized(self)),
                Authorization::Denied(message) => denied(message, "tool"),
            },
        }
    }
}

impl<'e> Authorized<'e> {
    /// Step 4.
    pub(crate) fn require(self, guard: &GuardState, now_ms: u64) -> Result<Due<'e>, No> {
        let checked = self.0;
        let met = checked.tools.demands.met(guard, &checked.tool.spec().schema.name, &checked.arguments, now_ms);
        match met {
            Ok(()) => Ok(Due(checked)),
            Err(not_yet) => Err(No::new(
                match &not_yet {
                    NotYet::Requires { .. } => "not_yet",
                    NotYet::TooOften { .. } => "too_often",
                },
                not_yet.to_string(),
            )),
        }
    }
}

impl<'e> Due<'e> {
    /// Step 5. The tool sees the state and changes nothing of it.
    pub(crate) fn precheck(self, principal: &Principal, guard: &GuardState, now_ms: u64) -> Result<Possible<'e>, No> {
        let checked = self.0;
        let mut guard = guard.clone();
        let call = Call { arguments: &checked.arguments, principal, guard: &mut guard, now_ms, idempotency_key: "" };
        match checked.tool.precheck(&call) {
            Ok(()) => Ok(Possible(checked)),
            Err(ToolError::Refused { code, message }) => Err(No::new(code, message)),
            Err(ToolError::Failed { .. }) => Err(broken()),
        }
    }
}

impl<'e> Possible<'e> {
    /// Step 6, or a question.
    pub(crate) fn next(self) -> Next<'e> {
        let spec = self.0.tool.spec();
        let confirm = self.0.tools.demands.of(&spec.schema.name).map_or(Confirm::AsTool, |rules| rules.confirm);
        match (confirm, spec.effect) {
            (Confirm::Operator, _) => Next::Request(self),
            (Confirm::Always, _) | (Confirm::AsTool, Effect::Write) => Next::Ask(self),
            (Confirm::Never, _) | (Confirm::AsTool, Effect::Read) => Next::Run(Cleared(self.0)),
        }
    }

    /// Step 6, by a person's click or the operator's word.
    pub(crate) fn confirmed<A: Answerer>(self, spent: Spent<A>) -> Cleared<'e> {
        let _ = spent; // it was made for these arguments: see `confirm`
        Cleared(self.0)
    }

    pub(crate) fn tool(&self) -> &'e Arc<dyn Tool> {
        self.0.tool
    }

    pub(crate) fn arguments(&self) -> &Map<String, Value> {
        &self.0.arguments
    }
}

impl<'e> Cleared<'e> {
    /// A write that a person confirmed and whose outcome nobody knows: everything was decided when it was first tried.
    pub(crate) fn again<A: Answerer>(
        tools: &'e Tools,
        tool: &'e Arc<dyn Tool>,
        arguments: Map<String, Value>,
        spent: Spent<A>,
    ) -> Cleared<'e> {
        let _ = spent;
        Cleared(Checked { tools, tool, arguments })
    }

    /// The same for one that asks nobody.
    pub(crate) fn begun(tools: &'e Tools, tool: &'e Arc<dyn Tool>, begun: &Unasked) -> Cleared<'e> {
        Cleared(Checked { tools, tool, arguments: begun.arguments.clone() })
    }

    pub(crate) fn name(&self) -> &'e str {
        &self.0.tool.spec().schema.name
    }

    pub(crate) fn effect(&self) -> Effect {
        self.0.tool.spec().effect
    }

    pub(crate) fn arguments(&self) -> &Map<String, Value> {
        &self.0.arguments
    }

    /// Step 7. How it ended is written into the state for those that build on it.
    pub(crate) async fn run(
        &self,
        principal: &Principal,
        guard: &mut GuardState,
        now_ms: u64,
        idempotency_key: &str,
    ) -> Ran {
        let Checked { tools, tool, arguments } = &self.0;
        let call = Call { arguments, principal, guard, now_ms, idempotency_key };
        let ran = match tokio::time::timeout(tools.wait, tool.call(call)).await {
            Ok(Ok(output)) => self.bounded(output),
            Ok(Err(ToolError::Refused { code, message })) => Ran::Refused(No::new(code, message)),
            Ok(Err(ToolError::Failed { particulars })) => Ran::Failed { no: broken(), particulars },
            Err(_) => {
                let seconds = tools.wait.as_secs();
                Ran::TooLate(No::new(LATE, format!("the tool gave no answer within {seconds} s")))
            }
        };
        let result = match &ran {
            Ran::Done(output) => Some(&output.value),
            Ran::Refused(_) | Ran::Failed { .. } | Ran::TooLate(_) => None,
        };
        tools.demands.ended(guard, self.name(), arguments, result, now_ms);
        ran
    }

    fn bounded(&self, output: Output) -> Ran {
        let bytes_max = self.0.tools.result_bytes_max;
        if is_larger(&output.value, bytes_max) {
            let no = No::new("result_too_large", "the result is too large; ask for less");
            return Ran::Failed { no, particulars: format!("its result has more than {bytes_max} octets") };
        }
        Ran::Done(Output { value: without_control(&output.value), released: output.released })
    }
}

fn broken() -> No {
    No::new("tool_failed", "the tool failed; say that this cannot be done now")
}
