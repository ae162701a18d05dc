//! Gemini's endpoints: generateContent (whole and streamed), countTokens, models.

use serde_json::{Map, Value, json};

use crate::count::tokens;
use crate::openai::{encoded, gather};
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused, query_value};
use crate::script::{Answer, Ended, Prompt, words};
use crate::usage::{Figures, Shown, Wants, counted_tokens};

const MODELS: [&str; 2] = ["gemini-2.5-pro", "gemini-2.5-flash"];
/// Candidates that one request may ask for, as at the real provider.
const CANDIDATES_MAX: u32 = 8;
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
    if verb == Verb::Count {
        let counted = counted_tokens(&ask.config.usage, &request, ask.body.len());
        return Ok(Outcome::json(200, &json!({"totalTokens": counted})));
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
    if cap == Some(0) {
        return Err(Refused::because(
            400,
            "* GenerateContentRequest.generation_config.max_output_tokens: must be positive",
        ));
    }
    let count = config.and_then(|config| config.get("candidateCount")?.as_u64()).unwrap_or(1);
    let Some(answers) = u32::try_from(count).ok().filter(|count| (1..=CANDIDATES_MAX).contains(count)) else {
        return Err(Refused::because(400, "* GenerateContentRequest.generation_config.candidate_count: 1 to 8"));
    };
    let wants = Wants {
        request: &request,
        body_bytes: ask.body.len(),
        cap,
        answers,
        writes_cache: false,
        compacts: false,
        thinks: true,
        earlier: 0,
        cached: None,
    };
    let planned = ask.plan(reply, &wants);
    let about = About { model, usage: &planned.usage, id: format!("sim-{:08}", ask.serial) };
    let outcome = match verb {
        Verb::Stream if query_value(ask.query, "alt").as_deref() == Some("sse") => stream(&about, &planned.answers),
        Verb::Stream => array(&about, &planned.answers),
        Verb::Whole | Verb::Count => whole(&about, &planned.answers),
    };
    Ok(outcome.charged(planned.usage.cost()))
}

/// What stands in every part of an answer.
struct About<'a> {
    model: &'a str,
    usage: &'a Figures,
    id: String,
}

/// One candidate as far as a part of the answer shows it.
struct Shows<'a> {
    index: usize,
    parts: &'a [Value],
    ended: Option<Ended>,
}

impl About<'_> {
    fn chunk(&self, shows: &[Shows<'_>], told: Told) -> Value {
        let candidates: Vec<Value> = shows
            .iter()
            .map(|shows| {
                let mut candidate = json!({"content": {"role": "model", "parts": shows.parts}, "index": shows.index});
                if let Some(ended) = shows.ended {
                    candidate["finishReason"] = json!(if ended == Ended::ByCap { "MAX_TOKENS" } else { "STOP" });
                }
                candidate
            })
            .collect();
        let mut chunk = json!({"candidates": candidates, "modelVersion": self.model, "responseId": self.id});
        if let Some(figures) = self.figures(told) {
            chunk["usageMetadata"] = figures;
        }
        chunk
    }

    fn figures(&self, told: Told) -> Option<Value> {
        let (usage, read) = (self.usage, self.usage.read());
        let seen = usage.bill.output - usage.thinking;
        let Some(telling) = usage.random else {
            return Some(match told {
                Told::Meanwhile(_) => json!({"promptTokenCount": read, "totalTokenCount": read}),
                Told::AtEnd => {
                    json!({"promptTokenCount": read, "totalTokenCount": read + seen, "candidatesTokenCount": seen})
                }
            });
        };
        let figures = |written: u64, thoughts: u64| {
            json!({
                "promptTokenCount": read,
                "cachedContentTokenCount": usage.bill.cache_read,
                "candidatesTokenCount": written,
                "thoughtsTokenCount": thoughts,
                "totalTokenCount": read + written + thoughts,
            })
        };
        match (telling.shown, told) {
            (Shown::Missing, _) => None,
            (Shown::AtEnd | Shown::ZeroThenReal | Shown::Repeated, Told::AtEnd) => Some(figures(seen, usage.thinking)),
            (Shown::AtEnd, Told::Meanwhile(_)) => Some(json!({"promptTokenCount": read, "totalTokenCount": read})),
            (Shown::ZeroThenReal, Told::Meanwhile(_)) => Some(json!({"promptTokenCount": 0, "totalTokenCount": 0})),
            (Shown::Repeated, Told::Meanwhile(written)) => Some(figures(written, 0)),
        }
    }
}

/// Where in the answer its figures stand.
#[derive(Clone, Copy)]
enum Told {
    /// So many tokens were written until then.
    Meanwhile(u64),
    AtEnd,
}

fn call_part(answer: &Answer) -> Option<Value> {
    let tool = answer.tool.as_ref()?;
    Some(json!({"functionCall": {"name": tool.name, "args": tool.input}}))
}

fn whole(about: &About<'_>, answers: &[Answer]) -> Outcome {
    let parts: Vec<Vec<Value>> = answers
        .iter()
        .map(|answer| {
            let text = (!answer.text.is_empty()).then(|| json!({"text": answer.text}));
            text.into_iter().chain(call_part(answer)).collect()
        })
        .collect();
    let shows = parts.iter().zip(answers).enumerate();
    let shows: Vec<Shows<'_>> =
        shows.map(|(index, (parts, answer))| Shows { index, parts, ended: Some(answer.ended) }).collect();
    Outcome::json(200, &about.chunk(&shows, Told::AtEnd))
}

/// A part of a streamed answer, and how much of the output it is.
struct Chunk {
    json: Value,
    output: u64,
    hidden: u64,
}

fn chunks(about: &About<'_>, answers: &[Answer]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (index, answer) in answers.iter().enumerate() {
        let (mut hidden, mut written) = (answer.thinking, 0);
        for word in words(&answer.text) {
            let parts = [json!({"text": word})];
            let json = about.chunk(&[Shows { index, parts: &parts, ended: None }], Told::Meanwhile(tokens(written)));
            written += word.len() as u64;
            chunks.push(Chunk { json, output: word.len() as u64, hidden: std::mem::take(&mut hidden) });
        }
        let output = answer.tool.as_ref().map_or(0, |tool| tool.name.len() + tool.arguments().len());
        let last: Vec<Value> = call_part(answer).into_iter().collect();
        let told = if index + 1 == answers.len() { Told::AtEnd } else { Told::Meanwhile(tokens(written)) };
        let json = about.chunk(&[Shows { index, parts: &last, ended: Some(answer.ended) }], told);
        chunks.push(Chunk { json, output: output as u64, hidden });
    }
    chunks
}

fn error() -> Value {
    json!({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}})
}

fn event(json: &Value) -> Vec<u8> {
    encoded(&carboy_wire::sse::Event::new("", json.to_string()))
}

fn stream(about: &About<'_>, answers: &[Answer]) -> Outcome {
    let chunks = chunks(about, answers).into_iter();
    let mut steps: Vec<Step> =
        chunks.map(|chunk| Step::of(event(&chunk.json), chunk.output).after(chunk.hidden)).collect();
    if let Some(last) = steps.last_mut() {
        last.sums_up = true;
    }
    Outcome::events(steps, event(&error()))
}

/// Without `alt=sse` the chunks are the members of one JSON array.
fn array(about: &About<'_>, answers: &[Answer]) -> Outcome {
    let chunks = chunks(about, answers).into_iter().zip(0..);
    let mut steps: Vec<Step> = chunks
        .map(|(chunk, number)| {
            let before = if number == 0 { "[" } else { "\n,\r\n" };
            Step::of(format!("{before}{}", chunk.json).into_bytes(), chunk.output).after(chunk.hidden)
        })
        .collect();
    if let Some(last) = steps.last_mut() {
        last.sums_up = true;
    }
    steps.push(Step::of(b"\n]".to_vec(), 0));
    let mut outcome = Outcome::events(steps, format!("\n,\r\n{}\n]", error()).into_bytes());
    outcome.content_type = "application/json; charset=UTF-8";
    outcome
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
