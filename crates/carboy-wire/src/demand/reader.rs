//! Hears a request's body, and takes down what governs it.
//!
//! *Must never* pass over a key that some server goes by.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{Beyond, Demand, DemandError, Options, WebTool, spelling};
use crate::format::WireFormat;
use crate::json::{Hear, Scalar};

pub(super) struct Reader {
    format: WireFormat,
    pub(super) demand: Demand,
    seen: BTreeSet<&'static str>,
    pub(super) error: Option<DemandError>,
    /// The tool that is being read, and whether it is one of Anthropic's for the web.
    tool: WebTool,
    is_web: bool,
    /// The input's item that is being read.
    item: Item,
    /// Prompts of a list, each answered by itself.
    prompts: u32,
    /// Beside an earlier response it names other things that the provider keeps.
    refers: bool,
}

/// An item of a Responses' input: one that has a name and nothing else is a word for what the provider keeps, and so is one of
/// [`KEPT`] that does not bring it along.
#[derive(Default)]
struct Item {
    named: bool,
    written: bool,
    kept: bool,
    brought: bool,
}

impl Item {
    fn is_a_reference(&self) -> bool {
        self.named && (!self.written || self.kept && !self.brought)
    }
}

impl Reader {
    pub(super) fn new(demand: Demand) -> Reader {
        Reader {
            format: demand.format,
            demand,
            seen: BTreeSet::new(),
            error: None,
            tool: WebTool { behind: 0, uses: None },
            is_web: false,
            item: Item::default(),
            prompts: 0,
            refers: false,
        }
    }

    /// What was heard, now that the body has ended.
    pub(super) fn done(mut self) -> Demand {
        // Of a whole conversation no single response says how long it is, or of what else is referred to.
        if self.seen.contains("conversation") || self.refers {
            self.demand.previous = None;
        }
        self.demand.answers = self.demand.answers.saturating_mul(self.prompts.max(1));
        self.demand
    }

    fn fails(&mut self, error: DemandError) {
        self.error.get_or_insert(error);
    }

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

    /// An earlier response, by its name.
    fn goes_on_from(&mut self, value: Scalar<'_>) {
        self.beyond(Beyond::EarlierContext);
        if let Scalar::Text(name, bytes) = value {
            self.demand.previous = (bytes == name.len() as u64).then(|| name.to_owned());
        }
    }

    /// Something that the provider keeps, by its name.
    fn refers(&mut self) {
        self.refers = true;
        self.beyond(Beyond::EarlierContext);
    }

    /// `max_uses`: a null is as good as absent.
    fn tool_uses(&mut self, key: &'static str, value: Scalar<'_>, least: u64) -> Option<u64> {
        match value {
            Scalar::Null => return None,
            Scalar::Number(text) => match text.parse::<u64>() {
                Ok(uses) if uses >= least => return Some(uses),
                Ok(_) | Err(_) => {}
            },
            Scalar::Text(..) | Scalar::Flag(_) => {}
        }
        self.fails(DemandError::NotACount { key });
        None
    }

    /// A bound is no list and no map: whoever took one all the same would take the one that is put beside it, or not.
    fn holds_no_more_than_a_scalar(&mut self, path: &str) {
        let own: &[&'static str] = match self.format {
            WireFormat::AnthropicMessages => &["max_tokens", "tools[].max_uses", "thinking.budget_tokens"],
            WireFormat::OpenAiChat | WireFormat::OpenAiResponses => {
                &["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of", "max_tool_calls"]
            }
            WireFormat::Gemini => &["generationConfig.maxOutputTokens", "generationConfig.candidateCount"],
        };
        let path = if self.format == WireFormat::Gemini { camel(path) } else { path.to_owned() };
        if let Some(key) = own.iter().find(|key| **key == path) {
            self.fails(DemandError::NotACount { key });
        }
    }

    fn provider_tool(&mut self) {
        self.demand.places.other_tool = true;
        self.beyond(Beyond::ProviderTool);
    }

    /// Wherever a conversation stands: in a message, in what a tool gave, in what that holds.
    fn content(&mut self, path: &str, value: Scalar<'_>) {
        // What a model gave a tool of the client's is text, whatever its keys are.
        if path.contains("[].input.") || path.contains("[].arguments.") {
            return;
        }
        let last = path.rsplit('.').next().unwrap_or_default();
        let kept = ["file_id", "file_url", "file_data", "image_url", "audio_url", "video_url", "input_audio"];
        match value {
            // A text's kind, or a picture's address without one.
            Scalar::Text(kind, _) if last == "type" && MEDIA.contains(&kind) => self.beyond(Beyond::Media),
            Scalar::Text(..) if kept.iter().any(|key| path.split('.').any(|part| part == *key)) => {
                self.beyond(Beyond::Media);
            }
            // What was said aloud earlier.
            Scalar::Text(..) if path == "messages[].audio.id" => self.beyond(Beyond::Media),
            Scalar::Text("item_reference", _) if path == "input[].type" => self.refers(),
            Scalar::Text(..) | Scalar::Number(_) | Scalar::Flag(_) | Scalar::Null => {}
        }
    }

    fn anthropic(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        match path {
            "model" => self.model(value),
            "stream" => self.streams(value),
            "max_tokens" => self.cap("max_tokens", value, at),
            "thinking.budget_tokens" => self.demand.thinking = self.count("thinking.budget_tokens", value),
            _ if path.starts_with("messages[]") || path.starts_with("system[]") => self.content(path, value),
            "tools[].max_uses" => {
                let uses = self.tool_uses("max_uses", value, 1);
                if self.tool.uses.replace((uses, at)).is_some() {
                    self.fails(DemandError::Twice { key: "max_uses" });
                }
            }
            // Tools of the client have no type, `custom`, or one of these families; the provider runs every other kind.
            "tools[].type" => {
                let own = ["custom", "bash_", "text_editor_", "computer_", "memory_"];
                if let Scalar::Text(kind, _) = value {
                    if ["web_search_", "web_fetch_"].iter().any(|family| kind.starts_with(family)) {
                        self.is_web = true;
                        self.beyond(Beyond::ProviderTool);
                    } else if !own.iter().any(|family| kind.starts_with(family)) {
                        self.provider_tool();
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
            _ if path.starts_with("mcp_servers[]") => self.provider_tool(),
            // A beginning keeps what the body has; whatever else stands here goes on from what is kept.
            "thread.type" if value == Scalar::Text("create", 6) => {}
            "thread.type" if value != Scalar::Null => self.beyond(Beyond::EarlierContext),
            "thread.previous_message_id" if value != Scalar::Null => {
                self.once("thread");
                self.goes_on_from(value);
            }
            _ if (path == "thread" || path.starts_with("thread.")) && value != Scalar::Null => self.refers(),
            // Asked for by itself.
            "compaction" if value != Scalar::Null => self.beyond(Beyond::Compaction),
            _ if (path == "fallbacks" || path.starts_with("fallbacks[]")) && value != Scalar::Null => {
                self.beyond(Beyond::Fallback);
            }
            _ => {}
        }
    }

    fn openai(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        match path {
            "model" => {
                self.model(value);
                // Models that search by themselves, and a gateway's word for any that is to.
                let searches = |name: &str| {
                    name.ends_with(":online") || ["-search-", "deep-research"].iter().any(|part| name.contains(part))
                };
                if matches!(value, Scalar::Text(name, _) if searches(name)) {
                    self.provider_tool();
                }
            }
            "stream" => self.streams(value),
            "max_tokens" => {
                self.demand.places.old_cap = true;
                self.cap("max_tokens", value, at);
            }
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
            // Some take a word or a number for a yes.
            "background" if !matches!(value, Scalar::Flag(false) | Scalar::Null) => self.beyond(Beyond::Background),
            "prompt[]" => match value {
                Scalar::Text(..) => self.prompts = self.prompts.saturating_add(1),
                // One prompt, in tokens.
                Scalar::Number(_) | Scalar::Flag(_) | Scalar::Null => {}
            },
            "prompt_embeds[]" => self.prompts = self.prompts.saturating_add(1),
            "previous_response_id" if value != Scalar::Null => {
                self.once("previous_response_id");
                self.goes_on_from(value);
            }
            "conversation" | "conversation.id" if value != Scalar::Null => {
                self.seen.insert("conversation");
                self.beyond(Beyond::EarlierContext);
            }
            _ if path.starts_with("messages[]") || path.starts_with("input[]") => {
                match path {
                    "input[].id" => self.item.named = true,
                    "input[].type" if value != Scalar::Null => {
                        self.item.written = true;
                        self.item.kept |= matches!(value, Scalar::Text(kind, _) if KEPT.contains(&kind));
                    }
                    "input[].role" if value != Scalar::Null => self.item.written = true,
                    "input[].encrypted_content" => self.item.brought |= matches!(value, Scalar::Text(_, 1..)),
                    _ => {}
                }
                self.content(path, value);
            }
            "max_tool_calls" => {
                self.once("max_tool_calls");
                self.demand.places.tool_calls = Some((self.tool_uses("max_tool_calls", value, 0), at));
            }
            // The only kind there is shortens the conversation.
            _ if path.starts_with("context_management") && value != Scalar::Null => self.beyond(Beyond::Compaction),
            // Of these the client runs the tool; the provider runs every other kind.
            "tools[].type" if matches!(value, Scalar::Text("function" | "custom", _)) => {}
            "tools[].type" if matches!(value, Scalar::Text("local_shell" | "shell" | "apply_patch", _)) => {
                self.demand.kept_tools = self.demand.kept_tools.saturating_add(1);
            }
            "tools[].type" => self.provider_tool(),
            _ if path.starts_with("web_search_options") || path.starts_with("plugins[]") => self.provider_tool(),
            // Gemini, spoken to in OpenAI's format.
            _ if path.starts_with("extra_body.") && path.ends_with("cached_content") => {
                self.beyond(Beyond::EarlierContext);
            }
            _ => {}
        }
    }

    fn gemini(&mut self, path: &str, value: Scalar<'_>, at: Range<usize>) {
        // Both spellings of a key are read by the provider (protocol buffers' JSON mapping), and one element for a list.
        let path = camel(path).replace("[]", "");
        match path.as_str() {
            "generationConfig" if value == Scalar::Null => {
                self.once("generationConfig");
                self.demand.places.no_config = Some(at);
            }
            "generationConfig" => self.fails(DemandError::NotAnObject),
            "generationConfig.maxOutputTokens" => self.cap("generationConfig.maxOutputTokens", value, at),
            "generationConfig.candidateCount" => self.answers("generationConfig.candidateCount", value),
            "cachedContent" => self.beyond(Beyond::EarlierContext),
            path if path.contains("parts.inlineData.") || path.contains("parts.fileData.") => {
                self.beyond(Beyond::Media)
            }
            path if path.starts_with("tools.") && !path.starts_with("tools.functionDeclarations") => {
                self.provider_tool();
            }
            _ => {}
        }
    }
}

/// `snake_case` as `snakeCase`; what is neither stays as it is.
pub(super) fn camel(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('_', Some(next)) if next.is_ascii_lowercase() => {
                out.push(next.to_ascii_uppercase());
                chars.next();
            }
            _ => out.push(c),
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

    fn key(&mut self, path: &str) {
        if let Err(error) = spelling::judge(self.format, path) {
            self.fails(error);
        }
    }

    fn list_begins(&mut self, path: &str) {
        self.holds_no_more_than_a_scalar(path);
        // A prompt in tokens, beside others.
        if path == "prompt[]" {
            self.prompts = self.prompts.saturating_add(1);
        }
        if self.format == WireFormat::Gemini && camel(path) == "generationConfig" {
            self.fails(DemandError::NotAnObject);
        }
    }

    fn map_begins(&mut self, path: &str, behind: usize) {
        self.holds_no_more_than_a_scalar(path);
        match (self.format, path) {
            (_, "") => self.demand.places.root = self.demand.places.root.or(Some(behind)),
            (WireFormat::OpenAiChat | WireFormat::OpenAiResponses, "stream_options") => {
                self.once("stream_options");
                self.demand.places.options = Some(Options::Map(behind));
            }
            // A template that the provider keeps, with tools of its own.
            (WireFormat::OpenAiResponses, "prompt") => {
                self.refers();
                self.provider_tool();
            }
            (WireFormat::OpenAiResponses, "input[]") => self.item = Item::default(),
            (WireFormat::AnthropicMessages, "thinking") => {
                self.demand.thinks = true;
                self.once("thinking");
            }
            (WireFormat::AnthropicMessages, "compaction") => self.beyond(Beyond::Compaction),
            (WireFormat::AnthropicMessages, "tools[]") => {
                (self.tool, self.is_web) = (WebTool { behind, uses: None }, false);
            }
            (WireFormat::Gemini, path) => match camel(path).replace("[]", "").as_str() {
                "generationConfig" => {
                    self.once("generationConfig");
                    self.demand.places.config = Some(behind);
                }
                // An empty map is a tool as well: `{"googleSearch": {}}`.
                tool if tool.starts_with("tools.") && !tool.starts_with("tools.functionDeclarations") => {
                    self.provider_tool();
                }
                _ => {}
            },
            (_, path) if path.starts_with("web_search_options") || path == "plugins[]" => self.provider_tool(),
            (WireFormat::AnthropicMessages | WireFormat::OpenAiChat | WireFormat::OpenAiResponses, _) => {}
        }
    }

    fn map_ends(&mut self, path: &str) {
        match (self.format, path) {
            (WireFormat::AnthropicMessages, "tools[]") if self.is_web => {
                self.demand.places.web_tools.push(self.tool.clone());
            }
            (WireFormat::OpenAiResponses, "input[]") if self.item.is_a_reference() => self.refers(),
            (
                WireFormat::AnthropicMessages
                | WireFormat::OpenAiChat
                | WireFormat::OpenAiResponses
                | WireFormat::Gemini,
                _,
            ) => {}
        }
    }
}

/// Items of which a provider that stores responses keeps more than it gives out: by the name alone it reads all of it again.
const KEPT: &[&str] = &[
    "reasoning",
    "compaction",
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
];

/// Kinds of content whose size the text does not show.
const MEDIA: &[&str] = &[
    "image",
    "document",
    "file",
    "image_url",
    "input_image",
    "input_file",
    "input_audio",
    "audio_url",
    "video_url",
    "input_video",
    "container_upload",
    "computer_screenshot",
];
