//! What the offline model is told: the conversation and the tools of a request, in one shape for both formats.
//!
//! *Must never* fail on a request that an endpoint took: what is not understood is left out.

use serde_json::{Map, Value};

/// A request as the offline model reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Conversation {
    /// Every system text, in order.
    pub system: String,
    pub tools: Vec<Offer>,
    pub turns: Vec<Turn>,
}

/// A tool on offer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Offer {
    pub name: String,
    pub description: String,
    pub params: Vec<Param>,
}

/// One argument of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Param {
    pub name: String,
    pub kind: Kind,
    pub description: String,
    /// The values that it may have, where they are listed.
    pub options: Vec<String>,
    pub pattern: String,
    pub required: bool,
}

/// What an argument is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    Number,
    Flag,
    List,
    Other,
}

/// A part of the conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Turn {
    /// What a person wrote.
    Person(String),
    /// What the runtime wrote: it begins with a bracket.
    Note(String),
    /// What was answered.
    Agent(String),
    /// A tool that was called, and what came of it.
    Result(Outcome),
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub tool: String,
    pub input: Value,
    /// As JSON, where it is JSON; else a text.
    pub value: Value,
    pub is_error: bool,
}

impl Conversation {
    /// Of an Anthropic request.
    pub fn of_messages(request: &Map<String, Value>) -> Conversation {
        let mut reading = Reading::default();
        let tools = list(request, "tools").filter_map(|tool| Offer::of(tool, tool.get("input_schema")));
        let mut system = String::new();
        texts(request.get("system"), &mut system);
        for message in list(request, "messages") {
            match (message["role"].as_str(), message.get("content")) {
                // A client may close with words of its own under the role `system`: they are nobody's turn.
                (Some("system"), content) => texts(content, &mut system),
                (role, Some(Value::String(text))) => reading.said(role, text),
                (role, Some(Value::Array(blocks))) => blocks.iter().for_each(|block| reading.block(role, block)),
                (_, Some(_) | None) => {}
            }
        }
        Conversation { system, tools: tools.collect(), turns: reading.turns }
    }

    /// Of a Chat Completions request.
    pub fn of_chat(request: &Map<String, Value>) -> Conversation {
        let mut reading = Reading::default();
        let tools = list(request, "tools").filter_map(|tool| {
            let function = tool.get("function")?;
            Offer::of(function, function.get("parameters"))
        });
        let mut system = String::new();
        for message in list(request, "messages") {
            let mut text = String::new();
            texts(message.get("content"), &mut text);
            match message["role"].as_str() {
                Some("system" | "developer") => push_line(&mut system, &text),
                Some("tool") => reading.result(&message["tool_call_id"], &text, false),
                role => reading.said(role, &text),
            }
            for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
                let function = &call["function"];
                let input = function["arguments"].as_str().and_then(|text| serde_json::from_str(text).ok());
                reading.call(&call["id"], &function["name"], input.unwrap_or(Value::Null));
            }
        }
        Conversation { system, tools: tools.collect(), turns: reading.turns }
    }

    /// The tool of that name, if it is on offer.
    pub fn tool(&self, name: &str) -> Option<&Offer> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// What the person wrote last.
    pub fn message(&self) -> &str {
        let said = self.turns.iter().rev().find_map(|turn| match turn {
            Turn::Person(text) => Some(&text[..]),
            Turn::Agent(_) | Turn::Result(_) | Turn::Note(_) => None,
        });
        said.unwrap_or_default()
    }

    /// What the runtime wrote, if nothing came after it.
    pub fn note(&self) -> Option<&str> {
        match self.turns.last() {
            Some(Turn::Note(text)) => Some(text),
            Some(Turn::Person(_) | Turn::Agent(_) | Turn::Result(_)) | None => None,
        }
    }

    /// What they wrote before that.
    pub fn message_before(&self) -> &str {
        let all: Vec<&str> = self.messages().collect();
        all.iter().rev().nth(1).copied().unwrap_or_default()
    }

    /// Everything the person wrote, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = &str> {
        self.turns.iter().filter_map(|turn| match turn {
            Turn::Person(text) => Some(&text[..]),
            Turn::Agent(_) | Turn::Result(_) | Turn::Note(_) => None,
        })
    }

    /// What came of the calls that were made since the person wrote.
    pub fn fresh(&self) -> Vec<&Outcome> {
        let mut fresh: Vec<&Outcome> = Vec::new();
        for turn in self.turns.iter().rev() {
            match turn {
                Turn::Person(_) | Turn::Note(_) => break,
                Turn::Result(outcome) => fresh.push(outcome),
                Turn::Agent(_) => {}
            }
        }
        fresh.reverse();
        fresh
    }

    /// What came of every call, the last one first.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.turns.iter().rev().filter_map(|turn| match turn {
            Turn::Result(outcome) => Some(outcome),
            Turn::Person(_) | Turn::Agent(_) | Turn::Note(_) => None,
        })
    }

    /// What was answered before the person's last words.
    pub fn answered(&self) -> &str {
        let mut person_seen = false;
        for turn in self.turns.iter().rev() {
            match turn {
                Turn::Person(_) => person_seen = true,
                Turn::Agent(text) if person_seen => return text,
                Turn::Agent(_) | Turn::Result(_) | Turn::Note(_) => {}
            }
        }
        ""
    }
}

/// What the runtime's own words to a model begin with.
const NOTE: &str = "[From the runtime";

/// A conversation while it is read: calls wait for their results.
#[derive(Default)]
struct Reading {
    turns: Vec<Turn>,
    calls: Vec<(String, String, Value)>,
}

impl Reading {
    fn said(&mut self, role: Option<&str>, text: &str) {
        if text.is_empty() {
            return;
        }
        match (role, self.turns.last_mut()) {
            // Parts of one message, and words that follow results.
            // A person who writes such a thing decides nothing by it here.
            (Some("user"), _) if text.starts_with(NOTE) => self.turns.push(Turn::Note(text.to_owned())),
            (Some("user"), Some(Turn::Person(before))) => push_line(before, text),
            (Some("user"), _) => self.turns.push(Turn::Person(text.to_owned())),
            (Some("assistant"), _) => self.turns.push(Turn::Agent(text.to_owned())),
            (Some(_) | None, _) => {}
        }
    }

    fn block(&mut self, role: Option<&str>, block: &Value) {
        match block["type"].as_str() {
            Some("text") => self.said(role, block["text"].as_str().unwrap_or_default()),
            Some("tool_use") => self.call(&block["id"], &block["name"], block["input"].clone()),
            Some("tool_result") => {
                let mut text = String::new();
                texts(block.get("content"), &mut text);
                self.result(&block["tool_use_id"], &text, block["is_error"] == true);
            }
            Some(_) | None => {}
        }
    }

    fn call(&mut self, id: &Value, name: &Value, input: Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.calls.push((text(id), text(name), input));
    }

    fn result(&mut self, id: &Value, text: &str, is_error: bool) {
        let call = self.calls.iter().rev().find(|(known, _, _)| Some(&known[..]) == id.as_str());
        let (tool, input) = call.map(|(_, name, input)| (name.clone(), input.clone())).unwrap_or_default();
        let value = unwrapped(text);
        let is_error = is_error || value.get("error").is_some_and(|error| !error.is_null() && *error != false);
        self.turns.push(Turn::Result(Outcome { tool, input, value, is_error }));
    }
}

/// A result as JSON: MCP servers wrap it in a list of texts, and some send JSON as a text.
fn unwrapped(text: &str) -> Value {
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    if let Some(Value::Array(blocks)) = value.get("content")
        && blocks.first().is_some_and(|block| block["type"] == "text")
    {
        let mut inner = String::new();
        texts(value.get("content"), &mut inner);
        return serde_json::from_str(&inner).unwrap_or(Value::String(inner));
    }
    match &value {
        Value::String(inner) => match serde_json::from_str(inner) {
            Ok(inner @ (Value::Object(_) | Value::Array(_))) => inner,
            Ok(_) | Err(_) => value,
        },
        Value::Object(_) | Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) => value,
    }
}

impl Offer {
    fn of(tool: &Value, schema: Option<&Value>) -> Option<Offer> {
        let text = |key: &str| tool.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = Some(text("name")).filter(|name| !name.is_empty())?;
        let schema = schema.unwrap_or(&Value::Null);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema["properties"].as_object().into_iter().flatten();
        let params = properties.map(|(name, schema)| Param::of(name, schema, required.contains(&&name[..])));
        Some(Offer { name, description: text("description"), params: params.collect() })
    }

    /// The argument of that name.
    pub fn param(&self, name: &str) -> Option<&Param> {
        self.params.iter().find(|param| param.name == name)
    }

    pub fn requires(&self, name: &str) -> bool {
        self.param(name).is_some_and(|param| param.required)
    }
}

impl Param {
    fn of(name: &str, schema: &Value, required: bool) -> Param {
        let mut param = Param {
            name: name.to_owned(),
            kind: Kind::Other,
            description: schema["description"].as_str().unwrap_or_default().to_owned(),
            options: Vec::new(),
            pattern: String::new(),
            required,
        };
        param.read(schema);
        // A value may be one of several schemas, null among them, or of several constants.
        for key in ["anyOf", "oneOf", "allOf"] {
            schema[key].as_array().into_iter().flatten().for_each(|schema| param.read(schema));
        }
        param
    }

    fn read(&mut self, schema: &Value) {
        let types = match &schema["type"] {
            Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
            Value::String(one) => vec![&one[..]],
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
        };
        for kind in types {
            self.kind = match kind {
                "string" => Kind::Text,
                "integer" => Kind::Integer,
                "number" => Kind::Number,
                "boolean" => Kind::Flag,
                "array" => Kind::List,
                _ => self.kind,
            };
        }
        let constants = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
        self.options.extend(constants.filter_map(|value| Some(value.as_str()?.to_owned())));
        if let Some(pattern) = schema["pattern"].as_str() {
            self.pattern = pattern.to_owned();
        }
    }
}

fn list<'a>(request: &'a Map<String, Value>, key: &str) -> impl Iterator<Item = &'a Value> {
    request.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Content is a text, or a list of blocks with texts.
fn texts(content: Option<&Value>, into: &mut String) {
    match content {
        Some(Value::String(text)) => push_line(into, text),
        Some(Value::Array(blocks)) => {
            blocks.iter().filter_map(|block| block.get("text")?.as_str()).for_each(|text| push_line(into, text));
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => {}
    }
}

fn push_line(text: &mut String, line: &str) {
    if !text.is_empty() && !line.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn both_formats_are_read_to_the_same_conversation() {
        let schema = json!({"type": "object", "required": ["order_id"], "properties": {
            "order_id": {"type": "string", "pattern": "^BK-[0-9]{4}$", "description": "The number."},
            "reason": {"anyOf": [{"type": "string", "enum": ["damaged", "other"]}, {"type": "null"}]}}});
        let anthropic = map(json!({
        "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Remember."}],
        "tools": [{"name": "look", "description": "Looks.", "input_schema": schema}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "t", "name": "look", "input": {"order_id": "BK-1"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "{\"status\":\"sent\"}"}]},
        ]}));
        let chat = map(json!({
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": schema}}],
        "messages": [
            {"role": "system", "content": "Be kind.\nRemember."},
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "Looking.", "tool_calls": [{"id": "t", "type": "function",
                "function": {"name": "look", "arguments": "{\"order_id\":\"BK-1\"}"}}]},
            {"role": "tool", "tool_call_id": "t", "content": "{\"status\":\"sent\"}"},
        ]}));
        let conversation = Conversation::of_messages(&anthropic);
        assert_eq!(conversation, Conversation::of_chat(&chat));
        let outcome = Outcome {
            tool: "look".into(),
            input: json!({"order_id": "BK-1"}),
            value: json!({"status": "sent"}),
            is_error: false,
        };
        let turns = [Turn::Person("hi".into()), Turn::Agent("Looking.".into()), Turn::Result(outcome)];
        assert_eq!(conversation.turns, turns);
        let look = conversation.tool("look").unwrap();
        assert!(look.requires("order_id") && !look.requires("reason"));
        assert_eq!(look.param("reason").unwrap().options, ["damaged", "other"]);
        assert_eq!(look.param("reason").unwrap().kind, Kind::Text);
    }

    #[test]
    fn a_result_in_mcps_wrapping_and_an_error_are_seen_through() {
        let mut reading = Reading::default();
        let id = json!("t");
        reading.call(&id, &json!("x"), json!({}));
        reading.result(&id, r#"{"content":[{"type":"text","text":"{\"a\":1}"}]}"#, false);
        reading.result(&id, r#""{\"error\":\"order_not_found\"}""#, false);
        reading.result(&id, "plain", true);
        let values = reading.turns.into_iter().map(|turn| match turn {
            Turn::Result(outcome) => (outcome.value, outcome.is_error),
            Turn::Person(_) | Turn::Agent(_) | Turn::Note(_) => panic!(),
        });
        let want = [(json!({"a": 1}), false), (json!({"error": "order_not_found"}), true), (json!("plain"), true)];
        assert_eq!(values.collect::<Vec<_>>(), want);
    }
}
