//! How a Chat stream stands, and what ends it.

use std::collections::BTreeMap;

use carboy_core::budget::Usage;
use serde::Serialize;

use super::Arguments;
use super::responses::whole;
use crate::json::{Fill, Scalar};
use crate::openai::{
    CachedTokens, ChatChunk, ChatUsage, ChunkChoice, ChunkDelta, DONE, FinishReason, FunctionCall, ReasoningTokens,
    ToolCall,
};
use crate::sse::Event;

/// Where a tool's arguments come.
pub(super) const ARGUMENTS: &str = "choices[].delta.tool_calls[].function.arguments";

/// Most answers of one request that are followed; OpenAI gives 128.
const CHOICES_MAX: usize = 128;

/// What was there of the event and of the choice that is being read.
#[derive(Clone, Debug, Default)]
struct Present {
    choices: bool,
    has_index: bool,
    index: Option<u32>,
    finishes: bool,
    delta: bool,
    has_call_index: bool,
    function: bool,
    arguments: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// The mark was read; with its blank line it is the end.
    done: bool,
    ended: bool,
    id: Option<String>,
    model: Option<String>,
    created: u64,
    /// The client asked for the cost: every chunk says `usage`.
    asked_usage: bool,
    /// And had it.
    told_usage: bool,
    deltas: u64,
    /// Whether each has finished.
    choices: BTreeMap<u32, bool>,
    /// The call that was written last, of the first answer.
    call: Option<u32>,
    arguments: Arguments,
    present: Present,
}

impl State {
    pub(super) fn arguments(&self) -> &Arguments {
        &self.arguments
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn has_finished(&self) -> bool {
        self.done
    }

    pub(super) fn done(&mut self) {
        self.done = true;
    }

    pub(super) fn scalar(&mut self, path: &str, value: Scalar<'_>) {
        let present = &mut self.present;
        match (path, value) {
            ("id", text) => self.id = whole(text).or(self.id.take()),
            ("model", text) => self.model = whole(text).or(self.model.take()),
            ("created", Scalar::Number(text)) => self.created = text.parse().unwrap_or(0),
            ("usage", Scalar::Null) => self.asked_usage = true,
            ("usage.total_tokens" | "usage.prompt_tokens", Scalar::Number(_)) => self.told_usage = true,
            ("choices[].index", Scalar::Number(text)) => present.index = text.parse().ok(),
            ("choices[].finish_reason", Scalar::Text(..)) => present.finishes = true,
            ("choices[].delta.content" | "choices[].delta.reasoning_content", Scalar::Text(_, bytes)) if bytes > 0 => {
                self.deltas = self.deltas.saturating_add(1);
            }
            ("choices[].delta.tool_calls[].index", Scalar::Number(text)) => {
                let index = text.parse().ok();
                if self.call != index {
                    self.arguments.begin();
                }
                self.call = index;
            }
            // A call is named once, at its beginning.
            ("choices[].delta.tool_calls[].id", Scalar::Text(_, bytes)) if bytes > 0 => {
                self.call = self.call.or(Some(0));
                self.arguments.begin();
            }
            (_, Scalar::Text(..) | Scalar::Number(_) | Scalar::Flag(_) | Scalar::Null) => {}
        }
    }

    pub(super) fn text(&mut self, path: &str, part: &[u8]) {
        if path == ARGUMENTS {
            self.arguments.feed(part);
        }
    }

    pub(super) fn key(&mut self, path: &str) {
        let present = &mut self.present;
        let slot = match path {
            "choices" => &mut present.choices,
            "choices[].index" => &mut present.has_index,
            "choices[].delta" => &mut present.delta,
            "choices[].delta.tool_calls[].index" => &mut present.has_call_index,
            "choices[].delta.tool_calls[].function" => &mut present.function,
            ARGUMENTS => &mut present.arguments,
            _ => return,
        };
        *slot = true;
    }

    pub(super) fn map_ends(&mut self, path: &str) {
        let present = &mut self.present;
        match path {
            "choices[]" => {
                let index = present.index.take().unwrap_or(0);
                if self.choices.len() < CHOICES_MAX || self.choices.contains_key(&index) {
                    *self.choices.entry(index).or_default() |= present.finishes;
                }
                let choices = present.choices;
                *present = Present { choices, ..Present::default() };
            }
            "choices[].delta.tool_calls[]" => {
                (present.has_call_index, present.function, present.arguments) = (false, false, false);
            }
            _ => {}
        }
    }

    pub(super) fn event_ends(&mut self, _complete: bool) {
        self.ended |= self.done;
        self.present = Present::default();
    }

    pub(super) fn ending(&self, notice: &str, cost: Option<Usage>) -> Vec<Event> {
        let mut events = Vec::new();
        let first = BTreeMap::from([(0, false)]);
        let choices = if self.choices.is_empty() { &first } else { &self.choices };
        for index in choices.iter().filter(|(_, finished)| !**finished).map(|(index, _)| *index) {
            if let Some(call) = (index == 0).then(|| self.spoiled_call()).flatten() {
                let delta = ChunkDelta { tool_calls: vec![call], ..ChunkDelta::default() };
                events.push(self.chunk(vec![choice(index, delta, None)], self.no_usage()));
            }
            let role = self.choices.is_empty().then_some("assistant");
            let lead = if self.deltas > 0 { "\n\n" } else { "" };
            let delta = ChunkDelta { role, content: Some(format!("{lead}{notice}")), ..ChunkDelta::default() };
            events.push(self.chunk(vec![choice(index, delta, None)], self.no_usage()));
            let last = choice(index, ChunkDelta::default(), Some(FinishReason::Stop));
            events.push(self.chunk(vec![last], self.no_usage()));
        }
        if self.asked_usage && !self.told_usage {
            let known = cost.unwrap_or_default();
            let usage = Usage { output: known.output.max(self.deltas), ..known };
            events.push(self.chunk(Vec::new(), Some(Some(on_the_wire(usage)))));
        }
        events.push(Event::new("", DONE));
        events
    }

    fn spoiled_call(&self) -> Option<ToolCall> {
        let index = self.call?;
        let arguments = self.arguments.spoil()?;
        Some(ToolCall { index: Some(index), id: None, kind: None, function: FunctionCall { name: None, arguments } })
    }

    /// What stands in the place of the cost in every chunk but the last.
    fn no_usage(&self) -> Option<Option<ChatUsage>> {
        self.asked_usage.then_some(None)
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<ChatUsage>>) -> Event {
        ChatChunk {
            id: self.id.clone().unwrap_or_else(|| "chatcmpl-carboy".into()),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone().unwrap_or_else(|| "carboy".into()),
            choices,
            usage,
        }
        .to_sse()
    }
}

fn choice(index: u32, delta: ChunkDelta, finish_reason: Option<FinishReason>) -> ChunkChoice {
    ChunkChoice { index, delta, logprobs: None, finish_reason }
}

fn on_the_wire(usage: Usage) -> ChatUsage {
    let read = usage.read();
    ChatUsage {
        prompt_tokens: read,
        completion_tokens: usage.output,
        total_tokens: read.saturating_add(usage.output),
        prompt_tokens_details: CachedTokens { cached_tokens: usage.cache_read },
        completion_tokens_details: ReasoningTokens::default(),
    }
}

/// Half a chunk is completed to one in which a reader finds what it takes for granted.
impl Fill for State {
    fn value(&self, path: &str) -> String {
        match path {
            "choices" => format!("[{}]", empty_choice()),
            "choices[]" => empty_choice(),
            "choices[].delta" => "{}".into(),
            "choices[].index" => "0".into(),
            "choices[].delta.tool_calls[].index" => self.call.unwrap_or(0).to_string(),
            "choices[].delta.tool_calls" => "[]".into(),
            "choices[].delta.tool_calls[].function" => "{\"arguments\":\"\"}".into(),
            "choices[].delta.tool_calls[].function.arguments" => "\"\"".into(),
            _ => "null".into(),
        }
    }

    fn element(&self, path: &str) -> String {
        if path == "choices[]" { empty_choice() } else { String::new() }
    }

    fn members(&self, path: &str) -> String {
        let Present { choices, has_index, delta, has_call_index, function, arguments, .. } = &self.present;
        let mut missing = Vec::new();
        match path {
            "" if !choices => missing.push(format!("\"choices\":[{}]", empty_choice())),
            "choices[]" => {
                if !delta {
                    missing.push("\"delta\":{}".to_owned());
                }
                if !has_index {
                    missing.push("\"index\":0".to_owned());
                }
            }
            "choices[].delta.tool_calls[]" => {
                if !has_call_index {
                    missing.push(format!("\"index\":{}", self.call.unwrap_or(0)));
                }
                if !function {
                    missing.push("\"function\":{\"arguments\":\"\"}".to_owned());
                }
            }
            "choices[].delta.tool_calls[].function" if !arguments => missing.push("\"arguments\":\"\"".to_owned()),
            _ => {}
        }
        missing.join(",")
    }
}

#[derive(Serialize)]
struct EmptyChoice {
    index: u32,
    delta: ChunkDelta,
    finish_reason: Option<FinishReason>,
}

fn empty_choice() -> String {
    let empty = EmptyChoice { index: 0, delta: ChunkDelta::default(), finish_reason: None };
    serde_json::to_string(&empty).expect("structs of numbers always serialise")
}
