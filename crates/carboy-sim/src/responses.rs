//! OpenAI's Responses endpoint: whole, streamed, and the count of its input.

use carboy_wire::openai::responses::{IncompleteDetails, Item, Part, Response, Status, StreamEvent, Usage};
use carboy_wire::openai::{CachedTokens, ErrorDetail, ReasoningTokens};
use carboy_wire::sse::Event;
use serde_json::{Map, Value, json};

use crate::anthropic::push_line;
use crate::config::Config;
use crate::openai::{CREATED, encoded, gather, required_model};
use crate::playback::{Outcome, Step};
use crate::route::{Ask, Refused};
use crate::script::{Answer, Ended, Prompt, fragments, words};
use crate::usage::{Figures, Shown, UsageMode, Wants, counted_tokens};

pub(crate) fn responses(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = ask.json()?;
    let streamed = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
    respond(ask, &request, streamed)
}

/// The answer to a `response.create`: always as events.
pub(crate) fn created(ask: &Ask<'_>, request: &Map<String, Value>) -> Result<Outcome, Refused> {
    respond(ask, request, true)
}

fn respond(ask: &Ask<'_>, request: &Map<String, Value>, streamed: bool) -> Result<Outcome, Refused> {
    let model = required_model(request)?;
    let cap = request.get("max_output_tokens").and_then(Value::as_u64);
    if cap.is_some_and(|cap| cap < 16) {
        return Err(Refused::because(400, "Invalid 'max_output_tokens': expected a value of at least 16."));
    }
    let wants = Wants {
        request,
        body_bytes: ask.body.len(),
        cap,
        answers: 1,
        writes_cache: false,
        compacts: false,
        thinks: true,
        earlier: earlier(ask, request)?,
        cached: None,
    };
    let planned = ask.plan(ask.config.script.reply(&prompt(request)?), &wants);
    let answer = &planned.answers[0];
    let started = started(request, model, cap, ask.serial);
    ask.contexts.keep(started.id.clone(), planned.usage.read() + planned.usage.bill.output);
    let items = items(answer, request, ask.serial);
    let done = finished(started.clone(), items.clone(), answer.ended, figures(&planned.usage));
    let outcome = if streamed { stream(started, items, done, &planned.usage) } else { whole(&done, &planned.usage) };
    Ok(outcome.charged(planned.usage.cost()))
}

pub(crate) fn input_tokens(ask: &Ask<'_>) -> Result<Outcome, Refused> {
    let request = ask.json()?;
    required_model(&request)?;
    prompt(&request)?;
    let counted = counted_tokens(&ask.config.usage, &request, ask.body.len()) + earlier(ask, &request)?;
    Ok(Outcome::json(200, &json!({"object": "response.input_tokens", "input_tokens": counted})))
}

/// What the conversation before this request adds to its input. A fixed usage knows no conversations.
fn earlier(ask: &Ask<'_>, request: &Map<String, Value>) -> Result<u64, Refused> {
    match (&ask.config.usage, request.get("previous_response_id").and_then(Value::as_str)) {
        (UsageMode::Fixed | UsageMode::Cached, _) | (UsageMode::Random(_), None) => Ok(0),
        (UsageMode::Random(_), Some(id)) => {
            let known = ask.contexts.of(id);
            known.ok_or_else(|| Refused::because(400, "Previous response not found."))
        }
    }
}

fn figures(usage: &Figures) -> Usage {
    Usage {
        input_tokens: usage.read(),
        input_tokens_details: CachedTokens { cached_tokens: usage.bill.cache_read },
        output_tokens: usage.bill.output,
        output_tokens_details: ReasoningTokens { reasoning_tokens: usage.thinking },
        total_tokens: usage.read() + usage.bill.output,
    }
}

fn whole(done: &Response, usage: &Figures) -> Outcome {
    let mut done = done.clone();
    if usage.random.is_some_and(|telling| telling.shown == Shown::Missing) {
        done.usage = None;
    }
    Outcome::json(200, &done)
}

/// What a subscription's client asks first: where the account's requests go.
pub(crate) fn accounts(config: &Config) -> Outcome {
    let id = &config.chatgpt_account;
    let account = json!({
        "id": id,
        "account_user_id": format!("{id}-user"),
        "structure": "personal",
        "plan_type": "plus",
        "name": "Simulated",
        "is_deactivated": false,
        "can_access_with_session": true,
        "is_fedramp_compliant_workspace": false,
        "workspace_backend_origin": "https://chatgpt.com",
        "account_routing_override": "NO_CONSTRAINT",
    });
    Outcome::json(200, &json!({"accounts": [account], "default_account_id": id, "account_ordering": [id]}))
}

/// `input` is a text or a list of items; the last item is the turn.
fn prompt(request: &Map<String, Value>) -> Result<Prompt, Refused> {
    let mut prompt = Prompt::default();
    match request.get("input") {
        Some(Value::String(text)) => prompt.last.clone_from(text),
        Some(Value::Array(items)) => {
            let last = items.last();
            let kind = last.and_then(|item| item.get("type")?.as_str());
            prompt.after_tool = matches!(kind, Some("function_call_output" | "custom_tool_call_output"));
            let content = if prompt.after_tool { "output" } else { "content" };
            gather(last.and_then(|item| item.get(content)), &mut prompt.last);
        }
        Some(_) | None => return Err(Refused::because(400, "Missing required parameter: 'input'.")),
    }
    if let Some(instructions) = request.get("instructions").and_then(Value::as_str).filter(|_| prompt.last.is_empty()) {
        push_line(&mut prompt.last, instructions);
    }
    for offered in offers(request) {
        name_tools(offered, &mut prompt.tools);
    }
    Ok(prompt)
}

/// Lists of tools: the request's own, and those that stand among the input's items.
fn offers(request: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let items = request.get("input").and_then(Value::as_array).into_iter().flatten();
    let more = items.filter(|item| item.get("type") == Some(&json!("additional_tools")));
    request.get("tools").into_iter().chain(more.filter_map(|item| item.get("tools")))
}

/// Their names; of a group of tools those of its members.
fn name_tools(list: &Value, names: &mut Vec<String>) {
    for tool in list.as_array().into_iter().flatten() {
        match tool.get("tools") {
            Some(members) => name_tools(members, names),
            None => names.extend(tool.get("name").and_then(Value::as_str).map(str::to_owned)),
        }
    }
}

/// The group that a tool of free text was offered in.
fn group_of(request: &Map<String, Value>, tool: &str) -> Option<String> {
    let groups = offers(request).filter_map(Value::as_array).flatten();
    let mut holding = groups.filter(|group| {
        let members = group.get("tools").and_then(Value::as_array).into_iter().flatten();
        members.into_iter().any(|member| member.get("name").and_then(Value::as_str) == Some(tool))
    });
    Some(holding.next()?.get("name")?.as_str()?.to_owned())
}

fn started(request: &Map<String, Value>, model: String, cap: Option<u64>, serial: u64) -> Response {
    let given = |key: &str| request.get(key).cloned();
    Response {
        id: format!("resp_sim_{serial:08}"),
        object: "response",
        created_at: CREATED,
        status: Status::InProgress,
        error: None,
        incomplete_details: None,
        instructions: given("instructions"),
        max_output_tokens: cap,
        model,
        output: Vec::new(),
        parallel_tool_calls: request.get("parallel_tool_calls").and_then(Value::as_bool).unwrap_or(true),
        previous_response_id: request.get("previous_response_id").and_then(Value::as_str).map(str::to_owned),
        store: request.get("store").and_then(Value::as_bool).unwrap_or(true),
        tool_choice: given("tool_choice").unwrap_or_else(|| json!("auto")),
        tools: given("tools").unwrap_or_else(|| json!([])),
        usage: None,
        metadata: request.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
    }
}

fn finished(mut response: Response, items: Vec<Item>, ended: Ended, usage: Usage) -> Response {
    response.output = items;
    response.usage = Some(usage);
    response.status = match ended {
        Ended::ByItself | Ended::ForTool => Status::Completed,
        Ended::ByCap => Status::Incomplete,
    };
    response.incomplete_details = (ended == Ended::ByCap).then_some(IncompleteDetails { reason: "max_output_tokens" });
    response
}

fn items(answer: &Answer, request: &Map<String, Value>, serial: u64) -> Vec<Item> {
    let status = if answer.ended == Ended::ByCap { Status::Incomplete } else { Status::Completed };
    let message = (!answer.text.is_empty()).then(|| Item::Message {
        id: format!("msg_sim_{serial:08}"),
        status,
        role: "assistant",
        content: vec![part(answer.text.clone())],
    });
    let call_id = format!("call_sim_{serial:08}");
    let call = answer.tool.as_ref().map(|tool| match &tool.input {
        Value::String(text) => Item::CustomToolCall {
            id: format!("ctc_sim_{serial:08}"),
            status: Status::Completed,
            call_id,
            name: tool.name.clone(),
            namespace: group_of(request, &tool.name),
            input: text.clone(),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Item::FunctionCall {
            id: format!("fc_sim_{serial:08}"),
            status: Status::Completed,
            call_id,
            name: tool.name.clone(),
            arguments: tool.arguments(),
        },
    });
    message.into_iter().chain(call).collect()
}

fn part(text: String) -> Part {
    Part::OutputText { text, annotations: Vec::new(), logprobs: Vec::new() }
}

fn stream(mut started: Response, items: Vec<Item>, mut done: Response, usage: &Figures) -> Outcome {
    let error = step(&failed(started.clone()), 0, 0, None).bytes;
    match usage.random.map(|telling| telling.shown) {
        Some(Shown::Missing) => done.usage = None,
        Some(Shown::ZeroThenReal) => started.usage = Some(figures(&Figures::default())),
        Some(Shown::Repeated) => {
            let mut meanwhile = usage.clone();
            meanwhile.bill.output = 0;
            meanwhile.thinking = 0;
            started.usage = Some(figures(&meanwhile));
        }
        Some(Shown::AtEnd) | None => {}
    }
    let mut events = vec![
        (StreamEvent::Created { response: started.clone() }, 0),
        (StreamEvent::InProgress { response: started }, 0),
    ];
    for (output_index, item) in items.into_iter().enumerate() {
        item_events(&mut events, output_index, item);
    }
    let end = match done.status {
        Status::Incomplete => StreamEvent::Incomplete { response: done },
        Status::Completed | Status::InProgress | Status::Failed => StreamEvent::Completed { response: done },
    };
    events.push((end, 0));
    let salt = usage.random.map(|telling| telling.salt);
    let steps = events.into_iter().zip(0..).map(|((event, output), number)| step(&event, number, output, salt));
    let mut steps: Vec<Step> = steps.collect();
    if let Some(second) = steps.get_mut(2) {
        second.hidden = usage.thinking;
    }
    if let Some(last) = steps.last_mut() {
        last.sums_up = true;
    }
    Outcome::events(steps, error)
}

fn failed(mut response: Response) -> StreamEvent {
    response.status = Status::Failed;
    let message = "The server had an error.".into();
    response.error = Some(ErrorDetail { message, kind: "server_error", param: None, code: Some("server_error") });
    StreamEvent::Failed { response }
}

fn item_events(events: &mut Vec<(StreamEvent, u64)>, output_index: usize, item: Item) {
    let content_index = 0;
    match &item {
        Item::Message { id, role, content, .. } => {
            let item_id = id.clone();
            let empty = Item::Message { id: id.clone(), status: Status::InProgress, role, content: Vec::new() };
            events.push((StreamEvent::ItemAdded { output_index, item: empty }, 0));
            for Part::OutputText { text, .. } in content {
                let (item_id, logprobs) = (item_id.clone(), Vec::new());
                let added = part(String::new());
                let head =
                    StreamEvent::PartAdded { item_id: item_id.clone(), output_index, content_index, part: added };
                events.push((head, 0));
                events.extend(words(text).map(|word| {
                    let (item_id, delta, logprobs) = (item_id.clone(), word.to_owned(), Vec::new());
                    (
                        StreamEvent::TextDelta { item_id, output_index, content_index, delta, logprobs },
                        word.len() as u64,
                    )
                }));
                let (text, part) = (text.clone(), part(text.clone()));
                let done =
                    StreamEvent::TextDone { item_id: item_id.clone(), output_index, content_index, text, logprobs };
                events.push((done, 0));
                events.push((StreamEvent::PartDone { item_id, output_index, content_index, part }, 0));
            }
        }
        Item::FunctionCall { id, call_id, name, arguments, .. } => {
            let empty = Item::FunctionCall {
                id: id.clone(),
                status: Status::InProgress,
                call_id: call_id.clone(),
                name: name.clone(),
                arguments: String::new(),
            };
            events.push((StreamEvent::ItemAdded { output_index, item: empty }, name.len() as u64));
            events.extend(fragments(arguments).into_iter().map(|delta| {
                let bytes = delta.len() as u64;
                (StreamEvent::ArgumentsDelta { item_id: id.clone(), output_index, delta }, bytes)
            }));
            let (item_id, name, arguments) = (id.clone(), name.clone(), arguments.clone());
            events.push((StreamEvent::ArgumentsDone { item_id, output_index, name, arguments }, 0));
        }
        Item::CustomToolCall { name, input, .. } => {
            // Whole at once: clients take the input from the item when it is done.
            events
                .push((StreamEvent::ItemAdded { output_index, item: item.clone() }, (name.len() + input.len()) as u64));
        }
    }
    events.push((StreamEvent::ItemDone { output_index, item }, 0));
}

fn step(event: &StreamEvent, sequence_number: u64, output: u64, salt: Option<u64>) -> Step {
    let event = event.to_sse(sequence_number);
    let padded = salt.filter(|_| event.name.ends_with(".delta")).and_then(|salt| pad(&event, salt ^ sequence_number));
    Step::of(encoded(&padded.unwrap_or(event)), output)
}

/// A field that hides the length of a delta, which is no output.
fn pad(event: &Event, salt: u64) -> Option<Event> {
    let mut data: Value = serde_json::from_str(&event.data).ok()?;
    let length = usize::try_from(salt % 16).ok()?;
    data["obfuscation"] = json!("aZ09bY18cX27dW36"[..length]);
    Some(Event::new(&event.name, data.to_string()))
}
