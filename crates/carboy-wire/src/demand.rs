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

use std::collections::BTreeSet;
use std::ops::Range;

use crate::format::WireFormat;
use crate::json::{Hear, Scalar, Scanner};

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
    /// The earlier response that it goes on from, as far as its name has 64 octets; OpenAI's Responses alone.
    pub previous: Option<String>,
    format: WireFormat,
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
    /// Gemini's `generationConfig`, behind its brace.
    config: Option<usize>,
    /// `stream_options`: a map's inside, or a null.
    options: Option<Options>,
    /// `stream_options.include_usage`
    include: Option<(bool, Range<usize>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Options {
    Map(usize),
    Null(Range<usize>),
}

struct Reader {
    format: WireFormat,
    demand: Demand,
    seen: BTreeSet<&'static str>,
    error: Option<DemandError>,
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
            places: Places::default(),
        };
        let mut reader = Reader { format, demand, seen: BTreeSet::new(), error: None };
        let mut scanner = Scanner::new();
        scanner.feed(body, &mut reader);
        scanner.end(&mut reader);
        match reader.error {
            Some(error) => Err(error),
            None if !scanner.is_complete() || reader.demand.places.root.is_none() => Err(DemandError::NotAnObject),
            None => {
                // Of a whole conversation no single response says how long it is.
                if reader.seen.contains("conversation") {
                    reader.demand.previous = None;
                }
                Ok(reader.demand)
            }
        }
    }

    /// The body with each answer bounded to `output` tokens. `body` is the one that was read.
    pub fn bounded(&self, body: &[u8], output: u64, ask_usage: AskUsage) -> Vec<u8> {
        let mut edits: Vec<(Range<usize>, String)> = Vec::new();
        for cap in &self.places.caps {
            edits.push((cap.clone(), output.to_string()));
        }
        let root = self.places.root.unwrap_or_default();
        let mut at_root = Vec::new();
        if self.places.caps.is_empty() {
            match (self.format, self.places.config) {
                (WireFormat::AnthropicMessages, _) => at_root.push(format!("\"max_tokens\":{output}")),
                (WireFormat::OpenAiChat, _) => at_root.push(format!("\"max_completion_tokens\":{output}")),
                (WireFormat::OpenAiResponses, _) => at_root.push(format!("\"max_output_tokens\":{output}")),
                (WireFormat::Gemini, Some(config)) => {
                    edits.push((config..config, first(body, config, &[format!("\"maxOutputTokens\":{output}")])));
                }
                (WireFormat::Gemini, None) => {
                    at_root.push(format!("\"generationConfig\":{{\"maxOutputTokens\":{output}}}"));
                }
            }
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

impl Reader {
    fn once(&mut self, key: &'static str) {
        if !self.seen.insert(key) {
            self.error.get_or_insert(DemandError::Twice { key });
        }
    }

    fn count(&mut self, key: &'static str, value: Scalar<'_>) -> Option<u64> {
        self.once(key);
        match value {
            Scalar::Number(text) => match text.parse::<u64>() {
                Ok(tokens) if tokens > 0 => return Some(tokens),
                Ok(_) | Err(_) => {}
            },
            // As good as absent.
            Scalar::Null => return None,
            Scalar::Text(..) | Scalar::Flag(_) => {}
        }
        self.error.get_or_insert(DemandError::NotACount { key });
        None
    }

    fn cap(&mut self, key: &'static str, value: Scalar<'_>, at: Range<usize>) {
        if let Some(tokens) = self.count(key, value) {
            // A chat may carry the old key and the new one: the lower bound is what was asked, both are rewritten.
            self.demand.output_max = Some(self.demand.output_max.map_or(tokens, |known| known.min(tokens)));
        }
        self.demand.places.caps.push(at);
    }

    fn answers(&mut self, key: &'static str, value: Scalar<'_>) {
        let answers = self.count(key, value).map_or(1, |n| u32::try_from(n).unwrap_or(u32::MAX));
        self.demand.answers = self.demand.answers.max(answers);
    }

    fn streams(&mut self, value: Scalar<'_>) {
        self.once("stream");
        self.demand.streams = value == Scalar::Flag(true);
    }

    fn model(&mut self, value: Scalar<'_>) {
        self.once("model");
        if let Scalar::Text(name, _) = value {
            self.demand.model = Some(name.to_owned());
        }
    }

    fn beyond(&mut self, what: Beyond) {
        self.demand.beyond.insert(what);
    }

    fn kind_of_content(&mut self, value: Scalar<'_>) {
        let Scalar::Text(kind, _) = value else { return };
        if matches!(
            kind,
            "image"
                | "document"
                | "file"
                | "image_url"
                | "input_image"
                | "input_file"
                | "input_audio"
                | "container_upload"
        ) {
            self.beyond(Beyond::Media);
        }
    }

    fn anthropic(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        match path {
            "model" => self.model(value),
            "stream" => self.streams(value),
            "max_tokens" => self.cap("max_tokens", value, at),
            "thinking.budget_tokens" => self.demand.thinking = self.count("thinking.budget_tokens", value),
            "messages[].content[].type" | "system[].type" | "messages[].content[].content[].type" => {
                self.kind_of_content(value);
            }
            // Tools of the client have no type, `custom`, or one of these families; the provider runs every other kind.
            "tools[].type" => {
                let own = ["custom", "bash_", "text_editor_", "computer_", "memory_"];
                if let Scalar::Text(kind, _) = value {
                    if !own.iter().any(|family| kind.starts_with(family)) {
                        self.beyond(Beyond::ProviderTool);
                    } else if kind != "custom" {
                        self.demand.kept_tools = self.demand.kept_tools.saturating_add(1);
                    }
                }
            }
            "context_management.edits[].type" => {
                if matches!(value, Scalar::Text(kind, _) if kind.starts_with("compact")) {
                    self.beyond(Beyond::Compaction);
                }
            }
            _ if path.starts_with("mcp_servers[]") => self.beyond(Beyond::ProviderTool),
            _ => {}
        }
    }

    fn openai(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        match path {
            "model" => self.model(value),
            "stream" => self.streams(value),
            "max_tokens" => self.cap("max_tokens", value, at),
            "max_completion_tokens" => self.cap("max_completion_tokens", value, at),
            "max_output_tokens" => self.cap("max_output_tokens", value, at),
            "generate" => {
                self.once("generate");
                self.demand.generates = value != Scalar::Flag(false);
            }
            "n" => self.answers("n", value),
            "best_of" => self.answers("best_of", value),
            "stream_options" => {
                self.once("stream_options");
                self.demand.places.options = Some(Options::Null(at));
            }
            "stream_options.include_usage" => {
                self.once("stream_options.include_usage");
                self.demand.places.include = Some((value == Scalar::Flag(true), at));
            }
            "background" if value == Scalar::Flag(true) => self.beyond(Beyond::Background),
            "previous_response_id" if value != Scalar::Null => {
                self.once("previous_response_id");
                self.beyond(Beyond::EarlierContext);
                if let Scalar::Text(name, bytes) = value {
                    self.demand.previous = (bytes == name.len() as u64).then(|| name.to_owned());
                }
            }
            "conversation" | "conversation.id" if value != Scalar::Null => {
                self.seen.insert("conversation");
                self.beyond(Beyond::EarlierContext);
            }
            "messages[].content[].type" | "input[].content[].type" | "input[].type" => self.kind_of_content(value),
            // Of these the client runs the tool; the provider runs every other kind.
            "tools[].type" if matches!(value, Scalar::Text("function" | "custom", _)) => {}
            "tools[].type" if matches!(value, Scalar::Text("local_shell" | "shell" | "apply_patch", _)) => {
                self.demand.kept_tools = self.demand.kept_tools.saturating_add(1);
            }
            "tools[].type" => self.beyond(Beyond::ProviderTool),
            _ if path.starts_with("web_search_options") => self.beyond(Beyond::ProviderTool),
            _ => {}
        }
    }

    fn gemini(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        // Both spellings of a key are read by the provider (protocol buffers' JSON mapping).
        let path = camel(path);
        match path.as_str() {
            "generationConfig.maxOutputTokens" => self.cap("generationConfig.maxOutputTokens", value, at),
            "generationConfig.candidateCount" => self.answers("generationConfig.candidateCount", value),
            "cachedContent" => self.beyond(Beyond::EarlierContext),
            path if path.contains("parts[].inlineData.") || path.contains("parts[].fileData.") => {
                self.beyond(Beyond::Media)
            }
            path if path.starts_with("tools[].") && !path.starts_with("tools[].functionDeclarations") => {
                self.beyond(Beyond::ProviderTool);
            }
            _ => {}
        }
    }
}

/// `snake_case` as `snakeCase`.
fn camel(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if std::mem::take(&mut upper) => out.push(c.to_ascii_uppercase()),
            c => out.push(c),
        }
    }
    out
}

impl Hear for Reader {
    fn scalar(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        match self.format {
            WireFormat::AnthropicMessages => self.anthropic(path, value, at),
            WireFormat::OpenAiChat | WireFormat::OpenAiResponses => self.openai(path, value, at),
            WireFormat::Gemini => self.gemini(path, value, at),
        }
    }

    fn map_begins(&mut self, path: &str, behind: usize) {
        match (self.format, path) {
            (_, "") => self.demand.places.root = self.demand.places.root.or(Some(behind)),
            (WireFormat::OpenAiChat | WireFormat::OpenAiResponses, "stream_options") => {
                self.once("stream_options");
                self.demand.places.options = Some(Options::Map(behind));
            }
            (WireFormat::AnthropicMessages, "thinking") => {
                self.demand.thinks = true;
                self.once("thinking");
            }
            (WireFormat::Gemini, path) => match camel(path).as_str() {
                "generationConfig" => {
                    self.once("generationConfig");
                    self.demand.places.config = Some(behind);
                }
                // An empty map is a tool as well: `{"googleSearch": {}}`.
                tool if tool.starts_with("tools[].") && !tool.starts_with("tools[].functionDeclarations") => {
                    self.beyond(Beyond::ProviderTool);
                }
                _ => {}
            },
            (_, path) if path.starts_with("web_search_options") => self.beyond(Beyond::ProviderTool),
            (WireFormat::AnthropicMessages | WireFormat::OpenAiChat | WireFormat::OpenAiResponses, _) => {}
        }
    }
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
