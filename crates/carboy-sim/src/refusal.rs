//! Errors in each provider's own shape, and the check of the key.

use carboy_wire::{anthropic, openai};
use http::HeaderMap;
use serde_json::json;

use crate::config::Config;
use crate::playback::Outcome;

/// Whose interface a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    Anthropic,
    OpenAi,
    /// OpenAI's, for a ChatGPT subscription.
    ChatGpt,
    Gemini,
}

impl Provider {
    /// By path, and where both have the path, by the fields that only Anthropic's clients send.
    pub fn of(path: &str, headers: &HeaderMap) -> Provider {
        let sends = |name: &str| headers.contains_key(name);
        if path.starts_with("/v1/messages") || sends("x-api-key") || sends("anthropic-version") {
            Provider::Anthropic
        } else if path.starts_with("/backend-api/") {
            Provider::ChatGpt
        } else if path.starts_with("/v1beta/") || sends("x-goog-api-key") {
            Provider::Gemini
        } else {
            Provider::OpenAi
        }
    }

    /// The error as this provider words it. `request_id` also goes into its header.
    pub fn error(self, status: u16, message: &str, request_id: &str) -> Outcome {
        match self {
            Provider::Anthropic => {
                let error = anthropic::ErrorDetail { kind: anthropic_type(status), message: message.into() };
                Outcome::json(status, &anthropic::ErrorBody { kind: "error", error, request_id: request_id.into() })
            }
            Provider::Gemini => {
                let error = json!({"code": status, "message": message, "status": google_status(status)});
                Outcome::json(status, &json!({"error": error}))
            }
            Provider::OpenAi | Provider::ChatGpt => {
                let (kind, code) = openai_type(status);
                let error = openai::ErrorDetail { message: message.into(), kind, param: None, code };
                Outcome::json(status, &openai::ErrorBody { error })
            }
        }
    }

    /// The field that names the request in this provider's answers.
    pub fn request_id_header(self) -> &'static str {
        match self {
            Provider::Anthropic => "request-id",
            Provider::OpenAi | Provider::ChatGpt | Provider::Gemini => "x-request-id",
        }
    }

    /// What the bill calls it.
    pub fn meter(self) -> &'static str {
        match self {
            Provider::Anthropic => "anthropic",
            Provider::OpenAi | Provider::ChatGpt => "openai",
            Provider::Gemini => "gemini",
        }
    }

    /// The refusal of an account whose spend limit is reached.
    pub fn spend_limit(self, request_id: &str) -> Outcome {
        const MESSAGE: &str = "You have reached your specified usage limits.";
        match self {
            Provider::Anthropic => Outcome::json(
                429,
                &json!({
                    "type": "error",
                    "error": {
                        "type": "rate_limit_error",
                        "message": MESSAGE,
                        "error_code": "enforced_spend_limit_reached",
                    },
                    "request_id": request_id,
                }),
            ),
            Provider::OpenAi | Provider::ChatGpt => {
                let kind = "insufficient_quota";
                let error = openai::ErrorDetail { message: MESSAGE.into(), kind, param: None, code: Some(kind) };
                Outcome::json(429, &openai::ErrorBody { error })
            }
            Provider::Gemini => self.error(429, MESSAGE, request_id),
        }
    }

    /// Whose key the request has, or what is wrong with it in this provider's words. The key itself is never repeated.
    pub fn check_key<'a>(self, headers: &HeaderMap, config: &'a Config) -> Result<&'a str, &'static str> {
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = field("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let sent = match self {
            Provider::Anthropic => field("x-api-key").or(bearer),
            Provider::OpenAi | Provider::ChatGpt => bearer,
            Provider::Gemini => field("x-goog-api-key"),
        };
        let customer = config.customers.iter().find(|customer| Some(&customer.key[..]) == sent);
        match customer {
            Some(customer) => Ok(&customer.name),
            None => self.check_own_key(headers, config).map(|()| ""),
        }
    }

    fn check_own_key(self, headers: &HeaderMap, config: &Config) -> Result<(), &'static str> {
        let field = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = field("authorization").and_then(|value| value.strip_prefix("Bearer "));
        match self {
            Provider::Anthropic if config.anthropic_key.is_empty() => Ok(()),
            Provider::OpenAi if config.openai_key.is_empty() => Ok(()),
            Provider::Anthropic => match (field("x-api-key"), bearer) {
                (None, None) => Err("x-api-key header is required"),
                (Some(key), _) if key == config.anthropic_key => Ok(()),
                (None, Some(key)) if key == config.anthropic_key => Ok(()),
                (Some(_), _) => Err("invalid x-api-key"),
                (None, Some(_)) => Err("Invalid bearer token"),
            },
            Provider::OpenAi => match bearer {
                Some(key) if key == config.openai_key => Ok(()),
                Some(_) => Err("Incorrect API key provided."),
                None => Err("You didn't provide an API key. Send it as Authorization: Bearer YOUR_KEY."),
            },
            Provider::ChatGpt => match (bearer, field("chatgpt-account-id")) {
                (Some(token), Some(account)) if token == config.chatgpt_token && account == config.chatgpt_account => {
                    Ok(())
                }
                (Some(token), _) if token == config.chatgpt_token => Err("This account is not the token's."),
                (Some(_) | None, _) => Err("Could not parse your authentication token."),
            },
            Provider::Gemini => match field("x-goog-api-key") {
                Some(key) if key == config.gemini_key => Ok(()),
                Some(_) => Err("API key not valid. Please pass a valid API key."),
                None => Err("Method doesn't allow unregistered callers."),
            },
        }
    }
}

fn google_status(status: u16) -> &'static str {
    match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

pub(crate) fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

fn openai_type(status: u16) -> (&'static str, Option<&'static str>) {
    match status {
        401 => ("invalid_request_error", Some("invalid_api_key")),
        404 => ("invalid_request_error", Some("not_found")),
        429 => ("requests", Some("rate_limit_exceeded")),
        400..=499 => ("invalid_request_error", None),
        _ => ("server_error", None),
    }
}
