//! Anthropic's endpoints: messages (whole and streamed), count_tokens, models.

use carboy_wire::anthropic::{Block, Delta, ErrorDetail, Message, MessageEnd, StopReason, StreamEvent, Usage};
use serde_json::{Map, Value, json};

use crate::count::tokens;
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused, text_of};
use crate::script::{Answer, Ended, Prompt, fragments, words};

/// Model ids in the list; any other name is answered just the same.
const MODELS: [(&str, &str); 2] = [("claude-opus-4-8", "Claude Opus 4.8"), ("claude-haiku-4-5", "Claude Haiku 4.5")];

pub(crate) fn messages(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = read(ask)?;
    let Some(max_tokens) = request.get("max_tokens").and_then(Value::as_u64) else {
        return Err(Refused::because(400, "max_tokens: Field required"));
    };
    let answer = Answer::within(ask.config.script.reply(&prompt(&request)), Some(max_tokens));
    let input = tokens(ask.body.len() as u64);
    let id = format!("msg_sim_{:08}", ask.serial);
    let message = Message {
        id,
        kind: "message",
        role: "assistant",
        model: text_of(&request, "model"),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: usage(input, 1),
    };
    let streamed = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
    let outcome = if streamed { stream(message, &answer, ask.serial) } else { whole(message, &answer, ask.serial) };
    Ok(outcome.charged(input, answer.bytes()))
}

pub(crate) fn count_tokens(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    read(ask)?;
    Ok(Outcome::json(200, &json!({"input_tokens": tokens(ask.body.len() as u64)})))
}

pub(crate) fn models() -> Outcome {
    let data: Vec<Value> = MODELS.iter().map(|(id, name)| model(id, name)).collect();
    let (first, last) = (MODELS[0].0, MODELS[MODELS.len() - 1].0);
    Outcome::json(200, &json!({"data": data, "has_more": false, "first_id": first, "last_id": last}))
}

fn model(id: &str, name: &str) -> Value {
    json!({"type": "model", "id": id, "display_name": name, "created_at": "2025-09-29T00:00:00Z"})
}

fn read(ask: &Ask<'_>) -> Result<Map<String, Value>, Refused> {
    if !ask.headers.contains_key("anthropic-version") {
        return Err(Refused::because(400, "anthropic-version: header is required"));
    }
    let request = ask.json()?;
    if text_of(&request, "model").is_empty() {
        return Err(Refused::because(400, "model: Field required"));
    }
    match request.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => Ok(request),
        Some(Value::Array(_)) => Err(Refused::because(400, "messages: at least one message is required")),
        Some(_) | None => Err(Refused::because(400, "messages: Field required")),
    }
}

fn prompt(request: &Map<String, Value>) -> Prompt {
    let mut prompt = Prompt::default();
    // A client may close with words of its own under the role `system`: they are nobody's turn.
    let messages = request.get("messages").and_then(Value::as_array);
    let mut turns = messages.into_iter().flatten().filter(|message| message.get("role") != Some(&json!("system")));
    let last = turns.next_back();
    gather(last.and_then(|last| last.get("content")), &mut prompt);
    let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
    prompt.tools = tools.filter_map(|tool| Some(tool.get("name")?.as_str()?.to_owned())).collect();
    prompt
}

/// Content is a text or a list of blocks; a tool's result holds content again, one level down.
fn gather(content: Option<&Value>, prompt: &mut Prompt) {
    match content {
        Some(Value::String(text)) => push_line(&mut prompt.last, text),
        Some(Value::Array(blocks)) => {
            for block in blocks {
                match block.get("type").and_then(Value::as_str) {
                    Some("text") => push_line(&mut prompt.last, block["text"].as_str().unwrap_or_default()),
                    Some("tool_result") => {
                        prompt.after_tool = true;
                        gather(block.get("content"), prompt);
                    }
                    Some(_) | None => {}
                }
            }
        }
        Some(_) | None => {}
    }
}

pub(crate) fn push_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
    Usage { input_tokens, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens }
}

fn stop_reason(ended: Ended) -> StopReason {
    match ended {
        Ended::ByItself => StopReason::EndTurn,
        Ended::ByCap => StopReason::MaxTokens,
        Ended::ForTool => StopReason::ToolUse,
    }
}

fn blocks(answer: &Answer, serial: u64) -> Vec<Block> {
    let text = (!answer.text.is_empty()).then(|| Block::Text { text: answer.text.clone() });
    let tool = answer.tool.as_ref().map(|tool| Block::ToolUse {
        id: format!("toolu_sim_{serial:08}"),
        name: tool.name.clone(),
        input: tool.input.clone(),
    });
    text.into_iter().chain(tool).collect()
}

fn whole(mut message: Message, answer: &Answer, serial: u64) -> Outcome {
    message.content = blocks(answer, serial);
    message.stop_reason = Some(stop_reason(answer.ended));
    message.usage.output_tokens = tokens(answer.bytes());
    Outcome::json(200, &message)
}

fn stream(message: Message, answer: &Answer, serial: u64) -> Outcome {
    let end = usage(message.usage.input_tokens, tokens(answer.bytes()));
    let mut steps = vec![step(StreamEvent::MessageStart { message }, 0)];
    for (index, block) in blocks(answer, serial).into_iter().enumerate() {
        let (content_block, deltas, extra) = opened(block);
        steps.push(step(StreamEvent::ContentBlockStart { index, content_block }, extra));
        if index == 0 {
            steps.push(step(StreamEvent::Ping, 0));
        }
        for (delta, output) in deltas {
            steps.push(step(StreamEvent::ContentBlockDelta { index, delta }, output));
        }
        steps.push(step(StreamEvent::ContentBlockStop { index }, 0));
    }
    let delta = MessageEnd { stop_reason: stop_reason(answer.ended), stop_sequence: None };
    steps.push(step(StreamEvent::MessageDelta { delta, usage: end }, 0));
    steps.push(step(StreamEvent::MessageStop, 0));
    let error = ErrorDetail { kind: "overloaded_error", message: "Overloaded".into() };
    Outcome::events(steps, step(StreamEvent::Error { error }, 0).bytes)
}

/// The block as it starts, its deltas with their output bytes, and the output bytes of the start itself.
fn opened(block: Block) -> (Block, Vec<(Delta, u64)>, u64) {
    match block {
        Block::Text { text } => {
            let deltas = words(&text).map(|word| (Delta::TextDelta { text: word.into() }, word.len() as u64)).collect();
            (Block::Text { text: String::new() }, deltas, 0)
        }
        Block::ToolUse { id, name, input } => {
            let empty = (Delta::InputJsonDelta { partial_json: String::new() }, 0);
            let parts = fragments(&input.to_string()).into_iter().map(|part| {
                let bytes = part.len() as u64;
                (Delta::InputJsonDelta { partial_json: part }, bytes)
            });
            let deltas = [empty].into_iter().chain(parts).collect();
            let output = name.len() as u64;
            (Block::ToolUse { id, name, input: json!({}) }, deltas, output)
        }
    }
}

fn step(event: StreamEvent, output: u64) -> Step {
    let mut bytes = Vec::new();
    event.to_sse().encode(&mut bytes);
    Step { bytes, output }
}
