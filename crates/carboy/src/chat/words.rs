//! What a person reads where a turn did not come about: each kind in words of its own (G76–G80).
//!
//! *Must never* be printed without its control characters taken out: some of it is what a server said.

use carboy_control::chat::TurnError;

/// The words, in the place of a reply.
pub fn refusal(error: &TurnError) -> String {
    match error {
        TurnError::Injection { .. } => format!("🛡️ Security policy violation: {error}"),
        TurnError::RateLimited { .. } => format!("🚫 Rate limit exceeded: {error}"),
        TurnError::Invalid { .. } | TurnError::SessionOver { .. } | TurnError::CardOver { .. } => {
            format!("❌ Error: {error}")
        }
        TurnError::Model(_) | TurnError::TooLate { .. } => format!("⚠️ The model gave no answer: {error}"),
        TurnError::Unavailable { .. } => format!("⚠️ Nothing is answered now: {error}"),
    }
}

/// Is it this program's or the provider's failure, and not a rule's word?
pub fn is_failure(error: &TurnError) -> bool {
    match error {
        TurnError::Injection { .. }
        | TurnError::RateLimited { .. }
        | TurnError::Invalid { .. }
        | TurnError::SessionOver { .. }
        | TurnError::CardOver { .. } => false,
        TurnError::Model(_) | TurnError::TooLate { .. } | TurnError::Unavailable { .. } => true,
    }
}

/// A tool's arguments that were none (G77, G78).
pub fn invalid_arguments(field: &str, problem: &str) -> String {
    format!("❌ Error: 1 validation error for ToolInput\n{field}\n  {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g73b_refusals_are_worded_exactly() {
        let patterns = vec!["instruction_override".to_owned(), "prompt_extraction".to_owned()];
        assert_eq!(
            refusal(&TurnError::Injection { confidence_percent: 90, patterns }),
            "🛡️ Security policy violation: Your input appears to contain instructions that could compromise security. Input \
             flagged as potentially malicious (confidence: 90%). Detected patterns: instruction_override, prompt_extraction."
        );
        assert_eq!(
            refusal(&TurnError::RateLimited { max: 100, window: "hour", retry_after_s: 1 }),
            "🚫 Rate limit exceeded: Rate limit exceeded. Max 100 requests per hour."
        );
        assert_eq!(
            invalid_arguments("expression", "Expression contains forbidden pattern"),
            "❌ Error: 1 validation error for ToolInput\nexpression\n  Expression contains forbidden pattern"
        );
    }
}
