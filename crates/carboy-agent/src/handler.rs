//! Tools in Rust: arguments are a type, and the schema that the model is told comes from that type.
//!
//! ```text
//!  JSON ─▶ control characters out ─▶ typed by serde ─▶ Handler::check (lengths, shapes) ─▶ canonical JSON ─▶ call
//! ```
//!
//! *Must never* run with arguments that its `check` has not seen.

use std::sync::Arc;

use carboy_core::ports::Later;
use carboy_wire::chat::ToolSchema;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::outcome::Card;
use crate::principal::Principal;
use crate::tool::{
    Authorization, Call, Effect, InvalidArguments, Output, Retry, Tool, ToolError, ToolSpec, least_privilege,
};

/// A tool whose arguments are a type. Give the type `#[serde(deny_unknown_fields)]`: an unknown argument is an error.
pub trait Handler: Send + Sync + 'static {
    /// Its arguments.
    type Args: DeserializeOwned + Serialize + JsonSchema + Send + Sync;

    /// What the model calls it.
    const NAME: &'static str;
    /// What the model is told of it.
    const DESCRIPTION: &'static str;
    /// What it does to the world.
    const EFFECT: Effect;

    /// What happens to a write whose outcome nobody knows. A handler that writes keeps `call.idempotency_key` with what it
    /// wrote and does nothing the second time; one that cannot says [`Retry::Report`].
    const RETRY: Retry = Retry::SameKey;

    /// Lengths, shapes, spellings (G14, G15). Control characters are already out.
    fn check(&self, args: Self::Args) -> Result<Self::Args, InvalidArguments>;

    /// May this principal make this call?
    fn authorize(&self, principal: &Principal, args: &Self::Args) -> Authorization {
        let _ = args;
        least_privilege(Self::EFFECT, principal)
    }

    /// What a person is shown before it runs.
    fn card(&self, args: &Self::Args) -> Option<Card> {
        let _ = args;
        None
    }

    /// Could it run at all? Asked before a person is.
    fn precheck(&self, call: &Call<'_>, args: &Self::Args) -> Result<(), ToolError> {
        let _ = (call, args);
        Ok(())
    }

    /// Runs it. `call.arguments` are `args` as JSON.
    fn call<'a>(&'a self, call: Call<'a>, args: Self::Args) -> Later<'a, Result<Output, ToolError>>;
}

/// The handler as a tool among others.
pub fn tool<H: Handler>(handler: H) -> Arc<dyn Tool> {
    let mut schema = schemars::generate::SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator()
        .into_root_schema_for::<H::Args>()
        .to_value();
    if let Some(schema) = schema.as_object_mut() {
        schema.remove("title");
    }
    let schema = ToolSchema { name: H::NAME.to_owned(), description: H::DESCRIPTION.to_owned(), input_schema: schema };
    Arc::new(Typed { handler, spec: ToolSpec { schema, effect: H::EFFECT } })
}

struct Typed<H> {
    handler: H,
    spec: ToolSpec,
}

impl<H: Handler> Typed<H> {
    /// Arguments that [`Tool::check`] gave back, typed again.
    fn typed(&self, arguments: &Map<String, Value>) -> Result<H::Args, InvalidArguments> {
        H::Args::deserialize(Value::Object(arguments.clone())).map_err(|error| InvalidArguments {
            field: "arguments".into(),
            problem: without_values(&error.to_string()),
        })
    }
}

/// Serde quotes what it found; a model's text is not repeated to it or to a log.
fn without_values(error: &str) -> String {
    // Names that serde repeats here are the type's own.
    if ["missing field", "duplicate field"].iter().any(|start| error.starts_with(start)) {
        return error.chars().filter(|c| !c.is_control()).take(200).collect();
    }
    if let Some(start) = ["unknown field", "unknown variant"].into_iter().find(|start| error.starts_with(start)) {
        // What was found stands first; what follows the last "expected" is the type's own, where it has any names.
        let own = error.rsplit_once(", expected ").filter(|_| !error.contains(", there are no "));
        return own.map_or(start.to_owned(), |(_, own)| format!("{start}, expected {own}"));
    }
    match (error.strip_prefix("invalid type: "), error.rsplit_once("expected ")) {
        (Some(_), Some((_, expected))) => format!("not of the right type, expected {expected}"),
        _ => "not of the form that the schema says".to_owned(),
    }
}

impl<H: Handler> Tool for Typed<H> {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn check(&self, arguments: &Value) -> Result<Map<String, Value>, InvalidArguments> {
        let Value::Object(given) = crate::tool::without_control(arguments) else {
            return Err(InvalidArguments { field: "arguments".into(), problem: "not a JSON object".into() });
        };
        let args = self.handler.check(self.typed(&given)?)?;
        match serde_json::to_value(args) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) | Err(_) => {
                Err(InvalidArguments { field: "arguments".into(), problem: "they have no canonical form".into() })
            }
        }
    }

    fn authorize(&self, principal: &Principal, arguments: &Map<String, Value>) -> Authorization {
        match self.typed(arguments) {
            Ok(args) => self.handler.authorize(principal, &args),
            Err(error) => Authorization::Denied(error.to_string()),
        }
    }

    fn card(&self, arguments: &Map<String, Value>) -> Option<Card> {
        self.handler.card(&self.typed(arguments).ok()?)
    }

    fn precheck(&self, call: &Call<'_>) -> Result<(), ToolError> {
        let args = self.typed(call.arguments).map_err(invalid)?;
        self.handler.precheck(call, &args)
    }

    fn retry(&self) -> Retry {
        H::RETRY
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Later<'a, Result<Output, ToolError>> {
        match self.typed(call.arguments) {
            Ok(args) => self.handler.call(call, args),
            Err(error) => Box::pin(std::future::ready(Err(invalid(error)))),
        }
    }
}

fn invalid(error: InvalidArguments) -> ToolError {
    ToolError::Refused { code: "invalid_arguments", message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct One {
        #[serde(rename = "kind")]
        _kind: Kind,
    }
    #[derive(Debug, Deserialize)]
    enum Kind {
        A,
    }

    #[test]
    fn g16_g67_what_a_model_wrote_is_not_repeated_to_it_or_to_a_log() {
        let of = |error: serde_json::Error| without_values(&error.to_string());
        for (json, told) in [
            (r#"{"EVIL": 1}"#, "unknown field, expected `kind`"),
            (r#"{"x, expected EVIL": 1}"#, "unknown field, expected `kind`"),
            (r#"{"kind": "EVIL"}"#, "unknown variant, expected `A`"),
            (r#"{"kind": "x, expected EVIL"}"#, "unknown variant, expected `A`"),
            (r#"{"kind": "x, there are no EVIL"}"#, "unknown variant"),
            ("{}", "missing field `kind`"),
        ] {
            let error = serde_json::from_str::<Value>(json).and_then(|value| One::deserialize(&value)).unwrap_err();
            assert_eq!(of(error), told, "{json}");
        }
        let given = serde_json::json!({"x, expected EVIL": 1});
        assert_eq!(of(Nothing::deserialize(&given).unwrap_err()), "unknown field");
        let _ = Kind::A;
    }
}
