//! What a message may be before anybody judges what it says (G14, G62).
//!
//! Characters that are not to be seen go first, and only then is the length looked at: a thousand NULs are an empty
//! message, and a short one stays short. *Must never* let a message on that a person and a program read differently.

use carboy_core::chat::ChatLimits;
use carboy_guard::plain;

use crate::outcome::TurnError;

/// A message that can be judged: no control characters but line feeds, nothing invisible, not empty, not too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanText(String);

impl CleanText {
    /// The message.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The message, owned.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// What is wrong with a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInput {
    /// Nothing to read in it.
    #[error("the message is empty: write what you would like to know")]
    Empty,
    /// Longer than is read.
    #[error("the message has {chars} characters, the limit is {chars_max} (message_chars_max): shorten it")]
    TooLong {
        /// What it has, without what is not to be seen.
        chars: usize,
        /// What is read.
        chars_max: u32,
    },
}

impl From<InvalidInput> for TurnError {
    fn from(invalid: InvalidInput) -> TurnError {
        TurnError::Invalid { problem: invalid.to_string() }
    }
}

/// Reads a message.
pub fn clean(message: &str, limits: &ChatLimits) -> Result<CleanText, InvalidInput> {
    let text = plain::visible(message);
    let text = text.trim();
    if text.is_empty() {
        return Err(InvalidInput::Empty);
    }
    let chars = text.chars().count();
    if chars > limits.message_chars_max as usize {
        return Err(InvalidInput::TooLong { chars, chars_max: limits.message_chars_max });
    }
    Ok(CleanText(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(message_chars_max: u32) -> ChatLimits {
        ChatLimits { message_chars_max, ..ChatLimits::default() }
    }

    #[test]
    fn g14_control_characters_go_before_the_length_is_looked_at() {
        let message = format!("{}hello{}", "\0".repeat(5_000), "\u{200b}".repeat(5_000));
        assert_eq!(clean(&message, &limit(5)).unwrap().as_str(), "hello");
        assert_eq!(clean("\0\u{7}\u{202e} \n\t", &limit(5)), Err(InvalidInput::Empty));
        assert_eq!(clean("", &limit(5)), Err(InvalidInput::Empty));
    }

    #[test]
    fn g62_a_message_of_the_most_characters_passes_and_one_more_does_not() {
        assert!(clean("ééééé", &limit(5)).is_ok());
        let error = clean("éééééé", &limit(5)).unwrap_err();
        assert_eq!(error.to_string(), "the message has 6 characters, the limit is 5 (message_chars_max): shorten it");
    }

    #[test]
    fn g14_bidi_tag_and_zero_width_characters_do_not_pass() {
        let text = clean("re\u{202e}turn\u{2066} \u{e0069}\u{e0067}BK\u{200d}-1001\nplease", &limit(99)).unwrap();
        assert_eq!(text.as_str(), "return BK-1001\nplease");
    }
}
