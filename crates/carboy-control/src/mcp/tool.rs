//! A server's tool as a tool of the agent.

use std::sync::Arc;
use std::time::Duration;

use carboy_agent::{Call, Effect, InvalidArguments, Output, Tool, ToolError, ToolSpec};
use carboy_core::ports::{Conversation, Later};
use carboy_wire::chat::ToolSchema;
use serde_json::{Map, Value, json};

use super::schema::{Compiled, Schema};
use super::{McpError, Server, plain};

/// Characters of a tool's name, as providers take them.
const NAME_CHARS_MAX: usize = 64;
/// Characters of what a model is told of it.
const DESCRIPTION_CHARS_MAX: usize = 4_096;
/// Characters of an error that a model is told.
const ERROR_CHARS_MAX: usize = 1_000;
/// JSON-RPC's number for arguments that are none.
const INVALID_PARAMS: i64 = -32_602;

/// A tool as its server listed it, checked.
pub(crate) struct Named {
    /// What its server calls it.
    pub(crate) name: String,
    description: String,
    schema: Value,
    compiled: Compiled,
    effect: Effect,
}

/// See the module.
pub(crate) struct McpTool {
    server: Arc<Server>,
    /// What its server calls it.
    name: String,
    spec: ToolSpec,
    compiled: Compiled,
    wait: Duration,
    result_bytes_max: usize,
}

impl Named {
    /// Reads one entry of `tools/list`.
    ///
    /// # Errors
    /// What of it is not taken, for the operator.
    pub(crate) fn read(listed: &Value) -> Result<Named, String> {
        let name = listed.get("name").and_then(Value::as_str).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || !name.chars().all(fits) {
            let shown = plain(name, NAME_CHARS_MAX);
            return Err(format!(
                "a tool is named `{shown}`; a name has 1 to {NAME_CHARS_MAX} letters, digits, `_` and `-`"
            ));
        }
        let schema = listed.get("inputSchema").cloned().unwrap_or_else(|| json!({"type": "object"}));
        let compiled = Schema::of_arguments(&schema).map_err(|why| format!("its tool `{name}`: {why}"))?;
        let description = listed.get("description").and_then(Value::as_str).unwrap_or_default();
        let description: String =
            description.chars().filter(|c| *c == '\n' || !c.is_control()).take(DESCRIPTION_CHARS_MAX).collect();
        // A hint, from a server that the agent's author chose; `confirm: always` in the agent's file does not ask for it.
        let effect = match listed.pointer("/annotations/readOnlyHint").and_then(Value::as_bool) {
            Some(true) => Effect::Read,
            Some(false) | None => Effect::Write,
        };
        Ok(Named { name: name.to_owned(), description, schema, compiled: Arc::new(compiled), effect })
    }
}

impl Named {
    /// Does it change anything?
    pub(crate) fn writes(&self) -> bool {
        self.effect == Effect::Write
    }
}

impl McpTool {
    /// The tool, under the name that the model is told.
    pub(crate) fn new(
        server: Arc<Server>,
        named: Named,
        shown: String,
        (wait, result_bytes_max): (Duration, usize),
    ) -> McpTool {
        let Named { name, description, schema, compiled, effect } = named;
        let schema = ToolSchema { name: shown, description, input_schema: schema };
        McpTool { server, name, spec: ToolSpec { schema, effect }, compiled, wait, result_bytes_max }
    }

    async fn run(&self, params: Value, conversation: Conversation) -> Result<Output, ToolError> {
        let result = self.server.call(params, self.wait, conversation).await.map_err(failed)?;
        let bytes = result.to_string().len();
        if bytes > self.result_bytes_max {
            let particulars = format!("its result has {bytes} octets, the limit is {}", self.result_bytes_max);
            return Err(ToolError::Failed { particulars });
        }
        let text = texts(&result);
        if result.get("isError").and_then(Value::as_bool) == Some(true) {
            return Err(ToolError::Refused { code: "tool_error", message: plain(&text, ERROR_CHARS_MAX) });
        }
        let value = match result.get("structuredContent") {
            Some(value @ Value::Object(_)) => value.clone(),
            Some(_) | None => serde_json::from_str(&text).unwrap_or_else(|_| json!({"text": text})),
        };
        Ok(Output { value: carboy_agent::tool::without_control(&value), released: Vec::new() })
    }
}

impl Tool for McpTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn check(&self, arguments: &Value) -> Result<Map<String, Value>, InvalidArguments> {
        let Value::Object(map) = carboy_agent::tool::without_control(arguments) else {
            return Err(InvalidArguments { field: "arguments".into(), problem: "not a JSON object".into() });
        };
        self.compiled.check(&map)?;
        Ok(map)
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Later<'a, Result<Output, ToolError>> {
        // Who asks is the runtime's to say, beside the arguments.
        let about = json!({
            "carboy/user": call.principal.id,
            "carboy/roles": call.principal.roles,
            "carboy/idempotency_key": call.idempotency_key,
        });
        let params = json!({"name": self.name, "arguments": call.arguments, "_meta": about});
        Box::pin(self.run(params, call.guard.conversation()))
    }
}

/// Its words, one after the other; what is no text is only named.
fn texts(result: &Value) -> String {
    let blocks = result.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let words = blocks.iter().map(|block| match block.get("text").and_then(Value::as_str) {
        Some(text) => text.to_owned(),
        None => {
            let kind = block.get("type").and_then(Value::as_str).unwrap_or("something");
            format!("[{} left out]", plain(kind, 40))
        }
    });
    words.collect::<Vec<_>>().join("\n")
}

fn failed(error: McpError) -> ToolError {
    match error {
        McpError::Rpc { code: INVALID_PARAMS, message } => ToolError::Refused { code: "invalid_arguments", message },
        McpError::Gone(_)
        | McpError::Stopped
        | McpError::Late { .. }
        | McpError::Rpc { .. }
        | McpError::Malformed(_)
        | McpError::TooLarge
        | McpError::Refused(_) => ToolError::Failed { particulars: error.to_string() },
    }
}
