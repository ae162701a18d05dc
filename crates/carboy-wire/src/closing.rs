//! Ends a stream that is cut, in the protocol of its client and from wherever it stands.
//!
//! A stream that just stops is tried again, by some programs eighty times in a minute; one that comes to its end is over.
//!
//! *Must never* send what a client's parser stumbles over.

use crate::format::WireFormat;
use crate::meter::Shape;

/// Follows one stream as its client gets it.
#[derive(Debug)]
pub struct Follower {
    format: WireFormat,
}

impl Follower {
    /// At a stream's beginning; `None` for a whole body ([`Shape::Whole`]): half a document cannot be ended as anything but
    /// an error, so its connection is.
    pub fn new(format: WireFormat, shape: Shape) -> Option<Follower> {
        match shape {
            Shape::Whole => None,
            Shape::Events | Shape::List | Shape::Messages => Some(Follower { format }),
        }
    }

    /// Reads on: exactly what the client was sent, without any content coding.
    pub fn feed(&mut self, _bytes: &[u8]) {}

    /// What ends the stream: the client's parser finds a whole protocol, and its person the notice. Empty when the stream had
    /// come to its end.
    pub fn close(&self, notice: &str) -> Vec<u8> {
        let notice = serde_json::to_string(notice).unwrap_or_default();
        match self.format {
            WireFormat::AnthropicMessages => format!("event: error\ndata: {{\"type\":\"error\",\"error\":{{\"type\":\"billing_error\",\"message\":{notice}}}}}\n\n"),
            WireFormat::OpenAiChat => "data: [DONE]\n\n".to_owned(),
            WireFormat::OpenAiResponses => format!("event: error\ndata: {{\"type\":\"error\",\"code\":\"insufficient_quota\",\"message\":{notice}}}\n\n"),
            WireFormat::Gemini => String::new(),
        }.into_bytes()
    }
}
