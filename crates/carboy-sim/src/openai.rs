//! OpenAI's endpoints except Responses: chat completions (whole and streamed), embeddings, models.

use base64::Engine as _;
use carboy_wire::openai::{
    CachedTokens, ChatChunk, ChatCompletion, ChatMessage, ChatUsage, Choice, ChunkChoice, ChunkDelta, DONE,
    FinishReason, FunctionCall, ReasoningTokens, ToolCall,
};
use carboy_wire::sse::Event;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::anthropic::push_line;
use crate::count::tokens;
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused, text_of};
use crate::script::{Answer, Ended, Prompt, fragments, words};

/// 2023-11-14, for every answer: the simulated provider has no clock.
pub(crate) const CREATED: u64 = 1_700_000_000;

const MODELS: [&str; 3] = ["gpt-5", "gpt-5-mini", "text-embedding-3-small"];

/// Texts in one embeddings request, as at the real provider.
const EMBEDDINGS_MAX: usize = 2048;
const DIMENSIONS_DEFAULT: u64 = 1536;
const DIMENSIONS_MAX: u64 = 4096;

pub(crate) fn models() -> Outcome {
    let data: Vec<Value> = MODELS
        .iter()
        .map(|id| json!({"id": id, "object": "model", "created": CREATED, "owned_by": "carboy-sim"}))
        .collect();
    Outcome::json(200, &json!({"object": "list", "data": data}))
}

pub(crate) fn chat(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = ask.json()?;
    let model = required_model(&request)?;
    let Some(messages) = request.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty()) else {
        return Err(Refused::because(400, "Missing required parameter: 'messages'."));
    };
    let cap = ["max_completion_tokens", "max_tokens"].iter().find_map(|key| request.get(*key)?.as_u64());
    let answer = Answer::within(ask.config.script.reply(&prompt(&request, messages)), cap);
    let usage = chat_usage(ask, &answer);
    let id = format!("chatcmpl-sim-{:08}", ask.serial);
    let streamed = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
    let outcome = if streamed {
        let asked = request.get("stream_options").and_then(|options| options.get("include_usage")?.as_bool());
        stream(&Chunks { id, model, with_usage: asked.unwrap_or(false) }, &answer, usage, ask.serial)
    } else {
        whole(id, model, &answer, usage, ask.serial)
    };
    Ok(outcome.charged(usage.prompt_tokens, answer.bytes()))
}

pub(crate) fn required_model(request: &Map<String, Value>) -> Result<String, Refused> {
    let model = text_of(request, "model");
    if model.is_empty() { Err(Refused::because(400, "you must provide a model parameter")) } else { Ok(model) }
}

fn chat_usage(ask: &Ask<'_>, answer: &Answer) -> ChatUsage {
    let (input, output) = (tokens(ask.body.len() as u64), tokens(answer.bytes()));
    ChatUsage {
        prompt_tokens: input,
        completion_tokens: output,
        total_tokens: input + output,
        prompt_tokens_details: CachedTokens::default(),
        completion_tokens_details: ReasoningTokens::default(),
    }
}

fn prompt(request: &Map<String, Value>, messages: &[Value]) -> Prompt {
    let mut prompt = Prompt::default();
    if let Some(last) = messages.last() {
        prompt.after_tool = last.get("role").and_then(Value::as_str) == Some("tool");
        gather(last.get("content"), &mut prompt.last);
    }
    let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
    prompt.tools = tools.filter_map(|tool| Some(tool.get("function")?.get("name")?.as_str()?.to_owned())).collect();
    prompt
}

/// Content is a text or a list of parts with texts.
pub(crate) fn gather(content: Option<&Value>, into: &mut String) {
    match content {
        Some(Value::String(text)) => push_line(into, text),
        Some(Value::Array(parts)) => {
            for text in parts.iter().filter_map(|part| part.get("text")?.as_str()) {
                push_line(into, text);
            }
        }
        Some(_) | None => {}
    }
}

fn finish_reason(ended: Ended) -> FinishReason {
    match ended {
        Ended::ByItself => FinishReason::Stop,
        Ended::ByCap => FinishReason::Length,
        Ended::ForTool => FinishReason::ToolCalls,
    }
}

fn whole(id: String, model: String, answer: &Answer, usage: ChatUsage, serial: u64) -> Outcome {
    let tool_calls = answer.tool.iter().map(|tool| ToolCall {
        index: None,
        id: Some(format!("call_sim_{serial:08}")),
        kind: Some("function"),
        function: FunctionCall { name: Some(tool.name.clone()), arguments: tool.arguments() },
    });
    let message = ChatMessage {
        role: "assistant",
        content: (!answer.text.is_empty()).then(|| answer.text.clone()),
        refusal: None,
        tool_calls: tool_calls.collect(),
    };
    let choice = Choice { index: 0, message, logprobs: None, finish_reason: finish_reason(answer.ended) };
    Outcome::json(
        200,
        &ChatCompletion {
            id,
            object: "chat.completion",
            created: CREATED,
            model,
            choices: vec![choice],
            usage,
            system_fingerprint: None,
        },
    )
}

/// What all chunks of one stream share.
struct Chunks {
    id: String,
    model: String,
    with_usage: bool,
}

impl Chunks {
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<ChatUsage>) -> Vec<u8> {
        let chunk = ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: CREATED,
            model: self.model.clone(),
            choices,
            usage: self.with_usage.then_some(usage),
        };
        encoded(&chunk.to_sse())
    }

    fn step(&self, delta: ChunkDelta, finish_reason: Option<FinishReason>, output: u64) -> Step {
        let choice = ChunkChoice { index: 0, delta, logprobs: None, finish_reason };
        Step { bytes: self.chunk(vec![choice], None), output }
    }
}

fn stream(chunks: &Chunks, answer: &Answer, usage: ChatUsage, serial: u64) -> Outcome {
    let first = ChunkDelta { role: Some("assistant"), content: Some(String::new()), tool_calls: Vec::new() };
    let mut steps = vec![chunks.step(first, None, 0)];
    for word in words(&answer.text) {
        let delta = ChunkDelta { content: Some(word.into()), ..ChunkDelta::default() };
        steps.push(chunks.step(delta, None, word.len() as u64));
    }
    if let Some(tool) = &answer.tool {
        let call = |id, kind, name, arguments| ChunkDelta {
            tool_calls: vec![ToolCall { index: Some(0), id, kind, function: FunctionCall { name, arguments } }],
            ..ChunkDelta::default()
        };
        let name = Some(tool.name.clone());
        let head = call(Some(format!("call_sim_{serial:08}")), Some("function"), name, String::new());
        steps.push(chunks.step(head, None, tool.name.len() as u64));
        for part in fragments(&tool.arguments()) {
            let bytes = part.len() as u64;
            steps.push(chunks.step(call(None, None, None, part), None, bytes));
        }
    }
    steps.push(chunks.step(ChunkDelta::default(), Some(finish_reason(answer.ended)), 0));
    if chunks.with_usage {
        steps.push(Step { bytes: chunks.chunk(Vec::new(), Some(usage)), output: 0 });
    }
    steps.push(Step { bytes: encoded(&Event::new("", DONE)), output: 0 });
    let error =
        json!({"error": {"message": "The server had an error.", "type": "server_error", "param": null, "code": null}});
    Outcome::events(steps, encoded(&Event::new("", error.to_string())))
}

pub(crate) fn encoded(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    event.encode(&mut bytes);
    bytes
}

pub(crate) fn embeddings(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = ask.json()?;
    let model = required_model(&request)?;
    let inputs: Vec<String> = match request.get("input") {
        Some(Value::String(text)) => vec![text.clone()],
        // Texts, or token lists; whatever it is, its JSON is what is embedded.
        Some(Value::Array(items)) if !items.is_empty() && items.len() <= EMBEDDINGS_MAX => {
            items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
        }
        Some(_) | None => return Err(Refused::because(400, "'input' has to be a text or 1 to 2048 texts.")),
    };
    let dimensions = request.get("dimensions").and_then(Value::as_u64).unwrap_or(DIMENSIONS_DEFAULT);
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(Refused::because(400, "'dimensions' has to be 1 to 4096."));
    }
    let base64 = request.get("encoding_format").and_then(Value::as_str) == Some("base64");
    let data = inputs.iter().enumerate().map(|(index, text)| {
        let vector = embedding(text, dimensions);
        let embedding = if base64 { base64_of(&vector) } else { json!(vector) };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    });
    let input = tokens(ask.body.len() as u64);
    let usage = json!({"prompt_tokens": input, "total_tokens": input});
    let body = json!({"object": "list", "data": data.collect::<Vec<_>>(), "model": model, "usage": usage});
    Ok(Outcome::json(200, &body).charged(input, 0))
}

/// A unit vector that depends on the text alone; it means nothing.
fn embedding(text: &str, dimensions: u64) -> Vec<f32> {
    let seed = Sha256::digest(text.as_bytes());
    let raw: Vec<f32> = (0..dimensions)
        .map(|i| {
            let byte =
                Sha256::new().chain_update(seed).chain_update((i / 32).to_le_bytes()).finalize()[(i % 32) as usize];
            f32::from(byte) - 127.5
        })
        .collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| x / length).collect()
}

fn base64_of(vector: &[f32]) -> Value {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    Value::String(base64::engine::general_purpose::STANDARD.encode(bytes))
}
