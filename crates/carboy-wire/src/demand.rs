//! What a request to a model asks for, and the same request with its output bounded.
//!
//! The agent is not believed: a governing key that stands twice, in two spellings, or hidden behind escapes would be read
//! one way here and another way by the provider, and is refused. What the body does not bound by itself (images, an
//! earlier conversation, tools that the provider runs) is named, so that the caller bounds or refuses it.
//!
//! Edits replace or insert the few octets that are meant; every other octet of the body stays (a signature over the
//! prompt's bytes in a cache key stays valid).
//!
//! *Must never* read a key one way that a provider may read another, or change an octet that was not meant.

mod reader;
mod spelling;

use std::collections::BTreeSet;
use std::ops::Range;

use crate::format::WireFormat;
use crate::json::Scanner;
use reader::{Reader, camel};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The model, as far as its first 64 octets; Gemini has it in the path.
    pub model: Option<String>,
    /// The answer is to come as events.
    pub streams: bool,
    /// Its own bound on the output of each answer.
    pub output_max: Option<u64>,
    /// Answers that it asks for.
    pub answers: u32,
    /// Anthropic's `thinking.budget_tokens`, which has to stay below the output's bound.
    pub thinking: Option<u64>,
    /// Anthropic's `thinking`, whatever it says: some of the output may be written unseen.
    pub thinks: bool,
    /// What the body's own text does not bound.
    pub beyond: BTreeSet<Beyond>,
    /// Tools that the client runs and the provider describes: their descriptions are read and do not stand in the body.
    pub kept_tools: u32,
    /// It asks for an answer, and not only to be made ready (`generate: false` on a WebSocket of OpenAI's).
    pub generates: bool,
    /// The earlier response that it goes on from, as far as its name has 64 octets: of OpenAI's Responses, and of Anthropic's
    /// threads.
    pub previous: Option<String>,
    format: WireFormat,
    /// Bounded by `max_tokens` whatever else is there: of chat's bounds the one that every server knows.
    old_key: bool,
    /// Most uses of a tool of the provider's that are written into the request.
    uses_max: Option<u32>,
    /// The server takes OpenAI's `max_tool_calls`.
    takes_tool_calls: bool,
    places: Places,
}

/// A part of a request whose cost its text does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Beyond {
    /// Pictures, sound, documents: read by the provider, as many tokens as it finds.
    Media,
    /// An earlier conversation, kept by the provider.
    EarlierContext,
    /// A tool that the provider runs and whose results it reads.
    ProviderTool,
    /// It goes on when nobody listens any more.
    Background,
    /// The provider shortens the conversation by asking a model itself.
    Compaction,
    /// Where its model refuses, the provider asks others the same.
    Fallback,
}

/// Whether a stream has to say what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskUsage {
    /// It is made to.
    Yes,
    /// As the client wrote it.
    AsWritten,
}

/// Why a request cannot be bounded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// It is no JSON document, or no map.
    #[error("the request's body is not one JSON object; send it as the provider documents it")]
    NotAnObject,
    /// Two readers could read it two ways.
    #[error("`{key}` stands in the request more than once; keep one")]
    Twice {
        /// The key, in the provider's usual spelling.
        key: &'static str,
    },
    /// Some servers would read it as a key that governs, and others would not.
    #[error("`{key}` stands in the request in another spelling or place; write it as its provider documents it")]
    Spelling {
        /// The key, in the provider's usual spelling.
        key: &'static str,
    },
    /// A bound that some servers put before the provider's.
    #[error("`{key}` goes before `max_tokens` or `n` at some servers; leave it out and send those")]
    Other {
        /// The key.
        key: &'static str,
    },
    /// A bound that is no number of tokens.
    #[error("`{key}` of the request is not a whole number above zero")]
    NotACount {
        /// The key.
        key: &'static str,
    },
}

/// Where the governing values stand in the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Places {
    /// The root's first octet behind its brace.
    root: Option<usize>,
    /// Each bound on the output.
    caps: Vec<Range<usize>>,
    /// One of them is `max_tokens`.
    old_cap: bool,
    /// Gemini's `generationConfig` where it is a null.
    no_config: Option<Range<usize>>,
    /// Anthropic's own tools for the web.
    web_tools: Vec<WebTool>,
    /// Another tool that the provider runs.
    other_tool: bool,
    /// OpenAI's `max_tool_calls`, and where that stands.
    tool_calls: Option<(Option<u64>, Range<usize>)>,
    /// Gemini's `generationConfig`, behind its brace.
    config: Option<usize>,
    /// `stream_options`: a map's inside, or a null.
    options: Option<Options>,
    /// `stream_options.include_usage`
    include: Option<(bool, Range<usize>)>,
}

/// A tool of which the request can say how often it may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WebTool {
    /// Behind its brace.
    behind: usize,
    /// Its own `max_uses`, and where that stands.
    uses: Option<(Option<u64>, Range<usize>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Options {
    Map(usize),
    Null(Range<usize>),
}

impl Demand {
    /// Reads a request's whole body; `path` is without its query.
    pub fn read(format: WireFormat, path: &str, body: &[u8]) -> Result<Demand, DemandError> {
        let demand = Demand {
            model: model_of(format, path),
            streams: format == WireFormat::Gemini && path.ends_with(":streamGenerateContent"),
            output_max: None,
            answers: 1,
            thinking: None,
            thinks: false,
            beyond: BTreeSet::new(),
            kept_tools: 0,
            generates: true,
            previous: None,
            format,
            old_key: format == WireFormat::OpenAiChat && is_old_completion(path),
            uses_max: None,
            takes_tool_calls: format == WireFormat::OpenAiResponses && is_api_of_responses(path),
            places: Places::default(),
        };
        // Octets that are no text are read by everybody in his own way.
        std::str::from_utf8(body).map_err(|_| DemandError::NotAnObject)?;
        let mut reader = Reader::new(demand);
        let mut scanner = Scanner::new();
        scanner.feed(body, &mut reader);
        scanner.end(&mut reader);
        match reader.error {
            Some(error) => Err(error),
            None if !scanner.is_complete() || reader.demand.places.root.is_none() => Err(DemandError::NotAnObject),
            None => Ok(reader.done()),
        }
    }

    /// It goes to a server of which nothing is known but that it speaks OpenAI's chat: many of those know `max_tokens` alone.
    pub fn bound_by_old_key(&mut self) {
        self.old_key = self.format == WireFormat::OpenAiChat;
    }

    /// How often the provider may run a tool of its own, each time reading everything so far once more; where the format has
    /// a place for it, [`bounded`](Self::bounded) writes it into the request.
    pub fn limit_tools(&mut self, uses_max: u32) -> u64 {
        self.uses_max = Some(uses_max);
        let most = u64::from(uses_max);
        let web = self.places.web_tools.iter().map(|tool| tool.uses().unwrap_or(most).min(most));
        let other = if self.places.other_tool { most } else { 0 };
        web.fold(other, u64::saturating_add)
    }

    fn uses_edits(&self, body: &[u8], edits: &mut Vec<(Range<usize>, String)>) {
        let Some(most) = self.uses_max.map(u64::from) else { return };
        match &self.places.tool_calls {
            Some((calls, at)) if calls.is_none_or(|calls| calls > most) => edits.push((at.clone(), most.to_string())),
            Some(_) | None => {}
        }
        for tool in &self.places.web_tools {
            match &tool.uses {
                Some((Some(uses), _)) if *uses <= most => {}
                Some((_, at)) => edits.push((at.clone(), most.to_string())),
                None => {
                    let at = tool.behind;
                    edits.push((at..at, first(body, at, &[format!("\"max_uses\":{most}")])));
                }
            }
        }
    }

    /// Without it OpenAI runs its own tools as often as the model likes.
    fn tool_calls_to_add(&self) -> Option<u32> {
        let adds = self.takes_tool_calls && self.places.other_tool && self.places.tool_calls.is_none();
        self.uses_max.filter(|_| adds)
    }

    /// The body with each answer bounded to `output` tokens. `body` is the one that was read.
    pub fn bounded(&self, body: &[u8], output: u64, ask_usage: AskUsage) -> Vec<u8> {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        for cap in &self.places.caps {
            edits.push((cap.clone(), output.to_string()));
        }
        self.uses_edits(body, &mut edits);
        let root = self.places.root.unwrap_or_default();
        let mut at_root = Vec::new();
        if self.old_key && !self.places.old_cap && !self.places.caps.is_empty() {
            at_root.push(format!("\"max_tokens\":{output}"));
        }
        if self.places.caps.is_empty() {
            match (self.format, self.places.config) {
                (WireFormat::AnthropicMessages, _) => at_root.push(format!("\"max_tokens\":{output}")),
                (WireFormat::OpenAiChat, _) if self.old_key => at_root.push(format!("\"max_tokens\":{output}")),
                (WireFormat::OpenAiChat, _) => at_root.push(format!("\"max_completion_tokens\":{output}")),
                (WireFormat::OpenAiResponses, _) => at_root.push(format!("\"max_output_tokens\":{output}")),
                (WireFormat::Gemini, Some(config)) => {
                    edits.push((config..config, first(body, config, &[format!("\"maxOutputTokens\":{output}")])));
                }
                (WireFormat::Gemini, None) if let Some(at) = &self.places.no_config => {
                    edits.push((at.clone(), format!("{{\"maxOutputTokens\":{output}}}")));
                }
                (WireFormat::Gemini, None) => {
                    at_root.push(format!("\"generationConfig\":{{\"maxOutputTokens\":{output}}}"));
                }
            }
        }
        if let Some(most) = self.tool_calls_to_add() {
            at_root.push(format!("\"max_tool_calls\":{most}"));
        }
        if self.format == WireFormat::OpenAiChat && self.streams && ask_usage == AskUsage::Yes {
            match (&self.places.include, &self.places.options) {
                (Some((true, _)), _) => {}
                (Some((false, at)), _) => edits.push((at.clone(), "true".into())),
                (None, Some(Options::Map(at))) => {
                    edits.push((*at..*at, first(body, *at, &["\"include_usage\":true".into()])));
                }
                (None, Some(Options::Null(at))) => edits.push((at.clone(), "{\"include_usage\":true}".into())),
                (None, None) => at_root.push("\"stream_options\":{\"include_usage\":true}".into()),
            }
        }
        if !at_root.is_empty() {
            edits.push((root..root, first(body, root, &at_root)));
        }
        apply(body, edits)
    }

    /// Does its stream say what it cost, without being made to?
    pub fn asks_usage(&self) -> bool {
        self.format != WireFormat::OpenAiChat || matches!(self.places.include, Some((true, _)))
    }
}

impl WebTool {
    fn uses(&self) -> Option<u64> {
        self.uses.as_ref().and_then(|(uses, _)| *uses)
    }
}

/// `/v1/completions` and the like, which take a list of prompts and no `max_completion_tokens`.
fn is_old_completion(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    path.strip_suffix("/completions").is_some_and(|before| !before.ends_with("/chat"))
}

/// OpenAI's own interface, and Azure's; ChatGPT's backend refuses members that it does not know.
fn is_api_of_responses(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
    ["/v1/responses", "/openai/responses"].iter().any(|end| path.ends_with(end))
}

/// Gemini has the model in the path: `/v1beta/models/NAME:verb`.
fn model_of(format: WireFormat, path: &str) -> Option<String> {
    let named = path.split('?').next().unwrap_or_default();
    let (resource, _) = (format == WireFormat::Gemini).then(|| named.rsplit_once(':')).flatten()?;
    crate::count::model_of_path(resource)
}

/// Members at the beginning of a map, with a comma behind them where others follow.
fn first(body: &[u8], behind: usize, members: &[String]) -> String {
    let next = body[behind..].iter().find(|byte| !byte.is_ascii_whitespace());
    let comma = if next == Some(&b'}') { "" } else { "," };
    format!("{}{comma}", members.join(","))
}

fn apply(body: &[u8], mut edits: Vec<(Range<usize>, String)>) -> Vec<u8> {
    edits.sort_by_key(|(at, _)| at.start);
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut from = 0;
    for (at, text) in edits {
        out.extend_from_slice(&body[from..at.start]);
        out.extend_from_slice(text.as_bytes());
        from = at.end;
    }
    out.extend_from_slice(&body[from..]);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(format: WireFormat, body: &str) -> Result<Demand, DemandError> {
        Demand::read(format, "/v1beta/models/gemini:streamGenerateContent", body.as_bytes())
    }

    fn bounded(format: WireFormat, body: &str) -> String {
        String::from_utf8(read(format, body).unwrap().bounded(body.as_bytes(), 500, AskUsage::Yes)).unwrap()
    }

    #[test]
    fn a_bound_is_lowered_in_place_and_every_other_octet_stays() {
        for (format, body, want) in [
            (
                WireFormat::AnthropicMessages,
                r#"{ "model":"claude-x", "max_tokens" : 64000,"messages":[{"content":"\"max_tokens\":9"}]}"#,
                r#"{ "model":"claude-x", "max_tokens" : 500,"messages":[{"content":"\"max_tokens\":9"}]}"#,
            ),
            (
                WireFormat::OpenAiChat,
                r#"{"max_tokens":900,"max_completion_tokens":800}"#,
                r#"{"max_tokens":500,"max_completion_tokens":500}"#,
            ),
            (WireFormat::OpenAiResponses, r#"{"max_output_tokens":null}"#, r#"{"max_output_tokens":500}"#),
            (
                WireFormat::Gemini,
                r#"{"generation_config":{"max_output_tokens":9}}"#,
                r#"{"generation_config":{"max_output_tokens":500}}"#,
            ),
        ] {
            assert_eq!(bounded(format, body), want);
        }
    }

    #[test]
    fn a_missing_bound_is_put_in() {
        for (format, body, want) in [
            (WireFormat::AnthropicMessages, "{}", r#"{"max_tokens":500}"#),
            (WireFormat::OpenAiResponses, r#"{ "input":"x"}"#, r#"{"max_output_tokens":500, "input":"x"}"#),
            (WireFormat::Gemini, r#"{"a":1}"#, r#"{"generationConfig":{"maxOutputTokens":500},"a":1}"#),
            (WireFormat::Gemini, r#"{"generationConfig":{ }}"#, r#"{"generationConfig":{"maxOutputTokens":500 }}"#),
        ] {
            assert_eq!(bounded(format, body), want);
        }
    }

    #[test]
    fn a_chat_stream_is_made_to_say_what_it_cost() {
        let cap = r#""max_tokens":500,"stream":true"#;
        for (options, want) in [
            ("", r#"{"stream_options":{"include_usage":true},"max_tokens":500,"stream":true}"#.to_owned()),
            (r#","stream_options":null"#, format!(r#"{{{cap},"stream_options":{{"include_usage":true}}}}"#)),
            (r#","stream_options":{}"#, format!(r#"{{{cap},"stream_options":{{"include_usage":true}}}}"#)),
            (
                r#","stream_options":{"include_usage":false}"#,
                format!(r#"{{{cap},"stream_options":{{"include_usage":true}}}}"#),
            ),
        ] {
            let body = format!(r#"{{"max_tokens":700,"stream":true{options}}}"#);
            assert_eq!(bounded(WireFormat::OpenAiChat, &body), want);
            assert!(!read(WireFormat::OpenAiChat, &body).unwrap().asks_usage());
        }
        assert_eq!(bounded(WireFormat::OpenAiChat, r#"{"max_tokens":7}"#), r#"{"max_tokens":500}"#);
    }

    #[test]
    fn what_two_readers_would_read_two_ways_is_refused() {
        for (format, body, key) in [
            (WireFormat::AnthropicMessages, r#"{"max_tokens":1,"max_tokens":99999}"#, "max_tokens"),
            (WireFormat::AnthropicMessages, r#"{"max_tokens":1,"max\u005ftokens":99999}"#, "max_tokens"),
            (WireFormat::OpenAiChat, r#"{"n":1,"n":50}"#, "n"),
            (WireFormat::OpenAiChat, r#"{"stream":false,"stream":true}"#, "stream"),
            (WireFormat::OpenAiChat, r#"{"stream_options":{},"stream_options":null}"#, "stream_options"),
            (
                WireFormat::Gemini,
                r#"{"generationConfig":{"maxOutputTokens":1},"generation_config":{"max_output_tokens":9}}"#,
                "generationConfig",
            ),
        ] {
            assert_eq!(read(format, body), Err(DemandError::Twice { key }), "{body}");
        }
        for body in ["", "[]", "{", "{}x", "7", r#"{"a":1"#, "\u{feff}{}"] {
            assert_eq!(read(WireFormat::OpenAiChat, body), Err(DemandError::NotAnObject), "{body}");
        }
        for value in ["-1", "0", "1.5", "\"64\"", "true", "1e3"] {
            let body = format!("{{\"max_tokens\":{value}}}");
            let error = DemandError::NotACount { key: "max_tokens" };
            assert_eq!(read(WireFormat::AnthropicMessages, &body), Err(error), "{body}");
        }
    }

    #[test]
    fn an_earlier_response_is_named_unless_a_whole_conversation_is() {
        let previous = |body: &str| read(WireFormat::OpenAiResponses, body).unwrap().previous;
        assert_eq!(previous(r#"{"previous_response_id":"resp_1"}"#).as_deref(), Some("resp_1"));
        assert_eq!(previous(r#"{"previous_response_id":null}"#), None);
        assert_eq!(previous(r#"{"conversation":"c","previous_response_id":"resp_1"}"#), None);
        assert_eq!(previous(r#"{"previous_response_id":"resp_1","conversation":{"id":"c"}}"#), None);
        let twice = r#"{"previous_response_id":"a","previous_response_id":"b"}"#;
        let error = DemandError::Twice { key: "previous_response_id" };
        assert_eq!(read(WireFormat::OpenAiResponses, twice), Err(error));
        assert!(!read(WireFormat::OpenAiResponses, r#"{"generate":false}"#).unwrap().generates);
        assert!(read(WireFormat::OpenAiResponses, r#"{"generate":null}"#).unwrap().generates);
    }

    #[test]
    fn what_the_text_does_not_bound_is_named() {
        for (format, body, want) in [
            (WireFormat::AnthropicMessages, r#"{"tools":[{"name":"a"},{"type":"bash_20250124"}]}"#, None),
            (
                WireFormat::AnthropicMessages,
                r#"{"tools":[{"type":"web_search_20250305"}]}"#,
                Some(Beyond::ProviderTool),
            ),
            (WireFormat::AnthropicMessages, r#"{"mcp_servers":[{"url":"x"}]}"#, Some(Beyond::ProviderTool)),
            (
                WireFormat::AnthropicMessages,
                r#"{"messages":[{"content":[{"type":"image","source":{}}]}]}"#,
                Some(Beyond::Media),
            ),
            (
                WireFormat::AnthropicMessages,
                r#"{"context_management":{"edits":[{"type":"compact_20260112"}]}}"#,
                Some(Beyond::Compaction),
            ),
            (WireFormat::OpenAiResponses, r#"{"previous_response_id":"r"}"#, Some(Beyond::EarlierContext)),
            (WireFormat::OpenAiResponses, r#"{"previous_response_id":null,"background":false}"#, None),
            (WireFormat::OpenAiResponses, r#"{"background":true}"#, Some(Beyond::Background)),
            (WireFormat::OpenAiResponses, r#"{"tools":[{"type":"web_search"}]}"#, Some(Beyond::ProviderTool)),
            (WireFormat::Gemini, r#"{"tools":[{"google_search":{}}]}"#, Some(Beyond::ProviderTool)),
            (WireFormat::Gemini, r#"{"tools":[{"functionDeclarations":[{"name":"x"}]}]}"#, None),
            (WireFormat::Gemini, r#"{"contents":[{"parts":[{"inline_data":{"data":"x"}}]}]}"#, Some(Beyond::Media)),
        ] {
            assert_eq!(read(format, body).unwrap().beyond.into_iter().next(), want, "{body}");
        }
    }

    fn read_at(path: &str, body: &str) -> Demand {
        Demand::read(WireFormat::OpenAiChat, path, body.as_bytes()).unwrap()
    }

    #[test]
    fn a_key_in_another_case_or_that_goes_before_the_bound_is_refused() {
        let chat = WireFormat::OpenAiChat;
        let spelled = |key| Err(DemandError::Spelling { key });
        // Go's reader folds letters, and the last key wins.
        for body in [
            r#"{"max_tokens":1,"MAX_TOKENS":99999}"#,
            r#"{"max_token\u017f":99999,"max_tokens":1}"#,
            r#"{"max_to\u212aens":99999}"#,
            r#"{"max_tokens\u0000":99999}"#,
            r#"{"extra_body":{"max_tokens":99999}}"#,
        ] {
            assert_eq!(read(chat, body), spelled("max_tokens"), "{body}");
        }
        assert_eq!(read(chat, r#"{"N":50}"#), spelled("n"));
        assert_eq!(read(WireFormat::OpenAiResponses, r#"{"Background":true}"#), spelled("background"));
        let config = spelled("generationConfig.maxOutputTokens");
        assert_eq!(read(WireFormat::Gemini, r#"{"generationConfig":{"max_output_Tokens":9}}"#), config);
        // llama.cpp takes its own bound before OpenAI's.
        assert_eq!(read(chat, r#"{"n_predict":-1}"#), Err(DemandError::Other { key: "n_predict" }));
        let body = r#"{"extra_body":{"max_new_tokens":9}}"#;
        assert_eq!(read(chat, body), Err(DemandError::Other { key: "max_new_tokens" }));
        // Words of a conversation and a schema's names are nobody's bounds.
        assert!(read(chat, r#"{"messages":[{"N":1}],"tools":[{"function":{"MAX_TOKENS":1}}]}"#).is_ok());
        assert_eq!(Demand::read(chat, "", b"{\"max_tokens\xff\":9}"), Err(DemandError::NotAnObject));
    }

    #[test]
    fn a_bound_that_is_a_list_or_a_map_is_refused() {
        for body in [r#"{"max_tokens":[]}"#, r#"{"max_tokens":{"a":1}}"#] {
            assert_eq!(read(WireFormat::OpenAiChat, body), Err(DemandError::NotACount { key: "max_tokens" }), "{body}");
        }
        for body in [r#"{"generationConfig":[]}"#, r#"{"generation_config":7}"#] {
            assert_eq!(read(WireFormat::Gemini, body), Err(DemandError::NotAnObject), "{body}");
        }
        let want = r#"{"generationConfig":{"maxOutputTokens":500}}"#;
        assert_eq!(bounded(WireFormat::Gemini, r#"{"generationConfig":null}"#), want);
    }

    #[test]
    fn each_prompt_of_a_list_is_an_answer() {
        let answers = |body: &str| read_at("/v1/completions", body).answers;
        assert_eq!(answers(r#"{"prompt":"a","n":3}"#), 3);
        assert_eq!(answers(r#"{"prompt":["a","","c"],"n":3}"#), 9);
        assert_eq!(answers(r#"{"prompt":[1,2,3]}"#), 1);
        assert_eq!(answers(r#"{"prompt":[[1,2],[3],[]],"best_of":2}"#), 6);
    }

    #[test]
    fn where_only_the_old_bound_is_known_it_is_there() {
        let body = r#"{"prompt":"a"}"#;
        let sent = read_at("/v1/completions", body).bounded(body.as_bytes(), 5, AskUsage::Yes);
        assert_eq!(String::from_utf8(sent).unwrap(), r#"{"max_tokens":5,"prompt":"a"}"#);
        let body = r#"{"max_completion_tokens":900}"#;
        let mut demand = read_at("/v1/chat/completions", body);
        demand.bound_by_old_key();
        let sent = demand.bounded(body.as_bytes(), 5, AskUsage::Yes);
        assert_eq!(String::from_utf8(sent).unwrap(), r#"{"max_tokens":5,"max_completion_tokens":5}"#);
    }

    #[test]
    fn tools_for_the_web_are_told_how_often_they_may_be_used() {
        let body = r#"{"max_tokens":9,"tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"a","input_schema":{"max_uses":5}},{"max_uses":99,"type":"web_fetch_20250910"},{"type":"web_search_20250305","max_uses":2},{"type":"web_search_20250305","max_uses":null}]}"#;
        let mut demand = read(WireFormat::AnthropicMessages, body).unwrap();
        assert_eq!(demand.limit_tools(8), 8 + 8 + 2 + 8);
        let sent = String::from_utf8(demand.bounded(body.as_bytes(), 9, AskUsage::Yes)).unwrap();
        let want = r#"{"max_tokens":9,"tools":[{"max_uses":8,"type":"web_search_20250305","name":"web_search"},{"name":"a","input_schema":{"max_uses":5}},{"max_uses":8,"type":"web_fetch_20250910"},{"type":"web_search_20250305","max_uses":2},{"type":"web_search_20250305","max_uses":8}]}"#;
        assert_eq!(sent, want);
        let mut other = read(WireFormat::AnthropicMessages, r#"{"mcp_servers":[{"url":"x"}]}"#).unwrap();
        assert_eq!(other.limit_tools(8), 8);
        let body = r#"{"tools":[{"type":"web_search_1","max_uses":1,"max_uses":9}]}"#;
        let twice = Err(DemandError::Twice { key: "max_uses" });
        assert_eq!(read(WireFormat::AnthropicMessages, body), twice);
    }

    #[test]
    fn what_the_provider_keeps_is_named_wherever_it_is_referred_to() {
        let responses = WireFormat::OpenAiResponses;
        let has = |format, body: &str, what| read(format, body).unwrap().beyond.contains(&what);
        for (body, what) in [
            (r#"{"prompt":{"id":"pmpt_1"}}"#, Beyond::EarlierContext),
            (r#"{"prompt":{"id":"pmpt_1"}}"#, Beyond::ProviderTool),
            (r#"{"input":[{"type":"item_reference","id":"msg_1"}]}"#, Beyond::EarlierContext),
            (r#"{"input":[{"id":"msg_1","type":null}]}"#, Beyond::EarlierContext),
            (r#"{"input":[{"output":[{"type":"input_image"}]}]}"#, Beyond::Media),
            (r#"{"input":[{"output":{"type":"computer_screenshot"}}]}"#, Beyond::Media),
            (r#"{"background":"true"}"#, Beyond::Background),
        ] {
            assert!(has(responses, body, what), "{body}");
        }
        assert!(!has(responses, r#"{"input":[{"id":"msg_1","role":"user"}]}"#, Beyond::EarlierContext));
        for (body, what) in [
            (r#"{"plugins":[{"id":"web"}]}"#, Beyond::ProviderTool),
            (r#"{"model":"openai/gpt-x:online"}"#, Beyond::ProviderTool),
            (r#"{"extra_body":{"google":{"cached_content":"c"}}}"#, Beyond::EarlierContext),
            (r#"{"messages":[{"content":[{"image_url":"http://x/"}]}]}"#, Beyond::Media),
            (r#"{"messages":[{"audio":{"id":"audio_1"}}]}"#, Beyond::Media),
        ] {
            assert!(has(WireFormat::OpenAiChat, body, what), "{body}");
        }
        let call = r#"{"messages":[{"content":[{"type":"tool_use","input":{"type":"file","file_id":"x"}}]}]}"#;
        assert!(read(WireFormat::AnthropicMessages, call).unwrap().beyond.is_empty());
        let single = r#"{"tools":{"googleSearch":{}},"contents":{"parts":{"inlineData":{"data":"x"}}}}"#;
        let beyond = read(WireFormat::Gemini, single).unwrap().beyond;
        assert_eq!(beyond.into_iter().collect::<Vec<_>>(), [Beyond::Media, Beyond::ProviderTool]);
    }

    #[test]
    fn an_earlier_response_says_nothing_of_what_is_referred_to_beside_it() {
        let beside = |input: &str| {
            let body = format!(r#"{{"previous_response_id":"resp_1","input":[{input}]}}"#);
            read(WireFormat::OpenAiResponses, &body).unwrap().previous
        };
        assert_eq!(beside(r#"{"role":"user","content":"x"}"#).as_deref(), Some("resp_1"));
        assert_eq!(beside(r#"{"type":"item_reference","id":"msg_1"}"#), None);
        assert_eq!(beside(r#"{"id":"msg_1"}"#), None);
        assert_eq!(beside(r#"{"type":"reasoning","id":"rs_1","summary":[]}"#), None);
        let template = r#"{"previous_response_id":"resp_1","prompt":{"id":"pmpt_1"}}"#;
        assert_eq!(read(WireFormat::OpenAiResponses, template).unwrap().previous, None);
    }

    #[test]
    fn what_the_provider_keeps_of_an_item_is_an_earlier_conversation() {
        let keeps = |item: &str| {
            let body = format!(r#"{{"input":[{item},{{"role":"user","content":"x"}}]}}"#);
            read(WireFormat::OpenAiResponses, &body).unwrap().beyond.contains(&Beyond::EarlierContext)
        };
        assert!(keeps(r#"{"type":"reasoning","id":"rs_1","summary":[]}"#));
        assert!(keeps(r#"{"id":"rs_1","encrypted_content":null,"summary":[],"type":"reasoning"}"#));
        assert!(keeps(r#"{"type":"web_search_call","id":"ws_1","status":"completed"}"#));
        assert!(!keeps(r#"{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAA"}"#));
        assert!(!keeps(r#"{"type":"reasoning","summary":[{"type":"summary_text","text":"x"}]}"#));
        assert!(!keeps(r#"{"type":"function_call","id":"fc_1","call_id":"c","name":"a","arguments":"{}"}"#));
    }

    #[test]
    fn a_thread_that_goes_on_and_what_else_is_asked_of_other_models_is_named() {
        let anthropic = WireFormat::AnthropicMessages;
        let of = |body: &str| read(anthropic, body).unwrap();
        let thread = of(r#"{"thread":{"type":"continue","previous_message_id":"msg_1"}}"#);
        assert_eq!(thread.previous.as_deref(), Some("msg_1"));
        assert_eq!(thread.beyond.into_iter().collect::<Vec<_>>(), [Beyond::EarlierContext]);
        assert!(of(r#"{"thread":{"type":"create"},"compaction":null,"fallbacks":null}"#).beyond.is_empty());
        for (body, what) in [
            (r#"{"thread":{"type":"continue"}}"#, Beyond::EarlierContext),
            (r#"{"thread":{"type":"create","id":"thread_1"}}"#, Beyond::EarlierContext),
            (r#"{"thread":"thread_1"}"#, Beyond::EarlierContext),
            (r#"{"compaction":{"type":"enabled"}}"#, Beyond::Compaction),
            (r#"{"fallbacks":"default"}"#, Beyond::Fallback),
            (r#"{"fallbacks":[{"model":"claude-opus-4-8"}]}"#, Beyond::Fallback),
        ] {
            assert!(of(body).beyond.contains(&what), "{body}");
        }
        let twice = r#"{"thread":{"previous_message_id":"a","previous_message_id":"b"}}"#;
        assert_eq!(read(anthropic, twice), Err(DemandError::Twice { key: "thread" }));
        assert_eq!(read(anthropic, r#"{"Thread":{}}"#), Err(DemandError::Spelling { key: "thread" }));
    }

    #[test]
    fn a_responses_own_compaction_is_named_and_its_tools_are_told_how_often_they_may_be_used() {
        let responses = WireFormat::OpenAiResponses;
        let body = r#"{"context_management":[{"type":"compaction","compact_threshold":1000}],"input":"x"}"#;
        assert!(read(responses, body).unwrap().beyond.contains(&Beyond::Compaction));
        assert!(read(responses, r#"{"context_management":null}"#).unwrap().beyond.is_empty());
        let told = |path: &str, own: &str| {
            let body = format!(r#"{{"tools":[{{"type":"web_search"}}]{own}}}"#);
            let mut demand = Demand::read(responses, path, body.as_bytes()).unwrap();
            let most = demand.limit_tools(8);
            let sent = demand.bounded(body.as_bytes(), 5, AskUsage::Yes);
            (most, String::from_utf8(sent).unwrap().replace(r#","tools":[{"type":"web_search"}]"#, ""))
        };
        let bound = r#""max_output_tokens":5"#;
        assert_eq!(told("/v1/responses", ""), (8, format!(r#"{{{bound},"max_tool_calls":8}}"#)));
        assert_eq!(told("/v1/responses", r#","max_tool_calls":99"#), (8, format!(r#"{{{bound},"max_tool_calls":8}}"#)));
        assert_eq!(told("/v1/responses", r#","max_tool_calls":3"#), (8, format!(r#"{{{bound},"max_tool_calls":3}}"#)));
        assert_eq!(told("/v1/responses", r#","max_tool_calls":null"#).0, 8);
        // ChatGPT's own backend takes no such member.
        assert_eq!(told("/backend-api/codex/responses", ""), (8, format!("{{{bound}}}")));
        let twice = r#"{"max_tool_calls":1,"max_tool_calls":9}"#;
        assert_eq!(read(responses, twice), Err(DemandError::Twice { key: "max_tool_calls" }));
        let capitals = r#"{"Max_Tool_Calls":9}"#;
        assert_eq!(read(responses, capitals), Err(DemandError::Spelling { key: "max_tool_calls" }));
        let absurd = r#"{"max_tool_calls":[9]}"#;
        assert_eq!(read(responses, absurd), Err(DemandError::NotACount { key: "max_tool_calls" }));
        // What needs no tool of the provider's goes as it came.
        let body = r#"{"tools":[{"type":"function"}]}"#;
        assert_eq!(
            bounded(responses, body),
            format!(r#"{{{bound},"tools":[{{"type":"function"}}]}}"#).replace('5', "500")
        );
    }

    proptest! {
        #[test]
        fn what_was_bounded_reads_as_bounded(extra in "[a-z]{1,5}", cap in prop::option::of(1..99_999_u64), stream in any::<bool>()) {
            for format in [WireFormat::AnthropicMessages, WireFormat::OpenAiChat, WireFormat::OpenAiResponses] {
                let key = if format == WireFormat::OpenAiResponses { "max_output_tokens" } else { "max_tokens" };
                let own = cap.map(|cap| format!(",\"{key}\":{cap}")).unwrap_or_default();
                let body = format!("{{\"x_{extra}\":[{{}}],\"stream\":{stream}{own}}}");
                let demand = read(format, &body).unwrap();
                let after = demand.bounded(body.as_bytes(), 77, AskUsage::Yes);
                let again = Demand::read(format, "", &after).unwrap();
                prop_assert_eq!(again.output_max, Some(77));
                prop_assert_eq!(again.streams, stream);
                prop_assert!(!stream || again.asks_usage());
                prop_assert_eq!(again.bounded(&after, 77, AskUsage::Yes), after);
            }
        }
    }
}
