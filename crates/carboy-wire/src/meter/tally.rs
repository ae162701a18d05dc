//! Where usage stands in each format, and what its fields mean together.
//!
//! | format | read | written | cached |
//! |---|---|---|---|
//! | Anthropic Messages | `input_tokens`, without cache | `output_tokens`, thinking included | both beside the input |
//! | OpenAI Chat | `prompt_tokens`, with cache | the larger of `completion_tokens` and `total − prompt` | in `prompt_tokens_details` |
//! | OpenAI Responses | `input_tokens`, with cache | `output_tokens`, reasoning included | in `input_tokens_details` |
//! | Gemini | `promptTokenCount` + `toolUsePromptTokenCount`, with cache | `candidatesTokenCount` + `thoughtsTokenCount`, or `total − read` | `cachedContentTokenCount` |
//!
//! Sources: the types of the official SDKs (anthropic 2.11.0, openai 2.54.0) and the providers' reference pages.

use carboy_core::budget::{TOKENS_MAX, Usage};

use super::{Reading, Reported};
use crate::format::WireFormat;
use crate::json::{Hear, Scalar};

/// No token has more octets: the longest of those that are known are 128 spaces.
const TOKEN_BYTES_MAX: u64 = 256;

/// A piece of a stream has a token or more; of those that whoever sits before a provider cut up again so many may be more
/// than its count: one in four, and a few.
const PIECES_PART: u64 = 4;
/// The few.
const PIECES_MORE: u64 = 64;

/// Counts as they stand on the wire.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_read: Option<u64>,
    cache_write: Option<u64>,
    thoughts: Option<u64>,
    tool_use: Option<u64>,
    /// Anthropic's `iterations` that the top level leaves out.
    beside: Usage,
}

#[derive(Clone, Copy, Debug, Default)]
struct Iteration {
    counts: Counts,
    in_top_level: bool,
}

#[derive(Debug)]
pub(super) struct Tally {
    format: WireFormat,
    counts: Counts,
    iteration: Iteration,
    /// `iterations` of the present event.
    iterations: Usage,
    written_bytes: u64,
    deltas: u64,
    /// The answer's own name, of Anthropic's.
    name: Option<String>,
    ended: bool,
    /// The present event says that the response failed, and what it cost: without a cost it ends nothing.
    failed: bool,
    told: bool,
    implausible: bool,
}

impl Tally {
    pub(super) fn new(format: WireFormat) -> Tally {
        Tally {
            format,
            counts: Counts::default(),
            iteration: Iteration::default(),
            iterations: Usage::default(),
            written_bytes: 0,
            deltas: 0,
            name: None,
            ended: false,
            failed: false,
            told: false,
            implausible: false,
        }
    }

    /// `[DONE]`
    pub(super) fn done(&mut self) {
        self.ended = true;
    }

    /// An event was not a document: whatever it was to say is missing.
    pub(super) fn broken(&mut self) {
        self.implausible = true;
    }

    pub(super) fn event_ends(&mut self) {
        // Restated by a later event, like every other count.
        self.counts.beside = self.counts.beside.larger(std::mem::take(&mut self.iterations));
        let (failed, told) = (std::mem::take(&mut self.failed), std::mem::take(&mut self.told));
        self.ended |= failed && told;
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn came_to_its_end(&self) -> bool {
        self.ended
    }

    pub(super) fn reading(&self, complete: bool) -> Reading {
        let usage = self.usage();
        let implausible = self.implausible || (complete && usage.is_some_and(|usage| self.belies(&usage)));
        let reported = match (usage, complete && self.says_all() && !implausible) {
            (None, _) => Reported::Never,
            (Some(_), true) => Reported::Complete,
            (Some(_), false) => Reported::Partly,
        };
        Reading {
            usage: usage.unwrap_or_default(),
            reported,
            written_bytes: self.written_bytes,
            deltas: self.deltas,
            implausible,
        }
    }

    /// What was read and what was written: Google's servers leave out of an answer whatever the request did not name in
    /// `fields`.
    fn says_all(&self) -> bool {
        let Counts { output, total, .. } = &self.counts;
        match self.format {
            WireFormat::AnthropicMessages => output.is_some(),
            WireFormat::OpenAiChat | WireFormat::OpenAiResponses | WireFormat::Gemini => {
                output.is_some() || total.is_some()
            }
        }
    }

    /// Once the answer has come to its end: more was written than so many tokens can be, or in more pieces.
    fn belies(&self, usage: &Usage) -> bool {
        let pieces = usage.output.saturating_add(usage.output / PIECES_PART).saturating_add(PIECES_MORE);
        self.written_bytes > usage.output.saturating_mul(TOKEN_BYTES_MAX) || self.deltas > pieces
    }

    fn usage(&self) -> Option<Usage> {
        let counts = &self.counts;
        let (cache_read, cache_write) = (counts.cache_read.unwrap_or(0), counts.cache_write.unwrap_or(0));
        let usage = match self.format {
            WireFormat::AnthropicMessages => {
                let beside = counts.beside.larger(self.iterations);
                let (input, output) = (counts.input?, counts.output.unwrap_or(0));
                Usage {
                    input: input.saturating_add(beside.input),
                    output: output.saturating_add(beside.output),
                    cache_read: cache_read.saturating_add(beside.cache_read),
                    cache_write: cache_write.saturating_add(beside.cache_write),
                }
            }
            WireFormat::OpenAiChat | WireFormat::OpenAiResponses => {
                let read = counts.input?;
                let rest = counts.total.unwrap_or(0).saturating_sub(read);
                within(read, cache_read, cache_write, counts.output.unwrap_or(0).max(rest))
            }
            WireFormat::Gemini => {
                let read = counts.input?.saturating_add(counts.tool_use.unwrap_or(0));
                let rest = counts.total.unwrap_or(0).saturating_sub(read);
                let written = counts.output.unwrap_or(0).saturating_add(counts.thoughts.unwrap_or(0));
                within(read, cache_read, cache_write, written.max(rest))
            }
        };
        Some(usage)
    }

    fn count(&mut self, field: fn(&mut Counts) -> &mut Option<u64>, value: Scalar<'_>) {
        match number(value) {
            Ok(Some(tokens)) => {
                self.told = true;
                larger(field(&mut self.counts), tokens);
            }
            Ok(None) => {}
            Err(Implausible) => self.implausible = true,
        }
    }

    fn wrote(&mut self, value: Scalar<'_>) {
        if let Scalar::Text(_, bytes) = value {
            self.written_bytes = self.written_bytes.saturating_add(bytes);
            self.deltas = self.deltas.saturating_add(u64::from(bytes > 0));
        }
    }

    fn anthropic(&mut self, path: &str, value: Scalar<'_>) {
        match path.strip_prefix("message.").unwrap_or(path) {
            "id" => {
                // One that is cut short is no name.
                if let Scalar::Text(name, bytes) = value
                    && bytes == name.len() as u64
                {
                    self.name.get_or_insert_with(|| name.to_owned());
                }
            }
            "usage.input_tokens" => self.count(|c| &mut c.input, value),
            "usage.output_tokens" => self.count(|c| &mut c.output, value),
            "usage.cache_read_input_tokens" => self.count(|c| &mut c.cache_read, value),
            "usage.cache_creation_input_tokens" => self.count(|c| &mut c.cache_write, value),
            "usage.iterations[].type" => {
                self.iteration.in_top_level = matches!(value, Scalar::Text("message", _));
            }
            iteration if iteration.starts_with("usage.iterations[].") => {
                let counts = &mut self.iteration.counts;
                let slot = match &iteration["usage.iterations[].".len()..] {
                    "input_tokens" => &mut counts.input,
                    "output_tokens" => &mut counts.output,
                    "cache_read_input_tokens" => &mut counts.cache_read,
                    "cache_creation_input_tokens" => &mut counts.cache_write,
                    _ => return,
                };
                match number(value) {
                    Ok(Some(tokens)) => larger(slot, tokens),
                    Ok(None) => {}
                    Err(Implausible) => self.implausible = true,
                }
            }
            "type" => self.ended |= matches!(value, Scalar::Text("message_stop", _)),
            "delta.text" | "delta.thinking" | "delta.partial_json" | "delta.content" | "content[].text"
            | "content[].thinking" => {
                self.wrote(value);
            }
            _ => {}
        }
    }

    fn openai(&mut self, path: &str, value: Scalar<'_>) {
        // A Responses stream carries the whole answer below `response`, a Chat chunk its usage at the top.
        match path.strip_prefix("response.").unwrap_or(path) {
            "usage.prompt_tokens" | "usage.input_tokens" => self.count(|c| &mut c.input, value),
            "usage.completion_tokens" | "usage.output_tokens" => self.count(|c| &mut c.output, value),
            "usage.total_tokens" => self.count(|c| &mut c.total, value),
            "usage.prompt_tokens_details.cached_tokens" | "usage.input_tokens_details.cached_tokens" => {
                self.count(|c| &mut c.cache_read, value);
            }
            "usage.prompt_tokens_details.cache_write_tokens" | "usage.input_tokens_details.cache_write_tokens" => {
                self.count(|c| &mut c.cache_write, value);
            }
            "type" => {
                let is = |kinds: [&str; 2]| matches!(value, Scalar::Text(kind, _) if kinds.contains(&kind));
                self.ended |= is(["response.completed", "response.incomplete"]);
                self.failed |= is(["response.failed", "response.cancelled"]);
            }
            "delta"
            | "choices[].text"
            | "choices[].delta.content"
            | "choices[].delta.refusal"
            | "choices[].delta.reasoning_content"
            | "choices[].delta.reasoning"
            | "choices[].delta.tool_calls[].function.arguments"
            | "choices[].message.content"
            | "choices[].message.tool_calls[].function.arguments" => self.wrote(value),
            // A stream's last event says all of it once more: counted twice it would teach that an octet costs half.
            "output[].content[].text" | "output[].arguments" | "output[].input" if !path.starts_with("response.") => {
                self.wrote(value);
            }
            _ => {}
        }
    }

    fn gemini(&mut self, path: &str, value: Scalar<'_>) {
        // Without `alt=sse` a stream is one list of what would be events.
        match path.strip_prefix("[].").unwrap_or(path) {
            "usageMetadata.promptTokenCount" => self.count(|c| &mut c.input, value),
            "usageMetadata.candidatesTokenCount" => self.count(|c| &mut c.output, value),
            "usageMetadata.thoughtsTokenCount" => self.count(|c| &mut c.thoughts, value),
            "usageMetadata.toolUsePromptTokenCount" => self.count(|c| &mut c.tool_use, value),
            "usageMetadata.cachedContentTokenCount" => self.count(|c| &mut c.cache_read, value),
            "usageMetadata.totalTokenCount" => self.count(|c| &mut c.total, value),
            "candidates[].finishReason" => self.ended = true,
            "candidates[].content.parts[].text" => self.wrote(value),
            part if part.starts_with("candidates[].content.parts[].functionCall.") => self.wrote(value),
            _ => {}
        }
    }
}

impl Hear for Tally {
    fn scalar(&mut self, path: &str, value: Scalar<'_>, _: std::ops::Range<usize>) {
        match self.format {
            WireFormat::AnthropicMessages => self.anthropic(path, value),
            WireFormat::OpenAiChat | WireFormat::OpenAiResponses => self.openai(path, value),
            WireFormat::Gemini => self.gemini(path, value),
        }
    }

    fn map_ends(&mut self, path: &str) {
        if path.ends_with("usage.iterations[]") {
            let Iteration { counts, in_top_level } = std::mem::take(&mut self.iteration);
            // Of kinds other than `message` no page says that the top level has them: they are added.
            if !in_top_level {
                let add = |sum: &mut u64, count: Option<u64>| *sum = sum.saturating_add(count.unwrap_or(0));
                add(&mut self.iterations.input, counts.input);
                add(&mut self.iterations.output, counts.output);
                add(&mut self.iterations.cache_read, counts.cache_read);
                add(&mut self.iterations.cache_write, counts.cache_write);
            }
        }
    }
}

/// Where the cached tokens are part of those read.
fn within(read: u64, cache_read: u64, cache_write: u64, output: u64) -> Usage {
    let cache_read = cache_read.min(read);
    let cache_write = cache_write.min(read - cache_read);
    Usage { input: read - cache_read - cache_write, cache_write, cache_read, output }
}

fn larger(slot: &mut Option<u64>, tokens: u64) {
    *slot = Some(slot.map_or(tokens, |known| known.max(tokens)));
}

struct Implausible;

/// `null` says nothing; everything that is no count of tokens is a reason not to believe the rest.
fn number(value: Scalar<'_>) -> Result<Option<u64>, Implausible> {
    match value {
        Scalar::Number(text) => match text.parse::<u64>() {
            Ok(tokens) if tokens <= TOKENS_MAX => Ok(Some(tokens)),
            Ok(_) | Err(_) => Err(Implausible),
        },
        Scalar::Null => Ok(None),
        Scalar::Text(..) | Scalar::Flag(_) => Err(Implausible),
    }
}
