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
use crate::count::{Bill, Cost, tokens};
use crate::offline::conversation::Conversation;
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused, text_of};
use crate::script::{Answer, Ended, Prompt, fragments, words};
use crate::usage::{Figures, Planned, Shown, Wants, input_tokens};

/// 2023-11-14, for every answer: the simulated provider has no clock.
pub(crate) const CREATED: u64 = 1_700_000_000;

const MODELS: [&str; 3] = ["gpt-5", "gpt-5-mini", "text-embedding-3-small"];

/// Answers that one request may ask for, as at the real provider.
const ANSWERS_MAX: u32 = 128;
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
    if cap == Some(0) {
        return Err(Refused::because(400, "Invalid 'max_tokens': integer below minimum value."));
    }
    let answers = request.get("n").and_then(Value::as_u64).unwrap_or(1);
    let Some(answers) = u32::try_from(answers).ok().filter(|n| (1..=ANSWERS_MAX).contains(n)) else {
        return Err(Refused::because(400, "Invalid 'n': has to be 1 to 128."));
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
        cached: ask.cached(|cache| cache.of_chat(&request)),
    };
    let reply = ask.reply(|| prompt(&request, messages), || Conversation::of_chat(&request));
    let planned = ask.plan(reply, &wants);
    let model = ask.model(model);
    let id = format!("chatcmpl-sim-{:08}", ask.serial);
    let streamed = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
    let outcome = if streamed {
        let option = |key: &str| request.get("stream_options").and_then(|options| options.get(key)?.as_bool());
        let with_usage = option("include_usage").unwrap_or(false);
        let padded = option("include_obfuscation").unwrap_or(true);
        stream(&Chunks { id, model, with_usage, padded, usage: &planned.usage }, &planned.answers, ask.serial)
    } else {
        whole(id, model, &planned, ask.serial)
    };
    Ok(outcome.charged(planned.usage.cost()))
}

pub(crate) fn required_model(request: &Map<String, Value>) -> Result<String, Refused> {
    let model = text_of(request, "model");
    if model.is_empty() { Err(Refused::because(400, "you must provide a model parameter")) } else { Ok(model) }
}

fn chat_usage(usage: &Figures) -> ChatUsage {
    ChatUsage {
        prompt_tokens: usage.read(),
        completion_tokens: usage.bill.output,
        total_tokens: usage.read() + usage.bill.output,
        prompt_tokens_details: CachedTokens { cached_tokens: usage.bill.cache_read },
        completion_tokens_details: ReasoningTokens { reasoning_tokens: usage.thinking },
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

fn choice(index: u32, answer: &Answer, serial: u64) -> Choice {
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
    Choice { index, message, logprobs: None, finish_reason: finish_reason(answer.ended) }
}

fn whole(id: String, model: String, planned: &Planned, serial: u64) -> Outcome {
    let body = ChatCompletion {
        id,
        object: "chat.completion",
        created: CREATED,
        model,
        choices: (0..).zip(&planned.answers).map(|(index, answer)| choice(index, answer, serial)).collect(),
        usage: chat_usage(&planned.usage),
        system_fingerprint: None,
    };
    let Some(telling) = planned.usage.random else { return Outcome::json(200, &body) };
    let mut body = json!(body);
    if telling.shown == Shown::Missing {
        body.as_object_mut().and_then(|body| body.remove("usage"));
    }
    Outcome::json(200, &body)
}

/// What all chunks of one stream share.
struct Chunks<'a> {
    id: String,
    model: String,
    with_usage: bool,
    padded: bool,
    usage: &'a Figures,
}

impl Chunks<'_> {
    /// `written` is the output until then: some say it on the way.
    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<ChatUsage>, written: u64) -> Vec<u8> {
        let meanwhile = usage.is_none();
        let chunk = ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: CREATED,
            model: self.model.clone(),
            choices,
            usage: self.with_usage.then_some(usage),
        };
        let Some(telling) = self.usage.random else { return encoded(&chunk.to_sse()) };
        let mut chunk = json!(chunk);
        if self.padded {
            let length = usize::try_from((telling.salt ^ written) % 16).unwrap_or(0);
            chunk["obfuscation"] = json!("aZ09bY18cX27dW36"[..length]);
        }
        let read = self.usage.read();
        match telling.shown {
            Shown::ZeroThenReal if self.with_usage && meanwhile => {
                chunk["usage"] = json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0});
            }
            Shown::Repeated if self.with_usage && meanwhile => {
                let total = read + written;
                chunk["usage"] = json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": total});
            }
            Shown::AtEnd | Shown::ZeroThenReal | Shown::Repeated | Shown::Missing => {}
        }
        encoded(&Event::new("", chunk.to_string()))
    }

    /// Whether the usage comes in a chunk of its own.
    fn sums_up(&self) -> bool {
        self.with_usage && self.usage.random.is_none_or(|telling| telling.shown != Shown::Missing)
    }

    fn step(&self, index: u32, delta: ChunkDelta, finish_reason: Option<FinishReason>, output: Written) -> Step {
        let choice = ChunkChoice { index, delta, logprobs: None, finish_reason };
        Step::of(self.chunk(vec![choice], None, tokens(output.before)), output.now)
    }
}

/// Bytes of output: before a chunk, and in it.
#[derive(Clone, Copy, Default)]
struct Written {
    before: u64,
    now: u64,
}

impl Written {
    fn more(&mut self, bytes: usize) -> Written {
        *self = Written { before: self.before + self.now, now: bytes as u64 };
        *self
    }
}

fn choice_steps(chunks: &Chunks<'_>, steps: &mut Vec<Step>, index: u32, answer: &Answer, serial: u64) {
    let mut written = Written::default();
    let first = ChunkDelta { role: Some("assistant"), content: Some(String::new()), tool_calls: Vec::new() };
    steps.push(chunks.step(index, first, None, written).after(answer.thinking));
    for word in words(&answer.text) {
        let delta = ChunkDelta { content: Some(word.into()), ..ChunkDelta::default() };
        steps.push(chunks.step(index, delta, None, written.more(word.len())));
    }
    if let Some(tool) = &answer.tool {
        let call = |id, kind, name, arguments| ChunkDelta {
            tool_calls: vec![ToolCall { index: Some(0), id, kind, function: FunctionCall { name, arguments } }],
            ..ChunkDelta::default()
        };
        let name = Some(tool.name.clone());
        let head = call(Some(format!("call_sim_{serial:08}")), Some("function"), name, String::new());
        steps.push(chunks.step(index, head, None, written.more(tool.name.len())));
        for part in fragments(&tool.arguments()) {
            let bytes = part.len();
            steps.push(chunks.step(index, call(None, None, None, part), None, written.more(bytes)));
        }
    }
    steps.push(chunks.step(index, ChunkDelta::default(), Some(finish_reason(answer.ended)), written.more(0)));
}

fn stream(chunks: &Chunks<'_>, answers: &[Answer], serial: u64) -> Outcome {
    let mut steps = Vec::new();
    for (index, answer) in (0..).zip(answers) {
        choice_steps(chunks, &mut steps, index, answer, serial);
    }
    if chunks.sums_up() {
        let usage = chat_usage(chunks.usage);
        steps.push(Step::of(chunks.chunk(Vec::new(), Some(usage), usage.completion_tokens), 0).summing_up());
    } else if let Some(last) = steps.last_mut() {
        last.sums_up = true;
    }
    steps.push(Step::of(encoded(&Event::new("", DONE)), 0));
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
    let input = input_tokens(&ask.config.usage, &request, ask.body.len());
    let usage = json!({"prompt_tokens": input, "total_tokens": input});
    let body = json!({"object": "list", "data": data.collect::<Vec<_>>(), "model": model, "usage": usage});
    let cost = Cost { before: Bill { input, ..Bill::default() }, output: 0 };
    Ok(Outcome::json(200, &body).charged(cost))
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
