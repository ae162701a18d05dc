//! What a provider's error means to whoever asked: whether patience helps, money, or nothing.
//!
//! *Must never* repeat what the error says: it may quote the request. What is taken from it is a closed list of words.

use serde_json::Value;

/// What kind of error it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Too many requests just now.
    RateLimited,
    /// The account may not spend more: patience does not help.
    SpendLimit,
    /// The provider has too much to do.
    Overloaded,
    /// The provider failed; the next try may do.
    Failed,
    /// The request will be answered like that every time.
    Final,
}

impl Fault {
    /// Could the same request be answered a little later?
    pub fn may_pass(self) -> bool {
        match self {
            Fault::RateLimited | Fault::Overloaded | Fault::Failed => true,
            Fault::SpendLimit | Fault::Final => false,
        }
    }

    /// Of an answer with an error status and its body, as far as it was read.
    pub fn of_status(status: u16, body: &[u8]) -> Fault {
        let said = serde_json::from_slice::<Value>(body).ok().map_or(Fault::Final, |body| Fault::of_body(&body));
        match (status, said) {
            (402, _) | (_, Fault::SpendLimit) => Fault::SpendLimit,
            (429, _) => Fault::RateLimited,
            (503 | 529, _) => Fault::Overloaded,
            (408 | 500..=599, _) => Fault::Failed,
            (_, Fault::RateLimited | Fault::Overloaded | Fault::Failed | Fault::Final) => Fault::Final,
        }
    }

    /// Of an error's JSON: `{"error": {"type", "code"}}` of both providers, or what vLLM puts at the top.
    pub(super) fn of_body(body: &Value) -> Fault {
        let error = body.get("error").filter(|error| error.is_object()).unwrap_or(body);
        let words = ["error_code", "code", "type"].iter().filter_map(|key| error.get(*key)?.as_str());
        let known: Vec<Fault> = words.filter_map(Fault::of_word).collect();
        // A spend limit hides behind the type of a rate limit: the code says it.
        let spent = known.iter().find(|fault| **fault == Fault::SpendLimit);
        spent.or(known.first()).copied().unwrap_or(Fault::Final)
    }

    fn of_word(word: &str) -> Option<Fault> {
        match word {
            "insufficient_quota"
            | "billing_error"
            | "billing_hard_limit_reached"
            | "billing_not_active"
            | "insufficient_balance"
            | "enforced_spend_limit_reached" => Some(Fault::SpendLimit),
            "rate_limit_error" | "rate_limit_exceeded" | "requests" | "tokens" => Some(Fault::RateLimited),
            "overloaded_error" | "overloaded" | "service_unavailable" | "engine_overloaded" => Some(Fault::Overloaded),
            "api_error" | "server_error" | "timeout_error" | "internal_server_error" | "InternalServerError" => {
                Some(Fault::Failed)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g49_a_spend_limit_is_told_from_a_rate_limit_whatever_the_status() {
        let anthropic =
            br#"{"type":"error","error":{"type":"rate_limit_error","error_code":"enforced_spend_limit_reached"}}"#;
        let openai = br#"{"error":{"message":"x","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        for (status, body, want) in [
            (429, &anthropic[..], Fault::SpendLimit),
            (429, &openai[..], Fault::SpendLimit),
            (402, b"", Fault::SpendLimit),
            (429, br#"{"error":{"type":"requests","code":"rate_limit_exceeded"}}"#, Fault::RateLimited),
            (429, b"slow down", Fault::RateLimited),
            (529, br#"{"type":"error","error":{"type":"overloaded_error"}}"#, Fault::Overloaded),
            (503, b"<html>", Fault::Overloaded),
            (500, b"{}", Fault::Failed),
            (408, b"", Fault::Failed),
            (400, br#"{"error":{"type":"invalid_request_error"}}"#, Fault::Final),
            (401, br#"{"error":"overloaded_error"}"#, Fault::Final),
            (404, b"[1]", Fault::Final),
        ] {
            assert_eq!(Fault::of_status(status, body), want, "{status} {}", String::from_utf8_lossy(body));
        }
    }
}
