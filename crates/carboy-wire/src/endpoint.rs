//! What a request does at a model's provider: ask a model, count, nothing that costs, or what nobody here can meter.
//!
//! ```text
//! meter, host, method, path ──▶ Generate | Embed | Count   bounded, held, metered
//!                               Free                        models, files, telemetry, look-ups
//!                               Refused                     costs, and its cost cannot be seen or bounded
//! ```
//!
//! The tables are closed: on a metered host a request below `/v1` (or wherever else the provider's interface stands) that
//! they do not know is refused, so that an endpoint which a provider adds tomorrow is no way around a budget.
//!
//! *Must never* call something free that can have a model run, or read a path otherwise than a server that decodes it.

mod table;

use carboy_core::host::Host;
use carboy_core::ids::MeterName;

use crate::format::WireFormat;
use table::{Tail, Wire};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A model answers; both what it reads and what it writes cost.
    Generate(WireFormat),
    /// A model reads and gives numbers.
    Embed(WireFormat),
    /// The provider says how many tokens a request would read, for nothing.
    Count(WireFormat),
    /// No model runs.
    Free,
    /// It costs, and nobody here can bound or meter it.
    Refused {
        /// One clause, without a full stop.
        why: &'static str,
    },
}

/// Who makes the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Anthropic,
    OpenAi,
    /// What ChatGPT's own subscription speaks.
    ChatGpt,
    Gemini,
    /// What Gemini's own command line speaks when somebody has logged in.
    CodeAssist,
    Vertex,
    Bedrock,
    /// A route's meter says so, and nothing more is known.
    Other,
}

/// What is metered where the host says nothing.
const UNKNOWN: &str = "unknown";

/// What a request does; `None` where it is no business of a model's provider. `path` is without the query.
///
/// The path comes first, because it is what the upstream goes by; host and meter say how strictly the rest is read.
pub fn of(meter: Option<&MeterName>, host: &Host, method: &str, path: &str) -> Option<Endpoint> {
    let family = family_of(meter, host);
    let path = Path::read(path);
    let found = match family {
        None => table::anywhere(method, &path),
        Some(Family::Bedrock) => Some(table::bedrock(method, &path)),
        Some(Family::Vertex) => Some(table::vertex(method, &path)),
        Some(Family::ChatGpt) => Some(table::chatgpt(method, &path)),
        Some(Family::CodeAssist) => Some(table::code_assist(method, &path)),
        Some(known @ (Family::Anthropic | Family::OpenAi | Family::Gemini | Family::Other)) => {
            Some(table::metered(known, method, &path))
        }
    };
    found.map(|wire| match wire {
        Wire::Generate(format) => Endpoint::Generate(format),
        Wire::Embed(format) => Endpoint::Embed(format),
        Wire::Count(format) => Endpoint::Count(format),
        Wire::Free => Endpoint::Free,
        Wire::Refused(why) => Endpoint::Refused { why },
    })
}

/// What a request is booked to: the route's meter, else the provider that the host belongs to, else `unknown`. The format
/// has no say in it: gateways and providers speak each other's formats, and bill by their own.
pub fn meter_of(route_meter: Option<&MeterName>, host: &Host, _format: WireFormat) -> MeterName {
    let name = match (route_meter.map(MeterName::as_str), family_of_host(host)) {
        (Some("claude"), _) => "anthropic",
        (Some("codex"), _) => "openai",
        (Some(name), _) => name,
        (None, Some(Family::Anthropic)) => "anthropic",
        (None, Some(Family::OpenAi | Family::ChatGpt)) => "openai",
        (None, Some(Family::Gemini | Family::CodeAssist)) => "gemini",
        (None, Some(Family::Vertex)) => "vertex",
        (None, Some(Family::Bedrock)) => "bedrock",
        (None, Some(Family::Other) | None) => UNKNOWN,
    };
    MeterName::parse(name).expect("a meter's own name, or one of the words above")
}

/// The host's own nature comes before the meter: a route cannot make what nobody can meter meterable by naming it.
fn family_of(meter: Option<&MeterName>, host: &Host) -> Option<Family> {
    family_of_host(host).or_else(|| {
        meter.map(|meter| match meter.as_str() {
            "anthropic" | "claude" => Family::Anthropic,
            "openai" | "codex" => Family::OpenAi,
            "gemini" => Family::Gemini,
            _ => Family::Other,
        })
    })
}

pub(crate) fn family_of_host(host: &Host) -> Option<Family> {
    let name = host.as_name()?.as_str();
    let google = name.strip_suffix(".googleapis.com");
    match name {
        "api.anthropic.com" => Some(Family::Anthropic),
        "api.openai.com" | "eu.api.openai.com" | "us.api.openai.com" => Some(Family::OpenAi),
        "chatgpt.com" => Some(Family::ChatGpt),
        // What its web page speaks, billed to the same account.
        "claude.ai" => Some(Family::Anthropic),
        // Under names for regions, for tests and for client certificates as well.
        _ if google.is_some_and(|rest| rest.contains("generativelanguage")) => Some(Family::Gemini),
        _ if google.is_some_and(|rest| rest.contains("cloudcode-pa")) => Some(Family::CodeAssist),
        _ if google.is_some_and(|rest| rest.contains("aiplatform")) => Some(Family::Vertex),
        _ if OTHER_PROVIDERS.contains(&name) => Some(Family::Other),
        _ if name.starts_with("bedrock") && is_amazon(name) && name.contains("-runtime") => Some(Family::Bedrock),
        _ if name.ends_with(".api.openai.com") || name.ends_with(".openai.azure.com") => Some(Family::OpenAi),
        _ => None,
    }
}

/// Hosts that are a provider's interface and nothing else: what the tables do not know of them is refused, whatever the
/// route says.
const OTHER_PROVIDERS: &[&str] = &[
    "api.cerebras.ai",
    "api.cohere.ai",
    "api.cohere.com",
    "api.deepseek.com",
    "api.fireworks.ai",
    "api.groq.com",
    "api.mistral.ai",
    "codestral.mistral.ai",
    "api.moonshot.ai",
    "api.perplexity.ai",
    "api.replicate.com",
    "api.together.ai",
    "api.together.xyz",
    "api.x.ai",
    "api.z.ai",
    "api-inference.huggingface.co",
    "router.huggingface.co",
];

fn is_amazon(name: &str) -> bool {
    [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().any(|zone| name.ends_with(zone))
}

/// A path's segments, escapes undone and in lower case; empty ones and dots are left out.
pub(crate) struct Path {
    segments: Vec<String>,
}

impl Path {
    fn read(path: &str) -> Path {
        let decoded = decoded(path).to_lowercase().replace('\\', "/");
        // A server that strips parameters (`;x`), cuts at a NUL, reads a decoded `?` as one, or takes no heed of what stands
        // at a name's end, reads the segment without them.
        let segment = |part: &str| {
            let part = part.split([';', '?', '#', '\0']).next().unwrap_or_default().trim_end_matches([' ', '\t']);
            // `.` and `..` are no names.
            if part.chars().all(|c| c == '.') { part } else { part.trim_end_matches(['.', ' ']) }.to_owned()
        };
        let segments = decoded.split('/').map(segment).filter(|part| !part.is_empty() && part != ".").collect();
        Path { segments }
    }

    fn parts(&self) -> Vec<&str> {
        self.segments.iter().map(String::as_str).collect()
    }

    /// What stands behind the last version (`v1`, `v1beta`, …; gateways put one of their own before it), or everything
    /// where there is none.
    fn tail(&self) -> Tail<'_> {
        let parts = self.parts();
        match parts.iter().rposition(|part| is_version(part)) {
            Some(at) => Tail { versioned: true, parts: parts[at + 1..].to_vec() },
            None => Tail { versioned: false, parts },
        }
    }
}

/// `v1`, `v1beta`, `v1beta2`, `v1alpha`, `v2`, …
fn is_version(segment: &str) -> bool {
    let Some(rest) = segment.strip_prefix('v') else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let rest = &rest[digits..];
    let rest = rest.strip_prefix("beta").or_else(|| rest.strip_prefix("alpha")).unwrap_or(rest);
    digits > 0 && rest.bytes().all(|b| b.is_ascii_digit())
}

/// Percent-escapes undone until none is left (a broken one stays): whatever a server decodes, it is read here as well.
fn decoded(path: &str) -> String {
    /// As many rounds as a careless chain of servers may do.
    const ROUNDS_MAX: usize = 4;
    let mut text = path.as_bytes().to_vec();
    for _ in 0..ROUNDS_MAX {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = &text[..];
        while let Some((&byte, next)) = rest.split_first() {
            let hex = |at: usize| next.get(at).and_then(|b| (*b as char).to_digit(16));
            match (byte, hex(0), hex(1)) {
                (b'%', Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    rest = &next[2..];
                }
                _ => {
                    out.push(byte);
                    rest = next;
                }
            }
        }
        if out == text {
            break;
        }
        text = out;
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests;
