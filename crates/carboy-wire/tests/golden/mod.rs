//! Answers as the providers send them, written from the official SDKs' types and the providers' pages.

use carboy_wire::format::WireFormat::{self, AnthropicMessages, Gemini, OpenAiChat, OpenAiResponses};
use carboy_wire::meter::Shape;

/// A transcript and how it is written.
#[derive(Clone, Copy)]
pub struct Golden {
    pub name: &'static str,
    pub format: WireFormat,
    pub shape: Shape,
    pub text: &'static str,
}

macro_rules! golden {
    ($($format:ident $shape:ident $path:literal,)*) => {
        pub const ALL: &[Golden] =
            &[$(Golden { name: $path, format: $format, shape: Shape::$shape, text: include_str!($path) },)*];
    };
}

golden! {
    AnthropicMessages Events "anthropic/thinking.sse",
    AnthropicMessages Events "anthropic/tools.sse",
    AnthropicMessages Events "anthropic/compaction.sse",
    AnthropicMessages Events "anthropic/server_tool.sse",
    AnthropicMessages Events "anthropic/overloaded.sse",
    AnthropicMessages Whole "anthropic/whole.json",
    OpenAiChat Events "chat/text.sse",
    OpenAiChat Events "chat/tools.sse",
    OpenAiChat Events "chat/two_answers.sse",
    OpenAiChat Whole "chat/whole.json",
    OpenAiChat Whole "chat/hidden_reasoning.json",
    OpenAiChat Whole "chat/completion.json",
    OpenAiChat Whole "chat/embeddings.json",
    OpenAiResponses Events "responses/text.sse",
    OpenAiResponses Events "responses/tools.sse",
    OpenAiResponses Events "responses/incomplete.sse",
    OpenAiResponses Events "responses/failed.sse",
    OpenAiResponses Events "responses/failed_silent.sse",
    OpenAiResponses Messages "responses/socket.jsonl",
    OpenAiResponses Whole "responses/whole.json",
    Gemini Events "gemini/text.sse",
    Gemini List "gemini/list.json",
    Gemini Whole "gemini/whole.json",
}

/// Those that come in events.
pub fn streams() -> impl Iterator<Item = Golden> {
    ALL.iter().copied().filter(|golden| golden.shape == Shape::Events)
}
