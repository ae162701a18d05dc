//! What the simulated provider answers: the first rule that fits the prompt, else a fixed greeting.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// The answer to everything that no rule fits.
const GREETING: &str = "Hello from the simulated provider. No model was asked; this answer is the same every time.";

/// What of a request a rule looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The words of the last turn: what the user said, or what the tools returned.
    pub last: String,
    /// The last turn carries tools' results.
    pub after_tool: bool,
    /// Names of the tools on offer.
    pub tools: Vec<String>,
}

/// What to say and which tool to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Words, before the call when there is one; may be empty beside a call.
    pub text: String,
    /// One call of a tool. It is left out when the request does not offer that tool.
    pub tool: Option<ToolCall>,
}

/// A call of one of the client's tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Which one.
    pub name: String,
    /// Its arguments, an object; for a tool of the Responses format that takes free text, a text.
    pub input: Value,
}

impl Reply {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Reply { text: text.into(), tool: None }
    }

    /// A call of a tool, with nothing said.
    pub fn tool(name: impl Into<String>, input: Value) -> Self {
        Reply { text: String::new(), tool: Some(ToolCall { name: name.into(), input }) }
    }
}

type Test = Arc<dyn Fn(&Prompt) -> bool + Send + Sync>;

/// Rules in order.
#[derive(Clone, Default)]
pub struct Script(Vec<(Test, Reply)>);

impl Script {
    /// Adds a rule with any test.
    pub fn when(mut self, test: impl Fn(&Prompt) -> bool + Send + Sync + 'static, reply: Reply) -> Self {
        self.0.push((Arc::new(test), reply));
        self
    }

    /// Adds a rule for what a user says: `part` stands in the last turn, and that carries no tool's result.
    pub fn on(self, part: impl Into<String>, reply: Reply) -> Self {
        let part = part.into();
        self.when(move |prompt| !prompt.after_tool && prompt.last.contains(&part), reply)
    }

    /// Adds a rule for what a tool returned: `part` stands in the result.
    pub fn on_tool_result(self, part: impl Into<String>, reply: Reply) -> Self {
        let part = part.into();
        self.when(move |prompt| prompt.after_tool && prompt.last.contains(&part), reply)
    }

    pub(crate) fn reply(&self, prompt: &Prompt) -> Reply {
        let fits = |tool: &ToolCall| prompt.tools.contains(&tool.name);
        let mut reply =
            self.0.iter().find(|(test, _)| test(prompt)).map_or_else(|| Reply::text(GREETING), |(_, r)| r.clone());
        reply.tool = reply.tool.filter(fits);
        if reply.tool.is_none() && reply.text.is_empty() {
            reply.text = GREETING.into();
        }
        reply
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Script({} rules)", self.0.len())
    }
}

/// An answer within the output cap that the client set.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub text: String,
    pub tool: Option<ToolCall>,
    pub ended: Ended,
    /// Tokens that are written before it and not shown.
    pub thinking: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    ByItself,
    ByCap,
    ForTool,
}

impl Answer {
    /// Cuts the reply to `tokens_max`; a call that does not fit whole is left out.
    pub fn within(reply: Reply, tokens_max: Option<u64>) -> Answer {
        let bytes_max =
            tokens_max.map_or(usize::MAX, |max| usize::try_from(max.saturating_mul(4)).unwrap_or(usize::MAX));
        let Reply { mut text, tool } = reply;
        if text.len() > bytes_max {
            let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            return Answer { text, tool: None, ended: Ended::ByCap, thinking: 0 };
        }
        let Some(tool) = tool else { return Answer { text, tool: None, ended: Ended::ByItself, thinking: 0 } };
        if text.len() + tool.name.len() + tool.arguments().len() > bytes_max {
            return Answer { text, tool: None, ended: Ended::ByCap, thinking: 0 };
        }
        Answer { text, tool: Some(tool), ended: Ended::ForTool, thinking: 0 }
    }

    /// Bytes that count as output.
    pub fn bytes(&self) -> u64 {
        let tool = self.tool.as_ref().map_or(0, |tool| tool.name.len() + tool.arguments().len());
        (self.text.len() + tool) as u64
    }
}

impl ToolCall {
    /// The arguments as JSON text; a free text as it is.
    pub(crate) fn arguments(&self) -> String {
        self.input.as_str().map_or_else(|| self.input.to_string(), str::to_owned)
    }
}

/// Splits words into the parts that stream one by one: a word with the space after it.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

/// Splits JSON text as providers do: anywhere but within a character.
pub(crate) fn fragments(json: &str) -> Vec<String> {
    json.chars().collect::<Vec<_>>().chunks(12).map(|part| part.iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prompt(last: &str, after_tool: bool) -> Prompt {
        Prompt { last: last.into(), after_tool, tools: vec!["look".into()] }
    }

    #[test]
    fn the_first_rule_that_fits_answers() {
        let script = Script::default()
            .on("weather", Reply::tool("look", json!({"at": "sky"})))
            .on_tool_result("", Reply::text("It rains."));
        assert_eq!(script.reply(&prompt("the weather?", false)), Reply::tool("look", json!({"at": "sky"})));
        assert_eq!(script.reply(&prompt("the weather: rain", true)), Reply::text("It rains."));
        assert_eq!(script.reply(&prompt("hi", false)), Reply::text(GREETING));
    }

    #[test]
    fn a_tool_that_is_not_on_offer_is_not_called() {
        let script = Script::default().on("", Reply::tool("shell", json!({})));
        assert_eq!(script.reply(&prompt("hi", false)), Reply::text(GREETING));
    }

    #[test]
    fn the_cap_cuts_between_characters_and_drops_a_call_that_does_not_fit() {
        let cut = Answer::within(Reply::text("abcé!"), Some(1));
        assert_eq!((&cut.text[..], cut.ended), ("abc", Ended::ByCap));
        let call = Reply::tool("look", json!({}));
        assert_eq!(Answer::within(call.clone(), Some(1)).ended, Ended::ByCap);
        assert_eq!(Answer::within(call, None).ended, Ended::ForTool);
    }
}
