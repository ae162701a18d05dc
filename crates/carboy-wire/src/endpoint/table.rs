//! The tables: what each provider has behind which path.
//!
//! Sources: the official SDKs' resources (anthropic 2.11.0, openai 2.54.0), the providers' reference pages, and what the
//! real clients call.

use super::{Family, Path};
use crate::format::WireFormat;
use crate::format::WireFormat::{AnthropicMessages, Gemini, OpenAiChat, OpenAiResponses};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Generate(WireFormat),
    Embed(WireFormat),
    Count(WireFormat),
    Free,
    Refused(&'static str),
}

/// A path behind its version.
pub(super) struct Tail<'a> {
    pub(super) versioned: bool,
    pub(super) parts: Vec<&'a str>,
}

const BATCHES: &str = "a batch is billed hours later, in answers to other requests: send its requests one by one";
const REALTIME: &str = "a realtime session is billed by what is said in it, which cannot be bounded before it begins";
const MEDIA: &str = "pictures, sound and video are not billed by tokens that could be counted here";
const TRAINING: &str = "training is billed by the provider's own measure and goes on by itself";
const AGENTS: &str = "an agent that runs at the provider asks models by itself, unseen from here";
const COMPACT: &str =
    "what the provider's own compaction writes cannot be bounded: shorten the conversation by an ordinary request";
const LEGACY: &str = "this interface has been replaced and says nothing of its cost";
const BEDROCK: &str = "Bedrock signs the request's body, so its output cannot be bounded here";
const VERTEX: &str =
    "requests to models on Vertex are not metered yet: use generativelanguage.googleapis.com or api.anthropic.com";
const WRAPPED: &str = "requests of a Google login are wrapped in a format that is not public: use an API key and generativelanguage.googleapis.com";
const CACHES: &str = "a kept context is billed by the hour: send it with the request";
const STORES: &str = "a store of files is filled and searched by models, unseen from here";
const UNKNOWN: &str = "this endpoint of a metered provider is not known, and may run a model";

/// Can such a request not have a model run, wherever the path alone does not say it? A method that is not known can.
fn only_looks(method: &str) -> bool {
    ["GET", "HEAD", "OPTIONS", "DELETE"].contains(&method)
}

/// On a host of which nothing is known: only what is unmistakably a model's interface.
pub(super) fn anywhere(method: &str, path: &Path) -> Option<Wire> {
    let parts = path.parts();
    if let Some(verb) = verb(&parts) {
        return match of_verb(verb) {
            Some(wire) => Some(wire),
            None if ["rawpredict", "streamrawpredict"].contains(&verb) => Some(Wire::Refused(VERTEX)),
            None => None,
        };
    }
    if only_looks(method) {
        return None;
    }
    if is_bedrock_call(&parts) {
        return Some(Wire::Refused(BEDROCK));
    }
    let tail = path.tail();
    match (tail.versioned, &tail.parts[..]) {
        // Below a base path without a version, and with a word of the provider's before it (`fim`, `beta`, `agents`), too.
        (_, [.., "completions"]) => Some(Wire::Generate(OpenAiChat)),
        // Azure has several domains, and other things on them.
        (_, ["openai", "responses"]) => Some(Wire::Generate(OpenAiResponses)),
        (_, ["openai", "deployments", _, "embeddings"]) => Some(Wire::Embed(OpenAiChat)),
        (true, [.., "messages"]) if tail.parts.len() == 1 => Some(Wire::Generate(AnthropicMessages)),
        (true, ["messages", "count_tokens"]) => Some(Wire::Count(AnthropicMessages)),
        (true, ["messages", "batches"]) => Some(Wire::Refused(BATCHES)),
        (true, ["complete"]) => Some(Wire::Refused(LEGACY)),
        (true, ["responses"]) => Some(Wire::Generate(OpenAiResponses)),
        (true, ["responses", "input_tokens"]) => Some(Wire::Count(OpenAiResponses)),
        (true, ["responses", "compact"]) => Some(Wire::Refused(COMPACT)),
        (true, ["embeddings"]) => Some(Wire::Embed(OpenAiChat)),
        _ => None,
    }
}

/// On a host, or a route, that is metered.
pub(super) fn metered(family: Family, method: &str, path: &Path) -> Wire {
    let parts = path.parts();
    if let Some(verb) = verb(&parts) {
        return of_verb(verb).unwrap_or_else(|| of_other_verb(verb, method));
    }
    let tail = path.tail();
    let parts = match &tail.parts[..] {
        // Azure names the deployment, Gemini has OpenAI's formats below a name of their own.
        ["openai", "deployments", _, rest @ ..] | ["openai", rest @ ..] => rest,
        // A base path before an interface without a version.
        [.., "chat", "completions"] => &["chat", "completions"],
        parts => parts,
    };
    if let Some(wire) = of_parts(method, parts) {
        return wire;
    }
    if only_looks(method) || is_telemetry(&path.parts()) {
        return Wire::Free;
    }
    match family {
        // Telemetry and settings of the clients stand beside the interface, below `/api`. Elsewhere self-hosted servers have
        // interfaces of their own without a version (`/generate_stream`, `/infill`, `/models/NAME`, `/`).
        Family::Anthropic | Family::OpenAi | Family::Other
            if !tail.versioned && parts.first() == Some(&"api") && !asks_a_model(parts) =>
        {
            Wire::Free
        }
        Family::Anthropic
        | Family::OpenAi
        | Family::Other
        | Family::Gemini
        | Family::ChatGpt
        | Family::CodeAssist
        | Family::Vertex
        | Family::Bedrock => Wire::Refused(UNKNOWN),
    }
}

/// What stands behind the version, of Anthropic and OpenAI.
fn of_parts(method: &str, parts: &[&str]) -> Option<Wire> {
    let looks = only_looks(method);
    let free_or = |why| Some(if looks { Wire::Free } else { Wire::Refused(why) });
    match parts {
        ["messages"] => Some(Wire::Generate(AnthropicMessages)),
        ["messages", "count_tokens"] => Some(Wire::Count(AnthropicMessages)),
        ["messages", "batches", _, "cancel"] | ["batches", _, "cancel"] => Some(Wire::Free),
        ["messages", "batches", ..] | ["batches", ..] => free_or(BATCHES),
        ["complete"] | ["engines", ..] | ["edits"] | ["answers"] | ["classifications"] => free_or(LEGACY),
        // Stored completions are listed, looked at and labelled for nothing.
        ["chat", "completions"] if looks => Some(Wire::Free),
        ["chat", "completions"] => Some(Wire::Generate(OpenAiChat)),
        // Labelled by its name; what else could stand here is not known.
        ["chat", "completions", name] if name.starts_with("chatcmpl") => Some(Wire::Free),
        ["chat", "completions", ..] => free_or(UNKNOWN),
        ["completions"] | ["beta" | "fim" | "agents", "completions"] => Some(Wire::Generate(OpenAiChat)),
        // By GET it is the beginning of a WebSocket.
        ["responses"] => Some(Wire::Generate(OpenAiResponses)),
        ["responses", "input_tokens"] => Some(Wire::Count(OpenAiResponses)),
        ["responses", "compact"] => free_or(COMPACT),
        ["responses", _, "cancel"] => Some(Wire::Free),
        ["embeddings"] => Some(Wire::Embed(OpenAiChat)),
        ["realtime", ..] => Some(Wire::Refused(REALTIME)),
        ["images", ..] | ["audio", ..] | ["videos", ..] => free_or(MEDIA),
        ["fine_tuning", ..] | ["fine-tunes", ..] | ["tunedmodels", ..] | ["evals", ..] => free_or(TRAINING),
        ["assistants", ..]
        | ["threads", ..]
        | ["agents", ..]
        | ["sessions", ..]
        | ["environments", ..]
        | ["chatkit", ..]
        | ["interactions", ..] => free_or(AGENTS),
        ["vector_stores", ..] | ["filesearchstores", ..] | ["corpora", ..] => free_or(STORES),
        ["cachedcontents", ..] => free_or(CACHES),
        ["files", ..] | ["uploads", ..] | ["moderations"] | ["conversations", ..] | ["oauth", ..] => Some(Wire::Free),
        // OpenTelemetry.
        ["traces", ..] | ["metrics"] | ["logs"] => Some(Wire::Free),
        _ => None,
    }
}

/// Gemini's way: `models/MODEL:verb`.
fn verb<'a>(parts: &[&'a str]) -> Option<&'a str> {
    parts.last()?.rsplit_once(':').map(|(_, verb)| verb)
}

/// Whatever the method: Google's servers read one from a header as well.
fn of_verb(verb: &str) -> Option<Wire> {
    match verb {
        "generatecontent" | "streamgeneratecontent" => Some(Wire::Generate(Gemini)),
        "counttokens" => Some(Wire::Count(Gemini)),
        "embedcontent" | "batchembedcontents" => Some(Wire::Embed(Gemini)),
        "batchgeneratecontent" | "asyncbatchembedcontent" => Some(Wire::Refused(BATCHES)),
        "bidigeneratecontent" => Some(Wire::Refused(REALTIME)),
        _ => None,
    }
}

fn of_other_verb(verb: &str, method: &str) -> Wire {
    match verb {
        "predict" | "predictlongrunning" => Wire::Refused(MEDIA),
        "rawpredict" | "streamrawpredict" => Wire::Refused(VERTEX),
        "generatetext" | "generatemessage" | "embedtext" | "batchembedtext" => Wire::Refused(LEGACY),
        // OpenAI's fine-tuned models carry colons in their names, which stand in paths that are looked at.
        _ if method == "GET" || method == "DELETE" => Wire::Free,
        _ => Wire::Refused(UNKNOWN),
    }
}

/// Beside the interface proper, does the path name anything that has a model run?
fn asks_a_model(parts: &[&str]) -> bool {
    let words = [
        "generate",
        "chat",
        "completion",
        "completions",
        "complete",
        "message",
        "messages",
        "responses",
        "response",
        "embed",
        "embeddings",
        "rerank",
        "invoke",
        "converse",
        "predict",
        "batch",
        "batches",
        "retry_completion",
        "generate_stream",
        "infill",
        "inference",
        "invocations",
        "rerank",
        "reranking",
        "run",
        "score",
        "encode",
        "classify",
        "pooling",
    ];
    parts.iter().any(|part| words.contains(part))
}

/// What clients tell of themselves, below a version of its own.
fn is_telemetry(parts: &[&str]) -> bool {
    matches!(parts, ["api", "event_logging" | "telemetry", ..])
}

/// ChatGPT's own backend, which Codex uses with a subscription.
pub(super) fn chatgpt(method: &str, path: &Path) -> Wire {
    match &path.parts()[..] {
        ["backend-api", "codex", "responses"] => Wire::Generate(OpenAiResponses),
        ["backend-api", "codex", "responses", "compact"] => Wire::Refused(COMPACT),
        _ if only_looks(method) => Wire::Free,
        ["backend-api", "codex", rest @ ..] if rest.first().is_some_and(|part| part.starts_with("analytics")) => {
            Wire::Free
        }
        ["backend-api", "codex", ..] => Wire::Refused(UNKNOWN),
        ["backend-api", "wham", ..] => Wire::Refused(AGENTS),
        ["backend-api" | "backend-anon", rest @ ..]
            if asks_a_model(rest) || rest.iter().any(|part| ["conversation", "f"].contains(part)) =>
        {
            Wire::Refused(UNKNOWN)
        }
        _ => Wire::Free,
    }
}

/// `/v1internal:streamGenerateContent` and its siblings.
pub(super) fn code_assist(method: &str, path: &Path) -> Wire {
    match verb(&path.parts()) {
        Some("loadcodeassist" | "onboarduser" | "listexperiments" | "retrieveuserquota") => Wire::Free,
        Some(verb) if verb.starts_with("record") || verb.ends_with("globalusersettings") => Wire::Free,
        Some(verb) if verb.starts_with("getcodeassist") || verb.starts_with("setcodeassist") => Wire::Free,
        Some(_) => Wire::Refused(WRAPPED),
        None if only_looks(method) => Wire::Free,
        None => Wire::Refused(UNKNOWN),
    }
}

/// Operations and lists are looked at; whatever has a verb is refused, by any method.
pub(super) fn vertex(method: &str, path: &Path) -> Wire {
    if verb(&path.parts()).is_none() && only_looks(method) { Wire::Free } else { Wire::Refused(VERTEX) }
}

pub(super) fn bedrock(method: &str, path: &Path) -> Wire {
    if only_looks(method) && !is_bedrock_call(&path.parts()) { Wire::Free } else { Wire::Refused(BEDROCK) }
}

/// `/model/MODEL/invoke`, `/invoke-with-response-stream`, `/converse`, `/converse-stream`, … on any host.
fn is_bedrock_call(parts: &[&str]) -> bool {
    let at = parts.iter().position(|part| *part == "model");
    // A model's name may be an ARN, which has slashes.
    at.is_some_and(|at| {
        at + 2 < parts.len()
            && parts.last().is_some_and(|last| last.starts_with("invoke") || last.starts_with("converse"))
    })
}
