//! Keys that one server reads as a bound and another one passes over.
//!
//! Servers written in Go take a key in any case (`MAX_TOKENS`, and `max_tokenſ`: letters that fold), some cut a key at a
//! NUL, and self-hosted ones have bounds of their own beside OpenAI's, which go first. A body with any of those would be read
//! one way here and another way there. *Must never* let one by.

use super::{DemandError, camel};
use crate::format::WireFormat;

/// Longest path that may be one of these, in octets.
const PATH_BYTES_MAX: usize = 96;

/// What is read of a request, in the spelling of the providers.
const GOVERNING: &[&str] = &[
    "model",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "prompt",
    "background",
    "max_tool_calls",
    "conversation",
    "thread",
    "thread.previous_message_id",
    "compaction",
    "fallbacks",
    "previous_response_id",
    "stream_options",
    "stream_options.include_usage",
    "thinking",
    "thinking.budget_tokens",
    "tools",
    "tools[].type",
    "tools[].max_uses",
    "mcp_servers",
    "plugins",
    "web_search_options",
    "context_management",
    "context_management.edits",
    "context_management.edits[].type",
    "messages[].content[].type",
    "input[].type",
    "input[].id",
    "input[].content[].type",
    "extra_body",
];

/// The same of Gemini's, of which both spellings are read (protocol buffers' JSON mapping).
const GEMINI: &[&str] = &[
    "generationConfig",
    "generationConfig.maxOutputTokens",
    "generationConfig.candidateCount",
    "cachedContent",
    "tools",
];

/// Bounds on the output, and numbers of answers, that go before OpenAI's own at servers that speak its format.
const OTHERS: &[&str] = &[
    "n_predict",
    "num_predict",
    "n_cmpl",
    "num_completions",
    "num_return_sequences",
    "max_new_tokens",
    "max_gen_len",
    "max_length",
    "max_tokens_to_sample",
];

/// Refuses a key by its path.
pub(super) fn judge(format: WireFormat, path: &str) -> Result<(), DemandError> {
    if path.len() > PATH_BYTES_MAX {
        return Ok(());
    }
    if format == WireFormat::Gemini {
        let (plain, own) = (folded(path).replace('_', ""), camel(path));
        return match GEMINI.iter().find(|known| known.to_ascii_lowercase() == plain) {
            Some(known) if own != **known => Err(DemandError::Spelling { key: known }),
            Some(_) | None => Ok(()),
        };
    }
    // What stands in here is put beside the request's own members by servers that know it.
    let (inner, extra) = path.strip_prefix("extra_body.").map_or((path, false), |inner| (inner, true));
    let plain = folded(inner);
    if let Some(key) = OTHERS.iter().find(|other| **other == plain) {
        return Err(DemandError::Other { key });
    }
    match GOVERNING.iter().find(|known| **known == plain) {
        Some(key) if extra || plain != inner => Err(DemandError::Spelling { key }),
        Some(_) | None => Ok(()),
    }
}

/// As a reader that knows no difference between cases reads it.
fn folded(path: &str) -> String {
    let letters = path.chars().filter(|c| !c.is_control() && *c != '\u{fffd}');
    letters
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}
