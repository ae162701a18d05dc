//! Anthropic's endpoints: messages (whole and streamed), count_tokens, models.

use carboy_wire::anthropic::{Block, Delta, ErrorDetail, Message, MessageEnd, StopReason, StreamEvent, Usage};
use carboy_wire::sse::Event;
use serde_json::{Map, Value, json};

use crate::count::Bill;
use crate::offline::conversation::Conversation;
use crate::openai::encoded;
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused, text_of};
use crate::script::{Answer, Ended, Prompt, fragments, words};
use crate::usage::{Figures, Planned, Shown, Wants, counted_tokens};

/// Model ids in the list; any other name is answered just the same.
const MODELS: [(&str, &str); 2] = [("claude-opus-4-8", "Claude Opus 4.8"), ("claude-haiku-4-5", "Claude Haiku 4.5")];

pub(crate) fn messages(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = read(ask)?;
    let Some(max_tokens) = request.get("max_tokens").and_then(Value::as_u64).filter(|max| *max > 0) else {
        return Err(Refused::because(400, "max_tokens: Field required"));
    };
    let budget = request.get("thinking").and_then(|thinking| thinking.get("budget_tokens")?.as_u64());
    if budget.is_some_and(|budget| budget >= max_tokens) {
        return Err(Refused::because(400, "`max_tokens` must be greater than `thinking.budget_tokens`."));
    }
    let wants = Wants {
        request: &request,
        body_bytes: ask.body.len(),
        cap: Some(max_tokens),
        answers: 1,
        writes_cache: has_key(&request, "cache_control"),
        compacts: compacts(&request),
        thinks: thinks(&request),
        earlier: 0,
        cached: ask.cached(|cache| cache.of_messages(&request)),
    };
    let reply = ask.reply(|| prompt(&request), || Conversation::of_messages(&request));
    let planned = ask.plan(reply, &wants);
    let message = Message {
        id: format!("msg_sim_{:08}", ask.serial),
        kind: "message",
        role: "assistant",
        model: ask.model(text_of(&request, "model")),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: usage(&planned.usage.bill, 1),
    };
    let streamed = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
    let outcome = if streamed { stream(message, &planned, ask.serial) } else { whole(message, &planned, ask.serial) };
    Ok(outcome.charged(planned.usage.cost()))
}

/// Does a key of this name stand anywhere in it?
fn has_key(members: &Map<String, Value>, key: &str) -> bool {
    members.contains_key(key) || members.values().any(|value| value_has_key(value, key))
}

fn value_has_key(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(members) => has_key(members, key),
        Value::Array(items) => items.iter().any(|item| value_has_key(item, key)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Is the model told to think before it answers?
fn thinks(request: &Map<String, Value>) -> bool {
    let kind = request.get("thinking").and_then(|thinking| thinking.get("type")?.as_str());
    kind.is_some_and(|kind| kind != "disabled")
}

/// Does it ask for the conversation to be shortened by a model when it is long?
fn compacts(request: &Map<String, Value>) -> bool {
    let edits = request.get("context_management").and_then(|management| management.get("edits")?.as_array());
    let kinds = edits.into_iter().flatten().filter_map(|edit| edit.get("type")?.as_str());
    kinds.into_iter().any(|kind| kind.starts_with("compact"))
}

pub(crate) fn count_tokens(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = read(ask)?;
    let input = counted_tokens(&ask.config.usage, &request, ask.body.len());
    Ok(Outcome::json(200, &json!({"input_tokens": input})))
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

fn usage(bill: &Bill, output_tokens: u64) -> Usage {
    Usage {
        input_tokens: bill.input,
        cache_creation_input_tokens: bill.cache_write,
        cache_read_input_tokens: bill.cache_read,
        output_tokens,
    }
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

fn whole(mut message: Message, planned: &Planned, serial: u64) -> Outcome {
    let answer = &planned.answers[0];
    message.content = blocks(answer, serial);
    message.stop_reason = Some(stop_reason(answer.ended));
    message.usage.output_tokens = planned.usage.bill.output;
    let Some(telling) = planned.usage.random else { return Outcome::json(200, &message) };
    let mut body = json!(message);
    match telling.shown {
        Shown::Missing => drop(body.as_object_mut().and_then(|body| body.remove("usage"))),
        Shown::AtEnd | Shown::ZeroThenReal | Shown::Repeated => body["usage"] = all_figures(&planned.usage),
    }
    Outcome::json(200, &body)
}

/// Everything that the usage of a finished message says.
fn all_figures(usage: &Figures) -> Value {
    let bill = &usage.bill;
    let mut figures = json!({
        "input_tokens": bill.input,
        "cache_creation_input_tokens": bill.cache_write,
        "cache_read_input_tokens": bill.cache_read,
        "cache_creation": {"ephemeral_5m_input_tokens": bill.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": bill.output,
        "output_tokens_details": {"thinking_tokens": usage.thinking},
        "service_tier": "standard",
    });
    if let Some(compaction) = &usage.compaction {
        let of = |kind: &str, bill: &Bill| {
            json!({"type": kind, "input_tokens": bill.input, "output_tokens": bill.output,
                "cache_creation_input_tokens": bill.cache_write, "cache_read_input_tokens": bill.cache_read})
        };
        figures["iterations"] = json!([of("compaction", compaction), of("message", bill)]);
    }
    figures
}

fn stream(message: Message, planned: &Planned, serial: u64) -> Outcome {
    let answer = &planned.answers[0];
    let end = Usage { output_tokens: planned.usage.bill.output, ..message.usage };
    let mut steps = vec![first_step(message, &planned.usage)];
    for (index, block) in blocks(answer, serial).into_iter().enumerate() {
        let (content_block, deltas, extra) = opened(block);
        let hidden = if index == 0 { answer.thinking } else { 0 };
        steps.push(step(StreamEvent::ContentBlockStart { index, content_block }, extra).after(hidden));
        if index == 0 {
            steps.push(step(StreamEvent::Ping, 0));
        }
        for (delta, output) in deltas {
            steps.push(step(StreamEvent::ContentBlockDelta { index, delta }, output));
        }
        steps.push(step(StreamEvent::ContentBlockStop { index }, 0));
    }
    let delta = MessageEnd { stop_reason: stop_reason(answer.ended), stop_sequence: None };
    steps.extend(last_steps(StreamEvent::MessageDelta { delta, usage: end }, &planned.usage));
    steps.push(step(StreamEvent::MessageStop, 0));
    let error = ErrorDetail { kind: "overloaded_error", message: "Overloaded".into() };
    Outcome::events(steps, step(StreamEvent::Error { error }, 0).bytes)
}

fn first_step(message: Message, usage: &Figures) -> Step {
    let event = StreamEvent::MessageStart { message };
    let Some(telling) = usage.random else { return step(event, 0) };
    let mut event = json!(event);
    let (bill, message) = (&usage.bill, &mut event["message"]);
    match telling.shown {
        Shown::Missing => drop(message.as_object_mut().and_then(|message| message.remove("usage"))),
        Shown::ZeroThenReal => message["usage"] = json!({"input_tokens": 0, "output_tokens": 0}),
        Shown::AtEnd | Shown::Repeated => {
            message["usage"] = json!({
                "input_tokens": bill.input,
                "cache_creation_input_tokens": bill.cache_write,
                "cache_read_input_tokens": bill.cache_read,
                "output_tokens": 1,
            });
        }
    }
    step_of("message_start", &event)
}

/// The end with its figures, and before it what a provider with tools of its own says meanwhile.
fn last_steps(end: StreamEvent, usage: &Figures) -> Vec<Step> {
    let Some(telling) = usage.random else { return vec![step(end, 0).summing_up()] };
    let mut end = json!(end);
    let mut steps = Vec::new();
    match telling.shown {
        Shown::Missing => drop(end.as_object_mut().and_then(|end| end.remove("usage"))),
        Shown::AtEnd => {
            end["usage"] = json!({"output_tokens": usage.bill.output});
            if usage.compaction.is_some() {
                end["usage"]["iterations"] = all_figures(usage)["iterations"].take();
            }
        }
        Shown::ZeroThenReal => end["usage"] = all_figures(usage),
        Shown::Repeated => {
            let mut meanwhile = end.clone();
            meanwhile["delta"] = json!({"stop_reason": null, "stop_sequence": null});
            meanwhile["usage"] = json!({"output_tokens": usage.bill.output / 2});
            steps.push(step_of("message_delta", &meanwhile));
            end["usage"] = all_figures(usage);
        }
    }
    steps.push(step_of("message_delta", &end).summing_up());
    steps
}

fn step_of(name: &str, event: &Value) -> Step {
    Step::of(encoded(&Event::new(name, event.to_string())), 0)
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
    Step::of(bytes, output)
}
