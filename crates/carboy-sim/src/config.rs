//! What a simulated provider is started with.

use std::fmt;

use crate::faults::Faults;
use crate::script::Script;

/// What a simulated provider is started with. [`Config::default`] is what the tour uses.
#[derive(Clone)]
pub struct Config {
    /// The one key that `/v1/messages` and its siblings take, as `x-api-key` or `Authorization: Bearer`.
    pub anthropic_key: String,
    /// The one key that OpenAI's endpoints take, as `Authorization: Bearer`.
    pub openai_key: String,
    /// The one token that the ChatGPT subscription's endpoints take, as `Authorization: Bearer`.
    pub chatgpt_token: String,
    /// The one account that they serve: the field `chatgpt-account-id` has to name it.
    pub chatgpt_account: String,
    /// The one key that Gemini's endpoints take, as `x-goog-api-key`.
    pub gemini_key: String,
    /// Names (and addresses) in the certificate, besides `localhost`, `127.0.0.1` and `::1`.
    pub names: Vec<String>,
    /// What the TLS listener offers.
    pub alpn: Alpn,
    /// What it answers.
    pub script: Script,
    /// How it fails; a request's own `x-sim-fault` field takes precedence.
    pub faults: Faults,
}

/// Which protocols the TLS listener offers. The plain listener takes HTTP/1.1 and HTTP/2 with prior knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    /// `h2` and `http/1.1`.
    #[default]
    Both,
    /// `http/1.1` alone.
    Http1Only,
    /// `h2` alone.
    Http2Only,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            anthropic_key: "sk-ant-sim-real-key".into(),
            openai_key: "sk-sim-real-key".into(),
            chatgpt_token: "sim-real-chatgpt-token".into(),
            chatgpt_account: "sim-account".into(),
            gemini_key: "AIza-sim-real-key".into(),
            names: Vec::new(),
            alpn: Alpn::default(),
            script: Script::default(),
            faults: Faults::default(),
        }
    }
}

impl fmt::Debug for Config {
    /// Without the keys: a test may start it with one that must not be shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("names", &self.names).field("alpn", &self.alpn).finish_non_exhaustive()
    }
}
