//! Which wire format a request speaks.

use carboy_core::host::Host;
use carboy_core::ids::MeterName;

/// A provider's request and response format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WireFormat {
    /// `POST /v1/messages` and its siblings.
    AnthropicMessages,
    /// `POST /v1/chat/completions`, and everything else of OpenAI that is not Responses.
    OpenAiChat,
    /// `POST /v1/responses`.
    OpenAiResponses,
    /// `POST /v1beta/models/MODEL:generateContent` and its siblings.
    Gemini,
}

/// Who makes the format, when the path alone does not say which format it is.
#[derive(Clone, Copy)]
enum Family {
    Anthropic,
    OpenAi,
    Gemini,
}

impl WireFormat {
    /// Recognises the format by the request's path, else by the route's meter, else by the host. `path` is without the
    /// query. `None` means: not a model's interface.
    ///
    /// The path comes first because it is what the upstream goes by: gateways offer several formats on one host, and
    /// Anthropic and Gemini hosts speak OpenAI's chat format too.
    pub fn of_request(meter: Option<&MeterName>, host: &Host, path: &str) -> Option<WireFormat> {
        of_path(path).or_else(|| {
            let family = meter.and_then(|meter| family_of_meter(meter.as_str())).or_else(|| family_of_host(host))?;
            Some(match family {
                Family::Anthropic => WireFormat::AnthropicMessages,
                Family::OpenAi if has_segment(path, "responses") => WireFormat::OpenAiResponses,
                Family::OpenAi => WireFormat::OpenAiChat,
                Family::Gemini => WireFormat::Gemini,
            })
        })
    }
}

fn of_path(path: &str) -> Option<WireFormat> {
    let path = path.trim_end_matches('/');
    if path.ends_with("/v1/messages") || path.contains("/v1/messages/") {
        Some(WireFormat::AnthropicMessages)
    } else if path.ends_with("/chat/completions") {
        Some(WireFormat::OpenAiChat)
    } else if ["/v1/responses", "/codex/responses"].iter().any(|end| path.ends_with(end))
        || path.contains("/v1/responses/")
    {
        Some(WireFormat::OpenAiResponses)
    } else if [":generateContent", ":streamGenerateContent", ":countTokens"].iter().any(|verb| path.ends_with(verb)) {
        Some(WireFormat::Gemini)
    } else {
        None
    }
}

fn family_of_meter(meter: &str) -> Option<Family> {
    match meter {
        "anthropic" | "claude" => Some(Family::Anthropic),
        "openai" | "codex" => Some(Family::OpenAi),
        "gemini" => Some(Family::Gemini),
        _ => None,
    }
}

fn family_of_host(host: &Host) -> Option<Family> {
    match host.as_name()?.as_str() {
        "api.anthropic.com" => Some(Family::Anthropic),
        "api.openai.com" | "chatgpt.com" => Some(Family::OpenAi),
        "generativelanguage.googleapis.com" => Some(Family::Gemini),
        _ => None,
    }
}

fn has_segment(path: &str, wanted: &str) -> bool {
    path.split('/').any(|segment| segment == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(meter: &str, host: &str, path: &str) -> Option<WireFormat> {
        let meter = MeterName::parse(meter).ok();
        WireFormat::of_request(meter.as_ref(), &Host::parse(host).unwrap(), path)
    }

    #[test]
    fn the_path_says_it_on_any_host() {
        for (path, want) in [
            ("/v1/messages", WireFormat::AnthropicMessages),
            ("/gateway/v1/messages/count_tokens", WireFormat::AnthropicMessages),
            ("/api/v1/chat/completions", WireFormat::OpenAiChat),
            ("/v1/responses", WireFormat::OpenAiResponses),
            ("/v1/responses/resp_1/cancel", WireFormat::OpenAiResponses),
            // Codex with a subscription.
            ("/backend-api/codex/responses", WireFormat::OpenAiResponses),
            ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", WireFormat::Gemini),
        ] {
            assert_eq!(of("", "gateway.example", path), Some(want), "{path}");
        }
        assert_eq!(of("anthropic", "api.anthropic.com", "/v1/chat/completions"), Some(WireFormat::OpenAiChat));
    }

    #[test]
    fn where_the_path_is_silent_the_meter_and_then_the_host_speak() {
        assert_eq!(of("claude", "proxy.example", "/api/event_logging"), Some(WireFormat::AnthropicMessages));
        assert_eq!(of("openai", "api.anthropic.com", "/v1/models"), Some(WireFormat::OpenAiChat));
        assert_eq!(of("codex", "proxy.example", "/responses"), Some(WireFormat::OpenAiResponses));
        assert_eq!(of("", "generativelanguage.googleapis.com", "/v1beta/models"), Some(WireFormat::Gemini));
        assert_eq!(of("", "api.openai.com", "/v1/embeddings"), Some(WireFormat::OpenAiChat));
        assert_eq!(of("mine", "files.example", "/responses"), None);
    }
}
