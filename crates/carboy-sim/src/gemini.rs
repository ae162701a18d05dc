//! Gemini's endpoints: generateContent (whole and streamed), countTokens, models.

use serde_json::{Map, Value, json};

use crate::count::tokens;
use crate::openai::{encoded, gather};
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused};
use crate::script::{Answer, Ended, Prompt, words};

const MODELS: [&str; 2] = ["gemini-2.5-pro", "gemini-2.5-flash"];
/// Deepest schema for which an answer is made up.
const SCHEMA_DEPTH_MAX: usize = 8;

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Whole,
    Stream,
    Count,
}

/// `/v1beta/models/MODEL:VERB`
pub(crate) fn call(path: &str) -> Option<(&str, Verb)> {
    let rest = path.strip_prefix("/v1beta/models/").or_else(|| path.strip_prefix("/v1/models/"))?;
    let (model, verb) = rest.split_once(':')?;
    let verb = match verb {
        "generateContent" => Verb::Whole,
        "streamGenerateContent" => Verb::Stream,
        "countTokens" => Verb::Count,
        _ => return None,
    };
    Some((model, verb))
}

pub(crate) fn models() -> Outcome {
    let list = MODELS.map(|name| json!({"name": format!("models/{name}"), "displayName": name}));
    Outcome::json(200, &json!({"models": list}))
}

pub(crate) fn answer(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let Some((model, verb)) = call(ask.path) else { return Err(Refused::because(404, "No such method.")) };
    let request = ask.json()?;
    let input = tokens(ask.body.len() as u64);
    if verb == Verb::Count {
        return Ok(Outcome::json(200, &json!({"totalTokens": input})));
    }
    if request.get("contents").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Err(Refused::because(400, "* GenerateContentRequest.contents: contents is not specified"));
    }
    let config = request.get("generationConfig");
    let cap = config.and_then(|config| config.get("maxOutputTokens")?.as_u64());
    let mut reply = ask.config.script.reply(&prompt(&request));
    // Who asks for JSON of a shape is a program: words would be an error to it.
    let shape = config.and_then(|config| config.get("responseJsonSchema").or_else(|| config.get("responseSchema")));
    if let Some(shape) = shape {
        reply.text = of_shape(shape, 0).to_string();
        reply.tool = None;
    }
    let answer = Answer::within(reply, cap);
    let about = About { model, input, output: tokens(answer.bytes()), id: format!("sim-{:08}", ask.serial) };
    let outcome = if verb == Verb::Stream { stream(&about, &answer) } else { whole(&about, &answer) };
    Ok(outcome.charged(input, answer.bytes()))
}

/// What stands in every part of an answer.
struct About<'a> {
    model: &'a str,
    input: u64,
    output: u64,
    id: String,
}

impl About<'_> {
    fn chunk(&self, parts: &[Value], ended: Option<Ended>) -> Value {
        let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
        let mut usage = json!({"promptTokenCount": self.input, "totalTokenCount": self.input});
        if let Some(ended) = ended {
            candidate["finishReason"] = json!(if ended == Ended::ByCap { "MAX_TOKENS" } else { "STOP" });
            usage["candidatesTokenCount"] = json!(self.output);
            usage["totalTokenCount"] = json!(self.input + self.output);
        }
        json!({
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": self.model,
            "responseId": self.id,
        })
    }
}

fn call_part(answer: &Answer) -> Option<Value> {
    let tool = answer.tool.as_ref()?;
    Some(json!({"functionCall": {"name": tool.name, "args": tool.input}}))
}

fn whole(about: &About<'_>, answer: &Answer) -> Outcome {
    let text = (!answer.text.is_empty()).then(|| json!({"text": answer.text}));
    let parts: Vec<Value> = text.into_iter().chain(call_part(answer)).collect();
    Outcome::json(200, &about.chunk(&parts, Some(answer.ended)))
}

fn stream(about: &About<'_>, answer: &Answer) -> Outcome {
    let step = |chunk: Value, output: usize| Step {
        bytes: encoded(&carboy_wire::sse::Event::new("", chunk.to_string())),
        output: output as u64,
    };
    let mut steps: Vec<Step> =
        words(&answer.text).map(|word| step(about.chunk(&[json!({"text": word})], None), word.len())).collect();
    let call = call_part(answer);
    let output = answer.tool.as_ref().map_or(0, |tool| tool.name.len() + tool.arguments().len());
    let last: Vec<Value> = call.into_iter().collect();
    steps.push(step(about.chunk(&last, Some(answer.ended)), output));
    let error = json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}});
    Outcome::events(steps, step(error, 0).bytes)
}

/// The last turn is what counts; a tool's result stands in a part of its own.
fn prompt(request: &Map<String, Value>) -> Prompt {
    let mut prompt = Prompt::default();
    let last = request.get("contents").and_then(Value::as_array).and_then(|contents| contents.last());
    let parts = last.and_then(|last| last.get("parts"));
    for result in parts.and_then(Value::as_array).into_iter().flatten().filter_map(|p| p.get("functionResponse")) {
        prompt.after_tool = true;
        prompt.last.push_str(&result["response"].to_string());
    }
    if !prompt.after_tool {
        gather(parts, &mut prompt.last);
    }
    let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
    let declared = tools.filter_map(|tool| tool.get("functionDeclarations")?.as_array()).flatten();
    prompt.tools = declared.filter_map(|tool| Some(tool.get("name")?.as_str()?.to_owned())).collect();
    prompt
}

/// The plainest value of a JSON schema.
fn of_shape(shape: &Value, depth: usize) -> Value {
    if let Some(first) = shape.get("enum").and_then(Value::as_array).and_then(|values| values.first()) {
        return first.clone();
    }
    let kind = shape.get("type").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
    match kind.as_str() {
        "object" if depth < SCHEMA_DEPTH_MAX => {
            let members = shape.get("properties").and_then(Value::as_object).into_iter().flatten();
            Value::Object(members.map(|(name, shape)| (name.clone(), of_shape(shape, depth + 1))).collect())
        }
        "array" => json!([]),
        "integer" | "number" => shape.get("minimum").cloned().unwrap_or(json!(1)),
        "boolean" => json!(false),
        "string" => json!("simulated"),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_names_model_and_method() {
        assert_eq!(
            call("/v1beta/models/gemini-2.5-flash:streamGenerateContent"),
            Some(("gemini-2.5-flash", Verb::Stream))
        );
        assert_eq!(call("/v1/models/m:countTokens"), Some(("m", Verb::Count)));
        assert_eq!(call("/v1beta/models/m:embedContent"), None);
        assert_eq!(call("/v1beta/models"), None);
    }

    #[test]
    fn json_of_a_shape_is_what_a_program_asks_for() {
        let shape = json!({"type": "OBJECT", "properties": {
            "why": {"type": "STRING"}, "score": {"type": "INTEGER", "minimum": 7}, "kind": {"enum": ["a", "b"]},
        }});
        assert_eq!(of_shape(&shape, 0), json!({"why": "simulated", "score": 7, "kind": "a"}));
    }
}
