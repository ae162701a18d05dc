//! The most that models take and write, by family.
//!
//! Sources: the providers' pages of models. A name that no line knows gets the largest of its provider: more is held, and
//! nothing is spent unseen.

use crate::format::WireFormat;

struct Line {
    /// Beginning of the model's name, without what stands before its last `/`.
    name: &'static str,
    context: u64,
    output: u64,
}

const fn line(name: &'static str, context: u64, output: u64) -> Line {
    Line { name, context, output }
}

const K: u64 = 1_000;
const M: u64 = 1_000_000;

/// The first line whose beginning fits counts.
const ANTHROPIC: &[Line] = &[
    line("claude-3-opus", 200 * K, 4_096),
    line("claude-3-sonnet", 200 * K, 4_096),
    line("claude-3-haiku", 200 * K, 4_096),
    line("claude-3-5", 200 * K, 8_192),
    line("claude-3-7", 200 * K, 128 * K),
    line("claude-haiku-4", 200 * K, 64 * K),
    line("claude-opus-4-1", 200 * K, 32 * K),
    line("claude-opus-4-2025", 200 * K, 32 * K),
    line("claude-opus-4-0", 200 * K, 32 * K),
    line("claude-opus-4-5", 200 * K, 64 * K),
    line("claude-sonnet-4-2025", M, 64 * K),
    line("claude-sonnet-4-0", M, 64 * K),
    line("claude-sonnet-4-5", M, 64 * K),
    line("claude-2", 200 * K, 4_096),
    line("claude-instant", 100 * K, 4_096),
    line("", M, 128 * K),
];

const OPENAI: &[Line] = &[
    line("gpt-3.5", 16_385, 4_096),
    line("gpt-4-32k", 32_768, 32_768),
    line("gpt-4-turbo", 128 * K, 4_096),
    line("gpt-4-1106", 128 * K, 4_096),
    line("gpt-4-0125", 128 * K, 4_096),
    line("gpt-4-vision", 128 * K, 4_096),
    line("gpt-4.1", 1_047_576, 32_768),
    line("gpt-4.5", 128 * K, 16_384),
    line("gpt-4o", 128 * K, 16_384),
    line("chatgpt-4o", 128 * K, 16_384),
    line("gpt-4", 8_192, 8_192),
    line("o1-mini", 128 * K, 65_536),
    line("o1-preview", 128 * K, 32_768),
    line("o1", 200 * K, 100 * K),
    line("o3", 200 * K, 100 * K),
    line("o4", 200 * K, 100 * K),
    line("codex-mini", 200 * K, 100 * K),
    line("gpt-oss", 131_072, 131_072),
    line("gpt-5-chat", 128 * K, 16_384),
    line("gpt-5.4", 1_050 * K, 128 * K),
    line("gpt-5", 400 * K, 128 * K),
    line("text-embedding", 8_192, 0),
    // Whatever speaks OpenAI's formats: a bound that is written into the request must not be beyond what small models take.
    line("", 1_050 * K, 32_768),
];

const GEMINI: &[Line] = &[
    line("gemini-1.5", 2_097_152, 8_192),
    line("gemini-2.0", 1_048_576, 8_192),
    line("gemini-2.5", 1_048_576, 65_536),
    line("gemini-embedding", 8_192, 0),
    line("text-embedding", 2_048, 0),
    line("gemma", 131_072, 8_192),
    line("", 2_097_152, 65_536),
];

/// The most tokens that this model takes, its answer included.
pub fn context_limit(model: Option<&str>, format: WireFormat) -> u64 {
    find(model, format).context
}

/// The most tokens that this model writes in one answer.
pub fn output_limit(model: Option<&str>, format: WireFormat) -> u64 {
    find(model, format).output
}

fn find(model: Option<&str>, format: WireFormat) -> &'static Line {
    let name = model.unwrap_or_default().to_ascii_lowercase();
    // `anthropic/claude-…`, `models/gemini-…`, `openai/gpt-…`, `ft:gpt-…`
    let name = name.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix("ft:").unwrap_or(name);
    let own = match format {
        WireFormat::AnthropicMessages => ANTHROPIC,
        WireFormat::OpenAiChat | WireFormat::OpenAiResponses => OPENAI,
        WireFormat::Gemini => GEMINI,
    };
    // Providers and gateways speak each other's formats.
    let table = match name {
        _ if name.starts_with("claude") => ANTHROPIC,
        _ if name.starts_with("gemini") || name.starts_with("gemma") => GEMINI,
        _ => own,
    };
    table.iter().find(|line| name.starts_with(line.name)).expect("the last line of each table fits every name")
}
