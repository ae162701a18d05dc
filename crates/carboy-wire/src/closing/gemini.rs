//! How a Gemini stream stands, and what ends it.

use carboy_core::budget::Usage;
use serde::Serialize;

use super::responses::whole;
use crate::json::Scalar;
use crate::sse::Event;

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// A `finishReason` was read, and its event is whole.
    finished: bool,
    ended: bool,
    prompt: u64,
    candidates: u64,
    thoughts: u64,
    cached: u64,
    tool_use: u64,
    deltas: u64,
    model: Option<String>,
    id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Chunk<'a> {
    candidates: [Candidate<'a>; 1],
    usage_metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Candidate<'a> {
    content: Content<'a>,
    finish_reason: &'static str,
    index: u32,
}

#[derive(Serialize)]
struct Content<'a> {
    parts: [Part<'a>; 1],
    role: &'static str,
}

#[derive(Serialize)]
struct Part<'a> {
    text: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    prompt_token_count: u64,
    candidates_token_count: u64,
    #[serde(skip_serializing_if = "is_none")]
    thoughts_token_count: u64,
    #[serde(skip_serializing_if = "is_none")]
    tool_use_prompt_token_count: u64,
    #[serde(skip_serializing_if = "is_none")]
    cached_content_token_count: u64,
    total_token_count: u64,
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

impl State {
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) fn has_finished(&self) -> bool {
        self.finished
    }

    pub(super) fn event_ends(&mut self, complete: bool) {
        self.ended |= complete && self.finished;
    }

    pub(super) fn scalar(&mut self, path: &str, value: Scalar<'_>) {
        let path = path.strip_prefix("[].").unwrap_or(path);
        match (path, value) {
            ("candidates[].finishReason", Scalar::Text(..)) => self.finished = true,
            ("candidates[].content.parts[].text", Scalar::Text(..)) => self.deltas = self.deltas.saturating_add(1),
            ("modelVersion", text) => self.model = whole(text),
            ("responseId", text) => self.id = whole(text),
            (path, Scalar::Number(text)) => {
                let slot = match path {
                    "usageMetadata.promptTokenCount" => &mut self.prompt,
                    "usageMetadata.candidatesTokenCount" => &mut self.candidates,
                    "usageMetadata.thoughtsTokenCount" => &mut self.thoughts,
                    "usageMetadata.toolUsePromptTokenCount" => &mut self.tool_use,
                    "usageMetadata.cachedContentTokenCount" => &mut self.cached,
                    _ => return,
                };
                *slot = text.parse().unwrap_or(0).max(*slot);
            }
            (_, Scalar::Text(..) | Scalar::Flag(_) | Scalar::Null) => {}
        }
    }

    pub(super) fn ending(&self, notice: &str, cost: Option<Usage>) -> Vec<Event> {
        let cost = cost.unwrap_or_default();
        let prompt = self.prompt.max(cost.read().saturating_sub(self.tool_use));
        let candidates = self.candidates.max(cost.output.saturating_sub(self.thoughts)).max(self.deltas);
        let sum = [candidates, self.thoughts, self.tool_use].into_iter().fold(prompt, u64::saturating_add);
        let usage_metadata = Metadata {
            prompt_token_count: prompt,
            candidates_token_count: candidates,
            thoughts_token_count: self.thoughts,
            tool_use_prompt_token_count: self.tool_use,
            cached_content_token_count: self.cached.max(cost.cache_read),
            total_token_count: sum,
        };
        let content = Content { parts: [Part { text: notice }], role: "model" };
        let candidates = [Candidate { content, finish_reason: "STOP", index: 0 }];
        let (model_version, response_id) = (self.model.as_deref(), self.id.as_deref());
        vec![super::event("", &Chunk { candidates, usage_metadata, model_version, response_id })]
    }
}
